"""Patches that do not belong: their local outlier factors among the patches of other images."""

from typing import NamedTuple, Self

import torch

from ..ranking import count_of_share
from ..runtime import exact_dtype
from ..workers import FEW, map_on

POSITIONS = ("aligned", "free")
N_NEIGHBORS = 6
_MOST_FEATURES = 128  # of rows whose factors are measured; more are projected at random
_REFERENCE = 4096  # patches, drawn at random, among which neighbors at any position are sought
_AT_ONCE = 1024  # rows whose distances are in memory together
_FLOOR = 0.01  # of the mean distance of neighbors: smaller ones tell nothing
_LEAST = 1e-10  # a distance


def belonging(images: torch.Tensor, contamination: float, positions: str) -> torch.Tensor | None:
    """Patches to learn from, of images some of which may be defective.

    Parameters
    ----------
    images : torch.Tensor of shape (n, P, D)
        Rows of patches.
    contamination : float
        Share of all patches that are left out: those with the highest local outlier factors, if
        these are above 1.
    positions : {"aligned", "free"}
        See :func:`aligned_outlier_factors` and :func:`free_outlier_factors`.

    Returns
    -------
    kept : torch.Tensor of shape (n, P), bool, or None
        None: all.

    Examples
    --------
    >>> images = torch.arange(8.0).view(8, 1, 1)
    >>> images[7] = 20
    >>> belonging(images, 0.2, "aligned")[:, 0].tolist()
    [True, True, True, True, True, True, True, False]
    """
    n_left_out = count_of_share(contamination, images.shape[0] * images.shape[1])
    if n_left_out == 0:
        return None
    measure = aligned_outlier_factors if positions == "aligned" else free_outlier_factors
    factors = measure(images).flatten()
    kept = torch.ones_like(factors, dtype=torch.bool)
    kept[factors.topk(n_left_out).indices] = False
    return (kept | (factors <= 1)).unflatten(0, images.shape[:2])


def aligned_outlier_factors(images: torch.Tensor, n_neighbors: int = N_NEIGHBORS) -> torch.Tensor:
    """How outlying each patch is among those at its position in the other images.

    The local outlier factor: the mean density around a patch's nearest neighbors over the density
    around itself, about 1 where it belongs, more where it does not.

    Parameters
    ----------
    images : torch.Tensor of shape (n, P, D)
        Rows of patches, position by position.
    n_neighbors : int, default=6
        Or all other images, where they are fewer.

    Returns
    -------
    factors : torch.Tensor of shape (n, P)
        float32; 1 for a single image.

    Examples
    --------
    >>> images = torch.arange(8.0).view(8, 1, 1)
    >>> images[7] = 20
    >>> factors = aligned_outlier_factors(images, 2)
    >>> int(factors.argmax()), bool(factors[7] > 5)
    (7, True)
    """
    n, n_positions = images.shape[:2]
    if n == 1:
        return torch.ones(1, n_positions, device=images.device)
    projection, owners = _projection(images), torch.arange(n, device=images.device)
    dtype = exact_dtype(images.device)

    def search(position):
        rows = _projected(images[:, position], projection).to(dtype)
        rows = rows - rows.mean(0)
        return _Neighborhoods.of(rows, owners, rows, owners, n_neighbors)

    found = map_on(images.device, search, range(n_positions))
    least = _least_distance(torch.stack([each.distances for each in found]))
    return torch.stack([each.factors(each, least) for each in found], 1).float()


def free_outlier_factors(images: torch.Tensor, n_neighbors: int = N_NEIGHBORS) -> torch.Tensor:
    """How outlying each patch is among those of other images, wherever they are.

    As :func:`aligned_outlier_factors`, but neighbors are sought in a random sample of all patches,
    those of the image itself left out.

    Parameters
    ----------
    images : torch.Tensor of shape (n, P, D)
        Rows of patches.
    n_neighbors : int, default=6
        Or all patches of the sample, where they are fewer.

    Returns
    -------
    factors : torch.Tensor of shape (n, P)
        float32; 1 for a single image.
    """
    n, n_positions = images.shape[:2]
    if n == 1:
        return torch.ones(1, n_positions, device=images.device)
    projection, device = _projection(images), images.device
    # the same number of each image, so that there are enough of others
    generator = torch.Generator().manual_seed(0)
    per_image = min(n_positions, max(2, -(-_REFERENCE // n)))
    drawn = torch.rand(n, n_positions, generator=generator, dtype=torch.float32, device="cpu")
    places = drawn.argsort(1)[:, :per_image].to(device)
    owners = torch.arange(n, device=device)
    sample = _projected(images[owners[:, None], places].flatten(0, 1), projection)
    center, sample_owners = sample.mean(0), owners.repeat_interleave(per_image)
    sample -= center
    n_neighbors = min(n_neighbors, len(sample) - per_image)

    def search(rows, own):
        return _Neighborhoods.of(rows, own, sample, sample_owners, n_neighbors)

    parts = zip(sample.split(_AT_ONCE), sample_owners.split(_AT_ONCE), strict=True)
    known = _Neighborhoods.joined(map_on(device, lambda part: search(*part), parts, at_once=FEW))
    least = _least_distance(known.distances)

    def measure(image):
        rows = _projected(images[image], projection) - center
        return search(rows, owners[image].expand(len(rows))).factors(known, least)

    return torch.stack(map_on(device, measure, range(n), at_once=FEW)).float()


class _Neighborhoods(NamedTuple):
    """Distances (n, k) of rows to their nearest ones of a sample, nearest first, and which."""

    distances: torch.Tensor
    indices: torch.Tensor

    @classmethod
    def of(cls, rows, owners, sample, sample_owners, n_neighbors) -> Self:
        """Among rows (m, D) of a sample that have other owners."""
        n_neighbors = min(n_neighbors, len(sample) - 1)
        found = []
        for some, own in zip(rows.split(_AT_ONCE), owners.split(_AT_ONCE), strict=True):
            squares = _squares(some, sample)
            squares[own[:, None] == sample_owners] = torch.inf
            found.append(squares.topk(n_neighbors, dim=1, largest=False))
        return cls(
            torch.cat([each.values for each in found]).clamp_min_(0).sqrt_(),
            torch.cat([each.indices for each in found]),
        )

    @classmethod
    def joined(cls, each) -> Self:
        return cls(*map(torch.cat, zip(*each, strict=True)))

    def factors(self, known: Self, least: float) -> torch.Tensor:
        """Local outlier factors (n,); ``known`` are the neighborhoods of the sample."""
        return known._density(known, least)[self.indices].mean(1) / self._density(known, least)

    def _density(self, known, least):
        """Local reachability densities (n,)."""
        reach = torch.maximum(self.distances, known.distances[:, -1][self.indices])
        return 1 / reach.mean(1).clamp_min(least)


def _least_distance(distances):
    """Mean distances below it count as this: among near copies none is an outlier."""
    return max(_FLOOR * float(distances[..., -1].mean()), _LEAST)


def _squares(a, b):
    return a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.mT


def _projection(images):
    """A random projection (D, k) that nearly keeps distances; None where rows are short."""
    n_features = images.shape[2]
    if n_features <= _MOST_FEATURES:
        return None
    generator = torch.Generator().manual_seed(0)
    size = (n_features, _MOST_FEATURES)
    drawn = torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")
    return (drawn / _MOST_FEATURES**0.5).to(images.device)


def _projected(rows, projection):
    return rows.clone() if projection is None else rows @ projection
