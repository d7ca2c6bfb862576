"""What turns patches into vectors: encoders trained from random weights, or a frozen backbone."""

from collections.abc import Callable

import torch
from torch import nn

from ...backbones import Backbone
from ...backbones.patches import pool_maps
from ...nn.patch_encoders import DenseEncoder, PatchEncoder, ResidualEncoder

ENCODERS = ("resnet18", "resnet50", "densenet")
_LARGE_PATCH = 32  # pixels, from which on residual encoders begin with pooling
_PATCHES_AT_ONCE = 256


def make_encoder(
    name: str, n_channels: int, embedding_dim: int, width: int, patch_size: int
) -> PatchEncoder:
    """An encoder with random weights, drawn from torch's global generator.

    Examples
    --------
    >>> tuple(make_encoder("resnet18", 1, 16, 4, patch_size=16)(torch.rand(2, 1, 16, 16)).shape)
    (2, 16)
    """
    if name == "densenet":
        return DenseEncoder(n_channels, embedding_dim, width)
    shape = {"blocks": (3, 4, 6), "bottleneck": True} if name == "resnet50" else {}
    pool = patch_size >= _LARGE_PATCH
    return ResidualEncoder(n_channels, embedding_dim, width, pool=pool, **shape)


def patch_features(encoder: nn.Module | Backbone, patches: torch.Tensor) -> torch.Tensor:
    """Features (P, F) of patches (P, C, size, size): a backbone's maps are pooled."""
    if isinstance(encoder, Backbone):
        return pool_maps(encoder.trainable_maps(patches))
    return encoder(patches)


def embed_grids(
    embed: Callable[[torch.Tensor], torch.Tensor], patches: torch.Tensor
) -> torch.Tensor:
    """Vectors (n, rows, columns, D) of patches (n, rows, columns, C, size, size).

    ``embed`` takes patches (P, C, size, size) to vectors (P, D), at most 256 at once.
    """
    some = patches.flatten(0, 2).split(_PATCHES_AT_ONCE)
    return torch.cat([embed(each) for each in some]).unflatten(0, patches.shape[:3])
