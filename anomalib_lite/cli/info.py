"""``anomalib-lite info``: what a detector is."""

from argparse import Namespace
from typing import Any

from ..deploy.graph import is_onnx
from ..deploy.reader import OnnxDetector
from ..io.card import read_card
from ..report.figures import inner_of, method_of, settings_of, suspects_of
from ..texts import plural, printable
from . import exported
from .console import Console
from .outputs import clean, size_in_words
from .thresholds import threshold_in_words, threshold_of

_N_SUSPECTS = 5


def run(args: Namespace, console: Console) -> int:
    """Print what a file says, and the detector in it."""
    if is_onnx(args.detector):
        values = {"file": args.detector, **exported.about(OnnxDetector(args.detector))}
        console.report(values, exported.lines_about(args.detector, values))
        return 0
    from ..io.persistence import load  # and with it PyTorch

    card, estimator = read_card(args.detector), load(args.detector)
    inner = inner_of(estimator)
    looks_at = getattr(inner, "input_", None)  # None where it learned from a table
    values = {
        "file": args.detector,
        "method": method_of(estimator),
        "settings": settings_in_words(estimator),
        "images": getattr(inner, "n_images_", None),
        "image_size": None if looks_at is None else list(looks_at.image_size),
        **(clean(threshold_of(estimator)) if hasattr(estimator, "score_levels") else {}),
        "suspects": [
            {"name": name, "anomaly_score": score}
            for name, score in suspects_of(estimator, _N_SUSPECTS)
        ],
        "notes": card.notes,
        "versions": card.versions,
        "bytes": card.n_bytes,
        "sha256": card.digest,
    }
    changed = settings_in_words(estimator, only_changed=True)
    console.report(values, _lines(values, changed))
    return 0


def settings_in_words(estimator: Any, *, only_changed: bool = False) -> dict[str, str]:
    """Parameters by name, those of a nested estimator as ``detector__name``."""
    return {
        setting.name: setting.value
        for setting in settings_of(estimator)
        if not (only_changed and setting.is_default)
    }


def _learned_from(values):
    if values["image_size"] is None:
        return plural(values["images"], "row")
    height, width = values["image_size"]
    return f"{plural(values['images'], 'image')}, resized to {width} x {height}"


def _lines(values, changed):
    size = size_in_words(values["bytes"])
    yield f"{printable(values['file'])}: {values['method']}, {size}"
    if values["images"] is not None:
        yield f"learned from  {_learned_from(values)}"
    for name, text in values["notes"].items():
        yield f"{printable(name):<13} {printable(text)}"
    if "threshold" in values:
        yield threshold_in_words(values)
    for suspect in values["suspects"]:
        score = f"score {suspect['anomaly_score']:<8.4g}"
        yield f"to look at    {score}  {printable(suspect['name'])}"
    settings = ", ".join(f"{name}={text}" for name, text in changed.items())
    yield f"settings      {settings or 'the defaults'}"
    yield f"written by    {', '.join(f'{name} {of}' for name, of in values['versions'].items())}"
    yield f"sha256        {values['sha256']}"
