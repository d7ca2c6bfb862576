"""Figures of anomaly maps and scores, and pages that show what became of many images."""

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:  # what editors and type checkers see
    from .displays import AnomalyMapDisplay as AnomalyMapDisplay
    from .histograms import plot_score_histogram as plot_score_histogram
    from .overlays import overlay as overlay
    from .overlays import save_overlays as save_overlays
    from .page import write as write
    from .pro_curves import ProCurveDisplay as ProCurveDisplay

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AnomalyMapDisplay": "displays",
        "ProCurveDisplay": "pro_curves",
        "overlay": "overlays",
        "plot_score_histogram": "histograms",
        "save_overlays": "overlays",
        "write": "page",
    },
)

__all__ = [
    "AnomalyMapDisplay",
    "ProCurveDisplay",
    "overlay",
    "plot_score_histogram",
    "save_overlays",
    "write",
]
