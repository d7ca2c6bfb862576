"""suggest_settings: what is suggested for which images, and what a fit is expected to take."""

import numpy as np
import pytest
from PIL import Image
from sklearn.base import BaseEstimator
from worlds import scratched, stripes

from anomalib_lite import DetectorEnsemble, PatchCore, suggest_settings
from anomalib_lite.selection import suggesting
from anomalib_lite.selection.suggesting import expected_seconds


def blank(n, height, width=None):
    return np.zeros((n, height, width or height), np.uint8)


def sizes(detector):
    return [params["image_size"] for params in map(vars, dict(detector.detectors).values())]


@pytest.mark.parametrize(
    ("shape", "finest"),
    [((250, 250), 448), ((3000, 4000), 448), ((100, 300), 224), ((28, 28), 128), ((97, 97), 224)],
)
def test_image_sizes_follow_the_images(shape, finest):
    images = np.broadcast_to(np.uint8(7), (16, *shape))
    detector = suggest_settings(images, random_state=0).detector
    assert isinstance(detector, DetectorEnsemble) and detector.combine == "sum"
    assert sizes(detector) == [(finest // 2,) * 2, finest, finest]


def test_parameters_are_handed_on():
    params = {
        "false_alarm_rate": 0.05,
        "n_jobs": 1,
        "device": "cpu",
        "random_state": 3,
        "verbose": True,
    }
    for n in (3, 20):
        detector = suggest_settings(blank(n, 64), **params).detector
        assert {name: getattr(detector, name) for name in params} == params


def test_few_images_have_no_common_scale():
    few = suggest_settings(blank(15, 64))
    assert isinstance(few.detector, PatchCore)
    assert "fewer than 16 images" in str(few) and "PatchCore(" in str(few)
    assert isinstance(suggest_settings(blank(16, 64)).detector, DetectorEnsemble)


def test_without_a_budget_nothing_is_fitted(monkeypatch):
    monkeypatch.setattr(suggesting, "expected_seconds", None)
    assert suggest_settings(blank(20, 64)).fit_seconds is None


@pytest.mark.parametrize(
    ("budget_s", "coresets", "time"),
    [
        (300, [10_000, 2_000], "about 5 minutes"),
        (299, [2_000, 1_000], "about 50 s"),
        (49, [2_000], "about 10 s"),
        (9, [2_000], "more than the budget of 9 s"),
    ],
)
def test_the_first_detector_within_the_budget_is_taken(monkeypatch, budget_s, coresets, time):
    tried = []

    def expected(detector, images, n_images, *, limit):
        tried.append(detector)
        assert len(images) == 24 and n_images == 100
        assert limit == (np.inf if len(tried) == 3 else budget_s)
        return {1: 300.0, 2: 50.0, 3: 10.0}[len(tried)]

    monkeypatch.setattr(suggesting, "expected_seconds", expected)
    suggestion = suggest_settings(blank(100, 64), budget_s=budget_s)
    assert suggestion.detector is tried[-1]
    members = [*dict(suggestion.detector.detectors).values()]
    assert [each.coreset for each in members if isinstance(each, PatchCore)] == coresets
    assert time in str(suggestion)
    assert ("more than the budget" in str(suggestion)) == (budget_s < 10)


class Costly(BaseEstimator):
    """Takes 2 s, 0.5 s an image, and 10 ms for each of its rows and each image."""

    now = 0.0

    def __init__(self, coreset=100, verbose=True):
        self.coreset = coreset
        self.verbose = verbose

    def fit(self, images):
        assert not self.verbose
        Costly.now += 2 + 0.5 * len(images) + 0.01 * len(images) * self.coreset
        return self


@pytest.mark.parametrize("n_images", [24, 100, 1000])
def test_time_grows_with_images_and_rows(n_images):
    found = expected_seconds(Costly(), blank(24, 8), n_images, clock=lambda: Costly.now)
    # rows of a trial are whole ones, so that few of them are off by a half at most
    assert found == pytest.approx(2 + 0.5 * n_images + 0.01 * n_images * 100, rel=0.1)


def test_of_a_few_images_all_are_tried():
    found = expected_seconds(Costly(), blank(7, 8), 7, clock=lambda: Costly.now)
    assert found == pytest.approx(2 + 0.5 * 7 + 0.01 * 7 * 100, rel=0.01)


@pytest.mark.parametrize(("limit", "seconds"), [(4, 4.16), (9, 9.44), (30, 102 + 50)])
def test_trials_end_where_one_takes_too_long(limit, seconds):
    start = Costly.now
    found = expected_seconds(Costly(), blank(24, 8), 100, limit=limit, clock=lambda: Costly.now)
    assert found == pytest.approx(seconds, rel=0.1)
    trials = [4.16, 9.44, 19.76]
    spent = sum(trials[: 1 + sum(each <= limit for each in trials[:2])])
    assert Costly.now - start == pytest.approx(spent)


def test_images_of_a_trial_are_spread():
    seen = []

    class Noting(Costly):
        def fit(self, images):
            seen.append([int(image[0, 0]) for image in images])
            return self

    images = np.arange(24, dtype=np.uint8)[:, None, None] + np.zeros((1, 8, 8), np.uint8)
    expected_seconds(Noting(), images, 100)
    assert seen[0] == [0, 8, 15, 23]
    assert seen[2] == [*range(24)]


def test_a_trial_that_fails_is_told_of():
    with pytest.raises(ValueError, match="budget_s: a fit on 4 images, to time it: "):
        expected_seconds(PatchCore(image_size=16, layers=(8,)), blank(24, 4), 100)


def test_what_is_wrong_with_an_image_is_said_by_its_place(tmp_path):
    images = blank(50, 64).astype(float)
    images[-1] = np.nan
    with pytest.raises(ValueError, match=r"^image 49: holds NaN"):
        suggest_settings(images)
    for i in range(3):
        Image.fromarray(blank(1, 64)[0]).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"1\.png"):
        suggest_settings(tmp_path)


@pytest.mark.parametrize("X", [[], blank(0, 64)])
def test_no_images(X):
    with pytest.raises(ValueError, match="at least one image"):
        suggest_settings(X)


def test_what_cannot_be_fitted_on_later_is_refused():
    with pytest.raises(ValueError, match="can be indexed"):
        suggest_settings(iter(blank(20, 64)))


@pytest.mark.parametrize("budget_s", [-1, "much", np.nan])
def test_bad_budgets(budget_s):
    with pytest.raises(ValueError, match="budget_s: expected a number"):
        suggest_settings(blank(20, 64), budget_s=budget_s)


@pytest.mark.slow
def test_a_suggestion_finds_what_is_planted():
    normal = stripes(20)
    suggestion = suggest_settings(normal, budget_s=0, false_alarm_rate=0.1, random_state=0)
    assert suggestion.fit_seconds > 0
    detector = suggestion.detector.fit(normal)
    assert (detector.predict(scratched(5, seed=3)) == -1).all()
