"""Tables of records that grow as images are inspected, and continue where they were cut off."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from itertools import islice, zip_longest
from typing import BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from ..records import (
    COLUMNS,
    CSV_HEAD,
    WITH_MEMBERS,
    Record,
    as_csv,
    as_json,
    columns_of_csv,
    columns_of_json,
    csv_head,
    from_csv,
    from_json,
)
from .outputs import check_may_write

_ADVICE = "Repair it, move it away, or give another name."


class _Row(NamedTuple):
    """Bytes of a row, its end included, and whether it has one."""

    data: bytes
    is_whole: bool


class _Format(NamedTuple):
    """How records are written."""

    has_head: bool
    columns: Callable[[str], Sequence[str] | None]  # by the first line
    encode: Callable[[Record, Sequence[str]], str]
    decode: Callable[[str, Sequence[str]], Record]
    rows: Callable[[BinaryIO], Iterator[_Row]]
    # whether a crash may have left these bytes at the end
    may_be_cut: Callable[[bytes, Sequence[str]], bool]


def _lines(file):
    for line in file:
        yield _Row(line, line.endswith(b"\n"))


def _quoted_lines(file):
    """Rows whose fields may have line breaks between quotes; every other quote ends a field."""
    row, n_quotes = [], 0
    for line in file:
        row.append(line)
        n_quotes += line.count(b'"')
        if n_quotes % 2 == 0 and line.endswith(b"\n"):
            yield _Row(b"".join(row), True)
            row, n_quotes = [], 0
    if row:
        yield _Row(b"".join(row), False)


def _begins_as_json(data, columns):
    start = b'{"path": '
    return start.startswith(data[: len(start)]) or not data.strip(b"\0")


def _from_json(line, columns):
    return from_json(line)  # which names its columns


def _holds_no_rows(data, columns):
    """Whether a row without end hides none of those that follow, as a stray quote would."""
    return not any(_is_row(line, columns) for line in data.split(b"\n")[1:-1])


def _is_row(line, columns):
    try:
        from_csv(_text(line), columns)
    except ValueError:
        return False
    return True


_CSV = _Format(True, columns_of_csv, as_csv, from_csv, _quoted_lines, _holds_no_rows)
_JSONL = _Format(False, columns_of_json, as_json, _from_json, _lines, _begins_as_json)


class _Table:
    """A file of records.

    Attributes
    ----------
    n_read, end, line : int
        Records, bytes of whole rows, and the line of the last row, that were read so far.
    columns : sequence of str or None
        Of the rows that were read; None of a file that has none.
    """

    def __init__(self, path: str, form: _Format):
        self.path, self._format = path, form
        self.n_read = self.end = self.line = 0
        self.columns = None
        self._file = None

    @property
    def is_special(self) -> bool:
        """Whether it is a pipe or a device, which is written to and no more."""
        path = self.path
        return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))

    @property
    def lock(self) -> FileLock:
        folder, name = os.path.split(os.path.realpath(self.path))
        return FileLock(os.path.join(folder, f".{name}.lock"))

    def records(self) -> Iterator[Record]:
        """The records of the file; what a crash left of another one at its end is passed over.

        Raises
        ------
        ValueError
            If the file holds anything else; it names the line.
        """
        self.n_read = self.end = 0
        self.columns = None
        self.line, next_line = 0, 1
        try:
            file = open(self.path, "rb")
        except FileNotFoundError:
            return
        with file:
            for row in self._format.rows(file):
                self.line, next_line = next_line, next_line + row.data.count(b"\n")
                record = self._read(row)
                if not row.is_whole:
                    return
                self.end += len(row.data)
                if record is not None:
                    self.n_read += 1
                    yield record

    def _read(self, row):
        """A record; None of the first line and of a row that was cut off."""
        text = _text(row.data)
        if self.end == 0 and row.is_whole:
            self.columns = self._format.columns(text)
        if self.end == 0 and self._format.has_head:
            is_cut = not row.is_whole and csv_head(WITH_MEMBERS).startswith(text)
            if self.columns is None and not is_cut:
                self._refuse(f"expected the line {CSV_HEAD}")
        elif row.is_whole:
            try:
                return self._format.decode(text.removesuffix("\n"), self.columns)
            except ValueError as error:
                self._refuse(str(error).removeprefix("row: ").removesuffix("."))
        elif not self._format.may_be_cut(row.data, self.columns):
            self._refuse("the row does not end where it should")
        return None

    def _refuse(self, what):
        raise ValueError(
            f"{self.path}, line {self.line}: not a table of inspections: {what}. {_ADVICE}"
        )

    def open(self, columns: Sequence[str]) -> None:
        """Open for writing after the bytes that were read; the rest is cut off."""
        self.columns = columns
        self._file = open(self.path, "ab", buffering=0)
        if not self.is_special:
            self._file.truncate(self.end)
        if self.end == 0 and self._format.has_head:
            self._add(f"{csv_head(columns)}\n")

    def write(self, record: Record) -> None:
        self._add(f"{self._format.encode(record, self.columns)}\n")

    def _add(self, text):
        """One call to the system, as a rule; it may take a part only, of a disk that is full."""
        left = memoryview(text.encode("utf-8", "surrogateescape"))
        while left:
            left = left[self._file.write(left) :]

    def sync(self) -> None:
        """Make what was written last through a power failure; ValueError if the file is gone."""
        if self.is_special:
            return
        os.fsync(self._file.fileno())
        try:
            is_ours = os.path.samestat(os.stat(self.path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            is_ours = False
        if not is_ours:
            raise ValueError(f"{self.path}: the table was moved or replaced while it was written.")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _text(data):
    return data.decode("utf-8", "surrogateescape")


class Tables(AbstractContextManager):
    """A CSV file and a file of JSON lines, either, both or none, written record by record.

    In its context nobody else writes to these files through this class: a locked file beside each
    (``.name.lock``) is let go by the system even if the process is killed.

    Parameters
    ----------
    csv, jsonl : str or None
        Paths.

    Raises
    ------
    ValueError
        If a file cannot be written there, or is being written by another process.
    """

    def __init__(self, csv: str | None, jsonl: str | None):
        named = ((csv, _CSV), (jsonl, _JSONL))
        self._tables = [_Table(path, form) for path, form in named if path is not None]
        if len({os.path.realpath(table.path) for table in self._tables}) < len(self._tables):
            raise ValueError(f"{csv}: expected one file for each table, got the same for both.")
        with ExitStack() as stack:
            for table in self._tables:
                if not table.is_special:
                    check_may_write(table.path, force=True)
                    _hold(table, stack)
                stack.callback(table.close)
            self._open = stack.pop_all()

    @property
    def run_folder(self) -> str | None:
        """Where a run that workers do may keep what is done, beside a table; None without one."""
        files = [table.path for table in self._tables if not table.is_special]
        return f"{os.path.realpath(files[0])}.run" if files else None

    def check_replaceable(self) -> None:
        """Raise ValueError if a file holds something else than a table of records."""
        for table in self._tables:
            if not table.is_special:
                next(table.records(), None)

    def replace(self, columns: Sequence[str] = COLUMNS) -> None:
        """Start anew: what the files hold is lost."""
        for table in self._tables:
            table.end = 0
            table.open(columns)

    def resume(self, take: Callable[[Record], object], columns: Sequence[str] = COLUMNS) -> None:
        """Go on: what the files hold is kept, and a last row that was cut off is removed.

        If one of two tables is ahead of the other, that one is given what it lacks.

        Parameters
        ----------
        take : callable
            Given each record of the tables.
        columns : sequence of str
            Of new tables; those that hold rows keep theirs.

        Raises
        ------
        ValueError
            If a file holds something else, or the two tables are not of the same images or do not
            have the same columns; nothing is changed then.
        """
        for table in self._tables:
            if table.is_special:
                raise ValueError(f"{table.path}: expected a file, which can be read again.")
        for rows in zip_longest(*(table.records() for table in self._tables)):
            known = [record for record in rows if record is not None]
            if known[0] != known[-1]:
                places = " and ".join(f"{each.path}, line {each.line}" for each in self._tables)
                raise ValueError(f"{places}: expected the same image in both tables. {_ADVICE}")
            take(known[0])
        found = {table.columns for table in self._tables} - {None}
        if len(found) > 1:
            places = " and ".join(each.path for each in self._tables)
            raise ValueError(f"{places}: expected the same columns in both tables. {_ADVICE}")
        columns = found.pop() if found else columns
        counts = [table.n_read for table in self._tables]
        ahead = self._tables[counts.index(max(counts))]
        for table, n_read in zip(self._tables, counts, strict=True):
            table.open(columns)
            if n_read < max(counts):
                for record in islice(ahead.records(), n_read, None):
                    table.write(record)

    def write(self, record: Record) -> None:
        """Add a record; the system has it when this returns."""
        for table in self._tables:
            table.write(record)

    def sync(self) -> None:
        """Make what was written last through a power failure.

        Raises
        ------
        ValueError
            If somebody has moved, removed or replaced a file.
        """
        for table in self._tables:
            table.sync()

    def __exit__(self, *_):
        self._open.close()


def _hold(table, stack):
    lock = table.lock
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{table.path}: another inspect is writing this table. Stop it, or give another name."
        ) from None
    except NotImplementedError as error:  # by a network drive
        raise ValueError(
            f"{table.path}: files cannot be locked there. Write the table on a local drive."
        ) from error
    stack.callback(lock.release)
