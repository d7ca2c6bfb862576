"""The networks that methods train: shapes, receptive fields, definitions, and states."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from anomalib_lite.backbones import Backbone
from anomalib_lite.contexts import seeded
from anomalib_lite.density import LogitMLP
from anomalib_lite.nn import (
    BatchDeviation,
    ConvAutoencoder,
    ConvNet,
    DenseEncoder,
    InformationCritic,
    LinearAutoencoder,
    MLPAutoencoder,
    PatchDiscriminator,
    ResidualEncoder,
    UNetGenerator,
    mlp,
    reconstruction_errors,
)
from anomalib_lite.nn.windows import KERNELS, PatchDetector, coordinate_maps

SIZE = 32


def seed(value=0):
    return torch.Generator().manual_seed(value)


def batch(n=2, height=SIZE, width=SIZE):
    return torch.randn(n, 3, height, width, generator=seed())


def convnet(**options):
    with seeded(seed()):
        return ConvNet(**options).eval()


def small(**options):
    options = {"weights": "random", "layers": "last", "generator": seed()} | options
    return Backbone("convnet", image_size=SIZE, **options)


def shapes(maps):
    return [tuple(grid.shape[1:]) for grid in maps]


# -- ConvNet --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "size", "expected"),
    [
        ((16, 32, 64, 128), (32, 32), [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]),
        ((4, 6), (32, 64), [(4, 32, 64), (6, 16, 32)]),
        ((5,), (9, 7), [(5, 9, 7)]),
    ],
)
def test_each_stage_but_the_first_halves_the_image(widths, size, expected):
    network = ConvNet(widths)
    assert shapes(network(batch(2, *size))) == expected
    told = [(info["num_chs"], info["reduction"]) for info in network.feature_info]
    assert told == [(c, size[0] // h) for c, h, _ in expected]
    assert all(network.get_submodule(info["module"]) for info in network.feature_info)


@pytest.mark.parametrize("indices", [[0], [3], [1, 2], [0, 3]])
def test_maps_are_those_of_the_stages_asked_for(indices):
    network = convnet()
    every = network(batch())
    some = network.forward_intermediates(batch(), indices=indices, stop_early=True)
    assert len(some) == len(indices)
    assert all(torch.equal(grid, every[i]) for grid, i in zip(some, indices, strict=True))


def test_later_stages_leave_earlier_maps_unchanged():
    network = convnet()
    first, *_ = network(batch())
    (alone,) = network.forward_intermediates(batch(), indices=[0])
    assert torch.equal(first, alone)


def test_later_stages_do_not_run():
    network, ran = convnet(), []
    for i, stage in enumerate(network.stages):
        stage.register_forward_hook(lambda *_, i=i: ran.append(i))
    network.forward_intermediates(batch(), indices=[1])
    assert ran == [0, 1]


def test_pruning_removes_later_stages_alone():
    network = convnet()
    expected = network(batch())[:2]
    network.prune_intermediate_layers([0, 1], prune_norm=True, prune_head=True)
    assert len(network.stages) == 2
    maps = network(batch())
    assert all(torch.equal(a, b) for a, b in zip(maps, expected, strict=True))


# -- through the backbone -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "names", "expected"),
    [
        ("last", ("stages.3",), [(128, 4, 4)]),
        ((8,), ("stages.3",), [(128, 4, 4)]),
        ((4, 1), ("stages.0", "stages.2"), [(16, 32, 32), (64, 8, 8)]),
        (["stages.1"], ("stages.1",), [(32, 16, 16)]),
    ],
)
def test_layers_are_strides_or_stages(layers, names, expected):
    backbone = small(layers=layers)
    assert backbone.layer_names == names
    assert shapes(backbone(batch())) == expected
    assert backbone.n_channels == tuple(shape[0] for shape in expected)
    assert backbone.input.patch_size == SIZE // expected[0][1]
    deepest = int(names[-1][-1])
    assert len(backbone.module.stages) == deepest + 1


def test_the_maps_are_those_of_the_plain_network():
    """BatchNorms are folded, which changes the last digits."""
    (grid,), expected = small()(batch()), convnet()(batch())[3]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in small().module.modules())
    torch.testing.assert_close(grid, expected, rtol=1e-4, atol=1e-5)


def test_a_seed_gives_the_same_network():
    assert small().weights_sha256 == small().weights_sha256
    assert small().weights_sha256 != small(generator=seed(1)).weights_sha256


def test_missing_strides_are_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"layers: 16 is not there.*strides \[1, 2, 4, 8\]"):
        small(layers=(8, 16))


def test_pretrained_weights_are_refused():
    with pytest.raises(ValueError, match=r"weights: 'convnet' has no pretrained weights.*'random'"):
        Backbone("convnet", layers="last", image_size=SIZE)


def test_weights_are_read_from_a_file(tmp_path):
    network = convnet()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    (grid,) = small(weights=str(tmp_path / "weights.pt"), generator=seed(9))(batch())
    torch.testing.assert_close(grid, network(batch())[3], rtol=1e-4, atol=1e-5)
    torch.save(ConvNet((4, 4)).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="does not fit 'convnet'"):
        small(weights=str(tmp_path / "other.pt"))


@pytest.mark.parametrize("layers", ["last", (2, 4)])
@pytest.mark.parametrize("embed", [False, True])
def test_a_state_makes_an_equal_backbone(embed, layers):
    backbone = small(layers=layers)
    again = Backbone.from_state(backbone.to_state(embed=embed))
    assert again.layer_names == backbone.layer_names
    assert again.weights_sha256 == backbone.weights_sha256
    for grid, other in zip(again(batch()), backbone(batch()), strict=True):
        assert torch.equal(grid, other)


def test_a_convnet_module_is_read_by_stride():
    backbone = Backbone(ConvNet((4, 8, 12)), layers=(2, 4), image_size=SIZE)
    assert shapes(backbone(batch())) == [(8, 16, 16), (12, 8, 8)]


def test_a_pruned_network_is_read_again():
    module = small(layers=(2,), frozen=False).module
    assert shapes(Backbone(module, layers="last", image_size=SIZE)(batch())) == [(32, 16, 16)]


# -- MLP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "norm", "expected"),
    [
        ((), True, "Linear"),
        ((16,), True, "Linear BatchNorm1d ReLU Linear"),
        ((16, 8), False, "Linear ReLU Linear ReLU Linear"),
        ((16, 8), True, "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear"),
    ],
)
def test_an_mlp_has_hidden_layers_of_the_widths_asked_for(hidden, norm, expected):
    network = mlp(6, hidden, 3, norm=norm)
    assert [type(layer).__name__ for layer in network] == expected.split()
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*hidden, 3]
    assert [layer.bias is not None for layer in linear] == [not norm] * len(hidden) + [True]
    assert network(torch.zeros(4, 6)).shape == (4, 3)


# -- networks that a file can hold ----------------------------------------------------------------


STORED = {
    "log-odds": lambda: (LogitMLP(5, (8,), start=-1.0), torch.rand(3, 5)),
    "gray": lambda: (ConvAutoencoder((1, 28, 28), 4), torch.rand(3, 1, 28, 28)),
    "color, odd sides": lambda: (ConvAutoencoder((3, 33, 47), 4, (4, 8)), torch.rand(3, 3, 33, 47)),
    "rows": lambda: (MLPAutoencoder((6,), 2, (8, 4)), torch.rand(3, 6)),
    "pixels": lambda: (MLPAutoencoder((3, 8, 9), 2, (8,)), torch.rand(3, 3, 8, 9)),
    "residual": lambda: (ResidualEncoder(1, 16, 4, pool=False), torch.rand(3, 1, 16, 16)),
    "bottleneck": lambda: (
        ResidualEncoder(3, 64, 4, (1, 2, 1), bottleneck=True),
        torch.rand(3, 3, 24, 16),
    ),
    "dense": lambda: (DenseEncoder(3, 16, 4, n_layers=2), torch.rand(3, 3, 16, 16)),
    "linear": lambda: (LinearAutoencoder.from_data(torch.rand(20, 6), 2), torch.rand(3, 6)),
    "generator": lambda: (UNetGenerator((1, 13, 9), (4, 6)), torch.rand(3, 1, 13, 9)),
    "detector": lambda: (
        PatchDetector(4, 3, 4),
        torch.rand(3, 3, 9, 8),
        coordinate_maps((6, 5)),
    ),
}


@pytest.mark.parametrize("name", STORED)
def test_a_state_makes_an_equal_network(name):
    with seeded(seed()):
        network, *x = STORED[name]()
    network = network.eval()
    before = torch.get_rng_state()
    again = type(network).from_state(network.to_state())
    assert torch.equal(torch.get_rng_state(), before)
    weights, others = network.state_dict(), again.state_dict()
    assert list(weights) == list(others)
    assert all(torch.equal(value, others[key]) for key, value in weights.items())
    for a, b in zip(network(*x), again(*x), strict=True):
        assert torch.equal(a, b)
    assert not any(p.requires_grad for p in again.parameters())


@pytest.mark.parametrize("size", [(28, 28), (29, 64), (128, 128)])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_reconstructions_have_the_size_of_images(size, n_channels):
    network = ConvAutoencoder((n_channels, *size), 7).eval()
    code, back = network(torch.rand(2, n_channels, *size))
    assert code.shape == (2, 7)
    assert back.shape == (2, n_channels, *size)
    assert 0 <= back.min()
    assert back.max() <= 1


def test_codes_have_mean_0_and_variance_1_in_training():
    for network, x in (
        (ConvAutoencoder((1, 28, 28), 4), torch.rand(50, 1, 28, 28)),
        (MLPAutoencoder((6,), 3), torch.rand(50, 6)),
    ):
        code = network.train().encode(x)
        torch.testing.assert_close(code.mean(0), torch.zeros_like(code[0]), atol=1e-4, rtol=0)
        variance = code.var(0, correction=0)
        torch.testing.assert_close(variance, torch.ones_like(variance), atol=0.05, rtol=0)


@pytest.mark.parametrize("cls", [ConvAutoencoder, MLPAutoencoder])
def test_a_gray_autoencoder_counts_color_as_error(cls):
    network = cls((1, 28, 28), 4).eval()
    gray = torch.rand(1, 1, 28, 28)
    color = gray.repeat(1, 3, 1, 1)
    color[:, 0] += 0.2
    color[:, 1] -= 0.2
    errors = [reconstruction_errors(x, network(x)[1])[0, 0] for x in (gray, color)]
    torch.testing.assert_close(network(gray)[0], network(color)[0])
    torch.testing.assert_close(errors[1] - errors[0], torch.tensor(0.08 / 3))


@pytest.mark.parametrize("n", [12, 200])
def test_components_of_rounding_are_left_out(n):
    gray = torch.linspace(0.1, 0.9, n)[:, None].expand(-1, 50)  # rows that are constant
    network = LinearAutoencoder.from_data(gray, 6)
    assert network.latent_dim == network.arguments["latent_dim"] == 1
    code, back = network(gray)
    assert code.std() == pytest.approx(1)
    np.testing.assert_allclose(back, gray, atol=1e-6)


@pytest.mark.parametrize("n", [7, 12, 13, 9000])  # up to twice as many as columns, and beyond
def test_the_linear_autoencoder_is_scikit_learns_pca(n):
    rows = np.random.default_rng(0).normal(size=(n, 6)) @ np.diag([5, 4, 3, 2, 1, 0.5]) + 3
    pca = PCA(3, whiten=True, svd_solver="full").fit(rows)
    network = LinearAutoencoder.from_data(torch.from_numpy(rows), 3)
    code, back = network(torch.from_numpy(rows))
    np.testing.assert_allclose(code, pca.transform(rows), atol=1e-9)
    np.testing.assert_allclose(back, pca.inverse_transform(pca.transform(rows)), atol=1e-9)


def test_more_components_than_inputs_are_refused():
    with pytest.raises(ValueError, match="at most 3"):
        LinearAutoencoder.from_data(torch.rand(3, 8, generator=seed()), 4)


def test_reconstruction_errors_are_their_definitions():
    x, back = torch.rand(4, 2, 3, generator=seed()), torch.rand(4, 2, 3, generator=seed(1))
    for one, two, found in zip(x, back, reconstruction_errors(x, back), strict=True):
        one, two = one.flatten().double().numpy(), two.flatten().double().numpy()
        cosine = one @ two / np.sqrt((one @ one) * (two @ two))
        np.testing.assert_allclose(found, [np.mean((one - two) ** 2), 1 - cosine], rtol=1e-5)


# -- encoders of patches --------------------------------------------------------------------------

ENCODERS = {
    "resnet18": lambda: ResidualEncoder(3, 1024),
    "resnet50": lambda: ResidualEncoder(3, 1024, blocks=(3, 4, 6), bottleneck=True),
    "densenet": lambda: DenseEncoder(3, 1024),
}


@pytest.mark.parametrize("name", list(ENCODERS))
def test_a_patchs_embedding_does_not_depend_on_the_others(name):
    with seeded(seed()):
        encoder = ENCODERS[name]()
    patches = batch(3, 64, 64)
    with torch.no_grad():
        together = encoder(patches)
        alone = torch.cat([encoder(patch[None]) for patch in patches])
    assert together.shape == (3, 1024)
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-5)


def test_the_third_stage_of_resnet50_is_1024_wide_and_needs_no_linear_layer():
    assert isinstance(ENCODERS["resnet50"]().head, nn.Identity)
    assert ENCODERS["resnet18"]().head.in_features == 256


def test_stages_are_as_deep_as_their_names_say():
    def layers(name):
        """Convolutions but for shortcuts, of three stages and the first."""
        return sum(
            isinstance(module, nn.Conv2d) and not key.endswith("shortcut")
            for key, module in ENCODERS[name]().named_modules()
        )

    assert layers("resnet18") == 1 + 3 * 2 * 2  # 18 with the fourth stage and the last layer
    assert layers("resnet50") == 1 + (3 + 4 + 6) * 3
    assert layers("densenet") == 1 + 1 + 6 + 1


def test_a_residual_block_without_weights_passes_its_input_on():
    encoder = ResidualEncoder(3, 8, 4)
    block = encoder.maps[2]
    nn.init.zeros_(block.convolutions[-1].weight)
    x = torch.randn(2, 4, 8, 8, generator=seed())
    torch.testing.assert_close(block(x.clone()), x)


# -- networks that read windows -------------------------------------------------------------------

DISTANT = (40, 37)


def detector(level, **options):
    with seeded(seed(3)):
        return PatchDetector(level, 2, width=4, **options).double().eval()


def discriminator(level):
    with seeded(seed(3)):
        return PatchDiscriminator(level, 2, width=4).double().eval()


def windows_that_see(pixel, level, size):
    """Which outputs (h, w) have the pixel in their window."""
    rows, columns = (
        (at - level < np.arange(side - level + 1)) & (np.arange(side - level + 1) <= at)
        for at, side in zip(pixel, size, strict=True)
    )
    return rows[:, None] & columns


@pytest.mark.parametrize("pixel", [(0, 0), (19, 22), (39, 36), (3, 30)])
@pytest.mark.parametrize("level", KERNELS)
def test_a_pixel_changes_the_windows_it_is_in_and_no_others(level, pixel):
    x = torch.rand(3, 2, *DISTANT, generator=seed(), dtype=torch.float64)
    moved = x.clone()
    moved[1, :, *pixel] += 1
    told = {
        "detector": (detector(level), coordinate_maps([side - level + 1 for side in DISTANT])),
        "discriminator": (discriminator(level), coordinate_maps(DISTANT)),
    }
    expected = windows_that_see(pixel, level, DISTANT)
    for name, (network, coordinates) in told.items():
        with torch.no_grad():
            change = (network(moved, coordinates.double()) - network(x, coordinates.double())) != 0
        assert np.array_equal(change[1].numpy(), expected), name
        for other in change[[0, 2]].numpy():  # images are compared by the discriminator alone
            assert np.array_equal(other, expected & (name == "discriminator")), name


@pytest.mark.parametrize("level", [1, 8])
def test_a_coordinate_changes_the_output_there_alone(level):
    network, size = detector(level), (16, 14)
    x = torch.rand(2, 2, *size, generator=seed(), dtype=torch.float64)
    coordinates = coordinate_maps([side - level + 1 for side in size]).double()
    other = coordinates.clone()
    other[:, 4, 5] = 0.9
    with torch.no_grad():
        change = network(x, other) != network(x, coordinates)
    assert change[:, 4, 5].all()
    assert change.sum() == 2


def test_each_image_may_have_its_own_coordinates():
    network = detector(2)
    x = torch.rand(2, 2, 6, 5, generator=seed(), dtype=torch.float64)
    coordinates = torch.rand(2, 2, 5, 4, generator=seed(), dtype=torch.float64)
    together = network(x, coordinates)
    for i in range(2):
        alone = network(x[i : i + 1], coordinates[i])[0]
        torch.testing.assert_close(together[i], alone)


def test_only_discriminators_normalize_and_only_what_sees_neighbors():
    def normalized(network):
        layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        return [hasattr(layer, "parametrizations") for layer in layers]

    assert not any(normalized(detector(8)))
    assert normalized(discriminator(8)) == [True] * 3 + [False] * (1 + 4 + 1)


def test_unknown_levels_are_refused():
    for network in (PatchDetector, PatchDiscriminator):
        with pytest.raises(ValueError, match=r"level: expected one of 1, 2, .*got 3"):
            network(3, 1)


def test_dropout_acts_in_training_only():
    network, coordinates = detector(1, dropout=0.5), coordinate_maps((8, 8)).double()
    x = torch.rand(1, 2, 8, 8, generator=seed(), dtype=torch.float64)
    assert torch.equal(network(x, coordinates), network(x, coordinates))
    network.train()
    assert not torch.equal(network(x, coordinates), network(x, coordinates))


def test_batch_deviation_is_that_of_four_images_at_each_position():
    x = torch.randn(6, 10, 3, 2, generator=seed(), dtype=torch.float64)
    found = BatchDeviation()(x)[:, 10:]
    for image in range(6):
        group = x[[(image + i) % 6 for i in range(4)]].numpy()
        deviation = group.std(0)  # (10, 3, 2)
        parts = [deviation[:3], deviation[3:6], deviation[6:8], deviation[8:]]
        expected = np.stack([part.mean(0) for part in parts])
        np.testing.assert_allclose(found[image], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "widths"), [((1, 28, 28), (4, 6, 8)), ((3, 33, 47), (4, 8)), ((1, 4, 5), (4,))]
)
def test_generated_images_have_the_shape_of_noise_and_start_near_a_value(shape, widths):
    with seeded(seed()):
        network = UNetGenerator(shape, widths, start=0.1)
    images = network.sample(5, seed())
    assert images.shape == (5, *shape)
    assert 0 < images.min()
    assert images.max() < 1
    assert 0.03 < images.median() < 0.25
    assert torch.equal(network.eval().sample(5, seed()), network.sample(5, seed()))
    assert not torch.equal(network.sample(5, seed()), network.sample(5, seed(1)))


def test_every_pixel_of_a_generated_image_depends_on_every_noise_pixel():
    with seeded(seed()):
        network = UNetGenerator((1, 32, 32), (4, 6, 8)).double().eval()
    z = torch.randn(1, 1, 32, 32, generator=seed(), dtype=torch.float64)
    moved = z.clone()
    moved[0, 0, 0, 0] += 3
    assert (network(moved) != network(z)).all()


def test_the_critic_reads_pairs_at_every_stage():
    with seeded(seed()):
        network = InformationCritic(1, (4, 6, 8)).eval()
    x, z = (torch.rand(4, 1, 12, 12, generator=seed(i)) for i in range(2))
    value = network(x, z)
    assert value.shape == (4,)
    torch.testing.assert_close(network(x[:1], z[:1])[0], value[0])
    assert not torch.allclose(network(x, z.flip(0)), value)
    for weight in network.weights:
        with torch.no_grad():
            weight.bias += 1
        torch.testing.assert_close(network(x, z), value + 1)
        value = value + 1
