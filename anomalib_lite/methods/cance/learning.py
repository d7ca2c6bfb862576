"""Fitting of autoencoders and of densities of their composites, whatever the inputs are."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from sklearn.base import clone

from ...contexts import seeded
from ...density.heads import folds
from ...density.nce import NCEDensity
from ...nn.autoencoders import Autoencoder, ConvAutoencoder, LinearAutoencoder, MLPAutoencoder
from ...nn.course import portion, side_by_side
from ...nn.training import Objective, split_off, train, training_settings
from ...runtime import draw_seed, make_generator, normal
from ...validation import check_enough
from .composites import CompositeModel, composite_features, scored_part

if TYPE_CHECKING:
    from .detector import CANCE

TRAINED = ("autoencoder", "mlp")  # the values of ``backbone`` that name networks to train
_ROUNDING = 1e-6  # what inputs differ by at least, in pixel values, features or standard deviations
_SAME = 1e-6  # standard deviations of scores that are none, in distances between scores


class Learned(NamedTuple):
    """What :meth:`CompositeLearner.learn` learns from inputs.

    Attributes
    ----------
    model : CompositeModel
        Of all inputs.
    composites : torch.Tensor of shape (n, latent_dim + 2)
        What its density is fitted on.
    anomaly_scores : ndarray of shape (n,)
        Out of sample.
    history : list of dict
        Of the autoencoder's training.
    """

    model: CompositeModel
    composites: torch.Tensor
    anomaly_scores: np.ndarray
    history: list[dict[str, float]]


class CompositeLearner:
    """Fits composite models as a detector's parameters say.

    Parameters
    ----------
    params : CANCE
        Whose parameters, and ``device_``, count; it is not changed.
    generator : torch.Generator
        The CPU's. A seed of folds and densities is drawn from it at once.
    """

    def __init__(self, params: "CANCE", generator: torch.Generator):
        self._params = params
        self._generator = generator
        self._seed = draw_seed(generator)

    def learn(self, x: torch.Tensor) -> Learned:
        """Fit a model on inputs (n, ...), and score each input by a model fitted without it."""
        check_enough(len(x), 4, "scores of inputs by detectors fitted on others")
        spread = float((x - x[:1]).abs().max())
        if spread < _ROUNDING:
            raise ValueError(
                f"X: its {len(x)} samples differ by {spread:.1g} at most, which is rounding: are "
                "they all the same?"
            )
        return self._cross_fit(x) if self._params.cross_fit else self._fit(x)

    def fit_each(
        self, samples: Sequence[Callable[[torch.Generator], torch.Tensor]]
    ) -> list[CompositeModel]:
        """Fit a model on the inputs (n, ...) that each of ``samples`` draws from a generator."""

        def fit(sample, generator):
            x = sample(generator)
            return self._fit_one(x, self._latent_dim(x), generator)[0]

        return self._side_by_side(fit, samples)

    def folds(self, x: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """Indices to fit on and indices held out, of inputs (n, ...): always the same folds."""
        distinct = self._params._distinct()
        groups = distinct if len(distinct) else np.arange(len(x))  # a table's rows
        return list(folds(groups, self._seed, self._params.n_folds))

    # -- scores out of sample ---------------------------------------------------------------------

    def _fit(self, x):
        """Every fold, and all inputs (n, ...), have an autoencoder and a density of their own."""

        def fit(part, generator):
            latent_dim = self._latent_dim(x if self._has_one_unit else x[part])
            return self._fit_one(x[part], latent_dim, generator)

        pairs = self.folds(x)
        parts = [np.arange(len(x)), *(learned for learned, _ in pairs)]
        (model, composites, history), *others = self._side_by_side(fit, parts)
        of_all = model.score_composites(composites)
        scores = np.full(len(x), np.nan)
        for (learned, held_out), (other, own, _) in zip(pairs, others, strict=True):
            found = other.score(x[held_out])
            if not self._has_one_unit:
                found = on_scale_of(of_all[learned], other.score_composites(own), found)
            scores[held_out] = found.cpu()
        return Learned(model, composites, scores, history)

    @property
    def _has_one_unit(self):
        """Whether models of different inputs have scores of one scale: errors by components."""
        is_error = self._params.score_type in ("error", "cosine")
        return is_error and not _is_trained(self._params)

    def _cross_fit(self, x):
        """The errors in composites are out of sample, and so are the densities that score them."""
        pairs, latent_dim = self.folds(x), self._latent_dim(x)
        parts = [np.arange(len(x)), *(learned for learned, _ in pairs)]
        (autoencoder, history), *others = self._side_by_side(
            lambda part, generator: self._fit_autoencoder(x[part], latent_dim, generator), parts
        )
        composites = _composites(autoencoder, x)
        own = composites[:, -2:].clone()
        for (learned, held_out), (other, _) in zip(pairs, others, strict=True):
            errors = _composites(other, x)[:, -2:]
            if _is_trained(self._params):  # some reconstruct better than others
                errors *= own[learned].mean(0) / errors[learned].mean(0)
            composites[held_out, -2:] = errors[held_out]
        model, *models = self._side_by_side(
            lambda part, _: self._model(autoencoder, composites[part]), parts
        )
        of_all = model.score_composites(composites)
        scores = np.full(len(x), np.nan)
        for (learned, held_out), other in zip(pairs, models, strict=True):
            of_other = other.score_composites(composites)
            scores[held_out] = on_scale_of(
                of_all[learned], of_other[learned], of_other[held_out]
            ).cpu()
        return Learned(model, composites, scores, history)

    def _side_by_side(self, function, items):
        """``function(item, generator)`` of each item, with a generator of its own."""
        seeds = [draw_seed(self._generator) for _ in items]
        return side_by_side(
            lambda task: function(task[0], make_generator(task[1])),
            zip(items, seeds, strict=True),
            device=self._params.device_,
            verbose=self._params.verbose,
        )

    # -- one model --------------------------------------------------------------------------------

    def _fit_one(self, x, latent_dim, generator):
        """(model of inputs (n, ...), their composites, history of the autoencoder)"""
        autoencoder, history = self._fit_autoencoder(x, latent_dim, generator)
        composites = _composites(autoencoder, x)
        return self._model(autoencoder, composites), composites, history

    def _model(self, autoencoder, composites):
        """The model whose density is fitted on composites (n, d)."""
        score_type = self._params.score_type
        density = None
        if score_type in ("composite", "latent"):
            density = new_density(self._params, self._seed)
            with portion(self._share_of_density):
                density.fit(scored_part(composites, score_type).cpu().numpy())
        return CompositeModel(autoencoder, density, score_type)

    def _fit_autoencoder(self, x, latent_dim, generator):
        """(autoencoder of inputs (n, ...), history)"""
        params = self._params
        if not _is_trained(params):
            return LinearAutoencoder.from_data(x, min(latent_dim, len(x) - 1)), []
        network = self._new_autoencoder(x, latent_dim, generator)
        samples = split_off(len(x), params.validation_fraction, generator)
        losses = ReconstructionLosses(
            network, x, input_noise=params.input_noise, cov_weight=params.cov_weight
        )
        first = params.epochs / (params.epochs + params.decoder_epochs)
        with portion(first):
            objective = Objective(losses.regularized, network.parameters())
            history = self._train(objective, network, samples, generator)
        if params.decoder_epochs:
            with portion(1 - first):
                history += self._train(
                    Objective(losses.error, network.decoder.parameters()),
                    network,
                    samples,
                    generator,
                    epochs=params.decoder_epochs,
                    frozen=(network.encoder,),
                )
        return network.requires_grad_(False), history

    @property
    def _share_of_density(self):
        """The density's share in the work of a model: little beside an autoencoder's."""
        return 0 if _is_trained(self._params) and not self._params.cross_fit else 1

    def _latent_dim(self, x):
        """As asked for, or fitting the inputs (n, ...)."""
        n, n_values, asked = len(x), x[0].numel(), self._params.latent_dim
        if not _is_trained(self._params):
            return min(asked or min(128, n // 2), n_values, n - 1)
        return asked or (16 if x.ndim == 4 else min(16, -(-n_values // 2)))

    def _new_autoencoder(self, x, latent_dim, generator):
        params, is_image = self._params, x.ndim == 4
        with seeded(generator):
            if is_image and params.backbone == "autoencoder":
                network = ConvAutoencoder(x.shape[1:], latent_dim, params.widths)
            else:
                hidden = params.hidden
                if hidden is None:
                    hidden = (256, 64) if is_image else (64, 32)
                network = MLPAutoencoder(x.shape[1:], latent_dim, hidden)
        return network.to(x.device, x.dtype)

    def _train(self, objective, network, split, generator, **settings):
        samples, held_out = split
        return train(
            objective,
            network,
            samples,
            device=next(network.parameters()).device,
            generator=generator,
            optimizer="adam",
            held_out=held_out if len(held_out) else None,
            **training_settings(self._params) | settings,
        )


def on_scale_of(wanted: torch.Tensor, own: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Scores of one model, as another one would have them that learned the same and more.

    Models of other inputs differ in the location and scale of their scores. Both are known from the
    inputs that both have learned. An affine map takes the mean and the standard deviation of their
    scores by the one to those by the other.

    Parameters
    ----------
    wanted, own : torch.Tensor of shape (n,)
        Scores of inputs that both models have learned: by the other one, and by this one.
    scores : torch.Tensor of shape (m,)
        By this one.

    Returns
    -------
    scores : torch.Tensor of shape (m,)
        Where either model finds nothing but rounding between the inputs that it has learned, so
        that their scales cannot be compared, they are only moved.

    Examples
    --------
    >>> own = torch.tensor([0.0, 1.0, 2.0])
    >>> on_scale_of(10 * own + 5, own, torch.tensor([3.0]))
    tensor([35.])
    """
    away = scores - own.mean()
    spreads = wanted.std(), own.std()
    is_known = min(spreads) > _SAME * away.abs().max()
    return wanted.mean() + away * (spreads[0] / spreads[1] if is_known else 1.0)


class ReconstructionLosses:
    """The losses of an autoencoder: functions of (index of inputs, generator).

    Parameters
    ----------
    network : Autoencoder
        In training mode, its inputs get noise; the target never does.
    x : torch.Tensor of shape (n, ...)
        All inputs.
    input_noise : float
        Standard deviation of the noise.
    cov_weight : float
        Weight of the codes' covariances in :meth:`regularized`.
    """

    def __init__(
        self, network: Autoencoder, x: torch.Tensor, input_noise: float, cov_weight: float
    ):
        self._network, self._x = network, x
        self._input_noise, self._cov_weight = input_noise, cov_weight

    def regularized(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Mean squared error plus weighted mean squared covariance of the codes."""
        z, error = self._reconstruct(index, generator)
        return error + self._cov_weight * mean_squared_covariance(z)

    def error(self, index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Mean squared error."""
        return self._reconstruct(index, generator)[1]

    def _reconstruct(self, index, generator):
        """(codes, mean squared error)"""
        batch = given = self._x[index.to(self._x.device)]
        if self._network.training and self._input_noise:
            noise = normal(batch.shape, generator)
            given = batch + self._input_noise * noise.to(batch)
        z, back = self._network(given)
        return z, (back - batch).square().mean()


def new_density(params: "CANCE", seed: int) -> NCEDensity:
    """Unfitted density of composites, or of codes, as a detector's parameters say."""
    density = clone(params.density or NCEDensity(learning_rate=0.003))
    lowers = params.augment and params.score_type == "composite"
    return density.set_params(
        n_lowered=2 if lowers else 0,
        validation_fraction=params.validation_fraction,
        device=params.device_,
        random_state=seed,
        verbose=params.verbose,
    )


def mean_squared_covariance(z: torch.Tensor) -> torch.Tensor:
    """Mean square of the covariances of two different columns of codes.

    Parameters
    ----------
    z : torch.Tensor of shape (B, d)

    Returns
    -------
    mean : torch.Tensor of shape ()
        0 where there is one row or one column.

    Examples
    --------
    >>> float(mean_squared_covariance(torch.tensor([[0.0, 0.0], [2.0, 3.0]])))  # 3 squared
    9.0
    """
    n, d = z.shape
    if n == 1 or d == 1:
        return z.new_zeros(())
    centered = z - z.mean(0)
    covariance = centered.T @ centered / (n - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / (d * (d - 1))


def _is_trained(params):
    return isinstance(params.backbone, str) and params.backbone in TRAINED


def _composites(autoencoder: Autoencoder, x: torch.Tensor) -> torch.Tensor:
    return composite_features(x, *autoencoder(x))
