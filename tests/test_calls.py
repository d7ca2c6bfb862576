"""What the calls of all detectors share: thresholds, skipping, maps of any size, other threads."""

import math
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from detectors import PUBLIC, small
from PIL import Image
from worlds import scratched, stripes

from anomalib_lite import CANCE, CPC, SPADE, PaDiM, PatchCore, SubspaceAD, load
from anomalib_lite.base import BaseDetector
from anomalib_lite.data import ImageStream
from anomalib_lite.runtime import make_generator
from anomalib_lite.testing import assert_same

NORMAL, FRESH, ODD = stripes(30), stripes(6, seed=5), scratched(2)


def make(**params):
    return small(PaDiM, **{"false_alarm_rate": 0.1, **params})


@pytest.fixture(scope="module")
def fitted():
    """Fitted on NORMAL; not to be changed."""
    return make().fit(NORMAL)


@pytest.fixture
def folder(tmp_path):
    """Eight images, of which 2 is cut off and 5 no image at all."""
    for i, image in enumerate([*FRESH, *ODD]):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "5.png").write_text("no image")
    return tmp_path


# -- thresholds -----------------------------------------------------------------------------------


class Ramp(BaseDetector):
    """Scores are mean brightness; those of fit are out of sample."""

    def _learn(self, batches, n_images, generator):
        return torch.cat([batch.mean((1, 2, 3)) for _, batch in batches]).double()

    def _infer(self, batch):
        return batch.mean((1, 2, 3)), batch.mean(1)


def flat(*levels):
    return np.stack([np.full((8, 8), level) for level in levels])


@pytest.mark.parametrize("n", [19, 20, 99, 100, 199])
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.25])
def test_the_expected_rate_of_false_alarms_is_the_one_asked_for(n, rate):
    """Of uniform scores, the chance of a new one beyond the threshold is the threshold itself."""
    rng = np.random.default_rng(n)
    detector = Ramp(image_size=8, false_alarm_rate=rate)
    detector.n_images_, detector._digests_ = n, np.arange(n)
    rates = []
    for _ in range(3000):
        detector._calibrate_threshold(rng.uniform(size=n))
        rates.append(1 + detector.offset_)  # scores are -u: P(-u < offset)
    assert np.mean(rates) == pytest.approx(rate, abs=4 * np.std(rates) / 3000**0.5)


@pytest.mark.parametrize(
    ("n", "rate", "lowest"), [(5, 0.01, "17 %"), (20, 0.01, "4.8 %"), (9, 0.05, "10 %"), (5, 0, "")]
)
def test_too_few_images_for_the_rate_are_warned_of(n, rate, lowest):
    images = flat(*np.linspace(0.2, 0.8, n))
    with pytest.warns(UserWarning, match=f"there are {n}.* {lowest}") as caught:
        detector = Ramp(image_size=8, false_alarm_rate=rate).fit(images)
    assert detector.offset_ == detector.calibration_scores_.min()
    assert [warning.filename for warning in caught] == [__file__]
    enough = math.ceil(1000 / (n + 1)) / 1000
    assert f"false_alarm_rate={enough}" in str(caught[0].message)
    detector.set_params(false_alarm_rate=enough)  # warnings are errors here


def test_a_rate_that_so_many_images_support_is_not_warned_of(recwarn):
    Ramp(image_size=8, false_alarm_rate=0.1).fit(flat(*np.linspace(0.2, 0.8, 9)))
    assert not recwarn.list


@pytest.mark.parametrize("door", ["set_threshold", "set_params", "partial_fit"])
def test_every_door_to_the_threshold_warns(door):
    detector = small(PatchCore, false_alarm_rate=0.2).fit(NORMAL[:5])
    with pytest.warns(UserWarning, match="false_alarm_rate=0.01 needs 99 images"):
        if door == "partial_fit":
            detector.set_params(false_alarm_rate=0.01).partial_fit(NORMAL[5:8])
        else:
            getattr(detector, door)(false_alarm_rate=0.01)


def test_a_threshold_can_be_set_and_is_kept(fitted, tmp_path):
    detector = make().fit(NORMAL)
    assert detector.set_threshold(false_alarm_rate=0.2) is detector
    assert detector.false_alarm_rate == 0.2
    assert detector.offset_ == make(false_alarm_rate=0.2).fit(NORMAL).offset_ > fitted.offset_
    scores = detector.score_samples(FRESH)
    detector.set_threshold(score=np.float32(np.median(scores)))
    assert (detector.predict(FRESH) == -1).sum() == 3
    detector.save(tmp_path / "set.alite")
    again = load(tmp_path / "set.alite")
    assert again.offset_ == detector.offset_
    np.testing.assert_array_equal(again.predict(FRESH), detector.predict(FRESH))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "got nothing"),
        ({"score": 1.0, "false_alarm_rate": 0.1}, "got a score and more"),
        ({"score": math.nan}, "score: expected a finite number, got nan"),
        ({"score": -math.inf}, "score: expected a finite number"),
        ({"score": "high"}, "score: .*'high'"),
        ({"score": True}, "score: .*True"),
        ({"false_alarm_rate": 1.0}, r"false_alarm_rate: .*\[0, 1\)"),
        ({"false_alarm_rate": -0.1}, "false_alarm_rate"),
    ],
)
def test_thresholds_that_are_none_are_refused(given, message):
    detector = make().fit(NORMAL)
    before = detector.offset_, detector.false_alarm_rate
    with pytest.raises(ValueError, match=message):
        detector.set_threshold(**given)
    assert (detector.offset_, detector.false_alarm_rate) == before


@pytest.mark.parametrize("cls", [PatchCore, PaDiM, SPADE])
def test_fit_predict_finds_bad_images_among_the_training_images(cls):
    centers = [(12, 20), (20, 44), (40, 16), (50, 40)]
    bad = np.concatenate([scratched(1, center=center, seed=i) for i, center in enumerate(centers)])
    detector = small(cls, false_alarm_rate=0.1)
    labels = detector.fit_predict(np.concatenate([stripes(36), bad]))
    assert set(labels) == {-1, 1}
    assert (labels[36:] == -1).all()
    assert (labels == -1).sum() <= 8


def test_fit_predict_scores_images_that_were_not_kept_aside():
    detector = small(CPC, false_alarm_rate=0.3)
    labels = detector.fit_predict(NORMAL)
    known = ~np.isnan(detector.calibration_scores_)
    assert 0 < known.sum() < 30
    expected = np.where(detector.calibration_scores_ < detector.offset_, -1, 1)
    np.testing.assert_array_equal(labels[known], expected[known])
    np.testing.assert_array_equal(labels[~known], detector.predict(NORMAL)[~known])


def test_fit_predict_on_a_table():
    rows = np.random.default_rng(0).normal(size=(40, 3)) * [1, 2, 3]
    rows[36:] *= 8
    labels = small(CANCE, false_alarm_rate=0.1).fit_predict(rows)
    assert (labels == -1).sum() == 4


def test_fit_predict_needs_images_twice_where_some_have_no_score_of_their_own():
    with pytest.raises(ValueError, match=r"read twice.*list_iterator"):
        small(CPC, false_alarm_rate=0.3).fit_predict(iter(list(NORMAL)))
    labels = make().fit_predict(iter(list(NORMAL)))
    assert labels.shape == (30,)


# -- images that cannot be read -------------------------------------------------------------------


def test_skipped_images_keep_their_place_and_get_no_score(fitted, folder):
    with pytest.warns(UserWarning, match=r"2 images were skipped.*image 2 .*image 5"):
        seen = fitted.inspect(folder, on_error="skip")
    good = [0, 1, 3, 4, 6, 7]
    assert [(each.index, each.path[-5:]) for each in seen.skipped] == [(2, "2.png"), (5, "5.png")]
    assert all("cannot be read as an image" in each.reason for each in seen.skipped)
    expected = fitted.inspect([str(folder / f"{i}.png") for i in good])
    np.testing.assert_array_equal(seen.scores[good], expected.scores)
    assert np.isnan(seen.scores[[2, 5]]).all()
    assert seen.labels[[2, 5]].tolist() == [0, 0]
    np.testing.assert_array_equal(seen.labels[good], expected.labels)
    assert [heat is None for heat in seen.maps] == [i in (2, 5) for i in range(8)]
    assert [path[-5:] for path in seen.paths] == [f"{i}.png" for i in range(8)]


@pytest.mark.filterwarnings("ignore:2 images were skipped")
def test_every_scoring_call_skips(fitted, folder):
    seen = fitted.inspect(folder, on_error="skip")
    np.testing.assert_array_equal(fitted.score_samples(folder, on_error="skip"), seen.scores)
    np.testing.assert_array_equal(fitted.anomaly_score(folder, on_error="skip"), -seen.scores)
    margin = fitted.decision_function(folder, on_error="skip")
    np.testing.assert_array_equal(margin, seen.scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(folder, on_error="skip"), seen.labels)
    for heat, expected in zip(fitted.anomaly_map(folder, on_error="skip"), seen.maps, strict=True):
        np.testing.assert_array_equal(heat, expected)
    each = list(fitted.iter_inspect(folder, on_error="skip"))
    assert [one.reason for one in each if one.reason] == [one.reason for one in seen.skipped]
    assert [one.label for one in each] == seen.labels.tolist()


def test_errors_are_raised_unless_skipping_is_asked_for(fitted, folder):
    for call in (fitted.score_samples, fitted.predict, fitted.inspect, fitted.anomaly_map):
        with pytest.raises(ValueError, match=r"image 2 \(.*2\.png\)"):
            call(folder)
        with pytest.raises(ValueError, match="on_error: expected one of 'raise', 'skip'"):
            call(folder, on_error="ignore")
    with pytest.raises(ValueError, match="image 2"):
        list(fitted.iter_inspect(folder))


def test_a_fit_can_skip_by_a_stream(folder):
    stream = ImageStream(folder, on_error="skip")
    detector = make(false_alarm_rate=0.2).fit(stream)
    assert detector.n_images_ == 6
    assert [each.index for each in stream.skipped] == [2, 5]


# -- one image after the other, maps of any size --------------------------------------------------


def test_one_image_after_the_other_is_what_all_are_together(fitted):
    seen = fitted.inspect(np.concatenate([FRESH, ODD]))
    each = list(fitted.iter_inspect(np.concatenate([FRESH, ODD])))
    assert [one.score for one in each] == seen.scores.tolist()
    assert [one.label for one in each] == seen.labels.tolist()
    np.testing.assert_array_equal([one.map for one in each], seen.maps)


def test_images_are_read_when_they_are_asked_for(fitted):
    n_read = 0

    def images():
        nonlocal n_read
        for image in FRESH:
            n_read += 1
            yield image

    results = fitted.iter_inspect(images())
    assert n_read == 0
    next(results)
    assert n_read == 1


def test_maps_have_the_size_asked_for(fitted):
    large = [np.asarray(Image.fromarray(image).resize((150, 90))) for image in ODD]
    assert fitted.inspect(large).maps.shape == (2, 90, 150)
    assert fitted.inspect(large, maps="network").maps.shape == (2, 64, 64)
    assert fitted.inspect(large, maps=(30, 50)).maps.shape == (2, 30, 50)
    assert fitted.inspect(large, maps=20).maps.shape == (2, 20, 20)
    none = fitted.inspect(large, maps=False)
    assert none.maps is None
    np.testing.assert_array_equal(none.scores, fitted.score_samples(large))
    mixed = [large[0], ODD[1]]
    assert fitted.inspect(mixed, maps=(30, 50)).maps.shape == (2, 30, 50)
    for maps in ("small", 0, (3,), -1, None):
        with pytest.raises(ValueError, match="maps: expected"):
            fitted.inspect(large, maps=maps)


# -- scales of values -----------------------------------------------------------------------------


def test_an_anomaly_that_looks_scaled_otherwise_is_scored():
    images = NORMAL / 255
    detector = make().fit(images)
    lamp_off = np.random.default_rng(0).uniform(0, 2e-3, (64, 64))
    for place in (0, 3, 6):
        batch = np.insert(FRESH / 255, place, lamp_off, axis=0)
        seen = detector.inspect(batch)
        assert seen.labels[place] == -1
        good = np.delete(np.arange(7), place)
        np.testing.assert_array_equal(seen.scores[good], detector.score_samples(batch[good]))
        assert [one.label for one in detector.iter_inspect(batch)] == seen.labels.tolist()


def test_a_mistake_shows_in_every_image_of_the_call():
    detector = make().fit(NORMAL / 255)
    for images in (FRESH / 255 / 255, (FRESH / 255 / 255)[:1]):
        for call in (detector.predict, detector.anomaly_map):
            with pytest.raises(
                ValueError, match=r"image 0: .*Scale both the same way\. This is so"
            ):
                call(images)
    results = detector.iter_inspect(np.repeat(FRESH, 6, 0) / 255 / 255)
    with pytest.raises(ValueError, match="each of the first 32 images"):
        next(results)


# -- copies ---------------------------------------------------------------------------------------


def test_copies_among_the_training_images_are_noticed(folder):
    images = np.concatenate([NORMAL[:12], NORMAL[3:5]])
    with pytest.warns(
        UserWarning, match="2 of 14 images are copies: image 12 is image 3, image 13"
    ):
        make().fit(images)
    with pytest.warns(UserWarning, match=r"1 of 12 images is a copy: image 11 \(.*7\.png\) is"):
        paths = [str(folder / f"{i}.png") for i in (0, 1, 3, 4, 6, 7)]
        make(false_alarm_rate=0.2).fit([*NORMAL[:5], *paths, paths[-1]])


def test_images_seen_in_an_earlier_call_are_noticed():
    detector = small(PatchCore, false_alarm_rate=0.2).fit(NORMAL[:6])
    with pytest.warns(UserWarning, match="6 of 12 images are copies: image 0 is one of an earlier"):
        detector.partial_fit(NORMAL[:6])


@pytest.mark.filterwarnings("ignore:.* is a copy:UserWarning")
@pytest.mark.parametrize("cls", PUBLIC)
def test_copies_share_a_side_wherever_images_are_split(cls):
    """The score of an image does not fall because the image is there twice."""
    odd = scratched(1)
    once = np.concatenate([NORMAL[:14], odd])
    twice = np.concatenate([once, odd])
    params = {"calibration_fraction": 0.5} if cls.__name__ in ("CPC", "MLSAD") else {}
    params |= {"epochs": 15} if cls.__name__ == "MLSAD" else {}
    for seed in range(4):  # until the image is held out, where only some are
        detector = small(cls, false_alarm_rate=0.3, random_state=seed, **params).fit(twice)
        scores = detector.calibration_scores_
        if not np.isnan(scores[14:]).all():
            break
    if cls is CPC:  # learns too slowly to tell by scores
        learned, _, _ = detector._split(16, make_generator(seed))
        assert len({14, 15} & {*learned.tolist()}) in (0, 2)
        return
    assert np.nanmax(scores[14:]) < np.nanmin(scores[:14])


# -- other threads --------------------------------------------------------------------------------


def test_scores_during_a_fit_are_those_of_the_old_or_the_new_state():
    detector = make().fit(NORMAL)
    states = [detector.inspect(ODD), make().fit(NORMAL[:20]).inspect(ODD)]
    done = threading.Event()

    def refit():
        for i in range(6):
            detector.fit(NORMAL[:20] if i % 2 == 0 else NORMAL)
        done.set()

    thread = threading.Thread(target=refit)
    thread.start()
    n_seen = 0
    while not done.is_set():
        seen = detector.inspect(ODD)
        assert any(np.array_equal(seen.scores, state.scores) for state in states)
        assert any(
            np.array_equal(seen.scores, state.scores) and np.array_equal(seen.maps, state.maps)
            for state in states
        )
        n_seen += 1
    thread.join()
    assert n_seen > 3


def test_a_file_saved_during_a_fit_holds_one_of_the_states(tmp_path):
    detector = small(PatchCore, false_alarm_rate=0.2).fit(NORMAL[:6])
    with ThreadPoolExecutor(1) as pool:
        growing = pool.submit(
            lambda: [detector.partial_fit(part) for part in NORMAL[6:].reshape(4, 6, 64, 64)]
        )
        n_saved = 0
        while not growing.done() or n_saved == 0:
            detector.save(tmp_path / "now.alite")
            again = load(tmp_path / "now.alite")
            assert len(again.calibration_scores_) == again.n_images_ == len(again._suspects_)
            n_saved += 1
    assert detector.n_images_ == 30


def test_iterated_results_are_those_of_the_state_at_the_beginning(fitted):
    detector = make().fit(NORMAL)
    results = detector.iter_inspect(ODD)
    first = next(results)
    detector.fit(NORMAL[:12])
    second = next(results)
    expected = fitted.inspect(ODD)
    assert [first.score, second.score] == expected.scores.tolist()


# -- parameters -----------------------------------------------------------------------------------


def test_parameters_of_a_nested_estimator_are_set_all_or_not_at_all():
    detector = small(CANCE)
    with pytest.raises(ValueError):
        detector.set_params(density__epochs=7, no_such_thing=1)
    assert detector.density.epochs == 1
    with pytest.raises(ValueError, match=r"density__epochs: density is None.* Set density itself"):
        CANCE().set_params(density__epochs=7)


# -- map levels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [PatchCore, PaDiM, SPADE])
def test_levels_of_maps_are_those_of_normal_images(cls):
    params = {"coreset": 0.2} if cls is PatchCore else {}
    fitted = small(cls, false_alarm_rate=0.1, **params).fit(NORMAL)
    normal, threshold = fitted.map_levels()
    peaks = fitted.anomaly_map(stripes(40, seed=11)).max((1, 2))
    assert 0.1 < (peaks > normal).mean() < 0.9
    assert (peaks > threshold).mean() < 0.5  # of eight examples
    assert fitted.anomaly_map(ODD).max((1, 2)).min() > threshold
    wider = small(cls, false_alarm_rate=0.01, **params)
    with pytest.warns(UserWarning, match="needs 99 images"):
        wider.fit(NORMAL)
    assert wider.map_levels().threshold > threshold
    assert wider.map_levels().normal == normal


def test_levels_follow_the_smoothing(fitted):
    sharp = make().fit(NORMAL).set_params(smoothing=0)
    assert sharp.map_levels().normal > fitted.map_levels().normal
    np.testing.assert_allclose(sharp.map_levels(), make(smoothing=0).fit(NORMAL).map_levels())


def test_tables_have_no_levels_of_maps():
    detector = small(CANCE, false_alarm_rate=0.2).fit(np.random.default_rng(0).normal(size=(30, 3)))
    with pytest.raises(ValueError, match="fitted on images"):
        detector.map_levels()


def test_loaded_detectors_say_the_same_of_maps(fitted, tmp_path):
    fitted.save(tmp_path / "a.alite")
    again = load(tmp_path / "a.alite")
    assert again.map_levels() == fitted.map_levels()
    assert_same(again.inspect(ODD), fitted.inspect(ODD))


# -- images that hardly vary ----------------------------------------------------------------------

_NOISE = np.random.default_rng(0)
FLAT = {
    "constant": np.full((12, 64, 64), 128, np.uint8),
    "black": np.zeros((12, 64, 64), np.uint8),
    "levels": np.stack([np.full((64, 64), 100 + i, np.uint8) for i in range(12)]),
    "rounding": np.clip(0.5 + 1e-7 * _NOISE.normal(size=(12, 64, 64)), 0, 1),
    "subnormal": _NOISE.uniform(0, 1e-40, (12, 64, 64)).astype(np.float32),
}


@pytest.mark.filterwarnings("ignore:.* copies:UserWarning", "ignore:.* cannot calibrate")
@pytest.mark.parametrize("kind", FLAT)
@pytest.mark.parametrize("cls", PUBLIC)
def test_images_that_hardly_vary_are_refused_with_a_reason_or_scored(cls, kind):
    detector = small(cls, false_alarm_rate=0.2)
    try:
        detector.fit(FLAT[kind])
    except ValueError as error:
        assert "all the same" in str(error)
        return
    seen = detector.inspect(FLAT[kind])
    assert np.isfinite(seen.scores).all()
    assert np.isfinite(seen.maps).all()
    if cls is not CANCE:  # which takes the last digits of a perfect reconstruction seriously
        assert (seen.labels == -1).mean() <= 0.2  # of images that were learned from
        if cls is not SubspaceAD:  # to which they say nearly what new ones do
            assert (seen.labels[:4] != -1).all()
