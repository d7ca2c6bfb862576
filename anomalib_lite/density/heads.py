"""One-class heads: any scikit-learn outlier detector or density over rows of deep features."""

from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import torch
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.model_selection import KFold
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.svm import OneClassSVM
from torch import nn

from ..runtime import SKLEARN, seed_estimator
from ..workers import borrowed_team
from .gaussian import GaussianDensity

NAMED = ("gaussian", "kde", "knn", "ocsvm")


def check_head(classifier: object) -> None:
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


def fit_head(classifier: str | BaseEstimator, rows: np.ndarray, seed: int) -> BaseEstimator:
    """Fit a head on rows of normal images.

    Parameters
    ----------
    classifier : str or estimator
        ``"gaussian"`` is :class:`~anomalib_lite.GaussianDensity`; ``"ocsvm"`` and ``"kde"`` are
        scikit-learn's, with the Gaussian kernel of the two-stage papers: exp(-gamma r²),
        gamma = 10 / (n_features * variance of the values); ``"knn"`` is the mean distance to the 5
        nearest rows. An estimator is cloned, never changed.
    rows : ndarray of shape (n, n_features)
    seed : int
        For a classifier whose ``random_state`` is None, or that of a step in it.

    Returns
    -------
    head : estimator
    """
    head = _named(classifier, rows) if isinstance(classifier, str) else clone(classifier)
    seed_estimator(head, seed)
    with _turn(head):
        return head.fit(rows)


def _named(name, rows):
    gamma = 10 / max(rows.shape[1] * float(rows.var()), 1e-30)
    if name == "gaussian":
        return GaussianDensity(device="cpu")
    if name == "kde":
        # far from all rows, what a tree of several leaves finds is lost to rounding
        return KernelDensity(bandwidth=(2 * gamma) ** -0.5, leaf_size=max(40, len(rows)))
    if name == "ocsvm":
        return OneClassSVM(gamma=gamma)
    return NearestNeighbors(n_neighbors=min(5, len(rows)))


def head_scores(head: BaseEstimator, rows: np.ndarray) -> np.ndarray:
    """Anomaly scores (n,) of rows (n, n_features), higher = more anomalous.

    Minus ``score_samples``, or the mean distance to the ``n_neighbors`` nearest rows.
    """
    with _turn(head):
        if hasattr(head, "score_samples"):
            return -np.asarray(head.score_samples(rows), dtype=np.float64)
        distance, _ = head.kneighbors(rows)
        return distance.mean(1)


def row_scores(head: BaseEstimator | nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """Anomaly scores (n,), float64, of rows (n, n_features) in a tensor, on the CPU.

    A portable head, which is a module, is called where its rows are.
    """
    if isinstance(head, nn.Module):
        return head(rows)
    return torch.from_numpy(head_scores(head, rows.cpu().numpy()))


def _turn(head):
    """Context in which a head is called: of scikit-learn's, one at a time."""
    return nullcontext() if isinstance(head, GaussianDensity) else SKLEARN


def folds(
    groups: np.ndarray, seed: int, n_folds: int = 20
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows to fit on, rows held out) for each of ``n_folds`` folds, or one a group.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        0 to n_groups - 1: rows of a group, copies of an image, are in one fold.
    seed : int
    n_folds : int, default=20

    Examples
    --------
    >>> [held_out.tolist() for _, held_out in folds(np.array([0, 1, 2, 0]), 0, n_folds=3)]
    [[2], [1], [0, 3]]
    """
    n_groups = groups.max() + 1
    if n_groups < 2:
        return  # all rows are copies of one
    splits = KFold(min(n_folds, n_groups), shuffle=True, random_state=seed)
    for _, held_out in splits.split(np.empty(n_groups)):
        is_held_out = np.isin(groups, held_out)
        yield np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def held_out_scores(
    classifier: str | BaseEstimator,
    rows: np.ndarray,
    groups: np.ndarray,
    seed: int,
    n_folds: int = 20,
) -> np.ndarray:
    """Anomaly scores (n,) of 3 rows or more, each by a head fitted without the row's fold.

    For ``groups`` see :func:`folds`. NaN where the other rows are too few for the head.
    """

    def of_fold(fold):
        fit, held_out = fold
        try:
            head = fit_head(classifier, rows[fit], seed)
        except ValueError:
            return np.nan
        return head_scores(head, rows[held_out])

    scores = np.full(len(rows), np.nan)
    pairs = list(folds(groups, seed, n_folds))
    with borrowed_team() as workers:
        for (_, held_out), found in zip(pairs, workers.map(of_fold, pairs), strict=True):
            scores[held_out] = found
    return scores
