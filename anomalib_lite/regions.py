"""Where in an image a defect is: connected regions of an anomaly map above a level."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from .validation import as_real

_TOUCHING = np.ones((3, 3), dtype=int)  # pixels that share a corner are connected


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
    labels, n = ndimage.label(heat > level, _TOUCHING)
    if n == 0:
        return []
    peaks = ndimage.maximum(heat, labels, np.arange(1, n + 1))
    areas = np.bincount(labels.ravel(), minlength=n + 1)[1:]
    down, across = np.divide(heat.shape if size is None else size, heat.shape)
    regions = []
    boxes = ndimage.find_objects(labels)
    for place in np.argsort(-peaks, kind="stable"):
        rows, columns = boxes[place]
        box = (
            int(columns.start * across),
            int(rows.start * down),
            int(np.ceil(columns.stop * across)),
            int(np.ceil(rows.stop * down)),
        )
        area = max(1, round(float(areas[place] * down * across)))
        regions.append(Region(box, area, float(peaks[place])))
    return regions
