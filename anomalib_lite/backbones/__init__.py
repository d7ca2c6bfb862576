"""Networks as frozen feature extractors, and what turns feature maps into rows and pixel maps."""

from .backbone import Backbone
from .maps import MapRenderer, resize_matrix
from .patches import (
    RowStore,
    grid_rows,
    patch_embedding,
    pool_maps,
    rebatch,
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
