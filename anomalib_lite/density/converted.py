"""Estimators of scikit-learn inside of what is traced for export.

Each is an operation of its own, which calls the estimator; in the graph it is a node, which
:mod:`anomalib_lite.export.estimators` replaces.
"""

from itertools import count
from weakref import WeakValueDictionary

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import nn

from ..runtime import SKLEARN

_NUMBERS = count()
_MODULES = WeakValueDictionary()


class ConvertedEstimator(nn.Module):
    """A method of a fitted estimator, which ends as an operation that can be traced.

    Parameters
    ----------
    estimator : BaseEstimator
    method : {"score_samples", "transform"}
        Transformed rows are given as they are; of scores, the negative.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> scaler = ConvertedEstimator(StandardScaler().fit([[1.0], [3.0]]), "transform")
    >>> scaler(torch.tensor([[5.0]])).tolist()
    [[3.0]]
    """

    def __init__(self, estimator: BaseEstimator, method: str):
        super().__init__()
        self.estimator, self.method, self.number = estimator, method, next(_NUMBERS)
        self.n_features = estimator.n_features_in_
        self.n_columns = self.call(np.zeros((1, self.n_features))).shape[1]
        _MODULES[self.number] = self

    def call(self, rows: np.ndarray) -> np.ndarray:
        """What the method gives, as float64 columns (n, n_columns)."""
        with SKLEARN:
            found = getattr(self.estimator, self.method)(rows)
        return np.asarray(found, np.float64).reshape(len(rows), -1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, n_columns), or anomaly scores (n,), float64, of rows (n, n_features)."""
        found = estimated(rows, self.number, self.n_columns)
        return found if self.method == "transform" else -found[:, 0]


@torch.library.custom_op("anomalib_lite::estimated", mutates_args=())
def estimated(rows: torch.Tensor, number: int, n_columns: int) -> torch.Tensor:
    """What the module of this number gives."""
    return torch.from_numpy(_MODULES[number].call(rows.numpy()))


@estimated.register_fake
def _(rows, number, n_columns):
    return rows.new_empty(len(rows), n_columns, dtype=torch.float64)
