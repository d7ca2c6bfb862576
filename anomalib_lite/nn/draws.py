"""Which trainings may draw random numbers by functions that take no generator."""

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import ParametrizationList, type_before_parametrizations
from torch.optim import Optimizer

_DRAW_NOTHING = (
    *(nn.Sequential, nn.ModuleList, nn.ModuleDict, ParametrizationList, _SpectralNorm),
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Upsample, nn.Linear, nn.Conv2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.ReLU, nn.LeakyReLU, nn.Sigmoid),
)  # fmt: skip


def may_draw(modules: nn.Module, others: Iterable[Callable]) -> bool:
    """Whether a training step may draw random numbers by functions that take no generator.

    To direct such draws to generators of our own (:class:`~anomalib_lite.contexts.OwnDraws`) costs
    some microseconds for each operation, which small networks feel. It is left out only where all
    that runs is known to draw nothing.

    Parameters
    ----------
    modules : nn.Module
        Everything that trains.
    others : iterable of callable
        What else runs in a step: losses, optimizers.

    Examples
    --------
    >>> [may_draw(module, []) for module in (nn.Linear(2, 1), nn.Dropout())]
    [False, True]
    """
    return not (all(map(_is_known_module, modules.modules())) and all(map(_is_known, others)))


def _is_known_module(module):
    altered = "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks
    is_torchs = type_before_parametrizations(module) in _DRAW_NOTHING
    return not altered and (is_torchs or _package(module) == _package(may_draw))


def _is_known(function):
    """Whether a function or a method is of this package, or this is an optimizer of PyTorch."""
    while isinstance(function, partial):
        function = function.func
    owner = getattr(function, "__self__", function)  # of a method: its class may override others
    ours, torchs = _package(may_draw), _package(Optimizer)
    return _package(owner) == ours or (isinstance(owner, Optimizer) and _package(owner) == torchs)


def _package(thing):
    return getattr(thing, "__module__", "").partition(".")[0]
