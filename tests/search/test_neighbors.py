import numpy as np
import pytest
import torch
from oracles import slow_nearest

from anomalib_lite.search import NearestRows, PrincipalCodes, squared_distance
from anomalib_lite.search import nearest as neighbors_module


def gaussian_rows(n, d, seed=0, spread=3.0, shift=0.0):
    """Rows whose variance falls off along the coordinates, as features do."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * np.exp(-spread * np.arange(d) / d) + shift
    return torch.from_numpy(rows.astype(np.float32))


@pytest.mark.parametrize("n_stored", [1, 63, 64, 65, 3000])
@pytest.mark.parametrize("d", [1, 40, 200])
def test_query_equals_sorting_all_distances(n_stored, d):
    stored, rows = gaussian_rows(n_stored, d), gaussian_rows(90, d, seed=1)
    distance, index = NearestRows.from_rows(stored).query(rows)
    slow_distance, slow_index = slow_nearest(rows, stored)
    np.testing.assert_allclose(distance, slow_distance[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(index, slow_index[:, 0])


def test_query_survives_cancellation():
    # far from the origin a float32 matrix product cannot see these differences
    stored, rows = gaussian_rows(500, 30, shift=300.0), gaussian_rows(50, 30, seed=1, shift=300.0)
    distance, index = NearestRows.from_rows(stored).query(rows)
    slow_distance, slow_index = slow_nearest(rows, stored)
    np.testing.assert_allclose(distance, slow_distance[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(index, slow_index[:, 0])
    products = stored.square().sum(1) - 2 * rows @ stored.T
    assert (products.argmin(1).numpy() != slow_index[:, 0]).any(), "the trap is no trap"


def test_ties_go_to_the_lowest_index():
    stored = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]).repeat(100, 1)
    _, index = NearestRows.from_rows(stored).query(
        torch.tensor([[0.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    )
    assert index.tolist() == [0, 0, 3]


def test_excluded_rows_do_not_count():
    stored, rows = gaussian_rows(2500, 20), gaussian_rows(30, 20, seed=1)
    exclude = torch.arange(0, 2500, 3)
    nearest = NearestRows.from_rows(stored)
    distance, index = nearest.query(rows, exclude=exclude)
    slow_distance, slow_index = slow_nearest(rows, stored, exclude=exclude.numpy())
    np.testing.assert_allclose(distance, slow_distance[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(index, slow_index[:, 0])
    distance, index = nearest.query(rows, exclude=torch.arange(2500))
    assert distance.isinf().all()
    assert (index == -1).all()


def test_result_does_not_depend_on_the_rows_asked_for_together():
    stored, rows = gaussian_rows(3000, 60), gaussian_rows(1700, 60, seed=1)
    nearest = NearestRows.from_rows(stored)
    together, _ = nearest.query(rows)
    apart = torch.cat([nearest.query(part)[0] for part in rows.split(7)])
    assert torch.equal(together, apart)


def test_rows_can_be_stored_in_pieces():
    stored, rows = gaussian_rows(300, 12), gaussian_rows(20, 12, seed=1)
    whole = NearestRows.from_rows(stored)
    pieces = NearestRows(PrincipalCodes(stored), 300)
    for piece in stored.split(77):
        pieces.append(piece)
    assert torch.equal(pieces.rows, stored)
    assert torch.equal(whole.query(rows)[0], pieces.query(rows)[0])


def lattice_rows(n, d, seed=0):
    """Rows with many exact ties."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (n, d)).astype(np.float32))


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
    assert sum(measured) < 20


def test_code_length_is_what_pays():
    structured, noise = gaussian_rows(3000, 200, spread=9), gaussian_rows(3000, 200, spread=0)
    held_out = gaussian_rows(500, 200, seed=1, spread=9)
    assert PrincipalCodes.cheapest(structured, held_out).n_codes < 70
    assert PrincipalCodes.cheapest(noise, gaussian_rows(500, 200, 1, 0)).n_codes == 201
    again = PrincipalCodes.cheapest(structured, held_out)
    assert torch.equal(PrincipalCodes.cheapest(structured, held_out).components_, again.components_)


@pytest.mark.parametrize("n_components", [1, 8, 40])
@pytest.mark.parametrize("n_pairs", [64, 2**20])
def test_results_do_not_depend_on_code_length_or_memory(monkeypatch, n_components, n_pairs):
    monkeypatch.setattr(neighbors_module, "_PAIRS", n_pairs)
    stored, rows = gaussian_rows(5000, 40), gaussian_rows(100, 40, seed=1)
    nearest = NearestRows(PrincipalCodes(stored, n_components), len(stored))
    nearest.append(stored)
    distance, index = nearest.query(rows)
    slow_distance, slow_index = slow_nearest(rows, stored)
    np.testing.assert_allclose(distance, slow_distance[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(index, slow_index[:, 0])


@pytest.mark.parametrize("exclude", [None, torch.arange(0, 400, 2)])
def test_k_nearest_equals_sorting_all_distances(exclude):
    stored, rows = gaussian_rows(400, 50), gaussian_rows(5, 50, seed=1)
    distance, index = NearestRows.from_rows(stored).k_nearest(rows, 9, exclude=exclude)
    slow_distance, slow_index = slow_nearest(
        rows, stored, k=9, exclude=() if exclude is None else exclude.numpy()
    )
    np.testing.assert_allclose(torch.stack(distance), slow_distance, rtol=1e-12)
    np.testing.assert_array_equal(torch.stack(index), slow_index)


def test_one_long_row_does_not_make_the_others_expensive(monkeypatch):
    stored, rows = gaussian_rows(3000, 40), gaussian_rows(60, 40, seed=1)
    stored[7] *= 300
    measured = []
    measure = NearestRows._measure
    monkeypatch.setattr(
        NearestRows,
        "_measure",
        lambda self, *args: (measured.append(len(args[3])), measure(self, *args)),
    )
    distance, _ = NearestRows.from_rows(stored).query(rows)
    np.testing.assert_allclose(distance, slow_nearest(rows, stored)[0][:, 0], rtol=1e-12)
    assert sum(measured) < 0.1 * len(rows) * len(stored)


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_allowance_grows_where_matrix_products_are_less_precise(monkeypatch, precision):
    codes = PrincipalCodes(gaussian_rows(50, 8))
    before = codes.slack
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    assert codes.slack > 1000 * before


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


@pytest.mark.parametrize("n_components", [4, 12, 30])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_code_distances_never_exceed_row_distances(n_components, shift):
    rows = gaussian_rows(300, 30, shift=shift)
    codes = PrincipalCodes(rows, n_components)
    code = codes.encode(rows).double()
    below = squared_distance(code[:, None], code[None])
    true = squared_distance(rows[:, None], rows[None])
    lengths = code.square().sum(1)
    slack = codes.slack * (lengths[:, None] + lengths[None])
    assert (below <= true + slack).all()
    assert (below > 0.2 * true).float().mean() > 0.5, "a bound this loose would be of no use"
