"""A region of interest: where in the images defects count."""

import os
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.nn import functional as F

from ...annotations import Path
from ...data.inputs import NetworkInput
from ...data.masks import read_mask
from ...views import share_by_cell


@dataclass(frozen=True, eq=False)
class Region:
    """Where in the images defects count.

    Attributes
    ----------
    seen : torch.Tensor of shape (h, w), bool
        The pixels of the network's input.
    cells : torch.Tensor of shape (rows, columns), bool
        The cells of the grid: those of which it covers half or more.
    places : torch.Tensor of shape (n,)
        Their numbers, row by row.
    """

    seen: torch.Tensor
    cells: torch.Tensor

    def __post_init__(self):
        fits = all(
            mask.ndim == 2 and mask.dtype == torch.bool and bool(mask.any())
            for mask in (self.seen, self.cells)
        )
        if not fits:
            raise ValueError("region: expected masks (h, w) and (rows, columns), not empty.")
        inside = self.cells.flatten()
        places = inside.nonzero()[:, 0]
        order = torch.where(inside, inside.cumsum(0) - 1, len(places))  # after the last one: a 0
        object.__setattr__(self, "places", places)
        object.__setattr__(self, "_order", order)

    @classmethod
    def of(
        cls, region: Path | ArrayLike, network_input: NetworkInput, grid: tuple[int, int]
    ) -> Self:
        """The part of a grid that a mask of the whole image, of any size, stands for.

        Parameters
        ----------
        region : path or array-like of shape (H, W)
        network_input : NetworkInput
            How the image is resized and cropped.
        grid : tuple (rows, columns)
        """
        mask = checked_region(region)
        seen = seen_share(mask, network_input)
        cells = share_by_cell(seen, grid) >= 0.5
        if not cells.any():
            raise ValueError(
                f"region: expected a mask that covers at least half of one of the {grid[0]} x "
                f"{grid[1]} cells that the network sees, got {int(mask.sum())} of {mask.size} "
                "pixels. Take a larger region, or a larger image_size."
            )
        return cls(seen >= 0.5, cells)

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return replace(self, seen=self.seen.to(device), cells=self.cells.to(device))

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Those (B, n, D) of the rows (B, rows * columns, D) of all cells."""
        return rows.index_select(1, self.places)

    def on_grid(self, values: torch.Tensor) -> torch.Tensor:
        """Grids (B, rows, columns) of the values (B, n) of its cells; 0 elsewhere."""
        return F.pad(values, (0, 1)).index_select(1, self._order).unflatten(1, self.cells.shape)


def seen_share(mask: np.ndarray, network_input: NetworkInput) -> torch.Tensor:
    """How much of each pixel (h, w) that the network sees a mask (H, W) of the image covers."""
    share = share_by_cell(torch.from_numpy(mask).float(), network_input.image_size)
    (top, left), (height, width) = network_input.crop_offset, network_input.seen_size
    return share[top : top + height, left : left + width]


def checked_region(region: Path | ArrayLike) -> np.ndarray:
    """The mask (H, W) of a region, as booleans; ValueError if there is none or it is empty."""
    mask = read_mask(region, name=None if isinstance(region, str | os.PathLike) else "region")
    if not mask.any():
        raise ValueError("region: expected a mask, True where defects count, got an empty one.")
    return mask
