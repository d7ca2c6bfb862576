"""From map values to colors and opacity."""

import math
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

_PLACE = 0.4  # of the threshold among the colors, from 0 to 1
_REACH = 8  # how far above the threshold colors go on, in distances from normal to threshold


class ColorScale(NamedTuple):
    """The colors of map values, and the value that is marked.

    Attributes
    ----------
    lowest : float
        The first color, and transparent, from here down.
    highest : float
        The last color from here up.
    threshold : float or None
        Where a map becomes suspicious: always the same color, a contour on the map, a line on the
        color bar. None if there is none between the limits.
    """

    lowest: float
    highest: float
    threshold: float | None = None

    @classmethod
    def of(
        cls,
        maps: list[np.ndarray],
        levels: Any = None,
        vmin: float | None = None,
        vmax: float | None = None,
    ) -> "ColorScale":
        """By the levels of a detector where there are any, else by the maps that are shown.

        Parameters
        ----------
        maps : list of ndarray
        levels : MapLevels, pair (normal, threshold) of floats, or None
        vmin, vmax : float or None
            Limits that are given.

        Examples
        --------
        >>> ColorScale.of([np.array([[0.0, 100.0]])], levels=(1.0, 4.0))
        ColorScale(lowest=1.0, highest=28.0, threshold=4.0)
        >>> ColorScale.of([np.array([[0.0, 100.0]])])
        ColorScale(lowest=50.0, highest=100.0, threshold=None)
        """
        normal, threshold = _checked_levels(levels)
        if threshold is not None:
            lowest, highest = normal, threshold + _REACH * (threshold - normal)
        else:
            values = np.concatenate([np.ravel(heat) for heat in maps] or [np.zeros(1)])
            lowest, highest = float(np.median(values)), float(values.max())
            highest = max(highest, lowest + _least_distance(lowest))
        lowest, highest = _limit("vmin", vmin, lowest), _limit("vmax", vmax, highest)
        if not lowest < highest:
            raise ValueError(
                f"vmin, vmax: expected limits of the color scale with vmin < vmax, got {lowest:g} "
                f"and {highest:g}."
            )
        is_inside = threshold is not None and lowest < threshold < highest
        return cls(lowest, highest, threshold if is_inside else None)

    def place(self, values: np.ndarray) -> np.ndarray:
        """Place of values among the colors, from 0 to 1.

        Linear up to the threshold. From there on the square root, by which both what is just above
        it and what is far above it can be told apart.

        Examples
        --------
        >>> ColorScale(1, 9, threshold=5).place(np.array([0, 3, 5, 6, 9, 99]))
        array([0. , 0.2, 0.4, 0.7, 1. , 1. ])
        """
        values = np.clip(np.asarray(values, dtype=float), self.lowest, self.highest)
        if self.threshold is None:
            return (values - self.lowest) / (self.highest - self.lowest)
        below = (values - self.lowest) / (self.threshold - self.lowest)
        above = np.maximum(values - self.threshold, 0) / (self.highest - self.threshold)
        return np.where(
            values <= self.threshold, _PLACE * below, _PLACE + (1 - _PLACE) * above**0.5
        )

    def value(self, places: np.ndarray) -> np.ndarray:
        """Values at places among the colors: the inverse of :meth:`place`."""
        places = np.asarray(places, dtype=float)
        if self.threshold is None:
            return self.lowest + places * (self.highest - self.lowest)
        below = self.lowest + places / _PLACE * (self.threshold - self.lowest)
        above = np.maximum(places - _PLACE, 0) / (1 - _PLACE)
        above = self.threshold + above**2 * (self.highest - self.threshold)
        return np.where(places <= _PLACE, below, above)

    def opacity(self, heat: np.ndarray) -> np.ndarray:
        """From 0, at the lowest value, to 1, at the threshold or else at the highest value."""
        place = self.place(heat)
        return np.sqrt(place) if self.threshold is None else np.minimum(place / _PLACE, 1)


def _checked_levels(levels):
    """Normal level and threshold as floats, or Nones, as of a detector without a threshold."""
    if levels is None:
        return None, None
    try:
        normal, threshold = map(float, levels)
    except (TypeError, ValueError) as error:
        raise ValueError(f"levels: expected a pair (normal, threshold), got {levels!r}.") from error
    if not (math.isfinite(normal) and math.isfinite(threshold)):
        return None, None
    return min(normal, threshold - _least_distance(threshold)), threshold


def _least_distance(value):
    return 1e-6 * max(abs(value), 1e-6)


def _limit(name, value, default):
    if value is None:
        return default
    if isinstance(value, bool) or not (isinstance(value, Real) and math.isfinite(value)):
        raise ValueError(f"{name}: expected a finite number or None, got {value!r}.")
    return float(value)
