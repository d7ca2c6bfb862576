"""Transformers of scikit-learn inside of what is traced for export.

Each is an operation of its own, which calls the transformer; in the graph it is a node, which
:mod:`anomalib_lite.export.transformers` replaces.
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


class ConvertedTransformer(nn.Module):
    """A fitted transformer, as an operation that can be traced.

    Examples
    --------
    >>> from sklearn.preprocessing import StandardScaler
    >>> scaler = ConvertedTransformer(StandardScaler().fit([[1.0], [3.0]]))
    >>> scaler(torch.tensor([[5.0]])).tolist()
    [[3.0]]
    """

    def __init__(self, transformer: BaseEstimator):
        super().__init__()
        self.transformer, self.number = transformer, next(_NUMBERS)
        self.n_features = transformer.n_features_in_
        self.n_columns = self.call(np.zeros((1, self.n_features))).shape[1]
        _MODULES[self.number] = self

    def call(self, rows: np.ndarray) -> np.ndarray:
        """Transformed rows (n, n_columns), float64."""
        with SKLEARN:
            return np.asarray(self.transformer.transform(rows), np.float64)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Transformed rows (n, n_columns), float64, of rows (n, n_features)."""
        return transformed(rows, self.number, self.n_columns)


@torch.library.custom_op("anomalib_lite::transformed", mutates_args=())
def transformed(rows: torch.Tensor, number: int, n_columns: int) -> torch.Tensor:
    """What the module of this number gives."""
    return torch.from_numpy(_MODULES[number].call(rows.numpy()))


@transformed.register_fake
def _(rows, number, n_columns):
    return rows.new_empty(len(rows), n_columns, dtype=torch.float64)
