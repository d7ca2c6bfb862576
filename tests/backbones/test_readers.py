"""Layers of timm networks and of any other module, read as feature maps."""

import copy

import numpy as np
import pytest
import timm
import torch
from small_networks import (
    COARSE,
    FINE,
    IMAGENET_MEAN,
    IMAGENET_STD,
    SIZE,
    SMALL,
    Trunk,
    assert_close,
    batch,
    convolutions_run,
    random_small,
    seed,
    shapes,
    timm_small,
)
from torch import nn

from anomalib_lite.backbones import Backbone

VIT = "vit_tiny_patch16_224"


def random_vit(**options):
    return Backbone(VIT, **{"weights": "random", "image_size": 32, "generator": seed(0)} | options)


# -- timm networks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "names", "sizes"),
    [
        (None, ("layer2", "layer3"), [(128, 4), (256, 2)]),
        ((4,), ("layer1",), [(64, 8)]),
        ([16, 4], ("layer1", "layer3"), [(64, 8), (256, 2)]),
        (("layer3",), ("layer3",), [(256, 2)]),
        (("layer2", 16), ("layer2", "layer3"), [(128, 4), (256, 2)]),
        ((8, 8, "layer2"), ("layer2",), [(128, 4)]),
        ((2,), ("act1",), [(64, 16)]),
        ((32,), ("layer4",), [(512, 1)]),
        ("last", ("layer4",), [(512, 1)]),
    ],
)
def test_layers_of_a_convolutional_network_are_strides_or_names(layers, names, sizes):
    backbone = random_small(layers=layers)
    assert backbone.layer_names == names
    assert backbone.n_channels == tuple(channels for channels, _ in sizes)
    assert shapes(backbone(batch())) == [(2, c, side, side) for c, side in sizes]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, ("blocks.5", "blocks.8")),
        ((0, 11), ("blocks.0", "blocks.11")),
        ((-1,), ("blocks.11",)),
        ((-12, 3), ("blocks.0", "blocks.3")),
        (("blocks.7",), ("blocks.7",)),
        ("last", ("blocks.11",)),
    ],
)
def test_layers_of_a_transformer_are_blocks_or_names(layers, names):
    backbone = random_vit(layers=layers)
    assert backbone.layer_names == names
    assert shapes(backbone(batch(32))) == [(2, 192, 2, 2)] * len(names)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((7,), r"7 is not there.*strides \[2, 4, 8, 16, 32\] or names \['act1', 'layer1'"),
        ((-1,), "-1 is not there.*strides"),
        (("layer9",), "'layer9' is not there.*names"),
        ((8.0,), "8.0 is not there.*strides"),
        ("layer2", "expected a sequence of strides, blocks or names, or 'last', got 'layer2'"),
        (8, "expected a sequence of strides, blocks or names, or 'last', got 8"),
        ((), r"expected a sequence of strides, blocks or names, or 'last', got \(\)"),
    ],
)
def test_wrong_layers_of_a_convolutional_network_are_refused_with_the_choices(layers, message):
    with pytest.raises(ValueError, match=f"layers: .*{message}"):
        random_small(layers=layers)


@pytest.mark.parametrize("layer", [12, -13, "layer2"])
def test_wrong_layers_of_a_transformer_are_refused_with_the_choices(layer):
    with pytest.raises(ValueError, match=r"is not there.*blocks 0\.\.11 or names \['blocks\.0'"):
        random_vit(layers=[layer])


def test_strides_may_be_numpy_ints():
    assert random_small(layers=np.array([8, 16])).layer_names == ("layer2", "layer3")


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@pytest.mark.parametrize(
    ("name", "size", "layers", "expected", "mean", "std"),
    [
        pytest.param(
            "resnet50_clip.openai",
            64,
            ("stages.1", "stages.2"),
            [(1, 512, 8, 8), (1, 1024, 4, 4)],
            CLIP_MEAN,
            CLIP_STD,
            id="CLIP ResNet",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "vit_base_patch16_clip_224.openai",
            64,
            ("blocks.5", "blocks.8"),
            [(1, 768, 4, 4)] * 2,
            CLIP_MEAN,
            CLIP_STD,
            id="CLIP ViT",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "vit_small_patch14_dinov2.lvd142m",
            70,
            ("blocks.5", "blocks.8"),
            [(1, 384, 5, 5)] * 2,
            IMAGENET_MEAN,
            IMAGENET_STD,
            id="DINOv2",
        ),
    ],
)
def test_foundation_models_are_read_as_grids(name, size, layers, expected, mean, std):
    """With random weights."""
    backbone = Backbone(name, weights="random", image_size=size, generator=seed(0))
    assert backbone.layer_names == layers
    assert (backbone.input.mean, backbone.input.std) == (mean, std)
    assert backbone.input.patch_size == size // expected[0][-1]
    assert shapes(backbone(batch(size, n=1))) == expected


def test_the_tokens_of_a_transformer_stand_where_their_patch_is():
    """Before attention mixes them: with only the first block, a change stays strongest there."""
    backbone = random_vit(layers=[0], image_size=64)
    images = batch(64, n=1)
    changed = images.clone()
    changed[..., 16:32, 48:64] += 3  # patch (1, 3)
    moved = (backbone(changed)[0] - backbone(images)[0]).norm(dim=1)[0]
    assert np.unravel_index(int(moved.argmax()), (4, 4)) == (1, 3)


@pytest.mark.parametrize(
    ("layer", "n_blocks"), [(0, 1), (5, 6), (-1, 9), ("blocks.2", 3)]
)  # of the 9 blocks that are left
def test_the_first_part_of_a_network_ends_with_a_layer(layer, n_blocks):
    backbone = random_vit()
    first_part = backbone.up_to(layer)
    blocks = [block for block in backbone.module.blocks if block in first_part]
    assert blocks == list(backbone.module.blocks[:n_blocks])
    assert backbone.module.patch_embed.proj in first_part


# -- modules of the caller's ----------------------------------------------------------------------


class Lengths(nn.Module):
    def forward(self, x):
        return len(x)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("map", [FINE]),
        ("tuple", [FINE, COARSE]),
        ("list, coarse first", [FINE, COARSE]),
        ("dict", [FINE, COARSE]),
        ("tokens", [COARSE]),
        ("tokens and map", [FINE, COARSE]),
    ],
)
@pytest.mark.parametrize("layers", [None, "last"])
def test_what_a_module_returns_is_read_finest_first(form, expected, layers):
    module = Trunk(form).eval()
    backbone = Backbone(module, layers=layers, image_size=SIZE)
    assert backbone.layer_names == ()
    assert backbone.n_channels == tuple(shape[1] for shape in expected)
    with torch.no_grad():
        fine = module.stem(batch())
        plain = {FINE: fine, COARSE: module.body(fine)}
    assert_close(backbone(batch()), [plain[shape] for shape in expected], 1e-5)


@pytest.mark.parametrize(
    ("make", "received"),
    [
        pytest.param(lambda: Trunk("pooled"), r"\(1, 6\)", id="pooled"),
        pytest.param(Lengths, "int", id="a number"),
        pytest.param(lambda: Trunk("text"), "str", id="text, from a network to fold"),
    ],
)
def test_a_module_that_returns_no_maps_is_refused(make, received):
    with pytest.raises(ValueError, match=rf"expected feature maps .*got {received}\. Name inner"):
        Backbone(make(), image_size=SIZE)


class Tokens(nn.Module):
    """A token for each 8 x 8 pixels, after ``n_extra`` others."""

    def __init__(self, n_extra=0):
        super().__init__()
        self.n_extra = n_extra

    def forward(self, x):
        tokens = nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self.n_extra], tokens], dim=1)


@pytest.mark.parametrize(
    ("image_size", "n_extra", "n_tokens"),
    [
        pytest.param((64, 64), 1, 65, id="no grid"),
        pytest.param((16, 64), 2, 18, id="a grid of other proportions"),  # 2 x 9
    ],
)
def test_tokens_that_do_not_form_a_grid_are_refused(image_size, n_extra, n_tokens):
    with pytest.raises(ValueError, match=rf"token grids .* got \(1, {n_tokens}, 3\)"):
        Backbone(Tokens(n_extra), image_size=image_size)


def test_tokens_form_a_grid_of_the_images_proportions():
    images = batch((16, 64))
    (grid,) = Backbone(Tokens(), image_size=(16, 64))(images)
    assert_close([grid], [nn.functional.avg_pool2d(images, 8)], 1e-6)


@pytest.mark.parametrize(
    ("layers", "finest_first"),
    [
        (("stem.0",), ("stem.0",)),
        (["body.1", "stem.2"], ("stem.2", "body.1")),
        (["stem", "body", "stem"], ("stem", "body")),
    ],
)
def test_layers_of_a_module_are_its_submodules(layers, finest_first):
    module = Trunk("pooled").eval()
    backbone = Backbone(module, layers=layers, image_size=SIZE)
    assert backbone.layer_names == finest_first
    with torch.no_grad():
        fine = module.stem(batch())
        plain = {
            "stem.0": module.stem[0](batch()),
            "stem": fine,
            "stem.2": fine,
            "body": module.body(fine),
            "body.1": module.body(fine),
        }
    assert_close(backbone(batch()), [plain[name] for name in finest_first], 1e-5)


def test_a_module_is_read_in_float32_wherever_it_was_made():
    expected = Backbone(Trunk("map").eval(), image_size=SIZE)(batch())
    with torch.inference_mode():
        made = Trunk("map").eval()
    for module in (made, Trunk("map").eval().double(), Trunk("map").eval().requires_grad_(True)):
        assert_close(Backbone(module, image_size=SIZE)(batch()), expected, 0)


def test_a_module_without_values_is_refused():
    with pytest.raises(ValueError, match=r"expected a Trunk with weights, .* meta device"):
        Backbone(Trunk("map").to("meta"), image_size=SIZE)


def test_repeated_calls_of_a_module_leave_no_hooks_behind():
    backbone = Backbone(Trunk(), layers=["body"], image_size=SIZE)
    first = backbone(batch())[0]
    assert torch.equal(backbone(batch())[0], first)
    assert not any(module._forward_hooks for module in backbone.module.modules())


def test_a_module_does_not_run_beyond_the_last_layer_either():
    """A classifier's head is fixed to the size it was trained on; its trunk is not."""
    classifier = nn.Sequential(Trunk(), nn.Flatten(), nn.Linear(4 * 112 * 112, 2))
    backbone = Backbone(classifier, layers=["0"], image_size=SIZE)
    assert shapes(backbone(batch())) == [FINE]


def test_a_layer_that_takes_no_part_is_refused():
    module = Trunk()
    module.spare = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="layers: 'spare' takes no part in Trunk"):
        Backbone(module, layers=["stem", "spare"], image_size=SIZE)


def test_changes_in_place_after_a_layer_do_not_reach_its_map():
    module = Trunk(act_in_place=True).eval()
    for layers in (["stem.1"], ["stem.1", "body"]):
        maps = Backbone(module, layers=layers, image_size=SIZE)(batch())
        with torch.no_grad():
            assert_close(maps[:1], [module.stem[:2](batch())], 1e-5)


@pytest.mark.parametrize("layers", [8, 1.5, "stem", []])
def test_layers_of_a_module_that_are_no_sequence_are_refused(layers):
    with pytest.raises(ValueError, match="layers: expected a sequence"):
        Backbone(Trunk(), layers=layers, image_size=SIZE)


@pytest.mark.parametrize("layers", [["nowhere"], ["stem.9"], [8, 16]])
def test_layers_that_a_module_does_not_have_are_refused(layers):
    with pytest.raises(ValueError, match=r"layers: Trunk has no strides.* no submodule"):
        Backbone(Trunk(), layers=layers, image_size=SIZE)


def test_the_first_part_of_a_module_ends_with_a_submodule():
    backbone = Backbone(Trunk(), frozen=False, image_size=SIZE)
    stem, body = backbone.module.stem, backbone.module.body
    assert backbone.up_to("body.0") == [stem, *stem, body[0]]
    with pytest.raises(ValueError, match="layers: Trunk has no submodule called 'head'"):
        backbone.up_to("head")


def test_a_module_that_timm_made_is_read_by_stride():
    model = timm_small().eval()
    backbone = Backbone(model, layers=[8], image_size=SIZE)
    assert backbone.layer_names == ("layer2",)
    with torch.no_grad():
        expected = model.forward_intermediates(batch(), indices=[2], intermediates_only=True)
    assert_close(backbone(batch()), expected)
    assert min(height for height, _ in convolutions_run(backbone, batch())) == SIZE // 8


@pytest.mark.parametrize("make", [Trunk, timm_small])
@pytest.mark.parametrize("training", [True, False])
def test_the_callers_module_stays_as_it_was(make, training):
    module = make().train(training)
    before = copy.deepcopy(module.state_dict())
    names = [name for name, _ in module.named_modules()]
    Backbone(module, image_size=SIZE)(batch())
    assert all(m.training is training for m in module.modules())
    assert all(p.requires_grad for p in module.parameters())
    assert [name for name, _ in module.named_modules()] == names
    assert all(p.is_contiguous() for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_module_in_training_is_read_in_eval_mode():
    module = nn.Sequential(Trunk(), nn.Dropout(0.9)).train()
    maps = Backbone(module, image_size=SIZE)(batch())
    with torch.no_grad():
        assert_close(maps, [module.eval()(batch())], 1e-5)


def test_a_module_without_a_config_is_normalized_as_imagenet():
    wanted = Backbone(Trunk("tuple"), image_size=SIZE).input
    assert (wanted.mean, wanted.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert wanted.patch_size == 2
    assert Backbone(Trunk()).input.image_size == (224, 224)


def test_the_name_of_a_module_is_its_class():
    assert Backbone(Trunk(), image_size=SIZE).name == "Trunk"
    assert random_small().name == SMALL


# -- the final norm -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "layers"),
    [("vit_small_patch14_dinov2", 56, "last"), (VIT, 32, (5, -1)), (VIT, 32, (3,))],
)
def test_final_norm_is_timms(name, size, layers):
    given = timm.create_model(name, img_size=size).eval()
    with torch.no_grad():
        given.norm.weight.uniform_(0.5, 2, generator=seed(0))  # as trained ones, not 1
        given.norm.bias.uniform_(-1, 1, generator=seed(1))
    plain, normed = (
        Backbone(given, layers=layers, image_size=size, final_norm=final_norm)
        for final_norm in (False, True)
    )
    indices = [11] if layers == "last" else [layer % 12 for layer in layers]
    with torch.no_grad():
        expected = given.forward_intermediates(
            batch(size), indices=indices, norm=True, intermediates_only=True
        )
    for found, grid in zip(normed(batch(size)), expected, strict=True):
        torch.testing.assert_close(found, grid)
    with torch.no_grad():
        raw = given.forward_intermediates(batch(size), indices=indices, intermediates_only=True)
    for found, grid, other in zip(plain(batch(size)), raw, expected, strict=True):
        torch.testing.assert_close(found, grid)
        assert (found - other).abs().max() > 0.1
    assert plain.weights_sha256 != normed.weights_sha256  # the norm is part of it


def test_the_final_norm_is_stored():
    normed = random_vit(final_norm=True)
    again = Backbone.from_state(normed.to_state())
    for found, grid in zip(again(batch(32)), normed(batch(32)), strict=True):
        assert torch.equal(found, grid)
    state = random_vit().to_state()
    del state["final_norm"]  # a file from before it
    assert shapes(Backbone.from_state(state)(batch(32))) == [(2, 192, 2, 2)] * 2


def test_networks_that_differ_in_the_norm_are_not_shared():
    origins = []
    for final_norm in (False, True):
        backbone = random_vit(final_norm=final_norm)
        backbone._is_pretrained = True
        origins.append(backbone.origin)
    assert None not in origins and origins[0] != origins[1]


@pytest.mark.parametrize(
    "backbone",
    ["beit_base_patch16_224", "resnet18", "swin_tiny_patch4_window7_224", nn.Conv2d(3, 4, 8, 8)],
)
def test_networks_without_a_final_norm_are_refused(backbone):
    with pytest.raises(ValueError, match=r"^final_norm: expected a timm transformer"):
        Backbone(backbone, weights="random", image_size=224, final_norm=True)
