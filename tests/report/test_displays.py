"""Figures of anomaly maps and scores: what is drawn."""

import numpy as np
import pytest
from PIL import Image
from worlds import scratched, stripes

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from anomalib_lite import PatchCore  # noqa: E402
from anomalib_lite.report import AnomalyMapDisplay, plot_score_histogram  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def detector():
    return PatchCore(image_size=64, coreset=30, random_state=0).fit(stripes(5))


def test_from_estimator_draws_all_images_on_a_common_scale(detector):
    images = np.concatenate([stripes(1, seed=3), scratched(2)])
    masks = np.zeros((3, 64, 64), bool)
    masks[1:, 18:22, 33:47] = True
    display = AnomalyMapDisplay.from_estimator(detector, images, masks=masks)
    assert display.axes_.shape == (2, 3)
    limits = {axis.get_images()[1].get_clim() for axis in display.axes_[1]}
    assert limits == {(np.median(display.maps), display.maps.max())}
    np.testing.assert_array_equal(display.maps, detector.anomaly_map(images))
    outlined = [bool(axis.collections) for axis in display.axes_[0]]
    assert outlined == [False, True, True]
    titles = [axis.get_title() for axis in display.axes_[1]]
    verdicts = ["normal", "anomalous", "anomalous"]
    scores = detector.anomaly_score(images)
    assert titles == [f"score {s:.3g}: {v}" for s, v in zip(scores, verdicts, strict=True)]


def test_limits_of_the_scale_can_be_set(detector):
    display = AnomalyMapDisplay.from_estimator(detector, scratched(1), vmin=0, vmax=50)
    assert display.axes_[1, 0].get_images()[1].get_clim() == (0, 50)


def test_images_of_a_folder_are_titled_by_file_name(detector, tmp_path):
    (tmp_path / "b").mkdir()
    for name, image in zip(("a.png", "b/c.png"), stripes(2), strict=True):
        Image.fromarray(image).save(tmp_path / name)
    display = AnomalyMapDisplay.from_estimator(detector, tmp_path)
    assert [axis.get_title() for axis in display.axes_[0]] == ["a.png", "c.png"]


def test_maps_are_transparent_at_the_lower_limit():
    heat = np.linspace(0, 1, 64).reshape(1, 8, 8)
    display = AnomalyMapDisplay.from_maps(np.zeros((1, 8, 8)), heat, vmin=0.2, vmax=0.8, alpha=0.5)
    opacity = display.axes_[1, 0].get_images()[1].get_alpha()
    np.testing.assert_array_equal(opacity[heat[0] <= 0.2], 0)
    np.testing.assert_array_equal(opacity[heat[0] >= 0.8], 0.5)
    assert (np.diff(opacity.ravel()) >= 0).all()


def test_from_maps_accepts_color_and_mixed_sizes():
    images = [np.full((20, 30, 3), 51, np.uint8), np.full((40, 10), 102, np.uint8)]
    maps = [np.random.default_rng(0).random(image.shape[:2]) for image in images]
    display = AnomalyMapDisplay.from_maps(images, maps, names=["a", "b"])
    assert [axis.get_title() for axis in display.axes_[0]] == ["a", "b"]
    color, gray = (axis.get_images()[0].get_array() for axis in display.axes_[0])
    np.testing.assert_array_equal(color, np.full((20, 30, 3), np.float32(0.2)))
    np.testing.assert_array_equal(gray, np.full((40, 10), np.float32(0.4)))


def test_mismatched_lengths_and_iterators_are_refused(detector):
    images = np.zeros((2, 16, 16), np.uint8)
    with pytest.raises(ValueError, match="as many maps"):
        AnomalyMapDisplay.from_maps(images, np.zeros((3, 16, 16)))
    with pytest.raises(ValueError, match="as many maps"):
        AnomalyMapDisplay.from_maps(images, np.zeros((2, 16, 16)), masks=np.zeros((1, 16, 16)))
    with pytest.raises(ValueError, match="can be read twice"):
        AnomalyMapDisplay.from_estimator(detector, iter(images))


def test_score_histogram_separates_normal_and_anomalous():
    scores, y = np.array([-1.0, -2, -9, -10]), np.array([1, 1, -1, -1])
    ax = plot_score_histogram(scores, y, offset=-5)
    legend = {text.get_text() for text in ax.get_legend().get_texts()}
    assert legend == {"normal", "anomalous", "offset_"}
    (line,) = ax.get_lines()
    assert line.get_xdata() == [-5, -5]
    normal, anomalous = (
        [bar.get_x() for bar in bars for _ in range(round(bar.get_height()))]
        for bars in ax.containers
    )
    np.testing.assert_allclose(normal, [-2, -1], atol=0.3)
    np.testing.assert_allclose(anomalous, [-10, -9], atol=0.3)
    with pytest.raises(ValueError, match="one label per score"):
        plot_score_histogram(scores, y[:2])
