"""Fakes of each level: uniform noise, shuffled pixels, then what an imitator has learned to make.

A fake of level l looks normal in every l x l window, but its windows do not fit together. Level 0
is uniform noise, level 1 exchanges pixels among images, and the levels above come from an
:class:`EntropyPatchGAN` or a :class:`PatchResampler`.
"""

import torch

from ..runtime import uniform
from .imitator import FakeSource, Imitator


def make_fakes(
    level: int,
    images: torch.Tensor,
    generator: torch.Generator,
    imitator: Imitator | None = None,
) -> FakeSource:
    """A source of fakes of a level.

    Parameters
    ----------
    level : int
        Side, in pixels, of the windows that look normal.
    images : torch.Tensor of shape (N, C, H, W)
        Normal images, float32 in [0, 1].
    generator : torch.Generator
        The CPU's.
    imitator : Imitator or None, default=None
        Learns from ``images`` at level 2 and above; its own ``level`` must be this one.

    Returns
    -------
    source : FakeSource
        ``source.sample(n, generator)`` gives images (n, C, H, W) in [0, 1] on the device of
        ``images``.

    Examples
    --------
    >>> from anomalib_lite import PatchResampler
    >>> seed = torch.Generator().manual_seed(0)
    >>> images = torch.rand(20, 1, 8, 8, generator=seed)
    >>> tuple(make_fakes(2, images, seed, PatchResampler(2)).sample(5, seed).shape)
    (5, 1, 8, 8)
    """
    if level == 0:
        return UniformNoise(images)
    if level == 1:
        return ShuffledPixels(images)
    if imitator is None or imitator.level != level:
        raise ValueError(f"imitator: expected one of level {level}, got {imitator!r}.")
    return imitator._imitate(images, generator)


def uniform_noise(
    n: int,
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Level 0: images ``(n, *shape)`` of independent pixels, uniform in [0, 1)."""
    return uniform((n, *shape), generator).to(device)


def shuffled_pixels(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Level 1: images (N, C, H, W) that have exchanged pixels at each position independently.

    Every position keeps exactly the pixels it has in ``images``, and the channels of a pixel stay
    together.

    Examples
    --------
    >>> images = torch.arange(8.0).view(4, 1, 1, 2)
    >>> shuffled_pixels(images, torch.Generator().manual_seed(0)).flatten(1).sort(0).values.tolist()
    [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]
    """
    n, _, *size = images.shape
    order = uniform((n, *size), generator).argsort(0)
    return _picked(images, order)


def _picked(images, index):
    """Images (n, C, H, W) with each pixel from the image that ``index`` (n, H, W) names."""
    index = index[:, None].expand(-1, images.shape[1], -1, -1)
    return images.gather(0, index.to(images.device))


class UniformNoise:
    """Source of level 0: see :func:`uniform_noise`. Takes shape and device from ``images``."""

    def __init__(self, images: torch.Tensor):
        self._shape, self._device = images.shape[1:], images.device

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """(n, C, H, W)"""
        return uniform_noise(n, self._shape, generator, self._device)


class ShuffledPixels:
    """Source of level 1, for any number of images: each pixel comes from an image of its own."""

    def __init__(self, images: torch.Tensor):
        self._images = images

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """(n, C, H, W)"""
        n_images, _, *size = self._images.shape
        index = torch.randint(n_images, (n, *size), generator=generator, device="cpu")
        return _picked(self._images, index)
