"""A data set of one's own folders."""

from pathlib import Path

import numpy as np

from ..annotations import Path as PathLike
from ..validation import check_fraction
from .datasets import AnomalyDataset
from .files import image_files
from .layouts import kind_of, masks_of_images


def load_folder(
    good: PathLike,
    bad: PathLike,
    masks: PathLike | None = None,
    *,
    test_good: PathLike | None = None,
    test_size: float = 0.3,
    name: str | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> AnomalyDataset:
    """List the images of folders of one's own as a data set, without opening them.

    Parameters
    ----------
    good : str or Path
        Folder of good images. Some are drawn at random to be test images, unless `test_good` has
        these.
    bad : str or Path
        Folder of defective images, all test images. Folders inside are kinds of defects.
    masks : str or Path or None, default=None
        Folder of masks, named like the images in `bad` or with ``_mask`` at the end, in the same
        folders; see :func:`read_mask`.
    test_good : str or Path or None, default=None
        Folder of good test images.
    test_size : float, default=0.3
        Share of the images in `good` that become test images, if there is no `test_good`.
    name : str or None, default=None
        Of the data set; None is that of the folder that holds `good`.
    random_state : int, Generator or None, default=0
        Passed to :func:`numpy.random.default_rng`.

    Returns
    -------
    dataset : AnomalyDataset
        Good test images come first, then defective ones by kind.

    Raises
    ------
    ValueError
        If a folder is missing or empty, if there are too few good images to cut, if a file is in
        two of the folders, or if some defective images have masks and others none.

    Warns
    -----
    UserWarning
        If files that look like images, but are of a kind that is not read, are left out.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from anomalib_lite.data import load_folder
    >>> with tempfile.TemporaryDirectory() as home:
    ...     for name in ("ok/1", "ok/2", "ok/3", "rejects/dent/1", "rejects/scratch/1"):
    ...         path = Path(home, f"{name}.png")
    ...         path.parent.mkdir(parents=True, exist_ok=True)
    ...         Image.new("L", (8, 8)).save(path)
    ...     data = load_folder(Path(home, "ok"), Path(home, "rejects"))
    >>> len(data.train), data.test_defects
    (2, array(['good', 'dent', 'scratch'], dtype='<U7'))
    """
    train, found = image_files(good), image_files(bad)
    if test_good is not None:
        test = image_files(test_good)
    else:
        train, test = _cut(train, test_size, random_state)
    _check_apart({"good images": train, "good test images": test, "defective images": found})
    of_bad = None
    if masks is not None:
        of_bad = masks_of_images(found, [bad], masks)
        if None in of_bad:
            without = found[of_bad.index(None)]
            raise ValueError(
                f"{without}: expected masks of all defective images, found none of this one below "
                f"{masks}."
            )
    kinds = [kind_of(path, Path(bad)) for path in found]
    kinds = ["defective" if kind == "." else kind for kind in kinds]
    order = sorted(range(len(found)), key=lambda i: (kinds[i], found[i]))
    defects = np.array(["good"] * len(test) + [kinds[i] for i in order])
    return AnomalyDataset(
        name or Path(good).resolve().parent.name,
        train,
        test + [found[i] for i in order],
        np.repeat([1, -1], [len(test), len(found)]),
        defects,
        None if of_bad is None else [None] * len(test) + [of_bad[i] for i in order],
    )


def _check_apart(images):
    """Raise ValueError if a file is among two kinds of images."""
    kind_of_file = {}
    for kind, paths in images.items():
        for path in paths:
            other = kind_of_file.setdefault(Path(path).resolve(), kind)
            if other != kind:
                raise ValueError(
                    f"{path}: expected it among {other} or {kind}, found it among both. Is one of "
                    "the folders inside another, or a link?"
                )


def _cut(paths, test_size, random_state):
    """Paths to fit on, and to test."""
    check_fraction("test_size", test_size)
    n_test = max(1, round(test_size * len(paths)))
    if test_size == 0 or n_test >= len(paths):
        raise ValueError(
            f"test_size: expected a share above 0 that leaves one of {len(paths)} good images to "
            f"fit on, got {test_size}."
        )
    order = np.random.default_rng(random_state).permutation(len(paths))
    return [[paths[i] for i in sorted(part)] for part in (order[n_test:], order[:n_test])]
