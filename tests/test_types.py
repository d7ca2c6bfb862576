"""What editors and type checkers say of a user's script."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
GIVEN = "import numpy as np\nimages = np.zeros((4, 64, 64), dtype=np.uint8)\n"
RIGHT = """
import anomalib_lite
from anomalib_lite import BaseDetector, ConformalDetector, PaDiM, PatchCore, load
from anomalib_lite.data import planted_texture
from anomalib_lite.metrics import image_auroc
from anomalib_lite.report import AnomalyMapDisplay

detector = PatchCore(coreset=0.1, image_size=(64, 64), random_state=0).fit(images)
scores: np.ndarray = detector.score_samples(["a.png", "b.png"])
detector.save("part.alite")
loaded = load("part.alite")
PaDiM(image_size=64).partial_fit(images).set_params(smoothing=2.0)
anomalib_lite.metrics.image_auroc([0, 1], scores)
ConformalDetector(detector).fit(images).p_values(images)
AnomalyMapDisplay.from_estimator(detector, images).figure_.savefig("maps.png")


class Own(BaseDetector):
    def _infer(self, batch):
        return batch.mean((1, 2, 3)), batch.mean(1)


Own(image_size=32).fit(images).predict(images)
"""
WRONG = {
    "PatchCore(corset=0.1)": "corset",
    "PatchCore().fit_images(images)": "fit_images",
    "PatchCore(smoothing='much')": "smoothing",
    "PatchCore().inspect(images).heatmaps": "heatmaps",
    "PatchCore().score_samples()": "X",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Errors of pyright, by file name."""
    folder = tmp_path_factory.mktemp("scripts")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (folder / "readme.py").write_text(GIVEN + "\n".join(blocks))
    (folder / "right.py").write_text(GIVEN + RIGHT)
    for i, line in enumerate(WRONG):
        (folder / f"wrong{i}.py").write_text(
            f"{GIVEN}from anomalib_lite import PatchCore\n{line}\n"
        )
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run([*command, folder], capture_output=True, text=True, cwd=folder)
    errors = {path.stem: [] for path in folder.glob("*.py")}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        if one["severity"] == "error":
            errors[Path(one["file"]).stem].append(one["message"])
    return errors


@pytest.mark.parametrize("script", ["readme", "right"])
def test_pyright_finds_nothing_wrong_with_right_code(found, script):
    assert found[script] == []


@pytest.mark.parametrize("line", WRONG)
def test_pyright_reports_a_mistake(found, line):
    (message,) = found[f"wrong{list(WRONG).index(line)}"]
    assert WRONG[line] in message


@pytest.mark.slow
def test_mypy_agrees(tmp_path):
    (tmp_path / "right.py").write_text(GIVEN + RIGHT)
    (tmp_path / "wrong.py").write_text("from anomalib_lite import PatchCore\nPatchCore(corset=1)\n")
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "right.py", "wrong.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    (message,) = (line for line in done.stdout.splitlines() if "error" in line)
    assert message.startswith("wrong.py:2")
    assert "corset" in message
