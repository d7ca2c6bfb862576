"""Exact nearest rows and greedy coresets."""

from .codes import PrincipalCodes
from .coreset import (
    GreedyCoreset,
    check_projection,
    coreset_row_bytes,
    coreset_size,
    greedy_coreset,
    merge_coresets,
    select_coreset,
)
from .distance import squared_distance
from .nearest import NearestRows, cheapest_codes

__all__ = [
    "GreedyCoreset",
    "NearestRows",
    "PrincipalCodes",
    "cheapest_codes",
    "check_projection",
    "coreset_row_bytes",
    "coreset_size",
    "greedy_coreset",
    "merge_coresets",
    "select_coreset",
    "squared_distance",
]
