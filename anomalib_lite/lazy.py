"""Names of a package that load on first use, and with them what they need."""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from typing import Any


def lazy(
    package: str, homes: Mapping[str, str], modules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """A package's ``__getattr__``, which imports names from its modules, and its ``__dir__``.

    Parameters
    ----------
    package : str
        Its ``__name__``.
    homes : mapping of str to str
        The module of each name, from the package on.
    modules : collection of str, default=()
        Modules of the package that are names themselves.

    Examples
    --------
    >>> load, names = lazy("anomalib_lite", {"printable": "texts"})
    >>> load("printable")("one"), "printable" in names()
    ('one', True)
    """

    def load(name):
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(import_module(package), name, value)
        return value

    def names():
        return sorted({*vars(import_module(package)), *homes, *modules})

    return load, names
