"""Tables, regions and levels of inspections."""

import csv
import math

import numpy as np
import pandas
import pytest
from detectors import small
from mean_image import MeanImage
from PIL import Image
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, Inspection, PaDiM
from anomalib_lite.inspection import MapLevels, ScoreLevels
from anomalib_lite.records import COLUMNS, Record

NORMAL = stripes(30)


def plain(n, size=64, *, seed=0, noise=4):
    """(n, size, size) uint8: gray, with slight noise."""
    return np.random.default_rng(seed).normal(128, noise, (n, size, size)).clip(0, 255).astype("u1")


@pytest.fixture(scope="module")
def fitted():
    """Its maps tell pixels apart. Fitted on NORMAL; not to be changed."""
    return MeanImage(image_size=64, smoothing=1.0, false_alarm_rate=0.05).fit(plain(30))


@pytest.fixture
def folder(tmp_path):
    """A normal image, one twice as large with a bright spot, and no image at all."""
    Image.fromarray(plain(1, seed=5)[0]).save(tmp_path / "a.png")
    large = plain(1, 128, seed=6)[0]
    large[30:50, 70:100] = 255
    Image.fromarray(large).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_text("no image")
    return tmp_path


def seen_in(detector, folder, **options):
    with pytest.warns(UserWarning, match="1 image was skipped"):
        return detector.inspect(folder, on_error="skip", **options)


# -- levels ---------------------------------------------------------------------------------------


def test_severity_is_zero_at_the_median_normal_image_and_one_at_the_threshold(fitted):
    levels = fitted.score_levels()
    assert levels.normal == -np.median(fitted.calibration_scores_)
    assert levels.threshold == -fitted.offset_
    np.testing.assert_allclose(levels.severity([*levels]), [0, 1])
    images = np.concatenate([plain(30, seed=9), scratched(3)])
    flagged = fitted.predict(images) == -1
    np.testing.assert_array_equal(levels.severity(fitted.anomaly_score(images)) > 1, flagged)


@pytest.mark.parametrize("threshold", [math.nan, math.inf, 2.0, 1.0])
def test_without_a_threshold_above_the_median_there_is_no_severity(threshold):
    assert np.isnan(ScoreLevels(2.0, threshold).severity([1.0, 3.0])).all()


def test_levels_of_a_conformal_detector_are_those_of_its_calibration():
    detector = ConformalDetector(small(PaDiM), false_alarm_rate=0.1, random_state=0).fit(NORMAL)
    levels = detector.score_levels()
    assert levels == (-np.median(detector.calibration_scores_), -detector.offset_)
    with pytest.warns(UserWarning, match="predict will call nothing anomalous"):
        detector.set_threshold(false_alarm_rate=0.01)
    assert math.isnan(detector.score_levels().threshold)


def test_calibration_indices_say_whose_scores_are_the_lowest():
    normal = NORMAL.copy()
    detector = ConformalDetector(small(PaDiM), method="cv", false_alarm_rate=0.1, random_state=0)
    normal[17] = scratched(1)[0]
    detector.fit(normal)
    assert detector.calibration_indices_[0] == 17
    assert sorted(detector.calibration_indices_) == list(range(30))


def test_where_nothing_can_be_called_anomalous_nothing_is_called_normal():
    detector = ConformalDetector(small(PaDiM), false_alarm_rate=0.01, random_state=0)
    with pytest.warns(UserWarning, match="predict will call nothing anomalous"):
        seen = detector.fit(NORMAL).inspect(NORMAL[:2])
    assert {record.verdict for record in seen.records()} == {"undecided"}
    assert "2 undecided" in repr(seen)


# -- records and tables ---------------------------------------------------------------------------


def test_records_tell_of_each_image(fitted, folder):
    good, bad, none = seen_in(fitted, folder).records()
    assert [record.verdict for record in (good, bad, none)] == ["normal", "anomalous", "unreadable"]
    assert good.severity < 1 < bad.severity
    assert good.size == (64, 64) and bad.size == (128, 128)
    assert good.modified == (folder / "a.png").stat().st_mtime
    np.testing.assert_allclose(bad.region.box, (70, 30, 100, 50), atol=8)
    left, top, right, bottom = bad.region.box
    assert 20 * 30 <= bad.region.area <= (right - left) * (bottom - top)
    assert bad.n_regions == 1
    assert math.isnan(none.anomaly_score) and none.region is None
    assert none.reason.startswith("cannot be read as an image") or "identify" in none.reason


@pytest.mark.parametrize("maps", ["network", 32, (100, 90)])
def test_boxes_are_in_pixels_of_the_image_whatever_the_size_of_maps(fitted, folder, maps):
    exact, rough = (seen_in(fitted, folder, maps=size).records()[1] for size in (True, maps))
    np.testing.assert_allclose(rough.region.box, exact.region.box, atol=8)
    assert rough.region.area == pytest.approx(exact.region.area, rel=0.3)


def test_records_of_a_stream_are_those_of_a_call(fitted, folder):
    from anomalib_lite.inspection import record_of

    levels = fitted.score_levels(), fitted.map_levels()
    with pytest.warns(UserWarning, match="1 image was skipped"):
        one_by_one = [
            record_of(image, *levels) for image in fitted.iter_inspect(folder, on_error="skip")
        ]
    assert repr(one_by_one) == repr(seen_in(fitted, folder).records())


def test_without_maps_there_are_scores_and_no_regions(fitted, folder):
    seen = seen_in(fitted, folder, maps=False)
    assert [record.region for record in seen.records()] == [None] * 3
    with pytest.raises(ValueError, match="with maps"):
        seen.regions()


def test_regions_of_each_image_have_the_worst_first(fitted):
    odd = plain(2, seed=7)
    odd[:, 10:20, 10:20] = 220
    odd[1, 40:50, 30:45] = 255
    (first,), (worst, second) = fitted.inspect(odd).regions()
    np.testing.assert_allclose([first.box, second.box], [(10, 10, 20, 20)] * 2, atol=4)
    np.testing.assert_allclose(worst.box, (30, 40, 45, 50), atol=4)
    assert worst.peak > second.peak


def test_p_values_are_in_records_where_there_are_any(folder):
    inner = MeanImage(image_size=64)
    detector = ConformalDetector(inner, false_alarm_rate=0.1, random_state=0).fit(plain(30))
    seen = seen_in(detector, folder)
    with pytest.warns(UserWarning, match="skipped"):
        expected = detector.p_values(folder, on_error="skip")
    np.testing.assert_array_equal(seen.p_values, expected)
    assert [record.p_value for record in seen.records()] == [*expected[:2], None]
    with pytest.warns(UserWarning, match="skipped"):
        streamed = [image.p_value for image in detector.iter_inspect(folder, on_error="skip")]
    np.testing.assert_array_equal(streamed, expected)
    assert seen.map_levels == detector.map_levels()


def test_the_frame_has_a_row_an_image(fitted, folder):
    frame = seen_in(fitted, folder).to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert tuple(frame.columns) == COLUMNS
    assert frame["verdict"].tolist() == ["normal", "anomalous", "unreadable"]
    assert frame["width"].tolist()[:2] == [64, 128]


def test_the_csv_file_says_what_the_records_say(fitted, folder):
    seen = seen_in(fitted, folder)
    seen.to_csv(folder / "seen.csv")
    with open(folder / "seen.csv", encoding="utf-8", newline="") as file:
        read = [Record.from_row(row) for row in csv.DictReader(file)]
    assert repr(read) == repr(seen.records())


def test_an_inspection_is_shown_in_one_line(fitted, folder):
    seen = seen_in(fitted, folder)
    assert repr(seen) == (
        "<Inspection of 3 images: 1 normal, 1 anomalous, 1 unreadable; highest anomaly score "
        f"{-np.nanmin(seen.scores):.4g}>"
    )
    assert len(repr(seen)) < 120


def test_an_inspection_made_by_hand_has_tables_too():
    seen = Inspection(np.array([-1.0, np.nan]), np.array([0, 0]), None, [None, "x.png"])
    assert seen.to_frame()["verdict"].tolist() == ["undecided", "unreadable"]
    levels = {"score_levels": ScoreLevels(0.0, 0.5), "map_levels": MapLevels(0.0, 1.0)}
    assert seen._replace(**levels).to_frame()["severity"].tolist()[0] == 2.0


# -- thresholds from fresh images -----------------------------------------------------------------


def test_fresh_images_give_a_threshold_and_levels_of_maps():
    fresh = stripes(40, noise=9, seed=3)
    detector = small(PaDiM, false_alarm_rate=0.1).fit(NORMAL)
    before = detector.map_levels()
    expected = detector.score_samples(fresh)
    assert detector.set_threshold(images=fresh) is detector
    np.testing.assert_array_equal(detector.calibration_scores_, expected)
    assert detector.offset_ == np.quantile(expected, 0.1, method="weibull")
    assert detector.map_levels().threshold > before.threshold
    assert detector.n_images_ == 30
    detector.set_threshold(images=fresh, false_alarm_rate=0.2)
    assert detector.offset_ == np.quantile(expected, 0.2, method="weibull")


def test_levels_of_maps_are_those_of_the_fresh_images():
    fresh = stripes(8, noise=9, seed=3)  # no more than there are examples
    detector = small(PaDiM, false_alarm_rate=0.2).fit(NORMAL).set_threshold(images=fresh)
    maps = detector.anomaly_map(fresh)
    assert detector.map_levels().normal == pytest.approx(np.median(maps.max((1, 2))), rel=1e-5)


def test_a_threshold_from_images_that_cannot_be_read_changes_nothing(fitted, folder):
    before = vars(fitted).copy()
    with pytest.raises(ValueError, match=r"c\.png"):
        fitted.set_threshold(images=folder)
    with pytest.raises(ValueError, match="every image of the call"):
        fitted.set_threshold(images=plain(30) / 65535)
    assert vars(fitted).keys() == before.keys()
    assert all(vars(fitted)[name] is value for name, value in before.items())


def test_images_that_were_learned_are_no_fresh_ones():
    detector = small(PaDiM, false_alarm_rate=0.2).fit(NORMAL)
    with pytest.warns(UserWarning, match=r"copies: image 0 is one of an earlier call"):
        detector.set_threshold(images=NORMAL[:10])


def test_copies_of_learned_images_are_noticed_and_later_fits_forget_the_fresh_ones():
    detector = small(PaDiM, false_alarm_rate=0.1).fit(NORMAL)
    again = small(PaDiM, false_alarm_rate=0.1).fit(NORMAL)
    detector.set_threshold(images=stripes(20, noise=9, seed=3))
    more = stripes(5, seed=9)
    np.testing.assert_array_equal(
        detector.partial_fit(more).calibration_scores_, again.partial_fit(more).calibration_scores_
    )
