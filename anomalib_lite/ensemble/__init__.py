"""Several detectors as one: what each finds, on one scale, with one threshold."""

from .detector import DetectorEnsemble

__all__ = ["DetectorEnsemble"]
