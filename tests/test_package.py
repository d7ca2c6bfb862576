"""The house itself: what may import what, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import anomalib_lite

HOME = Path(anomalib_lite.__file__).parent
ESTIMATORS = {"conformal", "fakes", "features", "nce", "probing"}  # stand on base, as methods do
ROOMS = {path.stem for path in HOME.glob("*.py")} - {"__init__", "base"} - ESTIMATORS
# a room may use runtime and geometry, and besides those only what is listed here
NEIGHBOURS = {
    "backbones": {"images", "networks", "onnx_engine"},
    "coreset": {"neighbors"},
    "datasets": {"images"},
    "density": {"persistence"},
    "heads": {"density"},
    "persistence": {"sklearn_io"},
    "plotting": {"images"},
}
FIRST_STAGES = {"rotation", "contrastive_da", "cutpaste"}  # stand on two_stage
GROUND = {"runtime", "geometry"}


def local_imports(path):
    """Names of the package's own modules that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.add((node.module or "").split(".")[0] or node.names[0].name)
        elif isinstance(node, ast.ImportFrom) and node.module.startswith("anomalib_lite"):
            found.add(node.module.split(".")[1])
    return found


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_do_not_import_one_another(room):
    assert local_imports(HOME / f"{room}.py") <= GROUND | NEIGHBOURS.get(room, set())


def test_base_imports_rooms_and_methods_import_no_method():
    assert local_imports(HOME / "base.py") <= ROOMS
    methods = {path.stem for path in (HOME / "methods").glob("*.py")} - {"__init__"}
    for name in [*ESTIMATORS, *(f"methods/{method}" for method in methods)]:
        shared = {"two_stage"} if name.removeprefix("methods/") in FIRST_STAGES else set()
        shared |= {"methods/cance": {"nce"}, "methods/mlsad": {"fakes"}}.get(name, set())
        assert local_imports(HOME / f"{name}.py") <= ROOMS | {"base"} | shared


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'timm', 'sklearn', 'scipy', 'numpy', 'PIL', 'matplotlib'}"
    assert run(f"import sys, anomalib_lite; print(*({heavy} & set(sys.modules)))") == []


def test_matplotlib_waits_until_something_is_drawn():
    code = "import sys, anomalib_lite.plotting; print('matplotlib' in sys.modules)"
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
