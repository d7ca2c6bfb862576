"""Networks that are recorded give the same bits as those that are not."""

import copy
import pickle
import warnings

import pytest
import torch
from small_networks import SIZE, Trunk
from torch import nn

from anomalib_lite import DeepFeatures
from anomalib_lite.backbones import Backbone, recorded
from anomalib_lite.backbones.recorded import RecordedReader
from anomalib_lite.contexts import plain_context
from anomalib_lite.workers import Team

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = [torch.randn(1, 3, SIZE, SIZE, generator=GENERATOR) for _ in range(4)]


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(recorded, "_OFTEN", 2)


def make(backbone="efficientnet_lite0", **options):
    weights = "pretrained" if backbone == "efficientnet_lite0" else "random"
    generator = torch.Generator().manual_seed(0)
    return Backbone(backbone, weights=weights, image_size=SIZE, generator=generator, **options)


def is_recorded(backbone):
    return isinstance(backbone._run, RecordedReader) and backbone._run._recorded is not None


def used(backbone):
    for image in IMAGES:
        backbone(image)
    return backbone


def plainly(backbone, image):
    with plain_context():
        return backbone._reader(image)


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0", "convnet", "resnet18", "mobilenetv3_small_050"]
)
def test_the_bits_are_those_of_the_network(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = used(make(name, layers="last"))
    assert is_recorded(backbone)
    for image in [*IMAGES, 100 * IMAGES[0], torch.zeros_like(IMAGES[0])]:
        for ours, theirs in zip(backbone(image), plainly(backbone, image), strict=True):
            assert torch.equal(ours, theirs)


def test_other_sizes_and_gradients_are_left_to_the_network():
    backbone = used(make())
    both = torch.cat(IMAGES[:2])
    assert torch.equal(backbone(both)[0], plainly(backbone, both)[0])
    image = IMAGES[0].clone().requires_grad_()
    backbone.trainable_maps(image)[0].sum().backward()
    assert image.grad.abs().sum() > 0


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_copies_record_anew(again):
    first = used(make())
    second = again(first)
    assert not is_recorded(second)
    assert torch.equal(used(second)(IMAGES[0])[0], first(IMAGES[0])[0])
    assert is_recorded(second)


def test_what_gives_other_bits_is_not_used(monkeypatch):
    monkeypatch.setattr(recorded, "_record", lambda *_, **__: lambda batch: (batch, batch))
    backbone = used(make())
    assert not is_recorded(backbone)
    assert torch.equal(backbone(IMAGES[0])[0], plainly(backbone, IMAGES[0])[0])


def test_networks_of_the_callers_and_transformers_are_not_recorded():
    for backbone in (Backbone(Trunk("tuple"), image_size=SIZE), make("vit_tiny_patch16_224")):
        assert not isinstance(used(backbone)._run, RecordedReader)


def test_several_workers_record_once_and_lose_nothing(monkeypatch):
    made = []
    original = recorded._record
    monkeypatch.setattr(recorded, "_record", lambda *a, **k: made.append(1) or original(*a, **k))
    backbone, team = make(), Team(4)
    with plain_context():
        found = list(team.map(backbone, IMAGES * 4))
    team.dismiss()
    assert len(made) == 1
    for image, maps in zip(IMAGES * 4, found, strict=True):
        assert torch.equal(maps[0], plainly(backbone, image)[0])


def test_features_are_the_same_before_and_after():
    images = torch.rand(6, 3, 40, 40, generator=GENERATOR)
    features = DeepFeatures(image_size=SIZE).fit(images)
    assert (features.transform(images) == features.transform(images)).all()
    assert is_recorded(features.backbone_)
    assert not any(isinstance(each, nn.Linear) for each in features.backbone_.module.modules())
