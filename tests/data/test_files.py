"""Folders: every function that takes one lists the same files, and says what it leaves out."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from encoders import GRAY, encoded, png
from PIL import Image

from anomalib_lite.data import (
    IMAGE_SUFFIXES,
    ImageStream,
    files,
    image_files,
    load_mvtec,
    mvtec_categories,
)

HIDDEN = [
    ".hidden", ".ipynb_checkpoints", ".thumbnails", ".Trash-1000", ".git", ".AppleDouble",
    ".DS_Store", "._000", "@eaDir", "__MACOSX", "$RECYCLE.BIN", "System Volume Information",
    "lost+found", "#recycle", "@Recycle", "RECYCLER", "@eadir", "__macosx",
]  # fmt: skip
SHOWN = ["_hidden", "a.b", "recycled parts", "MACOSX", "#3", "@home", "lost", "~backup"]


def put(path, data=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png() if data is None else data)
    return str(path)


def tree(folder):
    """A category with one image in each part."""
    category = folder / "part"
    for place in ("train/good", "test/good", "test/bad"):
        put(category / place / "a.png")
    put(category / "ground_truth/bad/a_mask.png", encoded(GRAY > 0, "PNG"))
    return category


def listed(category):
    """What each function lists below train/good."""
    good = category / "train/good"
    paths = image_files(good)
    assert [image.path for image in ImageStream(good)] == paths
    assert load_mvtec(category).train == paths
    return [Path(path).relative_to(good).as_posix() for path in paths]


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_names_are_skipped_everywhere(name, tmp_path):
    category = tree(tmp_path)
    for part in ("train/good", "test/good", "test/bad", "train", "test", "ground_truth/bad"):
        put(category / part / name / "b.png")
        put(category / part / name / "deeper/b.png")
    put(category / "train/good" / f"{name}/good/b.png")
    put(tmp_path / name / "train/good/a.png")
    if name.startswith("."):
        put(category / "train/good" / f"{name}.png")
        put(category / "test/bad" / f"{name}.png")
    assert listed(category) == ["a.png"]
    data = load_mvtec(tmp_path, "part")
    assert data.test_defects.tolist() == ["bad", "good"]
    assert mvtec_categories(tmp_path) == ["part"]


@pytest.mark.parametrize("name", SHOWN)
def test_other_names_are_read_everywhere(name, tmp_path):
    category = tree(tmp_path)
    put(category / "train/good" / name / "b.png")
    assert sorted(listed(category)) == sorted(["a.png", f"{name}/b.png"])


@pytest.mark.parametrize("above", [".cache", "@eaDir", "__MACOSX"])
def test_what_is_above_the_named_folder_does_not_count(above, tmp_path):
    category = tree(tmp_path / above / "data")
    assert listed(category) == ["a.png"]
    assert mvtec_categories(tmp_path / above / "data") == ["part"]
    put(tmp_path / ".hidden/a.png")
    assert image_files(tmp_path / ".hidden") == [str(tmp_path / ".hidden/a.png")]


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_suffix_is_found_in_any_case(suffix, tmp_path):
    category = tree(tmp_path)
    put(category / f"train/good/b{suffix}")
    put(category / f"train/good/c{suffix.upper()}")
    assert listed(category) == ["a.png", f"b{suffix}", f"c{suffix.upper()}"]


def test_suffixes_are_all_those_of_the_formats_that_are_read():
    Image.init()
    formats = {"BMP", "DIB", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP"}
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    assert known <= IMAGE_SUFFIXES


@pytest.mark.parametrize(
    "name",
    ["a.heic", "a.HEIF", "a.avif", "a.npy", "a.raw", "a.psd", "a.cr2", "a.dng", "a.exr", "a.tga",
     "a.jxl", "a.dcm", "a.mp4", "a.svg"],
)  # fmt: skip
def test_files_of_other_kinds_are_counted_in_a_warning(name, tmp_path):
    category = tree(tmp_path)
    for place in ("train/good", "train/good/deep"):
        put(category / place / name, b"?")
    suffix = Path(name).suffix.lower()
    for read in (lambda: image_files(category / "train/good"), lambda: load_mvtec(category),
                 lambda: ImageStream(category / "train/good")):  # fmt: skip
        with pytest.warns(UserWarning, match=rf"left out: \{suffix}: 2\."):
            read()


@pytest.mark.parametrize("name", ["a", "a.bak", "a.jpg_large", "a.tmp"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF"])
def test_images_of_unusual_names_are_counted_in_a_warning(name, kind, tmp_path):
    put(tmp_path / "b.png")
    put(tmp_path / name, encoded(GRAY, kind))
    with pytest.warns(UserWarning, match=f"{Path(name).suffix or 'no suffix'}: 1"):
        assert len(image_files(tmp_path)) == 1


@pytest.mark.parametrize(
    "name", ["labels.csv", "a.json", "notes.txt", "Thumbs.db", "desktop.ini", "a.png.bak", "none",
             ".DS_Store", ".a.heic", "a.xml", "README.md"],
)  # fmt: skip
def test_files_that_are_no_images_are_passed_over(name, tmp_path):
    put(tmp_path / "b.png")
    put(tmp_path / name, b"no image")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_files(tmp_path) == [str(tmp_path / "b.png")]


def test_pipe_of_another_kind_is_not_opened(tmp_path):
    put(tmp_path / "b.png")
    os.mkfifo(tmp_path / "pipe")
    assert len(image_files(tmp_path)) == 1


def test_folder_of_other_kinds_alone_is_refused_with_their_count(tmp_path):
    put(tmp_path / "a.heic", b"?")
    put(tmp_path / "b.heic", b"?")
    with pytest.raises(
        ValueError, match=r"no image files below.*\.heic: 2.*pip install pillow-heif"
    ):
        image_files(tmp_path)


def test_registered_heic_files_are_listed_and_read(tmp_path, monkeypatch):
    """Stands in for pillow-heif, by a plugin that reads a png behind eight bytes."""

    def opened(file, _name):
        image = Image.open(file, formats=["PNG"])
        image.format = "HEIF"
        return image

    monkeypatch.setitem(Image.OPEN, "HEIF", (opened, None))
    path = put(tmp_path / "a.heic")
    (image,) = ImageStream(tmp_path)
    assert image.path == path
    np.testing.assert_array_equal(image.pixels[0] * 255, np.float32(GRAY))


def test_links_are_followed_and_cycles_end(tmp_path):
    category = tree(tmp_path / "data")
    good, outside = category / "train/good", tmp_path / "outside"
    put(outside / "b.png")
    put(outside / "sub/c.png")
    put(good / "real/d.png")
    (good / "linked").symlink_to(good / "real")
    (outside / "loop").symlink_to(outside)
    (good / "away").symlink_to(outside)
    (good / "again").symlink_to(good)
    (good / "up").symlink_to(tmp_path)
    (outside / "back").symlink_to(good)
    (good / "file.png").symlink_to(outside / "b.png")
    (good / "lost").symlink_to(tmp_path / "nowhere")
    assert listed(category) == ["a.png", "away/b.png", "away/sub/c.png", "file.png", "real/d.png"]


def test_folder_that_is_a_link_is_read(tmp_path):
    category = tree(tmp_path / "data")
    (tmp_path / "link").symlink_to(category)
    assert image_files(tmp_path / "link/train/good") == [str(tmp_path / "link/train/good/a.png")]
    assert mvtec_categories(tmp_path) == ["link"]
    assert load_mvtec(tmp_path, "link").test_labels.tolist() == [-1, 1]


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    for name in ("b/a.png", "a/z.png", "c.png", "a/b/c.png"):
        put(tmp_path / name)
    (tmp_path / "link").symlink_to(tmp_path / "b")
    walk = os.walk

    def backwards(*args, **kwargs):
        for where, folders, names in walk(*args, **kwargs):
            folders.reverse()
            yield where, folders, names[::-1]

    forwards = image_files(tmp_path)
    monkeypatch.setattr(files.os, "walk", backwards)
    assert image_files(tmp_path) == forwards == sorted(forwards)
