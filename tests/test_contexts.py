"""Settings of the caller that must not reach a computation, and random numbers of its own."""

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _device, _python_dispatch
from torch.utils.checkpoint import checkpoint

from anomalib_lite.contexts import OnDevice, OwnDraws, _like, plain, plain_context, seeded


@contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# -- settings of the caller -----------------------------------------------------------------------

SETTINGS = {
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
    "no gradients": torch.no_grad,
    "meta": lambda: torch.device("meta"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "NumPy errors": lambda: np.errstate(all="raise"),
}
every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


def state():
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.empty(0).device.type,
        tuple(np.geterr().items()),
    )


PLAIN = (False, False, False, "cpu", tuple(np.geterr().items()))


@every_setting
def test_a_setting_is_undone_inside_and_back_afterwards(setting):
    with setting():
        before = state()
        with plain_context():
            assert state() == PLAIN
        with pytest.raises(KeyboardInterrupt), plain_context():
            raise KeyboardInterrupt
        assert state() == before


def test_a_default_device_for_the_whole_thread_is_undone_and_back_afterwards():
    torch.set_default_device("meta")
    try:
        with plain_context():
            assert state() == PLAIN
        assert torch.empty(0).is_meta
    finally:
        torch.set_default_device(None)


@every_setting
def test_a_generator_is_plain_while_it_works_and_its_caller_is_not(setting):
    seen = []

    @plain
    def states():
        try:
            for _ in range(3):
                seen.append(state())
                yield state()
        finally:
            seen.append(state())

    with setting():
        before = state()
        for i, given in enumerate(states()):
            assert given == PLAIN
            assert state() == before
            if i == 1:
                break
        assert list(states()) == [PLAIN] * 3
    assert set(seen) == {PLAIN}
    assert state() == (False, True, *PLAIN[2:])


def test_a_plain_function_keeps_its_name_and_gives_what_it_gave():
    @plain
    def added(a, b=1):
        """Sum."""
        return a + b

    assert (added.__name__, added.__doc__, added(2), added(2, b=5)) == ("added", "Sum.", 3, 7)


def test_an_error_of_a_plain_generator_is_raised():
    @plain
    def failing():
        yield 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        list(failing())


# -- random numbers -------------------------------------------------------------------------------


def all_states():
    return [
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
    ]


def filled(fill, *arguments):
    return getattr(torch.zeros(6), fill)(*arguments)


ONES = torch.ones(2, 3, 4, 4)
QKV = torch.linspace(0, 1, 32).view(1, 2, 4, 4)
DRAWS = {
    "rand": lambda: torch.rand(5),
    "rand into": lambda: torch.rand(5, out=torch.empty(5)),
    "rand, no generator": lambda: torch.rand(5, generator=None),
    "rand of numbers": lambda: torch.rand(2, 3, dtype=torch.float64),
    "randn": lambda: torch.randn(5),
    "randint": lambda: torch.randint(9, (5,)),
    "randint between": lambda: torch.randint(3, 9, (5,)),
    "randint of floats": lambda: torch.randint(3, 9, (5,), dtype=torch.float32),
    "randperm": lambda: torch.randperm(9),
    "randperm into": lambda: torch.randperm(9, out=torch.empty(9, dtype=torch.int64)),
    "rand_like": lambda: torch.rand_like(ONES),
    "randn_like": lambda: torch.randn_like(ONES, dtype=torch.float64),
    "randint_like": lambda: torch.randint_like(ONES, 9),
    "randint_like between": lambda: torch.randint_like(ONES, 3, 9),
    "normal": lambda: torch.normal(0.0, 1.0, (5,)),
    "normal of tensors": lambda: torch.normal(torch.zeros(5), torch.ones(5)),
    "bernoulli": lambda: torch.bernoulli(ONES / 2),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 4),
    "poisson": lambda: torch.poisson(ONES),
    "binomial": lambda: torch.binomial(9 * ONES, ONES / 2),
    "gamma": lambda: torch._standard_gamma(ONES),
    "Dirichlet": lambda: torch.distributions.Dirichlet(torch.ones(3)).sample(),
    "svd": lambda: torch.svd_lowrank(torch.eye(4), q=2)[1],
    "uniform_": lambda: filled("uniform_", 2, 3),
    "normal_": lambda: filled("normal_", 2.0),
    "bernoulli_": lambda: filled("bernoulli_"),
    "bernoulli_ of tensors": lambda: filled("bernoulli_", torch.full((6,), 0.3)),
    "exponential_": lambda: filled("exponential_"),
    "geometric_": lambda: filled("geometric_", 0.3),
    "cauchy_": lambda: filled("cauchy_"),
    "log_normal_": lambda: filled("log_normal_"),
    "random_": lambda: filled("random_"),
    "random_ below": lambda: filled("random_", 7),
    "random_ between": lambda: filled("random_", 3, 7),
    "dropout": lambda: F.dropout(ONES, 0.3),
    "dropout with gradients": lambda: F.dropout(ONES.clone().requires_grad_(), 0.3).detach(),
    "dropout in place": lambda: F.dropout(ONES.clone(), 0.3, inplace=True),
    "dropout2d": lambda: F.dropout2d(ONES, 0.3),
    "alpha dropout": lambda: F.alpha_dropout(ONES, 0.3, training=True),
    "feature alpha dropout": lambda: F.feature_alpha_dropout(ONES, 0.3, training=True),
    "native dropout": lambda: torch.cat(
        [part.float() for part in torch.native_dropout(ONES, 0.3, True)]
    ),
    "rrelu": lambda: F.rrelu(-ONES, training=True),
    "gumbel": lambda: F.gumbel_softmax(ONES),
    "fractional pooling": lambda: F.fractional_max_pool2d(
        torch.rand(1, 1, 20, 20), 2, output_size=7
    ),
    "attention": lambda: F.scaled_dot_product_attention(QKV, QKV, QKV, dropout_p=0.3),
    "multi-head attention": lambda: nn.MultiheadAttention(4, 2, dropout=0.3)(*3 * [QKV[0]])[0],
    "lstm": lambda: nn.LSTM(4, 4, num_layers=2, dropout=0.3)(QKV[0])[0],
    "drop path": lambda: timm.layers.DropPath(0.3).train()(ONES),
    "linear": lambda: nn.Linear(3, 2).weight,
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(3, 3)),
    "truncated normal": lambda: nn.init.trunc_normal_(torch.empty(9), std=0.02),
    "sparse": lambda: nn.init.sparse_(torch.empty(6, 3), 0.3),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)).weight,
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_those_of_a_seeded_global_generator_which_stays_as_it_is(draw):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(7)
        expected = [draw(), draw()]
    before = all_states()
    with OwnDraws(7):
        seen = [draw(), draw()]
    assert all_states() == before
    for ours, theirs in zip(seen, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert not torch.equal(*seen)


@pytest.mark.parametrize("name", [name for name in DRAWS if "like" in name])
def test_like_is_composed_where_a_release_has_no_overload_for_it(name):
    with OwnDraws(7):
        seen = DRAWS[name]()
    packet = getattr(torch.ops.aten, name.split()[0])
    bounds = {"randint_like": {"high": 9}, "randint_like between": {"low": 3, "high": 9}}
    dtype = torch.float64 if name == "randn_like" else None
    generator = torch.Generator().manual_seed(7)
    composed = _like(packet.default, ONES, generator, **bounds.get(name, {}), dtype=dtype)
    assert torch.equal(composed, seen)


def test_no_training_no_dropout():
    with OwnDraws(0):
        kept, mask = torch.native_dropout(ONES, 0.5, False)
        gone, _ = torch.native_dropout(ONES, 1.0, True)
        assert F.scaled_dot_product_attention(QKV, QKV, QKV).shape == QKV.shape
    assert torch.equal(kept, ONES)
    assert mask.all()
    assert not gone.any()


def test_a_generator_that_is_given_is_used():
    with OwnDraws(0):
        drawn = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_streams_go_on_when_a_context_is_entered_again():
    own = OwnDraws(3)
    with own:
        first = torch.rand(4)
    with own:
        second = torch.rand(4)
    with OwnDraws(3):
        both = torch.rand(8)
    assert torch.equal(torch.cat([first, second]), both)


def test_contexts_inside_one_another_draw_each_their_own():
    with OwnDraws(1):
        first = torch.rand(2)
        with OwnDraws(2):
            inner = torch.rand(2)
        second = torch.rand(2)
    with OwnDraws(1):
        assert torch.equal(torch.rand(4), torch.cat([first, second]))
    with OwnDraws(2):
        assert torch.equal(torch.rand(2), inner)


def test_a_seed_is_drawn_from_the_generator():
    generator = torch.Generator().manual_seed(0)
    with seeded(generator):
        first = torch.rand(4)
    with seeded(generator):
        assert not torch.equal(torch.rand(4), first)
    with torch.device("meta"), seeded(torch.Generator().manual_seed(0)):
        assert torch.equal(torch.rand(4), first)


def test_threads_draw_each_their_own():
    def weights(value):
        with OwnDraws(value):
            return [nn.Linear(40, 40).weight for _ in range(20)]

    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(weights, [0, 1, 0, 1, 0, 1]))
    assert torch.equal(torch.get_rng_state(), before)
    for value, made in zip([0, 1] * 3, seen, strict=True):
        assert torch.equal(torch.stack(made), torch.stack(weights(value)))


@pytest.mark.parametrize("context", [lambda: OwnDraws(0), lambda: OnDevice("meta"), plain_context])
def test_nothing_of_the_process_is_set(context):
    def variables():
        modules = vars(_python_dispatch), vars(_device)
        return [
            (name, value) for module in modules for name, value in module.items()
            if isinstance(value, bool | torch.device | None) and not name.startswith("__")
        ]  # fmt: skip

    before = variables()
    assert not any(value for name, value in before if name.startswith("_is_in"))
    with context():
        assert variables() == before
    assert variables() == before
    with torch.device("meta"):
        before = variables()
        with context():
            assert variables() == before


def test_a_default_device_holds_for_what_names_none():
    with torch.device("meta"), OnDevice("cpu"):
        assert torch.ones(3).device.type == nn.Linear(2, 2).weight.device.type == "cpu"
        assert torch.ones(3, device="meta").is_meta
        with OnDevice("meta"):
            assert torch.ones(3).is_meta
        assert not torch.tensor(1.0).is_meta


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_draws_from_our_generators_too(backend):
    compiled = torch.compile(lambda x: F.dropout(x, 0.3) + 1, backend=backend)
    compiled(ONES)
    before = torch.get_rng_state()
    with OwnDraws(0):
        seen = compiled(ONES)
    assert torch.equal(torch.get_rng_state(), before)
    with OwnDraws(0):
        assert torch.equal(F.dropout(ONES, 0.3) + 1, seen)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_ends_the_context(error):
    with pytest.raises(error), OwnDraws(0):
        raise error
    before = torch.get_rng_state()
    torch.rand(1)
    assert not torch.equal(torch.get_rng_state(), before)


def test_draws_that_take_no_generator_are_refused():
    @torch.library.custom_op(
        "anomalib_lite_tests::noise", mutates_args=(), tags=[torch.Tag.nondeterministic_seeded]
    )
    def noise(x: torch.Tensor) -> torch.Tensor:
        return torch.rand(3)

    before = torch.get_rng_state()
    with OwnDraws(0), pytest.raises(ValueError, match=r"tests.noise.* takes no other"):
        noise(torch.ones(3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_draws_that_a_backward_pass_would_have_to_repeat_are_refused(use_reentrant):
    x = torch.ones(8, requires_grad=True)
    with OwnDraws(0):
        y = checkpoint(F.dropout, x, use_reentrant=use_reentrant)
        with pytest.raises(ValueError, match="checkpointing"):
            y.sum().backward()
        checkpoint(torch.sin, x, use_reentrant=use_reentrant).sum().backward()
    assert x.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", ["rand", "normal_", "drop path", "randperm", "linear"])
def test_a_gpu_has_a_generator_of_its_own(name):
    with torch.random.fork_rng(devices=[0]), torch.device("cuda"):
        torch.cuda.manual_seed(7)
        expected = DRAWS[name]()
    before = torch.cuda.get_rng_state()
    with torch.device("cuda"), OwnDraws(7):
        seen = DRAWS[name]()
    assert torch.equal(seen, expected)
    assert torch.equal(torch.cuda.get_rng_state(), before)


# -- the default dtype ----------------------------------------------------------------------------

MADE = {
    "empty": lambda: torch.empty(3).fill_(1),
    "full": lambda: torch.full((3,), 1.5),
    "full of ints": lambda: torch.full((3,), 1),
    "arange": lambda: torch.arange(3),
    "arange of floats": lambda: torch.arange(0, 1, 0.25),
    "linspace": lambda: torch.linspace(0, 1, 7),
    "eye": lambda: torch.eye(2),
    "hann": lambda: torch.hann_window(5),
    "rand": lambda: torch.rand(3),
    "randint": lambda: torch.randint(9, (3,)),
    "quotient": lambda: torch.arange(7) / 3,
    "root": lambda: torch.arange(7).sqrt(),
    "product": lambda: torch.arange(7) * 0.1,
    "sum": lambda: torch.arange(7).sum(),
    "in place": lambda: torch.arange(7).add_(1),
    "float64": lambda: torch.arange(7, dtype=torch.float64) / 3,
    "to float64": lambda: torch.arange(7).double(),
    "as float64": lambda: torch.arange(7).view(torch.float64),
    "linear": lambda: nn.Linear(3, 2).bias,
    "batch norm": lambda: nn.BatchNorm2d(3).running_var,
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_what_is_made_inside_does_not_depend_on_the_default_dtype(dtype, make):
    with OwnDraws(0):
        expected = make()
    with default_dtype(dtype), OwnDraws(0):
        seen = make()
    assert seen.dtype == expected.dtype
    assert torch.equal(seen, expected)
