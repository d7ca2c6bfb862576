"""Decode a file or PIL image: its primary picture, upright, with all of its bits.

Pillow decodes files by their content, whatever their suffix, in the formats below; HEIC and HEIF
where ``pillow_heif.register_heif_opener()`` was called. Formats that it reads by starting another
program are excluded.

Of several pictures in a file only the primary one is read: the first one of an MPO file, as phones
and stereo cameras write them; the page of a TIFF file that is left when thumbnails and masks are
taken away. Thumbnails are marked as such in the file, or have half the height and width of the
largest page, or less. Animations and TIFF files with several full pages are refused.
"""

import os
import stat
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from . import deep_color
from .deep_color import Refused
from .files import HEIF_ADVICE, reads_heif
from .rasters import PictureRaster

_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_READ_AT_ONCE = 2**22  # bytes; between two reads a thread waits for Python's lock
_MAX_PAGES = 64  # of a TIFF file that are searched for the primary one
# tags of TIFF and EXIF
_PAGE_KIND, _OLD_PAGE_KIND, _WIDTH, _HEIGHT, _POLARITY, _ORIENTATION = 254, 255, 256, 257, 262, 274
_THUMBNAIL, _TRANSPARENCY = 1, 4  # bits of _PAGE_KIND
_QUARTER_TURNS = (5, 6, 7, 8)  # orientations that exchange height and width


def decode(
    item: str | os.PathLike | Image.Image, enter: Callable[[int], None] = lambda n_pixels: None
) -> np.ndarray | Image.Image:
    """Pixels of a file or PIL image.

    Parameters
    ----------
    item : str, Path or PIL.Image.Image
    enter : callable, optional
        Called with the number of pixels before they are decoded; it may wait.

    Returns
    -------
    pixels : ndarray of shape (H, W), (H, W, 3) or (H, W, 4), or PIL.Image.Image
        Of the file's depth; a fourth channel is alpha. Of a file it may be a picture, of the mode
        "L", "RGB" or "RGBA", that nobody else has: to copy it to an array takes time.

    Raises
    ------
    ValueError
        If it cannot be decoded, or is not one picture.
    """
    with picture(item) as image:
        enter(image.width * image.height)
        if deep_color.is_deep(image):
            return deep_color.read(image)
        return _pixels(image, is_ours=image is not item)


def upright_size(item: str | os.PathLike | Image.Image) -> tuple[int, int]:
    """(H, W) of a file or PIL image after its EXIF orientation; pixels are decoded if needed."""
    with picture(item) as image:
        width, height = image.size
        if image.format == "TIFF":  # some versions of Pillow turn the size as it opens the file
            width, height = image.tag_v2[_WIDTH], image.tag_v2[_HEIGHT]
        turned = width != height and _orientation(image) in _QUARTER_TURNS
        return (width, height) if turned else (height, width)


@contextmanager
def picture(item: str | os.PathLike | Image.Image):
    """Context of a file or PIL image, opened at its primary picture.

    Whatever goes wrong, in the body of the context too, becomes a ValueError.
    """
    try:
        if isinstance(item, Image.Image):
            with _not_mapped(item), _at_primary(item):
                yield item
            return
        if not stat.S_ISREG(os.stat(item).st_mode):
            raise Refused("expected a file, got a folder, a pipe or a device.")
        formats = (*_FORMATS, "HEIF") if reads_heif() else _FORMATS
        # Opened here because Pillow memory-maps a file that it opens by name.
        with open(item, "rb") as file:
            with _open(file, formats) as image:
                image.seek(_primary(image, image.tell()))
                yield image
    except (PermissionError, MemoryError, Refused):
        raise
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError and more
        raise ValueError(
            f"cannot be read as an image: {error}. Repair or remove the file."
        ) from error


@contextmanager
def _not_mapped(image):
    """Context in which Pillow does not memory-map the file of an image that it opened by name.

    The process would crash (SIGBUS) if the file were truncated while it is read, and some versions
    map a turned TIFF file with its height and width exchanged.
    """
    name = getattr(image, "filename", None)
    if name:
        image.filename = ""
    try:
        yield
    finally:
        if name:
            image.filename = name


def _open(file, formats):
    try:
        image = Image.open(file, formats=formats)
        image.decodermaxblock = _READ_AT_ONCE
        return image
    except UnidentifiedImageError:
        file.seek(4)
        if file.read(4) == b"ftyp" and file.read(4) in _HEIF_BRANDS:
            raise Refused(f"cannot be read as an image yet. {HEIF_ADVICE}") from None
        raise


# -- the primary picture --------------------------------------------------------------------------


@contextmanager
def _at_primary(image):
    """Context in which an opened image stands at its primary picture."""
    before = image.tell()
    try:
        image.seek(_primary(image, before))
        yield
    finally:
        if image.tell() != before:
            image.seek(before)


def _primary(image, here):
    """Number of the frame that is the primary picture of an image that stands at ``here``."""
    n_frames, frames = getattr(image, "n_frames", 1), []
    if n_frames == 1 or image.format == "HEIF":  # which opens at the primary picture
        return here
    if image.format == "MPO":
        frames = [0]
    elif image.format == "TIFF" and n_frames <= _MAX_PAGES:
        frames = _full_pages(image, n_frames)
    if len(frames) != 1 or here not in (0, *frames):
        raise Refused(
            f"expected one image in the file, got {n_frames} frames. Which one is meant? Save each "
            "as a file of its own."
        )
    return frames[0]


def _full_pages(image, n_frames):
    """Numbers of the pages of a TIFF file that are neither thumbnails nor masks."""
    sizes = {}
    for frame in range(n_frames):
        image.seek(frame)
        kind = image.tag_v2.get(_PAGE_KIND, 0)
        if not kind & (_THUMBNAIL | _TRANSPARENCY) and image.tag_v2.get(_OLD_PAGE_KIND) != 2:
            sizes[frame] = image.size
    width, height = max(sizes.values(), default=(0, 0), key=lambda size: size[0] * size[1])
    return [frame for frame, (w, h) in sizes.items() if 2 * w > width or 2 * h > height]


# -- its pixels -----------------------------------------------------------------------------------


def _pixels(image, *, is_ours):
    inverted = image.format == "TIFF" and image.mode == "I;16" and image.tag_v2.get(_POLARITY) == 0
    image = _turned_in_place(image) if is_ours else ImageOps.exif_transpose(image)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    elif image.mode in ("LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    if is_ours and image.mode in PictureRaster.MODES:
        return image
    array = np.asarray(image)
    if image.mode == "I" and array.size > 0 and array.min() >= 0 and array.max() <= 65535:
        array = array.astype(np.uint16)  # Pillow reads some 16-bit gray files as 32-bit integers
    return 65535 - array if inverted else array  # Pillow inverts those of 8 bits, not of 16


def _turned_in_place(image):
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _orientation(image):
    """EXIF orientation of an opened file."""
    tags = image.tag_v2 if image.format == "TIFF" else image.getexif()
    return tags.get(_ORIENTATION, 1)
