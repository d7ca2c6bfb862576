"""Images that look normal through a small window, and through no larger one.

The fakes of level l keep what l x l windows show and break what goes beyond: uniform noise at level
0, pixels shuffled among images at level 1, then what a :class:`EntropyPatchGAN` learns to make, or
a :class:`PatchResampler` puts together.
"""

from functools import partial

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from .augment import random_windows
from .base import ImageEstimator, check_choice, check_count, check_number, check_training
from .geometry import as_pair
from .images import NetworkInput
from .losses import INFORMATION_BOUNDS, information_bound
from .networks import (
    KERNELS,
    PatchDiscriminator,
    StatisticsNetwork,
    UNetGenerator,
    coordinate_maps,
)
from .runtime import make_generator, seeded
from .training import Objective, train

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


# -- by an entropy-regularised PatchGAN -----------------------------------------------------------

_STAGES = 3


def trained_generator(
    images,
    level,
    generator,
    *,
    steps=None,
    epochs=300,
    batch_size=32,
    width=64,
    entropy_weight=1.0,
    bound="jensen-shannon",
    position=True,
    learning_rate=2e-4,
    discriminator_learning_rate=None,
    statistics_learning_rate=None,
    schedule="constant",
    verbose=False,
):
    """A generator whose ``level`` x ``level`` windows look like those of ``images``.

    Parameters
    ----------
    images : torch.Tensor of shape (N, C, H, W)
        In [0, 1].
    level : {1, 2, 4, 8, 16, 32}
    generator : torch.Generator
        The CPU's.
    **settings
        As :class:`EntropyPatchGAN` describes them.

    Returns
    -------
    network : UNetGenerator
        Ready to ``sample(n, generator)``.
    history : list of dict
        Losses by epoch; see :func:`~anomalib_lite.training.train`.
    """
    game = _Game(images, level, width, bound, position, generator)
    objectives = [
        Objective(
            game.discriminator_loss,
            game.discriminator.parameters(),
            "discriminator",
            learning_rate=discriminator_learning_rate,
        ),
        Objective(
            game.generator_losses, game.generator.parameters(), "generator", bounded=entropy_weight
        ),
        Objective(
            game.statistics_loss,
            game.statistics.parameters(),
            "statistics",
            learning_rate=statistics_learning_rate,
        ),
    ]
    history = train(
        objectives,
        game,
        torch.arange(len(images), device="cpu"),
        device=images.device,
        generator=generator,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        optimizer=partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True),
        learning_rate=learning_rate,
        schedule=schedule,
        verbose=verbose,
    )
    network = game.generator.to(memory_format=torch.contiguous_format)  # as a file gives it back
    return network.requires_grad_(False), history


class _Game(torch.nn.Module):
    """Three networks and what each wants. The discriminator's turn makes fakes for all."""

    def __init__(self, images, level, width, bound, position, generator):
        super().__init__()
        _, n_channels, *size = images.shape
        widths = [width * 2**i for i in range(min(_STAGES, min(size).bit_length() - 1))]
        start = float(images.median().clamp(0.01, 0.99))
        with torch.device("cpu"), seeded(generator, images.device):
            self.generator = UNetGenerator((n_channels, *size), widths, start)
            self.discriminator = PatchDiscriminator(level, n_channels, width)
            self.statistics = StatisticsNetwork(n_channels, widths)
        self.to(images.device, memory_format=torch.channels_last)
        self._images, self._bound = images, bound
        self._coordinates = coordinate_maps(size, images.device) * position

    def _judged(self, images):
        return self.discriminator(2 * images - 1, self._coordinates)

    def discriminator_loss(self, index, generator):
        real = self._images[index.to(self._images.device)]
        self._noise = torch.randn(real.shape, generator=generator, device="cpu").to(real)
        self._fakes = self.generator(self._noise)
        real, fake = self._judged(real), self._judged(self._fakes.detach())
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_losses(self, _index, _generator):
        """To look real; minus what images and their noise know of one another."""
        return F.softplus(-self._judged(self._fakes)).mean(), -self._information(self._fakes)

    def statistics_loss(self, _index, _generator):
        return -self._information(self._fakes.detach())

    def _information(self, fakes):
        together = self.statistics(2 * fakes - 1, self._noise)
        apart = self.statistics(2 * fakes - 1, self._noise.roll(1, 0))
        return information_bound(together, apart, kind=self._bound)


# -- the same for images of any kind --------------------------------------------------------------


class _Imitator(ImageEstimator):
    """What the two have in common: images, or crops of them, to learn from; images to give."""

    def _check_params(self):
        if self.crop_size is not None:
            check_count("crop_size", self.crop_size)
        check_count("crops_per_image", self.crops_per_image)

    def _build(self, generator):
        size = as_pair("image_size", self.image_size)
        seen = self.crop_size or min(size)
        if seen > min(size):
            raise ValueError(f"crop_size: {seen} px do not fit into images of {size} px.")
        if self.level > seen:
            raise ValueError(f"level: windows of {self.level} px do not fit into {seen} px.")
        return NetworkInput(image_size=size, mean=(0.0,) * 3, std=(1.0,) * 3, patch_size=1)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _fit_images(self, X):
        generator = make_generator(self.random_state)
        batches = self._learning_batches(self._open(X))
        images = torch.cat([batch.clone() for _, batch in batches])  # (N, 3, H, W)
        if (images == images[:, :1]).all():
            images = images[:, :1]
        if self.crop_size is not None:
            images = images.repeat_interleave(self.crops_per_image, 0)
            images = random_windows(images, generator, self.crop_size)
        self._imitate(images.contiguous(), generator)

    def sample(self, n, random_state=None):
        """New images.

        Parameters
        ----------
        n : int
        random_state : None, int, RandomState or Generator, default=None

        Returns
        -------
        images : ndarray of shape (n, H, W) or (n, H, W, C)
            float32 in [0, 1], of the size that was learned from; (n, H, W) where no image of
            ``fit`` had any colour.
        """
        check_is_fitted(self)
        check_count("n", n)
        with torch.no_grad():
            images = self._source.sample(n, make_generator(random_state))
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(images if images.shape[-1] > 1 else images[..., 0])


class EntropyPatchGAN(_Imitator):
    r"""Images that look normal through every l x l window, and as random as can be beyond.

    A generator and a discriminator that sees l x l windows, with their places, make windows look
    real. Of all distributions with such windows the one with the largest entropy knows of nothing
    that is longer than a window. So a third network bounds, from below, the mutual information
    between images and the noise they are made of, which is their entropy, and the generator raises
    the bound: with a gradient that is cut to the length of the discriminator's,

    .. math:: g = g_{adv} + w \min(1, \|g_{adv}\| / \|g_{mi}\|) \, g_{mi}.

    Parameters
    ----------
    level : {1, 2, 4, 8, 16, 32}, default=4
        l, in pixels.
    entropy_weight : float, default=1.0
        w; 0 is the plain PatchGAN.
    bound : {"jensen-shannon", "donsker-varadhan"}, default="jensen-shannon"
        See :func:`~anomalib_lite.losses.information_bound`. The first is the calmer.
    position : bool, default=True
        False: windows look like those of anywhere in the images.
    width : int, default=64
        Channels of the first layer of each network.
    epochs : int, default=300
    steps : int or None, default=None
        Batches to train on, in place of ``epochs``.
    train_batch_size : int, default=32
        At least 3.
    learning_rate : float, default=0.0002
        Of the generator, by Adam with betas of 0.5 and 0.999.
    discriminator_learning_rate, statistics_learning_rate : float or None, default=None
        Of the other two; None: the generator's.
    schedule : {"constant", "cosine"} or callable, default="constant"
        See :func:`~anomalib_lite.training.train`.
    image_size : int or tuple (H, W), default=32
        Images are resized to it, whatever their proportions.
    crop_size : int or None, default=None
        Learn from square crops of this side, and make such: for textures.
    crops_per_image : int, default=16
        Drawn once.
    batch_size : int, default=32
        Images that are read together on an accelerator.
    device : str or torch.device, default="auto"
    random_state : None, int, RandomState or Generator, default=None
        Draws first weights, batches, noise and crops.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    generator_ : UNetGenerator
    history_ : list of dict
        Losses by epoch: "discriminator", "generator" (its first), "statistics" (minus the bound).
    n_images_ : int
    device_ : torch.device

    Notes
    -----
    The learning rates and the networks of levels 16 and 32 are choices of ours: the text has none.
    So are the standard normal noise, the loss (each side's cross-entropy, the generator's by what
    is taken for real) and where outputs begin: at the images' median.

    References
    ----------
    S. Dai et al., "Unsupervised Learning of Multi-level Structures for Anomaly Detection", 2021.

    Examples
    --------
    >>> from anomalib_lite import EntropyPatchGAN
    >>> images = np.random.default_rng(0).random((20, 16, 16))
    >>> gan = EntropyPatchGAN(2, image_size=16, width=4, steps=5, random_state=0).fit(images)
    >>> gan.sample(3, random_state=0).shape
    (3, 16, 16)
    """

    def __init__(
        self,
        level=4,
        *,
        entropy_weight=1.0,
        bound="jensen-shannon",
        position=True,
        width=64,
        epochs=300,
        steps=None,
        train_batch_size=32,
        learning_rate=2e-4,
        discriminator_learning_rate=None,
        statistics_learning_rate=None,
        schedule="constant",
        image_size=32,
        crop_size=None,
        crops_per_image=16,
        batch_size=32,
        device="auto",
        random_state=None,
        verbose=False,
    ):
        self.level = level
        self.entropy_weight = entropy_weight
        self.bound = bound
        self.position = position
        self.width = width
        self.epochs = epochs
        self.steps = steps
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
        self.statistics_learning_rate = statistics_learning_rate
        self.schedule = schedule
        self.image_size = image_size
        self.crop_size = crop_size
        self.crops_per_image = crops_per_image
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        super()._check_params()
        check_choice("level", self.level, tuple(KERNELS))
        check_number("entropy_weight", self.entropy_weight, minimum=0)
        check_choice("bound", self.bound, INFORMATION_BOUNDS)
        check_count("width", self.width)
        check_count("epochs", self.epochs)
        if self.steps is not None:
            check_count("steps", self.steps)
        # of 2, an odd number of images would leave one alone
        check_count("train_batch_size", self.train_batch_size, minimum=3)
        check_training(self)
        for name in ("discriminator_learning_rate", "statistics_learning_rate"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), minimum=0)

    def _imitate(self, images, generator):
        if len(images) < 2:
            raise ValueError("X: expected 2 images or more, got 1: what is random about one?")
        self.generator_, self.history_ = trained_generator(
            images,
            self.level,
            generator,
            entropy_weight=self.entropy_weight,
            bound=self.bound,
            position=self.position,
            width=self.width,
            epochs=self.epochs,
            steps=self.steps,
            batch_size=self.train_batch_size,
            learning_rate=self.learning_rate,
            discriminator_learning_rate=self.discriminator_learning_rate,
            statistics_learning_rate=self.statistics_learning_rate,
            schedule=self.schedule,
            verbose=self.verbose,
        )

    @property
    def _source(self):
        return self.generator_


class PatchResampler(_Imitator):
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
