"""Small networks, and what tests of backbones ask of them."""

from functools import cache

import timm
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from anomalib_lite.backbones import Backbone

SMALL = "resnet10t"  # the smallest network of timm that has BatchNorm and strides 2 to 32
SIZE = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FINE, COARSE = (2, 4, 16, 16), (2, 6, 8, 8)  # the maps of a Trunk


def batch(size=SIZE, n=2, seed=0):
    """(n, 3, H, W), standard normal as normalized images are."""
    height, width = size if isinstance(size, tuple) else (size, size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, height, width, generator=generator)


def seed(value):
    return torch.Generator().manual_seed(value)


@cache
def bundled(**options):
    """The default network; read-only, since tests share it."""
    return Backbone(**options)


def random_small(**options):
    return Backbone(
        SMALL, **{"weights": "random", "image_size": SIZE, "generator": seed(0)} | options
    )


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


class Trunk(nn.Module):
    """Two convolutions with BatchNorm; ``form`` says how forward returns their maps."""

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


def timm_small():
    return timm.create_model(SMALL)


def shapes(maps):
    return [tuple(grid.shape) for grid in maps]


def assert_close(given, expected, tolerance=1e-4):
    """Equal but for ``tolerance`` times the largest value of the expected map."""
    assert shapes(given) == shapes(expected)
    for grid, other in zip(given, expected, strict=True):
        assert float((grid - other).abs().max()) <= tolerance * float(other.abs().max())


def assert_same_bits(given, expected):
    for grid, other in zip(given, expected, strict=True):
        assert torch.equal(grid, other)


def convolutions_run(backbone, images):
    """(height of the output, dtypes of input and weight) of each convolution that PyTorch runs."""
    seen = []

    def note(module, inputs, output):
        if isinstance(module, nn.Conv2d):
            seen.append((output.shape[-2], {inputs[0].dtype, module.weight.dtype}))

    hook = register_module_forward_hook(note)
    try:
        backbone(images)
    finally:
        hook.remove()
    return seen


def norms_left(backbone):
    return sum(isinstance(module, nn.BatchNorm2d) for module in backbone.module.modules())
