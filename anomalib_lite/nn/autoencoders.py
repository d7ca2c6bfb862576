"""Autoencoders: convolutional, MLP, and principal components."""

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional as F

from .layers import StoredNetwork, conv_block, mlp


class Autoencoder(StoredNetwork):
    """What all of them do: codes of mean 0 and variance 1, and back.

    An input has a ``shape``: (C, H, W), an image with values in [0, 1], or (n_features,), a row.
    With C = 1 images have no color; those that have some are read by the mean of their channels,
    and come back without.
    """

    def __init__(self, shape, latent_dim, **others):
        super().__init__()
        self.shape, self.latent_dim = tuple(shape), latent_dim
        self.arguments = {"shape": self.shape, "latent_dim": latent_dim, **others}

    def encode(self, x):
        """Codes (n, latent_dim) of inputs (n, ...)."""
        if len(self.shape) == 3 and self.shape[0] == 1:
            x = x.mean(1, keepdim=True)
        return self._encode(x)

    def decode(self, z):
        """Inputs (n, ...) of codes (n, latent_dim)."""
        return self.decoder(z)

    def forward(self, x):
        """(codes, reconstructions)"""
        z = self.encode(x)
        return z, self.decode(z)


class ConvAutoencoder(Autoencoder):
    """A convolutional autoencoder of images.

    A 3x3 convolution of stride 2, BatchNorm and ReLU a stage; then a linear layer and, right before
    the code, a BatchNorm without scale and shift. The decoder is its mirror image, with nearest
    upsampling before each convolution and a sigmoid at its end.

    Parameters
    ----------
    shape : tuple (C, H, W)
    latent_dim : int
    widths : sequence of int, default=(16, 32, 64)
        Channels of the stages, each of which halves the sides.

    Examples
    --------
    >>> code, image = ConvAutoencoder((1, 28, 28), 16)(torch.rand(2, 1, 28, 28))
    >>> tuple(code.shape), tuple(image.shape)
    ((2, 16), (2, 1, 28, 28))
    """

    def __init__(self, shape, latent_dim, widths=(16, 32, 64)):
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
    def from_state(cls, state):
        return super().from_state(state).to(memory_format=torch.channels_last)

    def _encode(self, x):
        return self.encoder(x.contiguous(memory_format=torch.channels_last))


class MLPAutoencoder(Autoencoder):
    """An autoencoder of rows, or of images as rows: linear layers, BatchNorm and ReLU.

    Parameters
    ----------
    shape : tuple (n_features,) or (C, H, W)
    latent_dim : int
    hidden : sequence of int, default=(64, 32)
        Widths on the way to the code, which a BatchNorm without scale and shift ends; the way back
        is their reverse, and ends, for images, in a sigmoid.
    """

    def __init__(self, shape, latent_dim, hidden=(64, 32)):
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
    """Whitened principal components as an autoencoder; see :meth:`from_data`.

    Parameters
    ----------
    shape : tuple (n_features,) or (C, H, W)
    latent_dim : int

    Examples
    --------
    >>> rows = torch.arange(8.0).view(4, 2)
    >>> code, back = LinearAutoencoder.from_data(rows, 1)(rows)
    >>> torch.allclose(back, rows), round(float(code.var()), 6)
    (True, 1.0)
    """

    def __init__(self, shape, latent_dim):
        super().__init__(shape, latent_dim)
        n_values = int(np.prod(shape))
        self.register_buffer("mean", torch.zeros(n_values))
        self.register_buffer("into", torch.zeros(n_values, latent_dim))
        self.register_buffer("back", torch.zeros(latent_dim, n_values))

    @classmethod
    def from_data(cls, x, latent_dim):
        """The one of inputs (n, ...)."""
        pca = PCA(latent_dim, svd_solver="full").fit(x.flatten(1).cpu().double().numpy())
        scale = np.sqrt(np.maximum(pca.explained_variance_, 1e-30))[:, None]
        state = {
            "mean": pca.mean_,
            "into": (pca.components_ / scale).T,
            "back": pca.components_ * scale,
        }
        weights = {
            name: torch.from_numpy(np.ascontiguousarray(values)).to(x)
            for name, values in state.items()
        }
        arguments = {"shape": tuple(x.shape[1:]), "latent_dim": latent_dim}
        return cls.from_state({"arguments": arguments, "weights": weights})

    def _encode(self, x):
        return (x.flatten(1) - self.mean) @ self.into

    def decode(self, z):
        return torch.addmm(self.mean, z, self.back).unflatten(1, self.shape)


def reconstruction_errors(x, back):
    """Squared error and cosine dissimilarity (n, 2) of inputs (n, ...) and their reconstructions.

    The squared error is a mean over an input's values; the dissimilarity is 1 minus the cosine of
    the angle between the two.

    Examples
    --------
    >>> x, back = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    >>> reconstruction_errors(x, back).round(decimals=2)
    tensor([[1.0000, 0.0400]])
    """
    x, back = torch.broadcast_tensors(x, back)
    x, back = x.flatten(1), back.flatten(1)
    error = (x - back).square().mean(1)
    return torch.stack([error, 1 - F.cosine_similarity(x, back, dim=1)], 1)
