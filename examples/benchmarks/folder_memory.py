"""Memory and time of PatchCore on folders of 500, 1,500 and 5,000 images.

    python examples/benchmarks/folder_memory.py

Noisy crops of a photograph of bricks are written to folders as PNG files of 224 x 224 pixels. For
each folder, a fresh process fits and scores it with ``coreset=2000`` and a memory budget of 300 MB,
so that all folders are learned in parts, and prints its peak resident memory beyond that of
interpreter, torch and network. The patches of each image alone would take 0.48 MB.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from torch.utils.data import Dataset

RUN = """
import json, resource, sys, time
import numpy as np
from anomalib_lite import PatchCore

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # MB

PatchCore(coreset=10).fit(np.random.default_rng(0).random((2, 224, 224))).score_samples(
    np.zeros((1, 224, 224))
)
before = peak()
detector = PatchCore(coreset=2000, memory_budget="300MB", random_state=0)
begin = time.perf_counter()
detector.fit(sys.argv[1])
fitted = peak()
fit_seconds = time.perf_counter() - begin
begin = time.perf_counter()
scores = detector.score_samples(sys.argv[1])
print(json.dumps({
    "images": len(scores), "before": before, "fit": fitted - before, "score": peak() - before,
    "fit_seconds": fit_seconds, "score_seconds": time.perf_counter() - begin,
}))
"""


class NoisyCrops(Dataset):
    """Gray images (224, 224), all different, made on demand."""

    def __init__(self, n_images):
        self.n_images = n_images
        self.photograph = data.brick()

    def __len__(self):
        return self.n_images

    def __getitem__(self, index):
        if index >= self.n_images:
            raise IndexError(index)
        rng = np.random.default_rng(index)
        top, left = rng.integers(0, 512 - 224, 2)
        crop = self.photograph[top : top + 224, left : left + 224]
        return (crop + rng.normal(0, 4, crop.shape)).clip(0, 255).astype(np.uint8)


def write_images(folder, n_images):
    for i, image in enumerate(NoisyCrops(n_images)):
        Image.fromarray(image).save(folder / f"{i:05}.png")


def measure(n_images):
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), n_images)
        command = [sys.executable, "-c", RUN, folder]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1500, 5000])
    print("| images | peak of fit, MB | peak with scoring, MB | fit, s | score, s |")
    print("|---|---|---|---|---|")
    for n_images in parser.parse_args().sizes:
        run = measure(n_images)
        print(
            f"| {run['images']} | {run['fit']:.0f} | {run['score']:.0f} "
            f"| {run['fit_seconds']:.0f} | {run['score_seconds']:.0f} |",
            flush=True,
        )
