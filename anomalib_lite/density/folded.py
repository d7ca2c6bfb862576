"""Statistics of images in folds, each of which can be left out."""

from typing import Any, Self

import numpy as np
import torch

from ..runtime import check_tensor
from ..validation import check_count
from .gaussian import GaussianStatistics

APART = 20
"""Images that are folds of their own in any case: few that share folds might share one."""


class FoldedStatistics:
    """Statistics of the rows of images, by folds; merging two of them is exact.

    The fold of an image follows from its digest, so that copies share one, and so that parts that
    were learned apart merge. As long as there are no more images than folds, or than
    :data:`APART`, each image, with its copies, is a fold of its own.

    Parameters
    ----------
    n_folds : int

    Attributes
    ----------
    folds : dict of int to GaussianStatistics
        By the digest of their image or, if ``is_shared``, by its remainder modulo ``n_folds``.
    is_shared : bool
        Whether images share folds.

    Examples
    --------
    >>> folded = FoldedStatistics(2)
    >>> for digest, value in [(10, 1.0), (21, 2.0), (30, 3.0)]:
    ...     folded.add(digest, GaussianStatistics.from_rows(torch.tensor([[[value]]])))
    >>> folded.keys.tolist(), folded.whole().mean.item()
    ([10, 21, 30], 2.0)
    """

    def __init__(self, n_folds: int):
        self.n_folds, self.folds, self.is_shared = n_folds, {}, False

    @property
    def keys(self) -> np.ndarray:
        """Those of the folds (k,), int64, ascending."""
        return np.array(sorted(self.folds), dtype=np.int64)

    def keys_of(self, digests: np.ndarray) -> np.ndarray:
        """Keys (n,) of the folds of images by their digests (n,)."""
        return digests % self.n_folds if self.is_shared else digests

    def add(self, digest: int, statistics: GaussianStatistics) -> None:
        """Add the rows of an image; the statistics become a part of these."""
        key = digest % self.n_folds if self.is_shared else digest
        if key in self.folds:
            self.folds[key].merge(statistics)
        else:
            self.folds[key] = statistics
        if len(self.folds) > self._most:
            self._share()

    def merge(self, other: "FoldedStatistics") -> None:
        """Add the rows of other statistics with the same number of folds."""
        if other.is_shared and not self.is_shared:
            self._share()
        for key in other.keys.tolist():
            self.add(key, other.folds[key].copy())

    @property
    def _most(self):
        return max(self.n_folds, APART)

    def _share(self):
        """Divide the images among the folds."""
        images, self.folds, self.is_shared = self.folds, {}, True
        for digest in sorted(images):
            self.add(digest, images[digest])

    def whole(self) -> GaussianStatistics:
        """Statistics of all rows."""
        first, *others = self.keys.tolist()
        statistics = self.folds[first].copy()
        for key in others:
            statistics.merge(self.folds[key])
        return statistics

    def copy(self) -> "FoldedStatistics":
        """An independent copy."""
        return self._with({key: fold.copy() for key, fold in self.folds.items()})

    def to(self, device: torch.device | str) -> "FoldedStatistics":
        """The same on a device."""
        return self._with({key: fold.to(device) for key, fold in self.folds.items()})

    def _with(self, folds):
        made = type(self)(self.n_folds)
        made.folds, made.is_shared = folds, self.is_shared
        return made

    def to_state(self) -> dict[str, Any]:
        """The state that :meth:`from_state` restores."""
        folds = [self.folds[key] for key in self.keys.tolist()]
        return {
            "n_folds": self.n_folds,
            "is_shared": self.is_shared,
            "keys": self.keys,
            "counts": np.array([fold.count for fold in folds], dtype=np.int64),
            "means": torch.cat([fold.mean for fold in folds]),
            "scatters": torch.cat([fold.scatter for fold in folds]),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Statistics with the state that :meth:`to_state` gave."""
        n_folds, keys, counts = state["n_folds"], state["keys"], state["counts"]
        check_count("n_folds", n_folds, minimum=2)
        for name, values in (("keys", keys), ("counts", counts)):
            if not (isinstance(values, np.ndarray) and values.dtype == np.int64):
                raise ValueError(f"{name}: expected an array of int64.")
        made, n_features = cls(n_folds), state["means"].shape[1]
        made.is_shared = state["is_shared"]
        fits = (
            isinstance(made.is_shared, bool)
            and keys.ndim == 1
            and 1 <= len(keys) <= made._most
            and counts.shape == keys.shape
            and (counts > 0).all()
            and (keys[1:] > keys[:-1]).all()
            and (not made.is_shared or 0 <= keys[0] <= keys[-1] < n_folds)
        )
        if not fits:
            raise ValueError("keys: expected those of folds, and how many rows each has.")
        for name, shape in (("means", ()), ("scatters", (n_features,))):
            expected = (len(keys), n_features, *shape)
            check_tensor(name, state[name], expected, (torch.float32, torch.float64))
        each = zip(state["means"].split(1), state["scatters"].split(1), strict=True)
        made.folds = {
            key: GaussianStatistics(count, mean.clone(), scatter.clone())
            for key, count, (mean, scatter) in zip(
                keys.tolist(), counts.tolist(), each, strict=True
            )
        }
        return made
