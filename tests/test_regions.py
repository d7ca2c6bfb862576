"""Regions of a map above a level."""

import numpy as np
import pytest

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
