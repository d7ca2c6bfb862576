"""Exported detectors say of images what their graphs do, with the checks of the library."""

import copy
import pickle
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import onnxruntime
import pytest
import torch
import toys
from PIL import Image

from anomalib_lite.data import ImageStream, ValueRange
from anomalib_lite.data.resizing import pixels_of
from anomalib_lite.deploy import OnnxDetector, graph, reader
from anomalib_lite.deploy.seal import seal

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
IMAGES[0] //= 4
IMAGES[2] = np.minimum(IMAGES[2], 200)
MEANS = IMAGES.mean((1, 2, 3)) / 255  # anomaly scores, by a toy


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def detector(folder):
    return OnnxDetector(toys.write(folder / "toy"))


def toy(folder, name, **changes):
    return OnnxDetector(toys.write(folder / name, **changes))


# -- what is said ---------------------------------------------------------------------------------


def test_scores_labels_and_levels(detector):
    np.testing.assert_allclose(detector.anomaly_score(IMAGES), MEANS, rtol=1e-6)
    np.testing.assert_array_equal(detector.score_samples(IMAGES), -detector.anomaly_score(IMAGES))
    expected = np.where(MEANS > toys.THRESHOLD, -1, 1)
    np.testing.assert_array_equal(detector.predict(IMAGES), expected)
    np.testing.assert_array_equal(np.sign(detector.decision_function(IMAGES)), expected)
    assert {*expected} == {-1, 1}
    assert detector.score_levels() == (0.1, 0.5)
    assert detector.map_levels() == (0.1, 0.6)
    assert detector.offset_ == -0.5
    assert detector.card == toys.card()


@pytest.mark.parametrize(
    ("maps", "size"), [(True, (20, 30)), ("network", (8, 12)), (16, (16, 16)), ((5, 7), (5, 7))]
)
def test_maps_have_the_size_that_is_asked_for(detector, maps, size):
    seen = detector.inspect(IMAGES, maps=maps)
    assert seen.maps.shape == (4, *size)
    assert seen.maps.dtype == np.float32
    assert seen.sizes == [(20, 30)] * 4
    assert [image.map.shape for image in detector.iter_inspect(IMAGES, maps=maps)] == [size] * 4


def test_maps_of_the_images_size_are_those_of_the_graph(detector):
    np.testing.assert_allclose(detector.anomaly_map(IMAGES), IMAGES.mean(-1) / 255, rtol=1e-5)


def test_no_maps(detector):
    seen = detector.inspect(IMAGES, maps=False)
    assert seen.maps is None
    assert seen.map_levels is None
    np.testing.assert_array_equal(seen.scores, detector.inspect(IMAGES).scores)


def test_maps_that_mean_nothing_are_refused(detector):
    with pytest.raises(ValueError, match="maps: expected one of 'network', got 'all'"):
        detector.inspect(IMAGES, maps="all")


def test_records_regions_and_tables(detector, tmp_path):
    images = np.full((2, 20, 30), 60, dtype=np.uint8)
    images[1, 5:9, 10:20] = 255
    seen = detector.inspect(images)
    (region,) = seen.regions()[1]
    assert region.box == (10, 5, 20, 9)
    assert seen.regions()[0] == []
    assert [record.verdict for record in seen.records()] == ["normal", "normal"]
    assert seen.records()[1].region == region
    seen.to_csv(tmp_path / "table.csv")
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 3
    assert repr(seen).startswith("<Inspection of 2 images: 2 normal")


def test_images_of_all_sizes_and_kinds(detector, tmp_path):
    Image.fromarray(IMAGES[1]).save(tmp_path / "color.png")
    Image.fromarray(np.dstack([IMAGES[1], IMAGES[1, ..., 0]])).save(tmp_path / "alpha.png")
    gray = IMAGES[1, ..., 0]
    images = [
        tmp_path / "color.png", tmp_path / "alpha.png", Image.fromarray(IMAGES[1]), IMAGES[1],
        torch.from_numpy(IMAGES[1]).movedim(-1, 0), IMAGES[1][:9], gray, gray[..., None],
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="the alpha channel is dropped"):
        seen = detector.inspect(images)
    expected = [MEANS[1]] * 5 + [IMAGES[1][:9].mean() / 255, gray.mean() / 255, gray.mean() / 255]
    np.testing.assert_allclose(-seen.scores, expected, rtol=1e-6)
    assert [heat.shape for heat in seen.maps] == [(20, 30)] * 5 + [(9, 30)] + [(20, 30)] * 2
    assert seen.paths[:3] == [str(tmp_path / "color.png"), str(tmp_path / "alpha.png"), None]


def test_a_graph_with_p_values(folder, detector):
    conformal = toy(folder, "conformal", p_value=True, conformal={"n_calibration": 40})
    np.testing.assert_allclose(conformal.p_values(IMAGES), 1 - MEANS, rtol=1e-6)
    with pytest.warns(UserWarning, match="1 image was skipped"):
        seen = conformal.inspect([IMAGES[0], "missing.png", IMAGES[1]], on_error="skip")
    assert np.isnan(seen.p_values[1])
    assert seen.records()[2].p_value == pytest.approx(1 - MEANS[1])
    assert detector.inspect(IMAGES).p_values is None
    with pytest.raises(ValueError, match="expected an exported ConformalDetector, got PatchCore"):
        detector.p_values(IMAGES)


def test_without_a_threshold(folder):
    undecided = toy(folder, "undecided", offset=None, normal=None, map_levels=None)
    assert np.isnan(undecided.offset_)
    assert np.isnan(undecided.score_levels()).all()
    assert [r.verdict for r in undecided.inspect(IMAGES).records()] == ["undecided"] * 4
    for decide in (undecided.predict, undecided.decision_function):
        with pytest.raises(ValueError, match="no threshold when it was exported"):
            decide(IMAGES)


# -- checks of images -----------------------------------------------------------------------------


def test_errors_are_those_of_the_library(detector, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    wrong = [
        tmp_path / "broken.png", tmp_path / "missing.png", IMAGES[0][:3], np.zeros((5, 5), int),
        IMAGES[0][..., :2],
    ]  # fmt: skip
    for image in wrong:
        with pytest.raises(ValueError) as expected:
            next(iter(ImageStream([image], min_side=4)))
        with pytest.raises(ValueError) as got:
            detector.score_samples([image])
        assert str(got.value) == str(expected.value)


def test_skipped_images(detector):
    images = ["missing.png", IMAGES[0], IMAGES[1][:2], IMAGES[1], np.zeros((8, 8))]
    with pytest.warns(UserWarning, match="3 images were skipped and got no score: image 0"):
        seen = detector.inspect(images, on_error="skip")
    np.testing.assert_array_equal(np.isnan(seen.scores), [True, False, True, False, True])
    np.testing.assert_array_equal(seen.labels, [0, 1, 0, -1, 0])
    assert [each.index for each in seen.skipped] == [0, 2, 4]
    assert seen.maps[0] is None
    with pytest.warns(UserWarning, match="3 images were skipped"):
        streamed = [*detector.iter_inspect(images, on_error="skip")]
    assert [each.reason for each in streamed if each.reason] == [s.reason for s in seen.skipped]
    np.testing.assert_array_equal([each.score for each in streamed], seen.scores)


@pytest.mark.parametrize(
    ("dtype", "kind", "wanted"),
    [
        ("uint8", np.uint16, "uint16"),
        ("uint8", np.float32, "float32"),
        ("uint8", np.float64, "float32"),
        ("uint16", np.float16, "float32"),
    ],
)
def test_images_that_would_lose_are_refused(folder, dtype, kind, wanted):
    detector = toy(folder, f"takes {dtype}", input=dtype)
    image = np.zeros((8, 8), dtype=kind)
    with pytest.raises(ValueError, match=rf'^image 1: .* got {image.dtype}\. .*input="{wanted}"'):
        detector.score_samples([IMAGES[0], image])
    with pytest.warns(UserWarning, match="1 image was skipped"):
        assert np.isnan(detector.score_samples([IMAGES[0], image], on_error="skip")[1])


KINDS = {
    "bool": IMAGES[0] > 30,
    "uint8": IMAGES[1],
    "uint16": RNG.integers(0, 2**16, (20, 30, 3), dtype=np.uint16),
    "float32": RNG.random((20, 30, 3), dtype=np.float32),
    "float64": RNG.random((20, 30, 3)) * (1 + 1e-7),
    "float16": RNG.random((20, 30)).astype(np.float16),
}


TAKEN = [
    *(("uint8", kind) for kind in ("bool", "uint8")),
    *(("uint16", kind) for kind in ("bool", "uint8", "uint16")),
    *(("float32", kind) for kind in KINDS),
]


@pytest.mark.parametrize(("dtype", "kind"), TAKEN)
def test_pixels_are_converted_as_the_library_does(dtype, kind):
    ((raster,),) = ImageStream([KINDS[kind]]).work(None, lambda image: image.raster)
    taken = reader._as_taken(raster, dtype)
    assert taken.dtype == dtype
    full = np.float32(toys.FULL[dtype])
    planes = np.moveaxis(taken.reshape(*taken.shape[:2], -1), -1, 0).astype(np.float32) / full
    np.testing.assert_array_equal(planes, pixels_of(raster).numpy())


def test_bytes_go_in_as_they_were_decoded(detector, monkeypatch):
    taken = []

    def ask(image, map_size):
        taken.append(image)
        return graph.Answer(0.0, 1, None, None)

    monkeypatch.setattr(detector._graph, "ask", ask)
    detector.inspect([IMAGES[1]], maps=False)
    assert np.shares_memory(taken[0], IMAGES)


def test_images_scaled_in_another_way_are_refused(folder):
    dark = ValueRange(0.01, {"uint16"}, 0.005, 0.005)
    detector = toy(folder, "dark", input="uint16", value_range=dark)
    with pytest.raises(ValueError, match=r"^image 0: its uint8 values reach 0.*for every image"):
        detector.score_samples(IMAGES)
    many = [IMAGES[0]] * 40
    with pytest.raises(ValueError, match="each of the first 32 images of the call"):
        [*detector.iter_inspect(many)]
    right = IMAGES[0].astype(np.uint16)
    scores = [image.score for image in detector.iter_inspect([*IMAGES, right])]
    np.testing.assert_allclose(-np.array(scores[:4]), MEANS, rtol=1e-6)


def test_results_come_one_by_one(detector):
    asked = []

    def camera():
        for i, image in enumerate(IMAGES):
            asked.append(i)
            yield image

    for i, _ in enumerate(detector.iter_inspect(camera())):
        assert asked == [*range(i + 1)]


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_scores_that_are_no_numbers_are_refused(folder, on_error):
    detector = toy(folder, "infinite", divisor=0.0)
    with pytest.raises(ValueError, match=r"image 0: the backbone gives NaN or infinity"):
        detector.score_samples(IMAGES, on_error=on_error)


def test_maps_that_are_no_numbers_are_refused(detector, monkeypatch):
    heat = np.zeros((3, 3), np.float32)
    heat[1, 1] = np.nan
    monkeypatch.setattr(detector._graph, "ask", lambda *_: graph.Answer(0.5, 1, heat, None))
    with pytest.raises(ValueError, match=r"image 0: the backbone gives NaN"):
        detector.inspect(IMAGES)


# -- processes and threads ------------------------------------------------------------------------


def test_a_pickle_opens_the_file_again(folder):
    path = toys.write(folder / "pickled")
    detector = OnnxDetector(path, n_threads=1)
    for again in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector)):
        np.testing.assert_array_equal(again.score_samples(IMAGES), detector.score_samples(IMAGES))
        assert again.n_threads == 1
        assert again.card == detector.card
    assert len(pickle.dumps(detector)) < 1000
    data = pickle.dumps(detector)
    toys.write(path, notes={"line": "8"})
    with pytest.raises(ValueError, match="the file has changed since it was opened"):
        pickle.loads(data)


def test_a_file_that_is_gone_when_it_is_opened_again_is_missed(folder):
    detector = OnnxDetector(toys.write(folder / "gone"))
    detector._graph._session = None  # as in a process that was forked
    (folder / "gone").unlink()
    with pytest.raises(FileNotFoundError, match="gone"):
        detector.score_samples(IMAGES)


def test_threads_share_a_detector(detector):
    start = threading.Barrier(4)

    def score(_):
        start.wait()
        return [detector.score_samples(IMAGES) for _ in range(20)]

    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(score, range(4)):
            for each in scores:
                np.testing.assert_array_equal(each, detector.score_samples(IMAGES))


def _score_in_fork(detector, queue):
    scores = detector.score_samples(IMAGES)
    detector._graph = None  # freed, without waiting for threads that are not there
    queue.put(scores)


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_forked_process_has_a_session_of_its_own(folder):
    detector = OnnxDetector(toys.write(folder / "forked"), n_threads=2)
    expected = detector.score_samples(IMAGES)
    context = get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_score_in_fork, args=(detector, queue))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks where there are threads
        process.start()
    process.join(20)
    assert process.exitcode == 0
    np.testing.assert_array_equal(queue.get(), expected)


def test_threads_of_the_runtime(folder, monkeypatch):
    made = []
    real = onnxruntime.InferenceSession

    def session(data, options, **others):
        made.append(options.intra_op_num_threads)
        return real(data, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(graph, "usable_processors", lambda: 16)
    path = toys.write(folder / "threads")
    OnnxDetector(path)
    OnnxDetector(path, n_threads=3)
    monkeypatch.setattr(graph, "usable_processors", lambda: 2)
    OnnxDetector(path)
    assert made == [4, 3, 2]
    with pytest.raises(ValueError, match="n_threads: expected a positive int, got 0"):
        OnnxDetector(path, n_threads=0)


# -- files ----------------------------------------------------------------------------------------


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        OnnxDetector(tmp_path / "missing.onnx")
    with pytest.raises(ValueError, match="expected the path of a file, got a folder"):
        OnnxDetector(tmp_path)


def refused(path, data, message):
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        OnnxDetector(path)
    assert str(error.value).startswith(f"{path}: ")


def test_truncated_files_are_refused(tmp_path):
    data = toys.write(tmp_path / "toy").read_bytes()
    for n in [*range(0, len(data), 97), len(data) - 1]:
        refused(tmp_path / "cut", data[:n], "not a file written by export, or cut off")


def test_altered_files_are_refused(tmp_path):
    data = toys.write(tmp_path / "toy").read_bytes()
    for i in [*range(0, len(data), 61), len(data) - 1]:
        changed = bytearray(data)
        changed[i] ^= 1 << (i % 8)
        refused(tmp_path / "changed", bytes(changed), r"altered or damaged|with a seal")


def test_other_sealed_files_are_refused(tmp_path):
    path = tmp_path / "file"
    card = toys.card()
    refused(path, seal(b"no model"), "onnxruntime .* cannot read this model")
    refused(path, seal(toys.model(card, key="other")), "not one written by export: it has no card")
    refused(path, seal(toys.model(card, text="{")), "its card cannot be read")
    refused(path, seal(toys.model(card, text=toys.with_format(2))), "format 2; this version")
    refused(path, seal(toys.model(card, opset=999)), "cannot read this model.*upgrade onnxruntime")
    other = toys.card(input="uint16").to_json()
    refused(path, seal(toys.model(card, text=other)), r"expected a graph of image \(uint16\)")
    conformal = toys.card(conformal={}).to_json()
    refused(path, seal(toys.model(card, text=conformal)), "with the outputs .*p_value")


@pytest.mark.parametrize("seed", range(80))
def test_sealed_files_of_damaged_models_are_refused_or_score(seed, tmp_path, capfd):
    rng = np.random.default_rng(seed)
    data = bytearray(toys.model(toys.card()))
    for place in rng.integers(len(data), size=1 + seed % 3):
        data[place] ^= int(rng.integers(1, 256))
    (tmp_path / "file").write_bytes(seal(bytes(data)))
    try:
        OnnxDetector(tmp_path / "file", n_threads=1).inspect(IMAGES[:1])
    except ValueError as error:
        assert str(error).startswith((f"{tmp_path / 'file'}: ", "image 0: "))
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_fails_names_the_image(folder):
    detector = OnnxDetector(toys.write(folder / "fails"))
    detector._graph.card = toys.card(conformal={})  # an output that there is not
    with pytest.raises(ValueError, match=r"^image 0: ONNX Runtime cannot run the graph: "):
        detector.score_samples(IMAGES)


def test_a_missing_runtime_is_named(folder, monkeypatch):
    path = toys.write(folder / "toy")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        OnnxDetector(path)


def test_an_old_runtime_is_named(folder, monkeypatch):
    path = toys.write(folder / "toy")
    monkeypatch.setattr(onnxruntime, "__version__", "1.9.1")
    with pytest.raises(ImportError, match=r"need onnxruntime 1\.20 or later, got 1\.9\.1"):
        OnnxDetector(path)


def test_files_are_known_by_their_content(tmp_path):
    assert graph.is_onnx(toys.write(tmp_path / "part.alite"))
    (tmp_path / "part.onnx").write_bytes((200_000).to_bytes(8, "little") + b"{" + b" " * 100)
    assert not graph.is_onnx(tmp_path / "part.onnx")
    (tmp_path / "length.onnx").write_bytes((2056).to_bytes(8, "little") + b"{" + b" " * 100)
    assert not graph.is_onnx(tmp_path / "length.onnx")  # whose first byte is an 8
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    assert not graph.is_onnx(tmp_path / "a.png")
    assert not graph.is_onnx(tmp_path)
    assert not graph.is_onnx(tmp_path / "missing")
