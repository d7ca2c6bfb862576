"""Figures of anomaly maps: what is drawn, how large, in which colors."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from sklearn.frozen import FrozenEstimator
from worlds import scratched, stripes

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import colormaps  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402

from anomalib_lite import ConformalDetector, PatchCore  # noqa: E402
from anomalib_lite.report import AnomalyMapDisplay, displays  # noqa: E402
from anomalib_lite.report.layout import Grid  # noqa: E402
from anomalib_lite.report.pictures import title  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def detector():
    """Not to be changed."""
    return PatchCore(image_size=64, coreset=30, false_alarm_rate=0.1, random_state=0).fit(
        stripes(12)
    )


def blank(n, side=16):
    return np.zeros((n, side, side), np.uint8)


def bump(height, side=16, center=(5, 10)):
    """A map (side, side) of zeros with one smooth bump."""
    y, x = np.mgrid[:side, :side]
    return height * np.exp(-((y - center[0]) ** 2 + (x - center[1]) ** 2) / 8.0)


def heat_of(display, i):
    return display.axes_[1, i].get_images()[1]


def color_at(display, i, value):
    heat = heat_of(display, i)
    return tuple(heat.cmap(heat.norm(value)))


# -- from a detector ------------------------------------------------------------------------------


def test_from_estimator_draws_all_images_on_the_scale_of_the_detector(detector):
    images = np.concatenate([stripes(1, seed=3), scratched(2)])
    masks = np.zeros((3, 64, 64), bool)
    masks[1:, 18:22, 33:47] = True
    display = AnomalyMapDisplay.from_estimator(detector, images, masks=masks)
    assert display.axes_.shape == (2, 3)
    normal, threshold = detector.map_levels()
    limits = {heat_of(display, i).get_clim() for i in range(3)}
    assert limits == {(normal, threshold + 8 * (threshold - normal))}
    np.testing.assert_array_equal(np.stack(display.maps), detector.anomaly_map(images))
    outlined = [bool(axis.collections) for axis in display.axes_[0]]
    assert outlined == [False, True, True]
    titles = [axis.get_title() for axis in display.axes_[1]]
    verdicts = ["normal", "anomalous", "anomalous"]
    scores = detector.anomaly_score(images)
    assert titles == [f"score {s:.3g}: {v}" for s, v in zip(scores, verdicts, strict=True)]


def test_the_same_defect_has_the_same_color_in_every_figure(detector):
    defect, other = scratched(1), np.clip(scratched(1, seed=8) + 40.0, 0, 255).astype(np.uint8)
    alone = AnomalyMapDisplay.from_estimator(detector, defect)
    beside = AnomalyMapDisplay.from_estimator(detector, np.concatenate([stripes(2), other, defect]))
    heat = detector.anomaly_map(defect)[0]
    for value in np.quantile(heat, [0.1, 0.5, 0.9, 1.0]):
        assert color_at(alone, 0, value) == color_at(beside, 3, value)
    np.testing.assert_array_equal(heat_of(alone, 0).get_alpha(), heat_of(beside, 3).get_alpha())


def test_normal_parts_alone_look_calm(detector):
    display = AnomalyMapDisplay.from_estimator(detector, stripes(3, seed=4))
    opacity = np.stack([heat_of(display, i).get_alpha() for i in range(3)])
    assert (opacity > 0.35).mean() < 0.03
    defective = AnomalyMapDisplay.from_estimator(detector, scratched(1))
    assert heat_of(defective, 0).get_alpha().max() == 0.7


def test_a_conformal_detector_is_drawn_with_its_pixel_level(detector):
    conformal = ConformalDetector(FrozenEstimator(detector), false_alarm_rate=0.1)
    conformal.fit(stripes(12, seed=6))
    display = AnomalyMapDisplay.from_estimator(conformal, scratched(2))
    assert display.levels.threshold == conformal.pixel_level_
    assert len(display.axes_[1, 0].collections) == 1
    titles = [axis.get_title() for axis in display.axes_[1]]
    assert all(text.endswith("anomalous") for text in titles)


def test_an_estimator_with_inspect_alone_is_drawn():
    seen = SimpleNamespace(
        scores=np.array([-1.0]), labels=np.array([1]), maps=[bump(3)], paths=[None]
    )
    display = AnomalyMapDisplay.from_estimator(SimpleNamespace(inspect=lambda X: seen), blank(1))
    assert heat_of(display, 0).get_clim() == (np.median(bump(3)), bump(3).max())
    with pytest.raises(ValueError, match="expected a detector with inspect, got SimpleNamespace"):
        AnomalyMapDisplay.from_estimator(SimpleNamespace(), blank(1))


@pytest.mark.filterwarnings("ignore:1 image was skipped")
def test_images_that_cannot_be_read_leave_their_place_empty(detector, tmp_path):
    for name, image in zip("ac", scratched(2), strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png"):
        AnomalyMapDisplay.from_estimator(detector, tmp_path)
    assert plt.get_fignums() == []
    mask = np.ones((64, 64), bool)
    display = AnomalyMapDisplay.from_estimator(
        detector, tmp_path, on_error="skip", masks=[mask, None, mask]
    )
    assert [len(axis.get_images()) for axis in display.axes_[1]] == [2, 0, 2]
    assert [axis.get_title() for axis in display.axes_[0]] == ["a.png", "b.png", "c.png"]
    assert display.axes_[1, 1].get_title() == "no score"
    assert display.axes_[0, 1].texts[0].get_text() == "skipped"
    display.figure_.savefig(tmp_path / "figure.pdf")


# -- colors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(1, 4), (-30, -20.5), (0, 1e-5), (1e6, 3e6)])
def test_the_threshold_has_one_color_and_a_contour(levels):
    normal, threshold = levels
    step = threshold - normal
    heats = [normal + bump(0.9 * step), normal + bump(1.5 * step)]
    display = AnomalyMapDisplay.from_maps(blank(2), heats, levels=levels)
    assert color_at(display, 1, threshold) == tuple(colormaps["inferno"](0.4))
    assert color_at(display, 1, normal - 1) == tuple(colormaps["inferno"](0.0))
    assert color_at(display, 1, threshold + 99 * step) == tuple(colormaps["inferno"](1.0))
    assert [len(axis.collections) for axis in display.axes_[1]] == [0, 1]
    (contour,) = display.axes_[1, 1].collections
    for path in contour.get_paths():
        columns, rows = path.vertices.T
        assert abs(rows.mean() - 5) < 0.5
        assert abs(columns.mean() - 10) < 0.5
    bar = display.figure_.axes[-1]
    labels = [label.get_text() for label in bar.get_yticklabels()]
    assert labels[0] == f"{normal:.3g}  normal"
    assert labels[2] == f"{threshold:.3g}  threshold"


def test_opacity_grows_from_normal_to_the_threshold():
    heat = np.linspace(0, 10, 64).reshape(1, 8, 8)
    display = AnomalyMapDisplay.from_maps(np.zeros((1, 8, 8)), heat, levels=(2, 6), alpha=0.5)
    opacity = heat_of(display, 0).get_alpha()
    np.testing.assert_array_equal(opacity[heat[0] <= 2], 0)
    np.testing.assert_array_equal(opacity[heat[0] >= 6], 0.5)
    assert (np.diff(opacity.ravel()) >= 0).all()


def test_without_levels_colors_are_those_of_the_maps_shown():
    heat = np.linspace(0, 1, 64).reshape(1, 8, 8)
    display = AnomalyMapDisplay.from_maps(np.zeros((1, 8, 8)), heat)
    assert heat_of(display, 0).get_clim() == (0.5, 1)
    assert len(display.axes_[1, 0].collections) == 0
    constant = AnomalyMapDisplay.from_maps(np.zeros((1, 8, 8)), np.full((1, 8, 8), 3.0))
    assert heat_of(constant, 0).get_alpha().max() == 0


@pytest.mark.parametrize("levels", [(1.0, np.inf), (np.nan, 3.0)])
def test_without_a_threshold_colors_are_those_of_the_maps_shown(levels):
    display = AnomalyMapDisplay.from_maps(blank(1), [bump(3)], levels=levels)
    assert heat_of(display, 0).get_clim() == (np.median(bump(3)), bump(3).max())


@pytest.mark.parametrize("levels", [None, (1, 4)])
def test_limits_of_the_scale_can_be_set(levels):
    heat = np.linspace(0, 1, 64).reshape(1, 8, 8)
    display = AnomalyMapDisplay.from_maps(
        np.zeros((1, 8, 8)), heat, levels=levels, vmin=0.2, vmax=0.8, alpha=0.5
    )
    assert heat_of(display, 0).get_clim() == (0.2, 0.8)
    opacity = heat_of(display, 0).get_alpha()
    np.testing.assert_array_equal(opacity[heat[0] <= 0.2], 0)
    np.testing.assert_array_equal(opacity[heat[0] >= 0.8], 0.5)
    assert (np.diff(opacity.ravel()) >= 0).all()
    wide = AnomalyMapDisplay.from_maps(blank(1), [bump(9)], levels=(1, 4), vmax=50)
    assert color_at(wide, 0, 4) == tuple(colormaps["inferno"](0.4))


# -- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_images", [1, 3, 6, 7, 50, 200, 1000])
@pytest.mark.parametrize("aspect", [0.4, 1, 2.5])
def test_figures_stay_readable_however_many_images(n_images, aspect):
    grid = Grid.of(n_images, None, aspect)
    width, height = grid.size
    assert max(width, height) < 25
    assert max(grid.tile) > (1.4 if n_images <= 50 else 0.7 if n_images <= 200 else 0.25)
    assert max(grid.tile) <= 3


@pytest.mark.parametrize("n_images", [1, 5, 13])
def test_every_image_stands_above_its_map(n_images):
    display = AnomalyMapDisplay.from_maps(blank(n_images, 5), np.zeros((n_images, 5, 5)))
    assert display.axes_.shape == (2, n_images)
    assert tuple(display.figure_.get_size_inches()) == pytest.approx(Grid.of(n_images, None).size)
    boxes = np.array([[axis.get_position().bounds for axis in row] for row in display.axes_])
    np.testing.assert_allclose(boxes[0, :, 0], boxes[1, :, 0])
    assert (boxes[1, :, 1] + boxes[1, :, 3] < boxes[0, :, 1]).all()
    corners = {tuple(box[:2].round(4)) for box in boxes.reshape(-1, 4)}
    assert len(corners) == 2 * n_images
    assert (boxes >= 0).all()
    assert (boxes[..., :2] + boxes[..., 2:] <= 1).all()


@pytest.mark.parametrize(("n_columns", "expected"), [(1, 1), (2, 2), (5, 5), (99, 5)])
def test_number_of_columns(n_columns, expected):
    display = AnomalyMapDisplay.from_maps(blank(5), np.zeros((5, 16, 16)), n_columns=n_columns)
    lefts = {round(axis.get_position().x0, 6) for axis in display.axes_[0]}
    assert len(lefts) == expected


@pytest.mark.parametrize("shape", [(1500, 2000, 3), (2000, 500)])
def test_large_photographs_are_drawn_small_and_nothing_small_is_lost(shape):
    image = np.full(shape, 102, np.uint8)
    heat = np.zeros(shape[:2])
    heat[1207, 333] = 9
    mask = heat > 0
    display = AnomalyMapDisplay.from_maps([image], [heat], masks=[mask], levels=(1, 4))
    top, bottom = (axis.get_images() for axis in display.axes_[:, 0])
    drawn = top[0].get_array()
    assert max(drawn.shape) <= 600
    np.testing.assert_allclose(drawn, 0.4, atol=1e-6)
    assert max(bottom[1].get_array().shape) <= 600
    assert bottom[1].get_array().max() == 9
    for axis, n_lines in zip(display.axes_[:, 0], (1, 2), strict=True):
        assert len(axis.collections) == n_lines
        for lines in axis.collections:
            columns, rows = lines.get_paths()[0].vertices.mean(0) / drawn.shape[1::-1]
            assert abs(rows - 1207 / shape[0]) < 0.01
            assert abs(columns - 333 / shape[1]) < 0.01


def test_maps_of_a_detector_are_asked_for_in_its_own_size():
    asked = []

    class Estimator:
        def iter_inspect(self, X, *, maps=True):
            asked.append(maps)
            for _ in X:
                yield SimpleNamespace(score=-1.0, label=1, map=bump(3, 8), path=None)

    display = AnomalyMapDisplay.from_estimator(Estimator(), blank(2, 100))
    assert asked == ["network"]
    heat = heat_of(display, 0)
    assert heat.get_array().shape == (8, 8)
    assert heat.get_extent() == [-0.5, 99.5, 99.5, -0.5]  # over all of the image


# -- masks ----------------------------------------------------------------------------------------


def test_masks_of_any_kind_are_outlined_where_they_are(tmp_path):
    mask = np.zeros((16, 16), bool)
    mask[2:6, 9:15] = True
    palette = Image.fromarray(mask.astype(np.uint8) * 3).convert("P")
    palette.save(tmp_path / "mask.png")
    masks = [mask, mask.astype(np.uint8) * 255, tmp_path / "mask.png", palette, None, ~mask | mask]
    display = AnomalyMapDisplay.from_maps(blank(6), np.zeros((6, 16, 16)), masks=masks)
    outlined = [len(axis.collections) for axis in display.axes_[0]]
    assert outlined == [1, 1, 1, 1, 0, 1]
    for axis in display.axes_[0, :4]:
        columns, rows = axis.collections[0].get_paths()[0].vertices.T
        assert (rows.min(), rows.max()) == (1.5, 5.5)
        assert (columns.min(), columns.max()) == (8.5, 14.5)
    columns, rows = display.axes_[0, 5].collections[0].get_paths()[0].vertices.T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (-0.5, 15.5, -0.5, 15.5)


@pytest.mark.parametrize("shape", [(8, 8), (16, 15), (4, 64)])
def test_masks_of_another_size_than_their_image_are_refused(shape):
    with pytest.raises(ValueError, match="mask 1"):
        AnomalyMapDisplay.from_maps(
            blank(2), np.zeros((2, 16, 16)), masks=[np.ones((16, 16), bool), np.ones(shape, bool)]
        )
    display = AnomalyMapDisplay(
        images=[np.zeros((16, 16))], maps=[bump(1)], masks=[np.ones(shape, bool)]
    )
    with pytest.raises(ValueError, match="mask 0"):
        display.plot()
    assert plt.get_fignums() == []


# -- titles ---------------------------------------------------------------------------------------

NAMES = [
    "$x^{_",
    "a_b^c$d$.png",
    "\\frac{1}",
    "na\udcefve.png",
    "one\ntwo\t3.png",
    "%#&~{}",
    "x" * 300,
]


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_any_file_name_can_be_a_title(suffix, tmp_path):
    display = AnomalyMapDisplay.from_maps(blank(7), np.zeros((7, 16, 16)), names=NAMES)
    display.figure_.savefig(tmp_path / f"figure.{suffix}")
    titles = [axis.get_title() for axis in display.axes_[0]]
    assert titles[:3] == NAMES[:3]
    assert titles[3:5] == ["na?ve.png", "one two 3.png"]
    assert len(titles[6]) < 50


def test_long_names_keep_both_ends():
    name = "line-3_camera-2_2024-11-05T12-00-00_part-000123.png"
    short = title(name, 30)
    assert len(short) == 30
    assert short.startswith("line-3_camera")
    assert short.endswith("000123.png")


def test_images_of_a_folder_are_titled_by_file_name(detector, tmp_path):
    (tmp_path / "b").mkdir()
    for name, image in zip(("a$1$.png", "b/c.png"), stripes(2), strict=True):
        Image.fromarray(image).save(tmp_path / name)
    display = AnomalyMapDisplay.from_estimator(detector, tmp_path)
    assert [axis.get_title() for axis in display.axes_[0]] == ["a$1$.png", "c.png"]


# -- forms and errors -----------------------------------------------------------------------------


def test_from_maps_accepts_color_and_mixed_sizes():
    images = [np.full((20, 30, 3), 51, np.uint8), np.full((40, 10), 102, np.uint8)]
    maps = [np.random.default_rng(0).random(image.shape[:2]) for image in images]
    display = AnomalyMapDisplay.from_maps(images, maps, names=["a", "b"])
    assert [axis.get_title() for axis in display.axes_[0]] == ["a", "b"]
    color, gray = (axis.get_images()[0].get_array() for axis in display.axes_[0])
    np.testing.assert_array_equal(color, np.full((20, 30, 3), np.float32(0.2)))
    np.testing.assert_array_equal(gray, np.full((40, 10), np.float32(0.4)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"maps": np.zeros((3, 16, 16))}, "as many maps as images, got 3 for 2 images"),
        ({"masks": np.zeros((1, 16, 16))}, "as many masks as images, got 1"),
        ({"names": ["a"]}, "as many names as images, got 1"),
        ({"maps": np.zeros((2, 16, 16, 1))}, r"map 0: expected shape \(H, W\)"),
        ({"maps": np.full((2, 16, 16), np.nan)}, "map 0: expected finite"),
        ({"maps": np.zeros((2, 16, 16), complex)}, "map 0: expected real numbers"),
        ({"maps": np.ma.masked_all((2, 16, 16))}, "map 0"),
        ({"vmin": 2, "vmax": 1}, "with vmin < vmax"),
        ({"vmin": np.nan}, "vmin: expected a finite number"),
        ({"vmax": "1"}, "vmax: expected a finite number"),
        ({"levels": 3}, "levels: expected a pair"),
        ({"n_columns": 0}, "n_columns: expected a positive int"),
        ({"alpha": -1}, "alpha: expected"),
        ({"cmap": "no such colors"}, "no such colors"),
        ({"figure": 3}, "figure: expected a matplotlib Figure or SubFigure, got int"),
    ],
)
def test_mistakes_are_named_and_leave_no_figure(options, message):
    maps = options.pop("maps", np.zeros((2, 16, 16)))
    with pytest.raises(ValueError, match=message):
        AnomalyMapDisplay.from_maps(blank(2), maps, **options)
    assert plt.get_fignums() == []


def test_images_that_can_be_read_once_are_refused(detector):
    with pytest.raises(ValueError, match="can be read twice"):
        AnomalyMapDisplay.from_estimator(detector, iter(stripes(2)))
    assert plt.get_fignums() == []


def test_a_failure_while_drawing_leaves_figures_as_they_were(monkeypatch):
    def fail(*args):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(displays, "_draw_bar", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        AnomalyMapDisplay.from_maps(blank(2), np.zeros((2, 16, 16)))
    assert plt.get_fignums() == []
    figure, own = plt.subplots()
    with pytest.raises(RuntimeError, match="in the middle"):
        AnomalyMapDisplay.from_maps(blank(2), np.zeros((2, 16, 16)), figure=figure)
    assert figure.axes == [own]
    assert plt.get_fignums() == [figure.number]


def test_figures_and_subfigures_can_be_given():
    figure = plt.figure(figsize=(8, 3))
    left, right = figure.subfigures(1, 2)
    for part in (left, right):
        display = AnomalyMapDisplay.from_maps(blank(2), np.zeros((2, 16, 16)), figure=part)
        assert display.figure_ is part
        assert len(part.axes) == 5
    figure.canvas.draw()
