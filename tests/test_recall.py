"""Thresholds for recall: by simulation, by counting, and by hand."""

import math

import numpy as np
import pytest
from scipy import stats
from worlds import scratched, stripes

from anomalib_lite import PaDiM
from anomalib_lite.recall import recall_threshold, usual_recall_thresholds


@pytest.mark.parametrize(("recall", "confidence"), [(0.9, 0.95), (0.8, 0.9), (0.5, 0.99)])
def test_the_recall_is_reached_as_often_as_claimed(recall, confidence):
    """4,000 sets of 60 defects; the true recall is known by the normal distribution."""
    rng = np.random.default_rng(0)
    reached = []
    for _ in range(4000):
        found = recall_threshold(rng.normal(size=60), [], recall=recall, confidence=confidence)
        reached.append(stats.norm.cdf(found.score) >= recall)
    share = np.mean(reached)
    spread = 3 * math.sqrt(confidence * (1 - confidence) / 4000)
    assert confidence - spread < share < confidence + 0.05


@pytest.mark.parametrize("n", [29, 46, 59, 60, 100])
def test_as_many_are_missed_as_the_bound_allows(n):
    found = recall_threshold(np.arange(n), np.arange(n), recall=0.9)
    allowed = [k for k in range(n) if stats.binom.cdf(k, n, 0.1) <= 0.05]
    assert found.n_missed == max(allowed)
    assert found.false_alarm_rate == (n - found.n_missed) / n


def test_of_equal_scores_none_is_missed():
    found = recall_threshold([*np.ones(100), np.nan], [0, 1, 2, np.nan], recall=0.9)
    assert found.n_missed == 0
    assert found.false_alarm_rate == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("n", "recall", "words"),
    [
        (28, 0.9, "needs 29 defects, got 28, and 28 can show 0.899"),
        (298, 0.99, "needs 299 defects"),
        (0, 0.9, "needs 29 defects, got 0. "),
        (50, 1.0, r"recall: expected a number in \(0, 1\), got 1.0. No number of known"),
        (50, "all", r"recall: expected a number in \(0, 1\), got 'all'.$"),
    ],
)
def test_too_few_defects_are_refused(n, recall, words):
    with pytest.raises(ValueError, match=words):
        recall_threshold(np.arange(n), [], recall=recall)


def test_a_detector_gives_and_takes_it():
    detector = PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0)
    detector.fit(stripes(20))
    defects = scratched(10, seed=4)
    before = detector.offset_
    found = detector.threshold_for(defects, recall=0.7)
    assert detector.offset_ == before
    detector.set_threshold(score=found.score)
    assert (detector.predict(defects) == 1).sum() == found.n_missed == 0
    known = detector.calibration_scores_
    assert found.false_alarm_rate == np.mean(known < found.score)
    with pytest.raises(ValueError, match="defects: expected images of defects"):
        detector.threshold_for(recall=0.7)
    with pytest.raises(ValueError, match="confidence"):
        detector.threshold_for(defects, recall=0.7, confidence=1)


def test_usual_thresholds_are_those_that_the_defects_can_show():
    scores = np.append(np.arange(60.0), np.nan)
    found = usual_recall_thresholds(scores, [100.0, 30.0], confidence=0.9)
    assert [each.recall for each in found] == [0.8, 0.9, 0.95]  # 99 % takes 230
    for each in found:
        assert each == recall_threshold(scores, [100.0, 30.0], recall=each.recall, confidence=0.9)
    assert usual_recall_thresholds(scores[:13], [1.0]) == []
    assert len(usual_recall_thresholds(scores[:14], [1.0])) == 1
