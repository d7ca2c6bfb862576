"""Deep features of images as a scikit-learn transformer."""

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from .backbones.backbone import DTYPES, ENGINES, Backbone
from .backbones.patches import POOLINGS, grid_rows, patch_embedding, pool_maps
from .base import ImageEstimator
from .runtime import all_or_nothing
from .validation import check_choice, check_finite, check_odd


class DeepFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageEstimator):
    """Features of a frozen pretrained network, one vector an image or one a patch.

    What the layers of a network say of an image, pooled over all places, is a table that any
    estimator of scikit-learn takes: put this transformer before it in a pipeline.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The default has ImageNet weights that come with the installation; see
        :class:`~anomalib_lite.backbones.Backbone`.
    layers : sequence or None, default=None
        Strides (None: 8 and 16), transformer blocks (None: at half and three quarters of the
        depth), or module names.
    weights : {"pretrained", "random"} or path, default="pretrained"
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        What to keep of the resized image.
    pooling : {"mean", "max"} or None, default="mean"
        How each layer's map becomes one vector; the layers' vectors are put side by side. None
        gives a vector for each patch, the average over its neighborhood in every layer, as
        PatchCore uses it.
    neighborhood : int, default=3
        Side in cells, odd, of that neighborhood; used with ``pooling=None`` only.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator. On a CPU each passes
        alone, so that no feature depends on the images around it.
    device : str or torch.device, default="auto"
    engine : {"torch", "onnxruntime"}, default="torch"
        What runs the network. ONNX Runtime is about twice as fast on a CPU, the only device it
        takes, and equal but for rounding; it needs ``pip install "anomalib_lite[onnx]"`` and a few
        seconds at fit and load. See :class:`~anomalib_lite.backbones.Backbone`.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; everything after it stays in float32 or better. ``"auto"``:
        float16 on CUDA, faster there for a last digit or two of the features; float32 elsewhere.
    random_state : None, int, RandomState or Generator, default=None
        Draws random weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    backbone_ : Backbone
    n_images_ : int
        Images seen by ``fit``.
    device_ : torch.device

    Notes
    -----
    ``fit`` trains nothing: it builds the network and learns the range of values of the images, so
    that images scaled another way are refused later.

    Examples
    --------
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.svm import OneClassSVM
    >>> from anomalib_lite import DeepFeatures
    >>> images = np.random.default_rng(0).integers(90, 110, size=(8, 64, 64), dtype=np.uint8)
    >>> DeepFeatures(image_size=64).fit_transform(images).shape
    (8, 152)
    >>> detector = make_pipeline(DeepFeatures(image_size=64), OneClassSVM()).fit(images)
    >>> detector.score_samples(images).shape
    (8,)
    """

    def __init__(
        self,
        backbone="efficientnet_lite0",
        *,
        layers=None,
        weights="pretrained",
        image_size=None,
        center_crop=None,
        pooling="mean",
        neighborhood=3,
        batch_size=32,
        device="auto",
        engine="torch",
        dtype="auto",
        random_state=None,
        verbose=False,
    ):
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.image_size = image_size
        self.center_crop = center_crop
        self.pooling = pooling
        self.neighborhood = neighborhood
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def fit_transform(self, X, y=None):
        """``fit(X).transform(X)`` in one pass over the images."""
        with all_or_nothing(self):
            self._start()
            return self._collect(self._learning_batches(self._open(X)))

    def transform(self, X):
        """Features of images.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        features : ndarray of shape (n_images, n_features) or (n_images, n_patches, n_features)
            float32; the latter with ``pooling=None``, patches row by row.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        check_is_fitted(self)
        return self._collect(self._checked_batches(self._open(X), "features"))

    @torch.no_grad()
    def _collect(self, batches):
        features = []
        for images, batch in batches:
            maps = self.backbone_(batch)
            if self.pooling is None:
                embedding = patch_embedding(maps, neighborhood=self.neighborhood)
                found = grid_rows(embedding)  # (B, P, D)
            else:
                found = pool_maps(maps, self.pooling)  # (B, D)
            check_finite(found, images)
            features.append(found.cpu().numpy())
        return np.concatenate(features)

    def _check_params(self):
        if self.pooling is not None:
            check_choice("pooling", self.pooling, POOLINGS)
        check_odd("neighborhood", self.neighborhood)
        check_choice("engine", self.engine, ENGINES)
        check_choice("dtype", self.dtype, DTYPES)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        return self.backbone_.input

    def _fit_images(self, X):
        for _ in self._learning_batches(self._open(X)):
            pass

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # whatever comes in, float32 goes out
        return tags

    @property
    def _n_features_out(self):
        return sum(self.backbone_.n_channels)
