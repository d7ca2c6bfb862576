"""``compare``: whose verdict changed, what differs, the table, exit codes."""

import csv
import os
import re

import numpy as np
import pytest
import worlds
from scipy import stats
from small_world import fitted, run, run_json, without_threshold, write, write_parts

from anomalib_lite import ConformalDetector, PaDiM, load


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder, 10, ["bad"], 4)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A detector, one whose threshold is so low that good images are beyond it, another one."""
    folder = tmp_path_factory.mktemp("detectors")
    a, strict, other = (folder / f"{name}.alite" for name in ("a", "strict", "other"))
    fitted().save(a, notes={"fitted": "today"})
    detector = load(a)
    detector.set_threshold(score=-detector.score_levels().normal - 0.4).save(strict)
    fitted(seed=1).save(other, notes={"fitted": "today"})
    return a, strict, other


def test_the_same_file_twice(saved, parts, capsys):
    code, lines, _ = run(capsys, "compare", saved[0], saved[0], parts)
    assert (code, lines[-1]) == (0, "no difference")
    code, values = run_json(capsys, "compare", saved[0], saved[0], parts)
    assert (code, values["same"], values["differences"], values["changed"]) == (0, True, [], [])
    assert values["rank_correlation"] == pytest.approx(1)
    assert values["median_severity_shift"] == 0


def test_a_copy_with_other_notes_says_so(saved, parts, tmp_path, capsys):
    load(saved[0]).save(tmp_path / "copy.alite", notes={"fitted": "\x1b[31m"})
    code, lines, _ = run(capsys, "compare", saved[0], tmp_path / "copy.alite", parts)
    assert code == 0
    assert "no difference in verdicts and scores" in lines
    assert "  note fitted: a today, b \\x1b[31m" in lines


def test_another_threshold_changes_verdicts_and_no_ranks(saved, parts, capsys):
    code, values = run_json(capsys, "compare", *saved[:2], parts)
    paths = sorted(map(str, parts.glob("*/*.png")))
    a, strict = (load(path) for path in saved[:2])
    flags = [detector.predict(paths) == -1 for detector in (a, strict)]
    changed = {path for path, *two in zip(paths, *flags, strict=True) if two[0] != two[1]}
    assert code == 1 and len(changed) > 1
    assert {row["path"] for row in values["changed"]} == changed
    assert values["counts"]["only b"] == len(changed) and values["counts"]["only a"] == 0
    assert values["counts"]["normal"] == (~flags[0] & ~flags[1]).sum()
    assert values["counts"]["anomalous"] == (flags[0] & flags[1]).sum()
    assert values["rank_correlation"] == pytest.approx(1)
    scores = -a.score_samples(paths)
    shifts = strict.score_levels().severity(scores) - a.score_levels().severity(scores)
    assert values["median_severity_shift"] == pytest.approx(np.median(shifts))
    sizes = [abs(row["severity_b"] - row["severity_a"]) for row in values["changed"]]
    assert sizes == sorted(sizes, reverse=True)
    thresholds = [f"{detector.score_levels().threshold:.5g}" for detector in (a, strict)]
    (one,) = (each for each in values["differences"] if each["group"] == "threshold")
    assert [one["a"], one["b"]] == thresholds


def test_other_detectors_by_the_python_functions(saved, parts, capsys):
    code, values = run_json(capsys, "compare", saved[0], saved[2], parts)
    paths = sorted(map(str, parts.glob("*/*.png")))
    scores = [-load(path).score_samples(paths) for path in (saved[0], saved[2])]
    assert values["rank_correlation"] == stats.spearmanr(*scores).statistic
    settings = [each for each in values["differences"] if each["group"] == "setting"]
    assert settings == [{"group": "setting", "name": "random_state", "a": "0", "b": "1"}]
    assert code == (1 if values["changed"] else 0)


def test_what_is_printed_are_the_figures_of_json(saved, parts, capsys):
    values = run_json(capsys, "compare", *saved[:2], parts)[1]
    code, lines, err = run(capsys, "compare", *saved[:2], parts, "--quiet")
    assert (code, err) == (1, "")
    counts = values["counts"]
    assert lines[2] == (
        f"14 images: {counts['normal']} normal by both, {counts['anomalous']} anomalous by both, "
        f"{counts['only b']} anomalous by b only"
    )
    assert f"rank correlation of the scores {values['rank_correlation']:.3f}" in lines
    shift = values["median_severity_shift"]
    assert f"change of severity from a to b: median {shift:+.2f}" in lines
    at = lines.index(f"the verdict changed on {len(values['changed'])} of 14 images:")
    for line, row in zip(lines[at + 1 :], values["changed"], strict=False):
        found = re.match(r"  a (\w+) +(\S+)  b (\w+) +(\S+)  (.*)", line).groups()
        assert found[::2] == (row["verdict_a"], row["verdict_b"], row["path"])
        expected = [row["severity_a"], row["severity_b"]]
        assert [float(found[1]), float(found[3])] == pytest.approx(expected, abs=0.00501)


def test_the_table_has_a_row_an_image(saved, parts, tmp_path, capsys):
    table = tmp_path / "table.csv"
    values = run_json(capsys, "compare", *saved[:2], parts, "--csv", table)[1]
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == sorted(map(str, parts.glob("*/*.png")))
    assert list(rows[0]) == [
        "path", "verdict_a", "verdict_b", "severity_a", "severity_b", "anomaly_score_a",
        "anomaly_score_b", "changed",
    ]  # fmt: skip
    changed = {row["path"]: row for row in rows if row["changed"] == "True"}
    assert changed.keys() == {row["path"] for row in values["changed"]}
    for row in values["changed"]:
        of_table = changed[row["path"]]
        assert of_table["verdict_b"] == row["verdict_b"]
        assert float(of_table["severity_a"]) == row["severity_a"]
        assert float(of_table["anomaly_score_b"]) == row["anomaly_score_b"]


def test_names_that_are_no_text_and_files_that_are_no_images(saved, tmp_path, capsys):
    write_parts(tmp_path / "new", 2, ["bad"], 1)
    os.rename(tmp_path / "new/good/0.png", os.fsencode(tmp_path / "new/good") + b"/\xff,'\n\".png")
    (tmp_path / "new/broken.png").write_bytes(b"no image")
    table = tmp_path / "table.csv"
    code, values = run_json(capsys, "compare", *saved[:2], tmp_path / "new", "--csv", table)
    assert (code, values["counts"]["unreadable"]) == (2, 1)
    (unreadable,) = values["unreadable"]
    assert unreadable["path"] == str(tmp_path / "new/broken.png") and unreadable["reason"]
    with open(table, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert str(tmp_path / "new/good/\udcff,'\n\".png") in rows
    row = rows[str(tmp_path / "new/broken.png")]
    assert (row["verdict_a"], row["severity_a"], row["changed"]) == ("unreadable", "", "False")


def test_names_that_lead_nowhere(saved, parts, tmp_path, capsys):
    code, values = run_json(capsys, "compare", *saved[:2], parts, tmp_path / "no*.png")
    assert (code, values["images"], len(values["problems"])) == (2, 14, 1)
    code, lines, err = run(capsys, "compare", *saved[:2], tmp_path / "no*.png")
    assert (code, lines) == (2, []) and "no image file matches" in err


def test_a_table_that_cannot_be_written_is_known_before_any_work(saved, parts, tmp_path, capsys):
    code, lines, err = run(capsys, "compare", *saved[:2], parts, "--csv", tmp_path / "x/y.csv")
    assert (code, lines) == (2, []) and "there is no folder" in err and "inspecting" not in err


def test_without_a_threshold_there_are_ranks_but_no_verdicts(saved, parts, tmp_path, capsys):
    without_threshold().save(tmp_path / "few.alite")
    code, values = run_json(capsys, "compare", saved[0], tmp_path / "few.alite", parts)
    assert (code, values["counts"]["undecided"], values["changed"]) == (2, 14, [])
    assert values["rank_correlation"] > 0 and values["median_severity_shift"] is None
    lines = run(capsys, "compare", saved[0], tmp_path / "few.alite", parts)[1]
    assert lines[1].endswith("few.alite: PaDiM, no threshold")


def test_a_conformal_detector_and_another_method(saved, tmp_path, capsys):
    write(tmp_path / "new/1.png", worlds.scratched(1)[0])
    inner = PaDiM(image_size=64, n_features=20, random_state=0)
    detector = ConformalDetector(inner, false_alarm_rate=0.1, random_state=0)
    detector.fit(worlds.stripes(40, seed=10)).save(tmp_path / "b.alite")
    code, values = run_json(capsys, "compare", saved[0], tmp_path / "b.alite", tmp_path / "new")
    assert (code, values["counts"]["anomalous"]) == (0, 1)
    by_name = {(each["group"], each["name"]): each for each in values["differences"]}
    assert by_name["method", ""]["b"] == "ConformalDetector of PaDiM"
    # what one alone has is told where somebody chose it
    assert by_name["setting", "image_size"] == {
        "group": "setting", "name": "image_size", "a": "64", "b": None,
    }  # fmt: skip
    assert by_name["setting", "detector__image_size"]["b"] == "64"
    assert ("setting", "smoothing") not in by_name


def test_no_other_file_is_replaced(saved, parts, tmp_path, capsys):
    for flag in ("--csv", "--report"):
        path = tmp_path / "notes"
        path.write_text("my notes")
        code, lines, err = run(capsys, "compare", *saved[:2], parts, flag, path)
        assert (code, lines) == (2, []) and "exists already" in err
        assert path.read_text() == "my notes"


def test_a_page_and_a_table_are_replaced_by_new_ones(saved, parts, tmp_path, capsys):
    options = ("--csv", tmp_path / "t.csv", "--report", tmp_path / "p.html")
    _, lines, err = run(capsys, "compare", *saved[:2], parts, *options)
    assert f"page: {tmp_path / 'p.html'}" in err
    n_changed = sum("  a normal" in line for line in lines)
    assert f"<h1>{n_changed} of 14 verdicts changed</h1>" in (tmp_path / "p.html").read_text()
    run(capsys, "compare", saved[0], saved[0], parts, *options)
    assert "<h1>No verdict changed</h1>" in (tmp_path / "p.html").read_text()
    assert "True" not in (tmp_path / "t.csv").read_text()


def test_a_page_and_a_table_are_two_files(tmp_path, capsys):
    path = str(tmp_path / "out")
    code, _, err = run(capsys, "compare", "a", "b", "c", "--csv", path, "--report", path)
    assert code == 2 and "the same for two" in err
