"""Trees of merges: fixed by the number of their leaves, whoever computes which part of them."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

from .engines import Engine, Task
from .flow import IN_FLIGHT

_Node = TypeVar("_Node")
_MOST = 16  # leaves of a task
_MOVE = 0.5


def merged(
    n_leaves: int,
    leaf: Callable[[int], _Node],
    merge: Callable[[Sequence[_Node]], _Node],
    fan_in: int,
) -> _Node:
    """The root of a tree, computed depth first, so that few of its nodes are there at a time.

    A node of level k covers ``fan_in ** k`` leaves, the last of a level perhaps fewer; one of a
    single child is that child.

    Examples
    --------
    >>> merged(5, str, lambda nodes: f"({' '.join(nodes)})", fan_in=2)
    '(((0 1) (2 3)) 4)'
    """

    def node(first, last):
        if last - first == 1:
            return leaf(first)
        size = 1
        while size * fan_in < last - first:
            size *= fan_in
        starts = range(first, last, size)
        return merge([node(start, min(start + size, last)) for start in starts])

    return node(0, n_leaves)


def leaves_of_a_task(n_leaves: int, fan_in: int, n_workers: int) -> int:
    """How many leaves a task may cover, a power of ``fan_in``: the tree stays the same.

    Large tasks move fewer nodes between workers, and give the scheduler less to remember; with few
    of them some workers wait for others. What is chosen takes the least time if all workers are
    alike, and moving a node takes :data:`_MOVE` of a leaf's time.

    Examples
    --------
    >>> [leaves_of_a_task(n, 2, 2) for n in (2, 7, 1000)]
    [1, 4, 16]
    """

    def time(size):
        n_tasks = -(-n_leaves // size)
        return -(-n_tasks // n_workers) * (size + _MOVE)

    sizes = [1]
    while sizes[-1] * fan_in <= _MOST:
        sizes.append(sizes[-1] * fan_in)
    return min(sizes, key=time)


class MergeTree:
    """A tree whose nodes are tasks of an engine; results stay on the workers.

    Parameters
    ----------
    engine : Engine
    merge : callable
        Given two or more children's results, gives their parent's; run by a worker.
    shared : object
        First argument of ``merge``.
    n_leaves, fan_in : int
        See :func:`merged`.
    """

    def __init__(self, engine: Engine, merge: Callable, shared: Any, n_leaves: int, fan_in: int):
        self._engine, self._merge, self._shared, self._fan_in = engine, merge, shared, fan_in
        self._widths = [n_leaves]  # nodes of each level
        while self._widths[-1] > 1:
            self._widths.append(-(-self._widths[-1] // fan_in))
        self._waiting: dict[tuple[int, int], Task] = {}  # done, by level and place
        self._flying: dict[Task, tuple[int, int]] = {}
        self._root: Task | None = None

    def root(self, leaves, on_leaf: Callable[[int], None]) -> Any:
        """The result at the root.

        Parameters
        ----------
        leaves : iterable of (callable, tuple)
            What makes each leaf, in order; taken as workers become free.
        on_leaf : callable
            Told the place of each leaf that is done.
        """
        leaves = enumerate(leaves)
        try:
            while self._root is None:
                n_free = max(IN_FLIGHT * self._engine.n_workers - len(self._flying), 0)
                for place, (function, args) in islice(leaves, n_free):
                    self._flying[self._engine.submit(function, *args)] = 0, place
                for task in self._engine.wait(self._flying):
                    self._engine.check(task)
                    level, place = self._flying.pop(task)
                    if level == 0:
                        on_leaf(place)
                    self._climb(task, level, place)
            return self._engine.result(self._root, is_large=True)
        finally:
            self._engine.cancel(self._flying)
            self._engine.release([*self._waiting.values()])

    def _climb(self, task, level, place):
        """Put a node that is done where it belongs; merge it with its siblings if they are, too."""
        self._engine.release([arg for arg in task.args if isinstance(arg, Task)])
        while level + 1 < len(self._widths):
            first = place // self._fan_in * self._fan_in
            last = min(first + self._fan_in, self._widths[level])
            if last - first > 1:
                self._waiting[level, place] = task
                keys = [(level, each) for each in range(first, last)]
                if all(key in self._waiting for key in keys):
                    children = [self._waiting.pop(key) for key in keys]
                    parent = self._engine.submit_beside(
                        self._merge, self._shared, *children, priority=level + 1
                    )
                    self._flying[parent] = level + 1, place // self._fan_in
                return
            level, place = level + 1, place // self._fan_in
        self._root = task
