"""The report: what a detector says of many images, as one HTML file that needs nothing else.

The page is made by Jinja2, which escapes whatever comes from file names, from templates beside this
module. Charts are drawn here as SVG; pictures are inside the page as small JPEGs.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..annotations import Images
from ..annotations import Path as PathLike
from ..data.choosing import choosable, take
from ..inspection import record_of
from ..io.files import write_file
from ..records import UNREADABLE, Record
from ..texts import plural, printable
from ..validation import check_choice, check_count
from . import charts
from .choices import choose
from .document import (
    Names,
    as_json,
    figure_of,
    map_levels_of,
    members_of,
    render,
    short_number,
)
from .figures import (
    Share,
    Truth,
    device_of,
    headline,
    known_scores,
    learned_from,
    method_of,
    number,
    promise,
    settings_of,
    size_of_file,
    suspects_of,
)
from .tiles import make_tiles, places_of

if TYPE_CHECKING:
    from ..io.card import Card

_KINDS = ("anomalous", "normal", "undecided", UNREADABLE)
_MOST_BYTES = 4_600_000  # of the page, where the table leaves room for pictures
_REST = 300_000  # of these, for all but the table and the pictures
_LEAST, _MOST = 12_000, 90_000  # bytes of a picture and its heatmap
_N_GROUND = 9  # normal pictures whose median is under the map of places


def write(
    path: PathLike,
    detector: Any,
    images: Images,
    *,
    y: ArrayLike | None = None,
    title: str | None = None,
    card: "Card | None" = None,
    max_pictures: int = 60,
    on_error: str = "skip",
    date: str | None = None,
) -> None:
    """Inspect images, and write what there is to say of them to a page.

    Parameters
    ----------
    path : str or Path
        Of the HTML file. It needs no other file, and no network.
    detector : fitted detector
        With ``iter_inspect``, such as every detector of images of this package.
    images : array, tensor, list, folder or Dataset
        They are read twice, so iterators and DataLoaders are refused.
    y : array-like of shape (n_images,) or None, default=None
        The truth: +1 good, -1 defective.
    title : str or None, default=None
        Such as the name of the part.
    card : Card or None, default=None
        What the detector's file says of itself; see :func:`anomalib_lite.io.read_card`.
    max_pictures : int, default=60
        Images that are shown; all of them are in the table. The page stays below 5 MB with 60.
    on_error : {"raise", "skip"}, default="skip"
        What an image does that cannot be read: raise a ValueError, or be listed with the reason.
    date : str or None, default=None
        Shown as it is. Without it nothing on the page depends on when it was written.

    Raises
    ------
    ValueError
        If the images cannot be read twice, not one of them can be read, or a parameter is invalid.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import os, tempfile
    >>> from anomalib_lite import PaDiM
    >>> from anomalib_lite.report import write
    >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
    >>> detector = PaDiM(image_size=64, false_alarm_rate=0.1, random_state=0).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(os.path.join(folder, "report.html"), detector, images[:5])
    ...     os.listdir(folder)
    ['report.html']
    """
    check_choice("on_error", on_error, ("raise", "skip"))
    images = choosable(images)
    levels = detector.score_levels(), map_levels_of(detector)
    records = [
        record_of(image, *levels)
        for image in detector.iter_inspect(images, maps="network", on_error=on_error)
    ]
    page = Page(
        detector,
        records,
        y=y,
        title=title,
        card=card,
        read=lambda indices: take(images, np.array(indices, dtype=int)),
        max_pictures=max_pictures,
        date=date,
    )
    page.write(path)


def write_page(path: PathLike, detector: Any, records: Sequence[Record], **options: Any) -> None:
    """Write the page of images that have been inspected; see :class:`Page`."""
    Page(detector, records, **options).write(path)


class Page:
    """The page of images that have been inspected.

    Of most images their records are enough. Those that are shown are read and inspected once more
    as the page is made; one that is gone by then is shown as gone.

    Parameters
    ----------
    detector : fitted detector
        That made the records.
    records : sequence of Record
    y, title, card, max_pictures, date
        As for :func:`write`.
    read : callable or None, default=None
        Gives the images of a list of indices; None reads the records' paths.
    """

    def __init__(
        self,
        detector: Any,
        records: Sequence[Record],
        *,
        y: ArrayLike | None = None,
        title: str | None = None,
        card: "Card | None" = None,
        read: Callable[[Sequence[int]], Any] | None = None,
        max_pictures: int = 60,
        date: str | None = None,
    ):
        check_count("max_pictures", max_pictures, minimum=0)
        self.detector = detector
        self.records = list(records)
        if not self.records:
            raise ValueError("records: expected those of at least one image, got none.")
        self.y = None if y is None else _checked_labels(y, len(self.records))
        self.title = title
        self.card = card
        self.read = self._by_path if read is None else read
        self.max_pictures = max_pictures
        self.date = date

    def write(self, path: PathLike) -> None:
        """Write the page to a file, whole or not at all."""
        write_file(Path(path), self.html().encode("utf-8"))

    def html(self) -> str:
        """The page as text; the same for the same images and detector."""
        return render(
            "page.html",
            kind_of_page="Inspection report",
            **self._about(),
            **self._charts(),
            **self._pictures(),
            rows=self._rows,
        )

    # -- what is on it ----------------------------------------------------------------------------

    def _about(self):
        """Headline, counts, the threshold's promise, unreadable files, suspects, the model card."""
        verdicts = [record.verdict for record in self.records]
        counts = [(kind, verdicts.count(kind)) for kind in _KINDS if kind in verdicts]
        n_decided = sum(n for kind, n in counts if kind in ("anomalous", "normal"))
        settings = list(settings_of(self.detector))
        return {
            "headline": headline(self.records),
            "title": None if self.title is None else printable(self.title),
            "date": None if self.date is None else printable(self.date),
            "where": self._names.folder,
            "n_images": len(self.records),
            "counts": counts,
            "share": Share.of_counts(verdicts.count("anomalous"), n_decided),
            "promise": promise(self.detector),
            "truth": self._truth,
            "unreadable": [
                (self._names.shown[i], printable(record.reason or "unknown"))
                for i, record in enumerate(self.records)
                if record.verdict == UNREADABLE
            ],
            "suspects": [
                (printable(name), number(score)) for name, score in suspects_of(self.detector)
            ],
            "method": method_of(self.detector),
            "facts": list(self._facts()),
            "changed": [each for each in settings if not each.is_default],
            "defaults": [each for each in settings if each.is_default],
        }

    def _facts(self):
        """(name, value) of the model card."""
        detector, card = self.detector, self.card
        yield "Method", method_of(detector)
        n_images, n_calibration = learned_from(detector)
        if n_images is not None:
            yield "Learned from", plural(n_images, "image")
        if n_calibration is not None:
            yield "Calibrated on", plural(n_calibration, "score")
        levels = detector.score_levels()
        threshold = levels.threshold if math.isfinite(levels.threshold) else None
        yield "Median of good parts", f"anomaly score {number(levels.normal)}"
        yield "Threshold", "none" if threshold is None else f"anomaly score {number(threshold)}"
        device = device_of(detector)
        if device is not None:
            yield "Device", device
        if card is not None:
            yield "File", f"{size_of_file(card.n_bytes)}, SHA-256 {card.digest}"
            yield (
                "Written by",
                ", ".join(f"{printable(k)} {printable(v)}" for k, v in card.versions.items()),
            )
            for name, text in card.notes.items():
                yield printable(name).capitalize(), printable(text)

    @cached_property
    def _truth(self):
        return None if self.y is None else Truth.of(self.records, self.y)

    def _charts(self):
        """Histogram, scores in order and, with labels, the ROC curve."""
        read = np.array([record.verdict != UNREADABLE for record in self.records], dtype=bool)
        if not read.any():
            return {"histogram": None, "timeline": None, "roc": None}
        scores, known, threshold, unit = self._scale(read)
        flagged = np.array([record.verdict == "anomalous" for record in self.records])[read]
        if self.y is None:
            series = [
                ("normal", "others" if threshold is None else "normal", scores[~flagged]),
                ("anomalous", "anomalous", scores[flagged]),
            ]
        else:
            bad = self.y[read] == -1
            series = [("normal", "good", scores[~bad]), ("anomalous", "defective", scores[bad])]
        truth = self._truth
        curve = None
        if truth is not None and truth.curve is not None:
            here = None
            if truth.escapes and truth.overkill:
                here = tuple(share.count / share.total for share in (truth.overkill, truth.escapes))
                here = here[0], 1 - here[1]
            curve = charts.roc(truth.curve, here)
        return {
            "histogram": charts.histogram(series, known, threshold, unit),
            "timeline": charts.timeline(scores, flagged, self._times(read), known, threshold, unit),
            "roc": curve,
        }

    def _scale(self, read):
        """Scores of images and calibration, threshold, and the name of what they are."""
        levels = self.detector.score_levels()
        known = known_scores(self.detector)
        severities = np.array([record.severity for record in self.records])[read]
        if np.isfinite(severities).all():
            return severities, levels.severity(known), 1.0, "severity"
        scores = np.array([record.anomaly_score for record in self.records])[read]
        threshold = levels.threshold if math.isfinite(levels.threshold) else None
        return scores, known, threshold, "anomaly score"

    def _times(self, read):
        """When the files were written; None unless all of them have a time."""
        times = [record.modified for record in self.records]
        known = [time for time, is_read in zip(times, read, strict=True) if is_read]
        return None if None in known else np.array(known)

    def _pictures(self):
        """Groups of pictures, and the map of places."""
        groups = choose(self.records, self.y, self.max_pictures)
        shown = [i for group in groups for i in group.indices]
        room = _MOST_BYTES - _REST - len(self._rows)
        n_bytes = len(shown) * min(max(room // max(len(shown), 1), _LEAST), _MOST)
        levels = map_levels_of(self.detector)
        tiles, pictures = make_tiles(self.detector, shown, self.read, levels, n_bytes)
        normal = [
            pictures[i] for i in shown if self.records[i].verdict == "normal" and i in pictures
        ]
        return {
            "groups": [
                (group, [self._figure(i, tiles[i]) for i in group.indices]) for group in groups
            ],
            "has_levels": levels is not None and all(map(math.isfinite, levels)),
            "places": places_of(self.records, normal[-_N_GROUND:]),
        }

    def _figure(self, index, tile):
        return {
            **figure_of(index, tile, self.records[index], self._names),
            "truth": None if self.y is None else ("good" if self.y[index] == 1 else "defective"),
        }

    def _by_path(self, indices):
        paths = [self.records[i].path for i in indices]
        if None in paths:
            raise ValueError(
                "read: expected a function that gives images, since not all of them have a path."
            )
        return paths

    # -- names and rows ---------------------------------------------------------------------------

    @cached_property
    def _names(self):
        return Names.of(self.records)

    @cached_property
    def _rows(self):
        """All images as JSON for the page's script."""
        return as_json([self._row(i, record) for i, record in enumerate(self.records)])

    def _row(self, index, record):
        """A row as short as can be: absent values are 0 or null, or not at the end; see page.js."""
        region, flagged_by = record.region, members_of(record)
        row = [
            self._names.shown[index],
            _KINDS.index(record.verdict),
            short_number(record.severity),
            short_number(record.anomaly_score),
            short_number(record.p_value),
            0 if region is None else [*region.box],
            0 if region is None else region.area,
            0 if record.size is None else [*record.size[::-1]],
            0 if record.modified is None else round(record.modified),
        ]
        if self.y is not None or flagged_by:
            row.append(0 if self.y is None else int(self.y[index]))
        if flagged_by:
            row.append(flagged_by)
        return row


def _checked_labels(y, n_images):
    labels = np.asarray(y)
    if labels.shape != (n_images,) or not np.isin(labels, (-1, 1)).all():
        raise ValueError(
            f"y: expected {n_images} labels, +1 good or -1 defective, one an image, got the values "
            f"{np.unique(labels)[:5]} in shape {labels.shape}."
        )
    return labels
