"""A detector of your own: the whole of it. docs/write_a_detector.md explains it line by line."""

import torch

from anomalib_lite import BaseDetector


class MeanImage(BaseDetector):
    """Score images by their mean squared difference from the mean normal image."""

    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch for _, batch in batches])  # (n, 3, h, w)
        self.mean_ = images.mean(0)
        n = len(images)  # from the mean of the n - 1 others an image is n / (n - 1) times as far
        return (n / (n - 1)) ** 2 * (images - self.mean_).square().mean((1, 2, 3))

    def _infer(self, batch):
        squares = (batch - self.mean_).square().mean(1)  # (B, h, w)
        return squares.mean((1, 2)), squares
