"""Exported detectors on the command line."""

import json
import threading

import numpy as np
import pytest
import small_world
import toys
import worlds

from anomalib_lite.cli import watch


@pytest.fixture
def part(tmp_path):
    return toys.write(tmp_path / "part.alite")  # what a file is, its name does not say


@pytest.fixture
def parts(tmp_path):
    for i, pixels in enumerate(worlds.stripes(3) // 4):
        small_world.write(tmp_path / "new" / f"{i}.png", pixels)
    small_world.write(tmp_path / "new" / "odd.png", np.full((64, 64), 255, np.uint8))
    return tmp_path / "new"


def test_verdicts(part, parts, capsys):
    code, lines, err = small_world.run(capsys, "inspect", part, parts, "--json")
    assert code == 1, err
    assert [json.loads(line)["verdict"] for line in lines] == ["normal"] * 3 + ["anomalous"]


def test_without_a_threshold_a_warning_says_why(tmp_path, parts, capsys):
    promise = "There is no threshold: the detector learned from too few images to have one."
    part = toys.write(tmp_path / "part", offset=None, promise=promise)
    code, lines, err = small_world.run(capsys, "inspect", part, parts)
    assert code == 2
    assert f"warning: {promise}" in err
    assert all(line.startswith("undecided") for line in lines)


def test_p_values(tmp_path, parts, capsys):
    part = toys.write(tmp_path / "part", p_value=True, conformal={"n_calibration": 40})
    _, lines, _ = small_world.run(capsys, "inspect", part, parts, "--json")
    assert all(0 <= json.loads(line)["p_value"] <= 1 for line in lines)


def test_a_folder_is_watched(part, parts, tmp_path, capsys, monkeypatch):
    stop = watch.Stop

    class Soon(stop):
        def __enter__(self):
            threading.Timer(1.0, self._note).start()
            return self

    monkeypatch.setattr("anomalib_lite.cli.inspect.Stop", Soon)
    table = tmp_path / "table.csv"
    options = ("--watch", "--interval", "0.05", "--csv", table)
    code, lines, err = small_world.run(capsys, "inspect", part, parts, *options)
    assert code == 1, err
    assert len(lines) == 4
    assert len(table.read_text().splitlines()) == 5


def test_info(part, capsys):
    code, lines, _ = small_world.run(capsys, "info", part)
    assert code == 0
    assert lines[0].startswith(f"{part}: PatchCore, exported (ONNX), ")
    text = "\n".join(lines)
    for each in ("40 images, resized to 12 x 8", "uint8 images of at least 4 pixels", "line  ",
                 "threshold 0.5: Of 100 new", "PatchCore(coreset=0.1)", "score 1e-06"):  # fmt: skip
        assert each in text


def test_doctor(part, capsys):
    code, values = small_world.run_json(capsys, "doctor", part)
    assert code == 0
    assert values["exported"]["method"] == "PatchCore"
    assert values["exported_speed"]["each_ms"] > 0
    part.write_bytes(part.read_bytes()[:-1])
    code, values = small_world.run_json(capsys, "doctor", part)
    assert code == 2
    assert "cut off" in values["problems"][0]


def test_damaged_files_are_refused(part, parts, capsys):
    data = bytearray(part.read_bytes())
    data[300] ^= 4
    part.write_bytes(data)
    for args in (("inspect", part, parts), ("info", part)):
        code, lines, err = small_world.run(capsys, *args)
        assert (code, lines) == (2, [])
        assert err == (
            f"error: {part}: altered or damaged since it was exported: its SHA-256 is wrong. "
            "Export it again.\n"
        )


@pytest.mark.parametrize(
    "args",
    [
        ("threshold", "PART", "--score", "3"),
        ("evaluate", "PART", "NEW"),
        ("compare", "PART", "PART", "NEW"),
        ("compare", "other.alite", "PART", "NEW"),
    ],
)
def test_other_commands_need_the_detectors_own_file(args, part, parts, capsys):
    before = part.read_bytes()
    names = {"PART": str(part), "NEW": str(parts)}
    code, _, err = small_world.run(capsys, *(names.get(each, each) for each in args))
    assert code == 2
    assert f"{part}: an exported detector, which inspect, info and doctor take" in err
    assert f"{args[0]} needs the detector's own file" in err
    assert part.read_bytes() == before
