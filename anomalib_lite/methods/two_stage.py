"""Base class of the two-stage methods: self-supervised embedding, then one-class classifier."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..annotations import Device, Images, Path, RandomState, Size
from ..backbones.backbone import Backbone
from ..backbones.patches import pool_maps, sliding_windows
from ..base import BaseDetector
from ..contexts import plain, seeded
from ..data.augment import random_windows
from ..density.heads import check_head, fit_head, folds, held_out_scores, row_scores
from ..nn.layers import mlp
from ..nn.parts import in_parts
from ..nn.training import (
    ON_INTERRUPT,
    Objective,
    check_training,
    split_off,
    train,
    training_settings,
)
from ..runtime import draw_seed
from ..validation import check_choice, check_count, check_enough, check_finite, check_fraction
from ..workers import borrowed_team, map_on

_PATCHES_AT_ONCE = 256
_VIEWS_OF_A_PART = 16  # of a training batch, for a worker


@dataclass(frozen=True)
class _TwoStageScoring:
    """Snapshot: later set_params calls must not alter a fitted detector."""

    normalize: bool
    patch_level: bool
    patch_size: int
    patch_stride: int

    def __post_init__(self):
        check_count("patch_size", self.patch_size)
        check_count("patch_stride", self.patch_stride)


class TwoStageDetector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDetector):
    """Base class of detectors that learn an embedding first, and its distribution second.

    A subclass is a first stage: a task on images that needs no labels. It implements :meth:`_views`
    and :meth:`_loss` and sets ``_n_outputs``, the width of the head's output. A subclass with
    parameters of its own, or other defaults, writes out an ``__init__``.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. It is trained on the normal
        images. ``"convnet"`` is a small one for small images.
    classifier : {"gaussian", "kde", "knn", "ocsvm"} or estimator, default="gaussian"
        Any scikit-learn outlier detector or density, or ``NearestNeighbors``; it is cloned. For the
        names see :func:`~anomalib_lite.density.fit_head`.
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
    Training passes over the images many times and keeps them in memory as the network sees them:
    0.6 MB an image of 224 px.

    Examples
    --------
    Is an image upside down? The task learns what is normally on top:

    >>> from anomalib_lite.methods.two_stage import TwoStageDetector
    >>> class UpsideDown(TwoStageDetector):
    ...     _n_outputs = 2
    ...
    ...     def _views(self, images, generator):
    ...         targets = torch.arange(2, device=images.device).repeat_interleave(len(images))
    ...         return torch.cat([images, images.flip(2)]), targets
    ...
    ...     def _loss(self, outputs, targets):
    ...         return F.cross_entropy(outputs, targets)
    >>> normal = np.random.default_rng(0).integers(0, 40, size=(16, 32, 32), dtype=np.uint8)
    >>> normal[:, :8] += 200  # a bright bar on top
    >>> odd = normal[:2].transpose(0, 2, 1)  # on the left
    >>> detector = UpsideDown("convnet", weights="random", train_from=None, hidden=(32,),
    ...                       epochs=5, train_batch_size=8, image_size=32, random_state=0)
    >>> detector.fit(normal).predict(odd)
    array([-1, -1])
    """

    _n_outputs: int
    """Width of the head's output."""

    _needs_squares: bool = False
    """Whether the task takes square images alone."""

    def __init__(
        self,
        backbone: str | nn.Module = "efficientnet_lite0",
        classifier: str | BaseEstimator = "gaussian",
        *,
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
            image_size=image_size,
            smoothing=smoothing,
            false_alarm_rate=false_alarm_rate,
            batch_size=batch_size,
            n_jobs=n_jobs,
            device=device,
            random_state=random_state,
            verbose=verbose,
        )
        self.backbone = backbone
        self.classifier = classifier
        self.layers = layers
        self.weights = weights
        self.train_from = train_from
        self.hidden = hidden
        self.normalize = normalize
        self.patch_level = patch_level
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.n_patches = n_patches
        self.epochs = epochs
        self.train_steps = train_steps
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.on_interrupt = on_interrupt
        self.n_folds = n_folds
        self.center_crop = center_crop
        self.dtype = dtype

    # -- hooks of a first stage -------------------------------------------------------------------

    def _views(self, images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, Any]:
        """Make the views of a training batch.

        Parameters
        ----------
        images : torch.Tensor of shape (B, 3, h, w)
            Values in [0, 1]: whole images, or patches of them with ``patch_level``.
        generator : torch.Generator
            The CPU's: draw from it whatever is random.

        Returns
        -------
        views : torch.Tensor of shape (V, 3, h, w)
            Values in [0, 1].
        targets : object
            What :meth:`_loss` needs to know of the views.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement _views.")

    def _loss(self, outputs: torch.Tensor, targets: Any) -> torch.Tensor:
        """Mean loss, of shape (), of the head's outputs (V, n_outputs) for the views."""
        raise NotImplementedError(f"{type(self).__name__} must implement _loss.")

    # -- first stage ------------------------------------------------------------------------------

    def _check_params(self):
        check_head(self.classifier)
        for name in ("patch_size", "patch_stride", "n_patches", "epochs", "train_batch_size"):
            check_count(name, getattr(self, name))
        for name in ("train_steps", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("n_folds", self.n_folds, minimum=2)
        check_training(self)
        check_fraction("validation_fraction", self.validation_fraction)
        check_choice("on_interrupt", self.on_interrupt, ON_INTERRUPT)
        if self.patience is not None and self.validation_fraction == 0:
            raise ValueError(
                f"patience: expected None without images to watch, got {self.patience}. Set "
                "validation_fraction, such as 0.1."
            )
        for width in self.hidden:
            check_count("hidden", width)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator, frozen=False)
        self._check_sizes(self.backbone_.input.seen_size)
        with seeded(generator):
            head = mlp(sum(self.backbone_.n_channels), self.hidden, self._n_outputs)
        self._head_ = head.to(self.device_)
        self._scoring_ = _TwoStageScoring(
            self.normalize, self.patch_level, self.patch_size, self.patch_stride
        )
        return self.backbone_.input

    def _check_sizes(self, seen_size):
        if self.patch_size > min(seen_size):
            raise ValueError(
                f"patch_size: expected a side that fits into images of {seen_size} px, got "
                f"{self.patch_size}. Lower it or raise image_size."
            )
        if self._needs_squares and not self.patch_level and seen_size[0] != seen_size[1]:
            raise ValueError(
                f"image_size: expected square images, which can be turned, got {seen_size}. Crop "
                "them with center_crop, or train on patches with patch_level=True."
            )

    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch for _, batch in batches])  # (n, 3, h, w)
        check_enough(len(images), 3, "scores of images by classifiers fitted on others")
        self._train(images, generator)
        self.backbone_.freeze()
        del self._head_
        return self._fit_classifiers(images, generator)

    def _train(self, images, generator):
        """Train the network and its head on images (n, 3, h, w)."""
        frozen = self._frozen_modules()
        modules = nn.ModuleList([self.backbone_.module, self._head_])
        samples, held_out = split_off(len(images), self.validation_fraction, generator)
        self.history_ = train(
            Objective(partial(self._training_loss, images), modules.parameters()),
            modules,
            samples,
            device=self.device_,
            generator=generator,
            held_out=held_out if len(held_out) else None,
            frozen=frozen,
            **training_settings(self),
        )

    def _training_loss(self, images, index, generator):
        views, targets = self._training_views(images[index.to(images.device)], generator)
        return self._loss(self._head_(self._trainable_embedding(views, generator)), targets)

    def _trainable_embedding(self, views, generator):
        """(V, D), with gradients."""

        def embed(some):
            return pool_maps(self.backbone_.trainable_maps(some))

        if self.weights == "random" or not isinstance(self.backbone, str):
            return embed(views)  # BatchNorm sees all views together
        parameters = self.backbone_.module.parameters()
        return in_parts(embed, views, parameters, _VIEWS_OF_A_PART, generator)

    def _frozen_modules(self):
        """Modules that stay in eval mode; the weights up to ``train_from`` no longer move."""
        frozen = []
        if self.weights != "random":
            frozen += [m for m in self.backbone_.module.modules() if isinstance(m, _BatchNorm)]
        if self.train_from is not None:
            first_part = self.backbone_.up_to(self.train_from)
            for module in first_part:
                module.requires_grad_(False)
            frozen += first_part
        return frozen

    def _training_views(self, batch, generator):
        """Views (V, 3, h, w), as the network sees them, of a batch (B, 3, h, w); their targets."""
        mean, std = (
            batch.new_tensor(values)[:, None, None]
            for values in (self.input_.mean, self.input_.std)
        )
        pixels = batch * std + mean
        if self.patch_level:
            pixels = random_windows(pixels, generator, self.patch_size)
        views, targets = self._views(pixels.clamp_(0, 1), generator)  # rounding may leave [0, 1]
        return ((views - mean) / std).contiguous(memory_format=torch.channels_last), targets

    # -- second stage -----------------------------------------------------------------------------

    def _fit_classifiers(self, images, generator):
        """Fit the classifiers; returns out-of-sample anomaly scores (n,)."""
        patches, owners = self._random_patches(images, generator)
        if not np.isfinite(patches).all():
            raise ValueError(
                "X: the trained network gives NaN or infinity for the training images. Is each of "
                "them constant, and are they all the same?"
            )
        seed = draw_seed(generator)
        self.patch_classifier_ = fit_head(self.classifier, patches, seed)
        if self._scoring_.patch_level:
            self.classifier_ = None
            return self._held_out_patch_scores(images, patches, owners, seed)
        batches = images.split(self._n_together)  # as in scoring
        rows = torch.cat(map_on(self.device_, self._embed, batches)).cpu().numpy()
        self.classifier_ = fit_head(self.classifier, rows, seed)
        return held_out_scores(self.classifier, rows, self._distinct(), seed, self.n_folds)

    def _held_out_patch_scores(self, images, patches, owners, seed):
        """Anomaly scores (n,) of images by patches, of classifiers of the other folds' patches."""
        pairs = list(folds(self._distinct(), seed, self.n_folds))

        def fit(pair):
            return fit_head(self.classifier, patches[np.isin(owners, pair[0])], seed)

        with borrowed_team() as workers:
            heads = list(workers.map(fit, pairs))
        tasks = [
            (i, head) for (_, held_out), head in zip(pairs, heads, strict=True) for i in held_out
        ]

        def score(task):
            i, head = task
            return float(self._grid(images[i : i + 1], head).max())

        scores = np.full(len(images), np.nan)
        scores[[i for i, _ in tasks]] = map_on(self.device_, score, tasks)
        return scores

    def _random_patches(self, images, generator):
        """Embeddings (n_patches, D) of random patches; the index (n_patches,) of their images."""
        owners = torch.arange(self.n_patches, device="cpu") % len(images)
        size = self._scoring_.patch_size
        windows = (  # drawn in order, by the caller
            random_windows(images[index.to(images.device)], generator, size)
            for index in owners.split(_PATCHES_AT_ONCE)
        )
        return torch.cat(map_on(self.device_, self._embed, windows)).cpu().numpy(), owners.numpy()

    # -- scoring ----------------------------------------------------------------------------------

    @plain
    def transform(self, X: Images) -> np.ndarray:
        """Embed images: the rows that the classifier is fitted on.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        embeddings : ndarray of shape (n_images, n_features)
            float32.
        """
        check_is_fitted(self)
        embeddings = []
        batches = self._checked_batches(self._open(X), "features")
        for images, embedded in batches.map(self._embed):
            check_finite(embedded, images)
            embeddings.append(embedded.cpu().numpy())
        return np.concatenate(embeddings)

    def _embed(self, batch):
        """(B, D)"""
        pooled = pool_maps(self.backbone_(batch))
        return F.normalize(pooled, dim=1) if self._scoring_.normalize else pooled

    def _grid(self, batch, head):
        """Anomaly scores (B, rows, columns) of the patches of images."""
        patches = sliding_windows(batch, self._scoring_.patch_size, self._scoring_.patch_stride)
        shape = patches.shape[:3]
        embedded = [self._embed(some) for some in patches.flatten(0, 2).split(_PATCHES_AT_ONCE)]
        scores = row_scores(head, torch.cat(embedded))
        return scores.float().view(shape).to(batch.device)

    def _portable_parts(self):
        from ..density.portable import portable_heads  # and with it much of scikit-learn

        return super()._portable_parts() | portable_heads(self)

    def _score(self, batch):
        if self._scoring_.patch_level:
            return self._infer(batch)[0]
        return row_scores(self.classifier_, self._embed(batch))

    def _infer(self, batch):
        grids = self._grid(batch, self.patch_classifier_)
        if self._scoring_.patch_level:
            return grids.flatten(1).amax(1), grids
        return self._score(batch), grids

    def _map_renderer(self, **options):
        windows = self._scoring_.patch_size, self._scoring_.patch_stride
        return super()._map_renderer(windows=windows, **options)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32 whatever the images are
        return tags

    @property
    def _n_features_out(self):
        return sum(self.backbone_.n_channels)
