"""``anomalib-lite threshold``: from fresh good parts, a rate of false alarms, or by hand."""

from argparse import Namespace
from typing import Any

from sklearn.frozen import FrozenEstimator

from ..data.names import find_images
from ..decide.conformal import ConformalDetector
from ..io.card import read_card
from ..texts import plural
from .console import Console
from .outputs import check_may_write_detector, clean, described_places, now
from .scoring import left_out_lines, load_detector, readable
from .thresholds import threshold_in_words, threshold_of


def run(args: Namespace, console: Console) -> int:
    """Set the threshold, write the file anew, and say what changed."""
    output = args.detector if args.output is None else args.output
    check_may_write_detector(output, args.force or args.output is None)
    detector, notes = load_detector(args.detector), read_card(args.detector).notes
    before, old = threshold_of(detector), detector.offset_
    values = {"output": output}
    if args.good:
        paths = find_images(args.good).all_or_error()
        images = readable(paths) if args.skip_unreadable else paths
        console.say(f"calibrating on {plural(len(images), 'image')} ...")
        detector = _calibrated(detector, images, args)
        values |= {"images": len(images), "skipped": sorted({*paths} - {*images})}
        values["flagged_before"] = int((detector.calibration_scores_ < old).sum())
        what = f"from good parts ({len(images)} from {described_places(args.good)})"
    else:
        detector = _set_by_hand(detector, args)
        what = "from the known scores of good parts" if args.score is None else "by hand"
    detector.save(output, notes={**notes, "threshold set": f"{now()}, {what}"})
    values |= {**clean(threshold_of(detector)), "before": clean(before)}
    console.report(values, _lines(values, what))
    return 0


def _calibrated(detector: Any, images: list[str], args: Namespace) -> Any:
    """The detector with a threshold from the images; a ConformalDetector if it is to be, or is."""
    is_conformal = isinstance(detector, ConformalDetector)
    if args.alpha is None and not is_conformal:
        return detector.set_threshold(images=images, false_alarm_rate=args.false_alarm_rate)
    rates = (args.alpha, args.false_alarm_rate, detector.false_alarm_rate)
    rate = next(rate for rate in rates if rate is not None)
    if is_conformal and len(detector.detectors_) > 1:
        raise ValueError(
            f"{args.detector}: holds {len(detector.detectors_)} detectors, one for each fold, "
            "which cannot be calibrated anew. Fit with --conformal instead."
        )
    inner = detector.detectors_[0] if is_conformal else detector
    return ConformalDetector(FrozenEstimator(inner), false_alarm_rate=rate).fit(images)


def _set_by_hand(detector, args):
    if args.score is None:
        return detector.set_threshold(false_alarm_rate=args.false_alarm_rate)
    if isinstance(detector, ConformalDetector):
        raise ValueError(
            f"{args.detector}: holds a ConformalDetector, whose threshold follows from its rate. "
            "Give a --false-alarm-rate."
        )
    return detector.set_threshold(score=-args.score)


def _lines(values, what):
    yield f"{values['output']}: threshold set {what}"
    yield f"before: {threshold_in_words(values['before'])}"
    yield f"now:    {threshold_in_words(values)}"
    yield from left_out_lines(values.get("skipped", ()))
    if "images" in values:
        yield (
            f"the old threshold would have called {values['flagged_before']:,} of the "
            f"{plural(values['images'], 'good part')} anomalous"
        )
