"""A density of rows learned by noise contrastive estimation."""

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F

from ..annotations import Device, RandomState
from ..contexts import plain, seeded
from ..io.persistence import SaveMixin
from ..nn.layers import StoredNetwork, mlp
from ..nn.losses import nce_loss
from ..nn.training import Objective, split_off, train, training_settings
from ..runtime import aside, checked_table, exact_dtype, make_generator, resolve_device
from ..validation import check_count, check_fraction, check_number
from .gaussian import shrunk_gaussian

_N_WATCHED = 4096  # noise samples that estimate the model's total mass


class LogitMLP(StoredNetwork):
    """Logits (n,) of rows (n, n_features): an MLP whose initial output is constant.

    Parameters
    ----------
    n_features : int
        Number of columns.
    hidden : sequence of int
        Widths of the hidden layers.
    start : float, default=0.0
        The initial output.

    Examples
    --------
    >>> LogitMLP(3, (8,), start=-1.0)(torch.rand(2, 3)).tolist()
    [-1.0, -1.0]
    """

    def __init__(self, n_features: int, hidden: Sequence[int], start: float = 0.0):
        super().__init__()
        self.arguments = {"n_features": n_features, "hidden": list(hidden), "start": start}
        self.layers = mlp(n_features, hidden, 1, norm=False)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.constant_(self.layers[-1].bias, start)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layers(rows)[:, 0]


class NCEDensity(SaveMixin, DensityMixin, BaseEstimator):
    r"""Density by noise contrastive estimation, with Gaussian noise that adapts to the data.

    The noise :math:`p_n` is a Gaussian with the mean :math:`\mu` and covariance :math:`S` of the
    data, refined: :math:`f = \mu + S^{1/2} A \epsilon`, where :math:`A` is diagonal with entries
    :math:`1 + \mathrm{softplus}(a) \geq 1`, so that the noise only ever widens. A network :math:`h`
    learns the logit of "data, not noise" while :math:`a` learns to make that hard. The log-density
    is

    .. math:: \log p(f) = h(f) + \log \nu + \log p_n(f)

    with :math:`\nu` the ``noise_ratio``. Far from the data, where the network has seen nothing, it
    falls with the square of the distance, as the noise does.

    Parameters
    ----------
    noise_ratio : int, default=5
        Number of noise samples for each row.
    hidden : tuple of int, default=(128, 64)
        Widths of the hidden layers.
    epochs : int, default=60
        Passes over the training rows. 0 trains nothing: the density is the Gaussian.
    refine_noise : bool, default=True
        Learn :math:`A`; False keeps the identity.
    n_lowered : int, default=0
        Number of last columns that are errors, which are never negative. In training, half of the
        rows have theirs replaced by lower ones, so that no row is called anomalous for its small
        errors: by draws from the noise's marginal Gaussians, truncated to between 0 and the mode of
        a log-normal with the column's mean and variance. On that interval the density of each
        column cannot fall below the noise's.
    train_batch_size : int, default=128
        Rows of a training step.
    learning_rate : float, default=0.001
        Learning rate of the optimizer, which is AdamW on a cosine schedule.
    noise_learning_rate : float, default=0.01
        Learning rate of :math:`a`, which climbs what the network descends.
    weight_decay : float, default=0.01
        Weight decay of the optimizer.
    validation_fraction : float, default=0.1
        Fraction of the rows not trained on but watched: the weights, and their noise, with the
        lowest negative log-density of these rows are kept, or the Gaussian alone if its is lower.
        The model's total mass is taken into account. 0 keeps the last weights, which is better for
        many rows of few columns.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random: initial weights, batches, noise and lowered columns.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    mean_ : torch.Tensor of shape (d,)
        :math:`\mu`.
    root_ : torch.Tensor of shape (d, d)
        :math:`S^{1/2}`: the symmetric root of the correlations, with Ledoit and Wolf's shrinkage,
        times the columns' standard deviations.
    scale_ : torch.Tensor of shape (d,)
        The diagonal of :math:`A`.
    network_ : LogitMLP
        :math:`h`, of whitened rows :math:`S^{-1/2}(f - \mu)`.
    modes_ : torch.Tensor of shape (n_lowered,)
        Errors below these count as low.
    history_ : list of dict
        Losses by epoch; see :func:`~anomalib_lite.nn.train`. ``"held_out"`` is the mean negative
        log-density, in nats, of the whitened rows not trained on.
    n_features_in_ : int
        Number of columns.

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
        noise_ratio: int = 5,
        hidden: Sequence[int] = (128, 64),
        epochs: int = 60,
        refine_noise: bool = True,
        n_lowered: int = 0,
        train_batch_size: int = 128,
        learning_rate: float = 1e-3,
        noise_learning_rate: float = 1e-2,
        weight_decay: float = 1e-2,
        validation_fraction: float = 0.1,
        device: Device = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.noise_ratio = noise_ratio
        self.hidden = hidden
        self.epochs = epochs
        self.refine_noise = refine_noise
        self.n_lowered = n_lowered
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.noise_learning_rate = noise_learning_rate
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- fitting ----------------------------------------------------------------------------------

    @plain
    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn the density of rows.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
            Rows of finite numbers, at least two.
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter or ``X`` is invalid, or if all rows are the same. A fit that fails leaves
            the estimator as it was before.
        """
        with aside(self) as learner:
            learner._fit(X)
        return self

    def _fit(self, X):
        self._check_params()
        device = resolve_device(self.device)
        X = checked_table(self, X, ensure_min_samples=2)
        if self.n_lowered > X.shape[1]:
            raise ValueError(
                f"n_lowered: expected at most {X.shape[1]}, the number of columns, got "
                f"{self.n_lowered}."
            )
        generator = make_generator(self.random_state)
        rows = torch.from_numpy(np.array(X, order="C")).to(device, exact_dtype(device))
        self._fit_noise(rows)
        with seeded(generator):
            network = LogitMLP(len(self.mean_), self.hidden, -math.log(self.noise_ratio))
        self.network_ = network.to(device, rows.dtype)
        self.history_ = self._train(rows, generator)
        self.network_.requires_grad_(False)

    def _check_params(self) -> None:
        """Raise ValueError if a parameter is invalid, whatever the data."""
        for name in ("noise_ratio", "train_batch_size"):
            check_count(name, getattr(self, name))
        for name in ("epochs", "n_lowered"):
            check_count(name, getattr(self, name), minimum=0)
        for name in ("learning_rate", "noise_learning_rate", "weight_decay"):
            check_number(name, getattr(self, name), minimum=0)
        for width in self.hidden:
            check_count("hidden", width)
        check_fraction("validation_fraction", self.validation_fraction)

    def _fit_noise(self, rows):
        """Set the Gaussian of the rows, not yet refined."""
        self.mean_, self.root_, self._whitener_ = shrunk_gaussian(rows)
        self._volume_ = -torch.linalg.slogdet(self._whitener_).logabsdet
        self._log_ratio_ = math.log(self.noise_ratio)
        self.scale_ = torch.ones_like(self.mean_)
        first = len(self.mean_) - self.n_lowered
        self.modes_ = log_normal_mode(self.mean_, self.root_.square().sum(1))[first:]

    def _train(self, rows, generator):
        """Train network and noise, keep the best of both, and return the history."""
        samples, held_out = split_off(len(rows), self.validation_fraction, generator)
        if not (self.epochs and len(samples)):
            return []
        noise = WideningNoise(len(self.mean_), -5.0 if self.refine_noise else -50.0).to(rows)
        contrast = Contrast(self, noise, rows)
        objectives = [
            Objective(
                contrast.network_loss,
                self.network_.parameters(),
                watched=contrast.negative_log_density,
            )
        ]
        if self.refine_noise:
            rate = self.noise_learning_rate
            objectives.append(
                Objective(contrast.noise_loss, noise.parameters(), "noise", learning_rate=rate)
            )
        history = train(
            objectives,
            nn.ModuleList([self.network_, noise]),
            samples,
            device=rows.device,
            generator=generator,
            optimizer="adamw",
            held_out=held_out if len(held_out) else None,
            or_first=True,
            **training_settings(self),
        )
        self.scale_ = noise.scale.detach()
        return history

    def _whiten(self, rows):
        return (rows - self.mean_) @ self._whitener_

    # -- scoring ----------------------------------------------------------------------------------

    @plain
    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Log-density of each row, in nats: lower = more anomalous.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        X = checked_table(self, X, reset=False)
        scores = self.log_density(torch.from_numpy(np.array(X, order="C")))
        return scores.cpu().numpy().astype(np.float64)

    def log_density(self, rows: torch.Tensor) -> torch.Tensor:
        """:meth:`score_samples` (n,) of a tensor (n, n_features), as a differentiable tensor."""
        white = self._whiten(rows.to(self.mean_))
        log_noise = _log_normal(white, self.scale_) - self._volume_
        return self.network_(white) + self._log_ratio_ + log_noise

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Total log-density of the rows, in nats."""
        return float(self.score_samples(X).sum())


class NCEHead(nn.Module):
    """Minus the log-density of a fitted :class:`NCEDensity`, in plain operations."""

    def __init__(self, density: NCEDensity):
        super().__init__()
        self._density = density

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        return -self._density.log_density(rows).double()


# -- training -------------------------------------------------------------------------------------


class WideningNoise(nn.Module):
    r"""Centered Gaussian noise in whitened coordinates, with learned deviations of at least 1.

    Parameters
    ----------
    n_features : int
        Number of columns.
    start : float
        Initial :math:`a`; the deviations are :math:`1 + \mathrm{softplus}(a)`.
    """

    def __init__(self, n_features: int, start: float):
        super().__init__()
        self.growth = nn.Parameter(
            torch.full((n_features,), start, device="cpu", dtype=torch.float32)
        )

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviations (n_features,)."""
        return 1 + F.softplus(self.growth)

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw (n, n_features); gradients reach the deviations."""
        shape = n, len(self.growth)
        epsilon = torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")
        return self.scale * epsilon.to(self.growth)

    def log_density(self, white: torch.Tensor) -> torch.Tensor:
        """Log-density (n,) of whitened rows (n, n_features)."""
        return _log_normal(white, self.scale)


class Contrast:
    """The losses of network and noise: functions of (index of rows, generator).

    Parameters
    ----------
    density : NCEDensity
        With its mean, root, modes and network.
    noise : WideningNoise
        The noise to tell its rows from.
    rows : torch.Tensor of shape (n, d)
        All rows.
    """

    def __init__(self, density: NCEDensity, noise: WideningNoise, rows: torch.Tensor):
        self.density, self.noise, self.rows = density, noise, rows

    def network_loss(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """The NCE loss of the network's logits."""
        data, drawn, _ = self._logits(index, generator)
        return nce_loss(data, drawn, self.density.noise_ratio)

    def noise_loss(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Minus the NCE loss, whose gradient reaches the noise's samples and density."""
        data, drawn, log_noise = self._logits(index, generator)
        log_density = (data + log_noise).detach()
        return -nce_loss(log_density - log_noise, drawn, self.density.noise_ratio)

    def negative_log_density(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Of whitened rows, in nats; normalized by the total mass that noise samples estimate."""
        data, _, log_noise = self._logits(index, generator)
        drawn = self.noise.sample(_N_WATCHED, generator)
        log_mass = self.density.network_(drawn).logsumexp(0) - math.log(_N_WATCHED)
        return log_mass - (data + log_noise).mean()

    def _logits(self, index, generator):
        """Logits of data and noise, and the data's log-density under the noise."""
        network, noise = self.density.network_, self.noise
        data = self.density._whiten(self.data(index, generator))
        drawn = noise.sample(self.density.noise_ratio * len(index), generator)
        return network(data), network(drawn), noise.log_density(data)

    def data(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Rows of the index, with every other one's errors lowered if the density asks for it."""
        rows, n = self.rows[index.to(self.rows.device)], self.density.n_lowered
        if n == 0:
            return rows
        with torch.no_grad():
            std = (self.density.root_[-n:] * self.noise.scale).square().sum(1).sqrt()
        return lower_errors(rows, self.density.mean_[-n:], std, self.density.modes_, generator)


def lower_errors(
    rows: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    modes: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Rows (n, d) with the last m columns of every other row replaced by lower errors.

    Parameters
    ----------
    rows : torch.Tensor of shape (n, d)
        Not changed.
    mean, std, modes : torch.Tensor of shape (m,)
        Of each column, a Gaussian to draw from and the upper end of the interval [0, mode] that it
        is truncated to.
    generator : torch.Generator
        The CPU's.

    Returns
    -------
    rows : torch.Tensor of shape (n, d)
        Rows 0, 2, 4, ... are the changed ones.
    """
    rows = rows.clone()
    lowered = rows[::2, -len(modes) :]  # (ceil(n / 2), m), a view
    draws = torch.rand(lowered.shape, dtype=torch.float64, generator=generator, device="cpu")
    lowered.copy_(truncated_normal(draws.to(lowered), mean, std, modes))
    return rows


def _log_normal(white, scale):
    """Log-density (n,) of rows (n, d) under N(0, diag(scale²))."""
    constant = math.log(2 * math.pi) / 2 * white.shape[1]
    return -(white / scale).square().sum(1) / 2 - scale.log().sum() - constant


def log_normal_mode(mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    """Mode of the log-normal distribution with this mean and variance, elementwise."""
    return mean**4 / (mean**2 + variance) ** 1.5


def truncated_normal(
    draws: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Turn uniform draws in [0, 1] into normal ones truncated to [0, ``high``].

    Parameters
    ----------
    draws : torch.Tensor of shape (n, ...)
        Uniform draws.
    mean, std, high : torch.Tensor
        Of the normal distribution, and the upper end; they broadcast to ``draws``.

    Returns
    -------
    values : torch.Tensor of shape (n, ...)

    Examples
    --------
    >>> mean, std, high = torch.tensor([0.5, 0.2, 1.0])
    >>> truncated_normal(torch.tensor([0.0, 0.5, 1.0]), mean, std, high).round(decimals=4).tolist()
    [0.0, 0.5, 1.0]
    """
    low_cdf, high_cdf = (torch.special.ndtr((end - mean) / std) for end in (0, high))
    values = torch.special.ndtri(low_cdf + draws * (high_cdf - low_cdf)) * std + mean
    return values.clamp_min(0).minimum(high)
