"""Base classes for image estimators and anomaly detectors."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

from .annotations import Device, Images, RandomState, Size
from .backbones.maps import MapRenderer
from .batches import Batches
from .contexts import plain
from .data.images import ImageStream
from .data.inputs import NetworkInput
from .data.scales import ScaleCheck, ValueRange
from .export import ExportMixin
from .inspection import (
    InspectedImage,
    Inspection,
    MapLevels,
    ScoreLevels,
    collected,
    map_size_of,
    warn_of_skipped,
    with_skipped,
)
from .io.persistence import SaveMixin
from .notes import N_EXAMPLES, Notes, digest_of
from .notices import warn_user
from .ranking import SuspectImages, without_suspects
from .recall import RecallThreshold, recall_threshold
from .runtime import aside, is_inner_fit, make_generator, resolve_device, twin_of
from .validation import (
    check_count,
    check_finite,
    check_fraction,
    check_n_jobs,
    check_number,
)
from .workers import map_on, team


class ImageEstimator(SaveMixin, BaseEstimator):
    """Base class of everything that is fitted on images.

    It reads and checks images, resolves the device, makes the random generator, and keeps fitting
    all or nothing. A subclass stores its parameters in ``__init__``, among them ``batch_size``,
    ``device``, ``random_state`` and ``verbose``, and implements :meth:`_fit_images`; where it has
    no ``image_size``, :meth:`_build` too.
    """

    _live_params: ClassVar[tuple[str, ...]] = ("batch_size", "n_jobs", "verbose")
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

    @plain
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
        with self._learning() as learner:
            learner._start()
            learner._fit_images(X)
        return self

    @contextmanager
    def _learning(self):
        """Context of a twin that learns, with the workers to share the work."""
        with aside(self) as learner, team(self._n_jobs):
            yield learner

    def set_params(self, **params):
        """Set parameters by name.

        After fit, ``false_alarm_rate``, ``smoothing``, ``batch_size``, ``n_jobs`` and ``verbose``
        take effect at once where the estimator has them; a change of any other parameter warns that
        it waits for the next fit.

        Parameters
        ----------
        **params
            New values; ``component__name`` reaches the parameter of a nested estimator.

        Returns
        -------
        self : object
        """
        before = self.get_params()
        _check_nested(before, params)
        try:
            with aside(self) as learner:
                super(ImageEstimator, learner).set_params(**params)
                if learner._is_fitted:
                    changed = {name for name in params if _differ(before.get(name), params[name])}
                    learner._update_fitted(changed & {*self._live_params})
                    self._warn_of_stale(sorted(changed - {*self._live_params}))
        except BaseException:
            nested = {name: before[name] for name in params if "__" in name and name in before}
            super().set_params(**nested)  # a nested estimator is shared, not copied
            raise
        return self

    def _warn_of_stale(self, changed):
        if changed:
            warn_user(
                f"{', '.join(changed)}: changed after fit, which has no effect until this "
                f"{type(self).__name__} is fitted again.",
            )

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
        check_n_jobs(self._n_jobs)
        self._check_params()

    # -- reading images ---------------------------------------------------------------------------

    def _open(self, X, on_error="raise"):
        return ImageStream(X, min_side=self.input_.patch_size, on_error=on_error)

    @property
    def _n_together(self):
        """Images that pass through the network together."""
        return 1 if self.device_.type == "cpu" else self.batch_size

    def _batches(self, stream: ImageStream, desc: str, **options) -> Batches:
        """What the network takes of images.

        On a CPU each passes alone, so that no result depends, not even in its last bit, on the
        other images of the call.
        """
        return Batches(
            stream,
            self.input_,
            self.device_,
            size=self._n_together,
            n_jobs=self._n_jobs,
            desc=desc,
            verbose=self.verbose,
            **options,
        )

    @property
    def _n_jobs(self):
        return getattr(self, "n_jobs", None)  # a subclass may have no such parameter

    def _learning_batches(self, stream: ImageStream, notes: Notes | None = None) -> Batches:
        """(images, network input (B, 3, h, w)) of normal images; learns their range of values."""
        self.value_range_ = copy.deepcopy(self.value_range_)  # a failed partial_fit loses nothing
        scale = ScaleCheck(copy.copy(self.value_range_)) if self.n_images_ else None
        return self._batches(
            stream,
            "fit",
            scale=scale,
            learn=partial(self._note, notes),
            digest=None if notes is None else digest_of,
        )

    def _note(self, notes, image, pixels, digest):
        """Take note of a normal image: its range of values, its network input and its digest."""
        self.value_range_.learn(image)
        self.n_images_ += 1
        if notes is not None:
            notes.see(image, pixels, digest)
            self._digests_ = notes.digests

    def _checked_batches(self, stream: ImageStream, desc: str, *, reads_ahead=True) -> Batches:
        """(images, network input (B, 3, h, w)) of images to be scored or transformed.

        Raises ValueError, at the end or after many images, if all of them are scaled in another way
        than those of fit. A mistake shows in every image of a call, an anomaly in some.
        """
        scale = ScaleCheck(self.value_range_)
        return self._batches(stream, desc, scale=scale, reads_ahead=reads_ahead)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


class BaseDetector(ExportMixin, OutlierMixin, ImageEstimator):
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
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
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
    suspects_ : SuspectImages
        The images learned from, the one that belongs least among them first, by their out-of-sample
        anomaly scores: ``indices``, ``scores`` and ``names``.
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
    _distrusts_images: ClassVar[bool] = False
    """Whether the parameter ``contamination`` is a share of images that may be defective."""
    # on_error is for the caller, not to be routed by a scikit-learn search or pipeline
    __metadata_request__predict: ClassVar = {"on_error": UNUSED}
    __metadata_request__decision_function: ClassVar = {"on_error": UNUSED}

    def __init__(
        self,
        *,
        image_size: Size | None = 224,
        smoothing: float = 4.0,
        false_alarm_rate: float = 0.01,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.image_size = image_size
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # -- hooks ------------------------------------------------------------------------------------

    def _learn(
        self,
        batches: Batches,
        n_images: int | None,
        generator: torch.Generator,
    ) -> ArrayLike | torch.Tensor:
        """Learn from normal images; runs without gradients.

        Parameters
        ----------
        batches : iterable of (list of B Glance, torch.Tensor of shape (B, 3, h, w))
            The images, whose pixels are gone, and what the network sees of them, on ``device_``.
            Iterate once, or over ``batches.map(function)``, which workers compute.
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

    def _portable_parts(self) -> dict[str, Any]:
        """Attributes of the copy that :meth:`_infer_portably` is called on, by name.

        By default those that have a ``portable()`` are replaced by what it gives.
        """
        return {
            name: value.portable()
            for name, value in vars(self).items()
            if hasattr(value, "portable")
        }

    def _infer_portably(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """:meth:`_infer` of one image, for export: by operations of tensors alone.

        Called on a copy with :meth:`_portable_parts`. Override it where :meth:`_infer` looks at
        values to choose what to do.
        """
        return self._infer(batch)

    def _exported(self):
        """The detector that looks at images, and the ranks that p-values are read from, or None."""
        if self.input_ is None:
            raise ValueError("export: expected a detector of images, got one of a table.")
        return self, None

    # -- fitting ----------------------------------------------------------------------------------

    def _check_all_params(self):
        check_fraction("false_alarm_rate", self.false_alarm_rate)
        check_number("smoothing", self.smoothing, minimum=0)
        super()._check_all_params()

    def _start(self):
        super()._start()
        self._digests_ = np.empty(0, dtype=np.int64)
        self._examples_ = None

    def _fit_images(self, X):
        """Learn from images and set the threshold."""
        stream = self._open(X)
        notes = Notes(self._digests_)
        batches = self._learning_batches(stream, notes)
        anomaly_scores = self._learn(batches, stream.n_images, make_generator(self.random_state))
        self._calibrate_threshold(anomaly_scores, notes.paths)
        self._keep_examples(notes)
        notes.warn_of_copies()

    @property
    def _contamination(self) -> float:
        """Share of the images learned from that may be defective."""
        return self.contamination if self._distrusts_images else 0.0

    def _distinct(self) -> np.ndarray:
        """For each image learned from (n_images_,) which distinct image it is, 0, 1, 2, ..."""
        _, first, which = np.unique(self._digests_, return_index=True, return_inverse=True)
        return first.argsort().argsort()[which]

    def _without_copies(self, learned: torch.Tensor, aside: torch.Tensor) -> torch.Tensor:
        """Indices of images to learn from, less copies of those that are kept aside."""
        distinct = self._distinct()
        is_copy = np.isin(distinct[learned.numpy()], distinct[aside.numpy()])
        return learned if is_copy.all() else learned[torch.from_numpy(~is_copy)]

    def _keep_examples(self, notes):
        """Keep grids (n, rows, columns) of some normal images, from which map levels are read."""
        examples = notes.examples.to(self.device_)
        grids = self._normal_grids(examples, np.array(notes.indices))
        check_finite(grids, notes.images)
        digests = notes.lowest
        if self._examples_ is not None and self._examples_.shape[1:] == grids.shape[1:]:
            grids = torch.cat([grids, self._examples_])[:N_EXAMPLES]
            earlier = vars(self).get("_example_digests_", digests[:0])
            digests = np.concatenate([digests, earlier])[:N_EXAMPLES]
        self._set_examples(grids, digests)

    def _set_examples(self, grids, digests):
        """Take grids (n, rows, columns), and digests of the first of them if some may be defective.

        What is unknown of an image does not speak against it.
        """
        self._examples_ = grids
        vars(self).pop("_example_digests_", None)
        if self._contamination > 0:
            self._example_digests_ = digests

    def _trusted_examples(self):
        """Examples less those of images that seem defective, unless all do."""
        if "_example_digests_" not in vars(self):
            return self._examples_
        learned = self.suspects_.indices
        suspected = learned[np.isnan(self.calibration_scores_[learned])]
        is_suspected = np.isin(self._example_digests_, self._digests_[suspected])
        stays = np.ones(len(self._examples_), dtype=bool)
        stays[: len(is_suspected)] = ~is_suspected
        return self._examples_[torch.from_numpy(stays)] if stays.any() else self._examples_

    def _normal_grids(self, batch: torch.Tensor, indices: np.ndarray) -> torch.Tensor:
        """Grids (n, rows, columns) of normal images (n, 3, h, w) that were learned from.

        ``indices`` tell which of all images they are, for methods that can leave them out.
        """
        parts = batch.split(self._n_together)
        infer = partial(self._checked_inference, maps=True)
        return torch.cat([grids for _, grids in map_on(batch.device, infer, parts)])

    def _calibrate_threshold(self, anomaly_scores, paths=None):
        """Set the threshold from out-of-sample anomaly scores of the normal images.

        With ``contamination`` those that may be defective do not count. ``paths`` are files of
        images by their places.
        """
        scores = self._checked_calibration(anomaly_scores)
        earlier = vars(self).pop("_ranking_", None)
        if self._contamination > 0:
            known = {} if earlier is None else earlier.paths
            self._ranking_ = SuspectImages.of(scores, {**known, **(paths or {})})
            scores = without_suspects(scores, self._contamination)
        self.calibration_scores_ = -scores
        self._set_offset()

    @property
    def suspects_(self) -> SuspectImages:
        """Training images, the one that belongs least first; see Attributes."""
        if "_ranking_" in vars(self):
            return self._ranking_
        return SuspectImages.of(-self.calibration_scores_)

    def _set_offset(self):
        """Set the threshold from the calibration scores; NaN without any."""
        scores = self.calibration_scores_[~np.isnan(self.calibration_scores_)]
        # of n scores, the k-th lowest is undercut by a new one with probability k / (n + 1)
        self.offset_ = math.nan
        if len(scores):
            self.offset_ = float(np.quantile(scores, self.false_alarm_rate, method="weibull"))
        if not is_inner_fit():
            self._warn_of_few(scores)

    def _warn_of_few(self, scores):
        """Warn if the scores are too few for the false-alarm rate."""
        rate, lowest = self.false_alarm_rate, 1 / (len(scores) + 1)
        if len(scores) == 0:
            warn_user(
                f"{self.n_images_} image{'' if self.n_images_ == 1 else 's'} cannot calibrate the "
                "threshold, so that there are scores and maps, but no labels. Fit on more images, "
                "or give a threshold with set_threshold(score=...).",
            )
        elif rate < lowest * (1 - 1e-9):
            needed = f"needs {math.ceil(1 / rate) - 1} images" if rate else "needs no end of images"
            warn_user(
                f"false_alarm_rate={rate} {needed} with out-of-sample scores, and there are "
                f"{len(scores)}. The threshold is the lowest of their scores: it gives about "
                f"{100 * lowest:.2g} % false alarms, the lowest rate that so many images can "
                f"support. Fit on more, or set false_alarm_rate={math.ceil(1000 * lowest) / 1000}.",
            )

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
        if np.isinf(scores).any():
            raise ValueError(f"{expected} infinity.")
        n_distinct = len(np.unique(self._digests_)) if len(self._digests_) else self.n_images_
        if np.isnan(scores).all() and n_distinct > 3:
            raise ValueError(f"{expected} NaN alone.")
        return scores

    def _update_fitted(self, changed):
        if changed:
            self._check_all_params()
        if "false_alarm_rate" in changed:
            self._set_offset()

    def fit_predict(self, X: Images, y: object = None, **kwargs) -> np.ndarray:
        """Fit, and label the same images by their out-of-sample scores.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images, most of them of good parts; see :mod:`anomalib_lite.data.images`.
        y : ignored
        **kwargs
            Passed to ``fit``.

        Returns
        -------
        labels : ndarray of shape (n_images,)
            +1 normal, -1 anomalous: ``calibration_scores_`` below ``offset_``. Images without an
            out-of-sample score, where a method keeps only some aside, are scored as new ones.
        """
        self.fit(X, y, **kwargs)
        labels = self._labels(self.calibration_scores_)
        unknown = np.isnan(self.calibration_scores_)
        if unknown.any():
            if isinstance(X, Iterator):
                raise ValueError(
                    "X: expected images that can be read twice, since some have no out-of-sample "
                    f"score, got {type(X).__name__}. Pass a list."
                )
            labels[unknown] = self.predict(X)[unknown]
        return labels

    @plain
    def set_threshold(
        self,
        *,
        false_alarm_rate: float | None = None,
        score: float | None = None,
        images: Images | None = None,
    ) -> Self:
        """Set the threshold of a fitted detector.

        Parameters
        ----------
        false_alarm_rate : float or None, default=None
            Read it from ``calibration_scores_`` at another rate; the parameter changes too.
        score : float or None, default=None
            Set it to a value of ``score_samples``: images with lower scores are called anomalous.
        images : array, tensor, list, folder, Dataset, DataLoader or iterable, or None, default=None
            Fresh images of good parts, as after a change of lamp: from now on
            ``calibration_scores_`` are theirs, and the levels of maps follow. The next ``fit`` or
            ``partial_fit`` calibrates on its own images again.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            Unless a score alone, or a rate, images or both are given, and valid.

        Examples
        --------
        >>> from anomalib_lite import PaDiM
        >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
        >>> detector = PaDiM(image_size=64, false_alarm_rate=0.1, random_state=0).fit(images)
        >>> detector.set_threshold(false_alarm_rate=0.2).false_alarm_rate
        0.2
        >>> detector.set_threshold(score=-100.0).predict(images[:2])
        array([1, 1])
        """
        check_is_fitted(self)
        is_read = false_alarm_rate is not None or images is not None
        if is_read == (score is not None):
            raise ValueError(
                "set_threshold: expected either a score, or a false_alarm_rate, images or both, "
                f"got {'a score and more' if is_read else 'nothing'}."
            )
        with self._learning() as learner:
            if false_alarm_rate is not None:
                check_fraction("false_alarm_rate", false_alarm_rate)
                learner.false_alarm_rate = false_alarm_rate
            if images is not None:
                learner._calibrate_on(images)
            if score is None:
                learner._set_offset()
            else:
                learner.offset_ = _checked_score(score)
        return self

    @plain
    def threshold_for(
        self, defects: Images | None = None, *, recall: float, confidence: float = 0.95
    ) -> RecallThreshold:
        """The threshold with the fewest false alarms that finds a share of all defects.

        Parameters
        ----------
        defects : array, tensor, list, folder, Dataset, DataLoader or iterable, or None
            Images of defects, of those that will come, that the detector has not learned from.
            None: the labeled ones that it has, where it learns from labels, by their out-of-sample
            scores; the bound is then an approximation, since each is by another regression.
        recall : float
            Share of all such defects to find, in (0, 1).
        confidence : float, default=0.95
            Of the statement that so many are found, by an exact binomial bound.

        Returns
        -------
        threshold : RecallThreshold
            Named tuple (score, recall, confidence, n_defects, n_missed, false_alarm_rate). Nothing
            is changed; ``set_threshold(score=threshold.score)`` sets it.

        Raises
        ------
        ValueError
            If there are too few defects for the recall: 0.9 takes 29, 0.99 takes 299.

        Examples
        --------
        >>> from anomalib_lite import PaDiM
        >>> images = np.random.default_rng(0).integers(90, 110, (40, 64, 64), dtype=np.uint8)
        >>> images[20:, 20:40, 20:40] = 255
        >>> detector = PaDiM(image_size=64, false_alarm_rate=0.1, random_state=0).fit(images[:20])
        >>> detector.threshold_for(images[20:], recall=0.8).false_alarm_rate
        0.0
        """
        detector = self._scoring_twin()
        learned, scores = detector._learned_defects()
        if defects is None:
            _, first = np.unique(learned, return_index=True)
            scores = scores[first]
            if np.isnan(scores).all():
                raise ValueError(
                    "defects: expected images of defects that this detector has not learned from, "
                    "got None."
                )
        else:
            with team(self._n_jobs):
                scores, notes = detector._noted_scores(defects, "score", learned[:0])
            n_learned = int(np.isin(notes.digests, learned).sum())
            if n_learned:
                raise ValueError(
                    f"defects: expected images that this detector has not learned from, got "
                    f"{n_learned} that it has. Leave them out, or give None for the scores that "
                    "labeled defects have out of sample."
                )
            notes.warn_of_copies()
            _, first = np.unique(notes.digests, return_index=True)
            scores = -scores[first]
        return recall_threshold(
            scores, detector.calibration_scores_, recall=recall, confidence=confidence
        )

    def _learned_defects(self):
        """Digests (n,) of labeled defects and their ``score_samples`` (n,) out of sample."""
        return np.empty(0, np.int64), np.empty(0)

    def _calibrate_on(self, X):
        """Take calibration scores and map examples from normal images that were not learned."""
        scores, notes = self._noted_scores(X, "calibrate", self._digests_)
        self._ranking_ = self.suspects_  # of the images of fit
        self.calibration_scores_ = -scores
        examples = notes.examples.to(self.device_).split(self._n_together)
        grids = [self._checked_inference(batch, maps=True)[1] for batch in examples]
        self._examples_ = torch.cat(grids)
        vars(self).pop("_example_digests_", None)  # of images that are trusted
        notes.warn_of_copies()

    def _noted_scores(self, X, desc, earlier):
        """Anomaly scores (n,) of images, and notes of them beside digests of earlier ones."""
        stream, notes, scores = self._open(X), Notes(earlier), []
        batches = self._batches(
            stream,
            desc,
            scale=ScaleCheck(self.value_range_),
            learn=notes.see,
            digest=digest_of,
        )
        for images, (some, _) in batches.map(partial(self._checked_inference, maps=False)):
            check_finite(some[:, None], images)
            scores += some.double().cpu().tolist()
        return np.array(scores), notes

    # -- scoring ----------------------------------------------------------------------------------

    def score_samples(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """Normality of each image: minus the anomaly score, so lower = more anomalous.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.
        on_error : {"raise", "skip"}, default="raise"
            What an image does that cannot be read: raise a ValueError, or get NaN and be named in a
            warning.

        Returns
        -------
        scores : ndarray of shape (n_images,)
            In the method's unit.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        return -self.anomaly_score(X, on_error=on_error)

    def anomaly_score(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """Anomaly score of each image, higher = more anomalous: minus ``score_samples``."""
        return -self.inspect(X, maps=False, on_error=on_error).scores

    def decision_function(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """``score_samples(X) - offset_``: negative where an image is called anomalous."""
        return self._decide(X, on_error)[0]

    def predict(self, X: Images, *, on_error: str = "raise") -> np.ndarray:
        """+1 for images called normal, -1 for anomalous ones, shape (n_images,).

        A skipped image gets 0; see :meth:`score_samples`.
        """
        return self._decide(X, on_error)[1]

    def _decide(self, X, on_error):
        """Margins and labels, by one threshold."""
        detector = twin_of(self)
        seen = detector.inspect(X, maps=False, on_error=on_error)
        if math.isnan(detector.offset_):
            raise ValueError(
                f"{type(self).__name__} has no threshold: it was fitted on too few images or, in "
                "parts, without finish_calibration. Fit it on more, or give a threshold with "
                "set_threshold(score=...)."
            )
        return seen.scores - detector.offset_, seen.labels

    def anomaly_map(
        self, X: Images, *, on_error: str = "raise"
    ) -> np.ndarray | list[np.ndarray | None]:
        """Anomaly map of each image at its own size, higher = more anomalous.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.
        on_error : {"raise", "skip"}, default="raise"
            As for :meth:`score_samples`; the map of a skipped image is None.

        Returns
        -------
        maps : ndarray of shape (n_images, H, W), or list of ndarray of shape (H, W)
            float32, in the unit of the anomaly score, smoothed. A list where sizes differ.
        """
        return self.inspect(X, on_error=on_error).maps

    @plain
    def inspect(
        self, X: Images, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Inspection:
        """Scores, labels and maps from one pass over the images.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.
        maps : bool, "network", int or tuple (H, W), default=True
            Size of the maps: each image's own, the one that images are resized to for the network,
            or the given one. False leaves them out, which is faster for most methods. Maps of large
            photographs take memory, 48 MB for 12 megapixels.
        on_error : {"raise", "skip"}, default="raise"
            What an image does that cannot be read: raise a ValueError, or get NaN and the label 0
            and be listed in ``skipped``.

        Returns
        -------
        inspection : Inspection
            Named tuple (scores, labels, maps, paths, skipped, ...), with tables (``to_frame``,
            ``to_csv``) and ``regions``.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        detector = self._scoring_twin()
        stream = detector._open(X, on_error)
        has_maps = maps is not False
        seen = collected(detector._inspected(stream, maps), stream, has_maps=has_maps)
        return seen._replace(
            score_levels=detector.score_levels(),
            map_levels=detector.map_levels() if has_maps else None,
        )

    @plain
    def iter_inspect(
        self, X: Images, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Iterator[InspectedImage]:
        """Score, label and map of one image after the other, as they are read.

        Parameters
        ----------
        X, maps, on_error
            As for :meth:`inspect`.

        Yields
        ------
        image : InspectedImage
            Named tuple (score, label, map, path, reason, ...), one for each image, in order.

        Notes
        -----
        Only a few images are in memory, those that the workers are at. An iterator whose length is
        not known, such as a camera's, is asked for an image when the results of those before it
        have been given. What is said is what the detector had learned when the first image was
        asked for. Where the first images look scaled in another way than those of fit, results wait
        until one does not.

        Examples
        --------
        >>> from anomalib_lite import PaDiM
        >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
        >>> detector = PaDiM(image_size=64, false_alarm_rate=0.1, random_state=0).fit(images)
        >>> [image.map.shape for image in detector.iter_inspect(images[:2], maps=(32, 32))]
        [(32, 32), (32, 32)]
        """
        detector = self._scoring_twin()
        stream = detector._open(X, on_error)
        is_sized = stream.n_images is not None
        yield from detector._inspected(stream, maps, reads_ahead=is_sized)
        warn_of_skipped(stream.skipped)

    def score_levels(self) -> ScoreLevels:
        """What is normal and what is not in anomaly scores (higher = more anomalous).

        Returns
        -------
        levels : ScoreLevels
            Named tuple (normal, threshold): the median of the normal images' scores, out of sample,
            and the threshold of ``predict``. NaN for what a detector of too few images does not
            have. ``levels.severity(anomaly_scores)`` puts scores on the scale between the two.
        """
        detector = self._scoring_twin()
        known = detector.calibration_scores_[~np.isnan(detector.calibration_scores_)]
        normal = -float(np.median(known)) if len(known) else math.nan
        return ScoreLevels(normal, -detector.offset_)

    @plain
    def map_levels(self) -> MapLevels:
        """What is normal and what is not in the values of anomaly maps.

        Returns
        -------
        levels : MapLevels
            Named tuple (normal, threshold).

        Notes
        -----
        Read from the maps of a few normal images, out of sample where the method can, and without
        those that are suspected of a defect unless all are: ``normal`` is the median of their
        maxima, and ``threshold`` the upper end of the prediction interval of a new maximum at
        ``false_alarm_rate``, by Student's t. It is for looking at maps; labels come from scores.
        """
        detector = self._scoring_twin()
        if detector._examples_ is None:
            raise ValueError(
                "map_levels: expected a detector fitted on images, which have maps, and if in "
                "parts, then with finish_calibration."
            )
        grids, render = detector._trusted_examples(), detector._map_renderer()
        peaks = render(grids, detector.input_.image_size).flatten(1).amax(1).double().cpu().numpy()
        normal, n = float(np.median(peaks)), len(peaks)
        spread = peaks.std(ddof=1) if n > 1 else 0.0
        reach = stats.t.isf(max(detector.false_alarm_rate, 1e-6), max(n - 1, 1))
        threshold = float(peaks.mean() + max(reach, 0) * spread * math.sqrt(1 + 1 / n))
        least = normal + 1e-3 * max(abs(normal), 1e-6)  # equal maps, or a single one
        return MapLevels(normal, max(threshold, least))

    def _scoring_twin(self):
        """What is learned now; a fit in another thread does not reach it."""
        check_is_fitted(self)
        return twin_of(self)

    def _map_renderer(self, **options):
        return MapRenderer(
            self.input_.image_size,
            self.input_.seen_size,
            self.input_.crop_offset,
            smoothing=self.smoothing,
            **options,
        )

    def _labels(self, scores):
        """+1 or -1; 0 without a score or a threshold."""
        known = ~np.isnan(scores) & (not math.isnan(self.offset_))
        return np.where(known, np.where(scores < self.offset_, -1, 1), 0)

    def _inspected(self, stream, maps, *, reads_ahead=True):
        """An InspectedImage for each image of the stream, skipped ones included, in order."""
        size_of = map_size_of(maps, self.input_.image_size)
        seen = (
            (image.index, self._inspected_one(image, score, heat, more))
            for image, score, heat, more in self._look(stream, size_of, reads_ahead)
        )
        yield from with_skipped(seen, stream.skipped)

    def _inspected_one(self, image, score, heat, more):
        label = int(self._labels(np.float64(-score)))
        return InspectedImage(-score, label, heat, image.path, size=image.size)

    def _look(self, stream, size_of, reads_ahead):
        """(image without its pixels, anomaly score, map or None, more or None) one by one.

        The first ones wait while all look scaled in another way than those of fit; see
        :meth:`ImageEstimator._checked_batches`. They wait as grids, which are small.
        """
        batches = self._checked_batches(stream, "score", reads_ahead=reads_ahead)
        render = None if size_of is None else self._map_renderer()

        def look(images, batch):
            scores, grids, more = self._look_at(images, batch, maps=render is not None)
            waits = render is None or not batches.scale.is_right
            heats = [None] * len(images) if waits else map(finished, images, grids)
            return list(zip(images, scores, grids, heats, more, strict=True))

        def finished(image, grid):
            return None if render is None else render(grid, size_of(image)).cpu().numpy()

        waiting = []
        for _, seen in batches.each(look):
            waiting += seen
            if batches.scale.is_right:
                for image, score, grid, heat, more in waiting:
                    yield image, score, finished(image, grid) if heat is None else heat, more
                waiting = []

    def _look_at(self, images, batch, *, maps):
        """Anomaly scores, grids or Nones, and more or Nones, of a batch of images."""
        scores, grids, more = self._told(batch, maps=maps)
        check_finite(scores[:, None], images)
        if maps:
            check_finite(grids, images)
        if more is not None:
            check_finite(more, images)
        nones = [None] * len(images)
        return (
            scores.double().cpu().tolist(),
            grids if maps else nones,
            nones if more is None else more.double().cpu().tolist(),
        )

    def _told(self, batch, *, maps):
        """Anomaly scores (B,), grids or None, and more for ``_inspected_one``: (B, k) or None."""
        return *self._checked_inference(batch, maps=maps), None

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

    @plain
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
        with self._learning() as learner:
            if hasattr(learner, "offset_"):
                learner._check_all_params()
            else:
                learner._start()
            learner._fit_images(X)
        return self


def _checked_score(score):
    is_number = isinstance(score, Real) and not isinstance(score, bool)
    if not (is_number and math.isfinite(score)):
        raise ValueError(f"score: expected a finite number, got {score!r}.")
    return float(score)


def _check_nested(params, given):
    """Raise ValueError for ``component__name`` where the component has no parameters."""
    for name in given:
        component, _, inner = name.partition("__")
        if inner and component in params and not hasattr(params[component], "set_params"):
            raise ValueError(
                f"{name}: {component} is {params[component]!r}, which has no parameters. Set "
                f"{component} itself."
            )


def _differ(a, b):
    """Whether two values of a parameter are not known to be the same."""
    if a is b:
        return False
    simple = bool | int | float | str | tuple | None
    return not (isinstance(a, simple) and isinstance(b, simple) and a == b)


def _described(value):
    return f"shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__
