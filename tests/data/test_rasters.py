"""Pixels as they were decoded: converted, resized and measured in blocks of rows."""

import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from anomalib_lite.data import CheckedImage, ImageStream, NetworkInput, images, rasters, resizing
from anomalib_lite.data.rasters import ArrayRaster, PictureRaster
from anomalib_lite.data.resizing import pixels_of, raster_resized
from anomalib_lite.data.room import Room
from anomalib_lite.workers import Team, borrowed_team

HEIGHT, WIDTH = 67, 45
BYTES = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
COLOR = BYTES[..., :3]


@pytest.fixture(params=[1, 11 * 45, 16 * 45 * 3, 10**6], ids="{} values".format)
def blocks(request, monkeypatch):
    """Images are resized in blocks of so many values, and never as a whole."""
    monkeypatch.setattr(rasters, "_BLOCK", request.param)
    monkeypatch.setattr(resizing, "_IN_ONE", 0)


def of_array(array, scale=1.0):
    """(raster, its pixels (C, H, W) as float64) of an array (H, W, C)."""
    return ArrayRaster(array), torch.from_numpy(np.moveaxis(array / scale, -1, 0))


def of_picture(array):
    """The same, read from a picture."""
    _, pixels = of_array(array[..., :3], 255.0)
    return PictureRaster(Image.fromarray(array.squeeze())), pixels


FORMS = {
    "bytes": of_array(COLOR, 255.0),
    "gray": of_array(BYTES[..., :1], 255.0),
    "16 bits": of_array(COLOR.astype(np.uint16) * 257, 65535.0),
    "other byte order": of_array(COLOR.astype(np.uint16).byteswap().view(">u2"), 65535.0),
    "bool": of_array(COLOR > 127),
    "floats": of_array((COLOR / 255).astype(np.float32)),
    "doubles": of_array(COLOR / 255),
    "reversed": of_array(COLOR[::-1, ::-1, ::-1], 255.0),
    "channels first": (ArrayRaster(np.moveaxis(COLOR, -1, 0), True), of_array(COLOR, 255.0)[1]),
    "picture": of_picture(COLOR),
    "gray picture": of_picture(BYTES[..., :1]),
    "picture with alpha": of_picture(BYTES),
}
FORM = pytest.mark.parametrize("form", FORMS)


@FORM
@pytest.mark.parametrize("size", [(14, 14), (66, 9), (1, 1), (20, 90), (5, WIDTH), (HEIGHT, 12)])
def test_resized_in_blocks(form, size, blocks):
    raster, pixels = FORMS[form]
    expected = functional.interpolate(pixels[None].double(), size, mode="bilinear", antialias=True)
    resized = raster_resized(raster, size)
    assert resized.dtype == torch.float32
    np.testing.assert_allclose(resized, expected[0], rtol=0, atol=1e-6)


@FORM
def test_images_of_the_right_size_are_converted_alone(form, blocks):
    raster, pixels = FORMS[form]
    assert raster.size == (HEIGHT, WIDTH) == tuple(pixels.shape[1:])
    assert pixels_of(raster).is_contiguous()
    np.testing.assert_array_equal(pixels_of(raster), pixels.float())
    np.testing.assert_array_equal(raster_resized(raster, raster.size), pixels.float())


@FORM
@pytest.mark.parametrize("n_sampled", [1, 50, 10**6])
def test_levels(form, n_sampled, blocks, monkeypatch):
    monkeypatch.setattr(rasters, "_SAMPLE", n_sampled)
    raster, pixels = FORMS[form]
    values = pixels.double().flatten()
    sample = values[:: max(1, len(values) // n_sampled)]
    expected = values.max(), values.mean(), sample.median(), values.min()
    np.testing.assert_allclose(raster.levels(), expected, rtol=1e-6)


def test_floats_beyond_the_range_by_rounding_are_clipped(blocks):
    raster = ArrayRaster(np.array([[[1 + 1e-7]], [[-1e-7]]]))
    np.testing.assert_array_equal(pixels_of(raster), [[[1], [0]]])
    assert raster.levels()[0] == 1
    assert raster.levels()[3] == 0


@FORM
def test_arrays_are_as_they_were_decoded(form):
    raster, pixels = FORMS[form]
    array = raster.array()
    assert array.dtype.name == raster.dtype
    assert array.shape == (HEIGHT, WIDTH, raster.n_channels)
    scaled = array / raster.full_scale if array.dtype.kind != "b" else array
    np.testing.assert_allclose(np.moveaxis(scaled, -1, 0), pixels, atol=1e-12)


@FORM
def test_small_pictures(form):
    raster, pixels = FORMS[form]
    expected = functional.interpolate(
        pixels[None].double(), (14, 9), mode="bilinear", antialias=True
    )[0]
    small = raster.small((14, 9))
    rounding = 1.01 / 255 if raster.dtype == "uint8" else 1e-6
    assert small.dtype == np.float32
    np.testing.assert_allclose(np.moveaxis(small, -1, 0), expected, atol=rounding)


def test_a_picture_gives_the_bits_of_its_array(blocks):
    picture, array = PictureRaster(Image.fromarray(COLOR)), ArrayRaster(COLOR)
    assert torch.equal(raster_resized(picture, (14, 15)), raster_resized(array, (14, 15)))
    assert picture.levels() == array.levels()


@pytest.mark.parametrize("height", [*range(1, 30), 223])
def test_each_new_row_is_a_mean_of_rows(height):
    for new_height in range(1, height + 1, 7):
        total = np.zeros((new_height, height))
        for start in range(0, height, 3):
            stop = min(start + 3, height)
            first, weights = resizing._contributions(height, new_height, start, stop)
            total[first : first + len(weights), start:stop] = weights
        eye = torch.eye(height, dtype=torch.float64)[None]
        expected = resizing.planes_resized(eye, (new_height, height))[0]
        np.testing.assert_allclose(total / total.sum(1, keepdims=True), expected, atol=1e-6)


# -- as images of a stream ------------------------------------------------------------------------


def batch_and_levels(item):
    """Network input and levels of an image, as a worker makes them."""
    network_input = NetworkInput.raw(14)

    def prepare(image):
        return network_input.batch([image]), image.levels, type(image.source)

    [[prepared]] = ImageStream([item]).work(Team(1), prepare)
    return prepared


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tif", "jpg", "webp", "jp2", "gif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_files_are_as_their_arrays(kind, mode, blocks, tmp_path):
    path = tmp_path / f"image.{kind}"
    Image.fromarray(COLOR).convert(mode).save(path)
    with Image.open(path) as picture:
        array = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    batch, levels, source = batch_and_levels(path)
    assert source is PictureRaster  # no copy is made of it
    expected, expected_levels, _ = batch_and_levels(array)
    assert torch.equal(batch, expected)
    assert levels == expected_levels


def test_images_of_a_list_have_pixels_of_their_own():
    array = np.zeros((1, 8, 9), np.uint8)
    (image,) = ImageStream(array)
    array[:] = 255
    assert isinstance(image.source, torch.Tensor)
    assert image.pixels is image.pixels
    assert image.pixels.max() == image.levels.highest == 0


def test_default_device_is_not_used(blocks):
    with torch.device("meta"):
        batch, levels, _ = batch_and_levels(COLOR)
        (image,) = ImageStream(COLOR[None])
    assert batch.device.type == image.pixels.device.type == "cpu"
    assert levels == batch_and_levels(COLOR)[1]


def test_resizing_has_a_gradient():
    pixels = torch.rand(3, 20, 30, requires_grad=True)
    NetworkInput.raw(7).batch([CheckedImage(pixels, "float32", "image 0")]).sum().backward()
    assert (pixels.grad > 0).all()


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: (x, 0), lambda x: {"image": x}])
@pytest.mark.parametrize(
    "buffer",
    [np.zeros((8, 9), np.uint8), torch.zeros(1, 8, 9), Image.new("L", (9, 8))],
    ids=["array", "tensor", "picture"],
)
def test_memory_of_a_generator_may_be_used_again(buffer, wrapped):
    def images():
        for value in range(9):
            if isinstance(buffer, Image.Image):
                buffer.paste(value, (0, 0, 9, 8))
            else:
                buffer[:] = value / 255 if isinstance(buffer, torch.Tensor) else value
            yield wrapped(buffer)

    with borrowed_team(2) as team:
        levels = [
            level
            for done in ImageStream(images()).work(team, lambda image: image.levels.highest, size=2)
            for level in done
        ]
    np.testing.assert_allclose(levels, np.arange(9) / 255, rtol=1e-6)


# -- memory ---------------------------------------------------------------------------------------


class Crowd:
    """Pixels of the images that workers hold at one time."""

    def __init__(self):
        self.now, self.most, self.lock = [], 0, threading.Lock()

    def prepare(self, image):
        n_pixels = image.size[0] * image.size[1]
        with self.lock:
            self.now.append(n_pixels)
            self.most = max(self.most, sum(self.now))
        time.sleep(0.002)
        with self.lock:
            self.now.remove(n_pixels)
        return image.index


@pytest.mark.parametrize("kind", ["files", "arrays", "pictures", "generator"])
def test_workers_take_turns_with_large_images(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_PIXELS_INSIDE", 250)
    arrays = [np.zeros((20, 20) if i % 5 == 3 else (10, 10), np.uint8) for i in range(16)]
    pictures = [Image.fromarray(array) for array in arrays]
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i:02}.png")
    X = {"files": tmp_path, "arrays": arrays, "pictures": pictures, "generator": iter(arrays)}[kind]
    crowd = Crowd()
    with borrowed_team(6) as team:
        done = [index for part in ImageStream(X).work(team, crowd.prepare) for index in part]
    assert done == [*range(16)]
    assert crowd.most == 400  # one large image alone, or two small ones


def test_images_that_cannot_be_read_leave_the_room(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_PIXELS_INSIDE", 100)
    Image.new("L", (10, 10)).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    for i in range(5):
        (tmp_path / f"bad{i}.png").write_bytes(whole[:45])  # the header tells its size
    stream = ImageStream(tmp_path, on_error="skip")
    with borrowed_team(3) as team:
        assert list(stream.work(team, lambda image: image.index)) == [[5]]
    assert len(stream.skipped) == 5


@pytest.mark.parametrize("size", [1, 3])
def test_few_images_of_a_generator_wait(size, monkeypatch):
    monkeypatch.setattr(images, "_BYTES_AHEAD", 400)
    n_made, n_read, most = 0, 0, 0

    def made():
        nonlocal n_made, most
        for _ in range(20):
            n_made += 1
            most = max(most, n_made - n_read)
            yield np.zeros((10, 10), np.uint8)

    def prepare(image):
        nonlocal n_read
        time.sleep(0.001)
        with lock:
            n_read += 1

    lock = threading.Lock()
    with borrowed_team(8) as team:
        list(ImageStream(made()).work(team, prepare, size=size))
    assert n_read == 20
    assert most <= 4 + 2 * size  # those that wait, and a task that is made or waits to enter


def test_room_is_entered_alone_by_what_is_larger():
    room, order = Room(10), []
    with room.visit() as enter:
        enter(4)
        late = threading.Thread(target=lambda: (room.enter(11), order.append("large")), daemon=True)
        late.start()
        room.enter(6)  # those that fit pass
        order.append("small")
        room.leave(6)
    late.join(10)
    assert order == ["small", "large"]
    assert room.taken == 11
