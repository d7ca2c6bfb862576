"""The whole story on the command line: from folders of photographs to verdicts and a report.

Writes electroluminescence photographs of solar cells to ``examples/output/cells`` as PNG and JPEG:
200 good ones to fit on, 50 new ones (15 of them defective), 60 fresh good ones, and 100 whose truth
is known. Then it runs five commands as you would type them, and prints how long each took.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from anomalib_lite.data import load_elpv

HOME = Path(__file__).parent / "output" / "cells"
COMMANDS = (
    "fit good -o cell.alite",
    "inspect cell.alite new --csv new.csv --report new.html --overlays flagged --quiet",
    "evaluate cell.alite test",
    "threshold cell.alite fresh --false-alarm-rate 0.02 -o fresh.alite",
    "compare cell.alite fresh.alite new --report changes.html",
)


def write(folder, images):
    """Write images to a new folder, by turns as PNG and as JPEG."""
    (HOME / folder).mkdir(parents=True)
    for i, image in enumerate(images):
        picture, path = Image.fromarray(image), HOME / folder / f"cell_{i:03d}"
        if i % 2:
            picture.save(path.with_suffix(".png"))
        else:
            picture.save(path.with_suffix(".jpg"), quality=95)


cells, random = load_elpv(), np.random.default_rng(0)
good, defective = (cells.test[cells.test_labels == label] for label in (1, -1))
shutil.rmtree(HOME, ignore_errors=True)
write("good", cells.train[:200])
write("new", random.permutation(np.concatenate([good[:35], defective[:15]])))
write("fresh", cells.train[200:260])
write("test/good", good[35:85])
write("test/defective", defective[15:65])

for command in COMMANDS:
    print(f"\n$ anomalib-lite {command}", flush=True)
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "anomalib_lite", *command.split()], cwd=HOME)
    print(f"({time.perf_counter() - start:.1f} s, exit code {done.returncode})")
    if done.returncode == 2:
        sys.exit("something could not be done")
print(f"\nthe report: {HOME / 'new.html'}")
