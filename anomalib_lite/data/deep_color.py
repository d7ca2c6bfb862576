"""Color files with more than 8 bits per channel, of which Pillow by itself keeps 8.

Pillow unpacks the high byte of each sample. Told the other byte order, it unpacks the low one: two
passes give all 16 bits of PNG and TIFF files. Whatever cannot be read in full is refused.
"""

import io
import sys

import numpy as np
from PIL import Image, ImageOps, PpmImagePlugin

_CODESTREAM = b"\xff\x4f\xff\x51"  # start of the JPEG 2000 header
_HEADER_BYTES = 2**20  # searched for it
_BITS_PER_SAMPLE, _PLANES = 258, 284  # tags of TIFF
_BOTH_BYTES = {"LA;16B": "RGBA"}  # four bytes per pixel, taken as they are
_SPLIT = ("RGB;16", "RGBA;16", "RGBX;16")  # followed by the byte order
_OTHER_ORDER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


class Refused(ValueError):
    """A file that can be decoded, but not given as one image without loss."""


def is_deep(image: Image.Image) -> bool:
    """Whether an opened file holds color, or gray with alpha, of more than 8 bits per channel.

    Images that were loaded before have the bits that Pillow left.
    """
    if image.format not in _IS_DEEP or not image.tile or image.mode.startswith(("I", "F")):
        return False  # in the modes I and F, of gray images, no bits are lost
    return _IS_DEEP[image.format](image)


def read(image: Image.Image) -> np.ndarray:
    """The upright pixels of such a file.

    Returns
    -------
    pixels : ndarray of shape (H, W, 3) or (H, W, 4), uint16
        Full scale is 65535; a fourth channel is alpha.

    Raises
    ------
    ValueError
        If there is no way to read it without losing bits.
    """
    data, tiles = _bytes(image), image.tile
    if image.format == "PPM":
        return _read_ppm(image, data, tiles[0])
    mode = _raw_mode(tiles[0])
    if mode in _BOTH_BYTES:
        both = _read_as(image, data, [_with_raw_mode(tile, _BOTH_BYTES[mode]) for tile in tiles])
        return both.view(">u2")[..., [0, 0, 0, 1]].astype(np.uint16)
    if mode[:-1] in _SPLIT and not _is_planar(image):
        other = mode[:-1] + _OTHER_ORDER[mode[-1]]
        low = _read_as(image, data, [_with_raw_mode(tile, other) for tile in tiles])
        high = np.asarray(ImageOps.exif_transpose(image))
        return 256 * high.astype(np.uint16) + low
    raise Refused(
        f"{image.format} files of this kind are read up to 8 bits per channel. Convert it to a PNG "
        "or TIFF file of RGB with 16 bits."
    )


def _bytes(image, n_bytes=-1):
    """The first bytes of the file, or all."""
    place = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read(n_bytes)
    image.fp.seek(place)
    return data


# -- how deep -------------------------------------------------------------------------------------


def _png_is_deep(image):
    return ";16" in str(_raw_mode(image.tile[0]))


def _ppm_is_deep(image):
    arguments = image.tile[0][3]
    return isinstance(arguments, tuple) and isinstance(arguments[1], int) and arguments[1] > 255


def _tiff_is_deep(image):
    return max(image.tag_v2.get(_BITS_PER_SAMPLE, (1,))) > 8


def _jpeg2000_is_deep(image):
    header = _bytes(image, _HEADER_BYTES)
    start = header.find(_CODESTREAM)
    n_components = int.from_bytes(header[start + 40 : start + 42], "big")
    depths = header[start + 42 : start + 42 + 3 * n_components : 3]  # minus one; bit 7 is the sign
    return start >= 0 and any(depth & 0x7F > 7 for depth in depths)


_IS_DEEP = {
    "JPEG2000": _jpeg2000_is_deep, "PNG": _png_is_deep, "PPM": _ppm_is_deep, "TIFF": _tiff_is_deep,
}  # fmt: skip


def _is_planar(image):
    """Whether the channels are stored one after the other."""
    return image.format == "TIFF" and image.tag_v2.get(_PLANES) == 2


# -- reading --------------------------------------------------------------------------------------


def _raw_mode(tile):
    """How Pillow will unpack a tile (codec, box, offset, raw mode or tuple that begins with it)."""
    return tile[3] if isinstance(tile[3], str) else tile[3][0]


def _with_raw_mode(tile, mode):
    arguments = mode if isinstance(tile[3], str) else (mode, *tile[3][1:])
    changed = (*tile[:3], arguments)
    return type(tile)(*changed) if hasattr(tile, "_fields") else changed


def _read_as(image, data, tiles):
    """Upright pixels of the same picture of the same file, unpacked in another way."""
    with type(image)(io.BytesIO(data)) as twin:
        twin.seek(image.tell())
        twin.tile = tiles
        return np.asarray(ImageOps.exif_transpose(twin))


def _read_ppm(image, data, tile):
    """Its samples are stored as the pixels of a gray file of three times the width."""
    codec, _, start, (*_, highest) = tile
    kind = b"P2" if codec == "ppm_plain" else b"P5"
    header = b"%b %d %d %d\n" % (kind, 3 * image.width, image.height, highest)
    with PpmImagePlugin.PpmImageFile(io.BytesIO(header + data[start:])) as gray:
        return np.asarray(gray).astype(np.uint16).reshape(image.height, image.width, 3)
