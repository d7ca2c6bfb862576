"""``anomalib-lite compare``: two detectors on the same images."""

import csv
import io
import math
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..comparison import OUTCOMES, Comparison, Difference, Pair
from ..data.names import find_images
from ..io.card import Card, read_card
from ..io.files import write_file
from ..records import UNREADABLE
from ..report.comparison import write_comparison
from ..report.figures import method_of
from ..texts import plural, printable
from . import ALL_GOOD, NOT_DONE, SOME_FLAGGED
from .console import Console
from .info import settings_in_words
from .outputs import check_all_differ, check_may_replace, check_may_replace_page, clean, now
from .scoring import Inspector, load_detector, skips_listed, unreadable_lines

_TWICE = ("verdict", "severity", "anomaly_score")
_COLUMNS = ("path", *(f"{name}_{which}" for name in _TWICE for which in "ab"), "changed")


def run(args: Namespace, console: Console) -> int:
    """Inspect twice, and say what differs."""
    check_all_differ(args.csv, args.report)
    if args.csv is not None:
        head = ",".join(_COLUMNS).encode()
        check_may_replace(args.csv, lambda data: data.startswith(head), "a table of compare")
    if args.report is not None:
        check_may_replace_page(args.report)
    files = (args.a, args.b)
    detectors, cards = [load_detector(path) for path in files], [read_card(path) for path in files]
    paths, problems = find_images(args.images)
    for problem in problems:
        console.error(problem)
    if not paths:
        return NOT_DONE
    console.say(f"inspecting {plural(len(paths), 'image')} by both detectors ...")
    with skips_listed():
        comparison = Comparison(*([*Inspector(detector).inspect(paths)] for detector in detectors))
    differences = list(_differences(detectors, cards))
    if args.csv is not None:
        write_file(Path(args.csv), _table(comparison.pairs))
    values = _values(args, comparison, differences, problems)
    console.report(values, _lines(values, detectors))
    if args.report is not None:
        write_comparison(args.report, detectors, files, comparison, differences, date=now())
        console.say(f"page: {args.report}")
    if problems or comparison.counts[UNREADABLE] or comparison.counts["undecided"]:
        return NOT_DONE
    return SOME_FLAGGED if comparison.changed else ALL_GOOD


def _values(args, comparison, differences, problems):
    """All results, as JSON has them."""
    return {
        "a": args.a,
        "b": args.b,
        "images": len(comparison.pairs),
        "counts": comparison.counts,
        "decided": comparison.n_decided,
        **clean(
            {
                "rank_correlation": comparison.rank_correlation,
                "median_severity_shift": comparison.median_shift,
            }
        ),
        "changed": [_row(pair) for pair in comparison.changed],
        "unreadable": [
            {"path": pair.path, "reason": pair.a.reason or pair.b.reason}
            for pair in comparison.pairs
            if pair.outcome == UNREADABLE
        ],
        "same": comparison.is_same,
        "differences": [difference._asdict() for difference in differences],
        "problems": problems,
    }


def _row(pair: Pair) -> dict[str, Any]:
    """A row of the table; None for what there is not."""
    rows = {"a": pair.a.as_row(), "b": pair.b.as_row()}
    twice = {f"{name}_{which}": rows[which][name] for name in _TWICE for which in "ab"}
    return {"path": pair.path, **twice, "changed": pair.is_changed}


def _table(pairs: list[Pair]) -> bytes:
    """A CSV file, of a row an image."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(_row, pairs))
    return text.getvalue().encode("utf-8", "surrogateescape")


# -- what the detectors are -----------------------------------------------------------------------


def _differences(detectors: list[Any], cards: list[Card]) -> Iterator[Difference]:
    """What differs between two detectors: method, settings, threshold, notes, versions."""
    methods = [method_of(detector) for detector in detectors]
    yield from _different("method", "", *methods)
    settings = [settings_in_words(detector) for detector in detectors]
    chosen = [settings_in_words(detector, only_changed=True) for detector in detectors]
    for name in dict.fromkeys([*settings[0], *settings[1]]):
        if name in settings[0] and name in settings[1]:
            yield from _different("setting", name, settings[0][name], settings[1][name])
        else:  # of one method alone: its default is no decision of anybody's
            yield from _different("setting", name, *(one.get(name) for one in chosen))
    levels = [detector.score_levels() for detector in detectors]
    for name, text in (("normal", "median score of good images"), ("threshold", "threshold")):
        yield from _different(text, "", *(_number(getattr(each, name)) for each in levels))
    for group, parts in (
        ("note", [c.notes for c in cards]),
        ("version", [c.versions for c in cards]),
    ):
        for name in dict.fromkeys([*parts[0], *parts[1]]):
            yield from _different(group, name, *(part.get(name) for part in parts))
    yield from _different("sha256", "", *(card.digest[:12] for card in cards))


def _different(group, name, a, b):
    if a != b:
        yield Difference(group, name, a, b)


def _number(value):
    return f"{value:.5g}" if math.isfinite(value) else None


# -- in words -------------------------------------------------------------------------------------


def _lines(values, detectors):
    for which, detector in zip("ab", detectors, strict=True):
        level = _number(detector.score_levels().threshold)
        threshold = "no threshold" if level is None else f"threshold {level}"
        yield f"{which}: {printable(values[which])}: {method_of(detector)}, {threshold}"
    counts = [f"{n:,} {OUTCOMES[outcome]}" for outcome, n in values["counts"].items() if n]
    yield f"{plural(values['images'], 'image')}: {', '.join(counts)}"
    if values["same"]:
        also = "" if not values["differences"] else " in verdicts and scores"
        yield f"no difference{also}"
    else:
        yield from _change_lines(values)
    yield from unreadable_lines(values["unreadable"])
    if values["differences"]:
        yield "the detectors differ in:"
        for one in values["differences"]:
            name = " ".join(filter(None, (one["group"], printable(one["name"]))))
            yield f"  {name}: a {_text(one['a'])}, b {_text(one['b'])}"


def _change_lines(values):
    correlation, shift = values["rank_correlation"], values["median_severity_shift"]
    if correlation is not None:
        yield f"rank correlation of the scores {correlation:.3f}"
    if shift is not None:
        yield f"change of severity from a to b: median {shift:+.2f}"
    n, of = len(values["changed"]), values["decided"]
    if of:
        yield f"the verdict changed on {n:,} of {plural(of, 'image')}{':' if n else ''}"
    for row in values["changed"]:
        by_each = (f"{which} {_side(row, which)}" for which in "ab")
        yield f"  {'  '.join(by_each)}  {printable(row['path'])}"


def _side(row, which):
    severity = row[f"severity_{which}"]
    number = row[f"anomaly_score_{which}"] if severity is None else severity
    return f"{row[f'verdict_{which}']:<9} {number:6.2f}"


def _text(value):
    return "-" if value is None else printable(value)
