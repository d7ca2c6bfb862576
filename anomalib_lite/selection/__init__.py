"""Choosing a detector and its settings by good images alone."""

from .planted import PlantedDefect, PlantedTable, PlantedValidation, planted_validation

__all__ = [
    "PlantedDefect",
    "PlantedTable",
    "PlantedValidation",
    "planted_validation",
]
