"""``anomalib-lite doctor``: is everything there, and how fast is it?"""

import os
import platform
import time
from argparse import Namespace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import numpy as np

import anomalib_lite

from ..deploy.graph import runtime
from ..deploy.processors import usable_processors
from ..deploy.reader import OnnxDetector
from ..texts import printable
from . import ALL_GOOD, NOT_DONE, exported
from .console import Console

_PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow")
_OF_READER = ("numpy", "pillow", "onnxruntime")
_EXTRAS = {
    "distributed": ("distributed",),
    "onnx": ("onnxruntime", "onnx", "onnxscript", "skl2onnx"),
    "plot": ("matplotlib",),
}
_OTHERS = {"pandas": "tables in Python", "pillow_heif": "HEIC photographs"}
_N_GOOD, _N_NEW, _SIDE = 24, 32, 256


def run(args: Namespace, console: Console) -> int:
    """Print what is installed, what is missing, and how fast this machine is."""
    problems = []
    is_whole = _has_all(("torch",)) and args.detector is None
    values = {
        "anomalib_lite": anomalib_lite.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: _version(name) for name in (_PACKAGES if is_whole else _OF_READER)},
        "processors": usable_processors(),
        "load": _load(),
        **(_of_library if is_whole else _of_reader)(args, console, problems),
    }
    missing = [name for name, of in values["versions"].items() if of is None]
    values["problems"] = [*(f"{name} is missing" for name in missing), *problems]
    console.report(values, _lines(values))
    return NOT_DONE if values["problems"] else ALL_GOOD


def _of_library(args, console, problems):
    """What it takes to fit detectors."""
    values = {
        "device": _device(),
        "extras": {name: _has_all(modules) for name, modules in _EXTRAS.items()},
        "others": {name: _has_all((name,)) for name in _OTHERS},
        "weights": _attempt(problems, "the default network's weights", _has_weights),
    }
    if values["weights"] and not args.no_speed:
        console.say("measuring speed ...")
        for engine in ("torch", *(["onnxruntime"] if values["extras"]["onnx"] else [])):
            speed = _attempt(problems, f"PatchCore by {engine}", lambda e=engine: _speed(e))
            values.setdefault("speed", {})[engine] = speed
    return values


def _of_reader(args, console, problems):
    """What it takes to inspect images by exported detectors, and one of them if it is given."""
    values = {"exported": None}
    if args.detector is None:
        _attempt(problems, "ONNX Runtime", runtime)
        return values
    detector = _attempt(problems, "the exported detector", lambda: OnnxDetector(args.detector))
    if detector is not None:
        values["exported"] = {"file": args.detector, **exported.about(detector)}
        if not args.no_speed:
            speed = _attempt(problems, "an image", lambda: exported.speed(detector))
            values["exported_speed"] = speed
    return values


def _version(package):
    """That of a package; None of one that is missing."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _has_weights() -> bool:
    """True if the default network can be made with its weights; an error otherwise."""
    from ..backbones import Backbone

    Backbone("efficientnet_lite0")
    return True


def _speed(engine: str) -> dict[str, float]:
    """Seconds to fit on 24 images, and milliseconds to score one of 32, and one alone."""
    from ..methods.patchcore import PatchCore

    random = np.random.default_rng(0)
    images = random.integers(90, 166, (_N_GOOD + _N_NEW, _SIDE, _SIDE), dtype=np.uint8)
    good, new = images[:_N_GOOD], images[_N_GOOD:]
    start = time.perf_counter()
    detector = PatchCore(engine=engine, coreset=0.1, false_alarm_rate=0.1, random_state=0).fit(good)
    fitted = time.perf_counter()
    detector.score_samples(new)
    scored = time.perf_counter()
    detector.score_samples(new[:1])
    return {
        "fit_s": round(fitted - start, 2),
        "together_ms": round(1e3 * (scored - fitted) / _N_NEW, 1),
        "alone_ms": round(1e3 * (time.perf_counter() - scored), 1),
    }


def _attempt(problems, what, function) -> Any:
    """What a function returns, or None and a line among the problems."""
    try:
        return function()
    except Exception as error:  # whatever a broken installation raises
        problems.append(f"{what}: {type(error).__name__}: {error}")
        return None


def _device():
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}"
    return 'cpu (MPS is there: device="mps")' if torch.backends.mps.is_available() else "cpu"


def _load():
    """Processes that compute or wait for a processor, over the last minute; None on Windows."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _has_all(modules):
    try:
        return all(find_spec(module) is not None for module in modules)
    except ModuleNotFoundError:  # what keeps modules out may say so
        return False


def _lines(values):
    yield f"anomalib_lite {values['anomalib_lite']}, Python {values['python']}, {values['system']}"
    versions = (f"{name} {of or 'MISSING'}" for name, of in values["versions"].items())
    yield f"versions    {', '.join(versions)}"
    busy = "" if values["load"] is None else f", load {values['load']}"
    device = values.get("device", "cpu, by ONNX Runtime")
    yield f"device      {device}; processors: {values['processors']}{busy}"
    yield from _lines_of_reader(values) if "exported" in values else _lines_of_library(values)
    for problem in values["problems"]:
        yield f"PROBLEM     {printable(problem)}"
    yield "something is wrong" if values["problems"] else "all is well"


def _lines_of_library(values):
    for name, is_there in values["extras"].items():
        advice = f'missing: pip install "anomalib_lite[{name}]"'
        yield f"extra       {name}: {'installed' if is_there else advice}"
    for name, use in _OTHERS.items():
        is_there = values["others"][name]
        yield f"package     {name} ({use}): {'installed' if is_there else 'not installed'}"
    yield f"weights     default network: {'found' if values['weights'] else 'MISSING'}"
    for engine, speed in values.get("speed", {}).items():
        if speed:
            yield (
                f"speed       {engine}: PatchCore fits {_N_GOOD} images in {speed['fit_s']} s, "
                f"scores {_N_NEW} at {speed['together_ms']} ms each, one alone in "
                f"{speed['alone_ms']} ms"
            )


def _lines_of_reader(values):
    if not _has_all(("torch",)):
        yield "commands    inspect, info and doctor, of exported detectors (.onnx); without PyTorch"
    if values["exported"]:
        of_file = values["exported"]
        yield from exported.lines_about(of_file["file"], of_file)
    if values.get("exported_speed"):
        yield f"speed       {values['exported_speed']['each_ms']} ms an image of 512 x 512 pixels"
