"""``anomalib-lite inspect``: verdicts on new images."""

import time
from argparse import Namespace
from collections import Counter

from ..records import UNREADABLE, as_json
from . import ALL_GOOD, NOT_DONE, SOME_FLAGGED
from .console import Console
from .inputs import find_images
from .scoring import counted, described, inspect_files, load_detector
from .tables import Tables


def run(args: Namespace, console: Console) -> int:
    """Inspect, print, and write what was asked for."""
    detector = load_detector(args.detector)
    paths, problems = find_images(args.images)
    for problem in problems:
        console.error(problem)
    records, start = [], time.perf_counter()
    with Tables(args.csv, args.jsonl) as tables:
        for record in inspect_files(detector, paths):
            console.result(as_json(record) if args.json else described(record))
            tables.write(record)
            records.append(record)
    seconds = time.perf_counter() - start
    verdicts = Counter(record.verdict for record in records)
    console.say(f"{counted(verdicts)}; {seconds:.1f} s")
    if problems or verdicts[UNREADABLE] or verdicts["undecided"]:
        return NOT_DONE
    return SOME_FLAGGED if verdicts["anomalous"] else ALL_GOOD
