"""Images that look normal through a small window, and through no larger one.

The fakes of level l keep what l x l windows show and break what goes beyond: uniform noise at level
0, pixels shuffled among images at level 1, then what a :class:`EntropyPatchGAN` learns to make, or
a :class:`PatchResampler` puts together.
"""

import torch
from torch.nn import functional as F

_BLOCK = 2**24  # distances held at a time
_ROUNDING = 1e-4  # by which equal squared distances of windows may differ in float32


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
        Of the kind: ``tolerance`` of :class:`Resampled`.

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
    return Resampled(images, level, **options)


# -- by definition --------------------------------------------------------------------------------


def uniform_noise(n, shape, generator, device="cpu"):
    """Level 0: images (n, *shape) of pixels that are uniform in [0, 1), each on its own."""
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


# -- by resampling --------------------------------------------------------------------------------


class Resampled:
    """A source of images put together pixel by pixel, so that each window is one of ``images``.

    From the upper left on, a pixel is drawn from images whose ``level`` x ``level`` window ending
    there shows what was drawn before: see :func:`resampled`.

    Parameters
    ----------
    images : torch.Tensor of shape (N, C, H, W)
    level : int
    tolerance : float, default=0.2
    """

    def __init__(self, images, level, tolerance=0.2):
        self._images, self._level, self._tolerance = images, level, tolerance

    def sample(self, n, generator):
        """(n, C, H, W)"""
        n_images, _, *size = self._images.shape
        draws = torch.rand(n, *size, generator=generator, device="cpu").to(self._images)
        block = max(1, _BLOCK // (n_images * min(size)))
        parts = [
            resampled(self._images, self._level, part, tolerance=self._tolerance)
            for part in draws.split(block)
        ]
        return torch.cat(parts)


def resampled(images, level, draws, *, tolerance):
    """Images (n, C, H, W), each pixel of an image that looks the same above and to the left of it.

    Of the ``level`` x ``level`` window whose last pixel is (i, j), all others have been drawn when
    (i, j) is. It becomes that of one of the images whose window at the same place is not farther
    from these than ``tolerance``, or of the nearest, where there is none. What pixels of one
    anti-diagonal need has been drawn before the first of them, so they are drawn together.

    Parameters
    ----------
    images : torch.Tensor of shape (N, C, H, W)
    level : int
    draws : torch.Tensor of shape (n, H, W)
        In [0, 1): which of the images that match a pixel is taken from.
    tolerance : float
        A Euclidean distance, of pixel values; one of 0.01 is taken for none.
    """
    height, width = images.shape[2:]
    margin = level - 1
    known = F.pad(images, (margin, 0, margin, 0))  # beyond the edge all are alike
    made = known.new_zeros(len(draws), *known.shape[1:])
    for diagonal in range(height + width - 1):
        rows = torch.arange(max(0, diagonal - width + 1), min(diagonal, height - 1) + 1)
        columns = diagonal - rows
        ours, theirs = (_contexts(every, level, rows, columns) for every in (made, known))
        distance = torch.baddbmm(theirs.square().sum(-1)[:, None], ours, theirs.mT, alpha=-2)
        distance += ours.square().sum(-1, keepdim=True)  # (D, n, N), squared
        limit = distance.amin(-1, keepdim=True).clamp_min(tolerance**2) + _ROUNDING
        matches = distance <= limit
        n_matches = matches.sum(-1)
        rank = (n_matches * draws[:, rows, columns].T).long().minimum(n_matches - 1)  # (D, n)
        chosen = (matches.cumsum(-1, dtype=torch.int32) <= rank[..., None]).sum(-1)
        pixels = images[chosen, :, rows[:, None], columns[:, None]]  # (D, n, C)
        made[:, :, rows + margin, columns + margin] = pixels.permute(1, 2, 0)
    return made[:, :, margin:, margin:].contiguous()


def _contexts(images, level, rows, columns):
    """Windows (D, n, C level²) of padded images that end at D places, the last pixel set to 0."""
    windows = images.unfold(2, level, 1).unfold(3, level, 1)[:, :, rows, columns]
    windows = windows.permute(2, 0, 1, 3, 4).clone()  # (D, n, C, level, level)
    windows[..., -1, -1] = 0
    return windows.flatten(2)
