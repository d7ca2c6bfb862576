"""JSON in which no name comes twice, and no number is NaN or infinite."""

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """What JSON says; ValueError if it is none, or names something twice, or holds no number."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("says something twice.")
    return found


def _no_number(text):
    raise ValueError(f"holds {text} as a number.")
