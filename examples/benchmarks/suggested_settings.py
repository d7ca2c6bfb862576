"""The suggested detector beside the default one, and what each of its members finds.

    pip install ".[benchmark]"
    python examples/benchmarks/suggested_settings.py                 # an hour on two cores
    python examples/benchmarks/suggested_settings.py --only textile --seeds 0 1 2

AUROC by kind of defect; false alarms among the normal test images at rates of 1 and 5 %; seconds
of fit and milliseconds of a score. Textile: 300 normal images to fit on; 200 normal ones, 500 with
local and 500 with global defects to score; ``--split`` takes other ones. ELPV: 400 good cells to
fit on, the others to score. Textures: 60 crops to fit on, 60 to score. MNIST: one digit against
the rest, 400 to fit on, its other 100 and every ninth of the others to score.
"""

import argparse
import time
import warnings
from functools import partial

import numpy as np
from common import mnist
from sklearn.metrics import roc_auc_score

from anomalib_lite import DetectorEnsemble, PatchCore, suggest_settings
from anomalib_lite.data import TEXTURES, AnomalyDataset, load_elpv, load_textile, planted_texture

RATES = (0.01, 0.05)


def data_sets(split):
    yield "textile", partial(load_textile, split=split)
    yield "ELPV mono", load_elpv
    yield "ELPV poly", partial(load_elpv, "poly")
    for texture in TEXTURES:
        yield texture, partial(planted_texture, texture, n_train=60, n_test=60, random_state=split)
    for digit in range(10):
        yield f"MNIST {digit}", partial(digit_and_others, digit)


def digit_and_others(digit):
    data = mnist(digit)
    kept = (data.test_labels == 1) | (np.arange(len(data.test)) % 9 == 0)
    kinds = np.where(data.test_labels == 1, "good", "other")[kept]
    return AnomalyDataset(data.name, data.train, data.test[kept], data.test_labels[kept], kinds)


def aurocs(data, scores):
    """By kind of defect, where a data set has few kinds, else of all of them."""
    is_good, kinds = data.test_labels == 1, data.test_defects
    named = sorted({*kinds[~is_good]})
    if len(named) > 2:
        return f"{roc_auc_score(~is_good, scores):.4f}"
    chosen = {kind: is_good | (kinds == kind) for kind in named}
    found = {kind: roc_auc_score(~is_good[c], scores[c]) for kind, c in chosen.items()}
    return ", ".join(f"{kind} {auroc:.4f}" for kind, auroc in found.items())


def measure(name, seed, subject, detector, data):
    start = time.perf_counter()
    detector.fit(data.train)
    fitted = time.perf_counter()
    seen = detector.inspect(data.test, maps=False)
    ms = 1e3 * (time.perf_counter() - fitted) / len(data.test)
    alarms = []
    for rate in RATES:
        detector.set_threshold(false_alarm_rate=rate)
        alarms.append(f"{np.mean(seen.scores[data.test_labels == 1] < detector.offset_):.1%}")
    cells = name, seed, subject, aurocs(data, -seen.scores), ", ".join(alarms)
    print(f"| {' | '.join(map(str, cells))} | {fitted - start:.1f} | {ms:.1f} |", flush=True)
    if isinstance(detector, DetectorEnsemble):
        for member, scores in seen.member_scores.items():
            cells = name, seed, f"its member {member}", aurocs(data, scores)
            print(f"| {' | '.join(map(str, cells))} | | | |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", help="names of data sets, or how they begin")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the detectors")
    parser.add_argument("--split", type=int, default=0, help="of textile, and seed of textures")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "false_alarm_rate=.* needs")
    print("| data | seed | detector | AUROC | false alarms at 1 and 5 % | fit, s | score, ms |")
    print("|---" * 7 + "|")
    for name, load in data_sets(args.split):
        if args.only and not name.startswith(tuple(args.only)):
            continue
        data = load()
        for seed in args.seeds:
            measure(name, seed, "PatchCore()", PatchCore(random_state=seed), data)
            suggestion = suggest_settings(data.train, random_state=seed)
            measure(name, seed, "suggested", suggestion.detector, data)


if __name__ == "__main__":
    main()
