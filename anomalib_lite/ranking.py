"""Training images by how little they belong among the others."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Self

import numpy as np

N_NAMES = 100
"""Images whose names are kept."""

_TAIL = np.linspace(0.5, 0.9, 5)  # quantiles of normal scores that tell how their tail goes on


@dataclass(frozen=True, eq=False)
class SuspectImages:
    """Training images, the one that belongs least first.

    Images without an out-of-sample score are not among them.

    Attributes
    ----------
    indices : ndarray of shape (n,), int64
        Places of the images among all that were learned from.
    scores : ndarray of shape (n,), float64
        Their anomaly scores out of sample, descending.
    names : tuple of str
        Of the first 100: their files, as far as they are known, or ``"image 7"`` by their places.
        After ``partial_fit``, files of earlier images are known that were among the first 100.

    Examples
    --------
    >>> suspects = SuspectImages.of(np.array([1.0, 3.0, np.nan, 2.0]), {1: "odd.png"})
    >>> suspects.indices.tolist(), suspects.names
    ([1, 3, 0], ('odd.png', 'image 3', 'image 0'))
    """

    indices: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]

    def __post_init__(self):
        arrays = isinstance(self.indices, np.ndarray) and isinstance(self.scores, np.ndarray)
        fits = (
            arrays
            and self.indices.dtype == np.int64
            and self.scores.dtype == np.float64
            and self.indices.ndim == 1
            and self.scores.shape == self.indices.shape
            and (self.indices >= 0).all()
            and len(np.unique(self.indices)) == len(self.indices)
            and bool(np.isfinite(self.scores).all())
            and (self.scores[1:] <= self.scores[:-1]).all()
            and isinstance(self.names, tuple)
            and len(self.names) == min(len(self.indices), N_NAMES)
            and all(isinstance(name, str) for name in self.names)
        )
        if not fits:
            raise ValueError("expected places of images, descending scores, names of the first.")

    def __len__(self):
        return len(self.indices)

    def __repr__(self):
        first = ", ".join(self.names[:3])
        return f"<SuspectImages: {first}{', ...' if len(self) > 3 else ''}>"

    @classmethod
    def of(cls, anomaly_scores: np.ndarray, paths: Mapping[int, str] | None = None) -> Self:
        """By out-of-sample anomaly scores (n,), NaN where there is none, and files by places."""
        order = np.argsort(-anomaly_scores, kind="stable")
        order = order[~np.isnan(anomaly_scores[order])].astype(np.int64)
        known = {} if paths is None else paths
        names = tuple(known.get(i) or _placeholder(i) for i in order[:N_NAMES].tolist())
        return cls(order, anomaly_scores[order], names)

    @property
    def paths(self) -> dict[int, str]:
        """Files by the images' places, as far as they are known."""
        named = zip(self.indices.tolist(), self.names, strict=False)
        return {i: name for i, name in named if name != _placeholder(i)}

    def anomaly_scores(self, n_images: int) -> np.ndarray:
        """Scores (n_images,) by the images' places; NaN where there is none."""
        scores = np.full(n_images, np.nan)
        scores[self.indices] = self.scores
        return scores


def _placeholder(index):
    return f"image {index}"


def may_be_dirty(detector: Any) -> bool:
    """Whether a detector, or a member of it, was told that some of its images may be defective."""
    return getattr(detector, "_contamination", 0.0) > 0


def count_of_share(share: float, n: int) -> int:
    """How many of n a share is, rounded down, by its decimal digits.

    Examples
    --------
    >>> int(0.29 * 100), count_of_share(0.29, 100)
    (28, 29)
    """
    return int(Fraction(str(float(share))) * n)


def are_farthest(distances: np.ndarray, digests: np.ndarray, share: float) -> np.ndarray:
    """Whether each image (n,) is one of the farthest, at most a share of all.

    Copies, which have the same digest, stay together, as far as the farthest of them: where they
    are more than what is left of the share, neither they nor images that are nearer are meant. NaN
    is farther than any distance.

    Examples
    --------
    >>> distances, digests = np.array([1.0, 7.0, 9.0, 7.0, 2.0, 1.5]), np.array([1, 2, 3, 2, 4, 5])
    >>> are_farthest(distances, digests, 0.49)
    array([False, False,  True, False, False, False])
    """
    groups, group, sizes = np.unique(digests, return_inverse=True, return_counts=True)
    reaches = np.full(len(groups), -np.inf)
    np.maximum.at(reaches, group, np.where(np.isnan(distances), np.inf, distances))
    order = np.argsort(-reaches, kind="stable")
    fits = np.cumsum(sizes[order]) <= count_of_share(share, len(digests))
    return np.isin(group, order[fits])


def without_suspects(anomaly_scores: np.ndarray, contamination: float) -> np.ndarray:
    """Anomaly scores (n,) of images a share of which may be defective, NaN for those that seem so.

    Were all of that share defective, with the highest scores, the others would have these
    quantiles: a line through those from the median to 90 %, over the logarithm of the share above
    them, tells how an exponential tail goes on. Images above the level that one normal image of all
    is expected to exceed are suspected, at most the share. Of a folder without defects there are
    few, and the threshold stays nearly what it was.

    Examples
    --------
    >>> scores = np.append(np.random.default_rng(0).exponential(1, 95), [20.0, 30.0, 40.0])
    >>> np.flatnonzero(np.isnan(without_suspects(scores, 0.1))).tolist()
    [9, 79, 95, 96, 97]
    """
    known = anomaly_scores[~np.isnan(anomaly_scores)]
    n_most = count_of_share(contamination, len(known))
    if n_most == 0:
        return anomaly_scores
    quantiles = np.quantile(known, _TAIL * (1 - contamination))
    slope, start = np.polyfit(-np.log1p(-_TAIL), quantiles, 1)
    level = start + slope * np.log(len(known))
    level = max(level, np.sort(known)[-n_most - 1])
    return np.where(anomaly_scores > level, np.nan, anomaly_scores)
