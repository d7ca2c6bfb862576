"""Detectors written by somebody else: they work everywhere, and their mistakes are found."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mean_image
import numpy as np
import pytest
import torch
from mean_image import MeanImage
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from anomalib_lite import BaseDetector, ConformalDetector, ImageEstimator, load
from anomalib_lite.nn import StoredNetwork
from anomalib_lite.report import AnomalyMapDisplay
from anomalib_lite.testing import check_detector, striped_images

NORMAL, ODD = striped_images(12), striped_images(3, scratched=True, seed=1)


def make(cls=MeanImage, **params):
    return cls(**{"image_size": 64, "random_state": 0, **params})


@pytest.fixture(scope="module")
def fitted():
    return make().fit(NORMAL)


def test_the_example_is_short():
    assert len(Path(mean_image.__file__).read_text().splitlines()) <= 25


def test_the_example_keeps_the_whole_contract():
    check_detector(make())


def test_images_of_ones_own_can_be_checked_with():
    check_detector(
        make(), normal=np.repeat(NORMAL[..., None], 3, 3), anomalous=ODD[..., None].repeat(3, 3)
    )
    with pytest.raises(ValueError, match="both or neither"):
        check_detector(make(), normal=NORMAL)
    with pytest.raises(AssertionError, match=r"check_signs: anomalies should have lower scores"):
        check_detector(make(), normal=NORMAL, anomalous=NORMAL[:3])
    with pytest.raises(ValueError, match="expected a BaseDetector, got int"):
        check_detector(3)


def test_scores_are_distances_from_the_mean_and_out_of_sample_ones_leave_the_image_out(fitted):
    images = NORMAL / 255
    expected = [np.square(image / 255 - images.mean(0)).mean() for image in ODD]
    np.testing.assert_allclose(fitted.anomaly_score(ODD), expected, rtol=1e-4)
    for i, image in enumerate(images):
        others = np.delete(images, i, 0).mean(0)
        left_out = np.square(image - others).mean()
        assert -fitted.calibration_scores_[i] == pytest.approx(left_out, rel=1e-4)


FRESH = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from mean_image import MeanImage
import anomalib_lite
detector = anomalib_lite.load("own.alite", classes=[MeanImage])
seen = detector.inspect(np.load("odd.npy"))
np.savez("seen.npz", scores=seen.scores, maps=seen.maps, labels=seen.labels)
"""


def test_a_fresh_process_loads_it_and_gives_the_same_bits(fitted, tmp_path):
    fitted.save(tmp_path / "own.alite")
    np.save(tmp_path / "odd.npy", ODD)
    home = str(Path(mean_image.__file__).parent)
    subprocess.run([sys.executable, "-c", FRESH, home], cwd=tmp_path, check=True)
    seen = fitted.inspect(ODD)
    with np.load(tmp_path / "seen.npz") as loaded:
        for name in ("scores", "maps", "labels"):
            np.testing.assert_array_equal(loaded[name], getattr(seen, name))


def test_it_works_inside_a_conformal_detector():
    conformal = ConformalDetector(make(), random_state=0).fit(striped_images(40, seed=5))
    assert conformal.p_values(ODD).max() < conformal.p_values(NORMAL).min()


def test_it_can_be_searched_over():
    images, y = np.concatenate([NORMAL, ODD]), np.repeat([1, -1], [12, 3])
    folds = [(np.arange(6), np.arange(6, 15)), (np.arange(6, 12), np.r_[:6, 12:15])]
    search = GridSearchCV(make(), {"image_size": [8, 64]}, scoring="roc_auc", cv=folds, refit=False)
    search.fit(images, y)
    assert search.cv_results_["mean_test_score"].max() == 1


def test_its_maps_can_be_drawn(fitted):
    import matplotlib.pyplot as plt

    display = AnomalyMapDisplay.from_estimator(fitted, ODD)
    assert display.axes_.size >= 6
    plt.close(display.figure_)


# -- mistakes -------------------------------------------------------------------------------------


def returns(scores):
    """A class whose ``_learn`` returns something else."""

    def _learn(self, batches, n_images, generator):
        right = MeanImage._learn(self, batches, n_images, generator)
        return scores(right)

    return type("Mistaken", (MeanImage,), {"_learn": _learn})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (lambda right: None, r"Mistaken\._learn: expected .* each of the 12 .* got None"),
        (lambda right: right[1:], r"got an array of shape \(11,\)"),
        (lambda right: right[:, None], r"got an array of shape \(12, 1\)"),
        (lambda right: float(right[0]), r"got an array of shape \(\)"),
        (lambda right: right * torch.nan, "got NaN alone"),
        (lambda right: right / 0, "got infinity"),
    ],
)
def test_calibration_scores_that_set_no_threshold_are_refused(scores, message):
    detector = make(returns(scores))
    with pytest.raises(ValueError, match=message):
        detector.fit(NORMAL)
    assert not hasattr(detector, "offset_")


def test_some_calibration_scores_may_be_missing():
    def some(right):
        right[:4] = torch.nan
        return right.tolist()

    detector = make(returns(some), false_alarm_rate=0.5).fit(NORMAL)
    assert np.isnan(detector.calibration_scores_[:4]).all()
    assert detector.offset_ == np.median(detector.calibration_scores_[4:])


def infers(change):
    return type(
        "Mistaken",
        (MeanImage,),
        {"_infer": lambda self, batch: change(*MeanImage._infer(self, batch))},
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores, grids: None, r"Mistaken\._infer: expected .*, got NoneType"),
        (lambda scores, grids: (scores[:0], grids), r"1 anomaly scores.*got shape \(0,\)"),
        (lambda scores, grids: (scores[:, None], grids), r"got shape \(1, 1\)"),
        (lambda scores, grids: (scores.tolist(), grids), "got list"),
        (lambda scores, grids: (scores, grids[0]), r"grids \(1, rows, columns\), got shape"),
        (lambda scores, grids: (scores, None), "got NoneType"),
        (lambda scores, grids: (scores * torch.nan, grids), "image 0"),
        (lambda scores, grids: (scores, grids * torch.nan), "image 0"),
    ],
)
def test_results_that_are_none_are_refused(change, message):
    detector = make(MeanImage).fit(NORMAL)
    detector.__class__ = infers(change)
    with pytest.raises(ValueError, match=message):
        detector.inspect(ODD)


def test_maps_of_normal_images_are_checked_in_fit():
    detector = make(infers(lambda scores, grids: (scores, grids * torch.nan)))
    with pytest.raises(ValueError, match=r"image \d: .*NaN"):
        detector.fit(NORMAL)


def test_scores_alone_are_checked_too():
    cls = type("Mistaken", (MeanImage,), {"_score": lambda self, batch: None})
    with pytest.raises(ValueError, match=r"Mistaken\._score: .*got NoneType"):
        make(cls).fit(NORMAL).score_samples(ODD)


def test_hooks_that_are_missing_are_named():
    class Nothing(BaseDetector):
        pass

    with pytest.raises(NotImplementedError, match=r"Nothing must implement _learn"):
        make(Nothing).fit(NORMAL)

    class Learns(BaseDetector):
        _learn = MeanImage._learn

    with pytest.raises(NotImplementedError, match=r"Learns must implement _infer"):
        make(Learns).fit(NORMAL).predict(ODD)

    class Estimator(ImageEstimator):
        __init__ = BaseDetector.__init__

    with pytest.raises(NotImplementedError, match=r"Estimator must implement _fit_images"):
        make(Estimator).fit(NORMAL)


# -- files ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    factor: float


class Halves(StoredNetwork):
    def __init__(self, n):
        super().__init__()
        self.arguments = {"n": n}
        self.layer = torch.nn.Linear(n, 1)

    def forward(self, x):
        return self.layer(x)


class WithParts(MeanImage):
    """Learns a part and a network, too."""

    def _learn(self, batches, n_images, generator):
        self.scale_, self.network_ = Scale(0.5), Halves(3).eval().requires_grad_(False)
        return MeanImage._learn(self, batches, n_images, generator)

    def _infer(self, batch):
        scores, grids = MeanImage._infer(self, batch)
        bias = self.network_(torch.ones(1, 3))[0]
        return self.scale_.factor * scores + bias, grids


def test_parts_of_a_detector_are_stored_with_it(tmp_path):
    detector = make(WithParts).fit(NORMAL)
    detector.save(tmp_path / "a.alite")
    again = load(tmp_path / "a.alite", classes=[WithParts, Scale, Halves])
    assert again.scale_ == Scale(0.5)
    np.testing.assert_array_equal(again.score_samples(ODD), detector.score_samples(ODD))


@pytest.mark.parametrize("missing", [WithParts, Scale, Halves])
def test_a_class_that_is_not_handed_over_is_asked_for(missing, tmp_path, monkeypatch):
    make(WithParts).fit(NORMAL).save(tmp_path / "a.alite")
    classes = [cls for cls in (WithParts, Scale, Halves) if cls is not missing]
    monkeypatch.setitem(sys.modules, __name__, None)  # whatever imported this by name would fail
    name = missing.__name__
    with pytest.raises(ValueError, match=rf"'{name}', defined in '{__name__}'.*\[{name}\]"):
        load(tmp_path / "a.alite", classes=classes)


def test_a_part_is_no_estimator_and_an_estimator_no_part(tmp_path):
    make(WithParts).fit(NORMAL).save(tmp_path / "a.alite")
    impostor = type("WithParts", (), {"to_state": None, "from_state": None})
    with pytest.raises(ValueError, match="'WithParts'"):
        load(tmp_path / "a.alite", classes=[impostor, Scale, Halves])
    with pytest.raises(ValueError, match="'Scale'"):
        load(tmp_path / "a.alite", classes=[WithParts, type("Scale", (MeanImage,), {}), Halves])


@pytest.mark.parametrize("nonsense", [int, "MeanImage", MeanImage(), None])
def test_only_classes_that_a_file_can_hold_are_taken(nonsense, fitted, tmp_path):
    fitted.save(tmp_path / "a.alite")
    with pytest.raises(ValueError, match="classes: expected"):
        load(tmp_path / "a.alite", classes=[nonsense])


def test_a_foreign_class_does_not_stand_in_for_one_of_this_package(tmp_path):
    class PatchCore(MeanImage):
        pass

    make(PatchCore).fit(NORMAL).save(tmp_path / "a.alite")
    with pytest.raises(ValueError, match="'PatchCore', defined in"):
        load(tmp_path / "a.alite")
    assert type(load(tmp_path / "a.alite", classes=[PatchCore])) is PatchCore


def test_what_cannot_be_stored_is_refused_when_it_is_saved(fitted, tmp_path):
    spoilt = clone(fitted).fit(NORMAL)
    spoilt.network_ = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"MeanImage\.network_: a Linear is code.*StoredNetwork"):
        spoilt.save(tmp_path / "a.alite")
    spoilt = clone(fitted).fit(NORMAL)
    spoilt.mean = 1
    with pytest.raises(ValueError, match=r"MeanImage\.mean: .*Call it mean_"):
        spoilt.save(tmp_path / "a.alite")
    assert list(tmp_path.iterdir()) == []
