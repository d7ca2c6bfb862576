"""The ground under the rooms: device, random generator, memory, digests, progress."""

import hashlib
import re
import sys
from contextlib import contextmanager
from numbers import Integral, Real

import numpy as np
import torch

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def resolve_device(device):
    """Turn a device request into a :class:`torch.device` that exists here.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes CUDA where it is available and the CPU where it is not; anything else
        is read as PyTorch reads it (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``). MPS is
        taken only by name: its operators differ from release to release.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If the request cannot be read, or names a device that is not available.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError):
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda", "mps"):
        raise ValueError(
            "device: expected 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or such a torch.device, "
            f"got {device!r}."
        )
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={device!r}, but {torch.cuda.device_count()} CUDA devices are available. "
            "Use device='auto' to take what there is."
        )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device={device!r} is not available. Use device='auto'.")
    return resolved


def exact_dtype(device):
    """float64, except on MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def make_generator(random_state):
    """A CPU :class:`torch.Generator` seeded from a scikit-learn style ``random_state``.

    Parameters
    ----------
    random_state : None, int, numpy.random.RandomState or numpy.random.Generator
        None seeds from the operating system's entropy. Unlike
        :func:`sklearn.utils.check_random_state` it leaves NumPy's global generator alone.

    Returns
    -------
    generator : torch.Generator

    Examples
    --------
    >>> a, b = make_generator(0), make_generator(0)
    >>> bool((torch.rand(3, generator=a) == torch.rand(3, generator=b)).all())
    True
    """
    if random_state is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0])
    elif isinstance(random_state, Integral) and 0 <= random_state < 2**32:
        seed = int(random_state)
    elif isinstance(random_state, np.random.RandomState):
        seed = int(random_state.randint(2**31))
    elif isinstance(random_state, np.random.Generator):
        seed = int(random_state.integers(2**31))
    else:
        raise ValueError(
            "random_state: expected None, an int in [0, 2**32), a numpy RandomState or "
            f"Generator, got {random_state!r}."
        )
    return torch.Generator().manual_seed(seed)


def draw_seed(generator):
    """An int drawn from ``generator``, for what takes seeds.

    Examples
    --------
    >>> draw_seed(make_generator(0)) == draw_seed(make_generator(0))
    True
    """
    return int(torch.randint(2**31, (1,), generator=generator, device="cpu"))


@contextmanager
def seeded(generator, device=None):
    """Inside, torch's global generators, seeded by a draw from ``generator``; as before afterwards.

    For what takes no generator: the first weights of a network, dropout.
    """
    seed = draw_seed(generator)
    is_cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if is_cuda else []):
        torch.default_generator.manual_seed(seed)
        if is_cuda:
            torch.cuda.manual_seed(seed)
        yield


def parse_memory(name, value):
    """Bytes of a memory budget given as a number of bytes, as text such as "2GB", or as None.

    Raises ValueError, blaming the parameter ``name``. Units are powers of 1000; None is no limit.

    Examples
    --------
    >>> parse_memory("memory_budget", "1.5GB")
    1500000000
    """
    if value is None:
        return sys.maxsize
    amount = 0
    if isinstance(value, Real) and not isinstance(value, bool):
        amount = value
    elif isinstance(value, str):
        match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?B)", value)
        amount = float(match[1]) * _UNITS[match[2]] if match else 0
    if not 1 <= amount < sys.maxsize:
        raise ValueError(
            f"{name}: expected bytes as a number or as '500MB' or '2GB', or None, got {value!r}."
        )
    return int(amount)


def tensors_sha256(tensors, start=""):
    """Hexadecimal SHA-256 of text and named tensors: their names, dtypes, shapes and values."""
    digest = hashlib.sha256(start.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def progress(iterable=None, *, total=None, desc=None, verbose=False):
    """A tqdm progress bar over ``iterable``; silent unless ``verbose``."""
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=desc, disable=not verbose)


@contextmanager
def all_or_nothing(estimator):
    """Whatever goes wrong inside, an interrupt too, leaves the estimator as it was."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
