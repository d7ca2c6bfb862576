"""Metrics against scikit-learn and against slow, literal implementations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import slow_aupro, slow_bootstrap, slow_f1_max, slow_wilson
from scipy import ndimage, stats
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from anomalib_lite import metrics
from anomalib_lite.metrics import (
    aupro,
    average_precision,
    bootstrap_interval,
    f1_max,
    image_auroc,
    pixel_auroc,
    pixel_average_precision,
    pro_curve,
    wilson_interval,
)

IMAGE_METRICS = [image_auroc, average_precision, f1_max]
PIXEL_METRICS = [pixel_auroc, pixel_average_precision, aupro]


def scored_labels(seed, n=60, levels=None):
    """Labels and overlapping scores; `levels` rounds the scores to create ties."""
    rng = np.random.default_rng(seed)
    y_true = rng.permutation(np.arange(n) % 3 == 0)
    scores = rng.normal(size=n) + y_true
    return y_true, scores if levels is None else np.round(scores * levels) / levels


def scored_masks(seed, sizes=((9, 12), (7, 7), (12, 5)), levels=None, dtype=np.float64):
    """Random defect masks with several regions, and maps that find them in part."""
    rng = np.random.default_rng(seed)
    masks = [rng.random(size) < 0.2 for size in sizes]
    maps = [(rng.normal(size=mask.shape) + mask).astype(dtype) for mask in masks]
    return masks, maps if levels is None else [np.round(heat * levels) / levels for heat in maps]


@pytest.mark.parametrize("levels", [None, 1])
def test_image_metrics_equal_scikit_learn(levels):
    y_true, scores = scored_labels(0, levels=levels)
    assert image_auroc(y_true, scores) == roc_auc_score(y_true, scores)
    assert average_precision(y_true, scores) == average_precision_score(y_true, scores)


def test_auroc_is_the_probability_of_correct_ranking():
    y_true, scores = scored_labels(1, levels=1)
    bad, good = scores[y_true][:, None], scores[~y_true][None]
    expected = ((bad > good) + 0.5 * (bad == good)).mean()
    assert image_auroc(y_true, scores) == pytest.approx(expected)


@given(
    hnp.arrays(bool, 12).filter(lambda y: 0 < y.sum() < 12),
    hnp.arrays(float, 12, elements=st.integers(-3, 3)),
)
def test_f1_max_equals_the_slow_search(y_true, scores):
    f1, threshold = slow_f1_max(y_true, scores)
    best = f1_max(y_true, scores)
    assert best.f1 == pytest.approx(f1)
    assert best.threshold == threshold
    assert f1_score(y_true, scores >= best.threshold) == pytest.approx(best.f1)


def test_f1_max_takes_the_highest_of_equal_thresholds():
    assert f1_max([1, 0, 1], [3.0, 2.0, 1.0]) == (0.8, 1.0)
    # one of two anomalies without false alarms, or both with two: F1 is 2/3 either way
    assert f1_max([1, 0, 0, 1], [4.0, 3.0, 2.0, 1.0]) == (pytest.approx(2 / 3), 4.0)


def test_pixel_metrics_equal_scikit_learn_on_all_pixels():
    masks, maps = scored_masks(2)
    truth, heat = (np.concatenate([a.ravel() for a in arrays]) for arrays in (masks, maps))
    assert pixel_auroc(masks, maps) == roc_auc_score(truth, heat)
    assert pixel_average_precision(masks, maps) == average_precision_score(truth, heat)


@pytest.mark.parametrize("max_fpr", [0.01, 0.1, 0.3, 0.77, 1])
@pytest.mark.parametrize("levels", [None, 2, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_equals_the_slow_implementation(seed, levels, max_fpr):
    masks, maps = scored_masks(seed, levels=levels)
    expected = slow_aupro(masks, maps, max_fpr)
    assert aupro(masks, maps, max_fpr=max_fpr) == pytest.approx(expected, abs=1e-12)


@given(
    hnp.arrays(bool, (2, 4, 4)).filter(lambda m: m.any() and not m.all()),
    hnp.arrays(np.float32, (2, 4, 4), elements=st.integers(0, 4)),
    st.floats(0.01, 1.0),
)
def test_aupro_equals_the_slow_implementation_with_ties(masks, maps, max_fpr):
    expected = slow_aupro(masks, maps, max_fpr)
    assert aupro(masks, maps, max_fpr=max_fpr) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("levels", "dtype"),
    [(2, float), (7, float), (1000, float), (7, np.uint8), (200, np.uint16), (7, np.int64)],
)
def test_points_of_the_pro_curve_by_hand(levels, dtype):
    rng = np.random.default_rng(levels)
    masks = rng.random((3, 6, 8)) < 0.2
    maps = (rng.integers(0, levels, size=masks.shape) + 2 * masks).astype(dtype)
    curve = pro_curve(masks, maps)
    assert curve.thresholds[1:].tolist() == sorted(set(maps.ravel()), reverse=True)
    regions = [
        (heat, labels == i)
        for heat, (labels, n) in zip(
            maps, (ndimage.label(m, structure=np.ones((3, 3))) for m in masks), strict=True
        )
        for i in range(1, n + 1)
    ]
    for fpr, overlap, threshold in zip(*curve, strict=True):
        assert fpr == pytest.approx(np.mean(maps[~masks] >= threshold))
        found = np.mean([np.mean(heat[region] >= threshold) for heat, region in regions])
        assert overlap == pytest.approx(found)
    area = np.diff(curve.fpr) @ (curve.overlap[1:] + curve.overlap[:-1]) / 2
    assert area == pytest.approx(aupro(masks, maps, max_fpr=1))
    middle = np.median(maps)
    called = pro_curve(masks, maps >= middle)
    assert called.thresholds.tolist() == [np.inf, 1, 0]
    assert called.fpr[1] == pytest.approx(np.mean(maps[~masks] >= middle))


def test_aupro_of_perfect_constant_and_inverted_maps():
    masks, _ = scored_masks(3)
    assert aupro(masks, [mask.astype(float) for mask in masks]) == pytest.approx(1.0)
    assert aupro(masks, [np.zeros(mask.shape) for mask in masks]) == pytest.approx(0.15)
    assert aupro(masks, [~mask for mask in masks]) == pytest.approx(0.0)


def test_aupro_weighs_regions_equally_and_joins_diagonal_neighbors():
    mask, heat = np.zeros((2, 40, 40), dtype=int)
    mask[2:12, 2:12] = 255  # a large region, missed
    mask[30, 30] = mask[31, 31] = 255  # a region of two diagonal pixels, one of them found
    heat[30, 30] = 1
    curve_start = (0 + 1 / 2) / 2  # overlap without false alarms; all other pixels tie
    expected = curve_start + (1 - curve_start) * 0.3 / 2
    assert aupro([mask], [heat]) == pytest.approx(expected)


def test_aupro_of_one_pixel_regions_is_the_partial_area_under_the_roc_curve():
    rng = np.random.default_rng(4)
    masks = np.zeros((3, 12, 12), dtype=bool)
    masks[:, 1::3, 1::3] = True
    maps = rng.normal(size=masks.shape) + masks
    assert aupro(masks, maps, max_fpr=1) == pytest.approx(pixel_auroc(masks, maps))


@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_arrays_lists_and_dtypes_agree_and_inputs_are_unchanged(metric):
    masks, maps = scored_masks(5, sizes=[(8, 9)] * 3, dtype=np.float32)
    masks, maps = np.stack(masks), np.stack(maps)
    before = masks.copy(), maps.copy()
    value = metric(masks, maps)
    assert metric(list(masks), list(maps)) == value
    assert metric(masks.astype(np.uint8) * 255, maps.astype(np.float64)) == pytest.approx(value)
    np.testing.assert_array_equal(masks, before[0])
    np.testing.assert_array_equal(maps, before[1])


@pytest.mark.parametrize("metric", [*IMAGE_METRICS, *PIXEL_METRICS])
def test_only_the_order_of_scores_matters(metric):
    if metric in IMAGE_METRICS:
        truth, scores = scored_labels(6)
        values = metric(truth, scores), metric(truth, np.exp(scores))
    else:
        truth, scores = scored_masks(6)
        values = metric(truth, scores), metric(truth, [np.exp(heat) for heat in scores])
    first, second = (v.f1 if metric is f1_max else v for v in values)
    assert first == pytest.approx(second)
    assert type(first) is float


@pytest.mark.parametrize("metric", IMAGE_METRICS)
@pytest.mark.parametrize(
    "y_true, scores, message",
    [
        ([0, 1], [0.1, 0.2, 0.3], r"\(2,\) and \(3,\)"),
        ([[0, 1]], [[0.1, 0.2]], r"shape \(n,\)"),
        ([0, 1, 0], [0.1, np.nan, 0.3], "nan at index 1"),
        ([0, 1, 0], [0.1, 0.2, np.inf], "inf at index 2"),
        ([1, -1], [0.1, 0.2], r"labels == -1"),
        ([0, 0], [0.1, 0.2], "2 normal and 0 anomalous"),
        ([1, 1], [0.1, 0.2], "0 normal and 2 anomalous"),
    ],
)
def test_invalid_scores_are_named(metric, y_true, scores, message):
    with pytest.raises(ValueError, match=message):
        metric(y_true, scores)


@pytest.mark.parametrize("metric", PIXEL_METRICS)
def test_invalid_maps_are_named(metric):
    masks, maps = scored_masks(7)
    with pytest.raises(ValueError, match="3 masks, 2 maps"):
        metric(masks, maps[:2])
    with pytest.raises(ValueError, match="at least one image"):
        metric([], [])
    with pytest.raises(ValueError, match=r"image 1: .* mask \(7, 7\) and map \(7, 6\)"):
        metric(masks, [maps[0], maps[1][:, 1:], maps[2]])
    with pytest.raises(ValueError, match=r"image 0: .* mask \(63,\)"):
        metric([masks[0].ravel()[:63]], [maps[0].ravel()[:63]])
    with pytest.raises(ValueError, match="image 2: expected a mask of 0 and 1"):
        metric([*masks[:2], masks[2] * 0.4], maps)
    for wrong in (np.nan, -np.inf):
        broken = maps[2].copy()
        broken[3, 3] = wrong
        with pytest.raises(ValueError, match="image 2: expected a finite map"):
            metric(masks, [*maps[:2], broken])
    heat = np.arange(20.0).reshape(4, 5)
    with pytest.raises(ValueError, match="20 normal and 0 anomalous"):
        metric([np.zeros((4, 5))], [heat])
    with pytest.raises(ValueError, match="0 normal and 20 anomalous"):
        metric([np.ones((4, 5))], [heat])


@pytest.mark.parametrize("max_fpr", [0, -0.1, 1.01, np.nan])
def test_aupro_refuses_a_limit_outside_its_range(max_fpr):
    with pytest.raises(ValueError, match=r"max_fpr: expected a number in \(0, 1\], got"):
        aupro(*scored_masks(8), max_fpr=max_fpr)


# -- intervals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, 1])
@pytest.mark.parametrize("metric", [image_auroc, average_precision])
def test_bootstrap_equals_the_slow_one(metric, levels):
    y_true, scores = scored_labels(10, n=40, levels=levels)
    low, high = bootstrap_interval(metric, y_true, scores, n_resamples=150, random_state=3)
    expected = slow_bootstrap(metric, y_true, scores, 150, 0.95, 3)
    assert (low, high) == pytest.approx(expected, abs=1e-12)
    assert 0 < low < metric(y_true, scores) < high <= 1


def test_any_metric_is_resampled_alike():
    y_true, scores = scored_labels(11)
    quick = bootstrap_interval(image_auroc, y_true, scores, n_resamples=50)
    plain = bootstrap_interval(lambda *x: image_auroc(*x), y_true, scores, n_resamples=50)
    assert quick == pytest.approx(plain, abs=1e-12)


def test_parts_of_resamples_do_not_matter(monkeypatch):
    y_true, scores = scored_labels(12)
    whole = bootstrap_interval(average_precision, y_true, scores, n_resamples=70)
    monkeypatch.setattr(metrics, "_N_TOGETHER", 7 * len(scores))
    assert bootstrap_interval(average_precision, y_true, scores, n_resamples=70) == whole


def test_bootstrap_agrees_with_scipy():
    y_true, scores = scored_labels(13, n=90)

    def auroc(bad, good, axis):
        diff = bad[..., :, None] - good[..., None, :]
        return (diff > 0).mean((-1, -2))

    samples = scores[y_true], scores[~y_true]
    found = stats.bootstrap(
        samples, auroc, method="percentile", n_resamples=3000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert bootstrap_interval(image_auroc, y_true, scores) == pytest.approx(found, abs=0.01)


def test_more_confidence_is_wider_and_the_same_seed_the_same():
    y_true, scores = scored_labels(14)
    narrow = bootstrap_interval(image_auroc, y_true, scores, confidence=0.8)
    wide = bootstrap_interval(image_auroc, y_true, scores, confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert narrow == bootstrap_interval(image_auroc, y_true, scores, confidence=0.8)
    assert narrow != bootstrap_interval(image_auroc, y_true, scores, confidence=0.8, random_state=1)


def test_wilson_inverts_the_score_test():
    for n_hits, n in [(0, 1), (1, 1), (0, 50), (50, 50), (3, 7), (1, 200), (88, 100)]:
        for confidence in (0.5, 0.95, 0.999):
            found = wilson_interval(n_hits, n, confidence=confidence)
            assert found == pytest.approx(slow_wilson(n_hits, n, confidence), abs=1e-9)
            known = stats.binomtest(n_hits, n).proportion_ci(confidence, method="wilson")
            assert found == pytest.approx((known.low, known.high), abs=1e-12)


@pytest.mark.parametrize("confidence", [0, 1, 1.5, -0.1, "0.95", np.nan])
def test_confidence_is_checked(confidence):
    with pytest.raises(ValueError, match="confidence: expected a number in"):
        wilson_interval(1, 2, confidence=confidence)
    with pytest.raises(ValueError, match="confidence: expected a number in"):
        bootstrap_interval(image_auroc, [0, 1], [0.0, 1.0], confidence=confidence)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="n_hits: expected at most n, got 3 of 2"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="n: expected a positive int"):
        wilson_interval(0, 0)
    with pytest.raises(ValueError, match="n_hits"):
        wilson_interval(-1, 2)
