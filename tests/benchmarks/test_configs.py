"""Benchmarks that a file describes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_lite import PaDiM, PatchCore
from anomalib_lite.benchmarks.configs import read_config

GOOD = """
seeds = [0, 1]
metrics = ["image_auroc"]
out = "runs"

[methods.PatchCore]
coreset = 0.01

[methods."few features"]
class = "PaDiM"
n_features = 20

[datasets.parts]
loader = "mvtec"
root = "parts"

[datasets.bricks]
loader = "texture"
texture = "brick"
n_train = 3
n_test = 2
image_size = 64
"""


@pytest.fixture
def write(tmp_path):
    for category in ("cog", "nut"):
        for folder in ("train/good", "test/good", "test/dent"):
            (tmp_path / "parts" / category / folder).mkdir(parents=True)
            image = Image.fromarray(np.full((64, 64), 99, np.uint8))
            image.save(tmp_path / "parts" / category / folder / "0.png")

    def written(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return written


def test_a_file_names_methods_and_data(write):
    path = write(GOOD)
    found = read_config(path)
    assert (found["seeds"], found["metrics"]) == ([0, 1], ["image_auroc"])
    assert found["out"] == path.parent / "runs"
    core, few = found["methods"].values()
    assert [*found["methods"]] == ["PatchCore", "few features"]
    assert isinstance(core, PatchCore) and core.coreset == 0.01
    assert isinstance(few, PaDiM) and few.n_features == 20
    assert [*found["datasets"]] == ["cog", "nut", "bricks"]
    nut = found["datasets"]["nut"](0)
    assert nut.name == "nut" and Path(nut.train[0]).is_relative_to(path.parent / "parts" / "nut")
    one, other = (found["datasets"]["bricks"](seed) for seed in (0, 1))
    assert one.train.shape == (3, 64, 64) and (one.train != other.train).any()


def test_one_category(write):
    text = GOOD.replace('root = "parts"', 'root = "parts"\ncategory = "cog"')
    found = read_config(write(text))["datasets"]
    assert [*found] == ["parts", "bricks"] and found["parts"](0).name == "cog"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seeds = [0, 1]", "seeds = [0,", "config.toml: .*"),
        ("seeds = [0, 1]", "seed = 0", "config.toml: seed: expected one of methods, datasets"),
        (
            'class = "PaDiM"',
            'class = "load"',
            r"methods.few features: .* name of a detector, got 'l",
        ),
        ('class = "PaDiM"', "class = 3", r"methods.few features: .* got 3"),
        ("n_features = 20", "features = 20", r"methods.few features: .* got 'features'"),
        ('loader = "texture"', 'loader = "bricks"', r"datasets.bricks: expected a loader out of"),
        (
            "n_train = 3",
            "n_trian = 3",
            r"datasets.bricks: expected settings out of .* got 'n_trian'",
        ),
        ('root = "parts"', 'root = "nowhere"', "nowhere: expected a folder of categories"),
        ("[methods.PatchCore]", "[method.PatchCore]", "method: expected one of methods"),
    ],
)
def test_what_there_is_not_is_refused(write, old, new, words):
    assert old in GOOD
    with pytest.raises(ValueError, match=words):
        read_config(write(GOOD.replace(old, new)))


def test_both_parts_are_needed(write, tmp_path):
    with pytest.raises(ValueError, match=r"datasets: expected tables such as \[datasets.NAME\]"):
        read_config(write("[methods.PaDiM]\n"))
    with pytest.raises(ValueError, match=r"methods: expected tables"):
        read_config(write("methods = 3\n"))
    with pytest.raises(ValueError, match=r"none.toml"):
        read_config(tmp_path / "none.toml")


def test_fashion_mnist_takes_either_split(write):
    text = GOOD + '\n[datasets.boots]\nloader = "fashion_mnist"\npath = "."\none_vs_rest = "boot"\n'
    load = read_config(write(text))["datasets"]["boots"]
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):  # looked for beside the file
        load(0)
    both = text + 'rest_vs_one = "bag"\n'
    with pytest.raises(ValueError, match="either one_vs_rest or rest_vs_one"):
        read_config(write(both))["datasets"]["boots"](0)
