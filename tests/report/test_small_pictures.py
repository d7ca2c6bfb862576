"""Small pictures and maps, without PyTorch."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from anomalib_lite.data import ImageStream
from anomalib_lite.data.resizing import planes_resized
from anomalib_lite.report.pictures import small_picture, smaller_map, smaller_picture

RNG = np.random.default_rng(0)
COLOR = RNG.integers(0, 256, (67, 45, 3), dtype=np.uint8)


def as_of_a_network(planes, size):
    """Pixels (h, w, C) as PyTorch resizes them."""
    return planes_resized(torch.from_numpy(planes).float(), size).movedim(0, -1).numpy()


@pytest.mark.parametrize(
    ("image", "rounding"),
    [
        (COLOR, 1.01 / 255),  # of 8 bits, in rows and columns
        (COLOR[..., :1], 1.01 / 255),
        (COLOR.astype(np.uint16) * 257, 1e-5),
        (COLOR / 255, 1e-5),
        (COLOR > 127, 1e-5),
        (torch.from_numpy(COLOR).movedim(-1, 0), 1.01 / 255),
    ],
    ids=["color", "gray", "16 bits", "floats", "bool", "tensor"],
)
def test_pictures_are_resized_as_for_a_network(image, rounding):
    (checked,) = ImageStream([image])
    ((small,),) = ImageStream([image]).work(None, lambda each: small_picture(each, 20))
    expected = as_of_a_network(checked.pixels.numpy(), (20, 13))
    np.testing.assert_allclose(small, expected.squeeze(), atol=rounding)
    np.testing.assert_allclose(small_picture(checked, 20), expected.squeeze(), atol=1e-5)


def test_small_images_stay_as_they_are():
    (checked,) = ImageStream([COLOR])
    np.testing.assert_allclose(small_picture(checked, 100), COLOR / 255, atol=1e-6)


def test_pictures_of_floats_are_averaged():
    picture = RNG.random((67, 45, 3)).astype(np.float32)
    expected = as_of_a_network(np.moveaxis(picture, -1, 0), (20, 13))
    np.testing.assert_allclose(smaller_picture(picture, 20), expected, atol=1e-5)
    assert smaller_picture(picture[..., 0], 20).shape == (20, 13)


@pytest.mark.parametrize("shape", [(67, 45), (45, 67), (20, 20), (7, 3), (1, 90)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool])
def test_the_highest_values_of_a_map_stay(shape, dtype):
    heat = (RNG.random(shape) * 2).astype(dtype)
    small = smaller_map(heat, 20)
    pooled = functional.adaptive_max_pool2d(torch.from_numpy(heat.astype(float))[None], small.shape)
    np.testing.assert_array_equal(small, pooled[0].numpy().astype(dtype))
    assert small.dtype == dtype
    assert max(small.shape) <= 20
