"""What is written around a network: pixels before it; score, label, map and p-value after it."""

import math

import numpy as np
import pytest
from graphs import built, session
from torch.nn import functional

from anomalib_lite.backbones.maps import MapRenderer
from anomalib_lite.data.images import ImageStream
from anomalib_lite.data.inputs import NetworkInput
from anomalib_lite.decide.ranks import p_value, shared_weights
from anomalib_lite.export.graph import whole_graph
from anomalib_lite.export.nodes import Nodes
from anomalib_lite.export.plan import Plan, Ranks

CELL = 8
INPUT = NetworkInput((64, 48), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), 8)
RNG = np.random.default_rng(0)


def toy_network(seen_size):
    """Score: the highest value. Grid: means of the first channel, less those of the last."""
    nodes = Nodes("n")
    nodes.add("ReduceMax", "input", keepdims=0, output="score")
    cells = nodes.add("AveragePool", "input", kernel_shape=[CELL] * 2, strides=[CELL] * 2)
    first, last = (nodes.add("Gather", cells, nodes.constant(i), axis=1) for i in (0, 2))
    nodes.add("Sub", first, last, output="grid")
    model = built(nodes, {"input": (4, np.float32)}, {"score": (0, np.float32), "grid": (3, "f4")})
    sides = model.graph.output[1].type.tensor_type.shape.dim
    for side, n in zip(sides, (1, *(n // CELL for n in seen_size)), strict=True):
        side.dim_value = n
    return model


def in_torch(network_input, image):
    """Network input, score and grid of an image (H, W, C)."""
    (checked,) = ImageStream([image.squeeze(2) if image.shape[2] == 1 else image])
    batch = network_input.batch([checked])
    cells = functional.avg_pool2d(batch, CELL)[0]
    return float(batch.max()), cells[0] - cells[2]


def detector(network_input=INPUT, dtype="uint8", renderer=None, offset=math.nan, ranks=None):
    renderer = renderer or MapRenderer(
        network_input.image_size, network_input.seen_size, network_input.crop_offset
    )
    plan = Plan(network_input, dtype, renderer, offset, ranks)
    return session(whole_graph(toy_network(network_input.seen_size), plan))


def look(running, images, **others):
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(None, {"image": images, **others}), strict=True))


def drawn(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def plain():
    return detector()


# -- before the network ---------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [None, (48, 32), (56, 40), (64, 48)])
@pytest.mark.parametrize("size", [(64, 48), (100, 90), (31, 70)])
def test_the_network_sees_what_it_sees_in_python(crop, size):
    given = NetworkInput(INPUT.image_size, INPUT.mean, INPUT.std, 8, crop)
    renderer = MapRenderer(crop or INPUT.image_size, smoothing=0)  # the crop alone
    running = detector(given, renderer=renderer)
    images = drawn(2, *size, 3)
    cells = np.array([n // CELL for n in given.seen_size])
    found = look(running, images, map_size=cells)
    for image, score in zip(images, found["anomaly_score"], strict=True):
        assert score == pytest.approx(in_torch(given, image)[0], abs=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_each_dtype_has_its_full_scale(dtype):
    running = detector(dtype=dtype)
    images = RNG.random((2, 80, 70, 3)).astype(np.float32)
    if dtype != "float32":
        images = (images * np.iinfo(dtype).max).astype(dtype)
    for image, score in zip(images, look(running, images)["anomaly_score"], strict=True):
        assert score == pytest.approx(in_torch(INPUT, image)[0], abs=1e-4)


def test_gray_images_are_those_of_three_equal_channels(plain):
    images = drawn(2, 90, 80, 1)
    gray, color = look(plain, images), look(plain, images.repeat(3, 3))
    for name, values in gray.items():
        np.testing.assert_allclose(values, color[name], rtol=0, atol=1e-5)


def test_alpha_is_dropped(plain):
    images = drawn(2, 70, 50, 4)
    color, alpha = look(plain, np.ascontiguousarray(images[..., :3])), look(plain, images)
    for name, values in alpha.items():
        np.testing.assert_array_equal(values, color[name])


# -- maps -----------------------------------------------------------------------------------------


def check_maps(running, given, renderer, size, map_size=None):
    images = drawn(2, *size, 3)
    asked = {} if map_size is None else {"map_size": np.array(map_size)}
    maps = look(running, images, **asked)["anomaly_map"]
    assert maps.shape == (2, *(map_size or size)) and maps.dtype == np.float32
    for image, heat in zip(images, maps, strict=True):
        _, grid = in_torch(given, image)
        expected = renderer(grid, map_size or size)
        np.testing.assert_allclose(heat, expected, rtol=0, atol=1e-5 * float(grid.abs().max()))


RENDERERS = {
    "smooth": {},
    "not smooth": {"smoothing": 0},
    "very smooth": {"smoothing": 50},
    "windows": {"windows": (CELL, CELL), "smoothing": 5},
    "nearest windows": {"windows": (CELL, CELL), "smoothing": 0},
}


@pytest.mark.parametrize("crop", [None, (48, 32)])
@pytest.mark.parametrize("options", RENDERERS.values(), ids=RENDERERS)
def test_maps_are_those_of_the_renderer(crop, options):
    given = NetworkInput(INPUT.image_size, INPUT.mean, INPUT.std, 8, crop)
    renderer = MapRenderer(given.image_size, given.seen_size, given.crop_offset, **options)
    running = detector(given, renderer=renderer)
    for size in [(64, 48), (100, 90), (20, 33), (9, 300)]:
        check_maps(running, given, renderer, size)
    for map_size in [(64, 48), (8, 6), (1, 1), (200, 7)]:
        check_maps(running, given, renderer, (70, 90), map_size)


def test_a_map_size_of_0_is_the_image_s_own(plain):
    images = drawn(1, 50, 70, 3)
    expected = look(plain, images)["anomaly_map"]
    assert expected.shape == (1, 50, 70)
    for asked in ([0, 0], [50, 0], [0, 70]):
        found = look(plain, images, map_size=np.array(asked))["anomaly_map"]
        np.testing.assert_array_equal(found, expected)


# -- several images -------------------------------------------------------------------------------


def test_an_image_has_the_same_bits_among_others():
    scores = RNG.normal(size=9)
    running = detector(offset=-1.0, ranks=Ranks(scores, *_weights(np.arange(9))))
    images = drawn(5, 90, 110, 3)
    together = look(running, images)
    for i in range(5):
        for name, values in look(running, images[i : i + 1]).items():
            assert values.tobytes() == together[name][i : i + 1].tobytes(), name


# -- labels ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gray_score(plain):
    """Of an image of one gray; exact as float32."""
    image = np.full((1, 64, 48, 3), 200, np.uint8)
    return image, float(look(plain, image)["anomaly_score"][0])


@pytest.mark.parametrize(
    ("threshold", "label"),
    [
        (lambda score: score, 1),
        (lambda score: np.nextafter(score, np.inf), 1),
        (lambda score: np.nextafter(score, -np.inf), -1),
        (lambda score: score + 0.1, 1),
        (lambda score: score - 0.1, -1),
        (lambda score: math.inf, 1),
        (lambda score: -math.inf, -1),
        (lambda score: math.nan, 0),
    ],
)
def test_labels_around_a_threshold(threshold, label, gray_score):
    image, score = gray_score
    offset = -float(threshold(score))
    found = look(detector(offset=offset), image)
    assert found["label"].tolist() == [label] and found["label"].dtype == np.int64
    assert found["anomaly_score"].tolist() == [score]
    if not math.isnan(offset):  # as detectors in Python decide
        assert label == (-1 if -score < offset else 1)


# -- p-values -------------------------------------------------------------------------------------


def _weights(units):
    weights, whole = shared_weights(units)
    return weights, whole, int(units.max()) + 1


@pytest.mark.parametrize("n_per_unit", [1, 3, "mixed"])
def test_p_values_are_those_of_ranks(n_per_unit, gray_score):
    image, score = gray_score
    n = 24
    units = np.arange(n) if n_per_unit == 1 else np.arange(n) // 3
    if n_per_unit == "mixed":
        units = np.sort(np.concatenate([np.arange(7), RNG.integers(0, 7, n - 7)]))
    weights, whole, n_units = _weights(units)
    for n_lower in (0, 1, 5, 23, 24):
        scores = -score + np.where(np.arange(n) < n_lower, -1.0, 1.0) * RNG.random(n)
        scores[0] = -score if n_lower else scores[0]  # a tie counts as lower
        order = RNG.permutation(n)
        ranks = Ranks(scores[order], weights[order], whole, n_units)
        (found,) = look(detector(ranks=ranks), image)["p_value"]
        expected = p_value(weights[:n_lower].sum(), whole, n_units)
        assert found == pytest.approx(float(expected), rel=1e-6)


def test_without_ranks_there_are_no_p_values(plain):
    names = [output.name for output in plain.get_outputs()]
    assert names == ["anomaly_score", "label", "anomaly_map"]


def test_the_toy_network_tells_images_apart(plain):
    light, dark = (np.full((1, 64, 48, 3), value, np.uint8) for value in (250, 3))
    assert look(plain, light)["anomaly_score"] > look(plain, dark)["anomaly_score"] + 1
