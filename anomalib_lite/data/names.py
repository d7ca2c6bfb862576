"""Image files by names: folders, files, patterns, lists."""

import codecs
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .files import image_files, is_image_suffix, present_image_files

_LISTS = (".txt", ".lst")


class Found(NamedTuple):
    """Image files, in order, and what could not be found.

    Attributes
    ----------
    paths : list of str
    problems : list of str
        One for each name that leads to no image.
    """

    paths: list[str]
    problems: list[str]

    def all_or_error(self) -> list[str]:
        """The paths; ValueError if there is any problem."""
        if self.problems:
            raise ValueError(self.problems[0])
        return self.paths


def find_images(names: Iterable[str], *, each_once: bool = True) -> Found:
    """The image files that some names mean.

    A name is that of a folder, whose image files at any depth count; of a file; a pattern, if
    there is no such file; a list of paths (``.txt``, ``.lst``), one a line, or separated by null
    characters; or ``-``, a list on standard input. Paths in a list are taken from where the command
    runs or, if there is no such file, from the folder of the list. Of what a pattern matches, only
    image files count, unless it ends in a suffix. With ``each_once=False`` a file that is named
    several times is found as often.
    """
    paths, problems, places = [], [], set()
    for name in names:
        try:
            found = _paths_of(name, image_files)
            if not found:
                raise ValueError(f"{name}: no image file matches this pattern.")
        except (ValueError, OSError) as error:
            problems.append(str(error).removeprefix("X: "))
            continue
        if each_once:
            found = [path for path in found if _is_new(place_of(path), places)]
        paths += found
    return Found(paths, problems)


def _is_new(place, places):
    """Whether a place is none of some, which it then joins."""
    n_before = len(places)
    places.add(place)
    return len(places) > n_before


def images_now(name: str) -> list[str]:
    """The image files that a name means at the moment; there may be none.

    Raises
    ------
    ValueError, OSError
        If there is no such folder or file, or it cannot be read.
    """
    found = _paths_of(name, present_image_files)
    if found == [name] and not os.path.lexists(name):
        raise ValueError(f"{name}: there is no such folder or file.")
    return found


def place_of(path: str) -> str:
    """One name for all the names of a file, as far as the names tell: not through links.

    Examples
    --------
    >>> place_of("new/a.png") == place_of("./new//a.png")
    True
    """
    return os.path.normcase(os.path.abspath(path))


def _paths_of(name, in_folder):
    if name == "-":
        return _filled(name, _lines(sys.stdin.buffer.read()))
    if os.path.isdir(name):
        return in_folder(name)
    if name.lower().endswith(_LISTS) and os.path.isfile(name):
        return _listed(name)
    if glob.has_magic(name) and not os.path.lexists(name):
        return sorted(_matches(name))
    return [name]  # a file; one that is not there is unreadable, as any other


def _matches(pattern) -> Iterator[str]:
    """Image files that match a pattern, and those of folders that do."""
    suffix = os.path.splitext(pattern)[1]
    takes_all = suffix and not glob.has_magic(suffix)
    for path in glob.iglob(pattern, recursive=True):
        if os.path.isdir(path):
            yield from present_image_files(path)
        elif takes_all or is_image_suffix(os.path.splitext(path)[1].lower()):
            yield path


def _listed(name):
    with open(name, "rb") as file:
        lines = _filled(name, _lines(file.read()))
    beside = os.path.dirname(name)
    return [path if os.path.lexists(path) else _beside(beside, path) for path in lines]


def _filled(name, lines):
    if not lines:
        raise ValueError(f"{name}: expected a list of paths, got an empty one.")
    return lines


def _beside(folder, path):
    other = os.path.join(folder, path)
    return other if os.path.lexists(other) else path


def _lines(data):
    """Paths in the bytes of a list."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes lists
        data = data.decode("utf-16").encode("utf-8", "surrogatepass")
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data:
        lines = data.split(b"\0")
    else:
        lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(line) for line in lines if line.strip()]
