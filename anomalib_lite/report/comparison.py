"""The page of a comparison: what two detectors say of the same images, as one HTML file."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..annotations import Path as PathLike
from ..comparison import OUTCOMES, Comparison, Difference
from ..io.files import write_file
from ..records import UNREADABLE
from ..texts import plural, printable
from . import charts
from .choices import Group, spread
from .document import Names, as_json, figure_of, map_levels_of, render, short_number
from .figures import ABSENT, Share, method_of
from .pictures import file_name
from .tiles import make_tiles

_N_CHANGED, _N_SHIFTED, _N_AGREEING = 24, 8, 4  # pictures, of two heatmaps each
_LEAST, _MOST, _ALL = 8_000, 60_000, 3_600_000  # bytes of a picture and its heatmap, and of all


def write_comparison(
    path: PathLike,
    detectors: Sequence[Any],
    files: Sequence[str],
    comparison: Comparison,
    differences: Sequence[Difference],
    *,
    date: str | None = None,
) -> None:
    """Write the page of a comparison.

    Parameters
    ----------
    path : str or Path
        Of the HTML file. It needs no other file, and no network.
    detectors : pair of fitted detectors
        That made the records. The images that are shown are read and inspected once more.
    files : pair of str
        Where the detectors come from.
    comparison : Comparison
    differences : sequence of Difference
    date : str or None, default=None
        Shown as it is.
    """
    page = render(
        "comparison.html",
        **_about(detectors, files, comparison, differences),
        date=None if date is None else printable(date),
        **_scatter(detectors, comparison),
        **_pictures(detectors, comparison),
        **_table(comparison),
    )
    write_file(Path(path), page.encode("utf-8"))


def _about(detectors, files, comparison, differences):
    """Headline, counts, summaries, what could not be read, what differs."""
    names = _names(comparison)
    n, n_decided = len(comparison.changed), comparison.n_decided
    headline = f"{n:,} of {plural(n_decided, 'verdict')} changed" if n else "No verdict changed"
    return {
        "kind_of_page": "Comparison of two detectors",
        "title": None,
        "headline": headline if n_decided else "There are no verdicts to compare",
        "where": names.folder,
        "n_images": len(comparison.pairs),
        "detectors": [
            (which, printable(file_name(file)), method_of(detector))
            for which, file, detector in zip("ab", files, detectors, strict=True)
        ],
        "counts": [
            (OUTCOMES[outcome], count) for outcome, count in comparison.counts.items() if count
        ],
        "share": Share.of_counts(n, n_decided),
        "rank_correlation": comparison.rank_correlation,
        "median_shift": comparison.median_shift,
        "unreadable": [
            (name, printable(pair.a.reason or pair.b.reason or "unknown"))
            for name, pair in zip(names.shown, comparison.pairs, strict=True)
            if pair.outcome == UNREADABLE
        ],
        "differences": [
            (
                " ".join(filter(None, (each.group, printable(each.name)))),
                *(ABSENT if value is None else printable(value) for value in (each.a, each.b)),
            )
            for each in differences
        ],
    }


def _names(comparison):
    return Names.of([pair.a for pair in comparison.pairs])


def _scatter(detectors, comparison):
    """Severities against each other; anomaly scores where there are no severities."""
    read = [pair for pair in comparison.pairs if pair.outcome != UNREADABLE]
    if not read:
        return {"scatter": None, "is_severity": False}
    is_severity = not any(math.isnan(pair.shift) for pair in read)
    name = "severity" if is_severity else "anomaly_score"
    series = []
    for style, outcomes, title in (
        ("normal", ("normal",), "normal by both"),
        ("anomalous", ("anomalous",), "anomalous by both"),
        ("undecided", ("undecided",), "undecided"),
        ("changed", ("only a", "only b"), "changed"),
    ):
        values = [
            (getattr(pair.a, name), getattr(pair.b, name))
            for pair in read
            if pair.outcome in outcomes
        ]
        series.append((style, title, np.array(values, dtype=float).reshape(-1, 2)))
    levels = [detector.score_levels().threshold for detector in detectors]
    unit = name.replace("_", " ")
    chart = charts.scatter(
        series,
        [1.0 if is_severity else level if math.isfinite(level) else None for level in levels],
        (f"{unit} by a", f"{unit} by b"),
        same_scale=is_severity,
    )
    return {"scatter": chart, "is_severity": is_severity}


def _pictures(detectors, comparison):
    """Groups of pictures with the heatmaps of both detectors."""
    groups = _groups(comparison)
    shown = [i for group in groups for i in group.indices]
    names, paths = _names(comparison), [pair.path for pair in comparison.pairs]
    n_bytes = len(shown) * min(max(_ALL // max(2 * len(shown), 1), _LEAST), _MOST)
    figures, has_levels = [], True
    for which, detector in enumerate(detectors):
        levels = map_levels_of(detector)
        has_levels &= levels is not None and all(map(math.isfinite, levels))
        tiles, _ = make_tiles(
            detector, shown, lambda some: [paths[i] for i in some], levels, n_bytes
        )
        figures.append(
            {i: figure_of(i, tiles[i], comparison.pairs[i][which], names) for i in shown}
        )
    return {
        "groups": [
            (group, [{"a": figures[0][i], "b": figures[1][i]} for i in group.indices])
            for group in groups
        ],
        "has_levels": has_levels,
    }


def _groups(comparison):
    """Changed verdicts first, then the largest changes of severity, then a few that agree."""
    places = {id(pair): i for i, pair in enumerate(comparison.pairs)}
    others = [
        pair for pair in comparison.pairs if not pair.is_changed and pair.outcome != UNREADABLE
    ]
    others = comparison.largest_first(others)
    changed = comparison.changed[:_N_CHANGED]
    shifted = [pair for pair in others[:_N_SHIFTED] if abs(pair.shift) > 0]
    rest = others[len(shifted) :]
    text = "The largest change of severity first."
    if len(changed) < len(comparison.changed):
        text += f" {len(comparison.changed) - len(changed):,} more are in the table."
    groups = [
        Group("Verdict changed", text, [places[id(pair)] for pair in changed]),
        Group(
            "Severity changed most",
            "Of the images whose verdict is the same.",
            [places[id(pair)] for pair in shifted],
        ),
        Group(
            "Others",
            "A few on which both agree." if comparison.changed or shifted else "A few of them.",
            [places[id(pair)] for pair in spread(rest, _N_AGREEING)],
        ),
    ]
    return [group for group in groups if group.indices]


def _table(comparison):
    """Rows and columns for the page's script, which shows the kinds of outcomes by their index."""
    outcomes = [*OUTCOMES]
    names = ["Name", "Verdict", "Severity a", "Severity b", "Change", "Score a", "Score b"]
    rows = [
        [
            name,
            outcomes.index(pair.outcome),
            *map(
                short_number,
                (
                    pair.a.severity,
                    pair.b.severity,
                    pair.shift,
                    pair.a.anomaly_score,
                    pair.b.anomaly_score,
                ),
            ),
        ]
        for name, pair in zip(_names(comparison).shown, comparison.pairs, strict=True)
    ]
    return {
        "rows": as_json(rows),
        "columns": as_json(
            {"kinds": [*OUTCOMES.values()], "columns": names, "change": names.index("Change")}
        ),
    }
