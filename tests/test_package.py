"""What may import what, and which names are public."""

import ast
import importlib
from pathlib import Path

import pytest
from mutations import MUTATIONS

import anomalib_lite

HOME = Path(anomalib_lite.__file__).parent
# what a file or folder may import of the others: always something below it
BELOW = {
    "annotations": set(),
    "lazy": set(),
    "texts": set(),
    "notices": set(),
    "runtime": set(),
    "contexts": {"runtime"},
    "validation": set(),
    "workers": {"contexts", "validation"},
    "curves": set(),
    "intervals": {"validation"},
    "metrics": {"validation", "curves", "intervals"},
    "tally": {"validation", "curves", "intervals", "metrics"},
    "io": {"runtime", "contexts"},
    "data": {"notices", "workers", "contexts", "validation"},
    "search": {"workers", "runtime", "contexts", "validation"},
    "nn": {"workers", "notices", "runtime", "contexts", "validation"},
    "density": {"workers", "runtime", "contexts", "validation", "io", "nn", "ranking"},
    "backbones": {"workers", "runtime", "contexts", "validation", "data", "nn"},
    "regions": {"validation"},
    "records": {"regions"},
    "inspection": {"validation", "notices", "io", "data", "regions", "records"},
    "deploy": {"validation", "texts", "io", "data", "inspection"},
    "comparison": {"records"},
    "suspects": set(),
    "ranking": set(),
    "recall": {"validation"},
    "notes": {"notices", "runtime", "data"},
    "views": {"runtime", "validation", "data", "notes"},
    "batches": {"runtime", "workers", "data", "notes"},
    "base": {
        *("runtime", "contexts", "validation", "workers", "io", "data", "backbones"),
        *("inspection", "notices", "notes", "batches", "ranking", "recall"),
    },
    "merging": {
        *("runtime", "contexts", "validation", "workers", "data", "backbones"),
        *("notices", "notes", "suspects"),
    },
    "features": {"workers", "runtime", "contexts", "validation", "backbones", "base"},
    "fakes": {"workers", "runtime", "contexts", "validation", "data", "nn", "base"},
    "decide": {
        *("workers", "notices", "runtime", "contexts", "validation", "io", "data"),
        *("inspection", "base"),
    },
    "report": {
        *("workers", "contexts", "validation", "io", "data", "regions", "records", "inspection"),
        *("intervals", "metrics", "texts", "comparison", "deploy", "ranking", "recall"),
    },
}
_NOT_FOR_METHODS = {
    *("decide", "report", "metrics", "curves", "intervals", "tally", "comparison", "recall"),
}
BELOW["export"] = {
    *("runtime", "contexts", "validation", "io", "data", "density", "backbones", "report"),
    "deploy",
}
for _above in ("base", "decide"):
    BELOW[_above].add("export")
BELOW["methods"] = set(BELOW) - _NOT_FOR_METHODS - {"deploy", "export"}
BELOW["ensemble"] = {
    *("notices", "runtime", "contexts", "validation", "workers", "data", "backbones", "inspection"),
    *("notes", "base", "methods", "ranking"),
}
BELOW["selection"] = {
    *("notices", "runtime", "validation", "texts", "data", "base", "decide", "methods", "ensemble"),
}
BELOW["benchmarks"] = {"runtime", "validation", "texts", "io", "data", "base", "metrics"}
BELOW["testing"] = {"base", "inspection", "io"}
BELOW["distributed"] = {
    *("workers", "notices", "runtime", "contexts", "validation", "texts", "io", "data", "records"),
    *("inspection", "deploy", "base", "decide", "merging", "notes"),
}
BELOW["cli"] = set(BELOW) - {"annotations"}
BELOW["__main__"] = {"cli"}
for _above in set(BELOW) - {"annotations", "lazy"}:
    BELOW[_above] = BELOW[_above] | {"annotations", "lazy"}
STANDS_ON = {"rotation": "two_stage", "contrastive_da": "two_stage", "cutpaste": "two_stage"}


def imported(path):
    """Dotted names, from the package on, of the modules of its own that a file imports."""
    inside = path.relative_to(HOME).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = list(inside[: len(inside) - node.level + 1])
            yield [*base, *(node.module or node.names[0].name).split(".")]
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("anomalib_lite"):
            yield (node.module.split(".") + [alias.name for alias in node.names])[1:]


@pytest.mark.parametrize("name", sorted(BELOW))
def test_imports_point_downwards(name):
    files = [HOME / f"{name}.py"] if (HOME / f"{name}.py").exists() else (HOME / name).rglob("*.py")
    for path in files:
        assert {where[0] for where in imported(path)} <= BELOW[name] | {name}, path


def test_every_file_has_its_place():
    found = {path.stem for path in HOME.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert found - {"__init__", "__pycache__"} == set(BELOW)


def test_nothing_below_is_circular():
    order = []
    while len(order) < len(BELOW):
        ready = [name for name in BELOW if name not in order and BELOW[name] <= set(order)]
        assert ready, set(BELOW) - set(order)
        order += ready


def test_planted_bugs_fit_the_code():
    for bug in MUTATIONS:
        assert (HOME / bug.file).read_text(encoding="utf-8").count(bug.old) == 1, bug


def test_methods_import_no_method():
    for path in (HOME / "methods").rglob("*.py"):
        own = path.relative_to(HOME / "methods").with_suffix("").parts[0]
        others = {where[1] for where in imported(path) if where[0] == "methods"} - {own}
        assert others <= {STANDS_ON.get(own)}, path


def test_public_names():
    for name in anomalib_lite.__all__:
        assert getattr(anomalib_lite, name) is not None
        assert name in dir(anomalib_lite)
    with pytest.raises(AttributeError, match="Nonsense"):
        anomalib_lite.Nonsense  # noqa: B018


def test_type_checkers_see_the_names_that_load_on_first_use():
    tree = ast.parse((HOME / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for node in block.body:
        for alias in node.names:
            assert alias.asname == alias.name  # as the convention for re-exported names has it
            seen[alias.name] = node.module
    modules = {name for name, home in seen.items() if home is None}
    assert modules == anomalib_lite._MODULES
    assert {n: seen[n] for n in set(seen) - modules} == anomalib_lite._CLASSES_AND_FUNCTIONS
    assert {*anomalib_lite.__all__} == {*anomalib_lite._CLASSES_AND_FUNCTIONS, "__version__"}


@pytest.mark.parametrize("folder", ["data", "deploy", "distributed", "io", "report"])
def test_type_checkers_see_the_names_of_folders_that_load_on_first_use(folder):
    tree = ast.parse((HOME / folder / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    (table,) = (node for node in ast.walk(tree) if isinstance(node, ast.Dict))
    assert seen == ast.literal_eval(table)
    module = importlib.import_module(f"anomalib_lite.{folder}")
    assert {*module.__all__} == {*seen}
    assert {*seen} <= {*dir(module)}
    with pytest.raises(AttributeError, match="Nonsense"):
        module.Nonsense  # noqa: B018


@pytest.mark.parametrize("folder", sorted(p.parent.name for p in HOME.glob("*/__init__.py")))
def test_a_folder_names_what_is_public_in_it(folder):
    module = importlib.import_module(f"anomalib_lite.{folder}")
    for name in getattr(module, "__all__", ()):
        assert getattr(module, name) is not None
