"""Image anomaly detectors as scikit-learn estimators.

The public names load on first use, so that importing the package costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0.dev0"

_HOME = {
    "CANCE": "methods.cance",
    "CPC": "methods.cpc",
    "ConformalDetector": "decide.conformal",
    "ContrastiveDA": "methods.contrastive_da",
    "CutPaste": "methods.cutpaste",
    "DeepFeatures": "features",
    "DeepOneClass": "methods.deep_one_class",
    "EntropyPatchGAN": "fakes.patchgan",
    "GaussianDensity": "density.gaussian",
    "MLSAD": "methods.mlsad",
    "NCEDensity": "density.nce",
    "PaDiM": "methods.padim",
    "PatchCore": "methods.patchcore",
    "PatchResampler": "fakes.resampling",
    "RotationPrediction": "methods.rotation",
    "SPADE": "methods.spade",
    "load": "io.persistence",
    "probe": "decide.probing",
}

_ROOMS = {
    "backbones",
    "data",
    "decide",
    "density",
    "fakes",
    "io",
    "metrics",
    "nn",
    "report",
    "search",
}

__all__ = [
    "CANCE",
    "CPC",
    "MLSAD",
    "SPADE",
    "ConformalDetector",
    "ContrastiveDA",
    "CutPaste",
    "DeepFeatures",
    "DeepOneClass",
    "EntropyPatchGAN",
    "GaussianDensity",
    "NCEDensity",
    "PaDiM",
    "PatchCore",
    "PatchResampler",
    "RotationPrediction",
    "__version__",
    "load",
    "probe",
]


def __getattr__(name):
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(set(globals()) | set(_HOME) | _ROOMS)
