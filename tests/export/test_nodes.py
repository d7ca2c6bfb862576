"""Graphs written node by node."""

import numpy as np
import pytest
from graphs import built, run
from onnx import numpy_helper

from anomalib_lite.export.nodes import Nodes


def test_nodes_are_run_in_the_order_of_writing():
    nodes = Nodes("n")
    total = nodes.add("Add", "x", nodes.constant(1.0))
    assert nodes.add("Mul", total, nodes.constant([2.0, 3.0]), output="y") == "y"
    model = built(nodes, {"x": (1, np.float32)}, {"y": (1, np.float32)})
    assert run(model, x=np.array([1, 2], np.float32))["y"].tolist() == [4, 9]


def test_names_begin_with_the_prefix_and_none_is_given_twice():
    nodes = Nodes("part_")
    for i in range(5):
        nodes.add("Add", "x", nodes.constant(i))
    names = [name for node in nodes.nodes for name in node.output]
    names += [constant.name for constant in nodes.constants]
    assert len({*names}) == len(names) == 10
    assert all(name.startswith("part_") for name in names)


@pytest.mark.parametrize(
    ("value", "given", "dtype"),
    [
        (3, None, "int64"),
        ([1, 2], None, "int64"),
        (0.5, None, "float32"),
        (np.float64(0.1), None, "float32"),
        (0.1, np.float64, "float64"),
        (np.array([True]), None, "bool"),
        (3, np.float64, "float64"),
    ],
)
def test_constants_have_the_dtypes_of_networks(value, given, dtype):
    nodes = Nodes("n")
    name = nodes.constant(value, given)
    (constant,) = nodes.constants
    assert constant.name == name
    array = numpy_helper.to_array(constant)
    assert array.dtype == dtype and array.shape == np.shape(value)
    np.testing.assert_array_equal(array, np.asarray(value).astype(dtype))


def test_equal_constants_are_written_once():
    nodes = Nodes("n")
    assert nodes.constant(1) == nodes.constant(1) == nodes.constant(np.int64(1))
    others = [1.0, [1], [[1]], 2, True]
    assert len({nodes.constant(1), *map(nodes.constant, others)}) == 1 + len(others)
    assert nodes.constant(1.0, np.float64) != nodes.constant(1.0)
    assert nodes.constant(0.0) != nodes.constant(-0.0)
    assert nodes.constant(np.nan) == nodes.constant(np.nan)


def test_cast_sides_and_reshape():
    nodes = Nodes("n")
    height, width = nodes.sides("x")
    nodes.cast("x", np.float64, output="y")
    flat = nodes.reshape("x", -1)
    folded = nodes.reshape(flat, width, height, 1)
    nodes.add("Identity", folded, output="z")
    nodes.add("Identity", height, output="h")
    model = built(
        nodes, {"x": (2, np.uint8)}, {"y": (2, np.float64), "z": (3, np.uint8), "h": (0, np.int64)}
    )
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    found = run(model, x=x)
    assert found["y"].dtype == np.float64 and found["h"].shape == () and found["h"] == 2
    np.testing.assert_array_equal(found["y"], x)
    np.testing.assert_array_equal(found["z"], x.reshape(3, 2, 1))
