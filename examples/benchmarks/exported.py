"""Exported detectors beside the originals: the same numbers, sizes, seconds, memory.

    python examples/benchmarks/exported.py                 # about ten minutes on two cores
    python examples/benchmarks/exported.py --only parity   # every detector, small

``parity``: every public detector, small, on images of three sizes: the largest difference of scores
(relative), of maps (share of their range), and images with another label. ``elpv``: the same on 501
solar cells, fitted on 200, with default settings unless named, and the size of the file. ``speed``:
each figure from a process of its own: seconds from its start to the first score, and from then on
the median of single images of 300 px, from the array to score, label and map, in two threads; the
peak of resident memory; at last batches of 32 in one call of ONNX Runtime. OpenVINO and anomalib
take part where they are installed; anomalib's PatchCore gets our bank and network, and is exported
as it exports itself, which makes a graph of two images: its milliseconds are half of a call's.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests")]

SIZES = {"300 x 300, gray": (300, 300), "224 x 224": (224, 224, 3), "1000 x 700": (700, 1000, 3)}


def table(*columns):
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


# -- the same numbers -----------------------------------------------------------------------------


def differences(detector, exported, images):
    from anomalib_lite.export.parity import compare

    found = compare(detector, exported, images)
    return f"{found.score:.1e} / {found.map:.1e} / {found.n_labels}"


def parity(folder):
    from detectors import PUBLIC, small
    from worlds import stripes

    from anomalib_lite.deploy import OnnxDetector

    table("scores / maps / labels", *SIZES, "seconds to export", "MB")
    for cls in PUBLIC:
        path, detector = folder / f"{cls.__name__}.onnx", small(cls).fit(stripes(12))
        start = time.perf_counter()
        detector.export(path)
        seconds, exported = time.perf_counter() - start, OnnxDetector(path)
        rng = np.random.default_rng(0)
        cells = []
        for shape in SIZES.values():
            images = rng.integers(0, 256, (3, *shape), dtype=np.uint8)
            cells.append(differences(detector, exported, images))
        row(cls.__name__, *cells, f"{seconds:.1f}", f"{path.stat().st_size / 1e6:.1f}")


def fitted(folder):
    """Detectors of 200 cells, by name; saved and exported as NAME.alite and NAME.onnx."""
    from anomalib_lite import DeepOneClass, PaDiM, PatchCore, load
    from anomalib_lite.data import load_elpv

    train = load_elpv(n_train=400).train[:200]
    made = {
        "PatchCore, 1 %": PatchCore(coreset=0.01, random_state=0),
        "PatchCore, 10 %": PatchCore(random_state=0),
        "PaDiM": PaDiM(random_state=0),
        "DeepOneClass": DeepOneClass(random_state=0),
    }
    for name, detector in made.items():
        path = folder / f"{name}.alite"
        if not path.exists():
            detector.fit(train).save(path)
            detector.export(path.with_suffix(".onnx"), images=train[:20])
    return {name: load(folder / f"{name}.alite") for name in made}


def elpv(folder):
    from anomalib_lite.data import load_elpv
    from anomalib_lite.deploy import OnnxDetector

    test = load_elpv(n_train=400).test
    table(f"{len(test)} cells", "scores / maps / labels", "MB, exported", "MB, saved")
    for name, detector in fitted(folder).items():
        path = folder / f"{name}.onnx"
        sizes = (f"{p.stat().st_size / 1e6:.1f}" for p in (path, path.with_suffix(".alite")))
        row(name, differences(detector, OnnxDetector(path), test), *sizes)
        if find_spec("openvino"):
            for precision in ("f32", None):
                other = OpenVinoDetector(path, precision)
                what = f"{name}, OpenVINO, {precision or 'its own precision'}"
                row(what, differences(detector, other, test), "", "")


class OpenVinoDetector:
    """An exported file, read by OpenVINO; with ``precision=None`` in the one that it chooses."""

    def __init__(self, path, precision):
        import openvino

        options = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
        self._model = openvino.Core().compile_model(str(path), "CPU", options)

    def iter_inspect(self, images):
        from anomalib_lite.inspection import InspectedImage

        for image in images:
            found = self._model({"image": image[None, ..., None]})
            score, label = float(found["anomaly_score"][0]), int(found["label"][0])
            yield InspectedImage(-score, label, found["anomaly_map"][0], None)


# -- time and memory ------------------------------------------------------------------------------

_RUN = """
import json, statistics, sys, time
begin = float(sys.argv[1])
import numpy as np
images = np.load(sys.argv[2])
{prepare}
look(images[:1])
first = time.time() - begin
times = []
for i in range(1, 31):
    start = time.perf_counter()
    look(images[i : i + 1])
    times.append(time.perf_counter() - start)
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) / 1000
print(json.dumps([first, 1000 * statistics.median(times), peak]))
"""
_READER = (
    "from anomalib_lite.deploy import OnnxDetector\nlook = OnnxDetector({!r}, n_threads={}).inspect"
)
_TORCH = "from anomalib_lite import load\nlook = load({!r}).set_params(n_jobs=2).inspect"
_SESSION = """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 2, 4
session = onnxruntime.InferenceSession({!r}, options, providers=["CPUExecutionProvider"])
"""
_BATCH = (
    _SESSION
    + """
def look(images):
    session.run(None, {{"image": np.repeat(images[..., None], 32, 0)}})
"""
)
_OPENVINO = """
import openvino
options = {{"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}}
model = openvino.Core().compile_model({!r}, "CPU", options)
def look(images):
    model({{"image": images[..., None]}})
"""
_THEIRS = (
    _SESSION
    + """
from PIL import Image
def look(images):
    small = [Image.fromarray(each).resize((224, 224)).convert("RGB") for each in images]
    batch = np.stack(small).transpose(0, 3, 1, 2).astype(np.float32) / 255
    session.run(None, {{"input": np.repeat(batch, 2, 0)}})
"""
)


def speed(folder, repeats):
    from anomalib_lite.data import load_elpv

    detectors = fitted(folder)
    np.save(folder / "cells.npy", load_elpv(n_train=400).test[:31])
    table("", "first score, s", "an image, ms", "peak memory, MB")
    for name in detectors:
        path = str(folder / f"{name}.onnx")
        ways = {
            "load, PyTorch": _TORCH.format(path.replace(".onnx", ".alite")),
            "OnnxDetector": _READER.format(path, 2),
            "OnnxDetector, one thread": _READER.format(path, 1),
            "32 images in one call": _BATCH.format(path),
        }
        if find_spec("openvino"):
            ways["OpenVINO"] = _OPENVINO.format(path)
        if find_spec("anomalib") and name.startswith("PatchCore"):
            theirs = their_export(detectors[name], folder / name)
            ways["anomalib's export"] = _THEIRS.format(str(theirs))
        for way, prepare in ways.items():
            found = [fresh(prepare, folder / "cells.npy") for _ in range(repeats)]
            first, each, peak = (statistics.median(values) for values in zip(*found, strict=True))
            row(f"{name}: {way}", f"{first:.1f}", f"{each:.1f}", f"{peak:,.0f}")


def fresh(prepare, images):
    """(seconds to the first score, milliseconds an image, peak in MB) of a new process."""
    command = [sys.executable, "-W", "ignore", "-c", _RUN.format(prepare=prepare)]
    done = subprocess.run(
        [*command, str(time.time()), str(images)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def their_export(detector, folder):
    """anomalib's PatchCore with our bank and weights, as it exports itself."""
    from anomalib.models import Patchcore
    from versus_anomalib import take_bundled_weights

    path = folder / "weights" / "onnx" / "model.onnx"
    if not path.exists():
        theirs = Patchcore("tf_efficientnet_lite0", ["blocks.2", "blocks.4"], pre_trained=False)
        take_bundled_weights(theirs.model)
        theirs.model.memory_bank = detector.memory_bank_.rows.clone()
        theirs.to_onnx(folder, input_size=(224, 224))
    return path


def main():
    parts = {"parity": parity, "elpv": elpv, "speed": speed}
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=[*parts])
    parser.add_argument("--repeats", type=int, default=3, help="processes of each figure")
    parser.add_argument("--folder", type=Path, help="where detectors are kept for the next run")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.folder or Path(scratch)
        folder.mkdir(exist_ok=True)
        for part in chosen.only:
            options = {"repeats": chosen.repeats} if part == "speed" else {}
            parts[part](folder, **options)


if __name__ == "__main__":
    main()
