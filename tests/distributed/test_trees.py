import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from anomalib_lite.distributed.engines import engine_of
from anomalib_lite.distributed.trees import MergeTree, leaves_of_a_task, merged


def joined(nodes):
    return f"({' '.join(nodes)})"


def merge(_shared, *nodes):
    time.sleep(random.random() / 200)  # so that nodes are done in any order
    return joined(nodes)


def leaf(first, last, fan_in):
    time.sleep(random.random() / 200)
    return merged(last - first, lambda place: str(first + place), joined, fan_in)


@pytest.mark.parametrize("fan_in", [2, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 17])
def test_the_tree_does_not_depend_on_tasks_or_their_order(n, fan_in):
    expected = merged(n, str, joined, fan_in)
    for exponent in (0, 1, 2):
        size = fan_in**exponent  # leaves of a task
        cuts = range(0, n, size)
        calls = [(leaf, (first, min(first + size, n), fan_in)) for first in cuts]
        with ThreadPoolExecutor(3) as pool:
            told, engine = [], engine_of(pool)
            tree = MergeTree(engine, merge, None, len(calls), fan_in)
            assert tree.root(calls, told.append) == expected
        assert sorted(told) == [*range(len(calls))]


def test_neighbors_are_merged():
    assert merged(10, str, joined, 3) == "(((0 1 2) (3 4 5) (6 7 8)) 9)"
    assert merged(1, str, joined, 2) == "0"


def test_few_states_are_there_at_a_time():
    alive, most = 0, 0

    def leaf(_place):
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        return 1

    def merge(nodes):
        nonlocal alive
        alive -= len(nodes) - 1
        return 1

    merged(64, leaf, merge, 2)
    assert most == 7  # one of each level, and the leaf


def test_calls_are_taken_as_workers_become_free():
    taken, running = [], []

    def calls():
        for i in range(20):
            taken.append(i)
            running.append(len(taken) - len(done))
            yield leaf, (i, i + 1, 2)

    done = []
    with ThreadPoolExecutor(2) as pool:
        MergeTree(engine_of(pool), merge, None, 20, 2).root(calls(), done.append)
    assert len(taken) == 20
    assert max(running) <= 2 * 2


def fail(*_):
    raise ValueError("image 3: bad")


def test_what_a_leaf_raises_ends_it():
    calls = [(leaf, (0, 1, 2)), (fail, ()), (leaf, (2, 3, 2))]
    with ThreadPoolExecutor(2) as pool, pytest.raises(ValueError, match="image 3: bad"):
        MergeTree(engine_of(pool), merge, None, 3, 2).root(calls, lambda _: None)


@pytest.mark.parametrize(
    ("n", "n_workers", "expected"),
    [(1, 2, 1), (2, 2, 1), (4, 2, 2), (7, 2, 4), (9, 2, 1), (36, 8, 1), (10**6, 100, 16)],
)
def test_tasks_are_large_but_there_are_enough_for_all(n, n_workers, expected):
    assert leaves_of_a_task(n, 2, n_workers) == expected
