"""Patch encoders, to be trained from random weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .layers import StoredNetwork, norm_relu


class PatchEncoder(StoredNetwork):
    """Base class of patch encoders.

    A subclass sets ``self.maps``, a network that gives feature maps, and ``self.head``. GroupNorm
    keeps an embedding independent of the other patches of the batch.

    Parameters
    ----------
    n_channels : int
        Channels of the patches.
    embedding_dim : int
        Size of the embeddings.
    **others
        Further constructor arguments, stored with the network.
    """

    def __init__(self, n_channels: int, embedding_dim: int, **others: Any):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.arguments = {"n_channels": n_channels, "embedding_dim": embedding_dim, **others}

    def _head(self, n_features):
        """A linear layer to ``embedding_dim``, unless the pooled maps have that size already."""
        if n_features == self.embedding_dim:
            return nn.Identity()
        return nn.Linear(n_features, self.embedding_dim)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Embeddings (n, embedding_dim) of patches (n, n_channels, h, w)."""
        return self.head(self.maps(patches.contiguous()).mean((2, 3)))


class ResidualEncoder(PatchEncoder):
    """A pre-activation residual network (ResNet v2) without its fourth stage, mean-pooled.

    A 5x5 convolution of stride 2 and max-pooling precede stages at strides 4, 8 and 16.

    Parameters
    ----------
    n_channels : int
        Channels of the patches.
    embedding_dim : int, default=1024
        Size of the embeddings.
    width : int, default=64
        Channels of the first convolution and the first stage; each further stage doubles them.
    blocks : sequence of int, default=(2, 2, 2)
        Residual blocks of each stage. ResNet18 has (2, 2, 2); ResNet50 has (3, 4, 6) with
        bottlenecks.
    bottleneck : bool, default=False
        Use bottleneck blocks, which put out 4 times as many channels.
    pool : bool, default=True
        False leaves out the max-pooling, for small patches: strides of 2, 4 and 8.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016.

    Examples
    --------
    >>> tuple(ResidualEncoder(3, 128, width=16)(torch.rand(2, 3, 32, 32)).shape)
    (2, 128)
    """

    _counts = ("blocks",)

    def __init__(
        self,
        n_channels: int,
        embedding_dim: int = 1024,
        width: int = 64,
        blocks: Sequence[int] = (2, 2, 2),
        bottleneck: bool = False,
        pool: bool = True,
    ):
        super().__init__(
            n_channels,
            embedding_dim,
            width=width,
            blocks=list(blocks),
            bottleneck=bottleneck,
            pool=pool,
        )
        layers = [nn.Conv2d(n_channels, width, 5, 2, padding=2, bias=False)]
        if pool:
            layers.append(nn.MaxPool2d(3, 2, padding=1))
        n_in = width
        for stage, n_blocks in enumerate(blocks):
            for block in range(n_blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_PreActivationBlock(n_in, width * 2**stage, stride, bottleneck))
                n_in = layers[-1].n_out
        self.maps = nn.Sequential(*layers, *norm_relu(n_in))
        self.head = self._head(n_in)


class _PreActivationBlock(nn.Module):
    """A residual block with norm and ReLU before each convolution and nothing after the sum."""

    def __init__(self, n_in, width, stride, bottleneck):
        super().__init__()
        self.n_out = 4 * width if bottleneck else width
        self.activation = nn.Sequential(*norm_relu(n_in))
        if bottleneck:
            layers = [
                nn.Conv2d(n_in, width, 1, bias=False),
                *norm_relu(width),
                nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
                *norm_relu(width),
                nn.Conv2d(width, self.n_out, 1, bias=False),
            ]
        else:
            layers = [
                nn.Conv2d(n_in, width, 3, stride, padding=1, bias=False),
                *norm_relu(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
            ]
        self.convolutions = nn.Sequential(*layers)
        self.shortcut = None
        if stride > 1 or n_in != self.n_out:
            self.shortcut = nn.Conv2d(n_in, self.n_out, 1, stride, bias=False)

    def forward(self, x):
        active = self.activation(x)
        return self.convolutions(active) + (x if self.shortcut is None else self.shortcut(active))


class DenseEncoder(PatchEncoder):
    """A network with one dense block, mean-pooled.

    A 5x5 convolution of stride 2; a transition, that is a 1x1 convolution to half the channels and
    mean pooling; the dense block; a 3x3 convolution to twice the width.

    Parameters
    ----------
    n_channels : int
        Channels of the patches.
    embedding_dim : int, default=1024
        Size of the embeddings.
    width : int, default=64
        Channels of the first convolution; even.
    growth : int, default=12
        Channels that each layer of the dense block adds.
    n_layers : int, default=6
        Layers of the dense block.

    References
    ----------
    G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, "Densely Connected Convolutional Networks",
    CVPR 2017.

    Examples
    --------
    >>> tuple(DenseEncoder(1, 128, width=16)(torch.rand(2, 1, 32, 32)).shape)
    (2, 128)
    """

    _counts = ("n_layers",)

    def __init__(
        self,
        n_channels: int,
        embedding_dim: int = 1024,
        width: int = 64,
        growth: int = 12,
        n_layers: int = 6,
    ):
        super().__init__(n_channels, embedding_dim, width=width, growth=growth, n_layers=n_layers)
        n_in = width // 2
        layers = [
            nn.Conv2d(n_channels, width, 5, 2, padding=2, bias=False),
            *norm_relu(width),
            nn.Conv2d(width, n_in, 1, bias=False),
            nn.AvgPool2d(2),
        ]
        for _ in range(n_layers):
            layers.append(_DenseLayer(n_in, growth))
            n_in += growth
        last = nn.Conv2d(n_in, 2 * width, 3, padding=1, bias=False)
        self.maps = nn.Sequential(*layers, *norm_relu(n_in), last, *norm_relu(2 * width))
        self.head = self._head(2 * width)


class _DenseLayer(nn.Module):
    """Appends ``growth`` channels, computed from the input, to the input."""

    def __init__(self, n_in, growth):
        super().__init__()
        convolution = nn.Conv2d(n_in, growth, 3, padding=1, bias=False)
        self.layers = nn.Sequential(*norm_relu(n_in), convolution)

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)
