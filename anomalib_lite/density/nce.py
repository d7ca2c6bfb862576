"""A density of rows learned by telling them from noise."""

import math

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn
from torch.nn import functional as F

from ..io.persistence import SaveMixin
from ..nn.layers import StoredNetwork, mlp
from ..nn.losses import nce_loss
from ..nn.training import Objective, split_off, train
from ..runtime import all_or_nothing, exact_dtype, make_generator, resolve_device, seeded
from ..validation import check_count, check_fraction, check_number
from .gaussian import shrunk_gaussian


class LogitMLP(StoredNetwork):
    """Log-odds (n,) of rows (n, n_features): an MLP that begins as a constant.

    Parameters
    ----------
    n_features : int
    hidden : sequence of int
    start : float, default=0.0
        The constant.

    Examples
    --------
    >>> LogitMLP(3, (8,), start=-1.0)(torch.rand(2, 3)).tolist()
    [-1.0, -1.0]
    """

    def __init__(self, n_features, hidden, start=0.0):
        super().__init__()
        self.arguments = {"n_features": n_features, "hidden": list(hidden), "start": start}
        self.layers = mlp(n_features, hidden, 1, norm=False)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.constant_(self.layers[-1].bias, start)

    def forward(self, rows):
        return self.layers(rows)[:, 0]


_N_WATCHED = 4096  # samples of noise by which the model's total mass is judged


class NCEDensity(SaveMixin, DensityMixin, BaseEstimator):
    r"""A density by noise contrastive estimation, from a Gaussian that learns to fit the data.

    The noise :math:`p_n` is a Gaussian with mean :math:`\mu` and covariance :math:`S` of the data,
    refined: :math:`f = \mu + S^{1/2} A \epsilon`, :math:`A` diagonal with entries
    :math:`1 + \mathrm{softplus}(a) \geq 1`, so that it only ever grows wider. A network :math:`h`
    learns the log-odds "data against noise" while :math:`a` learns to make that hard. The
    log-density is

    .. math:: \log p(f) = h(f) + \log \nu + \log p_n(f)

    which far from the data, where the network has seen nothing, falls with the square of the
    distance, as the noise does.

    Parameters
    ----------
    nu : int, default=5
        Samples of noise for each of the data.
    hidden : tuple of int, default=(128, 64)
        Widths of the network's hidden layers.
    epochs : int, default=60
        0 trains nothing and leaves the Gaussian.
    refine_noise : bool, default=True
        Learn :math:`A`; False keeps the identity.
    n_lowered : int, default=0
        So many last columns are errors, which are never negative. Half of the data then have them
        replaced by lower ones, so that no row is called anomalous because its errors are small:
        by draws from the noise's own marginal Gaussians, cut off at 0 and at the mode of a
        log-normal with the column's mean and variance. On that interval the density of each such
        column cannot fall below the noise's.
    batch_size : int, default=128
    learning_rate : float, default=0.001
        Of the network, by AdamW, cosine schedule.
    noise_learning_rate : float, default=0.01
        Of :math:`a`, which climbs on what the network descends.
    weight_decay : float, default=0.01
    validation_fraction : float, default=0.1
        Share of the rows that are not trained on but watched: the weights, and the noise that
        belongs to them, with the lowest negative log-density are kept, the model's total mass taken
        into account; and if the Gaussian alone has a lower one, it is. 0 keeps the last weights,
        which is better where rows are many and short.
    device : str or torch.device, default="auto"
    random_state : None, int, RandomState or Generator, default=None
        Draws first weights, batches, noise and lowered columns.
    verbose : bool, default=False

    Attributes
    ----------
    mean_ : torch.Tensor of shape (d,)
    root_ : torch.Tensor of shape (d, d)
        :math:`S^{1/2}`: the symmetric root of the correlations, shrunk as Ledoit and Wolf do, times
        the columns' deviations.
    scale_ : torch.Tensor of shape (d,)
        The diagonal of :math:`A`.
    network_ : LogitMLP
        :math:`h`, of whitened rows :math:`S^{-1/2}(f - \mu)`.
    modes_ : torch.Tensor of shape (n_lowered,)
        Below which errors are low.
    history_ : list of dict
        Losses by epoch; see :func:`~anomalib_lite.nn.train`. ``"held_out"`` is the negative
        log-density of held-out rows, in nats.
    n_features_in_ : int

    References
    ----------
    M. Gutmann, A. Hyvärinen, "Noise-contrastive estimation of unnormalized statistical models, with
    applications to natural image statistics", JMLR 13 (2012). Z. Liao, A. J. Brockmeier, "Anomaly
    Detection via Autoencoder Composite Features and NCE", 2025.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = rng.normal(rng.choice([-4, 4], 500)[:, None], 1, (500, 2))  # two clusters
    >>> density = NCEDensity(random_state=0).fit(rows)
    >>> between, within = density.score_samples([[0, 0], [4, 4]])
    >>> bool(between < within)
    True
    """

    def __init__(
        self,
        *,
        nu=5,
        hidden=(128, 64),
        epochs=60,
        refine_noise=True,
        n_lowered=0,
        batch_size=128,
        learning_rate=1e-3,
        noise_learning_rate=1e-2,
        weight_decay=1e-2,
        validation_fraction=0.1,
        device="auto",
        random_state=None,
        verbose=False,
    ):
        self.nu = nu
        self.hidden = hidden
        self.epochs = epochs
        self.refine_noise = refine_noise
        self.n_lowered = n_lowered
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.noise_learning_rate = noise_learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- fitting ----------------------------------------------------------------------------------

    def fit(self, X, y=None):
        """Learn the density of rows.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter makes no sense, if ``X`` is not a table of finite numbers with two rows
            at least, or if its rows are all the same.
        """
        with all_or_nothing(self):
            self._fit(X)
        return self

    def _fit(self, X):
        self._check_params()
        device = resolve_device(self.device)
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if self.n_lowered > X.shape[1]:
            raise ValueError(f"n_lowered: {self.n_lowered} columns of {X.shape[1]}.")
        generator = make_generator(self.random_state)
        rows = torch.from_numpy(np.array(X, order="C")).to(device, exact_dtype(device))
        self.mean_, self.root_, whitener = shrunk_gaussian(rows)
        self._whitener_ = whitener
        self._volume_ = -torch.linalg.slogdet(whitener).logabsdet
        self._log_nu_ = math.log(self.nu)
        self.scale_ = torch.ones_like(self.mean_)
        first = len(self.mean_) - self.n_lowered
        self.modes_ = log_normal_mode(self.mean_, self.root_.square().sum(1))[first:]
        with torch.device("cpu"), seeded(generator, device):
            network = LogitMLP(len(self.mean_), self.hidden, -math.log(self.nu))
        self.network_ = network.to(device, rows.dtype)
        with torch.inference_mode(False):
            self.history_ = self._train(rows.clone(), generator)
        self.network_.requires_grad_(False)

    def _check_params(self):
        for name in ("nu", "batch_size"):
            check_count(name, getattr(self, name))
        for name in ("epochs", "n_lowered"):
            check_count(name, getattr(self, name), minimum=0)
        for name in ("learning_rate", "noise_learning_rate", "weight_decay"):
            check_number(name, getattr(self, name), minimum=0)
        for width in self.hidden:
            check_count("hidden", width)
        check_fraction("validation_fraction", self.validation_fraction)

    def _train(self, rows, generator):
        """The history; leaves network and noise at their best."""
        samples, held_out = split_off(len(rows), self.validation_fraction, generator)
        if not (self.epochs and len(samples)):
            return []
        noise = _Noise(len(self.mean_), -5.0 if self.refine_noise else -50.0).to(rows)

        def contrast(index, generator):
            """Log-odds of data and noise, and the data's log-density under the noise."""
            data = self._whiten(self._lowered(rows[index.to(rows.device)], noise, generator))
            drawn = noise.sample(self.nu * len(index), generator)
            return self.network_(data), self.network_(drawn), noise.log_density(data)

        def loss(index, generator):
            data, drawn, _ = contrast(index, generator)
            return nce_loss(data, drawn, self.nu)

        def ascent(index, generator):
            data, drawn, log_noise = contrast(index, generator)
            density = (data + log_noise).detach()
            return -nce_loss(density - log_noise, drawn, self.nu)

        def negative_log_density(index, generator):
            data, _, log_noise = contrast(index, generator)
            mass = self.network_(noise.sample(_N_WATCHED, generator)).logsumexp(0)
            return mass - math.log(_N_WATCHED) - (data + log_noise).mean()

        rate = self.noise_learning_rate
        objectives = [
            Objective(loss, self.network_.parameters(), watched=negative_log_density),
            Objective(ascent, noise.parameters(), "noise", learning_rate=rate),
        ]
        history = train(
            objectives if self.refine_noise else objectives[:1],
            torch.nn.ModuleList([self.network_, noise]),
            samples,
            device=rows.device,
            generator=generator,
            epochs=self.epochs,
            batch_size=self.batch_size,
            optimizer="adamw",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            held_out=held_out if len(held_out) else None,
            or_first=True,
            verbose=self.verbose,
        )
        self.scale_ = noise.scale.detach()
        return history

    def _lowered(self, rows, noise, generator):
        """Rows of which every other has its errors replaced by lower ones."""
        n = self.n_lowered
        if n == 0:
            return rows
        rows = rows.clone()
        first = rows.shape[1] - n
        some = rows[::2, first:]  # (m, n), a view
        with torch.no_grad():
            std = (self.root_[first:] * noise.scale).square().sum(1).sqrt()
        draws = torch.rand(some.shape, dtype=torch.float64, generator=generator, device="cpu")
        some.copy_(truncated_normal(draws.to(some), self.mean_[first:], std, self.modes_))
        return rows

    def _whiten(self, rows):
        return (rows - self.mean_) @ self._whitener_

    # -- scoring ----------------------------------------------------------------------------------

    def score_samples(self, X):
        """Log-density of each row, in nats: lower = more anomalous.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        scores = self.log_density(torch.from_numpy(np.array(X, order="C")))
        return scores.cpu().numpy().astype(np.float64)

    def log_density(self, rows):
        """:meth:`score_samples` (n,) of a tensor (n, n_features), as a tensor, differentiable."""
        white = self._whiten(rows.to(self.mean_))
        log_noise = _log_normal(white, self.scale_) - self._volume_
        return self.network_(white) + self._log_nu_ + log_noise

    def score(self, X, y=None):
        """Total log-density of the rows, in nats."""
        return float(self.score_samples(X).sum())


class _Noise(torch.nn.Module):
    """Centered Gaussian noise in whitened coordinates, never narrower than 1."""

    def __init__(self, n_features, start):
        super().__init__()
        self.growth = torch.nn.Parameter(torch.full((n_features,), start, device="cpu"))

    @property
    def scale(self):
        return 1 + F.softplus(self.growth)

    def sample(self, n, generator):
        """(n, n_features), through which gradients reach the scale."""
        shape = n, len(self.growth)
        epsilon = torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")
        return self.scale * epsilon.to(self.growth)

    def log_density(self, white):
        return _log_normal(white, self.scale)


def _log_normal(white, scale):
    """Log-density (n,) of rows (n, d) under N(0, diag(scale²))."""
    constant = math.log(2 * math.pi) / 2 * white.shape[1]
    return -(white / scale).square().sum(1) / 2 - scale.log().sum() - constant


def log_normal_mode(mean, variance):
    """Mode of the log-normal distribution with that mean and variance."""
    return mean**4 / (mean**2 + variance) ** 1.5


def truncated_normal(draws, mean, std, high):
    """Uniform draws in [0, 1] made normal ones in [0, ``high``].

    Examples
    --------
    >>> mean, std, high = torch.tensor([0.5, 0.2, 1.0])
    >>> truncated_normal(torch.tensor([0.0, 0.5, 1.0]), mean, std, high).round(decimals=4).tolist()
    [0.0, 0.5, 1.0]
    """
    low_share, high_share = (torch.special.ndtr((end - mean) / std) for end in (0, high))
    values = torch.special.ndtri(low_share + draws * (high_share - low_share)) * std + mean
    return values.clamp_min(0).minimum(high)
