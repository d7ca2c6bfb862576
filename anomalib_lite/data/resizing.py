"""What networks are given of an image: float32 tensors in [0, 1], of its size or of another one.

A photograph is resized in blocks of rows: each is converted, and its contributions to the rows of
the small image are added up.
"""

import numpy as np
import torch
from torch.nn import functional

from .rasters import Raster

_ON_CPU = {"dtype": torch.float32, "device": "cpu"}  # whatever the defaults
_IN_ONE = 2**20  # pixels of an image that is resized as a whole


def pixels_of(raster: Raster) -> torch.Tensor:
    """All pixels (C, H, W) of an image: float32 in [0, 1]."""
    pixels = torch.empty(raster.n_channels, *raster.size, **_ON_CPU)
    for start, rows in raster.blocks(_empty):
        rows /= raster.full_scale
        pixels.numpy()[:, start : start + len(rows)] = raster.planes(rows)
    return pixels


def raster_resized(raster: Raster, size: tuple[int, int]) -> torch.Tensor:
    """Pixels (C, h, w) in [0, 1] of an image at another size: bilinear, antialiased."""
    (height, width), new_height = raster.size, size[0]
    if size == raster.size:
        return pixels_of(raster)
    if height * width <= _IN_ONE or new_height >= height:
        return planes_resized(pixels_of(raster), size)
    sums = torch.zeros(new_height, raster.n_channels * width, **_ON_CPU)
    weight_sums = torch.zeros(new_height, 1, **_ON_CPU)
    for start, rows in raster.blocks(_empty):
        first, weights = _contributions(height, new_height, start, start + len(rows))
        touched = slice(first, first + len(weights))
        sums[touched].addmm_(weights, torch.from_numpy(rows))
        weight_sums[touched] += weights.sum(1, keepdim=True)
    sums /= weight_sums * raster.full_scale
    return planes_resized(torch.from_numpy(raster.planes(sums.numpy())), size)


def planes_resized(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Planes (C, h, w) of planes (C, H, W) at another size: bilinear, antialiased.

    Examples
    --------
    >>> planes_resized(torch.tensor([[[0.0, 1.0, 1.0, 0.0]]]), (1, 2))
    tensor([[[0.5714, 0.5714]]])
    """
    return functional.interpolate(planes[None], size, mode="bilinear", antialias=True)[0]


def _empty(shape):
    """An array in memory of PyTorch, on whose alignment the last bits of products depend."""
    return torch.empty(*shape, **_ON_CPU).numpy()


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
