"""Tables that go on where they were cut off."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from anomalib_lite.cli.tables import Tables
from anomalib_lite.records import (
    COLUMNS,
    CSV_HEAD,
    WITH_MEMBERS,
    Record,
    as_csv,
    as_json,
    from_csv,
    from_json,
)
from anomalib_lite.regions import Region

RECORDS = [
    Record("new/a.png", "normal", 3.0, 0.5, size=(8, 6), modified=1.5),
    Record('new/a "b",\n\r<c>.png', "unreadable", modified=2.25, reason='no "image"'),
    Record(os.fsdecode(b"new/\xff\n.png"), "anomalous", 9.0, 2.5, 0.01,
           Region((1, 2, 3, 4), 4, 7.0), 1, (8, 6), 3.125),
]  # fmt: skip
CSV = "".join(f"{row}\n" for row in (CSV_HEAD, *map(as_csv, RECORDS)))
CSV = CSV.encode("utf-8", "surrogateescape")
JSONL = "".join(f"{as_json(record)}\n" for record in RECORDS).encode()


@pytest.fixture
def both(tmp_path):
    return str(tmp_path / "out.csv"), str(tmp_path / "out.jsonl")


def put(paths, *contents):
    for path, data in zip(paths, contents, strict=True):
        with open(path, "wb") as file:
            file.write(data)


def held(paths):
    return [Path(path).read_bytes() for path in paths]


def resume(csv, jsonl):
    """Go on, and write what is missing; gives the records that were there."""
    there = []
    with Tables(csv, jsonl) as tables:
        tables.resume(there.append)
        for record in RECORDS:
            if record not in there:
                tables.write(record)
        tables.sync()
    return there


def test_new_tables(both):
    assert resume(*both) == []
    assert held(both) == [CSV, JSONL]
    assert resume(*both) == RECORDS
    assert held(both) == [CSV, JSONL]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_table_cut_at_any_byte_goes_on_without_loss(both, kept):
    whole = (CSV, JSONL)[kept]
    csv, jsonl = (both[0], None) if kept == 0 else (None, both[1])
    for end in range(len(whole)):
        put([both[kept]], whole[:end])
        there = resume(csv, jsonl)
        assert there == RECORDS[: len(there)]
        assert held([both[kept]]) == [whole], end


def with_members(csv, jsonl, records, columns):
    with Tables(csv, jsonl) as tables:
        there = []
        tables.resume(there.append, columns)
        for record in records[len(there) :]:
            tables.write(record)


@pytest.mark.parametrize("kept", [0, 1])
def test_a_table_of_an_ensemble_cut_at_any_byte_goes_on_without_loss(both, kept):
    records = [replace(RECORDS[0], flagged_by=("a", "b")), *RECORDS[1:]]
    csv, jsonl = (both[0], None) if kept == 0 else (None, both[1])
    with_members(csv, jsonl, records, WITH_MEMBERS)
    [whole] = held([both[kept]])
    assert b"flagged_by" in whole and b"a, b" in whole
    for end in range(len(whole)):
        put([both[kept]], whole[:end])
        with_members(csv, jsonl, records, WITH_MEMBERS)
        assert held([both[kept]]) == [whole], end


@pytest.mark.parametrize("known", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(("old", "new"), [(COLUMNS, WITH_MEMBERS), (WITH_MEMBERS, COLUMNS)])
def test_a_table_that_goes_on_keeps_its_columns(both, old, new, known):
    """So does one beside it that is new."""
    records = [replace(each, flagged_by=("a",)) for each in RECORDS]
    some = [path if place in known else None for place, path in enumerate(both)]
    with_members(*some, records[:2], old)
    with_members(*both, records, new)
    with_members(*both, records, new)
    data = held(both)
    for path in both:
        os.remove(path)
    with_members(*both, records, old)
    assert held(both) == data


def test_tables_of_different_columns_are_not_touched(both):
    with_members(both[0], None, RECORDS, COLUMNS)
    with_members(None, both[1], RECORDS, WITH_MEMBERS)
    data = held(both)
    with pytest.raises(ValueError, match="the same columns in both tables"):
        with_members(*both, RECORDS, COLUMNS)
    assert held(both) == data


@pytest.mark.parametrize("tail", [b"\0" * 40, b'"new/\xff\n'])
def test_what_a_power_failure_leaves_is_cut(both, tail):
    put(both[:1], CSV + tail)
    assert resume(both[0], None) == RECORDS
    assert held(both[:1]) == [CSV]
    put(both[1:], JSONL + b"\0" * 40)
    assert resume(None, both[1]) == RECORDS
    assert held(both[1:]) == [JSONL]


def test_a_crash_between_two_tables(both):
    """The CSV is one record ahead, whole or in part, or the other table is new, or ahead."""
    for csv, jsonl in [
        (CSV, b"".join(JSONL.splitlines(True)[:2])),
        (CSV, JSONL[:-30]),
        (CSV[:-30], b"".join(JSONL.splitlines(True)[:2])),
        (CSV, b""),
        (b"", JSONL),
        (CSV[:9], JSONL),
    ]:
        put(both, csv, jsonl)
        resume(*both)
        assert held(both) == [CSV, JSONL]


@pytest.mark.parametrize(
    ("csv", "line"),
    [
        (b"id,name\n1,a\n", 1),
        (b"id,name", 1),
        (CSV_HEAD.encode() + b"\n1,a\n", 2),
        (CSV + b"1,a\n", 7),
        (CSV.replace(b",3.0,", b",three,"), 2),
        (CSV.replace(b"new/a.png", b'"new/a.png') + CSV.partition(b"\n")[2], 2),  # a stray quote
        (CSV.replace(b"\n", b"\r\n"), 1),
        (b"\xef\xbb\xbf" + CSV, 1),
    ],
)
def test_other_files_are_not_touched(both, csv, line):
    put(both, csv, JSONL[:-30])
    with pytest.raises(ValueError, match=rf"out.csv, line {line}: "):
        resume(*both)
    assert held(both) == [csv, JSONL[:-30]]


@pytest.mark.parametrize(
    ("jsonl", "line"),
    [
        (b'{"a": 1}\n', 1),
        (b'{"a": 1}', 1),
        (b"text\n", 1),
        (JSONL + b"\n", 4),
        (JSONL.replace(b'"normal"', b'"fine"'), 1),
    ],
)
def test_other_json_is_not_touched(both, jsonl, line):
    put(both, CSV[:-30], jsonl)
    with pytest.raises(ValueError, match=rf"out.jsonl, line {line}: "):
        resume(*both)
    assert held(both) == [CSV[:-30], jsonl]


def test_tables_of_different_images_are_not_touched(both):
    lines = JSONL.splitlines(True)
    put(both, CSV, lines[0] + lines[2])
    with pytest.raises(ValueError, match=r"out.csv, line 3 and .*out.jsonl, line 2: .*same image"):
        resume(*both)
    assert held(both) == [CSV, lines[0] + lines[2]]


@pytest.mark.parametrize(
    ("old", "is_ours"),
    [
        (b"", True),
        (CSV, True),
        (CSV[:-7], True),
        (b"path,verdict,", True),
        (b"name,price\n", False),
        (b"\x89PNG\r\n\x1a\n", False),
    ],
)
def test_only_tables_are_replaced(both, old, is_ours):
    put(both[:1], old)
    with Tables(both[0], None) as tables:
        if not is_ours:
            with pytest.raises(ValueError, match=r"out.csv, line 1: not a table of inspections"):
                tables.check_replaceable()
            assert held(both[:1]) == [old]
            return
        tables.check_replaceable()
        tables.replace()
        tables.write(RECORDS[0])
    assert held(both[:1]) == [f"{CSV_HEAD}\n{as_csv(RECORDS[0])}\n".encode()]


def test_one_writer_a_table(both, tmp_path):
    (tmp_path / "link.csv").symlink_to(both[0])
    with Tables(*both) as tables:
        tables.resume(print)
        for again in [both, (both[0], None), (None, both[1]), (str(tmp_path / "link.csv"), None)]:
            with pytest.raises(ValueError, match="another inspect is writing this table"):
                Tables(*again)
        other = str(tmp_path / "other.csv")
        with pytest.raises(ValueError, match="another inspect"):
            Tables(other, both[1])
        Tables(other, None).__exit__()  # the lock of the first one was let go
    Tables(*both).__exit__()


def test_where_no_table_can_be(tmp_path):
    with pytest.raises(ValueError, match="there is no folder"):
        Tables(str(tmp_path / "none" / "a.csv"), None)
    with pytest.raises(ValueError, match="got a folder"):
        Tables(None, str(tmp_path))
    same = str(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="the same for both"):
        Tables(same, same)


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="has no devices")
def test_a_device_is_written_to_but_cannot_go_on():
    with Tables("/dev/null", None) as tables:
        tables.check_replaceable()
        tables.replace()
        tables.write(RECORDS[0])
        tables.sync()
        with pytest.raises(ValueError, match="expected a file"):
            tables.resume(print)


@pytest.mark.parametrize("change", [os.remove, lambda path: os.replace(path, f"{path}.1")])
def test_a_table_that_is_taken_away_is_told(both, change):
    with Tables(*both) as tables:
        tables.resume(print)
        tables.sync()
        change(both[1])
        with pytest.raises(ValueError, match=r"out.jsonl: the table was moved or replaced"):
            tables.sync()


def test_lines_are_those_of_records():
    assert [from_json(line) for line in JSONL.decode().splitlines()] == RECORDS
    rows = [as_csv(record) for record in RECORDS]
    assert [from_csv(row) for row in rows] == RECORDS
