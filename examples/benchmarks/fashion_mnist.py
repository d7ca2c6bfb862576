"""Trained two-stage methods on Fashion-MNIST, one class against the rest, beside classic ones.

    apt-get install dataset-fashion-mnist
    pip install .
    python examples/benchmarks/fashion_mnist.py rotation --classes boot bag --epochs 2 8
    python examples/benchmarks/fashion_mnist.py rotation contrastive --network resnet18 --epochs 20
    python examples/benchmarks/fashion_mnist.py pixels

Fits on the images of a class (6,000, or ``--n-train``), scores all 10,000 test images; image AUROC
of one representation with four classifiers. ``--network resnet18`` is the papers': a ResNet18 whose
first convolution has 3 x 3 pixels and stride 1, and an embedding of 512; it wants a GPU.
``convnet`` is small. ``pixels``: classic detectors on pixels. Each line is printed when it is
known, so that a run that is cut short loses no other.
"""

import argparse
import time

import numpy as np
import timm
import torch
from common import row
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM
from torch import nn

from anomalib_lite import ContrastiveDA, RotationPrediction
from anomalib_lite.data import load_fashion_mnist
from anomalib_lite.density import fit_head, head_scores
from anomalib_lite.metrics import image_auroc

METHODS = {"rotation": RotationPrediction, "contrastive": ContrastiveDA}
HEADS = "gaussian", "kde", "ocsvm", "knn"
CHEAP = {  # of what fit does beside training
    "classifier": "gaussian", "image_size": 32, "patch_size": 16, "patch_stride": 16,
    "n_patches": 100, "n_folds": 2, "batch_size": 512,
}  # fmt: skip


def resnet18():
    """The network for images of 32 px."""
    network = timm.create_model("resnet18")
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def trained(name, network, epochs, data, seed, learning_rate):
    """Image AUROC by classifier, and the seconds that training took."""
    settings = CHEAP | {"epochs": epochs, "random_state": seed, "learning_rate": learning_rate}
    if network == "convnet":
        settings |= {"backbone": "convnet", "weights": "random", "hidden": (128,)}
    else:
        torch.manual_seed(seed)
        settings |= {"backbone": resnet18()}
    stage = METHODS[name](**settings)
    start = time.perf_counter()
    stage.fit(data.train)
    seconds = time.perf_counter() - start
    normal, test = stage.transform(data.train), stage.transform(data.test)
    is_other = data.test_labels == -1
    found = [image_auroc(is_other, head_scores(fit_head(h, normal, seed), test)) for h in HEADS]
    return [*map(float, found), f"{seconds:.0f}"]


def by_pixels(data):
    """Image AUROC of an OC-SVM, a density of principal components, and their error."""
    train, test = (x.reshape(len(x), -1) / 255 for x in (data.train, data.test))
    pca = PCA(64, random_state=0).fit(train)
    inside = pca.transform(test)
    error = np.square(test - pca.inverse_transform(inside)).sum(1)
    density = KernelDensity(bandwidth=1.0).fit(pca.transform(train))
    svm = OneClassSVM(gamma="scale").fit(train)
    is_other = data.test_labels == -1
    scores = -svm.score_samples(test), -density.score_samples(inside), error
    return [float(image_auroc(is_other, each)) for each in scores]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", nargs="+", choices=[*METHODS, "pixels"])
    parser.add_argument("--classes", nargs="+", help="all ten, unless given")
    parser.add_argument("--epochs", nargs="+", type=int, default=[8])
    parser.add_argument("--network", choices=("convnet", "resnet18"), default="convnet")
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--n-train", type=int, help="all of the class, unless given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--path", help="folder of the data set")
    chosen = parser.parse_args()
    images = load_fashion_mnist(chosen.path)
    tasks = {
        name: images.one_vs_rest(name, n_train=chosen.n_train)
        for name in chosen.classes or images.classes.tolist()
    }
    if "pixels" in chosen.what:
        row("class", "pixels, OC-SVM", "PCA + KDE", "PCA error")
        row(*["---"] * 4)
        for name, data in tasks.items():
            row(name, *by_pixels(data))
    methods = [name for name in chosen.what if name in METHODS]
    if methods:
        row("method", "class", "epochs", "seed", *HEADS, "fit, s")
        row(*["---"] * (len(HEADS) + 5))
    for method in methods:
        for epochs in chosen.epochs:
            for name, data in tasks.items():
                for seed in chosen.seeds:
                    given = method, chosen.network, epochs, data, seed, chosen.learning_rate
                    row(method, name, epochs, seed, *trained(*given))


if __name__ == "__main__":
    main()
