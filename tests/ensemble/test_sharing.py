"""Networks that run once for several."""

import pytest
import torch

from anomalib_lite.ensemble.sharing import SharedNetwork


class Doubling:
    """Counts how often it runs."""

    def __init__(self):
        self.n_runs = 0

    def trainable_maps(self, batch):
        self.n_runs += 1
        return [2 * batch]


def test_maps_are_those_of_the_batch_that_is_asked_for():
    network = Doubling()
    shared = SharedNetwork(network)
    first, second = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    for batch in (first, first, second, second, first):
        torch.testing.assert_close(shared.maps(batch), [2 * batch])
    assert network.n_runs == 3
    shared.forget()
    shared.maps(first)
    assert network.n_runs == 4


def test_maps_that_were_changed_in_place_are_not_given_again():
    shared = SharedNetwork(Doubling())
    batch = torch.ones(1, 3, 2, 2)
    shared.maps(batch)[0].add_(1)
    with pytest.raises(ValueError, match="in place"):
        shared.maps(batch)
