"""What PatchCore learns from some images: a coreset of their patches, which merges with others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from ...runtime import make_generator
from ...search.codes import PrincipalCodes
from ...search.coreset import merge_coresets, select_coreset
from ...search.nearest import NearestRows, cheapest_codes
from .calibration import PartBanks

_SAMPLE = 128  # rows that tell what will be searched for


@dataclass(frozen=True, eq=False)
class PatchBank:
    """A coreset of the patches of some images.

    Attributes
    ----------
    rows : torch.Tensor of shape (n, D)
    radius : float
        No patch of these images is farther from the rows than this.
    parts : PartBanks
        Coresets of parts of the images.
    sample : torch.Tensor of shape (m, D)
        A few patches.
    codes : PrincipalCodes or None
        By which the rows are searched for patches like those of the sample; None: not known yet.
    """

    rows: torch.Tensor
    radius: float
    parts: PartBanks
    sample: torch.Tensor
    codes: PrincipalCodes | None = None

    @classmethod
    def of(
        cls,
        images: torch.Tensor,
        parts: np.ndarray,
        coreset: float,
        kept: torch.Tensor | None = None,
        *,
        generator: torch.Generator,
        projection: str | int | None,
        verbose: bool,
    ) -> Self:
        """From the patches of images (n, P, D), and the part of each image.

        From all patches, or from those that are ``kept`` (n, P).
        """
        patches = images.flatten(0, 1) if kept is None else images[kept]
        indices, radius = select_coreset(
            patches, coreset, generator=generator, projection=projection, verbose=verbose
        )
        rows = patches[indices]
        draw = torch.randperm(len(patches), generator=make_generator(0), device="cpu")[:_SAMPLE]
        sample = patches[draw.to(patches.device)]
        codes = cheapest_codes(rows, sample)
        banks = PartBanks.of(images, parts, len(rows), codes, kept)
        return cls(rows, radius, banks, sample, codes)

    @classmethod
    def joined(cls, each: Sequence[Self]) -> Self:
        """All rows of several, whose images follow each other."""
        if len(each) == 1:
            return each[0]
        sample = torch.cat([one.sample for one in each])
        return cls(
            torch.cat([one.rows for one in each]),
            max(one.radius for one in each),
            PartBanks.joined([one.parts for one in each]),
            sample[:: -(-len(sample) // _SAMPLE)],
        )

    def reduced(self, size: int, *, generator: torch.Generator, verbose: bool) -> Self:
        """A coreset of ``size`` of the rows; its radius is the sum of both."""
        if len(self.rows) <= size:
            return self
        kept, radius = merge_coresets([self.rows], size, generator=generator, verbose=verbose)
        fewer = replace(self, rows=self.rows[kept], radius=self.radius + radius, codes=None)
        return fewer.with_fewer_parts()

    def with_fewer_parts(self) -> Self:
        """With coresets of all parts as large as these rows ask for."""
        bank = self.coded()
        return replace(bank, parts=bank.parts.reduced(len(bank.rows), bank.codes))

    def coded(self) -> Self:
        """With codes."""
        if self.codes is not None:
            return self
        return replace(self, codes=cheapest_codes(self.rows, self.sample))

    def index(self) -> NearestRows:
        """An index of the rows."""
        return NearestRows.of(self.coded().codes, self.rows)

    @property
    def n_stored(self) -> int:
        """Rows of the bank and of its parts."""
        return len(self.rows) + len(self.parts.rows)

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        return replace(
            self,
            rows=self.rows.to(device),
            parts=self.parts.to(device),
            sample=self.sample.to(device),
            codes=None if self.codes is None else self.codes.to(device),
        )
