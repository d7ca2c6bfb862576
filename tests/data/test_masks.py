"""Masks: one reader for files, pictures and arrays; what would have to be guessed is refused."""

import io

import numpy as np
import pytest
import torch
from encoders import TURN, deep_png, encoded, exif_chunk, png, scanlines, tiff_file
from PIL import Image, ImageFilter
from scipy import ndimage

from anomalib_lite.data import AnomalyDataset, load_mvtec, read_mask
from anomalib_lite.metrics import aupro, average_precision, f1_max, image_auroc, pixel_auroc

TRUE = np.zeros((40, 56), dtype=bool)
TRUE[8:20, 10:30] = True
TRUE[30, 40:50] = True  # a thin line
BLOCK = np.zeros_like(TRUE)
BLOCK[8:20, 10:30] = True
EMPTY = np.zeros_like(TRUE)
CLASSES = np.where(TRUE, np.where(BLOCK, 1, 2), 0).astype(np.uint8)
FULL = TRUE * np.uint8(255)
SIZE = (56, 40)
WHITE = [255, 255, 255]


def palette(index, colors):
    picture = Image.fromarray(index.astype(np.uint8)).convert("L")
    picture = Image.frombytes("P", picture.size, index.astype(np.uint8).tobytes())
    picture.putpalette([value for color in colors for value in color])
    return picture


def blurred(mask, sigma):
    return np.rint(ndimage.gaussian_filter(mask * 255.0, sigma)).astype(np.uint8)


def supersampled(mask):
    """Edges of four shades, and the mask at half size."""
    return mask.reshape(20, 2, 28, 2).mean((1, 3))


def alpha(color, mask):
    return np.dstack([np.broadcast_to(np.uint8(color), (*mask.shape, 3)), mask * np.uint8(255)])


def file(array, kind="PNG", **options):
    return Image.open(io.BytesIO(encoded(array, kind, **options)))


def raw(data):
    return Image.open(io.BytesIO(data))


VOC = [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
RED = np.where(TRUE[..., None], np.uint8([128, 0, 0]), np.uint8(0))
TWO_COLORS = np.where(BLOCK[..., None], np.uint8([64, 0, 0]), 0) + np.where(
    (TRUE & ~BLOCK)[..., None], np.uint8([0, 64, 128]), 0
).astype(np.uint8)
HALF = supersampled(BLOCK) > 0.5
NOISE = np.random.default_rng(0).integers(0, 12, TRUE.shape, dtype=np.uint8)

PICTURES = {
    "1 bit": (file(TRUE), TRUE),
    "0 and 255": (file(FULL), TRUE),
    "0 and 1": (file(TRUE.astype(np.uint8)), TRUE),
    "0 and 100": (file(TRUE * np.uint8(100)), TRUE),
    "0 and 254": (file(TRUE * np.uint8(254)), TRUE),
    "empty": (file(EMPTY.astype(np.uint8)), EMPTY),
    "empty, 1 bit": (file(EMPTY), EMPTY),
    "all defective": (file(np.full((40, 56), 255, np.uint8)), ~EMPTY),
    "classes 1 and 2": (file(CLASSES), TRUE),
    "classes 40 and 80": (file(CLASSES * np.uint8(40)), TRUE),
    "classes 100 and 200": (file(CLASSES * np.uint8(100)), TRUE),
    "classes and void": (file(np.where(CLASSES == 2, 255, CLASSES).astype(np.uint8)), TRUE),
    "shades of full scale": (file(np.where(TRUE, 250 + CLASSES, 0).astype(np.uint8)), TRUE),
    "class ids in a palette": (palette(CLASSES, VOC), TRUE),
    "class ids in a palette, saved": (file(palette(CLASSES, VOC)), TRUE),
    "palette whose first color is white": (palette(CLASSES, [WHITE, *VOC[:3]]), TRUE),
    "palette whose first color is a shade": (palette(CLASSES, [[9, 9, 9], *VOC[1:]]), TRUE),
    "palette of one color": (palette(CLASSES, [[0, 0, 0]] * 4), TRUE),
    "palette with a transparent background": (
        file(palette(CLASSES, VOC), transparency=0), TRUE,
    ),
    "palette with transparent defects": (file(palette(CLASSES, VOC), transparency=1), TRUE),
    "palette of a gif": (file(palette(CLASSES, VOC), "GIF"), TRUE),
    "palette of a tiff": (file(palette(CLASSES, VOC), "TIFF"), TRUE),
    "palette of a bmp": (file(palette(CLASSES, VOC), "BMP"), TRUE),
    "soft edges in a palette of grays": (
        palette(blurred(BLOCK, 3), [[i, i, i] for i in range(256)]), blurred(BLOCK, 3) > 127,
    ),
    "palette of 1 bit": (file(palette(TRUE, VOC[:2]), bits=1), TRUE),
    "gif": (file(FULL, "GIF"), TRUE),
    "bmp": (file(FULL, "BMP"), TRUE),
    "tiff": (file(FULL, "TIFF"), TRUE),
    "fax": (file(TRUE, "TIFF", compression="group4"), TRUE),
    "pgm": (file(FULL, "PPM"), TRUE),
    "alpha is the defect": (file(alpha([0, 0, 0], TRUE)), TRUE),
    "alpha is the defect, white": (file(alpha(WHITE, TRUE)), TRUE),
    "alpha is the defect, over a photograph": (
        file(np.dstack([NOISE, NOISE * 20, NOISE, FULL])), TRUE,
    ),
    "alpha of 0 and 100": (file(alpha(WHITE, TRUE) // np.uint8([1, 1, 1, 2])), TRUE),
    "gray with alpha": (file(np.dstack([NOISE, FULL])), TRUE),
    "soft alpha": (
        file(np.dstack([NOISE] * 3 + [blurred(BLOCK, 2)])), blurred(BLOCK, 2) > 127,
    ),
    "opaque, gray is the defect": (file(np.dstack([FULL, np.full_like(FULL, 255)])), TRUE),
    "opaque, color is the defect": (file(np.dstack([RED, np.full_like(FULL, 255)])), TRUE),
    "transparent, color is the defect": (file(np.dstack([RED, np.full_like(FULL, 0)])), TRUE),
    "alpha of 16 bits": (
        raw(deep_png(np.dstack([TRUE * 0] * 3 + [TRUE * 65535]).astype(np.uint16), 6)), TRUE,
    ),
    "white": (file(np.dstack([FULL] * 3)), TRUE),
    "red": (file(RED), TRUE),
    "two colors": (file(TWO_COLORS), TRUE),
    "blue of full scale": (file(np.dstack([FULL * 0, FULL * 0, FULL])), TRUE),
    "white of 16 bits": (
        raw(deep_png(np.dstack([TRUE * 65535] * 3).astype(np.uint16), 2)), TRUE,
    ),
    "CMYK": (file(Image.fromarray(np.dstack([FULL] * 3)).convert("CMYK"), "TIFF"), TRUE),
    "blurred": (file(blurred(BLOCK, 2)), blurred(BLOCK, 2) > 127),
    "much blurred": (file(blurred(BLOCK, 3.5)), blurred(BLOCK, 3.5) > 127),
    "edges of four shades": (file((supersampled(BLOCK) * 255).astype(np.uint8)), HALF),
    "soft white": (file(np.dstack([blurred(BLOCK, 2)] * 3)), blurred(BLOCK, 2) > 127),
    "resized": (file(Image.fromarray(FULL).resize((112, 80), Image.Resampling.BILINEAR)),
                np.asarray(Image.fromarray(FULL).resize((112, 80), 2)) > 127),
    "jpeg": (file(FULL, "JPEG", quality=90), TRUE),
    "jpeg of low quality": (file(BLOCK * np.uint8(255), "JPEG", quality=30), BLOCK),
    "color jpeg": (file(np.dstack([BLOCK * np.uint8(255)] * 3), "JPEG", quality=90), BLOCK),
    "jpeg saved as png": (file(np.asarray(file(FULL, "JPEG", quality=95))), TRUE),
    "jpeg without defects": (file(NOISE // 3, "JPEG"), EMPTY),
    "jpeg of 0 and 1": (file(TRUE.astype(np.uint8), "JPEG", quality=98), EMPTY),
    "webp": (file(np.dstack([FULL] * 3), "WEBP", lossless=True), TRUE),
    "jpeg 2000": (file(FULL, "JPEG2000"), TRUE),
    "video levels": (file(np.where(TRUE, 235, 16).astype(np.uint8)), TRUE),
    "16 bits, 0 and 65535": (file(TRUE * np.uint16(65535)), TRUE),
    "16 bits, 0 and 255": (file(TRUE * np.uint16(255)), TRUE),
    "16 bits, 0 and 1": (file(TRUE * np.uint16(1)), TRUE),
    "16 bits, classes": (file(CLASSES * np.uint16(1000)), TRUE),
    "16 bits, blurred": (
        file(blurred(BLOCK, 2) * np.uint16(257)), blurred(BLOCK, 2) > 127,
    ),
    "16 bits, blurred up to 255": (
        file(blurred(BLOCK, 2).astype(np.uint16)), blurred(BLOCK, 2) > 127,
    ),
    "32 bits, classes": (file(CLASSES.astype(np.int32) * 70_000, "TIFF"), TRUE),
    "floats, 0 and 1": (file(TRUE.astype(np.float32), "TIFF"), TRUE),
    "floats, 0 and 255": (file(FULL.astype(np.float32), "TIFF"), TRUE),
    "floats, soft": (
        file((blurred(BLOCK, 2) / 255).astype(np.float32), "TIFF"), blurred(BLOCK, 2) > 127,
    ),
    "floats, classes": (file(CLASSES.astype(np.float32), "TIFF"), TRUE),
    "interlaced": (file(FULL, "GIF", interlace=1), TRUE),
    "with a thumbnail": (raw(tiff_file(FULL, (FULL[::4, ::4].copy(), {254: 1}))), TRUE),
    "turned": (raw(tiff_file((FULL, TURN))), np.rot90(TRUE, -1)),
    "turned png": (raw(png(scanlines(FULL), size=SIZE, extra=exif_chunk(8))), np.rot90(TRUE)),
    "a picture in memory": (Image.fromarray(FULL), TRUE),
    "a picture in memory, blurred": (
        Image.fromarray(BLOCK * np.uint8(255)).filter(ImageFilter.BoxBlur(2)), None,
    ),
}  # fmt: skip

BAD_PICTURES = {
    "two pages": (raw(tiff_file(FULL, FULL)), "2 frames"),
    "two frames": (
        file(FULL, "GIF", save_all=True, append_images=[Image.fromarray(255 - FULL)]), "2 frames",
    ),
    "faint soft edges": (file(blurred(BLOCK, 2) // 3), "values end at 8.* of 255. Soft edges"),
    "a dark gray": (file(np.full((40, 56), 16, np.uint8)), "values end at 16 of 255"),
    "floats with a NaN": (
        file(np.where(TRUE, np.nan, 0).astype(np.float32), "TIFF"), "finite values",
    ),
    "floats below zero": (file(-TRUE.astype(np.float32), "TIFF"), "from 0 on"),
    "ints below zero": (file(-TRUE.astype(np.int32), "TIFF"), "from 0 on"),
}  # fmt: skip

ARRAYS = {
    "bool": TRUE,
    "0 and 1": TRUE.astype(np.uint8),
    "0 and 255": FULL,
    "0 and 65535": TRUE * np.uint16(65535),
    "int64": TRUE.astype(int),
    "floats of 0 and 1": TRUE.astype(float),
    "floats of 0 and 255": TRUE * 255.0,
    "floats of 16 bits": TRUE.astype(np.float16),
    "big end first": TRUE.astype(">i4"),
    "a list": TRUE.astype(int).tolist(),
    "a tensor": torch.from_numpy(TRUE),
    "a tensor of floats": torch.from_numpy(TRUE).float(),
    "a tensor with a gradient": torch.from_numpy(TRUE).float().requires_grad_(),
    "a tensor of one channel": torch.from_numpy(TRUE)[None],
    "one channel": TRUE[..., None],
}
REFUSED = "expected a mask of 0 and 1, or of 0 and 255"
BAD_ARRAYS = {
    "soft bytes": (blurred(BLOCK, 2), REFUSED),
    "soft floats": (blurred(BLOCK, 2) / 255, REFUSED),
    "classes": (CLASSES, f"{REFUSED}, got 2.*mask > 0"),
    "classes as floats": (CLASSES.astype(float), REFUSED),
    "0, 1 and 255": (np.where(CLASSES == 2, 255, CLASSES), f"{REFUSED}, got 1"),
    "0 and 128": (TRUE * np.uint8(128), REFUSED),
    "0 and -1": (-TRUE.astype(int), REFUSED),
    "-1 and 1": (np.where(TRUE, -1, 1), REFUSED),
    "NaN": (np.where(TRUE, np.nan, 0), REFUSED),
    "infinity": (np.where(TRUE, np.inf, 0), REFUSED),
    "masked": (np.ma.array(TRUE, mask=BLOCK), "masked values.*filled"),
    "masked without a mask": (np.ma.array(TRUE), "masked values"),
    "complex": (TRUE.astype(complex), "real numbers, got complex128"),
    "objects": (TRUE.astype(object), "real numbers, got object"),
    "letters": (np.where(TRUE, "1", "0"), "real numbers, got <U1"),
    "dates": (TRUE.astype("M8[s]"), "real numbers, got datetime64"),
    "a ragged list": ([[0, 1], [1]], "expected an array of numbers"),
    "a tensor without values": (torch.zeros(40, 56, device="meta"), "expected an array of numbers"),
}
BAD_SHAPES = {
    "three channels": np.dstack([FULL] * 3),
    "a row": TRUE[0],
    "a number": np.array(1),
    "no pixel": np.zeros((0, 5), bool),
    "two masks": np.stack([TRUE, TRUE]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_of_a_mask_is_read(name):
    picture, expected = PICTURES[name]
    if expected is None:
        expected = np.asarray(picture) > 127
    mask = read_mask(picture)
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_ambiguous_picture_of_a_mask_is_refused(name):
    picture, message = BAD_PICTURES[name]
    with pytest.raises(ValueError, match=f"^of a part: .*{message}"):
        read_mask(picture, name="of a part")


@pytest.mark.parametrize("name", ARRAYS)
def test_array_of_a_mask_is_read(name):
    mask = read_mask(ARRAYS[name], size=(40, 56))
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, TRUE)


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_array_that_would_be_guessed_is_refused(name):
    array, message = BAD_ARRAYS[name]
    with pytest.raises(ValueError, match=f"^mask: .*{message}"):
        read_mask(array)


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_mask_has_two_axes(name):
    with pytest.raises(ValueError, match=r"mask: expected a mask of shape \(H, W\), got \("):
        read_mask(BAD_SHAPES[name])


def test_file_of_a_mask_is_named(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(encoded(FULL, "PNG"))
    np.testing.assert_array_equal(read_mask(path, size=(40, 56)), TRUE)
    with pytest.raises(ValueError, match=r"mask\.png: .*size \(56, 40\), got \(40, 56\)\. Is one"):
        read_mask(str(path), size=(56, 40))
    with pytest.raises(ValueError, match=r"mask\.png: .*size \(9, 9\), got \(40, 56\)\.$"):
        read_mask(path, size=(9, 9))
    with pytest.raises(ValueError, match=r"lost\.png: cannot be decoded as a mask.*No such file"):
        read_mask(tmp_path / "lost.png")


# -- masks of a data set --------------------------------------------------------------------------


def dataset(masks, images=None, labels=(-1, 1)):
    images = np.zeros((2, 40, 56), np.uint8) if images is None else images
    defects = np.where(np.array(labels) == 1, "good", "bad")
    return AnomalyDataset("parts", images, images, np.array(labels), defects, masks)


@pytest.mark.parametrize("dtype", [bool, np.uint8, float])
def test_masks_of_a_data_set_may_be_arrays(dtype):
    masks = dataset(np.stack([TRUE, EMPTY]).astype(dtype)).test_masks
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, [TRUE, EMPTY])


def test_masks_of_a_data_set_may_be_mixed(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(encoded(FULL, "PNG"))
    for mask in (path, str(path), Image.fromarray(FULL), TRUE, torch.from_numpy(TRUE)):
        masks = dataset([mask, None]).test_masks
        np.testing.assert_array_equal(masks, [TRUE, EMPTY])


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([EMPTY, None], r"the mask of test image 0: expected a defective pixel, .* labeled 'bad'"),
        (np.stack([EMPTY, EMPTY]), "the mask of test image 0: expected a defective pixel"),
        ([None, None], "the mask of test image 0: expected a defective pixel"),
        ([TRUE, TRUE], r"the mask of test image 1: expected no defective pixel, .* labeled 'good'"),
        ([TRUE.T, None], r"the mask of test image 0: expected .* size \(40, 56\), got \(56, 40\)"),
        (np.zeros((2, 9, 9), bool), r"test image 0: expected .* size \(40, 56\), got \(9, 9\)"),
        ([blurred(TRUE, 2), None], f"the mask of test image 0: {REFUSED}"),
        (np.ma.array([TRUE, EMPTY], mask=False), "the mask of test image 0: masked"),
    ],
)
def test_masks_that_contradict_their_images_are_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        _ = dataset(masks).test_masks


def test_mask_that_is_missing_for_a_defective_image_is_noticed_after_loading(tmp_path):
    for place in ("train/good/a.png", "test/bad/a.png", "ground_truth/bad/a_mask.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(encoded(EMPTY * np.uint8(255), "PNG"))
    with pytest.raises(ValueError, match=r"a_mask\.png: expected a defective pixel.*'bad'"):
        _ = load_mvtec(tmp_path).test_masks


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_sizes_are_compared_after_orientation(kind, orientation, tmp_path):
    stored = np.zeros((40, 56), np.uint8)
    turns = {1: 0, 3: 2, 6: -1, 8: 1}[orientation]
    upright = np.rot90(TRUE, turns)
    exif = Image.Exif()
    exif[274] = orientation
    for place, array, options in [
        ("train/good/a", stored, {"exif": exif}), ("test/good/a", stored, {"exif": exif}),
        ("test/bad/a", stored, {"exif": exif}), ("ground_truth/bad/a_mask", upright, {}),
    ]:  # fmt: skip
        (tmp_path / place).parent.mkdir(parents=True)
        is_mask = place.startswith("ground_truth")
        data = encoded(array, "PNG" if is_mask else kind, **options)
        (tmp_path / f"{place}.png").write_bytes(data)
    data = load_mvtec(tmp_path)
    bad, good = data.test_masks
    np.testing.assert_array_equal(bad, upright)
    assert good.shape == upright.shape and not good.any()
    assert aupro([bad, good], [bad * 1.0, good * 1.0]) == pytest.approx(1)
    if turns % 2:
        (tmp_path / "ground_truth/bad/a_mask.png").write_bytes(encoded(TRUE, "PNG"))
        with pytest.raises(ValueError, match=r"a_mask\.png: .*got \(40, 56\).*EXIF orientation"):
            _ = data.test_masks


# -- metrics --------------------------------------------------------------------------------------

MAPS = [np.arange(TRUE.size).reshape(TRUE.shape) * 1.0] * 2


@pytest.mark.parametrize("name", ARRAYS)
def test_metrics_read_masks_alike(name):
    mask = np.asarray(read_mask(ARRAYS[name]))
    given = ARRAYS[name]
    if "channel" in name:
        with pytest.raises(ValueError, match="image 0: expected a mask and a map of the same"):
            aupro([given], MAPS[:1])
        return
    assert pixel_auroc([given], MAPS[:1]) == pixel_auroc([mask], MAPS[:1])


@pytest.mark.parametrize("name", BAD_ARRAYS)
@pytest.mark.parametrize("metric", [aupro, pixel_auroc])
def test_metrics_refuse_masks_alike(name, metric):
    array, message = BAD_ARRAYS[name]
    with pytest.raises(ValueError, match=f"^image 1.*{message}"):
        metric([TRUE, array], MAPS)


@pytest.mark.parametrize(
    "name", ["masked", "masked without a mask", "complex", "objects", "letters", "dates",
             "a ragged list", "a tensor without values"],
)  # fmt: skip
def test_metrics_refuse_maps_that_lose_something(name):
    array, message = BAD_ARRAYS[name]
    with pytest.raises(ValueError, match=f"^image 1: map: .*{message}"):
        aupro([TRUE, TRUE], [MAPS[0], array])


@pytest.mark.parametrize("metric", [image_auroc, average_precision, f1_max])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ma.array([0.0, 1, 2], mask=[0, 1, 0]), "masked values"),
        ([0.0, np.ma.masked, 2.0], "masked values"),
        (np.array([0, 1j, 2]), "got complex128"),
        (np.array([0, None, 1]), "got object"),
        (np.array(["0", "1", "1"]), "got <U1"),
        ([[0], [1, 2], [3]], "expected an array of numbers"),
    ],
)
def test_scores_and_labels_that_lose_something_are_refused(metric, values, message):
    with pytest.raises(ValueError, match=f"^scores: .*{message}"):
        metric([0, 1, 1], values)
    with pytest.raises(ValueError, match=f"^y_true: .*{message}"):
        metric(values, [0.1, 0.2, 0.3])


def test_scores_may_be_tensors():
    scores = torch.tensor([0.1, 0.4, 0.35, 0.8], dtype=torch.float64, requires_grad=True)
    assert image_auroc(torch.tensor([0, 0, 1, 1]), scores) == 0.75


def test_metrics_say_that_there_are_no_masks():
    with pytest.raises(ValueError, match=r"got None\. Does the data set have masks"):
        aupro(None, MAPS)
