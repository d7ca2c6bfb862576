"""Areas under curves, from counts of values: what metrics and their intervals have in common.

Arrays are of shape (..., n_values): how many normal and how many anomalous samples have each of
some values, which ascend. Leading axes are resamples. Each needs samples of both kinds.
"""

from collections.abc import Sequence

import numpy as np


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Area under the ROC curve (...,); samples of one value count one half.

    Examples
    --------
    >>> auroc(np.array([1, 1, 0]), np.array([0, 1, 1]))
    np.float64(0.875)
    """
    below = normal.cumsum(-1) - normal / 2
    return (anomalous * below).sum(-1) / (anomalous.sum(-1) * normal.sum(-1))


def average_precision(normal: np.ndarray, anomalous: np.ndarray) -> np.ndarray:
    """Average precision (...,): precision at each value, weighted by the recall it adds.

    Examples
    --------
    >>> average_precision(np.array([1, 1, 0]), np.array([0, 0, 1]))
    np.float64(1.0)
    """
    found = anomalous[..., ::-1].cumsum(-1)
    called = found + normal[..., ::-1].cumsum(-1)
    precision = found / np.maximum(called, 1)
    return (anomalous[..., ::-1] * precision).sum(-1) / found[..., -1]


def overlap_area(normal: np.ndarray, overlap: np.ndarray, max_fpr: float) -> np.ndarray:
    """Area (...,) under the curve of overlap over false positive rate, up to ``max_fpr``.

    ``overlap`` is what each value adds to the sum of the regions' overlaps. The area is divided by
    ``max_fpr``.

    Examples
    --------
    >>> overlap_area(np.array([1, 1, 0]), np.array([0, 0, 1]), 0.3)
    np.float64(1.0)
    """
    step = normal[..., ::-1] / normal.sum(-1, keepdims=True)
    rise = overlap[..., ::-1] / overlap.sum(-1, keepdims=True)
    return area_of_segments(step, rise.cumsum(-1) - rise, rise.cumsum(-1), max_fpr)


def area_of_segments(
    step: np.ndarray, before: np.ndarray, after: np.ndarray, max_fpr: float
) -> np.ndarray:
    """Area (...,) under straight segments, from a rate of 0 on, divided by ``max_fpr``.

    Segments are ``step`` wide and rise from ``before`` to ``after``; the one that crosses
    ``max_fpr`` is cut there.
    """
    width = np.clip(max_fpr - (step.cumsum(-1) - step), 0, step)
    share = np.divide(width, step, out=np.zeros_like(width), where=step > 0)
    return (width * (before + (after - before) * share / 2)).sum(-1) / max_fpr


def middle(values: Sequence[float] | np.ndarray, confidence: float) -> tuple[float, float]:
    """Ends of the middle part, of a share ``confidence``, of some values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(values, dtype=float), [tail, 1 - tail])
    return float(low), float(high)
