"""Defects planted in held-out good images: what a detector would see, by kind and size."""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle, islice, product
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, clone

from ..annotations import Images
from ..data.images import ImageStream
from ..data.planting import (
    GLOBAL,
    LOCAL,
    SMALLEST,
    check_kind,
    check_size,
    check_strength,
    visibly_planted,
)
from ..notices import warn_user
from ..validation import check_count

_SIDES = "left", "right"  # of ties
_N_OTHERS = 10  # images that a defect is tried in when it is invisible in its own
_TRIES_THERE = 10  # draws in each of them: together as many as in its own


class PlantedDefect(NamedTuple):
    """A defect planted in a good image.

    Attributes
    ----------
    image : int
        Index of the good image.
    kind : str
        A key of ``data.LOCAL`` or ``data.GLOBAL``.
    size : float or None
        Side of the window that it was planted in, as a fraction of the image's smaller side; None
        of a change of the whole image.
    strength : float
    """

    image: int
    kind: str
    size: float | None
    strength: float

    @property
    def is_global(self) -> bool:
        """Whether the whole image was changed."""
        return self.size is None


def planted_validation(
    X_good: Images,
    *,
    n_splits: int = 3,
    kinds: Sequence[str] | None = None,
    sizes: Sequence[float] = (1.0, 0.5, 0.25, 0.125),
    strengths: Sequence[float] = (1.0, 0.5),
    n_planted: int = 160,
    random_state: int | np.random.Generator | None = None,
) -> "PlantedValidation":
    """Plant defects in good images, and split these into those to fit on and those to score.

    The result shows what kinds and sizes of defects a detector would find, and plugs into
    scikit-learn's searches. It does not know what your defects look like: how well a detector finds
    planted ones need not tell how well it finds yours. See the guide on choosing settings for how
    far one follows the other.

    Parameters
    ----------
    X_good : array, tensor, list, folder, Dataset, DataLoader or iterable
        Images of good parts; see :mod:`anomalib_lite.data.images`.
    n_splits : int, default=3
        Each good image is held out once.
    kinds : sequence of str or None, default=None
        Keys of ``data.LOCAL`` and ``data.GLOBAL``; None is all.
    sizes : sequence of float, default=(1.0, 0.5, 0.25, 0.125)
        Sides of the windows that defects of a place are planted in, as fractions of the image's
        smaller side, of at least 16 pixels; a spot covers a ninth to a quarter of its window's
        side.
    strengths : sequence of float, default=(1.0, 0.5)
        Factors on the opacity of defects, and on the amount of what changes the whole image.
    n_planted : int, default=160
        Number of defects, each in a copy of a good image. Half of them are of a place, half of the
        whole image, if there are kinds of both; in each half all combinations of kind, size and
        strength come about equally often, but for what is invisible, see Notes. With the default
        all come at least once.
    random_state : int, Generator or None, default=None
        Passed to :func:`numpy.random.default_rng`.

    Returns
    -------
    trial : PlantedValidation

    Raises
    ------
    ValueError
        If an argument is out of range, if an image is invalid or smaller than 16 pixels, if there
        are fewer images than splits, or if all defects are invisible wherever they are planted.

    Warns
    -----
    UserWarning
        If a combination of kind, size and strength is invisible wherever it is planted.

    Notes
    -----
    A defect may be invisible: a faded spot where there is no contrast, anything on a black picture.
    It is then planted in another image, of the same split if there is one, and in up to ten of
    them. A combination that is invisible in each is left out, with a warning that lists all of
    these; in its place come others, of a place or of the whole image as it is, so that both stay
    equally many. If none of these can be seen, they are missing. Nor has a split defects in whose
    images nothing can be seen.

    The planted images and their masks are kept as arrays, the default of 160 in 16 MB for gray
    images of 224 px and in 640 MB for color images of 1000 px. Good images from files stay files.
    Photographs of many megapixels had better be resized before.

    ``zoom``, ``stretch``, ``turn`` and ``warp`` mirror what lies beyond the border. Where images
    have a frame, its mirrored lines make these four easy to find.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import GridSearchCV
    >>> from anomalib_lite import PaDiM, planted_validation
    >>> good = np.random.default_rng(0).integers(90, 130, (9, 64, 64), dtype=np.uint8)
    >>> trial = planted_validation(good, n_planted=12, random_state=0)
    >>> len(trial.X), trial.y.tolist().count(-1), trial.defects[0]
    (21, 12, PlantedDefect(image=5, kind='scratch', size=0.25, strength=0.5))

    A search scores each setting on held-out good images and the defects planted in these. It must
    not refit, since it would learn from the defects, too:

    >>> settings = {"image_size": [32, 64]}
    >>> search = GridSearchCV(
    ...     PaDiM(random_state=0), settings, cv=trial.splits, scoring="roc_auc", refit=False
    ... ).fit(trial.X, trial.y)
    >>> detector = PaDiM(random_state=0, **search.best_params_).fit(good)
    """
    check_count("n_splits", n_splits, minimum=2)
    check_count("n_planted", n_planted)
    kinds = _checked("kinds", [*LOCAL, *GLOBAL] if kinds is None else kinds, check_kind)
    sizes = _checked("sizes", sizes, check_size)
    strengths = _checked("strengths", strengths, check_strength)
    rng = np.random.default_rng(random_state)
    good, sides = _read(X_good)
    n_good = len(good)
    if n_good < n_splits:
        raise ValueError(f"X_good: expected at least {n_splits} images, n_splits, got {n_good}.")
    order = rng.permutation(n_good)
    defects = _drawn(kinds, sizes, strengths, n_planted, order, rng)
    seeds = rng.integers(2**63, size=n_planted)
    fold_of = np.empty(n_good, dtype=int)
    fold_of[order] = np.arange(n_good) % n_splits
    defects, damaged, masks = _planted(_Planter(good, fold_of), defects, seeds)
    return PlantedValidation(
        X=[*good, *damaged],
        y=np.repeat([1, -1], [n_good, len(defects)]),
        splits=_splits(np.r_[fold_of, fold_of[[d.image for d in defects]]], n_good, n_splits),
        defects=defects,
        masks=[*(np.broadcast_to(False, side) for side in sides), *masks],
    )


def _checked(name, values, check):
    """A list of some values, each of which passes a check."""
    chosen = [*values] if isinstance(values, Iterable) and not isinstance(values, str) else []
    if not chosen:
        raise ValueError(f"{name}: expected a sequence of at least one, got {values!r}.")
    for value in chosen:
        check(value)
    return chosen


def _read(X_good):
    """The good images, paths or arrays, and their sizes (H, W)."""
    seen = ImageStream(X_good, min_side=SMALLEST).work(
        None, lambda image: (image.path or _pixels(image), image.size)
    )
    return zip(*chain.from_iterable(seen), strict=True)


def _pixels(image):
    """Pixels (H, W) or (H, W, 3) of an image as they were decoded."""
    array = image.raster.array()
    return array[..., 0] if array.shape[2] == 1 else array


def _drawn(kinds, sizes, strengths, n_planted, order, rng):
    """What to plant, and in which of the good images, taken in an order again and again."""
    groups = [
        [*product(filter(LOCAL.__contains__, kinds), sizes, strengths)],
        [*product(filter(GLOBAL.__contains__, kinds), [None], strengths)],
    ]
    groups = [group for group in groups if group][:n_planted]
    images, drawn = cycle(order.tolist()), []
    for part, group in zip(np.array_split(range(n_planted), len(groups)), groups, strict=True):
        n_rounds = -(-len(part) // len(group))
        chosen = np.concatenate([rng.permutation(len(group)) for _ in range(n_rounds)])
        hosts = rng.permutation([*islice(images, len(part))]).tolist()
        which = np.sort(chosen[: len(part)])
        drawn += [PlantedDefect(image, *group[i]) for image, i in zip(hosts, which, strict=True)]
    return drawn


def _planted(planter, defects, seeds):
    """The defects that could be planted, the images and the masks.

    One that is invisible gives way to another of a place, or of the whole image, as it was: to what
    has been planted least often.
    """
    found = [planter.plant(*each) for each in zip(defects, seeds, strict=True)]
    n_planted = Counter(_what(each[0]) for each in found if each is not None)
    for i, each in enumerate(found):
        if each is None:
            found[i] = _planted_instead(planter, defects[i], seeds[i], n_planted)
    left_out = dict.fromkeys(what for what in map(_what, defects) if what not in n_planted)
    found = [each for each in found if each is not None]
    if not found:
        raise ValueError(
            "X_good: expected images in which a planted defect can be seen, got none: "
            f"{_told(_what(defects[0]))} is invisible in {planter.label(defects[0].image)}, and so "
            "is all else. Are these pictures of parts? Plant other kinds, larger or stronger."
        )
    if left_out:
        warn_user(
            "X_good: some defects are left out, as they are invisible in each image that they were "
            f"tried in, up to {1 + _N_OTHERS}: {'; '.join(map(_told, left_out))}. Restrict kinds, "
            "sizes and strengths to others, or plant stronger ones."
        )
    return map(list, zip(*found, strict=True))


def _what(defect):
    """(kind, size, strength)"""
    return defect[1:]


def _told(what):
    kind, size, strength = what
    return f"{kind!r} of {'' if size is None else f'size {size:g} and '}strength {strength:g}"


def _planted_instead(planter, defect, seed, n_planted):
    """Another defect for one that is invisible, as `_Planter.plant` returns it, and counted."""
    alike = [what for what in n_planted if (what[1] is None) == defect.is_global]
    for what in sorted(alike, key=n_planted.get):
        found = planter.plant(PlantedDefect(defect.image, *what), seed)
        if found is not None:
            n_planted[what] += 1
            return found
    return None


class _Planter:
    """Plants defects in good images, paths or arrays, which are in folds."""

    def __init__(self, good, fold_of):
        self.good, self._fold_of, self._invisible = good, fold_of, set()

    def plant(self, defect, seed):
        """(defect, image, mask), in another image where it is invisible; None if it is so there."""
        if _what(defect) in self._invisible:
            return None
        kind, size, strength = _what(defect)
        how, rng = {"size": size or 1.0, "strength": strength}, np.random.default_rng(seed)
        for image in self._hosts(defect.image, seed):
            found = visibly_planted(self._read(image), kind, rng, **how)
            how["tries"] = _TRIES_THERE
            if found is not None:
                return defect._replace(image=image), *found
        self._invisible.add(_what(defect))
        return None

    def label(self, index):
        """The name of an image in messages."""
        source = self.good[index]
        return f"image {index} ({source})" if isinstance(source, str) else f"image {index}"

    def _read(self, index):
        source = self.good[index]
        if not isinstance(source, str):
            return source
        try:
            (pixels,) = chain.from_iterable(ImageStream([source]).work(None, _pixels))
        except ValueError as error:  # the file was read before: it has changed, or is gone
            raise ValueError(f"{self.label(index)}: {error.__cause__}") from error
        return pixels

    def _hosts(self, image, seed):
        """An image, then some others in random order: first those that are held out with it."""
        yield image
        others = np.random.default_rng(seed).permutation(len(self.good))
        others = others[others != image]
        elsewhere = self._fold_of[others] != self._fold_of[image]
        yield from others[np.argsort(elsewhere, kind="stable")][:_N_OTHERS].tolist()


def _splits(fold_of, n_good, n_splits):
    """Indices to fit on and to score, of images in folds of which the good ones come first."""
    is_good, folds = np.arange(len(fold_of)) < n_good, range(n_splits)
    return [(np.flatnonzero(is_good & (fold_of != f)), np.flatnonzero(fold_of == f)) for f in folds]


@dataclass(frozen=True, eq=False)
class PlantedValidation:
    """Good images and defects planted in these, split for a validation: see `planted_validation`.

    Attributes
    ----------
    X : list of n_good + n_planted images
        The good images, paths where they came from files, then those with a planted defect, arrays
        of shape (H, W) or (H, W, 3) and of the dtype of the image.
    y : ndarray of shape (n_good + n_planted,)
        +1 good, -1 planted. In each split, as many planted defects are of a place as of the whole
        image, up to one or two, so that both weigh the same in an AUROC; but for what is invisible.
    splits : list of (ndarray, ndarray)
        Indices of the images to fit on, all of them good, and of those to score: the other good
        ones and the defects planted in these.
    defects : list of n_planted PlantedDefect
    masks : list of n_good + n_planted ndarrays of shape (H, W), bool
        The pixels that a defect changed; all of them where the whole image was changed.
    """

    X: list[Any] = field(repr=False)
    y: np.ndarray = field(repr=False)
    splits: list[tuple[np.ndarray, np.ndarray]] = field(repr=False)
    defects: list[PlantedDefect] = field(repr=False)
    masks: list[np.ndarray] = field(repr=False)

    def table(self, detector: BaseEstimator) -> "PlantedTable":
        """How well a detector finds the planted defects.

        Parameters
        ----------
        detector : estimator
            With a ``decision_function``. A clone of it is fitted on each split.

        Returns
        -------
        table : PlantedTable

        Examples
        --------
        >>> from anomalib_lite import PaDiM, planted_validation
        >>> weave = np.add.outer(np.arange(64) % 8, np.arange(64) % 16) * 10
        >>> noise = np.random.default_rng(0).integers(0, 9, (12, 64, 64))
        >>> good = (weave + noise).astype(np.uint8)
        >>> options = {"kinds": ["crack", "turn"], "sizes": [1, 0.5], "strengths": [1]}
        >>> trial = planted_validation(good, n_planted=24, random_state=0, **options)
        >>> print(trial.table(PaDiM(image_size=64, random_state=0)))
                     size 1  size 0.5  strength 1   all
        crack          1.00      1.00        1.00  1.00
        all local      1.00      1.00        1.00  1.00
        turn                                 1.00  1.00
        all global                           1.00  1.00
        """
        n_good = len(self.X) - len(self.defects)
        found = np.full(len(self.defects), np.nan)
        for train, test in self.splits:
            fitted = clone(detector).fit([self.X[i] for i in train])
            normality = fitted.decision_function([self.X[i] for i in test])
            is_planted = test >= n_good
            good, bad = np.sort(normality[~is_planted]), normality[is_planted]
            n_below = np.mean([np.searchsorted(good, bad, side) for side in _SIDES], axis=0)
            found[test[is_planted] - n_good] = 1 - n_below / len(good)
        return PlantedTable(self.defects, found)


@dataclass(frozen=True, eq=False)
class PlantedTable:
    """How well a detector finds planted defects. As text, a table by kind, size and strength.

    Attributes
    ----------
    defects : list of n_planted PlantedDefect
    found : ndarray of shape (n_planted,)
        Share of the good images held out with a defect's that are less anomalous than it. A tie
        counts one half. The mean over some defects is their AUROC, that of the splits averaged.

    Examples
    --------
    >>> defects = [PlantedDefect(0, "stain", 1.0, 1.0), PlantedDefect(1, "stain", 0.5, 1.0)]
    >>> table = PlantedTable([*defects, PlantedDefect(0, "blur", None, 1.0)], [1.0, 0.75, 0.5])
    >>> table.by("size"), table.auroc
    ({1.0: 1.0, 0.5: 0.75, None: 0.5}, 0.6875)
    >>> print(table)
                 size 1  size 0.5  strength 1   all
    stain          1.00      0.75        0.88  0.88
    all local      1.00      0.75        0.88  0.88
    blur                                 0.50  0.50
    all global                           0.50  0.50
    """

    defects: list[PlantedDefect] = field(repr=False)
    found: np.ndarray = field(repr=False)

    def __post_init__(self):
        object.__setattr__(self, "found", np.asarray(self.found, dtype=float))

    @property
    def auroc(self) -> float:
        """Mean of the AUROC of defects of a place and of changes of the whole image."""
        return float(np.mean([*self.by("is_global").values()]))

    def by(self, *names: str) -> dict[Hashable, float]:
        """AUROC by one or more attributes of the defects.

        Parameters
        ----------
        *names : {"kind", "size", "strength", "is_global", "image"}

        Returns
        -------
        aurocs : dict
            By the value of an attribute, or by tuples of several.
        """
        return {key: float(np.mean(values)) for key, values in self._grouped(names).items()}

    def records(self) -> list[dict[str, Any]]:
        """AUROC of each combination of kind, size and strength: rows of a ``pandas.DataFrame``.

        Returns
        -------
        records : list of dict
            ``kind``, ``is_global``, ``size``, ``strength``, ``n_planted`` and ``auroc``.
        """
        names = "kind", "is_global", "size", "strength"
        return [
            {
                **dict(zip(names, key, strict=True)),
                "n_planted": len(of),
                "auroc": float(np.mean(of)),
            }
            for key, of in self._grouped(names).items()
        ]

    def _grouped(self, names):
        """Values of ``found`` by those of some attributes."""
        groups = {}
        for defect, value in zip(self.defects, self.found, strict=True):
            key = tuple(getattr(defect, name) for name in names)
            groups.setdefault(key if len(key) > 1 else key[0], []).append(value)
        return groups

    def __str__(self) -> str:
        kind, size, strength, is_global = (
            np.array([getattr(defect, name) for defect in self.defects])
            for name in ("kind", "size", "strength", "is_global")
        )
        columns = {f"size {s:g}": size == s for s in sorted({*size} - {None}, reverse=True)}
        columns |= {f"strength {s:g}": strength == s for s in sorted({*strength}, reverse=True)}
        columns["all"] = np.ones(len(self.defects), dtype=bool)
        rows = {}
        for name, chosen in ("all local", ~is_global), ("all global", is_global):
            rows |= {one: kind == one for one in dict.fromkeys(kind[chosen].tolist())}
            rows |= {name: chosen} if chosen.any() else {}
        lines = [" " * 11 + "".join(f"  {name:>4}" for name in columns)]
        for name, row in rows.items():
            cells = (
                f"  {self._cell(row & column):>{max(4, len(head))}}"
                for head, column in columns.items()
            )
            lines.append(f"{name:11}{''.join(cells)}".rstrip())
        return "\n".join(lines)

    def _cell(self, chosen):
        return f"{np.mean(self.found[chosen]):.2f}" if chosen.any() else ""
