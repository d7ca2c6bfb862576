"""The same bits from every thread and in every context of the caller, who notices nothing."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import sklearn
import timm
import torch
from detectors import PUBLIC, SUBJECTS, small
from snapshots import snapshot

from anomalib_lite import (
    CANCE,
    MLSAD,
    DeepFeatures,
    EntropyPatchGAN,
    GaussianDensity,
    NCEDensity,
    PaDiM,
    PatchCore,
    PatchResampler,
    RotationPrediction,
    load,
)
from anomalib_lite.decide import probe
from anomalib_lite.search import GreedyCoreset

NORMAL, TEST = SUBJECTS[PatchCore].normal, SUBJECTS[PatchCore].test[2:4]
TABLE = np.random.default_rng(0).normal(size=(40, 4))


METHODS = ("score_samples", "predict", "anomaly_map", "transform", "level_scores")


def everything(detector, folder, *, normal=NORMAL, test=TEST):
    """All that a detector learns and says, as values that compare bit by bit."""
    found = {"fit": snapshot(detector.fit(normal))}
    path = folder / f"{threading.get_ident()}.alite"
    detector.save(path)
    for where, fitted in (("", detector), ("loaded ", load(path))):
        for name in METHODS:
            if hasattr(fitted, name):
                found[where + name] = snapshot(np.asarray(getattr(fitted, name)(test)))
        if hasattr(fitted, "sample"):
            found[where + "sample"] = snapshot(fitted.sample(3, random_state=0))
    if hasattr(detector, "partial_fit"):
        found["partial_fit"] = snapshot(detector.partial_fit(test))
    return found


def images(make):
    return lambda folder: everything(make(), folder)


def tables(make):
    return lambda folder: everything(make(), folder, normal=TABLE, test=TABLE[:5])


def search(folder):
    tables = TABLE, torch.from_numpy(TABLE).float().requires_grad_()
    samplers = GreedyCoreset(9, random_state=0), GreedyCoreset(9, projection=2, random_state=0)
    return [snapshot(sampler.fit(table)) for sampler in samplers for table in tables]


def probing(folder):
    detector = small(PaDiM).fit(NORMAL)
    return snapshot(probe(detector, TEST / 255.0, max_iter=2))


def dropping_network():
    network = timm.create_model("test_convnext", drop_path_rate=0.3, num_classes=0)
    with torch.no_grad():
        for i, parameter in enumerate(network.parameters()):
            parameter.copy_(
                torch.linspace(-0.1, 0.1 + i / 1000, parameter.numel()).view_as(parameter)
            )
    return torch.nn.Sequential(network.stem, network.stages, torch.nn.Dropout2d(0.3))


DROPPING = dropping_network()


def dropping(folder):
    """A module of the caller's that draws in training, in two ways."""
    detector = small(RotationPrediction, backbone=DROPPING, layers=None, patch_size=32).fit(NORMAL)
    return snapshot(detector.backbone_.module), snapshot(detector.inspect(TEST))


class Jittered(RotationPrediction):
    """A task of the caller's that takes random numbers where it finds them."""

    def _views(self, images, generator):
        return super()._views(images + 0.1 * torch.rand_like(images), generator)


def jittered(folder):
    detector = small(RotationPrediction)
    detector = Jittered(**detector.get_params()).fit(NORMAL)
    return snapshot(detector.backbone_.module), snapshot(detector.inspect(TEST))


NCE = {"epochs": 2, "hidden": (8,), "random_state": 0}
PIXELS = {
    "widths": (4, 8), "epochs": 2, "decoder_epochs": 1, "latent_dim": 4, "input_noise": 0.1,
    "density": NCEDensity(**NCE), "random_state": 0,
}  # fmt: skip
GAN = {"level": 2, "width": 4, "train_steps": 3, "image_size": 16, "random_state": 0}
LEVELS = {
    "levels": (1, 4), "dropout": 0.3, "epochs": 2, "combine": "distance",
    "fakes": EntropyPatchGAN(**GAN),
}  # fmt: skip
PATCHES = {"backbone": "efficientnet_lite0", "patch_level": True, "n_patches": 60}
DOORS = {
    **{cls.__name__: images(lambda cls=cls: small(cls)) for cls in PUBLIC},
    "CANCE of pixels": images(lambda: CANCE(image_size=32, **PIXELS)),
    "CANCE of a table": tables(lambda: CANCE(**PIXELS)),
    "CANCE of patches": images(lambda: small(CANCE, **PATCHES)),
    "MLSAD with a GAN": images(lambda: small(MLSAD, **LEVELS)),
    "RotationPrediction of patches": images(lambda: small(RotationPrediction, patch_level=True)),
    "random weights": images(lambda: small(PatchCore, weights="random")),
    "drop path and dropout": dropping,
    "hooks that draw": jittered,
    "DeepFeatures": images(lambda: DeepFeatures(image_size=64, weights="random", random_state=0)),
    "NCEDensity": tables(lambda: NCEDensity(n_lowered=1, **NCE)),
    "GaussianDensity": tables(GaussianDensity),
    "GreedyCoreset": search,
    "EntropyPatchGAN": images(lambda: EntropyPatchGAN(**GAN)),
    "PatchResampler": images(lambda: PatchResampler(2, image_size=16, random_state=0)),
    "probe": probing,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a door gives where nothing is set and nothing else runs, computed once."""
    folder, known = tmp_path_factory.mktemp("expected"), {}

    def of(name):
        if name not in known:
            known[name] = DOORS[name](folder)
        return known[name]

    return of


def doors(*quick):
    """Names of all doors; tests of those that are not quick are slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in DOORS]


# -- threads --------------------------------------------------------------------------------------


def global_generators():
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
    ]


@pytest.mark.parametrize("name", doors("NCEDensity", "hooks that draw"))
def test_fits_in_threads_are_those_of_one_thread(name, expected, tmp_path):
    want, before = expected(name), global_generators()
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: DOORS[name](tmp_path), range(8)):
            assert found == want
    assert global_generators() == before


# -- contexts -------------------------------------------------------------------------------------


@contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


CONTEXTS = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "default device": lambda: default_device("meta"),
    "device": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "NumPy errors": lambda: np.errstate(all="raise"),
    "pandas": lambda: sklearn.config_context(transform_output="pandas"),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("name", doors("NCEDensity", "hooks that draw"))
def test_no_context_of_the_caller_changes_anything(name, context, expected, tmp_path):
    want = expected(name)
    with context():
        found = DOORS[name](tmp_path)
    assert found == want
