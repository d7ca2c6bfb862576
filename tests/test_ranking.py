"""Training images by how little they belong, and which ones a threshold should not follow."""

import numpy as np
import pytest

from anomalib_lite.ranking import SuspectImages, are_farthest, count_of_share, without_suspects


def exponential(n, seed=0):
    return np.random.default_rng(seed).exponential(1, n) + 5


def test_the_first_belong_least():
    scores = exponential(300)
    scores[7] = np.nan
    suspects = SuspectImages.of(scores, {int(np.nanargmax(scores)): "odd/one.png"})
    assert len(suspects) == 299 and 7 not in suspects.indices
    np.testing.assert_array_equal(scores[suspects.indices], suspects.scores)
    assert (np.diff(suspects.scores) <= 0).all()
    assert suspects.names[0] == "odd/one.png"
    assert suspects.names[1:] == tuple(f"image {i}" for i in suspects.indices[1:100])
    assert suspects.paths == {int(suspects.indices[0]): "odd/one.png"}
    by_place = suspects.anomaly_scores(300)
    np.testing.assert_array_equal(by_place, scores)


@pytest.mark.parametrize(
    "changed",
    [
        {"indices": np.array([0.0, 1.0])},
        {"indices": np.array([1, 1])},
        {"indices": np.array([-1, 1])},
        {"indices": [0, 1]},
        {"scores": np.array([1.0, 2.0])},
        {"scores": np.array([np.nan, 1.0])},
        {"scores": np.array([1.0])},
        {"scores": np.array([2, 1])},
        {"names": ("a",)},
        {"names": ["a", "b"]},
        {"names": ("a", 1)},
    ],
    ids=str,
)
def test_forged_ones_are_refused(changed):
    given = {"indices": np.array([0, 1]), "scores": np.array([2.0, 1.0]), "names": ("a", "b")}
    SuspectImages(**given)
    with pytest.raises(ValueError, match="places of images"):
        SuspectImages(**{**given, **changed})


def test_a_share_is_counted_by_its_digits():
    for percent in range(50):
        for n in (100, 200, 700):
            assert count_of_share(percent / 100, n) == percent * n // 100
    assert count_of_share(0.1, 29) == 2 and count_of_share(np.float64(0.29), 100) == 29


@pytest.mark.parametrize(
    ("distances", "digests", "share", "expected"),
    [
        ([1, 5, 2, 3, 4], [1, 2, 3, 4, 5], 0.4, [1, 4]),
        ([1, 5, 2, 3, 4], [1, 2, 3, 4, 5], 0.19, []),
        ([1, 5, 2, 5, 4], [1, 2, 3, 2, 5], 0.4, [1, 3]),
        ([1, 5, 2, 4, 4], [1, 2, 3, 5, 5], 0.4, [1]),  # not one of the copies alone
        ([1, 5, 2, np.nan, 4], [1, 2, 3, 4, 5], 0.2, [3]),
        ([1, 5, 2, 3, 4.9], [1, 2, 3, 3, 2], 0.4, [1, 4]),  # copies that differ by rounding
        ([1.0] * 5, [7] * 5, 0.4, []),
    ],
)
def test_the_farthest_with_their_copies(distances, digests, share, expected):
    found = are_farthest(np.array(distances, dtype=float), np.array(digests), share)
    assert np.flatnonzero(found).tolist() == expected


def test_of_dirty_scores_the_planted_ones_are_suspected():
    scores = exponential(450)
    scores[400:] += 15
    found = np.isnan(without_suspects(scores, 0.15))
    assert found[400:].all() and found[:400].sum() <= 4
    few = np.isnan(without_suspects(scores, 0.05))  # a share that is too small bounds them
    assert few.sum() == 22 and few[400:].sum() == 22


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_of_clean_scores_few_are_suspected_and_the_threshold_stays(draw):
    shares = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores = getattr(rng, draw)(size=400)
        left = without_suspects(scores, 0.1)
        fresh = getattr(rng, draw)(size=2000)
        shares.append(np.mean(fresh > np.nanquantile(left, 0.95)))
    assert 0.045 < np.mean(shares) < 0.08  # leaving out the share itself would give 0.15


def test_scores_without_a_tail_and_few_scores():
    equal = np.full(30, 2.0)
    np.testing.assert_array_equal(without_suspects(equal, 0.2), equal)
    few = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(without_suspects(few, 0.2), few)
    with_nan = np.array([np.nan, *exponential(30), 100.0])
    found = np.flatnonzero(np.isnan(without_suspects(with_nan, 0.1)))
    assert {0, 31} <= set(found.tolist()) and len(found) <= 4
