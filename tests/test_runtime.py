"""Device, generator and progress, without a GPU: what torch reports is replaced."""

import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from anomalib_lite.runtime import (
    make_generator,
    parse_memory,
    progress,
    resolve_device,
    seeded,
    tensors_sha256,
)

# -- device ---------------------------------------------------------------------------------------


def pretend(monkeypatch, *, cuda=0, mps=False):
    """Make torch report this many CUDA devices, and whether there is MPS."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(0, False, "cpu"), (0, True, "cpu"), (1, False, "cuda"), (2, True, "cuda")],
)
def test_auto_takes_cuda_or_the_cpu(monkeypatch, cuda, mps, expected):
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("request_", ["cpu", torch.device("cpu")])
def test_the_cpu_is_there_and_is_taken_even_beside_a_gpu(monkeypatch, request_):
    pretend(monkeypatch, cuda=1)
    assert resolve_device(request_) == torch.device("cpu")


@pytest.mark.parametrize("request_", ["cuda", "cuda:0", "cuda:1", torch.device("cuda", 1)])
def test_a_cuda_device_that_is_there_is_taken(monkeypatch, request_):
    pretend(monkeypatch, cuda=2)
    assert resolve_device(request_) == torch.device(request_)


@pytest.mark.parametrize(("request_", "cuda"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_cuda_device_that_is_not_there_is_refused(monkeypatch, request_, cuda):
    pretend(monkeypatch, cuda=cuda)
    with pytest.raises(ValueError, match=rf"'{request_}'.* {cuda} CUDA devices .*device='auto'"):
        resolve_device(request_)


def test_mps_is_taken_only_where_it_is(monkeypatch):
    pretend(monkeypatch, mps=True)
    assert resolve_device("mps") == torch.device("mps")
    pretend(monkeypatch, mps=False)
    with pytest.raises(ValueError, match="'mps' is not available"):
        resolve_device("mps")


@pytest.mark.parametrize("request_", ["gpu", "", "cuda:x", "CPU", None, 3.5, [], -1])
def test_what_is_no_device_is_refused(request_):
    with pytest.raises(ValueError, match="device: expected 'auto', 'cpu'") as error:
        resolve_device(request_)
    assert repr(request_) in str(error.value)


@pytest.mark.parametrize("request_", ["meta", "hip"])
def test_a_device_that_cannot_hold_data_here_is_refused(request_):
    with pytest.raises(ValueError, match="device"):
        resolve_device(request_)


# -- generator ------------------------------------------------------------------------------------


def draws(random_state):
    generator = make_generator(random_state)
    assert generator.device == torch.device("cpu")
    return torch.rand(8, generator=generator).tolist()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, np.int64(7), np.uint8(7)])
def test_an_int_gives_the_same_draws_every_time(seed):
    assert draws(seed) == draws(seed)
    assert draws(seed) == draws(int(seed))
    assert draws(seed) != draws(1)


@pytest.mark.parametrize("kind", [np.random.RandomState, np.random.default_rng])
def test_a_numpy_generator_gives_the_same_draws_from_the_same_state(kind):
    assert draws(kind(0)) == draws(kind(0))
    assert draws(kind(0)) != draws(kind(1))


@pytest.mark.parametrize("kind", [np.random.RandomState, np.random.default_rng])
def test_a_numpy_generator_moves_on(kind):
    state = kind(0)
    assert draws(state) != draws(state)


def test_none_gives_new_draws_every_time():
    assert draws(None) != draws(None)


@pytest.mark.parametrize("bad", [-1, 2**32, 0.5, "0", [0], torch.Generator()])
def test_what_is_no_random_state_is_refused(bad):
    with pytest.raises(ValueError, match="random_state: expected None, an int") as error:
        make_generator(bad)
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize("random_state", [None, 0, "RandomState", "Generator"])
def test_the_global_generators_are_left_alone(random_state):
    if random_state == "RandomState":
        random_state = np.random.RandomState(0)
    elif random_state == "Generator":
        random_state = np.random.default_rng(0)
    numpy_before, torch_before = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    draws(random_state)
    numpy_after, torch_after = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    assert numpy_before[2] == numpy_after[2]
    np.testing.assert_array_equal(numpy_before[1], numpy_after[1])
    assert torch.equal(torch_before, torch_after)


def seed(value=0):
    return torch.Generator().manual_seed(value)


def test_inside_seeded_draws_come_from_the_generators_seed():
    def draw(value):
        torch.rand(3)  # where the global generator stands does not matter
        with seeded(seed(value)):
            return torch.rand(8).tolist() + torch.nn.Linear(2, 2).weight.flatten().tolist()

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_seeded_twice_by_one_generator_draws_anew():
    generator, drawn = seed(), []
    for _ in range(2):
        with seeded(generator):
            drawn.append(torch.rand(8).tolist())
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_after_seeded_the_global_generator_is_as_before(device):
    before = torch.get_rng_state()
    with seeded(seed(), device):
        torch.rand(8)
        assert not torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_after_an_error_inside_seeded_the_global_generator_is_as_before(error):
    before = torch.get_rng_state()
    with pytest.raises(error), seeded(seed()):
        torch.rand(8)
        raise error
    assert torch.equal(torch.get_rng_state(), before)


def test_seeded_works_on_any_default_device():
    with torch.device("meta"), seeded(seed()):
        inside = torch.rand(8, device="cpu")
    with seeded(seed()):
        assert torch.equal(torch.rand(8), inside)


def test_seeded_seeds_the_gpu_that_is_named(monkeypatch):
    """There is no GPU here: what torch is asked for."""
    forked, seeds = [], []

    @contextmanager
    def fork_rng(devices):
        forked.append(devices)
        yield

    before = torch.get_rng_state()
    monkeypatch.setattr(torch.random, "fork_rng", fork_rng)
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    with seeded(seed(), torch.device("cuda", 0)), seeded(seed(), torch.device("cpu")):
        pass
    torch.set_rng_state(before)
    assert forked == [[torch.device("cuda", 0)], []]
    assert seeds == [int(torch.randint(2**31, (1,), generator=seed()))]


# -- memory and digests ---------------------------------------------------------------------------


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
def test_memory_budgets_are_read(value, expected):
    assert parse_memory("budget", value) == expected


@pytest.mark.parametrize(
    "value", [0, -1, True, "", "2", "GB", "-1GB", "2gb", "1e3GB", "0GB", float("inf"), [2]]
)
def test_budgets_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="budget: expected bytes"):
        parse_memory("budget", value)


def test_digest_tells_any_difference():
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
    tensors_sha256({"bool": torch.tensor(True), "half": torch.zeros(0, dtype=torch.bfloat16)})


# -- progress -------------------------------------------------------------------------------------


def test_progress_is_silent_and_gives_what_it_was_given(capfd):
    assert list(progress(range(3), desc="fit")) == [0, 1, 2]
    with progress(total=3) as bar:
        bar.update(3)
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_on_request_and_not_on_stdout(capfd):
    assert list(progress(range(3), total=3, desc="fit", verbose=True)) == [0, 1, 2]
    out, err = capfd.readouterr()
    assert out == ""
    assert "fit" in err
    assert "3/3" in err
