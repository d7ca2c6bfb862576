"""Curves of per-region overlap; matplotlib is imported on first use."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..annotations import Images
from ..metrics import pro_curve
from ..validation import check_share
from .layout import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

_N_STEPS = 1000  # of an axis, below which points of a curve are not told apart


class ProCurveDisplay:
    """Plot of the share of a defect's pixels that is found, over the share of normal ones called.

    Create it with :meth:`from_estimator` or :meth:`from_predictions`. The ROC curve of images is
    scikit-learn's ``RocCurveDisplay``.

    Parameters
    ----------
    fpr, overlap : ndarrays of shape (n_thresholds,)
        See :class:`~anomalib_lite.metrics.ProCurve`.
    area : float or None, default=None
        AUPRO up to `max_fpr`, told in the legend.
    max_fpr : float, default=0.3
        Where the curve ends.
    name : str or None, default=None
        Of the detector, in the legend.

    Attributes
    ----------
    line_ : matplotlib Line2D
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
        All three exist after :meth:`plot`.

    Examples
    --------
    >>> from anomalib_lite.report import ProCurveDisplay
    >>> masks = np.zeros((1, 4, 4), dtype=bool)
    >>> masks[0, 0, 0] = True
    >>> heat = np.arange(16.0)[::-1].reshape(1, 4, 4)
    >>> ProCurveDisplay.from_predictions(masks, heat).area  # doctest: +SKIP
    1.0
    """

    line_: "Line2D"
    ax_: "Axes"
    figure_: "Figure | SubFigure"

    def __init__(
        self,
        *,
        fpr: np.ndarray,
        overlap: np.ndarray,
        area: float | None = None,
        max_fpr: float = 0.3,
        name: str | None = None,
    ):
        self.fpr = fpr
        self.overlap = overlap
        self.area = area
        self.max_fpr = max_fpr
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Images,
        masks: ArrayLike | Sequence[ArrayLike],
        *,
        max_fpr: float = 0.3,
        name: str | None = None,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the curve of a fitted detector.

        Parameters
        ----------
        estimator : fitted detector
        X : images
            Of any kind that the detector takes.
        masks : array of shape (n_images, H, W) or sequence of (H, W) arrays
            Ground truth of the pixels of the images, 1 where anomalous.
        max_fpr, ax, **kwargs
            As for :meth:`from_predictions`.
        name : str or None, default=None
            None is the name of the estimator's class.

        Returns
        -------
        display : ProCurveDisplay
        """
        check_share("max_fpr", max_fpr)
        maps = [image.map for image in estimator.iter_inspect(X)]
        name = type(estimator).__name__ if name is None else name
        return cls.from_predictions(masks, maps, max_fpr=max_fpr, name=name, ax=ax, **kwargs)

    @classmethod
    def from_predictions(
        cls,
        masks: ArrayLike | Sequence[ArrayLike],
        maps: ArrayLike | Sequence[ArrayLike],
        *,
        max_fpr: float = 0.3,
        name: str | None = None,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Plot the curve of maps.

        Parameters
        ----------
        masks, maps : arrays of shape (n_images, H, W) or sequences of (H, W) arrays
            As for :func:`~anomalib_lite.metrics.aupro`.
        max_fpr : float, default=0.3
            Where the curve ends, in (0, 1].
        name : str or None, default=None
            Of the detector, in the legend.
        ax : matplotlib Axes or None, default=None
            None creates a figure.
        **kwargs
            Of matplotlib's ``plot``.

        Returns
        -------
        display : ProCurveDisplay

        Raises
        ------
        ValueError
            As by :func:`~anomalib_lite.metrics.aupro`.
        """
        check_share("max_fpr", max_fpr)
        curve = pro_curve(masks, maps)
        area = curve.area(max_fpr)
        display = cls(fpr=curve.fpr, overlap=curve.overlap, area=area, max_fpr=max_fpr, name=name)
        return display.plot(ax, **kwargs)

    def plot(self, ax: "Axes | None" = None, **kwargs: Any) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes or None, default=None
            None creates a figure.
        **kwargs
            Of matplotlib's ``plot``.

        Returns
        -------
        self : ProCurveDisplay
        """
        from matplotlib import pyplot as plt

        check_share("max_fpr", self.max_fpr)
        words = [self.name, None if self.area is None else f"AUPRO = {self.area:.3f}"]
        label = ", ".join(word for word in words if word is not None)
        with drawing(None if ax is None else ax.figure, plt.figure) as figure:
            ax = figure.add_subplot() if ax is None else ax
            (self.line_,) = ax.plot(*self._drawn(), **{"label": label or None, **kwargs})
            ax.set(
                xlabel="share of normal pixels called (false positive rate)",
                ylabel="share of a defect's pixels found",
                xlim=(0, max(line.get_xdata()[-1] for line in ax.lines)),
                ylim=(0, 1.01),
            )
            if label:
                ax.legend(loc="lower right")
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _drawn(self):
        """The points up to ``max_fpr``, without those that lie on others in a figure."""
        n = np.searchsorted(self.fpr, self.max_fpr, "right")
        fpr = np.append(self.fpr[:n], self.max_fpr)
        overlap = np.append(self.overlap[:n], np.interp(self.max_fpr, self.fpr, self.overlap))
        steps = np.floor([fpr / self.max_fpr * _N_STEPS, overlap * _N_STEPS])
        is_new = np.append(True, np.any(np.diff(steps, axis=1) != 0, axis=0))
        is_new[-1] = True
        return fpr[is_new], overlap[is_new]
