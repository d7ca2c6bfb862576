"""Ordered work by a team of workers, each of which runs PyTorch in one thread.

Threads inside an operation meet at its end, after a millisecond or less; on a machine that does
anything else they wait for each other's turn there, and work stands still. Workers take whole
images, or blocks of rows, and meet nowhere. As every operation runs in one thread, its last bits do
not depend on the number of cores.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TypeVar

import joblib
import torch
from joblib.parallel import get_active_backend
from torch.utils.data import get_worker_info

from .contexts import plain_context, stay_in_one_thread
from .validation import check_n_jobs

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")

FEW = 4
"""Workers at once, for short operations: more of them would wait for Python's lock."""

_LEAVE = 1.0  # seconds that a thread may take to end
_AHEAD = 2  # tasks handed out beyond one for each worker: the next one is there when it is done


def count_workers(n_jobs: int | None) -> int:
    """The number of workers that ``n_jobs`` means.

    None is as many as there are processors that this process may use, by its affinity and cgroup,
    but :data:`FEW` at most, and one inside a worker of joblib or of a DataLoader, which share them
    already. Negative numbers count from all: -1 is all, -2 all but one.

    Examples
    --------
    >>> count_workers(3)
    3
    """
    check_n_jobs(n_jobs)
    if n_jobs is None:
        backend, _ = get_active_backend()
        is_shared = (backend.nesting_level or 0) > 0 or get_worker_info() is not None
        return 1 if is_shared else min(joblib.cpu_count(), FEW)
    return n_jobs if n_jobs > 0 else max(1, joblib.cpu_count() + 1 + n_jobs)


class Team:
    """Workers that wait for tasks until they are dismissed.

    Threads start with the first task. A task has no team: what it would hand out it does itself.

    Parameters
    ----------
    n_workers : int
        With 1, the caller does all the work.

    Examples
    --------
    >>> team = Team(2)
    >>> list(team.map(abs, [-1, 2, -3]))
    [1, 2, 3]
    >>> team.dismiss()
    """

    def __init__(self, n_workers: int):
        self.n_workers = n_workers
        self._pool, self._begun = None, []

    def map(
        self,
        function: Callable[[_Item], _Result],
        items: Iterable[_Item],
        *,
        ahead: bool = True,
        at_once: int | None = None,
    ) -> Iterator[_Result]:
        """``function(item)`` of each item, in order.

        Items are taken by the caller's thread, a few ahead of the results. What a task or ``items``
        raises is raised in its place, after the results of all items before it. With
        ``ahead=False`` the caller works on one item after the other; ``at_once`` is the number of
        tasks that may be under way.
        """
        limit = self.n_workers + _AHEAD if at_once is None else at_once
        if self.n_workers == 1 or not ahead:
            for item in items:
                yield self.run(function, item)
            return
        tasks, waiting = map(partial(self._hand_out, function), items), deque()
        has_more, error = True, None
        try:
            while has_more or waiting:
                while has_more and len(waiting) < limit:
                    try:
                        waiting.append(next(tasks))
                    except StopIteration:
                        has_more = False
                    except Exception as raised:  # the items' own, for later
                        has_more, error = False, raised
                if waiting:
                    yield waiting.popleft().result()
            if error is not None:
                raise error
        finally:
            for task in waiting:
                task.cancel()
            del error  # it refers to this frame, which refers to it

    def _hand_out(self, function, item):
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.n_workers, "anomalib_lite", self._begin)
        return self._pool.submit(copy_context().run, _as_worker, function, item)

    def _begin(self):
        self._begun.append(threading.get_native_id())
        stay_in_one_thread()

    def run(self, function: Callable[[_Item], _Result], item: _Item) -> _Result:
        """``function(item)``, by the caller, who borrows the team for what it hands out itself."""
        token = _TEAM.set(self)
        try:
            return function(item)
        finally:
            _TEAM.reset(token)

    def dismiss(self) -> None:
        """End all threads; tasks that have not begun are dropped, the others finished."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            _wait_for_end(self._begun)
            self._pool, self._begun = None, []


def _wait_for_end(threads):
    """Wait, on Linux, until the system's threads have ended, a moment after Python's.

    Until then libraries take leave of them, with locks that a process forked meanwhile would find
    locked for ever.
    """
    latest = time.monotonic() + _LEAVE
    while any(os.path.exists(f"/proc/self/task/{each}") for each in threads):
        if time.monotonic() > latest:
            return  # another thread has the number of one that has ended
        time.sleep(1e-4)


_ALONE = Team(1)
_TEAM: ContextVar[Team | None] = ContextVar("team", default=None)


def _after_fork():
    """A forked process has none of the threads that its team had."""
    if _TEAM.get() is not None:
        _TEAM.set(_ALONE)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(after_in_child=_after_fork)


def _as_worker(function, item):
    _TEAM.set(_ALONE)  # in a copy of the caller's context
    with plain_context():
        return function(item)


@contextmanager
def borrowed_team(n_jobs: int | None = None) -> Iterator[Team]:
    """Context with the team of the :func:`team` around it, or without one with a new team.

    Examples
    --------
    >>> with team(3), borrowed_team(2) as workers:
    ...     workers.n_workers
    3
    """
    around = _TEAM.get()
    if around is not None:
        yield around
        return
    made = Team(count_workers(n_jobs))
    try:
        yield made
    finally:
        made.dismiss()


def each_on(
    device: torch.device,
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    at_once: int | None = None,
) -> Iterator[_Result]:
    """``function(item)`` of each item, by a borrowed team on a CPU, one by one on other devices.

    A single item is the caller's own work, for which it borrows the team.

    Examples
    --------
    >>> list(each_on(torch.device("cpu"), abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    items = [*items]
    if len(items) == 1:
        yield function(items[0])
        return
    with borrowed_team() as workers:
        yield from workers.map(function, items, ahead=device.type == "cpu", at_once=at_once)


def map_on(
    device: torch.device,
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    at_once: int | None = None,
) -> list[_Result]:
    """The same, when all is done."""
    return list(each_on(device, function, items, at_once=at_once))


@contextmanager
def team(n_jobs: int | None = None) -> Iterator[Team]:
    """Context whose team everything inside borrows. Inside another one it is that one's.

    Not for generators: what runs between their steps would borrow, too.
    """
    with borrowed_team(n_jobs) as workers:
        token = _TEAM.set(workers)
        try:
            yield workers
        finally:
            _TEAM.reset(token)
