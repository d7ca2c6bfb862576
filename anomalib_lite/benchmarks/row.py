"""One row of a benchmark: ``python -m anomalib_lite.benchmarks.row JOB RESULT``."""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle

from ..base import BaseDetector
from ..data.datasets import AnomalyDataset
from ..io.files import write_file
from ..metrics import aupro, average_precision, f1_max, image_auroc, pixel_auroc

OF_IMAGES = {
    "image_auroc": image_auroc,
    "average_precision": average_precision,
    "f1_max": lambda y_true, scores: f1_max(y_true, scores).f1,
}
COSTS = {"fit_s": 1, "score_ms": 1, "peak_mb": 0}  # and digits after the point in tables
OF_PIXELS = {"pixel_auroc": pixel_auroc, "aupro": aupro}


def measured(
    detector: BaseDetector, dataset: AnomalyDataset, metrics: Sequence[str]
) -> dict[str, Any]:
    """Fit an unfitted detector, score, and measure both.

    Parameters
    ----------
    detector : BaseDetector
    dataset : AnomalyDataset
    metrics : sequence of str
        Keys of ``OF_IMAGES`` and ``OF_PIXELS``; None is the figure of pixels without masks.

    Returns
    -------
    row : dict of str to number or None
    """
    start = time.perf_counter()
    detector.fit(dataset.train)
    fit_s = time.perf_counter() - start
    start = time.perf_counter()
    scores = detector.anomaly_score(dataset.test)
    score_ms = 1e3 * (time.perf_counter() - start) / len(scores)
    is_bad, masks = dataset.test_labels == -1, None
    if any(name in OF_PIXELS for name in metrics):
        masks = dataset.test_masks
    maps = None if masks is None else [seen.map for seen in detector.iter_inspect(dataset.test)]
    found = {}
    for name in metrics:
        if name in OF_IMAGES:
            found[name] = float(OF_IMAGES[name](is_bad, scores))
        else:
            found[name] = None if maps is None else float(OF_PIXELS[name](masks, maps))
    return {
        "n_train": len(dataset.train),
        "n_test": len(dataset.test),
        **found,
        "fit_s": fit_s,
        "score_ms": score_ms,
        "peak_mb": peak_megabytes(),
    }


def peak_megabytes() -> float | None:
    """The most memory that this process has had resident; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # of this program alone; getrusage counts what has started it, too
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main(job: str, result: str) -> None:
    """Measure what one file asks for, and write a row, or what went wrong, to another."""
    try:
        detector, dataset, seed, metrics = cloudpickle.loads(Path(job).read_bytes())
        if callable(dataset):
            dataset = dataset(seed)
        row = {**measured(detector, dataset, metrics), "error": None}
    except Exception as error:
        row = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    write_file(Path(result), json.dumps(row).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
