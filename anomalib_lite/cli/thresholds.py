"""What a detector's threshold is, and what it promises."""

from typing import Any

import numpy as np

from ..decide.conformal import ConformalDetector


def threshold_of(detector: Any) -> dict[str, Any]:
    """The threshold, and the share of new good parts that it calls anomalous.

    Returns
    -------
    values : dict
        ``threshold`` (an anomaly score: higher = more anomalous), ``false_alarm_rate`` (asked
        for), ``expected_false_alarms`` (to be expected, by the rank of the threshold among n
        calibration scores, in n + 1), ``calibration_scores`` (n), ``is_guaranteed``.
    """
    scores = detector.calibration_scores_[~np.isnan(detector.calibration_scores_)]
    is_conformal = isinstance(detector, ConformalDetector)
    n = detector.n_calibration_ if is_conformal else len(scores)
    below = np.count_nonzero(scores <= detector.offset_)
    threshold = detector.score_levels().threshold
    return {
        "threshold": threshold,
        "false_alarm_rate": detector.false_alarm_rate,
        "expected_false_alarms": below / (n + 1) if np.isfinite(threshold) else None,
        "calibration_scores": n,
        "is_guaranteed": is_conformal,
    }


def threshold_in_words(values: dict[str, Any]) -> str:
    """What :func:`threshold_of` found, in one line."""
    if values["expected_false_alarms"] is None:
        return "no threshold: scores and heatmaps, but no verdicts; fit on more images"
    rate = values["expected_false_alarms"]
    share = (
        f"about {100 * rate:.2g} %"
        if rate
        else f"fewer than 1 in {values['calibration_scores'] + 1}"
    )
    if values["is_guaranteed"]:
        share = f"at most {100 * values['false_alarm_rate']:.3g} %, guaranteed,"
    return (
        f"threshold {values['threshold']:.5g}: {share} of new good parts will be called anomalous "
        f"(by {values['calibration_scores']} scores, asked for "
        f"{100 * values['false_alarm_rate']:.3g} %)"
    )
