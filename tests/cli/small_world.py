"""Striped parts, good and scratched, as files, and small detectors of them."""

import json
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import worlds
from PIL import Image

from anomalib_lite import PaDiM
from anomalib_lite.cli import main

CENTER = (20, 40)  # of a scratch


@cache
def fitted(seed=0, n=40):
    """A detector of good parts, of another random projection for another seed."""
    detector = PaDiM(image_size=64, n_features=20, false_alarm_rate=0.05, random_state=seed)
    return detector.fit(worlds.stripes(n, seed=10))


def without_threshold():
    """A detector of so few parts that it has none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* cannot calibrate")
        return fitted(n=2)


def write(path, pixels):
    """An image file, and the folders that it is in."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def mask(size=64):
    """Of a scratch at ``CENTER``."""
    marked = np.zeros((size, size), dtype=np.uint8)
    row, column = CENTER
    marked[row - 2 : row + 2, column - 7 : column + 7] = 255
    return marked


def write_parts(folder, n_good=8, kinds=("scratch",), n_bad=4, *, faint=0):
    """Good parts and scratched ones; the last ``faint`` of each kind are as good as good ones."""
    for i, pixels in enumerate(worlds.stripes(n_good, seed=20)):
        write(folder / "good" / f"{i}.png", pixels)
    for number, kind in enumerate(kinds):
        bad = worlds.scratched(n_bad, center=CENTER, seed=30 + number)
        if faint:
            bad[-faint:] = worlds.stripes(faint, seed=40 + number)
        for i, pixels in enumerate(bad):
            write(folder / kind / f"{i}.png", pixels)


def run(capsys, *args):
    """Exit code, lines on stdout, and stderr."""
    code = main([*map(str, args)])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err


def run_json(capsys, *args):
    """Exit code, and the object on stdout."""
    code, lines, _ = run(capsys, *args, "--json")
    (line,) = lines
    return code, json.loads(line)
