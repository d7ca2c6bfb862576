"""scikit-learn estimators in files: they come back exactly, or forged ones are refused."""

import functools
import json
import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.compose import ColumnTransformer
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import (
    PCA,
    FactorAnalysis,
    FastICA,
    KernelPCA,
    TruncatedSVD,
)
from sklearn.ensemble import HistGradientBoostingRegressor, IsolationForest, RandomForestRegressor
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.model_selection import GroupKFold, KFold, LeaveOneOut, StratifiedKFold
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from sklearn.svm import SVC, OneClassSVM
from worlds import stripes

from anomalib_lite import ConformalDetector, DeepFeatures, load
from anomalib_lite.io import compiled, sklearn_estimators
from anomalib_lite.io.persistence import _Reader, _Writer

TABLE = np.random.default_rng(0).normal(size=(60, 4))
NEW = np.random.default_rng(1).normal(size=(30, 4))
METHODS = ("score_samples", "decision_function", "predict", "transform", "kneighbors")


def written_and_read(value):
    writer = _Writer(False)
    text = json.dumps(writer.encode(value, "here"), allow_nan=False)
    return _Reader(writer.tensors, torch.device("cpu"), None).decode(json.loads(text))


def answers(estimator, X):
    """What the methods of an estimator give, as dense arrays."""
    found = {}
    for name in METHODS:
        if hasattr(estimator, name):
            given = getattr(estimator, name)(X)
            for i, array in enumerate(given if isinstance(given, tuple) else [given]):
                found[name, i] = array.toarray() if sparse.issparse(array) else array
    return found


def fitted_to_table(estimator):
    is_frozen = isinstance(estimator, FrozenEstimator)
    return estimator if is_frozen else clone(estimator).fit(TABLE)


ESTIMATORS = [
    OneClassSVM(), OneClassSVM(kernel="poly", degree=2), OneClassSVM(kernel="linear", nu=0.1),
    OneClassSVM(kernel="sigmoid", gamma=0.1), SGDOneClassSVM(random_state=0),
    IsolationForest(n_estimators=7, random_state=0),
    IsolationForest(n_estimators=5, max_features=0.5, max_samples=9, random_state=0),
    IsolationForest(n_estimators=5, contamination=0.1, bootstrap=True, random_state=0),
    LocalOutlierFactor(5, novelty=True), LocalOutlierFactor(5, novelty=True, algorithm="brute"),
    LocalOutlierFactor(5, novelty=True, metric="cosine"),
    LocalOutlierFactor(5, novelty=True, algorithm="ball_tree", p=3, contamination=0.1),
    NearestNeighbors(n_neighbors=3), NearestNeighbors(metric="manhattan", leaf_size=3),
    NearestNeighbors(metric="minkowski", p=3),
    KernelDensity(), KernelDensity(bandwidth="scott", kernel="tophat", algorithm="ball_tree"),
    KernelDensity(metric="manhattan", leaf_size=5),
    EllipticEnvelope(random_state=0), EllipticEnvelope(store_precision=False, random_state=0),
    GaussianMixture(2, random_state=0), GaussianMixture(2, covariance_type="tied", random_state=0),
    GaussianMixture(2, covariance_type="diag"), GaussianMixture(2, covariance_type="spherical"),
    BayesianGaussianMixture(n_components=2, random_state=0),
    PCA(2), PCA(0.9, whiten=True), PCA(3, svd_solver="randomized", random_state=0),
    TruncatedSVD(2, random_state=0), FactorAnalysis(2), KernelPCA(2),
    KernelPCA(2, kernel="rbf"), FastICA(2, random_state=0),
    StandardScaler(), StandardScaler(with_mean=False, with_std=False), MinMaxScaler(),
    MaxAbsScaler(), RobustScaler(), RobustScaler(with_centering=False), Normalizer(), Binarizer(),
    PowerTransformer(), PowerTransformer(standardize=False), QuantileTransformer(n_quantiles=9),
    FunctionTransformer(), VarianceThreshold(), SimpleImputer(),
    Nystroem(n_components=5, random_state=0), RBFSampler(n_components=5, random_state=0),
    GaussianRandomProjection(2, random_state=0), SparseRandomProjection(2, random_state=0),
    KMeans(3, random_state=0), MiniBatchKMeans(3, random_state=0),
    Pipeline([("a", StandardScaler()), ("b", "passthrough"), ("c", OneClassSVM())]),
    make_pipeline(StandardScaler(), PCA(2), KernelDensity()),
    make_pipeline(make_union(StandardScaler(), PCA(1)), LocalOutlierFactor(4, novelty=True)),
    make_pipeline(
        ColumnTransformer([("a", PCA(1), [0, 1]), ("b", "drop", [2])], remainder="passthrough"),
        IsolationForest(n_estimators=3, random_state=0),
    ),
    FrozenEstimator(OneClassSVM().fit(TABLE)),
]  # fmt: skip


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_estimators_come_back_exactly(estimator):
    fitted = fitted_to_table(estimator)
    again = written_and_read(fitted)
    assert type(again) is type(fitted) and str(again) == str(fitted)
    expected, given = answers(fitted, NEW), answers(again, NEW)
    assert given.keys() == expected.keys() and expected
    for name, array in expected.items():
        np.testing.assert_array_equal(given[name], array)
        assert given[name].dtype == array.dtype
    fitted_to_table(again)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_what_is_not_fitted_comes_back_unfitted(estimator):
    again = written_and_read(clone(estimator))
    assert str(again) == str(estimator)
    if not isinstance(estimator, FrozenEstimator):
        assert vars(again).keys() == vars(clone(estimator)).keys()


@pytest.mark.parametrize("estimator", [OneClassSVM(), LocalOutlierFactor(4, novelty=True),
                                       IsolationForest(n_estimators=3, random_state=0)],
                         ids=str)  # fmt: skip
@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csr_array])
def test_those_fitted_on_sparse_tables_come_back(estimator, kind):
    fitted = clone(estimator).fit(kind(np.maximum(TABLE, 0)))
    again, new = written_and_read(fitted), kind(np.maximum(NEW, 0))
    np.testing.assert_array_equal(again.score_samples(new), fitted.score_samples(new))


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
def test_weights_of_a_density_come_back(algorithm):
    weights = np.arange(1.0, 61)
    fitted = KernelDensity(algorithm=algorithm).fit(TABLE, sample_weight=weights)
    again = written_and_read(fitted)
    np.testing.assert_array_equal(again.score_samples(NEW), fitted.score_samples(NEW))


def test_names_of_columns_and_output_containers_come_back():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(TABLE, columns=[*"abcd"])
    fitted = make_pipeline(StandardScaler(), PCA(2)).set_output(transform="pandas").fit(frame)
    pd.testing.assert_frame_equal(
        written_and_read(fitted).transform(frame), fitted.transform(frame)
    )


def test_refitted_ones_learn_the_same():
    fitted = IsolationForest(n_estimators=3, random_state=5).fit(TABLE)
    again = written_and_read(fitted).fit(TABLE)
    np.testing.assert_array_equal(again.score_samples(NEW), fitted.score_samples(NEW))
    assert len(again.estimators_samples_[0]) == len(fitted.estimators_samples_[0])


@pytest.mark.parametrize(
    "splitter", [KFold(3), KFold(4, shuffle=True, random_state=1), LeaveOneOut(),
                 StratifiedKFold(2), GroupKFold(2)], ids=str)  # fmt: skip
def test_splitters_come_back(splitter):
    assert str(written_and_read(splitter)) == str(splitter)


# -- around images, and inside of ConformalDetector -----------------------------------------------

IMAGES, TEST = stripes(12, 32), stripes(3, 32, seed=3)


def features(**params):
    settings = {"weights": "random", "layers": (4,), "image_size": 32, "random_state": 0}
    return DeepFeatures("convnet", **{**settings, **params})


@pytest.mark.parametrize(
    "detector",
    [
        make_pipeline(features(), OneClassSVM()),
        make_pipeline(features(), StandardScaler(), PCA(2), KernelDensity()),
        make_pipeline(make_union(features(layers=(2,)), features()), OneClassSVM()),
        make_pipeline(make_pipeline(features()), IsolationForest(n_estimators=3, random_state=0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["split", "cv"])
def test_pipelines_of_our_transformers_come_back(detector, method, tmp_path):
    conformal = ConformalDetector(detector, method=method, cv=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few samples for the rate
        conformal.fit(IMAGES).save(tmp_path / "a.alite")
    again = load(tmp_path / "a.alite")
    np.testing.assert_array_equal(again.score_samples(TEST), conformal.score_samples(TEST))
    np.testing.assert_array_equal(again.p_values(TEST), conformal.p_values(TEST))
    assert str(again) == str(conformal)


def test_a_frozen_detector_and_a_splitter_come_back(tmp_path):
    pipeline = make_pipeline(features(), OneClassSVM())
    conformal = ConformalDetector(pipeline, false_alarm_rate=0.2, random_state=0).fit(IMAGES)
    conformal.detector = FrozenEstimator(conformal.detectors_[0])
    conformal.detectors_ = [conformal.detector]
    conformal.save(tmp_path / "a.alite")
    again = load(tmp_path / "a.alite")
    np.testing.assert_array_equal(again.predict(TEST), conformal.predict(TEST))
    split = ConformalDetector(OneClassSVM(), method="cv", cv=KFold(4)).fit(TABLE)
    split.save(tmp_path / "b.alite")
    np.testing.assert_array_equal(load(tmp_path / "b.alite").p_values(NEW), split.p_values(NEW))


# -- what is refused ------------------------------------------------------------------------------


class Foreign(BaseEstimator):
    """An estimator that is not scikit-learn's."""


class OneClassSVMOfMine(OneClassSVM):
    """Its name is not the point."""


OneClassSVMOfMine.__name__ = "OneClassSVM"


@pytest.mark.parametrize(
    "estimator",
    [
        Foreign(), OneClassSVMOfMine(), SVC(), HistGradientBoostingRegressor(),
        RandomForestRegressor(), make_pipeline(StandardScaler(), Foreign()),
        FunctionTransformer(np.exp), FunctionTransformer(functools.partial(np.add, 1)),
        OneClassSVM(kernel="precomputed"), OneClassSVM(kernel=np.dot),
        LocalOutlierFactor(metric="mahalanobis"), NearestNeighbors(metric=np.dot),
        NearestNeighbors(metric_params={"V": np.ones(9)}), KernelDensity(metric="haversine"),
        Pipeline([("a", PCA())], memory="/tmp/somewhere"), IsolationForest(n_jobs=10**9),
    ],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
def test_what_cannot_be_checked_is_not_saved(estimator):
    with pytest.raises(ValueError, match=r"^here"):
        _Writer(False).encode(estimator, "here")


def test_the_error_says_what_can_be_saved():
    with pytest.raises(ValueError, match=r"HistGradientBoostingRegressor.*docs/saving\.md"):
        _Writer(False).encode(HistGradientBoostingRegressor(), "here")


def forged(estimator, X=TABLE, **changes):
    """An estimator with other learned values, as a file could hold it; dots reach into dicts."""
    params, state = sklearn_estimators.to_values(clone(estimator).fit(X))
    for path, change in changes.items():
        *outer, key = path.split("__in__")
        where = functools.reduce(lambda node, name: node[name], outer, state)
        where[key] = change(where[key]) if callable(change) else change
    return sklearn_estimators.from_values(type(estimator).__name__, params, state)


def test_an_unaltered_forgery_is_read():
    for estimator in ESTIMATORS:
        params, state = sklearn_estimators.to_values(fitted_to_table(estimator))
        sklearn_estimators.from_values(type(estimator).__name__, params, state)


def put(place, value):
    """A change of one number of an array."""

    def change(array):
        array = array.copy()
        array.flat[place] = value
        return array

    return change


def without_last(array):
    return array[:-1].copy()


def narrow(array):
    return np.ascontiguousarray(array[..., :-1])


FOREST = IsolationForest(n_estimators=3, max_features=0.5, random_state=0)
NODES = "_forest__in__nodes__in__"
SVM, LOF, KDE = OneClassSVM(), LocalOutlierFactor(5, novelty=True), KernelDensity()
FORGERIES = [
    (FOREST, {NODES + "feature": put(0, 2)}),
    (FOREST, {NODES + "feature": put(0, -3)}),
    (FOREST, {NODES + "left_child": put(0, 10**6)}),
    (FOREST, {NODES + "right_child": put(0, 10**6)}),
    (FOREST, {NODES + "left_child": put(0, 0)}),
    (FOREST, {NODES + "left_child": put(0, -1)}),
    (FOREST, {NODES + "right_child": put(0, -7)}),
    (FOREST, {NODES + "threshold": without_last}),
    (FOREST, {NODES + "threshold": lambda x: x.astype(object)}),
    (FOREST, {"_forest__in__nodes": {}}),
    (FOREST, {"_forest__in__features": put(0, 4)}),
    (FOREST, {"_forest__in__features": put(0, -1)}),
    (FOREST, {"_forest__in__features": narrow}),
    (FOREST, {"_forest__in__n_nodes": put(0, 0)}),
    (FOREST, {"_forest__in__n_nodes": put(0, 10**12)}),
    (FOREST, {"_forest__in__n_nodes": put(0, -5)}),
    (FOREST, {"_forest__in__depths": without_last}),
    (FOREST, {"_forest__in__lengths": without_last}),
    (FOREST, {"_forest__in__values": without_last}),
    (FOREST, {"_max_features": 4}),
    (FOREST, {"_max_samples": 0}),
    (FOREST, {"n_features_in_": 1}),
    (FOREST, {"n_features_in_": 2.0}),
    (FOREST, {"estimator_": StandardScaler()}),
    (SVM, {"_dual_coef_": narrow}),
    (SVM, {"_dual_coef_": None}),
    (SVM, {"_dual_coef_": lambda x: x[0]}),
    (SVM, {"support_vectors_": narrow}),
    (SVM, {"support_vectors_": without_last}),
    (SVM, {"support_vectors_": lambda x: x[:0]}),
    (SVM, {"support_vectors_": lambda x: x.astype(np.float32)}),
    (SVM, {"support_vectors_": sparse.csr_matrix}),
    (SVM, {"support_": lambda x: x[:0]}),
    (SVM, {"support_": lambda x: x.astype(np.int64)}),
    (SVM, {"_n_support": put(0, 10**6)}),
    (SVM, {"_n_support": without_last}),
    (SVM, {"_intercept_": lambda x: x[:0]}),
    (SVM, {"_probA": np.zeros(3)}),
    (SVM, {"_sparse": True}),
    (SVM, {"n_features_in_": 2}),
    (LOF, {"_fit_X": narrow}),
    (LOF, {"_fit_X": put(0, np.nan)}),
    (LOF, {"_fit_X": without_last}),
    (LOF, {"_lrd": without_last}),
    (LOF, {"_distances_fit_X_": without_last}),
    (LOF, {"n_samples_fit_": 10**6}),
    (LOF, {"n_features_in_": 3}),
    (LOF, {"effective_metric_": "haversine"}),
    (LOF, {"effective_metric_": "mahalanobis"}),
    (LOF, {"effective_metric_params_": {"V": np.ones(2)}}),
    (LOF, {"_fit_method": "none"}),
    (KDE, {"tree___in__rows": narrow}),
    (KDE, {"tree___in__rows": lambda x: x[:0]}),
    (KDE, {"tree___in__rows": put(0, np.inf)}),
    (KDE, {"tree___in__weights": np.ones(3)}),
    (KDE, {"tree___in__weights": -np.ones(60)}),
    (KDE, {"bandwidth_": -1.0}),
    (KDE, {"bandwidth_": "wide"}),
    (EllipticEnvelope(random_state=0), {"precision_": np.ones((1, 1))}),
    (EllipticEnvelope(random_state=0), {"location_": np.ones(2)}),
    (EllipticEnvelope(random_state=0), {"n_features_in_": 3}),
    (KMeans(2), {"cluster_centers_": narrow}),
    (KMeans(2), {"_n_threads": -1}),
    (PCA(2), {"mean_": np.zeros((10**4, 1))}),
    (PCA(2), {"transform": 3}),
    (PCA(2), {"__class__": 3}),
    (PCA(2), {"n_components": 3}),
    (PCA(2), {"n_features_in_": 10**12}),
    (Nystroem(n_components=4), {"components_": narrow}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("estimator", "changes"),
    FORGERIES,
    ids=[f"{type(e).__name__} {i} {next(iter(c))}" for i, (e, c) in enumerate(FORGERIES)],
)
def test_forged_state_of_compiled_code_is_refused(estimator, changes):
    with pytest.raises((ValueError, KeyError)):  # load makes a ValueError of both
        forged(estimator, **changes)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("indices", put(0, 10**6)),
        ("indices", put(0, -1)),
        ("indices", without_last),
        ("indptr", put(1, 10**6)),
        ("indptr", put(-1, 10**6)),
        ("indptr", put(0, -1)),
        ("indptr", without_last),
        ("data", without_last),
        ("data", lambda x: x.astype(object)),
        ("shape", (5, 2**40)),
        ("shape", (10**9, 4)),
        ("shape", (-1, 4)),
        ("shape", (5,)),
    ],
)
def test_sparse_matrices_that_lead_out_of_themselves_are_refused(key, change):
    values = compiled.csr_values(sparse.csr_matrix(np.eye(5)[:, :4]))
    assert (compiled.make_csr(dict(values)).toarray() == np.eye(5)[:, :4]).all()
    values[key] = change(values[key]) if callable(change) else change
    with pytest.raises(ValueError):
        compiled.make_csr(values)


BITS = [np.random.MT19937, np.random.PCG64, np.random.PCG64DXSM, np.random.Philox, np.random.SFC64]


@pytest.mark.parametrize("bits", BITS)
def test_states_of_generators_come_back(bits):
    generator = np.random.Generator(bits(3))
    generator.random(7, dtype=np.float32)
    again = written_and_read(generator)
    np.testing.assert_array_equal(again.integers(2**31, size=9), generator.integers(2**31, size=9))


@pytest.mark.parametrize("bits", BITS)
def test_states_that_no_generator_can_be_in_are_refused(bits):
    name, state = bits.__name__, bits(3).state
    changes = {
        "pos": [-1, 625, 2**31, True, None], "key": [np.zeros(3, np.uint32), None, [1] * 624],
        "buffer_pos": [-1, 5, 10**6], "buffer": [np.zeros(2, np.uint64)],
        "counter": [np.zeros(2, np.uint64)], "state": [-1, 2**128, np.zeros(2, np.uint64)],
        "inc": [-1, 2**128], "has_uint32": [2, -1], "uinteger": [-1, 2**32],
        "bit_generator": ["MT", None],
    }  # fmt: skip
    compiled.make_bit_generator(name, state)
    tried = 0
    for inner in (False, True):
        for key, values in changes.items():
            for value in values:
                part = dict(state["state"]) if inner else dict(state)
                if key in part and not isinstance(part[key], dict):
                    part[key] = value
                    tried += 1
                    with pytest.raises(ValueError, match="no generator of NumPy"):
                        altered = {**state, "state": part} if inner else part
                        compiled.make_bit_generator(name, altered)
    assert tried > 5
    for broken in (None, {}, {**state, "more": 1}, {**state, "state": 3}):
        with pytest.raises(ValueError):
            compiled.make_bit_generator(name, broken)


@pytest.mark.parametrize("name", ["sys", "BitGenerator", "default_rng", "", "SeedSequence"])
def test_other_names_are_no_generators(name):
    with pytest.raises(ValueError, match="bit generator"):
        compiled.make_bit_generator(name, {})


@pytest.mark.parametrize("name", ["os.system", "SVC", "HistGradientBoostingRegressor", "clone", ""])
def test_other_names_are_no_estimators(name):
    with pytest.raises(ValueError, match="files cannot hold"):
        sklearn_estimators.from_values(name, {}, {})


def test_parameters_are_checked():
    for name, params in [
        ("OneClassSVM", {"nu": -1}), ("OneClassSVM", {"kernel": "precomputed"}),
        ("PCA", {"n_components": "all"}), ("LocalOutlierFactor", {"metric": "haversine"}),
        ("Pipeline", {"steps": [], "memory": "/tmp"}), ("IsolationForest", {"n_jobs": 10**9}),
        ("IsolationForest", {"n_estimators": 0}),
    ]:  # fmt: skip
        default = {} if name == "Pipeline" else sklearn_estimators._class(name)().get_params()
        with pytest.raises(ValueError):
            sklearn_estimators.from_values(name, default | params, {})


def test_the_page_lists_what_can_be_saved():
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "saving.md").read_text()
    assert [name for name in sklearn_estimators._HOMES if f"`{name}`" not in page] == []
