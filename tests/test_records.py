"""Records: rows that are written, and read back as they were."""

import csv
import io
import json
import math
import os
from dataclasses import replace

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomalib_lite.records import (
    COLUMNS,
    CSV_HEAD,
    WITH_MEMBERS,
    Record,
    as_csv,
    as_json,
    from_csv,
    from_json,
    read_csv,
    write_csv,
)
from anomalib_lite.regions import Region

ODD_NAMES = [
    "-x.png",
    "a, b.png",
    'a "good" one.png',
    '"',
    "<script>alert(1)</script>.png",
    "two\nlines.png",
    "mac\rline.png",
    "both\r\nlines.png",
    "tab\there.png",
    "'; DROP TABLE.png",
    "größe 部品.png",
    "\x85\u2028.png",
    os.fsdecode(b"latin-1 \xe9\xff.png"),
    " spaces .png ",
]
FULL = Record(
    path="a.png",
    verdict="anomalous",
    anomaly_score=0.1 + 0.2,
    severity=1e-300,
    p_value=1 / 3,
    region=Region((1, 2, 30, 40), 500, 7.25),
    n_regions=2,
    size=(60, 80),
    modified=1795723079.7684567,
)
paths = st.binary(min_size=1, max_size=30).map(os.fsdecode) | st.sampled_from(ODD_NAMES)


def named(path):
    return Record(path, "normal", 3.0, 0.5, size=(8, 6), modified=1.5)


@pytest.mark.parametrize("path", ODD_NAMES)
def test_any_name_is_written_and_read_back(path):
    record = named(path)
    assert from_csv(as_csv(record)) == record
    assert from_json(as_json(record)) == record
    assert as_json(record).isascii() and "\n" not in as_json(record)


@given(st.lists(paths, max_size=4))
def test_others_read_the_table_too(some):
    file = io.StringIO(newline="")
    write_csv(map(named, some), file)
    data = file.getvalue().encode("utf-8", "surrogateescape")
    text = data.decode("utf-8", "surrogateescape")
    head, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    assert head == [*COLUMNS]
    assert [row[0] for row in rows] == some


def test_pandas_reads_the_table(tmp_path):
    path = tmp_path / "a.csv"
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        write_csv([*map(named, ODD_NAMES), FULL], file)
    frame = pandas.read_csv(path, encoding_errors="surrogateescape")
    assert frame["path"].tolist() == [*ODD_NAMES, "a.png"]
    assert frame["modified"].tolist() == [*[1.5] * len(ODD_NAMES), FULL.modified]


def test_numbers_are_exact():
    assert from_csv(as_csv(FULL)) == FULL
    assert from_json(as_json(FULL)) == FULL


@pytest.mark.parametrize("names", [(), ("local",), ("größer", "a 'b' \n;c")])
def test_members_that_flagged_are_read_back(names):
    record = replace(FULL, flagged_by=names)
    assert from_csv(as_csv(record, WITH_MEMBERS), WITH_MEMBERS) == record
    assert from_json(as_json(record, WITH_MEMBERS)) == record
    file = io.StringIO(newline="")
    write_csv([record, FULL], file, WITH_MEMBERS)
    assert [*read_csv(io.StringIO(file.getvalue(), newline=""))] == [record, FULL]
    assert from_json(as_json(record)) == FULL and "flagged_by" not in as_json(record)


def test_what_there_is_not_stays_so():
    record = Record("a.png", "unreadable", reason='no "image"')
    for back in (from_csv(as_csv(record)), from_json(as_json(record))):
        assert back.reason == record.reason and math.isnan(back.anomaly_score)
        assert (back.region, back.size, back.modified, back.p_value) == (None,) * 4


def test_infinity_is_not_written():
    assert json.loads(as_json(Record("a", "normal", math.inf)))["anomaly_score"] is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (CSV_HEAD, "a number as anomaly_score"),
        ("a.png,normal", "got 2"),
        ("", "got 0"),
        (as_csv(FULL) + ",", "got 17"),
        (as_csv(FULL).replace("500", "many"), "area"),
        (as_csv(FULL).replace("anomalous", "bad"), "verdict"),
        ('"a"b' + as_csv(FULL), "expected after"),
        ('"a.png', "unexpected end"),
    ],
)
def test_rows_of_other_tables_are_refused(row, said):
    with pytest.raises(ValueError, match=said):
        from_csv(row)


@pytest.mark.parametrize("line", ["", "[]", "{}", "3", '{"path": "a.png"}', as_json(FULL)[:-1]])
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError, match=r"row|Expecting|delimiter"):
        from_json(line)


def test_a_column_that_is_missing_is_named():
    row = FULL.as_row()
    del row["peak"]
    with pytest.raises(ValueError, match="peak is missing"):
        Record.from_row(row)
