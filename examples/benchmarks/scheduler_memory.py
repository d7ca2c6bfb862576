"""Memory of a scheduler of dask while 1,000, 10,000 and 100,000 images are scored, or learned from.

    python examples/benchmarks/scheduler_memory.py

A scheduler and two workers, each a process of its own, are given the paths of images that do not
exist, as ``anomalib_lite.distributed`` gives them: in chunks, a few at a time, each with the paths
of its own images. Instead of scoring these, a worker sends back a record of each; instead of
learning from them, it makes a state of 1 kB, and merges such. The resident memory of the
scheduler's process is read before, during and after each round. Needs Linux.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from distributed import Client

from anomalib_lite.distributed.chunks import Parcel, chunks_of
from anomalib_lite.distributed.engines import engine_of
from anomalib_lite.distributed.flow import results
from anomalib_lite.distributed.trees import MergeTree, leaves_of_a_task
from anomalib_lite.records import Record
from anomalib_lite.regions import Region


def told(parcel):
    """Records as of a detector, made up."""
    region = Region((10, 20, 30, 40), 150, 3.25)
    return [
        Record(path, "anomalous", 3.5, 1.25, None, region, 1, (300, 300), 1.7e9)
        for path in parcel.paths()
    ]


def learned(parcel):
    """A state, made up."""
    return bytes(1000)


def merge(_, *states):
    return states[0]


def resident(pid):
    """MB of memory of a process."""
    (line,) = (
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return int(line.split()[1]) * 1024 / 1e6


@contextmanager
def running(command, *options):
    """Context of a process of dask's command line."""
    called = [sys.executable, "-m", f"distributed.cli.dask_{command}", *options]
    process = subprocess.Popen(called, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def score(engine, paths, chunk, look):
    calls = ((part.number, (Parcel.of(part),)) for part in chunks_of(paths, chunk))
    n_told = 0
    for _, records in results(engine, told, calls):
        n_told += len(records)
        look()
    if n_told != len(paths):
        raise RuntimeError(f"expected {len(paths)} records, got {n_told}")


def fit(engine, paths, chunk, look):
    n_chunks = -(-len(paths) // chunk)
    together = leaves_of_a_task(n_chunks, 8, engine.n_workers)
    parts = [*chunks_of(paths, chunk * together)]
    tree = MergeTree(engine, merge, None, len(parts), 8)
    tree.root(((learned, (Parcel.of(part),)) for part in parts), lambda _: look())


def measure(client, scheduler, n_images, chunk, work):
    """Score so many images, or learn from them; a row of the table."""
    paths = [f"/plant/line-{i % 40:02}/2026-01-31/part-{i:08}.png" for i in range(n_images)]
    before, seen, begin = resident(scheduler), [], time.perf_counter()
    work(engine_of(client), paths, chunk, lambda: seen.append(resident(scheduler)))
    seconds = time.perf_counter() - begin
    time.sleep(1)  # until the last tasks are forgotten
    after, what = resident(scheduler), work.__name__
    return (
        f"| {what} | {n_images:,} | {before:.0f} | {max(seen):.0f} | {after:.0f} | {seconds:.0f} |"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--chunk", type=int, default=64)
    args = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        place = ("--scheduler-file", f"{folder}/scheduler.json")
        process = stack.enter_context(
            running("scheduler", *place, "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        )
        for _ in range(2):
            stack.enter_context(running("worker", *place, "--nthreads", "1", "--no-dashboard"))
        client = stack.enter_context(Client(scheduler_file=place[1]))
        client.wait_for_workers(2)
        print("| | images | before, MB | highest, MB | after, MB | s |")
        print("|---|---|---|---|---|---|")
        for work in (score, fit):
            measure(client, process.pid, 200, args.chunk, work)  # what is loaded at first
            for n_images in args.sizes:
                print(measure(client, process.pid, n_images, args.chunk, work), flush=True)
