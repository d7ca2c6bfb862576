"""Exact nearest rows, fast, in blocks, without ever holding a full distance matrix.

A distance between rows is bounded from below by the distance between their *codes*: the leading
principal components, plus the length of what they leave out as one more coordinate (the triangle
inequality on the rest). Products of short codes rule almost every pair out; only pairs that may
still matter are measured, row against row, in float64. The result is therefore the true nearest
row and its distance, not one that a rounded matrix product prefers.
"""

from functools import partial

import torch

from ..runtime import exact_dtype, make_generator

MAX_COMPONENTS = 128  # of a code, unless more are asked for
CHUNK = 64  # neighboring products that are scanned by their minimum only
_ROWS, _STORED = 784, 4096  # one block of products: 13 MB of float32
_COVER = 1024  # stored rows that give the first, rough distances
_LIKELY = 8  # rows that a search for the farthest measures to the end at each step
_PAIRS = 2**18  # kept until they are measured: 5 MB
_PAIR_VALUES = 2**22  # values of the pairs measured at once: 16 MB of float32
# What a search costs, in multiplications of a product: scanning one product, and one value of a
# pair that is measured. Timed on two cores; only the choice of a code's length rests on them.
_SCAN_COST, _MEASURE_COST = 40, 400
_SAMPLE, _SAMPLE_STORED = 128, 16384  # rows on which that choice is made
# unit roundoff of float32 matrix products under torch.set_float32_matmul_precision
_ROUNDOFF = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
_TINY = 1e-30  # keeps exact ties when every row is the same


class PrincipalCodes:
    """Short codes whose distances never exceed the distances of the rows they stand for.

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

    def __init__(self, rows, n_components=None):
        n_features = rows.shape[1]
        self.mean_ = rows.mean(0)
        scatter = torch.zeros(n_features, n_features, dtype=torch.float64, device="cpu")
        for block in rows.split(8192):
            centered = block - self.mean_
            scatter += (centered.T @ centered).cpu().double()
        variances, components = torch.linalg.eigh(scatter)
        variances, components = variances.flip(0).clamp_min(0), components.flip(1)
        if n_components is None:
            share = variances.cumsum(0) / variances.sum().clamp_min(1e-300)
            enough = int((share < 0.95).sum()) + 1
            n_components = min(max(32, enough), MAX_COMPONENTS, n_features)
        self.components_ = components[:, :n_components].float().to(rows.device).contiguous()

    def to_state(self):
        """What :meth:`from_state` makes an equal one of."""
        return {"mean": self.mean_, "components": self.components_}

    @classmethod
    def from_state(cls, state):
        codes = cls.__new__(cls)
        codes.mean_, codes.components_ = state["mean"], state["components"]
        return codes

    @classmethod
    def cheapest(cls, rows, sample):
        """Codes of the length that makes searching ``rows`` for rows like ``sample`` cheapest.

        The shorter the codes, the cheaper their products and the more pairs are left to measure.
        Both are counted, not timed, so the same rows always get the same codes. Where no short
        code pays, they are as long as the rows: a plain product in blocks.
        """
        draw = torch.randperm(len(sample), generator=make_generator(0), device="cpu")[:_SAMPLE]
        sample = sample[draw.to(sample.device)]
        nearest, _ = NearestRows.from_rows(rows).query(sample)
        limit = nearest.float().square_()[:, None]
        stored = rows[:: -(-len(rows) // _SAMPLE_STORED)]
        n_features = rows.shape[1]
        codes = cls(rows, n_features)
        a, b = codes.encode(sample), codes.encode(stored)
        squares = a.square().sum(1)[:, None] + b.square().sum(1)
        rest_a, rest_b = (c.square().flip(1).cumsum(1).flip(1).sqrt() for c in (a, b))
        products, done, costs = torch.zeros_like(squares), 0, {}
        lengths = [n for n in (16, 24, 32, 48, 64, 96, 128, 192, 256) if n < n_features]
        for n in lengths:
            products.addmm_(a[:, done:n], b[:, done:n].T)
            done = n
            bound = torch.addr(products, rest_a[:, n], rest_b[:, n]).mul_(-2).add_(squares)
            n_measured = int((bound <= limit).sum())
            costs[n] = bound.numel() * (n + _SCAN_COST) + _MEASURE_COST * n_features * n_measured
        costs[n_features] = squares.numel() * (n_features + _SCAN_COST)
        codes.components_ = codes.components_[:, : min(costs, key=costs.get)].contiguous()
        return codes

    @property
    def slack(self):
        """Allowance for rounding in a squared code distance.

        As a share of the sum of the two squared code lengths: about sixteen times the worst case
        of a sum of D products. It follows the precision that PyTorch's matrix products are set to.
        """
        roundoff = _ROUNDOFF[torch.get_float32_matmul_precision()]
        return min(16 * (len(self.mean_) + 16) * roundoff, 1.0)

    @property
    def n_codes(self):
        """Length of a code."""
        return self.components_.shape[1] + 1

    def encode(self, rows, out=None):
        """Codes of shape (n, n_codes) of rows (n, D)."""
        if out is None:
            out = self.mean_.new_empty(len(rows), self.n_codes)
        for block, code in zip(rows.split(8192), out.split(8192), strict=True):
            centered = block - self.mean_
            leading = centered @ self.components_
            # measured on the remainder itself: a difference of squared lengths would cancel
            rest = centered.addmm_(leading, self.components_.T, alpha=-1)
            code[:, :-1] = leading
            torch.linalg.vector_norm(rest, dim=1, out=code[:, -1])
        return out


class NearestRows:
    """The nearest of a growing set of stored rows, for any rows.

    Parameters
    ----------
    codes : PrincipalCodes
    capacity : int
        How many rows there is room for at first.
    dtype : torch.dtype, default=torch.float32
        In which rows are kept. Distances are those of the rows as kept.

    Attributes
    ----------
    rows : torch.Tensor of shape (n_stored, D)
        What was stored so far, in that order.

    Examples
    --------
    >>> stored = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> distance, index = NearestRows.from_rows(stored).query(torch.tensor([[3.0, 3.0]]))
    >>> distance.tolist(), index.tolist()
    ([1.0], [1])
    """

    def __init__(self, codes, capacity, dtype=torch.float32):
        self.codes = codes
        self.n_stored = 0
        self._rows = codes.mean_.new_empty(0, len(codes.mean_), dtype=dtype)
        self._codes = codes.mean_.new_empty(0, codes.n_codes + 1)  # and their squared length
        self._reserve(capacity)

    def _reserve(self, capacity):
        """Make room for ``capacity`` rows in all."""
        rows, codes = self._rows, self._codes
        padded = -(-capacity // CHUNK) * CHUNK
        self._rows = rows.new_empty(capacity, rows.shape[1])
        self._codes = codes.new_zeros(padded, codes.shape[1])
        self._rows[: self.n_stored] = rows[: self.n_stored]
        self._codes[: self.n_stored] = codes[: self.n_stored]

    @classmethod
    def from_rows(cls, rows, sample=None):
        """All of ``rows`` (N, D), stored, ready to be searched for rows like those of ``sample``.

        Results do not depend on the sample, only time does.
        """
        make = PrincipalCodes if sample is None else partial(PrincipalCodes.cheapest, sample=sample)
        return cls.from_state({"rows": rows, "codes": make(rows)})

    def to_state(self):
        """What :meth:`from_state` makes an equal one of."""
        return {"rows": self.rows, "codes": self.codes}

    @classmethod
    def from_state(cls, state):
        index = cls(state["codes"], len(state["rows"]), state["rows"].dtype)
        index.append(state["rows"])
        return index

    @property
    def rows(self):
        return self._rows[: self.n_stored]

    def append(self, rows, codes=None):
        """Store ``rows`` (n, D) behind those stored before."""
        place = slice(self.n_stored, self.n_stored + len(rows))
        if place.stop > len(self._rows):
            self._reserve(max(place.stop, len(self._rows) * 3 // 2))
        self._rows[place] = rows
        codes = self.codes.encode(self._rows[place]) if codes is None else codes
        self._codes[place, :-1] = codes
        self._codes[place, -1] = codes.square().sum(1)
        self.n_stored += len(rows)

    def query(self, rows, *, exclude=None):
        """Nearest stored row of each of ``rows``.

        Parameters
        ----------
        rows : torch.Tensor of shape (n, D)
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows that do not count, ascending.

        Returns
        -------
        distance : torch.Tensor of shape (n,)
            Euclidean, float64; infinite where no stored row counts.
        index : torch.Tensor of shape (n,)
            The lowest on exact ties; -1 where no stored row counts.
        """
        codes, nearest, index = self._start(rows)
        everyone = torch.arange(len(rows), device=rows.device)
        self._tighten_all(everyone, rows, codes, nearest, index, exclude=exclude)
        return nearest.sqrt_(), index

    def farthest(self, rows, n, *, exclude=None):
        """The ``n`` of ``rows`` that are farthest from their nearest stored row.

        The distance to the first few stored rows is an upper bound; more and more of them are
        looked at, for fewer and fewer of ``rows``: those that may be among the farthest. This is
        quick where the first stored rows cover the others, as those of a greedy coreset do.

        Parameters
        ----------
        rows : torch.Tensor of shape (N, D)
        n : int
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows that do not count, ascending.

        Returns
        -------
        position : torch.Tensor of shape (n,)
            Which of ``rows``, farthest first, the lower first on exact ties; all of them if there
            are fewer than ``n``.
        distance, index : torch.Tensor of shape (n,)
            As :meth:`query` gives them.
        """
        n = min(n, len(rows))
        codes, nearest, index = self._start(rows)
        _, queries = self._as_queries(codes)
        bound = nearest.float()  # no row is farther than this
        true = torch.zeros_like(index, dtype=torch.bool)  # rows whose distance is known
        active = torch.arange(len(rows), device=rows.device)  # rows that may be among the farthest
        first, last = 0, _COVER
        while len(active):
            if first < self.n_stored:
                near = self._probe(rows[active], queries[active], first, last, exclude)
                bound[active] = torch.minimum(bound[active], near)
                likely = active[bound[active].topk(min(max(n, _LIKELY), len(active))).indices]
            else:
                likely = active
            self._tighten_all(likely, rows, codes, nearest, index, exclude=exclude)
            true[likely] = True
            limit = nearest[true].topk(n).values[-1]
            active = (~true & (bound >= limit)).nonzero()[:, 0]
            first, last = last, 4 * last
        found = true.nonzero()[:, 0]
        found = found[nearest[found].argsort(descending=True, stable=True)[:n]]
        return found, nearest[found].sqrt_(), index[found]

    def _start(self, rows):
        """Codes of ``rows``, and distances and indices of which nothing is known yet."""
        nearest = rows.new_full((len(rows),), torch.inf, dtype=exact_dtype(rows.device))
        index = rows.new_full((len(rows),), -1, dtype=torch.int64)
        return self.codes.encode(rows), nearest, index

    def _tighten_all(self, some, rows, codes, nearest, index, *, exclude):
        """:meth:`tighten` for ``some`` of the rows, block by block."""
        for block in some.split(_ROWS):
            near, where = nearest[block], index[block]
            self.tighten(rows[block], codes[block], near, where, exclude=exclude)
            nearest[block], index[block] = near, where

    def _probe(self, rows, queries, first, last, exclude):
        """Upper bounds of the squared distances to the nearest of some stored rows."""
        bound = rows.new_full((len(rows),), torch.inf)
        everyone = torch.arange(len(rows), device=rows.device)
        for left, chunks, lowest in self._products(queries, first, last, exclude):
            promising = self._most_promising(rows, everyone, chunks, lowest, left)
            bound = torch.minimum(bound, promising)
        return bound

    def tighten(self, rows, codes, nearest, index=None, *, first=0, last=None, exclude=None):
        """Lower squared distances to the nearest stored row, in place.

        Parameters
        ----------
        rows : torch.Tensor of shape (n, D)
            A few hundred: 2048 * n products are held at once.
        codes : torch.Tensor of shape (n, n_codes)
        nearest : torch.Tensor of shape (n,)
            float64; squared distances so far, infinite for none.
        index : torch.Tensor of shape (n,) or None, default=None
            Which stored row it is, updated along.
        first : int, default=0
            Only rows stored from here on are considered, or up to 63 more before it: exactly from
            here on where it is a multiple of 64.
        last : int or None, default=None
            As ``first``, for the row behind the last. None: all.
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows that do not count, ascending.
        """
        squares, queries = self._as_queries(codes)
        bound = _product_bound(nearest, squares)
        pairs = _Pairs()
        last = self.n_stored if last is None else last
        for left, chunks, lowest in self._products(queries, first, last, exclude):
            hit = (lowest.amin(1) < bound).nonzero()[:, 0]
            if len(hit) == 0:
                continue
            # the most promising pair of each row first: it usually rules out the others
            near = self._most_promising(rows, hit, chunks, lowest, left)
            bound[hit] = torch.minimum(bound[hit], _product_bound(near, squares[hit]))
            promising = (lowest[hit] < bound[hit, None]).nonzero()
            for some in promising.split(_PAIRS // CHUNK):
                row, chunk = hit[some[:, 0]], some[:, 1]
                products = _gather(chunks, row, chunk)
                which, column = (products < bound[row, None]).nonzero().unbind(1)
                pairs.add(row[which], left + chunk[which] * CHUNK + column, products[which, column])
                if pairs.n_pairs > _PAIRS:
                    self._measure(rows, nearest, index, *pairs.take(bound))
                    bound = torch.minimum(bound, _product_bound(nearest, squares))
        if pairs.n_pairs:
            self._measure(rows, nearest, index, *pairs.take(bound))

    def _products(self, queries, first, last, exclude):
        """Products with stored codes, block by block: where it begins, chunks, their minima."""
        end = min(last, self.n_stored)
        start, end = first // CHUNK * CHUNK, -(-end // CHUNK) * CHUNK
        buffer = queries.new_empty(len(queries) * max(0, min(_STORED, end - start)))
        for left in range(start, end, _STORED):
            right = min(left + _STORED, end)
            products = buffer[: len(queries) * (right - left)].view(len(queries), -1)
            torch.mm(queries, self._codes[left:right].T, out=products)
            products[:, self.n_stored - left :] = torch.inf  # places not yet used
            if exclude is not None:
                hidden = exclude[(exclude >= left) & (exclude < right)] - left
                products.index_fill_(1, hidden, torch.inf)
            chunks = products.view(len(queries), -1, CHUNK)
            yield left, chunks, chunks.amin(2)

    def _most_promising(self, rows, some, chunks, lowest, left):
        """An upper bound of the nearest squared distance for ``some`` rows, from their best pair.

        Infinite where all of a row's pairs are excluded.
        """
        chunk = lowest[some].argmin(1)
        best = chunk * CHUNK + _gather(chunks, some, chunk).argmin(1)
        _, near = self._distance_bounds(rows, some, (left + best).clamp_max(self.n_stored - 1))
        return near.where(lowest[some, chunk].isfinite(), torch.inf)

    def _as_queries(self, codes):
        """Rows whose products with stored codes are squared code distances.

        But for ``squares``, which are to be added; the allowance for rounding is taken off both.
        """
        shrink = 1 - self.codes.slack
        squares = codes.square().sum(1) * shrink - _TINY
        queries = torch.cat([codes * -2, codes.new_full((len(codes), 1), shrink)], 1)
        return squares, queries

    def _measure(self, rows, nearest, index, row, stored):
        """Take true distances of pairs (row[i], stored[i]) into account."""
        n_pairs = max(1, _PAIR_VALUES // rows.shape[1])
        for row, stored in zip(row.split(n_pairs), stored.split(n_pairs), strict=True):  # noqa: B020
            low, high = self._distance_bounds(rows, row, stored)
            limit = nearest.float().scatter_reduce_(0, row, high, "amin")
            near = (low <= limit[row]).nonzero()[:, 0]
            row, stored = row[near], stored[near]
            distance = squared_distance(rows[row], self._rows[stored])
            if index is not None:
                before = nearest.clone()
            nearest.scatter_reduce_(0, row, distance, "amin")
            if index is not None:
                index[nearest < before] = len(self._rows)
                won = distance == nearest[row]
                index.scatter_reduce_(0, row[won], stored[won], "amin")

    def _distance_bounds(self, rows, row, stored):
        """What the squared distances of pairs lie between, by float32 differences."""
        rough = rows.index_select(0, row).sub_(self._rows.index_select(0, stored))
        rough = rough.square_().sum(1)
        error = (rows.shape[1] + 8) * 2.0**-23
        return rough * (1 - error) - _TINY, rough * (1 + error) + _TINY

    def k_nearest(self, rows, k, *, exclude=None):
        """The ``k`` nearest stored rows of each of ``rows``, nearest first.

        Parameters
        ----------
        rows : torch.Tensor of shape (n, D)
            A few: their distances to all stored rows are held at once.
        k : int
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows that do not count.

        Returns
        -------
        distance : list of n torch.Tensor of shape (<= k,)
            Euclidean, float64. Fewer than k only where fewer count.
        index : list of n torch.Tensor of shape (<= k,)
            The lower first on exact ties.
        """
        codes = self.codes.encode(rows)
        squares, queries = self._as_queries(codes)
        products = queries @ self._codes[: self.n_stored].T
        if exclude is not None:
            products.index_fill_(1, exclude, torch.inf)
        distances, indices = [], []
        for row, product, square in zip(rows, products, squares, strict=True):
            available = int(product.isfinite().sum())
            # an upper bound on the k-th distance: measure the k most promising rows
            likely = product.topk(min(k, available), largest=False).indices
            farthest = squared_distance(row, self._rows[likely]).amax() if available else -torch.inf
            near = (product <= _product_bound(farthest, square)).nonzero()[:, 0]
            true = squared_distance(row, self._rows[near])
            order = true.argsort(stable=True)[:k]
            distances.append(true[order].sqrt())
            indices.append(near[order])
        return distances, indices


def _gather(chunks, row, chunk):
    """``chunks[row, chunk]`` of (n, m, CHUNK), copied chunk by chunk, not number by number."""
    return chunks.flatten(0, 1).index_select(0, row * chunks.shape[1] + chunk)


class _Pairs:
    """Pairs of rows that may have to be measured, with the products that say so."""

    def __init__(self):
        self.n_pairs = 0
        self._parts = []

    def add(self, row, stored, product):
        self.n_pairs += len(row)
        self._parts.append((row, stored, product))

    def take(self, bound):
        """(row, stored) of those whose product is still below the row's bound; forgets all."""
        row, stored, product = (torch.cat(part) for part in zip(*self._parts, strict=True))
        self.__init__()
        near = product < bound[row]
        return row[near], stored[near]


def squared_distance(a, b):
    """Squared Euclidean distances along the last axis, in float64: the measure everything obeys.

    Differences are taken in float64 before squaring, so equal rows are at exactly 0.
    """
    dtype = exact_dtype(a.device)
    return a.to(dtype).sub(b.to(dtype)).square_().sum(-1)


def _product_bound(nearest, squares):
    """A pair whose product is above this is farther apart than ``nearest``, rounding included."""
    return (nearest - squares).float()
