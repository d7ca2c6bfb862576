"""Settings of the methods, read from their source, so that none has to be imported for ``--help``.

The parameters of a method's ``__init__`` become flags: ``image_size`` is ``--image-size``.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import anomalib_lite

METHODS = {
    name.lower(): name
    for name, module in anomalib_lite._CLASSES_AND_FUNCTIONS.items()
    if module.startswith("methods.")
}
"""Public names of the methods, by what they are called on the command line."""

LABELED = "labeledpatchcore"
"""What learns from images of defects, too."""

SUGGESTED = "suggested"
"""What ``suggest_settings`` makes, instead of a method that is named."""

OURS = frozenset({"false_alarm_rate", "verbose"})
"""Parameters for which the command line has flags of its own."""


class Setting(NamedTuple):
    """A parameter of a method.

    Attributes
    ----------
    name : str
    default : str
        As the source has it.
    help : str
        The first sentence of its documentation.
    """

    name: str
    default: str
    help: str

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


@cache
def settings_of(method: str) -> list[Setting]:
    """Settings of a method by its public name, in the order of its ``__init__``.

    Examples
    --------
    >>> setting = next(each for each in settings_of("PatchCore") if each.name == "image_size")
    >>> setting.flag, setting.default
    ('--image-size', 'None')
    """
    cls = _class_of(method)
    (init,) = (node for node in cls.body if getattr(node, "name", None) == "__init__")
    named = [*init.args.args[1:], *init.args.kwonlyargs]
    defaults = [*init.args.defaults, *init.args.kw_defaults]
    texts = _documented(ast.get_docstring(cls))
    return [
        Setting(argument.arg, ast.unparse(default), texts.get(argument.arg, ""))
        for argument, default in zip(named, defaults, strict=True)
        if argument.arg not in OURS
    ]


def parse_value(text: str) -> Any:
    """The value of a flag: a Python literal where it is one, else the text itself.

    Examples
    --------
    >>> parse_value("0.01"), parse_value("(8, 16)"), parse_value("None"), parse_value("resnet18")
    (0.01, (8, 16), None, 'resnet18')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text


def _class_of(name):
    """The syntax tree of a public class, found without importing its module."""
    package = Path(anomalib_lite.__file__).parent
    home = package.joinpath(*anomalib_lite._CLASSES_AND_FUNCTIONS[name].split("."))
    for path in sorted(home.glob("*.py")) if home.is_dir() else [home.with_suffix(".py")]:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name == name:
                return node
    raise ValueError(f"{name}: its source was not found in {home}.")


def _documented(text):
    """First sentences by name, from the section Parameters of a numpydoc text."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-+\n)", text, re.S | re.M)
    found = re.findall(r"^(\w[\w, ]*) : [^\n]*\n((?:    [^\n]*\n|\n)*)", section[1], re.M)
    return {name: _first_sentence(body) for names, body in found for name in names.split(", ")}


def _first_sentence(body):
    text = re.sub(r":\w+:`~?([\w.]+\.)?(\w+)`", r"\2", " ".join(body.split()))
    return re.split(r"(?<=[.;])\s", text.replace("``", ""))[0].rstrip(".;")
