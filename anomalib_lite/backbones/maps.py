"""Pixel maps from values on a grid of patches."""

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from .patches import window_starts


class MapRenderer:
    """Turns values on a grid of patches into smooth maps of any size.

    Bilinear upsampling to the network's input, Gaussian blur there, and resizing to the image's
    own size are linear and act on rows and columns separately, so a map is ``R @ grid @ C.T``
    with one small matrix for rows and one for columns. Values of overlapping ``windows`` are spread
    around the windows' centers instead: a pixel's value is their mean, weighted by a Gaussian of
    its distance to each center.

    Parameters
    ----------
    image_size : tuple (H, W)
        Size that images are resized to.
    seen_size : tuple (H, W) or None, default=None
        Size of the part of the resized image that the grid covers; None: all of it. The map is 0
        elsewhere.
    offset : tuple (top, left), default=(0, 0)
        Where that part begins.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image; 0 for none.
    windows : tuple (size, stride) or None, default=None
        The cells are windows as of :func:`sliding_windows`. ``smoothing`` is then the standard
        deviation of the weights; 0 takes the nearest center.

    Examples
    --------
    >>> renderer = MapRenderer((224, 224))
    >>> tuple(renderer(torch.ones(28, 28), (300, 200)).shape)
    (300, 200)
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        seen_size: tuple[int, int] | None = None,
        offset: tuple[int, int] = (0, 0),
        *,
        smoothing: float = 4.0,
        windows: tuple[int, int] | None = None,
    ):
        self.image_size = image_size
        self.seen_size = seen_size or image_size
        self.offset = offset
        self.smoothing = smoothing
        self.windows = windows
        self._matrices = {}

    def __call__(self, grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Map of one image, or of several.

        Parameters
        ----------
        grid : torch.Tensor of shape (..., h, w)
        size : tuple (H, W)
            The image's own.

        Returns
        -------
        map : torch.Tensor of shape (..., H, W)
        """
        rows, columns = self.matrices(grid.shape[-2:], size, grid.device)
        return rows @ grid @ columns.T

    def matrices(
        self, cells: tuple[int, int], size: tuple[int, int], device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a grid is multiplied by, for rows (H, h) and columns (W, w)."""
        rows, columns = (self._matrix(i, cells[i], size[i], device) for i in (0, 1))
        return rows, columns

    def _matrix(self, axis, n_cells, n_pixels, device):
        """(n_pixels, n_cells) of one axis on a device; made once."""
        key = axis, n_cells, n_pixels, device
        if key not in self._matrices:
            matrix = self._make_matrix(axis, n_cells, n_pixels)
            self._matrices[key] = torch.from_numpy(matrix).float().to(device)
        return self._matrices[key]

    def _make_matrix(self, axis, n_cells, n_pixels):
        seen, full, before = self.seen_size[axis], self.image_size[axis], self.offset[axis]
        if self.windows is not None:
            matrix = window_weights(seen, *self.windows, self.smoothing)
        else:
            matrix = resize_matrix(n_cells, seen)
            if self.smoothing > 0:
                reach = int(min(4 * self.smoothing, 4 * seen) + 0.5)  # a wider one is as flat
                matrix = ndimage.gaussian_filter1d(
                    matrix, self.smoothing, axis=0, mode="nearest", radius=reach
                )
        matrix = np.pad(matrix, ((before, full - seen - before), (0, 0)))
        return _resize_rows(matrix, n_pixels)


def resize_matrix(n_in: int, n_out: int) -> np.ndarray:
    """Matrix (n_out, n_in) of PyTorch's bilinear resizing, antialiased where it shrinks."""
    return _resize_rows(np.eye(n_in), n_out)


def window_weights(n_pixels: int, size: int, stride: int, sigma: float) -> np.ndarray:
    """Weights of the windows along an axis in the value of each pixel.

    Parameters
    ----------
    n_pixels : int
        Length of the axis.
    size, stride : int
        Of the windows; see :func:`~anomalib_lite.backbones.window_starts`.
    sigma : float
        Standard deviation in pixels of the Gaussian of the distance between the centers of pixel
        and window; 0 takes the nearest window, or the mean of the two that are equally near.

    Returns
    -------
    weights : ndarray of shape (n_pixels, n_windows)
        Rows sum to 1.
    """
    centers = np.array(window_starts(n_pixels, size, stride)) + size / 2
    distances = np.square(np.arange(n_pixels)[:, None] + 0.5 - centers)  # squared
    distances -= distances.min(1, keepdims=True)  # or all weights of a small sigma could vanish
    weights = np.exp(-distances / (2 * sigma**2)) if sigma > 0 else (distances == 0).astype(float)
    return weights / weights.sum(1, keepdims=True)


def _resize_rows(matrix, n_rows):
    """A matrix resized as an image, in height only."""
    size, antialias = (n_rows, matrix.shape[1]), n_rows < len(matrix)
    image = torch.from_numpy(matrix)[None, None]
    return F.interpolate(image, size, mode="bilinear", antialias=antialias)[0, 0].numpy()
