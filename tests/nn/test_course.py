"""Trainings side by side: the bits of one after the other, one bar, one warning, one end."""

import threading
import warnings

import pytest
import torch
from torch import nn

from anomalib_lite.contexts import seeded
from anomalib_lite.nn import Objective, course, portion, side_by_side, train
from anomalib_lite.nn.course import Steps
from anomalib_lite.workers import team

CPU = torch.device("cpu")
X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


def trained(seed, verbose=False, epochs=3, **options):
    """Weights of a small network with dropout."""
    generator = torch.Generator().manual_seed(seed)
    with seeded(generator):
        network = nn.Sequential(nn.Linear(3, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def loss(index, generator):
        noise = torch.randn(len(index), 3, generator=generator)
        return network(X[index] + noise).square().mean()

    train(
        Objective(loss, network.parameters()), network, torch.arange(40), epochs=epochs,
        batch_size=10, device=CPU, generator=generator, verbose=verbose, **options,
    )  # fmt: skip
    return torch.cat([value.flatten().double() for value in network.state_dict().values()])


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_results_are_those_of_one_after_the_other(n_workers):
    expected = [trained(seed) for seed in range(6)]
    with team(n_workers):
        found = side_by_side(trained, range(6), device=CPU)
    assert all(map(torch.equal, found, expected))


def test_other_devices_take_one_after_the_other():
    names = set()
    with team(3):
        side_by_side(
            lambda _: names.add(threading.current_thread().name),
            range(4),
            device=torch.device("meta"),
        )
    assert names == {threading.current_thread().name}


@pytest.mark.parametrize("n_workers", [1, 3])
def test_trainings_have_one_bar(capfd, n_workers):
    with team(n_workers):
        side_by_side(lambda seed: trained(seed, verbose=True), range(3), device=CPU, verbose=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err.strip().startswith("train:   0%|")
    assert "train: 100%|" in err
    assert "12/12" not in err
    assert err.count("\n") == 1  # a bar's end
    side_by_side(trained, range(3), device=CPU)
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def shares(monkeypatch):
    """Shares of the time of a fit that trainings are said to take."""
    found = []

    class Recorder:
        def __init__(self, n_steps, share, shortening, warn):
            found.append(round(share, 9))

        def step(self):
            pass

    monkeypatch.setattr(course, "Forecast", Recorder)
    return found


@pytest.mark.parametrize(("n_workers", "share"), [(1, 1 / 6), (2, 1 / 3), (4, 1 / 2), (9, 1)])
def test_a_forecast_counts_the_rounds(shares, n_workers, share):
    with team(n_workers):
        side_by_side(trained, range(6), device=CPU)
    assert shares == [round(share, 9)] * 6


def test_portions_of_portions(shares):
    with portion(0.5), team(2):
        trained(0)
        side_by_side(lambda seed: _two(seed), range(4), device=CPU)
    assert sorted(shares) == [0.0625] * 4 + [0.1875] * 4 + [0.5]


def _two(seed):
    with portion(0.25):
        trained(seed)
    with portion(0.75):
        trained(seed)


class Bar:
    """A bar that keeps where it is."""

    def __init__(self, **_):
        self.n = 0.0

    def update(self, share=1.0):
        self.n += share

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    close = set_postfix = lambda self, **_: None


def test_a_bar_follows_the_portions(monkeypatch):
    bars, seen = [], []
    monkeypatch.setattr(course, "progress", lambda **_: bars.append(Bar()) or bars[-1])

    def task(index):
        with portion(0.5):
            pass  # over at once
        seen.append(bars[0].n)
        with portion(0.5), Steps(4, [], False) as steps:
            steps.done()
            seen.append(bars[0].n)

    with team(1):
        side_by_side(task, range(2), device=CPU)
    assert seen == pytest.approx([0.25, 0.25 + 0.0625, 0.75, 0.75 + 0.0625])
    assert bars[0].n == pytest.approx(1)


def test_one_warning_which_names_the_line_that_led_to_it(monkeypatch):
    class Warner:
        def __init__(self, *_):
            self.step = lambda: _[-1]("long")

    monkeypatch.setattr(course, "Forecast", Warner)
    with team(2), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        side_by_side(trained, range(3), device=CPU)
    assert [str(each.message) for each in caught] == ["long"]
    assert caught[0].filename == __file__


def test_when_one_fails_the_others_end():
    has_begun, ends = threading.Event(), []

    def task(index):
        if index == 0:
            assert has_begun.wait(10)
            raise ValueError("the first")
        with portion(0), Steps(1, [], False) as steps:
            try:
                while True:
                    steps.done()
                    has_begun.set()
            except RuntimeError as error:
                ends.append(str(error))

    with pytest.raises(ValueError, match="the first"), team(2):
        side_by_side(task, range(2), device=CPU)
    assert ends == ["this training is no longer needed"]
