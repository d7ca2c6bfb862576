"""Banks for out-of-sample scores: of each training image, one that it had no part in.

An image's own most unusual patches are in the coreset of all images. Taking them out would leave
holes that no new image meets, so that the image looked too anomalous. Instead the images are cut
into parts, each part has a coreset of its own, and an image is scored against those of the other
parts: nothing in them was chosen with the image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...search.codes import PrincipalCodes
from ...search.coreset import greedy_coreset
from ...search.nearest import NearestRows
from ...workers import FEW, map_on

N_PARTS = 32  # a bank of 31 / 32 of the images is nearly as good as that of all
_LARGE = 800  # rows of a bank that is made of as many rows of its parts, without reduction
_ENOUGH = 128  # rows of a part, to be reduced, of a smaller one
_CPU = torch.device("cpu")
_COMPONENTS = 32  # in which these coresets are picked
_SEARCHED = 32  # components of the codes that they are searched by


def assign_parts(digests: Sequence[int], earlier: Sequence[int] = (), first: int = 0) -> np.ndarray:
    """A part for each image, by turns; copies of an image share one.

    Parameters
    ----------
    digests : sequence of n int
        The same for copies.
    earlier : sequence of int, default=()
        Parts of the first images, if they have been assigned before.
    first : int, default=0
        Whose turn it is for the first image.

    Returns
    -------
    parts : ndarray of shape (n,)
        0 to ``N_PARTS - 1``.

    Examples
    --------
    >>> assign_parts([7, 8, 7, 9]).tolist()
    [0, 1, 0, 2]
    """
    part_of = dict(zip(digests, earlier, strict=False))
    for digest in digests:
        part_of.setdefault(digest, (first + len(part_of)) % N_PARTS)
    return np.array([part_of[digest] for digest in digests])


@dataclass(frozen=True, eq=False)
class PartBanks:
    """Coresets of the parts of the training images, chunk by chunk as the bank has grown.

    Attributes
    ----------
    rows : torch.Tensor of shape (n, D)
        Of each chunk of images learned together, those of each part, in the order of picking.
    counts : ndarray of shape (n_chunks, N_PARTS)
        How many rows there are of each chunk and part; 0 for a part without images.
    sizes : list of int
        How many rows each chunk has given to the bank.
    parts : ndarray of shape (n_images,)
        The part of each image.
    """

    rows: torch.Tensor
    counts: np.ndarray
    sizes: list[int]
    parts: np.ndarray

    def __post_init__(self):
        fits = (
            self.rows.ndim == 2
            and self.rows.dtype == torch.float32
            and self.counts.shape == (len(self.sizes), N_PARTS)
            and (self.counts >= 0).all()
            and self.counts.sum() == len(self.rows)
            and all(size >= 1 for size in self.sizes)
            and np.isin(self.parts, range(N_PARTS)).all()
        )
        if not fits:
            raise ValueError("expected rows of each chunk and part, and the part of each image.")

    @classmethod
    def from_chunks(
        cls, chunks: list[list[torch.Tensor]], sizes: list[int], parts: np.ndarray
    ) -> "PartBanks":
        """From the rows (n_k, D) of each chunk and part."""
        rows = torch.cat([rows for chunk in chunks for rows in chunk])
        counts = np.array([[len(rows) for rows in chunk] for chunk in chunks])
        return cls(rows, counts, sizes, parts)

    @property
    def chunks(self) -> list[tuple[torch.Tensor, ...]]:
        """The rows (n_k, D) of each chunk and part."""
        chunks = self.rows.split(self.counts.sum(1).tolist())
        return [
            chunk.split(counts.tolist()) for chunk, counts in zip(chunks, self.counts, strict=True)
        ]

    @classmethod
    def of(
        cls,
        images: torch.Tensor,
        parts: np.ndarray,
        size: int,
        codes: PrincipalCodes,
        kept: torch.Tensor | None = None,
    ) -> "PartBanks":
        """Coresets of a chunk of images (n, P, D) which has given ``size`` rows to the bank.

        Of all their patches, or of those that are ``kept`` (n, P).
        """
        chunk = []
        for part in range(N_PARTS):
            which = torch.from_numpy(parts == part).to(images.device)
            members = images[which]
            chunk.append(members.flatten(0, 1) if kept is None else members[kept[which]])
        return cls.from_chunks([_kept(chunk, size, codes)], [size], parts)

    @classmethod
    def joined(cls, each: Sequence["PartBanks"]) -> "PartBanks":
        """Those of several, whose images follow each other."""
        return cls(
            torch.cat([one.rows for one in each]),
            np.concatenate([one.counts for one in each]),
            [size for one in each for size in one.sizes],
            np.concatenate([one.parts for one in each]),
        )

    def to(self, device: torch.device | str) -> "PartBanks":
        """The same on a device."""
        return replace(self, rows=self.rows.to(device))

    def parts_of(self, known: np.ndarray, digests: np.ndarray) -> list[tuple[int, ...]]:
        """Parts of each of some images (n,) and its copies, by the digests of all images.

        Copies share a part unless they were learned apart.
        """
        which = np.isin(known, digests)
        parts = {}
        for digest, part in zip(known[which].tolist(), self.parts[which].tolist(), strict=True):
            parts.setdefault(digest, set()).add(part)
        return [tuple(sorted(parts[digest])) for digest in digests.tolist()]

    def reduced(self, size: int, codes: PrincipalCodes) -> "PartBanks":
        """One chunk instead of several, for a bank that was reduced to ``size`` rows."""
        chunk = [torch.cat(rows) for rows in zip(*self.chunks, strict=True)]
        return PartBanks.from_chunks([_kept(chunk, size, codes)], [size], self.parts)

    def others(
        self, parts: Sequence[int], n_bank: int, codes: PrincipalCodes
    ) -> NearestRows | None:
        """A bank of at most ``n_bank`` rows of all parts but some; None if there are none.

        It is made as the bank of all parts was, chunk by chunk. Rows that were picked first come
        first, which a search for the farthest profits from.
        """
        rows = []
        for chunk, size in zip(self.chunks, self.sizes, strict=True):
            others = [rows for k, rows in enumerate(chunk) if k not in parts]
            ranks = torch.cat([torch.arange(len(each), device=each.device) for each in others])
            others = torch.cat(others)[ranks.argsort(stable=True)]
            rows.append(others[:size] if size > _LARGE else _coreset(others, size, codes))
        rows = torch.cat(rows)
        if len(rows) == 0:
            return None
        bank = NearestRows(_searched(codes), min(n_bank, len(rows)))
        bank.append(_coreset(rows, n_bank, codes))
        return bank


def _searched(codes):
    """Short codes; or those of the bank, where much longer ones pay, as of white rows."""
    is_long = codes.n_codes > 2 * _SEARCHED + 1
    return codes if is_long else codes.shortened(_SEARCHED)


def _kept(chunk, size, codes):
    """Coresets of the rows of each part, for a chunk that gives ``size`` rows to the bank.

    Coresets of parts pick the same outliers, so that as many of their rows cover less. Of a small
    bank's parts more rows are kept, which :meth:`PartBanks.others` reduces; for a large one this
    would cost more than the bank itself.
    """
    n_parts = sum(len(rows) > 0 for rows in chunk)
    n_keep = -(-size // max(n_parts - 1, 1))
    if size <= _LARGE:
        n_keep = max(n_keep, min(size, _ENOUGH))
    return map_on(_CPU, lambda rows: _coreset(rows, n_keep, codes), chunk, at_once=FEW)


def _coreset(rows, n_keep, codes):
    """``n_keep`` rows picked greedily, many by principal components, which is quicker; or all.

    They are picked on the CPU: the rows are few and the steps short, too short for an accelerator.
    """
    if len(rows) <= n_keep:
        return rows.clone()
    many = n_keep > _ENOUGH
    seen = codes.shortened(_COMPONENTS).encode(rows) if many else rows
    indices, _ = greedy_coreset(seen.cpu(), n_keep)
    return rows[indices.to(rows.device)]
