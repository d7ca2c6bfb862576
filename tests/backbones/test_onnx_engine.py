"""Networks run by ONNX Runtime give the features of PyTorch."""

import ast
import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib import Parallel, delayed
from small_networks import (
    SIZE,
    SMALL,
    Trunk,
    assert_close,
    assert_same_bits,
    batch,
    bundled,
    convolutions_run,
    random_small,
    seed,
)
from snapshots import process_state
from torch import nn
from worlds import scratched, stripes

import anomalib_lite
from anomalib_lite import DeepFeatures, PatchCore, load
from anomalib_lite.backbones import Backbone, onnx_engine


class Awkward(nn.Module):
    """Works in place after a layer, runs a layer twice, and has a large head that is not used."""

    def __init__(self):
        super().__init__()
        self.trunk = Trunk("list, coarse first", act_in_place=True)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(6, 1000, 5)

    def forward(self, x):
        coarse, _ = self.trunk(x)
        return self.head(self.again(self.again(coarse)))


@pytest.fixture(scope="module")
def by_onnx():
    """The bundled network, exported once for all tests of this file."""
    return Backbone(image_size=64, engine="onnxruntime")


@pytest.fixture(scope="module")
def awkward():
    """Two layers of an Awkward module: the module, and its Backbone by ONNX Runtime."""
    module, layers = Awkward().eval(), ["again", "trunk.stem.1"]
    return module, Backbone(module, layers=layers, image_size=SIZE, engine="onnxruntime")


# -- features -------------------------------------------------------------------------------------


def test_the_bundled_network_gives_the_features_of_torch(by_onnx):
    plain, images = bundled(image_size=64), batch(64)
    assert by_onnx.layer_names == plain.layer_names
    assert by_onnx.weights_sha256 == plain.weights_sha256
    assert_close(by_onnx(images), plain(images), 1e-5)
    assert convolutions_run(by_onnx, images) == []
    assert convolutions_run(plain, images) != []


def test_named_layers_of_an_awkward_module_are_exported_and_no_others(awkward):
    module, fast = awkward
    plain = Backbone(module, layers=["again", "trunk.stem.1"], image_size=SIZE)
    assert fast.layer_names == ("trunk.stem.1", "again")
    with torch.no_grad():
        fine = module.trunk.stem[:2](batch())
        once = module.again(module.trunk.body(fine.relu()))
    assert_close(plain(batch()), [fine, once], 1e-5)
    assert_close(fast(batch()), [fine, once], 1e-5)
    assert convolutions_run(fast, batch()) == []
    assert len(pickle.dumps(fast._run)) < 20_000  # the head alone would be 600 kB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size", "options"),
    [
        pytest.param("efficientnet_lite0", (64, 96), {"weights": "pretrained"}, id="bundled"),
        pytest.param(SMALL, SIZE, {"layers": (4, 16)}, id="convolutional"),
        pytest.param("vit_tiny_patch16_224", 32, {"layers": (0, 2)}, id="transformer"),
        pytest.param(Trunk("list, coarse first"), SIZE, {}, id="module that returns a list"),
        pytest.param(Trunk("dict"), SIZE, {}, id="module that returns a dict"),
        pytest.param(Trunk("tokens"), SIZE, {}, id="module that returns tokens"),
    ],
)
def test_other_networks_give_the_features_of_torch(backbone, size, options):
    options = {"weights": "random", "image_size": size} | options
    plain = Backbone(backbone, generator=seed(0), **options)
    fast = Backbone(backbone, generator=seed(0), engine="onnxruntime", **options)
    assert_close(fast(batch(size)), plain(batch(size)), 1e-5)
    assert convolutions_run(fast, batch(size)) == []


def test_images_pass_one_by_one_and_without_gradients(by_onnx):
    images = batch(64, n=3).requires_grad_()
    together = by_onnx(images)
    for i, image in enumerate(images.to(memory_format=torch.channels_last)):
        assert_same_bits(by_onnx(image[None]), [grid[i : i + 1] for grid in together])
    assert not any(grid.requires_grad for grid in together)


def test_an_exported_network_takes_one_size(by_onnx):
    with pytest.raises(ValueError, match=r"images \(3, 64, 64\), got a batch \(2, 3, 32, 32\)"):
        by_onnx(batch(32))


def test_threads_share_a_session(by_onnx):
    batches = [batch(64, seed=i) for i in range(8)]
    expected = [by_onnx(images) for images in batches]
    with ThreadPoolExecutor(4) as pool:
        for given, alone in zip(pool.map(by_onnx, batches * 4), expected * 4, strict=True):
            assert_same_bits(given, alone)


# -- copies, states, training ---------------------------------------------------------------------


def test_copies_give_the_same_bits(by_onnx):
    expected = by_onnx(batch(64))
    for again in (pickle.loads(pickle.dumps(by_onnx)), copy.deepcopy(by_onnx)):
        assert_same_bits(again(batch(64)), expected)
        assert convolutions_run(again, batch(64)) == []


@pytest.mark.slow
def test_copies_in_other_processes_give_the_same_features(by_onnx):
    (there,) = Parallel(n_jobs=2)([delayed(by_onnx)(batch(64))])
    assert_close(there, by_onnx(batch(64)), 1e-6)  # with as many threads as joblib allows


def test_a_state_keeps_its_engine(awkward):
    _, backbone = awkward
    again = Backbone.from_state(backbone.to_state())
    assert convolutions_run(again, batch()) == []
    assert_same_bits(again(batch()), backbone(batch()))


@pytest.mark.slow
def test_a_state_of_pretrained_weights_keeps_its_engine(by_onnx):
    again = Backbone.from_state(by_onnx.to_state())
    assert convolutions_run(again, batch(64)) == []
    assert_same_bits(again(batch(64)), by_onnx(batch(64)))


def test_a_trained_network_is_frozen_for_the_engine_asked_for():
    backbone = Backbone(Trunk("tuple"), image_size=SIZE, frozen=False, engine="onnxruntime")
    untrained = backbone(batch())
    sum(grid.square().mean() for grid in backbone.trainable_maps(batch())).backward()
    with torch.no_grad():
        for parameter in backbone.module.parameters():
            parameter -= 0.1 * parameter.grad
    expected = backbone(batch())
    assert convolutions_run(backbone, batch()) != []
    backbone.freeze()
    assert convolutions_run(backbone, batch()) == []
    assert_close(backbone(batch()), expected, 1e-5)
    assert float((untrained[0] - expected[0]).abs().max()) > 1e-3


# -- surroundings ---------------------------------------------------------------------------------


def test_an_export_leaves_nothing_behind(by_onnx, tmp_path, monkeypatch, capfd):
    # by_onnx comes first: what libraries set up once is set up by now
    monkeypatch.chdir(tmp_path)
    module = Trunk()
    before = process_state()
    Backbone(module, image_size=SIZE, engine="onnxruntime")(batch())
    assert process_state() == before
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


PACKAGES = {"onnx", "onnxruntime", "onnxscript"}


HOME = Path(anomalib_lite.__file__).parent
NEVER_AT_ONCE = PACKAGES | {"skl2onnx"}


def imported_at_once(path):
    """What is imported when a file is: names of packages, and files of this one."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            yield folder.with_suffix(".py")
            yield folder / "__init__.py"
            yield from (folder / f"{alias.name}.py" for alias in node.names)


def test_no_file_imports_the_engines_packages_before_they_are_used():
    files = {path: {*imported_at_once(path)} for path in HOME.rglob("*.py")}
    loading, n_before = {*NEVER_AT_ONCE}, 0
    while len(loading) > n_before:  # and what imports what imports them
        n_before = len(loading)
        loading |= {path for path, found in files.items() if found & loading}
    loading -= NEVER_AT_ONCE
    assert HOME / "export" / "graph.py" in loading  # which ``export`` imports when it is called
    assert {path.parent for path in loading} == {HOME / "export"}
    assert HOME / "export" / "__init__.py" not in loading


@pytest.mark.slow
def test_torch_alone_imports_no_onnx():
    code = (
        "import sys, numpy as np, anomalib_lite\n"
        "images = np.random.default_rng(0).integers(90, 110, (3, 64, 64), dtype=np.uint8)\n"
        "anomalib_lite.PatchCore(image_size=64).fit(images).score_samples(images)\n"
        f"print({NEVER_AT_ONCE!r} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("package", sorted(PACKAGES))
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


def runs_by_onnx(backbone):
    return isinstance(backbone._run, onnx_engine.OnnxReader)


def test_auto_takes_onnx_runtime_where_it_can(monkeypatch):
    assert runs_by_onnx(random_small(engine="auto"))
    assert not runs_by_onnx(random_small(engine="auto", dtype="bfloat16"))
    assert not runs_by_onnx(Backbone(Fickle(), image_size=32, engine="auto"))
    monkeypatch.setattr(onnx_engine.OnnxReader, "__call__", lambda *_: [torch.zeros(1, 1, 1, 1)])
    assert not runs_by_onnx(random_small(engine="auto"))  # it would give other features


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_auto_does_without_packages_that_are_not_there(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert not runs_by_onnx(random_small(engine="auto"))


@pytest.mark.slow
def test_what_the_runtime_cannot_open_is_refused():
    with pytest.raises(ValueError, match=r"Identity cannot be exported to ONNX"):
        Backbone(nn.Identity(), image_size=SIZE, engine="onnxruntime")


def test_features_that_differ_from_torch_are_refused(monkeypatch):
    class Inexact(onnx_engine.OnnxReader):
        def __init__(self, reader, _example, _name):
            self._reader = reader

        def __call__(self, images):
            return [1.01 * grid for grid in self._reader(images)]

    monkeypatch.setattr(onnx_engine, "OnnxReader", Inexact)
    with pytest.raises(ValueError, match=f"engine: {SMALL} gives other features"):
        random_small(engine="onnxruntime")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_onnx_runtime_takes_float32_only(dtype):
    with pytest.raises(ValueError, match=f"dtype: .* float32 only, got '{dtype}'"):
        random_small(engine="onnxruntime", dtype=dtype)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
def test_onnx_runtime_takes_a_cpu_only(by_onnx, device):
    with pytest.raises(ValueError, match=f"'onnxruntime' runs on a CPU, got the device '{device}'"):
        random_small(engine="onnxruntime", device=torch.device(device))
    with pytest.raises(ValueError, match="'onnxruntime' runs on a CPU"):
        Backbone.from_state(by_onnx.to_state() | {"device": torch.device(device)})


# -- estimators -----------------------------------------------------------------------------------


def test_deep_features_by_onnx_runtime():
    plain, fast = (
        DeepFeatures(Trunk("tuple"), image_size=64, engine=engine).fit(stripes(3))
        for engine in ("torch", "onnxruntime")
    )
    expected = plain.transform(stripes(3))
    assert convolutions_run(plain.transform, stripes(3)) != []
    assert convolutions_run(fast.transform, stripes(3)) == []
    np.testing.assert_allclose(fast.transform(stripes(3)), expected, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
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
