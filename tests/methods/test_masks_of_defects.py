"""LabeledPatchCore with masks: which patches are defective, learned from a few marked defects."""

import warnings

import numpy as np
import pytest
import sklearn
import torch
from PIL import Image
from scipy.special import expit
from sklearn.model_selection import GridSearchCV
from test_labeled_patchcore import BAD, COMMON, GOOD, N_GOOD, NEW_BAD, NEW_GOOD, X, Y, auroc, dusty

from anomalib_lite import LabeledPatchCore, PatchCore, load
from anomalib_lite.backbones import Backbone
from anomalib_lite.deploy import OnnxDetector
from anomalib_lite.methods.patchcore.masked import LabeledPatches, Mark, masks_of_defects
from anomalib_lite.metrics import pixel_auroc
from anomalib_lite.testing import assert_same


def scratch_at(row, column):
    mask = np.zeros((64, 64), dtype=bool)
    mask[row - 2 : row + 2, column - 7 : column + 7] = True
    return mask


MASK, NEW_MASK = scratch_at(20, 40), scratch_at(30, 30)
MASKS = [MASK if label == -1 else None for label in Y]
MASKS[-1] = None  # its label alone


def labeled(**params):
    return LabeledPatchCore(**{**COMMON, "C": 0.1, **params})


@pytest.fixture(scope="module")
def fitted():
    return labeled().fit(X, Y, MASKS)


def test_masks_show_which_anomalies_are_defects(fitted):
    """Specks that do not matter are the most distant patches of these images."""
    plain, by_labels = PatchCore(**COMMON).fit(GOOD), labeled().fit(X, Y)
    specks_and_scratches = NEW_GOOD[::2].copy()
    specks_and_scratches[:, 28:32, 23:37] = 255
    masks = np.broadcast_to(NEW_MASK, specks_and_scratches.shape)
    found = [
        pixel_auroc(masks, each.anomaly_map(specks_and_scratches))
        for each in (plain, by_labels, fitted)
    ]
    assert found[1] == found[0]
    assert found[2] > found[0] + 0.03
    assert auroc(fitted, NEW_GOOD, NEW_BAD) > auroc(plain, NEW_GOOD, NEW_BAD) + 0.1


def rows_and_distances(detector, images):
    """Of each image (P, D) and (P,), to the bank of all images."""
    for image in images:
        _, batch = next(iter(detector._checked_batches(detector._open(image[None]), "")))
        rows = detector._embed(batch)[0][0]
        yield rows, detector.memory_bank_.query(rows)[0]


def test_scores_and_maps_are_those_of_two_regressions(fitted):
    seen = fitted.inspect(NEW_BAD)
    expected = []
    for i, (rows, distance) in enumerate(rows_and_distances(fitted, NEW_BAD)):
        odds = fitted.patch_head_.log_odds(distance, rows)
        values = -torch.log1p(-torch.from_numpy(expit(odds.numpy())))
        top = values.argsort(descending=True)[: round(0.05 * len(values))]
        evidence = rows[top].double().mean(0)
        expected.append(float(fitted.label_head_.log_odds(values.max()[None], evidence[None])))
        heat = fitted._map_renderer()(values.view(1, 8, 8).float(), (64, 64))[0]
        np.testing.assert_allclose(seen.maps[i], heat, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(-seen.scores, expected, rtol=1e-6)
    np.testing.assert_allclose(fitted.score_samples(NEW_BAD), seen.scores, rtol=1e-9)


def test_where_all_defects_have_masks_scores_are_by_these_alone():
    """Not even where it is the label of another image that says how much an anomaly counts."""
    detector = labeled().fit(X[:-1], Y[:-1], MASKS[:-1])
    assert detector.label_head_ is None
    expected = []
    for rows, distance in rows_and_distances(detector, NEW_BAD):
        odds = detector.patch_head_.log_odds(distance, rows)
        expected.append(torch.nn.functional.softplus(odds).max())
    np.testing.assert_allclose(detector.anomaly_score(NEW_BAD), expected, rtol=1e-6)
    held_out = -detector.evidence_.scores[Y[:-1] == 1]
    np.testing.assert_array_equal(detector.calibration_scores_, held_out)
    assert np.isfinite(detector.defect_scores_).all()
    assert auroc(detector, NEW_GOOD, NEW_BAD) > 0.9
    grown = detector.partial_fit(X[-1:], Y[-1:])
    assert grown.label_head_ is not None
    np.testing.assert_array_equal(grown.evidence_.has_mask, [m is not None for m in MASKS])


def test_no_image_is_judged_by_its_own_mask(fitted):
    """A mask on the wrong place teaches that stripes are defects, but not to its own image."""
    wrong = [None] * len(X)
    wrong[0], wrong[1] = scratch_at(50, 10), MASK
    detector = labeled(C=100.0).fit(X, Y, wrong)
    own = labeled(C=100.0).fit(X[1:], Y[1:], wrong[1:])
    rows, distance = next(rows_and_distances(own, X[:1]))
    values = torch.nn.functional.softplus(own.patch_head_.log_odds(distance, rows))
    np.testing.assert_allclose(detector.evidence_.scores[0], values.max(), rtol=1e-3)
    in_sample = next(rows_and_distances(detector, X[:1]))
    odds = detector.patch_head_.log_odds(in_sample[1], in_sample[0])
    assert abs(odds.max() - detector.evidence_.scores[0]) > 1


def test_evidence_of_good_images_is_by_other_images(fitted):
    """So it is higher than by the regression and the bank of all images; levels of maps, too."""
    good = Y == 1
    in_sample = [
        torch.nn.functional.softplus(fitted.patch_head_.log_odds(distance, rows)).max()
        for rows, distance in rows_and_distances(fitted, X[good])
    ]
    assert fitted.evidence_.scores[good].mean() > np.mean(in_sample) + 0.1
    assert fitted._examples_.shape[1:] == (8, 8)
    levels = fitted.map_levels()
    peaks = fitted.anomaly_map(GOOD).max((1, 2))
    assert np.median(peaks) < levels.normal < levels.threshold


def test_thresholds_hold_what_they_claim(fitted):
    alarms = np.mean(fitted.predict(dusty(120, 9)) == -1)
    assert 0 < alarms < 0.3
    assert (fitted.defect_scores_ < fitted.offset_).mean() > 0.5


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_results_do_not_depend_on_workers_or_the_order(fitted, n_jobs):
    order = np.argsort(Y, kind="stable")
    again = labeled(n_jobs=n_jobs).fit(X, Y, MASKS)
    assert_same(again.inspect(NEW_BAD), fitted.inspect(NEW_BAD))
    np.testing.assert_array_equal(again.calibration_scores_, fitted.calibration_scores_)
    turned = labeled(n_jobs=n_jobs).fit(X[order], Y[order], [MASKS[i] for i in order])
    np.testing.assert_allclose(
        turned.score_samples(NEW_BAD), fitted.score_samples(NEW_BAD), rtol=1e-6
    )
    assert turned.map_levels() == pytest.approx(fitted.map_levels())


def test_saved_and_exported_detectors_say_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "d.alite")
    again = load(tmp_path / "d.alite")
    assert_same(again.inspect(NEW_BAD), fitted.inspect(NEW_BAD))
    assert again.map_levels() == fitted.map_levels()
    fitted.export(tmp_path / "d.onnx")
    ours, exported = fitted.inspect(NEW_BAD), OnnxDetector(tmp_path / "d.onnx").inspect(NEW_BAD)
    np.testing.assert_allclose(exported.scores, ours.scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.stack([*exported.maps]), ours.maps, rtol=1e-3, atol=1e-4)


def test_defects_without_masks_can_be_added(fitted):
    first = Y == 1
    first[:2] = True
    grown = labeled().fit(X[first], Y[first], [MASKS[i] for i in np.flatnonzero(first)])
    before = grown.anomaly_map(NEW_BAD)
    grown.partial_fit(X[~first], Y[~first])
    np.testing.assert_array_equal(grown.anomaly_map(NEW_BAD), before)
    assert len(grown.defect_scores_) == 6
    assert auroc(grown, NEW_GOOD, NEW_BAD) > 0.9


def test_a_copy_added_later_is_judged_as_it_was_before(fitted):
    detector = labeled().fit(X, Y, MASKS)
    with pytest.warns(UserWarning, match="is a copy"):
        detector.partial_fit(X[:1], [-1])
    assert detector.defect_scores_[-1] == pytest.approx(detector.defect_scores_[0], rel=1e-6)
    assert detector.evidence_.scores[-1] == fitted.evidence_.scores[0]


def test_scores_can_be_differentiated(fitted):
    """Where a patch lies on a row of the bank, too."""
    detector = labeled(coreset=1.0).fit(X, Y, MASKS)
    image = GOOD[0].copy()
    image[28:32, 23:37] = 255
    _, batch = next(iter(detector._checked_batches(detector._open(image[None]), "")))
    batch.requires_grad_()
    (score,) = detector._score(batch)
    assert score.item() == pytest.approx(detector.anomaly_score(image[None])[0], rel=1e-4)
    score.backward()
    assert batch.grad.isfinite().all() and batch.grad.abs().max() > 0


@pytest.mark.parametrize("copies", [1, 2])
def test_one_mask_is_enough(copies):
    """It has no score of its own; the threshold comes from good images as always."""
    images, y = np.concatenate([GOOD, BAD[:1].repeat(copies, 0)]), np.repeat([1, -1], [24, copies])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cop")
        detector = labeled().fit(images, y, [None] * 24 + [MASK] * copies)
    assert detector.label_head_ is None
    assert np.isnan(detector.defect_scores_).all()
    assert (-detector.offset_ > 0) and np.mean(detector.predict(NEW_GOOD) == -1) < 0.4
    assert auroc(detector, NEW_GOOD, NEW_BAD) > 0.8
    with pytest.raises(ValueError, match="has learned no labels of defects"):
        detector.partial_calibration(GOOD)
    more = detector.partial_fit(BAD[1:], -np.ones(5))
    assert more.label_head_ is not None


def test_all_forms_of_masks_are_read(fitted, tmp_path):
    path = tmp_path / "mask.png"
    Image.fromarray(255 * MASK.astype(np.uint8)).save(path)
    forms = [path, str(path), MASK.astype(int), Image.open(path), torch.from_numpy(MASK)]
    masks = np.empty(len(X), dtype=object)
    masks[Y == -1] = [*forms, None]
    masks[3] = np.zeros((64, 64))  # of a good image
    again = labeled().fit(X, Y, list(masks))
    np.testing.assert_array_equal(again.score_samples(NEW_BAD), fitted.score_samples(NEW_BAD))
    stacked = np.stack([np.zeros((64, 64), bool) if mask is None else mask for mask in MASKS[:-1]])
    once, again = (labeled().fit(X[:-1], Y[:-1], masks) for masks in (MASKS[:-1], stacked))
    np.testing.assert_array_equal(again.score_samples(NEW_BAD), once.score_samples(NEW_BAD))


def changed(index, mask):
    masks = list(MASKS)
    masks[index] = mask
    return masks


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (MASKS[:-1], "masks: expected a list of 30 masks, one .*, got 29"),
        ("masks", "masks: expected a list of 30 masks, one .*, got str 'masks'"),
        (dict.fromkeys(range(30)), "masks: expected a list .* got dict"),
        (np.array(3), "masks: expected a list .* got ndarray"),
        (changed(2, MASK), r"masks\[2\]: expected None or an empty mask .* good, .* 56 pixels"),
        (changed(0, ~MASK & False), r"masks\[0\]: expected a mask that marks the defect"),
        (changed(1, np.ones((3, 3, 3))), r"masks\[1\]: expected a mask of shape"),
        (changed(1, "nowhere.png"), "nowhere.png"),
        (changed(26, np.ones((64, 32))), r"image 26: expected a mask of its size \(64, 64\), got"),
    ],
)
def test_bad_masks_are_refused_and_nothing_is_lost(masks, words):
    detector = labeled().fit(GOOD, np.ones(N_GOOD))
    before = detector.score_samples(NEW_BAD)
    with pytest.raises(ValueError, match=words):
        detector.fit(X, Y, masks)
    np.testing.assert_array_equal(detector.score_samples(NEW_BAD), before)


def test_masks_need_labels():
    with pytest.raises(ValueError, match="masks: expected labels y"):
        labeled().fit(X, masks=MASKS)
    with pytest.raises(ValueError, match="masks: expected labels y"):
        labeled().fit_predict(X, masks=MASKS)
    with pytest.raises(ValueError, match="expected 3 or more images of good parts that differ"):
        labeled().fit(X[:4], Y[:4], MASKS[:4])


def test_masks_outside_of_what_is_looked_at_are_refused():
    region = np.zeros((64, 64), bool)
    region[40:] = True
    with pytest.raises(ValueError, match=r"masks\[0\]: expected a defect in the part .* center_cr"):
        labeled(region=region).fit(X, Y, MASKS)


def test_a_region_and_dirty_images_go_with_masks():
    region = np.ones((64, 64), bool)
    region[:, :16] = False
    detector = labeled(region=region, contamination=0.1).fit(X, Y, MASKS)
    assert (detector.inspect(NEW_BAD).maps.min((1, 2)) >= 0).all()
    assert auroc(detector, NEW_GOOD, NEW_BAD) > 0.8
    suspected = np.isnan(detector.calibration_scores_)
    np.testing.assert_array_equal(detector.evidence_.is_trusted[Y == 1], ~suspected)


def test_in_a_search_masks_are_passed_on():
    with sklearn.config_context(enable_metadata_routing=True):
        detector = labeled().set_fit_request(masks=True)
        search = GridSearchCV(detector, {"C": [1e-6, 1.0]}, scoring="roc_auc", cv=2)
        search.fit(X, Y, masks=MASKS)
    assert search.best_estimator_.patch_head_ is not None


def test_fit_predict_takes_masks(fitted):
    labels = labeled().fit_predict(X, Y, MASKS)
    np.testing.assert_array_equal(labels[Y == -1], fitted._labels(fitted.defect_scores_))


# -- parts ----------------------------------------------------------------------------------------


def test_marks_are_resized_and_cropped_as_images_are():
    """Of a grid of 4 x 4 cells of 8 pixels, cut from the middle of an image of half the size."""
    network = Backbone("convnet", layers=[8], weights="random", image_size=48, center_crop=32)
    mask = np.zeros((96, 96), dtype=bool)
    mask[16:32, 16:24] = True  # the left half of the first cell that is seen
    mark = Mark.of(mask, network.input, (4, 4))
    expected = np.zeros((4, 4))
    expected[0, 0] = 0.5
    np.testing.assert_allclose(mark.share, expected)
    assert mark.size == (96, 96)


def test_patches_to_learn_from():
    rng = np.random.default_rng(0)
    distances, rows = torch.from_numpy(rng.random(64)), torch.from_numpy(rng.random((64, 3)))
    share = np.zeros(64)
    share[[5, 6, 7]] = 0.3, 0.2, 0.9
    found = LabeledPatches.of(distances, rows, 7, share)
    np.testing.assert_array_equal(found.distances[found.is_bad], distances[[5, 7]])
    good = np.setdiff1d(np.arange(64), [5, 6, 7])
    ranked = good[np.argsort(-distances.numpy()[good])]
    np.testing.assert_array_equal(found.distances[:16], distances[ranked[np.arange(16) * 61 // 16]])
    np.testing.assert_array_equal(found.rows[0], rows[ranked[0]])
    assert (found.images == 7).all()
    faint = LabeledPatches.of(distances, rows, 7, share / 10)  # its most defective patch alone
    np.testing.assert_array_equal(faint.rows[faint.is_bad], rows[[7]])
    few = LabeledPatches.of(distances[:5], rows[:5], 7)
    assert sorted(few.distances) == sorted(distances[:5].tolist())


def test_heads_have_no_part_in_their_image():
    rng = np.random.default_rng(0)
    each = [
        LabeledPatches.of(
            torch.from_numpy(1 + rng.random(20)),
            torch.from_numpy(rng.normal(size=(20, 2))),
            i,
            None if i < 6 else (np.arange(20) < 4).astype(float),
        )
        for i in range(8)
    ]
    patches = LabeledPatches.joined(each)
    heads = patches.heads_without(0.5, patches.head(0.5))
    assert sorted(heads) == [*range(8)]
    for i in (0, 7):
        others = LabeledPatches.joined([one for k, one in enumerate(each) if k != i])
        torch.testing.assert_close(heads[i].weights, others.head(0.5).weights, rtol=1e-3, atol=1e-4)
    alone = LabeledPatches.joined(each[:7])
    assert sorted(alone.heads_without(0.5, alone.head(0.5))) == [*range(6)]


def test_masks_of_good_images_may_be_empty():
    masks = np.zeros((3, 2, 2), dtype=bool)
    masks[1, 0] = True
    found = dict(masks_of_defects(masks, np.array([False, True, False])))
    assert [*found] == [1]
    assert dict(masks_of_defects(None, np.array([True]))) == {}
