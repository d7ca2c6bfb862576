"""A network that gives a logit for every small window of an image."""

from collections.abc import Sequence

import torch
from torch import nn

from .layers import StoredNetwork

KERNELS = {
    1: (1,),
    2: (2,),
    4: (4,),
    8: (4, 3, 3),
    16: (4, 3, 3, 5, 5),
    32: (4, 3, 3, 5, 5, 9, 9),
}


def coordinate_maps(size: Sequence[int], device: torch.device | str | None = None) -> torch.Tensor:
    """Coordinates (2, H, W) of positions, rows then columns, from -1 to 1.

    Examples
    --------
    >>> coordinate_maps((2, 3)).tolist()[1]
    [[-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0]]
    """
    axes = [torch.linspace(-1, 1, side, device=device, dtype=torch.float32) for side in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def window_convolutions(level, width):
    """(kernel, channels) of stacked convolutions that see ``level`` x ``level`` pixels."""
    if level not in KERNELS:
        raise ValueError(f"level: expected one of {', '.join(map(str, KERNELS))}, got {level!r}.")
    return [(kernel, width * 2 ** min(i, 2)) for i, kernel in enumerate(KERNELS[level])]


def concatenated(x, maps):
    """``x`` (n, C, h, w) with maps (2, h, w) or (n, 2, h, w) as further channels."""
    return torch.cat([x, maps.expand(len(x), -1, -1, -1)], 1)


class PixelBlock(nn.Module):
    """Residual block of two 1x1 convolutions."""

    def __init__(self, width, dropout):
        super().__init__()
        self.layers = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 1),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x):
        return x + self.layers(x)


def pixel_head(n_in, width, n_blocks, dropout=0.0):
    """1x1 convolutions to one value per position, which depends on that position only."""
    return nn.Sequential(
        nn.Conv2d(n_in, width, 1),
        *(PixelBlock(width, dropout) for _ in range(n_blocks)),
        nn.LeakyReLU(0.2),
        nn.Conv2d(width, 1, 1),
        nn.Flatten(1, 2),
    )


class PatchDetector(StoredNetwork):
    """Logits "anomalous" of each ``level`` x ``level`` window of an image, given its position.

    Valid convolutions of stride 1, then the coordinates join, then residual blocks of 1x1
    convolutions, without normalization layers. ``KERNELS`` has the kernels: each level's begin with
    those of the level below. Levels 16 and 32, which the paper leaves open, continue the pattern.

    Parameters
    ----------
    level : {1, 2, 4, 8, 16, 32}
        Side of the windows, in pixels.
    n_channels : int
        Channels of the images.
    width : int, default=64
        Channels of the first convolution; the second has twice, all others four times as many, and
        the 1x1 convolutions twice as many as the last.
    n_blocks : int, default=2
        Residual blocks.
    dropout : float, default=0.25
        Dropout in the residual blocks.

    References
    ----------
    S. Dai et al., "Unsupervised Learning of Multi-level Structures for Anomaly Detection", 2021.

    Examples
    --------
    >>> detector = PatchDetector(4, 1, width=8)
    >>> tuple(detector(torch.rand(2, 1, 28, 28), coordinate_maps((25, 25))).shape)
    (2, 25, 25)
    """

    _counts = ("n_blocks",)

    def __init__(
        self,
        level: int,
        n_channels: int,
        width: int = 64,
        n_blocks: int = 2,
        dropout: float = 0.25,
    ):
        super().__init__()
        self.level = level
        self.arguments = {
            "level": level,
            "n_channels": n_channels,
            "width": width,
            "n_blocks": n_blocks,
            "dropout": dropout,
        }
        layers = []
        for kernel, n_out in window_convolutions(level, width):
            layers += [nn.Conv2d(n_channels, n_out, kernel), nn.LeakyReLU(0.2)]
            n_channels = n_out
        self.windows = nn.Sequential(*layers)
        self.head = pixel_head(n_channels + 2, 2 * n_channels, n_blocks, dropout)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def from_state(cls, state):
        return super().from_state(state).to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor, coordinates: torch.Tensor) -> torch.Tensor:
        """Logits of all windows.

        Parameters
        ----------
        x : torch.Tensor of shape (n, C, H, W)
        coordinates : torch.Tensor of shape (2, h, w) or (n, 2, h, w)
            Coordinates of the windows; h = H - level + 1, w = W - level + 1.

        Returns
        -------
        logits : torch.Tensor of shape (n, h, w)
        """
        x = x.contiguous(memory_format=torch.channels_last)
        return self.head(concatenated(self.windows(x), coordinates))
