"""Which samples a detector is fitted on, and which it is calibrated on."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.model_selection import KFold
from sklearn.utils import check_random_state

from ..annotations import RandomState

Splits = list[tuple[np.ndarray, np.ndarray]]
"""Pairs of indices: samples to fit on, samples to calibrate on."""


def unit_of_each(groups: Any, n_samples: int) -> np.ndarray:
    """Number, from 0, of the group that each sample belongs to; without groups each its own.

    Parameters
    ----------
    groups : array-like of shape (n_samples,) or None
        Any labels that can be compared, such as numbers or texts.
    n_samples : int

    Returns
    -------
    units : ndarray of int of shape (n_samples,)

    Examples
    --------
    >>> unit_of_each(["b", "a", "b"], 3)
    array([0, 1, 0])
    """
    if groups is None:
        return np.arange(n_samples)
    expected = f"groups: expected a label for each of the {n_samples} samples, got"
    try:
        labels = groups.tolist() if hasattr(groups, "tolist") else list(groups)
        numbers: dict[Any, int] = {}
        units = np.array([numbers.setdefault(label, len(numbers)) for label in labels], int)
    except TypeError as error:
        raise ValueError(f"{expected} a {type(groups).__name__} that holds none.") from error
    if isinstance(groups, str) or len(units) != n_samples:
        raise ValueError(f"{expected} {len(units)}.")
    missing = [i for i, label in enumerate(labels) if _is_missing(label)]
    if missing:
        raise ValueError(f"{expected} {labels[missing[0]]!r} for sample {missing[0]}.")
    return units


def _is_missing(label):
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas.NA is neither equal nor unequal
        return True


def make_splits(
    X: Any,
    y: Any,
    groups: Any,
    units: np.ndarray,
    *,
    method: str,
    cv: Any,
    random_state: RandomState,
) -> Splits:
    """Splits by the parameters of a ConformalDetector, with each unit on one side.

    Parameters
    ----------
    X, y, groups
        Samples, labels and groups, as a splitter takes them.
    units : ndarray of int of shape (n_samples,)
        The unit that each sample belongs to.
    method, cv, random_state
        Parameters of the detector.
    """
    n_units = int(units.max(initial=-1)) + 1
    kind = "sample" if groups is None else "group"
    if n_units < 2:
        raise ValueError(
            f"X: expected at least 2 {kind}s, to fit and to calibrate on, got {n_units} {kind}"
            f"{'' if n_units == 1 else 's'}. To calibrate a fitted detector, pass "
            "FrozenEstimator(detector)."
        )
    if not isinstance(cv, str | bytes) and (hasattr(cv, "split") or isinstance(cv, Iterable)):
        splits = _splits_of_user(cv, X, y, groups, units)
        return splits[:1] if method == "split" else splits
    order = _generator(random_state).permutation(n_units)
    if method == "cv":
        folds = [order[test] for _, test in KFold(_n_folds(cv, n_units)).split(order)]
    else:
        folds = [order[: _n_held_out(cv, n_units, kind)]]
    held_out = [np.isin(units, fold) for fold in folds]
    return [(np.flatnonzero(~held), np.flatnonzero(held)) for held in held_out]


def _splits_of_user(cv, X, y, groups, units):
    """Checked splits of a splitter, or of an iterable of (train, held out)."""
    try:
        pairs = list(cv.split(X, y, groups) if hasattr(cv, "split") else cv)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"cv: {cv!r} cannot split these samples: {error} Where it needs labels or groups, pass "
            "fit(X, y) or fit(X, groups=groups)."
        ) from error
    if not pairs:
        raise ValueError(
            f"cv: expected at least one split, got none from {cv!r}. A generator is used up by one "
            "fit: pass a list."
        )
    return [_checked_pair(pair, units) for pair in pairs]


def _checked_pair(pair, units):
    try:
        train, held_out = pair
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"cv: expected pairs (train, held out) of indices, got {pair!r}."
        ) from error
    train, held_out = (_checked_indices(part, len(units)) for part in (train, held_out))
    held_out = np.unique(held_out)
    if np.intersect1d(train, held_out).size:
        raise ValueError(
            "cv: expected a splitter with disjoint folds, got one that trains on samples that it "
            "holds out."
        )
    if np.intersect1d(units[train], units[held_out]).size:
        raise ValueError(
            "cv: expected all samples of a group on one side of a split, got one that has a group "
            "on both. Use GroupKFold, GroupShuffleSplit or a number."
        )
    return train, held_out


def _checked_indices(indices, n_samples):
    indices = np.asarray(indices)
    if indices.dtype == bool and indices.shape == (n_samples,):
        indices = np.flatnonzero(indices)
    is_right = indices.ndim == 1 and indices.size and indices.dtype.kind in "iu"
    if not is_right or indices.min() < 0 or indices.max() >= n_samples:
        raise ValueError(
            f"cv: expected indices from 0 to {n_samples - 1}, at least one on each side of a "
            f"split, got {indices!r}."
        )
    return indices


def _generator(random_state):
    """A NumPy generator with a ``permutation`` method, never the global one."""
    if random_state is None or isinstance(random_state, np.random.Generator):
        return np.random.default_rng(random_state)
    return check_random_state(random_state)


def _n_held_out(cv, n_units, kind):
    """Number of units to calibrate on, by the parameter ``cv`` of ``method="split"``."""
    cv = 0.5 if cv is None else cv
    is_int = isinstance(cv, Integral) and not isinstance(cv, bool)
    if is_int and 1 <= cv < n_units:
        return int(cv)
    if isinstance(cv, Real) and not isinstance(cv, Integral) and 0 < cv < 1:
        return min(max(round(cv * n_units), 1), n_units - 1)
    raise ValueError(
        f"cv: expected for method='split' a fraction in (0, 1), a number from 1 to {n_units - 1} "
        f"(one less than the {kind}s) or a splitter, got {cv!r}."
    )


def _n_folds(cv, n_units):
    """Number of folds, by the parameter ``cv`` of ``method="cv"``; at most the units."""
    cv = 5 if cv is None else cv
    if not (isinstance(cv, Integral) and not isinstance(cv, bool) and cv >= 2):
        raise ValueError(
            "cv: expected for method='cv' a number of folds of at least 2 or a splitter, got "
            f"{cv!r}."
        )
    return min(int(cv), n_units)
