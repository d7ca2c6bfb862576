"""Layers that networks share, and networks that a file can hold."""

import math

import torch
from torch import nn


def conv_block(n_in, n_out, stride):
    return [
        nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.ReLU(inplace=True),
    ]


def mlp(n_in, hidden, n_out, *, norm=True):
    """Linear layers with BatchNorm (where ``norm``) and ReLU between them.

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


# -- networks that a file can hold ----------------------------------------------------------------


class StoredNetwork(nn.Module):
    """A network that a file can hold: the arguments of its constructor, and its weights.

    A subclass has arguments of plain values, and puts them into ``self.arguments``.
    """

    def to_state(self):
        """What :meth:`from_state` makes an equal one of."""
        return {"arguments": self.arguments, "weights": dict(self.state_dict())}

    @classmethod
    def from_state(cls, state):
        with torch.device("meta"):
            network = cls(**state["arguments"])
        network.load_state_dict(state["weights"], assign=True)
        return network.eval().requires_grad_(False)


def norm_relu(n_channels):
    return [nn.GroupNorm(math.gcd(n_channels, 8), n_channels), nn.ReLU(inplace=True)]
