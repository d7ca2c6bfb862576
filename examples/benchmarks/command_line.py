"""The command line: seconds to answer, one image from a cold start, memory over 1,000 images.

    python examples/benchmarks/command_line.py

Medians of ``--repeats`` fresh processes, by turns. "import torch" and "import timm" are what any
program of this kind starts with. Memory is the resident set of ``inspect`` on 1,000 copies of solar
cells (PNG and JPEG, 300 px) with a table and a report, once a second, from /proc (Linux).
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from anomalib_lite.data import load_elpv

PROGRAM = [sys.executable, "-m", "anomalib_lite"]


def seconds(*command, cwd):
    """Wall seconds of a process."""
    start = time.perf_counter()
    subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def answers(home, repeats):
    """Print a table of starts."""
    commands = {
        "python, nothing": [sys.executable, "-c", "pass"],
        "anomalib-lite --help": [*PROGRAM, "--help"],
        "anomalib-lite fit --help": [*PROGRAM, "fit", "--help"],
        "import torch": [sys.executable, "-c", "import torch"],
        "import timm": [sys.executable, "-c", "import timm"],
        "anomalib-lite inspect, 1 image": [*PROGRAM, "inspect", "cell.alite", "new/0000.jpg"],
        "anomalib-lite info": [*PROGRAM, "info", "cell.alite"],
    }
    taken = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            taken[name].append(seconds(*command, cwd=home))
    print("| | seconds |\n|---|---|")
    for name, all_taken in taken.items():
        print(f"| {name} | {statistics.median(all_taken):.2f} |", flush=True)


def memory(home):
    """Print the resident set of a long inspection, second by second."""
    command = [*PROGRAM, "inspect", "cell.alite", "new", "--csv", "new.csv", "--report", "new.html"]
    start = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    curve = []
    while process.poll() is None:
        curve.append(resident(process.pid))
        time.sleep(1)
    print(
        f"\n{len(list((home / 'new').iterdir()))} images, table and report: "
        f"{time.perf_counter() - start:.1f} s; resident MB, second by second:"
    )
    print(" ".join(f"{megabytes:.0f}" for megabytes in curve))


def resident(process_id):
    """Resident memory of a process in MB."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1e3
    return 0.0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    cells = load_elpv()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for name, images in (("good", cells.train[:200]), ("new", cells.test)):
            (home / name).mkdir()
            for i in range(len(images) if name == "good" else args.images):
                picture = Image.fromarray(images[i % len(images)])
                picture.save(home / name / f"{i:04d}.{'png' if i % 2 else 'jpg'}")
        subprocess.run([*PROGRAM, "fit", "good", "-o", "cell.alite", "--quiet"], cwd=home)
        answers(home, args.repeats)
        memory(home)


if __name__ == "__main__":
    main()
