"""Every public detector passes the public suite, and what else this package promises of all."""

import contextlib
import copy
import inspect
import json
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from detectors import PUBLIC, SUBJECTS, small
from mean_image import MeanImage
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import anomalib_lite
from anomalib_lite import SPADE, PatchCore, RotationPrediction
from anomalib_lite.testing import (
    CHECKS,
    SCORING,
    Subject,
    assert_same,
    fingerprint,
    learned_names,
    parametrize_with_checks,
)

PACKAGE = str(Path(anomalib_lite.__file__).parent)
every_detector = pytest.mark.parametrize("cls", PUBLIC, ids=lambda cls: cls.__name__)


@parametrize_with_checks(SUBJECTS.values())
def test_contract(subject, check):
    check(subject)


def test_every_method_is_a_public_detector():
    files = {path.stem for path in Path(PACKAGE, "methods").iterdir() if path.stem[0] != "_"}
    homes = {cls.__module__.split(".")[2] for cls in PUBLIC}
    assert homes == files - {"two_stage"}
    assert len(PUBLIC) >= 10


@every_detector
def test_every_parameter_is_documented_and_the_sign_stated(cls):
    documented = cls.__doc__.split("Parameters\n")[1].split("Attributes\n")[0]
    for name in inspect.signature(cls).parameters:
        assert f"    {name} : " in documented, name
    for method in SCORING:
        assert "anomalous" in getattr(cls, method).__doc__, method
    assert "References" in cls.__doc__
    assert ">>> " in cls.__doc__


# -- every way to pass images, on the detector that is quickest to fit ----------------------------


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
def test_every_way_to_pass_images_agrees(way):
    subject = SUBJECTS[PatchCore]
    expected = subject.seen.scores
    scores = subject.fitted.score_samples(WAYS[way](subject.test))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)
    refitted = subject.make().fit(WAYS[way](subject.normal))
    np.testing.assert_allclose(refitted.score_samples(subject.test), expected, rtol=1e-4)


# -- other processes ------------------------------------------------------------------------------

FRESH = """
import json, sys
import anomalib_lite
heavy = {"torch", "torchvision", "timm", "sklearn", "scipy", "numpy", "PIL", "matplotlib"}
told = {"heavy": sorted(heavy & set(sys.modules)), "metrics": anomalib_lite.metrics.__name__}
import numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
import anomalib_lite.report
told["matplotlib"] = "matplotlib" in sys.modules
test = np.load("test.npy")
for name in sys.argv[2:]:
    detector = anomalib_lite.load(f"{name}.alite")
    seen = detector.inspect(test)
    np.savez(f"{name}.npz", offset=detector.offset_, scores=seen.scores, maps=seen.maps)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A folder with what a process of its own made of every detector's file, and what it told."""
    folder = tmp_path_factory.mktemp("fresh")
    for cls, subject in SUBJECTS.items():
        subject.fitted.save(folder / f"{cls.__name__}.alite")
    np.save(folder / "test.npy", SUBJECTS[PatchCore].test)
    names = [cls.__name__ for cls in PUBLIC]
    command = [sys.executable, "-c", FRESH, str(torch.get_num_threads()), *names]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder, json.loads(done.stdout)


@every_detector
def test_a_fresh_process_gives_the_same_bits(cls, fresh):
    subject = SUBJECTS[cls]
    with np.load(fresh[0] / f"{cls.__name__}.npz") as loaded:
        np.testing.assert_array_equal(loaded["scores"], subject.seen.scores)
        np.testing.assert_array_equal(loaded["maps"], subject.seen.maps)
        assert loaded["offset"] == subject.fitted.offset_


def test_importing_the_package_loads_nothing_heavy(fresh):
    assert fresh[1]["heavy"] == []
    assert fresh[1]["metrics"] == "anomalib_lite.metrics"


def test_matplotlib_waits_until_something_is_drawn(fresh):
    assert fresh[1]["matplotlib"] is False


@pytest.mark.parametrize(
    "cls",
    [cls if cls is PatchCore else pytest.param(cls, marks=pytest.mark.slow) for cls in PUBLIC],
)
def test_worker_processes_give_the_same_scores(cls):
    subject = SUBJECTS[cls]
    calls = [joblib.delayed(subject.fitted.inspect)(part) for part in np.split(subject.test, [3])]
    calls.append(joblib.delayed(small(cls).fit)(subject.normal))
    first, second, refitted = joblib.Parallel(n_jobs=2, backend="loky")(calls)
    expected = subject.seen.scores
    np.testing.assert_allclose([*first.scores, *second.scores], expected, rtol=1e-6)
    np.testing.assert_allclose(refitted.score_samples(subject.test), expected, rtol=1e-6)


# -- interrupts -----------------------------------------------------------------------------------


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


def moments(function, *arguments):
    """How often the package enters a function of its own meanwhile."""
    count = Interrupt()
    count.during(function, *arguments)
    return count.count


def interrupted(detector, method, X, at):
    with pytest.raises(KeyboardInterrupt):
        Interrupt(at=at).during(getattr(detector, method), X)


TOY = Subject(MeanImage(image_size=64, random_state=0, n_jobs=1))  # moments can be counted


def test_an_interrupt_at_any_moment_of_a_fit_changes_nothing():
    fitted = copy.deepcopy(TOY.fitted)
    before = fingerprint(fitted)
    # the very last call is the end of a clean-up, which is allowed to have happened
    n_moments = moments(TOY.make().fit, TOY.test) - 1
    assert n_moments > 50
    for at in range(1, n_moments):
        interrupted(fitted, "fit", TOY.test, at)
        assert fingerprint(fitted) == before
        fresh = TOY.make()
        interrupted(fresh, "fit", TOY.test, at)
        assert not learned_names(fresh)
    assert_same(fitted.inspect(TOY.test), TOY.seen)


@pytest.mark.parametrize(
    ("cls", "method"),
    [(PatchCore, "fit"), (PatchCore, "partial_fit"), (SPADE, "fit"), (RotationPrediction, "fit")],
)
@pytest.mark.parametrize("share", [0.2, 0.6, 1])
def test_an_interrupted_fit_of_a_real_detector_changes_nothing(cls, method, share):
    subject = SUBJECTS[cls]
    detector = copy.deepcopy(subject.fitted).set_params(n_jobs=1)  # moments can be counted
    before = fingerprint(detector)
    n_moments = moments(getattr(copy.deepcopy(detector), method), subject.test)
    n_moments -= 3  # the last ones are the end of a clean-up, which is allowed to have happened
    interrupted(detector, method, subject.test, 1 + int(share * (n_moments - 1)))
    assert fingerprint(detector) == before


def test_an_interrupt_while_scoring_changes_nothing():
    detector = copy.deepcopy(TOY.fitted)
    before = fingerprint(detector)
    for at in range(1, moments(detector.inspect, TOY.test)):
        interrupted(detector, "inspect", TOY.test, at)
        assert fingerprint(detector) == before


# -- the suite has teeth --------------------------------------------------------------------------


def broken(**methods):
    """A subject whose class differs in some methods."""
    cls = type("Broken", (MeanImage,), {"__module__": __name__, **methods})
    globals()["Broken"] = cls  # where pickle looks for it
    return Subject(cls(image_size=64, random_state=0))


def infer(change):
    """An ``_infer`` that changes what the right one gives."""
    return lambda self, batch: change(self, batch, *MeanImage._infer(self, batch))


def learn(before):
    """A ``_learn`` that does something else first."""

    def _learn(self, batches, n_images, generator):
        before(self, generator)
        return MeanImage._learn(self, batches, n_images, generator)

    return _learn


def with_jitter(self, batch, scores, grids):
    return scores + 1e-7 * torch.rand(1), grids


def counting(self, batch, scores, grids):
    self.count_ = getattr(self, "count_", 0) + 1
    return scores * (1 + 1e-6 * self.count_), grids


def unlucky(self, *_):
    self.noise_ = np.random.default_rng().random()  # not from random_state


def own_default_device(self, batches, n_images, generator):
    scores = MeanImage._learn(self, batches, n_images, generator)
    self.mean_ = self.mean_ + torch.zeros(self.mean_.shape)
    return scores


def greedy_init(self, **params):
    MeanImage.__init__(self, **params)
    self.extra_ = 1


def loud(self, _generator):
    print("learning")


FAULTS = {
    "scores turned round": ({"_infer": infer(lambda s, b, x, g: (-x, g))}, "check_signs"),
    "maps turned over": (
        {"_infer": infer(lambda s, b, x, g: (x, g.mT))},
        "check_maps_show_the_place",
    ),
    "scores drawn": ({"_infer": infer(with_jitter)}, "check_inspect_equals_single_calls"),
    "scores that know their order": ({"_infer": infer(counting)}, "check_other_images"),
    "more workers than one": (
        {"_infer": infer(lambda s, b, x, g: (x + (s.n_jobs or 1), g))},
        "check_number_of_workers",
    ),
    "a seed of its own": (
        {"_learn": learn(unlucky), "_infer": infer(lambda s, b, x, g: (x + s.noise_, g))},
        "check_same_seed",
    ),
    "the global generator": (
        {"_learn": learn(lambda self, _: torch.rand(1))},
        "check_globals_are_left_alone",
    ),
    "more than parameters": ({"__init__": greedy_init}, "check_constructor_only_stores"),
    "a changed parameter": (
        {"_learn": learn(lambda self, _: setattr(self, "smoothing", 1.5))},
        "check_fit_changes_no_parameter",
    ),
    "not to be stored": (
        {"_learn": learn(lambda self, _: setattr(self, "network_", torch.nn.Linear(1, 1)))},
        "check_save_and_load",
    ),
    "the default device": ({"_learn": own_default_device}, "check_default_device"),
    "always loud": ({"_learn": learn(loud)}, "check_progress"),
    "threshold of its own": (
        {"_set_offset": lambda self: setattr(self, "offset_", -1e-9)},
        "check_threshold",
    ),
}


def failing_checks(subject):
    for check in CHECKS:
        try:
            with contextlib.redirect_stdout(sys.stderr):
                check(subject)
        except Exception:
            yield check.__name__


def test_the_suite_finds_nothing_wrong_with_the_right_one():
    assert list(failing_checks(TOY)) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_the_suite_finds_a_broken_promise(fault):
    methods, name = FAULTS[fault]
    failed = list(failing_checks(broken(**methods)))
    assert any(check.startswith(name) for check in failed), failed
