"""DetectorEnsemble beside its members: what each finds, false alarms, seconds.

    python examples/benchmarks/ensembles.py                  # an hour on two cores
    python examples/benchmarks/ensembles.py --only textile --seeds 3

A PatchCore for small defects beside a DeepOneClass for the image as a whole, alone and as an
ensemble, on simulated textile and on solar cells. AUROC by kind of defect; false alarms among the
normal test images at rates of 1 and 5 %; seconds of fit and of scores, where both read the same
network at the same size.
"""

import argparse
import time
import warnings

import numpy as np
from sklearn.metrics import roc_auc_score

RATES = (0.01, 0.05)


def data_sets():
    from anomalib_lite.data import load_elpv, load_textile

    return {
        "textile": load_textile,
        "ELPV mono": load_elpv,
        "ELPV poly": lambda: load_elpv("poly"),
    }


def subjects(size, seed):
    from anomalib_lite import DeepOneClass, DetectorEnsemble, PatchCore

    def local():
        return PatchCore(coreset=10_000, image_size=size, random_state=seed)

    def whole():
        return DeepOneClass(image_size=size, random_state=seed)

    def both(**params):
        return DetectorEnsemble([local(), whole()], random_state=seed, **params)

    yield f"PatchCore, {size} px", local()
    yield f"DeepOneClass, {size} px", whole()
    yield f"both, highest, {size} px", both()
    yield f"both, sum, {size} px", both(combine="sum")


def measured(name, subject, detector, data):
    start = time.perf_counter()
    detector.fit(data.train)
    fitted = time.perf_counter()
    scores = detector.score_samples(data.test)
    scored = time.perf_counter()
    is_good = data.test_labels == 1
    aurocs = []
    for kind in sorted({*data.test_defects} - {"good"}):
        chosen = is_good | (data.test_defects == kind)
        aurocs.append(f"{kind} {roc_auc_score(is_good[chosen], scores[chosen]):.4f}")
    alarms = []
    for rate in RATES:
        detector.set_threshold(false_alarm_rate=rate)
        alarms.append(f"{np.mean(scores[is_good] < detector.offset_):.1%}")
    cells = name, subject, ", ".join(aurocs), ", ".join(alarms), f"{fitted - start:.1f}"
    print(f"| {' | '.join(cells)} | {1e3 * (scored - fitted) / len(scores):.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", choices=("textile", "ELPV mono", "ELPV poly"))
    parser.add_argument("--size", type=int, nargs="+", default=[224, 448])
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "false_alarm_rate=.* needs")
    print("| data | detector | AUROC | false alarms at 1 and 5 % | fit, s | score, ms |")
    print("|---|---|---|---|---|---|")
    for name, load in data_sets().items():
        if args.only in (name, None):
            data = load()
            for seed in range(args.seeds):
                for size in args.size:
                    for subject, detector in subjects(size, seed):
                        measured(name, subject, detector, data)
