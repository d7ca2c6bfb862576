"""Folders of small pictures, and what commands do with them."""

import json
from functools import cache

from PIL import Image
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, PaDiM
from anomalib_lite.cli import main

QUICK = ("--method", "padim", "--image-size", "64", "--n-features", "20")
"""Settings of a fit that takes well under a second."""


def write_pictures(folder, images, suffix=".png"):
    """Write images to a new folder; gives their paths."""
    folder.mkdir(parents=True)
    paths = [folder / f"{i:02d}{suffix}" for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return [str(path) for path in paths]


def make_story(home):
    """Folders ``good`` (30 images) and ``new`` (four good ones, then two scratched)."""
    write_pictures(home / "good", stripes(30))
    new = write_pictures(home / "new", stripes(4, seed=8))
    for i, image in enumerate(scratched(2), 4):
        Image.fromarray(image).save(home / "new" / f"{i:02d}.png")
    return new


def fit(home, *options, output="part.alite"):
    """Fit a quick detector on ``good``; gives the path of its file."""
    path = home / output
    rate = () if "--conformal" in options else ("--false-alarm-rate", "0.04")
    assert main(["fit", str(home / "good"), "-o", str(path), *QUICK, *rate, *options]) == 0
    return str(path)


@cache
def detector(conformal=False):
    """What ``fit`` makes of ``good``, made once; not to be changed."""
    inner = PaDiM(image_size=64, n_features=20, random_state=0, false_alarm_rate=0.04)
    if conformal:
        inner = ConformalDetector(inner, false_alarm_rate=0.1, random_state=0)
    return inner.fit(stripes(30))


def saved(home, *, conformal=False):
    """Write it as ``fit`` does, in no time; gives the path of its file."""
    path = home / "part.alite"
    notes = {"fitted": "2026-01-31T12:00:00+01:00", "images": f"30 from {home / 'good'}"}
    detector(conformal).save(path, notes=notes)
    return str(path)


def printed_json(capsys):
    """The only line on stdout, parsed."""
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)
