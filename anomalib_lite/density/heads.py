"""One-class heads: any scikit-learn outlier detector or density over rows of deep features."""

import numpy as np
from sklearn.base import OutlierMixin, clone
from sklearn.model_selection import KFold
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM

from .gaussian import GaussianDensity

NAMED = ("gaussian", "kde", "knn", "ocsvm")
_N_FOLDS = 5


def check_head(classifier):
    """Raise ValueError unless ``classifier`` can be a head; see :func:`fit_head`."""
    if isinstance(classifier, str):
        known = classifier in NAMED
    else:
        neighbors = hasattr(classifier, "kneighbors") and not isinstance(classifier, OutlierMixin)
        scores = hasattr(classifier, "score_samples") or neighbors
        known = not isinstance(classifier, type) and hasattr(classifier, "fit") and scores
    if not known:
        raise ValueError(
            f"classifier: expected one of {', '.join(map(repr, NAMED))}, a scikit-learn outlier "
            "detector or density with score_samples (LocalOutlierFactor has it with novelty=True), "
            f"or NearestNeighbors, got {classifier!r}."
        )


def fit_head(classifier, rows, seed):
    """A head fitted on rows of normal images.

    Parameters
    ----------
    classifier : str or estimator
        ``"gaussian"`` is :class:`~anomalib_lite.GaussianDensity`; ``"ocsvm"`` and ``"kde"`` are
        scikit-learn's, with the Gaussian kernel exp(-gamma r²), gamma = 10 / (n_features *
        variance of the values), of the two-stage papers; ``"knn"`` is the mean distance to the 5
        nearest rows. An estimator is cloned, never changed.
    rows : ndarray of shape (n, n_features)
    seed : int
        For a classifier whose ``random_state`` is None.

    Returns
    -------
    head : estimator
    """
    head = _named(classifier, rows) if isinstance(classifier, str) else clone(classifier)
    if head.get_params().get("random_state", seed) is None:
        head.set_params(random_state=seed)
    return head.fit(rows)


def _named(name, rows):
    gamma = 10 / max(rows.shape[1] * float(rows.var()), 1e-30)
    if name == "gaussian":
        return GaussianDensity(device="cpu")
    if name == "kde":
        return KernelDensity(bandwidth=(2 * gamma) ** -0.5)
    if name == "ocsvm":
        return OneClassSVM(gamma=gamma)
    return NearestNeighbors(n_neighbors=min(5, len(rows)))


def head_scores(head, rows):
    """Anomaly scores (n,) of rows (n, n_features), higher = more anomalous.

    Minus ``score_samples``, or the mean distance to the ``n_neighbors`` nearest rows.
    """
    if hasattr(head, "score_samples"):
        return -np.asarray(head.score_samples(rows), dtype=np.float64)
    distance, _ = head.kneighbors(rows)
    return distance.mean(1)


def folds(n, seed, n_folds=_N_FOLDS):
    """(those to fit on, those held out) of n rows, ``n_folds`` times; of fewer rows, n times."""
    return KFold(min(n_folds, n), shuffle=True, random_state=seed).split(np.empty(n))


def held_out_scores(classifier, rows, seed):
    """Anomaly scores (n,) of 3 rows or more by heads fitted on the other folds."""
    scores = np.empty(len(rows))
    for fit, held_out in folds(len(rows), seed):
        scores[held_out] = head_scores(fit_head(classifier, rows[fit], seed), rows[held_out])
    return scores
