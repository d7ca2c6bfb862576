"""Fitted estimators in files, without pickle."""

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:  # what editors and type checkers see
    from .card import Card as Card
    from .card import read_card as read_card
    from .persistence import SaveMixin as SaveMixin
    from .persistence import load as load

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Card": "card",
        "SaveMixin": "persistence",
        "load": "persistence",
        "read_card": "card",
    },
)

__all__ = [
    "Card",
    "SaveMixin",
    "load",
    "read_card",
]
