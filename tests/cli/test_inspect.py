"""``anomalib-lite inspect``: lines, tables and codes."""

import contextlib
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stories import make_story, printed_json, saved
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, DetectorEnsemble, PaDiM, load
from anomalib_lite.cli import main
from anomalib_lite.records import COLUMNS, from_json, read_csv


@pytest.fixture
def home(tmp_path, monkeypatch):
    """``part.alite``; ``new`` has four good images and two scratched ones."""
    make_story(tmp_path)
    Image.fromarray(stripes(5, seed=5)[4]).save(tmp_path / "new" / "00.png")  # no false alarm
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GOOD = ["new/01.png", "new/02.png"]


def inspect(*names):
    return main(["inspect", "part.alite", *map(str, names)])


def test_a_line_an_image(home, capsys):
    assert inspect("new") == 1
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert [line.split()[0] for line in lines] == ["normal"] * 4 + ["anomalous"] * 2
    assert [line.split()[-1] for line in lines] == [f"new/{i:02d}.png" for i in range(6)]
    assert "severity" in lines[0] and "box" not in lines[0]
    assert "box" in lines[4] and "area" in lines[4]
    assert shown.err.splitlines()[-1].startswith("6 images: 4 normal, 2 anomalous; ")


def test_scores_are_those_of_the_detector(home, capsys):
    inspect("new", "--json", "--quiet")
    shown = capsys.readouterr()
    records = [from_json(line) for line in shown.out.splitlines()]
    expected = load("part.alite").anomaly_score("new")
    assert [record.anomaly_score for record in records] == list(expected)
    assert all(record.modified == os.stat(record.path).st_mtime for record in records)
    assert shown.err == ""


@pytest.fixture
def undecided(home):
    """A detector of too few images to have a threshold."""
    with pytest.warns(UserWarning, match="threshold"):
        detector = PaDiM(image_size=64, n_features=20, random_state=0).fit(stripes(2))
    detector.save("few.alite")
    return "few.alite"


@pytest.mark.parametrize(
    ("names", "code"),
    [
        (GOOD, 0),
        ([*GOOD, "new/04.png"], 1),
        ([*GOOD, "gone.png"], 2),
        (["gone.png"], 2),
        (["new", "gone.png"], 2),
        (["new", "none/*.png"], 2),
        (["none/*.png"], 2),
    ],
)
def test_codes(home, names, code):
    assert inspect(*names) == code


def test_without_a_threshold_there_is_no_verdict(undecided, capsys):
    assert main(["inspect", undecided, "new"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all(line.startswith("undecided") for line in lines)


def test_what_cannot_be_read_is_listed_and_the_rest_is_done(home, capsys):
    (home / "new" / "00.png").write_bytes(b"no image")
    (home / "new" / "03.png").write_bytes((home / "new" / "03.png").read_bytes()[:200])
    assert inspect("new", "nothing", "--csv", "t.csv") == 2
    shown = capsys.readouterr()
    verdicts = [line.split()[0] for line in shown.out.splitlines()]
    assert verdicts == ["unreadable", "normal", "normal", "unreadable", *["anomalous"] * 2,
                        "unreadable"]  # fmt: skip
    assert "cannot be read as an image" in shown.out and "No such file" in shown.out
    assert "skipped" not in shown.err
    with open("t.csv", newline="") as file:
        table = [*csv.DictReader(file)]
    assert [row["verdict"] for row in table] == verdicts
    assert [bool(row["reason"]) for row in table] == [name == "unreadable" for name in verdicts]


def test_nothing_but_unreadable_files(home, capsys):
    for path in (home / "new").iterdir():
        path.write_bytes(b"no image")
    assert inspect("new") == 2
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and all("cannot be read as an image" in line for line in lines)


def test_images_of_another_scale_are_refused_one_by_one(home, capsys):
    dark = np.full((64, 64), 3, dtype=np.uint16)
    dark[::2] = 5
    for name in ("a.png", "b.png"):
        Image.fromarray(dark).save(name)
    assert inspect("a.png", "b.png") == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["unreadable"] * 2
    assert all("Scale both the same way" in line for line in lines)


def test_tables_say_what_is_printed_and_are_written_anew(home, capsys):
    for names in ("new", "new/04.png"):
        inspect(names, "--csv", "t.csv", "--jsonl", "t.jsonl", "--json")
        printed = capsys.readouterr().out
        assert Path("t.jsonl").read_text() == printed
    assert printed.count("\n") == 1
    head, row = Path("t.csv").read_text().splitlines()
    assert head.split(",") == [*COLUMNS]
    assert row.startswith("new/04.png,anomalous,")


def test_a_table_of_somebody_else_is_not_replaced(home, capsys):
    Path("prices.csv").write_text("part,price\nscrew,3\n")
    assert inspect("new", "--csv", "prices.csv") == 2
    assert Path("prices.csv").read_text() == "part,price\nscrew,3\n"
    assert "prices.csv, line 1: not a table of inspections" in capsys.readouterr().err
    before = Path("part.alite").read_bytes()
    assert inspect("new", "--jsonl", "part.alite") == 2
    assert Path("part.alite").read_bytes() == before


@pytest.mark.parametrize(
    "mistake", [["none/*.png"], ["new", "--csv", "none/t.csv"], ["new", "--csv", "t.csv", "x"]]
)
def test_a_mistake_leaves_the_last_table(home, capsys, mistake):
    assert inspect("new", "--csv", "t.csv") == 1
    before = Path("t.csv").read_bytes()
    if mistake[-1] == "x":  # another detector, which there is not
        assert main(["inspect", "none.alite", *mistake[:-1]]) == 2
    elif "--csv" in mistake:
        assert inspect(*mistake) == 2
    else:
        assert inspect(*mistake, "--csv", "t.csv") == 2
    assert Path("t.csv").read_bytes() == before
    assert "error: " in capsys.readouterr().err


def test_odd_names_have_a_line_each(home, capsys):
    names = ["-x.png", 'a "b", c.png', "<script>.png", "two\nlines.png", "tab\t.png",
             os.fsdecode(b"gr\xf6n.png")]  # fmt: skip
    os.mkdir("odd")
    for name in names:
        Image.fromarray(stripes(1, seed=7)[0]).save(os.path.join("odd", name))
    assert inspect("odd", "--csv", "t.csv", "--jsonl", "t.jsonl") == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == len(names)
    assert any(line.endswith(r"odd/two\nlines.png") for line in shown)
    assert any(line.endswith(r"odd/gr\udcf6n.png") for line in shown)
    with open("t.csv", encoding="utf-8", errors="surrogateescape", newline="") as file:
        in_csv = [row["path"] for row in csv.DictReader(file, strict=True)]
    in_json = [json.loads(line)["path"] for line in Path("t.jsonl").read_text().splitlines()]
    assert sorted(in_csv) == sorted(in_json) == sorted(os.path.join("odd", name) for name in names)
    assert inspect(*in_csv) == 0
    os.rename("odd/-x.png", "-x.png")
    assert inspect("--", "-x.png") == 0


def test_who_of_an_ensemble_flagged(home, capsys):
    parts = [("fine", PaDiM(image_size=64, n_features=10)), ("coarse", PaDiM(image_size=32))]
    both = DetectorEnsemble(parts, false_alarm_rate=0.1, random_state=0).fit("good")
    both.save("part.alite")
    assert inspect("new", "--csv", "t.csv", "--jsonl", "t.jsonl") == 1
    lines = capsys.readouterr().out.splitlines()
    flagged = both.inspect("new").flagged_by
    assert {len(names) for names in flagged} > {0}
    for line, names in zip(lines, flagged, strict=True):
        assert (f"  by {', '.join(names)}  " in line) == bool(names)
    assert inspect("new", "--json", "--quiet") == 1
    printed = capsys.readouterr().out
    assert printed == Path("t.jsonl").read_text()
    assert [from_json(line).flagged_by for line in printed.splitlines()] == flagged
    with open("t.csv", newline="") as file:
        assert [record.flagged_by for record in read_csv(file)] == flagged


def test_a_watch_needs_a_table(home, capsys):
    for options in (["new"], ["-", "--csv", "t.csv"]):
        with pytest.raises(SystemExit) as ended:
            inspect(*options, "--watch")
        assert ended.value.code == 2


def test_a_line_of_json(home, capsys):
    assert inspect("new/05.png", "--json") == 1
    row = printed_json(capsys)
    assert list(row) == [*COLUMNS]
    assert row["verdict"] == "anomalous" and row["width"] == row["height"] == 64


def run(home, *arguments, **options):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "anomalib_lite", "inspect", "part.alite", *arguments]
    return subprocess.Popen(command, cwd=home, env=env, stderr=subprocess.PIPE, **options)


def test_a_reader_that_has_had_enough(home):
    """As ``| head -1``: no traceback, and whole lines in the table."""
    read, write = os.pipe()
    with run(home, "new", "--csv", "t.csv", "--quiet", stdout=write) as process:
        os.close(write)
        os.close(read)
        assert process.communicate(timeout=120)[1] == b""
    assert process.returncode == 2
    assert (home / "t.csv").read_text().count("\n") == 2  # written before it is printed


@pytest.mark.slow
def test_an_interrupt_leaves_whole_lines(home):
    image = Image.fromarray(scratched(1, 1024)[0])
    os.mkdir("many")
    for i in range(300):
        os.link("new/00.png", f"many/{i:03}.png")
    image.save("many/999.png")
    with run(home, "many", "--csv", "t.csv", stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        process.send_signal(2)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130 and err.decode().splitlines()[-1] == "error: interrupted"
    table = (home / "t.csv").read_text()
    assert table.endswith("\n") and 2 <= table.count("\n") < 300


def test_a_mistake_leaves_the_table_as_it_is(home, capsys):
    inspect("new", "--csv", "out.csv")
    data = Path("out.csv").read_bytes()
    assert inspect("new/01.png", "--csv", "out.csv", "--report", "nowhere/page.html") == 2
    assert inspect("new/01.png", "--csv", "out.csv", "--overlays", "part.alite") == 2
    assert Path("out.csv").read_bytes() == data


def test_a_page_and_a_table_are_two_files(home, capsys):
    assert inspect("new", "--csv", "out", "--report", "./out") == 2
    assert "the same for two" in capsys.readouterr().err
    assert not os.path.exists("out")


def test_all_of_an_image_is_100_percent(home, capsys):
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save("new/white.png")
    assert inspect("new/white.png") == 1
    assert "area 100 %" in capsys.readouterr().out


def test_that_nothing_can_be_anomalous_is_said(home, capsys):
    detector = ConformalDetector(PaDiM(image_size=64, n_features=20, random_state=0))
    with pytest.warns(UserWarning, match="needs at least 19"):
        detector.fit(stripes(8))
    detector.save("part.alite")
    assert inspect(*GOOD) == 2  # nothing was decided
    assert "warning: Nothing is called anomalous: too few" in capsys.readouterr().err


def test_a_warning_is_given_once_with_pictures_too(home, capsys):
    gray = Image.fromarray(scratched(1)[0]).convert("L")
    gray.convert("LA").save("new/alpha.png")
    inspect("new", "--report", "page.html", "--overlays", "overlays")
    assert capsys.readouterr().err.count("alpha channel is dropped") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_messages_that_cannot_be_written_change_nothing(home):
    for names, code in ((GOOD, 0), (["new/none.png"], 2)):
        full = io.TextIOWrapper(open("/dev/full", "wb", buffering=0), write_through=True)
        with contextlib.closing(full), contextlib.redirect_stderr(full):
            assert inspect(*names) == code


def test_a_missing_detector_is_named_first(home, capsys):
    assert main(["inspect", "none.alite", "new"]) == 2
    assert capsys.readouterr().err == "error: none.alite: No such file or directory.\n"


def test_a_mistake_of_ours_is_not_a_verdict(home, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("oops")

    monkeypatch.setattr("anomalib_lite.cli.inspect.load_detector", fail)
    assert inspect("new") == 2
    assert "error: RuntimeError: oops" in capsys.readouterr().err
