"""Hostile input: each malformed image is read correctly or refused by name, without side effects.

The tables build files from bytes, so the expected pixels do not depend on the library that reads
them.
"""

import copy
import io
import mmap
import os
import pickle
import re
import signal
import socket
import struct
import subprocess
import sys
import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from encoders import (
    COLOR,
    GRAY,
    SIDE,
    TURN,
    adam7,
    be,
    chunk,
    deep_png,
    encoded,
    exif_chunk,
    patched,
    png,
    scanlines,
    tiff,
    tiff_file,
    with_orientation,
)  # fmt: skip
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image
from snapshots import snapshot
from worlds import stripes

from anomalib_lite import BaseDetector, PartialFitMixin, PatchCore
from anomalib_lite.data import ImageStream, NetworkInput

NORMAL = stripes(6)


@pytest.fixture(scope="module")
def fitted():
    """A small PatchCore and its snapshot."""
    detector = PatchCore(image_size=64, coreset=30, random_state=0).fit(NORMAL)
    return detector, snapshot(detector)


@pytest.fixture(scope="module")
def detector(fitted):
    """Not to be changed."""
    return fitted[0]


class MeanImage(PartialFitMixin, BaseDetector):
    """Squared distance from the mean image: a detector without a network, quick to fit."""

    def _build(self, generator):
        return NetworkInput.raw(self.image_size, patch_size=8)

    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch for _, batch in batches])
        self.mean_ = images.mean(0)
        return (images - self.mean_).square().mean((1, 2, 3))

    def _infer(self, batch):
        squares = (batch - self.mean_).square().mean(1)
        return squares.mean((1, 2)), squares


class Hang(BaseException):
    """Not an Exception, so that no handler takes it for a broken file."""


@pytest.fixture(autouse=True)
def alarm():
    """Interrupt a test that waits forever."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(_signal, _frame):
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 60)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# -- files from bytes -----------------------------------------------------------------------------


def with_exif(data):
    """A JPEG with ``data`` as its EXIF block."""
    size = struct.pack(">H", len(data) + 8)
    return JPEG[:2] + b"\xff\xe1" + size + b"Exif\0\0" + data + JPEG[2:]


def altered_tiff(tag, value, code=">I"):
    """A TIFF with one tag altered."""
    data = tiff(GRAY, bits=8)
    return patched(data, data.index(struct.pack(">H", tag), 10) + 8, code, value)


def looping_tiff():
    """A TIFF whose only directory names itself as the next one."""
    data = encoded(GRAY, "TIFF")
    first = struct.unpack_from("<I", data, 4)[0]
    n_tags = struct.unpack_from("<H", data, first)[0]
    return patched(data, first + 2 + 12 * n_tags, "<I", first)


JPEG, BMP, GIF, TIFF, WEBP = (
    encoded(COLOR, "JPEG", quality=98, subsampling=0), encoded(COLOR, "BMP"),
    encoded(GRAY, "GIF"), encoded(GRAY, "TIFF"), encoded(COLOR, "WEBP", lossless=True),
)  # fmt: skip
ALPHA = np.dstack([COLOR, np.arange(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint8)])
COARSE = (GRAY // 17).astype(np.uint8)  # 4 bits
PAIRS = (GRAY // 85).astype(np.uint8).reshape(64, 16, 4)  # 2 bits

# name: (bytes of the file, expected pixels, tolerance in gray levels)
GOOD_FILES = {
    "png": (png(), GRAY, 0),
    "png of 16 bits": (png(scanlines(be(GRAY)), depth=16), GRAY, 0),
    "png of 4 bits": (
        png(scanlines(COARSE[:, ::2] << 4 | COARSE[:, 1::2]), depth=4), COARSE * 17, 0,
    ),
    "png of 1 bit": (
        png(scanlines(np.packbits(GRAY > 128, axis=1)), depth=1), (GRAY > 128) * np.uint8(255), 0,
    ),
    "png of 2 bits": (
        png(scanlines(np.uint8(PAIRS @ [64, 16, 4, 1])), depth=2), PAIRS.reshape(64, 64) * 85, 0,
    ),
    "interlaced png": (png(adam7(GRAY), interlace=1), GRAY, 0),
    "png without end": (png(end=False), GRAY, 0),
    "png with garbage behind": (png() + b"garbage" * 99, GRAY, 0),
    "png, one gray transparent": (png(extra=chunk(b"tRNS", b"\0\x05")), GRAY, 0),
    "png, one color transparent": (
        png(scanlines(COLOR), color=2, extra=chunk(b"tRNS", bytes(6))), COLOR, 0,
    ),
    "png with 10,000 comments": (png(extra=chunk(b"tEXt", b"a\0b") * 10_000), GRAY, 0),
    "png of an unknown chunk": (png(extra=chunk(b"abCd", b"?")), GRAY, 0),
    "png with gamma": (png(extra=chunk(b"gAMA", struct.pack(">I", 45455))), GRAY, 0),
    "palette": (encoded(Image.fromarray(GRAY).convert("P"), "PNG"), GRAY, 0),
    "interlaced gif": (encoded(GRAY, "GIF", interlace=1), GRAY, 0),
    "gif": (GIF, GRAY, 0),
    "jpeg": (JPEG, COLOR, 12),
    "progressive jpeg": (encoded(GRAY, "JPEG", progressive=True, quality=98), GRAY, 12),
    "jpeg with garbage behind": (JPEG + b"garbage" * 99, COLOR, 12),
    "jpeg with broken EXIF": (with_exif(b"\xff" * 12), COLOR, 12),
    "jpeg whose EXIF leads to itself": (
        with_exif(struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 34665, 4, 1, 8, 8)), COLOR, 12,
    ),
    "jpeg with letters for its orientation": (
        with_exif(struct.pack("<2sHIHHHI4sI", b"II", 42, 8, 1, 274, 2, 4, b"6", 0)), COLOR, 12,
    ),
    "turned jpeg": (with_orientation(6, kind="JPEG", quality=98), np.rot90(GRAY, -1), 12),
    "turned tiff": (with_orientation(6, kind="TIFF"), np.rot90(GRAY, -1), 0),
    "turned packed tiff": (
        with_orientation(8, kind="TIFF", compression="tiff_lzw"), np.rot90(GRAY), 0,
    ),
    "turned webp": (
        with_orientation(3, COLOR, "WEBP", lossless=True), COLOR[::-1, ::-1], 0,
    ),
    "jpeg with empty EXIF": (JPEG[:2] + b"\xff\xe1\0\2" + JPEG[2:], COLOR, 12),
    "CMYK jpeg": (
        encoded(Image.fromarray(COLOR).convert("CMYK"), "JPEG", quality=98, subsampling=0),
        COLOR, 12,
    ),
    "CMYK tiff": (encoded(Image.fromarray(COLOR).convert("CMYK"), "TIFF"), COLOR, 1),
    "YCbCr tiff": (encoded(Image.fromarray(COLOR).convert("YCbCr"), "TIFF"), COLOR, 3),
    "tiff": (TIFF, GRAY, 0),
    "tiff, big end first": (tiff(GRAY, bits=8), GRAY, 0),
    "tiff of 16 bits, big end first": (tiff(be(GRAY), bits=16), GRAY, 0),
    "tiff of floats, big end first": (
        tiff((GRAY / 255).astype(">f4"), bits=32, sample_format=3), GRAY, 0,
    ),
    "tiff whose white is zero": (altered_tiff(262, 0, ">H"), 255 - GRAY, 0),
    "tiff that says it has 7 bytes": (altered_tiff(279, 7), GRAY, 0),
    "tiff of floats": (encoded((GRAY / 255).astype(np.float32), "TIFF"), GRAY, 0),
    "tiff of 1 bit": (encoded(GRAY > 128, "TIFF"), (GRAY > 128) * np.uint8(255), 0),
    "fax": (encoded(GRAY > 128, "TIFF", compression="group4"), (GRAY > 128) * np.uint8(255), 0),
    "packed tiff": (encoded(GRAY, "TIFF", compression="tiff_lzw"), GRAY, 0),
    "tiff that comes again": (looping_tiff(), GRAY, 0),
    "bmp": (BMP, COLOR, 0),
    "bmp, top row first": (
        patched(BMP, 22, "<i", -SIDE), COLOR[::-1], 0,
    ),
    "webp": (WEBP, COLOR, 0),
    "jpeg 2000": (encoded(COLOR, "JPEG2000"), COLOR, 0),
    "pgm": (b"P5 64 64 255\n" + GRAY.tobytes(), GRAY, 0),
    "pgm in letters": (b"P2 64 64 255\n" + b" ".join(b"%d" % v for v in GRAY.flat), GRAY, 0),
    "pgm of 16 bits": (b"P5 64 64 65535\n" + be(GRAY).tobytes(), GRAY, 0),
    "pgm up to 15": (b"P5 64 64 15\n" + COARSE.tobytes(), COARSE * 17, 0),
    "pgm with a long comment": (
        b"P5\n#" + b"x" * 10**5 + b"\n64 64 255\n" + GRAY.tobytes(), GRAY, 0,
    ),
    "ppm": (b"P6 64 64 255\n" + COLOR.tobytes(), COLOR, 0),
    "pfm": (b"Pf\n64 64\n-1.0\n" + (GRAY[::-1] / 255).astype("<f4").tobytes(), GRAY, 0),
    **{
        f"EXIF orientation {o}": (with_orientation(o), turned, 0)
        for o, turned in {
            0: GRAY, 1: GRAY, 2: GRAY[:, ::-1], 3: GRAY[::-1, ::-1], 4: GRAY[::-1], 5: GRAY.T,
            6: np.rot90(GRAY, -1), 7: GRAY[::-1, ::-1].T, 8: np.rot90(GRAY), 9: GRAY, 999: GRAY,
        }.items()
    },
}  # fmt: skip

# the same, with an alpha channel
ALPHA_FILES = {
    "png with alpha": (png(scanlines(ALPHA), color=6), COLOR, 0),
    "gray png with alpha": (
        png(scanlines(np.dstack([GRAY, GRAY])), color=4), np.dstack([GRAY] * 3), 0,
    ),
    "palette, one color transparent": (
        encoded(Image.fromarray(GRAY).convert("P"), "PNG", transparency=3),
        np.dstack([GRAY] * 3), 0,
    ),
    "palette, all half transparent": (
        encoded(Image.fromarray(GRAY).convert("P"), "PNG", transparency=bytes(range(256))),
        np.dstack([GRAY] * 3), 0,
    ),
    "webp with alpha": (encoded(ALPHA, "WEBP", lossless=True, exact=True), COLOR, 0),
    "tiff with alpha": (encoded(ALPHA, "TIFF"), COLOR, 0),
}  # fmt: skip

# color of 16 bits: every bit counts
DEEP = np.random.default_rng(7).integers(0, 65536, (40, 56, 3), dtype=np.uint16)
DEEPER = np.dstack([DEEP, DEEP[..., 0] ^ 21])  # with alpha
TWELVE = DEEP >> 4
SCALED = np.rint(TWELVE * (65535 / 4095)).astype(np.uint16)
WIDE = {"size": (56, 40), "depth": 16}
PLANES = np.ascontiguousarray(DEEP.transpose(2, 0, 1))
PREDICTED = np.diff(DEEP, axis=1, prepend=np.zeros((40, 1, 3), np.uint16))


def ppm(array, highest, kind=b"P6"):
    if kind in (b"P3", b"P2"):
        return b"%b 56 40 %d\n" % (kind, highest) + b" ".join(b"%d" % v for v in array.flat)
    return b"%b 56 40 %d\n" % (kind, highest) + array.astype(">u2").tobytes()


DEEP_FILES = {
    "png": (deep_png(DEEP, 2), DEEP),
    "interlaced png": (
        png(adam7(DEEP.astype(">u2")), color=2, interlace=1, **WIDE), DEEP,
    ),
    "png, one color transparent": (
        deep_png(DEEP, 2, extra=chunk(b"tRNS", bytes(6))), DEEP,
    ),
    "png with gamma": (deep_png(DEEP, 2, extra=chunk(b"gAMA", struct.pack(">I", 45455))), DEEP),
    "turned png": (deep_png(DEEP, 2, extra=exif_chunk(6)), np.rot90(DEEP, -1)),
    "mirrored png": (deep_png(DEEP, 2, extra=exif_chunk(2)), DEEP[:, ::-1]),
    "gray png": (deep_png(DEEP[..., 0], 0), DEEP[..., :1]),
    "ppm": (ppm(DEEP, 65535), DEEP),
    "ppm of 12 bits": (ppm(TWELVE, 4095), SCALED),
    "ppm of 12 bits in letters": (ppm(TWELVE, 4095, b"P3"), SCALED),
    "pgm of 12 bits": (ppm(TWELVE[..., 0], 4095, b"P5"), SCALED[..., :1]),
    "pgm of 12 bits in letters": (ppm(TWELVE[..., 0], 4095, b"P2"), SCALED[..., :1]),
    "tiff behind its thumbnail": (tiff_file((DEEP[::4, ::4], {254: 1}), DEEP), DEEP),
    "gray tiff whose white is zero": (tiff_file((DEEP[..., 0], {262: 0})), 65535 - DEEP[..., :1]),
    "packed tiff with differences": (
        tiff_file((PREDICTED, {317: 2}), compressed=True), DEEP,
    ),
    **{
        f"{name}{' packed' * compressed}, {order}": (
            tiff_file(page, order=order, compressed=compressed), expected,
        )
        for name, page, expected in [
            ("tiff", DEEP, DEEP),
            ("turned tiff", (DEEP, TURN), np.rot90(DEEP, -1)),
            ("tiff of a fourth channel", (DEEPER, {338: 0}), DEEP),
            ("gray tiff", DEEP[..., 0], DEEP[..., :1]),
        ]
        for order in "<>"
        for compressed in (False, True)
    },
}  # fmt: skip

DEEP_ALPHA_FILES = {
    "png": (deep_png(DEEPER, 6), DEEP),
    "gray png": (deep_png(DEEPER[..., 2:], 4), DEEP[..., [2, 2, 2]]),
    "tiff": (tiff_file((DEEPER, {338: 2})), DEEP),
    "tiff, big end first": (tiff_file((DEEPER, {338: 2}), order=">"), DEEP),
}


def deep_jpeg2000():
    """The header of a color file says 16 bits."""
    data = encoded(COLOR, "JPEG2000")
    start = data.index(b"\xff\x4f\xff\x51") + 42
    for component in range(3):
        data = patched(data, start + 3 * component, "B", 15)
    return data


# several pictures in a file, of which one is meant
SMALL = np.ascontiguousarray(GRAY[::2, ::2])
OTHER = 255 - GRAY
PRIMARY_FILES = {
    "jpeg of two pictures": (
        encoded(GRAY, "MPO", save_all=True, append_images=[Image.fromarray(OTHER)]), GRAY, 15,
    ),
    "jpeg of three pictures": (
        encoded(GRAY, "MPO", save_all=True, append_images=[Image.fromarray(SMALL)] * 2), GRAY, 15,
    ),
    "turned jpeg of two pictures": (
        with_orientation(6, kind="MPO", save_all=True, append_images=[Image.fromarray(OTHER)]),
        np.rot90(GRAY, -1), 15,
    ),
    "tiff with a thumbnail": (tiff_file(GRAY, (SMALL, {254: 1})), GRAY, 0),
    "tiff with a thumbnail, old style": (tiff_file(GRAY, (SMALL, {255: 2})), GRAY, 0),
    "tiff with a thumbnail that is not marked": (tiff_file(GRAY, SMALL), GRAY, 0),
    "tiff with a marked thumbnail of equal size": (tiff_file(GRAY, (OTHER, {254: 1})), GRAY, 0),
    "tiff behind its thumbnail": (tiff_file((SMALL, {254: 1}), GRAY), GRAY, 0),
    "tiff behind a thumbnail that is not marked": (tiff_file(SMALL, GRAY), GRAY, 0),
    "packed tiff behind its thumbnail": (
        tiff_file((SMALL, {254: 1}), GRAY, compressed=True), GRAY, 0,
    ),
    "tiff with a mask": (tiff_file(GRAY, (OTHER, {254: 4})), GRAY, 0),
    "pyramid": (
        tiff_file(GRAY, (SMALL, {254: 1}), (SMALL[::2, ::2].copy(), {254: 1})), GRAY, 0,
    ),
    "pyramid that is not marked": (tiff_file(GRAY, SMALL, SMALL[::2, ::2].copy()), GRAY, 0),
    "turned tiff behind its thumbnail": (
        tiff_file((SMALL, {254: 1}), (GRAY[:, :40].copy(), TURN)), np.rot90(GRAY[:, :40], -1), 0,
    ),
    "tiff behind its turned thumbnail": (
        tiff_file((SMALL[:, :20].copy(), {254: 1, **TURN}), GRAY[:, :40].copy()), GRAY[:, :40], 0,
    ),
    "color tiff with a gray thumbnail": (tiff_file(COLOR, (SMALL, {254: 1})), COLOR, 0),
}  # fmt: skip

UNREADABLE = "cannot be read as an image"
TWO = [Image.fromarray(255 - GRAY)]
SHALLOW = "read up to 8 bits per channel.*PNG"
LOSSY_FILES = {
    "jpeg 2000 of 16 bits": (deep_jpeg2000(), SHALLOW),
    "tiff of planes of 16 bits": (tiff_file((PLANES, {284: 2})), SHALLOW),
    "packed tiff of planes of 16 bits": (tiff_file((PLANES, {284: 2}), compressed=True), SHALLOW),
    "CMYK tiff of 16 bits": (tiff_file((DEEPER, {262: 5})), SHALLOW),
    "tiff of 16 bits times alpha": (tiff_file((DEEPER, {338: 1})), SHALLOW),
    "ppm of 16 bits cut short": (ppm(DEEP, 65535)[:-99], UNREADABLE),
    "png of 16 bits cut short": (deep_png(DEEP, 2)[:-999], UNREADABLE),
    "tiff of 16 bits cut short": (tiff_file(DEEP)[:-999], UNREADABLE),
    "color tiff of floats": (tiff_file((COLOR / 255).astype(np.float32)), UNREADABLE),
    "color pfm": (b"PF\n64 64\n-1.0\n" + (COLOR / 255).astype("<f4").tobytes(), UNREADABLE),
}

BAD_FILES = {
    **LOSSY_FILES,
    "tiff of two pages of which none is small": (tiff_file(GRAY, GRAY[:33].copy()), "2 frames"),
    "tiff of a page and a narrow one": (tiff_file(GRAY, GRAY[:, :20].copy()), "2 frames"),
    "tiff of a page and a low one": (tiff_file(GRAY, GRAY[:20].copy()), "2 frames"),
    "tiff of two pages of a document": (tiff_file((GRAY, {254: 2}), (OTHER, {254: 2})), "2 frames"),
    "tiff of two pages and a thumbnail": (
        tiff_file(GRAY, OTHER, (SMALL, {254: 1})), "3 frames.*file of its own",
    ),
    "tiff behind whose thumbnail are 3.6 gigapixels": (
        tiff_file((SMALL, {254: 1}), (GRAY, {256: 60_000, 257: 60_000})), "decompression bomb",
    ),
    "tiff of thumbnails alone": (tiff_file((SMALL, {254: 1}), (SMALL, {254: 1})), "2 frames"),
    "tiff of 65 pages": (tiff_file(GRAY, *[SMALL] * 64), "65 frames"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(99), r"pip install pillow-heif.*register_heif_opener"),
    "heic by another brand": (b"\0\0\0\x18ftypmif1" + bytes(99), "pillow-heif"),
    "avif": (b"\0\0\0\x18ftypavif" + bytes(99), UNREADABLE),
    "empty": (b"", UNREADABLE),
    "zeros": (bytes(999), UNREADABLE),
    "text": (b"hello " * 99, UNREADABLE),
    "html": (b"<html><script>alert(1)</script></html>", UNREADABLE),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>", UNREADABLE),
    "zip": (b"PK\3\4" + bytes(99), UNREADABLE),
    "pdf": (b"%PDF-1.4\n1 0 obj\n", UNREADABLE),
    "first bytes of a png": (png()[:8], UNREADABLE),
    "png of no width": (png(size=(0, SIDE)), UNREADABLE),
    "png of no height": (png(size=(SIDE, 0)), UNREADABLE),
    "png whose header was altered": (png(crc=0), UNREADABLE),
    "png of an impossible depth": (png(depth=3), UNREADABLE),
    "png of an impossible color": (png(color=5), UNREADABLE),
    "png of an impossible filter": (png(b"".join(b"\x09" + r.tobytes() for r in GRAY)), UNREADABLE),
    "png with too few rows": (png(scanlines(GRAY[:30])[:-5]), UNREADABLE),
    "png without pixels": (png(b""), UNREADABLE),
    "png of 3.6 gigapixels": (png(size=(60_000, 60_000)), "decompression bomb"),
    "png of the largest size there is": (png(size=(2**31 - 1, 2**31 - 1)), "decompression bomb"),
    "png with a comment of 100 MB, packed": (
        png(extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))), "too large",
    ),
    "png with a profile of 100 MB, packed": (
        png(extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))), "too large",
    ),
    "png of two frames": (encoded(GRAY, "PNG", save_all=True, append_images=TWO), "2 frames"),
    "gif of two frames": (encoded(GRAY, "GIF", save_all=True, append_images=TWO), "2 frames"),
    "webp of two frames": (encoded(GRAY, "WEBP", save_all=True, append_images=TWO), "2 frames"),
    "tiff of two pages": (encoded(GRAY, "TIFF", save_all=True, append_images=TWO), "2 frames"),
    "tiff without tags": (patched(tiff(GRAY, bits=8), 8, ">H", 0), UNREADABLE),
    "tiff of 65,535 tags": (patched(tiff(GRAY, bits=8), 8, ">H", 65_535), UNREADABLE),
    "tiff of no width": (altered_tiff(256, 0), UNREADABLE),
    "tiff of 137 gigapixels": (altered_tiff(256, 2**31), "decompression bomb"),
    "tiff whose pixels are far away": (altered_tiff(273, 10**8), UNREADABLE),
    "tiff of floats of 64 bits": (
        tiff((GRAY / 255).astype(">f8"), bits=64, sample_format=3), UNREADABLE,
    ),
    "tiff of floats of 16 bits": (
        tiff((GRAY / 255).astype(">f2"), bits=16, sample_format=3), UNREADABLE,
    ),
    "tiff without a directory": (patched(TIFF, 4, "<I", 0), UNREADABLE),
    "tiff whose directory is far away": (patched(TIFF, 4, "<I", 10**9), UNREADABLE),
    "tiff of floats up to 255": (encoded(GRAY.astype(np.float32), "TIFF"), r"lie in \[0, 1\]"),
    "tiff of floats with NaN": (
        encoded(np.where(GRAY > 128, np.nan, 0.5).astype(np.float32), "TIFF"), "NaN",
    ),
    "tiff of 32 bits": (encoded(GRAY.astype(np.int32) * 10**6, "TIFF"), "int32"),
    "tiff below zero": (encoded(-GRAY.astype(np.int32), "TIFF"), "int32"),
    "bmp of 34 gigapixels": (patched(BMP, 18, "<ii", 2**31 - 1, 16), "decompression bomb"),
    "bmp of an absurd header": (patched(BMP, 14, "<I", 999_999), UNREADABLE),
    "bmp of an unknown compression": (patched(BMP, 30, "<I", 77), UNREADABLE),
    "pgm cut short": (b"P5 64 64 255\n" + GRAY.tobytes()[:999], UNREADABLE),
    "pgm of 10 gigapixels": (b"P5 100000 100000 255\n", "decompression bomb"),
    "pgm of negative size": (b"P5 -64 64 255\n" + GRAY.tobytes(), UNREADABLE),
    "pgm up to 0": (b"P5 64 64 0\n" + GRAY.tobytes(), UNREADABLE),
    "pgm of words": (b"P2 64 64 255\nnot a number", UNREADABLE),
    "jpeg of no size": (JPEG.replace(struct.pack(">HH", SIDE, SIDE), bytes(4), 1), UNREADABLE),
    "jpeg that says it is progressive": (JPEG.replace(b"\xff\xc0", b"\xff\xc2", 1), UNREADABLE),
    "jpeg that says it is lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1), UNREADABLE),
    "jpeg with EXIF cut short": (with_exif(b"II*\0\x08\0\0\0\x05\0"), UNREADABLE),
    "png with broken EXIF": (png(extra=chunk(b"eXIf", b"junkjunk")), UNREADABLE),
    "jpeg without tables": (JPEG[:2] + JPEG[JPEG.index(b"\xff\xda"):], UNREADABLE),
    "png of one pixel": (encoded(GRAY[:1, :1], "PNG"), "at least 8 pixels per side"),
    **{
        f"{share:.0%} of a {name}": (data[: int(len(data) * share)], UNREADABLE)
        for name, data in [("png", png()), ("jpeg", JPEG), ("tiff", TIFF), ("gif", GIF),
                           ("bmp", BMP), ("webp", WEBP)]
        for share in (0.03, 0.5, 0.9)
    },
}  # fmt: skip


def write(folder, data, name="picture.png"):
    path = folder / name
    path.write_bytes(data)
    return path


def assert_read_as(item, picture, off):
    (image,) = ImageStream([item])
    expected = (picture[..., None] if picture.ndim == 2 else picture).transpose(2, 0, 1) / 255
    assert image.path is None or isinstance(image.path, str)
    pixels = image.pixels.numpy()
    assert pixels.shape[1:] == expected.shape[1:]
    assert np.abs(pixels - expected).max() <= off / 255 + 1e-6


def assert_refused(fitted, items, pattern, place=2):
    """Scoring and inspecting raise an error that names the image, and change nothing."""
    detector, before = fitted
    for method in (detector.score_samples, detector.inspect):
        with pytest.raises(ValueError, match=rf"(?s)^image {place}\b.*{pattern}") as caught:
            method(items)
        if isinstance(items[place], str | os.PathLike):
            assert str(items[place]) in str(caught.value)
    assert snapshot(detector) == before


@pytest.mark.parametrize("name", GOOD_FILES)
def test_unusual_file_is_read_correctly(name, detector, tmp_path):
    data, picture, off = GOOD_FILES[name]
    path = write(tmp_path, data)
    assert_read_as(path, picture, off)
    if off == 0:
        expected = detector.score_samples([np.ascontiguousarray(picture)])
        np.testing.assert_array_equal(detector.score_samples([path]), expected)


@pytest.mark.parametrize("name", ALPHA_FILES)
def test_alpha_of_a_file_is_dropped_with_a_warning(name, tmp_path):
    data, picture, off = ALPHA_FILES[name]
    with pytest.warns(UserWarning, match=r"image 0 .*alpha channel is dropped"):
        assert_read_as(write(tmp_path, data), picture, off)


@pytest.mark.parametrize("name", DEEP_FILES)
def test_color_keeps_all_bits(name, tmp_path):
    data, expected = DEEP_FILES[name]
    (image,) = ImageStream([write(tmp_path, data)])
    assert image.dtype == "uint16"
    np.testing.assert_array_equal(image.pixels.movedim(0, -1) * 65535, expected.astype(np.float32))


@pytest.mark.parametrize("name", DEEP_ALPHA_FILES)
def test_color_beside_alpha_keeps_all_bits(name, tmp_path):
    data, expected = DEEP_ALPHA_FILES[name]
    with pytest.warns(UserWarning, match="alpha channel is dropped"):
        (image,) = ImageStream([write(tmp_path, data)])
    np.testing.assert_array_equal(image.pixels.movedim(0, -1) * 65535, expected.astype(np.float32))


@pytest.mark.parametrize("name", PRIMARY_FILES)
def test_primary_picture_is_read(name, tmp_path):
    data, picture, off = PRIMARY_FILES[name]
    path = write(tmp_path, data)
    assert_read_as(path, picture, off)
    with Image.open(path) as opened:
        assert_read_as(opened, picture, off)
        assert opened.tell() == 0


def test_opened_file_at_another_picture_is_refused(tmp_path):
    with Image.open(write(tmp_path, PRIMARY_FILES["jpeg of two pictures"][0])) as opened:
        opened.seek(1)
        with pytest.raises(ValueError, match="Which one is meant"):
            list(ImageStream([opened]))
        assert opened.tell() == 1


@pytest.mark.parametrize("name", BAD_FILES)
def test_malformed_file_is_refused(name, fitted, tmp_path):
    data, pattern = BAD_FILES[name]
    assert_refused(fitted, [GRAY, GRAY, write(tmp_path, data)], pattern)


class Canary:
    """Its pickle creates a folder when it is loaded."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("language", ["pickle", "PostScript"])
def test_code_in_a_file_is_never_run(language, fitted, tmp_path, monkeypatch):
    canary = tmp_path / "canary"
    interpreter = write(tmp_path, f"#!/bin/sh\nmkdir {canary}\n".encode(), "gs")
    interpreter.chmod(0o700)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", str(interpreter))
    data = pickle.dumps(Canary(canary)) if language == "pickle" else POSTSCRIPT
    assert_refused(fitted, [GRAY, GRAY, write(tmp_path, data)], UNREADABLE)
    assert not canary.exists()


# -- single items ---------------------------------------------------------------------------------

NO_FILE = "expected a file, got a folder, a pipe or a device"


def pipe(folder):
    os.mkfifo(folder / "pipe.png")  # opening it would wait forever
    return folder / "pipe.png"


def named_socket(folder):
    with socket.socket(socket.AF_UNIX) as here:
        here.bind(str(folder / "socket.png"))
    return folder / "socket.png"


def link(target):
    def make(folder):
        (folder / "link.png").symlink_to(folder / target)
        return folder / "link.png"

    return make


def sub_folder(folder):
    (folder / "folder.png").mkdir()
    return folder / "folder.png"


class Misleading:
    """Claims to be an array at address 0."""

    __array_interface__ = {"shape": (64, 64), "typestr": "|u1", "data": (0, False), "version": 3}  # noqa: RUF012


class ArrayLike:
    def __array__(self, dtype=None, copy=None):
        return GRAY


class NamedInBytes:
    """A path given as bytes."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return os.fsencode(self.path)


def tensor_of_vmap():
    seen = []
    torch.vmap(lambda image: seen.append(image) or image)(torch.zeros(2, 1, 64, 64))
    return seen[0]


def one_nan(*shape, at):
    tensor = torch.zeros(shape)
    tensor[at] = torch.nan
    return tensor


def closed_picture(folder):
    picture = Image.open(write(folder, png()))
    picture.close()
    return picture


def picture_of_a_lost_file(folder):
    path = write(folder, JPEG * 1)
    with open(path, "rb") as file:
        picture = Image.open(io.BytesIO(file.read()[:200] + bytes(10)))
    return picture


def with_one(value):
    array = np.full((SIDE, SIDE), 0.5)
    array[3, 7] = value
    return lambda folder: array


def fixed(value):
    return lambda folder: value


BAD_ITEMS = {
    "a folder": (sub_folder, NO_FILE),
    "a pipe": (pipe, NO_FILE),
    "a socket": (named_socket, NO_FILE),
    "endless zeros": (fixed("/dev/zero"), NO_FILE),
    "nothing": (fixed("/dev/null"), NO_FILE),
    "a dangling link": (link("nowhere.png"), "No such file"),
    "a link to itself": (link("link.png"), "symbolic links"),
    "no such file": (lambda folder: folder / "none.png", "No such file"),
    "a name with a zero": (fixed("a\0b.png"), "null byte"),
    "a name beyond length": (fixed("x" * 5000 + ".png"), "too long"),
    "bytes for a name": (fixed(b"picture.png"), "got bytes"),
    "the bytes of a file": (fixed(png()), "got bytes"),
    "an open file": (fixed(io.BytesIO(png())), "got BytesIO"),
    "a closed picture": (closed_picture, "closed"),
    "a picture whose file is gone": (picture_of_a_lost_file, UNREADABLE),
    "a picture of no size": (fixed(Image.new("L", (0, 64))), "empty"),
    "a picture of 32 bits": (fixed(Image.new("I", (64, 64), 70_000)), "int32"),
    "a misleading object": (fixed(Misleading()), "got Misleading"),
    "an array-like object": (fixed(ArrayLike()), "got ArrayLike"),
    "None": (fixed(None), "got NoneType"),
    "a number": (fixed(3), "got int"),
    "a nested list": (fixed(GRAY.tolist()), r"got list.*numpy\.asarray"),
    "a ragged list": (fixed([[1, 2], [3]]), "got list"),
    "a dict of another kind": (
        fixed({"photograph of": GRAY}), "got dict with the keys 'photograph of'.*image, img",
    ),
    "an empty dict": (fixed({}), "got dict"),
    "a dict whose image is none": (fixed({"image": None}), "got NoneType"),
    "a list of two images": (fixed([GRAY, GRAY]), "got list"),
    "a list of two paths": (fixed(["a.png", "b.png"]), "got list"),
    "a pair whose image is none": (fixed((None, 1)), "got NoneType"),
    "an empty pair": (fixed(()), "got tuple"),
    "a label and its image": (fixed((1, GRAY)), "got int"),
    "a set": (fixed({1}), "got set"),
    "int64": (fixed(GRAY.astype(np.int64)), r"int64.*astype\(numpy.uint8\)"),
    "int8": (fixed(GRAY.astype(np.int8)), "int8"),
    "uint32": (fixed(GRAY.astype(np.uint32)), "uint32"),
    "complex": (fixed(GRAY.astype(complex)), "complex128"),
    "dates": (fixed(GRAY.astype("M8[s]")), "datetime64"),
    "raw bytes": (fixed(GRAY.view("V1")), "got .V1"),
    "records": (fixed(np.zeros((64, 64), [("a", "u1")])), "got"),
    "letters": (fixed(np.full((64, 64), "a")), "got <U1"),
    "objects": (fixed(GRAY.astype(object)), "got object"),
    "a NaN": (with_one(np.nan), r"NaN or infinity, first at index \(3, 7\)"),
    "an infinity": (with_one(np.inf), r"\(3, 7\)"),
    "a negative infinity": (with_one(-np.inf), r"\(3, 7\)"),
    "a float of 1.01": (with_one(1.01), r"\[0, 1\], got \[0.5, 1.01\]"),
    "a float of -0.01": (with_one(-0.01), r"\[0, 1\]"),
    "floats up to 255": (fixed(GRAY.astype(float)), r"Values 0\.\.255"),
    "a NaN of 16 bits": (fixed(np.full((64, 64), np.nan, np.float16)), "NaN"),
    "masked pixels": (fixed(np.ma.array(GRAY, mask=GRAY > 100)), "masked"),
    "one dimension": (fixed(np.zeros(64, np.uint8)), r"expected one image \(H, W\)"),
    "no dimension": (fixed(np.array(3)), "expected one image"),
    "four dimensions": (fixed(np.zeros((1, 64, 64, 3), np.uint8)), "expected one image"),
    "two channels": (fixed(np.zeros((64, 64, 2), np.uint8)), "1, 3 or 4 channels on the last"),
    "five channels": (fixed(np.zeros((64, 64, 5), np.uint8)), "1, 3 or 4 channels"),
    "channels first": (fixed(np.zeros((3, 64, 64), np.uint8)), "1, 3 or 4 channels"),
    "no rows": (fixed(np.zeros((0, 64), np.uint8)), r"got the empty shape \(0, 64\)"),
    "no columns": (fixed(np.zeros((64, 0, 3), np.uint8)), "empty"),
    "no channels": (fixed(np.zeros((64, 64, 0), np.uint8)), "empty"),
    "one pixel": (fixed(np.zeros((1, 1), np.uint8)), "at least 8 pixels per side"),
    "2 x 30,000": (fixed(np.zeros((2, 30_000), np.uint8)), "at least 8 pixels per side"),
    "a pair of a path to nowhere": (lambda folder: (folder / "none.png", 1), "No such file"),
    "30,000 x 2": (fixed(np.zeros((30_000, 2), np.uint8)), "at least 8 pixels per side"),
    "tensor, channels last": (fixed(torch.zeros(64, 64, 3)), "on the first axis"),
    "tensor of int64": (fixed(torch.zeros(1, 64, 64, dtype=torch.int64)), "int64"),
    "tensor of complex": (fixed(torch.zeros(1, 64, 64, dtype=torch.complex64)), "complex64"),
    "conjugate tensor": (
        fixed(torch.zeros(1, 64, 64, dtype=torch.complex64).conj()), "cannot be read",
    ),
    "sparse tensor": (fixed(torch.rand(1, 64, 64).to_sparse()), "dense tensor"),
    "tensor without values": (fixed(torch.zeros(1, 64, 64, device="meta")), "cannot be read"),
    "tensor within vmap": (fixed(tensor_of_vmap()), "cannot be read"),
    "tensor with a NaN": (fixed(one_nan(3, 64, 64, at=(1, 5, 7))), r"first at index \(1, 5, 7\)"),
    "tensor of one dimension": (fixed(torch.zeros(64)), r"\(C, H, W\)"),
}  # fmt: skip

GOOD_ITEMS = {
    "a pair": (fixed((GRAY, 1)), GRAY),
    "a pair of a path and a name": (lambda folder: (write(folder, png()), "good"), GRAY),
    "a pair in a list": (fixed([GRAY, 1]), GRAY),
    "a pair of a path and a name in a list": (
        lambda folder: [str(write(folder, png())), "good"], GRAY,
    ),
    "an image and its mask": (fixed((GRAY, GRAY > 9)), GRAY),
    "an image, its mask and its label": (fixed((GRAY, GRAY > 9, 1)), GRAY),
    "a pair of a dict": (fixed(({"image": GRAY}, 1)), GRAY),
    "a dict": (fixed({"label": 1, "image": GRAY}), GRAY),
    "a dict of a path": (lambda folder: {"path": write(folder, png())}, GRAY),
    "a dict of a tensor": (fixed({"pixel_values": torch.from_numpy(COLOR).movedim(-1, 0)}), COLOR),
    "a dict of a picture": (fixed({"img": Image.fromarray(GRAY)}), GRAY),
    "a dict in capitals": (fixed({"Image": GRAY}), GRAY),
    "a dict of an image and its path": (fixed({"image_path": "lost.png", "image": GRAY}), GRAY),
    "a dict with a number for a key": (fixed({0: 1, "x": GRAY}), GRAY),
    "a link": (lambda folder: write(folder, png()) and link("picture.png")(folder), GRAY),
    "unicode": (lambda folder: write(folder, png(), "Bärenfoto 🙂 猫.png"), GRAY),
    "a line break in the name": (lambda folder: write(folder, png(), "a\nb.png"), GRAY),
    "a name that is not UTF-8": (
        lambda folder: write(folder, png(), os.fsdecode(b"\xff\xfe.png")), GRAY,
    ),
    "a name in bytes": (lambda folder: NamedInBytes(write(folder, png())), GRAY),
    "a png called .jpg": (lambda folder: write(folder, png(), "x.jpg"), GRAY),
    "a png called .txt": (lambda folder: write(folder, png(), "x.txt"), GRAY),
    "a bmp called .tiff": (lambda folder: write(folder, BMP, "x.tiff"), COLOR),
    "a name without end": (lambda folder: write(folder, png(), "x"), GRAY),
    "capitals": (lambda folder: write(folder, png(), "X.PNG"), GRAY),
    "a numpy string": (lambda folder: np.str_(write(folder, png())), GRAY),
    "floats": (fixed(GRAY / 255), GRAY),
    "floats of 16 bits": (fixed(np.float16([[0.5] * 64] * 64)), np.full((64, 64), 127.5)),
    "long floats": (fixed((GRAY / 255).astype(np.longdouble)), GRAY),
    "floats a rounding above 1": (fixed(np.full((64, 64), 1 + 1e-7)), np.full((64, 64), 255)),
    "negative zeros": (fixed(np.full((64, 64), -0.0)), np.zeros((64, 64))),
    "the smallest number": (fixed(np.full((64, 64), 5e-324)), np.zeros((64, 64))),
    "uint16": (fixed(GRAY.astype(np.uint16) * 257), GRAY),
    "uint16, big end first": (fixed(be(GRAY)), GRAY),
    "floats, big end first": (fixed((GRAY / 255).astype(">f4")), GRAY),
    "bool": (fixed(GRAY > 128), (GRAY > 128) * 255.0),
    "read only": (fixed(np.frombuffer(GRAY.tobytes(), np.uint8).reshape(64, 64)), GRAY),
    "Fortran order": (fixed(np.asfortranarray(COLOR)), COLOR),
    "negative strides": (fixed(GRAY[::-1, ::-1].copy()[::-1, ::-1]), GRAY),
    "every second pixel": (fixed(GRAY.repeat(2, 0).repeat(2, 1)[::2, ::2]), GRAY),
    "zero strides": (fixed(np.broadcast_to(GRAY[:1], (64, 64))), GRAY[:1].repeat(64, 0)),
    "unaligned": (
        fixed(np.frombuffer(b"x" + be(GRAY).tobytes(), ">u2", offset=1).reshape(64, 64)), GRAY,
    ),
    "a matrix": (fixed(np.asmatrix(GRAY)), GRAY),
    "one channel": (fixed(GRAY[..., None]), GRAY),
    "tensor": (fixed(torch.from_numpy(COLOR).movedim(-1, 0)), COLOR),
    "tensor with a gradient": (
        fixed((torch.from_numpy(GRAY)[None] / 255).requires_grad_()), GRAY,
    ),
    "tensor of bfloat16": (
        fixed(torch.full((1, 64, 64), 0.5).bfloat16()), np.full((64, 64), 127.5),
    ),
    "tensor of float64": (fixed(torch.from_numpy(GRAY / 255)[None]), GRAY),
    "expanded tensor": (fixed(torch.from_numpy(GRAY).expand(3, 64, 64)), np.dstack([GRAY] * 3)),
    "flipped tensor": (fixed(torch.from_numpy(COLOR).movedim(-1, 0).flip(1).flip(1)), COLOR),
    "inference tensor": (lambda folder: inference_tensor(), GRAY),
    "picture of floats": (fixed(Image.fromarray((GRAY / 255).astype(np.float32))), GRAY),
    "picture of 16 bits": (fixed(Image.fromarray(GRAY.astype(np.uint16) * 257)), GRAY),
    "lazy picture": (lambda folder: Image.open(write(folder, png())), GRAY),
    "very long": (fixed(np.zeros((8, 30_000), np.uint8)), np.zeros((8, 30_000))),
}  # fmt: skip


def inference_tensor():
    with torch.inference_mode():
        return torch.from_numpy(GRAY)[None].clone()


@pytest.mark.parametrize("name", BAD_ITEMS)
def test_item_that_is_no_image_is_refused(name, fitted, tmp_path):
    make, pattern = BAD_ITEMS[name]
    assert_refused(fitted, [GRAY, GRAY, make(tmp_path)], pattern)


@pytest.mark.parametrize("name", GOOD_ITEMS)
def test_unusual_item_is_read_correctly(name, detector, tmp_path):
    make, picture = GOOD_ITEMS[name]
    item = make(tmp_path)
    assert_read_as(item, np.asarray(picture, dtype=np.float64), 0.01 if "16" in name else 0)
    assert np.isfinite(detector.score_samples([item])).all()


def test_quantized_tensor_is_refused(fitted):
    with pytest.warns(UserWarning, match="quantized"):
        tensor = torch.quantize_per_tensor(torch.rand(1, 64, 64), 1 / 255, 0, torch.quint8)
    assert_refused(fitted, [GRAY, GRAY, tensor], "cannot be read")


# -- skipping -------------------------------------------------------------------------------------


def without_addresses(text):
    return re.sub("0x[0-9a-f]+", "", text)


@pytest.mark.parametrize("name", [*BAD_FILES, *BAD_ITEMS])
def test_unreadable_image_is_skipped_with_the_reason_of_its_error(name, tmp_path):
    bad, pattern = make_bad(name, tmp_path)
    images = [GRAY, bad, COLOR, bad]
    stream = ImageStream(images, min_side=8, on_error="skip")
    assert [(image.index, image.label) for image in stream] == [(0, "image 0"), (2, "image 2")]
    assert [index for index, _, _ in stream.skipped] == [1, 3]
    with pytest.raises(ValueError, match=rf"(?s)^image 1\b.*{pattern}") as caught:
        list(ImageStream(images, min_side=8))
    raised = without_addresses(str(caught.value))
    item = bad[0] if isinstance(bad, tuple) and bad else bad
    for _, path, reason in stream.skipped:
        assert path == (str(item) if isinstance(item, str | os.PathLike) else None)
        assert without_addresses(reason).replace("image 3", "image 1", 1) == raised


# -- collections ----------------------------------------------------------------------------------


class Failing(torch.utils.data.Dataset):
    """Raises an error, or ends, before the length it claims."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return GRAY


def holding_itself():
    images = [GRAY]
    images.append(images)
    return images


BAD_COLLECTIONS = {
    "None": (None, "got NoneType"),
    "a number": (3, "got int"),
    "a dict": ({"a": GRAY}, "got dict"),
    "a set, in whatever order": ({"a.png", "b.png"}, "got set"),
    "the keys of a dict": ({"a.png": 1}.keys(), "got dict_keys"),
    "bytes": (b"\1\2", "got bytes"),
    "an open file": (io.BytesIO(b"a\nb"), "image 0: .*got bytes"),
    "numbers": (range(3), "image 0: .*got int"),
    "one picture": (Image.fromarray(GRAY), r"Pass \[image\]"),
    "one path that is a file": (__file__, r"Pass a list: \[path\]"),
    "a path to nowhere": ("nowhere at all", "does not exist"),
    "a path beyond length": ("x" * 5000, "too long"),
    "a path with a zero": ("a\0b", "null byte"),
    "an empty path": ("", "empty string"),
    "an empty list": ([], "at least one image"),
    "an empty tuple": ((), "at least one image"),
    "an empty generator": (iter(()), "at least one image"),
    "an empty array": (np.zeros((0, 64, 64), np.uint8), "at least one image"),
    "an empty tensor": (torch.zeros(0, 1, 64, 64), "at least one image"),
    "a table": (np.zeros((5, 9)), "table"),
    "a list that holds itself": (holding_itself(), "image 1: .*got list"),
    "one color image": (COLOR, r"Pass X\[None\]"),
    "one tensor": (torch.zeros(3, 64, 64), r"X\[None\]"),
    "channels first": (np.zeros((2, 3, 64, 64)), "channels first"),
    "channels last": (torch.zeros(2, 64, 64, 3), "channels last"),
    "nothing": (np.array(3), r"shape \(\)"),
    "five dimensions": (np.zeros((1, 1, 64, 64, 3)), "expected images"),
    "objects in two dimensions": (np.full((2, 2), None), "expected images"),
    "numbers as objects": (np.array([0.1, 0.2], dtype=object), "got float"),
    "masked": (np.ma.array(GRAY[None], mask=GRAY[None] > 9), "masked"),
    "mixed with a float of 255": ([GRAY / 255, GRAY.astype(float)], r"image 1: .*\[0, 1\]"),
    "an image and its mask, perhaps": (iter([[GRAY, GRAY]]), "mask"),
    "a dict of splits": ({"train": [GRAY], "test": [GRAY]}, "keys 'train', 'test'.*image, img"),
    "a dict of one path": ({"image": "nowhere.png"}, "does not exist"),
    "a dict of one image": ({"image": COLOR}, r"Pass X\[None\]"),
    "a table of two columns": (
        pd.DataFrame({"path": ["a.png"], "label": [1]}),
        r"got 2: path, label.*X\['path'\]",
    ),
    "a table of pixels": (pd.DataFrame(np.zeros((3, 784))), "got 784: 0, 1, 2"),
    "a table of no column": (pd.DataFrame(index=[1, 2]), "one column.*got 0"),
    "a table of no row": (pd.DataFrame({"path": []}), "at least one image"),
    "a table of numbers": (pd.DataFrame({"pixel": [0.1, 0.2]}), "image 0: .*got float"),
    "a column of missing paths": (pd.Series(["a.png", None]), "image 0 .*No such file"),
    "a column of numbers": (pd.Series([1, 2]), "image 0: .*got int"),
    "an empty column": (pd.Series([], dtype=object), "at least one image"),
    "images with their labels": (([GRAY], [1]), "image 0: .*got list|image 1"),
    "pairs in an array": (np.array([["a.png", "1"]], dtype=object), "expected images"),
    "a loader of dicts of another kind": (iter([{"photograph of": GRAY}]), "image 0: .*got dict"),
    "a loader of a batch without image": (iter([{"label": torch.zeros(4)}]), "image 0: .*'label'"),
    "dicts without image in a list": (iter([[{"a": 1}, {"a": 2}]]), "image 0: .*got dict"),
    "a lambda": (lambda: GRAY, "got function"),
    "a class": (Failing, "got type"),
    "a class of things that can be iterated": (list, "got type"),
    "sparse": (torch.zeros(2, 1, 64, 64).to_sparse(), "image 0: .*dense tensor"),
    "without values": (torch.zeros(2, 1, 64, 64, device="meta"), "image 0: .*cannot be read"),
}


@pytest.mark.parametrize("name", BAD_COLLECTIONS)
def test_invalid_collection_is_refused(name, fitted):
    detector, before = fitted
    given, pattern = BAD_COLLECTIONS[name]
    with pytest.raises(ValueError, match=rf"(?s){pattern}"):
        detector.score_samples(given)
    assert snapshot(detector) == before


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1")
def test_array_of_variable_width_strings_holds_paths(tmp_path):
    path = str(write(tmp_path, png()))
    (image,) = ImageStream(np.array([path], dtype=np.dtypes.StringDType()))
    assert image.path == path


def test_folder_may_be_named_in_bytes(tmp_path):
    path = write(tmp_path, png())
    (image,) = ImageStream(NamedInBytes(tmp_path))
    assert image.path == str(path)


def test_stream_that_is_given_is_held_to_the_side_of_the_network(fitted):
    detector, before = fitted
    with pytest.raises(ValueError, match="image 1: expected at least 8 pixels per side"):
        detector.score_samples(ImageStream([GRAY, GRAY[:4]]))
    assert snapshot(detector) == before


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensor_is_refused(detector):
    nested = torch.nested.nested_tensor([torch.rand(1, 64, 64), torch.rand(1, 70, 70)])
    with pytest.raises(ValueError, match=r"X\.unbind\(\)"):
        detector.score_samples(nested)


@pytest.mark.parametrize("error", [OSError("disk"), IndexError(2), RuntimeError("mine")])
def test_errors_of_the_callers_code_are_passed_on(error, fitted):
    def generator():
        yield GRAY
        raise error

    detector, before = fitted
    quick = MeanImage(image_size=64).fit(NORMAL)
    quick_before = snapshot(quick)
    for images in (Failing(error), generator()):
        with pytest.raises(type(error)) as caught:
            detector.score_samples(images)
        assert caught.value is error
    with pytest.raises(type(error)) as caught:
        quick.fit(Failing(error))
    assert caught.value is error
    assert snapshot(detector) == before
    assert snapshot(quick) == quick_before


def test_reused_buffer_is_read_before_it_changes(detector):
    def frames():
        buffer = np.empty((64, 64), np.uint8)
        for image in NORMAL:
            buffer[:] = image
            yield buffer

    np.testing.assert_array_equal(detector.score_samples(frames()), detector.score_samples(NORMAL))


def test_missing_permission_is_a_permission_error(detector, tmp_path, monkeypatch):
    path = write(tmp_path, png())

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)  # root may read everything
    with pytest.raises(PermissionError, match=r"picture\.png"):
        detector.score_samples([GRAY, path])


def test_unreadable_folder_is_an_error(tmp_path, monkeypatch):
    write(tmp_path, png())
    (tmp_path / "locked").mkdir()
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="locked"):
        ImageStream(tmp_path)


def test_files_are_never_memory_mapped(tmp_path, monkeypatch):
    """A memory-mapped file that is truncated while it is read would crash the process."""
    path = write(tmp_path, b"P5 64 64 255\n" + GRAY.tobytes(), "picture.pgm")

    def refuse(*_arguments, **_options):
        raise AssertionError("memory-mapped")

    monkeypatch.setattr(mmap, "mmap", refuse)
    assert_read_as(path, GRAY, 0)
    with Image.open(path) as by_name:
        assert_read_as(by_name, GRAY, 0)
        assert by_name.filename == str(path)
    with pytest.raises(AssertionError, match="memory-mapped"), Image.open(path) as by_name:
        by_name.load()  # what Pillow does by itself


def test_turned_tiff_that_was_opened_is_read(tmp_path):
    with Image.open(write(tmp_path, tiff_file((GRAY[:, :40].copy(), TURN)))) as opened:
        assert_read_as(opened, np.rot90(GRAY[:, :40], -1), 0)


TRUNCATED_WHILE_READ = """
import os, sys
from PIL import ImageOps
from anomalib_lite.data import ImageStream

def cut(image, upright=ImageOps.exif_transpose, **options):
    image.load()
    os.truncate(sys.argv[1], 20)
    return upright(image, **options)

ImageOps.exif_transpose = cut
(image,) = ImageStream(sys.argv[1:])
print(float(image.pixels.min()))
"""


@pytest.mark.slow
def test_file_truncated_while_it_is_read_does_not_crash_the_process(tmp_path):
    path = write(tmp_path, b"P5 2000 2000 255\n" + b"\xff" * 4_000_000, "picture.pgm")
    command = [sys.executable, "-c", TRUNCATED_WHILE_READ, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1.0\n")


def test_large_image_is_read_with_the_warning_of_pillow(tmp_path, monkeypatch):
    path = write(tmp_path, png())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE - 1)  # an error above twice that
    with pytest.warns(Image.DecompressionBombWarning):
        assert_read_as(path, GRAY, 0)
    with pytest.raises(ValueError, match=r"image 0 .*decompression bomb"):
        list(ImageStream([path]))  # where warnings are errors


@pytest.mark.slow
def test_photograph_of_100_megapixels_is_read(tmp_path):
    path = write(tmp_path, png(bytes(10_000 * 1251), size=(10_000, 10_000), depth=1))
    with pytest.warns(Image.DecompressionBombWarning):
        (image,) = ImageStream([path])
    assert image.size == (10_000, 10_000)


@pytest.mark.parametrize("claimed", [3, 9])
def test_loader_with_a_wrong_length_is_read_to_its_end(claimed):
    class Sampler(torch.utils.data.SequentialSampler):
        def __len__(self):
            return claimed

    loader = torch.utils.data.DataLoader(list(NORMAL), sampler=Sampler(NORMAL), batch_size=2)
    assert ImageStream(loader).n_images == claimed
    wrong, right = MeanImage(image_size=64).fit(loader), MeanImage(image_size=64).fit(NORMAL)
    assert snapshot(wrong) == snapshot(right)
    assert wrong.n_images_ == 6
    np.testing.assert_array_equal(wrong.anomaly_map(loader), right.anomaly_map(NORMAL))


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5])
def test_batch_of_gray_images_is_not_taken_for_channels(batch_size):
    images = list(ImageStream(torch.utils.data.DataLoader(list(NORMAL), batch_size=batch_size)))
    for image, plain in zip(images, ImageStream(NORMAL), strict=True):
        assert torch.equal(image.pixels, plain.pixels)


def test_bad_file_among_a_thousand_is_named(tmp_path):
    good = encoded(GRAY[:16, :16], "PNG")
    for i in range(1000):
        write(tmp_path, good if i != 777 else good[:60], f"{i:04}.png")
    stream = iter(ImageStream(tmp_path))
    for i in range(777):
        assert next(stream).path == str(tmp_path / f"{i:04}.png")
    with pytest.raises(ValueError, match=r"^image 777 \(.*0777\.png\): cannot be read"):
        next(stream)


def test_bad_file_in_a_folder_ends_scoring_without_a_trace(fitted, tmp_path):
    detector, before = fitted
    good = encoded(GRAY[:16, :16], "PNG")
    for i in range(12):
        write(tmp_path, good if i != 7 else good[:60], f"{i:02}.png")
    with pytest.raises(ValueError, match=r"^image 7 \(.*07\.png\): cannot be read"):
        detector.score_samples(tmp_path)
    assert snapshot(detector) == before
    (tmp_path / "07.png").unlink()
    scores = detector.score_samples(tmp_path)
    assert scores.shape == (11,)
    assert len(set(scores)) == 1


def test_hidden_files_are_skipped(detector, tmp_path):
    write(tmp_path, png())
    write(tmp_path, b"\0\5\x16\7", "._picture.png")
    write(tmp_path, png(), ".hidden.png")
    write(tmp_path, b"notes", "notes.txt")
    assert len(detector.score_samples(tmp_path)) == 1


def test_pipe_in_a_folder_is_refused(detector, tmp_path):
    write(tmp_path, png(), "a.png")
    pipe(tmp_path)
    with pytest.raises(ValueError, match=rf"image 1 .*pipe\.png.*{NO_FILE}"):
        detector.score_samples(tmp_path)


def test_folder_that_links_to_itself_is_read_once(detector, tmp_path):
    write(tmp_path, png())
    (tmp_path / "again").symlink_to(tmp_path)
    assert len(detector.score_samples(tmp_path)) == 1


def make_bad(name, folder):
    """(bad item, pattern of its error) of a case of BAD_FILES or BAD_ITEMS."""
    if name in BAD_FILES:
        return write(folder, BAD_FILES[name][0]), BAD_FILES[name][1]
    return BAD_ITEMS[name][0](folder), BAD_ITEMS[name][1]


@pytest.mark.parametrize("name", [*list(BAD_FILES)[::6], *list(BAD_ITEMS)[::4]])
def test_failed_fit_leaves_the_detector_unchanged(name, tmp_path):
    bad, pattern = make_bad(name, tmp_path)
    images = [*NORMAL[:2], bad, *NORMAL[2:]]
    detector = MeanImage(image_size=64)
    with pytest.raises(ValueError, match=rf"(?s)^image 2\b.*{pattern}"):
        detector.fit(images)
    assert not [learned for learned in vars(detector) if learned.endswith("_")]
    before = snapshot(detector.fit(NORMAL))
    for fit in (detector.fit, detector.partial_fit):
        with pytest.raises(ValueError, match=r"^image 2\b"):
            fit(images)
        assert snapshot(detector) == before


def test_failed_fit_leaves_patchcore_unchanged(fitted, tmp_path):
    images = [*NORMAL[:2], make_bad("50% of a png", tmp_path)[0], *NORMAL[2:]]
    detector, before = copy.deepcopy(fitted[0]), fitted[1]
    for fit in (detector.fit, detector.partial_fit):
        with pytest.raises(ValueError, match=r"^image 2\b"):
            fit(images)
        assert snapshot(detector) == before


# -- damage at random -----------------------------------------------------------------------------

WHOLE = {
    "png": png(), "jpeg": JPEG, "tiff": TIFF, "gif": GIF, "bmp": BMP, "webp": WEBP,
    "deep png": deep_png(DEEP, 2), "deep tiff": tiff_file(DEEP), "ppm": ppm(DEEP, 65535),
    "packed tiff": tiff_file(DEEP, compressed=True),
    "pages": tiff_file((SMALL, {254: 1}), GRAY),
    "pages, the thumbnail last": tiff_file(GRAY, SMALL),
    "pictures": PRIMARY_FILES["jpeg of two pictures"][0],
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(WHOLE))
def test_truncated_file_is_refused_or_complete(kind, tmp_path):
    data = WHOLE[kind]
    (whole,) = ImageStream([write(tmp_path, data)])
    for length in {*range(0, len(data), 97), *range(len(data) - 40, len(data))}:
        path = write(tmp_path, data[:length])
        try:
            (image,) = ImageStream([path])
        except ValueError as error:
            assert str(error).startswith(f"image 0 ({path})")
        else:
            assert torch.equal(image.pixels, whole.pixels)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    edits=st.lists(
        st.tuples(st.sampled_from(["flip", "cut", "insert"]), st.floats(0, 1), st.integers(0, 255)),
        min_size=1,
        max_size=4,
    ),
)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of damage that it can skip
def test_damaged_file_gives_valid_pixels_or_a_named_error(kind, edits, tmp_path_factory):
    data = bytearray(WHOLE[kind])
    for edit, where, value in edits:
        place = int(where * (len(data) - 1)) if data else 0
        if edit == "flip" and data:
            data[place] ^= value
        elif edit == "cut":
            del data[place : place + value]
        else:
            data[place:place] = bytes([value] * 3)
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(data)
    try:
        (image,) = ImageStream([path])
    except ValueError as error:
        assert str(error).startswith(f"image 0 ({path})")
    else:
        assert torch.isfinite(image.pixels).all()
        assert 0 <= image.pixels.min() <= image.pixels.max() <= 1
