"""Pretrained networks as frozen feature maps, and grids of features as rows."""

from .backbone import Backbone
from .patches import (
    MapRenderer,
    RowStore,
    grid_rows,
    patch_embedding,
    pool_maps,
    rebatch,
    resize_matrix,
    sliding_windows,
    window_starts,
)

__all__ = [
    "Backbone",
    "MapRenderer",
    "RowStore",
    "grid_rows",
    "patch_embedding",
    "pool_maps",
    "rebatch",
    "resize_matrix",
    "sliding_windows",
    "window_starts",
]
