"""Local outlier factors of patches, and which patches belong."""

import numpy as np
import pytest
import torch
from oracles import slow_outlier_factors
from sklearn.neighbors import LocalOutlierFactor

from anomalib_lite.density import aligned_outlier_factors, belonging, free_outlier_factors
from anomalib_lite.density import outliers as module


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def test_aligned_factors_are_those_of_scikit_learn_at_each_position():
    images = draws(30, 5, 12)
    images[3, 2] *= 4
    expected = [
        -LocalOutlierFactor(6).fit(images[:, place].numpy()).negative_outlier_factor_
        for place in range(5)
    ]
    found = aligned_outlier_factors(images)
    np.testing.assert_allclose(found, np.stack(expected, 1), rtol=1e-5)
    assert divmod(int(found.argmax()), 5) == (3, 2)


def test_free_factors_are_those_of_the_definition():
    images = draws(5, 4, 3) + 100
    everywhere = [[(i, j) for i in range(5) for j in range(4)]] * 4
    expected = slow_outlier_factors(images.double().tolist(), 3, everywhere)
    np.testing.assert_allclose(free_outlier_factors(images, 3), expected, rtol=1e-3)


def test_aligned_factors_are_those_of_the_definition():
    images = draws(7, 3, 4, seed=1)
    aligned = [[(i, place) for i in range(7)] for place in range(3)]
    expected = slow_outlier_factors(images.double().tolist(), 2, aligned)
    np.testing.assert_allclose(aligned_outlier_factors(images, 2), expected, rtol=1e-5)


def test_free_neighbors_are_sought_in_a_sample(monkeypatch):
    monkeypatch.setattr(module, "_REFERENCE", 60)
    images = draws(20, 30, 4) * 0.1
    images[:, ::2] += 10  # two kinds of patches, anywhere
    images = torch.stack([each[torch.randperm(30)] for each in images])
    images[7, 11] = 5
    found = free_outlier_factors(images)
    assert divmod(int(found.argmax()), 30) == (7, 11)
    assert found.median() < 1.2


@pytest.mark.parametrize("measure", [aligned_outlier_factors, free_outlier_factors])
def test_long_rows_are_projected(measure):
    images = draws(20, 4, 900) * 0.01
    images[5, 1] += draws(900, seed=2)
    found = measure(images)
    assert divmod(int(found.argmax()), 4) == (5, 1)


@pytest.mark.parametrize("measure", [aligned_outlier_factors, free_outlier_factors])
def test_among_copies_a_slight_difference_is_no_outlier(measure):
    images = torch.ones(12, 3, 5)
    images[:, 2] = draws(12, 5)
    images[4, 0] += 1e-6
    found = measure(images)
    assert found.isfinite().all() and found[4, 0] < 2
    assert (measure(torch.ones(9, 2, 3)) == 1).all()


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("positions", ["aligned", "free"])
def test_of_few_images_there_are_few_neighbors(n, positions):
    kept = belonging(draws(n, 10, 3), 0.2, positions)
    assert kept.shape == (n, 10) and kept.sum() >= 8 * n
    if n == 1:
        assert kept.all()  # nothing says what does not belong


def test_the_share_with_the_highest_factors_is_left_out():
    images = draws(20, 6, 4)
    factors = aligned_outlier_factors(images)
    kept = belonging(images, 0.1, "aligned")
    assert (~kept).sum() == 12
    assert factors[~kept].min() >= factors[kept].max()
    assert belonging(images, 0.001, "aligned") is None
