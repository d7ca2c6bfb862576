"""Small exported files, made by hand: scores are means of images, maps those of channels."""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from anomalib_lite.data import ValueRange
from anomalib_lite.deploy.card import KEY, DetectorCard
from anomalib_lite.deploy.seal import seal

FULL = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}
TYPES = {"uint8": TensorProto.UINT8, "uint16": TensorProto.UINT16, "float32": TensorProto.FLOAT}
THRESHOLD = 0.5


def card(**changes):
    """What a toy says of itself."""
    return DetectorCard(
        **{
            "version": "0.1.0",
            "method": "PatchCore",
            "detector": "PatchCore(coreset=0.1)",
            "input": "uint8",
            "image_size": (8, 12),
            "smallest_side": 4,
            "value_range": ValueRange(1.0, {"uint8"}, 0.5, 0.5),
            "offset": -THRESHOLD,
            "false_alarm_rate": 0.05,
            "normal": 0.1,
            "map_levels": (0.1, 0.6),
            "n_images": 40,
            "calibration": {"n": 40, "quantiles": {"0.01": -0.6, "0.5": -0.1}},
            "promise": "Of 100 new good parts, about 5 will be called anomalous.",
            "parity": {"n_images": 40, "source": "given", "score": 1e-6, "map": 1e-5},
            "notes": {"line": "7"},
            **changes,
        }
    )


def nodes(p_value=False, divisor=1.0):
    """Of a graph: image (N, H, W, C) -> score, label, map, after the contract."""
    yield "Cast", ["image"], "floats", {"to": TensorProto.FLOAT}
    yield "Div", ["floats", "full"], "pixels", {}
    yield "Shape", ["image"], "shape", {}
    yield "Slice", ["shape", "0", "3"], "sides", {}  # N, H, W
    yield "Concat", ["sides", "-1"], "flat", {"axis": 0}
    yield "Reshape", ["pixels", "flat"], "planes", {}  # (N, H, W, C)
    yield "ReduceMean", ["planes", "3"], "heat", {"keepdims": 0}
    yield "ReduceMean", ["heat", "12"], "mean", {"keepdims": 0}
    yield "Div", ["mean", "divisor"], "anomaly_score", {}
    yield "Greater", ["anomaly_score", "threshold"], "is_odd", {}
    yield "Where", ["is_odd", "minus", "plus"], "label", {}
    # the map's size: map_size where it is not 0, else the image's
    yield "Slice", ["shape", "1", "3"], "own", {}
    yield "Equal", ["map_size", "zero"], "is_default", {}
    yield "Where", ["is_default", "own", "map_size"], "size", {}
    yield "Slice", ["shape", "0", "1"], "n", {}
    yield "Concat", ["n", "1", "size"], "sizes", {"axis": 0}
    yield "Unsqueeze", ["heat", "1"], "channel", {}
    yield "Resize", ["channel", "", "", "sizes"], "resized", {"mode": "linear", "antialias": 1}
    yield "Squeeze", ["resized", "1"], "anomaly_map", {}
    if p_value:
        yield "Sub", ["one", "mean"], "p_value", {}


def model(the_card, *, p_value=False, divisor=1.0, key=KEY, text=None, opset=20):
    """The bytes of an ONNX model, without a seal."""
    integers = {"0": [0], "1": [1], "3": [3], "-1": [-1], "12": [1, 2], "zero": [0]}
    constants = {name: np.array(value, dtype=np.int64) for name, value in integers.items()}
    constants |= {"minus": np.int64(-1), "plus": np.int64(1), "map_size": np.zeros(2, np.int64)}
    for name, value in {
        "full": FULL[the_card.input], "threshold": THRESHOLD, "divisor": divisor, "one": 1.0
    }.items():  # fmt: skip
        constants[name] = np.float32(value)
    outputs = {
        "anomaly_score": TensorProto.FLOAT,
        "label": TensorProto.INT64,
        "anomaly_map": TensorProto.FLOAT,
        **({"p_value": TensorProto.FLOAT} if p_value else {}),
    }
    graph = helper.make_graph(
        [helper.make_node(op, ins, [out], **more) for op, ins, out, more in nodes(p_value)],
        "toy",
        [
            helper.make_tensor_value_info("image", TYPES[the_card.input], None),
            helper.make_tensor_value_info("map_size", TensorProto.INT64, [2]),
        ],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    helper.set_model_props(made, {key: the_card.to_json() if text is None else text})
    return made.SerializeToString()


def write(path, **changes):
    """A sealed toy file; changes of the card, or of the graph: see :func:`model`."""
    of_graph = {"p_value", "divisor", "key", "text", "opset"} & set(changes)
    options = {name: changes.pop(name) for name in of_graph}
    path.write_bytes(seal(model(card(**changes), **options)))
    return path


def with_format(number):
    return json.dumps({**json.loads(card().to_json()), "format": number})
