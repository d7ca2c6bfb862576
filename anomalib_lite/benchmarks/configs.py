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

    [datasets.clothes]
    loader = "fashion_mnist"
    one_vs_rest = true

    [datasets.clothes.settings]
    image_size = 64

    [published.image_auroc.PatchCore]
    bottle = 1.0

Paths are relative to the file. ``settings`` are those of all methods on this data, ``kinds`` the
only defects to score, beside good images. Without a
``category``, MVTec's relatives and VisA stand for all below ``root``, by their names; the splits of
Fashion-MNIST stand for all classes where they are ``true``. Loaders take the arguments of the
functions in :mod:`anomalib_lite.data`; "texture" is :func:`~anomalib_lite.data.planted_texture`, of
which each seed draws its own images. ``published`` has figures of others, by metric.
"""

import inspect
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anomalib_lite

from ..annotations import Path as PathLike
from ..base import BaseDetector
from ..data.classes import FASHION_MNIST, load_fashion_mnist
from ..data.datasets import AnomalyDataset
from ..data.folders import load_folder
from ..data.mvtec import (
    load_btad,
    load_mvtec,
    load_mvtec_ad_2,
    load_mvtec_loco,
    mvtec_categories,
)
from ..data.packages import load_elpv, load_textile
from ..data.synthetic import planted_texture
from ..data.visa import load_visa, visa_categories
from .tables import Published

_PARTS = ("methods", "datasets")
_OPTIONS = ("seeds", "metrics", "out", "timeout")
_PATHS = ("root", "path", "good", "bad", "masks", "test_good")


class BenchmarkConfig(NamedTuple):
    """What a file asks for.

    Attributes
    ----------
    arguments : dict
        Those of :func:`~anomalib_lite.benchmarks.benchmark`: ``methods``, ``datasets``,
        ``settings`` and, as far as the file has them, ``seeds``, ``metrics``, ``out`` and
        ``timeout``.
    published : dict of str to dict
        Figures of others, by metric, method and data set.
    """

    arguments: dict[str, Any]
    published: dict[str, Published]


def read_config(path: PathLike) -> BenchmarkConfig:
    """The benchmark that a file stands for.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    config : BenchmarkConfig

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
        methods, datasets = (_tables(name, config.pop(name, None)) for name in _PARTS)
        published = config.pop("published", {})
        if config:
            known = ", ".join((*_PARTS, "published", *_OPTIONS))
            raise ValueError(f"{next(iter(config))}: expected one of {known}.")
        arguments["methods"] = {name: _method(name, table) for name, table in methods.items()}
        arguments |= _all_datasets(datasets, path.parent)
        _check_published(published)
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    return BenchmarkConfig(arguments, published)


def _tables(name, tables):
    if not (isinstance(tables, dict) and all(isinstance(x, dict) for x in tables.values())):
        raise ValueError(f"{name}: expected tables such as [{name}.NAME].")
    return {title: dict(table) for title, table in tables.items()}


def _all_datasets(tables, home):
    datasets, settings = {}, {}
    for title, table in tables.items():
        adapted = table.pop("settings", {})
        for name, load in _datasets(title, table, home):
            if name in datasets:
                raise ValueError(
                    f"datasets.{title}: expected another name than {name}, used above."
                )
            datasets[name], settings[name] = load, adapted
    return {"datasets": datasets, "settings": settings}


def _check_published(published):
    figures = [
        figure
        for metric, tables in _tables("published", published).items()
        for table in _tables(f"published.{metric}", tables).values()
        for figure in table.values()
    ]
    if not all(isinstance(figure, int | float) for figure in figures):
        raise ValueError("published: expected figures, as in [published.image_auroc.PatchCore].")


def _method(title, settings) -> BaseDetector:
    name = settings.pop("class", title)
    cls = getattr(anomalib_lite, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(cls) and issubclass(cls, BaseDetector)):
        raise ValueError(f"methods.{title}: expected the name of a detector, got {name!r}.")
    _check_names(f"methods.{title}", settings, cls)
    return cls(**settings)


def _datasets(title, settings, home):
    """Names and loaders of a table, which may stand for many categories or classes."""
    name, kinds = settings.pop("loader", None), settings.pop("kinds", None)
    if name not in LOADERS:
        raise ValueError(f"datasets.{title}: expected a loader out of {[*LOADERS]}, got {name!r}.")
    _check_names(f"datasets.{title}", settings, LOADERS[name])
    settings |= {key: str(home / settings[key]) for key in _PATHS if key in settings}
    if name in _CATEGORIES and "category" not in settings:
        for category in _CATEGORIES[name](settings.get("root", home)):
            yield category, partial(_load, name, {**settings, "category": category}, kinds)
        return
    for split, named in _SPLITS.items():
        if settings.get(split) is True:
            for kind in FASHION_MNIST:
                yield named.format(kind), partial(_load, name, {**settings, split: kind}, kinds)
            return
    yield title, partial(_load, name, settings, kinds)


def _load(name, settings, kinds, seed) -> AnomalyDataset:
    dataset = LOADERS[name](**settings, seed=seed)
    return dataset if kinds is None else dataset.of_kinds(*kinds)


def _check_names(where, settings, function):
    known = [name for name in inspect.signature(function).parameters if name != "seed"]
    unknown = sorted(settings.keys() - set(known))
    if unknown:
        raise ValueError(f"{where}: expected settings out of {known}, got {unknown[0]!r}.")


def _folder(good, bad, masks=None, test_good=None, test_size=0.3, *, seed):
    cut = {"test_good": test_good, "test_size": test_size, "random_state": seed}
    return load_folder(good, bad, masks, **cut)


def _mvtec(root, category=None, *, seed):
    return load_mvtec(root, category)


def _mvtec_loco(root, category=None, validation=False, *, seed):
    return load_mvtec_loco(root, category, validation=validation)


def _mvtec_ad_2(root, category=None, validation=False, *, seed):
    return load_mvtec_ad_2(root, category, validation=validation)


def _btad(root, category=None, *, seed):
    return load_btad(root, category)


def _visa(root, category, *, seed):
    return load_visa(root, category)


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
    "folder": _folder,
    "mvtec": _mvtec,
    "mvtec_loco": _mvtec_loco,
    "mvtec_ad_2": _mvtec_ad_2,
    "btad": _btad,
    "visa": _visa,
    "elpv": _elpv,
    "textile": _textile,
    "texture": _texture,
    "fashion_mnist": _fashion_mnist,
}
_CATEGORIES = {
    **dict.fromkeys(("mvtec", "mvtec_loco", "mvtec_ad_2", "btad"), mvtec_categories),
    "visa": visa_categories,
}
_SPLITS = {"one_vs_rest": "{}", "rest_vs_one": "all but {}"}  # and names of its data sets
