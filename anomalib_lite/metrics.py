"""How well anomaly scores rank: whole images, pixels, and defect regions.

Every function takes *anomaly* scores (higher = more anomalous) and truth with 1 / True = anomalous,
which is what `anomaly_score` and `anomaly_map` of a detector return. Scikit-learn's outlier labels
(+1 normal, -1 anomalous) become such a truth with ``labels == -1``.
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score


class F1Max(NamedTuple):
    """The best F1 over all thresholds, and the threshold (score >= threshold = anomalous)."""

    f1: float
    threshold: float


def image_auroc(y_true, scores):
    """Area under the ROC curve: the chance that an anomaly outscores a normal image.

    Parameters
    ----------
    y_true, scores : array-likes of shape (n_images,)
        Truth, 1 or True for anomalous, and anomaly scores, higher = more anomalous.

    Returns
    -------
    auroc : float
        In [0, 1]; 0.5 is a coin, a tie counts one half.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, or `y_true` is not 0 / 1 with both classes.

    Examples
    --------
    >>> from anomalib_lite.metrics import image_auroc
    >>> image_auroc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return float(roc_auc_score(*_check_scores(y_true, scores)))


def average_precision(y_true, scores):
    """Precision averaged over the recall steps, the area under the precision-recall curve.

    Parameters
    ----------
    y_true, scores : array-likes of shape (n_images,)
        Truth, 1 or True for anomalous, and anomaly scores, higher = more anomalous.

    Returns
    -------
    precision : float
        In (0, 1]; scores that carry no information give about the share of anomalies.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, or `y_true` is not 0 / 1 with both classes.

    Examples
    --------
    >>> from anomalib_lite.metrics import average_precision
    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 3)
    0.833
    """
    return float(average_precision_score(*_check_scores(y_true, scores)))


def f1_max(y_true, scores):
    """Largest F1 that any threshold on the scores reaches.

    The threshold is picked on the very labels it is judged by, so this bounds what a detector's own
    threshold can reach; it does not estimate it.

    Parameters
    ----------
    y_true, scores : array-likes of shape (n_images,)
        Truth, 1 or True for anomalous, and anomaly scores, higher = more anomalous.

    Returns
    -------
    best : F1Max
        Named tuple ``(f1, threshold)``. Scores at or above the threshold count as anomalous; of
        several equally good thresholds it is the highest, which raises the fewest alarms.

    Raises
    ------
    ValueError
        If shapes differ, a score is NaN or infinite, or `y_true` is not 0 / 1 with both classes.

    Examples
    --------
    >>> from anomalib_lite.metrics import f1_max
    >>> f1_max([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    F1Max(f1=0.8, threshold=0.35)
    """
    y_true, scores = _check_scores(y_true, scores)
    precision, recall, thresholds = precision_recall_curve(y_true, scores)
    n_true = y_true.sum()
    n_found = np.rint(recall[:-1] * n_true)  # true alarms at each threshold, which rises
    n_alarms = np.rint(n_found / np.where(n_found > 0, precision[:-1], 1))
    f1 = 2 * n_found / (n_alarms + n_true)  # from whole numbers, so that equal values are equal
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return F1Max(float(f1[best]), float(thresholds[best]))


def pixel_auroc(masks, maps):
    """Area under the ROC curve over the pixels of all images together.

    Parameters
    ----------
    masks, maps : arrays of shape (n_images, H, W) or sequences of (H, W) arrays
        Truth, nonzero where anomalous, and anomaly maps, higher = more anomalous. Image sizes may
        differ.

    Returns
    -------
    auroc : float
        In [0, 1]. Large defects weigh more than small ones; see `aupro` for the opposite choice.

    Raises
    ------
    ValueError
        If shapes differ, a map holds NaN or infinity, or all pixels are of one class.

    Examples
    --------
    >>> from anomalib_lite.metrics import pixel_auroc
    >>> pixel_auroc([[[0, 0], [1, 1]]], [[[0.1, 0.4], [0.35, 0.8]]])
    0.75
    """
    return image_auroc(*_pixels(masks, maps))


def pixel_average_precision(masks, maps):
    """Average precision over the pixels of all images together.

    Parameters
    ----------
    masks, maps : arrays of shape (n_images, H, W) or sequences of (H, W) arrays
        Truth, nonzero where anomalous, and anomaly maps, higher = more anomalous. Image sizes may
        differ.

    Returns
    -------
    precision : float
        In (0, 1]. Unlike the AUROC it falls with the share of anomalous pixels.

    Raises
    ------
    ValueError
        If shapes differ, a map holds NaN or infinity, or all pixels are of one class.

    Examples
    --------
    >>> from anomalib_lite.metrics import pixel_average_precision
    >>> round(pixel_average_precision([[[0, 0], [1, 1]]], [[[0.1, 0.4], [0.35, 0.8]]]), 3)
    0.833
    """
    return average_precision(*_pixels(masks, maps))


def aupro(masks, maps, *, max_fpr=0.3):
    """Area under the per-region-overlap curve, the localization measure of MVTec AD.

    At a threshold t, the per-region overlap is the share of a defect region's pixels with map >= t,
    averaged over all regions of all images, so that a scratch counts as much as a large stain. The
    false positive rate is the share of all normal pixels with map >= t. The area under overlap over
    false positive rate, up to `max_fpr`, is divided by `max_fpr` [1]_.

    Parameters
    ----------
    masks, maps : arrays of shape (n_images, H, W) or sequences of (H, W) arrays
        Truth, nonzero where anomalous, each 8-connected component being one region, and anomaly
        maps, higher = more anomalous. Image sizes may differ.
    max_fpr : float, default=0.3
        Right end of the area, in (0, 1].

    Returns
    -------
    area : float
        In [0, 1]; uninformative maps give about ``max_fpr / 2``.

    Raises
    ------
    ValueError
        If shapes differ, a map holds NaN or infinity, there is no defect region or no normal pixel,
        or `max_fpr` lies outside (0, 1].

    Notes
    -----
    Exact: every distinct map value is a threshold, pixels of equal value move the curve together
    along a straight line, and the line that crosses `max_fpr` is cut there.

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
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr: expected a number in (0, 1], got {max_fpr!r}.")
    normal, defect, weight = [], [], []
    for mask, heat in _pairs(masks, maps):
        regions, _ = ndimage.label(mask, structure=np.ones((3, 3)))
        normal.append(heat[~mask])
        defect.append(heat[mask])
        weight.append(1 / np.bincount(regions.ravel())[regions[mask]])  # 1 / size of own region
    normal, defect, weight = (np.concatenate(parts) for parts in (normal, defect, weight))
    _check_both_classes(len(defect), len(normal), "pixels")

    order = np.argsort(defect)
    defect, below = defect[order], np.append(0.0, np.cumsum(weight[order]))
    n_normal, n_kept = len(normal), int(np.ceil(max_fpr * len(normal)))
    normal.partition(n_normal - n_kept)  # false positives beyond max_fpr have no influence
    values, counts = np.unique(normal[normal >= normal[n_normal - n_kept]], return_counts=True)
    values, step = values[::-1], counts[::-1] / n_normal  # one straight piece of curve per value
    overlap_before = 1 - below[np.searchsorted(defect, values, "right")] / below[-1]
    overlap_after = 1 - below[np.searchsorted(defect, values, "left")] / below[-1]
    fpr_before = np.append(0.0, np.cumsum(step)[:-1])
    width = np.clip(max_fpr - fpr_before, 0, step)
    height = overlap_before + (overlap_after - overlap_before) * width / step / 2
    return float(width @ height / max_fpr)


def _check_scores(y_true, scores):
    y_true, scores = np.asarray(y_true), np.asarray(scores)
    if y_true.ndim != 1 or y_true.shape != scores.shape:
        raise ValueError(
            "y_true and scores: expected two arrays of one shape (n,), "
            f"got {y_true.shape} and {scores.shape}."
        )
    if not ((y_true == 0) | (y_true == 1)).all():
        raise ValueError(
            f"y_true: expected 1 for anomalous and 0 for normal, got the values "
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
            f"{n_anomalous} anomalous ones: the measure is undefined for one class alone."
        )


def _pairs(masks, maps):
    """Check and yield (bool mask, map) image by image."""
    if len(masks) != len(maps):
        raise ValueError(f"expected one map per mask, got {len(masks)} masks, {len(maps)} maps.")
    if len(masks) == 0:
        raise ValueError("masks and maps: expected at least one image, got none.")
    for i, (mask, heat) in enumerate(zip(masks, maps, strict=True)):
        mask, heat = np.asarray(mask), np.asarray(heat)
        if mask.ndim != 2 or mask.shape != heat.shape:
            raise ValueError(
                f"image {i}: expected a mask and a map of one shape (H, W), "
                f"got mask {mask.shape} and map {heat.shape}."
            )
        if not np.isfinite(heat).all():
            raise ValueError(f"image {i}: the map holds NaN or infinity.")
        if mask.dtype.kind == "f" and not ((mask == 0) | (mask == 1)).all():
            raise ValueError(
                f"image {i}: expected a mask of 0 and 1, got other floats. Resized? Use nearest "
                "neighbors, or threshold it: mask > 0.5."
            )
        yield mask != 0, heat


def _pixels(masks, maps):
    """All pixels of all images as two flat arrays."""
    pairs = [(mask.ravel(), heat.ravel()) for mask, heat in _pairs(masks, maps)]
    return tuple(np.concatenate(parts) for parts in zip(*pairs, strict=True))
