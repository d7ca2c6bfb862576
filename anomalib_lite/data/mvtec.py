"""Data sets in the folder layout of MVTec AD, and its relatives: MVTec LOCO, MVTec AD 2, BTAD."""

from collections import Counter
from pathlib import Path

import numpy as np

from ..annotations import Path as PathLike
from .datasets import AnomalyDataset
from .files import IMAGE_SUFFIXES, describe, subfolders, warn_of
from .layouts import GroundTruth, images_in, is_good, part_of, refuse_loose_images


def load_mvtec(root: PathLike, category: str | None = None) -> AnomalyDataset:
    """List the images of one category in the folder layout of MVTec AD, without opening them.

    Several other datasets share the layout::

        root/category/train/good/*.png
        root/category/test/good/*.png
        root/category/test/<defect>/<stem>.png
        root/category/ground_truth/<defect>/<stem>_mask.png

    Folders are read as `fit` reads them (:mod:`anomalib_lite.data.files`): images in folders below
    ``good`` and ``<defect>`` count, their masks lie in the same folders below ``ground_truth``.
    Masks may have any suffix of an image file, and leave out ``_mask``; a folder named like the
    image may hold several. The case of folder names does not matter, and ``good`` may be called
    ``ok`` or ``normal``. Without ``ground_truth`` there are labels, but no masks.

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
    return _read(root, category)


def load_mvtec_loco(
    root: PathLike, category: str | None = None, *, validation: bool = False
) -> AnomalyDataset:
    """List the images of one category of MVTec LOCO AD, without opening them.

    The layout is that of MVTec AD, with two kinds of defects, good images for validation, and a
    folder of masks for each defective image::

        root/category/validation/good/*.png
        root/category/test/{good,logical_anomalies,structural_anomalies}/<stem>.png
        root/category/ground_truth/logical_anomalies/<stem>/*.png

    Parameters
    ----------
    root, category
        As for :func:`load_mvtec`.
    validation : bool, default=False
        Whether images for validation are among those to fit on. Detectors set their thresholds by
        held-out images of their own.

    Returns
    -------
    dataset : AnomalyDataset
        A mask is all that any of an image's files marks.

    Raises
    ------
    ValueError
        As by :func:`load_mvtec`.

    Warns
    -----
    UserWarning
        As by :func:`load_mvtec`.

    Notes
    -----
    The data set's own metric, which counts a large logical defect as found when a part of it is, is
    not here: AUPRO asks for all of its pixels.

    References
    ----------
    P. Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly
    Detection and Localization", IJCV 130, 2022, https://doi.org/10.1007/s11263-022-01578-9

    Examples
    --------
    >>> from anomalib_lite.data import load_mvtec_loco
    >>> load_mvtec_loco("mvtec_loco", "juice_bottle").test_defects[0]  # doctest: +SKIP
    np.str_('good')
    """
    return _read(root, category, validation=validation)


def load_mvtec_ad_2(
    root: PathLike, category: str | None = None, *, validation: bool = False
) -> AnomalyDataset:
    """List the images of one category of MVTec AD 2, without opening them.

    Those of its public test set, which has labels::

        root/category/{train,validation}/good/*.png
        root/category/test_public/{good,bad}/<stem>.png
        root/category/test_public/ground_truth/bad/<stem>_mask.png

    Parameters
    ----------
    root, category, validation
        As for :func:`load_mvtec_loco`.

    Returns
    -------
    dataset : AnomalyDataset

    Raises
    ------
    ValueError
        As by :func:`load_mvtec`.

    Warns
    -----
    UserWarning
        As by :func:`load_mvtec`.

    References
    ----------
    L. Heckler-Kram et al., "The MVTec AD 2 Dataset: Advanced Scenarios for Unsupervised Anomaly
    Detection", 2025, https://arxiv.org/abs/2503.21622

    Examples
    --------
    >>> from anomalib_lite.data import load_mvtec_ad_2
    >>> load_mvtec_ad_2("mvtec_ad_2", "can").test_defects[0]  # doctest: +SKIP
    np.str_('bad')
    """
    return _read(root, category, test="test_public", validation=validation)


def load_btad(root: PathLike, category: str | None = None) -> AnomalyDataset:
    """List the images of one product of BTAD, "01", "02" or "03", without opening them.

    The layout is that of MVTec AD, with ``ok`` and ``ko`` for good and defective images.

    Parameters
    ----------
    root, category
        As for :func:`load_mvtec`.

    Returns
    -------
    dataset : AnomalyDataset

    Raises
    ------
    ValueError
        As by :func:`load_mvtec`.

    Warns
    -----
    UserWarning
        As by :func:`load_mvtec`.

    References
    ----------
    P. Mishra et al., "VT-ADL: A Vision Transformer Network for Image Anomaly Detection and
    Localization", ISIE 2021, https://arxiv.org/abs/2104.10036

    Examples
    --------
    >>> from anomalib_lite.data import load_btad
    >>> load_btad("BTech_Dataset_transformed", "01").test_defects[0]  # doctest: +SKIP
    np.str_('ko')
    """
    return _read(root, category)


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


def _read(root, category, *, test="test", validation=False):
    folder = Path(root) if category is None else Path(root) / str(category)
    good, test_folder = _good_images(folder, "train"), part_of(folder, test)
    missing = "train/good" if not good else test if test_folder is None else None
    if validation and not missing:
        more = _good_images(folder, "validation")
        missing = None if more else "validation/good"
        good += more
    if missing:
        inside = _categories_below(root)
        hint = f" Categories below {root}: {', '.join(inside)}." if inside else ""
        raise ValueError(f"expected a folder {folder / missing}, found none.{hint}")
    truth = GroundTruth(part_of(folder, "ground_truth") or part_of(test_folder, "ground_truth"))
    left_out = Counter()
    learned = [images_in(part, left_out) for part in good]
    paths, defects, masks = [], [], []
    for kind in subfolders(test_folder):
        if kind.name.lower() == "ground_truth":
            continue
        holds_good = is_good(kind)
        for path in images_in(kind, left_out):
            paths.append(path)
            defects.append("good" if holds_good else kind.name)
            place = Path(path).relative_to(test_folder)
            masks.append(None if holds_good else truth.mask(path, place))
    refuse_loose_images(test_folder)
    empty = [folder for folder, found in zip(good, learned, strict=True) if not found]
    empty += [] if paths else [test_folder]
    if empty:
        raise ValueError(
            f"expected images ({', '.join(sorted(IMAGE_SUFFIXES))}) in {empty[0]}."
            f"{describe(left_out, ' Not read: ')}"
        )
    warn_of(left_out, folder)
    defects = np.array(defects)
    labels = np.where(defects == "good", 1, -1)
    name = folder.resolve().name
    train = [path for found in learned for path in found]
    return AnomalyDataset(name, train, paths, labels, defects, masks if truth.masks else None)


def _good_images(category, name):
    """Folders of good images in a part of a category."""
    part = part_of(category, name)
    return [] if part is None else [path for path in subfolders(part) if is_good(path)]


def _categories_below(root):
    root = Path(root)
    inside = subfolders(root) if root.is_dir() else []
    return [path.name for path in inside if _good_images(path, "train")]
