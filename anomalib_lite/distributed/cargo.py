"""What detectors have learned, on its way between processes: tensors as NumPy arrays, apart.

PyTorch's own pickles copy every tensor several times. An engine moves arrays as they are where it
can, and pickles them with a single copy where it cannot.
"""

import io
import pickle
from typing import Any, NamedTuple

import numpy as np
import torch


class Cargo(NamedTuple):
    """An object in parts that any pickle moves quickly; :func:`unpacked` gives it back.

    Attributes
    ----------
    data : bytes
        A pickle without what is in ``arrays``.
    arrays : list of ndarray of uint8
    """

    data: bytes
    arrays: list[np.ndarray]


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj):
        if type(obj) is not torch.Tensor or obj.device.type != "cpu" or obj.requires_grad:
            return NotImplemented
        # the order in memory decides about the last bits of convolutions
        is_permuted = not obj.is_contiguous() and torch.ops.aten.is_non_overlapping_and_dense(obj)
        if is_permuted or obj.dtype == torch.bfloat16:
            return NotImplemented
        return torch.from_numpy, (obj.contiguous().numpy(),)


def packed(obj: Any) -> Cargo:
    """An object on its way; it shares memory with the object.

    Examples
    --------
    >>> cargo = packed({"rows": torch.arange(3.0)})
    >>> [len(array) for array in cargo.arrays], unpacked(cargo)
    ([12], {'rows': tensor([0., 1., 2.])})
    """
    file, buffers = io.BytesIO(), []
    _Pickler(file, protocol=5, buffer_callback=buffers.append).dump(obj)
    return Cargo(
        file.getvalue(), [np.frombuffer(buffer.raw(), dtype=np.uint8) for buffer in buffers]
    )


def unpacked(cargo: Cargo) -> Any:
    """The object of a cargo, whose memory it uses where that may be written."""
    arrays = [array if array.flags.writeable else array.copy() for array in cargo.arrays]
    return pickle.loads(cargo.data, buffers=arrays)


def pickled(obj: Any) -> bytes:
    """A plain pickle of an object, in which each tensor is copied once."""
    file = io.BytesIO()
    _Pickler(file, protocol=5).dump(obj)
    return file.getvalue()
