"""CPC: how badly an image's patches are told from normal ones by the patches before them."""

import warnings
from numbers import Integral

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..backbones.backbone import Backbone
from ..backbones.patches import pool_maps, sliding_windows, window_starts
from ..base import BaseDetector
from ..data.inputs import NetworkInput
from ..nn.autoencoders import LinearAutoencoder
from ..nn.losses import info_nce_values
from ..nn.patch_encoders import DenseEncoder, ResidualEncoder
from ..nn.training import Objective, check_training, split_off, train
from ..runtime import seeded
from ..validation import (
    as_pair,
    check_count,
    check_enough,
    check_finite,
    check_fraction,
    check_number,
)

ENCODERS = {
    "resnet18": ResidualEncoder,
    "resnet50": ResidualEncoder,
    "densenet": DenseEncoder,
}
_OPTIONS = {"resnet50": {"blocks": (3, 4, 6), "bottleneck": True}}
# quarter turns that bring what a direction predicts from to the top of the grid
_TURNS = {"down": 0, "up": 2, "right": -1, "left": 1}
DIRECTIONS = tuple(_TURNS)
_PATCHES_AT_ONCE = 256
_ROWS_TO_WHITEN = 20000
_LARGE_PATCH = 32  # pixels, from which on residual encoders begin with pooling
_LOWEST_CONTRAST = 1e-3  # standard deviation of a constant image, in units of its network input
_SHORTEST_WAY = 0.01  # that a weight has to be able to go in training


class CPC(BaseDetector):
    r"""CPC: contrastive predictive coding, whose loss is the anomaly score.

    An image is a grid of overlapping patches, each of which an encoder turns into a vector
    :math:`z_{ij}`. From each, matrices :math:`W_k` predict the vectors of the next rows, and the
    prediction is to tell the true one from those :math:`z_l` of other, normal patches:

    .. math::
        \ell_{ijk} = -\log \frac{\exp(z_{i+k,j} \cdot W_k z_{ij} / \tau)}
        {\exp(z_{i+k,j} \cdot W_k z_{ij} / \tau) + \sum_l \exp(z_l \cdot W_k z_{ij} / \tau)}

    The anomaly score is the mean of :math:`\ell` over positions, steps and four directions, in
    which the grid is read downwards, upwards, to the right and to the left.

    Parameters
    ----------
    encoder : {"resnet18", "resnet50", "densenet"} or backbone, default="resnet18"
        The three are trained from random weights: pre-activation residual networks up to their
        third stage, see :class:`~anomalib_lite.nn.ResidualEncoder`, and one dense block, see
        :class:`~anomalib_lite.nn.DenseEncoder`. A backbone, a name such as
        ``"efficientnet_lite0"`` or an nn.Module, stays as it is: its pooled features of patches are
        whitened, and predictions alone are trained. timm's own ResNets need a tag, as
        ``"resnet18.a1_in1k"``.
    directions : int, str or sequence of {"down", "up", "right", "left"}, default=4
        Where predictions go; an int takes the first so many of these.
    share_encoder : bool, default=False
        One encoder for all directions, which costs about a quarter. False trains one for each. A
        backbone is shared in any case.
    width : int, default=64
        Channels of the encoder's first convolution: its cost grows with the square. 16 does on a
        CPU.
    embedding_dim : int or None, default=None
        Size of the vectors. None: 1024, or 128 whitened components of a backbone's features, as far
        as the data allow.
    patch_size : int, default=64
        Side of the patches, in pixels of the network's input.
    patch_stride : int, default=32
        Their distance: the resolution of maps.
    crop_size : int or None, default=None
        Predict within overlapping crops, each with a grid of its own, in place of the whole image:
        the published scheme is ``image_size=768, crop_size=256``, 25 crops of 7x7 patches. Patches
        that crops have in common are encoded once in scoring.
    crop_stride : int or None, default=None
        Distance of crops; None is half their size.
    steps : int, default=5
        How many rows ahead; as far as the grid goes.
    n_negatives : int, default=16
        Vectors in training that a prediction has to tell its own from, drawn from all other patches
        of the batch.
    n_scoring_negatives : int, default=256
        Stored vectors of normal patches, the same for every image, that do so in scoring. The text
        has 16; more are steadier and cost little.
    normalize : bool, default=False
        Compare by cosine, not by scalar product.
    temperature : float, default=1.0
        :math:`\tau`. With ``normalize`` 0.1 is usual.
    standardize : bool, default=True
        Bring each image to mean 0 and standard deviation 1. Without, patches are told apart by how
        bright their images are, which is no help in finding anomalies.
    epochs : int, default=30
        0 leaves the first weights as they are, as a control.
    train_batch_size : int, default=16
        Images, or crops of them, of a training step.
    learning_rate : float, default=1e-5
        The text's. A warning says where it cannot suffice, see Notes; 0.001 for 3 to 5 epochs of a
        few hundred images does.
    optimizer : {"sgd", "adam", "adamw"} or callable, default="adam"
        See :func:`~anomalib_lite.nn.train`, for the next three as well.
    schedule : {"cosine", "constant"} or callable, default="constant"
    weight_decay : float, default=0.0
    clip_norm : float or None, default=None
    calibration_fraction : float, default=0.2
        Share of the normal images, one at least, that nothing is learned from: their scores set the
        threshold.
    validation_fraction : float, default=0.0
        Share of the others that are not trained on but watched: the weights with the lowest loss on
        them are kept. 0 keeps the last ones.
    layers : sequence, "last" or None, default=None
        Of a backbone: strides, transformer blocks, or module names; see
        :class:`~anomalib_lite.backbones.Backbone`.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Of a backbone.
    image_size : int or tuple (H, W), default=256
        Images are resized to it, whatever their proportions.
    center_crop : int, tuple (H, W) or None, default=None
        What to keep of the resized image.
    smoothing : float, default=16.0
        Standard deviation, in pixels of the resized image, of the Gaussian by which a patch's value
        spreads around its center in maps.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator, in scoring.
    device : str or torch.device, default="auto"
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of a backbone.
    random_state : None, int, RandomState or Generator, default=None
        Draws first weights, batches, negatives and the images kept aside.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    encoders_ : list of ResidualEncoder or DenseEncoder, or of one Backbone
        One for each direction, or one for all.
    whitening_ : LinearAutoencoder or None
        Of a backbone's features.
    predictors_ : dict of str to tensor of shape (steps, embedding_dim, embedding_dim)
        The matrices :math:`W_k` of each direction.
    negatives_ : list of tensor of shape (n_scoring_negatives, embedding_dim)
        By each encoder, of the same patches of images that were trained on.
    history_ : list of list of dict
        Losses by epoch of each encoder's training; see :func:`~anomalib_lite.nn.train`.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of the images kept aside; NaN of the others.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
    device_ : torch.device

    Warns
    -----
    UserWarning
        If Adam cannot get far enough: ``learning_rate`` times the number of steps, the longest way
        a weight can go, is below 0.01, a third of the size of first weights at 1024 inputs.

    Notes
    -----
    The unit of scores is the nat. A prediction that tells nothing costs
    ``log(1 + n_scoring_negatives)``.

    Maps. The value of a patch is the mean of the losses of predictions *of* it, over directions,
    steps and crops; where there are none, as in the top row with ``directions="down"`` alone, of
    those made *from* it.

    Training passes over the images many times, so they are held in memory as the network sees them.
    Images without any color are learned in one channel; a color image is then read by the mean of
    its channels.

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
    ...     image_size=64, patch_size=16, patch_stride=16, width=4, embedding_dim=16, steps=2,
    ...     epochs=2, learning_rate=0.01, share_encoder=True, random_state=0,
    ... ).fit(images)
    >>> detector.score_samples(images[:3]).shape
    (3,)
    """

    def __init__(
        self,
        encoder="resnet18",
        *,
        directions=4,
        share_encoder=False,
        width=64,
        embedding_dim=None,
        patch_size=64,
        patch_stride=32,
        crop_size=None,
        crop_stride=None,
        steps=5,
        n_negatives=16,
        n_scoring_negatives=256,
        normalize=False,
        temperature=1.0,
        standardize=True,
        epochs=30,
        train_batch_size=16,
        learning_rate=1e-5,
        optimizer="adam",
        schedule="constant",
        weight_decay=0.0,
        clip_norm=None,
        calibration_fraction=0.2,
        validation_fraction=0.0,
        layers=None,
        weights="pretrained",
        image_size=256,
        center_crop=None,
        smoothing=16.0,
        false_alarm_rate=0.01,
        batch_size=32,
        device="auto",
        dtype="auto",
        random_state=None,
        verbose=False,
    ):
        self.encoder = encoder
        self.directions = directions
        self.share_encoder = share_encoder
        self.width = width
        self.embedding_dim = embedding_dim
        self.patch_size = patch_size
        self.patch_stride = patch_stride
        self.crop_size = crop_size
        self.crop_stride = crop_stride
        self.steps = steps
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
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        check_count("patch_size", self.patch_size, minimum=8)
        for name in ("patch_stride", "steps", "n_negatives", "n_scoring_negatives"):
            check_count(name, getattr(self, name))
        check_count("train_batch_size", self.train_batch_size)
        check_count("width", self.width)
        if self.width % 2:
            raise ValueError(f"width: expected an even int, got {self.width}.")
        for name in ("embedding_dim", "crop_size", "crop_stride"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_count("epochs", self.epochs, minimum=0)
        check_number("temperature", self.temperature, minimum=0)
        if self.temperature == 0:
            raise ValueError("temperature: expected a positive number, got 0.")
        check_training(self)
        check_fraction("calibration_fraction", self.calibration_fraction)
        check_fraction("validation_fraction", self.validation_fraction)

    @property
    def _trains_encoder(self):
        return isinstance(self.encoder, str) and self.encoder in ENCODERS

    # -- before the images ------------------------------------------------------------------------

    def _build(self, generator):
        seen = {
            "image_size": as_pair("image_size", self.image_size),
            "center_crop": self.center_crop and as_pair("center_crop", self.center_crop),
            "patch_size": 8,
        }
        if self._trains_encoder:
            network_input = NetworkInput(mean=(0.0,) * 3, std=(1.0,) * 3, **seen)
            self.encoders_ = []
        else:
            backbone = self._backbone(generator)
            network_input = NetworkInput(mean=backbone.input.mean, std=backbone.input.std, **seen)
            self.encoders_ = [backbone]
        layout = self._layout(network_input.seen_size)
        directions = _named_directions(self.directions)
        crop_shape = layout["crop_shape"]
        for direction in directions:
            if crop_shape[_TURNS[direction] % 2] < 2:
                raise ValueError(
                    f"patch_size: the grid has {crop_shape[0]} x {crop_shape[1]} patches of "
                    f"{self.patch_size} px, so there is nothing to predict {direction}wards. Take "
                    "smaller patches or a smaller patch_stride."
                )
        shared = self.share_encoder or not self._trains_encoder
        # what is fitted so is scored so, whatever set_params says later
        self._how_ = {
            "directions": [directions] if shared else [(one,) for one in directions],
            "windows": (self.patch_size, self.patch_stride),
            **layout,
            "n_channels": 3,
            "standardize": self.standardize,
            "normalize": self.normalize,
            "temperature": self.temperature,
        }
        return network_input

    def _backbone(self, generator):
        try:
            return Backbone(
                self.encoder,
                layers=self.layers,
                weights=self.weights,
                image_size=self.patch_size,
                device=self.device_,
                generator=generator,
                dtype=self.dtype,
            )
        except ValueError as error:
            ours = ", ".join(map(repr, ENCODERS))
            raise ValueError(f"encoder: {self.encoder!r} is none of {ours}, and: {error}") from None

    def _layout(self, seen_size):
        """Crops in pixels, and in patches, of which crops share one grid."""
        size, stride = self.patch_size, self.patch_stride
        if size > min(seen_size):
            raise ValueError(f"patch_size: {size} px do not fit into images of {seen_size} px.")
        grid_shape = tuple(len(window_starts(side, size, stride)) for side in seen_size)
        if self.crop_size is None:
            if self.crop_stride is not None:
                raise ValueError("crop_stride: there are no crops without a crop_size.")
            return {
                "grid_shape": grid_shape,
                "crop_size": seen_size,
                "crop_stride": 1,
                "crop_shape": grid_shape,
                "crop_step": 1,
            }
        crop_stride = self.crop_stride or self.crop_size // 2
        self._check_crops(seen_size, crop_stride)
        return {
            "grid_shape": grid_shape,
            "crop_size": (self.crop_size,) * 2,
            "crop_stride": crop_stride,
            "crop_shape": ((self.crop_size - size) // stride + 1,) * 2,
            "crop_step": crop_stride // stride,
        }

    def _check_crops(self, seen_size, crop_stride):
        if not self.patch_size <= self.crop_size <= min(seen_size):
            raise ValueError(
                f"crop_size: expected {self.patch_size} (patch_size) to {min(seen_size)} px, got "
                f"{self.crop_size}."
            )
        for what, length, unit in (
            ("crop_size - patch_size", self.crop_size - self.patch_size, self.patch_stride),
            ("crop_stride", crop_stride, self.patch_stride),
            *(("image side - crop_size", side - self.crop_size, crop_stride) for side in seen_size),
        ):
            if length % unit:
                raise ValueError(
                    f"crop_size: crops share one grid of patches, but {what} = {length} px is no "
                    f"multiple of {unit} px."
                )

    # -- learning ---------------------------------------------------------------------------------

    @torch.inference_mode(False)
    def _learn(self, batches, n_images, generator):
        self.whitening_ = None
        images, features = self._read(batches)
        check_enough(len(images), 3, "scores of images kept aside")
        learned, kept_aside, watched = self._split(len(images), generator)
        if self._trains_encoder and (images == images[:, :1]).all():
            self._how_["n_channels"] = 1
        images = self._prepared(images)
        draw = self._draw_patches(images, learned, generator)
        if self._trains_encoder:
            self._make_encoders(generator)
            embeddings = [self._trained_embedding(images, encoder) for encoder in self.encoders_]
        else:
            embeddings = [self._frozen_embedding(features, learned, generator)]
        layers = self._make_layers(generator)
        samples, held_out = self._crops_of(learned), self._crops_of(watched)
        self._warn_of_slow_learning(len(samples))
        self.history_ = [
            self._train(embed, directions, encoder, layers, samples, held_out, generator)
            for embed, directions, encoder in zip(
                embeddings, self._how_["directions"], self.encoders_, strict=True
            )
        ]
        dim = self._embedding_dim
        self.predictors_ = {
            direction: layer.weight.detach().view(-1, dim, dim)
            for direction, layer in layers.items()
        }
        self.negatives_ = [self._embed(encoder, draw) for encoder in self.encoders_]
        scores = np.full(len(images), np.nan)
        for i in kept_aside.tolist():
            scores[i] = float(self._scores_and_grids(images[i : i + 1])[0])
        return scores

    def _read(self, batches):
        """Images (n, 3, h, w), and a backbone's features (n, rows, columns, F) of their patches."""
        images, features = [], []
        for checked, batch in batches:
            images.append(batch.clone())
            for backbone in self.encoders_:
                features.append(self._grids(backbone, self._prepared(batch), self._features))
                check_finite(features[-1], checked)
        return torch.cat(images), torch.cat(features) if features else None

    def _split(self, n_images, generator):
        """Index of the images that are trained on, kept aside, and watched."""
        share = max(self.calibration_fraction, 1 / n_images)
        others, kept_aside = split_off(n_images, share, generator)
        order, watched = split_off(len(others), self.validation_fraction, generator)
        if not len(order):
            raise ValueError(
                f"calibration_fraction: with {self.calibration_fraction} of {n_images} images kept "
                f"aside and validation_fraction={self.validation_fraction} none is left to learn."
            )
        return others[order], kept_aside, others[watched]

    def _draw_patches(self, images, learned, generator):
        """Patches (n_scoring_negatives, C, size, size) of images, as far as there are so many."""
        size, stride = self._how_["windows"]
        tops, lefts = (window_starts(side, size, stride) for side in images.shape[2:])
        shape = (len(learned), len(tops), len(lefts))
        order = torch.randperm(int(np.prod(shape)), generator=generator, device="cpu")
        drawn = np.unravel_index(order[: self.n_scoring_negatives].numpy(), shape)
        return torch.stack(
            [
                images[learned[i], :, tops[y] : tops[y] + size, lefts[x] : lefts[x] + size]
                for i, y, x in zip(*drawn, strict=True)
            ]
        )

    def _make_encoders(self, generator):
        make, options = ENCODERS[self.encoder], dict(_OPTIONS.get(self.encoder, {}))
        if make is ResidualEncoder:
            options["pool"] = self.patch_size >= _LARGE_PATCH
        for _ in self._how_["directions"]:
            with torch.device("cpu"), seeded(generator, self.device_):
                encoder = make(
                    self._how_["n_channels"], self.embedding_dim or 1024, self.width, **options
                )
            self.encoders_.append(encoder.to(self.device_))

    def _make_layers(self, generator):
        """The matrices of all steps of a direction as one layer."""
        dim, layers = self._embedding_dim, nn.ModuleDict()
        for direction in sum(self._how_["directions"], ()):
            n_steps = min(self.steps, self._how_["crop_shape"][_TURNS[direction] % 2] - 1)
            with torch.device("cpu"), seeded(generator, self.device_):
                layer = nn.Linear(dim, n_steps * dim, bias=False)
            layers[direction] = layer.to(self.device_)
        return layers

    @property
    def _embedding_dim(self):
        part = self.whitening_ or self.encoders_[0]
        return part.latent_dim if part is self.whitening_ else part.embedding_dim

    def _trained_embedding(self, images, encoder):
        """From the index of crops to vectors (B, rows, columns, D), through which gradients go."""
        (height, width), stride = self._how_["crop_size"], self._how_["crop_stride"]
        crops = images.unfold(2, height, stride).unfold(3, width, stride)  # (n, C, r, c, h, w)
        n_rows, n_columns = crops.shape[2:4]

        def embed(index):
            image, place = index // (n_rows * n_columns), index % (n_rows * n_columns)
            return self._grids(encoder, crops[image, :, place // n_columns, place % n_columns])

        return embed

    def _frozen_embedding(self, features, learned, generator):
        """The same of a backbone, whose features (n, rows, columns, F) are computed already."""
        rows = features[learned.to(features.device)].flatten(0, 2)
        order = torch.randperm(len(rows), generator=generator, device="cpu")[:_ROWS_TO_WHITEN]
        dim = min(self.embedding_dim or 128, rows.shape[1], len(order) - 1)
        self.whitening_ = LinearAutoencoder.from_data(rows[order.to(rows.device)], dim)
        crops = self._crops(self._finished(features)).flatten(0, 1)
        return lambda index: crops[index.to(crops.device)]

    def _crops_of(self, index):
        """Index of the crops of images."""
        n_crops = self._n_crops
        return (index[:, None] * n_crops + torch.arange(n_crops, device="cpu")).flatten()

    @property
    def _n_crops(self):
        shapes = zip(self._how_["grid_shape"], self._how_["crop_shape"], strict=True)
        rows, columns = ((n - k) // self._how_["crop_step"] + 1 for n, k in shapes)
        return rows * columns

    def _warn_of_slow_learning(self, n_samples):
        n_steps = self.epochs * -(-n_samples // self.train_batch_size)
        if self.optimizer in ("adam", "adamw") and 0 < self.learning_rate * n_steps < _SHORTEST_WAY:
            warnings.warn(
                f"learning_rate: {n_steps} steps of Adam at {self.learning_rate:g} move no weight "
                f"by more than {self.learning_rate * n_steps:.2g}, too little to learn from. Raise "
                "it (0.001), or epochs.",
                UserWarning,
                stacklevel=2,
            )

    def _train(self, embed, directions, encoder, layers, samples, held_out, generator):
        modules = nn.ModuleList([layers[direction] for direction in directions])
        if self._trains_encoder:
            modules.append(encoder)

        def loss(index, generator):
            grids = embed(index)
            losses = [
                self._training_loss(grids, direction, layers[direction], generator)
                for direction in directions
            ]
            return torch.stack(losses).mean()

        history = train(
            Objective(loss, modules.parameters()),
            modules,
            samples,
            device=self.device_,
            generator=generator,
            epochs=self.epochs,
            batch_size=self.train_batch_size,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=self.schedule,
            clip_norm=self.clip_norm,
            held_out=held_out if len(held_out) else None,
            verbose=self.verbose,
        )
        modules.requires_grad_(False)
        return history

    def _training_loss(self, grids, direction, layer, generator):
        """Mean InfoNCE of crops (B, rows, columns, D) against other patches of the batch."""
        grids = torch.rot90(grids, _TURNS[direction], (1, 2))
        vectors = grids.flatten(0, 2)
        places = torch.arange(len(vectors), device="cpu").view(grids.shape[:3])
        matrices = layer.weight.unflatten(0, (-1, layer.in_features))
        values = []
        for k, (predicted, true) in enumerate(self._predictions(grids, matrices), 1):
            others = draw_others(
                places[:, k:].flatten(), len(vectors), self.n_negatives, generator
            ).to(vectors.device)
            values.append(
                info_nce_values(
                    predicted.flatten(0, 2),
                    true.flatten(0, 2),
                    vectors,
                    temperature=self._how_["temperature"],
                    chosen=others,
                )
            )
        return torch.cat(values).mean()

    # -- what learning and scoring share ----------------------------------------------------------

    def _prepared(self, batch):
        """Images as encoders want them: in their number of channels, standardized."""
        if self._how_["n_channels"] == 1:
            batch = batch.mean(1, keepdim=True)
        if not self._how_["standardize"]:
            return batch
        mean = batch.mean((1, 2, 3), keepdim=True)
        std = batch.std((1, 2, 3), correction=0, keepdim=True)
        return (batch - mean) / std.clamp_min(_LOWEST_CONTRAST)

    def _grids(self, encoder, batch, embed=None):
        """Vectors (B, rows, columns, D) of the patches of prepared images."""
        patches = sliding_windows(batch, *self._how_["windows"])
        some = patches.flatten(0, 2).split(_PATCHES_AT_ONCE)
        vectors = torch.cat([(embed or self._embed)(encoder, each) for each in some])
        return vectors.unflatten(0, patches.shape[:3])

    def _embed(self, encoder, patches):
        """(P, D)"""
        return self._finished(self._features(encoder, patches))

    def _features(self, encoder, patches):
        is_backbone = isinstance(encoder, Backbone)
        return pool_maps(encoder.trainable_maps(patches)) if is_backbone else encoder(patches)

    def _finished(self, vectors):
        """Vectors (..., D) whitened and normalized, where they are to be."""
        if self.whitening_ is not None:
            rows = vectors.flatten(0, -2)
            vectors = self.whitening_.encode(rows).unflatten(0, vectors.shape[:-1])
        return self._compared(vectors)

    def _compared(self, vectors):
        return F.normalize(vectors, dim=-1) if self._how_["normalize"] else vectors

    def _crops(self, grids):
        """(B, crops, rows, columns, D) of the grids (B, rows, columns, D) of whole images."""
        (height, width), step = self._how_["crop_shape"], self._how_["crop_step"]
        crops = grids.unfold(1, height, step).unfold(2, width, step)  # (B, r, c, D, h, w)
        return crops.permute(0, 1, 2, 4, 5, 3).flatten(1, 2)

    def _predictions(self, grids, matrices):
        """(predictions, true vectors), both (B, rows - k, columns, D), of rows k below."""
        for k, matrix in enumerate(matrices, 1):
            yield self._compared(grids[:, :-k] @ matrix.T), grids[:, k:]

    # -- scoring ----------------------------------------------------------------------------------

    def _infer(self, batch):
        return self._scores_and_grids(self._prepared(batch))

    def _scores_and_grids(self, batch):
        """Anomaly scores (B,) and values of patches (B, rows, columns) of prepared images."""
        scores, totals, counts = [], 0, 0
        for directions, encoder, negatives in zip(
            self._how_["directions"], self.encoders_, self.negatives_, strict=True
        ):
            crops = self._crops(self._grids(encoder, batch))
            for direction in directions:
                losses = self._losses(crops.flatten(0, 1), direction, negatives)
                every = torch.cat([loss.flatten(1) for loss in losses], 1)
                scores.append(every.view(len(batch), -1).mean(1))
                total, count = _by_patch(losses, _TURNS[direction])
                totals = totals + total.unflatten(0, crops.shape[:2])
                counts = counts + count
        return torch.stack(scores).mean(0), self._joined(totals, counts)

    def _losses(self, crops, direction, negatives):
        """InfoNCE (B, rows - k, columns) of each step k, of crops turned to predict downwards."""
        grids = torch.rot90(crops, _TURNS[direction], (1, 2))
        return [
            info_nce_values(
                predicted.flatten(0, 2),
                true.flatten(0, 2),
                negatives,
                temperature=self._how_["temperature"],
            ).view(true.shape[:3])
            for predicted, true in self._predictions(grids, self.predictors_[direction])
        ]

    def _joined(self, totals, counts):
        """Means (B, rows, columns) over whole images of the sums (B, crops, 2, h, w) over crops."""
        (n_rows, n_columns), step = self._how_["grid_shape"], self._how_["crop_step"]
        height, width = self._how_["crop_shape"]
        corners = [
            (top, left)
            for top in range(0, n_rows - height + 1, step)
            for left in range(0, n_columns - width + 1, step)
        ]
        total = totals.new_zeros(len(totals), 2, n_rows, n_columns)
        count = totals.new_zeros(2, n_rows, n_columns)
        for i, (top, left) in enumerate(corners):
            here = slice(top, top + height), slice(left, left + width)
            total[(..., *here)] += totals[:, i]
            count[(..., *here)] += counts
        of_it, from_it = (total / count.clamp_min(1)).unbind(1)
        return torch.where(count[0] > 0, of_it, from_it)

    def _map_renderer(self):
        return super()._map_renderer(windows=self._how_["windows"])


def _named_directions(directions):
    """A tuple of names."""
    is_number = isinstance(directions, Integral) and not isinstance(directions, bool)
    if is_number and 1 <= directions <= len(DIRECTIONS):
        return DIRECTIONS[:directions]
    names = (directions,) if isinstance(directions, str) else directions
    is_list = isinstance(names, list | tuple) and len(names) == len({*map(str, names)})
    if not (is_list and names and all(name in DIRECTIONS for name in names)):
        raise ValueError(
            f"directions: expected 1 to 4, or some of {', '.join(map(repr, DIRECTIONS))}, each "
            f"once, got {directions!r}."
        )
    return tuple(names)


def draw_others(own, n, n_others, generator):
    """For each of the indices ``own`` (m,), drawn ones (m, n_others) below n, but never itself.

    Examples
    --------
    >>> draw_others(torch.tensor([0, 1]), 2, 3, torch.Generator().manual_seed(0))
    tensor([[1, 1, 1],
            [0, 0, 0]])
    """
    drawn = torch.randint(n - 1, (len(own), n_others), generator=generator, device="cpu")
    return drawn + (drawn >= own[:, None])


def _by_patch(losses, turns):
    """Sums (B, 2, rows, columns) and numbers (2, rows, columns) of losses, not turned any more.

    First of the predictions of a patch, then of those made from it.
    """
    n, height, n_columns = losses[0].shape
    total = losses[0].new_zeros(n, 2, height + 1, n_columns)
    count = losses[0].new_zeros(2, height + 1, n_columns)
    for k, loss in enumerate(losses, 1):
        total[:, 0, k:] += loss
        total[:, 1, :-k] += loss
        count[0, k:] += 1
        count[1, :-k] += 1
    return torch.rot90(total, -turns, (2, 3)), torch.rot90(count, -turns, (1, 2))
