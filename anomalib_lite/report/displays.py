"""Pictures of what a detector found. Matplotlib is imported when something is drawn."""

import os

import numpy as np
import torch

from ..data.images import ImageStream


class AnomalyMapDisplay:
    """Images beside their anomaly maps, all on one color scale.

    Make it with :meth:`from_estimator` or :meth:`from_maps`.

    Parameters
    ----------
    images : list of ndarray of shape (H, W) or (H, W, 3)
        Floats in [0, 1].
    maps : ndarray of shape (n_images, H, W), or list of ndarray of shape (H, W)
        Higher = more anomalous.
    masks : list of ndarray of shape (H, W), or None, default=None
        True where the defect is, to be outlined.
    scores : ndarray of shape (n_images,) or None, default=None
        ``score_samples``, lower = more anomalous; written above the maps with its sign turned.
    labels : ndarray of shape (n_images,) or None, default=None
        +1 / -1, to be written beside the scores.
    names : list of str or None, default=None
        Written above the images.

    Attributes
    ----------
    figure_ : matplotlib Figure
    axes_ : ndarray of matplotlib Axes, shape (2, n_images)
        After :meth:`plot`: images above, overlaid maps below.

    Examples
    --------
    >>> display = AnomalyMapDisplay.from_maps(  # doctest: +SKIP
    ...     np.zeros((2, 8, 8)), np.random.rand(2, 8, 8)
    ... )
    >>> display.figure_.savefig("maps.png")  # doctest: +SKIP
    """

    def __init__(self, *, images, maps, masks=None, scores=None, labels=None, names=None):
        self.images = images
        self.maps = maps
        self.masks = masks
        self.scores = scores
        self.labels = labels
        self.names = names

    @classmethod
    def from_estimator(
        cls, estimator, X, *, masks=None, names=None, vmin=None, vmax=None, figure=None, **kwargs
    ):
        """Inspect images with a fitted detector and plot the result.

        Parameters
        ----------
        estimator : fitted detector
        X : array, tensor, list or folder
            A handful of images; what need not read the same twice (a DataLoader) is refused.
        masks : sequence of (H, W) arrays or None, default=None
            Where the defects are.
        names : list of str or None, default=None
            Titles; None takes the file names, where there are files.
        vmin, vmax : float or None, default=None
            Ends of the color scale; see :meth:`plot`.
        figure : matplotlib Figure or None, default=None
        **kwargs
            Passed on to :meth:`plot`.

        Returns
        -------
        display : AnomalyMapDisplay
        """
        if not isinstance(X, np.ndarray | torch.Tensor | list | tuple | str | os.PathLike):
            raise ValueError(
                "X: expected images that read the same twice (an array, tensor, list or folder), "
                f"got {type(X).__name__}. Pass a list of them."
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
        cls, images, maps, *, masks=None, names=None, vmin=None, vmax=None, figure=None, **kwargs
    ):
        """Plot maps that are already there.

        Parameters
        ----------
        images : array, tensor, list or folder
            See :mod:`anomalib_lite.data.images`.
        maps : array (n_images, H, W) or list of (H, W)
        masks, names, vmin, vmax, figure, **kwargs
            As in :meth:`from_estimator`.

        Returns
        -------
        display : AnomalyMapDisplay
        """
        pictures = [_as_picture(image) for image in ImageStream(images)]
        display = cls(images=pictures, maps=maps, masks=masks, names=names)
        return display.plot(vmin=vmin, vmax=vmax, figure=figure, **kwargs)

    def plot(self, *, vmin=None, vmax=None, figure=None, cmap="inferno", alpha=0.7):
        """Draw images above and overlaid maps below.

        Parameters
        ----------
        vmin, vmax : float or None, default=None
            Ends of the one color scale of all maps. None: the median and the maximum over all
            of them; give both to compare figures with each other.
        figure : matplotlib Figure or None, default=None
            None makes one.
        cmap : str, default="inferno"
        alpha : float, default=0.7
            Opacity of the map over the image where it reaches ``vmax``; it is transparent at
            ``vmin``, so that what is normal can be seen as it is.

        Returns
        -------
        self : object
        """
        from matplotlib import pyplot as plt
        from matplotlib.cm import ScalarMappable

        n_images = len(self.images)
        if len(self.maps) != n_images or (self.masks is not None and len(self.masks) != n_images):
            raise ValueError(
                f"expected as many maps and masks as images, got {n_images} images, "
                f"{len(self.maps)} maps, {None if self.masks is None else len(self.masks)} masks."
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
            share = np.clip((self.maps[i] - vmin) / max(vmax - vmin, 1e-12), 0, 1)
            heat = bottom.imshow(
                self.maps[i], cmap=cmap, vmin=vmin, vmax=vmax, alpha=alpha * np.sqrt(share)
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


def plot_score_histogram(scores, y, *, offset=None, ax=None, bins=40):
    """Histogram of ``score_samples`` of normal and anomalous images.

    Parameters
    ----------
    scores : array of shape (n_images,)
        Lower = more anomalous.
    y : array of shape (n_images,)
        +1 normal, -1 anomalous.
    offset : float or None, default=None
        The detector's ``offset_``, drawn as a line.
    ax : matplotlib Axes or None, default=None
    bins : int, default=40

    Returns
    -------
    ax : matplotlib Axes
    """
    from matplotlib import pyplot as plt

    scores, y = np.asarray(scores), np.asarray(y)
    if scores.shape != y.shape or not np.isin(y, (-1, 1)).all():
        raise ValueError("y: expected one label per score, +1 normal or -1 anomalous.")
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
