"""Engines and precisions that a frozen network can run in."""

from collections.abc import Callable
from contextlib import suppress

import torch

from ..annotations import Device
from ..validation import check_choice
from .folding import same_maps
from .readers import Reader
from .recorded import RecordedReader, can_be_recorded

ENGINES = ("torch", "onnxruntime", "auto")
DTYPES = ("auto", "float32", "float16", "bfloat16")


def check_engine(engine: str, dtype: str, device: Device) -> None:
    """Raise ValueError unless ``engine`` can run in ``dtype`` on ``device``."""
    check_choice("engine", engine, ENGINES)
    check_choice("dtype", dtype, DTYPES)
    if engine == "onnxruntime":
        if torch.device(device).type != "cpu":
            raise ValueError(
                f"engine: 'onnxruntime' runs on a CPU, got the device {str(device)!r}. Use "
                "device='cpu' or engine='torch'."
            )
        if dtype not in ("auto", "float32"):
            raise ValueError(f"dtype: engine='onnxruntime' runs in float32 only, got {dtype!r}.")


def resolve_dtype(dtype: str, device: Device) -> torch.dtype:
    """The precision that a request means on a device.

    Examples
    --------
    >>> resolve_dtype("auto", "cuda"), resolve_dtype("auto", "cpu")
    (torch.float16, torch.float32)
    """
    if dtype == "auto":
        dtype = "float16" if torch.device(device).type == "cuda" else "float32"
    return getattr(torch, dtype)


def restored_dtype(requested: str, fitted: str, device: Device) -> str:
    """The request that runs a stored network on a device.

    On CUDA that is the precision of fit: ``"auto"`` may have meant another one there.
    """
    return fitted if torch.device(device).type == "cuda" else requested


def run_by(
    engine: str,
    reader: Reader,
    example: torch.Tensor,
    dtype: torch.dtype,
    name: str,
    *,
    is_known: bool,
) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    """Prepare a reader's network to run in a precision, by an engine.

    Parameters
    ----------
    engine : {"torch", "onnxruntime", "auto"}
        "auto" is ONNX Runtime where it is installed and runs the network, else PyTorch.
    reader : Reader
        Its network is converted to ``dtype`` in place.
    example : torch.Tensor of shape (1, 3, h, w)
        Float32, of the size that the network will see: the maps of it are checked.
    dtype : torch.dtype
    name : str
        What errors call the network.
    is_known : bool
        Whether it is a network of timm's or ours, not one of the caller's, which may do anything.

    Returns
    -------
    run : callable
        Gives the reader's outputs for a batch in ``dtype``.

    Raises
    ------
    ValueError
        If the network cannot run so, overflows, or gives other features.
    """
    if dtype != torch.float32:
        reader.model.to(dtype)
        _check_runs(reader, example.to(dtype), name)
    is_plain = example.device.type == "cpu" and dtype == torch.float32
    if engine == "onnxruntime":
        return _run_by_onnx(reader, example, name)
    if engine == "auto" and is_plain:
        with suppress(ImportError, ValueError):
            return _run_by_onnx(reader, example, name)
    if is_plain and is_known and can_be_recorded(reader.model):
        return RecordedReader(reader, example)
    return reader


def _run_by_onnx(reader, example, name):
    from . import onnx_engine

    run = onnx_engine.OnnxReader(reader.traceable(), example, name)
    if not same_maps(reader(example), run(example)):
        raise ValueError(
            f"engine: {name} gives other features when it is run by ONNX Runtime. "
            "Use engine='torch'."
        )
    return run


def _check_runs(reader, example, name):
    precision = str(example.dtype).removeprefix("torch.")
    try:
        outputs = reader(example)
    except RuntimeError as error:
        raise ValueError(
            f"dtype: {name} does not run in {precision}: {error}. Use dtype='float32'."
        ) from error
    if not all(output.isfinite().all() for output in outputs):
        raise ValueError(
            f"dtype: {name} gives NaN or infinity in {precision}. Use dtype='float32'."
        )
