"""Figures of anomaly maps and scores; matplotlib is imported on first use."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from ..annotations import Images
from ..data.images import ImageStream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class AnomalyMapDisplay:
    """Plot of images and their anomaly maps on a common color scale.

    Create it with :meth:`from_estimator` or :meth:`from_maps`.

    Parameters
    ----------
    images : list of ndarray of shape (H, W) or (H, W, 3)
        Floats in [0, 1].
    maps : ndarray of shape (n_images, H, W), or list of ndarray of shape (H, W)
        Higher = more anomalous.
    masks : list of ndarray of shape (H, W), or None, default=None
        True for defective pixels, which are outlined.
    scores : ndarray of shape (n_images,) or None, default=None
        ``score_samples``, lower = more anomalous; shown above the maps with reversed sign.
    labels : ndarray of shape (n_images,) or None, default=None
        +1 / -1, shown beside the scores.
    names : list of str or None, default=None
        Titles of the images.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of matplotlib Axes, shape (2, n_images)
        Images above, overlaid maps below. Both exist after :meth:`plot`.

    Examples
    --------
    >>> display = AnomalyMapDisplay.from_maps(  # doctest: +SKIP
    ...     np.zeros((2, 8, 8)), np.random.rand(2, 8, 8)
    ... )
    >>> display.figure_.savefig("maps.png")  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        images: Sequence[np.ndarray],
        maps: np.ndarray | Sequence[np.ndarray],
        masks: Sequence[ArrayLike] | None = None,
        scores: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        names: list[str] | None = None,
    ):
        self.images = images
        self.maps = maps
        self.masks = masks
        self.scores = scores
        self.labels = labels
        self.names = names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Images,
        *,
        masks: Sequence[ArrayLike] | None = None,
        names: list[str] | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        figure: "Figure | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Inspect images with a fitted detector and plot the result.

        Parameters
        ----------
        estimator : fitted detector
        X : array, tensor, list or folder
            A few images. They are read twice, so iterators and DataLoaders are refused.
        masks : sequence of (H, W) arrays or None, default=None
            True for defective pixels.
        names : list of str or None, default=None
            Titles; None uses the file names, if there are any.
        vmin, vmax : float or None, default=None
            Limits of the color scale; see :meth:`plot`.
        figure : matplotlib Figure or None, default=None
        **kwargs
            Passed to :meth:`plot`.

        Returns
        -------
        display : AnomalyMapDisplay
        """
        if not isinstance(X, np.ndarray | torch.Tensor | list | tuple | str | os.PathLike):
            raise ValueError(
                "X: expected images that can be read twice (an array, tensor, list or folder), "
                f"got {type(X).__name__}. Pass a list of images."
            )
        seen = estimator.inspect(X)
        if names is None and any(seen.paths):
            names = [
                path.replace("\\", "/").rsplit("/", 1)[-1] if path else "" for path in seen.paths
            ]
        display = cls(
            images=[_as_picture(image) for image in ImageStream(X)],
            maps=seen.maps,
            masks=masks,
            scores=seen.scores,
            labels=seen.labels,
            names=names,
        )
        return display.plot(vmin=vmin, vmax=vmax, figure=figure, **kwargs)

    @classmethod
    def from_maps(
        cls,
        images: Images,
        maps: np.ndarray | Sequence[np.ndarray],
        *,
        masks: Sequence[ArrayLike] | None = None,
        names: list[str] | None = None,
        vmin: float | None = None,
        vmax: float | None = None,
        figure: "Figure | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Plot given maps.

        Parameters
        ----------
        images : array, tensor, list or folder
            Images; see :mod:`anomalib_lite.data.images`.
        maps : ndarray of shape (n_images, H, W), or list of ndarray of shape (H, W)
            Higher = more anomalous.
        masks, names, vmin, vmax, figure, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : AnomalyMapDisplay
        """
        pictures = [_as_picture(image) for image in ImageStream(images)]
        display = cls(images=pictures, maps=maps, masks=masks, names=names)
        return display.plot(vmin=vmin, vmax=vmax, figure=figure, **kwargs)

    def plot(
        self,
        *,
        vmin: float | None = None,
        vmax: float | None = None,
        figure: "Figure | None" = None,
        cmap: str = "inferno",
        alpha: float = 0.7,
    ) -> Self:
        """Draw images above and overlaid maps below.

        Parameters
        ----------
        vmin, vmax : float or None, default=None
            Limits of the common color scale. None: the median and the maximum of all maps. Set both
            to compare figures.
        figure : matplotlib Figure or None, default=None
            None creates one.
        cmap : str, default="inferno"
        alpha : float, default=0.7
            Opacity of a map over its image at ``vmax``. At ``vmin`` it is transparent.

        Returns
        -------
        self : object
        """
        from matplotlib import pyplot as plt
        from matplotlib.cm import ScalarMappable

        n_images = len(self.images)
        if len(self.maps) != n_images or (self.masks is not None and len(self.masks) != n_images):
            raise ValueError(
                f"expected as many maps (and masks) as images, got {n_images} images, "
                f"{len(self.maps)} maps, {'no' if self.masks is None else len(self.masks)} masks."
            )
        values = np.concatenate([np.ravel(image_map) for image_map in self.maps])
        vmin = float(np.median(values)) if vmin is None else vmin
        vmax = float(values.max()) if vmax is None else vmax
        if figure is None:
            figure = plt.figure(figsize=(2.2 * n_images + 0.8, 4.8), layout="constrained")
        axes = figure.subplots(2, n_images, squeeze=False)
        for i, (top, bottom) in enumerate(axes.T):
            picture = {"cmap": "gray", "vmin": 0, "vmax": 1}
            top.imshow(self.images[i], **picture)
            bottom.imshow(self.images[i], **picture)
            fraction = np.clip((self.maps[i] - vmin) / max(vmax - vmin, 1e-12), 0, 1)
            heat = bottom.imshow(
                self.maps[i], cmap=cmap, vmin=vmin, vmax=vmax, alpha=alpha * np.sqrt(fraction)
            )
            if self.masks is not None and np.any(self.masks[i]):
                for axis in (top, bottom):
                    axis.contour(self.masks[i], levels=[0.5], colors="cyan", linewidths=0.8)
            if self.names is not None:
                top.set_title(self.names[i], fontsize="small")
            bottom.set_title(self._verdict(i), fontsize="small")
            for axis in (top, bottom):
                axis.set_axis_off()
        scale = ScalarMappable(heat.norm, cmap)
        bar = figure.colorbar(scale, ax=axes.ravel().tolist(), shrink=0.8)
        bar.set_label("anomaly map")
        self.figure_, self.axes_ = figure, axes
        return self

    def _verdict(self, i):
        if self.scores is None:
            return ""
        text = f"score {-self.scores[i]:.3g}"
        if self.labels is None:
            return text
        return f"{text}: {'normal' if self.labels[i] == 1 else 'anomalous'}"


def plot_score_histogram(
    scores: ArrayLike,
    y: ArrayLike,
    *,
    offset: float | None = None,
    ax: "Axes | None" = None,
    bins: int = 40,
) -> "Axes":
    """Plot histograms of ``score_samples`` of normal and anomalous images.

    Parameters
    ----------
    scores : array of shape (n_images,)
        Lower = more anomalous.
    y : array of shape (n_images,)
        +1 normal, -1 anomalous.
    offset : float or None, default=None
        The detector's ``offset_``, drawn as a vertical line.
    ax : matplotlib Axes or None, default=None
    bins : int, default=40

    Returns
    -------
    ax : matplotlib Axes
    """
    from matplotlib import pyplot as plt

    scores, y = np.asarray(scores), np.asarray(y)
    if scores.shape != y.shape or not np.isin(y, (-1, 1)).all():
        raise ValueError(
            "y: expected one label per score, +1 normal or -1 anomalous, got the values "
            f"{np.unique(y)[:5]} in shape {y.shape} for scores of shape {scores.shape}."
        )
    ax = plt.subplots()[1] if ax is None else ax
    edges = np.histogram_bin_edges(scores, bins)
    ax.hist(scores[y == 1], edges, alpha=0.6, label="normal")
    ax.hist(scores[y == -1], edges, alpha=0.6, label="anomalous")
    if offset is not None:
        ax.axvline(offset, color="black", linestyle="--", label="offset_")
    ax.set(xlabel="score_samples (lower = more anomalous)", ylabel="images")
    ax.legend()
    return ax


def _as_picture(image):
    """(H, W) or (H, W, 3) floats in [0, 1] of a checked image."""
    pixels = image.pixels.numpy()
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
