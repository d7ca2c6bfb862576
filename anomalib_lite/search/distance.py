"""The measure of all searches."""

import torch

from ..runtime import exact_dtype


def squared_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances along the last axis, in float64.

    Differences are taken in float64 before squaring, so equal rows are at exactly 0.
    """
    dtype = exact_dtype(a.device)
    return a.to(dtype).sub(b.to(dtype)).square_().sum(-1)
