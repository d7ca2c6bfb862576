"""False alarms of every detector on fresh normal images, beside what was asked for.

    python examples/benchmarks/false_alarms.py
    python examples/benchmarks/false_alarms.py --only PatchCore PaDiM --seeds 2
    python examples/benchmarks/false_alarms.py --defects

In each of three worlds of normal images, each detector is fitted with quick settings on 120 images
and calls 300 fresh ones, for each of five seeds. Of n out-of-sample scores, the k-th lowest is
undercut by a new normal image with probability k / (n + 1): "allowed" is the false_alarm_rate or,
where n is too small for it, 1 / (n + 1). The band holds 99 % of the mean rates of such thresholds,
whose counts are beta-binomial. "found" is outside of it where a calibration is biased.

With --defects, PatchCore is fitted on 80 intact solar cells, for each seed, and asked for 1 %: the
shares of 200 other intact cells and of the defective ones that it calls, and those of the defective
ones beyond the threshold that exactly 1 % of the 200 are beyond.
"""

import argparse
import itertools
import warnings
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from scipy import stats

from anomalib_lite import (
    CANCE,
    CPC,
    MLSAD,
    SPADE,
    ContrastiveDA,
    CutPaste,
    DeepOneClass,
    NCEDensity,
    PaDiM,
    PatchCore,
    RotationPrediction,
    SubspaceAD,
)
from anomalib_lite.data import load_elpv

RATES = (0.1, 0.05, 0.01)
SIZE, N_TRAIN, N_FRESH = 64, 120, 300


def stripes(rng, n):
    """Vertical stripes whose brightness, contrast and phase vary, with noise."""
    x = np.arange(SIZE)
    phase, level, contrast = rng.uniform(-0.6, 0.6, n), rng.normal(128, 8, n), rng.normal(50, 6, n)
    waves = np.tanh(3 * np.sin(x * np.pi / 8 + phase[:, None]))
    images = level[:, None, None] + contrast[:, None, None] * waves[:, None, :]
    return _bytes(images + rng.normal(0, 4, (n, SIZE, SIZE)))


def grass(rng, n):
    """Crops of a photograph."""
    from skimage import data

    photo = data.grass()
    places = rng.integers(0, np.array(photo.shape) - SIZE + 1, (n, 2))
    return np.stack([photo[row : row + SIZE, column : column + SIZE] for row, column in places])


def solar_cells(rng, n):
    """Electroluminescence images of intact monocrystalline cells."""
    cells = load_elpv(n_train=1)
    images = np.concatenate([cells.train, cells.test[cells.test_labels == 1]])
    return rng.permutation(images)[:n]


def _bytes(images):
    return images.clip(0, 255).astype(np.uint8)


FIRST_STAGE = {
    "backbone": "convnet", "weights": "random", "hidden": (32,), "epochs": 5, "n_patches": 200,
    "patch_size": 16, "patch_stride": 16, "train_from": None,
}  # fmt: skip
DETECTORS = {
    "PatchCore(coreset=0.1)": (PatchCore, {}),
    "PatchCore(coreset=0.01)": (PatchCore, {"coreset": 0.01}),
    "PatchCore(coreset=30)": (PatchCore, {"coreset": 30}),
    "PaDiM": (PaDiM, {"n_features": 20}),
    "SPADE": (SPADE, {"n_neighbors": 5}),
    "SubspaceAD": (SubspaceAD, {}),
    "DeepOneClass": (DeepOneClass, {"n_patches": 200}),
    "RotationPrediction": (RotationPrediction, FIRST_STAGE),
    "ContrastiveDA": (ContrastiveDA, {**FIRST_STAGE, "n_folds": 40}),
    "CutPaste": (CutPaste, FIRST_STAGE),
    "CANCE": (
        CANCE,
        {"widths": (8, 16), "latent_dim": 8, "epochs": 10, "decoder_epochs": 3,
         "density": NCEDensity(epochs=10, learning_rate=0.003)},
    ),
    "CPC": (
        CPC,
        {"patch_size": 16, "patch_stride": 12, "width": 4, "embedding_dim": 16, "epochs": 2,
         "prediction_steps": 2, "share_encoder": True, "learning_rate": 0.01},
    ),
    "MLSAD": (
        MLSAD,
        {"levels": (1, 2), "image_size": 32, "width": 8, "n_blocks": 1, "n_fakes": 60,
         "epochs": 5, "learning_rate": 0.01},
    ),
}  # fmt: skip
WORLDS = {"stripes": stripes, "grass": grass, "solar cells": solar_cells}


def false_alarms(name, world, seed):
    """Number of calibration scores, and the shares of fresh images below each threshold."""
    torch.set_num_threads(1)
    cls, params = DETECTORS[name]
    images = WORLDS[world](np.random.default_rng(seed), N_TRAIN + N_FRESH)
    detector = cls(**{"image_size": SIZE, "random_state": seed, **params})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few images, and of copies among the cells
        detector.fit(images[:N_TRAIN])
        scores = detector.score_samples(images[N_TRAIN:])
        shares = [
            (scores < detector.set_threshold(false_alarm_rate=rate).offset_).mean()
            for rate in RATES
        ]
    return np.isfinite(detector.calibration_scores_).sum(), shares


def band(rate, n, n_runs):
    """What n scores allow, and the range of 99 % of the mean rates of so many runs."""
    allowed = max(rate, 1 / (n + 1))
    k = allowed * (n + 1)
    spread = stats.betabinom(N_FRESH, k, n + 1 - k).std() / N_FRESH / n_runs**0.5
    reach = stats.norm.isf(0.005) * spread
    return allowed, max(allowed - reach, 0), allowed + reach


def solar_defects(coreset, seed):
    """Shares of intact and of defective cells called at 1 %, and of the latter at a true 1 %."""
    torch.set_num_threads(1)
    cells = load_elpv(n_train=1)
    intact = np.concatenate([cells.train, cells.test[cells.test_labels == 1]])
    intact = np.random.default_rng(seed).permutation(intact)[:280]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 80 images support 1.2 %
        detector = PatchCore(coreset=coreset, random_state=seed).fit(intact[:80])
        fresh = detector.score_samples(intact[80:])
        defective = detector.score_samples(cells.test[cells.test_labels == -1])
    ideal = np.quantile(fresh, 0.01)
    return [
        (scores < limit).mean()
        for scores, limit in (
            (fresh, detector.offset_),
            (defective, detector.offset_),
            (defective, ideal),
        )
    ]


def print_defects(seeds, pool):
    print("| coreset | intact, called | defective, called | at an ideal threshold |")
    print("|---|---|---|---|")
    for coreset in (0.1, 0.01, 30):
        found = list(pool.map(solar_defects, [coreset] * seeds, range(seeds)))
        print(f"| {coreset} | {' | '.join(f'{share:.1%}' for share in np.mean(found, 0))} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of detectors' names")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--defects", action="store_true", help="defects found at 1 %%, instead")
    args = parser.parse_args()
    if args.defects:
        with ProcessPoolExecutor(args.workers) as pool:
            print_defects(args.seeds, pool)
        return
    names = [name for name in DETECTORS if name.startswith(tuple(args.only))]
    runs = list(itertools.product(names, WORLDS, range(args.seeds)))
    with ProcessPoolExecutor(args.workers) as pool:
        found = dict(zip(runs, pool.map(false_alarms, *zip(*runs, strict=True)), strict=True))
    n_runs = len(WORLDS) * args.seeds
    print("| detector | calibration scores | asked | allowed | found | 99 % band | |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        of_name = [result for run, result in found.items() if run[0] == name]
        n = min(n for n, _ in of_name)
        for i, rate in enumerate(RATES):
            share = np.mean([shares[i] for _, shares in of_name])
            allowed, low, high = band(rate, n, n_runs)
            verdict = "" if low <= share <= high else "outside"
            print(
                f"| {name} | {n} | {rate:.0%} | {allowed:.1%} | {share:.1%} "
                f"| {low:.1%} to {high:.1%} | {verdict} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
