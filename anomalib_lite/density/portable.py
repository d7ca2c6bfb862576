"""One-class heads as modules of plain operations, for export."""

from sklearn.base import BaseEstimator
from torch import nn

from .gaussian import GaussianDensity, GaussianHead


def portable_head(head: BaseEstimator) -> nn.Module:
    """A module that gives the anomaly scores (n,), float64, of rows (n, n_features).

    Raises
    ------
    ValueError
        If the head has no such counterpart.
    """
    if isinstance(head, GaussianDensity):
        return GaussianHead(head)
    raise ValueError(f"classifier: {type(head).__name__} cannot be exported.")
