"""Detectors fitted on a cluster of dask, or by any executor: the same bits on any of them."""

import re
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from ..annotations import Path
from ..contexts import plain
from ..data.images import SkippedImage
from ..inspection import warn_of_skipped
from ..merging import MergeMixin, PartialCalibration, PartialState
from ..notes import N_EXAMPLES
from ..runtime import aside, make_generator, progress
from ..validation import check_choice, check_count
from .cargo import Cargo, packed, pickled, unpacked
from .chunks import Chunk, Parcel, alone, chunks_of, paths_of
from .engines import Engine, engine_of
from .flow import results
from .trees import MergeTree, leaves_of_a_task, merged

Detector = TypeVar("Detector", bound=MergeMixin)
_FEW_BYTES = 2**29  # rows that are brought to the client: of 1,000 images (PatchCore), 400 (PaDiM)
_JOINED = 64  # calibrations that are in memory at one time
_NUMBERED = re.compile(r"^image (\d+) ")


def fit(
    detector: Detector,
    images: Path | Iterable[Path],
    client: Any,
    *,
    chunk: int = 64,
    on_error: str = "raise",
    verbose: bool = False,
) -> Detector:
    """Fit a detector on image files, by the workers of a client.

    What is learned has the same bits on one worker or a hundred, in whatever order they are done,
    and after workers were lost.

    Parameters
    ----------
    detector : PatchCore, PaDiM, SPADE, DeepOneClass, SubspaceAD or another that learns in parts
        With a :class:`~anomalib_lite.merging.MergeMixin`. What it has learned before is forgotten.
    images : str, Path, or iterable of these
        Of good parts: a folder, a file, a pattern, a list of paths (``.txt``, ``.lst``), or several
        of these. Only paths travel: workers see the files under the same paths.
    client : dask.distributed.Client or concurrent.futures.Executor
    chunk : int, default=64
        Images whose states are merged with others'. What is learned depends on it, but for the
        Gaussians of PaDiM only by rounding.
    on_error : {"raise", "skip"}, default="raise"
        What an image does that cannot be read: raise a ValueError, or be left out and named in a
        warning.
    verbose : bool, default=False
        Show progress, in images per second.

    Returns
    -------
    detector : object
        The same, fitted.

    Raises
    ------
    ValueError
        If the method trains a network, or something given cannot be used, or an image cannot be
        read; it names the image. The detector is then as it was before.
    BrokenExecutor
        If a process of an executor was killed.

    Warns
    -----
    UserWarning
        If images were skipped, are copies of others, or are too few for the ``false_alarm_rate``.

    Notes
    -----
    Every worker learns from chunks of images, and states of chunks are merged in a tree that the
    number of images fixes. PatchCore, PaDiM and SubspaceAD then look at each image once more, to
    calibrate the threshold by what was learned from the others; of a few hundred images, whose
    patches are brought to the client, this is done there.

    Examples
    --------
    >>> from anomalib_lite import PatchCore
    >>> from anomalib_lite.distributed import fit
    >>> from dask.distributed import Client  # doctest: +SKIP
    >>> with Client("tcp://cluster:8786") as client:  # doctest: +SKIP
    ...     detector = fit(PatchCore(coreset=20_000, random_state=0), "good/", client)
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    skipped = fit_paths(
        detector, paths_of(images), client, chunk=chunk, on_error=on_error, verbose=verbose
    )
    warn_of_skipped(skipped)
    return detector


def fit_paths(
    detector: MergeMixin,
    paths: Sequence[str],
    client: Any,
    *,
    chunk: int = 64,
    on_error: str = "raise",
    verbose: bool = False,
) -> list[SkippedImage]:
    """Fit a detector as :func:`fit` does, on files; gives those that were skipped, unwarned.

    Parameters
    ----------
    detector, client, chunk, on_error, verbose
        As for :func:`fit`.
    paths : sequence of str
        Of files.
    """
    _check_learns_in_parts(detector)
    check_count("chunk", chunk)
    if not paths:
        raise ValueError("paths: expected at least one image, got none.")
    engine = engine_of(client)
    with aside(detector) as learner:
        given = learner.random_state
        learner.random_state = _number(given)
        state = _learned(learner, paths, engine, chunk, on_error, verbose)
        learner.finish(state)
        if state.rows is None:
            readable = _readable(paths, state)
            learner.finish_calibration(_calibrated(learner, readable, engine, chunk, verbose))
        learner.random_state = given
    return [_named(image, paths) for image in state.skipped]


def _check_learns_in_parts(detector):
    if isinstance(detector, MergeMixin):
        return
    name = type(detector).__name__
    inner = getattr(detector, "detector", None)
    if isinstance(inner, MergeMixin):
        raise ValueError(
            f"detector: {name} holds images out, which has to be done where all of them are. Fit "
            f"the {type(inner).__name__} alone, and set its threshold with images that it has not "
            "seen."
        )
    raise ValueError(
        "detector: expected one that learns in parts, such as PatchCore, PaDiM, SPADE, "
        f"DeepOneClass and SubspaceAD, got {name}, which trains on all images together. Fit it on "
        "one machine; inspect and score_samples take it from there."
    )


def _number(random_state):
    """The same for all workers."""
    is_number = isinstance(random_state, Integral)
    return random_state if is_number else make_generator(random_state).initial_seed()


# -- first pass: what is learned ------------------------------------------------------------------


def _learned(learner, paths, engine: Engine, chunk, on_error, verbose) -> PartialState:
    """The state of all images."""
    n_chunks, fan_in = -(-len(paths) // chunk), learner._fan_in
    together = leaves_of_a_task(n_chunks, fan_in, engine.n_workers)
    chunks, started = [*chunks_of(paths, chunk * together)], alone(learner)._started()
    shared = engine.share(pickled(started))
    tree = MergeTree(engine, merge, shared, len(chunks), fan_in)
    how = _How(chunk, len(paths), on_error, _keeps_rows(started, len(paths)))
    calls = ((learn, (shared, Parcel.of(each), how)) for each in chunks)
    with progress(total=len(paths), desc="fit", unit="image", verbose=verbose) as bar:
        return unpacked(tree.root(calls, lambda place: bar.update(len(chunks[place].paths))))


@plain
def _keeps_rows(started, n_images):
    """Whether the rows of all images come to the client, who calibrates with them.

    It saves the second pass where they are few, and changes no bit.
    """
    if not started._calibrates_by_images:
        return False
    size = started.input_.seen_size
    rows, _ = started._embed(torch.zeros(1, 3, *size, device=started.device_))
    return n_images * rows.nbytes <= _FEW_BYTES


class _How(NamedTuple):
    """What is the same for all tasks of a fit."""

    chunk: int
    total: int
    on_error: str
    keep_rows: bool


def learn(learner: MergeMixin, parcel: Parcel, how: _How) -> Cargo:
    """The state of some chunks of images, merged; a worker's task."""
    places = parcel.places()

    def leaf(number):
        start = number * how.chunk
        some, first = places[start : start + how.chunk], parcel.first + start
        try:
            return learner._state_of(some, first, how.total, how.on_error, how.keep_rows)
        except ValueError as error:  # of a kind that can be pickled
            raise ValueError(parcel.as_client(str(error), start)) from None

    n_chunks = -(-len(places) // how.chunk)
    return packed(merged(n_chunks, leaf, learner.merge_states, learner._fan_in))


def merge(learner: MergeMixin, *states: Cargo) -> Cargo:
    """One state of several; a worker's task."""
    return packed(learner.merge_states([*map(unpacked, states)]))


def _readable(paths, state):
    """Paths of the images that were learned from, in order."""
    skipped = {image.index for image in state.skipped}
    return [path for i, path in enumerate(paths) if i not in skipped]


def _named(image: SkippedImage, paths):
    """A skipped image as a call by the client would name it."""
    path = paths[image.index]
    _, _, reason = image.reason.partition(f"({image.path}): ")
    return SkippedImage(image.index, path, f"image {image.index} ({path}): {reason}")


# -- second pass: the threshold -------------------------------------------------------------------


def _calibrated(fitted, paths, engine, chunk, verbose) -> list[PartialCalibration]:
    """What is said of images out of sample, or of a few that maps need."""
    groups = [*_groups(fitted, paths, chunk)]
    shared = engine.share(pickled(alone(fitted)))
    calls = ((len(each.paths), (shared, Parcel.of(each))) for each in groups)
    total, found = sum(len(each.paths) for each in groups), []
    with progress(total=total, desc="calibrate", unit="image", verbose=verbose) as bar:
        for n_images, calibration in results(engine, calibrate, calls):
            found.append(calibration)
            bar.update(n_images)
            if len(found) == _JOINED:
                found = [PartialCalibration.joined(found)]
    return found


def _groups(fitted, paths, size):
    """Chunks of images that are best calibrated together."""
    if not fitted._calibrates_by_images:
        _, first = np.unique(fitted._digests_, return_index=True)
        yield Chunk(0, 0, [paths[i] for i in first[:N_EXAMPLES]])
        return
    groups = fitted._calibration_groups()
    order = groups.argsort(kind="stable")
    cuts = np.flatnonzero(np.diff(groups[order])) + 1
    for members in np.split(order, cuts):
        yield from chunks_of([paths[i] for i in members], size)


def calibrate(fitted: MergeMixin, parcel: Parcel) -> PartialCalibration:
    """What is said of some images that were learned from; a worker's task."""
    places = parcel.places()
    try:
        return fitted.partial_calibration(places)
    except ValueError as error:
        found = _NUMBERED.match(str(error))
        if not found:
            raise
        index = int(found[1])  # among these, which nobody knows
        _, _, what = str(error).partition(f"({places[index]}): ")
        raise ValueError(f"{parcel.paths()[index]}: {what}") from None
