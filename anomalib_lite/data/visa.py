"""VisA: categories whose split is a table."""

import csv
from operator import itemgetter
from pathlib import Path

import numpy as np

from ..annotations import Path as PathLike
from .datasets import AnomalyDataset

_SPLIT = Path("split_csv", "1cls.csv")
_NORMAL = ("normal", "good")
_COLUMNS = ("object", "split", "label", "image", "mask")


def load_visa(root: PathLike, category: str) -> AnomalyDataset:
    """List the images of one category of VisA, as its table ``1cls.csv`` splits them.

    No image is opened. The folders are those of the publishers' archive::

        root/split_csv/1cls.csv
        root/category/Data/Images/{Normal,Anomaly}/*.JPG
        root/category/Data/Masks/Anomaly/*.png
        root/category/image_anno.csv

    Copies in the layout of MVTec AD are read by :func:`load_mvtec`.

    Parameters
    ----------
    root : str or Path
        Folder of the archive.
    category : str
        Such as "candle" or "pcb1".

    Returns
    -------
    dataset : AnomalyDataset
        Test images in the order of their paths. Kinds of defects are those of ``image_anno.csv``,
        several in one name with commas between them, and "anomaly" where there is none.

    Raises
    ------
    ValueError
        If a table or a file that it names is missing, a table is another, or there is no such
        category.

    References
    ----------
    Y. Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and
    Segmentation", ECCV 2022, https://arxiv.org/abs/2207.14315

    Examples
    --------
    >>> from anomalib_lite.data import load_visa
    >>> load_visa("VisA_20220922", "candle").test_labels.shape  # doctest: +SKIP
    (200,)
    """
    root = Path(root)
    table = _table(root / _SPLIT, _COLUMNS)
    lines = [line for line in table if line["object"] == category]
    if not lines:
        known = ", ".join(sorted({line["object"] for line in table}))
        raise ValueError(f"{root / _SPLIT}: expected a category out of {known}, got {category!r}.")
    kinds = _kinds(root, category)
    train, test = [], []
    for line in lines:
        image, mask = (_file(root, line[column]) for column in ("image", "mask"))
        is_normal = line["label"] == "normal"
        if image is None or is_normal != (mask is None):
            wanted = "an image, and a mask where it is not normal"
            raise ValueError(f"{root / _SPLIT}: expected {wanted}, got {line}.")
        if line["split"] == "test":
            kind = "good" if is_normal else kinds.get(line["image"]) or "anomaly"
            test.append((image, kind, mask, 1 if is_normal else -1))
        elif line["split"] == "train" and is_normal:
            train.append(image)
        else:
            wanted = "normal images to train on and others to test"
            raise ValueError(f"{root / _SPLIT}: expected {wanted}, got {line}.")
    if not train or len({kind == "good" for _, kind, *_ in test}) < 2:
        wanted = f"normal images of {category} to train on, and normal and other ones to test"
        raise ValueError(f"{root / _SPLIT}: expected {wanted}.")
    paths, defects, masks, labels = zip(*sorted(test, key=itemgetter(0)), strict=True)
    return AnomalyDataset(
        category, sorted(train), [*paths], np.array(labels), np.array(defects), [*masks]
    )


def visa_categories(root: PathLike) -> list[str]:
    """List the categories of VisA, sorted by name.

    Parameters
    ----------
    root : str or Path
        As for :func:`load_visa`.

    Returns
    -------
    names : list of str

    Raises
    ------
    ValueError
        If the table of the split is missing, or another.

    Examples
    --------
    >>> from anomalib_lite.data import visa_categories
    >>> visa_categories("VisA_20220922")[:2]  # doctest: +SKIP
    ['candle', 'capsules']
    """
    return sorted({line["object"] for line in _table(Path(root) / _SPLIT, _COLUMNS)})


def _table(path, columns):
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path}: expected a table of images: {error}") from error
    if not lines or any(line.get(name) is None for line in lines for name in columns):
        wanted = f"columns {', '.join(columns)}, and lines below them that have all of these"
        raise ValueError(f"{path}: expected {wanted}.")
    return lines


def _kinds(root, category):
    """Kinds of defects by image, as far as they are told."""
    path = root / category / "image_anno.csv"
    if not path.exists():
        return {}
    lines = _table(path, ("image", "label"))
    return {line["image"]: line["label"] for line in lines if line["label"] not in _NORMAL}


def _file(root, place):
    """The path of a file that the split names; None if it names none."""
    if not place:
        return None
    path = root / place
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, which {_SPLIT} names, found none.")
    return str(path)
