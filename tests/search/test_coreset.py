import numpy as np
import pytest
import torch
from oracles import slow_greedy_coreset, slow_nearest
from sklearn.base import clone

from anomalib_lite.runtime import make_generator
from anomalib_lite.search import (
    GreedyCoreset,
    NearestRows,
    coreset_size,
    greedy_coreset,
    merge_coresets,
    select_coreset,
)
from anomalib_lite.search import codes as codes_module
from anomalib_lite.search import coreset as coreset_module
from anomalib_lite.search import nearest as nearest_module
from anomalib_lite.workers import Team, team


def rows_of(kind, n=3000):
    """Rows that are easy, degenerate or full of exact ties."""
    rng = np.random.default_rng(0)
    rows = {
        "gaussian": lambda: rng.normal(size=(n, 24)) * np.exp(-3 * np.arange(24) / 24),
        "clusters": lambda: rng.normal(size=(n, 6)) + 20 * rng.integers(0, 5, (n, 1)),
        "off-center": lambda: rng.normal(size=(n, 12)) + 300,
        "lattice": lambda: rng.integers(0, 40, (n, 2)),
        "lattice of tenths": lambda: rng.integers(0, 4, (n, 60)) * 0.1,
        "few distinct": lambda: rng.integers(0, 3, (n, 3)),
        "all equal": lambda: np.full((n, 4), 7.0),
        "one column": lambda: rng.normal(size=(n, 1)),
    }[kind]()
    return torch.from_numpy(rows.astype(np.float32))


KINDS = [
    "gaussian",
    "clusters",
    "off-center",
    "lattice",
    "lattice of tenths",
    "few distinct",
    "all equal",
    "one column",
]


@pytest.mark.parametrize("kind", KINDS)
def test_picks_are_those_of_the_plain_loop(kind):
    rows = rows_of(kind, 9000 if kind == "gaussian" else 3000)  # one phase takes 8000 candidates
    indices, radius = greedy_coreset(rows, 300, start=17)
    slow_indices, slow_radius = slow_greedy_coreset(rows, 300, start=17)
    np.testing.assert_array_equal(indices, slow_indices)
    assert radius == pytest.approx(slow_radius, rel=1e-12)


@pytest.mark.slow
def test_picks_are_those_of_the_plain_loop_at_20_000_rows():
    rows = rows_of("gaussian", 20_000)
    indices, _ = greedy_coreset(rows, 600)
    np.testing.assert_array_equal(indices, slow_greedy_coreset(rows, 600)[0])


@pytest.mark.parametrize(("candidates", "block"), [(1, 1), (7, 3), (64, 512), (10**6, 512)])
@pytest.mark.parametrize(
    ("kind", "n_keep"), [("gaussian", 80), ("lattice of tenths", 80), ("one column", 250)]
)
def test_phases_of_any_size_pick_the_same(monkeypatch, candidates, block, kind, n_keep):
    rows = rows_of(kind, 500)
    expected, expected_radius = slow_greedy_coreset(rows, n_keep)
    monkeypatch.setattr(coreset_module, "_CANDIDATES", (candidates, candidates))
    monkeypatch.setattr(coreset_module, "_BLOCK", block)
    indices, radius = greedy_coreset(rows, n_keep)
    np.testing.assert_array_equal(indices, expected)
    assert radius == pytest.approx(expected_radius, rel=1e-12)


def test_no_row_is_compared_with_a_pick_twice(monkeypatch):
    compared = {}  # by row, the picks it has met
    tighten = NearestRows.tighten

    def recorded(self, queries, nearest, *, ranges):
        ((first, end),) = ranges
        for row in queries.rows(torch.arange(len(queries))).tolist():
            assert first >= compared.get(tuple(row), 0)
            compared[tuple(row)] = end
        tighten(self, queries, nearest, ranges=ranges)

    monkeypatch.setattr(coreset_module, "_CANDIDATES", (64, 64))
    monkeypatch.setattr(coreset_module, "_BLOCK", 1)  # rows of a block share the oldest state
    monkeypatch.setattr(NearestRows, "tighten", recorded)
    greedy_coreset(rows_of("gaussian", 500), 80)
    assert len(compared) > 250


@pytest.mark.parametrize("n_workers", [1, 2, 4])
@pytest.mark.parametrize("kind", ["off-center", "lattice of tenths"])
def test_picks_do_not_depend_on_workers(monkeypatch, n_workers, kind):
    tasks, hand_out = [], Team._hand_out
    monkeypatch.setattr(Team, "_hand_out", lambda *a: (tasks.append(a), hand_out(*a))[1])
    monkeypatch.setattr(coreset_module, "_BLOCK", 50)
    monkeypatch.setattr(coreset_module, "_CANDIDATES", (200, 200))
    monkeypatch.setattr(codes_module, "_BLOCK", 100)
    rows = rows_of(kind, 1000)
    with team(n_workers):
        indices, radius = greedy_coreset(rows, 200, start=3)
    expected, expected_radius = slow_greedy_coreset(rows, 200, start=3)
    np.testing.assert_array_equal(indices, expected)
    assert radius == pytest.approx(expected_radius, rel=1e-12)
    assert (len(tasks) > 50) == (n_workers > 1)


@pytest.mark.parametrize("kind", ["gaussian", "lattice of tenths", "few distinct"])
def test_large_steps_pick_the_same(monkeypatch, kind):
    rows, steps = rows_of(kind, 1500), []
    tighten = NearestRows.tighten

    def recorded(self, queries, *args, **options):
        steps.append(len(queries))
        tighten(self, queries, *args, **options)

    monkeypatch.setattr(coreset_module, "_BLOCK", 100)
    monkeypatch.setattr(NearestRows, "tighten", recorded)
    for module in (coreset_module, nearest_module):
        monkeypatch.setattr(module, "in_large_steps", lambda device: True)
    np.testing.assert_array_equal(greedy_coreset(rows, 150)[0], slow_greedy_coreset(rows, 150)[0])
    assert max(steps) > 100


@pytest.mark.parametrize("round_", [1, 7, 10**6])
def test_rounds_of_any_length_pick_the_same(monkeypatch, round_):
    rows = rows_of("lattice of tenths", 800)
    monkeypatch.setattr(coreset_module, "_ROUND", round_)
    np.testing.assert_array_equal(greedy_coreset(rows, 150)[0], slow_greedy_coreset(rows, 150)[0])


# Seconds after which there were so many picks, of three runs on 152 numbers a row.
RECORDED = {
    "10 % of 156,800": {
        30: 0.43, 100: 0.7, 300: 1.07, 1000: 1.57, 4000: 2.73, 15680: 6.75,
    },
    "1 % of 156,800": {30: 0.43, 100: 0.7, 300: 1.07, 1000: 1.57, 1568: 1.95},
    "10 % of 4,900": {10: 0.01, 30: 0.02, 51: 0.03, 150: 0.05, 506: 0.08},
}  # fmt: skip


@pytest.mark.parametrize("run", RECORDED)
def test_the_bar_follows_the_work(run):
    *points, (n_keep, total) = RECORDED[run].items()
    for n_picks, seconds in points:
        expected = seconds / coreset_module._share_done(n_picks, n_keep)
        if seconds > 0.1 * total:
            assert 0.7 * total < expected < 1.5 * total
        assert 0.5 * total < expected < 2 * total
    assert coreset_module._share_done(n_keep, n_keep) == 1


def test_the_bar_ends_when_all_is_picked(capsys):
    greedy_coreset(rows_of("gaussian", 500), 100, verbose=True)
    assert "coreset, %: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["gaussian", "few distinct"])
def test_all_rows_can_be_kept(kind):
    rows = rows_of(kind, 400)
    indices, radius = greedy_coreset(rows, 400)
    assert sorted(indices.tolist()) == list(range(400))
    assert radius == 0


def test_radius_is_the_distance_of_the_worst_covered_row():
    rows = rows_of("clusters", 2000)
    indices, radius = greedy_coreset(rows, 50)
    assert radius == pytest.approx(slow_nearest(rows, rows[indices])[0].max(), rel=1e-12)


@pytest.mark.parametrize("n_keep", [0, 11])
def test_impossible_counts_are_refused(n_keep):
    with pytest.raises(ValueError, match="expected 1 to 10"):
        greedy_coreset(torch.zeros(10, 2), n_keep)


@pytest.mark.parametrize("start", [-1, 10])
def test_a_start_that_is_no_row_is_refused(start):
    with pytest.raises(ValueError, match="start: expected a row, 0 to 9"):
        greedy_coreset(torch.zeros(10, 2), 2, start=start)


def test_devices_without_float64_pick_in_float32(monkeypatch):
    for module in (coreset_module, nearest_module):
        monkeypatch.setattr(module, "exact_dtype", lambda device: torch.float32)
    indices, radius = greedy_coreset(rows_of("gaussian", 900), 90)
    assert len(set(indices.tolist())) == 90
    _, slow_radius = slow_greedy_coreset(rows_of("gaussian", 900), 90)
    assert radius == pytest.approx(slow_radius, rel=1e-3)


def test_oracle_has_teeth():
    rows = rows_of("gaussian", 800)
    picks, _ = slow_greedy_coreset(rows, 60, start=0)
    others, _ = slow_greedy_coreset(rows, 60, start=1)
    assert set(picks) != set(others)


# -- size, projection, sampler --------------------------------------------------------------------


@pytest.mark.parametrize(("coreset", "n"), [(0.1, 50), (1.0, 500), (0.0001, 1), (7, 7), (900, 500)])
def test_coreset_size_is_a_share_or_a_count(coreset, n):
    assert coreset_size(coreset, 500) == n


@pytest.mark.parametrize("coreset", [0, 0.0, -0.1, 1.5, -3, True, "0.1", None, float("nan")])
def test_other_coreset_sizes_are_refused(coreset):
    with pytest.raises(ValueError, match="coreset: expected a share in"):
        coreset_size(coreset, 500)


def test_projection_is_for_wide_rows_only():
    narrow, wide = rows_of("gaussian", 200), torch.randn(200, 300, generator=make_generator(3))

    def picks(rows, projection):
        indices, _ = select_coreset(rows, 40, generator=make_generator(0), projection=projection)
        return indices.tolist()

    assert picks(narrow, "auto") == picks(narrow, None)
    assert picks(wide, "auto") != picks(wide, None)
    assert picks(wide, "auto") == picks(wide, "auto")
    start = int(torch.randint(200, (1,), generator=make_generator(0)))
    _, radius = select_coreset(wide, 40, generator=make_generator(0))
    reached, _ = slow_nearest(wide, wide[picks(wide, "auto")])
    assert radius == pytest.approx(reached.max(), rel=1e-9), "of the rows, not their projections"
    assert picks(wide, None) == slow_greedy_coreset(wide, 40, start=start)[0].tolist()


@pytest.mark.parametrize("projection", [0, -1, 2.5, True, "pca"])
def test_other_projections_are_refused(projection):
    with pytest.raises(ValueError, match="projection"):
        select_coreset(torch.zeros(9, 3), 2, generator=make_generator(0), projection=projection)


def test_merged_coreset_covers_all_parts_within_the_sum_of_radii():
    parts = [rows_of("clusters", 1500), rows_of("gaussian", 1500)[:, :6]]
    kept, radii = [], []
    for part in parts:
        indices, radius = greedy_coreset(part, 150)
        kept.append(part[indices])
        radii.append(radius)
    indices, radius = merge_coresets(kept, 100, generator=make_generator(0))
    merged = torch.cat(kept)[indices]
    reached = slow_nearest(torch.cat(parts), merged)[0].max()
    assert reached <= max(radii) + radius + 1e-9


def test_estimator_selects_rows_of_any_table():
    table = rows_of("gaussian", 300).numpy()
    sampler = GreedyCoreset(0.1, random_state=5)
    kept = sampler.fit_transform(table)
    np.testing.assert_array_equal(kept, table[sampler.indices_])
    assert kept.shape == (30, 24)
    again = clone(sampler).fit(torch.from_numpy(table))
    np.testing.assert_array_equal(sampler.indices_, again.indices_)
    assert sampler.radius_ == again.radius_
    np.testing.assert_array_equal(sampler.fit_transform(table.tolist()), kept)


@pytest.mark.parametrize("n_jobs", [2, -1])
def test_estimator_does_not_depend_on_workers(monkeypatch, n_jobs):
    monkeypatch.setattr(coreset_module, "_BLOCK", 100)
    table = rows_of("gaussian", 500)
    alone = GreedyCoreset(0.1, random_state=5, n_jobs=1).fit(table)
    many = GreedyCoreset(0.1, random_state=5, n_jobs=n_jobs).fit(table)
    np.testing.assert_array_equal(alone.indices_, many.indices_)
    assert alone.radius_ == many.radius_


@pytest.mark.parametrize("n_jobs", [0, 1.5, "2"])
def test_estimator_refuses_numbers_of_workers(n_jobs):
    with pytest.raises(ValueError, match="n_jobs"):
        GreedyCoreset(2, n_jobs=n_jobs).fit(np.eye(5))


def test_estimator_checks_its_parameter():
    with pytest.raises(ValueError, match="coreset: expected a share"):
        GreedyCoreset(2.5).fit(np.zeros((5, 2)))


@pytest.mark.parametrize("table", [np.zeros((0, 3)), np.zeros(5), np.full((4, 2), np.nan)])
def test_bad_tables_are_refused(table):
    with pytest.raises(ValueError, match="X: "):
        GreedyCoreset(2).fit(table)
