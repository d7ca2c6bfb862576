"""Thresholds that find a share of all defects, by exact bounds."""

import math
from numbers import Real
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from .validation import check_confidence

_USUAL = 0.8, 0.9, 0.95, 0.99


class RecallThreshold(NamedTuple):
    """A threshold, and what it finds and costs.

    Attributes
    ----------
    score : float
        A value of ``score_samples``: images with lower scores are called anomalous.
    recall, confidence : float
        With this confidence so large a share of all such defects is found at least.
    n_defects, n_missed : int
        Of the known defects, how many there are and how many it misses.
    false_alarm_rate : float
        Share of the scores of good images that are called anomalous, too; NaN without scores.
    """

    score: float
    recall: float
    confidence: float
    n_defects: int
    n_missed: int
    false_alarm_rate: float


def recall_threshold(
    defect_scores: ArrayLike,
    good_scores: ArrayLike,
    *,
    recall: float,
    confidence: float = 0.95,
) -> RecallThreshold:
    """The threshold with the fewest false alarms that finds a share of all defects.

    The known defects are taken as drawn at random from all that will come. A threshold that misses
    k of n of them finds a share ``recall`` of all, with the asked confidence, where at most k
    misses among n have a probability of at most ``1 - confidence`` if the share found is
    ``recall``: an exact binomial bound.

    Parameters
    ----------
    defect_scores : array-like of shape (n_defects,)
        ``score_samples`` of defects that were not learned from, lower = more anomalous. NaN does
        not count.
    good_scores : array-like of shape (n,)
        Of good images, out of sample; NaN does not count either.
    recall, confidence : float
        In (0, 1).

    Returns
    -------
    threshold : RecallThreshold

    Raises
    ------
    ValueError
        If there are too few defects for the recall; it tells how many it takes, and what so many
        can show.

    Examples
    --------
    >>> found = recall_threshold(range(30), [25.5, 40, 41, 42], recall=0.9)
    >>> found.n_missed, 29 < found.score < 30, found.false_alarm_rate
    (0, True, 0.25)
    """
    _check_recall(recall)
    check_confidence(confidence)
    scores = np.asarray(defect_scores, dtype=np.float64)
    scores = np.sort(scores[~np.isnan(scores)])[::-1]
    n = len(scores)
    needed = _n_needed(recall, confidence)
    if n < needed:
        can = f", and {n} can show {(1 - confidence) ** (1 / n):.3g}" if n else ""
        raise ValueError(
            f"recall={recall} with confidence={confidence} needs {needed} defects, got {n}{can}. "
            "Collect more defects, or ask for less."
        )
    misses = stats.binom.cdf(np.arange(n), n, 1 - recall)
    n_missed = int(np.sum(misses <= 1 - confidence + 1e-12)) - 1
    score = float(np.nextafter(scores[n_missed], np.inf))
    good = np.asarray(good_scores, dtype=np.float64)
    good = good[~np.isnan(good)]
    alarms = float(np.mean(good < score)) if len(good) else math.nan
    # of equal scores none is missed
    n_missed = int(np.sum(scores >= score))
    return RecallThreshold(score, float(recall), float(confidence), n, n_missed, alarms)


def usual_recall_thresholds(
    defect_scores: ArrayLike, good_scores: ArrayLike, *, confidence: float = 0.95
) -> list[RecallThreshold]:
    """Thresholds for shares of 80, 90, 95 and 99 %, as far as there are defects enough.

    Parameters
    ----------
    defect_scores, good_scores, confidence
        As for :func:`recall_threshold`.

    Examples
    --------
    >>> found = usual_recall_thresholds(range(30), [25.5, 40, 41, 42])
    >>> [(each.recall, each.n_missed) for each in found]
    [(0.8, 2), (0.9, 0)]
    """
    known = int(np.sum(~np.isnan(defect_scores)))
    return [
        recall_threshold(defect_scores, good_scores, recall=recall, confidence=confidence)
        for recall in _USUAL
        if known >= _n_needed(recall, confidence)
    ]


def _n_needed(recall, confidence):
    """Known defects, all of them found, that show that so large a share is found."""
    return math.ceil(math.log1p(-confidence) / math.log(recall) - 1e-9)


def _check_recall(recall):
    is_number = isinstance(recall, Real) and not isinstance(recall, bool)
    if not (is_number and 0 < recall < 1):
        hint = " No number of known defects shows that all others are found."
        raise ValueError(
            f"recall: expected a number in (0, 1), got {recall!r}.{hint if recall == 1 else ''}"
        )
