"""The commands and the Python of the guides run as they are written."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from stories import make_story, saved, write_pictures
from worlds import scratched, stripes

from anomalib_lite.cli import main
from anomalib_lite.cli.parsers import parse

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with what the guides speak of: images, and a detector."""
    make_story(tmp_path)
    write_pictures(tmp_path / "fresh", stripes(40, seed=3))
    write_pictures(tmp_path / "test" / "good", stripes(6, seed=4))
    write_pictures(tmp_path / "test" / "scratch", scratched(4, seed=8))
    drawer = write_pictures(tmp_path / "drawer", scratched(30, seed=5))
    masks = np.zeros((30, 64, 64), np.uint8)
    masks[:, 18:22, 33:47] = 255
    for path, drawn in zip(drawer, write_pictures(tmp_path / "masks", masks), strict=True):
        Path(drawn).rename(tmp_path / "masks" / f"{Path(path).stem}_mask.png")
    write_pictures(tmp_path / "defects", scratched(30, seed=6))
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page, language):
    """Texts of a page's fenced blocks in a language."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.S | re.M)


def commands(page):
    """What a page tells to type, as lists of arguments."""
    lines = "".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line[2:])[1:] for line in lines if line.startswith("$ anomalib-lite")]


@pytest.mark.parametrize("page", ["inspect.md", "sensitivity.md", "report.md"])
def test_quick_guides(page, here, capsys):
    run(page)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", ["command_line.md", "retrain.md", "evaluate.md", "compare.md", "labels.md"]
)
def test_guides_that_fit(page, here, capsys):
    part = here / "part.alite"
    (here / "a.alite").write_bytes(part.read_bytes())
    if re.search(r"fit good .*-o part.alite\n", (DOCS / page).read_text(encoding="utf-8")):
        part.unlink()  # or it would not be overwritten
    run(page)


def test_the_guide_to_machines(here):
    """Its commands are understood, and Python that needs no cluster runs."""
    found = commands("distributed.md")
    assert {command[0] for command in found} == {"fit", "inspect"}
    for command in found:
        assert parse(command).chunk == 64
    run_python("distributed.md")


def run(page):
    found = commands(page)
    assert found
    for command in found:
        assert main(command) in (0, 1), command
    run_python(page)


def run_python(page):
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {})
