"""JSON that says everything once, in numbers that there are."""

import json
from typing import Any


def parsed(text: str | bytes) -> Any:
    """What JSON says, if it says everything once."""
    return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)


def _once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("says something twice.")
    return found


def _no_number(text):
    raise ValueError(f"holds {text} as a number.")
