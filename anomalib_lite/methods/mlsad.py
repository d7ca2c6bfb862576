"""MLSAD: normal images broken up at every scale, and for each scale a detector that tells."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional as F

from ..backbones.patches import MapRenderer
from ..base import BaseDetector
from ..data.augment import random_windows
from ..data.inputs import NetworkInput
from ..density.gaussian import shrunk_gaussian
from ..density.heads import folds
from ..fakes.sources import make_fakes
from ..nn.training import Objective, check_training, split_off, train
from ..nn.windows import PatchDetector, coordinate_maps
from ..runtime import draw_seed, exact_dtype, seeded
from ..validation import (
    as_pair,
    check_choice,
    check_count,
    check_enough,
    check_fraction,
    check_number,
)

FAKES = ("gan", "resample")
LEVEL_WEIGHTS = ("equal", "held_out")
COMBINE = ("mean", "distance")
_BELOW = {1: 0, 2: 1, 4: 2, 8: 4, 16: 8, 32: 16}  # the level of the fakes that a level tells
_N_CROPS = 1000  # that fakes are learned from
_N_PIXELS = 100_000  # of normal images, by which those of maps are judged


class MLSAD(BaseDetector):
    r"""MLSAD: anomalies made by breaking up normal images, found by a detector for each scale.

    A fake of level :math:`l` is an image whose windows of :math:`l \times l` pixels are those of
    normal images, while nothing beyond holds them together: see :mod:`anomalib_lite.fakes`. The
    detector of level 1, 2, 4, 8 or 16 looks at windows of that size alone. It learns to tell normal
    images :math:`x` from fakes :math:`\tilde x` of the level below it, and from normal windows that
    are said to be elsewhere than they are:

    .. math::
        -\log (1 - D(x, c)) - \lambda_s \log D(\tilde x, c) - \lambda_p \log D(x, \tilde c)

    averaged over all windows, :math:`c` being their places and :math:`\tilde c` random ones. The
    anomaly score is the mean of :math:`D` over windows, then over levels.

    Parameters
    ----------
    levels : sequence of {1, 2, 4, 8, 16, 32}, default=(1, 2, 4, 8, 16)
        Sides of windows in pixels, ascending. A level costs about as much as all those before it.
    fakes : {"gan", "resample"}, default="gan"
        What makes fakes of level 2 and above: see
        :class:`~anomalib_lite.fakes.EntropyPatchGAN`, as published, and
        :class:`~anomalib_lite.fakes.PatchResampler`, which takes seconds for small gray images.
    fake_options : dict or None, default=None
        Further arguments of what makes fakes: how the GAN is trained, or how closely windows are
        matched in resampling.
    n_fakes : int, default=1000
        Drawn of each level, once.
    position : bool, default=True
        Tell detectors where windows are. False is for textures.
    structure_weight : float, default=0.5
        :math:`\lambda_s`, of fakes.
    position_weight : float, default=0.5
        :math:`\lambda_p`, of normal windows with wrong places.
    width : int, default=64
        Channels of a detector's first convolution; see
        :class:`~anomalib_lite.nn.PatchDetector`. Its cost grows with the square: 8 or 16 do
        on a CPU.
    n_blocks : int, default=2
        Residual blocks of a detector.
    dropout : float, default=0.25
        In those.
    input_noise : float, default=0.05
        Standard deviation of the noise put on images in training, whose range is [0, 1].
    epochs : int, default=100
        Of each detector. 10 to 30 do for a few hundred images, 3 for thousands.
    train_batch_size : int, default=8
        Normal images of a training step, and as many fakes.
    learning_rate : float, default=0.001
        Of Adam, times 0.3 after half of the epochs, and again after three quarters.
    weight_decay : float, default=1e-4
    combine : {"mean", "distance"}, default="mean"
        How levels become one score. "mean", as published: :math:`D` averaged over windows, then
        over levels. "distance": how far the levels' averages, taken together, are from those of the
        normal images kept aside, by Mahalanobis. It also finds what every level calls *more* normal
        than the normal images, as a blurred one may be, and needs some dozens kept aside.
    level_weights : {"equal", "held_out"} or sequence of float, default="equal"
        What levels count for in their mean. "held_out": how far the level's mean score of fakes, of
        all kinds alike, is from that of normal images kept aside, over the variance among these.
    calibration_fraction : float, default=0.2
        Share of the normal images, two at least, or three for "distance", that detectors do not
        learn from: their scores set the threshold, and are what weights and distances rest on where
        these are asked for.
    image_size : int or tuple (H, W), default=32
        Images are resized to it, whatever their proportions.
    center_crop : int, tuple (H, W) or None, default=None
        What to keep of the resized image.
    crop_size : int or None, default=None
        Train on random crops of this size, in pixels of the resized image, and make fakes of crops.
        Published for textures: ``image_size=256``. Scores and maps are of whole images.
    smoothing : float, default=1.0
        Standard deviation of the Gaussian blur of maps, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the networks together on an accelerator, in scoring.
    device : str or torch.device, default="auto"
    random_state : None, int, RandomState or Generator, default=None
        Draws the images kept aside, fakes, first weights, batches and crops.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    levels_ : tuple of int
    detectors_ : list of PatchDetector
        One a level.
    level_weights_ : tensor of shape (n_levels,)
        They sum to 1.
    levels_of_images_, levels_of_pixels_ : tuple of tensors (mean, whitener), or None
        "distance" is the length of ``(values - mean) @ whitener``, ``values`` (..., n_levels) being
        an image's, or those of maps, smoothed, at a pixel.
    history_ : list of list of dict
        Losses by epoch of each level's training; see :func:`~anomalib_lite.nn.train`.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of the images kept aside; NaN of the others. A distance is taken from
        those of other folds.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
    device_ : torch.device

    Notes
    -----
    The unit of scores is that of the mean of probabilities, between 0 and 1, or that of a distance:
    deviations of normal images.

    Maps. A window's value stands at its center; a pixel between the centers of some windows has
    their mean, one nearer to the border than any center that of the nearest. Levels are averaged by
    their weights; or each is smoothed, and the levels' values at a pixel are measured by their
    distance from those at any pixel of the normal images kept aside.

    Left open by the paper, and chosen here: the first learning rate and Adam's other constants, the
    probability of dropout, the deviation of the input's noise, of all of which the published text
    lost the numbers; the windows of level 16. Fakes are drawn once, ``n_fakes`` a level, not anew
    for every batch. Training passes over the images many times, so they are held in memory as the
    networks see them. Images without any color are learned in one channel; a color image is then
    read by the mean of its channels. The distance is this library's.

    References
    ----------
    S. Dai, J. Li, L. Wang, C. Zhu, Y. Wu, X. Li, "Unsupervised Learning of Multi-level Structures
    for Anomaly Detection", 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import MLSAD
    >>> rng = np.random.default_rng(0)
    >>> images = np.repeat(rng.integers(0, 256, (20, 1, 16), dtype=np.uint8), 16, axis=1)
    >>> detector = MLSAD(
    ...     levels=(1, 2), image_size=16, width=4, n_blocks=1, epochs=5, random_state=0,
    ... ).fit(images)
    >>> detector.level_scores(images[:3]).shape
    (3, 2)
    """

    def __init__(
        self,
        levels=(1, 2, 4, 8, 16),
        *,
        fakes="gan",
        fake_options=None,
        n_fakes=1000,
        position=True,
        structure_weight=0.5,
        position_weight=0.5,
        width=64,
        n_blocks=2,
        dropout=0.25,
        input_noise=0.05,
        epochs=100,
        train_batch_size=8,
        learning_rate=0.001,
        weight_decay=1e-4,
        combine="mean",
        level_weights="equal",
        calibration_fraction=0.2,
        image_size=32,
        center_crop=None,
        crop_size=None,
        smoothing=1.0,
        false_alarm_rate=0.01,
        batch_size=32,
        device="auto",
        random_state=None,
        verbose=False,
    ):
        self.levels = levels
        self.fakes = fakes
        self.fake_options = fake_options
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
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        _check_levels(self.levels)
        check_choice("fakes", self.fakes, FAKES)
        check_choice("combine", self.combine, COMBINE)
        for name in ("n_fakes", "width", "n_blocks", "epochs", "train_batch_size"):
            check_count(name, getattr(self, name))
        for name in ("structure_weight", "position_weight", "input_noise"):
            check_number(name, getattr(self, name), minimum=0)
        check_training(self)
        check_fraction("dropout", self.dropout)
        check_fraction("calibration_fraction", self.calibration_fraction)
        if self.structure_weight == 0 and not (self.position and self.position_weight):
            raise ValueError("structure_weight: 0, and no position pairs: nothing to learn from.")
        _check_level_weights(self.level_weights, len(self.levels))
        if self.crop_size is not None:
            check_count("crop_size", self.crop_size)

    # -- before the images ------------------------------------------------------------------------

    def _build(self, generator):
        network_input = NetworkInput(
            image_size=as_pair("image_size", self.image_size),
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            patch_size=8,
            center_crop=self.center_crop and as_pair("center_crop", self.center_crop),
        )
        shortest = min(network_input.seen_size)
        if self.crop_size is not None and self.crop_size > shortest:
            raise ValueError(
                f"crop_size: {self.crop_size} px do not fit into images of "
                f"{network_input.seen_size} px."
            )
        shortest = self.crop_size or shortest
        if max(self.levels) > shortest:
            raise ValueError(
                f"levels: windows of {max(self.levels)} px do not fit into {shortest} px. Leave "
                "the level out, or take a larger image_size or crop_size."
            )
        # what is fitted so is scored so, whatever set_params says later
        self.levels_ = tuple(map(int, self.levels))
        self._how_ = {"n_channels": 3, "position": self.position, "smoothing": self.smoothing}
        return network_input

    # -- learning ---------------------------------------------------------------------------------

    @torch.inference_mode(False)
    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch.clone() for _, batch in batches])  # (n, 3, h, w)
        n_aside = 3 if self.combine == "distance" else 2
        check_enough(len(images), n_aside + 1, "scores of images kept aside")
        if (images == images[:, :1]).all():
            self._how_["n_channels"] = 1
        images = self._prepared(images).contiguous()
        share = max(self.calibration_fraction, n_aside / len(images))
        learned, kept_aside = split_off(len(images), share, generator)
        samples = images[learned.to(images.device)]
        crops = self._crops(samples, max(_N_CROPS, len(samples)), generator)
        self.detectors_, self.history_, kinds = [], [], []
        for level in self.levels_:
            fakes = self._fakes(level, crops, generator)
            detector, history = self._train(level, samples, fakes, generator)
            self.detectors_.append(detector)
            self.history_.append(history)
            kinds.append(fakes[: len(kept_aside)])
        normal = images[kept_aside.to(images.device)]
        values = self._level_scores_one_by_one(normal)
        self.level_weights_ = self._weights(values, torch.cat(kinds))
        self.levels_of_images_ = self.levels_of_pixels_ = None
        scores = np.full(len(images), np.nan)
        scores[kept_aside.numpy()] = self._calibrate(normal, values, generator).cpu()
        return scores

    def _calibrate(self, normal, values, generator):
        """Anomaly scores of normal images from their levels' ``values``; learns distances."""
        if self.combine == "mean":
            return self._combined(values)
        scores = torch.empty_like(values[:, 0])
        for others, these in folds(len(values), draw_seed(generator)):
            scores[these] = _distance(values[these], _center(values[others]))
        self.levels_of_images_ = _center(values)
        n_pixels = -(-_N_PIXELS // len(normal))
        pixels = []
        for image in normal.split(1):
            maps = self._smooth_maps(list(self._grids(image))).flatten(0, 2)
            drawn = torch.randint(len(maps), (n_pixels,), generator=generator, device="cpu")
            pixels.append(maps[drawn.to(maps.device)])
        self.levels_of_pixels_ = _center(torch.cat(pixels))
        return scores

    def _crops(self, images, n_crops, generator):
        """Random crops of images, all of which take part; the images themselves if uncropped."""
        if self.crop_size is None:
            return images
        which = torch.arange(n_crops, device="cpu") % len(images)
        return random_windows(images[which.to(images.device)], generator, self.crop_size)

    def _fakes(self, level, images, generator):
        """(n_fakes, C, h, w), of the level below."""
        options = dict(self.fake_options or {})
        if self.fakes == "gan":
            position = self.position and self.crop_size is None
            options = {"position": position, "verbose": self.verbose, **options}
        source = make_fakes(self.fakes, _BELOW[level], images, generator, **options)
        return source.sample(self.n_fakes, generator)

    def _draw_corners(self, n, generator):
        """(tops, lefts, side) of random crops."""
        reach = [side - self.crop_size + 1 for side in self.input_.seen_size]
        corners = (torch.randint(r, (n,), generator=generator, device="cpu") for r in reach)
        return *corners, self.crop_size

    def _train(self, level, images, fakes, generator):
        """(detector of a level, history)"""
        with torch.device("cpu"), seeded(generator, self.device_):
            detector = PatchDetector(
                level, images.shape[1], self.width, n_blocks=self.n_blocks, dropout=self.dropout
            )
        detector = detector.to(self.device_)
        weights = [self.structure_weight]
        if self.position and self.position_weight > 0:
            weights.append(self.position_weight)

        def loss(index, generator):
            normal, places = self._drawn(images, level, index, generator)
            drawn = torch.randint(len(fakes), (len(index),), generator=generator, device="cpu")
            both = torch.cat([normal, fakes[drawn.to(fakes.device)]])
            normal, fake = self._noisy(both, generator).split(len(index))
            elsewhere = _elsewhere(places, generator)
            pairs = [(normal, places), (fake, places), (normal, elsewhere)][: 1 + len(weights)]
            windows, where = map(torch.cat, zip(*pairs, strict=True))
            right, *wrong = detector(_centered(windows), where).split(len(index))
            value = F.softplus(right).mean()
            for weight, odds in zip(weights, wrong, strict=True):
                value = value + weight * F.softplus(-odds).mean()
            return value

        history = train(
            Objective(loss, detector.parameters()),
            detector,
            torch.arange(len(images), device="cpu"),
            device=self.device_,
            generator=generator,
            epochs=self.epochs,
            batch_size=self.train_batch_size,
            optimizer="adam",
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            schedule=_decay,
            verbose=self.verbose,
        )
        return detector.requires_grad_(False), history

    def _drawn(self, images, level, index, generator):
        """Images, or a crop of each, and the coordinates (n, 2, h, w) of their windows."""
        normal = images[index.to(images.device)]
        places = self._coordinates(level).expand(len(index), -1, -1, -1)
        if self.crop_size is None:
            return normal, places
        tops, lefts, side = self._draw_corners(len(index), generator)
        return _cropped(normal, tops, lefts, side), _cropped(places, tops, lefts, side - level + 1)

    def _noisy(self, batch, generator):
        if self.input_noise == 0:
            return batch
        noise = torch.randn(batch.shape, generator=generator, device="cpu")
        return batch + self.input_noise * noise.to(batch)

    def _weights(self, held_out, fakes):
        """Of levels, (n_levels,), from scores (n, n_levels) of normal images, and from fakes."""
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
        """Images in the number of channels that was learned."""
        return batch.mean(1, keepdim=True) if self._how_["n_channels"] == 1 else batch

    def _coordinates(self, level):
        """(2, h, w) of the windows of an image."""
        size = tuple(side - level + 1 for side in self.input_.seen_size)
        maps = coordinate_maps(size, self.device_)
        return maps if self._how_["position"] else torch.zeros_like(maps)

    def _middle(self, level, size):
        """(2, h, w) of the windows of a part of this size, as if from an image's middle."""
        top, left = (
            (seen - side) // 2 for seen, side in zip(self.input_.seen_size, size, strict=True)
        )
        height, width = (side - level + 1 for side in size)
        return self._coordinates(level)[:, top : top + height, left : left + width]

    def _grids(self, batch):
        """Probabilities "abnormal" (B, h, w) of the windows of prepared images, by level."""
        for detector in self.detectors_:
            places = self._middle(detector.level, batch.shape[2:])
            yield detector(_centered(batch), places).sigmoid()

    def _level_scores(self, batch):
        """(B, n_levels) of prepared images."""
        return _level_means(self._grids(batch))

    def _level_scores_one_by_one(self, images):
        return torch.cat([self._level_scores(image) for image in images.split(1)])

    # -- scoring ----------------------------------------------------------------------------------

    def level_scores(self, X):
        """Anomaly score of each image by each level alone, higher = more anomalous.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        scores : ndarray of shape (n_images, n_levels)
            In the order of ``levels_``; the anomaly score is their mean, weighted by
            ``level_weights_``, or their distance from those of normal images.
        """
        check_is_fitted(self)
        with torch.no_grad():
            found = [
                self._level_scores(self._prepared(batch))
                for _, batch in self._checked_batches(self._open(X), "score")
            ]
        return torch.cat(found).cpu().numpy().astype(np.float64)

    def _score(self, batch):
        return self._combined(self._level_scores(self._prepared(batch)))

    def _infer(self, batch):
        grids = list(self._grids(self._prepared(batch)))
        scores = self._combined(_level_means(grids))
        if self.levels_of_pixels_ is None:
            return scores, self._maps(grids) @ self.level_weights_
        return scores, _distance(self._smooth_maps(grids), self.levels_of_pixels_)

    def _combined(self, values):
        """Anomaly scores (n,) of images from their levels' (n, n_levels)."""
        if self.levels_of_images_ is None:
            return values @ self.level_weights_
        return _distance(values, self.levels_of_images_)

    def _maps(self, grids):
        """(B, H, W, n_levels)"""
        maps = map(window_map, grids, self.levels_)
        return torch.stack(list(maps), -1)

    def _smooth_maps(self, grids):
        size = self.input_.seen_size
        blur = MapRenderer(size, smoothing=self._how_["smoothing"])
        return blur(self._maps(grids).movedim(-1, 1), size).movedim(1, -1)


def _center(values):
    """(mean, whitener) of rows (n, n_levels), for :func:`_distance`."""
    mean, _, whitener = shrunk_gaussian(values.to(exact_dtype(values.device)))
    return mean, whitener


def _distance(values, normal):
    """Mahalanobis distances (...) of ``values`` (..., n_levels)."""
    mean, whitener = normal
    return torch.linalg.vector_norm((values - mean) @ whitener, dim=-1).to(values.dtype)


def window_map(grid, level):
    """Values of windows at the pixels around their centers.

    Parameters
    ----------
    grid : torch.Tensor of shape (B, H - level + 1, W - level + 1)
        Of all windows of ``level`` x ``level`` pixels.
    level : int
        1, or even: the centers then lie between pixels.

    Returns
    -------
    map : torch.Tensor of shape (B, H, W)
        Of each pixel, the mean value of the windows whose centers are nearest.

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
    """(B, n_levels) of a grid (B, h, w) a level."""
    return torch.stack([grid.mean((1, 2)) for grid in grids], 1)


def _centered(batch):
    """[0, 1] to [-1, 1]."""
    return 2 * batch - 1


def _elsewhere(places, generator):
    """Coordinates as many as ``places``, each value drawn on its own."""
    return (2 * torch.rand(places.shape, generator=generator, device="cpu") - 1).to(places)


def _cropped(batch, tops, lefts, side):
    """Square parts (B, C, side, side) of images, each with a corner of its own."""
    parts = [
        image[:, top : top + side, left : left + side]
        for image, top, left in zip(batch, tops.tolist(), lefts.tolist(), strict=True)
    ]
    return torch.stack(parts)


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
            f"level_weights: expected one for each of the {n_levels} levels, not all 0, or one of "
            f"{', '.join(map(repr, LEVEL_WEIGHTS))}, got {weights!r}."
        )
    for weight in weights:
        check_number("level_weights", weight, minimum=0)
