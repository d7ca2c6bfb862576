"""What detectors say of images: scores, labels, maps, and which images could not be read."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .data.images import SkippedImage
from .runtime import warn_user


class Inspection(NamedTuple):
    """Scores, labels, maps and paths of a set of images: one entry an image, in order.

    Attributes
    ----------
    scores : ndarray of shape (n_images,)
        As ``score_samples``: lower = more anomalous; NaN for a skipped image.
    labels : ndarray of shape (n_images,)
        As ``predict``: +1 normal, -1 anomalous; 0 for a skipped image, or without a threshold.
    maps : ndarray of shape (n_images, H, W), list of (ndarray of shape (H, W) or None), or None
        As ``anomaly_map``: higher = more anomalous. A list where sizes differ or images were
        skipped; None with ``maps=False``.
    paths : list of (str or None)
        The file each image was read from.
    skipped : list of SkippedImage
        Index, path and reason of the images that could not be read, in order.
    """

    scores: np.ndarray
    labels: np.ndarray
    maps: np.ndarray | list[np.ndarray | None] | None
    paths: list[str | None]
    skipped: Sequence[SkippedImage] = ()


class InspectedImage(NamedTuple):
    """What a detector says of one image.

    Attributes
    ----------
    score : float
        As ``score_samples``: lower = more anomalous; NaN for a skipped image.
    label : int
        +1 normal, -1 anomalous; 0 for a skipped image, or without a threshold.
    map : ndarray of shape (H, W) or None
        Higher = more anomalous.
    path : str or None
        The file that the image was read from.
    reason : str or None
        Why the image was skipped.
    """

    score: float
    label: int
    map: np.ndarray | None
    path: str | None
    reason: str | None = None

    @classmethod
    def of_skipped(cls, skipped: SkippedImage) -> "InspectedImage":
        """What is said of an image that could not be read."""
        return cls(math.nan, 0, None, skipped.path, skipped.reason)


class MapLevels(NamedTuple):
    """Two values of an anomaly map, by the maps of normal images.

    Attributes
    ----------
    normal : float
        The median over normal images of the highest value in a map.
    threshold : float
        No pixel in the map of a normal image is higher, at the detector's ``false_alarm_rate``.
    """

    normal: float
    threshold: float


class MapCollector:
    """Maps written into one array while their sizes agree, kept apart once they do not.

    Parameters
    ----------
    n_images : int or None
        Expected number of maps.

    Examples
    --------
    >>> collector = MapCollector(2)
    >>> collector.add(np.zeros((4, 6)))
    >>> collector.add(np.ones((4, 6)))
    >>> collector.result().shape
    (2, 4, 6)
    """

    def __init__(self, n_images: int | None):
        self._n_images = n_images
        self._array = None
        self._maps = []

    def add(self, image_map: np.ndarray | None) -> None:
        """Take the next map, None for an image without one."""
        self._maps.append(None if image_map is None else self._placed(image_map))

    def _placed(self, image_map):
        """The map, in the array if it fits."""
        if self._array is None and self._n_images is not None:
            self._array = np.empty((self._n_images, *image_map.shape), image_map.dtype)
        fits = self._array is not None and len(self._maps) < self._n_images
        if not (fits and self._array.shape[1:] == image_map.shape):
            return image_map
        place = self._array[len(self._maps)]
        place[:] = image_map
        return place

    def result(self) -> np.ndarray | list[np.ndarray | None]:
        """An array (n, H, W) where all sizes agree, else a list."""
        shapes = {None if image_map is None else image_map.shape for image_map in self._maps}
        if len(shapes) > 1 or None in shapes:
            return self._maps
        complete = self._array is not None and len(self._maps) == self._n_images
        return self._array if complete else np.stack(self._maps)


def warn_of_skipped(skipped: Sequence[SkippedImage]) -> None:
    """Warn that images were skipped, if any were."""
    if skipped:
        n, shown = len(skipped), "; ".join(each.reason for each in skipped[:3])
        warn_user(
            f"{n} image{' was' if n == 1 else 's were'} skipped and got no score: {shown}"
            f"{'; ...' if n > 3 else ''}"
        )
