"""Views of a normal image besides itself, to learn more from few."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Self, TypeAlias

import torch
from torch.nn import functional as F

from .data.augment import rotated
from .notes import digest_of
from .runtime import draw_seed, uniform
from .validation import check_count

Embed: TypeAlias = Callable[[torch.Tensor], tuple[torch.Tensor, tuple[int, int]]]

_STEPS = range(45, 360, 45)  # degrees of "rotations"
_FLIPS = ((3,), (2,), (2, 3))


def check_reference_views(value: int | str | None) -> None:
    """Raise ValueError unless ``reference_views`` is a count, "rotations", "flips" or None."""
    if value is None or (isinstance(value, str) and value in ("rotations", "flips")):
        return
    if isinstance(value, str) or not isinstance(value, Integral):
        raise ValueError(
            'reference_views: expected a count of turned views, "rotations", "flips" or None, got '
            f"{value!r}."
        )
    check_count("reference_views", value)


@dataclass(frozen=True)
class ReferenceViews:
    """Which views of each normal image are learned besides itself.

    Attributes
    ----------
    kind : int, "rotations" or "flips"
        So many views, each turned by an angle drawn at random; seven, turned by 45, 90, ..., 315
        degrees; or three, mirrored left to right, top to bottom, and both.
    seed : int
        Of the angles that are drawn. Those of an image follow from its digest, too, and not from
        its place among others.

    Examples
    --------
    >>> views = ReferenceViews("flips", seed=0)
    >>> corner = torch.tensor([[[[1, 0], [0, 0]]]])
    >>> [view.flatten().tolist() for view in views.of(corner)]
    [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    """

    kind: int | str
    seed: int

    def __post_init__(self):
        check_reference_views(self.kind)
        check_count("seed", self.seed, minimum=0)
        if self.kind is None:
            raise ValueError("reference_views: expected some, got None.")

    @classmethod
    def made(cls, reference_views: int | str | None, generator: torch.Generator) -> Self | None:
        """Those that an estimator's parameter asks for, or None."""
        if reference_views is None:
            return None
        is_count = isinstance(reference_views, Integral)
        kind = int(reference_views) if is_count else reference_views
        return cls(kind, draw_seed(generator))

    def rows(
        self, batch: torch.Tensor, embed: Embed, seen: torch.Tensor | None = None
    ) -> Iterator[torch.Tensor]:
        """Rows of the patches of a batch's views, one view of each image at a time.

        Parameters
        ----------
        batch : torch.Tensor of shape (B, 3, h, w)
        embed : callable
            Gives patch rows (B, rows * columns, D) of a batch, and their grid (rows, columns).
        seen : torch.Tensor of shape (h, w), bool, or None, default=None
            Pixels that are learned; None: all.

        Yields
        ------
        rows : torch.Tensor of shape (B, n, D)
            Of the cells that show such pixels on half of their area, rather than others or
            reflections. Of a view that is turned by any angle it is those in the largest circle
            around the image's center, whatever the angle. Views without any are left out.

        Raises
        ------
        ValueError
            If no view has such cells.
        """
        if seen is None:
            seen = torch.ones(batch.shape[2:], dtype=torch.bool, device=batch.device)
        is_any = False
        for view, mask in zip(self.of(batch), self._masks(seen), strict=True):
            rows, grid = embed(view)
            cells = share_by_cell(mask, grid) >= 0.5
            if cells.any():
                is_any = True
                yield rows[:, cells.flatten()]
        if not is_any:
            raise ValueError(
                f"reference_views: expected turned views that show pixels to learn on half of a "
                f"cell, got none with {self.kind!r}, inputs of {seen.shape[0]} x {seen.shape[1]} "
                f"pixels and {grid[0]} x {grid[1]} cells. Take None or 'flips', an image_size or "
                "center_crop nearer to a square, finer layers, or a larger region if there is one."
            )

    def of(self, batch: torch.Tensor) -> Iterator[torch.Tensor]:
        """Views (B, 3, h, w) of a batch, one of each image at a time.

        What a turned view shows of the outside is the image's reflection.
        """
        if isinstance(self.kind, str):
            yield from self._fixed(batch, outside="reflection")
            return
        angles = torch.stack([self._angles(digest_of(pixels)) for pixels in batch])
        for degrees in angles.T:
            yield rotated(batch, degrees)

    def _masks(self, seen):
        """Of each view, where it shows some pixels (h, w) of the image, (h, w) float."""
        if isinstance(self.kind, str):
            masks = self._fixed(seen[None, None].float(), outside="zeros")
            return (mask[0, 0] for mask in masks)
        return [(_circle(seen) & seen).float()] * self.kind

    def _fixed(self, batch, *, outside):
        if self.kind == "flips":
            for axes in _FLIPS:
                yield batch.flip(axes)
            return
        for degrees in _STEPS:
            angles = torch.full((len(batch),), float(degrees), device=batch.device)
            yield rotated(batch, angles, outside=outside)

    def _angles(self, digest):
        generator = torch.Generator().manual_seed(self.seed ^ digest)
        return 360 * uniform((self.kind,), generator)


def share_by_cell(mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The share of each cell's area that a mask (h, w) of floats covers, of shape ``grid``."""
    return F.interpolate(mask[None, None], size=grid, mode="area")[0, 0]


def _circle(seen):
    """The pixels (h, w) no farther from the center than the nearest border."""
    height, width = seen.shape
    down, right = (
        torch.arange(side, device=seen.device) + 0.5 - side / 2 for side in (height, width)
    )
    return torch.hypot(down[:, None], right[None]) <= min(height, width) / 2
