"""How well detectors rank defects that have seen a few normal images.

    python examples/benchmarks/few_images.py
    python examples/benchmarks/few_images.py --only PaDiM SubspaceAD --counts 2 8 --draws 10

ELPV, monocrystalline solar cells: image AUROC on 188 good and 313 defective ones, after a fit on
some of the 400 others, drawn anew for each draw and the same for all detectors. A line for each
number of images: mean, lowest and highest of the draws. "-" where a detector needs more images.
"""

import argparse
import warnings

import numpy as np

from anomalib_lite import PaDiM, PatchCore, SubspaceAD
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc

DETECTORS = {
    "PatchCore": lambda seed: PatchCore(random_state=seed),
    "PaDiM": lambda seed: PaDiM(random_state=seed),
    "SubspaceAD": lambda seed: SubspaceAD(random_state=seed),
    "SubspaceAD, 95 %": lambda seed: SubspaceAD(explained_variance=0.95, random_state=seed),
    "SubspaceAD, 30 turned": lambda seed: SubspaceAD(turned=30, random_state=seed),
}


def auroc(make, n_images, seed, data):
    """Image AUROC of a fit on some of the good cells; None if they are too few."""
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:n_images]
    try:
        detector = make(seed).fit(data.train[chosen])
    except ValueError as error:
        if "expected at least" not in str(error):
            raise
        return None
    return image_auroc(data.test_labels == -1, detector.anomaly_score(data.test))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=[*DETECTORS])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*threshold|false_alarm_rate")
    data = load_elpv()
    print("| detector | images | mean | lowest | highest |\n|---|---|---|---|---|", flush=True)
    for name in arguments.only:
        for n_images in arguments.counts:
            found = [auroc(DETECTORS[name], n_images, s, data) for s in range(arguments.draws)]
            figures = ["-"] * 3
            if None not in found:
                figures = [f"{value:.4f}" for value in (np.mean(found), min(found), max(found))]
            print(f"| {name} | {n_images} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
