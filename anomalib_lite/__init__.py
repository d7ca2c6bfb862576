"""Image anomaly detectors as scikit-learn estimators.

Public names load on first use, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

from .lazy import lazy

if TYPE_CHECKING:  # what editors and type checkers see; a test compares it with the tables below
    from . import backbones as backbones
    from . import base as base
    from . import benchmarks as benchmarks
    from . import data as data
    from . import decide as decide
    from . import density as density
    from . import deploy as deploy
    from . import distributed as distributed
    from . import ensemble as ensemble
    from . import fakes as fakes
    from . import features as features
    from . import inspection as inspection
    from . import io as io
    from . import methods as methods
    from . import metrics as metrics
    from . import nn as nn
    from . import report as report
    from . import search as search
    from . import selection as selection
    from . import testing as testing
    from .base import BaseDetector as BaseDetector
    from .base import ImageEstimator as ImageEstimator
    from .base import PartialFitMixin as PartialFitMixin
    from .benchmarks.running import benchmark as benchmark
    from .decide.conformal import ConformalDetector as ConformalDetector
    from .decide.probing import probe as probe
    from .density.gaussian import GaussianDensity as GaussianDensity
    from .density.nce import NCEDensity as NCEDensity
    from .ensemble.detector import DetectorEnsemble as DetectorEnsemble
    from .fakes.patchgan import EntropyPatchGAN as EntropyPatchGAN
    from .fakes.resampling import PatchResampler as PatchResampler
    from .features import DeepFeatures as DeepFeatures
    from .inspection import Inspection as Inspection
    from .io.persistence import load as load
    from .methods.cance import CANCE as CANCE
    from .methods.contrastive_da import ContrastiveDA as ContrastiveDA
    from .methods.cpc import CPC as CPC
    from .methods.cutpaste import CutPaste as CutPaste
    from .methods.deep_one_class import DeepOneClass as DeepOneClass
    from .methods.mlsad import MLSAD as MLSAD
    from .methods.padim import PaDiM as PaDiM
    from .methods.patchcore import LabeledPatchCore as LabeledPatchCore
    from .methods.patchcore import PatchCore as PatchCore
    from .methods.rotation import RotationPrediction as RotationPrediction
    from .methods.spade import SPADE as SPADE
    from .methods.subspace_ad import SubspaceAD as SubspaceAD
    from .selection.planted import planted_validation as planted_validation
    from .selection.suggesting import suggest_settings as suggest_settings

__version__ = "0.1.0.dev0"

_CLASSES_AND_FUNCTIONS = {
    "BaseDetector": "base",
    "CANCE": "methods.cance",
    "CPC": "methods.cpc",
    "ConformalDetector": "decide.conformal",
    "ContrastiveDA": "methods.contrastive_da",
    "CutPaste": "methods.cutpaste",
    "DeepFeatures": "features",
    "DeepOneClass": "methods.deep_one_class",
    "DetectorEnsemble": "ensemble.detector",
    "EntropyPatchGAN": "fakes.patchgan",
    "GaussianDensity": "density.gaussian",
    "ImageEstimator": "base",
    "Inspection": "inspection",
    "LabeledPatchCore": "methods.patchcore",
    "MLSAD": "methods.mlsad",
    "NCEDensity": "density.nce",
    "PaDiM": "methods.padim",
    "PartialFitMixin": "base",
    "PatchCore": "methods.patchcore",
    "PatchResampler": "fakes.resampling",
    "RotationPrediction": "methods.rotation",
    "SPADE": "methods.spade",
    "SubspaceAD": "methods.subspace_ad",
    "benchmark": "benchmarks.running",
    "load": "io.persistence",
    "planted_validation": "selection.planted",
    "probe": "decide.probing",
    "suggest_settings": "selection.suggesting",
}

_MODULES = {
    "backbones",
    "base",
    "benchmarks",
    "data",
    "decide",
    "density",
    "deploy",
    "distributed",
    "ensemble",
    "fakes",
    "features",
    "inspection",
    "io",
    "methods",
    "metrics",
    "nn",
    "report",
    "search",
    "selection",
    "testing",
}

__all__ = [
    "CANCE",
    "CPC",
    "MLSAD",
    "SPADE",
    "BaseDetector",
    "ConformalDetector",
    "ContrastiveDA",
    "CutPaste",
    "DeepFeatures",
    "DeepOneClass",
    "DetectorEnsemble",
    "EntropyPatchGAN",
    "GaussianDensity",
    "ImageEstimator",
    "Inspection",
    "LabeledPatchCore",
    "NCEDensity",
    "PaDiM",
    "PartialFitMixin",
    "PatchCore",
    "PatchResampler",
    "RotationPrediction",
    "SubspaceAD",
    "__version__",
    "benchmark",
    "load",
    "planted_validation",
    "probe",
    "suggest_settings",
]

__getattr__, __dir__ = lazy(__name__, _CLASSES_AND_FUNCTIONS, _MODULES)
