"""One-class heads in graphs give the scores that they give in Python."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from graphs import run
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.kernel_approximation import RBFSampler
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    Normalizer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import OneClassSVM
from worlds import scratched, stripes

from anomalib_lite import DeepOneClass, NCEDensity
from anomalib_lite.density import fit_head, head_scores, row_scores
from anomalib_lite.density.heads import NAMED
from anomalib_lite.density.portable import portable_head
from anomalib_lite.deploy import OnnxDetector
from anomalib_lite.export import transformers
from anomalib_lite.export.tracing import traced

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(200, 3)).astype(np.float32)
IMAGE = RNG.normal(scale=2, size=(1, 3, 8, 8)).astype(np.float32)
ROWS = IMAGE[0].reshape(3, 64).T.copy()
NEIGHBORS = {"novelty": True, "n_neighbors": 10}


class Pixels:
    """Of a detector what is traced: each pixel is a row that heads score."""

    input_ = SimpleNamespace(seen_size=(8, 8))

    def __init__(self, *heads):
        self.heads = {f"head_{i}": head for i, head in enumerate(heads)}

    def _portable_parts(self):
        return {name: portable_head(head) for name, head in self.heads.items()}

    def _infer_portably(self, batch):
        rows = batch[0].flatten(1).T
        values = [row_scores(getattr(self, name), rows) for name in self.heads]
        return values[0].amax(0)[None], sum(values).view(1, 8, 8)


def in_a_graph(*heads):
    return run(traced(Pixels(*heads)), input=IMAGE)


def slow(*heads):
    return [pytest.param(head, marks=pytest.mark.slow) for head in heads]


@pytest.mark.parametrize(
    "classifier",
    [
        "knn",
        IsolationForest(n_estimators=3),
        make_pipeline(StandardScaler(), OneClassSVM()),
        *slow(
            *(name for name in NAMED if name != "knn"),
            NearestNeighbors(n_neighbors=20),
            LocalOutlierFactor(**NEIGHBORS),
            NCEDensity(epochs=1, hidden=(8,), device="cpu"),
            *(OneClassSVM(kernel=kernel) for kernel in ("linear", "poly", "sigmoid")),
            IsolationForest(max_features=0.5),
            EllipticEnvelope(),
            PCA(2),
            FactorAnalysis(2),
            *(GaussianMixture(2, covariance_type=kind) for kind in ("full", "tied")),
            *(GaussianMixture(2, covariance_type=kind) for kind in ("diag", "spherical")),
            BayesianGaussianMixture(n_components=2, max_iter=1000),
            make_pipeline(MinMaxScaler(), LocalOutlierFactor(**NEIGHBORS)),
            make_pipeline(RobustScaler(), PCA(2, whiten=True), KernelDensity(leaf_size=200)),
            make_pipeline(Normalizer(), SGDOneClassSVM()),
            make_pipeline(QuantileTransformer(n_quantiles=50), IsolationForest()),
        ),
    ],
    ids=lambda one: " ".join(str(one).split())[:80],
)
def test_scores_in_a_graph_are_those_of_the_head(classifier):
    head = fit_head(classifier, NORMAL, 0)
    expected = head_scores(head, ROWS)
    found = in_a_graph(head)
    tolerance = {"rtol": 1e-5, "atol": 1e-6 * expected.std()}
    np.testing.assert_allclose(found["grid"].ravel(), expected, **tolerance)
    np.testing.assert_allclose(found["score"], expected.max(), **tolerance)


PIPELINES = [
    make_pipeline(StandardScaler(), OneClassSVM()),
    make_pipeline(MinMaxScaler(), PCA(2), SGDOneClassSVM()),
    make_pipeline(StandardScaler(), NCEDensity(epochs=1, hidden=(4,), device="cpu")),
]


def test_several_pipelines_in_one_graph():
    heads = [fit_head(one, NORMAL, 0) for one in PIPELINES]
    expected = sum(head_scores(head, ROWS) for head in heads)
    np.testing.assert_allclose(in_a_graph(*heads)["grid"].ravel(), expected, rtol=1e-5, atol=1e-5)


def test_a_graph_has_operations_of_onnx_alone_and_is_the_same_twice():
    heads = [fit_head(one, NORMAL, 0) for one in PIPELINES[:2]]
    model, again = traced(Pixels(*heads)), traced(Pixels(*heads))
    assert {node.domain for node in model.graph.node} <= {*transformers.OPSETS}
    assert {opset.domain for opset in model.opset_import} <= {*transformers.OPSETS}
    assert model == again


def test_transposed_rows_times_a_vector():
    """ONNX Runtime computes something else where the vector has no second axis."""
    head = fit_head(SGDOneClassSVM(), NORMAL, 0)
    np.testing.assert_allclose(in_a_graph(head)["grid"].ravel(), head_scores(head, ROWS), rtol=1e-4)


# -- refusals -------------------------------------------------------------------------------------


def test_what_cannot_be_converted_is_refused_with_its_name():
    head = make_pipeline(StandardScaler(), RBFSampler(random_state=0), SGDOneClassSVM())
    says = r"classifier: a pipeline of StandardScaler, RBFSampler cannot .*shape calculator"
    with pytest.raises(ValueError, match=says):
        traced(Pixels(fit_head(head, NORMAL, 0)))


def test_what_would_differ_is_refused(monkeypatch):
    head = fit_head(PIPELINES[0], NORMAL, 0)
    transform = StandardScaler.transform
    monkeypatch.setattr(StandardScaler, "transform", lambda *given: 1.1 * transform(*given))
    says = r"a pipeline of StandardScaler cannot be exported \(.*differs by 9\.\de-02"
    with pytest.raises(ValueError, match=says):
        traced(Pixels(head))


def test_a_missing_package_is_named(monkeypatch):
    head = fit_head(PIPELINES[0], NORMAL, 0)
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    with pytest.raises(ImportError, match=r"skl2onnx.*pip install 'anomalib_lite\[onnx\]'"):
        traced(Pixels(head))
    in_a_graph(fit_head("knn", NORMAL, 0))  # what is rebuilt does without


# -- detectors ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("classifier", ["gaussian", "knn"])
def test_detectors_of_deviations_are_exported(classifier, tmp_path):
    check_exported(classifier, tmp_path, pooling="mean_std")


@pytest.mark.slow
@pytest.mark.parametrize(
    "classifier",
    [*NAMED, LocalOutlierFactor(novelty=True, n_neighbors=3), *PIPELINES[:2]],
    ids=str,
)
def test_detectors_with_heads_are_exported(classifier, tmp_path):
    check_exported(classifier, tmp_path)


def check_exported(classifier, tmp_path, **params):
    detector = DeepOneClass(
        classifier=classifier,
        **params,
        image_size=64,
        layers=(8,),
        n_patches=100,
        random_state=0,
        false_alarm_rate=0.1,
    ).fit(stripes(20))
    images = [*scratched(3), *stripes(3, seed=5)]
    parity = detector.export(tmp_path / "part.onnx", images=images)
    assert parity.score < 1e-4 and parity.map < 1e-5 and parity.n_labels == 0
    exported = OnnxDetector(tmp_path / "part.onnx")
    np.testing.assert_array_equal(exported.predict(images), detector.predict(images))
