"""Patch vectors from feature maps, rows of them, and sliding windows of images."""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Real

import torch
from torch.nn import functional as F

AGGREGATIONS = ("concat", "official")
POOLINGS = ("mean", "max", "mean_std")
_OFFICIAL_DIM = 1024
_LEAST_VARIANCE = 1e-30  # of a channel: the deviation of a constant one has a gradient, too
_MOST_PIXELS = 2**28  # of all windows of an image: 3 GB


def patch_embedding(
    maps: Sequence[torch.Tensor], *, aggregation: str = "concat", neighborhood: int = 3
) -> torch.Tensor:
    """One locally aware vector for each cell of the finest feature map.

    Parameters
    ----------
    maps : list of torch.Tensor of shape (B, C_l, h_l, w_l)
        Finest first: the grid is that of the first. Some, but not all, may have no channels.
    aggregation : {"concat", "official"}, default="concat"
        ``"concat"``, PatchCore's text: average each map over the neighborhood (stride 1, zero
        padded), resize to the finest grid, concatenate channels; D = sum of C_l.
        ``"official"``, PatchCore's code: unfold each map's neighborhood, pool its C_l * n**2
        values to 1024 by adaptive averaging, resize, then pool the stacked maps to D = 1024.
    neighborhood : int, default=3
        Side n, in cells, odd, of the neighborhood averaged to describe a patch; 1 takes each cell
        alone.

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


def pool_maps(maps: Sequence[torch.Tensor], pooling: str = "mean") -> torch.Tensor:
    """One vector per image: statistics of each feature map's cells, concatenated.

    Parameters
    ----------
    maps : list of torch.Tensor of shape (B, C_l, h_l, w_l)
    pooling : {"mean", "max", "mean_std"}, default="mean"
        The mean or maximum of each channel, or its mean and its standard deviation.

    Returns
    -------
    vectors : torch.Tensor of shape (B, D)
        D = sum of C_l, or twice that; means and deviations of a map follow each other.

    Examples
    --------
    >>> grid = torch.tensor([[[[1.0, 3.0]], [[5.0, 9.0]]]])
    >>> pool_maps([grid]), pool_maps([grid], "mean_std")
    (tensor([[2., 7.]]), tensor([[2., 7., 1., 2.]]))
    """
    if pooling == "mean_std":
        return torch.cat([each for grid in maps for each in _mean_and_deviation(grid)], dim=1)
    pool = torch.mean if pooling == "mean" else torch.amax
    return torch.cat([pool(grid, dim=(2, 3)) for grid in maps], dim=1)


def _mean_and_deviation(grid):
    """Of each channel, (B, C) each."""
    mean = grid.mean((2, 3), keepdim=True)
    variance = (grid - mean).square().mean((2, 3))
    return mean[..., 0, 0], variance.clamp_min(_LEAST_VARIANCE).sqrt()


def top_share(aggregate: str | tuple[str, float]) -> float:
    """The share of an image's patches whose mean is its score; 0 for the first one alone.

    Parameters
    ----------
    aggregate : "max" or tuple ("top", share)
        Raises ValueError if it is anything else, or the share not in (0, 1].

    Examples
    --------
    >>> top_share("max"), top_share(("top", 0.01))
    (0.0, 0.01)
    """
    if isinstance(aggregate, str) and aggregate == "max":
        return 0.0
    if isinstance(aggregate, tuple | list) and len(aggregate) == 2:
        name, share = aggregate
        is_number = isinstance(share, Real) and not isinstance(share, bool)
        if isinstance(name, str) and name == "top" and is_number and 0 < share <= 1:
            return float(share)
    raise ValueError(
        'aggregate: expected "max" or ("top", share) with a share in (0, 1], such as '
        f'("top", 0.01), got {aggregate!r}.'
    )


def n_on_top(share: float, n_patches: int) -> int:
    """How many patches a share of them is, at least one.

    Examples
    --------
    >>> n_on_top(0.01, 784), n_on_top(0.0, 784)
    (8, 1)
    """
    return max(1, round(share * n_patches))


def grid_rows(embedding: torch.Tensor) -> torch.Tensor:
    """Vectors of a grid (B, D, h, w) as rows (B, h*w, D), contiguous."""
    return embedding.flatten(2).transpose(1, 2).contiguous()


def rebatch(pieces: Iterable[torch.Tensor], n_rows: int) -> Iterator[torch.Tensor]:
    """Join pieces along their first axis into blocks of ``n_rows`` or more; the last may be less.

    Examples
    --------
    >>> [len(block) for block in rebatch(torch.zeros(5, 2, 3), 4)]
    [4, 4, 2]
    """
    waiting = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= n_rows:
            yield torch.cat(waiting)
            waiting = []
    if waiting:
        yield torch.cat(waiting)


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along an axis: every ``stride``, plus one that ends with the axis.

    Examples
    --------
    >>> window_starts(64, 32, 12)
    [0, 12, 24, 32]
    """
    last = length - size
    return sorted({*range(0, last + 1, stride), last})


def sliding_windows(batch: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """Square windows of images, row by row.

    Parameters
    ----------
    batch : torch.Tensor of shape (B, C, H, W)
    size, stride : int
        Side of a window and distance between windows in pixels; see :func:`window_starts`.

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
    if len(rows) * len(columns) * size**2 > _MOST_PIXELS:
        raise ValueError(
            f"{len(rows)} x {len(columns)} windows of {size} px have more than {_MOST_PIXELS} "
            "pixels in all. Take smaller images or windows, or a larger stride."
        )
    at_all_pixels = batch.unfold(2, size, 1).unfold(3, size, 1)  # a view (B, C, y, x, size, size)
    return at_all_pixels[:, :, rows[:, None], columns].permute(0, 2, 3, 1, 4, 5)


class RowStore:
    """Rows of images, collected in one block of memory.

    Parameters
    ----------
    n_images : int or None
        Number of images to come. If None, or if more come, the block grows by half whenever it is
        full, which copies it.

    Examples
    --------
    >>> store = RowStore(2)
    >>> store.append(torch.zeros(2, 784, 152))
    >>> tuple(store.rows.shape)
    (1568, 152)
    """

    def __init__(self, n_images: int | None):
        self.n_images = 0
        self._capacity = n_images or 16
        self._block = None  # (capacity, P, D)

    def append(self, rows: torch.Tensor) -> None:
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
    def by_image(self) -> torch.Tensor:
        """The rows, of shape (n_images, P, D)."""
        return self._block[: self.n_images]

    @property
    def rows(self) -> torch.Tensor:
        """The rows, of shape (n_images * P, D)."""
        return self.by_image.flatten(0, 1)
