"""The page of a comparison: its order, its numbers, both heatmaps, hostile names."""

import json
import math
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from reading import loaded, read, rows_of
from worlds import scratched, stripes

from anomalib_lite import PaDiM
from anomalib_lite.comparison import OUTCOMES, Comparison, Difference
from anomalib_lite.inspection import record_of
from anomalib_lite.records import Record
from anomalib_lite.report import charts
from anomalib_lite.report.comparison import write_comparison
from anomalib_lite.report.figures import ABSENT

HOSTILE = "</script><script>alert(1)</script>\"'&amp;\n\u2028\udcff{{ 7 * 7 }}.png"


@pytest.fixture(scope="module")
def detectors():
    """Two of different random projections and thresholds; not to be changed."""
    made = [
        PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=seed).fit(
            stripes(20)
        )
        for seed in (0, 1)
    ]
    normal, threshold = made[1].score_levels()
    made[1].set_threshold(score=-normal - 0.01 * (threshold - normal))
    return made


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Three scratched images, seven good ones, one of which has a hostile name."""
    folder = tmp_path_factory.mktemp("new")
    for i, image in enumerate([*scratched(3), *stripes(7, seed=7)]):
        Image.fromarray(image).save(folder / f"{i}.png")
    os.rename(folder / "9.png", folder / "9<b>.png")
    return sorted(map(str, folder.glob("*.png")))


def compared(detectors, paths):
    return Comparison(
        *(
            [record_of(image, one.score_levels(), one.map_levels()) for image in seen]
            for one, seen in (
                (each, each.iter_inspect(paths, maps="network")) for each in detectors
            )
        )
    )


@pytest.fixture(scope="module")
def comparison(detectors, paths):
    found = compared(detectors, paths)
    assert 0 < len(found.changed) < len(paths) and found.counts["anomalous"] == 3
    return found


def made(tmp_path, detectors, comparison, differences=()):
    path = tmp_path / "page.html"
    write_comparison(path, detectors, ("old/a.alite", "<b>.alite"), comparison, differences)
    return read(path.read_text(encoding="utf-8"))


def texts(page, tag, **attributes):
    return [each.text for each in page.all(tag, **attributes)]


def test_headline_counts_and_summaries(tmp_path, detectors, comparison):
    page = made(tmp_path, detectors, comparison)
    assert texts(page, "h1") == [f"{len(comparison.changed)} of 10 verdicts changed"]
    counts = page.one("dl", kind="counts")
    found = dict(zip(texts(counts, "dt"), texts(counts, "dd"), strict=True))
    expected = {OUTCOMES[key]: str(n) for key, n in comparison.counts.items() if n}
    assert found == expected
    assert f"{comparison.rank_correlation:.3g}" in page.text
    assert "a.alite" in page.text and "<b>.alite" in page.text


def test_changed_verdicts_come_first_then_the_largest_changes(tmp_path, detectors, comparison):
    page = made(tmp_path, detectors, comparison)
    names = [each.text for each in page.all("span", kind="name")]
    changed = [os.path.basename(pair.path) for pair in comparison.changed]
    assert len(changed) > 1
    others = [pair for pair in comparison.pairs if not pair.is_changed]
    shifted = [os.path.basename(pair.path) for pair in comparison.largest_first(others)]
    assert names == [*changed, *shifted]
    titles = texts(page.one("section", id="pictures"), "h3")
    assert titles[0] == f"Verdict changed {len(changed)}"


def test_each_image_has_the_heatmaps_of_both(tmp_path, detectors, comparison):
    page = made(tmp_path, detectors, comparison)
    for figure in page.all("figure", kind="picture"):
        pair = comparison.pairs[int(figure.attributes["id"].removeprefix("picture-"))]
        heats = [each.attributes["src"] for each in figure.all("img", kind="heat")]
        assert len(heats) == 2
        if pair.outcome == "anomalous":
            assert heats[0] != heats[1]
        assert texts(figure, "span", kind="chip") == [pair.a.verdict, pair.b.verdict]
        for record in pair:
            assert f"score {record.anomaly_score:.4g}" in figure.text
    assert all(address.startswith(("data:", "#")) for address in loaded(page))


def test_the_table_has_all_images(tmp_path, detectors, comparison):
    page = made(tmp_path, detectors, comparison)
    about = json.loads(page.one("script", id="columns").raw)
    rows = rows_of(page)
    assert len(rows) == 10
    for row, pair in zip(rows, comparison.pairs, strict=True):
        values = dict(zip(about["columns"], row, strict=True))
        assert values["Name"] == os.path.basename(pair.path)
        assert about["kinds"][values["Verdict"]] == OUTCOMES[pair.outcome]
        assert values["Change"] == pytest.approx(pair.b.severity - pair.a.severity, rel=1e-4)
        assert values["Score b"] == pytest.approx(pair.b.anomaly_score, rel=1e-5)
    assert about["columns"][about["change"]] == "Change"


def test_nothing_breaks_out_of_the_page(tmp_path, detectors, comparison):
    hostile = Record(HOSTILE, "unreadable", reason="<i>broken</i>")
    records = [[*of_one, hostile] for of_one in zip(*comparison.pairs, strict=True)]
    differences = [Difference("note", "<u>", None, "</table><script>alert(1)</script>")]
    page = made(tmp_path, detectors, Comparison(*records), differences)
    assert len(page.all("script")) == 3 and not page.all("u")
    cells = page.one("section", id="detectors").all("td")
    assert [each.text for each in cells] == [ABSENT, "</table><script>alert(1)</script>"]
    assert "<i>broken</i>" in page.one("section", id="unreadable").text
    assert rows_of(page)[-1][1] == [*OUTCOMES].index("unreadable")


def test_no_difference(tmp_path, detectors, paths):
    page = made(tmp_path, detectors[:1] * 2, compared(detectors[:1] * 2, paths))
    assert texts(page, "h1") == ["No verdict changed"]
    assert texts(page.one("section", id="detectors"), "p") == ["Nothing."]
    assert texts(page.one("section", id="pictures"), "h3") == ["Others 4"]


def test_without_thresholds_scores_are_compared(tmp_path, detectors):
    records = [Record(f"{i}.png", "undecided", float(i)) for i in range(3)]
    page = made(tmp_path, detectors, Comparison(records, records))
    assert texts(page, "h1") == ["There are no verdicts to compare"]
    assert "anomaly score by a" in page.one("section", id="scores").text
    gone = page.all("div", kind="gone")  # these images do not exist
    assert len(gone) == 2 * 3


def test_of_images_that_cannot_be_read_there_is_no_chart(tmp_path, detectors):
    records = [Record("x.png", "unreadable", reason="gone")]
    page = made(tmp_path, detectors, Comparison(records, records))
    assert not page.all("section", id="scores") and not page.all("section", id="pictures")


def test_the_same_page_twice(tmp_path, detectors, comparison):
    made(tmp_path, detectors, comparison)
    first = (tmp_path / "page.html").read_bytes()
    made(tmp_path, detectors, comparison)
    assert (tmp_path / "page.html").read_bytes() == first


def test_thousands_of_images_are_a_small_page(tmp_path, detectors, paths):
    rng = np.random.default_rng(0)
    records = [
        [
            Record(f"/line/part {i}.png", "anomalous" if s > 1 else "normal", s + 3, s)
            for i, s in enumerate(rng.normal(0, 0.8, 10_000))
        ]
        for _ in range(2)
    ]
    comparison = Comparison(*records)
    made(tmp_path, detectors, comparison)
    assert (tmp_path / "page.html").stat().st_size < 5e6
    assert (
        f"{len(comparison.changed) - 24:,} more are in the table"
        in read((tmp_path / "page.html").read_text()).text
    )


def points(chart, style):
    """Coordinates on the canvas, as pairs."""
    (path,) = (shape.path for shape in chart.shapes if shape.style == f"points {style}")
    return [tuple(map(int, text.removesuffix("h0").split())) for text in path.split("M")[1:]]


def test_points_lie_where_both_scores_say():
    values = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [2.0, 4.0]])
    chart = charts.scatter(
        [("normal", "some", values), ("changed", "none", values[:0])],
        (1.0, None),
        ("left to right", "up"),
        same_scale=False,
    )
    (x0, y0), (x1, y1), (x2, y2) = points(chart, "normal")  # two are at one place
    assert x0 < x1 < x2 and y0 > y1 > y2
    assert x1 - x0 == pytest.approx(x2 - x1, abs=1) and y0 - y1 == pytest.approx(y1 - y2, abs=1)
    assert chart.rules_across[0].at == pytest.approx(x1 / 10, abs=0.1)
    assert chart.rules_up == [] and chart.legend[0] == ("points normal", "some (4)")
    assert (chart.across_title, chart.up_title) == ("left to right", "up")
    assert not any(shape.style == "diagonal" for shape in chart.shapes)


def test_the_line_of_agreement_passes_where_both_say_the_same():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 2)) * [1.0, 3.0]
    values[0] = 0.5, 0.5
    chart = charts.scatter([("normal", "all", values)], (None, None), ("a", "b"), same_scale=True)
    (line,) = (shape.path for shape in chart.shapes if shape.style == "diagonal")
    (x0, y0), (x1, y1) = (map(int, part.split()) for part in line.removeprefix("M").split("L"))
    x, y = points(chart, "normal")[0]
    assert abs((x - x0) * (y1 - y0) - (y - y0) * (x1 - x0)) / math.hypot(x1 - x0, y1 - y0) < 2


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no program chromium is installed")
def test_in_a_browser_it_sorts_filters_and_loads_nothing(tmp_path, detectors, comparison):
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    made(tmp_path, detectors, comparison)
    said, asked = [], []
    with driver.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "page.html").as_uri())
        names = page.locator("#images tbody th")
        order = comparison.largest_first(comparison.pairs)
        assert names.all_inner_texts() == [os.path.basename(pair.path) for pair in order]
        page.locator("#verdict").select_option("anomalous by b only")
        changed = [os.path.basename(pair.path) for pair in comparison.changed]
        assert names.all_inner_texts() == changed
        page.get_by_role("button", name="Score b", exact=True).click()
        scores = sorted((pair.b.anomaly_score for pair in comparison.changed), reverse=True)
        cells = page.locator("#images tbody td:last-child").all_inner_texts()
        assert [float(text) for text in cells] == pytest.approx(scores, rel=1e-3)
        frame = page.locator("button.frame").first
        frame.click()
        assert frame.get_attribute("aria-pressed") == "false"
        width = page.evaluate("document.documentElement.scrollWidth")
        browser.close()
    assert said == [] and width == 390
    assert [url for url in asked if not url.startswith("data:")] == asked[:1]
