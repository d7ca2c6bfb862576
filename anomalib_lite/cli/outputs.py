"""Where commands write."""

import datetime
import os
from collections.abc import Callable
from typing import Any

from ..report.figures import size_of_file

_GENERATOR = b'<meta name="generator" content="anomalib_lite"'
_HEAD = 2048  # bytes of a file that are enough to know it
_HEADER_AT = 8  # where the header of a detector's file begins, after its length


def check_may_write(path: str, force: bool) -> None:
    """Raise ValueError, before any work is done, if a file cannot be written there, or must not.

    Parameters
    ----------
    path : str
    force : bool
        Whether a file that exists may be overwritten.
    """
    if not path:
        raise ValueError("expected the name of a file to write, got an empty one.")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"{path}: there is no folder {folder}. Make it first.")
    if os.path.isdir(path):
        raise ValueError(f"{path}: expected the name of a file, got a folder.")
    if os.path.lexists(path) and not force:
        raise ValueError(f"{path}: exists already. Give another name, or --force to overwrite it.")
    for place in (folder, path):
        if os.path.exists(place) and not _is_writable(place):
            raise ValueError(f"{path}: {place} is read-only. Give another name.")


def _is_writable(path):
    """Whether this user may write there; a folder that says yes may still refuse."""
    return os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids)


def check_may_write_detector(path: str, force: bool) -> None:
    """Like :func:`check_may_write`, and whatever is no detector is kept even so.

    With ``-o *.png`` the shell makes a photograph the output.
    """
    check_may_write(path, force)
    check_may_replace(path, _may_be_detector, "a detector")


def _may_be_detector(head):
    return not head or head[_HEADER_AT : _HEADER_AT + 1] == b"{"  # what is empty may go


def check_all_differ(*paths: str | None) -> None:
    """Raise ValueError if two outputs would be written to the same file."""
    places = [os.path.realpath(path) for path in paths if path is not None]
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise ValueError(f"{twice[0]}: expected a file for each output, got the same for two.")


def check_may_replace_page(path: str) -> None:
    """Raise ValueError if no page can be written there, or another file would be lost."""
    check_may_replace(path, lambda head: _GENERATOR in head, "a page of this program")


def check_may_replace(path: str, is_ours: Callable[[bytes], bool], what: str) -> None:
    """Raise ValueError if a file cannot be written there, or one of another kind would be lost.

    Parameters
    ----------
    path : str
    is_ours : callable
        Told the first bytes of a file that is there already, says whether it may be replaced.
    what : str
        Kind of file.
    """
    check_may_write(path, force=True)
    if not os.path.isfile(path):
        return
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if not is_ours(head):
        raise ValueError(f"{path}: exists already, and is not {what}. Give another name.")


def now() -> str:
    """Date and time here, to the second, with the offset from UTC."""
    return datetime.datetime.now().astimezone().isoformat(" ", "seconds")


def described_places(names: list[str]) -> str:
    """Where images came from, for the notes of a file."""
    return ", ".join(os.path.abspath(name) for name in names)


def size_in_words(n_bytes: int) -> str:
    """A number of bytes in a unit, with plain spaces."""
    return size_of_file(n_bytes).replace("\N{NO-BREAK SPACE}", " ")


def clean(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: None for NaN and infinity."""
    return {
        key: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for key, value in values.items()
    }
