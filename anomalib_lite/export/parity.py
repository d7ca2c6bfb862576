"""Whether an exported detector says what the original says."""

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from ..data.rasters import FULL_SCALE

SCORES, MAPS = 1e-4, 1e-3
"""Largest differences allowed: of scores, relative, and of maps, as a share of their range."""


class Parity(NamedTuple):
    """How two detectors differ on the same images.

    Attributes
    ----------
    n_images : int
    score : float
        Largest difference of anomaly scores, over the larger of the score and the distance from the
        median normal image to the threshold.
    map : float
        Largest difference of anomaly maps, over the range from the lowest value in the first
        detector's maps to the highest, or to the level of ``map_levels`` if that is higher.
    n_labels : int
        Images with another label, other than those that score as the threshold, up to rounding.
    worst : str
        The image whose scores differ most.
    mislabeled : str or None
        The first image with another label.
    """

    n_images: int
    score: float
    map: float
    n_labels: int
    worst: str
    mislabeled: str | None = None


def compare(original: Any, exported: Any, images: Any) -> Parity:
    """Compare two detectors on images, which are read twice."""
    levels = original.score_levels()
    reach = abs(levels.threshold - levels.normal)
    reach = reach if math.isfinite(reach) else 0.0
    n, mislabeled, score, worst, heat = 0, [], 0.0, None, 0.0
    level = original.map_levels().threshold
    lowest, highest = math.inf, level if math.isfinite(level) else -math.inf
    pairs = zip(original.iter_inspect(images), exported.iter_inspect(images), strict=True)
    for n, (a, b) in enumerate(pairs, 1):
        name = f"image {n - 1}" + (f" ({a.path})" if a.path else "")
        unit = max(abs(a.score), reach, 1e-30)
        apart = abs(a.score - b.score) / unit
        if worst is None or not apart <= score:
            score, worst = apart, name
        heat = np.maximum(heat, np.abs(a.map - b.map).max())
        lowest, highest = min(lowest, a.map.min()), max(highest, a.map.max())
        is_on_threshold = abs(-a.score - levels.threshold) <= SCORES * unit
        if a.label != b.label and not is_on_threshold:
            mislabeled.append(name)
    map_apart = float(heat / max(highest - lowest, 1e-30))
    return Parity(n, float(score), map_apart, len(mislabeled), worst, next(iter(mislabeled), None))


def check(parity: Parity) -> None:
    """Raise ValueError, which says what differs, unless two detectors say the same."""
    problems = []
    if not parity.score <= SCORES:
        problems.append(f"scores by {parity.score:.1e} ({parity.worst}; {SCORES:.0e} is allowed)")
    if not parity.map <= MAPS:
        problems.append(f"maps by {parity.map:.1e} of their range ({MAPS:.0e} is allowed)")
    if parity.n_labels:
        problems.append(
            f"labels of {parity.n_labels} of {parity.n_images} images (first {parity.mislabeled})"
        )
    if problems:
        raise ValueError(
            f"export: the exported detector differs from this one: {', '.join(problems)}. "
            "Nothing was written."
        )


def made_up_images(detector: Any, dtype: str) -> list[np.ndarray]:
    """Images of several sizes, about as bright as those of fit: cloudy, noisy, with a bright spot.

    Parameters
    ----------
    detector : BaseDetector
        Fitted.
    dtype : {"uint8", "uint16", "float32"}
    """
    rng = np.random.default_rng(0)
    seen, least = detector.value_range_, detector.input_.patch_size
    height, width = detector.input_.image_size
    shapes = [
        (height, width),
        (height, width, 3),
        (height * 4 // 3, width * 5 // 4),
        (max(least, height // 2), max(least, width * 2 // 3), 3),
        (max(least, height * 5 // 7), width * 2),
        (height * 3 // 2 + 1, width + 1, 3),
    ]
    return [_made_up(rng, shape, seen, dtype) for shape in shapes]


def _made_up(rng, shape, seen, dtype):
    mean, highest = seen.mean or 0.4, seen.highest or 0.8  # 0: all images of fit were black
    clouds = ndimage.gaussian_filter(rng.normal(size=shape), (8, 8, 0)[: len(shape)])
    noise = rng.normal(scale=0.03, size=shape)
    image = mean * (1 + 0.3 * clouds / clouds.std() + noise)
    top, left = shape[0] // 3, shape[1] // 2
    image[top : top + shape[0] // 8, left : left + shape[1] // 8] = highest
    image = image.clip(0, highest)
    full_scale = FULL_SCALE.get(dtype)
    return image.astype(dtype) if full_scale is None else (image * full_scale).astype(dtype)
