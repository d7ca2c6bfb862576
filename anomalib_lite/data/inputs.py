"""Network inputs: resizing, cropping and normalizing, and the range of values seen at fit."""

from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from ..validation import as_pair


@dataclass
class ValueRange:
    """The range of values seen at fit, so that data scaled another way is refused.

    Integer images of a dtype seen at fit are trusted to be scaled as they were then. Others must
    reach a brightness that one and the same scaling can explain: another dtype may not be
    ``other_dtype`` times brighter than all that was seen, floats, whose scale is only a
    convention, not ``other_scale`` times brighter or darker (a constant image excepted: a black
    picture is a finding, not a mistake).
    """

    highest: float = 0.0
    dtypes: set = field(default_factory=set)
    other_dtype = 8.0
    other_scale = 128.0

    def learn(self, image):
        self.highest = max(self.highest, float(image.pixels.max()))
        self.dtypes.add(image.dtype)

    def check(self, image):
        seen = image.dtype in self.dtypes
        if seen and not image.dtype.startswith("float"):
            return
        low, high = (float(value) for value in torch.aminmax(image.pixels))
        too_dark = low < high and high * self.other_scale < self.highest
        too_bright = high > self.highest * (self.other_scale if seen else self.other_dtype)
        if self.highest > 0 and (too_dark or too_bright):
            raise ValueError(
                f"{image.label}: its {image.dtype} values reach {high:.3g} of full scale, the "
                f"images seen at fit ({', '.join(sorted(self.dtypes))}) reached "
                f"{self.highest:.3g}. Scale both the same way."
            )


@dataclass(frozen=True)
class NetworkInput:
    """What a network wants to see: size, crop and normalization.

    Attributes
    ----------
    image_size : tuple (H, W)
        Images are resized to it, whatever their proportions: bilinear, antialiased.
    mean, std : tuple of 3 floats
        Of the network's pretraining, for pixels in [0, 1].
    patch_size : int
        Smallest side of an image worth looking at, in pixels.
    center_crop : tuple (H, W) or None, default=None
        What is kept of the resized image; None keeps everything.
    """

    image_size: tuple
    mean: tuple
    std: tuple
    patch_size: int
    center_crop: tuple | None = None

    @classmethod
    def raw(cls, image_size, center_crop=None, patch_size=8):
        """Pixels in [0, 1], resized and cropped but not normalized; sizes as parameters give them.

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
            center_crop=center_crop and as_pair("center_crop", center_crop),
        )

    def __post_init__(self):
        crop = self.center_crop
        if crop and any(c > s for c, s in zip(crop, self.image_size, strict=True)):
            raise ValueError(f"center_crop {crop} does not fit into image_size {self.image_size}.")

    def batch(self, images):
        """(B, 3, h, w) float32, channels-last in memory, of a list of CheckedImage."""
        planes = []
        for image in images:
            plane = image.pixels[None]  # (1, C, H, W)
            if image.size != self.image_size:
                plane = F.interpolate(plane, self.image_size, mode="bilinear", antialias=True)
            planes.append(plane.expand(-1, 3, -1, -1))
        batch = torch.cat(planes)  # (B, 3, H, W)
        if self.center_crop is not None:
            (top, left), (height, width) = self.crop_offset, self.center_crop
            batch = batch[..., top : top + height, left : left + width]
        mean, std = (batch.new_tensor(v).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return ((batch - mean) / std).contiguous(memory_format=torch.channels_last)

    @property
    def seen_size(self):
        """(h, w) of what the network sees."""
        return self.center_crop or self.image_size

    @property
    def crop_offset(self):
        """(top, left) of what the network sees in the resized image."""
        return tuple((s - c) // 2 for s, c in zip(self.image_size, self.seen_size, strict=True))
