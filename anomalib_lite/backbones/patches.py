"""Grids and rows: from feature maps to one vector a patch, and from patch values to pixel maps."""

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

AGGREGATIONS = ("concat", "official")
POOLINGS = ("mean", "max")
_OFFICIAL_DIM = 1024


def patch_embedding(maps, *, aggregation="concat", neighborhood=3):
    """One locally aware vector for each cell of the finest feature map.

    Parameters
    ----------
    maps : list of torch.Tensor of shape (B, C_l, h_l, w_l)
        Finest first, which says how large the grid is; some, but not all, may have no channels.
    aggregation : {"concat", "official"}, default="concat"
        ``"concat"``, the paper's text: average each map over the neighborhood (stride 1, zero
        padded), resize to the finest grid, concatenate channels; D = sum of C_l.
        ``"official"``, the paper's code: per map unfold the neighborhood, adaptive average
        pooling of its C_l * n**2 values to 1024, resize, then adaptive pooling of the stacked
        maps to D = 1024.
    neighborhood : int, default=3
        Side n of the neighborhood in cells, odd; 1 takes the cells alone.

    Returns
    -------
    embedding : torch.Tensor of shape (B, D, h, w)

    Examples
    --------
    >>> maps = [torch.zeros(2, 40, 28, 28), torch.zeros(2, 112, 14, 14)]
    >>> tuple(patch_embedding(maps).shape)
    (2, 152, 28, 28)
    >>> tuple(patch_embedding(maps, aggregation="official").shape)
    (2, 1024, 28, 28)
    """
    pool = _mean_pool if aggregation == "concat" else _unfold_pool
    size = maps[0].shape[-2:]
    pooled = [pool(grid, neighborhood) for grid in maps if grid.shape[1]]
    pooled = [
        grid
        if grid.shape[-2:] == size
        else F.interpolate(grid, size=size, mode="bilinear", align_corners=False)
        for grid in pooled
    ]
    stacked = torch.cat(pooled, dim=1)
    return stacked if aggregation == "concat" else _pool_channels(stacked, _OFFICIAL_DIM)


def _mean_pool(grid, neighborhood):
    return F.avg_pool2d(grid, neighborhood, stride=1, padding=neighborhood // 2)


def _unfold_pool(grid, neighborhood):
    size = grid.shape[-2:]
    windows = F.unfold(grid, neighborhood, padding=neighborhood // 2)  # (B, C*n*n, h*w)
    return _pool_channels(windows.unflatten(2, size), _OFFICIAL_DIM)


def _pool_channels(grid, n_channels):
    """Adaptive average pooling along the channel axis."""
    rows = grid.movedim(1, -1)  # (B, h, w, C)
    pooled = F.adaptive_avg_pool1d(rows.flatten(0, 2)[:, None], n_channels)
    return pooled[:, 0].unflatten(0, rows.shape[:3]).movedim(-1, 1)


def pool_maps(maps, pooling="mean"):
    """One vector an image: each map's mean or maximum over its places, side by side.

    Parameters
    ----------
    maps : list of torch.Tensor of shape (B, C_l, h_l, w_l)
    pooling : {"mean", "max"}, default="mean"

    Returns
    -------
    vectors : torch.Tensor of shape (B, D)
        D = sum of C_l.
    """
    pool = torch.mean if pooling == "mean" else torch.amax
    return torch.cat([pool(grid, dim=(2, 3)) for grid in maps], dim=1)


def grid_rows(embedding):
    """(B, D, h, w) -> (B, h*w, D), contiguous: the rows of a memory bank, image by image."""
    return embedding.flatten(2).transpose(1, 2).contiguous()


def rebatch(pieces, n_rows):
    """Pieces joined along their first axis into blocks of ``n_rows`` at least, but for the last."""
    waiting = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= n_rows:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def window_starts(length, size, stride):
    """Where windows begin along an axis: every ``stride``, and one that ends where the axis does.

    Examples
    --------
    >>> window_starts(64, 32, 12)
    [0, 12, 24, 32]
    """
    last = length - size
    return sorted({*range(0, last + 1, stride), last})


def sliding_windows(batch, size, stride):
    """Square windows of images, row by row.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, C, H, W)
    size, stride : int
        In pixels; see :func:`window_starts`.

    Returns
    -------
    windows : torch.Tensor of shape (B, rows, columns, C, size, size)

    Examples
    --------
    >>> tuple(sliding_windows(torch.zeros(2, 3, 64, 48), 32, 16).shape)
    (2, 3, 2, 3, 32, 32)
    """
    height, width = batch.shape[2:]
    rows = torch.tensor(window_starts(height, size, stride), device=batch.device)
    columns = torch.tensor(window_starts(width, size, stride), device=batch.device)
    everywhere = batch.unfold(2, size, 1).unfold(3, size, 1)  # a view (B, C, y, x, size, size)
    return everywhere[:, :, rows[:, None], columns].permute(0, 2, 3, 1, 4, 5)


class RowStore:
    """Rows of one image after another, written in place into one block of memory.

    Parameters
    ----------
    n_images : int or None
        How many images will come. None is for streams of unknown length: the block then grows by
        half whenever it is full, which copies it.

    Examples
    --------
    >>> store = RowStore(2)
    >>> store.append(torch.zeros(2, 784, 152))
    >>> tuple(store.rows.shape)
    (1568, 152)
    """

    def __init__(self, n_images):
        self.n_images = 0
        self._capacity = n_images or 16
        self._block = None  # (capacity, P, D)

    def append(self, rows):
        """Add the rows (B, P, D) of B images."""
        count = self.n_images + len(rows)
        if self._block is None:
            self._block = rows.new_empty(max(self._capacity, count), *rows.shape[1:])
        elif count > len(self._block):
            larger = rows.new_empty(max(count, len(self._block) * 3 // 2), *rows.shape[1:])
            larger[: self.n_images] = self._block[: self.n_images]
            self._block = larger
        self._block[self.n_images : count] = rows
        self.n_images = count

    @property
    def by_image(self):
        """(n_images, P, D)"""
        return self._block[: self.n_images]

    @property
    def rows(self):
        """(n_images * P, D)"""
        return self.by_image.flatten(0, 1)


class MapRenderer:
    """Patch values on a grid -> smooth maps of any size, as two small matrix products.

    Bilinear upsampling to the network's input, Gaussian blur there, and resizing to the image's
    own size are linear and act on rows and columns separately, so the whole is
    ``R @ grid @ C.T`` with one matrix for rows and one for columns. Values of ``windows``, which
    overlap, are spread around the windows' centers instead: a pixel's value is their mean, weighted
    by a Gaussian of its distance to each center.

    Parameters
    ----------
    image_size : tuple (H, W)
        What each image is resized to.
    seen_size : tuple (H, W) or None, default=None
        The part of it that the grid covers; None is all of it. The map is 0 elsewhere, where
        nothing is known.
    offset : tuple (top, left), default=(0, 0)
        Where in the resized image that part begins.
    smoothing : float, default=4.0
        Standard deviation of the blur in pixels of the resized image; 0 for none.
    windows : tuple (size, stride) or None, default=None
        The cells are windows as of :func:`sliding_windows`; ``smoothing`` is then the standard
        deviation of the weights, and 0 takes the nearest center.

    Examples
    --------
    >>> renderer = MapRenderer((224, 224))
    >>> tuple(renderer(torch.ones(28, 28), (300, 200)).shape)
    (300, 200)
    """

    def __init__(self, image_size, seen_size=None, offset=(0, 0), *, smoothing=4.0, windows=None):
        self.image_size = image_size
        self.seen_size = seen_size or image_size
        self.offset = offset
        self.smoothing = smoothing
        self.windows = windows
        self._matrices = {}

    def __call__(self, grid, size):
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
        cells = grid.shape[-2:]
        rows, columns = (
            self._matrix(axis, cells[axis], size[axis], grid.device) for axis in (0, 1)
        )
        return rows @ grid @ columns.T

    def _matrix(self, axis, n_cells, n_pixels, device):
        """(n_pixels, n_cells) along one axis."""
        key = axis, n_cells, n_pixels
        if key not in self._matrices:
            seen, full = self.seen_size[axis], self.image_size[axis]
            if self.windows is not None:
                matrix = _spread_matrix(seen, *self.windows, self.smoothing)
            else:
                matrix = resize_matrix(n_cells, seen)
                if self.smoothing > 0:
                    matrix = ndimage.gaussian_filter1d(
                        matrix, self.smoothing, axis=0, mode="nearest"
                    )
            before = self.offset[axis]
            matrix = np.pad(matrix, ((before, full - seen - before), (0, 0)))
            matrix = _resize_rows(torch.from_numpy(matrix), n_pixels)
            self._matrices[key] = matrix.float().to(device)
        return self._matrices[key]


def resize_matrix(n_in, n_out):
    """(n_out, n_in) matrix of PyTorch's bilinear resizing, antialiased where it shrinks."""
    return _resize_rows(torch.eye(n_in, dtype=torch.float64, device="cpu"), n_out).numpy()


def _spread_matrix(n_pixels, size, stride, sigma):
    """(n_pixels, n_windows) weights of windows along an axis for each pixel; rows sum to 1."""
    centers = np.array(window_starts(n_pixels, size, stride)) + size / 2
    apart = np.square(np.arange(n_pixels)[:, None] + 0.5 - centers)
    apart -= apart.min(1, keepdims=True)  # the nearest center's weight is 1 before the division
    weights = np.exp(-apart / (2 * sigma**2)) if sigma > 0 else (apart == 0).astype(float)
    return weights / weights.sum(1, keepdims=True)


def _resize_rows(matrix, n_rows):
    """A matrix resized as a picture, in height only."""
    size = n_rows, matrix.shape[1]
    return F.interpolate(matrix[None, None], size, mode="bilinear", antialias=n_rows < len(matrix))[
        0, 0
    ]
