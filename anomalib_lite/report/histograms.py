"""Histograms of scores; matplotlib is imported on first use."""

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..validation import as_real, check_count
from .layout import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_score_histogram(
    scores: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    detector: Any = None,
    offset: float | None = None,
    ax: "Axes | None" = None,
    bins: int = 40,
) -> "Axes":
    """Plot histograms of ``score_samples``, and where the threshold is.

    Parameters
    ----------
    scores : array of shape (n_images,) or None, default=None
        Lower = more anomalous. NaN, as of skipped images, and infinity are left out, which the
        legend says. None shows the detector's own alone.
    y : array of shape (n_images,) or None, default=None
        +1 normal, -1 anomalous; None draws all in one color.
    detector : fitted detector or None, default=None
        Adds its ``calibration_scores_``, the scores of the normal images of ``fit`` by a model that
        has not seen them, and its ``offset_``. The ``score_samples`` of these images would not show
        how new ones look: the detector knows them.
    offset : float or None, default=None
        Threshold, drawn as a line and counted in the legend; None is that of the detector, if any.
        It is the edge of a bar.
    ax : matplotlib Axes or None, default=None
        None creates a figure.
    bins : int, default=40
        Number of bars.

    Returns
    -------
    ax : matplotlib Axes

    Examples
    --------
    >>> ax = plot_score_histogram([-1.0, -2.0, -9.0], [1, 1, -1], offset=-5)  # doctest: +SKIP
    """
    check_count("bins", bins)
    if scores is None and detector is None:
        raise ValueError("scores: expected scores, or a detector whose own are shown, got neither.")
    offset = _checked_offset(offset, detector)
    series = _series(scores, y)
    fit = None if detector is None else _finite("calibration_scores_", detector.calibration_scores_)
    values = np.concatenate([*(of_one for _, of_one, _ in series), *([] if fit is None else [fit])])
    if len(values) == 0:
        raise ValueError("scores: expected at least one finite number, got none.")
    edges = bar_edges(values, bins, offset)

    from matplotlib import pyplot as plt

    with drawing(None if ax is None else ax.figure, plt.figure) as figure:
        ax = figure.add_subplot() if ax is None else ax
        for name, of_one, color in series:
            if len(of_one):
                label = _counted(name, of_one, offset)
                ax.hist(of_one, edges, alpha=0.6, color=color, label=label)
        if fit is not None:
            label = _counted("fit, out of sample", fit, offset)
            ax.hist(fit, edges, histtype="step", color="black", label=label)
        if offset is not None:
            ax.axvline(offset, color="black", linestyle="--", label=f"threshold {offset:.3g}")
        n_left_out = 0 if scores is None else np.size(scores) - sum(len(each[1]) for each in series)
        if n_left_out:
            ax.plot([], [], " ", label=f"left out: {n_left_out} NaN or infinite")
        ax.set(xlabel="score_samples (lower = more anomalous)", ylabel="images")
        ax.set_ylim(top=1.3 * ax.get_ylim()[1])  # room for the legend
        ax.legend()
    return ax


def _checked_offset(offset, detector):
    """The threshold to draw, or None; without one, a detector has NaN or minus infinity."""
    if offset is None:
        offset = getattr(detector, "offset_", math.nan)
        return float(offset) if math.isfinite(offset) else None
    if isinstance(offset, bool) or not (isinstance(offset, Real) and math.isfinite(offset)):
        raise ValueError(f"offset: expected a finite number or None, got {offset!r}.")
    return float(offset)


def _series(scores, y):
    """(name, finite scores, color) of normal and anomalous images, or of all."""
    if scores is None:
        return []
    values = _numbers("scores", scores)
    if y is None:
        return [("images", values[np.isfinite(values)], "tab:blue")]
    y = np.asarray(y)
    if values.shape != y.shape or not np.isin(y, (-1, 1)).all():
        raise ValueError(
            "y: expected one label per score, +1 normal or -1 anomalous, got the values "
            f"{np.unique(y)[:5]} in shape {y.shape} for scores of shape {values.shape}."
        )
    kinds = (("normal", 1, "tab:blue"), ("anomalous", -1, "tab:orange"))
    return [
        (name, values[(y == label) & np.isfinite(values)], color) for name, label, color in kinds
    ]


def _numbers(name, values):
    """A 1-D array of floats."""
    array = as_real(name, values).astype(float)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected shape (n_images,), got {array.shape}.")
    return array


def _finite(name, values):
    array = _numbers(name, values)
    return array[np.isfinite(array)]


def bar_edges(values: np.ndarray, n_bins: int, offset: float | None) -> np.ndarray:
    """Edges of bars of one width, moved so that a threshold among them is an edge."""
    edges = np.histogram_bin_edges(values, n_bins)
    if offset is None or not edges[0] < offset < edges[-1]:
        return edges
    width = (edges[-1] - edges[0]) / n_bins
    n_below = math.ceil((offset - edges[0]) / width)
    n_above = math.ceil((edges[-1] - offset) / width)
    return offset + width * np.arange(-n_below, n_above + 1)


def _counted(name, scores, offset):
    """A legend that says how many scores are below the threshold."""
    if offset is None:
        return f"{name} ({len(scores)})"
    return f"{name}: {np.count_nonzero(scores < offset)} of {len(scores)} below the threshold"
