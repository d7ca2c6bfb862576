"""Images that look normal through a small window, and through no larger one.

The fakes of level l keep what l x l windows show and break what goes beyond: uniform noise at level
0, pixels shuffled among images at level 1, then what a :class:`EntropyPatchGAN` learns to make, or
a :class:`PatchResampler` puts together.
"""

import torch

from .patchgan import trained_generator
from .resampling import Resampled


def make_fakes(kind, level, images, generator, **options):
    """A source of fakes of a level.

    Parameters
    ----------
    kind : {"gan", "resample"}
        How levels of 2 and more are made.
    level : int
        Side, in pixels, of the windows that stay as they are in normal images.
    images : torch.Tensor of shape (N, C, H, W)
        Normal ones, float32 in [0, 1].
    generator : torch.Generator
        The CPU's.
    **options
        Of the kind: see :func:`trained_generator`, and ``tolerance`` of :class:`Resampled`.

    Returns
    -------
    fakes : object
        ``fakes.sample(n, generator)`` gives images (n, C, H, W) in [0, 1] on the device of
        ``images``.

    Examples
    --------
    >>> seed = torch.Generator().manual_seed(0)
    >>> images = torch.rand(20, 1, 8, 8, generator=seed)
    >>> tuple(make_fakes("resample", 2, images, seed).sample(5, seed).shape)
    (5, 1, 8, 8)
    """
    if level == 0:
        return UniformNoise(images)
    if level == 1:
        return ShuffledPixels(images)
    if kind == "resample":
        return Resampled(images, level, **options)
    return trained_generator(images, level, generator, **options)[0]


# -- by definition --------------------------------------------------------------------------------


def uniform_noise(n, shape, generator, device="cpu"):
    """Level 0: images ``(n, *shape)`` of pixels that are uniform in [0, 1), each on its own."""
    return torch.rand(n, *shape, generator=generator, device="cpu").to(device)


def shuffled_pixels(images, generator):
    """Level 1: images (N, C, H, W) that have exchanged pixels, each with those of its position.

    Every position keeps the pixels it has in ``images``, the channels of a pixel stay together, and
    no position knows of another.

    Examples
    --------
    >>> images = torch.arange(8.0).view(4, 1, 1, 2)
    >>> shuffled_pixels(images, torch.Generator().manual_seed(0)).flatten(1).sort(0).values.tolist()
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    """
    n, _, *size = images.shape
    order = torch.rand(n, *size, generator=generator, device="cpu").argsort(0)
    return _picked(images, order)


def _picked(images, index):
    """Images (n, C, H, W) each pixel of which is that of the image ``index`` (n, H, W) says."""
    index = index[:, None].expand(-1, images.shape[1], -1, -1)
    return images.gather(0, index.to(images.device))


class UniformNoise:
    """Level 0 as a source: see :func:`uniform_noise`. Takes shape and device from ``images``."""

    def __init__(self, images):
        self._shape, self._device = images.shape[1:], images.device

    def sample(self, n, generator):
        """(n, C, H, W)"""
        return uniform_noise(n, self._shape, generator, self._device)


class ShuffledPixels:
    """Level 1 as a source of any number of images: each pixel is that of an image drawn for it."""

    def __init__(self, images):
        self._images = images

    def sample(self, n, generator):
        """(n, C, H, W)"""
        n_images, _, *size = self._images.shape
        index = torch.randint(n_images, (n, *size), generator=generator, device="cpu")
        return _picked(self._images, index)
