"""Types that public signatures share."""

import os
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
import torch

Images: TypeAlias = np.ndarray | torch.Tensor | str | os.PathLike[str] | Iterable[Any]
"""Anything :mod:`anomalib_lite.data.images` reads: arrays, tensors, lists, folders, loaders."""

Device: TypeAlias = str | torch.device
RandomState: TypeAlias = int | np.random.RandomState | np.random.Generator | None
Path: TypeAlias = str | os.PathLike[str]
Size: TypeAlias = int | tuple[int, int]
"""A side in pixels, or a pair (H, W)."""
