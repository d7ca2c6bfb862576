"""Where patches and tiles lie in an image."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ...backbones.patches import sliding_windows, window_starts


@dataclass(frozen=True)
class TileLayout:
    """A grid of patches over an image, and tiles: overlapping parts of that grid.

    Without tiles the whole image is one.

    Parameters
    ----------
    image_size : tuple (H, W)
        Of what the network sees, in pixels.
    patch_size, patch_stride : int
        Side of the patches and distance between them, in pixels.
    tile_size : tuple (h, w)
        In pixels.
    tile_stride : int
        Distance between tiles in pixels, a multiple of ``patch_stride``.

    Examples
    --------
    >>> layout = TileLayout.of_parameters((768, 768), 64, 32, tile_size=256)
    >>> layout.grid_shape, layout.tile_shape, layout.n_tiles
    ((23, 23), (7, 7), 25)
    """

    image_size: tuple[int, int]
    patch_size: int
    patch_stride: int
    tile_size: tuple[int, int]
    tile_stride: int

    @classmethod
    def of_parameters(
        cls,
        image_size: tuple[int, int],
        patch_size: int,
        patch_stride: int,
        tile_size: int | None = None,
        tile_stride: int | None = None,
    ) -> "TileLayout":
        """The layout that CPC's parameters describe; ValueError if there is none."""
        if patch_size > min(image_size):
            raise ValueError(
                f"patch_size: {patch_size} px do not fit into images of {image_size} px."
            )
        if tile_size is None:
            if tile_stride is not None:
                raise ValueError("tile_stride: expected a tile_size with it, got None.")
            return cls(image_size, patch_size, patch_stride, image_size, patch_stride)
        tile_stride = tile_stride or tile_size // 2
        if not patch_size <= tile_size <= min(image_size):
            raise ValueError(
                f"tile_size: expected {patch_size} (patch_size) to {min(image_size)} px, got "
                f"{tile_size}."
            )
        for what, length, unit in (
            ("tile_size - patch_size", tile_size - patch_size, patch_stride),
            ("tile_stride", tile_stride, patch_stride),
            *(("image side - tile_size", side - tile_size, tile_stride) for side in image_size),
        ):
            if length % unit:
                raise ValueError(
                    f"tile_size: tiles share one grid of patches, but {what} = {length} px is no "
                    f"multiple of {unit} px."
                )
        return cls(image_size, patch_size, patch_stride, (tile_size, tile_size), tile_stride)

    # -- how many ---------------------------------------------------------------------------------

    @property
    def grid_shape(self) -> tuple[int, int]:
        """(rows, columns) of the patches of an image."""
        return self._patches_along(self.image_size)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """(rows, columns) of the patches of a tile."""
        return self._patches_along(self.tile_size)

    @property
    def n_tiles(self) -> int:
        """Tiles of an image."""
        return len(self._tile_corners())

    def _patches_along(self, size):
        return tuple(len(self._patch_starts(length)) for length in size)

    def _patch_starts(self, length):
        return window_starts(length, self.patch_size, self.patch_stride)

    def _tile_corners(self):
        """(row, column), in patches, of the first patch of each tile, row by row."""
        step = self.tile_stride // self.patch_stride
        rows, columns = (
            range(0, n - k + 1, step) for n, k in zip(self.grid_shape, self.tile_shape, strict=True)
        )
        return [(row, column) for row in rows for column in columns]

    # -- cutting images ---------------------------------------------------------------------------

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        """Patches (n, rows, columns, C, size, size) of images, or of tiles, (n, C, h, w)."""
        return sliding_windows(images, self.patch_size, self.patch_stride)

    def draw_patches(
        self,
        images: torch.Tensor,
        image_index: torch.Tensor,
        n_patches: int,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Random patches (n_patches, C, size, size) of some of the images (n, C, H, W).

        All their patches, if there are fewer.
        """
        size = self.patch_size
        tops, lefts = (self._patch_starts(length) for length in self.image_size)
        shape = (len(image_index), len(tops), len(lefts))
        order = torch.randperm(math.prod(shape), generator=generator, device="cpu")
        drawn = np.unravel_index(order[:n_patches].numpy(), shape)
        places = (
            (image_index[i], slice(tops[row], tops[row] + size), slice(lefts[c], lefts[c] + size))
            for i, row, c in zip(*drawn, strict=True)
        )
        return torch.stack([images[i, :, rows, columns] for i, rows, columns in places])

    def tile_index(self, image_index: torch.Tensor) -> torch.Tensor:
        """Indices of the tiles of images, which are counted image by image, row by row."""
        tiles = torch.arange(self.n_tiles, device="cpu")
        return (image_index[:, None] * self.n_tiles + tiles).flatten()

    def tiles(self, images: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Tiles (B, C, h, w) of images (n, C, H, W) by their index."""
        (height, width), stride = self.tile_size, self.tile_stride
        views = images.unfold(2, height, stride).unfold(3, width, stride)  # (n, C, r, c, h, w)
        image, place = index // self.n_tiles, index % self.n_tiles
        n_columns = views.shape[3]
        return views[image, :, place // n_columns, place % n_columns]

    # -- cutting and joining grids ----------------------------------------------------------------

    def tile_grids(self, grids: torch.Tensor) -> torch.Tensor:
        """Tiles (n, n_tiles, rows, columns, D) of the grids (n, rows, columns, D) of images."""
        (height, width), step = self.tile_shape, self.tile_stride // self.patch_stride
        tiles = grids.unfold(1, height, step).unfold(2, width, step)  # (n, r, c, D, h, w)
        return tiles.permute(0, 1, 2, 4, 5, 3).flatten(1, 2)

    def add_tiles(self, tiles: torch.Tensor) -> torch.Tensor:
        """Grids (..., rows, columns) of images: the sum of their tiles (n_tiles, ..., h, w)."""
        height, width = self.tile_shape
        grids = tiles.new_zeros(*tiles.shape[1:-2], *self.grid_shape)
        for tile, (row, column) in zip(tiles, self._tile_corners(), strict=True):
            grids[..., row : row + height, column : column + width] += tile
        return grids
