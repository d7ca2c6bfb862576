"""``anomalib-lite threshold``: from good parts, for a share of defects, or by hand."""

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
    before = threshold_of(detector)
    values = {"output": output}
    if args.recall is not None:
        detector, told, what = _for_recall(detector, args, console)
    elif args.good:
        detector, told, what = _from_good_parts(detector, args, console)
    else:
        detector, told = _set_by_hand(detector, args), {}
        what = "from the known scores of good parts" if args.score is None else "by hand"
    detector.save(output, notes={**notes, "threshold set": f"{now()}, {what}"})
    values |= {**told, **clean(threshold_of(detector)), "before": clean(before)}
    console.report(values, _lines(values, what))
    return 0


def _from_good_parts(detector, args, console):
    """The detector with a new threshold, what is told of it, and where it is from."""
    images, told = _images(args.good, args)
    console.say(f"calibrating on {plural(len(images), 'image')} ...")
    old, detector = detector.offset_, _calibrated(detector, images, args)
    told |= {
        "images": len(images),
        "flagged_before": int((detector.calibration_scores_ < old).sum()),
    }
    return detector, told, f"from good parts ({len(images)} from {described_places(args.good)})"


def _for_recall(detector, args, console):
    """The same, for a share of defects."""
    _refuse_conformal(detector, args)
    images, told, what = None, {}, "for the labeled defects of fit"
    if args.bad:
        images, told = _images(args.bad, args)
        console.say(f"scoring {plural(len(images), 'defect')} ...")
        what = f"for defects ({len(images)} from {described_places(args.bad)})"
    confidence = {} if args.confidence is None else {"confidence": args.confidence}
    found = detector.threshold_for(images, recall=args.recall, **confidence)
    told["for_recall"] = clean(found._asdict())
    if images is not None:
        labels = detector.inspect(images, maps=False).labels
        told["missed_before"] = int((labels != -1).sum())
    return detector.set_threshold(score=found.score), told, what


def _images(given, args):
    """Files to read, and which were skipped."""
    paths = find_images(given).all_or_error()
    images = readable(paths) if args.skip_unreadable else paths
    return images, {"skipped": sorted({*paths} - {*images})}


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
    _refuse_conformal(detector, args)
    return detector.set_threshold(score=-args.score)


def _refuse_conformal(detector, args):
    if isinstance(detector, ConformalDetector):
        raise ValueError(
            f"{args.detector}: holds a ConformalDetector, whose threshold follows from its rate. "
            "Give a --false-alarm-rate."
        )


def _lines(values, what):
    yield f"{values['output']}: threshold set {what}"
    yield f"before: {threshold_in_words(values['before'])}"
    yield f"now:    {threshold_in_words(values)}"
    yield from left_out_lines(values.get("skipped", ()))
    if "for_recall" in values:
        found, before = values["for_recall"], ""
        if "missed_before" in values:
            before = f", the old threshold {values['missed_before']}"
        yield (
            f"finds {100 * found['recall']:g} % of such defects at least, with a confidence of "
            f"{100 * found['confidence']:g} %: it misses {found['n_missed']} of "
            f"{found['n_defects']:,}{before}"
        )
        asked, found = values["false_alarm_rate"], found["false_alarm_rate"]
        if found is not None:
            yield (
                f"calls {100 * found:.2g} % of the known good parts anomalous; {100 * asked:g} % "
                "were asked for"
            )
    if "images" in values:
        yield (
            f"the old threshold would have called {values['flagged_before']:,} of the "
            f"{plural(values['images'], 'good part')} anomalous"
        )
