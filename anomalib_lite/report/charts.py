"""Charts as shapes on a canvas of 1000 x 1000, which the page stretches, and labels beside it."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np

from .histograms import bar_edges

_N_BARS = 40
_REACH = 4  # of an axis, in distances from the lowest value to the usual ones
_N_POINTS = 600  # that are drawn of those that are not anomalous


class Shape(NamedTuple):
    """A path on the canvas: its class in the style sheet, and its outline."""

    style: str
    path: str


class Mark(NamedTuple):
    """A label at a place along an axis, in percent of it; a time also in seconds since 1970."""

    at: float
    text: str
    seconds: float | None = None


class Rule(NamedTuple):
    """A dashed line across the chart at a place in percent, with a label or none."""

    at: float
    text: str


class Chart(NamedTuple):
    """What the page draws of a chart.

    Attributes
    ----------
    text : str
        What the chart shows, for those who do not see it.
    shapes : list of Shape
    across, up : list of Mark
        Of the horizontal axis, from the left, and the vertical one, from below.
    rules_across, rules_up : list of Rule
        At places of the horizontal and the vertical axis.
    across_title, up_title : str
    legend : list of (style, name)
    note : str
    """

    text: str
    shapes: list[Shape]
    across: list[Mark]
    up: list[Mark]
    rules_across: list[Rule]
    rules_up: list[Rule]
    across_title: str
    up_title: str
    legend: list[tuple[str, str]]
    note: str = ""


class Axis(NamedTuple):
    """Values along a side of a chart; ``is_cut`` where some are beyond its end."""

    low: float
    high: float
    is_cut: bool = False

    @classmethod
    def of(cls, values: np.ndarray, known: np.ndarray, threshold: float | None) -> "Axis":
        """An axis for finite values, and known ones, cut where outliers would press them together.

        Examples
        --------
        >>> Axis.of(np.array([0.0, 1.0, 2.0] * 20), np.zeros(0), 1.0).is_cut
        False
        >>> Axis.of(np.array([0.0, 1.0, 2.0] * 20 + [1e6]), np.zeros(0), 1.0).is_cut
        True
        """
        marks = [] if threshold is None else [threshold]
        everything = np.concatenate([values, known, marks])
        low, high = float(everything.min()), float(everything.max())
        usual = max([float(np.quantile(values, 0.95)), *marks])
        limit = low + _REACH * (usual - low)
        is_cut = low < limit < low + (high - low) / 1.2
        high = limit if is_cut else high
        room = 0.04 * (high - low) or 0.5 * max(abs(high), 1e-6)
        return cls(low - room, high if is_cut else high + room, is_cut)

    def place(self, values: np.ndarray | float) -> np.ndarray:
        """From 0 to 1."""
        inside = np.clip(values, self.low, self.high)
        return (inside - self.low) / (self.high - self.low)

    def marks(self) -> list[Mark]:
        """Round numbers; the end of a cut axis says that it goes on."""
        texts = _round_numbers(self.low, self.high)
        marks = [Mark(100 * float(self.place(value)), text) for value, text in texts]
        if self.is_cut:
            marks = [mark for mark in marks if mark.at < 90]
            marks.append(Mark(100.0, f"> {self.high:.3g}"))
        return marks


def _round_numbers(low, high, n=5):
    """About n round numbers between two, with their texts."""
    rough = (high - low) / n
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    n_digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if n_digits > 6 or step >= 1e6:
        return [(k * step, f"{k * step:.3g}") for k in range(first, last + 1)]
    return [
        (k * step, f"{k * step:.{n_digits}f}".replace("-", "\N{MINUS SIGN}"))
        for k in range(first, last + 1)
    ]


# -- the charts -----------------------------------------------------------------------------------


def histogram(
    series: Sequence[tuple[str, str, np.ndarray]],
    known: np.ndarray,
    threshold: float | None,
    unit: str,
) -> Chart:
    """How often which score occurs, of these images (stacked bars) and of known good ones (a line).

    Parameters
    ----------
    series : sequence of (style, name, ndarray)
        At least one value in all.
    known : ndarray
        Scores of the calibration images.
    threshold : float or None
    unit : str
        Name of what is on the horizontal axis.
    """
    values = np.concatenate([of_one for _, _, of_one in series])
    axis = Axis.of(values, known, threshold)
    edges = bar_edges(np.array([axis.low, axis.high]), _N_BARS, threshold)
    axis = axis._replace(low=float(edges[0]), high=float(edges[-1]))
    bars = [np.histogram(np.clip(v, *edges[[0, -1]]), edges)[0] / len(values) for *_, v in series]
    line = np.histogram(np.clip(known, *edges[[0, -1]]), edges)[0] / max(len(known), 1)
    highest = 1.1 * max(float(np.sum(bars, axis=0).max()), float(line.max()))
    sides = _thousandths(axis.place(edges))
    shapes, below = [], np.zeros(len(edges) - 1)
    for (style, _, _), shares in zip(series, bars, strict=True):
        above = below + shares
        tops, bottoms = _down(above / highest), _down(below / highest)
        rows = zip(sides[:-1], sides[1:], tops, bottoms, shares, strict=True)
        path = "".join(f"M{a} {b}V{t}H{c}V{b}Z" for a, c, t, b, share in rows if share)
        shapes.append(Shape(style, path))
        below = above
    legend = [(style, f"{name} ({len(of_one)})") for style, name, of_one in series if len(of_one)]
    if len(known):
        steps = zip(_down(line / highest), sides[1:], strict=True)
        path = f"M{sides[0]} 1000" + "".join(f"V{top}H{side}" for top, side in steps) + "V1000"
        shapes.append(Shape("known", path))
        legend.append(("known", f"good parts, calibration ({len(known)})"))
    return Chart(
        text=f"Histogram of {unit} of {len(values)} images"
        + (f" and {len(known)} calibration images" if len(known) else "")
        + ("" if threshold is None else f"; the threshold is at {threshold:.4g}"),
        shapes=shapes,
        across=axis.marks(),
        up=[
            Mark(100 * value / highest, f"{100 * value:.3g} %")
            for value, _ in _round_numbers(0, highest, 4)
        ],
        rules_across=[]
        if threshold is None
        else [Rule(100 * float(axis.place(threshold)), "threshold")],
        rules_up=[],
        across_title=unit,
        up_title="share of images",
        legend=legend,
        note="The last bar holds all that is beyond the end of the scale." if axis.is_cut else "",
    )


def timeline(
    scores: np.ndarray,
    is_anomalous: np.ndarray,
    times: np.ndarray | None,
    known: np.ndarray,
    threshold: float | None,
    unit: str,
) -> Chart:
    """Scores one after the other, by time or by place in the list.

    Parameters
    ----------
    scores : ndarray of shape (n_images,)
        At least one.
    is_anomalous : ndarray of shape (n_images,), bool
    times : ndarray of shape (n_images,) or None
        In seconds since 1970.
    known : ndarray
        Scores of the calibration images, whose middle 90 % are a band.
    threshold : float or None
    unit : str
        Name of what is on the vertical axis.
    """
    order = np.arange(len(scores)) if times is None else np.argsort(times, kind="stable")
    scores, is_anomalous = scores[order], is_anomalous[order]
    axis = Axis.of(scores, known, threshold)
    n = len(scores)
    places = (np.arange(n) + 0.5) / n
    keep = _thinned(scores, ~is_anomalous)
    shapes, legend = [], []
    if len(known):
        low, middle, high = _down(axis.place(np.quantile(known, (0.05, 0.5, 0.95))))
        shapes += [
            Shape("band", f"M0 {low}V{high}H1000V{low}Z"),
            Shape("median", f"M0 {middle}H1000"),
        ]
        legend.append(("band", "good parts, calibration: median and middle 90\N{NO-BREAK SPACE}%"))
    for style, chosen in (("normal", keep), ("anomalous", np.flatnonzero(is_anomalous))):
        points = zip(_thousandths(places[chosen]), _down(axis.place(scores[chosen])), strict=True)
        shapes.append(Shape(f"points {style}", "".join(f"M{x} {y}h0" for x, y in points)))
    if is_anomalous.any():
        legend.append(("points anomalous", f"anomalous ({int(is_anomalous.sum())})"))
    n_others = n - int(is_anomalous.sum())
    if n_others:
        legend.append(("points normal", f"others ({n_others})"))
    if threshold is not None:
        legend.append(("rule", "threshold"))
    across = [Mark(0.0, "first"), Mark(100.0, "last")]
    if times is not None:
        across = [_at_time(0.0, times.min()), _at_time(100.0, times.max())]
    return Chart(
        text=f"{unit} of {n} images in order, {int(is_anomalous.sum())} of them anomalous",
        shapes=shapes,
        across=across,
        up=axis.marks(),
        rules_across=[],
        rules_up=[] if threshold is None else [Rule(100 * float(axis.place(threshold)), "")],
        across_title="in the order of the images"
        if times is None
        else "in the order in which the files were written",
        up_title=unit,
        legend=legend,
        note="" if len(keep) == n_others else f"Of the others, {len(keep)} are drawn.",
    )


def scatter(
    series: Sequence[tuple[str, str, np.ndarray]],
    thresholds: tuple[float | None, float | None],
    titles: tuple[str, str],
    *,
    same_scale: bool,
) -> Chart:
    """Scores of the same images by two detectors, against each other.

    Parameters
    ----------
    series : sequence of (style, name, ndarray of shape (n, 2))
        Finite values, at least one pair in all; later ones are drawn above.
    thresholds : pair of (float or None)
    titles : pair of str
        Of the axes.
    same_scale : bool
        Whether both are on one scale, so that a line shows where they agree.
    """
    values = np.concatenate([of_one for *_, of_one in series])
    across, up = (
        Axis.of(column, np.zeros(0), threshold)
        for column, threshold in zip(values.T, thresholds, strict=True)
    )
    shapes, legend = [], []
    if same_scale:
        ends = np.array([max(across.low, up.low), min(across.high, up.high)])
        (x, right), (y, top) = _thousandths(across.place(ends)), _down(up.place(ends))
        shapes.append(Shape("diagonal", f"M{x} {y}L{right} {top}"))
    for style, name, of_one in series:
        x, y = _thousandths(across.place(of_one[:, 0])), _down(up.place(of_one[:, 1]))
        places = dict.fromkeys(zip(x, y, strict=True))  # those that hide each other only once
        shapes.append(Shape(f"points {style}", "".join(f"M{x} {y}h0" for x, y in places)))
        if len(of_one):
            legend.append((f"points {style}", f"{name} ({len(of_one)})"))
    rules = [
        [] if threshold is None else [Rule(100 * float(axis.place(threshold)), text)]
        for axis, threshold, text in zip((across, up), thresholds, ("threshold", ""), strict=True)
    ]
    if any(rules):
        legend.append(("rule", "thresholds"))
    return Chart(
        text=f"{titles[1]} over {titles[0]} of {len(values)} images",
        shapes=shapes,
        across=across.marks(),
        up=up.marks(),
        rules_across=rules[0],
        rules_up=rules[1],
        across_title=titles[0],
        up_title=titles[1],
        legend=legend,
        note="Beyond the end of a scale, images are at its end."
        if across.is_cut or up.is_cut
        else "",
    )


def roc(curve: np.ndarray, here: tuple[float, float] | None) -> Chart:
    """A ROC curve (n, 2), and where the threshold is on it."""
    path = "M0 1000" + "".join(
        f"L{x} {y}" for x, y in zip(_thousandths(curve[:, 0]), _down(curve[:, 1]), strict=True)
    )
    shapes = [Shape("diagonal", "M0 1000L1000 0"), Shape("curve", path)]
    legend = []
    if here is not None:
        [x], [y] = _thousandths(np.array(here[:1])), _down(np.array(here[1:]))
        shapes.append(Shape("points here", f"M{x} {y}h0"))
        legend.append(("points here", "at the threshold"))
    marks = [Mark(25.0 * i, f"{25 * i} %") for i in range(5)]
    return Chart(
        text="ROC curve: defective parts found over good parts called anomalous",
        shapes=shapes,
        across=marks,
        up=marks,
        rules_across=[],
        rules_up=[],
        across_title="good parts called anomalous",
        up_title="defective parts found",
        legend=legend,
    )


def _thinned(scores, may_go):
    """Indices of those to draw: of many, the lowest and the highest of every few."""
    indices = np.flatnonzero(may_go)
    if len(indices) <= _N_POINTS:
        return indices
    kept = []
    for some in np.array_split(indices, _N_POINTS // 2):
        kept += [some[scores[some].argmin()], some[scores[some].argmax()]]
    return np.unique(kept)


def _thousandths(shares):
    return np.rint(1000 * np.asarray(shares)).astype(int).tolist()


def _down(shares):
    return _thousandths(1 - np.asarray(shares))


def _at_time(at, seconds):
    try:
        text = datetime.fromtimestamp(float(seconds), UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, OSError, ValueError):  # a file of no sensible date
        return Mark(at, "?")
    return Mark(at, text, float(seconds))
