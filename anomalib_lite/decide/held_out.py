"""What a fitted detector says of samples that it has not seen."""

from typing import Any, NamedTuple

import numpy as np

from ..data.choosing import numbered_as_given, take
from ..notices import warn_user
from .samples import copies

_CHUNK = 32  # images whose maps are held at once, where a detector cannot give them one by one


class HeldOut(NamedTuple):
    """A fitted detector, and its scores and map maxima (n,) or None of samples it has not seen."""

    detector: Any
    indices: np.ndarray
    scores: np.ndarray
    peaks: np.ndarray | None


def look(detector: Any, images: Any, indices: np.ndarray, *, maps: bool) -> HeldOut:
    """What a detector says of samples it has not seen, whose places in X are ``indices``."""
    if len(indices) == 0:
        raise ValueError("X: expected at least one sample, got none.")
    peaks = None
    with numbered_as_given(indices):
        if maps and hasattr(detector, "iter_inspect"):
            seen = [(image.score, image.map.max()) for image in detector.iter_inspect(images)]
            scores, peaks = np.array(seen, dtype=float).T
        else:
            scores = as_scores(detector.score_samples(images))
            if maps and hasattr(detector, "anomaly_map"):
                peaks = _map_maxima(detector, images, len(indices))
    if len(scores) != len(indices):
        raise ValueError(
            f"detector: expected a score for each of {len(indices)} samples, got {len(scores)}."
        )
    refuse_nan(scores)
    return HeldOut(detector, indices, scores, peaks)


def _map_maxima(detector, images, n_images):
    chunks = np.split(np.arange(n_images), range(_CHUNK, n_images, _CHUNK))
    maps = (heat for chunk in chunks for heat in detector.anomaly_map(take(images, chunk)))
    return np.array([heat.max() for heat in maps], dtype=float)


def as_scores(scores: Any) -> np.ndarray:
    """Scores (n_samples,) as floats."""
    scores = np.asarray(scores, dtype=float)
    if scores.ndim != 1:
        raise ValueError(
            f"detector: expected scores of shape (n_samples,), got shape {scores.shape}."
        )
    return scores


def refuse_nan(scores: Any) -> None:
    """Raise ValueError if there is NaN among the scores."""
    if np.isnan(scores).any():
        raise ValueError("detector: expected numbers as scores, got NaN for some samples.")


def warn_of_copies(X: Any, units: np.ndarray, held_out: np.ndarray) -> None:
    """Warn of calibration samples that are copies of samples of another unit."""
    held_out = {*held_out.tolist()}
    found = [
        f"{i} of {first}"
        for i, first in copies(X).items()
        if units[i] != units[first] and (i in held_out or first in held_out)
    ]
    if found:
        n, shown = len(found), ", ".join(found[:3])
        warn_user(
            f"X: {n} sample{' is an exact copy' if n == 1 else 's are exact copies'} of another: "
            f"{shown}{', ...' if n > 3 else ''}. Copies vouch for each other, so that there may be "
            "more false alarms than false_alarm_rate. Leave them out, or give those of one part "
            "the same label in fit(X, groups=...)."
        )
