"""Metrics of anomaly scores for images, pixels and defect regions.

All functions take *anomaly* scores (higher = more anomalous), as returned by a detector's
`anomaly_score` and `anomaly_map`, and ground truth with 1 / True for anomalous. Convert
scikit-learn's outlier labels (+1 normal, -1 anomalous) with ``labels == -1``.

Masks hold 0 and 1, False and True, or 0 and 255 (65535 at 16 bits). Masks of soft edges or of
classes are refused, and so is whatever NumPy would convert with a loss: masked arrays, complex
numbers, objects. :func:`anomalib_lite.data.read_mask` reads masks from files.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from . import curves
from .intervals import Interval
from .intervals import wilson_interval as wilson_interval
from .validation import as_mask, as_real, check_confidence, check_count, check_share

_N_TOGETHER = 1_000_000  # counts of resamples that are looked at together


class F1Max(NamedTuple):
    """The highest F1 over all thresholds, and its threshold (score >= threshold = anomalous)."""

    f1: float
    threshold: float


def image_auroc(y_true: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the probability that an anomaly outscores a normal image.

    Parameters
    ----------
    y_true, scores : array-likes of shape (n_images,)
        Ground truth, 1 or True for anomalous, and anomaly scores, higher = more anomalous.

    Returns
    -------
    auroc : float
        In [0, 1]; 0.5 is chance level. A tie counts one half.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, or `y_true` does not hold both 0 and 1, and
        nothing else.

    Examples
    --------
    >>> from anomalib_lite.metrics import image_auroc
    >>> image_auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return float(roc_auc_score(*_check_scores(y_true, scores)))


def average_precision(y_true: ArrayLike, scores: ArrayLike) -> float:
    """Average precision: the area under the precision-recall curve, summed by steps.

    Parameters
    ----------
    y_true, scores : array-likes of shape (n_images,)
        Ground truth, 1 or True for anomalous, and anomaly scores, higher = more anomalous.

    Returns
    -------
    precision : float
        In (0, 1]; uninformative scores give about the fraction of anomalies.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, or `y_true` does not hold both 0 and 1, and
        nothing else.

    Examples
    --------
    >>> from anomalib_lite.metrics import average_precision
    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 3)
    0.833
    """
    return float(average_precision_score(*_check_scores(y_true, scores)))


def f1_max(y_true: ArrayLike, scores: ArrayLike) -> F1Max:
    """Highest F1 over all thresholds on the scores.

    The threshold is chosen with the test labels, so this is an upper bound on the F1 of a
    detector's own threshold, not an estimate of it.

    Parameters
    ----------
    y_true, scores : array-likes of shape (n_images,)
        Ground truth, 1 or True for anomalous, and anomaly scores, higher = more anomalous.

    Returns
    -------
    best : F1Max
        Named tuple ``(f1, threshold)``. Scores at or above the threshold count as anomalous. Among
        equally good thresholds, the highest, which raises the fewest alarms.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, or `y_true` does not hold both 0 and 1, and
        nothing else.

    Examples
    --------
    >>> from anomalib_lite.metrics import f1_max
    >>> f1_max([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    F1Max(f1=0.8, threshold=0.35)
    """
    y_true, scores = _check_scores(y_true, scores)
    precision, recall, thresholds = precision_recall_curve(y_true, scores)
    n_true = y_true.sum()
    n_found = np.rint(recall[:-1] * n_true)  # true positives at each threshold, ascending
    n_alarms = np.rint(n_found / np.where(n_found > 0, precision[:-1], 1))
    f1 = 2 * n_found / (n_alarms + n_true)  # from integers, so that ties are exact
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return F1Max(float(f1[best]), float(thresholds[best]))


def pixel_auroc(
    masks: ArrayLike | Sequence[ArrayLike], maps: ArrayLike | Sequence[ArrayLike]
) -> float:
    """Area under the ROC curve over the pixels of all images.

    Parameters
    ----------
    masks, maps : arrays of shape (n_images, H, W) or sequences of (H, W) arrays
        Ground truth, 1 where anomalous, and anomaly maps, higher = more anomalous. Image
        sizes may differ.

    Returns
    -------
    auroc : float
        In [0, 1]. Large defects outweigh small ones; `aupro` weighs all defect regions equally.

    Raises
    ------
    ValueError
        If shapes differ, a map holds NaN or infinity, a mask holds more than two values, or all
        pixels belong to one class.

    Examples
    --------
    >>> from anomalib_lite.metrics import pixel_auroc
    >>> pixel_auroc([[[0, 0], [1, 1]]], [[[0.1, 0.4], [0.35, 0.8]]])
    0.75
    """
    return image_auroc(*_pixels(masks, maps))


def pixel_average_precision(
    masks: ArrayLike | Sequence[ArrayLike], maps: ArrayLike | Sequence[ArrayLike]
) -> float:
    """Average precision over the pixels of all images.

    Parameters
    ----------
    masks, maps : arrays of shape (n_images, H, W) or sequences of (H, W) arrays
        Ground truth, 1 where anomalous, and anomaly maps, higher = more anomalous. Image
        sizes may differ.

    Returns
    -------
    precision : float
        In (0, 1]. Unlike the AUROC, it decreases with the fraction of anomalous pixels.

    Raises
    ------
    ValueError
        If shapes differ, a map holds NaN or infinity, a mask holds more than two values, or all
        pixels belong to one class.

    Examples
    --------
    >>> from anomalib_lite.metrics import pixel_average_precision
    >>> round(pixel_average_precision([[[0, 0], [1, 1]]], [[[0.1, 0.4], [0.35, 0.8]]]), 3)
    0.833
    """
    return average_precision(*_pixels(masks, maps))


def aupro(
    masks: ArrayLike | Sequence[ArrayLike],
    maps: ArrayLike | Sequence[ArrayLike],
    *,
    max_fpr: float = 0.3,
) -> float:
    """Area under the per-region overlap curve (AUPRO), the localization metric of MVTec AD.

    At a threshold t, the per-region overlap is the fraction of a defect region's pixels with
    map >= t, averaged over all regions of all images; a scratch thus counts as much as a large
    stain. The false positive rate is the fraction of all normal pixels with map >= t. The area
    under the curve of overlap over false positive rate, up to `max_fpr`, is divided by `max_fpr`
    [1]_.

    Parameters
    ----------
    masks, maps : arrays of shape (n_images, H, W) or sequences of (H, W) arrays
        Ground truth, 1 where anomalous, each 8-connected component being one region, and
        anomaly maps, higher = more anomalous. Image sizes may differ.
    max_fpr : float, default=0.3
        Largest false positive rate of the area, in (0, 1].

    Returns
    -------
    area : float
        In [0, 1]; uninformative maps give about ``max_fpr / 2``.

    Raises
    ------
    ValueError
        If shapes differ, a map holds NaN or infinity, a mask holds more than two values, there is
        no defect region or no normal pixel, or `max_fpr` is outside (0, 1].

    Notes
    -----
    The area is exact: every distinct map value is a threshold, ties move the curve along a straight
    line, and the line that crosses `max_fpr` is cut there.

    References
    ----------
    .. [1] P. Bergmann, K. Batzner, M. Fauser, D. Sattlegger, C. Steger, "The MVTec Anomaly
       Detection Dataset", IJCV 129, 2021, https://doi.org/10.1007/s11263-020-01400-4

    Examples
    --------
    >>> from anomalib_lite.metrics import aupro
    >>> mask = [[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1]]  # one region of one pixel, one of two
    >>> heat = [[9, 8, 0, 0, 0, 0], [0, 0, 0, 0, 7, 0]]
    >>> round(aupro([mask], [heat], max_fpr=0.3), 3)
    0.674
    """
    check_share("max_fpr", max_fpr)
    normal, defect, weight = _values_of_regions(masks, maps)
    order = np.argsort(defect)
    defect, below = defect[order], np.append(0.0, np.cumsum(weight[order]))
    n_normal, n_kept = len(normal), int(np.ceil(max_fpr * len(normal)))
    normal.partition(n_normal - n_kept)  # thresholds beyond max_fpr do not matter
    values, counts = np.unique(normal[normal >= normal[n_normal - n_kept]], return_counts=True)
    values, step = values[::-1], counts[::-1] / n_normal  # one straight segment per value
    overlap_before = 1 - below[np.searchsorted(defect, values, "right")] / below[-1]
    overlap_after = 1 - below[np.searchsorted(defect, values, "left")] / below[-1]
    return float(curves.area_of_segments(step, overlap_before, overlap_after, max_fpr))


class ProCurve(NamedTuple):
    """The curve that AUPRO is the area of, from the strictest threshold to the most lenient.

    Attributes
    ----------
    fpr : ndarray of shape (n_thresholds,)
        Share of all normal pixels with map >= threshold; from 0 to 1.
    overlap : ndarray of shape (n_thresholds,)
        Share of a defect region's pixels with map >= threshold, on average; from 0 to 1.
    thresholds : ndarray of shape (n_thresholds,)
        All distinct values of the maps, descending, infinity before them.
    """

    fpr: np.ndarray
    overlap: np.ndarray
    thresholds: np.ndarray

    def area(self, max_fpr: float = 0.3) -> float:
        """What :func:`aupro` returns, but for rounding."""
        check_share("max_fpr", max_fpr)
        ends = np.diff(self.fpr), self.overlap[:-1], self.overlap[1:]
        return float(curves.area_of_segments(*ends, max_fpr))


def pro_curve(
    masks: ArrayLike | Sequence[ArrayLike], maps: ArrayLike | Sequence[ArrayLike]
) -> ProCurve:
    """Per-region overlap and false positive rate at every threshold: what :func:`aupro` measures.

    Parameters
    ----------
    masks, maps
        As for :func:`aupro`.

    Returns
    -------
    curve : ProCurve

    Raises
    ------
    ValueError
        As by :func:`aupro`.

    Examples
    --------
    >>> from anomalib_lite.metrics import pro_curve
    >>> curve = pro_curve([[[1, 0], [0, 0]]], [[[3.0, 3.0], [2.0, 1.0]]])
    >>> curve.thresholds
    array([inf,  3.,  2.,  1.])
    >>> curve.overlap
    array([0., 1., 1., 1.])
    """
    normal, defect, weight = _values_of_regions(masks, maps)
    values = np.concatenate([normal, defect])
    rise = np.concatenate([np.zeros(len(normal)), weight])
    order = np.argsort(values, kind="stable")[::-1]
    values, n_normal = values[order], np.cumsum(order < len(normal))
    rise = np.cumsum(rise[order])
    last = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)  # of equal values
    fpr, overlap = n_normal[last] / len(normal), rise[last] / rise[-1]
    start = np.zeros(1)
    return ProCurve(
        np.concatenate([start, fpr]),
        np.concatenate([start, overlap]),
        np.concatenate([[np.inf], values[last]]),
    )


def _values_of_regions(masks, maps):
    """Map values of normal pixels, of defective ones, and the share that each is of its region."""
    normal, defect, weight = [], [], []
    for mask, heat in _pairs(masks, maps):
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        normal.append(heat[~mask])
        defect.append(heat[mask])
        weight.append(1 / np.bincount(regions.ravel())[regions[mask]])
    normal, defect, weight = (np.concatenate(parts) for parts in (normal, defect, weight))
    _check_both_classes(len(defect), len(normal), "pixels")
    return normal, defect, weight


def bootstrap_interval(
    metric: Callable[[np.ndarray, np.ndarray], float],
    y_true: ArrayLike,
    scores: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
    random_state: int | np.random.Generator | None = 0,
) -> Interval:
    """Bootstrap percentile interval of a metric: how far it may be off, for want of images.

    Images are drawn with replacement, normal and anomalous ones apart, as many of each as there
    are.

    Parameters
    ----------
    metric : callable
        ``metric(y_true, scores)`` gives a float. :func:`image_auroc` and :func:`average_precision`
        are computed for many resamples at a time.
    y_true, scores : array-likes of shape (n_images,)
        Ground truth, 1 or True for anomalous, and anomaly scores, higher = more anomalous.
    confidence : float, default=0.95
        In (0, 1).
    n_resamples : int, default=2000
    random_state : int, Generator or None, default=0
        Passed to :func:`numpy.random.default_rng`.

    Returns
    -------
    interval : Interval
        Named tuple ``(low, high)``.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, `y_true` does not hold both 0 and 1, and
        nothing else, or a parameter is invalid.

    Notes
    -----
    Resamples hold no images but those that were tested: where all of them are ranked correctly,
    the interval is a single point. It does not account for images that resemble each other, such
    as several shots of one part.

    Examples
    --------
    >>> from anomalib_lite.metrics import bootstrap_interval, image_auroc
    >>> rng = np.random.default_rng(0)
    >>> y_true = np.arange(100) % 4 == 0
    >>> low, high = bootstrap_interval(image_auroc, y_true, rng.normal(size=100) + 2 * y_true)
    >>> round(low, 2), round(high, 2)
    (0.82, 0.96)
    """
    check_count("n_resamples", n_resamples)
    check_confidence(confidence)
    y_true, scores = _check_scores(y_true, scores)
    rng = np.random.default_rng(random_state)
    if metric in _OF_COUNTS:
        values = _resampled_counts(_OF_COUNTS[metric], y_true, scores, n_resamples, rng)
    else:
        kinds = np.flatnonzero(~y_true), np.flatnonzero(y_true)
        values = []
        for _ in range(n_resamples):
            drawn = np.concatenate([_redrawn(kind, rng) for kind in kinds])
            values.append(metric(y_true[drawn], scores[drawn]))
    return Interval(*curves.middle(values, confidence))


_OF_COUNTS = {image_auroc: curves.auroc, average_precision: curves.average_precision}


def _resampled_counts(figure, y_true, scores, n_resamples, rng):
    """A figure (n_resamples,) of counts at the distinct scores, in resamples of each kind."""
    distinct, places = np.unique(scores, return_inverse=True)
    kinds = places[~y_true], places[y_true]
    n_together = max(1, _N_TOGETHER // len(distinct))
    values = []
    for start in range(0, n_resamples, n_together):
        counts = [
            [np.bincount(_redrawn(kind, rng), minlength=len(distinct)) for kind in kinds]
            for _ in range(min(n_together, n_resamples - start))
        ]
        values.append(figure(*np.array(counts).swapaxes(0, 1)))
    return np.concatenate(values)


def _redrawn(values, rng):
    """As many of some values, drawn with replacement."""
    return values[rng.integers(len(values), size=len(values))]


def _check_scores(y_true, scores):
    y_true, scores = as_real("y_true", y_true), as_real("scores", scores)
    if y_true.ndim != 1 or y_true.shape != scores.shape:
        raise ValueError(
            "y_true and scores: expected two arrays of the same shape (n,), "
            f"got {y_true.shape} and {scores.shape}."
        )
    if not ((y_true == 0) | (y_true == 1)).all():
        raise ValueError(
            "y_true: expected 1 for anomalous and 0 for normal, got the values "
            f"{np.unique(y_true)[:5]}. Scikit-learn's outlier labels? Pass labels == -1."
        )
    if not np.isfinite(scores).all():
        first = np.flatnonzero(~np.isfinite(scores))[0]
        raise ValueError(f"scores: expected finite numbers, got {scores[first]} at index {first}.")
    y_true = y_true.astype(bool)
    _check_both_classes(np.count_nonzero(y_true), np.count_nonzero(~y_true), "samples")
    return y_true, scores


def _check_both_classes(n_anomalous, n_normal, what):
    if n_anomalous == 0 or n_normal == 0:
        raise ValueError(
            f"expected normal and anomalous {what}, got {n_normal} normal and "
            f"{n_anomalous} anomalous ones. The metric is undefined for a single class."
        )


def _pairs(masks, maps):
    """Yield (bool mask, map) of each image, checked."""
    if masks is None or maps is None:
        raise ValueError("masks and maps: expected arrays, got None. Does the data set have masks?")
    if len(masks) != len(maps):
        raise ValueError(f"expected one map per mask, got {len(masks)} masks, {len(maps)} maps.")
    if len(masks) == 0:
        raise ValueError("masks and maps: expected at least one image, got none.")
    for i, (mask, heat) in enumerate(zip(masks, maps, strict=True)):
        mask, heat = as_real(f"image {i}: mask", mask), as_real(f"image {i}: map", heat)
        if mask.ndim != 2 or mask.shape != heat.shape:
            raise ValueError(
                f"image {i}: expected a mask and a map of the same shape (H, W), "
                f"got mask {mask.shape} and map {heat.shape}."
            )
        if not np.isfinite(heat).all():
            raise ValueError(f"image {i}: expected a finite map, got NaN or infinity in it.")
        yield as_mask(f"image {i}", mask), heat


def _pixels(masks, maps):
    """(ground truth, anomaly scores) of the pixels of all images, flat."""
    pairs = [(mask.ravel(), heat.ravel()) for mask, heat in _pairs(masks, maps)]
    return tuple(np.concatenate(parts) for parts in zip(*pairs, strict=True))
