"""Weighted ranks: against sums of fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anomalib_lite.decide.ranks import (
    p_value,
    ranks_among_others,
    shared_weights,
    smallest_rate,
    threshold_place,
)

UNITS = st.lists(st.integers(0, 6), min_size=2, max_size=25)


def numbered(units):
    return np.unique(units, return_inverse=True)[1]


@given(UNITS)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_each_unit_weighs_the_same(units):
    units = numbered(units)
    weights, whole = shared_weights(units)
    for unit in range(units.max() + 1):
        own = weights[units == unit]
        assert len(set(own.tolist())) == 1
        assert own.sum() == whole


def test_weights_that_are_no_integers_make_p_values_larger():
    sizes = [*range(1, 60), 97, 101, 103]
    units = np.repeat(np.arange(len(sizes)), sizes)
    weights, whole = shared_weights(units)
    totals = np.bincount(units, weights)
    assert (totals >= whole).all()
    assert (totals <= whole * (1 + 1e-6)).all()
    assert p_value(weights.sum(), whole, len(sizes)) == 1


@given(UNITS, st.integers(0, 2**31), st.sampled_from([0.1, 0.25, 0.3, 0.5, 2 / 3]))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_threshold_is_where_the_p_value_exceeds_the_rate(units, seed, rate):
    units = numbered(units)
    weights, whole = shared_weights(units)
    n = int(units.max()) + 1
    scores = np.sort(np.random.default_rng(seed).integers(0, 9, len(units)))
    place = threshold_place(weights, whole, n, rate)
    for x in np.arange(-1, 10):
        p = p_value(weights[scores <= x].sum(), whole, n)
        if 1 / (n + 1) <= rate:
            assert (p <= rate) == (x < scores[place])


@given(UNITS.filter(lambda units: len(set(units)) > 1), st.integers(0, 2**31))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_ranks_among_others_are_those_of_fractions(units, seed):
    units = numbered(units)
    scores = np.random.default_rng(seed).integers(0, 5, len(units)).astype(float)
    p = ranks_among_others(scores, units)
    for i, (score, unit) in enumerate(zip(scores, units, strict=True)):
        others = set(units.tolist()) - {int(unit)}
        shares = [
            Fraction(int((scores[units == one] <= score).sum()), int((units == one).sum()))
            for one in others
        ]
        assert p[i] == pytest.approx(float((1 + sum(shares)) / (len(others) + 1)), rel=1e-12)


def test_smallest_rate_suffices():
    for n in (*range(1, 300), 999, 12345, 10**7):
        assert 1 / (n + 1) <= smallest_rate(n) * (1 + 1e-12) <= 1.01 / (n + 1) * (1 + 1e-12)
