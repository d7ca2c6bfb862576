"""Test folders: which images are good, of which kind the others are, and where their masks lie."""

import os
from pathlib import Path

import pytest
from PIL import Image

from anomalib_lite.data import load_mvtec
from anomalib_lite.data.layouts import read_test_folder


def write(folder, *names):
    for name in names:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)


def described(images, root):
    """(path below root, kind, mask below root) of each image."""
    masks = images.masks or [None] * len(images.paths)
    return [
        (os.path.relpath(path, root), kind, None if mask is None else os.path.relpath(mask, root))
        for path, kind, mask in zip(images.paths, images.kinds, masks, strict=True)
    ]


@pytest.mark.parametrize("good", ["good", "OK", "Normal"])
def test_good_beside_kinds_of_defects_nested_ones_too(tmp_path, good):
    write(tmp_path, f"{good}/a.png", f"{good}/line 2/b.png", "bad/c.png", "bad/deep/crack/d.png")
    images = read_test_folder(tmp_path)
    kinds = dict(zip((Path(path).stem for path in images.paths), images.kinds, strict=True))
    assert kinds == {"a": "good", "b": "good", "c": "bad", "d": "bad/deep/crack"}
    assert [label == 1 for label in images.labels] == [kind == "good" for kind in images.kinds]
    assert images.masks is None and images.problems == []


def test_mvtec_layout_by_its_category_and_by_its_test_folder(tmp_path):
    write(tmp_path, "train/good/0.png", "test/good/0.png", "test/cut/0.png", "test/cut/sub/1.png")
    write(tmp_path, "ground_truth/cut/0_mask.png", "ground_truth/cut/sub/1.png")
    expected = [
        ("test/cut/0.png", "cut", "ground_truth/cut/0_mask.png"),
        ("test/cut/sub/1.png", "cut/sub", "ground_truth/cut/sub/1.png"),
        ("test/good/0.png", "good", None),
    ]
    assert described(read_test_folder(tmp_path), tmp_path) == expected
    assert described(read_test_folder(tmp_path / "test"), tmp_path) == expected
    assert described(read_test_folder(str(tmp_path / "test")), tmp_path) == expected
    loaded = load_mvtec(tmp_path)
    assert (loaded.test, loaded.masks) == read_test_folder(tmp_path)[::3]


def test_ground_truth_may_lie_inside_of_the_test_folder(tmp_path):
    write(tmp_path, "good/0.png", "bad/0.png", "ground_truth/bad/0_mask.png")
    expected = [("bad/0.png", "bad", "ground_truth/bad/0_mask.png"), ("good/0.png", "good", None)]
    assert described(read_test_folder(tmp_path), tmp_path) == expected


@pytest.mark.parametrize("place", ["elsewhere", "photos/bad/masks", "photos/masks"])
def test_masks_that_are_named(tmp_path, place, monkeypatch):
    write(tmp_path, "photos/good/0.png", "photos/bad/0.png", "photos/bad/1.png")
    write(tmp_path, f"{place}/bad/0.png", f"{place}/bad/1_mask.png")
    images = read_test_folder(tmp_path / "photos", tmp_path / place)
    photos = ("bad/0.png", "bad/1.png", "good/0.png")
    assert images.paths == [str(tmp_path / "photos" / name) for name in photos]
    assert [os.path.basename(mask) for mask in images.masks[:2]] == ["0.png", "1_mask.png"]
    monkeypatch.chdir(tmp_path / "photos")
    relative = read_test_folder(".", os.path.relpath(tmp_path / place))
    assert relative.paths == [*photos]


def test_a_missing_mask_is_a_problem_and_all_of_them_an_error(tmp_path):
    write(tmp_path, "good/0.png", "bad/0.png", "bad/1.png", "ground_truth/bad/1_mask.png")
    images = read_test_folder(tmp_path)
    assert [mask is None for mask in images.masks] == [True, False, True]
    (problem,) = images.problems
    assert problem.startswith(str(tmp_path / "bad/0.png")) and "found none" in problem
    write(tmp_path, "other/0.png")
    with pytest.raises(ValueError, match=r"other: holds the mask of no image\. .*bad.0\.png"):
        read_test_folder(tmp_path, tmp_path / "other")
    with pytest.raises(ValueError, match="expected a folder of masks"):
        read_test_folder(tmp_path, tmp_path / "nowhere")


def test_a_ground_truth_of_other_images_is_left_out_with_a_warning(tmp_path):
    write(tmp_path, "mine/good/0.png", "mine/bad/0.png", "ground_truth/scratch/7_mask.png")
    with pytest.warns(UserWarning, match="ground_truth: holds the mask of no image"):
        assert read_test_folder(tmp_path / "mine").masks is None


@pytest.mark.parametrize(
    "names, message",
    [
        (["good/0.png", "good/1.png"], "got 2 good and 0 defective"),
        (["bad/0.png"], "got 0 good and 1 defective"),
        (["good/0.png", "bad/0.png", "1.png"], r"1\.png: expected images in folders"),
        (["good/0.png", "line 1/good/0.png"], r"0\.png: good, or a defect\?"),
        ([], "got 0 good and 0 defective"),
    ],
)
def test_folders_that_do_not_say(tmp_path, names, message):
    write(tmp_path, *names)
    with pytest.raises(ValueError, match=message):
        read_test_folder(tmp_path)


def test_no_folder(tmp_path):
    with pytest.raises(ValueError, match="nowhere: expected a folder of good and defective"):
        read_test_folder(tmp_path / "nowhere")
