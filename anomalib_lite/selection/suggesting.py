"""A detector for images of good parts alone: what held where defects are known, at a cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from sklearn.base import clone

from ..annotations import Device, Images, RandomState
from ..base import BaseDetector
from ..data.choosing import choosable, n_samples, numbered_as_given, take
from ..data.images import ImageStream
from ..ensemble.detector import DetectorEnsemble
from ..methods.deep_one_class import DeepOneClass
from ..methods.patchcore import PatchCore
from ..runtime import inner_fit
from ..texts import plural
from ..validation import check_number

_LOOKED_AT = 24  # images that are read and that detectors are tried on
_TRIED = (4, 12, _LOOKED_AT)  # images of the fits that are timed
_FEW = 16  # images below which scores of several detectors have no common scale
_FINEST, _COARSEST = 448, 128  # image sizes
_STRIDE = 8  # of a patch in the network's input, in pixels
_LARGE, _SMALL, _LEAST = 10_000, 2_000, 1_000  # rows of a bank


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A detector and why it is suggested; ``print`` shows both.

    Attributes
    ----------
    detector : BaseDetector
        Not fitted.
    fit_seconds : float or None
        What its fit on all of the images is expected to take on this machine, by fits on a few;
        None where no budget asked for it.
    reasons : tuple of str
    """

    detector: BaseDetector
    fit_seconds: float | None
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([repr(self.detector), *(f"- {reason}" for reason in self.reasons)])


def suggest_settings(
    X_good: Images,
    *,
    budget_s: float | None = None,
    false_alarm_rate: float = 0.01,
    n_jobs: int | None = None,
    device: Device = "auto",
    random_state: RandomState = None,
    verbose: bool = False,
) -> Suggestion:
    """A detector for defects of any kind, from images of good parts alone.

    No setting is chosen by how well it finds planted defects: that ranks settings wrongly on too
    many data sets (see :func:`~anomalib_lite.planted_validation`). Instead several views of an
    image, coarse, fine and as a whole, decide together:
    :meth:`DetectorEnsemble.all_kinds <anomalib_lite.DetectorEnsemble.all_kinds>`. Their image size
    follows that of the images, and where the budget asks for it they become cheaper.

    Parameters
    ----------
    X_good : array, tensor, list, folder or Dataset
        Images of good parts, which can be indexed; 24 of them, evenly spread, are read.
    budget_s : float or None, default=None
        Seconds that a fit on all of ``X_good`` may take on this machine. None: no limit. It does
        not count the fits on a few images that tell; see Notes.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random, given to the detector.
    verbose : bool, default=False
        Whether the detector shows progress bars.

    Returns
    -------
    suggestion : Suggestion
        ``suggestion.detector.fit(X_good)`` is what follows.

    Raises
    ------
    ValueError
        If one of the images that are read cannot be read or checked; it names the image.

    Notes
    -----
    With a budget, detectors are fitted on 4, 12 and 24 of the images, or on all if there are no
    more, one detector after another, as long as that takes no longer than the budget; time grows
    with the number of images and its square. The first detector that the budget has room for is
    taken, of

    1. ``DetectorEnsemble.all_kinds``, with banks of 10,000 and 2,000 rows;
    2. the same with banks of 2,000 and 1,000;
    3. PatchCore with 2,000 rows and DeepOneClass at half of the image size.

    The last is suggested in any case; the reasons say if it takes longer.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import suggest_settings
    >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
    >>> suggestion = suggest_settings(images, random_state=0)
    >>> [name for name, _ in suggestion.detector.detectors]
    ['coarse', 'fine', 'whole']
    """
    if budget_s is not None:
        check_number("budget_s", budget_s, minimum=0)
    X_good = choosable(X_good)
    ImageStream(X_good)  # refuses what holds no images
    n_images = n_samples(X_good)
    looked_at = np.unique(np.linspace(0, n_images - 1, _LOOKED_AT).round().astype(int))
    with numbered_as_given(looked_at):
        sizes = [image.size for image in ImageStream(take(X_good, looked_at))]
    height, width = np.median(sizes, axis=0)
    shared = {
        "false_alarm_rate": false_alarm_rate,
        "n_jobs": n_jobs,
        "device": device,
        "random_state": random_state,
        "verbose": verbose,
    }
    candidates = _candidates(n_images, min(height, width), shared)
    if budget_s is None:
        (detector, why), seconds = candidates[0], None
    else:
        few = take(X_good, looked_at)
        detector, why, seconds = _first_within(budget_s, candidates, few, n_images)
    reasons = [f"{plural(n_images, 'image')} of good parts, {width:.0f} x {height:.0f} px.", *why]
    if seconds is not None:
        reasons.append(f"A fit takes about {_rounded(seconds)} here.")
        if seconds > budget_s:
            reasons.append(f"That is more than the budget of {budget_s:g} s, but the cheapest.")
    return Suggestion(detector, seconds, tuple(reasons))


def _first_within(budget_s, candidates, few, n_images):
    """(detector, why, expected seconds) of the first that a budget has room for, or the last."""
    for candidate in candidates:
        limit = np.inf if candidate is candidates[-1] else budget_s
        seconds = expected_seconds(candidate[0], few, n_images, limit=limit)
        if seconds <= budget_s:
            break
    return *candidate, seconds


def _candidates(n_images, side, shared):
    """(detector, why), best first."""
    finest = _finest_size(side)
    if n_images < _FEW:
        why = (
            f"PatchCore alone: fewer than {_FEW} images give scores of several detectors no common "
            "scale.",
            "A threshold by so few images is a guess; set it by more: set_threshold(images=...).",
        )
        return [(PatchCore(image_size=finest // 2, coreset=_LARGE, **shared), why)]
    coarse = finest // 2
    views = "Several views decide together, since no planted defect tells which would do."
    smallest = (
        f"At image_size={finest}, a patch is {_STRIDE * side / finest:.1f} px of your images; for "
        "defects smaller than that set a larger one."
    )
    fewer = f"Banks of {_SMALL:,} and {_LEAST:,} rows, for the budget."
    cheap = f"Only image_size={coarse}, for the budget: small defects may be missed."
    members = [
        ("local", PatchCore(image_size=coarse, coreset=_SMALL)),
        ("whole", DeepOneClass(image_size=coarse, pooling="mean_std")),
    ]
    all_kinds = DetectorEnsemble.all_kinds(finest, **shared)
    smaller = clone(all_kinds).set_params(coarse__coreset=_SMALL, fine__coreset=_LEAST)
    return [
        (all_kinds, (views, smallest)),
        (smaller, (views, smallest, fewer)),
        (DetectorEnsemble(members, combine="sum", **shared), (cheap,)),
    ]


def _finest_size(side):
    """Twice the size of small images, as far as it makes sense, in steps of 32 pixels."""
    return int(np.clip(32 * -(-2 * side // 32), _COARSEST, _FINEST))


def expected_seconds(
    detector: BaseDetector,
    images: Images,
    n_images: int,
    *,
    limit: float = np.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """What a fit on so many images is expected to take, by fits on a few.

    If one of these takes longer than a limit, the time that it took: none for more is made then.

    Time is that of a start, a part that grows with the number of images, and one that grows with
    its square, as the search for a coreset does; rows of a coreset are counted in proportion.
    """
    counts = _TRIED if n_images > _LOOKED_AT else (n_images,)
    seconds = []
    for count in counts:
        trial = _in_proportion(detector, count / n_images).set_params(verbose=False)
        tried = take(images, np.linspace(0, n_samples(images) - 1, count).round().astype(int))
        start = clock()
        try:
            with inner_fit():
                trial.fit(tried)
        except ValueError as error:
            raise ValueError(f"budget_s: a fit on {count} images, to time it: {error}") from error
        seconds.append(clock() - start)
        if seconds[-1] > limit or count == n_images:
            return seconds[-1]
    powers = np.vander(np.array(counts) / n_images, 3, increasing=True)
    terms, _ = nnls(powers, np.array(seconds))
    return float(terms.sum())


def _in_proportion(detector, share):
    """A detector whose coresets, where they are counts, are a share of what they were."""
    trial = clone(detector)
    counts = {
        name: max(1, round(share * value))
        for name, value in trial.get_params().items()
        if name.rpartition("__")[2] == "coreset" and isinstance(value, int)
    }
    return trial.set_params(**counts)


def _rounded(seconds):
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
