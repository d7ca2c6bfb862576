"""Rows of a benchmark, each measured in a process of its own, kept in a file as they come."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from numbers import Integral
from pathlib import Path
from typing import Any

import cloudpickle
from filelock import FileLock, Timeout
from sklearn.base import clone

from ..annotations import Path as PathLike
from ..base import BaseDetector
from ..data.datasets import AnomalyDataset
from ..io.files import write_file
from ..runtime import progress
from ..validation import check_positive
from .loaders import NamedLoader
from .row import OF_IMAGES, OF_PIXELS
from .tables import BenchmarkTable

Datasets = Mapping[str, AnomalyDataset | Callable[[int], AnomalyDataset]] | Sequence[AnomalyDataset]
_FILE = "rows.jsonl"


def benchmark(
    methods: Mapping[str, BaseDetector] | Sequence[BaseDetector],
    datasets: Datasets,
    *,
    seeds: Sequence[int] = (0,),
    metrics: Sequence[str] = ("image_auroc", "pixel_auroc", "aupro"),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    out: PathLike | None = None,
    timeout: float | None = None,
    retry: bool = False,
    verbose: bool = False,
) -> BenchmarkTable:
    """Measure every method on every data set, with every seed.

    Each row is measured in a process of its own, so that its peak memory is its own, and nothing
    that goes wrong in it, a crash included, ends the others: it is recorded. With ``out``, rows are
    kept in a file as they come, and not measured again by a later call.

    Parameters
    ----------
    methods : dict of str to BaseDetector, or sequence of BaseDetector
        Unfitted detectors by the names that tables give them; without, those of their classes.
        They are cloned, and get each seed as ``random_state``.
    datasets : dict of str to AnomalyDataset or callable, or sequence of AnomalyDataset
        By their names. A callable is given the seed, in the row's process, and returns the data:
        for what is drawn at random, or too large to be copied.
    seeds : sequence of int, default=(0,)
    metrics : sequence of str, default=("image_auroc", "pixel_auroc", "aupro")
        Out of "image_auroc", "average_precision", "f1_max", "pixel_auroc" and "aupro". The last two
        are measured where there are masks.
    settings : dict of str to dict, or None, default=None
        Parameters of all methods on single data sets, by the data sets' names: such as an
        ``image_size`` for small images. Under the name of a method, a dict of those of this one.
    out : str or Path or None, default=None
        Folder for the rows; it is made if there is none. A row in it is measured again if the
        settings of its method have changed, or the number of the data set's images. What changes
        within the images, and what a callable returns, is not noticed.
    timeout : float or None, default=None
        Seconds that a row may take, before it is recorded as failed.
    retry : bool, default=False
        Measure rows again that have failed.
    verbose : bool, default=False
        Show progress.

    Returns
    -------
    table : BenchmarkTable
        The rows asked for, in the order of data sets, methods and seeds.

    Raises
    ------
    ValueError
        If names are not unique, something is empty or unknown, a method lacks a setting, the file
        of rows is none, or another benchmark is writing to it.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import PaDiM, benchmark
    >>> from anomalib_lite.data import AnomalyDataset
    >>> images = np.random.default_rng(0).integers(90, 110, size=(16, 64, 64), dtype=np.uint8)
    >>> images[12:, 20:40, 20:40] = 255
    >>> labels, kinds = np.repeat([1, -1], 4), np.repeat(["good", "square"], 4)
    >>> data = AnomalyDataset("squares", images[:8], images[8:], labels, kinds)
    >>> table = benchmark([PaDiM(image_size=64, false_alarm_rate=0.2)], [data])
    >>> print(table.to_markdown())
    | image_auroc | squares |
    |---|---|
    | PaDiM | 1.000 |
    """
    methods, datasets = _named_methods(methods), _named_datasets(datasets)
    adapted = _adapted(methods, datasets, settings or {})
    seeds, metrics = _checked_seeds(seeds), _checked_metrics(metrics)
    if not (methods and datasets and seeds):
        raise ValueError("expected a method, a data set and a seed, at least.")
    if timeout is not None:
        check_positive("timeout", timeout)
    jobs = [
        (_key(method, detector, name, dataset, seed), detector, dataset, seed)
        for name, dataset in datasets.items()
        for method, detector in adapted[name].items()
        for seed in seeds
    ]
    with _Rows.opened(out) as rows, progress(total=len(jobs), verbose=verbose) as bar:
        for key, detector, dataset, seed in jobs:
            bar.set_description(f"{key['dataset']}, {key['method']}, seed {seed}")
            if not rows.has(key, metrics, retry):
                detector = clone(detector).set_params(random_state=seed)
                rows.add({**key, **_measured_apart((detector, dataset, seed, metrics), timeout)})
            bar.update()
        return BenchmarkTable([rows.find(key) for key, *_ in jobs], metrics)


def _named_methods(methods):
    if not isinstance(methods, Mapping):
        methods = _unique("methods", [(type(each).__name__, each) for each in methods])
    for name, detector in methods.items():
        if not isinstance(detector, BaseDetector):
            raise ValueError(
                f"methods: expected detectors, got {type(detector).__name__} as {name!r}."
            )
    return dict(methods)


def _adapted(methods, datasets, settings):
    """The methods by the names of the data sets, with what is set for these alone."""
    unknown = [name for name in settings if name not in datasets]
    if unknown:
        raise ValueError(f"settings: expected names out of {[*datasets]}, got {unknown[0]!r}.")
    return {
        dataset: {
            method: _changed(method, detector, dataset, settings.get(dataset, {}), methods)
            for method, detector in methods.items()
        }
        for dataset in datasets
    }


def _changed(method, detector, dataset, settings, methods):
    try:
        of_all = {name: value for name, value in settings.items() if name not in methods}
        for name, value in of_all.items():
            if isinstance(value, Mapping) and name not in detector.get_params():
                raise ValueError(f"expected names out of {[*methods]}, got {name!r}.")
        return clone(detector).set_params(**of_all | settings.get(method, {}))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"settings: {dataset!r}, {method!r}: {error}") from error


def _named_datasets(datasets):
    if not isinstance(datasets, Mapping):
        for dataset in datasets:
            if not isinstance(dataset, AnomalyDataset):
                raise ValueError(
                    "datasets: expected AnomalyDatasets, or a dict of names, got "
                    f"{type(dataset).__name__}."
                )
        datasets = _unique("datasets", [(each.name, each) for each in datasets])
    for name, dataset in datasets.items():
        if not (isinstance(dataset, AnomalyDataset) or callable(dataset)):
            raise ValueError(
                f"datasets: expected an AnomalyDataset, or a callable that returns one, got "
                f"{type(dataset).__name__} as {name!r}."
            )
    return dict(datasets)


def _unique(what, pairs):
    named = dict(pairs)
    if len(named) < len(pairs):
        raise ValueError(f"{what}: expected different names, got {[name for name, _ in pairs]}.")
    return named


def _checked_seeds(seeds):
    if not isinstance(seeds, Sequence) or not all(isinstance(seed, Integral) for seed in seeds):
        raise ValueError(f"seeds: expected a list of ints, got {seeds!r}.")
    return [int(seed) for seed in seeds]


def _checked_metrics(metrics):
    known = [*OF_IMAGES, *OF_PIXELS]
    is_list = isinstance(metrics, Sequence) and not isinstance(metrics, str)
    if not (is_list and metrics and set(metrics) <= set(known)):
        raise ValueError(f"metrics: expected names out of {known}, got {metrics!r}.")
    return list(metrics)


def _key(method, detector, name, dataset, seed):
    params = detector.get_params(deep=False)
    params.pop("random_state", None)
    settings = ", ".join(f"{name}={value!r}" for name, value in sorted(params.items()))
    return {
        "method": str(method),
        "dataset": str(name),
        "seed": seed,
        "settings": f"{type(detector).__name__}({settings})",
        "data": _described(dataset),
    }


def _described(dataset):
    """What tells a data set from another one of its name; None if nothing does."""
    if isinstance(dataset, AnomalyDataset):
        return f"{len(dataset.train)} images to fit on, {len(dataset.test)} to score"
    return dataset.description if isinstance(dataset, NamedLoader) else None


def _measured_apart(job, timeout):
    """A row, or what went wrong with it, by another process."""
    with tempfile.TemporaryDirectory() as folder:
        asked, result = Path(folder, "job"), Path(folder, "row.json")
        asked.write_bytes(cloudpickle.dumps(job))
        paths = [path or os.getcwd() for path in sys.path]  # what can be imported here
        try:
            done = subprocess.run(
                [sys.executable, "-m", f"{__package__}.row", str(asked), str(result)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                timeout=timeout,
                check=False,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except subprocess.TimeoutExpired:
            return _failed(f"took longer than {timeout:g} s")
        if result.exists():
            return {**json.loads(result.read_bytes()), "measured": _now()}
        if done.returncode < 0:
            return _failed(f"ended by signal {-done.returncode}; out of memory?")
        lines = done.stderr.strip().splitlines()
        return _failed(lines[-1] if lines else f"ended with code {done.returncode}")


def _failed(reason):
    return {"error": reason, "measured": _now()}


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Rows:
    """Rows by method, data set and seed, in a file that is written whole after each."""

    def __init__(self, path, lock):
        self._path, self._lock, self._rows = path, lock, {}
        if path is not None and path.exists():
            self._rows = {self._place(row): row for row in _read(path)}

    @classmethod
    def opened(cls, out):
        if out is None:
            return cls(None, None)
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{_FILE}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"out: another benchmark is writing to {folder}.") from None
        try:
            return cls(folder / _FILE, lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._lock is not None:
            self._lock.release()

    def has(self, key, metrics, retry):
        row = self._rows.get(self._place(key))
        if row is None or any(row.get(part) != key[part] for part in ("settings", "data")):
            return False
        return not retry if row["error"] is not None else set(metrics) <= row.keys()

    def find(self, key):
        return self._rows[self._place(key)]

    def add(self, row):
        self._rows[self._place(row)] = row
        if self._path is not None:
            lines = (f"{json.dumps(each)}\n" for each in self._rows.values())
            write_file(self._path, "".join(lines).encode())

    @staticmethod
    def _place(row):
        return row["method"], row["dataset"], row["seed"]


def _read(path):
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            is_row = {"method", "dataset", "seed", "settings", "error"} <= row.keys()
        except (ValueError, AttributeError):
            is_row = False
        if not is_row:
            raise ValueError(
                f"{path}, line {number}: expected a row of a benchmark. Move the file."
            )
        rows.append(row)
    return rows
