"""The page: its numbers, its pictures, and that nothing leaves it or breaks out of it."""

import os
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from reading import loaded, read, rows_of
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, PaDiM, PatchCore, load
from anomalib_lite.data import image_files
from anomalib_lite.inspection import record_of
from anomalib_lite.io import read_card
from anomalib_lite.records import Record
from anomalib_lite.regions import Region
from anomalib_lite.report import write
from anomalib_lite.report.page import Page, write_page
from anomalib_lite.texts import printable

HOSTILE = "</script><script>alert(1)</script>\"'&amp;\n\u2028\udcff{{ 7 * 7 }}.png"


def padim(**params):
    return PaDiM(image_size=64, n_features=20, random_state=0, **params)


@pytest.fixture(scope="module")
def detector():
    """Not to be changed."""
    return padim(false_alarm_rate=0.1).fit(stripes(20))


@pytest.fixture(scope="module")
def world(detector, tmp_path_factory):
    """A folder of three scratched and five good images, and their records."""
    folder = tmp_path_factory.mktemp("new")
    for i, image in enumerate([*scratched(3), *stripes(5, seed=7)]):
        Image.fromarray(image).save(folder / f"{'bad' if i < 3 else 'good'}{i}.png")
    paths = image_files(folder)
    levels = detector.score_levels(), detector.map_levels()
    seen = detector.iter_inspect(paths, maps="network")
    return folder, [record_of(image, *levels) for image in seen]


def made(detector, records, **options):
    return read(Page(detector, records, **options).html())


def texts(page, tag, **attributes):
    return [each.text for each in page.all(tag, **attributes)]


def invented(n, **others):
    """Records of files that do not exist."""
    rng = np.random.default_rng(0)
    severities = rng.normal(0.2, 0.5, n)
    return [
        Record(
            f"/line 7/2026-11/camera_{i % 4}/part_{i:06d}_{'x' * 24}.png",
            "anomalous" if severity > 1 else "normal",
            20.123456 + 7 * severity,
            severity,
            region=Region((100, 200, 300 + i, 400), 31_415, 9.87654321) if severity > 1 else None,
            n_regions=int(severity > 1),
            size=(3000, 4000),
            modified=1.7e9 + 17.31 * i,
            **others,
        )
        for i, severity in enumerate(severities.tolist())
    ]


# -- numbers --------------------------------------------------------------------------------------


def test_the_page_says_what_the_records_say(detector, world):
    _, records = world
    page = made(detector, records)
    assert page.one("h1").text == page.one("title").text == "3 of 8 parts look anomalous"
    counts = dict(
        zip(
            texts(page.one("dl", kind="counts"), "dt"),
            texts(page.one("dl", kind="counts"), "dd"),
            strict=True,
        )
    )
    assert counts == {"anomalous": "3", "normal": "5"}
    assert "Called anomalous: 38 % (95 % interval: 14 to 69 %)." in page.text
    assert "Of 100 new good parts, about 10 will be called anomalous." in page.text
    rows = rows_of(page)
    assert [row[0] for row in rows] == [os.path.basename(record.path) for record in records]
    assert [row[1] for row in rows] == [0] * 3 + [1] * 5
    assert [row[3] for row in rows] == pytest.approx([r.anomaly_score for r in records], rel=1e-5)
    assert rows[0][5] == [*records[0].region.box] and rows[0][7] == [64, 64]


def test_the_page_says_who_of_an_ensemble_flagged(detector, world):
    _, (first, *others) = world
    records = [replace(first, flagged_by=("fine", HOSTILE)), *others]
    page, labeled = made(detector, records), made(detector, records, y=[-1] * 3 + [1] * 5)
    shown = printable(f"fine, {HOSTILE}")
    assert rows_of(page)[0][9:] == [0, shown] and rows_of(labeled)[0][9:] == [-1, shown]
    assert {len(row) for row in rows_of(page)[1:]} == {9}
    caption = page.one("figure", id="picture-0").one("dl")
    assert dict(zip(texts(caption, "dt"), texts(caption, "dd"), strict=True))["by"] == shown
    assert "by" not in texts(page.one("figure", id="picture-1"), "dt")


def test_pictures_are_in_the_page_with_heatmaps_boxes_and_captions(detector, world):
    _, records = world
    page = made(detector, records)
    figures = page.all("figure", kind="picture")
    assert {each.attributes["id"] for each in figures} == {f"picture-{i}" for i in range(8)}
    figure = page.one("figure", id="picture-0")
    picture, heat = (image.attributes["src"] for image in figure.all("img"))
    assert picture != heat
    assert picture.startswith("data:image/jpeg;base64,")
    assert figure.all("img")[0].attributes["alt"] == "bad0.png, anomalous"
    left, top, right, bottom = records[0].region.box
    assert figure.one("dd", kind="whole").text == f"box {left}, {top} to {right}, {bottom}"
    style = figure.one("span", kind="box").attributes["style"]
    assert (
        f"left: {100 * left / 64:.2f}%" in style
        and f"height: {100 * (bottom - top) / 64:.2f}%" in style
    )
    assert f"{records[0].severity:.3g}" in figure.text
    assert "bad0.png" in figure.one("button").attributes["aria-label"]


def test_the_box_is_where_the_region_is_whatever_the_size_of_the_picture(detector):
    record = Record(
        "a", "anomalous", 9.0, 3.0, region=Region((100, 20, 300, 80), 9, 9.0), size=(200, 400)
    )
    page = made(detector, [record], read=lambda indices: scratched(1))
    style = page.one("span", kind="box").attributes["style"]
    assert style == "left: 25.00%; top: 10.00%; width: 50.00%; height: 30.00%"


def test_headings_go_down_one_by_one_and_names_of_columns_have_a_scope(detector, world):
    page = made(detector, [*world[1], Record("/gone.png", "unreadable", reason="empty")])
    levels = [int(each.tag[1]) for each in page if re.fullmatch("h[1-6]", each.tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert all("scope" in each.attributes for each in page.all("th"))
    assert all("alt" in each.attributes for each in page.all("img"))
    assert all(each.attributes.get("aria-label") for each in page.all("svg", role="img"))
    ids = [each.attributes["id"] for each in page if "id" in each.attributes]
    assert len(ids) == len({*ids})
    targets = [each.attributes["href"][1:] for each in page.all("a")]
    assert {*targets} <= {*ids}


def test_nothing_is_loaded(detector, world):
    page = made(detector, world[1], y=[-1] * 3 + [1] * 5, title="Part 7")
    assert all(re.match("data:|#", address) for address in loaded(page))
    html = Page(detector, world[1]).html()
    assert "http://" not in html and "https://" not in html
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe-inline" not in re.search("script-src[^;]*", policy)[0]


def test_the_same_images_make_the_same_bytes(detector, world, tmp_path):
    folder, records = world
    for name in ("a.html", "b.html"):
        write(tmp_path / name, detector, folder)
    first = (tmp_path / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes()
    assert first.decode() == Page(detector, records).html()


def test_a_date_is_there_if_it_is_given(detector, world):
    page = made(detector, world[1], date="26 November 2026")
    assert "26 November 2026" in page.one("header").text


def test_labels_give_mistakes_intervals_and_a_curve(detector, world):
    _, records = world
    y = [-1, -1, 1, -1, 1, 1, 1, 1]
    page = made(detector, records, y=y)
    assert "1 of 3 defective parts 33 % (95 % interval: 6.1 to 79 %)" in page.text
    assert "1 of 5 good parts 20 % (95 % interval: 3.6 to 62 %)" in page.text
    titles = texts(page.one("section", id="pictures"), "h3")
    assert [title.split()[0] for title in titles[:2]] == ["Escapes", "Overkill"]
    assert "label defective" in " ".join(texts(page.one("figure", id="picture-3"), "dl"))
    assert page.all("path", kind="curve")
    assert [row[9] for row in rows_of(page)] == y


def test_labels_say_what_finding_a_share_of_all_defects_costs(detector, world):
    _, records = world
    few = made(detector, records, y=[-1, -1, 1, -1, 1, 1, 1, 1])
    assert "To find a share" not in few.text
    page = made(detector, records * 5, y=[-1, -1, 1, -1, 1, 1, 1, 1] * 5)
    assert "To find a share of all such defects share threshold overkill 80 %" in page.text
    assert "With 95 % confidence, if those that will come are like these 15." in page.text


@pytest.mark.parametrize("y", [[1, -1], [0] * 8, [1] * 7 + [2], "good"])
def test_labels_that_are_none_are_refused(detector, world, y):
    with pytest.raises(ValueError, match="y: expected 8 labels, \\+1 good or -1 defective"):
        Page(detector, world[1], y=y)


def test_other_mistakes_are_refused(detector, world):
    with pytest.raises(ValueError, match="records: expected those of at least one image"):
        Page(detector, [])
    with pytest.raises(ValueError, match="max_pictures"):
        Page(detector, world[1], max_pictures=-1)
    with pytest.raises(ValueError, match="not all of them have a path"):
        Page(detector, [replace(world[1][0], path=None)]).html()


# -- names ----------------------------------------------------------------------------------------


def test_whatever_a_name_holds_stays_text(detector):
    records = [
        Record(f"/x/{HOSTILE}", "anomalous", 9.0, 3.0),
        Record(f"/x/b{HOSTILE}", "unreadable", reason=f"broken: {HOSTILE}"),
    ]
    html = Page(detector, records, title=HOSTILE, date=HOSTILE, y=[-1, 1]).html()
    html.encode("utf-8")
    page = read(html)
    assert len(page.all("script")) == 2 and "alert" not in page.all("script")[1].raw
    shown = HOSTILE.replace("\n", "\\n").replace("\u2028", "\\u2028").replace("\udcff", "\\udcff")
    assert rows_of(page)[0][0] == shown
    assert page.one("figure", kind="picture").one("span", kind="name").raw == shown.rsplit("/")[-1]
    assert shown in page.one("section", id="unreadable").raw
    assert page.one("h1").text == "1 of 1 part looks anomalous"
    assert "49" not in page.one("header").text
    assert "<" not in page.one("script", id="rows").raw


@pytest.mark.parametrize(
    ("paths", "folder", "names"),
    [
        (["/a/b/x.png", "/a/c/y.png"], "/a/", ["b/x.png", "c/y.png"]),
        (["/a/x.png"], "/a/", ["x.png"]),
        (["/a/x.png", "b/y.png"], "", ["/a/x.png", "b/y.png"]),
        (["/x.png", "/y/z.png"], "/", ["x.png", "y/z.png"]),
        (["x.png", "y.png"], "", ["x.png", "y.png"]),
        (["C:\\a\\x.png", "C:\\a\\y.png"], "C:\\a\\", ["x.png", "y.png"]),
        (["/ab/x.png", "/ac/y.png"], "/", ["ab/x.png", "ac/y.png"]),
        ([None, "/a/x.png"], "", ["image 0", "/a/x.png"]),
    ],
)
def test_the_folder_is_named_once(detector, paths, folder, names):
    page = made(
        detector,
        [Record(path, "normal", 1.0, 0.1) for path in paths],
        max_pictures=0,
    )
    assert [row[0] for row in rows_of(page)] == names
    assert texts(page, "span", kind="path") == ([folder] if folder else [])


# -- images of any kind ---------------------------------------------------------------------------


@pytest.mark.slow
def test_many_images_make_a_small_page(detector):
    records = invented(10_000)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (60, 1200, 1600, 3), dtype=np.uint8)[:, ::3, ::4]
    page = Page(detector, records, read=lambda indices: list(noise[: len(indices)]))
    html = page.html()
    assert len(html.encode()) < 5_000_000
    tree = read(html)
    assert len(tree.all("figure", kind="picture")) == 60
    assert len(rows_of(tree)) == 10_000


@pytest.mark.parametrize("form", ["array", "list", "color", "PIL images", "dataset"])
def test_images_in_memory(detector, tmp_path, form):
    images = np.concatenate([scratched(2), stripes(3, seed=7)])
    given = {
        "array": images,
        "list": list(images),
        "color": np.repeat(images[..., None], 3, axis=3),
        "PIL images": [Image.fromarray(image) for image in images],
        "dataset": _Dataset(images),
    }[form]
    write(tmp_path / "page.html", detector, given)
    page = read((tmp_path / "page.html").read_text())
    assert page.one("h1").text == "2 of 5 parts look anomalous"
    assert [row[0] for row in rows_of(page)] == [f"image {i}" for i in range(5)]
    assert page.one("figure", id="picture-4").all("img")[0].attributes["alt"] == "image 4, normal"


class _Dataset:
    def __new__(cls, images):
        from torch.utils.data import Dataset

        class Images(Dataset):
            def __len__(self):
                return len(images)

            def __getitem__(self, index):
                return images[index], 1

        return Images()


def test_images_that_can_be_read_once_are_refused(detector, tmp_path):
    with pytest.raises(ValueError, match="Pass a list or an array"):
        write(tmp_path / "page.html", detector, iter(stripes(3)))
    assert not list(tmp_path.iterdir())


def test_images_of_many_sizes(tmp_path):
    images = [
        np.random.default_rng(i).integers(0, 255, shape, dtype=np.uint8)
        for i, shape in enumerate([(4, 4), (8, 9), (4, 700, 3), (300, 40), (64, 64, 3)])
    ]
    detector = padim(false_alarm_rate=0.1).fit(stripes(20))
    write(tmp_path / "page.html", detector, images)
    page = read((tmp_path / "page.html").read_text())
    assert len(page.all("img", kind="heat")) == 5
    assert [row[7] for row in rows_of(page)] == [[4, 4], [9, 8], [700, 4], [40, 300], [64, 64]]


@pytest.mark.slow
def test_a_photograph_of_12_megapixels(detector, tmp_path):
    Image.fromarray(np.kron(scratched(1)[0], np.ones((48, 62), np.uint8))).save(tmp_path / "a.jpg")
    write(tmp_path / "page.html", detector, [str(tmp_path / "a.jpg")])
    assert (tmp_path / "page.html").stat().st_size < 500_000
    assert rows_of(read((tmp_path / "page.html").read_text()))[0][7] == [3968, 3072]


def test_constant_images_and_a_detector_of_constant_images(detector, tmp_path):
    flat = np.full((12, 64, 64), 100, np.uint8)
    write(tmp_path / "a.html", detector, flat)
    with pytest.warns(UserWarning):
        of_flat = padim(false_alarm_rate=0.2).fit(flat)
    write(tmp_path / "b.html", of_flat, flat)
    for name in ("a.html", "b.html"):
        assert len(rows_of(read((tmp_path / name).read_text()))) == 12


def test_without_a_threshold_images_are_ranked(tmp_path):
    with pytest.warns(UserWarning, match="cannot calibrate"):
        detector = PatchCore(image_size=64, coreset=30, random_state=0).fit(stripes(1))
    write(tmp_path / "page.html", detector, stripes(4, seed=3))
    page = read((tmp_path / "page.html").read_text())
    assert page.one("h1").text == "4 parts ranked, without a threshold"
    assert "There is no threshold" in page.text
    assert not page.all("i", kind="rule")
    assert {row[1] for row in rows_of(page)} == {2}
    assert "anomaly score" in texts(page, "p", kind="below")


@pytest.mark.parametrize("method", ["split", "cv"])
def test_p_values_of_a_conformal_detector(tmp_path, method):
    detector = ConformalDetector(
        padim(), method=method, cv=0.5 if method == "split" else 3,
        false_alarm_rate=0.1, random_state=0,
    ).fit(stripes(40))  # fmt: skip
    images = np.concatenate([scratched(2), stripes(3, seed=7)])
    write(tmp_path / "page.html", detector, images)
    page = read((tmp_path / "page.html").read_text())
    smallest = 1 / (detector.n_calibration_ + 1)
    assert rows_of(page)[0][4] == pytest.approx(smallest, rel=1e-5)
    assert f"p-value {smallest:.3g}" in page.one("figure", id="picture-0").text.replace(
        "p-value", "p-value "
    ).replace("  ", " ")
    assert "ConformalDetector of PaDiM" in page.one("section", id="detector").text


def test_nothing_anomalous(detector, world):
    page = made(detector, world[1][3:])
    assert page.one("h1").text == "0 of 5 parts look anomalous"
    assert "95 % interval: 0 to 43 %" in page.text
    assert not page.all("section", id="places")


def test_nothing_readable(detector):
    records = [Record(f"/x/{i}.png", "unreadable", reason=f"reason {i}") for i in range(3)]
    page = made(detector, records, y=[1, -1, 1])
    assert page.one("h1").text == "None of 3 pictures could be read"
    section = page.one("section", id="unreadable")
    assert "1.png" in section.text and "reason 2" in section.text
    assert not page.all("section", id="pictures") and not page.all("svg", role="img")


def test_unreadable_images_are_listed_and_the_rest_is_shown(detector, world, tmp_path):
    folder, _ = world
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    paths = [str(broken), *image_files(folder)]
    with pytest.warns(UserWarning, match="skipped"):
        write(tmp_path / "page.html", detector, paths)
    page = read((tmp_path / "page.html").read_text())
    assert "cannot be read as an image" in page.one("section", id="unreadable").text
    assert page.one("h1").text == "3 of 8 parts look anomalous"
    assert rows_of(page)[0][1] == 3
    with pytest.raises(ValueError, match="cannot be read as an image"):
        write(tmp_path / "other.html", detector, paths, on_error="raise")
    assert not (tmp_path / "other.html").exists()


def test_pictures_that_have_vanished_are_shown_as_gone(detector, world, tmp_path):
    folder, _ = world
    records = []
    for record in world[1]:
        path = tmp_path / os.path.basename(record.path)
        path.write_bytes((folder / path.name).read_bytes())
        records.append(replace(record, path=str(path)))
    os.unlink(records[0].path)
    with pytest.warns(UserWarning, match="skipped"):
        page = made(detector, records)
    assert "gone" in page.one("figure", id="picture-0").text
    assert len(page.all("img", kind="heat")) == 7
    assert page.one("h1").text == "3 of 8 parts look anomalous"
    for record in records[1:]:
        os.unlink(record.path)
    page = made(detector, records)
    assert len(page.all("div", kind="gone")) == 8


def test_the_map_of_places_shows_where_regions_lie(detector, world):
    page = made(detector, world[1])
    section = page.one("section", id="places")
    assert "The worst regions of 3 anomalous images" in section.text
    assert "covered by 3 of them" in section.text


# -- the detector ---------------------------------------------------------------------------------


def test_the_model_card(detector, world, tmp_path):
    detector.save(tmp_path / "part.alite", notes={"date": "2026-11-26", "line": "<7>"})
    card = read_card(tmp_path / "part.alite")
    page = made(load(tmp_path / "part.alite"), world[1], card=card)
    section = page.one("section", id="detector")
    for text in (card.digest, "2026-11-26", "<7>", "20 images", "torch", "n_features", "smoothing"):
        assert text in section.text
    details = section.one("details")
    assert "smoothing" in details.text and "n_features" not in details.text


def test_the_card_is_not_needed(detector, world):
    assert "PaDiM" in made(detector, world[1]).one("section", id="detector").text


def test_files_are_written_whole(detector, world, tmp_path, monkeypatch):
    path = tmp_path / "page.html"
    path.write_text("before")
    monkeypatch.setattr(Page, "html", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_page(path, detector, world[1])
    assert path.read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_images_are_read_again_only_where_they_are_shown(detector, world):
    asked = []

    def again(indices):
        asked.append(list(indices))
        return [world[1][0].path] * len(indices)

    Page(detector, invented(500), read=again).html()
    assert len(asked) == 2 and asked[0] == asked[1] and len(asked[0]) <= 60


def test_no_pictures_of_images_in_memory(detector, tmp_path):
    write(tmp_path / "page.html", detector, stripes(3), max_pictures=0)
    assert "<img" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_training_images_to_look_at(detector, world, tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for i, image in enumerate([*stripes(20), *scratched(1, seed=4)]):
        Image.fromarray(image).save(folder / ("<b>odd.png" if i == 20 else f"{i:02d}.png"))
    careful = PaDiM(
        image_size=64, n_features=5, contamination=0.1, random_state=0, false_alarm_rate=0.1
    ).fit(folder)
    page = made(careful, world[1])
    section = page.one("section", id="suspects")
    assert str(folder / "<b>odd.png") in section.text
    assert section.text.index("odd") < section.text.index("anomaly score")
    assert section.text.count("anomaly score") == 20
    assert "Training images to look at" not in Page(detector, world[1]).html()
