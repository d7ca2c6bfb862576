"""What labels are learned from: an anomaly score, and what an image's anomalies look like."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence of images, good and defective ones.

    Attributes
    ----------
    scores : ndarray of shape (n,)
        Anomaly scores out of sample; NaN where there are no others to judge by.
    rows : ndarray of shape (n, D)
        Mean features of each image's most anomalous patches.
    digests : ndarray of shape (n,), int64
        Of what the network sees of them.
    is_bad : ndarray of shape (n,), bool
        Whether they are labeled defective.
    has_mask : ndarray of shape (n,), bool
        Whether a mask says where their defects are.
    is_trusted : ndarray of shape (n,), bool
        Whether labels are learned from them: not from those without a score, nor from good ones
        that seem defective.
    """

    scores: np.ndarray
    rows: np.ndarray
    digests: np.ndarray
    is_bad: np.ndarray
    has_mask: np.ndarray
    is_trusted: np.ndarray

    def __post_init__(self):
        n, arrays = len(self.scores), [getattr(self, each.name) for each in fields(self)]
        fits = (
            [each.dtype for each in arrays] == [np.float64, np.float64, np.int64, bool, bool, bool]
            and self.rows.ndim == 2
            and [len(each) for each in arrays] == [n] * len(arrays)
            and all(each.ndim == 1 for each in arrays if each is not self.rows)
        )
        if not fits:
            raise ValueError("expected a score, features, a digest and labels of each image.")

    @classmethod
    def joined(cls, each: list[Self]) -> Self:
        """That of several, whose images follow each other."""
        return cls(
            *(np.concatenate([getattr(one, name.name) for one in each]) for name in fields(cls))
        )
