"""The graph of a whole detector: from decoded pixels to score, label and map."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper

from ..data.rasters import FULL_SCALE
from .nodes import Nodes
from .plan import Plan
from .resizing import resized_image, weights

_IR_VERSION = 10
_CPU = torch.device("cpu")


def whole_graph(traced: onnx.ModelProto, plan: Plan) -> onnx.ModelProto:
    """The graph around that of :func:`~anomalib_lite.export.tracing.traced`.

    One node goes through the images one by one, so that no result depends on the other images, and
    memory not on their number.
    """
    body = _body(compose.add_prefix(traced, "net_"), plan)
    stacked = [value.name.removeprefix("one_") for value in body.output]
    scan = helper.make_node("Scan", ["image"], stacked, body=body, num_scan_inputs=1)
    sides = {"anomaly_map": ["N", "h", "w"]}
    outputs = [
        helper.make_tensor_value_info(
            name, value.type.tensor_type.elem_type, sides.get(name, ["N"])
        )
        for name, value in zip(stacked, body.output, strict=True)
    ]
    map_size = onnx.numpy_helper.from_array(np.zeros(2, np.int64), "map_size")
    image_type = helper.np_dtype_to_tensor_dtype(np.dtype(plan.dtype))
    graph = helper.make_graph(
        [scan],
        "detector",
        [
            helper.make_tensor_value_info("image", image_type, ["N", "H", "W", "C"]),
            helper.make_tensor_value_info("map_size", TensorProto.INT64, [2]),
        ],
        outputs,
        [map_size],
    )
    return helper.make_model(
        graph,
        producer_name="anomalib_lite",
        opset_imports=traced.opset_import,
        functions=traced.functions,
        ir_version=_IR_VERSION,
    )


def _body(traced, plan):
    """The graph of one image (H, W, C)."""
    nodes = Nodes("n")
    _network_input(nodes, "pixels", plan, output=traced.graph.input[0].name)
    before, nodes.nodes = nodes.nodes, []
    score, grid = traced.graph.output
    score = nodes.cast(nodes.add("Reshape", score.name, nodes.constant([], np.int64)), "float64")
    nodes.cast(score, "float32", output="one_anomaly_score")
    _label(nodes, score, plan.offset, output="one_label")
    _map(nodes, "pixels", grid, plan.renderer, output="one_anomaly_map")
    outputs = [
        helper.make_tensor_value_info("one_anomaly_score", TensorProto.FLOAT, []),
        helper.make_tensor_value_info("one_label", TensorProto.INT64, []),
        helper.make_tensor_value_info("one_anomaly_map", TensorProto.FLOAT, ["h", "w"]),
    ]
    if plan.ranks is not None:
        _p_value(nodes, score, plan.ranks, output="one_p_value")
        outputs.append(helper.make_tensor_value_info("one_p_value", TensorProto.FLOAT, []))
    image_type = helper.np_dtype_to_tensor_dtype(np.dtype(plan.dtype))
    return helper.make_graph(
        [*before, *traced.graph.node, *nodes.nodes],
        "image",
        [helper.make_tensor_value_info("pixels", image_type, ["y", "x", "c"])],
        outputs,
        [*traced.graph.initializer, *nodes.constants],
    )


def _network_input(nodes, pixels, plan, output):
    """Write what the network sees, (1, 3, h, w): as :meth:`NetworkInput.batch` does."""
    given, constant = plan.input, nodes.constant
    color = nodes.add("Slice", pixels, constant([0]), constant([3]), constant([2]))  # no alpha
    planes = resized_image(nodes, color, given.image_size)  # (C, h, w)
    (top, left), (height, width) = given.crop_offset, given.seen_size
    if given.center_crop is not None:
        ends = constant([top + height, left + width])
        planes = nodes.add("Slice", planes, constant([top, left]), ends, constant([1, 2]))
    full_scale = FULL_SCALE.get(plan.dtype, 1.0)
    mean, std = (np.array(value).reshape(1, 3, 1, 1) for value in (given.mean, given.std))
    scaled = nodes.add("Mul", planes, constant(1 / (full_scale * std)))
    nodes.add("Sub", scaled, constant(mean / std), output=output)


def _label(nodes, score, offset, output):
    """Write +1, -1, or 0 without a threshold."""
    if np.isnan(offset):
        nodes.add("Identity", nodes.constant(0), output=output)
        return
    is_anomalous = nodes.add("Greater", score, nodes.constant(-offset, np.float64))
    nodes.add("Where", is_anomalous, nodes.constant(-1), nodes.constant(1), output=output)


def _map(nodes, pixels, grid, renderer, output):
    """Write the map: as :class:`MapRenderer` makes it of a grid (1, rows, columns)."""
    shape = [side.dim_value for side in grid.type.tensor_type.shape.dim[1:]]
    values = nodes.cast(nodes.reshape(grid.name, *shape), "float32")
    asked = []
    for axis, own in enumerate(nodes.sides(pixels)):
        given = nodes.add("Gather", "map_size", nodes.constant(axis), axis=0)
        is_given = nodes.add("Greater", given, nodes.constant(0))
        asked.append(nodes.add("Where", is_given, given, own))
    rows, columns = (
        nodes.add(
            "MatMul",
            weights(nodes, nodes.constant(renderer.image_size[axis]), asked[axis]),
            nodes.constant(matrix.numpy()),
        )
        for axis, matrix in enumerate(renderer.matrices(shape, renderer.image_size, _CPU))
    )
    wide = nodes.add("MatMul", values, nodes.add("Transpose", columns, perm=[1, 0]))
    nodes.add("MatMul", rows, wide, output=output)


def _p_value(nodes, score, ranks, output):
    """Write the conformal p-value."""

    def constant(value):
        return nodes.constant(value, np.float64)

    is_lower = nodes.add("LessOrEqual", constant(ranks.scores), nodes.add("Neg", score))
    counted = nodes.add("Where", is_lower, constant(ranks.weights), constant(0))
    weight = nodes.add("Add", nodes.add("ReduceSum", counted, keepdims=0), constant(ranks.whole))
    share = nodes.add("Div", weight, constant(ranks.whole * (ranks.n_units + 1)))
    nodes.cast(nodes.add("Min", share, constant(1)), "float32", output=output)
