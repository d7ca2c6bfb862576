"""Read a mask of defective pixels: one rule for files, PIL images, arrays and tensors.

An array is taken at its word: False and True, 0 and 1, or 0 and its full scale (255 or 65535);
anything else is refused. A file or PIL image is a picture of a mask, and read as such:

===============================  ==================================================================
picture                          defective where
===============================  ==================================================================
palette                          the index is not 0, whatever the colors; more than 32 shades of
                                 gray are read as gray
alpha channel that varies        alpha, read as gray
color                            the largest of the three channels, read as gray
gray, 0 and one other value      not 0
gray, classes                    not 0: up to 32 values, 0 among them, all in the lower half of the
                                 scale or in flat areas
gray, other                      above half of the scale: soft edges, traces of a lossy format
===============================  ==================================================================

The scale is 1, 255 or 65535, the smallest that holds the largest value. In lossy formats it is at
least 255, and there are no classes. EXIF orientation is applied, and of several pictures in a file
the primary one is read, as for images.

Several files, in a list or tuple, are one mask: what any of them marks.
"""

import os
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from PIL import Image, ImageOps
from scipy import ndimage

from ..validation import as_mask
from .decoding import picture

_LOSSY = ("JPEG", "JPEG2000", "MPO", "WEBP", "HEIF")
_SCALES = (1, 255, 65535)
_MAX_CLASSES = 32  # values of a gray picture beyond which it is no picture of classes


def read_mask(
    mask: str
    | os.PathLike[str]
    | Sequence[str | os.PathLike[str]]
    | Image.Image
    | ArrayLike
    | torch.Tensor,
    *,
    size: tuple[int, int] | None = None,
    name: str | None = None,
) -> np.ndarray:
    """Read one mask of defective pixels.

    Parameters
    ----------
    mask : str, Path, sequence of these, PIL image, array-like or tensor of shape (H, W)
        See the table at the top of :mod:`anomalib_lite.data.masks`.
    size : tuple (H, W) or None, default=None
        The size of its image, after EXIF orientation; None compares none.
    name : str or None, default=None
        What error messages call it; None uses the path of a file, "mask" for anything else.

    Returns
    -------
    mask : ndarray of shape (H, W), bool
        True where defective.

    Raises
    ------
    ValueError
        If it cannot be read, is ambiguous, or differs in size from its image.

    Examples
    --------
    >>> from anomalib_lite.data import read_mask
    >>> classes = Image.new("P", (3, 2))
    >>> classes.putpixel((2, 0), 7)
    >>> read_mask(classes)
    array([[False, False,  True],
           [False, False, False]])
    """
    if _are_files(mask):
        masks = [read_mask(file, size=size) for file in mask]
        if len({read.shape for read in masks}) > 1:
            raise ValueError(
                f"{os.fsdecode(mask[0])}: expected a mask of the size of those beside it, got "
                f"{[read.shape for read in masks]}."
            )
        return np.any(masks, axis=0)
    is_path = isinstance(mask, str | os.PathLike)
    name = name or (os.fsdecode(mask) if is_path else "mask")
    if is_path or isinstance(mask, Image.Image):
        read = _read_picture(mask, name)
    else:
        read = as_mask(name, mask)
    if read.ndim == 3 and 1 in (read.shape[0], read.shape[-1]):
        read = read.squeeze(0 if read.shape[0] == 1 else -1)
    if read.ndim != 2 or read.size == 0:
        raise ValueError(f"{name}: expected a mask of shape (H, W), got {read.shape}.")
    if size is not None and read.shape != tuple(size):
        turned = " Is one of them turned? EXIF orientation counts." * (read.shape[::-1] == size)
        raise ValueError(
            f"{name}: expected a mask of the image's size {tuple(size)}, got {read.shape}.{turned}"
        )
    return read


def _are_files(mask):
    is_list = isinstance(mask, list | tuple) and len(mask) > 0
    return is_list and all(isinstance(file, str | os.PathLike) for file in mask)


def _read_picture(mask, name):
    try:
        with picture(mask) as image:
            lossy = image.format in _LOSSY
            values = _gray(ImageOps.exif_transpose(image))
    except (ValueError, PermissionError) as error:
        raise ValueError(f"{name}: cannot be decoded as a mask image: {error}") from error
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(f"{name}: expected a mask of finite values from 0 on.")
    return _is_defective(values, lossy=lossy, name=name)


def _gray(image):
    """(H, W) values of a picture, 0 where it is normal."""
    if image.mode == "P":
        return _palette_values(image)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < alpha.max():
            return alpha
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return np.asarray(image)
    return np.asarray(image.convert("RGB")).max(-1)


def _palette_values(image):
    index = np.asarray(image)
    if len(np.unique(index)) > _MAX_CLASSES:
        colors = np.asarray(image.convert("RGB"))
        if (colors == colors[..., :1]).all():
            return colors[..., 0]
    return (index != 0).astype(np.uint8)


def _is_defective(values, *, lossy, name):
    levels = np.unique(values)
    top = levels[-1]
    scale = next((scale for scale in _SCALES[lossy:] if top <= scale), top)
    if not lossy and _are_labels(values, levels, scale):
        return values != 0
    if not lossy and 0 < 2 * float(top) <= scale:
        raise ValueError(
            f"{name}: its values end at {top} of {scale}. Soft edges or classes? Save 0 where "
            "normal and 255 where defective."
        )
    return 2 * values.astype(np.float64) > scale


def _are_labels(values, levels, scale):
    """Whether gray values number classes, 0 being normal, rather than grade up to full scale."""
    if scale == 1 and values.dtype.kind != "f":
        return True
    if levels[0] != 0 or len(levels) > _MAX_CLASSES:
        return False
    if len(levels) <= 2 or 2 * float(levels[-1]) <= scale:
        return True
    if ((0.9 * scale <= levels) & (levels < scale)).any():  # traces of a lossy format
        return False
    low = (values > 0) & (2 * values.astype(np.float64) <= scale)
    flat = ndimage.minimum_filter(values, 3) == ndimage.maximum_filter(values, 3)
    return bool((flat & low).any())
