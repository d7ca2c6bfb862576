"""ContrastiveDA: contrastive learning on images and their rotated or mirrored copies."""

from collections.abc import Callable, Sequence

import torch
from sklearn.base import BaseEstimator
from torch import nn
from torch.nn import functional as F

from ..annotations import Device, Path, RandomState, Size
from ..data.augment import TURNS, simclr_views, turned
from ..nn.losses import info_nce_loss
from ..validation import check_choice, check_number
from .two_stage import TwoStageDetector

_AUGMENTATIONS = ("rotation", "flip")


class ContrastiveDA(TwoStageDetector):
    r"""ContrastiveDA: contrastive learning with distribution augmentation, then one class.

    The InfoNCE loss of SimCLR pulls the embeddings of two random views (crop, flip, colors, gray,
    blur) of an image together and pushes those of other images away. Alone, it spreads the normal
    images over the whole sphere and leaves no room for anomalies. So rotated copies join the data
    as images of other kinds: to be told from them, normal images must stay together. The
    classifier, an SVM, is fitted on the embeddings, taken before the head, of unrotated images.

    Parameters
    ----------
    backbone : str or nn.Module, default="resnet18"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. It is trained on the normal
        images. ``"convnet"`` is a small one for small images.
    classifier : {"gaussian", "kde", "knn", "ocsvm"} or estimator, default="ocsvm"
        Any scikit-learn outlier detector or density, or ``NearestNeighbors``; it is cloned. For the
        names see :func:`~anomalib_lite.density.fit_head`.
    temperature : float, default=0.2
        Temperature of the InfoNCE loss.
    augmentation : {"rotation", "flip"}, default="rotation"
        What joins the data: all quarter turns of the images, or their mirror images. In the second
        case views are not mirrored.
    layers : sequence, "last" or None, default="last"
        Strides, transformer blocks or module names of the feature maps to use. The maps' means over
        all positions, side by side, are the embedding. None: the backbone's own choice.
    weights : {"pretrained", "random"} or path, default="random"
        Where the network's weights come from. Training starts from them; unless they are random,
        BatchNorm layers keep their statistics.
    train_from : int, str or None, default=None
        The part of the network up to the end of this stride, block or module is not trained. None
        trains everything.
    hidden : tuple of int, default=(512,) * 8
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
    epochs : int, default=2048
        Passes over the training images.
    train_steps : int or None, default=None
        Number of training batches, in place of ``epochs``.
    train_batch_size : int, default=32
        Images of a training step. Each enters in several views.
    learning_rate : float, default=0.01
        Learning rate of the optimizer.
    optimizer : {"sgd", "adam", "adamw"} or callable, default="sgd"
        See :func:`~anomalib_lite.nn.train`.
    schedule : {"cosine", "constant"} or callable, default="cosine"
        Schedule of the learning rate; see :func:`~anomalib_lite.nn.train`.
    weight_decay : float, default=3e-4
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
    A training batch holds two views of each of ``train_batch_size`` images at each of four turns.

    The defaults are the published settings: a ResNet18 trained from random weights for 2,048
    epochs: some 3 days for 100 images of 224 px on one CPU core. ``fit`` warns of a training of
    more than ten minutes and says how long it will take. For small images on a CPU take
    ``backbone="convnet"``, some tens of epochs and ``hidden=(128,)``.

    Training passes over the images many times and keeps them in memory as the network sees them:
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
    >>> odd = normal[:2].transpose(0, 2, 1)  # on the left
    >>> detector = ContrastiveDA(
    ...     "convnet", hidden=(32,), epochs=5, train_batch_size=8, image_size=32, random_state=0
    ... )
    >>> detector.fit(normal).predict(odd)
    array([-1, -1])
    """

    _n_outputs = 128

    def __init__(
        self,
        backbone: str | nn.Module = "resnet18",
        classifier: str | BaseEstimator = "ocsvm",
        *,
        temperature: float = 0.2,
        augmentation: str = "rotation",
        layers: Sequence[int | str] | str | None = "last",
        weights: Path = "random",
        train_from: int | str | None = None,
        hidden: tuple[int, ...] = (512,) * 8,
        normalize: bool = True,
        patch_level: bool = False,
        patch_size: int = 32,
        patch_stride: int = 8,
        n_patches: int = 2000,
        epochs: int = 2048,
        train_steps: int | None = None,
        train_batch_size: int = 32,
        learning_rate: float = 0.01,
        optimizer: str | Callable[..., torch.optim.Optimizer] = "sgd",
        schedule: str | Callable[[float], float] = "cosine",
        weight_decay: float = 3e-4,
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
        self.temperature = temperature
        self.augmentation = augmentation

    def _check_params(self):
        check_number("temperature", self.temperature, minimum=1e-6)
        check_choice("augmentation", self.augmentation, _AUGMENTATIONS)
        super()._check_params()

    @property
    def _needs_squares(self):
        return self.augmentation == "rotation"

    def _views(self, images, generator):
        if self.augmentation == "rotation":
            kinds = turned(images, TURNS)
        else:
            kinds = torch.cat([images, images.flip(3)])
        pairs = torch.cat([kinds, kinds])
        # a mirrored view of an image would be of the other kind, were mirror images a kind
        return simclr_views(pairs, generator, flip=self.augmentation == "rotation"), None

    def _loss(self, outputs, targets):
        first, second = F.normalize(outputs, dim=1).chunk(2)
        return info_nce_loss(first, second, temperature=self.temperature, symmetric=True)
