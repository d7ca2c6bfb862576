"""Plant defects of many kinds, sizes and strengths in images of good parts."""

from collections.abc import Callable
from functools import partial
from numbers import Real

import numpy as np
from scipy import ndimage

from ..validation import check_choice
from .drawing import as_pixels, blend, blob, changed_pixels, per_channel, redrawn
from .rasters import FULL_SCALE
from .synthetic import DEFECTS

SMALLEST = 16
"""Side in pixels of the smallest window that a defect is planted in, and of the smallest image."""

_FEWEST = 4  # changed pixels that make a small defect visible
_TRIES = 100  # draws, each in another place, most of which may be background


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
    angle = strength * rng.choice([-1, 1]) * rng.uniform(0.5, 0.9) * opacity
    at = [
        center[0] + np.cos(angle) * y - np.sin(angle) * x,
        center[1] + np.sin(angle) * y + np.cos(angle) * x,
    ]
    return blend(image, _sampled(image, at), opacity > 0)


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
"""Defects of a place, by name: called as :func:`scratch` is, on the window that holds one."""


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
    return image * per_channel(1 + 0.15 * strength * ramp, image)


def _tint(image, rng, strength):
    if image.ndim == 2:
        return _brightness(image, rng, strength)
    gains = rng.normal(size=image.shape[2])
    return image * (1 + 0.1 * strength * gains / np.abs(gains).max())


def _blur(image, _rng, strength):
    sigma = strength * max(1.0, min(image.shape[:2]) / 200)
    return ndimage.gaussian_filter(image, sigma, axes=(0, 1))


def _noise(image, rng, strength):
    noise = rng.normal(size=image.shape[:2])
    return image + 0.3 * strength * image.std() * per_channel(noise, image)


def _zoom(image, rng, strength):
    factor = (1 + 0.15 * strength) ** rng.choice([-1, 1])
    return _moved(image, np.diag([factor, factor]))


def _stretch(image, rng, strength):
    factor = (1 + 0.2 * strength) ** rng.choice([-1, 1])
    return _moved(image, np.diag(rng.permutation([factor, 1.0])))


def _turn(image, rng, strength):
    angle = np.deg2rad(6) * strength * rng.choice([-1, 1])
    return _moved(
        image, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    )


def _warp(image, rng, strength):
    side = min(image.shape[:2])
    at = np.indices(image.shape[:2]).astype(float)
    for axis in at:
        field = ndimage.gaussian_filter(rng.normal(size=axis.shape), side / 12, mode="wrap")
        axis += 0.015 * strength * side * field / field.std()
    return _sampled(image, at)


GLOBAL: dict[str, Callable[[np.ndarray, np.random.Generator, float], np.ndarray]] = {
    f.__name__.removeprefix("_"): f
    for f in (_brightness, _contrast, _shading, _tint, _blur, _noise, _zoom, _stretch, _turn, _warp)
}
"""Changes of a whole image, by name: each makes floats of an image, a generator and a strength."""


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


# -- planting -------------------------------------------------------------------------------------


def planted(
    image: np.ndarray,
    kind: str,
    random_state: int | np.random.Generator | None = None,
    *,
    size: float = 1.0,
    strength: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Plant a defect in an image of a good part.

    A defect of a place is drawn into a square window somewhere in the image, with which it scales.
    A change of the whole image has no size: zoom, stretch, turn and warp mirror what lies beyond
    the border.

    Parameters
    ----------
    image : ndarray of shape (H, W), (H, W, 1) or (H, W, 3)
        bool, uint8, uint16 or floats in [0, 1], of at least 16 pixels per side.
    kind : str
        A key of `LOCAL`: scratch, stain, crack, missing, misprint, smear, dent, displaced, grain,
        faded; or of `GLOBAL`: brightness, contrast, shading, tint (of gray images brightness),
        blur, noise, zoom, stretch, turn, warp.
    random_state : int, Generator or None, default=None
        Passed to :func:`numpy.random.default_rng`.
    size : float, default=1.0
        Side of the window as a fraction of the image's smaller side, in (0, 1]. A window has at
        least 16 pixels per side.
    strength : float, default=1.0
        Factor on the opacity of a defect, which is capped at 1, or on the amount of change.

    Returns
    -------
    damaged : ndarray, shape and dtype of the image
    mask : ndarray of shape (H, W), bool
        The pixels that a defect of a place changed: outside of it the image is as it was. All
        pixels of an image that is changed as a whole.

    Raises
    ------
    ValueError
        If an argument is out of range, or if none of many draws, at as many places, is visible.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite.data import planted
    >>> weave = np.add.outer(np.arange(64) % 7 * 20, np.arange(64) % 5 * 20).astype(np.uint8)
    >>> damaged, mask = planted(weave, "scratch", random_state=0, size=0.5)
    >>> damaged.shape, bool((damaged[~mask] == weave[~mask]).all()), int(mask.any(0).sum()) <= 32
    ((64, 64), True, True)
    >>> bool(planted(weave, "turn", random_state=0)[1].all())
    True
    """
    check_kind(kind)
    check_size(size)
    check_strength(strength)
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"image: expected (H, W), (H, W, 1) or (H, W, 3), got {image.shape}.")
    if image.dtype.name not in FULL_SCALE and image.dtype.kind != "f":
        raise ValueError(
            f"image: expected dtype uint8, uint16, bool or float in [0, 1], got {image.dtype}."
        )
    if min(image.shape[:2]) < SMALLEST:
        raise ValueError(
            f"image: expected at least {SMALLEST} pixels per side to plant a defect in, got "
            f"{image.shape[0]} x {image.shape[1]}."
        )
    rng = np.random.default_rng(random_state)
    found = visibly_planted(image, kind, rng, size=size, strength=strength)
    if found is None:
        raise ValueError(
            f"{kind!r} of size {size:g} and strength {strength:g} is invisible in this image, of "
            f"values with a standard deviation of {image.std():.3g}. Leave the kind out, or plant "
            "larger or stronger defects."
        )
    return found


def visibly_planted(
    image: np.ndarray,
    kind: str,
    rng: np.random.Generator,
    *,
    size: float,
    strength: float,
    tries: int = _TRIES,
) -> tuple[np.ndarray, np.ndarray] | None:
    """What :func:`planted` returns of valid arguments; None if none of some draws is visible."""
    shape, is_global = image.shape[:2], kind in GLOBAL
    side = min(shape) if is_global else round(max(SMALLEST, size * min(shape)))
    draw = partial(_changed if is_global else _damaged, image, kind, rng, side, strength)
    found = redrawn(draw, max(_FEWEST, side**2 / 2000), tries=tries)
    if found is None or not is_global:
        return found
    return found[0], np.ones(shape, dtype=bool)


def check_kind(kind: str) -> None:
    """Raise ValueError unless this is a kind of defect."""
    check_choice("kind", kind, [*LOCAL, *GLOBAL])


def check_size(size: float) -> None:
    """Raise ValueError unless a window may have this size."""
    if not (isinstance(size, Real) and 0 < size <= 1):
        raise ValueError(f"size: expected a number in (0, 1], got {size!r}.")


def check_strength(strength: float) -> None:
    """Raise ValueError unless defects may have this strength."""
    if not (isinstance(strength, Real) and 0 < strength < np.inf):
        raise ValueError(f"strength: expected a positive number, got {strength!r}.")


def _damaged(image, kind, rng, side, strength):
    """A defect in a window somewhere."""
    top, left = (int(rng.integers(n - side + 1)) for n in image.shape[:2])
    window = np.s_[top : top + side, left : left + side]
    damaged, mask = image.copy(), np.zeros(image.shape[:2], dtype=bool)
    damaged[window], mask[window] = LOCAL[kind](image[window], rng, strength)
    return damaged, mask


def _changed(image, kind, rng, _side, strength):
    """The whole image changed, and where that can be seen."""
    damaged = as_pixels(GLOBAL[kind](image.astype(float), rng, strength), image.dtype)
    return damaged, changed_pixels(damaged, image)
