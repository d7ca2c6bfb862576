"""The principal subspace of rows, and how far rows lie from it."""

from dataclasses import dataclass, replace
from typing import Self

import torch

from ..runtime import check_tensor
from .gaussian import GaussianStatistics


@dataclass(frozen=True, eq=False)
class Subspace:
    """An affine subspace: a mean, and the directions of largest variance.

    Attributes
    ----------
    mean : torch.Tensor of shape (D,)
        float32.
    basis : torch.Tensor of shape (D, k)
        Orthonormal columns, float32: those of the subspace or, if they are fewer, those of its
        orthogonal complement.
    is_complement : bool

    Examples
    --------
    >>> rows = torch.tensor([[[-1.0, 0.0], [1.0, 0.0], [0.0, 0.1], [0.0, -0.1]]])
    >>> line = Subspace.of(GaussianStatistics.from_rows(rows), 0.9)
    >>> line.n_components
    1
    >>> line.squares(torch.tensor([[5.0, 2.0]])).tolist()
    [4.0]
    """

    mean: torch.Tensor
    basis: torch.Tensor
    is_complement: bool

    def __post_init__(self):
        check_tensor("mean", self.mean, (None,), (torch.float32,))
        n_features = len(self.mean)
        check_tensor("basis", self.basis, (n_features, None), (torch.float32,))
        if self.basis.shape[1] > n_features or not isinstance(self.is_complement, bool):
            raise ValueError("expected the basis of a subspace, or of its complement.")

    @classmethod
    def of(
        cls,
        statistics: GaussianStatistics,
        explained_variance: float = 0.99,
        n_components: int | None = None,
        *,
        noise: float | None = None,
    ) -> Self:
        """The principal subspace of the rows behind statistics of one place.

        One direction at least is left over, without which there would be no distances.

        Parameters
        ----------
        statistics : GaussianStatistics
            Of shape (1, D).
        explained_variance : float, default=0.99
            Share of the variance that the subspace has at least.
        n_components : int or None, default=None
            Its dimensions, instead of the share. Directions in which rows vary no more than by
            rounding are none of them.
        noise : float or None, default=None
            Scatter that is rounding; None estimates it, see :func:`rounding_scatter`.
        """
        mean, scatter = statistics.mean[0], statistics.scatter[0]
        n_features = len(mean)
        noise = rounding_scatter(statistics) if noise is None else noise
        values, vectors = torch.linalg.eigh(scatter.cpu().double())  # ascending
        values = values.flip(0)
        values = values.where(values > noise, 0)
        if n_components is None:
            n_components = int((values.cumsum(0) < explained_variance * values.sum()).sum()) + 1
        n_components = min(n_components, int((values > 0).sum()), n_features - 1)
        n_left = n_features - n_components
        is_complement = n_left < n_components
        basis = vectors[:, :n_left] if is_complement else vectors[:, n_left:]
        device = mean.device
        return cls(mean.float(), basis.float().contiguous().to(device), is_complement)

    @property
    def n_components(self) -> int:
        """Dimensions of the subspace."""
        n_features, n_columns = self.basis.shape
        return n_features - n_columns if self.is_complement else n_columns

    def squares(self, rows: torch.Tensor) -> torch.Tensor:
        """Squared distances (...) of rows (..., D) from the subspace.

        What is squared is the residual itself: a difference of two squares would lose its digits
        where a row is far from the mean and near the subspace.
        """
        centered = rows - self.mean
        projected = centered @ self.basis
        residual = projected if self.is_complement else centered - projected @ self.basis.mT
        return residual.square().sum(-1)

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return replace(self, mean=self.mean.to(device), basis=self.basis.to(device))


def rounding_scatter(statistics: GaussianStatistics) -> float:
    """Eigenvalues of a scatter (1, D, D) that rounding alone may give, with room to spare."""
    mean, scatter = statistics.mean, statistics.scatter
    eps = torch.finfo(scatter.dtype).eps
    of_means = statistics.count * (eps * float(mean.abs().max())) ** 2
    return mean.shape[1] * (eps * float(scatter[0].trace()) + of_means)
