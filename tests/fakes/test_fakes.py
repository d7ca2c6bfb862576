"""Fakes of every level keep what small windows of normal images show and break the rest."""

import dataclasses

import numpy as np
import pytest
import torch
from oracles import slow_resampled

from anomalib_lite import EntropyPatchGAN, PatchResampler, load
from anomalib_lite.fakes import (
    Imitator,
    Resampled,
    make_fakes,
    patchgan,
    resampled,
    shuffled_pixels,
    uniform_noise,
)
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


def test_level_1_makes_positions_independent():
    images = torch.rand(4000, 1, 1, 1, generator=seed()).expand(-1, -1, 3, 3)
    for fakes in (
        shuffled_pixels(images, seed(1)),
        make_fakes(1, images, seed()).sample(4000, seed(1)),
    ):
        correlation = np.corrcoef(fakes.flatten(1).T) - np.eye(9)
        assert abs(correlation).max() < 0.08


def test_samples_of_level_1_have_the_marginals_of_the_data():
    images = grays(50, 3, (4, 4))
    fakes = make_fakes(1, images, seed()).sample(20_000, seed(1))
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
def test_resampled_agrees_with_its_oracle(level, tolerance, n_channels):
    images, own = grays(20, n_channels), draws(4)
    found = resampled(images, level, own, tolerance=tolerance)
    np.testing.assert_array_equal(found, slow_resampled(images, level, own, tolerance))


def test_resampled_agrees_with_its_oracle_where_no_window_matches():
    images, own = torch.rand(20, 1, 9, 7, generator=seed()), draws(4)
    found = resampled(images, 3, own, tolerance=0.4)
    np.testing.assert_allclose(found, slow_resampled(images, 3, own, 0.4), rtol=1e-6)


def test_the_oracle_of_resampling_notices_other_settings():
    images, own = grays(20), draws(4)
    expected = slow_resampled(images, 3, own, 0.0)
    assert not np.array_equal(resampled(images, 2, own, tolerance=0.0), expected)
    assert not np.array_equal(resampled(images, 3, own, tolerance=1.0), expected)
    assert not np.array_equal(resampled(images, 3, draws(4, value=2), tolerance=0.0), expected)


def test_resampled_windows_are_from_the_data_and_images_are_new():
    images = grays(3000, levels=2)
    fakes = Resampled(images, 2).sample(50, seed(1))
    known = [set(map(tuple, place.tolist())) for place in windows(images, 2).transpose(0, 1)]
    for place, every in zip(windows(fakes, 2).transpose(0, 1), known, strict=True):
        assert set(map(tuple, place.tolist())) <= every
    assert not {image.numpy().tobytes() for image in fakes} & {i.numpy().tobytes() for i in images}


def test_neighbors_stay_dependent_from_level_2_on():
    plain = grays(40, size=(1, 1), levels=5).expand(-1, -1, 9, 7)

    def spread(level):
        fakes = Resampled(plain, level).sample(60, seed(1)).flatten(1)
        return fakes.amax(1) - fakes.amin(1)

    assert spread(2).max() == 0
    assert spread(1).min() > 0


def test_a_large_sample_is_drawn_in_parts_without_changing(monkeypatch):
    images = grays(30)
    whole = Resampled(images, 2).sample(20, seed(1))
    monkeypatch.setattr("anomalib_lite.fakes.resampling._BLOCK", 30 * 7 * 3)
    parts = Resampled(images, 2).sample(20, seed(1))
    assert torch.equal(whole, parts)


# -- by an entropy-regularized PatchGAN -----------------------------------------------------------

GAN = {"image_size": 8, "width": 4, "train_steps": 3, "random_state": 0}


@pytest.fixture(scope="module")
def gan():
    """Not to be changed."""
    return EntropyPatchGAN(2, **GAN).fit(pictures())


def pictures(n=12, size=(9, 8), n_channels=1):
    """(n, H, W) or (n, H, W, C) uint8"""
    shape = (n, *size) if n_channels == 1 else (n, *size, n_channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def game(level=2, images=None, **settings):
    how = {"width": 4, "bound": "jensen-shannon", "position": True, "generator": seed()} | settings
    images = torch.rand(12, 1, 8, 8, generator=seed()) if images is None else images
    return _Game(images, level, **how).train()


def objectives(one, **settings):
    """The three, in order."""
    how = {"entropy_weight": 1.0, "discriminator_learning_rate": None, "critic_learning_rate": None}
    return one.objectives(**how | settings)


class Brightness(torch.nn.Module):
    """A discriminator that takes for real what is brighter than fakes are at first."""

    def forward(self, x, _coordinates):
        return 20 * (x[:, 0] - 0.5)


def test_the_discriminator_separates_real_from_fake_and_the_generator_opposes():
    one = game(images=torch.ones(12, 1, 8, 8))
    one.discriminator = Brightness()
    with torch.no_grad():
        one.generator.up[-1][-2].bias.fill_(-2.0)  # dark fakes
        dealt = one.deal(torch.arange(8), seed())
        assert one.discriminator_loss(dealt) < 1  # right about both
        assert one.generator_losses(dealt)[0] > 5
        swapped = dataclasses.replace(dealt, real=dealt.fakes, fakes=dealt.real)
        assert one.discriminator_loss(swapped) > 20
        assert one.generator_losses(swapped)[0] < 1


def test_losses_reach_the_networks_they_are_for():
    one = game()
    dealt = one.deal(torch.arange(8), seed())

    def reached(loss):
        return {
            name
            for name in ("generator", "discriminator", "critic")
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

    assert reached(one.discriminator_loss(dealt)) == {"discriminator"}
    adversarial, entropy = one.generator_losses(dealt)
    assert reached(adversarial) == {"generator", "discriminator"}
    assert reached(entropy) == {"generator", "critic"}
    assert reached(one.critic_loss(dealt)) == {"critic"}


def test_the_first_turn_deals_the_round_that_all_three_play_with():
    one = game().eval()  # spectral norms stay
    first, second, third = objectives(one)
    names = [objective.name for objective in (first, second, third)]
    assert names == ["discriminator", "generator", "critic"]
    index, generator, same = torch.arange(8), seed(), seed()
    for _ in range(2):
        dealt = one.deal(index, same)
        assert torch.equal(first.loss(index, generator), one.discriminator_loss(dealt))
        for found, expected in zip(
            second.loss(index, None), one.generator_losses(dealt), strict=True
        ):
            assert torch.equal(found, expected)
        assert torch.equal(third.loss(index, None), one.critic_loss(dealt))


def test_each_network_has_its_optimizer():
    one = game()
    found = objectives(
        one, entropy_weight=0.3, discriminator_learning_rate=0.1, critic_learning_rate=0.2
    )
    assert [objective.learning_rate for objective in found] == [0.1, None, 0.2]
    assert [objective.bounded for objective in found] == [None, 0.3, None]
    for objective in found:
        network = getattr(one, objective.name)
        assert [*map(id, objective.parameters)] == [*map(id, network.parameters())]


def test_the_gan_is_trained_by_adam_with_the_usual_betas_of_gans(monkeypatch):
    asked = {}
    monkeypatch.setattr(patchgan, "train", lambda *_, **settings: asked.update(settings) or [])
    EntropyPatchGAN(2, **GAN).fit(pictures())
    optimizer = asked["optimizer"]([torch.nn.Parameter(torch.zeros(1))], lr=0.1, weight_decay=0.0)
    assert isinstance(optimizer, torch.optim.Adam)
    assert optimizer.defaults["betas"] == (0.5, 0.999)


def test_a_round_has_the_images_asked_for_and_fakes_of_its_noise():
    images = torch.rand(12, 1, 8, 8, generator=seed(5))
    one = game(images=images).eval()
    dealt = one.deal(torch.tensor([7, 2]), seed(3))
    assert torch.equal(dealt.real, images[[7, 2]])
    assert torch.equal(dealt.noise, torch.randn(2, 1, 8, 8, generator=seed(3)))
    assert torch.equal(dealt.fakes, one.generator(dealt.noise))


def test_fakes_start_from_the_median_of_the_images():
    for value in (0.2, 0.7):
        images = torch.full((12, 1, 8, 8), value)
        images[:4] = 1 - value  # moves the mean, not the median
        one = game(images=images).eval()
        fakes = one.deal(torch.arange(12), seed()).fakes.detach()
        assert float(fakes.median()) == pytest.approx(value, abs=0.1)


def test_without_position_the_discriminator_knows_no_place():
    flat = torch.full((4, 1, 8, 8), 0.3)
    with torch.no_grad():
        for position in (True, False):
            judged = game(position=position).judge(flat)
            same = torch.allclose(judged, judged[:, :1, :1].expand_as(judged), atol=1e-6)
            assert same != position


class Likeness(torch.nn.Module):
    """A critic that is right if images are as bright as their noise."""

    def forward(self, x, z):
        return 4 * (x * z).mean((1, 2, 3))


def played(one, which, n_steps=25):
    """Values of one of the generator's two losses while it is lowered, and the last round."""
    optimizer = torch.optim.Adam(one.generator.parameters(), lr=0.01)
    generator, values = seed(), []
    for _ in range(n_steps):
        dealt = one.deal(torch.arange(12), generator)
        loss = one.generator_losses(dealt)[which]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    return values, dealt


@pytest.mark.parametrize("bound", INFORMATION_BOUNDS)
def test_the_entropy_loss_makes_images_tell_their_noise(bound):
    one = game(bound=bound)
    one.critic = Likeness()
    values, dealt = played(one, 1)
    assert values[-1] < values[0] - 0.1
    together = one.critic(2 * dealt.fakes - 1, dealt.noise)
    assert (together > one.critic(2 * dealt.fakes - 1, dealt.noise.roll(1, 0))).all()


class Taste(torch.nn.Module):
    """A discriminator that likes images to be bright in their upper half and dark below."""

    def forward(self, x, coordinates):
        return -4 * x[:, 0] * coordinates[0].sign()


def test_the_adversarial_loss_makes_images_that_the_discriminator_likes():
    def contrast(dealt):
        return dealt.fakes[:, :, :3].mean() - dealt.fakes[:, :, 5:].mean()

    one = game()
    one.discriminator = Taste()
    before = contrast(one.deal(torch.arange(12), seed()))
    _, dealt = played(one, 0)
    assert contrast(dealt) > before + 0.3


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


def test_parameters_set_after_fit_do_not_alter_samples():
    fitted = IMITATORS["resampler"](tolerance=0.0).fit(pictures())
    expected = fitted.sample(3, 0)
    with pytest.warns(UserWarning, match="level, tolerance: changed after fit"):
        fitted.set_params(level=1, tolerance=9.0)
    np.testing.assert_array_equal(fitted.sample(3, 0), expected)


def test_crops_are_learned_from_each_image():
    fitted = PatchResampler(2, image_size=8, crop_size=5, crops_per_image=3, random_state=0)
    images = np.arange(12, dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    crops = fitted.fit(images).source_.images
    assert crops.shape == (36, 1, 5, 5)
    assert (255 * crops[:, 0, 0, 0]).round().tolist() == np.repeat(range(12), 3).tolist()


def test_settings_reach_the_training(gan):
    assert not any(weight.requires_grad for weight in gan.source_.parameters())
    again = EntropyPatchGAN(2, **GAN).fit(pictures())
    np.testing.assert_array_equal(again.sample(2, 0), gan.sample(2, 0))
    changes = (
        {"entropy_weight": 0.0}, {"bound": "donsker-varadhan"}, {"position": False}, {"width": 5},
        {"train_steps": 4}, {"learning_rate": 1e-3}, {"discriminator_learning_rate": 1e-2},
        {"critic_learning_rate": 1e-2}, {"schedule": "cosine"}, {"train_batch_size": 6},
    )  # fmt: skip
    for change in changes:
        other = EntropyPatchGAN(2, **GAN | change).fit(pictures())
        assert not np.array_equal(other.sample(2, 0), gan.sample(2, 0)), change
    assert set(gan.history_[0]) == {
        "epoch", "discriminator", "generator", "critic", "learning_rate"
    }  # fmt: skip
    by_epochs = EntropyPatchGAN(2, **GAN | {"train_steps": None, "epochs": 2}).fit(pictures())
    assert len(by_epochs.history_) == 2


@pytest.mark.parametrize(
    ("name", "params", "match"),
    [
        ("gan", {"level": 3}, r"level: expected one of 1, 2"),
        ("gan", {"level": 16}, r"level: windows of 16 px"),
        ("gan", {"entropy_weight": -1}, "entropy_weight"),
        ("gan", {"bound": "nwj"}, "bound"),
        ("gan", {"width": 0}, "width"),
        ("gan", {"epochs": 0}, "epochs"),
        ("gan", {"train_steps": 0}, "train_steps"),
        ("gan", {"train_batch_size": 2}, "train_batch_size"),
        ("gan", {"learning_rate": -1}, "learning_rate"),
        ("gan", {"discriminator_learning_rate": "x"}, "discriminator_learning_rate"),
        ("gan", {"schedule": "linear"}, "schedule"),
        ("gan", {"crop_size": 9}, r"crop_size: 9 px do not fit"),
        ("resampler", {"level": 0}, "level"),
        ("resampler", {"level": 6, "crop_size": 5}, "level: windows of 6 px do not fit into 5 px"),
        ("resampler", {"tolerance": -1}, "tolerance"),
        ("resampler", {"crops_per_image": 0}, "crops_per_image"),
    ],
)
def test_invalid_parameters_are_refused_and_nothing_is_learned(name, params, match):
    estimator = IMITATORS[name](**params)
    with pytest.raises(ValueError, match=match):
        estimator.fit(pictures())
    assert not [key for key in vars(estimator) if key.endswith("_")]


def test_two_images_are_enough_for_the_gan():
    for n in (2, 3, 4, 5):
        IMITATORS["gan"](train_batch_size=3).fit(pictures(n))


def test_one_image_is_refused_by_the_gan():
    with pytest.raises(ValueError, match="needs 2 images or more, got 1"):
        IMITATORS["gan"]().fit(pictures(1))
    assert IMITATORS["gan"](crop_size=5).fit(pictures(1)).n_images_ == 1


@pytest.mark.parametrize("n", [0, 2.5])
def test_an_invalid_number_of_samples_is_refused(gan, n):
    with pytest.raises(ValueError, match="n: expected a positive int"):
        gan.sample(n)


# -- sources --------------------------------------------------------------------------------------

GAN_OF_2 = EntropyPatchGAN(2, train_steps=2, width=4)


@pytest.mark.parametrize(
    ("level", "imitator"), [(0, None), (1, None), (2, PatchResampler(2)), (2, GAN_OF_2)]
)
def test_a_source_draws_from_the_generator_alone(level, imitator):
    images, before = grays(n_channels=3), torch.get_rng_state()
    fakes = make_fakes(level, images, seed(), imitator)
    first, second = fakes.sample(5, seed(1)), fakes.sample(5, seed(1))
    assert first.shape == (5, 3, 9, 7)
    assert first.dtype == torch.float32
    assert 0 <= first.min()
    assert first.max() <= 1
    assert torch.equal(first, second)
    assert not torch.equal(first, fakes.sample(5, seed(2)))
    assert torch.equal(torch.get_rng_state(), before)


def test_fakes_of_a_level_are_from_an_imitator_of_that_level():
    images = grays()
    found = make_fakes(2, images, seed(), PatchResampler(2, tolerance=0.4)).sample(3, seed(1))
    assert torch.equal(found, Resampled(images, 2, 0.4).sample(3, seed(1)))
    for imitator in (None, PatchResampler(4)):
        with pytest.raises(ValueError, match="imitator: expected one of level 2"):
            make_fakes(2, images, seed(), imitator)


def test_a_subclass_must_say_how_it_imitates():
    class Nothing(PatchResampler):
        _imitate = Imitator._imitate

    with pytest.raises(NotImplementedError, match="Nothing must implement _imitate"):
        Nothing(2, image_size=8).fit(pictures())
