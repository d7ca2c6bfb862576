"""A trial of what was read: whatever a forged file leads to shows in load, not later."""

import copy
from typing import Any

import numpy as np

_MOST_FEATURES = 2**20
_METHODS = ("predict", "score_samples", "anomaly_map", "transform")


def try_out(estimator: Any) -> None:
    """Score an example with a fitted estimator.

    A ValueError is an answer that scoring may give; any other exception passes to the caller.
    """
    example = _example(estimator)
    silent = copy.copy(estimator)  # whatever the trial sets is gone with it
    if hasattr(silent, "verbose"):
        silent.verbose = False
    methods = ("inspect", "transform") if hasattr(silent, "inspect") else _METHODS
    calls = [(method, (example,)) for method in methods if example is not None]
    for method, arguments in [*calls, ("map_levels", ()), ("sample", (1,))]:
        if hasattr(silent, method):
            try:
                getattr(silent, method)(*arguments)
            except ValueError:
                continue


def _example(estimator):
    """An input of the kind that an estimator was fitted on; None where it takes pandas to make."""
    seen, values = (getattr(estimator, name, None) for name in ("input_", "value_range_"))
    if seen is not None and values is not None:
        return _image(seen, values)
    inner = _first_inner(estimator)
    if inner is not None:
        return _example(inner)
    return _rows(estimator)


def _first_inner(estimator):
    """The first estimator that the input of another one passes to."""
    if getattr(estimator, "detectors_", None) and hasattr(estimator, "n_calibration_"):
        return estimator.detectors_[0]
    for name in ("steps", "transformer_list"):
        for _, inner, *_ in getattr(estimator, name, ()):
            if not isinstance(inner, str):
                return inner
    return getattr(estimator, "estimator", None)


def _image(seen, values):
    """(1, h, w) of random float32, as bright as the brightest image of fit."""
    size = np.maximum(seen.image_size, seen.patch_size)
    pixels = np.random.default_rng(0).random((1, *size), dtype=np.float32)
    return pixels / pixels.max() * np.float32(values.highest or 1)


def _rows(estimator):
    """(2, n_features) of random numbers, named as those of fit."""
    n_features = estimator.n_features_in_
    if not 0 < n_features <= _MOST_FEATURES:
        raise ValueError(f"holds an estimator of {n_features} features.")
    rows = np.random.default_rng(0).normal(size=(2, n_features))
    if not hasattr(estimator, "feature_names_in_"):
        return rows
    try:
        import pandas as pd
    except ImportError:
        return None
    return pd.DataFrame(rows, columns=estimator.feature_names_in_)
