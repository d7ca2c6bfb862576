"""Pixel figures of more images than fit into memory, with intervals.

Of each image, quantiles are kept: of its normal pixels, of its defective ones, and of these again
with each region counting as one. They are the denser the higher, where curves are steep. An image
of up to ``N_QUANTILES`` pixels is kept as it is.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from . import curves
from .metrics import Interval
from .validation import as_mask, as_real, check_confidence, check_count

N_QUANTILES = 2000
"""Values kept of each image and kind of pixel."""

_N_EDGES = 1000  # at which values of all images are told apart
_N_TOGETHER = 100  # resamples that are looked at together
_TOUCHING = np.ones((3, 3))


class PixelFigures(NamedTuple):
    """Figures of the pixels of a set of images, and their intervals.

    Attributes
    ----------
    auroc : float
    auroc_interval : Interval
    aupro : float
    aupro_interval : Interval
    """

    auroc: float
    auroc_interval: Interval
    aupro: float
    aupro_interval: Interval


class _Values(NamedTuple):
    """Values and how much each counts."""

    values: np.ndarray
    weights: np.ndarray


class _Seen(NamedTuple):
    """What is kept of an image; nothing of defects where it has none."""

    normal: _Values
    defective: _Values
    overlap: _Values


class PixelTally:
    """Takes masks and maps one after the other, and gives their pixel AUROC and AUPRO.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> mask = np.zeros((8, 8), dtype=bool)
    >>> mask[2:4, 2:4] = True
    >>> tally = PixelTally()
    >>> for _ in range(4):
    ...     tally.add(mask, mask + rng.normal(size=mask.shape))
    >>> figures = tally.figures()
    >>> round(figures.auroc, 2), figures.auroc_interval.low < figures.auroc
    (0.72, True)
    """

    def __init__(self):
        self._seen: list[_Seen] = []

    def __len__(self):
        return len(self._seen)

    @property
    def has_both(self) -> bool:
        """Whether there are normal and defective pixels, without which there are no figures."""
        kinds = ([s.normal for s in self._seen], [s.defective for s in self._seen])
        return all(any(len(part.values) for part in kind) for kind in kinds)

    def add(self, mask: ArrayLike, heat: ArrayLike) -> None:
        """Take an image.

        Parameters
        ----------
        mask, heat : arrays of shape (H, W)
            Ground truth, 1 where anomalous, and anomaly map, higher = more anomalous.

        Raises
        ------
        ValueError
            If shapes differ, the map is not finite, or the mask holds more than two values.
        """
        mask, heat = as_mask("mask", mask), as_real("map", heat)
        if mask.ndim != 2 or mask.shape != heat.shape:
            raise ValueError(
                "expected a mask and a map of the same shape (H, W), got mask "
                f"{mask.shape} and map {heat.shape}."
            )
        if not np.isfinite(heat).all():
            raise ValueError("expected a finite map, got NaN or infinity in it.")
        regions, _ = ndimage.label(mask, structure=_TOUCHING)
        defective, inside = heat[mask], regions[mask]
        self._seen.append(
            _Seen(
                _quantiles(heat[~mask]),
                _quantiles(defective),
                _quantiles(defective, 1 / np.bincount(inside)[inside]),
            )
        )

    def figures(
        self,
        *,
        max_fpr: float = 0.3,
        confidence: float = 0.95,
        n_resamples: int = 2000,
        random_state: int | np.random.Generator | None = 0,
    ) -> PixelFigures:
        """Figures of all images so far, and bootstrap percentile intervals.

        Images are drawn with replacement, those with and without defects apart.

        Parameters
        ----------
        max_fpr : float, default=0.3
            As of :func:`~anomalib_lite.metrics.aupro`.
        confidence, n_resamples, random_state
            As of :func:`~anomalib_lite.metrics.bootstrap_interval`.

        Returns
        -------
        figures : PixelFigures
            They differ from :func:`~anomalib_lite.metrics.pixel_auroc` and ``aupro`` by less than
            0.001; by rounding alone where the images have no more than 1,000 pixels in all.

        Raises
        ------
        ValueError
            If there is no defective pixel, or no normal one.
        """
        check_count("n_resamples", n_resamples)
        check_confidence(confidence)
        normal, defective, overlap = self._histograms()
        weights = self._resampled(n_resamples, np.random.default_rng(random_state))
        weights = weights[weights @ normal.sum(1) > 0]  # images without a normal pixel are possible
        auroc, aupro = [], []
        for start in range(0, len(weights), _N_TOGETHER):
            part = weights[start : start + _N_TOGETHER]
            drawn = part @ normal
            auroc.append(curves.auroc(drawn, part @ defective))
            aupro.append(curves.overlap_area(drawn, part @ overlap, max_fpr))
        return PixelFigures(
            float(curves.auroc(normal.sum(0), defective.sum(0))),
            Interval(*curves.middle(np.concatenate(auroc), confidence)),
            float(curves.overlap_area(normal.sum(0), overlap.sum(0), max_fpr)),
            Interval(*curves.middle(np.concatenate(aupro), confidence)),
        )

    def _histograms(self):
        """Of normal pixels, defective pixels and overlap: arrays (n_images, n_bins)."""
        if not self.has_both:
            raise ValueError("expected normal and defective pixels, got none of one kind.")
        together = (
            np.concatenate(parts) for parts in zip(*(s.normal for s in self._seen), strict=True)
        )
        edges = np.unique(_quantiles(*together, n=_N_EDGES).values)
        return [
            np.stack([_histogram(part, edges) for part in parts])
            for parts in zip(*self._seen, strict=True)
        ]

    def _resampled(self, n_resamples, rng):
        """How often each image is drawn (n_resamples, n_images)."""
        is_defective = np.array([len(seen.defective.values) > 0 for seen in self._seen])
        weights = np.zeros((n_resamples, len(self)))
        for row in weights:
            for kind in (np.flatnonzero(~is_defective), np.flatnonzero(is_defective)):
                if len(kind):
                    np.add.at(row, kind[rng.integers(len(kind), size=len(kind))], 1)
        return weights


def _quantiles(values, weights=None, n=N_QUANTILES):
    """Not more than ``n`` of some values, sorted, which stand for all: the denser the higher.

    Without weights each counts one.
    """
    if weights is None:
        values, weights = np.sort(values), np.ones(len(values))
    else:
        order = np.argsort(values)
        values, weights = values[order], weights[order]
    if len(values) <= n:
        return _Values(values, weights)
    sums = weights.cumsum()
    ends = sums[-1] * (1 - np.linspace(1, 0, n + 1) ** 2)
    places = np.searchsorted(sums, (ends[:-1] + ends[1:]) / 2)
    return _Values(values[places], np.diff(ends))


def _histogram(part, edges):
    """Weights (2 * len(edges) + 1,) below, at, and between edges, which ascend."""
    places = np.searchsorted(edges, part.values) + np.searchsorted(edges, part.values, "right")
    return np.bincount(places, part.weights, minlength=2 * len(edges) + 1)
