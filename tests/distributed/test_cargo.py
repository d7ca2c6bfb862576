import pickle

import numpy as np
import pytest
import torch
from torch import nn
from worlds import stripes

from anomalib_lite import PatchCore
from anomalib_lite.distributed.cargo import Cargo, packed, pickled, unpacked


def things():
    rows = torch.arange(12.0).view(3, 4)
    shared = torch.zeros(5, dtype=torch.float64)
    return {
        "rows": rows,
        "part": rows[1:, ::2],
        "empty": torch.empty(0, 7),
        "scalar": torch.tensor(3),
        "half": rows.half(),
        "brain": rows.bfloat16(),
        "bool": rows > 3,
        "array": np.arange(6).reshape(2, 3).T,
        "twice": [shared, shared],
        "module": nn.BatchNorm2d(3),
        "channels last": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "grad": nn.Parameter(rows),
    }


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a.keys() - {"twice", "module", "array"}:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name], b[name]), name
    assert a["channels last"].stride() == b["channels last"].stride()
    assert a["twice"][0] is a["twice"][1]
    np.testing.assert_array_equal(a["array"], b["array"])
    assert torch.equal(a["module"].weight, b["module"].weight)
    assert a["grad"].requires_grad


@pytest.mark.parametrize("protocol", [4, 5])
def test_what_is_unpacked_is_what_was_packed(protocol):
    cargo = pickle.loads(pickle.dumps(packed(things()), protocol=protocol))
    assert_equal(unpacked(cargo), things())
    assert_equal(pickle.loads(pickled(things())), things())


def test_a_part_of_a_tensor_travels_alone():
    whole = torch.zeros(1000, 1000)
    assert len(pickled(whole[:10])) < 10 * 1000 * 4 + 1000
    assert sum(map(len, packed(whole[:10]).arrays)) == 10 * 1000 * 4


def test_what_is_unpacked_may_be_written(recwarn):
    cargo = packed(torch.zeros(3))
    for array in cargo.arrays:
        array.flags.writeable = False  # as of a message
    tensor = unpacked(cargo)
    tensor += 1
    assert not recwarn.list
    assert tensor.tolist() == [1, 1, 1]


def test_detectors_say_the_same_when_unpacked():
    detector = PatchCore(image_size=64, random_state=0, false_alarm_rate=0.2).fit(stripes(6))
    expected = detector.inspect(stripes(2, seed=3))
    for again in (unpacked(packed(detector)), pickle.loads(pickled(detector))):
        seen = again.inspect(stripes(2, seed=3))
        np.testing.assert_array_equal(seen.scores, expected.scores)
        np.testing.assert_array_equal(seen.maps, expected.maps)
    assert isinstance(packed(detector), Cargo)
