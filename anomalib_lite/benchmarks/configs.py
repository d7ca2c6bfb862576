"""Benchmarks written down in TOML: methods by their names and settings, data sets by their loaders.

::

    out = "runs"
    seeds = [0, 1, 2]
    metrics = ["image_auroc", "aupro"]

    [methods.PatchCore]
    coreset = 0.01

    [methods."PaDiM, 50 features"]
    class = "PaDiM"
    n_features = 50

    [datasets.bottle]
    loader = "mvtec"
    root = "mvtec_ad"
    category = "bottle"

    [datasets.boots]
    loader = "fashion_mnist"
    one_vs_rest = "boot"
    n_train = 500

Paths are relative to the file. Without a ``category``, "mvtec" stands for all below ``root``, by
their names. Loaders are "mvtec", "elpv", "textile", "texture" (of which each seed draws its own
images) and "fashion_mnist", with the arguments of the functions in :mod:`anomalib_lite.data`.
"""

import inspect
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anomalib_lite

from ..annotations import Path as PathLike
from ..base import BaseDetector
from ..data.classes import load_fashion_mnist
from ..data.datasets import (
    AnomalyDataset,
    load_elpv,
    load_mvtec,
    load_textile,
    mvtec_categories,
)
from ..data.synthetic import planted_texture

_OPTIONS = ("seeds", "metrics", "out", "timeout")
_PATHS = ("root", "path")


def read_config(path: PathLike) -> dict[str, Any]:
    """The arguments of :func:`~anomalib_lite.benchmarks.benchmark` that a file stands for.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    arguments : dict
        ``methods``, ``datasets`` and, as far as the file has them, ``seeds``, ``metrics``, ``out``
        and ``timeout``.

    Raises
    ------
    ValueError
        If the file is no TOML, or names what there is not.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            config = tomllib.load(file)
        arguments = {name: config.pop(name) for name in _OPTIONS if name in config}
        if "out" in arguments:
            arguments["out"] = path.parent / arguments["out"]
        parts = {name: config.pop(name, None) for name in ("methods", "datasets")}
        for name, tables in parts.items():
            if not isinstance(tables, dict) or not all(
                isinstance(x, dict) for x in tables.values()
            ):
                raise ValueError(f"{name}: expected tables such as [{name}.NAME].")
        if config:
            known = ", ".join((*parts, *_OPTIONS))
            raise ValueError(f"{next(iter(config))}: expected one of {known}.")
        arguments["methods"] = {
            name: _method(name, dict(table)) for name, table in parts["methods"].items()
        }
        arguments["datasets"] = {
            name: load
            for title, table in parts["datasets"].items()
            for name, load in _datasets(title, dict(table), path.parent)
        }
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    return arguments


def _method(title, settings) -> BaseDetector:
    name = settings.pop("class", title)
    cls = getattr(anomalib_lite, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(cls) and issubclass(cls, BaseDetector)):
        raise ValueError(f"methods.{title}: expected the name of a detector, got {name!r}.")
    _check_names(f"methods.{title}", settings, cls)
    return cls(**settings)


def _datasets(title, settings, home):
    """Names and loaders of a table, which may stand for many categories."""
    name = settings.pop("loader", None)
    if name not in LOADERS:
        raise ValueError(f"datasets.{title}: expected a loader out of {[*LOADERS]}, got {name!r}.")
    _check_names(f"datasets.{title}", settings, LOADERS[name])
    settings |= {key: str(home / settings[key]) for key in _PATHS if key in settings}
    if name == "mvtec" and "category" not in settings:
        for category in mvtec_categories(settings.get("root", home)):
            yield category, partial(_load, name, {**settings, "category": category})
    else:
        yield title, partial(_load, name, settings)


def _load(name, settings, seed) -> AnomalyDataset:
    return LOADERS[name](**settings, seed=seed)


def _check_names(where, settings, function):
    known = [name for name in inspect.signature(function).parameters if name != "seed"]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"{where}: expected settings out of {known}, got {unknown[0]!r}.")


def _mvtec(root, category=None, *, seed):
    return load_mvtec(root, category)


def _elpv(kind="mono", n_train=400, *, seed):
    return load_elpv(kind, n_train)


def _textile(n_train=300, n_test=200, split=0, *, seed):
    return load_textile(n_train, n_test, split)


def _texture(texture, n_train=60, n_test=50, image_size=224, strength=1.0, *, seed):
    sizes = {"n_train": n_train, "n_test": n_test, "image_size": image_size}
    return planted_texture(texture, **sizes, strength=strength, random_state=seed)


def _fashion_mnist(one_vs_rest=None, rest_vs_one=None, n_train=None, path=None, *, seed):
    if (one_vs_rest is None) == (rest_vs_one is None):
        raise ValueError("expected either one_vs_rest or rest_vs_one, a class.")
    images = load_fashion_mnist(path)
    if one_vs_rest is not None:
        return images.one_vs_rest(one_vs_rest, n_train=n_train, random_state=seed)
    return images.rest_vs_one(rest_vs_one, n_train=n_train, random_state=seed)


LOADERS: dict[str, Callable[..., AnomalyDataset]] = {
    "mvtec": _mvtec,
    "elpv": _elpv,
    "textile": _textile,
    "texture": _texture,
    "fashion_mnist": _fashion_mnist,
}
