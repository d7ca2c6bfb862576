"""Folders whose names say what is in the images: good ones, kinds of defects, masks."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..annotations import Path as PathLike
from .files import IMAGE_SUFFIXES, describe, scan, subfolders, warn_of

_GOOD = ("good", "ok", "normal")


class LabeledImages(NamedTuple):
    """Images whose truth is known.

    Attributes
    ----------
    paths : list of str
    labels : ndarray of shape (n_images,), int
        +1 normal, -1 anomalous.
    kinds : list of str
        Kind of defect; "good" for normal images.
    masks : list of (str, tuple of str or None) or None
        Path of each mask of defective pixels, or several: None for a normal image, and where there
        is none. None if there are no masks at all.
    problems : list of str
        Which defective images have no mask, or several.
    """

    paths: list[str]
    labels: np.ndarray
    kinds: list[str]
    masks: list[str | tuple[str, ...] | None] | None
    problems: list[str]


def read_test_folder(folder: PathLike, masks: PathLike | None = None) -> LabeledImages:
    """List images whose folders say whether they are good, without opening them.

    Parameters
    ----------
    folder : str or Path
        With a folder of good images (``good``, ``ok`` or ``normal``, in any case) beside folders of
        defective ones, each a kind of defect; folders inside these are kinds of their own. Or one
        that holds such a folder as ``test``.
    masks : str or Path or None, default=None
        Folder with the same folders inside, of masks named like the images, or with ``_mask`` at
        the end, or of folders named like the images, with several masks each. None takes
        ``ground_truth``, inside `folder` or beside the images' folder, if there is one that has the
        mask of any image.

    Returns
    -------
    images : LabeledImages

    Raises
    ------
    ValueError
        If there are no good or no defective images, if images lie outside of these folders or in a
        good folder inside a defective one, or if `masks` holds the mask of no image.

    Warns
    -----
    UserWarning
        If files that look like images, but are of a kind that is not read, are left out, or if a
        folder ``ground_truth`` holds the mask of no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of good and defective images.")
    inside = part_of(folder, "test")
    home = folder if inside is None or any(map(is_good, subfolders(folder))) else inside
    truth = GroundTruth(_mask_folder(home, masks))
    paths, kinds, left_out = [], [], Counter()
    for kind in subfolders(home):
        found = [path for path in images_in(kind, left_out) if not truth.holds(path, home)]
        paths += found
        kinds += ["good" if is_good(kind) else kind_of(path, home) for path in found]
    refuse_loose_images(home)
    labels = np.where(np.array(kinds, dtype=object) == "good", 1, -1)
    _check_both(home, labels, left_out)
    warn_of(left_out, folder)
    return LabeledImages(paths, labels, kinds, *_masks_of(paths, labels, home, truth, masks))


def _mask_folder(home, masks):
    if masks is None:
        return part_of(home, "ground_truth") or part_of(home.absolute().parent, "ground_truth")
    if not Path(masks).is_dir():
        raise ValueError(f"{masks}: expected a folder of masks.")
    return Path(masks)


def kind_of(path: str, home: Path) -> str:
    """Folders of a defective image below a folder, as one name; "." if there are none."""
    kind = Path(path).parent.relative_to(home)
    is_good_part = [name.lower() in _GOOD for name in kind.parts]
    if any(is_good_part):
        place = is_good_part.index(True)
        raise ValueError(
            f"{path}: good, or a defect? Its folder {kind.parts[place]} is inside "
            f"{home.joinpath(*kind.parts[:place])}, whose images are defective. Give that folder, "
            "if it holds both, or name the folders otherwise."
        )
    return kind.as_posix()


def _check_both(home, labels, left_out):
    n_good, n = int((labels == 1).sum()), len(labels)
    if not 0 < n_good < n:
        suffixes = "" if n else f" ({', '.join(sorted(IMAGE_SUFFIXES))})"
        raise ValueError(
            f"{home}: expected images{suffixes} of good parts in a folder called "
            f"{', '.join(_GOOD[:-1])} or {_GOOD[-1]}, and defective ones in folders beside it, got "
            f"{n_good} good and {n - n_good} defective ones.{describe(left_out, ' Not read: ')}"
        )


def _masks_of(paths, labels, home, truth, asked):
    """The masks, and what is wrong with them."""
    masks, problems = [], []
    for path, label in zip(paths, labels, strict=True):
        mask = None
        if label == -1:
            try:
                mask = truth.mask(path, Path(path).relative_to(home))
            except ValueError as error:
                problems.append(str(error))
        masks.append(mask)
    if any(masks):
        return masks, problems
    if asked is not None:
        raise ValueError(
            f"{asked}: holds the mask of no image. "
            f"{problems[0] if problems else 'It holds no image files.'}"
        )
    if problems:
        warnings.warn(
            f"{truth.folder}: holds the mask of no image, so that pixels are not compared. "
            f"{problems[0]}",
            UserWarning,
            stacklevel=3,
        )
    return None, []


class GroundTruth:
    """The mask files below a folder; None is no folder.

    Masks lie in the folders of their images, which may differ in case. An image has one, or a
    folder of several, named like the image.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.masks, self._inside = {}, {}
        for path in [] if folder is None else scan(folder)[0]:
            place = _folded(Path(path).relative_to(folder).with_suffix(""))
            self.masks.setdefault(place, []).append(path)
            self._inside.setdefault(place[0], []).append(path)

    def holds(self, path: str, home: Path) -> bool:
        """Whether a file below a folder of images is one of the masks, which may lie there too."""
        if self.folder is None or not self.folder.resolve().is_relative_to(home.resolve()):
            return False
        return Path(path).is_relative_to(home / self.folder.resolve().relative_to(home.resolve()))

    def mask(self, path: str, place: Path) -> str | tuple[str, ...] | None:
        """The mask file of an image, or all of its folder of masks.

        ``place`` is the image's, below the folder of all kinds. None if there are no masks at all;
        ValueError if this one is missing, or there are several of its name.
        """
        if not self.masks:
            return None
        found = self.find(path, place)
        if len(found) != 1:
            wanted = self.folder / place.with_name(f"{place.stem}_mask.png")
            several = f"{len(_files(found))}: {_listed(found)}" if found else "none"
            raise ValueError(f"{path}: expected its mask at {wanted}, found {several}.")
        return found[0]

    def find(self, path: str | Path, place: Path) -> list[str | tuple[str, ...]]:
        """The masks of an image, of which there should be one: files, and a folder of several."""
        place = place.with_suffix("")
        masked = place.with_name(f"{place.name}_mask")
        found = self.masks.get(_folded(masked)) or self.masks.get(_folded(place), [])
        inside = self._inside.get(place.as_posix().lower())
        if inside and not Path(path).with_suffix("").is_dir():  # else, masks of images in it
            return [*found, tuple(inside)]
        return [*found]


def masks_of_images(
    paths: Sequence[str], given: Sequence[PathLike], folder: PathLike
) -> list[str | tuple[str, ...] | None]:
    """The mask files of images, or several of one; None for those that have none.

    Parameters
    ----------
    paths : sequence of str
    given : sequence of str or Path
        The files and folders that these were found in.
    folder : str or Path
        With the masks, named like the images, or with ``_mask`` at the end, or several in a folder
        named like the image, in the folders that these have below the folders given.

    Raises
    ------
    ValueError
        If an image has several masks, a mask several images, or none has one.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: expected a folder of masks.")
    truth, image_of, masks = GroundTruth(Path(folder)), {}, []
    homes = [Path(each) for each in given if Path(each).is_dir()]
    for path in map(Path, paths):
        places = [path.relative_to(home) for home in homes if path.is_relative_to(home)]
        places = places or [Path(path.name)]
        found = [*dict.fromkeys(mask for place in places for mask in truth.find(path, place))]
        if len(found) > 1:
            raise ValueError(f"{path}: expected one mask, found {_listed(found)}.")
        for file in _files(found):
            if image_of.setdefault(file, path) != path:
                raise ValueError(
                    f"{file}: a mask of {image_of[file]}, or of {path}? Give the folder that holds "
                    "both, and masks in the same folders."
                )
        masks.append(found[0] if found else None)
    among = sorted(image_of.keys() & set(paths))
    if among:
        raise ValueError(
            f"{among[0]}: a mask, or an image? Keep masks in a folder that holds no images."
        )
    if not any(masks):
        example = truth.folder / places[0].with_name(f"{places[0].stem}_mask.png")
        raise ValueError(
            f"{folder}: holds the mask of no image. That of {path} would be {example}."
        )
    return masks


def _files(masks):
    """The files of masks, of which one may be several."""
    return [file for mask in masks for file in (mask if isinstance(mask, tuple) else (mask,))]


def _listed(masks):
    return ", ".join(_files(masks))


def _folded(place):
    """The folder of a path in lower case, and its name: the case of folders does not matter."""
    return place.parent.as_posix().lower(), place.name


def part_of(folder: Path, name: str) -> Path | None:
    """A folder inside another by its name in any case, preferably this one; None if missing."""
    inside = subfolders(folder) if folder.is_dir() else []
    alike = [path for path in inside if path.name.lower() == name]
    return next((path for path in alike if path.name == name), alike[0] if alike else None)


def is_good(folder: Path) -> bool:
    """Whether a folder is one of good images, by its name."""
    return folder.name.lower() in _GOOD


def images_in(folder: Path, left_out: Counter[str]) -> list[str]:
    """Image files below a folder; files that only look like images are added to ``left_out``."""
    paths, others = scan(folder)
    left_out.update(others)
    return paths


def refuse_loose_images(test_folder: Path) -> None:
    """Raise ValueError if an image lies in the folder itself, where no kind is named."""
    loose = [path for path in scan(test_folder)[0] if Path(path).parent == test_folder]
    if loose:
        raise ValueError(
            f"{loose[0]}: expected images in folders that name their kind, such as "
            f"{test_folder / 'good'}."
        )
