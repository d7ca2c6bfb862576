"""The networks of a PatchGAN: generator, discriminator of windows, statistics network."""

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from .layers import StoredNetwork
from .windows import concatenated, pixel_head, window_convolutions


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
    >>> from anomalib_lite.nn import coordinate_maps
    >>> discriminator = PatchDiscriminator(2, 1, width=8)
    >>> tuple(discriminator(torch.rand(4, 1, 28, 28), coordinate_maps((28, 28))).shape)
    (4, 27, 27)
    """

    def __init__(self, level, n_channels, width=64, n_blocks=2):
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

    def forward(self, x, coordinates):
        """Log-odds (n, h, w) of images (n, C, H, W) at coordinates (2, H, W) or (n, 2, H, W)."""
        return self.head(self.windows(concatenated(x, coordinates)))


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


class InformationCritic(nn.Module):
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
    >>> tuple(InformationCritic(1, (8, 8))(x, x).shape)
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
