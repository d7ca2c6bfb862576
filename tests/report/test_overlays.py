"""Pictures with heatmaps: colors that mean the same everywhere, files with safe names."""

import os

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from worlds import scratched, stripes

from anomalib_lite import PaDiM
from anomalib_lite.inspection import record_of
from anomalib_lite.records import Record
from anomalib_lite.report import overlay, save_overlays
from anomalib_lite.report.overlays import FileNames, _eroded, colors_of

LEVELS = (1.0, 2.0)


@pytest.fixture(scope="module")
def detector():
    """Not to be changed."""
    return PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0).fit(
        stripes(20)
    )


def records_of(detector, paths):
    levels = detector.score_levels(), detector.map_levels()
    return [record_of(image, *levels) for image in detector.iter_inspect(paths, maps="network")]


def written(folder, images, names):
    folder.mkdir(exist_ok=True)
    paths = [os.path.join(folder, name) for name in names]
    for image, path in zip(images, paths, strict=True):
        Image.fromarray(image).save(path)
    return paths


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_threshold_has_the_same_color_in_every_picture():
    black = np.zeros((20, 20))
    calm, wild = np.full((20, 20), 2.0), np.full((20, 20), 2.0)
    wild[10:] = 90.0
    first, second = (overlay(black, heat, LEVELS) for heat in (calm, wild))
    assert first.getpixel((3, 3)) == second.getpixel((3, 3)) != (0, 0, 0)
    expected = np.rint(0.7 * colors_of(np.array(0.4))).astype(int)
    assert first.getpixel((3, 3)) == tuple(expected.tolist())


def test_normal_is_transparent_in_gray_and_in_color():
    rng = np.random.default_rng(0)
    for picture in (rng.random((9, 7)), rng.random((9, 7, 3))):
        seen = np.asarray(overlay(picture, np.full((3, 3), 1.0), LEVELS))
        assert seen.shape == (9, 7, 3)
        expected = picture[..., None] if picture.ndim == 2 else picture
        np.testing.assert_array_equal(seen, np.broadcast_to(np.rint(255 * expected), seen.shape))


def test_a_contour_is_drawn_around_what_is_above_the_threshold():
    heat = np.zeros((40, 40))
    heat[10:30, 10:30] = 5.0
    seen = np.asarray(overlay(np.zeros((40, 40)), heat, LEVELS))
    white = (seen == 255).all(axis=2)
    assert white[10, 20] and white[20, 29]
    assert not white[20, 20] and not white[5, 5]
    assert not (np.asarray(overlay(np.zeros((40, 40)), heat / 5, LEVELS)) == 255).any()


@pytest.mark.parametrize("levels", [None, (np.nan, np.nan), (1.0, np.inf)])
def test_without_levels_colors_are_those_of_the_map(levels):
    heat = np.arange(100.0).reshape(10, 10)
    seen = np.asarray(overlay(np.ones((10, 10)), heat, levels))
    assert seen[0, 0].tolist() == [255, 255, 255]
    assert seen[9, 9].tolist() != [255, 255, 255]


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (30, 20)])
def test_pictures_of_any_size(size):
    assert overlay(np.zeros(size), np.ones((16, 16)), LEVELS).size == size[::-1]


# -- files ----------------------------------------------------------------------------------------


def test_names_are_safe_and_unique():
    names = FileNames(".jpg")
    paths = [
        "/x/a.png", "/y/a.jpg", "/x/A.png", "/x/a-2.png", '/x/<script>"\n\udcff.png', "/x/..png",
        "C:\\parts\\b.png", "/x/" + 300 * "n" + ".png", "/x/.png", None,
    ]  # fmt: skip
    given = [names.name_of(path) for path in paths]
    assert given[:4] == ["a.jpg", "a-2.jpg", "A-3.jpg", "a-2-2.jpg"]
    assert given[6] == "b.jpg"
    assert len({name.lower() for name in given}) == len(given)
    assert all(name.isascii() and len(name) < 100 and not name.startswith(".") for name in given)
    assert not any(set('<>"/\\\n:') & set(name) for name in given)
    assert [names.name_of(path) for path in paths] == given


def test_pictures_of_the_anomalous_images_are_written(detector, tmp_path):
    images = [scratched(1)[0], stripes(1, seed=5)[0], scratched(1)[0]]
    paths = written(tmp_path / "new", images, ["a.png", "b.png", "c.png"])
    records = records_of(detector, paths)
    assert [record.verdict for record in records] == ["anomalous", "normal", "anomalous"]
    out = tmp_path / "deep" / "out"
    found = save_overlays(out, detector, records)
    assert sorted(os.listdir(out)) == ["a.jpg", "c.jpg"]
    assert found == [str(out / "a.jpg"), str(out / "c.jpg")]
    seen = pixels(out / "a.jpg").astype(int)
    assert seen.shape == (64, 64, 3)
    colored = np.ptp(seen, axis=2) > 40
    assert colored[18:22, 36:44].all() and not colored.all()
    first = (out / "a.jpg").read_bytes()
    save_overlays(out, detector, records)
    assert (out / "a.jpg").read_bytes() == first


def test_images_that_have_vanished_get_no_picture(detector, tmp_path):
    paths = written(tmp_path, scratched(2), ["a.png", "b.png"])
    records = records_of(detector, paths)
    os.unlink(paths[0])
    with pytest.warns(UserWarning, match="skipped"):
        assert save_overlays(tmp_path / "out", detector, records) == [
            str(tmp_path / "out" / "b.jpg")
        ]
    os.unlink(paths[1])
    assert save_overlays(tmp_path / "none", detector, records) == []
    assert save_overlays(tmp_path / "none", detector, []) == []


def test_names_go_on_over_several_calls(detector, tmp_path):
    names = FileNames(".jpg")
    for folder in ("x", "y"):
        paths = written(tmp_path / folder, scratched(1), ["a.png"])
        save_overlays(tmp_path / "out", detector, records_of(detector, paths), names=names)
    assert sorted(os.listdir(tmp_path / "out")) == ["a-2.jpg", "a.jpg"]


def test_large_photographs_become_as_large_as_a_screen(detector, tmp_path):
    large = np.kron(scratched(1)[0], np.ones((32, 48), np.uint8))
    [path] = written(tmp_path, [large], ["large.png"])
    record = Record(path, "anomalous", 9.0)
    [saved] = save_overlays(tmp_path / "out", detector, [record])
    assert pixels(saved).shape == (683, 1024, 3)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_contours_are_what_erosion_takes_away(width):
    inside = np.random.default_rng(width).random((30, 41)) < 0.97
    eroded = ndimage.binary_erosion(inside, np.ones((3, 3)), width, border_value=1)
    np.testing.assert_array_equal(_eroded(_eroded(inside, width).T, width).T, eroded)
