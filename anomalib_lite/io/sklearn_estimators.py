"""scikit-learn estimators as plain values, and back.

A file names a scikit-learn estimator by its class, and holds its parameters and what it has learned
as plain values, arrays and further estimators. Only the classes listed here are read or written:
those of which it is known which numbers their compiled code relies on. These are checked, or made
anew, before any of that code sees them.
"""

import inspect
from importlib import import_module
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator

from .compiled import (
    check_array,
    check_metric,
    forest_values,
    make_forest,
    make_neighbor_tree,
)

_MODULES = {
    "sklearn.cluster": ("KMeans", "MiniBatchKMeans"),
    "sklearn.compose": ("ColumnTransformer",),
    "sklearn.covariance": ("EllipticEnvelope",),
    "sklearn.decomposition": (
        "FactorAnalysis", "FastICA", "KernelPCA", "PCA", "TruncatedSVD",
    ),
    "sklearn.ensemble": ("IsolationForest",),
    "sklearn.feature_selection": ("VarianceThreshold",),
    "sklearn.frozen": ("FrozenEstimator",),
    "sklearn.impute": ("SimpleImputer",),
    "sklearn.kernel_approximation": ("Nystroem", "RBFSampler"),
    "sklearn.linear_model": ("SGDOneClassSVM",),
    "sklearn.mixture": ("BayesianGaussianMixture", "GaussianMixture"),
    "sklearn.model_selection": (
        "GroupKFold", "KFold", "LeaveOneGroupOut", "LeaveOneOut", "StratifiedGroupKFold",
        "StratifiedKFold",
    ),
    "sklearn.neighbors": ("KernelDensity", "LocalOutlierFactor", "NearestNeighbors"),
    "sklearn.pipeline": ("FeatureUnion", "Pipeline"),
    "sklearn.preprocessing": (
        "Binarizer", "FunctionTransformer", "KernelCenterer", "MaxAbsScaler", "MinMaxScaler",
        "Normalizer", "PowerTransformer", "QuantileTransformer", "RobustScaler", "StandardScaler",
    ),
    "sklearn.random_projection": ("GaussianRandomProjection", "SparseRandomProjection"),
    "sklearn.svm": ("OneClassSVM",),
    "sklearn.tree": ("ExtraTreeRegressor",),
}  # fmt: skip
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

# Axes of what they learn: d is n_features_in_, a number is that length, and other letters stand for
# any length, the same one wherever they occur. None may take the place of any array.
_KMEANS = {"cluster_centers_": "kd", "_counts": "k"}
_MIXTURE = {"means_": "kd", "weights_": "k"}
_PROJECTION = {"components_": "kd"}
_SHAPES = {
    "BayesianGaussianMixture": _MIXTURE,
    "EllipticEnvelope": {"location_": "d", "covariance_": "dd", "precision_": "dd"},
    "FactorAnalysis": {"components_": "kd", "mean_": "d", "noise_variance_": "d"},
    "FastICA": {"components_": "kd", "mean_": "d"},
    "GaussianMixture": _MIXTURE,
    "GaussianRandomProjection": _PROJECTION,
    "KMeans": _KMEANS,
    "KernelCenterer": {"K_fit_rows_": "d"},
    "KernelPCA": {"X_fit_": "nd", "eigenvectors_": "nk", "eigenvalues_": "k"},
    "LocalOutlierFactor": {"_distances_fit_X_": "nk", "_fit_X": "nd", "_lrd": "n"},
    "MaxAbsScaler": {"max_abs_": "d", "scale_": "d"},
    "MinMaxScaler": {"min_": "d", "scale_": "d"},
    "MiniBatchKMeans": _KMEANS,
    "NearestNeighbors": {"_fit_X": "nd"},
    "Nystroem": {"components_": "kd", "normalization_": "kk"},
    "OneClassSVM": {
        "support_vectors_": "nd", "dual_coef_": "1n", "_dual_coef_": "1n", "intercept_": "1",
        "_intercept_": "1", "offset_": "1",
    },
    "PCA": {"components_": "kd", "mean_": "d", "explained_variance_": "k"},
    "PowerTransformer": {"lambdas_": "d"},
    "QuantileTransformer": {"quantiles_": "qd", "references_": "q"},
    "RBFSampler": {"random_weights_": "dk", "random_offset_": "k"},
    "RobustScaler": {"center_": "d", "scale_": "d"},
    "SGDOneClassSVM": {"coef_": "d", "offset_": "1"},
    "SimpleImputer": {"statistics_": "d"},
    "SparseRandomProjection": _PROJECTION,
    "StandardScaler": {"mean_": "d", "scale_": "d", "var_": "d"},
    "TruncatedSVD": {"components_": "kd"},
    "VarianceThreshold": {"variances_": "d"},
}  # fmt: skip
# of these, fit makes a new one whenever it is needed
_LEFT_OUT = {"SGDOneClassSVM": ("_loss_function_",)}
_KERNELS = ("linear", "poly", "rbf", "sigmoid")
_MAX_JOBS = 256


def is_known(value: object) -> bool:
    """Whether ``value`` is of a scikit-learn class that files can hold."""
    name = type(value).__name__
    return name in _HOMES and type(value) is _class(name)


def to_values(estimator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and learned state of an estimator or splitter, by name."""
    name = type(estimator).__name__
    params = _params(estimator)
    _check_params(name, params)
    made = {*vars(type(estimator)(**params)), *_LEFT_OUT.get(name, ())}
    state = {key: value for key, value in vars(estimator).items() if key not in made}
    if name in _TO_VALUES and state:
        state = _TO_VALUES[name](state)
    return params, state


def from_values(name: str, params: dict[str, Any], state: dict[str, Any]) -> Any:
    """The estimator of :func:`to_values`; ValueError if its code could not rely on the values."""
    if name not in _HOMES:
        raise ValueError(f"names a scikit-learn estimator {name!r}, which files cannot hold.")
    cls = _class(name)
    estimator = cls(**params)
    if hasattr(estimator, "_parameter_constraints"):
        estimator._validate_params()
    _check_params(name, params)
    made = vars(estimator)
    for key in state:
        if key in made or hasattr(cls, key) or not key.isidentifier() or key.startswith("__"):
            raise ValueError(f"{name} learns nothing called {key!r}.")
    if state:
        _check_state(name, state)
        if name in _FROM_VALUES:
            state = _FROM_VALUES[name](estimator, state)
        made.update(state)
    return estimator


def _class(name):
    return getattr(import_module(_HOMES[name]), name)


def _params(estimator):
    if isinstance(estimator, BaseEstimator):
        return estimator.get_params(deep=False)
    names = inspect.signature(type(estimator).__init__).parameters
    return {name: vars(estimator)[name] for name in names if name in vars(estimator)}


def _check_params(name, params):
    """Raise ValueError on parameters with which scoring would run what a file cannot hold."""
    if params.get("memory") is not None:
        raise ValueError(f"{name}: expected memory=None for what is stored in a file.")
    n_jobs = params.get("n_jobs")
    if not (n_jobs is None or (type(n_jobs) is int and 0 < abs(n_jobs) <= _MAX_JOBS)):
        raise ValueError(f"{name}: expected None or 1 to {_MAX_JOBS} as n_jobs, got {n_jobs!r}.")
    if name == "OneClassSVM" and params["kernel"] not in _KERNELS:
        raise ValueError(
            f"OneClassSVM: expected one of {', '.join(map(repr, _KERNELS))} as the kernel of what "
            f"is stored in a file, got {params['kernel']!r}."
        )
    if name in ("KernelDensity", "LocalOutlierFactor", "NearestNeighbors"):
        check_metric(params["metric"], params["metric_params"])


def _check_state(name, state):
    """Raise ValueError unless arrays have the shapes of :data:`_SHAPES`."""
    n_features = state.get("n_features_in_")
    if name in _SHAPES and not (type(n_features) is int and 0 < n_features < 2**31):
        raise ValueError(f"{name}: expected a number of features, got {n_features!r}.")
    lengths = {"d": n_features, "1": 1}
    for key, axes in _SHAPES.get(name, {}).items():
        value = state.get(key)
        if value is None:
            continue
        check_array(f"{name}.{key}", value, tuple(map(lengths.get, axes)))
        lengths.update(zip(axes, value.shape, strict=True))


# -- what compiled code relies on -----------------------------------------------------------------


def _forest_to_values(state):
    forest = forest_values(state["estimators_"], state["estimators_features_"])
    forest["lengths"] = np.concatenate(state["_average_path_length_per_tree"])
    forest["depths"] = np.concatenate(state["_decision_path_lengths"])
    made = (
        "estimators_",
        "estimators_features_",
        "_average_path_length_per_tree",
        "_decision_path_lengths",
    )
    return {**{key: value for key, value in state.items() if key not in made}, "_forest": forest}


def _forest_from_values(_estimator, state):
    state = dict(state)
    forest, template, width = (
        state.pop("_forest"),
        state["estimator_"],
        state.get("n_features_in_"),
    )
    if type(template) is not _class("ExtraTreeRegressor") or type(width) is not int:
        raise ValueError("IsolationForest: expected trees and a number of features.")
    trees, features = make_forest(template, forest, width)
    ends = np.cumsum(forest["n_nodes"])
    for name in ("lengths", "depths"):
        check_array(name, forest[name], (int(ends[-1]),), "if")
    if state["_max_features"] != len(features[0]):
        raise ValueError("IsolationForest: its trees read another number of features.")
    if type(state["_max_samples"]) is not int or state["_max_samples"] < 1:
        raise ValueError("IsolationForest: expected a positive number of samples.")
    return {
        **state,
        "estimators_": trees,
        "estimators_features_": features,
        "_average_path_length_per_tree": tuple(np.split(forest["lengths"], ends[:-1])),
        "_decision_path_lengths": tuple(np.split(forest["depths"], ends[:-1])),
    }


def _neighbors_to_values(state):
    return {key: value for key, value in state.items() if key != "_tree"}


def _neighbors_from_values(estimator, state):
    method, rows = state["_fit_method"], state["_fit_X"]
    metric, params = state["effective_metric_"], state["effective_metric_params_"]
    check_metric(metric, params)
    check_array("_fit_X", rows, (None, None))
    if state["n_samples_fit_"] != rows.shape[0]:
        raise ValueError("n_samples_fit_ is not the number of its rows.")
    tree = None
    if method != "brute":
        tree = make_neighbor_tree(method, rows, estimator.leaf_size, metric, params)
    return {**state, "_tree": tree}


def _kde_to_values(state):
    tree = state["tree_"]
    points = {"rows": np.asarray(tree.data), "weights": None}
    if tree.sample_weight is not None:
        points["weights"] = np.asarray(tree.sample_weight)
    return {**state, "tree_": {"kind": type(tree).__name__, **points}}


def _kde_from_values(estimator, state):
    points, n_features = state["tree_"], state["n_features_in_"]
    method = {"KDTree": "kd_tree", "BallTree": "ball_tree"}[points["kind"]]
    check_array("points of a density", points["rows"], (None, n_features))
    if not (type(state["bandwidth_"]) in (int, float, np.float64) and state["bandwidth_"] > 0):
        raise ValueError(f"bandwidth_: expected a positive number, got {state['bandwidth_']!r}.")
    weights = points["weights"]
    if weights is not None and not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ValueError("holds a density with weights that are not positive.")
    tree = make_neighbor_tree(
        method,
        points["rows"],
        estimator.leaf_size,
        estimator.metric,
        estimator.metric_params,
        weights,
    )
    return {**state, "tree_": tree}


def _svm_from_values(_estimator, state):
    if any(state[key] is None for key in _SHAPES["OneClassSVM"]):
        raise ValueError("OneClassSVM: expected support vectors and their coefficients.")
    vectors, coefficients = state["support_vectors_"], state["_dual_coef_"]
    is_sparse = sparse.issparse(vectors)
    if state["_sparse"] is not is_sparse or sparse.issparse(coefficients) is not is_sparse:
        raise ValueError("OneClassSVM: expected all of its arrays to be sparse, or none.")
    n = vectors.shape[0]
    if coefficients.shape != (1, n) or (is_sparse and len(coefficients.data) != n):
        raise ValueError("OneClassSVM: expected a coefficient for each of its vectors.")
    check_array("support_", state["support_"], (n,), "i")
    check_array("_n_support", state["_n_support"], (2,), "i")
    for key in ("_probA", "_probB"):
        check_array(key, state[key], (0,))
    for key in ("support_vectors_", "_dual_coef_", "_intercept_"):
        if state[key].dtype != np.float64:
            raise ValueError(f"OneClassSVM.{key}: expected float64.")
    if any(state[key].dtype != np.int32 for key in ("support_", "_n_support")):
        raise ValueError("OneClassSVM: expected int32 for what it counts.")
    if n == 0 or state["_n_support"][0] != n or (state["support_"] < 0).any():
        raise ValueError("OneClassSVM: expected as many support vectors as it counts.")
    return state


def _kmeans_from_values(_estimator, state):
    n_threads = state["_n_threads"]
    if type(n_threads) is not int or n_threads < 1 or state["cluster_centers_"] is None:
        raise ValueError("KMeans: expected centers, and a positive number of threads.")
    return {**state, "_n_threads": min(n_threads, _MAX_JOBS)}


def _tree_from_values(_estimator, _state):
    raise ValueError("holds a decision tree that is in no forest.")


_TO_VALUES = {
    "IsolationForest": _forest_to_values,
    "KernelDensity": _kde_to_values,
    "LocalOutlierFactor": _neighbors_to_values,
    "NearestNeighbors": _neighbors_to_values,
}
_FROM_VALUES = {
    "ExtraTreeRegressor": _tree_from_values,
    "IsolationForest": _forest_from_values,
    "KMeans": _kmeans_from_values,
    "KernelDensity": _kde_from_values,
    "LocalOutlierFactor": _neighbors_from_values,
    "MiniBatchKMeans": _kmeans_from_values,
    "NearestNeighbors": _neighbors_from_values,
    "OneClassSVM": _svm_from_values,
}
