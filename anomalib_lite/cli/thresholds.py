"""What a detector's threshold is, and what it promises."""

from typing import Any

import numpy as np

from ..report.figures import known_scores, main_promise


def threshold_of(detector: Any) -> dict[str, Any]:
    """The threshold, and the share of new good parts that it calls anomalous.

    Returns
    -------
    values : dict
        ``threshold`` (an anomaly score: higher = more anomalous), ``false_alarm_rate`` (asked
        for), ``expected_false_alarms`` (by the rank of the threshold among n calibration scores, of
        n + 1), ``calibration_scores`` (n), ``is_guaranteed``, ``promise`` (a sentence).
    """
    scores, is_conformal = known_scores(detector), hasattr(detector, "n_calibration_")
    n = detector.n_calibration_ if is_conformal else len(scores)
    threshold = detector.score_levels().threshold
    n_beyond = int(np.count_nonzero(scores >= threshold))
    return {
        "threshold": threshold,
        "false_alarm_rate": detector.false_alarm_rate,
        "expected_false_alarms": n_beyond / (n + 1) if np.isfinite(threshold) else None,
        "calibration_scores": n,
        "is_guaranteed": is_conformal,
        "promise": main_promise(detector),
    }


def threshold_in_words(values: dict[str, Any]) -> str:
    """What :func:`threshold_of` found, in one line."""
    if values["expected_false_alarms"] is None:
        return values["promise"]
    return f"threshold {values['threshold']:.5g}: {values['promise']}"
