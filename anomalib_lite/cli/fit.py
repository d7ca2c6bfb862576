"""``anomalib-lite fit``: learn what good parts look like, and write a detector."""

import datetime
import json
import os
import time

import numpy as np

import anomalib_lite

from ..data.images import ImageStream
from ..decide.conformal import ConformalDetector
from .console import Console, printable
from .inputs import find_images
from .settings import METHODS

_N_UNUSUAL = 5


def run(args, console: Console) -> int:
    """Fit, save, and say what was learned."""
    check_may_write(args.output, args.force)
    paths, problems = find_images(args.good)
    if problems:
        raise ValueError(problems[0])
    detector = _make(args)
    images = ImageStream(paths, on_error="skip" if args.skip_unreadable else "raise")
    console.say(f"fitting {type(detector).__name__} on {len(paths)} images ...")
    start = time.perf_counter()
    detector.fit(images if args.skip_unreadable else paths)
    seconds = time.perf_counter() - start
    skipped = {each.index for each in images.skipped}
    learned = [path for i, path in enumerate(paths) if i not in skipped]
    detector.save(args.output, notes=_notes(args, learned, seconds))
    console.report(*_said(args, detector, learned, seconds))
    return 0
