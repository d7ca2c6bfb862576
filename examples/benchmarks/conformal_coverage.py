"""False-alarm rates of ConformalDetector in repeated experiments, beside the guaranteed ones.

    python examples/benchmarks/conformal_coverage.py
    python examples/benchmarks/conformal_coverage.py --shots 6

Each experiment draws new normal samples (two correlated Gaussian features), fits and calibrates a
detector, and counts how many of 20 new normal and of 20 shifted samples it calls anomalous. ``n``
is the number of calibration samples. With the split, the detector is fitted on another ``n`` (at
least 20); with CV+, on the same ``n``. Errors are standard errors over experiments.

With ``--shots`` there are that many nearly equal samples of each part, ``n`` counts parts, and each
experiment runs with ``groups`` (the part of each sample) and without.
"""

import argparse
import itertools
import warnings

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM

from anomalib_lite import ConformalDetector


class NearestNeighbor(OutlierMixin, BaseEstimator):
    """Minus the distance to the nearest training sample, as of a memory bank."""

    def fit(self, X, y=None):
        self.index_ = NearestNeighbors(n_neighbors=1).fit(X)
        return self

    def score_samples(self, X):
        return -self.index_.kneighbors(X)[0][:, 0]


DETECTORS = {
    "nearest neighbor": NearestNeighbor(),
    "OneClassSVM": OneClassSVM(gamma=0.3),
    "IsolationForest": IsolationForest(n_estimators=20, random_state=0),
}
MIXING = np.array([[1.0, 0.6], [0.0, 0.8]])
SHIFT = np.array([4.0, -4.0])


def normal(rng, n, shots=1):
    """Samples of n parts, shots of one part after the other."""
    parts = np.repeat(rng.normal(size=(n, 2)), shots, axis=0)
    return (parts + (shots > 1) * 1e-3 * rng.normal(size=parts.shape)) @ MIXING


def experiment(detector, method, n, levels, seed, shots=1, use_groups=False):
    """Fractions of normal and of shifted samples with p <= level, for each level."""
    rng = np.random.default_rng(seed)
    n_parts = n + max(n, 20) if method == "split" else n
    train = normal(rng, n_parts, shots)
    groups = np.repeat(np.arange(n_parts), shots) if use_groups else None
    held_out = n if use_groups else n * shots
    conformal = ConformalDetector(
        detector, method=method, cv=held_out if method == "split" else 5, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # too few samples for the default rate
        conformal.fit(train, groups=groups)
    new = normal(rng, 20, shots), normal(rng, 20, shots) + SHIFT
    p = [conformal.p_values(samples) for samples in new]
    return np.array([[(part <= level).mean() for level in levels] for part in p])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--experiments", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 20, 50, 100, 500])
    parser.add_argument("--shots", type=int, default=1)
    arguments = parser.parse_args()
    levels = (0.01, 0.05, 0.1)
    print("| detector | method | groups | n | smallest p |", end="")
    print("".join(f" false alarms at {level} | found |" for level in levels))
    print("|---" * (5 + 2 * len(levels)) + "|")
    settings = itertools.product(
        DETECTORS, ("split", "cv"), (False, True)[: min(arguments.shots, 2)], arguments.sizes
    )
    for name, method, use_groups, n in settings:
        runs = np.array(
            [
                experiment(DETECTORS[name], method, n, levels, seed, arguments.shots, use_groups)
                for seed in range(arguments.experiments)
            ]
        )  # (experiments, normal or shifted, levels)
        mean, error = runs.mean(0), runs.std(0, ddof=1) / len(runs) ** 0.5
        smallest = 1 / (n * (1 if use_groups else arguments.shots) + 1)
        print(
            f"| {name} | {method} | {'yes' if use_groups else 'no'} | {n} | {smallest:.3f} |",
            end="",
        )
        for i in range(len(levels)):
            print(f" {mean[0, i]:.3f} +- {error[0, i]:.3f} | {mean[1, i]:.2f} |", end="")
        print(flush=True)
