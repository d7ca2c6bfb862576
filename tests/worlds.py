"""Planted worlds: images whose anomalies, and their places, are known."""

import numpy as np


def stripes(n, size=64, *, seed=0):
    """(n, size, size) uint8: vertical stripes 8 px wide with a little noise."""
    rng = np.random.default_rng(seed)
    wave = 128 + 60 * np.sign(np.sin(np.arange(size) * np.pi / 8))
    images = wave + rng.normal(0, 4, (n, size, size))
    return images.clip(0, 255).astype(np.uint8)


def scratched(n, size=64, *, centre=(20, 40), seed=1):
    """Stripes with a short horizontal scratch around ``centre`` (row, column)."""
    images = stripes(n, size, seed=seed)
    row, column = centre
    images[:, row - 2 : row + 2, column - 7 : column + 7] = 255
    return images
