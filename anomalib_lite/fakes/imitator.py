"""Base class of estimators that learn to make fakes."""

from typing import ClassVar, Protocol

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..annotations import Images, RandomState
from ..base import ImageEstimator
from ..contexts import plain
from ..data.augment import is_gray, random_windows
from ..data.inputs import NetworkInput
from ..runtime import make_generator
from ..validation import check_count


class FakeSource(Protocol):
    """Anything that makes fakes, such as a trained generator."""

    def sample(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """``n`` images (n, C, H, W) in [0, 1]; ``generator`` is the CPU's."""


class Imitator(ImageEstimator):
    """Base class of estimators that learn to make images like those they are fitted on.

    A subclass implements :meth:`_imitate` and stores its parameters in ``__init__``, among them
    ``level``, ``image_size``, ``crop_size``, ``crops_per_image`` and what
    :class:`~anomalib_lite.base.ImageEstimator` asks for. It can then be given to
    :class:`~anomalib_lite.MLSAD` as ``fakes``, too.

    Attributes
    ----------
    source_ : FakeSource
        ``source_.sample(n, generator)`` makes images as tensors.
    """

    _min_images: ClassVar[int] = 1
    """Images, or crops, needed to learn from."""

    _is_trained: ClassVar[bool] = False
    """Whether :meth:`_imitate` trains a network, which takes a while."""

    # -- hooks ------------------------------------------------------------------------------------

    def _imitate(self, images: torch.Tensor, generator: torch.Generator) -> FakeSource:
        """Learn to imitate images; runs without gradients.

        Parameters
        ----------
        images : torch.Tensor of shape (N, C, H, W)
            Float32 in [0, 1], with one channel if no image has any color.
        generator : torch.Generator
            The CPU's.

        Returns
        -------
        source : FakeSource
            Makes images of the same shape on the same device.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement _imitate.")

    # -- fitting ----------------------------------------------------------------------------------

    def _check_params(self):
        if self.crop_size is not None:
            check_count("crop_size", self.crop_size)
        check_count("crops_per_image", self.crops_per_image)

    def _build(self, generator):
        network_input = NetworkInput.raw(self.image_size, patch_size=1)
        size = network_input.seen_size
        if self.crop_size is not None and self.crop_size > min(size):
            raise ValueError(f"crop_size: {self.crop_size} px do not fit into images of {size} px.")
        seen = self.crop_size or min(size)
        if self.level > seen:
            raise ValueError(f"level: windows of {self.level} px do not fit into {seen} px.")
        return network_input

    def _fit_images(self, X: Images):
        generator = make_generator(self.random_state)
        batches = self._learning_batches(self._open(X))
        images = torch.cat([batch.clone() for _, batch in batches])  # (N, 3, H, W)
        if is_gray(images):
            images = images[:, :1]
        if self.crop_size is not None:
            images = images.repeat_interleave(self.crops_per_image, 0)
            images = random_windows(images, generator, self.crop_size)
        self.check_images(images)
        self.source_ = self._imitate(images.contiguous(), generator)

    def check_images(self, images: torch.Tensor) -> None:
        """Raise ValueError if the images (N, C, H, W) are too few to learn from."""
        if len(images) < self._min_images:
            raise ValueError(
                f"X: {type(self).__name__} needs {self._min_images} images or more, got "
                f"{len(images)}. Give more, or take crops of them with crop_size."
            )

    # -- sampling ---------------------------------------------------------------------------------

    @plain
    def sample(self, n: int, random_state: RandomState = None) -> np.ndarray:
        """Make new images.

        Parameters
        ----------
        n : int
            Number of images.
        random_state : None, int, RandomState or Generator, default=None
            Seed of the images.

        Returns
        -------
        images : ndarray of shape (n, H, W) or (n, H, W, C)
            Float32 in [0, 1], of the size that was learned from; (n, H, W) if no image of ``fit``
            had any color.
        """
        check_is_fitted(self)
        check_count("n", n)
        images = self.source_.sample(n, make_generator(random_state))
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(images if images.shape[-1] > 1 else images[..., 0])
