"""Load datasets as `AnomalyDataset`: folders in the MVTec AD layout, solar cells, woven textile.

Nothing is downloaded.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..annotations import Path as PathLike
from .decoding import upright_size
from .files import IMAGE_SUFFIXES, describe, image_files, subfolders, warn_of
from .layouts import GroundTruth, images_in, is_good, part_of, refuse_loose_images
from .masks import read_mask


@dataclass(frozen=True, eq=False)
class AnomalyDataset:
    """Normal training images, and test images with ground truth.

    Attributes
    ----------
    name : str
    train, test : ndarray of shape (n, H, W) or (n, H, W, 3), uint8, or list of str
        Images, or sorted paths of image files. Detectors accept both.
    test_labels : ndarray of shape (n_test,), int
        +1 normal, -1 anomalous.
    test_defects : ndarray of shape (n_test,), str
        Kind of defect; "good" for normal images.
    masks : ndarray of shape (n_test, H, W), bool, or list of (str or None), or None
        Masks of the defective pixels, or paths of mask files (None for a normal image), or
        whatever else :func:`read_mask` takes. None if there are no masks.
    """

    name: str
    train: np.ndarray | list[str] = field(repr=False)
    test: np.ndarray | list[str] = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    test_defects: np.ndarray = field(repr=False)
    masks: np.ndarray | list[str | None] | None = field(default=None, repr=False)

    @property
    def test_masks(self) -> np.ndarray | list[np.ndarray] | None:
        """One bool (H, W) array per test image, True where defective; None if there are no masks.

        Mask files are read again at each access, by :func:`read_mask`. Raises ValueError if one
        cannot be read, differs in size from its image (after EXIF orientation), is empty though
        its image is anomalous, or is not empty though its image is normal.
        """
        if self.masks is None:
            return None
        masks = [self._mask(*part) for part in enumerate(zip(self.test, self.masks, strict=True))]
        return np.stack(masks) if isinstance(self.masks, np.ndarray) else masks

    def _mask(self, index, image_and_mask):
        image, mask = image_and_mask
        is_file = isinstance(image, str | os.PathLike)
        size = _size_of_file(image) if is_file else image.shape[:2]
        name = f"the mask of {os.fsdecode(image) if is_file else f'test image {index}'}"
        if isinstance(mask, str | os.PathLike):
            name = os.fsdecode(mask)
        is_normal, kind = self.test_labels[index] == 1, str(self.test_defects[index])
        return labeled_mask(mask, size, is_normal=is_normal, kind=kind, name=name)


def labeled_mask(
    mask: object, size: tuple[int, int], *, is_normal: bool, kind: str, name: str
) -> np.ndarray:
    """The mask (H, W) of an image, which must agree with its label.

    ``mask`` is what :func:`read_mask` takes, or None for one that is empty.
    """
    mask = np.zeros(size, dtype=bool) if mask is None else read_mask(mask, size=size, name=name)
    if mask.any() == is_normal:
        raise ValueError(
            f"{name}: expected {'no' if mask.any() else 'a'} defective pixel, since its image "
            f"is labeled {kind!r}. Correct the mask or the label."
        )
    return mask


def _size_of_file(path):
    try:
        return upright_size(path)
    except ValueError as error:
        raise ValueError(f"{os.fsdecode(path)}: {error}") from error


def load_mvtec(root: PathLike, category: str | None = None) -> AnomalyDataset:
    """List the images of one category in the folder layout of MVTec AD, without opening them.

    Several other datasets share the layout::

        root/category/train/good/*.png
        root/category/test/good/*.png
        root/category/test/<defect>/<stem>.png
        root/category/ground_truth/<defect>/<stem>_mask.png

    Folders are read as `fit` reads them (:mod:`anomalib_lite.data.files`): images in folders below
    ``good`` and ``<defect>`` count, their masks lie in the same folders below ``ground_truth``.
    Masks may have any suffix of an image file, and leave out ``_mask``. The case of folder names
    does not matter, and ``good`` may be called ``ok`` or ``normal``. Without ``ground_truth`` there
    are labels, but no masks.

    Parameters
    ----------
    root : str or Path
        Folder of the categories, or of a single category.
    category : str or None, default=None
        Name of the category below `root`; None if `root` is the category itself.

    Returns
    -------
    dataset : AnomalyDataset

    Raises
    ------
    ValueError
        If a folder of the layout or the mask of a defective image is missing, if a folder holds
        no images, or if an image lies in ``test`` itself, where no kind is named.

    Warns
    -----
    UserWarning
        If files that look like images, but are of a kind that is not read, are left out.

    References
    ----------
    P. Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 129, 2021,
    https://doi.org/10.1007/s11263-020-01400-4

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from anomalib_lite.data import load_mvtec
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for folder in ("train/good", "test/good"):
    ...         (Path(root) / "bottle" / folder).mkdir(parents=True)
    ...         Image.new("L", (8, 8)).save(Path(root) / "bottle" / folder / "000.png")
    ...     bottle = load_mvtec(root, "bottle")
    >>> bottle, len(bottle.train), bottle.test_labels
    (AnomalyDataset(name='bottle'), 1, array([1]))
    """
    folder = Path(root) if category is None else Path(root) / category
    train_good, test_folder = _train_good(folder), part_of(folder, "test")
    missing = "train/good" if not train_good else "test" if test_folder is None else None
    if missing:
        inside = _categories_below(root)
        hint = f" Categories below {root}: {', '.join(inside)}." if inside else ""
        raise ValueError(f"expected a folder {folder / missing}, found none.{hint}")
    truth, left_out = GroundTruth(part_of(folder, "ground_truth")), Counter()
    train = [path for part in train_good for path in images_in(part, left_out)]
    test, defects, masks = [], [], []
    for kind in subfolders(test_folder):
        holds_good = is_good(kind)
        for path in images_in(kind, left_out):
            test.append(path)
            defects.append("good" if holds_good else kind.name)
            place = Path(path).relative_to(test_folder)
            masks.append(None if holds_good else truth.mask(path, place))
    refuse_loose_images(test_folder)
    if not train or not test:
        empty = test_folder if train else train_good[0]
        raise ValueError(
            f"expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {empty}."
            f"{describe(left_out, ' Not read: ')}"
        )
    warn_of(left_out, folder)
    defects = np.array(defects)
    labels = np.where(defects == "good", 1, -1)
    name = folder.resolve().name
    return AnomalyDataset(name, train, test, labels, defects, masks if truth.masks else None)


def _train_good(category):
    train = part_of(category, "train")
    return [] if train is None else [path for path in subfolders(train) if is_good(path)]


def mvtec_categories(root: PathLike) -> list[str]:
    """List the categories (folders with ``train/good`` inside) below `root`, sorted by name.

    Folders are told apart as :func:`load_mvtec` does it.

    Parameters
    ----------
    root : str or Path

    Returns
    -------
    names : list of str
        At least one.

    Raises
    ------
    ValueError
        If `root` is not a folder or holds no category.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from anomalib_lite.data import mvtec_categories
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("wood", "tile"):
    ...         (Path(root) / name / "train" / "good").mkdir(parents=True)
    ...     mvtec_categories(root)
    ['tile', 'wood']
    """
    names = _categories_below(root)
    if not names:
        raise ValueError(
            f"{root}: expected a folder of categories, each with a folder train/good, found none."
        )
    return names


def load_elpv(
    kind: str = "mono",
    n_train: int = 400,
    random_state: int | np.random.Generator | None = 0,
) -> AnomalyDataset:
    """Load the ELPV electroluminescence images of solar cells as a one-class benchmark.

    Cells with defect probability 0 are normal and those with probability 1 anomalous; cells in
    between are left out. The normal cells are permuted: the first `n_train` are training images,
    the others and all anomalous cells are test images [1]_.

    Parameters
    ----------
    kind : {"mono", "poly"}, default="mono"
        Monocrystalline or polycrystalline cells.
    n_train : int, default=400
        Number of training images.
    random_state : int, Generator or None, default=0
        Passed to :func:`numpy.random.default_rng`, whose ``permutation`` splits the normal cells.
        The default gives the benchmark split: 400 training images; 188 normal and 313 defective
        test images.

    Returns
    -------
    dataset : AnomalyDataset
        Gray images of shape (300, 300). No masks; normal test images come first.

    Raises
    ------
    ValueError
        If `kind` is unknown, or if `n_train` leaves no normal image for training or for testing.
    ImportError
        If the package `elpv-dataset`, which contains the images, is not installed.

    Notes
    -----
    The package lists the cells in the order of the solar modules they were cut from. Training on
    the first cells *in this order* would test on unseen modules, which is a harder task.

    References
    ----------
    .. [1] S. Deitsch et al., "Automatic classification of defective photovoltaic module cells in
       electroluminescence images", Solar Energy 185, 2019,
       https://doi.org/10.1016/j.solener.2019.02.067

    Examples
    --------
    >>> from anomalib_lite.data import load_elpv
    >>> load_elpv().test.shape  # doctest: +SKIP
    (501, 300, 300)
    """
    if kind not in ("mono", "poly"):
        raise ValueError(f"kind: expected 'mono' or 'poly', got {kind!r}.")
    try:
        from elpv_dataset.utils import load_dataset
    except ImportError as error:
        raise ImportError(install_hint("load_elpv", "elpv-dataset")) from error
    images, probability, kinds = load_dataset()
    good = np.flatnonzero((kinds == kind) & (probability == 0))
    bad = np.flatnonzero((kinds == kind) & (probability == 1))
    if not 1 <= n_train < len(good):
        raise ValueError(f"n_train: expected 1 to {len(good) - 1} for {kind!r}, got {n_train}.")
    good = np.random.default_rng(random_state).permutation(good)
    test = np.concatenate([good[n_train:], bad])
    labels = np.where(probability[test] == 0, 1, -1)
    defects = np.where(labels == 1, "good", "defective")
    return AnomalyDataset(f"elpv-{kind}", images[good[:n_train]], images[test], labels, defects)


def load_textile(n_train: int = 300, n_test: int = 200, split: int = 0) -> AnomalyDataset:
    """List the simulated images of woven textile, with small and with global defects.

    There are 1,000 normal images, 500 whose weave is disturbed in a place of some 10 pixels
    ("local") and 500 whose weave is another everywhere ("global") [1]_. The normal images are
    permuted: the first `n_train` are training images; the next `n_test` and all defective ones are
    test images.

    Parameters
    ----------
    n_train : int, default=300
        Number of training images.
    n_test : int, default=200
        Number of normal test images. At most 1,000 normal images are there for both.
    split : int, default=0
        Seed of the :func:`numpy.random.default_rng` whose ``permutation`` splits the normal
        images, sorted by name. The default gives the benchmark split.

    Returns
    -------
    dataset : AnomalyDataset
        Paths of JPEG files of 250 x 250 pixels, gray but stored in three channels. No masks; the
        test images are normal ones, local and global defects, in this order.

    Raises
    ------
    ValueError
        If `n_train` or `n_test` is not positive, or if there are fewer normal images than both.
    ImportError
        If the package `conformal-clip-data`, which contains the images, is not installed.

    Notes
    -----
    The weave is a spatial autoregressive process; global defects have parameters that are 5 %
    smaller. At the default 224 pixels the local ones are hardly found, and patches tell little of
    the global ones.

    References
    ----------
    .. [1] F. M. Megahed et al., "Adapting OpenAI's CLIP Model for Few-Shot Image Inspection in
       Manufacturing Quality Control: An Expository Case Study with Multiple Application Examples",
       2025, https://arxiv.org/abs/2501.12596

    Examples
    --------
    >>> from anomalib_lite.data import load_textile
    >>> data = load_textile()  # doctest: +SKIP
    >>> len(data.train), len(data.test)  # doctest: +SKIP
    (300, 1200)
    """
    try:
        from conformal_clip_data import global_dir, local_dir, nominal_dir
    except ImportError as error:
        raise ImportError(install_hint("load_textile", "conformal-clip-data")) from error
    good, local, everywhere = map(image_files, (nominal_dir(), local_dir(), global_dir()))
    if min(n_train, n_test) < 1 or n_train + n_test > len(good):
        raise ValueError(
            f"expected n_train >= 1 and n_test >= 1 with a sum of at most {len(good)}, the number "
            f"of normal images, got {n_train} and {n_test}."
        )
    good = [good[i] for i in np.random.default_rng(split).permutation(len(good))]
    test = [*good[n_train : n_train + n_test], *local, *everywhere]
    numbers = [n_test, len(local), len(everywhere)]
    defects = np.repeat(["good", "local", "global"], numbers)
    labels = np.repeat([1, -1, -1], numbers)
    return AnomalyDataset("textile", good[:n_train], test, labels, defects)


def install_hint(function, package):
    return f'{function} needs {package}: pip install "anomalib_lite[examples]"'


def _categories_below(root):
    root = Path(root)
    return [path.name for path in (subfolders(root) if root.is_dir() else []) if _train_good(path)]
