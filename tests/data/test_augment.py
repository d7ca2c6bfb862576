"""Views: the same for the same seed, each image's own, and what torchvision makes of one image."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from anomalib_lite.data import augment
from anomalib_lite.data.augment import (
    TURNS,
    cut_paste,
    cut_paste_scar,
    gaussian_blur,
    random_windows,
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


# -- every view -----------------------------------------------------------------------------------


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
    """What becomes of an image does not depend on the others."""
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


def ramp(n, height=64, width=64):
    """Images whose channels tell the place of a pixel: row, column, 0."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([y, x, torch.zeros_like(x)]).expand(n, -1, -1, -1)


def crops(n=200, *, min_area=0.5, flip=True, height=64, width=64):
    """(height, width) shares of crops (n,), negative where mirrored, and their centers (n,)."""
    views = augment._crop(ramp(n, height, width), seed(), min_area, flip)
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
    views = augment._crop(batch, seed(), 1.0, False)
    torch.testing.assert_close(views, batch, rtol=0, atol=1e-4)


def test_crops_are_not_darker_at_their_borders():
    views = augment._crop(torch.ones(50, 3, 16, 16), seed(), 0.1, True)
    torch.testing.assert_close(views, torch.ones_like(views))


def test_a_flipped_crop_of_the_whole_is_the_mirrored_image():
    batch = noise(32)
    views = augment._crop(batch, seed(), 1.0, True)
    plain = (views - batch).abs().amax((1, 2, 3)) < 1e-4
    mirrored = (views - batch.flip(3)).abs().amax((1, 2, 3)) < 1e-4
    assert (plain ^ mirrored).all()
    assert 8 < int(mirrored.sum()) < 24


@pytest.mark.parametrize("min_area", [0.08, 0.5, 0.9])
def test_a_crop_has_at_least_the_area_and_about_the_sides_asked_for(min_area):
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


# -- colors --------------------------------------------------------------------------------------


def jittered_by_torchvision(batch, generator, strength, share):
    """The same draws in the same order, and torchvision on one image after another."""
    n = len(batch)
    uniform = torch.rand(3, n, generator=generator)
    low, high = max(0.0, 1 - strength), 1 + strength
    factors = (low + (high - low) * uniform).tolist()
    hues = (-strength / 4 + strength / 2 * torch.rand(n, generator=generator)).tolist()
    chosen = (torch.rand(n, generator=generator) < share).tolist()
    views = []
    for i, image in enumerate(batch):
        if chosen[i]:
            image = tv.adjust_brightness(image, factors[0][i])
            image = tv.adjust_contrast(image, factors[1][i])
            image = tv.adjust_saturation(image, factors[2][i])
            image = tv.adjust_hue(image, hues[i])
        views.append(image)
    return torch.stack(views)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("strength", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("make", [noise, gray_noise])
def test_colors_change_as_torchvision_changes_them(make, strength, share):
    """Gray images too: what is left out for them would change nothing."""
    batch = make(8, 20, 24)
    views = augment._jitter(batch, seed(), strength, share)
    expected = jittered_by_torchvision(batch, seed(), strength, share)
    atol = 2e-4 if make is gray_noise else 1e-5  # torchvision's weights of gray sum to 0.9999
    torch.testing.assert_close(views, expected, rtol=0, atol=atol)
    if share == 1:
        assert float((views - batch).abs().amax((1, 2, 3)).min()) > 1e-3


def test_a_jitter_of_strength_0_changes_nothing():
    torch.testing.assert_close(augment._jitter(noise(), seed(), 0.0), noise(), rtol=0, atol=1e-5)


def test_the_jitter_of_torchvision_has_teeth():
    batch = noise(8, 20, 24)
    other = jittered_by_torchvision(batch, seed(), 0.45, 1.0)
    assert float((augment._jitter(batch, seed(), 0.4) - other).abs().max()) > 0.01


def still(batch, **options):
    """Views that neither crop, flip, jitter, gray nor blur but for what the options say."""
    plain = {"min_area": 1.0, "jitter": 0.0, "gray": 0.0, "blur": 0.0, "flip": False}
    return simclr_views(batch, seed(), **plain | options)


def test_a_view_may_be_the_image_itself():
    torch.testing.assert_close(still(noise()), noise(), rtol=0, atol=2e-4)


def test_a_share_of_the_views_is_gray():
    views = still(noise(100, 8, 8), gray=0.2)
    gray = (views == views[:, :1]).all(1).all(1).all(1)
    assert 10 < int(gray.sum()) < 32
    expected = tv.rgb_to_grayscale(noise(100, 8, 8)[gray], num_output_channels=3)
    torch.testing.assert_close(views[gray], expected, rtol=0, atol=2e-4)
    assert not bool(((still(noise(100, 8, 8))).std(1) == 0).any())


def test_gray_images_stay_gray():
    views = simclr_views(gray_noise(16), seed(), jitter=0.8)
    torch.testing.assert_close(views, views[:, :1].expand_as(views))


def test_a_share_of_the_views_is_blurred():
    views = still(noise(100, 40, 40), blur=0.5)
    changed = (views - noise(100, 40, 40)).abs().amax((1, 2, 3)) > 0.02
    assert 30 < int(changed.sum()) < 65  # a sigma of 0.1 px changes nothing


@pytest.mark.parametrize(("height", "width"), [(48, 48), (100, 61), (8, 9)])
def test_a_blur_is_torchvisions(height, width):
    batch, sigma = noise(5, height, width), torch.tensor([0.1, 0.5, 1.0, 2.0, 7.0])
    size = 2 * max(1, min(height, width) // 20) + 1
    expected = torch.stack([
        tv.gaussian_blur(image, [size, size], [float(s), float(s)])
        for image, s in zip(batch, sigma, strict=True)
    ])  # fmt: skip
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


def brightened(batch, generator, strength, share=1.0):
    """A jitter that changes every pixel of noise in [0, 1]."""
    return batch + 2


@pytest.fixture
def visible(monkeypatch):
    """Pasted pixels are larger than 1."""
    monkeypatch.setattr(augment, "_jitter", brightened)


@pytest.mark.parametrize(("area", "aspect"), [((0.02, 0.15), (0.3, 3.3)), ((0.3, 0.3), (1, 1))])
def test_a_paste_is_a_rectangle_of_the_area_asked_for(visible, area, aspect):
    batch = noise(100, 64, 80)
    shares, ratios = [], []
    for top, bottom, left, right, count in changes(batch, cut_paste(batch, seed(), area=area)):
        assert count == (bottom - top) * (right - left)  # all of it
        shares.append(count / (64 * 80))
        ratios.append((right - left) / (bottom - top))
    slack = 0.15 * area[0] + 0.01  # whole pixels
    assert area[0] - slack <= min(shares) <= area[0] + 0.02
    assert area[1] - 0.02 <= max(shares) <= area[1] + slack
    assert 0.3 * 0.8 <= min(ratios) < 0.5
    assert 2 < max(ratios) <= 3.3 * 1.2
    assert 30 < sum(ratio > 1 for ratio in ratios) < 70


def test_a_paste_of_one_shape_has_it(visible):
    batch = noise(20, 64, 80)
    views = cut_paste(batch, seed(), area=(0.1, 0.1), aspect=(2, 2))
    for top, bottom, left, right, _ in changes(batch, views):
        assert (bottom - top, right - left) == (16, 32)


def test_pastes_reach_every_border(visible):
    batch = noise(300, 24, 24)
    views = cut_paste(batch, seed(), area=(0.1, 0.2))
    places = np.array(changes(batch, views))
    assert places[:, :4].min(0).tolist() == [0, places[:, 1].min(), 0, places[:, 3].min()]
    assert (places[:, 1].max(), places[:, 3].max()) == (24, 24)


def test_pasted_pixels_are_a_rectangle_of_the_same_image():
    batch = noise(10, 32, 40)
    views = cut_paste(batch, seed(), jitter=0.0)
    for image, other, place in zip(batch, views, changes(batch, views), strict=True):
        top, bottom, left, right, _ = place
        piece = other[:, top:bottom, left:right]
        windows = image.unfold(1, bottom - top, 1).unfold(2, right - left, 1)
        apart = (windows - piece[:, None, None]).abs().amax((0, 3, 4))
        assert float(apart.min()) < 1e-5
        assert int((apart < 0.1).sum()) == 1  # nor would any piece be found


@pytest.mark.parametrize("paste", [cut_paste, cut_paste_scar])
def test_pastes_are_cut_from_everywhere(visible, paste):
    views = paste(ramp(300, 24, 24), seed())
    places = (views[:, :2].movedim(1, -1)[(views > 1.5).all(1)] - 2) * 24  # (pixels, 2)
    assert places.floor().amin(0).tolist() == [0, 0]
    assert places.floor().amax(0).tolist() == [23, 23]


def test_a_paste_is_jittered():
    batch = torch.full((30, 3, 32, 32), 0.5)  # on which a paste alone would not be seen
    still = cut_paste(batch, seed(), jitter=0.0)
    torch.testing.assert_close(still, batch)
    moved = (cut_paste(batch, seed(), jitter=0.2) - batch).abs().amax((1, 2, 3))
    assert int((moved > 0.005).sum()) > 25
    assert float(moved.max()) < 0.5 * 0.2 + 1e-3


def test_a_scar_has_the_sides_asked_for(visible):
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


def test_scars_reach_every_border(visible):
    batch = noise(300, 24, 24)
    views = cut_paste_scar(batch, seed(), width=(2, 2), length=(8, 8), angle=0.0)
    top, bottom, left, right, _ = zip(*changes(batch, views), strict=True)
    assert (min(top), max(bottom), min(left), max(right)) == (0, 24, 0, 24)


def test_the_sides_of_a_scar_are_pixels_whatever_the_size_of_the_image(visible):
    options = {"width": (3, 3), "length": (12, 12), "angle": 0.0}
    for size in (32, 64, 100):
        batch = noise(4, size, size)
        assert {c[-1] for c in changes(batch, cut_paste_scar(batch, seed(), **options))} == {36}


def test_a_scar_is_half_the_image_at_most(visible):
    batch = noise(20, 12, 30)
    views = cut_paste_scar(batch, seed(), width=(2, 2), length=(25, 25), angle=0.0)
    assert {change[-1] for change in changes(batch, views)} == {2 * 6}


def test_a_turned_scar_keeps_its_area_and_turns_as_far_as_asked(visible):
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


def test_a_turned_scar_leaves_no_black_corners():
    batch = noise() / 2 + 0.5
    views = cut_paste_scar(batch, seed(), width=(8, 8), length=(20, 20), jitter=0.0)
    assert float(views.min()) >= 0.5 - 1e-6
    assert not torch.equal(views, batch)


def test_pixels_of_a_scar_come_from_its_image():
    batch = noise(8, 32, 32)
    views = cut_paste_scar(batch, seed(), jitter=0.0)
    for image, other in zip(batch, views, strict=True):
        new = other.flatten(1).T[(other != image).any(0).flatten()]  # (pixels, 3)
        apart = torch.cdist(new, image.flatten(1).T).amin(1)
        assert len(new) > 10
        assert float(apart.max()) < 1e-3


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "size"), [(20, 31, 7), (16, 16, 16), (9, 40, 9)])
def test_random_windows_are_windows_of_their_images(height, width, size):
    batch = noise(6, height, width)
    windows = random_windows(batch, seed(), size)
    assert windows.shape == (6, 3, size, size)
    for image, window in zip(batch, windows, strict=True):
        everywhere = image.unfold(1, size, 1).unfold(2, size, 1)
        assert int((everywhere == window[:, None, None]).all(4).all(3).all(0).sum()) == 1


def test_random_windows_are_found_everywhere():
    rows = torch.arange(5.0)[:, None] * 10 + torch.arange(6.0)
    windows = random_windows(rows.expand(400, 1, 5, 6), seed(), 3)
    found = set(windows[:, 0, 0, 0].int().tolist())
    assert found == {10 * top + left for top in range(3) for left in range(4)}
