"""Sizes in pixels."""

from numbers import Integral


def as_pair(name, size):
    """(H, W) from a positive int or a pair of them; ``name`` is the parameter to blame."""
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(_is_side(side) for side in pair):
        raise ValueError(f"{name}: expected a positive int or a pair (H, W) of them, got {size!r}.")
    return int(pair[0]), int(pair[1])


def _is_side(value):
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1
