"""Folders of runs that go on where they were cut off."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..annotations import Path as PathLike
from ..inspection import modified
from ..io.files import write_file
from ..records import COLUMNS, Record, as_csv, csv_head, read_csv
from .chunks import Chunk

TABLE = "records.csv"

_MANIFEST, _CHUNKS, _LOCK = "run.json", "chunks", ".lock"
_FORMAT = 1
_UNFINISHED = ".saving-*"  # of write_file, by a client that was killed
_CHUNK = re.compile(r"(\d{7,})\.csv")
_ADVICE = "Remove this folder, or write to another place."


def digest_of_paths(paths: Sequence[str]) -> str:
    """Hexadecimal SHA-256 of a list of files, and of the folder that relative ones are taken from.

    Examples
    --------
    >>> digest_of_paths(["/a.png", "/b.png"]) == digest_of_paths(["/b.png", "/a.png"])
    False
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
    if not all(map(os.path.isabs, paths)):
        digest.update(os.fsencode(os.getcwd()))
    return digest.hexdigest()


class RunFolder(AbstractContextManager):
    """The folder of a run: first a file for each chunk, in the end one table.

    ``run.json`` says of what run it is. In its context nobody else writes there through this class.

    Parameters
    ----------
    folder : str or Path
        Made where it is not there.
    run : dict
        What tells this run from others, by name: JSON values.
    columns : sequence of str
        Of the table.

    Attributes
    ----------
    table : Path
        Of the records.
    done : set of int
        Numbers of the chunks that are there.

    Raises
    ------
    ValueError
        If the folder is that of another run, holds anything else, or another client writes there.
    """

    def __init__(self, folder: PathLike, run: dict[str, Any], columns: Sequence[str] = COLUMNS):
        self._folder = Path(os.fsdecode(folder))
        self._run = {"format": _FORMAT, **run}
        self._columns, self._head = columns, f"{csv_head(columns)}\n".encode()
        self.table, self._chunks = self._folder / TABLE, self._folder / _CHUNKS
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise ValueError(f"out: expected a folder, got the file {self._folder}.") from error
        self._lock = self._hold()
        try:
            self._check()
            self._begin()
        except BaseException:
            self._lock.release()
            raise

    def _hold(self):
        lock = FileLock(self._folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"out: another client is writing to {self._folder}. Stop it, or give another "
                "folder."
            ) from None
        except NotImplementedError as error:  # by a network drive
            raise ValueError(
                f"out: files cannot be locked in {self._folder}. Workers need not see this folder: "
                "give one on a local drive."
            ) from error
        return lock

    def _check(self):
        """Raise ValueError unless the folder is empty, or that of this run."""
        names = {name for name in os.listdir(self._folder) if not name.startswith(".")}
        foreign = sorted(names - {_MANIFEST, _CHUNKS, TABLE})
        if not foreign and names and _MANIFEST not in names:
            foreign = sorted(names)
        if foreign:
            raise ValueError(
                f"out: expected a new folder, or that of this run, but {self._folder} holds "
                f"{foreign[0]}, which is not of it. {_ADVICE}"
            )
        if not names:
            return
        found = self._read_manifest()
        differing = [name for name in self._run if found.get(name) != self._run[name]]
        if differing:
            raise ValueError(
                f"out: {self._folder} holds another run, with another value of "
                f"{', '.join(differing)}. {_ADVICE}"
            )

    def _read_manifest(self):
        try:
            found = json.loads((self._folder / _MANIFEST).read_text(encoding="utf-8"))
        except ValueError as error:
            found = error
        if not isinstance(found, dict):
            raise ValueError(f"out: {self._folder / _MANIFEST} is not that of a run. {_ADVICE}")
        return found

    def _begin(self):
        for folder in (self._folder, self._chunks):
            for path in folder.glob(_UNFINISHED):
                path.unlink()
        if not (self._folder / _MANIFEST).exists():
            text = json.dumps(self._run, indent=1) + "\n"
            write_file(self._folder / _MANIFEST, text.encode())
        self.done = set(self._numbers())
        if self.is_complete:
            self._clear()
        else:
            self._chunks.mkdir(exist_ok=True)

    def _numbers(self):
        with suppress(FileNotFoundError):
            for name in os.listdir(self._chunks):
                found = _CHUNK.fullmatch(name)
                if not found:
                    raise ValueError(
                        f"out: {self._chunks} holds {name}, which is not of this run. {_ADVICE}"
                    )
                yield int(found[1])

    @property
    def is_complete(self) -> bool:
        """Whether the table is there, and with it all records."""
        return self.table.exists()

    def write(self, chunk: Chunk, records: Iterable[Record]) -> None:
        """Write the records of a chunk, all or none."""
        text = "".join(f"{as_csv(record, self._columns)}\n" for record in records)
        write_file(self._path(chunk.number), self._head + text.encode("utf-8", "surrogateescape"))
        self.done.add(chunk.number)

    def read(self, chunk: Chunk) -> list[Record]:
        """The records of a chunk that is done."""
        records = [*_records_of(self._path(chunk.number))]
        if [record.path for record in records] != [*chunk.paths]:
            raise ValueError(f"{self._path(chunk.number)}: damaged. Remove it, and call again.")
        return records

    def forget_changed(self, chunks: Iterable[Chunk]) -> None:
        """Let chunks be done again in which a file was written since."""
        for chunk in chunks:
            if chunk.number in self.done and any(map(_is_changed, self.read(chunk))):
                self.done.discard(chunk.number)

    def finish(self, chunks: Iterable[Chunk]) -> None:
        """Make one table of all chunks, which are all done, and remove them."""
        parts = (self._path(chunk.number).read_bytes().removeprefix(self._head) for chunk in chunks)
        write_file(self.table, (part for some in ([self._head], parts) for part in some))
        self._clear()

    def records(self, paths: Sequence[str]) -> Iterator[Record]:
        """Those of the table, in order, which are of these files."""
        for path, record in zip_longest(paths, _records_of(self.table)):
            if record is None or record.path != path:
                raise ValueError(f"{self.table}: damaged. Remove it, and call again.")
            if _is_changed(record):
                raise ValueError(f"out: {path} has changed since it was inspected. {_ADVICE}")
            yield record

    def _path(self, number):
        return self._chunks / f"{number:07}.csv"

    def _clear(self):
        """Remove the chunks, which are in the table."""
        for number in self.done:
            self._path(number).unlink()
        self.done = set()
        with suppress(FileNotFoundError):
            self._chunks.rmdir()

    def __exit__(self, *_):
        self._lock.release()


def _is_changed(record):
    """Whether a file was written since; where the client does not see it, nobody knows."""
    now = modified(record.path)
    return now is not None and now != record.modified


def _records_of(path):
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        try:
            yield from read_csv(file)
        except ValueError as error:
            raise ValueError(f"{path}, {error} Remove it, and call again.") from error
