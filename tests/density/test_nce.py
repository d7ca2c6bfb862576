"""NCEDensity: against known densities, its noise against scipy's, its lowered errors."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from worlds import Mixture

from anomalib_lite import NCEDensity, load
from anomalib_lite.density import nce
from anomalib_lite.density.nce import (
    Contrast,
    WideningNoise,
    log_normal_mode,
    lower_errors,
    truncated_normal,
)

WORLD = Mixture([(0.5, (-2, 0), [[1, 0.3], [0.3, 1]]), (0.5, (2, 1), [[0.6, -0.2], [-0.2, 0.8]])])


def errors_and_codes(n, seed=0):
    """(n, 4): two codes, and two errors that are log-normal and grow with the first code."""
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(n, 2))
    errors = np.exp(rng.normal(-3, 0.4, (n, 2)) + 0.3 * codes[:, :1])
    return np.hstack([codes, errors])


# -- the density ----------------------------------------------------------------------------------


def assert_near_the_truth(density, *, correlation, slope, offset):
    """Compare log-densities with those of WORLD; ``offset`` is in nats."""
    test = WORLD.draw(3000, seed=1)
    truth, learned = WORLD.log_density(test), density.score_samples(test)
    assert np.corrcoef(truth, learned)[0, 1] > correlation
    assert abs(np.polyfit(truth, learned, 1)[0] - 1) < slope
    assert abs((truth - learned).mean()) < offset
    gaussian = NCEDensity(epochs=0).fit(WORLD.draw(1000, seed=0)).score_samples(test)
    assert np.corrcoef(truth, gaussian)[0, 1] < 0.8


@pytest.mark.parametrize(("refine_noise", "noise_ratio"), [(True, 5), (False, 5), (False, 2)])
def test_density_of_a_mixture_is_learned(refine_noise, noise_ratio):
    brief = {"epochs": 25, "hidden": (64, 32), "learning_rate": 0.005, "validation_fraction": 0}
    kinds = {"refine_noise": refine_noise, "noise_ratio": noise_ratio}
    density = NCEDensity(random_state=0, **brief, **kinds).fit(WORLD.draw(1000, seed=0))
    assert_near_the_truth(density, correlation=0.97, slope=0.05, offset=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("refine_noise", [True, False])
def test_density_of_a_mixture_is_learned_with_default_settings(refine_noise):
    density = NCEDensity(refine_noise=refine_noise, random_state=0).fit(WORLD.draw(2000, seed=0))
    assert_near_the_truth(density, correlation=0.97, slope=0.05, offset=0.1)


@pytest.mark.parametrize("noise_ratio", [1, 5])
def test_without_epochs_it_is_the_gaussian(noise_ratio):
    rows = np.random.default_rng(0).normal(size=(5000, 3)) @ [[2, 0, 0], [1, 1, 0], [0, 3, 0.1]] + 5
    density = NCEDensity(epochs=0, noise_ratio=noise_ratio).fit(rows)
    truth = stats.multivariate_normal(rows.mean(0), np.cov(rows.T)).logpdf(rows[:50])
    np.testing.assert_allclose(density.score_samples(rows[:50]), truth, atol=0.15)
    assert density.history_ == []


def test_log_density_falls_with_the_squared_distance_far_from_the_data():
    rows = np.random.default_rng(0).normal(size=(300, 3))
    density = NCEDensity(epochs=20, random_state=0).fit(rows)
    far = np.eye(3)[:1] * np.array([[50], [100], [200]])
    scores = density.score_samples(far)
    np.testing.assert_allclose(scores[1:] / scores[:-1], 4, rtol=0.1)


def test_held_out_loss_is_the_negative_log_density_of_whitened_rows():
    rows = np.random.default_rng(0).normal(size=(2000, 4)) * [1, 10, 100, 0.1]
    how = {"epochs": 1, "learning_rate": 1e-12, "refine_noise": False, "validation_fraction": 0.5}
    (entry,) = NCEDensity(random_state=0, **how).fit(rows).history_
    assert entry["held_out"] == pytest.approx(4 * stats.norm().entropy(), abs=0.1)


def test_gaussian_is_kept_where_training_makes_held_out_rows_less_likely():
    rows = np.random.default_rng(0).normal(size=(40, 8))  # a Gaussian: nothing to learn
    how = {"epochs": 10, "learning_rate": 0.5, "refine_noise": False, "random_state": 0}
    kept = NCEDensity(**how).fit(rows)
    gaussian = NCEDensity(epochs=0).fit(rows).score_samples(rows)
    np.testing.assert_allclose(kept.score_samples(rows), gaussian)
    last = NCEDensity(validation_fraction=0, **how).fit(rows).score_samples(rows)
    assert np.abs(last - gaussian).max() > 0.1


def test_units_of_the_columns_change_the_density_by_a_constant():
    rows, test = errors_and_codes(200), errors_and_codes(50, seed=1)
    how = {"epochs": 5, "random_state": 0}
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


def test_noise_has_the_deviations_it_says():
    noise = WideningNoise(3, 0.0).double()
    with torch.no_grad():
        noise.growth.copy_(torch.tensor([-9.0, 0.0, 2.0]))
    drawn = noise.sample(200_000, torch.Generator().manual_seed(0)).detach().numpy()
    scale = 1 + np.log1p(np.exp([-9.0, 0.0, 2.0]))
    np.testing.assert_allclose(np.cov(drawn.T), np.diag(scale**2), atol=0.1)
    truth = stats.multivariate_normal(np.zeros(3), np.diag(scale**2)).logpdf(drawn[:20])
    np.testing.assert_allclose(noise.log_density(torch.from_numpy(drawn[:20])).detach(), truth)


def test_noise_widens_where_the_data_are_not_gaussian_and_never_narrows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 2))
    rows[:, 0] += rng.choice([-6, 6], 400)  # two clusters
    how = {"epochs": 15, "hidden": (32,), "noise_learning_rate": 0.3, "random_state": 0}
    how |= {"learning_rate": 0.005, "validation_fraction": 0}
    density = NCEDensity(**how).fit(rows)
    wide, narrow = density.scale_.tolist()
    assert wide > 1.02 > 1.01 > narrow > 1
    assert "noise" in density.history_[0]
    fixed = NCEDensity(refine_noise=False, **how).fit(rows)
    assert (fixed.scale_ == 1).all()
    assert "noise" not in fixed.history_[0]


def test_rows_may_be_few_and_a_column_constant():
    rows = np.random.default_rng(0).normal(size=(5, 9))
    rows[:, 3] = 2.0
    density = NCEDensity(epochs=2, random_state=0).fit(rows)
    moved = rows[:1].copy()
    moved[:, 3] += 1
    near, far = density.score_samples(np.concatenate([rows[:1], moved]))
    assert np.isfinite([near, far]).all()
    assert far < near


# -- lowered errors -------------------------------------------------------------------------------


def test_truncated_normals_follow_scipys_distribution():
    draws = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean, std, high = 0.3, 0.2, 0.25
    found = truncated_normal(
        draws, *(torch.tensor(x, dtype=draws.dtype) for x in (mean, std, high))
    )
    truth = stats.truncnorm(-mean / std, (high - mean) / std, mean, std)
    assert 0 <= found.min()
    assert found.max() <= high
    assert stats.kstest(found.numpy(), truth.cdf).pvalue > 0.01


def test_mode_of_a_log_normal_is_its_closed_form():
    for mu, sigma in ((0, 0.3), (-4, 1.0), (2, 0.05)):
        mean, variance = stats.lognorm(sigma, scale=math.exp(mu)).stats("mv")
        assert log_normal_mode(mean, variance) == pytest.approx(math.exp(mu - sigma**2))


@pytest.mark.parametrize("column", [2, 3])
def test_density_of_lowered_errors_is_at_least_the_noises(column):
    """The proposition of the paper, where it counts: from 0 to the mode."""
    density = NCEDensity(epochs=0, n_lowered=2).fit(errors_and_codes(2000))
    mean = float(density.mean_[column])
    mode = float(density.modes_[column - 2])
    assert 0 < mode < mean
    for growth in (0.0, 1.0, 3.0):
        noise = WideningNoise(4, 0.0).double()
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
        contrast = Contrast(density, noise, rows)
        index = torch.arange(20_000).flip(0)
        drawn = contrast.data(index, torch.Generator().manual_seed(0))
        assert torch.equal(drawn[1::2], rows[index][1::2])
        assert torch.equal(drawn[:, :2], rows[index][:, :2])
        assert torch.equal(rows, torch.from_numpy(errors_and_codes(20_000, seed=3)))
        truth = stats.truncnorm(-mean / std, (mode - mean) / std, mean, std)
        assert stats.kstest(drawn[::2, column].numpy(), truth.cdf).pvalue > 0.001


def test_errors_are_lowered_in_a_copy():
    rows, generator = torch.full((5, 3), 9.0), torch.Generator().manual_seed(0)
    mean, std, modes = torch.ones(3, 2)
    lowered = lower_errors(rows, mean, std, modes, generator)
    assert (rows == 9).all()
    assert (lowered[::2, 1:] < 1).all()
    lowered[::2, 1:] = 9
    assert (lowered == 9).all()


def test_lowered_errors_are_not_anomalous():
    rows, usual = errors_and_codes(500), errors_and_codes(200, seed=1)
    low = usual * [1, 1, 0.05, 0.05]
    brief = {"epochs": 10, "hidden": (32,), "learning_rate": 0.005, "validation_fraction": 0}
    plain, taught = (
        NCEDensity(n_lowered=n, random_state=0, **brief).fit(rows).score_samples for n in (0, 2)
    )
    assert (taught(low) - taught(usual)).mean() > (plain(low) - plain(usual)).mean() + 1


def test_noise_ratio_is_the_number_of_samples_for_each_row():
    density = NCEDensity(epochs=0, noise_ratio=3).fit(errors_and_codes(20))
    noise, drawn = WideningNoise(4, 0.0).double(), []
    sample = noise.sample
    noise.sample = lambda n, generator: drawn.append(n) or sample(n, generator)
    contrast = Contrast(density, noise, torch.from_numpy(errors_and_codes(20)))
    contrast.network_loss(torch.arange(7), torch.Generator().manual_seed(0))
    assert drawn == [21]


# -- parameters -----------------------------------------------------------------------------------


def test_parameters_reach_the_training_loop(monkeypatch):
    given = {}

    def train(objectives, modules, samples, **settings):
        given.update(settings, rates=[one.learning_rate for one in objectives])
        return []

    monkeypatch.setattr(nce, "train", train)
    how = {"epochs": 3, "train_batch_size": 7, "learning_rate": 0.5, "weight_decay": 0.25}
    NCEDensity(**how, noise_learning_rate=0.125, random_state=0).fit(errors_and_codes(50))
    expected = {
        "epochs": 3, "batch_size": 7, "learning_rate": 0.5, "weight_decay": 0.25,
        "rates": [None, 0.125], "optimizer": "adamw", "or_first": True, "verbose": False,
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected
    assert len(given["held_out"]) == 5


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"noise_ratio": 0}, "noise_ratio"),
        ({"epochs": -1}, "epochs"),
        ({"epochs": 1.5}, "epochs"),
        ({"hidden": (0,)}, "hidden"),
        ({"n_lowered": 5}, "n_lowered: expected at most 4"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"noise_learning_rate": -1}, "noise_learning_rate"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"train_batch_size": 0}, "train_batch_size"),
        ({"n_lowered": -1}, "n_lowered"),
    ],
)
def test_invalid_parameters_are_refused_and_nothing_is_learned(params, match):
    density = NCEDensity(**params)
    with pytest.raises(ValueError, match=match):
        density.fit(errors_and_codes(20))
    assert not [name for name in vars(density) if name.endswith("_")]


def test_rows_that_are_all_the_same_are_refused():
    with pytest.raises(ValueError, match="all the same"):
        NCEDensity().fit(np.ones((10, 3)))


def test_saved_one_gives_the_same_scores(tmp_path):
    rows = errors_and_codes(100)
    density = NCEDensity(epochs=3, n_lowered=2, random_state=0).fit(rows)
    density.save(tmp_path / "density.alite")
    again = load(tmp_path / "density.alite")
    np.testing.assert_array_equal(again.score_samples(rows), density.score_samples(rows))
