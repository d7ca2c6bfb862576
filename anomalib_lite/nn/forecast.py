"""How long a fit will take, told after the first steps of its training."""

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median_low

from ..notices import warn_user

_LONG = 600.0  # seconds
_ENOUGH_STEPS, _ENOUGH_SECONDS = 5, 20.0  # whichever comes first, but two steps at least


class Forecast:
    """Warns of a long fit after a few steps of its training.

    The first step, which is often slower, does not count; of the next ones, the median does.

    Parameters
    ----------
    n_steps : int
        Of the training.
    share : float
        About which share of the time of the whole fit the training takes; 0 for no warning.
    shortening : sequence of str
        What would make it shorter: "fewer epochs".
    warn : callable, default=warn_user
        Takes the warning.
    """

    def __init__(
        self,
        n_steps: int,
        share: float,
        shortening: Sequence[str],
        warn: Callable[[str], None] = warn_user,
    ):
        self._n_steps, self._share = n_steps, share
        self._shortening, self._warn = shortening, warn
        self._ends = []  # of steps, in seconds; the first ends the warm-up

    def step(self) -> None:
        """Take note of a step that has just been done."""
        if self._share == 0:
            return
        self._ends.append(time.monotonic())
        steps = [after - before for before, after in pairwise(self._ends)]
        if len(steps) == _ENOUGH_STEPS or (len(steps) > 1 and sum(steps) >= _ENOUGH_SECONDS):
            self._tell(median_low(steps))
            self._share = 0

    def _tell(self, seconds):
        total = seconds * self._n_steps / self._share
        if total <= _LONG:
            return
        text = (
            f"this fit will take about {duration(total)} more: {self._n_steps} training steps of "
            f"about {duration(seconds)} each"
        )
        if self._share < 1:
            text += f", which are {self._share:.0%} of it"
        if self._shortening:
            text += f". It takes less with {' or '.join(self._shortening)}"
        self._warn(f"{text}.")


def duration(seconds: float) -> str:
    """A duration in words.

    Examples
    --------
    >>> [duration(seconds) for seconds in (0.0312, 45, 1200, 34 * 3600, 1e6)]
    ['0.031 s', '45 s', '20 min', '34 h', '12 days']
    """
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
