"""Graphs of a few nodes, run by ONNX Runtime."""

import numpy as np
import onnx
from onnx import helper
from onnxruntime import InferenceSession, SessionOptions

from anomalib_lite.export.transformers import OPSETS


def session(model):
    """A session of one thread, which says nothing."""
    onnx.checker.check_model(model, full_check=True)
    options = SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return InferenceSession(model.SerializeToString(), options)


def run(model, **inputs):
    """What a model gives, by name."""
    running = session(model)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(None, inputs), strict=True))


def built(nodes, kinds, outputs):
    """A model of what was written to ``nodes``.

    Parameters
    ----------
    nodes : Nodes
    kinds : dict
        Of each input: its number of axes and its dtype.
    outputs : dict
        Of each output: the same.
    """

    def described(values):
        return [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
                [f"{name}_{axis}" for axis in range(n_axes)],
            )
            for name, (n_axes, dtype) in values.items()
        ]

    graph = helper.make_graph(
        nodes.nodes, "few", described(kinds), described(outputs), nodes.constants
    )
    opset = helper.make_opsetid("", OPSETS[""])
    return helper.make_model(graph, opset_imports=[opset], ir_version=10)
