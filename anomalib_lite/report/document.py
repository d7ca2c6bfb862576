"""Pages of one file each: templates, style and script in one, and what they need of images."""

import base64
import hashlib
import json
import math
from functools import cache
from os.path import commonpath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..inspection import MapLevels
from ..records import Record
from ..texts import plural, printable
from .figures import number, percent
from .overlays import ANCHORS, colors_of
from .pictures import file_name
from .scales import ColorScale
from .tiles import Tile

_TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """A page from a template, with the style and the script that all pages share."""
    style, script = _source("page.css"), _source("page.js")
    return (
        _environment()
        .get_template(template)
        .render(
            **values,
            style=Markup(style),
            script=Markup(script),
            script_hash=_hash(script),
            colors=_colors(),
            number=number,
            percent=percent,
            plural=plural,
        )
    )


def as_json(values: Any) -> Markup:
    """Values as JSON that cannot end the script element that it is in."""
    text = json.dumps(values, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Markup(text)


class Names(NamedTuple):
    """Printable names of images.

    Attributes
    ----------
    folder : str
        Where all of them are.
    shown, short : list of str
        Below the folder, and the last part alone.
    """

    folder: str
    shown: list[str]
    short: list[str]

    @classmethod
    def of(cls, records: list[Record]) -> "Names":
        paths = [record.path for record in records]
        folder = "" if None in paths else _common_folder(paths)
        n = len(folder)
        shown = [
            f"image {i}" if path is None else printable(path[n:]) for i, path in enumerate(paths)
        ]
        short = [
            name if path is None else printable(file_name(path))
            for name, path in zip(shown, paths, strict=True)
        ]
        return cls(printable(folder), shown, short)


def _common_folder(paths):
    """The folder that all paths begin with, with its slash; empty if there is none."""
    folders = {path[: max(path.rfind("/"), path.rfind("\\")) + 1] for path in paths}
    if len(folders) == 1:
        return folders.pop()
    try:
        common = commonpath(list(folders))
    except ValueError:  # absolute and relative ones, or several drives
        return ""
    if not common:
        return ""
    return common if common.endswith(("/", "\\")) else common + paths[0][len(common)]


def short_number(value: float | None) -> float | int | None:
    """A number of six digits for the table; None for what there is not."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded == int(rounded) else rounded


def map_levels_of(detector: Any) -> MapLevels | None:
    """Levels of the color scale; None of a detector without maps."""
    try:
        return detector.map_levels()
    except (AttributeError, ValueError):
        return None


def box_of(record: Record) -> dict[str, Any] | None:
    """Where the worst region is on its picture, in percent, and in words; None without one."""
    if record.region is None or record.size is None:
        return None
    (left, top, right, bottom), (height, width) = record.region.box, record.size
    return {
        "left": 100 * left / width,
        "top": 100 * top / height,
        "width": 100 * (right - left) / width,
        "height": 100 * (bottom - top) / height,
        "text": f"box {left}, {top} to {right}, {bottom}",
    }


def members_of(record: Record) -> str:
    """Which members of an ensemble flagged an image, in words; empty if none."""
    return printable(", ".join(record.flagged_by))


def figure_of(index: int, tile: Tile, record: Record, names: Names) -> dict[str, Any]:
    """What templates say of a picture."""
    return {
        "index": index,
        "tile": tile,
        "name": names.short[index],
        "path": names.shown[index],
        "record": record,
        "box": box_of(record),
        "flagged_by": members_of(record),
    }


def _colors():
    """Colors of the style sheet along the color scale, transparent at its beginning."""
    places = np.linspace(0, 1, 2 * len(ANCHORS) - 1)
    opacities = ColorScale(0.0, 1.0, 0.5).opacity(ColorScale(0.0, 1.0, 0.5).value(places))
    return [
        f"rgba({r:.0f},{g:.0f},{b:.0f},{a:.2g})"
        for (r, g, b), a in zip(colors_of(places), opacities, strict=True)
    ]


# -- templates ------------------------------------------------------------------------------------


@cache
def _environment():
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _source(name):
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(script):
    """What the page's policy says of the only script that may run."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
