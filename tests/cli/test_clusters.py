"""``fit`` and ``inspect`` by workers: what comes out is what comes out without them."""

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import dask
import distributed
import numpy as np
import pytest
import toys
from PIL import Image
from stories import QUICK, fit, make_story, printed_json, saved, write_pictures
from worlds import scratched, stripes

from anomalib_lite import load
from anomalib_lite.cli import clusters, main
from anomalib_lite.cli.console import Console
from anomalib_lite.cli.tables import Tables


@pytest.fixture(scope="module")
def address():
    """A scheduler of two workers, which are threads here."""
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def home(tmp_path, monkeypatch):
    """``part.alite``; ``new`` has six images, of which the first is none and two are bad."""
    make_story(tmp_path)
    (tmp_path / "new" / "00.png").write_bytes(b"no image")
    saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def inspect(*names, by=None, chunk=2):
    workers = [] if by is None else ["--cluster", by, "--chunk", str(chunk)]
    return main(["inspect", "part.alite", *map(str, names), *workers])


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--workers", "0"], "at least 1, got 0"),
        (["--workers", "two"], "at least 1, got two"),
        (["--workers", "2", "--chunk", "-1"], "at least 1, got -1"),
        (["--workers", "2", "--cluster", "tcp://host:8786"], "not allowed with"),
        (["--chunk", "8"], "--chunk needs --workers or --cluster"),
        (["--conformal", "--workers", "2"], "anomalib-lite threshold x OTHERS --alpha 0.05"),
        (["--watch", "--csv", "t.csv", "--workers", "2"], "--watch runs here alone"),
        (["--watch", "--csv", "t.csv", "--cluster", "tcp://host:8786"], "--watch runs here alone"),
    ],
)
def test_what_makes_no_sense_is_refused(argv, what, capsys):
    command = ["fit", "good", "-o", "x"] if "--watch" not in argv else ["inspect", "a", "new"]
    with pytest.raises(SystemExit) as left:
        main([*command, *argv])
    assert left.value.code == 2
    assert what in re.sub(r"\s+", " ", capsys.readouterr().err)


def test_without_the_extra_it_is_named(home, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    for command in (["fit", "good", "-o", "x", *QUICK], ["inspect", "part.alite", "new"]):
        assert main([*command, "--workers", "2"]) == 2
        assert 'need distributed: pip install "anomalib_lite[distributed]"' in (
            capsys.readouterr().err
        )


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense"])
def test_a_scheduler_that_is_not_there(home, address, monkeypatch, capsys):
    monkeypatch.setattr(clusters, "_PATIENCE", 0.3)
    Path("t.csv").write_text("")
    assert inspect("new", "--csv", "t.csv", by=address) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --cluster {address}: no scheduler of dask answers there.")
    assert line.endswith("after 0.3 s)") or address == "nonsense"
    assert Path("t.csv").read_text() == ""


def test_a_detector_is_fitted_and_told_of(home, address, capsys):
    Image.fromarray(scratched(1)[0]).save("good/17.png")
    Path("good/03.png").write_bytes(b"no image")
    options = ("--skip-unreadable", "--json", "--quiet")
    alone = load(fit(home, *options, output="alone.alite"))
    expected = printed_json(capsys)
    path = fit(home, *options, "--cluster", address, "--chunk", "8", output="shared.alite")
    shown = capsys.readouterr()
    values, shared = json.loads(shown.out), load(path)
    assert shown.err == ""
    assert [one["path"] for one in values["unusual"]] == [
        one["path"] for one in expected["unusual"]
    ]
    assert values["unusual"][0]["path"].endswith("17.png")
    for name in ("images", "skipped", "promise", "method"):
        assert values[name] == expected[name], name
    np.testing.assert_allclose(shared.calibration_scores_, alone.calibration_scores_, rtol=1e-4)
    assert shared.n_images_ == 29


def test_an_unreadable_image_ends_the_fit(home, address, capsys):
    Path("good/03.png").write_bytes(b"no image")
    command = ["fit", "good", "-o", "x.alite", *QUICK, "--cluster", address]
    assert main(command) == 2
    assert "image 3 (good/03.png): cannot be read" in capsys.readouterr().err
    assert not os.path.exists("x.alite")


def test_methods_that_train_are_refused(home, address, capsys):
    assert main(["fit", "good", "-o", "x.alite", "--method", "cpc", "--cluster", address]) == 2
    assert "got CPC, which trains on all images together" in capsys.readouterr().err


def test_lines_tables_and_pictures_are_those_of_one_machine(home, address, capsys):
    shown, names = {}, {}
    for who, by in (("alone", None), ("shared", address)):
        outputs = (f"{who}.csv", f"{who}.jsonl", f"{who}.html", f"{who}_overlays")
        flags = (f"--{flag}" for flag in ("csv", "jsonl", "report", "overlays"))
        options = [word for pair in zip(flags, outputs, strict=True) for word in pair]
        assert inspect("new", "gone.png", *options, by=by) == 2
        shown[who] = capsys.readouterr().out
        names[who] = sorted(os.listdir(f"{who}_overlays"))
        assert os.path.exists(f"{who}.html")
    assert shown["alone"] == shown["shared"] and shown["alone"].count("\n") == 7
    assert names["alone"] == names["shared"] and len(names["alone"]) == 2
    for suffix in ("csv", "jsonl"):
        alone, shared = (Path(f"{who}.{suffix}").read_bytes() for who in shown)
        assert alone == shared
    assert not os.path.exists("shared.csv.run")


def test_exported_detectors(home, address, capsys):
    toys.write(home / "part.alite")
    assert inspect("new", "--csv", "alone.csv") == 2
    assert inspect("new", "--csv", "shared.csv", by=address) == 2
    assert Path("shared.csv").read_bytes() == Path("alone.csv").read_bytes()


@pytest.mark.parametrize("world", ["unreadable", "of another scale"])
def test_images_that_are_all_refused_have_a_row_each(home, world, address, capsys):
    os.mkdir("bad")
    for i in range(5):
        if world == "unreadable":
            Path(f"bad/{i}.png").write_bytes(b"no image")
        else:
            dark = np.full((64, 64), 3, dtype=np.uint16)
            dark[::2] = 5
            Image.fromarray(dark).save(f"bad/{i}.png")
    codes = [inspect("bad", "--csv", f"{by is None}.csv", by=by) for by in (None, address)]
    assert codes == [2, 2]
    assert Path("True.csv").read_bytes() == Path("False.csv").read_bytes()
    assert Path("True.csv").read_text().count("unreadable") == 5
    assert not os.path.exists("False.csv.run")


def test_an_interrupted_run_goes_on(home, address, monkeypatch, capsys):
    assert inspect("new", "--csv", "t.csv") == 2
    expected = Path("t.csv").read_bytes()
    show = Console.result

    def interrupted(console, text):
        if "05.png" in text:
            raise KeyboardInterrupt
        show(console, text)

    with monkeypatch.context() as patch:
        patch.setattr(Console, "result", interrupted)
        assert inspect("new", "--csv", "t.csv", by=address) == 130
    assert capsys.readouterr().err.endswith("error: interrupted\n")
    assert len(os.listdir("t.csv.run/chunks")) == 3
    assert inspect("new", "--csv", "t.csv", by=address) == 2
    assert Path("t.csv").read_bytes() == expected
    assert not os.path.exists("t.csv.run")


def test_a_run_goes_on_with_the_same_images_only(home, address, capsys):
    inspect("new", "--csv", "t.csv")
    before = Path("t.csv").read_bytes()
    os.mkdir("t.csv.run")
    Path("t.csv.run/mine.txt").write_text("")
    assert inspect("new", "--csv", "t.csv", by=address) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: expected a new folder, or that of this run")
    assert "t.csv.run" in error and "Remove this folder" in error
    assert Path("t.csv").read_bytes() == before
    assert os.path.exists("t.csv.run/mine.txt")


def test_a_pipe_has_no_folder_beside_it(tmp_path):
    table = str(tmp_path / "t.jsonl")
    with Tables(os.devnull, table) as tables:
        assert tables.run_folder == f"{os.path.realpath(table)}.run"
    with Tables(os.devnull, None) as tables:
        assert tables.run_folder is None


def test_deaths_of_workers_are_explained(address):
    args = Namespace(cluster=address, workers=None)
    with pytest.raises(ValueError, match="one after the other"), clusters.workers(args, Console()):
        raise distributed.KilledWorker("look_at-1", Namespace(address="tcp://h:1"), 3)


def test_a_cluster_that_fails_to_close_hides_no_error(monkeypatch):
    class Failing(distributed.LocalCluster):
        def __init__(self, **options):
            super().__init__(**{**options, "processes": False})

        def close(self, timeout=None):
            super().close(timeout)
            raise AssertionError("can only join a started process")

    monkeypatch.setattr(distributed, "LocalCluster", Failing)
    args = Namespace(cluster=None, workers=1)
    with pytest.raises(ValueError, match="no image"), clusters.workers(args, Console()):
        raise ValueError("no image")


@pytest.mark.skipif(sys.platform == "win32", reason="needs masks of signals")
def test_an_interrupt_at_the_start_closes_the_cluster(monkeypatch):
    closed = []

    def interrupted(**_):
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return SimpleNamespace(close=lambda: closed.append(True))

    monkeypatch.setattr(distributed, "LocalCluster", interrupted)
    args = Namespace(cluster=None, workers=1)
    with pytest.raises(KeyboardInterrupt), clusters.workers(args, Console()):
        pass
    assert closed == [True]


def test_nothing_of_the_process_is_left_changed(home, address):
    logging.disable(logging.NOTSET)
    before = logging.NOTSET, dask.config.get("distributed.nanny")
    assert inspect("new/01.png", by=address) == 0
    assert (logging.root.manager.disable, dask.config.get("distributed.nanny")) == before


# -- processes ------------------------------------------------------------------------------------


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def command(*words):
    return [sys.executable, "-m", "anomalib_lite", *words]


def start(home, *words, **options):
    """A command in a session of its own, as a terminal has one."""
    return subprocess.Popen(
        command(*words),
        cwd=home,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        **options,
    )


def processes_of(session):
    shown = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True)
    return shown.stdout.split()


@pytest.mark.slow
def test_workers_here(home):
    """Fitted and inspected by two processes; killed, it goes on."""
    write_pictures(home / "many", stripes(60, seed=5))
    workers = ("--workers", "2", "--chunk", "4")
    done = subprocess.run(
        command("fit", "good", "-o", "shared.alite", *QUICK, *workers),
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(("fitting", "warning")) for line in done.stderr.splitlines())
    inspect_many = ("inspect", "shared.alite", "many", "--csv")
    with start(home, *inspect_many, "t.csv", *workers) as process:
        process.stdout.readline()
        process.kill()
    assert os.path.isdir(home / "t.csv.run")
    with start(home, *inspect_many, "t.csv", *workers) as process:
        _, err = process.communicate(timeout=120)
    assert err.splitlines()[-1].startswith("60 images: ")
    assert main([*inspect_many, "alone.csv"]) == process.returncode
    assert (home / "t.csv").read_bytes() == (home / "alone.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs sessions")
@pytest.mark.parametrize("stop", ["Ctrl-C", "kill"])
def test_workers_end_with_the_command(home, stop):
    write_pictures(home / "many", stripes(200, seed=5))
    options = ("--csv", "t.csv", "--workers", "2", "--chunk", "2")
    with start(home, "inspect", "part.alite", "many", *options) as process:
        process.stdout.readline()
        assert len(processes_of(process.pid)) >= 3
        if stop == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.kill()
        _, err = process.communicate(timeout=60)
    if stop == "Ctrl-C":
        assert process.returncode == 130 and err == "error: interrupted\n"
    deadline = time.monotonic() + 10
    while processes_of(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(process.pid) == []


@pytest.fixture
def scheduler(home):
    """The address of a scheduler that is a process, with a worker that is one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    place = ["--host", "127.0.0.1", "--no-dashboard"]
    of_worker = [address, "--nthreads", "1", "--host", "127.0.0.1", "--no-dashboard"]
    commands = {
        "dask_scheduler": [*place, "--port", str(port)],
        "dask_worker": [*of_worker, "--local-directory", str(home / "scratch")],
    }
    running = []
    for name, words in commands.items():
        program = [sys.executable, "-m", f"distributed.cli.{name}", *words]
        running.append(subprocess.Popen(program, env=environment(), stderr=subprocess.DEVNULL))
    yield address
    for process in reversed(running):
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_a_cluster_elsewhere(home, scheduler, capsys):
    assert inspect("new", "--csv", "shared.csv", by=scheduler) == 2
    assert inspect("new", "--csv", "alone.csv") == 2
    assert Path("shared.csv").read_bytes() == Path("alone.csv").read_bytes()
    error = capsys.readouterr().err
    assert all(
        line.startswith((scheduler, "waiting for", "6 images")) for line in error.splitlines()
    )
