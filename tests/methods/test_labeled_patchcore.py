"""LabeledPatchCore: PatchCore without labels, and what a few of them change."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_predict
from worlds import scratched, stripes

from anomalib_lite import (
    ConformalDetector,
    DetectorEnsemble,
    LabeledPatchCore,
    PatchCore,
    load,
)
from anomalib_lite.deploy import OnnxDetector
from anomalib_lite.testing import assert_same

N_GOOD = 24
COMMON = {"image_size": 64, "coreset": 0.3, "false_alarm_rate": 0.1, "random_state": 0}


def dusty(n, seed):
    """Stripes half of which have a square speck somewhere, which does not matter."""
    rng, images = np.random.default_rng(seed), stripes(n, seed=seed)
    for image in images[::2]:
        (top, left), side = rng.integers(4, 44, 2), rng.integers(8, 16)
        image[top : top + side, left : left + side] = rng.integers(0, 256)
    return images


GOOD, BAD = dusty(N_GOOD, 0), scratched(6, seed=1)
NEW_GOOD, NEW_BAD = dusty(16, 2), scratched(16, center=(30, 30), seed=3)
X = np.concatenate([BAD[:2], GOOD, BAD[2:]])
Y = np.r_[-1, -1, np.ones(N_GOOD, int), -1, -1, -1, -1]


def labeled(**params):
    return LabeledPatchCore(**{**COMMON, **params})


@pytest.fixture(scope="module")
def fitted():
    return labeled(C=1.0).fit(X, Y)


def auroc(detector, good, bad):
    is_bad = np.repeat([0, 1], [len(good), len(bad)])
    return roc_auc_score(is_bad, detector.anomaly_score(np.concatenate([good, bad])))


@pytest.mark.parametrize("y", [None, np.ones(N_GOOD)])
def test_without_labels_of_defects_it_is_patchcore(y):
    ours, plain = labeled().fit(GOOD, y), PatchCore(**COMMON).fit(GOOD)
    assert_same(ours.inspect(NEW_BAD), plain.inspect(NEW_BAD))
    np.testing.assert_array_equal(ours.calibration_scores_, plain.calibration_scores_)
    assert ours.offset_ == plain.offset_
    assert ours.label_head_ is None
    assert len(ours.defect_scores_) == 0


def test_labels_tell_defects_from_what_does_not_matter():
    """No speck is like another one; scratches are."""
    plain, ours = PatchCore(**COMMON).fit(GOOD), labeled(C=1.0).fit(X, Y)
    assert auroc(ours, NEW_GOOD, NEW_BAD) > auroc(plain, NEW_GOOD, NEW_BAD) + 0.1


def test_maps_and_what_is_learned_of_good_images_are_patchcores(fitted):
    plain = PatchCore(**COMMON).fit(GOOD)
    np.testing.assert_array_equal(fitted.anomaly_map(NEW_BAD), plain.anomaly_map(NEW_BAD))
    assert torch.equal(fitted.memory_bank_.rows, plain.memory_bank_.rows)
    assert fitted.n_images_ == N_GOOD


def test_scores_are_those_of_the_regression(fitted):
    """By PatchCore's scores and the mean of the rows farthest from the bank."""
    plain = PatchCore(**COMMON).fit(GOOD)
    scores = torch.from_numpy(plain.anomaly_score(NEW_BAD))
    evidence = []
    for image in NEW_BAD:
        _, batch = next(iter(plain._checked_batches(plain._open(image[None]), "")))
        rows = plain._embed(batch)[0][0]
        distance, _ = plain.memory_bank_.query(rows)
        n = round(0.05 * len(rows))
        evidence.append(rows[distance.argsort(descending=True)[:n]].double().mean(0))
    expected = fitted.label_head_.log_odds(scores, torch.stack(evidence)).numpy()
    np.testing.assert_allclose(fitted.anomaly_score(NEW_BAD), expected, rtol=1e-6)
    with_maps = fitted.inspect(NEW_BAD).scores
    np.testing.assert_allclose(with_maps, fitted.score_samples(NEW_BAD), rtol=1e-9)


def test_evidence_of_good_images_is_out_of_sample(fitted):
    """By PatchCore's own banks of other images, to which a speck is new."""
    in_sample = PatchCore(**COMMON).fit(GOOD).anomaly_score(GOOD)
    is_bad = fitted.evidence_.is_bad
    assert fitted.evidence_.scores[~is_bad].mean() > in_sample.mean() + 1
    plain = PatchCore(**COMMON).fit(GOOD)
    np.testing.assert_array_equal(fitted.evidence_.scores[~is_bad], -plain.calibration_scores_)


def test_thresholds_hold_what_they_claim():
    """Of 120 new good images about one in ten is called, whatever the labels."""
    detector = labeled(C=1.0).fit(X, Y)
    alarms = np.mean(detector.predict(dusty(120, 9)) == -1)
    assert 0.01 < alarms < 0.3
    assert (detector.defect_scores_ < detector.offset_).mean() > 0.5


def test_order_of_images_does_not_matter(fitted):
    order = np.argsort(Y, kind="stable")  # defects first
    again = labeled(C=1.0).fit(X[order], Y[order])
    np.testing.assert_allclose(
        again.score_samples(NEW_BAD), fitted.score_samples(NEW_BAD), rtol=1e-9
    )
    np.testing.assert_array_equal(again.predict(NEW_GOOD), fitted.predict(NEW_GOOD))


def test_defects_can_be_added(fitted):
    grown = labeled(C=1.0).fit(GOOD, np.ones(N_GOOD)).partial_fit(BAD[:2], [-1, -1])
    grown.partial_fit(BAD[2:], -np.ones(4))
    np.testing.assert_allclose(
        grown.score_samples(NEW_BAD), fitted.score_samples(NEW_BAD), rtol=1e-9
    )
    np.testing.assert_allclose(grown.offset_, fitted.offset_, rtol=1e-9)
    assert len(grown.defect_scores_) == 6


def test_fit_predict_labels_all_images(fitted):
    labels = labeled(C=1.0).fit_predict(X, Y)
    assert labels.shape == Y.shape
    np.testing.assert_array_equal(labels[Y == -1], fitted._labels(fitted.defect_scores_))
    one = labeled(C=1.0).fit_predict(X[1:-4], Y[1:-4])  # a single defect has no score of its own
    assert set(one) <= {-1, 1}


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_saved_detectors_score_the_same(fitted, n_jobs, tmp_path):
    detector = labeled(C=1.0, n_jobs=n_jobs).fit(X, Y)
    np.testing.assert_array_equal(detector.score_samples(NEW_BAD), fitted.score_samples(NEW_BAD))
    detector.save(tmp_path / "d.alite")
    again = load(tmp_path / "d.alite")
    assert_same(again.inspect(NEW_BAD), fitted.inspect(NEW_BAD))
    more = scratched(2, seed=8)
    np.testing.assert_array_equal(
        again.partial_fit(more, [-1, -1]).defect_scores_,
        detector.partial_fit(more, [-1, -1]).defect_scores_,
    )


def test_thresholds_for_recall_take_held_out_scores_of_labeled_defects(fitted):
    found = fitted.threshold_for(recall=0.5)
    assert found.n_defects == 6
    assert found.score == np.nextafter(np.sort(fitted.defect_scores_)[-1 - found.n_missed], np.inf)


def test_defects_that_were_learned_from_set_no_threshold(fitted):
    with pytest.raises(ValueError, match="not learned from, got 2 that it has"):
        fitted.threshold_for(np.concatenate([NEW_BAD, BAD[:2]]), recall=0.5)
    with pytest.warns(UserWarning, match="copies"):
        twice = fitted.threshold_for(np.concatenate([NEW_BAD, NEW_BAD]), recall=0.5)
    assert twice == fitted.threshold_for(NEW_BAD, recall=0.5)


def test_fresh_thresholds_and_later_parameters_leave_what_labels_are_learned_from(fitted):
    """Good images of fit stay those whose evidence counts, read as it was at fit."""
    changed = labeled(C=1.0).fit(GOOD, np.ones(N_GOOD))
    changed.set_threshold(images=dusty(8, 5))
    with pytest.warns(UserWarning, match="no effect until"):
        changed.set_params(evidence=1.0, C=1e-3)
    changed.partial_fit(BAD, -np.ones(6))
    np.testing.assert_allclose(
        changed.score_samples(NEW_BAD), fitted.score_samples(NEW_BAD), rtol=1e-9
    )
    np.testing.assert_allclose(changed.offset_, fitted.offset_, rtol=1e-9)


def test_images_that_seem_defective_teach_nothing_and_rank_first():
    dirty = np.concatenate([stripes(N_GOOD), scratched(2, center=(50, 20), seed=9)])
    images, y = np.concatenate([dirty, BAD]), np.repeat([1, -1], [26, 6])
    detector = labeled(C=1.0, contamination=0.2).fit(images, y)
    suspected = np.isnan(detector.calibration_scores_)
    np.testing.assert_array_equal(detector.evidence_.is_trusted[:26], ~suspected)
    assert suspected.any()
    assert {24, 25} <= {*detector.suspects_.indices[:6]}
    known = -detector.calibration_scores_[~suspected]
    np.testing.assert_allclose(
        np.sort(detector.suspects_.anomaly_scores(26)[~suspected]), np.sort(known)
    )


def test_defects_that_come_twice_are_told(fitted):
    detector = labeled(C=1.0).fit(X, Y)
    with pytest.warns(UserWarning, match="copies: image 0 is one of an earlier call"):
        detector.partial_fit(BAD[:2], [-1, -1])
    assert detector.threshold_for(recall=0.5).n_defects == 6


def test_calibration_in_parts_is_refused(fitted):
    with pytest.raises(ValueError, match="has learned no labels of defects"):
        fitted.partial_calibration(GOOD)
    plain = labeled().fit(GOOD)
    with pytest.raises(ValueError, match="has learned no labels of defects"):
        labeled().fit(X, Y).finish_calibration([plain.partial_calibration(GOOD)])


def test_two_good_images_are_too_few():
    with pytest.raises(ValueError, match="expected 3 or more images of good parts that differ"):
        labeled().fit(np.concatenate([GOOD[:2], BAD[:2]]), [1, 1, -1, -1])
    three = labeled().fit(np.concatenate([GOOD[:3], BAD[:2]]), [1, 1, 1, -1, -1])
    assert np.abs(three.calibration_scores_).max() < 1e6


def test_wrappers_refuse_labels_of_defects(fitted):
    with pytest.raises(ValueError, match="y: expected no labels of defects"):
        ConformalDetector(labeled()).fit(X, Y)
    with pytest.raises(ValueError, match="got LabeledPatchCore as labeledpatchcore"):
        DetectorEnsemble([labeled(), PatchCore(**COMMON)]).fit(GOOD)
    frozen = ConformalDetector(FrozenEstimator(fitted), false_alarm_rate=0.1).fit(dusty(20, 4))
    assert (frozen.predict(NEW_BAD) == -1).mean() > 0.5


def test_exported_detectors_say_the_same(fitted, tmp_path):
    fitted.export(tmp_path / "d.onnx")
    exported = OnnxDetector(tmp_path / "d.onnx")
    np.testing.assert_allclose(
        exported.score_samples(NEW_BAD), fitted.score_samples(NEW_BAD), rtol=1e-4, atol=1e-4
    )


def test_images_near_the_threshold_are_to_be_labeled_first(fitted):
    images = np.concatenate([NEW_GOOD, NEW_BAD])
    order = fitted.rank_for_labels(images)
    assert sorted(order) == [*range(32)]
    margins = np.abs(fitted.score_samples(images) - fitted.offset_)[order]
    assert (np.diff(margins) >= 0).all()


def test_in_a_search_labels_are_passed_on():
    search = GridSearchCV(labeled(), {"C": [1e-6, 1.0]}, scoring="roc_auc", cv=2)
    search.fit(X, Y)
    assert search.best_estimator_.label_head_ is not None


def test_cross_validation_passes_labels_on():
    labels = cross_val_predict(labeled(C=1.0), X, Y, cv=3)
    assert np.mean(labels[Y == -1] == -1) > np.mean(labels[Y == 1] == -1) + 0.3


def test_a_budget_that_holds_few_images_changes_nothing(fitted):
    small = labeled(C=1.0, memory_budget="2MB")
    plain = labeled(C=1.0, memory_budget="2MB").fit(GOOD, np.ones(N_GOOD))
    small.fit(X, Y)
    assert small._capacity(64, 152) < N_GOOD
    np.testing.assert_array_equal(small.evidence_.scores[Y == 1], plain.evidence_.scores)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (Y[:-1], r"y: expected a label for each of 30 images, got an array of shape \(29,\)"),
        (np.where(Y == 1, 0, -1), r"y: expected \+1 .* and -1 .*, got .*0.* for image 2"),
        (["ok"] * 30, "y: expected .* for image 0"),
        (-np.ones(30), "y: expected labels of good parts, too"),
    ],
)
def test_bad_labels_are_refused(y, words):
    with pytest.raises(ValueError, match=words):
        labeled().fit(X, y)


def test_an_image_with_both_labels_is_refused(fitted):
    images = np.concatenate([X, GOOD[3:4]])
    with pytest.raises(ValueError, match=r"image 30: labeled defective, .* those of image 5,"):
        labeled().fit(images, np.r_[Y, -1])
    before = fitted.offset_
    with pytest.raises(
        ValueError, match=r"image 1: labeled defective, .* those of one of an earlier call"
    ):
        fitted.partial_fit(np.stack([scratched(1, seed=5)[0], GOOD[0]]), [-1, -1])
    assert fitted.offset_ == before


def test_an_unreadable_image_is_named_by_its_place(tmp_path):
    images = list(X)
    images[4] = np.zeros((3, 3))
    with pytest.raises(ValueError, match="image 4"):
        labeled().fit(images, Y)


@pytest.mark.parametrize(
    ("prepare", "y", "words"),
    [
        (lambda d: d.fit(GOOD), [-1, -1], "expected a detector that was fitted with labels"),
        (lambda d: d.fit(X, Y), [1, 1], "expected -1 as labels"),
        (lambda d: d.fit(X, Y), [1, -1], "expected -1 for all images"),
        (lambda d: d.fit(X, Y), None, "expected -1 as labels"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(prepare, y, words):
    detector = prepare(labeled())
    before = detector.score_samples(NEW_BAD)
    with pytest.raises(ValueError, match=words):
        detector.partial_fit(scratched(2, seed=6), y)
    np.testing.assert_array_equal(detector.score_samples(NEW_BAD), before)


@pytest.mark.parametrize("params", [{"evidence": 0}, {"evidence": 1.5}, {"C": 0}, {"C": "strong"}])
def test_bad_parameters_are_refused(params):
    with pytest.raises(ValueError, match=next(iter(params))):
        labeled(**params).fit(GOOD)
