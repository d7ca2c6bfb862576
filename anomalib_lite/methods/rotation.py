"""RotationPrediction: the turn of an image as the task, its embedding as the representation."""

import torch
from torch.nn import functional as F

from ..data.augment import TURNS, turned
from .two_stage import TwoStageDetector


class RotationPrediction(TwoStageDetector):
    r"""RotationPrediction: a network learns which way up images are; one class is fitted after.

    Every image of a batch enters at all four quarter turns, and the network learns to tell which
    turn it sees. To do so it has to know the parts of a normal image and their arrangement. Its own
    answer is not the score: the embedding before the head goes to a one-class classifier, which
    sees images unturned.

    Parameters
    ----------
    @parameters

    Attributes
    ----------
    @attributes

    Notes
    -----
    Images that look alike at two turns (textures, round parts, the digits 0, 1 and 8) give it
    little to learn from.

    The published settings train a ResNet18 from random weights for 2,048 epochs: hours on an
    accelerator, weeks on a CPU. For small images on a CPU take ``backbone="convnet"``, some tens of
    epochs and ``hidden=(128,)``.

    Training passes over the images many times, so they are held in memory as the network sees them:
    0.6 MB an image of 224 px.

    References
    ----------
    K. Sohn, C.-L. Li, J. Yoon, M. Jin, T. Pfister, "Learning and Evaluating Representations for
    Deep One-Class Classification", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import RotationPrediction
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(0, 40, size=(16, 32, 32), dtype=np.uint8)
    >>> normal[:, :8] += 200  # a bright bar on top
    >>> odd = normal[:2].transpose(0, 2, 1)  # at the left
    >>> detector = RotationPrediction(
    ...     "convnet", hidden=(32,), epochs=5, train_batch_size=8, image_size=32, random_state=0
    ... )
    >>> detector.fit(normal).predict(odd)
    array([-1, -1])
    """

    _n_outputs = len(TURNS)
    _turns_images = True

    def __init__(
        self,
        backbone="resnet18",
        classifier="kde",
        *,
        layers="last",
        weights="random",
        train_from=None,
        hidden=(512,) * 8 + (128,),
        normalize=True,
        patch_level=False,
        window_size=32,
        window_stride=8,
        n_patches=2000,
        epochs=2048,
        steps=None,
        train_batch_size=64,
        learning_rate=0.01,
        optimizer="sgd",
        schedule="cosine",
        weight_decay=3e-4,
        clip_norm=None,
        validation_fraction=0.0,
        patience=None,
        on_interrupt="raise",
        image_size=None,
        center_crop=None,
        smoothing=8.0,
        false_alarm_rate=0.01,
        batch_size=32,
        device="auto",
        dtype="auto",
        random_state=None,
        verbose=False,
    ):
        self._store(locals())

    def _views(self, images, generator):
        labels = torch.tensor(TURNS, device=images.device).repeat_interleave(len(images))
        return turned(images, TURNS), labels

    def _loss(self, outputs, labels):
        return F.cross_entropy(outputs, labels)
