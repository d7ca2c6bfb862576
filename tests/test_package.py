"""What may import what, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anomalib_lite

HOME = Path(anomalib_lite.__file__).parent
# what a file or folder may import of the others: always something below it
BELOW = {
    "annotations": set(),
    "runtime": set(),
    "validation": set(),
    "metrics": set(),
    "io": {"runtime"},
    "data": {"validation"},
    "search": {"runtime"},
    "nn": {"runtime", "validation"},
    "density": {"runtime", "validation", "io", "nn"},
    "backbones": {"runtime", "validation", "data", "nn"},
    "base": {"runtime", "validation", "io", "data", "backbones"},
    "features": {"runtime", "validation", "backbones", "base"},
    "fakes": {"runtime", "validation", "data", "nn", "base"},
    "decide": {"runtime", "validation", "io", "data", "base"},
    "report": {"data"},
}
BELOW["methods"] = set(BELOW) - {"decide", "report", "metrics"}
for _above in set(BELOW) - {"annotations"}:
    BELOW[_above] = BELOW[_above] | {"annotations"}
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
    files = [HOME / f"{name}.py"] if (HOME / f"{name}.py").exists() else (HOME / name).glob("*.py")
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


def test_methods_import_no_method():
    for path in (HOME / "methods").glob("*.py"):
        others = {where[1] for where in imported(path) if where[0] == "methods"}
        assert others <= {STANDS_ON.get(path.stem)}, path


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'timm', 'sklearn', 'scipy', 'numpy', 'PIL', 'matplotlib'}"
    assert run(f"import sys, anomalib_lite; print(*({heavy} & set(sys.modules)))") == []


def test_matplotlib_waits_until_something_is_drawn():
    code = "import sys, anomalib_lite.report; print('matplotlib' in sys.modules)"
    assert run(code) == ["False"]


def test_public_names():
    for name in anomalib_lite.__all__:
        assert getattr(anomalib_lite, name) is not None
        assert name in dir(anomalib_lite)
    assert run("import anomalib_lite; print(anomalib_lite.metrics.__name__)") == [
        "anomalib_lite.metrics"
    ]
    with pytest.raises(AttributeError, match="Nonsense"):
        anomalib_lite.Nonsense  # noqa: B018
