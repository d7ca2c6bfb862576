"""How far the trainings of a fit have come, in whatever threads they run."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TypeVar

import torch

from ..notices import user_frame, warn_user
from ..runtime import progress
from ..workers import Team, borrowed_team
from .forecast import Forecast

_Item, _Result = TypeVar("_Item"), TypeVar("_Result")

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class _Course:
    """What trainings side by side have in common: a bar, one warning, and their end."""

    def __init__(self, bar):
        self._bar, self._lock, self._caller = bar, threading.Lock(), user_frame()
        self._has_warned = self.is_over = False

    def advance(self, share):
        with self._lock:
            self._bar.update(min(share, 1.0 - self._bar.n))  # but for rounding: share

    def warn(self, message):
        """Warn the user, at the line that led to the fit, but once."""
        with self._lock:
            is_first, self._has_warned = not self._has_warned, True
        if is_first:
            warn_user(message, self._caller)


class _Portion:
    """A part of the trainings of a fit: its shares of their work and of the time they take."""

    def __init__(self, around, share, n_at_once=1, course=None):
        self._around, self._share, self._done = around, share, 0.0
        self.time_share = share * n_at_once * (1.0 if around is None else around.time_share)
        self._is_all = course is not None  # of the course
        self.course = course or getattr(around, "course", None)

    def advance(self, part):
        """Take note that a part of this portion, in [0, 1], has been done."""
        self._done += part
        if self._is_all:
            self.course.advance(part)
        elif self._around is not None:
            self._around.advance(part * self._share)

    def finish(self):
        """Take note that nothing more will come, after an early end, say."""
        self.advance(1 - self._done)


_PORTION: ContextVar[_Portion | None] = ContextVar("portion", default=None)


@contextmanager
def portion(share: float, n_at_once: float = 1) -> Iterator[None]:
    """Context of a part of a fit's trainings, such as one of them.

    Parameters
    ----------
    share : float
        About which share of the trainings around it this is: of the fit, or of another portion.
        Trainings of 0 say nothing.
    n_at_once : float, default=1
        How many such portions pass in the time that one takes.

    Examples
    --------
    >>> with portion(0.75):
    ...     pass  # the first of two trainings
    """
    here = _Portion(_PORTION.get(), share, n_at_once)
    token = _PORTION.set(here)
    try:
        yield
        here.finish()
    finally:
        _PORTION.reset(token)


@contextmanager
def _course(verbose):
    """Context whose trainings have one bar; inside another one it is that one's."""
    around = _PORTION.get()
    if getattr(around, "course", None) is not None:
        yield
        return
    with progress(total=1.0, desc="train", verbose=verbose, bar_format=_BAR, smoothing=0) as bar:
        course = _Course(bar)
        token = _PORTION.set(_Portion(around, 1.0, course=course))
        try:
            yield
        finally:
            course.is_over = True
            _PORTION.reset(token)


def side_by_side(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    *,
    device: torch.device,
    verbose: bool = False,
) -> list[_Result]:
    """``function(item)`` of each item, where functions train networks, independently.

    On a CPU each item is one worker's; elsewhere they follow one another. What they draw has to
    come from generators of their own. They have one progress bar and one forecast.

    Parameters
    ----------
    function : callable
    items : iterable
    device : torch.device
        Where networks are trained.
    verbose : bool, default=False
        Show the bar.

    Returns
    -------
    results : list
        In order.

    Examples
    --------
    >>> side_by_side(abs, [-1, 2], device=torch.device("cpu"))
    [1, 2]
    """
    items = list(items)
    if len(items) == 1:  # which is not kept from handing out parts of itself
        return [function(items[0])]
    with borrowed_team() as lent, _course(verbose):
        workers = lent if device.type == "cpu" else Team(1)
        n_rounds = -(-len(items) // workers.n_workers)
        run = partial(_in_portion, function, 1 / len(items), len(items) / n_rounds)
        return list(workers.map(run, items))


def _in_portion(function, share, n_at_once, item):
    with portion(share, n_at_once):
        return function(item)


class Steps:
    """The steps of a training: shows them in a bar, and warns of a fit that will take long.

    Parameters
    ----------
    n_steps : int
    shortening : sequence of str
        What would make the training shorter.
    verbose : bool
        Show a bar, unless trainings around this one have theirs.
    """

    def __init__(self, n_steps: int, shortening: Sequence[str], verbose: bool):
        self._n_steps, self._portion = n_steps, _PORTION.get()
        self._course = getattr(self._portion, "course", None)
        is_alone = self._course is None
        self._bar = progress(total=n_steps, desc="train", verbose=verbose and is_alone)
        share = 1.0 if self._portion is None else self._portion.time_share
        warn = warn_user if is_alone else self._course.warn
        self._forecast = Forecast(n_steps, share, shortening, warn)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._bar.close()

    def done(self) -> None:
        """Take note of a step that has just been done."""
        self._forecast.step()
        self._bar.update()
        if self._course is not None:
            if self._course.is_over:  # another one has failed, or was interrupted
                raise RuntimeError("this training is no longer needed")
            self._portion.advance(1 / self._n_steps)

    def show(self, loss: float) -> None:
        """Show the loss of an epoch beside the bar."""
        self._bar.set_postfix(loss=f"{loss:.4g}")
