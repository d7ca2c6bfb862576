"""Fakes of every level: what they keep of normal images, and what they break."""

import numpy as np
import pytest
import torch
from oracles import slow_resampled

from anomalib_lite.fakes import make_fakes, resampled, shuffled_pixels, uniform_noise


def seed(value=0):
    return torch.Generator().manual_seed(value)


def greys(n=30, n_channels=1, size=(9, 7), levels=3, value=0):
    """(n, C, H, W) of a few values, so that windows meet again."""
    shape = (n, n_channels, *size)
    return torch.randint(levels, shape, generator=seed(value)) / (levels - 1)


def draws(n, size=(9, 7), value=1):
    return torch.rand(n, *size, generator=seed(value))


def windows(images, level):
    """(n, places, C level²)"""
    every = images.unfold(2, level, 1).unfold(3, level, 1)
    return every.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


# -- by definition --------------------------------------------------------------------------------


def test_level_0_is_uniform():
    noise = uniform_noise(200, (1, 8, 8), seed())
    assert noise.shape == (200, 1, 8, 8)
    counts = torch.histc(noise, 10, 0, 1)
    assert (counts - noise.numel() / 10).abs().max() < 5 * (noise.numel() / 10) ** 0.5


@pytest.mark.parametrize("n_channels", [1, 3])
def test_level_1_keeps_the_pixels_of_each_position(n_channels):
    images = torch.rand(40, n_channels, 6, 5, generator=seed())
    fakes = shuffled_pixels(images, seed(1))
    code = torch.tensor([1.0, 1e3, 1e6], dtype=torch.float64)[:n_channels]
    before, after = (torch.einsum("nchw,c->nhw", x.double(), code) for x in (images, fakes))
    assert torch.equal(before.sort(0).values, after.sort(0).values)  # colours stay together
    assert not torch.equal(before, after)


def test_level_1_breaks_what_positions_know_of_one_another():
    images = torch.rand(4000, 1, 1, 1, generator=seed()).expand(-1, -1, 3, 3)
    for fakes in (
        shuffled_pixels(images, seed(1)),
        make_fakes("gan", 1, images, seed()).sample(4000, seed(1)),
    ):
        correlation = np.corrcoef(fakes.flatten(1).T) - np.eye(9)
        assert abs(correlation).max() < 0.08


def test_samples_of_level_1_have_the_marginals_of_the_data():
    images = greys(50, 3, (4, 4))
    fakes = make_fakes("gan", 1, images, seed()).sample(20_000, seed(1))
    torch.testing.assert_close(fakes.mean(0), images.mean(0), atol=0.02, rtol=0)
    known = {
        (i, j, *image[:, i, j].tolist()) for image in images for i in range(4) for j in range(4)
    }
    made = {
        (i, j, *image[:, i, j].tolist())
        for image in fakes[:500]
        for i in range(4)
        for j in range(4)
    }
    assert made <= known


# -- by resampling --------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3, 8])
@pytest.mark.parametrize("tolerance", [0.0, 0.6])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_resampled_is_its_definition(level, tolerance, n_channels):
    images, own = greys(20, n_channels), draws(4)
    found = resampled(images, level, own, tolerance=tolerance)
    np.testing.assert_array_equal(found, slow_resampled(images, level, own, tolerance))


def test_resampled_is_its_definition_where_no_window_meets_again():
    images, own = torch.rand(20, 1, 9, 7, generator=seed()), draws(4)
    found = resampled(images, 3, own, tolerance=0.4)
    np.testing.assert_allclose(found, slow_resampled(images, 3, own, 0.4), rtol=1e-6)


def test_the_slow_resampler_has_teeth():
    images, own = greys(20), draws(4)
    expected = slow_resampled(images, 3, own, 0.0)
    assert not np.array_equal(resampled(images, 2, own, tolerance=0.0), expected)
    assert not np.array_equal(resampled(images, 3, own, tolerance=1.0), expected)
    assert not np.array_equal(resampled(images, 3, draws(4, value=2), tolerance=0.0), expected)


def test_resampled_windows_are_of_the_data_and_images_are_new():
    images = greys(3000, levels=2)
    fakes = make_fakes("resample", 2, images, seed()).sample(50, seed(1))
    known = [set(map(tuple, place.tolist())) for place in windows(images, 2).transpose(0, 1)]
    for place, every in zip(windows(fakes, 2).transpose(0, 1), known, strict=True):
        assert set(map(tuple, place.tolist())) <= every
    assert not {image.numpy().tobytes() for image in fakes} & {i.numpy().tobytes() for i in images}


def test_what_neighbours_know_of_one_another_is_kept_from_level_2_on():
    plain = greys(40, size=(1, 1), levels=5).expand(-1, -1, 9, 7)

    def spread(level):
        fakes = make_fakes("resample", level, plain, seed()).sample(60, seed(1)).flatten(1)
        return fakes.amax(1) - fakes.amin(1)

    assert spread(2).max() == 0
    assert spread(1).min() > 0


def test_a_large_sample_is_drawn_in_parts_and_the_same(monkeypatch):
    images = greys(30)
    whole = make_fakes("resample", 2, images, seed()).sample(20, seed(1))
    monkeypatch.setattr("anomalib_lite.fakes._BLOCK", 30 * 7 * 3)
    parts = make_fakes("resample", 2, images, seed()).sample(20, seed(1))
    assert torch.equal(whole, parts)


# -- what sources owe -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "level"), [("gan", 0), ("gan", 1), ("resample", 2)])
def test_a_source_draws_from_the_generator_alone(kind, level):
    images, before = greys(n_channels=3), torch.get_rng_state()
    fakes = make_fakes(kind, level, images, seed())
    first, second = fakes.sample(5, seed(1)), fakes.sample(5, seed(1))
    assert first.shape == (5, 3, 9, 7)
    assert first.dtype == torch.float32
    assert 0 <= first.min()
    assert first.max() <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, fakes.sample(5, seed(2)))
    assert torch.equal(torch.get_rng_state(), before)
