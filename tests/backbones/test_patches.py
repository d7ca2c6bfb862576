"""Patch vectors, rows and windows against slow, literal readings."""

import numpy as np
import pytest
import torch
from oracles import slow_concat_embedding, slow_official_embedding
from torch.nn import functional as F

from anomalib_lite.backbones import (
    RowStore,
    grid_rows,
    patch_embedding,
    pool_maps,
    rebatch,
    sliding_windows,
    window_starts,
)
from anomalib_lite.backbones.patches import AGGREGATIONS


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


# -- one vector per patch -------------------------------------------------------------------------


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


def test_maps_without_channels_are_left_out():
    maps = feature_maps((2, 0, 6, 4), (2, 5, 3, 2))
    expected = patch_embedding([torch.zeros(2, 1, 6, 4), maps[1]])[:, 1:]
    assert torch.equal(patch_embedding(maps), expected)


# -- one vector per image -------------------------------------------------------------------------


@pytest.mark.parametrize(("pooling", "pool"), [("mean", np.mean), ("max", np.max)])
def test_pooled_maps_are_means_or_maxima_side_by_side(pooling, pool):
    maps = feature_maps((2, 3, 4, 6), (2, 5, 2, 3))
    expected = [[pool(channel.numpy()) for grid in maps for channel in grid[i]] for i in (0, 1)]
    np.testing.assert_allclose(pool_maps(maps, pooling), expected, rtol=1e-5, atol=1e-6)


def test_pooled_deviations_follow_the_means_of_their_map():
    maps = feature_maps((2, 3, 4, 6), (2, 5, 2, 3))
    pools = [(grid, pool) for grid in maps for pool in (np.mean, np.std)]
    expected = [
        [pool(channel.numpy()) for grid, pool in pools for channel in grid[i]] for i in (0, 1)
    ]
    np.testing.assert_allclose(pool_maps(maps, "mean_std"), expected, rtol=1e-5, atol=1e-6)


def test_deviations_of_constant_channels_have_a_gradient():
    grid = torch.ones(1, 2, 3, 3, requires_grad=True)
    vectors = pool_maps([grid], "mean_std")
    np.testing.assert_allclose(vectors.detach(), [[1, 1, 0, 0]], atol=1e-6)
    vectors.sum().backward()
    assert grid.grad.isfinite().all()


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


@pytest.mark.parametrize(
    ("sizes", "n_rows", "expected"),
    [
        ([2, 2, 2, 2, 2], 4, [4, 4, 2]),
        ([3, 3, 1], 2, [3, 3, 1]),
        ([1, 5, 1], 3, [6, 1]),
        ([2, 2], 4, [4]),
        ([], 4, []),
    ],
)
def test_pieces_are_joined_until_a_block_is_full(sizes, n_rows, expected):
    pieces = feature_maps(*[(size, 3) for size in sizes])
    joined = list(rebatch(iter(pieces), n_rows))
    assert [len(block) for block in joined] == expected
    assert all(
        map(
            torch.equal,
            torch.cat([*joined, torch.empty(0, 3)]),
            [row for piece in pieces for row in piece],
        )
    )


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
