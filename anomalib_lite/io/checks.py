"""Types of what a file holds, before anything relies on them."""

from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch


def check_fields(cls: type, values: dict[str, Any]) -> None:
    """Raise ValueError unless values have the types that a dataclass declares for its fields."""
    hints = get_type_hints(cls)
    for name, value in values.items():
        if name not in hints or not _is_of(value, hints[name]):
            raise ValueError(f"holds {_short(value)} as {cls.__name__}.{name}.")


def check_params(estimator: Any) -> None:
    """Raise ValueError unless an estimator of this package accepts its parameters."""
    for hook in ("_check_all_params", "_check_params"):
        if hasattr(estimator, hook):
            getattr(estimator, hook)()
            return


def check_learned(estimator: Any, parts: dict[str, type]) -> None:
    """Raise ValueError unless what estimators have in common is of the types that fit gives it.

    Parameters
    ----------
    estimator : estimator
    parts : dict of str to type
        Types of attributes that are parts.
    """
    for name, hint in {**_LEARNED, **parts}.items():
        value = vars(estimator).get(name)
        if value is not None and not _is_of(value, hint):
            raise ValueError(f"holds {_short(value)} as {type(estimator).__name__}.{name}.")
    seen, backbone = (vars(estimator).get(name) for name in ("input_", "backbone_"))
    if backbone is not None and seen != backbone.input:
        raise ValueError(f"holds {seen} as input_, and a network that takes {backbone.input}.")
    scores = vars(estimator).get("calibration_scores_")
    if scores is not None and (scores.ndim != 1 or scores.dtype.kind != "f"):
        raise ValueError(f"holds {scores.dtype} {scores.shape} as calibration_scores_.")
    if vars(estimator).get("_example_digests_") is not None:
        _check_example_digests(**{name: vars(estimator).get(name) for name in _OF_EXAMPLES})


_LEARNED = {
    "_digests_": np.ndarray,
    "_example_digests_": np.ndarray,
    "_examples_": torch.Tensor,
    "_not_learned_": np.ndarray,
    "calibration_indices_": np.ndarray,
    "calibration_scores_": np.ndarray,
    "detectors_": list,
    "device_": torch.device,
    "n_calibration_": int,
    "n_features_in_": int,
    "n_images_": int,
    "offset_": float,
    "pixel_level_": float,
}


_OF_EXAMPLES = ("_example_digests_", "_examples_", "_ranking_", "_digests_", "calibration_scores_")


def _check_example_digests(
    _example_digests_, _examples_, _ranking_, _digests_, calibration_scores_
):
    """Raise ValueError unless it can be told which examples are of suspected images."""
    fits = (
        all(each is not None for each in (_examples_, _ranking_, _digests_, calibration_scores_))
        and _example_digests_.dtype == np.int64
        and _example_digests_.ndim == 1
        and len(_example_digests_) <= len(_examples_)
        and (_ranking_.indices < len(calibration_scores_)).all()
        and calibration_scores_.shape == _digests_.shape
    )
    if not fits:
        found = f"{_example_digests_.dtype} {_example_digests_.shape}"
        raise ValueError(f"holds {found} as _example_digests_.")


def _is_of(value, hint):
    """Whether a value is of a type, as annotations write types."""
    kind, items = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if kind in (Union, UnionType):
        return any(_is_of(value, item) for item in items)
    if hint in (None, NoneType):
        return value is None
    if hint in (int, float):
        number = Integral if hint is int else Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind is tuple and items[-1] is not ...:
        fits = isinstance(value, tuple) and len(value) == len(items)
        return fits and all(map(_is_of, value, items))
    if kind in (tuple, list, set):
        return isinstance(value, kind) and all(_is_of(item, items[0]) for item in value)
    return isinstance(value, kind or hint)


def _short(value):
    text = repr(value) if isinstance(value, bool | int | float | str) else type(value).__name__
    return text if len(text) <= 60 else f"{text[:60]}..."
