import numpy as np
import pytest
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, LocalOutlierFactor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from anomalib_lite.density import GaussianDensity
from anomalib_lite.density.heads import NAMED, check_head, fit_head, head_scores, held_out_scores

ROWS = np.random.default_rng(0).normal(size=(60, 3))
ODD = np.array([[9.0, -9.0, 9.0]])
ESTIMATORS = [
    OneClassSVM(),
    KernelDensity(),
    IsolationForest(),
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
    held_out = held_out_scores(classifier, ROWS, 0)
    assert held_out.shape == (60,)
    np.testing.assert_array_equal(held_out, held_out_scores(classifier, ROWS, 0))


def test_held_out_scores_are_of_rows_not_fitted_on():
    scores = held_out_scores(NearestNeighbors(n_neighbors=1), ROWS, 0)
    assert scores.min() > 0  # in sample each row is at distance 0 from itself
    np.testing.assert_array_equal(head_scores(fit_head(NearestNeighbors(n_neighbors=1), ROWS, 0),
                                              ROWS), 0)  # fmt: skip


def test_kernels_have_the_papers_width():
    gamma = 10 / (3 * ROWS.var())
    assert fit_head("ocsvm", ROWS, 0).gamma == pytest.approx(gamma)
    kde = fit_head("kde", ROWS, 0)
    near, far = kde.score_samples([[0, 0, 0], [0, 0, 0.7]])
    single = KernelDensity(bandwidth=kde.bandwidth).fit([[0.0, 0, 0]])
    near, far = single.score_samples([[0, 0, 0], [0, 0, 0.7]])
    assert near - far == pytest.approx(gamma * 0.49)  # exp(-gamma r²)


def test_random_classifiers_are_seeded_unless_they_have_a_seed():
    assert fit_head(IsolationForest(), ROWS, 7).random_state == 7
    assert fit_head(IsolationForest(random_state=3), ROWS, 7).random_state == 3


@pytest.mark.parametrize(
    "classifier", ["svm", None, 3, OneClassSVM, LocalOutlierFactor(), StandardScaler()], ids=str
)
def test_what_cannot_be_a_head_is_refused(classifier):
    with pytest.raises(ValueError, match="classifier: expected one of 'gaussian'"):
        check_head(classifier)
