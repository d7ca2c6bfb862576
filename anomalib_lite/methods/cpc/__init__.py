"""Contrastive predictive coding: patches are predicted from those before them."""

from .detector import CPC
from .encoders import ENCODERS
from .layout import TileLayout
from .prediction import DIRECTIONS, CPCScoring

__all__ = ["CPC", "DIRECTIONS", "ENCODERS", "CPCScoring", "TileLayout"]
