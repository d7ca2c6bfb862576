"""The networks of a PatchGAN: generator, discriminator of windows, critic of information."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from ..contexts import plain
from ..runtime import normal
from .layers import StoredNetwork
from .windows import concatenated, pixel_head, window_convolutions


class PatchDiscriminator(nn.Module):
    """Logits "real" of each ``level`` x ``level`` window of a batch of images.

    Like :class:`PatchDetector`, but coordinates join at the image, the convolutions of more than
    one pixel are divided by their spectral norms, and after each of them come four channels that
    measure how much the images of the batch differ (:class:`BatchDeviation`). The paper has
    spectral norms in the 1x1 convolutions, too; small discriminators then learn too slowly.

    Parameters
    ----------
    level : {1, 2, 4, 8, 16, 32}
        Side of the windows, in pixels.
    n_channels : int
        Channels of the images.
    width : int, default=64
        Channels of the first convolution.
    n_blocks : int, default=2
        Residual blocks.

    Examples
    --------
    >>> from anomalib_lite.nn import coordinate_maps
    >>> discriminator = PatchDiscriminator(2, 1, width=8)
    >>> tuple(discriminator(torch.rand(4, 1, 28, 28), coordinate_maps((28, 28))).shape)
    (4, 27, 27)
    """

    def __init__(self, level: int, n_channels: int, width: int = 64, n_blocks: int = 2):
        super().__init__()
        layers, n_in = [], n_channels + 2
        for kernel, n_out in window_convolutions(level, width):
            layers += [
                spectral_norm(nn.Conv2d(n_in, n_out, kernel)),
                nn.LeakyReLU(0.2),
                BatchDeviation(),
            ]
            n_in = n_out + BatchDeviation.n_maps
        self.windows = nn.Sequential(*layers)
        self.head = pixel_head(n_in, 2 * n_out, n_blocks)

    def forward(self, x: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        """Logits (n, h, w) of images (n, C, H, W) at coordinates (2, H, W) or (n, 2, H, W)."""
        return self.head(self.windows(concatenated(x, coordinates)))


class BatchDeviation(nn.Module):
    """Adds four channels: how much the images of a batch differ at each position.

    An image is compared with the three that follow it in the batch, cyclically: the standard
    deviations of the four, channel by channel, are averaged over four groups of channels. StyleGAN2
    averages over positions as well, which tells a window about the whole image; here a window
    learns nothing beyond itself.

    Examples
    --------
    >>> BatchDeviation()(torch.ones(4, 8, 1, 1)).flatten(1)[0].round(decimals=3).tolist()[-5:]
    [1.0, 0.0, 0.0, 0.0, 0.0]
    """

    n_maps = 4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, C + 4, h, w) of (n, C, h, w)."""
        group = torch.stack([x.roll(-i, 0) for i in range(min(4, len(x)))])
        deviation = ((group - group.mean(0)).square().mean(0) + 1e-8).sqrt()
        parts = deviation.tensor_split(self.n_maps, 1)
        return torch.cat([x, *(part.mean(1, keepdim=True) for part in parts)], 1)


_SAMPLED = 32  # images that a generator makes at once


class UNetGenerator(StoredNetwork):
    """Generator of images in [0, 1] from noise of the same shape.

    The way down: 4x4 convolutions of stride 2, each followed by a 1x1 convolution, then a
    convolution of the whole map to a vector. The way up: a linear layer, then bilinear upsampling
    with a 3x3 and a 1x1 convolution, each with the map of the same size from the way down.
    BatchNorm and leaky ReLU follow every layer but the last, spectral norm is applied on the way
    down. The last layer ends in a sigmoid: the paper's tanh, for images in [0, 1].

    Parameters
    ----------
    shape : tuple (C, H, W)
        Shape of the images, with sides of at least 2 ** len(widths) pixels.
    widths : sequence of int, default=(64, 128, 256)
        Channels at strides 2, 4, 8 and so on.
    start : float, default=0.5
        Value, between 0 and 1, around which untrained outputs lie.

    References
    ----------
    O. Ronneberger, P. Fischer, T. Brox, "U-Net: Convolutional Networks for Biomedical Image
    Segmentation", MICCAI 2015.

    Examples
    --------
    >>> tuple(UNetGenerator((1, 28, 31), (8, 16))(torch.randn(2, 1, 28, 31)).shape)
    (2, 1, 28, 31)
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int] = (64, 128, 256),
        start: float = 0.5,
    ):
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

    def forward(self, z: torch.Tensor) -> torch.Tensor:
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

    @plain
    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Images (n, C, H, W) of standard normal noise drawn from ``generator``, the CPU's."""
        z = normal((n, *self.shape), generator)
        z = z.to(self.up[-1][-2].weight.device)
        if self.training:  # BatchNorm needs the whole batch
            return self(z)
        return torch.cat([self(part) for part in z.split(_SAMPLED)])


def _normed(layer, width):
    return [layer, nn.BatchNorm2d(width), nn.LeakyReLU(0.2)]


class InformationCritic(nn.Module):
    """Values (n,) of how well images and noise, both (n, C, H, W), belong together.

    The two are stacked as channels. The mean of each stage's map passes a linear layer, and the
    value is the sum over stages, so pairs are compared at every scale.

    Parameters
    ----------
    n_channels : int
        Channels of the images, and of the noise.
    widths : sequence of int, default=(64, 128, 256)
        Channels of the stages: a 3x3 convolution of stride 1, then 4x4 ones of stride 2.

    Examples
    --------
    >>> x = torch.rand(2, 1, 28, 28)
    >>> tuple(InformationCritic(1, (8, 8))(x, x).shape)
    (2,)
    """

    def __init__(self, n_channels: int, widths: Sequence[int] = (64, 128, 256)):
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

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """Values (n,) of images ``x`` and noise ``z``."""
        both, value = torch.cat([x, z], 1), 0
        for stage, weight in zip(self.stages, self.weights, strict=True):
            both = stage(both)
            value = value + weight(both.mean((2, 3)))[:, 0]
        return value
