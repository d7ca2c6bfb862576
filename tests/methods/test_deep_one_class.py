import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM
from worlds import scratched, stripes

import anomalib_lite
from anomalib_lite import DeepFeatures, DeepOneClass, GaussianDensity

NORMAL = stripes(12)
ODD = scratched(3)
CLASSIFIERS = [
    "gaussian", "kde", "knn", "ocsvm", GaussianDensity(), IsolationForest(), KernelDensity(),
    NearestNeighbors(n_neighbors=2), OneClassSVM(),
]  # fmt: skip


def small(**params):
    return DeepOneClass(**{"image_size": 64, "n_patches": 200, "random_state": 0, **params})


def features(**params):
    """The detector's own, as a transformer."""
    return DeepFeatures(image_size=64, layers=(8, 16, 32), **params)


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=str)
def test_every_classifier_ranks_images_and_finds_the_place(classifier):
    detector = small(classifier=classifier).fit(NORMAL)
    seen = detector.inspect(np.concatenate([ODD, stripes(3, seed=9)]))
    assert seen.scores[:3].max() < seen.scores[3:].min()
    for heat in seen.maps[:3]:
        inside = np.zeros(heat.shape, dtype=bool)
        inside[14:26, 30:50] = True
        assert np.median(heat[inside]) > np.quantile(heat[~inside], 0.8)


def test_scores_are_those_of_a_pipeline():
    detector = small(classifier=OneClassSVM()).fit(NORMAL)
    pipeline = make_pipeline(DeepFeatures(image_size=64, layers=(8, 16, 32)), OneClassSVM()).fit(
        NORMAL
    )
    np.testing.assert_allclose(detector.score_samples(ODD), pipeline.score_samples(ODD), rtol=1e-9)


def test_the_classifier_given_is_left_alone():
    given = IsolationForest()
    small(classifier=given).fit(NORMAL)
    assert vars(given) == vars(IsolationForest())


def test_maps_score_every_patch_by_the_patch_classifier():
    detector = small(classifier="knn").fit(NORMAL)
    patches = (
        DeepFeatures(image_size=64, layers=(8, 16, 32), pooling=None).fit(NORMAL).transform(ODD)
    )  # (n, P, D)
    batch = detector.input_.batch(list(detector._open(ODD))[:1])
    distance, _ = detector.patch_classifier_.kneighbors(patches[0])
    np.testing.assert_allclose(detector._infer(batch)[1].flatten(), distance.mean(1), rtol=1e-4)
    assert detector.patch_classifier_.n_samples_fit_ == 200


def test_normalized_vectors_have_length_one():
    detector = small(classifier="knn", normalize=True).fit(NORMAL)
    np.testing.assert_allclose(np.linalg.norm(detector.classifier_._fit_X, axis=1), 1, rtol=1e-6)
    assert not np.array_equal(small(classifier="knn").fit(NORMAL).score_samples(ODD),
                              detector.score_samples(ODD))  # fmt: skip


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=str)
def test_every_classifier_can_be_saved(classifier, tmp_path):
    detector = small(classifier=classifier).fit(NORMAL)
    detector.save(tmp_path / "saved.alite")
    again = anomalib_lite.load(tmp_path / "saved.alite")
    np.testing.assert_array_equal(again.score_samples(ODD), detector.score_samples(ODD))
    np.testing.assert_array_equal(again.anomaly_map(ODD), detector.anomaly_map(ODD))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classifier": "svm"}, "classifier: expected one of"),
        ({"pooling": "min"}, "pooling: expected one of"),
        ({"n_patches": 0}, "n_patches: expected a positive int"),
        ({"neighborhood": 2}, "neighborhood: expected an odd int"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(NORMAL)


def test_two_images_are_too_few():
    with pytest.raises(ValueError, match="at least 3 images, got 2 samples"):
        small().fit(NORMAL[:2])
