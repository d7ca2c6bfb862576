"""Autoencoders: convolutional, MLP, and principal components."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..contexts import plain
from .layers import StoredNetwork, conv_block, mlp

_ROUNDING = 1e-6  # deviations along components, in the largest, that are none
_TALL = 2  # rows in columns, beyond which products of columns tell their axes in less time


class Autoencoder(StoredNetwork):
    """Base class of autoencoders whose codes have mean 0 and variance 1.

    A subclass sets ``decoder``, or overrides :meth:`decode`, and implements ``_encode``.

    Parameters
    ----------
    shape : tuple (n_features,) or (C, H, W)
        Shape of an input: a row, or an image with values in [0, 1]. With C = 1, color images are
        read as the mean of their channels and reconstructed in gray.
    latent_dim : int
        Size of the code.
    **others
        The subclass's other arguments, to be saved with it.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, **others: Any):
        super().__init__()
        self.shape, self.latent_dim = tuple(shape), latent_dim
        self.arguments = {"shape": self.shape, "latent_dim": latent_dim, **others}

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (n, latent_dim) of inputs (n, ...)."""
        if len(self.shape) == 3 and self.shape[0] == 1:
            x = x.mean(1, keepdim=True)
        return self._encode(x)

    def _encode(self, x):
        raise NotImplementedError(f"{type(self).__name__} must implement _encode.")

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """Reconstructions (n, ...) from codes (n, latent_dim)."""
        return self.decoder(z)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Codes (n, latent_dim) and reconstructions (n, ...) of inputs (n, ...)."""
        z = self.encode(x)
        return z, self.decode(z)


class ConvAutoencoder(Autoencoder):
    """A convolutional autoencoder of images.

    Each encoder stage is a 3x3 convolution of stride 2 with BatchNorm and ReLU. A linear layer and
    a BatchNorm without scale and shift give the code. The decoder mirrors the encoder, with nearest
    upsampling before each convolution and a sigmoid at the end.

    Parameters
    ----------
    shape : tuple (C, H, W)
        Shape of an image.
    latent_dim : int
        Size of the code.
    widths : sequence of int, default=(16, 32, 64)
        Channels of the stages, each of which halves the sides.

    Examples
    --------
    >>> code, image = ConvAutoencoder((1, 28, 28), 16)(torch.rand(2, 1, 28, 28))
    >>> tuple(code.shape), tuple(image.shape)
    ((2, 16), (2, 1, 28, 28))
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, widths: Sequence[int] = (16, 32, 64)):
        super().__init__(shape, latent_dim, widths=list(widths))
        n_channels, *size = shape
        sizes = [tuple(size)]
        for _ in widths:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        deepest = (widths[-1], *sizes[-1])
        n_deepest = int(np.prod(deepest))
        channels = [n_channels, *widths]
        down, up = [], []
        for i in range(len(widths)):
            down += conv_block(channels[i], channels[i + 1], stride=2)
        for i in range(len(widths) - 1, 0, -1):
            up += [nn.Upsample(sizes[i]), *conv_block(channels[i + 1], channels[i], stride=1)]
        self.encoder = nn.Sequential(
            *down,
            nn.Flatten(),
            nn.Linear(n_deepest, latent_dim, bias=False),
            nn.BatchNorm1d(latent_dim, affine=False),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, n_deepest, bias=False),
            nn.BatchNorm1d(n_deepest),
            nn.ReLU(inplace=True),
            nn.Unflatten(1, deepest),
            *up,
            nn.Upsample(sizes[0]),
            nn.Conv2d(widths[0], n_channels, 3, padding=1),
            nn.Sigmoid(),
        )
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return super().from_state(state).to(memory_format=torch.channels_last)

    def _encode(self, x):
        return self.encoder(x.contiguous(memory_format=torch.channels_last))


class MLPAutoencoder(Autoencoder):
    """An autoencoder of rows, or of images as rows: linear layers, BatchNorm and ReLU.

    A BatchNorm without scale and shift gives the code; reconstructions of images end in a sigmoid.

    Parameters
    ----------
    shape : tuple (n_features,) or (C, H, W)
        Shape of an input.
    latent_dim : int
        Size of the code.
    hidden : sequence of int, default=(64, 32)
        Widths of the encoder's hidden layers; the decoder reverses them.
    """

    def __init__(self, shape: Sequence[int], latent_dim: int, hidden: Sequence[int] = (64, 32)):
        super().__init__(shape, latent_dim, hidden=list(hidden))
        n_values = int(np.prod(shape))
        self.encoder = nn.Sequential(
            nn.Flatten(),
            mlp(n_values, hidden, latent_dim),
            nn.BatchNorm1d(latent_dim, affine=False),
        )
        back = [mlp(latent_dim, list(hidden)[::-1], n_values)]
        if len(self.shape) == 3:
            back += [nn.Sigmoid(), nn.Unflatten(1, self.shape)]
        self.decoder = nn.Sequential(*back)

    def _encode(self, x):
        return self.encoder(x)


class LinearAutoencoder(Autoencoder):
    """Whitened principal components as an autoencoder, built by :meth:`from_data`.

    Parameters
    ----------
    shape : tuple (n_features,) or (C, H, W)
        Shape of an input.
    latent_dim : int
        Number of principal components.

    Examples
    --------
    >>> rows = torch.arange(8.0).view(4, 2)
    >>> code, back = LinearAutoencoder.from_data(rows, 1)(rows)
    >>> torch.allclose(back, rows), round(float(code.var()), 6)
    (True, 1.0)
    """

    def __init__(self, shape: Sequence[int], latent_dim: int):
        super().__init__(shape, latent_dim)
        n_values = int(np.prod(shape))
        self.register_buffer("mean", torch.zeros(n_values))
        self.register_buffer("into", torch.zeros(n_values, latent_dim))
        self.register_buffer("back", torch.zeros(latent_dim, n_values))

    @classmethod
    @plain
    def from_data(cls, x: torch.Tensor, latent_dim: int) -> Self:
        """Fit the first ``latent_dim`` principal components of inputs (n, ...).

        Fewer, at least one, where the others would be components of rounding.
        """
        rows = x.flatten(1).cpu()
        if latent_dim > min(rows.shape):
            raise ValueError(
                f"latent_dim: expected at most {min(rows.shape)}, since principal components of "
                f"{len(rows)} inputs of {rows.shape[1]} values are as many, got {latent_dim}."
            )
        mean = rows.mean(0, dtype=torch.float64)
        lengths, components = _principal_axes(rows, mean)
        deviations = (lengths / max(len(rows) - 1, 1) ** 0.5).clamp_min(1e-15)
        latent_dim = int((deviations[:latent_dim] >= _ROUNDING * deviations[0]).sum())
        components, deviations = components[:latent_dim], deviations[:latent_dim, None]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        scale = largest.sign() * deviations
        state = {"mean": mean, "into": (components / scale).T, "back": components * scale}
        weights = {name: values.contiguous().to(x) for name, values in state.items()}
        arguments = {"shape": tuple(x.shape[1:]), "latent_dim": latent_dim}
        return cls.from_state({"arguments": arguments, "weights": weights})

    def _encode(self, x):
        return (x.flatten(1) - self.mean) @ self.into

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.mean, z, self.back).unflatten(1, self.shape)


def _principal_axes(rows, mean):
    """Lengths, falling, and directions of the axes of rows (n, d) around their mean."""
    if len(rows) <= _TALL * rows.shape[1]:
        _, lengths, directions = torch.linalg.svd(rows.double() - mean, full_matrices=False)
        return lengths, directions
    products = sum(part.T @ part for part in (block.double() - mean for block in rows.split(4096)))
    squares, directions = torch.linalg.eigh(products)
    return squares.flip(0).clamp_min(0).sqrt(), directions.T.flip(0)


def reconstruction_errors(x: torch.Tensor, back: torch.Tensor) -> torch.Tensor:
    """Squared error and cosine dissimilarity of inputs and their reconstructions.

    Parameters
    ----------
    x, back : torch.Tensor of shape (n, ...)
        Inputs and reconstructions.

    Returns
    -------
    errors : torch.Tensor of shape (n, 2)
        The squared difference, averaged over an input's values, and 1 minus the cosine of the angle
        between input and reconstruction.

    Examples
    --------
    >>> x, back = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    >>> reconstruction_errors(x, back).round(decimals=2)
    tensor([[1.0000, 0.0400]])
    """
    x, back = torch.broadcast_tensors(x, back)
    x, back = x.flatten(1), back.flatten(1)
    error = (x - back).square().mean(1)
    # 1 - cos of a small angle would be what rounding leaves of a difference of nearly equal numbers
    x, back = F.normalize(x), F.normalize(back)
    apart = (x - back).square().sum(1) / 2
    has_angle = x.any(1) & back.any(1)
    return torch.stack([error, torch.where(has_angle, apart, torch.ones_like(apart))], 1)
