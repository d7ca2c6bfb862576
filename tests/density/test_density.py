import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.utils.estimator_checks import parametrize_with_checks
from snapshots import snapshot

import anomalib_lite
from anomalib_lite.density import (
    GaussianDensity,
    GaussianStatistics,
    NCEDensity,
    leave_one_out_squares,
    shrunk_gaussian,
    squared_mahalanobis,
    whiteners,
)
from anomalib_lite.density.gaussian import squared_mahalanobis_apart
from anomalib_lite.search import GreedyCoreset

# -- statistics -----------------------------------------------------------------------------------


def draws(n_places=3, n=50, d=4, *, shift=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n_places, d, d, generator=generator)
    return torch.randn(n_places, n, d, generator=generator) @ mix + shift


def assert_describes(statistics, rows):
    """``statistics`` equal NumPy's of the rows (P, n, D) in float64."""
    assert statistics.count == rows.shape[1]
    for place, here in enumerate(rows.double().numpy()):
        np.testing.assert_allclose(statistics.mean[place], here.mean(0), rtol=1e-9, atol=1e-12)
        covariance = np.cov(here, rowvar=False)
        np.testing.assert_allclose(
            statistics.covariance()[place], covariance, rtol=1e-7, atol=1e-9 * covariance.max()
        )


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 43], [49, 1], [20, 20, 10]])
def test_updates_of_any_size_give_the_same_statistics(sizes):
    rows = draws()
    first, *others = rows.split(sizes, dim=1)
    statistics = GaussianStatistics.from_rows(first)
    for part in others:
        statistics.update(part)
    assert_describes(statistics, rows)


@pytest.mark.parametrize("n_first", [1, 10, 49])
def test_merged_statistics_are_those_of_all_rows(n_first):
    rows = draws()
    one, other = (
        GaussianStatistics.from_rows(part) for part in (rows[:, :n_first], rows[:, n_first:])
    )
    before = other.scatter.clone()
    one.merge(other)
    assert_describes(one, rows)
    assert torch.equal(other.scatter, before)


@pytest.mark.parametrize(("n_out", "shift"), [(1, 0.0), (25, 0.0), (49, 0.0), (25, 1e4)])
def test_statistics_without_others_are_those_of_the_rest(n_out, shift):
    rows = draws(shift=shift).double()
    whole, out = (GaussianStatistics.from_rows(part) for part in (rows, rows[:, :n_out]))
    before = whole.scatter.clone(), out.scatter.clone()
    left, rest = whole.without(out), rows[:, n_out:]
    if n_out == 49:
        assert left.count == 1
        np.testing.assert_allclose(left.scatter, 0, atol=1e-10)
    else:
        expected = GaussianStatistics.from_rows(rest)
        assert left.count == expected.count
        np.testing.assert_allclose(left.mean, expected.mean, rtol=1e-12)
        scale = float(whole.scatter.abs().max())
        np.testing.assert_allclose(left.scatter, expected.scatter, atol=1e-13 * scale)
    torch.testing.assert_close(left.scatter, left.scatter.mT, rtol=1e-12, atol=1e-10)
    assert torch.equal(whole.scatter, before[0]) and torch.equal(out.scatter, before[1])


def test_what_is_left_of_statistics_is_a_scatter():
    rows = draws(n_places=1, n=60, d=6)
    rows[:, 3:] *= 1e4  # nearly all of the scatter is in the rows that are left out
    rows[:, 3:, 0], rows[:, :3, 0] = 5.0, 5.0  # and a feature is constant
    whole, out = (GaussianStatistics.from_rows(part) for part in (rows, rows[:, 3:]))
    left = whole.without(out).scatter[0]
    assert torch.linalg.eigvalsh(left).min() > -1e-14 * whole.scatter.abs().max()
    assert left[0].abs().max() < 1e-14 * whole.scatter.abs().max()


@pytest.mark.parametrize("n_out", [50, 51])
def test_statistics_without_any_row_are_refused(n_out):
    whole, out = (GaussianStatistics.from_rows(draws(n=n)) for n in (50, n_out))
    with pytest.raises(ValueError, match=f"fewer rows than the 50 here, got {n_out}"):
        whole.without(out)


def test_a_large_mean_costs_no_digits():
    rows = draws(n_places=1, shift=0.0)
    shifted = (rows.double() + 1e6).to(torch.float64)
    statistics = GaussianStatistics.from_rows(shifted[:, :25])
    statistics.update(shifted[:, 25:])
    truth = np.cov(shifted[0].numpy(), rowvar=False)
    np.testing.assert_allclose(statistics.covariance()[0], truth, rtol=1e-6)
    values = shifted[0].float()  # what a float32 running sum of squares would see
    mean = values.mean(0)
    # the naive formula loses them all
    naive = values.T @ values / len(values) - torch.outer(mean, mean)
    assert (np.abs(naive.numpy() - truth) > 0.1 * np.abs(truth)).all()


def test_statistics_at_some_places_share_their_memory():
    rows = draws(n_places=5)
    statistics = GaussianStatistics.from_rows(rows[:, :20])
    for places in (slice(0, 2), slice(2, 5)):
        statistics.at(places).update(rows[places, 20:])
    statistics.count += 30
    assert_describes(statistics, rows)


def test_copies_are_independent():
    statistics = GaussianStatistics.from_rows(draws())
    copied = statistics.copy()
    copied.update(draws(seed=1))
    assert_describes(statistics, draws())
    assert copied.count == 100


def test_covariance_at_some_places():
    rows, some = draws(), torch.tensor([2, 0])
    statistics = GaussianStatistics.from_rows(rows)
    assert torch.equal(statistics.covariance(some), statistics.covariance()[some])


def test_statistics_of_many_places_are_each_places_own():
    rows = draws(n_places=130, n=9, d=2)  # more than are updated at once
    statistics = GaussianStatistics.from_rows(rows[:, :5])
    statistics.merge(GaussianStatistics.from_rows(rows[:, 5:]))
    assert_describes(statistics, rows)


# -- leave-one-out, whitening, shrinkage ----------------------------------------------------------


def test_whitened_rows_have_unit_covariance_and_give_mahalanobis_distances():
    rows = draws().double()
    statistics = GaussianStatistics.from_rows(rows)
    whitener = whiteners(statistics.covariance())
    squares = squared_mahalanobis(rows.transpose(0, 1), statistics.mean, whitener)  # (n, P)
    for place, here in enumerate(rows.numpy()):
        white = (here - here.mean(0)) @ whitener[place].numpy()
        np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(4), atol=1e-9)
        np.testing.assert_allclose(squares[:, place], (white**2).sum(1))


@pytest.mark.parametrize("d", [63, 130, 131])
def test_whiteners_of_many_features_are_those_of_a_whole_factorization(d):
    covariance = GaussianStatistics.from_rows(draws(2, 200, d)).covariance()
    covariance.diagonal(dim1=1, dim2=2).add_(0.01)
    whitener = whiteners(covariance)
    expected = torch.linalg.cholesky(covariance).inverse().mT
    error = (whitener - expected).abs().amax((1, 2)) / expected.abs().amax((1, 2))
    assert (error < 1e-9).all()
    assert torch.equal(whitener, whitener.triu())


@pytest.mark.parametrize("d", [3, 130])
def test_singular_covariances_are_refused(d):
    covariance = torch.eye(d, dtype=torch.float64).repeat(2, 1, 1)
    covariance[1, -1, -1] = 0
    with pytest.raises(ValueError, match="a covariance is singular"):
        whiteners(covariance)


def test_images_measured_apart_do_not_change_each_others_bits():
    rows = draws(9, 500, 20).contiguous()  # more places than a task has
    mean, whitener = rows.mean(0), draws(500, 20, 20, seed=1).triu()
    squares = squared_mahalanobis_apart(rows, mean, whitener)
    np.testing.assert_allclose(squares, squared_mahalanobis(rows, mean, whitener), rtol=1e-4)
    for some in ([0], [8, 3], [7, 6, 5, 4, 3, 2, 1], [2] * 5):
        assert torch.equal(squared_mahalanobis_apart(rows[some], mean, whitener), squares[some])


def test_leave_one_out_distances_need_no_refit():
    rows = draws(1, 9, 3)[0].double()
    squares = _squares_from(rows, rows)
    expected = [
        _squares_from(row[None], torch.cat([rows[:i], rows[i + 1 :]]))[0]
        for i, row in enumerate(rows)
    ]
    np.testing.assert_allclose(leave_one_out_squares(torch.tensor(squares), 9), expected)


def test_copies_are_left_out_together():
    rows = draws(1, 9, 3)[0].double()
    repeated = torch.cat([rows, rows[:1], rows[:1], rows[1:2]])
    copies = torch.tensor([3, 2, 1, 1, 1, 1, 1, 1, 1, 3, 3, 2])
    squares = _squares_from(repeated, repeated)
    expected = [_squares_from(row[None], repeated[(repeated != row).any(1)])[0] for row in repeated]
    found = leave_one_out_squares(torch.tensor(squares), 12, copies)
    np.testing.assert_allclose(found, expected)
    lonely = leave_one_out_squares(torch.ones(2), 3, torch.tensor([1, 2]))
    assert lonely.isnan().tolist() == [False, True]


def _squares_from(rows, others):
    deviations = (rows - others.mean(0)).numpy()
    return np.einsum("nd,de,ne->n", deviations, np.linalg.inv(np.cov(others.T)), deviations)


@pytest.mark.parametrize("constant", [False, True])
def test_shrunk_gaussian_is_ledoit_and_wolfs_of_scaled_columns(constant):
    rows = draws(1, 40, 5)[0].double() * torch.tensor([1.0, 10.0, 100.0, 0.1, 1.0])
    std = rows.std(0)
    if constant:  # such a column counts as varying as little as any other
        rows[:, 1], std[1] = 7, std.min()
    mean, root, inverse = shrunk_gaussian(rows)
    correlation, _ = ledoit_wolf(((rows - rows.mean(0)) / std).numpy(), assume_centered=True)
    np.testing.assert_allclose(mean, rows.mean(0))
    np.testing.assert_allclose(root @ root.T, correlation * np.outer(std, std), 1e-9, 1e-12)
    np.testing.assert_allclose(inverse @ root.T, np.eye(5), atol=1e-9)


def test_shrunk_gaussian_refuses_constant_rows():
    with pytest.raises(ValueError, match="its 40 samples vary too little"):
        shrunk_gaussian(torch.ones(40, 5, dtype=torch.float64))


# -- density --------------------------------------------------------------------------------------


@parametrize_with_checks([GaussianDensity()])
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("n", "d"), [(200, 3), (20, 30)])
def test_scores_are_scipys_log_density(n, d):
    rows = draws(1, n, d)[0].double().numpy()
    density = GaussianDensity().fit(rows)
    covariance, shrinkage = ledoit_wolf(rows)
    np.testing.assert_allclose(density.shrinkage_, shrinkage)
    expected = multivariate_normal(rows.mean(0), covariance).logpdf(rows[:10] * 1.5)
    np.testing.assert_allclose(density.score_samples(rows[:10] * 1.5), expected, rtol=1e-9)
    assert density.score(rows[:10] * 1.5) == pytest.approx(expected.sum())


@pytest.mark.parametrize("rows", [np.ones((5, 3)), np.zeros((5, 1))])
def test_rows_that_are_all_the_same_are_refused(rows):
    with pytest.raises(ValueError, match="5 rows vary too little"):
        GaussianDensity().fit(rows)


def test_a_failed_fit_changes_nothing():
    density = GaussianDensity().fit(draws()[0].numpy())
    before = snapshot(density)
    with pytest.raises(ValueError, match="vary too little"):
        density.fit(np.ones((5, 2)))
    assert snapshot(density) == before


@pytest.mark.parametrize("estimator", [GaussianDensity(), NCEDensity(epochs=1), GreedyCoreset(2)])
def test_tables_without_values_are_refused(estimator):
    table = torch.ones(9, 2, device="meta")
    with pytest.raises(ValueError, match=r"X: .* on the meta device, which holds none"):
        estimator.fit(table)
    if hasattr(estimator, "score_samples"):
        with pytest.raises(ValueError, match=r"X: .* on the meta device"):
            estimator.fit(draws()[0].numpy()).score_samples(table)


def test_density_can_be_saved(tmp_path):
    rows = draws()[0].numpy()
    density = GaussianDensity().fit(rows)
    density.save(tmp_path / "density.alite")
    again = anomalib_lite.load(tmp_path / "density.alite")
    np.testing.assert_array_equal(again.score_samples(rows), density.score_samples(rows))
