"""Checks that every detector passes, of this package or yours: :func:`check_detector`.

They fit small detectors on a planted world, vertical stripes some of which have a scratch, or on
images you give, and compare what comes out. Each check is a function of one :class:`Subject`.
"""

import contextlib
import copy
import inspect
import io
import pickle
import random
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch.utils.data import DataLoader, TensorDataset

from .base import BaseDetector
from .inspection import Inspection
from .io.persistence import load

SCORING = ("score_samples", "anomaly_score", "decision_function", "predict", "anomaly_map")


def striped_images(n: int, *, size: int = 64, scratched: bool = False, seed: int = 0) -> np.ndarray:
    """Images of vertical stripes, 8 px wide, with a little noise.

    Parameters
    ----------
    n : int
    size : int, default=64
        Side in pixels.
    scratched : bool, default=False
        Draw a bright scratch, 4 x 14 px, around row 20, column 40.
    seed : int, default=0
        Of the noise.

    Returns
    -------
    images : ndarray of shape (n, size, size), uint8

    Examples
    --------
    >>> striped_images(2, scratched=True)[:, 20, 40]
    array([255, 255], dtype=uint8)
    """
    rng = np.random.default_rng(seed)
    wave = 128 + 60 * np.sign(np.sin(np.arange(size) * np.pi / 8))
    images = (wave + rng.normal(0, 4, (n, size, size))).clip(0, 255).astype(np.uint8)
    if scratched:
        images[:, 18:22, 33:47] = 255
    return images


class Subject:
    """A detector under test, the images it is tested on, and its results, computed once.

    Parameters
    ----------
    detector : BaseDetector
        Unfitted; settings should be small, and its ``random_state`` a number.
    normal : ndarray of shape (n, H, W) or (n, H, W, 3), uint8, or None, default=None
        Images to fit on, 6 or more. None: striped ones.
    anomalous : ndarray of the same size, or None, default=None
        Images that it has to tell from normal ones. None: scratched ones.
    """

    def __init__(self, detector, *, normal=None, anomalous=None):
        if not isinstance(detector, BaseDetector):
            raise ValueError(f"detector: expected a BaseDetector, got {type(detector).__name__}.")
        if (normal is None) != (anomalous is None):
            raise ValueError("normal and anomalous: expected both or neither.")
        self.detector = detector
        self.is_planted = normal is None
        if normal is None:
            normal, anomalous = (
                striped_images(10, seed=0),
                striped_images(3, scratched=True, seed=1),
            )
            normal[6:] = striped_images(4, seed=7)
        self.normal, held_out = normal[:-4], normal[-4:]
        self.n_anomalous = len(anomalous)
        self.test = np.concatenate([anomalous, held_out])

    def make(self, **params):
        """An unfitted copy with other parameters."""
        return clone(self.detector).set_params(**params)

    @cached_property
    def fitted(self) -> BaseDetector:
        """Fitted on ``normal``; not to be changed."""
        return self.make().fit(self.normal)

    @cached_property
    def seen(self) -> Inspection:
        """What it says of ``test``."""
        return self.fitted.inspect(self.test)


def check_detector(
    detector: BaseDetector,
    *,
    normal: np.ndarray | None = None,
    anomalous: np.ndarray | None = None,
) -> None:
    """Run every check on a detector.

    Parameters
    ----------
    detector : BaseDetector
        Unfitted; settings should be small, and its ``random_state`` a number. It is cloned, never
        fitted itself.
    normal : ndarray of shape (n, H, W) or (n, H, W, 3), uint8, or None, default=None
        Images to fit on, 10 or more; the last four are for testing. None: stripes of 64 px.
    anomalous : ndarray of images of the same size, or None, default=None
        Images whose scores have to be lower than those of normal ones. None: scratched stripes.

    Raises
    ------
    AssertionError
        If a check fails; the message starts with the name of the check.

    Examples
    --------
    >>> from anomalib_lite import PaDiM
    >>> from anomalib_lite.testing import check_detector
    >>> check_detector(PaDiM(image_size=64, n_features=20, random_state=0))
    """
    subject = Subject(detector, normal=normal, anomalous=anomalous)
    for check in CHECKS:
        try:
            check(subject)
        except Exception as error:
            raise AssertionError(f"{check.__name__}: {error}") from error


def parametrize_with_checks(detectors: Iterable[BaseDetector | Subject]) -> Callable:
    """Pytest decorator: one test for each detector and check, as scikit-learn has it.

    The test function takes ``subject`` and ``check`` and calls ``check(subject)``. What a detector
    learns and says is computed once for all its checks.

    Parameters
    ----------
    detectors : iterable of BaseDetector or Subject
        See :func:`check_detector`; a :class:`Subject` brings its own images.

    Returns
    -------
    decorator : callable

    Examples
    --------
    >>> from anomalib_lite import PaDiM
    >>> from anomalib_lite.testing import parametrize_with_checks
    >>> @parametrize_with_checks([PaDiM(image_size=64, n_features=20, random_state=0)])
    ... def test_detector(subject, check):
    ...     check(subject)
    """
    import pytest

    subjects = [each if isinstance(each, Subject) else Subject(each) for each in detectors]
    return pytest.mark.parametrize(
        ("subject", "check"),
        [
            pytest.param(subject, check, id=f"{type(subject.detector).__name__}-{check.__name__}")
            for subject in subjects
            for check in CHECKS
        ],
    )


# -- what checks share ----------------------------------------------------------------------------


def assert_same(a: Inspection, b: Inspection) -> None:
    """Raise AssertionError unless two inspections are equal, bit for bit."""
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_array_equal(a.labels, b.labels)
    for one, other in zip(a.maps, b.maps, strict=True):
        np.testing.assert_array_equal(one, other)


def learned_names(detector: BaseDetector) -> set[str]:
    """Names of everything that ``fit`` has learned."""
    return {name for name in vars(detector) if name.endswith("_")}


def fingerprint(detector: BaseDetector) -> bytes:
    """Everything a detector holds, down to the last value of each tensor."""
    return pickle.dumps(vars(detector))


def _require(condition, message):
    if not condition:
        raise AssertionError(message)


def _refuses(call, error, *words):
    """Raise AssertionError unless the call raises the error, with these words in its message."""
    try:
        call()
    except error as caught:
        missing = [word for word in words if word not in str(caught)]
        _require(not missing, f"the error should name {missing}, got: {caught}")
    else:
        raise AssertionError(f"expected a {error.__name__} that names {words}, got none")


def _save_images(folder, images):
    """Images as files, and their paths."""
    paths = [Path(folder, f"{i}.png") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return [str(path) for path in paths]


def _as_tensor(images):
    """Channels first."""
    tensor = torch.from_numpy(np.ascontiguousarray(images))
    return tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)


# -- scikit-learn's grammar -----------------------------------------------------------------------


def check_constructor_only_stores(subject):
    cls = type(subject.detector)
    values = {name: object() for name in inspect.signature(cls).parameters}
    detector = cls(**values)
    _require(vars(detector) == values, "__init__ should store its parameters and nothing else")
    _require(detector.get_params(deep=False) == values, "get_params should return them")


def check_parameters_can_be_read_set_and_cloned(subject):
    fitted = subject.fitted
    copied = clone(fitted)
    params = fitted.get_params(deep=False)
    _require(set(copied.get_params(deep=False)) == set(params), "clone should keep parameters")
    _require(not learned_names(copied), "clone should forget what was learned")
    for name, value in params.items():
        _require(copied.set_params(**{name: value}) is copied, "set_params should return self")
    _refuses(lambda: copied.set_params(nonsense=1), ValueError, "nonsense")


def check_fit_returns_self_and_takes_labels_of_good_images(subject):
    detector = subject.make()
    y = np.ones(len(subject.normal), dtype=int)
    _require(detector.fit(subject.normal, y) is detector, "fit: self")
    assert_same(detector.inspect(subject.test), subject.seen)


def check_fit_changes_no_parameter(subject):
    detector = subject.make()
    before = {name: (id(v), repr(v)) for name, v in detector.get_params(deep=False).items()}
    detector.fit(subject.normal)
    after = {name: (id(v), repr(v)) for name, v in detector.get_params(deep=False).items()}
    _require(before == after, "fit should leave parameters alone")


def check_unfitted_detector_says_so(subject):
    for method in (*SCORING, "inspect"):
        _refuses(lambda m=method: getattr(subject.make(), m)(subject.test), NotFittedError)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "unfitted.alite")
        _refuses(lambda: subject.make().save(path), NotFittedError)


def check_html_in_notebooks(subject):
    for detector in (subject.make(), subject.fitted):
        html = detector._repr_html_()
        _require(type(detector).__name__ in html and len(html) < 200_000, "an HTML diagram")


# -- signs and shapes -----------------------------------------------------------------------------


def check_signs(subject):
    fitted, n = subject.fitted, subject.n_anomalous
    scores = fitted.score_samples(subject.test)
    _require(scores.shape == (len(subject.test),), "score_samples: one score an image")
    _require(scores.dtype == np.float64, "score_samples: float64")
    _require(scores[:n].max() < scores[n:].min(), f"anomalies should have lower scores: {scores}")
    np.testing.assert_array_equal(fitted.anomaly_score(subject.test), -scores)
    margin = scores - fitted.offset_
    np.testing.assert_array_equal(fitted.decision_function(subject.test), margin)
    labels = fitted.predict(subject.test)
    np.testing.assert_array_equal(labels, np.where(margin < 0, -1, 1))
    _require((labels[:n] == -1).all(), "predict: -1 for anomalies")


def check_inspect_equals_single_calls(subject):
    fitted, seen = subject.fitted, subject.seen
    np.testing.assert_array_equal(seen.scores, fitted.score_samples(subject.test))
    np.testing.assert_array_equal(seen.labels, fitted.predict(subject.test))
    np.testing.assert_array_equal(seen.maps, fitted.anomaly_map(subject.test))
    _require(seen.paths == [None] * len(subject.test), "inspect: no paths for arrays")


def check_maps_show_the_place(subject):
    if not subject.is_planted:
        return
    for heat in subject.seen.maps[: subject.n_anomalous]:
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        near = abs(row - 20) < 10 and abs(column - 40) < 12
        _require(near, f"the scratch is at (20, 40), the map's maximum at ({row}, {column})")


def check_maps_have_each_images_own_size(subject):
    fitted, seen, test = subject.fitted, subject.seen, subject.test
    _require(seen.maps.shape == test.shape[:3], "maps of the images' size")
    _require(seen.maps.dtype == np.float32, "maps: float32")
    mixed = [test[0], np.asarray(Image.fromarray(test[0]).resize((90, 40))), test[1]]
    maps = fitted.anomaly_map(mixed)
    _require(isinstance(maps, list), "a list of maps where sizes differ")
    shapes = [image.shape[:2] for image in mixed]
    _require([heat.shape for heat in maps] == shapes, "each map of its image's size")
    np.testing.assert_array_equal(maps[0], seen.maps[0])
    _require(fitted.anomaly_map(iter(test)).shape == test.shape[:3], "a stream gives an array")


def check_fit_predict(subject):
    fitted = subject.fitted
    scores = fitted.calibration_scores_
    expected = np.where(scores < fitted.offset_, -1, 1)
    kept_aside = ~np.isnan(scores)
    expected[~kept_aside] = fitted.predict(subject.normal)[~kept_aside]
    np.testing.assert_array_equal(subject.make().fit_predict(subject.normal), expected)


def check_threshold(subject):
    fitted = subject.fitted
    scores, rate = fitted.calibration_scores_, fitted.false_alarm_rate
    _require(scores.shape == (len(subject.normal),), "a calibration score for each image")
    quantile = np.nanquantile(scores, rate, method="weibull")
    _require(fitted.offset_ == quantile, "offset_ is their quantile")
    strict = subject.make(false_alarm_rate=0.5).fit(subject.normal)
    _require(strict.offset_ > fitted.offset_, "a higher rate, a higher threshold")
    assert_equal_offsets = strict.set_params(false_alarm_rate=rate).offset_ == fitted.offset_
    _require(assert_equal_offsets, "set_params(false_alarm_rate=...) takes effect after fit")


def check_parameters_changed_after_fit(subject):
    detector = copy.deepcopy(subject.fitted)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector.set_params(verbose=False, batch_size=3, smoothing=detector.smoothing)
        _require(not caught, "parameters that take effect at once need no warning")
        detector.set_params(random_state=12345)
        _require(
            len(caught) == 1 and "random_state" in str(caught[0].message),
            "set_params should warn of a change that waits for the next fit",
        )
    assert_same(detector.inspect(subject.test), subject.seen)
    before = fingerprint(detector)
    _refuses(lambda: detector.set_params(false_alarm_rate=2.0), ValueError, "false_alarm_rate")
    _require(fingerprint(detector) == before, "a refused value should change nothing")


# -- the same bits --------------------------------------------------------------------------------


def check_batch_size_is_invisible(subject):
    if subject.fitted.device_.type == "cpu":
        other = subject.make(batch_size=5).fit(subject.normal)
        assert_same(other.inspect(subject.test), subject.seen)


def check_other_images_are_invisible(subject):
    fitted, test = subject.fitted, subject.test
    images = np.concatenate([test, test[::-1], test[:2]])  # 16 together take other kernels
    seen = fitted.inspect(images)
    one_by_one = [fitted.inspect(image[None]) for image in images]
    np.testing.assert_array_equal(np.concatenate([one.scores for one in one_by_one]), seen.scores)
    np.testing.assert_array_equal(np.concatenate([one.maps for one in one_by_one]), seen.maps)
    for some in ([1, 4], [6, 0, 3, 3], slice(1, 15), slice(None, None, -1)):
        part = fitted.inspect(images[some])
        np.testing.assert_array_equal(part.scores, seen.scores[some])
        np.testing.assert_array_equal(part.maps, seen.maps[some])


def check_same_seed_gives_same_bits(subject):
    refitted = subject.make(random_state=3).fit(subject.test)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a change after fit
        refitted.set_params(random_state=subject.detector.random_state)
    refitted.fit(subject.normal)
    assert_same(refitted.inspect(subject.test), subject.seen)
    _require(refitted.offset_ == subject.fitted.offset_, "the same threshold")
    expected = subject.fitted.calibration_scores_
    np.testing.assert_array_equal(refitted.calibration_scores_, expected)


def check_random_state_takes_generators(subject):
    for make in (np.random.RandomState, np.random.default_rng):
        first, second = (
            subject.make(random_state=make(5)).fit(subject.normal).score_samples(subject.test)
            for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)


def check_threads_see_the_same(subject):
    with ThreadPoolExecutor(3) as pool:
        for seen in pool.map(subject.fitted.inspect, [subject.test] * 4):
            assert_same(seen, subject.seen)


def check_number_of_workers_is_invisible(subject):
    if "n_jobs" not in subject.detector.get_params():
        return
    for n_jobs in (1, 3):
        other = subject.make(n_jobs=n_jobs).fit(subject.normal)
        assert_same(other.inspect(subject.test), subject.seen)
        _require(other.offset_ == subject.fitted.offset_, "the same threshold")


# -- ways to pass images --------------------------------------------------------------------------


def check_ways_to_pass_images(subject):
    fitted, test, seen = subject.fitted, subject.test, subject.seen
    labeled = TensorDataset(_as_tensor(test), torch.zeros(len(test)))
    for images in (test / 255, [Image.fromarray(i) for i in test], DataLoader(labeled, 4)):
        np.testing.assert_allclose(fitted.score_samples(images), seen.scores, rtol=1e-4)


def check_folders_and_paths(subject):
    with tempfile.TemporaryDirectory() as folder:
        paths = _save_images(folder, subject.test)
        for images in (folder, Path(folder), paths, np.array(paths)):
            inspected = subject.fitted.inspect(images)
            assert_same(inspected, subject.seen)
            _require(inspected.paths == paths, "inspect: the paths of files")


def check_read_only_images(subject):
    normal, test = subject.normal.copy(), subject.test.copy()
    normal.flags.writeable = test.flags.writeable = False
    assert_same(subject.make().fit(normal).inspect(test), subject.seen)
    tensor = _as_tensor(subject.test / 255)
    before = tensor.clone()
    subject.fitted.inspect(tensor)
    _require(torch.equal(tensor, before), "images should not be changed")


# -- copies and files -----------------------------------------------------------------------------


def check_copies(subject):
    pickled = pickle.loads(pickle.dumps(subject.fitted))
    assert_same(pickled.inspect(subject.test), subject.seen)
    assert_same(copy.deepcopy(subject.fitted).inspect(subject.test), subject.seen)


def check_save_and_load(subject):
    cls = type(subject.detector)
    classes = [] if cls.__module__.startswith("anomalib_lite.") else [cls]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "saved.alite")
        subject.fitted.save(path)
        again = load(path, classes=classes)
        if classes:
            _refuses(lambda: load(path), ValueError, cls.__name__, "classes=")
    _require(type(again) is cls, "load: an object of the same class")
    _require(learned_names(again) == learned_names(subject.fitted), "load: all that was learned")
    assert_same(again.inspect(subject.test), subject.seen)
    _require(again.offset_ == subject.fitted.offset_, "load: the same threshold")
    assert_same(clone(again).fit(subject.normal).inspect(subject.test), subject.seen)


# -- nothing lost, nothing touched ----------------------------------------------------------------


def _globals_of_the_process(folder):
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
        "running threads": threading.active_count(),
        "warnings": list(warnings.filters),
        "numpy errors": np.geterr(),
        "printing": np.get_printoptions(),
        "files": sorted(folder.rglob("*")),
        "PIL": Image.MAX_IMAGE_PIXELS,
    }


def check_globals_are_left_alone(subject):
    _ = subject.fitted  # what libraries set up once is set up by now
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 - a state no seed gives
        before = _globals_of_the_process(Path(folder))
        for random_state in (0, None, np.random.default_rng(0)):
            subject.make(random_state=random_state).fit(subject.normal).inspect(subject.test)
        if "weights" in subject.detector.get_params(deep=False):
            subject.make(weights="random").fit(subject.normal)
        _refuses(lambda: subject.make().fit(subject.normal * 2.0), ValueError, "image 0")
        after = _globals_of_the_process(Path(folder))
    changed = [name for name in before if before[name] != after[name]]
    _require(not changed, f"changed for the whole process: {changed}")


def check_failed_fit_changes_nothing(subject):
    spoilt = np.full(subject.normal.shape[1:], np.nan)
    images = [*subject.normal[:4], spoilt, *subject.normal[4:]]
    fresh = subject.make()
    _refuses(lambda: fresh.fit(images), ValueError, "image 4")
    _require(not learned_names(fresh), "a failed fit should leave an unfitted detector unfitted")
    detector = copy.deepcopy(subject.fitted)
    for method in ("fit", "partial_fit"):
        if hasattr(detector, method):
            before = fingerprint(detector)
            _refuses(lambda m=method: getattr(detector, m)(images), ValueError, "image 4")
            _require(fingerprint(detector) == before, f"a failed {method} should change nothing")


def check_bad_images_are_named(subject):
    fitted, test = subject.fitted, subject.test
    with tempfile.TemporaryDirectory() as folder:
        path = Path(_save_images(folder, test)[3])
        path.write_bytes(path.read_bytes()[:200])
        _refuses(lambda: fitted.score_samples(folder), ValueError, "image 3", "3.png")
    images = [*test[:2], np.full(test.shape[1:], np.nan)]
    _refuses(lambda: fitted.anomaly_map(images), ValueError, "image 2")
    _refuses(lambda: fitted.score_samples(test[:0]), ValueError, "at least one image")
    _refuses(lambda: fitted.score_samples(np.zeros((5, 64))), ValueError, "table")


def check_images_scaled_another_way_are_refused(subject):
    fitted, test = subject.fitted, subject.test
    _refuses(lambda: fitted.score_samples(test.astype(np.float64)), ValueError, "[0, 1]")
    _refuses(lambda: fitted.score_samples(test / 255 / 255), ValueError, "image 0")
    _require(fitted.score_samples(np.zeros_like(test[:1])).shape == (1,), "black is a finding")


def check_progress_is_shown_on_request(subject):
    for verbose in (False, True):
        shown = io.StringIO()
        with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
            subject.make(verbose=verbose).fit(subject.normal).score_samples(subject.test)
        words = ["fit", "score"] if verbose else []
        text = shown.getvalue()
        missing = [word for word in words if word not in text]
        _require(not missing, f"verbose=True should show {missing}")
        _require(verbose or not text, f"verbose=False should be silent, got {text!r}")


# -- devices --------------------------------------------------------------------------------------


def check_default_device_is_not_used(subject):
    """On a default device that holds no values, only what names its device can be computed."""

    def on_meta(method):
        def wrapped(self, given):
            with torch.device("meta"):
                return method(self, given)

        return wrapped

    cls = type(subject.detector)
    # networks are built by others, then moved: that much may happen outside of these methods
    methods = {name: on_meta(getattr(cls, name)) for name in ("_fit_images", "_infer", "_score")}
    detector = subject.make()
    detector.__class__ = type(cls.__name__, (cls,), methods)
    assert_same(detector.fit(subject.normal).inspect(subject.test), subject.seen)


def check_contexts_are_invisible(subject):
    with torch.inference_mode(), torch.device("meta"), torch.autocast("cpu", torch.bfloat16):
        detector = subject.make().fit(subject.normal)
        seen = detector.inspect(subject.test)
        one_by_one = [image.score for image in detector.iter_inspect(subject.test)]
        _require(torch.is_inference_mode_enabled(), "the caller's settings are back afterwards")
    assert_same(seen, subject.seen)
    np.testing.assert_array_equal(one_by_one, subject.seen.scores)


def _tensors(thing):
    if isinstance(thing, torch.Tensor):
        yield thing
    elif isinstance(thing, torch.nn.Module):
        yield from thing.state_dict().values()
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from _tensors(value)
    elif isinstance(thing, list | tuple):
        for value in thing:
            yield from _tensors(value)
    elif type(thing).__module__.startswith("anomalib_lite"):
        yield from _tensors(vars(thing))


def check_learned_tensors_are_on_the_device(subject):
    fitted = subject.fitted
    for name in learned_names(fitted):
        for tensor in _tensors(vars(fitted)[name]):
            _require(tensor.device == fitted.device_, f"{name}: on {tensor.device}")
            _require(not tensor.requires_grad, f"{name}: should not require gradients")


def check_missing_devices_are_refused(subject):
    for device in ("nonsense", 3, "cuda", "mps"):
        here = device in ("cuda", "mps") and getattr(torch, device).is_available()
        if not here:
            _refuses(lambda d=device: subject.make(device=d).fit(subject.normal), ValueError, "dev")


CHECKS = tuple(
    check
    for name, check in list(globals().items())
    if name.startswith("check_") and name != "check_detector"
)
