"""Fitting of autoencoders and of densities of their composites, whatever the inputs are."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from sklearn.base import clone

from ...contexts import seeded
from ...density.heads import folds
from ...density.nce import NCEDensity
from ...nn.autoencoders import Autoencoder, ConvAutoencoder, LinearAutoencoder, MLPAutoencoder
from ...nn.training import Objective, split_off, train, training_settings
from ...runtime import draw_seed, normal
from ...validation import check_enough
from .composites import CompositeModel, composite_features, scored_part

if TYPE_CHECKING:
    from .detector import CANCE

TRAINED = ("autoencoder", "mlp")  # the values of ``backbone`` that name networks to train
_ROUNDING = 1e-6  # what inputs differ by at least, in pixel values, features or standard deviations


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
        autoencoder, history = self._fit_autoencoder(x, is_first=True)
        composites = _composites(autoencoder, x)
        if self._params.cross_fit:
            anomaly_scores = self._cross_fit(x, autoencoder, composites)
        else:
            anomaly_scores = self._held_out_scores(x)
        model = self._model(autoencoder, composites)
        return Learned(model, composites, anomaly_scores, history)

    def fit(self, x: torch.Tensor) -> CompositeModel:
        """Fit a model on inputs (n, ...)."""
        autoencoder, _ = self._fit_autoencoder(x)
        return self._model(autoencoder, _composites(autoencoder, x))

    def folds(self, x: torch.Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Indices to fit on and indices held out, of inputs (n, ...): always the same folds."""
        distinct = self._params._distinct()
        groups = distinct if len(distinct) else np.arange(len(x))  # a table's rows
        return folds(groups, self._seed, self._params.n_folds)

    # -- scores out of sample ---------------------------------------------------------------------

    def _held_out_scores(self, x):
        """Anomaly scores (n,) of inputs (n, ...) by models of the other folds."""
        scores = np.full(len(x), np.nan)
        for fit, held_out in self.folds(x):
            scores[held_out] = self.fit(x[fit]).score(x[held_out]).cpu()
        return scores

    def _cross_fit(self, x, autoencoder, composites):
        """Replace the errors in composites (n, d) by out-of-sample ones; return anomaly scores.

        The scores (n,) come from densities of the other folds' composites.
        """
        for fit, held_out in self.folds(x):
            other, _ = self._fit_autoencoder(x[fit])
            composites[held_out, -2:] = _composites(other, x[held_out])[:, -2:]
        scores = np.full(len(x), np.nan)
        for fit, held_out in self.folds(x):
            model = self._model(autoencoder, composites[fit])
            scores[held_out] = model.score_composites(composites[held_out]).cpu()
        return scores

    # -- the density ------------------------------------------------------------------------------

    def _model(self, autoencoder, composites):
        """The model whose density is fitted on composites (n, d)."""
        score_type = self._params.score_type
        density = None
        if score_type in ("composite", "latent"):
            density = new_density(self._params, self._seed)
            density.fit(scored_part(composites, score_type).cpu().numpy())
        return CompositeModel(autoencoder, density, score_type)

    # -- the autoencoder --------------------------------------------------------------------------

    def _fit_autoencoder(self, x, *, is_first=False):
        """(autoencoder of inputs (n, ...), history); the first one is taken to forecast all."""
        params = self._params
        latent_dim = self._latent_dim(x)
        if not _is_trained(params):
            return LinearAutoencoder.from_data(x, latent_dim), []
        network = self._new_autoencoder(x, latent_dim)
        split = split_off(len(x), params.validation_fraction, self._generator)
        losses = ReconstructionLosses(
            network, x, input_noise=params.input_noise, cov_weight=params.cov_weight
        )
        history = self._train(
            Objective(losses.regularized, network.parameters()),
            network,
            split,
            share=self._share_of_first(len(x)) if is_first else None,
        )
        if params.decoder_epochs:
            history += self._train(
                Objective(losses.error, network.decoder.parameters()),
                network,
                split,
                epochs=params.decoder_epochs,
                frozen=(network.encoder,),
                share=None,
            )
        return network.requires_grad_(False), history

    def _share_of_first(self, n):
        """Share of the first training in those of n inputs and of all folds' other inputs."""
        params = self._params
        n_folds = min(params.n_folds, n)  # each leaves out 1 / n_folds: n_folds - 1 inputs' worth
        return params.epochs / (params.epochs + params.decoder_epochs) / n_folds

    def _latent_dim(self, x):
        """As asked for, or fitting the inputs (n, ...)."""
        n, n_values, asked = len(x), x[0].numel(), self._params.latent_dim
        if not _is_trained(self._params):
            return min(asked or min(128, n // 2), n_values, n - 1)
        return asked or (16 if x.ndim == 4 else min(16, -(-n_values // 2)))

    def _new_autoencoder(self, x, latent_dim):
        params, is_image = self._params, x.ndim == 4
        with seeded(self._generator):
            if is_image and params.backbone == "autoencoder":
                network = ConvAutoencoder(x.shape[1:], latent_dim, params.widths)
            else:
                hidden = params.hidden
                if hidden is None:
                    hidden = (256, 64) if is_image else (64, 32)
                network = MLPAutoencoder(x.shape[1:], latent_dim, hidden)
        return network.to(x.device, x.dtype)

    def _train(self, objective, network, split, **settings):
        samples, held_out = split
        return train(
            objective,
            network,
            samples,
            device=next(network.parameters()).device,
            generator=self._generator,
            optimizer="adam",
            held_out=held_out if len(held_out) else None,
            **training_settings(self._params) | settings,
        )


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
