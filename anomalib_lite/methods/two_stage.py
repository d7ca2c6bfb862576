"""The two-stage framework: a representation learned by self-supervision, then one class of it."""

import inspect

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones.backbone import Backbone
from ..backbones.patches import pool_maps, sliding_windows
from ..base import BaseDetector
from ..data.augment import random_windows
from ..density.heads import check_head, fit_head, folds, head_scores, held_out_scores
from ..nn.layers import mlp
from ..nn.training import ON_INTERRUPT, Objective, check_training, split_off, train
from ..runtime import draw_seed, seeded
from ..validation import check_choice, check_count, check_enough, check_finite, check_fraction

_WINDOWS_AT_ONCE = 256

_PARAMETERS = """\
backbone : str or nn.Module, default={backbone}
        The network to train: ``"efficientnet_lite0"`` has ImageNet weights that come with the
        installation, ``"convnet"`` is small and for small images; see
        :class:`~anomalib_lite.backbones.Backbone`.
    classifier : {{"gaussian", "kde", "knn", "ocsvm"}} or estimator, default={classifier}
        The second stage: any scikit-learn outlier detector or density, or ``NearestNeighbors``; it
        is cloned. For the names see :func:`~anomalib_lite.density.fit_head`.
    layers : sequence or "last", default={layers}
        Strides, transformer blocks, or module names, whose maps are pooled to the embedding.
    weights : {{"pretrained", "random"}} or path, default={weights}
        Where training starts. Unless they are random, BatchNorm layers keep their statistics.
    train_from : int, str or None, default={train_from}
        The first part of the network, up to the end of this stride (block, module name), stays as
        it is. None trains everything.
    hidden : tuple of int, default={hidden}
        Widths of the hidden layers of the head, which is there for training alone: the embedding is
        what enters it.
    normalize : bool, default={normalize}
        Scale every embedding to length 1.
    patch_level : bool, default={patch_level}
        Train on random windows of the images; an image is then as anomalous as its most anomalous
        window. False trains on whole images, and scores them whole.
    window_size : int, default={window_size}
        Side, in pixels of the network's input, of the windows that maps (and ``patch_level``) use.
    window_stride : int, default={window_stride}
        Their distance: the resolution of the maps, and their cost, which is that of
        (window_size / window_stride)² images.
    n_patches : int, default={n_patches}
        How many normal windows, drawn at random, the classifier of windows is fitted on.
    epochs : int, default={epochs}
    steps : int or None, default={steps}
        Batches to train on, in place of ``epochs``.
    train_batch_size : int, default={train_batch_size}
        Images (or windows) of a training step. Each is seen in several views.
    learning_rate : float, default={learning_rate}
    optimizer : {{"sgd", "adam", "adamw"}} or callable, default={optimizer}
        See :func:`~anomalib_lite.nn.train`, for the next three as well.
    schedule : {{"cosine", "constant"}} or callable, default={schedule}
    weight_decay : float, default={weight_decay}
    clip_norm : float or None, default={clip_norm}
    validation_fraction : float, default={validation_fraction}
        Share of the normal images that are not trained on but watched: the weights with the lowest
        loss on them are kept. 0 keeps the last ones.
    patience : int or None, default={patience}
        Stop after so many epochs without a lower loss on them.
    on_interrupt : {{"raise", "finish"}}, default={on_interrupt}
        What Ctrl-C does while the network is trained: "finish" goes on to the second stage with the
        best weights so far, "raise" leaves the estimator as it was.
    image_size : int, tuple (H, W) or None, default={image_size}
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default={center_crop}
        What to keep of the resized image.
    smoothing : float, default={smoothing}
        Standard deviation, in pixels of the resized image, of the Gaussian by which a window's
        value spreads around its center in maps.
    false_alarm_rate : float, default={false_alarm_rate}
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default={batch_size}
        Images that pass through the trained network together on an accelerator.
    device : str or torch.device, default={device}
        Of the network; scikit-learn's classifiers run on the CPU.
    dtype : {{"auto", "float32", "float16", "bfloat16"}}, default={dtype}
        Precision of the trained network. On CUDA it is trained in mixed precision.
    random_state : None, int, RandomState or Generator, default={random_state}
        Draws first weights, views, batches, windows and folds, and seeds a classifier that has no
        seed of its own.
    verbose : bool, default={verbose}
        Show progress bars."""

_ATTRIBUTES = """\
backbone_ : Backbone
        The trained network.
    history_ : list of dict
        Losses by epoch; see :func:`~anomalib_lite.nn.train`.
    classifier_ : estimator or None
        Fitted on the images' embeddings; None with ``patch_level``.
    patch_classifier_ : estimator
        Fitted on embeddings of windows.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image by a classifier fitted without its fold (one of 5);
        with ``patch_level``, by the classifier of windows of the other images' folds. The
        representation has seen them all.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
    device_ : torch.device"""


class TwoStageDetector(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDetector):
    """A first stage learns an embedding of normal images, a second their distribution.

    A first stage is a subclass: it writes its constructor out, with all parameters named in
    ``_PARAMETERS``, lists its own beside ``@parameters`` and ``@attributes`` in its docstring, in
    whose place the common ones come, and implements

    ``_n_outputs``, ``_turns_images``
        How wide the output of the head is; whether images have to be square.
    ``_views(images, generator)``
        (views (V, C, h, w) of images (B, C, h, w) with values in [0, 1], what ``_loss`` needs to
        know of them).
    ``_loss(outputs, known)``
        The loss of the head's outputs (V, n_outputs).

    Training passes over the images many times, so they are held in memory as the network sees them:
    0.6 MB an image of 224 px.
    """

    _n_outputs = None
    _turns_images = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.__doc__ and "@parameters" in cls.__doc__:
            defaults = {
                name: repr(parameter.default)
                for name, parameter in inspect.signature(cls).parameters.items()
            }
            cls.__doc__ = cls.__doc__.replace("@parameters", _PARAMETERS.format(**defaults))
            cls.__doc__ = cls.__doc__.replace("@attributes", _ATTRIBUTES)

    def _store(self, parameters):
        """Keep the arguments of a constructor: its ``locals()``."""
        vars(self).update({
            name: value
            for name, value in parameters.items()
            if name not in ("self", "__class__")
        })  # fmt: skip

    def _check_params(self):
        check_head(self.classifier)
        for name in ("window_size", "window_stride", "n_patches", "epochs", "train_batch_size"):
            check_count(name, getattr(self, name))
        for name in ("steps", "patience"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_training(self)
        check_fraction("validation_fraction", self.validation_fraction)
        check_choice("on_interrupt", self.on_interrupt, ON_INTERRUPT)
        if self.patience is not None and self.validation_fraction == 0:
            raise ValueError(
                "patience: needs images to watch. Set validation_fraction, such as 0.1."
            )
        for width in self.hidden:
            check_count("hidden", width)

    # -- first stage ------------------------------------------------------------------------------

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator, frozen=False)
        seen_size = self.backbone_.input.seen_size
        if self.window_size > min(seen_size):
            raise ValueError(
                f"window_size: {self.window_size} px do not fit into images of {seen_size} px."
            )
        if self._turns_images and not self.patch_level and seen_size[0] != seen_size[1]:
            raise ValueError(
                f"image_size: images that are turned must be square, got {seen_size}. Crop them "
                "with center_crop, or train on windows with patch_level=True."
            )
        with seeded(generator, self.device_):
            head = mlp(sum(self.backbone_.n_channels), self.hidden, self._n_outputs)
        self._head_ = head.to(self.device_)
        # what is fitted so is scored so, whatever set_params says later
        self._how_ = {
            "normalize": self.normalize,
            "patch_level": self.patch_level,
            "windows": (self.window_size, self.window_stride),
        }
        return self.backbone_.input

    @torch.inference_mode(False)
    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch for _, batch in batches])  # (n, 3, h, w)
        check_enough(len(images), 3, "scores of images by classifiers fitted on others")
        self._train(images, generator)
        self.backbone_.freeze()
        del self._head_
        return self._learn_one_class(images, generator)

    def _train(self, images, generator):
        module = self.backbone_.module
        frozen = []
        if self.weights != "random":
            frozen = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        if self.train_from is not None:
            first_part = self.backbone_.up_to(self.train_from)
            for part in first_part:
                part.requires_grad_(False)
            frozen += first_part
        modules = nn.ModuleList([module, self._head_])
        samples, held_out = split_off(len(images), self.validation_fraction, generator)
        mean, std = (
            images.new_tensor(values)[:, None, None]
            for values in (self.input_.mean, self.input_.std)
        )

        def loss(index, generator):
            batch = images[index.to(images.device)] * std + mean
            if self.patch_level:
                batch = random_windows(batch, generator, self.window_size)
            views, known = self._views(batch.clamp_(0, 1), generator)
            views = ((views - mean) / std).contiguous(memory_format=torch.channels_last)
            maps = self.backbone_.trainable_maps(views)
            return self._loss(self._head_(pool_maps(maps)), known)

        self.history_ = train(
            Objective(loss, modules.parameters()),
            modules,
            samples,
            device=self.device_,
            generator=generator,
            epochs=self.epochs,
            steps=self.steps,
            batch_size=self.train_batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            clip_norm=self.clip_norm,
            held_out=held_out if len(held_out) else None,
            patience=self.patience,
            frozen=frozen,
            on_interrupt=self.on_interrupt,
            verbose=self.verbose,
        )

    # -- second stage -----------------------------------------------------------------------------

    def _learn_one_class(self, images, generator):
        windows, owners = self._normal_windows(images, generator)
        seed = draw_seed(generator)
        self.patch_classifier_ = fit_head(self.classifier, windows, seed)
        if self._how_["patch_level"]:
            self.classifier_ = None
            return self._held_out_window_scores(images, windows, owners, seed)
        size = 1 if self.device_.type == "cpu" else self.batch_size  # as in scoring
        vectors = torch.cat([self._embed(batch) for batch in images.split(size)]).cpu().numpy()
        self.classifier_ = fit_head(self.classifier, vectors, seed)
        return held_out_scores(self.classifier, vectors, seed)

    def _normal_windows(self, images, generator):
        """(embeddings of ``n_patches`` random windows, the images they are of), as arrays."""
        owners = torch.arange(self.n_patches, device="cpu") % len(images)
        size, _ = self._how_["windows"]
        found = [
            self._embed(random_windows(images[some.to(images.device)], generator, size))
            for some in owners.split(_WINDOWS_AT_ONCE)
        ]
        return torch.cat(found).cpu().numpy(), owners.numpy()

    def _held_out_window_scores(self, images, windows, owners, seed):
        """Each image's largest value on its grid, by a classifier of other images' windows."""
        scores = np.empty(len(images))
        for fit, held_out in folds(len(images), seed):
            head = fit_head(self.classifier, windows[np.isin(owners, fit)], seed)
            for i in held_out:
                scores[i] = self._grid(images[i : i + 1], head).max()
        return scores

    # -- scoring ----------------------------------------------------------------------------------

    def transform(self, X):
        """Embeddings of images.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        embeddings : ndarray of shape (n_images, n_features)
            float32, what the classifier sees.
        """
        check_is_fitted(self)
        batches = self._checked_batches(self._open(X), "features")
        embeddings = []
        for images, batch in batches:
            embedded = self._embed(batch)
            check_finite(embedded, images)
            embeddings.append(embedded.cpu().numpy())
        return np.concatenate(embeddings)

    @torch.no_grad()
    def _embed(self, batch):
        """(B, D)"""
        pooled = pool_maps(self.backbone_(batch))
        return F.normalize(pooled, dim=1) if self._how_["normalize"] else pooled

    def _grid(self, batch, head):
        """Anomaly scores (B, rows, columns) of an image's windows."""
        windows = sliding_windows(batch, *self._how_["windows"])
        shape = windows.shape[:3]
        embedded = [self._embed(some) for some in windows.flatten(0, 2).split(_WINDOWS_AT_ONCE)]
        scores = head_scores(head, torch.cat(embedded).cpu().numpy())
        return torch.from_numpy(scores).float().view(shape).to(batch.device)

    def _score(self, batch):
        if self._how_["patch_level"]:
            return self._infer(batch)[0]
        return torch.from_numpy(head_scores(self.classifier_, self._embed(batch).cpu().numpy()))

    def _infer(self, batch):
        grids = self._grid(batch, self.patch_classifier_)
        if self._how_["patch_level"]:
            return grids.flatten(1).amax(1), grids
        return self._score(batch), grids

    def _map_renderer(self):
        return super()._map_renderer(windows=self._how_["windows"])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # whatever comes in, float32 goes out
        return tags

    @property
    def _n_features_out(self):
        return sum(self.backbone_.n_channels)
