"""What a page says in numbers and in words."""

import inspect
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..deploy.reader import OnnxDetector
from ..intervals import wilson_interval
from ..ranking import may_be_dirty
from ..records import UNREADABLE, Record
from ..texts import plural

ABSENT = "\N{EN DASH}"
_CONFIDENCE = 0.95
_PERCENT = "\N{NO-BREAK SPACE}%"
_N_CURVE = 200  # points of a curve that can be told apart


class Share(NamedTuple):
    """A share of a number of images, with Wilson's 95 % interval.

    Examples
    --------
    >>> share = Share.of_counts(12, 50)
    >>> " ".join(str(share).split())
    '24 % (95 % interval: 14 to 37 %)'
    """

    count: int
    total: int
    low: float
    high: float

    @classmethod
    def of_counts(cls, count: int, total: int) -> "Share | None":
        """None of nothing."""
        if total == 0:
            return None
        return cls(count, total, *wilson_interval(count, total, confidence=_CONFIDENCE))

    def __str__(self):
        low, high = percent(self.low).removesuffix(_PERCENT), percent(self.high)
        share, confidence = percent(self.count / self.total), percent(_CONFIDENCE)
        return f"{share} ({confidence} interval: {low} to {high})"


def percent(share: float) -> str:
    """A share in percent, of two digits; the sign stays on the line of the number.

    Examples
    --------
    >>> [percent(share).split() for share in (0.0123, 0.5, 1)]
    [['1.2', '%'], ['50', '%'], ['100', '%']]
    """
    digits = f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.2g}"
    return digits + _PERCENT


def number(value: float | None, n_digits: int = 4) -> str:
    """A number of so many digits; a dash for what there is not.

    Examples
    --------
    >>> number(1234.5), number(0.5, 2)
    ('1234', '0.5')
    """
    if value is None or math.isnan(value):
        return ABSENT
    text = f"{value:.{n_digits}g}"
    return text if "e" in text else text.replace("-", "\N{MINUS SIGN}")


def size_of_file(n_bytes: int) -> str:
    """A number of bytes in a unit.

    Examples
    --------
    >>> size_of_file(512), size_of_file(21_500_000)
    ('512 bytes', '21.5 MB')
    """
    for unit, name in ((1e6, "MB"), (1e3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.3g} {name}"
    return f"{n_bytes} bytes"


# -- verdicts -------------------------------------------------------------------------------------


def headline(records: list[Record]) -> str:
    """The result in one line."""
    verdicts = [record.verdict for record in records]
    n_read = len(records) - verdicts.count(UNREADABLE)
    n = verdicts.count("anomalous")
    if n_read == 0:
        return f"None of {plural(len(records), 'picture')} could be read"
    if verdicts.count("undecided") == n_read:
        return f"{plural(n_read, 'part')} ranked, without a threshold"
    return f"{n:,} of {plural(n_read, 'part')} {'looks' if 1 in (n, n_read) else 'look'} anomalous"


def known_scores(detector: Any) -> np.ndarray:
    """Anomaly scores of the images that the detector was calibrated on."""
    scores = -np.asarray(getattr(detector, "calibration_scores_", ()), dtype=float)
    return scores[np.isfinite(scores)]


def learned_from(detector: Any) -> tuple[int | None, int | None]:
    """Numbers of images and of calibration scores; None for what is not known."""
    if isinstance(detector, OnnxDetector):
        return detector.card.n_images, detector.card.n_calibration
    n_images = getattr(inner_of(detector), "n_images_", None)
    return None if n_images is None else int(n_images), len(known_scores(detector))


def device_of(detector: Any) -> str | None:
    """What the detector computes on."""
    if isinstance(detector, OnnxDetector):
        return "cpu, by ONNX Runtime"
    device = getattr(inner_of(detector), "device_", None)
    return None if device is None else str(device)


def inner_of(detector: Any) -> Any:
    """The first of the detectors in a ``ConformalDetector``; any other detector itself."""
    return detector.detectors_[0] if hasattr(detector, "n_calibration_") else detector


def suspects_of(detector: Any, n: int = 20) -> list[tuple[str, float]]:
    """Names and anomaly scores of the training images that belong least among the others.

    Of a detector that learned from images of which some may be defective, n at most; of any other
    none, nor of a ``ConformalDetector``, whose detectors know no more than their own shares of the
    images.
    """
    if not may_be_dirty(detector):
        return []
    suspects = detector.suspects_
    return [*zip(suspects.names[:n], suspects.scores[:n].tolist(), strict=False)]


# -- what the threshold promises ------------------------------------------------------------------


def main_promise(detector: Any) -> str:
    """The first sentence of :func:`promise`, with plain spaces, for terminals and files."""
    return promise(detector)[0].replace("\N{NO-BREAK SPACE}", " ")


def promise(detector: Any) -> list[str]:
    """In sentences, what is to be expected of the threshold; the first is the main one."""
    if isinstance(detector, OnnxDetector):
        return [detector.card.promise]
    if hasattr(detector, "n_calibration_"):
        return _guarantee(detector)
    offset, known = float(getattr(detector, "offset_", math.nan)), known_scores(detector)
    if not math.isfinite(offset):
        return [
            "There is no threshold: the detector learned from too few images to have one.",
            "Scores rank the parts. Calibrate the detector on more good parts to get verdicts.",
        ]
    rate = float(detector.false_alarm_rate)
    if not len(known) or offset != np.quantile(-known, rate, method="weibull"):
        n_above = int(np.count_nonzero(known > -offset))
        return [
            f"The threshold was set by hand, at an anomaly score of {number(-offset)}.",
            f"Of {plural(len(known), 'good part')} that the detector was calibrated on, "
            f"{n_above} {'is' if n_above == 1 else 'are'} beyond it.",
        ]
    from scipy import stats

    n = len(known)
    expected = max(rate, 1 / (n + 1))
    low, high = stats.beta.ppf((0.05, 0.95), expected * (n + 1), (1 - expected) * (n + 1))
    sentences = [
        f"{_of_new_parts(expected)} will be called anomalous.",
        f"The threshold was read from the scores of {plural(n, 'good part')}. With so many, the "
        f"rate that it really has is likely between {percent(low)} and {percent(high)}.",
    ]
    if rate < expected * (1 - 1e-9):
        sentences.append(
            f"{percent(rate)} was asked for, which so few images cannot support."
            + (f" It takes {math.ceil(1 / rate - 1e-9) - 1:,}." if rate else "")
        )
    return [*sentences, _SAME_SOURCE]


_SAME_SOURCE = (
    "This holds for parts photographed as those were: after a change of product, lamp or camera, "
    "calibrate again."
)


def _of_new_parts(rate):
    base = next(base for base in (100, 1000, 10_000, 100_000, 10**9) if rate * base >= 0.95)
    return f"Of {base:,} new good parts, about {rate * base:.2g}"


def _guarantee(detector):
    rate, n = float(detector.false_alarm_rate), int(detector.n_calibration_)
    if not math.isfinite(detector.offset_):
        return [
            "Nothing is called anomalous: too few good parts were held out.",
            f"A rate of {percent(rate)} takes {math.ceil(1 / rate - 1e-9) - 1:,} of them, and "
            f"there are {n:,}. The p-values hold.",
        ]
    if detector.method == "split":
        first = f"A new good part is called anomalous with a probability of at most {percent(rate)}"
        first += ": a guarantee."
    else:
        first = f"{_of_new_parts(rate)} will be called anomalous; at most about twice as many."
    return [
        first,
        f"It rests on the scores of {plural(n, 'good part')} that were not learned from. A "
        "p-value is the share of good parts that would look at least as odd.",
        _SAME_SOURCE,
    ]


# -- with labels ----------------------------------------------------------------------------------


class Truth(NamedTuple):
    """How verdicts compare with labels.

    Attributes
    ----------
    escapes, overkill : Share or None
        Defective parts called normal, and good parts called anomalous; None without any, or
        without a threshold.
    auroc : float or None
        None unless there are both.
    curve : ndarray of shape (n, 2) or None
        False and true positive rates.
    n_good, n_bad : int
        Of the images that could be read.
    for_recall : list of RecallThreshold
        What it would cost to find shares of all defects.
    """

    escapes: Share | None
    overkill: Share | None
    auroc: float | None
    curve: np.ndarray | None
    n_good: int
    n_bad: int
    for_recall: list[Any]

    @classmethod
    def of(cls, records: list[Record], y: np.ndarray) -> "Truth":
        """By labels (n_images,), +1 good and -1 defective."""
        is_read = np.array([record.verdict != UNREADABLE for record in records], dtype=bool)
        flagged = np.array([record.verdict == "anomalous" for record in records], dtype=bool)
        decided = np.array([record.verdict != "undecided" for record in records], dtype=bool)
        bad, good = is_read & (y == -1), is_read & (y == 1)
        auroc, curve, for_recall = None, None, []
        if bad.any() and good.any():
            from sklearn.metrics import roc_curve

            from ..metrics import image_auroc
            from ..recall import usual_recall_thresholds

            all_scores = np.array([record.anomaly_score for record in records])
            for_recall = usual_recall_thresholds(-all_scores[bad], -all_scores[good])
            scores = all_scores[is_read]
            auroc = image_auroc(bad[is_read], scores)
            curve = np.stack(roc_curve(bad[is_read], scores)[:2], axis=1)
            keep = np.unique(np.linspace(0, len(curve) - 1, _N_CURVE).astype(int))
            curve = curve[keep]
        return cls(
            escapes=_share(~flagged & bad & decided, bad & decided),
            overkill=_share(flagged & good & decided, good & decided),
            auroc=auroc,
            curve=curve,
            n_good=int(good.sum()),
            n_bad=int(bad.sum()),
            for_recall=for_recall,
        )


def _share(some, of_these):
    return Share.of_counts(int(some.sum()), int(of_these.sum()))


# -- settings -------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """A parameter of a detector.

    Attributes
    ----------
    name, value : str
    is_default : bool
    """

    name: str
    value: str
    is_default: bool


def method_of(detector: Any) -> str:
    """What a detector is, and what it wraps; what it was before it was exported.

    Examples
    --------
    >>> from anomalib_lite import PaDiM
    >>> method_of(PaDiM())
    'PaDiM'
    """
    if isinstance(detector, OnnxDetector):
        return detector.card.method
    names = [type(each).__name__ for each in (detector, inner_of(detector))]
    return " of ".join(dict.fromkeys(names))


def settings_of(detector: Any, prefix: str = "") -> Iterator[Setting]:
    """Parameters of a detector, and of the estimators among them as ``detector__name``.

    An exported one has none that could be set.

    Examples
    --------
    >>> from anomalib_lite import PaDiM
    >>> [each for each in settings_of(PaDiM(image_size=64)) if not each.is_default]
    [Setting(name='image_size', value='64', is_default=False)]
    """
    if isinstance(detector, OnnxDetector):
        return
    signature = inspect.signature(type(detector).__init__).parameters
    for name, value in sorted(detector.get_params(deep=False).items()):
        default = signature[name].default if name in signature else inspect.Parameter.empty
        value = _thawed(value)
        text = _plainly(value)
        yield Setting(prefix + name, text, text == _plainly(default))
        if hasattr(value, "get_params") and not isinstance(value, type):
            yield from settings_of(value, f"{prefix}{name}__")


def _thawed(value):
    """The estimator inside of scikit-learn's FrozenEstimator; anything else as it is."""
    frozen = getattr(sys.modules.get("sklearn.frozen"), "FrozenEstimator", ())
    return value.estimator if isinstance(value, frozen) else value


def _plainly(value):
    """A value as text that is the same in every process."""
    if value is None or isinstance(value, bool | int | float | str | np.number):
        return str(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_plainly, value))})"
    return type(value).__name__
