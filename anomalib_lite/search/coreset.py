"""Greedy k-center coresets: few rows that leave no row far from all of them.

The plain algorithm repeatedly picks the row farthest from all earlier picks, and touches all N rows
for each pick. Distances to a growing set only fall, so an old distance is an upper bound.
:func:`greedy_coreset` therefore works in phases: it brings only the rows with the largest bounds up
to date (in blocked products with the picks that each has not seen yet), then picks among these
while the farthest of them is farther than any bound outside. Every pick is that of the plain
algorithm: squared distances in float64, the lowest index on ties.
"""

from numbers import Integral, Real
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from ..annotations import RandomState
from ..contexts import plain
from ..runtime import check_has_values, exact_dtype, make_generator, normal, progress
from ..workers import FEW, map_on, team
from .codes import MAX_COMPONENTS, PrincipalCodes
from .distance import squared_distance
from .nearest import NearestRows, in_large_steps
from .queries import Queries

_CANDIDATES = 1000, 8000  # rows brought up to date in one phase: an eighth of all, within these
_BLOCK = 1024  # rows of one matrix product
_ROUND = 200  # picks, after which the candidates are looked through anew
_PICKS_OF_A_PASS = 10, 1200  # in the time of one pass: at first, and in the end
_TAKEN = -1.0  # below every distance: a picked row is not picked again


@plain
def greedy_coreset(
    rows: torch.Tensor, n_keep: int, *, start: int = 0, verbose: bool = False
) -> tuple[torch.Tensor, float]:
    """Indices of a greedy k-center coreset.

    Parameters
    ----------
    rows : torch.Tensor of shape (N, D)
        float32.
    n_keep : int
        Number of rows to keep, between 1 and N.
    start : int, default=0
        The first pick.
    verbose : bool, default=False
        Show progress bars.

    Returns
    -------
    indices : torch.Tensor of shape (n_keep,)
        In the order of picking, all different. The first k of them are the coreset of size k.
    radius : float
        Largest Euclidean distance of any row to its nearest pick; at most twice the smallest
        possible with this many picks.

    References
    ----------
    T. F. Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
    Computer Science 38 (1985).

    Examples
    --------
    >>> line = torch.tensor([[0.0], [1.0], [5.0], [9.0], [10.0]])
    >>> indices, radius = greedy_coreset(line, 3)
    >>> indices.tolist(), radius
    ([0, 4, 2], 1.0)
    """
    n_rows = len(rows)
    if not 1 <= n_keep <= n_rows:
        raise ValueError(f"n_keep: expected 1 to {n_rows} (the number of rows), got {n_keep}.")
    if not 0 <= start < n_rows:
        raise ValueError(f"start: expected a row, 0 to {n_rows - 1}, got {start}.")
    with team(), progress(total=100, desc="coreset, %", verbose=verbose) as bar:
        cover, n_candidates = _Cover(rows, n_keep, start), _n_candidates(n_rows)
        while cover.n_picks < n_keep:
            candidates, outside = cover.farthest(n_candidates)
            cover.update(candidates)
            cover.pick(candidates, outside, n_keep)
            bar.update(int(100 * _share_done(cover.n_picks, n_keep)) - bar.n)
        return cover.indices, cover.radius()


def _share_done(n_picks, n_keep):
    """Roughly, the share of the time for ``n_keep`` picks that the first ``n_picks`` take.

    A pass over all rows makes few picks at first, later a number that grows with those made before.
    In the end the products of all rows with all picks count.
    """

    def work(n):
        few, many = _PICKS_OF_A_PASS
        return np.log1p(n / few) + n / many

    return work(n_picks) / work(n_keep)


def _n_candidates(n_rows):
    least, most = _CANDIDATES
    return min(max(n_rows // 8, least), most)


class _Cover:
    """Rows, the picks made among them, and how far each row is from its nearest pick at most.

    Parameters
    ----------
    rows : torch.Tensor of shape (N, D)
    capacity : int
        Number of picks to make.
    start : int
        The first pick.

    Attributes
    ----------
    indices : torch.Tensor of shape (capacity,)
        The picks; the first ``n_picks`` are made.
    gap : torch.Tensor of shape (N,)
        Squared distance of each row to the nearest of the first ``seen`` picks: an upper bound of
        its distance to all of them. ``_TAKEN`` for picks.
    seen : torch.Tensor of shape (N,)
    """

    def __init__(self, rows, capacity, start):
        codes = PrincipalCodes(rows)
        self.rows, self.queries = rows, Queries(codes, rows)
        self.picks = NearestRows(codes, capacity)
        self.indices = torch.empty(capacity, dtype=torch.int64, device=rows.device)
        self.gap = rows.new_empty(len(rows), dtype=exact_dtype(rows.device))
        self._measure_from(start)
        self._take(torch.tensor([start], device=rows.device))
        self.seen = torch.ones(len(rows), dtype=torch.int32, device=rows.device)

    def _measure_from(self, start):
        """The first gaps."""

        def measure(block):
            rows, gap = block
            # in place: small results kept between large temporaries would fragment the heap
            gap.copy_(squared_distance(rows, self.rows[start]))

        blocks = zip(self.rows.split(_BLOCK), self.gap.split(_BLOCK), strict=True)
        map_on(self.rows.device, measure, blocks, at_once=FEW)
        self.gap[start] = _TAKEN

    @property
    def n_picks(self):
        return self.picks.n_stored

    def _take(self, chosen):
        self.indices[self.n_picks : self.n_picks + len(chosen)] = chosen
        self.picks.append(self.rows[chosen], self.queries.codes(chosen))

    def farthest(self, n):
        """The rows with the ``n`` largest gaps, ascending, and the (gap, row) that comes next.

        Order is by gap, then by lowest index.
        """
        gap = self.gap
        if n >= len(gap):
            return torch.arange(len(gap), device=gap.device), (-np.inf, len(gap))
        limit = gap.topk(n + 1, sorted=False).values.amin()
        above = (gap > limit).nonzero()[:, 0]
        level = (gap == limit).nonzero()[:, 0]
        n_level = n - len(above)
        group = torch.cat([above, level[:n_level]]).sort().values
        return group, (float(limit), int(level[n_level]))

    def update(self, group):
        """Make the gaps of some rows exact."""
        group = group[self.seen[group] < self.n_picks]
        if len(group) == 0:
            return
        group = group[self.seen[group].argsort(stable=True)]  # rows of like age share a product
        size = len(group) if in_large_steps(group.device) else _BLOCK
        map_on(group.device, self._update, group.split(size), at_once=FEW)

    def _update(self, block):
        """Make the gaps of a block of rows exact, the oldest first."""
        gap, unseen = self.gap[block], (int(self.seen[block[0]]), self.n_picks)
        self.picks.tighten(self.queries.take(block), gap, ranges=[unseen])
        self.gap[block] = gap
        self.seen[block] = self.n_picks

    def pick(self, group, outside, n_keep):
        """Pick greedily inside ``group`` while no row outside can be farther, up to ``n_keep``."""
        aim = self.n_picks
        while aim == self.n_picks < n_keep:
            aim = min(aim + _ROUND, n_keep)
            group = self._pick_some(group, outside, aim - self.n_picks)

    def _pick_some(self, group, outside, limit):
        """Make some picks; gives the rows that could be picked before.

        Only these are brought up to date with the new picks. The others wait for a later phase, as
        rows outside do.
        """
        limit_gap, limit_row = outside
        gap = self.gap[group]
        group = group[(gap > limit_gap) | ((gap == limit_gap) & (group < limit_row))]
        positions = group.cpu().numpy()
        shared = self.gap[group].cpu()  # one memory for torch, which measures, and NumPy
        gaps = shared.numpy()
        vectors = self.rows[group].to("cpu", exact_dtype(self.rows.device))
        apart, squares = torch.empty_like(vectors), torch.empty_like(shared)
        chosen = []
        while len(gaps) and len(chosen) < limit:
            best = int(gaps.argmax())  # the first, hence lowest index, on ties
            if gaps[best] < limit_gap or (gaps[best] == limit_gap and positions[best] > limit_row):
                break
            chosen.append(best)
            # squared_distance, in memory that is there
            torch.sub(vectors, vectors[best], out=apart)
            torch.sum(apart.square_(), -1, out=squares)
            torch.minimum(shared, squares, out=shared)
            gaps[best] = _TAKEN
        self.gap[group] = shared.to(self.gap.device)
        self.seen[group] += len(chosen)
        if chosen:
            self._take(group[torch.tensor(chosen, device=group.device)])
        return group

    def radius(self):
        """Largest distance to the nearest pick: the gap of the pick that would come next."""
        while True:
            group, (limit_gap, _) = self.farthest(_n_candidates(len(self.gap)))
            self.update(group)
            largest = float(self.gap[group].max())
            if largest >= limit_gap:
                return max(largest, 0.0) ** 0.5


# -- sizes and projections ------------------------------------------------------------------------


def coreset_size(coreset: float, n_rows: int) -> int:
    """Number of rows in a ``coreset`` given as a share in (0, 1] or as a count.

    Raises ValueError if it is neither.

    Examples
    --------
    >>> coreset_size(0.1, 1000), coreset_size(64, 1000), coreset_size(64, 10)
    (100, 64, 10)
    """
    if isinstance(coreset, Integral) and not isinstance(coreset, bool) and coreset >= 1:
        return min(int(coreset), n_rows)
    if isinstance(coreset, Real) and not isinstance(coreset, Integral) and 0 < coreset <= 1:
        return max(1, round(coreset * n_rows))
    raise ValueError(
        "coreset: expected a share in (0, 1] as a float or a count of at least 1 as an int, "
        f"got {coreset!r}."
    )


def coreset_row_bytes(n_features: int) -> int:
    """Bytes that a row takes while a coreset is selected from many.

    Itself, its code and gap, and a quarter more for temporaries and the allocator.
    """
    code, gap, seen = min(MAX_COMPONENTS, n_features) + 3, 2, 1
    return 5 * (n_features + code + gap + seen)


@plain
def select_coreset(
    rows: torch.Tensor,
    coreset: float,
    *,
    generator: torch.Generator,
    projection: str | int | None = "auto",
    verbose: bool = False,
) -> tuple[torch.Tensor, float]:
    """A greedy coreset from a random start, picked in a random projection where rows are wide.

    Parameters
    ----------
    rows : torch.Tensor of shape (N, D)
    coreset : float or int
        Share of the rows to keep, in (0, 1], or their count.
    generator : torch.Generator
        On the CPU; draws the start and the projection.
    projection : "auto", int or None, default="auto"
        Length of the Gaussian random projection in which rows are picked. "auto" is the
        Johnson-Lindenstrauss length for distortion 0.9 where that at least halves D, and no
        projection where it does not. None picks by the distances of the rows themselves.
    verbose : bool, default=False
        Show progress bars.

    Returns
    -------
    indices : torch.Tensor of shape (n_keep,)
    radius : float
        Largest Euclidean distance of any row to its nearest pick, of the rows themselves.
    """
    check_projection(projection)
    n_rows, n_features = rows.shape
    n_keep = coreset_size(coreset, n_rows)
    start = int(torch.randint(n_rows, (1,), generator=generator, device="cpu"))
    if projection == "auto":
        length = int(johnson_lindenstrauss_min_dim(max(n_rows, 2), eps=0.9))
        projection = length if 2 * length <= n_features else None
    if projection is None or projection >= n_features:
        return greedy_coreset(rows, n_keep, start=start, verbose=verbose)
    matrix = normal((n_features, projection), generator)
    projected = rows @ matrix.div_(projection**0.5).to(rows.device)
    indices, _ = greedy_coreset(projected, n_keep, start=start, verbose=verbose)
    distance, _ = NearestRows.from_rows(rows[indices]).query(rows)
    return indices, float(distance.max())


def check_projection(projection: object) -> None:
    """Raise ValueError unless ``projection`` is "auto", None or a positive int."""
    is_count = isinstance(projection, Integral) and not isinstance(projection, bool)
    if not (projection is None or projection == "auto" or (is_count and projection >= 1)):
        raise ValueError(
            f"projection: expected 'auto', None or a positive int, got {projection!r}."
        )


def merge_coresets(
    parts: list[torch.Tensor],
    coreset: float,
    *,
    generator: torch.Generator,
    verbose: bool = False,
) -> tuple[torch.Tensor, float]:
    """A greedy coreset of the union of several coresets.

    Every row of a part is within that part's radius of its coreset, and each row of that coreset
    within the returned radius of the merged one: the merged coreset covers all parts within the sum
    of the largest part radius and the returned radius.

    Parameters
    ----------
    parts : list of torch.Tensor of shape (n_i, D)
    coreset : float or int
        Share of the rows of the union to keep, in (0, 1], or their count.
    generator, verbose
        As for :func:`select_coreset`; rows are picked without a projection.

    Returns
    -------
    indices : torch.Tensor of shape (n_keep,)
        Into the concatenation of ``parts``.
    radius : float

    Examples
    --------
    >>> parts = [torch.tensor([[0.0], [4.0]]), torch.tensor([[4.1], [9.0]])]
    >>> indices, radius = merge_coresets(parts, 3, generator=make_generator(0))
    >>> len(indices), radius < 0.2
    (3, True)
    """
    rows = torch.cat(parts)
    return select_coreset(rows, coreset, generator=generator, projection=None, verbose=verbose)


class GreedyCoreset(BaseEstimator):
    """Greedy k-center selection of rows of a table.

    Parameters
    ----------
    coreset : float or int, default=0.1
        Share of the rows to keep, in (0, 1], or their count.
    projection : "auto", int or None, default="auto"
        Random projection in which the coreset is selected; see :func:`select_coreset`.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the first pick and the projection.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    indices_ : ndarray of shape (n_keep,)
        The selected rows, in the order of picking.
    radius_ : float
        Largest Euclidean distance of any row to the nearest selected row.

    Examples
    --------
    >>> table = np.random.default_rng(0).normal(size=(500, 8))
    >>> sampler = GreedyCoreset(20, random_state=0)
    >>> sampler.fit_transform(table).shape
    (20, 8)
    """

    def __init__(
        self,
        coreset: float = 0.1,
        *,
        projection: str | int | None = "auto",
        n_jobs: int | None = None,
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.coreset = coreset
        self.projection = projection
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @plain
    def fit(self, X: ArrayLike | torch.Tensor, y: object = None) -> Self:
        """Select rows of ``X`` (n_samples, n_features)."""
        coreset_size(self.coreset, 1)
        check_has_values(X)
        rows = X if isinstance(X, torch.Tensor) else torch.tensor(np.asarray(X, np.float32))
        if rows.ndim != 2 or len(rows) == 0:
            raise ValueError(f"X: expected rows (n_samples, n_features), got {tuple(rows.shape)}.")
        if not torch.isfinite(rows).all():
            raise ValueError("X: holds NaN or infinity.")
        with team(self.n_jobs):
            indices, self.radius_ = select_coreset(
                rows.float(),
                self.coreset,
                generator=make_generator(self.random_state),
                projection=self.projection,
                verbose=self.verbose,
            )
        self.indices_ = indices.cpu().numpy()
        return self

    def fit_transform(
        self, X: ArrayLike | torch.Tensor, y: object = None
    ) -> np.ndarray | torch.Tensor:
        """The selected rows of ``X``, in the order of picking."""
        rows = X if isinstance(X, torch.Tensor) else np.asarray(X)
        return rows[self.fit(rows).indices_]
