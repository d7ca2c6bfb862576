"""Exact nearest rows, fast, in blocks, without ever holding a full distance matrix.

A distance between rows is bounded from below by the distance between their *codes*: the leading
principal components, plus the length of what they leave out as one more coordinate (the triangle
inequality on the rest). Products of short codes rule almost every pair out; only pairs that may
still matter are measured, row against row, in float64. The result is therefore the true nearest
row and its distance, not one that a rounded matrix product prefers.
"""

import torch

MAX_COMPONENTS = 128  # of a code, unless more are asked for
_CHUNK = 64  # neighbouring products that are scanned by their minimum only
_ROWS, _STORED = 784, 2048  # one block of products: 6 MB of float32
_PAIR_VALUES = 2**22  # float64 values measured at once: 32 MB
# unit roundoff of float32 matrix products under torch.set_float32_matmul_precision
_ROUNDOFF = {"highest": 2.0**-24, "high": 2.0**-11, "medium": 2.0**-8}
_TINY = 1e-30  # keeps exact ties when every row is the same


class PrincipalCodes:
    """Short codes whose distances never exceed the distances of the rows they stand for.

    Parameters
    ----------
    rows : torch.Tensor of shape (N, D)
        float32. They set the centre and the principal components; any rows can be encoded.
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
            centred = block - self.mean_
            scatter += (centred.T @ centred).cpu().double()
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
            out = rows.new_empty(len(rows), self.n_codes)
        for block, code in zip(rows.split(8192), out.split(8192), strict=True):
            centred = block - self.mean_
            leading = centred @ self.components_
            # measured on the remainder itself: a difference of squared lengths would cancel
            rest = centred.addmm_(leading, self.components_.T, alpha=-1)
            code[:, :-1] = leading
            torch.linalg.vector_norm(rest, dim=1, out=code[:, -1])
        return out


class NearestRows:
    """The nearest of a growing set of stored rows, for any rows.

    Parameters
    ----------
    codes : PrincipalCodes
    capacity : int
        How many rows there will be room for.

    Attributes
    ----------
    rows : torch.Tensor of shape (n_stored, D)
        What was stored so far, in that order.

    Examples
    --------
    >>> stored = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    >>> distance, index = NearestRows.over(stored).query(torch.tensor([[3.0, 3.0]]))
    >>> distance.tolist(), index.tolist()
    ([1.0], [1])
    """

    def __init__(self, codes, capacity):
        self.codes = codes
        padded = -(-capacity // _CHUNK) * _CHUNK
        like = {"dtype": torch.float32, "device": codes.mean_.device}
        self.n_stored = 0
        self._rows = torch.empty(capacity, len(codes.mean_), **like)
        self._codes = torch.zeros(padded, codes.n_codes, **like)
        # an unused place is infinitely far from everything
        self._squares = torch.full((padded,), torch.inf, **like)

    @classmethod
    def over(cls, rows, n_components=None):
        """All of ``rows`` (N, D), stored."""
        return cls.from_state({"rows": rows, "codes": PrincipalCodes(rows, n_components)})

    def to_state(self):
        """What :meth:`from_state` makes an equal one of."""
        return {"rows": self.rows, "codes": self.codes}

    @classmethod
    def from_state(cls, state):
        index = cls(state["codes"], len(state["rows"]))
        index.append(state["rows"])
        return index

    @property
    def rows(self):
        return self._rows[: self.n_stored]

    def append(self, rows, codes=None):
        """Store ``rows`` (n, D) behind those stored before."""
        place = slice(self.n_stored, self.n_stored + len(rows))
        self._rows[place] = rows
        self._codes[place] = self.codes.encode(rows) if codes is None else codes
        self._squares[place] = self._codes[place].square().sum(1)
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
        nearest = rows.new_full((len(rows),), torch.inf, dtype=exact_dtype(rows.device))
        index = rows.new_full((len(rows),), -1, dtype=torch.int64)
        codes = self.codes.encode(rows)
        for start in range(0, len(rows), _ROWS):
            block = slice(start, start + _ROWS)
            self.tighten(rows[block], codes[block], nearest[block], index[block], exclude=exclude)
        return nearest.sqrt_(), index

    def tighten(self, rows, codes, nearest, index=None, *, first=0, exclude=None):
        """Lower squared distances to the nearest stored row, in place.

        Parameters
        ----------
        rows : torch.Tensor of shape (n, D), n <= 784
        codes : torch.Tensor of shape (n, n_codes)
        nearest : torch.Tensor of shape (n,)
            float64; squared distances so far, infinite for none.
        index : torch.Tensor of shape (n,) or None, default=None
            Which stored row it is, updated along.
        first : int, default=0
            Only rows stored from here on are considered (or a few more before it).
        exclude : torch.Tensor of int64 or None, default=None
            Stored rows that do not count, ascending.
        """
        slack = self.codes.slack
        squares = codes.square().sum(1) * (1 - slack) - _TINY
        bound = _product_bound(nearest, squares)
        end = -(-self.n_stored // _CHUNK) * _CHUNK
        buffer = codes.new_empty(len(codes) * min(_STORED, max(end, _CHUNK)))
        for left in range(first // _CHUNK * _CHUNK, end, _STORED):
            right = min(left + _STORED, end)
            products = buffer[: len(codes) * (right - left)].view(len(codes), -1)
            # squared code distance, less the row's own squared length and the allowance
            stored_squares = self._squares[left:right] * (1 - slack)
            torch.addmm(stored_squares, codes, self._codes[left:right].T, alpha=-2, out=products)
            if exclude is not None:
                hidden = exclude[(exclude >= left) & (exclude < right)] - left
                products.index_fill_(1, hidden, torch.inf)
            chunks = products.view(len(codes), -1, _CHUNK)
            lowest = chunks.amin(2)
            promising, chunk = lowest.min(1)
            hit = (promising < bound).nonzero()[:, 0]
            if len(hit) == 0:
                continue
            # the most promising pair of each row first: it usually rules out the others
            best = chunk[hit] * _CHUNK + chunks[hit, chunk[hit]].argmin(1)
            self._measure(rows, nearest, index, hit, best + left)
            bound[hit] = _product_bound(nearest[hit], squares[hit])
            pair = (lowest[hit] < bound[hit, None]).nonzero()
            row, chunk = hit[pair[:, 0]], pair[:, 1]
            pair = (chunks[row, chunk] < bound[row, None]).nonzero()
            row, column = row[pair[:, 0]], chunk[pair[:, 0]] * _CHUNK + pair[:, 1]
            self._measure(rows, nearest, index, row, column + left)
            bound[hit] = _product_bound(nearest[hit], squares[hit])

    def _measure(self, rows, nearest, index, row, stored):
        """Take true distances of pairs (row[i], stored[i]) into account."""
        n_pairs = max(1, _PAIR_VALUES // rows.shape[1])
        for row, stored in zip(row.split(n_pairs), stored.split(n_pairs), strict=True):  # noqa: B020
            distance = squared_distance(rows[row], self._rows[stored])
            if index is not None:
                before = nearest.clone()
            nearest.scatter_reduce_(0, row, distance, "amin")
            if index is not None:
                index[nearest < before] = len(self._rows)
                won = distance == nearest[row]
                index.scatter_reduce_(0, row[won], stored[won], "amin")

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
        slack = self.codes.slack
        codes = self.codes.encode(rows)
        squares = codes.square().sum(1) * (1 - slack) - _TINY
        stored_codes, stored_squares = self._codes[: self.n_stored], self._squares[: self.n_stored]
        products = torch.addmm(stored_squares * (1 - slack), codes, stored_codes.T, alpha=-2)
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


def squared_distance(a, b):
    """Squared Euclidean distances along the last axis, in float64: the measure everything obeys.

    Differences are taken in float64 before squaring, so equal rows are at exactly 0.
    """
    dtype = exact_dtype(a.device)
    return a.to(dtype).sub(b.to(dtype)).square_().sum(-1)


def exact_dtype(device):
    """float64, except on MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def _product_bound(nearest, squares):
    """A pair whose product is above this is farther apart than ``nearest``, rounding included."""
    return (nearest - squares).float()
