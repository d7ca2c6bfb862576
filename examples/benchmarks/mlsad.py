"""MLSAD: levels against scales, digits, corruptions, textures, and the cost of levels and crops.

    pip install ".[benchmark]"
    python examples/benchmarks/mlsad.py scales --seeds 0 1
    python examples/benchmarks/mlsad.py mnist --digits 1 7 8 --seeds 0 1
    python examples/benchmarks/mlsad.py corruptions --seeds 0
    python examples/benchmarks/mlsad.py textures --seeds 0
    python examples/benchmarks/mlsad.py cost

``--fakes gan`` makes fakes by a small GAN instead of resampling. Columns: image AUROC of each level
alone, of their plain mean, of the mean weighted by ``level_weights="held_out"``, and of
``combine="distance"``. ``scales``: a planted world with anomalies of one scale at a time.
``mnist``: one digit against the rest, fitted on 400. ``corruptions``: 400 of each digit are normal,
against corruptions of unseen images of the same digits. ``textures``: pixel AUROC beside those of
PatchCore and of |pixel - local mean|, then image AUROC. ``cost``: time and memory of a fit by level
and by crop size, each in its own process.
"""

import argparse
import multiprocessing
import re
import sys
import time
from copy import copy
from pathlib import Path

import numpy as np
from cance import PIXELS, head, pixels, row
from common import control_map, mnist

from anomalib_lite import CANCE, MLSAD, EntropyPatchGAN, PatchCore, PatchResampler
from anomalib_lite.data import CORRUPTIONS, TEXTURES, corrupted, planted_texture
from anomalib_lite.metrics import image_auroc, pixel_auroc

sys.path.append(str(Path(__file__).parents[2] / "tests"))
from worlds import SCALES, frames

ON_FRAMES = {"image_size": 24, "width": 8, "n_blocks": 1, "dropout": 0.0, "learning_rate": 0.005,
             "epochs": 40}  # fmt: skip
ON_DIGITS = {"image_size": 28, "width": 8, "n_blocks": 1, "dropout": 0.0, "learning_rate": 0.003,
             "epochs": 30}  # fmt: skip
ON_TEXTURES = {"image_size": 56, "crop_size": 32, "position": False, "n_fakes": 300, "width": 8,
               "n_blocks": 1, "learning_rate": 0.003, "epochs": 100}  # fmt: skip
FAKES = {
    "resample": PatchResampler(),
    "gan": EntropyPatchGAN(
        width=8,
        train_steps=300,
        train_batch_size=16,
        learning_rate=0.002,
        discriminator_learning_rate=0.006,
        critic_learning_rate=0.006,
        schedule="cosine",
    ),
}
TOGETHER = ("equal", "held out", "distance")


def fitted(X, fakes, seed, **how):
    """(detector, seconds)"""
    start = time.perf_counter()
    how = {"level_weights": "held_out", "combine": "distance", "random_state": seed, **how}
    detector = MLSAD(fakes=FAKES[fakes], **how).fit(X)
    return detector, time.perf_counter() - start


def all_scores(detector, X):
    """Anomaly scores of ``X`` by each level and by the three ways to combine them."""
    levels = detector.level_scores(X)
    mean, whitener = map(np.asarray, detector.levels_of_images_)
    return {
        **dict(zip(map(str, detector.levels_), levels.T, strict=True)),
        "equal": levels.mean(1),
        "held out": levels @ detector.level_weights_.numpy(),
        "distance": np.linalg.norm((levels - mean) @ whitener, axis=1),
    }


def on_scales(seeds, fakes):
    names = [*map(str, (1, 2, 4, 8, 16)), *TOGETHER]
    head("odd", *names)
    found = {scale: [] for scale in SCALES}
    for seed in seeds:
        train, good = frames(400, seed=seed), frames(300, seed=100 + seed)
        detector, seconds = fitted(train, fakes, seed, **ON_FRAMES)
        for scale in SCALES:
            test = np.concatenate([good, frames(300, scale, seed=200 + seed)])
            scores, truth = all_scores(detector, test), np.repeat([False, True], 300)
            found[scale].append([image_auroc(truth, scores[name]) for name in names])
        print(f"seed {seed}: {seconds:.0f} s to fit", file=sys.stderr)
    for scale, cells in found.items():
        row(scale, *map(float, np.mean(cells, axis=0)))


def on_mnist(seeds, fakes, digits):
    names = [*map(str, (1, 2, 4, 8, 16)), *TOGETHER, "CANCE", *PIXELS]
    head("digit", *names, "fit, s")
    found = []
    for digit in digits:
        data = mnist(digit)
        is_other = data.test_labels == -1
        cells = []
        for seed in seeds:
            detector, seconds = fitted(data.train, fakes, seed, **ON_DIGITS)
            scores = all_scores(detector, data.test) | pixels(data.train, data.test)
            cance = CANCE("pca", latent_dim=32, image_size=28, random_state=seed).fit(data.train)
            scores["CANCE"] = cance.anomaly_score(data.test)
            cells.append([*(image_auroc(is_other, scores[name]) for name in names), seconds])
        found.append(np.mean(cells, axis=0))
        row(digit, *map(float, found[-1]))
    row("mean", *map(float, np.mean(found, axis=0)))


def on_corruptions(seeds, fakes):
    parts = [mnist(digit) for digit in range(10)]
    learned = np.concatenate([data.train for data in parts])
    good = np.concatenate([data.test[data.test_labels == 1] for data in parts])
    tests = {kind: corrupted(good, kind, random_state=0) for kind in CORRUPTIONS}
    names = [*map(str, (1, 2, 4, 8, 16)), *TOGETHER, *PIXELS]
    head("ten digits, odd by", *names)
    found = {kind: [] for kind in CORRUPTIONS}
    for seed in seeds:
        detector, seconds = fitted(learned, fakes, seed, **ON_DIGITS | {"epochs": 4})
        everything = np.concatenate([good, *tests.values()])
        scores = all_scores(detector, everything) | pixels(learned, everything)
        truth = np.repeat([False, True], len(good))
        for i, kind in enumerate(CORRUPTIONS):
            part = np.r_[: len(good), (i + 1) * len(good) : (i + 2) * len(good)]
            found[kind].append([image_auroc(truth, scores[name][part]) for name in names])
        print(f"seed {seed}: {seconds:.0f} s to fit", file=sys.stderr)
    for kind, cells in found.items():
        row(kind, *map(float, np.mean(cells, axis=0)))
    row("mean", *map(float, np.mean(list(found.values()), axis=(0, 1))))


def on_textures(seeds, fakes):
    names = "held out", "distance", "PatchCore"
    head("texture", *names, "control", *(f"{name}, image" for name in names), "fit, s")
    for texture in TEXTURES:
        cells = []
        for seed in seeds:
            data = planted_texture(texture, n_train=60, n_test=60, random_state=seed)
            truth = data.test_labels == -1
            ours, seconds = fitted(data.train, fakes, seed, **ON_TEXTURES)
            averaged = copy(ours)
            averaged.levels_of_images_ = averaged.levels_of_pixels_ = None
            theirs = PatchCore(random_state=seed).fit(data.train)
            seen = [detector.inspect(data.test) for detector in (averaged, ours, theirs)]
            control = [control_map(data.test, window) for window in (15, 23, 31)]
            cells.append([
                *(pixel_auroc(data.test_masks, one.maps) for one in seen),
                max(pixel_auroc(data.test_masks, maps) for maps in control),
                *(image_auroc(truth, -one.scores) for one in seen),
                seconds,
            ])  # fmt: skip
        row(texture, *map(float, np.mean(cells, axis=0)))


def cost(fakes):
    digits, texture = mnist(7).train, planted_texture("grass", random_state=0).train
    head("images", "level", "crop", "detectors, s", "total, s", "peak, MB")
    for level in (1, 2, 4, 8, 16):
        report("400 digits, 28 px", digits, fakes, **ON_DIGITS | {"levels": (level,), "epochs": 2})
    for crop_size in (16, 32, 48):
        how = ON_TEXTURES | {"levels": (8,), "crop_size": crop_size, "epochs": 20}
        report("60 crops of a texture, 56 px", texture, fakes, **how)


def report(name, X, fakes, **how):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        cells = pool.apply(measured, (X, fakes, how))
    row(name, *how["levels"], how.get("crop_size") or "", *cells)


def measured(X, fakes, how):
    """(seconds of training detectors, seconds in total, peak memory) of a fit."""
    seconds, train = [], MLSAD._train

    def timed(*arguments):
        start = time.perf_counter()
        result = train(*arguments)
        seconds.append(time.perf_counter() - start)
        return result

    MLSAD._train = timed
    _, total = fitted(X, fakes, 0, **how)
    return sum(seconds), total, f"{peak_memory():.0f}"


def peak_memory():
    """Peak memory of this process in MB; ``ru_maxrss`` would be at least its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024 / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    what = {
        "scales": on_scales, "mnist": on_mnist, "corruptions": on_corruptions,
        "textures": on_textures, "cost": cost,
    }  # fmt: skip
    parser.add_argument("what", choices=what)
    parser.add_argument("--fakes", choices=tuple(FAKES), default="resample")
    parser.add_argument("--digits", nargs="+", type=int, default=[1, 7, 8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    chosen = parser.parse_args()
    arguments = [] if chosen.what == "cost" else [chosen.seeds]
    arguments.append(chosen.fakes)
    if chosen.what == "mnist":
        arguments.append(chosen.digits)
    what[chosen.what](*arguments)


if __name__ == "__main__":
    main()
