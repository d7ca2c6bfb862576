"""Accuracy and cost of the two-stage methods beside classic and untrained alternatives.

    pip install ".[benchmark]"
    python examples/benchmarks/two_stage.py mnist --digits 0 1 2
    python examples/benchmarks/two_stage.py elpv --seeds 0 1 2 --ways untrained trained random
    python examples/benchmarks/two_stage.py textures
    python examples/benchmarks/two_stage.py throughput

``mnist``: one digit against the rest (400 to fit on, 100 more and 4,500 others to score), 32 px, a
small network trained from random weights; each trained representation with four classifiers, beside
classic ones on raw pixels. ``elpv``: CutPaste from the bundled weights, from random ones, and the
same embedding untrained. ``textures``: CutPaste trained on patches, pixel AUROC and AUPRO beside
PatchCore's and the control map's. ``throughput``: an epoch of training beside a bare PyTorch loop
over the same network and the same batches, medians of five.
"""

import argparse
import time

import numpy as np
import torch
from common import control_map, mnist, row
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch.nn import functional as F

from anomalib_lite import ContrastiveDA, CutPaste, PatchCore, RotationPrediction
from anomalib_lite.backbones import pool_maps
from anomalib_lite.data import TEXTURES, load_elpv, planted_texture
from anomalib_lite.data.augment import TURNS, turned
from anomalib_lite.density import fit_head, head_scores
from anomalib_lite.metrics import aupro, image_auroc, pixel_auroc

SMALL = {
    "backbone": "convnet", "weights": "random", "hidden": (128,), "image_size": 32,
    "patch_size": 16, "patch_stride": 16, "n_patches": 100,
}  # fmt: skip
ON_MNIST = {
    "rotation": lambda seed: RotationPrediction(
        **SMALL, epochs=15, learning_rate=0.05, random_state=seed
    ),
    "contrastive": lambda seed: ContrastiveDA(
        **SMALL, epochs=10, learning_rate=0.05, random_state=seed
    ),
}
HEADS = ("gaussian", "kde", "ocsvm", "knn")


# -- MNIST ----------------------------------------------------------------------------------------


def on_mnist(digits, seeds):
    names = [f"{stage}, {head}" for stage in ON_MNIST for head in HEADS]
    row("digit", *names, "pixels, OC-SVM", "pixels, PCA + KDE", "pixels, PCA error", "s a class")
    row(*["---"] * (len(names) + 5))
    found = []
    for digit in digits:
        data = mnist(digit)
        cells = [one_digit(data, seed) for seed in seeds]
        found.append(np.mean(cells, axis=0))
        row(digit, *map(float, found[-1]))
    row("mean", *map(float, np.mean(found, axis=0)))


def one_digit(data, seed):
    is_other = data.test_labels == -1
    cells, seconds = [], []
    for make in ON_MNIST.values():
        stage = make(seed)
        start = time.perf_counter()
        fitted = stage.fit_transform(data.train)
        seconds.append(time.perf_counter() - start)
        embedded = stage.transform(data.test)
        for head in HEADS:
            scores = head_scores(fit_head(head, fitted, seed), embedded)
            cells.append(image_auroc(is_other, scores))
    return [*cells, *raw_pixels(data, is_other), np.mean(seconds)]


def raw_pixels(data, is_other):
    train, test = (x.reshape(len(x), -1) / 255 for x in (data.train, data.test))
    svm = OneClassSVM(gamma="scale").fit(train)
    pca = PCA(32, random_state=0).fit(train)
    kde = KernelDensity(bandwidth=1.0).fit(pca.transform(train))
    error = np.square(test - pca.inverse_transform(pca.transform(test))).sum(1)
    scores = (-svm.score_samples(test), -kde.score_samples(pca.transform(test)), error)
    return [image_auroc(is_other, one) for one in scores]


# -- ELPV -----------------------------------------------------------------------------------------


ON_ELPV = {
    "untrained": {"learning_rate": 0.0, "train_steps": 1},
    "trained": {"learning_rate": 0.003, "train_steps": 60},
    "random": {"weights": "random", "train_from": None, "learning_rate": 0.03, "train_steps": 120},
}


def on_elpv(names, seeds):
    """CutPaste beside its own untrained embedding, which a learning rate of 0 gives."""
    data = load_elpv()
    is_anomalous = data.test_labels == -1
    common = {"image_size": 128, "n_patches": 50, "patch_stride": 96}
    row("CutPaste", "image AUROC by seed", "mean", "fit, s")
    row(*["---"] * 4)
    for name in names:
        way, found = ON_ELPV[name], []
        start = time.perf_counter()
        for seed in seeds:
            detector = CutPaste(**common | way, random_state=seed).fit(data.train)
            found.append(float(image_auroc(is_anomalous, detector.anomaly_score(data.test))))
        seconds = (time.perf_counter() - start) / len(seeds)
        row(name, ", ".join(f"{one:.3f}" for one in found), float(np.mean(found)), seconds)


# -- textures -------------------------------------------------------------------------------------


def on_textures(seed):
    row("texture", "method", "pixel AUROC", "AUPRO", "fit, s", "map, s an image")
    row(*["---"] * 6)
    for name in TEXTURES:
        data = planted_texture(name, n_train=60, n_test=60, random_state=seed)
        patchwise = CutPaste(patch_level=True, epochs=20, patch_stride=8, random_state=seed)
        for detector in (patchwise, PatchCore(random_state=seed)):
            start = time.perf_counter()
            detector.fit(data.train)
            fitted = time.perf_counter()
            maps = detector.anomaly_map(data.test)
            took = fitted - start, (time.perf_counter() - fitted) / len(maps)
            quality = pixel_auroc(data.test_masks, maps), aupro(data.test_masks, maps)
            row(name, type(detector).__name__, *map(float, (*quality, *took)))
        controls = [control_map(data.test, window) for window in (15, 23, 31)]
        quality = (max(q(data.test_masks, c) for c in controls) for q in (pixel_auroc, aupro))
        row(name, "control", *map(float, quality), "", "")


# -- throughput -----------------------------------------------------------------------------------


def throughput():
    """Rotation prediction on 400 digits of 32 px, one epoch."""
    images = mnist(3).train
    ours, bare = [], []
    for seed in range(5):
        detector = RotationPrediction(**SMALL, epochs=1, random_state=seed)
        detector._start()
        batch = torch.cat([detector.input_.batch([image]) for image in detector._open(images)])
        start = time.perf_counter()
        detector._train(batch, torch.Generator().manual_seed(seed))
        ours.append(time.perf_counter() - start)
        detector._start()
        start = time.perf_counter()
        bare_epoch(detector.backbone_, detector._head_, batch, detector.train_batch_size)
        bare.append(time.perf_counter() - start)
    row("", "s an epoch", "images/s, of four views each")
    row(*["---"] * 3)
    for name, seconds in (("anomalib_lite", ours), ("bare loop", bare)):
        row(name, float(np.median(seconds)), f"{len(images) / np.median(seconds):.0f}")
    print(f"\nratio {np.median(ours) / np.median(bare):.2f}")


def bare_epoch(backbone, head, images, batch_size):
    parameters = [*backbone.module.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=3e-4)
    backbone.module.train()
    for batch in images[torch.randperm(len(images))].split(batch_size):
        labels = torch.tensor(TURNS).repeat_interleave(len(batch))
        views = turned(batch, TURNS).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(head(pool_maps(backbone.trainable_maps(views))), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("mnist", "elpv", "textures", "throughput"))
    parser.add_argument("--digits", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", choices=list(ON_ELPV), default=list(ON_ELPV))
    chosen = parser.parse_args()
    if chosen.what == "mnist":
        on_mnist(chosen.digits, chosen.seeds)
    elif chosen.what == "elpv":
        on_elpv(chosen.ways, chosen.seeds)
    elif chosen.what == "textures":
        on_textures(chosen.seeds[0])
    else:
        throughput()


if __name__ == "__main__":
    main()
