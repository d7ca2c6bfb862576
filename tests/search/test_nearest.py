import numpy as np
import pytest
import torch
from oracles import slow_nearest
from torch.utils._python_dispatch import TorchDispatchMode

from anomalib_lite.search import NearestRows, PrincipalCodes, cheapest_codes, squared_distance
from anomalib_lite.search import codes as codes_module
from anomalib_lite.search import nearest as nearest_module
from anomalib_lite.search.nearest import plain_query
from anomalib_lite.search.queries import Queries
from anomalib_lite.workers import Team, team


def gaussian_rows(n, d, seed=0, spread=3.0, shift=0.0):
    """Rows whose variance falls off along the coordinates, as features do."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * np.exp(-spread * np.arange(d) / d) + shift
    return torch.from_numpy(rows.astype(np.float32))


def lattice_rows(n, d, seed=0):
    """Rows with many exact ties."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (n, d)).astype(np.float32))


def assert_plain(found, rows, stored, exclude=None):
    """``found`` is what the plain search finds."""
    distance, index = plain_query(rows, stored, exclude=exclude)
    np.testing.assert_allclose(found[0], distance, rtol=1e-12)
    np.testing.assert_array_equal(found[1], index)


# -- the definition -------------------------------------------------------------------------------


@pytest.mark.parametrize("make_rows", [gaussian_rows, lattice_rows])
def test_plain_search_equals_sorting_all_distances(make_rows):
    stored, rows, exclude = make_rows(300, 7), make_rows(40, 7, seed=1), torch.arange(0, 300, 3)
    distance, index = slow_nearest(rows, stored, exclude=exclude.numpy())
    found = plain_query(rows, stored, exclude=exclude)
    np.testing.assert_allclose(found[0], distance[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(found[1], index[:, 0])


# -- query ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_stored", [1, 63, 64, 65, 3000])
@pytest.mark.parametrize("d", [1, 40, 200])
def test_query_equals_the_plain_search(n_stored, d):
    stored, rows = gaussian_rows(n_stored, d), gaussian_rows(90, d, seed=1)
    assert_plain(NearestRows.from_rows(stored).query(rows), rows, stored)


def test_query_survives_cancellation():
    # far from the origin a float32 matrix product cannot see these differences
    stored, rows = gaussian_rows(500, 30, shift=300.0), gaussian_rows(50, 30, seed=1, shift=300.0)
    assert_plain(NearestRows.from_rows(stored).query(rows), rows, stored)
    products = stored.square().sum(1) - 2 * rows @ stored.T
    assert (products.argmin(1) != plain_query(rows, stored)[1]).any(), "the trap is no trap"


def test_ties_go_to_the_lowest_index():
    stored = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]).repeat(100, 1)
    rows = torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    assert NearestRows.from_rows(stored).query(rows)[1].tolist() == [0, 0, 3]
    late = [(300, 310), (50, 60)]  # ranges count, not their order
    assert NearestRows.from_rows(stored).query(rows, ranges=late)[1].tolist() == [50, 50, 51]


def test_a_difference_in_the_last_digit_is_no_tie():
    stored = torch.tensor([[1.0000001], [1.0], [1.0000001]])
    distance, index = NearestRows.from_rows(stored).query(torch.tensor([[0.0]]))
    assert (distance.item(), index.item()) == (1.0, 1)


def test_excluded_rows_do_not_count():
    stored, rows = gaussian_rows(2500, 20), gaussian_rows(30, 20, seed=1)
    exclude = torch.arange(0, 2500, 3)
    nearest = NearestRows.from_rows(stored)
    assert_plain(nearest.query(rows, exclude=exclude), rows, stored, exclude)
    distance, index = nearest.query(rows, exclude=torch.arange(2500))
    assert distance.isinf().all()
    assert (index == -1).all()


@pytest.mark.parametrize(
    "ranges",
    [[(0, 1)], [(63, 64)], [(1, 63)], [(64, 128)], [(5, 5)], [(70, 70)], [(4000, 9999)], [],
     [(4090, 4100), (700, 705), (3, 66)]],
    ids=str,
)  # fmt: skip
def test_only_rows_in_range_are_searched(ranges):
    stored, rows = gaussian_rows(5000, 20), gaussian_rows(30, 20, seed=1)
    inside = torch.zeros(5000, dtype=torch.bool)
    for first, end in ranges:
        inside[first:end] = True
    found = NearestRows.from_rows(stored).query(rows, ranges=ranges)
    assert_plain(found, rows, stored, exclude=(~inside).nonzero()[:, 0])


def test_ranges_and_excluded_rows_combine():
    stored, rows = gaussian_rows(300, 20), gaussian_rows(30, 20, seed=1)
    outside = torch.cat([torch.arange(70), torch.arange(80, 90), torch.arange(200, 300)])
    found = NearestRows.from_rows(stored).query(
        rows, ranges=[(70, 200)], exclude=torch.arange(80, 90)
    )
    assert_plain(found, rows, stored, exclude=outside)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 100, 299])
def test_tightening_in_steps_is_one_query(first):
    stored, rows = gaussian_rows(300, 12), gaussian_rows(40, 12, seed=1)
    nearest = NearestRows.from_rows(stored)
    squares = torch.full((40,), torch.inf, dtype=torch.float64)
    for part in ([(0, first)], [(first, 300)]):
        nearest.tighten(Queries(nearest.codes, rows), squares, ranges=part)
    assert torch.equal(squares.sqrt(), nearest.query(rows)[0])
    early = torch.zeros(40, dtype=torch.float64)  # nothing is nearer than 0
    nearest.tighten(Queries(nearest.codes, rows), early)
    assert (early == 0).all()


def test_result_does_not_depend_on_the_rows_asked_for_together():
    stored, rows = gaussian_rows(2000, 60), gaussian_rows(900, 60, seed=1)
    nearest = NearestRows.from_rows(stored)
    together, _ = nearest.query(rows)
    for size in (1, 31):
        apart = torch.cat([nearest.query(part)[0] for part in rows.split(size)])
        assert torch.equal(together, apart)


@pytest.mark.parametrize("n_workers", [1, 2, 4])
@pytest.mark.parametrize("make_rows", [gaussian_rows, lattice_rows])
def test_results_do_not_depend_on_workers(monkeypatch, n_workers, make_rows):
    stored, rows = make_rows(2500, 40), make_rows(301, 40, seed=1)
    monkeypatch.setattr(codes_module, "_BLOCK", 500)  # of all teams: last bits depend on it
    nearest = NearestRows.from_rows(stored, rows)
    expected = [*nearest.query(rows), *nearest.farthest(rows, 9)]
    tasks, hand_out = [], Team._hand_out
    monkeypatch.setattr(Team, "_hand_out", lambda *a: (tasks.append(a), hand_out(*a))[1])
    monkeypatch.setattr(nearest_module, "_SHARED", 1)
    monkeypatch.setattr(nearest_module, "_SHARE", 20)
    with team(n_workers):
        again = NearestRows.from_rows(stored, rows)
        assert torch.equal(nearest.codes.components_, again.codes.components_)
        assert torch.equal(nearest.codes.encode(rows), again.codes.encode(rows))
        n_before = len(tasks)
        found = [*again.query(rows), *again.farthest(rows, 9)]
    assert all(map(torch.equal, found, expected))
    assert (n_before > 0) == (len(tasks) > n_before + n_workers) == (n_workers > 1)


def test_large_steps_find_the_same(monkeypatch):
    stored, rows = lattice_rows(3000, 7), lattice_rows(900, 7, seed=1)
    exclude = torch.arange(0, 3000, 2)
    nearest = NearestRows.from_rows(stored)
    expected = [nearest.query(rows), nearest.farthest(rows, 5, exclude=exclude)]
    monkeypatch.setattr(nearest_module, "in_large_steps", lambda device: True)
    monkeypatch.setattr(NearestRows, "_probe", None)
    found = [nearest.query(rows), nearest.farthest(rows, 5, exclude=exclude)]
    for ours, theirs in zip(found, expected, strict=True):
        assert all(map(torch.equal, ours, theirs))


def test_memory_that_a_thread_keeps_can_be_used_again():
    stored, rows = gaussian_rows(300, 12), gaussian_rows(40, 12, seed=1)
    nearest = NearestRows.from_rows(stored)
    vars(nearest_module._SCRATCH).clear()
    with torch.inference_mode():
        squares = torch.full((40,), torch.inf, dtype=torch.float64)
        nearest.tighten(Queries(nearest.codes, rows), squares)
    assert torch.equal(nearest.query(rows)[0], squares.sqrt())
    assert_plain(nearest.query(rows), rows, stored)


def test_rows_can_be_stored_in_pieces():
    stored, rows = gaussian_rows(300, 12), gaussian_rows(20, 12, seed=1)
    for capacity in (1, 100, 300):
        pieces = NearestRows(PrincipalCodes(stored), capacity)
        for piece in stored.split(77):
            pieces.append(piece)
        assert torch.equal(pieces.rows, stored)
        assert_plain(pieces.query(rows), rows, stored)


def test_rows_are_searched_as_they_are_stored():
    stored, rows = gaussian_rows(300, 12), gaussian_rows(20, 12, seed=1)
    half = NearestRows(PrincipalCodes(stored), 300, torch.float16)
    half.append(stored)
    assert half.rows.dtype == torch.float16
    assert_plain(half.query(rows), rows, stored.half().float())


def test_a_stored_index_comes_back():
    stored, rows = gaussian_rows(300, 12), gaussian_rows(20, 12, seed=1)
    nearest = NearestRows.from_rows(stored)
    state = nearest.to_state() | {"codes": PrincipalCodes.from_state(nearest.codes.to_state())}
    assert_plain(NearestRows.from_state(state).query(rows), rows, stored)


@pytest.mark.parametrize(
    ("n_components", "n_pairs"), [(1, 2**18), (8, 64), (8, 2**18), (40, 64), (40, 2**18)]
)
def test_results_do_not_depend_on_code_length_or_memory(monkeypatch, n_components, n_pairs):
    monkeypatch.setattr(nearest_module, "_PAIRS", n_pairs)
    monkeypatch.setattr(nearest_module, "_PAIR_VALUES", 40 * n_pairs // 2)
    stored, rows = gaussian_rows(5000, 40), gaussian_rows(50, 40, seed=1)
    nearest = NearestRows(PrincipalCodes(stored, n_components), len(stored))
    nearest.append(stored)
    assert_plain(nearest.query(rows), rows, stored)


@pytest.mark.parametrize("few_chunks", [0, 10**9])
@pytest.mark.parametrize("few_values", [0, 10**9])
@pytest.mark.parametrize("make_rows", [gaussian_rows, lattice_rows])
def test_results_do_not_depend_on_what_is_looked_at_first(
    monkeypatch, few_chunks, few_values, make_rows
):
    monkeypatch.setattr(nearest_module, "_FEW_CHUNKS", few_chunks)
    monkeypatch.setattr(nearest_module, "_FEW_VALUES", few_values)
    monkeypatch.setattr(nearest_module, "_PRODUCTS", 50 * 256)
    stored, rows = make_rows(900, 10), make_rows(50, 10, seed=1)
    exclude = torch.arange(300, 700)  # more than one whole block
    found = NearestRows.from_rows(stored).query(rows, exclude=exclude)
    assert_plain(found, rows, stored, exclude)


@pytest.mark.parametrize("n_stored", [300, 6000])
def test_rows_that_are_not_finite_find_nothing_and_disturb_nobody(n_stored):
    stored, rows = gaussian_rows(n_stored, 12), gaussian_rows(90, 12, seed=1)
    nearest, odd = NearestRows.from_rows(stored), [3, 40]
    expected = nearest.query(rows)
    rows[3], rows[40, 5] = torch.nan, torch.inf
    distance, index = nearest.query(rows)
    assert distance[odd].isinf().all()
    assert (index[odd] == -1).all()
    sound = torch.ones(90, dtype=torch.bool).index_fill_(0, torch.tensor(odd), False)
    assert torch.equal(distance[sound], expected[0][sound])
    assert torch.equal(index[sound], expected[1][sound])
    position, _, _ = nearest.farthest(rows, 2)
    assert position.tolist() == odd


class _Operations(TorchDispatchMode):
    """Counts what is asked of PyTorch."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("n_stored", "most_of_query", "most_of_farthest"), [(1500, 110, 150), (12000, 200, 300)]
)
def test_searches_take_few_operations(n_stored, most_of_query, most_of_farthest):
    # each takes Python's lock, for which the other workers wait
    stored, rows = gaussian_rows(n_stored, 40), gaussian_rows(700, 40, seed=1)
    nearest = NearestRows.of(PrincipalCodes(stored, 20), stored)
    with team(1):
        with _Operations() as of_query:
            nearest.query(rows)
        with _Operations() as of_farthest:
            nearest.farthest(rows, 1)
    assert 50 < of_query.n <= most_of_query
    assert 50 < of_farthest.n <= most_of_farthest


@pytest.fixture
def measured(monkeypatch):
    """The pairs (row, stored row) that searches measure, as they go on."""
    pairs = []
    measure = NearestRows._measure

    def recorded(self, rows, nearest, index, row, stored):
        pairs.extend(zip(row.tolist(), stored.tolist(), strict=True))
        measure(self, rows, nearest, index, row, stored)

    monkeypatch.setattr(NearestRows, "_measure", recorded)
    return pairs


def test_one_long_row_does_not_make_the_others_expensive(measured):
    stored, rows = gaussian_rows(3000, 40), gaussian_rows(60, 40, seed=1)
    stored[7] *= 300
    assert_plain(NearestRows.from_rows(stored).query(rows), rows, stored)
    assert 0 < len(measured) < 0.1 * len(rows) * len(stored)


def test_no_pair_is_measured_twice(monkeypatch, measured):
    monkeypatch.setattr(nearest_module, "_PAIRS", 64)
    stored, rows = lattice_rows(9000, 4), lattice_rows(20, 4, seed=1)
    assert_plain(NearestRows.from_rows(stored).query(rows), rows, stored)
    assert len(measured) == len(set(measured)) > 64


# -- the farthest, and the k nearest --------------------------------------------------------------


@pytest.mark.parametrize("make_rows", [gaussian_rows, lattice_rows])
@pytest.mark.parametrize("n", [1, 4, 30, 200])
@pytest.mark.parametrize("exclude", [None, torch.arange(0, 6000, 2), torch.arange(6000)])
def test_farthest_rows_are_those_at_the_end_of_a_query(make_rows, n, exclude):
    stored, rows = make_rows(6000, 5), make_rows(150, 5, seed=1)
    nearest = NearestRows.from_rows(stored)
    position, distance, index = nearest.farthest(rows, n, exclude=exclude)
    all_distances, all_indices = nearest.query(rows, exclude=exclude)
    slow = np.argsort(-all_distances.numpy(), kind="stable")[:n]
    np.testing.assert_array_equal(position, slow)
    assert torch.equal(distance, all_distances[slow])
    assert torch.equal(index, all_indices[slow])


def test_search_for_the_farthest_measures_few_rows_to_the_end(monkeypatch):
    stored, rows = gaussian_rows(6000, 40), gaussian_rows(700, 40, seed=1)
    rows[3] += 5
    measured = []
    tighten = NearestRows.tighten
    monkeypatch.setattr(
        NearestRows,
        "tighten",
        lambda self, rows, *a, **k: (measured.append(len(rows)), tighten(self, rows, *a, **k)),
    )
    position, _, _ = NearestRows.from_rows(stored).farthest(rows, 1)
    assert position == 3
    assert 0 < sum(measured) < 50


@pytest.mark.parametrize("make_rows", [gaussian_rows, lattice_rows])
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("exclude", [None, torch.arange(0, 500)])
def test_farthest_rows_in_many_steps(monkeypatch, make_rows, n, exclude):
    for name, value in {"_SHORT": 0, "_COVER": 64, "_LIKELY": 5}.items():
        monkeypatch.setattr(nearest_module, name, value)
    stored, rows = make_rows(3000, 5), make_rows(150, 5, seed=1)
    nearest, steps, probe = NearestRows.from_rows(stored), [], NearestRows._probe
    monkeypatch.setattr(
        NearestRows, "_probe", lambda *a, **which: (steps.append(which), probe(*a, **which))[1]
    )
    found = nearest.farthest(rows, n, exclude=exclude)
    assert len(steps) > 3
    distance, index = plain_query(rows, stored, exclude=exclude)
    order = distance.argsort(descending=True, stable=True)[:n]
    np.testing.assert_array_equal(found[0], order)
    np.testing.assert_allclose(found[1], distance[order], rtol=1e-12)
    np.testing.assert_array_equal(found[2], index[order])


def test_farthest_rows_are_found_after_a_wrong_guess(monkeypatch):
    stored, rows = gaussian_rows(6000, 5), gaussian_rows(150, 5, seed=1)
    nearest = NearestRows.from_rows(stored)
    expected, guess = nearest.farthest(rows, 3), NearestRows._likely_farthest
    guesses = []

    def wrong(*args):
        guesses.append(guess(*args))
        return torch.tensor([i for i in range(150) if i not in expected[0]][:3])

    monkeypatch.setattr(NearestRows, "_likely_farthest", wrong)
    assert all(map(torch.equal, nearest.farthest(rows, 3), expected))
    assert guesses


@pytest.mark.parametrize("n_stored", [1, 70, 400])
def test_farthest_from_few_stored_rows(n_stored):
    stored, rows = gaussian_rows(n_stored, 30), gaussian_rows(90, 30, seed=1)
    nearest = NearestRows.from_rows(stored)
    distance, index = plain_query(rows, stored)
    order = distance.argsort(descending=True, stable=True)[:3]
    position, found, where = nearest.farthest(rows, 3)
    np.testing.assert_array_equal(position, order)
    np.testing.assert_allclose(found, distance[order], rtol=1e-12)
    np.testing.assert_array_equal(where, index[order])
    assert [len(part) for part in nearest.farthest(rows[:0], 3)] == [0, 0, 0]


@pytest.mark.parametrize("rough", [1, 5, 100])
def test_rough_products_of_any_length_find_the_farthest(monkeypatch, rough):
    monkeypatch.setattr(nearest_module, "_ROUGH", rough)
    stored, rows = gaussian_rows(700, 30), gaussian_rows(200, 30, seed=1)
    nearest = NearestRows.from_rows(stored)
    position, _, _ = nearest.farthest(rows, 6)
    distance, _ = nearest.query(rows)
    np.testing.assert_array_equal(position, distance.argsort(descending=True, stable=True)[:6])


@pytest.mark.parametrize("exclude", [None, torch.arange(0, 400, 2)])
def test_k_nearest_equals_sorting_all_distances(exclude):
    stored, rows = gaussian_rows(400, 50), gaussian_rows(5, 50, seed=1)
    distance, index = NearestRows.from_rows(stored).k_nearest(rows, 9, exclude=exclude)
    slow_distance, slow_index = slow_nearest(
        rows, stored, k=9, exclude=() if exclude is None else exclude.numpy()
    )
    np.testing.assert_allclose(torch.stack(distance), slow_distance, rtol=1e-12)
    np.testing.assert_array_equal(torch.stack(index), slow_index)


def test_k_nearest_of_nothing_is_empty():
    nearest = NearestRows.from_rows(gaussian_rows(4, 3))
    distance, index = nearest.k_nearest(gaussian_rows(1, 3), 2, exclude=torch.arange(4))
    assert len(distance[0]) == len(index[0]) == 0


def test_k_nearest_of_too_few_gives_what_there_is():
    stored = gaussian_rows(4, 3)
    distance, index = NearestRows.from_rows(stored).k_nearest(stored[:2], 9)
    assert [len(part) for part in distance] == [4, 4]
    assert [part[0].item() for part in index] == [0, 1]
    assert distance[0][0] == 0


# -- codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_components", [4, 12, 30])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_code_distances_never_exceed_row_distances(n_components, shift):
    rows = gaussian_rows(300, 30, shift=shift)
    codes = PrincipalCodes(rows, n_components)
    code = codes.encode(rows).double()
    below = squared_distance(code[:, None], code[None])
    true = squared_distance(rows[:, None], rows[None])
    lengths = code.square().sum(1)
    np.testing.assert_allclose(lengths, squared_distance(rows, rows.mean(0)), rtol=1e-4)
    slack = codes.slack * (lengths[:, None] + lengths[None])
    assert (below <= true + slack).all()
    assert (below > 0.2 * true).float().mean() > 0.5, "a bound this loose would be of no use"


def test_codes_can_be_shortened():
    rows = gaussian_rows(300, 30)
    short, direct = PrincipalCodes(rows, 30).shortened(7), PrincipalCodes(rows, 7)
    assert short.n_codes == 8
    assert torch.equal(short.encode(rows), direct.encode(rows))


def test_code_length_is_what_pays():
    structured, noise = gaussian_rows(2000, 200, spread=9), gaussian_rows(2000, 200, spread=0)
    held_out = gaussian_rows(300, 200, seed=1, spread=9)
    cheapest = cheapest_codes(structured, held_out)
    assert cheapest.n_codes < 70
    assert cheapest_codes(noise, gaussian_rows(300, 200, 1, 0)).n_codes == 201
    again = cheapest_codes(structured, held_out)
    assert torch.equal(cheapest.components_, again.components_)
    chosen = NearestRows.from_rows(structured, held_out)
    assert chosen.codes.n_codes == cheapest.n_codes
    assert_plain(chosen.query(held_out[:50]), held_out[:50], structured)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_allowance_grows_where_matrix_products_are_less_precise(monkeypatch, precision):
    codes = PrincipalCodes(gaussian_rows(50, 8))
    before = codes.slack
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    assert codes.slack > 1000 * before
