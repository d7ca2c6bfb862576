"""Photographs of 12 megapixels from files: images a second, and memory, by the number of workers.

    python examples/benchmarks/large_photographs.py

Shifted and turned copies of a photograph of gravel, enlarged to 4000 x 3000 pixels with noise, are
written as JPEG files, every tenth of them as a gray one and another tenth as PNG. For each number
of workers a fresh process reads the folder (a detector that takes the mean of what a network would
see), fits PatchCore on it, and scores it. Peak memory is that of the process beyond what it takes
to import everything and to run PatchCore on two small images. CPU time is that of all threads.

Versions without ``n_jobs`` give one row.
"""

import argparse
import inspect
import json
import subprocess
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

import joblib
import numpy as np
from PIL import Image
from skimage import data

from anomalib_lite import PatchCore

WIDTH, HEIGHT = 4000, 3000

RUN = """
import json, resource, sys, time
import numpy as np, torch
from anomalib_lite import BaseDetector, PatchCore

folder, options = sys.argv[1], json.loads(sys.argv[2])

class Reader(BaseDetector):
    def _learn(self, batches, n_images, generator):
        return torch.cat([batch.mean((1, 2, 3)) for _, batch in batches])

    def _infer(self, batch):
        return batch.mean((1, 2, 3)), batch.mean(1)

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # MB

def measure(action):
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - wall, time.process_time() - cpu, peak() - before

small = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
reader = Reader(false_alarm_rate=0.5, **options).fit(small)
detector = PatchCore(coreset=200, false_alarm_rate=0.5, random_state=0, **options).fit(small)
detector.score_samples(small)
before = peak()
print(json.dumps({
    "read": measure(lambda: reader.score_samples(folder)),
    "fit": measure(lambda: detector.fit(folder)),
    "score": measure(lambda: detector.score_samples(folder)),
}))
"""


def write_photographs(folder, n_photographs):
    rng = np.random.default_rng(0)
    gravel = np.asarray(Image.fromarray(data.gravel()).resize((WIDTH, HEIGHT), Image.BICUBIC))
    noise = rng.normal(0, 5, (HEIGHT, WIDTH, 3)).astype(np.float32)
    color = (gravel[..., None] * np.float32([1, 0.9, 0.8]) + noise).clip(0, 255).astype(np.uint8)
    for i in range(n_photographs):
        shifted = np.roll(color, rng.integers(HEIGHT), 0)[:: (-1) ** i, :: (-1) ** (i // 2)]
        picture, kind = Image.fromarray(shifted), "png" if i % 10 == 7 else "jpg"
        picture = picture.convert("L") if i % 10 == 3 else picture
        picture.save(folder / f"{i:04}.{kind}", quality=92, compress_level=1)


def measure(folder, options):
    command = [sys.executable, "-P", "-W", "ignore", "-c", RUN, str(folder), json.dumps(options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--photographs", type=int, default=20)
    parser.add_argument("--n-jobs", type=int, nargs="+", default=[1, 2, joblib.cpu_count()])
    arguments = parser.parse_args()
    choices = [{"n_jobs": n_jobs} for n_jobs in dict.fromkeys(arguments.n_jobs)]
    if "n_jobs" not in inspect.signature(PatchCore).parameters:
        choices = [{}]
    with tempfile.TemporaryDirectory() as folder:
        # elsewhere: a process begins with the peak of the one that started it
        writer = get_context("spawn").Process(
            target=write_photographs, args=(Path(folder), arguments.photographs)
        )
        writer.start()
        writer.join()
        print("| n_jobs | | images/s | CPU ms an image | peak, MB |")
        print("|---|---|---|---|---|")
        for options in choices:
            for name, (wall, cpu, peak) in measure(folder, options).items():
                print(
                    f"| {options.get('n_jobs', '')} | {name} | {arguments.photographs / wall:.1f} "
                    f"| {1e3 * cpu / arguments.photographs:.0f} | {peak:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
