"""What a page says in numbers and words."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import IsolationForest

from anomalib_lite import ConformalDetector, PaDiM, PatchCore
from anomalib_lite.records import Record
from anomalib_lite.report.figures import Share, Truth, headline, percent, promise, settings_of


def said(detector):
    return " ".join(" ".join(promise(detector)).split())


def calibrated(n, rate, **others):
    """What a detector with n calibration scores has."""
    scores = -np.arange(1.0, n + 1)
    offset = float(np.quantile(scores, rate, method="weibull"))
    return SimpleNamespace(
        **{"calibration_scores_": scores, "offset_": offset, "false_alarm_rate": rate, **others}
    )


@pytest.mark.parametrize(("count", "total"), [(0, 7), (1, 7), (7, 7), (12, 50), (3, 10_000)])
def test_interval_is_wilsons(count, total):
    share = Share.of_counts(count, total)
    expected = stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_share_of_nothing():
    assert Share.of_counts(0, 0) is None


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["anomalous"] * 12 + ["normal"] * 38, "12 of 50 parts look anomalous"),
        (["anomalous", "normal", "unreadable"], "1 of 2 parts looks anomalous"),
        (["normal"], "0 of 1 part looks anomalous"),
        (["undecided"] * 3, "3 parts ranked, without a threshold"),
        (["unreadable"] * 2, "None of 2 pictures could be read"),
        (["anomalous"] * 1200 + ["normal"] * 2000, "1,200 of 3,200 parts look anomalous"),
    ],
)
def test_headline(verdicts, expected):
    assert headline([Record(None, verdict, 1.0) for verdict in verdicts]) == expected


def test_promise_of_a_threshold_that_was_read():
    text = said(calibrated(200, 0.01))
    assert text.startswith("Of 100 new good parts, about 1 will be called anomalous.")
    assert "200 good parts" in text
    low, high = stats.beta.ppf((0.05, 0.95), 2.01, 198.99)
    assert f"between {percent(low)} and {percent(high)}".replace("\xa0", " ") in text
    assert "asked for" not in text


def test_promise_of_a_small_rate():
    assert said(calibrated(2000, 0.001)).startswith("Of 1,000 new good parts, about 1 will")


def test_promise_with_too_few_images_is_what_they_can_support():
    text = said(calibrated(19, 0.01))
    assert text.startswith("Of 100 new good parts, about 5 will be called anomalous.")
    assert "1 % was asked for, which so few images cannot support. It takes 99." in text
    assert "It takes" not in said(calibrated(19, 0))


def test_promise_of_a_threshold_set_by_hand():
    text = said(calibrated(50, 0.1, offset_=-40.5))
    assert "set by hand, at an anomaly score of 40.5" in text
    assert "Of 50 good parts that the detector was calibrated on, 10 are beyond it." in text


def test_promise_without_a_threshold():
    nothing = calibrated(3, 0.1, calibration_scores_=np.full(3, np.nan), offset_=math.nan)
    assert said(nothing).startswith("There is no threshold")


def test_promise_of_a_conformal_detector():
    forest = IsolationForest(n_estimators=5, random_state=0)
    rows = np.random.default_rng(0).normal(size=(80, 2))
    split = ConformalDetector(forest, random_state=0).fit(rows)
    assert said(split).startswith(
        "A new good part is called anomalous with a probability of at most 5 %: a guarantee."
    )
    assert "40 good parts that were not learned from" in said(split)
    folds = ConformalDetector(forest, method="cv", random_state=0).fit(rows)
    assert "guarantee" not in said(folds)
    assert "at most about twice as many" in said(folds)
    with pytest.warns(UserWarning, match="needs at least 999"):
        split.set_threshold(false_alarm_rate=0.001)
    assert said(split).startswith("Nothing is called anomalous: too few")
    assert "takes 999 of them, and there are 40" in said(split)


def test_truth_counts_mistakes_of_images_that_were_read():
    records = [
        Record(None, "anomalous", 9.0),
        Record(None, "normal", 8.0),
        Record(None, "anomalous", 7.0),
        Record(None, "normal", 1.0),
        Record(None, "unreadable"),
    ]
    truth = Truth.of(records, np.array([-1, -1, 1, 1, -1]))
    assert truth.escapes[:2] == (1, 2)
    assert truth.overkill[:2] == (1, 2)
    assert truth.auroc == 1.0
    assert (truth.n_good, truth.n_bad) == (2, 2)
    assert truth.curve[0].tolist() == [0, 0] and truth.curve[-1].tolist() == [1, 1]


def test_truth_says_what_finding_more_would_cost():
    scores = [*range(20), *range(10, 40)]  # 20 good ones, 30 defects
    records = [Record(None, "normal", float(score)) for score in scores]
    y = np.repeat([1, -1], [20, 30])
    found = Truth.of([*records, Record(None, "unreadable")], np.append(y, -1)).for_recall
    assert [(each.recall, each.n_missed) for each in found] == [(0.8, 2), (0.9, 0)]
    assert [each.false_alarm_rate for each in found] == [8 / 20, 10 / 20]
    assert found[0].score == np.nextafter(-12.0, np.inf)
    assert Truth.of(records[:33], y[:33]).for_recall == []


def test_truth_of_one_kind_or_without_verdicts():
    records = [Record(None, "undecided", 1.0), Record(None, "undecided", 2.0)]
    truth = Truth.of(records, np.array([1, -1]))
    assert (truth.escapes, truth.overkill, truth.auroc) == (None, None, 1.0)
    truth = Truth.of(records, np.array([1, 1]))
    assert truth.auroc is None and truth.curve is None


def test_a_long_curve_is_short_on_the_page():
    rng = np.random.default_rng(0)
    records = [Record(None, "normal", score) for score in rng.normal(size=4000)]
    curve = Truth.of(records, rng.choice([-1, 1], 4000)).curve
    assert len(curve) <= 200
    assert curve[0].tolist() == [0, 0] and curve[-1].tolist() == [1, 1]


def test_settings_that_differ_also_of_a_nested_detector():
    detector = ConformalDetector(PatchCore(coreset=30), random_state=np.random.RandomState(3))
    changed = {each.name: each.value for each in settings_of(detector) if not each.is_default}
    assert changed == {
        "detector": "PatchCore",
        "detector__coreset": "30",
        "random_state": "RandomState",
    }
    assert all("0x" not in each.value for each in settings_of(detector))
    assert {each.name for each in settings_of(PaDiM())} == {*PaDiM().get_params()}
