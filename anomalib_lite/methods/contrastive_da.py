"""ContrastiveDA: contrastive learning on a distribution that holds turned images as its own."""

import torch
from torch.nn import functional as F

from ..data.augment import TURNS, simclr_views, turned
from ..nn.losses import info_nce_loss
from ..validation import check_choice, check_number
from .two_stage import TwoStageDetector

_AUGMENTATIONS = ("rotation", "flip")


class ContrastiveDA(TwoStageDetector):
    r"""ContrastiveDA: contrastive learning under distribution augmentation, then one class.

    Two random views (crop, flip, colors, gray, blur) of an image are to have close embeddings, and
    those of other images far ones: the InfoNCE loss of SimCLR. Left at that, the normal images
    would fill the whole sphere, and leave no room for anomalies. So the images' own turns join the
    data as images of another kind: normal images have to keep together to be told from them. The
    classifier, an SVM, is fitted on embeddings, before the head, of images as they are.

    Parameters
    ----------
    @parameters
    temperature : float, default=0.2
        Of the InfoNCE loss.
    augmentation : {"rotation", "flip"}, default="rotation"
        What joins the data: all quarter turns, or the images mirrored left to right. Views are then
        not mirrored themselves.

    Attributes
    ----------
    @attributes

    Notes
    -----
    A training batch holds ``train_batch_size`` images at four turns each, and two views of each of
    these.

    The published settings train a ResNet18 from random weights for 2,048 epochs. For small images
    on a CPU take ``backbone="convnet"``, some tens of epochs and ``hidden=(128,)``.

    Training passes over the images many times, so they are held in memory as the network sees them:
    0.6 MB an image of 224 px.

    References
    ----------
    K. Sohn, C.-L. Li, J. Yoon, M. Jin, T. Pfister, "Learning and Evaluating Representations for
    Deep One-Class Classification", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import ContrastiveDA
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(0, 40, size=(16, 32, 32), dtype=np.uint8)
    >>> normal[:, :8] += 200  # a bright bar on top
    >>> odd = normal[:2].transpose(0, 2, 1)  # at the left
    >>> detector = ContrastiveDA(
    ...     "convnet", hidden=(32,), epochs=5, train_batch_size=8, image_size=32, random_state=0
    ... )
    >>> detector.fit(normal).predict(odd)
    array([-1, -1])
    """

    _n_outputs = 128

    def __init__(
        self,
        backbone="resnet18",
        classifier="ocsvm",
        *,
        temperature=0.2,
        augmentation="rotation",
        layers="last",
        weights="random",
        train_from=None,
        hidden=(512,) * 8,
        normalize=True,
        patch_level=False,
        window_size=32,
        window_stride=8,
        n_patches=2000,
        epochs=2048,
        steps=None,
        train_batch_size=32,
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

    def _check_params(self):
        check_number("temperature", self.temperature, minimum=1e-6)
        check_choice("augmentation", self.augmentation, _AUGMENTATIONS)
        super()._check_params()

    @property
    def _turns_images(self):
        return self.augmentation == "rotation"

    def _views(self, images, generator):
        if self._turns_images:
            kinds = turned(images, TURNS)
        else:
            kinds = torch.cat([images, images.flip(3)])
        twice = torch.cat([kinds, kinds])
        return simclr_views(twice, generator, flip=self._turns_images), None

    def _loss(self, outputs, _known):
        first, second = F.normalize(outputs, dim=1).chunk(2)
        return info_nce_loss(first, second, temperature=self.temperature, symmetric=True)
