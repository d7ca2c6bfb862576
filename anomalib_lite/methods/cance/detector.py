"""CANCE: a density of composite features, codes and reconstruction errors, of images or tables."""

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from torch import nn

from ...annotations import Device, Path, RandomState, Size
from ...backbones.backbone import DTYPES, ENGINES, Backbone
from ...base import BaseDetector
from ...contexts import plain
from ...data.inputs import NetworkInput
from ...density.nce import NCEDensity
from ...nn.autoencoders import Autoencoder
from ...validation import check_choice, check_count, check_finite, check_fraction, check_number
from .composites import SCORE_TYPES
from .images import FeatureMapModel, learn_feature_maps, learn_pixels
from .tables import ImagesOrTable, TableMixin

_OWN = ("autoencoder", "mlp", "pca")
_IMAGE_SIZE = 64


class CANCE(TableMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDetector):
    r"""CANCE: augmented composite features of an autoencoder, and their density by NCE.

    An autoencoder turns an input :math:`x` into a code :math:`z` and a reconstruction
    :math:`\hat x`. The anomaly score is the negative log-density, in nats, of

    .. math:: f(x) = [\, z,\; \|x - \hat x\|^2 / \mathrm{size}(x),\; 1 - \cos(x, \hat x) \,]

    as :class:`~anomalib_lite.NCEDensity` learns it from normal inputs: images, or the rows of a
    table (n_samples, n_features). Scoring takes the kind of input that ``fit`` was given.

    Parameters
    ----------
    backbone : {"autoencoder", "mlp", "pca"}, str or nn.Module, default="autoencoder"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. Its frozen, pooled feature maps
        are reconstructed from their principal components. Three names need no pretrained network
        and take tables, too, hence the default: ``"autoencoder"`` trains a convolutional
        autoencoder of images, or an MLP of tables; ``"mlp"`` trains an MLP of either, better than
        convolutions where images are small, aligned and few; ``"pca"`` trains nothing and codes
        pixels or columns by their principal components.
    score_type : {"composite", "latent", "error", "cosine"}, default="composite"
        What gives the anomaly score: the density of the composite, the density of the code alone,
        or one of the two errors.
    augment : bool, default=True
        Teach the density that lower errors are not anomalous (``n_lowered`` of NCEDensity).
    latent_dim : int or None, default=None
        Size of the code, as far as the data allow. None: 16, or half the columns of a table if
        there are fewer than 32; of principal components 128, or half the number of inputs if these
        are fewer, which leaves room for errors.
    widths : tuple of int, default=(16, 32, 64)
        Channels of the autoencoder's convolutions, each of which halves the sides.
    hidden : tuple of int or None, default=None
        Widths of the hidden layers: of an MLP's encoder, which the decoder reverses. None:
        (256, 64) for images, (64, 32) for tables.
    cov_weight : float, default=1.0
        Weight, in the autoencoder's loss, of the mean squared covariance of two different columns
        of a batch's codes.
    input_noise : float, default=0.0
        Standard deviation of the Gaussian noise added to training inputs. The autoencoder is to
        reconstruct the input without noise. Units: pixels in [0, 1], or a table's standard
        deviations.
    epochs : int, default=150
        Passes over the training images. In this first stage, encoder and decoder learn.
    decoder_epochs : int, default=50
        Passes of the second stage, in which the decoder learns alone, from the squared error alone.
    train_batch_size : int, default=32
        Images of a training step. At least 2.
    learning_rate : float, default=0.001
        Learning rate of the optimizer, which is Adam on a cosine schedule in either stage.
    validation_fraction : float, default=0.1
        Fraction of the images not trained on but watched: the weights with the lowest loss on them
        are kept. 0 keeps the last ones. Holds for the density, too.
    n_folds : int, default=5
        Number of folds: out-of-sample scores come from models fitted without the image's fold.
        Fewer than elsewhere, since each fold trains an autoencoder and a density.
    cross_fit : bool, default=False
        Fit the density, too, on out-of-sample errors. Errors of an autoencoder's own training
        inputs, which the paper uses, are smaller than those of new normal inputs, so that the
        score overrates errors.
    density : NCEDensity or None, default=None
        The density of composites, or of codes; a clone is fitted. None:
        ``NCEDensity(learning_rate=0.003)``. ``n_lowered``, ``validation_fraction``, ``device``,
        ``random_state`` and ``verbose`` are set by this detector. With ``epochs=0`` the score is
        half the squared Mahalanobis distance of the composite, plus a constant.
    layers : sequence, "last" or None, default=(8, 16, 32)
        Strides, transformer blocks or module names of the feature maps to use. Pooled maps describe
        whole images, hence the coarse stride 32 by default.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from.
    patch_level : bool, default=False
        Score an image by its most anomalous patch: with a feature backbone, rather than by its
        pooled features.
    n_patches : int, default=10000
        Number of normal patches, drawn at random, that the patch model is fitted on.
    neighborhood : int, default=3
        Side, in cells, odd, of the neighborhood averaged to describe a patch.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the feature backbone's own size
        (224), or 64.
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    smoothing : float, default=1.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image. Low, since
        images are resized to 64 pixels by default.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
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
        Only feature backbones run by it.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere. Networks that are
        trained here keep float32.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random: initial weights, batches, noise, patches and folds.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    model_ : PixelModel, FeatureMapModel or TableModel
        Turns images, feature maps or tables into scores and maps.
    autoencoder_ : ConvAutoencoder, MLPAutoencoder or LinearAutoencoder
        Gives the codes and reconstructions.
    density_ : NCEDensity or None
        Of composites, or of codes; None where an error is the score.
    patch_autoencoder_ : LinearAutoencoder
        Of patches, with a feature backbone.
    patch_density_ : NCEDensity or None
        Of patches' composites, or codes, with a feature backbone.
    composites_ : ndarray of shape (n_samples, latent_dim + 2)
        What the density was fitted on.
    backbone_ : Backbone
        The feature backbone, if there is one.
    scaler_ : StandardScaler
        Of a table's columns.
    history_ : list of dict
        Losses of the autoencoder's training by epoch, both stages.
    calibration_scores_ : ndarray of shape (n_samples,)
        ``score_samples`` of each training input by an autoencoder and a density fitted without its
        fold, brought to the scale of the final ones. With ``cross_fit`` the autoencoder that gives
        the code has seen the input.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Images, or rows, seen by ``fit``.
    n_features_in_ : int
        Columns of the table.
    feature_names_in_ : ndarray of shape (n_features_in,)
        Names of the table's columns, if it had any.
    device_ : torch.device
        Where tensors live.

    Notes
    -----
    Maps. Of pixels: the squared error of each, times the slope of the score along the error; a
    slope below 1 / (standard deviation of the errors) counts as that, so that no map is inverted.
    Of a feature backbone: the anomaly score of each patch's composite. Of a table: the squared
    error of each column, in its variance, (n_samples, n_features).

    If all training images are gray, the autoencoder has one channel: it reconstructs color images
    in gray, and their colors are errors.

    Networks of images run in float32, tables and densities in float64.

    References
    ----------
    Z. Liao, A. J. Brockmeier, "Anomaly Detection via Autoencoder Composite Features and NCE", 2025.

    Examples
    --------
    >>> from anomalib_lite import CANCE
    >>> rng = np.random.default_rng(0)
    >>> line = rng.normal(size=(200, 1)) * [1, 2, 3]
    >>> rows = line + rng.normal(scale=0.1, size=(200, 3))
    >>> detector = CANCE(latent_dim=1, epochs=20, decoder_epochs=5, random_state=0).fit(rows)
    >>> detector.predict([[1, 2, 3], [1, 2, -3]])
    array([ 1, -1])
    """

    def __init__(
        self,
        backbone: str | nn.Module = "autoencoder",
        *,
        score_type: str = "composite",
        augment: bool = True,
        latent_dim: int | None = None,
        widths: Sequence[int] = (16, 32, 64),
        hidden: Sequence[int] | None = None,
        cov_weight: float = 1.0,
        input_noise: float = 0.0,
        epochs: int = 150,
        decoder_epochs: int = 50,
        train_batch_size: int = 32,
        learning_rate: float = 0.001,
        validation_fraction: float = 0.1,
        n_folds: int = 5,
        cross_fit: bool = False,
        density: NCEDensity | None = None,
        layers: Sequence[int | str] | str | None = (8, 16, 32),
        weights: Path = "pretrained",
        patch_level: bool = False,
        n_patches: int = 10000,
        neighborhood: int = 3,
        image_size: Size | None = None,
        center_crop: Size | None = None,
        smoothing: float = 1.0,
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
        self.score_type = score_type
        self.augment = augment
        self.latent_dim = latent_dim
        self.widths = widths
        self.hidden = hidden
        self.cov_weight = cov_weight
        self.input_noise = input_noise
        self.epochs = epochs
        self.decoder_epochs = decoder_epochs
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.n_folds = n_folds
        self.cross_fit = cross_fit
        self.density = density
        self.layers = layers
        self.weights = weights
        self.patch_level = patch_level
        self.n_patches = n_patches
        self.neighborhood = neighborhood
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
        check_choice("score_type", self.score_type, SCORE_TYPES)
        for name, choices in (("engine", ENGINES), ("dtype", DTYPES)):
            check_choice(name, getattr(self, name), choices)
        if self.latent_dim is not None:
            check_count("latent_dim", self.latent_dim)
        for name in ("widths", "hidden"):
            for width in getattr(self, name) or ():
                check_count(name, width)
        if not self.widths:
            raise ValueError(f"widths: expected at least one width, got {self.widths!r}.")
        for name in ("epochs", "n_patches"):
            check_count(name, getattr(self, name))
        check_count("decoder_epochs", self.decoder_epochs, minimum=0)
        for name in ("cov_weight", "input_noise", "learning_rate"):
            check_number(name, getattr(self, name), minimum=0)
        check_fraction("validation_fraction", self.validation_fraction)
        for name in ("train_batch_size", "n_folds"):
            check_count(name, getattr(self, name), minimum=2)
        if self.density is not None:
            if not isinstance(self.density, NCEDensity):
                raise ValueError(
                    f"density: expected an NCEDensity or None, got {self.density!r}. Pass an "
                    "instance, such as NCEDensity(epochs=30)."
                )
            self.density._check_params()
        if self.patch_level and not self._uses_backbone:
            raise ValueError(
                f"patch_level: {self.backbone!r} sees whole images. Name a feature backbone, such "
                "as backbone='efficientnet_lite0'."
            )

    @property
    def _uses_backbone(self):
        return not (isinstance(self.backbone, str) and self.backbone in _OWN)

    # -- learning ---------------------------------------------------------------------------------

    def fit(self, X: ImagesOrTable, y: object = None) -> Self:
        """Learn what normal images, or the rows of a normal table, look like.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images of good parts, see :mod:`anomalib_lite.data.images`; or a table of numbers
            (n_samples, n_features): an array, a DataFrame or a list of rows.
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter, an image or the table is invalid. A fit that fails leaves the estimator
            as it was before.
        """
        return super().fit(X, y)

    def _build(self, generator):
        if not self._uses_backbone:
            size = _IMAGE_SIZE if self.image_size is None else self.image_size
            return NetworkInput.raw(size, self.center_crop)
        self.backbone_ = Backbone.for_estimator(self, generator)
        return self.backbone_.input

    def _learn(self, batches, n_images, generator):
        if self._uses_backbone:
            model, learned = learn_feature_maps(self, self.backbone_, batches, n_images, generator)
        else:
            model, learned = learn_pixels(self, batches, generator)
        self._keep(model, learned)
        return learned.anomaly_scores

    def _keep(self, model, learned):
        self.model_ = model
        self.composites_ = learned.composites.cpu().numpy()
        self.history_ = learned.history

    # -- scoring ----------------------------------------------------------------------------------

    def _score(self, batch):
        return self.model_.score(self._seen(batch))

    def _infer(self, batch):
        return self.model_.infer(self._seen(batch))

    def _composites(self, batch):
        return self.model_.composites(self._seen(batch))

    def _seen(self, batch):
        """What the model takes of a batch: pixels, or feature maps."""
        takes_maps = isinstance(self.model_, FeatureMapModel)
        return self.backbone_.trainable_maps(batch) if takes_maps else batch

    @plain
    def transform(self, X: ImagesOrTable) -> np.ndarray:
        """Composite features: code, squared error and cosine dissimilarity.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images, or a table, as in ``fit``.

        Returns
        -------
        composites : ndarray of shape (n_samples, latent_dim + 2)
            float64.
        """
        table = self._table(X)
        if table is not None:
            return self.model_.composites(table).cpu().numpy()
        found = []
        batches = self._checked_batches(self._open(X), "features")
        for images, composites in batches.map(self._composites):
            check_finite(composites, images)
            found.append(composites)
        return torch.cat(found).cpu().numpy()

    # -- what was learned -------------------------------------------------------------------------

    @property
    def autoencoder_(self) -> Autoencoder:
        return self.model_.composite.autoencoder

    @property
    def density_(self) -> NCEDensity | None:
        return self.model_.composite.density

    @property
    def patch_autoencoder_(self) -> Autoencoder:
        return self.model_.patches.autoencoder

    @property
    def patch_density_(self) -> NCEDensity | None:
        return self.model_.patches.density

    @property
    def scaler_(self) -> StandardScaler:
        return self.model_.scaler

    @property
    def _n_features_out(self):
        return self.autoencoder_.latent_dim + 2

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float64
        return tags
