"""Curves of per-region overlap."""

import numpy as np
import pytest
from worlds import scratched, stripes

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from anomalib_lite import PaDiM  # noqa: E402
from anomalib_lite.metrics import aupro  # noqa: E402
from anomalib_lite.report import ProCurveDisplay  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def seen():
    rng = np.random.default_rng(0)
    masks = np.zeros((4, 90, 90), dtype=bool)
    masks[:2, 20:30, 30:50] = True
    return masks, rng.normal(size=masks.shape) + 1.5 * masks


def test_the_curve_ends_at_the_largest_rate_and_has_its_area(seen):
    display = ProCurveDisplay.from_predictions(*seen, name="noisy")
    fpr, overlap = display.line_.get_data()
    assert display.area == pytest.approx(aupro(*seen), abs=1e-12)
    assert (fpr[0], overlap[0], fpr[-1]) == (0, 0, 0.3)
    drawn = np.diff(fpr) @ (overlap[1:] + overlap[:-1]) / 2 / 0.3
    assert drawn == pytest.approx(display.area, abs=2e-3)
    assert len(fpr) < 2100 < len(display.fpr)
    (words,) = display.ax_.get_legend().get_texts()
    assert words.get_text() == f"noisy, AUPRO = {display.area:.3f}"
    assert display.figure_.axes == [display.ax_]


def test_curves_share_axes(seen):
    figure, ax = plt.subplots()
    first = ProCurveDisplay.from_predictions(*seen, max_fpr=1, ax=ax, color="red", label="mine")
    second = ProCurveDisplay(fpr=first.fpr, overlap=first.overlap).plot(ax)
    assert second.figure_ is figure and [*ax.lines] == [first.line_, second.line_]
    assert (first.line_.get_color(), first.line_.get_label()) == ("red", "mine")
    assert first.line_.get_xdata()[-1] == first.line_.get_ydata()[-1] == 1
    assert second.line_.get_xdata()[-1] == 0.3 and ax.get_xlim() == (0, 1)  # all of both


def test_of_a_detector():
    detector = PaDiM(image_size=64, n_features=20, random_state=0).fit(stripes(12))
    masks = np.zeros((4, 64, 64), dtype=bool)
    masks[:, 18:22, 33:47] = True
    images = scratched(4, seed=3)
    display = ProCurveDisplay.from_estimator(detector, images, masks)
    assert display.name == "PaDiM" and display.area == pytest.approx(
        aupro(masks, detector.anomaly_map(images)), abs=1e-12
    )


def test_what_cannot_be_drawn_leaves_no_figure(seen):
    masks, maps = seen
    for draw in (
        lambda: ProCurveDisplay.from_predictions(masks, maps, max_fpr=0),
        lambda: ProCurveDisplay.from_estimator(None, None, None, max_fpr=1.5),  # at once
        lambda: ProCurveDisplay(fpr=np.zeros(2), overlap=np.zeros(2), max_fpr=0).plot(),
    ):
        with pytest.raises(ValueError, match="max_fpr"):
            draw()
    with pytest.raises(ValueError, match="The metric is undefined"):
        ProCurveDisplay.from_predictions(np.zeros_like(masks), maps)
    assert plt.get_fignums() == []
