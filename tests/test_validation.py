"""Checks of parameters: valid values pass, errors name the parameter and the value."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from anomalib_lite.validation import (
    as_pair,
    check_choice,
    check_count,
    check_enough,
    check_finite,
    check_fraction,
    check_number,
    check_odd,
)


@pytest.mark.parametrize(
    ("size", "pair"),
    [(224, (224, 224)), (1, (1, 1)), ((64, 96), (64, 96)), ([64, 96], (64, 96))],
)
def test_size_is_an_int_or_a_pair(size, pair):
    assert as_pair("image_size", size) == pair
    assert isinstance(as_pair("image_size", size), tuple)


@pytest.mark.parametrize(
    "size",
    [
        0, -1, 1.5, 64.0, "64", None, True, (), (64,), (64, 64, 3), (64, 0), (64.0, 64), (64, None),
        ((64, 64), 64), (64, False),
    ],
)  # fmt: skip
def test_invalid_size_is_refused(size):
    with pytest.raises(ValueError, match="center_crop: expected a positive int or a pair") as error:
        as_pair("center_crop", size)
    assert repr(size) in str(error.value)


@pytest.mark.parametrize("size", [np.int64(64), (np.int64(64), 64)])
def test_size_may_be_a_numpy_int(size):
    pair = as_pair("image_size", size)
    assert pair == (64, 64)
    assert all(type(side) is int for side in pair)


VALID = {
    "number": (lambda name, x: check_number(name, x, minimum=0), [0, 0.5, 3, np.float32(2)]),
    "count": (check_count, [1, 7, np.int64(3)]),
    "count from 0": (lambda name, x: check_count(name, x, minimum=0), [0, 1]),
    "fraction": (check_fraction, [0, 0.0, 0.5, 1 - 1e-9, np.float64(0.3)]),
    "choice": (lambda name, x: check_choice(name, x, ("a", "b")), ["a", "b"]),
    "odd": (check_odd, [1, 3, np.int64(9)]),
}
INVALID = {
    "number": [-0.1, float("nan"), float("inf"), "1", None, True, [1]],
    "count": [0, -1, 1.0, "1", None, True],
    "count from 0": [-1, 0.0, False],
    "fraction": [1, 1.0, -0.1, float("nan"), "0.5", None, False],
    "choice": ["c", None, "ab", 1],
    "odd": [2, 0, -1, 1.0, True],
}


@pytest.mark.parametrize("kind", VALID)
def test_valid_values_pass(kind):
    check, values = VALID[kind]
    for value in values:
        check("size", value)


@pytest.mark.parametrize(("kind", "value"), [(k, x) for k, bad in INVALID.items() for x in bad])
def test_invalid_values_are_refused(kind, value):
    with pytest.raises(ValueError, match=r"^size: expected .*, got ") as error:
        VALID[kind][0]("size", value)
    assert str(error.value).endswith(f"got {value!r}.")


def test_too_few_images_are_refused():
    check_enough(3, 3, "held-out images")
    with pytest.raises(ValueError, match=r"at least 3 images, got 2 samples\..* held-out images"):
        check_enough(2, 3, "held-out images")
    with pytest.raises(ValueError, match=r"got 1 sample\."):
        check_enough(1, 3, "held-out images")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(3, 1), (3, 2, 5)])
def test_image_with_values_that_are_not_finite_is_named(shape, bad):
    images = [SimpleNamespace(label=f"image {i}") for i in range(3)]
    values = torch.zeros(shape)
    check_finite(values, images)
    values[1].flatten()[-1] = bad
    with pytest.raises(ValueError, match=r"^image 1: .*NaN or infinity"):
        check_finite(values, images)
