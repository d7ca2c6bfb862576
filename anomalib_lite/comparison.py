"""What two detectors say of the same images, side by side."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy import stats

from .records import UNREADABLE, Record

OUTCOMES = {
    "normal": "normal by both",
    "anomalous": "anomalous by both",
    "only a": "anomalous by a only",
    "only b": "anomalous by b only",
    "undecided": "undecided",
    UNREADABLE: UNREADABLE,
}
"""What becomes of an image, and how it is called."""

_CHANGED = ("only a", "only b")


class Pair(NamedTuple):
    """The records of one image by two detectors."""

    a: Record
    b: Record

    @property
    def path(self) -> str | None:
        return self.a.path

    @property
    def outcome(self) -> str:
        """One of :data:`OUTCOMES`; undecided and unreadable if it is that for either.

        Examples
        --------
        >>> Pair(Record("x.png", "normal"), Record("x.png", "anomalous")).outcome
        'only b'
        """
        verdicts = self.a.verdict, self.b.verdict
        for verdict in (UNREADABLE, "undecided"):
            if verdict in verdicts:
                return verdict
        if verdicts[0] == verdicts[1]:
            return verdicts[0]
        return "only a" if verdicts[0] == "anomalous" else "only b"

    @property
    def is_changed(self) -> bool:
        """Whether one detector calls it normal, and the other anomalous."""
        return self.outcome in _CHANGED

    @property
    def shift(self) -> float:
        """Severity by the second detector less that by the first; NaN unless both have one."""
        return self.b.severity - self.a.severity


class Difference(NamedTuple):
    """What differs between the two detectors themselves.

    Attributes
    ----------
    group : str
        Such as "setting".
    name : str
    a, b : str or None
        None for what a detector does not have.
    """

    group: str
    name: str
    a: str | None
    b: str | None


class Comparison:
    """Records of the same images by two detectors.

    Parameters
    ----------
    a, b : sequence of Record
        One an image, in the same order.

    Examples
    --------
    >>> a = [Record("1.png", "normal", 2.0, 0.5), Record("2.png", "anomalous", 9.0, 3.0)]
    >>> b = [Record("1.png", "anomalous", 70.0, 1.5), Record("2.png", "anomalous", 99.0, 2.5)]
    >>> comparison = Comparison(a, b)
    >>> [pair.path for pair in comparison.changed], comparison.median_shift
    (['1.png'], 0.25)
    """

    def __init__(self, a: Sequence[Record], b: Sequence[Record]):
        if [record.path for record in a] != [record.path for record in b]:
            raise ValueError(
                "a and b: expected records of the same images in the same order, got "
                f"{len(a)} and {len(b)} of other paths."
            )
        self.pairs = [Pair(*records) for records in zip(a, b, strict=True)]

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of images by :data:`OUTCOMES`."""
        found = Counter(pair.outcome for pair in self.pairs)
        return {outcome: found[outcome] for outcome in OUTCOMES}

    @property
    def n_decided(self) -> int:
        """Images that both detectors call normal or anomalous."""
        return len(self.pairs) - self.counts["undecided"] - self.counts[UNREADABLE]

    @cached_property
    def changed(self) -> list[Pair]:
        """Images whose verdict changed, the largest change of severity first."""
        return self.largest_first([pair for pair in self.pairs if pair.is_changed])

    @staticmethod
    def largest_first(pairs: Sequence[Pair]) -> list[Pair]:
        """Pairs by how much severity changed; those without a severity last."""
        return sorted(pairs, key=lambda pair: (math.isnan(pair.shift), -abs(pair.shift)))

    @cached_property
    def rank_correlation(self) -> float:
        """Spearman's rank correlation of the scores; NaN where it is not defined."""
        scores = np.array([(pair.a.anomaly_score, pair.b.anomaly_score) for pair in self._read])
        if len(scores) < 2 or (scores == scores[0]).all(axis=0).any():
            return math.nan
        return float(stats.spearmanr(*scores.T).statistic)

    @cached_property
    def median_shift(self) -> float:
        """Median of the changes of severity; NaN without any."""
        shifts = [pair.shift for pair in self._read if not math.isnan(pair.shift)]
        return float(np.median(shifts)) if shifts else math.nan

    @property
    def is_same(self) -> bool:
        """Whether both say exactly the same of every image."""
        return all(_said(pair.a) == _said(pair.b) for pair in self.pairs)

    @cached_property
    def _read(self):
        return [pair for pair in self.pairs if pair.outcome != UNREADABLE]


def _said(record):
    """Verdict, score and severity, None for what there is not."""
    row = record.as_row()
    return row["verdict"], row["anomaly_score"], row["severity"]
