"""Images as the command line names them: folders, files, patterns, lists."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..data.files import image_files

_LISTS = (".txt", ".lst")


class Found(NamedTuple):
    """Image files, each once, in order, and what could not be found.

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


def find_images(names: Iterable[str]) -> Found:
    """The image files that some names mean.

    A name is that of a folder, whose image files at any depth count; of a file; a pattern, if
    there is no such file; a list of paths (``.txt``, ``.lst``), one a line, or separated by null
    characters; or ``-``, a list on standard input. Paths in a list are taken from where the command
    runs or, if there is no such file, from the folder of the list.
    """
    paths, problems = {}, []
    for name in names:
        try:
            paths.update(dict.fromkeys(_paths_of(name)))
        except (ValueError, OSError) as error:
            problems.append(str(error).removeprefix("X: "))
    return Found(list(paths), problems)


def _paths_of(name):
    if name == "-":
        return _lines(sys.stdin.buffer.read())
    if os.path.isdir(name):
        return image_files(name)
    if name.lower().endswith(_LISTS) and os.path.isfile(name):
        return _listed(name)
    if not os.path.lexists(name) and glob.has_magic(name):
        found = sorted(_matches(name))
        if not found:
            raise ValueError(f"{name}: no image file matches this pattern.")
        return found
    return [name]  # a file; one that is not there is unreadable, as any other


def _matches(pattern) -> Iterator[str]:
    """Files that match a pattern, and the image files of folders that do."""
    for path in glob.iglob(pattern, recursive=True):
        if os.path.isdir(path):
            yield from _images_inside(path)
        else:
            yield path


def _images_inside(folder):
    """Image files of a folder; that there are none is no mistake of a pattern's."""
    try:
        return image_files(folder)
    except ValueError:
        return []


def _listed(name):
    with open(name, "rb") as file:
        lines = _lines(file.read())
    if not lines:
        raise ValueError(f"{name}: expected a list of paths, got an empty file.")
    beside = os.path.dirname(name)
    return [path if os.path.lexists(path) else _beside(beside, path) for path in lines]


def _beside(folder, path):
    other = os.path.join(folder, path)
    return other if os.path.lexists(other) else path


def _lines(data):
    separator = b"\0" if b"\0" in data else b"\n"
    lines = [line.removesuffix(b"\r") for line in data.split(separator)]
    return [os.fsdecode(line) for line in lines if line.strip()]
