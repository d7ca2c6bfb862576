"""Thresholds that can be trusted: conformal calibration of any outlier detector."""

import math
import os
import warnings
from numbers import Integral, Real

import numpy as np
from scipy.sparse import issparse
from scipy.stats import false_discovery_control
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.utils import check_random_state, get_tags, indexable
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..data.images import image_files
from ..io.persistence import SaveMixin

_CHUNK = 32  # images whose maps are held at once


def _has_maps(self):
    return hasattr(self.detector, "anomaly_map")


class ConformalDetector(SaveMixin, MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    r"""Any outlier detector, with p-values and a false-alarm rate that is guaranteed.

    The wrapped detector learns from one part of the normal samples and scores another,
    :math:`s_1, \dots, s_n`. A new sample of score :math:`s` (lower = more anomalous) gets

    .. math:: p = \frac{1 + \#\{i : s_i \le s\}}{n + 1}

    and is called anomalous where :math:`p \le \alpha`. If it is as normal as the calibration
    samples, that is exchangeable with them, this happens with probability at most
    :math:`\alpha`, whatever the detector, the data, and the size of either.

    Parameters
    ----------
    detector : estimator
        Any scikit-learn style outlier detector with ``fit`` and ``score_samples``; it is cloned.
    method : {"split", "cv"}, default="split"
        ``"split"``: one part to learn from, one to calibrate with; the guarantee is exact.
        ``"cv"``: cross-validation, every sample calibrates the detector that has not seen it
        (CV+; leave-one-out is the jackknife+). All data are used twice, for a weaker guarantee;
        see Notes.
    cv : float, int, splitter or None, default=None
        For ``"split"``: share in (0, 1) or count of samples to calibrate with; None is 0.5. For
        ``"cv"``: number of folds, or a scikit-learn splitter whose test folds make up all of the
        data; None is 5.
    alpha : float, default=0.05
        Largest acceptable probability of a false alarm, in (0, 1).
    random_state : None, int, RandomState or Generator, default=None
        Draws which samples calibrate which detector.

    Attributes
    ----------
    detectors_ : list of estimators
        The fitted detector; with ``"cv"`` one for each fold.
    calibration_scores_ : ndarray of shape (n_calibration,)
        ``score_samples`` of samples that the detector had not seen, ascending.
    n_calibration_ : int
    offset_ : float
        Threshold of ``predict`` on ``score_samples``; minus infinity where ``alpha`` is too small
        for this many calibration samples to call anything anomalous.
    pixel_level_ : float
        Where the detector has anomaly maps: with probability at least 1 - ``alpha`` no pixel of a
        normal image's map is above this (``"split"``; approximately so for ``"cv"``).

    Notes
    -----
    The probability is over the draw of calibration samples *and* the new one; given one set of
    calibration samples the rate varies around it (for ``"split"`` as a Beta distribution). It holds
    for new samples that come as the normal ones came, not for another product, camera or season.

    With ``"cv"`` the probability of a false alarm is at most 2 ``alpha`` for leave-one-out, and
    2 ``alpha`` plus a term that falls with the number of samples for fewer folds [1]_. It is
    usually close to ``alpha``.

    Ties count against calling a sample anomalous.

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

    def __init__(self, detector, *, method="split", cv=None, alpha=0.05, random_state=None):
        self.detector = detector
        self.method = method
        self.cv = cv
        self.alpha = alpha
        self.random_state = random_state

    def fit(self, X, y=None):
        """Fit and calibrate on normal samples.

        Parameters
        ----------
        X : array, DataFrame, tensor, list, folder or Dataset of n_samples
            Whatever the detector takes, as long as samples can be chosen from it; not an iterator.
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter makes no sense, or there are too few samples. A fit that fails leaves
            the estimator as it was before.

        Warns
        -----
        UserWarning
            If ``alpha`` is too small for so few calibration samples.
        """
        self._check_params()
        X = _choosable(X)
        detectors, scores, peaks = [], [], []
        for train, held_out in self._splits(len(_indices(X))):
            detector = clone(self.detector).fit(_take(X, train))
            fold_scores, fold_peaks = _look(detector, X, held_out)
            if np.isnan(fold_scores).any():
                raise ValueError("detector: gives NaN as scores of calibration samples.")
            detectors.append(detector)
            scores.append(np.sort(fold_scores))
            peaks.append(fold_peaks)
        pooled = np.sort(np.concatenate(scores))
        rank = _rank(self.alpha, len(pooled))
        if rank == 0:
            warnings.warn(
                f"alpha={self.alpha} needs at least {math.ceil(1 / self.alpha - 1e-9) - 1} "
                f"calibration samples, got {len(pooled)}: predict will call nothing anomalous. "
                "p_values and score_samples are right all the same.",
                UserWarning,
                stacklevel=2,
            )
        learned = {
            "detectors_": detectors,
            "calibration_scores_": pooled,
            "n_calibration_": len(pooled),
            "offset_": float(pooled[rank - 1]) if rank else -math.inf,
            "_scores_by_detector_": scores,
            "_rank_": rank,
        }
        if _has_maps(self):
            largest = np.sort(np.concatenate(peaks))[::-1]
            learned["pixel_level_"] = float(largest[rank - 1]) if rank else math.inf
        vars(self).pop("pixel_level_", None)
        vars(self).update(learned)
        return self

    def p_values(self, X):
        """Conformal p-value of each sample: small = more anomalous.

        Parameters
        ----------
        X : as for ``fit``, or whatever else the detector scores

        Returns
        -------
        p : ndarray of shape (n_samples,)
            In [1 / (n + 1), 1], n the number of calibration samples. For normal samples
            P(p <= t) <= t for every t (``method="split"``).
        """
        by_detector = self._score_all(X)
        counts = [
            np.searchsorted(fold, scores, side="right")
            for fold, scores in zip(self._scores_by_detector_, by_detector, strict=True)
        ]
        return (1 + np.sum(counts, axis=0)) / (self.n_calibration_ + 1)

    def score_samples(self, X):
        """Normality of each sample, lower = more anomalous, in the detector's unit.

        With ``method="split"`` the detector's own score; with ``"cv"`` the common level of its
        folds' scores: ``decision_function`` plus ``offset_``.
        """
        scores = self._score_all(X)
        if len(scores) == 1:
            return scores[0]
        return self._margin(scores) + self.calibration_scores_[max(self._rank_, 1) - 1]

    def decision_function(self, X):
        """Negative where a sample is called anomalous, that is where its p-value <= ``alpha``."""
        margin = self._margin(self._score_all(X))
        return margin if self._rank_ else np.full_like(margin, np.inf)

    def predict(self, X):
        """+1 for samples called normal, -1 for those with p-value <= ``alpha``: anomalous."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def select(self, X, *, fdr=0.1):
        """Which samples of a batch to call anomalous, with few false alarms among those called.

        The procedure of Benjamini and Hochberg on the p-values: of the samples selected, an
        expected share of at most ``fdr`` is normal (proven by Bates et al. for ``method="split"``).

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
    def anomaly_map(self, X):
        """The detector's anomaly maps, higher = more anomalous; ``pixel_level_`` is their level.

        With ``method="cv"`` the mean over the folds' detectors.
        """
        check_is_fitted(self)
        maps = [detector.anomaly_map(X) for detector in self.detectors_]
        if len(maps) == 1:
            return maps[0]
        if isinstance(maps[0], list):
            return [np.mean(of_one_image, axis=0) for of_one_image in zip(*maps, strict=True)]
        return np.mean(maps, axis=0)

    @property
    def n_features_in_(self):
        return self._of_the_first("n_features_in_")

    @property
    def feature_names_in_(self):
        return self._of_the_first("feature_names_in_")

    def _of_the_first(self, name):
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
                f"{self.detector!r}. LocalOutlierFactor has it with novelty=True."
            )
        if self.method not in ("split", "cv"):
            raise ValueError(f"method: expected 'split' or 'cv', got {self.method!r}.")
        _check_probability("alpha", self.alpha)

    def _splits(self, n_samples):
        """Pairs of indices: to learn from, to calibrate with."""
        if n_samples < 2:
            raise ValueError(
                f"X: expected at least 2 samples to learn from and calibrate with, got "
                f"{n_samples} sample{'' if n_samples == 1 else 's'}."
            )
        if self.method == "cv" and hasattr(self.cv, "split"):
            return _checked_splits(self.cv.split(np.zeros((n_samples, 1))), n_samples)
        order = _generator(self.random_state).permutation(n_samples)
        if self.method == "cv":
            return _folds(order, 5 if self.cv is None else self.cv)
        n_held_out = _count(0.5 if self.cv is None else self.cv, n_samples)
        return [(np.sort(order[n_held_out:]), np.sort(order[:n_held_out]))]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.detector).input_tags
        return tags


# -- parameters -----------------------------------------------------------------------------------


def _check_probability(name, value):
    if not (isinstance(value, Real) and not isinstance(value, bool) and 0 < value < 1):
        raise ValueError(f"{name}: expected a number between 0 and 1, got {value!r}.")


def _generator(random_state):
    """With a ``permutation`` method; never NumPy's global one."""
    if random_state is None or isinstance(random_state, np.random.Generator):
        return np.random.default_rng(random_state)
    return check_random_state(random_state)


def _rank(alpha, n_calibration):
    """The largest k with k / (n + 1) <= alpha, as floats compare."""
    rank = math.floor(alpha * (n_calibration + 1)) + 1
    while rank / (n_calibration + 1) > alpha:
        rank -= 1
    return rank


def _count(cv, n_samples):
    """How many of ``n_samples`` to hold out."""
    is_int = isinstance(cv, Integral) and not isinstance(cv, bool)
    if is_int and 1 <= cv < n_samples:
        return int(cv)
    if isinstance(cv, Real) and not isinstance(cv, Integral) and 0 < cv < 1:
        return min(max(round(cv * n_samples), 1), n_samples - 1)
    raise ValueError(
        f"cv: expected for method='split' a share in (0, 1) or a count from 1 to {n_samples - 1} "
        f"(one less than the samples), got {cv!r}."
    )


def _folds(order, n_folds):
    if not (isinstance(n_folds, Integral) and not isinstance(n_folds, bool) and n_folds >= 2):
        raise ValueError(
            f"cv: expected for method='cv' a number of folds of at least 2 or a splitter, got "
            f"{n_folds!r}."
        )
    folds = np.array_split(order, min(n_folds, len(order)))
    return [(np.sort(np.setdiff1d(order, fold)), np.sort(fold)) for fold in folds]


def _checked_splits(splits, n_samples):
    splits = list(splits)
    held_out = np.sort(np.concatenate([test for _, test in splits]))
    if not np.array_equal(held_out, np.arange(n_samples)):
        raise ValueError("cv: expected a splitter that holds every sample out exactly once.")
    if any(np.intersect1d(train, test).size for train, test in splits):
        raise ValueError("cv: the splitter trains on samples that it holds out.")
    return splits


# -- samples --------------------------------------------------------------------------------------


def _choosable(X):
    """``X`` in a form that samples can be chosen from."""
    if isinstance(X, str | os.PathLike):
        return image_files(X)
    if hasattr(X, "__array__") and not hasattr(X, "__getitem__"):
        X = np.asarray(X)
    counted = hasattr(X, "__len__") or hasattr(X, "shape")
    if not counted or not (hasattr(X, "__getitem__") or issparse(X)):
        raise ValueError(
            f"X: samples must be chosen from it, which a {type(X).__name__} does not allow. "
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
    """Scores of some samples and, where the detector has maps, each map's highest value."""
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
