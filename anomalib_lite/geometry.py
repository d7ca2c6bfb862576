"""Sizes in pixels."""


def as_pair(name, size):
    """(H, W) from a positive int or a pair of them; ``name`` is the parameter to blame."""
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side >= 1 for side in pair):
        raise ValueError(f"{name}: expected a positive int or a pair (H, W) of them, got {size!r}.")
    return pair
