"""Which files of some folders have become whole since the last look, and were not recorded yet."""

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

from ..data.names import images_now, place_of
from ..records import UNREADABLE, Record
from ..texts import printable

PATIENCE = 10.0
"""Seconds in which a file that does not change, but cannot be read, is tried again."""

_BLINK = 0.2  # seconds until a signal is heeded at the latest


class Version(NamedTuple):
    """What a file is by its folder: another version holds other content, as far as is known.

    Attributes
    ----------
    size : int
        In bytes.
    modified : float
        Seconds since 1970, as in a :class:`~anomalib_lite.records.Record`.
    """

    size: int
    modified: float

    @classmethod
    def of(cls, path: str) -> "Version | None":
        """That of a file now; None if it is not there."""
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return None
        return cls(status.st_size, status.st_mtime)


class Recorded:
    """The images of a table, by a digest of 16 bytes of path and time of change.

    Examples
    --------
    >>> recorded = Recorded()
    >>> recorded.add("new/a.png", 1.5)
    >>> recorded.has("./new/a.png", 1.5), recorded.has("new/a.png", 2.5)
    (True, False)
    """

    def __init__(self):
        self._digests = set()

    def __len__(self):
        return len(self._digests)

    def add(self, path: str, modified: float) -> None:
        self._digests.add(_digest(path, modified))

    def add_record(self, record: Record) -> None:
        """That of a file; an image without one is never met again."""
        if record.path is not None and record.modified is not None:
            self.add(record.path, record.modified)

    def has(self, path: str, modified: float) -> bool:
        return _digest(path, modified) in self._digests


def _digest(path, modified):
    return blake2b(os.fsencode(f"{modified!r} {place_of(path)}"), digest_size=16).digest()


@dataclass
class Sighting:
    """A file that is not recorded yet.

    Attributes
    ----------
    path, name : str
        The file, and what it was found by.
    version : Version
    whole_since : float or None
        When it was first taken for whole, by the watch's clock.
    """

    path: str
    name: str
    version: Version
    whole_since: float | None = None


class Watch:
    """Looks at folders, and remembers what it saw.

    A file is whole when two looks find it with the same size and time of change. A path whose
    content was replaced after it was recorded, so that its time of change is another one, is a new
    image.

    Parameters
    ----------
    names : sequence of str
        Folders, patterns, files and lists; see :func:`~anomalib_lite.data.names.images_now`.
    recorded : Recorded
        What is not looked at again.
    say : callable
        Given messages to the user.
    clock : callable, default=time.monotonic
        Gives seconds.

    Attributes
    ----------
    n_missed : int
        Files that were whole, and gone before they could be read.
    waiting : dict
        Sightings of files that are not recorded yet, by place.
    """

    def __init__(
        self,
        names: Sequence[str],
        recorded: Recorded,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self.waiting, self.n_missed = {}, 0
        self._names, self._recorded, self._say, self._clock = names, recorded, say, clock
        self._known = {}  # times of change of the recorded files that are there now
        self._troubles = {}

    def look(self) -> list[Sighting]:
        """The files that are whole and not recorded, in order of names and paths."""
        due, known, troubles, found = [], {}, {}, set()
        for name in self._names:
            try:
                paths = images_now(name)
            except (ValueError, OSError) as error:
                troubles[name] = str(error)
                continue
            for path in paths:
                place, version = place_of(path), Version.of(path)
                if version is None or place in found:
                    continue
                found.add(place)
                if self._is_recorded(path, place, version):
                    known[place] = version.modified
                    self.waiting.pop(place, None)
                elif self._is_whole(path, place, version, name):
                    due.append(self.waiting[place])
        self._known = known if not troubles else self._known | known
        self._tell_troubles(troubles)
        self._forget_gone(found, troubles)
        return due

    def _is_recorded(self, path, place, version):
        modified = version.modified
        return self._known.get(place) == modified or self._recorded.has(path, modified)

    def _is_whole(self, path, place, version, name):
        before = self.waiting.get(place)
        if before is not None and before.version == version:
            if before.whole_since is None:
                before.whole_since = self._clock()
            return True
        self.waiting[place] = Sighting(path, name, version)
        return False

    def _tell_troubles(self, troubles):
        for name, trouble in troubles.items():
            if name not in self._troubles:
                self._say(f"{printable(trouble)} Waiting for it.")
        for name in self._troubles.keys() - troubles.keys():
            self._say(f"{printable(name)}: there again")
        self._troubles = troubles

    def _forget_gone(self, found, troubles):
        """Let go of what was waited for and is not there anymore, unless nobody can tell."""
        for place in self.waiting.keys() - found:
            sighting = self.waiting[place]
            if sighting.name in troubles:
                continue
            del self.waiting[place]
            was_whole = sighting.whole_since is not None
            self.n_missed += was_whole
            self._say(
                f"{printable(sighting.path)}: gone before it "
                f"{'could be read' if was_whole else 'was whole'}; not inspected"
            )

    def settle(self, sighting: Sighting, record: Record) -> Record | None:
        """What to write down about a file, now that it was read; None if it is to be tried again.

        What changed or vanished while it was read is left to the next look. What cannot be read is
        tried for :data:`PATIENCE` seconds.
        """
        if Version.of(sighting.path) != sighting.version:
            return None
        is_young = self._clock() - sighting.whole_since < PATIENCE
        if record.verdict == UNREADABLE and is_young:
            return None
        del self.waiting[place_of(sighting.path)]
        self._recorded.add(sighting.path, sighting.version.modified)
        return replace(record, modified=sighting.version.modified)


class Stop(AbstractContextManager):
    """Context in which an interrupt or a request to end is noted, once; the next one acts at once.

    Examples
    --------
    >>> with Stop() as stop:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     stop.is_asked
    True
    """

    def __init__(self):
        self.is_asked, self._before = False, {}

    def __enter__(self):
        for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
            if hasattr(signal, name):
                number = getattr(signal, name)
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, *_):
        self.is_asked = True
        self._restore()

    def _restore(self):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def sleep(self, seconds: float) -> None:
        """Wait, but not for long once the end is asked for."""
        end = time.monotonic() + seconds
        while not self.is_asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _BLINK))

    def __exit__(self, *_):
        self._restore()


@contextmanager
def warnings_once() -> Iterator[None]:
    """Context in which each place of the code warns once, whatever image it names."""
    with warnings.catch_warnings():
        show, shown = warnings.showwarning, set()

        def show_first(message, category, filename, lineno, file=None, line=None):
            place = category, filename, lineno
            if place not in shown:
                shown.add(place)
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = show_first
        yield


def rounds(
    watch: Watch,
    inspect: Callable[[list[str]], Iterator[Record]],
    stop: Stop,
    interval: float,
) -> Iterator[Iterator[Record]]:
    """The records of one look after the other, of those that bring any, until it is asked to stop.

    Each is to be used up before the next one is asked for.
    """
    while not stop.is_asked:
        due = watch.look()
        if due:
            yield _records(watch, inspect, stop, due)
        stop.sleep(interval)


def _records(watch, inspect, stop, due):
    records = inspect([sighting.path for sighting in due])
    try:
        for sighting, record in zip(due, records, strict=True):
            settled = watch.settle(sighting, record)
            if settled is not None:
                yield settled
            if stop.is_asked:
                return
    finally:
        records.close()
