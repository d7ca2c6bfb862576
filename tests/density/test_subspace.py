import numpy as np
import pytest
import torch
from oracles import slow_subspace_squares
from worlds import plane

from anomalib_lite.density import FoldedStatistics, GaussianStatistics, Subspace, rounding_scatter
from anomalib_lite.density.folded import APART


def statistics_of(rows):
    return GaussianStatistics.from_rows(torch.as_tensor(rows)[None])


def draws(n=200, d=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 3


# -- subspace -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_dims", [1, 3, 10])  # of 12: the plane, or its complement
def test_the_planted_plane_is_found(n_dims):
    rows, _ = plane(200, n_dims=n_dims)
    subspace = Subspace.of(statistics_of(rows), 0.9999)
    assert subspace.n_components == n_dims
    assert subspace.basis.shape == (12, min(n_dims, 12 - n_dims))
    assert subspace.is_complement == (n_dims > 6)
    fresh, expected = plane(50, n_dims=n_dims, n_off=5, seed=1)
    squares = subspace.squares(torch.from_numpy(fresh).float())
    np.testing.assert_allclose(squares, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_squares_are_those_of_a_slow_reading(share):
    rows, fresh = draws(), draws(20, seed=1)
    subspace = Subspace.of(statistics_of(rows), share)
    expected = slow_subspace_squares(fresh, rows, share)
    squares = subspace.squares(torch.from_numpy(fresh).float())
    np.testing.assert_allclose(squares, expected, rtol=1e-4)


def test_dimensions_can_be_counted():
    subspace = Subspace.of(statistics_of(draws()), n_components=5)
    assert subspace.n_components == 5 and subspace.is_complement
    assert Subspace.of(statistics_of(draws()), n_components=2).basis.shape == (8, 2)


def test_a_direction_is_left_over():
    for subspace in (
        Subspace.of(statistics_of(draws()), 0.999999999),
        Subspace.of(statistics_of(draws()), n_components=9),
    ):
        assert subspace.n_components == 7
        assert (subspace.squares(torch.from_numpy(draws(seed=1)).float()) > 0).all()


def test_nothing_cancels_far_out_in_the_subspace():
    rows, _ = plane(200, n_dims=3, mean=0.0)
    subspace = Subspace.of(statistics_of(rows), 0.9999)
    far = torch.from_numpy(1e3 * rows[:1]).float()  # its square is 1e8, float32's last digit 8
    assert subspace.squares(far).item() < 1e-3


def test_more_features_than_rows():
    rows = draws(5, 30)
    for found in (Subspace.of(statistics_of(rows)), Subspace.of(statistics_of(rows), 0.5, 20)):
        assert found.n_components <= 4  # as many as 5 rows span
    squares = found.squares(torch.from_numpy(rows).float())
    np.testing.assert_allclose(squares, 0, atol=1e-6)


def test_rows_that_do_not_vary_have_a_point_as_their_subspace():
    rows = torch.full((40, 3), 0.1)
    point = Subspace.of(statistics_of(rows))
    assert point.n_components == 0
    assert point.squares(rows + 2.0).tolist() == pytest.approx([12.0] * 40)


def test_constant_features_are_no_directions():
    rows = draws()
    rows[:, 2] = 1 / 3
    subspace = Subspace.of(statistics_of(rows), n_components=7)
    moved = torch.from_numpy(rows[:1]).float()
    moved[0, 2] += 1
    difference = subspace.squares(moved) - subspace.squares(torch.from_numpy(rows[:1]).float())
    assert difference.item() == pytest.approx(1, rel=1e-4)


def test_rounding_of_a_whole_is_no_direction_of_what_is_left():
    still, moving = np.full((20, 6), 0.1), draws(100, 6) * 1e3
    whole, out = statistics_of(np.concatenate([still, moving])), statistics_of(moving)
    left = whole.without(out)
    assert left.scatter.abs().max() > 0  # by rounding alone
    assert Subspace.of(left, noise=rounding_scatter(whole)).n_components == 0


def test_a_subspace_of_other_shapes_is_refused():
    zeros = torch.zeros(3)
    for mean, basis, is_complement in [
        (zeros, torch.zeros(2, 1), True),
        (zeros, torch.zeros(3, 4), True),
        (zeros, torch.zeros(3, 1), 1),
        (zeros, torch.full((3, 1), torch.nan), True),
        (zeros[None], torch.zeros(3, 1), True),
    ]:
        with pytest.raises(ValueError, match="expected"):
            Subspace(mean, basis, is_complement)


# -- folds ----------------------------------------------------------------------------------------


def images(n, seed=0):
    """(digest, rows (4, 3)) of n images."""
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(-(2**62), 2**62)), rng.normal(size=(4, 3))) for _ in range(n)]


def folded(pairs, n_folds=5):
    found = FoldedStatistics(n_folds)
    for digest, rows in pairs:
        found.add(digest, statistics_of(rows))
    return found


def assert_folds_of(found, pairs, n_folds=5):
    """They are those of the images, read literally."""
    is_shared = len({digest for digest, _ in pairs}) > max(n_folds, APART)
    assert found.is_shared == is_shared
    expected = {}
    for digest, rows in pairs:
        expected.setdefault(digest % n_folds if is_shared else digest, []).append(rows)
    assert found.keys.tolist() == sorted(expected)
    for key, rows in expected.items():
        here = np.concatenate(rows)
        assert found.folds[key].count == len(here)
        np.testing.assert_allclose(found.folds[key].mean[0], here.mean(0), atol=1e-12)
        scatter = (len(here) - 1) * np.cov(here, rowvar=False)
        np.testing.assert_allclose(found.folds[key].scatter[0], scatter, atol=1e-10)
    digests = np.array([digest for digest, _ in pairs])
    assert set(found.keys_of(digests).tolist()) == set(expected)


@pytest.mark.parametrize("n", [1, 5, 20, 21, 60])
def test_the_fold_of_an_image_follows_from_its_digest(n):
    pairs = images(n)
    assert_folds_of(folded(pairs), pairs)
    assert_folds_of(folded([*pairs, pairs[0]]), [*pairs, pairs[0]])


@pytest.mark.parametrize("cut", [1, 10, 19, 30, 55])
def test_merged_folds_are_those_of_all_images(cut):
    pairs = [*images(50), *images(10)]
    one, other = folded(pairs[:cut]), folded(pairs[cut:])
    before = other.to_state()
    one.merge(other)
    assert_folds_of(one, pairs)
    one.merge(one.copy())  # what is learned later does not reach the other one
    for name, value in other.to_state().items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("n", [4, 40])
def test_states_of_folds(n):
    pairs = images(n)
    found = folded(pairs)
    again = FoldedStatistics.from_state(found.to_state())
    assert_folds_of(again, pairs)
    copied = found.copy()
    copied.add(1, statistics_of(images(1, seed=1)[0][1]))
    assert_folds_of(found, pairs)
    whole = np.concatenate([rows for _, rows in pairs])
    np.testing.assert_allclose(found.whole().mean[0], whole.mean(0), atol=1e-12)


@pytest.mark.parametrize(
    "forged",
    [
        {"n_folds": 1},
        {"n_folds": "5"},
        {"is_shared": 1},
        {"keys": np.array([3, 1, 2, 4, 0])},
        {"keys": np.array([0, 1, 2, 3, 5])},
        {"keys": np.array([0, 1, 2, 3])},
        {"keys": [0, 1, 2, 3, 4]},
        {"counts": np.array([0, 1, 1, 1, 1])},
        {"counts": np.array([1.0] * 5)},
        {"means": torch.zeros(4, 3)},
        {"scatters": torch.zeros(5, 3, 2)},
        {"scatters": torch.full((5, 3, 3), torch.nan)},
    ],
)
def test_forged_folds_are_refused(forged):
    state = folded(images(40)).to_state()
    assert state["keys"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="expected"):
        FoldedStatistics.from_state({**state, **forged})
