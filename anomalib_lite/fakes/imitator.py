"""What makers of fakes have in common."""

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from ..base import ImageEstimator
from ..data.augment import random_windows
from ..data.inputs import NetworkInput
from ..runtime import make_generator
from ..validation import as_pair, check_count


class Imitator(ImageEstimator):
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
            ``fit`` had any color.
        """
        check_is_fitted(self)
        check_count("n", n)
        with torch.no_grad():
            images = self._source.sample(n, make_generator(random_state))
        images = images.permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(images if images.shape[-1] > 1 else images[..., 0])
