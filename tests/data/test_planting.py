"""Defects planted in images of good parts: where, of what size and strength, in which dtypes."""

import numpy as np
import pytest
from scipy import ndimage

from anomalib_lite.data import DEFECTS, GLOBAL, LOCAL, planted

KINDS = [*LOCAL, *GLOBAL]


def texture(size=96, channels=None, seed=0):
    """(size, size) or (size, size, C) uint8: a rough surface of 60 to 180 gray levels."""
    rng = np.random.default_rng(seed)
    shape = (size, size) if channels is None else (size, size, channels)
    rough = ndimage.gaussian_filter(rng.normal(size=shape), 1.5, axes=(0, 1))
    return (120 + 60 * rough / np.abs(rough).max()).astype(np.uint8)


def in_dtype(image, dtype):
    """The same image in another dtype."""
    if dtype == "uint16":
        return image.astype(np.uint16) * 257
    return image if dtype == "uint8" else (image / 255).astype(dtype)


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_images_keep_what_is_not_in_the_mask(kind, channels):
    for dtype in ("uint8", "uint16", "float32", "float64"):
        image = in_dtype(texture(channels=channels), dtype)
        before = image.copy()
        damaged, mask = planted(image, kind, 0)
        np.testing.assert_array_equal(image, before)
        assert (damaged.dtype, damaged.shape) == (image.dtype, image.shape)
        assert (mask.dtype, mask.shape) == (bool, image.shape[:2])
        np.testing.assert_array_equal(damaged[~mask], image[~mask])
        assert damaged.min() >= 0 and damaged.max() <= in_dtype(np.uint8([[255]]), dtype)
        levels = np.abs(damaged - image.astype(float)) * (255 / in_dtype(np.uint8([255]), dtype))
        changed = levels > 1 if channels is None else (levels > 1).any(2)
        if kind in GLOBAL:
            assert mask.all() and changed.mean() > 0.3
        else:
            np.testing.assert_array_equal(changed, mask)
            assert ndimage.label(mask, np.ones((3, 3)))[1] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_defect_is_the_same_in_every_dtype(kind):
    image = texture(channels=3)
    expected = planted(image, kind, 3)[0]
    for dtype, scale in (("uint16", 257), ("float32", 1 / 255), ("float64", 1 / 255)):
        damaged = planted(in_dtype(image, dtype), kind, 3)[0] / scale
        np.testing.assert_allclose(damaged, expected, atol=1.6)  # a level is no change, and rounds


def test_whole_images_of_16_bits_use_them_and_floats_are_not_rounded():
    for dtype, scale in (("uint16", 257), ("float64", 1 / 255)):
        damaged = planted(in_dtype(texture(), dtype), "blur", 0)[0] / scale
        assert (np.abs(damaged - damaged.round()) > 0.1).mean() > 0.5


@pytest.mark.parametrize("kind", ["scratch", "stain", "dent", "blur", "warp"])
def test_pictures_of_two_levels_stay_such(kind):
    image = texture() > 120
    damaged, mask = planted(image, kind, 0)
    assert damaged.dtype == bool
    np.testing.assert_array_equal(damaged[~mask], image[~mask])
    assert 0.001 < (damaged != image).mean() < 0.5


@pytest.mark.parametrize("kind", LOCAL)
@pytest.mark.parametrize("size", [0.5, 0.25])
def test_defects_lie_in_a_window_of_their_size(kind, size):
    image = texture(128)
    for seed in range(4):
        rows, columns = np.nonzero(planted(image, kind, seed, size=size)[1])
        assert np.ptp(rows) < 128 * size and np.ptp(columns) < 128 * size


def test_windows_have_16_pixels_and_lie_everywhere():
    image, seen = texture(48), np.zeros((48, 48), dtype=bool)
    for seed in range(150):
        mask = planted(image, "stain", seed, size=0.01)[1]
        assert 4 <= mask.sum() <= 8**2
        seen |= mask
    assert seen[:8].any() and seen[-8:].any() and seen[:, :8].any() and seen[:, -8:].any()
    lines = [np.nonzero(planted(image, "scratch", seed, size=0.01)[1]) for seed in range(20)]
    assert 8 < max(np.ptp(each) for line in lines for each in line) < 16


@pytest.mark.parametrize("kind", DEFECTS)
def test_a_defect_as_large_as_the_image_is_the_one_of_planted_texture(kind):
    image, rng = texture(), np.random.default_rng(5)
    rng.integers(1), rng.integers(1)  # the only place there is
    expected, mask = DEFECTS[kind](image, rng, 0.8)
    damaged, where = planted(image, kind, 5, strength=0.8)
    np.testing.assert_array_equal(damaged, expected)
    np.testing.assert_array_equal(where, mask)


@pytest.mark.parametrize("kind", KINDS)
def test_faint_ones_change_less(kind):
    image = texture(channels=3)

    def change(strength):
        damaged = [planted(image, kind, seed, strength=strength)[0] for seed in range(3)]
        return np.abs(np.stack(damaged) - image.astype(float)).sum()

    assert change(0.5) < 0.9 * change(1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_small_and_narrow_images_have_room(kind):
    for shape in ((28, 28), (16, 40)):
        image = texture(40)[: shape[0], : shape[1]]
        for size in (1.0, 0.125):
            damaged, mask = planted(image, kind, 0, size=size)
            assert damaged.shape == shape and mask.any()


def test_same_seed_gives_the_same_defect_and_leaves_the_global_generator_alone():
    image, before = texture(), np.random.get_state()  # noqa: NPY002
    first, again, other = (planted(image, "stain", s)[0] for s in (7, np.random.default_rng(7), 8))
    planted(image, "stain")
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# -- what kinds do --------------------------------------------------------------------------------


def around(kind, image, **how):
    """(before, after) of the pixels of a spot, by three draws."""
    for seed in range(3):
        damaged, mask = planted(image, kind, seed, **how)
        yield image[mask].astype(float), damaged[mask].astype(float)


def test_spots_lose_or_gain_contrast():
    for before, after in around("faded", texture()):
        assert after.std() < 0.6 * before.std()
    for before, after in around("grain", texture()):
        assert after.std() > 1.2 * before.std()


def test_a_smear_is_smooth_along_one_axis():
    damaged, mask = planted(texture(), "smear", 0)
    inside = ndimage.binary_erosion(mask, iterations=2)
    rough = [np.abs(np.diff(damaged.astype(float), axis=axis)) for axis in (0, 1)]
    rough = sorted([rough[0][inside[1:]].mean(), rough[1][inside[:, 1:]].mean()])
    assert rough[0] < 0.5 * rough[1]


def test_a_dent_moves_what_is_there():
    for before, after in around("dent", texture()):
        assert abs(after.mean() - before.mean()) < 0.5 * before.std()
        assert np.corrcoef(before, after)[0, 1] < 0.9


def test_what_is_displaced_comes_from_elsewhere_in_the_image():
    image = texture()
    damaged, mask = planted(image, "displaced", 2)
    windows = np.lib.stride_tricks.sliding_window_view(image, (3, 3))
    known = [
        (windows == damaged[row - 1 : row + 2, column - 1 : column + 2]).all((2, 3)).any()
        for row, column in np.argwhere(ndimage.binary_erosion(mask, iterations=2))
    ]
    assert len(known) > 50 and np.mean(known) > 0.5  # not where two ends of the image meet


def test_colors_change_by_factors():
    image = texture(channels=3).astype(float) / 255
    ratio = planted(image, "brightness", 0)[0] / image
    np.testing.assert_allclose(np.abs(ratio - 1), 0.12)
    ratio = (planted(image, "tint", 0)[0] / image).reshape(-1, 3)
    np.testing.assert_allclose(ratio, ratio[:1].repeat(len(ratio), 0))
    np.testing.assert_allclose(np.abs(ratio[0] - 1).max(), 0.1)
    assert np.ptp(ratio[0]) > 0.02
    ratio = planted(image, "shading", 0)[0] / image
    np.testing.assert_allclose(np.diff(ratio, 2, axis=0), 0, atol=1e-9)  # a plane
    np.testing.assert_allclose(np.diff(ratio, 2, axis=1), 0, atol=1e-9)
    assert 0.1 < np.ptp(ratio) < 0.5


def test_contrast_blur_and_noise():
    image = texture().astype(float) / 255
    damaged = planted(image, "contrast", 0)[0]
    assert damaged.mean() == pytest.approx(image.mean())
    assert abs(damaged.std() / image.std() - 1) == pytest.approx(0.25)
    np.testing.assert_allclose(planted(image, "blur", 0)[0], ndimage.gaussian_filter(image, 1))
    noise = planted(image, "noise", 0)[0] - image
    assert noise.std() == pytest.approx(0.3 * image.std(), rel=0.05)


def test_a_turn_is_one_by_six_degrees():
    image = texture(97).astype(float) / 255
    damaged = planted(image, "turn", 0)[0]
    both = [
        ndimage.rotate(image, angle, reshape=False, order=1, mode="reflect") for angle in (-6, 6)
    ]
    assert min(np.abs(damaged - one).max() for one in both) < 1e-6


def test_zoom_and_stretch_change_the_sizes_of_things():
    y, x = np.mgrid[-48:49, -48:49]
    disc = (np.hypot(y, x) < 20) * 0.5 + 0.2
    area, height, width = (disc > 0.45).sum(), 40, 40
    for seed in range(4):
        is_disc = planted(disc, "zoom", seed)[0] > 0.45
        ratio = is_disc.sum() / area
        assert min(abs(ratio - 1.15**2), abs(ratio - 1.15**-2)) < 0.06
        is_disc = planted(disc, "stretch", seed)[0] > 0.45
        sides = sorted([is_disc.any(1).sum() / height, is_disc.any(0).sum() / width])
        expected = [1, 1.2] if sides[1] > 1.1 else [1 / 1.2, 1]
        np.testing.assert_allclose(sides, expected, atol=0.06)


def test_a_warp_moves_pixels_a_little():
    ramp = np.tile(np.linspace(0, 1, 96), (96, 1))
    moved = (planted(ramp, "warp", 0)[0] - ramp)[8:-8, 8:-8] * 95  # pixels
    assert 0.4 < moved.std() < 3 and np.abs(moved).max() < 8
    assert np.abs(np.diff(moved, axis=0)).max() < 1


# -- errors ---------------------------------------------------------------------------------------


def test_what_cannot_be_seen_in_one_place_is_planted_in_another():
    dark = np.zeros((96, 96), dtype=np.uint8)
    dark[70:90, 8:30] = texture()[:20, :22]
    for seed in range(5):
        rows, columns = np.nonzero(planted(dark, "faded", seed, size=0.2)[1])
        assert rows.min() > 70 - 19 and columns.max() < 30 + 19  # in a window that sees something
    white = np.full((40, 40), 255, dtype=np.uint8)
    for seed in range(5):
        assert planted(white, "brightness", seed)[0].max() < 230


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("brightness", "tint")])
def test_invisible_defects_are_refused(kind):
    if kind == "shading":
        flat = np.zeros((40, 40), dtype=np.uint8)
    else:
        flat = np.full((40, 40), 90, dtype=np.uint8)
    with pytest.raises(ValueError, match=rf"'{kind}' of size 1 .* is invisible .* deviation of 0"):
        planted(flat, kind, 0)


def test_invalid_arguments_are_named():
    image = texture()
    for arguments, message in [
        ((image, "hole"), "kind: expected one of 'scratch', .*'warp', got 'hole'"),
        ((image[0], "dent"), r"image: expected \(H, W\), .*got \(96,\)"),
        ((image[None], "dent"), r"got \(1, 96, 96\)"),
        ((image.astype(int), "dent"), "expected dtype uint8, .* got int64"),
        ((image[:15], "dent"), "at least 16 pixels per side .*got 15 x 96"),
    ]:
        with pytest.raises(ValueError, match=message):
            planted(*arguments)
    for changes, message in [
        ({"size": 0}, r"size: expected a number in \(0, 1\], got 0"),
        ({"size": 1.1}, "got 1.1"),
        ({"size": "half"}, "size: .* got 'half'"),
        ({"strength": None}, "strength: .* got None"),
        ({"strength": 0}, "strength: expected a positive number, got 0"),
        ({"strength": np.nan}, "got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            planted(image, "dent", **changes)
