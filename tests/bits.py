"""Digests of what every estimator learns, says and saves, at sizes where threads would matter.

    python tests/bits.py 4 [PaDiM ...]    # n_jobs; prints {name: digest} as JSON

Operations of PyTorch are split among threads above some 32,000 numbers, and products, sums and
decompositions of MKL and OpenBLAS then have other last bits.
"""

import hashlib
import json
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from detectors import PUBLIC, small
from snapshots import snapshot
from worlds import scratched, stripes

from anomalib_lite import (
    ConformalDetector,
    DeepFeatures,
    EntropyPatchGAN,
    GaussianDensity,
    NCEDensity,
    PaDiM,
    PatchResampler,
)
from anomalib_lite.nn import LinearAutoencoder
from anomalib_lite.search import GreedyCoreset

SIDE = 128
_FIRST_STAGE = {
    "image_size": SIDE, "patch_size": 64, "patch_stride": 32, "classifier": "gaussian",
}  # fmt: skip
LARGE = {
    "CANCE": {"image_size": SIDE, "latent_dim": 3, "n_folds": 3},
    "CPC": {"image_size": 96, "patch_size": 32, "patch_stride": 16, "epochs": 1, "width": 8},
    "DeepOneClass": {"image_size": SIDE, "layers": (8, 16)},
    "MLSAD": {"epochs": 2, "width": 16, "n_fakes": 12},
    "PaDiM": {"image_size": SIDE, "n_features": 40},
    "LabeledPatchCore": {"image_size": SIDE, "coreset": 0.2},
    "PatchCore": {"image_size": SIDE, "coreset": 0.2},
    "SPADE": {"image_size": SIDE},
    "SubspaceAD": {"image_size": SIDE, "reference_views": 1},
    "ContrastiveDA": _FIRST_STAGE,
    "CutPaste": _FIRST_STAGE,
    "RotationPrediction": _FIRST_STAGE,
}
_RNG = np.random.default_rng(0)
TABLE = _RNG.normal(size=(999, 3)) @ _RNG.normal(size=(3, 337)) + _RNG.normal(size=(999, 337))


def normal_images():
    return stripes(9, SIDE)


def _of_detector(detector):
    detector.fit(normal_images())
    seen = detector.inspect([*scratched(2, SIDE), *stripes(3, SIDE, seed=7)])
    return _learned(detector), seen.scores, list(seen.maps)


def _learned(estimator):
    """All that it holds and the bytes of its file, whatever its ``n_jobs``."""
    if hasattr(estimator, "n_jobs"):
        estimator.n_jobs = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "saved.alite")
        estimator.save(path)
        return snapshot(vars(estimator)), path.read_bytes()


def _of_features(n_jobs):
    features = DeepFeatures(image_size=SIDE, pooling=None, random_state=0, n_jobs=n_jobs)
    table = features.fit_transform(normal_images())
    return table, _learned(features)


def _of_fakes(fakes):
    fakes.fit(normal_images())
    return fakes.sample(5, random_state=0), _learned(fakes)


def _of_coreset(n_jobs):
    coreset = GreedyCoreset(200, random_state=0)
    if "n_jobs" in coreset.get_params():
        coreset.set_params(n_jobs=n_jobs)
    picks = coreset.fit_transform(TABLE)
    return picks, coreset.indices_, coreset.radius_


def _of_density(density):
    density.fit(TABLE)
    return _learned(density), density.score_samples(TABLE)


def _of_components(n_jobs):
    return LinearAutoencoder.from_data(torch.from_numpy(TABLE), 3).to_state()


def _of_conformal(n_jobs):
    inner = small(PaDiM, image_size=SIDE, n_jobs=n_jobs)
    detector = ConformalDetector(inner, cv=3, random_state=0).fit(normal_images())
    return detector.score_samples(stripes(3, SIDE, seed=7)), detector.calibration_scores_


MAKERS = {
    **{
        cls.__name__: lambda n_jobs, cls=cls: _of_detector(
            small(cls, n_jobs=n_jobs, **LARGE[cls.__name__])
        )
        for cls in PUBLIC
    },
    "DeepFeatures": _of_features,
    "PatchResampler": lambda n_jobs: _of_fakes(
        PatchResampler(image_size=48, n_jobs=n_jobs, random_state=0)
    ),
    "EntropyPatchGAN": lambda n_jobs: _of_fakes(
        EntropyPatchGAN(width=8, train_steps=2, n_jobs=n_jobs, random_state=0)
    ),
    "GreedyCoreset": _of_coreset,
    "GaussianDensity": lambda n_jobs: _of_density(GaussianDensity()),
    "NCEDensity": lambda n_jobs: _of_density(NCEDensity(epochs=1, hidden=(8,), random_state=0)),
    "LinearAutoencoder": _of_components,
    "ConformalDetector": _of_conformal,
}


def digest(name, n_jobs):
    """Digest of all that one of `MAKERS` gives."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = snapshot(MAKERS[name](n_jobs))
    return hashlib.sha256(repr(made).encode()).hexdigest()


if __name__ == "__main__":
    names = sys.argv[2:] or MAKERS
    print(json.dumps({name: digest(name, int(sys.argv[1])) for name in names}))
