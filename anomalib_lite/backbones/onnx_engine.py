"""ONNX Runtime as the engine of a network: exported once, in memory, for one image of one size.

PyTorch's exporter changes settings of the whole process while it works: networks that other threads
run with PyTorch in these seconds may round differently. A process forked from one that has run such
a network needs a copy of its own, by pickle or ``load``, since threads do not survive a fork.
"""

import threading

import numpy as np
import torch
from torch import nn

from .readers import Reader

EXPORTING = threading.Lock()  # the exporter is not thread-safe


class OnnxReader:
    """Gives a reader's outputs, computed by ONNX Runtime image by image.

    Parameters
    ----------
    reader : Reader
        One that can be traced.
    example : torch.Tensor of shape (1, 3, h, w)
        Of the size that all images will have; values do not matter.
    name : str
        What errors call the network.
    """

    def __init__(self, reader: Reader, example: torch.Tensor, name: str):
        _packages("onnx", "onnxscript")
        self._size = tuple(example.shape[1:])
        try:
            self._model = _export(reader, example)
            self._open()
        except Exception as error:  # exporter and runtime raise errors of their own
            reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
            raise ValueError(
                f"engine: {name} cannot be exported to ONNX ({reason}). Use engine='torch'."
            ) from error

    def __call__(self, batch: torch.Tensor) -> list[torch.Tensor]:
        if tuple(batch.shape[1:]) != self._size:
            raise ValueError(
                f"engine: this network was exported for images {self._size}, got a batch "
                f"{tuple(batch.shape)}. Use engine='torch' for other sizes."
            )
        images = batch.contiguous().numpy()
        outputs = [self._session.run(None, {"image": image[None]}) for image in images]
        return [torch.from_numpy(np.concatenate(maps)) for maps in zip(*outputs, strict=True)]

    def _open(self):
        onnxruntime = _packages()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # several workers run one session
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            self._model, options, providers=["CPUExecutionProvider"]
        )

    def __getstate__(self):
        return {"_size": self._size, "_model": self._model}

    def __setstate__(self, state):
        vars(self).update(state)
        self._open()


class _Maps(nn.Module):
    """A reader as a module, which is what the exporter takes."""

    def __init__(self, reader):
        super().__init__()
        self.model = reader.model
        self.read = reader

    def forward(self, image):
        return tuple(self.read(image))


def _export(reader, example):
    """The network as the bytes of an ONNX model."""
    with EXPORTING:
        traced = torch.export.export(_Maps(reader).eval(), (example,), strict=False)
        program = torch.onnx.export(traced, input_names=["image"], dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def _packages(*others):
    """The module onnxruntime; ImportError that names what to install if a package is missing."""
    try:
        for other in others:
            __import__(other)
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"engine='onnxruntime' needs {error.name}: pip install 'anomalib_lite[onnx]'"
        ) from error
    return onnxruntime
