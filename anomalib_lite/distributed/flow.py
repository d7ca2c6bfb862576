"""Calls that flow to the workers of an engine, a few at a time, and their results back."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from .engines import Engine

IN_FLIGHT = 2
"""Calls for each task that can run: the next one is there when one is done."""


def results(
    engine: Engine, function: Callable, calls: Iterable[tuple[Any, tuple]]
) -> Iterator[tuple[Any, Any]]:
    """(key, ``function(*args)``) of each call (key, args), in the order in which they are done.

    Calls are taken only as workers become free. Whatever ends the iteration before its end cancels
    those in flight.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from anomalib_lite.distributed.engines import engine_of
    >>> with ThreadPoolExecutor(2) as pool:
    ...     sorted(results(engine_of(pool), abs, [("a", (-1,)), ("b", (2,))]))
    [('a', 1), ('b', 2)]
    """
    calls, flying = iter(calls), {}
    try:
        while True:
            n_free = IN_FLIGHT * engine.n_workers - len(flying)
            for key, args in islice(calls, max(n_free, 0)):
                flying[engine.submit(function, *args)] = key
            if not flying:
                return
            for task in engine.wait(flying):
                result = engine.result(task)
                key = flying.pop(task)
                engine.release([task])
                yield key, result
    finally:
        engine.cancel(flying)
