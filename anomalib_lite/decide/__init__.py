"""Decisions from scores: guaranteed false-alarm rates, and a search for blind spots."""

from .conformal import ConformalDetector
from .probing import Probe, probe, pull_away_term

__all__ = [
    "ConformalDetector",
    "Probe",
    "probe",
    "pull_away_term",
]
