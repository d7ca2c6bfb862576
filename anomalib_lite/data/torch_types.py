"""Types of PyTorch that collections of images may have, told without importing it.

Where PyTorch has not been imported, nothing is of its types.
"""

import sys
from typing import Any


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor.

    Examples
    --------
    >>> import numpy as np
    >>> is_tensor(np.zeros(3))
    False
    """
    return _is_a(value, "torch", "Tensor")


def is_indexed_dataset(X: object) -> bool:
    """Whether ``X`` is a Dataset whose items have numbers."""
    is_iterable = _is_a(X, "torch.utils.data", "IterableDataset")
    return _is_a(X, "torch.utils.data", "Dataset") and not is_iterable and hasattr(X, "__len__")


def loader_length(X: Any) -> int | None:
    """Number of images in a DataLoader that does its own batching; None if unknown."""
    if not _is_loader(X) or _is_a(X.dataset, "torch.utils.data", "IterableDataset"):
        return None
    if not X.batch_size:
        return None
    n_images = len(X.sampler)
    return n_images - n_images % X.batch_size if X.drop_last else n_images


def stacks_images(X: Any) -> bool:
    """Whether ``X`` is a DataLoader that stacks images of equal sizes."""
    return _is_loader(X) and X.collate_fn is sys.modules["torch.utils.data"].default_collate


def _is_loader(X):
    return _is_a(X, "torch.utils.data", "DataLoader")


def _is_a(value, module, name):
    """Whether a value is of a class of a module, which has to be imported for there to be one."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)
