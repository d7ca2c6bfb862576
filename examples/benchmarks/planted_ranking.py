"""How far planted defects rank settings as real defects do, as CSV and as a markdown table.

    pip install ".[benchmark]"
    python examples/benchmarks/planted_ranking.py
    python examples/benchmarks/planted_ranking.py --datasets "elpv mono" --table

Each of 24 settings is fitted on the first split of `planted_validation`: 100 good images, whose
other 50 and the defects planted in these give its planted AUROC; 100 other good images and 100 with
real defects of a kind, its true AUROC. Rows are added to the CSV file at once; settings in the file
are not measured again. ``--table`` only prints the file: Spearman's rank correlation of true AUROC
with that of planted defects of a place, of planted changes of the whole image, and with the mean of
both; the true AUROC of the setting that each of the three ranks first, of the default and of the
best. The real defects of brick and gravel are planted, too: at strength 0.5, by `planted_texture`.
"""

import argparse
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from common import append_csv, mnist, read_csv
from scipy.stats import spearmanr

from anomalib_lite import DeepOneClass, PaDiM, PatchCore, SubspaceAD, planted_validation
from anomalib_lite.data import load_elpv, load_textile, planted_texture
from anomalib_lite.metrics import image_auroc

N_GOOD, N_SPLITS, N_PLANTED, N_TEST = 150, 3, 360, 100
SIZES, SMALL_SIZES = (160, 224, 320, 448), (64, 96, 128, 224)
DATASETS = {
    "textile": load_textile,
    "elpv mono": load_elpv,
    "elpv poly": partial(load_elpv, "poly"),
    **{
        name: partial(
            planted_texture, name, n_train=N_GOOD, n_test=200, strength=0.5, random_state=0
        )
        for name in ("brick", "gravel")
    },
    **{f"mnist {digit}": partial(mnist, digit) for digit in (3, 8)},
}
PATCHCORE = {
    "": {},
    " whiten": {"whiten": True},
    " layer 16": {"layers": (16,)},
    " top 1 %": {"aggregate": ("top", 0.01)},
}
DEFAULT = "PatchCore 224"
COLUMNS = "dataset", "setting", "defects", "planted_local", "planted_global", "true"


def settings(name):
    """Detectors by what is special about them."""
    sizes = SMALL_SIZES if name.startswith("mnist") else SIZES
    for size in sizes:
        for variant, params in PATCHCORE.items():
            yield f"PatchCore {size}{variant}", PatchCore(coreset=2000, image_size=size, **params)
        yield f"DeepOneClass {size}", DeepOneClass(image_size=size)
    for size in sizes[1::2]:
        yield f"PaDiM {size}", PaDiM(image_size=size)
        yield f"SubspaceAD {size}", SubspaceAD(image_size=size)


def test_images(data):
    """(kind of defect or "good", up to N_TEST images of it) of a data set."""
    kinds = np.where(data.test_labels == 1, "good", "defective")
    if data.name == "textile":
        kinds = data.test_defects
    for kind in np.unique(kinds):
        chosen = np.random.default_rng(0).permutation(np.flatnonzero(kinds == kind))[:N_TEST]
        yield str(kind), [data.test[i] for i in chosen]


def measure(detector, trial, tests):
    """Planted AUROC, local and global, and true AUROC by kind of defect."""
    (train, test), n_good = trial.splits[0], len(trial.X) - len(trial.defects)
    detector.set_params(n_jobs=1, random_state=0).fit([trial.X[i] for i in train])
    scores = detector.anomaly_score([trial.X[i] for i in test])
    held_out = scores[test < n_good]
    is_global = np.array([trial.defects[i - n_good].is_global for i in test[test >= n_good]])
    planted = scores[test >= n_good]
    true = {kind: detector.anomaly_score(images) for kind, images in tests.items()}
    good = true.pop("good")
    return {
        "planted_local": auroc(held_out, planted[~is_global]),
        "planted_global": auroc(held_out, planted[is_global]),
    }, {kind: auroc(good, scores) for kind, scores in true.items()}


def auroc(good, bad):
    return image_auroc(np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([good, bad]))


def run(names, path):
    done = {(row["dataset"], row["setting"]) for row in read_csv(path)}
    for name in names:
        left = {k: v for k, v in settings(name) if (name, k) not in done}
        if not left:
            continue
        data = DATASETS[name]()
        options = {"n_splits": N_SPLITS, "n_planted": N_PLANTED, "random_state": 0}
        trial, tests = planted_validation(data.train[:N_GOOD], **options), dict(test_images(data))
        for setting, detector in left.items():
            start = time.perf_counter()
            planted, true = measure(detector, trial, tests)
            for kind, value in true.items():
                known = {"dataset": name, "setting": setting, "defects": kind}
                append_csv(path, known | planted | {"true": value}, COLUMNS)
            print(f"{name}, {setting}: {time.perf_counter() - start:.0f} s", flush=True)


def table(names, path):
    heads = [f"{what} {by}" for what in ("rho", "chosen by") for by in ("local", "global", "both")]
    print("| data | defects | settings |", " | ".join(heads), "| default | best |")
    print("|---" * 11 + "|")
    groups = {}
    for row in read_csv(path):
        if row["dataset"] in names:
            groups.setdefault((row["dataset"], row["defects"]), []).append(row)
    for group, rows in groups.items():
        local, everywhere, true = (
            np.array([float(row[name]) for row in rows]) for name in COLUMNS[3:]
        )
        ranked = local, everywhere, (local + everywhere) / 2
        figures = [f"{spearmanr(planted, true)[0]:.2f}" for planted in ranked]
        figures += [f"{true[planted.argmax()]:.3f}" for planted in ranked]
        default = [float(row["true"]) for row in rows if row["setting"] == DEFAULT]
        figures += [*(f"{value:.3f}" for value in default or [np.nan]), f"{true.max():.3f}"]
        print("|", " | ".join([*group, str(len(rows)), *figures]), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "planted_ranking.csv")
    parser.add_argument("--table", action="store_true", help="only print the file")
    chosen = parser.parse_args()
    if not chosen.table:
        warnings.filterwarnings("ignore", message=".*false_alarm_rate")
        run(chosen.datasets, chosen.csv)
    table(chosen.datasets, chosen.csv)


if __name__ == "__main__":
    main()
