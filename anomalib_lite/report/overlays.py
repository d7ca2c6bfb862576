"""Pictures with their anomaly maps over them, made without matplotlib."""

import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..annotations import Path as PathLike
from ..data.images import ImageStream
from ..inspection import InspectedImage
from ..io.files import write_file
from ..records import Record
from .pictures import file_name, in_order, small_picture
from .scales import ColorScale

ANCHORS = np.array([
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85),
    (227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164),
])  # fmt: skip
"""Evenly spaced colors of the scale, which is matplotlib's inferno."""

_ALPHA = 0.7  # opacity of a map from the threshold on
_N_PIXELS = 1024  # a side of a picture that is written
_QUALITY = 88
_LONGEST_NAME = 80


def colors_of(places: np.ndarray) -> np.ndarray:
    """Colors (..., 3), from 0 to 255, of places on the color scale, from 0 to 1.

    Examples
    --------
    >>> colors_of(np.array([0.0, 0.5])).tolist()
    [[0.0, 0.0, 4.0], [186.0, 54.0, 85.0]]
    """
    at = np.linspace(0, 1, len(ANCHORS))
    return np.stack([np.interp(places, at, channel) for channel in ANCHORS.T], axis=-1)


def overlay(
    picture: np.ndarray, heat: np.ndarray, levels: tuple[float, float] | None
) -> Image.Image:
    """A picture with its anomaly map over it, as ``AnomalyMapDisplay`` draws it.

    Parameters
    ----------
    picture : array of shape (H, W) or (H, W, 3)
        In [0, 1].
    heat : array of shape (h, w)
        Higher = more anomalous. It covers the picture, whatever its resolution.
    levels : MapLevels, pair (normal, threshold) of floats, or None
        The detector's ``map_levels()``. The map is transparent up to ``normal``; ``threshold``
        always has the same color, and a white contour. None takes colors from the map.

    Returns
    -------
    image : PIL.Image.Image of the mode "RGB"

    Examples
    --------
    >>> overlay(np.ones((4, 6)), np.zeros((2, 3)), levels=(1.0, 2.0)).getpixel((0, 0))
    (255, 255, 255)
    """
    return overlaid(picture, heat, ColorScale.of([heat], levels))


def overlaid(picture: np.ndarray, heat: np.ndarray, scale: ColorScale) -> Image.Image:
    """The same on a color scale."""
    height, width = picture.shape[:2]
    heat = np.asarray(
        Image.fromarray(np.asarray(heat, np.float32)).resize(
            (width, height), Image.Resampling.BILINEAR
        )
    )
    planes = 255 * np.asarray(picture, dtype=float).reshape(height, width, -1)
    alpha = _ALPHA * scale.opacity(heat)[..., None]
    mixed = (1 - alpha) * planes + alpha * colors_of(scale.place(heat))
    if scale.threshold is not None:
        mixed[_contour(heat > scale.threshold)] = 255
    return as_image(mixed / 255)


def as_image(picture: np.ndarray) -> Image.Image:
    """Pixels (H, W) or (H, W, 3) in [0, 1] as a PIL image."""
    return Image.fromarray(np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8))


def as_jpeg(image: Image.Image, quality: int = _QUALITY) -> bytes:
    """A PIL image as the content of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _contour(inside):
    """Pixels inside along the border of a mask, so many that they can be seen."""
    width = max(1, round(max(inside.shape) / 400))
    return inside & ~_eroded(_eroded(inside, width).T, width).T


def _eroded(inside, width):
    """Pixels inside that have no other within so many rows; beyond the picture all are inside."""
    padded = np.pad(inside, ((width, width), (0, 0)), constant_values=True)
    return np.logical_and.reduce([padded[i : i + len(inside)] for i in range(2 * width + 1)])


# -- files ----------------------------------------------------------------------------------------


class FileNames:
    """Safe names of files, each given once.

    The same paths in the same order get the same names.

    Examples
    --------
    >>> names = FileNames(".jpg")
    >>> [names.name_of(path) for path in ("a/cell 1.png", "b/cell 1.png", "a/cell 1.png", None)]
    ['cell_1.jpg', 'cell_1-2.jpg', 'cell_1.jpg', 'image.jpg']
    """

    def __init__(self, suffix: str):
        self._suffix = suffix
        self._names: dict[str | None, str] = {}
        self._used: set[str] = set()

    def name_of(self, path: str | None) -> str:
        """The name for what comes from a path; the same whenever it is asked for."""
        if path not in self._names:
            self._names[path] = self._free(_safe_stem(path))
        return self._names[path]

    def _free(self, stem):
        name, number = stem, 1
        while name.lower() in self._used:  # many file systems do not tell A from a
            number += 1
            name = f"{stem}-{number}"
        self._used.add(name.lower())
        return name + self._suffix


def _safe_stem(path):
    """The name of a file without its suffix, of letters that every file system takes."""
    stem = os.path.splitext(file_name(path))[0]
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in stem)
    return safe.strip("._-")[:_LONGEST_NAME] or "image"


def save_overlays(
    folder: PathLike,
    detector: Any,
    records: Iterable[Record],
    *,
    names: FileNames | None = None,
) -> list[str]:
    """Write pictures of the anomalous images with heatmaps, as JPEG files.

    The images are read and inspected again, one after the other. One that can no longer be read
    gets no picture.

    Parameters
    ----------
    folder : str or Path
        Made if there is none. A file of the same name is replaced.
    detector : fitted detector
        With ``iter_inspect``, such as every detector of images of this package.
    records : iterable of Record
        Those that are anomalous and have a path are looked at.
    names : FileNames or None, default=None
        Names of the files, for several calls on one folder; None gives new ones.

    Returns
    -------
    paths : list of str
        The files written.
    """
    names = FileNames(".jpg") if names is None else names
    paths = [each.path for each in records if each.verdict == "anomalous" and each.path is not None]
    os.makedirs(folder, exist_ok=True)
    levels = detector.map_levels()
    written = []
    for image in looked_at(detector, paths):
        if image.map is None:
            continue
        picture = _read(image.path)
        if picture is not None:
            target = Path(folder, names.name_of(image.path))
            write_file(target, as_jpeg(overlay(picture, image.map, levels)))
            written.append(str(target))
    return written


def looked_at(detector: Any, images: Any) -> Iterable[InspectedImage]:
    """What a detector says of images, with small maps; less where none of them can be read."""
    if len(images) == 0:
        return
    try:
        yield from detector.iter_inspect(images, maps="network", on_error="skip")
    except ValueError:  # none of them can be read any more, or all look scaled in another way
        return


def _read(path):
    """A file as a picture that fits a screen; None if it cannot be read any more."""
    try:
        [picture] = in_order(ImageStream([path]), lambda image: small_picture(image, _N_PIXELS))
    except ValueError:
        return None
    return picture
