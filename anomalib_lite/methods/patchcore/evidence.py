"""What labels are learned from: an anomaly score, and what an image's anomalies look like."""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence of images, good and defective ones.

    Attributes
    ----------
    scores : ndarray of shape (n,)
        Anomaly scores; of good images out of sample, NaN where there are no others.
    rows : ndarray of shape (n, D)
        Mean features of each image's most anomalous patches, NaN likewise.
    digests : ndarray of shape (n,), int64
        Of what the network sees of them.
    is_bad : ndarray of shape (n,), bool
        Whether they are labeled defective.
    """

    scores: np.ndarray
    rows: np.ndarray
    digests: np.ndarray
    is_bad: np.ndarray

    def __post_init__(self):
        n, arrays = len(self.scores), (self.scores, self.rows, self.digests, self.is_bad)
        fits = (
            [each.dtype for each in arrays] == [np.float64, np.float64, np.int64, bool]
            and [each.shape for each in arrays] == [(n,), (n, *self.rows.shape[1:]), (n,), (n,)]
            and self.rows.ndim == 2
        )
        if not fits:
            raise ValueError("expected a score, features, a digest and a label of each image.")

    @classmethod
    def joined(cls, each: list[Self]) -> Self:
        """That of several, whose images follow each other."""
        names = "scores", "rows", "digests", "is_bad"
        return cls(*(np.concatenate([getattr(one, name) for one in each]) for name in names))
