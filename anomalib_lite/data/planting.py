"""Plant defects of many kinds, sizes and strengths in photographs of good parts."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from .synthetic import DEFECTS, blend, blob

Change = Callable[[np.ndarray, np.random.Generator, float], np.ndarray]


def smear(
    image: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Blur a spot along one direction."""
    length = max(3, min(image.shape[:2]) // 7)
    target = ndimage.uniform_filter1d(image.astype(float), length, axis=int(rng.integers(2)))
    return blend(image, target, strength * blob(image.shape[:2], rng, softness=0.2))


def dent(
    image: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Twist a spot around its center."""
    opacity = blob(image.shape[:2], rng, softness=0.8)
    center = ndimage.center_of_mass(opacity)
    y, x = (axis - middle for axis, middle in zip(np.indices(opacity.shape), center, strict=True))
    angle = rng.choice([-1, 1]) * rng.uniform(0.5, 0.9) * opacity
    at = [
        center[0] + np.cos(angle) * y - np.sin(angle) * x,
        center[1] + np.sin(angle) * y + np.cos(angle) * x,
    ]
    return blend(image, _sampled(image, at), strength * (opacity > 0))


def displaced(
    image: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Show in a spot what lies beside it."""
    opacity = blob(image.shape[:2], rng, softness=0.1)
    shift = rng.uniform(0.2, 0.5, 2) * rng.choice([-1, 1], 2) * min(opacity.shape)
    target = np.roll(image, shift.round().astype(int), axis=(0, 1)).astype(float)
    return blend(image, target, strength * opacity)


def grain(
    image: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Roughen a spot by noise."""
    noise = ndimage.gaussian_filter(rng.normal(size=image.shape[:2]), 0.7)
    noise = noise[..., None] if image.ndim == 3 else noise
    target = image + 1.2 * image.std() * noise / noise.std()
    return blend(image, target, strength * blob(image.shape[:2], rng, softness=0.3))


def faded(
    image: np.ndarray, rng: np.random.Generator, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Take most of its contrast from a spot."""
    target = 0.25 * image + 0.75 * image.mean((0, 1))
    return blend(image, target, strength * blob(image.shape[:2], rng, softness=0.3))


LOCAL = DEFECTS | {f.__name__: f for f in (smear, dent, displaced, grain, faded)}


# -- changes of whole images ----------------------------------------------------------------------


def _brightness(image, rng, strength):
    return image * (1 + rng.choice([-0.12, 0.12]) * strength)


def _contrast(image, rng, strength):
    mean = image.mean((0, 1))
    return mean + (1 + rng.choice([-0.25, 0.25]) * strength) * (image - mean)


def _shading(image, rng, strength):
    y, x = (np.linspace(-1, 1, n) for n in image.shape[:2])
    angle = rng.uniform(0, 2 * np.pi)
    ramp = np.add.outer(np.sin(angle) * y, np.cos(angle) * x)
    return image * _per_channel(1 + 0.15 * strength * ramp, image)


def _tint(image, rng, strength):
    if image.ndim == 2:
        return _brightness(image, rng, strength)
    gains = rng.normal(size=image.shape[2])
    return image * (1 + 0.1 * strength * gains / np.abs(gains).max())


def _blur(image, _rng, strength):
    return ndimage.gaussian_filter(image, strength * min(image.shape[:2]) / 200, axes=(0, 1))


def _noise(image, rng, strength):
    noise = rng.normal(size=image.shape[:2])
    return image + 0.3 * strength * image.std() * _per_channel(noise, image)


def _zoom(image, rng, strength):
    factor = (1 + 0.15 * strength) ** rng.choice([-1, 1])
    return _moved(image, np.diag([factor, factor]))


def _stretch(image, rng, strength):
    factor = (1 + 0.2 * strength) ** rng.choice([-1, 1])
    return _moved(image, np.diag(rng.permutation([factor, 1.0])))


def _turn(image, rng, strength):
    angle = np.deg2rad(6) * strength * rng.choice([-1, 1])
    return _moved(image, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


def _warp(image, rng, strength):
    side = min(image.shape[:2])
    at = np.indices(image.shape[:2]).astype(float)
    for axis in at:
        field = ndimage.gaussian_filter(rng.normal(size=axis.shape), side / 12, mode="wrap")
        axis += 0.015 * strength * side * field / field.std()
    return _sampled(image, at)


GLOBAL: dict[str, Change] = {
    f.__name__.removeprefix("_"): f
    for f in (_brightness, _contrast, _shading, _tint, _blur, _noise, _zoom, _stretch, _turn, _warp)
}


def planted(
    image: np.ndarray,
    kind: str,
    rng: np.random.Generator,
    *,
    size: float = 1.0,
    strength: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    if kind in GLOBAL:
        changed = GLOBAL[kind](image.astype(float), rng, strength)
        changed = np.clip(np.rint(changed), 0, 255).astype(np.uint8)
        return changed, np.ones(image.shape[:2], dtype=bool)
    side = round(np.clip(size * min(image.shape[:2]), _SMALLEST, min(image.shape[:2])))
    top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
    window = np.s_[top : top + side, left : left + side]
    damaged, mask = image.copy(), np.zeros(image.shape[:2], dtype=bool)
    damaged[window], mask[window] = LOCAL[kind](image[window], rng, strength)
    return damaged, mask


_SMALLEST = 16  # side of the window that a defect is planted into, in pixels


def _per_channel(plane, image):
    return plane[..., None] if image.ndim == 3 else plane


def _moved(image, matrix):
    """An image seen through a linear map around its center."""
    center = (np.array(image.shape[:2]) - 1) / 2
    at = np.tensordot(matrix, np.indices(image.shape[:2]) - center[:, None, None], 1)
    return _sampled(image, at + center[:, None, None])


def _sampled(image, at):
    """The image at places (2, H, W), mirrored beyond its border."""
    planes = image.astype(float) if image.ndim == 3 else image.astype(float)[..., None]
    sampled = [
        ndimage.map_coordinates(planes[..., c], at, order=1, mode="reflect")
        for c in range(planes.shape[2])
    ]
    return np.stack(sampled, 2).reshape(image.shape)
