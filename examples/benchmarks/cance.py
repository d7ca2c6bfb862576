"""CANCE and its ablations: known densities, digits, corruptions, solar cells, tables.

    pip install ".[benchmark]"
    python examples/benchmarks/cance.py densities
    python examples/benchmarks/cance.py mnist --backbone pca --seeds 0 1 2
    python examples/benchmarks/cance.py corruptions --backbone mlp --seeds 0 1 2
    python examples/benchmarks/cance.py nine --backbone pca
    python examples/benchmarks/cance.py fashion --backbone pca --n-train 6000
    python examples/benchmarks/cance.py elpv --seeds 0 1 2
    python examples/benchmarks/cance.py elpv-patches
    python examples/benchmarks/cance.py tables --seeds 0 1 2

Each line is one autoencoder, and all scores are read from its composites: ``e`` and ``c``, the
errors alone; ``h = 0``, the Mahalanobis distance of the composite; LatNCE, CNCE and CANCE,
densities of the code, of the composite, and of the composite with lowered errors. ``mnist``: one
digit against the rest, fitted on 400. ``corruptions``: 400 of each digit are normal, against
corruptions of others of the same digits; ``nine``: nine digits against the tenth; ``fashion``: the
same on Fashion-MNIST, fitted on 54,000 images or on some of them, all 10,000 test images scored,
beside the distances to the five nearest in pretrained features at 64 px. ``elpv``:
pretrained features, pooled, beside classic classifiers of the same; ``elpv-patches``: the most
anomalous patch. ``tables``: beside scikit-learn's detectors.
"""

import argparse
import time
from itertools import product

import numpy as np
from common import mnist, row
from scipy import stats
from sklearn.covariance import LedoitWolf
from sklearn.datasets import load_breast_cancer, load_wine, make_moons
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from anomalib_lite import CANCE, DeepFeatures, GaussianDensity, NCEDensity
from anomalib_lite.data import CORRUPTIONS, corrupted, load_elpv, load_fashion_mnist
from anomalib_lite.density import head_scores
from anomalib_lite.metrics import f1_max, image_auroc

ON_DIGITS = {
    "autoencoder": {"validation_fraction": 0.0},
    "mlp": {"validation_fraction": 0.0},
    "pca": {"latent_dim": 32},
}
WAYS = ("e", "c", "h = 0", "LatNCE", "CNCE", "CANCE")


PIXELS = ("pixels, PCA error", "pixels, PCA + KDE", "pixels, OC-SVM")


def head(*names):
    row(*names)
    row(*["---"] * len(names))


def all_scores(detector, X, seed):
    """Anomaly scores of ``X`` by all methods in WAYS, from one autoencoder."""
    learned, rows = detector.composites_, detector.transform(X)
    fitted = detector.density_
    how = {"epochs": fitted.epochs, "learning_rate": fitted.learning_rate, "random_state": seed}
    kinds = {"h = 0": NCEDensity(epochs=0), "LatNCE": NCEDensity(**how), "CNCE": NCEDensity(**how)}
    scores = {"e": rows[:, -2], "c": rows[:, -1], "CANCE": detector.anomaly_score(X)}
    for name, density in kinds.items():
        part = slice(None, -2) if name == "LatNCE" else slice(None)
        scores[name] = -density.fit(learned[:, part]).score_samples(rows[:, part])
    return scores


def pixels(train, test):
    """Anomaly scores by classic methods on raw pixels."""
    train, test = (x.reshape(len(x), -1) / 255 for x in (train, test))
    pca = PCA(32, random_state=0).fit(train)
    error = np.square(test - pca.inverse_transform(pca.transform(test))).sum(1)
    kde = KernelDensity(bandwidth=1.0).fit(pca.transform(train))
    svm = OneClassSVM(gamma="scale").fit(train[:2000])
    densities = -kde.score_samples(pca.transform(test)), -svm.score_samples(test)
    return dict(zip(PIXELS, (error, *densities), strict=True))


# -- known densities ------------------------------------------------------------------------------

CENTERS = {
    "two clusters": [(-2, 0), (2, 1)],
    "three clusters": [(-3, -1), (3, -1), (0, 3)],
    "a ring of four": [(3, 0), (0, 3), (-3, 0), (0, -3)],
}
SPREAD = stats.multivariate_normal([0, 0], [[0.8, 0.2], [0.2, 0.7]])


def densities(seeds):
    head("mixture", "noise", "weights kept", "correlation", "slope", "mean difference, nats")
    for name, refine, kept in product(
        CENTERS, ("as it is", "refined"), ("lowest held-out", "last")
    ):
        centers, found = np.array(CENTERS[name]), []
        how = {
            "refine_noise": refine == "refined",
            "validation_fraction": 0.1 if kept == "lowest held-out" else 0.0,
        }
        for seed in seeds:
            rng = np.random.default_rng(seed)
            fit, test = (
                centers[rng.integers(len(centers), size=n)] + SPREAD.rvs(n, random_state=rng)
                for n in (2000, 5000)
            )
            truth = -np.log(np.mean([SPREAD.pdf(test - c) for c in centers], axis=0))
            density = NCEDensity(random_state=seed, **how).fit(fit)
            ours = -density.score_samples(test)
            slope = np.polyfit(truth, ours, 1)[0]
            found.append((np.corrcoef(truth, ours)[0, 1], slope, np.mean(ours - truth)))
        row(name, refine, kept, *map(float, np.mean(found, axis=0)))


# -- digits ---------------------------------------------------------------------------------------


def on_digits(backbone, seed):
    return CANCE(backbone, image_size=28, random_state=seed, **ON_DIGITS[backbone])


def on_mnist(seeds, backbone, digits):
    names = [*WAYS, *PIXELS]
    head("digit", *names, "fit, s")
    found = []
    for digit in digits:
        data = mnist(digit)
        is_other = data.test_labels == -1
        cells = []
        for seed in seeds:
            start = time.perf_counter()
            detector = on_digits(backbone, seed).fit(data.train)
            seconds = time.perf_counter() - start
            scores = all_scores(detector, data.test, seed) | pixels(data.train, data.test)
            cells.append([*(image_auroc(is_other, scores[name]) for name in names), seconds])
        found.append(np.mean(cells, axis=0))
        row(digit, *map(float, found[-1]))
    row("mean", *map(float, np.mean(found, axis=0)))


def on_corruptions(seeds, backbone):
    parts = [mnist(digit) for digit in range(10)]
    train = np.stack([data.train for data in parts])  # (10, 400, 28, 28)
    held_out = np.stack([data.test[data.test_labels == 1] for data in parts])  # (10, 100, 28, 28)
    names = [*WAYS, *PIXELS]
    head("normal", "anomalous", *names)
    found = {kind: [] for kind in CORRUPTIONS}
    for seed in seeds:
        learned = np.concatenate(train)
        detector = on_digits(backbone, seed).fit(learned)
        good = np.concatenate(held_out)
        tests = {kind: corrupted(good, kind, random_state=0) for kind in CORRUPTIONS}
        everything = np.concatenate([good, *tests.values()])
        scores = all_scores(detector, everything, seed) | pixels(learned, everything)
        for i, kind in enumerate(CORRUPTIONS):
            part = np.r_[: len(good), (i + 1) * len(good) : (i + 2) * len(good)]
            truth = part >= len(good)
            found[kind].append([image_auroc(truth, scores[name][part]) for name in names])
    for kind, cells in found.items():
        row("ten digits", kind, *map(float, np.mean(cells, axis=0)))
    row("ten digits", "mean", *map(float, np.mean(list(found.values()), axis=(0, 1))))


def nine_against_one(seeds, backbone, digits):
    parts = [mnist(digit) for digit in range(10)]
    names = [*WAYS, *PIXELS]
    head("normal", "anomalous", *names)
    found = []
    for digit in digits:
        others = [data for i, data in enumerate(parts) if i != digit]
        learned = np.concatenate([data.train for data in others])
        good = np.concatenate([data.test[data.test_labels == 1] for data in others])
        odd = np.concatenate([parts[digit].train, parts[digit].test[:100]])
        test, truth = np.concatenate([good, odd]), np.repeat([False, True], [900, 500])
        cells = []
        for seed in seeds:
            detector = on_digits(backbone, seed).fit(learned)
            scores = all_scores(detector, test, seed) | pixels(learned, test)
            cells.append([image_auroc(truth, scores[name]) for name in names])
        found.append(np.mean(cells, axis=0))
        row("nine digits", digit, *map(float, found[-1]))
    row("nine digits", "mean", *map(float, np.mean(found, axis=0)))


def fashion(seeds, backbone, n_train, names):
    images = load_fashion_mnist()
    features = DeepFeatures(image_size=64).fit(images.train[:100])
    of_train, of_test = features.transform(images.train), features.transform(images.test)
    columns = [*WAYS, *PIXELS, "features, 5-NN"]
    head("normal", "anomalous", *columns, "fit, s")
    found = []
    for name in names or images.classes.tolist():
        cells = []
        for seed in seeds:
            data = images.rest_vs_one(name, n_train=n_train, random_state=seed)
            start = time.perf_counter()
            detector = on_digits(backbone, seed).fit(data.train)
            seconds = time.perf_counter() - start
            scores = all_scores(detector, data.test, seed) | pixels(data.train, data.test)
            normal = of_train[images.train_classes != name]
            if n_train is not None:  # as many, if not the same
                normal = np.random.default_rng(seed).permutation(normal)[:n_train]
            nearest = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(normal)
            scores["features, 5-NN"] = head_scores(nearest, of_test)
            truth = data.test_labels == -1
            cells.append([*(image_auroc(truth, scores[each]) for each in columns), seconds])
        found.append(np.mean(cells, axis=0))
        row("nine", name, *map(float, found[-1]))
    row("nine", "mean", *map(float, np.mean(found, axis=0)))


# -- ELPV -----------------------------------------------------------------------------------------


def on_elpv(seeds):
    data = load_elpv()
    truth = data.test_labels == -1
    features = DeepFeatures(layers=(8, 16, 32)).fit(data.train)
    train, test = features.transform(data.train), features.transform(data.test)
    head("pretrained features of ELPV", "image AUROC by seed", "mean")
    classic = {
        "5-NN": NearestNeighbors(n_neighbors=5), "Gaussian": GaussianDensity(),
        "OC-SVM": make_pipeline(StandardScaler(), OneClassSVM()),
    }  # fmt: skip
    for name, classifier in classic.items():
        row(name, "", float(image_auroc(truth, head_scores(classifier.fit(train), test))))
    found = {}
    for seed in seeds:
        density = NCEDensity(epochs=20, learning_rate=0.003)
        detector = CANCE("efficientnet_lite0", density=density, n_patches=500, random_state=seed)
        detector.fit(data.train)
        for name, scores in all_scores(detector, data.test, seed).items():
            found.setdefault(f"pooled, {name}", []).append(image_auroc(truth, scores))
    for name, cells in found.items():
        row(name, ", ".join(f"{cell:.3f}" for cell in cells), float(np.mean(cells)))


def on_elpv_patches(seeds):
    """Small settings: one epoch sees 10,000 patches."""
    data = load_elpv()
    density = NCEDensity(epochs=10, learning_rate=0.003)
    small = {"patch_level": True, "latent_dim": 64, "density": density, "n_folds": 2}
    for seed in seeds:
        detector = CANCE("efficientnet_lite0", random_state=seed, **small).fit(data.train)
        scores = detector.anomaly_score(data.test)
        print(f"seed {seed}: {image_auroc(data.test_labels == -1, scores):.3f}", flush=True)


# -- tables ---------------------------------------------------------------------------------------


def tables():
    """(normal rows, anomalous rows) by name."""
    cancer, cancer_labels = load_breast_cancer(return_X_y=True)
    wine, wine_labels = load_wine(return_X_y=True)
    rng = np.random.default_rng(0)
    moons, _ = make_moons(800, noise=0.08, random_state=0)
    t = rng.uniform(-2, 2, (800, 1))
    curve = np.hstack([t, t**2, np.sin(2 * t), -t, t**3]) + rng.normal(0, 0.1, (800, 5))
    clusters = rng.normal(size=(3, 12))[rng.integers(3, size=800)] * 3 + rng.normal(size=(800, 12))

    def around(rows, n=200):
        low, high = rows.min(0), rows.max(0)
        return rng.uniform(low - 0.1 * (high - low), high + 0.1 * (high - low), (n, rows.shape[1]))

    return {
        "breast cancer": (cancer[cancer_labels == 1], cancer[cancer_labels == 0]),
        "wine": (wine[wine_labels != 2], wine[wine_labels == 2]),
        "moons": (moons, around(moons)),
        "curve in 5-d": (curve, rng.permuted(curve[:200], axis=0)),
        "3 clusters in 12-d": (clusters, rng.normal(clusters.mean(0), clusters.std(0), (200, 12))),
    }


def on_tables(seeds):
    names = [*WAYS, "IsolationForest", "OneClassSVM", "LOF", "Gaussian"]
    head("table", "metric", *names)
    for table, (normal, odd) in tables().items():
        auroc, f1 = [], []
        for seed in seeds:
            order = np.random.default_rng(seed).permutation(len(normal))
            n_fit = len(normal) * 7 // 10
            train = normal[order[:n_fit]]
            test = np.concatenate([normal[order[n_fit:]], odd])
            truth = np.arange(len(test)) >= len(normal) - n_fit
            detector = CANCE(random_state=seed).fit(train)
            scores = all_scores(detector, test, seed)
            classic = {
                "IsolationForest": IsolationForest(random_state=seed), "OneClassSVM": OneClassSVM(),
                "LOF": LocalOutlierFactor(novelty=True), "Gaussian": LedoitWolf(),
            }  # fmt: skip
            scaler = StandardScaler().fit(train)
            for name, other in classic.items():
                other.fit(scaler.transform(train))
                known = hasattr(other, "score_samples")
                measure = other.score_samples if known else lambda x, o=other: -o.mahalanobis(x)
                scores[name] = -measure(scaler.transform(test))
            auroc.append([image_auroc(truth, scores[name]) for name in names])
            f1.append([f1_max(truth, scores[name]).f1 for name in names])
        row(table, "AUROC", *map(float, np.mean(auroc, axis=0)))
        row(table, "F1", *map(float, np.mean(f1, axis=0)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    what = {
        "densities": densities, "mnist": on_mnist, "corruptions": on_corruptions,
        "nine": nine_against_one, "elpv": on_elpv, "elpv-patches": on_elpv_patches,
        "fashion": fashion, "tables": on_tables,
    }  # fmt: skip
    parser.add_argument("what", choices=what)
    parser.add_argument("--backbone", choices=ON_DIGITS, default="mlp")
    parser.add_argument("--digits", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--n-train", type=int, help="fashion: images to fit on, all unless given")
    parser.add_argument("--classes", nargs="+", help="fashion: all ten, unless given")
    chosen = parser.parse_args()
    arguments = [chosen.seeds]
    if chosen.what in ("mnist", "corruptions", "nine", "fashion"):
        arguments.append(chosen.backbone)
    if chosen.what in ("mnist", "nine"):
        arguments.append(chosen.digits)
    if chosen.what == "fashion":
        arguments += [chosen.n_train, chosen.classes]
    what[chosen.what](*arguments)


if __name__ == "__main__":
    main()
