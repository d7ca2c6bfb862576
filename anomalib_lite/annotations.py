"""Types shared by public signatures."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

if TYPE_CHECKING:  # a reader of exported detectors does without it
    import torch

Images: TypeAlias = Union[np.ndarray, "torch.Tensor", str, os.PathLike[str], Iterable[Any]]
"""Images in any form that :mod:`anomalib_lite.data.images` reads."""

Device: TypeAlias = Union[str, "torch.device"]
"""A device as :func:`anomalib_lite.runtime.resolve_device` takes it."""

RandomState: TypeAlias = int | np.random.RandomState | np.random.Generator | None
"""A seed, a generator, or None for a random seed."""

Path: TypeAlias = str | os.PathLike[str]
"""A path of a file or folder."""

Size: TypeAlias = int | tuple[int, int]
"""A side in pixels, or a pair (H, W)."""
