"""AnchoredLogistic against an independent solution of the same problem."""

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from anomalib_lite.density import AnchoredLogistic, held_out_log_odds

N_GOOD, N_BAD, D = 40, 9, 5
IS_BAD = np.repeat([False, True], [N_GOOD, N_BAD])


def world(seed=0, shift=2.0, ahead=1.5):
    """Scores and features; defects have higher scores and a shift of the second feature."""
    rng = np.random.default_rng(seed)
    features = rng.normal(3, 2, (len(IS_BAD), D))
    features[IS_BAD, 1] += 2 * shift
    return rng.lognormal(0, 0.3, len(IS_BAD)) * np.where(IS_BAD, ahead, 1), features


def log_odds(head, scores, features):
    return head.log_odds(torch.from_numpy(scores), torch.from_numpy(features)).numpy()


@pytest.mark.parametrize("C", [0.01, 1.0])
@pytest.mark.parametrize("is_bad", [IS_BAD, ~IS_BAD], ids=["few defects", "many defects"])
def test_weights_solve_the_shrunk_regression(C, is_bad):
    """By iterated weighted least squares, one equation at a time."""
    scores, features = world()
    head = AnchoredLogistic.fit(scores, features, is_bad, C)
    table = np.column_stack([np.log(scores), features])
    table = (table - table[~is_bad].mean(0)) / table[~is_bad].std(0)
    table = np.column_stack([table, np.ones(len(table))])
    n_each = min(is_bad.sum(), (~is_bad).sum())
    counts = np.where(is_bad, n_each / is_bad.sum(), n_each / (~is_bad).sum())
    aim = np.array([1.0] + [0.0] * (D + 1))
    pull = np.diag([1 / C] * (D + 1) + [0.0])
    weights = aim.copy()
    for _ in range(50):
        p = expit(table @ weights)
        slope = table.T @ (counts * (is_bad - p)) - pull @ (weights - aim)
        curvature = (table.T * (counts * p * (1 - p))) @ table + pull
        weights = weights + np.linalg.solve(curvature, slope)
    np.testing.assert_allclose(head.weights.numpy(), weights[:-1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(log_odds(head, scores, features), table @ weights, atol=1e-3)


def test_more_features_than_images_are_solved_in_their_span():
    """Zero columns change nothing but make the features many."""
    scores, features = world()
    few = AnchoredLogistic.fit(scores, features, IS_BAD, C=0.1)
    wide = np.column_stack([features, np.zeros((len(scores), 80))])
    many = AnchoredLogistic.fit(scores, wide, IS_BAD, C=0.1)
    np.testing.assert_allclose(many.weights[: D + 1].numpy(), few.weights.numpy(), atol=1e-4)
    np.testing.assert_allclose(many.weights[D + 1 :].numpy(), 0, atol=1e-9)


def test_few_labels_keep_the_order_of_anomaly_scores():
    scores, features = world()
    head = AnchoredLogistic.fit(scores, features, IS_BAD, C=1e-6)
    np.testing.assert_array_equal(np.argsort(log_odds(head, scores, features)), np.argsort(scores))


def test_labels_find_what_scores_do_not():
    scores, features = world(shift=3.0, ahead=1.0)
    head = AnchoredLogistic.fit(scores, features, IS_BAD, C=1.0)
    new_scores, new_features = world(seed=1, shift=3.0, ahead=1.0)
    auroc = roc_auc_score(IS_BAD, log_odds(head, new_scores, new_features))
    assert auroc > 0.85 > 0.6 > roc_auc_score(IS_BAD, new_scores)


def test_a_mild_defect_does_not_turn_the_order_around():
    """The only defect has a lower score than any good image, and no feature speaks."""
    scores, _ = world()
    scores[-1] = scores.min() / 2
    kept = np.r_[:N_GOOD, len(scores) - 1]
    head = AnchoredLogistic.fit(scores[kept], np.ones((len(kept), D)), IS_BAD[kept], C=0.01)
    assert head.weights[0] > 0.5


def test_scores_of_zero_and_constant_features_give_numbers():
    scores, features = world()
    features[:, 0] = 0
    scores[0] = 0
    head = AnchoredLogistic.fit(scores, features, IS_BAD, C=1.0)
    assert np.isfinite(log_odds(head, np.zeros(2), np.ones((2, D)))).all()
    zeros = AnchoredLogistic.fit(np.zeros(len(scores)), 0 * features, IS_BAD, C=1.0)
    assert np.isfinite(log_odds(zeros, scores, features)).all()


def test_held_out_log_odds_leave_out_an_image_and_its_copies():
    """Features are random, so that labels can only be learned by heart."""
    rng = np.random.default_rng(0)
    scores, features = np.ones(30), rng.normal(size=(30, 200))
    features[1], features[29] = features[0], features[28]
    is_bad, distinct = np.arange(30) >= 20, np.r_[0, 0, 2:28, 28, 28]
    odds = held_out_log_odds(scores, features, is_bad, distinct, C=1.0)
    by_heart = log_odds(AnchoredLogistic.fit(scores, features, is_bad, 1.0), scores, features)
    assert roc_auc_score(is_bad, by_heart) == 1
    assert roc_auc_score(is_bad, odds) < 0.8
    rest = np.arange(30) < 28
    head = AnchoredLogistic.fit(scores[rest], features[rest], is_bad[rest], 1.0)
    np.testing.assert_allclose(odds[28:], log_odds(head, scores, features)[28:], atol=1e-6)


def test_an_only_defect_has_no_held_out_log_odds():
    scores, features = world()
    kept = np.r_[:N_GOOD, N_GOOD]
    odds = held_out_log_odds(scores[kept], features[kept], IS_BAD[kept], kept, C=1.0)
    np.testing.assert_array_equal(np.isnan(odds), IS_BAD[kept])
