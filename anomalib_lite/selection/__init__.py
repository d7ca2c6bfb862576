"""Choosing a detector and its settings by good images alone."""

from .planted import PlantedDefect, PlantedScores, PlantedValidation, planted_validation

__all__ = [
    "PlantedDefect",
    "PlantedScores",
    "PlantedValidation",
    "planted_validation",
]
