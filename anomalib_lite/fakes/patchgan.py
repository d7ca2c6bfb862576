"""Images by an entropy-regularized PatchGAN."""

from functools import partial

import torch
from torch.nn import functional as F

from ..nn.losses import INFORMATION_BOUNDS, information_bound
from ..nn.patchgan import InformationCritic, PatchDiscriminator, UNetGenerator
from ..nn.training import Objective, check_training, train
from ..nn.windows import KERNELS, coordinate_maps
from ..runtime import seeded
from ..validation import check_choice, check_count, check_number
from .imitator import Imitator

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
    critic_learning_rate=None,
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
        Losses by epoch; see :func:`~anomalib_lite.nn.train`.
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
            learning_rate=critic_learning_rate,
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
            self.statistics = InformationCritic(n_channels, widths)
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


class EntropyPatchGAN(Imitator):
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
        See :func:`~anomalib_lite.nn.information_bound`. The first is the calmer.
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
    discriminator_learning_rate, critic_learning_rate : float or None, default=None
        Of the other two; None: the generator's.
    schedule : {"constant", "cosine"} or callable, default="constant"
        See :func:`~anomalib_lite.nn.train`.
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
    >>> import numpy as np
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
        critic_learning_rate=None,
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
        self.critic_learning_rate = critic_learning_rate
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
        for name in ("discriminator_learning_rate", "critic_learning_rate"):
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
            critic_learning_rate=self.critic_learning_rate,
            schedule=self.schedule,
            verbose=self.verbose,
        )

    @property
    def _source(self):
        return self.generator_
