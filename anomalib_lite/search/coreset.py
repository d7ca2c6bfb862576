"""Greedy k-center coresets: few rows that leave no row far from all of them.

The plain algorithm takes, again and again, the row farthest from those taken so far, and touches
all N rows for each pick. Distances to a growing set only ever fall, so an old distance is an upper
bound. :func:`greedy_coreset` therefore works in phases: it brings only the rows with the largest
bounds up to date (in blocked products against the picks each has not seen yet), then picks among
these for as long as the farthest of them is farther than any bound outside. Every pick is the one
the plain loop would make: squared distances in float64, the lowest index on ties.
"""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.random_projection import johnson_lindenstrauss_min_dim

from ..runtime import exact_dtype, make_generator, progress
from .nearest import MAX_COMPONENTS, NearestRows, PrincipalCodes, squared_distance

_CANDIDATES = 8000  # rows brought up to date in one phase
_BLOCK = 1024  # rows of one matrix product
_TAKEN = -1.0  # below every distance: a picked row is not picked again


def greedy_coreset(rows, n_keep, *, start=0, verbose=False):
    """Indices of a greedy k-center coreset.

    Parameters
    ----------
    rows : torch.Tensor of shape (N, D)
        float32.
    n_keep : int
        How many rows to keep, between 1 and N.
    start : int, default=0
        The first pick.
    verbose : bool, default=False
        Show progress.

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
    codes = PrincipalCodes(rows)
    row_codes = codes.encode(rows)
    picks = NearestRows(codes, n_keep)
    indices = torch.empty(n_keep, dtype=torch.int64, device=rows.device)
    indices[0] = start
    picks.append(rows[start : start + 1], row_codes[start : start + 1])

    gap = rows.new_empty(n_rows, dtype=exact_dtype(rows.device))
    # in place: small results kept between large temporaries would fragment the heap
    for block, its_gap in zip(rows.split(_BLOCK), gap.split(_BLOCK), strict=True):
        its_gap.copy_(squared_distance(block, rows[start]))
    gap[start] = _TAKEN
    seen = torch.ones(n_rows, dtype=torch.int64, device=rows.device)  # picks that gap accounts for
    with progress(total=n_keep, desc="coreset", verbose=verbose) as bar:
        bar.update(1)
        while picks.n_stored < n_keep:
            group, outside = _largest(gap, _CANDIDATES)
            _bring_up_to_date(group, rows, row_codes, gap, seen, picks)
            done = picks.n_stored
            chosen = _pick(group, outside, rows, gap, seen, n_keep - done)
            if len(chosen) == 0:
                continue
            indices[done : done + len(chosen)] = chosen
            picks.append(rows[chosen], row_codes[chosen])
            bar.update(len(chosen))
    return indices, _radius(rows, row_codes, gap, seen, picks)


def _largest(gap, n):
    """The rows with the ``n`` largest bounds and the (bound, row) that comes next.

    Order is by bound, then by lowest index; rows come ascending.
    """
    if n >= len(gap):
        return torch.arange(len(gap), device=gap.device), (-np.inf, len(gap))
    limit = gap.topk(n + 1, sorted=False).values.amin()
    above = (gap > limit).nonzero()[:, 0]
    level = (gap == limit).nonzero()[:, 0]
    n_level = n - len(above)
    group = torch.cat([above, level[:n_level]]).sort().values
    return group, (float(limit), int(level[n_level]))


def _bring_up_to_date(group, rows, row_codes, gap, seen, picks):
    """Make ``gap`` true for the rows of ``group``; those of like age share a matrix product."""
    group = group[seen[group] < picks.n_stored]
    if len(group) == 0:
        return
    group = group[seen[group].argsort(stable=True)]
    for block in group.split(_BLOCK):
        nearest = gap[block]
        first = int(seen[block[0]])
        picks.tighten(rows[block], row_codes[block], nearest, first=first)
        gap[block] = nearest
        seen[block] = picks.n_stored


def _pick(group, outside, rows, gap, seen, limit):
    """Pick greedily inside ``group`` while no row outside can be farther.

    Only rows that could be picked now are brought up to date with the new picks; the others wait
    for their next turn, as rows outside do.
    """
    limit_gap, limit_row = outside
    eligible = (gap[group] > limit_gap) | ((gap[group] == limit_gap) & (group < limit_row))
    group = group[eligible]
    positions = group.cpu().numpy()
    shared = gap[group].cpu()  # one memory for torch, which measures, and NumPy, which is quick
    gaps = shared.numpy()
    vectors = rows[group].to("cpu", exact_dtype(rows.device))
    chosen = []
    while len(gaps) and len(chosen) < limit:
        best = int(gaps.argmax())  # the first, hence lowest index, on ties
        if (gaps[best], -positions[best]) < (limit_gap, -limit_row):
            break
        chosen.append(best)
        torch.minimum(shared, squared_distance(vectors, vectors[best]), out=shared)
        gaps[best] = _TAKEN
    gap[group] = shared.to(gap.device)
    seen[group] += len(chosen)
    return group[torch.tensor(chosen, dtype=torch.int64, device=group.device)]


def _radius(rows, row_codes, gap, seen, picks):
    """Largest distance to the nearest pick: the gap of the pick that would come next."""
    while True:
        group, (limit_gap, _) = _largest(gap, _CANDIDATES)
        _bring_up_to_date(group, rows, row_codes, gap, seen, picks)
        largest = float(gap[group].max())
        if largest >= limit_gap:
            return max(largest, 0.0) ** 0.5


# -- how much, from what ---------------------------------------------------------------------------


def coreset_size(keep, n_rows, *, name="coreset"):
    """Number of rows to keep: ``keep`` is a share in (0, 1] or a count.

    Raises ValueError, blaming the parameter ``name``, if it is neither.

    Examples
    --------
    >>> coreset_size(0.1, 1000), coreset_size(64, 1000), coreset_size(64, 10)
    (100, 64, 10)
    """
    if isinstance(keep, Integral) and not isinstance(keep, bool) and keep >= 1:
        return min(int(keep), n_rows)
    if isinstance(keep, Real) and not isinstance(keep, Integral) and 0 < keep <= 1:
        return max(1, round(keep * n_rows))
    raise ValueError(
        f"{name}: expected a share in (0, 1] as a float or a count of at least 1 as an int, "
        f"got {keep!r}."
    )


def coreset_row_bytes(n_features):
    """Bytes a row takes while a coreset is chosen among many.

    Itself, what is kept beside it, and a quarter more for what passes and what the allocator keeps.
    """
    code, gap, seen = min(MAX_COMPONENTS, n_features) + 1, 2, 2
    return 5 * (n_features + code + gap + seen)


def select_coreset(rows, keep, *, generator, projection="auto", verbose=False):
    """A greedy coreset from a random start, picked in a random projection where rows are wide.

    Parameters
    ----------
    rows : torch.Tensor of shape (N, D)
    keep : float or int
        Share in (0, 1], or count.
    generator : torch.Generator
        On the CPU; draws the start and the projection.
    projection : "auto", int or None, default="auto"
        Length of the Gaussian random projection in which rows are picked. "auto" is the
        Johnson-Lindenstrauss length for distortion 0.9 where that at least halves D, and no
        projection where it does not. None picks by the distances of the rows themselves.
    verbose : bool, default=False

    Returns
    -------
    indices : torch.Tensor of shape (n_keep,)
    radius : float
        Largest Euclidean distance of any row to its nearest pick, of the rows themselves.
    """
    check_projection(projection)
    n_rows, n_features = rows.shape
    n_keep = coreset_size(keep, n_rows)
    start = int(torch.randint(n_rows, (1,), generator=generator, device="cpu"))
    if projection == "auto":
        length = int(johnson_lindenstrauss_min_dim(max(n_rows, 2), eps=0.9))
        projection = length if 2 * length <= n_features else None
    if projection is None or projection >= n_features:
        return greedy_coreset(rows, n_keep, start=start, verbose=verbose)
    matrix = torch.randn(n_features, projection, generator=generator, device="cpu")
    projected = rows @ matrix.div_(projection**0.5).to(rows.device)
    indices, _ = greedy_coreset(projected, n_keep, start=start, verbose=verbose)
    distance, _ = NearestRows.from_rows(rows[indices]).query(rows)
    return indices, float(distance.max())


def check_projection(projection):
    """Raise ValueError unless ``projection`` is "auto", None or a positive int."""
    is_count = isinstance(projection, Integral) and not isinstance(projection, bool)
    if not (projection is None or projection == "auto" or (is_count and projection >= 1)):
        raise ValueError(
            f"projection: expected 'auto', None or a positive int, got {projection!r}."
        )


def merge_coresets(parts, keep, *, generator, verbose=False):
    """Coreset of the union of coresets of parts.

    Every row of every part is within that part's radius of its coreset, and that within the
    returned radius of the merged one: the merged coreset covers all parts within the sum of the
    largest part radius and the returned radius.

    Parameters
    ----------
    parts : list of torch.Tensor of shape (n_i, D)
    keep : float or int
        Share of the union, or count.
    generator, verbose
        As in :func:`select_coreset`, which picks here without a projection.

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
    return select_coreset(rows, keep, generator=generator, projection=None, verbose=verbose)


class GreedyCoreset(BaseEstimator):
    """Greedy k-center sampler over the rows of a table.

    Parameters
    ----------
    keep : float or int, default=0.1
        Share of the rows in (0, 1], or their count.
    projection : "auto", int or None, default="auto"
        See :func:`select_coreset`.
    random_state : None, int, RandomState or Generator, default=None
        Draws the first pick and the projection.
    verbose : bool, default=False

    Attributes
    ----------
    indices_ : ndarray of shape (n_keep,)
        Rows kept, in the order of picking.
    radius_ : float
        Largest Euclidean distance of any row to its nearest kept row.

    Examples
    --------
    >>> table = np.random.default_rng(0).normal(size=(500, 8))
    >>> sampler = GreedyCoreset(20, random_state=0)
    >>> sampler.fit_transform(table).shape
    (20, 8)
    """

    def __init__(self, keep=0.1, *, projection="auto", random_state=None, verbose=False):
        self.keep = keep
        self.projection = projection
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Choose rows of ``X`` (n_samples, n_features)."""
        coreset_size(self.keep, 1, name="keep")
        rows = X if isinstance(X, torch.Tensor) else torch.tensor(np.asarray(X, np.float32))
        if rows.ndim != 2 or len(rows) == 0:
            raise ValueError(f"X: expected rows (n_samples, n_features), got {tuple(rows.shape)}.")
        if not torch.isfinite(rows).all():
            raise ValueError("X: holds NaN or infinity.")
        indices, self.radius_ = select_coreset(
            rows.float(),
            self.keep,
            generator=make_generator(self.random_state),
            projection=self.projection,
            verbose=self.verbose,
        )
        self.indices_ = indices.cpu().numpy()
        return self

    def fit_transform(self, X, y=None):
        """The chosen rows themselves."""
        rows = X if isinstance(X, torch.Tensor) else np.asarray(X)
        return rows[self.fit(rows).indices_]
