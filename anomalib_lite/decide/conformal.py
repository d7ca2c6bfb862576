"""Conformal calibration of outlier detectors: p-values and guaranteed false-alarm rates."""

import math
from collections.abc import Iterable, Iterator
from inspect import signature
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import BaseCrossValidator
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..annotations import RandomState, Size
from ..data.choosing import choosable, n_samples, numbered_as_given, take
from ..export import ExportMixin
from ..export.plan import Ranks
from ..inspection import InspectedImage, Inspection, MapLevels, ScoreLevels
from ..io.persistence import SaveMixin
from ..notices import warn_user
from ..runtime import aside, draw_seed, inner_fit, make_generator, seed_estimator, twin_of
from ..validation import check_choice
from .held_out import as_scores, look, refuse_nan, warn_of_copies
from .ranks import p_value, ranks_among_others, shared_weights, smallest_rate, threshold_place
from .splits import make_splits, unit_of_each

_N_FOLDS = 5  # of fit_predict, where the fit itself leaves some samples without a score


def _has(name):
    """Whether the detector, the fitted one if there is one, has a method."""
    return lambda self: hasattr(vars(self).get("detectors_", [self.detector])[0], name)


class ConformalDetector(ExportMixin, SaveMixin, MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    r"""Wraps an outlier detector: p-values and a guaranteed false-alarm rate.

    The wrapped detector is fitted on one part of the normal samples and scores the other part,
    :math:`s_1, \dots, s_n`. A new sample with score :math:`s` (lower = more anomalous) gets the
    p-value

    .. math:: p = \frac{1 + \#\{i : s_i \le s\}}{n + 1}

    and is called anomalous if :math:`p \le \alpha`, the ``false_alarm_rate``. If the new sample is
    normal, that is, exchangeable with the calibration samples, this happens with probability at
    most :math:`\alpha`, for any detector, any data and any number of samples.

    A detector that is fitted already is calibrated without another fit, on all samples, inside
    scikit-learn's ``FrozenEstimator``; see Examples.

    Parameters
    ----------
    detector : estimator
        An outlier detector with ``fit`` and ``score_samples``; it is cloned, never changed. A
        ``FrozenEstimator`` is used as it is: calibrate it on parts that it was not fitted on.
    method : {"split", "cv"}, default="split"
        ``"split"`` fits on one part of the samples and calibrates on the other; the guarantee is
        exact. ``"cv"`` is cross-validation: each sample calibrates the detector fitted without it
        (CV+; leave-one-out is the jackknife+). It uses every sample for both, with a weaker
        guarantee; see Notes.
    cv : float, int, splitter, iterable or None, default=None
        For ``"split"``: fraction, in (0, 1), or number of the samples to calibrate on; None is 0.5.
        For ``"cv"``: number of folds; None is 5. With groups, these count groups. For both: a
        scikit-learn splitter, or an iterable of (train, test) indices; ``"split"`` takes the first
        of its splits, and samples that are never held out calibrate nothing.
    false_alarm_rate : float, default=0.05
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell. Here it bounds the probability of a false alarm, in (0, 1), for samples of
        any kind. The detectors' default, 0.01, would need at least 99 calibration samples to call
        anything anomalous; 0.05 needs 19.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the samples to calibrate on and the folds, and seeds
        for detectors, or steps of them, whose ``random_state`` is None.

    Attributes
    ----------
    detectors_ : list of estimators
        The fitted detector; one for each fold with ``"cv"``.
    calibration_scores_ : ndarray of shape (n_scores,)
        Out-of-sample ``score_samples`` of the calibration samples, ascending.
    calibration_indices_ : ndarray of shape (n_scores,)
        The sample of ``fit`` that each of these belongs to.
    n_calibration_ : int
        The n of p-values: the number of calibration samples, or of their groups.
    offset_ : float
        Threshold of ``predict`` on ``score_samples``; minus infinity if there are too few
        calibration samples to call anything anomalous at this ``false_alarm_rate``.
    pixel_level_ : float
        Only if the detector has anomaly maps. With probability at least 1 - ``false_alarm_rate``,
        no pixel in the map of a normal image is higher (exact for ``"split"``, approximate for
        ``"cv"``).

    Notes
    -----
    The probability is over the draw of the calibration samples *and* the new one. Given one set of
    calibration samples, the false-alarm rate varies around it (for ``"split"`` with a Beta
    distribution). The guarantee covers new samples from the same source as the normal ones, not
    another product, camera or season.

    With ``"cv"``, the probability of a false alarm is at most twice the ``false_alarm_rate`` for
    leave-one-out; with fewer folds a term is added that decreases with the number of samples [1]_.
    In practice it is usually close to the ``false_alarm_rate``.

    With groups, such as several shots of each part, the groups are exchangeable, not the samples.
    Each calibration group then weighs as one sample, shared among its :math:`n_g` scores:

    .. math:: p = \frac{1 + \sum_g \#\{i \in g : s_i \le s\} / n_g}{n + 1}

    With ``"split"`` the guarantee is exact again, for a random shot of a new part, and so for the
    expected share of its shots that are called anomalous, however alike they are [3]_. A sample
    that is held out several times, as by ``RepeatedKFold``, shares its weight likewise.

    Ties make a sample less anomalous.

    References
    ----------
    .. [1] R. Barber, E. Candès, A. Ramdas, R. Tibshirani, "Predictive inference with the
       jackknife+", Annals of Statistics 49 (2021).
    .. [2] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with conformal
       p-values", Annals of Statistics 51 (2023).
    .. [3] Y. Lee, R. Barber, R. Willett, "Distribution-free inference with hierarchical data",
       2023. https://arxiv.org/abs/2306.06342

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import IsolationForest
    >>> from anomalib_lite import ConformalDetector
    >>> normal = np.random.default_rng(0).normal(size=(200, 2))
    >>> detector = ConformalDetector(IsolationForest(random_state=0), random_state=0).fit(normal)
    >>> detector.predict([[0, 0], [9, 9]])
    array([ 1, -1])
    >>> detector.p_values([[9, 9]]).round(4)
    array([0.0099])

    A fitted detector, as from ``load``, calibrated on fresh good samples:

    >>> from sklearn.frozen import FrozenEstimator
    >>> fitted = IsolationForest(random_state=0).fit(normal)
    >>> fresh = np.random.default_rng(1).normal(size=(99, 2))
    >>> detector = ConformalDetector(FrozenEstimator(fitted)).fit(fresh)
    >>> detector.n_calibration_, detector.predict([[9, 9]])
    (99, array([-1]))
    """

    # for the caller, not to be routed by a scikit-learn search or pipeline
    __metadata_request__fit: ClassVar = {"groups": UNUSED}
    __metadata_request__predict: ClassVar = {"on_error": UNUSED}
    __metadata_request__decision_function: ClassVar = {"on_error": UNUSED}

    def __init__(
        self,
        detector: BaseEstimator,
        *,
        method: str = "split",
        cv: float | int | BaseCrossValidator | Iterable | None = None,
        false_alarm_rate: float = 0.05,
        random_state: RandomState = None,
    ):
        self.detector = detector
        self.method = method
        self.cv = cv
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None, *, groups: Any = None) -> Self:
        """Fit and calibrate on normal samples.

        Parameters
        ----------
        X : array, DataFrame, tensor, list, folder or Dataset of n_samples
            In any form the detector accepts whose samples can be indexed; not an iterator.
        y : array-like of shape (n_samples,) or None, default=None
            Only for splitters that need labels, such as ``StratifiedKFold``.
        groups : array-like of shape (n_samples,) or None, default=None
            Label of the part, or other source, of each sample: all samples of one, such as shots of
            the same part, are fitted on or calibrated on together. See Notes of the class. The
            samples of a folder are its image files, sorted by path.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter is invalid or there are too few samples. A fit that fails leaves the
            estimator as it was before.

        Warns
        -----
        UserWarning
            If there are too few calibration samples for the ``false_alarm_rate``, if a calibration
            sample is an exact copy of another sample, or if the detector's ``contamination`` says
            that calibration samples may be anomalous.
        """
        self._fit(choosable(X), y, groups)
        return self

    def fit_predict(self, X: Any, y: Any = None, *, groups: Any = None) -> np.ndarray:
        """Fit, and label the same samples by scores of detectors that have not seen them.

        Parameters
        ----------
        X, y, groups : as for ``fit``
            Most of the samples are normal.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            -1 where the p-value among the other samples is at most ``false_alarm_rate``, else +1.

        Notes
        -----
        Where ``fit`` gives each sample an out-of-sample score (``method="cv"``, or a frozen
        detector), these are compared. Otherwise the scores of a cross-validation with 5 folds are,
        which takes 5 more fits. Labels of ``fit(X).predict(X)`` differ: the detector has seen
        samples that it was fitted on, and finds few anomalies among those.
        """
        X = choosable(X)
        units, folds = self._fit(X, y, groups)
        indices = np.concatenate([fold.indices for fold in folds])
        if len(np.unique(indices)) < len(units):
            learner = clone(self).set_params(method="cv", cv=_N_FOLDS)
            folds = learner._held_out(X, y, groups, units, maps=False)
            indices = np.concatenate([fold.indices for fold in folds])
        scores = np.concatenate([fold.scores for fold in folds])
        p = ranks_among_others(scores, units[indices])
        mean_p = np.bincount(indices, p) / np.bincount(indices)
        return np.where(mean_p <= self.false_alarm_rate, -1, 1)

    def _fit(self, X, y, groups):
        """The unit of each sample, and the folds, which this estimator is now fitted on."""
        self._check_params()
        self._refuse_labels(y)
        units = unit_of_each(groups, n_samples(X))
        self._warn_of_contamination()
        with aside(self) as learner:
            folds = learner._held_out(X, y, groups, units, maps=True)
            learner._calibrate(folds, units)
            learner._set_threshold()
            warn_of_copies(X, units, np.concatenate([fold.indices for fold in folds]))
        return units, folds

    def _refuse_labels(self, y):
        """Raise ValueError for labels of defects where the detector would learn them."""
        learns = getattr(self.detector, "_learns_labels", False)
        if learns and y is not None and np.isin(np.asarray(y), -1).any():
            raise ValueError(
                f"y: expected no labels of defects, which {type(self).__name__} does not pass on, "
                f"got some. Fit {type(self.detector).__name__} with them, and calibrate it in a "
                "FrozenEstimator on other images of good parts."
            )

    def _warn_of_contamination(self):
        """Warn if samples may be anomalous; those that calibrate a frozen detector are others.

        What scikit-learn calls contamination is a rate of alarms, and the default of some.
        """
        if isinstance(self.detector, FrozenEstimator):
            return
        params = self.detector.get_params()
        for name, value in params.items():
            owner, _, parameter = name.rpartition("__")
            distrusts = getattr(params.get(owner, self.detector), "_distrusts_images", False)
            is_share = isinstance(value, Real) and value > 0
            if distrusts and is_share and parameter == "contamination":
                warn_user(
                    f"{name}={value}: the guarantee of false alarms does not hold, since it takes "
                    "normal samples to calibrate, and of these some may be anomalous. p-values "
                    "come out too large, and anomalies are missed. Calibrate on samples that are "
                    "known to be normal, with the fitted detector in a FrozenEstimator."
                )

    def _held_out(self, X, y, groups, units, *, maps):
        """A HeldOut for each split; a frozen detector holds out all samples."""
        if isinstance(self.detector, FrozenEstimator):
            return [look(_thawed(self.detector), X, np.arange(len(units)), maps=maps)]
        splits = make_splits(
            X, y, groups, units, method=self.method, cv=self.cv, random_state=self.random_state
        )
        folds, generator = [], make_generator(self.random_state)
        for train, held_out in splits:
            detector = clone(self.detector)
            seed_estimator(detector, draw_seed(generator))
            with numbered_as_given(train), inner_fit():
                detector.fit(take(X, train))
            folds.append(look(detector, take(X, held_out), held_out, maps=maps))
        return folds

    def _calibrate(self, folds, units):
        """Keep detectors, and scores and map maxima with their weights."""
        indices = np.concatenate([fold.indices for fold in folds])
        _, held_out = np.unique(units[indices], return_inverse=True)
        weights, self._whole_ = shared_weights(held_out)
        self.n_calibration_ = int(held_out.max()) + 1
        self.detectors_ = [fold.detector for fold in folds]
        ends = np.cumsum([len(fold.indices) for fold in folds])[:-1]
        by_detector = [
            _ascending(fold.scores, own)
            for fold, own in zip(folds, np.split(weights, ends), strict=True)
        ]
        self._scores_by_detector_ = [scores for scores, _ in by_detector]
        self._weights_by_detector_ = [own for _, own in by_detector]
        scores = np.concatenate([fold.scores for fold in folds])
        self.calibration_scores_, self._weights_ = _ascending(scores, weights)
        self.calibration_indices_ = indices[np.argsort(scores, kind="stable")]
        self._map_maxima_ = self._map_weights_ = None
        if folds[0].peaks is not None:
            peaks = np.concatenate([fold.peaks for fold in folds])
            self._map_maxima_, self._map_weights_ = _ascending(peaks, weights)

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        After fit, ``false_alarm_rate`` takes effect at once; a change of any other parameter warns
        that it waits for the next fit.

        Parameters
        ----------
        **params
            New values; ``detector__name`` reaches a parameter of the detector.

        Returns
        -------
        self : object
        """
        is_fitted = "detectors_" in vars(self)
        if is_fitted and "false_alarm_rate" in params:
            _check_probability("false_alarm_rate", params["false_alarm_rate"])
        before = self.get_params() if is_fitted else {}
        with aside(self) as learner:
            super(ConformalDetector, learner).set_params(**params)
            if is_fitted and "false_alarm_rate" in params:
                learner._set_threshold()
        waiting = [
            name
            for name, value in params.items()
            if name in before and name != "false_alarm_rate" and not _same(before[name], value)
        ]
        if waiting:
            warn_user(
                f"{', '.join(waiting)}: changed after fit, which has no effect until this "
                "ConformalDetector is fitted again."
            )
        return self

    def set_threshold(self, *, false_alarm_rate: float) -> Self:
        """Set the threshold of a fitted detector by another false-alarm rate.

        Parameters
        ----------
        false_alarm_rate : float
            In (0, 1); the parameter changes too, and is saved.

        Returns
        -------
        self : object

        Warns
        -----
        UserWarning
            If there are too few calibration samples for it.
        """
        check_is_fitted(self)
        return self.set_params(false_alarm_rate=false_alarm_rate)

    def _set_threshold(self):
        """Set offset and pixel level by ``false_alarm_rate``."""
        self.offset_ = float(self._at_threshold()) if self._can_alarm else -math.inf
        vars(self).pop("pixel_level_", None)
        if self._map_maxima_ is not None:
            place = self._place(self._map_weights_[::-1])
            level = self._map_maxima_[::-1][place] if self._can_alarm else math.inf
            self.pixel_level_ = float(level)
        if not self._can_alarm:
            warn_user(
                f"false_alarm_rate={self.false_alarm_rate} needs at least "
                f"{math.ceil(1 / self.false_alarm_rate - 1e-9) - 1} calibration {self._units}, got "
                f"{self.n_calibration_}: predict will call nothing anomalous. p_values and "
                "score_samples are not affected. The smallest rate that they can support is "
                f"{smallest_rate(self.n_calibration_)}."
            )

    @property
    def _can_alarm(self):
        return p_value(0, self._whole_, self.n_calibration_) <= self.false_alarm_rate

    @property
    def _units(self):
        is_plain = len(self.calibration_scores_) == self.n_calibration_
        return "samples" if is_plain else "samples or groups"

    def _place(self, weights):
        return threshold_place(weights, self._whole_, self.n_calibration_, self.false_alarm_rate)

    def _at_threshold(self):
        return self.calibration_scores_[self._place(self._weights_)]

    # -- scoring ----------------------------------------------------------------------------------

    def p_values(self, X: Any, *, on_error: str = "raise") -> np.ndarray:
        """Conformal p-value of each sample: small = more anomalous.

        Parameters
        ----------
        X : as for ``fit``, or any other samples that the detector scores
            With ``method="cv"``, where each detector reads them, only what can be indexed.
        on_error : {"raise", "skip"}, default="raise"
            Where the detector reads images: what one does that cannot be read. ``"skip"`` gives it
            NaN, and names it in a warning.

        Returns
        -------
        p : ndarray of shape (n_samples,)
            In [1 / (n + 1), 1] for n calibration samples or groups. For normal samples,
            P(p <= t) <= t for every t (``method="split"``).
        """
        fitted = self._as_fitted()
        return fitted._p_values_of(fitted._score_all(X, on_error))

    def score_samples(self, X: Any, *, on_error: str = "raise") -> np.ndarray:
        """Normality of each sample, lower = more anomalous, in the detector's unit.

        The detector's own score with ``method="split"``. With ``"cv"``, whose detectors may score
        on different levels, ``decision_function`` plus ``offset_``.
        """
        fitted = self._as_fitted()
        return fitted._scores_of(fitted._score_all(X, on_error))

    def anomaly_score(self, X: Any, *, on_error: str = "raise") -> np.ndarray:
        """Anomaly score of each sample, higher = more anomalous: minus ``score_samples``."""
        return -self.score_samples(X, on_error=on_error)

    def decision_function(self, X: Any, *, on_error: str = "raise") -> np.ndarray:
        """Negative where the p-value is at most ``false_alarm_rate``: called anomalous."""
        fitted = self._as_fitted()
        return fitted._decisions_of(fitted._score_all(X, on_error))

    def predict(self, X: Any, *, on_error: str = "raise") -> np.ndarray:
        """+1 for samples called normal; -1, anomalous, if p-value <= ``false_alarm_rate``.

        A skipped image gets 0; see :meth:`p_values`.
        """
        fitted = self._as_fitted()
        return fitted._labels_of(fitted._score_all(X, on_error))

    def select(self, X: Any, *, fdr: float = 0.1, on_error: str = "raise") -> np.ndarray:
        """Select the anomalous samples of a batch, with few false alarms among those selected.

        Applies the Benjamini-Hochberg procedure to the p-values: an expected fraction of at most
        ``fdr`` of the selected samples is normal (proven by Bates et al. for ``method="split"``
        without groups).

        Parameters
        ----------
        X, on_error : as for ``p_values``
        fdr : float, default=0.1
            False discovery rate, in (0, 1).

        Returns
        -------
        anomalous : ndarray of bool of shape (n_samples,)
            False for a skipped image.
        """
        _check_probability("fdr", fdr)
        p = self.p_values(X, on_error=on_error)
        known = ~np.isnan(p)
        anomalous = np.zeros(len(p), dtype=bool)
        anomalous[known] = false_discovery_control(p[known]) <= fdr
        return anomalous

    @available_if(_has("anomaly_map"))
    def anomaly_map(
        self, X: Any, *, on_error: str = "raise"
    ) -> np.ndarray | list[np.ndarray | None]:
        """The detector's anomaly maps, higher = more anomalous, with ``pixel_level_`` as threshold.

        The mean of the detectors' maps with ``method="cv"``.
        """
        fitted = self._as_fitted()
        X, options = fitted._to_be_read(X), fitted._options("anomaly_map", on_error=on_error)
        return _mean_maps(detector.anomaly_map(X, **options) for detector in fitted.detectors_)

    @available_if(_has("inspect"))
    def inspect(
        self, X: Any, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Inspection:
        """Scores, labels and maps of images, as the detector's own ``inspect`` gives them.

        Parameters
        ----------
        X, maps, on_error
            As for the detector's ``inspect``.

        Returns
        -------
        inspection : Inspection
            Its ``scores`` are those of :meth:`score_samples`, its ``labels`` those of
            :meth:`predict`.
        """
        fitted = self._as_fitted()
        X, options = fitted._to_be_read(X), fitted._options("inspect", maps=maps, on_error=on_error)
        seen = []

        def maps_of_each():
            for detector in fitted.detectors_:
                found = detector.inspect(X, **options)
                seen.append(found._replace(maps=None))
                yield found.maps

        heats = _mean_maps(maps_of_each())
        scores = [found.scores for found in seen]
        return seen[0]._replace(
            scores=fitted._scores_of(scores),
            labels=fitted._labels_of(scores),
            maps=heats,
            p_values=fitted._p_values_of(scores),
            score_levels=fitted.score_levels(),
            map_levels=None if heats is None else fitted.map_levels(),
            member_scores=None,  # members are flagged at another threshold
            flagged_by=None,
        )

    @available_if(_has("iter_inspect"))
    def iter_inspect(
        self, X: Any, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Iterator[InspectedImage]:
        """Score, label and map of one image after the other, as they are read.

        Parameters
        ----------
        X, maps, on_error
            As for the detector's ``iter_inspect``.

        Yields
        ------
        image : InspectedImage
            With the score of :meth:`score_samples` and the label of :meth:`predict`.
        """
        fitted = self._as_fitted()
        X = fitted._to_be_read(X)
        options = fitted._options("iter_inspect", maps=maps, on_error=on_error)
        streams = [detector.iter_inspect(X, **options) for detector in fitted.detectors_]
        for by_each in zip(*streams, strict=True):
            scores = [np.array([image.score]) for image in by_each]
            score, label, p_value = (
                of_one[0].item()
                for of_one in (
                    fitted._scores_of(scores),
                    fitted._labels_of(scores),
                    fitted._p_values_of(scores),
                )
            )
            image = by_each[0]
            heat = image.map
            if heat is not None and len(by_each) > 1:
                heat = _mean_maps(image.map for image in by_each)
            yield InspectedImage(
                score, label, heat, image.path, image.reason, image.size, p_value=p_value
            )

    def score_levels(self) -> ScoreLevels:
        """What is normal and what is not in anomaly scores (higher = more anomalous).

        Returns
        -------
        levels : ScoreLevels
            The median of the calibration samples' scores, and the threshold of ``predict``; NaN if
            they are too few for one.
        """
        fitted = self._as_fitted()
        threshold = -fitted.offset_ if math.isfinite(fitted.offset_) else math.nan
        return ScoreLevels(-float(np.median(fitted.calibration_scores_)), threshold)

    @available_if(_has("anomaly_map"))
    def map_levels(self) -> MapLevels:
        """What is normal and what is not in the values of anomaly maps.

        Returns
        -------
        levels : MapLevels
            ``threshold`` is ``pixel_level_``; ``normal`` the median of the highest values in the
            maps of the calibration images.
        """
        fitted = self._as_fitted()
        normal = min(float(np.median(fitted._map_maxima_)), fitted.pixel_level_)
        return MapLevels(normal, fitted.pixel_level_)

    @property
    def n_features_in_(self) -> int:
        """Number of features of a sample, where the detector has it."""
        return self._of_first_detector("n_features_in_")

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the features, where the detector has them."""
        return self._of_first_detector("feature_names_in_")

    def _of_first_detector(self, name):
        if "detectors_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} has no {name} before it is fitted.")
        return getattr(self.detectors_[0], name)

    def _as_fitted(self):
        """What is learned now; a fit in another thread does not reach it."""
        check_is_fitted(self)
        return twin_of(self)

    def _to_be_read(self, X):
        """``X``, which several detectors read, each anew and all in the same order."""
        return X if len(self.detectors_) == 1 else choosable(X)

    def _options(self, method, *, maps=True, on_error="raise"):
        """Arguments of a detector's method, without defaults, which any detector has."""
        check_choice("on_error", on_error, ("raise", "skip"))
        options = {} if maps is True else {"maps": maps}
        if on_error != "raise":
            options["on_error"] = on_error
        detector = self.detectors_[0]
        unknown = options.keys() - signature(getattr(detector, method)).parameters.keys()
        if unknown:
            raise ValueError(
                f"{unknown.pop()}: the {method} of {type(detector).__name__} does not have this "
                "parameter. Leave it out, or wrap a detector of images of this package."
            )
        return options

    def _score_all(self, X, on_error):
        """Scores (n_samples,) by each detector."""
        X, options = self._to_be_read(X), self._options("score_samples", on_error=on_error)
        scores = [as_scores(detector.score_samples(X, **options)) for detector in self.detectors_]
        if on_error == "raise":
            refuse_nan(scores)
        return scores

    def _p_values_of(self, scores):
        """p-values (n_samples,) from the scores by each detector; NaN where they are."""
        weight = 0
        for own, fold, weights in self._by_detector(scores):
            weight += np.append(0, np.cumsum(weights))[np.searchsorted(fold, own, side="right")]
        p = p_value(weight, self._whole_, self.n_calibration_)
        return np.where(np.isnan(scores).any(axis=0), np.nan, p)

    def _scores_of(self, scores):
        if len(scores) == 1:
            return scores[0]
        return self._margins_of(scores) + self._at_threshold()

    def _decisions_of(self, scores):
        margins = self._margins_of(scores)
        return margins if self._can_alarm else np.where(np.isnan(margins), np.nan, np.inf)

    def _labels_of(self, scores):
        decisions = self._decisions_of(scores)
        return np.where(np.isnan(decisions), 0, np.where(decisions < 0, -1, 1))

    def _margins_of(self, scores):
        """Excess over the calibration score at the threshold, each detector's scores by its own."""
        excess, weights = [], []
        for own, fold, weights_of_fold in self._by_detector(scores):
            n_lowest = self._place(weights_of_fold) + 1  # higher ones cannot be at the threshold
            excess.append(_difference(own[:, None], fold[:n_lowest]))
            weights.append(weights_of_fold[:n_lowest])
        excess, weights = np.concatenate(excess, axis=1), np.concatenate(weights)
        order = np.argsort(-excess, axis=1)
        place = self._place(weights[order])
        return np.take_along_axis(excess, order, axis=1)[np.arange(len(excess)), place]

    def _exported(self):
        """The detector that looks at images, and the ranks that p-values are read from."""
        detector, *others = self.detectors_
        if others:
            raise ValueError(
                f"export: method={self.method!r} has {1 + len(others)} detectors, and a file holds "
                "one. Use method='split'."
            )
        if not isinstance(detector, ExportMixin):
            raise ValueError(
                f"export: expected a detector of images of this package in it, got {detector!r}."
            )
        looking, _ = detector._exported()
        (scores,), (weights,) = self._scores_by_detector_, self._weights_by_detector_
        return looking, Ranks(scores, weights, self._whole_, self.n_calibration_)

    def _by_detector(self, scores):
        """(new scores, calibration scores, their weights) for each detector."""
        return zip(scores, self._scores_by_detector_, self._weights_by_detector_, strict=True)

    def _check_params(self):
        if not (hasattr(self.detector, "fit") and hasattr(self.detector, "score_samples")):
            raise ValueError(
                "detector: expected an outlier detector with fit and score_samples, got "
                f"{self.detector!r}. LocalOutlierFactor needs novelty=True."
            )
        check_choice("method", self.method, ("split", "cv"))
        _check_probability("false_alarm_rate", self.false_alarm_rate)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.detector).input_tags
        return tags


def _check_probability(name, value):
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value < 1):
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value!r}.")


def _same(a, b):
    return a is b or (type(a) is type(b) and isinstance(a, str | Real) and a == b)


def _thawed(frozen):
    """The fitted estimator in a frozen one, as a copy that another fit of it does not reach."""
    check_is_fitted(frozen)
    while isinstance(frozen, FrozenEstimator):
        frozen = frozen.estimator
    return twin_of(frozen)


def _ascending(values, weights):
    order = np.argsort(values, kind="stable")
    return values[order], weights[order]


def _difference(a, b):
    """``a - b``, where equal infinities differ by 0."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def _mean_maps(of_each):
    """Mean over detectors of their maps: arrays, lists of arrays, or None where there is no map."""
    total = next(of_each)
    n_detectors = 1
    for maps in of_each:
        total = _combined(np.add, total, maps)
        n_detectors += 1
    return total if n_detectors == 1 else _combined(np.divide, total, n_detectors)


def _combined(operation, maps, others):
    if isinstance(maps, list):
        others = others if isinstance(others, list) else [others] * len(maps)
        return [_combined(operation, *pair) for pair in zip(maps, others, strict=True)]
    return None if maps is None else operation(maps, others, dtype=maps.dtype)
