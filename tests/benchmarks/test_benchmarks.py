"""Benchmarks: rows by processes of their own, what is kept of them, and tables."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from filelock import FileLock
from worlds import scratched, stripes

from anomalib_lite import PaDiM, benchmark
from anomalib_lite.benchmarks import BenchmarkTable, running
from anomalib_lite.data import AnomalyDataset
from anomalib_lite.metrics import (
    aupro,
    average_precision,
    f1_max,
    image_auroc,
    pixel_auroc,
)

MASKS = np.zeros((12, 64, 64), dtype=bool)
MASKS[6:, 18:22, 33:47] = True


def data(name="stripes", seed=0, *, masks=True):
    """Twelve to learn from, six good ones and six faint scratches to score."""
    faint = (stripes(6, seed=2) * 0.8 + scratched(6, seed=3) * 0.2).astype(np.uint8)
    test = np.concatenate([stripes(6, seed=1), faint])
    labels, kinds = np.repeat([1, -1], 6), np.repeat(["good", "scratch"], 6)
    train = stripes(12, seed=seed)
    return AnomalyDataset(name, train, test, labels, kinds, MASKS if masks else None)


def small(**params):
    return PaDiM(**{"image_size": 64, "n_features": 20, "false_alarm_rate": 0.2, **params})


class Crashing(PaDiM):
    """Ends its process, or is refused, or never ends."""

    def fit(self, X, y=None):
        how = self.n_features
        if how == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if how == 2:
            time.sleep(600)
        raise ValueError("expected\nanother method")


ALL = ["image_auroc", "average_precision", "f1_max", "pixel_auroc", "aupro"]


def test_rows_are_what_python_measures(tmp_path):
    datasets = {"with masks": data(), "drawn": lambda seed: data(seed=seed, masks=False)}
    table = benchmark([small()], datasets, seeds=[3], metrics=ALL, out=tmp_path)
    assert [(row["dataset"], row["seed"]) for row in table.rows] == [
        ("with masks", 3),
        ("drawn", 3),
    ]
    for row in table.rows:
        has_masks, seed = row["dataset"] == "with masks", row["seed"]
        dataset = data(seed=0 if has_masks else seed, masks=has_masks)
        detector = small(random_state=seed).fit(dataset.train)
        is_bad, scores = dataset.test_labels == -1, detector.anomaly_score(dataset.test)
        assert row["image_auroc"] == image_auroc(is_bad, scores)
        assert row["average_precision"] == average_precision(is_bad, scores)
        assert row["f1_max"] == f1_max(is_bad, scores).f1
        if has_masks:
            maps = detector.anomaly_map(dataset.test)
            assert row["pixel_auroc"] == pixel_auroc(MASKS, maps)
            assert row["aupro"] == aupro(MASKS, maps)
        else:
            assert row["pixel_auroc"] is row["aupro"] is None
        assert (row["n_train"], row["n_test"], row["error"]) == (12, 12, None)
        assert 0 < row["fit_s"] < 600 and 0 < row["score_ms"] < 60_000
        assert 100 < row["peak_mb"] < 20_000
        assert "n_features=20" in row["settings"] and row["settings"].startswith("PaDiM(")
    again = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert again == table.rows
    assert benchmark([small()], datasets, seeds=[3], out=tmp_path).rows == table.rows  # times, too
    frame = table.to_frame()
    assert frame.shape[0] == 2 and frame["image_auroc"].tolist() == [
        row["image_auroc"] for row in table.rows
    ]


@pytest.mark.slow
def test_rows_are_measured_once(tmp_path):
    first = benchmark([small()], [data()], out=tmp_path)
    again = benchmark([small()], [data()], out=tmp_path)
    assert again.rows == first.rows  # times included
    more = benchmark([small()], [data()], seeds=[0, 1], out=tmp_path)
    assert more.rows[0] == first.rows[0] and len(more.rows) == 2
    fewer = benchmark([small()], [data()], metrics=["aupro"], out=tmp_path)
    assert fewer.rows == first.rows
    other = benchmark([small().set_params(n_features=10)], [data()], out=tmp_path)
    assert "n_features=10" in other.rows[0]["settings"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_what_fails_is_recorded_and_may_be_tried_again(tmp_path):
    methods = {
        "refused": Crashing(n_features=3),
        "killed": Crashing(n_features=1),
        "slow": Crashing(n_features=2),
    }
    asked = {"out": tmp_path, "metrics": ["image_auroc"]}
    slow = {"slow": methods["slow"]}
    benchmark(slow, [data()], timeout=2, **asked)
    table = benchmark({"good": small(), **methods}, [data()], **asked)
    good, refused, killed, slow = (row["error"] for row in table.rows)
    assert good is None
    assert refused == "ValueError: expected another method"
    assert killed == "ended by signal 9; out of memory?"
    assert slow == "took longer than 2 s"
    assert [row["method"] for row in table.failures] == [*methods]
    assert str(table) == "4 rows, 3 failed"
    assert table.to_markdown().splitlines()[3:] == [f"| {name} | failed |" for name in methods]
    again = benchmark({"good": small(), **methods}, [data()], **asked)
    assert again.rows == table.rows
    mended = benchmark({"refused": small()}, [data()], **asked)  # other settings: measured
    assert mended.failures == []
    tried = benchmark({"killed": methods["killed"]}, [data()], retry=True, **asked)
    assert tried.rows[0]["error"] == killed
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_an_interrupted_benchmark_keeps_its_rows(tmp_path, monkeypatch):
    run, ran = subprocess.run, []

    def interrupted(*args, **options):
        ran.append(args)
        if len(ran) == 2:
            raise KeyboardInterrupt
        return run(*args, **options)

    monkeypatch.setattr(subprocess, "run", interrupted)
    asked = {"seeds": [0, 1], "out": tmp_path, "metrics": ["image_auroc"]}
    with pytest.raises(KeyboardInterrupt):
        benchmark([small()], [data()], **asked)
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1
    assert len(benchmark([small()], [data()], **asked).rows) == 2
    assert len(ran) == 3  # the second row alone


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (([], [data()]), "expected a method, a data set and a seed"),
        (([small()], []), "expected a method, a data set and a seed"),
        (([small(), small()], [data()]), r"methods: expected different names, got \['PaDiM', 'Pa"),
        (([small()], [data(), data()]), "datasets: expected different names"),
        (({"a": "PaDiM"}, [data()]), "methods: expected detectors, got str as 'a'"),
        (([small()], [data().train]), "datasets: expected AnomalyDatasets, .* got ndarray"),
        (([small()], {"a": data().train}), "a callable that returns one, got ndarray as 'a'"),
    ],
)
def test_what_cannot_be_measured_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        benchmark(*asked)


@pytest.fixture
def measured(monkeypatch):
    """Rows without their processes."""

    def counted(job, timeout):
        _, dataset, *_ = job
        return {"image_auroc": 0.5, "n_test": len(dataset.test), "error": None, "n": next(numbers)}

    numbers = itertools.count()
    monkeypatch.setattr(running, "_measured_apart", counted)


def test_settings_of_single_data_sets(tmp_path, measured):
    datasets = {"coarse": data(), "fine": data()}
    asked = {"metrics": ["image_auroc"], "out": tmp_path}
    table = benchmark([small()], datasets, settings={"coarse": {"image_size": 32}}, **asked)
    assert ["image_size=32" in row["settings"] for row in table.rows] == [True, False]
    again = benchmark([small(image_size=32)], {"coarse": data()}, **asked)
    assert again.rows == table.rows[:1]
    own = {"coarse": {"image_size": 64, "finer": {"image_size": 32, "n_features": 19}}}
    methods = {"PaDiM": small(), "finer": small()}
    first, second = benchmark(methods, {"coarse": data()}, settings=own, **asked).rows
    assert "image_size=64" in first["settings"] and "n_features=20" in first["settings"]
    assert "image_size=32" in second["settings"] and "n_features=19" in second["settings"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"b": {}}, r"settings: expected names out of \['a'\], got 'b'"),
        ({"a": {"coreset": 0.1}}, "settings: 'a', 'PaDiM': .*coreset"),
        ({"a": 3}, "settings: 'a', 'PaDiM'"),
        ({"a": {"PaDiM": {"coreset": 0.1}}}, "settings: 'a', 'PaDiM': .*coreset"),
        ({"a": {"PaDiM": 3}}, "settings: 'a', 'PaDiM'"),
        ({"a": {"SPADE": {}}}, r"settings: 'a', 'PaDiM': expected names out of \['PaDiM'\], got"),
    ],
)
def test_settings_that_there_are_not_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        benchmark([small()], {"a": data()}, settings=settings)


def test_a_row_is_that_of_its_data(tmp_path, measured):
    table = benchmark([small()], [data()], metrics=["image_auroc"], out=tmp_path)
    fewer = dataclasses.replace(data(), test=data().test[2:], test_labels=data().test_labels[2:])
    again = benchmark([small()], [fewer], metrics=["image_auroc"], out=tmp_path)
    assert [table.rows[0]["n_test"], again.rows[0]["n_test"]] == [12, 10]


@pytest.mark.parametrize("seeds", [3, "01", [0.5], []])
def test_unknown_seeds_are_refused(seeds):
    with pytest.raises(ValueError, match=r"seeds: expected a list of ints|expected a method"):
        benchmark([small()], [data()], seeds=seeds)


@pytest.mark.parametrize("metrics", ["aupro", [], ["auc"], 3])
def test_unknown_metrics_are_refused(metrics):
    with pytest.raises(ValueError, match="metrics: expected names out of"):
        benchmark([small()], [data()], metrics=metrics)


def test_files_of_others_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"rows.jsonl, line 1: expected a row of a benchmark"):
        benchmark([small()], [data()], out=tmp_path)
    with FileLock(tmp_path / "rows.jsonl.lock"):
        with pytest.raises(ValueError, match="another benchmark is writing to"):
            benchmark([small()], [data()], out=tmp_path)


# -- tables ---------------------------------------------------------------------------------------


def table():
    figures = {
        ("A", "x_1"): [0.9, 0.8], ("A", "y"): [0.7, 0.7], ("B|c", "x_1"): [1.0, 1.0],
        ("B|c", "y"): [0.5, None],
    }  # fmt: skip
    rows = [
        {
            "method": method, "dataset": dataset, "seed": seed, "image_auroc": value,
            "fit_s": 3.0, "error": None,
        }
        for (method, dataset), values in figures.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return BenchmarkTable(rows, ["image_auroc"])


def test_tables_show_means_and_spreads():
    lines = table().to_markdown(published={"A": {"y": 0.75}}).splitlines()
    assert lines == [
        "| image_auroc | x_1 | y | mean |",
        "|---|---|---|---|",
        "| A | 0.850 ± 0.071 | 0.700 ± 0.000 (0.750) | 0.775 |",
        r"| B\|c | 1.000 ± 0.000 | 0.500 | 0.750 |",
    ]
    assert "| A | 3.0 ± 0.0 | 3.0 ± 0.0 | 3.0 |" in table().to_markdown("fit_s", digits=1)
    with pytest.raises(ValueError, match=r"metric: expected one of .* got 'auc'"):
        table().to_markdown("auc")


def test_a_mean_of_some_data_sets_alone_is_not_shown():
    rows = [row for row in table().rows if (row["method"], row["dataset"]) != ("A", "y")]
    assert "| A | 0.850 ± 0.071 | - | - |" in BenchmarkTable(rows, ["image_auroc"]).to_markdown()


def test_pooled_data_sets_count_by_their_mean_of_each_seed():
    pooled = table().pooled({"both": ["x_1", "y"]})
    assert pooled.datasets == ["both"]
    cell = pooled.cell("A", "both", "image_auroc")
    assert (cell.mean, cell.n) == (pytest.approx(0.775), 2)  # of .8 and .75
    assert cell.spread == pytest.approx(np.std([0.8, 0.75], ddof=1))
    assert table().pooled({"z": ["y"]}).datasets == ["x_1", "z"]
    gap = [{**row, "image_auroc": None} if row["dataset"] == "y" else row for row in table().rows]
    gap = BenchmarkTable(gap, ["image_auroc"]).pooled({"both": ["x_1", "y"]})
    assert gap.cell("A", "both", "image_auroc").n == 0  # not that of x_1 alone
    assert table().pooled({"y": ["x_1", "y"]}).datasets == ["y"]
    with pytest.raises(ValueError, match=r"groups: expected other names than \['y'\]"):
        table().pooled({"y": ["x_1"]})
    for wrong in ({"z": ["y", "y"]}, {"z": ["w"]}, {"z": "y1"}, {"a": ["y"], "b": ["y"]}):
        with pytest.raises(ValueError, match="groups: expected lists of names out of"):
            table().pooled(wrong)


def test_latex_is_escaped_and_whole():
    lines = table().to_latex().splitlines()
    assert lines[:3] == [r"\begin{tabular}{lrrr}", r"\hline", r"image\_auroc & x\_1 & y & mean \\"]
    assert r"A & 0.850 $\pm$ 0.071 & 0.700 $\pm$ 0.000 & 0.775 \\" in lines
    assert lines[-2:] == [r"\hline", r"\end{tabular}"]
    assert r"B\textbar{}c & 1.000 $\pm$ 0.000 & 0.500 & 0.750 \\" in lines


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX")
def test_latex_compiles(tmp_path):
    text = f"\\documentclass{{article}}\\begin{{document}}{table().to_latex()}\\end{{document}}"
    (tmp_path / "table.tex").write_text(text)
    command = ["pdflatex", "-halt-on-error", "-interaction=batchmode", "table.tex"]
    assert subprocess.run(command, cwd=tmp_path, check=False).returncode == 0
