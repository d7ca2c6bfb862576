"""Where commands write."""

import datetime
import os
from collections.abc import Callable
from typing import Any

_GENERATOR = b'<meta name="generator" content="anomalib_lite"'
_HEAD = 2048  # bytes of a file that are enough to know it


def check_may_write(path: str, force: bool) -> None:
    """Raise ValueError, before any work is done, if a file cannot be written there, or must not.

    Parameters
    ----------
    path : str
    force : bool
        Whether a file that exists may be overwritten.
    """
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise ValueError(f"{path}: there is no folder {folder}. Make it first.")
    if os.path.isdir(path):
        raise ValueError(f"{path}: expected the name of a file, got a folder.")
    if os.path.lexists(path) and not force:
        raise ValueError(f"{path}: exists already. Give another name, or --force to overwrite it.")


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
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except FileNotFoundError:
        return
    if not is_ours(head):
        raise ValueError(f"{path}: exists already, and is not {what}. Give another name.")


def now() -> str:
    """Date and time here, to the second, with the offset from UTC."""
    return datetime.datetime.now().astimezone().isoformat(" ", "seconds")


def described_images(names: list[str], n_images: int) -> str:
    """Where images came from, and how many there were, for the notes of a file."""
    return f"{n_images} from {', '.join(os.path.abspath(name) for name in names)}"


def clean(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON has them: None for NaN and infinity."""
    return {
        key: None if isinstance(value, float) and not abs(value) < float("inf") else value
        for key, value in values.items()
    }
