"""``anomalib-lite fit``: learn what good parts look like, and write a detector."""

import time
from argparse import Namespace
from inspect import signature
from typing import Any

import numpy as np

import anomalib_lite

from ..data.layouts import masks_of_images
from ..data.names import find_images
from ..decide.conformal import ConformalDetector
from ..ranking import SuspectImages, may_be_dirty
from ..report.figures import method_of
from ..selection.suggesting import suggest_settings
from ..texts import plural, printable
from .clusters import workers
from .console import Console
from .outputs import check_may_write_detector, clean, described_places, now
from .scoring import left_out_lines, readable
from .settings import METHODS, SUGGESTED
from .thresholds import threshold_in_words, threshold_of

_N_UNUSUAL, _N_SUSPECTS = 5, 20
_SEED = 0  # the same images make the same detector


def run(args: Namespace, console: Console) -> int:
    """Fit, save, and say what was learned."""
    check_may_write_detector(args.output, args.force)
    paths = find_images(args.good).all_or_error()
    bad = [] if args.bad is None else find_images(args.bad).all_or_error()
    masks = None if args.masks is None else masks_of_images(bad, args.bad, args.masks)
    start = time.perf_counter()
    detector = _make(args, paths, console)
    method = METHODS.get(args.method, "what is suggested")
    with workers(args, console) as client:
        beside = f" and {plural(len(bad), 'defect')}" if bad else ""
        if masks is not None:
            beside += f", {len(bad) - masks.count(None)} of them with a mask,"
        console.say(f"fitting {method} on {plural(len(paths), 'image')}{beside} ...")
        if bad:
            images, defects, masks = _fit_labeled(detector, paths, bad, masks, args)
        else:
            images, defects = _fit(detector, paths, client, args, console), []
    values = {
        "output": args.output,
        "method": method_of(detector),
        "images": len(images),
        "skipped": sorted({*paths, *bad} - {*images, *defects}),
        "seconds": round(time.perf_counter() - start, 2),
        **clean(threshold_of(detector)),
        "unusual": _unusual(detector, images),
    }
    if bad:
        known = detector.defect_scores_[~np.isnan(detector.defect_scores_)]
        values |= {
            "defects": len(defects),
            "masks": len(masks) - masks.count(None),
            "defects_judged": len(known),  # by what was learned of others
            "defects_found": int((known < detector.offset_).sum()),
        }
    check_may_write_detector(args.output, args.force)  # again: a fit may take hours
    detector.save(
        args.output,
        notes={
            "fitted": now(),
            "images": f"{len(images)} from {described_places(args.good)}",
            **({"defects": f"{len(defects)} from {described_places(args.bad)}"} if bad else {}),
        },
    )
    console.report(values, _lines(values))
    return 0


def _fit(detector, paths, client, args, console):
    """Fit, here or by the workers of a client; gives the images that were learned from."""
    if client is None:
        images = readable(paths) if args.skip_unreadable else paths
        detector.fit(images)
        return images
    from ..distributed.fitting import fit_paths

    on_error = "skip" if args.skip_unreadable else "raise"
    skipped = fit_paths(
        detector,
        paths,
        client,
        chunk=args.chunk,
        on_error=on_error,
        verbose=console.shows_progress,
    )
    left_out = {image.index for image in skipped}
    return [path for i, path in enumerate(paths) if i not in left_out]


def _fit_labeled(detector, good, bad, masks, args):
    """Fit with labels; gives the good and the defective images learned from, and their masks."""
    mask_of = dict(zip(bad, masks or [], strict=False))
    if args.skip_unreadable:
        good, bad = readable(good), readable(bad)
    masks = [mask_of.get(path) for path in bad]
    y = [1] * len(good) + [-1] * len(bad)
    detector.fit([*good, *bad], y, [None] * len(good) + masks)
    return good, bad, masks


def _make(args, paths, console):
    detector = (
        _suggested(args, paths, console) if args.method == SUGGESTED else _named(args, console)
    )
    rate = {} if args.false_alarm_rate is None else {"false_alarm_rate": args.false_alarm_rate}
    if args.conformal:
        return ConformalDetector(detector, random_state=detector.random_state, **rate)
    return detector.set_params(**rate)


def _named(args, console):
    cls = getattr(anomalib_lite, METHODS[args.method])
    return cls(**_params(args, console, cls.__name__, signature(cls).parameters))


def _suggested(args, paths, console):
    good = readable(paths) if args.skip_unreadable else paths
    known = signature(suggest_settings).parameters.keys() - {"X_good", "budget_s"}
    params = _params(args, console, "what is suggested", known)
    suggestion = suggest_settings(good, budget_s=args.budget, **params)
    for reason in suggestion.reasons:
        console.say(reason)
    return suggestion.detector


def _params(args, console, name, known):
    """Settings that were given, which must be known."""
    params = {"random_state": _SEED, "verbose": console.shows_progress, **dict(args.set)}
    unknown = sorted(params.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]}: {name} has no such setting. It has {', '.join(known)}.")
    return params


def _unusual(detector: Any, paths: list[str]) -> list[dict[str, Any]]:
    """The most unusual images of fit, by their out-of-sample scores."""
    severity = detector.score_levels().severity
    if hasattr(detector, "suspects_"):
        suspects = detector.suspects_
        places, scores = suspects.indices, suspects.scores
    else:  # a ConformalDetector, of whose images some were held out
        ranked = SuspectImages.of(-detector.calibration_scores_)
        places, scores = detector.calibration_indices_[ranked.indices], ranked.scores
    n = _N_SUSPECTS if may_be_dirty(detector) else _N_UNUSUAL
    return [
        clean(
            {
                "path": paths[place],
                "anomaly_score": float(score),
                "severity": float(severity(score)),
            }
        )
        for place, score in zip(places[:n], scores[:n], strict=True)
    ]


def _lines(values):
    n_skipped = len(values["skipped"])
    left_out = f", {n_skipped} unreadable ones left out" if n_skipped else ""
    yield (
        f"{values['output']}: {values['method']} fitted on {plural(values['images'], 'image')} in "
        f"{values['seconds']:.1f} s{left_out}"
    )
    yield from left_out_lines(values["skipped"])
    yield threshold_in_words(values)
    if values.get("defects_judged"):
        yield (
            f"of {values['defects_judged']:,} defects it finds {values['defects_found']:,}, each "
            "by what it learned without it"
        )
    if values["unusual"]:
        yield "most unusual images; do these belong among the good ones?"
        for image in values["unusual"]:
            severity = image["severity"]
            text = "" if severity is None else f"  severity {severity:5.2f}"
            yield f"  score {image['anomaly_score']:<8.4g}{text}  {printable(image['path'])}"
