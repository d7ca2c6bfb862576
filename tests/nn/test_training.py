"""The gradient loop: what it lowers, what it leaves alone, and how it ends."""

import math
import warnings
from functools import partial
from itertools import chain
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from anomalib_lite.contexts import OwnDraws
from anomalib_lite.nn import (
    Objective,
    bounded_sum,
    forecast,
    mlp,
    portion,
    split_off,
    train,
    training,
    training_settings,
)
from anomalib_lite.nn.draws import may_draw

CPU = torch.device("cpu")
N = 40


def seed(value=0):
    return torch.Generator().manual_seed(value)


def rows(n=N, d=3, value=0):
    return torch.randn(n, d, generator=seed(value))


X = rows()
Y = X @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.3


def layer(value=0):
    """Linear(3, 1), always the same."""
    made = nn.Linear(3, 1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seed(value)))
    return made


def regression(network, **options):
    """Mean squared error of Y by X."""

    def loss(index, _generator):
        return (network(X[index]) - Y[index]).square().mean()

    return Objective(loss, network.parameters(), **options)


def run(objectives, modules, **options):
    defaults = {"device": CPU, "generator": seed(), "epochs": 3, "batch_size": 10}
    samples = options.pop("samples", torch.arange(N))
    return train(objectives, modules, samples, **defaults | options)


def values(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def moved(network, start=None):
    """How far the bias is from where it started."""
    return network.bias.item() - (start or layer()).bias.item()


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


def notes(seen, network):
    """An objective that notes the batches it is given."""

    def loss(index, _generator):
        seen.append(index.tolist())
        return network(X[index]).square().mean()

    return Objective(loss, network.parameters())


# -- what it lowers -------------------------------------------------------------------------------


OPTIMIZERS = {
    "sgd": ("sgd", 0.05),
    "adam": ("adam", 0.1),
    "adamw": ("adamw", 0.1),
    "callable": (torch.optim.RMSprop, 0.1),
}


@pytest.mark.parametrize(("optimizer", "rate"), OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_line_is_found(optimizer, rate):
    network = layer()
    objective = regression(network)
    history = run(objective, network, epochs=60, optimizer=optimizer, learning_rate=rate)
    assert network.weight.tolist()[0] == pytest.approx([1, -2, 0.5], abs=0.01)
    assert network.bias.item() == pytest.approx(0.3, abs=0.01)
    assert history[0]["loss"] > 1
    assert history[-1]["loss"] < 1e-3


def test_sgd_is_torchs_with_momentum():
    network, plain = layer(), layer()
    run(regression(network), network, batch_size=N, schedule="constant", weight_decay=0.1)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        sgd.zero_grad()
        (plain(X) - Y).square().mean().backward()
        sgd.step()
    torch.testing.assert_close(values(network), values(plain))


def test_weight_decay_shrinks():
    shrunk, plain = layer(), layer()
    run(regression(plain), plain, epochs=20, learning_rate=0.05)
    run(regression(shrunk), shrunk, epochs=20, learning_rate=0.05, weight_decay=1.0)
    assert shrunk.weight.norm().item() < 0.8 * plain.weight.norm().item()


def test_a_callable_optimizer_is_told_rate_and_decay():
    told, network = [], layer()

    def make(parameters, lr, weight_decay):
        told.append((len(parameters), lr, weight_decay))
        return torch.optim.SGD(parameters, lr=lr)

    run(regression(network), network, optimizer=make, learning_rate=0.2, weight_decay=0.3)
    assert told == [(2, 0.2, 0.3)]


def test_the_loss_of_an_epoch_is_the_mean_of_its_samples():
    """Batches of 14, 13 and 13 samples count by their sizes."""
    network = layer()
    history = run(regression(network), network, batch_size=14, epochs=1, learning_rate=1e-12)
    assert history[0]["loss"] == pytest.approx((layer()(X) - Y).square().mean().item(), rel=1e-5)


# -- two losses of one objective, one of them bounded ---------------------------------------------


def gradients(*scale):
    """Of two tensors, norms over both together of 5 times ``scale``."""
    return [[torch.tensor([[3.0 * k]]), torch.tensor([0.0, 4.0 * k])] for k in scale]


@pytest.mark.parametrize(
    ("second", "weight", "expected"),
    [(10.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.2, 1.0, 0.2), (10.0, 0.3, 0.3), (0.2, 0.5, 0.1)],
)
def test_a_second_gradient_is_cut_to_the_first(second, weight, expected):
    summed = bounded_sum(*gradients(1.0, second), weight)
    for found, (one,) in zip(summed, zip(*gradients(1 + expected), strict=True), strict=True):
        torch.testing.assert_close(found, one)


def test_gradients_of_zero_are_borne():
    first, second = gradients(1.0, 0.0)
    assert all(map(torch.equal, bounded_sum(second, second), second))
    assert all(map(torch.equal, bounded_sum(first, second), first))
    assert all(map(torch.equal, bounded_sum(second, first), second))


@pytest.mark.parametrize("large", [1.0, 100.0])
def test_a_bounded_loss_moves_parameters_as_its_rule_says(large):
    """One step of plain gradient descent, the second loss of the bias alone."""
    network, plain = layer(), layer()

    def pair(index, _generator):
        return (network(X[index]) - Y[index]).square().mean(), large * network.bias.sum()

    objective = Objective(pair, network.parameters(), bounded=0.5)
    history = run(
        objective, network, batch_size=N, epochs=1, optimizer=torch.optim.SGD, learning_rate=0.1
    )
    loss = (plain(X) - Y).square().mean()
    loss.backward()
    size = math.sqrt(sum(p.grad.square().sum().item() for p in plain.parameters()))
    expected = plain.bias - 0.1 * (plain.bias.grad + 0.5 * min(1, size / large) * large)
    torch.testing.assert_close(network.bias, expected)
    torch.testing.assert_close(network.weight, plain.weight - 0.1 * plain.weight.grad)
    assert history[0]["loss"] == pytest.approx(loss.item())


# -- how long, and on what ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "batch_size", "sizes"),
    [(40, 10, [10] * 4), (40, 14, [14, 13, 13]), (5, 4, [3, 2]), (3, 8, [3]), (9, 1, [1] * 9)],
)
def test_an_epoch_sees_each_sample_once_in_batches_of_about_one_size(n, batch_size, sizes):
    seen, network = [], layer()
    samples = torch.arange(N - n, N)
    run(notes(seen, network), network, samples=samples, batch_size=batch_size, epochs=2)
    assert [len(index) for index in seen] == sizes * 2
    first, second = torch.tensor(list(chain(*seen))).view(2, n).tolist()
    assert sorted(first) == sorted(second) == samples.tolist()
    assert n < 9 or first != second  # in another order


@pytest.mark.parametrize(("steps", "epochs"), [(1, 1), (4, 1), (6, 2), (8, 2), (9, 3)])
def test_steps_are_batches_and_win_over_epochs(steps, epochs):
    seen, network = [], layer()
    history = run(notes(seen, network), network, steps=steps, epochs=50)
    assert len(seen) == steps
    assert [entry["epoch"] for entry in history] == list(range(1, epochs + 1))


@pytest.mark.parametrize("options", [{"steps": 0}, {"epochs": 0}], ids=str)
def test_no_steps_leave_the_network_as_it_is(options):
    network = layer()
    assert run(regression(network), network, **options) == []
    assert same(values(network), values(layer()))
    assert not network.training


@pytest.mark.parametrize("fraction", [0, 0.1, 0.5])
def test_splitting_off_partitions_the_samples_at_random(fraction):
    rest, held_out = split_off(50, fraction, seed())
    assert len(held_out) == round(50 * fraction)
    assert sorted([*rest.tolist(), *held_out.tolist()]) == list(range(50))
    assert torch.equal(split_off(50, fraction, seed())[0], rest)
    assert not torch.equal(split_off(50, fraction, seed(1))[0], rest)


# -- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": None}, "epochs: expected a number of epochs, or of steps, got neither"),
        ({"epochs": -1}, "epochs: expected an int of at least 0, got -1"),
        ({"steps": 1.5}, "steps: expected an int of at least 0, got 1.5"),
        ({"batch_size": 0}, "batch_size: expected a positive int, got 0"),
        ({"patience": 0}, "patience: expected a positive int, got 0"),
        ({"optimizer": "lion"}, "optimizer: expected one of 'sgd', 'adam', 'adamw', got 'lion'"),
        ({"schedule": "linear"}, "schedule: expected one of 'constant', 'cosine', got 'linear'"),
        ({"on_interrupt": "ask"}, "on_interrupt: expected one of 'raise', 'finish', got 'ask'"),
        ({"learning_rate": -0.1}, "learning_rate: expected a number of at least 0, got -0.1"),
        ({"weight_decay": math.nan}, "weight_decay: expected a number of at least 0, got nan"),
        ({"clip_norm": -1}, "clip_norm: expected a number of at least 0, got -1"),
    ],
    ids=str,
)
def test_invalid_options_are_refused_before_anything_moves(options, message):
    network = layer()
    with pytest.raises(ValueError, match=f"^{message}"):
        run(regression(network), network, **options)
    assert same(values(network), values(layer()))


def test_an_unknown_option_is_refused():
    network = layer()
    with pytest.raises(TypeError, match="n_epochs"):
        run(regression(network), network, n_epochs=3)


def test_settings_of_an_estimator_are_options_by_other_names():
    estimator = SimpleNamespace(
        epochs=3, train_steps=None, train_batch_size=8, batch_size=32, optimizer="adam",
        learning_rate=0.1, weight_decay=0.2, schedule="constant", clip_norm=0.3, patience=4,
        on_interrupt="finish", verbose=True, image_size=64,
    )  # fmt: skip
    assert training_settings(estimator) == {
        "epochs": 3, "steps": None, "batch_size": 8, "optimizer": "adam", "learning_rate": 0.1,
        "weight_decay": 0.2, "schedule": "constant", "clip_norm": 0.3, "patience": 4,
        "on_interrupt": "finish", "verbose": True,
        "shortening": ["fewer epochs", "a smaller image_size"],
    }  # fmt: skip
    training.TrainingOptions(**training_settings(estimator))


# -- learning rate and clipping -------------------------------------------------------------------


def test_the_cosine_schedule_ends_near_zero():
    network = layer()
    history = run(regression(network), network, epochs=5, learning_rate=0.2)
    last_steps = [3, 7, 11, 15, 19]  # of 4 in each of the 5 epochs
    expected = [0.2 * (1 + math.cos(math.pi * step / 20)) / 2 for step in last_steps]
    assert [entry["learning_rate"] for entry in history] == pytest.approx(expected)


def test_the_constant_schedule_is_constant():
    network = layer()
    history = run(regression(network), network, schedule="constant", learning_rate=0.2)
    assert {entry["learning_rate"] for entry in history} == {0.2}


def test_a_callable_schedule_is_asked_before_each_step():
    asked, network = [], layer()

    def half(done):
        asked.append(done)
        return 0.5

    history = run(regression(network), network, epochs=2, schedule=half, learning_rate=0.2)
    assert asked == [step / 8 for step in range(8)]
    assert {entry["learning_rate"] for entry in history} == {0.1}


def test_a_rate_of_zero_moves_nothing():
    network = layer()
    run(regression(network), network, schedule=lambda done: 0.0)
    assert same(values(network), values(layer()))


@pytest.mark.parametrize(("clip_norm", "expected"), [(0.5, 0.5), (None, 1e3), (1e9, 1e3)])
def test_a_gradient_is_clipped_to_its_norm(clip_norm, expected):
    """One step of plain SGD at rate 1 moves by the gradient, here of norm 1000."""
    network = layer()

    def steep(_index, _generator):
        return 1e3 * network.weight.sum() / math.sqrt(3) + 0 * network.bias.sum()

    run(
        Objective(steep, network.parameters()),
        network,
        steps=1,
        optimizer=torch.optim.SGD,
        learning_rate=1.0,
        clip_norm=clip_norm,
    )
    length = (network.weight - layer().weight).norm().item()
    assert length == pytest.approx(expected, rel=1e-3)


# -- held-out samples -----------------------------------------------------------------------------


def scripted(network, script):
    """An objective whose held-out losses, one an epoch, are scripted; training adds 1 a step."""
    script = iter(script)

    def loss(index, _generator):
        if not torch.is_grad_enabled():
            return torch.tensor(float(next(script)))
        return -network.bias.sum()

    return Objective(loss, network.parameters())


STEADY = {
    "optimizer": torch.optim.SGD, "learning_rate": 1.0, "schedule": "constant", "batch_size": N,
}  # fmt: skip


@pytest.mark.parametrize(
    ("script", "best"), [([5, 3, 4, 6], 2), ([5, 4, 3, 2], 4), ([1, 2, 2, 1], 1)]
)
def test_the_weights_of_the_lowest_held_out_loss_come_back(script, best):
    network = layer()
    held_out = torch.arange(3)
    objective = scripted(network, script)
    history = run(objective, network, epochs=len(script), held_out=held_out, **STEADY)
    assert [entry["held_out"] for entry in history] == script
    assert moved(network) == pytest.approx(best)


@pytest.mark.parametrize(
    ("script", "patience", "n_epochs"),
    [
        ([5, 3, 4, 6, 1], 2, 4),
        ([5, 3, 4, 2, 3, 3, 3], 3, 7),
        ([5, 6, 1], 1, 2),
        ([5, 5, 1], 1, 2),  # not lower
        ([5, 4, 3], 1, 3),
    ],
)
def test_patience_ends_training(script, patience, n_epochs):
    network = layer()
    history = run(
        scripted(network, script),
        network,
        epochs=len(script),
        held_out=torch.arange(3),
        patience=patience,
        **STEADY,
    )
    assert len(history) == n_epochs
    best = script.index(min(script[:n_epochs])) + 1
    assert moved(network) == pytest.approx(best)


@pytest.mark.parametrize("held_out", [None, torch.arange(0)], ids=["None", "empty"])
def test_without_held_out_samples_the_last_weights_stay(held_out):
    network, options = layer(), {"epochs": 4, "patience": 1, "or_first": True} | STEADY
    history = run(scripted(network, []), network, held_out=held_out, **options)
    assert len(history) == 4
    assert "held_out" not in history[0]
    assert moved(network) == pytest.approx(4)


def test_held_out_samples_are_only_looked_at():
    """In eval mode, without gradients, each once an epoch, with the same draws each time."""
    network, drawn, seen = nn.Sequential(layer(), nn.Dropout(0.5)), [], []

    def loss(index, generator):
        draw = torch.rand(2, generator=generator).tolist()
        if not network.training:
            assert not torch.is_grad_enabled()
            drawn.append(draw)
            seen.append(index.tolist())
        else:
            assert max(index) < 30
        return network(X[index]).square().mean()

    rest, held_out = torch.arange(30), torch.arange(30, 40)
    objective = Objective(loss, network.parameters())
    run(objective, network, samples=rest, held_out=held_out, batch_size=6, epochs=3)
    assert [len(index) for index in seen] == [5, 5] * 3
    assert [*seen[0], *seen[1]] == held_out.tolist()
    assert drawn[:2] == drawn[2:4] == drawn[4:]


def test_the_held_out_loss_is_the_mean_of_its_samples():
    network = layer()
    held_out = torch.arange(7)
    history = run(regression(network), network, held_out=held_out, epochs=1, batch_size=3)
    mean = (network(X[:7]) - Y[:7]).square().mean()
    assert history[0]["held_out"] == pytest.approx(mean.item(), rel=1e-5)


def test_the_first_weights_come_back_where_that_is_asked_for_and_nothing_beats_them():
    network = layer()

    def loss(index, _generator):
        return network.bias.square().mean() if network.training else -network.bias.square().mean()

    start = values(network)
    for or_first in (True, False):
        objective = Objective(loss, network.parameters())
        run(objective, network, held_out=torch.arange(4), or_first=or_first)
        assert same(values(network), start) == or_first


def test_what_is_watched_may_be_another_thing_than_the_loss():
    network = layer()
    objective = regression(network, watched=lambda index, _generator: torch.tensor(7.0))
    history = run(objective, network, held_out=torch.arange(4))
    assert [entry["held_out"] for entry in history] == [7.0] * 3


def test_buffers_come_back_with_the_weights():
    network = nn.Sequential(layer(), nn.BatchNorm1d(1))
    after_first = []

    def loss(index, _generator):
        if not network.training:
            after_first.append(values(network))
            return torch.tensor(float(len(after_first)))
        return network(X[index]).square().mean() + network[0].weight.sum()

    run(Objective(loss, network.parameters()), network, held_out=torch.arange(3))
    assert len(after_first) == 3
    assert not same(after_first[0], after_first[2])
    assert same(values(network), after_first[0])


# -- several objectives ---------------------------------------------------------------------------


def test_objectives_take_turns_on_every_batch():
    turns, both = [], nn.ModuleList([layer(0), layer(1)])

    def objective(name, network):
        def loss(index, _generator):
            turns.append((name, index.tolist()))
            return network(X[index]).square().mean()

        return Objective(loss, network.parameters(), name=name)

    history = run([objective("a", both[0]), objective("b", both[1])], both, epochs=2)
    assert [name for name, _ in turns] == ["a", "b"] * 8
    assert all(turns[i][1] == turns[i + 1][1] for i in range(0, 16, 2))
    assert set(history[0]) == {"epoch", "a", "b", "learning_rate"}
    assert history[0]["a"] != history[0]["b"]


def test_each_objective_moves_its_own_parameters_only():
    """As a generator and a discriminator: both losses depend on both."""
    one, other, seen = layer(0), layer(1), []

    def loss(index, _generator):
        seen.append((values(one), values(other)))
        return (one(X[index]) * other(X[index])).mean()

    objectives = [
        Objective(loss, one.parameters(), name="low"),
        Objective(lambda *given: -loss(*given), other.parameters(), name="high"),
    ]
    run(objectives, nn.ModuleList([one, other]), steps=2)
    assert len(seen) == 4
    for i, (mover, still) in enumerate([(0, 1), (1, 0), (0, 1)]):
        assert not same(seen[i][mover], seen[i + 1][mover])
        assert same(seen[i][still], seen[i + 1][still])


def test_no_gradients_pile_up_in_the_parameters_of_others():
    one, other = layer(0), layer(1)

    def loss(index, _generator):
        return (one(X[index]) * other(X[index])).mean()

    run(Objective(loss, one.parameters()), nn.ModuleList([one, other]))
    assert all(parameter.grad is None for parameter in other.parameters())


def test_an_objective_may_have_its_own_optimizer_and_rate():
    """A first step of SGD is rate times gradient (here 2), one of Adagrad the rate alone."""
    both = nn.ModuleList([layer(0), layer(1)])
    objectives = [
        Objective(lambda *_: -2 * both[0].bias, both[0].parameters(), "a", learning_rate=0.5),
        Objective(lambda *_: -2 * both[1].bias, both[1].parameters(), "b", torch.optim.Adagrad),
    ]
    options = {"optimizer": torch.optim.SGD, "learning_rate": 0.25, "schedule": "constant"}
    history = run(objectives, both, steps=1, **options)
    assert moved(both[0], layer(0)) == pytest.approx(1.0)
    assert moved(both[1], layer(1)) == pytest.approx(0.25)
    assert history[0]["learning_rate"] == 0.5


def test_an_own_rate_of_zero_moves_nothing():
    both = nn.ModuleList([layer(0), layer(1)])
    objectives = [regression(both[0], name="a"), regression(both[1], name="b", learning_rate=0.0)]
    run(objectives, both, learning_rate=0.1)
    assert not same(values(both[0]), values(layer(0)))
    assert same(values(both[1]), values(layer(1)))


def test_the_first_objective_is_the_one_watched():
    both = nn.ModuleList([layer(0), layer(1)])
    objectives = [regression(both[0], name="first"), regression(both[1], name="second")]
    history = run(objectives, both, held_out=torch.arange(N), epochs=1)
    expected = (both[0](X) - Y).square().mean().item()
    assert history[0]["held_out"] == pytest.approx(expected, rel=1e-5)


def test_parameters_that_need_no_gradient_stay():
    network = nn.Sequential(nn.Linear(3, 3), layer())
    network[0].requires_grad_(False)
    before = values(network)
    run(regression(network), network)
    unlike = [name for name, value in values(network).items() if not value.equal(before[name])]
    assert unlike == ["1.weight", "1.bias"]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_parameter_that_takes_no_part_stays(optimizer):
    network = layer()
    objective = Objective(lambda *_: network.weight.square().sum(), network.parameters())
    run(objective, network, optimizer=optimizer, clip_norm=1.0)
    assert torch.equal(network.bias, layer().bias)
    assert not torch.equal(network.weight, layer().weight)


# -- randomness and modes -------------------------------------------------------------------------


def noisy():
    network = nn.Sequential(layer(), nn.BatchNorm1d(1), nn.Dropout(0.5), nn.Linear(1, 1))
    with torch.no_grad():
        network[3].weight.fill_(1.0)
        network[3].bias.fill_(0.0)
    return network


def noisy_run(value, network=None):
    network = network or noisy()

    def loss(index, generator):
        shift = torch.randn(len(index), 3, generator=generator)
        return (network(X[index] + shift) - Y[index]).square().mean()

    objective = Objective(loss, network.parameters())
    return run(objective, network, generator=seed(value)), values(network)


def test_a_seed_gives_the_same_bits_dropout_and_all():
    history, network = noisy_run(0)
    torch.rand(7)  # the global generator has moved on
    again, other = noisy_run(0)
    assert history == again
    assert same(network, other)
    assert noisy_run(1)[0] != history


def test_dropout_depends_on_the_seed_alone():
    def masks(value):
        network, seen = nn.Sequential(layer(), nn.Dropout(0.5)), []

        def loss(index, _generator):
            seen.append(network[1](torch.ones(20)).tolist())
            return network(X[index]).mean()

        run(Objective(loss, network.parameters()), network, generator=seed(value), steps=3)
        return seen

    assert masks(0) == masks(0)
    assert masks(0) != masks(1)
    assert masks(0)[0] != masks(0)[1]


def failing(error, after=0):
    """A network, and an objective that raises after so many steps."""
    network, calls = layer(), []

    def loss(index, _generator):
        torch.rand(3)
        calls.append(index)
        if len(calls) > after:
            raise error
        return -network.bias.sum()

    return network, Objective(loss, network.parameters())


def test_the_global_generator_is_left_alone():
    network, before = noisy(), torch.get_rng_state()
    noisy_run(0, network)
    assert torch.equal(torch.get_rng_state(), before)
    network, objective = failing(RuntimeError("no"))
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="no"):
        run(objective, network)
    assert torch.equal(torch.get_rng_state(), before)


def test_modules_train_meanwhile_and_are_in_eval_mode_afterwards():
    network, modes = nn.Sequential(layer(), nn.Dropout()).eval(), []

    def loss(index, _generator):
        modes.append(network.training)
        return network(X[index]).mean()

    objective = Objective(loss, network.parameters())
    run(objective, network, steps=6, held_out=torch.arange(3))
    assert modes == [True] * 4 + [False] + [True] * 2 + [False]
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("collect", [list, iter], ids=["list", "iterator"])
def test_frozen_batch_norms_keep_their_statistics(collect):
    network = nn.Sequential(layer(), nn.BatchNorm1d(1), nn.Linear(1, 1), nn.BatchNorm1d(1))
    before = values(network)
    objective = regression(network)
    run(objective, network, epochs=3, frozen=collect([network[1]]))
    after = values(network)
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert torch.equal(after["1.running_var"], before["1.running_var"])
    assert int(after["1.num_batches_tracked"]) == 0
    assert int(after["3.num_batches_tracked"]) == 12
    assert not torch.equal(after["3.running_mean"], before["3.running_mean"])


def test_frozen_layers_stay_in_eval_mode_after_held_out_losses():
    network = nn.Sequential(layer(), nn.BatchNorm1d(1))
    run(regression(network), network, frozen=[network[1]], held_out=torch.arange(4))
    assert int(network[1].num_batches_tracked) == 0


class Watched(OwnDraws):
    """Counts the operations that pass through it."""

    n_seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        Watched.n_seen += 1
        return super().__torch_dispatch__(func, types, args, kwargs)


def watched_run(monkeypatch, network, **options):
    """Whether the operations of a training pass through our own draws."""
    Watched.n_seen = 0
    monkeypatch.setattr(training, "OwnDraws", Watched)
    objective = Objective(partial(mean_output, network), network.parameters())
    run(objective, network, **options)
    return Watched.n_seen > 0


def mean_output(network, index, _generator):
    return network(X[index]).mean()


mean_output.__module__ = "anomalib_lite.nn"  # as a loss of this package


def hooked(network):
    network.register_forward_hook(lambda module, inputs, output: output + torch.rand(1))
    return network


class Own(nn.Linear):
    """A layer that somebody else wrote."""


DRAWING = {
    "dropout": nn.Sequential(nn.Linear(3, 1), nn.Dropout()),
    "no dropout": nn.Sequential(nn.Linear(3, 1), nn.Dropout(0.0)),  # which could be raised
    "unknown": Own(3, 1),
    "unknown inside": nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Own(3, 1)),
    "hook": hooked(nn.Linear(3, 1)),
    "random slope": nn.RReLU(),
}


@pytest.mark.parametrize("network", DRAWING.values(), ids=DRAWING)
def test_what_might_draw_is_given_generators(network, monkeypatch):
    network = nn.Sequential(nn.Linear(3, 3), network)
    assert watched_run(monkeypatch, network)


def test_what_is_known_to_draw_nothing_is_left_alone(monkeypatch):
    network = nn.Sequential(mlp(3, (4,), 3), spectral_norm(nn.Linear(3, 1)))
    for optimizer in ("sgd", "adam", "adamw", torch.optim.RAdam):
        assert not watched_run(monkeypatch, network, optimizer=optimizer)


def test_a_loss_and_an_optimizer_of_somebody_else_might_draw(monkeypatch):
    class Noisy(torch.optim.SGD):
        def step(self, *arguments):
            self.param_groups[0]["params"][0].grad += torch.rand(1)
            super().step(*arguments)

    assert watched_run(monkeypatch, nn.Linear(3, 1), optimizer=Noisy)
    monkeypatch.setattr(mean_output, "__module__", "elsewhere")
    assert watched_run(monkeypatch, nn.Linear(3, 1))


def test_who_inherits_a_loss_of_ours_might_draw():
    class Ours:
        def loss(self, index, generator):
            pass

    Ours.__module__ = "anomalib_lite.methods"

    class Theirs(Ours):
        pass

    network = nn.Linear(3, 1)
    assert not may_draw(network, [Ours().loss, partial(partial(Ours().loss, 1), 2)])
    assert may_draw(network, [partial(Theirs().loss, 1)])


# -- how long it will take ------------------------------------------------------------------------


def clock(monkeypatch, durations):
    """Make steps of a training take so many seconds, the last of them again and again."""
    durations, now = list(durations), [0.0]

    def monotonic():
        now[0] += durations.pop(0) if len(durations) > 1 else durations[0]
        return now[0]

    monkeypatch.setattr(forecast.time, "monotonic", monotonic)


def told(n_steps, **options):
    """What a training of so many steps warns of; it ends after a few epochs."""
    network, n_done = layer(), []

    def loss(index, _generator):
        n_done.append(index)
        if len(n_done) > 24:
            raise KeyboardInterrupt
        return network(X[index]).mean()

    objective = Objective(loss, network.parameters())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(objective, network, on_interrupt="finish", steps=n_steps, **options)
    assert all(each.category is UserWarning for each in caught)
    return [str(each.message) for each in caught]


def test_a_long_training_says_what_it_will_cost(monkeypatch):
    clock(monkeypatch, [99, 1.5])
    (text,) = told(10_000, shortening=["fewer epochs", "a smaller image_size"])
    assert "this fit will take about 4 h more: 10000 training steps of about 1.5 s each. " in text
    assert "with fewer epochs or a smaller image_size or a GPU (device='cuda')." in text


@pytest.mark.parametrize(("n_steps", "long"), [(590, False), (610, True)])
def test_ten_minutes_are_long(monkeypatch, n_steps, long):
    clock(monkeypatch, [1.0])
    assert bool(told(n_steps)) is long


def test_the_first_step_and_one_that_halts_do_not_count(monkeypatch):
    clock(monkeypatch, [500, 0.01, 0.01, 300, 0.01, 0.01])
    assert told(10_000) == []
    clock(monkeypatch, [500, 60, 1.0, 1.0])  # the first two are enough seconds already
    assert "of about 1 s each" in told(10_000)[0]


@pytest.mark.parametrize(("seconds", "n_steps"), [(30.0, 3), (7.0, 4), (2.0, 6)])
def test_slow_steps_are_told_of_sooner(monkeypatch, seconds, n_steps):
    clock(monkeypatch, [seconds])
    seen = forecast.Forecast(1000, 1.0, [])
    for _ in range(n_steps - 1):
        seen.step()
    with pytest.warns(UserWarning, match="this fit will take about"):
        seen.step()
    seen.step()  # once is enough


def test_a_portion_of_a_fit_speaks_for_all_of_it(monkeypatch):
    clock(monkeypatch, [1.0])
    with portion(0.5), portion(0.5):
        (text,) = told(300)
    assert "about 20 min more: 300 training steps of about 1 s each, which are 25% of it" in text
    with portion(0):
        assert told(10_000) == []


def test_a_short_training_says_nothing():
    assert told(24) == []


# -- where it runs --------------------------------------------------------------------------------


def plain_run(**options):
    network = layer()
    defaults = {"optimizer": "adam", "held_out": torch.arange(5), "clip_norm": 1.0}
    objective = regression(network)
    return run(objective, network, on_interrupt="finish", **defaults | options), values(network)


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad])
def test_it_runs_wherever_it_is_called(context):
    expected = plain_run()
    with context():
        history, network = plain_run()
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
    assert history == expected[0]
    assert same(network, expected[1])


@pytest.mark.parametrize(
    "optimizer", ["sgd", "adam", "adamw", torch.optim.RAdam, torch.optim.Adagrad]
)
@pytest.mark.parametrize("held_out", [None, torch.arange(5)])
def test_nothing_is_made_on_the_default_device(optimizer, held_out):
    network, generator, samples = layer(), seed(), torch.arange(N)
    objective = regression(network)
    options = {"optimizer": optimizer, "held_out": held_out, "clip_norm": 1.0}
    expected = plain_run(**options)
    with torch.device("meta"):
        history = run(objective, network, samples=samples, generator=generator, **options)
        rest, _ = split_off(20, 0.2, generator)
    assert history == expected[0]
    assert same(values(network), expected[1])
    assert rest.device.type == "cpu"


def test_progress_is_shown_on_request(capfd):
    network = layer()
    run(regression(network), network)
    assert capfd.readouterr() == ("", "")
    run(regression(network), network, verbose=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "12/12" in err
    assert "loss=" in err


# -- how it ends early ----------------------------------------------------------------------------


@pytest.mark.parametrize("on_interrupt", ["raise", "finish"])
def test_an_interrupt_in_the_first_epoch_is_raised(on_interrupt):
    network, objective = failing(KeyboardInterrupt, after=0)
    with pytest.raises(KeyboardInterrupt):
        run(objective, network, on_interrupt=on_interrupt, **STEADY)
    assert same(values(network), values(layer()))


def test_an_interrupt_is_raised_unless_one_asks_otherwise():
    network, objective = failing(KeyboardInterrupt, after=2)
    with pytest.raises(KeyboardInterrupt):
        run(objective, network, **STEADY)


def test_an_interrupt_may_end_training_with_the_last_complete_epoch():
    network, objective = failing(KeyboardInterrupt, after=7)  # in the third epoch of 3 steps
    options = STEADY | {"batch_size": 14}
    history = run(objective, network, epochs=5, on_interrupt="finish", **options)
    assert len(history) == 2
    assert moved(network) == pytest.approx(6)
    assert not network.training


def test_an_interrupt_may_end_training_with_the_best_epoch():
    network = layer()
    plain = scripted(network, [3, 1, 2, 0])
    calls = []

    def loss(index, generator):
        calls.append(index)
        if len(calls) == 7:  # the fourth epoch's step
            raise KeyboardInterrupt
        return plain.loss(index, generator)

    objective = Objective(loss, network.parameters())
    options = {"held_out": torch.arange(3), "on_interrupt": "finish"}
    history = run(objective, network, epochs=5, **options, **STEADY)
    assert [entry["held_out"] for entry in history] == [3, 1, 2]
    assert moved(network) == pytest.approx(2)
    assert not network.training


def test_other_errors_are_raised_in_any_case():
    network, objective = failing(RuntimeError("disk"), after=6)
    with pytest.raises(RuntimeError, match="disk"):
        run(objective, network, on_interrupt="finish", **STEADY | {"epochs": 9})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_refused(value):
    network = layer()
    objective = Objective(lambda *_: network.bias.exp() * value, network.parameters(), "distance")
    message = f"the distance of epoch 1 is {value}. A lower learning_rate or clip_norm"
    with pytest.raises(ValueError, match=message):
        run(objective, network, steps=1)


def test_a_held_out_loss_that_is_no_number_is_refused():
    network = layer()
    objective = scripted(network, [1, math.nan])
    with pytest.raises(ValueError, match="the held_out of epoch 2 is nan"):
        run(objective, network, held_out=torch.arange(3), **STEADY)


def test_training_that_diverges_is_refused():
    network = layer()
    with pytest.raises(ValueError, match="lower learning_rate"):
        run(regression(network), network, learning_rate=1e6, epochs=50)


# -- a GPU, pretended -----------------------------------------------------------------------------


def test_on_cuda_losses_run_under_autocast_and_gradients_are_scaled(monkeypatch):
    """What torch is asked for; there is no GPU here."""
    asked, network = [], layer()
    plain_autocast, plain_scaler = torch.autocast, torch.amp.GradScaler

    def autocast(*request):
        asked.append(request)
        return plain_autocast("cpu", enabled=False)

    def scaler(device, *, enabled):
        asked.append((device, enabled))
        return plain_scaler("cpu", enabled=enabled)

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    cuda = torch.device("cuda")
    options = training.TrainingOptions(
        epochs=1, optimizer=torch.optim.SGD, learning_rate=0.1, clip_norm=1.0
    )
    worker = training._Worker(regression(network), options, cuda)
    worker.step(torch.arange(4), seed(), 1.0)
    assert asked == [("cuda", True), ("cuda", torch.float16, True)]
    steps = [
        (a - b).flatten() for a, b in zip(network.parameters(), layer().parameters(), strict=True)
    ]
    length = torch.cat(steps).norm().item()
    assert length == pytest.approx(0.1, rel=1e-3)  # clipped after the scale was taken back
