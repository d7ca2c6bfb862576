"""Forged files: mutations of good ones with a right digest, and what comes of them.

Run as a script, it mutates saved files with a range of seeds and prints each seed with what came of
it, so that the seed of one that ends the process is known, too.
"""

import contextlib
import copy
import json
import resource
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from anomalib_lite import load
from anomalib_lite.io.container import digest

IMAGES = np.random.default_rng(1).integers(0, 256, (2, 32, 32), dtype=np.uint8)
ROWS = np.random.default_rng(1).normal(size=(3, 4))
SECONDS = 30  # that one mutation may take


def parts_of(path):
    """(manifest, tensors by name) of a saved file."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        return json.loads(file.metadata()["anomalib_lite"].split(" ", 1)[1]), tensors


def forge(path, manifest, tensors):
    """A file with a right digest, as anybody can make one."""
    text = manifest if isinstance(manifest, str) else json.dumps(manifest)
    save_file(tensors, path, metadata={"anomalib_lite": f"{digest(text, tensors)} {text}"})


# -- mutations ------------------------------------------------------------------------------------


def mutated(manifest, tensors, seed):
    """A manifest and tensors with one to three changes, always the same for a seed."""
    rng = np.random.default_rng(seed)
    manifest, tensors = copy.deepcopy(manifest), dict(tensors)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if tensors and rng.random() < 0.45:
            mutate_tensor(tensors, rng)
        else:
            mutate_manifest(manifest, tensors, rng)
    return manifest, tensors


def places(node):
    """(container, key) of every value below a node of JSON."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        yield node, key
        if isinstance(value, dict | list):
            yield from places(value)


def mutate_manifest(manifest, tensors, rng):
    found = list(places(manifest))
    container, key = found[rng.integers(len(found))]
    action = rng.choice(["value", "value", "number", "delete", "copy", "double"])
    if action == "delete":
        del container[key]
    elif action == "copy":
        other, name = found[rng.integers(len(found))]
        container[key] = copy.deepcopy(other[name]) if name in keys_of(other) else None
    elif action == "double" and isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))
    elif action == "number" and type(container[key]) in (int, float):
        factor = rng.choice([-1, 0, 2, 0.5, 1000, 1e9])
        container[key] = type(container[key])(container[key] * factor + rng.integers(-1, 2))
    else:
        container[key] = some_value(tensors, rng)


def keys_of(container):
    return container if isinstance(container, dict) else range(len(container))


def some_value(tensors, rng):
    names = [*tensors, "nothing"]
    name = names[rng.integers(len(names))]
    values = [
        None, True, False, -1, 0, 1, 2, 7, 2**31, 10**9, -(10**9), 10**30, 0.5, -0.5, 1e308, "",
        "x", "pca", "PatchCore", "OneClassSVM", "rbf", [], {}, [1, 2], [0, 10**6],
        {"float": "nan"}, {"float": "inf"}, {"float": "-inf"}, {"dict": []}, {"device": None},
        {"tuple": [10**6, 10**6]}, {"tuple": [1, 1]}, {"tensor": name}, {"array": name},
        {"transposed": name}, {"strings": ["a", "b"]}, {"path": "/"}, {"set": ["uint8"]},
        {"slice": [0, 10**9, 1]}, {"scalar": {"array": name}}, {"dtype": "float32"},
    ]  # fmt: skip
    return values[rng.integers(len(values))]


def mutate_tensor(tensors, rng):
    names = sorted(tensors)
    name = names[rng.integers(len(names))]
    tensor = tensors[name]
    action = rng.choice(["fill", "one", "one", "bytes", "dtype", "shape", "length", "swap", "gone"])
    if action == "gone":
        del tensors[name]
    elif action == "swap":
        other = names[rng.integers(len(names))]
        tensors[name], tensors[other] = tensors[other].clone(), tensors[name].clone()
    else:
        tensors[name] = globals()[f"_{action}"](tensor.clone(), rng).contiguous().clone()


def _extreme(tensor, rng):
    if tensor.dtype.is_floating_point:
        values = [0, -1, 1e30, -1e30, float("nan"), float("inf"), -float("inf"), 1e-40]
    elif tensor.dtype == torch.bool:
        values = [True, False]
    else:
        most = torch.iinfo(tensor.dtype).max
        values = [0, 1, most, most // 2, min(10**6, most), -1, -most, -2]
    return values[rng.integers(len(values))]


def _fill(tensor, rng):
    value = _extreme(tensor, rng)
    return torch.full_like(tensor, 0 if tensor.dtype == torch.uint8 and value < 0 else value)


def _one(tensor, rng):
    if tensor.numel():
        place = int(rng.integers(tensor.numel()))
        tensor.view(-1)[place] = _fill(tensor[None].view(-1)[:1], rng)[0]
    return tensor


def _bytes(tensor, rng):
    raw = tensor.contiguous().view(-1).view(torch.uint8) if tensor.numel() else tensor.view(-1)
    if len(raw):
        drawn = torch.from_numpy(rng.integers(0, 256, len(raw), dtype=np.uint8))
        raw.copy_(drawn)
    return tensor


def _dtype(tensor, rng):
    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
              torch.uint8, torch.bool, torch.complex64]  # fmt: skip
    return tensor.to(dtypes[rng.integers(len(dtypes))])


def _shape(tensor, rng):
    options = [tensor.reshape(-1), tensor[None], tensor[..., None], tensor.reshape(-1)[:0]]
    if tensor.ndim > 1:
        options.append(tensor.mT)
    if tensor.numel():
        options.append(tensor.reshape(-1)[0])
    return options[rng.integers(len(options))]


def _length(tensor, rng):
    if tensor.ndim == 0:
        return tensor[None]
    axis = int(rng.integers(tensor.ndim))
    if rng.random() < 0.5 and tensor.shape[axis]:
        return tensor.narrow(axis, 0, int(rng.integers(tensor.shape[axis])))
    return torch.cat([tensor] * 2, axis)


# -- what comes of them ---------------------------------------------------------------------------


def outcome(path):
    """What loading a file and scoring with it comes to; None for anything but an answer."""
    try:
        estimator = load(path)
    except ValueError:
        return "refused"
    try:
        use(estimator)
    except ValueError:
        return "scored or ValueError"
    return "scored"


def use(estimator):
    """Everything that gives numbers for new samples."""
    is_table = getattr(estimator, "input_", None) is None and hasattr(estimator, "n_features_in_")
    X = ROWS if is_table else IMAGES
    if hasattr(estimator, "inspect"):
        estimator.inspect(X)
    for name in ("predict", "decision_function", "score_samples", "anomaly_map", "transform"):
        if hasattr(estimator, name):
            getattr(estimator, name)(X)
    if hasattr(estimator, "sample"):
        estimator.sample(2, random_state=0)


def run(path, seeds):
    """Print what comes of each mutation of a file, and at last how much the peak of memory grew."""
    manifest, tensors = parts_of(path)
    use(load(path))
    before = _peak()
    forged = path.with_suffix(".forged")
    for seed in seeds:
        forge(forged, *mutated(manifest, tensors, seed))
        print(path.stem, seed, end="\t", flush=True)
        signal.alarm(SECONDS)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # a forged file may be verbose
                answer = outcome(forged)
            print(answer, flush=True)
        except Exception as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        signal.alarm(0)
    print(path.stem, "MB", _peak() - before, sep="\t", flush=True)


def _peak():
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in sys.argv[3:]:
        run(Path(name), range(int(sys.argv[1]), int(sys.argv[2])))
