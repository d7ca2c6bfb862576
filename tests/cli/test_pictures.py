"""The page and the pictures of ``anomalib-lite inspect``."""

from argparse import Namespace

import pytest
from PIL import Image
from stories import make_story, saved

from anomalib_lite import load
from anomalib_lite.cli import main, pictures
from anomalib_lite.cli.console import Console
from anomalib_lite.cli.pictures import Pictures
from anomalib_lite.cli.scoring import Inspector


@pytest.fixture
def home(tmp_path):
    make_story(tmp_path)
    saved(tmp_path)
    return tmp_path


def test_a_page_and_pictures_are_written(home, capsys):
    options = ["--report", str(home / "new.html"), "--overlays", str(home / "pictures")]
    assert main(["inspect", str(home / "part.alite"), str(home / "new"), *options]) == 1
    page = (home / "new.html").read_text(encoding="utf-8")
    assert "2 of 6 parts look anomalous" in page
    for i in range(6):
        assert f"{i:02d}.png" in page
    assert sorted(path.name for path in (home / "pictures").iterdir()) == ["04.jpg", "05.jpg"]
    with Image.open(home / "pictures" / "04.jpg") as picture:
        assert picture.size == (64, 64)
    assert f"page: {home / 'new.html'}" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--report", "--overlays"])
def test_where_nothing_can_be_written_nothing_is_done(home, capsys, option):
    (home / "file").write_text("in the way")
    command = ["inspect", str(home / "part.alite"), str(home / "new")]
    assert main([*command, option, str(home / "file" / "inside")]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "file" in shown.err and "Traceback" not in shown.err


def test_a_page_of_ours_is_replaced_and_no_other_file(home, capsys):
    command = ["inspect", str(home / "part.alite"), str(home / "new"), "--report"]
    page, other = str(home / "new.html"), home / "precious.html"
    assert main([*command, page]) == main([*command, page]) == 1
    other.write_text("<html>a page of somebody's own")
    assert main([*command, str(other)]) == 2
    assert "not a page of this program" in capsys.readouterr().err
    assert other.read_text() == "<html>a page of somebody's own"


def test_a_watched_folder_has_a_page_now_and_then_and_at_the_end(home, monkeypatch):
    detector, written, clock = load(home / "part.alite"), [], [0.0]
    monkeypatch.setattr(pictures.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        pictures, "write_page", lambda path, detector, records, **_: written.append(len(records))
    )
    args = Namespace(detector=home / "part.alite", report=str(home / "p.html"), overlays=None)
    shown = Pictures(args, detector, Console(is_quiet=True))
    records = list(
        Inspector(detector).inspect([str(home / "new" / f"{i:02d}.png") for i in range(6)])
    )
    shown.add_old(records[0])
    for seconds, record in zip((0, 5, 31, 32, 33), records[1:], strict=True):
        clock[0] = seconds
        shown.add(record)
        shown.update()
    shown.finish()
    assert written == [2, 4, 6]
    shown.finish()
    assert written == [2, 4, 6]


def test_pictures_of_a_restart_go_on_with_the_names_of_the_first_run(home):
    detector = load(home / "part.alite")
    records = [*Inspector(detector).inspect([str(home / "new" / f"0{i}.png") for i in (4, 5)])]
    twin = home / "other" / "04.png"
    twin.parent.mkdir()
    twin.write_bytes((home / "new" / "04.png").read_bytes())
    (more,) = Inspector(detector).inspect([str(twin)])
    args = Namespace(detector=home / "part.alite", report=None, overlays=str(home / "pictures"))
    for old, new in (([], records), (records, [more])):
        shown = Pictures(args, detector, Console(is_quiet=True))
        for record in old:
            shown.add_old(record)
        for record in new:
            shown.add(record)
        shown.update()
    names = sorted(path.name for path in (home / "pictures").iterdir())
    assert names == ["04-2.jpg", "04.jpg", "05.jpg"]
