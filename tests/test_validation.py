import numpy as np
import pytest

from anomalib_lite.validation import as_pair


@pytest.mark.parametrize(
    ("size", "pair"),
    [(224, (224, 224)), (1, (1, 1)), ((64, 96), (64, 96)), ([64, 96], (64, 96))],
)
def test_a_size_is_an_int_or_a_pair(size, pair):
    assert as_pair("image_size", size) == pair
    assert isinstance(as_pair("image_size", size), tuple)


@pytest.mark.parametrize(
    "size",
    [
        0, -1, 1.5, 64.0, "64", None, (), (64,), (64, 64, 3), (64, 0), (64.0, 64), (64, None),
        ((64, 64), 64),
    ],
)  # fmt: skip
def test_other_sizes_are_refused_and_blamed_on_the_parameter(size):
    with pytest.raises(ValueError, match="center_crop: expected a positive int or a pair") as error:
        as_pair("center_crop", size)
    assert repr(size) in str(error.value)


def test_a_bool_is_no_size():
    with pytest.raises(ValueError, match="image_size"):
        as_pair("image_size", True)


@pytest.mark.parametrize("size", [np.int64(64), (np.int64(64), 64)])
def test_numpy_ints_are_sizes_too(size):
    assert as_pair("image_size", size) == (64, 64)
