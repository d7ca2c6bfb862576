"""``anomalib-lite inspect``: verdicts on new images."""

import math
import shutil
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, islice

from ..data.images import NoneReadable
from ..data.names import find_images
from ..inspection import columns_of
from ..records import UNREADABLE, Record, as_json
from ..report.figures import main_promise
from ..texts import plural
from . import ALL_GOOD, NOT_DONE, SOME_FLAGGED
from .clusters import workers
from .console import Console
from .outputs import check_all_differ
from .pictures import Pictures
from .scoring import Inspector, counted, described, load_detector, skips_listed
from .tables import Tables
from .watch import Recorded, Stop, Watch, rounds, warnings_once


def run(args: Namespace, console: Console) -> int:
    """Inspect, print, and write what was asked for."""
    inspect = _watched if args.watch else _once
    check_all_differ(args.csv, args.jsonl, args.report)
    with Tables(args.csv, args.jsonl) as tables, skips_listed():
        return inspect(args, console, tables)


def _tell_if_undecided(detector, console):
    """Say that there is no threshold, or one that no image can reach."""
    if not math.isfinite(detector.score_levels().threshold):
        console.say(f"warning: {main_promise(detector)}")


class _Results:
    """Where records go, and what they add up to."""

    def __init__(
        self, console: Console, tables: Tables, pictures: Pictures, columns: Sequence[str]
    ):
        self._console, self._tables, self._pictures = console, tables, pictures
        self._columns = columns
        self._verdicts, self._start = Counter(), time.perf_counter()

    def take(self, records: Iterable[Record]) -> None:
        """Write and print records as they come; then everything that shows many of them at once."""
        n_before = self._verdicts.total()
        for record in records:
            self._tables.write(record)  # first: what is printed is not inspected again
            self._verdicts[record.verdict] += 1
            self._pictures.add(record)
            is_json = self._console.is_json
            line = as_json(record, self._columns) if is_json else described(record)
            self._console.result(line)
        if self._verdicts.total() > n_before:
            self._tables.sync()
            self._pictures.update()

    def finish(self, n_missed: int) -> int:
        """Say how many images had which verdict; the exit code."""
        seconds = time.perf_counter() - self._start
        self._console.say(f"{counted(self._verdicts)}; {seconds:.1f} s")
        self._pictures.finish()
        if n_missed or self._verdicts[UNREADABLE] or self._verdicts["undecided"]:
            return NOT_DONE
        return SOME_FLAGGED if self._verdicts["anomalous"] else ALL_GOOD


def _once(args, console, tables):
    tables.check_replaceable()
    detector = load_detector(args.detector)
    _tell_if_undecided(detector, console)
    paths, problems = find_images(args.images)
    for problem in problems:
        console.error(problem)
    if not paths:
        return NOT_DONE  # a mistake; tables stay as they are
    pictures = Pictures(args, detector, console)  # a mistake there leaves tables as they are
    columns = columns_of(detector)
    with workers(args, console) as client:
        results = _Results(console, tables, pictures, columns)
        records, folder = Inspector(detector).inspect(paths), None
        if client is not None:
            folder = tables.run_folder
            records = _begun(_by_workers(detector, paths, client, args.chunk, folder, console))
        tables.replace(columns)
        results.take(records)
    if folder is not None:
        shutil.rmtree(folder)  # of what is in the tables by now
    return results.finish(len(problems))


def _begun(records):
    """The same records, of which the first is there: mistakes of a call show before it."""
    return chain([*islice(records, 1)], records)


def _by_workers(detector, paths, client, chunk, folder, console):
    """Records as of an Inspector, by workers; what is done is kept in a folder."""
    from ..distributed.scoring import RefusedImages, iter_records

    n_told = 0
    try:
        for record in iter_records(
            detector,
            paths,
            client,
            out=folder,
            chunk=chunk,
            verbose=console.shows_progress_beside_results,
        ):
            yield record
            n_told += 1
    except (NoneReadable, RefusedImages):
        inspector = Inspector(detector)
        for path in paths[n_told:]:
            yield from inspector.inspect([path])


def _watched(args, console, tables):
    with Stop() as stop, warnings_once():
        recorded, detector = Recorded(), load_detector(args.detector)
        _tell_if_undecided(detector, console)
        inspector, pictures = Inspector(detector), Pictures(args, detector, console)
        columns = columns_of(detector)

        def take(record):
            recorded.add_record(record)
            pictures.add_old(record)

        tables.resume(take, columns)
        console.say(f"watching; {plural(len(recorded), 'image')} in the table already")
        watch = Watch(args.images, recorded, console.say)
        results = _Results(console, tables, pictures, columns)
        for records in rounds(watch, inspector.inspect, stop, args.interval):
            results.take(records)
        if watch.waiting:
            console.say(f"{plural(len(watch.waiting), 'file')} not whole, or not read yet")
        return results.finish(watch.n_missed)
