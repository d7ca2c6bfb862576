"""Fits and scores by the workers of a cluster beside one machine: the same bits, AUROC, seconds.

    python examples/benchmarks/clusters.py                   # half an hour on two quiet cores
    python examples/benchmarks/clusters.py --only bits

On solar cells, written as files: 400 good ones to fit on, 501 to score. ``bits``: digests of the
saved detector, the scores and the table, by clusters of 1, 2 and 4 workers and a process pool, and
how far that is from a fit on one machine. ``seconds``: fit and inspect on one machine with
``n_jobs=2``, by a process pool and a cluster of two workers, and by one worker; medians, without
the start of the workers, who have seen a first, short call.
"""

import argparse
import hashlib
import multiprocessing
import statistics
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

N_FIT = 400
TIMED = ("PatchCore, 10,000 rows", "PaDiM")


def table(*columns):
    print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}", flush=True)


def row(*cells):
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def write_cells(folder):
    """Folders of good and of new cells, as files, and which of the new ones are defective."""
    from PIL import Image

    from anomalib_lite.data import load_elpv

    data = load_elpv(n_train=N_FIT)
    for name, images in (("good", data.train), ("new", data.test)):
        (folder / name).mkdir(exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{i:04}.png")
    return folder / "good", folder / "new", data.test_labels == -1


def detectors(**params):
    from anomalib_lite import PaDiM, PatchCore

    return {
        "PatchCore, 10 %": PatchCore(random_state=0, **params),
        "PatchCore, 10,000 rows": PatchCore(coreset=10_000, random_state=0, **params),
        "PaDiM": PaDiM(random_state=0, **params),
    }


def dask(n_workers):
    from anomalib_lite.cli.clusters import workers
    from anomalib_lite.cli.console import Console

    return workers(argparse.Namespace(cluster=None, workers=n_workers), Console())


@contextmanager
def processes(n_workers):
    with ProcessPoolExecutor(n_workers, multiprocessing.get_context("spawn")) as pool:
        yield pool


CLIENTS = {
    "dask, 1 worker": lambda: dask(1),
    "dask, 2 workers": lambda: dask(2),
    "dask, 4 workers": lambda: dask(4),
    "process pool, 2": lambda: processes(2),
}


def digest(data):
    return hashlib.sha256(data).hexdigest()[:8]


def bits(good, new, is_defective, folder):
    from sklearn.metrics import roc_auc_score

    from anomalib_lite.distributed import fit, inspect

    def told(detector, seen):
        auroc = roc_auc_score(is_defective, -seen.scores)
        return f"{auroc:.4f}", f"{detector.offset_:.6g}"

    table("detector", "by", "file", "scores", "table", "AUROC", "threshold")
    alone = {}
    for name, detector in detectors().items():
        seen = detector.fit(good).inspect(new, maps="network")
        alone[name] = detector, seen
        row(name, "one machine", "", "", "", *told(detector, seen))
    far = []
    for who, start in CLIENTS.items():
        with start() as client:
            for name, detector in detectors().items():
                fit(detector, good, client)
                out = folder / f"{who}-{name}"
                seen = inspect(detector, new, client, out=out)
                detector.save(out / "detector.alite")
                files = ((out / file).read_bytes() for file in ("detector.alite", "records.csv"))
                file, csv = map(digest, files)
                row(name, who, file, digest(seen.scores), csv, *told(detector, seen))
                if who == "dask, 2 workers":
                    far.append((name, detector, seen))
    table("detector", "scores from one machine's", "rows of the bank", "radius stated", "found")
    for name, detector, seen in far:
        apart = np.abs(seen.scores / alone[name][1].scores - 1).max()
        row(name, f"{apart:.1e}", *radius(detector, good))


def radius(detector, good):
    """Rows of a bank, the radius that it states, and how far the farthest patch of fit is."""
    if not hasattr(detector, "memory_bank_"):
        return "", "", ""
    bank = detector.memory_bank_
    batches = detector._checked_batches(detector._open(good), "patches")
    farthest = max(
        float(bank.query(rows[0])[0].max()) for _, (rows, _) in batches.map(detector._embed)
    )
    return bank.n_stored, f"{detector.coreset_radius_:.2f}", f"{farthest:.2f}"


def seconds(good, new, n_repeats):
    from anomalib_lite.distributed import fit, inspect

    def timed(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def measured(name, who, fit_once, inspect_once):
        fits = [timed(fit_once) for _ in range(n_repeats)]
        inspects = [timed(inspect_once) for _ in range(n_repeats)]
        row(name, who, *(f"{statistics.median(each):.1f}" for each in (fits, inspects)))

    table("detector", "by", f"fit of {N_FIT}, s", "inspect of 501, s")
    few = sorted(map(str, good.iterdir()))[:40]
    for name in TIMED:
        detector = detectors(n_jobs=2)[name]
        measured(
            name,
            "one machine, n_jobs=2",
            lambda detector=detector: detector.fit(good),
            lambda detector=detector: detector.inspect(new, maps="network").records(),
        )
    for who in ("process pool, 2", "dask, 2 workers", "dask, 1 worker"):
        with CLIENTS[who]() as client:
            for name in TIMED:
                detector = detectors()[name]
                inspect(fit(detector, few, client, chunk=4), few, client, chunk=4)
                measured(
                    name,
                    who,
                    lambda detector=detector, client=client: fit(detector, good, client),
                    lambda detector=detector, client=client: inspect(detector, new, client),
                )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", choices=("bits", "seconds"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "false_alarm_rate=.* needs")
    with tempfile.TemporaryDirectory() as place:
        good, new, is_defective = write_cells(Path(place))
        if args.only in ("bits", None):
            bits(good, new, is_defective, Path(place))
        if args.only in ("seconds", None):
            seconds(good, new, args.repeats)
