"""Room for so much at one time."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Room:
    """Threads wait to enter until there is room; one that needs more than all of it enters alone.

    Nobody is kept waiting by those who come later for long where only so many of them may come
    before it is through, as in :meth:`~anomalib_lite.workers.Team.map`. Whoever is inside must not
    wait for others to enter.

    Parameters
    ----------
    size : int

    Examples
    --------
    >>> room = Room(10)
    >>> with room.visit() as enter:
    ...     enter(7)
    ...     room.taken
    7
    >>> room.taken
    0
    """

    def __init__(self, size: int):
        self.size, self.taken = size, 0
        self._changed = threading.Condition()

    def enter(self, amount: int) -> None:
        """Take an amount of the room, once it is free."""
        with self._changed:
            self._changed.wait_for(lambda: self.taken == 0 or self.taken + amount <= self.size)
            self.taken += amount

    def leave(self, amount: int) -> None:
        """Give it back."""
        with self._changed:
            self.taken -= amount
            self._changed.notify_all()

    @contextmanager
    def visit(self) -> Iterator[Callable[[int], None]]:
        """Context with a function that enters; what it took is given back at the end."""
        taken = 0

        def enter(amount):
            nonlocal taken
            self.enter(amount)
            taken += amount

        try:
            yield enter
        finally:
            self.leave(taken)
