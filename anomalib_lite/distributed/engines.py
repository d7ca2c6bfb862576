"""Clients of dask.distributed and executors of Python, behind one small interface."""

import os
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from typing import Any

from .shared import Lacking, Shared, call_with_shared

_N_AGAIN = 3  # times that one task is handed out again, as dask allows three workers to die of it


class LostWorkers(RuntimeError):
    """Workers of dask were lost, one after the other, at the same task."""


class Task:
    """A call that was handed to an engine; made by :meth:`Engine.submit`."""

    def __init__(self, function: Callable, args: tuple, priority: int):
        self.function, self.args, self.priority = function, args, priority
        self.future: Any = None  # of the engine; None once it was released
        self.is_canceled = False
        self.n_again = 0  # times that it was handed out again

    def __repr__(self):
        return f"<Task {self.function.__name__}: {self.future}>"

    def placed(self, place_of: Callable[[Any], Any]) -> tuple[dict[int, str], list[Any]]:
        """Digests of what is shared, by places among the arguments; ``place_of`` each argument."""
        digests = {i: arg.digest for i, arg in enumerate(self.args) if isinstance(arg, Shared)}
        return digests, [place_of(arg) for arg in self.args]


class Engine(ABC):
    """Runs functions of modules on workers; one thread of the client uses it at a time.

    Made by :func:`engine_of`. What a task raises is raised by :meth:`result`.
    """

    @property
    @abstractmethod
    def n_workers(self) -> int:
        """Tasks that can run at the moment, at least one."""

    @abstractmethod
    def share(self, payload: bytes) -> Shared:
        """Something for many tasks, as a pickle: a function gets what the pickle holds.

        It travels to each worker once, not with each task. Workers keep the last two; functions
        must not change what they are given, which other tasks are given, too.
        """

    def submit(self, function: Callable, *args: Any, priority: int = 0) -> Task:
        """Hand out ``function(*args)``.

        Parameters
        ----------
        function : callable
            Of a module that workers can import. It may run more than once, if a worker is lost.
        *args
            What pickles; a :class:`Shared`; or a done :class:`Task`, in place of its result.
        priority : int, default=0
            Higher ones come first, where the engine can choose.
        """
        task = Task(function, args, priority)
        self._start(task)
        return task

    def submit_beside(self, function: Callable, *args: Any, priority: int = 0) -> Task:
        """Like :meth:`submit`, for large results of done tasks, which stay where they are."""
        return self.submit(function, *args, priority=priority)

    @abstractmethod
    def _start(self, task: Task) -> None:
        """Give a task its future."""

    @abstractmethod
    def wait(self, tasks: Collection[Task]) -> set[Task]:
        """Those of some tasks that are finished or failed, once one is."""

    @abstractmethod
    def check(self, task: Task) -> None:
        """Raise what a done task raised; its result stays where it is."""

    @abstractmethod
    def result(self, task: Task, *, is_large: bool = False) -> Any:
        """What a task returned, brought to the client; raises what the task raised.

        A large one comes straight from its worker, if the client reaches that.
        """

    @abstractmethod
    def release(self, tasks: Collection[Task]) -> None:
        """Forget results that the client and later tasks need no more."""

    @abstractmethod
    def cancel(self, tasks: Collection[Task]) -> None:
        """Give up tasks; those that run may come to their end, which nobody is told."""


def engine_of(client: Any) -> Engine:
    """The engine of a ``dask.distributed.Client`` or of a ``concurrent.futures.Executor``.

    Raises
    ------
    ValueError
        If ``client`` is anything else.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     engine = engine_of(pool)
    ...     engine.result(engine.submit(abs, -3))
    3
    """
    distributed = sys.modules.get("distributed")  # whoever has a client has imported it
    if distributed is not None and isinstance(client, distributed.Client):
        if client.asynchronous:
            raise ValueError(
                "client: expected a dask Client for code that waits, got one with "
                "asynchronous=True. Use Client(address)."
            )
        return DaskEngine(client)
    if isinstance(client, Executor):
        return ExecutorEngine(client)
    raise ValueError(
        "client: expected a dask.distributed.Client or a concurrent.futures.Executor, got "
        f"{type(client).__name__}."
    )


class ExecutorEngine(Engine):
    """Tasks go to an executor; see :class:`Engine`.

    Tasks name what is shared by its digest. A worker that lacks it answers so, and the task is sent
    again with the payload. Results of earlier tasks pass through the client, who works on large
    ones itself.
    """

    def __init__(self, executor: Executor):
        self._executor = executor
        self._carriers: set[Task] = set()  # tasks on their way with payloads

    @property
    def n_workers(self) -> int:
        known = getattr(self._executor, "_max_workers", None)
        return max(1, known or os.cpu_count() or 1)

    def share(self, payload: bytes) -> Shared:
        return Shared(payload)

    def submit_beside(self, function: Callable, *args: Any, priority: int = 0) -> Task:
        task = Task(function, args, priority)
        task.future = Future()
        digests, args = self._placed(task, with_payloads=True)
        try:
            task.future.set_result(call_with_shared(function, digests, *args))
        except Exception as error:
            task.future.set_exception(error)
        return task

    def _start(self, task: Task, *, with_payloads: bool = False) -> None:
        digests, args = self._placed(task, with_payloads)
        try:
            task.future = self._executor.submit(call_with_shared, task.function, digests, *args)
        except BrokenExecutor as error:
            raise _lost_worker(error) from error

    def _placed(self, task, with_payloads):
        def place_of(arg):
            if isinstance(arg, Shared):
                return arg.payload if with_payloads else None
            return self.result(arg) if isinstance(arg, Task) else arg

        return task.placed(place_of)

    def wait(self, tasks: Collection[Task]) -> set[Task]:
        while True:
            wait([task.future for task in tasks], return_when=FIRST_COMPLETED)
            done = {task for task in tasks if task.future.done()}
            lacking = {task for task in done if _lacks_payload(task.future)}
            lacking = {task for task in lacking if not task.is_canceled}
            for task in lacking:
                self._send_again(task)
            if done != lacking:
                return done - lacking

    def _send_again(self, task):
        """With its payloads, unless as many tasks as there are workers take them there already."""
        self._carriers = {each for each in self._carriers if each.future and not each.future.done()}
        carries = len(self._carriers) < self.n_workers or task.n_again > 0
        task.n_again += 1
        if carries:
            self._carriers.add(task)
        self._start(task, with_payloads=carries)

    def check(self, task: Task) -> None:
        self.result(task)  # which is here already

    def result(self, task: Task, *, is_large: bool = False) -> Any:
        self.wait([task])
        if task.is_canceled and _lacks_payload(task.future):
            raise CancelledError
        try:
            return task.future.result()
        except BrokenExecutor as error:
            raise _lost_worker(error) from error

    def release(self, tasks: Collection[Task]) -> None:
        for task in tasks:
            task.future = None

    def cancel(self, tasks: Collection[Task]) -> None:
        for task in tasks:
            task.is_canceled = True
            if task.future is not None:
                task.future.cancel()


def _lacks_payload(future: Future) -> bool:
    try:
        return isinstance(future.result(), Lacking)
    except Exception:  # the task's, for whoever asks for its result
        return False


def _lost_worker(error):
    return BrokenExecutor(
        "client: a worker process of the executor was killed, perhaps for want of memory, or could "
        "not start, as from a script that does not wait for if __name__ == '__main__', and the "
        "executor with it. Make a new one and call again; of dask.distributed, lost workers are "
        f"replaced. ({error})"
    )


class DaskEngine(Engine):
    """Tasks go to a scheduler of dask; see :class:`Engine`.

    Results stay on the workers until they are asked for. What a lost worker had done the scheduler
    lets others do again. It cannot do so where no worker is left that has a shared payload; the
    client then sends the payload, and the tasks, once more.
    """

    def __init__(self, client: Any):
        self._client = client
        self._scattered: dict[str, Any] = {}  # dask's futures of payloads, by digest

    @property
    def n_workers(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def share(self, payload: bytes) -> Shared:
        shared = Shared(payload)
        self._scatter(shared)
        return shared

    def _scatter(self, shared):
        if not self._client.nthreads():  # an adaptive cluster starts workers for tasks alone
            self._client.submit(_nothing, pure=False).result()
        future = self._client.scatter(shared.payload, broadcast=True, hash=False)
        self._scattered[shared.digest] = future

    def _start(self, task: Task) -> None:
        def place_of(arg):
            if isinstance(arg, Shared):
                return self._scattered[arg.digest]
            return arg.future if isinstance(arg, Task) else arg

        digests, args = task.placed(place_of)
        task.future = self._client.submit(
            call_with_shared,
            task.function,
            digests,
            *args,
            key=f"{task.function.__name__}-{uuid.uuid4().hex}",
            priority=task.priority,
            pure=False,
        )

    def wait(self, tasks: Collection[Task]) -> set[Task]:
        from distributed import wait as wait_for

        while True:
            try:
                wait_for([task.future for task in tasks], return_when="FIRST_COMPLETED")
            except CancelledError:
                pass  # some are; see below
            done = {task for task in tasks if task.future.status != "pending"}
            lost = {task for task in done if self._is_lost(task)}
            for task in lost:
                self._revive(task)
            if done != lost:
                return done - lost

    def check(self, task: Task) -> None:
        if task.future.status == "error":
            self.result(task)

    def result(self, task: Task, *, is_large: bool = False) -> Any:
        while True:
            try:
                return self._client.gather(task.future, direct=is_large or None)
            except CancelledError:
                if not self._is_lost(task):
                    raise
                self._revive(task)

    def _is_lost(self, task):
        is_known = task.future.status in ("pending", "finished", "error")
        return not (is_known or task.is_canceled)

    def _revive(self, task):
        """Hand out a task again that the scheduler forgot, and what it needs."""
        if self._client.status != "running":
            raise ConnectionError("client: the connection to dask's scheduler was lost.")
        if task.n_again == _N_AGAIN:
            raise LostWorkers(
                f"client: {task.n_again + 1} workers were lost while they ran {task!r}, perhaps "
                "for want of memory. Give each more of it, or fewer threads."
            )
        task.n_again += 1
        for arg in task.args:
            if isinstance(arg, Shared) and self._scattered[arg.digest].status != "finished":
                self._scatter(arg)
            elif isinstance(arg, Task) and (arg.future is None or self._is_lost(arg)):
                self._revive(arg)
        self._start(task)

    def release(self, tasks: Collection[Task]) -> None:
        for task in tasks:
            if task.future is not None:
                task.future.release()
                task.future = None

    def cancel(self, tasks: Collection[Task]) -> None:
        for task in tasks:
            task.is_canceled = True
        if self._client.status == "running":
            self._client.cancel([task.future for task in tasks if task.future is not None])


def _nothing():
    """A task that an adaptive cluster starts a worker for."""
