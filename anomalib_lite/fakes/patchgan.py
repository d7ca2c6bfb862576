"""Fakes from an entropy-regularized PatchGAN."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from ..annotations import Device, RandomState, Size
from ..contexts import seeded
from ..nn.losses import INFORMATION_BOUNDS, information_bound
from ..nn.patchgan import InformationCritic, PatchDiscriminator, UNetGenerator
from ..nn.training import Objective, check_training, train, training_settings
from ..nn.windows import KERNELS, coordinate_maps
from ..runtime import normal
from ..validation import check_choice, check_count, check_number
from .imitator import Imitator

_STAGES = 3  # resolutions of the generator and the critic, if images are large enough
_ADAM = partial(torch.optim.Adam, betas=(0.5, 0.999), fused=True)


@dataclass(frozen=True, eq=False)
class _Round:
    """What the three networks play with in one training step, all (n, C, H, W)."""

    real: torch.Tensor
    noise: torch.Tensor
    fakes: torch.Tensor  # the generator's, of ``noise``, with its gradients


class _Game(torch.nn.Module):
    """The three networks and their losses."""

    def __init__(self, images, level, width, bound, position, generator):
        super().__init__()
        _, n_channels, *size = images.shape
        widths = [width * 2**i for i in range(min(_STAGES, min(size).bit_length() - 1))]
        start = float(images.median().clamp(0.01, 0.99))
        with seeded(generator):
            self.generator = UNetGenerator((n_channels, *size), widths, start)
            self.discriminator = PatchDiscriminator(level, n_channels, width)
            self.critic = InformationCritic(n_channels, widths)
        self.to(images.device, memory_format=torch.channels_last)
        self._images, self._bound = images, bound
        self._coordinates = coordinate_maps(size, images.device) * position

    def objectives(self, *, entropy_weight, discriminator_learning_rate, critic_learning_rate):
        """What each network is trained on, in the order of their turns within a training step.

        The discriminator moves first and deals the round that all three play with: its fakes were
        made before any network of the step has changed.
        """
        dealt = None

        def discriminator_turn(index, generator):
            nonlocal dealt
            dealt = self.deal(index, generator)
            return self.discriminator_loss(dealt)

        def generator_turn(_index, _generator):
            return self.generator_losses(dealt)

        def critic_turn(_index, _generator):
            return self.critic_loss(dealt)

        return [
            Objective(
                discriminator_turn,
                self.discriminator.parameters(),
                "discriminator",
                learning_rate=discriminator_learning_rate,
            ),
            Objective(
                generator_turn, self.generator.parameters(), "generator", bounded=entropy_weight
            ),
            Objective(
                critic_turn, self.critic.parameters(), "critic", learning_rate=critic_learning_rate
            ),
        ]

    def deal(self, index, generator):
        """A new round of the images ``index``, with noise drawn from ``generator``."""
        real = self._images[index.to(self._images.device)]
        noise = normal(real.shape, generator).to(real)
        return _Round(real, noise, self.generator(noise))

    def judge(self, images):
        """The discriminator's logits "real" (n, h, w) of the windows of images."""
        return self.discriminator(2 * images - 1, self._coordinates)

    def discriminator_loss(self, dealt):
        """Cross-entropy of telling the windows of real images from those of fakes."""
        real, fake = self.judge(dealt.real), self.judge(dealt.fakes.detach())
        return F.softplus(-real).mean() + F.softplus(fake).mean()

    def generator_losses(self, dealt):
        """(adversarial loss, minus the bound on the information fakes have about their noise)."""
        adversarial = F.softplus(-self.judge(dealt.fakes)).mean()
        return adversarial, -self.information(dealt.fakes, dealt.noise)

    def critic_loss(self, dealt):
        """Minus the bound, which the critic makes as tight as it can."""
        return -self.information(dealt.fakes.detach(), dealt.noise)

    def information(self, fakes, noise):
        """Lower bound on the mutual information of fakes and their noise."""
        together = self.critic(2 * fakes - 1, noise)
        apart = self.critic(2 * fakes - 1, noise.roll(1, 0))
        return information_bound(together, apart, kind=self._bound)


class EntropyPatchGAN(Imitator):
    r"""Generative model of images that look normal in l x l windows and are random beyond.

    A generator competes with a discriminator that sees l x l windows and their positions. Of all
    distributions with normal windows, the one of largest entropy knows nothing longer than a
    window. A third network, the critic, bounds the entropy of the images from below by the mutual
    information between them and the noise they are made of. The generator raises this bound, with
    a gradient cut to the length of the adversarial one:

    .. math:: g = g_{adv} + w \min(1, \|g_{adv}\| / \|g_{mi}\|) \, g_{mi}.

    Parameters
    ----------
    level : {1, 2, 4, 8, 16, 32}, default=4
        Side l, in pixels, of the windows that look normal.
    entropy_weight : float, default=1.0
        w; 0 is the plain PatchGAN.
    bound : {"jensen-shannon", "donsker-varadhan"}, default="jensen-shannon"
        Bound on the mutual information; see :func:`~anomalib_lite.nn.information_bound`. The
        first has the smaller variance.
    position : bool, default=True
        Tell the networks where each window is; False is for textures.
    width : int, default=64
        Channels of the first convolution of each network.
    epochs : int, default=300
        Passes over the training images.
    train_steps : int or None, default=None
        Number of training batches, in place of ``epochs``.
    train_batch_size : int, default=32
        Images of a training step. At least 3: the critic compares an image with another's noise.
    learning_rate : float, default=0.0002
        Learning rate of the optimizer: the generator's Adam, with betas of 0.5 and 0.999. Low, as
        usual for GANs.
    discriminator_learning_rate, critic_learning_rate : float or None, default=None
        Learning rates of the other two networks; None takes the generator's.
    schedule : {"cosine", "constant"} or callable, default="constant"
        Schedule of the learning rate; see :func:`~anomalib_lite.nn.train`.
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
        Seed of everything random. It draws first weights, batches, noise and crops.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    source_ : UNetGenerator
        The trained generator; ``source_.sample(n, generator)`` makes images as tensors.
    history_ : list of dict
        Losses by epoch: "discriminator", "generator" (adversarial), "critic" (minus the bound).
    n_images_ : int
        Images learned from.
    device_ : torch.device

    Notes
    -----
    The paper gives neither learning rates nor networks for levels 16 and 32; these are ours, and so
    are the standard normal noise, the loss (cross-entropy; the generator's is that of fakes taken
    for real) and the value that outputs start from, the images' median.

    References
    ----------
    S. Dai et al., "Unsupervised Learning of Multi-level Structures for Anomaly Detection", 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import EntropyPatchGAN
    >>> images = np.random.default_rng(0).random((20, 16, 16))
    >>> gan = EntropyPatchGAN(2, image_size=16, width=4, train_steps=5, random_state=0).fit(images)
    >>> gan.sample(3, random_state=0).shape
    (3, 16, 16)
    """

    _is_trained = True
    _min_images = 2  # the critic compares images with the noise of others

    def __init__(
        self,
        level: int = 4,
        *,
        entropy_weight: float = 1.0,
        bound: str = "jensen-shannon",
        position: bool = True,
        width: int = 64,
        epochs: int = 300,
        train_steps: int | None = None,
        train_batch_size: int = 32,
        learning_rate: float = 2e-4,
        discriminator_learning_rate: float | None = None,
        critic_learning_rate: float | None = None,
        schedule: str | Callable[[float], float] = "constant",
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
        self.entropy_weight = entropy_weight
        self.bound = bound
        self.position = position
        self.width = width
        self.epochs = epochs
        self.train_steps = train_steps
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.discriminator_learning_rate = discriminator_learning_rate
        self.critic_learning_rate = critic_learning_rate
        self.schedule = schedule
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
        check_choice("level", self.level, tuple(KERNELS))
        check_number("entropy_weight", self.entropy_weight, minimum=0)
        check_choice("bound", self.bound, INFORMATION_BOUNDS)
        check_count("width", self.width)
        check_count("epochs", self.epochs)
        if self.train_steps is not None:
            check_count("train_steps", self.train_steps)
        # batches of 2 would split an odd number of images so that one is left alone
        check_count("train_batch_size", self.train_batch_size, minimum=3)
        check_training(self)
        for name in ("discriminator_learning_rate", "critic_learning_rate"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), minimum=0)

    def _imitate(self, images, generator):
        game = _Game(images, self.level, self.width, self.bound, self.position, generator)
        objectives = game.objectives(
            entropy_weight=self.entropy_weight,
            discriminator_learning_rate=self.discriminator_learning_rate,
            critic_learning_rate=self.critic_learning_rate,
        )
        self.history_ = train(
            objectives,
            game,
            torch.arange(len(images), device="cpu"),
            device=images.device,
            generator=generator,
            optimizer=_ADAM,
            **training_settings(self),
        )
        network = game.generator.to(memory_format=torch.contiguous_format)  # as a file holds it
        return network.requires_grad_(False)
