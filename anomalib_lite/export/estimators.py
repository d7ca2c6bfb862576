"""Estimators of scikit-learn in graphs: skl2onnx converts them."""

from collections.abc import Iterable
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import compose, helper
from torch import nn

from ..density.converted import ConvertedEstimator, estimated
from .nodes import Nodes

OPSETS = {"": 20, "ai.onnx.ml": 3}
"""Versions of the operators in an exported file."""
_DOMAIN = "anomalib_lite"  # of the nodes that are replaced
_LARGEST_DIFFERENCE = 1e-5  # of what both give, as a share of the largest value


class Converted(NamedTuple):
    """What takes the place of an estimator.

    Attributes
    ----------
    model : onnx.ModelProto
        Of one input.
    dtype : dtype
        Of the input and the output.
    output : str
    n_columns : int
        Of the output.
    offset : float
        Is added to the output.
    """

    model: onnx.ModelProto
    dtype: Any
    output: str
    n_columns: int
    offset: float


def converted(parts: Iterable[Any]) -> dict[int, Converted]:
    """What skl2onnx makes of the estimators inside of modules, by their numbers.

    Raises
    ------
    ValueError
        If an estimator has no counterpart, or one that gives something else.
    ImportError
        If there is one, and skl2onnx is missing.
    """
    return {
        module.number: _converted(module)
        for part in parts
        if isinstance(part, nn.Module)
        for module in part.modules()
        if isinstance(module, ConvertedEstimator)
    }


def _converted(module):
    """The first conversion that works: float64 if possible, scores themselves if possible."""
    try:
        import skl2onnx  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export needs skl2onnx for this classifier: pip install 'anomalib_lite[onnx]'"
        ) from error
    ways = [_directly] if module.method == "transform" else [_directly, _from_decisions]
    reason = None
    for dtype, way in product((np.float64, np.float32), ways):
        try:
            found = way(module, dtype)
            apart = _difference(module, found)
        except Exception as error:  # converter and runtime raise errors of their own
            reason = reason or f"{type(error).__name__}: {error}".strip().splitlines()[0]
            continue
        if apart <= _LARGEST_DIFFERENCE:
            return found
        reason = f"what skl2onnx makes of it differs by {apart:.1e}"
    raise ValueError(
        f"classifier: {module.estimator!r} cannot be exported ({reason}). Those that can are "
        "listed in the documentation, as are all named ones."
    )


def _directly(module, dtype):
    is_score = module.method == "score_samples"
    return _model(module, dtype, {"score_samples": True} if is_score else {}, 0.0)


def _from_decisions(module, dtype):
    """From the distance to the estimator's own threshold."""
    return _model(module, dtype, {}, float(np.squeeze(module.estimator.offset_)))


def _model(module, dtype, options, offset):
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    kind = DoubleTensorType if dtype is np.float64 else FloatTensorType
    model = to_onnx(
        module.estimator,
        initial_types=[("rows", kind([None, module.n_features]))],
        options={id(module.estimator): options} if options else None,
        target_opset=OPSETS,
    )
    return Converted(model, dtype, model.graph.output[-1].name, module.n_columns, offset)


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
    (values,) = session.run([found.output], {"rows": rows.astype(found.dtype)})
    values = values.reshape(expected.shape) + found.offset
    return np.abs(values - expected).max() / max(np.abs(expected).max(), 1e-30)


def translations() -> dict[Any, Any]:
    """How PyTorch's exporter writes estimators: as nodes that :func:`replace` finds."""
    from onnxscript.values import Op, Opset

    operation = Op(Opset(_DOMAIN, 1), "Estimated", _schema())

    def translated(rows, number: int, n_columns: int):
        return operation(rows, number=number)

    return {torch.ops.anomalib_lite.estimated.default: translated}


def _schema():
    schema, attribute = onnx.defs.OpSchema, onnx.defs.OpSchema.Attribute
    return schema(
        "Estimated",
        _DOMAIN,
        1,
        inputs=[schema.FormalParameter("rows", "T")],
        outputs=[schema.FormalParameter("found", "tensor(double)")],
        type_constraints=[("T", ["tensor(float)", "tensor(double)"], "")],
        attributes=[attribute("number", onnx.defs.OpSchema.AttrType.INT)],
    )


def replace(model: onnx.ModelProto, known: dict[int, Converted]) -> None:
    """Put converted estimators in the place of their nodes."""
    graph, nodes = model.graph, []
    for node in graph.node:
        if node.domain != _DOMAIN:
            nodes.append(node)
            continue
        (number,) = (attribute.i for attribute in node.attribute)
        written = _written(node, known[number], f"estimator{len(nodes)}_")
        nodes += written.nodes
        graph.initializer.extend(written.constants)
    del graph.node[:], model.opset_import[:]
    graph.node.extend(nodes)
    used = {"", *(node.domain for node in nodes)}
    model.opset_import.extend(helper.make_opsetid(domain, OPSETS[domain]) for domain in sorted(used))


def _written(node, converted, prefix):
    nodes, part = Nodes(prefix), compose.add_prefix(converted.model, prefix + "own_").graph
    nodes.cast(node.input[0], converted.dtype, output=part.input[0].name)
    nodes.nodes += part.node
    nodes.constants += part.initializer
    columns = nodes.reshape(f"{prefix}own_{converted.output}", -1, converted.n_columns)
    offset = nodes.constant(converted.offset, np.float64)
    nodes.add("Add", nodes.cast(columns, np.float64), offset, output=node.output[0])
    return nodes
