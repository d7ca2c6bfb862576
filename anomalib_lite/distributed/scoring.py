"""Images scored on a cluster of dask, or by any executor: the same bits as by one call here."""

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from ..annotations import Path
from ..data.images import NoneReadable, SkippedImage
from ..data.scales import Scaling
from ..deploy.reader import OnnxDetector
from ..inspection import Inspection, columns_of, warn_of_skipped
from ..io.persistence import SaveMixin, digest_of
from ..records import COLUMNS, UNREADABLE, Record
from ..runtime import progress
from ..validation import check_choice, check_count
from .cargo import pickled
from .chunks import (
    Chunk,
    Parcel,
    Seen,
    Wanted,
    alone,
    chunks_of,
    look_at,
    paths_of,
)
from .engines import engine_of
from .flow import results
from .folders import RunFolder, digest_of_paths

_LABELS = {"normal": 1, "anomalous": -1, UNREADABLE: 0}


def inspect(
    detector: Any,
    images: Path | Iterable[Path],
    client: Any,
    *,
    out: Path | None = None,
    chunk: int = 64,
    regions: bool = True,
    verbose: bool = False,
) -> Inspection:
    """Scores, labels and records of image files, by the workers of a client.

    What is said of an image has the same bits on one worker or a hundred, in whatever order they
    are done, as the detector's own ``inspect(paths, maps="network", on_error="skip")`` gives.

    Parameters
    ----------
    detector : estimator
        Fitted on images, of this package or with ``iter_inspect``; or an exported one, whose file
        workers see under the same path. It travels to each worker once.
    images : str, Path, or iterable of these
        A folder, a file, a pattern, a list of paths (``.txt``, ``.lst``), or several of these.
        Only paths travel: workers see the files under the same paths.
    client : dask.distributed.Client or concurrent.futures.Executor
    out : str, Path or None, default=None
        A folder for ``records.csv``, the table of records, with the worst region of each image. It
        is there when all images are; until then there is a file for each chunk that is done. After
        a run that was cut off, the same call goes on and scores none of these again. The client
        alone writes there.
    chunk : int, default=64
        Images of a task. Results do not depend on it.
    regions : bool, default=True
        Whether maps are made on the workers for the regions of the records. Without them most
        methods are faster.
    verbose : bool, default=False
        Show progress, in images per second.

    Returns
    -------
    inspection : Inspection
        Without maps and ``member_scores``, which stay on the workers; the regions are in the table.
        Images that cannot be read are listed in ``skipped``.

    Raises
    ------
    ValueError
        If something given cannot be used, none of the images can be read, or all look scaled in
        another way than those of fit; or if ``out`` is the folder of another run.
    BrokenExecutor
        If a process of an executor was killed.

    Warns
    -----
    UserWarning
        If images were skipped.

    Notes
    -----
    Dask's nannies start workers whose C library returns memory to Linux after every operation, for
    which PyTorch pays with half of its time. Start them with the settings
    ``distributed.nanny.pre-spawn-environ`` of dask ``MALLOC_TRIM_THRESHOLD_: 134217728`` and
    ``MALLOC_MMAP_THRESHOLD_: 33554432``.

    Examples
    --------
    >>> from anomalib_lite.distributed import inspect
    >>> from concurrent.futures import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(4) as pool:  # doctest: +SKIP
    ...     seen = inspect(detector, "new/", pool, out="seen/")
    >>> from distributed import Client
    >>> client = Client("tcp://cluster:8786")  # doctest: +SKIP
    >>> seen = inspect(detector, "new/", client, out="seen/")  # doctest: +SKIP
    """
    paths, wanted = paths_of(images), _wanted(detector, regions, "skip")
    records = _records(detector, paths, client, wanted, out, chunk, verbose)
    undecided = 0 if math.isnan(getattr(detector, "offset_", math.nan)) else 1
    seen = _collected(records, paths, undecided)
    warn_of_skipped(seen.skipped)
    if columns_of(detector) == COLUMNS:
        seen = seen._replace(flagged_by=None)
    return seen._replace(score_levels=wanted.score_levels, map_levels=wanted.map_levels)


def score_samples(
    detector: Any,
    images: Path | Iterable[Path],
    client: Any,
    *,
    chunk: int = 64,
    on_error: str = "raise",
    verbose: bool = False,
) -> np.ndarray:
    """Normality of each image file, by the workers of a client: lower = more anomalous.

    The bits are those of the detector's own ``score_samples``.

    Parameters
    ----------
    detector, images, client, chunk, verbose
        As for :func:`inspect`.
    on_error : {"raise", "skip"}, default="raise"
        What an image does that cannot be read: raise a ValueError, or get NaN and be named in a
        warning.

    Returns
    -------
    scores : ndarray of shape (n_images,)
        In the method's unit; of a file that was named twice, twice.

    Raises
    ------
    ValueError
        As of :func:`inspect`, or if an image cannot be read; it names the image.

    Examples
    --------
    >>> from anomalib_lite.distributed import score_samples
    >>> from concurrent.futures import ProcessPoolExecutor
    >>> with ProcessPoolExecutor(4) as pool:  # doctest: +SKIP
    ...     scores = score_samples(detector, ["new/a.png", "new/b.png"], pool)
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    paths, wanted = paths_of(images), _wanted(detector, False, on_error)
    records = _records(detector, paths, client, wanted, None, chunk, verbose)
    seen = _collected(records, paths, 0)
    warn_of_skipped(seen.skipped)
    return seen.scores


def iter_records(
    detector: Any,
    paths: Sequence[str],
    client: Any,
    *,
    out: Path | None = None,
    chunk: int = 64,
    regions: bool = True,
    verbose: bool = False,
) -> Iterator[Record]:
    """A record of each image file, in order, as chunks of them are done.

    Parameters
    ----------
    detector, client, out, chunk, regions, verbose
        As for :func:`inspect`.
    paths : sequence of str
        Of files. What cannot be read is unreadable.

    Yields
    ------
    record : Record

    Raises
    ------
    ValueError
        As of :func:`inspect`.
    """
    if isinstance(paths, str) or not len(paths):
        raise ValueError(f"paths: expected a list of files, got {paths!r}.")
    wanted = _wanted(detector, regions, "skip")
    return _records(detector, paths, client, wanted, out, chunk, verbose)


def _wanted(detector, regions, on_error):
    if not hasattr(detector, "iter_inspect"):
        raise ValueError(
            "detector: expected a fitted detector of images, with iter_inspect, got "
            f"{type(detector).__name__}."
        )
    return Wanted(detector.score_levels(), detector.map_levels() if regions else None, on_error)


def _records(detector, paths, client, wanted, out, chunk, verbose):
    """See :func:`iter_records`; checks come before the first step."""
    check_count("chunk", chunk)
    engine, columns = engine_of(client), columns_of(detector)

    def each():
        with nullcontext() if out is None else RunFolder(out, run(), columns) as folder:
            if folder is not None and folder.is_complete:
                yield from folder.records(paths)
                return
            yield from _Call(detector, paths, engine, wanted, folder, chunk).records(verbose)

    def run():
        told = {} if columns == COLUMNS else {"columns": [*columns]}
        return {
            "detector": _digest_of(detector),
            "images": digest_of_paths(paths),
            "chunk": chunk,
            "regions": wanted.map_levels is not None,
            **told,
        }

    return each()


def _digest_of(detector):
    """Of what decides what a detector says, the same in every process."""
    if isinstance(detector, OnnxDetector):
        return detector.digest
    if not isinstance(detector, SaveMixin):
        raise ValueError(
            "out: a run that was cut off goes on with the same detector alone, and of a "
            f"{type(detector).__name__}, which has no save, nobody can tell. Call without out."
        )
    return digest_of(alone(detector))


class _Call:
    """Records of all images of a call, chunk by chunk."""

    def __init__(self, detector, paths, engine, wanted, folder, size):
        self._detector, self._engine, self._wanted = detector, engine, wanted
        self._paths, self._folder, self._size = paths, folder, size
        self._waiting: dict[int, Seen] = {}  # by chunk, until it is their turn

    def records(self, verbose: bool) -> Iterator[Record]:
        """In order, as they come."""
        done = set()
        if self._folder is not None:
            self._folder.forget_changed(self._chunks())
            done |= self._folder.done
        todo = [chunk for chunk in self._chunks() if chunk.number not in done]
        n_done = len(self._paths) - sum(len(chunk.paths) for chunk in todo)
        with progress(
            total=len(self._paths), desc="inspect", unit="image", initial=n_done, verbose=verbose
        ) as bar:
            arriving = self._arriving(todo, bar)
            try:
                if not done:  # what is written was let through
                    self._wait_for_scale(arriving)
                for chunk in self._chunks():
                    yield from self._turn(chunk, arriving)
            finally:
                arriving.close()
        if self._folder is not None:
            self._folder.finish(self._chunks())

    def _chunks(self):
        return chunks_of(self._paths, self._size)

    def _arriving(self, todo, bar):
        """Chunks as they are done, and what was seen."""
        if not todo:
            return
        shared = self._engine.share(pickled(alone(self._detector)))
        calls = ((chunk, (shared, self._wanted, Parcel.of(chunk))) for chunk in todo)
        flow = results(self._engine, look_at, calls)
        try:
            for chunk, seen in flow:
                bar.update(len(chunk.paths))
                yield chunk, seen
        finally:
            flow.close()

    def _wait_for_scale(self, arriving):
        """Let nothing through before an image is known to be scaled as those of fit.

        Chunks are judged in their order, as one call here would judge its images.
        """
        call, held, number = _Scale(), {}, 0
        for chunk, seen in arriving:
            held[chunk.number] = chunk, seen
            while number in held and not call.is_right:
                call.take(held[number][1])
                number += 1
            if call.is_right:
                break
        else:
            call.refuse()
        for chunk, seen in held.values():
            self._keep(chunk, seen)

    def _keep(self, chunk: Chunk, seen: Seen):
        if self._folder is None or seen.error is not None:
            self._waiting[chunk.number] = seen
        else:
            self._folder.write(chunk, seen.records)

    def _turn(self, chunk, arriving):
        """The records of the chunk whose turn it is."""
        while not self._is_here(chunk):
            self._keep(*next(arriving))
        seen = self._waiting.pop(chunk.number, None)
        if seen is None:
            return self._folder.read(chunk)
        if seen.error is not None:
            raise RefusedImages(seen.error)
        return seen.records

    def _is_here(self, chunk):
        is_written = self._folder is not None and chunk.number in self._folder.done
        return is_written or chunk.number in self._waiting


class RefusedImages(ValueError):
    """Images end a call: all are scaled in another way than those of fit, or one has no score."""


class _Scale:
    """How the images of a call are scaled, by all its chunks, in order."""

    def __init__(self):
        self._scalings: list[Scaling] = []  # by each check of the detector
        self._records: list[Record] = []
        self._is_read = False

    def take(self, seen: Seen) -> None:
        """Look at the next chunk; ValueError if the images so far are refused, or one raised it."""
        self._scalings += [Scaling() for _ in seen.scalings[len(self._scalings) :]]
        with _refusing_images():
            for ours, later in zip(self._scalings, seen.scalings, strict=False):
                ours.add(later)
        if seen.error is not None:
            raise RefusedImages(seen.error)
        self._records += seen.records
        self._is_read |= any(record.verdict != UNREADABLE for record in seen.records)

    @property
    def is_right(self) -> bool:
        """Whether an image was read, and each check has seen one that is scaled right."""
        return self._is_read and all(scaling.is_right for scaling in self._scalings)

    def refuse(self) -> None:
        """End a call without one: ValueError."""
        with _refusing_images():
            for scaling in self._scalings:
                scaling.finish()
        raise NoneReadable([_skipped(i, record) for i, record in enumerate(self._records)])


@contextmanager
def _refusing_images():
    try:
        yield
    except ValueError as error:
        raise RefusedImages(str(error)) from None


def _skipped(index, record):
    """What the detector says of an image that it skips."""
    return SkippedImage(index, record.path, f"image {index} ({record.path}): {record.reason}")


def _collected(records, paths, undecided):
    """An Inspection without levels; ``undecided`` is the label of images without a verdict."""
    labels = {**_LABELS, "undecided": undecided}
    scores, given, p_values = array("d"), array("b"), array("d")
    sizes, skipped, flagged_by, known = [], [], [], {}
    for i, record in enumerate(records):
        is_read = record.verdict != UNREADABLE
        scores.append(-record.anomaly_score if is_read else math.nan)
        given.append(labels[record.verdict])
        p_values.append(math.nan if record.p_value is None else record.p_value)
        # one tuple for all that agree
        sizes.append(known.setdefault(record.size, record.size))
        flagged_by.append(known.setdefault(record.flagged_by, record.flagged_by))
        if not is_read:
            skipped.append(_skipped(i, record))
    p_values = np.array(p_values)
    return Inspection(
        scores=np.array(scores),
        labels=np.array(given, dtype=np.int64),
        maps=None,
        paths=list(paths),
        skipped=skipped,
        sizes=sizes,
        p_values=None if np.isnan(p_values).all() else p_values,
        flagged_by=flagged_by,
    )
