"""Which of many images a page shows as pictures."""

from typing import NamedTuple

import numpy as np

from ..records import UNREADABLE, Record

_NEAR = 0.5  # severities by which an image may be away from the threshold and still be borderline


class Group(NamedTuple):
    """Images that are shown together.

    Attributes
    ----------
    title : str
    text : str
        What they have in common.
    indices : list of int
    """

    title: str
    text: str
    indices: list[int]


def choose(records: list[Record], y: np.ndarray | None = None, n_most: int = 60) -> list[Group]:
    """Groups of images worth looking at, none of them twice.

    Mistakes come first, where there are labels; they may take two thirds of ``n_most``. Of what is
    left, half goes to the most anomalous images, three tenths to those nearest to the threshold,
    and the rest to normal ones.

    Parameters
    ----------
    records : list of Record
    y : ndarray of shape (n_images,) or None, default=None
        +1 good, -1 defective.
    n_most : int, default=60

    Returns
    -------
    groups : list of Group
        Without empty ones.

    Examples
    --------
    >>> records = [Record(None, "anomalous", 9.0, 3.0), Record(None, "normal", 1.0, -0.2)]
    >>> [(group.title, group.indices) for group in choose(records)]
    [('Most anomalous', [0]), ('Normal', [1])]
    """
    read = [i for i, record in enumerate(records) if record.verdict != UNREADABLE]
    worst_first = sorted(read, key=lambda i: (-records[i].anomaly_score, i))
    groups = [] if y is None else _mistakes(records, y, worst_first, n_most // 3)
    shown = {i for group in groups for i in group.indices}
    left = n_most - len(shown)

    others = [i for i in worst_first if i not in shown]
    is_flagged = {i for i in others if records[i].verdict == "anomalous"}
    near = _borderline(records, others, is_flagged, 3 * left // 20)
    others = [i for i in others if i not in {*near}]
    flagged = [i for i in others if i in is_flagged][: left // 2]
    if not is_flagged:
        title, text = (
            "Highest scores",
            "The oddest of these images, though none is called anomalous.",
        )
        if any(records[i].verdict == "undecided" for i in others):
            text = "The oddest of these images, the oddest first."
        flagged = others[: left // 4]
    else:
        title, text = "Most anomalous", "The highest scores, the highest first."
    normal = [i for i in others if i not in is_flagged and i not in {*flagged}]
    groups += [
        Group(title, text, flagged),
        Group(
            "Borderline",
            "Nearest to the threshold, on both sides: look at these yourself.",
            near,
        ),
        Group(
            "Normal" if any(records[i].verdict == "normal" for i in normal) else "Others",
            "A few of the others, from high scores to low ones.",
            spread(normal, left - left // 2 - 2 * (3 * left // 20)),
        ),
    ]
    return [group for group in groups if group.indices]


def _mistakes(records, y, worst_first, n_most):
    """Escapes and overkill, the worst mistakes first."""
    escapes = [i for i in worst_first[::-1] if y[i] == -1 and records[i].verdict == "normal"]
    overkill = [i for i in worst_first if y[i] == 1 and records[i].verdict == "anomalous"]
    return [
        Group("Escapes", "Defective parts that are called normal.", escapes[:n_most]),
        Group("Overkill", "Good parts that are called anomalous.", overkill[:n_most]),
    ]


def _borderline(records, worst_first, is_flagged, n_each):
    """Images just above and just below the threshold, at most a third of either side."""
    near = [i for i in worst_first if abs(records[i].severity - 1) <= _NEAR]
    above = [i for i in near if i in is_flagged]
    below = [i for i in near if i not in is_flagged]
    n_above = min(n_each, -(-len(is_flagged) // 3))
    n_below = min(n_each, -(-(len(worst_first) - len(is_flagged)) // 3))
    return above[len(above) - min(n_above, len(above)) :] + below[:n_below]


def spread(some: list, n: int) -> list:
    """At most n of a list, evenly spread over it."""
    if len(some) <= n:
        return some
    return [some[round(place)] for place in np.linspace(0, len(some) - 1, n)] if n else []
