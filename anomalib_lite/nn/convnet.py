"""A convolutional network for small images."""

from collections.abc import Sequence

import torch
from torch import nn

from .layers import conv_block


class ConvNet(nn.Module):
    """A convolutional network for small images that trains in seconds on a CPU.

    Each stage is a 3x3 convolution, BatchNorm and ReLU; the last stage has two of these. All stages
    but the first begin with a stride of 2. A :class:`~anomalib_lite.backbones.Backbone` reads it
    like a timm network: by stride, or by the name of a stage.

    Parameters
    ----------
    widths : tuple of int, default=(16, 32, 64, 128)
        Channels of the stages, whose strides are 1, 2, 4, 8.

    Examples
    --------
    >>> import torch
    >>> [tuple(grid.shape) for grid in ConvNet()(torch.zeros(1, 3, 32, 32))][-1]
    (1, 128, 4, 4)
    """

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64, 128)):
        super().__init__()
        self.stages = nn.ModuleList()
        self.feature_info = []
        n_channels = 3
        for i, width in enumerate(widths):
            layers = conv_block(n_channels, width, stride=1 if i == 0 else 2)
            if i == len(widths) - 1:
                layers += conv_block(width, width, stride=1)
            self.stages.append(nn.Sequential(*layers))
            self.feature_info.append({"module": f"stages.{i}", "reduction": 2**i, "num_chs": width})
            n_channels = width

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Maps (B, C, h, w) of all stages, finest first."""
        return self.forward_intermediates(batch)

    def forward_intermediates(
        self, batch: torch.Tensor, indices: Sequence[int] | None = None, **_timm_options
    ) -> list[torch.Tensor]:
        """Maps (B, C, h, w) of the stages ``indices``; runs no stage after the last of them."""
        wanted = range(len(self.stages)) if indices is None else indices
        maps = []
        for i in range(max(wanted) + 1):
            batch = self.stages[i](batch)
            if i in wanted:
                maps.append(batch)
        return maps

    def prune_intermediate_layers(self, indices: Sequence[int], **_timm_options) -> None:
        """Remove the stages after the last of ``indices``."""
        self.stages = self.stages[: max(indices) + 1]
        self.feature_info = self.feature_info[: max(indices) + 1]
