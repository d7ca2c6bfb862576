"""Exported detectors (.onnx) on the command line: they need neither PyTorch nor scikit-learn."""

import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..deploy.graph import is_onnx
from ..deploy.reader import OnnxDetector
from ..texts import plural, printable
from .outputs import size_in_words

_COMMANDS = ("inspect", "info", "doctor")  # that take an exported detector
_N_TIMED = 16  # images of a speed test


def check_takes_exported(args: Namespace) -> None:
    """Raise ValueError if a command is given an exported detector, and cannot work with one."""
    if args.command in _COMMANDS:
        return
    for name in ("detector", "a", "b"):
        path = getattr(args, name, None)
        if path is not None and is_onnx(path):
            raise ValueError(
                f"{path}: an exported detector, which inspect, info and doctor take. "
                f"{args.command} needs the detector's own file, as fit or save wrote it."
            )


def about(detector: OnnxDetector) -> dict[str, Any]:
    """What ``info`` says of an exported detector."""
    card, levels = detector.card, detector.score_levels()
    return {
        "method": card.method,
        "detector": card.detector,
        "input": card.input,
        "images": card.n_images,
        "image_size": list(card.image_size),
        "smallest_side": card.smallest_side,
        "threshold": None if card.offset is None else levels.threshold,
        "false_alarm_rate": card.false_alarm_rate,
        "calibration_scores": card.n_calibration,
        "is_guaranteed": card.conformal is not None,
        "promise": card.promise,
        "parity": card.parity,
        "notes": card.notes,
        "versions": {"anomalib_lite": card.version},
        "bytes": detector.n_bytes,
        "sha256": detector.digest,
    }


def lines_about(path: str, values: dict[str, Any]) -> Iterator[str]:
    """The same in lines."""
    height, width = values["image_size"]
    size = size_in_words(values["bytes"])
    yield f"{printable(path)}: {printable(values['method'])}, exported (ONNX), {size}"
    if values["images"] is not None:
        yield f"learned from  {plural(values['images'], 'image')}, resized to {width} x {height}"
    yield f"takes         {values['input']} images of at least {values['smallest_side']} pixels"
    for name, text in values["notes"].items():
        yield f"{printable(name):<13} {printable(text)}"
    before = "" if values["threshold"] is None else f"threshold {values['threshold']:.5g}: "
    yield f"{before}{printable(values['promise'])}"
    yield f"settings      {printable(values['detector'])}"
    if values["parity"]:
        known = ", ".join(f"{name} {of}" for name, of in values["parity"].items())
        yield f"parity        {printable(known)}"
    yield f"written by    anomalib_lite {printable(values['versions']['anomalib_lite'])}"
    yield f"sha256        {values['sha256']}"


def speed(detector: OnnxDetector) -> dict[str, float]:
    """Milliseconds an image of 512 x 512 pixels, one after the other."""
    kind = detector.card.input
    highest = 1 if kind == "float32" else np.iinfo(kind).max
    image = np.random.default_rng(0).uniform(0.35 * highest, 0.65 * highest, (1, 512, 512))
    images = np.repeat(image.astype(kind), _N_TIMED, axis=0)
    detector.inspect(images[:1])
    start = time.perf_counter()
    detector.inspect(images)
    return {"each_ms": round(1e3 * (time.perf_counter() - start) / _N_TIMED, 1)}
