"""Benchmarks that a file describes."""

import shutil
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

[methods.turned]
class = "RotationPrediction"
train_steps = "None"
hidden = [64, 32]

[datasets.parts]
loader = "mvtec"
root = "parts"

[datasets.bricks]
loader = "texture"
texture = "brick"
n_train = 3
n_test = 2
image_size = 64

[datasets.bricks.settings]
image_size = 32

[published.image_auroc.PatchCore]
nut = 0.97
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
    found, published = read_config(path)
    assert published == {"image_auroc": {"PatchCore": {"nut": 0.97}}}
    assert found["settings"] == {"cog": {}, "nut": {}, "bricks": {"image_size": 32}}
    assert (found["seeds"], found["metrics"]) == ([0, 1], ["image_auroc"])
    assert found["out"] == path.parent / "runs"
    core, few, turned = found["methods"].values()
    assert [*found["methods"]] == ["PatchCore", "few features", "turned"]
    assert turned.train_steps is None and turned.hidden == (64, 32)
    assert isinstance(core, PatchCore) and core.coreset == 0.01
    assert isinstance(few, PaDiM) and few.n_features == 20
    assert [*found["datasets"]] == ["cog", "nut", "bricks"]
    nut = found["datasets"]["nut"](0)
    assert nut.name == "nut" and Path(nut.train[0]).is_relative_to(path.parent / "parts" / "nut")
    one, other = (found["datasets"]["bricks"](seed) for seed in (0, 1))
    assert one.train.shape == (3, 64, 64) and (one.train != other.train).any()


def test_one_category(write):
    text = GOOD.replace('root = "parts"', 'root = "parts"\ncategory = "cog"').replace(
        "nut =", "parts ="
    )
    found = read_config(write(text)).arguments["datasets"]
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
        ("nut = 0.97", 'nut = "high"', "published: expected figures, got 'high'"),
        ("nut = 0.97", "nut = true", "published: expected figures, got True"),
        ("nut = 0.97", "nit = 0.97", r"published: expected a data set out of .* got 'nit'"),
        ("image_auroc.PatchCore", "auroc.PatchCore", r"published: expected a metric out of"),
        ("auroc.PatchCore]", "auroc.SPADE]", r"published: expected a method out of .* got 'SP"),
        ('out = "runs"', "out = 3", "out: expected a folder, got 3"),
        ('root = "parts"', "root = 3", "datasets.parts: expected a path as root, got 3"),
        ('root = "parts"', "", "datasets.parts: expected root, the folder"),
        ('texture = "brick"', "", r"datasets.bricks: expected texture, got \['n_train"),
        ('texture = "brick"', 'texture = "brick"\nkinds = "dent"', "expected kinds .* got 'dent'"),
        ('texture = "brick"', 'texture = "brick"\nkinds = []', r"expected kinds .* got \[\]"),
        ('loader = "mvtec"', 'loader = ["mvtec"]', r"datasets.parts: expected a loader out of"),
        (
            "[datasets.bricks.settings]\nimage_size = 32",
            "settings = 3",
            "settings in a table, got 3",
        ),
        ("[published.image_auroc.PatchCore]", "[published.PatchCore]", "published.PatchCore: exp"),
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
    load = read_config(write(text)).arguments["datasets"]["boots"]
    with pytest.raises(ValueError, match="train-images-idx3-ubyte"):  # looked for beside the file
        load(0)
    both = text + 'rest_vs_one = "bag"\n'
    neither = text.replace('one_vs_rest = "boot"\n', "")
    for wrong in (both, neither):
        with pytest.raises(ValueError, match=r"datasets.boots: expected either one_vs_rest"):
            read_config(write(wrong))


def test_a_split_may_stand_for_all_classes(write):
    splits = """
[datasets.one]
loader = "fashion_mnist"
one_vs_rest = true

[datasets.nine]
loader = "fashion_mnist"
rest_vs_one = true
settings = { image_size = 32 }
"""
    found = read_config(write(GOOD + splits)).arguments
    names = [*found["datasets"]]
    assert len(names) == 3 + 20 and names[3] == "t-shirt" and names[-1] == "all but boot"
    assert found["settings"]["all but bag"] == {"image_size": 32} and not found["settings"]["bag"]
    assert [found["datasets"][name].arguments for name in ("bag", "all but bag")] == [
        {"one_vs_rest": "bag"},
        {"rest_vs_one": "bag"},
    ]


@pytest.mark.parametrize("loader", ["mvtec", "mvtec_loco", "mvtec_ad_2", "btad"])
def test_relatives_of_mvtec_stand_for_all_categories(write, tmp_path, loader):
    has_validation = loader in ("mvtec_loco", "mvtec_ad_2")
    for category in ("cog", "nut") if has_validation else ():
        home = tmp_path / "parts" / category
        (home / "validation" / "good").mkdir(parents=True)
        shutil.copy(home / "train/good/0.png", home / "validation/good/0.png")
    if loader == "mvtec_ad_2":
        for test in sorted((tmp_path / "parts").glob("*/test")):
            test.rename(test.with_name("test_public"))
    more = f'loader = "{loader}"' + "\nvalidation = true" * has_validation
    found = read_config(write(GOOD.replace('loader = "mvtec"', more))).arguments["datasets"]
    assert [*found] == ["cog", "nut", "bricks"]
    data = found["cog"](0)
    assert data.test_labels.tolist() == [-1, 1] and len(data.train) == 1 + has_validation


def test_visa_stands_for_all_categories(write, tmp_path):
    lines = ["object,split,label,image,mask"]
    for category in ("candle", "pcb1"):
        for split, label, folder in (
            ("train", "normal", "Images/Normal/0"),
            ("test", "normal", "Images/Normal/1"),
            ("test", "anomaly", "Images/Anomaly/0"),
        ):
            place = f"{category}/Data/{folder}.JPG"
            (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8)).save(tmp_path / place)
            mask = place.replace("Images", "Masks") if label == "anomaly" else ""
            lines.append(f"{category},{split},{label},{place},{mask}")
            if mask:
                (tmp_path / mask).parent.mkdir(parents=True)
                shutil.copy(tmp_path / place, tmp_path / mask)
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(lines))
    text = '[methods.PaDiM]\n[datasets.visa]\nloader = "visa"\nroot = "."\n'
    found = read_config(write(text)).arguments["datasets"]
    assert [*found] == ["candle", "pcb1"] and found["pcb1"](0).test_labels.tolist() == [-1, 1]


def test_some_kinds_of_defects_alone(write, tmp_path):
    (tmp_path / "parts/cog/test/crack").mkdir()
    Image.new("L", (64, 64)).save(tmp_path / "parts/cog/test/crack/0.png")
    text = GOOD.replace('root = "parts"', 'root = "parts"\nkinds = ["crack"]')
    load = read_config(write(text)).arguments["datasets"]
    assert load["cog"](0).test_defects.tolist() == ["crack", "good"]
    assert load["cog"].description != load["nut"].description
    assert load["cog"](0).name == "cog: crack"
    with pytest.raises(ValueError, match=r"kinds: expected some of \['dent'\], got \['crack'\]"):
        load["nut"](0)


def test_names_that_are_taken_get_that_of_their_table(write):
    more = '\n[datasets.again]\nloader = "mvtec"\nroot = "parts"\nkinds = ["dent"]\n'
    found = read_config(write(GOOD + more)).arguments["datasets"]
    assert [*found] == ["cog", "nut", "bricks", "again: cog", "again: nut"]
    assert found["again: nut"].kinds == ("dent",) and found["nut"].kinds is None


def test_folders_are_cut_by_the_seed(write, tmp_path):
    for folder, n in (("fine", 10), ("rejects", 2)):
        (tmp_path / folder).mkdir()
        for i in range(n):
            Image.new("L", (64, 64), i).save(tmp_path / folder / f"{i}.png")
    text = '[methods.PaDiM]\n[datasets.own]\nloader = "folder"\ngood = "fine"\nbad = "rejects"\n'
    load = read_config(write(text)).arguments["datasets"]["own"]
    assert len(load(0).train) == 7 and load(0).train != load(1).train
