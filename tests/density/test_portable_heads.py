"""One-class heads as modules of plain operations."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import BaseEstimator
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_lite import GaussianDensity, NCEDensity
from anomalib_lite.density import fit_head, head_scores, rebuilt
from anomalib_lite.density.converted import ConvertedTransformer
from anomalib_lite.density.heads import NAMED
from anomalib_lite.density.portable import portable_head
from anomalib_lite.density.rebuilt import ForestHead

RNG = np.random.default_rng(0)
NORMAL = (RNG.normal(size=(200, 6)) * [3, 2, 1, 1, 0.5, 0.1] + 5).astype(np.float32)
ROWS = np.concatenate([NORMAL[:20], RNG.normal(5, 3, (60, 6))]).astype(np.float32)
COMPARING = ["knn", "kde", "ocsvm", LocalOutlierFactor(novelty=True), OneClassSVM(kernel="poly")]
REBUILT = [
    *NAMED,
    NearestNeighbors(n_neighbors=30),
    OneClassSVM(kernel="poly"),
    NCEDensity(epochs=2, hidden=(8,), device="cpu"),
    KernelDensity(bandwidth="scott", leaf_size=200),
    OneClassSVM(kernel="linear"),
    OneClassSVM(kernel="sigmoid", gamma=0.01, coef0=0.5, nu=0.2),
    OneClassSVM(kernel="poly", degree=2, coef0=1.0),
    SGDOneClassSVM(),
    LocalOutlierFactor(novelty=True),
    IsolationForest(n_estimators=20),
    IsolationForest(n_estimators=20, max_features=0.5, max_samples=50, bootstrap=True),
    IsolationForest(n_estimators=3, max_samples=1),
    EllipticEnvelope(),
    PCA(2),
    FactorAnalysis(2),
    *(GaussianMixture(2, covariance_type=kind) for kind in ("full", "tied", "diag", "spherical")),
    BayesianGaussianMixture(n_components=2, max_iter=1000),
    GridSearchCV(KernelDensity(leaf_size=200), {"bandwidth": [0.5, 1.0]}, cv=2),
    make_pipeline("passthrough", OneClassSVM()),
]
PIPELINES = [
    make_pipeline(StandardScaler(), KernelDensity(leaf_size=200)),
    make_pipeline(StandardScaler(), PCA(3, whiten=True), GaussianDensity()),
]


def by_torch(head, rows=ROWS):
    with torch.no_grad():
        scores = portable_head(head)(torch.from_numpy(rows))
    assert scores.dtype == torch.float64 and scores.shape == (len(rows),)
    return scores.numpy()


@pytest.mark.parametrize("classifier", [*REBUILT, *PIPELINES], ids=lambda one: str(one)[:70])
def test_scores_are_those_of_the_head(classifier):
    head = fit_head(classifier, NORMAL, 0)
    expected = head_scores(head, ROWS)
    np.testing.assert_allclose(by_torch(head), expected, rtol=3e-6, atol=1e-6 * expected.std())


@pytest.mark.parametrize("classifier", REBUILT[: len(NAMED) + 2], ids=str)
def test_in_float64_they_are_the_same_but_for_the_last_digits(classifier):
    head = fit_head(classifier, NORMAL.astype(np.float64), 0)
    rows = ROWS[20:].astype(np.float64)  # of copies, rounding is all that is left of a distance
    np.testing.assert_allclose(by_torch(head, rows), head_scores(head, rows), 1e-11, 1e-14)


@pytest.mark.parametrize("together", [1, 7, 199, 200])
@pytest.mark.parametrize("classifier", COMPARING, ids=str)
def test_blocks_of_stored_rows_do_not_matter(classifier, together, monkeypatch):
    head = fit_head(classifier, NORMAL, 0)
    whole = by_torch(head, ROWS[20:])
    monkeypatch.setattr(rebuilt, "_TOGETHER", together)
    np.testing.assert_allclose(by_torch(head, ROWS[20:]), whole, rtol=1e-9, atol=1e-9)


class Largest(TorchDispatchMode):
    """Notes how large a tensor becomes."""

    n_elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        found = operation(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            self.n_elements = max(self.n_elements, tensor.numel())
        return found


@pytest.mark.parametrize("classifier", ["knn", "kde", "ocsvm"])
def test_no_tensor_is_larger_than_rows_times_a_block(classifier, monkeypatch):
    head = fit_head(classifier, np.concatenate([NORMAL] * 5), 0)
    monkeypatch.setattr(rebuilt, "_TOGETHER", 50)
    module = portable_head(head)
    with Largest() as largest:
        module(torch.from_numpy(ROWS))
    assert largest.n_elements <= max(len(ROWS) * 100, module.stored.numel())


@pytest.mark.parametrize("far", [1, 30, 300])
def test_densities_far_from_all_rows_are_exact(far):
    head = fit_head("kde", NORMAL, 0)
    rows = ROWS.astype(np.float64) * far
    squares = np.square(rows[:, None] - NORMAL.astype(np.float64)).sum(2)
    width = head.bandwidth_
    logs = logsumexp(-squares / (2 * width**2), axis=1) - np.log(len(NORMAL))
    expected = 3 * np.log(2 * np.pi * width**2) - logs
    np.testing.assert_allclose(head_scores(head, rows), expected, rtol=1e-12)
    np.testing.assert_allclose(by_torch(head, rows), expected, rtol=1e-12)


def test_weighted_rows_of_a_density_keep_their_weights():
    weights = np.arange(1.0, 201)
    density = KernelDensity(leaf_size=200).fit(NORMAL, sample_weight=weights)
    np.testing.assert_allclose(by_torch(density), -density.score_samples(ROWS), rtol=1e-9)


def test_copies_are_at_no_distance():
    head = fit_head(NearestNeighbors(n_neighbors=1), NORMAL, 0)
    assert by_torch(head, NORMAL).max() < 1e-6


def test_features_equal_to_a_threshold_go_the_same_way():
    head = fit_head(IsolationForest(n_estimators=30), NORMAL[:, :1], 0)
    for estimator in head.estimators_:  # each threshold becomes one that features can have
        estimator.tree_.threshold[:] = estimator.tree_.threshold.astype(np.float32)
    thresholds = np.concatenate([each.tree_.threshold for each in head.estimators_])
    rows = np.concatenate([thresholds, np.nextafter(thresholds, 99)])[:, None]
    for some in (rows.astype(np.float32), rows):  # the latter are rounded to the former
        np.testing.assert_allclose(by_torch(head, some), head_scores(head, some), rtol=1e-12)


def test_tied_rows_in_a_forest():
    head = fit_head(IsolationForest(n_estimators=5), np.repeat(NORMAL[:9], 9, 0), 0)
    np.testing.assert_allclose(ForestHead(head)(torch.from_numpy(ROWS)), head_scores(head, ROWS))


def kernel(a, b):
    return a @ b.T


@pytest.mark.parametrize(
    ("head", "says"),
    [
        (LocalOutlierFactor(metric="l1", novelty=True), "LocalOutlierFactor .*metric=.*got 'l1'"),
        (NearestNeighbors(metric="manhattan"), "NearestNeighbors .*metric='euclidean'.*manhattan"),
        (KernelDensity(kernel="tophat"), "KernelDensity .*kernel='gaussian', got 'tophat'"),
        (KernelDensity(metric="chebyshev"), "KernelDensity .*metric=.*got 'chebyshev'"),
        (OneClassSVM(kernel=kernel), "OneClassSVM .*'rbf'.*got <function kernel"),
        (make_pipeline(StandardScaler(), KernelDensity(kernel="cosine")), "kernel="),
    ],
)
def test_parameters_without_counterparts_are_refused(head, says):
    with pytest.raises(ValueError, match=f"classifier: .*{says}"):
        portable_head(head.fit(NORMAL))


class Own(BaseEstimator):
    """A head of the user's own."""

    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return -np.abs(X).sum(1)


@pytest.mark.parametrize("head", [Own(), BernoulliRBM(n_iter=1)], ids=str)
def test_heads_without_counterparts_are_refused_by_name(head):
    with pytest.raises(ValueError, match=f"classifier: {type(head).__name__} cannot be exported"):
        portable_head(head.fit(NORMAL))


def test_transformers_are_called_until_they_are_converted():
    scaler = StandardScaler().fit(NORMAL)
    modules = [ConvertedTransformer(scaler) for _ in range(2)]
    for module in modules:
        found = module(torch.from_numpy(ROWS))
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found, scaler.transform(ROWS))
    assert modules[0].number != modules[1].number
