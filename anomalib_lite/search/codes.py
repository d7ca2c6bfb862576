"""Principal codes: short vectors whose distances bound the distances of rows from below."""

from typing import Any, Self

import torch

from ..runtime import check_tensor
from ..workers import each_on, map_on

MAX_COMPONENTS = 128  # of a code, unless more are asked for
_BLOCK = 8192  # rows encoded at once
# unit roundoff of float32 matrix products under torch.set_float32_matmul_precision
_ROUNDOFF = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}


class PrincipalCodes:
    """Short codes whose distances never exceed the distances of the rows they stand for.

    A code holds the leading principal components of a row and, as one more coordinate, the length
    of what they leave out: by the triangle inequality, two remainders are at least as far apart as
    their lengths differ.

    Parameters
    ----------
    rows : torch.Tensor of shape (N, D)
        float32. They set the center and the principal components; any rows can be encoded.
    n_components : int or None, default=None
        None takes as many as explain 95 % of the variance, from 32 up to 128.

    Attributes
    ----------
    mean_ : torch.Tensor of shape (D,)
    components_ : torch.Tensor of shape (D, n_components)
    """

    def __init__(self, rows: torch.Tensor, n_components: int | None = None):
        n_features = rows.shape[1]
        self.mean_ = rows.mean(0)
        scatter = torch.zeros(n_features, n_features, dtype=torch.float64, device="cpu")
        for partial in each_on(rows.device, self._scatter, rows.split(_BLOCK)):
            scatter += partial  # in order: the last bits of a sum depend on it
        variances, components = torch.linalg.eigh(scatter)
        variances, components = variances.flip(0).clamp_min(0), components.flip(1)
        if n_components is None:
            explained = variances.cumsum(0) / variances.sum().clamp_min(1e-300)
            enough = int((explained < 0.95).sum()) + 1
            n_components = min(max(32, enough), MAX_COMPONENTS, n_features)
        self.components_ = components[:, :n_components].float().to(rows.device).contiguous()

    def _scatter(self, rows):
        """Sum of the outer products of centered rows (n, D), on the CPU."""
        centered = rows - self.mean_
        return (centered.T @ centered).cpu().double()

    def to_state(self) -> dict[str, Any]:
        """The state that :meth:`from_state` restores."""
        return {"mean": self.mean_, "components": self.components_}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Codes with the state that :meth:`to_state` gave."""
        check_tensor("mean", state["mean"], (None,), (torch.float32,))
        n_features = len(state["mean"])
        check_tensor("components", state["components"], (n_features, None), (torch.float32,))
        codes = cls.__new__(cls)
        codes.mean_, codes.components_ = state["mean"], state["components"]
        return codes

    def to(self, device: torch.device | str) -> Self:
        """The same codes on a device."""
        state = {name: tensor.to(device) for name, tensor in self.to_state().items()}
        return self.from_state(state)

    def shortened(self, n_components: int) -> Self:
        """The same codes with only the first ``n_components`` components."""
        components = self.components_[:, :n_components].contiguous()
        return self.from_state({"mean": self.mean_, "components": components})

    @property
    def slack(self) -> float:
        """Allowance for rounding in a squared code distance.

        As a fraction of the sum of the two squared code lengths: about sixteen times the worst case
        of a sum of D products. It follows the precision set for PyTorch's matrix products.
        """
        roundoff = _ROUNDOFF[torch.get_float32_matmul_precision()]
        return min(16 * (len(self.mean_) + 16) * roundoff, 1.0)

    @property
    def n_codes(self) -> int:
        """Length of a code."""
        return self.components_.shape[1] + 1

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Codes of shape (n, n_codes) of rows (n, D)."""
        codes = self.mean_.new_empty(len(rows), self.n_codes)
        self.encode_into(rows, codes)
        return codes

    def encode_into(self, rows: torch.Tensor, codes: torch.Tensor) -> None:
        """Write the codes of rows (n, D) to a tensor (n, n_codes)."""

        def encode(block):
            rows, codes = block
            centered = rows - self.mean_
            leading = centered @ self.components_
            # measured on the remainder itself: a difference of squared lengths would cancel
            rest = centered.addmm_(leading, self.components_.T, alpha=-1)
            codes[:, :-1] = leading
            torch.linalg.vector_norm(rest, dim=1, out=codes[:, -1])

        blocks = zip(rows.split(_BLOCK), codes.split(_BLOCK), strict=True)
        map_on(rows.device, encode, blocks)
