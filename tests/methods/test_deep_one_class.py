import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import normalize
from sklearn.svm import OneClassSVM
from worlds import scratched, stripes

import anomalib_lite
from anomalib_lite import DeepFeatures, DeepOneClass, GaussianDensity
from anomalib_lite.backbones import MapRenderer

NORMAL = stripes(12)
ODD = scratched(3)
TREES = IsolationForest(n_estimators=200)  # 50 miss the place with some seeds
SLOW = ["knn", "ocsvm", GaussianDensity(), KernelDensity(), NearestNeighbors(n_neighbors=2),
        OneClassSVM()]  # fmt: skip


def small(classifier="knn", **params):
    return DeepOneClass(
        classifier=classifier, **{"image_size": 64, "n_patches": 200, "random_state": 0, **params}
    )


@pytest.fixture(scope="module")
def fitted():
    """Fitted on NORMAL; not to be changed."""
    return small().fit(NORMAL)


def features(**params):
    """The detector's features, as a transformer fitted on NORMAL."""
    return DeepFeatures(image_size=64, layers=(8, 16, 32), **params).fit(NORMAL)


@pytest.mark.parametrize(
    "classifier",
    ["gaussian", "kde", TREES, *(pytest.param(one, marks=pytest.mark.slow) for one in SLOW)],
    ids=str,
)
def test_every_classifier_ranks_images_finds_the_place_and_can_be_saved(classifier, tmp_path):
    detector = small(classifier).fit(NORMAL)
    images = np.concatenate([ODD, stripes(3, seed=9)])
    seen = detector.inspect(images)
    assert seen.scores[:3].max() < seen.scores[3:].min()
    for heat in seen.maps[:3]:
        inside = np.zeros(heat.shape, dtype=bool)
        inside[14:26, 30:50] = True
        assert np.median(heat[inside]) > np.quantile(heat[~inside], 0.8)
    detector.save(tmp_path / "saved.alite")
    again = anomalib_lite.load(tmp_path / "saved.alite").inspect(images)
    np.testing.assert_array_equal(again.scores, seen.scores)
    np.testing.assert_array_equal(again.maps, seen.maps)


@pytest.mark.parametrize("pooling", ["mean", "max", "mean_std"])
def test_scores_are_those_of_a_pipeline(pooling):
    detector = small(OneClassSVM(), pooling=pooling).fit(NORMAL)
    pipeline = make_pipeline(features(pooling=pooling), OneClassSVM()).fit(NORMAL)
    np.testing.assert_allclose(detector.score_samples(ODD), pipeline.score_samples(ODD), rtol=1e-9)


def test_normalized_vectors_have_length_one(fitted):
    detector = small(NearestNeighbors(n_neighbors=1), normalize=True).fit(NORMAL)
    known, asked = (normalize(features().transform(images)) for images in (NORMAL, ODD))
    expected = np.linalg.norm(asked[:, None] - known, axis=2).min(1)
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-4)


def test_the_given_classifier_is_left_unchanged():
    given = IsolationForest(n_estimators=3)
    small(given).fit(NORMAL)
    assert vars(given) == vars(IsolationForest(n_estimators=3))


@pytest.mark.parametrize("n_folds", [12, 99])
def test_as_many_folds_as_images_leave_each_image_out(n_folds):
    detector = small(NearestNeighbors(n_neighbors=1), n_folds=n_folds).fit(NORMAL)
    vectors = features().transform(NORMAL)
    distances = np.linalg.norm(vectors[:, None] - vectors, axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(-detector.calibration_scores_, distances.min(1), rtol=1e-4)


def test_fewer_folds_leave_more_images_out():
    classifier = NearestNeighbors(n_neighbors=1)
    two, five, twelve = (
        -small(classifier, n_folds=n).fit(NORMAL).calibration_scores_ for n in (2, 5, 12)
    )
    assert (two >= twelve).all()
    assert two.mean() > five.mean() > twelve.mean()
    np.testing.assert_array_equal(-small(classifier).fit(NORMAL).calibration_scores_, twelve)


def test_maps_score_every_patch_by_the_patch_classifier(fitted):
    patches = features(pooling=None).transform(ODD)  # (n, P, D)
    values = [fitted.patch_classifier_.kneighbors(rows)[0].mean(1) for rows in patches]
    grids = torch.tensor(np.array(values), dtype=torch.float32).view(3, 8, 8)
    expected = MapRenderer((64, 64), smoothing=4.0)(grids, (64, 64))
    np.testing.assert_allclose(fitted.anomaly_map(ODD), expected, rtol=1e-4)
    assert fitted.patch_classifier_.n_samples_fit_ == 200


def test_patches_of_a_stream_are_as_many():
    streamed = small().fit(iter(NORMAL))
    assert streamed.patch_classifier_.n_samples_fit_ == 200


def test_vectors_stay_those_of_fit(fitted):
    detector = small().fit(NORMAL)
    with pytest.warns(UserWarning, match="until this DeepOneClass is fitted again"):
        detector.set_params(pooling="max", normalize=True, neighborhood=1)
    np.testing.assert_array_equal(detector.score_samples(ODD), fitted.score_samples(ODD))
    np.testing.assert_array_equal(detector.anomaly_map(ODD), fitted.anomaly_map(ODD))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classifier": "svm"}, "classifier: expected one of"),
        ({"pooling": "min"}, "pooling: expected one of"),
        ({"n_patches": 0}, "n_patches: expected a positive int"),
        ({"neighborhood": 2}, "neighborhood: expected an odd int"),
        ({"n_folds": 1}, "n_folds: expected an int of at least 2"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(NORMAL)


def test_two_images_are_too_few():
    with pytest.raises(ValueError, match="at least 3 images, got 2 samples"):
        small().fit(NORMAL[:2])


def test_three_images_may_give_no_threshold():
    with pytest.warns(UserWarning, match="3 images cannot calibrate the threshold"):
        detector = small(classifier="gaussian").fit(NORMAL[:3])  # two rows are no density
    assert detector.score_samples(ODD).max() < detector.score_samples(NORMAL[3:6]).min()
