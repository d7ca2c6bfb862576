"""Composite features of an autoencoder, and the model that scores them."""

from dataclasses import dataclass

import torch

from ...density.nce import NCEDensity
from ...nn.autoencoders import Autoencoder, reconstruction_errors
from ...runtime import exact_dtype

SCORE_TYPES = ("composite", "latent", "error", "cosine")


@dataclass(frozen=True, eq=False)
class CompositeModel:
    """An autoencoder and a density of its composite features: of images, patches or rows.

    Attributes
    ----------
    autoencoder : Autoencoder
        Of inputs (n, ...).
    density : NCEDensity or None
        Of composites, or of codes; None where an error is the score.
    score_type : {"composite", "latent", "error", "cosine"}
        The part of the composites that gives the anomaly score.
    """

    autoencoder: Autoencoder
    density: NCEDensity | None
    score_type: str

    def composites(self, x: torch.Tensor) -> torch.Tensor:
        """Composites (n, latent_dim + 2) of inputs (n, ...)."""
        return composite_features(x, *self.autoencoder(x))

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,) of inputs (n, ...)."""
        return self.score_composites(self.composites(x))

    def score_composites(self, composites: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,) of composites (n, latent_dim + 2)."""
        scored = scored_part(composites, self.score_type)
        return scored if self.density is None else -self.density.log_density(scored)


def composite_features(x: torch.Tensor, z: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Code, squared error and cosine dissimilarity of inputs, side by side.

    Parameters
    ----------
    x, back : torch.Tensor of shape (n, ...)
        Inputs and their reconstructions.
    z : torch.Tensor of shape (n, latent_dim)
        Their codes.

    Returns
    -------
    composites : torch.Tensor of shape (n, latent_dim + 2)
        float64 where the device has it.

    Examples
    --------
    >>> x, z = torch.tensor([[3.0, 4.0]]), torch.tensor([[7.0]])
    >>> composite_features(x, z, x.flip(1)).round(decimals=2).tolist()
    [[7.0, 1.0, 0.04]]
    """
    return torch.cat([z, reconstruction_errors(x, back)], 1).to(exact_dtype(x.device))


def scored_part(composites: torch.Tensor, score_type: str) -> torch.Tensor:
    """What of composites (n, d) is scored: (n, d) or (n, d - 2) by a density, (n,) as it is."""
    if score_type == "composite":
        return composites
    if score_type == "latent":
        return composites[:, :-2]
    return composites[:, -2 if score_type == "error" else -1]
