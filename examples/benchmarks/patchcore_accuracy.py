"""PatchCore on real solar cells and on textures with planted defects, as markdown tables.

    python examples/benchmarks/patchcore_accuracy.py

ELPV: 400 good monocrystalline cells to fit on, 188 good and 313 defective ones to score; then the
same for solar modules that were not in the training data.
Textures: 224 px crops, train and test from different halves of each photograph; compared with a
plain control map, |pixel - local mean|, at its best of three window sizes.
"""

import argparse
import time

import numpy as np
from common import control_map

from anomalib_lite import PatchCore
from anomalib_lite.data import TEXTURES, load_elpv, planted_texture
from anomalib_lite.metrics import aupro, image_auroc, pixel_auroc


def elpv(coresets, seeds):
    data = load_elpv()
    anomalous = data.test_labels == -1
    print("| ELPV mono, coreset | seed | image AUROC | fit, s | ms an image | "
          "called anomalous: good / defective |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for coreset in coresets:
        for seed in seeds:
            start = time.perf_counter()
            detector = PatchCore(coreset=coreset, random_state=seed).fit(data.train)
            fitted = time.perf_counter()
            scores = detector.score_samples(data.test)
            ms = 1e3 * (time.perf_counter() - fitted) / len(scores)
            flagged = scores < detector.offset_
            print(
                f"| {coreset} | {seed} | {image_auroc(anomalous, -scores):.4f} "
                f"| {fitted - start:.1f} | {ms:.1f} "
                f"| {flagged[~anomalous].mean():.1%} / {flagged[anomalous].mean():.1%} |",
                flush=True,
            )


def unseen_modules():
    """The same for cells from solar modules that were not in the training data."""
    from elpv_dataset.utils import load_dataset

    images, probability, kinds = load_dataset()
    good = np.flatnonzero((kinds == "mono") & (probability == 0))
    bad = np.flatnonzero((kinds == "mono") & (probability == 1))
    test = np.concatenate([good[400:], bad])
    detector = PatchCore(coreset=0.01, random_state=0).fit(images[good[:400]])
    auroc = image_auroc(probability[test] == 1, detector.anomaly_score(images[test]))
    print(f"\nfitted on the first 400 cells in file order, coreset 0.01: image AUROC {auroc:.4f}")


def textures(seeds):
    print("\n| texture | seed | pixel AUROC | AUPRO | control: pixel AUROC | control: AUPRO |")
    print("|---|---|---|---|---|---|")
    rows = []
    for texture in TEXTURES:
        for seed in seeds:
            data = planted_texture(texture, n_train=60, n_test=60, random_state=seed)
            detector = PatchCore(coreset=0.1, random_state=seed).fit(data.train)
            masks, maps = data.test_masks, detector.anomaly_map(data.test)
            controls = [control_map(data.test, window) for window in (15, 23, 31)]
            rows.append((
                pixel_auroc(masks, maps),
                aupro(masks, maps),
                max(pixel_auroc(masks, control) for control in controls),
                max(aupro(masks, control) for control in controls),
            ))  # fmt: skip
            print(f"| {texture} | {seed} | " + " | ".join(f"{v:.3f}" for v in rows[-1]) + " |",
                  flush=True)  # fmt: skip
    print("| mean | | " + " | ".join(f"{v:.3f}" for v in np.mean(rows, axis=0)) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coresets", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    elpv(arguments.coresets, arguments.seeds)
    unseen_modules()
    textures(arguments.seeds)
