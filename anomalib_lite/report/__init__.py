"""Pictures of what a detector found."""

from .displays import AnomalyMapDisplay, plot_score_histogram

__all__ = [
    "AnomalyMapDisplay",
    "plot_score_histogram",
]
