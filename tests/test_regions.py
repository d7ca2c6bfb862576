"""Regions of a map above a level."""

import numpy as np
import pytest
from scipy import ndimage

from anomalib_lite.regions import Region, find_regions


def slow_regions(heat, level):
    """Regions by a flood over neighbors, corners included."""
    left = {tuple(map(int, place)) for place in np.argwhere(heat > level)}
    regions = []
    while left:
        reached, edge = set(), {left.pop()}
        while edge:
            reached |= edge
            near = {
                (row + down, column + across)
                for row, column in edge
                for down in (-1, 0, 1)
                for across in (-1, 0, 1)
            }
            edge = near & left
            left -= edge
        rows, columns = zip(*reached, strict=True)
        box = (min(columns), min(rows), max(columns) + 1, max(rows) + 1)
        regions.append(Region(box, len(reached), max(float(heat[place]) for place in reached)))
    return sorted(regions, key=lambda region: -region.peak)


@pytest.mark.parametrize("seed", range(10))
def test_regions_are_those_of_a_flood(seed):
    heat = np.random.default_rng(seed).normal(size=(12, 17))
    assert find_regions(heat, 0.8) == slow_regions(heat, 0.8)
    assert len(find_regions(heat, 0.8)) > 3


def scipy_regions(heat, level, size):
    """Regions by the components of SciPy, in the order of its labels where peaks are equal."""
    labels, n = ndimage.label(heat > level, np.ones((3, 3)))
    peaks = ndimage.maximum(heat, labels, np.arange(1, n + 1))
    areas, boxes = np.bincount(labels.ravel())[1:], ndimage.find_objects(labels)
    down, across = np.divide(size, heat.shape)
    return [
        Region(
            (
                int(boxes[i][1].start * across),
                int(boxes[i][0].start * down),
                int(np.ceil(boxes[i][1].stop * across)),
                int(np.ceil(boxes[i][0].stop * down)),
            ),
            max(1, round(float(areas[i] * down * across))),
            float(peaks[i]),
        )
        for i in np.argsort(-np.asarray(peaks), kind="stable")
    ]


def spiral(n):
    """One region that winds around itself: its runs are joined late."""
    mask = np.zeros((n, n))
    (row, column), (down, across), length = (0, 0), (0, 1), n - 1
    mask[0, 0] = 1
    while length > 0:
        for _ in range(2):
            for _ in range(length):
                row, column = row + down, column + across
                mask[row, column] = 1
            down, across = across, -down
        length -= 2
    return mask


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (33, 57), (200, 150)])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.8, 1.0])
def test_regions_and_their_order_are_those_of_scipy(size, share):
    rng = np.random.default_rng(size[0])
    heat = rng.integers(0, 4, size) * (rng.random(size) < share)  # many peaks are equal
    expected = scipy_regions(heat, 0, (90, 70))
    assert find_regions(heat, 0, size=(90, 70)) == expected
    assert find_regions(heat.astype(np.float32).T, 0, size=(70, 90)) == scipy_regions(
        heat.T.copy(), 0, (70, 90)
    )


@pytest.mark.parametrize("turns", range(4))
def test_winding_regions_are_whole(turns):
    heat = np.rot90(spiral(61), turns)
    (region,) = find_regions(heat, 0.5)
    assert region == Region((0, 0, 61, 61), int(heat.sum()), 1.0)


def test_boxes_are_in_pixels_of_the_image_and_hold_the_region():
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    (region,) = find_regions(heat, 0.5, size=(10, 30))
    assert region.box == (15, 2, 23, 5)  # columns 15 to 22.5, rows 2.5 to 5
    assert region.area == round(10 / 4 * 30 / 4)


def test_small_images_have_areas_too():
    heat = np.zeros((100, 100))
    heat[3, 3] = 1
    (region,) = find_regions(heat, 0.5, size=(10, 10))
    assert region == Region((0, 0, 1, 1), 1, 1.0)


@pytest.mark.parametrize("level", [1.0, np.nan, np.inf, -np.inf])
def test_without_anything_above_a_level_there_is_no_region(level):
    assert find_regions(np.ones((3, 3)), level) == []


def test_a_map_has_two_axes():
    with pytest.raises(ValueError, match=r"expected shape \(h, w\)"):
        find_regions(np.zeros((1, 3, 3)), 0.0)
