"""Export a detector of solar cells to one ONNX file, and inspect others with that file alone.

    python examples/export_to_onnx.py

Prints how both compare, and what the file says of itself. It is written to
``examples/output/cells.onnx``; ``examples/deploy`` has programs in JavaScript that take it.
"""

import time
from pathlib import Path

import numpy as np

from anomalib_lite import PatchCore
from anomalib_lite.data import load_elpv
from anomalib_lite.deploy import OnnxDetector

OUTPUT = Path(__file__).parent / "output" / "cells.onnx"


def milliseconds(detector, images):
    """Of an image, one after the other."""
    detector.inspect(images[:1])
    start = time.perf_counter()
    for image in images:
        detector.inspect(image[None])
    return 1000 * (time.perf_counter() - start) / len(images)


def main():
    cells = load_elpv()
    detector = PatchCore(coreset=0.01, random_state=0).fit(cells.train[:200])
    OUTPUT.parent.mkdir(exist_ok=True)
    parity = detector.export(OUTPUT, images=cells.train[200:220])
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1e6:.1f} MB")
    print(f"compared on {parity.n_images} cells: scores differ by {parity.score:.1e}")

    exported = OnnxDetector(OUTPUT)
    mine, theirs = detector.inspect(cells.test), exported.inspect(cells.test)
    apart = np.abs(theirs.scores / mine.scores - 1).max()
    n_equal = int((theirs.labels == mine.labels).sum())
    print(f"{len(cells.test)} others: scores differ by {apart:.1e}, {n_equal} verdicts are equal")
    print(f"exported: {exported.card.promise}")
    original, without = (milliseconds(each, cells.test[:50]) for each in (detector, exported))
    print(f"{original:.0f} ms a cell, exported {without:.0f}")


if __name__ == "__main__":
    main()
