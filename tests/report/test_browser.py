"""The page in a real browser: it sorts, filters, turns pages and heatmaps, and loads nothing."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from worlds import scratched, stripes

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from anomalib_lite import PaDiM  # noqa: E402
from anomalib_lite.data import image_files  # noqa: E402
from anomalib_lite.inspection import record_of  # noqa: E402
from anomalib_lite.records import Record  # noqa: E402
from anomalib_lite.report.page import write_page  # noqa: E402

BROWSER = shutil.which("chromium")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no program chromium is installed")

N_MANY = 10_000


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def detector():
    return PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0).fit(
        stripes(20)
    )


@pytest.fixture(scope="module")
def small(detector, tmp_path_factory):
    """A page of eight images, one of which has a name that would break out of it."""
    folder = tmp_path_factory.mktemp("small")
    for i, image in enumerate([*scratched(3), *stripes(5, seed=7)]):
        name = "<img src=x onerror=alert(1)>" if i == 4 else f"{'bad' if i < 3 else 'good'} {i}"
        Image.fromarray(image).save(folder / f"{name}.png")
    paths = image_files(folder)
    levels = detector.score_levels(), detector.map_levels()
    records = [record_of(image, *levels) for image in detector.iter_inspect(paths, maps="network")]
    for i, names in enumerate([("fine", "coarse"), ("coarse",)]):
        records[i] = replace(records[i], flagged_by=names)
    records.append(Record(str(folder / "broken.png"), "unreadable", reason="it is empty"))
    path = folder / "page.html"
    write_page(path, detector, records, y=[1 if "good" in r.path else -1 for r in records])
    return path


@pytest.fixture(scope="module")
def large(detector, tmp_path_factory):
    """A page of 10,000 images."""
    path = tmp_path_factory.mktemp("large") / "page.html"
    severities = np.random.default_rng(0).normal(0, 0.7, N_MANY)
    images = np.concatenate([scratched(30), stripes(30, seed=2)])
    records = [
        Record(
            f"/line/part {i}.png",
            "anomalous" if severity > 1 else "normal",
            5 + severity,
            severity,
            modified=1.7e9 + i,
            size=(64, 64),
        )
        for i, severity in enumerate(severities)
    ]
    write_page(path, detector, records, read=lambda indices: images[: len(indices)])
    return path


@pytest.fixture
def open_page(browser):
    """Opens a page; at the end nothing must have been loaded beside it, and nothing complained."""
    said, asked, contexts = [], [], []

    def open_it(path, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not said
    assert len([url for url in asked if not url.startswith("data:")]) == len(contexts)
    assert all(url.startswith(("data:", "file:")) for url in asked)


def names(page):
    return page.locator("#images tbody th").all_inner_texts()


def column(page, name):
    heads = page.locator("#images thead th").all_inner_texts()
    place = [head.strip() for head in heads].index(name)
    return [
        row.locator("th, td").nth(place).inner_text()
        for row in page.locator("#images tbody tr").all()
    ]


def test_the_table_begins_with_the_highest_score_and_sorts_by_any_column(open_page, small):
    page = open_page(small)
    assert len(names(page)) == 9
    scores = [float(text) for text in column(page, "Score")[:-1]]
    assert scores == sorted(scores, reverse=True)
    assert names(page)[-1] == "broken.png"  # what has no score comes last
    button = page.get_by_role("button", name="Score", exact=True)
    button.click()
    assert [float(text) for text in column(page, "Score")[:-1]] == scores[::-1]
    assert names(page)[-1] == "broken.png"
    assert button.locator("..").get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="Name", exact=True).press("Enter")
    assert names(page) == sorted(names(page), key=str.lower)
    assert page.locator("[aria-sort]").count() == 1


def test_who_of_an_ensemble_flagged_is_a_column(open_page, small):
    page = open_page(small)
    page.get_by_role("button", name="By", exact=True).click()
    assert column(page, "By") == ["coarse", "fine, coarse", *[""] * 7]


def test_filters_by_name_and_verdict(open_page, small):
    page = open_page(small)
    page.get_by_label("Name").fill("GOOD")
    assert len(names(page)) == 4
    assert page.locator("#found").inner_text() == "4 of 9 images"
    page.get_by_label("Name").fill("")
    page.locator("#verdict").select_option("anomalous")
    assert sorted(names(page)) == ["bad 0.png", "bad 1.png", "bad 2.png"]
    page.get_by_label("Name").fill("nothing")
    assert names(page) == []


def test_names_are_text(open_page, small):
    page = open_page(small)
    assert "<img src=x onerror=alert(1)>.png" in names(page)
    assert page.locator("img[src='x']").count() == 0


def opacity(locator):
    return float(locator.evaluate("each => getComputedStyle(each).opacity"))


def test_heatmaps_can_be_seen_through_for_each_and_for_all(open_page, small):
    page = open_page(small)
    frame, other = page.locator("button.frame").nth(0), page.locator("button.frame").nth(1)
    assert opacity(frame.locator(".heat")) == 1
    frame.click()
    assert frame.get_attribute("aria-pressed") == "false"
    assert opacity(frame.locator(".heat")) == 0 and opacity(other.locator(".heat")) == 1
    page.locator("#heat").fill("40")
    assert opacity(frame.locator(".heat")) == opacity(other.locator(".heat")) == 0.4
    frame.focus()
    page.keyboard.press("Space")
    assert opacity(frame.locator(".heat")) == 0
    boxes = page.locator(".box")
    assert boxes.first.is_visible()
    page.get_by_label("Boxes").uncheck()
    assert not boxes.first.is_visible()
    before = other.bounding_box()["width"]
    page.get_by_label("Large").check()
    assert other.bounding_box()["width"] > 1.5 * before


def test_a_name_in_the_table_leads_to_its_picture(open_page, small):
    page = open_page(small)
    page.get_by_role("link", name="bad 1.png").click()
    assert page.url.endswith("#picture-2")
    figure = page.locator(":target")
    assert "bad 1.png" in figure.inner_text()


def ground(page):
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_the_theme_follows_the_system_until_it_is_chosen(open_page, small):
    light = ground(open_page(small, color_scheme="light"))
    page = open_page(small, color_scheme="dark")
    dark = ground(page)
    assert light != dark
    button, seen = page.locator("#theme"), []
    for _ in range(3):
        button.click()
        seen.append((button.inner_text(), ground(page)))
    assert seen == [("Theme: dark", dark), ("Theme: light", light), ("Theme: auto", dark)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(open_page, small, scheme):
    page = open_page(small, color_scheme=scheme)
    # contrast of WCAG 2, by the nearest ground that is not transparent
    lowest = page.evaluate(
        """() => {
          const parts = (color) => color.match(/[\\d.]+/g).map(Number);
          const light = (color) => {
            const [r, g, b] = parts(color).map((v) => v / 255)
              .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (element) => {
            const color = getComputedStyle(element).backgroundColor;
            return parts(color)[3] === 0 ? ground(element.parentElement) : color;
          };
          let lowest = 99;
          for (const element of document.querySelectorAll("body *")) {
            const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
            if (!own || !element.checkVisibility() || element.closest("button:disabled")) continue;
            const [a, b] = [light(getComputedStyle(element).color), light(ground(element))];
            lowest = Math.min(lowest, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
          }
          return lowest;
        }"""
    )
    assert lowest >= 4.5


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways(open_page, small, width):
    page = open_page(small, viewport={"width": width, "height": 800})
    for is_large in (False, True):
        page.get_by_label("Large").set_checked(is_large)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_it_can_be_printed_and_read_without_scripts(open_page, small):
    page = open_page(small, color_scheme="dark")
    page.emulate_media(media="print")
    assert not page.locator("#tools").is_visible()
    assert ground(page) == "rgb(255, 255, 255)"
    page = open_page(small, java_script_enabled=False)
    assert page.get_by_text("needs JavaScript").is_visible()
    assert page.locator(".heat").first.is_visible() and not page.locator("#tools").is_visible()


def test_many_images_come_in_pages_of_a_hundred(open_page, large):
    page = open_page(large)
    assert len(names(page)) == 100
    assert page.locator("#page").inner_text() == "1 to 100 of 10,000"
    first = names(page)
    page.get_by_role("button", name="Next").click()
    assert page.locator("#page").inner_text() == "101 to 200 of 10,000"
    assert not {*first} & {*names(page)}
    page.get_by_role("button", name="Previous").click()
    assert names(page) == first
    page.get_by_label("Name").fill("part 123")
    assert page.locator("#found").inner_text() == "11 of 10,000 images"
    assert not page.locator("#pages").is_visible()
    page.get_by_label("Name").fill("")
    page.get_by_role("button", name="Name", exact=True).click()
    assert names(page)[:3] == ["part 0.png", "part 1.png", "part 2.png"]


@pytest.mark.slow
def test_many_images_are_there_in_less_than_three_seconds(open_page, large):
    page = open_page(large)
    page.wait_for_load_state("load")
    milliseconds = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < milliseconds < 3000
    assert large.stat().st_size < 5_000_000
