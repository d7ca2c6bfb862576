"""Patch rows and pixel maps against slow, literal readings."""

import numpy as np
import pytest
import torch
from oracles import slow_concat_embedding, slow_official_embedding
from scipy import ndimage
from torch.nn import functional as F

from anomalib_lite.backbones.patches import (
    AGGREGATIONS,
    MapRenderer,
    RowStore,
    _spread_matrix,
    grid_rows,
    patch_embedding,
    resize_matrix,
    sliding_windows,
    window_starts,
)


def feature_maps(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


TINY = {
    "one map": [(1, 2, 4, 5)],
    "two maps": [(2, 3, 6, 4), (2, 5, 3, 2)],
    "three maps": [(2, 2, 8, 8), (2, 3, 4, 4), (2, 1, 2, 2)],
    "sizes that do not divide": [(1, 2, 7, 5), (1, 3, 4, 3)],
    "maps of one size": [(2, 3, 4, 4), (2, 3, 4, 4)],
    "a single coarse cell": [(1, 2, 3, 4), (1, 2, 1, 1)],
}


# -- one vector a patch ---------------------------------------------------------------------------


@pytest.mark.parametrize("neighborhood", [1, 3, 5])
@pytest.mark.parametrize("shapes", TINY.values(), ids=TINY)
def test_concat_is_the_papers_text(shapes, neighborhood):
    maps = feature_maps(*shapes)
    embedding = patch_embedding(maps, neighborhood=neighborhood)
    expected = slow_concat_embedding(maps, neighborhood)
    np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("neighborhood", [1, 3, 5])
@pytest.mark.parametrize("shapes", TINY.values(), ids=TINY)
def test_official_is_the_authors_code(shapes, neighborhood):
    maps = feature_maps(*shapes)
    embedding = patch_embedding(maps, aggregation="official", neighborhood=neighborhood)
    assert embedding.shape == (shapes[0][0], 1024, *shapes[0][2:])
    expected = slow_official_embedding(maps, neighborhood)
    np.testing.assert_allclose(grid_rows(embedding).flatten(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_official_has_a_closed_form_for_wide_resnet_50():
    """512 and 1024 channels pooled to 1024 and again to 1024 leave fixed weights.

    Dimension k < 512 is channel k of layer 2 averaged over 3 x 3 cells, the center counting
    twice; dimension 512 + k the plain 3 x 3 means of channels 2k and 2k + 1 of layer 3.
    """
    layer2, layer3 = feature_maps((2, 512, 4, 6), (2, 1024, 2, 3))
    weights = torch.full((512, 1, 3, 3), 0.1)
    weights[:, :, 1, 1] = 0.2
    fine = F.conv2d(layer2, weights, padding=1, groups=512)
    coarse = F.conv2d(layer3, torch.full((1024, 1, 3, 3), 1 / 9), padding=1, groups=1024)
    coarse = F.interpolate(coarse, size=(4, 6), mode="bilinear", align_corners=False)
    expected = torch.cat([fine, (coarse[:, 0::2] + coarse[:, 1::2]) / 2], dim=1)
    for embedding in (
        patch_embedding([layer2, layer3], aggregation="official"),
        slow_official_embedding([layer2, layer3]).reshape(2, 4, 6, 1024).permute(0, 3, 1, 2),
    ):
        np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_an_embedding_of_one_image_does_not_depend_on_the_others(aggregation):
    maps = feature_maps((3, 4, 6, 5), (3, 7, 3, 3))
    together = patch_embedding(maps, aggregation=aggregation)
    alone = [patch_embedding([m[i : i + 1] for m in maps], aggregation=aggregation) for i in (2, 0)]
    torch.testing.assert_close(together[[2, 0]], torch.cat(alone))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_maps_are_left_as_they_were(aggregation):
    maps = feature_maps((1, 4, 6, 5), (1, 7, 3, 3))
    before = [grid.clone() for grid in maps]
    patch_embedding(maps, aggregation=aggregation).zero_()
    assert all(torch.equal(grid, old) for grid, old in zip(maps, before, strict=True))


def test_the_slow_embeddings_have_teeth():
    maps = feature_maps((1, 3, 4, 5), (1, 5, 2, 3))
    other = [maps[0], maps[1].flip(1)]
    for slow in (slow_concat_embedding, slow_official_embedding):
        assert np.abs(np.asarray(slow(maps)) - np.asarray(slow(other))).max() > 0.01
        assert np.abs(np.asarray(slow(maps)) - np.asarray(slow(maps, 1))).max() > 0.01


# -- rows -----------------------------------------------------------------------------------------


def test_rows_run_image_by_image_and_line_by_line():
    embedding = torch.arange(2 * 3 * 2 * 4).view(2, 3, 2, 4)  # (B, D, h, w)
    rows = grid_rows(embedding)
    assert rows.shape == (2, 8, 3)
    assert rows.is_contiguous()
    for image, i, j in np.ndindex(2, 2, 4):
        assert rows[image, i * 4 + j].tolist() == embedding[image, :, i, j].tolist()


def blocks(sizes, n_patches=5, dim=3):
    return feature_maps(*[(size, n_patches, dim) for size in sizes])


@pytest.mark.parametrize(
    ("n_images", "sizes"),
    [
        pytest.param(7, [3, 3, 1], id="as many as announced"),
        pytest.param(7, [3, 1], id="fewer than announced"),
        pytest.param(2, [3, 3, 1], id="more than announced"),
        pytest.param(None, [3, 4], id="unknown, few"),
        pytest.param(None, [4] * 25, id="unknown, many"),
        pytest.param(None, [50, 1], id="unknown, a large batch first"),
        pytest.param(None, [1, 50], id="unknown, a large batch later"),
    ],
)
def test_a_row_store_gives_back_what_it_was_given(n_images, sizes):
    store, given = RowStore(n_images), blocks(sizes)
    for count, rows in enumerate(given, start=1):
        store.append(rows)
        assert store.n_images == sum(sizes[:count])
        assert torch.equal(store.by_image, torch.cat(given[:count]))
        assert torch.equal(store.rows, torch.cat(given[:count]).flatten(0, 1))


def test_a_row_store_of_known_length_never_copies():
    store, given = RowStore(8), blocks([2, 3, 3])
    store.append(given[0])
    place = store.rows.data_ptr()
    for rows in given[1:]:
        store.append(rows)
    assert store.rows.data_ptr() == place


def test_a_row_store_of_unknown_length_copies_seldom():
    store, capacities = RowStore(None), set()
    for rows in blocks([1] * 200, n_patches=1):
        store.append(rows)
        capacities.add(store.rows.untyped_storage().nbytes())
    assert len(capacities) <= 8  # 16 * 1.5**7 > 200


def test_a_row_store_keeps_its_own_copy():
    rows = torch.ones(2, 3, 4)
    store = RowStore(2)
    store.append(rows)
    rows.zero_()
    assert (store.rows == 1).all()


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "size", "stride", "expected"),
    [
        (64, 32, 16, [0, 16, 32]),
        (64, 32, 12, [0, 12, 24, 32]),  # the last ends where the axis does
        (64, 32, 100, [0, 32]),
        (33, 32, 16, [0, 1]),
        (32, 32, 16, [0]),
        (3, 1, 1, [0, 1, 2]),
    ],
)
def test_windows_begin_every_stride_and_end_with_the_axis(length, size, stride, expected):
    assert window_starts(length, size, stride) == expected


@pytest.mark.parametrize("stride", [1, 3, 5, 50])
@pytest.mark.parametrize(("height", "width", "size"), [(12, 17, 5), (7, 7, 7), (8, 20, 8)])
def test_sliding_windows_are_slices(height, width, size, stride):
    (images,) = feature_maps((2, 3, height, width))
    windows = sliding_windows(images, size, stride)
    rows, columns = (window_starts(length, size, stride) for length in (height, width))
    assert windows.shape == (2, len(rows), len(columns), 3, size, size)
    for i, top in enumerate(rows):
        for j, left in enumerate(columns):
            expected = images[:, :, top : top + size, left : left + size]
            assert torch.equal(windows[:, i, j], expected)


def test_sliding_windows_are_taken_on_the_device_of_the_images():
    (images,) = feature_maps((1, 3, 9, 9))
    expected = sliding_windows(images, 4, 2)
    with torch.device("meta"):
        assert torch.equal(sliding_windows(images, 4, 2), expected)


# -- pixel maps -----------------------------------------------------------------------------------


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
    (grid,) = feature_maps(cells)
    renderer = MapRenderer((32, 48), smoothing=smoothing)
    expected = slow_map(grid, (32, 48), size, smoothing=smoothing)
    assert expected.shape == size
    np.testing.assert_allclose(renderer(grid, size), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(40, 30), (80, 21)])
def test_a_map_covers_the_crop_it_was_made_for(size):
    (grid,) = feature_maps((4, 3))
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


def test_one_renderer_serves_many_sizes():
    (grid, coarse) = feature_maps((4, 6), (2, 3))
    renderer = MapRenderer((32, 48))
    for array, size in [(grid, (32, 48)), (grid, (48, 32)), (coarse, (32, 48)), (grid, (32, 48))]:
        alone = MapRenderer((32, 48))(array, size)
        assert torch.equal(renderer(array, size), alone)


@pytest.mark.parametrize("n_out", [1, 3, 7, 12, 40])
@pytest.mark.parametrize("n_in", [1, 4, 7, 23])
def test_a_resize_matrix_is_torchs_interpolation(n_in, n_out):
    (columns,) = feature_maps((n_in, 5))
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
    (grid,) = feature_maps(tuple(len(window_starts(side, size, stride)) for side in image_size))
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
    matrix = _spread_matrix(n, size, stride, sigma)
    assert matrix.shape == (n, len(window_starts(n, size, stride)))
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(1), 1)


def test_without_smoothing_a_pixel_takes_the_nearest_window():
    matrix = _spread_matrix(12, 4, 4, 0)  # centers 2, 6, 10
    assert matrix.argmax(1).tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert set(matrix.ravel().tolist()) == {0.0, 1.0}
    between = _spread_matrix(5, 2, 3, 0)  # centers 1 and 4: the middle of pixel 2 is 2.5
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
