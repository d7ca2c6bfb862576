"""Base classes for image estimators and anomaly detectors."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from .annotations import Device, Images, RandomState, Size
from .backbones.maps import MapRenderer
from .data.images import CheckedImage, ImageStream
from .data.inputs import NetworkInput, ValueRange
from .io.persistence import SaveMixin
from .runtime import all_or_nothing, make_generator, progress, resolve_device
from .validation import check_count, check_finite, check_fraction, check_number


class Inspection(NamedTuple):
    """Scores, labels, maps and paths of a set of images.

    Attributes
    ----------
    scores : ndarray of shape (n_images,)
        As ``score_samples``: lower = more anomalous.
    labels : ndarray of shape (n_images,)
        As ``predict``: +1 normal, -1 anomalous.
    maps : ndarray of shape (n_images, H, W), or list of ndarray of shape (H, W)
        As ``anomaly_map``: higher = more anomalous. A list where sizes differ.
    paths : list of (str or None)
        The file each image was read from.
    """

    scores: np.ndarray
    labels: np.ndarray
    maps: np.ndarray | list[np.ndarray]
    paths: list[str | None]


class ImageEstimator(SaveMixin, BaseEstimator):
    """Base class of everything that is fitted on images.

    It reads and checks images, resolves the device, makes the random generator, and keeps fitting
    all or nothing. A subclass stores its parameters in ``__init__``, among them ``batch_size``,
    ``device``, ``random_state`` and ``verbose``, and implements :meth:`_fit_images`; where it has
    no ``image_size``, :meth:`_build` too.
    """

    _live_params: ClassVar[tuple[str, ...]] = ("batch_size", "verbose")
    """Parameters that can change after fit; a change of any other needs a refit."""

    # -- hooks ------------------------------------------------------------------------------------

    def _check_params(self) -> None:
        """Raise ValueError on parameters that make no sense. By default none are checked."""

    def _build(self, generator: torch.Generator) -> NetworkInput:
        """Make what is needed before any image is seen, such as a network.

        Parameters
        ----------
        generator : torch.Generator
            The CPU's, seeded by ``random_state``.

        Returns
        -------
        network_input : NetworkInput
            How images are resized, cropped and normalized. By default pixels in [0, 1], resized
            to the parameter ``image_size``.
        """
        return NetworkInput.raw(self.image_size, patch_size=1)

    def _fit_images(self, X: Images) -> None:
        """Learn from ``self._learning_batches(self._open(X))``."""
        raise NotImplementedError(f"{type(self).__name__} must implement _fit_images.")

    # -- fitting ----------------------------------------------------------------------------------

    def fit(self, X: Images, y: object = None):
        """Learn what normal images look like.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images of good parts; see :mod:`anomalib_lite.data.images`.
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter or an image is invalid. A fit that fails leaves the estimator as it was
            before.
        """
        with all_or_nothing(self):
            self._start()
            self._fit_images(X)
        return self

    def set_params(self, **params):
        """Set parameters by name.

        After fit, ``false_alarm_rate``, ``smoothing``, ``batch_size`` and ``verbose`` take effect
        at once where the estimator has them; a change of any other parameter warns that it waits
        for the next fit.

        Parameters
        ----------
        **params
            New values; ``component__name`` reaches the parameter of a nested estimator.

        Returns
        -------
        self : object
        """
        before = self.get_params()
        with all_or_nothing(self):
            super().set_params(**params)
            if self._is_fitted:
                changed = {name for name in params if _differ(before.get(name), params[name])}
                self._update_fitted(changed & {*self._live_params})
                stale = sorted(changed - {*self._live_params})
                if stale:
                    warnings.warn(
                        f"{', '.join(stale)}: changed after fit, which has no effect until "
                        f"this {type(self).__name__} is fitted again.",
                        UserWarning,
                        stacklevel=2,
                    )
        return self

    @property
    def _is_fitted(self):
        return hasattr(self, "input_")

    def _update_fitted(self, changed):
        """Bring what was learned in line with the live parameters that changed."""

    def _start(self):
        """Forget what was learned and build what comes before the images."""
        self._check_all_params()
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self.device_ = resolve_device(self.device)
        self.input_ = self._build(make_generator(self.random_state))
        self.value_range_ = ValueRange()
        self.n_images_ = 0

    def _check_all_params(self):
        check_count("batch_size", self.batch_size)
        self._check_params()

    # -- reading images ---------------------------------------------------------------------------

    def _open(self, X):
        if isinstance(X, ImageStream):
            return X
        return ImageStream(X, min_side=self.input_.patch_size)

    def _batches(self, stream, desc):
        """Lists of images that pass through the network together.

        On a CPU each passes alone, so that no result depends, not even in its last bit, on the
        other images of the call. Larger batches would be 5 to 25 % faster there.
        """
        size = 1 if self.device_.type == "cpu" else self.batch_size
        images = []
        with progress(total=stream.n_images, desc=desc, verbose=self.verbose) as bar:
            for image in stream:
                images.append(image)
                if len(images) == size:
                    yield images
                    bar.update(size)
                    images = []
            if images:
                yield images
                bar.update(len(images))

    def _learning_batches(
        self, stream: ImageStream
    ) -> Iterator[tuple[list[CheckedImage], torch.Tensor]]:
        """(images, network input (B, 3, h, w)) of normal images; learns their range of values."""
        self.value_range_ = copy.deepcopy(self.value_range_)  # a failed partial_fit loses nothing
        first = self.n_images_ == 0
        for images in self._batches(stream, "fit"):
            for image in images:
                if not first:
                    self.value_range_.check(image)
                self.value_range_.learn(image)
            self.n_images_ += len(images)
            yield images, self.input_.batch(images).to(self.device_)

    def _checked_batches(
        self, stream: ImageStream, desc: str
    ) -> Iterator[tuple[list[CheckedImage], torch.Tensor]]:
        """(images, network input (B, 3, h, w)); refuses images not scaled as those of fit."""
        for images in self._batches(stream, desc):
            for image in images:
                self.value_range_.check(image)
            yield images, self.input_.batch(images).to(self.device_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


class BaseDetector(OutlierMixin, ImageEstimator):
    """Base class of anomaly detectors: fit on images of good parts, score any images.

    A subclass implements :meth:`_learn` and :meth:`_infer`; optionally :meth:`_build`,
    :meth:`_check_params` and :meth:`_score`. One with parameters of its own writes out an
    ``__init__`` that stores them all, those below included.

    Parameters
    ----------
    image_size : int or tuple (H, W), default=224
        Images are resized to it, whatever their proportions.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images
        of ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator. On a CPU each passes
        alone, so that no score depends, not even in its last bit, on the images around it.
    device : str or torch.device, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of the normal images, out of sample; NaN where there is none.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Images learned from.
    device_ : torch.device

    Examples
    --------
    >>> from anomalib_lite import BaseDetector
    >>> class MeanImage(BaseDetector):
    ...     '''Squared distance from the mean normal image.'''
    ...
    ...     def _learn(self, batches, n_images, generator):
    ...         images = torch.cat([batch for _, batch in batches])  # (n, 3, h, w)
    ...         self.mean_ = images.mean(0)
    ...         n = len(images)  # without an image its distance is n / (n - 1) times as long
    ...         return (n / (n - 1)) ** 2 * (images - self.mean_).square().mean((1, 2, 3))
    ...
    ...     def _infer(self, batch):
    ...         squares = (batch - self.mean_).square().mean(1)  # (B, h, w)
    ...         return squares.mean((1, 2)), squares
    >>> images = np.random.default_rng(0).integers(90, 110, (8, 64, 64), dtype=np.uint8)
    >>> odd = images[:2] // 2
    >>> MeanImage(image_size=64).fit(images).predict(odd)
    array([-1, -1])
    """

    _live_params: ClassVar[tuple[str, ...]] = (
        *ImageEstimator._live_params,
        "false_alarm_rate",
        "smoothing",
    )

    def __init__(
        self,
        *,
        image_size: Size | None = 224,
        smoothing: float = 4.0,
        false_alarm_rate: float = 0.01,
        batch_size: int = 32,
        device: Device = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.image_size = image_size
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- hooks ------------------------------------------------------------------------------------

    def _learn(
        self,
        batches: Iterable[tuple[list[CheckedImage], torch.Tensor]],
        n_images: int | None,
        generator: torch.Generator,
    ) -> ArrayLike | torch.Tensor:
        """Learn from normal images; runs without gradients.

        Parameters
        ----------
        batches : iterable of (list of B CheckedImage, torch.Tensor of shape (B, 3, h, w))
            The images, and what the network sees of them, on ``device_``. Iterate once.
        n_images : int or None
            How many there will be; None if only reading to the end can tell.
        generator : torch.Generator
            The CPU's, seeded by ``random_state``.

        Returns
        -------
        anomaly_scores : array or tensor of shape (n_images,)
            Of every normal image learned from so far, ``self.n_images_`` in all, *out of sample*:
            by a model that has not learned from it. The threshold is read from these. NaN for
            images without such a score.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement _learn.")

    def _infer(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Anomaly scores and maps of a batch; runs without gradients.

        Parameters
        ----------
        batch : torch.Tensor of shape (B, 3, h, w)
            On ``device_``.

        Returns
        -------
        anomaly_scores : torch.Tensor of shape (B,)
            Higher = more anomalous.
        grids : torch.Tensor of shape (B, rows, columns)
            Anomaly values of patches, of any resolution; they become maps of the images' size.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement _infer.")

    def _score(self, batch: torch.Tensor) -> torch.Tensor:
        """The scores of :meth:`_infer` alone: override it where that is quicker."""
        return self._infer(batch)[0]

    # -- fitting ----------------------------------------------------------------------------------

    def _check_all_params(self):
        check_fraction("false_alarm_rate", self.false_alarm_rate)
        check_number("smoothing", self.smoothing, minimum=0)
        super()._check_all_params()

    def _fit_images(self, X):
        """Learn from images and set the threshold."""
        stream = self._open(X)
        batches = self._learning_batches(stream)
        with torch.no_grad():
            anomaly_scores = self._learn(
                batches, stream.n_images, make_generator(self.random_state)
            )
        self._calibrate_threshold(anomaly_scores)

    def _calibrate_threshold(self, anomaly_scores):
        """Set the threshold from out-of-sample anomaly scores of the normal images."""
        self.calibration_scores_ = -self._checked_calibration(anomaly_scores)
        self._set_offset()

    def _set_offset(self):
        self.offset_ = float(np.nanquantile(self.calibration_scores_, self.false_alarm_rate))

    def _checked_calibration(self, anomaly_scores):
        """What :meth:`_learn` returned, as float64 of shape (n_images_,)."""
        expected = (
            f"{type(self).__name__}._learn: expected an out-of-sample anomaly score for each of "
            f"the {self.n_images_} normal images (NaN where there is none), got"
        )
        if anomaly_scores is None:
            raise ValueError(f"{expected} None.")
        if isinstance(anomaly_scores, torch.Tensor):
            anomaly_scores = anomaly_scores.detach().cpu().numpy()
        scores = np.asarray(anomaly_scores, dtype=np.float64)
        if scores.shape != (self.n_images_,):
            raise ValueError(f"{expected} an array of shape {scores.shape}.")
        if np.isnan(scores).all() or np.isinf(scores).any():
            raise ValueError(f"{expected} {'infinity' if np.isinf(scores).any() else 'NaN alone'}.")
        return scores

    def _update_fitted(self, changed):
        if changed:
            self._check_all_params()
        if "false_alarm_rate" in changed:
            self._set_offset()

    # -- scoring ----------------------------------------------------------------------------------

    def score_samples(self, X: Images) -> np.ndarray:
        """Normality of each image: minus the anomaly score, so lower = more anomalous.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        scores : ndarray of shape (n_images,)
            In the method's unit.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        return -self.anomaly_score(X)

    def anomaly_score(self, X: Images) -> np.ndarray:
        """Anomaly score of each image, higher = more anomalous: minus ``score_samples``."""
        return np.concatenate([scores for _, scores, _ in self._look(X, maps=False)])

    def decision_function(self, X: Images) -> np.ndarray:
        """``score_samples(X) - offset_``: negative where an image is called anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Images) -> np.ndarray:
        """+1 for images called normal, -1 for anomalous ones, shape (n_images,)."""
        return self._labels(self.score_samples(X))

    def anomaly_map(self, X: Images) -> np.ndarray | list[np.ndarray]:
        """Anomaly map of each image at its own size, higher = more anomalous.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        maps : ndarray of shape (n_images, H, W), or list of ndarray of shape (H, W)
            float32, in the unit of the anomaly score, smoothed. A list where sizes differ.
        """
        return self.inspect(X).maps

    def inspect(self, X: Images) -> Inspection:
        """Scores, labels and maps from one pass over the images.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        inspection : Inspection
            Named tuple (scores, labels, maps, paths).
        """
        check_is_fitted(self)
        stream = self._open(X)
        render = self._map_renderer()
        maps, scores, paths = _MapCollector(stream.n_images), [], []
        for images, batch_scores, grids in self._look(stream, maps=True):
            scores.append(-batch_scores)
            for image, grid in zip(images, grids, strict=True):
                maps.add(render(grid, image.size).cpu().numpy())
                paths.append(image.path)
        scores = np.concatenate(scores)
        return Inspection(scores, self._labels(scores), maps.result(), paths)

    def _map_renderer(self, **options):
        return MapRenderer(
            self.input_.image_size,
            self.input_.seen_size,
            self.input_.crop_offset,
            smoothing=self.smoothing,
            **options,
        )

    def _labels(self, scores):
        return np.where(scores < self.offset_, -1, 1)

    @torch.no_grad()
    def _look(self, X, *, maps):
        """(images, anomaly scores, grids or None) batch by batch."""
        check_is_fitted(self)
        for images, batch in self._checked_batches(self._open(X), "score"):
            scores, grids = self._checked_inference(batch, maps=maps)
            check_finite(scores[:, None], images)
            if maps:
                check_finite(grids, images)
            yield images, scores.cpu().numpy().astype(np.float64), grids

    def _checked_inference(self, batch, *, maps):
        """What :meth:`_infer` gives of a batch, or :meth:`_score` and None."""
        n, given = len(batch), self._infer(batch) if maps else (self._score(batch), None)
        is_pair = isinstance(given, tuple) and len(given) == 2
        scores, grids = given if is_pair else (None, None)
        hook = f"{type(self).__name__}.{'_infer' if maps else '_score'}"
        if not (isinstance(scores, torch.Tensor) and scores.shape == (n,)):
            raise ValueError(
                f"{hook}: expected a tensor of {n} anomaly scores, one an image"
                f"{', and one of grids' if maps else ''}, got {_described(scores)}."
            )
        if maps and not (isinstance(grids, torch.Tensor) and grids.ndim == 3 and len(grids) == n):
            raise ValueError(
                f"{hook}: expected a tensor of grids ({n}, rows, columns), got {_described(grids)}."
            )
        return scores, grids


class PartialFitMixin:
    """Adds ``partial_fit`` to a detector whose ``_learn`` adds to what was learned before."""

    def partial_fit(self, X: Images, y: object = None):
        """Learn from more normal images without going back to the earlier ones.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images of good parts; see :mod:`anomalib_lite.data.images`.
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If an image is invalid; the estimator is then as it was before.
        """
        with all_or_nothing(self):
            if hasattr(self, "offset_"):
                self._check_all_params()
            else:
                self._start()
            self._fit_images(X)
        return self


class _MapCollector:
    """Maps written into one array while their sizes agree, kept apart once they do not."""

    def __init__(self, n_images):
        self._n_images = n_images
        self._array = None
        self._maps = []

    def add(self, image_map):
        if self._array is None and self._n_images is not None:
            self._array = np.empty((self._n_images, *image_map.shape), image_map.dtype)
        fits = self._array is not None and len(self._maps) < self._n_images
        if fits and self._array.shape[1:] == image_map.shape:
            place = self._array[len(self._maps)]
            place[:] = image_map
            image_map = place
        self._maps.append(image_map)

    def result(self):
        if len({image_map.shape for image_map in self._maps}) > 1:
            return self._maps
        complete = self._array is not None and len(self._maps) == self._n_images
        return self._array if complete else np.stack(self._maps)


def _differ(a, b):
    """Whether two values of a parameter are not known to be the same."""
    if a is b:
        return False
    plain = bool | int | float | str | tuple | None
    return not (isinstance(a, plain) and isinstance(b, plain) and a == b)


def _described(value):
    return f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
