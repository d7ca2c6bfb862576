"""Layers that several networks use, and the base class of networks that can be saved."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from torch import nn

from ..contexts import OnDevice


def conv_block(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
    """A 3x3 convolution without bias, BatchNorm and ReLU."""
    return [
        nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    ]


def mlp(n_in: int, hidden: Sequence[int], n_out: int, *, norm: bool = True) -> nn.Sequential:
    """Linear layers with BatchNorm (if ``norm``) and ReLU between them.

    Parameters
    ----------
    n_in, n_out : int
        Number of inputs and outputs.
    hidden : sequence of int
        Widths of the hidden layers.
    norm : bool, default=True
        Follow each hidden layer by a BatchNorm; the layer itself then has no bias.

    Returns
    -------
    network : nn.Sequential

    Examples
    --------
    >>> [type(layer).__name__ for layer in mlp(8, (16,), 4)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Linear']
    """
    layers = []
    for width in hidden:
        layers += [nn.Linear(n_in, width, bias=not norm)]
        layers += [nn.BatchNorm1d(width)] if norm else []
        layers += [nn.ReLU(inplace=True)]
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))


def norm_relu(n_channels: int) -> list[nn.Module]:
    """GroupNorm of up to 8 groups, and ReLU."""
    return [nn.GroupNorm(math.gcd(n_channels, 8), n_channels), nn.ReLU(inplace=True)]


class StoredNetwork(nn.Module):
    """Base class of networks that can be saved: constructor arguments and weights.

    A subclass sets ``self.arguments`` to a dict of its constructor's arguments, all plain values,
    and ``_counts`` to the names of those that count layers.
    """

    arguments: dict[str, Any]
    _counts: ClassVar[tuple[str, ...]] = ()

    def to_state(self) -> dict[str, Any]:
        """Return what :meth:`from_state` needs to build an equal network."""
        return {"arguments": self.arguments, "weights": dict(self.state_dict())}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Build a network from :meth:`to_state`'s result: in eval mode, its weights frozen."""
        arguments, n_tensors = state["arguments"], len(state["weights"])
        counts = [arguments.get(name, 0) for name in cls._counts]
        counts = [n for count in counts for n in (count if isinstance(count, list) else [count])]
        lengths = [len(value) for value in arguments.values() if isinstance(value, list)]
        if any(n > n_tensors for n in (*counts, *lengths)):  # before they are all made
            raise ValueError(
                f"{cls.__name__}: expected weights of as many layers as it has, got {n_tensors}."
            )
        with OnDevice("meta"):
            network = cls(**arguments)
        network.load_state_dict(state["weights"], assign=True)
        return network.eval().requires_grad_(False)
