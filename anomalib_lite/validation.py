"""Checks of parameters and arrays: a ValueError says what was expected and what was received."""

from collections.abc import Collection, Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    import torch

_FULL_SCALES = (0, 1, 255, 65535)  # highest values of a mask that has two values


def as_pair(name: str, size: Any) -> tuple[int, int]:
    """(H, W) from a positive int or a pair of them; errors name the parameter ``name``."""
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(_is_side(side) for side in pair):
        raise ValueError(f"{name}: expected a positive int or a pair (H, W) of them, got {size!r}.")
    return int(pair[0]), int(pair[1])


def _is_side(value):
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


def check_number(name: str, value: Any, *, minimum: float) -> None:
    """Raise ValueError unless ``value`` is a finite number of at least ``minimum``."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and minimum <= value < float("inf")):
        raise ValueError(f"{name}: expected a number of at least {minimum}, got {value!r}.")


def check_positive(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a finite number above 0."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and 0 < value < float("inf")):
        raise ValueError(f"{name}: expected a positive number, got {value!r}.")


def check_share(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a number in (0, 1]."""
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value <= 1):
        raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}.")


def check_count(name: str, value: Any, *, minimum: int = 1) -> None:
    """Raise ValueError unless ``value`` is an int of at least ``minimum``."""
    if not (isinstance(value, Integral) and not isinstance(value, bool) and value >= minimum):
        expected = "a positive int" if minimum == 1 else f"an int of at least {minimum}"
        raise ValueError(f"{name}: expected {expected}, got {value!r}.")


def check_fraction(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a number in [0, 1)."""
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < 1):
        raise ValueError(f"{name}: expected a number in [0, 1), got {value!r}.")


def check_contamination(value: Any) -> None:
    """Raise ValueError unless ``value`` is a number in [0, 0.5)."""
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 <= value < 0.5):
        raise ValueError(
            f"contamination: expected a share of images in [0, 0.5), got {value!r}. Where half of "
            "them may be defective, nothing tells which half is normal."
        )


def check_confidence(value: Any) -> None:
    """Raise ValueError unless ``value`` is a number in (0, 1)."""
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value < 1):
        raise ValueError(f"confidence: expected a number in (0, 1), got {value!r}.")


def check_bool(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: expected True or False, got {value!r}.")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_odd(name: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is a positive odd int."""
    check_count(name, value)
    if value % 2 == 0:
        raise ValueError(f"{name}: expected an odd int, got {value}.")


def check_enough(n_images: int, minimum: int, source: str) -> None:
    """Raise ValueError if there are too few images to calibrate the threshold on ``source``."""
    if n_images < minimum:
        raise ValueError(
            f"X: expected at least {minimum} images, got {n_images} sample"
            f"{'' if n_images == 1 else 's'}. The threshold is calibrated on {source}."
        )


def check_n_jobs(n_jobs: Any) -> None:
    """Raise ValueError unless ``n_jobs`` is None or an int other than 0."""
    is_int = isinstance(n_jobs, Integral) and not isinstance(n_jobs, bool)
    if n_jobs is not None and (not is_int or n_jobs == 0):
        raise ValueError(
            f"n_jobs: expected None, a number of workers, or -1 for all, got {n_jobs!r}."
        )


def check_finite(values: "torch.Tensor", images: Sequence) -> None:
    """Raise ValueError, naming the image, if the ``values`` (B, ...) of B images are not finite."""
    rows = values.flatten(1)
    finite = (rows.amax(1).isfinite() & rows.amin(1).isfinite()).tolist()  # both keep a NaN
    for image, is_finite in zip(images, finite, strict=True):
        if not is_finite:
            raise not_finite(image.label)


def not_finite(label: str) -> ValueError:
    """The error about an image, by its name, whose score or map is not finite."""
    return ValueError(
        f"{label}: the backbone gives NaN or infinity, so the image gets no score. Is it constant?"
    )


def as_real(name: str, values: ArrayLike) -> np.ndarray:
    """An array of real numbers from an array-like or tensor; errors name it ``name``.

    What would be lost on the way is refused: masks of masked arrays, imaginary parts, objects.
    """
    parts = values if isinstance(values, list | tuple) else (values,)
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise ValueError(f"{name}: masked values have no value. Fill them with values.filled(...).")
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, tensors without values
        raise ValueError(f"{name}: expected an array of numbers: {error}") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected real numbers, got {array.dtype}.")
    return array


def as_mask(name: str, values: ArrayLike) -> np.ndarray:
    """A bool array from one of bools, of 0 and 1, or of 0 and the full scale of its type.

    Anything else is refused, since its meaning would have to be guessed: soft edges, classes.

    Examples
    --------
    >>> as_mask("mask", [[0, 255], [255, 0]])
    array([[False,  True],
           [ True, False]])
    """
    array = as_real(name, values)
    top = array.max() if array.size else 0
    if top in _FULL_SCALES and ((array == 0) | (array == top)).all():
        return array != 0
    other = array[(array != 0) & (array != (top if top in _FULL_SCALES else 1))]
    raise ValueError(
        f"{name}: expected a mask of 0 and 1, or of 0 and 255, got {other[0]}. Soft edges, from "
        "resizing? Resize to the nearest neighbor, or pass mask > 0.5 (or > 127). Classes? Pass "
        "mask > 0."
    )
