"""Networks that run outside of Python, whose lock one thread alone can hold.

A network is a few hundred short operations. Where many workers call them one by one, they wait for
Python's lock more than they compute. A recorded network is one operation to Python.
"""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import nn

from .readers import Reader

_OFTEN = 32  # calls after which a network is recorded, which takes as long as some ten of them
# what torch.jit.trace does, without its warning to use torch.compile, which needs a compiler
_record = getattr(torch.jit._trace, "_trace_impl", torch.jit.trace)


class RecordedReader:
    """Gives a reader's outputs; records the reader's operations once it has been called often.

    They are the same operations, so that the outputs are the same to the last bit. That is checked,
    and what is of another size, or has gradients, is left to the reader.

    Parameters
    ----------
    reader : Reader
        Of a frozen network; see :func:`can_be_recorded`.
    example : torch.Tensor of shape (1, 3, h, w)
        Of the size of images that are recorded; values do not matter.
    """

    def __init__(self, reader: Reader, example: torch.Tensor):
        self._reader, self._example = reader, example
        self._reset()

    def _reset(self):
        self._n_calls, self._recorded = 0, None
        self._recording = threading.Lock()

    def __call__(self, batch: torch.Tensor) -> list[torch.Tensor]:
        if batch.shape != self._example.shape or torch.is_grad_enabled():
            return self._reader(batch)
        self._n_calls += 1  # by several threads: about
        if self._n_calls > _OFTEN and self._recorded is None:
            self._record()
        run = self._reader if self._recorded is None else self._recorded
        return list(run(batch))

    def _record(self):
        if self._recording.acquire(blocking=False):  # once; others go on meanwhile
            self._recorded = _recorded(self._reader, self._example)

    def __getstate__(self):
        return {"_reader": self._reader, "_example": self._example}

    def __setstate__(self, state):
        vars(self).update(state)
        self._reset()


def can_be_recorded(model: nn.Module) -> bool:
    """Whether a network of timm's or ours does the same whatever the image shows.

    Convolutional networks do. Transformers ask for sizes in ways that warn when they are recorded.
    """
    has_linear = any(isinstance(module, nn.Linear) for module in model.modules())
    return not has_linear and sys.version_info < (3, 14)  # where PyTorch does not record


def _recorded(reader: Reader, example: torch.Tensor) -> Callable | None:
    """A function that gives a reader's outputs for images like an example, or None."""
    with suppress(Exception):  # PyTorch's recorder raises errors of many kinds
        recorded = _record(lambda batch: tuple(reader(batch)), (example,), check_trace=False)
        for images in (example, example, 1 - example, -3 * example):  # it is optimized meanwhile
            if not all(map(torch.equal, reader(images), recorded(images))):
                return None
        return recorded
    return None
