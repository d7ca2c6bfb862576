"""Thousands of forged files: each is refused, or gives a detector that scores; none does harm."""

import subprocess
import sys
from pathlib import Path

import forging
import numpy as np
import pytest
from detectors import small
from sklearn.compose import ColumnTransformer
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, KernelPCA
from sklearn.ensemble import IsolationForest
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import KFold
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import QuantileTransformer, RobustScaler, StandardScaler
from sklearn.random_projection import SparseRandomProjection
from sklearn.svm import OneClassSVM

import anomalib_lite
from anomalib_lite import (
    CANCE,
    CPC,
    MLSAD,
    SPADE,
    ConformalDetector,
    ContrastiveDA,
    CutPaste,
    DeepFeatures,
    DeepOneClass,
    DetectorEnsemble,
    EntropyPatchGAN,
    GaussianDensity,
    LabeledPatchCore,
    NCEDensity,
    PaDiM,
    PatchCore,
    PatchResampler,
    RotationPrediction,
    SubspaceAD,
)

NORMAL = np.random.default_rng(0).integers(0, 256, (12, 32, 32), dtype=np.uint8)
TABLE = np.random.default_rng(0).normal(size=(40, 4))
NETWORK = {"backbone": "convnet", "weights": "random", "image_size": 32}
STAGES = {"n_patches": 30, "image_size": 32, "train_batch_size": 6}
DENSITY = NCEDensity(epochs=1, hidden=(4,), random_state=0)


def images(detector):
    return lambda: detector.fit(NORMAL)


def rows(detector, **params):
    wrapped = ConformalDetector(detector, random_state=0, false_alarm_rate=0.1, **params)
    return lambda: wrapped.fit(TABLE)


SUBJECTS = {
    "CANCE": images(small(CANCE, density=DENSITY, image_size=32, n_folds=2)),
    "CANCE of maps": images(
        CANCE(**NETWORK, layers=(4, 8), latent_dim=2, n_patches=50, density=DENSITY, random_state=0)
    ),
    "CANCE of a table": lambda: CANCE("pca", density=DENSITY, random_state=0).fit(TABLE),
    "CPC": images(small(CPC, image_size=32, epochs=1, patch_stride=8, learning_rate=0.1)),
    "ContrastiveDA": images(small(ContrastiveDA, **STAGES, classifier="ocsvm")),
    "CutPaste": images(small(CutPaste, **STAGES, classifier="kde")),
    "DeepOneClass": images(
        DeepOneClass(**NETWORK, layers=(4, 8), classifier="gaussian", n_patches=40, random_state=0)
    ),
    "DetectorEnsemble": images(
        DetectorEnsemble(
            [
                PaDiM(**NETWORK, layers=(4, 8), n_features=5),
                PatchCore(**{**NETWORK, "image_size": 16}, layers=(4,), coreset=9),
            ],
            random_state=0,
        )
    ),
    "MLSAD": images(
        small(MLSAD, epochs=1, image_size=16, combine="distance", calibration_fraction=0.7)
    ),
    "PaDiM": images(PaDiM(**NETWORK, layers=(4, 8), n_features=5, random_state=0)),
    "PatchCore": images(PatchCore(**NETWORK, layers=(4, 8), coreset=9, random_state=0)),
    "LabeledPatchCore": lambda: LabeledPatchCore(
        **NETWORK, layers=(4,), coreset=9, evidence=0.5, random_state=0
    ).fit(NORMAL, np.repeat([1, -1], [len(NORMAL) - 2, 2])),
    "PatchCore of other views": images(
        PatchCore(
            **NETWORK,
            layers=(4, 8),
            coreset=9,
            random_state=0,
            normalize=True,
            whiten=True,
            aggregate=("top", 0.2),
            reference_views="flips",
            region=np.tri(9, dtype=bool),
        )
    ),
    "RotationPrediction": images(small(RotationPrediction, **STAGES)),
    "SPADE": images(SPADE(**NETWORK, layers=(4, 8), n_neighbors=2, random_state=0)),
    "SubspaceAD": images(SubspaceAD(**NETWORK, layers=(4, 8), n_folds=2, random_state=0)),
    "DeepFeatures": images(DeepFeatures(**NETWORK, layers=(4,), random_state=0)),
    "EntropyPatchGAN": images(
        EntropyPatchGAN(2, image_size=16, width=4, train_steps=1, random_state=0)
    ),
    "PatchResampler": images(PatchResampler(2, image_size=8, random_state=0)),
    "GaussianDensity": lambda: GaussianDensity().fit(TABLE),
    "NCEDensity": lambda: NCEDensity(epochs=1, hidden=(4,), random_state=0).fit(TABLE),
    "IsolationForest": rows(IsolationForest(n_estimators=3, max_features=0.6, random_state=0)),
    "OneClassSVM": rows(OneClassSVM(), method="cv", cv=KFold(2)),
    "LocalOutlierFactor": rows(LocalOutlierFactor(5, novelty=True)),
    "KernelDensity": rows(KernelDensity(algorithm="ball_tree")),
    "EllipticEnvelope": rows(EllipticEnvelope(random_state=0)),
    "GaussianMixture": rows(make_pipeline(StandardScaler(), PCA(2), GaussianMixture(2))),
    "unions": rows(
        make_pipeline(
            ColumnTransformer([("a", RobustScaler(), [0, 1])], remainder="passthrough"),
            make_union(SparseRandomProjection(2, random_state=0), KernelPCA(2, kernel="rbf")),
            SGDOneClassSVM(random_state=np.random.RandomState(0)),
        )
    ),
    "kernels": rows(
        make_pipeline(
            QuantileTransformer(n_quantiles=5),
            Nystroem(n_components=4),
            IsolationForest(n_estimators=2),
        )
    ),
    "pipeline of images": lambda: ConformalDetector(
        make_pipeline(DeepFeatures(**NETWORK, layers=(4,), random_state=0), OneClassSVM()),
        random_state=np.random.default_rng(0),
        false_alarm_rate=0.2,
    ).fit(NORMAL),
}


ANSWERS = {"refused", "scored", "scored or ValueError"}
SMALL = ("CPC", "IsolationForest", "OneClassSVM", "PatchResampler", "pipeline of images", "unions")
ROOM = 500  # MB that all mutations of a file may take beyond what the file itself takes


def fuzz(names, seeds, folder):
    """What comes of mutations of some subjects, in a process of its own."""
    paths = [folder / f"{name}.alite" for name in names]
    for name, path in zip(names, paths, strict=True):
        SUBJECTS[name]().save(path)
    done = subprocess.run(
        [sys.executable, forging.__file__, str(seeds.start), str(seeds.stop), *map(str, paths)],
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"ended by {done.returncode} at {lines[-1:]}: {done.stderr[-999:]}"
    return [line.split("\t", 1) for line in lines]


def check(found, n_expected):
    """Every mutation is answered, in little memory; some are refused and some are not."""
    peaks = {name: int(text.split("\t")[1]) for name, text in found if text.startswith("MB")}
    answers = [(name, text) for name, text in found if not text.startswith("MB")]
    assert [(name, text) for name, text in answers if text not in ANSWERS] == []
    assert len(answers) == n_expected
    assert {text for _, text in answers} >= {"refused", "scored"}
    assert {name: peak for name, peak in peaks.items() if peak > ROOM} == {}


def test_every_public_estimator_is_fuzzed():
    saved = {
        name
        for name in anomalib_lite.__all__
        if isinstance(getattr(anomalib_lite, name), type)
        and hasattr(getattr(anomalib_lite, name), "save")
    }
    bases = {"BaseDetector", "ImageEstimator", "ConformalDetector"}
    assert saved - bases <= {*SUBJECTS}


def test_forged_files_are_refused_or_score(tmp_path):
    check(fuzz(SMALL, range(40), tmp_path), 40 * len(SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_more_forged_files_are_refused_or_score(name, tmp_path):
    check(fuzz([name], range(1000, 1080), tmp_path), 80)


def test_an_unaltered_forgery_scores(tmp_path):
    path = tmp_path / "a.alite"
    SUBJECTS["PatchResampler"]().save(path)
    forging.forge(path, *forging.parts_of(path))
    assert forging.outcome(path) == "scored"


def test_the_fuzz_notices_what_ends_the_process(tmp_path, monkeypatch):
    """A load that reads memory which is not there stands for compiled code that does."""
    broken = Path(forging.__file__).read_text() + (
        "\n    import ctypes\n    print('next', end='', flush=True)\n    ctypes.string_at(0)\n"
    )
    script = tmp_path / "broken.py"
    script.write_text(broken)
    monkeypatch.setattr(forging, "__file__", str(script))
    with pytest.raises(AssertionError, match=r"ended by -\d+ at \['next'\]"):
        fuzz(["PatchResampler"], range(1), tmp_path)
