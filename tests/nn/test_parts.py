"""A batch in parts: the gradients of the whole, and the same bits by any number of workers."""

import pytest
import torch
from torch import nn

from anomalib_lite.contexts import OnDevice, seeded
from anomalib_lite.nn import in_parts
from anomalib_lite.runtime import draw_seed
from anomalib_lite.workers import team

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))


def network(*layers):
    with seeded(torch.Generator().manual_seed(0)):
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), *layers, nn.Linear(4, 2))


def gradients(embed, module):
    """Of a loss that looks at all rows together."""
    module.zero_grad()
    rows = embed(X)
    (rows @ rows.T).exp().mean().backward()
    return [None if each.grad is None else each.grad.clone() for each in module.parameters()]


@pytest.mark.parametrize("size", [1, 3, 10, 99])
@pytest.mark.parametrize("n_workers", [1, 3])
def test_values_and_gradients_are_those_of_the_whole(size, n_workers):
    module = network()
    module[0].bias.requires_grad_(False)
    with team(n_workers):
        found = gradients(lambda x: in_parts(module, x, module.parameters(), size), module)
        rows = in_parts(module, X, module.parameters(), size)
    torch.testing.assert_close(rows, module(X))
    assert rows.requires_grad
    for ours, theirs in zip(found, gradients(module, module), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs)


def test_bits_and_draws_do_not_depend_on_the_number_of_workers():
    module = network(nn.Dropout())
    before = torch.get_rng_state()

    def run(n_workers, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with team(n_workers):
            return gradients(
                lambda x: in_parts(module, x, module.parameters(), 2, generator), module
            )

    first = run(1)
    for n_workers in (2, 4):
        assert all(map(torch.equal, run(n_workers), first))
    assert not all(map(torch.equal, run(1, seed=1), first))
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_draw_different_numbers():
    generator = torch.Generator().manual_seed(0)
    module = network(nn.Dropout())
    same = X[:1].expand(64, -1)
    rows = in_parts(module, same, module.parameters(), 1, generator)
    assert len(rows.unique(dim=0)) > 4


def test_without_gradients_there_are_none():
    module = network()
    with torch.no_grad():
        rows = in_parts(module, X, module.parameters(), 4)
    assert not rows.requires_grad
    module.requires_grad_(False)
    assert not in_parts(module, X, module.parameters(), 4).requires_grad


def test_a_parameter_that_takes_no_part_gets_no_gradient():
    module, idle = network(), nn.Parameter(torch.ones(2))
    rows = in_parts(module, X, [idle, *module.parameters()], 4)
    rows.sum().backward()
    assert idle.grad is None
    assert module[0].weight.grad is not None


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [2, 4, 4]), ("meta", [10])])
def test_other_devices_take_the_whole_and_draw_as_many_seeds(device, sizes):
    asked, generator = [], torch.Generator().manual_seed(0)
    with OnDevice(device):
        module = nn.Linear(3, 1)

    def embed(x):
        asked.append(len(x))
        return module(x)

    in_parts(embed, X.to(device), module.parameters(), 4, generator)
    assert sorted(asked) == sizes
    as_many = torch.Generator().manual_seed(0)
    for _ in range(3):
        draw_seed(as_many)
    assert torch.equal(generator.get_state(), as_many.get_state())
