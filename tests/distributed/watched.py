"""Detectors that tests watch at work, in whatever process."""

import os
import signal
import time
import uuid
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, DetectorEnsemble, PaDiM, PatchCore


class Watched(PaDiM):
    """Leaves a file in ``log_`` for each image that it is given, under its name.

    Its process is killed once it is given the image ``deadly_``, where there is no file ``dead_``.
    As long as there is a file ``held_``, it waits before the image of that name. ``seconds_`` is
    how long it takes for a chunk.
    """

    log_ = deadly_ = dead_ = held_ = None
    seconds_ = 0.0

    def iter_inspect(self, X, **options):
        time.sleep(self.seconds_)
        for path in X:
            name = os.path.basename(path)
            if name == self.deadly_ and not os.path.exists(self.dead_):
                Path(self.dead_).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            while name == os.path.basename(self.held_ or "") and os.path.exists(self.held_):
                time.sleep(0.02)
            Path(self.log_, f"{name}-{uuid.uuid4().hex}").touch()
        yield from super().iter_inspect(X, **options)


class Deadly(PaDiM):
    """Kills its process, once, where there is a file of that name in ``folder``.

    Files are called ``part-i``, of the chunk whose first image is the i-th, and ``calibrate``.
    """

    folder = None

    def _learn_part(self, batches, n_images, portion):
        self._die_at(f"part-{portion.first}")
        return super()._learn_part(batches, n_images, portion)

    def _calibrate_rows(self, rows, digests):
        self._die_at("calibrate")
        return super()._calibrate_rows(rows, digests)

    def _die_at(self, place):
        if self.folder is not None and (self.folder / place).exists():
            (self.folder / place).unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def watched(folder, **attributes):
    """A fitted one that leaves its files in a new folder."""
    log = folder / "log"
    log.mkdir()
    detector = Watched(image_size=64, n_features=10, random_state=0, false_alarm_rate=0.05)
    detector.fit(stripes(20))
    vars(detector).update(log_=str(log), dead_=str(folder / "dead"), **attributes)
    return detector


def counts(detector):
    """How often each image was given to a watched detector."""
    return Counter(name.rpartition("-")[0] for name in os.listdir(detector.log_))


@cache
def fitted(name):
    """A small one, fitted once; not to be changed."""
    common = {"image_size": 64, "random_state": 0, "false_alarm_rate": 0.05}
    if name == "PatchCore":
        return PatchCore(coreset=30, **common).fit(stripes(20))
    padim = PaDiM(n_features=10, **common)
    if name == "PaDiM":
        return padim.fit(stripes(20))
    if name == "Ensemble":
        coarse = PaDiM(n_features=10, image_size=32)
        both = DetectorEnsemble([padim, coarse], false_alarm_rate=0.05, random_state=0)
        return both.fit(stripes(20))
    method = {"Conformal": "split", "Conformal, cv": "cv"}[name]
    return ConformalDetector(padim, method=method, false_alarm_rate=0.1, random_state=0).fit(
        stripes(24)
    )


def write_world(folder, n=10, *, unreadable=True):
    """Good and scratched parts, one of which is no image; their paths."""
    folder.mkdir()
    images = [*stripes(n - 2, seed=8), *scratched(2)]
    paths = [str(folder / f"{i:02}.png") for i in range(n)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    if unreadable:
        Path(paths[3]).write_bytes(b"no image")
    return paths


def write_floats(folder, values):
    """Float images (TIFF), each of a brightness; their paths."""
    folder.mkdir()
    paths = [str(folder / f"{i:03}.tif") for i in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        ramp = np.linspace(0.2, 1, 64, dtype=np.float32)[None].repeat(64, axis=0)
        Image.fromarray(ramp * np.float32(value)).save(path)
    return paths
