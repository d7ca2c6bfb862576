import json
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import toys
from clusters import local_cluster, process_pool
from distributed import Client
from watched import counts, fitted, watched, write_floats, write_world

from anomalib_lite.deploy import OnnxDetector
from anomalib_lite.distributed import inspect, iter_records, score_samples
from anomalib_lite.distributed.engines import ExecutorEngine
from anomalib_lite.records import read_csv

SKIPPED = r"ignore:1 image was skipped"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "new")


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return OnnxDetector(toys.write(tmp_path_factory.mktemp("toy") / "toy.onnx"))


@pytest.fixture(params=["PatchCore", "PaDiM", "Ensemble", "Conformal", "Conformal, cv", "exported"])
def detector(request):
    if request.param == "exported":
        return request.getfixturevalue("exported")
    return fitted(request.param)


def same(a, b):
    """Whether two arrays, or Nones, have the same values, NaN included."""
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True)


def check_as_here(detector, paths, client, folder, chunk=3):
    """What workers say has the bits of what the detector says here."""
    here = detector.inspect(paths, maps="network", on_error="skip")
    seen = inspect(detector, paths, client, out=folder / "run", chunk=chunk)
    assert same(seen.scores, here.scores) and same(seen.labels, here.labels)
    assert same(seen.p_values, here.p_values)
    assert seen.maps is None
    assert seen.flagged_by == here.flagged_by
    assert (seen.paths, seen.skipped, seen.sizes) == (here.paths, here.skipped, here.sizes)
    assert (seen.score_levels, seen.map_levels) == (here.score_levels, here.map_levels)
    here.to_csv(folder / "here.csv")
    assert (folder / "run" / "records.csv").read_bytes() == (folder / "here.csv").read_bytes()
    scores = score_samples(detector, paths, client, chunk=chunk, on_error="skip")
    assert same(scores, detector.score_samples(paths, on_error="skip"))


@pytest.mark.filterwarnings(SKIPPED)
def test_workers_say_what_the_detector_says_here(detector, paths, any_client, tmp_path):
    check_as_here(detector, paths, any_client, tmp_path)


@pytest.mark.filterwarnings(SKIPPED)
@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 4])
def test_any_number_of_workers_says_the_same(n_workers, paths, exported, tmp_path):
    detectors = {name: fitted(name) for name in ("PatchCore", "PaDiM", "Conformal, cv")}
    with local_cluster(n_workers) as cluster, Client(cluster) as client:
        for name, detector in {**detectors, "exported": exported}.items():
            folder = tmp_path / name
            folder.mkdir()
            check_as_here(detector, paths, client, folder)


@pytest.mark.filterwarnings(SKIPPED)
@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_chunks_of_any_size_say_the_same(chunk, paths, threads, tmp_path):
    check_as_here(fitted("PaDiM"), paths, threads, tmp_path, chunk)


def test_skipped_images_are_named_in_a_warning(paths, threads):
    with pytest.warns(UserWarning, match=r"1 image was skipped .* image 3 \(.*03.png\)"):
        inspect(fitted("PaDiM"), paths, threads, chunk=2)


def test_an_image_that_cannot_be_read_is_an_error_for_scores(paths, threads):
    with pytest.raises(ValueError) as here:
        fitted("PaDiM").score_samples(paths)
    with pytest.raises(ValueError) as there:
        score_samples(fitted("PaDiM"), paths, threads, chunk=2)
    assert str(there.value) == str(here.value)


def test_nothing_readable_is_an_error(tmp_path, threads):
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]  # none is there
    with pytest.raises(ValueError) as here:
        fitted("PaDiM").inspect(paths, on_error="skip")
    with pytest.raises(ValueError) as there:
        inspect(fitted("PaDiM"), paths, threads, chunk=2)
    assert str(there.value) == str(here.value)


@pytest.mark.filterwarnings(SKIPPED)
def test_workers_say_which_member_flagged(paths, threads, tmp_path):
    ensemble, out = fitted("Ensemble"), tmp_path / "run"
    first = inspect(ensemble, paths, threads, out=out, chunk=4)
    assert {names for names in first.flagged_by} > {()}
    again = inspect(ensemble, paths, threads, out=out, chunk=4)  # of the table
    assert (
        again.flagged_by
        == first.flagged_by
        == ensemble.inspect(paths, maps=False, on_error="skip").flagged_by
    )
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**run, "columns": None}))  # of an earlier version
    with pytest.raises(ValueError, match="another value of columns"):
        inspect(ensemble, paths, threads, out=out, chunk=4)


@pytest.mark.filterwarnings(SKIPPED)
def test_relative_paths_are_the_clients(paths, pool, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(paths[0]).parent)  # the workers are elsewhere
    names = [os.path.basename(path) for path in paths]
    check_as_here(fitted("PaDiM"), [*names, "gone.png"][:-1], pool, tmp_path)


# -- what is given --------------------------------------------------------------------------------


@pytest.mark.filterwarnings(SKIPPED)
def test_folders_patterns_and_lists(paths, threads, tmp_path):
    folder, detector = Path(paths[0]).parent, fitted("PaDiM")
    listed = tmp_path / "some.txt"
    listed.write_text("\n".join(paths[:2]))

    def told(images):
        return inspect(detector, images, threads, regions=False).paths

    assert told(folder) == told(str(folder / "*.png")) == told(iter(paths)) == paths
    assert told(listed) == paths[:2] and told(paths[1]) == [paths[1]]
    twice = [paths[1], paths[0], paths[1]]
    assert score_samples(detector, twice, threads, chunk=2).tolist() == (
        detector.score_samples(twice).tolist()
    )


@pytest.mark.parametrize("images", [np.zeros((2, 64, 64), np.uint8), [np.zeros((9, 9))], 7, b"a"])
def test_images_do_not_travel(images, threads):
    with pytest.raises(ValueError, match=r"images: expected a folder, a file.* Only paths travel"):
        inspect(fitted("PaDiM"), images, threads)


def test_names_that_lead_to_no_image_are_refused(threads, tmp_path):
    with pytest.raises(ValueError, match="no image file matches"):
        inspect(fitted("PaDiM"), str(tmp_path / "*.png"), threads)
    with pytest.raises(ValueError, match="at least one image"):
        inspect(fitted("PaDiM"), [], threads)


def test_other_arguments_are_checked(paths, threads):
    with pytest.raises(ValueError, match="client: expected"):
        inspect(fitted("PaDiM"), paths, "tcp://cluster:8786")
    with pytest.raises(ValueError, match="chunk"):
        inspect(fitted("PaDiM"), paths, threads, chunk=0)
    with pytest.raises(ValueError, match="on_error"):
        score_samples(fitted("PaDiM"), paths, threads, on_error="ignore")
    with pytest.raises(ValueError, match="detector: expected a fitted detector of images"):
        inspect("part.alite", paths, threads)


def test_the_detector_stays_as_it_was(paths, threads):
    detector = fitted("Conformal, cv")
    before = [vars(each).copy() for each in (detector, *detector.detectors_)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score_samples(detector, paths, threads, on_error="skip")
    after = [vars(each) for each in (detector, *detector.detectors_)]
    assert all(a.keys() == b.keys() for a, b in zip(before, after, strict=True))
    assert all(a[key] is b[key] for a, b in zip(before, after, strict=True) for key in a)


# -- scales of images -----------------------------------------------------------------------------


def told(detector, paths, *args, **options):
    """Scores, or the text of the error."""
    try:
        return detector.score_samples(paths).tolist()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("name", ["PaDiM", "Conformal, cv"])
@pytest.mark.parametrize(
    "values", [[1e-4] * 5, [1e-4] * 40 + [1.0] * 4, [1e-4] * 20 + [1.0] + [1e-4] * 19, [1e-4]]
)
def test_a_mistake_of_scale_is_one_of_the_whole_call(name, values, threads, tmp_path):
    detector, paths = fitted(name), write_floats(tmp_path / "floats", values)
    here = told(detector, paths)
    for chunk in (3, 64):
        try:
            there = score_samples(detector, paths, threads, chunk=chunk).tolist()
        except ValueError as error:
            there = str(error)
        assert there == here
    assert isinstance(here, list) == (1.0 in values[:32])


def test_nothing_is_written_before_a_call_is_known_to_be_right(threads, tmp_path):
    paths = write_floats(tmp_path / "floats", [1e-4] * 8)
    for _ in range(2):
        with pytest.raises(ValueError, match="every image of the call"):
            inspect(fitted("PaDiM"), paths, threads, chunk=2, out=tmp_path / "run")
        assert not [*(tmp_path / "run" / "chunks").iterdir()]


# -- runs that are cut off ------------------------------------------------------------------------


def cut_off(detector, paths, client, out, n):
    """Take some records, and no more."""
    records = iter_records(detector, paths, client, out=out, chunk=2)
    for _ in range(n):
        next(records)
    records.close()


@pytest.mark.filterwarnings(SKIPPED)
def test_a_run_goes_on_where_it_was_cut_off(threads, tmp_path):
    paths, detector = write_world(tmp_path / "new", 20), watched(tmp_path)
    out = tmp_path / "run"
    cut_off(detector, paths, threads, out, 5)
    written = len([*(out / "chunks").iterdir()])
    assert written >= 3 and not (out / "records.csv").exists()
    time.sleep(0.1)  # for tasks that had begun
    before = counts(detector)
    seen = inspect(detector, paths, threads, chunk=2, out=out)
    assert (counts(detector) - before).total() == 20 - 2 * written
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        "records.csv",
        "run.json",
    ]
    before = counts(detector)
    again = inspect(detector, paths, threads, chunk=2, out=out)
    assert counts(detector) == before  # the table was read
    here = detector.inspect(paths, maps="network", on_error="skip")
    here.to_csv(tmp_path / "here.csv")
    assert (out / "records.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    for each in (seen, again):
        assert same(each.scores, here.scores) and each.skipped == here.skipped


def test_folders_of_other_runs_are_refused(paths, threads, tmp_path):
    out = tmp_path / "run"
    cut_off(fitted("PaDiM"), paths, threads, out, 1)
    for detector, images, options, name in (
        (fitted("PatchCore"), paths, {}, "detector"),
        (fitted("PaDiM"), paths[1:], {}, "images"),
        (fitted("PaDiM"), paths[::-1], {"chunk": 3}, "images, chunk"),
        (fitted("PaDiM"), paths, {"regions": False}, "regions"),
    ):
        with pytest.raises(ValueError, match=f"holds another run, .* value of {name}. Remove"):
            inspect(detector, images, threads, out=out, **{"chunk": 2, **options})


@pytest.mark.parametrize("name", ["notes.txt", "run.json", "chunks/0000001.txt", "records.csv"])
def test_folders_that_hold_anything_else_are_refused(name, paths, threads, tmp_path):
    foreign = tmp_path / "run" / name
    if "/" in name:
        cut_off(fitted("PaDiM"), paths, threads, tmp_path / "run", 1)
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text("[1]")
    with pytest.raises(ValueError, match="Remove this folder, or write"):
        inspect(fitted("PaDiM"), paths, threads, out=tmp_path / "run", chunk=2)
    assert foreign.read_text() == "[1]"
    with pytest.raises(ValueError, match="expected a folder, got the file"):
        inspect(fitted("PaDiM"), paths, threads, out=foreign)


def test_damaged_chunks_and_tables_are_refused(paths, threads, tmp_path):
    out = tmp_path / "run"
    cut_off(fitted("PaDiM"), paths, threads, out, 1)
    chunk = out / "chunks" / "0000000.csv"
    whole = chunk.read_bytes()
    for damaged in (whole[:-40], whole.replace(b"00.png", b"99.png"), b"", whole + b"x\n"):
        chunk.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"0000000\.csv.* Remove it, and call again"):
            inspect(fitted("PaDiM"), paths, threads, out=out, chunk=2)


def test_two_clients_do_not_write_to_one_folder(paths, threads, tmp_path):
    first = iter_records(fitted("PaDiM"), paths, threads, out=tmp_path / "run", chunk=2)
    next(first)
    with pytest.raises(ValueError, match="another client is writing"):
        inspect(fitted("PaDiM"), paths, threads, out=tmp_path / "run", chunk=2)
    assert len([*first]) == len(paths) - 1


def test_an_interrupt_cancels_what_is_in_flight(tmp_path, monkeypatch):
    paths = write_world(tmp_path / "new", 20, unreadable=False)
    detector, out = watched(tmp_path, seconds_=0.2), tmp_path / "run"
    wait, n_waited = ExecutorEngine.wait, []

    def interrupted(self, tasks):
        n_waited.append(len(tasks))
        if n_waited.count(2) == 2:
            raise KeyboardInterrupt
        return wait(self, tasks)

    with ThreadPoolExecutor(1) as executor:
        with monkeypatch.context() as patch:
            patch.setattr(ExecutorEngine, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                inspect(detector, paths, executor, out=out, chunk=2)
    assert {*n_waited} == {1, 2}  # two in flight for a worker, one where its result is asked for
    assert counts(detector).total() <= 4  # of one chunk that was done, and one that had begun
    with ThreadPoolExecutor(1) as executor:
        inspect(detector, paths, executor, out=out, chunk=2)
    assert {*counts(detector)} == {os.path.basename(path) for path in paths}


# -- workers and clients that are killed ----------------------------------------------------------


@pytest.mark.slow
def test_a_lost_worker_of_dask_changes_nothing(dask_client, tmp_path):
    paths = write_world(tmp_path / "new", 30, unreadable=False)
    detector = watched(tmp_path, deadly_="15.png", seconds_=0.05)
    seen = inspect(detector, paths, dask_client, chunk=2, out=tmp_path / "run")
    assert Path(detector.dead_).exists()
    here = detector.inspect(paths, maps="network")
    here.to_csv(tmp_path / "here.csv")
    assert same(seen.scores, here.scores)
    table = (tmp_path / "run" / "records.csv").read_bytes()
    assert table == (tmp_path / "here.csv").read_bytes()


def test_a_killed_process_of_a_pool_costs_only_what_was_in_flight(tmp_path):
    paths = write_world(tmp_path / "new", 20, unreadable=False)
    detector, out = watched(tmp_path, deadly_="15.png"), tmp_path / "run"
    with process_pool(1) as executor:
        with pytest.raises(BrokenExecutor, match="Make a new one and call again"):
            inspect(detector, paths, executor, chunk=2, out=out)
    written = [*(out / "chunks").iterdir()]
    assert len(written) >= 5
    before = counts(detector)
    with ThreadPoolExecutor(2) as executor:
        seen = inspect(detector, paths, executor, chunk=2, out=out)
    assert (counts(detector) - before).total() == 20 - 2 * len(written)
    assert same(seen.scores, detector.score_samples(paths))


def records_of(path):
    with open(path, newline="") as file:
        return [*read_csv(file)]


CLIENT = """
import pickle, sys
from pathlib import Path
from anomalib_lite.distributed import inspect
from distributed import Client

address, file, images, out = sys.argv[1:]
detector = pickle.loads(Path(file).read_bytes())
with Client(address) as client:
    inspect(detector, images, client, out=out, chunk=2)
"""


@pytest.mark.slow
def test_a_killed_client_goes_on(dask_client, tmp_path):
    paths = write_world(tmp_path / "new", 40, unreadable=False)
    detector, out = watched(tmp_path, held_=str(tmp_path / "30.png")), tmp_path / "run"
    Path(detector.held_).touch()
    (tmp_path / "part.pickle").write_bytes(pickle.dumps(detector))
    tests = Path(__file__).parent
    run = [sys.executable, "-c", CLIENT, dask_client.scheduler.address, tmp_path / "part.pickle"]
    path = os.pathsep.join([str(tests), str(tests.parent), *sys.path])
    options = {"env": {**os.environ, "PYTHONPATH": path}}
    client = subprocess.Popen([*map(str, run), tmp_path / "new", out], **options)
    chunks = out / "chunks"
    while not chunks.exists() or len([*chunks.glob("*.csv")]) < 5:
        assert client.poll() is None
        time.sleep(0.02)
    client.send_signal(signal.SIGKILL)
    client.wait()
    written = {record.path for path in chunks.glob("*.csv") for record in records_of(path)}
    assert 10 <= len(written) < 40
    Path(detector.held_).unlink()
    subprocess.run([*map(str, run), tmp_path / "new", out], check=True, **options)
    assert {counts(detector)[os.path.basename(path)] for path in written} == {1}
    assert [record.path for record in records_of(out / "records.csv")] == paths
    here = detector.inspect(paths, maps="network")
    here.to_csv(tmp_path / "here.csv")
    assert (out / "records.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


def test_a_file_that_was_written_since_is_looked_at_again(tmp_path, threads):
    paths = write_world(tmp_path / "new", unreadable=False)
    detector, out = fitted("PaDiM"), tmp_path / "run"
    records = iter_records(detector, paths, threads, out=out, chunk=2)
    for _ in range(5):
        next(records)
    records.close()
    n_done = len(os.listdir(out / "chunks"))
    assert n_done >= 2
    Path(paths[1]).write_bytes(Path(paths[9]).read_bytes())
    os.utime(paths[1], (1e9, 1e9))
    seen = inspect(detector, paths, threads, out=out, chunk=2)
    assert same(seen.scores, detector.score_samples(paths))
    os.utime(paths[1], (2e9, 2e9))
    with pytest.raises(ValueError, match=r"01.png has changed since it was inspected"):
        inspect(detector, paths, threads, out=out, chunk=2)


@pytest.mark.parametrize("paths", ["a.png", []])
def test_records_are_those_of_a_list(paths, threads):
    with pytest.raises(ValueError, match="paths: expected a list of files"):
        iter_records(fitted("PaDiM"), paths, threads)
