"""Tables of records that grow as images are inspected."""

from contextlib import AbstractContextManager, ExitStack

from ..records import Record, as_json, csv_writer


class Tables(AbstractContextManager):
    """A CSV file and a file of JSON lines, either or both, written record by record.

    Parameters
    ----------
    csv, jsonl : str or None
        Paths; what they hold is replaced.
    """

    def __init__(self, csv: str | None, jsonl: str | None):
        self._files = ExitStack()
        self._csv = self._jsonl = None
        if csv is not None:
            self._csv_file = self._open(csv)
            self._csv = csv_writer(self._csv_file)
            self._csv.writeheader()
        if jsonl is not None:
            self._jsonl = self._open(jsonl)

    def _open(self, path):
        file = open(path, "w", encoding="utf-8", errors="surrogateescape", newline="")
        return self._files.enter_context(file)

    def write(self, record: Record) -> None:
        """Add a record; it is in the files when this returns."""
        if self._csv is not None:
            self._csv.writerow(record.as_row())
            self._csv_file.flush()
        if self._jsonl is not None:
            self._jsonl.write(f"{as_json(record)}\n")
            self._jsonl.flush()

    def __exit__(self, *_):
        self._files.close()
