"""Resize, crop and normalize images for a network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from ..annotations import Size
from ..validation import as_pair, check_count
from .images import CheckedImage

_MOST_PIXELS, _LONGEST_SIDE = 2**25, 2**13  # of a network's input


@dataclass(frozen=True)
class NetworkInput:
    """Turns images into the input of a network: size, crop and normalization.

    Attributes
    ----------
    image_size : tuple (H, W)
        Images are resized to it, whatever their proportions. Bilinear, antialiased. At most 8192
        pixels a side and 2**25 in all.
    mean, std : tuple of 3 floats
        Channel statistics of the network's pretraining, for pixels in [0, 1].
    patch_size : int
        Smallest side of an image that is accepted, in pixels.
    center_crop : tuple (H, W) or None, default=None
        Part of the resized image to keep; None keeps all of it.
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patch_size: int
    center_crop: tuple[int, int] | None = None

    @classmethod
    def raw(cls, image_size: Size, center_crop: Size | None = None, patch_size: int = 8) -> Self:
        """Resize and crop, but do not normalize: pixels in [0, 1].

        Sizes may be given as an int or a pair, as estimators take them.

        Examples
        --------
        >>> NetworkInput.raw(64, center_crop=(48, 32)).seen_size
        (48, 32)
        """
        return cls(
            image_size=as_pair("image_size", image_size),
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            patch_size=patch_size,
            center_crop=None if center_crop is None else as_pair("center_crop", center_crop),
        )

    def __post_init__(self):
        for name in ("image_size", "center_crop"):
            size = getattr(self, name)
            sides = (1,) if size is None else as_pair(name, size)
            if math.prod(sides) > _MOST_PIXELS or max(sides) > _LONGEST_SIDE:
                raise ValueError(
                    f"{name}: expected at most {_LONGEST_SIDE} pixels a side and {_MOST_PIXELS} in "
                    f"all, got {size}."
                )
        check_count("patch_size", self.patch_size)
        crop = self.center_crop
        if crop and any(c > s for c, s in zip(crop, self.image_size, strict=True)):
            raise ValueError(
                f"center_crop: expected a size within image_size {self.image_size}, got {crop}."
            )

    def batch(self, images: Sequence[CheckedImage]) -> torch.Tensor:
        """Network input (B, 3, h, w) of B images: float32 on the CPU, channels-last in memory."""
        planes = [image.resized(self.image_size).expand(3, -1, -1) for image in images]
        batch = torch.stack(planes)  # (B, 3, H, W)
        if self.center_crop is not None:
            (top, left), (height, width) = self.crop_offset, self.center_crop
            batch = batch[..., top : top + height, left : left + width]
        mean, std = (batch.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)

    @property
    def seen_size(self) -> tuple[int, int]:
        """(h, w) of the network's input."""
        return self.center_crop or self.image_size

    @property
    def crop_offset(self) -> tuple[int, int]:
        """(top, left) of the network's input within the resized image."""
        return tuple((s - c) // 2 for s, c in zip(self.image_size, self.seen_size, strict=True))
