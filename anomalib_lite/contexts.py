"""Contexts in which results depend on arguments alone: not on PyTorch's global generators, nor on
what the caller has set for PyTorch in this thread or process.

Nothing here sets anything for the whole process, not even for a moment: other threads may draw,
fit, or rely on their own settings meanwhile.
"""

import ctypes
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache, wraps
from typing import TypeVar

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode
from torch.utils._pytree import tree_leaves, tree_map_only

from .runtime import draw_seed

_Function = TypeVar("_Function", bound=Callable)

# -- settings of the caller -----------------------------------------------------------------------


@contextmanager
def plain_context() -> Iterator[None]:
    """Context that undoes what a caller may have set in this thread.

    That is inference mode, autocast, a default device, the number of threads that an operation of
    PyTorch runs in, which becomes 1, and NumPy's handling of floating-point errors. Gradients are
    off, too: what needs them turns them on. The default dtype belongs to the whole process, and
    stays; computations inside name their dtypes.

    Examples
    --------
    >>> with torch.inference_mode(), torch.device("meta"), plain_context():
    ...     tensor = torch.ones(2)
    >>> tensor, tensor.is_inference()
    (tensor([1., 1.]), False)
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        for device_type in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        stack.enter_context(_one_thread())
        if torch.empty(0).device.type != "cpu":  # each call inside such a context costs time
            stack.enter_context(OnDevice("cpu"))
        yield


@contextmanager
def _one_thread():
    """Context in which operations that this thread starts run in it alone.

    OpenMP and MKL keep their numbers of threads for each thread that starts some. PyTorch's own
    function would also change the default of all threads to come.
    """
    torch.get_num_threads()  # the first call in a thread sets the numbers
    is_alone = all(library.num_threads == 1 for library in _openmp().lib_controllers)
    with nullcontext() if is_alone else _openmp().limit(limits=1):
        before = _limit_mkl()(1)
        try:
            yield
        finally:
            _limit_mkl()(before)


def stay_in_one_thread() -> None:
    """Limit this thread for as long as it lives: no context is left when a thread ends.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(1, initializer=stay_in_one_thread) as pool:
    ...     pool.submit(torch.get_num_threads).result()
    1
    """
    torch.get_num_threads()
    for library in _openmp().lib_controllers:
        library.set_num_threads(1)
    _limit_mkl()(1)


@cache
def _openmp():
    return ThreadpoolController().select(user_api="openmp")


@cache
def _limit_mkl():
    """MKL's function that sets the number of threads of this thread, and returns the one before.

    0 is OpenMP's, until somebody calls ``torch.set_num_threads``. PyTorch is built without MKL for
    some processors, and hides it on Windows.
    """
    library = ctypes.PyDLL(torch._C.__file__)
    return getattr(library, "MKL_Set_Num_Threads_Local", lambda n_threads: n_threads)


def plain(function: _Function) -> _Function:
    """Make a function run in :func:`plain_context`; a generator, only while it works.

    Examples
    --------
    >>> @plain
    ... def places(n):
    ...     for i in range(n):
    ...         yield torch.tensor(i)
    >>> with torch.inference_mode():
    ...     [(int(place), torch.is_inference_mode_enabled()) for place in places(2)]
    [(0, True), (1, True)]
    """
    if not inspect.isgeneratorfunction(function):
        return plain_context()(function)

    @wraps(function)
    def steps(*args, **kwargs):
        iterator = function(*args, **kwargs)
        step = plain_context()(lambda: next(iterator, iterator))
        try:
            while (item := step()) is not iterator:
                yield item
        finally:
            plain_context()(iterator.close)()

    return steps


class OnDevice(TorchFunctionMode):
    """Context with a default device, as ``torch.device`` is one, but for this thread alone.

    ``torch.device`` also notes the device in a variable of the process, in which threads that leave
    in another order than they came leave a wrong one behind.

    Parameters
    ----------
    device : str or torch.device

    Examples
    --------
    >>> with OnDevice("meta"):
    ...     torch.ones(3).device
    device(type='meta')
    """

    def __init__(self, device: torch.device | str):
        super().__init__()
        self._device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in _device_constructors() and kwargs.get("device") is None:
            kwargs = kwargs | {"device": self._device}
        return func(*args, **kwargs)


# -- random numbers -------------------------------------------------------------------------------


class OwnDraws(TorchDispatchMode):
    """Context in which what this thread draws from PyTorch comes from generators of its own.

    For functions that take no generator, such as weight initialization and dropout. The numbers are
    those that the global generators would give after ``torch.manual_seed(seed)``, which stay as
    they are. Tensors made without a dtype are float32, whatever the default dtype of the process.

    A context that is entered again continues its streams.

    Parameters
    ----------
    seed : int

    Raises
    ------
    ValueError
        Inside, if something draws random numbers and cannot be given a generator.

    Examples
    --------
    >>> with OwnDraws(0):
    ...     ours = torch.rand(3)
    >>> bool((ours == torch.rand(3, generator=torch.Generator().manual_seed(0))).all())
    True
    """

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed
        self._generators = {}

    def __enter__(self):
        _push_mode(self)  # the base class sets flags of the whole process, too
        return self

    def __exit__(self, *_error):
        _pop_mode()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.get_default_dtype() != torch.float32:
            args, kwargs = _in_float32(func, args, kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._draw(func, _by_name(func, args, kwargs))
        return func(*args, **kwargs)

    def _draw(self, func, given):
        """The result of an operation that draws random numbers, its arguments given by name."""
        device = _device(given)
        draws_nothing = given.get("dropout_p", given.get("dropout")) == 0
        if draws_nothing or device.type == "meta":  # which has no values
            return func(**given)
        if torch._C._current_graph_task_id() != -1:
            raise ValueError(
                f"{func}: draws random numbers in a backward pass. Gradient checkpointing does so "
                "to repeat those of the forward pass; it would get others. Turn off either."
            )
        if given.get("generator") is None:
            given["generator"] = self._generator(device)
        if func is torch.ops.aten.native_dropout.default:
            return _dropout(**given)
        if func._overloadpacket in _LIKE:
            return _like(func, **given)
        overload = _with_generator(func)
        if overload is None:
            raise ValueError(
                f"{func}: draws from a global random generator and takes no other. Use a network "
                "without it: set dropout inside attention to 0, or have it done by nn.Dropout."
            )
        return overload(**given)

    def _generator(self, device):
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Context to make networks in, on the CPU: :class:`OwnDraws` with a seed from ``generator``."""
    with OnDevice("cpu"), OwnDraws(draw_seed(generator)):
        yield


def _by_name(func, args, kwargs):
    """The arguments of an operation, defaults included."""
    known = func._schema.arguments
    defaults = {each.name: each.default_value for each in known if each.has_default_value()}
    return defaults | dict(zip((each.name for each in known), args, strict=False)) | kwargs


def _device(given):
    """The device that an operation with these arguments works on."""
    tensors = [value for value in tree_leaves(given) if isinstance(value, torch.Tensor)]
    return tensors[0].device if tensors else torch.device(given.get("device") or "cpu")


@cache
def _with_generator(func):
    """The overload of an operation that takes a generator besides its arguments, or None."""
    wanted = {argument.name: str(argument.type) for argument in func._schema.arguments}
    wanted["generator"] = "Optional[Generator]"
    packet = func._overloadpacket
    for overload in (getattr(packet, name) for name in packet.overloads()):
        if {each.name: str(each.type) for each in overload._schema.arguments} == wanted:
            return overload
    return None


_LIKE = {
    torch.ops.aten.rand_like: torch.Tensor.uniform_,
    torch.ops.aten.randn_like: torch.Tensor.normal_,
    torch.ops.aten.randint_like: torch.Tensor.random_,
}


def _like(func, self, generator, low=0, high=None, out=None, **options):
    """``rand_like`` and so on, of which not every release has overloads that take a generator."""
    fill = _LIKE[func._overloadpacket]
    bounds = () if high is None else (int(low), int(high))
    options = {name: value for name, value in options.items() if value is not None}
    empty = torch.empty_like(self, **options) if out is None else out
    return fill(empty, *bounds, generator=generator)


def _dropout(input, p, train, generator):
    """``native_dropout``: (result, mask)."""
    if train is False:
        return input.clone(), torch.ones_like(input, dtype=torch.bool)
    mask = torch.empty_like(input, dtype=torch.bool).bernoulli_(1 - p, generator=generator)
    return input * mask * (0.0 if p == 1 else 1 / (1 - p)), mask


def _in_float32(func, args, kwargs):
    """Arguments with which an operation gives float32 where it would give the default dtype."""
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    names_dtype = any(isinstance(leaf, torch.dtype) for leaf in leaves)
    if names_dtype or func._schema.is_mutable or any(map(_is_inexact, tensors)):
        return args, kwargs
    if tensors:  # of integers, say: one divided by another
        if torch.Tag.nondeterministic_seeded not in func.tags and _has_default_dtype(
            func(*args, **kwargs)
        ):
            args, kwargs = tree_map_only(torch.Tensor, torch.Tensor.float, (args, kwargs))
    elif "dtype" in (argument.name for argument in func._schema.arguments):
        if _has_default_dtype(func(*args, **kwargs | {"device": "meta"})):
            kwargs = kwargs | {"dtype": torch.float32}
    return args, kwargs


def _is_inexact(tensor):
    return tensor.is_floating_point() or tensor.is_complex()


def _has_default_dtype(result):
    return isinstance(result, torch.Tensor) and result.dtype == torch.get_default_dtype()
