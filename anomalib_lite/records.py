"""What is written down of an inspected image: one record, which is a row of every table."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from .regions import Region

VERDICTS = {1: "normal", -1: "anomalous", 0: "undecided"}
"""Verdicts by label; an image without a score is ``unreadable``."""

UNREADABLE = "unreadable"

ALL_VERDICTS = (*VERDICTS.values(), UNREADABLE)

COLUMNS = (
    *("path", "verdict", "anomaly_score", "severity", "p_value"),
    *("left", "top", "right", "bottom", "area", "peak", "n_regions"),
    *("width", "height", "modified", "reason"),
)
"""Columns of a table of records, in order."""

WITH_MEMBERS = (*COLUMNS, "flagged_by")
"""Those of a table of what an ensemble says."""

_NUMBERS = {"anomaly_score", "severity", "p_value", "peak", "modified"}
_COUNTS = {"left", "top", "right", "bottom", "area", "n_regions", "width", "height"}


@dataclass(frozen=True, slots=True)
class Record:
    """What a detector says of an image, without its map.

    Attributes
    ----------
    path : str or None
        The file that the image was read from.
    verdict : {"normal", "anomalous", "undecided", "unreadable"}
        ``"undecided"`` where the detector has no threshold.
    anomaly_score : float
        Higher = more anomalous; NaN for an unreadable image.
    severity : float
        The anomaly score on the detector's own scale: 0 is the median normal image, 1 the
        threshold. NaN without a threshold.
    p_value : float or None
        Of a ``ConformalDetector``.
    region : Region or None
        The region of the map with the highest peak, if any is above the level of normal maps.
    n_regions : int
    size : tuple (H, W) or None
        Of the image.
    modified : float or None
        When its file was written, in seconds since 1970.
    reason : str or None
        Why the image could not be read.
    flagged_by : tuple of str
        Names of the members of an ensemble that call the image anomalous.
    """

    path: str | None
    verdict: str
    anomaly_score: float = math.nan
    severity: float = math.nan
    p_value: float | None = None
    region: Region | None = None
    n_regions: int = 0
    size: tuple[int, int] | None = None
    modified: float | None = None
    reason: str | None = None
    flagged_by: tuple[str, ...] = ()

    def as_row(self, columns: Sequence[str] = COLUMNS) -> dict[str, Any]:
        """Values by the names of columns; None for what there is not.

        Examples
        --------
        >>> row = Record("a.png", "normal", 3.0, 0.5, size=(8, 6)).as_row()
        >>> row["path"], row["anomaly_score"], row["left"], row["width"]
        ('a.png', 3.0, None, 6)
        """
        left, top, right, bottom = (None,) * 4 if self.region is None else self.region.box
        height, width = (None,) * 2 if self.size is None else self.size
        values = {
            "path": self.path,
            "verdict": self.verdict,
            "anomaly_score": _known(self.anomaly_score),
            "severity": _known(self.severity),
            "p_value": _known(self.p_value),
            "left": left,
            "top": top,
            "right": right,
            "bottom": bottom,
            "area": None if self.region is None else self.region.area,
            "peak": None if self.region is None else self.region.peak,
            "n_regions": self.n_regions,
            "width": width,
            "height": height,
            "modified": self.modified,
            "reason": self.reason,
            "flagged_by": ", ".join(self.flagged_by) or None,
        }
        return {name: values[name] for name in columns}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Record":
        """The record of a row, whose values may be text, as of a CSV file.

        Raises
        ------
        ValueError
            If a column is missing, or holds something else.

        Examples
        --------
        >>> record = Record("a.png", "normal", 3.0, 0.5, size=(8, 6))
        >>> Record.from_row(record.as_row()) == record
        True
        """
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise ValueError(f"row: expected the columns of a record, {missing[0]} is missing.")
        known = {name: _parsed(name, row[name]) for name in COLUMNS}
        if known["verdict"] not in ALL_VERDICTS:
            raise ValueError(
                f"row: expected a verdict ({', '.join(ALL_VERDICTS)}), got {row['verdict']!r}."
            )
        box = tuple(known[side] for side in ("left", "top", "right", "bottom"))
        size = known["height"], known["width"]
        flagged_by = _parsed("flagged_by", row.get("flagged_by"))
        return cls(
            path=known["path"],
            verdict=known["verdict"],
            anomaly_score=_or_nan(known["anomaly_score"]),
            severity=_or_nan(known["severity"]),
            p_value=known["p_value"],
            region=None if None in box else Region(box, known["area"], known["peak"]),
            n_regions=known["n_regions"] or 0,
            size=None if None in size else size,
            modified=known["modified"],
            reason=known["reason"],
            flagged_by=() if flagged_by is None else tuple(flagged_by.split(", ")),
        )


_TABLES = (COLUMNS, WITH_MEMBERS)


def as_json(record: Record, columns: Sequence[str] = COLUMNS) -> str:
    """A record as one line of JSON, in ASCII, without the end of the line."""
    return json.dumps(record.as_row(columns), allow_nan=False)


def from_json(line: str) -> Record:
    """The record of a line of JSON.

    Raises
    ------
    ValueError
        If the line holds anything else.

    Examples
    --------
    >>> record = Record("a.png", "normal", 3.0, 0.5, size=(8, 6))
    >>> from_json(as_json(record)) == record
    True
    """
    row = json.loads(line)  # a JSONDecodeError is a ValueError
    if _columns_of(row) is None:
        raise ValueError("row: expected an object with the columns of a record.")
    return Record.from_row(row)


def columns_of_json(line: str) -> tuple[str, ...] | None:
    """The columns of a table with this line; None if it is of no table."""
    try:
        return _columns_of(json.loads(line))
    except ValueError:
        return None


def _columns_of(row):
    is_row = isinstance(row, dict)
    return next((each for each in _TABLES if is_row and row.keys() == {*each}), None)


def csv_head(columns: Sequence[str] = COLUMNS) -> str:
    """The first line of a table, without its end."""
    return ",".join(columns)


CSV_HEAD = csv_head()


def columns_of_csv(line: str) -> tuple[str, ...] | None:
    """The columns of a table with this first line, its end included; None if it is no table."""
    return {f"{csv_head(columns)}\n": columns for columns in _TABLES}.get(line)


def as_csv(record: Record, columns: Sequence[str] = COLUMNS) -> str:
    """A record as a row of a CSV file, without the end of the line.

    It is one line unless the path has line breaks, which are then inside quotes.

    Examples
    --------
    >>> as_csv(Record('a "good", part.png', "normal", 3.0))
    '"a ""good"", part.png",normal,3.0,,,,,,,,,0,,,,'
    """
    text = io.StringIO(newline="")
    # what is part of the writer's line ends is quoted: a lone carriage return, too
    csv.writer(text, lineterminator="\r\n").writerow(record.as_row(columns).values())
    return text.getvalue().removesuffix("\r\n")


def from_csv(row: str, columns: Sequence[str] = COLUMNS) -> Record:
    """The record of a row of a CSV file; ValueError if it is anything else."""
    try:
        (fields,) = csv.reader([row], strict=True)
    except csv.Error as error:
        raise ValueError(f"row: {error}.") from error
    return _from_fields(columns, fields)


def write_csv(records: Iterable[Record], file: IO[str], columns: Sequence[str] = COLUMNS) -> None:
    """Write a table with a line of column names; an empty field is what there is not.

    ``file`` is open for text with ``newline=""``.
    """
    file.write(f"{csv_head(columns)}\n")
    file.writelines(f"{as_csv(record, columns)}\n" for record in records)


def read_csv(file: IO[str]) -> Iterator[Record]:
    """The records of a table of :func:`write_csv`, one after the other.

    ``file`` is open for text with ``newline=""``.

    Raises
    ------
    ValueError
        If it holds anything else; it names the line.
    """
    columns = columns_of_csv(file.readline())
    if columns is None:
        raise ValueError(f"line 1: expected {CSV_HEAD}.")
    rows = csv.reader(file, strict=True)
    try:
        yield from map(partial(_from_fields, columns), rows)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"line {1 + rows.line_num}: {error}") from error


def _from_fields(columns, fields):
    if len(fields) != len(columns):
        raise ValueError(f"row: expected {len(columns)} fields, got {len(fields)}.")
    return Record.from_row(dict(zip(columns, fields, strict=True)))


def _known(value):
    """A number, or None for NaN and infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else float(value)


def _or_nan(value):
    return math.nan if value is None else value


def _parsed(name, value):
    if value is None or value == "":
        return None
    try:
        if name in _NUMBERS:
            return float(value)
        return int(value) if name in _COUNTS else str(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"row: expected a number as {name}, got {value!r}.") from error
