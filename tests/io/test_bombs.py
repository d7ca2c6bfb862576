"""Small files that ask for much memory or time: each is refused before it gets them."""

import copy
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import forging
import pytest
import torch
from test_fuzz import SUBJECTS

from anomalib_lite import load
from anomalib_lite.data import NetworkInput
from anomalib_lite.io.persistence import FORMAT
from anomalib_lite.nn import DenseEncoder, MLPAutoencoder, PatchDetector, ResidualEncoder

ROOM, SECONDS = 500, 30  # MB and time that a refusal may take
GOOD = {"format": FORMAT, "versions": {"anomalib_lite": "0"}, "estimator": {"dict": []}}
SAVED = ("GaussianDensity", "MLSAD", "PatchCore", "RotationPrediction", "IsolationForest")


def altered(name, *path, value):
    """A bomb: a saved file with another value at a place of its manifest."""

    def make(folder):
        manifest, tensors = forging.parts_of(folder / f"{name}.alite")
        manifest = copy.deepcopy(manifest)
        where = manifest["estimator"]["estimator"]
        for key in path[:-1]:
            where = where[key]
        where[path[-1]] = value
        forging.forge(folder / "bomb.alite", manifest, tensors)

    return make


def text(manifest):
    """A bomb: a file of this manifest and no tensors."""
    return lambda folder: forging.forge(folder / "bomb.alite", manifest, {})


def raw(header, length=None):
    """A bomb: a file of a header, after its length or the one that it claims."""
    length = struct.pack("<Q", len(header) if length is None else length)
    return lambda folder: (folder / "bomb.alite").write_bytes(length + header)


def json_with(value):
    return json.dumps({**GOOD, "estimator": "HERE"}).replace('"HERE"', value)


def tensors(n, shape):
    one = f'{{"dtype":"F32","shape":[{shape}],"data_offsets":[0,0]}}'
    entries = ",".join(f'"{i}":{one}' for i in range(n))
    return f"{{{entries}}}".encode()


INPUT = ("state", "input_", "part", "state")
STORED = ("state", "backbone_", "part", "state")
HUGE = {"tuple": [10**6, 10**6]}
BOMBS = {
    "images of a million by a million": altered("PatchCore", *INPUT, "image_size", value=HUGE),
    "a network's own input": altered(
        "PatchCore", *STORED, "input", "part", "state", "image_size", value=HUGE
    ),
    "images of 6000 by 6000": altered("MLSAD", *INPUT, "image_size", value={"tuple": [6000, 6000]}),
    "images of two sizes": altered("PatchCore", *INPUT, "image_size", value={"tuple": [32, 8000]}),
    "crops": altered("PatchCore", *INPUT, "center_crop", value=HUGE),
    "smallest side": altered("PatchCore", *INPUT, "patch_size", value=10**9),
    "another network": altered("PatchCore", *STORED, "backbone", value="eva02_enormous_patch14"),
    "a giant network": altered("PatchCore", *STORED, "backbone", value="vit_giant_patch14_224"),
    "windows": altered(
        "RotationPrediction", "state", "_scoring_", "part", "state", "patch_stride", value=0
    ),
    "nodes": altered(
        "IsolationForest", "state", "detectors_", 0, "sklearn", "state", "_forest", value=None
    ),
    "columns": altered("GaussianDensity", "state", "n_features_in_", value=10**9),
    "columns of a forest": altered(
        "IsolationForest",
        "state",
        "detectors_",
        value=[
            {
                "sklearn": {
                    "class": "VarianceThreshold",
                    "params": {},
                    "state": {"n_features_in_": 10**9},
                }
            }
        ],
    ),
    "lists at the limit": text(json_with("[" + "[]," * 2_700_000 + "[]]")),
    "lists beyond the limit": text(json_with("[" + "[]," * 3_000_000 + "[]]")),
    "an int of a million digits": text(json_with("9" * 10**6)),
    "a long text": text(json_with('"' + "x" * 7_000_000 + '"')),
    "a long name of a class": text(
        json_with('{"estimator":{"class":"' + "x" * 7_000_000 + '","params":{},"state":{}}}')
    ),
    "nested lists": text(json_with("[" * 10**6 + "]" * 10**6)),
    "nested objects": text(json_with('{"dict":' * 10**5 + "1" + "}" * 10**5)),
    "a key twice": text('{"format": 1, ' + json.dumps(GOOD)[1:]),
    "not a number": text(json_with("NaN")),
    "infinity": text(json_with("-Infinity")),
    "a header of 64 MB": raw(b" " * 2**26),
    "a header as long as the universe": raw(b"{}" * 99, length=2**63),
    "many tensors": raw(tensors(200_000, 0)),
    "a tensor of a terabyte": raw(tensors(1, 2**38)),
    "a tensor of more than there is": raw(tensors(1, "4294967296,4294967296")),
    "a header with a key twice": raw(b'{"__metadata__":{},"__metadata__":{}}'),
}


def answers(folder):
    """Print what comes of each bomb, the growth of the peak of memory in MB, and the seconds."""
    load(folder / "PatchCore.alite")
    for name, make in BOMBS.items():
        make(folder)
        before, start = forging._peak(), time.monotonic()
        print(name, end="\t", flush=True)
        answer = forging.outcome(folder / "bomb.alite")
        print(answer, forging._peak() - before, time.monotonic() - start, sep="\t", flush=True)


def test_bombs_are_refused_in_little_memory(tmp_path):
    for name in SAVED:
        SUBJECTS[name]().save(tmp_path / f"{name}.alite")
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    found = [line.split("\t") for line in done.stdout.splitlines()]
    assert done.returncode == 0, (found[-1:], done.stderr[-999:])
    assert [name for name, *_ in found] == [*BOMBS]
    assert [row for row in found if row[1] != "refused"] == []
    assert [row for row in found if int(row[2]) > ROOM or float(row[3]) > SECONDS] == []


@pytest.mark.parametrize(
    ("network", "arguments"),
    [
        (PatchDetector, {"level": 1, "n_channels": 1, "n_blocks": 10**12}),
        (ResidualEncoder, {"n_channels": 1, "blocks": [10**12]}),
        (DenseEncoder, {"n_channels": 1, "n_layers": 10**12}),
        (MLPAutoencoder, {"shape": (4,), "latent_dim": 2, "hidden": [1] * 10**6}),
        (MLPAutoencoder, {"shape": (4,), "latent_dim": 2, "hidden": [10**9, 10**9]}),
    ],
    ids=str,
)
def test_networks_are_compared_with_their_weights_before_they_are_made(network, arguments):
    with pytest.raises((ValueError, RuntimeError)):  # load makes a ValueError of both
        network.from_state({"arguments": arguments, "weights": {"a": torch.zeros(1)}})


@pytest.mark.parametrize("size", [(10**6, 10**6), (6000, 6000), (1, 2**14), (0, 5), (-3, 5), "ab"])
def test_inputs_of_networks_are_bounded(size):
    with pytest.raises(ValueError, match="image_size"):
        NetworkInput(size, (0.0,) * 3, (1.0,) * 3, 8)


if __name__ == "__main__":
    answers(Path(sys.argv[1]))
