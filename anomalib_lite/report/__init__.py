"""Figures of anomaly maps and scores."""

from .displays import AnomalyMapDisplay
from .histograms import plot_score_histogram

__all__ = [
    "AnomalyMapDisplay",
    "plot_score_histogram",
]
