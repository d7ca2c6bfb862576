"""Images of classes: splits, and idx files that are what they say or are refused."""

import gzip
import struct

import numpy as np
import pytest

from anomalib_lite.data import ImageClasses, load_fashion_mnist


def classes(n_each=4):
    """Images that are all of the value 10 * class + number, of three classes."""
    each = np.arange(3 * n_each)
    values = 10 * (each % 3) + each // 3
    images = np.broadcast_to(values[:, None, None], (len(each), 8, 8)).astype(np.uint8)
    return ImageClasses("values", images, each % 3, images[::-1], (each % 3)[::-1])


def test_one_class_against_the_rest():
    data, found = classes(), classes().one_vs_rest(1)
    assert found.train[:, 0, 0].tolist() == [10, 11, 12, 13]
    np.testing.assert_array_equal(found.test, data.test)
    np.testing.assert_array_equal(found.test_labels == 1, data.test_classes == 1)
    assert found.test_defects[:3].tolist() == ["2", "good", "0"]
    assert found.name == "values: 1" and found.test_masks is None


def test_the_rest_against_one_class():
    data, found = classes(), classes().rest_vs_one(1)
    assert sorted(found.train[:, 0, 0]) == [0, 1, 2, 3, 20, 21, 22, 23]
    np.testing.assert_array_equal(found.test_labels == -1, data.test_classes == 1)
    assert {*found.test_defects} == {"good", "1"}
    assert found.name == "values: all but 1"


def test_some_images_are_drawn_by_the_seed():
    data = classes(40)
    found = [data.one_vs_rest(0, n_train=10, random_state=seed).train[:, 0, 0] for seed in (0, 1)]
    assert len({*found[0].tolist()}) == 10 and found[0].tolist() == sorted(found[0])
    assert found[0].tolist() != found[1].tolist()
    again = data.one_vs_rest(0, n_train=10).train[:, 0, 0]
    np.testing.assert_array_equal(again, found[0])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda data: data.one_vs_rest(3), "values: expected one of the classes 0, 1, 2, got 3"),
        (lambda data: data.rest_vs_one("a"), "values: expected one of .* got 'a'"),
        (lambda data: data.one_vs_rest(0, n_train=5), "n_train: expected 1 to 4.* got 5"),
        (lambda data: data.rest_vs_one(0, n_train=0), "n_train: expected 1 to 8.* got 0"),
        (
            lambda data: ImageClasses("a", data.train, data.train_classes[1:], data.test, []),
            r"train_classes: expected a class for each of 12 images, got .* \(11,\)",
        ),
    ],
)
def test_what_is_not_there_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(classes())


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path):
    """20 training images in packed files, and ten test images in files that are not."""
    rng = np.random.default_rng(0)
    for prefix, n, end in (("train", 20, ".gz"), ("t10k", 10, "")):
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{end}", images)
        labels = (np.arange(n) % 10).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{end}", labels)
    return tmp_path


def test_idx_files_are_read(folder):
    data = load_fashion_mnist(folder)
    assert (data.train.shape, data.test.shape) == ((20, 28, 28), (10, 28, 28))
    expected = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    np.testing.assert_array_equal(data.train, expected)
    assert data.train_classes[:2].tolist() == ["t-shirt", "trouser"]
    assert data.test_classes[-1] == "boot"
    assert len(data.one_vs_rest("boot").train) == 2


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda p: (p / "t10k-labels-idx1-ubyte").unlink(), "t10k-labels-idx1-ubyte.gz, found non"),
        (
            lambda p: write_idx(p / "t10k-labels-idx1-ubyte", np.full(10, 10, np.uint8)),
            "expected a label from 0 to 9 for each of 10 images of t10k, got 10, the highest",
        ),
        (
            lambda p: write_idx(p / "t10k-labels-idx1-ubyte", np.zeros(9, np.uint8)),
            "for each of 10 images of t10k, got 9",
        ),
        (
            lambda p: write_idx(p / "t10k-images-idx3-ubyte", np.zeros((9, 28), np.uint8)),
            "t10k-images-idx3-ubyte: expected an idx file of bytes in 3 dimensions",
        ),
        (
            lambda p: (p / "train-images-idx3-ubyte.gz").write_bytes(b"GIF89a"),
            "train-images-idx3-ubyte.gz: cannot be read",
        ),
        (
            lambda p: (p / "t10k-images-idx3-ubyte").write_bytes(
                (p / "t10k-images-idx3-ubyte").read_bytes()[:-1]
            ),
            "7,855 bytes that are none, or not all of it",
        ),
        (lambda p: (p / "t10k-images-idx3-ubyte").write_bytes(b"\0\0"), "got 2 bytes"),
    ],
)
def test_broken_files_are_named(folder, break_it, words):
    break_it(folder)
    with pytest.raises(ValueError, match=words):
        load_fashion_mnist(folder)


def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        load_fashion_mnist(tmp_path)
