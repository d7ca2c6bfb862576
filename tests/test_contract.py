"""What every public detector owes its users: one suite, detectors found automatically."""

import copy
import inspect
import pickle
import random
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from detectors import PUBLIC, SMALL, small
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch.utils.data import DataLoader, TensorDataset
from worlds import scratched, stripes

import anomalib_lite
from anomalib_lite.base import BaseDetector

NORMAL = stripes(6)
TEST = np.concatenate([scratched(3), stripes(4, seed=7)])
SCORING = ["score_samples", "anomaly_score", "decision_function", "predict", "anomaly_map"]
PACKAGE = str(Path(anomalib_lite.__file__).parent)


@pytest.fixture(scope="module", params=PUBLIC, ids=lambda cls: cls.__name__)
def cls(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(cls):
    """Not to be changed."""
    return small(cls).fit(NORMAL)


@pytest.fixture(scope="module")
def seen(fitted):
    return fitted.inspect(TEST)


def learned(detector):
    return {name for name in vars(detector) if name.endswith("_")}


def assert_same(a, b):
    """Bit for bit."""
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.labels, b.labels)
    for one, other in zip(a.maps, b.maps, strict=True):
        np.testing.assert_array_equal(one, other)


def test_every_public_detector_is_here():
    assert {cls.__name__ for cls in PUBLIC} == set(SMALL)
    methods = Path(PACKAGE, "methods").glob("*.py")
    modules = {cls.__module__.rsplit(".", 1)[1] for cls in PUBLIC}
    assert modules == {path.stem for path in methods} - {"__init__", "two_stage"}


# -- scikit-learn's grammar -----------------------------------------------------------------------


def test_constructor_stores_and_nothing_else(cls):
    values = {name: object() for name in inspect.signature(cls).parameters}
    detector = cls(**values)
    assert vars(detector) == values
    assert detector.get_params(deep=False) == values


def test_parameters_can_be_read_set_and_cloned(cls, fitted):
    copied = clone(fitted)
    assert copied.get_params() == fitted.get_params()
    assert not learned(copied)
    for name, value in fitted.get_params().items():
        assert copied.set_params(**{name: value}) is copied
    with pytest.raises(ValueError, match="nonsense"):
        copied.set_params(nonsense=1)


def test_every_parameter_is_documented_and_the_sign_stated(cls):
    documented = cls.__doc__.split("Parameters\n")[1].split("Attributes\n")[0]
    for name in inspect.signature(cls).parameters:
        assert f"    {name} : " in documented, name
    for method in SCORING:
        assert "anomalous" in getattr(cls, method).__doc__, method
    assert "References" in cls.__doc__
    assert ">>> " in cls.__doc__


def test_fit_returns_self_and_ignores_y(cls, fitted):
    detector = small(cls)
    assert detector.fit(NORMAL, np.zeros(6)) is detector
    np.testing.assert_array_equal(detector.score_samples(TEST), fitted.score_samples(TEST))


def test_fit_changes_no_parameter(cls, fitted):
    assert fitted.get_params() == small(cls).get_params()


def test_unfitted_detector_says_so(cls, tmp_path):
    for method in [*SCORING, "inspect"]:
        with pytest.raises(NotFittedError):
            getattr(small(cls), method)(TEST)
    with pytest.raises(NotFittedError):
        small(cls).save(tmp_path / "unfitted.alite")


def test_notebooks_show_it_as_html(cls, fitted):
    for detector in (small(cls), fitted):
        html = detector._repr_html_()
        assert cls.__name__ in html
        assert len(html) < 100_000
    assert "fitted" in html


# -- signs and shapes -----------------------------------------------------------------------------


def test_signs(fitted):
    scores = fitted.score_samples(TEST)
    assert scores.shape == (7,)
    assert scores.dtype == np.float64
    assert scores[:3].max() < scores[3:].min()
    np.testing.assert_array_equal(fitted.anomaly_score(TEST), -scores)
    np.testing.assert_array_equal(fitted.decision_function(TEST), scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(TEST), np.where(scores < fitted.offset_, -1, 1))
    assert fitted.predict(TEST)[:3].tolist() == [-1, -1, -1]


def test_inspect_equals_the_single_calls(fitted, seen):
    np.testing.assert_array_equal(seen.scores, fitted.score_samples(TEST))
    np.testing.assert_array_equal(seen.labels, fitted.predict(TEST))
    np.testing.assert_array_equal(seen.maps, fitted.anomaly_map(TEST))
    assert seen.paths == [None] * 7


def test_scratch_is_where_the_map_is_highest(seen):
    for heat in seen.maps[:3]:
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert abs(row - 20) < 10
        assert abs(column - 40) < 12


def test_maps_come_at_each_images_own_size(fitted, seen):
    assert seen.maps.shape == (7, 64, 64)
    assert seen.maps.dtype == np.float32
    mixed = [TEST[0], np.asarray(Image.fromarray(TEST[0]).resize((90, 40))), TEST[1]]
    maps = fitted.anomaly_map(mixed)
    assert isinstance(maps, list)
    assert [image_map.shape for image_map in maps] == [(64, 64), (40, 90), (64, 64)]
    np.testing.assert_array_equal(maps[0], seen.maps[0])
    assert fitted.anomaly_map(iter(TEST)).shape == (7, 64, 64)


def test_fit_predict(cls, fitted):
    np.testing.assert_array_equal(small(cls).fit_predict(NORMAL), fitted.predict(NORMAL))


def test_the_threshold_keeps_most_of_the_training_images(cls, fitted):
    assert (fitted.calibration_scores_ < fitted.offset_).mean() <= fitted.false_alarm_rate + 1 / 6
    strict = small(cls, false_alarm_rate=0.5).fit(NORMAL)
    assert strict.offset_ > fitted.offset_


# -- the same bits --------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batch_size_is_invisible(cls, seen, batch_size):
    other = small(cls, batch_size=batch_size).fit(NORMAL)
    assert_same(other.inspect(TEST), seen)


def test_other_images_are_invisible(fitted):
    images = np.concatenate([TEST, stripes(13, seed=9)])  # 16 together take other kernels
    seen = fitted.inspect(images)
    one_by_one = [fitted.inspect(image[None]) for image in images]
    np.testing.assert_array_equal(np.concatenate([one.scores for one in one_by_one]), seen.scores)
    np.testing.assert_array_equal(np.concatenate([one.maps for one in one_by_one]), seen.maps)
    for some in ([1, 4], [6, 0, 3, 3], [2, 1, 0, 6, 5, 4, 3], slice(1, 19), slice(None, None, -1)):
        part = fitted.inspect(images[some])
        np.testing.assert_array_equal(part.scores, seen.scores[some])
        np.testing.assert_array_equal(part.maps, seen.maps[some])


def test_same_seed_same_bits(cls, fitted, seen):
    assert_same(clone(fitted).fit(NORMAL).inspect(TEST), seen)
    refitted = small(cls, random_state=3).fit(TEST).set_params(random_state=0).fit(NORMAL)
    assert_same(refitted.inspect(TEST), seen)
    assert refitted.offset_ == fitted.offset_
    np.testing.assert_array_equal(refitted.calibration_scores_, fitted.calibration_scores_)


@pytest.mark.parametrize("make", [np.random.RandomState, np.random.default_rng])
def test_generators_as_random_state(cls, make):
    first, second = (small(cls, random_state=make(5)).fit(NORMAL) for _ in range(2))
    np.testing.assert_array_equal(first.score_samples(TEST), second.score_samples(TEST))


def test_threads_see_the_same(fitted, seen):
    with ThreadPoolExecutor(3) as pool:
        for other in pool.map(fitted.inspect, [TEST] * 6):
            assert_same(other, seen)


# -- ways to pass images --------------------------------------------------------------------------


def save_folder(folder, images):
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


def labeled(images):
    return TensorDataset(torch.from_numpy(images)[:, None], torch.zeros(len(images)))


WAYS = {
    "float": lambda x: x / 255,
    "float32": lambda x: (x / 255).astype(np.float32),
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "one channel": lambda x: x[..., None],
    "color": lambda x: np.stack([x] * 3, -1),
    "tensor": lambda x: torch.from_numpy(x)[:, None],
    "color tensor": lambda x: torch.from_numpy(x)[:, None].expand(-1, 3, -1, -1),
    "list": list,
    "tuple": tuple,
    "PIL": lambda x: [Image.fromarray(image) for image in x],
    "generator": lambda x: (image for image in x),
    "Dataset": labeled,
    "DataLoader": lambda x: DataLoader(labeled(x), batch_size=4),
    "Fortran order": np.asfortranarray,
    "turned twice": lambda x: x[:, ::-1].copy()[:, ::-1],
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_pass_images_agrees(cls, fitted, seen, way):
    np.testing.assert_allclose(fitted.score_samples(WAYS[way](TEST)), seen.scores, rtol=1e-4)
    refitted = small(cls).fit(WAYS[way](NORMAL))
    np.testing.assert_allclose(refitted.score_samples(TEST), seen.scores, rtol=1e-4)


def test_folders_and_paths_agree(fitted, seen, tmp_path):
    folder = save_folder(tmp_path, TEST)
    paths = sorted(folder.iterdir())
    for images in (folder, str(folder), paths, list(map(str, paths)), np.array(paths, dtype=str)):
        inspected = fitted.inspect(images)
        assert_same(inspected, seen)
        assert inspected.paths == list(map(str, paths))


def test_read_only_input_is_accepted_and_unchanged(cls, seen):
    normal, test = NORMAL.copy(), TEST.copy()
    normal.flags.writeable = test.flags.writeable = False
    assert_same(small(cls).fit(normal).inspect(test), seen)
    np.testing.assert_array_equal(normal, NORMAL)
    np.testing.assert_array_equal(test, TEST)
    tensor = torch.from_numpy(TEST / 255)[:, None]
    before = tensor.clone()
    small(cls).fit(tensor).inspect(tensor)
    assert torch.equal(tensor, before)


# -- copies, processes, files ---------------------------------------------------------------------


def test_pickled_and_copied_ones_are_the_same(fitted, seen):
    assert_same(pickle.loads(pickle.dumps(fitted)).inspect(TEST), seen)
    assert_same(copy.deepcopy(fitted).inspect(TEST), seen)


def test_worker_processes_see_the_same(cls, fitted, seen):
    calls = [joblib.delayed(fitted.inspect)(TEST[part]) for part in (slice(3), slice(3, 7))]
    calls.append(joblib.delayed(small(cls).fit)(NORMAL))
    first, second, refitted = joblib.Parallel(n_jobs=2, backend="loky")(calls)
    np.testing.assert_allclose([*first.scores, *second.scores], seen.scores, rtol=1e-6)
    np.testing.assert_allclose(refitted.score_samples(TEST), seen.scores, rtol=1e-6)


def test_saved_one_is_the_same_in_a_fresh_process(cls, fitted, seen, tmp_path):
    fitted.save(tmp_path / "saved.alite")
    np.save(tmp_path / "test.npy", TEST)
    code = (
        "import sys, numpy as np, anomalib_lite, torch\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "detector = anomalib_lite.load('saved.alite')\n"
        "seen = detector.inspect(np.load('test.npy'))\n"
        "np.savez('seen.npz', offset=detector.offset_, **seen._asdict())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with np.load(tmp_path / "seen.npz", allow_pickle=True) as loaded:
        np.testing.assert_array_equal(loaded["scores"], seen.scores)
        np.testing.assert_array_equal(loaded["maps"], seen.maps)
        np.testing.assert_array_equal(loaded["labels"], seen.labels)
        assert loaded["offset"] == fitted.offset_
    again = anomalib_lite.load(tmp_path / "saved.alite")
    assert type(again) is cls
    assert again.get_params() == fitted.get_params()
    assert learned(again) == learned(fitted)
    assert_same(clone(again).fit(NORMAL).inspect(TEST), seen)


# -- nothing lost, nothing touched ----------------------------------------------------------------


def state_of_the_world(folder):
    return {
        "random": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "matmul": torch.get_float32_matmul_precision(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "running": threading.active_count(),
        "warnings": list(warnings.filters),
        "numpy errors": np.geterr(),
        "printing": np.get_printoptions(),
        "folder": Path.cwd(),
        "files": sorted(folder.rglob("*")),
        "PIL": Image.MAX_IMAGE_PIXELS,
    }


def test_globals_are_left_alone(cls, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small(cls).fit(NORMAL)  # what libraries set up once is set up by now
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 - a state no seed gives
    before = state_of_the_world(tmp_path)
    for random_state in (0, None, np.random.default_rng(0)):
        small(cls, random_state=random_state).fit(NORMAL).inspect(TEST)
    if "weights" in inspect.signature(cls).parameters:
        small(cls, weights="random").fit(NORMAL)
    with pytest.raises(ValueError, match="image 0"):
        small(cls).fit(NORMAL * 2.0)
    assert state_of_the_world(tmp_path) == before


BROKEN = [*NORMAL[:4], np.full((64, 64), np.nan), *NORMAL[4:]]


def test_failed_fit_leaves_the_estimator_as_it_was(cls):
    fresh = small(cls)
    with pytest.raises(ValueError, match="image 4"):
        fresh.fit(BROKEN)
    assert not learned(fresh)
    detector = small(cls).fit(NORMAL)
    before = dict(vars(detector))
    with pytest.raises(ValueError, match="image 4"):
        detector.fit(BROKEN)
    assert vars(detector) == before


class Interrupt:
    """Raises KeyboardInterrupt as the package enters one of its functions for the n-th time."""

    def __init__(self, at=None):
        self.at, self.count = at, 0

    def __call__(self, frame, event, _argument):
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.count += 1
            if self.count == self.at:
                raise KeyboardInterrupt

    def during(self, function, *arguments):
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            return function(*arguments)
        finally:
            sys.setprofile(before)


@pytest.mark.parametrize("share", [0, 0.003, 0.05, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_an_interrupt_at_any_moment_loses_nothing(cls, seen, method, share):
    if not hasattr(cls, method):
        pytest.skip("learns in one go")
    fresh, detector = small(cls), small(cls).fit(NORMAL)
    for interrupted in (fresh, detector):
        count = Interrupt()
        count.during(getattr(copy.deepcopy(interrupted), method), TEST)
        before = dict(vars(interrupted))
        # the very last call is the end of a clean-up, which is allowed to have happened
        interrupt = Interrupt(at=1 + int(share * (count.count - 2)))
        with pytest.raises(KeyboardInterrupt):
            interrupt.during(getattr(interrupted, method), TEST)
        assert vars(interrupted) == before
    assert not learned(fresh)
    assert_same(detector.inspect(TEST), seen)


def test_an_interrupt_while_scoring_loses_nothing(cls, seen):
    detector = small(cls).fit(NORMAL)
    count = Interrupt()
    count.during(detector.inspect, TEST)
    for share in (0.01, 0.3, 0.6, 0.99):
        with pytest.raises(KeyboardInterrupt):
            Interrupt(at=1 + int(share * (count.count - 1))).during(detector.inspect, TEST)
        assert_same(detector.inspect(TEST), seen)


def test_bad_image_gets_no_score_and_is_named(fitted, tmp_path):
    folder = save_folder(tmp_path, TEST)
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"image 3 \(.*3\.png\)"):
        fitted.score_samples(folder)
    with pytest.raises(ValueError, match="image 4"):
        fitted.anomaly_map(BROKEN)
    with pytest.raises(ValueError, match="at least one image"):
        fitted.score_samples(np.zeros((0, 64, 64), np.uint8))
    with pytest.raises(ValueError, match="table"):
        fitted.score_samples(np.zeros((5, 64)))


def test_data_of_another_value_range_is_refused(fitted):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fitted.score_samples(TEST.astype(np.float64))
    with pytest.raises(ValueError, match="image 0: its float64 values reach"):
        fitted.score_samples(TEST / 255 / 255)
    assert fitted.score_samples(np.zeros((1, 64, 64), np.uint8)).shape == (1,)


def test_progress_is_shown_only_when_asked_for(cls, capfd):
    small(cls).fit(NORMAL).score_samples(TEST)
    assert capfd.readouterr() == ("", "")
    small(cls, verbose=True).fit(NORMAL).score_samples(TEST)
    shown = capfd.readouterr().err
    assert "fit" in shown
    assert "score" in shown


# -- devices --------------------------------------------------------------------------------------


def test_no_tensor_is_made_on_the_default_device(cls, seen, monkeypatch):
    """With a default device that holds no values, only what names its device can be computed."""

    def on_meta(method):
        def wrapped(self, X):
            with torch.device("meta"):
                return method(self, X)

        return wrapped

    for name in ("_fit_images", "inspect"):  # networks are built by others, then moved
        monkeypatch.setattr(cls, name, on_meta(getattr(cls, name)))
    assert_same(small(cls).fit(NORMAL).inspect(TEST), seen)


def test_all_learned_tensors_are_on_the_device(fitted):
    def tensors(thing):
        if isinstance(thing, torch.Tensor):
            yield thing
        elif isinstance(thing, torch.nn.Module):
            yield from thing.state_dict().values()
        elif isinstance(thing, dict):
            for value in thing.values():
                yield from tensors(value)
        elif isinstance(thing, list | tuple):
            for value in thing:
                yield from tensors(value)
        elif type(thing).__module__.startswith("anomalib_lite"):
            yield from tensors(vars(thing))

    found = list(tensors({name: vars(fitted)[name] for name in learned(fitted)}))
    assert found
    assert {tensor.device for tensor in found} == {fitted.device_}
    assert not any(tensor.requires_grad for tensor in found)


@pytest.mark.parametrize("device", ["cuda", "mps", "nonsense", 3])
def test_a_device_that_is_not_here_is_refused(cls, device):
    if device in ("cuda", "mps") and getattr(torch, device).is_available():
        pytest.skip("it is here")
    with pytest.raises(ValueError, match="device"):
        small(cls, device=device).fit(NORMAL)


def test_base_class_is_the_template():
    assert all(issubclass(cls, BaseDetector) for cls in PUBLIC)
