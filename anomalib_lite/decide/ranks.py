"""Conformal p-values and thresholds, where several scores may share the weight of one part.

What is exchangeable, a sample or a part with several shots, is called a unit. Each unit weighs the
same; its scores share that weight. Weights are integers, so that sums are exact, and a p-value
equals a rate where it should.
"""

import math

import numpy as np

_FINEST = 2**32  # the weight of a unit at most, so that sums of many fit in 64 bits


def shared_weights(units: np.ndarray) -> tuple[np.ndarray, int]:
    """Weight of each score, and that of a whole unit.

    Parameters
    ----------
    units : ndarray of int of shape (n_scores,)
        The unit that each score belongs to, from 0.

    Returns
    -------
    weights : ndarray of int64 of shape (n_scores,)
        A unit's weight over its number of scores; rounded up where this is no integer, which makes
        p-values larger, never smaller.
    whole : int

    Examples
    --------
    >>> weights, whole = shared_weights(np.array([0, 1, 1, 2]))
    >>> weights.tolist(), whole
    ([2, 1, 1, 2], 2)
    """
    sizes = np.bincount(units)[units]
    whole = min(math.lcm(*np.unique(sizes).tolist()), _FINEST)
    return -(-whole // sizes), whole


def p_value(weight: np.ndarray, whole: int, n_units: int) -> np.ndarray:
    """p-value of samples that calibration scores of this total weight do not exceed.

    Examples
    --------
    >>> p_value(np.array([0, 3, 9]), 1, 9)
    array([0.1, 0.4, 1. ])
    """
    return np.minimum((whole + weight) / (whole * (n_units + 1)), 1.0)


def threshold_place(weights: np.ndarray, whole: int, n_units: int, rate: float) -> np.ndarray:
    """Index, along the last axis, of the score that a sample called anomalous stays below.

    The number of scores if their weight is too small to find it.

    Parameters
    ----------
    weights : ndarray of int of shape (..., n_scores)
        Of the calibration scores from the most anomalous on.
    whole, n_units
        Weight of a unit, and how many there are.
    rate : float
        The largest p-value called anomalous.

    Examples
    --------
    >>> int(threshold_place(np.ones(9, int), 1, 9, 0.25))  # p <= 0.25: 1 score of 9 may be lower
    1
    """
    p = p_value(np.cumsum(weights, axis=-1), whole, n_units)
    return np.count_nonzero(p <= rate, axis=-1)


def smallest_rate(n_units: int) -> float:
    """Smallest rate at which anything is called anomalous, rounded up to three digits.

    Examples
    --------
    >>> smallest_rate(19), smallest_rate(2)
    (0.05, 0.334)
    """
    exact = 1 / (n_units + 1)
    scale = 10.0 ** (2 - math.floor(math.log10(exact)))
    return math.ceil(exact * scale - 1e-9) / scale


def ranks_among_others(scores: np.ndarray, units: np.ndarray) -> np.ndarray:
    """p-value of each of a set of scores, lower = more anomalous, among the other units' scores.

    Examples
    --------
    >>> ranks_among_others(np.array([3.0, 1.0, 2.0, 4.0]), np.arange(4))
    array([0.75, 0.25, 0.5 , 1.  ])
    """
    weights, whole = shared_weights(units)
    n_units = int(units.max()) + 1
    weight = _weight_up_to(scores, scores, weights)
    for members in np.split(np.argsort(units), np.cumsum(np.bincount(units))[:-1]):
        own = scores[members]
        weight[members] -= _weight_up_to(own, own, weights[members])
    return p_value(weight, whole, n_units - 1)


def _weight_up_to(values, scores, weights):
    """Total weight of the scores that are at most as high as each value."""
    order = np.argsort(scores)
    totals = np.concatenate([[0], np.cumsum(weights[order])])
    return totals[np.searchsorted(scores[order], values, side="right")]
