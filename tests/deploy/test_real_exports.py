"""Detectors that were exported, beside the originals."""

import json

import numpy as np
import pytest
import worlds
from PIL import Image

from anomalib_lite import ConformalDetector, PaDiM
from anomalib_lite.cli import main
from anomalib_lite.deploy import OnnxDetector


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of good parts and scratched ones, of several sizes, and a broken file."""
    place = tmp_path_factory.mktemp("parts")
    pictures = [*worlds.stripes(3, 64, seed=5), *worlds.scratched(3, 64, seed=6)]
    for i, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels)
        picture.resize((64 + 16 * (i % 3), 64)).save(place / f"{i}.png")
    (place / "broken.png").write_bytes(b"no picture")
    return place


@pytest.fixture(scope="module", params=["plain", "conformal"])
def pair(request, tmp_path_factory):
    """A detector, and the same exported."""
    detector = PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0)
    if request.param == "conformal":
        detector = ConformalDetector(detector, false_alarm_rate=0.1, random_state=0)
    detector.fit(worlds.stripes(24, 64))
    folder = tmp_path_factory.mktemp("exported")
    detector.save(folder / "own.alite")
    detector.export(folder / "part.onnx")
    return detector, OnnxDetector(folder / "part.onnx"), folder


@pytest.mark.filterwarnings("ignore:1 image was skipped")
def test_both_say_the_same(pair, place):
    detector, exported, _ = pair
    expected, got = (each.inspect(place, on_error="skip") for each in (detector, exported))
    np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-4)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert got.skipped == expected.skipped
    assert got.sizes == expected.sizes
    for one, other in zip(got.maps, expected.maps, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-3 * np.ptp(other))
    assert got.map_levels == pytest.approx(expected.map_levels)
    assert got.score_levels == pytest.approx(expected.score_levels)
    if expected.p_values is not None:
        np.testing.assert_allclose(got.p_values, expected.p_values, atol=1e-6)


def test_commands_say_the_same(pair, place, tmp_path, capsys):
    _, _, folder = pair
    tables = []
    for name in ("own.alite", "part.onnx"):
        table = tmp_path / f"{name}.jsonl"
        assert main(["inspect", str(folder / name), str(place), "--jsonl", str(table)]) == 2
        tables.append([json.loads(line) for line in table.read_text().splitlines()])
    capsys.readouterr()
    for own, exported in zip(*tables, strict=True):
        for name, value in own.items():
            expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert exported[name] == expected, name
