"""Chunks of a list of image files: what travels to a worker, and what it says of them."""

import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from ..annotations import Path
from ..data.images import NoneReadable
from ..data.names import find_images
from ..data.scales import Scaling, scales_noted
from ..deploy.reader import OnnxDetector
from ..inspection import InspectedImage, MapLevels, ScoreLevels, record_of
from ..records import Record

_INDEX = re.compile(r"^image (\d+)")


class Chunk(NamedTuple):
    """Image files that one task looks at.

    Attributes
    ----------
    number : int
        Its place among the chunks.
    first : int
        Place of its first image among all images.
    paths : sequence of str
    """

    number: int
    first: int
    paths: Sequence[str]


def paths_of(images: Path | Iterable[Path]) -> list[str]:
    """The image files that are meant, as often as they are named; ValueError if there are none."""
    names = [images] if isinstance(images, str | os.PathLike) else images
    if isinstance(names, bytes) or not isinstance(names, Iterable):
        raise _no_paths(names, "")
    checked = []
    for i, name in enumerate(names):
        if not isinstance(name, str | os.PathLike):
            raise _no_paths(name, f" in place {i}")
        checked.append(os.fsdecode(name))
    paths = find_images(checked, each_once=False).all_or_error()
    if not paths:
        raise ValueError("images: expected at least one image, got none.")
    return paths


def _no_paths(given, where):
    return ValueError(
        f"images: expected a folder, a file, a pattern or several of these, got {type(given)}"
        f"{where}. Only paths travel: save images as files that all workers see."
    )


def chunks_of(paths: Sequence[str], size: int) -> Iterator[Chunk]:
    """Chunks of a size, the last of which may be smaller.

    Examples
    --------
    >>> [chunk.paths for chunk in chunks_of(["a.png", "b.png", "c.png"], 2)]
    [['a.png', 'b.png'], ['c.png']]
    """
    for number, first in enumerate(range(0, len(paths), size)):
        yield Chunk(number, first, paths[first : first + size])


class Parcel(NamedTuple):
    """A chunk on its way to a worker.

    Attributes
    ----------
    first : int
    folder : str
        The client's, from which its relative paths are taken.
    data : bytes
        Paths, compressed.
    """

    first: int
    folder: str
    data: bytes

    @classmethod
    def of(cls, chunk: Chunk) -> "Parcel":
        """That of a chunk.

        Examples
        --------
        >>> Parcel.of(Chunk(1, 2, ["c.png"])).paths()
        ['c.png']
        """
        data = b"\0".join(map(os.fsencode, chunk.paths))
        return cls(chunk.first, os.getcwd(), zlib.compress(data))

    def paths(self) -> list[str]:
        """As the client names the files."""
        return [os.fsdecode(path) for path in zlib.decompress(self.data).split(b"\0")]

    def places(self) -> list[str]:
        """As a worker finds them."""
        return [os.path.join(self.folder, path) for path in self.paths()]

    def as_client(self, text: str, start: int = 0) -> str:
        """A message about the images from ``start`` on, with the client's place and path of one.

        Examples
        --------
        >>> Parcel.of(Chunk(1, 64, ["c.png", "d.png"])).as_client("image 0: a bad one", 1)
        'image 65: a bad one'
        """
        found = _INDEX.match(text)
        if not found:
            return text
        index = start + int(found[1])
        text = text.replace(self.places()[index], self.paths()[index])
        return f"image {self.first + index}{text[found.end() :]}"


class Wanted(NamedTuple):
    """What is asked of all images of a call.

    Attributes
    ----------
    score_levels : ScoreLevels
    map_levels : MapLevels or None
        None leaves maps, and with them regions, out.
    on_error : {"raise", "skip"}
    """

    score_levels: ScoreLevels
    map_levels: MapLevels | None
    on_error: str


class Seen(NamedTuple):
    """What a detector says of a chunk.

    Attributes
    ----------
    records : list of Record
        One for each image, in order, or those before an error.
    scalings : list of Scaling
        By each check of scales that a detector makes.
    error : str or None
        What an image did that raised an error.
    """

    records: list[Record]
    scalings: list[Scaling]
    error: str | None = None


def look_at(detector: Any, wanted: Wanted, parcel: Parcel) -> Seen:
    """What a detector says of a chunk; a worker's task.

    Indices and paths, in errors too, are those of a call with all images by the client.
    """
    paths, places = parcel.paths(), parcel.places()
    with scales_noted() as scalings:
        records, error = _records(detector, wanted, places)
    for i, (record, path, place) in enumerate(zip(records, paths, places, strict=False)):
        reason = None if record.reason is None else record.reason.replace(place, path)
        records[i] = replace(record, path=path, reason=reason)

    scalings = [
        replace(each, first=each.first and parcel.as_client(each.first)) for each in scalings
    ]
    return Seen(records, scalings, error and parcel.as_client(error))


def _records(detector, wanted, places):
    """(records, None), or those before an error, and its text."""
    maps, records = False if wanted.map_levels is None else "network", []
    images = detector.iter_inspect(places, maps=maps, on_error=wanted.on_error)
    try:
        # not a step more, in which it would warn of skipped images
        for image in islice(images, len(places)):
            records.append(record_of(image, wanted.score_levels, wanted.map_levels))
    except NoneReadable as error:
        skipped = map(InspectedImage.of_skipped, error.skipped)
        return [record_of(image, wanted.score_levels, None) for image in skipped], None
    except ValueError as error:  # not raised by the task: not every kind of them can be pickled
        return records, str(error)
    return records, None


def alone(detector: Any) -> Any:
    """A twin of a fitted detector that works in one thread, and shows no progress."""
    if isinstance(detector, OnnxDetector):
        again = OnnxDetector(detector.path, n_threads=1)
        if again.digest != detector.digest:
            raise ValueError(f"{detector.path}: the file has changed since it was opened.")
        return again
    from ..runtime import twin_of  # and with it PyTorch

    twin = twin_of(detector)
    for name, value in (("n_jobs", 1), ("verbose", False)):
        if hasattr(twin, name):
            setattr(twin, name, value)
    if hasattr(twin, "detectors_"):  # of a ConformalDetector
        twin.detector = alone(twin.detector)
        twin.detectors_ = [alone(inner) for inner in twin.detectors_]
    return twin
