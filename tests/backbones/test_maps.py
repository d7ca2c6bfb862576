"""Pixel maps against slow, literal readings."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from anomalib_lite.backbones import MapRenderer, resize_matrix, window_starts
from anomalib_lite.backbones.maps import window_weights


def random_grids(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def resized(array, size):
    """PyTorch's bilinear resizing of (h, w), antialiased along an axis that shrinks."""
    for axis in (0, 1):
        side = [array.shape[0], array.shape[1]]
        shrinks = size[axis] < side[axis]
        side[axis] = size[axis]
        grid = torch.from_numpy(np.ascontiguousarray(array))[None, None]
        grid = F.interpolate(
            grid, size=tuple(side), mode="bilinear", align_corners=False, antialias=shrinks
        )
        array = grid[0, 0].numpy()
    return array


def slow_map(grid, image_size, size, *, seen_size=None, offset=(0, 0), smoothing=4.0):
    """Upsampled, blurred, placed in the image, resized: step by step in float64."""
    seen = resized(grid.numpy().astype(np.float64), seen_size or image_size)
    blurred = ndimage.gaussian_filter(seen, smoothing, mode="nearest") if smoothing else seen
    whole = np.zeros(image_size)
    top, left = offset
    whole[top : top + blurred.shape[0], left : left + blurred.shape[1]] = blurred
    return resized(whole, size)


@pytest.mark.parametrize("size", [(32, 48), (64, 50), (20, 96), (11, 13), (40, 40)])
@pytest.mark.parametrize("smoothing", [0, 0.7, 4.0])
@pytest.mark.parametrize("cells", [(4, 6), (5, 5)])
def test_a_map_is_upsampling_blur_and_resizing(cells, size, smoothing):
    (grid,) = random_grids(cells)
    renderer = MapRenderer((32, 48), smoothing=smoothing)
    expected = slow_map(grid, (32, 48), size, smoothing=smoothing)
    assert expected.shape == size
    np.testing.assert_allclose(renderer(grid, size), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 30), (80, 21)])
def test_a_map_covers_the_crop_it_was_made_for(size):
    (grid,) = random_grids((4, 3))
    place = {"seen_size": (32, 24), "offset": (4, 3)}
    renderer = MapRenderer((40, 30), **place, smoothing=2.0)
    expected = slow_map(grid, (40, 30), size, **place, smoothing=2.0)
    np.testing.assert_allclose(renderer(grid, size), expected, rtol=1e-4, atol=1e-5)


def test_a_map_is_zero_where_nothing_was_seen():
    renderer = MapRenderer((40, 30), (32, 20), (4, 7), smoothing=2.0)
    heat = renderer(torch.ones(4, 5), (40, 30))
    inside = torch.zeros(40, 30, dtype=torch.bool)
    inside[4:36, 7:27] = True
    assert (heat[~inside] == 0).all()
    np.testing.assert_allclose(heat[inside], 1, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0, 4.0])
@pytest.mark.parametrize("size", [(60, 100), (224, 224), (13, 300)])
def test_a_constant_grid_gives_a_constant_map(size, smoothing):
    heat = MapRenderer((64, 96), smoothing=smoothing)(torch.full((8, 12), 2.5), size)
    assert heat.dtype == torch.float32
    np.testing.assert_allclose(heat, 2.5, rtol=1e-5)


@pytest.mark.parametrize("cell", [(2, 9), (5, 1), (4, 6)])
def test_a_hot_cell_peaks_in_its_own_pixels(cell):
    """In an image whose sides differ, resized to a square: axes may not be swapped anywhere."""
    grid = torch.zeros(8, 12)
    grid[cell] = 1
    heat = MapRenderer((64, 64), smoothing=2.0)(grid, (80, 240))
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    center = (cell[0] + 0.5) * 80 / 8, (cell[1] + 0.5) * 240 / 12
    assert abs(peak[0] + 0.5 - center[0]) <= 2
    assert abs(peak[1] + 0.5 - center[1]) <= 2


def test_a_hot_cell_of_a_crop_peaks_inside_the_crop():
    grid = torch.zeros(4, 4)
    grid[0, 3] = 1
    heat = MapRenderer((64, 96), (32, 32), (16, 32), smoothing=1.0)(grid, (64, 96))
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    assert 16 <= peak[0] < 24
    assert 56 <= peak[1] < 64


def test_one_renderer_serves_many_devices():
    renderer = MapRenderer((32, 48))
    renderer(torch.zeros(4, 6), (32, 48))
    assert renderer(torch.empty(4, 6, device="meta"), (32, 48)).device.type == "meta"


def test_one_renderer_serves_many_sizes():
    (grid, coarse) = random_grids((4, 6), (2, 3))
    renderer = MapRenderer((32, 48))
    for array, size in [(grid, (32, 48)), (grid, (48, 32)), (coarse, (32, 48)), (grid, (32, 48))]:
        alone = MapRenderer((32, 48))(array, size)
        assert torch.equal(renderer(array, size), alone)


@pytest.mark.parametrize("n_out", [1, 3, 7, 12, 40])
@pytest.mark.parametrize("n_in", [1, 4, 7, 23])
def test_a_resize_matrix_is_torchs_interpolation(n_in, n_out):
    (columns,) = random_grids((n_in, 5))
    columns = columns.double()
    expected = F.interpolate(
        columns[None, None], size=(n_out, 5), mode="bilinear", antialias=n_out < n_in
    )
    matrix = resize_matrix(n_in, n_out)
    assert matrix.shape == (n_out, n_in)
    np.testing.assert_allclose(matrix @ columns.numpy(), expected[0, 0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(1), 1)


# -- maps of windows ------------------------------------------------------------------------------


def slow_spread(grid, image_size, size, stride, sigma):
    """Each pixel's mean of all windows, weighted by a Gaussian of the distance of their centers."""
    rows, columns = (window_starts(length, size, stride) for length in image_size)
    heat = np.zeros(image_size)
    for y, x in np.ndindex(*image_size):
        total = weights = 0.0
        for i, top in enumerate(rows):
            for j, left in enumerate(columns):
                apart = np.hypot(y + 0.5 - top - size / 2, x + 0.5 - left - size / 2)
                weight = np.exp(-(apart**2) / (2 * sigma**2))
                total, weights = total + weight * float(grid[i, j]), weights + weight
        heat[y, x] = total / weights
    return heat


def windows_grid(image_size, size, stride):
    (grid,) = random_grids(tuple(len(window_starts(side, size, stride)) for side in image_size))
    return grid


@pytest.mark.parametrize("sigma", [2.0, 5.0])
@pytest.mark.parametrize(("size", "stride"), [(8, 4), (9, 5), (16, 16)])
def test_a_map_of_windows_is_their_weighted_mean(size, stride, sigma):
    grid = windows_grid((16, 30), size, stride)
    renderer = MapRenderer((16, 30), smoothing=sigma, windows=(size, stride))
    expected = slow_spread(grid, (16, 30), size, stride, sigma)
    np.testing.assert_allclose(renderer(grid, (16, 30)), expected, rtol=1e-4, atol=1e-5)
    other = slow_spread(grid, (16, 30), size, stride, sigma * 1.3)
    assert np.abs(other - expected).max() > 1e-3


def test_a_map_of_windows_is_placed_and_resized_as_any_other():
    grid = windows_grid((32, 24), 8, 4)
    place = {"seen_size": (32, 24), "offset": (4, 3)}
    renderer = MapRenderer((40, 30), **place, smoothing=3.0, windows=(8, 4))
    whole = np.zeros((40, 30))
    whole[4:36, 3:27] = slow_spread(grid, (32, 24), 8, 4, 3.0)
    for size in [(40, 30), (80, 21)]:
        expected = resized(whole, size)
        np.testing.assert_allclose(renderer(grid, size), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0, 0.01, 1.0, 4.0, 1000.0])
@pytest.mark.parametrize(("n", "size", "stride"), [(64, 16, 4), (64, 32, 12), (20, 20, 3)])
def test_each_pixel_spreads_its_weight_among_the_windows(n, size, stride, sigma):
    """Even of a deviation so small that all weights would vanish."""
    matrix = window_weights(n, size, stride, sigma)
    assert matrix.shape == (n, len(window_starts(n, size, stride)))
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1)


def test_without_smoothing_a_pixel_takes_the_nearest_window():
    matrix = window_weights(12, 4, 4, 0)  # centers 2, 6, 10
    assert matrix.argmax(1).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert set(matrix.ravel().tolist()) == {0.0, 1.0}
    between = window_weights(5, 2, 3, 0)  # centers 1 and 4: the middle of pixel 2 is 2.5
    assert between[2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("smoothing", [0, 4.0])
@pytest.mark.parametrize("size", [(64, 96), (13, 300)])
def test_constant_windows_give_a_constant_map(size, smoothing):
    renderer = MapRenderer((64, 96), smoothing=smoothing, windows=(32, 12))
    grid = torch.full_like(windows_grid((64, 96), 32, 12), 2.5)
    np.testing.assert_allclose(renderer(grid, size), 2.5, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0, 4.0])
@pytest.mark.parametrize("cell", [(1, 4), (2, 1), (3, 5)])
def test_a_hot_window_peaks_at_its_center(cell, smoothing):
    grid = torch.zeros_like(windows_grid((64, 96), 16, 12))
    grid[cell] = 1
    renderer = MapRenderer((64, 96), smoothing=smoothing, windows=(16, 12))
    heat = renderer(grid, (64, 96))
    hottest = (heat > 0.999 * heat.max()).nonzero().float() + 0.5
    center = [cell[0] * 12 + 8, cell[1] * 12 + 8]
    assert hottest.mean(0).tolist() == pytest.approx(center, abs=1)
