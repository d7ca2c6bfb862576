"""Charts: shapes in their places, and few of them."""

import re

import numpy as np
import pytest

from anomalib_lite.report.charts import Axis, histogram, roc, timeline


def shape(chart, style):
    [found] = [each.path for each in chart.shapes if each.style == style]
    return found


def points(path):
    return [(int(x), int(y)) for x, y in re.findall(r"M(\d+) (\d+)h0", path)]


def test_bars_are_shares_of_the_images_and_the_threshold_divides_them():
    chart = histogram(
        [
            ("normal", "normal", np.array([0.0, 0.0, 0.5])),
            ("anomalous", "anomalous", np.array([3.0])),
        ],
        np.array([0.0, 0.2]),
        1.0,
        "severity",
    )
    [at] = [rule.at for rule in chart.rules_across]
    left = [int(x) for x in re.findall(r"M(\d+) ", shape(chart, "normal"))]
    right = [int(x) for x in re.findall(r"M(\d+) ", shape(chart, "anomalous"))]
    assert max(left) < 10 * at <= min(right) + 1
    assert ("normal", "normal (3)") in chart.legend and (
        "known",
        "good parts, calibration (2)",
    ) in chart.legend
    # of two bars of one image each, of four, the third is twice as high
    tops = re.findall(r"M\d+ 1000V(\d+)", shape(chart, "normal"))
    heights = sorted(1000 - int(top) for top in tops)
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)


@pytest.mark.parametrize(
    ("values", "known", "threshold"),
    [
        ([1.0], [], None),
        ([0.0, 0.0], [0.0], 0.0),
        ([1e300, -1e300], [], None),
        ([1e-9, 2e-9], [1e-9], 1.5e-9),
        ([-5.0, -4.0], [-4.5], 100.0),
        ([1.0, 1e9], [1.0, 1.1], 2.0),
    ],
)
def test_values_of_any_size_can_be_drawn(values, known, threshold):
    values, known = np.array(values), np.array(known)
    chart = histogram([("normal", "normal", values)], known, threshold, "score")
    line = timeline(values, values > 1, None, known, threshold, "score")
    for each in (chart, line):
        numbers = [int(n) for one in each.shapes for n in re.findall(r"-?\d+", one.path)]
        assert all(-1 <= n <= 1001 for n in numbers)
        for mark in [*each.across, *each.up, *each.rules_across, *each.rules_up]:
            assert -0.1 <= mark.at <= 100.1


def test_outliers_cut_the_axis_and_the_chart_says_so():
    values = np.append(np.linspace(0, 1, 200), 1e6)
    axis = Axis.of(values, np.zeros(0), 1.0)
    assert axis.is_cut and axis.high < 10
    assert axis.marks()[-1].text.startswith(">")
    chart = histogram([("normal", "normal", values)], np.zeros(0), 1.0, "severity")
    assert "beyond the end" in chart.note


def test_marks_are_round_numbers():
    marks = Axis(-0.6, 4.4).marks()
    assert [mark.text for mark in marks] == ["0", "1", "2", "3", "4"]
    assert marks[0].at == pytest.approx(12)
    assert Axis(-0.02, 0.03).marks()[0].text == "\N{MINUS SIGN}0.02"


def test_points_are_in_order_of_time():
    scores, times = np.array([3.0, 1.0, 2.0]), np.array([30.0, 10.0, 20.0])
    chart = timeline(scores, scores > 2.5, times, np.array([1.0, 2.0]), 2.5, "score")
    assert len(points(shape(chart, "points normal"))) == 2
    [(x, y)] = points(shape(chart, "points anomalous"))
    normal = points(shape(chart, "points normal"))
    assert [x for x, _ in normal] == sorted(x for x, _ in normal) and max(normal)[0] < x
    assert y < min(y for _, y in normal)  # the canvas counts from above
    assert chart.across[0].text == "1970-01-01 00:00 UTC"
    assert shape(chart, "band")


def test_times_that_no_calendar_has():
    chart = timeline(np.ones(1), np.zeros(1, bool), np.array([1e300]), np.ones(1), None, "score")
    assert chart.across[0].text == "?"


def test_of_many_points_all_anomalous_ones_and_the_extremes_stay():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=10_000)
    scores[1234], scores[4321] = -50, 50
    flagged = np.zeros(10_000, dtype=bool)
    flagged[rng.choice(10_000, 900, replace=False)] = True
    flagged[[1234, 4321]] = False
    chart = timeline(scores, flagged, None, scores, None, "score")
    assert len(re.findall("M", shape(chart, "points anomalous"))) == flagged.sum()
    normal = points(shape(chart, "points normal"))
    assert len(normal) <= 600
    lowest = max(y for _, y in normal)
    assert (123, lowest) in normal or (124, lowest) in normal
    assert "Of the others" in chart.note
    assert sum(len(each.path) for each in chart.shapes) < 60_000


def test_the_threshold_is_on_the_roc_curve():
    chart = roc(np.array([[0, 0], [0, 0.5], [1, 1]]), (0.0, 0.5))
    assert points(shape(chart, "points here")) == [(0, 500)]
    assert shape(chart, "curve") == "M0 1000L0 1000L0 500L1000 0"
    assert not [
        each for each in roc(np.array([[0, 0], [1, 1]]), None).shapes if "here" in each.style
    ]
