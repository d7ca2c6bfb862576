"""Figures of anomaly maps and scores, and pages that show what became of many images."""

from .displays import AnomalyMapDisplay
from .histograms import plot_score_histogram
from .overlays import overlay, save_overlays
from .page import write

__all__ = [
    "AnomalyMapDisplay",
    "overlay",
    "plot_score_histogram",
    "save_overlays",
    "write",
]
