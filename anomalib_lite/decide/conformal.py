"""Conformal calibration of outlier detectors: p-values and guaranteed false-alarm rates."""

import math
import os
import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.model_selection import BaseCrossValidator, KFold
from sklearn.utils import check_random_state, get_tags, indexable
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..annotations import RandomState
from ..data.images import image_files
from ..io.persistence import SaveMixin
from ..runtime import aside
from ..validation import check_choice

_CHUNK = 32  # images whose maps are held at once


def _has_maps(self):
    return hasattr(self.detector, "anomaly_map")


class ConformalDetector(SaveMixin, MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    r"""Wraps an outlier detector: p-values and a guaranteed false-alarm rate.

    The wrapped detector is fitted on one part of the normal samples and scores the other part,
    :math:`s_1, \dots, s_n`. A new sample with score :math:`s` (lower = more anomalous) gets the
    p-value

    .. math:: p = \frac{1 + \#\{i : s_i \le s\}}{n + 1}

    and is called anomalous if :math:`p \le \alpha`, the ``false_alarm_rate``. If the new sample is
    normal, that is, exchangeable with the calibration samples, this happens with probability at
    most :math:`\alpha`, for any detector, any data and any number of samples.

    Parameters
    ----------
    detector : estimator
        An outlier detector with ``fit`` and ``score_samples``; it is cloned, never changed.
    method : {"split", "cv"}, default="split"
        ``"split"`` fits on one part of the samples and calibrates on the other; the guarantee is
        exact. ``"cv"`` is cross-validation: each sample calibrates the detector fitted without it
        (CV+; leave-one-out is the jackknife+). It uses every sample for both, with a weaker
        guarantee; see Notes.
    cv : float, int, splitter or None, default=None
        For ``"split"``: fraction, in (0, 1), or number of the samples to calibrate on; None is 0.5.
        For ``"cv"``: number of folds, or a scikit-learn splitter whose test folds partition the
        samples; None is 5.
    false_alarm_rate : float, default=0.05
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell. Here it bounds the probability of a false alarm, in (0, 1), for samples of
        any kind. The detectors' default, 0.01, would need at least 99 calibration samples to call
        anything anomalous; 0.05 needs 19.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the samples to calibrate on and the folds.

    Attributes
    ----------
    detectors_ : list of estimators
        The fitted detector; one for each fold with ``"cv"``.
    calibration_scores_ : ndarray of shape (n_calibration,)
        Out-of-sample ``score_samples`` of the calibration samples, ascending.
    n_calibration_ : int
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

    Ties make a sample less anomalous.

    References
    ----------
    .. [1] R. Barber, E. Candès, A. Ramdas, R. Tibshirani, "Predictive inference with the
       jackknife+", Annals of Statistics 49 (2021).
    .. [2] S. Bates, E. Candès, L. Lei, Y. Romano, M. Sesia, "Testing for outliers with conformal
       p-values", Annals of Statistics 51 (2023).

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
    """

    def __init__(
        self,
        detector: BaseEstimator,
        *,
        method: str = "split",
        cv: float | int | BaseCrossValidator | None = None,
        false_alarm_rate: float = 0.05,
        random_state: RandomState = None,
    ):
        self.detector = detector
        self.method = method
        self.cv = cv
        self.false_alarm_rate = false_alarm_rate
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit and calibrate on normal samples.

        Parameters
        ----------
        X : array, DataFrame, tensor, list, folder or Dataset of n_samples
            In any form the detector accepts whose samples can be indexed; not an iterator.
        y : ignored

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
            If there are too few calibration samples for the ``false_alarm_rate``.
        """
        self._check_params()
        X = _choosable(X)
        detectors, scores, peaks = [], [], []
        for train, held_out in self._splits(len(_indices(X))):
            detector = clone(self.detector).fit(_take(X, train))
            fold_scores, fold_peaks = _look(detector, X, held_out)
            if np.isnan(fold_scores).any():
                raise ValueError("detector: expected numbers as scores, got NaN for some samples.")
            detectors.append(detector)
            scores.append(np.sort(fold_scores))
            peaks.append(fold_peaks)
        with aside(self) as learner:
            learner.detectors_ = detectors
            learner.calibration_scores_ = np.sort(np.concatenate(scores))
            learner.n_calibration_ = len(learner.calibration_scores_)
            learner._scores_by_detector_ = scores
            learner._map_maxima_ = np.sort(np.concatenate(peaks)) if _has_maps(self) else None
            learner._set_threshold()
        return self

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name.

        After fit, ``false_alarm_rate`` takes effect at once and all others at the next fit.

        Parameters
        ----------
        **params
            New values; ``detector__name`` reaches a parameter of the detector.

        Returns
        -------
        self : object
        """
        with aside(self) as learner:
            super(ConformalDetector, learner).set_params(**params)
            if "false_alarm_rate" in params and "detectors_" in vars(self):
                learner._check_params()
                learner._set_threshold()
        return self

    def _set_threshold(self):
        """Set rank, offset and pixel level by ``false_alarm_rate``."""
        rank = _rank(self.false_alarm_rate, self.n_calibration_)
        if rank == 0:
            warnings.warn(
                f"false_alarm_rate={self.false_alarm_rate} needs at least "
                f"{math.ceil(1 / self.false_alarm_rate - 1e-9) - 1} calibration samples, got "
                f"{self.n_calibration_}: predict will call nothing anomalous. p_values and "
                "score_samples are not affected.",
                UserWarning,
                stacklevel=3,
            )
        self._rank_ = rank
        self.offset_ = float(self.calibration_scores_[rank - 1]) if rank else -math.inf
        vars(self).pop("pixel_level_", None)
        if self._map_maxima_ is not None:
            self.pixel_level_ = float(self._map_maxima_[-rank]) if rank else math.inf

    def p_values(self, X: Any) -> np.ndarray:
        """Conformal p-value of each sample: small = more anomalous.

        Parameters
        ----------
        X : as for ``fit``, or any other samples that the detector scores

        Returns
        -------
        p : ndarray of shape (n_samples,)
            In [1 / (n + 1), 1] for n calibration samples. For normal samples, P(p <= t) <= t for
            every t (``method="split"``).
        """
        by_detector = self._score_all(X)
        counts = [
            np.searchsorted(fold, scores, side="right")
            for fold, scores in zip(self._scores_by_detector_, by_detector, strict=True)
        ]
        return (1 + np.sum(counts, axis=0)) / (self.n_calibration_ + 1)

    def score_samples(self, X: Any) -> np.ndarray:
        """Normality of each sample, lower = more anomalous, in the detector's unit.

        The detector's own score with ``method="split"``. With ``"cv"``, whose detectors may score
        on different levels, ``decision_function`` plus ``offset_``.
        """
        scores = self._score_all(X)
        if len(scores) == 1:
            return scores[0]
        return self._margin(scores) + self.calibration_scores_[max(self._rank_, 1) - 1]

    def decision_function(self, X: Any) -> np.ndarray:
        """Negative where the p-value is at most ``false_alarm_rate``: called anomalous."""
        margin = self._margin(self._score_all(X))
        return margin if self._rank_ else np.full_like(margin, np.inf)

    def predict(self, X: Any) -> np.ndarray:
        """+1 for samples called normal; -1, anomalous, if p-value <= ``false_alarm_rate``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def select(self, X: Any, *, fdr: float = 0.1) -> np.ndarray:
        """Select the anomalous samples of a batch, with few false alarms among those selected.

        Applies the Benjamini-Hochberg procedure to the p-values: an expected fraction of at most
        ``fdr`` of the selected samples is normal (proven by Bates et al. for ``method="split"``).

        Parameters
        ----------
        X : as for ``p_values``
        fdr : float, default=0.1
            False discovery rate, in (0, 1).

        Returns
        -------
        anomalous : ndarray of bool of shape (n_samples,)
        """
        _check_probability("fdr", fdr)
        return false_discovery_control(self.p_values(X)) <= fdr

    @available_if(_has_maps)
    def anomaly_map(self, X: Any) -> np.ndarray | list[np.ndarray]:
        """The detector's anomaly maps, higher = more anomalous, with ``pixel_level_`` as threshold.

        The mean of the detectors' maps with ``method="cv"``.
        """
        check_is_fitted(self)
        maps = [detector.anomaly_map(X) for detector in self.detectors_]
        if len(maps) == 1:
            return maps[0]
        if isinstance(maps[0], list):
            return [np.mean(of_one_image, axis=0) for of_one_image in zip(*maps, strict=True)]
        return np.mean(maps, axis=0)

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

    def _score_all(self, X):
        """Scores (n_samples,) by each detector."""
        check_is_fitted(self)
        return [detector.score_samples(X) for detector in self.detectors_]

    def _margin(self, scores):
        """The rank-th largest excess over the calibration scores, each over its own detector's."""
        rank = max(self._rank_, 1)
        excess = [
            own[:, None] - fold[:rank]
            for own, fold in zip(scores, self._scores_by_detector_, strict=True)
        ]
        excess = np.concatenate(excess, axis=1)
        return np.partition(excess, -rank, axis=1)[:, -rank]

    def _check_params(self):
        if not (hasattr(self.detector, "fit") and hasattr(self.detector, "score_samples")):
            raise ValueError(
                "detector: expected an outlier detector with fit and score_samples, got "
                f"{self.detector!r}. LocalOutlierFactor needs novelty=True."
            )
        check_choice("method", self.method, ("split", "cv"))
        _check_probability("false_alarm_rate", self.false_alarm_rate)

    def _splits(self, n_samples):
        """Pairs of indices: samples to fit on, samples to calibrate on."""
        if n_samples < 2:
            raise ValueError(
                f"X: expected at least 2 samples, to fit and to calibrate on, got {n_samples} "
                f"sample{'' if n_samples == 1 else 's'}."
            )
        if self.method == "cv" and hasattr(self.cv, "split"):
            return _checked_splits(self.cv.split(np.zeros((n_samples, 1))), n_samples)
        order = _generator(self.random_state).permutation(n_samples)
        if self.method == "cv":
            splits = KFold(_n_folds(self.cv, n_samples)).split(order)
        else:
            n_held_out = _n_held_out(self.cv, n_samples)
            splits = [(range(n_held_out, n_samples), range(n_held_out))]
        return [(np.sort(order[train]), np.sort(order[held_out])) for train, held_out in splits]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.detector).input_tags
        return tags


# -- parameters -----------------------------------------------------------------------------------


def _check_probability(name, value):
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value < 1):
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value!r}.")


def _generator(random_state):
    """A NumPy generator with a ``permutation`` method, never the global one."""
    if random_state is None or isinstance(random_state, np.random.Generator):
        return np.random.default_rng(random_state)
    return check_random_state(random_state)


def _rank(false_alarm_rate, n_calibration):
    """The largest k with k / (n + 1) <= false_alarm_rate in floating point, as p-values compare."""
    rank = math.floor(false_alarm_rate * (n_calibration + 1)) + 1
    while rank / (n_calibration + 1) > false_alarm_rate:
        rank -= 1
    return rank


def _n_held_out(cv, n_samples):
    """Number of samples to calibrate on, by the parameter ``cv`` of ``method="split"``."""
    cv = 0.5 if cv is None else cv
    is_int = isinstance(cv, Integral) and not isinstance(cv, bool)
    if is_int and 1 <= cv < n_samples:
        return int(cv)
    if isinstance(cv, Real) and not isinstance(cv, Integral) and 0 < cv < 1:
        return min(max(round(cv * n_samples), 1), n_samples - 1)
    raise ValueError(
        f"cv: expected for method='split' a fraction in (0, 1) or a number from 1 to "
        f"{n_samples - 1} (one less than the samples), got {cv!r}."
    )


def _n_folds(cv, n_samples):
    """Number of folds, by the parameter ``cv`` of ``method="cv"``; at most the samples."""
    cv = 5 if cv is None else cv
    if not (isinstance(cv, Integral) and not isinstance(cv, bool) and cv >= 2):
        raise ValueError(
            "cv: expected for method='cv' a number of folds of at least 2 or a splitter, got "
            f"{cv!r}."
        )
    return min(int(cv), n_samples)


def _checked_splits(splits, n_samples):
    splits = list(splits)
    held_out = np.sort(np.concatenate([test for _, test in splits]))
    if not np.array_equal(held_out, np.arange(n_samples)):
        raise ValueError(
            "cv: expected a splitter that holds out each sample exactly once, such as KFold, got "
            "test folds that do not."
        )
    if any(np.intersect1d(train, test).size for train, test in splits):
        raise ValueError(
            "cv: expected a splitter with disjoint folds, got one that trains on samples that it "
            "holds out."
        )
    return splits


# -- samples --------------------------------------------------------------------------------------


def _choosable(X):
    """``X`` in a form whose samples can be indexed."""
    if isinstance(X, str | os.PathLike):
        return image_files(X)
    if hasattr(X, "__array__") and not hasattr(X, "__getitem__"):
        X = np.asarray(X)
    counted = hasattr(X, "__len__") or hasattr(X, "shape")
    if not counted or not (hasattr(X, "__getitem__") or issparse(X)):
        raise ValueError(
            f"X: expected samples that can be indexed, got {type(X).__name__}. "
            "Pass a list or an array."
        )
    return indexable(X)[0]


def _indices(X):
    return range(X.shape[0] if hasattr(X, "shape") else len(X))


def _take(X, indices):
    if hasattr(X, "iloc"):
        return X.iloc[indices]
    if hasattr(X, "shape"):
        return X[indices]
    if isinstance(X, list | tuple):
        return [X[i] for i in indices]
    from torch.utils.data import Subset

    return Subset(X, indices.tolist())


def _look(detector, X, indices):
    """Scores of samples and, if the detector has maps, the maximum of each map."""
    if not hasattr(detector, "anomaly_map"):
        return detector.score_samples(_take(X, indices)), None
    scores, peaks = [], []
    for chunk in np.split(indices, range(_CHUNK, len(indices), _CHUNK)):
        images = _take(X, chunk)
        if hasattr(detector, "inspect"):
            seen = detector.inspect(images)
            chunk_scores, maps = seen.scores, seen.maps
        else:
            chunk_scores, maps = detector.score_samples(images), detector.anomaly_map(images)
        scores.append(chunk_scores)
        peaks.extend(heat.max() for heat in maps)
    return np.concatenate(scores), np.array(peaks)
