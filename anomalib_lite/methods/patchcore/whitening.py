"""Decorrelated patches of variance 1, by one Gaussian of the patches of all places together."""

import torch

from ...density.gaussian import GaussianStatistics
from ...workers import FEW, map_on

_FLOOR = 1e-3  # of the mean variance: below it, directions count as having this variance
_LEAST = 1e-30  # a mean variance that counts as none
_TOGETHER = 8  # images of a worker's task


def learned_whitening(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and symmetric whitener (D, D) of the rows of images (n, P, D).

    A row less the mean, times the whitener, has uncorrelated coordinates of variance 1, as close
    to its own as possible. Variances, those along eigenvectors of the covariance, have a floor:
    0.001 of their mean. Directions in which rows hardly vary, or not at all, as where there are
    fewer rows than features, are not blown up without end. Rows that are all the same stay as they
    are, less the mean.
    """
    parts = map_on(images.device, _statistics, images.split(_TOGETHER), at_once=FEW)
    statistics = parts[0]
    for part in parts[1:]:
        statistics.merge(part)
    # decompositions are those of the CPU, whatever the device
    scatter = statistics.scatter[0].double().cpu()
    values, vectors = torch.linalg.eigh(scatter / max(statistics.count - 1, 1))
    mean_variance = float(values.mean())
    if mean_variance <= _LEAST:
        values = torch.ones_like(values)
    else:
        values = values.clamp_min(_FLOOR * mean_variance)
    whitener = (vectors / values.sqrt()) @ vectors.T
    return statistics.mean[0].float(), whitener.float().to(images.device)


def _statistics(images):
    statistics = GaussianStatistics.of_no_rows(1, images.shape[2], images.device)
    for rows in images:
        statistics.update(rows[None])
    return statistics


def whitened(rows: torch.Tensor, mean: torch.Tensor, whitener: torch.Tensor) -> torch.Tensor:
    """Rows (..., D) in white coordinates."""
    return (rows - mean) @ whitener


def whiten_in_place(images: torch.Tensor, mean: torch.Tensor, whitener: torch.Tensor) -> None:
    """The same for images (n, P, D), one by one, as they are scored, in the memory of their own."""

    def whiten(rows):
        rows.copy_(whitened(rows, mean, whitener))

    map_on(images.device, whiten, images, at_once=FEW)
