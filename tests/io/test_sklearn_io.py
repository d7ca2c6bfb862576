"""What skops leaves open: the compiled trees of scikit-learn, forged."""

import functools
import os
import pickle

import numpy as np
import pytest
import skops.io
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.tree._tree import Tree

from anomalib_lite.io import sklearn_estimators

TABLE = np.random.default_rng(0).normal(size=(60, 3))


def forged_forest(field, value):
    """A forest one of whose trees leads somewhere it should not."""
    forest = IsolationForest(n_estimators=3, random_state=0).fit(TABLE)
    tree = forest.estimators_[1].tree_
    state = tree.__getstate__()
    inner = np.flatnonzero(state["nodes"]["left_child"] != -1)
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][inner[-1]] = value
    forged = Tree(tree.n_features, np.array([1], dtype=np.intp), 1)
    forged.__setstate__(state)
    forest.estimators_[1].tree_ = forged
    return skops.io.dumps(forest)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left_child", 10**6),
        ("right_child", 10**6),
        ("left_child", 0),
        ("right_child", -7),
        ("feature", 3),
        ("feature", -5),
    ],
)
def test_decision_trees_that_lead_out_of_themselves_are_refused(field, value):
    with pytest.raises(ValueError, match="decision tree"):
        sklearn_estimators.load(forged_forest(field, value))


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
def test_neighbor_trees_are_built_anew(algorithm):
    density = KernelDensity(algorithm=algorithm).fit(TABLE)
    tree = density.tree_
    state = list(tree.__getstate__())
    state[1] = np.asarray(state[1]) + 10**6  # points that are not there
    forged = type(tree).__new__(type(tree))
    forged.__setstate__(tuple(state))
    density.tree_ = forged
    again = sklearn_estimators.load(skops.io.dumps(density))
    density.tree_ = tree
    np.testing.assert_array_equal(again.score_samples(TABLE), density.score_samples(TABLE))


def test_other_types_are_refused_both_ways(tmp_path):
    shell = functools.partial(os.system, f"touch {tmp_path / 'canary'}")
    forest = IsolationForest(n_estimators=3).fit(TABLE)
    forest.callback = shell
    with pytest.raises(ValueError, match="without pickle"):
        sklearn_estimators.dump(forest)
    for data in (skops.io.dumps(shell), skops.io.dumps(forest), pickle.dumps(forest), b"", b"PK"):
        with pytest.raises(ValueError, match="cannot be read"):
            sklearn_estimators.load(data)
    assert not (tmp_path / "canary").exists()


def test_missing_skops_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "skops.io", None)
    with pytest.raises(ImportError, match="pip install"):
        sklearn_estimators.dump(IsolationForest())
