"""Draw spots and lines in images of any dtype: what planted defects are made of."""

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage, spatial

from .rasters import FULL_SCALE


def redrawn(
    draw: Callable[[], tuple[np.ndarray, np.ndarray]], fewest: float, tries: int = 20
) -> tuple[np.ndarray, np.ndarray] | None:
    """Draw a defect until it is visible: some draws fall on flat or saturated spots.

    Parameters
    ----------
    draw : callable
        It gives a damaged image and the mask of what changed.
    fewest : float
        Pixels of the mask that make a defect visible.
    tries : int, default=20

    Returns
    -------
    damaged, mask : ndarrays, or None
        None if no draw is visible.
    """
    for _ in range(tries):
        damaged, mask = draw()
        if mask.sum() >= fewest:
            return damaged, mask
    return None


def blend(
    image: np.ndarray, target: np.ndarray, opacity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Blend an image into a target by an opacity (H, W), in one connected region.

    Returns
    -------
    damaged : ndarray, shape and dtype of the image
    mask : ndarray of shape (H, W), bool
        The pixels that changed.
    """
    opacity = per_channel(np.clip(opacity, 0, 1), image)
    damaged = as_pixels(image + opacity * (target - image), image.dtype)
    changed = changed_pixels(damaged, image)
    regions, n_regions = ndimage.label(changed, structure=np.ones((3, 3)))
    if n_regions > 1:  # specks at the soft edge
        changed = regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
    return np.where(per_channel(changed, image), damaged, image), changed


def as_pixels(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats as pixels of a dtype: in its range, and rounded where it has no fractions."""
    values = values if dtype.kind == "f" else np.rint(values)
    return np.clip(values, 0, _full_scale(dtype)).astype(dtype)


def changed_pixels(damaged: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Mask (H, W) of what changed by more than one of 256 gray levels, which may be rounding."""
    change = np.abs(damaged - image.astype(float)) > _full_scale(image.dtype) / 255
    return change.any(axis=2) if image.ndim == 3 else change


def _full_scale(dtype):
    return FULL_SCALE.get(dtype.name, 1.0)


def per_channel(plane: np.ndarray, image: np.ndarray) -> np.ndarray:
    """A plane (H, W) that NumPy broadcasts over the channels of an image, where it has any."""
    return plane[..., None] if image.ndim == 3 else plane


def local_mean(image: np.ndarray) -> np.ndarray:
    """The image blurred by a Gaussian of a 28th of its side."""
    sigma = 8 * min(image.shape[:2]) / 224
    return ndimage.gaussian_filter(image.astype(float), sigma, axes=(0, 1))


def stroke(shape: Sequence[int], points: np.ndarray, width: np.ndarray) -> np.ndarray:
    """Opacity in [0, 1] of an antialiased line through dense points; `width` in pixels at each."""
    pixels = np.indices(shape).reshape(2, -1).T
    distance, nearest = spatial.cKDTree(points).query(pixels)
    return np.clip(np.maximum(width, 1.5)[nearest] / 2 + 0.5 - distance, 0, 1).reshape(shape)


def random_walk(
    start: np.ndarray, angle: float, length: float, side: int, rng: np.random.Generator
) -> np.ndarray:
    """Points, a quarter of a pixel apart, of a line that changes direction every few pixels."""
    n_points, n_straight = int(4 * length), max(1, round(20 * side / 224))
    turns = np.repeat(rng.normal(0, 0.65, n_points // n_straight + 1), n_straight)[:n_points]
    return start + np.cumsum(np.stack([np.sin(angle + turns), np.cos(angle + turns)], 1) / 4, 0)


def blob(shape: Sequence[int], rng: np.random.Generator, softness: float) -> np.ndarray:
    """Opacity in [0, 1] of a round, irregular spot; `softness` is edge width over radius."""
    radius = max(2, rng.uniform(0.055, 0.13) * min(shape))
    center = rng.uniform(1.4 * radius, np.array(shape) - 1.4 * radius)
    dy, dx = np.indices(shape) - center[:, None, None]
    stretch, angle = rng.uniform(0.8, 1.25), np.arctan2(dy, dx)
    rim = 1 + sum(
        rng.uniform(0, 0.2 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)
    )
    return np.clip((rim - np.hypot(dy * stretch, dx / stretch) / radius) / softness + 0.5, 0, 1)
