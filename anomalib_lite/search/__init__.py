"""Exact nearest rows and greedy coresets."""

from .coreset import (
    GreedyCoreset,
    check_projection,
    coreset_row_bytes,
    coreset_size,
    greedy_coreset,
    merge_coresets,
    select_coreset,
)
from .nearest import NearestRows, PrincipalCodes, squared_distance

__all__ = [
    "GreedyCoreset",
    "NearestRows",
    "PrincipalCodes",
    "check_projection",
    "coreset_row_bytes",
    "coreset_size",
    "greedy_coreset",
    "merge_coresets",
    "select_coreset",
    "squared_distance",
]
