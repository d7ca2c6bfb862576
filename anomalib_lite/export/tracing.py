"""What a fitted detector does with one network input, as a graph of ONNX."""

import copy
import logging
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from ..backbones.onnx_engine import EXPORTING
from ..contexts import plain
from .transformers import OPSETS, converted, replace, translations


class _Scorer(nn.Module):
    """What was traced, as a module, which is what the exporter takes."""

    def __init__(self, traced):
        super().__init__()
        self.traced = traced

    def forward(self, image):
        return self.traced(image)


@plain
def traced(detector: Any) -> onnx.ModelProto:
    """The graph from a network input (1, 3, h, w) to a score (1,) and a grid (1, rows, columns).

    Parameters
    ----------
    detector : BaseDetector
        Fitted, on the CPU.

    Returns
    -------
    model : onnx.ModelProto
        With the input ``input``, and the outputs ``score`` and ``grid``.

    Raises
    ------
    ValueError
        If it consists of what has no counterpart in ONNX.
    """
    twin = copy.copy(detector)
    parts = detector._portable_parts()
    vars(twin).update(parts)
    transformers = converted(parts.values())
    example = torch.zeros(1, 3, *detector.input_.seen_size, dtype=torch.float32, device="cpu")
    try:
        with EXPORTING, _quiet():
            graph = make_fx(lambda image: twin._infer_portably(image))(example)
            program = torch.export.export(_Scorer(graph), (example,), strict=False)
            exported = torch.onnx.export(
                program,
                input_names=["input"],
                output_names=["score", "grid"],
                opset_version=OPSETS[""],
                custom_translation_table=translations(),
                dynamo=True,
                verbose=False,
            )
            model = exported.model_proto
            replace(model, transformers)
            _plain(model)
    except Exception as error:  # tracer and exporter raise errors of their own
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = f"{type(cause).__name__}: {cause}".strip().splitlines()[0]
        raise ValueError(
            f"export: {type(detector).__name__} cannot be written as ONNX ({reason})."
        ) from error
    return model


def _plain(model):
    """The graph without what the exporter noted on the way: names that count, and stack traces."""
    graph, names = model.graph, {"": ""}
    ends = [value.name for value in [*graph.input, *graph.output]]
    names |= dict(zip(ends, ends, strict=True))

    def renamed(name):
        return names.setdefault(name, f"v{len(names)}")

    for node in graph.node:
        if any(each.type in (each.GRAPH, each.GRAPHS) for each in node.attribute):
            raise ValueError(f"a {node.op_type} with a graph of its own")
        node.input[:], node.output[:] = map(renamed, node.input), map(renamed, node.output)
        node.ClearField("name")
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for constant in graph.initializer:
        constant.name = renamed(constant.name)
    del graph.value_info[:]
    for value in [*graph.input, *graph.output, *graph.initializer]:
        value.ClearField("doc_string")
        del value.metadata_props[:]


@contextmanager
def _quiet():
    """Context without what the exporter logs about each of its steps."""
    names = "torch.onnx", "onnxscript"
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
