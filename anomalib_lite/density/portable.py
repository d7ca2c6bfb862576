"""One-class heads as modules of plain operations, for export."""

from typing import Any

from sklearn.base import BaseEstimator
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import Pipeline
from sklearn.svm import OneClassSVM
from torch import nn

from .converted import ConvertedTransformer
from .gaussian import GaussianDensity, GaussianHead
from .nce import NCEDensity, NCEHead
from .rebuilt import (
    ForestHead,
    KernelDensityHead,
    LinearHead,
    LocalOutlierHead,
    MixtureHead,
    NeighborsHead,
    QuadraticHead,
    SupportVectorsHead,
)

_REBUILT = (
    (GaussianDensity, GaussianHead),
    (NCEDensity, NCEHead),
    (KernelDensity, KernelDensityHead),
    (OneClassSVM, SupportVectorsHead),
    (SGDOneClassSVM, LinearHead),
    (LocalOutlierFactor, LocalOutlierHead),
    (IsolationForest, ForestHead),
    (EllipticEnvelope, QuadraticHead.of_envelope),
    ((GaussianMixture, BayesianGaussianMixture), MixtureHead),
    ((PCA, FactorAnalysis), QuadraticHead.of_components),
)


def portable_head(head: BaseEstimator) -> nn.Module:
    """A module that gives the anomaly scores (n,), float64, of rows (n, n_features).

    Heads are rebuilt of operations of tensors. The transformers of a pipeline are called as they
    are, until an export replaces them by what skl2onnx makes of them.

    Raises
    ------
    ValueError
        If the head, or one of its parameters, has no such counterpart.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> rows = np.random.default_rng(0).normal(size=(100, 3))
    >>> density = KernelDensity().fit(rows)
    >>> scores = portable_head(density)(torch.from_numpy(rows))
    >>> bool(np.allclose(scores, -density.score_samples(rows)))
    True
    """
    head = getattr(head, "best_estimator_", head)  # of a search
    if isinstance(head, Pipeline):
        return _pipeline(head.steps)
    if not hasattr(head, "score_samples"):
        return NeighborsHead(head)
    for kinds, rebuilt in _REBUILT:
        if isinstance(head, kinds):
            return rebuilt(head)
    raise ValueError(f"classifier: {type(head).__name__} cannot be exported.")


def portable_heads(detector: Any) -> dict[str, nn.Module]:
    """The heads of a detector that has ``classifier_`` and ``patch_classifier_``, None left out."""
    heads = {name: getattr(detector, name) for name in ("classifier_", "patch_classifier_")}
    return {name: portable_head(head) for name, head in heads.items() if head is not None}


def _pipeline(steps):
    first = [(name, step) for name, step in steps[:-1] if step not in (None, "passthrough")]
    last = portable_head(steps[-1][1])
    if not first:
        return last
    return nn.Sequential(ConvertedTransformer(Pipeline(first)), last)
