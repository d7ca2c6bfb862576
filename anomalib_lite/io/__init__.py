"""Fitted estimators in files, without pickle."""

from .persistence import SaveMixin, load

__all__ = [
    "SaveMixin",
    "load",
]
