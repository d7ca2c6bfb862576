import numpy as np
import pytest
import torch
from oracles import slow_padim_map
from worlds import scratched, stripes

from anomalib_lite import PaDiM
from anomalib_lite.density import leave_one_out_squares, squared_mahalanobis

NORMAL = stripes(12)
ODD = scratched(2)


def small(**params):
    return PaDiM(**{"image_size": 64, "n_features": 20, "random_state": 0, **params})


def patch_rows(detector, images):
    """(n, P, d) through the detector's own network."""
    rows = [detector._embed(detector.input_.batch([i]))[0] for i in detector._open(images)]
    return torch.cat(rows)


def grids(detector, images):
    """Patch values (n, P)."""
    batches = (detector.input_.batch([image]) for image in detector._open(images))
    return torch.cat([detector._infer(batch)[1].flatten(1) for batch in batches])


def test_maps_are_scipys_mahalanobis_distances():
    detector = small(eps=0.02).fit(NORMAL)
    training = patch_rows(detector, NORMAL)
    for image in range(2):
        expected = slow_padim_map(patch_rows(detector, ODD)[image], training, 0.02)
        np.testing.assert_allclose(grids(detector, ODD)[image], expected, rtol=1e-4)
        assert detector.anomaly_score(ODD)[image] == pytest.approx(expected.max(), rel=1e-4)
    with pytest.raises(AssertionError):  # the oracle tells another ridge apart
        np.testing.assert_allclose(
            grids(detector, ODD)[0], slow_padim_map(patch_rows(detector, ODD)[0], training, 0.03),
            rtol=1e-4,
        )  # fmt: skip


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 7], [11, 1], [2, 2, 8]])
def test_streamed_fit_is_one_fit(sizes):
    whole = small().fit(NORMAL)
    parts = np.split(NORMAL, np.cumsum(sizes)[:-1])
    streamed = small()
    if len(parts[0]) < 3:  # a threshold needs three images
        parts = [np.concatenate(parts[:3]), *parts[3:]]
    for part in parts:
        streamed.partial_fit(part)
    assert streamed.n_images_ == len(streamed.calibration_scores_) == 12
    np.testing.assert_allclose(grids(streamed, ODD), grids(whole, ODD), rtol=1e-5)
    np.testing.assert_allclose(streamed.score_samples(ODD), whole.score_samples(ODD), rtol=1e-5)
    # of the earlier images only the worst patches are kept
    np.testing.assert_allclose(streamed.calibration_scores_, whole.calibration_scores_, rtol=0.05)


def test_calibration_scores_leave_each_image_out():
    detector = small().fit(NORMAL)
    rows, n = patch_rows(detector, NORMAL), len(NORMAL)
    ridge = 0.01 * (n - 1) / (n - 2)
    expected = [
        slow_padim_map(rows[i], np.delete(rows.numpy(), i, axis=0), ridge).max() for i in range(n)
    ]
    np.testing.assert_allclose(-detector.calibration_scores_, expected, rtol=1e-4)
    assert detector.offset_ == np.quantile(detector.calibration_scores_, 0.01)
    assert (detector.score_samples(NORMAL) > detector.calibration_scores_).all()


def test_left_out_distances_by_leaving_out():
    rows = np.random.default_rng(0).normal(size=(9, 3))
    whitener = np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    mean, place = torch.from_numpy(rows.mean(0))[None], torch.from_numpy(rows)[:, None]
    squares = squared_mahalanobis(place, mean, torch.from_numpy(whitener)[None])
    others = np.delete(rows, 4, axis=0)
    apart = rows[4] - others.mean(0)
    expected = apart @ np.linalg.inv(np.cov(others, rowvar=False)) @ apart
    assert float(leave_one_out_squares(squares, 9)[4, 0]) == pytest.approx(expected)


def test_channels_are_drawn_from_random_state():
    first, again, other = (small(random_state=seed).fit(NORMAL).channels_ for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first) == len(first.unique()) == 20
    for n_features in (None, 9999):
        assert small(n_features=n_features).fit(NORMAL).channels_.tolist() == list(range(176))


@pytest.mark.parametrize("seed", range(6))
def test_layers_of_which_no_channel_is_drawn_are_borne(seed):
    detector = small(n_features=2, random_state=seed).fit(NORMAL)  # of three layers
    assert detector.statistics_.mean.shape == (16 * 16, 2)
    assert detector.anomaly_map(ODD).shape == (2, 64, 64)


def test_position_matters():
    turned = small().fit(NORMAL)
    shifted = np.roll(NORMAL, 8, axis=2)  # light stripes where dark ones were
    assert turned.score_samples(shifted).max() < turned.calibration_scores_.min()


def test_a_small_budget_calibrates_with_the_first_images():
    full = small().fit(NORMAL)
    image_bytes = patch_rows(full, NORMAL)[0].nbytes
    part = small(memory_budget=5 * image_bytes).fit(NORMAL)
    np.testing.assert_array_equal(part.calibration_scores_, full.calibration_scores_[:5])
    np.testing.assert_array_equal(part.score_samples(ODD), full.score_samples(ODD))


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


def test_two_images_are_too_few():
    with pytest.raises(ValueError, match="at least 3 images, got 2"):
        small().fit(NORMAL[:2])
