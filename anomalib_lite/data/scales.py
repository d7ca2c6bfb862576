"""How images are scaled: what those of fit were like, and images that are scaled otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from .images import CheckedImage, Glance

_N_SUSPECT = 32  # images scaled another way, from the first on, after which a call gives up


@dataclass
class ValueRange:
    """Range of values of the images of fit; notices images scaled differently.

    Integer images of a dtype seen at fit are assumed to be scaled as they were then. Any other
    image must have a brightness that the same scaling can explain: a dtype not seen at fit may be
    at most ``other_dtype`` times as bright as the images of fit, and floats, whose scale is only a
    convention, at most ``other_scale`` times brighter or darker. A different scale changes all
    values, so the highest value, the mean and the median of the image must all be out of
    proportion: a bright defect on a dark field raises only some of them. A constant image is never
    too dark: a black image may be an anomaly.

    An anomaly may change all three (a lamp that is off); a mistake does so in every image of a
    call.

    Attributes
    ----------
    highest : float
        Highest value seen at fit, as a fraction of full scale.
    dtypes : set of str
        Names of the dtypes seen at fit.
    mean, median : float
        Highest mean and highest median of an image of fit, as fractions of full scale.
    """

    highest: float = 0.0
    dtypes: set[str] = field(default_factory=set)
    mean: float = 0.0
    median: float = 0.0
    other_dtype = 8.0
    other_scale = 128.0

    def __post_init__(self):
        if not 0 <= self.highest <= 1:
            raise ValueError(f"highest: expected a value in [0, 1], got {self.highest}.")

    def learn(self, image: CheckedImage | Glance) -> None:
        """Extend the range by an image of fit."""
        levels = image.levels
        self.highest = max(self.highest, levels.highest)
        self.mean = max(self.mean, levels.mean)
        self.median = max(self.median, levels.median)
        self.dtypes.add(image.dtype)

    def extend(self, other: "ValueRange") -> None:
        """Extend the range by that of other images of fit."""
        for name in ("highest", "mean", "median"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))
        self.dtypes |= other.dtypes

    def trusts(self, dtype: str) -> bool:
        """Whether images of a dtype are taken to be scaled as those of fit, whatever they show."""
        return self.highest == 0 or (dtype in self.dtypes and not dtype.startswith("float"))

    def mistake(self, image: CheckedImage | Glance) -> str | None:
        """Why the image looks scaled differently from those of fit; None if it does not."""
        if self.trusts(image.dtype):
            return None
        seen, levels = image.dtype in self.dtypes, image.levels
        # a level of 0 at fit, such as the median over a black ground, tells nothing
        pairs = [
            (now, then)
            for now, then in zip(levels[:3], (self.highest, self.mean, self.median), strict=True)
            if then > 0
        ]
        brighter = self.other_scale if seen else self.other_dtype
        too_bright = all(now > then * brighter for now, then in pairs)
        too_dark = all(now * self.other_scale < then for now, then in pairs)
        if not too_bright and (not too_dark or levels.lowest == levels.highest):
            return None
        return (
            f"its {image.dtype} values reach {levels.highest:.3g} of full scale, those of the "
            f"images of fit ({', '.join(sorted(self.dtypes))}) {self.highest:.3g}. Scale both the "
            "same way."
        )


@dataclass
class Scaling:
    """How the first images of a call, or of a part of it, are scaled: wrongly, until one is right.

    Attributes
    ----------
    first : str or None
        The first image that is scaled in another way than those of fit, and how.
    n_wrong : int
        Such images before the first one that is right.
    is_right : bool
        Whether one is.

    Examples
    --------
    >>> call = Scaling()
    >>> call.add(Scaling("image 0: too bright.", 20))
    >>> call.add(Scaling("image 20: too bright.", 3, is_right=True))
    >>> call.finish()
    """

    first: str | None = None
    n_wrong: int = 0
    is_right: bool = False

    def add(self, later: "Scaling") -> None:
        """Go on with the images that come next; ValueError if too many were wrong and none right.

        A mistake shows in every image of a call, an anomaly in some.
        """
        self.note(later)
        if self.n_wrong >= _N_SUSPECT:
            self._refuse(f"each of the first {_N_SUSPECT} images")

    def note(self, later: "Scaling") -> None:
        """The same, without an error."""
        if self.is_right:
            return
        self.first = self.first or later.first
        self.n_wrong += later.n_wrong
        self.is_right = later.is_right

    def finish(self) -> None:
        """End the call: ValueError if there were images and none was right."""
        if not self.is_right and self.n_wrong:
            self._refuse("the only image" if self.n_wrong == 1 else "every image")

    def _refuse(self, which):
        raise ValueError(f"{self.first} This is so for {which} of the call.")


_NOTES: ContextVar[list[Scaling] | None] = ContextVar("scalings", default=None)


@contextmanager
def scales_noted() -> Iterator[list[Scaling]]:
    """Context for a part of a call: checks refuse nothing, and leave what they see in this list.

    Whoever knows all parts judges.

    Examples
    --------
    >>> with scales_noted() as scalings:
    ...     ScaleCheck(ValueRange(highest=1.0, dtypes={"uint8"})).finish()
    >>> scalings
    [Scaling(first=None, n_wrong=0, is_right=False)]
    """
    notes = []
    token = _NOTES.set(notes)
    try:
        yield notes
    finally:
        _NOTES.reset(token)


class ScaleCheck:
    """Refuses the images of a call if all of them look scaled in another way than those of fit.

    Parameters
    ----------
    value_range : ValueRange
        Of the images of fit.

    Examples
    --------
    >>> check = ScaleCheck(ValueRange(highest=1.0, dtypes={"uint8"}))
    >>> check.finish(), check.is_right
    (None, False)
    """

    def __init__(self, value_range: ValueRange):
        self._value_range, self._seen = value_range, Scaling()
        notes = _NOTES.get()
        self._only_notes = notes is not None
        if self._only_notes:
            notes.append(self._seen)

    @property
    def is_right(self) -> bool:
        """Whether an image has been seen that is scaled as those of fit, or others judge."""
        return self._only_notes or self._seen.is_right

    def needs_levels(self, dtype: str) -> bool:
        """Whether an image of some dtype has to be measured before it is seen."""
        return not (self._seen.is_right or self._value_range.trusts(dtype))

    def see(self, image: CheckedImage | Glance) -> None:
        """Look at the next image; ValueError if it is one of many and none was right."""
        if self._seen.is_right:
            return
        mistake = self._value_range.mistake(image)
        seen = Scaling(is_right=True) if mistake is None else _wrong(image, mistake)
        (self._seen.note if self._only_notes else self._seen.add)(seen)

    def finish(self) -> None:
        """End the call: ValueError if there were images and none was right."""
        if not self._only_notes:
            self._seen.finish()


def _wrong(image, mistake):
    return Scaling(f"{image.label}: {mistake}", 1)
