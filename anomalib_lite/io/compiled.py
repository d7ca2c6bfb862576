"""State that compiled code takes as it comes, checked before it gets there.

Trees, sparse matrices and bit generators are walked by code that trusts their numbers: an index out
of range is read from memory that is not theirs. Each function here gives the plain values of one
of them, or makes one of plain values, after everything that its code relies on has been checked.
"""

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree import ExtraTreeRegressor
from sklearn.tree._tree import NODE_DTYPE, Tree

_NEIGHBOR_TREES = {"kd_tree": KDTree, "ball_tree": BallTree}
_METRICS = ("chebyshev", "cityblock", "cosine", "euclidean", "l1", "l2", "manhattan", "minkowski")
_CSR = {"matrix": sparse.csr_matrix, "array": sparse.csr_array}


def check_array(name: str, value: Any, shape: tuple[int | None, ...], kind: str = "f") -> None:
    """Raise ValueError unless ``value`` is an array, or CSR matrix, of a kind and shape.

    Parameters
    ----------
    name : str
        What errors call it.
    value : object
    shape : tuple of (int or None)
        None for any length.
    kind : str
        Kinds of dtype, as NumPy abbreviates them.
    """
    fits = isinstance(value, np.ndarray | sparse.csr_matrix | sparse.csr_array)
    fits = fits and value.dtype.kind in kind and value.ndim == len(shape)
    if not fits or any(n not in (None, m) for n, m in zip(shape, value.shape, strict=True)):
        lengths = ", ".join("any" if n is None else str(n) for n in shape)
        got = f"{value.dtype} {value.shape}" if hasattr(value, "shape") else type(value).__name__
        raise ValueError(f"{name}: expected an array of shape ({lengths}), got {got}.")


# -- bit generators -------------------------------------------------------------------------------

_WORD, _LONG, _HUGE = 2**32, 2**64, 2**128
_BUFFERED = {"has_uint32": 2, "uinteger": _WORD}
# of each number the bound that it stays below, of each array its length and dtype
_BIT_GENERATORS = {
    "MT19937": ({}, {"key": (624, np.uint32), "pos": 625}),
    "PCG64": (_BUFFERED, {"state": _HUGE, "inc": _HUGE}),
    "PCG64DXSM": (_BUFFERED, {"state": _HUGE, "inc": _HUGE}),
    "Philox": (
        {**_BUFFERED, "buffer_pos": 5, "buffer": (4, np.uint64)},
        {"counter": (4, np.uint64), "key": (2, np.uint64)},
    ),
    "SFC64": (_BUFFERED, {"state": (4, np.uint64)}),
}


def make_bit_generator(name: str, state: Any) -> np.random.BitGenerator:
    """A bit generator of NumPy in a state that its ``state`` attribute gave."""
    if name not in _BIT_GENERATORS:
        raise ValueError(f"knows no bit generator {name!r}.")
    outer, inner = _BIT_GENERATORS[name]
    fits = isinstance(state, dict) and {*state} == {"bit_generator", "state", *outer}
    fits = fits and state["bit_generator"] == name and isinstance(state["state"], dict)
    if not (fits and _within(state["state"], inner) and _within(state, outer)):
        raise ValueError(f"holds a state of {name} that no generator of NumPy can be in.")
    bits = getattr(np.random, name)()
    bits.state = state
    return bits


def _within(state, bounds):
    """Whether the numbers and arrays of a state are as ``bounds`` say."""
    for name, bound in bounds.items():
        value = state.get(name)
        if isinstance(bound, tuple):
            length, dtype = bound
            if not (isinstance(value, np.ndarray) and value.shape == (length,)):
                return False
            if value.dtype != dtype:
                return False
        elif type(value) is not int or not 0 <= value < bound:
            return False
    return True


# -- sparse matrices ------------------------------------------------------------------------------


def csr_values(matrix: sparse.csr_matrix | sparse.csr_array) -> dict[str, Any]:
    """The plain values of a CSR matrix."""
    return {
        "kind": "array" if isinstance(matrix, sparse.csr_array) else "matrix",
        "shape": tuple(map(int, matrix.shape)),
        "data": matrix.data,
        "indices": matrix.indices,
        "indptr": matrix.indptr,
    }


def make_csr(values: dict[str, Any]) -> sparse.csr_matrix | sparse.csr_array:
    """The CSR matrix of :func:`csr_values`."""
    shape, data, indices, indptr = (values[name] for name in ("shape", "data", "indices", "indptr"))
    if not (isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int for n in shape)):
        raise ValueError(f"holds a sparse matrix of shape {shape!r}.")
    n_rows, n_columns = shape
    check_array("data of a sparse matrix", data, (None,), "iuf")
    check_array("indices of a sparse matrix", indices, data.shape, "i")
    check_array("indptr of a sparse matrix", indptr, (n_rows + 1,), "i")
    ordered = indptr[0] == 0 and indptr[-1] == len(data) and (np.diff(indptr) >= 0).all()
    if not ordered or not 0 <= n_columns < 2**31 or _outside(indices, n_columns):
        raise ValueError("holds a sparse matrix whose indices lead out of it.")
    return _CSR[values["kind"]]((data, indices, indptr), shape=shape)


def _outside(indices, n):
    return bool(((indices < 0) | (indices >= n)).any())


# -- neighbor trees -------------------------------------------------------------------------------


def check_metric(metric: Any, params: Any) -> None:
    """Raise ValueError unless a metric of neighbors is one whose code checks what it is given."""
    params = {} if params is None else params
    only_p = isinstance(params, dict) and {*params} <= {"p", "w"} and params.get("w") is None
    if not (metric in _METRICS and only_p):
        raise ValueError(
            f"metric: expected one of {', '.join(map(repr, _METRICS))}, with no metric_params but "
            f"p, for what is stored in a file, got {metric!r} with {params!r}."
        )


def make_neighbor_tree(
    method: str,
    rows: np.ndarray,
    leaf_size: int,
    metric: str,
    params: dict[str, Any] | None,
    weights: np.ndarray | None = None,
) -> KDTree | BallTree:
    """A k-d tree or ball tree of rows (n, d), built anew: the same points give the same tree."""
    check_metric(metric, params)
    check_array("points of a neighbor tree", rows, (None, None))
    if not (len(rows) and np.isfinite(rows).all()):
        raise ValueError("holds a neighbor tree of no points, or of points that are not finite.")
    if weights is not None:
        check_array("weights of a neighbor tree", weights, (len(rows),))
    return _NEIGHBOR_TREES[method](
        rows, leaf_size=leaf_size, metric=metric, sample_weight=weights, **(params or {})
    )


# -- decision trees -------------------------------------------------------------------------------


def forest_values(trees: list[ExtraTreeRegressor], features: list[np.ndarray]) -> dict[str, Any]:
    """The plain values of the fitted trees of a forest, and of the features that each reads."""
    nodes = [tree.tree_.__getstate__()["nodes"] for tree in trees]
    joined = np.concatenate(nodes)
    return {
        "n_nodes": np.array([len(some) for some in nodes]),
        "nodes": {name: np.ascontiguousarray(joined[name]) for name in joined.dtype.names},
        "values": np.concatenate([tree.tree_.value[:, 0, 0] for tree in trees]),
        "seeds": [tree.random_state for tree in trees],
        "features": np.stack(features),
    }


def make_forest(
    template: ExtraTreeRegressor, values: dict[str, Any], n_features: int
) -> tuple[list[ExtraTreeRegressor], list[np.ndarray]]:
    """Trees, and the features that each reads, of :func:`forest_values`.

    Parameters
    ----------
    template : ExtraTreeRegressor
        Has the parameters of the trees.
    values : dict
    n_features : int
        Columns of the tables that the forest reads.
    """
    n_nodes, nodes, features = values["n_nodes"], values["nodes"], values["features"]
    check_array("n_nodes", n_nodes, (None,), "i")
    check_array("features", features, (len(n_nodes), None), "i")
    if len(n_nodes) == 0 or (n_nodes < 1).any() or _outside(features, n_features):
        raise ValueError("holds a forest of no trees, or of features that are not there.")
    total = int(n_nodes.sum())
    check_array("values of nodes", values["values"], (total,))
    joined = _joined_nodes(nodes, total)
    width, ends = features.shape[1], np.cumsum(n_nodes)
    trees = [
        _fitted(template, seed, width, some, value)
        for seed, some, value in zip(
            values["seeds"],
            np.split(joined, ends[:-1]),
            np.split(values["values"], ends[:-1]),
            strict=True,
        )
    ]
    return trees, list(features)


def _joined_nodes(nodes, n):
    """Nodes (n,) as scikit-learn lays them out, of an array for each field."""
    if {*nodes} != {*NODE_DTYPE.names}:
        raise ValueError("holds decision trees of another version of scikit-learn.")
    joined = np.empty(n, NODE_DTYPE)
    for name, values in nodes.items():
        check_array(name, values, (n,), NODE_DTYPE[name].kind)
        joined[name] = values
    return joined


def _fitted(template, seed, n_features, nodes, values):
    """A copy of an unfitted tree, fitted to nodes (n,) of these values (n,)."""
    depth = _checked_depth(nodes, n_features)
    tree = Tree(n_features, np.array([1], dtype=np.intp), 1)
    tree.__setstate__(
        {
            "max_depth": depth,
            "node_count": len(nodes),
            "nodes": np.ascontiguousarray(nodes),
            "values": np.ascontiguousarray(values.astype(np.float64)[:, None, None]),
        }
    )
    fitted = clone(template).set_params(random_state=seed)
    fitted.n_features_in_, fitted.n_outputs_, fitted.max_features_ = n_features, 1, 1
    fitted.tree_ = tree
    return fitted


def _checked_depth(nodes, n_features):
    """Depth of a decision tree every walk down which ends, reading features that are there."""
    numbers = np.arange(len(nodes))
    inner = (nodes["left_child"] != -1) | (nodes["right_child"] != -1)
    for children in (nodes["left_child"][inner], nodes["right_child"][inner]):
        if (children <= numbers[inner]).any() or (children >= len(nodes)).any():
            raise ValueError("holds a decision tree whose branches lead nowhere.")
    if _outside(nodes["feature"][inner], n_features):
        raise ValueError("holds a decision tree that reads features which are not there.")
    depth, level = -1, np.array([0])
    while len(level):
        depth += 1
        below = nodes[level[inner[level]]]
        level = np.unique(np.concatenate([below["left_child"], below["right_child"]]))
    return depth
