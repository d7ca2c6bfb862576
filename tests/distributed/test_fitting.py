import pickle
import warnings
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from clusters import local_cluster, process_pool
from distributed import Client
from PIL import Image
from watched import Deadly, write_world
from worlds import scratched, stripes

from anomalib_lite import (
    SPADE,
    ConformalDetector,
    CutPaste,
    DeepOneClass,
    PaDiM,
    PatchCore,
    SubspaceAD,
)
from anomalib_lite.distributed import fit, fitting
from anomalib_lite.testing import fingerprint

ODD = scratched(3)
COMMON = {"image_size": 64, "random_state": 0, "false_alarm_rate": 0.05}
DETECTORS = {
    "PatchCore": lambda: PatchCore(coreset=0.3, **COMMON),
    "PatchCore, count": lambda: PatchCore(coreset=30, **COMMON),
    "PaDiM": lambda: PaDiM(n_features=10, **COMMON),
    "SPADE": lambda: SPADE(n_neighbors=3, **COMMON),
    "DeepOneClass": lambda: DeepOneClass(n_patches=100, **COMMON),
    "SubspaceAD": lambda: SubspaceAD(**COMMON),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    names = [str(folder / f"{i:02}.png") for i in range(40)]
    for name, image in zip(names, stripes(40), strict=True):
        Image.fromarray(image).save(name)
    return names


@pytest.fixture(scope="module")
def threads():
    with ThreadPoolExecutor(2) as executor:
        yield executor


@pytest.fixture(scope="module", params=DETECTORS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def here(name, paths):
    """By one machine."""
    return DETECTORS[name]().fit(paths)


@pytest.fixture(scope="module")
def by_pool(name, paths, pool):
    return fit(DETECTORS[name](), paths, pool, chunk=3)


@pytest.fixture
def twice(monkeypatch):
    """Images are looked at a second time, as where there are many."""
    monkeypatch.setattr(fitting, "_FEW_BYTES", 0)


def bytes_of(detector, folder):
    detector.save(folder / "saved.alite")
    return (folder / "saved.alite").read_bytes()


def test_dask_in_two_passes_and_a_pool_in_one_fit_the_same_file(
    name, by_pool, paths, dask_client, tmp_path, twice
):
    by_dask = fit(DETECTORS[name](), paths, dask_client, chunk=3)
    assert bytes_of(by_dask, tmp_path) == bytes_of(by_pool, tmp_path)
    assert by_dask.n_images_ == 40 and np.isfinite(by_dask.calibration_scores_).all()


def test_it_is_nearly_what_one_machine_fits(name, here, by_pool):
    np.testing.assert_array_equal(by_pool._digests_, here._digests_)
    assert by_pool.get_params() == here.get_params()
    rtol = {"PaDiM": 1e-6, "SPADE": 0, "DeepOneClass": 0, "SubspaceAD": 1e-6}.get(name, 0.15)
    np.testing.assert_allclose(by_pool.score_samples(ODD), here.score_samples(ODD), rtol=rtol)
    np.testing.assert_allclose(
        by_pool.calibration_scores_, here.calibration_scores_, rtol=max(10 * rtol, 1e-12)
    )
    assert by_pool.predict(ODD).tolist() == [-1, -1, -1]
    assert by_pool.map_levels().threshold == pytest.approx(here.map_levels().threshold, rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 4])
def test_any_number_of_workers_fits_the_same_file(n_workers, paths, pool, tmp_path):
    with local_cluster(n_workers) as cluster, Client(cluster) as client:
        for make in DETECTORS.values():
            many = bytes_of(fit(make(), paths, client, chunk=3), tmp_path)
            assert many == bytes_of(fit(make(), paths, pool, chunk=3), tmp_path)


def test_tasks_of_many_chunks_fit_the_same_file(paths, tmp_path, monkeypatch):
    """Whatever the number of chunks of a task is, which follows from that of workers."""
    files, tasks = [], []
    original = fitting.MergeTree
    monkeypatch.setattr(
        fitting, "MergeTree", lambda *args: (tasks.append(args[3]), original(*args))[1]
    )
    for n_workers in (1, 16):
        with ThreadPoolExecutor(n_workers) as threads:
            detector = fit(DETECTORS["PaDiM"](), paths, threads, chunk=2)
            files.append(bytes_of(detector, tmp_path))
    assert files[0] == files[1]
    assert tasks == [5, 10]


def test_later_images_are_learned_as_always(paths, by_pool, name):
    if not hasattr(by_pool, "partial_fit"):
        pytest.skip("learns in parts, but not later")
    detector = pickle.loads(pickle.dumps(by_pool)).partial_fit(stripes(5, seed=4))
    assert detector.n_images_ == 45
    assert np.isfinite(detector.calibration_scores_).all()


# -- images that cannot be read -------------------------------------------------------------------


def test_an_unreadable_image_is_named_as_by_one_machine(tmp_path, pool):
    paths = write_world(tmp_path / "new")
    detector = DETECTORS["PaDiM"]()
    with pytest.raises(ValueError) as alone:
        DETECTORS["PaDiM"]().fit(paths)
    with pytest.raises(ValueError) as many:
        fit(detector, paths, pool, chunk=2)
    assert str(many.value) == str(alone.value)
    assert "image 3 (" in str(many.value)
    assert fingerprint(detector) == fingerprint(DETECTORS["PaDiM"]())


def test_unreadable_images_are_left_out_and_named(tmp_path, pool, by_pool):
    paths = write_world(tmp_path / "new", 12, unreadable=False)
    rest = paths[:3] + paths[6:]
    for path in paths[3:6]:  # a whole chunk
        Path(path).write_bytes(b"no image")
    with pytest.warns(
        UserWarning, match=r"3 images were skipped .* image 3 \(.*03.png\): "
    ) as told:
        detector = fit(DETECTORS["PaDiM"](), paths, pool, chunk=3, on_error="skip")
    assert "image image" not in str(told[0].message)
    alone = DETECTORS["PaDiM"]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alone.fit(rest)
    np.testing.assert_allclose(detector.score_samples(ODD), alone.score_samples(ODD), rtol=1e-6)
    assert detector.n_images_ == 9
    with pytest.raises(ValueError, match="none that can be read"):
        fit(DETECTORS["PaDiM"](), paths[3:6], pool, chunk=2, on_error="skip")


@pytest.mark.filterwarnings("ignore:false_alarm_rate")
def test_names_with_parentheses_are_named_whole(tmp_path, threads, monkeypatch, twice):
    paths = write_world(tmp_path / "new", unreadable=False)
    names = [str(tmp_path / "new" / f"part ({i}).png") for i in range(10)]
    for path, name in zip(paths, names, strict=True):
        Path(path).rename(name)
    Path(names[2]).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"image 2 \(\S*part \(2\)\.png\): cannot"):
        fit(DETECTORS["PaDiM"](), names, threads, chunk=3, on_error="skip")


def test_a_file_that_changes_between_the_passes_is_an_error(tmp_path, pool, monkeypatch, twice):
    paths = write_world(tmp_path / "new", unreadable=False)
    original = PaDiM.finish

    def finish(self, state):
        Image.fromarray(stripes(1, seed=99)[0]).save(paths[4])
        return original(self, state)

    monkeypatch.setattr(PaDiM, "finish", finish)
    detector = DETECTORS["PaDiM"]()
    with pytest.raises(ValueError, match=r"^\S*04.png: .*Has its file changed since"):
        fit(detector, paths, pool, chunk=3)
    assert not detector._is_fitted


# -- workers that are lost ------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["part-15", "calibrate"])
def test_a_killed_worker_changes_nothing(place, paths, dask_client, pool, tmp_path, twice):
    detector, other = (Deadly(n_features=10, **COMMON) for _ in range(2))
    detector.folder = tmp_path
    (tmp_path / place).touch()
    fit(detector, paths, dask_client, chunk=3)
    assert not (tmp_path / place).exists()
    fit(other, paths, pool, chunk=3)
    del detector.folder  # nothing that was learned
    assert bytes_of(detector, tmp_path) == bytes_of(other, tmp_path)


def test_a_killed_process_of_a_pool_is_a_clear_error(paths, tmp_path):
    detector = Deadly(n_features=10, **COMMON)
    detector.folder = tmp_path
    (tmp_path / "part-15").touch()
    with process_pool(2) as pool, pytest.raises(BrokenExecutor, match="Make a new one"):
        fit(detector, paths, pool, chunk=3)
    assert not detector._is_fitted


# -- what is given --------------------------------------------------------------------------------


def test_methods_that_train_are_refused(paths, pool):
    with pytest.raises(ValueError, match="CutPaste, which trains on all images together"):
        fit(CutPaste(), paths, pool)
    with pytest.raises(ValueError, match="Fit the PaDiM alone"):
        fit(ConformalDetector(PaDiM()), paths, pool)
    with pytest.raises(ValueError, match=r"whiten: .* Fit on one machine"):
        fit(PatchCore(whiten=True), paths, pool)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (np.zeros((4, 64, 64)), {}, "Only paths travel"),
        ([], {}, "at least one image"),
        (None, {"chunk": 0}, "chunk"),
        (None, {"on_error": "pass"}, "on_error"),
    ],
)
def test_bad_arguments_are_refused(given, options, message, paths, pool):
    with pytest.raises(ValueError, match=message):
        fit(PaDiM(), paths if given is None else given, pool, **options)


def test_a_client_of_another_kind_is_refused(paths):
    with pytest.raises(ValueError, match="client: expected a dask"):
        fit(PaDiM(), paths, "tcp://cluster:8786")


def test_random_states_that_are_no_numbers_are_the_same_for_all_workers(paths, pool):
    generator = np.random.default_rng(3)
    detector = PaDiM(n_features=10, **{**COMMON, "random_state": generator})
    assert fit(detector, paths, pool, chunk=3).random_state is generator
    assert fit(PaDiM(n_features=10, image_size=64), paths, pool, chunk=3).random_state is None


def test_progress_is_shown_on_request(paths, pool, capsys, twice):
    fit(DETECTORS["PaDiM"](), paths[:20], pool, chunk=5, verbose=True)
    shown = capsys.readouterr().err
    assert "fit: 100%" in shown and "calibrate: 100%" in shown and "image/s" in shown
    fit(DETECTORS["PaDiM"](), paths[:20], pool, chunk=5)
    assert capsys.readouterr().err == ""
