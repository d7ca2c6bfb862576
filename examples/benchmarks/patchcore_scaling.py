"""How PatchCore grows: its coreset from 10,000 to 1,000,000 rows, 10,000 images in 2 GB.

    python examples/benchmarks/patchcore_scaling.py

Rows are those of the default backbone (152 numbers) on noisy crops of a photograph of bricks, 784
from each image of 224 px. Every line is measured in a process of its own.

``coreset``: time of ``greedy_coreset`` for 1,000 rows and for 1 % of the rows, and the memory it
takes beyond the rows themselves. ``images``: the highest resident memory, interpreter and torch
included, of fitting images that are made on demand. ``radius``: how far the farthest patch of 2,000
images is from the bank, selected from all rows at once and in parts.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from folder_memory import NoisyCrops
from patchcore_speed import patch_rows

from anomalib_lite import DeepFeatures, PatchCore
from anomalib_lite.search import greedy_coreset

ROWS_AN_IMAGE = 784


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # GB


def coreset(n_rows, n_keep):
    images = np.stack(list(NoisyCrops(-(-n_rows // ROWS_AN_IMAGE))))
    rows = patch_rows(images)[:n_rows]
    greedy_coreset(rows[:10_000], 10)  # warms up
    before = peak()
    begin = time.perf_counter()
    greedy_coreset(rows, n_keep)
    return {"seconds": time.perf_counter() - begin, "gb": peak() - before}


def fit(n_images, size, budget):
    begin = time.perf_counter()
    detector = PatchCore(coreset=size, memory_budget=budget, random_state=0)
    detector.fit(NoisyCrops(n_images))
    found = {"seconds": time.perf_counter() - begin, "gb": peak()}
    found["bound"] = float(detector.coreset_radius_)
    if budget != "2GB":
        found["radius"] = largest_distance(detector, NoisyCrops(n_images))
    return found


def largest_distance(detector, images):
    """From a patch of any of the images to the bank."""
    features = DeepFeatures(pooling=None).fit(images[0][None])
    return max(
        float(detector.memory_bank_.farthest(patch_rows(image[None], features), 1)[1])
        for image in images
    )


def measured(what, *arguments):
    command = [sys.executable, __file__, "--run", json.dumps([what, *arguments])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def coreset_table():
    print("| rows | 1,000 kept, s | us a row | 1 % kept, s | memory beyond the rows, GB |")
    print("|---|---|---|---|---|")
    for n_rows in (10_000, 30_000, 100_000, 300_000, 1_000_000):
        fixed, share = (measured("coreset", n_rows, n) for n in (1000, n_rows // 100))
        print(
            f"| {n_rows:,} | {fixed['seconds']:.2f} | {1e6 * fixed['seconds'] / n_rows:.1f} "
            f"| {share['seconds']:.2f} | {max(fixed['gb'], share['gb']):.2f} |",
            flush=True,
        )


def images_table():
    print("\n| images | coreset | memory_budget | fit, s | peak, GB |")
    print("|---|---|---|---|---|")
    for n_images in (1_000, 10_000):
        run = measured("fit", n_images, 10_000, "2GB")
        line = f"| {n_images:,} | 10,000 | 2GB | {run['seconds']:.0f} | {run['gb']:.2f} |"
        print(line, flush=True)


def radius_table():
    print("\n| memory_budget | fit, s | peak, GB | radius | bound (`coreset_radius_`) |")
    print("|---|---|---|---|---|")
    for budget in (None, "300MB"):
        run = measured("fit", 2_000, 2_000, budget)
        print(
            f"| {budget} | {run['seconds']:.0f} | {run['gb']:.2f} | {run['radius']:.3f} "
            f"| {run['bound']:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    tables = {"coreset": coreset_table, "images": images_table, "radius": radius_table}
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=tables, default=list(tables))
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run is not None:
        what, *arguments = chosen.run
        print(json.dumps({"coreset": coreset, "fit": fit}[what](*arguments)))
    else:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
        for name in chosen.only:
            tables[name]()
