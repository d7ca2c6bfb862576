"""Pixel figures of images one at a time against the exact ones, and their intervals."""

import numpy as np
import pytest
from scipy import ndimage
from test_metrics import scored_masks

from anomalib_lite import tally
from anomalib_lite.metrics import aupro, pixel_auroc
from anomalib_lite.tally import PixelTally


def tallied(masks, maps):
    one = PixelTally()
    for mask, heat in zip(masks, maps, strict=True):
        one.add(mask, heat)
    return one


def smooth_world(n=12, size=(96, 128), seed=0):
    """Masks, every third one empty, and smooth maps that find most of the defects."""
    rng = np.random.default_rng(seed)
    masks, maps = np.zeros((n, *size), dtype=bool), []
    for i, mask in enumerate(masks):
        for _ in range(i % 3):
            row, column = rng.integers(0, size[0] - 20), rng.integers(0, size[1] - 20)
            mask[row : row + rng.integers(2, 20), column : column + rng.integers(2, 20)] = True
        noise = ndimage.gaussian_filter(rng.normal(size=size), 2)
        maps.append((np.exp(5 * noise) + ndimage.gaussian_filter(3.0 * mask, 3)).astype(np.float32))
    return masks, maps


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("max_fpr", [0.05, 0.3, 1])
def test_small_images_are_counted_exactly(levels, max_fpr):
    masks, maps = scored_masks(0, levels=levels)
    found = tallied(masks, maps).figures(max_fpr=max_fpr, n_resamples=2)
    assert found.auroc == pytest.approx(pixel_auroc(masks, maps), abs=1e-12)
    assert found.aupro == pytest.approx(aupro(masks, maps, max_fpr=max_fpr), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("transform", [np.asarray, np.log, lambda x: x**8])
def test_large_images_are_counted_nearly_exactly(seed, transform):
    masks, maps = smooth_world(seed=seed)
    maps = [transform(heat) for heat in maps]
    found = tallied(masks, maps).figures(n_resamples=2)
    assert 0.5 < pixel_auroc(masks, maps) < 0.99
    assert found.auroc == pytest.approx(pixel_auroc(masks, maps), abs=2e-4)
    assert found.aupro == pytest.approx(aupro(masks, maps), abs=2e-4)


def test_intervals_equal_a_bootstrap_of_all_pixels():
    sizes = [(6, 7), (5, 8), (9, 4), (7, 7), (6, 6)]
    masks, maps = scored_masks(1, sizes=sizes)
    masks[0][:] = masks[3][:] = False
    found = tallied(masks, maps).figures(n_resamples=40, confidence=0.8, random_state=5)
    rng, values = np.random.default_rng(5), []
    for _ in range(40):
        drawn = [[0, 3][k] for k in rng.integers(2, size=2)]
        drawn += [[1, 2, 4][k] for k in rng.integers(3, size=3)]
        again = [masks[i] for i in drawn], [maps[i] for i in drawn]
        values.append((pixel_auroc(*again), aupro(*again)))
    expected = np.quantile(values, [0.1, 0.9], axis=0).T
    np.testing.assert_allclose([found.auroc_interval, found.aupro_interval], expected, atol=1e-12)


def test_parts_of_resamples_do_not_matter(monkeypatch):
    images = tallied(*scored_masks(2))
    whole = images.figures(n_resamples=30)
    monkeypatch.setattr(tally, "_N_TOGETHER", 7)
    assert np.hstack(images.figures(n_resamples=30)) == pytest.approx(np.hstack(whole))


def test_little_is_kept_of_a_large_image():
    heat = np.random.default_rng(3).random((300, 400), dtype=np.float32)
    mask = heat > 0.7
    images = tallied([mask], [heat])
    assert sum(part.size for kind in images._seen[0] for part in kind) <= 6 * tally.N_QUANTILES


def test_an_image_that_is_all_defect():
    masks, maps = scored_masks(4)
    masks[1][:] = True
    found = tallied(masks, maps).figures(n_resamples=200)
    assert found.auroc == pytest.approx(pixel_auroc(masks, maps))
    assert np.isfinite([*found.auroc_interval, *found.aupro_interval]).all()


def test_invalid_images_and_single_classes_are_named():
    heat = np.arange(20.0).reshape(4, 5)
    with pytest.raises(ValueError, match=r"mask \(4, 4\) and map \(4, 5\)"):
        PixelTally().add(np.zeros((4, 4)), heat)
    with pytest.raises(ValueError, match="expected a finite map"):
        PixelTally().add(np.zeros((4, 5)), heat * np.nan)
    with pytest.raises(ValueError, match="expected a mask of 0 and 1"):
        PixelTally().add(heat, heat)
    for images in ([np.zeros((4, 5))], [np.ones((4, 5))], []):
        one_kind = tallied(images, [heat] * len(images))
        assert not one_kind.has_both
        with pytest.raises(ValueError, match="normal and defective pixels, got none of one kind"):
            one_kind.figures()
    assert tallied(*scored_masks(5)).has_both
