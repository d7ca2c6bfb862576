"""``export``: whole detectors as ONNX files that say the same."""

import copy
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch
from detectors import PUBLIC, SUBJECTS, small
from PIL import Image
from worlds import scratched, stripes

from anomalib_lite import CANCE, ConformalDetector, PaDiM, PatchCore
from anomalib_lite.deploy import OnnxDetector
from anomalib_lite.export import exporting, tracing
from anomalib_lite.export.parity import compare
from anomalib_lite.inspection import InspectedImage, MapLevels, ScoreLevels
from anomalib_lite.report.figures import method_of

NAMES = [cls.__name__ for cls in PUBLIC]


def export(detector, folder, **options):
    """The detector's export, read, and how both compare."""
    path = folder / "part.onnx"
    parity = detector.export(path, **options)
    return OnnxDetector(path, n_threads=1), parity


@pytest.fixture(scope="module")
def padim():
    detector = PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0)
    return detector.fit(stripes(20))


@pytest.fixture(scope="module")
def exported(padim, tmp_path_factory):
    return export(padim, tmp_path_factory.mktemp("exported"))[0]


def colored(n, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def check_says_the_same(exported, detector, images):
    mine, theirs = detector.inspect(images), exported.inspect(images)
    scale = np.abs(mine.scores).max()
    np.testing.assert_allclose(theirs.scores, mine.scores, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_array_equal(theirs.labels, mine.labels)
    for ours, other in zip(mine.maps, theirs.maps, strict=True):
        assert other.shape == ours.shape
        np.testing.assert_allclose(other, ours, rtol=0, atol=1e-3 * np.ptp(ours))


# -- every detector -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("PaDiM", "PatchCore") else pytest.mark.slow)
        for name in NAMES
    ],
)
def test_every_detector_says_the_same(name, tmp_path):
    detector = SUBJECTS[PUBLIC[NAMES.index(name)]].fitted
    exported, parity = export(detector, tmp_path)
    assert parity.score < 1e-4 and parity.map < 1e-3 and parity.n_labels == 0
    assert exported.card.method == name
    for images in (
        scratched(2),
        colored(1, 90, 70),
        [*stripes(1, seed=5), *colored(1, 130, 40)],
    ):
        check_says_the_same(exported, detector, images)
    np.testing.assert_allclose(exported.score_levels(), detector.score_levels())
    np.testing.assert_allclose(exported.map_levels(), detector.map_levels())


def test_images_given_are_those_compared(padim, tmp_path):
    images = [*stripes(3, seed=4), *scratched(2)]
    exported, parity = export(padim, tmp_path, images=iter(images))
    assert parity.n_images == 5
    assert exported.card.parity["source"] == "given"
    assert exported.card.parity["score"] == parity.score


def test_a_crop_is_kept(tmp_path):
    detector = PatchCore(image_size=72, center_crop=(64, 48), coreset=30, random_state=0)
    detector.fit(stripes(20))
    exported, _ = export(detector, tmp_path)
    check_says_the_same(exported, detector, scratched(3))


def test_a_conformal_detector_gives_its_p_values(tmp_path):
    inner = PaDiM(image_size=64, n_features=20, random_state=0)
    detector = ConformalDetector(inner, false_alarm_rate=0.1, random_state=0).fit(stripes(40))
    exported, _ = export(detector, tmp_path)
    images = [*stripes(5, seed=8), *scratched(3)]
    check_says_the_same(exported, detector, images)
    np.testing.assert_allclose(exported.p_values(images), detector.p_values(images), rtol=1e-6)
    assert set(exported.predict(scratched(3))) == {-1}
    assert exported.card.method == method_of(detector) == "ConformalDetector of PaDiM"


@pytest.mark.slow
def test_a_conformal_detector_that_calls_nothing_anomalous_says_so(tmp_path):
    inner = PaDiM(image_size=64, n_features=20, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = ConformalDetector(inner, false_alarm_rate=0.001, random_state=0).fit(stripes(20))
    exported, _ = export(detector, tmp_path)
    assert exported.offset_ == detector.offset_ == -np.inf
    np.testing.assert_array_equal(exported.predict(scratched(2)), detector.predict(scratched(2)))
    np.testing.assert_allclose(exported.score_levels(), detector.score_levels())
    assert "\n" not in exported.card.detector


def test_the_threshold_of_the_moment_goes_along(padim, tmp_path):
    detector = copy.deepcopy(padim).set_threshold(score=0.0)
    exported, _ = export(detector, tmp_path)
    assert exported.offset_ == 0.0
    assert set(exported.predict(stripes(3))) == {-1}


def test_a_detector_without_a_threshold_says_no_labels(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        detector = PaDiM(image_size=64, n_features=20, random_state=0).fit(stripes(2))
    exported, _ = export(detector, tmp_path)
    assert exported.inspect(scratched(2)).labels.tolist() == [0, 0]


@pytest.mark.parametrize("given", ["uint16", "float32"])
def test_deep_images_keep_their_depth(given, tmp_path):
    def deep(images):
        shares = images / 255.0
        return (65535 * shares).astype(np.uint16) if given == "uint16" else shares.astype(given)

    detector = PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0)
    detector.fit(deep(stripes(20)))
    exported, _ = export(detector, tmp_path)
    assert exported.card.input == given
    check_says_the_same(exported, detector, deep(scratched(3)))


def test_an_input_can_be_asked_for(padim, tmp_path):
    exported, _ = export(padim, tmp_path, input="float32")
    check_says_the_same(exported, padim, scratched(2))
    with pytest.raises(ValueError, match="input: expected one of"):
        padim.export(tmp_path / "x.onnx", input="int8")


# -- what is written, and what is not -------------------------------------------------------------


def test_any_runtime_reads_the_file(exported):
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.output] == [
        "anomaly_score",
        "label",
        "anomaly_map",
    ]


def test_a_file_says_the_same_twice(padim, tmp_path):
    padim.export(tmp_path / "a.onnx")
    padim.export(tmp_path / "b.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_notes_go_along(padim, tmp_path):
    exported, _ = export(padim, tmp_path, notes={"line": "7"})
    assert exported.card.notes == {"line": "7"}
    with pytest.raises(ValueError, match="notes"):
        padim.export(tmp_path / "x.onnx", notes={"line": 7})


def scaled(model, name):
    """Make an output of a graph a little larger."""
    (node,) = (node for node in model.graph.node if name in node.output)
    node.output[[*node.output].index(name)] = "before"
    (kind,) = (v.type.tensor_type.elem_type for v in model.graph.output if v.name == name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1.01, dtype), "factor"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["before", "factor"], [name]))


def with_another_weight(model):
    weights = next(each for each in model.graph.initializer if len(each.dims) == 4)
    values = onnx.numpy_helper.to_array(weights).copy()
    values.flat[0] += 0.5
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("weight", "scores by"),
        ("score", "scores by"),
        ("grid", "this one: maps by"),
        ("offset", "labels of"),
    ],
)
def test_what_would_differ_is_not_written(part, says, padim, tmp_path, monkeypatch):
    write = tracing.traced

    def changed(detector):
        model = write(detector)
        if part == "weight":
            with_another_weight(model)
        elif part != "offset":
            scaled(model, part)
        return model

    monkeypatch.setattr(tracing, "traced", changed)
    if part == "offset":
        plan = exporting.Plan
        monkeypatch.setattr(
            exporting, "Plan", lambda *args: plan(*args[:3], offset=1e9, ranks=args[4])
        )
    path = tmp_path / "part.onnx"
    path.write_bytes(b"what was there")
    with pytest.raises(ValueError, match=says) as caught:
        padim.export(path, images=stripes(4, seed=3))
    assert "Nothing was written" in str(caught.value)
    assert path.read_bytes() == b"what was there"
    assert [each.name for each in tmp_path.iterdir()] == ["part.onnx"]


class Said:
    """A detector with a threshold of 5, that says what it is told."""

    def __init__(self, score, label, heat):
        self.image = InspectedImage(-score, label, np.full((4, 4), heat, np.float32), None)

    def iter_inspect(self, images):
        return [self.image for _ in images]

    def score_levels(self):
        return ScoreLevels(3.0, 5.0)

    def map_levels(self):
        return MapLevels(2.0, 4.0)


def test_labels_may_differ_on_the_threshold_alone():
    normal, beyond = Said(5.0, 1, 3.0), Said(5.00001, -1, 3.0)
    assert compare(normal, beyond, [0]).n_labels == 0
    assert compare(beyond, normal, [0]).n_labels == 0
    assert compare(Said(4.9, 1, 3.0), beyond, [0]).n_labels == 1


def test_a_path_that_cannot_be_written_is_refused_at_once(padim, tmp_path, monkeypatch):
    monkeypatch.setattr(tracing, "traced", None)
    with pytest.raises(ValueError, match="got a folder"):
        padim.export(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no such folder: '.*none'"):
        padim.export(tmp_path / "none" / "part.onnx")
    with pytest.raises(TypeError):
        padim.export(b"part.onnx")


def test_what_cannot_be_exported_says_why(padim, tmp_path):
    path = tmp_path / "part.onnx"
    with pytest.raises(ValueError, match="not fitted"):
        PaDiM().export(path)
    folds = ConformalDetector(PaDiM(image_size=64, n_features=20, random_state=0), method="cv")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folds.fit(stripes(12))
    with pytest.raises(ValueError, match=r"method='cv' has \d+ detectors"):
        folds.export(path)
    table = CANCE(density=None, score_type="error", random_state=0)
    table.fit(np.random.default_rng(0).normal(size=(60, 4)))
    with pytest.raises(ValueError, match="one of a table"):
        table.export(path)
    half = PaDiM(image_size=64, n_features=20, dtype="bfloat16", random_state=0).fit(stripes(12))
    with pytest.raises(ValueError, match="dtype='float32'"):
        half.export(path)
    with pytest.raises(ValueError, match="image 0"):
        padim.export(path, images=[np.zeros((2, 2), np.uint8)])
    assert not path.exists()


def test_what_no_file_can_hold_is_refused(padim, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_MOST_BYTES", 10_000)
    with pytest.raises(ValueError, match=r"takes \d\.\d GB, and ONNX files can have 2 GB"):
        padim.export(tmp_path / "part.onnx")
    assert not (tmp_path / "part.onnx").exists()


def test_other_devices_than_a_cpu_are_refused(padim, tmp_path):
    detector = copy.copy(padim)
    detector.device_ = torch.device("meta")
    with pytest.raises(ValueError, match=r"is on meta, and is exported from a CPU\. .*load\("):
        detector.export(tmp_path / "part.onnx")


def test_a_missing_package_is_named(padim, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'anomalib_lite\[onnx\]'"):
        padim.export(tmp_path / "part.onnx")


def test_a_wrong_image_gets_the_same_error(padim, exported, tmp_path):
    Image.fromarray(stripes(1)[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    for images in (
        [tmp_path / "a.png", tmp_path / "b.png"],
        [np.full((64, 64), np.nan)],
        np.zeros((2, 64, 64, 7), np.uint8),
        [np.zeros((64, 64), np.int32)],
        [],
        [tmp_path / "none.png"],
    ):
        with pytest.raises((ValueError, OSError)) as mine:
            padim.score_samples(images)
        with pytest.raises((ValueError, OSError)) as theirs:
            exported.score_samples(images)
        assert str(theirs.value) == str(mine.value)


def test_nothing_is_left_behind(tmp_path):
    detector = small(PatchCore).fit(stripes(8))
    before = {name: id(value) for name, value in vars(detector).items()}
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    detector.export(tmp_path / "part.onnx")
    assert {name: id(value) for name, value in vars(detector).items()} == before
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()
