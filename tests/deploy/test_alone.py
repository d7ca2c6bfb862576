"""The reader and its commands where PyTorch, SciPy, scikit-learn, timm and onnx are missing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toys
from PIL import Image

from anomalib_lite.deploy import OnnxDetector

HERE = Path(__file__).parent
READ = """
import numpy as np
from anomalib_lite.data import ImageStream
from anomalib_lite.deploy import OnnxDetector
from anomalib_lite.report import overlay, write

detector = OnnxDetector("part.onnx")
seen = detector.inspect("new", on_error="skip")
seen.to_csv("seen.csv")
write("page.html", detector, "new")
picture = next(iter(detector.iter_inspect("new", on_error="skip"))).map
overlay(np.zeros((60, 80)), picture, detector.map_levels()).save("overlay.png")
print(*seen.labels, len(seen.regions()[0]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an exported detector, and pictures: four good, two odd, one broken."""
    place = tmp_path_factory.mktemp("place")
    toys.write(place / "part.onnx")
    (place / "new").mkdir()
    pictures = np.random.default_rng(0).integers(90, 120, (6, 60, 80, 3), dtype=np.uint8)
    pictures[4:, 10:50, 10:70] = 255
    for i, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(place / "new" / f"{i}.png")
    (place / "new" / "broken.png").write_bytes(b"no picture")
    return place


def alone(place, *args):
    """Exit code, lines on stdout, and stderr."""
    command = [sys.executable, "-W", "error::RuntimeWarning", str(HERE / "alone.py"), *args]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_images_are_inspected_with_tables_pictures_and_a_page(place):
    code, lines, err = alone(
        place,
        *("inspect", "part.onnx", "new", "--csv", "a.csv", "--jsonl", "a.jsonl"),
        *("--report", "a.html", "--overlays", "overlays"),
    )
    assert code == 2, err  # one image is broken
    verdicts = [line.split()[0] for line in lines]
    assert verdicts == ["normal"] * 4 + ["anomalous"] * 2 + ["unreadable"]
    records = [json.loads(line) for line in (place / "a.jsonl").read_text().splitlines()]
    with pytest.warns(UserWarning, match="1 image was skipped"):
        expected = OnnxDetector(place / "part.onnx").anomaly_score(place / "new", on_error="skip")
    np.testing.assert_array_equal([each["anomaly_score"] for each in records[:6]], expected[:6])
    assert len((place / "a.csv").read_text().splitlines()) == 8
    assert sorted(path.name for path in (place / "overlays").iterdir()) == ["4.jpg", "5.jpg"]
    page = (place / "a.html").read_text()
    assert "2 of 6 parts look anomalous" in page
    assert toys.card().promise in page
    assert page.count("data:image/jpeg") >= 12
    assert "cpu, by ONNX Runtime" in page


def test_the_reader_in_python(place):
    code, lines, err = alone(place, "-c", READ)
    assert code == 0, err
    assert lines == ["1 1 1 1 -1 -1 0 0"]
    assert (place / "page.html").exists()
    with Image.open(place / "overlay.png") as picture:
        assert picture.size == (80, 60)


def test_info_and_doctor(place):
    code, lines, _ = alone(place, "info", "part.onnx", "--json")
    values = json.loads(lines[0])
    assert code == 0
    assert values["method"] == "PatchCore"
    assert values["threshold"] == 0.5
    assert values["notes"] == {"line": "7"}
    code, lines, _ = alone(place, "doctor", "part.onnx")
    assert code == 0
    assert lines[-1] == "all is well"
    assert any("ms an image" in line for line in lines)


@pytest.mark.parametrize(
    "args",
    [("fit", "new", "-o", "b.alite"), ("inspect", "own.alite", "new"), ("info", "own.alite")],
)
def test_what_needs_more_says_so(place, args):
    (place / "own.alite").write_bytes((2).to_bytes(8, "little") + b"{}")
    code, _, err = alone(place, *args)
    assert code == 2
    assert "is not installed: pip install anomalib-lite." in err


def test_nothing_heavy_is_imported_where_it_is_installed(place):
    code = "\n".join([
        "import sys",
        "from anomalib_lite.cli import main",
        'main(["inspect", "part.onnx", "new", "-q", "--report", "b.html", "--overlays", "b"])',
        'main(["info", "part.onnx", "-q"])',
        'main(["doctor", "part.onnx", "--no-speed", "-q"])',
        'heavy = "torch", "scipy", "sklearn", "joblib", "timm", "onnx", "pandas"',
        "print([name for name in heavy if name in sys.modules])",
    ])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
