"""Helpers for devices, random generators, memory sizes, hashing, progress, and learning aside."""

import hashlib
import re
import sys
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils.validation import validate_data

from .annotations import Device, RandomState

_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def resolve_device(device: Device) -> torch.device:
    """Turn a device request into a :class:`torch.device` that is available.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` is CUDA if available, else the CPU. Anything else is interpreted as PyTorch does
        (``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``). MPS must be named: its operators differ
        between releases of PyTorch.

    Returns
    -------
    device : torch.device

    Raises
    ------
    ValueError
        If the request is invalid, or the device is not available.

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
            "device: expected 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or a torch.device of these, "
            f"got {device!r}."
        )
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: expected an available device, got {device!r}; "
            f"{torch.cuda.device_count()} CUDA devices are available. Use device='auto'."
        )
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(
            f"device: expected an available device, got {device!r}; MPS is not available. "
            "Use device='auto'."
        )
    return resolved


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, except on MPS, which lacks it: float32."""
    return torch.float32 if device.type == "mps" else torch.float64


def make_generator(random_state: RandomState) -> torch.Generator:
    """Make a CPU :class:`torch.Generator` from a scikit-learn style ``random_state``.

    Parameters
    ----------
    random_state : None, int, numpy.random.RandomState or numpy.random.Generator
        None draws a seed from the operating system's entropy. Unlike
        :func:`sklearn.utils.check_random_state`, NumPy's global generator is never used.

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


def draw_seed(generator: torch.Generator) -> int:
    """Draw an int from ``generator``, for functions that take a seed.

    Examples
    --------
    >>> draw_seed(make_generator(0)) == draw_seed(make_generator(0))
    True
    """
    return int(torch.randint(2**31, (1,), generator=generator, device="cpu"))


def seed_estimator(estimator: Any, seed: int) -> None:
    """Give ``seed`` to an estimator, and to those inside it, whose ``random_state`` is None.

    They would draw from NumPy's global generator; a :class:`~sklearn.svm.OneClassSVM`, too, though
    ``random_state`` is not one of its parameters.

    Examples
    --------
    >>> from sklearn.ensemble import IsolationForest
    >>> forest = IsolationForest()
    >>> seed_estimator(forest, 7)
    >>> forest.random_state
    7
    """
    inside = estimator.get_params().values()
    frozen = [each.estimator for each in inside if isinstance(each, FrozenEstimator)]
    for each in (estimator, *inside):
        is_random = isinstance(each, BaseEstimator) and getattr(each, "random_state", 0) is None
        if is_random and not any(each is other for other in frozen):
            each.random_state = seed


def uniform(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Draws in [0, 1) from the CPU's ``generator``: float32 on the CPU, whatever the defaults.

    Examples
    --------
    >>> uniform((2, 3), make_generator(0)).shape
    torch.Size([2, 3])
    """
    return torch.rand(*shape, generator=generator, device="cpu", dtype=torch.float32)


def normal(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """The same as :func:`uniform`, but standard normal."""
    return torch.randn(*shape, generator=generator, device="cpu", dtype=torch.float32)


def parse_memory(name: str, value: float | str | None) -> int:
    """Convert a memory budget, a number of bytes, text such as "2GB" or None, to bytes.

    Units are powers of 1000; None is no limit. A ValueError names the parameter ``name``.

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
            f"{name}: expected bytes as a number, as text such as '500MB' or '2GB', or None, "
            f"got {value!r}."
        )
    return int(amount)


def check_has_values(X: Any) -> None:
    """Raise ValueError if a table is a tensor on the meta device."""
    if isinstance(X, torch.Tensor) and X.is_meta:
        raise ValueError(
            "X: expected a table of numbers, got a tensor on the meta device, which holds none. "
            "Make it under torch.device('cpu')."
        )


def check_tensor(
    name: str, value: Any, shape: Sequence[int | None], dtypes: Collection[torch.dtype]
) -> None:
    """Raise ValueError unless ``value`` is a finite tensor of a shape and one of some dtypes.

    Parameters
    ----------
    name : str
        What the error calls it.
    value : object
    shape : sequence of (int or None)
        None for any length.
    dtypes : collection of torch.dtype
    """
    fits = isinstance(value, torch.Tensor) and value.ndim == len(shape) and value.dtype in dtypes
    if not fits or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
        lengths = ", ".join("any" if n is None else str(n) for n in shape)
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else value
        raise ValueError(f"{name}: expected a tensor of shape ({lengths}), got {got!r}.")
    if not value.isfinite().all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity.")


def tensors_sha256(tensors: Mapping[str, torch.Tensor], start: str = "") -> str:
    """Hexadecimal SHA-256 of a text and the names, dtypes, shapes and values of tensors."""
    digest = hashlib.sha256(start.encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():  # an empty one cannot be viewed as bytes
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def progress(
    iterable: Iterable | None = None,
    *,
    total: float | None = None,
    desc: str | None = None,
    verbose: bool = False,
    **options: Any,
):
    """A tqdm progress bar over ``iterable``, shown only if ``verbose``; tqdm takes ``options``."""
    from tqdm import tqdm

    return tqdm(iterable, total=total, desc=desc, disable=not verbose, **options)


Estimator = TypeVar("Estimator")
_LOCKS = weakref.WeakKeyDictionary()  # of estimators that were fitted
_LOCKS_LOCK = threading.Lock()


def twin_of(estimator: Estimator) -> Estimator:
    """A shallow copy: what one of the two assigns, the other does not see.

    Examples
    --------
    >>> class Estimator:
    ...     mean_ = 1.0
    >>> one = Estimator()
    >>> other = twin_of(one)
    >>> other.mean_ = 2.0
    >>> one.mean_
    1.0
    """
    twin = object.__new__(type(estimator))
    twin.__dict__ = dict(vars(estimator))
    return twin


@contextmanager
def aside(estimator: Estimator) -> Iterator[Estimator]:
    """Context in which a twin learns, whose attributes the estimator takes over at once at the end.

    Other threads see the estimator as it was before or as it is afterwards, and one of them learns
    at a time. If anything is raised, interrupts too, the estimator stays as it was. Code inside the
    context may assign, add and delete attributes of the twin, but must not change an old value (a
    tensor, array or list) in place.

    Examples
    --------
    >>> class Estimator:
    ...     mean_ = 1.0
    >>> estimator = Estimator()
    >>> with aside(estimator) as learner:
    ...     learner.mean_ = 2.0
    ...     print(estimator.mean_)
    1.0
    >>> estimator.mean_
    2.0
    """
    with _LOCKS_LOCK:
        lock = _LOCKS.setdefault(estimator, threading.RLock())
    with lock:
        learner = twin_of(estimator)
        yield learner
        estimator.__dict__ = vars(learner)


SKLEARN = threading.RLock()
"""Held while workers call scikit-learn, whose checks set filters of warnings for a moment: these
belong to the process, and of two threads the one that leaves last would leave the other's behind.
"""


def checked_table(estimator: BaseEstimator, X: Any, **options: Any) -> np.ndarray:
    """A table as float64 (n, n_features), by :func:`sklearn.utils.validation.validate_data`."""
    check_has_values(X)
    with SKLEARN:
        return validate_data(estimator, X, dtype=np.float64, **options)


_IS_INNER_FIT = ContextVar("is_inner_fit", default=False)


@contextmanager
def inner_fit() -> Iterator[None]:
    """Context for fits whose threshold nobody uses, inside an estimator that sets its own.

    Examples
    --------
    >>> with inner_fit():
    ...     is_inner_fit()
    True
    """
    token = _IS_INNER_FIT.set(True)
    try:
        yield
    finally:
        _IS_INNER_FIT.reset(token)


def is_inner_fit() -> bool:
    """Whether this thread is inside :func:`inner_fit`."""
    return _IS_INNER_FIT.get()
