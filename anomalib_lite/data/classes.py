"""Images of classes, of which some count as normal: one against the rest, nine against one."""

import gzip
import os
import struct
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..annotations import Path as PathLike
from .datasets import AnomalyDataset

_DEBIAN = "/usr/share/datasets/fashion-mnist"
FASHION_MNIST = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
_UBYTE = 8  # the code of unsigned bytes in idx files


@dataclass(frozen=True, eq=False)
class ImageClasses:
    """Images of several classes, cut into training and test images by whoever collected them.

    Attributes
    ----------
    name : str
    train, test : ndarray of shape (n, H, W) or (n, H, W, 3), uint8
    train_classes, test_classes : ndarray of shape (n,)
        The class of each image: names or numbers.

    Examples
    --------
    >>> from anomalib_lite.data import ImageClasses
    >>> images, classes = np.zeros((6, 8, 8), dtype=np.uint8), np.array(list("aabbcc"))
    >>> data = ImageClasses("letters", images, classes, images, classes)
    >>> data.one_vs_rest("b")
    AnomalyDataset(name='letters: b')
    >>> data.rest_vs_one("b").test_labels
    array([ 1,  1, -1, -1,  1,  1])
    """

    name: str
    train: np.ndarray = field(repr=False)
    train_classes: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    test_classes: np.ndarray = field(repr=False)

    def __post_init__(self):
        for part in ("train", "test"):
            images, classes = getattr(self, part), getattr(self, f"{part}_classes")
            if len(images) != len(classes) or np.ndim(classes) != 1:
                raise ValueError(
                    f"{part}_classes: expected a class for each of {len(images)} images, got an "
                    f"array of shape {np.shape(classes)}."
                )

    @property
    def classes(self) -> np.ndarray:
        """The classes of the training images, sorted."""
        return np.unique(self.train_classes)

    def one_vs_rest(
        self,
        normal: Hashable,
        *,
        n_train: int | None = None,
        random_state: int | np.random.Generator | None = 0,
    ) -> AnomalyDataset:
        """One class is normal; test images of all others are anomalous.

        Parameters
        ----------
        normal : hashable
            The class.
        n_train : int or None, default=None
            Number of training images, drawn at random; None for all of the class.
        random_state : int, Generator or None, default=0
            Passed to :func:`numpy.random.default_rng`.

        Returns
        -------
        dataset : AnomalyDataset
            Its `test_defects` are classes. All test images, in their order.

        Raises
        ------
        ValueError
            If there is no such class, or too few images of it.
        """
        self._check_class(normal)
        return self._split(normal, self.classes == normal, n_train, random_state)

    def rest_vs_one(
        self,
        anomalous: Hashable,
        *,
        n_train: int | None = None,
        random_state: int | np.random.Generator | None = 0,
    ) -> AnomalyDataset:
        """One class is anomalous; training images are of all others, such as nine of ten.

        Parameters
        ----------
        anomalous : hashable
            The class.
        n_train, random_state
            As for :meth:`one_vs_rest`.

        Returns
        -------
        dataset : AnomalyDataset

        Raises
        ------
        ValueError
            If there is no such class, or too few images of the others.
        """
        self._check_class(anomalous)
        return self._split(f"all but {anomalous}", self.classes != anomalous, n_train, random_state)

    def _check_class(self, name):
        if name not in self.classes.tolist():
            known = ", ".join(map(str, self.classes.tolist()))
            raise ValueError(f"{self.name}: expected one of the classes {known}, got {name!r}.")

    def _split(self, title, is_normal, n_train, random_state):
        normal = self.classes[is_normal]
        places = np.flatnonzero(np.isin(self.train_classes, normal))
        if n_train is not None:
            if not 1 <= n_train <= len(places):
                raise ValueError(
                    f"n_train: expected 1 to {len(places)}, the number of normal training images, "
                    f"got {n_train}."
                )
            rng = np.random.default_rng(random_state)
            places = np.sort(rng.choice(places, n_train, replace=False))
        is_good = np.isin(self.test_classes, normal)
        return AnomalyDataset(
            f"{self.name}: {title}",
            self.train[places],
            self.test,
            np.where(is_good, 1, -1),
            np.where(is_good, "good", self.test_classes.astype(str)),
        )


def load_fashion_mnist(path: PathLike | None = None) -> ImageClasses:
    """Load Fashion-MNIST, 28 px gray pictures of ten kinds of clothes, from its idx files.

    Parameters
    ----------
    path : str or Path or None, default=None
        Folder of the four files, packed by gzip or not. None: where Debian's package
        ``dataset-fashion-mnist`` puts them. MNIST, whose files have the same names, loads likewise,
        with the names of clothes for its digits.

    Returns
    -------
    images : ImageClasses
        60,000 training and 10,000 test images; classes "t-shirt", "trouser", "pullover", "dress",
        "coat", "sandal", "shirt", "sneaker", "bag" and "boot".

    Raises
    ------
    ValueError
        If a file is missing, or is not what its name says.

    References
    ----------
    H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine
    Learning Algorithms", 2017, https://arxiv.org/abs/1708.07747

    Examples
    --------
    >>> from anomalib_lite.data import load_fashion_mnist
    >>> load_fashion_mnist().one_vs_rest("boot").train.shape  # doctest: +SKIP
    (6000, 28, 28)
    """
    folder = Path(_DEBIAN if path is None else path)
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", 3)
        numbers = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", 1)
        if len(images) != len(numbers) or numbers.max(initial=0) >= len(FASHION_MNIST):
            raise ValueError(
                f"{folder}: expected a label from 0 to 9 for each of {len(images)} images of "
                f"{prefix}, got {len(numbers)}, the highest being {numbers.max(initial=0)}."
            )
        parts |= {part: images, f"{part}_classes": np.array(FASHION_MNIST)[numbers]}
    return ImageClasses("Fashion-MNIST", **parts)


def _read_idx(folder: Path, name: str, n_dims: int) -> np.ndarray:
    """The array of unsigned bytes in an idx file, packed or not."""
    found = [path for path in (folder / f"{name}.gz", folder / name) if path.is_file()]
    if not found:
        hint = "Debian has it: apt-get install dataset-fashion-mnist. Elsewhere, give the path of "
        raise ValueError(f"{folder}: expected a file {name}.gz, found none. {hint}its folder.")
    path = found[0]
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError) as error:
        raise ValueError(f"{os.fsdecode(path)}: cannot be read: {error}") from error
    header = 4 + 4 * n_dims
    is_idx = len(data) >= header and data[:4] == bytes([0, 0, _UBYTE, n_dims])
    shape = struct.unpack(f">{n_dims}I", data[4:header]) if is_idx else ()
    if not is_idx or len(data) - header != int(np.prod(shape, dtype=object)):
        raise ValueError(
            f"{os.fsdecode(path)}: expected an idx file of bytes in {n_dims} dimensions, got "
            f"{len(data):,} bytes that are none, or not all of it."
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)
