"""Copies among samples of any form."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import sparse

from anomalib_lite.decide.samples import copies


def image(seed):
    return np.random.default_rng(seed).integers(0, 255, (8, 9), dtype=np.uint8)


def test_copies_of_images_in_any_form():
    images = np.stack([image(seed) for seed in (0, 1, 0, 2, 1, 0)])
    expected = {2: 0, 4: 1, 5: 0}
    assert copies(images) == expected
    assert copies(list(images)) == expected
    assert copies([(one, 0) for one in images]) == expected
    assert copies([Image.fromarray(one) for one in images]) == expected
    assert copies(torch.from_numpy(images)[:, None]) == expected
    assert copies([torch.from_numpy(one).requires_grad_(False) for one in images]) == expected


def test_images_of_other_shape_or_type_are_no_copies():
    one = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert copies([one, one.reshape(4, 3), one.view(np.int8)]) == {}


def test_copies_of_files(tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        Image.fromarray(image(seed)).save(tmp_path / f"{name}.bmp")
    os.mkfifo(tmp_path / "pipe")
    files = [tmp_path / "a.bmp", str(tmp_path / "b.bmp"), tmp_path / "none", tmp_path / "c.bmp"]
    assert copies([*files, tmp_path / "pipe", tmp_path / "pipe", tmp_path]) == {3: 0}
    assert copies([files[0], files[0]]) == {1: 0}
    assert copies(np.array([str(file) for file in files])) == {3: 0}


@pytest.mark.parametrize(
    "form", [np.asarray, np.ndarray.tolist, sparse.csr_array, sparse.coo_array]
)
def test_rows_of_few_plain_numbers_are_equal_by_chance(form):
    table = np.array([[1, 0, 2], [1, 0, 2], [0.5, 0, 0.25], [0.5, 0, 0.25], [0, 0, 0], [0, 0, 0]])
    assert copies(form(table)) == {}
    table[2:4] += 1 / 3
    assert copies(form(table)) == {3: 2}
    digits = np.array([np.arange(12.0), np.arange(12.0)])
    assert copies(form(digits)) == {1: 0}


def test_tuples_of_numbers_are_rows():
    assert copies([(1 / 3, 2.0), (1 / 3, 5.0), (1 / 3, 2.0)]) == {2: 0}


def test_what_cannot_be_compared_has_no_copies():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [0.123456, 0.123456], "b": ["x", "x"]})
    assert copies(frame) == {}
    assert copies(frame[["a"]]) == {1: 0}
    assert copies([object(), None, [1, [2]]]) == {}
    assert copies(object()) == {}
