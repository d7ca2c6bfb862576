"""Deep features of images as a scikit-learn transformer."""

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .annotations import Device, Images, Path, RandomState, Size
from .backbones.backbone import Backbone
from .backbones.patches import POOLINGS, grid_rows, patch_embedding, pool_maps
from .backbones.readers import Layers
from .base import ImageEstimator
from .contexts import plain
from .validation import check_choice, check_finite, check_odd


class DeepFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ImageEstimator):
    """Features of a frozen network: one vector per image, or one per patch.

    By default each layer's feature map is pooled into one vector, which turns images into a table
    that any scikit-learn estimator takes: put this transformer before it in a pipeline.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`.
    layers : sequence, "last" or None, default=None
        Strides, transformer blocks or module names of the feature maps to use. None: strides 8
        and 16, or the blocks at half and three quarters of the depth.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the network's own size (224).
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    pooling : {"mean", "max", "mean_std"} or None, default="mean"
        How each feature map becomes one vector: the mean or maximum of each channel, or its mean
        and standard deviation; the vectors of all layers are concatenated. None: a vector for each
        patch, as PatchCore uses it.
    neighborhood : int, default=3
        Side, in cells, odd, of the neighborhood averaged to describe a patch. Used with
        ``pooling=None`` only.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    engine : {"torch", "onnxruntime", "auto"}, default="torch"
        What runs the network; ONNX Runtime is about twice as fast, on a CPU only, and needs the
        extra ``onnx``. ``"auto"`` takes it where it is installed and runs the network.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws random weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    backbone_ : Backbone
        The network.
    n_images_ : int
        Images seen by ``fit``.
    device_ : torch.device

    Notes
    -----
    ``fit`` trains nothing. It builds the network and learns the images' range of values, so that
    images scaled another way are refused later.

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
        backbone: str | nn.Module = "efficientnet_lite0",
        *,
        layers: Layers = None,
        weights: Path = "pretrained",
        image_size: Size | None = None,
        center_crop: Size | None = None,
        pooling: str | None = "mean",
        neighborhood: int = 3,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        engine: str = "torch",
        dtype: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.image_size = image_size
        self.center_crop = center_crop
        self.pooling = pooling
        self.neighborhood = neighborhood
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.engine = engine
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    @plain
    def fit_transform(self, X: Images, y: object = None) -> np.ndarray:
        """``fit(X).transform(X)``, in one pass over the images."""
        with self._learning() as learner:
            learner._start()
            return learner._collect(learner._learning_batches(learner._open(X)))

    @plain
    def transform(self, X: Images) -> np.ndarray:
        """Features of images.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        features : ndarray of shape (n_images, n_features) or (n_images, n_patches, n_features)
            float32. The latter with ``pooling=None``, patches row by row.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        check_is_fitted(self)
        return self._collect(self._checked_batches(self._open(X), "features"))

    def _collect(self, batches):
        features = []
        for images, found in batches.map(self._features):
            check_finite(found, images)
            features.append(found.cpu().numpy())
        return np.concatenate(features)

    def _features(self, batch):
        maps = self.backbone_(batch)
        if self._pooling_ is None:
            return grid_rows(patch_embedding(maps, neighborhood=self._neighborhood_))  # (B, P, D)
        return pool_maps(maps, self._pooling_)  # (B, D)

    def _check_params(self):
        if self.pooling is not None:
            check_choice("pooling", self.pooling, POOLINGS)
        check_odd("neighborhood", self.neighborhood)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        # Snapshot: later set_params calls must not alter a fitted transformer
        self._pooling_, self._neighborhood_ = self.pooling, self.neighborhood
        return self.backbone_.input

    def _fit_images(self, X):
        for _ in self._learning_batches(self._open(X)):
            pass

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # output is float32 whatever the input
        return tags

    @property
    def _n_features_out(self):
        return sum(self.backbone_.n_channels)
