"""What masks of labeled defects say of patches."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike

from ...data.inputs import NetworkInput
from ...data.masks import read_mask
from ...density.anchored import AnchoredLogistic, held_out_folds
from ...texts import plural
from ...views import share_by_cell
from ...workers import map_on
from .region import seen_share

_CPU = torch.device("cpu")
_COVERED = 0.25  # of a cell: from there on it is defective
_N_EACH = 16  # good patches of an image to learn from; more tell nothing new


def masks_of_defects(
    masks: Sequence[ArrayLike | None] | ArrayLike | None, is_bad: np.ndarray
) -> Iterator[tuple[int, np.ndarray]]:
    """Numbers and masks (H, W) of the defective images that have one, one by one.

    Parameters
    ----------
    masks : sequence of n (what :func:`~anomalib_lite.data.read_mask` takes, or None), or None
        None, or NaN, where it is unknown. Those of good images mark nothing.
    is_bad : ndarray of shape (n,), bool

    Raises
    ------
    ValueError
        For those that cannot be read, or do not agree with the label.

    Examples
    --------
    >>> dict(masks_of_defects([None, [[0, 1]], None], np.array([False, True, True])))
    {1: array([[False,  True]])}
    """
    if masks is None:
        return
    _check_count(masks, len(is_bad))
    for i, (mask, label) in enumerate(zip(masks, is_bad, strict=True)):
        if mask is None or (isinstance(mask, float) and np.isnan(mask)):  # a table's gap
            continue
        name = None if isinstance(mask, str | os.PathLike) else f"masks[{i}]"
        read = read_mask(mask, name=name)
        if read.any() and not label:
            raise ValueError(
                f"masks[{i}]: expected None or an empty mask of an image that is labeled good, got "
                f"one of {plural(int(read.sum()), 'pixel')}. Correct the mask or the label."
            )
        if label and not read.any():
            raise ValueError(
                f"masks[{i}]: expected a mask that marks the defect, got an empty one. Take None "
                "where it is unknown."
            )
        if label:
            yield i, read


def _check_count(masks, n):
    try:
        got = len(masks)
    except TypeError:
        got = None
    if isinstance(masks, str | Mapping) or hasattr(masks, "columns") or got is None:
        got = (
            f"{type(masks).__name__} {masks!r}" if isinstance(masks, str) else type(masks).__name__
        )
    if got != n:
        raise ValueError(
            f"masks: expected a list of {n} masks, one for each image and None where it is "
            f"unknown, got {got}."
        )


@dataclass(frozen=True, eq=False)
class Mark:
    """Where the defects of an image are.

    Attributes
    ----------
    size : tuple (H, W)
        Of the image.
    share : ndarray of shape (rows, columns)
        How much of each cell of the grid is defective.
    """

    size: tuple[int, int]
    share: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray, network_input: NetworkInput, grid: tuple[int, int]) -> Self:
        """By a mask (H, W), which is resized and cropped as its image is."""
        return cls(mask.shape, share_by_cell(seen_share(mask, network_input), grid).numpy())


def patch_values(
    head: AnchoredLogistic, distances: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    """Anomaly values of patches: 0 for surely good ones, the log-odds of surely defective ones.

    Parameters
    ----------
    head : AnchoredLogistic
    distances : torch.Tensor of shape (..., P)
        To the memory bank.
    rows : torch.Tensor of shape (..., P, D)

    Returns
    -------
    values : torch.Tensor of shape (..., P)
    """
    odds = head.log_odds(distances.flatten(), rows.flatten(0, -2))
    softplus = odds.clamp(min=0) + odds.abs().neg().exp().log1p()  # ONNX Runtime has no other
    return softplus.view(distances.shape)


@dataclass(frozen=True, eq=False)
class LabeledPatches:
    """Patches of good images, and of images with defects whose masks are known.

    Attributes
    ----------
    distances : ndarray of shape (n,)
        To the memory bank; of good images out of sample.
    rows : ndarray of shape (n, D)
    is_bad : ndarray of shape (n,), bool
        Whether a mask marks them.
    images : ndarray of shape (n,), int
        Which image each is of; the same for copies.
    """

    distances: np.ndarray
    rows: np.ndarray
    is_bad: np.ndarray
    images: np.ndarray

    @classmethod
    def of(
        cls,
        distances: torch.Tensor,
        rows: torch.Tensor,
        image: int,
        share: np.ndarray | None = None,
    ) -> Self:
        """Those to learn from of one image.

        Of good patches every so many by their distances, the most distant among them; of those of
        a defect all. What a mask covers a little of is neither.

        Parameters
        ----------
        distances : torch.Tensor of shape (P,)
        rows : torch.Tensor of shape (P, D)
        image : int
        share : ndarray of shape (P,) or None
            How much of each patch is defective, of some more than 0; None for a good image.
        """
        distances = distances.double().cpu().numpy()
        share = np.zeros(len(distances)) if share is None else share
        bad = np.flatnonzero(share >= min(_COVERED, share.max())) if share.any() else []
        good = np.flatnonzero(share == 0)
        good = good[distances[good].argsort(kind="stable")[::-1]]
        n = min(_N_EACH, len(good))
        good = good[np.arange(n) * len(good) // max(n, 1)]
        chosen = np.concatenate([good, bad]).astype(int)
        return cls(
            distances[chosen],
            rows[torch.from_numpy(chosen).to(rows.device)].double().cpu().numpy(),
            np.arange(len(chosen)) >= len(good),
            np.full(len(chosen), image),
        )

    @classmethod
    def joined(cls, each: Sequence[Self]) -> Self:
        """Those of several images."""
        names = "distances", "rows", "is_bad", "images"
        return cls(*(np.concatenate([getattr(one, name) for one in each]) for name in names))

    def head(
        self, C: float, *, aside: Sequence[int] = (), start: AnchoredLogistic | None = None
    ) -> AnchoredLogistic:
        """The regression of those that are not of some images, sought from another one on."""
        rest = ~np.isin(self.images, aside)
        given = self.distances[rest], self.rows[rest], self.is_bad[rest]
        return AnchoredLogistic.fit(*given, C, start)

    def heads_without(self, C: float, of_all: AnchoredLogistic) -> dict[int, AnchoredLogistic]:
        """For each image a regression that it had no part in, where there are others.

        ``of_all`` is the regression of all images.
        """
        images = np.unique(self.images)
        has_defect = np.isin(images, self.images[self.is_bad])
        folds = [images[aside].tolist() for aside in held_out_folds(has_defect, images)]
        found = map_on(_CPU, lambda fold: self.head(C, aside=fold, start=of_all), folds)
        return {image: head for fold, head in zip(folds, found, strict=True) for image in fold}
