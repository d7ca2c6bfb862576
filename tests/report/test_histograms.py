"""Histograms of scores: what is counted where."""

from types import SimpleNamespace

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from sklearn.ensemble import IsolationForest  # noqa: E402
from worlds import stripes  # noqa: E402

from anomalib_lite import ConformalDetector, PatchCore  # noqa: E402
from anomalib_lite.report import plot_score_histogram  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def counted(bars, low, high):
    """How many scores the bars between two places stand for."""
    inside = [bar for bar in bars if low - 1e-9 <= bar.get_x() < high - 1e-9]
    return sum(round(bar.get_height()) for bar in inside)


def test_normal_and_anomalous_scores_are_told_apart():
    scores, y = np.array([-1.0, -2, -9, -10]), np.array([1, 1, -1, -1])
    ax = plot_score_histogram(scores, y, offset=-5)
    assert legend(ax) == [
        "normal: 0 of 2 below the threshold",
        "anomalous: 2 of 2 below the threshold",
        "threshold -5",
    ]
    (line,) = ax.get_lines()
    assert line.get_xdata() == [-5, -5]
    normal, anomalous = ax.containers
    assert (counted(normal, -99, -5), counted(normal, -5, 0)) == (0, 2)
    assert (counted(anomalous, -99, -5), counted(anomalous, -5, 0)) == (2, 0)


def test_labels_and_threshold_are_optional():
    ax = plot_score_histogram([-1.0, -2.0, -3.0])
    assert legend(ax) == ["images (3)"]
    assert counted(ax.containers[0], -9, 9) == 3


@given(
    scores=st.lists(st.sampled_from([-3.0, -1.5, -1.0, 0.1, 0.2, 7.0]), min_size=1, max_size=30),
    offset=st.sampled_from([-3.0, -1.5, -1.0, 0.0, 0.1, 0.15, 7.0, -9.0, 9.0]),
    bins=st.integers(1, 50),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_bars_beyond_the_threshold_are_the_scores_beyond_it(scores, offset, bins):
    figure = Figure()  # one that pyplot does not keep
    ax = plot_score_histogram(scores, offset=offset, bins=bins, ax=figure.add_subplot())
    n_below = sum(score < offset for score in scores)
    assert legend(ax)[0] == f"images: {n_below} of {len(scores)} below the threshold"
    assert counted(ax.containers[0], -99, offset) == n_below
    assert counted(ax.containers[0], -99, 99) == len(scores)


def test_a_detector_shows_its_scores_out_of_sample():
    """In-sample scores of the same images would all lie far above those of new ones."""
    train = stripes(20)
    detector = PatchCore(image_size=64, coreset=30, false_alarm_rate=0.1, random_state=0).fit(train)
    ax = plot_score_histogram(detector.score_samples(stripes(9, seed=5)), detector=detector)
    n_below = int((detector.calibration_scores_ < detector.offset_).sum())
    assert n_below <= 2
    assert legend(ax)[1] == f"fit, out of sample: {n_below} of 20 below the threshold"
    assert legend(ax)[2] == f"threshold {detector.offset_:.3g}"
    alone = plot_score_histogram(detector=detector)
    assert legend(alone) == legend(ax)[1:]


def test_a_detector_without_a_threshold_has_no_line():
    table = np.random.default_rng(0).normal(size=(20, 2))
    detector = ConformalDetector(IsolationForest(n_estimators=3, random_state=0), random_state=0)
    with pytest.warns(UserWarning, match="needs at least 19"):
        detector.fit(table)
    ax = plot_score_histogram(detector=detector)
    assert legend(ax) == ["fit, out of sample (10)"]


def test_scores_that_are_no_numbers_are_left_out_and_counted():
    scores = [-1.0, np.nan, -2.0, -np.inf]
    ax = plot_score_histogram(scores, [1, 1, -1, -1])
    assert legend(ax) == ["normal (1)", "anomalous (1)", "left out: 2 NaN or infinite"]
    detector = SimpleNamespace(calibration_scores_=np.array([np.nan, -1, -2]), offset_=-1.5)
    ax = plot_score_histogram(detector=detector)
    assert legend(ax)[0] == "fit, out of sample: 1 of 2 below the threshold"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a detector whose own are shown, got neither"),
        ({"scores": [[1.0]]}, r"scores: expected shape \(n_images,\), got \(1, 1\)"),
        ({"scores": ["a"]}, "scores: expected"),
        ({"scores": np.ma.masked_all(3)}, "scores"),
        ({"scores": [np.nan, np.inf]}, "at least one finite number"),
        ({"scores": []}, "at least one finite number"),
        ({"scores": [1.0, 2.0], "y": [1]}, "one label per score"),
        ({"scores": [1.0, 2.0], "y": [1, 0]}, "one label per score"),
        ({"scores": [1.0], "offset": np.nan}, "offset: expected a finite number"),
        ({"scores": [1.0], "bins": 0}, "bins: expected a positive int"),
        ({"scores": [1.0], "bins": "auto"}, "bins: expected a positive int"),
    ],
)
def test_mistakes_are_named_and_leave_no_figure(given, message):
    with pytest.raises(ValueError, match=message):
        plot_score_histogram(**given)
    assert plt.get_fignums() == []


def test_axes_can_be_given():
    figure, (left, right) = plt.subplots(1, 2)
    assert plot_score_histogram([1.0, 2.0], ax=right) is right
    assert not left.patches
    assert figure.axes == [left, right]
