"""Every method, small: fitted in well under a second on 64 px images."""

import inspect

import anomalib_lite
from anomalib_lite.base import BaseDetector
from anomalib_lite.testing import Subject

PUBLIC = [
    thing
    for thing in (getattr(anomalib_lite, name) for name in anomalib_lite.__all__)
    if inspect.isclass(thing)
    and issubclass(thing, BaseDetector)
    and thing not in (BaseDetector, anomalib_lite.DetectorEnsemble)
]

FIRST_STAGE = {
    "backbone": "convnet", "weights": "random", "hidden": (8,), "epochs": 1, "train_batch_size": 3,
    "train_from": None, "image_size": 64, "patch_size": 16, "patch_stride": 8, "n_patches": 60,
    "classifier": "knn",
}  # fmt: skip
SMALL = {
    "CANCE": {
        "backbone": "pca", "latent_dim": 2, "n_folds": 6, "image_size": 64,
        "density": anomalib_lite.NCEDensity(epochs=1, hidden=(8,), learning_rate=0.003),
    },
    "CPC": {
        "image_size": 64, "patch_size": 16, "patch_stride": 12, "width": 4, "embedding_dim": 16,
        "prediction_steps": 2, "share_encoder": True, "epochs": 12, "learning_rate": 0.01,
        "train_batch_size": 2, "calibration_fraction": 0.34, "smoothing": 4.0,
    },
    "ContrastiveDA": FIRST_STAGE,
    "CutPaste": FIRST_STAGE,
    "DeepOneClass": {"image_size": 64, "layers": (8,), "n_patches": 100},
    "LabeledPatchCore": {"image_size": 64, "coreset": 30},
    "MLSAD": {
        "levels": (1, 2), "image_size": 32, "width": 8, "n_blocks": 1, "n_fakes": 8, "epochs": 25,
        "learning_rate": 0.02, "train_batch_size": 4, "dropout": 0.0, "input_noise": 0.02,
    },
    "PaDiM": {"image_size": 64, "n_features": 20},
    "PatchCore": {"image_size": 64, "coreset": 30},
    "RotationPrediction": FIRST_STAGE,
    "SPADE": {"image_size": 64, "n_neighbors": 3},
    "SubspaceAD": {"image_size": 64},
}  # fmt: skip


def small(cls, **params):
    """A small one of a public class; a class that is not listed above fails here."""
    return cls(**{**SMALL[cls.__name__], "random_state": 0, **params})


# what they learn and say is computed once a process, by whichever test asks first
SUBJECTS = {cls: Subject(small(cls)) for cls in PUBLIC}
