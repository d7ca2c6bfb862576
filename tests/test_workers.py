"""Workers: the same bits for any number of them, in order, and nothing left behind."""

import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import bits
import joblib
import numpy as np
import pytest
import torch
from detectors import SUBJECTS, small
from PIL import Image
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from torch.utils.data import DataLoader, Dataset
from worlds import scratched, stripes

from anomalib_lite import (
    CANCE,
    ConformalDetector,
    DeepFeatures,
    DeepOneClass,
    PaDiM,
    PatchCore,
    contexts,
)
from anomalib_lite.backbones import recorded
from anomalib_lite.batches import Batches
from anomalib_lite.contexts import plain_context
from anomalib_lite.data import ImageStream
from anomalib_lite.data.inputs import NetworkInput
from anomalib_lite.density.heads import NAMED
from anomalib_lite.testing import assert_same
from anomalib_lite.workers import _AHEAD, FEW, Team, borrowed_team, count_workers, team

every_number = pytest.mark.parametrize("n_workers", [1, 2, 4])


@pytest.fixture
def fitted():
    return SUBJECTS[PaDiM].fitted


@pytest.fixture
def workers():
    made = Team(3)
    yield made
    made.dismiss()


@contextlib.contextmanager
def torch_threads(n_threads):
    """Context in which PyTorch was told to use so many threads in each operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def worker_threads():
    return [each for each in threading.enumerate() if each.name.startswith("anomalib_lite")]


def all_workers_end():
    """Whether none is left; one that an interrupt met as it started ends its task by itself."""
    for thread in worker_threads():
        thread.join(10)
    return not worker_threads()


# -- the same bits --------------------------------------------------------------------------------

record = recorded._recorded
SLOW = ("SPADE", "PaDiM", "ContrastiveDA", "NCEDensity")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in bits.MAKERS]
)
def test_bits_depend_neither_on_workers_nor_on_threads(name):
    alone = bits.digest(name, 1)
    with torch_threads(3):
        assert bits.digest(name, 4) == alone


def test_bits_of_recorded_networks(monkeypatch):
    alone = bits.digest("DeepFeatures", 1)  # of few images: its network is not recorded
    monkeypatch.setattr(recorded, "_OFTEN", 1)
    made = []
    monkeypatch.setattr(
        recorded, "_recorded", lambda *given: made.append(record(*given)) or made[-1]
    )
    with torch_threads(3):
        assert bits.digest("DeepFeatures", 4) == alone
    assert None not in made
    assert len(made) == 1


def test_bits_would_depend_on_threads(monkeypatch):
    """The test above can fail: without the limit, some do."""
    names = ("GaussianDensity", "MLSAD")
    alone = [bits.digest(name, 1) for name in names]
    monkeypatch.setattr(contexts, "_one_thread", contextlib.nullcontext)
    with torch_threads(3):
        assert [bits.digest(name, 1) for name in names] != alone


@pytest.mark.slow
def test_bits_of_processes_with_more_threads():
    variables = dict.fromkeys(("OMP", "OPENBLAS", "MKL"), "4")
    environment = {f"{name}_NUM_THREADS": value for name, value in variables.items()}
    paths = [str(Path(bits.__file__).parent), str(Path(bits.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, bits.__file__, "4"],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)},
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found == {name: bits.digest(name, 1) for name in bits.MAKERS}


# -- one thread each ------------------------------------------------------------------------------

MATRIX = torch.rand(300, 300, dtype=torch.float64)
OPERATIONS = {
    "product": lambda: MATRIX @ MATRIX,
    "convolution": lambda: torch.conv2d(torch.rand(1, 16, 80, 80), torch.rand(16, 16, 3, 3)),
    "elementwise": lambda: torch.rand(500, 500).exp(),
    "sum": lambda: torch.rand(500, 500).sum(),
    "sort": lambda: torch.rand(500, 500).sort(),
    "eigenvectors": lambda: torch.linalg.eigh(MATRIX + MATRIX.T),
    "Cholesky": lambda: torch.linalg.cholesky(MATRIX @ MATRIX.T + 300 * torch.eye(300)),
    "singular vectors": lambda: torch.linalg.svd(MATRIX),
    "gradients": lambda: _gradients(),
}
on_linux = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts Linux's tasks")


@torch.enable_grad()
def _gradients():
    weight = torch.rand(16, 16, 3, 3, requires_grad=True)
    torch.conv2d(torch.rand(1, 16, 80, 80), weight).exp().mean().backward()


def threads_begun(operation):
    """How many threads an operation leaves behind: OpenMP keeps those of a thread for the next."""
    before = set(os.listdir("/proc/self/task"))
    operation()
    return len(set(os.listdir("/proc/self/task")) - before)


@on_linux
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_a_worker_computes_in_one_thread(operation, workers):
    with torch_threads(3):
        assert list(workers.map(threads_begun, [operation] * 4))[-1] == 0
        assert list(workers.map(threads_begun, [operation] * 4)) == [0] * 4
    with torch_threads(3), plain_context():
        assert threads_begun(operation) == 0


def test_a_task_is_plain(workers):
    def state(_):
        found = torch.is_grad_enabled(), np.geterr()["under"], torch.get_num_threads()
        torch.set_grad_enabled(True)  # which ends with the task
        return found

    with torch_threads(3), np.errstate(all="raise"):
        assert list(workers.map(state, range(9))) == [(False, "ignore", 1)] * 9


@on_linux
def test_a_thread_would_have_others_compute_for_it():
    begun = []

    def run():
        begun.append(threads_begun(OPERATIONS["sum"]))

    with torch_threads(3):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert begun == [2]


def mkl_threads():
    before = contexts._limit_mkl()(1)
    contexts._limit_mkl()(before)
    return before


def numbers_of_threads():
    return torch.get_num_threads(), mkl_threads()


def in_new_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_numbers_of_threads_are_left_alone(error, workers):
    with torch_threads(3):
        before, new = numbers_of_threads(), in_new_thread(numbers_of_threads)
        assert before[0] == new[0] == 3
        meanwhile = []
        with pytest.raises(error) if error else contextlib.nullcontext(), plain_context():
            with plain_context():
                meanwhile.append(in_new_thread(numbers_of_threads))
            assert torch.get_num_threads() == 1
            list(workers.map(abs, range(9)))
            meanwhile.append(in_new_thread(numbers_of_threads))
            if error:
                raise error
        assert numbers_of_threads() == before
        assert meanwhile == [new, new]
        assert in_new_thread(numbers_of_threads) == new


def test_a_call_leaves_the_numbers_of_threads_alone(fitted):
    with torch_threads(3):
        before, new = numbers_of_threads(), in_new_thread(numbers_of_threads)
        found = fitted.iter_inspect(stripes(4))
        next(found)
        assert numbers_of_threads() == before
        found.close()
        with pytest.raises(ValueError, match="image 1"):
            small(PaDiM, n_jobs=2).fit([*stripes(1), np.full((64, 64), np.nan), *stripes(3)])
        assert numbers_of_threads() == before
        assert in_new_thread(numbers_of_threads) == new


# -- order, and errors in their place -------------------------------------------------------------


def slow_first(item):
    time.sleep(0.02 / (1 + item))
    return item


@every_number
@pytest.mark.parametrize("ahead", [True, False])
def test_results_are_in_order(n_workers, ahead):
    made = Team(n_workers)
    assert list(made.map(slow_first, range(12), ahead=ahead)) == list(range(12))
    assert list(made.map(slow_first, [], ahead=ahead)) == []
    made.dismiss()


def taken_until_error(made, function, items):
    """(results before the error, the error)"""
    results = []
    with pytest.raises(BaseException) as caught:
        for result in made.map(function, items):
            results.append(result)
    return results, caught.value


@every_number
def test_errors_of_tasks_are_raised_in_their_place(n_workers):
    def fail_at_five(item):
        if item in (5, 7):
            raise KeyError(item)
        return slow_first(item)

    made = Team(n_workers)
    results, error = taken_until_error(made, fail_at_five, range(12))
    assert (results, type(error), error.args) == ([0, 1, 2, 3, 4], KeyError, (5,))
    assert list(made.map(abs, range(3))) == [0, 1, 2]  # the team goes on
    made.dismiss()


@every_number
def test_errors_of_the_items_are_raised_in_their_place(n_workers):
    def items():
        yield from range(4)
        raise OSError("gone")

    made = Team(n_workers)
    results, error = taken_until_error(made, slow_first, items())
    assert (results, type(error)) == ([0, 1, 2, 3], OSError)
    results, error = taken_until_error(made, slow_first, iter([1, 2, object()]))
    assert (results, type(error)) == ([1, 2], TypeError)
    made.dismiss()


def test_a_map_is_freed_when_it_ends(workers):
    class Function:
        def __call__(self, item):
            return item

    def items(error):
        yield from range(5)
        if error:
            raise ValueError

    gc.disable()  # what refers to itself would stay
    try:
        for error in (False, True):
            function = Function()
            there = weakref.ref(function)
            with contextlib.suppress(ValueError):
                list(workers.map(function, items(error)))
            del function
            assert there() is None
    finally:
        gc.enable()


@every_number
def test_few_items_are_in_flight(n_workers):
    taken, given = [], []

    def items():
        for item in range(40):
            taken.append(item)
            assert len(taken) - len(given) <= (n_workers + _AHEAD if n_workers > 1 else 1)
            yield item

    made = Team(n_workers)
    for result in made.map(slow_first, items()):
        given.append(result)
    assert given == list(range(40))
    made.dismiss()


def test_items_are_taken_by_the_caller_and_tasks_done_by_workers(workers):
    def items():
        for _ in range(6):
            yield threading.get_ident()

    seen = list(workers.map(lambda taker: (taker, threading.get_ident()), items()))
    here = threading.get_ident()
    assert {taker for taker, _ in seen} == {here}
    assert here not in {worker for _, worker in seen}


# -- interrupted and dropped ----------------------------------------------------------------------


def interrupt_main():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


in_main_thread = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill") or threading.current_thread() != threading.main_thread(),
    reason="only the main thread can be interrupted",
)


@in_main_thread
def test_an_interrupt_ends_the_work():
    begun = []

    def work(item):
        begun.append(item)
        if item == 3:
            interrupt_main()
            time.sleep(0.1)
        return item

    with pytest.raises(KeyboardInterrupt), team(2) as workers:
        for _ in workers.map(work, itertools.count()):
            pass
    assert all_workers_end()
    n_begun = len(begun)
    assert n_begun < 12
    time.sleep(0.05)
    assert len(begun) == n_begun


@in_main_thread
def test_an_interrupted_fit_changes_nothing(monkeypatch):
    detector = small(PaDiM, n_jobs=2)
    prepare = Batches._prepare

    def interrupted(self, image):
        if image.index == 3:
            interrupt_main()
            time.sleep(0.1)
        return prepare(self, image)

    monkeypatch.setattr(Batches, "_prepare", interrupted)
    before = vars(detector).copy()
    with pytest.raises(KeyboardInterrupt):
        detector.fit(stripes(60))
    assert vars(detector) == before
    assert all_workers_end()


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_an_iterator_that_is_left_early_leaves_nothing_behind(how, fitted, monkeypatch):
    begun = []
    prepare = Batches._prepare
    monkeypatch.setattr(
        Batches, "_prepare", lambda self, image: begun.append(0) or prepare(self, image)
    )
    n_threads = threading.active_count()
    detector = small_copy(fitted, n_jobs=3)
    found = detector.iter_inspect(stripes(100))
    next(found)
    if how == "closed":
        found.close()
    del found
    n_begun = len(begun)
    assert n_begun < 60
    assert not worker_threads()
    assert threading.active_count() == n_threads
    time.sleep(0.05)
    assert len(begun) == n_begun


def small_copy(fitted, **params):
    """A fitted detector with other live parameters; the original is shared by many tests."""
    copied = pickle.loads(pickle.dumps(fitted))
    return copied.set_params(**params)


def test_no_thread_outlives_a_call(fitted):
    n_threads = threading.active_count()
    detector = small(PaDiM, n_jobs=4).fit(stripes(9))
    detector.score_samples(stripes(9))
    with pytest.raises(ValueError, match="image 2"):
        detector.score_samples([*stripes(2), np.full((64, 64), np.nan), *stripes(9)])
    assert threading.active_count() == n_threads


@on_linux
def test_workers_have_ended_when_they_are_dismissed():
    """A fork while a thread ends finds locks of MKL and others locked for ever."""

    def native(_):
        assert (MATRIX @ MATRIX).shape == MATRIX.shape
        return threading.get_native_id()

    left = set()
    for _ in range(20):
        made = Team(4)
        threads = set(map(str, made.map(native, range(8))))
        made.dismiss()
        left |= threads & set(os.listdir("/proc/self/task"))
    assert not left


def test_no_worker_leaves_a_ghost():
    """Python notes a thread that asks who it is while it ends, and never forgets it."""
    with torch_threads(3):
        before = threading.enumerate()
        made = Team(3)
        assert list(made.map(slow_first, range(9))) == list(range(9))
        made.dismiss()
        assert set(threading.enumerate()) <= {*before}


# -- nested ---------------------------------------------------------------------------------------


def test_a_team_is_borrowed_and_a_task_has_none(workers):
    def sizes(_):
        with borrowed_team() as one, team(4) as other:
            return one.n_workers, other.n_workers, list(other.map(abs, [-1]))

    assert list(workers.map(sizes, range(3))) == [(1, 1, [1])] * 3
    assert workers.run(sizes, 0) == (3, 3, [1])  # the caller lends it
    with team(2), borrowed_team(4) as around, team(None) as again:
        assert around is again
        assert around.n_workers == 2
    with borrowed_team(4) as alone:
        assert alone.n_workers == 4


def test_a_team_is_its_callers_alone(workers):
    with team(2):
        assert in_new_thread(lambda: _borrowed(5)) == 5


def _borrowed(n_jobs=None):
    with borrowed_team(n_jobs) as workers:
        return workers.n_workers


def test_a_task_may_call_a_detector(fitted, workers):
    images = stripes(3, seed=5)
    expected = fitted.inspect(images)
    for seen in workers.map(fitted.inspect, [images] * 6):
        assert_same(seen, expected)


def test_calls_of_several_threads_share_nothing(fitted):
    images = stripes(6, seed=5)
    expected = fitted.inspect(images)
    seen = [None] * 4

    def run(i):
        seen[i] = small_copy(fitted, n_jobs=1 + i).inspect(images)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in seen:
        assert_same(each, expected)


def test_a_detector_inside_another_borrows_its_workers(monkeypatch):
    made = []
    make = Team.__init__
    monkeypatch.setattr(Team, "__init__", lambda self, n: made.append(n) or make(self, n))
    inner = small(PaDiM, n_jobs=2)
    detector = ConformalDetector(inner, cv=3, false_alarm_rate=0.3).fit(stripes(9))
    detector.score_samples(stripes(3, seed=7))
    assert {n for n in made if n > 1} <= {2}
    assert not worker_threads()


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_workers_of_joblib_do_not_multiply(backend, fitted):
    parallel = joblib.Parallel(n_jobs=2, backend=backend)
    numbers = parallel(joblib.delayed(count_workers)(n_jobs) for n_jobs in (None, 3, None))
    assert numbers == [1, 3, 1]
    images = stripes(4, seed=5)
    calls = [joblib.delayed(small_copy(fitted, n_jobs=n).inspect)(images) for n in (None, 2)]
    for seen in parallel(calls):
        assert_same(seen, fitted.inspect(images))


@pytest.mark.slow
def test_a_grid_search_by_joblib():
    images, y = [*stripes(9), *scratched(3)], np.repeat([1, -1], [9, 3])
    found = [
        GridSearchCV(
            small(PaDiM),
            {"n_features": [10, 20]},
            scoring="roc_auc",
            cv=StratifiedKFold(3),
            n_jobs=n,
        )
        .fit(images, y)
        .cv_results_["mean_test_score"]
        for n in (1, 2)
    ]
    np.testing.assert_array_equal(*found)


class Counting(Dataset):
    """How many workers a worker of a DataLoader would take, as the value of images."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        with borrowed_team() as workers:
            return count_workers(None), workers.n_workers, sum(workers.map(abs, [-1, -2, -3]))


def test_workers_of_a_loader_do_not_multiply():
    (counts,) = DataLoader(Counting(), 2, num_workers=1, timeout=60)
    assert [value.tolist() for value in counts] == [[1, 1], [1, 1], [6, 6]]


forks = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no forks here"
)
ignore_warning_of_forks = pytest.mark.filterwarnings(
    "ignore:.*multi-threaded, use of fork:DeprecationWarning"
)


@forks
@ignore_warning_of_forks
def test_a_fork_has_none_of_its_parents_workers():
    with team(2) as workers:
        list(workers.map(abs, range(4)))
        loader = DataLoader(
            Counting(), 2, num_workers=1, timeout=30, multiprocessing_context="fork"
        )
        assert [value.tolist() for value in next(iter(loader))] == [[1, 1], [1, 1], [6, 6]]


@forks
@ignore_warning_of_forks
def test_a_fork_of_a_process_that_has_computed(fitted):
    images = stripes(4, seed=5)
    expected = small_copy(fitted, n_jobs=2).inspect(images)
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert_same(pool.apply_async(fitted.inspect, (images,)).get(60), expected)


# -- images ---------------------------------------------------------------------------------------


def test_an_endless_iterator_is_not_asked_ahead(fitted):
    asked = []

    def camera():
        for image in itertools.cycle(stripes(3)):
            asked.append(len(asked))
            yield image

    for k, _ in enumerate(small_copy(fitted, n_jobs=4).iter_inspect(camera())):
        assert len(asked) == k + 1
        if k == 5:
            break


def test_a_list_is_read_ahead(fitted, workers):
    read = []
    stream = ImageStream(list(stripes(30)))
    results = stream.work(workers, lambda image: read.append(image.index))
    next(results)
    time.sleep(0.05)
    assert 1 < len(read) <= 3 + _AHEAD
    results.close()


class Careful(Dataset):
    """Is to be asked by one thread, in order."""

    def __init__(self, images):
        self.images, self.asked, self.threads = images, [], set()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.asked.append(index)
        self.threads.add(threading.get_ident())
        return self.images[index], 0


def test_a_dataset_is_asked_by_the_callers_thread_in_order():
    dataset = Careful(stripes(9))
    detector = small(PaDiM, n_jobs=4).fit(dataset)
    detector.score_samples(dataset)
    list(detector.iter_inspect(dataset))
    assert dataset.asked == [*range(9)] * 3
    assert dataset.threads == {threading.get_ident()}


def test_a_picture_may_be_in_a_list_many_times(fitted, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(stripes(1)[0]).save(path)
    expected = fitted.score_samples([path])
    detector = small_copy(fitted, n_jobs=4)
    for _ in range(3):
        with Image.open(path) as picture:
            scores = detector.score_samples([picture, (picture, 1), {"image": picture}] * 8)
        np.testing.assert_array_equal(scores, np.repeat(expected, 24))


def test_a_picture_is_decoded_by_one_worker_at_a_time(fitted, tmp_path):
    """It decodes itself in place."""
    inside, together = [], []
    path = tmp_path / "image.png"
    Image.fromarray(stripes(1)[0]).save(path)
    with Image.open(path) as picture:
        load = picture.load

        def noted():
            inside.append(0)
            together.append(len(inside))
            time.sleep(0.002)
            try:
                return load()
            finally:
                inside.pop()

        picture.load = noted
        small_copy(fitted, n_jobs=4).score_samples([picture] * 24)
    assert together
    assert max(together) == 1


@every_number
def test_warnings_reach_the_callers_filters(n_workers, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    path = tmp_path / "image.png"
    Image.fromarray(stripes(1)[0]).save(path)
    detector = small_copy(fitted, n_jobs=n_workers)
    with pytest.warns(Image.DecompressionBombWarning):
        detector.score_samples([path] * 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"image 2.*exceeds limit"):
            detector.score_samples([*stripes(2), *[path] * 6])
        warnings.simplefilter("ignore")
        assert len(detector.score_samples([path] * 6)) == 6


@pytest.mark.parametrize(
    "detector",
    [*(small(DeepOneClass, classifier=name) for name in NAMED), small(CANCE)],
    ids=[*NAMED, "CANCE"],
)
def test_filters_of_warnings_are_not_set_by_two_workers_at_a_time(detector, monkeypatch):
    """They belong to the process: the one who leaves last brings back what the other has set."""
    inside, together = set(), []
    enter, leave = warnings.catch_warnings.__enter__, warnings.catch_warnings.__exit__

    def noted_enter(self):
        inside.add(threading.get_ident())
        together.append(len(inside))
        time.sleep(0.002)
        return enter(self)

    def noted_leave(self, *error):
        leave(self, *error)
        inside.discard(threading.get_ident())

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", noted_enter)
    monkeypatch.setattr(warnings.catch_warnings, "__exit__", noted_leave)
    detector.set_params(n_jobs=3).fit(stripes(9)).score_samples(stripes(9))
    assert set(together) == {1}


def test_the_alpha_channel_is_warned_of_once(fitted):
    images = list(np.repeat(stripes(9)[..., None], 4, 3))
    with pytest.warns(UserWarning, match="image 0: the alpha") as caught:
        small_copy(fitted, n_jobs=4).score_samples(images)
    assert len(caught) == 1


@every_number
def test_skipped_images_are_in_their_place(n_workers, fitted):
    images, spoilt = list(stripes(20)), (0, 3, 4, 11, 19)
    for index in spoilt:
        images[index] = np.full((64, 64), np.nan)
    detector = small_copy(fitted, n_jobs=n_workers)
    with pytest.warns(UserWarning, match="5"):
        seen = detector.inspect(images, on_error="skip")
    assert tuple(np.flatnonzero(np.isnan(seen.scores))) == spoilt
    assert tuple(each.index for each in seen.skipped) == spoilt
    assert tuple(i for i, heat in enumerate(seen.maps) if heat is None) == spoilt


@every_number
def test_images_before_an_error_come_first(n_workers, fitted):
    images = [*stripes(7), np.full((64, 64), np.nan), *stripes(9)]
    seen = []
    with pytest.raises(ValueError, match="image 7"):
        for each in small_copy(fitted, n_jobs=n_workers).iter_inspect(images):
            seen.append(each.score)
    np.testing.assert_array_equal(seen, fitted.score_samples(images[:7]))


@every_number
@pytest.mark.parametrize("size", [1, 3])
def test_work_is_given_in_order_and_in_groups(n_workers, size):
    made = Team(n_workers)
    images = list(stripes(8))
    images[4] = np.full((64, 64), np.nan)
    stream = ImageStream(images, on_error="skip")
    groups = list(stream.work(made, lambda image: image.index, size=size))
    assert list(itertools.chain(*groups)) == [0, 1, 2, 3, 5, 6, 7]
    assert max(map(len, groups)) == size
    assert [each.index for each in stream.skipped] == [4]
    made.dismiss()


# -- batches --------------------------------------------------------------------------------------


def batches(images, device="cpu", size=1, n_jobs=2, **options):
    stream = ImageStream(images)
    network_input = NetworkInput.raw(32, patch_size=1)
    options = {"learn": lambda *_: None, **options}
    device = torch.device(device)
    return Batches(stream, network_input, device, size, n_jobs, "", False, **options)


def test_workers_are_given_what_is_there():
    images = stripes(10)
    assert [len(batch) for _, batch in batches(images, size=4)] == [4, 4, 2]
    assert [len(batch) for _, batch in batches(images[:3], size=4)] == [2, 1]  # one for each
    assert [len(batch) for _, batch in batches(iter(images[:3]), size=4)] == [3]


@pytest.mark.parametrize("device", ["cpu", "meta"])  # which stands for an accelerator
@every_number
def test_batches_and_what_is_learned_of_them_are_in_order(n_workers, device):
    learned = []
    given = batches(
        stripes(10), device, 4, n_workers, learn=lambda image, *_: learned.append(image.index)
    )
    seen = [
        ([image.index for image in images], (device, len(images)) == (where, n))
        for images, (where, n) in given.map(lambda batch: (batch.device.type, len(batch)))
    ]
    indices = list(itertools.chain.from_iterable(indices for indices, _ in seen))
    assert indices == learned == list(range(10))
    assert all(fits for _, fits in seen)


def test_an_accelerator_is_used_by_the_callers_thread():
    given = batches(stripes(5), "meta", 2).map(lambda _: threading.get_ident())
    assert {ident for _, ident in given} == {threading.get_ident()}
    given = batches(stripes(5), "cpu", 2).map(lambda _: threading.get_ident())
    assert threading.get_ident() not in {ident for _, ident in given}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_batches_of_a_camera_are_single_images(device):
    asked = []

    def camera():
        for image in stripes(5):
            asked.append(0)
            yield image

    for k, _ in enumerate(batches(camera(), device, 4, reads_ahead=False)):
        assert len(asked) == k + 1


# -- the number of workers ------------------------------------------------------------------------


def test_the_number_of_workers(monkeypatch):
    n_cores = joblib.cpu_count()
    assert count_workers(-1) == n_cores
    assert count_workers(None) == min(n_cores, FEW)
    assert count_workers(-2) == max(1, n_cores - 1)
    assert count_workers(-1000) == 1
    assert [count_workers(n) for n in (1, 7, np.int64(2))] == [1, 7, 2]
    monkeypatch.setattr(joblib, "cpu_count", lambda: 64)
    assert [count_workers(n) for n in (None, -1)] == [FEW, 64]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_number_of_workers_is_that_of_processors_allowed():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert count_workers(None) == count_workers(-1) == 1
        assert count_workers(3) == 3
    finally:
        os.sched_setaffinity(0, before)
    assert count_workers(-1) == joblib.cpu_count()


@pytest.mark.parametrize("n_jobs", [0, 1.5, 2.0, "2", True, np.nan])
def test_other_numbers_are_refused(n_jobs, fitted):
    for estimator in (small(PaDiM), small(PatchCore), DeepFeatures(image_size=64)):
        with pytest.raises(ValueError, match="n_jobs: expected"):
            estimator.set_params(n_jobs=n_jobs).fit(stripes(6))
    detector = small_copy(fitted)
    with pytest.raises(ValueError, match="n_jobs: expected"):
        detector.set_params(n_jobs=n_jobs)
    assert detector.n_jobs is None
    detector.n_jobs = n_jobs
    with pytest.raises(ValueError, match="n_jobs: expected"):
        detector.score_samples(stripes(2))
