"""Images scored by a detector from a file, for every command that looks at images."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..data.images import ImageStream
from ..deploy.graph import is_onnx
from ..deploy.reader import OnnxDetector
from ..inspection import InspectedImage, record_of
from ..io.card import Card, read_card
from ..records import ALL_VERDICTS, UNREADABLE, Record
from ..texts import plural, printable


def load_detector(path: str, device: str | None = None) -> Any:
    """A fitted detector of images, on its device or another one; or an exported one.

    Raises
    ------
    ValueError
        If the file holds something else.
    """
    if is_onnx(path):
        return OnnxDetector(path)
    from ..io.persistence import load  # and with it PyTorch

    detector = load(path, device=device)
    if not hasattr(detector, "iter_inspect") or _learned_from_a_table(detector):
        raise ValueError(
            f"{path}: expected a detector of images, got {_described(detector)}, which has no "
            "maps. Score its rows in Python."
        )
    return detector


def card_of(path: str, detector: Any) -> Card:
    """What the file of a detector of :func:`load_detector` says of itself."""
    if not isinstance(detector, OnnxDetector):
        return read_card(path)
    card = detector.card
    versions = {"anomalib_lite": card.version}
    return Card(card.method, versions, card.notes, detector.digest, detector.n_bytes)


def _learned_from_a_table(detector):
    fitted = getattr(detector, "detectors_", [detector])[0]
    return getattr(fitted, "input_", True) is None


def _described(estimator):
    inner = getattr(estimator, "detector", None)
    name = type(estimator).__name__
    return f"a {name}" if inner is None else f"a {name} of {type(inner).__name__}"


class Inspector:
    """Gives records of image files; the detector's levels are computed once.

    Parameters
    ----------
    detector : estimator
        Of :func:`load_detector`.
    """

    def __init__(self, detector: Any):
        self.detector = detector
        self._levels = detector.score_levels(), detector.map_levels()

    def inspect(self, paths: Sequence[str]) -> Iterator[Record]:
        """A record of each file, in order, as they are scored; what cannot be read is unreadable.

        See :func:`look_at`.
        """
        for image in look_at(self.detector, paths):
            yield record_of(image, *self._levels)


def look_at(
    detector: Any, paths: Sequence[str], maps: bool | str = "network"
) -> Iterator[InspectedImage]:
    """What a detector says of each file, in order, with maps as ``iter_inspect`` has them.

    If none of them can be read, or all look scaled in another way than the images of fit, so that
    their scores would mean nothing, each is skipped for its own reason.
    """
    n_told = 0
    try:
        for image in detector.iter_inspect(paths, maps=maps, on_error="skip"):
            yield image
            n_told += 1
    except ValueError as error:
        if len(paths) == 1:
            reason = str(error).removeprefix("X: none of 1 images can be read. ")
            yield InspectedImage(math.nan, 0, None, paths[0], reason)
            return
        for path in paths[n_told:]:
            yield from look_at(detector, [path], maps)


def readable(paths: Sequence[str]) -> list[str]:
    """The files that can be read; ValueError if there is none."""
    return [image.path for image in ImageStream(paths, on_error="skip")]


def left_out_lines(paths: Iterable[str]) -> Iterator[str]:
    """A line for each file that was left out."""
    for path in paths:
        yield f"  left out: {printable(path)}"


@contextmanager
def skips_listed() -> Iterator[None]:
    """No warning of skipped images, each of which has a line of its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\d+ images? (was|were) skipped", UserWarning)
        yield


def described(record: Record) -> str:
    """A line about an image, its path at the end."""
    parts = [f"{record.verdict:<10}"]
    if record.verdict == UNREADABLE:
        return "  ".join([*parts, printable(record.path), f"({printable(record.reason)})"])
    if not math.isnan(record.severity):
        parts.append(f"severity {record.severity:5.2f}")
    parts.append(f"score {record.anomaly_score:<8.4g}")
    if record.p_value is not None:
        parts.append(f"p {record.p_value:.4f}")
    if record.flagged_by:
        parts.append(f"by {printable(', '.join(record.flagged_by))}")
    if record.region is not None and record.verdict == "anomalous":
        left, top, right, bottom = record.region.box
        share = record.region.area / (record.size[0] * record.size[1])
        parts.append(f"box {left},{top},{right},{bottom}  area {_percent(share)}")
    return "  ".join([*parts, printable(record.path)])


def _percent(share):
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.2g} %"


def unreadable_lines(images: Sequence[dict[str, str]]) -> Iterator[str]:
    """Lines about images that could not be read, of which path and reason are given."""
    if images:
        yield "could not be read:"
    for image in images:
        yield f"  {printable(image['path'])}  ({printable(image['reason'])})"


def counted(verdicts: Counter[str]) -> str:
    """How many images have which verdict."""
    counts = ", ".join(f"{verdicts[kind]:,} {kind}" for kind in ALL_VERDICTS if verdicts[kind])
    return f"{plural(verdicts.total(), 'image')}: {counts or 'none'}"
