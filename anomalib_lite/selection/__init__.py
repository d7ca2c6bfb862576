"""Choosing a detector and its settings by good images alone."""

from .planted import PlantedDefect, PlantedTable, PlantedValidation, planted_validation
from .suggesting import Suggestion, suggest_settings

__all__ = [
    "PlantedDefect",
    "PlantedTable",
    "PlantedValidation",
    "Suggestion",
    "planted_validation",
    "suggest_settings",
]
