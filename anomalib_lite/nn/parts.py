"""Passing a training batch through a network in parts, by workers."""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import reduce

import torch
from torch import nn

from ..contexts import OwnDraws
from ..runtime import draw_seed
from ..workers import map_on


def in_parts(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    parameters: Iterable[nn.Parameter],
    size: int,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """``function(x)``, differentiable, where each row of it depends on the same row of x alone.

    On a CPU workers take parts of a fixed size, forwards and backwards; the gradients of all parts
    are added in their order, so that no bit depends on the number of workers. On other devices x
    passes at once.

    Parameters
    ----------
    function : callable
        Of a part (m, ...); a result (m, D). It must not be one that looks at other rows, as
        BatchNorm does in training.
    x : torch.Tensor of shape (n, ...)
        Gets no gradient.
    parameters : iterable of nn.Parameter
        Those that the function depends on; they get gradients where they require them.
    size : int
        Rows of a part.
    generator : torch.Generator or None, default=None
        The CPU's: seeds what the function draws, such as dropout. None where it draws nothing.

    Returns
    -------
    results : torch.Tensor of shape (n, D)

    Examples
    --------
    >>> line = nn.Linear(2, 1)
    >>> results = in_parts(line, torch.ones(5, 2), line.parameters(), 2)
    >>> results.sum().backward()
    >>> results.shape, line.bias.grad
    (torch.Size([5, 1]), tensor([5.]))
    """
    parts = x.split(size)
    seeds = [None if generator is None else draw_seed(generator) for _ in parts]
    if x.device.type != "cpu":
        return function(x)
    needs_gradients = torch.is_grad_enabled()

    def run(task):
        part, seed = task
        draws = nullcontext() if seed is None else OwnDraws(seed)
        with torch.set_grad_enabled(needs_gradients), draws:
            return function(part)

    tasks = list(zip(parts, seeds, strict=True))
    parameters = [each for each in parameters if each.requires_grad]
    if needs_gradients and parameters:
        return _InParts.apply(run, tasks, *parameters)
    return torch.cat(map_on(x.device, run, tasks))


class _InParts(torch.autograd.Function):
    """Results of tasks, one below the other; gradients of parameters."""

    @staticmethod
    def forward(ctx, run, tasks, *parameters):
        ctx.parameters, ctx.outputs = parameters, map_on(parameters[0].device, run, tasks)
        return torch.cat([output.detach() for output in ctx.outputs])

    @staticmethod
    def backward(ctx, gradient):
        def run(task):
            output, of_output = task
            return torch.autograd.grad(output, ctx.parameters, of_output, allow_unused=True)

        sizes = [len(output) for output in ctx.outputs]
        tasks = zip(ctx.outputs, gradient.split(sizes), strict=True)
        gradients = map_on(gradient.device, run, tasks)
        ctx.outputs = None
        return None, None, *(reduce(_added, parts) for parts in zip(*gradients, strict=True))


def _added(total, more):
    """The sum of two gradients; None is that of a parameter that takes no part."""
    if total is None or more is None:
        return more if total is None else total
    return total + more
