"""Exact nearest rows, fast, in blocks, without a full distance matrix.

:func:`plain_query` is the definition; :class:`NearestRows` gives the same answer. The distance
between the codes of two rows (:class:`~anomalib_lite.search.PrincipalCodes`) is a lower bound of
their own, so products of short codes rule out almost every pair. Only the pairs that are left are
measured, row against row, in float64: the result is the true nearest row and its distance, not the
one that a rounded matrix product prefers.
"""

import threading
from collections.abc import Sequence
from typing import Any, Self

import torch

from ..contexts import plain
from ..runtime import check_tensor, exact_dtype, make_generator
from ..workers import FEW, borrowed_team, map_on, team
from .codes import MAX_COMPONENTS, PrincipalCodes
from .distance import squared_distance
from .portable import PortableRows
from .queries import TINY, Queries

# Constants of time and memory: results depend on none of them. Timed on two cores of an AMD EPYC.
CHUNK = 64  # neighboring products that are scanned by their minimum only
_ROWS, _PRODUCTS = 784, 2**22  # rows searched for together, and products of a block: 16 MB
_ROWS_ELSEWHERE, _PRODUCTS_ELSEWHERE = 8192, 2**26  # on accelerators: 256 MB
_SHARED, _SHARE = 2**23, 196  # products that a team is bothered with, and rows that a worker is
_SHORT = 4096  # stored rows that a search for the farthest goes through in one step
_COVER = 2048  # of more stored rows, those that give the first, rough distances
_ROUGH = 24  # components of these
_LIKELY = 64  # rows that a search for the farthest looks at first; so few are measured at once
_FEW_VALUES = 2**19  # of pairs that are measured without a rough look first
_FEW_CHUNKS = 1024  # promising chunks of a block that are not worth a first measurement
_PAIRS = 2**20  # products that are looked through before pairs are measured: 4 MB
_PAIR_VALUES = 2**22  # values of the pairs measured at once: 16 MB of float32
_CODE_LENGTHS = (16, 24, 32, 48, 64, 96, 128, 192, 256)  # candidates of cheapest_codes
_SAMPLE, _SAMPLE_STORED = 128, 16384  # rows from which it chooses
# What it minimizes, in multiplications of a product: scanning one product, and one value of a
# measured pair.
_SCAN_COST, _MEASURE_COST = 40, 400

_STORED_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_SCRATCH = threading.local()


def plain_query(
    rows: torch.Tensor, stored: torch.Tensor, *, exclude: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest of the rows ``stored`` (N, D) for each of ``rows`` (n, D): the definition, slow.

    Gives what :meth:`NearestRows.query` gives.

    Examples
    --------
    >>> distance, index = plain_query(torch.tensor([[3.0]]), torch.tensor([[0.0], [2.0], [4.0]]))
    >>> distance.tolist(), index.tolist()
    ([1.0], [1])
    """
    distance, index = [], []
    for row in rows:
        squares = squared_distance(stored, row)
        if exclude is not None:
            squares[exclude] = torch.inf
        distance.append(squares.amin().sqrt())
        found = squares.argmin()  # the lowest index on ties
        index.append(torch.where(squares[found].isfinite(), found, -1))
    return torch.stack(distance), torch.stack(index)


def in_large_steps(device: torch.device) -> bool:
    """Whether few large operations are quicker than many small ones, which do less in all.

    So they are on accelerators, where each operation, and each look at how many rows are left,
    waits.
    """
    return device.type != "cpu"


def cheapest_codes(rows: torch.Tensor, sample: torch.Tensor) -> PrincipalCodes:
    """Codes of the length that makes searching ``rows`` for rows like ``sample`` cheapest.

    The shorter the codes, the cheaper their products and the more pairs are left to measure.
    Both are counted, not timed, so the same rows always get the same codes. Where no short code
    pays, codes are as long as the rows: a plain product in blocks.
    """
    draw = torch.randperm(len(sample), generator=make_generator(0), device="cpu")[:_SAMPLE]
    sample = sample[draw.to(sample.device)]
    n_features = rows.shape[1]
    codes = PrincipalCodes(rows, n_features)
    nearest, _ = NearestRows.of(codes.shortened(MAX_COMPONENTS), rows).query(sample)
    limit = nearest.float().square_()[:, None]
    stored = rows[:: -(-len(rows) // _SAMPLE_STORED)]
    a, b = codes.encode(sample), codes.encode(stored)
    squares = a.square().sum(1)[:, None] + b.square().sum(1)
    rest_a, rest_b = (c.square().flip(1).cumsum(1).flip(1).sqrt() for c in (a, b))
    products, done, costs = torch.zeros_like(squares), 0, {}
    for n in (n for n in _CODE_LENGTHS if n < n_features):
        products.addmm_(a[:, done:n], b[:, done:n].T)
        done = n
        bound = torch.addr(products, rest_a[:, n], rest_b[:, n]).mul_(-2).add_(squares)
        n_measured = int((bound <= limit).sum())
        costs[n] = bound.numel() * (n + _SCAN_COST) + _MEASURE_COST * n_features * n_measured
    costs[n_features] = squares.numel() * (n_features + _SCAN_COST)
    return codes.shortened(min(costs, key=costs.get))


class NearestRows:
    """Index of a growing set of stored rows that finds the nearest of them exactly.

    Parameters
    ----------
    codes : PrincipalCodes
        Of rows like those to be stored.
    capacity : int
        Number of rows to make room for at first.
    dtype : torch.dtype, default=torch.float32
        In which rows are stored. Distances are those of the stored rows.

    Attributes
    ----------
    rows : torch.Tensor of shape (n_stored, D)
        The stored rows, in the order of storing.
    n_stored : int
    codes : PrincipalCodes

    Examples
    --------
    >>> stored = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> distance, index = NearestRows.from_rows(stored).query(torch.tensor([[3.0, 3.0]]))
    >>> distance.tolist(), index.tolist()
    ([1.0], [1])
    """

    def __init__(self, codes: PrincipalCodes, capacity: int, dtype: torch.dtype = torch.float32):
        self.codes = codes
        self.n_stored = 0
        self._rows = codes.mean_.new_empty(0, len(codes.mean_), dtype=dtype)
        self._codes = codes.mean_.new_empty(0, codes.n_codes + 1)  # after their squared length
        self._reserve(capacity)

    def _reserve(self, capacity):
        """Make room for ``capacity`` rows in all."""
        rows, codes = self._rows, self._codes
        padded = -(-capacity // CHUNK) * CHUNK
        self._rows = rows.new_empty(padded, rows.shape[1])
        self._rows[capacity:] = 0  # looked at, and never the nearest
        self._codes = codes.new_zeros(padded, codes.shape[1])
        self._rows[: self.n_stored] = rows[: self.n_stored]
        self._codes[: self.n_stored] = codes[: self.n_stored]

    @classmethod
    @plain
    def from_rows(cls, rows: torch.Tensor, sample: torch.Tensor | None = None) -> Self:
        """An index of ``rows`` (N, D), made to be searched for rows like those of ``sample``.

        Results do not depend on the sample, only time does.
        """
        codes = PrincipalCodes(rows) if sample is None else cheapest_codes(rows, sample)
        return cls.of(codes, rows)

    @classmethod
    def of(cls, codes: PrincipalCodes, rows: torch.Tensor) -> Self:
        """An index of ``rows`` (N, D) with some codes."""
        index = cls(codes, len(rows), rows.dtype)
        index.append(rows)
        return index

    def to_state(self) -> dict[str, Any]:
        """The state that :meth:`from_state` restores."""
        return {"rows": self.rows, "codes": self.codes}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """An index with the state that :meth:`to_state` gave."""
        n_features = len(state["codes"].mean_)
        check_tensor("rows", state["rows"], (None, n_features), _STORED_DTYPES)
        return cls.of(state["codes"], state["rows"])

    @property
    def rows(self) -> torch.Tensor:
        return self._rows[: self.n_stored]

    def append(self, rows: torch.Tensor, codes: torch.Tensor | None = None) -> None:
        """Store ``rows`` (n, D) behind those stored before; ``codes`` (n, n_codes) save time."""
        place = slice(self.n_stored, self.n_stored + len(rows))
        if place.stop > len(self._rows):
            self._reserve(max(place.stop, len(self._rows) * 3 // 2))
        self._rows[place] = rows
        stored = self._codes[place]
        if codes is None:
            self.codes.encode_into(self._rows[place], stored[:, 1:])
        else:
            stored[:, 1:] = codes
        torch.linalg.vector_norm(stored[:, 1:], dim=1, out=stored[:, 0])
        stored[:, 0].square_()
        self.n_stored += len(rows)

    # -- searches ---------------------------------------------------------------------------------

    @plain
    def query(
        self,
        rows: torch.Tensor,
        *,
        exclude: torch.Tensor | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nearest stored row of each of ``rows``.

        Parameters
        ----------
        rows : torch.Tensor of shape (n, D)
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows to leave out, ascending.
        ranges : sequence of (first, end) or None, default=None
            Only the stored rows ``first`` to ``end - 1`` of each range are searched. None: all.

        Returns
        -------
        distance : torch.Tensor of shape (n,)
            Euclidean, float64; infinite where every stored row is left out.
        index : torch.Tensor of shape (n,)
            The lowest on exact ties; -1 where every stored row is left out.
        """
        queries, nearest, index = self._start(rows)
        self._tighten_all(queries, None, nearest, index, exclude=exclude, ranges=ranges)
        return nearest.sqrt_(), index

    @plain
    def farthest(
        self, rows: torch.Tensor, n: int, *, exclude: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The ``n`` of ``rows`` that are farthest from their nearest stored row.

        The distance to any stored row is an upper bound. Rows far from the first stored rows are
        compared with all of them, which gives a guess how far the farthest are. The search then
        takes in more and more stored rows for fewer and fewer rows: those that may still be
        farther. Only the last of these are searched for to the end. This is quick where the first
        stored rows cover the others, as those of a greedy coreset do.

        Parameters
        ----------
        rows : torch.Tensor of shape (N, D)
        n : int
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows to leave out, ascending.

        Returns
        -------
        position : torch.Tensor of shape (n,)
            Positions in ``rows``, farthest first, the lower first on exact ties; all of them if
            there are fewer than ``n``.
        distance, index : torch.Tensor of shape (n,)
            As of :meth:`query`.
        """
        n = min(n, len(rows))
        if n == 0 or in_large_steps(rows.device):
            distance, index = self.query(rows, exclude=exclude)
            found = distance.argsort(descending=True, stable=True)[:n]
            return found, distance[found], index[found]
        with team():
            return self._farthest(rows, n, exclude)

    @plain
    def k_nearest(
        self, rows: torch.Tensor, k: int, *, exclude: torch.Tensor | None = None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The ``k`` nearest stored rows of each of ``rows``, nearest first.

        Parameters
        ----------
        rows : torch.Tensor of shape (n, D)
            A few: their distances to all stored rows are held at once.
        k : int
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows to leave out.

        Returns
        -------
        distance : list of n torch.Tensor of shape (<= k,)
            Euclidean, float64; fewer than k only where fewer rows are stored and not left out.
        index : list of n torch.Tensor of shape (<= k,)
            The lower first on exact ties.
        """
        queries = Queries(self.codes, rows)
        products = queries.vectors @ self._codes[: self.n_stored].T
        if exclude is not None:
            products.index_fill_(1, exclude, torch.inf)
        distances, indices = [], []
        for row, product, square in zip(rows, products, queries.squares, strict=True):
            # an upper bound on the k-th distance: measure the k most promising rows
            lowest, likely = product.topk(min(k, len(product)), largest=False)
            likely = likely[lowest.isfinite()]
            farthest = -torch.inf
            if len(likely):
                farthest = squared_distance(row, self._rows[likely]).amax()
            near = (product <= _product_bound(farthest, square)).nonzero()[:, 0]
            measured = squared_distance(row, self._rows[near])
            order = measured.argsort(stable=True)[:k]
            distances.append(measured[order].sqrt())
            indices.append(near[order])
        return distances, indices

    def neighbors(self, index: torch.Tensor, k: int) -> list[torch.Tensor]:
        """The ``k`` stored rows nearest to each of a few stored rows (n,), themselves among them.

        Indices, a tensor of shape (<= k,) for each.
        """
        return self.k_nearest(self.rows[index], k)[1]

    def portable(self) -> PortableRows:
        """The same rows to be searched in plain operations, for export."""
        return PortableRows(self.rows)

    def tighten(
        self,
        queries: Queries,
        nearest: torch.Tensor,
        index: torch.Tensor | None = None,
        *,
        exclude: torch.Tensor | None = None,
        ranges: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        """Lower squared distances to the nearest stored row, in place.

        Parameters
        ----------
        queries : Queries
            n rows, about a thousand.
        nearest : torch.Tensor of shape (n,)
            float64; squared distances so far, infinite for none.
        index : torch.Tensor of shape (n,) or None, default=None
            The stored rows at these distances, updated along.
        exclude, ranges
            As for :meth:`query`.
        """
        bound = _product_bound(nearest, queries.squares)
        chunks = _Chunks()
        for left, products, lowest in self._products(queries.vectors, exclude, ranges):
            is_near = lowest < bound[:, None]
            if int(is_near.count_nonzero()) > max(_FEW_CHUNKS, len(queries)):
                # the most promising pair of each row first: it usually rules out the others
                high = self._most_promising(queries, products, lowest, left)
                bound = torch.minimum(bound, high.sub_(queries.squares))
                is_near = lowest < bound[:, None]
            for part in _pieces(is_near.nonzero(), _PAIRS // CHUNK):
                chunks.add(products, left, *part.unbind(1))
                if chunks.n_products > _PAIRS:
                    self._measure(queries, nearest, index, *chunks.take(bound))
                    bound = torch.minimum(bound, _product_bound(nearest, queries.squares))
        if chunks.n_products:
            self._measure(queries, nearest, index, *chunks.take(bound))

    # -- their steps ------------------------------------------------------------------------------

    def _farthest(self, rows, n, exclude):
        """:meth:`farthest` in many small steps."""
        queries, nearest, index = self._start(rows)
        found, undecided = None, self._likely_farthest(queries, nearest, n, exclude)
        while len(undecided):
            self._tighten_all(queries, undecided, nearest, index, exclude=exclude, ranges=None)
            found = undecided if found is None else torch.cat([found, undecided])
            limit = nearest[found].topk(n).values[-1]
            undecided = _places((nearest >= limit).index_fill_(0, found, False))
        found = found.sort().values  # the lower first on ties
        found = found[nearest[found].argsort(descending=True, stable=True)[:n]]
        return found, nearest[found].sqrt_(), index[found]

    def _likely_farthest(self, queries, nearest, n, exclude):
        """Places of n rows or more, among which the farthest usually are.

        They would be, were the best pair of a row always the one with the lowest product. Lowers
        all squared distances to upper bounds.
        """
        end = self.n_stored if self.n_stored <= _SHORT else _COVER
        self._probe_all(queries, None, nearest, _ROUGH + 1, exclude=exclude, ranges=[(0, end)])
        likely = nearest.topk(min(max(n, _LIKELY), len(nearest))).indices
        if end == self.n_stored:
            return likely
        self._probe_all(queries, likely, nearest, None, exclude=exclude, ranges=None)
        limit = nearest[likely].topk(n).values[-1]
        undecided = _places((nearest >= limit).index_fill_(0, likely, False))
        while end < self.n_stored and len(undecided) > _LIKELY:
            ranges = [(end, 4 * end if 6 * end < self.n_stored else self.n_stored)]
            self._probe_all(queries, undecided, nearest, _ROUGH + 1, exclude=exclude, ranges=ranges)
            undecided = undecided[nearest[undecided] >= limit]
            end = ranges[0][1]
        return _places(nearest >= limit)

    def _start(self, rows):
        """Queries, and squared distances and indices of which nothing is known yet."""
        nearest = rows.new_full((len(rows),), torch.inf, dtype=exact_dtype(rows.device))
        index = rows.new_full((len(rows),), -1, dtype=torch.int64)
        return Queries(self.codes, rows), nearest, index

    def _tighten_all(self, queries, some, nearest, index, **which):
        """:meth:`tighten` for some of the queries, or for all (None), block by block."""

        def tighten(block):
            if block is None:
                self.tighten(queries, nearest, index, **which)
                return
            near, where = nearest[block], index[block]
            self.tighten(queries.take(block), near, where, **which)
            nearest[block], index[block] = near, where

        blocks = self._blocks(some, nearest, which["ranges"])
        map_on(nearest.device, tighten, blocks, at_once=FEW)

    def _probe_all(self, queries, some, nearest, width, **which):
        """Lower squared distances of queries to upper bounds, in the same blocks."""

        def probe(block):
            if block is None:
                nearest.copy_(self._probe(queries, nearest, width, **which))
            else:
                nearest[block] = self._probe(queries.take(block), nearest[block], width, **which)

        blocks = self._blocks(some, nearest, which["ranges"])
        map_on(nearest.device, probe, blocks, at_once=FEW)

    def _blocks(self, some, every, ranges):
        """Places (n,) in blocks; where there is enough to do, one at least for each worker.

        None stands for all places, those of ``every``. Results are the same in any blocks.
        """
        n, large = len(every if some is None else some), in_large_steps(every.device)
        if n == 0:
            return ()
        size = _ROWS_ELSEWHERE if large else _ROWS
        n_stored = sum(end - first for first, end in self._ranges(ranges))
        if not large and n * n_stored >= _SHARED:
            with borrowed_team() as workers:
                size = min(size, max(_SHARE, -(-n // workers.n_workers)))
        if some is None:
            if n <= size:
                return (None,)
            some = torch.arange(n, device=every.device)
        return _pieces(some, size)

    def _probe(self, queries, nearest, width, **which):
        """Upper bounds of squared distances to the nearest stored row, none above ``nearest``.

        They are distances to the rows with the lowest products; of rough ones, where these are of
        the first ``width`` numbers of vectors. None takes all.
        """
        for left, products, lowest in self._products(queries.vectors[:, :width], **which):
            high = self._most_promising(queries, products, lowest, left)
            nearest = torch.minimum(nearest, high)
        return nearest

    def _products(self, vectors, exclude, ranges):
        """Products of (n, k) query vectors with stored ones, of which they are the first numbers.

        Gives, block by block, the index of the block's first row, the products (n, m, CHUNK), and
        the lowest of each chunk (n, m). Products with rows that do not count are infinite. The next
        block takes the place of the one before.
        """
        n, k = vectors.shape
        widest = (_PRODUCTS_ELSEWHERE if in_large_steps(vectors.device) else _PRODUCTS) // n
        widest = max(widest // CHUNK, 1) * CHUNK
        blocks = []
        for first, end in self._ranges(ranges):
            whole = range(first // CHUNK * CHUNK, -(-end // CHUNK) * CHUNK)  # chunks
            blocks += [
                (left, min(left + widest, whole.stop), first, end) for left in whole[::widest]
            ]
        widest = max((right - left for left, right, _, _ in blocks), default=0)
        buffer = _scratch(n * widest, vectors)
        for left, right, first, end in blocks:
            products = buffer[: n * (right - left)].view(n, -1)
            torch.mm(vectors, self._codes[left:right, :k].T, out=products)
            if first > left:
                products[:, : first - left] = torch.inf
            if end < right:
                products[:, end - left :] = torch.inf
            if exclude is not None:
                hidden = exclude[(exclude >= left) & (exclude < right)] - left
                products.index_fill_(1, hidden, torch.inf)
            chunks = products.view(n, -1, CHUNK)
            yield left, chunks, chunks.amin(2)

    def _ranges(self, ranges):
        """Ranges of stored rows that there are; None means all."""
        n = self.n_stored
        return [(0, n)] if ranges is None else [(first, min(end, n)) for first, end in ranges]

    def _most_promising(self, queries, products, lowest, left):
        """Upper bounds of the nearest squared distances, from each row's best pair of a block.

        Infinite where all of a row's pairs are excluded.
        """
        lowest, chunk = lowest.min(1)
        every = torch.arange(len(lowest), device=lowest.device)
        best = _gather(products, every, chunk).argmin(1).add_(chunk, alpha=CHUNK)
        rough = self._rough_distance(queries, None, self._rows[left:], best)
        high = rough.mul_(1 + self._roundoff).add_(TINY)
        return high.where(lowest < torch.inf, torch.inf)

    def _measure(self, queries, nearest, index, all_rows, all_stored):
        """Lower ``nearest`` by the true distances of pairs (all_rows[i], all_stored[i])."""
        n_pairs = max(1, _PAIR_VALUES // queries.n_features)
        pieces = (_pieces(pairs, n_pairs) for pairs in (all_rows, all_stored))
        for row, stored in zip(*pieces, strict=True):
            if len(row) > len(nearest) and len(row) * queries.n_features > _FEW_VALUES:
                rough = self._rough_distance(queries, row, self._rows, stored)
                high = rough * (1 + self._roundoff) + TINY
                limit = nearest.float().scatter_reduce_(0, row, high, "amin")
                near = (rough * (1 - self._roundoff) - TINY <= limit[row]).nonzero()[:, 0]
                row, stored = row[near], stored[near]
            distance = squared_distance(queries.rows(row), self._rows.index_select(0, stored))
            if index is not None:
                before = nearest.clone()
            nearest.scatter_reduce_(0, row, distance, "amin")
            if index is not None:
                index.masked_fill_(nearest < before, len(self._rows))
                won = stored.masked_fill(distance > nearest[row], len(self._rows))
                index.scatter_reduce_(0, row, won, "amin")

    def _rough_distance(self, queries, row, stored, place):
        """Squared distances in float32, whose relative error is below ``_roundoff``.

        Those of the pairs (row[i], stored[place[i]]), or (i, stored[place[i]]) for ``row`` None.
        """
        apart = stored.index_select(0, place).float().sub_(queries.rows(row))
        return apart.square_().sum(1)

    @property
    def _roundoff(self):
        return (self._rows.shape[1] + 8) * 2.0**-23


class _Chunks:
    """Chunks of products that may have to be measured, copied from block after block."""

    def __init__(self):
        self.n_products = 0
        self._parts = []

    def add(self, products, left, row, chunk):
        """Copy some chunks (row[i], chunk[i]) of the block that begins with the row ``left``."""
        self.n_products += len(row) * CHUNK
        self._parts.append((row, chunk * CHUNK + left, _gather(products, row, chunk)))

    def take(self, bound):
        """(row, stored) of the pairs whose product is below the row's bound; forgets all."""
        row, first, products = (_joined(part) for part in zip(*self._parts, strict=True))
        self.n_products, self._parts = 0, []
        which, column = (products < bound[row][:, None]).nonzero().unbind(1)
        return row[which], first[which].add_(column)


def _scratch(n, like):
    """Memory for n numbers, which on a CPU this thread keeps for the next time.

    The system takes long to give and clear the memory of large tensors.
    """
    if like.device.type != "cpu":
        return like.new_empty(n)
    kept = getattr(_SCRATCH, "kept", None)
    if kept is None or len(kept) < n:
        with torch.inference_mode(False):  # or it could not be used outside of it
            kept = _SCRATCH.kept = like.new_empty(max(n, _PRODUCTS))
    return kept[:n]


def _pieces(tensor, size):
    """The tensor in pieces of a size, without an operation where it is one piece."""
    return tensor.split(max(size, 1)) if len(tensor) > size else (tensor,)


def _places(mask):
    """Where a mask (n,) is true."""
    return mask.nonzero()[:, 0]


def _joined(tensors):
    """Tensors as one, without a copy where it is one."""
    return torch.cat(tensors) if len(tensors) > 1 else tensors[0]


def _gather(chunks, row, chunk):
    """``chunks[row, chunk]`` of (n, m, CHUNK), copied chunk by chunk, not number by number."""
    return chunks.flatten(0, 1).index_select(0, torch.add(chunk, row, alpha=chunks.shape[1]))


def _product_bound(nearest, squares):
    """A pair whose product is above this is farther apart than ``nearest``, rounding included."""
    return (nearest - squares).float()
