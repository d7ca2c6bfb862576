"""Pixels of one image as they were decoded; what is asked of them is worked out in blocks of rows.

As floats, a color photograph of 12 megapixels takes 144 MB, and moving them takes longer than
decoding the file. A block of rows, a few MB that stay in the cache, is converted, and what it adds
is kept. Nothing here needs PyTorch; what networks are given is made in
:mod:`~anomalib_lite.data.resizing`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

FULL_SCALE = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
"""The value that stands for 1, of each dtype whose values are no floats."""

_BLOCK = 2**19  # values of a block
_SAMPLE = 20_000  # values that the median of an image is taken of


class Levels(NamedTuple):
    """How bright an image is, as fractions of full scale; the median is that of a sample."""

    highest: float
    mean: float
    median: float
    lowest: float


class Raster(ABC):
    """Pixels of an image as they were decoded.

    Parameters
    ----------
    size : tuple (H, W)
    n_channels : int
    dtype : str
        Name of the dtype.
    channel_axis : {1, 2}, default=2
        Of a block of rows: (rows, C, W) or (rows, W, C).

    Attributes
    ----------
    full_scale : float
        The value that stands for 1.
    """

    def __init__(self, size: tuple[int, int], n_channels: int, dtype: str, channel_axis: int = 2):
        self.size, self.n_channels, self.dtype = size, n_channels, dtype
        self.full_scale, self._channel_axis = FULL_SCALE.get(dtype, 1.0), channel_axis

    @abstractmethod
    def array(self) -> np.ndarray:
        """All pixels (H, W, C), of the dtype that they were decoded to; a view where it can be."""

    @abstractmethod
    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write some rows, as float32, to an array (rows, C, W) or (rows, W, C)."""

    def blocks(
        self, empty: Callable[[tuple[int, int]], np.ndarray] | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, rows (n, C W) or (n, W C)) of each block; the next one takes its place.

        Values are float32, up to the full scale. ``empty`` makes the array of a shape in which they
        are.
        """
        height, width = self.size
        shape = min(height, max(1, _BLOCK // (self.n_channels * width))), self.n_channels * width
        buffer = np.empty(shape, dtype=np.float32) if empty is None else empty(shape)
        for start in range(0, height, len(buffer)):
            rows = buffer[: height - start]
            out = np.moveaxis(self.planes(rows), 0, self._channel_axis)
            self._read(start, start + len(rows), out)
            yield start, rows

    def planes(self, rows: np.ndarray) -> np.ndarray:
        """A view (C, n, W) of rows (n, C W) or (n, W C)."""
        sides = [self.size[1]] * 2
        sides[self._channel_axis - 1] = self.n_channels
        return np.moveaxis(rows.reshape(len(rows), *sides), self._channel_axis, 0)

    def levels(self) -> Levels:
        """How bright the image is."""
        height, width = self.size
        n_values = self.n_channels * height * width
        step, highest, lowest, total, sample = max(1, n_values // _SAMPLE), [], [], 0.0, []
        for start, rows in self.blocks():
            highest.append(rows.max())
            lowest.append(rows.min())
            total += float(rows.sum(dtype=np.float64))
            for channel, plane in enumerate(self.planes(rows)):
                before = (channel * height + start) * width  # of all values, in the order (C, H, W)
                sample.append(plane.reshape(-1)[-before % step :: step].copy())
        values = max(highest), total / n_values, _lower_median(np.concatenate(sample)), min(lowest)
        return Levels(*(float(value) / self.full_scale for value in values))

    def small(self, size: tuple[int, int]) -> np.ndarray:
        """Pixels (h, w, C) in [0, 1] of a picture to look at, of at most the image's size.

        Bilinear and antialiased, by Pillow; of 8 bits per channel where the image has no more.
        """
        array = self.array()
        if array.dtype == np.uint8:
            return _picture_resized(array.squeeze(-1) if self.n_channels == 1 else array, size)
        planes = [_as_float(plane, self.full_scale) for plane in np.moveaxis(array, -1, 0)]
        return np.concatenate([_picture_resized(plane, size) for plane in planes], axis=-1)


class ArrayRaster(Raster):
    """Pixels of an array.

    Parameters
    ----------
    array : ndarray of shape (H, W, C) or (C, H, W)
        bool, uint8, uint16, or floats that lie in [0, 1], up to rounding.
    channels_first : bool
    """

    def __init__(self, array: np.ndarray, channels_first: bool = False):
        self._rows = array.swapaxes(0, 1) if channels_first else array
        axis = 1 if channels_first else 2
        height, width = self._rows.shape[0], self._rows.shape[3 - axis]
        super().__init__((height, width), self._rows.shape[axis], array.dtype.name, axis)

    def array(self):
        return np.moveaxis(self._rows, self._channel_axis, 2)

    def _read(self, start, stop, out):
        rows = self._rows[start:stop]
        if rows.dtype.kind == "f":
            np.clip(rows, 0, 1, out=out, dtype=np.float32)
        else:
            np.copyto(out, rows)


class PictureRaster(Raster):
    """Pixels of a decoded PIL image, as which they stay: copies of it take time.

    Parameters
    ----------
    picture : PIL.Image.Image
        Gray, color, or color with alpha, which is left out; 8 bits per channel.
    """

    MODES = ("L", "RGB", "RGBA")

    def __init__(self, picture: Image.Image):
        self._picture = picture
        n_channels = 1 if picture.mode == "L" else 3
        super().__init__((picture.height, picture.width), n_channels, "uint8")

    def array(self):
        return self._without_alpha(np.asarray(self._picture))

    def _read(self, start, stop, out):
        rows = np.asarray(self._picture.crop((0, start, self._picture.width, stop)))
        np.copyto(out, self._without_alpha(rows))

    def _without_alpha(self, rows):
        return rows.reshape(*rows.shape[:2], -1)[..., : self.n_channels]


def _as_float(plane, full_scale):
    """A plane as float32 in [0, 1]."""
    if plane.dtype.kind == "f":
        return np.clip(plane, 0, 1, dtype=np.float32)
    return plane.astype(np.float32) / np.float32(full_scale)


def _picture_resized(array, size):
    """Pixels (h, w, C) in [0, 1] of bytes (H, W) or (H, W, 3), or of floats (H, W) in [0, 1]."""
    picture = Image.fromarray(np.ascontiguousarray(array))
    resized = np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR), dtype=np.float32)
    resized = resized / 255 if array.dtype == np.uint8 else resized.clip(0, 1)
    return resized.reshape(*size, -1)


def _lower_median(values):
    """The median; of an even number of values, the lower of the two in the middle."""
    middle = (len(values) - 1) // 2
    return np.partition(values, middle)[middle]
