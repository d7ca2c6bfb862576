"""Choosing some of the samples of a collection of any form."""

import os
import re
import sys
from contextlib import contextmanager
from typing import Any

import numpy as np

from .files import image_files


def choosable(X: Any) -> Any:
    """``X`` in a form whose samples can be indexed; a folder as the list of its images."""
    if isinstance(X, str | os.PathLike):
        return image_files(X)
    if hasattr(X, "__array__") and not hasattr(X, "__getitem__"):
        X = np.asarray(X)
    counted = hasattr(X, "__len__") or hasattr(X, "shape")
    if not counted or not (hasattr(X, "__getitem__") or _is_sparse(X)):
        raise ValueError(
            f"X: expected samples that can be indexed, got {type(X).__name__}. "
            "Pass a list or an array."
        )
    return X.tocsr() if _is_sparse(X) else X


def _is_sparse(X):
    sparse = sys.modules.get("scipy.sparse")  # nobody has a sparse table without it
    return sparse is not None and sparse.issparse(X)


def n_samples(X: Any) -> int:
    """Number of samples."""
    return X.shape[0] if hasattr(X, "shape") else len(X)


def take(X: Any, indices: np.ndarray) -> Any:
    """Some of the samples, in the form of ``X``."""
    if hasattr(X, "iloc"):
        return X.iloc[indices]
    if hasattr(X, "shape"):
        return X[indices]
    if isinstance(X, list | tuple):
        return [X[i] for i in indices]
    from torch.utils.data import Subset

    return Subset(X, indices.tolist())


@contextmanager
def numbered_as_given(indices: np.ndarray):
    """Errors about some of the samples name an image by its place in all of X."""
    try:
        yield
    except ValueError as error:
        message = re.sub(
            r"^image (\d+)", lambda found: f"image {indices[int(found[1])]}", str(error)
        )
        if message == str(error):
            raise
        raise ValueError(message) from error
