"""Devices, random generators, memory sizes, hashing, progress and learning aside, without a GPU."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.feature_selection import SelectFromModel
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM
from snapshots import snapshot

from anomalib_lite.runtime import (
    aside,
    draw_seed,
    exact_dtype,
    make_generator,
    normal,
    parse_memory,
    progress,
    resolve_device,
    seed_estimator,
    tensors_sha256,
    twin_of,
    uniform,
)

# -- device ---------------------------------------------------------------------------------------


def pretend(monkeypatch, *, cuda=0, mps=False):
    """Make torch report a number of CUDA devices, and whether MPS is available."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(0, False, "cpu"), (0, True, "cpu"), (1, False, "cuda"), (2, True, "cuda")],
)
def test_auto_is_cuda_or_the_cpu(monkeypatch, cuda, mps, expected):
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("request_", ["cpu", torch.device("cpu")])
def test_cpu_is_used_on_request_even_with_a_gpu(monkeypatch, request_):
    pretend(monkeypatch, cuda=1)
    assert resolve_device(request_) == torch.device("cpu")


@pytest.mark.parametrize("request_", ["cuda", "cuda:0", "cuda:1", torch.device("cuda", 1)])
def test_available_cuda_device_is_used(monkeypatch, request_):
    pretend(monkeypatch, cuda=2)
    assert resolve_device(request_) == torch.device(request_)


@pytest.mark.parametrize(("request_", "cuda"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_unavailable_cuda_device_is_refused(monkeypatch, request_, cuda):
    pretend(monkeypatch, cuda=cuda)
    with pytest.raises(ValueError, match=rf"'{request_}'.* {cuda} CUDA devices .*device='auto'"):
        resolve_device(request_)


def test_mps_is_used_only_if_available(monkeypatch):
    pretend(monkeypatch, mps=True)
    assert resolve_device("mps") == torch.device("mps")
    pretend(monkeypatch, mps=False)
    with pytest.raises(ValueError, match="got 'mps'; MPS is not available"):
        resolve_device("mps")


@pytest.mark.parametrize("request_", ["gpu", "", "cuda:x", "CPU", None, 3.5, [], -1])
def test_invalid_device_is_refused(request_):
    with pytest.raises(ValueError, match="device: expected 'auto', 'cpu'") as error:
        resolve_device(request_)
    assert repr(request_) in str(error.value)


@pytest.mark.parametrize("request_", ["meta", "hip"])
def test_unsupported_device_is_refused(request_):
    with pytest.raises(ValueError, match="device: expected 'auto', 'cpu'"):
        resolve_device(request_)


def test_exact_dtype_is_float64_except_on_mps():
    dtypes = [exact_dtype(torch.device(name)) for name in ("cpu", "cuda", "mps")]
    assert dtypes == [torch.float64, torch.float64, torch.float32]


# -- generator ------------------------------------------------------------------------------------


def draws(random_state):
    generator = make_generator(random_state)
    assert generator.device == torch.device("cpu")
    return torch.rand(8, generator=generator).tolist()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, np.int64(7), np.uint8(7)])
def test_int_gives_the_same_draws_each_time(seed):
    assert draws(seed) == draws(seed)
    assert draws(seed) == draws(int(seed))
    assert draws(seed) != draws(1)


@pytest.mark.parametrize("kind", [np.random.RandomState, np.random.default_rng])
def test_numpy_generator_gives_the_same_draws_from_the_same_state(kind):
    assert draws(kind(0)) == draws(kind(0))
    assert draws(kind(0)) != draws(kind(1))


@pytest.mark.parametrize("kind", [np.random.RandomState, np.random.default_rng])
def test_numpy_generator_is_advanced(kind):
    state = kind(0)
    assert draws(state) != draws(state)


def test_none_gives_new_draws_each_time():
    assert draws(None) != draws(None)


@pytest.mark.parametrize("bad", [-1, 2**32, 0.5, "0", [0], torch.Generator()])
def test_invalid_random_state_is_refused(bad):
    with pytest.raises(ValueError, match="random_state: expected None, an int") as error:
        make_generator(bad)
    assert repr(bad) in str(error.value)


def test_seeds_are_drawn_one_after_another():
    generator = make_generator(0)
    seeds = [draw_seed(generator) for _ in range(20)]
    assert len(set(seeds)) == 20
    assert all(0 <= seed < 2**31 for seed in seeds)
    again = make_generator(0)
    assert [draw_seed(again) for _ in range(20)] == seeds


@pytest.mark.parametrize(
    "random_state",
    [None, 0, np.random.RandomState(0), np.random.default_rng(0)],
    ids=lambda value: type(value).__name__,
)
def test_global_generators_are_left_alone(random_state):
    before = snapshot([np.random.get_state(), torch.get_rng_state()])  # noqa: NPY002
    draws(random_state)
    assert snapshot([np.random.get_state(), torch.get_rng_state()]) == before  # noqa: NPY002


def seed(value=0):
    return torch.Generator().manual_seed(value)


def test_a_seed_reaches_what_has_none():
    pipeline = make_pipeline(PCA(2), SelectFromModel(IsolationForest()), OneClassSVM())
    seed_estimator(pipeline, 7)
    inner = pipeline[0], pipeline[1].estimator, pipeline[2]
    assert [each.random_state for each in inner] == [7] * 3
    seed_estimator(pipeline, 8)
    assert [each.random_state for each in inner] == [7] * 3


def test_a_seed_does_not_reach_what_is_frozen():
    fitted = IsolationForest()
    seed_estimator(make_pipeline(FrozenEstimator(fitted), IsolationForest()), 7)
    assert fitted.random_state is None


def test_draws_are_those_of_the_generator_on_any_default_device_and_dtype():
    first, second = uniform((2, 3), seed()), normal((2, 3), seed())
    assert torch.equal(first, torch.rand(2, 3, generator=seed()))
    assert torch.equal(second, torch.randn(2, 3, generator=seed()))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            again = uniform((2, 3), seed()), normal((2, 3), seed())
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.stack(again), torch.stack([first, second]))


# -- memory sizes and hashes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (2**40, 2**40),
        (2.5e9, 2_500_000_000),
        ("1B", 1),
        ("10kB", 10_000),
        ("500MB", 500_000_000),
        ("1.5 GB", 1_500_000_000),
        ("2TB", 2 * 10**12),
        (None, sys.maxsize),
    ],
)
def test_memory_budget_is_converted_to_bytes(value, expected):
    assert parse_memory("budget", value) == expected


@pytest.mark.parametrize(
    "value", [0, -1, True, "", "2", "GB", "-1GB", "2gb", "1e3GB", "0GB", float("inf"), [2]]
)
def test_invalid_memory_budget_is_refused(value):
    with pytest.raises(ValueError, match="budget: expected bytes"):
        parse_memory("budget", value)


def test_hash_depends_on_names_dtypes_shapes_and_values():
    tensor = torch.arange(6.0)
    digest = tensors_sha256({"a": tensor}, start="x")
    assert digest == tensors_sha256({"a": tensor.clone()}, start="x")
    others = [
        tensors_sha256({"b": tensor}, start="x"),
        tensors_sha256({"a": tensor}, start="y"),
        tensors_sha256({"a": tensor.view(2, 3)}, start="x"),
        tensors_sha256({"a": tensor.view(torch.int32)}, start="x"),
        tensors_sha256({"a": tensor + 1e-6}, start="x"),
        tensors_sha256({"a": tensor, "b": tensor}, start="x"),
        tensors_sha256({}, start="x"),
    ]
    assert len({digest, *others}) == 8
    turned = tensor.view(2, 3).T
    assert tensors_sha256({"a": turned}) == tensors_sha256({"a": turned.contiguous()})
    empty, scalar = torch.zeros(0, dtype=torch.bfloat16), torch.tensor(True)
    assert tensors_sha256({"a": empty}) != tensors_sha256({"a": scalar})


# -- progress -------------------------------------------------------------------------------------


def test_progress_is_silent_by_default(capfd):
    assert list(progress(range(3), desc="fit")) == [0, 1, 2]
    with progress(total=3) as bar:
        bar.update(3)
    assert capfd.readouterr() == ("", "")


def test_verbose_progress_is_shown_on_stderr(capfd):
    assert list(progress(range(3), total=3, desc="fit", verbose=True)) == [0, 1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert "fit" in err
    assert "3/3" in err


# -- learning aside -------------------------------------------------------------------------------


class Estimator:
    def __init__(self):
        self.size = 3
        self.mean_ = torch.arange(3.0)
        self.names_ = ["a", "b"]


def change(estimator):
    estimator.size = 4
    estimator.mean_ = estimator.mean_ + 1
    del estimator.names_
    estimator.new_ = torch.ones(2)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_changes_after_any_exception(error):
    estimator = Estimator()
    before, mean, raised = snapshot(estimator), estimator.mean_, error("mine")
    with pytest.raises(error) as caught, aside(estimator) as learner:
        change(learner)
        raise raised
    assert caught.value is raised
    assert snapshot(estimator) == before
    assert estimator.mean_ is mean  # not a copy, which could take gigabytes


def test_what_was_learned_arrives_at_once():
    estimator = Estimator()
    before = snapshot(estimator)
    with aside(estimator) as learner:
        change(learner)
        assert snapshot(estimator) == before
    assert vars(estimator).keys() == {"size", "mean_", "new_"}
    assert estimator.size == 4
    assert estimator.mean_.tolist() == [1, 2, 3]


def test_a_failure_inside_keeps_what_the_outer_context_learned():
    estimator = Estimator()
    with aside(estimator) as learner:
        learner.size = 5
        with pytest.raises(ValueError), aside(learner) as inner:
            change(inner)
            raise ValueError
        assert learner.size == 5
        assert learner.names_ == ["a", "b"]
    assert estimator.size == 5


def test_one_thread_learns_at_a_time():
    estimator = Estimator()
    estimator.size = 0

    def count(_):
        with aside(estimator) as learner:
            size = learner.size
            threading.Event().wait(0.001)
            learner.size = size + 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(40)))
    assert estimator.size == 40


def test_a_twin_shares_values_but_not_assignments():
    estimator = Estimator()
    twin = twin_of(estimator)
    assert type(twin) is Estimator
    assert twin.mean_ is estimator.mean_
    change(twin)
    assert estimator.size == 3
    assert estimator.names_ == ["a", "b"]


@pytest.mark.parametrize(
    "change_in_place",
    [
        lambda estimator: estimator.mean_.add_(1),
        lambda estimator: estimator.names_.append("c"),
        lambda estimator: estimator.parts_["array"].fill(1),
        lambda estimator: estimator.parts_["network"].weight.data.zero_(),
        lambda estimator: estimator.parts_["network"].eval(),
        lambda estimator: estimator.parts_["random"].random(),
        lambda estimator: torch.rand(1, generator=estimator.parts_["generator"]),
    ],
    ids=["tensor", "list", "array", "weights", "mode", "NumPy generator", "torch generator"],
)
def test_snapshots_of_the_tests_see_changes_in_place(change_in_place):
    estimator = Estimator()
    estimator.parts_ = {
        "array": np.zeros(3),
        "network": torch.nn.Linear(2, 2),
        "random": np.random.default_rng(0),
        "generator": seed(),
    }
    before = snapshot(estimator)
    assert snapshot(estimator) == before
    change_in_place(estimator)
    assert snapshot(estimator) != before
