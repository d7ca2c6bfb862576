"""BatchNorm layers folded into convolutions, and left alone where that would change features."""

import pytest
import torch
from small_networks import SIZE, Trunk, assert_close, batch, norms_left, randomize
from torch import nn

from anomalib_lite.backbones import Backbone
from anomalib_lite.backbones.folding import same_maps


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


class Pair(nn.Module):
    """A convolution and a BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)


class BothShared(Pair):
    def forward(self, x):
        return self.norm(self.conv(self.norm(self.conv(x))))


class Residual(Pair):
    """What the BatchNorm reads is read again beside it."""

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Keyword(Pair):
    def forward(self, x):
        return self.norm(input=self.conv(x))


def positive_then_relu(in_place):
    """Conv, ReLU, BatchNorm, where the ReLU does nothing to images without negative values."""
    net = randomize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(in_place), nn.BatchNorm2d(4)))
    with torch.no_grad():
        for tensor in (net[0].weight, net[0].bias, net[2].weight, net[2].bias):
            tensor.abs_()
        net[2].running_mean.fill_(-1)
    return net


UNFOLDABLE = {
    "a BatchNorm that runs twice": lambda: randomize(SharedNorm()),
    "a convolution that runs twice": lambda: randomize(SharedConvolution()),
    "both run twice": lambda: randomize(BothShared()),
    "an output that is read twice": lambda: randomize(Residual()),
    "a BatchNorm that is called by keyword": lambda: randomize(Keyword()),
    "an activation between": lambda: positive_then_relu(in_place=False),
    "an activation in place between": lambda: positive_then_relu(in_place=True),
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


@pytest.mark.parametrize("make", [Trunk, lambda: positive_then_relu(in_place=True)])
def test_a_network_may_be_prepared_in_inference_mode(make):
    module = make().eval()
    with torch.no_grad():
        expected = module(batch())
    with torch.inference_mode():
        backbone = Backbone(module, image_size=SIZE)
        assert_close(backbone(batch()), [expected], 1e-5)
    assert_close(backbone(batch()), [expected], 1e-5)


def test_maps_that_are_no_numbers_are_not_the_same():
    for value in (torch.nan, torch.inf):
        maps = [torch.full((1, 2, 3, 3), value)]
        assert not same_maps(maps, maps)
