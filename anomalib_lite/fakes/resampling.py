"""Images put together pixel by pixel from the windows of normal ones."""

import torch
from torch.nn import functional as F

from ..validation import check_count, check_number
from .imitator import Imitator

_BLOCK = 2**24  # distances held at a time
_ROUNDING = 1e-4  # by which equal squared distances of windows may differ in float32


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
        counts = (distance <= limit).cumsum(-1, dtype=torch.int32)
        n_matches = counts[..., -1:]
        rank = (n_matches * draws[:, rows, columns].T[..., None]).int().minimum(n_matches - 1)
        chosen = torch.searchsorted(counts, rank, right=True)[..., 0]  # (D, n)
        pixels = images[chosen, :, rows[:, None], columns[:, None]]  # (D, n, C)
        made[:, :, rows + margin, columns + margin] = pixels.permute(1, 2, 0)
    return made[:, :, margin:, margin:].contiguous()


def _contexts(images, level, rows, columns):
    """Windows (D, n, C level²) of padded images that end at D places, the last pixel set to 0."""
    windows = images.unfold(2, level, 1).unfold(3, level, 1)[:, :, rows, columns]
    windows = windows.permute(2, 0, 1, 3, 4).clone()  # (D, n, C, level, level)
    windows[..., -1, -1] = 0
    return windows.flatten(2)


class PatchResampler(Imitator):
    """Images put together, pixel by pixel, of those it was given: what stands in for a GAN.

    From the upper left on, each pixel is drawn from images whose l x l window ending there shows
    what has been drawn before; where none does, it is taken from the nearest. Nothing is trained,
    so it takes seconds.

    Parameters
    ----------
    level : int, default=4
        l, in pixels; 1 draws each pixel on its own.
    tolerance : float, default=0.2
        Euclidean distance between windows, in units of pixel values in [0, 1], that counts as
        none. Larger: more random, with windows that are less like those of the data.
    image_size : int or tuple (H, W), default=32
        Images are resized to it, whatever their proportions.
    crop_size : int or None, default=None
        Draw from square crops of this side, and make such: for textures.
    crops_per_image : int, default=16
        Drawn once.
    batch_size : int, default=32
        Images that are read together on an accelerator.
    device : str or torch.device, default="auto"
    random_state : None, int, RandomState or Generator, default=None
        Draws crops.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    images_ : torch.Tensor of shape (N, C, H, W)
        What is drawn from.
    n_images_ : int
    device_ : torch.device

    Examples
    --------
    >>> from anomalib_lite import PatchResampler
    >>> import numpy as np
    >>> images = np.random.default_rng(0).random((20, 16, 16, 3))
    >>> PatchResampler(2, image_size=16).fit(images).sample(3, random_state=0).shape
    (3, 16, 16, 3)
    """

    def __init__(
        self,
        level=4,
        *,
        tolerance=0.2,
        image_size=32,
        crop_size=None,
        crops_per_image=16,
        batch_size=32,
        device="auto",
        random_state=None,
        verbose=False,
    ):
        self.level = level
        self.tolerance = tolerance
        self.image_size = image_size
        self.crop_size = crop_size
        self.crops_per_image = crops_per_image
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        super()._check_params()
        check_count("level", self.level)
        check_number("tolerance", self.tolerance, minimum=0)

    def _imitate(self, images, _generator):
        # what is fitted so is sampled so, whatever set_params says later
        self._how_ = {"level": self.level, "tolerance": self.tolerance}
        self.images_ = images

    @property
    def _source(self):
        return Resampled(self.images_, **self._how_)
