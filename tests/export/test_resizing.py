"""Resizing inside of graphs: the same as the library's."""

import numpy as np
import pytest
import torch
from graphs import built, session

from anomalib_lite.backbones.maps import resize_matrix
from anomalib_lite.data.images import ImageStream
from anomalib_lite.data.rasters import FULL_SCALE
from anomalib_lite.export.nodes import Nodes
from anomalib_lite.export.resizing import resized_image, resized_rows, weights

SIDES = [1, 2, 3, 7, 8, 9, 63, 64, 65, 100, 257]
TO = (64, 48)


@pytest.fixture(scope="module")
def weighing():
    nodes = Nodes("n")
    nodes.add("Identity", weights(nodes, "old", "new"), output="weights")
    return session(
        built(nodes, {"old": (0, np.int64), "new": (0, np.int64)}, {"weights": (2, np.float32)})
    )


@pytest.mark.parametrize("n_new", SIDES)
def test_weights_are_those_of_bilinear_resizing(n_new, weighing):
    for n_old in SIDES:
        (found,) = weighing.run(None, {"old": np.array(n_old), "new": np.array(n_new)})
        np.testing.assert_allclose(found, resize_matrix(n_old, n_new), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n_new", [1, 5, 8, 50])
def test_rows_are_resized_in_blocks(n_new):
    nodes = Nodes("n")
    height, _ = nodes.sides("rows")
    nodes.add("Identity", resized_rows(nodes, "rows", height, n_new), output="few")
    running = session(built(nodes, {"rows": (2, np.uint8)}, {"few": (2, np.float32)}))
    for n_old in SIDES:
        rows = np.random.default_rng(n_old).integers(0, 256, (n_old, 3), dtype=np.uint8)
        (found,) = running.run(None, {"rows": rows})
        np.testing.assert_allclose(found, resize_matrix(n_old, n_new) @ rows, rtol=0, atol=255e-6)


def resizing(dtype, size):
    nodes = Nodes("n")
    nodes.add("Identity", resized_image(nodes, "pixels", size), output="planes")
    return session(built(nodes, {"pixels": (3, dtype)}, {"planes": (3, np.float32)}))


def drawn(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    full_scale = FULL_SCALE.get(dtype)
    if full_scale is None:
        return rng.random(shape, dtype=np.float32)
    return rng.integers(0, full_scale + 1, shape, dtype=dtype)


def check_resized(running, pixels, size):
    """Differences stay below 1e-5 of full scale."""
    (image,) = ImageStream([pixels.squeeze(2) if pixels.shape[2] == 1 else pixels])
    expected = image.resized(size)
    (found,) = running.run(None, {"pixels": pixels})
    full_scale = FULL_SCALE.get(pixels.dtype.name, 1.0)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found / full_scale, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_images_are_resized_as_the_library_does(dtype, n_channels):
    running = resizing(dtype, TO)
    sizes = [TO, (48, 64), (65, 47), (640, 480), (30, 20), (300, 17), (9, 500), (233, 121)]
    for seed, size in enumerate(sizes):
        check_resized(running, drawn((*size, n_channels), dtype, seed), TO)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (100, 1), (2, 1), (64, 1)])
def test_sides_of_one_pixel(size):
    check_resized(resizing("uint8", TO), drawn((*size, 3), "uint8"), TO)
    pixels = drawn((*TO, 3), "uint8")
    (found,) = resizing("uint8", size).run(None, {"pixels": pixels})
    # PyTorch's own resizing to one column repeats the first row
    rows, columns = (resize_matrix(old, new) for old, new in zip(TO, size, strict=True))
    expected = rows @ pixels.transpose(2, 0, 1) @ columns.T
    np.testing.assert_allclose(found, expected, rtol=0, atol=255e-5)


def test_an_image_of_the_size_asked_for_keeps_its_pixels():
    pixels = drawn((*TO, 3), "uint16")
    (found,) = resizing("uint16", TO).run(None, {"pixels": pixels})
    np.testing.assert_array_equal(found, pixels.transpose(2, 0, 1))


@pytest.mark.slow
def test_a_large_photograph():
    check_resized(resizing("uint8", (224, 256)), drawn((3000, 4000, 3), "uint8"), (224, 256))


def test_a_tolerance_of_a_thousandth_of_a_gray_level_would_show_another_filter():
    pixels = drawn((100, 80, 1), "uint8")
    plain = torch.nn.functional.interpolate(
        torch.from_numpy(pixels[..., 0])[None, None].float(), TO, mode="bilinear"
    )
    (found,) = resizing("uint8", TO).run(None, {"pixels": pixels})
    assert np.abs(found - plain[0].numpy()).max() > 1


@pytest.mark.parametrize(("size", "levels"), [((300, 300), 6), ((700, 1000), 12)])
def test_the_operator_resize_differs_by_several_gray_levels(size, levels):
    nodes, new = Nodes("n"), (224, 224)
    options = {"mode": "linear", "antialias": 1, "output": "few"}
    nodes.add("Resize", "rows", "", "", nodes.constant([1, 1, *new]), **options)
    running = session(built(nodes, {"rows": (4, np.float32)}, {"few": (4, np.float32)}))
    pixels = drawn(size, "uint8").astype(np.float32)
    (found,) = running.run(None, {"rows": pixels[None, None]})
    rows, columns = (resize_matrix(*sides) for sides in zip(size, new, strict=True))
    assert np.abs(found - rows @ pixels @ columns.T).max() == pytest.approx(levels, abs=1)
