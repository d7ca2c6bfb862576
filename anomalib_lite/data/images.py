"""Read arrays, tensors, PIL images, paths and loaders as checked images with pixels in [0, 1].

===============================================  ===============================================
input                                            read as
===============================================  ===============================================
numpy (N, H, W) or (N, H, W, C)                  channels last, C in {1, 3, 4}
torch (N, C, H, W)                               channels first
list, tuple, 1-D object or string array, Series  one image each: arrays, tensors, PIL images,
                                                 paths; mixed sizes allowed
DataFrame of one column                          the same; of several columns pass the one
str or Path of a folder                          the image files below it, sorted by path; see
                                                 :mod:`anomalib_lite.data.files`
torch Dataset, DataLoader, any iterable          streamed
===============================================  ===============================================

Items may be images, pairs (image, label, ...), of which only the image is read, or dicts with the
image under one of the keys in `IMAGE_KEYS`. So may the items of lists, and batches of loaders.

Values are uint8, uint16, bool, or floats in [0, 1]. Gray images keep one channel until the network
needs three. An alpha channel is dropped with a warning. EXIF orientation is applied. A worker reads
one image at a time, and lets it go when it has been resized. All workers of a call together hold at
most 134 million pixels of decoded images; a larger image is read alone.

Pillow decodes files by their content, whatever their suffix (see
:mod:`anomalib_lite.data.decoding`). Its limits on decompression bombs apply: a warning above 89
million pixels, an error above 179 million. Its warnings about damaged metadata are passed on; where
warnings are errors, the error names the image. Color files with 16 bits per channel keep them, or
are refused. Pipes and devices are refused.
"""

import math
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ..annotations import Images
from ..validation import check_choice
from .decoding import decode
from .files import IMAGE_SUFFIXES, image_files
from .rasters import FULL_SCALE, ArrayRaster, Levels, PictureRaster, Raster
from .room import Room
from .torch_types import is_indexed_dataset, is_tensor, loader_length, stacks_images

if TYPE_CHECKING:
    import torch

    from ..workers import Team

__all__ = [
    "IMAGE_KEYS", "IMAGE_SUFFIXES", "CheckedImage", "Glance", "ImageStream", "Levels",
    "SkippedImage", "grouped", "image_files", "is_table",
]  # fmt: skip

IMAGE_KEYS = (
    "image", "img", "pixel_values", "x", "input", "inputs", "picture", "photo", "jpg", "jpeg",
    "png", "image_path", "img_path", "path", "file", "filename", "file_name", "filepath",
)  # fmt: skip
"""Keys under which the image of a dict is looked for, in this order and in any case."""

_ROUNDING = 1e-6  # resampling may push floats out of [0, 1] by this much
_UNREADABLE = (  # what "skip" skips
    ValueError, OSError, RuntimeError, MemoryError, EOFError, SyntaxError,
    Image.DecompressionBombError,
)  # fmt: skip
_N_REASONS = 3  # quoted where no image can be read
_PIXELS_INSIDE = 2**27  # of images that workers have decoded, at one time
_BYTES_AHEAD = 2**29  # of images that were made, and wait to be read, at one time
_PICTURES = threading.Lock()  # a PIL image, which may be in a list twice, decodes itself in place


@dataclass(frozen=True, eq=False)
class CheckedImage:
    """An image that passed all checks.

    Attributes
    ----------
    source : torch.Tensor of shape (C, H, W) or Raster
        Its pixels: float32 in [0, 1] on the CPU, or as they were decoded; C is 1 or 3.
    dtype : str
        Name of the original dtype.
    label : str
        Name of the image in error messages: its index and, if it came from a file, its path.
    path : str or None
        The file that it was read from.
    index : int
        Its place in the collection, from 0; images that are skipped count.
    """

    source: "torch.Tensor | Raster"
    dtype: str
    label: str
    path: str | None = None
    index: int = 0

    @cached_property
    def pixels(self) -> "torch.Tensor":
        """Pixels (C, H, W), float32 in [0, 1] on the CPU, made when they are first asked for."""
        if not isinstance(self.source, Raster):
            return self.source
        from .resizing import pixels_of

        return pixels_of(self.source)

    @property
    def raster(self) -> Raster:
        """Its pixels without PyTorch, as they were decoded where they were kept so."""
        if isinstance(self.source, Raster):
            return self.source
        return ArrayRaster(self.source.numpy(), channels_first=True)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        if isinstance(self.source, Raster):
            return self.source.size
        height, width = self.source.shape[-2:]
        return height, width

    @property
    def levels(self) -> Levels:
        """How bright the image is, measured anew."""
        return self.raster.levels()

    def resized(self, size: tuple[int, int]) -> "torch.Tensor":
        """Pixels (C, h, w) in [0, 1] at another size, bilinear and antialiased.

        Those of a tensor have its gradient.
        """
        from .resizing import planes_resized, raster_resized

        if isinstance(self.source, Raster):
            return raster_resized(self.source, size)
        return self.source if size == self.size else planes_resized(self.source, size)

    def kept(self) -> "CheckedImage":
        """The image with pixels of its own: nothing else stays in memory, or can change them."""
        return replace(self, source=self.pixels)

    def glance(self, *, levels: bool = False) -> "Glance":
        """What is remembered of the image when its pixels are gone, with its levels or without."""
        seen = self.levels if levels else None
        return Glance(self.index, self.label, self.path, self.size, self.dtype, seen)


class Glance(NamedTuple):
    """What is remembered of an image when its pixels are gone: see :class:`CheckedImage`."""

    index: int
    label: str
    path: str | None
    size: tuple[int, int]
    dtype: str
    levels: Levels | None


class SkippedImage(NamedTuple):
    """An image that could not be read.

    Attributes
    ----------
    index : int
        Its place in the collection, from 0.
    path : str or None
        Its file.
    reason : str
        What the error would have said.
    """

    index: int
    path: str | None
    reason: str


class ImageStream:
    """Read a collection of images as a stream of :class:`CheckedImage`.

    Parameters
    ----------
    X : array, tensor, list, folder, Dataset, DataLoader, iterable or ImageStream
        Images; see the table at the top of this module. A stream is read anew, with the larger
        `min_side` of the two; it skips images if either of the two does.
    min_side : int, default=1
        Smallest height and width accepted, in pixels.
    on_error : {"raise", "skip"}, default="raise"
        What to do about an image that cannot be read or fails a check: raise the error, or leave
        it out and list it in `skipped`. A generator or loader that raises an error of its own has
        ended, and the error is passed on; so is whatever a Dataset raises that does not tell of
        an unreadable file (KeyError, TypeError, ...).
    check : callable or None, default=None
        Given the :class:`~anomalib_lite.data.rasters.Raster` of each image; a ValueError that it
        raises is that of an image that fails a check. None is that of ``X``, if it is a stream.

    Attributes
    ----------
    n_images : int or None
        Expected number of images, those included that will be skipped; None if it is unknown
        until the stream ends.
    skipped : list of SkippedImage
        The images that the latest iteration has left out so far, in order.

    Raises
    ------
    ValueError
        On construction if ``X`` cannot be a collection of images; during iteration if an image
        cannot be read, is empty or too small, has an unsupported dtype or number of dimensions, or
        holds NaN, infinity or floats outside [0, 1]. The message names the image and the remedy.
        With ``on_error="skip"``, at the end of an iteration that read no image at all.

    Examples
    --------
    >>> stream = ImageStream(np.zeros((2, 32, 48), dtype=np.uint8))
    >>> stream.n_images, [image.size for image in stream]
    (2, [(32, 48), (32, 48)])
    >>> stream = ImageStream([np.zeros((32, 48)), np.full((32, 48), np.nan)], on_error="skip")
    >>> [image.index for image in stream], stream.skipped[0].reason
    ([0], 'image 1: holds NaN or infinity, first at index (0, 0).')
    """

    n_images: int | None
    skipped: list[SkippedImage]

    def __init__(
        self,
        X: Images,
        *,
        min_side: int = 1,
        on_error: str = "raise",
        check: Callable[[Raster], None] | None = None,
    ):
        check_choice("on_error", on_error, ("raise", "skip"))
        self._check = check
        if isinstance(X, ImageStream):
            self.min_side = max(min_side, X.min_side)
            self._check = check or X._check
            self.on_error = "skip" if "skip" in (on_error, X.on_error) else "raise"
            self.n_images, self._items, self.skipped = X.n_images, X._items, X.skipped
            return
        self.min_side, self.on_error, self.skipped = min_side, on_error, []
        self.n_images, self._items = _open(X)

    def __iter__(self) -> Iterator[CheckedImage]:
        return chain.from_iterable(self.work(None, CheckedImage.kept))

    def work(
        self,
        team: "Team | None",
        prepare: Callable[[CheckedImage], Any],
        finish: Callable[[list[Any]], Any] = list,
        *,
        size: int = 1,
        ahead: bool = True,
    ) -> Iterator[Any]:
        """What a team makes of the images, in order: ``finish`` of a few that ``prepare`` has seen.

        Parameters
        ----------
        team : Team or None
            A worker reads ``size`` images, one after the other, and calls both functions. Without a
            team the caller does.
        prepare : callable
            Given a checked image, it returns what is needed of it: the image is then let go, and
            must not be asked for its pixels anymore.
        finish : callable, default=list
            Given a list of one or more of these, it returns what is yielded.
        size : int, default=1
            Images of a task.
        ahead : bool, default=True
            Whether images may be read before earlier results are asked for.
        """
        self.skipped.clear()
        count, alpha_dropped = 0, False
        inside, waiting = Room(_PIXELS_INSIDE), Room(_BYTES_AHEAD)

        def tasks():
            for items in grouped(enumerate(self._items()), size):
                made = [item for _, item in items if isinstance(item, _Made)]
                waiting.enter(n_bytes := sum(item.n_bytes for item in made))
                yield items, n_bytes

        def work(task):
            items, n_bytes = task
            try:
                return self._work(prepare, finish, inside, items)
            finally:
                waiting.leave(n_bytes)

        for done in map(work, tasks()) if team is None else team.map(work, tasks(), ahead=ahead):
            count += done.n_images
            self.skipped += done.skipped
            if done.with_alpha and not alpha_dropped:
                alpha_dropped = True
                warnings.warn(
                    f"{done.with_alpha}: the alpha channel is dropped, here and in later images.",
                    UserWarning,
                    stacklevel=2,
                )
            yield from done.results
            if done.error is not None:
                raise done.error
        if count == 0:
            raise ValueError("X: expected at least one image, got none.")
        if count == len(self.skipped):
            raise NoneReadable(self.skipped)

    def _work(self, prepare, finish, inside, items):
        """Read some (index, raw image), as far as that goes, and say what became of them."""
        done, prepared = _Done(len(items)), []
        for index, item in items:
            item, failure, _ = item if isinstance(item, _Made) else (item, None, 0)
            with inside.visit() as enter:
                try:
                    if failure is not None:
                        raise failure
                    image, has_alpha = self._read(index, item, enter)
                except Exception as error:
                    if self.on_error == "skip" and isinstance(error, _UNREADABLE):
                        done.skipped.append(_skipped(index, item, error))
                        continue
                    done.error = error
                    break
                if has_alpha and done.with_alpha is None:
                    done.with_alpha = image.label
                prepared.append(prepare(image))
                del image  # before it leaves
        if prepared:
            done.results.append(finish(prepared))
        return done

    def _read(self, index, item, enter):
        """(checked image without its alpha channel, whether it had one)."""
        path = None
        try:
            item = _image_of(item)
            path = _path(item)
            raster, has_alpha = _to_raster(item, enter)
            if min(raster.size) < self.min_side:
                raise ValueError(
                    f"expected at least {self.min_side} pixels per side (one patch), got "
                    f"{raster.size[0]} x {raster.size[1]}. Is the axis order right?"
                )
            if self._check is not None:
                self._check(raster)
        except ValueError as error:
            raise _BadImage(index, path, str(error)) from error
        return CheckedImage(raster, raster.dtype, _label(index, path), path, index), has_alpha


class NoneReadable(ValueError):
    """Of a call that skips what it cannot read, and could read nothing.

    Parameters
    ----------
    skipped : sequence of SkippedImage
        All images.
    """

    def __init__(self, skipped: Sequence[SkippedImage]):
        super().__init__(f"X: none of {len(skipped)} images can be read. {_reasons(skipped)}")
        self.skipped = [*skipped]

    def __reduce__(self):
        return type(self), (self.skipped,)


class _BadImage(ValueError):
    """An image that cannot be read, or fails a check."""

    def __init__(self, index, path, reason):
        super().__init__(f"{_label(index, path)}: {reason}")
        self.path = path


@dataclass
class _Done:
    """What became of the images of a task."""

    n_images: int
    results: list[Any] = field(default_factory=list)  # one, unless no image can be read
    skipped: list[SkippedImage] = field(default_factory=list)
    with_alpha: str | None = None  # the first image that had an alpha channel
    error: Exception | None = None  # that ended the task, to be raised after its results


def grouped(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of so many items. If the items raise an error, those before it come first."""
    group = []
    try:
        for item in items:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except Exception:
        if group:
            yield group
        raise
    if group:
        yield group


def _path(item):
    return os.fsdecode(item) if isinstance(item, str | os.PathLike) else None


def _label(index, path):
    return f"image {index}" if path is None else f"image {index} ({path})"


def _skipped(index, item, error):
    if isinstance(error, _BadImage):
        return SkippedImage(index, error.path, str(error))
    path = getattr(error, "filename", None) or _path(item)
    reason = str(error) or type(error).__name__
    return SkippedImage(index, path, f"{_label(index, path)}: {reason}")


def _reasons(skipped):
    shown = [each.reason for each in skipped[:_N_REASONS]]
    return " ".join([*shown, *(["..."] if len(skipped) > len(shown) else [])])


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
    if _is_frame(X):
        values = np.asarray(X)
        return values.size == 0 or not isinstance(values.flat[0], _ONE_IMAGE)
    if hasattr(X, "__array__") and not hasattr(X, "ndim"):
        X = np.asarray(X)
    is_paths = getattr(getattr(X, "dtype", None), "kind", None) in ("S", "U", "T")
    return getattr(X, "ndim", None) == 2 and not is_paths


# -- the collection -------------------------------------------------------------------------------

_ONE_IMAGE = (Image.Image, str, os.PathLike)


def _open(X):
    """(number of images or None, function that returns a new iterator over raw images)."""
    if isinstance(X, str | os.PathLike):
        return _sized(image_files(X))
    if isinstance(X, Image.Image):
        raise ValueError("X: expected a collection of images, got one PIL image. Pass [image].")
    if is_tensor(X):
        return _open_tensor(X)
    if isinstance(X, np.ndarray):
        return _open_array(X)
    if isinstance(X, list | tuple):
        return _sized(X)
    if _is_frame(X):
        return _sized(_only_column(X))
    if hasattr(X, "__array__") and getattr(X, "ndim", None) == 1:  # a Series
        return _sized(list(X))
    if isinstance(X, Mapping) and _image_key(X) is not None:  # some rows of a data set
        return _open(X[_image_key(X)])
    if is_indexed_dataset(X):
        return len(X), lambda: (_fetched(X, index) for index in range(len(X)))
    if isinstance(X, Iterable) and not isinstance(X, Mapping | Set | bytes):
        return loader_length(X), lambda: map(_Made.of, _flatten_batches(X))
    raise ValueError(
        "X: expected images (a numpy array, torch tensor, list, folder, Dataset or iterable), "
        f"got {_named(X)}."
    )


class _Made(NamedTuple):
    """An item that was made as it was asked for; nobody else can change it."""

    item: Any
    error: Exception | None  # why there is none
    n_bytes: int

    @classmethod
    def of(cls, item):
        return cls(_copied(item), None, _n_bytes(item))


def _fetched(dataset, index):
    """An item of a Dataset, which may rely on being asked by one thread, and in order."""
    try:
        return _Made.of(dataset[index])
    except Exception as error:
        return _Made(None, error, 0)


def _copied(item):
    """An item with arrays, tensors and images of its own: a generator may use its memory again."""
    if isinstance(item, np.ndarray) or type(item) is Image.Image:
        return item.copy()
    if is_tensor(item):
        return item.clone()
    if isinstance(item, tuple | list):
        return (tuple if isinstance(item, tuple) else list)(map(_copied, item))
    if isinstance(item, dict):
        return {key: _copied(value) for key, value in item.items()}
    return item


def _n_bytes(item):
    """Memory of an item's arrays and tensors."""
    if _is_array(item):
        return math.prod(item.shape) * item.dtype.itemsize
    if isinstance(item, dict):
        item = tuple(item.values())
    return sum(map(_n_bytes, item)) if isinstance(item, tuple | list) else 0


def _sized(items):
    if len(items) == 0:
        raise ValueError("X: expected at least one image, got none.")
    return len(items), lambda: iter(items)


def _is_frame(X):
    """Whether X is a table with named columns, as pandas and polars have them."""
    return hasattr(X, "columns") and hasattr(X, "__array__")


def _only_column(X):
    names = [str(name) for name in X.columns]
    if len(names) != 1:
        raise ValueError(
            f"X: expected a table of one column, of paths or images, got {len(names)}: "
            f"{', '.join(names)}. Pass the one, such as X[{names[0] if names else 'path'!r}]."
        )
    return list(np.asarray(X)[:, 0])


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


def _are_images_of_one_shape(parts):
    shapes = {tuple(part.shape) for part in parts} if all(map(_is_array, parts)) else set()
    return len(parts) > 1 and len(shapes) == 1 and len(shapes.pop()) in (2, 3)


def _flatten_batches(iterable):
    """Single images, pairs and dicts of an iterable of these or of batches of them."""
    batch_ranks = (
        (3, 4) if stacks_images(iterable) else (4,)
    )  # a stack of gray images (H, W) has three axes
    for item in iterable:
        if isinstance(item, list) and _are_images_of_one_shape(item):
            raise ValueError(
                f"X: a list of {len(item)} arrays of shape {tuple(item[0].shape)} may be a batch "
                "or an image with its mask. Pass a batch as one array, a pair as a tuple."
            )
        if isinstance(item, list) and not _is_pair(item):
            yield from item
        elif isinstance(item, Mapping) and _image_key(item) is None:
            yield item  # refused, by its index, when it is read
        else:
            image = _image_of(item)
            is_batch = _is_array(image) and image.ndim in batch_ranks
            is_batch = is_batch or (isinstance(item, Mapping) and isinstance(image, list | tuple))
            yield from image if is_batch else [image]


# -- one item -------------------------------------------------------------------------------------


def _image_of(item):
    """The image of a pair (image, label, ...) or of a dict; anything else as it is."""
    if isinstance(item, tuple | list) and _is_pair(item):
        item = item[0]
    if isinstance(item, Mapping) and _image_key(item) is not None:
        return item[_image_key(item)]
    return item


def _is_pair(item):
    """Whether a sequence is one image with labels rather than several images or rows of one.

    A tuple is; a list may be either, and is where what follows the image looks different.
    """
    if isinstance(item, tuple):
        return len(item) > 0
    is_image = len(item) > 0 and (
        isinstance(item[0], (*_ONE_IMAGE, Mapping)) or getattr(item[0], "ndim", 0) >= 2
    )
    return is_image and not any(_may_be_another(item[0], part) for part in item[1:])


def _may_be_another(image, part):
    """Whether part of a list may be an image like the one in its first place."""
    if isinstance(image, str | os.PathLike) and isinstance(part, str | os.PathLike):
        return _has_suffix(part) or not _has_suffix(image)
    if _is_array(image) and _is_array(part):
        return image.shape == part.shape
    return isinstance(part, (Image.Image, Mapping, list, tuple))


def _has_suffix(path):
    return os.path.splitext(os.fsdecode(path))[1].lower() in IMAGE_SUFFIXES


def _image_key(item):
    """The key of a dict's image, or None."""
    keys = {key.lower(): key for key in reversed(list(item)) if isinstance(key, str)}
    return next((keys[name] for name in IMAGE_KEYS if name in keys), None)


def _named(value):
    """What a value is, and where it is a dict its keys."""
    if not isinstance(value, Mapping):
        return type(value).__name__
    keys = ", ".join(map(repr, list(value)[:9]))
    return f"{type(value).__name__} with the keys {keys}, none of which is {', '.join(IMAGE_KEYS)}"


# -- one image ------------------------------------------------------------------------------------


def _to_raster(item, enter):
    """(pixels of one raw image without its alpha channel, whether it had one)."""
    decoded, channels_first = _decoded(item, enter)
    if isinstance(decoded, Image.Image):
        return PictureRaster(decoded), decoded.mode == "RGBA"
    array = _checked(decoded, channels_first)
    has_alpha = array.shape[0 if channels_first else -1] == 4
    if has_alpha:
        array = array[:3] if channels_first else array[..., :3]
    raster = ArrayRaster(array, channels_first)
    if not isinstance(item, _ONE_IMAGE):
        enter(math.prod(raster.size))
    return raster, has_alpha


def _decoded(item, enter):
    """(array or picture, whether channels come first) of one raw image."""
    if isinstance(item, Image.Image):
        with _PICTURES:
            return decode(item, enter), False
    if isinstance(item, str | os.PathLike):
        return decode(item, enter), False
    if is_tensor(item):
        return _from_tensor(item), True
    if isinstance(item, np.ma.MaskedArray):
        raise ValueError("masked pixels have no value. Fill them with image.filled(...).")
    if isinstance(item, np.ndarray):
        return item, False
    raise ValueError(
        f"expected an array, tensor, PIL image or path, got {_named(item)}. "
        "Nested lists? Pass numpy.asarray(image)."
    )


def _is_array(value):
    return isinstance(value, np.ndarray) or is_tensor(value)


def _from_tensor(tensor):
    import torch

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


def _checked(array, channels_first):
    """An array (C, H, W) or (H, W, C) of one image; a fourth channel is alpha."""
    if array.ndim not in (2, 3):
        wanted = "(C, H, W)" if channels_first else "(H, W) or (H, W, C)"
        raise ValueError(f"expected one image {wanted}, got shape {array.shape}.")
    if array.size == 0:
        raise ValueError(f"expected an image with pixels, got the empty shape {array.shape}.")
    _check_range(array)
    if array.ndim == 2:
        return array[None] if channels_first else array[..., None]
    if array.shape[0 if channels_first else -1] not in (1, 3, 4):
        where = "first" if channels_first else "last"
        raise ValueError(
            f"expected 1, 3 or 4 channels on the {where} axis, got shape {array.shape}."
        )
    return array


def _check_range(array):
    """Raise ValueError if values do not lie in [0, 1], or their scale would have to be guessed."""
    if array.dtype.name in FULL_SCALE:
        return
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
