"""Processors that this process may use."""

import os

import pytest

from anomalib_lite.deploy import processors


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["150000 100000"], 2),
        (["100000 100000"], 1),
        (["10000 100000"], 1),
        (["max 100000"], 8),
        (["900000 100000"], 8),
        (["-1", "100000"], 8),
        (["300000\n", "100000\n"], 3),
        (["nonsense"], 8),
        ([], 8),
    ],
)
def test_a_quota_counts(texts, expected, tmp_path, monkeypatch):
    files = [tmp_path / str(i) for i in range(max(len(texts), 1))]
    for file, text in zip(files, texts, strict=False):
        file.write_text(text)
    monkeypatch.setattr(processors, "_QUOTAS", (("/nonexistent",), files))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(8)}, raising=False)
    assert processors.usable_processors() == expected


def test_systems_without_affinity(monkeypatch):
    monkeypatch.setattr(processors, "_QUOTAS", ())
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processors.usable_processors() == 1
