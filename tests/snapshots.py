"""Snapshots of what a call must not change: an estimator's state, that of the process."""

import inspect
import logging
import random
import warnings

import numpy as np
import torch


def snapshot(value, _inside=()):
    """Nested tuples that are equal only if all attributes are, down to the values of tensors.

    Comparing ``vars`` before and after misses a tensor, array or list that was changed in place.
    """
    if id(value) in _inside:
        return "cycle"
    inside = (*_inside, id(value))
    if isinstance(value, torch.nn.Module):
        return type(value), snapshot(value.state_dict(), inside), value.training
    if isinstance(value, torch.Tensor):
        values = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return "tensor", value.dtype, value.shape, values.numpy().tobytes()
    if isinstance(value, torch.Generator):
        return snapshot(value.get_state(), inside)
    if isinstance(value, np.random.Generator):
        return snapshot(value.bit_generator.state, inside)
    if isinstance(value, np.random.RandomState):
        return snapshot(value.get_state(), inside)
    if isinstance(value, np.ndarray) and value.dtype != object:
        return "array", value.dtype, value.shape, value.tobytes()
    if isinstance(value, dict):
        return "dict", tuple((key, snapshot(x, inside)) for key, x in value.items())
    if isinstance(value, list | tuple | np.ndarray):
        return type(value), tuple(snapshot(x, inside) for x in value)
    if "__getstate__" in vars(type(value)):  # what counts of a value that keeps more
        return type(value), snapshot(value.__getstate__(), inside)
    if hasattr(value, "__dict__") and not isinstance(value, type) and not inspect.isroutine(value):
        return type(value), snapshot(vars(value), inside)
    return value


def process_state():
    """What belongs to the whole process, and no call may change for good."""
    loggers = [logging.getLogger(name) for name in [None, *logging.root.manager.loggerDict]]
    numpy_state = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().tolist(),
        numpy_state[1].tolist(),
        numpy_state[2],
        random.getstate(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        list(warnings.filters),
        {log.name: (log.level, log.handlers[:], log.disabled) for log in loggers},
    )
