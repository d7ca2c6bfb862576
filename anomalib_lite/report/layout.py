"""Where pictures, titles and the color bar of a figure stand, in inches."""

import math
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..validation import check_count

_LARGEST_WIDTH, _LARGEST_HEIGHT = 2.2, 3.0  # of a tile, in inches
_WIDEST, _HIGHEST = 18.0, 200.0  # a figure
_MARGIN, _GAP, _BAR = 0.15, 0.08, 1.15
_PIXELS_PER_INCH = 200


@dataclass(frozen=True)
class Grid:
    """A grid of blocks, each a picture with its map below, and a color bar at the right.

    Attributes
    ----------
    n_images, n_columns : int
    tile : tuple (height, width) of floats
        Of each picture and each map, in inches.
    """

    n_images: int
    n_columns: int
    tile: tuple[float, float]

    @classmethod
    def of(cls, n_images: int, n_columns: int | None, aspect: float = 1.0) -> "Grid":
        """The largest tiles that keep the figure within its limits.

        Parameters
        ----------
        n_images : int
        n_columns : int or None
            None is up to 6, or as many as make the figure about as wide as high.
        aspect : float, default=1.0
            Height of a picture over its width.

        Examples
        --------
        >>> Grid.of(4, None).n_columns, Grid.of(50, None).n_columns
        (4, 11)
        """
        if n_columns is not None:
            check_count("n_columns", n_columns)
        else:
            n_columns = max(6, math.ceil(math.sqrt(n_images * (2 * aspect + 0.3))))
        n_columns = min(n_columns, n_images)
        n_blocks = math.ceil(n_images / n_columns)
        widest = min(_LARGEST_WIDTH, _LARGEST_HEIGHT / aspect)
        highest = (_HIGHEST / n_blocks - 3 * _GAP) / (2 * aspect + 0.4)
        width = min(widest, _WIDEST / n_columns - _GAP, highest)
        return cls(n_images, n_columns, (width * aspect, width))

    @property
    def n_pixels(self) -> int:
        """Pixels of a tile's longer side that can be seen."""
        return math.ceil(_PIXELS_PER_INCH * max(self.tile))

    @property
    def font_size(self) -> float:
        """Of titles, in points."""
        return float(np.clip(4 * self.tile[1], 4, 8.5))

    def font_size_in(self, figure: Any) -> float:
        """The same for a figure of another size, which is given."""
        width, height = figure.bbox.width / figure.dpi, figure.bbox.height / figure.dpi
        return self.font_size * min(width / self.size[0], height / self.size[1], 1)

    @property
    def n_letters(self) -> int:
        """Letters of a title that fit above a tile."""
        return max(int(self.tile[1] * 72 / (0.56 * self.font_size)), 8)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the figure."""
        n_blocks = math.ceil(self.n_images / self.n_columns)
        width = self.n_columns * (self.tile[1] + _GAP) + _BAR + 2 * _MARGIN
        return width, n_blocks * self._block + 2 * _MARGIN

    @property
    def _title(self):
        return 1.9 * self.font_size / 72

    @property
    def _block(self):
        return 2 * (self.tile[0] + self._title) + _GAP

    def boxes(self) -> tuple[np.ndarray, list[float]]:
        """Places of axes (2, n_images, 4) and color bar, as fractions (left, bottom, w, h)."""
        width, height = self.size
        row, column = np.divmod(np.arange(self.n_images), self.n_columns)
        left = _MARGIN + column * (self.tile[1] + _GAP)
        above = height - _MARGIN - row * self._block - self._title - self.tile[0]
        below = above - self._title - self.tile[0]
        boxes = np.empty((2, self.n_images, 4))
        boxes[..., 0], boxes[0, :, 1], boxes[1, :, 1] = left, above, below
        boxes[..., 2], boxes[..., 3] = self.tile[1], self.tile[0]
        bar_height = self._block - self._title - _GAP
        bar = [
            width - _MARGIN - _BAR + 0.05,
            above[0] - bar_height + self.tile[0],
            0.14,
            bar_height,
        ]
        scale = np.array([width, height, width, height])
        return boxes / scale, (np.array(bar) / scale).tolist()


@contextmanager
def drawing(figure: Any, make: Callable[[], Any]):
    """The given figure, or a new one; after an error no new figure or axes are left.

    Parameters
    ----------
    figure : matplotlib Figure, SubFigure or None
    make : callable
        Makes a figure where none is given.
    """
    from matplotlib import pyplot as plt

    if figure is not None and not hasattr(figure, "add_axes"):
        raise ValueError(
            f"figure: expected a matplotlib Figure or SubFigure, got {type(figure).__name__}."
        )
    given, figure = figure, make() if figure is None else figure
    before = list(figure.axes)
    try:
        yield figure
    except BaseException:
        if given is None:
            plt.close(figure)
        else:
            for axis in figure.axes:
                if axis not in before:
                    axis.remove()
        raise
