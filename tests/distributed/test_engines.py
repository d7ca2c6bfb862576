import pickle
import sys
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor

import pytest
import worker_tasks as tasks
from clusters import local_cluster, process_pool
from distributed import Client

from anomalib_lite.distributed import shared
from anomalib_lite.distributed.engines import engine_of


def finished(engine, waiting):
    """Wait for all of some tasks, as they come."""
    waiting = {*waiting}
    while waiting:
        done = engine.wait(waiting)
        assert done and done <= waiting
        waiting -= done


def test_tasks_take_values_and_results_of_others(any_client):
    engine = engine_of(any_client)
    assert engine.n_workers == 2
    parts = [engine.submit(tasks.add, i, 10, priority=i) for i in range(5)]
    finished(engine, parts)
    whole = engine.submit(tasks.add, *parts)
    engine.release(parts)
    assert engine.result(whole) == sum(range(5)) + 50


def test_calls_on_large_results_run_where_these_are(any_client):
    engine = engine_of(any_client)
    ten = engine.share(pickle.dumps(10))
    parts = [engine.submit(tasks.add, i, 10) for i in range(3)]
    finished(engine, parts)
    whole = engine.submit_beside(tasks.add, ten, *parts, priority=1)
    finished(engine, [whole])
    engine.check(whole)
    assert engine.result(whole) == 0 + 1 + 2 + 30 + 10
    failed = engine.submit_beside(tasks.fail_with, "too bad", *parts)
    finished(engine, [failed])
    with pytest.raises(ValueError, match="too bad"):
        engine.check(failed)


def test_a_shared_payload_is_unpickled_once_by_each_process(any_client, tmp_path):
    engine = engine_of(any_client)
    many = engine.share(pickle.dumps(tasks.Counted(str(tmp_path), 7)))
    calls = [engine.submit(tasks.value_and_process, many, 0.02) for _ in range(8)]
    values, processes = zip(*map(engine.result, calls), strict=True)
    assert {*values} == {7}
    assert len([*tmp_path.iterdir()]) == len({*processes}) <= 2


def test_two_payloads_and_many_one_after_the_other(any_client, tmp_path):
    engine = engine_of(any_client)
    numbers = [engine.share(pickle.dumps(i)) for i in range(5)]
    pairs = [engine.submit(tasks.add, one, 100, two) for one in numbers for two in numbers]
    assert [*map(engine.result, pairs)] == [i + 100 + j for i in range(5) for j in range(5)]


class Recording(ThreadPoolExecutor):
    """Keeps what it is given."""

    def __init__(self, n_workers):
        super().__init__(n_workers)
        self.sent = []

    def submit(self, *args):
        self.sent.append(args)
        return super().submit(*args)


def test_payloads_travel_only_to_workers_that_lack_them():
    with Recording(1) as pool:
        engine = engine_of(pool)
        many = engine.share(pickle.dumps("a detector"))
        for _ in range(4):
            assert engine.result(engine.submit(str.upper, many)) == "A DETECTOR"
    assert [many.payload in args for args in pool.sent] == [False, True, False, False, False]


def test_no_more_payloads_travel_at_once_than_there_are_workers(tmp_path):
    with Recording(2) as pool:
        engine = engine_of(pool)
        many = engine.share(pickle.dumps(tasks.Counted(str(tmp_path), 7)))
        calls = [engine.submit(tasks.value_and_process, many, 0.02) for _ in range(9)]
        finished(engine, calls)
    assert 1 <= sum(many.payload in args for args in pool.sent) <= 2
    assert len([*tmp_path.iterdir()]) == 1


def test_workers_keep_the_last_two_payloads(monkeypatch):
    monkeypatch.setattr(shared, "_OPENED", type(shared._OPENED)())
    for name in ("a", "b", "a", "c"):
        assert shared.call_with_shared(str.upper, {0: name}, pickle.dumps(name)) == name.upper()
    assert [*shared._OPENED] == ["a", "c"]
    assert isinstance(shared.call_with_shared(str.upper, {0: "b"}, None), shared.Lacking)


def test_a_task_raises_what_its_function_raised(any_client):
    engine = engine_of(any_client)
    task = engine.submit(tasks.fail, "part 7 is missing")
    assert engine.wait([task]) == {task}
    with pytest.raises(ValueError, match="part 7 is missing"):
        engine.result(task)


def test_canceled_tasks_stay_canceled(any_client, tmp_path):
    engine = engine_of(any_client)
    number = engine.share(pickle.dumps(tasks.Counted(str(tmp_path), 1)))
    calls = [engine.submit(tasks.value_and_process, number, 0.3) for _ in range(12)]
    engine.cancel(calls)
    with pytest.raises(CancelledError):
        engine.result(calls[-1])
    assert engine.result(engine.submit(tasks.add, 1, 2)) == 3


def test_a_process_of_an_executor_that_was_killed_is_an_error():
    with process_pool(1) as executor:
        engine = engine_of(executor)
        task = engine.submit(tasks.die)
        assert engine.wait([task]) == {task}
        with pytest.raises(BrokenExecutor, match="Make a new one and call again"):
            engine.result(task)
        with pytest.raises(BrokenExecutor, match="Make a new one and call again"):
            engine.submit(tasks.add, 1)


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])
def test_dask_replaces_a_lost_worker_and_what_it_had(n_workers, tmp_path):
    with local_cluster(n_workers) as cluster, Client(cluster) as client:
        engine = engine_of(client)
        shared_number = engine.share(pickle.dumps(100))
        parts = [engine.submit(tasks.add, i, shared_number) for i in range(4)]
        finished(engine, parts)
        whole = engine.submit(tasks.die_once, str(tmp_path / "marker"), shared_number, *parts)
        engine.release(parts)
        assert engine.result(whole) == 500 + sum(range(4))
        with pytest.raises(Exception, match="workers"):  # dask's own error, or ours
            engine.result(engine.submit(tasks.die, shared_number))
        client.wait_for_workers(n_workers, timeout=60)  # or the cluster fails to close


def test_other_clients_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"expected a dask\.distributed\.Client or .* got str"):
        engine_of("tcp://127.0.0.1:8786")
    monkeypatch.delitem(sys.modules, "distributed")  # as where dask is not installed
    with ThreadPoolExecutor(3) as pool:
        assert engine_of(pool).n_workers == 3


def test_a_canceled_task_that_lacks_its_payload_is_not_sent_again():
    with Recording(1) as pool:
        engine = engine_of(pool)
        task = engine.submit(str.upper, engine.share(pickle.dumps("another detector")))
        task.future.result()  # which says what it lacks
        engine.cancel([task])
        with pytest.raises(CancelledError):
            engine.result(task)
    assert len(pool.sent) == 1
