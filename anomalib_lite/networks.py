"""Networks that methods train from their first weights on."""

import math
from itertools import pairwise

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class ConvNet(nn.Module):
    """A small convolutional network for small images: an encoder in seconds.

    Each stage is a 3x3 convolution, BatchNorm and ReLU, the last one twice; all but the first begin
    with a stride of 2. It is read like a timm network: by stride, or by the name of a stage.

    Parameters
    ----------
    widths : tuple of int, default=(16, 32, 64, 128)
        Channels of the stages, whose strides are 1, 2, 4, 8.

    Examples
    --------
    >>> import torch
    >>> [tuple(grid.shape) for grid in ConvNet()(torch.zeros(1, 3, 32, 32))][-1]
    (1, 128, 4, 4)
    """

    def __init__(self, widths=(16, 32, 64, 128)):
        super().__init__()
        self.stages = nn.ModuleList()
        self.feature_info = []
        n_channels = 3
        for i, width in enumerate(widths):
            layers = _conv(n_channels, width, stride=1 if i == 0 else 2)
            if i == len(widths) - 1:
                layers += _conv(width, width, stride=1)
            self.stages.append(nn.Sequential(*layers))
            self.feature_info.append({"module": f"stages.{i}", "reduction": 2**i, "num_chs": width})
            n_channels = width

    def forward(self, batch):
        """Maps of all stages, finest first."""
        return self.forward_intermediates(batch)

    def forward_intermediates(self, batch, indices=None, **_always):
        """Maps of the stages ``indices``, no stage run that is not needed."""
        wanted = range(len(self.stages)) if indices is None else indices
        maps = []
        for i in range(max(wanted) + 1):
            batch = self.stages[i](batch)
            if i in wanted:
                maps.append(batch)
        return maps

    def prune_intermediate_layers(self, indices, **_always):
        """Forget the stages after the last of ``indices``."""
        self.stages = self.stages[: max(indices) + 1]
        self.feature_info = self.feature_info[: max(indices) + 1]


def _conv(n_in, n_out, stride):
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


class LogOdds(StoredNetwork):
    """Log-odds (n,) of rows (n, n_features): an MLP that begins as a constant.

    Parameters
    ----------
    n_features : int
    hidden : sequence of int
    start : float, default=0.0
        The constant.

    Examples
    --------
    >>> LogOdds(3, (8,), start=-1.0)(torch.rand(2, 3)).tolist()
    [-1.0, -1.0]
    """

    def __init__(self, n_features, hidden, start=0.0):
        super().__init__()
        self.arguments = {"n_features": n_features, "hidden": list(hidden), "start": start}
        self.layers = mlp(n_features, hidden, 1, norm=False)
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.constant_(self.layers[-1].bias, start)

    def forward(self, rows):
        return self.layers(rows)[:, 0]


class Autoencoder(StoredNetwork):
    """What all of them do: codes of mean 0 and variance 1, and back.

    An input has a ``shape``: (C, H, W), an image with values in [0, 1], or (n_features,), a row.
    With C = 1 images have no colour; those that have some are read by the mean of their channels,
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
            down += _conv(channels[i], channels[i + 1], stride=2)
        for i in range(len(widths) - 1, 0, -1):
            up += [nn.Upsample(sizes[i]), *_conv(channels[i + 1], channels[i], stride=1)]
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
    """Whitened principal components as an autoencoder; see :meth:`of`.

    Parameters
    ----------
    shape : tuple (n_features,) or (C, H, W)
    latent_dim : int

    Examples
    --------
    >>> rows = torch.arange(8.0).view(4, 2)
    >>> code, back = LinearAutoencoder.of(rows, 1)(rows)
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
    def of(cls, x, latent_dim):
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


# -- encoders of patches --------------------------------------------------------------------------


class PatchEncoder(StoredNetwork):
    """What all of them do: embeddings (n, embedding_dim) of patches (n, n_channels, h, w).

    Layers are normalised by GroupNorm: what is said of a patch does not depend on those it is
    compared with.
    """

    def __init__(self, n_channels, embedding_dim, **others):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.arguments = {"n_channels": n_channels, "embedding_dim": embedding_dim, **others}

    def _head(self, n_features):
        """To ``embedding_dim``, where the pooled maps are not of that size."""
        if n_features == self.embedding_dim:
            return nn.Identity()
        return nn.Linear(n_features, self.embedding_dim)

    def forward(self, patches):
        return self.head(self.maps(patches.contiguous()).mean((2, 3)))


class ResidualEncoder(PatchEncoder):
    """A pre-activation residual network (v2) up to its third stage, mean-pooled.

    A 5x5 convolution of stride 2 and max-pooling, then stages at strides 4, 8 and 16.

    Parameters
    ----------
    n_channels : int
        Of patches.
    embedding_dim : int, default=1024
    width : int, default=64
        Channels of the first convolution; the stages' are 1, 2 and 4 times as many, and with
        bottlenecks four times those.
    blocks : sequence of int, default=(2, 2, 2)
        Of the stages. ResNet18 has (2, 2, 2); ResNet50 has (3, 4, 6) with bottlenecks.
    bottleneck : bool, default=False
    pool : bool, default=True
        False is for small patches: no pooling, strides of 2, 4 and 8.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016.

    Examples
    --------
    >>> tuple(ResidualEncoder(3, 128, width=16)(torch.rand(2, 3, 32, 32)).shape)
    (2, 128)
    """

    def __init__(
        self,
        n_channels,
        embedding_dim=1024,
        width=64,
        blocks=(2, 2, 2),
        bottleneck=False,
        pool=True,
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
        self.maps = nn.Sequential(*layers, *_norm_relu(n_in))
        self.head = self._head(n_in)


class _PreActivationBlock(nn.Module):
    """Norm and ReLU before each convolution; nothing after the sum."""

    def __init__(self, n_in, width, stride, bottleneck):
        super().__init__()
        self.n_out = 4 * width if bottleneck else width
        self.activation = nn.Sequential(*_norm_relu(n_in))
        if bottleneck:
            layers = [
                nn.Conv2d(n_in, width, 1, bias=False),
                *_norm_relu(width),
                nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
                *_norm_relu(width),
                nn.Conv2d(width, self.n_out, 1, bias=False),
            ]
        else:
            layers = [
                nn.Conv2d(n_in, width, 3, stride, padding=1, bias=False),
                *_norm_relu(width),
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
    """One dense block between a transition and a convolution, mean-pooled.

    A 5x5 convolution of stride 2; the transition, a 1x1 convolution to half the channels and mean
    pooling; the block, each layer of which reads all that came before it and adds ``growth``
    channels; a 3x3 convolution to twice the width.

    Parameters
    ----------
    n_channels : int
        Of patches.
    embedding_dim : int, default=1024
    width : int, default=64
        Even: channels of the first convolution.
    growth : int, default=12
    n_layers : int, default=6
        Of the dense block.

    References
    ----------
    G. Huang, Z. Liu, L. van der Maaten, K. Weinberger, "Densely Connected Convolutional Networks",
    CVPR 2017.

    Examples
    --------
    >>> tuple(DenseEncoder(1, 128, width=16)(torch.rand(2, 1, 32, 32)).shape)
    (2, 128)
    """

    def __init__(self, n_channels, embedding_dim=1024, width=64, growth=12, n_layers=6):
        super().__init__(n_channels, embedding_dim, width=width, growth=growth, n_layers=n_layers)
        n_in = width // 2
        layers = [
            nn.Conv2d(n_channels, width, 5, 2, padding=2, bias=False),
            *_norm_relu(width),
            nn.Conv2d(width, n_in, 1, bias=False),
            nn.AvgPool2d(2),
        ]
        for _ in range(n_layers):
            layers.append(_DenseLayer(n_in, growth))
            n_in += growth
        last = nn.Conv2d(n_in, 2 * width, 3, padding=1, bias=False)
        self.maps = nn.Sequential(*layers, *_norm_relu(n_in), last, *_norm_relu(2 * width))
        self.head = self._head(2 * width)


class _DenseLayer(nn.Module):
    """What came in, and ``growth`` channels of it beside it."""

    def __init__(self, n_in, growth):
        super().__init__()
        convolution = nn.Conv2d(n_in, growth, 3, padding=1, bias=False)
        self.layers = nn.Sequential(*_norm_relu(n_in), convolution)

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


def _norm_relu(n_channels):
    return [nn.GroupNorm(math.gcd(n_channels, 8), n_channels), nn.ReLU(inplace=True)]


# -- networks that look at windows, and one that makes images -------------------------------------

KERNELS = {
    1: (1,),
    2: (2,),
    4: (4,),
    8: (4, 3, 3),
    16: (4, 3, 3, 5, 5),
    32: (4, 3, 3, 5, 5, 9, 9),
}


def coordinate_maps(size, device=None):
    """Where each position is: (2, H, W), rows then columns, from -1 to 1.

    Examples
    --------
    >>> coordinate_maps((2, 3)).tolist()[1]
    [[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]
    """
    axes = [torch.linspace(-1, 1, side, device=device) for side in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def _window_convolutions(level, width):
    """(kernel, channels) of a stack whose outputs see ``level`` x ``level`` pixels."""
    if level not in KERNELS:
        raise ValueError(f"level: expected one of {', '.join(map(str, KERNELS))}, got {level!r}.")
    return [(kernel, width * 2 ** min(i, 2)) for i, kernel in enumerate(KERNELS[level])]


def _concatenated(x, maps):
    """``x`` (n, C, h, w) and maps (2, h, w) or (n, 2, h, w) beside it."""
    return torch.cat([x, maps.expand(len(x), -1, -1, -1)], 1)


class _PixelBlock(nn.Module):
    """What came in, plus two 1x1 convolutions of it."""

    def __init__(self, width, dropout):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x):
        return x + self.layers(x)


def _pixel_head(n_in, width, n_blocks, dropout=0.0):
    """1x1 convolutions to one channel: what is said of a position depends on nothing beside it."""
    return nn.Sequential(
        nn.Conv2d(n_in, width, 1),
        *(_PixelBlock(width, dropout) for _ in range(n_blocks)),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 1, 1),
        nn.Flatten(1, 2),
    )


class PatchDetector(StoredNetwork):
    """Log-odds "abnormal" of each ``level`` x ``level`` window of an image, given its place.

    Valid convolutions of stride 1 (``KERNELS``: each level's begin as the one's below, levels 16
    and 32, of which the paper says nothing, too), then the coordinates join, then residual blocks
    of 1x1 convolutions. Nothing is normalised.

    Parameters
    ----------
    level : {1, 2, 4, 8, 16, 32}
        Side of the windows, in pixels.
    n_channels : int
        Of images.
    width : int, default=64
        Channels of the first convolution; the second has twice, the further ones four times as
        many, and the 1x1 convolutions twice as many as the last.
    n_blocks : int, default=2
        Residual ones.
    dropout : float, default=0.25
        In those.

    References
    ----------
    S. Dai et al., "Unsupervised Learning of Multi-level Structures for Anomaly Detection", 2021.

    Examples
    --------
    >>> detector = PatchDetector(4, 1, width=8)
    >>> tuple(detector(torch.rand(2, 1, 28, 28), coordinate_maps((25, 25))).shape)
    (2, 25, 25)
    """

    def __init__(self, level, n_channels, width=64, n_blocks=2, dropout=0.25):
        super().__init__()
        self.level = level
        self.arguments = {
            "level": level,
            "n_channels": n_channels,
            "width": width,
            "n_blocks": n_blocks,
            "dropout": dropout,
        }
        layers = []
        for kernel, n_out in _window_convolutions(level, width):
            layers += [nn.Conv2d(n_channels, n_out, kernel), nn.LeakyReLU(0.2)]
            n_channels = n_out
        self.windows = nn.Sequential(*layers)
        self.head = _pixel_head(n_channels + 2, 2 * n_channels, n_blocks, dropout)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_state(cls, state):
        return super().from_state(state).to(memory_format=torch.channels_last)

    def forward(self, x, coordinates):
        """Log-odds of windows.

        Parameters
        ----------
        x : torch.Tensor of shape (n, C, H, W)
        coordinates : torch.Tensor of shape (2, h, w) or (n, 2, h, w)
            Of the windows, h = H - level + 1 and w = W - level + 1.

        Returns
        -------
        log_odds : torch.Tensor of shape (n, h, w)
        """
        x = x.contiguous(memory_format=torch.channels_last)
        return self.head(_concatenated(self.windows(x), coordinates))


class PatchDiscriminator(nn.Module):
    """Log-odds "real" of each ``level`` x ``level`` window of images, which come in batches.

    As :class:`PatchDetector`, but the coordinates join at the image, the convolutions of more than
    one pixel are divided by their spectral norms, and after each come four channels that say how
    much images of the batch differ (:class:`BatchDeviation`). The text has spectral norms in the
    1x1 convolutions, too; a small discriminator so bound is slow to tell anything.

    Parameters
    ----------
    level : {1, 2, 4, 8, 16, 32}
    n_channels : int
    width : int, default=64
    n_blocks : int, default=2

    Examples
    --------
    >>> discriminator = PatchDiscriminator(2, 1, width=8)
    >>> tuple(discriminator(torch.rand(4, 1, 28, 28), coordinate_maps((28, 28))).shape)
    (4, 27, 27)
    """

    def __init__(self, level, n_channels, width=64, n_blocks=2):
        super().__init__()
        layers, n_in = [], n_channels + 2
        for kernel, n_out in _window_convolutions(level, width):
            layers += [
                spectral_norm(nn.Conv2d(n_in, n_out, kernel)),
                nn.LeakyReLU(0.2),
                BatchDeviation(),
            ]
            n_in = n_out + BatchDeviation.n_maps
        self.windows = nn.Sequential(*layers)
        self.head = _pixel_head(n_in, 2 * n_out, n_blocks)

    def forward(self, x, coordinates):
        """Log-odds (n, h, w) of images (n, C, H, W) at coordinates (2, H, W) or (n, 2, H, W)."""
        return self.head(self.windows(_concatenated(x, coordinates)))


class BatchDeviation(nn.Module):
    """Four channels more: how far the images of a batch differ at each position.

    An image is compared with the three after it, the first ones coming after the last: of the
    standard deviations of these four, channel by channel, the means over four parts of the channels
    are taken. StyleGAN2 averages over positions, too, and so tells a window about the whole image;
    here a window learns of itself alone.

    Examples
    --------
    >>> BatchDeviation()(torch.ones(4, 8, 1, 1)).flatten(1)[0].round(decimals=3).tolist()[-5:]
    [1.0, 0.0, 0.0, 0.0, 0.0]
    """

    n_maps = 4

    def forward(self, x):
        group = torch.stack([x.roll(-i, 0) for i in range(min(4, len(x)))])
        deviation = ((group - group.mean(0)).square().mean(0) + 1e-8).sqrt()
        parts = deviation.tensor_split(self.n_maps, 1)
        return torch.cat([x, *(part.mean(1, keepdim=True) for part in parts)], 1)


_SAMPLED = 32  # images that a generator makes at once


class UNetGenerator(StoredNetwork):
    """Images in [0, 1] from noise of their own shape.

    Down by 4x4 convolutions of stride 2, each followed by a 1x1 one, then by one as large as what
    is left to a vector; from there, by a linear layer, up again: bilinear upsampling, a 3x3
    convolution and a 1x1 one, with the map of that size from the way down beside it. BatchNorm and
    leaky ReLU after each layer, spectral norm on the way down; the last layer has neither, and ends
    in a sigmoid, which is tanh for images in [0, 1].

    Parameters
    ----------
    shape : tuple (C, H, W)
        Of images, each side of at least 2 ** len(widths) pixels.
    widths : sequence of int, default=(64, 128, 256)
        Channels at the strides 2, 4, 8 and so on.
    start : float, default=0.5
        The value, between 0 and 1, about which outputs begin.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", MICCAI 2015.

    Examples
    --------
    >>> tuple(UNetGenerator((1, 28, 31), (8, 16))(torch.randn(2, 1, 28, 31)).shape)
    (2, 1, 28, 31)
    """

    def __init__(self, shape, widths=(64, 128, 256), start=0.5):
        super().__init__()
        self.shape = tuple(shape)
        self.arguments = {"shape": self.shape, "widths": list(widths), "start": start}
        n_channels, *size = shape
        self.sizes = [tuple(side // 2**i for side in size) for i in range(len(widths) + 1)]
        channels = [n_channels, *widths]
        self.down = nn.ModuleList(
            nn.Sequential(
                *_normed(spectral_norm(nn.Conv2d(n_in, n_out, 4, 2, padding=1)), n_out),
                *_normed(spectral_norm(nn.Conv2d(n_out, n_out, 1)), n_out),
            )
            for n_in, n_out in pairwise(channels)
        )
        deepest, last = (widths[-1], *self.sizes[-1]), 2 * widths[-1]
        self.bottom = nn.Sequential(
            *_normed(spectral_norm(nn.Conv2d(widths[-1], last, self.sizes[-1])), last),
            nn.Conv2d(last, math.prod(deepest), 1),
            nn.Flatten(),
            nn.Unflatten(1, deepest),
            nn.BatchNorm2d(widths[-1]),
            nn.LeakyReLU(0.2),
        )
        ups = []
        for i in range(len(widths) - 1, 0, -1):
            ups.append(
                nn.Sequential(
                    *_normed(nn.Conv2d(2 * widths[i], widths[i - 1], 3, padding=1), widths[i - 1]),
                    *_normed(nn.Conv2d(widths[i - 1], widths[i - 1], 1), widths[i - 1]),
                )
            )
        out = nn.Conv2d(widths[0], n_channels, 1)
        nn.init.constant_(out.bias, math.log(start / (1 - start)))
        ups.append(
            nn.Sequential(
                *_normed(nn.Conv2d(2 * widths[0], widths[0], 3, padding=1), widths[0]),
                out,
                nn.Sigmoid(),
            )
        )
        self.up = nn.ModuleList(ups)

    def forward(self, z):
        """Images (n, C, H, W) of noise (n, C, H, W)."""
        passed = []
        for stage in self.down:
            z = stage(z)
            passed.append(z)
        x = self.bottom(z)
        for stage, size, beside in zip(self.up, self.sizes[-2::-1], passed[::-1], strict=True):
            x = F.interpolate(torch.cat([x, beside], 1), size, mode="bilinear")
            x = stage(x)
        return x

    def sample(self, n, generator):
        """``n`` images (n, C, H, W) of standard normal noise drawn from ``generator``, a CPU's."""
        z = torch.randn(n, *self.shape, generator=generator, device="cpu")
        z = z.to(self.up[-1][-2].weight.device)
        if self.training:  # BatchNorm wants all of them
            return self(z)
        return torch.cat([self(part) for part in z.split(_SAMPLED)])


def _normed(layer, width):
    return [layer, nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]


class StatisticsNetwork(nn.Module):
    """How well an image and a noise go together: values (n,) of pairs, each (n, C, H, W).

    Both are laid on one another as channels. Each stage's map is pooled to its mean and weighed;
    the value is the sum over stages, so that pairs are compared at every scale.

    Parameters
    ----------
    n_channels : int
        Of images, and of noise.
    widths : sequence of int, default=(64, 128, 256)
        Channels of the stages: a 3x3 convolution of stride 1, then 4x4 ones of stride 2.

    Examples
    --------
    >>> x = torch.rand(2, 1, 28, 28)
    >>> tuple(StatisticsNetwork(1, (8, 8))(x, x).shape)
    (2,)
    """

    def __init__(self, n_channels, widths=(64, 128, 256)):
        super().__init__()
        self.stages, self.weights = nn.ModuleList(), nn.ModuleList()
        n_in = 2 * n_channels
        for i, width in enumerate(widths):
            convolution = nn.Conv2d(n_in, width, *((3, 1) if i == 0 else (4, 2)), padding=1)
            pixels = nn.Conv2d(width, width, 1)
            self.stages.append(
                nn.Sequential(convolution, nn.LeakyReLU(0.2), pixels, nn.LeakyReLU(0.2))
            )
            self.weights.append(nn.Linear(width, 1))
            n_in = width

    def forward(self, x, z):
        both, value = torch.cat([x, z], 1), 0
        for stage, weight in zip(self.stages, self.weights, strict=True):
            both = stage(both)
            value = value + weight(both.mean((2, 3)))[:, 0]
        return value
