"""An exported detector, on a machine without PyTorch."""

import math
import os
from collections.abc import Iterator

import numpy as np

from ..annotations import Images, Size
from ..annotations import Path as PathLike
from ..data.images import CheckedImage, ImageStream
from ..data.rasters import FULL_SCALE, Raster
from ..data.scales import ScaleCheck
from ..inspection import (
    InspectedImage,
    Inspection,
    MapLevels,
    ScoreLevels,
    collected,
    map_size_of,
    warn_of_skipped,
    with_skipped,
)
from ..validation import check_count, not_finite
from .card import INPUTS, DetectorCard
from .graph import Graph

_TAKES = {  # dtypes of images, by that of the graph; of floats, those of any precision
    "uint8": ("bool", "uint8"),
    "uint16": ("bool", "uint8", "uint16"),
    "float32": ("bool", "uint8", "uint16", "float"),
}


class OnnxDetector:
    """A detector from a file that ``export`` wrote; it needs NumPy, Pillow and ONNX Runtime alone.

    It scores and decides as the detector did that was exported, up to the rounding that its card
    states (``card.parity``), and takes the same images. It learns nothing, and its threshold
    stays: for another one, set it on the detector and export again.

    Parameters
    ----------
    path : str or Path
        The file. It is read once, and checked to the last byte.
    n_threads : int or None, default=None
        Threads of ONNX Runtime within an image; None is as many as there are processors that this
        process may use, up to four. 1 is right on a busy machine, and where several threads of the
        caller score images.

    Attributes
    ----------
    card : DetectorCard
        What the file says of the detector: method, version, threshold, ...
    offset_ : float
        The threshold of ``predict``, on ``score_samples``; NaN without one, minus infinity where
        too few calibration images of a ``ConformalDetector`` call nothing anomalous.

    Raises
    ------
    ValueError
        If the file was not written by ``export``, is cut off, altered, or of a later format.
    ImportError
        If onnxruntime is missing or too old.
    OSError
        If the file cannot be read.

    Notes
    -----
    Images pass through the graph one by one, as they were decoded. A graph takes one dtype. Bools
    and images of 8 bits go into a graph of uint16 or float32, converted as fit would; 16 bits or
    floats into one of uint8 would lose what they show, and are refused. Several threads may use
    one detector; a pickle holds the path, and the file must be there when it is read.

    Examples
    --------
    >>> from anomalib_lite.deploy import OnnxDetector
    >>> detector = OnnxDetector("part.onnx")  # doctest: +SKIP
    >>> detector.predict(["new/a.png", "new/b.png"])  # doctest: +SKIP
    array([ 1, -1])
    """

    def __init__(self, path: PathLike, *, n_threads: int | None = None):
        if n_threads is not None:
            check_count("n_threads", n_threads)
        self._graph = Graph(path, n_threads)

    @property
    def path(self) -> str:
        """The absolute path of the file."""
        return os.fspath(self._graph.path)

    @property
    def n_threads(self) -> int | None:
        """As it was given."""
        return self._graph.n_threads

    @property
    def card(self) -> DetectorCard:
        """What the file says of the detector."""
        return self._graph.card

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the file."""
        return self._graph.digest

    @property
    def n_bytes(self) -> int:
        """Size of the file."""
        return self._graph.n_bytes

    @property
    def offset_(self) -> float:
        """The threshold of ``predict``, on ``score_samples``; NaN without one.

        Minus infinity of a ``ConformalDetector`` with too few calibration images to call any
        anomalous.
        """
        if self.card.offset is not None:
            return self.card.offset
        return math.nan if self.card.conformal is None else -math.inf  # it calls nothing anomalous

    def __repr__(self):
        return f"OnnxDetector({self.path!r})"

    # -- scoring ----------------------------------------------------------------------------------

    def score_samples(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """Normality of each image: minus the anomaly score, so lower = more anomalous.

        Parameters
        ----------
        X : array, list, folder or iterable
            Images; see :mod:`anomalib_lite.data.images`.
        on_error : {"raise", "skip"}, default="raise"
            What an image does that cannot be read: raise a ValueError, or get NaN and be named in a
            warning.

        Returns
        -------
        scores : ndarray of shape (n_images,)
            In the method's unit.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        return self.inspect(X, maps=False, on_error=on_error).scores

    def anomaly_score(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """Anomaly score of each image, higher = more anomalous: minus ``score_samples``."""
        return -self.score_samples(X, on_error=on_error)

    def decision_function(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """``score_samples(X) - offset_``: negative where an image is called anomalous."""
        self._check_threshold()
        return self.score_samples(X, on_error=on_error) - self.offset_

    def predict(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """+1 for images called normal, -1 for anomalous ones, shape (n_images,).

        A skipped image gets 0; see :meth:`score_samples`.
        """
        self._check_threshold()
        return self.inspect(X, maps=False, on_error=on_error).labels

    def p_values(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """P-value of each image, (n_images,); of a ``ConformalDetector`` alone.

        NaN for a skipped image.
        """
        if self.card.conformal is None:
            raise ValueError(
                f"{self.path}: expected an exported ConformalDetector, got {self.card.method}, "
                "which has no p-values."
            )
        return self.inspect(X, maps=False, on_error=on_error).p_values

    def anomaly_map(
        self, X: Images, *, on_error: str = "raise"
    ) -> np.ndarray | list[np.ndarray | None]:
        """Anomaly map of each image at its own size, higher = more anomalous.

        Parameters
        ----------
        X : array, list, folder or iterable
            Images; see :mod:`anomalib_lite.data.images`.
        on_error : {"raise", "skip"}, default="raise"
            As for :meth:`score_samples`; the map of a skipped image is None.

        Returns
        -------
        maps : ndarray of shape (n_images, H, W), or list of ndarray of shape (H, W)
            float32, in the unit of the anomaly score, smoothed. A list where sizes differ.
        """
        return self.inspect(X, on_error=on_error).maps

    def inspect(
        self, X: Images, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Inspection:
        """Scores, labels and maps from one pass over the images.

        Parameters
        ----------
        X : array, list, folder or iterable
            Images; see :mod:`anomalib_lite.data.images`.
        maps : bool, "network", int or tuple (H, W), default=True
            Size of the maps: each image's own, the one that images are resized to for the network,
            or the given one. False leaves them out. Maps of large photographs take memory, 48 MB
            for 12 megapixels.
        on_error : {"raise", "skip"}, default="raise"
            What an image does that cannot be read: raise a ValueError, or get NaN and the label 0
            and be listed in ``skipped``.

        Returns
        -------
        inspection : Inspection
            Named tuple (scores, labels, maps, paths, skipped, ...), with tables (``to_frame``,
            ``to_csv``) and ``regions``.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        stream, has_maps = self._open(X, on_error), maps is not False
        p_values = []

        def noted(images):
            for image in images:
                p_values.append(math.nan if image.p_value is None else image.p_value)
                yield image

        seen = collected(noted(self._inspected(stream, maps)), stream, has_maps=has_maps)
        return seen._replace(
            p_values=None if self.card.conformal is None else np.array(p_values),
            score_levels=self.score_levels(),
            map_levels=self.map_levels() if has_maps else None,
        )

    def iter_inspect(
        self, X: Images, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Iterator[InspectedImage]:
        """Score, label and map of one image after the other, as they are read.

        Parameters
        ----------
        X, maps, on_error
            As for :meth:`inspect`.

        Yields
        ------
        image : InspectedImage
            Named tuple (score, label, map, path, reason, ...), one for each image, in order.

        Notes
        -----
        One image is in memory at a time. Where the first images look scaled in another way than
        those of fit, results wait until one does not.
        """
        stream = self._open(X, on_error)
        yield from self._inspected(stream, maps)
        warn_of_skipped(stream.skipped)

    def score_levels(self) -> ScoreLevels:
        """What is normal and what is not in anomaly scores (higher = more anomalous).

        Returns
        -------
        levels : ScoreLevels
            Named tuple (normal, threshold): the median of the normal images' scores, out of sample,
            and the threshold of ``predict``. NaN for what the detector does not have.
        """
        normal = math.nan if self.card.normal is None else self.card.normal
        threshold = math.nan if self.card.offset is None else -self.card.offset
        return ScoreLevels(normal, threshold)

    def map_levels(self) -> MapLevels:
        """What is normal and what is not in the values of anomaly maps.

        Returns
        -------
        levels : MapLevels
            Named tuple (normal, threshold); NaN for what the detector does not have.
        """
        return MapLevels(*(self.card.map_levels or (math.nan, math.nan)))

    # -- one image after the other ----------------------------------------------------------------

    def _check_threshold(self):
        if math.isnan(self.offset_):
            raise ValueError(
                f"{self.path}: the detector had no threshold when it was exported. Calibrate it on "
                "more good parts with set_threshold, and export it again."
            )

    def _open(self, X, on_error):
        return ImageStream(
            X, min_side=self.card.smallest_side, on_error=on_error, check=self._check_dtype
        )

    def _check_dtype(self, raster):
        kind = "float" if raster.dtype.startswith("float") else raster.dtype
        if kind not in _TAKES[self.card.input]:
            wanted = next(name for name in INPUTS if kind in _TAKES[name])
            raise ValueError(
                f"expected an image of {' or '.join(_TAKES[self.card.input])}, which this exported "
                f'detector takes, got {raster.dtype}. Export it with input="{wanted}".'
            )

    def _inspected(self, stream, maps):
        """An InspectedImage for each image of the stream, skipped ones included, in order."""
        size_of = map_size_of(maps, self.card.image_size)
        return with_skipped(self._look(stream, size_of), stream.skipped)

    def _look(self, stream, size_of):
        """(index, InspectedImage) of each image, once one is scaled as those of fit."""
        scale, waiting = ScaleCheck(self.card.value_range), []

        def look(image):
            glance = image.glance(levels=scale.needs_levels(image.dtype))
            return glance, self._look_at(image, None if size_of is None else size_of(image))

        for [(glance, seen)] in stream.work(None, look):
            scale.see(glance)
            waiting.append((glance.index, seen))
            if scale.is_right:
                yield from waiting
                waiting = []
        scale.finish()

    def _look_at(self, image: CheckedImage, map_size):
        try:
            answer = self._graph.ask(_as_taken(image.raster, self.card.input), map_size)
        except ValueError as error:
            raise ValueError(f"{image.label}: {error}") from error
        if not math.isfinite(answer.score) or not _is_finite(answer.map):
            raise not_finite(image.label)
        return InspectedImage(
            -answer.score,
            answer.label,
            answer.map,
            image.path,
            size=image.size,
            p_value=answer.p_value,
        )


def _as_taken(raster: Raster, dtype: str) -> np.ndarray:
    """Pixels (H, W, C) of an image that is taken, of the dtype of a graph."""
    array = raster.array()
    if array.dtype == dtype:
        return array.clip(0, 1) if dtype == "float32" else array
    if array.dtype.kind == "f":
        return np.clip(array, 0, 1, dtype=np.float32)
    if dtype == "float32":
        return array.astype(np.float32) / np.float32(raster.full_scale)
    return array.astype(dtype) * int(FULL_SCALE[dtype] / raster.full_scale)


def _is_finite(heat):
    return heat is None or bool(np.isfinite(heat.max()) and np.isfinite(heat.min()))
