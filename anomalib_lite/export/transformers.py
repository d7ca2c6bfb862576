"""Transformers of scikit-learn in graphs: skl2onnx converts them."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import compose, helper
from torch import nn

from ..density.converted import ConvertedTransformer
from .nodes import Nodes

OPSETS = {"": 20, "ai.onnx.ml": 3}
"""Versions of the operators in an exported file."""
_DOMAIN = "anomalib_lite"  # of the nodes that are replaced
_LARGEST_DIFFERENCE = 1e-5  # of what both give, as a share of the largest value


class Converted(NamedTuple):
    """What takes the place of a transformer.

    Attributes
    ----------
    model : onnx.ModelProto
        Of one input and one output.
    dtype : dtype
        Of both.
    """

    model: onnx.ModelProto
    dtype: Any


def converted(parts: Iterable[Any]) -> dict[int, Converted]:
    """What skl2onnx makes of the transformers inside of modules, by their numbers.

    Raises
    ------
    ValueError
        If a transformer has no counterpart, or one that gives something else.
    ImportError
        If there is one, and skl2onnx is missing.
    """
    return {
        module.number: _converted(module)
        for part in parts
        if isinstance(part, nn.Module)
        for module in part.modules()
        if isinstance(module, ConvertedTransformer)
    }


def _converted(module):
    """In float64, or in float32 where only this can be converted and run."""
    try:
        import skl2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export needs skl2onnx for this classifier: pip install 'anomalib_lite[onnx]'"
        ) from error
    reason = None
    for dtype in (np.float64, np.float32):
        try:
            found = Converted(_model(module, dtype), dtype)
            apart = _difference(module, found)
        except Exception as error:  # converter and runtime raise errors of their own
            reason = reason or f"{type(error).__name__}: {error}".strip().splitlines()[0]
            continue
        if apart <= _LARGEST_DIFFERENCE:
            return found
        reason = f"what skl2onnx makes of it differs by {apart:.1e}"
    names = ", ".join(type(step).__name__ for _, step in module.transformer.steps)
    raise ValueError(f"classifier: a pipeline of {names} cannot be exported ({reason}).")


def _model(module, dtype):
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    kind = DoubleTensorType if dtype is np.float64 else FloatTensorType
    rows = kind([None, module.n_features])
    return to_onnx(module.transformer, initial_types=[("rows", rows)], target_opset=OPSETS)


def _difference(module, found):
    """The largest, as a share of the largest value, on made-up rows."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(found.model.SerializeToString(), options)
    scales = np.repeat([0.03, 0.3, 1, 3], 16)[:, None]
    rows = scales * np.random.default_rng(0).normal(size=(len(scales), module.n_features))
    rows = rows.astype(np.float32)
    expected = module.call(rows)
    (values,) = session.run(None, {"rows": rows.astype(found.dtype)})
    return np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-30)


def translations() -> dict[Any, Any]:
    """How PyTorch's exporter writes transformers: as nodes that :func:`replace` finds."""
    from onnxscript.values import Op, Opset

    operation = Op(Opset(_DOMAIN, 1), "Transformed", _schema())

    def translated(rows, number: int, n_columns: int):
        return operation(rows, number=number)

    return {torch.ops.anomalib_lite.transformed.default: translated}


def _schema():
    schema = onnx.defs.OpSchema
    return schema(
        "Transformed",
        _DOMAIN,
        1,
        inputs=[schema.FormalParameter("rows", "T")],
        outputs=[schema.FormalParameter("transformed", "tensor(double)")],
        type_constraints=[("T", ["tensor(float)", "tensor(double)"], "")],
        attributes=[schema.Attribute("number", schema.AttrType.INT)],
    )


def replace(model: onnx.ModelProto, known: dict[int, Converted]) -> None:
    """Put converted transformers in the place of their nodes."""
    graph, nodes = model.graph, []
    for node in graph.node:
        if node.domain != _DOMAIN:
            nodes.append(node)
            continue
        (number,) = (attribute.i for attribute in node.attribute)
        written = _written(node, known[number], f"transformer{len(nodes)}_")
        nodes += written.nodes
        graph.initializer.extend(written.constants)
    del graph.node[:], model.opset_import[:]
    graph.node.extend(nodes)
    for domain in sorted({"", *(node.domain for node in nodes)}):
        model.opset_import.append(helper.make_opsetid(domain, OPSETS[domain]))


def _written(node, converted, prefix):
    nodes, part = Nodes(prefix), compose.add_prefix(converted.model, prefix + "own_").graph
    nodes.cast(node.input[0], converted.dtype, output=part.input[0].name)
    nodes.nodes += part.node
    nodes.constants += part.initializer
    nodes.cast(part.output[0].name, np.float64, output=node.output[0])
    return nodes
