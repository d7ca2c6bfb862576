import pickle

import numpy as np
import pytest
import torch
from oracles import slow_subspace_squares
from torch import nn
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, SubspaceAD, load
from anomalib_lite.backbones import MapRenderer

NORMAL = stripes(24)
FEW = NORMAL[:6]
ODD = scratched(2, center=(20, 40))
PATCHES, FEATURES = 64, 152
IMAGE_BYTES = PATCHES * FEATURES * 4


def small(**params):
    return SubspaceAD(
        **{"image_size": 64, "false_alarm_rate": 0.2, "random_state": 0, "n_folds": 4, **params}
    )


@pytest.fixture(scope="module")
def fitted():
    """Fitted on NORMAL, in four folds; not to be changed."""
    return small().fit(NORMAL)


def rows_of(images, neighborhood=3):
    """(n, P, D), the patches of images as a transformer gives them."""
    features = DeepFeatures(image_size=64, pooling=None, neighborhood=neighborhood)
    return features.fit(NORMAL).transform(images)


def slow_scores(rows, training, share=0.99, n_top=1):
    """Scores of images with rows (n, P, D), and their squares (n, P)."""
    training = training.reshape(-1, training.shape[-1])
    squares = np.array([slow_subspace_squares(each, training, share) for each in rows])
    return np.sort(squares, axis=1)[:, -n_top:].mean(1), squares


# -- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "share", "n_top"),
    [
        ({}, 0.99, 1),  # 1 % of 64 patches, but one at least
        ({"explained_variance": 0.9, "aggregate": ("top", 0.1)}, 0.9, 6),
        ({"aggregate": ["top", 1]}, 0.99, 64),
        ({"neighborhood": 1, "aggregate": "max"}, 0.99, 1),
    ],
)
def test_scores_and_maps_are_residuals_of_numpys_components(params, share, n_top):
    detector, neighborhood = small(**params).fit(FEW), params.get("neighborhood", 3)
    rows, training = (rows_of(images, neighborhood) for images in (ODD, FEW))
    scores, squares = slow_scores(rows, training, share, n_top)
    np.testing.assert_allclose(detector.anomaly_score(ODD), scores, rtol=1e-4)
    render = MapRenderer((64, 64), smoothing=4.0)
    for heat, expected in zip(detector.anomaly_map(ODD), squares, strict=True):
        grid = torch.from_numpy(expected).float().view(8, 8)
        np.testing.assert_allclose(heat, render(grid, (64, 64)), rtol=1e-3)


def test_dimensions_can_be_counted():
    assert small(n_components=5).fit(FEW).n_components_ == 5
    assert small(n_components=100).fit(FEW).n_components_ == 100
    with pytest.raises(ValueError, match="fewer than the 152 features of a patch, got 152"):
        small(n_components=152).fit(FEW)


def test_the_scratch_is_found(fitted):
    assert (fitted.predict(ODD) == -1).all()
    for heat in fitted.anomaly_map(ODD):
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        assert abs(row - 20) <= 8 and abs(column - 40) <= 8


def test_places_do_not_matter(fitted):
    shifted = np.roll(NORMAL, 16, axis=1)  # along the stripes
    worst = -fitted.calibration_scores_.min()
    assert fitted.anomaly_score(shifted).max() < 2 * worst < fitted.anomaly_score(ODD).min()


def test_layers_of_one_shape_are_averaged():
    detector = small(
        backbone="vit_tiny_patch16_224", weights="random", layers=(0, 2), neighborhood=1
    ).fit(FEW)
    assert detector.statistics_.mean.shape == (1, 192)
    batch = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, second = (grid.flatten(2).mT for grid in detector.backbone_(batch))
    rows, grid = detector._embed(batch)
    assert grid == (4, 4)
    torch.testing.assert_close(rows, (first + second) / 2)


# -- one image, few patches, constants ------------------------------------------------------------


def test_one_image_has_scores_and_maps_but_no_threshold(tmp_path):
    with pytest.warns(UserWarning, match="1 image cannot calibrate the threshold"):
        detector = small().fit(NORMAL[:1])
    assert np.isnan(detector.offset_) and np.isnan(detector.calibration_scores_).all()
    seen = detector.inspect(ODD)
    assert seen.labels.tolist() == [0, 0]
    assert seen.scores.max() < detector.score_samples(stripes(4, seed=5)).min()
    detector.save(tmp_path / "one.alite")
    again = load(tmp_path / "one.alite")
    np.testing.assert_array_equal(again.score_samples(ODD), detector.score_samples(ODD))
    again.partial_fit(NORMAL[1:6])
    known = small().fit(FEW).calibration_scores_
    np.testing.assert_allclose(again.calibration_scores_, known, rtol=0.05)


def test_copies_alone_cannot_calibrate():
    with pytest.warns(UserWarning) as told:
        detector = small().fit(np.repeat(NORMAL[:1], 3, axis=0))
    assert any("cannot calibrate the threshold" in str(each.message) for each in told)
    assert np.isnan(detector.calibration_scores_).all()


class Padded(nn.Module):
    """Gray values at stride 8 beside a constant channel and a copy of the first."""

    def forward(self, batch):
        grid = nn.functional.avg_pool2d(batch[:, :1], 8)
        return torch.cat([grid, torch.full_like(grid, 1 / 3), grid, 100 * grid.square()], 1)


@pytest.mark.filterwarnings("ignore:false_alarm_rate")
def test_constant_and_redundant_features():
    detector = small(backbone=Padded(), neighborhood=1, explained_variance=0.999).fit(FEW)
    assert 1 <= detector.n_components_ <= 2
    assert np.isfinite(detector.calibration_scores_).all()
    assert (detector.calibration_scores_ <= 0).all()


@pytest.mark.filterwarnings("ignore:false_alarm_rate")
def test_more_dimensions_than_rows():
    images = FEW[:2, :32, :32]  # of 16 patches each
    detector = small(image_size=32).fit(images)
    assert detector.statistics_.count == 32 < FEATURES
    features = DeepFeatures(image_size=32, pooling=None).fit(images)
    rows, odd = features.transform(images), features.transform(ODD)
    for i in range(2):
        expected, _ = slow_scores(rows[i : i + 1], rows[1 - i])
        assert -detector.calibration_scores_[i] == pytest.approx(expected[0], rel=1e-3)
    np.testing.assert_allclose(detector.anomaly_score(ODD), slow_scores(odd, rows)[0], rtol=1e-3)


@pytest.mark.filterwarnings("ignore:false_alarm_rate")
def test_constant_images_have_a_point_as_their_subspace():
    class Mean(nn.Module):
        def forward(self, batch):
            return nn.functional.avg_pool2d(batch, 8)

    flat = np.full((1, 64, 64), 100, np.uint8)
    detector = small(backbone=Mean(), neighborhood=1).fit([flat[0], flat[0] + 1])
    assert detector.n_components_ == 1
    step = (1 / 255) ** 2 * sum(1 / np.array([0.229, 0.224, 0.225]) ** 2)
    np.testing.assert_allclose(-detector.calibration_scores_, step, rtol=1e-3)


# -- calibration ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 24])
def test_calibration_scores_are_those_of_a_fit_without_the_fold(n):
    images = NORMAL[:n]
    detector = small(aggregate=("top", 0.05)).fit(images)
    folds = detector._digests_ % 4 if n > 20 else np.arange(n)
    assert len(np.unique(folds)) == min(n, 4 if n > 20 else n)
    for fold in np.unique(folds):
        rest = small(aggregate=("top", 0.05), false_alarm_rate=0.5).fit(images[folds != fold])
        expected = rest.score_samples(images[folds == fold])
        np.testing.assert_allclose(detector.calibration_scores_[folds == fold], expected, rtol=1e-4)
    assert detector.offset_ == np.quantile(detector.calibration_scores_, 0.2, method="weibull")


@pytest.mark.filterwarnings("ignore:.* copies")
def test_copies_are_left_out_together():
    with pytest.warns(UserWarning, match="3 of 9 images are copies"):
        detector = small().fit([*FEW, *FEW[:3]])
    scores = detector.calibration_scores_
    np.testing.assert_array_equal(scores[6:], scores[:3])
    rest = small().fit([*FEW[1:], *FEW[1:3]])
    assert scores[0] == pytest.approx(rest.score_samples(FEW[:1])[0], rel=1e-4)


def test_levels_of_maps_are_out_of_sample(fitted):
    grids = fitted._examples_
    assert grids.shape == (8, 8, 8)
    lowest = np.sort(fitted._digests_)[:8]
    for digest, grid in zip(lowest, grids, strict=True):
        (place,) = np.flatnonzero(fitted._digests_ == digest)
        assert grid.max().item() == pytest.approx(-fitted.calibration_scores_[place], rel=1e-6)


def test_a_small_budget_calibrates_with_the_first_images(fitted):
    part = small(memory_budget=5 * IMAGE_BYTES).fit(NORMAL)
    np.testing.assert_array_equal(part.calibration_scores_[:5], fitted.calibration_scores_[:5])
    assert np.isnan(part.calibration_scores_[5:]).all()
    np.testing.assert_array_equal(part.score_samples(ODD), fitted.score_samples(ODD))
    part.partial_fit(stripes(7, seed=3))
    known = np.flatnonzero(~np.isnan(part.calibration_scores_))
    np.testing.assert_array_equal(known, [*range(5), *range(24, 29)])


def test_the_threshold_holds(fitted):
    assert 0.08 < (fitted.predict(stripes(80, seed=8)) == -1).mean() < 0.4


# -- more images, other orders --------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:false_alarm_rate")
@pytest.mark.parametrize("sizes", [[1] * 6, [4, 2], [2, 20, 2]])
def test_streamed_fit_is_one_fit(sizes):
    images = NORMAL[: sum(sizes)]
    whole, streamed = small(false_alarm_rate=0.3).fit(images), small(false_alarm_rate=0.3)
    first, *others = np.split(images, np.cumsum(sizes)[:-1])
    if len(first) == 1:
        with pytest.warns(UserWarning, match="1 image cannot"):
            streamed.fit(first)
    else:
        streamed.fit(first)
    for part in others:
        streamed.partial_fit(part)
    assert streamed.n_images_ == len(images)
    np.testing.assert_array_equal(streamed.anomaly_map(ODD), whole.anomaly_map(ODD))
    # of the earlier images only the patches are kept that looked worst beside those before them
    found, expected = streamed.calibration_scores_, whole.calibration_scores_
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-3)
    assert expected[0] * (1 + 1e-4) <= found[0] < 0.7 * expected[0]


def test_the_order_of_images_changes_rounding_alone(fitted):
    order = np.random.default_rng(0).permutation(24)
    other = small().fit(NORMAL[order])
    np.testing.assert_allclose(other.score_samples(ODD), fitted.score_samples(ODD), rtol=1e-5)
    np.testing.assert_allclose(
        other.calibration_scores_, fitted.calibration_scores_[order], rtol=1e-4
    )


def test_settings_of_later_calls_wait_for_the_next_fit(fitted):
    detector = pickle.loads(pickle.dumps(fitted))
    with pytest.warns(UserWarning, match="until this SubspaceAD is fitted again"):
        detector.set_params(explained_variance=0.5, aggregate=("top", 1.0), n_folds=2)
    np.testing.assert_array_equal(detector.score_samples(ODD), fitted.score_samples(ODD))
    detector.partial_fit(stripes(3, seed=3))
    assert detector.folds_.n_folds == 4
    assert detector.n_components_ == pytest.approx(fitted.n_components_, abs=2)


# -- other views ----------------------------------------------------------------------------------


def test_views_are_learned_and_left_out_with_their_image():
    detector = small(reference_views=2).fit(FEW)
    shown = (detector.statistics_.count // 6 - PATCHES) / 2
    assert detector.statistics_.count % 12 == 0 and 0.7 < shown / PATCHES < 0.85  # a circle
    again = small(reference_views=2).fit(FEW[::-1])
    np.testing.assert_allclose(again.score_samples(ODD), detector.score_samples(ODD), rtol=1e-5)
    other = small(reference_views=2, random_state=1).fit(FEW)
    assert (other.score_samples(ODD) != detector.score_samples(ODD)).all()
    rest = small(reference_views=2).fit(FEW[1:])
    expected = rest.score_samples(FEW[:1])[0]
    assert detector.calibration_scores_[0] == pytest.approx(expected, rel=1e-4)


def test_patches_pass_the_final_norm_of_a_transformer():
    network = {"backbone": "vit_tiny_patch16_224", "weights": "random", "layers": "last"}
    means = [
        small(**network, neighborhood=1, final_norm=final_norm).fit(FEW[:2]).statistics_.mean
        for final_norm in (True, False)
    ]
    assert abs(float(means[0].mean())) < 1e-5 < 1e-3 < abs(float(means[1].mean()))


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"explained_variance": 1}, r"explained_variance: expected a number in \(0, 1\), got 1"),
        ({"explained_variance": 0.0}, "explained_variance: expected a number"),
        ({"explained_variance": "most"}, "explained_variance: expected a number"),
        ({"n_components": 0}, "n_components: expected a positive int"),
        ({"n_components": 0.9}, "n_components: expected a positive int"),
        ({"aggregate": "mean"}, r'aggregate: expected "max" or \("top", share\).* got \'mean\''),
        ({"aggregate": ("top", 0)}, "aggregate: expected"),
        ({"aggregate": ("top", 1.5)}, "aggregate: expected"),
        ({"aggregate": ("top", True)}, "aggregate: expected"),
        ({"aggregate": ("top",)}, "aggregate: expected"),
        ({"aggregate": None}, "aggregate: expected"),
        ({"neighborhood": 2}, "neighborhood: expected an odd int"),
        ({"reference_views": 0}, "reference_views: expected a positive int"),
        ({"n_folds": 1}, "n_folds: expected an int of at least 2"),
        ({"memory_budget": "lots"}, "memory_budget: expected bytes"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(NORMAL[:2])
