"""Costs of PatchCore: coreset, fit, scoring, memory, import, most beside a plain alternative.

    python examples/benchmarks/patchcore_speed.py

All on 200 ELPV cells at 224 px with the default backbone: 156,800 patch rows of 152 numbers.
Times are medians of repeated runs in this one process; the plain coreset loop, whose picks all cost
the same, is timed for some picks at full size and extrapolated. Memory and import times are each
taken in a fresh process.

``fit``: where the seconds of a fit go, the calibration of the threshold apart from the rest, with
one worker and with as many as there are processors.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

from anomalib_lite import DeepFeatures, PatchCore
from anomalib_lite.backbones import RowStore
from anomalib_lite.data import load_elpv
from anomalib_lite.search import NearestRows, greedy_coreset
from anomalib_lite.workers import count_workers


def median_seconds(action, repeats=3):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def patch_rows(images, features=None):
    """Rows (N, D) of patches, as PatchCore makes them."""
    features = features or DeepFeatures(pooling=None).fit(images[:1])
    store = RowStore(len(images))  # in place: peak memory is measured
    for image in images:
        store.append(torch.from_numpy(features.transform(image[None])))
    return store.rows


def plain_loop(rows, n_keep, distance):
    """One pick at a time, touching all rows; returns the picks and the median seconds of one."""
    gap = rows.new_full((len(rows),), torch.inf)
    picks, times = [0], []
    while len(picks) < n_keep:
        begin = time.perf_counter()
        torch.minimum(gap, distance(rows, picks[-1]), out=gap)
        gap[picks[-1]] = -1
        picks.append(int(gap.argmax()))
        times.append(time.perf_counter() - begin)
    return picks, statistics.median(times)


def by_differences(rows, pick):
    """Squared distances by their definition."""
    return (rows - rows[pick]).square_().sum(1)


def by_products(squares):
    """Squared distances from one matrix-vector product: the fastest plain way, less accurate."""

    def distance(rows, pick):
        return torch.addmv(squares, rows, rows[pick], alpha=-2).add_(squares[pick])

    return distance


def coreset(rows):
    small = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:20_000]]
    picks, _ = plain_loop(small.double(), 2000, by_differences)
    equal = greedy_coreset(small, 2000)[0].tolist() == picks
    print(f"indices equal the plain float64 loop's, N = 20,000, 10 %: {equal}")
    print(
        "\n| coreset of 156,800 x 152 rows | s | plain loop, per pick | s, extrapolated | ratio |"
    )
    print("|---|---|---|---|---|")
    loops = (
        ("float64 differences", rows.double(), by_differences),
        ("float32 differences", rows, by_differences),
        ("float32 products", rows, by_products(rows.square().sum(1))),
    )
    for n_keep in (1_568, 15_680):
        ours = median_seconds(lambda n_keep=n_keep: greedy_coreset(rows, n_keep))
        for name, kind, distance in loops:
            _, pick = plain_loop(kind, 100, distance)
            print(
                f"| {n_keep / len(rows):.0%} | {ours:.2f} | {name}, {1e3 * pick:.1f} ms "
                f"| {n_keep * pick:.0f} | {n_keep * pick / ours:.0f} |",
                flush=True,
            )


def search(rows, bank):
    """Seconds of the exact search and of one product with its minimum, for rows (B, P, D)."""
    index, squares = NearestRows.from_rows(bank), bank.square().sum(1)
    ours = median_seconds(lambda: [index.query(r) for r in rows], 5)
    product = median_seconds(
        lambda: [torch.addmm(squares, r, bank.T, alpha=-2).amin(1) for r in rows], 5
    )
    return ours, product


def scoring(train, test):
    print("\n| scoring, backbone included | bank rows | ms an image |")
    print("|---|---|---|")
    for share in (0.1, 0.01):
        detector = PatchCore(coreset=share, random_state=0).fit(train)
        for n in (1, 8, 32):
            seconds = median_seconds(lambda n=n, d=detector: d.score_samples(test[:n]), 7)
            print(f"| {n} at a time | {detector.memory_bank_.n_stored} | {1e3 * seconds / n:.1f} |")
        bank = detector.memory_bank_.rows
        rows = patch_rows(test[:8]).view(8, -1, bank.shape[1])
        ours, product = search(rows, bank)
        print(f"| search alone | {len(bank)} | {1e3 * ours / 8:.1f} |")
        print(f"| one matrix product and its minimum | {len(bank)} | {1e3 * product / 8:.1f} |")


class Timed(PatchCore):
    """Notes the seconds, by the clock and of the processors, that the steps of a fit take."""

    def fit(self, X, y=None):
        self.times = {}
        return self._timed("fit", super().fit, X)

    def _absorb(self, *args, **options):
        return self._timed("bank", super()._absorb, *args, **options)

    def _calibrate(self, *args):
        return self._timed("calibration", super()._calibrate, *args)

    def _timed(self, step, function, *args, **options):
        begin = np.array([time.perf_counter(), time.process_time()])
        result = function(*args, **options)
        took = np.array([time.perf_counter(), time.process_time()]) - begin
        self.times[step] = self.times.get(step, 0) + took
        return result


def fit(train):
    print("\n| fit, s | workers | features | coreset | calibration | all | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for size in (0.1, 0.01, 1000, 30):
        for n_jobs in (1, None):
            detector = Timed(coreset=size, n_jobs=n_jobs, random_state=0).fit(train)
            (total, cpu), (bank, _), (calibration, _) = (
                detector.times[step] for step in ("fit", "bank", "calibration")
            )
            print(
                f"| coreset {size} | {count_workers(n_jobs)} | {total - bank:.1f} "
                f"| {bank - calibration:.1f} | {calibration:.1f} | {total:.1f} | {cpu:.1f} |",
                flush=True,
            )


_MEMORY = """
import json, sys, torch
def peak():
    with open("/proc/self/status") as status:  # Linux
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
before = peak()
import numpy
from anomalib_lite import PatchCore
train = numpy.load(sys.argv[1])
imported = peak()
PatchCore(coreset=0.1, random_state=0).fit(train)
print(json.dumps([before, imported, peak()]))
"""


def in_fresh_process(code, *arguments):
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def memory(train):
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/train.npy", train)
        torch_alone, imported, fitted = in_fresh_process(_MEMORY, f"{folder}/train.npy")
    print("\n| peak resident memory | MB |")
    print("|---|---|")
    print(f"| interpreter and torch | {torch_alone:.0f} |")
    print(f"| and PatchCore imported, 200 images read | {imported:.0f} |")
    print(f"| after fitting them, coreset 0.1 | {fitted:.0f} |")
    print(f"| above interpreter and torch | {fitted - torch_alone:.0f} |", flush=True)


def imports():
    print("\n| import, fresh process | s |")
    print("|---|---|")
    for what in ("anomalib_lite", "torch", "anomalib_lite; anomalib_lite.PatchCore"):
        code = (
            f"import json, time; start = time.perf_counter(); import {what}; "
            "print(json.dumps(time.perf_counter() - start))"
        )
        seconds = statistics.median(in_fresh_process(code) for _ in range(5))
        print(f"| import {what} | {seconds:.3f} |", flush=True)


if __name__ == "__main__":
    parts = ("coreset", "fit", "scoring", "memory", "imports")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    only = parser.parse_args().only
    data = load_elpv()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if "coreset" in only:
        coreset(patch_rows(data.train[:200]))
    if "fit" in only:
        fit(data.train[:200])
    if "scoring" in only:
        scoring(data.train[:200], data.test)
    if "memory" in only:
        memory(data.train[:200])
    if "imports" in only:
        imports()
