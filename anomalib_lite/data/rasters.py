"""Pixels of one image as they were decoded; what is asked of them is worked out in blocks of rows.

As floats, a color photograph of 12 megapixels takes 144 MB, and moving them takes longer than
decoding the file. A network sees them resized: a block of rows, a few MB that stay in the cache, is
converted, and its contributions to the rows of the small image are added up.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

FULL_SCALE = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
"""The value that stands for 1, of each dtype whose values are no floats."""

_ON_CPU = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults
_IN_ONE = 2**20  # pixels of an image that is resized as a whole
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
    """

    def __init__(self, size: tuple[int, int], n_channels: int, dtype: str, channel_axis: int = 2):
        self.size, self.n_channels, self.dtype = size, n_channels, dtype
        self._full_scale, self._channel_axis = FULL_SCALE.get(dtype, 1.0), channel_axis

    @abstractmethod
    def _read(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write some rows, as float32, to an array (rows, C, W) or (rows, W, C)."""

    def pixels(self) -> torch.Tensor:
        """All pixels (C, H, W): float32 in [0, 1]."""
        pixels = torch.empty(self.n_channels, *self.size, **_ON_CPU)
        for start, rows in self._blocks():
            rows /= self._full_scale
            pixels[:, start : start + len(rows)] = self._planes(rows)
        return pixels

    def resized(self, size: tuple[int, int]) -> torch.Tensor:
        """Pixels (C, h, w) in [0, 1] of the image at another size: bilinear, antialiased."""
        (height, width), new_height = self.size, size[0]
        if size == self.size:
            return self.pixels()
        if height * width <= _IN_ONE or new_height >= height:
            return resized(self.pixels(), size)
        sums = torch.zeros(new_height, self.n_channels * width, **_ON_CPU)
        weight_sums = torch.zeros(new_height, 1, **_ON_CPU)
        for start, rows in self._blocks():
            first, weights = _contributions(height, new_height, start, start + len(rows))
            touched = slice(first, first + len(weights))
            sums[touched].addmm_(weights, rows)
            weight_sums[touched] += weights.sum(1, keepdim=True)
        sums /= weight_sums * self._full_scale
        return resized(self._planes(sums), size)

    def levels(self) -> Levels:
        """How bright the image is."""
        height, width = self.size
        n_values = self.n_channels * height * width
        step, highest, lowest, total, sample = max(1, n_values // _SAMPLE), [], [], 0.0, []
        for start, rows in self._blocks():
            highest.append(rows.max())
            lowest.append(rows.min())
            total += float(rows.sum(1).sum(dtype=torch.float64))
            for channel, plane in enumerate(self._planes(rows)):
                before = (channel * height + start) * width  # of all values, in the order (C, H, W)
                sample.append(plane.reshape(-1)[-before % step :: step].clone())
        values = max(highest), total / n_values, torch.cat(sample).median(), min(lowest)
        return Levels(*(float(value) / self._full_scale for value in values))

    def _blocks(self) -> Iterator[tuple[int, torch.Tensor]]:
        """(first row, rows (n, C W) or (n, W C)) of each block; the next one takes its place."""
        height, width = self.size
        n_rows = min(height, max(1, _BLOCK // (self.n_channels * width)))
        buffer = torch.empty(n_rows, self.n_channels * width, **_ON_CPU)
        for start in range(0, height, n_rows):
            rows = buffer[: height - start]
            out = self._planes(rows).movedim(0, self._channel_axis).numpy()
            self._read(start, start + len(rows), out)
            yield start, rows

    def _planes(self, rows):
        """A view (C, rows, W) of rows (rows, C W) or (rows, W C)."""
        sides = [self.size[1]] * 2
        sides[self._channel_axis - 1] = self.n_channels
        return rows.view(len(rows), *sides).movedim(self._channel_axis, 0)


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

    def _read(self, start, stop, out):
        rows = np.asarray(self._picture.crop((0, start, self._picture.width, stop)))
        np.copyto(out, rows.reshape(*rows.shape[:2], -1)[..., : self.n_channels])


def resized(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Planes (C, h, w) of planes (C, H, W) at another size: bilinear, antialiased.

    Examples
    --------
    >>> resized(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), (1, 2))
    tensor([[[0.5714, 0.5714]]])
    """
    return functional.interpolate(planes[None], size, mode="bilinear", antialias=True)[0]


def _contributions(n, n_new, start, stop):
    """First of the new rows that some of n rows contribute to, and their weights (new, old).

    A new row is a mean with the weights of a triangle around its center. Those of each new row do
    not sum up to 1, since all rows may contribute to it.
    """
    scale = n / n_new
    reach = max(scale, 1.0)  # half the base of the triangle
    old = np.arange(start, stop) + 0.5
    first = max(0, int((old[0] - reach) / scale - 0.5))
    last = min(n_new - 1, int((old[-1] + reach) / scale - 0.5))
    new = (np.arange(first, last + 1)[:, None] + 0.5) * scale
    return first, torch.from_numpy(np.maximum(0, 1 - abs(new - old) / reach).astype(np.float32))
