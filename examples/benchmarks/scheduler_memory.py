"""Memory of a scheduler of dask while 1,000, 10,000 and 100,000 images are scored.

    python examples/benchmarks/scheduler_memory.py

A scheduler and two workers, each a process of its own, are given the paths of images that do not
exist, as ``anomalib_lite.distributed.inspect`` gives them: in chunks, a few at a time, each with
the paths of its own images. Instead of scoring these, a worker sends back a record of each. The
resident memory of the scheduler's process is read before, during and after each round. Needs Linux.
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
from anomalib_lite.records import Record
from anomalib_lite.regions import Region


def told(parcel):
    """Records as of a detector, made up."""
    region = Region((10, 20, 30, 40), 150, 3.25)
    return [
        Record(path, "anomalous", 3.5, 1.25, None, region, 1, (300, 300), 1.7e9)
        for path in parcel.paths()
    ]


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


def measure(client, scheduler, n_images, chunk):
    """Score so many images; a row of the table."""
    paths = [f"/plant/line-{i % 40:02}/2026-01-31/part-{i:08}.png" for i in range(n_images)]
    before, highest, n_told, begin = resident(scheduler), 0, 0, time.perf_counter()
    calls = ((part.number, (Parcel.of(part),)) for part in chunks_of(paths, chunk))
    for _, records in results(engine_of(client), told, calls):
        n_told += len(records)
        highest = max(highest, resident(scheduler))
    seconds = time.perf_counter() - begin
    if n_told != n_images:
        raise RuntimeError(f"expected {n_images} records, got {n_told}")
    time.sleep(1)  # until the last tasks are forgotten
    after = resident(scheduler)
    return f"| {n_images:,} | {before:.0f} | {highest:.0f} | {after:.0f} | {seconds:.0f} |"


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
        measure(client, process.pid, 200, args.chunk)  # what is loaded at first
        print("| images | before, MB | highest, MB | after, MB | s |")
        print("|---|---|---|---|---|")
        for n_images in args.sizes:
            print(measure(client, process.pid, n_images, args.chunk), flush=True)
