"""The pictures of a page, small and inside of it."""

import base64
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..data.images import ImageStream
from ..inspection import MapLevels
from ..records import Record
from .overlays import as_image, as_jpeg, looked_at, overlaid
from .pictures import in_order, small_picture
from .scales import ColorScale

_N_PIXELS = 400  # a side
_QUALITIES = (85, 75, 62, 48)
_MAP_CELLS = 96  # a side of the map of places
_SOFT = 1.5  # its blur, in cells


class Tile(NamedTuple):
    """A picture of a page.

    Attributes
    ----------
    picture : str or None
        As a data URI; None if it can no longer be read.
    heat : str or None
        With its anomaly map over it.
    size : tuple (height, width)
    """

    picture: str | None
    heat: str | None
    size: tuple[int, int]


def make_tiles(
    detector: Any,
    indices: Sequence[int],
    read: Callable[[Sequence[int]], Any],
    levels: MapLevels | None,
    n_bytes: int,
) -> tuple[dict[int, Tile], dict[int, np.ndarray]]:
    """Tiles and pictures, by index, of images that are read and inspected once more.

    Parameters
    ----------
    detector : fitted detector
    indices : sequence of int
        Which of all images.
    read : callable
        Gives the images of some indices.
    levels : MapLevels or None
        Of the color scale.
    n_bytes : int
        That the tiles may take in all, roughly.
    """
    pictures = _read(read, indices)
    heats = [image.map for image in looked_at(detector, read(indices))]
    heats += [None] * (len(indices) - len(heats))
    scale = ColorScale.of([heat for heat in heats if heat is not None], levels)
    most = int(n_bytes * 3 / 4 / max(2 * len(indices), 1))  # three bytes are four letters
    tiles, known = {}, {}
    for index, picture, heat in zip(indices, pictures, heats, strict=True):
        if picture is None:
            tiles[index] = Tile(None, None, (1, 1))
            continue
        tiles[index] = Tile(
            picture=data_uri(as_image(picture), most),
            heat=None if heat is None else data_uri(overlaid(picture, heat, scale), most),
            size=picture.shape[:2],
        )
        known[index] = picture
    return tiles, known


def _read(read, indices):
    """Small pictures; None for those that cannot be read any more."""
    if not indices:
        return []
    stream = ImageStream(read(indices), on_error="skip")
    try:
        return in_order(stream, lambda image: small_picture(image, _N_PIXELS))
    except ValueError:  # not one of them
        return [None] * len(indices)


def data_uri(image: Image.Image, most: int) -> str:
    """A JPEG inside of the page, of at most so many bytes if that can be had."""
    for quality in _QUALITIES:
        content = as_jpeg(image, quality)
        if len(content) <= most:
            break
    while len(content) > most and min(image.size) > 32:
        image = image.reduce(2)
        content = as_jpeg(image, _QUALITIES[1])
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


class Places(NamedTuple):
    """Where on the part the worst regions of the anomalous images lie.

    Attributes
    ----------
    picture : str
        A data URI: how many of them cover each place, over the median of normal pictures.
    n_images : int
        Anomalous images with a region.
    most : int
        That cover the same place.
    size : tuple (height, width)
    """

    picture: str
    n_images: int
    most: int
    size: tuple[int, int]


def places_of(records: Sequence[Record], normal: Sequence[np.ndarray]) -> Places | None:
    """The map of places, over pictures of normal images; None without any region."""
    counts, n = np.zeros((_MAP_CELLS, _MAP_CELLS)), 0
    for record in records:
        if record.verdict == "anomalous" and record.region is not None and record.size:
            counts[_cells(record)] += 1
            n += 1
    if n == 0:
        return None
    ground = _median(normal, records)
    blur = _blur(_MAP_CELLS, _SOFT)
    heat = blur @ counts @ blur.T
    scale = ColorScale(0.0, float(heat.max()))
    return Places(
        picture=data_uri(overlaid(ground, heat, scale), 60_000),
        n_images=n,
        most=int(counts.max()),
        size=ground.shape[:2],
    )


def _cells(record):
    """Cells of the map that a record's box covers."""
    (left, top, right, bottom), (height, width) = record.region.box, record.size
    rows, columns = (
        slice(math.floor(_MAP_CELLS * low / side), math.ceil(_MAP_CELLS * high / side))
        for low, high, side in ((top, bottom, height), (left, right, width))
    )
    return rows, columns


def _blur(n, sigma):
    """Matrix (n, n) of a Gaussian blur along a side of n cells, which the ends reflect."""
    reach = int(4 * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    places = (np.arange(n)[:, None] + steps) % (2 * n)
    places = np.minimum(places, 2 * n - 1 - places)
    blur = np.zeros((n, n))
    np.add.at(blur, (np.arange(n)[:, None], places), weights / weights.sum())
    return blur


def _median(pictures, records):
    """The median of pictures as gray values; a plain ground without any."""
    if not pictures:
        height, width = next(record.size for record in records if record.size)
        scale = _N_PIXELS / max(height, width)
        return np.full((max(round(height * scale), 1), max(round(width * scale), 1)), 0.6)
    size = pictures[0].shape[1::-1]
    grays = [as_image(each).convert("L").resize(size) for each in pictures]
    return np.median([np.asarray(gray) for gray in grays], axis=0) / 255
