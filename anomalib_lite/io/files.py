"""Reading and replacing whole files by the file system's customs."""

import contextlib
import io
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


@contextlib.contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; nothing else is waited for, or opened.

    Raises
    ------
    io.UnsupportedOperation
        A ValueError, if the path is that of a folder, a pipe, a socket or a device.
    OSError
        If the file cannot be read.
    """
    _check_regular(path, os.stat(path))
    with open(path, "rb", opener=_open_at_once) as file:
        _check_regular(path, os.fstat(file.fileno()))  # what was opened, not what was there before
        yield file


def write_file(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write a file, given whole or in parts, as a whole or, if anything goes wrong, not at all.

    A new file gets the mode that the umask leaves, an existing one keeps its mode and, where
    that is allowed, its owner. A symbolic link stays one: its target is written. Other hard links
    to an existing file keep what it held before.

    Raises
    ------
    io.UnsupportedOperation
        A ValueError, if the path is that of a folder, a pipe, a socket or a device.
    OSError
        If the file cannot be written.
    """
    target, existing = _target(path)
    written = target.parent / f".saving-{secrets.token_hex(8)}"
    try:
        with open(written, "xb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        if existing is not None:
            _take_after(written, existing)
        os.replace(written, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(written)
        raise
    _sync_folder(target.parent)


def check_target(path: Path) -> None:
    """Raise what :func:`write_file` would, as far as one can tell before there is what to write."""
    target, _ = _target(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(2, "no such folder", str(target.parent))


def _target(path):
    """What is written in place of a path, and its status, None if it is new."""
    target = Path(os.path.realpath(path))
    try:
        existing = os.stat(target)
    except FileNotFoundError:
        return target, None
    _check_regular(path, existing)
    if not os.access(target, os.W_OK):
        raise PermissionError(13, "the file is read-only", str(path))
    return target, existing


def _check_regular(path, status):
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        raise io.UnsupportedOperation(
            f"{path}: expected the path of a file, got a {_KINDS.get(kind, 'special file')}."
        )


def _open_at_once(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _take_after(path, status):
    """Give a file the owner, if allowed, and the mode of another."""
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(path, status.st_uid, status.st_gid)
    os.chmod(path, stat.S_IMODE(status.st_mode))


def _sync_folder(folder):
    """Make a file's new name last through a power failure, where the file system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
