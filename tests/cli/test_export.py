"""``anomalib-lite export``."""

import pytest
from small_world import fitted, run, run_json, write_parts

from anomalib_lite.deploy import OnnxDetector


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_parts(tmp_path / "new", n_good=2, n_bad=2)
    fitted().save("part.alite", notes={"line": "7"})
    return tmp_path


def test_the_file_says_what_the_detector_says(home, capsys):
    code, lines, err = run(capsys, "export", "part.alite", "part.onnx", "--images", "new")
    assert code == 0 and "error" not in err
    assert lines[0].startswith("part.onnx: PaDiM, ")
    assert lines[1].startswith("compared on 4 images: labels are equal, scores differ by ")
    exported = OnnxDetector("part.onnx")
    assert exported.card.notes["line"] == "7"
    assert exported.card.parity["source"] == "given"
    code, mine, _ = run(capsys, "inspect", "part.alite", "new")
    assert run(capsys, "inspect", "part.onnx", "new")[:2] == (code, mine)
    assert code == 1


def test_made_up_images_are_said_to_be(home, capsys):
    code, values = run_json(capsys, "export", "part.alite", "part.onnx")
    assert code == 0
    assert not values["images_given"] and values["images"] > 1
    assert values["score_difference"] < 1e-4
    assert OnnxDetector("part.onnx").card.parity["source"] == "made up"


def test_only_onnx_files_are_replaced(home, capsys):
    assert run(capsys, "export", "part.alite", "part.onnx")[0] == 0
    code, _, err = run(capsys, "export", "part.alite", "part.onnx")
    assert code == 2 and "--force" in err
    assert run(capsys, "export", "part.alite", "part.onnx", "--force")[0] == 0
    picture = home / "new" / "good" / "0.png"
    before = picture.read_bytes()
    code, _, err = run(capsys, "export", "part.alite", picture, "--force")
    assert code == 2 and "not an ONNX file" in err
    assert picture.read_bytes() == before


def test_mistakes_are_told_before_any_work(home, capsys):
    for args, says in (
        (["none.alite", "x.onnx"], "none.alite"),
        (["part.alite", "no/x.onnx"], "there is no folder no"),
        (["part.alite", "x.onnx", "--images", "nothing"], "nothing"),
    ):
        code, _, err = run(capsys, "export", *args)
        assert code == 2 and says in err
        assert not (home / "x.onnx").exists()
    assert run(capsys, "export", "part.alite", "part.onnx")[0] == 0
    code, _, err = run(capsys, "export", "part.onnx", "x.onnx")
    assert code == 2 and "needs the detector's own file" in err
