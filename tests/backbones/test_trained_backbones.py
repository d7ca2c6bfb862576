"""Networks that are trained, then frozen and stored."""

import copy

import pytest
import torch
from small_networks import (
    SIZE,
    SMALL,
    Trunk,
    assert_close,
    assert_same_bits,
    batch,
    bundled,
    norms_left,
    seed,
)
from torch import nn

from anomalib_lite.backbones import Backbone


def in_training(name="efficientnet_lite0", **options):
    return Backbone(name, image_size=64, frozen=False, **options)


def step(backbone, rate=0.01):
    """One step down the mean square of the maps, in training mode."""
    module = backbone.module.train()
    loss = sum(grid.square().mean() for grid in backbone.trainable_maps(batch(64)))
    loss.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter -= rate * parameter.grad / parameter.grad.norm().clamp_min(1e-12)
    module.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet_lite0", {}),
        (SMALL, {"weights": "random"}),
        ("convnet", {"weights": "random", "layers": "last"}),
        ("vit_tiny_patch16_224", {"weights": "random"}),
    ],
)
def test_gradients_reach_every_parameter_of_a_network_in_training(name, options):
    backbone = in_training(name, **options, generator=seed(0))
    assert all(parameter.requires_grad for parameter in backbone.module.parameters())
    assert not backbone.module.training
    maps = backbone.trainable_maps(batch(64))
    sum(grid.square().mean() for grid in maps).backward()
    for parameter in backbone.module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert not any(grid.requires_grad for grid in backbone(batch(64)))


def test_before_training_a_network_gives_what_the_frozen_one_gives():
    assert_close(in_training()(batch(64)), bundled()(batch(64)))


def test_a_frozen_network_lets_gradients_through_to_the_images():
    images = batch(64).requires_grad_()
    maps = bundled().trainable_maps(images)
    sum(grid.sum() for grid in maps).backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet_lite0", {}),
        ("convnet", {"weights": "random", "layers": "last"}),
        (Trunk("tuple"), {}),
    ],
    ids=["bundled", "convnet", "module"],
)
@pytest.mark.parametrize("mode", [True, False])
def test_a_network_is_frozen_as_it_was_trained(name, options, mode):
    backbone = in_training(name, **options)
    untrained = backbone(batch(64))
    step(backbone)
    expected = backbone(batch(64))
    assert all(
        float((a - b).abs().max()) > 0.01 for a, b in zip(untrained, expected, strict=True)
    )  # or nothing below would say much
    backbone.module.train(mode)
    backbone.freeze()
    assert_close(backbone(batch(64)), expected)
    assert norms_left(backbone) == 0
    with_weights = [module for module in backbone.module.modules() if [*module.parameters()]]
    assert not any(module.training for module in with_weights)
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


@pytest.mark.parametrize(
    ("name", "options", "embed"),
    [
        ("efficientnet_lite0", {}, False),
        ("convnet", {"weights": "random", "layers": "last"}, False),
        ("convnet", {"weights": "random", "layers": "last"}, True),
    ],
)
def test_the_state_of_a_trained_network_has_its_weights(name, options, embed):
    """Even if its name alone would bring back pretrained ones."""
    backbone = in_training(name, **options, generator=seed(0))
    untrained_sha256 = Backbone(name, image_size=64, **options, generator=seed(0)).weights_sha256
    step(backbone)
    backbone.freeze()
    state = backbone.to_state(embed=embed)
    assert state["weights"] is not None
    again = Backbone.from_state(state)
    assert again.weights_sha256 == backbone.weights_sha256 != untrained_sha256
    assert_same_bits(again(batch(64)), backbone(batch(64)))
    assert not again.module.training
    assert not any(parameter.requires_grad for parameter in again.module.parameters())
    assert Backbone.from_state(again.to_state()).weights_sha256 == backbone.weights_sha256


def test_the_state_of_a_module_has_its_weights_and_goes_into_a_copy():
    module = Trunk()
    backbone = Backbone(module, image_size=SIZE)
    other = Trunk()
    with torch.no_grad():
        other.stem[0].weight.zero_()
    before = copy.deepcopy(other.state_dict())
    again = Backbone.from_state(backbone.to_state() | {"backbone": other})
    assert_same_bits(again(batch()), backbone(batch()))
    assert_same_bits(other.state_dict().values(), before.values())


def test_a_state_keeps_size_crop_and_normalization():
    backbone = Backbone(Trunk(), image_size=(48, 40), center_crop=(32, 24))
    again = Backbone.from_state(backbone.to_state())
    assert again.input == backbone.input
    named = bundled(image_size=(96, 64), center_crop=(64, 32))
    assert Backbone.from_state(named.to_state()).input == named.input


def test_pretrained_weights_are_stored_only_where_asked_for():
    assert bundled().to_state()["weights"] is None
    weights = bundled().to_state(embed=True)["weights"]
    assert weights.keys() == bundled().module.state_dict().keys()


def test_a_state_of_other_pretrained_weights_is_refused():
    state = bundled().to_state() | {"weights_sha256": "0" * 64}
    with pytest.raises(ValueError, match=r"'efficientnet_lite0' found here.*embed_backbone=True"):
        Backbone.from_state(state)


def test_a_state_of_another_architecture_is_refused():
    state = Backbone(Trunk(), image_size=SIZE).to_state()
    with pytest.raises(ValueError, match="backbone: Sequential is of another architecture"):
        Backbone.from_state(state | {"backbone": nn.Sequential(nn.Conv2d(3, 4, 3, 2)), "folds": []})


def test_a_trained_network_is_frozen_in_the_precision_asked_for():
    backbone = in_training(dtype="bfloat16")
    assert backbone.dtype == torch.float32
    expected = backbone(batch(64))
    backbone.freeze()
    assert backbone.dtype == torch.bfloat16
    assert {p.dtype for p in backbone.module.parameters()} == {torch.bfloat16}
    assert_close(backbone(batch(64)), expected, 0.1)


def test_the_callers_module_stays_as_it_was_while_the_copy_is_trained():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
    before = copy.deepcopy(module.state_dict())
    backbone = in_training(module)
    step(backbone)
    backbone.freeze()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())
