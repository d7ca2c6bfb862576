"""NCEDensity: against known densities, its noise against scipy's, its lowered errors."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from worlds import Mixture

from anomalib_lite import NCEDensity
from anomalib_lite.density.nce import _Noise, log_normal_mode, truncated_normal


def errors_and_codes(n, seed=0):
    """(n, 4): two codes, and two errors that are log-normal and grow with the first code."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(n, 2))
    errors = np.exp(rng.normal(-3, 0.4, (n, 2)) + 0.3 * codes[:, :1])
    return np.hstack([codes, errors])


# -- the density ----------------------------------------------------------------------------------


@pytest.mark.parametrize("refine_noise", [True, False])
def test_known_density_is_learned(refine_noise):
    world = Mixture(
        [(0.5, (-2, 0), [[1, 0.3], [0.3, 1]]), (0.5, (2, 1), [[0.6, -0.2], [-0.2, 0.8]])]
    )
    density = NCEDensity(refine_noise=refine_noise, random_state=0).fit(world.draw(2000, seed=0))
    test = world.draw(3000, seed=1)
    truth, learned = world.log_density(test), density.score_samples(test)
    slope = np.polyfit(truth, learned, 1)[0]
    assert np.corrcoef(truth, learned)[0, 1] > 0.97
    assert abs(slope - 1) < 0.05
    assert abs((truth - learned).mean()) < 0.1  # in nats: the constant is right, too
    gaussian = NCEDensity(epochs=0).fit(world.draw(2000, seed=0)).score_samples(test)
    assert np.corrcoef(truth, gaussian)[0, 1] < 0.8


def test_without_epochs_it_is_the_gaussian():
    rows = np.random.default_rng(0).normal(size=(5000, 3)) @ [[2, 0, 0], [1, 1, 0], [0, 3, 0.1]] + 5
    density = NCEDensity(epochs=0).fit(rows)
    truth = stats.multivariate_normal(rows.mean(0), np.cov(rows.T)).logpdf(rows[:50])
    np.testing.assert_allclose(density.score_samples(rows[:50]), truth, atol=0.15)
    assert density.history_ == []


def test_far_from_the_data_the_noise_decides():
    rows = np.random.default_rng(0).normal(size=(300, 3))
    density = NCEDensity(epochs=20, random_state=0).fit(rows)
    far = np.eye(3)[:1] * np.array([[50], [100], [200]])
    scores = density.score_samples(far)
    np.testing.assert_allclose(scores[1:] / scores[:-1], 4, rtol=0.1)


def test_it_is_never_worse_than_the_gaussian_where_it_watched():
    rows = np.random.default_rng(0).normal(size=(60, 8))  # a Gaussian: nothing to learn
    density = NCEDensity(epochs=30, learning_rate=0.05, weight_decay=0, random_state=0).fit(rows)
    gaussian = NCEDensity(epochs=0).fit(rows)
    test = np.random.default_rng(1).normal(size=(500, 8))
    assert min(entry["held_out"] for entry in density.history_) > -gaussian.score(test) / 500 - 1
    np.testing.assert_allclose(density.score_samples(test), gaussian.score_samples(test), rtol=0.02)


def test_scale_of_the_columns_does_not_matter():
    rows, test = errors_and_codes(400), errors_and_codes(50, seed=1)
    how = {"epochs": 10, "random_state": 0}
    one = NCEDensity(**how).fit(rows).score_samples(test)
    scale = np.array([1, 1e3, 1e-4, 7])
    other = NCEDensity(**how).fit(rows * scale).score_samples(test * scale)
    np.testing.assert_allclose(other + np.log(scale).sum(), one, rtol=1e-6)


def test_same_seed_same_scores_and_no_global_generator():
    rows = errors_and_codes(100)
    before = torch.get_rng_state()
    first, second, other = (
        NCEDensity(epochs=3, random_state=seed).fit(rows).score_samples(rows) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


# -- the noise ------------------------------------------------------------------------------------


def test_noise_has_the_covariance_it_says():
    noise = _Noise(3, 0.0).double()
    with torch.no_grad():
        noise.growth.copy_(torch.tensor([-9.0, 0.0, 2.0]))
    drawn = noise.sample(200_000, torch.Generator().manual_seed(0)).detach().numpy()
    scale = 1 + np.log1p(np.exp([-9.0, 0.0, 2.0]))
    np.testing.assert_allclose(np.cov(drawn.T), np.diag(scale**2), atol=0.1)
    truth = stats.multivariate_normal(np.zeros(3), np.diag(scale**2)).logpdf(drawn[:20])
    np.testing.assert_allclose(noise.log_density(torch.from_numpy(drawn[:20])).detach(), truth)


def test_noise_only_grows_and_grows_where_data_are_wider_than_a_gaussian():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, 2))
    rows[:, 0] = rng.standard_t(2.2, 1000)  # heavy tails
    density = NCEDensity(epochs=20, noise_learning_rate=0.1, random_state=0).fit(rows)
    assert (density.scale_ >= 1).all()
    fixed = NCEDensity(epochs=5, refine_noise=False, random_state=0).fit(rows)
    assert (fixed.scale_ == 1).all()


def test_rank_deficient_and_constant_columns_are_borne():
    rows = np.random.default_rng(0).normal(size=(5, 9))
    rows[:, 3] = 2.0
    density = NCEDensity(epochs=2, random_state=0).fit(rows)
    moved = rows[:1].copy()
    moved[:, 3] += 1
    near, far = density.score_samples(np.concatenate([rows[:1], moved]))
    assert np.isfinite([near, far]).all()
    assert far < near


# -- lowered errors -------------------------------------------------------------------------------


def test_truncated_normals_are_scipys():
    draws = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, std, high = 0.3, 0.2, 0.25
    found = truncated_normal(
        draws, *(torch.tensor(x, dtype=draws.dtype) for x in (mean, std, high))
    )
    truth = stats.truncnorm(-mean / std, (high - mean) / std, mean, std)
    assert 0 <= found.min()
    assert found.max() <= high
    assert stats.kstest(found.numpy(), truth.cdf).pvalue > 0.01


def test_mode_of_a_log_normal():
    for mu, sigma in ((0, 0.3), (-4, 1.0), (2, 0.05)):
        mean, variance = stats.lognorm(sigma, scale=math.exp(mu)).stats("mv")
        assert log_normal_mode(mean, variance) == pytest.approx(math.exp(mu - sigma**2))


@pytest.mark.parametrize("column", [2, 3])
def test_lowered_errors_are_at_least_as_dense_as_noise(column):
    """The proposition of the paper, where it counts: from 0 to the mode."""
    density = NCEDensity(epochs=0, n_lowered=2).fit(errors_and_codes(2000))
    mean = float(density.mean_[column])
    mode = float(density.modes_[column - 2])
    assert 0 < mode < mean
    for growth in (0.0, 1.0, 3.0):
        noise = _Noise(4, 0.0).double()
        with torch.no_grad():
            noise.growth.fill_(growth)
        covariance = density.root_ @ torch.diag(noise.scale.detach() ** 2) @ density.root_.T
        std = float(covariance[column, column].sqrt())
        points = np.linspace(0, mode, 101)
        share = stats.norm(mean, std).cdf(mode) - stats.norm(mean, std).cdf(0)
        assert share <= 0.5
        lowered = stats.norm(mean, std).pdf(points) / share
        assert (lowered / 2 >= stats.norm(mean, std).pdf(points)).all()
        # and what is drawn has that density
        rows = torch.from_numpy(errors_and_codes(20_000, seed=3))
        drawn = density._lowered(rows, noise, torch.Generator().manual_seed(0))
        assert torch.equal(drawn[1::2], rows[1::2])
        assert torch.equal(drawn[:, :2], rows[:, :2])
        truth = stats.truncnorm(-mean / std, (mode - mean) / std, mean, std)
        assert stats.kstest(drawn[::2, column].numpy(), truth.cdf).pvalue > 0.001


def test_lowered_errors_are_not_anomalous():
    rows = errors_and_codes(2000)
    low = errors_and_codes(200, seed=1)
    low[:, 2:] *= 0.05
    plain, taught = (
        NCEDensity(n_lowered=n, random_state=0).fit(rows).score_samples for n in (0, 2)
    )
    usual = errors_and_codes(200, seed=1)
    assert (taught(low) - taught(usual)).mean() > (plain(low) - plain(usual)).mean() + 1


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"nu": 0}, "nu"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"hidden": (0,)}, "hidden"),
        ({"n_lowered": 5}, "n_lowered"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"learning_rate": -1}, "learning_rate"),
    ],
)
def test_senseless_parameters_are_refused_and_nothing_is_learned(params, match):
    density = NCEDensity(**params)
    with pytest.raises(ValueError, match=match):
        density.fit(errors_and_codes(20))
    assert not [name for name in vars(density) if name.endswith("_")]


def test_rows_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="all the same"):
        NCEDensity().fit(np.ones((10, 3)))


def test_saved_one_gives_the_same_scores(tmp_path):
    from anomalib_lite import load

    rows = errors_and_codes(100)
    density = NCEDensity(epochs=3, n_lowered=2, random_state=0).fit(rows)
    density.save(tmp_path / "density.alite")
    again = load(tmp_path / "density.alite")
    np.testing.assert_array_equal(again.score_samples(rows), density.score_samples(rows))
