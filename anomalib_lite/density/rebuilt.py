"""Scikit-learn's one-class heads, rebuilt of operations of tensors that any runtime has.

Each gives the anomaly scores (n,), float64, of rows (n, n_features): minus ``score_samples`` by the
same formula. Stored rows are compared in blocks: there may be thousands of rows, and thousands of
stored ones.
"""

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import torch
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.svm import OneClassSVM
from torch import nn

_TOGETHER = 1024  # stored rows that rows are compared with at once: with 3136 rows 26 MB


class _ComparingHead(nn.Module):
    """Compares rows with stored ones."""

    def __init__(self, stored):
        super().__init__()
        stored = torch.from_numpy(np.array(stored, np.float64))
        self.register_buffer("center", stored.mean(0))
        self.register_buffer("stored", stored - self.center)  # short, so that products round little

    def squared_distances(self, rows: torch.Tensor) -> Iterator[torch.Tensor]:
        """Squared Euclidean distances (n, m) from each block of m stored rows."""
        rows = rows.double() - self.center
        squares = rows.square().sum(1, keepdim=True)
        for stored in self.stored.split(_TOGETHER):
            yield (squares + stored.square().sum(1) - 2 * rows @ stored.T).clamp_min(0)

    def nearest(self, rows: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances (n, k) of the k nearest stored rows, and their indices."""
        squares, indices, n_before = [], [], 0
        for some in self.squared_distances(rows):
            found = some.topk(min(k, some.shape[1]), largest=False)
            squares.append(found.values)
            indices.append(found.indices + n_before)
            n_before += some.shape[1]
        found = torch.cat(squares, 1).topk(k, largest=False)
        return found.values.sqrt(), torch.cat(indices, 1).gather(1, found.indices)


class NeighborsHead(_ComparingHead):
    """Mean distance from the nearest rows, as of :class:`~sklearn.neighbors.NearestNeighbors`.

    Examples
    --------
    >>> from sklearn.neighbors import NearestNeighbors
    >>> neighbors = NearestNeighbors(n_neighbors=2).fit([[0.0], [4.0], [9.0]])
    >>> NeighborsHead(neighbors)(torch.tensor([[1.0]])).tolist()
    [2.0]
    """

    def __init__(self, neighbors: Any):
        _check(neighbors, "metric", neighbors.effective_metric_, ("euclidean",))
        super().__init__(neighbors._fit_X)
        self.n_neighbors = neighbors.n_neighbors

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        distances, _ = self.nearest(rows, self.n_neighbors)
        return distances.mean(1)


class LocalOutlierHead(_ComparingHead):
    """What a :class:`~sklearn.neighbors.LocalOutlierFactor` says of rows."""

    def __init__(self, factor: LocalOutlierFactor):
        _check(factor, "metric", factor.effective_metric_, ("euclidean",))
        super().__init__(factor._fit_X)
        self.n_neighbors = factor.n_neighbors_
        reach = np.array(factor._distances_fit_X_[:, self.n_neighbors - 1], np.float64)
        self.register_buffer("reach", torch.from_numpy(reach))
        self.register_buffer("densities", torch.from_numpy(np.array(factor._lrd, np.float64)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        distances, indices = self.nearest(rows, self.n_neighbors)
        mean_reach = torch.maximum(distances, self.reach[indices]).mean(1)
        return self.densities[indices].mean(1) * (mean_reach + 1e-10)


class KernelDensityHead(_ComparingHead):
    """Minus the log-density of a :class:`~sklearn.neighbors.KernelDensity` of Gaussian kernels."""

    def __init__(self, density: KernelDensity):
        _check(density, "kernel", density.kernel, ("gaussian",))
        _check(density, "metric", density.metric, ("euclidean", "l2"))
        stored, weights = np.asarray(density.tree_.data), density.tree_.sample_weight
        super().__init__(stored)
        n, n_features = stored.shape
        weights = np.full(n, 1 / n) if weights is None else np.array(weights) / np.sum(weights)
        self.register_buffer("log_weights", torch.from_numpy(weights).log())
        self.sharpness = 1 / (2 * density.bandwidth_**2)
        self.volume = n_features * math.log(2 * math.pi * density.bandwidth_**2) / 2

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        pairs = zip(self.log_weights.split(_TOGETHER), self.squared_distances(rows), strict=True)
        logs = [_log_sum(log_weights - self.sharpness * squares) for log_weights, squares in pairs]
        return self.volume - _log_sum(torch.stack(logs, 1))


def _log_sum(logs):
    """Logarithm of the sum, along the last axis, of what has these logarithms."""
    highest = logs.amax(1, keepdim=True)
    return (logs - highest).exp().sum(1).log() + highest[:, 0]


class SupportVectorsHead(_ComparingHead):
    """Minus the sum of kernels around the vectors of a :class:`~sklearn.svm.OneClassSVM`."""

    def __init__(self, machine: OneClassSVM):
        _check(machine, "kernel", machine.kernel, ("linear", "poly", "rbf", "sigmoid"))
        super().__init__(machine.support_vectors_)
        self.register_buffer("weights", torch.from_numpy(np.array(machine.dual_coef_[0])))
        self.kernel, self.degree = machine.kernel, machine.degree
        self.gamma, self.coef0 = float(machine._gamma), machine.coef0

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        pairs = zip(self.weights.split(_TOGETHER), self._kernels(rows), strict=True)
        return -sum(kernels @ weights[:, None] for weights, kernels in pairs)[:, 0]

    def _kernels(self, rows):
        if self.kernel == "rbf":
            for squares in self.squared_distances(rows):
                yield (-self.gamma * squares).exp()
            return
        for stored in self.stored.split(_TOGETHER):
            products = rows.double() @ (stored + self.center).T
            scaled = self.gamma * products + self.coef0
            if self.kernel == "linear":
                yield products
            else:
                yield scaled.tanh() if self.kernel == "sigmoid" else scaled**self.degree


class LinearHead(nn.Module):
    """Minus the projection that a :class:`~sklearn.linear_model.SGDOneClassSVM` learns."""

    def __init__(self, machine: SGDOneClassSVM):
        super().__init__()
        column = np.array(machine.coef_, np.float64).reshape(-1, 1)
        self.register_buffer("column", torch.from_numpy(column))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        # ONNX Runtime multiplies transposed matrices by vectors wrongly, but not by columns
        return -(rows.double() @ self.column)[:, 0]


class ForestHead(nn.Module):
    """What an :class:`~sklearn.ensemble.IsolationForest` says of rows.

    All trees are descended at once. As there, float32 features are compared with float64
    thresholds.
    """

    def __init__(self, forest: IsolationForest):
        super().__init__()
        columns, thresholds, lower, higher, lengths = [], [], [], [], []
        n_before, roots, depth = 0, [], 0
        for estimator, features in zip(
            forest.estimators_, forest.estimators_features_, strict=True
        ):
            tree = estimator.tree_
            is_leaf, own = tree.children_left < 0, np.arange(tree.node_count)
            roots.append(n_before)
            columns.append(features[np.where(is_leaf, 0, tree.feature)])
            thresholds.append(tree.threshold)
            lower.append(np.where(is_leaf, own, tree.children_left) + n_before)
            higher.append(np.where(is_leaf, own, tree.children_right) + n_before)
            n_edges = tree.compute_node_depths() - 1
            lengths.append(n_edges + _mean_path_length(tree.n_node_samples))
            n_before, depth = n_before + tree.node_count, max(depth, tree.max_depth)
        self.depth = depth
        self.unit = len(roots) * float(_mean_path_length(np.array([forest.max_samples_]))[0])
        self.register_buffer("roots", torch.tensor(roots, dtype=torch.int64, device="cpu"))
        for name, parts in [
            ("columns", columns),
            ("thresholds", thresholds),
            ("lower", lower),
            ("higher", higher),
            ("lengths", lengths),
        ]:
            self.register_buffer(name, torch.from_numpy(np.concatenate(parts)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        rows = rows.float().double()
        nodes = self.roots.expand(len(rows), -1)  # (n, n_trees)
        for _ in range(self.depth):
            is_low = rows.gather(1, self.columns[nodes]) <= self.thresholds[nodes]
            nodes = torch.where(is_low, self.lower[nodes], self.higher[nodes])
        total = self.lengths[nodes].sum(1)
        return torch.exp2(-total / self.unit) if self.unit else torch.full_like(total, 0.5)


def _mean_path_length(n):
    """Of searches in binary trees of n rows."""
    n = np.asarray(n, np.float64)
    many = np.maximum(n, 3)
    found = 2 * (np.log(many - 1) + np.euler_gamma) - 2 * (many - 1) / many
    return np.where(n > 2, found, n == 2)


class QuadraticHead(nn.Module):
    """``scale`` times the squared Mahalanobis distance, plus ``volume``."""

    def __init__(self, mean: np.ndarray, precision: np.ndarray, scale: float, volume: float):
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(np.array(mean, np.float64)))
        self.register_buffer("precision", torch.from_numpy(np.array(precision, np.float64)))
        self.scale, self.volume = scale, volume

    @classmethod
    def of_envelope(cls, envelope: EllipticEnvelope) -> Self:
        """The squared distance."""
        return cls(envelope.location_, envelope.get_precision(), 1.0, 0.0)

    @classmethod
    def of_components(cls, components: PCA | FactorAnalysis) -> Self:
        """Minus the log-density."""
        precision = components.get_precision()
        constant = len(precision) * math.log(2 * math.pi) - np.linalg.slogdet(precision)[1]
        return cls(components.mean_, precision, 0.5, float(constant) / 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        centered = rows.double() - self.mean
        return self.scale * (centered @ self.precision * centered).sum(1) + self.volume


class MixtureHead(nn.Module):
    """Minus the log-density of a mixture of Gaussians, as of scikit-learn."""

    def __init__(self, mixture: GaussianMixture | BayesianGaussianMixture):
        super().__init__()
        means, roots = mixture.means_, np.asarray(mixture.precisions_cholesky_, np.float64)
        kind, n = mixture.covariance_type, len(means)
        if kind == "tied":
            roots = np.broadcast_to(roots, (n, *roots.shape))
        elif kind != "full":  # a row of factors, or one factor, for each component
            roots = np.broadcast_to(roots.reshape(n, -1), means.shape)
        self.register_buffer("means", torch.from_numpy(np.array(means, np.float64)))
        self.register_buffer("roots", torch.from_numpy(np.array(roots)))
        highest = mixture._estimate_weighted_log_prob(means.astype(np.float64)).diagonal()
        self.register_buffer("highest", torch.from_numpy(np.array(highest, np.float64)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        logs = []
        for mean, root, highest in zip(self.means, self.roots, self.highest, strict=True):
            centered = rows.double() - mean
            white = centered * root if root.ndim == 1 else centered @ root
            logs.append(highest - white.square().sum(1) / 2)
        return -_log_sum(torch.stack(logs, 1))


def _check(head, name, value, allowed):
    if value not in allowed:
        raise ValueError(
            f"classifier: {type(head).__name__} is exported with {name}="
            f"{' or '.join(map(repr, allowed))}, got {value!r}."
        )
