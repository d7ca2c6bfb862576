"""Fakes of every level: what they keep of normal images, and what they break."""

import numpy as np
import pytest
import torch
from oracles import slow_resampled

from anomalib_lite import EntropyPatchGAN, PatchResampler, load
from anomalib_lite.fakes import make_fakes, resampled, shuffled_pixels, uniform_noise
from anomalib_lite.fakes.patchgan import _Game
from anomalib_lite.nn.losses import INFORMATION_BOUNDS


def seed(value=0):
    return torch.Generator().manual_seed(value)


def grays(n=30, n_channels=1, size=(9, 7), levels=3, value=0):
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
    assert torch.equal(before.sort(0).values, after.sort(0).values)  # colors stay together
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
    images = grays(50, 3, (4, 4))
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
    images, own = grays(20, n_channels), draws(4)
    found = resampled(images, level, own, tolerance=tolerance)
    np.testing.assert_array_equal(found, slow_resampled(images, level, own, tolerance))


def test_resampled_is_its_definition_where_no_window_meets_again():
    images, own = torch.rand(20, 1, 9, 7, generator=seed()), draws(4)
    found = resampled(images, 3, own, tolerance=0.4)
    np.testing.assert_allclose(found, slow_resampled(images, 3, own, 0.4), rtol=1e-6)


def test_the_slow_resampler_has_teeth():
    images, own = grays(20), draws(4)
    expected = slow_resampled(images, 3, own, 0.0)
    assert not np.array_equal(resampled(images, 2, own, tolerance=0.0), expected)
    assert not np.array_equal(resampled(images, 3, own, tolerance=1.0), expected)
    assert not np.array_equal(resampled(images, 3, draws(4, value=2), tolerance=0.0), expected)


def test_resampled_windows_are_of_the_data_and_images_are_new():
    images = grays(3000, levels=2)
    fakes = make_fakes("resample", 2, images, seed()).sample(50, seed(1))
    known = [set(map(tuple, place.tolist())) for place in windows(images, 2).transpose(0, 1)]
    for place, every in zip(windows(fakes, 2).transpose(0, 1), known, strict=True):
        assert set(map(tuple, place.tolist())) <= every
    assert not {image.numpy().tobytes() for image in fakes} & {i.numpy().tobytes() for i in images}


def test_what_neighbors_know_of_one_another_is_kept_from_level_2_on():
    plain = grays(40, size=(1, 1), levels=5).expand(-1, -1, 9, 7)

    def spread(level):
        fakes = make_fakes("resample", level, plain, seed()).sample(60, seed(1)).flatten(1)
        return fakes.amax(1) - fakes.amin(1)

    assert spread(2).max() == 0
    assert spread(1).min() > 0


def test_a_large_sample_is_drawn_in_parts_and_the_same(monkeypatch):
    images = grays(30)
    whole = make_fakes("resample", 2, images, seed()).sample(20, seed(1))
    monkeypatch.setattr("anomalib_lite.fakes.resampling._BLOCK", 30 * 7 * 3)
    parts = make_fakes("resample", 2, images, seed()).sample(20, seed(1))
    assert torch.equal(whole, parts)


# -- by an entropy-regularized PatchGAN -----------------------------------------------------------

GAN = {"image_size": 8, "width": 4, "steps": 3, "random_state": 0}


@pytest.fixture(scope="module")
def gan():
    """Not to be changed."""
    return EntropyPatchGAN(2, **GAN).fit(pictures())


def pictures(n=12, size=(9, 8), n_channels=1):
    """(n, H, W) or (n, H, W, C) uint8"""
    shape = (n, *size) if n_channels == 1 else (n, *size, n_channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def game(level=2, **settings):
    how = {"width": 4, "bound": "jensen-shannon", "position": True, "generator": seed()} | settings
    return _Game(torch.rand(12, 1, 8, 8, generator=seed()), level, **how).train()


class Brightness(torch.nn.Module):
    """A discriminator that takes for real what is brighter than fakes begin."""

    def forward(self, x, _coordinates):
        return 20 * (x[:, 0] - 0.5)


def test_the_discriminator_is_told_real_from_fake_and_the_generator_the_other_way_round():
    one = game()
    one.discriminator, one._images = Brightness(), torch.ones(12, 1, 8, 8)
    assert one.discriminator_loss(torch.arange(8), seed()) < 1  # right about both
    assert one.generator_losses(None, None)[0] > 5
    one._images = -one._images
    assert one.discriminator_loss(torch.arange(8), seed()) > 20


def test_losses_reach_the_networks_they_are_for():
    one = game()

    def reached(loss):
        return {
            name
            for name in ("generator", "discriminator", "statistics")
            if all(
                gradient.any()
                for gradient in torch.autograd.grad(
                    loss,
                    list(getattr(one, name).parameters())[-2:],
                    retain_graph=True,
                    materialize_grads=True,
                )
            )
        }

    assert reached(one.discriminator_loss(torch.arange(8), seed())) == {"discriminator"}
    adversarial, entropy = one.generator_losses(None, None)
    assert reached(adversarial) == {"generator", "discriminator"}
    assert reached(entropy) == {"generator", "statistics"}
    assert reached(one.statistics_loss(None, None)) == {"statistics"}


def test_without_position_the_discriminator_knows_no_place():
    flat = torch.full((4, 1, 8, 8), 0.3)
    with torch.no_grad():
        for position in (True, False):
            judged = game(position=position)._judged(flat)
            same = torch.allclose(judged, judged[:, :1, :1].expand_as(judged), atol=1e-6)
            assert same != position


class Likeness(torch.nn.Module):
    """A statistics network that is right where images are as bright as their noise."""

    def forward(self, x, z):
        return 4 * (x * z).mean((1, 2, 3))


def played(one, which, n_steps=25):
    """The generator after steps on one of its two losses, and these."""
    optimizer = torch.optim.Adam(one.generator.parameters(), lr=0.01)
    generator, told = seed(), []
    for _ in range(n_steps):
        one.discriminator_loss(torch.arange(12), generator)  # makes new fakes
        loss = one.generator_losses(None, None)[which]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(float(loss.detach()))
    return told


@pytest.mark.parametrize("bound", INFORMATION_BOUNDS)
def test_entropy_makes_images_tell_their_noise(bound):
    one = game(bound=bound)
    one.statistics = Likeness()
    told = played(one, 1)
    assert told[-1] < told[0] - 0.1
    together = one.statistics(2 * one._fakes - 1, one._noise)
    assert (together > one.statistics(2 * one._fakes - 1, one._noise.roll(1, 0))).all()


class Taste(torch.nn.Module):
    """A discriminator that likes images to be bright in their upper half and dark below."""

    def forward(self, x, coordinates):
        return -4 * x[:, 0] * coordinates[0].sign()


def test_images_become_what_the_discriminator_likes():
    one = game()
    one.discriminator = Taste()
    one.discriminator_loss(torch.arange(12), seed())
    before = one._fakes[:, :, :3].mean() - one._fakes[:, :, 5:].mean()
    played(one, 0)
    assert one._fakes[:, :, :3].mean() - one._fakes[:, :, 5:].mean() > before + 0.3


# -- the same for images of any kind --------------------------------------------------------------

IMITATORS = {
    "gan": lambda level=2, **how: EntropyPatchGAN(level, **GAN | how),
    "resampler": lambda level=2, **how: PatchResampler(
        level, **{"image_size": 8, "random_state": 0} | how
    ),
}


@pytest.mark.parametrize("name", IMITATORS)
@pytest.mark.parametrize(
    ("n_channels", "settings", "shape"),
    [
        (1, {}, (8, 8)),
        (3, {}, (8, 8, 3)),
        (1, {"image_size": (8, 12)}, (8, 12)),
        (3, {"crop_size": 5, "crops_per_image": 3}, (5, 5, 3)),
    ],
)
def test_samples_have_the_shape_of_what_was_learned(name, n_channels, settings, shape):
    fitted = IMITATORS[name](**settings).fit(pictures(n_channels=n_channels))
    fakes = fitted.sample(4, random_state=0)
    assert fakes.shape == (4, *shape)
    assert fakes.dtype == np.float32
    assert 0 <= fakes.min()
    assert fakes.max() <= 1


@pytest.mark.parametrize("name", IMITATORS)
def test_a_seed_gives_the_same_and_the_global_generators_stay(name):
    before = torch.get_rng_state()
    one, other = (IMITATORS[name](crop_size=6).fit(pictures()) for _ in range(2))
    np.testing.assert_array_equal(one.sample(3, 0), other.sample(3, 0))
    assert not np.array_equal(one.sample(3, 0), one.sample(3, 1))
    assert not np.array_equal(one.sample(3), one.sample(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", IMITATORS)
def test_a_saved_one_gives_the_same_images(name, tmp_path):
    fitted = IMITATORS[name]().fit(pictures())
    fitted.save(tmp_path / "fakes.alite")
    again = load(tmp_path / "fakes.alite")
    np.testing.assert_array_equal(again.sample(3, 0), fitted.sample(3, 0))


def test_what_is_fitted_is_sampled_whatever_set_params_says():
    fitted = IMITATORS["resampler"](tolerance=0.0).fit(pictures())
    expected = fitted.sample(3, 0)
    fitted.set_params(level=1, tolerance=9.0)
    np.testing.assert_array_equal(fitted.sample(3, 0), expected)


def test_settings_reach_the_training(gan):
    again = EntropyPatchGAN(2, **GAN).fit(pictures())
    np.testing.assert_array_equal(again.sample(2, 0), gan.sample(2, 0))
    changes = (
        {"entropy_weight": 0.0}, {"bound": "donsker-varadhan"}, {"position": False}, {"width": 5},
        {"steps": 4}, {"learning_rate": 1e-3}, {"discriminator_learning_rate": 1e-2},
        {"critic_learning_rate": 1e-2}, {"schedule": "cosine"}, {"train_batch_size": 6},
    )  # fmt: skip
    for change in changes:
        other = EntropyPatchGAN(2, **GAN | change).fit(pictures())
        assert not np.array_equal(other.sample(2, 0), gan.sample(2, 0)), change
    assert set(gan.history_[0]) == {
        "epoch", "discriminator", "generator", "statistics", "learning_rate"
    }  # fmt: skip
    assert (
        len(EntropyPatchGAN(2, **GAN | {"steps": None, "epochs": 2}).fit(pictures()).history_) == 2
    )


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("gan", {"level": 3}, r"level: expected one of 1, 2"),
        ("gan", {"level": 16}, r"level: windows of 16 px"),
        ("gan", {"entropy_weight": -1}, "entropy_weight"),
        ("gan", {"bound": "nwj"}, "bound"),
        ("gan", {"width": 0}, "width"),
        ("gan", {"epochs": 0}, "epochs"),
        ("gan", {"steps": 0}, "steps"),
        ("gan", {"train_batch_size": 2}, "train_batch_size"),
        ("gan", {"learning_rate": -1}, "learning_rate"),
        ("gan", {"discriminator_learning_rate": "x"}, "discriminator_learning_rate"),
        ("gan", {"schedule": "linear"}, "schedule"),
        ("gan", {"crop_size": 9}, r"crop_size: 9 px do not fit"),
        ("resampler", {"level": 0}, "level"),
        ("resampler", {"tolerance": -1}, "tolerance"),
        ("resampler", {"crops_per_image": 0}, "crops_per_image"),
    ],
)
def test_senseless_parameters_are_refused_and_nothing_is_learned(name, params, match):
    estimator = IMITATORS[name](**params)
    with pytest.raises(ValueError, match=match):
        estimator.fit(pictures())
    assert not [key for key in vars(estimator) if key.endswith("_")]


def test_few_images_are_enough():
    for n in (2, 3, 4, 5):
        IMITATORS["gan"](train_batch_size=3).fit(pictures(n))


def test_one_image_is_refused_by_the_gan():
    with pytest.raises(ValueError, match="2 images or more"):
        IMITATORS["gan"]().fit(pictures(1))


@pytest.mark.parametrize("n", [0, 2.5])
def test_a_senseless_number_of_images_is_refused(gan, n):
    with pytest.raises(ValueError, match="n: expected a positive int"):
        gan.sample(n)


# -- what sources owe -----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "level"), [("gan", 0), ("gan", 1), ("resample", 2), ("gan", 2)])
def test_a_source_draws_from_the_generator_alone(kind, level):
    images, before = grays(n_channels=3), torch.get_rng_state()
    options = {"steps": 2, "width": 4} if (kind, level) == ("gan", 2) else {}
    fakes = make_fakes(kind, level, images, seed(), **options)
    first, second = fakes.sample(5, seed(1)), fakes.sample(5, seed(1))
    assert first.shape == (5, 3, 9, 7)
    assert first.dtype == torch.float32
    assert 0 <= first.min()
    assert first.max() <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, fakes.sample(5, seed(2)))
    assert torch.equal(torch.get_rng_state(), before)
