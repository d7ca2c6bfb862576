"""``anomalib-lite export``: a whole detector as one ONNX file."""

import os
from argparse import Namespace

from ..data.names import find_images
from ..deploy.graph import is_onnx
from ..io.card import read_card
from ..report.figures import method_of
from ..texts import plural, printable
from .console import Console
from .outputs import check_may_write, size_in_words
from .scoring import load_detector


def run(args: Namespace, console: Console) -> int:
    """Write the file, and say how it compares."""
    check_may_write(args.output, args.force)
    if os.path.exists(args.output) and not is_onnx(args.output):
        raise ValueError(
            f"{args.output}: exists already, and is not an ONNX file. Give another name."
        )
    detector = load_detector(args.detector, device="cpu")
    notes = read_card(args.detector).notes
    images = find_images(args.images).all_or_error() if args.images else None
    console.say("writing, and comparing both on images ...")
    parity = detector.export(args.output, images=images, input=args.input, notes=notes)
    values = {
        "output": args.output,
        "method": method_of(detector),
        "bytes": os.path.getsize(args.output),
        "images": parity.n_images,
        "images_given": images is not None,
        "score_difference": parity.score,
        "map_difference": parity.map,
    }
    console.report(values, _lines(values))
    return 0


def _lines(values):
    size = size_in_words(values["bytes"])
    yield f"{printable(values['output'])}: {values['method']}, {size}"
    images = plural(values["images"], "image") + ("" if values["images_given"] else " made up")
    yield (
        f"compared on {images}: labels are equal, scores differ by "
        f"{values['score_difference']:.1e}, maps by {values['map_difference']:.1e} of their range"
    )
