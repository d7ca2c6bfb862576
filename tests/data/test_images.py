"""ImageStream: every form of input gives the same pixels, every error names its image."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset

from anomalib_lite.data import CheckedImage, ImageStream, NetworkInput, ValueRange, is_table

HEIGHT, WIDTH = 12, 15


def pictures(n=3, channels=3, seed=0):
    """(n, H, W, channels) random uint8 pixels; (n, H, W) for channels=None."""
    shape = (n, HEIGHT, WIDTH) if channels is None else (n, HEIGHT, WIDTH, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


COLOR, GRAY = pictures(), pictures(channels=None)


def read(X, **options):
    return list(ImageStream(X, **options))


def pixels(X):
    """(N, C, H, W) of images of the same size."""
    return np.stack([image.pixels.numpy() for image in read(X)])


def unit(array):
    """Expected pixels (N, C, H, W) in [0, 1] of 8-bit images (N, H, W) or (N, H, W, C)."""
    array = array[..., None] if array.ndim == 3 else array
    return array.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)


def tensor(array):
    """The same as a tensor, channels first."""
    return torch.from_numpy(array).movedim(-1, -3).contiguous()


def objects(items):
    """A 1-D object array of any items."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array


def save(array, folder):
    """Write one PNG per image; return their paths as strings."""
    paths = [str(folder / f"{i}.png") for i in range(len(array))]
    for picture, path in zip(array, paths, strict=True):
        Image.fromarray(picture).save(path)
    return paths


class Pairs(Dataset):
    """(image, label) pairs, as torch datasets give them; records the indices read."""

    def __init__(self, images):
        self.images, self.read = images, []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read.append(index)
        return self.images[index], index % 2


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Rows:
    """A data set that is no torch Dataset: it has a length, gives rows and slices of columns."""

    def __init__(self, rows):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return {key: [row[key] for row in self.rows[index]] for key in self.rows[0]}
        return self.rows[index]

    def __iter__(self):
        return iter(self.rows)


class SizedStream(Stream):
    def __len__(self):
        return len(self.items)


# -- forms of input -------------------------------------------------------------------------------

SIZED = {
    "numpy (N, H, W, C)": lambda a, folder: a,
    "read-only numpy": lambda a, folder: np.frombuffer(a.tobytes(), np.uint8).reshape(a.shape),
    "numpy view, axes reversed": lambda a, folder: a[:, ::-1, ::-1].copy()[:, ::-1, ::-1],
    "torch (N, C, H, W)": lambda a, folder: tensor(a),
    "list of arrays": lambda a, folder: list(a),
    "tuple of arrays": lambda a, folder: tuple(a),
    "list of tensors": lambda a, folder: list(tensor(a)),
    "list of PIL images": lambda a, folder: [Image.fromarray(x) for x in a],
    "list of str": lambda a, folder: save(a, folder),
    "list of Path": lambda a, folder: [folder / path for path in save(a, folder)],
    "mixed tuple": lambda a, folder: (a[0], tensor(a[1]), *save(a, folder)[2:]),
    "object array of images": lambda a, folder: objects(list(a)),
    "object array of paths": lambda a, folder: np.array(save(a, folder), dtype=object),
    "string array": lambda a, folder: np.array(save(a, folder)),
    "folder as str": lambda a, folder: save(a, folder) and str(folder),
    "folder as Path": lambda a, folder: save(a, folder) and folder,
    "Dataset of (image, label)": lambda a, folder: Pairs(tensor(a)),
    "Dataset of (array, label)": lambda a, folder: Pairs(a),
    "Dataset of (PIL image, label)": lambda a, folder: Pairs([Image.fromarray(x) for x in a]),
    "Dataset of dicts": lambda a, folder: torch.utils.data.Subset(
        [{"label": 1, "image": x} for x in tensor(a)], range(len(a))
    ),
    "list of (array, label)": lambda a, folder: [(x, 1) for x in a],
    "list of [path, label]": lambda a, folder: [[path, "good"] for path in save(a, folder)],
    "list of dicts": lambda a, folder: [{"img": Image.fromarray(x)} for x in a],
    "object array of pairs": lambda a, folder: objects([(x, 1) for x in a]),
    "dict of images": lambda a, folder: {"label": [1] * len(a), "image": list(a)},
    "dict of one tensor": lambda a, folder: {"pixel_values": tensor(a)},
    "DataFrame of paths": lambda a, folder: pd.DataFrame({"path": save(a, folder)}),
    "DataFrame of any index": lambda a, folder: pd.DataFrame(
        {"file": save(a, folder)}, index=range(7, 7 + len(a))
    ),
    "DataFrame of PIL images": lambda a, folder: pd.DataFrame(
        {"image": [Image.fromarray(x) for x in a]}
    ),
    "Series of paths": lambda a, folder: pd.Series(save(a, folder)),
    "Series of objects": lambda a, folder: pd.Series([*a], index=[5, 3, 4][: len(a)]),
    "Series of Path": lambda a, folder: pd.Series([folder / path for path in save(a, folder)]),
    "Index of paths": lambda a, folder: pd.Index(save(a, folder)),
    "Dataset of images alone": lambda a, folder: torch.utils.data.Subset(list(a), range(len(a))),
}

UNSIZED = {
    "DataLoader, batches of 2": lambda a, folder: DataLoader(Pairs(tensor(a)), batch_size=2),
    "DataLoader, batches of 1": lambda a, folder: DataLoader(Pairs(tensor(a))),
    "DataLoader without batches": lambda a, folder: DataLoader(Pairs(tensor(a)), batch_size=None),
    "DataLoader without labels": lambda a, folder: DataLoader(Stream(tensor(a)), batch_size=2),
    "IterableDataset of images": lambda a, folder: Stream(list(tensor(a))),
    "IterableDataset of pairs": lambda a, folder: Stream([(x, 0) for x in tensor(a)]),
    "generator of arrays": lambda a, folder: (x for x in a),
    "generator of (array, label)": lambda a, folder: ((x, "good") for x in a),
    "DataLoader of dicts": lambda a, folder: DataLoader(
        [{"image": x, "label": 1} for x in tensor(a)], batch_size=2
    ),
    "DataLoader of dicts of paths": lambda a, folder: DataLoader(
        [{"image_path": x, "label": 1} for x in save(a, folder)], batch_size=2
    ),
    "DataLoader of lists of dicts": lambda a, folder: DataLoader(
        [{"image": Image.fromarray(x)} for x in a], batch_size=2, collate_fn=list
    ),
    "DataLoader of lists of pairs": lambda a, folder: DataLoader(
        [(Image.fromarray(x), 1) for x in a], batch_size=2, collate_fn=list
    ),
    "DataLoader of dicts of lists": lambda a, folder: DataLoader(
        list(a), batch_size=2, collate_fn=lambda batch: {"image": list(batch)}
    ),
    "DataLoader of dicts without batches": lambda a, folder: DataLoader(
        [{"image": x} for x in tensor(a)], batch_size=None
    ),
    "rows of a data set": lambda a, folder: Rows({"label": 1, "image": x} for x in a),
    "generator of paths": lambda a, folder: iter(save(a, folder)),
    "generator of numpy batches": lambda a, folder: (a[i : i + 2] for i in range(0, len(a), 2)),
}


@pytest.mark.parametrize("form", (SIZED | UNSIZED).values(), ids=SIZED | UNSIZED)
def test_all_forms_give_the_same_pixels(form, tmp_path):
    np.testing.assert_array_equal(pixels(form(COLOR, tmp_path)), unit(COLOR))


@pytest.mark.parametrize("form", SIZED.values(), ids=SIZED)
def test_number_of_images_is_known_beforehand(form, tmp_path):
    assert ImageStream(form(COLOR, tmp_path)).n_images == len(COLOR)


@pytest.mark.parametrize("name", UNSIZED)
def test_number_of_images_is_known_of_loaders_that_batch_a_dataset_only(name, tmp_path):
    stream = ImageStream(UNSIZED[name](COLOR[:1], tmp_path))
    known = name.startswith("DataLoader") and "without" not in name
    assert stream.n_images == (1 if known else None)
    assert len(list(stream)) == 1


@pytest.mark.parametrize(("drop_last", "n_images"), [(False, 5), (True, 4)])
def test_number_of_images_of_a_loader_allows_for_drop_last(drop_last, n_images):
    images = [(x, 0) for x in torch.zeros(5, 3, 8, 9)]
    stream = ImageStream(DataLoader(images, batch_size=2, drop_last=drop_last))
    assert stream.n_images == len(list(stream)) == n_images


def test_opened_file_is_read(tmp_path):
    with Image.open(save(COLOR, tmp_path)[0]) as image:
        np.testing.assert_array_equal(pixels([image]), unit(COLOR[:1]))


def test_iterable_dataset_with_a_length_is_streamed():
    np.testing.assert_array_equal(pixels(SizedStream(tensor(COLOR))), unit(COLOR))


@pytest.mark.parametrize("kind", ["PIL images", "paths"])
def test_loader_without_batching_gives_images_of_pairs(kind, tmp_path):
    images = [Image.fromarray(x) for x in COLOR] if kind == "PIL images" else save(COLOR, tmp_path)
    loader = DataLoader(Pairs(images), batch_size=None)
    assert isinstance(next(iter(loader)), list)
    np.testing.assert_array_equal(pixels(loader), unit(COLOR))


@pytest.mark.parametrize("kind", ["arrays", "tensors"])
def test_ambiguous_lists_of_arrays_are_refused(kind):
    images = list(COLOR) if kind == "arrays" else list(tensor(COLOR))
    with pytest.raises(ValueError, match="may be a batch or an image with its mask"):
        read(DataLoader(images, batch_size=2, collate_fn=list))


def test_alpha_warns_once_per_stream():
    with pytest.warns(UserWarning, match="alpha") as caught:
        read(np.zeros((5, 8, 9, 4), np.uint8))
    assert len(caught) == 1
    assert "image 0" in str(caught[0].message)


def test_batches_that_are_lists_of_pil_images_are_taken_apart():
    loader = DataLoader(Stream([Image.fromarray(x) for x in COLOR]), 2, collate_fn=list)
    np.testing.assert_array_equal(pixels(loader), unit(COLOR))


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(GRAY, id="numpy (N, H, W)"),
        pytest.param(GRAY[..., None], id="numpy (N, H, W, 1)"),
        pytest.param(torch.from_numpy(GRAY)[:, None], id="torch (N, 1, H, W)"),
        pytest.param(list(GRAY), id="list of (H, W)"),
        pytest.param(list(GRAY[..., None]), id="list of (H, W, 1)"),
        pytest.param(list(torch.from_numpy(GRAY)), id="list of (H, W) tensors"),
        pytest.param([Image.fromarray(x) for x in GRAY], id="list of PIL images"),
    ],
)
def test_gray_images_keep_one_channel(X):
    np.testing.assert_array_equal(pixels(X), unit(GRAY))


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda a, folder: a, id="numpy (N, H, W, 4)"),
        pytest.param(lambda a, folder: tensor(a), id="torch (N, 4, H, W)"),
        pytest.param(lambda a, folder: [Image.fromarray(x) for x in a], id="PIL images"),
        pytest.param(save, id="files"),
    ],
)
def test_alpha_is_dropped_with_a_warning_that_names_the_image(form, tmp_path):
    array = pictures(1, channels=4)
    with pytest.warns(UserWarning, match=r"image 0.*alpha channel is dropped"):
        given = pixels(form(array, tmp_path))
    np.testing.assert_array_equal(given, unit(array[..., :3]))


def test_list_may_mix_sizes_and_types(tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(COLOR[0, :9]).save(path)
    images = read([GRAY[0], torch.zeros(3, 20, 7), path, Image.new("L", (4, 6)), str(path)])
    assert [image.size for image in images] == [(12, 15), (20, 7), (9, 15), (6, 4), (9, 15)]
    assert [len(image.pixels) for image in images] == [1, 3, 3, 1, 3]
    assert [image.path for image in images] == [None, None, str(path), None, str(path)]
    assert images[1].label == "image 1"
    assert images[2].label == f"image 2 ({path})"


def test_folder_gives_all_images_below_it_sorted_by_path(tmp_path):
    names = ["b/z.png", "b/deep/er/a.TIF", "a.bmp", "c.Png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(GRAY[0]).save(tmp_path / name)
    for other in ["notes.txt", "b/labels.csv", "png", "c.png.bak"]:
        (tmp_path / other).write_text("no image")
    stream = ImageStream(tmp_path)
    assert stream.n_images == 4
    assert [image.path for image in stream] == sorted(str(tmp_path / name) for name in names)


def test_folder_with_an_image_suffix_is_no_image(tmp_path):
    (tmp_path / "shots.png").mkdir()
    (path,) = save(GRAY[:1], tmp_path / "shots.png")
    assert [image.path for image in read(tmp_path)] == [path]


def test_collection_can_be_read_twice():
    stream = ImageStream(COLOR)
    assert len(list(stream)) == len(list(stream)) == 3


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (np.uint8, 51, 0.2),
        (np.uint16, 13107, 0.2),
        (">u2", 13107, 0.2),
        (np.bool_, True, 1.0),
        (np.float16, 0.25, 0.25),
        (np.float32, 0.2, 0.2),
        (np.float64, 0.2, 0.2),
        (">f4", 0.2, 0.2),
    ],
)
def test_array_dtypes_are_scaled_to_the_unit_range(dtype, value, expected):
    (image,) = read(np.full((1, 4, 5), value, dtype=dtype))
    assert image.pixels.dtype == torch.float32
    assert image.dtype == np.dtype(dtype).name
    np.testing.assert_array_equal(image.pixels, np.float32(expected))


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (torch.uint8, 51, 0.2),
        (torch.uint16, 13107, 0.2),
        (torch.bool, True, 1.0),
        (torch.float16, 0.25, 0.25),
        (torch.bfloat16, 0.25, 0.25),
        (torch.float32, 0.2, 0.2),
        (torch.float64, 0.2, 0.2),
    ],
)
def test_tensor_dtypes_are_scaled_to_the_unit_range(dtype, value, expected):
    (image,) = read(torch.full((1, 3, 4, 5), value, dtype=dtype))
    assert image.pixels.dtype == torch.float32
    np.testing.assert_array_equal(image.pixels, np.float32(expected))


def test_gradients_of_a_tensor_are_dropped():
    (image,) = read(torch.full((1, 3, 4, 5), 0.5, requires_grad=True))
    assert not image.pixels.requires_grad


@pytest.mark.parametrize("extreme", [0, 255])
def test_extremes_of_a_dtype_are_allowed(extreme):
    (image,) = read(np.full((1, 4, 5), extreme, dtype=np.uint8))
    np.testing.assert_array_equal(image.pixels, extreme / 255)


def palette(transparency=None):
    image = Image.fromarray(COLOR[0]).quantize(16)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def colors(image):
    """RGB pixels (C, H, W) in [0, 1] of a PIL image, converted by PIL."""
    return unit(np.asarray(image.convert("RGB"))[None])[0]


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr", "HSV"])
def test_pil_color_modes_become_rgb(mode):
    image = Image.fromarray(COLOR[0]).convert(mode)
    np.testing.assert_array_equal(read([image])[0].pixels, colors(image))


def test_palette_colors_are_looked_up():
    np.testing.assert_array_equal(read([palette()])[0].pixels, colors(palette()))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(palette(transparency=0), id="P with transparency"),
        pytest.param(Image.fromarray(pictures(1, channels=2)[0]), id="LA"),
        pytest.param(Image.fromarray(pictures(1, channels=4)[0]), id="RGBA"),
    ],
)
def test_transparent_pil_modes_lose_alpha_with_a_warning(image):
    with pytest.warns(UserWarning, match="image 0: the alpha channel is dropped"):
        (given,) = read([image])
    np.testing.assert_array_equal(given.pixels, colors(image.convert("RGBA")))


@pytest.mark.parametrize("form", ["file", "object"])
@pytest.mark.parametrize(
    ("array", "mode", "dtype"),
    [
        (GRAY[0] > 127, "1", "bool"),
        (GRAY[0], "L", "uint8"),
        (GRAY[0].astype(np.uint16) * 257, "I;16", "uint16"),
        (GRAY[0].astype(np.float32) / np.float32(255), "F", "float32"),
    ],
)
def test_pil_gray_modes_keep_their_bit_depth(array, mode, dtype, form, tmp_path):
    image = Image.fromarray(array)
    assert image.mode == mode
    if form == "file":
        image.save(tmp_path / "gray.tif")
        image = tmp_path / "gray.tif"
    (given,) = read([image])
    assert given.dtype == dtype
    top = {"1": 1, "L": 255, "I;16": 65535, "F": 1}[mode]
    np.testing.assert_array_equal(given.pixels[0], array.astype(np.float32) / np.float32(top))


def test_32_bit_pil_image_within_16_bits_is_read_as_16_bit():
    (image,) = read([Image.fromarray(np.full((4, 5), 13107, dtype=np.int32))])
    assert image.dtype == "uint16"
    np.testing.assert_array_equal(image.pixels, np.float32(0.2))


ORIENTATIONS = {  # of the EXIF standard: stored pixels to upright ones
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def photograph(folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOR[0]).save(folder / "photo.png", exif=exif)
    return folder / "photo.png"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_orientation_is_applied(orientation, tmp_path):
    upright = ORIENTATIONS[orientation](COLOR[0])
    given = pixels([photograph(tmp_path, orientation)])
    np.testing.assert_array_equal(given, unit(upright[None]))


def test_exif_orientation_of_an_opened_file_is_applied(tmp_path):
    with Image.open(photograph(tmp_path, 6)) as image:
        assert read([image])[0].size == (WIDTH, HEIGHT)


# -- invalid collections --------------------------------------------------------------------------

NO_COLLECTION = {
    "None": (None, "expected images .* got NoneType"),
    "a number": (3, "expected images .* got int"),
    "empty list": ([], "at least one image, got none"),
    "empty tuple": ((), "at least one image, got none"),
    "empty array": (np.zeros((0, 8, 9), np.uint8), "at least one image, got none"),
    "empty tensor": (torch.zeros(0, 3, 8, 9), "at least one image, got none"),
    "empty object array": (np.array([], dtype=object), "at least one image, got none"),
    "a scalar array": (np.zeros(()), r"got shape \(\)"),
    "numbers, 1-D": (np.zeros(4), r"got shape \(4,\)"),
    "a table": (np.zeros((10, 4)), r"got shape \(10, 4\)\. A table .* does not hold images"),
    "5-D array": (np.zeros((1, 2, 8, 9, 3)), r"got shape \(1, 2, 8, 9, 3\)"),
    "2-D tensor": (torch.zeros(8, 9), r"expected a tensor \(N, C, H, W\), got shape \(8, 9\)"),
    "5-D tensor": (torch.zeros(1, 2, 3, 8, 9), r"got shape \(1, 2, 3, 8, 9\)"),
    "one color array": (COLOR[0], r"looks like one color image\. Pass X\[None\]"),
    "one gray array": (GRAY[0], r"got shape \(12, 15\)"),
    "one tensor": (tensor(COLOR[0]), r"One image\? Pass X\[None\]"),
    "one PIL image": (Image.new("L", (9, 8)), r"got one PIL image\. Pass \[image\]"),
    "channels first array": (tensor(COLOR).numpy(), r"looks channels first.*transpose"),
    "channels last tensor": (torch.from_numpy(COLOR), r"looks channels last.*permute"),
}


@pytest.mark.parametrize(("X", "message"), NO_COLLECTION.values(), ids=NO_COLLECTION)
def test_invalid_collection_is_refused_on_construction(X, message):
    with pytest.raises(ValueError, match=message):
        ImageStream(X)


@pytest.mark.parametrize(
    "X",
    [
        pytest.param(iter([]), id="iterator"),
        pytest.param(Pairs([]), id="Dataset"),
        pytest.param(DataLoader(Pairs([]), batch_size=2), id="DataLoader"),
    ],
)
def test_empty_stream_is_refused(X):
    with pytest.raises(ValueError, match="at least one image, got none"):
        read(X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        pytest.param(lambda folder: folder / "nowhere", "does not exist", id="missing"),
        pytest.param(lambda folder: folder, "no image files below", id="empty"),
        pytest.param(
            lambda folder: save(GRAY[:1], folder)[0], r"got the file .*0\.png.*\[path\]", id="file"
        ),
    ],
)
def test_path_that_is_no_folder_of_images_is_refused_on_construction(make, message, tmp_path):
    X = make(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        ImageStream(X)
    assert str(X) in str(caught.value)


# -- invalid images -------------------------------------------------------------------------------


def with_pixel(value, at=(2, 3)):
    image = np.full((HEIGHT, WIDTH), 0.5)
    image[at] = value
    return image


BAD = {
    "NaN": (with_pixel(np.nan), r"NaN or infinity, first at index \(2, 3\)"),
    "infinity": (with_pixel(np.inf), r"NaN or infinity, first at index \(2, 3\)"),
    "minus infinity": (with_pixel(-np.inf), r"NaN or infinity, first at index \(2, 3\)"),
    "float16 NaN": (with_pixel(np.nan).astype(np.float16), "NaN or infinity"),
    "bfloat16 NaN": (torch.from_numpy(with_pixel(np.nan)).bfloat16(), "NaN or infinity"),
    "floats above 1": (with_pixel(200.0), r"in \[0, 1\], got \[0\.5, 200\].* Divide by 255"),
    "negative floats": (with_pixel(-2.5), r"in \[0, 1\], got \[-2\.5, 0\.5\]"),
    "int64": (GRAY[0].astype(np.int64), r"got int64.*astype\(numpy\.uint8\)"),
    "int8": (GRAY[0].astype(np.int8), "got int8"),
    "int64 tensor": (torch.from_numpy(GRAY[0]).long(), "got int64"),
    "complex": (GRAY[0].astype(np.complex64), "got complex64"),
    "complex tensor": (torch.zeros(3, 8, 9, dtype=torch.complex64), "got complex64"),
    "objects": (GRAY[0].astype(object), "got object"),
    "32-bit gray PIL": (Image.fromarray(np.full((8, 9), 70000, np.int32)), "got int32"),
    "no rows": (np.zeros((0, 9, 3), np.uint8), r"got the empty shape \(0, 9, 3\)"),
    "no columns": (torch.zeros(3, 8, 0), r"got the empty shape \(3, 8, 0\)"),
    "a vector": (np.zeros(9), r"got shape \(9,\)"),
    "4-D array": (
        COLOR,
        r"expected one image \(H, W\) or \(H, W, C\), got shape \(3, 12, 15, 3\)",
    ),
    "4-D tensor": (tensor(COLOR), r"expected one image \(C, H, W\), got shape \(3, 3, 12, 15\)"),
    "two channels": (np.zeros((8, 9, 2), np.uint8), r"last axis, got shape \(8, 9, 2\)"),
    "five channels": (torch.zeros(5, 8, 9), r"first axis, got shape \(5, 8, 9\)"),
    "channels first array": (np.zeros((3, 8, 9)), r"last axis, got shape \(3, 8, 9\)"),
    "channels last tensor": (torch.zeros(8, 9, 3), r"first axis, got shape \(8, 9, 3\)"),
    "nested lists": (GRAY[0].tolist(), r"got list\. Nested lists\? Pass numpy\.asarray"),
    "None": (None, "got NoneType"),
    "a number": (7, "got int"),
    "bytes": (b"1234", "got bytes"),
    "too few rows": (np.zeros((7, 9), np.uint8), "at least 8 pixels per side .* got 7 x 9"),
    "too few columns": (np.zeros((9, 7), np.uint8), "at least 8 pixels per side .* got 9 x 7"),
}


@pytest.mark.parametrize(("bad", "message"), BAD.values(), ids=BAD)
def test_invalid_image_is_named_by_its_index(bad, message):
    stream = iter(ImageStream([GRAY[0], GRAY[1], bad, GRAY[2]], min_side=8))
    assert [next(stream).label, next(stream).label] == ["image 0", "image 1"]
    with pytest.raises(ValueError, match=rf"image 2: .*{message}"):
        next(stream)


@pytest.mark.parametrize("form", ["array", "Dataset", "generator"])
def test_invalid_image_is_named_in_every_form_of_collection(form):
    array = np.full((4, 8, 9), 0.5)
    array[2, 0, 0] = np.nan
    X = {"array": array, "Dataset": Pairs(array), "generator": (x for x in array)}[form]
    with pytest.raises(ValueError, match="image 2: holds NaN"):
        read(X)


def test_invalid_image_in_a_batch_is_named_by_its_own_index():
    array = torch.full((5, 3, 8, 9), 0.5)
    array[3, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match="image 3: holds NaN or infinity"):
        read(DataLoader(Pairs(array), batch_size=2))


def test_channels_of_an_array_are_checked():
    with pytest.raises(ValueError, match=r"image 0: .*last axis, got shape \(8, 9, 5\)"):
        read(np.zeros((2, 8, 9, 5), np.uint8))


def test_masked_pixels_are_refused():
    array = np.ma.masked_array(GRAY, mask=GRAY > 99)
    with pytest.raises(ValueError, match="X: masked"):
        ImageStream(array)
    with pytest.raises(ValueError, match="image 1: masked"):
        read([GRAY[0], array[1]])


def test_lazily_negated_tensor_is_read():
    np.testing.assert_array_equal(pixels(torch.full((1, 3, 4, 5), -0.5)._neg_view()), 0.5)


def test_sparse_tensor_is_refused():
    with pytest.raises(ValueError, match=r"image 1: expected a dense tensor.*to_dense"):
        read([GRAY[0], torch.eye(9).to_sparse()])


def test_floats_beyond_the_range_by_rounding_are_clipped():
    (image,) = read(np.array([[[-5e-7, 1 + 5e-7]]]))
    assert image.pixels.flatten().tolist() == [0, 1]


@pytest.mark.parametrize("value", [1.00001, -0.00001])
def test_floats_further_outside_are_reported_with_enough_digits(value):
    with pytest.raises(ValueError, match=re.escape(f"{value:g}")):
        read(with_pixel(value)[None])


def cut_short(path, keep=0.5):
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])


def noise_file(path, **options):
    """An incompressible image, so that half of the file is half of the image."""
    Image.fromarray(pictures(1)[0].repeat(8, 0).repeat(8, 1)).save(path, **options)


def truncated(name):
    def make(folder):
        noise_file(folder / name)
        cut_short(folder / name)
        return folder / name

    return make


def written(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def animation(folder):
    frames = [Image.new("L", (9, 8), level) for level in (0, 200)]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    return folder / "film.gif"


def huge_claim(folder):
    """A small file whose header claims 100,000 x 100,000 pixels."""
    noise_file(folder / "bomb.bmp")
    content = bytearray((folder / "bomb.bmp").read_bytes())
    content[18:26] = (100_000).to_bytes(4, "little") * 2
    (folder / "bomb.bmp").write_bytes(content)
    return folder / "bomb.bmp"


BAD_FILES = {
    "missing": (
        lambda folder: folder / "missing.png",
        "cannot be read as an image: .*No such file",
    ),
    "truncated PNG": (truncated("cut.png"), "cannot be read as an image"),
    "truncated JPEG": (truncated("cut.jpg"), "cannot be read as an image"),
    "truncated BMP": (truncated("cut.bmp"), "cannot be read as an image"),
    "truncated TIFF": (truncated("cut.tif"), "cannot be read as an image"),
    "text called .png": (written("text.png", b"hello"), "cannot be read as an image"),
    "zero bytes": (written("zero.png", b""), "cannot be read as an image"),
    "animated GIF": (animation, "expected one image in the file, got 2 frames"),
    "decompression bomb": (huge_claim, "cannot be read as an image"),
    "a folder": (lambda folder: folder, "expected a file, got a folder"),
}


@pytest.mark.parametrize(("make", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_file_is_named_by_index_and_path(make, message, tmp_path):
    path = make(tmp_path)
    with pytest.raises(ValueError, match=rf"image 1 \({re.escape(str(path))}\): {message}"):
        read([GRAY[0], path, GRAY[1]])


def test_bad_file_in_a_folder_is_named(tmp_path):
    save(GRAY, tmp_path)
    cut_short(tmp_path / "1.png")
    with pytest.raises(ValueError, match=rf"image 1 \({re.escape(str(tmp_path))}.1\.png\)"):
        read(tmp_path)


def test_truncated_opened_file_is_named(tmp_path):
    with Image.open(truncated("cut.png")(tmp_path)) as image:
        with pytest.raises(ValueError, match="image 1: cannot be read as an image"):
            read([GRAY[0], image])


def test_empty_path_is_not_the_current_folder(tmp_path, monkeypatch):
    save(GRAY, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="got an empty string"):
        ImageStream("")


# -- errors passed on -----------------------------------------------------------------------------


def test_unreadable_file_is_a_permission_error(tmp_path, monkeypatch):
    def forbidden(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    paths = save(GRAY, tmp_path)
    monkeypatch.setattr(Image, "open", forbidden)
    with pytest.raises(PermissionError):
        read(paths)


@pytest.mark.parametrize("error", [PermissionError, MemoryError, KeyError, KeyboardInterrupt])
def test_errors_of_the_callers_stream_are_passed_on(error):
    def stream():
        yield GRAY[0]
        raise error("mine")

    with pytest.raises(error, match="mine"):
        read(stream())


# -- skipping -------------------------------------------------------------------------------------

NAN = np.full((HEIGHT, WIDTH), np.nan)


class Failing(Dataset):
    """Item 1 raises an error."""

    def __init__(self, error, n=4):
        self.error, self.n = error, n

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        if index == 1 or self.n == 1:
            raise self.error
        return {"image": GRAY[0], "label": index}


def test_unreadable_images_are_skipped_and_listed(tmp_path):
    paths = save(GRAY, tmp_path)
    cut_short(tmp_path / "1.png")
    stream = ImageStream(tmp_path, on_error="skip")
    assert stream.n_images == 3
    assert [(image.index, image.path) for image in stream] == [(0, paths[0]), (2, paths[2])]
    (skipped,) = stream.skipped
    assert (skipped.index, skipped.path) == (1, paths[1])
    assert skipped.reason.startswith(f"image 1 ({paths[1]}): cannot be read as an image: ")


@pytest.mark.parametrize(
    ("X", "indices"),
    [
        pytest.param([GRAY[0], NAN, None, GRAY[1]], [1, 2], id="list"),
        pytest.param((x for x in [NAN, GRAY[0], GRAY[0][:7], GRAY[1]]), [0, 2], id="generator"),
        pytest.param(np.stack([GRAY[0] / 255, NAN]), [1], id="array"),
        pytest.param(
            DataLoader([(torch.from_numpy(x)[None], 0) for x in (GRAY[0] / 255, NAN, NAN, NAN + 1)],
                       batch_size=3), [1, 2, 3], id="batches of a DataLoader",
        ),
        pytest.param(pd.Series([GRAY[0], "nowhere.png"]), [1], id="Series"),
        pytest.param([{"image": GRAY[0]}, {"photo of": GRAY[0]}], [1], id="dicts"),
    ],
)  # fmt: skip
def test_skipping_is_the_same_in_every_form_of_collection(X, indices):
    stream = ImageStream(X, min_side=8, on_error="skip")
    read_ones = [image.index for image in stream]
    assert [skipped.index for skipped in stream.skipped] == indices
    assert sorted(read_ones + indices) == list(range(len(read_ones) + len(indices)))


@pytest.mark.parametrize(
    "error",
    [ValueError("broken"), OSError("broken"), PermissionError(13, "broken"), RuntimeError("broken"),
     MemoryError("broken"), SyntaxError("broken"), Image.DecompressionBombError("broken")],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_items_of_a_data_set_that_cannot_be_read_are_skipped(error):
    stream = ImageStream(Failing(error), on_error="skip")
    assert [image.index for image in stream] == [0, 2, 3]
    assert stream.skipped[0].index == 1
    assert stream.skipped[0].reason.startswith("image 1: ")
    assert "broken" in stream.skipped[0].reason
    with pytest.raises(type(error)) as caught:
        read(Failing(error))
    assert caught.value is error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), KeyError("mine"), IndexError(), TypeError()]
)
def test_other_errors_of_a_data_set_are_never_skipped(error):
    with pytest.raises(type(error)) as caught:
        read(Failing(error), on_error="skip")
    assert caught.value is error


def test_generator_that_fails_is_not_skipped():
    def stream():
        yield GRAY[0]
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        read(stream(), on_error="skip")


def test_file_without_permission_or_memory_is_skipped(tmp_path, monkeypatch):
    paths, opened = save(GRAY, tmp_path), Image.open

    def failing(file, **options):
        if file.name == paths[0]:
            raise PermissionError(13, "Permission denied", paths[0])
        if file.name == paths[1]:
            raise MemoryError
        return opened(file, **options)

    monkeypatch.setattr(Image, "open", failing)
    stream = ImageStream(paths, on_error="skip")
    assert [image.index for image in stream] == [2]
    assert [(index, path) for index, path, _ in stream.skipped] == [(0, paths[0]), (1, paths[1])]
    assert "Permission denied" in stream.skipped[0].reason
    assert stream.skipped[1].reason == f"image 1 ({paths[1]}): MemoryError"


def test_stream_of_which_all_is_skipped_is_refused():
    stream = ImageStream([NAN, None, NAN[:3], NAN], on_error="skip")
    with pytest.raises(ValueError, match=r"none of 4 images can be read\. image 0: holds.*\.\.\.$"):
        list(stream)
    assert len(stream.skipped) == 4
    with pytest.raises(ValueError, match=r"none of 1 images .* image 0: broken$"):
        read(Failing(OSError("broken"), n=1), on_error="skip")


@pytest.mark.parametrize("X", [[], np.zeros(4), "nowhere", None, iter([])])
def test_what_is_no_collection_is_refused_even_so(X):
    with pytest.raises(ValueError, match=r"^X: "):
        read(X, on_error="skip")


def test_list_of_skipped_images_is_that_of_the_latest_iteration():
    stream = ImageStream([NAN, GRAY[0]], on_error="skip")
    assert stream.skipped == []
    for _ in range(2):
        assert len(list(stream)) == len(stream.skipped) == 1


def test_unknown_way_to_treat_errors_is_refused():
    with pytest.raises(ValueError, match="on_error: expected one of 'raise', 'skip', got 'ignore'"):
        ImageStream(GRAY, on_error="ignore")


def test_stream_of_a_stream_takes_the_stricter_side_and_shares_what_is_skipped():
    small = [GRAY[0], GRAY[1][:9], NAN]
    inner = ImageStream(small, min_side=4, on_error="skip")
    outer = ImageStream(inner, min_side=10)
    assert (outer.n_images, outer.min_side, outer.on_error) == (3, 10, "skip")
    assert [image.index for image in outer] == [0]
    assert [skipped.index for skipped in inner.skipped] == [1, 2]
    assert ImageStream(ImageStream(small, min_side=10), min_side=4).min_side == 10
    assert ImageStream(ImageStream(small), on_error="skip").on_error == "skip"
    with pytest.raises(ValueError, match="image 1: expected at least 10"):
        read(ImageStream(small), min_side=10)


@pytest.mark.parametrize("form", ["folder", "list", "stream", "batches"])
def test_index_of_an_image_is_its_place(form, tmp_path):
    X = {
        "folder": save(GRAY, tmp_path) and tmp_path, "list": list(GRAY), "stream": iter(GRAY),
        "batches": DataLoader(list(torch.from_numpy(GRAY)[:, None]), batch_size=2),
    }[form]  # fmt: skip
    assert [image.index for image in read(X)] == [0, 1, 2]


# -- streaming ------------------------------------------------------------------------------------


def test_generator_is_not_read_ahead():
    pulled = []
    images = iter(ImageStream(pulled.append(i) or GRAY[0] for i in range(10)))
    for count in range(1, 5):
        next(images)
        assert len(pulled) == count


def test_dataset_is_not_read_ahead():
    data = Pairs(COLOR)
    images = iter(ImageStream(data))
    assert data.read == []
    next(images)
    assert data.read == [0]


def test_files_are_opened_one_at_a_time(tmp_path):
    paths = save(COLOR, tmp_path)
    images = iter(ImageStream(tmp_path))
    next(images)
    (tmp_path / "2.png").unlink()
    next(images)
    with pytest.raises(ValueError, match=re.escape(paths[2])):
        next(images)


# -- range of values ------------------------------------------------------------------------------


def checked(array):
    (image,) = read([np.asarray(array)])
    return image


def seen(*arrays):
    values = ValueRange()
    for array in arrays:
        values.learn(checked(array))
    return values


BRIGHT = np.linspace(0, 1, 80).reshape(8, 10)  # floats over the whole range
BYTES = (BRIGHT * 255).astype(np.uint8)
TWELVE_BIT = (BRIGHT * 4095).astype(np.uint16)


@pytest.mark.parametrize(
    ("at_fit", "at_scoring"),
    [
        pytest.param(BRIGHT, BRIGHT / 255, id="floats divided twice"),
        pytest.param(BYTES, BRIGHT / 255, id="bytes, then floats divided twice"),
        pytest.param(TWELVE_BIT, BYTES, id="12 bits in uint16, then uint8"),
        pytest.param(TWELVE_BIT, BRIGHT, id="12 bits in uint16, then floats"),
        pytest.param(BYTES, BYTES.astype(np.uint16), id="bytes, then bytes kept in uint16"),
        pytest.param(BYTES > 127, BYTES.astype(np.uint16), id="a mask, then bytes in uint16"),
        pytest.param(BRIGHT / 255, BRIGHT, id="floats divided twice at fit only"),
    ],
)
def test_images_scaled_differently_than_at_fit_are_refused(at_fit, at_scoring):
    mistake = seen(at_fit).mistake(checked(at_scoring))
    assert "Scale both the same way" in mistake
    assert np.asarray(at_fit).dtype.name in mistake
    assert np.asarray(at_scoring).dtype.name in mistake


@pytest.mark.parametrize(
    ("at_fit", "at_scoring"),
    [
        pytest.param(BRIGHT, BRIGHT, id="the same"),
        pytest.param(BYTES, BRIGHT, id="bytes, then floats"),
        pytest.param(BRIGHT, BYTES, id="floats, then bytes"),
        pytest.param(BYTES, BYTES.astype(np.uint16) * 257, id="bytes, then 16 bits"),
        pytest.param(BYTES, BYTES // 200, id="dark bytes"),
        pytest.param(BYTES // 200, BYTES, id="dark field bytes, then bright ones"),
        pytest.param(BYTES // 5, BRIGHT, id="dark bytes, then floats five times brighter"),
        pytest.param(BRIGHT / 20, BRIGHT, id="dark field floats, then bright ones"),
        pytest.param(TWELVE_BIT // 64, TWELVE_BIT * 16, id="uint16, then brighter uint16"),
        pytest.param(BRIGHT, BRIGHT / 10, id="darker floats"),
        pytest.param(BRIGHT, np.zeros((8, 10)), id="a black float image"),
        pytest.param(BYTES, np.zeros((8, 10)), id="a black image of another dtype"),
        pytest.param(BYTES, np.full((8, 10), 1e-4), id="a constant image"),
        pytest.param(np.zeros((8, 10)), BRIGHT, id="all black at fit"),
        pytest.param(BRIGHT.astype(np.float32), BRIGHT, id="float32, then float64"),
    ],
)
def test_images_that_the_same_scaling_explains_are_accepted(at_fit, at_scoring):
    assert seen(at_fit).mistake(checked(at_scoring)) is None


def test_brightest_image_of_fit_counts():
    values = seen(BRIGHT / 255, BRIGHT, BYTES // 2)
    assert values.highest == 1
    assert values.mean == pytest.approx(0.5)
    assert values.median == pytest.approx(0.5, abs=0.01)
    assert values.dtypes == {"float64", "uint8"}
    assert "float64, uint8" in values.mistake(checked(BRIGHT / 255))


DARK_FIELD = BRIGHT / 400
SPOT = np.where(np.arange(80).reshape(8, 10) == 37, 1, DARK_FIELD)
LAMP_OFF = np.random.default_rng(0).uniform(0, 1e-3, (8, 10))


@pytest.mark.parametrize(
    ("at_fit", "at_scoring"),
    [
        pytest.param(DARK_FIELD, SPOT, id="a bright defect on a dark field"),
        pytest.param(
            (DARK_FIELD * 65535).astype(np.uint16), SPOT, id="a bright defect in another dtype"
        ),
        pytest.param(
            BRIGHT / 4e4, np.maximum(SPOT == 1, BRIGHT / 4e4), id="a defect on a very dark field"
        ),
        pytest.param(SPOT, DARK_FIELD, id="a dark field without its highlight"),
        pytest.param(BRIGHT, np.where(SPOT == 1, 0.5, LAMP_OFF), id="a lamp off, a pixel stuck"),
    ],
)
def test_anomaly_of_a_part_of_the_image_is_no_mistake_of_scale(at_fit, at_scoring):
    assert seen(at_fit).mistake(checked(at_scoring)) is None


def test_mistake_of_scale_is_noticed_over_a_black_ground():
    digit = np.where(BRIGHT > 0.8, BRIGHT, 0)
    assert "Scale both" in seen(digit).mistake(checked(digit / 255))
    assert "Scale both" in seen(digit / 255).mistake(checked(digit))
    assert seen(digit).mistake(checked(digit / 10)) is None


def test_mistake_of_scale_is_told_without_the_name_of_the_image():
    mistake = seen(BRIGHT).mistake(checked(LAMP_OFF))
    assert mistake.startswith("its float64 values reach 0.00")
    assert mistake.endswith("(float64) 1. Scale both the same way.")


# -- network input --------------------------------------------------------------------------------

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 0.2)


def network_input(image_size=(HEIGHT, WIDTH), center_crop=None):
    return NetworkInput(image_size, MEAN, STD, patch_size=1, center_crop=center_crop)


def normalized(array):
    """(B, 3, H, W) minus the mean, divided by the standard deviation, by channel."""
    planes = [(array[:, c] - MEAN[c]) / STD[c] for c in range(3)]
    return np.stack(planes, axis=1)


def test_batch_is_normalized_by_channel():
    batch = network_input().batch(read(COLOR))
    assert batch.dtype == torch.float32
    np.testing.assert_allclose(batch, normalized(unit(COLOR)), rtol=1e-5, atol=1e-6)


def test_batch_is_channels_last_in_memory():
    batch = network_input((10, 8)).batch(read(COLOR))
    assert batch.shape == (3, 3, 10, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(6, 7), (20, 24), (6, 24), (HEIGHT, 30)])
def test_batch_is_resized_with_antialiasing(size):
    batch = network_input(size).batch(read(COLOR))
    resized = F.interpolate(
        torch.from_numpy(unit(COLOR)), size, mode="bilinear", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(batch, normalized(resized.numpy()), rtol=1e-4, atol=1e-5)


def test_images_of_the_right_size_are_not_resampled():
    batch = NetworkInput((HEIGHT, WIDTH), (0, 0, 0), (1, 1, 1), 1).batch(read(COLOR))
    np.testing.assert_array_equal(batch, unit(COLOR))


def test_batch_may_mix_sizes_and_channels():
    images = read([GRAY[0], COLOR[0], np.full((40, 9, 3), 0.5)])
    batch = network_input((16, 16)).batch(images)
    alone = [network_input((16, 16)).batch([image]) for image in images]
    np.testing.assert_array_equal(batch, torch.cat(alone))


def test_gray_channel_is_repeated():
    batch = network_input().batch(read(GRAY))
    np.testing.assert_allclose(
        batch, normalized(unit(GRAY).repeat(3, axis=1)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("crop", "top", "left"), [((8, 7), 2, 4), ((12, 4), 0, 5), ((7, 15), 2, 0)]
)
def test_center_crop_keeps_the_center(crop, top, left):
    cropped = network_input(center_crop=crop)
    batch = cropped.batch(read(COLOR))
    expected = normalized(unit(COLOR))[:, :, top : top + crop[0], left : left + crop[1]]
    np.testing.assert_allclose(batch, expected, rtol=1e-5, atol=1e-6)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert cropped.seen_size == crop
    assert cropped.crop_offset == (top, left)


def test_without_a_crop_the_whole_image_is_kept():
    assert network_input().seen_size == (HEIGHT, WIDTH)
    assert network_input().crop_offset == (0, 0)


def test_raw_input_is_cropped_but_not_normalized():
    raw = NetworkInput.raw((HEIGHT, WIDTH), center_crop=6)
    np.testing.assert_array_equal(raw.batch(read(COLOR)), unit(COLOR)[:, :, 3:9, 4:10])
    assert NetworkInput.raw(20).image_size == (20, 20)
    for crop in (-1, 0, ()):
        with pytest.raises(ValueError, match="center_crop: expected a positive int"):
            NetworkInput.raw(20, center_crop=crop)


@pytest.mark.parametrize("crop", [(13, 15), (12, 16)])
def test_crop_larger_than_the_image_is_refused(crop):
    with pytest.raises(
        ValueError, match=r"center_crop: expected .* image_size \(12, 15\), got \(1"
    ):
        network_input(center_crop=crop)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_, np.float32, np.float64])
def test_callers_pixels_are_never_changed(dtype):
    array = (COLOR > 127).astype(dtype)
    before = array.copy()
    for X in (array, torch.from_numpy(array).permute(0, 3, 1, 2), list(array)):
        images = read(X)
        network_input().batch(images).zero_()
        for image in images:
            image.pixels.zero_()  # pixels are copies: no view of the caller's memory
        np.testing.assert_array_equal(array, before)


def test_read_only_images_are_read():
    array = np.broadcast_to(np.float32(0.5), (2, 8, 9))
    assert not array.flags.writeable
    np.testing.assert_array_equal(pixels(array), np.float32(0.5))


def test_size_of_a_checked_image():
    assert CheckedImage(torch.zeros(3, 8, 9), "uint8", "image 0").size == (8, 9)


# -- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("X", "expected"),
    [
        (np.zeros((5, 3)), True),
        (np.zeros((5, 3), dtype=object), True),
        (torch.zeros(5, 3), True),
        ([[1.0, 2.0], [3.0, 4.0]], True),
        ([(1, 2), (3, 4)], True),
        ([np.zeros(3), np.zeros(3)], True),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), True),
        (pd.DataFrame({"a": [1.0]}), True),
        (pd.DataFrame({"a": []}), True),
        (pd.DataFrame({"path": ["a.png"]}), False),
        (pd.DataFrame({"image": [Image.new("L", (8, 8))]}), False),
        (pd.Series(["a.png"]), False),
        (np.zeros((5, 28, 28)), False),
        (np.zeros(5), False),
        (torch.zeros(5, 1, 28, 28), False),
        ([np.zeros((8, 8)), np.zeros((8, 8))], False),
        ([Image.new("L", (8, 8))], False),
        (["a.png", "b.png"], False),
        ([("a.png", 0), ("b.png", 1)], False),
        ([(np.zeros((8, 8)), 0)], False),
        (np.array([["a.png", "b.png"]]), False),
        ("folder", False),
        ([], False),
        (iter([np.zeros(3)]), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_tables_are_told_from_images(X, expected):
    assert is_table(X) is expected
