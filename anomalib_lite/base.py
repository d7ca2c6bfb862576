"""The templates that estimators of images fill in; detectors: fit, scores, maps, threshold."""

import copy
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted

from .backbones.patches import MapRenderer
from .data.images import ImageStream
from .data.inputs import ValueRange
from .io.persistence import SaveMixin
from .runtime import all_or_nothing, make_generator, progress, resolve_device
from .validation import check_count, check_finite, check_fraction, check_number


class Inspection(NamedTuple):
    """What one look at a set of images tells.

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
    maps: np.ndarray | list
    paths: list


class ImageEstimator(SaveMixin, BaseEstimator):
    """Images in, through one door; fitting is all or nothing.

    An estimator stores its parameters in ``__init__``, these among them: ``batch_size``,
    ``device``, ``random_state``, ``verbose``. It implements

    ``_check_params()``
        Raise ValueError on parameters that make no sense.
    ``_build(generator)``
        Make what is needed before any image is seen; return a
        :class:`~anomalib_lite.data.NetworkInput`.
    ``_fit_images(X)``
        Learn from ``self._learning_batches(self._open(X))``.
    """

    def fit(self, X, y=None):
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
            If a parameter or an image is not what it should be. A fit that fails leaves the
            estimator as it was before.
        """
        with all_or_nothing(self):
            self._start()
            self._fit_images(X)
        return self

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

    def _open(self, X):
        if isinstance(X, ImageStream):
            return X
        return ImageStream(X, min_side=self.input_.patch_size)

    def _batches(self, stream, desc):
        """Lists of images that pass through a network together.

        On a CPU each passes alone: what is computed for one cannot depend, not even in the last
        bit, on which others were given with it. Larger batches would be 5 to 25 % faster there.
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

    def _learning_batches(self, stream):
        """(images, their network input) of normal images, whose range of values is learned."""
        self.value_range_ = copy.deepcopy(self.value_range_)  # a failed partial_fit loses nothing
        first = self.n_images_ == 0
        for images in self._batches(stream, "fit"):
            for image in images:
                if not first:
                    self.value_range_.check(image)
                self.value_range_.learn(image)
            self.n_images_ += len(images)
            yield images, self.input_.batch(images).to(self.device_)

    def _checked_batches(self, stream, desc):
        """(images, their network input), once they were found to be scaled as those of fit."""
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
    """Fit on images of good parts, score any images, in scikit-learn's conventions.

    To the parameters of :class:`ImageEstimator` a method adds ``false_alarm_rate`` and
    ``smoothing``. It implements ``_check_params`` and ``_build``, and

    ``_learn(batches, n_images, generator)``
        Learn from an iterable of (images, their network input (B, 3, h, w)); return the anomaly
        scores of the normal images *out of sample*, from which the threshold is read (NaN: not
        available).
    ``_infer(batch)``
        Anomaly scores (B,) and patch grids (B, h, w) of a network input.
    ``_score(batch)``
        The same scores alone, where that is quicker.
    """

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
        self._set_threshold(anomaly_scores)

    def _set_threshold(self, anomaly_scores):
        """From scores of normal images out of sample."""
        self.calibration_scores_ = -np.asarray(anomaly_scores, dtype=np.float64)
        self.offset_ = float(np.nanquantile(self.calibration_scores_, self.false_alarm_rate))

    # -- scoring ----------------------------------------------------------------------------------

    def score_samples(self, X):
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

    def anomaly_score(self, X):
        """Anomaly score of each image, higher = more anomalous: minus ``score_samples``."""
        return np.concatenate([scores for _, scores, _ in self._look(X, maps=False)])

    def decision_function(self, X):
        """``score_samples(X) - offset_``: negative where an image is called anomalous."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """+1 for images called normal, -1 for anomalous ones, shape (n_images,)."""
        return self._labels(self.score_samples(X))

    def anomaly_map(self, X):
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

    def inspect(self, X):
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

    def _map_renderer(self, **how):
        return MapRenderer(
            self.input_.image_size,
            self.input_.seen_size,
            self.input_.crop_offset,
            smoothing=self.smoothing,
            **how,
        )

    def _labels(self, scores):
        return np.where(scores < self.offset_, -1, 1)

    def _score(self, batch):
        return self._infer(batch)[0]

    @torch.no_grad()
    def _look(self, X, *, maps):
        """(images, anomaly scores, grids or None) batch by batch."""
        check_is_fitted(self)
        for images, batch in self._checked_batches(self._open(X), "score"):
            scores, grids = self._infer(batch) if maps else (self._score(batch), None)
            check_finite(scores[:, None], images)
            yield images, scores.cpu().numpy().astype(np.float64), grids


class PartialFitMixin:
    """Gives a detector ``partial_fit``, where its ``_learn`` adds to what was learned before."""

    def partial_fit(self, X, y=None):
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
            If an image is not what it should be; the estimator is then as it was before.
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
