"""scikit-learn estimators as bytes, without pickle: skops, and what it leaves open closed.

`skops <https://skops.readthedocs.io>`_ reads only types it trusts. Not among them are the compiled
trees of scikit-learn, whose state is taken as it comes: a forged one could send a search out of its
arrays. Here decision trees are checked after reading, and neighbor trees are built anew from
their points, which gives the same tree.
"""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.neighbors import BallTree, KDTree
from sklearn.tree._tree import Tree

_COMPILED = (
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)


def dump(estimator):
    """Bytes of a fitted scikit-learn estimator; ValueError if they would need pickle."""
    skops = _skops()
    name = type(estimator).__name__
    try:
        data = skops.dumps(estimator)
        unknown = set(skops.get_untrusted_types(data=data)) - set(_COMPILED)
    except Exception as error:  # skops raises what its many writers raise
        raise ValueError(f"{name} cannot be stored without pickle: {error}.") from error
    if unknown:
        raise ValueError(
            f"{name} holds {', '.join(sorted(unknown))}, which cannot be stored without pickle."
        )
    return data


def load(data):
    """The estimator of bytes that :func:`dump` gave; ValueError if they hold anything else."""
    skops = _skops()
    try:
        estimator = skops.loads(data, trusted=list(_COMPILED))
        _make_safe(estimator)
    except Exception as error:  # as above, and the data come from a file
        raise ValueError(f"a scikit-learn estimator in it cannot be read: {error}.") from error
    return estimator


def _make_safe(thing):
    """Check or rebuild the compiled trees in an estimator, a list or a tuple, in place."""
    if isinstance(thing, BaseEstimator):
        for name, value in vars(thing).items():
            if isinstance(value, KDTree | BallTree):
                setattr(thing, name, _rebuilt(value))
            else:
                _make_safe(value)
    elif isinstance(thing, Tree):
        _check(thing)
    elif isinstance(thing, list | tuple):
        for value in thing:
            _make_safe(value)


def _rebuilt(tree):
    data, _, _, _, leaf_size, *_, metric, weights = tree.__getstate__()
    return type(tree)(np.asarray(data), leaf_size=leaf_size, metric=metric, sample_weight=weights)


def _check(tree):
    """A walk down a decision tree must end in the tree, and read features that are there."""
    nodes = np.arange(tree.node_count)
    inner = tree.children_left != -1
    for children in (tree.children_left[inner], tree.children_right[inner]):
        if (children <= nodes[inner]).any() or (children >= tree.node_count).any():
            raise ValueError("a decision tree whose branches lead nowhere")
    features = tree.feature[inner]
    if (features < 0).any() or (features >= tree.n_features).any():
        raise ValueError("a decision tree that reads features which are not there")


def _skops():
    try:
        import skops.io
    except ImportError as error:
        raise ImportError(
            "A scikit-learn estimator is stored by skops: pip install 'anomalib_lite[skops]'."
        ) from error
    return skops.io
