"""Convert arrays, tensors, PIL images, paths and loaders to checked float32 tensors in [0, 1].

===============================================  ===============================================
input                                            read as
===============================================  ===============================================
numpy (N, H, W) or (N, H, W, C)                  channels last, C in {1, 3, 4}
torch (N, C, H, W)                               channels first
list, tuple, 1-D object or string array          one image each: arrays, tensors, PIL images,
                                                 paths; mixed sizes allowed
str or Path of a folder                          the image files below it, sorted by path
torch Dataset, DataLoader, any iterable          streamed; of an (image, label) pair only the image
===============================================  ===============================================

Values are uint8, uint16, bool, or floats in [0, 1]. Gray images keep one channel until the network
needs three. An alpha channel is dropped with a warning. EXIF orientation is applied. Images are
read one at a time, and only those of the current batch are held in memory.

Pillow decodes files by their content, whatever their suffix, in the formats listed below. Formats
that it reads by starting another program are excluded. Its limits on decompression bombs apply: a
warning above 89 million pixels, an error above 179 million. Its warnings about damaged metadata are
passed on; where warnings are errors, the error names the image. Color files with 16 bits per
channel are reduced to 8. Pipes and devices are refused.
"""

import os
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from ..annotations import Images
from ..annotations import Path as PathLike

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_FULL_SCALE = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
_ROUNDING = 1e-6  # resampling may push floats out of [0, 1] by this much


@dataclass(frozen=True)
class CheckedImage:
    """An image that passed all checks.

    Attributes
    ----------
    pixels : torch.Tensor of shape (C, H, W)
        float32 in [0, 1] on the CPU; C is 1 or 3.
    dtype : str
        Name of the original dtype.
    label : str
        Name of the image in error messages: its index and, if it came from a file, its path.
    path : str or None
        The file that it was read from.
    index : int
        Its place in the collection.
    """

    pixels: torch.Tensor
    dtype: str
    label: str
    path: str | None = None
    index: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.pixels.shape[-2:]
        return height, width


class SkippedImage(NamedTuple):
    """An image that could not be read: its index, its path if it is a file, and the reason."""

    index: int
    path: str | None
    reason: str


class ImageStream:
    """Read a collection of images as a stream of :class:`CheckedImage`.

    Parameters
    ----------
    X : array, tensor, list, folder, Dataset, DataLoader or iterable
        Images; see the table at the top of this module.
    min_side : int, default=1
        Smallest height and width accepted, in pixels.

    Attributes
    ----------
    n_images : int or None
        Expected number of images; None if it is unknown until the stream ends.

    Raises
    ------
    ValueError
        On construction if ``X`` cannot be a collection of images; during iteration if an image
        cannot be read, is empty or too small, has an unsupported dtype or number of dimensions, or
        holds NaN, infinity or floats outside [0, 1]. The message names the image and the remedy.

    Examples
    --------
    >>> stream = ImageStream(np.zeros((2, 32, 48), dtype=np.uint8))
    >>> stream.n_images, [image.size for image in stream]
    (2, [(32, 48), (32, 48)])
    """

    def __init__(self, X: Images, *, min_side: int = 1, on_error: str = "raise"):
        self.min_side = min_side
        self.on_error = on_error
        self.skipped = []
        self.n_images, self._items = _open(X)

    def __iter__(self) -> Iterator[CheckedImage]:
        count, alpha_dropped = 0, False
        for index, item in enumerate(self._items()):
            count += 1
            path = os.fsdecode(item) if isinstance(item, str | os.PathLike) else None
            label = f"image {index}" if path is None else f"image {index} ({path})"
            try:
                array, channels_first = _to_array(item)
                pixels = _to_pixels(array, channels_first)
                if min(pixels.shape[-2:]) < self.min_side:
                    raise ValueError(
                        f"expected at least {self.min_side} pixels per side (one patch), got "
                        f"{pixels.shape[-2]} x {pixels.shape[-1]}. Is the axis order right?"
                    )
            except ValueError as error:
                if self.on_error == "skip":
                    self.skipped.append(SkippedImage(index, path, f"{label}: {error}"))
                    continue
                raise ValueError(f"{label}: {error}") from error
            if pixels.shape[0] == 4:
                if not alpha_dropped:
                    warnings.warn(
                        f"{label}: the alpha channel is dropped, here and in later images.",
                        UserWarning,
                        stacklevel=2,
                    )
                alpha_dropped = True
                pixels = pixels[:3]
            yield CheckedImage(pixels, array.dtype.name, label, path, index)
        if count == 0:
            raise ValueError("X: expected at least one image, got none.")


def is_table(X: object) -> bool:
    """Whether ``X`` is a table of numbers (n_samples, n_features) rather than images.

    Examples
    --------
    >>> is_table([[1.0, 2.0]]), is_table(np.zeros((5, 28, 28))), is_table(["a.png", "b.png"])
    (True, False, False)
    """
    if isinstance(X, list | tuple):
        if not X or not isinstance(X[0], list | tuple | np.ndarray):
            return False
        is_row = all(np.ndim(value) == 0 for value in X[0])
        return is_row and np.asarray(X[0]).dtype.kind in "biufc"
    if hasattr(X, "__array__") and not hasattr(X, "ndim"):
        X = np.asarray(X)
    is_paths = getattr(getattr(X, "dtype", None), "kind", None) in ("S", "U", "T")
    return getattr(X, "ndim", None) == 2 and not is_paths


# -- the collection -------------------------------------------------------------------------------


def _open(X):
    """(number of images or None, function that returns a new iterator over raw images)."""
    if isinstance(X, str | os.PathLike):
        paths = image_files(X)
        return len(paths), lambda: iter(paths)
    if isinstance(X, Image.Image):
        raise ValueError("X: expected a collection of images, got one PIL image. Pass [image].")
    if isinstance(X, torch.Tensor):
        return _open_tensor(X)
    if isinstance(X, np.ndarray):
        return _open_array(X)
    if isinstance(X, list | tuple):
        return _sized(X)
    if isinstance(X, Dataset) and not isinstance(X, IterableDataset) and hasattr(X, "__len__"):
        return len(X), lambda: (_image_of_pair(X[i]) for i in range(len(X)))
    if isinstance(X, Iterable) and not isinstance(X, Mapping | Set | bytes):
        return _loader_length(X), lambda: _flatten_batches(X)
    raise ValueError(
        "X: expected images (a numpy array, torch tensor, list, folder, Dataset or iterable), "
        f"got {type(X).__name__}."
    )


def _loader_length(X):
    """Number of images in a DataLoader that does its own batching; None if unknown."""
    if not isinstance(X, DataLoader) or isinstance(X.dataset, IterableDataset) or not X.batch_size:
        return None
    n_images = len(X.sampler)
    return n_images - n_images % X.batch_size if X.drop_last else n_images


def _sized(items):
    if len(items) == 0:
        raise ValueError("X: expected at least one image, got none.")
    return len(items), lambda: iter(items)


def image_files(folder: PathLike) -> list[str]:
    """Sorted paths of all image files below a folder.

    Links to folders are not followed, and the ``._`` files of macOS are skipped.
    """
    folder = os.fsdecode(folder)
    if not folder:
        raise ValueError("X: expected the path of a folder, got an empty string.")
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except PermissionError:
        raise
    except (OSError, ValueError) as error:
        raise ValueError(f"X: the folder {folder} does not exist: {error}.") from error
    if not is_folder:
        raise ValueError(f"X: expected a folder, got the file {folder}. Pass a list: [path].")
    files = (
        Path(where, name)
        for where, _, names in os.walk(folder, onerror=_raise)  # unreadable folders are an error
        for name in names
    )
    images = (path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    paths = sorted(str(path) for path in images if not path.name.startswith("._"))
    if not paths:
        raise ValueError(
            f"X: no image files below {folder}. Supported suffixes: "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return paths


def _raise(error):
    raise error


def _open_array(X):
    if isinstance(X, np.ma.MaskedArray):
        raise ValueError("X: masked pixels have no value. Fill them with X.filled(...).")
    if X.dtype.kind in "OSTU" and X.ndim == 1:
        return _sized(X.tolist())
    shape = X.shape
    if X.ndim == 3 and shape[-1] in (1, 3, 4):
        raise ValueError(
            f"X: expected (N, H, W) or (N, H, W, C), got {shape}, which looks like one color "
            "image. Pass X[None]."
        )
    if X.ndim == 4 and shape[-1] not in (1, 3, 4) and shape[1] in (1, 3, 4):
        raise ValueError(
            f"X: numpy images are channels last, (N, H, W, C), got {shape}, which looks channels "
            "first. Pass X.transpose(0, 2, 3, 1), or the tensor torch.from_numpy(X)."
        )
    if X.ndim not in (3, 4):
        hint = " A table (n_samples, n_features) does not hold images." if X.ndim == 2 else ""
        raise ValueError(f"X: expected images (N, H, W) or (N, H, W, C), got shape {shape}.{hint}")
    return _sized(X)


def _open_tensor(X):
    if X.is_nested:
        raise ValueError("X: expected a tensor (N, C, H, W), got a nested one. Pass X.unbind().")
    if X.ndim == 4 and X.shape[1] not in (1, 3, 4) and X.shape[-1] in (1, 3, 4):
        raise ValueError(
            f"X: torch images are channels first, (N, C, H, W), got {tuple(X.shape)}, which looks "
            "channels last. Pass X.permute(0, 3, 1, 2)."
        )
    if X.ndim != 4:
        raise ValueError(
            f"X: expected a tensor (N, C, H, W), got shape {tuple(X.shape)}. "
            "Gray images? Pass X[:, None]. One image? Pass X[None]."
        )
    return _sized(X)


def _image_of_pair(item):
    """The image of an (image, label, ...) tuple, the usual item of a dataset."""
    return item[0] if isinstance(item, list | tuple) and len(item) > 0 else item


def _are_images_of_one_shape(parts):
    arrays = all(isinstance(part, np.ndarray | torch.Tensor) for part in parts)
    shapes = {tuple(part.shape) for part in parts} if arrays else set()
    return len(parts) > 1 and len(shapes) == 1 and len(shapes.pop()) in (2, 3)


def _flatten_batches(iterable):
    """Single images of images, (image, label), batches, (batch, labels), lists of PIL or paths."""
    stacks = isinstance(iterable, DataLoader) and iterable.collate_fn is default_collate
    batch_ranks = (3, 4) if stacks else (4,)  # a stack of gray images (H, W) has three axes
    for item in iterable:
        if isinstance(item, list) and all(
            isinstance(part, Image.Image | str | os.PathLike) for part in item
        ):
            yield from item
            continue
        if isinstance(item, list) and _are_images_of_one_shape(item):
            raise ValueError(
                f"X: a list of {len(item)} arrays of shape {tuple(item[0].shape)} may be a batch "
                "or an image with its mask. Pass a batch as one array, a pair as a tuple."
            )
        item = _image_of_pair(item)
        if isinstance(item, np.ndarray | torch.Tensor) and item.ndim in batch_ranks:
            yield from item
        else:
            yield item


# -- one image ------------------------------------------------------------------------------------


def _to_array(item):
    """(array, whether channels come first) of one raw image."""
    if isinstance(item, str | os.PathLike | Image.Image):
        return _decode(item), False
    if isinstance(item, torch.Tensor):
        return _from_tensor(item), True
    if isinstance(item, np.ma.MaskedArray):
        raise ValueError("masked pixels have no value. Fill them with image.filled(...).")
    if isinstance(item, np.ndarray):
        return item, False
    raise ValueError(
        f"expected an array, tensor, PIL image or path, got {type(item).__name__}. "
        "Nested lists? Pass numpy.asarray(image)."
    )


def _from_tensor(tensor):
    if tensor.layout != torch.strided:
        raise ValueError(
            f"expected a dense tensor, got layout {tensor.layout}. Pass tensor.to_dense()."
        )
    try:
        tensor = tensor.detach().cpu().resolve_neg()
        if tensor.is_floating_point() and tensor.dtype != torch.float64:
            tensor = tensor.float()  # numpy has no bfloat16
        return tensor.numpy()
    except (RuntimeError, TypeError) as error:  # meta, quantized or complex conjugate tensors
        raise ValueError(f"the values of the tensor cannot be read: {error}") from error


class _Refused(ValueError):
    """A file that Pillow could decode but that is not one image."""


def _decode(item):
    """The array of a file or PIL image; ValueError if it cannot be decoded."""
    try:
        if isinstance(item, Image.Image):
            return _from_pil(item)
        if not stat.S_ISREG(os.stat(item).st_mode):
            raise _Refused("expected a file, got a folder, a pipe or a device.")
        # Opened here because Pillow memory-maps a file that it opens by name, and the process would
        # crash (SIGBUS) if the file were truncated while it is read.
        with open(item, "rb") as file, Image.open(file, formats=_FORMATS) as image:
            return _from_pil(image)
    except (PermissionError, MemoryError, _Refused):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError and more
        raise ValueError(
            f"cannot be read as an image: {error}. Repair or remove the file."
        ) from error


def _from_pil(image):
    frames = getattr(image, "n_frames", 1)
    if frames != 1:
        raise _Refused(f"expected one image in the file, got {frames} frames.")
    image = ImageOps.exif_transpose(image)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    elif image.mode in ("LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    array = np.asarray(image)
    if image.mode == "I" and array.size > 0 and array.min() >= 0 and array.max() <= 65535:
        array = array.astype(np.uint16)  # Pillow reads some 16-bit gray files as 32-bit integers
    return array


def _to_pixels(array, channels_first):
    """(C, H, W) float32 in [0, 1] from an array of one image; a fourth channel is alpha."""
    if array.ndim not in (2, 3):
        wanted = "(C, H, W)" if channels_first else "(H, W) or (H, W, C)"
        raise ValueError(f"expected one image {wanted}, got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"expected an image with pixels, got the empty shape {array.shape}.")
    pixels = torch.from_numpy(_to_unit_range(array))
    if pixels.ndim == 2:
        return pixels[None]
    if not channels_first:
        pixels = pixels.permute(2, 0, 1)
    if pixels.shape[0] not in (1, 3, 4):
        where = "first" if channels_first else "last"
        raise ValueError(
            f"expected 1, 3 or 4 channels on the {where} axis, got shape {array.shape}."
        )
    return pixels.contiguous()


def _to_unit_range(array):
    """A new float32 array in [0, 1]; ValueError if the scale would have to be guessed."""
    if array.dtype.name in _FULL_SCALE:
        full_scale = np.float32(_FULL_SCALE[array.dtype.name])
        return np.divide(array, full_scale, dtype=np.float32)
    if array.dtype.kind != "f":
        raise ValueError(
            f"expected dtype uint8, uint16, bool or float in [0, 1], got {array.dtype}. "
            "Values 0..255? Pass image.astype(numpy.uint8)."
        )
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        first = np.unravel_index(np.isfinite(array).argmin(), array.shape)
        raise ValueError(f"holds NaN or infinity, first at index {tuple(map(int, first))}.")
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ValueError(
            f"float values must lie in [0, 1], got [{float(low):.8g}, {float(high):.8g}]. "
            "Values 0..255? Divide by 255. Already normalized? Pass the original image."
        )
    return np.clip(array, 0, 1, dtype=np.float32)
