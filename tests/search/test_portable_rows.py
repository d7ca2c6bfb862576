"""The nearest rows by plain operations: those of the exact search, but for rounding."""

import numpy as np
import pytest
import torch
from test_nearest import gaussian_rows, lattice_rows

from anomalib_lite.search import NearestRows
from anomalib_lite.search import portable as portable_module
from anomalib_lite.search.portable import PortableRows, nearest_portably


def check_nearest(found, rows, stored):
    """Distances are those of the exact search, and those of the rows that were found.

    Squares may differ by what products in float32 round: a millionth of the largest.
    """
    stored = stored.float()
    (distance, index), (expected, _) = found, NearestRows.from_rows(stored).query(rows)
    assert distance.dtype == torch.float64 and index.dtype == torch.int64
    largest = torch.cat([rows, stored]).sub(stored.mean(0)).square().sum(1).max()
    further = distance.square() - expected.square()
    assert -1e-12 * largest <= further.min() and further.max() <= 1e-6 * largest
    own = (rows.double() - stored[index].double()).square().sum(1).sqrt()
    np.testing.assert_allclose(distance, own, rtol=1e-12)


@pytest.mark.parametrize("n_stored", [1, 2, 63, 3000])
@pytest.mark.parametrize("d", [1, 40, 200])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_distances_are_those_of_the_exact_search(n_stored, d, shift):
    stored = gaussian_rows(n_stored, d, shift=shift)
    rows = gaussian_rows(50, d, seed=1, shift=shift)
    check_nearest(NearestRows.from_rows(stored).portable().query(rows), rows, stored)


@pytest.mark.parametrize("together", [1, 7, 99, 100])
def test_blocks_do_not_matter(together, monkeypatch):
    stored, rows = gaussian_rows(100, 12), gaussian_rows(30, 12, seed=1)
    whole = PortableRows(stored).query(rows)
    monkeypatch.setattr(portable_module, "_TOGETHER", together)
    for found, expected in zip(PortableRows(stored).query(rows), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("together", [10, 1000])
def test_of_ties_any_is_found(together, monkeypatch):
    monkeypatch.setattr(portable_module, "_TOGETHER", together)
    stored, rows = lattice_rows(300, 4), lattice_rows(60, 4, seed=1)
    check_nearest(PortableRows(stored).query(rows), rows, stored)


@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_copies_are_at_distance_0(shift):
    stored = gaussian_rows(500, 30, shift=shift)
    distance, index = PortableRows(stored).query(stored[::3])
    assert not distance.any()
    np.testing.assert_array_equal(index, torch.arange(0, 500, 3))


def test_rows_stored_as_float16():
    stored, rows = gaussian_rows(500, 30).half(), gaussian_rows(50, 30, seed=1)
    check_nearest(PortableRows(stored).query(rows), rows, stored)
    distance, _ = PortableRows(stored).query(stored[:9].float())
    assert not distance.any()


def test_blocks_of_different_lengths():
    stored, rows = gaussian_rows(90, 5), gaussian_rows(20, 5, seed=1)
    blocks = stored.split([1, 60, 29])
    check_nearest(nearest_portably(rows, blocks, stored.mean(0)), rows, stored)


@pytest.mark.parametrize("k", [1, 5, 200])
def test_neighbors_are_those_of_the_exact_search(k):
    stored, index = gaussian_rows(100, 12), torch.tensor([3, 0, 99])
    found = PortableRows(stored).neighbors(index, k)
    for mine, exact in zip(found, NearestRows.from_rows(stored).neighbors(index, k), strict=True):
        np.testing.assert_array_equal(mine.sort().values, exact.sort().values)
    assert [int(rows[0]) for rows in found] == index.tolist()
