"""``anomalib-lite evaluate``: how well a detector tells good images from defective ones."""

from argparse import Namespace
from typing import Any

import numpy as np

from ..data.datasets import labeled_mask
from ..data.layouts import LabeledImages, read_test_folder
from ..inspection import record_of
from ..io.card import read_card
from ..metrics import (
    Interval,
    average_precision,
    bootstrap_interval,
    image_auroc,
    wilson_interval,
)
from ..recall import usual_recall_thresholds
from ..records import UNREADABLE, Record
from ..report.figures import method_of
from ..report.page import write_page
from ..tally import PixelTally
from ..texts import plural, printable
from ..validation import check_confidence
from . import ALL_GOOD, NOT_DONE
from .console import Console
from .outputs import check_may_replace_page, clean, now
from .scoring import load_detector, look_at, skips_listed, unreadable_lines


def run(args: Namespace, console: Console) -> int:
    """Inspect, compare with the truth, and say how well it went."""
    check_confidence(args.confidence)
    if args.report is not None:
        check_may_replace_page(args.report)
    detector = load_detector(args.detector)
    images = read_test_folder(args.test, args.masks)
    console.say(f"inspecting {plural(len(images.paths), 'image')} ...")
    tally = None if images.masks is None else PixelTally()
    with skips_listed():
        has_regions = args.report is not None
        records, problems = _inspected(detector, images, tally, has_regions=has_regions)
    for problem in problems:
        console.error(problem)
    values = {
        "detector": args.detector,
        "method": method_of(detector),
        "test": args.test,
        "confidence": args.confidence,
        **_measured(records, images, tally, args.confidence),
        **clean({"threshold": detector.score_levels().threshold}),
        "problems": problems,
    }
    console.report(values, _lines(values))
    if args.report is not None:
        card = read_card(args.detector)
        write_page(args.report, detector, records, y=images.labels, card=card, date=now())
        console.say(f"page: {args.report}")
    return NOT_DONE if problems or values["unreadable"] else ALL_GOOD


def _inspected(
    detector: Any, images: LabeledImages, tally: PixelTally | None, *, has_regions: bool
) -> tuple[list[Record], list[str]]:
    """A record of each image, and what is wrong with masks; maps pass one after the other."""
    levels = detector.score_levels(), detector.map_levels() if has_regions else None
    records, problems = [], list(images.problems)
    maps = "network" if has_regions else False
    looked_at = look_at(detector, images.paths, maps if tally is None else True)
    for i, image in enumerate(looked_at):
        records.append(record_of(image, *levels))
        if tally is not None and image.map is not None:
            try:
                mask = _mask(images, i, image.size)
            except (ValueError, OSError) as error:
                problems.append(str(error))
            else:
                if mask is not None:
                    tally.add(mask, image.map)
    return records, problems


def _mask(images, index, size):
    """The mask of an image; None of a defective one without."""
    path, kind = images.masks[index], images.kinds[index]
    is_normal = images.labels[index] == 1
    if path is None and not is_normal:
        return None
    name = f"the mask of {images.paths[index]}"
    return labeled_mask(path, size, is_normal=is_normal, kind=kind, name=name)


# -- figures --------------------------------------------------------------------------------------


def _measured(
    records: list[Record], images: LabeledImages, tally: PixelTally | None, confidence: float
) -> dict[str, Any]:
    """All figures, as JSON has them."""
    is_read = np.array([record.verdict != UNREADABLE for record in records])
    unreadable = [
        {"path": record.path, "reason": record.reason}
        for record in records
        if record.verdict == UNREADABLE
    ]
    is_bad = images.labels == -1
    n_bad, n = int(is_bad[is_read].sum()), int(is_read.sum())
    if not 0 < n_bad < n:
        which = "defective" if n_bad == 0 else "good"
        raise ValueError(
            f"not one of the {which} images can be read, such as {unreadable[0]['path']} "
            f"({unreadable[0]['reason']}). Figures need good and defective ones."
        )
    return {
        "good": n - n_bad,
        "defective": n_bad,
        **_image_figures(records, is_bad, is_read, confidence),
        **_pixel_figures(tally, confidence),
        **_verdicts(records, images.labels, images.kinds, confidence),
        "for_recall": _for_recall(records, is_bad, is_read, confidence),
        "unreadable": unreadable,
    }


def _image_figures(records, is_bad, is_read, confidence):
    scores = np.array([record.anomaly_score for record in records])
    known = is_bad[is_read], scores[is_read]
    return {
        name: _figure(metric(*known), bootstrap_interval(metric, *known, confidence=confidence))
        for name, metric in (
            ("image_auroc", image_auroc),
            ("average_precision", average_precision),
        )
    }


def _for_recall(records, is_bad, is_read, confidence):
    """Thresholds that would find shares of all defects, and what they would cost."""
    scores = -np.array([record.anomaly_score for record in records])
    known = scores[is_bad & is_read], scores[~is_bad & is_read]
    return [
        {
            "recall": each.recall,
            "threshold": -each.score,
            "escapes": each.n_missed,
            "overkill": each.false_alarm_rate,
        }
        for each in usual_recall_thresholds(*known, confidence=confidence)
    ]


def _pixel_figures(tally, confidence):
    if tally is None or not tally.has_both:
        return {"images_with_masks": 0, "pixel_auroc": None, "aupro": None}
    figures = tally.figures(confidence=confidence)
    return {
        "images_with_masks": len(tally),
        "pixel_auroc": _figure(figures.auroc, figures.auroc_interval),
        "aupro": _figure(figures.aupro, figures.aupro_interval),
    }


def _figure(value: float, interval: Interval) -> dict[str, float]:
    return {"value": value, "low": interval.low, "high": interval.high}


def _verdicts(records, labels, kinds, confidence):
    """Escapes, overkill, and which kinds of defects are found; None without a threshold."""
    decided = [
        (record, label, kind)
        for record, label, kind in zip(records, labels, kinds, strict=True)
        if record.verdict in ("normal", "anomalous")
    ]
    if not decided:
        return {"escapes": None, "overkill": None, "kinds": None}
    bad = [(record, kind) for record, label, kind in decided if label == -1]
    good = [(record, kind) for record, label, kind in decided if label == 1]
    escapes = sorted(
        (one for one in bad if one[0].verdict == "normal"), key=lambda one: one[0].anomaly_score
    )
    overkill = sorted(
        (one for one in good if one[0].verdict == "anomalous"),
        key=lambda one: -one[0].anomaly_score,
    )
    found = [
        {"kind": name, **_share(sum(verdict == "anomalous" for verdict in of), len(of), confidence)}
        for name, of in _by_kind(bad).items()
    ]
    return {
        "escapes": {
            **_share(len(escapes), len(bad), confidence),
            "images": [*map(_named, escapes)],
        },
        "overkill": {
            **_share(len(overkill), len(good), confidence),
            "images": [*map(_named, overkill)],
        },
        "kinds": sorted(found, key=lambda one: (one["share"], one["kind"])),
    }


def _by_kind(bad):
    """Verdicts on the defective images of each kind."""
    verdicts = {}
    for record, kind in bad:
        verdicts.setdefault(kind, []).append(record.verdict)
    return verdicts


def _share(count, total, confidence):
    low, high = wilson_interval(count, total, confidence=confidence)
    return {"count": count, "of": total, "share": count / total, "low": low, "high": high}


def _named(record_and_kind):
    record, kind = record_and_kind
    row = record.as_row()
    names = ("path", "verdict", "anomaly_score", "severity", "p_value")
    return {**{name: row[name] for name in names}, "kind": kind}


# -- in words -------------------------------------------------------------------------------------


def _lines(values):
    yield (
        f"{printable(values['detector'])}: {values['method']} on {values['good']:,} good and "
        f"{values['defective']:,} defective images; {100 * values['confidence']:g} % intervals"
    )
    for name, text in (
        ("image_auroc", "image AUROC"),
        ("average_precision", "average precision"),
        ("pixel_auroc", "pixel AUROC"),
        ("aupro", "AUPRO"),
    ):
        if values[name] is not None:
            yield f"{text:<18}{_in_words(values[name], 'value', '{:.3f}')}"
    if values["images_with_masks"]:
        yield f"pixel figures are from {plural(values['images_with_masks'], 'image')}"
    if values["escapes"] is None:
        yield "no threshold, so no verdicts: escapes and overkill are not known"
    else:
        yield from _verdict_lines(values)
    if values["for_recall"]:
        level = f"{100 * values['confidence']:g} %"
        yield f"to find a share of all such defects, with a confidence of {level}:"
        for each in values["for_recall"]:
            yield (
                f"  {100 * each['recall']:g} % of them: threshold {each['threshold']:.5g}, "
                f"{100 * each['overkill']:.3g} % of the good images called anomalous"
            )
    yield from unreadable_lines(values["unreadable"])


def _verdict_lines(values):
    escapes, overkill, kinds = values["escapes"], values["overkill"], values["kinds"]
    level = values["threshold"]
    yield "nothing is called anomalous:" if level is None else f"at the threshold {level:.5g}:"
    yield f"escapes   {_counted(escapes, 'defective images called good')}"
    yield f"overkill  {_counted(overkill, 'good images called anomalous')}"
    if len(kinds) > 1:
        yield "found of each kind of defect, least first:"
        width = max(len(printable(kind["kind"])) for kind in kinds)
        for kind in kinds:
            yield f"  {printable(kind['kind']):<{width}}  {_counted(kind, 'found')}"
    for title, images in (
        ("escapes, the most normal first:", escapes["images"]),
        ("overkill, the most anomalous first:", overkill["images"]),
    ):
        if images:
            yield title
            yield from map(_image_line, images)


def _counted(share, what):
    of = f"{share['count']:,} of {share['of']:,} {what}"
    return f"{of}: {_in_words(share, 'share', '{:.1f}', 100, ' %')}"


def _in_words(figure, name, form, factor=1, unit=""):
    value, low, high = (form.format(factor * figure[key]) for key in (name, "low", "high"))
    return f"{value}{unit} ({low} to {high}{unit})"


def _image_line(image):
    severity = "" if image["severity"] is None else f"severity {image['severity']:5.2f}  "
    p_value = "" if image["p_value"] is None else f"p {image['p_value']:.4f}  "
    return f"  {severity}score {image['anomaly_score']:<8.4g}  {p_value}{printable(image['path'])}"
