"""Figures of anomaly maps; matplotlib is imported on first use."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..annotations import Images
from ..validation import check_choice, check_number
from .layout import Grid, drawing
from .pictures import (
    check_number_of,
    checked_map,
    checked_mask,
    file_name,
    read_pictures,
    smaller_map,
    smaller_picture,
    title,
)
from .scales import ColorScale

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_MASK_COLOR, _THRESHOLD_COLOR = "cyan", "white"
_VERDICTS = {1: "normal", -1: "anomalous"}
_NO_MARKUP = {"parse_math": False, "usetex": False}  # a file name may hold $, _ or ^


class AnomalyMapDisplay:
    """Plot of images and their anomaly maps on the color scale of the detector.

    Create it with :meth:`from_estimator` or :meth:`from_maps`.

    Parameters
    ----------
    images : list of (ndarray of shape (H, W) or (H, W, 3), or None)
        Floats in [0, 1]; None for an image that could not be read.
    maps : ndarray of shape (n_images, h, w), or list of (ndarray of shape (h, w) or None)
        Higher = more anomalous. A map covers its image, whatever its resolution.
    masks : list of (array of shape (H, W) or None), or None, default=None
        True for defective pixels, which are outlined; paths and PIL images are read as masks.
    scores : ndarray of shape (n_images,) or None, default=None
        ``score_samples``, lower = more anomalous; shown above the maps with reversed sign.
    labels : ndarray of shape (n_images,) or None, default=None
        +1 / -1, shown beside the scores.
    names : list of str or None, default=None
        Titles of the images.
    levels : MapLevels, pair (normal, threshold) of floats, or None, default=None
        The detector's ``map_levels()``. Maps are transparent up to ``normal``; ``threshold`` has
        the same color in every figure, and a contour. None takes colors from the maps shown.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of matplotlib Axes, shape (2, n_images)
        ``axes_[0, i]`` shows image i, ``axes_[1, i]`` its map, wherever they stand in the figure.
        Both attributes exist after :meth:`plot`.

    Examples
    --------
    >>> display = AnomalyMapDisplay.from_maps(  # doctest: +SKIP
    ...     np.zeros((2, 8, 8)), np.random.rand(2, 8, 8)
    ... )
    >>> display.figure_.savefig("maps.png")  # doctest: +SKIP
    """

    figure_: "Figure"
    axes_: np.ndarray

    def __init__(
        self,
        *,
        images: Sequence[np.ndarray | None],
        maps: np.ndarray | Sequence[np.ndarray | None],
        masks: Sequence[ArrayLike | None] | None = None,
        scores: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        names: Sequence[str] | None = None,
        levels: tuple[float, float] | None = None,
    ):
        self.images = images
        self.maps = maps
        self.masks = masks
        self.scores = scores
        self.labels = labels
        self.names = names
        self.levels = levels

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Images,
        *,
        masks: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        figure: "Figure | SubFigure | None" = None,
        n_columns: int | None = None,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> Self:
        """Inspect images with a fitted detector and plot the result.

        Images and maps are read one by one and kept as small as the figure shows them, so that
        large photographs take little time and memory.

        Parameters
        ----------
        estimator : fitted detector
            With ``iter_inspect`` or ``inspect``. The color scale is that of its ``map_levels()``.
        X : array, tensor, list, folder or Dataset
            They are read twice, so iterators and DataLoaders are refused.
        masks : sequence of (array of shape (H, W), path, PIL image or None), or None, default=None
            True for defective pixels; see :mod:`anomalib_lite.data.masks`. Each has the size of
            its image.
        names : sequence of str or None, default=None
            Titles; None uses the file names, if there are any.
        vmin, vmax, figure, n_columns
            See :meth:`plot`.
        on_error : {"raise", "skip"}, default="raise"
            What an image does that cannot be read: raise a ValueError, or leave its place empty.
        **kwargs
            Passed to :meth:`plot`.

        Returns
        -------
        display : AnomalyMapDisplay
        """
        check_choice("on_error", on_error, ("raise", "skip"))
        is_path = isinstance(X, str | os.PathLike)
        if not (is_path or (hasattr(X, "__getitem__") and hasattr(X, "__len__"))):
            raise ValueError(
                "X: expected images that can be read twice (an array, tensor, list or folder), "
                f"got {type(X).__name__}. Pass a list of images."
            )
        pictures, outlines = read_pictures(X, masks, n_columns, on_error)
        scores, labels, maps, paths = _inspected(estimator, X, on_error)
        if names is None and any(paths):
            names = [file_name(path) for path in paths]
        levels = estimator.map_levels() if hasattr(estimator, "map_levels") else None
        display = cls(
            images=pictures,
            maps=maps,
            masks=outlines,
            scores=scores,
            labels=labels,
            names=names,
            levels=levels,
        )
        return display.plot(vmin=vmin, vmax=vmax, figure=figure, n_columns=n_columns, **kwargs)

    @classmethod
    def from_maps(
        cls,
        images: Images,
        maps: np.ndarray | Sequence[np.ndarray | None],
        *,
        masks: Sequence[Any] | None = None,
        names: Sequence[str] | None = None,
        levels: tuple[float, float] | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        figure: "Figure | SubFigure | None" = None,
        n_columns: int | None = None,
        **kwargs: Any,
    ) -> Self:
        """Plot given maps.

        Parameters
        ----------
        images : array, tensor, list, folder, Dataset or iterable
            Images; see :mod:`anomalib_lite.data.images`.
        maps : ndarray of shape (n_images, h, w), or list of ndarray of shape (h, w)
            Higher = more anomalous. A map covers its image, whatever its resolution.
        levels : MapLevels, pair (normal, threshold) of floats, or None, default=None
            The ``map_levels()`` of the detector that made the maps.
        masks, names, vmin, vmax, figure, n_columns, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : AnomalyMapDisplay
        """
        pictures, outlines = read_pictures(images, masks, n_columns)
        display = cls(images=pictures, maps=maps, masks=outlines, names=names, levels=levels)
        return display.plot(vmin=vmin, vmax=vmax, figure=figure, n_columns=n_columns, **kwargs)

    def plot(
        self,
        *,
        vmin: float | None = None,
        vmax: float | None = None,
        figure: "Figure | SubFigure | None" = None,
        n_columns: int | None = None,
        cmap: Any = "inferno",
        alpha: float = 0.7,
    ) -> Self:
        """Draw images above and overlaid maps below.

        Parameters
        ----------
        vmin, vmax : float or None, default=None
            Limits of the common color scale. None: by ``levels``, which makes figures of one
            detector comparable; without these the median and the maximum of all maps.
        figure : matplotlib Figure, SubFigure or None, default=None
            None creates one.
        n_columns : int or None, default=None
            Images in a row. None is up to 6, or as many as make the figure about as wide as high.
        cmap : str or Colormap, default="inferno"
        alpha : float, default=0.7
            Opacity of a map over its image from the threshold on, or at ``vmax`` where there is no
            threshold. At ``vmin`` it is transparent.

        Returns
        -------
        self : object
        """
        grid = self._grid(n_columns)
        tiles = self._tiles(grid.n_pixels)
        maps = [heat for _, _, heat in tiles if heat is not None]
        scale = ColorScale.of(maps, self.levels, vmin, vmax)
        check_number("alpha", alpha, minimum=0)

        from matplotlib import colormaps
        from matplotlib import pyplot as plt
        from matplotlib.colors import FuncNorm

        colors = {
            "cmap": colormaps.get_cmap(cmap),
            "norm": FuncNorm((scale.place, scale.value), scale.lowest, scale.highest),
        }
        with drawing(figure, lambda: plt.figure(figsize=grid.size)) as figure:
            font_size = grid.font_size_in(figure)
            boxes, bar_box = grid.boxes()
            axes = np.empty((2, grid.n_images), dtype=object)
            for i, tile in enumerate(tiles):
                axes[:, i] = [figure.add_axes(box) for box in boxes[:, i]]
                _draw(axes[:, i], tile, scale, colors, min(alpha, 1))
                for axis, text in zip(axes[:, i], self._titles(i), strict=True):
                    text = title(text, grid.n_letters)
                    axis.set_title(text, fontsize=font_size, pad=3, **_NO_MARKUP)
            _draw_bar(figure.add_axes(bar_box), scale, colors["cmap"], font_size)
        self.figure_, self.axes_ = figure, axes
        return self

    def _grid(self, n_columns):
        """The grid of the figure; checks that all there is belongs to as many images."""
        n_images = len(self.images)
        if n_images == 0:
            raise ValueError("images: expected at least one image, got none.")
        for name in ("maps", "masks", "scores", "labels", "names"):
            values = getattr(self, name)
            if values is not None:
                check_number_of(name, values, n_images)
        shapes = [image.shape for image in self.images if image is not None]
        aspect = float(np.median([height / width for height, width, *_ in shapes] or [1]))
        return Grid.of(n_images, n_columns, float(np.clip(aspect, 0.4, 2.5)))

    def _tiles(self, n_pixels):
        """(image, mask, map) of each image, small; None for what there is not."""
        tiles = []
        masks = [None] * len(self.images) if self.masks is None else self.masks
        for i, (image, heat) in enumerate(zip(self.images, self.maps, strict=True)):
            heat = checked_map(heat, i)
            if image is None:
                tiles.append((None, None, None))
                continue
            mask = checked_mask(masks[i], image.shape[:2], i)
            tiles.append(
                (
                    smaller_picture(image, n_pixels),
                    None if mask is None else smaller_map(mask, n_pixels),
                    None if heat is None else smaller_map(heat, n_pixels),
                )
            )
        return tiles

    def _titles(self, i):
        """Texts above image i and its map."""
        name = "" if self.names is None or self.names[i] is None else self.names[i]
        if self.scores is None:
            return name, ""
        if self.images[i] is None or np.isnan(self.scores[i]):
            return name, "no score"
        text = f"score {-self.scores[i]:.3g}"
        if self.labels is not None:
            text = f"{text}: {_VERDICTS.get(int(self.labels[i]), 'no label')}"
        return name, text


def _inspected(estimator, X, on_error):
    """Scores, labels, maps and paths of images."""
    options = {} if on_error == "raise" else {"on_error": on_error}
    if hasattr(estimator, "iter_inspect"):
        # maps as the network sees them: those of the image's size hold nothing more
        seen = list(estimator.iter_inspect(X, maps="network", **options))
        return (
            np.array([image.score for image in seen]),
            np.array([image.label for image in seen]),
            [image.map for image in seen],
            [image.path for image in seen],
        )
    if not hasattr(estimator, "inspect"):
        raise ValueError(
            f"estimator: expected a detector with inspect, got {type(estimator).__name__}. Pass "
            "maps of your own to AnomalyMapDisplay.from_maps."
        )
    seen = estimator.inspect(X, **options)
    return seen.scores, seen.labels, seen.maps, seen.paths


# -- drawing --------------------------------------------------------------------------------------


def _draw(axes, tile, scale, colors, alpha):
    """An image on the first axes, and with its map on the second."""
    picture, mask, heat = tile
    for axis in axes:
        axis.set_axis_off()
        if picture is None:
            axis.text(0.5, 0.5, "skipped", ha="center", va="center", transform=axis.transAxes)
            continue
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        if mask is not None and mask.any():
            _outline(axis, mask, 0.5, picture, _MASK_COLOR)
    if picture is None or heat is None:
        return
    height, width = picture.shape[:2]
    axes[1].imshow(
        heat,
        **colors,
        alpha=alpha * scale.opacity(heat),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="bilinear",
    )
    if scale.threshold is not None and heat.max() > scale.threshold:
        _outline(axes[1], heat, scale.threshold, picture, _THRESHOLD_COLOR)


def _outline(axis, values, level, picture, color):
    """Contour of a map or mask that covers a picture; closed at its border."""
    outside = min(float(values.min()), 2 * level - float(values.max()))
    padded = np.pad(values.astype(float), 1, constant_values=outside)
    rows, columns = (
        (np.arange(-1, n + 1) + 0.5) * side / n - 0.5
        for n, side in zip(values.shape, picture.shape[:2], strict=True)
    )
    limits = axis.get_xlim(), axis.get_ylim()
    axis.contour(columns, rows, padded, levels=[level], colors=color, linewidths=0.9)
    axis.set(xlim=limits[0], ylim=limits[1])


def _draw_bar(axis, scale, cmap, font_size):
    """The color scale, with the values that mean something beside it."""
    axis.imshow(np.linspace(0, 1, 256)[:, None], cmap=cmap, origin="lower", extent=(0, 1, 0, 1))
    axis.set_aspect("auto")
    places, texts = [0, 0.2, 0.4, 0.6, 0.8, 1], [""] * 6
    if scale.threshold is not None:
        places[2] = float(scale.place(scale.threshold))
        texts[0], texts[2] = "  normal", "  threshold"
        axis.axhline(places[2], color=_THRESHOLD_COLOR, linewidth=1.2)
    labels = [f"{v:.3g}{text}" for v, text in zip(scale.value(places), texts, strict=True)]
    axis.set_yticks(places, labels, fontsize=font_size)
    axis.yaxis.tick_right()
    axis.set_xticks([])
    axis.set_title("map", fontsize=font_size, pad=3)
