"""``anomalib-lite threshold``: calibrate a detector on fresh good parts."""

import time
from argparse import Namespace
from typing import Any

from sklearn.frozen import FrozenEstimator

from ..data.images import ImageStream
from ..decide.conformal import ConformalDetector
from ..io.card import read_card
from .console import Console
from .inputs import find_images
from .outputs import check_may_write, clean, described_images, now, plural
from .scoring import load_detector
from .thresholds import threshold_in_words, threshold_of


def run(args: Namespace, console: Console) -> int:
    """Calibrate, write the file anew, and say what changed."""
    output = args.detector if args.output is None else args.output
    check_may_write(output, args.force or args.output is None)
    detector, notes = load_detector(args.detector), read_card(args.detector).notes
    images = find_images(args.good).all_or_error()
    if args.skip_unreadable:
        images = [image.path for image in ImageStream(images, on_error="skip")]
    before, old = threshold_of(detector), detector.offset_
    console.say(f"calibrating on {plural(len(images), 'image')} ...")
    start = time.perf_counter()
    detector = _calibrated(detector, images, args)
    calibrated = f"{now()}, {described_images(args.good, len(images))}"
    detector.save(output, notes={**notes, "calibrated": calibrated})
    now_flagged = int((detector.calibration_scores_ < old).sum())
    values = {
        "output": output,
        "images": len(images),
        "seconds": round(time.perf_counter() - start, 2),
        **clean(threshold_of(detector)),
        "before": clean(before),
        "flagged_before": now_flagged,
    }
    console.report(values, _lines(values))
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


def _lines(values):
    n = values["images"]
    yield f"{values['output']}: calibrated on {plural(n, 'image')} in {values['seconds']:.1f} s"
    yield f"before: {threshold_in_words(values['before'])}"
    yield f"now:    {threshold_in_words(values)}"
    yield (
        f"the old threshold would have called {values['flagged_before']} of these {n} good parts "
        "anomalous"
    )
