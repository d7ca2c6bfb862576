import numpy as np
import pytest
import torch
from oracles import slow_padim_map
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, PaDiM
from anomalib_lite.backbones import MapRenderer

NORMAL = stripes(12)
ODD = scratched(2)
IMAGE_BYTES = 16 * 16 * 20 * 4


def small(**params):
    return PaDiM(**{"image_size": 64, "n_features": 20, "random_state": 0, **params})


@pytest.fixture(scope="module")
def fitted():
    """Fitted on NORMAL; not to be changed."""
    return small().fit(NORMAL)


@pytest.fixture(scope="module")
def features():
    """All 176 features of each patch, as a transformer gives them."""
    return DeepFeatures(image_size=64, layers=(4, 8, 16), pooling=None, neighborhood=1).fit(NORMAL)


def patch_rows(features, detector, images):
    """(n, P, d), the features of patches that a detector looks at."""
    return torch.from_numpy(features.transform(images))[:, :, detector.channels_]


@pytest.mark.parametrize("eps", [0.01, 0.02])
def test_scores_and_maps_are_scipys_mahalanobis_distances(features, eps):
    detector = small(eps=eps).fit(NORMAL)
    training = patch_rows(features, detector, NORMAL)
    for image in range(2):
        rows = patch_rows(features, detector, ODD)[image]
        expected = slow_padim_map(rows, training, eps)
        assert detector.anomaly_score(ODD)[image] == pytest.approx(expected.max(), rel=1e-4)
        grid = torch.from_numpy(expected).float().view(16, 16)
        heat = MapRenderer((64, 64), smoothing=4.0)(grid, (64, 64))
        np.testing.assert_allclose(detector.anomaly_map(ODD)[image], heat, rtol=1e-4)


@pytest.mark.parametrize(
    "sizes", [[3] + [1] * 9, pytest.param([5, 7], marks=pytest.mark.slow), [11, 1]]
)
def test_streamed_fit_is_one_fit(fitted, sizes):
    streamed = small()
    for part in np.split(NORMAL, np.cumsum(sizes)[:-1]):
        streamed.partial_fit(part)
    assert streamed.n_images_ == len(streamed.calibration_scores_) == 12
    np.testing.assert_allclose(streamed.anomaly_map(ODD), fitted.anomaly_map(ODD), rtol=1e-5)
    np.testing.assert_allclose(streamed.score_samples(ODD), fitted.score_samples(ODD), rtol=1e-5)
    # of the earlier images only the worst patches are kept
    np.testing.assert_allclose(streamed.calibration_scores_, fitted.calibration_scores_, rtol=0.05)


def test_more_images_than_a_block_are_one_fit():
    images = stripes(40)  # statistics are updated by 32 images at once
    whole, streamed = small().fit(images), small().fit(images[:32]).partial_fit(images[32:])
    np.testing.assert_allclose(streamed.anomaly_map(ODD), whole.anomaly_map(ODD), rtol=1e-5)
    assert whole.statistics_.count == 40
    part = small(memory_budget=34 * IMAGE_BYTES).fit(images)
    known = ~np.isnan(part.calibration_scores_)
    np.testing.assert_array_equal(known, np.arange(40) < 34)


def test_images_are_learned_in_blocks_of_their_own():
    images = stripes(45)  # tasks of 8, 8 and 3 images
    first, *others = (small(n_jobs=n_jobs).fit(images) for n_jobs in (1, 2, 16))
    for other in others:
        assert torch.equal(first.statistics_.scatter, other.statistics_.scatter)
        assert torch.equal(first.whiteners_, other.whiteners_)
        np.testing.assert_array_equal(first.calibration_scores_, other.calibration_scores_)
    part = small(memory_budget=5 * IMAGE_BYTES).fit(images)
    assert torch.equal(first.statistics_.scatter, part.statistics_.scatter)
    np.testing.assert_array_equal(first.calibration_scores_[:5], part.calibration_scores_[:5])


def test_failed_partial_fit_changes_nothing(tmp_path):
    detector = small().fit(NORMAL)
    detector.save(tmp_path / "before.alite")
    bad = [*stripes(33), np.zeros((64, 64), np.int64)]  # fails after a block has been learned
    with pytest.raises(ValueError, match="image 33"):
        detector.partial_fit(bad)
    detector.save(tmp_path / "after.alite")
    before, after = ((tmp_path / f"{name}.alite").read_bytes() for name in ("before", "after"))
    assert before == after


def test_calibration_scores_leave_each_image_out(fitted, features):
    rows, n = patch_rows(features, fitted, NORMAL), len(NORMAL)
    ridge = 0.01 * (n - 1) / (n - 2)
    expected = [
        slow_padim_map(rows[i], np.delete(rows.numpy(), i, axis=0), ridge).max() for i in range(n)
    ]
    np.testing.assert_allclose(-fitted.calibration_scores_, expected, rtol=1e-4)
    assert fitted.offset_ == np.quantile(fitted.calibration_scores_, 0.01, method="weibull")
    assert (fitted.score_samples(NORMAL) > fitted.calibration_scores_).all()


def test_channels_are_drawn_from_random_state(fitted):
    again, other = (small(random_state=seed).fit(NORMAL[:3]).channels_ for seed in (0, 1))
    assert torch.equal(fitted.channels_, again)
    assert not torch.equal(again, other)
    assert len(again) == len(again.unique()) == 20
    for n_features in (None, 9999):
        found = small(n_features=n_features).fit(NORMAL[:3]).channels_
        assert found.tolist() == list(range(176))


@pytest.mark.parametrize("seed", range(3))
def test_layers_without_a_drawn_channel_do_no_harm(seed):
    detector = small(n_features=2, random_state=seed).fit(NORMAL[:4])  # of three layers
    assert detector.statistics_.mean.shape == (16 * 16, 2)
    assert detector.anomaly_map(ODD).shape == (2, 64, 64)


def test_position_matters(fitted):
    shifted = np.roll(NORMAL, 8, axis=2)  # light stripes where dark ones were
    assert fitted.score_samples(shifted).max() < fitted.calibration_scores_.min()


def test_a_small_budget_calibrates_with_the_first_images(fitted):
    part = small(memory_budget=5 * IMAGE_BYTES).fit(NORMAL)
    np.testing.assert_array_equal(part.calibration_scores_[:5], fitted.calibration_scores_[:5])
    assert np.isnan(part.calibration_scores_[5:]).all()
    assert part.offset_ == np.nanquantile(part.calibration_scores_, 0.01, method="weibull")
    np.testing.assert_array_equal(part.score_samples(ODD), fitted.score_samples(ODD))

    whole = small().fit(NORMAL)
    for detector in (part, whole):
        detector.partial_fit(stripes(6, seed=3)).partial_fit(stripes(6, seed=4))
    known = np.r_[0:5, 12:17, 18:23]  # of each call's images the first five
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(part.calibration_scores_)), known)
    np.testing.assert_array_equal(part.calibration_scores_[known], whole.calibration_scores_[known])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_features": 0}, "n_features: expected a positive int"),
        ({"eps": -1}, "eps: expected a number of at least 0"),
        ({"eps": 0}, "eps=0: a covariance is singular"),
        ({"memory_budget": "lots"}, "memory_budget: expected bytes"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(NORMAL)


def test_two_images_give_scores_and_maps_but_no_labels():
    with pytest.raises(ValueError, match="at least 2 images, got 1 sample"):
        small().fit(NORMAL[:1])
    with pytest.warns(UserWarning, match="2 images cannot calibrate the threshold"):
        detector = small().fit(NORMAL[:2])
    seen = detector.inspect(ODD)
    assert seen.scores.max() < detector.score_samples(stripes(4, seed=5)).min()
    assert seen.labels.tolist() == [0] * len(ODD)
