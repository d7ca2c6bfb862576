"""Data sets as a file names them: by a loader, its arguments, and kinds of defects."""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class NamedLoader:
    """Loads a data set when it is called with a seed.

    Attributes
    ----------
    loader : str
        A key of ``LOADERS``.
    arguments : dict
    kinds : tuple of str or None
        The only defects to score.
    home : Path
        What relative paths among the arguments are relative to.
    """

    loader: str
    arguments: Mapping[str, Any]
    kinds: tuple[str, ...] | None
    home: Path

    def __call__(self, seed: int) -> AnomalyDataset:
        paths = {key: str(self.home / self.arguments[key]) for key in _PATHS & {*self.arguments}}
        function = LOADERS[self.loader]
        drawn = {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
        dataset = function(**{**self.arguments, **paths, **drawn})
        return dataset if self.kinds is None else dataset.of_kinds(*self.kinds)

    @property
    def description(self) -> str:
        """What is loaded, in words that change with it."""
        said = {"loader": self.loader, **self.arguments}
        return json.dumps(said if self.kinds is None else {**said, "kinds": self.kinds})


def named_loaders(
    title: str, table: Mapping[str, Any], home: Path
) -> Iterator[tuple[str, NamedLoader]]:
    """Names and loaders of a table, which may stand for many categories or classes.

    Raises ValueError if it asks for what there is not.
    """
    arguments, where = dict(table), f"datasets.{title}"
    name, kinds = arguments.pop("loader", None), arguments.pop("kinds", None)
    if not isinstance(name, str) or name not in LOADERS:
        raise ValueError(f"{where}: expected a loader out of {[*LOADERS]}, got {name!r}.")
    if kinds is not None:
        if not (kinds and isinstance(kinds, list) and all(isinstance(x, str) for x in kinds)):
            raise ValueError(f"{where}: expected kinds such as ['scratch'], got {kinds!r}.")
        kinds = tuple(kinds)
    many = dict(_many(name, arguments, home, where))
    for label, added in many.items() if many else {title: {}}.items():
        found = NamedLoader(name, arguments | added, kinds, home)
        check_arguments(where, found.arguments, LOADERS[name])
        yield label, found


def check_arguments(where: str, given: Mapping[str, Any], function: Callable) -> None:
    """Raise ValueError unless a function, or class, takes these arguments and needs no others."""
    parameters = inspect.signature(function).parameters
    known = [name for name in parameters if name != "seed"]
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise ValueError(f"{where}: expected settings out of {known}, got {unknown[0]!r}.")
    missing = [
        name
        for name in known
        if parameters[name].default is inspect.Parameter.empty and name not in given
    ]
    if missing:
        raise ValueError(f"{where}: expected {', '.join(missing)}, got {[*given]}.")


def _many(name, arguments, home, where):
    """Names of the categories or classes of a table, and the argument that each adds."""
    for key in _PATHS & {*arguments}:
        if not isinstance(arguments[key], str):
            raise ValueError(f"{where}: expected a path as {key}, got {arguments[key]!r}.")
    if name in _CATEGORIES and "category" not in arguments:
        if "root" not in arguments:
            raise ValueError(f"{where}: expected root, the folder of all categories.")
        for category in _CATEGORIES[name](home / arguments["root"]):
            yield category, {"category": category}
    if name == "fashion_mnist":
        splits = [split for split in _SPLITS if split in arguments]
        if len(splits) != 1:
            raise ValueError(f"{where}: expected either one_vs_rest or rest_vs_one, got {splits}.")
        if arguments[splits[0]] is True:
            for kind in FASHION_MNIST:
                yield _SPLITS[splits[0]].format(kind), {splits[0]: kind}


def _folder(good, bad, masks=None, test_good=None, test_size=0.3, *, seed):
    cut = {"test_good": test_good, "test_size": test_size, "random_state": seed}
    return load_folder(good, bad, masks, **cut)


def _elpv(kind="mono", n_train=400):
    return load_elpv(kind, n_train)


def _texture(texture, n_train=60, n_test=50, image_size=224, strength=1.0, *, seed):
    sizes = {"n_train": n_train, "n_test": n_test, "image_size": image_size}
    return planted_texture(texture, **sizes, strength=strength, random_state=seed)


def _fashion_mnist(one_vs_rest=None, rest_vs_one=None, n_train=None, path=None, *, seed):
    images = load_fashion_mnist(path)
    if one_vs_rest is not None:
        return images.one_vs_rest(one_vs_rest, n_train=n_train, random_state=seed)
    return images.rest_vs_one(rest_vs_one, n_train=n_train, random_state=seed)


LOADERS: dict[str, Callable[..., AnomalyDataset]] = {
    "folder": _folder,
    "mvtec": load_mvtec,
    "mvtec_loco": load_mvtec_loco,
    "mvtec_ad_2": load_mvtec_ad_2,
    "btad": load_btad,
    "visa": load_visa,
    "elpv": _elpv,
    "textile": load_textile,
    "texture": _texture,
    "fashion_mnist": _fashion_mnist,
}
_PATHS = {"root", "path", "good", "bad", "masks", "test_good"}
_CATEGORIES = {
    **dict.fromkeys(("mvtec", "mvtec_loco", "mvtec_ad_2", "btad"), mvtec_categories),
    "visa": visa_categories,
}
_SPLITS = {"one_vs_rest": "{}", "rest_vs_one": "all but {}"}  # and names of its data sets
