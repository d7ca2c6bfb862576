import numpy as np
import pytest
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


def test_from_estimator_draws_every_image_on_one_scale(detector):
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
    assert titles[0].endswith("normal")
    assert titles[1].endswith("anomalous")


def test_scale_can_be_fixed_across_figures(detector):
    display = AnomalyMapDisplay.from_estimator(detector, scratched(1), vmin=0, vmax=50)
    assert display.axes_[1, 0].get_images()[1].get_clim() == (0, 50)


def test_from_maps_takes_color_and_mixed_sizes():
    images = [np.zeros((20, 30, 3), np.uint8), np.zeros((40, 10), np.uint8)]
    maps = [np.random.default_rng(0).random(image.shape[:2]) for image in images]
    display = AnomalyMapDisplay.from_maps(images, maps, names=["a", "b"])
    assert [axis.get_title() for axis in display.axes_[0]] == ["a", "b"]


def test_wrong_numbers_are_refused(detector):
    images = np.zeros((2, 16, 16), np.uint8)
    with pytest.raises(ValueError, match="as many maps"):
        AnomalyMapDisplay.from_maps(images, np.zeros((3, 16, 16)))
    with pytest.raises(ValueError, match="as many maps"):
        AnomalyMapDisplay.from_maps(images, np.zeros((2, 16, 16)), masks=np.zeros((1, 16, 16)))
    with pytest.raises(ValueError, match="the same twice"):
        AnomalyMapDisplay.from_estimator(detector, iter(images))


def test_score_histogram():
    scores, y = np.array([-1.0, -2, -9, -10]), np.array([1, 1, -1, -1])
    ax = plot_score_histogram(scores, y, offset=-5)
    legend = {text.get_text() for text in ax.get_legend().get_texts()}
    assert legend == {"normal", "anomalous", "offset_"}
    heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
    assert [sum(height) for height in heights] == [2, 2]
    with pytest.raises(ValueError, match="one label per score"):
        plot_score_histogram(scores, y[:2])
