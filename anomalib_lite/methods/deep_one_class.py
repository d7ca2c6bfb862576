"""DeepOneClass: pretrained features and a classic one-class classifier, nothing trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn
from torch.nn import functional as F

from ..annotations import Device, Path, RandomState, Size
from ..backbones.backbone import Backbone
from ..backbones.patches import POOLINGS, grid_rows, patch_embedding, pool_maps
from ..base import BaseDetector
from ..density.heads import check_head, fit_head, held_out_scores, row_scores
from ..merging import MergeMixin
from ..runtime import draw_seed, uniform
from ..validation import check_choice, check_count, check_enough, check_finite, check_odd

_PATCHES_OF_A_STREAM = 32  # kept of each image of a stream of unknown length


@dataclass(frozen=True)
class _OneClassSettings:
    """Snapshot: later set_params calls must not alter a fitted detector."""

    pooling: str
    normalize: bool
    neighborhood: int


@dataclass(frozen=True, eq=False)
class _Vectors:
    """Vectors of images (n, D), and of a few patches (m, D), drawn from all of theirs.

    Every patch has a random key; those with the lowest keys are kept, of one part as of many.
    """

    images: np.ndarray
    patches: np.ndarray
    keys: np.ndarray

    def to(self, device):
        return self


class DeepOneClass(MergeMixin, BaseDetector):
    """DeepOneClass: a one-class classifier on the pooled features of a pretrained network.

    The baseline for every learned representation: the feature maps of a frozen network, pooled over
    all places, describe each image by one vector, and a classic outlier detector or density learns
    the vectors of the normal images. For maps, a copy of the same classifier learns vectors of
    single patches and scores every patch of an image.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. The default has ImageNet
        weights that come with the installation.
    classifier : {"gaussian", "kde", "knn", "ocsvm"} or estimator, default="gaussian"
        Any scikit-learn outlier detector or density, or ``NearestNeighbors``; it is cloned. For the
        names see :func:`~anomalib_lite.density.fit_head`.
    layers : sequence, "last" or None, default=(8, 16, 32)
        Strides, transformer blocks or module names of the feature maps to use. None: the backbone's
        two usual layers.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from.
    pooling : {"mean", "max", "mean_std"}, default="mean"
        How each feature map becomes one vector: the mean or maximum of each channel, or its mean
        and standard deviation; the vectors of all layers are concatenated.
    normalize : bool, default=False
        Scale every vector to length 1: the features, as the two-stage papers do before a kernel.
    n_patches : int, default=2000
        Number of normal patches, drawn at random, that the patch model is fitted on.
    neighborhood : int, default=3
        Side, in cells, odd, of the neighborhood averaged to describe a patch.
    n_folds : int, default=20
        Number of folds: out-of-sample scores come from models fitted without the image's fold.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU. Classifiers of
        scikit-learn run on the CPU.
    engine : {"torch", "onnxruntime", "auto"}, default="torch"
        What runs the network; ONNX Runtime is about twice as fast, on a CPU only, and needs the
        extra ``onnx``. ``"auto"`` takes it where it is installed and runs the network.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws patches, folds and random weights, and seeds a
        classifier without a seed of its own.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    classifier_ : estimator
        Fitted on the images' vectors.
    patch_classifier_ : estimator
        Fitted on vectors of patches.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image by a classifier fitted without its fold.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Images learned from.
    backbone_ : Backbone
    device_ : torch.device

    Notes
    -----
    The unit of scores and maps is the classifier's: nats for densities, a distance for ``"knn"``.
    Image scores and map values come from two classifiers and are not on one scale.

    References
    ----------
    K. Sohn, C.-L. Li, J. Yoon, M. Jin, T. Pfister, "Learning and Evaluating Representations for
    Deep One-Class Classification", ICLR 2021.

    Examples
    --------
    >>> from anomalib_lite import DeepOneClass
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(90, 110, size=(8, 64, 64), dtype=np.uint8)
    >>> odd = normal[:2].copy()
    >>> odd[:, 20:40, 20:40] = 255
    >>> detector = DeepOneClass(classifier="knn", image_size=64, random_state=0).fit(normal)
    >>> detector.predict(odd)
    array([-1, -1])
    """

    def __init__(
        self,
        backbone: str | nn.Module = "efficientnet_lite0",
        classifier: str | BaseEstimator = "gaussian",
        *,
        layers: Sequence[int | str] | str | None = (8, 16, 32),
        weights: Path = "pretrained",
        pooling: str = "mean",
        normalize: bool = False,
        n_patches: int = 2000,
        neighborhood: int = 3,
        n_folds: int = 20,
        image_size: Size | None = None,
        center_crop: Size | None = None,
        smoothing: float = 4.0,
        false_alarm_rate: float = 0.01,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        engine: str = "torch",
        dtype: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.backbone = backbone
        self.classifier = classifier
        self.layers = layers
        self.weights = weights
        self.pooling = pooling
        self.normalize = normalize
        self.n_patches = n_patches
        self.neighborhood = neighborhood
        self.n_folds = n_folds
        self.image_size = image_size
        self.center_crop = center_crop
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.engine = engine
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        check_head(self.classifier)
        check_choice("pooling", self.pooling, POOLINGS)
        check_count("n_patches", self.n_patches)
        check_odd("neighborhood", self.neighborhood)
        check_count("n_folds", self.n_folds, minimum=2)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        self._settings_ = _OneClassSettings(self.pooling, self.normalize, self.neighborhood)
        return self.backbone_.input

    def _learn(self, batches, n_images, generator):
        per_image = _PATCHES_OF_A_STREAM if n_images is None else -(-self.n_patches // n_images)
        seed = draw_seed(generator)
        return self._fit_heads(self._drawn(batches, per_image, generator), seed)

    def _learn_part(self, batches, n_images, portion):
        return self._drawn(batches, _PATCHES_OF_A_STREAM, portion.generator)

    def _merge_parts(self, parts, generator):
        keys = np.concatenate([part.keys for part in parts])
        kept = np.argsort(keys, kind="stable")[: self.n_patches]
        return _Vectors(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.patches for part in parts])[kept],
            keys[kept],
        )

    def _finish_part(self, part, generator):
        return self._fit_heads(part, draw_seed(generator))

    def _drawn(self, batches, per_image, generator):
        """Vectors of images and of some of their patches."""
        vectors, patches = [], []
        for images, (pooled, rows_of_images) in batches.map(self._embed):
            check_finite(pooled, images)
            vectors.append(pooled.cpu().numpy())
            for rows in rows_of_images:  # (P, D)
                draw = torch.randperm(len(rows), generator=generator, device="cpu")[:per_image]
                patches.append(rows[draw.to(rows.device)].cpu().numpy())
        patches = np.concatenate(patches)
        draw = torch.randperm(len(patches), generator=generator, device="cpu")[: self.n_patches]
        keys = uniform((len(patches),), generator).sort().values[: len(draw)]
        return _Vectors(np.concatenate(vectors), patches[draw.numpy()], keys.numpy())

    def _fit_heads(self, part, seed):
        """Fit both classifiers; gives scores of the images, out of sample."""
        check_enough(len(part.images), 3, "scores of images by classifiers fitted on others")
        self.classifier_ = fit_head(self.classifier, part.images, seed)
        self.patch_classifier_ = fit_head(self.classifier, part.patches, seed)
        return held_out_scores(self.classifier, part.images, self._distinct(), seed, self.n_folds)

    def _embed(self, batch):
        """Vectors of images (B, D) and of their patches (B, P, D)."""
        maps = self.backbone_(batch)
        return self._pooled(maps), self._patches(maps)

    def _pooled(self, maps):
        """One vector for each image, (B, D)."""
        return self._normalized(pool_maps(maps, self._settings_.pooling))

    def _patches(self, maps):
        """One vector for each patch, (B, P, D)."""
        embedding = patch_embedding(maps, neighborhood=self._settings_.neighborhood)
        return self._normalized(grid_rows(embedding))

    def _normalized(self, rows):
        return F.normalize(rows, dim=-1) if self._settings_.normalize else rows

    def _portable_parts(self):
        from ..density.portable import portable_heads  # and with it much of scikit-learn

        return super()._portable_parts() | portable_heads(self)

    def _score(self, batch):
        return self._image_scores(self.backbone_(batch))

    def _image_scores(self, maps):
        return row_scores(self.classifier_, self._pooled(maps))

    def _infer(self, batch):
        maps = self.backbone_(batch)
        rows = self._patches(maps)  # (B, P, D)
        values = row_scores(self.patch_classifier_, rows.flatten(0, 1))
        grids = values.float().view(len(rows), *maps[0].shape[-2:])
        return self._image_scores(maps), grids.to(rows.device)
