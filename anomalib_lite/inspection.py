"""What detectors say of images: scores, labels, maps, and which images could not be read."""

import math
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .annotations import Path, Size
from .data.images import CheckedImage, Glance, ImageStream, SkippedImage
from .io.files import write_file
from .notices import warn_user
from .records import (
    ALL_VERDICTS,
    COLUMNS,
    UNREADABLE,
    VERDICTS,
    WITH_MEMBERS,
    Record,
    write_csv,
)
from .regions import Region, find_regions
from .validation import as_pair, check_choice

if TYPE_CHECKING:
    import pandas


_NUMBERED = re.compile(r"^image \d+( \(.*?\))?: (?=\S)", re.S)  # a record has a path of its own


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


class ScoreLevels(NamedTuple):
    """Two anomaly scores (higher = more anomalous), by the scores of normal images.

    Attributes
    ----------
    normal : float
        The median over normal images.
    threshold : float
        Images above it are called anomalous. NaN, or infinite, where there is no threshold.
    """

    normal: float
    threshold: float

    def severity(self, anomaly_scores: ArrayLike) -> np.ndarray:
        """Anomaly scores on a scale on which the median normal image is 0 and the threshold 1.

        NaN without a threshold above the median.

        Examples
        --------
        >>> ScoreLevels(normal=2.0, threshold=4.0).severity([2.0, 4.0, 10.0])
        array([0., 1., 4.])
        """
        reach = self.threshold - self.normal
        scores = np.asarray(anomaly_scores, dtype=float)
        if not (math.isfinite(reach) and reach > 0):
            return np.full(scores.shape, np.nan)
        return (scores - self.normal) / reach


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
    sizes : list of (tuple (H, W) or None), or None
        Size of each image.
    p_values : ndarray of shape (n_images,) or None
        Of a ``ConformalDetector``.
    score_levels : ScoreLevels or None
        What is normal in scores; see the detector's ``score_levels()``.
    map_levels : MapLevels or None
        What is normal in maps; see the detector's ``map_levels()``.
    member_scores : dict of str to ndarray of shape (n_images,), or None
        Of a ``DetectorEnsemble``: its ``member_scores``, by names; NaN for a skipped image.
    flagged_by : list of tuple of str, or None
        Of a ``DetectorEnsemble``: the members that call each image anomalous.

    Examples
    --------
    >>> from anomalib_lite import PaDiM
    >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
    >>> detector = PaDiM(image_size=64, false_alarm_rate=0.1, random_state=0).fit(images)
    >>> odd = images[:3].copy()
    >>> odd[0, 20:40, 20:40] = 255
    >>> seen = detector.inspect(odd)
    >>> seen.to_frame()["verdict"].tolist()
    ['anomalous', 'normal', 'normal']
    """

    scores: np.ndarray
    labels: np.ndarray
    maps: np.ndarray | list[np.ndarray | None] | None
    paths: list[str | None]
    skipped: Sequence[SkippedImage] = ()
    sizes: Sequence[tuple[int, int] | None] | None = None
    p_values: np.ndarray | None = None
    score_levels: ScoreLevels | None = None
    map_levels: MapLevels | None = None
    member_scores: Mapping[str, np.ndarray] | None = None
    flagged_by: Sequence[tuple[str, ...]] | None = None

    def regions(self) -> list[list[Region]]:
        """Regions of each image's map above the level of normal maps, the worst first.

        Returns
        -------
        regions : list of list of Region
            Boxes are in pixels of the images. No regions for a skipped image.

        Raises
        ------
        ValueError
            If there are no maps, or no levels.
        """
        if self.maps is None or self.map_levels is None:
            raise ValueError("regions: expected an inspection with maps, of a detector of images.")
        return [
            [] if heat is None else find_regions(heat, self.map_levels.threshold, size)
            for heat, size in zip(self.maps, self._each(self.sizes), strict=True)
        ]

    def records(self) -> list[Record]:
        """One :class:`~anomalib_lite.records.Record` an image, in order."""
        has_regions = self.maps is not None and self.map_levels is not None
        regions = self.regions() if has_regions else [[]] * len(self.scores)
        reasons = {skipped.index: skipped.reason for skipped in self.skipped}
        sizes, p_values = self._each(self.sizes), self._each(self.p_values)
        flagged_by = [()] * len(self.scores) if self.flagged_by is None else self.flagged_by
        return [
            _record(
                float(self.scores[i]),
                int(self.labels[i]),
                path,
                regions[i],
                size=sizes[i],
                p_value=p_values[i],
                reason=reasons.get(i),
                levels=self.score_levels,
                flagged_by=flagged_by[i],
            )
            for i, path in enumerate(self.paths)
        ]

    def _each(self, values):
        return [None] * len(self.scores) if values is None else list(values)

    def to_frame(self) -> "pandas.DataFrame":
        """The records as a table, one row an image; pandas is imported when this is called.

        Returns
        -------
        frame : pandas.DataFrame
            Columns: ``path``, ``verdict`` (normal, anomalous, undecided, unreadable),
            ``anomaly_score`` (higher = more anomalous), ``severity`` (0 the median normal image, 1
            the threshold), ``p_value``, the box ``left``, ``top``, ``right``, ``bottom``, ``area``
            and ``peak`` of the worst region, ``n_regions``, ``width``, ``height``, ``modified`` (of
            the file, in seconds since 1970), ``reason`` (why it could not be read); of a
            ``DetectorEnsemble`` also ``flagged_by`` (names of members).
        """
        import pandas

        return pandas.DataFrame([record.as_row(self._columns) for record in self.records()])

    @property
    def _columns(self):
        return COLUMNS if self.flagged_by is None else WITH_MEMBERS

    def to_csv(self, path: Path) -> None:
        """Write the table of :meth:`to_frame` to a CSV file (UTF-8), whole; needs no pandas."""
        text = StringIO(newline="")
        write_csv(self.records(), text, self._columns)
        write_file(pathlib.Path(path), text.getvalue().encode("utf-8", "surrogateescape"))

    def __repr__(self):
        """Counts, and the worst image, in one line."""
        each = zip(self.scores, self.labels, strict=True)
        verdicts = [_verdict(score, label, self.score_levels) for score, label in each]
        counts = [f"{verdicts.count(kind)} {kind}" for kind in ALL_VERDICTS if kind in verdicts]
        known = self.scores[~np.isnan(self.scores)]
        worst = f"; highest anomaly score {-known.min():.4g}" if len(known) else ""
        n = len(self.scores)
        return f"<Inspection of {n} image{'' if n == 1 else 's'}: {', '.join(counts)}{worst}>"


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
    size : tuple (H, W) or None
        Of the image.
    p_value : float or None
        Of a ``ConformalDetector``.
    member_scores : dict of str to float, or None
        Of a ``DetectorEnsemble``: its ``member_scores`` of the image, by names.
    flagged_by : tuple of str
        Names of the members of a ``DetectorEnsemble`` that call the image anomalous; empty of one
        that it does not call so.
    """

    score: float
    label: int
    map: np.ndarray | None
    path: str | None
    reason: str | None = None
    size: tuple[int, int] | None = None
    p_value: float | None = None
    member_scores: Mapping[str, float] | None = None
    flagged_by: tuple[str, ...] = ()

    @classmethod
    def of_skipped(cls, skipped: SkippedImage) -> "InspectedImage":
        """What is said of an image that could not be read."""
        return cls(math.nan, 0, None, skipped.path, skipped.reason)


def record_of(
    image: InspectedImage, score_levels: ScoreLevels | None, map_levels: MapLevels | None
) -> Record:
    """The record of an inspected image, by what is normal for its detector."""
    level = math.nan if map_levels is None else map_levels.threshold
    regions = [] if image.map is None else find_regions(image.map, level, image.size)
    return _record(
        image.score,
        image.label,
        image.path,
        regions,
        size=image.size,
        p_value=image.p_value,
        reason=image.reason,
        levels=score_levels,
        flagged_by=image.flagged_by,
    )


def columns_of(detector: Any) -> tuple[str, ...]:
    """Columns of a table of what a detector says: an ensemble's has one more."""
    return WITH_MEMBERS if hasattr(detector, "member_scores") else COLUMNS


def _record(score, label, path, regions, *, size, p_value, reason, levels, flagged_by):
    return Record(
        path=path,
        verdict=_verdict(score, label, levels),
        anomaly_score=-score,
        severity=math.nan if levels is None else float(levels.severity(-score)),
        p_value=None if p_value is None or math.isnan(p_value) else float(p_value),
        region=regions[0] if regions else None,
        n_regions=len(regions),
        size=size,
        modified=modified(path),
        reason=None if reason is None else _NUMBERED.sub("", reason),
        flagged_by=flagged_by,
    )


def _verdict(score, label, levels):
    """In words; "normal" would mean nothing where nothing can be called anomalous."""
    if math.isnan(score):
        return UNREADABLE
    is_decided = levels is None or math.isfinite(levels.threshold)
    return VERDICTS[label if is_decided else 0]


def modified(path: str | None) -> float | None:
    """When a file was written, in seconds since 1970; None without one."""
    if path is None:
        return None
    try:
        return os.stat(path).st_mtime
    except (OSError, ValueError):
        return None


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


def map_size_of(
    maps: bool | str | Size, network_size: tuple[int, int]
) -> Callable[[CheckedImage | Glance], tuple[int, int]] | None:
    """Function that gives the size of an image's map, by the parameter ``maps``; None for no maps.

    Examples
    --------
    >>> map_size_of("network", (224, 224))(None)
    (224, 224)
    """
    if maps is False:
        return None
    if maps is True:
        return lambda image: image.size
    if isinstance(maps, str):
        check_choice("maps", maps, ("network",))
        return lambda image: network_size
    size = as_pair("maps", maps)
    return lambda image: size


def with_skipped(
    seen: Iterable[tuple[int, InspectedImage]], skipped: Sequence[SkippedImage]
) -> Iterator[InspectedImage]:
    """All images in order, of (index, image) for each that was read and of those skipped so far."""
    n_told = 0
    for index, image in seen:
        while n_told < len(skipped) and skipped[n_told].index < index:
            yield InspectedImage.of_skipped(skipped[n_told])
            n_told += 1
        yield image
    yield from map(InspectedImage.of_skipped, skipped[n_told:])


def collected(
    images: Iterable[InspectedImage], stream: ImageStream, *, has_maps: bool
) -> Inspection:
    """All images of a stream in one, without levels; warns of those that were skipped."""
    made = MapCollector(stream.n_images if has_maps else None)
    seen = []
    for image in images:
        made.add(image.map)
        seen.append(image._replace(map=None))
    warn_of_skipped(stream.skipped)
    member_scores = _by_member(seen)
    return Inspection(
        scores=np.array([image.score for image in seen]),
        labels=np.array([image.label for image in seen]),
        maps=made.result() if has_maps else None,
        paths=[image.path for image in seen],
        skipped=[*stream.skipped],
        sizes=[image.size for image in seen],
        member_scores=member_scores,
        flagged_by=None if member_scores is None else [image.flagged_by for image in seen],
    )


def _by_member(seen):
    """Scores (n_images,) of each member by its name; None of a detector without members."""
    told = [image.member_scores for image in seen]
    names = next(filter(None, told), None)
    if names is None:
        return None
    return {
        name: np.array([math.nan if each is None else each[name] for each in told])
        for name in names
    }


def warn_of_skipped(skipped: Sequence[SkippedImage]) -> None:
    """Warn that images were skipped, if any were."""
    if skipped:
        n, shown = len(skipped), "; ".join(each.reason for each in skipped[:3])
        warn_user(
            f"{n} image{' was' if n == 1 else 's were'} skipped and got no score: {shown}"
            f"{'; ...' if n > 3 else ''}"
        )
