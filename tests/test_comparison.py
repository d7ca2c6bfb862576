"""What two detectors say of the same images: outcomes, orders, summaries."""

import math

import numpy as np
import pytest
from scipy import stats

from anomalib_lite.comparison import OUTCOMES, Comparison, Pair
from anomalib_lite.records import Record


def record(path, severity, *, scale=1.0):
    """Of an image whose score is ``scale`` times its severity; None for an unreadable one."""
    if severity is None:
        return Record(path, "unreadable", reason="broken")
    return Record(path, "anomalous" if severity > 1 else "normal", scale * severity, severity)


def compared(a, b):
    names = [f"{i}.png" for i in range(len(a))]
    return Comparison(
        [record(*pair) for pair in zip(names, a, strict=True)],
        [record(*pair, scale=10.0) for pair in zip(names, b, strict=True)],
    )


def test_every_outcome_is_counted_once():
    found = compared([0.5, 2, 2, 0.5, None, 0.5, None], [0.4, 3, 0.9, 1.1, 0.5, None, None])
    assert found.counts == {
        "normal": 1, "anomalous": 1, "only a": 1, "only b": 1, "undecided": 0, "unreadable": 3,
    }  # fmt: skip
    assert found.counts.keys() == OUTCOMES.keys() and found.n_decided == 4
    assert [pair.path for pair in found.pairs if pair.is_changed] == ["2.png", "3.png"]
    undecided = Record("x", "undecided", 1.0)
    assert Pair(undecided, record("x", 2.0)).outcome == "undecided"
    assert Pair(record("x", None), undecided).outcome == "unreadable"


def test_the_largest_change_comes_first_and_those_without_a_severity_last():
    found = compared([0.9, 0.9, 2.0, 0.5], [1.1, 4.0, 0.5, 1.2])
    assert [pair.path for pair in found.changed] == ["1.png", "2.png", "3.png", "0.png"]
    flat = [Pair(Record(f"{i}", "normal", 1.0), Record(f"{i}", "anomalous", 2.0)) for i in range(2)]
    order = Comparison.largest_first([flat[0], *found.changed, flat[1]])
    assert order == [*found.changed, *flat]


def test_summaries_are_scipys_and_numpys_over_what_both_could_read():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20))
    found = compared([*a, None, 1.0], [*b, 1.0, None])
    assert found.rank_correlation == stats.spearmanr(a, b).statistic
    assert found.median_shift == pytest.approx(np.median(b - a))


@pytest.mark.parametrize("a, b", [([], []), ([1.0], [2.0]), ([1.0, 2.0], [3.0, 3.0])])
def test_no_rank_correlation_of_what_has_no_ranks(a, b):
    assert math.isnan(compared(a, b).rank_correlation)
    assert math.isnan(compared([None], [2.0]).median_shift)


def test_the_same_is_the_same():
    a = [record("0", 0.5), record("1", None), Record("2", "undecided", 3.0)]
    assert Comparison(a, a).is_same
    for other in (Record("2", "undecided", 3.1), Record("2", "normal", 3.0)):
        assert not Comparison(a, [*a[:2], other]).is_same


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="same images in the same order"):
        Comparison([record("0", 1.0)], [record("1", 1.0)])
