"""Gaussian densities: statistics that merge exactly, and one full Gaussian as an estimator."""

import math
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from ..annotations import Device
from ..contexts import plain
from ..io.persistence import SaveMixin
from ..runtime import aside, check_tensor, checked_table, exact_dtype, resolve_device
from ..validation import check_count
from ..workers import FEW, map_on

_PLACES = 64  # whose statistics are updated together
_FACTORIZED = 64  # features at most of a matrix that is factorized as a whole
_ALIKE = 4  # images whose rows are multiplied together
_IN_CACHE = 112  # places whose whiteners, 4.5 MB of 100 features, are read once for all images
_SHARE = 4 * _IN_CACHE  # places of a worker's task


class GaussianStatistics:
    """Count, mean and scatter of rows at each of P places; merging two of them is exact.

    Merging adds no squares of raw values: the scatter is taken about the mean, and the difference
    of two means enters as one more row (Chan, Golub and LeVeque). E[x²] - E[x]² loses all digits
    where the mean is large compared with the deviation; this does not.

    Parameters
    ----------
    count : int
    mean : torch.Tensor of shape (P, D)
    scatter : torch.Tensor of shape (P, D, D)
        Sums of the outer products of the deviations from the mean.

    References
    ----------
    T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance: analysis
    and recommendations", The American Statistician 37 (1983).

    Examples
    --------
    >>> rows = torch.tensor([[[1.0], [2.0], [6.0]]])  # 1 place, 3 rows of 1 number
    >>> statistics = GaussianStatistics.from_rows(rows[:, :2])
    >>> statistics.update(rows[:, 2:])
    >>> statistics.count, statistics.mean.item(), statistics.scatter.item()
    (3, 3.0, 14.0)
    """

    def __init__(self, count: int, mean: torch.Tensor, scatter: torch.Tensor):
        self.count, self.mean, self.scatter = count, mean, scatter

    @classmethod
    def from_rows(cls, rows: torch.Tensor) -> Self:
        """Statistics of rows (P, n, D) at P places, in float64 where the device has it."""
        n_places, _, n_features = rows.shape
        statistics = cls.of_no_rows(n_places, n_features, rows.device)
        statistics.update(rows)
        return statistics

    @classmethod
    def of_no_rows(cls, n_places: int, n_features: int, device: torch.device) -> Self:
        """Statistics to be updated; until then the scatter has no values, which saves a pass."""
        dtype = exact_dtype(device)
        return cls(
            0,
            torch.zeros(n_places, n_features, dtype=dtype, device=device),
            torch.empty(n_places, n_features, n_features, dtype=dtype, device=device),
        )

    def at(self, places: slice) -> Self:
        """Statistics of some places, which share the memory of these, but not the count."""
        return type(self)(self.count, self.mean[places], self.scatter[places])

    def update(self, rows: torch.Tensor) -> None:
        """Add rows (P, n, D), in place."""
        n_rows = rows.shape[1]

        def update(block):
            part, mean, scatter = block
            here = rows[part]
            their_mean = here.mean(1, dtype=mean.dtype)
            centered = mean.new_empty(len(mean), n_rows + 1, mean.shape[1])
            torch.sub(here, their_mean[:, None], out=centered[:, :n_rows])
            centered[:, n_rows:] = self._gap(their_mean, mean, n_rows)
            scatter.baddbmm_(centered.mT, centered, beta=int(self.count > 0))
            mean += (their_mean - mean) * (n_rows / (self.count + n_rows))

        map_on(rows.device, update, self._blocks())
        self.count += n_rows

    def merge(self, other: Self) -> None:
        """Add the rows of other statistics of the same places, in place."""
        for part, mean, scatter in self._blocks():
            gap = self._gap(other.mean[part], mean, other.count)
            scatter += other.scatter[part]
            scatter.baddbmm_(gap.mT, gap)
            mean += (other.mean[part] - mean) * (other.count / (self.count + other.count))
        self.count += other.count

    def without(self, other: "GaussianStatistics") -> "GaussianStatistics":
        """Statistics of these rows less others that are among them: a merge run backwards.

        Its rounding errors are as large as those of the whole, however little is left.

        Raises
        ------
        ValueError
            If no row would be left.

        Examples
        --------
        >>> rows = torch.tensor([[[1.0], [2.0], [6.0]]])
        >>> whole, last = (GaussianStatistics.from_rows(rows[:, i:]) for i in (0, 2))
        >>> left = whole.without(last)
        >>> left.count, left.mean.item(), left.scatter.item()
        (2, 1.5, 0.5)
        """
        count = self.count - other.count
        if count < 1:
            raise ValueError(f"expected fewer rows than the {self.count} here, got {other.count}.")
        mean = self.mean + (self.mean - other.mean) * (other.count / count)
        left = GaussianStatistics(count, mean, self.scatter - other.scatter)
        gap = left._gap(other.mean, mean, other.count)
        left.scatter.baddbmm_(gap.mT, gap, alpha=-1)
        return left

    def _gap(self, other, mean, count):
        """(n, 1, D), the row by which the difference of two means enters the scatter."""
        return ((other - mean) * math.sqrt(self.count * count / (self.count + count)))[:, None]

    def _blocks(self):
        """(places, their means, their scatters), a few at a time, to stay in the cache."""
        for part in slices(0, len(self.mean), _PLACES):
            yield part, self.mean[part], self.scatter[part]

    def copy(self) -> "GaussianStatistics":
        """An independent copy."""
        return GaussianStatistics(self.count, self.mean.clone(), self.scatter.clone())

    def to(self, device: torch.device | str) -> "GaussianStatistics":
        """The same on a device."""
        return GaussianStatistics(self.count, self.mean.to(device), self.scatter.to(device))

    def covariance(self, places: slice | torch.Tensor = slice(None)) -> torch.Tensor:
        """Covariances (n, D, D) at some places: the scatter divided by count - 1."""
        return self.scatter[places] / (self.count - 1)

    def to_state(self) -> dict[str, Any]:
        """The state that :meth:`from_state` restores."""
        return {"count": self.count, "mean": self.mean, "scatter": self.scatter}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Statistics with the state that :meth:`to_state` gave."""
        n_places, n_features = state["mean"].shape
        for name, shape in (("mean", ()), ("scatter", (n_features,))):
            expected = (n_places, n_features, *shape)
            check_tensor(name, state[name], expected, (torch.float32, torch.float64))
        check_count("count", state["count"])
        return cls(**state)


def slices(start: int, stop: int, size: int) -> list[slice]:
    """Slices of ``size`` from ``start`` to ``stop``; the last may be shorter.

    Examples
    --------
    >>> slices(0, 5, 2)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def whiteners(covariance: torch.Tensor) -> torch.Tensor:
    """Transposed inverse Cholesky factors (n, D, D) of covariances; ValueError if one is singular.

    A row times its whitener has uncorrelated coordinates of variance 1.
    """
    whitener = torch.zeros_like(covariance)
    _write_whiteners(covariance, whitener)
    return whitener


def _write_whiteners(covariance, whitener):
    """Whiten the first half of the coordinates, then what it leaves of the others.

    All but the halves are products of matrices, faster than factorizations.
    """
    n_features = covariance.shape[-1]
    if n_features <= _FACTORIZED or covariance.device.type != "cpu":
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed.any():
            raise ValueError("a covariance is singular: too few images, or constant ones.")
        identity = torch.eye(n_features, dtype=factor.dtype, device=factor.device)
        whitener.copy_(torch.linalg.solve_triangular(factor, identity, upper=False).mT)
        return
    half = n_features // 2
    first, last = whitener[:, :half, :half], whitener[:, half:, half:]
    _write_whiteners(covariance[:, :half, :half], first)
    shared = covariance[:, half:, :half] @ first
    left = torch.baddbmm(covariance[:, half:, half:], shared, shared.mT, alpha=-1)
    _write_whiteners(left, last)
    torch.neg(first @ (shared.mT @ last), out=whitener[:, :half, half:])


def squared_mahalanobis(
    rows: torch.Tensor, mean: torch.Tensor, whitener: torch.Tensor
) -> torch.Tensor:
    """Squared Mahalanobis distances of rows from the Gaussians of their places.

    Parameters
    ----------
    rows : torch.Tensor of shape (B, P, d)
    mean : torch.Tensor of shape (P, d)
    whitener : torch.Tensor of shape (P, d, d)
        See :func:`whiteners`.

    Returns
    -------
    squares : torch.Tensor of shape (B, P)
    """
    centered = (rows - mean).transpose(0, 1)  # (P, B, d)
    return torch.bmm(centered, whitener).square_().sum(2).T


def squared_mahalanobis_apart(
    rows: torch.Tensor, mean: torch.Tensor, whitener: torch.Tensor
) -> torch.Tensor:
    """The same on a CPU, without any influence of the images (B, P, d) on each other's last bits.

    Products round by their shapes. Here all have the same: of the rows of four images, zeros where
    there are fewer. Whiteners are read once for all images.
    """
    n_images, n_places, n_features = rows.shape
    n_groups = -(-n_images // _ALIKE)
    squares = rows.new_empty(n_groups, n_places, _ALIKE)

    def measure(share):
        rows, mean, whitener, squares = share
        size = min(_IN_CACHE, len(mean))
        centered = rows.new_zeros(n_groups * _ALIKE, size, n_features)
        white = rows.new_empty(n_groups, size, _ALIKE, n_features)
        cached = whitener.new_empty(size, n_features, n_features)
        for here in zip(*_parts(rows, mean, whitener, squares, size), strict=True):
            rows, mean, whitener, squares = here
            if len(mean) < size:
                centered, white = centered[:, : len(mean)], white[:, : len(mean)]
                cached = cached[: len(mean)]
            torch.sub(rows, mean, out=centered[:n_images])
            cached.copy_(whitener)  # products read slowly what is not in the cache
            for group, found in zip(centered.split(_ALIKE), white, strict=True):
                torch.bmm(group.transpose(0, 1), cached, out=found)
            torch.sum(white.square_(), 3, out=squares)

    shares = zip(*_parts(rows, mean, whitener, squares, _SHARE), strict=True)
    map_on(rows.device, measure, shares, at_once=FEW)
    return squares.transpose(1, 2).flatten(0, 1)[:n_images]


def _parts(rows, mean, whitener, squares, size):
    return rows.split(size, 1), mean.split(size), whitener.split(size), squares.split(size, 1)


def leave_one_out_squares(
    squares: torch.Tensor, count: int, copies: int | torch.Tensor = 1
) -> torch.Tensor:
    """Squared Mahalanobis distances of rows from the Gaussian of the others.

    Parameters
    ----------
    squares : torch.Tensor
        Those from the Gaussian of all ``count`` rows.
    count : int
    copies : int or torch.Tensor, default=1
        How often a row is there: all of its copies are left out.

    Returns
    -------
    squares : torch.Tensor
        NaN where fewer than two others are left.
    """
    copies = torch.as_tensor(copies, dtype=squares.dtype, device=squares.device)
    others = count - copies
    fraction = count * copies * squares / ((count - 1) * others)  # of the scatter, along the row
    found = count**2 * (others - 1) / ((count - 1) * others**2) * squares / (1 - fraction)
    return found.where(others > 1, found.new_tensor(torch.nan))


def shrunk_covariance(centered: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Covariance (D, D) of rows (n, D) of mean zero, shrunk as by Ledoit and Wolf; the shrinkage.

    The same as :func:`sklearn.covariance.ledoit_wolf`, but by PyTorch in this thread alone, so that
    its last bits do not depend on the number of threads that NumPy takes.

    Examples
    --------
    >>> covariance, shrinkage = shrunk_covariance(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]))
    >>> covariance.tolist(), shrinkage
    ([[9.0, 0.0], [0.0, 0.0]], 0.0)
    """
    n, n_features = centered.shape
    covariance = centered.T @ centered / n
    level = covariance.diagonal().mean()
    apart = covariance.square().sum() / n_features - level.square()  # from a multiple of identity
    fourth = centered.square().sum(1).square().sum() / n_features / n
    noise = (fourth - covariance.square().sum() / n_features) / n
    noise = torch.minimum(noise, apart)
    shrinkage = float(noise / apart) if n_features > 1 and noise > 0 else 0.0
    covariance *= 1 - shrinkage
    covariance.diagonal().add_(shrinkage * level)
    return covariance, shrinkage


def shrunk_gaussian(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean, a root of the shrunk covariance, and the root's transposed inverse, of rows (n, d).

    The root is that of the correlations, symmetric and shrunk as by Ledoit and Wolf, each row times
    its column's deviation: white coordinates, ``(rows - mean) @ inverse``, stay as close to the
    columns as possible, whatever units these have.

    Raises
    ------
    ValueError
        If no column varies.
    """
    statistics = GaussianStatistics.from_rows(rows[None])
    mean = statistics.mean[0]
    std = statistics.covariance()[0].diagonal().sqrt()
    if not (std > 0).any():
        raise ValueError(
            f"X: its {len(rows)} samples vary too little for a density: are they too few, or all "
            "the same?"
        )
    std = torch.where(std > 0, std, std[std > 0].min())  # a constant column may vary in new rows
    correlation, _ = shrunk_covariance((rows - mean) / std)
    values, vectors = torch.linalg.eigh(correlation)
    values = values.clamp_min(1e-9 * values.max()).sqrt()
    root = (vectors * values) @ vectors.T * std[:, None]
    return mean, root, (vectors / values) @ vectors.T / std[:, None]


class GaussianDensity(SaveMixin, DensityMixin, BaseEstimator):
    """One Gaussian with a full covariance, shrunk as by Ledoit and Wolf.

    The one-class classifier for few rows of many deep features: shrinkage toward a multiple of the
    identity, by an amount estimated from the data, makes the covariance invertible even with fewer
    rows than features.

    Parameters
    ----------
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.

    Attributes
    ----------
    mean_ : torch.Tensor of shape (D,)
    factor_ : torch.Tensor of shape (D, D)
        Lower Cholesky factor of the covariance.
    shrinkage_ : float
        In [0, 1].
    n_features_in_ : int

    References
    ----------
    O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
    Journal of Multivariate Analysis 88 (2004).

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(100, 3))
    >>> density = GaussianDensity().fit(rows)
    >>> near, far = density.score_samples([[0, 0, 0], [9, 9, 9]])
    >>> bool(near > far)
    True
    """

    def __init__(self, *, device: Device = "auto"):
        self.device = device

    @plain
    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Learn mean and covariance.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If ``X`` is not a table of finite numbers with at least two rows, or if all its rows are
            the same. A fit that fails leaves the estimator as it was before.
        """
        with aside(self) as learner:
            learner._fit(X)
        return self

    def _fit(self, X):
        device = resolve_device(self.device)
        X = checked_table(self, X, ensure_min_samples=2)
        rows = torch.tensor(X)
        mean = rows.mean(0)
        covariance, shrinkage = shrunk_covariance(rows.sub_(mean))
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed or not covariance.any():
            raise ValueError(
                f"X: its {len(X)} rows vary too little for a density: are they too few, or all "
                "the same?"
            )
        dtype = exact_dtype(device)
        self.mean_ = mean.to(device, dtype)
        self.factor_ = factor.to(device, dtype).contiguous()
        self.shrinkage_ = shrinkage

    @plain
    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Log-density of each row, in nats: lower = more anomalous.

        Parameters
        ----------
        X : array of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,)
        """
        check_is_fitted(self)
        X = checked_table(self, X, reset=False)
        centered = torch.from_numpy(X).to(self.mean_) - self.mean_
        white = torch.linalg.solve_triangular(self.factor_, centered.T, upper=False)
        return (-white.square().sum(0) / 2 - self._volume).cpu().numpy().astype(np.float64)

    @property
    def _volume(self):
        """Minus the log-density at the mean."""
        constant = len(self.mean_) * math.log(2 * math.pi) / 2
        return float(self.factor_.diagonal().log().sum() + constant)

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Total log-density of the rows, in nats."""
        return float(self.score_samples(X).sum())


class GaussianHead(nn.Module):
    """Minus the log-density of a fitted :class:`GaussianDensity`, in plain operations.

    Examples
    --------
    >>> rows = np.random.default_rng(0).normal(size=(100, 3))
    >>> density = GaussianDensity().fit(rows)
    >>> head = GaussianHead(density)
    >>> bool(np.allclose(head(torch.from_numpy(rows)), -density.score_samples(rows)))
    True
    """

    def __init__(self, density: GaussianDensity):
        super().__init__()
        factor, mean = density.factor_, density.mean_
        identity = torch.eye(len(mean), dtype=factor.dtype, device=factor.device)
        whitener = torch.linalg.solve_triangular(factor, identity, upper=False).mT
        self.register_buffer("mean", mean)
        self.register_buffer("whitener", whitener.contiguous())
        self.volume = density._volume

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n,), float64, of rows (n, n_features)."""
        white = (rows.to(self.mean) - self.mean) @ self.whitener
        return white.square().sum(1) / 2 + self.volume
