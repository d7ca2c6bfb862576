"""Image files written by their specifications, byte by byte, or by Pillow."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from worlds import stripes

SIDE = 64
GRAY = stripes(1, seed=5)[0]
TURN = {274: 6}  # the tag of a TIFF that stands on its side
COLOR = np.stack([GRAY, np.roll(GRAY, 3, axis=1), 255 - GRAY], axis=-1)


def chunk(kind, data=b"", crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def scanlines(array):
    return b"".join(b"\0" + row.tobytes() for row in array)


def png(
    raw=None, *, size=(SIDE, SIDE), depth=8, color=0, extra=b"", interlace=0, end=True, crc=None
):
    """A PNG file, written by its specification."""
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, interlace)
    data = zlib.compress(scanlines(GRAY) if raw is None else raw)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header, crc) + extra + chunk(b"IDAT", data)
        + (chunk(b"IEND") if end else b"")
    )  # fmt: skip


def deep_png(array, color, **options):
    """A PNG of 16 bits per channel from uint16."""
    size = array.shape[1::-1]
    return png(scanlines(array.astype(">u2")), size=size, depth=16, color=color, **options)


def exif_chunk(orientation):
    return chunk(
        b"eXIf", struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 274, 3, 1, orientation, 0, 0)
    )


def encoded(array, kind, **options):
    file = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(
        file, kind, **options
    )
    return file.getvalue()


def with_orientation(value, array=GRAY, kind="PNG", **options):
    """A file with an EXIF orientation."""
    exif = Image.Exif()
    exif[274] = value
    return encoded(array, kind, exif=exif, **options)


def adam7(array):
    """Scan lines of an interlaced PNG."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    return b"".join(
        scanlines(np.ascontiguousarray(array[top::down, left::right]))
        for top, left, down, right in [*passes, (1, 0, 2, 1)]
    )


def be(array):
    """16 bits per value, big-endian."""
    return (array.astype(np.uint16) * 257).astype(">u2")


def tiff(array, *, bits, sample_format=1):
    """A big-endian, uncompressed, single-strip TIFF, written by its specification."""
    height, width = array.shape
    tags = [
        (256, width), (257, height), (258, bits << 16), (259, 1 << 16), (262, 1 << 16), (273, 134),
        (277, 1 << 16), (278, height), (279, array.nbytes), (339, sample_format << 16),
    ]  # fmt: skip
    long = {256, 257, 273, 278, 279}
    entries = b"".join(struct.pack(">HHII", t, 4 if t in long else 3, 1, v) for t, v in tags)
    head = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(tags)) + entries + bytes(4)
    return head + array.tobytes()


def patched(data, place, code, *values):
    """``data`` with some bytes overwritten."""
    data = bytearray(data)
    struct.pack_into(code, data, place, *values)
    return bytes(data)


def tiff_file(*pages, order="<", compressed=False):
    """A TIFF of several pages, each (array, {tag: value or values}) or an array; single strips.

    The tags are 16-bit unless their values need 32. Arrays (H, W), (H, W, C) or, with the tag 284
    at 2, (C, H, W) of uint8, uint16 or float32.
    """
    data = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    link = 4  # where the place of the next directory is to be written
    for page in pages:
        array, extra = page if isinstance(page, tuple) else (page, {})
        planar = extra.get(284) == 2
        height, width = array.shape[1:] if planar else array.shape[:2]
        n_samples = array.size // (height * width)
        stored = array.astype(array.dtype.newbyteorder(order))
        places = []
        for strip in stored if planar else [stored]:
            strip = zlib.compress(strip.tobytes()) if compressed else strip.tobytes()
            places.append((len(data), len(strip)))
            data += strip + bytes(len(strip) % 2)
        tags = {
            256: width, 257: height, 258: (8 * array.dtype.itemsize,) * n_samples,
            259: 8 if compressed else 1, 262: 2 if n_samples > 2 else 1,
            273: tuple(place for place, _ in places), 277: n_samples, 278: height,
            279: tuple(length for _, length in places),
            **({339: (3,) * n_samples} if array.dtype.kind == "f" else {}), **extra,
        }  # fmt: skip
        entries = b""
        for tag, values in sorted(tags.items()):
            values = values if isinstance(values, tuple) else (values,)
            code, kind = ("I", 4) if max(values) > 65535 or tag in (273, 279) else ("H", 3)
            packed = struct.pack(f"{order}{len(values)}{code}", *values)
            if len(packed) > 4:
                packed, place = struct.pack(order + "I", len(data)), packed
                data += place + bytes(len(place) % 2)
            entries += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
        struct.pack_into(order + "I", data, link, len(data))
        data += struct.pack(order + "H", len(tags)) + entries
        link = len(data)
        data += bytes(4)
    return bytes(data)
