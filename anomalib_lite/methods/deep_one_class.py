"""DeepOneClass: pretrained features and a classic one-class classifier, nothing trained."""

import numpy as np
import torch
from torch.nn import functional as F

from ..backbones.backbone import Backbone
from ..backbones.patches import POOLINGS, grid_rows, patch_embedding, pool_maps
from ..base import BaseDetector
from ..density.heads import check_head, fit_head, head_scores, held_out_scores
from ..runtime import draw_seed
from ..validation import check_choice, check_count, check_enough, check_finite, check_odd

_PATCHES_OF_A_STREAM = 32  # kept of each image where nobody knows how many will come


class DeepOneClass(BaseDetector):
    """DeepOneClass: a one-class classifier on the pooled features of a pretrained network.

    The baseline that every learned representation has to beat: the layers of a frozen network,
    pooled over all places, make one vector an image; a classic outlier detector or density learns
    the vectors of the normal images. For maps another copy of the same classifier learns vectors of
    single patches and scores every patch of an image.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The default has ImageNet weights that come with the installation; see
        :class:`~anomalib_lite.backbones.Backbone`.
    classifier : {"gaussian", "kde", "knn", "ocsvm"} or estimator, default="gaussian"
        Any scikit-learn outlier detector or density, or ``NearestNeighbors``; it is cloned. For the
        names see :func:`~anomalib_lite.density.fit_head`.
    layers : sequence or None, default=(8, 16, 32)
        Strides, transformer blocks, or module names; None for the backbone's two usual layers.
    weights : {"pretrained", "random"} or path, default="pretrained"
    pooling : {"mean", "max"}, default="mean"
        How each layer's map becomes one vector.
    normalize : bool, default=False
        Scale every vector to length 1, as the two-stage papers do before a kernel.
    n_patches : int, default=2000
        How many normal patches, drawn at random, the classifier of patches is fitted on.
    neighborhood : int, default=3
        Side in cells, odd, of the neighborhood that is averaged to describe a patch.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        What to keep of the resized image.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator.
    device : str or torch.device, default="auto"
        Of the network; scikit-learn's classifiers run on the CPU.
    engine : {"torch", "onnxruntime"}, default="torch"
        What runs the network; see :class:`~anomalib_lite.backbones.Backbone`.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network.
    random_state : None, int, RandomState or Generator, default=None
        Draws patches, folds, random weights, and seeds a classifier that has no seed of its own.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    classifier_ : estimator
        Fitted on the images' vectors.
    patch_classifier_ : estimator
        Fitted on vectors of patches.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image by a classifier fitted without its fold (one of 5).
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
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
        backbone="efficientnet_lite0",
        classifier="gaussian",
        *,
        layers=(8, 16, 32),
        weights="pretrained",
        pooling="mean",
        normalize=False,
        n_patches=2000,
        neighborhood=3,
        image_size=None,
        center_crop=None,
        smoothing=4.0,
        false_alarm_rate=0.01,
        batch_size=32,
        device="auto",
        engine="torch",
        dtype="auto",
        random_state=None,
        verbose=False,
    ):
        self.backbone = backbone
        self.classifier = classifier
        self.layers = layers
        self.weights = weights
        self.pooling = pooling
        self.normalize = normalize
        self.n_patches = n_patches
        self.neighborhood = neighborhood
        self.image_size = image_size
        self.center_crop = center_crop
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size
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

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        # what is fitted so is scored so, whatever set_params says later
        self._embedding_ = {
            "pooling": self.pooling,
            "normalize": self.normalize,
            "neighborhood": self.neighborhood,
        }
        return self.backbone_.input

    def _learn(self, batches, n_images, generator):
        per_image = _PATCHES_OF_A_STREAM if n_images is None else -(-self.n_patches // n_images)
        vectors, patches = [], []
        for images, batch in batches:
            maps = self.backbone_(batch)
            pooled = self._pooled(maps)
            check_finite(pooled, images)
            vectors.append(pooled.cpu().numpy())
            for rows in self._patches(maps):  # (P, D)
                draw = torch.randperm(len(rows), generator=generator, device="cpu")[:per_image]
                patches.append(rows[draw.to(rows.device)].cpu().numpy())
        vectors, patches = np.concatenate(vectors), np.concatenate(patches)
        draw = torch.randperm(len(patches), generator=generator, device="cpu")[: self.n_patches]
        seed = draw_seed(generator)
        check_enough(len(vectors), 3, "scores of images by classifiers fitted on others")
        scores = held_out_scores(self.classifier, vectors, seed)
        self.classifier_ = fit_head(self.classifier, vectors, seed)
        self.patch_classifier_ = fit_head(self.classifier, patches[draw.numpy()], seed)
        return scores

    def _pooled(self, maps):
        """(B, D), one vector an image."""
        return self._normalized(pool_maps(maps, self._embedding_["pooling"]))

    def _patches(self, maps):
        """(B, P, D), one vector a patch."""
        embedding = patch_embedding(maps, neighborhood=self._embedding_["neighborhood"])
        return self._normalized(grid_rows(embedding))

    def _normalized(self, rows):
        return F.normalize(rows, dim=-1) if self._embedding_["normalize"] else rows

    def _score(self, batch):
        return self._image_scores(self.backbone_(batch))

    def _image_scores(self, maps):
        scores = head_scores(self.classifier_, self._pooled(maps).cpu().numpy())
        return torch.from_numpy(scores)

    def _infer(self, batch):
        maps = self.backbone_(batch)
        rows = self._patches(maps)  # (B, P, D)
        values = head_scores(self.patch_classifier_, rows.flatten(0, 1).cpu().numpy())
        grids = torch.from_numpy(values).float().view(len(rows), *maps[0].shape[-2:])
        return self._image_scores(maps), grids.to(rows.device)
