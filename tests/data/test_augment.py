"""Views: a slow reading of each, the same for the same seed, and each image's own."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torchvision.transforms.v2 import functional as tv

from anomalib_lite.data.augment import (
    TURNS,
    cut_paste,
    cut_paste_scar,
    gaussian_blur,
    is_gray,
    random_windows,
    rotated,
    simclr_views,
    turned,
)

SIZE = 48
VIEWS = {
    "simclr": simclr_views,
    "cut_paste": cut_paste,
    "scar": cut_paste_scar,
    "windows": lambda batch, generator: random_windows(batch, generator, 16),
}


def seed(value=0):
    return torch.Generator().manual_seed(value)


def noise(n=6, height=SIZE, width=SIZE, n_channels=3, value=0):
    """(n, C, H, W) of uniform values: no two pixels are alike."""
    return torch.rand(n, n_channels, height, width, generator=seed(value))


def gray_noise(n=6, height=SIZE, width=SIZE):
    return noise(n, height, width, n_channels=1).repeat(1, 3, 1, 1)


@pytest.fixture(params=VIEWS)
def view(request):
    return VIEWS[request.param]


# -- slow readings --------------------------------------------------------------------------------
# They draw what the functions draw, in the same order, and treat one image after another.


def draws(generator, low, high, *shape):
    return (low + (high - low) * torch.rand(*shape, generator=generator)).tolist()


def slow_jitter(batch, generator, strength, probability=1.0):
    """torchvision's four adjustments."""
    n = len(batch)
    factors = draws(generator, max(0.0, 1 - strength), 1 + strength, 3, n)
    hues = draws(generator, -strength / 4, strength / 4, n)
    chosen = draws(generator, 0, 1, n)
    views = []
    for i, image in enumerate(batch):
        if chosen[i] < probability:
            image = tv.adjust_brightness(image, factors[0][i])
            image = tv.adjust_contrast(image, factors[1][i])
            image = tv.adjust_saturation(image, factors[2][i])
            image = tv.adjust_hue(image, hues[i])
        views.append(image)
    return torch.stack(views)


def slow_crops(batch, generator, min_area, flip):
    """Where each pixel of a view lies in its image, and scipy's linear interpolation there."""
    n, _, rows, columns = batch.shape
    areas = draws(generator, min_area, 1, n)
    shapes, lefts, tops = (
        draws(generator, -1, 1, n),
        draws(generator, 0, 1, n),
        draws(generator, 0, 1, n),
    )
    mirrored = draws(generator, 0, 1, n)
    views = []
    for i, image in enumerate(batch.numpy()):
        widest = min(4 / 3, 1 / areas[i])  # a ratio that fits into the image
        ratio = widest ** shapes[i]
        width, height = min(math.sqrt(areas[i] * ratio), 1), min(math.sqrt(areas[i] / ratio), 1)
        top, left = tops[i] * (1 - height) * rows, lefts[i] * (1 - width) * columns
        y = top + (np.arange(rows) + 0.5) * height - 0.5
        x = left + (np.arange(columns) + 0.5) * width - 0.5
        if flip and mirrored[i] < 0.5:
            x = x[::-1]
        grid = np.meshgrid(y, x, indexing="ij")
        views.append([
            ndimage.map_coordinates(plane, grid, order=1, mode="nearest") for plane in image
        ])  # fmt: skip
    return torch.tensor(np.array(views))


def slow_blur(image, sigma):
    side = 2 * max(1, min(image.shape[1:]) // 20) + 1
    return tv.gaussian_blur(image, [side, side], [sigma, sigma])


def slow_simclr(batch, generator, *, min_area=0.5, jitter=0.4, gray=0.2, blur=0.5, flip=True):
    n = len(batch)
    views = slow_jitter(slow_crops(batch, generator, min_area, flip), generator, jitter, 0.8)
    colored = [] if is_gray(batch) else draws(generator, 0, 1, n)
    for i, draw in enumerate(colored):
        if draw < gray:
            views[i] = tv.rgb_to_grayscale(views[i], num_output_channels=3)
    blurred, sigmas = draws(generator, 0, 1, n), draws(generator, 0.1, 2, n)
    for i in range(n):
        if blurred[i] < blur:
            views[i] = slow_blur(views[i], sigmas[i])
    return views


def slow_cut_paste(batch, generator, *, area=(0.02, 0.15), aspect=(0.3, 3.3), jitter=0.1):
    n, _, rows, columns = batch.shape
    areas = draws(generator, *area, n)
    ratios = draws(generator, *np.log(aspect), n)
    places = draws(generator, 0, 1, n, 4)
    changed = slow_jitter(batch, generator, jitter)
    views = batch.clone()
    for i in range(n):
        pixels, ratio = areas[i] * rows * columns, math.exp(ratios[i])
        height = min(max(round(math.sqrt(pixels / ratio)), 1), rows)
        width = min(max(round(math.sqrt(pixels * ratio)), 1), columns)
        free = [rows - height + 1, columns - width + 1] * 2
        top, left, to, at = (int(p * f) for p, f in zip(places[i], free, strict=True))
        patch = tv.crop(changed[i], top, left, height, width)
        views[i, :, to : to + height, at : at + width] = patch
    return views


def slow_scar(batch, generator, *, width=(2, 16), length=(10, 25), angle=45.0, jitter=0.1):
    """One pixel after another: as a complex number, rotated back into the strip it is from."""
    n, _, rows, columns = batch.shape
    limit = min(rows, columns) // 2
    thin = [min(int(side), limit) for side in draws(generator, width[0], width[1] + 1, n)]
    long = [min(int(side), limit) for side in draws(generator, length[0], length[1] + 1, n)]
    angles = np.deg2rad(draws(generator, -angle, angle, n))
    tops, lefts, tos, ats, upright = draws(generator, 0, 1, 5, n)
    changed = slow_jitter(batch, generator, jitter)
    views = batch.clone()
    for i in range(n):
        h, w = (long[i], thin[i]) if upright[i] < 0.5 else (thin[i], long[i])
        top, left = int(tops[i] * (rows - h + 1)), int(lefts[i] * (columns - w + 1))
        corners = [complex(x, y) for x in (-w / 2, w / 2) for y in (-h / 2, h / 2)]
        turned = [corner * np.exp(1j * angles[i]) for corner in corners]
        half_w, half_h = max(c.real for c in turned), max(c.imag for c in turned)
        center = complex(
            half_w + ats[i] * (columns - 2 * half_w), half_h + tos[i] * (rows - 2 * half_h)
        )
        for row, column in np.ndindex(rows, columns):
            place = (complex(column + 0.5, row + 0.5) - center) * np.exp(-1j * angles[i])
            u, v = place.real + w / 2, place.imag + h / 2
            if 0 <= u < w and 0 <= v < h:
                views[i, :, row, column] = changed[i, :, top + int(v), left + int(u)]
    return views


def slow_windows(batch, generator, size):
    _, _, rows, columns = batch.shape
    places = draws(generator, 0, 1, len(batch), 2)
    return torch.stack([
        tv.crop(image, int(y * (rows - size + 1)), int(x * (columns - size + 1)), size, size)
        for image, (y, x) in zip(batch, places, strict=True)
    ])  # fmt: skip


SIMCLR_OPTIONS = [
    {},
    {"jitter": 1.0},
    {"min_area": 0.08, "gray": 0.0, "blur": 0.0, "jitter": 0.1},
    {"flip": False, "gray": 1.0, "blur": 1.0},
]


@pytest.mark.parametrize("make", [noise, gray_noise])
@pytest.mark.parametrize("options", SIMCLR_OPTIONS, ids=str)
def test_simclr_views_are_those_of_a_slow_reading(make, options):
    batch = make(12, 40, 46)
    views, expected = simclr_views(batch, seed(), **options), slow_simclr(batch, seed(), **options)
    # torchvision's weights of gray sum to 0.9999, which it applies to gray images, too
    torch.testing.assert_close(views, expected, rtol=0, atol=4e-4)
    assert float((simclr_views(batch, seed(1), **options) - expected).abs().max()) > 0.1


@pytest.mark.parametrize("make", [noise, gray_noise])
@pytest.mark.parametrize(
    "options", [{}, {"area": (0.3, 0.4), "aspect": (1, 2), "jitter": 0.5}], ids=str
)
def test_pasted_patches_are_those_of_a_slow_reading(make, options):
    batch = make(20, 40, 46)
    views = cut_paste(batch, seed(), **options)
    expected = slow_cut_paste(batch, seed(), **options)
    torch.testing.assert_close(views, expected, rtol=0, atol=4e-4)
    assert float((cut_paste(batch, seed(1), **options) - expected).abs().max()) > 0.1


@pytest.mark.parametrize("make", [noise, gray_noise])
@pytest.mark.parametrize(
    "options", [{}, {"width": (3, 5), "length": (15, 30), "angle": 90.0, "jitter": 0.5}], ids=str
)
def test_pasted_scars_are_those_of_a_slow_reading(make, options):
    batch = make(12, 32, 46)
    views = cut_paste_scar(batch, seed(), **options)
    expected = slow_scar(batch, seed(), **options)
    differ = ((views - expected).abs() > 4e-4).any(1)
    assert int(differ.sum()) <= 2  # pixels at the very edge of a scar
    changed = ((views - batch).abs() > 4e-4).any(1)
    assert int(changed.sum()) > 12 * 2 * 10 * 0.8


@pytest.mark.parametrize(("height", "width", "size"), [(20, 31, 7), (16, 16, 16), (9, 40, 9)])
def test_random_windows_are_those_of_a_slow_reading(height, width, size):
    batch = noise(6, height, width)
    windows = random_windows(batch, seed(), size)
    assert windows.shape == (6, 3, size, size)
    assert torch.equal(windows, slow_windows(batch, seed(), size))


# -- every view -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24)])
@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 200.0])
def test_images_are_rotated_about_their_centers(height, width, angle):
    """Where the rotated image has pixels, by SciPy's bilinear rotation of the reflected image."""
    images = noise(2, height, width)
    views = rotated(images, torch.tensor([angle, 0.0]))
    padded = np.pad(images[0].numpy(), ((0, 0), (16, 16), (16, 16)), mode="symmetric")
    expected = ndimage.rotate(padded, angle, (2, 1), reshape=False, order=1)
    np.testing.assert_allclose(views[0], expected[:, 16:-16, 16:-16], atol=1e-4)
    np.testing.assert_allclose(views[1], images[1], atol=1e-5)


@pytest.mark.parametrize("make", [noise, gray_noise])
def test_a_seed_gives_the_same_views(view, make):
    first = view(make(), seed(3))
    assert torch.equal(view(make(), seed(3)), first)
    assert not torch.equal(view(make(), seed(4)), first)


def test_each_image_has_its_own_draws(view):
    same = noise(1).expand(6, -1, -1, -1)
    views = view(same, seed())
    assert len(torch.unique(views.flatten(1), dim=0)) == 6


def test_images_do_not_mix(view):
    """The view of an image does not depend on the other images."""
    batch = noise()
    other = batch.clone()
    other[1:] = noise(5, value=1)
    torch.testing.assert_close(view(other, seed())[0], view(batch, seed())[0])


def test_the_global_generator_is_left_alone(view):
    before = torch.get_rng_state()
    view(noise(), seed())
    assert torch.equal(torch.get_rng_state(), before)


def test_the_generator_moves_on(view):
    generator = seed()
    assert not torch.equal(view(noise(), generator), view(noise(), generator))


@pytest.mark.parametrize("make", [noise, gray_noise])
def test_the_images_stay_as_they_were(view, make):
    batch = make()
    views = view(batch, seed())
    views.zero_()
    assert torch.equal(batch, make())


@pytest.mark.parametrize(("height", "width"), [(48, 48), (32, 64), (61, 47)])
def test_views_have_the_shape_of_the_images(view, height, width):
    batch = noise(3, height, width)
    shape = (3, 3, 16, 16) if view is VIEWS["windows"] else batch.shape
    assert view(batch, seed()).shape == shape


def test_views_keep_the_dtype(view):
    assert view(noise().double(), seed()).dtype == torch.float64


@pytest.mark.parametrize(
    "batch", [noise(32).round(), torch.ones(8, 3, SIZE, SIZE), torch.zeros(8, 3, SIZE, SIZE)]
)
def test_values_stay_between_0_and_1(view, batch):
    views = view(batch, seed())
    assert float(views.min()) >= -1e-6
    assert float(views.max()) <= 1 + 1e-6


@pytest.mark.parametrize("make", [noise, gray_noise])
def test_nothing_is_made_on_the_default_device(view, make):
    batch, generator, expected = make(), seed(), view(make(), seed())
    with torch.device("meta"):
        views = view(batch, generator)
    assert torch.equal(views, expected)


def test_turned_and_blurred_views_are_not_made_on_the_default_device():
    batch, sigma = noise(2), torch.tensor([0.5, 1.0])
    with torch.device("meta"):
        assert turned(batch, TURNS).device.type == "cpu"
        assert gaussian_blur(batch, sigma).device.type == "cpu"


# -- turns ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [TURNS, (0,), (3, 1)])
def test_turned_images_follow_one_another_turn_by_turn(turns):
    batch = noise(3)
    views = turned(batch, turns)
    assert views.shape == (3 * len(turns), 3, SIZE, SIZE)
    for i, k in enumerate(turns):
        for j, image in enumerate(batch):
            expected = np.rot90(image.numpy(), k, axes=(1, 2))  # counter-clockwise
            np.testing.assert_array_equal(views[3 * i + j], expected)


# -- crops ----------------------------------------------------------------------------------------


def still(batch, **options):
    """Views with nothing but the transforms that the options ask for."""
    plain = {"min_area": 1.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "flip": False}
    return simclr_views(batch, seed(), **plain | options)


def ramp(n, height=64, width=64):
    """Images whose channels tell the place of a pixel: row, column, 0."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([y, x, torch.zeros_like(x)]).expand(n, -1, -1, -1)


def crops(n=200, *, min_area=0.5, flip=True, height=64, width=64):
    """(height, width) fractions of crops (n,), negative where mirrored, and their centers (n,)."""
    views = still(ramp(n, height, width), min_area=min_area, flip=flip)
    y, x = views[:, 0, :, width // 2], views[:, 1, height // 2]
    middle = slice(height // 4, -height // 4)  # away from borders
    scale = height / (height // 2 - 1), width / (width // 2 - 1)
    tall = (y[:, middle][:, -1] - y[:, middle][:, 0]) * scale[0]
    middle = slice(width // 4, -width // 4)
    wide = (x[:, middle][:, -1] - x[:, middle][:, 0]) * scale[1]
    return tall, wide, y.mean(1), x.mean(1)


@pytest.mark.parametrize("make", [noise, gray_noise])
def test_a_crop_of_the_whole_is_the_image(make):
    batch = make(8, 40, 56)
    torch.testing.assert_close(still(batch), batch, rtol=0, atol=2e-4)


def test_crops_are_not_darker_at_their_borders():
    views = still(torch.ones(50, 3, 24, 24), min_area=0.1, flip=True)
    torch.testing.assert_close(views, torch.ones_like(views), rtol=0, atol=2e-4)


def test_a_flipped_crop_of_the_whole_is_the_mirrored_image():
    batch = noise(32)
    views = still(batch, flip=True)
    plain = (views - batch).abs().amax((1, 2, 3)) < 2e-4
    mirrored = (views - batch.flip(3)).abs().amax((1, 2, 3)) < 2e-4
    assert (plain ^ mirrored).all()
    assert 8 < int(mirrored.sum()) < 24


@pytest.mark.parametrize("min_area", [0.08, 0.5, 0.9])
def test_crops_have_the_area_and_the_aspect_asked_for(min_area):
    tall, wide, y, x = crops(min_area=min_area, flip=False)
    area, ratio = tall * wide, wide / tall
    assert float(area.min()) > min_area - 0.02
    assert float(area.min()) < min_area + 0.05  # as small as allowed
    assert float(area.max()) > 0.9
    assert float(ratio.min()) > 3 / 4 - 0.05
    assert float(ratio.max()) < 4 / 3 + 0.05
    assert float((ratio - 1).abs().max()) > 0.05
    assert float(tall.max()) < 1.03  # inside the image
    assert float(wide.max()) < 1.03
    if min_area < 0.9:
        assert float(y.std()) > 0.03
        assert float(x.std()) > 0.03


def test_half_of_the_crops_are_mirrored_if_any():
    assert bool((crops(flip=False)[1] > 0).all())
    assert 70 < int((crops(flip=True)[1] < 0).sum()) < 130
    assert bool((crops(flip=True)[0] > 0).all())  # never upside down


# -- colors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_color_jitter_is_torchvisions(strength):
    batch, generator = noise(40, 20, 24), seed()
    draws(generator, 0, 1, 5, 40)  # those of the crop
    views = still(batch, jitter=strength)
    expected = slow_jitter(batch, generator, strength, 0.8)
    torch.testing.assert_close(views, expected, rtol=0, atol=2e-4)
    changed = (views - batch).abs().amax((1, 2, 3)) > 1e-3
    assert 24 < int(changed.sum()) < 39


def test_a_fraction_of_the_views_is_gray():
    views = still(noise(100, 8, 8), gray=0.2)
    gray = (views == views[:, :1]).all(1).all(1).all(1)
    assert 10 < int(gray.sum()) < 32
    expected = tv.rgb_to_grayscale(noise(100, 8, 8)[gray], num_output_channels=3)
    torch.testing.assert_close(views[gray], expected, rtol=0, atol=2e-4)
    assert not bool(((still(noise(100, 8, 8))).std(1) == 0).any())


def test_gray_images_stay_gray():
    views = simclr_views(gray_noise(16), seed(), jitter=0.8)
    torch.testing.assert_close(views, views[:, :1].expand_as(views))


def test_a_fraction_of_the_views_is_blurred():
    views = still(noise(100, 40, 40), blur=0.5)
    changed = (views - noise(100, 40, 40)).abs().amax((1, 2, 3)) > 0.02
    assert 30 < int(changed.sum()) < 65  # a sigma of 0.1 px changes nothing


@pytest.mark.parametrize(("height", "width"), [(48, 48), (100, 61), (8, 9)])
def test_a_blur_is_torchvisions(height, width):
    batch, sigma = noise(5, height, width), torch.tensor([0.1, 0.5, 1.0, 2.0, 7.0])
    expected = torch.stack([slow_blur(*each) for each in zip(batch, sigma.tolist(), strict=True)])
    views = gaussian_blur(batch, sigma)
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-5)
    assert float((views - expected[[1, 2, 3, 4, 0]]).abs().max()) > 0.01


# -- CutPaste -------------------------------------------------------------------------------------


def changes(batch, views):
    """(top, bottom, left, right, changed pixels) of the change in each image."""
    found = []
    for mask in (views != batch).any(1):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        found.append((
            int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1, int(mask.sum())
        ))  # fmt: skip
    return found


@pytest.mark.parametrize(("area", "aspect"), [((0.02, 0.15), (0.3, 3.3)), ((0.3, 0.3), (0.5, 2.0))])
def test_a_patch_is_a_rectangle_of_the_area_and_the_aspect_asked_for(area, aspect):
    batch = noise(100, 64, 80)
    areas, ratios = [], []
    views = cut_paste(batch, seed(), area=area, aspect=aspect)
    for top, bottom, left, right, count in changes(batch, views):
        assert count == (bottom - top) * (right - left)  # all of it
        areas.append(count / (64 * 80))
        ratios.append((right - left) / (bottom - top))
    slack = 0.15 * area[0] + 0.01  # whole pixels
    assert area[0] - slack <= min(areas) <= area[0] + 0.02
    assert area[1] - 0.02 <= max(areas) <= area[1] + slack
    assert aspect[0] * 0.8 <= min(ratios) < aspect[0] * 1.5
    assert aspect[1] / 1.5 < max(ratios) <= aspect[1] * 1.2
    assert 30 < sum(ratio > 1 for ratio in ratios) < 70


def test_a_paste_of_one_shape_has_it():
    batch = noise(20, 64, 80)
    views = cut_paste(batch, seed(), area=(0.1, 0.1), aspect=(2, 2))
    for top, bottom, left, right, _ in changes(batch, views):
        assert (bottom - top, right - left) == (16, 32)


def test_pastes_reach_every_border():
    batch = noise(300, 24, 24)
    views = cut_paste(batch, seed(), area=(0.1, 0.2))
    top, bottom, left, right, _ = zip(*changes(batch, views), strict=True)
    assert (min(top), max(bottom), min(left), max(right)) == (0, 24, 0, 24)


@pytest.mark.parametrize("paste", [cut_paste, cut_paste_scar])
def test_pastes_are_cut_from_everywhere(paste):
    images = ramp(300, 24, 24)
    views = paste(images, seed(), jitter=0.0)
    is_pasted = (views - images).abs().amax(1) > 0.02  # a pixel is 0.04
    places = views[:, :2].movedim(1, -1)[is_pasted] * 24  # (pixels, 2)
    assert places.floor().amin(0).tolist() == [0, 0]
    assert places.floor().amax(0).tolist() == [23, 23]


def test_a_paste_is_jittered():
    batch = torch.full((30, 3, 32, 32), 0.5)  # on which a paste alone would not be seen
    torch.testing.assert_close(cut_paste(batch, seed(), jitter=0.0), batch)
    moved = (cut_paste(batch, seed(), jitter=0.2) - batch).abs().amax((1, 2, 3))
    assert int((moved > 0.005).sum()) > 25
    assert float(moved.max()) < 0.5 * 0.2 + 1e-3


def test_a_scar_has_the_sides_asked_for():
    batch = noise(100)
    views = cut_paste_scar(batch, seed(), width=(2, 4), length=(10, 14), angle=0.0)
    sides, stands = set(), 0
    for top, bottom, left, right, count in changes(batch, views):
        assert count == (bottom - top) * (right - left)
        stands += bottom - top > right - left
        sides.add((min(bottom - top, right - left), max(bottom - top, right - left)))
    assert {short for short, _ in sides} == {2, 3, 4}
    assert {long for _, long in sides} == {10, 11, 12, 13, 14}
    assert 30 < stands < 70


def test_scars_reach_every_border():
    batch = noise(300, 24, 24)
    views = cut_paste_scar(batch, seed(), width=(2, 2), length=(8, 8), angle=0.0)
    top, bottom, left, right, _ = zip(*changes(batch, views), strict=True)
    assert (min(top), max(bottom), min(left), max(right)) == (0, 24, 0, 24)


def test_the_sides_of_a_scar_are_pixels_whatever_the_size_of_the_image():
    options = {"width": (3, 3), "length": (12, 12), "angle": 0.0}
    for size in (32, 64, 100):
        batch = noise(4, size, size)
        assert {c[-1] for c in changes(batch, cut_paste_scar(batch, seed(), **options))} == {36}


def test_a_scar_is_half_the_image_at_most():
    batch = noise(20, 12, 30)
    views = cut_paste_scar(batch, seed(), width=(2, 2), length=(25, 25), angle=0.0)
    assert {change[-1] for change in changes(batch, views)} == {2 * 6}


def test_a_turned_scar_keeps_its_area_and_turns_as_far_as_asked():
    batch = noise(100)
    options = {"width": (4, 4), "length": (20, 20)}
    places = changes(batch, cut_paste_scar(batch, seed(), **options, angle=45.0))
    counts = np.array([count for *_, count in places])
    assert (abs(counts - 80) <= 16).all()
    short = [min(bottom - top, right - left) for top, bottom, left, right, _ in places]
    assert min(short) <= 6
    assert max(short) >= 15  # 45 degrees: (20 + 4) / sqrt(2) = 17
    places = changes(batch, cut_paste_scar(batch, seed(), **options, angle=5.0))
    assert all(min(b - t, r - le) <= 8 for t, b, le, r, _ in places)


# -- windows --------------------------------------------------------------------------------------


def test_random_windows_are_found_everywhere():
    rows = torch.arange(5.0)[:, None] * 10 + torch.arange(6.0)
    windows = random_windows(rows.expand(400, 1, 5, 6), seed(), 3)
    found = set(windows[:, 0, 0, 0].int().tolist())
    assert found == {10 * top + left for top in range(3) for left in range(4)}
