"""MLSAD: a detector of windows for each of several scales, trained on fakes of normal images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.base import clone
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from ..annotations import Device, Images, RandomState, Size
from ..backbones.maps import MapRenderer
from ..base import BaseDetector
from ..contexts import plain, seeded
from ..data.augment import is_gray, random_windows
from ..data.inputs import NetworkInput
from ..density.gaussian import shrunk_gaussian
from ..fakes.imitator import Imitator
from ..fakes.patchgan import EntropyPatchGAN
from ..fakes.sources import make_fakes
from ..nn.course import portion, side_by_side
from ..nn.training import Objective, check_training, split_off, train, training_settings
from ..nn.windows import PatchDetector, concatenated, coordinate_maps
from ..runtime import draw_seed, exact_dtype, make_generator, normal, uniform
from ..validation import check_choice, check_count, check_enough, check_fraction, check_number
from ..workers import map_on

LEVEL_WEIGHTS = ("equal", "held_out")
COMBINE = ("mean", "distance")
_BELOW = {1: 0, 2: 1, 4: 2, 8: 4, 16: 8, 32: 16}  # level of a detector: level of its fakes
_N_CROPS = 1000  # that fakes are learned from
_N_PIXELS = 100_000  # of normal maps, which distances of pixels are learned from
_N_FOLDS = 5  # of the images kept aside, for their distances
_SHARE_OF_FAKES = 0.5  # of the work on a level, where a network learns to make them


@dataclass(frozen=True)
class _MLSADSettings:
    """Snapshot: later set_params calls must not alter a fitted detector."""

    n_channels: int  # of the images learned from: 1 or 3
    position: bool
    smoothing: float  # of the levels' maps that distances were learned from


class MLSAD(BaseDetector):
    r"""Multi-level structure anomaly detection: a detector of windows for each of several scales.

    A fake of level :math:`l` looks normal in every :math:`l \times l` window, but its windows do
    not fit together: see :mod:`anomalib_lite.fakes`. The detector of level 1, 2, 4, 8 or 16 sees
    windows of that size only. It learns to tell normal images :math:`x` from fakes
    :math:`\tilde x` of the level below, and normal windows at their true positions :math:`c` from
    the same windows at random positions :math:`\tilde c`, by the loss

    .. math::
        -\log (1 - D(x, c)) - \lambda_s \log D(\tilde x, c) - \lambda_p \log D(x, \tilde c)

    averaged over all windows. The anomaly score is the mean of :math:`D` over windows, then over
    levels.

    Parameters
    ----------
    levels : sequence of {1, 2, 4, 8, 16, 32}, default=(1, 2, 4, 8, 16)
        Sides of the windows in pixels, ascending. A level costs about as much as all those before.
    fakes : EntropyPatchGAN, PatchResampler or None, default=None
        Estimator, cloned, that makes the fakes of level 2 and above. None is
        :class:`~anomalib_lite.EntropyPatchGAN`, as published;
        :class:`~anomalib_lite.PatchResampler` takes seconds for small gray images. Its level,
        sizes, device, random numbers and progress bars are the detector's; it is told positions
        only if the detector is, and never with ``crop_size``.
    n_fakes : int, default=1000
        Number of fakes of each level, drawn once.
    position : bool, default=True
        Tell the networks where each window is; False is for textures.
    structure_weight : float, default=0.5
        :math:`\lambda_s`, the weight of fakes.
    position_weight : float, default=0.5
        :math:`\lambda_p`, the weight of normal windows at wrong positions.
    width : int, default=64
        Channels of the first convolution of each network; see
        :class:`~anomalib_lite.nn.PatchDetector`. Cost grows with its square: on a CPU take 8 or 16.
    n_blocks : int, default=2
        Residual blocks of a detector.
    dropout : float, default=0.25
        Dropout in the residual blocks.
    input_noise : float, default=0.05
        Standard deviation of the Gaussian noise added to training inputs.
    epochs : int, default=100
        Passes over the training images. For each level; 10 to 30 are enough for a few hundred
        images, 3 for thousands.
    train_batch_size : int, default=8
        Images of a training step. Small, as a step takes as many fakes, and again as many images
        with wrong positions.
    learning_rate : float, default=0.001
        Learning rate of the optimizer: Adam, times 0.3 after half of the epochs and again after
        three quarters.
    weight_decay : float, default=1e-4
        Weight decay of the optimizer.
    combine : {"mean", "distance"}, default="mean"
        How levels become one score. "mean", as published: the mean of :math:`D` over windows, then
        over levels. "distance": the Mahalanobis distance of the levels' means from those of the
        normal images kept aside, of which it needs a few dozen. It also finds what every level
        calls *more* normal than normal images, such as a blurred one.
    level_weights : {"equal", "held_out"} or sequence of float, default="equal"
        Weights of the levels in their mean. "held_out": how far a level's mean score of fakes of
        all levels is above that of the normal images kept aside, over the variance of the latter.
    calibration_fraction : float, default=0.2
        Fraction of the normal images kept out of training to set the threshold. At least two
        images, or three for "distance". Distances and "held_out" weights are learned from them.
    image_size : int or tuple (H, W), default=32
        Images are resized to it, whatever their proportions. Small, as cost grows with the number
        of pixels.
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    crop_size : int or None, default=None
        Side of the random square crops to learn from, in pixels of the resized image; None for
        whole images. Published for textures, with ``image_size=256``. Scores and maps are of whole
        images.
    smoothing : float, default=1.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image. Small, since
        images are. With "distance" it applies to each level's map, both when distances are learned
        and when they are taken, so a change waits for the next fit.
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
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the images kept aside, fakes, first weights, batches and
        crops.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    levels_ : tuple of int
    detectors_ : list of PatchDetector
        One for each level.
    level_weights_ : tensor of shape (n_levels,)
        Their sum is 1.
    levels_of_images_, levels_of_pixels_ : tuple of tensors (mean, whitener), or None
        "distance" is the length of ``(values - mean) @ whitener``, where ``values`` (..., n_levels)
        are the levels' means for an image, or their smoothed maps at a pixel.
    history_ : list of list of dict
        Losses by epoch of each level's training; see :func:`~anomalib_lite.nn.train`.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of the images kept aside, NaN of the others. Distances are cross-validated
        among the images kept aside.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Images learned from, those kept aside included.
    device_ : torch.device

    Notes
    -----
    Scores are means of probabilities, between 0 and 1, or distances in standard deviations of
    normal images.

    Maps. A window's value stands at its center. A pixel between centers takes the mean of the
    nearest windows; a pixel closer to the border than any center takes the nearest. Levels are
    averaged by their weights. With "distance", each level is smoothed instead, and the values at a
    pixel are compared with those at the pixels of normal images kept aside.

    The paper leaves open, and we chose: the first learning rate and Adam's other constants, dropout
    and input noise (the published text lost these numbers), and the windows of level 16. Fakes are
    drawn once, ``n_fakes`` for each level, not anew for every batch. Training passes over the
    images many times, so they are held in memory as the networks see them. Images without any color
    are learned in one channel; a color image is then read by the mean of its channels. The distance
    is this library's.

    References
    ----------
    S. Dai, J. Li, L. Wang, C. Zhu, Y. Wu, X. Li, "Unsupervised Learning of Multi-level Structures
    for Anomaly Detection", 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import MLSAD, PatchResampler
    >>> rng = np.random.default_rng(0)
    >>> images = np.repeat(rng.integers(0, 256, (20, 1, 16), dtype=np.uint8), 16, axis=1)
    >>> detector = MLSAD(
    ...     levels=(1, 2, 4), fakes=PatchResampler(tolerance=0.1), image_size=16, width=4,
    ...     n_blocks=1, epochs=5, random_state=0,
    ... ).fit(images)
    >>> detector.level_scores(images[:5]).shape
    (5, 3)
    """

    def __init__(
        self,
        levels: Sequence[int] = (1, 2, 4, 8, 16),
        *,
        fakes: Imitator | None = None,
        n_fakes: int = 1000,
        position: bool = True,
        structure_weight: float = 0.5,
        position_weight: float = 0.5,
        width: int = 64,
        n_blocks: int = 2,
        dropout: float = 0.25,
        input_noise: float = 0.05,
        epochs: int = 100,
        train_batch_size: int = 8,
        learning_rate: float = 0.001,
        weight_decay: float = 1e-4,
        combine: str = "mean",
        level_weights: str | Sequence[float] = "equal",
        calibration_fraction: float = 0.2,
        image_size: Size = 32,
        center_crop: Size | None = None,
        crop_size: int | None = None,
        smoothing: float = 1.0,
        false_alarm_rate: float = 0.01,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.levels = levels
        self.fakes = fakes
        self.n_fakes = n_fakes
        self.position = position
        self.structure_weight = structure_weight
        self.position_weight = position_weight
        self.width = width
        self.n_blocks = n_blocks
        self.dropout = dropout
        self.input_noise = input_noise
        self.epochs = epochs
        self.train_batch_size = train_batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.combine = combine
        self.level_weights = level_weights
        self.calibration_fraction = calibration_fraction
        self.image_size = image_size
        self.center_crop = center_crop
        self.crop_size = crop_size
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @property
    def _live_params(self):
        """Distances were learned from maps of a given smoothing: changing it takes a refit."""
        live = super()._live_params
        if getattr(self, "levels_of_pixels_", None) is None:
            return live
        return tuple(name for name in live if name != "smoothing")

    def _check_params(self):
        _check_levels(self.levels)
        check_choice("combine", self.combine, COMBINE)
        for name in ("n_fakes", "width", "n_blocks", "epochs", "train_batch_size"):
            check_count(name, getattr(self, name))
        for name in ("structure_weight", "position_weight", "input_noise"):
            check_number(name, getattr(self, name), minimum=0)
        check_training(self)
        check_fraction("dropout", self.dropout)
        check_fraction("calibration_fraction", self.calibration_fraction)
        if self.structure_weight == 0 and not (self.position and self.position_weight):
            raise ValueError(
                "structure_weight: 0, and no position pairs: nothing to learn from. Expected a "
                "positive structure_weight, or position=True and a positive position_weight."
            )
        _check_level_weights(self.level_weights, len(self.levels))
        if self.crop_size is not None:
            check_count("crop_size", self.crop_size)
        self._check_fakes()

    def _check_fakes(self):
        if not isinstance(self.fakes, Imitator | None):
            raise ValueError(
                "fakes: expected an estimator such as EntropyPatchGAN() or PatchResampler(), or "
                f"None, got {self.fakes!r}."
            )
        for level in self.levels:
            try:
                self._imitator(max(2, _BELOW[level]))._check_all_params()
            except ValueError as error:
                raise ValueError(f"fakes: {error}") from error

    # -- before the images ------------------------------------------------------------------------

    def _build(self, generator):
        network_input = NetworkInput.raw(self.image_size, self.center_crop)
        size = network_input.seen_size
        if self.crop_size is not None and self.crop_size > min(size):
            raise ValueError(f"crop_size: {self.crop_size} px do not fit into images of {size} px.")
        shortest = self.crop_size or min(size)
        if max(self.levels) > shortest:
            raise ValueError(
                f"levels: windows of {max(self.levels)} px do not fit into {shortest} px. Leave "
                "the level out, or take a larger image_size or crop_size."
            )
        self.levels_ = tuple(map(int, self.levels))
        return network_input

    def _imitator(self, level):
        """What makes the fakes of a level: a clone of ``fakes`` with the detector's settings."""
        imitator = clone(EntropyPatchGAN() if self.fakes is None else self.fakes)
        imitator.set_params(level=level, verbose=self.verbose)
        if hasattr(imitator, "position"):
            told = imitator.position and self.position and self.crop_size is None
            imitator.set_params(position=told)
        return imitator

    # -- learning ---------------------------------------------------------------------------------

    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch.clone() for _, batch in batches])  # (n, 3, h, w)
        n_aside = 3 if self.combine == "distance" else 2
        check_enough(len(images), n_aside + 1, "scores of images kept aside")
        self._settings_ = _MLSADSettings(1 if is_gray(images) else 3, self.position, self.smoothing)
        images = self._prepared(images).contiguous()
        share = max(self.calibration_fraction, n_aside / len(images))
        learned, kept_aside = split_off(len(images), share, generator)
        learned = self._without_copies(learned, kept_aside)
        fakes = self._train_levels(images[learned.to(images.device)], generator)
        normal = images[kept_aside.to(images.device)]
        values = self._level_scores_one_by_one(normal)
        kinds = torch.cat([some[: len(normal)] for some in fakes])
        self.level_weights_ = self._weights(values, kinds)
        self.levels_of_images_ = self.levels_of_pixels_ = None
        scores = np.full(len(images), np.nan)
        scores[kept_aside.numpy()] = self._calibrate(normal, values, generator).cpu()
        return scores

    def _train_levels(self, images, generator):
        """Make fakes and train a detector of each level; the fakes (n_fakes, C, h, w) of each."""
        crops = self._crops(images, max(_N_CROPS, len(images)), generator)
        imitators = [self._imitator(_BELOW[level]) for level in self.levels_]
        for imitator in imitators:  # before anything is trained
            if imitator.level > 1:
                imitator.check_images(crops)
        seeds = [draw_seed(generator) for _ in imitators]
        found = side_by_side(
            lambda task: self._train_level(images, crops, *task),
            zip(self.levels_, imitators, seeds, strict=True),
            device=self.device_,
            verbose=self.verbose,
        )
        fakes, self.detectors_, self.history_ = map(list, zip(*found, strict=True))
        return fakes

    def _train_level(self, images, crops, level, imitator, seed):
        """(fakes (n_fakes, C, h, w), detector of a level, history)"""
        generator = make_generator(seed)
        share = _SHARE_OF_FAKES if imitator.level > 1 and imitator._is_trained else 0.0
        with portion(share):
            source = make_fakes(imitator.level, crops, generator, imitator)
        fakes = source.sample(self.n_fakes, generator)
        with portion(1 - share):
            return fakes, *self._train(level, images, fakes, generator)

    def _calibrate(self, normal, values, generator):
        """Out-of-sample anomaly scores of normal images kept aside; learns distances from them."""
        if self.combine == "mean":
            return self._combined(values)
        scores = torch.empty_like(values[:, 0])
        folds = KFold(min(_N_FOLDS, len(values)), shuffle=True, random_state=draw_seed(generator))
        for others, these in folds.split(values.cpu()):
            scores[these] = _distance(values[these], _center(values[others]))
        self.levels_of_images_ = _center(values)
        n_pixels = -(-_N_PIXELS // len(normal))
        drawn = [
            torch.randint(
                math.prod(normal.shape[2:]), (n_pixels,), generator=generator, device="cpu"
            )
            for _ in normal
        ]

        def levels_of_pixels(task):
            image, index = task
            maps = self._smooth_maps(list(self._grids(image))).flatten(0, 2)
            return maps[index.to(maps.device)]

        tasks = zip(normal.split(1), drawn, strict=True)
        pixels = map_on(self.device_, levels_of_pixels, tasks)
        self.levels_of_pixels_ = _center(torch.cat(pixels))
        return scores

    def _crops(self, images, n_crops, generator):
        """Random crops, an equal number of each image; the images if there is no crop_size."""
        if self.crop_size is None:
            return images
        which = torch.arange(n_crops, device="cpu") % len(images)
        return random_windows(images[which.to(images.device)], generator, self.crop_size)

    def _train(self, level, images, fakes, generator):
        """(detector of a level, history)"""
        with seeded(generator):
            detector = PatchDetector(
                level, images.shape[1], self.width, n_blocks=self.n_blocks, dropout=self.dropout
            )
        detector = detector.to(self.device_)
        history = train(
            Objective(partial(self._loss, detector, images, fakes), detector.parameters()),
            detector,
            torch.arange(len(images), device="cpu"),
            device=self.device_,
            generator=generator,
            optimizer="adam",
            schedule=_decay,
            **training_settings(self),
        )
        return detector.requires_grad_(False), history

    def _loss(self, detector, images, fakes, index, generator):
        """Cross-entropy of the windows of ``images[index]``, of fakes, and of wrong positions."""
        normal, places = self._drawn(images, detector.level, index, generator)
        drawn = torch.randint(len(fakes), (len(index),), generator=generator, device="cpu")
        both = torch.cat([normal, fakes[drawn.to(fakes.device)]])
        normal, fake = self._noisy(both, generator).split(len(index))
        elsewhere = _elsewhere(places, generator)
        pairs, weights = [(normal, places), (fake, places)], [self.structure_weight]
        if self.position and self.position_weight > 0:
            pairs.append((normal, elsewhere))
            weights.append(self.position_weight)
        windows, where = map(torch.cat, zip(*pairs, strict=True))
        right, *wrong = detector(_centered(windows), where).split(len(index))
        loss = F.softplus(right).mean()
        for weight, logits in zip(weights, wrong, strict=True):
            loss = loss + weight * F.softplus(-logits).mean()
        return loss

    def _drawn(self, images, level, index, generator):
        """Images, or a random crop of each, and the coordinates (n, 2, h, w) of their windows."""
        normal = images[index.to(images.device)]
        places = self._coordinates(level)
        if self.crop_size is None:
            return normal, places.expand(len(index), -1, -1, -1)
        # coordinates stand at the upper left pixel of their windows and are cropped along
        rest = level - 1  # pixels at the lower right where no window begins
        both = concatenated(normal, F.pad(places, (0, rest, 0, rest)))
        crops = random_windows(both, generator, self.crop_size)
        side = self.crop_size - rest
        return crops[:, :-2], crops[:, -2:, :side, :side]

    def _noisy(self, batch, generator):
        if self.input_noise == 0:
            return batch
        noise = normal(batch.shape, generator)
        return batch + self.input_noise * noise.to(batch)

    def _weights(self, held_out, fakes):
        """Weights (n_levels,) from level scores (n, n_levels) of normal images, and from fakes."""
        equal = torch.ones_like(held_out[0])
        if not isinstance(self.level_weights, str):
            weights = held_out.new_tensor(list(self.level_weights))
        elif self.level_weights == "held_out":
            apart = self._level_scores_one_by_one(fakes).mean(0) - held_out.mean(0)
            weights = apart.clamp_min(0) / held_out.var(0).clamp_min(1e-12)
        else:
            weights = equal
        weights = weights if weights.sum() > 0 else equal
        return weights / weights.sum()

    # -- what learning and scoring share ----------------------------------------------------------

    def _prepared(self, batch):
        """Images in as many channels as were learned."""
        return batch.mean(1, keepdim=True) if self._settings_.n_channels == 1 else batch

    def _coordinates(self, level):
        """Coordinates (2, h, w) of the windows of an image."""
        size = tuple(side - level + 1 for side in self.input_.seen_size)
        maps = coordinate_maps(size, self.device_)
        return maps if self._settings_.position else torch.zeros_like(maps)

    def _middle(self, level, size):
        """Coordinates (2, h, w) of the windows of an image's middle part of this size."""
        top, left = (
            (seen - side) // 2 for seen, side in zip(self.input_.seen_size, size, strict=True)
        )
        height, width = (side - level + 1 for side in size)
        return self._coordinates(level)[:, top : top + height, left : left + width]

    def _grids(self, batch):
        """Probabilities "anomalous" (B, h, w) of the windows of prepared images, by level."""
        for detector in self.detectors_:
            places = self._middle(detector.level, batch.shape[2:])
            yield detector(_centered(batch), places).sigmoid()

    def _level_scores(self, batch):
        """(B, n_levels) of prepared images."""
        return _level_means(self._grids(batch))

    def _level_scores_one_by_one(self, images):
        return torch.cat(map_on(self.device_, self._level_scores, images.split(1)))

    # -- scoring ----------------------------------------------------------------------------------

    @plain
    def level_scores(self, X: Images) -> np.ndarray:
        """Anomaly score of each image by each level alone, higher = more anomalous.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        scores : ndarray of shape (n_images, n_levels)
            In the order of ``levels_``. The anomaly score is their mean, weighted by
            ``level_weights_``, or their distance from those of normal images.
        """
        check_is_fitted(self)
        batches = self._checked_batches(self._open(X), "score")
        found = batches.map(lambda batch: self._level_scores(self._prepared(batch)))
        return torch.cat([scores for _, scores in found]).cpu().numpy().astype(np.float64)

    def _score(self, batch):
        return self._combined(self._level_scores(self._prepared(batch)))

    def _infer(self, batch):
        grids = list(self._grids(self._prepared(batch)))
        scores = self._combined(_level_means(grids))
        if self.levels_of_pixels_ is None:
            return scores, self._maps(grids) @ self.level_weights_
        return scores, _distance(self._smooth_maps(grids), self.levels_of_pixels_)

    def _map_renderer(self, **options):
        if self.levels_of_pixels_ is None:
            return super()._map_renderer(**options)
        # distances are of smoothed levels: a second blur would move them off the unit of scores
        size = self.input_
        return MapRenderer(size.image_size, size.seen_size, size.crop_offset, smoothing=0)

    def _combined(self, values):
        """Anomaly scores (n,) of images from their level scores (n, n_levels)."""
        if self.levels_of_images_ is None:
            return values @ self.level_weights_
        return _distance(values, self.levels_of_images_)

    def _maps(self, grids):
        """Levels (B, H, W, n_levels) at each pixel the networks see."""
        maps = map(window_map, grids, self.levels_)
        return torch.stack(list(maps), -1)

    def _smooth_maps(self, grids):
        """The same, each level blurred by the ``smoothing`` of fit."""
        size = self.input_.seen_size
        blur = MapRenderer(size, smoothing=self._settings_.smoothing)
        return blur(self._maps(grids).movedim(-1, 1), size).movedim(1, -1)


def _center(values):
    """(mean, whitener) of rows (n, n_levels), for :func:`_distance`."""
    mean, _, whitener = shrunk_gaussian(values.to(exact_dtype(values.device)))
    return mean, whitener


def _distance(values, normal):
    """Mahalanobis distances (...) of ``values`` (..., n_levels)."""
    mean, whitener = normal
    return torch.linalg.vector_norm((values - mean) @ whitener, dim=-1).to(values.dtype)


def window_map(grid: torch.Tensor, level: int) -> torch.Tensor:
    """Give each pixel the mean value of the windows whose centers are nearest to it.

    Parameters
    ----------
    grid : torch.Tensor of shape (B, H - level + 1, W - level + 1)
        Values of all windows of ``level`` x ``level`` pixels.
    level : int
        1, or an even number: centers then lie between pixels.

    Returns
    -------
    map : torch.Tensor of shape (B, H, W)

    Examples
    --------
    >>> window_map(torch.tensor([[[1.0, 3.0]], [[0.0, 2.0]]]).mT, 2)[0].T.tolist()[0]
    [1.0, 2.0, 3.0]
    """
    if level == 1:
        return grid
    grid = F.avg_pool2d(F.pad(grid[:, None], (1,) * 4, mode="replicate"), 2, 1)
    return F.pad(grid, (level // 2 - 1,) * 4, mode="replicate")[:, 0]


def _level_means(grids):
    """Means (B, n_levels) of the grids (B, h, w) of all levels."""
    return torch.stack([grid.mean((1, 2)) for grid in grids], 1)


def _centered(batch):
    """[0, 1] to [-1, 1]."""
    return 2 * batch - 1


def _elsewhere(places, generator):
    """Random coordinates in the shape of ``places``, all independent."""
    return (2 * uniform(places.shape, generator) - 1).to(places)


def _decay(done):
    """Factor of the learning rate after a share of all steps."""
    return 0.3 ** ((done >= 0.5) + (done >= 0.75))


def _check_levels(levels):
    is_sequence = isinstance(levels, Sequence | np.ndarray) and not isinstance(levels, str)
    levels = list(levels) if is_sequence else []
    if not (levels and all(level in _BELOW for level in levels) and levels == sorted({*levels})):
        raise ValueError(
            f"levels: expected some of {', '.join(map(str, _BELOW))}, each once, ascending, got "
            f"{levels!r}."
        )


def _check_level_weights(weights, n_levels):
    if isinstance(weights, str):
        check_choice("level_weights", weights, LEVEL_WEIGHTS)
        return
    weights = list(weights) if isinstance(weights, Sequence | np.ndarray) else []
    if len(weights) != n_levels or not sum(weights) > 0:
        raise ValueError(
            f"level_weights: expected a weight for each of {n_levels} levels, not all 0, or one of "
            f"{', '.join(map(repr, LEVEL_WEIGHTS))}, got {weights!r}."
        )
    for weight in weights:
        check_number("level_weights", weight, minimum=0)
