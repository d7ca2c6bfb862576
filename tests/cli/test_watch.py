"""Folders that are watched: files are inspected once they are whole, and once."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from PIL import Image
from stories import saved, write_pictures
from worlds import scratched, stripes

from anomalib_lite.cli import main, watch
from anomalib_lite.cli.tables import Tables
from anomalib_lite.cli.watch import (
    PATIENCE,
    Recorded,
    Stop,
    Version,
    Watch,
    rounds,
    warnings_once,
)
from anomalib_lite.records import Record, from_csv, from_json

WHOLE = b"whole"


class World:
    """A folder that tests change between looks; files that end in "whole" can be read."""

    def __init__(self, home, names=("new",)):
        self.home, self.names, self.now, self.said = home, names, 0.0, []
        self.read = []
        (home / "new").mkdir(exist_ok=True)
        self.restart()

    def restart(self, recorded=None):
        self.recorded = Recorded() if recorded is None else recorded
        self.watch = Watch(self.names, self.recorded, self.said.append, lambda: self.now)

    def put(self, name, data=WHOLE, modified=1.0):
        path = self.home / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (modified, modified))

    def inspect(self, paths):
        for path in paths:
            self.read.append(path)
            try:
                is_read = Path(path).read_bytes().endswith(WHOLE)
            except OSError:
                is_read = False
            yield Record(path, "normal" if is_read else "unreadable", 1.0, modified=99.0)

    def look(self, *, stop_after=None):
        """One round; what it recorded, as (path, verdict, modified)."""
        self.now += 1
        with Stop() as stop:
            records = []
            due = self.watch.look()
            for record in watch._records(self.watch, self.inspect, stop, due):
                records.append((record.path, record.verdict, record.modified))
                stop.is_asked = len(records) == stop_after
            return records


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return World(tmp_path)


def test_a_file_is_inspected_in_the_second_look_that_finds_it_as_it_is(world):
    world.put("a.png")
    assert world.look() == []
    assert world.look() == [("new/a.png", "normal", 1.0)]
    assert world.look() == world.look() == []
    assert world.read == ["new/a.png"]
    assert not world.watch.waiting and not world.said


def test_a_file_that_grows_is_not_read(world):
    for i in range(1, 5):
        world.put("a.png", WHOLE[:i], modified=7.0)  # on a drive whose times are coarse
        assert world.look() == []
    for modified in (8.0, 9.0):
        world.put("a.png", WHOLE, modified)
        assert world.look() == []
    assert world.read == []
    assert world.look() == [("new/a.png", "normal", 9.0)]


def test_a_writer_that_pauses_is_waited_for(world):
    world.put("a.png", b"half")
    looks = [world.look() for _ in range(int(PATIENCE) - 2)]
    assert not any(looks) and len(world.read) == len(looks) - 1
    world.put("a.png", b"half and whole", 2.0)
    assert world.look() == []
    assert world.look() == [("new/a.png", "normal", 2.0)]


def test_what_stays_unreadable_is_recorded_once_until_it_changes(world):
    world.put("a.png", b"half")
    looks = list(itertools.chain.from_iterable(world.look() for _ in range(30)))
    assert looks == [("new/a.png", "unreadable", 1.0)]
    assert len(world.read) == PATIENCE + 1
    world.put("a.png", b"now whole", 5.0)
    assert [world.look(), world.look(), world.look()] == [[], [("new/a.png", "normal", 5.0)], []]


def test_new_content_of_a_path_is_a_new_image(world):
    world.put("a.png")
    world.look(), world.look()
    world.put("a.png", b"another whole", 3.5)
    assert [world.look(), world.look(), world.look()] == [[], [("new/a.png", "normal", 3.5)], []]


def test_what_changes_while_it_is_read_is_left_to_a_later_look(world):
    world.put("a.png")
    world.look()
    inspect = world.inspect

    def slow(paths):
        for record in inspect(paths):
            world.put("a.png", b"new whole", 2.0)
            yield record

    world.inspect = slow
    assert world.look() == []
    world.inspect = inspect
    assert [world.look(), world.look()] == [[], [("new/a.png", "normal", 2.0)]]


def test_what_is_in_the_table_is_not_inspected(world):
    for name in ("a.png", "b.png", "c.png"):
        world.put(name)
    world.look()
    assert len(world.look(stop_after=2)) == 2
    world.restart(world.recorded)
    world.look()
    assert world.look() == [("new/c.png", "normal", 1.0)]
    world.restart(world.recorded)
    world.watch._names = [str(world.home / "new"), "./new/*.png"]  # other names, the same files
    assert world.look() == world.look() == []


def test_a_file_that_vanishes_is_told_and_not_recorded(world):
    world.put("a.png")
    world.look()
    os.remove("new/a.png")
    assert world.look() == world.look() == []
    assert world.said == ["new/a.png: gone before it was whole; not inspected"]
    assert world.watch.n_missed == 0


def test_a_file_that_vanishes_before_it_is_read_is_told_and_counts(world):
    world.put("a.png")
    world.look()
    inspect = world.inspect

    def late(paths):
        os.remove("new/a.png")
        yield from inspect(paths)

    world.inspect = late
    assert world.look() == []
    world.inspect = inspect
    assert world.look() == []
    assert world.said == ["new/a.png: gone before it could be read; not inspected"]
    assert world.watch.n_missed == 1
    world.put("a.png")  # it is back, and inspected
    assert [world.look(), world.look()] == [[], [("new/a.png", "normal", 1.0)]]


def test_a_folder_that_vanishes_for_a_while(world):
    for name in ("a.png", "b.png"):
        world.put(name)
    world.look()
    world.look(stop_after=1)
    os.rename("new", "away")
    assert world.look() == world.look() == []
    assert world.said == ["new: there is no such folder or file. Waiting for it."]
    os.rename("away", "new")
    assert world.look() == [("new/b.png", "normal", 1.0)]
    assert world.look() == []
    assert world.said[1:] == ["new: there again"]
    assert world.watch.n_missed == 0


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="may read everything")
def test_a_folder_that_may_not_be_read(world):
    os.chmod("new", 0)
    world.look()
    assert "Permission denied" in world.said[0]
    os.chmod("new", 0o700)


def test_patterns_find_new_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world = World(tmp_path, ["new/2026-*"])
    assert world.look() == []
    world.put("2026-11-26/a.png")
    world.put("other/b.png")
    assert [world.look(), world.look()] == [[], [("new/2026-11-26/a.png", "normal", 1.0)]]
    world.put("2026-11-27/c.png")
    assert [world.look(), world.look()] == [[], [("new/2026-11-27/c.png", "normal", 1.0)]]
    assert not world.said


def test_images_of_a_round_are_read_in_one_call(world):
    calls = []
    inspect = world.inspect
    world.inspect = lambda paths: calls.append(paths) or inspect(paths)
    for name in ("b.png", "a.png", "c.jpg", "notes.md"):
        world.put(name)
    world.look(), world.look()
    assert [*filter(None, calls)] == [["new/a.png", "new/b.png", "new/c.jpg"]]


def test_odd_names_keep_who_they_are(world):
    names = ['a "b".png', "two\nlines.png", "<script>.png", os.fsdecode(b"gr\xf6n.png"), "-x.png"]
    for name in names:
        world.put(name)
    table = str(world.home / "t.csv")
    with Tables(table, None) as tables:
        tables.resume(world.recorded.add_record)
        world.look()
        for path, verdict, modified in world.look():
            tables.write(Record(path, verdict, 1.0, modified=modified))
    world.restart()
    with Tables(table, None) as tables:
        tables.resume(world.recorded.add_record)
    assert len(world.recorded) == len(names)
    assert world.look() == world.look() == []


def test_what_is_remembered_of_images_that_are_gone_is_small(world):
    for i in range(50):
        world.put(f"{i}.png")
        world.look(), world.look()
        os.remove(f"new/{i}.png")
    world.look()
    assert not world.watch.waiting and not world.watch._known
    assert {len(digest) for digest in world.recorded._digests} == {16}
    assert len(world.recorded) == 50


def test_versions():
    assert Version.of("none.png") is None
    assert Version.of("a\0b.png") is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watch_after_the_image_at_hand(world, number):
    before = signal.getsignal(number)
    for name in ("a.png", "b.png", "c.png"):
        world.put(name)
    seen = []
    with Stop() as stop:
        for records in rounds(world.watch, world.inspect, stop, interval=0.001):
            for record in records:
                seen.append(record.path)
                if len(seen) == 2:
                    signal.raise_signal(number)
        start = time.monotonic()
        stop.sleep(100)
    assert seen == ["new/a.png", "new/b.png"]
    assert time.monotonic() - start < 50
    assert signal.getsignal(number) == before


def test_the_second_interrupt_acts_at_once():
    with Stop():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_warnings_are_told_once_a_place():
    with pytest.warns(UserWarning, match="image") as told, warnings_once():
        for i in range(5):
            warnings.warn(f"image {i} is odd", stacklevel=1)
    assert [str(warning.message) for warning in told] == ["image 0 is odd"]


# -- the table of a watch that was killed ---------------------------------------------------------


@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_watch_goes_on_where_its_table_was_cut(world, step):
    """At every byte of the last two lines: no image is lost, none is there twice."""
    names = ["a.png", 'b "2".png', "c\nd.png", os.fsdecode(b"e\xff.png")]
    for name in names:
        world.put(name)
    paths = [str(world.home / "t.csv"), str(world.home / "t.jsonl")]

    def run():
        world.restart()
        with Tables(*paths) as tables:
            tables.resume(world.recorded.add_record)
            world.look()
            for path, verdict, modified in world.look():
                tables.write(Record(path, verdict, 1.0, modified=modified))
        return [Path(path).read_bytes() for path in paths]

    csv, jsonl = run()
    lines, rows = jsonl.splitlines(True), [b"".join(csv.splitlines(True)[:i]) for i in (3, 5)]
    for end in range(len(rows[0]), len(csv), step):  # the other table was behind
        Path(paths[0]).write_bytes(csv[:end])
        Path(paths[1]).write_bytes(b"".join(lines[: 2 + (end > len(rows[1]))]))
        assert run() == [csv, jsonl], end
    for end in range(len(b"".join(lines[:2])), len(jsonl), step):
        n = 3 + (end >= len(b"".join(lines[:3])))
        Path(paths[0]).write_bytes(rows[1] if n == 3 else csv)
        Path(paths[1]).write_bytes(jsonl[:end])
        assert run() == [csv, jsonl], end


@pytest.mark.skipif(not hasattr(os, "fork"), reason="has no forks")
def test_kills_between_any_two_rows_lose_nothing(world):
    """As below, of processes that begin in no time, and so are killed at many moments."""
    names = [f"{i:03}.png" for i in range(300)]
    for name in names:
        world.put(name)
    paths = [str(world.home / "t.csv"), str(world.home / "t.jsonl")]
    rng, n_kills, table = random.Random(0), 0, Path(paths[1])

    def work():
        with Tables(*paths) as tables, Stop() as stop:
            tables.resume(world.recorded.add_record)
            for records in rounds(world.watch, world.inspect, stop, 0.001):
                for record in records:
                    tables.write(record)

    while not table.exists() or table.read_text().count("\n") < len(names):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it may have threads
            child = os.fork()
        if child == 0:
            try:
                work()
            finally:
                os._exit(1)
        n_rows = _n_lines(table)
        latest = time.monotonic() + 60
        while _n_lines(table) == n_rows and time.monotonic() < latest:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.004))
        os.kill(child, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        n_kills += 1
    assert n_kills > 3
    with Tables(*paths) as tables:
        tables.resume(world.recorded.add_record)  # the two are of the same images
    found = [from_json(text).path for text in table.read_text().splitlines()]
    assert sorted(found) == [f"new/{name}" for name in names]


def _n_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


# -- processes ------------------------------------------------------------------------------------


@pytest.fixture
def line(tmp_path):
    """A detector, and pictures that will arrive in ``new``."""
    (tmp_path / "new").mkdir()
    write_pictures(tmp_path / "later", [*stripes(12, seed=3), *scratched(3)])
    saved(tmp_path)
    return tmp_path


def start(home, *options):
    command = [
        *(sys.executable, "-m", "anomalib_lite", "inspect", "part.alite", "new", "--watch"),
        *("--csv", "t.csv", "--jsonl", "t.jsonl", "--interval", "0.05", *options),
    ]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=home, env=env, text=True, **pipes)


def rows(home):
    """Whole rows of the table of JSON lines."""
    if not (home / "t.jsonl").exists():
        return []
    data = (home / "t.jsonl").read_text()
    return [from_json(line) for line in data.split("\n")[:-1]]


def wait_for(condition, process):
    latest = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < latest
        time.sleep(0.02)


def arrive(home, name, *, pieces=1, pause=0.0):
    """A picture is copied in pieces, as by a slow network."""
    data = (home / "later" / name).read_bytes()
    bounds = [len(data) * i // pieces for i in range(pieces + 1)]
    with open(home / "new" / name, "wb") as file:
        for begin, end in itertools.pairwise(bounds):
            file.write(data[begin:end])
            file.flush()
            time.sleep(pause)


def test_a_watch_from_its_start_to_its_end(line, capsys):
    """Growing files, a second watcher, a plain inspect on the same table, and the end."""
    arrive(line, "00.png")
    with start(line) as process:
        wait_for(lambda: len(rows(line)) == 1, process)
        names = [str(line / name) for name in ("part.alite", "new", "t.csv", "t.jsonl")]
        for options in (["--csv", names[2], "--watch"], ["--jsonl", names[3]]):
            assert main(["inspect", *names[:2], *options]) == 2
            assert "another inspect is writing this table" in capsys.readouterr().err
        arrive(line, "01.png", pieces=4, pause=0.2)
        arrive(line, "14.png")
        wait_for(lambda: len(rows(line)) == 3, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert [row.verdict for row in rows(line)] == ["normal", "normal", "anomalous"]
    assert [text.split()[-1] for text in out.splitlines()] == [row.path for row in rows(line)]
    assert err.splitlines()[-1].startswith("3 images: 2 normal, 1 anomalous; ")


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(line):
    """Killed over and over while pictures arrive; at the end each is in both tables, once."""
    rng = random.Random(0)
    names = sorted(path.name for path in (line / "later").iterdir())
    to_come = list(names)
    while to_come:
        n_before = len(rows(line))
        with start(line) as process:
            for _ in range(4):
                if to_come:
                    arrive(line, to_come.pop(0), pieces=rng.choice([1, 3]), pause=0.06)
            wait_for(lambda n=n_before: len(rows(line)) > n, process)
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
            process.communicate()
    with start(line) as process:
        while not process.stderr.readline().startswith("watching"):
            assert process.poll() is None
        wait_for(lambda: len(rows(line)) >= len(names), process)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode in (0, 1), err
    found = rows(line)
    assert sorted(record.path for record in found) == [f"new/{name}" for name in names]
    assert {record.path for record in found if record.verdict == "anomalous"} == {
        "new/12.png", "new/13.png", "new/14.png",
    }  # fmt: skip
    lines = (line / "t.csv").read_text().splitlines()[1:]
    assert [from_csv(text) for text in lines] == found


@pytest.mark.slow
def test_folders_come_and_go(line):
    """The folder is not there, comes, goes with a picture half written, and comes again."""
    os.rename(line / "new", line / "away")
    with start(line) as process:
        assert "watching" in process.stderr.readline()
        assert "new: there is no such folder" in process.stderr.readline()
        os.rename(line / "away", line / "new")
        arrive(line, "00.png")
        wait_for(lambda: len(rows(line)) == 1, process)
        (line / "new" / "01.png").write_bytes((line / "later" / "01.png").read_bytes()[:100])
        time.sleep(0.5)
        os.rename(line / "new", line / "away")
        time.sleep(0.5)
        shutil.copy(line / "later" / "01.png", line / "away")
        os.rename(line / "away", line / "new")
        wait_for(lambda: len(rows(line)) == 2, process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert [row.verdict for row in rows(line)] == ["normal", "normal"]


@pytest.mark.slow
def test_a_broken_file_is_listed_after_some_seconds(line):
    (line / "new" / "broken.png").write_text("no image")
    image = stripes(1, seed=8)[0]
    Image.fromarray(image).convert("RGBA").save(line / "new" / "alpha.png")
    with start(line, "--json") as process:
        wait_for(lambda: len(rows(line)) == 2, process)
        Image.fromarray(image).save(line / "new" / "broken.png")
        wait_for(lambda: len(rows(line)) == 3, process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    told = [json.loads(text) for text in out.splitlines()]
    assert [row["verdict"] for row in told] == ["normal", "unreadable", "normal"]
    assert "cannot be read as an image" in told[1]["reason"]
    assert "skipped" not in err and err.count("alpha channel") == 1
