"""Fitted estimators in files, without pickle."""

from .card import Card, read_card
from .persistence import SaveMixin, load

__all__ = [
    "Card",
    "SaveMixin",
    "load",
    "read_card",
]
