"""Load datasets as `AnomalyDataset`: folders in the MVTec AD layout and the ELPV solar cells.

Nothing is downloaded.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..annotations import Path as PathLike
from .images import IMAGE_SUFFIXES


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
        Masks of the defective pixels, or paths of mask files (None for a normal image). None if
        there are no masks.
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

        Mask files are read again at each access. Raises ValueError if one cannot be decoded or
        differs in size from its image.
        """
        if not isinstance(self.masks, list):
            return self.masks
        return [_read_mask(*paths) for paths in zip(self.test, self.masks, strict=True)]


def load_mvtec(root: PathLike, category: str | None = None) -> AnomalyDataset:
    """List the images of one category in the folder layout of MVTec AD, without opening them.

    Several other datasets share the layout::

        root/category/train/good/*.png
        root/category/test/good/*.png
        root/category/test/<defect>/<stem>.png
        root/category/ground_truth/<defect>/<stem>_mask.png

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
        If a folder of the layout or the mask of a defective image is missing, or if a folder holds
        no images.

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
    for part in ("train/good", "test"):
        if not (folder / part).is_dir():
            inside = _categories_below(root)
            hint = f" Categories below {root}: {', '.join(inside)}." if inside else ""
            raise ValueError(f"expected a folder {folder / part}, found none.{hint}")
    train = _image_files(folder / "train" / "good")
    test, defects, masks = [], [], []
    for kind in sorted(path.name for path in (folder / "test").iterdir() if path.is_dir()):
        for path in _image_files(folder / "test" / kind):
            mask = folder / "ground_truth" / kind / f"{path.stem}_mask.png"
            if kind != "good" and not mask.is_file():
                raise ValueError(f"{path}: expected its mask at {mask}, found none.")
            test.append(str(path))
            defects.append(kind)
            masks.append(None if kind == "good" else str(mask))
    if not train or not test:
        empty = folder / ("test" if train else "train/good")
        raise ValueError(f"expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {empty}.")
    defects = np.array(defects)
    labels = np.where(defects == "good", 1, -1)
    name = folder.resolve().name
    return AnomalyDataset(name, [str(path) for path in train], test, labels, defects, masks)


def mvtec_categories(root: PathLike) -> list[str]:
    """List the categories (folders with ``train/good`` inside) below `root`, sorted by name.

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


def install_hint(function, package):
    return f'{function} needs {package}: pip install "anomalib_lite[examples]"'


def _categories_below(root):
    return sorted(path.parent.parent.name for path in Path(root).glob("*/train/good"))


def _image_files(folder):
    files = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("."))


def _read_mask(image_path, mask_path):
    with Image.open(image_path) as image:  # reads the header only
        width, height = image.size
    if mask_path is None:
        return np.zeros((height, width), dtype=bool)
    try:
        with Image.open(mask_path) as file:
            mask = np.asarray(file.convert("L")) > 0
    except OSError as error:
        raise ValueError(f"{mask_path}: cannot be decoded as a mask image ({error}).") from error
    if mask.shape != (height, width):
        raise ValueError(
            f"{mask_path}: expected a mask of the image's size {(height, width)}, got {mask.shape}."
        )
    return mask
