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
only defects to score, beside good images. Without a ``category``, MVTec's relatives and VisA stand
for all below ``root``, by their names; the splits of Fashion-MNIST stand for all classes where they
are ``true``. Loaders have arguments of the functions in :mod:`anomalib_lite.data`; "texture" is
:func:`~anomalib_lite.data.planted_texture`, of which each seed draws its own images. ``published``
has figures of others, by metric. ``"None"`` is Python's None.
"""

import inspect
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import anomalib_lite

from ..annotations import Path as PathLike
from ..base import BaseDetector
from .loaders import check_arguments, named_loaders
from .row import COSTS, OF_IMAGES, OF_PIXELS
from .tables import Published

_PARTS = ("methods", "datasets")
_OPTIONS = ("seeds", "metrics", "out", "timeout")


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
            if not isinstance(arguments["out"], str):
                raise ValueError(f"out: expected a folder, got {arguments['out']!r}.")
            arguments["out"] = path.parent / arguments["out"]
        methods, datasets = (_tables(name, config.pop(name, None)) for name in _PARTS)
        published = _tables("published", config.pop("published", {}))
        if config:
            known = ", ".join((*_PARTS, "published", *_OPTIONS))
            raise ValueError(f"{next(iter(config))}: expected one of {known}.")
        arguments["methods"] = {name: _method(name, table) for name, table in methods.items()}
        arguments |= _datasets(datasets, path.parent)
        _check_published(published, arguments["methods"], arguments["datasets"])
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    return BenchmarkConfig(arguments, published)


def _tables(name, tables):
    if not (isinstance(tables, dict) and all(isinstance(x, dict) for x in tables.values())):
        raise ValueError(f"{name}: expected tables such as [{name}.NAME].")
    return {title: dict(table) for title, table in tables.items()}


def _method(title, settings) -> BaseDetector:
    name = settings.pop("class", title)
    cls = getattr(anomalib_lite, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(cls) and issubclass(cls, BaseDetector)):
        raise ValueError(f"methods.{title}: expected the name of a detector, got {name!r}.")
    check_arguments(f"methods.{title}", settings, cls)
    return cls(**_all_as_python(settings))


def _all_as_python(settings):
    return {
        key: _all_as_python(value) if isinstance(value, dict) else _as_python(value)
        for key, value in settings.items()
    }


def _as_python(value):
    """TOML has neither None nor tuples."""
    if isinstance(value, list):
        return tuple(map(_as_python, value))
    return None if value == "None" else value


def _datasets(tables, home):
    """All data sets, and what is set on each; a name that is taken gets its table's before it."""
    datasets, settings = {}, {}
    for title, table in tables.items():
        adapted = table.pop("settings", {})
        if not isinstance(adapted, dict):
            raise ValueError(f"datasets.{title}: expected settings in a table, got {adapted!r}.")
        adapted = _all_as_python(adapted)
        for name, load in named_loaders(title, table, home):
            name = f"{title}: {name}" if name in datasets else name
            if name in datasets:
                raise ValueError(f"datasets.{title}: expected another name than {name}.")
            datasets[name], settings[name] = load, adapted
    return {"datasets": datasets, "settings": settings}


def _check_published(published, methods, datasets):
    known = {"metric": [*OF_IMAGES, *OF_PIXELS, *COSTS], "method": methods, "data set": datasets}
    for metric, tables in published.items():
        for method, figures in _tables(f"published.{metric}", tables).items():
            for dataset, figure in figures.items():
                names = zip(known.items(), (metric, method, dataset), strict=True)
                for (what, possible), name in names:
                    if name not in possible:
                        raise ValueError(
                            f"published: expected a {what} out of {[*possible]}, got {name!r}."
                        )
                if isinstance(figure, bool) or not isinstance(figure, int | float):
                    raise ValueError(f"published: expected figures, got {figure!r}.")
