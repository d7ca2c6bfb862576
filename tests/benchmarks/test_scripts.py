"""The benchmarks of the project itself, as far as they can be tried in a moment."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds import scratched, stripes

import anomalib_lite
from anomalib_lite import BaseDetector
from anomalib_lite.benchmarks import BenchmarkTable
from anomalib_lite.benchmarks.configs import read_config

HOME = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def compare_methods(monkeypatch):
    monkeypatch.syspath_prepend(str(HOME))
    yield importlib.import_module("compare_methods")
    for name in ("compare_methods", "common"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("path", sorted(HOME.glob("*.toml")), ids=lambda path: path.stem)
def test_files_name_what_there_is(path):
    arguments, _ = read_config(path)
    assert arguments["methods"] and arguments["datasets"]


def test_all_methods_on_all_data_by_one_command(compare_methods, monkeypatch, capsys, tmp_path):
    asked = {}

    def measured(methods, datasets, **options):
        asked.update(methods=methods, datasets=datasets, **options)
        rows = [
            {"method": method, "dataset": name, "seed": 0, "image_auroc": 0.75, "error": None}
            for method in methods
            for name in datasets
        ]
        return BenchmarkTable(rows, ["image_auroc"])

    monkeypatch.setattr(anomalib_lite, "benchmark", measured)
    monkeypatch.setattr(sys, "argv", ["compare_methods.py", "--out", str(tmp_path)])
    compare_methods.main()
    head, _, *lines = capsys.readouterr().out.strip().splitlines()
    assert [cell.strip() for cell in head.split("|")[1:-1]] == [
        "image_auroc", "ELPV mono", "ELPV poly", "textile, local", "textile, global",
        "brick", "grass", "gravel", "MNIST", "Fashion-MNIST", "mean",
    ]  # fmt: skip
    assert len(lines) == len(compare_methods.METHODS) == len(asked["methods"])
    assert lines[0].startswith("| PatchCore | 0.750 |")
    assert all(isinstance(one, BaseDetector) for one in asked["methods"].values())
    assert len(asked["datasets"]) == 7 + 20 and len(asked["settings"]) == 20


def test_some_methods_on_own_data_of_any_name(compare_methods, monkeypatch, capsys, tmp_path):
    for folder in ("train/good", "test/good", "test/dent"):
        (tmp_path / "my_mvtec" / "brick" / folder).mkdir(parents=True)
        image = Image.fromarray(np.full((8, 8), 99, np.uint8))
        image.save(tmp_path / "my_mvtec" / "brick" / folder / "0.png")
    asked = []

    def measured(methods, datasets, **options):
        asked.append((methods, datasets, options["settings"]))
        (method,) = methods
        row = {"method": method, "seed": 0, "image_auroc": 0.5, "error": None}
        return BenchmarkTable([{**row, "dataset": name} for name in datasets], ["image_auroc"])

    monkeypatch.setattr(anomalib_lite, "benchmark", measured)
    monkeypatch.setitem(compare_methods.PUBLISHED, "PatchCore", {"brick": 0.75})
    for how in (["--data-root", str(tmp_path / "my_mvtec")], ["--datasets", "textures", "mnist"]):
        monkeypatch.setattr(sys, "argv", ["compare_methods.py", "--methods", "PatchCore", *how])
        compare_methods.main()
    (_, own, none), (methods, _, settings) = asked
    (name,) = own  # not "brick", which is one of the textures
    assert Path(name) == (tmp_path / "my_mvtec" / "brick").resolve() and none == {}
    assert "0.500 (0.750) |" in capsys.readouterr().out
    assert [*methods] == ["PatchCore"]
    assert len(settings) == 10 and settings["MNIST 3"] == {"image_size": 64}


def test_the_control_sees_what_differs_from_its_surroundings(compare_methods):
    control = compare_methods.Control(15, image_size=64).fit(stripes(4))
    seen = control.inspect(scratched(2, seed=3))
    inside = np.zeros((64, 64), dtype=bool)
    inside[18:22, 33:47] = True
    assert (seen.maps[:, inside].mean(1) > seen.maps[:, ~inside].mean(1)).all()
