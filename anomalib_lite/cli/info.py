"""``anomalib-lite info``: what a detector is."""

from argparse import Namespace
from inspect import signature
from typing import Any

from ..io.card import read_card
from ..io.persistence import load
from ..texts import plural, printable
from .console import Console
from .outputs import clean
from .thresholds import threshold_in_words, threshold_of


def run(args: Namespace, console: Console) -> int:
    """Print what a file says, and the detector in it."""
    card, estimator = read_card(args.detector), load(args.detector)
    inner = estimator.detectors_[0] if hasattr(estimator, "detectors_") else estimator
    values = {
        "file": args.detector,
        "method": card.estimator,
        "detector": type(inner).__name__,
        "settings": settings_in_words(estimator),
        "images": getattr(inner, "n_images_", None),
        "image_size": list(inner.input_.image_size) if hasattr(inner, "input_") else None,
        **(clean(threshold_of(estimator)) if hasattr(estimator, "score_levels") else {}),
        "notes": card.notes,
        "versions": card.versions,
        "bytes": card.n_bytes,
        "sha256": card.digest,
    }
    changed = settings_in_words(estimator, only_changed=True)
    console.report(values, _lines(values, changed))
    return 0


def settings_in_words(estimator: Any, *, only_changed: bool = False) -> dict[str, str]:
    """Parameters as Python writes them; those of a nested estimator as ``detector__name``."""
    found = {}
    for name, value in estimator.get_params(deep=False).items():
        inner = getattr(value, "estimator", value)  # a frozen one
        if hasattr(inner, "get_params"):
            found[name] = type(inner).__name__
            nested = settings_in_words(inner, only_changed=only_changed)
            found.update({f"{name}__{key}": text for key, text in nested.items()})
        elif not (only_changed and value == _default(estimator, name)):
            found[name] = repr(value)
    return found


def _default(estimator, name):
    return signature(type(estimator)).parameters[name].default


def _lines(values, changed):
    of = "" if values["detector"] == values["method"] else f" of {values['detector']}"
    size = values["bytes"] / 1e6
    yield f"{printable(values['file'])}: {values['method']}{of}, {size:.1f} MB"
    if values["images"] is not None:
        height, width = values["image_size"]
        yield f"learned from  {plural(values['images'], 'image')}, resized to {width} x {height}"
    for name, text in values["notes"].items():
        yield f"{printable(name):<13} {printable(text)}"
    if "threshold" in values:
        yield threshold_in_words(values)
    settings = ", ".join(f"{name}={text}" for name, text in changed.items())
    yield f"settings      {settings or 'the defaults'}"
    yield f"written by    {', '.join(f'{name} {of}' for name, of in values['versions'].items())}"
    yield f"sha256        {values['sha256']}"
