"""``anomalib-lite info`` and ``doctor``."""

import json

import numpy as np
import pytest
from stories import make_story, printed_json, saved

from anomalib_lite import CANCE, GaussianDensity, NCEDensity, load
from anomalib_lite.cli import doctor, main
from anomalib_lite.io import read_card


@pytest.fixture
def home(tmp_path):
    make_story(tmp_path)
    return tmp_path


def test_a_file_tells_what_it_is(home, capsys):
    path = saved(home)
    capsys.readouterr()
    assert main(["info", path]) == 0
    shown = capsys.readouterr().out
    assert "PaDiM, " in shown and "30 images, resized to 64 x 64" in shown
    assert "false_alarm_rate=0.04, image_size=64, n_features=20, random_state=0" in shown
    assert f"threshold {-load(path).offset_:.5g}" in shown
    assert f"30 from {home / 'good'}" in shown
    assert read_card(path).digest in shown
    assert main(["info", path, "--json"]) == 0
    values = printed_json(capsys)
    assert values["settings"]["n_features"] == "20" and values["settings"]["eps"] == "0.01"
    assert values["sha256"] == read_card(path).digest
    assert values["bytes"] == (home / "part.alite").stat().st_size


def test_a_wrapped_detector_is_told_of_too(home, capsys):
    path = saved(home, conformal=True)
    capsys.readouterr()
    assert main(["info", path]) == 0
    shown = capsys.readouterr().out
    assert "ConformalDetector of PaDiM" in shown
    assert "detector__image_size=64" in shown and "guarantee" in shown


def test_other_files_are_told_of_or_refused(home, capsys):
    GaussianDensity().fit(np.eye(4)).save(home / "density.alite")
    assert main(["info", str(home / "density.alite")]) == 0
    assert "GaussianDensity" in capsys.readouterr().out
    (home / "text.alite").write_text("no detector")
    for name in ("text.alite", "nowhere.alite", "good"):
        assert main(["info", str(home / name)]) == 2
        assert name in capsys.readouterr().err


def test_a_density_is_no_detector_of_images(home, capsys):
    GaussianDensity().fit(np.eye(4)).save(home / "density.alite")
    assert main(["inspect", str(home / "density.alite"), str(home / "new")]) == 2
    assert "expected a detector of images, got a GaussianDensity" in capsys.readouterr().err


def test_the_doctor_finds_all_well(capsys):
    assert main(["doctor", "--no-speed"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "all is well"


def test_the_doctor_says_what_is_wrong(monkeypatch, capsys):
    def broken():
        raise OSError("no such weights")

    monkeypatch.setattr(doctor, "_has_weights", broken)
    assert main(["doctor", "--json"]) == 2
    values = json.loads(capsys.readouterr().out)
    assert values["problems"] == ["the default network's weights: OSError: no such weights"]
    assert values["weights"] is None and "speed" not in values


@pytest.mark.slow
def test_the_doctor_measures_speed(capsys):
    assert main(["doctor", "--json"]) == 0
    speed = printed_json(capsys)["speed"]
    assert {*speed} == {"torch", "onnxruntime"}
    assert all(value > 0 for of_one in speed.values() for value in of_one.values())


def test_a_detector_of_a_table(tmp_path, capsys):
    rows = np.random.default_rng(0).normal(size=(40, 6))
    density = NCEDensity(epochs=1, hidden=(8,), learning_rate=0.003)
    detector = CANCE(backbone="pca", latent_dim=2, n_folds=3, density=density, random_state=0)
    path = str(tmp_path / "rows.alite")
    detector.fit(rows).save(path)
    assert main(["info", path]) == 0
    assert "learned from  40 rows" in capsys.readouterr().out
    for command in (["inspect", path, "x.png"], ["threshold", path, "x.png"]):
        assert main(command) == 2
        assert "expected a detector of images, got a CANCE" in capsys.readouterr().err
