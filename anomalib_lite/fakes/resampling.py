"""Fakes put together pixel by pixel from the windows of normal images."""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ..annotations import Device, RandomState, Size
from ..contexts import plain
from ..runtime import uniform
from ..validation import check_count, check_number
from ..workers import map_on
from .imitator import Imitator

_BLOCK = 2**24  # distances held at a time
_ROUNDING = 1e-4  # by which equal squared distances of windows may differ in float32


def resampled(
    images: torch.Tensor, level: int, draws: torch.Tensor, *, tolerance: float
) -> torch.Tensor:
    """Images (n, C, H, W) made of pixels whose upper and left neighbors match those of an image.

    When pixel (i, j) is drawn, the rest of the ``level`` x ``level`` window that ends there has
    been drawn already. The pixel is copied from an image whose window at the same place is within
    ``tolerance`` of this rest; if there is none, from the nearest. The pixels of an anti-diagonal
    do not depend on one another, so they are drawn together.

    Parameters
    ----------
    images : torch.Tensor of shape (N, C, H, W)
    level : int
        Side of the windows, in pixels.
    draws : torch.Tensor of shape (n, H, W)
        In [0, 1): which of the matching images a pixel is copied from.
    tolerance : float
        Euclidean distance, of pixel values; 0.01 or less counts as none.
    """
    height, width = images.shape[2:]
    margin = level - 1
    known = F.pad(images, (margin, 0, margin, 0))  # beyond the edge all images are alike
    made = known.new_zeros(len(draws), *known.shape[1:])
    for diagonal in range(height + width - 1):
        first, end = max(0, diagonal - width + 1), min(diagonal, height - 1) + 1
        rows = torch.arange(first, end, device="cpu")
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


@dataclass(frozen=True, eq=False)
class Resampled:
    """Source of fakes by resampling: see :func:`resampled`.

    Parameters
    ----------
    images : torch.Tensor of shape (N, C, H, W)
        Normal images, which fakes are put together from.
    level : int
        Side, in pixels, of the windows that match.
    tolerance : float, default=0.2
        Euclidean distance between windows that count as equal.
    """

    images: torch.Tensor
    level: int
    tolerance: float = 0.2

    def __post_init__(self):
        longest = max(self.images.shape[2:])
        if not 1 <= self.level <= longest:
            raise ValueError(
                f"level: expected 1 to {longest}, the longer side of the images in pixels, got "
                f"{self.level}."
            )

    @plain
    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """(n, C, H, W)"""
        n_images, _, *size = self.images.shape
        draws = uniform((n, *size), generator).to(self.images)
        block = max(1, _BLOCK // (n_images * min(size)))

        def make(part):
            return resampled(self.images, self.level, part, tolerance=self.tolerance)

        return torch.cat(map_on(self.images.device, make, draws.split(block)))


class PatchResampler(Imitator):
    """Fakes put together pixel by pixel from normal images: no training, done in seconds.

    Starting at the upper left, each pixel is copied from an image whose l x l window ending there
    shows what has been drawn before; if there is none, from the one with the nearest window.

    Parameters
    ----------
    level : int, default=4
        Side l, in pixels, of the windows that look normal; 1 draws each pixel independently.
    tolerance : float, default=0.2
        Euclidean distance between windows, of pixel values in [0, 1], that count as equal. Larger
        values make images more random, and their windows less like those of the data.
    image_size : int or tuple (H, W), default=32
        Images are resized to it, whatever their proportions. Small, as cost grows with the number
        of pixels.
    crop_size : int or None, default=None
        Side of the random square crops to learn from, in pixels of the resized image; None for
        whole images. Samples are crops, too: for textures.
    crops_per_image : int, default=16
        Number of random crops of each image, drawn once.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
        Nothing but reading depends on it here.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the crops.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    source_ : Resampled
        ``source_.sample(n, generator)`` makes images as tensors.
    n_images_ : int
        Images learned from.
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
        level: int = 4,
        *,
        tolerance: float = 0.2,
        image_size: Size = 32,
        crop_size: int | None = None,
        crops_per_image: int = 16,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.level = level
        self.tolerance = tolerance
        self.image_size = image_size
        self.crop_size = crop_size
        self.crops_per_image = crops_per_image
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        super()._check_params()
        check_count("level", self.level)
        check_number("tolerance", self.tolerance, minimum=0)

    def _imitate(self, images, generator):
        # Snapshot: later set_params calls must not alter a fitted estimator
        return Resampled(images, self.level, self.tolerance)
