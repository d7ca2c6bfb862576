"""Precisions that networks run in."""

import numpy as np
import pytest
import torch
from small_networks import (
    SIZE,
    assert_close,
    assert_same_bits,
    batch,
    bundled,
    convolutions_run,
    random_small,
)
from torch import nn
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, PatchCore, load
from anomalib_lite.backbones import Backbone
from anomalib_lite.backbones import backbone as backbone_module
from anomalib_lite.backbones.engines import resolve_dtype, restored_dtype

HALVES = {"float16": 5e-3, "bfloat16": 4e-2}  # tolerated error of features
EACH_HALF = ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)]  # slow on CPUs


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("auto", "cpu", torch.float32),
        ("auto", "mps", torch.float32),
        ("auto", "cuda", torch.float16),
        ("auto", torch.device("cuda:1"), torch.float16),
        ("float32", "cuda", torch.float32),
        ("bfloat16", "cuda", torch.bfloat16),
        ("float16", "cpu", torch.float16),
    ],
)
def test_auto_is_float16_on_cuda_and_float32_elsewhere(dtype, device, expected):
    assert resolve_dtype(dtype, device) == expected


@pytest.mark.parametrize(
    ("requested", "fitted", "device", "expected"),
    [
        ("auto", "float16", "cpu", "auto"),
        ("auto", "float16", "cuda", "float16"),
        ("auto", "float32", "cuda", "float32"),
        ("bfloat16", "bfloat16", "cpu", "bfloat16"),
    ],
)
def test_a_stored_network_runs_as_it_was_fitted_unless_auto_leaves_cuda(
    requested, fitted, device, expected
):
    assert restored_dtype(requested, fitted, torch.device(device)) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "tensorrt"}, "engine: expected one of 'torch', .*, got 'tensorrt'"),
        ({"engine": None}, "engine: expected one of 'torch', .*, got None"),
        ({"dtype": "float64"}, "dtype: expected one of 'auto', .*, got 'float64'"),
        ({"dtype": torch.float16}, "dtype: expected one of 'auto', .*, got torch.float16"),
    ],
)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(random_small, id="Backbone"),
        pytest.param(lambda **given: PatchCore(**given).fit(stripes(2)), id="PatchCore"),
        pytest.param(lambda **given: DeepFeatures(**given).fit(stripes(2)), id="DeepFeatures"),
    ],
)
def test_unknown_engines_and_precisions_are_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def inner_dtypes(backbone, images):
    """Dtypes of what convolutions are given and hold."""
    return set().union(*(dtypes for _, dtypes in convolutions_run(backbone, images)))


@pytest.mark.parametrize("dtype", EACH_HALF)
def test_the_network_runs_in_its_precision_and_maps_leave_in_float32(dtype):
    plain, half = random_small(), random_small(dtype=dtype)
    assert plain.dtype == torch.float32
    assert half.dtype == getattr(torch, dtype)
    assert inner_dtypes(plain, batch()) == {torch.float32}
    assert inner_dtypes(half, batch()) == {half.dtype}
    assert {grid.dtype for grid in half(batch())} == {torch.float32}
    assert_close(half(batch()), plain(batch()), HALVES[dtype])
    assert half.weights_sha256 == plain.weights_sha256


@pytest.mark.parametrize("dtype", EACH_HALF)
@pytest.mark.parametrize("embed", [False, True])
def test_a_state_keeps_its_precision(dtype, embed):
    half = bundled(image_size=64, dtype=dtype)
    again = Backbone.from_state(half.to_state(embed=embed))
    assert again.dtype == half.dtype
    assert_same_bits(again(batch(64)), half(batch(64)))


def test_what_cuda_fitted_in_float16_runs_in_float32_on_a_cpu():
    state = bundled(image_size=64).to_state()
    here = Backbone.from_state(state | {"dtype": "auto", "precision": "float16"})
    assert here.dtype == torch.float32
    assert here.to_state()["dtype"] == "auto"
    assert_same_bits(here(batch(64)), bundled(image_size=64)(batch(64)))


@pytest.mark.parametrize("embed", [False, True])
def test_a_state_restored_in_another_precision_keeps_the_request(monkeypatch, embed):
    state = bundled(image_size=64).to_state(embed=embed)
    monkeypatch.setattr(backbone_module, "restored_dtype", lambda *_: "bfloat16")  # as on CUDA
    again = Backbone.from_state(state)
    assert again.dtype == torch.bfloat16
    assert again.to_state()["dtype"] == "auto"


def test_a_network_in_float16_on_a_fake_cuda_takes_and_gives_float32():
    from torch._subclasses.fake_tensor import FakeTensorMode

    backbone = Backbone(image_size=64, dtype="float16")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in backbone.module.modules():
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
