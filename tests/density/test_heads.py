import numpy as np
import pytest
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from anomalib_lite.density import (
    GaussianDensity,
    check_head,
    fit_head,
    folds,
    head_scores,
    held_out_scores,
)
from anomalib_lite.density.heads import NAMED
from anomalib_lite.workers import team

ROWS = np.random.default_rng(0).normal(size=(60, 3))
EACH = np.arange(len(ROWS))  # in a group of its own
ODD = np.array([[9.0, -9.0, 9.0]])
ESTIMATORS = [
    OneClassSVM(),
    KernelDensity(),
    IsolationForest(n_estimators=10),
    GaussianDensity(),
    LocalOutlierFactor(novelty=True),
    NearestNeighbors(n_neighbors=3),
    EllipticEnvelope(),
]


@pytest.mark.parametrize("classifier", [*NAMED, *ESTIMATORS], ids=str)
def test_every_head_ranks_an_outlier_highest(classifier):
    check_head(classifier)
    head = fit_head(classifier, ROWS, 0)
    assert head is not classifier
    assert head_scores(head, ODD) > head_scores(head, ROWS).max()
    held_out = held_out_scores(classifier, ROWS, EACH, 0)
    assert held_out.shape == (60,)
    np.testing.assert_array_equal(held_out, held_out_scores(classifier, ROWS, EACH, 0))


@pytest.mark.parametrize("classifier", [*NAMED, IsolationForest(n_estimators=10)], ids=str)
def test_held_out_scores_are_the_same_by_any_number_of_workers(classifier):
    with team(1):
        expected = held_out_scores(classifier, ROWS, EACH, 0)
    with team(4):
        np.testing.assert_array_equal(held_out_scores(classifier, ROWS, EACH, 0), expected)


def test_rows_whose_others_are_too_few_have_no_scores():
    groups = np.array([0] * 59 + [1])
    scores = held_out_scores("gaussian", ROWS, groups, 0)
    np.testing.assert_array_equal(np.isnan(scores), groups == 0)


def test_held_out_scores_are_of_rows_not_fitted_on():
    classifier = NearestNeighbors(n_neighbors=1)
    in_sample = head_scores(fit_head(classifier, ROWS, 0), ROWS)
    np.testing.assert_array_equal(in_sample, 0)
    distances = np.linalg.norm(ROWS[:, None] - ROWS, axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest_other = distances.min(1)
    np.testing.assert_allclose(held_out_scores(classifier, ROWS, EACH, 0, 60), nearest_other)
    assert (held_out_scores(classifier, ROWS, EACH, 0, 2) >= nearest_other - 1e-12).all()


@pytest.mark.parametrize(("n", "n_folds", "expected"), [(20, 5, 5), (3, 5, 3), (20, 2, 2)])
def test_folds_hold_every_row_out_once(n, n_folds, expected):
    pairs = list(folds(np.arange(n), 0, n_folds))
    assert len(pairs) == expected
    held_out = np.concatenate([out for _, out in pairs])
    np.testing.assert_array_equal(np.sort(held_out), np.arange(n))
    for fit, out in pairs:
        np.testing.assert_array_equal(np.sort(np.concatenate([fit, out])), np.arange(n))


def test_rows_of_a_group_are_in_one_fold():
    groups = np.array([0, 1, 2, 0, 3, 2, 4])
    for fit, held_out in folds(groups, 0, 3):
        assert not np.isin(groups[fit], groups[held_out]).any()


def test_folds_are_drawn_by_the_seed():
    first, again, other = (next(folds(np.arange(30), seed))[1].tolist() for seed in (0, 0, 1))
    assert first == again != other
    assert len(list(folds(np.arange(30), 0))) == 20


def test_kernels_have_the_papers_width():
    gamma = 10 / (3 * ROWS.var())
    assert fit_head("ocsvm", ROWS, 0).gamma == pytest.approx(gamma)
    kde = fit_head("kde", ROWS, 0)
    single = KernelDensity(bandwidth=kde.bandwidth).fit([[0.0, 0, 0]])
    near, far = single.score_samples([[0, 0, 0], [0, 0, 0.7]])
    assert near - far == pytest.approx(gamma * 0.49)  # exp(-gamma r²)


def test_knn_is_the_mean_distance_to_the_five_nearest():
    distances = np.sort(np.linalg.norm(ROWS - ODD, axis=1))
    assert head_scores(fit_head("knn", ROWS, 0), ODD) == pytest.approx(distances[:5].mean())
    few = fit_head("knn", ROWS[:3], 0)
    expected = np.linalg.norm(ROWS[:3] - ODD, axis=1).mean()
    assert head_scores(few, ODD) == pytest.approx(expected)


def test_random_classifiers_are_seeded_unless_they_have_a_seed():
    forest = IsolationForest(n_estimators=1)
    assert fit_head(forest, ROWS, 7).random_state == 7
    assert fit_head(forest.set_params(random_state=3), ROWS, 7).random_state == 3


def test_steps_of_a_classifier_are_seeded():
    head = make_pipeline(PCA(2), IsolationForest(n_estimators=1))
    fitted = fit_head(head, ROWS, 7)
    assert [step.random_state for _, step in fitted.steps] == [7, 7]
    assert head[1].random_state is None


@pytest.mark.parametrize("classifier", ["gaussian", "kde", "knn", "ocsvm", OneClassSVM()], ids=str)
def test_the_global_generator_of_numpy_is_left_alone(classifier):
    before = np.random.get_state()[1:3]  # noqa: NPY002
    held_out_scores(classifier, ROWS, EACH, 0)
    after = np.random.get_state()[1:3]  # noqa: NPY002
    np.testing.assert_array_equal(before[0], after[0])
    assert before[1] == after[1]


@pytest.mark.parametrize(
    "classifier", ["svm", None, 3, OneClassSVM, LocalOutlierFactor(), StandardScaler()], ids=str
)
def test_other_classifiers_are_refused(classifier):
    with pytest.raises(ValueError, match="classifier: expected one of 'gaussian'"):
        check_head(classifier)
