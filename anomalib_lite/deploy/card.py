"""What an exported file says of its detector: the metadata that make a graph a detector."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Self

from ..data.scales import ValueRange
from ..io.card import checked_notes
from ..io.strict_json import parsed
from ..validation import as_pair, check_choice, check_count

KEY = "anomalib_lite"
"""The entry of the model's metadata that holds the card."""

FORMAT = 1
"""Of the file: a reader refuses a later one."""

INPUTS = ("uint8", "uint16", "float32")
"""Names of the dtypes that a graph may take images in."""


@dataclass(frozen=True, kw_only=True)
class DetectorCard:
    """What an exported file says of its detector.

    Attributes
    ----------
    version : str
        Of the library that wrote it.
    method : str
        What the detector is, and what it wraps, such as ``"PatchCore"``.
    detector : str
        The estimator as text.
    input : {"uint8", "uint16", "float32"}
        Dtype of the images that the graph takes.
    image_size : tuple (H, W)
        What images are resized to.
    smallest_side : int
        The smallest side of an image that is accepted, in pixels.
    value_range : ValueRange
        Of the images of fit.
    offset : float or None
        Threshold on ``score_samples``: minus the anomaly score from which an image is anomalous.
    false_alarm_rate : float or None
        What was asked for; see ``promise`` for what is to be expected.
    normal : float or None
        Median anomaly score of normal images.
    map_levels : tuple (normal, threshold) or None
        What is normal in maps.
    n_images : int or None
        Images learned from.
    calibration : dict
        ``n``, the number of calibration scores, and their ``quantiles`` by share: of
        ``score_samples``, so low ones are those of the least normal images.
    promise : str
        A sentence about what the threshold promises.
    conformal : dict or None
        Of a ``ConformalDetector``: ``n_calibration``, the n of its p-values.
    parity : dict
        How far the graph was from the detector when it was exported: ``n_images``, ``source``
        ("given" or "made up"), and the largest differences of ``score`` and ``map``, as shares.
    notes : dict of str to str
        What else it was to say of itself.
    """

    version: str
    method: str
    detector: str
    input: str
    image_size: tuple[int, int]
    smallest_side: int
    value_range: ValueRange
    offset: float | None = None
    false_alarm_rate: float | None = None
    normal: float | None = None
    map_levels: tuple[float, float] | None = None
    n_images: int | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    promise: str = ""
    conformal: dict[str, Any] | None = None
    parity: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name in ("version", "method", "detector", "promise"):
            _check_type(name, getattr(self, name), str)
        check_choice("input", self.input, INPUTS)
        self._set("image_size", as_pair("image_size", self.image_size))
        check_count("smallest_side", self.smallest_side)
        _check_type("value_range", self.value_range, ValueRange)
        for name in ("offset", "false_alarm_rate", "normal"):
            self._set(name, _number_or_none(name, getattr(self, name)))
        self._set("map_levels", _levels_or_none(self.map_levels))
        if self.n_images is not None:
            check_count("n_images", self.n_images)
        for name in ("calibration", "parity"):
            _check_type(name, getattr(self, name), dict)
        if self.conformal is not None:
            _check_type("conformal", self.conformal, dict)
        checked_notes(self.notes)

    def _set(self, name, value):
        object.__setattr__(self, name, value)

    @property
    def n_calibration(self) -> int | None:
        """Number of calibration scores, where the file says it."""
        n = self.calibration.get("n")
        return n if isinstance(n, int) else None

    def to_json(self) -> str:
        """The card as the value of the entry :data:`KEY`."""
        values = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        values["value_range"] = _range_as_json(self.value_range)
        return json.dumps({"format": FORMAT, **values}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The card of a text.

        Entries of other names are passed over: a later version may say more.

        Raises
        ------
        ValueError
            If it is the text of no card, or of a later format.
        """
        try:
            values = parsed(text)
        except RecursionError as error:
            raise ValueError("expected the card of a detector, got nested JSON.") from error
        if not isinstance(values, dict) or not isinstance(values.get("format"), int):
            raise ValueError("expected the card of a detector, got other JSON.")
        if values["format"] > FORMAT:
            raise ValueError(
                f"written in format {values['format']}; this version of anomalib_lite reads up to "
                f"{FORMAT}. Update it: pip install --upgrade --no-deps anomalib-lite."
            )
        known = {}
        for each in dataclasses.fields(cls):
            if each.name in values:
                known[each.name] = values[each.name]
            elif each.default is each.default_factory is dataclasses.MISSING:
                raise ValueError(f"expected the card of a detector, but it has no {each.name}.")
        known["value_range"] = _range_of(known["value_range"])
        return cls(**known)


def _check_type(name, value, cls):
    if not isinstance(value, cls):
        raise ValueError(f"{name}: expected a {cls.__name__}, got {value!r}.")


def _number(name, value):
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}.")
    return float(value)


def _number_or_none(name, value):
    return None if value is None else _number(name, value)


def _levels_or_none(levels):
    if levels is None:
        return None
    if not isinstance(levels, list | tuple) or len(levels) != 2:
        raise ValueError(f"map_levels: expected (normal, threshold), got {levels!r}.")
    return tuple(_number("map_levels", value) for value in levels)


def _range_as_json(value_range):
    return {
        "highest": float(value_range.highest),
        "mean": float(value_range.mean),
        "median": float(value_range.median),
        "dtypes": sorted(value_range.dtypes),
    }


def _range_of(values):
    _check_type("value_range", values, dict)
    dtypes = values.get("dtypes")
    if not isinstance(dtypes, list) or not all(isinstance(name, str) for name in dtypes):
        raise ValueError(f"value_range: expected names of dtypes, got {dtypes!r}.")
    levels = {
        name: _number(f"value_range.{name}", values.get(name))
        for name in ("highest", "mean", "median")
    }
    return ValueRange(dtypes=set(dtypes), **levels)
