"""CANCE: a density of composite features, codes and reconstruction errors, of images or tables."""

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from ..backbones.backbone import Backbone
from ..backbones.patches import grid_rows, patch_embedding, pool_maps
from ..base import BaseDetector, Inspection
from ..data.images import is_table
from ..data.inputs import NetworkInput
from ..density.heads import folds
from ..density.nce import NCEDensity
from ..nn.autoencoders import (
    ConvAutoencoder,
    LinearAutoencoder,
    MLPAutoencoder,
    reconstruction_errors,
)
from ..nn.training import Objective, split_off, train
from ..runtime import all_or_nothing, draw_seed, exact_dtype, make_generator, seeded
from ..validation import (
    as_pair,
    check_choice,
    check_count,
    check_enough,
    check_finite,
    check_fraction,
    check_number,
)

SCORES = ("composite", "latent", "error", "cosine")
_IMAGE_SIZE = 64
_OWN = ("autoencoder", "mlp", "pca")
_PATCHES_OF_A_STREAM = 100  # kept of each image where nobody knows how many will come


class CANCE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseDetector):
    r"""CANCE: composite features, augmented, and their density by noise contrastive estimation.

    An autoencoder tells of an input :math:`x` what it can say, the code :math:`z`, and what it
    cannot: the squared error of the reconstruction :math:`\hat x`, per value, and 1 minus the
    cosine of the angle between the two. The anomaly score is the negative log-density, in nats, of

    .. math:: f(x) = [\, z,\; \|x - \hat x\|^2 / \mathrm{size}(x),\; 1 - \cos(x, \hat x) \,]

    as :class:`~anomalib_lite.NCEDensity` learns it from normal inputs. A table (n_samples,
    n_features) is taken as well as images; what ``fit`` was given the other methods expect.

    Parameters
    ----------
    features : {"autoencoder", "mlp", "pca"}, or a backbone: str or nn.Module, default="autoencoder"
        "autoencoder" trains one: convolutional for images, an MLP for tables; "mlp" trains an MLP
        on the pixels, too: better than convolutions where images are small, aligned and few. "pca"
        trains nothing: codes are principal components of pixels or columns. A backbone, such as
        ``"efficientnet_lite0"``, is for images: its frozen, pooled features are reconstructed by
        their principal components; see :class:`~anomalib_lite.backbones.Backbone`.
    score_type : {"composite", "latent", "error", "cosine"}, default="composite"
        What of the composite feature makes the anomaly score: the density of the whole, the
        density of the code alone, or one of the two errors as it is.
    augment : bool, default=True
        Teach the density that lower errors are no anomalies (``n_lowered`` of NCEDensity).
    latent_dim : int or None, default=None
        Size of the code; as far as the data allow. None: 16, or half the columns of a table if
        these are fewer than 32; or 128 principal components, or half as many as there are inputs,
        for whose errors there has to be room.
    widths : tuple of int, default=(16, 32, 64)
        Channels of the autoencoder's convolutions, each of which halves the sides.
    hidden : tuple of int or None, default=None
        Widths of the MLP on the way to the code; the way back is their reverse. None: (256, 64) for
        images, (64, 32) for tables.
    cov_weight : float, default=1.0
        Weight of the mean squared covariance of two different coordinates of the code, over a
        batch, in the loss of the autoencoder.
    input_noise : float, default=0.0
        Standard deviation of Gaussian noise on the autoencoder's inputs in training, which it is to
        reconstruct without: in units of the pixels' [0, 1], or of a table's standard deviations.
    epochs : int, default=150
        Of the first stage, in which both halves of the autoencoder learn.
    decoder_epochs : int, default=50
        Of the second, in which the decoder goes on alone, on the squared error alone.
    train_batch_size : int, default=32
        At least 2.
    learning_rate : float, default=0.001
        Of the autoencoder, by Adam, cosine schedule in either stage.
    validation_fraction : float, default=0.1
        Share of the normal inputs that are not trained on but watched: the weights with the lowest
        loss on them are kept. 0 keeps the last ones.
    n_folds : int, default=3
        The threshold is read from scores of normal inputs by detectors that were fitted without
        them, one for each of so many folds. They cost as much again, ``n_folds - 1`` times.
    cross_fit : bool, default=False
        Let the density, too, learn from errors by autoencoders that have not seen the input. Those
        of its own inputs, as published, are smaller than those of new normal ones, which makes the
        score count errors for more than their density is worth.
    nu : int, default=5
        Samples of noise for each of the data; see :class:`~anomalib_lite.NCEDensity`, for the next
        five as well.
    nce_hidden : tuple of int, default=(128, 64)
    nce_epochs : int, default=60
        0 leaves the noise as it is: the score is then a squared Mahalanobis distance of composites.
    nce_learning_rate : float, default=0.003
    nce_weight_decay : float, default=0.01
    refine_noise : bool, default=True
    layers : sequence, "last" or None, default=(8, 16, 32)
        Of a backbone: strides, transformer blocks, or module names.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Of a backbone.
    patch_level : bool, default=False
        With a backbone: an image is as anomalous as its most anomalous patch. False looks at the
        composite of the pooled features.
    n_patches : int, default=10000
        With a backbone: how many normal patches, drawn at random, the density of patches is of.
    neighborhood : int, default=3
        Side in cells, odd, of the neighborhood that is averaged to describe a patch.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: 64 for the autoencoder, the
        backbone's own (224) else.
    center_crop : int, tuple (H, W) or None, default=None
        What to keep of the resized image.
    smoothing : float, default=1.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal inputs that ``predict`` may call anomalous, as far as the normal ones of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator.
    device : str or torch.device, default="auto"
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of a backbone.
    random_state : None, int, RandomState or Generator, default=None
        Draws first weights, batches, noise, patches and folds.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    autoencoder_ : ConvAutoencoder, MLPAutoencoder or LinearAutoencoder
    density_ : NCEDensity or None
        Of composites, or of codes; None where one of the errors is the score.
    patch_autoencoder_, patch_density_ : LinearAutoencoder, NCEDensity or None
        Of a backbone's patches.
    composites_ : ndarray of shape (n_samples, latent_dim + 2)
        What the density has learned from.
    backbone_ : Backbone
        With a backbone.
    scaler_ : StandardScaler
        With a table, whose columns it brings to one scale.
    history_ : list of dict
        Losses of the autoencoder's training by epoch, both stages.
    calibration_scores_ : ndarray of shape (n_samples,)
        ``score_samples`` of each training input by an autoencoder and a density fitted without its
        fold. With ``cross_fit`` the code alone has seen it.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Images, or rows, seen by ``fit``.
    n_features_in_, feature_names_in_
        With a table.
    device_ : torch.device

    Notes
    -----
    Maps. Of the autoencoder: the squared error of each pixel, times the slope of the score along
    the error (that of one standard deviation at least, so that no image's map turns round). Of a
    backbone: the negative log-density of each patch's composite. Of a table: the squared error of
    each column, in its variances, (n_samples, n_features).

    Images without any color are learned in one channel; a color image is then reconstructed
    without, and its colors are errors.

    Tables are computed in float64, images by the networks in float32, densities in float64.

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
        features="autoencoder",
        *,
        score_type="composite",
        augment=True,
        latent_dim=None,
        widths=(16, 32, 64),
        hidden=None,
        cov_weight=1.0,
        input_noise=0.0,
        epochs=150,
        decoder_epochs=50,
        train_batch_size=32,
        learning_rate=0.001,
        validation_fraction=0.1,
        n_folds=3,
        cross_fit=False,
        nu=5,
        nce_hidden=(128, 64),
        nce_epochs=60,
        nce_learning_rate=0.003,
        nce_weight_decay=0.01,
        refine_noise=True,
        layers=(8, 16, 32),
        weights="pretrained",
        patch_level=False,
        n_patches=10000,
        neighborhood=3,
        image_size=None,
        center_crop=None,
        smoothing=1.0,
        false_alarm_rate=0.01,
        batch_size=32,
        device="auto",
        dtype="auto",
        random_state=None,
        verbose=False,
    ):
        self.features = features
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
        self.nu = nu
        self.nce_hidden = nce_hidden
        self.nce_epochs = nce_epochs
        self.nce_learning_rate = nce_learning_rate
        self.nce_weight_decay = nce_weight_decay
        self.refine_noise = refine_noise
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
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        check_choice("score_type", self.score_type, SCORES)
        if self.latent_dim is not None:
            check_count("latent_dim", self.latent_dim)
        for name in ("widths", "hidden", "nce_hidden"):
            for width in getattr(self, name) or ():
                check_count(name, width)
        if not self.widths:
            raise ValueError("widths: expected a width at least, got none.")
        for name in ("epochs", "nu", "n_patches"):
            check_count(name, getattr(self, name))
        for name in ("decoder_epochs", "nce_epochs"):
            check_count(name, getattr(self, name), minimum=0)
        for name in ("cov_weight", "input_noise", "learning_rate"):
            check_number(name, getattr(self, name), minimum=0)
        check_fraction("validation_fraction", self.validation_fraction)
        for name in ("train_batch_size", "n_folds"):
            check_count(name, getattr(self, name), minimum=2)
        if self.patch_level and not self._uses_backbone:
            raise ValueError(
                f"patch_level: {self.features!r} sees whole images. Name a backbone as features, "
                "such as 'efficientnet_lite0'."
            )

    @property
    def _trains(self):
        return isinstance(self.features, str) and self.features in ("autoencoder", "mlp")

    @property
    def _uses_backbone(self):
        return not (isinstance(self.features, str) and self.features in _OWN)

    # -- learning: images -------------------------------------------------------------------------

    def fit(self, X, y=None):
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
            If a parameter, an image or the table is not what it should be. A fit that fails leaves
            the estimator as it was before.
        """
        with all_or_nothing(self):
            self._start()
            if is_table(X):
                self._fit_table(X)
            else:
                self._fit_images(X)
        return self

    def _build(self, generator):
        # what is fitted so is scored so, whatever set_params says later
        self._how_ = {
            "kind": "backbone" if self._uses_backbone else "images",
            "score_type": self.score_type,
            "patch_level": self.patch_level,
            "neighborhood": self.neighborhood,
        }
        if self._uses_backbone:
            self.backbone_ = Backbone.for_estimator(self, generator, name="features")
            return self.backbone_.input
        return NetworkInput(
            image_size=as_pair("image_size", self.image_size or _IMAGE_SIZE),
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            patch_size=8,
            center_crop=self.center_crop and as_pair("center_crop", self.center_crop),
        )

    @torch.inference_mode(False)
    def _learn(self, batches, n_images, generator):
        if not self._uses_backbone:
            images = torch.cat([batch.clone() for _, batch in batches])  # (n, 3, h, w)
            if (images == images[:, :1]).all():
                images = images[:, :1].contiguous()
            return self._learn_composites(images, generator)
        per_image = _PATCHES_OF_A_STREAM if n_images is None else -(-self.n_patches // n_images)
        pooled, patches, kept = [], [], []
        for images, batch in batches:
            maps = self.backbone_(batch)
            pooled.append(pool_maps(maps).clone())
            check_finite(pooled[-1], images)
            for rows in self._patches(maps):  # (P, D)
                draw = torch.randperm(len(rows), generator=generator, device="cpu")[:per_image]
                patches.append(rows[draw.to(rows.device)].clone())
            if self.patch_level:
                kept += batch.split(1)
        pooled, patches = torch.cat(pooled), torch.stack(patches)  # (n, D), (n, m, D)
        scores = self._learn_composites(pooled, generator)
        seed = draw_seed(generator)
        self.patch_autoencoder_, self.patch_density_ = self._fit_patches(patches, generator, seed)
        if not self.patch_level:
            return scores
        scores = np.empty(len(pooled))
        for fit, held_out in folds(len(pooled), seed, self.n_folds):
            parts = self._fit_patches(patches[fit], generator, seed)
            for i in held_out:
                grid, _ = self._grid(self.backbone_(kept[i]), *parts)
                scores[i] = float(grid.max())
        return scores

    def _patches(self, maps):
        """(B, P, D), one vector a patch."""
        return grid_rows(patch_embedding(maps, neighborhood=self._how_["neighborhood"]))

    def _fit_patches(self, patches, generator, seed):
        """Autoencoder and density of patches (n, m, D)."""
        rows = patches.flatten(0, 1)
        rows = rows[torch.randperm(len(rows), generator=generator, device="cpu")[: self.n_patches]]
        autoencoder = LinearAutoencoder.from_data(rows, self._size_of_code(rows))
        return autoencoder, self._fit_density(_composites(autoencoder, rows), seed)

    # -- learning: tables -------------------------------------------------------------------------

    def _fit_table(self, X):
        if self._uses_backbone:
            raise ValueError(
                f"features: a backbone reads images, and X is a table. Expected one of {_OWN}, got "
                f"{self.features!r}."
            )
        X = validate_data(self, X, dtype=np.float64, order="C")  # sums depend on it
        self.input_ = self.value_range_ = None
        self._how_["kind"] = "table"
        self.n_images_ = len(X)
        self.scaler_ = StandardScaler().fit(X)
        with torch.no_grad():
            self._calibrate_threshold(
                self._learn_composites(self._rows(X), make_generator(self.random_state))
            )

    def _rows(self, X):
        """Scaled rows of a checked table, on the device."""
        return torch.from_numpy(self.scaler_.transform(X)).to(
            self.device_, exact_dtype(self.device_)
        )

    # -- learning: what images and tables share ---------------------------------------------------

    def _learn_composites(self, x, generator):
        """Autoencoder and density of inputs (n, ...); their anomaly scores out of sample."""
        check_enough(len(x), 4, "scores of inputs by detectors fitted on others")
        seed = draw_seed(generator)
        self.autoencoder_, self.history_ = self._fit_autoencoder(x, generator)
        rows, scores = _composites(self.autoencoder_, x), np.empty(len(x))
        for fit, held_out in folds(len(x), seed, self.n_folds):
            other, _ = self._fit_autoencoder(x[fit], generator)
            found = _composites(other, x[held_out])
            if self.cross_fit:
                rows[held_out, -2:] = found[:, -2:]
            else:
                density = self._fit_density(_composites(other, x[fit]), seed)
                scores[held_out] = self._scores(density, found).cpu()
        if self.cross_fit:
            for fit, held_out in folds(len(x), seed, self.n_folds):
                density = self._fit_density(rows[fit], seed)
                scores[held_out] = self._scores(density, rows[held_out]).cpu()
        self.composites_ = rows.cpu().numpy()
        self._error_std_ = rows[:, -2].std()
        self.density_ = self._fit_density(rows, seed)
        return scores

    def _fit_autoencoder(self, x, generator):
        """(autoencoder of inputs (n, ...), history)"""
        latent_dim, is_image = self._size_of_code(x), x.ndim == 4
        if not self._trains:
            return LinearAutoencoder.from_data(x, latent_dim), []
        with torch.device("cpu"), seeded(generator, x.device):
            if is_image and self.features == "autoencoder":
                network = ConvAutoencoder(x.shape[1:], latent_dim, self.widths)
            else:
                hidden = self.hidden or ((256, 64) if is_image else (64, 32))
                network = MLPAutoencoder(x.shape[1:], latent_dim, hidden)
        network = network.to(x.device, x.dtype)
        samples, held_out = split_off(len(x), self.validation_fraction, generator)

        def reconstruct(index, generator):
            """(codes, squared error) of inputs, noise put on them where they train."""
            batch = given = x[index.to(x.device)]
            if network.training and self.input_noise:
                noise = torch.randn(batch.shape, generator=generator, device="cpu")
                given = batch + self.input_noise * noise.to(batch)
            z, back = network(given)
            return z, (back - batch).square().mean()

        def both(index, generator):
            z, error = reconstruct(index, generator)
            return error + self.cov_weight * _off_diagonal(z)

        def decoder_alone(index, generator):
            return reconstruct(index, generator)[1]

        history = []
        for loss, epochs, part in (
            (both, self.epochs, network),
            (decoder_alone, self.decoder_epochs, network.decoder),
        ):
            if epochs:
                history += train(
                    Objective(loss, part.parameters()),
                    network,
                    samples,
                    device=x.device,
                    generator=generator,
                    epochs=epochs,
                    batch_size=self.train_batch_size,
                    optimizer="adam",
                    learning_rate=self.learning_rate,
                    held_out=held_out if len(held_out) else None,
                    frozen=() if part is network else (network.encoder,),
                    verbose=self.verbose,
                )
        return network.requires_grad_(False), history

    def _size_of_code(self, x):
        """As it is asked for, or fits the inputs (n, ...)."""
        n, n_values = len(x), x[0].numel()
        if not self._trains:
            return min(self.latent_dim or min(128, n // 2), n_values, n - 1)
        return self.latent_dim or (16 if x.ndim == 4 else min(16, -(-n_values // 2)))

    def _fit_density(self, rows, seed):
        """Of composites (n, d); None where an error is the score."""
        score = self._how_["score_type"]
        if score in ("error", "cosine"):
            return None
        density = NCEDensity(
            nu=self.nu,
            hidden=self.nce_hidden,
            epochs=self.nce_epochs,
            refine_noise=self.refine_noise,
            n_lowered=2 if self.augment and score == "composite" else 0,
            learning_rate=self.nce_learning_rate,
            weight_decay=self.nce_weight_decay,
            validation_fraction=self.validation_fraction,
            device=self.device_,
            random_state=seed,
            verbose=self.verbose,
        )
        return density.fit((rows if score == "composite" else rows[:, :-2]).cpu().numpy())

    # -- scoring ----------------------------------------------------------------------------------

    def _scores(self, density, rows):
        """Anomaly scores (n,) of composites (n, d)."""
        score = self._how_["score_type"]
        if score == "composite":
            return -density.log_density(rows)
        if score == "latent":
            return -density.log_density(rows[:, :-2])
        return rows[:, -2 if score == "error" else -1]

    def _score(self, batch):
        if self._how_["patch_level"]:
            return self._infer(batch)[0]
        if self._how_["kind"] == "backbone":
            batch = pool_maps(self.backbone_.trainable_maps(batch))
        return self._scores(self.density_, _composites(self.autoencoder_, batch))

    def _infer(self, batch):
        if self._how_["kind"] == "images":
            z, back = self.autoencoder_(batch)
            rows = _joined(z, batch, back)
            errors = (batch - back).square().mean(1)  # (B, h, w)
            grids = errors * self._error_weights(rows)[:, None, None]
            return self._scores(self.density_, rows), grids
        maps = self.backbone_.trainable_maps(batch)
        grids, values = self._grid(maps, self.patch_autoencoder_, self.patch_density_)
        if self._how_["patch_level"]:
            return values.amax(1), grids
        rows = _composites(self.autoencoder_, pool_maps(maps))
        return self._scores(self.density_, rows), grids

    def _grid(self, maps, autoencoder, density):
        """Scores of patches as a grid (B, h, w) and as rows (B, P)."""
        patches = self._patches(maps)
        rows = _composites(autoencoder, patches.flatten(0, 1))
        values = self._scores(density, rows).view(patches.shape[:2])
        return values.float().view(-1, *maps[0].shape[-2:]), values

    @torch.inference_mode(False)
    def _error_weights(self, rows):
        """By how much the score grows (B,) with the mean squared error, in units of maps."""
        if self._how_["score_type"] != "composite":
            return rows.new_ones(len(rows), dtype=torch.float32)
        with torch.enable_grad():
            rows = rows.clone().requires_grad_(True)
            (slopes,) = torch.autograd.grad(self._scores(self.density_, rows).sum(), rows)
        return slopes[:, -2].clamp_min(1 / float(self._error_std_)).float()

    def transform(self, X):
        """Composite features: the code, the squared error, the cosine dissimilarity.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images, or a table, as in ``fit``.

        Returns
        -------
        composites : ndarray of shape (n_samples, latent_dim + 2)
            float64.
        """
        check_is_fitted(self)
        if self._how_["kind"] == "table":
            return self._table_composites(X)[1].cpu().numpy()
        found = []
        with torch.no_grad():
            for images, batch in self._checked_batches(self._open(X), "features"):
                if self._how_["kind"] == "backbone":
                    batch = pool_maps(self.backbone_(batch))
                found.append(_composites(self.autoencoder_, batch))
                check_finite(found[-1], images)
        return torch.cat(found).cpu().numpy()

    def _table_composites(self, X):
        """(scaled rows, their composites) of a table."""
        X = validate_data(self, X, dtype=np.float64, order="C", reset=False)
        rows = self._rows(X)
        with torch.no_grad():
            return rows, _composites(self.autoencoder_, rows)

    def anomaly_score(self, X):
        """Anomaly score of each input, higher = more anomalous: minus ``score_samples``."""
        check_is_fitted(self)
        if self._how_["kind"] != "table":
            return super().anomaly_score(X)
        _, composites = self._table_composites(X)
        with torch.no_grad():
            return self._scores(self.density_, composites).cpu().numpy().astype(np.float64)

    def inspect(self, X):
        """Scores, labels and maps from one pass over the images, or the rows of a table.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images, or a table, as in ``fit``.

        Returns
        -------
        inspection : Inspection
            Named tuple (scores, labels, maps, paths). The map of a row of a table is the squared
            error of each of its columns.
        """
        check_is_fitted(self)
        if self._how_["kind"] != "table":
            return super().inspect(X)
        rows, composites = self._table_composites(X)
        with torch.no_grad():
            scores = -self._scores(self.density_, composites).cpu().numpy().astype(np.float64)
            _, back = self.autoencoder_(rows)
        maps = (rows - back).square().cpu().numpy()
        return Inspection(scores, self._labels(scores), maps, [None] * len(maps))

    @property
    def _n_features_out(self):
        return self.autoencoder_.latent_dim + 2

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.transformer_tags.preserves_dtype = []  # whatever comes in, float64 goes out
        return tags


def _composites(autoencoder, x):
    """(n, latent_dim + 2), in float64 where the device has it, of inputs (n, ...)."""
    z, back = autoencoder(x)
    return _joined(z, x, back)


def _joined(z, x, back):
    """Codes, and the errors of reconstructions, as composites."""
    return torch.cat([z, reconstruction_errors(x, back)], 1).to(exact_dtype(x.device))


def _off_diagonal(z):
    """Mean square of the covariances of two different columns of codes (B, d)."""
    n, d = z.shape
    if n == 1 or d == 1:
        return z.new_zeros(())
    centered = z - z.mean(0)
    covariance = centered.T @ centered / (n - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / (d * (d - 1))
