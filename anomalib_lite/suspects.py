"""The most unusual patches of images: what is kept of these to calibrate a detector again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

N_IMAGES = 10_000
"""Images whose patches are kept: enough for a quantile, and no more memory for more images."""


@dataclass(frozen=True, eq=False)
class Suspects:
    """The k most unusual patches of n images, which are known by their digests.

    Attributes
    ----------
    digests : ndarray of shape (n,), int64
        Ascending.
    cells : torch.Tensor of shape (n, k), int64
        Where the patches are in the grid.
    rows : torch.Tensor of shape (n, k, D)
    """

    digests: np.ndarray
    cells: torch.Tensor
    rows: torch.Tensor

    def __post_init__(self):
        fits = (
            self.digests.dtype == np.int64
            and self.digests.ndim == 1
            and (self.digests[1:] > self.digests[:-1]).all()
            and self.cells.dtype == torch.int64
            and self.cells.shape == self.rows.shape[:2]
            and self.rows.ndim == 3
            and len(self.rows) == len(self.digests)
            and bool(self.rows.isfinite().all())
        )
        if not fits:
            raise ValueError("expected the patches of each image, and where they are in the grid.")

    def __len__(self):
        return len(self.digests)

    @classmethod
    def of(cls, digests: np.ndarray, cells: torch.Tensor, rows: torch.Tensor) -> Self:
        """Those of some images in any order, of which copies and what is too many are dropped.

        Whose patches are kept does not depend on the order of images, or on how they are divided:
        of those with the lowest digests.

        Examples
        --------
        >>> rows = torch.arange(3.0).view(3, 1, 1)
        >>> Suspects.of(np.array([7, 5, 7]), torch.zeros(3, 1, dtype=torch.int64), rows).digests
        array([5, 7])
        """
        digests, first = np.unique(digests, return_index=True)
        kept = torch.from_numpy(first[:N_IMAGES]).to(rows.device)
        return cls(digests[:N_IMAGES], cells[kept], rows[kept])

    @classmethod
    def joined(cls, each: Sequence[Self]) -> Self:
        """Those of several; of an image that is in more than one, the last."""
        latest_first = each[::-1]
        return cls.of(
            np.concatenate([one.digests for one in latest_first]),
            torch.cat([one.cells for one in latest_first]),
            torch.cat([one.rows for one in latest_first]),
        )

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return replace(self, cells=self.cells.to(device), rows=self.rows.to(device))
