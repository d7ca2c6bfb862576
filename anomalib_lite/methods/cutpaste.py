"""CutPaste: the network learns to tell normal images from those with a piece pasted elsewhere."""

from collections.abc import Callable, Sequence

import torch
from sklearn.base import BaseEstimator
from torch import nn
from torch.nn import functional as F

from ..annotations import Device, Path, RandomState, Size
from ..data.augment import cut_paste, cut_paste_scar
from ..validation import check_choice
from .two_stage import TwoStageDetector

_VARIANTS = {
    "patch": (cut_paste,),
    "scar": (cut_paste_scar,),
    "3way": (cut_paste, cut_paste_scar),
}


class CutPaste(TwoStageDetector):
    r"""CutPaste: learn to detect pasted pieces, then fit a one-class classifier.

    A rectangle (patch) or a thin rotated strip (scar) of a normal image, its colors jittered, is
    pasted elsewhere in the image. The network learns to tell such images from normal ones, and its
    embedding becomes sensitive to local irregularity. A Gaussian is fitted on the embeddings of
    normal images alone, never of pasted ones.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. It is trained on the normal
        images. ``"convnet"`` is a small one for small images.
    classifier : {"gaussian", "kde", "knn", "ocsvm"} or estimator, default="gaussian"
        Any scikit-learn outlier detector or density, or ``NearestNeighbors``; it is cloned. For the
        names see :func:`~anomalib_lite.density.fit_head`.
    variant : {"3way", "patch", "scar"}, default="3way"
        The classes to tell apart: normal, patch and scar; or normal and one of the two.
    layers : sequence, "last" or None, default="last"
        Strides, transformer blocks or module names of the feature maps to use. The maps' means over
        all positions, side by side, are the embedding. None: the backbone's own choice.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from. Training starts from them; unless they are random,
        BatchNorm layers keep their statistics.
    train_from : int, str or None, default=16
        The part of the network up to the end of this stride, block or module is not trained. None
        trains everything.
    hidden : tuple of int, default=(512, 128)
        Widths of the hidden layers: of the head, which serves training alone. Its input is the
        embedding.
    normalize : bool, default=True
        Scale every vector to length 1: the embeddings, as the papers do before a kernel.
    patch_level : bool, default=False
        Score an image by its most anomalous patch: the network then trains on random patches, else
        on whole images.
    patch_size : int, default=32
        Side of a patch in pixels of the network's input. Maps, and ``patch_level``, score patches.
    patch_stride : int, default=8
        Distance between patches in pixels: the resolution of the maps. A map costs as much as
        (patch_size / patch_stride)² images.
    n_patches : int, default=2000
        Number of normal patches, drawn at random, that the patch model is fitted on.
    epochs : int, default=256
        Passes over the training images.
    train_steps : int or None, default=None
        Number of training batches, in place of ``epochs``.
    train_batch_size : int, default=32
        Images of a training step. Each enters in several views.
    learning_rate : float, default=0.003
        Learning rate of the optimizer.
    optimizer : {"sgd", "adam", "adamw"} or callable, default="sgd"
        See :func:`~anomalib_lite.nn.train`.
    schedule : {"cosine", "constant"} or callable, default="cosine"
        Schedule of the learning rate; see :func:`~anomalib_lite.nn.train`.
    weight_decay : float, default=3e-5
        Weight decay of the optimizer.
    clip_norm : float or None, default=None
        Largest norm of the gradient; None for no limit.
    validation_fraction : float, default=0.0
        Fraction of the images not trained on but watched: the weights with the lowest loss on them
        are kept. 0 keeps the last weights.
    patience : int or None, default=None
        Stop after so many epochs without a lower validation loss.
    on_interrupt : {"raise", "finish"}, default="raise"
        What Ctrl-C does during training: ``"finish"`` goes on to the second stage with the best
        weights so far, ``"raise"`` leaves the estimator as it was.
    n_folds : int, default=20
        Number of folds: out-of-sample scores come from models fitted without the image's fold. The
        network is trained on all folds, the classifiers are not.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    smoothing : float, default=8.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image. It spreads a
        patch's value around the patch's center; the default is that of ``patch_stride``.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU. The classifiers of
        scikit-learn run on the CPU.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere. On CUDA it is
        trained in mixed precision.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random: first weights, views, batches, patches, folds, and a classifier
        without a seed of its own.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    backbone_ : Backbone
        The trained network.
    history_ : list of dict
        Losses by epoch; see :func:`~anomalib_lite.nn.train`.
    classifier_ : estimator or None
        Fitted on the images' embeddings; None with ``patch_level``.
    patch_classifier_ : estimator
        Fitted on the patches' embeddings.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image by a classifier fitted without the image's fold;
        with ``patch_level``, by a classifier fitted on the other folds' patches.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Number of images learned from.
    device_ : torch.device

    Notes
    -----
    Scars are 2 to 16 by 10 to 25 px of the network's input, so no resizing thins them.

    Training starts from ImageNet weights, whose knowledge is easily lost with few normal images.
    The first half of the network is therefore not trained, and the learning rate is a tenth of the
    published one, which is for random weights (0.03, with ``weights="random", train_from=None``).

    Training passes over the images many times and keeps them in memory as the network sees them:
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
        backbone: str | nn.Module = "efficientnet_lite0",
        classifier: str | BaseEstimator = "gaussian",
        *,
        variant: str = "3way",
        layers: Sequence[int | str] | str | None = "last",
        weights: Path = "pretrained",
        train_from: int | str | None = 16,
        hidden: tuple[int, ...] = (512, 128),
        normalize: bool = True,
        patch_level: bool = False,
        patch_size: int = 32,
        patch_stride: int = 8,
        n_patches: int = 2000,
        epochs: int = 256,
        train_steps: int | None = None,
        train_batch_size: int = 32,
        learning_rate: float = 0.003,
        optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
        schedule: str | Callable[[float], float] = "cosine",
        weight_decay: float = 3e-5,
        clip_norm: float | None = None,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        on_interrupt: str = "raise",
        n_folds: int = 20,
        image_size: Size | None = None,
        center_crop: Size | None = None,
        smoothing: float = 8.0,
        false_alarm_rate: float = 0.01,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        dtype: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        super().__init__(
            backbone,
            classifier,
            layers=layers,
            weights=weights,
            train_from=train_from,
            hidden=hidden,
            normalize=normalize,
            patch_level=patch_level,
            patch_size=patch_size,
            patch_stride=patch_stride,
            n_patches=n_patches,
            epochs=epochs,
            train_steps=train_steps,
            train_batch_size=train_batch_size,
            learning_rate=learning_rate,
            optimizer=optimizer,
            schedule=schedule,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            validation_fraction=validation_fraction,
            patience=patience,
            on_interrupt=on_interrupt,
            n_folds=n_folds,
            image_size=image_size,
            center_crop=center_crop,
            smoothing=smoothing,
            false_alarm_rate=false_alarm_rate,
            batch_size=batch_size,
            n_jobs=n_jobs,
            device=device,
            dtype=dtype,
            random_state=random_state,
            verbose=verbose,
        )
        self.variant = variant

    def _check_params(self):
        check_choice("variant", self.variant, tuple(_VARIANTS))
        super()._check_params()

    @property
    def _n_outputs(self):
        return 1 + len(_VARIANTS[self.variant])

    def _views(self, images, generator):
        views = [images, *(paste(images, generator) for paste in _VARIANTS[self.variant])]
        targets = torch.arange(len(views), device=images.device).repeat_interleave(len(images))
        return torch.cat(views), targets

    def _loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets)
