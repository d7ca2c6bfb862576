"""CPC: a detector whose score is the loss of contrastive predictive coding."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import nn

from ...annotations import Device, Path, RandomState, Size
from ...backbones import Backbone
from ...base import BaseDetector
from ...contexts import seeded
from ...data import NetworkInput, is_gray
from ...nn.autoencoders import LinearAutoencoder
from ...nn.course import side_by_side
from ...nn.parts import in_parts
from ...nn.training import Objective, check_training, split_off, train, training_settings
from ...runtime import draw_seed, make_generator
from ...validation import (
    check_count,
    check_enough,
    check_finite,
    check_fraction,
    check_number,
)
from ...workers import map_on
from .encoders import ENCODERS, embed_grids, make_encoder, patch_features
from .layout import TileLayout
from .prediction import (
    CPCScoring,
    max_prediction_steps,
    named_directions,
    prediction_losses,
    sum_by_patch,
    training_loss,
)

_ROWS_TO_WHITEN = 20000
_PATCHES_OF_A_PART = 64  # of a training batch, for a worker
_SHORTEST_WAY = 0.01  # that a weight has to be able to go in training


class CPC(BaseDetector):
    r"""CPC: scores an image by how poorly its patches are predicted from preceding ones.

    An encoder turns each patch of a grid of overlapping patches into a vector :math:`z_{ij}`. From
    it, matrices :math:`W_k` predict the vectors of the next rows. The loss of a prediction,
    InfoNCE, is the cross-entropy of picking the true vector among the vectors :math:`z_l` of other,
    normal patches:

    .. math::
        \ell_{ijk} = -\log \frac{\exp(z_{i+k,j} \cdot W_k z_{ij} / \tau)}
        {\exp(z_{i+k,j} \cdot W_k z_{ij} / \tau) + \sum_l \exp(z_l \cdot W_k z_{ij} / \tau)}

    The anomaly score is the mean of :math:`\ell` over positions, steps and four directions, in
    which the grid is read downwards, upwards, to the right and to the left.

    Parameters
    ----------
    backbone : str or nn.Module, default="resnet18"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. It stays as it is: its pooled
        features of patches are whitened, and predictions alone are trained. ``"resnet18"``,
        ``"resnet50"`` and ``"densenet"`` are encoders that are trained from random weights, as
        published: pre-activation residual networks up to their third stage, see
        :class:`~anomalib_lite.nn.ResidualEncoder`, and one dense block, see
        :class:`~anomalib_lite.nn.DenseEncoder`. timm's own ResNets need a tag, as
        ``"resnet18.a1_in1k"``.
    directions : int, str or sequence of {"down", "up", "right", "left"}, default=4
        Directions of prediction; an int takes the first so many of these.
    share_encoder : bool, default=False
        One encoder for all directions, at about a quarter of the cost. False trains one for each.
        A backbone is shared in any case.
    width : int, default=64
        Channels of the first convolution of each network: even; cost grows with the square. 16
        suits a CPU.
    embedding_dim : int or None, default=None
        Size of the vectors. None: 1024, or 128 whitened components of a backbone's features, as far
        as the data allow.
    patch_size : int, default=64
        Side of a patch in pixels of the network's input.
    patch_stride : int, default=32
        Distance between patches in pixels: the resolution of the maps.
    tile_size : int or None, default=None
        Predict within overlapping tiles, each with a grid of its own, instead of across the whole
        image. The published scheme is ``image_size=768, tile_size=256``: 25 tiles of 7x7 patches.
        In scoring, patches that tiles share are encoded once.
    tile_stride : int or None, default=None
        Distance between tiles in pixels; None is half their size.
    prediction_steps : int, default=5
        Number of rows ahead, as far as the grid goes.
    n_negatives : int, default=16
        Vectors that each prediction is contrasted with in training, drawn from all other patches of
        the batch.
    n_scoring_negatives : int, default=256
        Stored vectors of normal patches that it is contrasted with in scoring, the same for every
        image. The paper has 16; more are steadier and cost little.
    normalize : bool, default=False
        Scale every vector to length 1: compare by cosine instead of scalar product.
    temperature : float, default=1.0
        Temperature of the InfoNCE loss: :math:`\tau`. With ``normalize`` 0.1 is usual.
    standardize : bool, default=True
        Bring each image to mean 0 and standard deviation 1. Otherwise the encoder tells patches
        apart by the brightness of their images, which is no help in finding anomalies.
    epochs : int, default=30
        Passes over the training images. 0 keeps the initial weights, as a control.
    train_batch_size : int, default=16
        Images of a training step. With ``tile_size``: tiles.
    learning_rate : float, default=1e-5
        Learning rate of the optimizer. The default is the paper's; a warning says where it cannot
        suffice, see Notes. 0.001 for 3 to 5 epochs of a few hundred images does.
    optimizer : {"sgd", "adam", "adamw"} or callable, default="adam"
        See :func:`~anomalib_lite.nn.train`.
    schedule : {"cosine", "constant"} or callable, default="constant"
        Schedule of the learning rate; see :func:`~anomalib_lite.nn.train`.
    weight_decay : float, default=0.0
        Weight decay of the optimizer.
    clip_norm : float or None, default=None
        Largest norm of the gradient; None for no limit.
    calibration_fraction : float, default=0.2
        Fraction of the normal images kept out of training to set the threshold. One image at least.
    validation_fraction : float, default=0.0
        Fraction of the images not trained on but watched: the weights with the lowest loss on them
        are kept. It counts from the images left for training; 0 keeps the last weights.
    layers : sequence, "last" or None, default=None
        Strides, transformer blocks or module names of the feature maps to use. For a backbone.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from. For a backbone.
    image_size : int or tuple (H, W), default=256
        Images are resized to it, whatever their proportions.
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    smoothing : float, default=16.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image. It spreads a
        patch's value around the patch's center; the default suits patches 32 px apart.
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
        For a backbone.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere. For a backbone.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws initial weights, batches, negatives and the images kept
        out of training.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    encoders_ : list of ResidualEncoder or DenseEncoder, or of one Backbone
        One for each direction, or one for all.
    whitening_ : LinearAutoencoder or None
        Of a backbone's features.
    predictors_ : dict of str to tensor of shape (prediction_steps, embedding_dim, embedding_dim)
        The matrices :math:`W_k` of each direction.
    negatives_ : list of tensor of shape (n_scoring_negatives, embedding_dim)
        Vectors, by each encoder, of the same patches of training images.
    history_ : list of list of dict
        Losses by epoch of each encoder's training; see :func:`~anomalib_lite.nn.train`.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of the images kept out of training; NaN of the others.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Images learned from.
    device_ : torch.device

    Warns
    -----
    UserWarning
        If Adam cannot get far enough: ``learning_rate`` times the number of steps, the farthest a
        weight can go, is below 0.01, a third of the size of initial weights at 1024 inputs.

    Notes
    -----
    Scores are in nats. An uninformative prediction costs ``log(1 + n_scoring_negatives)``.

    A patch's value in maps is the mean loss of the predictions *of* it, over directions, steps and
    tiles; where there are none, as in the top row with ``directions="down"`` alone, of those made
    *from* it.

    Training images are held in memory as the network sees them. If none of them has any color, the
    encoders read one channel: of a color image, the mean of its channels.

    References
    ----------
    P. de Haan, S. Löwe, "Contrastive Predictive Coding for Anomaly Detection", 2021. O. Hénaff,
    "Data-Efficient Image Recognition with Contrastive Predictive Coding", ICML 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import CPC
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 256, (20, 64, 64), dtype=np.uint8)
    >>> detector = CPC(
    ...     image_size=64, patch_size=16, patch_stride=16, width=4, embedding_dim=16,
    ...     prediction_steps=2, epochs=2, learning_rate=0.01, share_encoder=True, random_state=0,
    ... ).fit(images)
    >>> detector.score_samples(images[:3]).shape
    (3,)
    """

    def __init__(
        self,
        backbone: str | nn.Module = "resnet18",
        *,
        directions: int | str | Sequence[str] = 4,
        share_encoder: bool = False,
        width: int = 64,
        embedding_dim: int | None = None,
        patch_size: int = 64,
        patch_stride: int = 32,
        tile_size: int | None = None,
        tile_stride: int | None = None,
        prediction_steps: int = 5,
        n_negatives: int = 16,
        n_scoring_negatives: int = 256,
        normalize: bool = False,
        temperature: float = 1.0,
        standardize: bool = True,
        epochs: int = 30,
        train_batch_size: int = 16,
        learning_rate: float = 1e-5,
        optimizer: str | Callable = "adam",
        schedule: str | Callable[[float], float] = "constant",
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        calibration_fraction: float = 0.2,
        validation_fraction: float = 0.0,
        layers: Sequence[int | str] | str | None = None,
        weights: Path = "pretrained",
        image_size: Size = 256,
        center_crop: Size | None = None,
        smoothing: float = 16.0,
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
        self.directions = directions
        self.share_encoder = share_encoder
        self.width = width
        self.embedding_dim = embedding_dim
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.tile_size = tile_size
        self.tile_stride = tile_stride
        self.prediction_steps = prediction_steps
        self.n_negatives = n_negatives
        self.n_scoring_negatives = n_scoring_negatives
        self.normalize = normalize
        self.temperature = temperature
        self.standardize = standardize
        self.epochs = epochs
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.calibration_fraction = calibration_fraction
        self.validation_fraction = validation_fraction
        self.layers = layers
        self.weights = weights
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
        check_count("patch_size", self.patch_size, minimum=8)
        for name in (
            "patch_stride",
            "prediction_steps",
            "n_negatives",
            "n_scoring_negatives",
            "train_batch_size",
            "width",
        ):
            check_count(name, getattr(self, name))
        for name in ("embedding_dim", "tile_size", "tile_stride"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.width % 2:
            raise ValueError(f"width: expected an even int, got {self.width}.")
        check_count("epochs", self.epochs, minimum=0)
        check_number("temperature", self.temperature, minimum=0)
        if self.temperature == 0:
            raise ValueError("temperature: expected a positive number, got 0.")
        check_training(self)
        check_fraction("calibration_fraction", self.calibration_fraction)
        check_fraction("validation_fraction", self.validation_fraction)
        if self._trains_encoders and self.engine == "onnxruntime":
            raise ValueError(
                f"engine: expected 'torch' for {self.backbone!r}, which is trained, got "
                f"{self.engine!r}. Frozen backbones, such as 'efficientnet_lite0', take both."
            )

    @property
    def _trains_encoders(self):
        return isinstance(self.backbone, str) and self.backbone in ENCODERS

    # -- before the images ------------------------------------------------------------------------

    def _build(self, generator):
        network_input = NetworkInput.raw(self.image_size, self.center_crop)
        self.encoders_ = []
        if not self._trains_encoders:
            backbone = self._make_backbone(generator)
            network_input = replace(network_input, mean=backbone.input.mean, std=backbone.input.std)
            self.encoders_ = [backbone]
        self._layout_ = TileLayout.of_parameters(
            network_input.seen_size,
            self.patch_size,
            self.patch_stride,
            self.tile_size,
            self.tile_stride,
        )
        self._scoring_ = CPCScoring(
            directions=named_directions(self.directions),
            shared=bool(self.share_encoder or not self._trains_encoders),
            standardize=self.standardize,
            normalize=self.normalize,
            temperature=self.temperature,
        )
        for direction in self._scoring_.directions:
            if not max_prediction_steps(self._layout_.tile_shape, direction):
                rows, columns = self._layout_.tile_shape
                raise ValueError(
                    f"patch_size: the grid has {rows} x {columns} patches of {self.patch_size} px, "
                    f"so there is nothing to predict {direction}wards. Take smaller patches or a "
                    "smaller patch_stride."
                )
        return network_input

    def _make_backbone(self, generator):
        try:
            return Backbone(
                self.backbone,
                layers=self.layers,
                weights=self.weights,
                image_size=self.patch_size,
                device=self.device_,
                generator=generator,
                engine=self.engine,
                dtype=self.dtype,
            )
        except ValueError as error:
            if not str(error).startswith("backbone:"):
                raise
            ours = ", ".join(map(repr, ENCODERS))
            raise ValueError(
                f"backbone: {self.backbone!r} is none of {ours}, and: {error}"
            ) from None

    # -- learning ---------------------------------------------------------------------------------

    def _learn(self, batches, n_images, generator):
        self.whitening_ = None
        images, features = self._read(batches)
        check_enough(len(images), 3, "scores of images kept out of training")
        learned, kept_out, watched = self._split(len(images), generator)
        if self._trains_encoders and is_gray(images):
            self._scoring_ = replace(self._scoring_, n_channels=1)
        images = self._scoring_.prepare(images)
        normal_patches = self._layout_.draw_patches(
            images, learned, self.n_scoring_negatives, generator
        )
        if self._trains_encoders:
            self.encoders_ = self._make_encoders(generator)
            tiles = [self._tiles_in_training(images, encoder) for encoder in self.encoders_]
        else:
            tiles = [self._frozen_tiles(features, learned, generator)]
        self._train(tiles, learned, watched, generator)
        self.negatives_ = [self._embed(encoder, normal_patches) for encoder in self.encoders_]
        scores = np.full(len(images), np.nan)
        held_out = images[kept_out.to(images.device)].split(1)
        found = map_on(self.device_, lambda image: self._infer_prepared(image)[0], held_out)
        scores[kept_out.numpy()] = torch.cat(found).cpu()
        return scores

    def _read(self, batches):
        """Network inputs (n, 3, H, W), and a backbone's features (n, rows, columns, F) or None."""
        images, features = [], []
        for checked, (batch, grids) in batches.map(lambda batch: (batch, self._grids(batch))):
            images.append(batch)
            for grid in grids:
                check_finite(grid, checked)
            features += grids
        return torch.cat(images), torch.cat(features) if features else None

    def _grids(self, batch):
        """A frozen backbone's features (B, rows, columns, F) of a batch; none of other encoders."""
        patches = self._layout_.patches(self._scoring_.prepare(batch))
        return [
            embed_grids(partial(patch_features, backbone), patches) for backbone in self.encoders_
        ]

    def _split(self, n_images, generator):
        """Indices of the images that are trained on, kept out, and watched."""
        fraction = max(self.calibration_fraction, 1 / n_images)
        others, kept_out = split_off(n_images, fraction, generator)
        others = self._without_copies(others, kept_out)
        order, watched = split_off(len(others), self.validation_fraction, generator)
        if not len(order):
            raise ValueError(
                f"calibration_fraction: with {self.calibration_fraction} of {n_images} images kept "
                f"out of training and validation_fraction={self.validation_fraction} none is left "
                "to learn. Lower either, or fit on more images."
            )
        return others[order], kept_out, others[watched]

    def _make_encoders(self, generator):
        encoders = []
        for _ in self._scoring_.groups:
            with seeded(generator):
                encoder = make_encoder(
                    self.backbone,
                    self._scoring_.n_channels,
                    self.embedding_dim or 1024,
                    self.width,
                    self.patch_size,
                )
            encoders.append(encoder.to(self.device_))
        return encoders

    def _tiles_in_training(self, images, encoder):
        """A function: indices of tiles -> vectors (B, rows, columns, D), with gradients."""

        def embed(index):
            patches = self._layout_.patches(self._layout_.tiles(images, index))
            vectors = in_parts(
                partial(self._embed, encoder),
                patches.flatten(0, 2),
                encoder.parameters(),
                _PATCHES_OF_A_PART,
            )
            return vectors.unflatten(0, patches.shape[:3])

        return embed

    def _frozen_tiles(self, features, learned, generator):
        """The same, from a backbone's features (n, rows, columns, F); sets the whitening."""
        rows = features[learned.to(features.device)].flatten(0, 2)
        order = torch.randperm(len(rows), generator=generator, device="cpu")[:_ROWS_TO_WHITEN]
        dim = min(self.embedding_dim or 128, rows.shape[1], len(order) - 1)
        self.whitening_ = LinearAutoencoder.from_data(rows[order.to(rows.device)], dim)
        tiles = self._layout_.tile_grids(self._finished(features)).flatten(0, 1)
        return lambda index: tiles[index.to(tiles.device)]

    # -- training ---------------------------------------------------------------------------------

    def _train(self, tiles, learned, watched, generator):
        """Train each encoder with its predictions; ``tiles`` are functions, one an encoder."""
        layers = self._make_layers(generator)
        samples, held_out = self._layout_.tile_index(learned), self._layout_.tile_index(watched)
        self._warn_of_slow_learning(len(samples))
        groups = self._scoring_.groups

        def train_encoder(directions, encoder, embed, seed):
            modules = nn.ModuleDict({direction: layers[direction] for direction in directions})
            loss = partial(self._loss, embed, modules)
            trained = nn.ModuleList([*modules.values(), *([encoder] * self._trains_encoders)])
            history = train(
                Objective(loss, trained.parameters()),
                trained,
                samples,
                device=self.device_,
                generator=make_generator(seed),
                held_out=held_out,
                **training_settings(self),
            )
            trained.requires_grad_(False)
            return history

        seeds = [draw_seed(generator) for _ in groups]
        self.history_ = side_by_side(
            lambda task: train_encoder(*task),
            zip(groups, self.encoders_, tiles, seeds, strict=True),
            device=self.device_,
            verbose=self.verbose,
        )
        self.predictors_ = {
            direction: _matrices(layer).detach() for direction, layer in layers.items()
        }

    def _make_layers(self, generator):
        """For each direction a linear layer that holds the matrices of all steps."""
        encoder = self.encoders_[0]
        dim = self.whitening_.latent_dim if self.whitening_ else encoder.embedding_dim
        layers = {}
        for direction in self._scoring_.directions:
            possible = max_prediction_steps(self._layout_.tile_shape, direction)
            n_steps = min(self.prediction_steps, possible)
            with seeded(generator):
                layer = nn.Linear(dim, n_steps * dim, bias=False)
            layers[direction] = layer.to(self.device_)
        return layers

    def _warn_of_slow_learning(self, n_samples):
        n_steps = self.epochs * -(-n_samples // self.train_batch_size)
        if self.optimizer in ("adam", "adamw") and 0 < self.learning_rate * n_steps < _SHORTEST_WAY:
            warnings.warn(
                f"learning_rate: {n_steps} steps of Adam at {self.learning_rate:g} move no weight "
                f"by more than {self.learning_rate * n_steps:.2g}, too little to learn from. Raise "
                "learning_rate (0.001 is usual) or epochs.",
                UserWarning,
                stacklevel=2,
            )

    def _loss(self, embed, layers, index, generator):
        """Mean InfoNCE of tiles by their index, over the directions of ``layers``."""
        grids = embed(index)
        losses = [
            training_loss(
                grids, direction, _matrices(layer), self.n_negatives, self._scoring_, generator
            )
            for direction, layer in layers.items()
        ]
        return torch.stack(losses).mean()

    # -- vectors ----------------------------------------------------------------------------------

    def _embed_grid(self, encoder, images):
        """Vectors (B, rows, columns, D) of the patches of prepared images, or of tiles."""
        return embed_grids(partial(self._embed, encoder), self._layout_.patches(images))

    def _embed(self, encoder, patches):
        """Vectors (P, D) of patches (P, C, size, size)."""
        return self._finished(patch_features(encoder, patches))

    def _finished(self, features):
        """Vectors (..., D): features (..., F), whitened if they are a backbone's."""
        if self.whitening_ is not None:
            codes = self.whitening_.encode(features.flatten(0, -2))
            features = codes.unflatten(0, features.shape[:-1])
        return self._scoring_.compared(features)

    # -- scoring ----------------------------------------------------------------------------------

    def _infer(self, batch):
        return self._infer_prepared(self._scoring_.prepare(batch))

    def _infer_prepared(self, images):
        """Anomaly scores (B,) and values of patches (B, rows, columns) of prepared images."""
        scores, sums, counts = [], 0, 0
        for directions, encoder, negatives in zip(
            self._scoring_.groups, self.encoders_, self.negatives_, strict=True
        ):
            tiles = self._layout_.tile_grids(self._embed_grid(encoder, images))
            for direction in directions:
                losses = prediction_losses(
                    tiles.flatten(0, 1),
                    direction,
                    self.predictors_[direction],
                    negatives,
                    self._scoring_,
                )
                every = torch.cat([loss.flatten(1) for loss in losses], 1)
                scores.append(every.view(len(images), -1).mean(1))
                tile_sums, tile_counts = sum_by_patch(losses, direction)
                sums = sums + tile_sums.unflatten(0, tiles.shape[:2])  # (B, tiles, 2, h, w)
                counts = counts + tile_counts  # (2, h, w)
        sums = self._layout_.add_tiles(sums.transpose(0, 1))  # (B, 2, rows, columns)
        counts = self._layout_.add_tiles(counts.expand(self._layout_.n_tiles, -1, -1, -1))
        of_it, from_it = (sums / counts.clamp_min(1)).unbind(1)
        return torch.stack(scores).mean(0), torch.where(counts[0] > 0, of_it, from_it)

    def _map_renderer(self):
        windows = self._layout_.patch_size, self._layout_.patch_stride
        return super()._map_renderer(windows=windows)


def _matrices(layer):
    """(K, D, D), one for each step, of a linear layer D -> K * D."""
    return layer.weight.unflatten(0, (-1, layer.in_features))
