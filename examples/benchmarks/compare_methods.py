"""Every method on every data set: one command, from nothing to everything, resumable.

    pip install ".[benchmark]"
    apt-get install dataset-fashion-mnist
    python examples/benchmarks/compare_methods.py
    python examples/benchmarks/compare_methods.py --datasets elpv mnist --methods PaDiM
    python examples/benchmarks/compare_methods.py --data-root /data/mvtec_ad --latex

Rows are kept in ``--out`` as they come, and not measured again. ELPV: 400 good cells to fit on, 188
good and 313 defective monocrystalline ones to score (polycrystalline: 390 and 402). Textile: 300
normal images to fit on; 200 normal ones, 500 with local and 500 with global defects to score, each
kind a data set of its own. Textures: 60 crops to fit on, 60 to score, 224 px, drawn by the seed.
MNIST: one digit against the rest, 400 to fit on, its other 100 and all 4,500 others to score.
Fashion-MNIST: one class against the rest, 400 to fit on, 10,000 to score. Both at 64 px, by MLSAD
at 32; tables show the means of ten classes. ``control`` is |pixel - local mean| in windows of 15,
23 and 31 px.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from common import control_map, mnist
from sklearn.svm import OneClassSVM

import anomalib_lite as al
from anomalib_lite.benchmarks.row import COSTS
from anomalib_lite.data import (
    TEXTURES,
    load_elpv,
    load_fashion_mnist,
    load_mvtec,
    load_textile,
    mvtec_categories,
    planted_texture,
)
from anomalib_lite.data.classes import FASHION_MNIST


class Control(al.BaseDetector):
    """How much pixels differ from their surroundings: what a detector must beat."""

    def __init__(self, window=15, *, image_size=224, random_state=None):
        super().__init__(image_size=image_size, smoothing=0, random_state=random_state)
        self.window = window

    def _learn(self, batches, n_images, generator):
        return torch.cat([self._infer(batch)[0] for _, batch in batches])

    def _infer(self, batch):
        grays = batch.mean(1)
        heat = torch.from_numpy(control_map(grays.cpu().numpy(), self.window)).to(batch.device)
        return heat.amax((1, 2)), heat


TRAINED_SMALL = {"hidden": (128,), "image_size": 64, "patch_size": 16}
MLSAD = "MLSAD, resampled, 32 px"
METHODS = {
    "PatchCore": al.PatchCore(),
    "PatchCore, coreset 1 %": al.PatchCore(coreset=0.01),
    "PaDiM": al.PaDiM(),
    "SubspaceAD": al.SubspaceAD(),
    "SubspaceAD, 95 %": al.SubspaceAD(explained_variance=0.95),
    "SPADE": al.SPADE(),
    "SPADE, 5 neighbors": al.SPADE(n_neighbors=5),
    "DeepOneClass, Gaussian": al.DeepOneClass(),
    "DeepOneClass, Gaussian, max": al.DeepOneClass(pooling="max"),
    "DeepOneClass, 5-NN": al.DeepOneClass(classifier="knn", normalize=True),
    "DeepOneClass, OC-SVM": al.DeepOneClass(classifier="ocsvm", normalize=True),
    "DeepOneClass, KDE": al.DeepOneClass(classifier="kde", normalize=True),
    "DeepOneClass, OC-SVM nu .05": al.DeepOneClass(classifier=OneClassSVM(nu=0.05)),
    "CANCE, backbone": al.CANCE(backbone="efficientnet_lite0"),
    "CutPaste, 60 steps": al.CutPaste(train_steps=60),
    "RotationPrediction, convnet": al.RotationPrediction(
        "convnet", epochs=15, learning_rate=0.05, **TRAINED_SMALL
    ),
    "ContrastiveDA, convnet": al.ContrastiveDA(
        "convnet", "gaussian", epochs=10, learning_rate=0.05, **TRAINED_SMALL
    ),
    MLSAD: al.MLSAD(
        fakes=al.PatchResampler(),
        width=8,
        n_blocks=1,
        learning_rate=3e-3,
        epochs=20,
        image_size=32,
    ),
    **{f"control, {window} px": Control(window) for window in (15, 23, 31)},
}

# Image AUROC on MVTec AD as published. PatchCore: a course report with coreset 0.1 and
# WideResNet50 (C. Tempo, M. Yones, N. Giovenali, Politecnico di Torino, 2023), by category; means
# of the papers: Roth et al. 2022 (25 %), Defard et al. 2020, Cohen & Hoshen 2020.
PUBLISHED = {
    "PatchCore": {
        "bottle": 1.0, "cable": 0.9565, "capsule": 0.9793, "carpet": 0.9852, "grid": 0.9599,
        "leather": 1.0, "metal_nut": 0.9829, "pill": 0.94, "screw": 0.9205, "tile": 0.9986,
        "toothbrush": 0.9222, "transistor": 0.9954, "wood": 0.9885, "zipper": 0.9635,
    },
}  # fmt: skip
PUBLISHED_MEANS = {"PatchCore": 0.991, "PaDiM": 0.953, "SPADE": 0.855}

METRICS = ("image_auroc", "pixel_auroc", "aupro")


def textile(kind, seed):
    return load_textile().of_kinds(kind)


def texture(name, seed):
    return planted_texture(name, n_train=60, n_test=60, random_state=seed)


def digit(number, seed):
    return mnist(number)


def clothes(name, seed):
    return load_fashion_mnist().one_vs_rest(name, n_train=400, random_state=seed)


GROUPS = {
    "elpv": {"ELPV mono": lambda seed: load_elpv(), "ELPV poly": lambda seed: load_elpv("poly")},
    "textile": {f"textile, {kind}": partial(textile, kind) for kind in ("local", "global")},
    "textures": {name: partial(texture, name) for name in TEXTURES},
    "mnist": {f"MNIST {number}": partial(digit, number) for number in range(10)},
    "fashion": {f"Fashion-MNIST {name}": partial(clothes, name) for name in FASHION_MNIST},
}
POOLED = {"MNIST": [*GROUPS["mnist"]], "Fashion-MNIST": [*GROUPS["fashion"]]}
SMALL = {"image_size": 64, MLSAD: {"image_size": 32}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--datasets", nargs="+", choices=[*GROUPS], default=[*GROUPS])
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data-root", help="folder of categories in the layout of MVTec AD")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "compare_methods")
    parser.add_argument("--latex", action="store_true")
    chosen = parser.parse_args()
    methods, published = {name: METHODS[name] for name in chosen.methods}, {}
    if chosen.data_root is None:
        datasets = {k: v for group in chosen.datasets for k, v in GROUPS[group].items()}
    else:  # by whole paths: a category may be called "brick", and another root have one, too
        root = Path(chosen.data_root).resolve()
        datasets = {str(root / name): load_mvtec(root, name) for name in mvtec_categories(root)}
        if "mvtec" in root.name.lower():
            published = {
                method: {str(root / name): figure for name, figure in figures.items()}
                for method, figures in PUBLISHED.items()
            }
    small = {key: value for key, value in SMALL.items() if key != MLSAD or MLSAD in methods}
    table = al.benchmark(
        methods,
        datasets,
        seeds=chosen.seeds,
        metrics=METRICS,
        settings={name: small for group in POOLED.values() for name in group if name in datasets},
        out=chosen.out,
        verbose=True,
    ).pooled({name: group for name, group in POOLED.items() if {*group} <= {*datasets}})
    written = table.to_latex if chosen.latex else table.to_markdown
    for metric in [*METRICS, *COSTS]:
        if any(row.get(metric) is not None for row in table.rows):
            shown = {"digits": COSTS.get(metric, 3)}
            if metric == "image_auroc":
                shown["published"] = published
            print(f"{written(metric, **shown)}\n")
    if published:
        means = ", ".join(f"{method} {mean}" for method, mean in PUBLISHED_MEANS.items())
        print(f"Published means of MVTec AD, image AUROC: {means}\n")
    for row in table.failures:
        print(f"{row['dataset']}, {row['method']}, seed {row['seed']}: {row['error']}")


if __name__ == "__main__":
    main()
