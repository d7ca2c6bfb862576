"""Images, maps, masks and names as a figure can show them."""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..data.images import CheckedImage, ImageStream
from ..data.rasters import ArrayRaster
from ..validation import as_real
from .layout import Grid

if TYPE_CHECKING:
    from ..workers import Team


def read_pictures(
    X: Any, masks: Sequence[Any] | None, n_columns: int | None, on_error: str = "raise"
) -> tuple[list[np.ndarray | None], list[np.ndarray | None] | None]:
    """Images, and their masks, as small as a figure shows them; None for those skipped."""
    stream = ImageStream(X, on_error=on_error)
    n_pixels = Grid.of(stream.n_images or 1, n_columns).n_pixels
    if masks is not None and stream.n_images is not None:
        check_number_of("masks", masks, stream.n_images)

    def read(image):
        if masks is None:
            return small_picture(image, n_pixels), None
        mask = checked_mask(masks[image.index], image.size, image.index)
        return small_picture(image, n_pixels), mask if mask is None else smaller_map(mask, n_pixels)

    seen = [(None, None) if pair is None else pair for pair in in_order(stream, read)]
    outlines = None if masks is None else [outline for _, outline in seen]
    return [picture for picture, _ in seen], outlines


def in_order(stream: ImageStream, read: Callable[[CheckedImage], Any]) -> list[Any]:
    """What a function says of each image, by workers if there are any; None for those skipped."""
    with _workers() as team:
        answers = {
            index: answer
            for [(index, answer)] in stream.work(team, lambda image: (image.index, read(image)))
        }
    return [answers.get(i) for i in range(len(answers) + len(stream.skipped))]


def _workers() -> "AbstractContextManager[Team | None]":
    """Context with a team where PyTorch is in use already: its workers would import it."""
    if "torch" not in sys.modules:
        return nullcontext()
    from ..workers import borrowed_team

    return borrowed_team()


def small_picture(image: CheckedImage, n_pixels: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) of an image, at most ``n_pixels`` a side, in [0, 1]."""
    return _picture(image.raster.small(_size_within(image.size, n_pixels)))


def checked_mask(mask: Any, size: tuple[int, int], index: int) -> np.ndarray | None:
    """A mask (H, W) of its image's size, bool; None where there is none."""
    if mask is None:
        return None
    from ..data.masks import read_mask

    return read_mask(mask, size=size, name=f"mask {index}")


def checked_map(heat: ArrayLike | None, index: int) -> np.ndarray | None:
    """A finite map (H, W); None where there is none."""
    if heat is None:
        return None
    heat = as_real(f"map {index}", heat)
    if heat.ndim != 2 or heat.size == 0:
        raise ValueError(f"map {index}: expected shape (H, W), got {heat.shape}.")
    if not np.isfinite(heat).all():
        raise ValueError(f"map {index}: expected finite numbers, got NaN or infinity.")
    return heat


def check_number_of(name: str, values: Sequence[Any], n_images: int) -> None:
    """Raise ValueError unless there is one value for each image."""
    if len(values) != n_images:
        raise ValueError(
            f"{name}: expected as many {name} as images, got {len(values)} for {n_images} images."
        )


def smaller_picture(picture: np.ndarray, n_pixels: int) -> np.ndarray:
    """An image (H, W) or (H, W, 3) of at most ``n_pixels`` a side, averaged."""
    pixels = np.asarray(picture, dtype=np.float32)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return _picture(ArrayRaster(pixels).small(_size_within(pixels.shape[:2], n_pixels)))


def smaller_map(values: np.ndarray, n_pixels: int) -> np.ndarray:
    """A map or mask (H, W) of at most ``n_pixels`` a side.

    Of the values that share a pixel the highest stays, so that nothing small is lost.

    Examples
    --------
    >>> smaller_map(np.eye(4, dtype=np.float32), 2)
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    height, width = _size_within(values.shape, n_pixels)
    return _highest(_highest(values, height).T, width).T


def _highest(values, n):
    """The highest of the rows, column by column, that share one of ``n`` rows."""
    rows = len(values)
    return np.stack([values[i * rows // n : -(-(i + 1) * rows // n)].max(0) for i in range(n)])


def _size_within(size, n_pixels):
    """A size (h, w) of the same proportions, at most ``n_pixels`` a side."""
    scale = min(n_pixels / max(size), 1.0)
    height, width = (max(round(side * scale), 1) for side in size)
    return height, width


def _picture(pixels):
    """(H, W) or (H, W, 3) of pixels (H, W, C)."""
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


# -- names ----------------------------------------------------------------------------------------


def file_name(path: str | None) -> str:
    """The last part of a path, of Windows too; empty without one."""
    return "" if path is None else path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def title(name: Any, n_letters: int) -> str:
    """A name in printable letters, shortened in the middle.

    Examples
    --------
    >>> title("camera-1\\n2024.png", 40), title("a" * 30 + ".png", 11)
    ('camera-1 2024.png', 'aaaaaa….png')
    """
    text = str(name).encode("utf-8", "replace").decode()  # undecodable bytes of a file name
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if len(text) <= n_letters:
        return text
    n_last = (n_letters - 1) * 2 // 5
    return f"{text[: n_letters - 1 - n_last]}…{text[-n_last:]}"
