"""Rows to search for, with what a search computes of each only once."""

import torch

from .codes import PrincipalCodes

TINY = 1e-30  # keeps exact ties when every row is the same


class Queries:
    """Rows to search for, and vectors whose products with those of stored rows bound distances.

    The product of the vectors of a row and a stored row is their squared code distance less the
    row's ``squares``; an allowance for rounding is subtracted from both.

    Parameters
    ----------
    codes : PrincipalCodes
    rows : torch.Tensor of shape (n, D)

    Attributes
    ----------
    vectors : torch.Tensor of shape (n, n_codes + 1)
        The squared length's factor, then -2 times the code: the first numbers of all of them make
        rougher products.
    squares : torch.Tensor of shape (n,)
    """

    def __init__(self, codes: PrincipalCodes, rows: torch.Tensor):
        shrink = 1 - codes.slack
        self._rows, self._places = rows, None
        self.vectors = codes.mean_.new_empty(len(rows), codes.n_codes + 1)
        codes.encode_into(rows, self.vectors[:, 1:])
        lengths = torch.linalg.vector_norm(self.vectors[:, 1:], dim=1)
        self.squares = lengths.square_().mul_(shrink).sub_(TINY)
        self.vectors[:, 1:].mul_(-2)
        self.vectors[:, 0].fill_(shrink)

    def __len__(self):
        return len(self.vectors)

    def take(self, some: torch.Tensor) -> "Queries":
        """Those at some places (k,)."""
        taken = object.__new__(type(self))
        taken._rows = self._rows
        taken._places = some if self._places is None else self._places[some]
        taken.vectors = self.vectors.index_select(0, some)
        taken.squares = self.squares.index_select(0, some)
        return taken

    def codes(self, some: torch.Tensor) -> torch.Tensor:
        """The codes (k, n_codes) at some places (k,)."""
        return self.vectors[some, 1:] * -0.5

    def rows(self, some: torch.Tensor | None) -> torch.Tensor:
        """The rows (k, D) at some places (k,), or all rows (None)."""
        places = self._places
        if some is not None:
            places = some if places is None else places.index_select(0, some)
        return self._rows if places is None else self._rows.index_select(0, places)

    @property
    def n_features(self) -> int:
        """D."""
        return self._rows.shape[1]
