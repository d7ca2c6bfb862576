"""Detectors that learn from folders in which some images are defective, with and without help.

    python examples/benchmarks/dirty_folders.py
    python examples/benchmarks/dirty_folders.py --only SubspaceAD --shares 0.1 --draws 1

ELPV, monocrystalline solar cells: some of the 313 defective cells, drawn anew for each draw, are
among 400 good ones at fit. A line for each number of them, with ``contamination=0`` and with what
their share is: image AUROC where these cells leave the test set (no overlap) and where they stay in
it, share of defective cells among the first of ``suspects_``, as many as there are, false alarms
among the 188 good test cells where 1 % and 5 % are claimed, seconds of fit. Means of the draws.
"""

import argparse
import time
import warnings

import numpy as np

from anomalib_lite import PaDiM, PatchCore, SubspaceAD
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc

DETECTORS = {"PatchCore": PatchCore, "PaDiM": PaDiM, "SubspaceAD": SubspaceAD}
RATES = 0.01, 0.05


def figures(make, share, contamination, draw, data):
    """AUROC without and with overlap, precision of suspects, false alarms, seconds."""
    is_bad = data.test_labels == -1
    n_good, n_bad = len(data.train), round(share * len(data.train))
    drawn = np.random.default_rng(draw).permutation(np.flatnonzero(is_bad))[:n_bad]
    stays = ~np.isin(np.arange(len(is_bad)), drawn)
    start = time.perf_counter()
    images = np.concatenate([data.train, data.test[drawn]])
    detector = make(random_state=draw, contamination=contamination).fit(images)
    seconds = time.perf_counter() - start
    scores = detector.anomaly_score(data.test)
    first = detector.suspects_.indices[:n_bad]
    alarms = [
        np.mean(-scores[~is_bad] < detector.set_threshold(false_alarm_rate=rate).offset_)
        for rate in RATES
    ]
    return (
        image_auroc(is_bad[stays], scores[stays]),
        image_auroc(is_bad, scores),
        np.mean(first >= n_good) if n_bad else np.nan,
        *alarms,
        seconds,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=[*DETECTORS])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.0, 0.05, 0.1, 0.2])
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*false_alarm_rate")
    data = load_elpv()
    print("| detector | dirt | contamination | no overlap | overlap | suspects | 1 % | 5 % | s |")
    print("|---" * 9 + "|", flush=True)
    for name in arguments.only:
        for share in arguments.shares:
            # of a clean folder: what it costs to be careful
            for contamination in (0.0, (share or 0.1) / (1 + (share or 0.1))):
                draws = range(arguments.draws)
                each = [figures(DETECTORS[name], share, contamination, d, data) for d in draws]
                auroc, overlap, found, *alarms, seconds = np.mean(each, 0)
                words = f"{auroc:.4f} | {overlap:.4f} | {found:.2f}".replace("nan", "-")
                rates = " | ".join(f"{100 * alarm:.1f} %" for alarm in alarms)
                print(
                    f"| {name} | {share:.0%} | {contamination:.3f} | {words} | {rates} | "
                    f"{seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
