"""Where in an image a defect is: connected regions of an anomaly map above a level."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .validation import as_real


class Region(NamedTuple):
    """A connected part of an image whose anomaly map is above a level.

    Attributes
    ----------
    box : tuple of int
        (left, top, right, bottom) in pixels of the image; right and bottom are just outside, so
        that ``image[top:bottom, left:right]`` cuts it out.
    area : int
        In pixels of the image.
    peak : float
        The highest value of the map in it.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float


def find_regions(
    heat: ArrayLike, level: float, size: tuple[int, int] | None = None
) -> list[Region]:
    """Connected regions of a map above a level, the one with the highest peak first.

    Parameters
    ----------
    heat : array of shape (h, w)
        Higher = more anomalous. It covers its image, whatever its resolution.
    level : float
        The ``threshold`` of a detector's ``map_levels()``, for instance. Without one (NaN or
        infinity) there are no regions.
    size : tuple (H, W) or None, default=None
        Size of the image, in whose pixels boxes and areas are; None is that of the map.

    Returns
    -------
    regions : list of Region

    Examples
    --------
    >>> heat = np.zeros((4, 6))
    >>> heat[1:3, 2:4] = 5.0
    >>> find_regions(heat, 1.0)
    [Region(box=(2, 1, 4, 3), area=4, peak=5.0)]
    >>> find_regions(heat, 1.0, size=(40, 60))
    [Region(box=(20, 10, 40, 30), area=400, peak=5.0)]
    """
    heat = as_real("heat", heat)
    if heat.ndim != 2:
        raise ValueError(f"heat: expected shape (h, w), got {heat.shape}.")
    if not np.isfinite(level):
        return []
    runs = _Runs.of(heat > level)
    if len(runs.starts) == 0:
        return []
    firsts, places = np.unique(runs.components(), return_inverse=True)
    order = np.argsort(places, kind="stable")
    begins = np.searchsorted(places[order], np.arange(len(firsts)))  # of each region, in the order

    def reduced(operation, values):
        return operation.reduceat(values[order], begins)

    peaks = reduced(np.maximum, runs.peaks(heat)).astype(float)
    down, across = np.divide(heat.shape if size is None else size, heat.shape)
    lefts = reduced(np.minimum, runs.starts) * across
    tops = reduced(np.minimum, runs.rows) * down
    rights = np.ceil(reduced(np.maximum, runs.stops) * across)
    bottoms = np.ceil((reduced(np.maximum, runs.rows) + 1) * down)
    areas = np.rint(reduced(np.add, runs.stops - runs.starts) * down * across)
    boxes = np.stack([lefts, tops, rights, bottoms], axis=1).astype(int)
    worst = np.argsort(-peaks, kind="stable")
    areas = areas.astype(int).clip(1)
    each = zip(boxes[worst].tolist(), areas[worst].tolist(), peaks[worst].tolist(), strict=True)
    return [Region(tuple(box), area, peak) for box, area, peak in each]


class _Runs(NamedTuple):
    """Pixels of a mask (h, w) that are set, as runs along its rows, from the first row on.

    Attributes
    ----------
    rows, starts, stops : ndarray of shape (n,)
        Row of each run, its first column, and the one just outside.
    width : int
        Of the mask.
    """

    rows: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    width: int

    @classmethod
    def of(cls, mask):
        padded = np.pad(mask, ((0, 0), (1, 1)))
        width = mask.shape[1]
        changes = np.flatnonzero(padded[:, 1:] != padded[:, :-1])
        rows, columns = np.divmod(changes, width + 1)
        return cls(rows[::2], columns[::2], columns[1::2], width)

    def peaks(self, heat):
        """The highest value of a map in each run."""
        bounds = np.stack([self.starts, self.stops], axis=1) + (self.rows * self.width)[:, None]
        values = np.append(heat.ravel(), heat.flat[0])  # the last run may end with the map
        return np.maximum.reduceat(values, bounds.ravel())[::2]

    def components(self):
        """The first run of those that each run is connected with; corners connect, too."""
        roots = np.arange(len(self.rows))
        one, other = self._touching()
        while len(one):
            # every root that touches an earlier one is put below it, whichever comes last
            roots[np.maximum(one, other)] = np.minimum(one, other)
            while (roots[roots] != roots).any():
                roots = roots[roots]
            one, other = roots[one], roots[other]
            apart = one != other
            one, other = one[apart], other[apart]
        return roots

    def _touching(self):
        """Two arrays: runs, and those of the row before that they touch."""
        line = self.rows * (self.width + 1)
        starts, stops = line + self.starts, line + self.stops
        first = np.searchsorted(stops, starts - (self.width + 1))
        last = np.searchsorted(starts, stops - (self.width + 1), "right")
        counts = last - first
        one = np.repeat(np.arange(len(starts)), counts)
        begin = counts.cumsum() - counts
        return one, np.arange(len(one)) - np.repeat(begin - first, counts)
