"""Logistic regression of labels, anchored at an anomaly score that needs none."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit

from ..runtime import check_tensor, exact_dtype

_LEAST = 1e-3  # of the usual anomaly score: below it all scores are the same
_N_FOLDS = 20
_TENSORS = "center", "scale", "weights"


@dataclass(frozen=True, eq=False)
class AnchoredLogistic:
    """Log-odds of a defect, from an anomaly score and a vector of features of each image.

    The anomaly score enters as its logarithm, the features one by one, all of them standardized by
    normal images. Weights are shrunk towards 1 for the anomaly score and 0 for every feature: the
    fewer labels there are, the more the order is that of anomaly scores.

    Attributes
    ----------
    center, scale, weights : torch.Tensor of shape (1 + D,)
        Mean and standard deviation, among normal images, of the logarithm of the anomaly score and
        of the features, and their weights; float64, or float32 where a device has no other.
    intercept : float
    least : float
        Anomaly scores below it count as it does.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> features, scores = rng.normal(size=(40, 3)), rng.uniform(1, 2, 40)
    >>> is_bad = np.arange(40) >= 30
    >>> features[is_bad, 0] += 3
    >>> head = AnchoredLogistic.fit(scores, features, is_bad, C=1.0)
    >>> odds = head.log_odds(torch.from_numpy(scores), torch.from_numpy(features))
    >>> bool(odds[:30].median() < 0 < odds[30:].median())
    True
    """

    center: torch.Tensor
    scale: torch.Tensor
    weights: torch.Tensor
    intercept: float
    least: float

    def __post_init__(self):
        for name in _TENSORS:
            dtypes = torch.float64, torch.float32
            check_tensor(name, getattr(self, name), (len(self.center),), dtypes)
        numbers = self.intercept, self.least
        are_numbers = all(isinstance(x, float) and math.isfinite(x) for x in numbers)
        if not (are_numbers and self.least > 0 and len(self.center) and (self.scale > 0).all()):
            raise ValueError("expected positive scales, and finite numbers.")

    @classmethod
    def fit(
        cls,
        anomaly_scores: np.ndarray,
        features: np.ndarray,
        is_bad: np.ndarray,
        C: float,
        start: Self | None = None,
    ) -> Self:
        """Fit on images with and without defects, of which both there must be some.

        Parameters
        ----------
        anomaly_scores : ndarray of shape (n,)
            Not negative; those of normal images out of sample.
        features : ndarray of shape (n, D)
        is_bad : ndarray of bool of shape (n,)
        C : float
            Inverse strength of the shrinkage, as in scikit-learn's ``LogisticRegression``. The less
            numerous class counts as many as it has images, and the other one as much.
        start : AnchoredLogistic or None, default=None
            One of nearly the same images, from which this one is found sooner.
        """
        usual = float(np.median(anomaly_scores[~is_bad]))
        least = max(_LEAST * usual, float(np.finfo(np.float32).tiny))
        table = np.column_stack([np.log(np.maximum(anomaly_scores, least)), features])
        center, scale = table[~is_bad].mean(0), table[~is_bad].std(0)
        # what is the same in all normal images is measured in units of what differs most
        scale = np.where(scale > 1e-6 * scale.max(), scale, float(scale.max()) or 1.0)
        first = None if start is None else np.append(start.intercept, start.weights.cpu().numpy())
        intercept, weights = _shrunk_regression((table - center) / scale, is_bad, C, first)
        tensors = (
            torch.from_numpy(values.astype(np.float64)) for values in (center, scale, weights)
        )
        return cls(*tensors, intercept, least)

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        dtype = exact_dtype(torch.device(device))
        moved = {name: getattr(self, name).to(device, dtype) for name in _TENSORS}
        return replace(self, **moved)

    def log_odds(self, anomaly_scores: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """Log-odds (B,) of a defect, where both classes are as frequent.

        Parameters
        ----------
        anomaly_scores : torch.Tensor of shape (B,)
        features : torch.Tensor of shape (B, D)
        """
        anchor = anomaly_scores.to(self.center).clamp(min=self.least).log()
        table = torch.cat([anchor[:, None], features.to(self.center)], 1)
        return ((table - self.center) / self.scale * self.weights).sum(1) + self.intercept


def _shrunk_regression(table, is_bad, C, first=None):
    """Intercept, and weights (D,) shrunk towards (1, 0, ..., 0), of both classes as numerous.

    Sought from the first ones (1 + D,) on, or from where they are shrunk to.
    """
    n_bad = int(is_bad.sum())
    n_each = min(n_bad, len(is_bad) - n_bad)
    counts = np.where(is_bad, n_each / n_bad, n_each / (len(is_bad) - n_bad))
    anchor, features, basis = table[:, 0], table[:, 1:], None
    if features.shape[1] > len(features):  # weights are sums of the rows: solved for in their span
        basis = np.linalg.svd(features, full_matrices=False)[2]
        features = features @ basis.T
    table = np.column_stack([np.ones(len(table)), anchor, features])
    aim = np.zeros(table.shape[1])
    aim[1] = 1.0
    pull = np.full(table.shape[1], 1 / C)
    pull[0] = 0.0  # the intercept is free

    def loss(weights):
        odds, moved = table @ weights, weights - aim
        misfit = counts @ (np.logaddexp(0, odds) - is_bad * odds) + pull @ moved**2 / 2
        return misfit, table.T @ (counts * (expit(odds) - is_bad)) + pull * moved

    def curvature(weights):
        p = expit(table @ weights)
        return (table.T * (counts * p * (1 - p))) @ table + np.diag(pull)

    if first is None:
        first = aim
    elif basis is not None:
        first = np.concatenate([first[:2], basis @ first[2:]])
    found = minimize(loss, first, jac=True, hess=curvature, method="trust-exact")
    intercept, slope, weights = float(found.x[0]), found.x[1:2], found.x[2:]
    return intercept, np.concatenate([slope, weights if basis is None else basis.T @ weights])


def held_out_log_odds(
    anomaly_scores: np.ndarray,
    features: np.ndarray,
    is_bad: np.ndarray,
    distinct: np.ndarray,
    C: float,
) -> np.ndarray:
    """Log-odds (n,) of each image by labels of others, of which copies of it are none.

    The normal images are cut into 20 folds, each judged by the labels of the other images, and
    likewise those with defects. NaN for the only image with a defect, copies of it, or the only
    normal one.

    Parameters
    ----------
    anomaly_scores, features, is_bad, C
        As for :meth:`AnchoredLogistic.fit`.
    distinct : ndarray of int of shape (n,)
        The same for copies.
    """
    found = np.full(len(is_bad), np.nan)
    for aside in held_out_folds(is_bad, distinct):
        rest = np.setdiff1d(np.arange(len(is_bad)), aside)
        head = AnchoredLogistic.fit(anomaly_scores[rest], features[rest], is_bad[rest], C)
        given = torch.from_numpy(anomaly_scores[aside]), torch.from_numpy(features[aside])
        found[aside] = head.log_odds(*given).numpy()
    return found


def held_out_folds(is_bad: np.ndarray, distinct: np.ndarray) -> Iterator[np.ndarray]:
    """Places (k,) to leave out together: up to twenty times normal ones, and likewise defects.

    Copies are left out together. What there is only one of, copies aside, is never left out.

    Parameters
    ----------
    is_bad : ndarray of shape (n,), bool
    distinct : ndarray of int of shape (n,)
        The same for copies.

    Examples
    --------
    >>> is_bad = np.array([False, True, False, False])
    >>> [fold.tolist() for fold in held_out_folds(is_bad, np.array([7, 8, 9, 7]))]
    [[0, 3], [2]]
    """
    for of_class in (~is_bad, is_bad):
        _, which = np.unique(distinct[of_class], return_inverse=True)
        n_folds = min(_N_FOLDS, int(which.max(initial=-1)) + 1)
        for fold in range(n_folds if n_folds > 1 else 0):
            yield np.flatnonzero(of_class)[which % n_folds == fold]
