"""What networks of different input sizes see of one image, which is decoded once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from ..data.images import CheckedImage
from ..data.inputs import NetworkInput
from ..notes import digest_of

_APART = 0.02  # of an image's side, by which crops may differ


@dataclass(frozen=True)
class JointInput(NetworkInput):
    """The inputs of several networks in one tensor, one row (1, 1, n) an image.

    Such a row passes through batches and digests as an image of one row would. Maps are made in the
    size of the finest of the inputs.

    Attributes
    ----------
    inputs : tuple of NetworkInput
        Two or more, each once, :func:`without_patches`.
    """

    inputs: tuple[NetworkInput, ...] = ()

    def __post_init__(self):
        super().__post_init__()
        if len(self.inputs) < 2:
            raise ValueError(f"inputs: expected two or more, got {len(self.inputs)}.")

    @classmethod
    def of(cls, inputs: Sequence[NetworkInput]) -> NetworkInput:
        """One input for several networks; if these see the same, it is that of each.

        Raises
        ------
        ValueError
            If they look at different parts of an image, so that their maps do not overlap.

        Examples
        --------
        >>> joint = JointInput.of([NetworkInput.raw(size) for size in (64, 32, 64)])
        >>> joint.image_size, len(joint.inputs)
        ((64, 64), 2)
        """
        patch_size = max(each.patch_size for each in inputs)
        inputs = tuple(dict.fromkeys(map(without_patches, inputs)))
        if len(inputs) == 1:
            return replace(inputs[0], patch_size=patch_size)
        first, *others = map(_corners, inputs)
        for place, corners in enumerate(others, 1):
            if any(abs(a - b) > _APART for a, b in zip(first, corners, strict=True)):
                raise ValueError(
                    "detectors: expected all to look at the same part of an image, got "
                    f"{described(inputs[0])} and {described(inputs[place])}. Give them the same "
                    "center_crop, in proportion to image_size."
                )
        finest = max(inputs, key=lambda each: math.prod(each.seen_size))
        return cls(
            image_size=finest.image_size,
            mean=finest.mean,
            std=finest.std,
            patch_size=patch_size,
            center_crop=finest.center_crop,
            inputs=inputs,
        )

    def batch(self, images: Sequence[CheckedImage]) -> torch.Tensor:
        """Rows (B, 1, 1, n) of B images, of each input channels last, as it lies in memory."""
        batches = [each.batch(images) for each in self.inputs]
        rows = [batch.permute(0, 2, 3, 1).flatten(1) for batch in batches]
        return torch.cat(rows, 1)[:, None, None]

    def parts(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Network inputs (B, 3, h, w) of each of :attr:`inputs`, which share memory with rows."""
        sizes = [each.seen_size for each in self.inputs]
        rows = batch.flatten(1).split([3 * math.prod(size) for size in sizes], 1)
        return [
            row.unflatten(1, (*size, 3)).permute(0, 3, 1, 2)
            for row, size in zip(rows, sizes, strict=True)
        ]


def without_patches(seen: NetworkInput) -> NetworkInput:
    """The same for networks that see the same pixels, whatever they make of them.

    Examples
    --------
    >>> without_patches(NetworkInput.raw(64, patch_size=4)).patch_size
    1
    """
    return replace(seen, patch_size=1)


def parts_of(seen: NetworkInput, batch: torch.Tensor) -> dict[NetworkInput, torch.Tensor]:
    """Network inputs (B, 3, h, w) by what made them, :func:`without_patches`.

    Examples
    --------
    >>> seen = NetworkInput.raw(64)
    >>> batch = torch.zeros(1, 3, 64, 64)
    >>> parts_of(seen, batch)[without_patches(seen)] is batch
    True
    """
    if isinstance(seen, JointInput):
        return dict(zip(seen.inputs, seen.parts(batch), strict=True))
    return {without_patches(seen): batch}


class Digests(NamedTuple):
    """Digests of what an ensemble's networks see of an image.

    Attributes
    ----------
    whole : int
        Of all of it.
    parts : dict of NetworkInput to int
        Of each network's input, by what made it, :func:`without_patches`.
    """

    whole: int
    parts: dict[NetworkInput, int]


def digests_of(seen: NetworkInput, pixels: torch.Tensor) -> Digests:
    """Digests of a network input (3, h, w), or of a row (1, 1, n) of several.

    Examples
    --------
    >>> seen = NetworkInput.raw(64)
    >>> digests = digests_of(seen, torch.zeros(3, 64, 64))
    >>> digests.parts[without_patches(seen)] == digests.whole
    True
    """
    whole = digest_of(pixels)
    if not isinstance(seen, JointInput):
        return Digests(whole, {without_patches(seen): whole})
    parts = parts_of(seen, pixels[None])
    return Digests(whole, {each: digest_of(part[0]) for each, part in parts.items()})


def _corners(seen):
    """Top, left, bottom and right of what a network sees, as shares of the image's sides."""
    starts = [o / s for o, s in zip(seen.crop_offset, seen.image_size, strict=True)]
    sides = [c / s for c, s in zip(seen.seen_size, seen.image_size, strict=True)]
    return *starts, *(start + side for start, side in zip(starts, sides, strict=True))


def described(seen: NetworkInput) -> str:
    """What a network sees, in words."""
    text = f"image_size={seen.image_size} with center_crop={seen.center_crop}"
    return f"{text}, mean={seen.mean}, std={seen.std}"
