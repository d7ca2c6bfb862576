"""Data sets that come as packages: solar cells, woven textile."""

import numpy as np

from .datasets import AnomalyDataset
from .files import image_files


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
