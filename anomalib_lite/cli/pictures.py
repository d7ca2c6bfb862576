"""The page and the pictures of ``anomalib-lite inspect``."""

import os
import time
import warnings
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..records import Record
from ..report.overlays import FileNames, save_overlays
from ..report.page import write_page
from .console import Console
from .outputs import check_may_replace_page, now
from .scoring import card_of

_AT_MOST_EVERY = 30.0  # seconds from one page to the next while a folder is watched


@contextmanager
def _warned_already() -> Iterator[None]:
    """No warnings of images, which gave them when they were inspected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


class Pictures:
    """What is shown of the images that were inspected.

    Parameters
    ----------
    args : Namespace
        With ``detector`` (the file), ``report`` and ``overlays``, paths or None.
    detector : fitted detector
    console : Console

    Raises
    ------
    ValueError
        If the page or the pictures cannot be written there.
    """

    def __init__(self, args: Namespace, detector: Any, console: Console):
        self._detector, self._console = detector, console
        self._page, self._folder = args.report, args.overlays
        if self._page is not None:
            check_may_replace_page(self._page)
            self._card = card_of(args.detector, detector)
        if self._folder is not None:
            os.makedirs(self._folder, exist_ok=True)
        self._names = FileNames(".jpg")
        self._shown, self._new = [], []  # of the page, and since the last pictures
        self._written, self._n_written = -_AT_MOST_EVERY, 0

    def add(self, record: Record) -> None:
        """Take a record that was made now."""
        self.add_old(record)
        if self._folder is not None:
            self._new.append(record)

    def add_old(self, record: Record) -> None:
        """Take a record of an earlier run."""
        if self._page is not None:
            self._shown.append(record)
        if self._folder is not None and record.verdict == "anomalous":
            self._names.name_of(record.path)  # in the same order, so that names stay the same

    def update(self) -> None:
        """Write pictures of what is new, and the page unless it was written a moment ago."""
        if self._new:
            with _warned_already():
                save_overlays(self._folder, self._detector, self._new, names=self._names)
            self._new = []
        if time.monotonic() - self._written >= _AT_MOST_EVERY:
            self._write()

    def finish(self) -> None:
        """Write the page of all images, if there are any."""
        self._write()
        if self._page is not None and self._shown:
            self._console.say(f"page: {self._page}")

    def _write(self):
        if len(self._shown) > self._n_written:
            with _warned_already():
                write_page(self._page, self._detector, self._shown, card=self._card, date=now())
            self._written, self._n_written = time.monotonic(), len(self._shown)
