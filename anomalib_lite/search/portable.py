"""The nearest rows by a few plain operations of tensors, which any runtime has."""

from collections.abc import Iterable

import torch

from .distance import squared_distance

_TOGETHER = 4096  # stored rows in one product: with 784 queries 13 MB


def nearest_portably(
    rows: torch.Tensor, blocks: Iterable[torch.Tensor], center: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest stored row of each of ``rows``.

    Products, rounded as float32, tell which row of a block is nearest; its distance is measured in
    float64. Of rows that are equally near but for rounding, any may be found.

    Parameters
    ----------
    rows : torch.Tensor of shape (n, D)
    blocks : iterable of torch.Tensor of shape (m, D)
        The stored rows.
    center : torch.Tensor of shape (D,)
        A place near all of them, from which rows are short, so that their products round little.

    Returns
    -------
    distance : torch.Tensor of shape (n,)
        Euclidean, float64.
    index : torch.Tensor of shape (n,)
        In the order of the blocks.
    """
    queries, squares, indices, n_before = rows - center, [], [], 0
    for stored in blocks:
        index = compared(queries, stored.float() - center).argmin(1)
        squares.append(squared_distance(rows, stored.index_select(0, index)))
        indices.append(index + n_before)
        n_before += len(stored)
    if len(squares) == 1:
        return squares[0].sqrt(), indices[0]
    squares, best = torch.stack(squares, 1).min(1, keepdim=True)
    return squares[:, 0].sqrt(), torch.stack(indices, 1).gather(1, best)[:, 0]


def compared(queries: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
    """Squared distances (n, m) of queries (n, D) and rows (m, D), less the queries' squares."""
    return queries @ (-2 * stored.T) + stored.square().sum(1)


class PortableRows:
    """Stored rows that are searched, as those of :class:`NearestRows`, in plain operations.

    Parameters
    ----------
    rows : torch.Tensor of shape (n_stored, D)

    Examples
    --------
    >>> stored = PortableRows(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    >>> distance, index = stored.query(torch.tensor([[3.0, 3.0]]))
    >>> distance.tolist(), index.tolist()
    ([1.0], [1])
    """

    def __init__(self, rows: torch.Tensor):
        self.rows, self._center = rows, rows.float().mean(0)

    def query(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Nearest stored row of each of ``rows``; see :func:`nearest_portably`."""
        return nearest_portably(rows, self.rows.split(_TOGETHER), self._center)

    def neighbors(self, index: torch.Tensor, k: int) -> list[torch.Tensor]:
        """The ``k`` stored rows nearest to each of a few, as of :meth:`NearestRows.neighbors`."""
        stored = self.rows.float() - self._center
        found = compared(stored.index_select(0, index), stored).topk(
            min(k, len(stored)), largest=False
        )
        return list(found.indices)
