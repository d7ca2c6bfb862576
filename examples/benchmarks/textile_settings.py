"""AUROC of local and of global defects of the textile by method and image size, in markdown.

    python examples/benchmarks/textile_settings.py
    python examples/benchmarks/textile_settings.py --seeds 0 1 2

300 normal images to fit on; 200 normal ones, 500 with local and 500 with global defects to score.
The images have 250 pixels. Each seed is that of the detector; the split stays the same.
"""

import argparse
import time

import numpy as np
from common import auroc_by_kind

from anomalib_lite import DeepOneClass, PaDiM, PatchCore
from anomalib_lite.data import load_textile

SETTINGS = [
    *[(DeepOneClass, {"image_size": size}) for size in (224, 448)],
    *[(PaDiM, {"image_size": size}) for size in (224, 448)],
    *[(PatchCore, {"coreset": 10_000, "image_size": size}) for size in (160, 224, 320, 448)],
]


def measure(make, settings, data, seed):
    """AUROC of local and of global defects, seconds to fit, milliseconds to score an image."""
    start = time.perf_counter()
    detector = make(**settings, random_state=seed).fit(data.train)
    fitted = time.perf_counter()
    scores = detector.anomaly_score(data.test)
    ms = 1e3 * (time.perf_counter() - fitted) / len(scores)
    found = auroc_by_kind(data, scores)
    return found["local"], found["global"], fitted - start, ms


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    seeds = parser.parse_args().seeds
    data = load_textile()
    print("| method | image size | seeds | local AUROC | global AUROC | fit, s | score, ms |")
    print("|---" * 7 + "|")
    for make, settings in SETTINGS:
        rows = [measure(make, settings, data, seed) for seed in seeds]
        local, everywhere, fit, ms = np.mean(rows, axis=0)
        print(
            f"| {make.__name__} | {settings['image_size']} | {len(seeds)} | {local:.4f} "
            f"| {everywhere:.4f} | {fit:.1f} | {ms:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
