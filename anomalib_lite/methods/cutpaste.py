"""CutPaste: normal images against those with a piece of themselves pasted elsewhere."""

import torch
from torch.nn import functional as F

from ..data.augment import cut_paste, cut_paste_scar
from ..validation import check_choice
from .two_stage import TwoStageDetector

_VARIANTS = {
    "patch": (cut_paste,),
    "scar": (cut_paste_scar,),
    "3way": (cut_paste, cut_paste_scar),
}


class CutPaste(TwoStageDetector):
    r"""CutPaste: a network learns to see pasted pieces; one class is fitted after.

    A rectangle or a thin turned strip, the scar, of a normal image, its colors jittered, is pasted
    elsewhere in it, and the network learns to tell such images from normal ones: its embedding
    becomes sensitive to local irregularity. A Gaussian is fitted on the embeddings of normal images
    alone, never of pasted ones.

    Parameters
    ----------
    @parameters
    variant : {"3way", "patch", "scar"}, default="3way"
        What is told apart: normal, patch and scar; or normal and one of them.

    Attributes
    ----------
    @attributes

    Notes
    -----
    Scars are 2 to 16 by 10 to 25 px of the network's input, so that no resizing thins them.

    Training starts from ImageNet weights, and with few normal images easily loses what these know:
    the first half of the network stays as it is, and the learning rate is a tenth of that published
    for random weights (.03, with ``weights="random", train_from=None``).

    Training passes over the images many times, so they are held in memory as the network sees them:
    0.6 MB an image of 224 px.

    References
    ----------
    C.-L. Li, K. Sohn, J. Yoon, T. Pfister, "CutPaste: Self-Supervised Learning for Anomaly
    Detection and Localization", CVPR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import CutPaste
    >>> rng = np.random.default_rng(0)
    >>> normal = np.tile(np.repeat([60, 160], 8), (16, 64, 4)) + rng.integers(0, 30, (16, 64, 64))
    >>> normal = normal.astype(np.uint8)  # stripes
    >>> odd = normal[:2].copy()
    >>> odd[:, 20:28, 20:50] = 60
    >>> detector = CutPaste(hidden=(32,), epochs=2, image_size=64, random_state=0)
    >>> detector.fit(normal).predict(odd)
    array([-1, -1])
    """

    def __init__(
        self,
        backbone="efficientnet_lite0",
        classifier="gaussian",
        *,
        variant="3way",
        layers="last",
        weights="pretrained",
        train_from=16,
        hidden=(512, 128),
        normalize=True,
        patch_level=False,
        window_size=32,
        window_stride=8,
        n_patches=2000,
        epochs=256,
        steps=None,
        train_batch_size=32,
        learning_rate=0.003,
        optimizer="sgd",
        schedule="cosine",
        weight_decay=3e-5,
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
        check_choice("variant", self.variant, tuple(_VARIANTS))
        super()._check_params()

    @property
    def _n_outputs(self):
        return 1 + len(_VARIANTS[self.variant])

    def _views(self, images, generator):
        views = [images, *(paste(images, generator) for paste in _VARIANTS[self.variant])]
        labels = torch.arange(len(views), device=images.device).repeat_interleave(len(images))
        return torch.cat(views), labels

    def _loss(self, outputs, labels):
        return F.cross_entropy(outputs, labels)
