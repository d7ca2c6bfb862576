"""Images by names."""

import io
import os
import sys

import pytest

from anomalib_lite.data.names import find_images, images_now


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("new/b.png", "new/a.png", "new/deep/c.JPG", "new/notes.md", "new/x.tmp"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        open(path, "wb").close()
    return tmp_path


ALL = ["new/a.png", "new/b.png", "new/deep/c.JPG"]


def test_folders_files_and_patterns(here):
    assert find_images(["new"]) == (ALL, [])
    assert find_images(["new/b.png", "new/a.png"]) == (["new/b.png", "new/a.png"], [])
    assert find_images(["new/*.png"]).paths == ALL[:2]
    assert find_images(["new/**/*.JPG"]).paths == ALL[2:]
    assert find_images(["new/*.tmp"]).paths == ["new/x.tmp"]  # asked for by its suffix


def test_a_pattern_without_a_suffix_means_images(here):
    assert find_images(["new/*"]).paths == ALL
    assert find_images(["n?w"]).paths == ALL


def test_a_file_given_twice_is_inspected_once(here):
    names = ["new/b.png", "new", "./new//a.png", str(here / "new" / "b.png"), "new/*.png"]
    assert sorted(find_images(names).paths) == sorted(["new/b.png", "new/a.png", "new/deep/c.JPG"])


def test_a_name_with_the_signs_of_patterns_is_a_name(here):
    os.mkdir("[1]")
    for path in ("[1]/a.png", "a*.png"):
        open(path, "wb").close()
    assert find_images(["[1]", "a*.png"]) == (["[1]/a.png", "a*.png"], [])


def test_what_leads_to_nothing_is_told_and_the_rest_is_found(here):
    os.mkdir("empty")
    paths, problems = find_images(["empty", "new", "no/*.png"])
    assert paths == ALL
    assert [problem.split(".")[0] for problem in problems] == [
        "no image files below empty", "no/*",
    ]  # fmt: skip
    assert find_images(["gone.png"]) == (["gone.png"], [])  # unreadable, as any other
    with pytest.raises(ValueError, match="no image files below empty"):
        find_images(["new", "empty"]).all_or_error()


@pytest.mark.parametrize(
    "data",
    [
        b"new/b.png\nnew/a.png\n",
        b"new/b.png\nnew/a.png",
        b"\n new/none\n".replace(b" new/none", b"   ") + b"new/b.png\n\nnew/a.png\n",
        b"new/b.png\r\nnew/a.png\r\n",
        b"\xef\xbb\xbfnew/b.png\r\nnew/a.png\r\n",
        b"new/b.png\0new/a.png\0",
        "\ufeffnew/b.png\r\nnew/a.png\r\n".encode("utf-16-le"),
    ],
    ids=["lf", "no-end", "blank", "crlf", "bom", "null", "powershell"],
)
def test_lists(here, data, monkeypatch):
    (here / "list.txt").write_bytes(data)
    assert find_images(["list.txt"]) == (["new/b.png", "new/a.png"], [])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert find_images(["-"]) == (["new/b.png", "new/a.png"], [])


def test_lists_of_odd_names(here):
    names = [b" a .png", b"-x.png", b"#1.png", b"gr\xf6n.png", b"two\nlines.png", b"r\r"]
    (here / "list.lst").write_bytes(b"\0".join(names))
    assert find_images(["list.lst"]).paths == [os.fsdecode(name) for name in names]


def test_paths_of_a_list_may_be_from_its_folder(here):
    (here / "new" / "list.txt").write_text("a.png\nnew/b.png\nnone.png\n")
    assert find_images(["new/list.txt"]).paths == ["new/a.png", "new/b.png", "none.png"]


def test_an_empty_list_is_a_problem(here, monkeypatch):
    (here / "list.txt").write_text("\n\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    paths, problems = find_images(["list.txt", "-"])
    assert paths == [] and [problem.split(":")[0] for problem in problems] == ["list.txt", "-"]


def test_what_is_there_now_may_be_nothing(here):
    os.mkdir("empty")
    assert images_now("empty") == images_now("no/*.png") == []
    assert images_now("new") == ALL
    with pytest.raises(ValueError, match=r"gone: there is no such folder or file"):
        images_now("gone")


def test_looking_opens_no_file(here, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(args)

    monkeypatch.setattr("builtins.open", refuse)
    assert images_now("new") == images_now("new/*") == ALL
