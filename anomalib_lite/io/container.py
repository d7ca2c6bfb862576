"""The container of saved estimators: a safetensors file whose metadata hold a digest and JSON."""

import os
from pathlib import Path

import safetensors.torch
import torch

from ..runtime import tensors_sha256
from .files import open_file
from .strict_json import parsed

DAMAGED = "damaged, or not a file written by save"

_KEY = "anomalib_lite"  # one entry: the order of several would differ from file to file
_LARGEST_HEADER = 2**23  # its values may take 50 times as much memory


def pack(text: str, tensors: dict[str, torch.Tensor]) -> bytes:
    """The bytes of a file."""
    metadata = {_KEY: f"{digest(text, tensors)} {text}"}
    data = safetensors.torch.save(tensors, metadata)
    if _header_length(data) > _LARGEST_HEADER:
        raise ValueError(
            f"expected at most {_LARGEST_HEADER} bytes of parameters and learned values that are "
            f"not in arrays, got {_header_length(data)}."
        )
    return data


def read(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """(manifest text, tensors by name) of a file whose digest is right."""
    with open_file(path) as file:
        text, written = _read_head(path, file)
        file.seek(0)
        try:
            tensors = safetensors.torch.load(file.read())
            _check_flags(tensors)
        except Exception as error:  # safetensors raises errors of its own, and others
            raise ValueError(f"{path}: {DAMAGED}: {error}.") from error
    if digest(text, tensors) != written:
        raise ValueError(f"{path}: altered or damaged since it was written: its digest is wrong.")
    return text, tensors


def _read_head(path, file):
    """(manifest text, digest); ValueError, before the rest is read, if this is no such file."""
    size = os.fstat(file.fileno()).st_size
    length = _header_length(file.read(8))
    if not 8 < size or length > min(size - 8, _LARGEST_HEADER):
        raise ValueError(
            f"{path}: not a file written by save, or only its beginning: {size} bytes, of which "
            f"the header would take {length}."
        )
    try:
        header = parsed(file.read(length))
        metadata = header.pop("__metadata__", {})
        written = metadata.get(_KEY)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except Exception as error:  # whatever JSON may hold
        raise ValueError(f"{path}: {DAMAGED}: {error}.") from error
    if not isinstance(written, str):
        raise ValueError(f"{path}: a safetensors file, but not one written by save.")
    if end != size:
        raise ValueError(f"{path}: {DAMAGED}: {size} bytes, and its tensors end at {end}.")
    hexadecimal, _, text = written.partition(" ")
    return text, hexadecimal


def _header_length(data):
    return int.from_bytes(data[:8], "little")


def _check_flags(tensors):
    """Raise ValueError on truth values that are neither 0 nor 1, which indexing relies on."""
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bool and (tensor.view(torch.uint8) > 1).any():
            raise ValueError(f"{name} holds truth values other than 0 and 1")


def digest(text: str, tensors: dict[str, torch.Tensor]) -> str:
    """Hexadecimal SHA-256 of a manifest and its tensors."""
    return tensors_sha256(dict(sorted(tensors.items())), start=text)
