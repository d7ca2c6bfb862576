"""Detectors that learn from one pass over the images, each by its own ``_learn``.

A ``_learn`` is a function that takes batches one after the other, so each runs in a thread of its
own; but only one of all threads runs at any moment. Whoever is not at work waits for a batch, or
for its turn.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from queue import SimpleQueue
from typing import Any

import torch

from ..contexts import plain_context


class Feed:
    """What one of several learners takes for its batches; see :class:`~.batches.Batches`."""

    def __init__(self):
        self._given, self._told = SimpleQueue(), SimpleQueue()
        self.function: Callable | None = None  # of images and their network input; None at the end

    def __iter__(self) -> Iterator[tuple[list, torch.Tensor]]:
        return self.each(lambda _, batch: batch)

    def map(self, function: Callable[[torch.Tensor], Any]) -> Iterator[tuple[list, Any]]:
        """(images, ``function(network input)``) of each batch."""
        return self.each(lambda _, batch: function(batch))

    def each(self, function: Callable[[list, torch.Tensor], Any]) -> Iterator[tuple[list, Any]]:
        """(images, ``function(images, network input)``) of each batch."""
        self.function = function
        try:
            while (message := self._wait()) is not None:
                yield message
        finally:
            self.function = None  # it wants no more

    # -- learner's side, then driver's ------------------------------------------------------------

    def _wait(self):
        self._told.put(None)
        message = self._given.get()
        if isinstance(message, _Stop):
            raise message
        return message

    def finish(self, outcome: Any) -> None:
        """Tell the driver what came of it."""
        self._told.put(outcome)

    def give(self, message: Any) -> Any:
        """Let the learner go on until it waits again (None), or has come to its end (outcome)."""
        self._given.put(message)
        return self._told.get()

    def start(self, thread: threading.Thread) -> Any:
        """The same, of one that has not begun."""
        thread.start()
        return self._told.get()


class _Stop(BaseException):
    """Ends a learner that waits: another one failed."""


class _Outcome:
    """What a learner returned, or raised."""

    def __init__(self, value=None, error=None):
        self.value, self.error = value, error


class _Learner:
    """A ``_learn`` in a thread of its own."""

    def __init__(self, learn):
        self.feed, self.outcome = Feed(), None
        run = copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run, learn), daemon=True)

    def _run(self, learn):
        try:
            with plain_context():
                outcome = _Outcome(learn(self.feed))
        except BaseException as error:
            outcome = _Outcome(error=error)
        self.feed.finish(outcome)

    def start(self):
        self._took(self.feed.start(self._thread))

    def give(self, message):
        """Hand over a batch, or None at the end, and wait until it is dealt with."""
        self._took(self.feed.give(message))

    def _took(self, outcome):
        if outcome is None:
            return
        self.outcome = outcome
        self._thread.join()
        if outcome.error is not None:
            raise outcome.error

    def stop(self):
        """End it if it waits for more."""
        if self.outcome is None and self._thread.ident is not None:
            self.outcome = self.feed.give(_Stop())
            self._thread.join()


def learn_together(
    learns: Sequence[Callable[[Feed], Any]],
    deliveries: Callable[[Callable], Iterator[list[Any]]],
) -> list[Any]:
    """What several functions learn from batches that are read once.

    Parameters
    ----------
    learns : sequence of callable
        Each takes batches, once, and returns what it has learned.
    deliveries : callable
        Given ``work``, gives for each batch what is handed to each of them, in a list. Workers
        call ``work(place, images, network input)`` for what the learner at a place makes of them.

    Returns
    -------
    learned : list
        What each returned. If one raises an error, the others are ended, and it is raised.

    Examples
    --------
    >>> def batches(work):
    ...     for i in range(3):
    ...         yield [([i], work(place, [i], torch.full((1,), i))) for place in range(2)]
    >>> def total(feed):
    ...     return sum(int(double) for _, double in feed.map(lambda batch: 2 * batch))
    >>> learn_together([total, lambda feed: len(list(feed))], batches)
    [6, 3]
    """
    learners = [_Learner(learn) for learn in learns]

    def work(place, images, batch):
        function = learners[place].feed.function
        return None if function is None else function(images, batch)

    try:
        for learner in learners:
            learner.start()
        for messages in deliveries(work):
            for learner, message in zip(learners, messages, strict=True):
                if learner.outcome is None:
                    learner.give(message)
        for learner in learners:
            if learner.outcome is None:
                learner.give(None)
            if learner.outcome is None:
                raise ValueError("batches: expected to be iterated once, got a second time.")
    finally:
        for learner in learners:
            learner.stop()
    return [learner.outcome.value for learner in learners]
