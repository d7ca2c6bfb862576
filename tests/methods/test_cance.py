import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM
from worlds import scratched, stripes

from anomalib_lite import CANCE, DeepFeatures, load
from anomalib_lite.methods.cance import _off_diagonal
from anomalib_lite.nn import LinearAutoencoder, MLPAutoencoder

NORMAL = stripes(30)
ODD = scratched(3)
SCORES = ("composite", "latent", "error", "cosine")


def small(**params):
    how = {
        "latent_dim": 3,
        "n_folds": 2,
        "epochs": 15,
        "decoder_epochs": 5,
        "nce_epochs": 5,
        "random_state": 0,
    }
    return CANCE(**{**how, **params})


def on_backbone(**params):
    return small(features="efficientnet_lite0", image_size=64, n_patches=500, **params)


def curve(n, seed=0, noise=0.05):
    """(n, 4): points of a curve in four dimensions, with a little noise."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, (n, 1))
    return np.hstack([t, t**2, np.sin(t), -t]) + rng.normal(scale=noise, size=(n, 4))


# -- images ---------------------------------------------------------------------------------------


def on_pixels(**params):
    return small(features="pca", image_size=32, **params)


@pytest.mark.parametrize("make", [small, on_backbone, on_pixels])
@pytest.mark.parametrize("score", SCORES)
def test_every_score_ranks_images_and_finds_the_place(make, score):
    if make is not on_backbone and score == "latent":
        pytest.skip("a code of normal stripes says nothing of scratches")
    detector = make(score_type=score).fit(NORMAL)
    seen = detector.inspect(np.concatenate([ODD, stripes(3, seed=9)]))
    assert seen.scores[:3].max() < seen.scores[3:].min()
    for heat in seen.maps[:3] if score != "latent" else ():
        inside = np.zeros(heat.shape, dtype=bool)
        inside[16:24, 33:47] = True
        assert np.median(heat[inside]) > np.quantile(heat[~inside], 0.8)


def test_composite_is_code_error_and_dissimilarity():
    detector = small().fit(NORMAL)
    z, e, c = np.split(detector.transform(ODD), [3, 4], axis=1)
    x = torch.from_numpy(ODD / 255.0).float()[:, None]
    with torch.no_grad():
        code, back = detector.autoencoder_(x)
    np.testing.assert_allclose(z, code, atol=1e-5)
    x, back = x.flatten(1).double().numpy(), back.flatten(1).double().numpy()
    np.testing.assert_allclose(e[:, 0], np.square(x - back).mean(1), rtol=1e-4)
    cosine = (x * back).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(back, axis=1)
    np.testing.assert_allclose(c[:, 0], 1 - cosine, rtol=1e-3)
    assert list(detector.get_feature_names_out()) == [f"cance{i}" for i in range(5)]


@pytest.mark.parametrize("make", [small, on_backbone])
@pytest.mark.parametrize("score", SCORES)
def test_scores_are_read_from_the_composite(make, score):
    detector = make(score_type=score).fit(NORMAL)
    composites = detector.transform(ODD)
    if score in ("error", "cosine"):
        expected = composites[:, -2 if score == "error" else -1]
    else:
        part = composites if score == "composite" else composites[:, :-2]
        expected = -detector.density_.score_samples(part)
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-9)


def test_principal_components_are_of_the_pooled_features():
    detector = on_backbone().fit(NORMAL)
    features = DeepFeatures(image_size=64, layers=(8, 16, 32)).fit(NORMAL)
    network = LinearAutoencoder.from_data(torch.from_numpy(features.transform(NORMAL)), 3)
    code = network.encode(torch.from_numpy(features.transform(ODD)))
    np.testing.assert_allclose(detector.transform(ODD)[:, :3], code, atol=1e-3)


def test_patch_level_is_the_most_anomalous_patch():
    detector = on_backbone(patch_level=True, smoothing=0).fit(NORMAL)
    batch = detector.input_.batch(list(detector._open(ODD))[:1])
    scores, grids = detector._infer(batch)
    assert float(scores) == pytest.approx(float(grids.max()))
    assert float(scores) == pytest.approx(detector.anomaly_score(ODD[:1])[0])
    with pytest.raises(ValueError, match="patch_level"):
        small(patch_level=True).fit(NORMAL)


def test_gray_images_take_one_channel_and_colors_are_anomalies():
    detector = small().fit(NORMAL)
    assert detector.autoencoder_.shape == (1, 64, 64)
    color = np.stack([NORMAL] * 3, -1)
    np.testing.assert_allclose(
        detector.score_samples(color), detector.score_samples(NORMAL), rtol=1e-4
    )
    tinted = color[:3].copy()
    tinted[..., 0] //= 2
    assert detector.score_samples(tinted).max() < detector.score_samples(NORMAL).min()
    assert small().fit(tinted.repeat(3, 0)).autoencoder_.shape[0] == 3


def test_maps_are_errors_times_the_slope_of_the_score():
    detector = small().fit(NORMAL)
    batch = detector.input_.batch(list(detector._open(ODD))[:1])
    _, grids = detector._infer(batch)
    row = torch.from_numpy(detector.transform(ODD[:1]))
    step = torch.zeros_like(row)
    step[0, -2] = 1e-6 * row[0, -2]
    up, down = (-detector.density_.log_density(row + sign * step) for sign in (1, -1))
    slope = float((up - down) / (2 * step[0, -2]))
    assert slope > 1 / float(detector._error_std_)  # an odd image lies beyond the usual errors
    with torch.no_grad():
        back = detector.autoencoder_(batch)[1]
    expected = slope * (batch - back).square().mean(1)
    torch.testing.assert_close(grids, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("make", [small, on_backbone])
def test_saved_and_cloned_ones_give_the_same(make, tmp_path):
    detector = make().fit(NORMAL)
    detector.save(tmp_path / "saved.alite")
    again = load(tmp_path / "saved.alite")
    np.testing.assert_array_equal(again.score_samples(ODD), detector.score_samples(ODD))
    np.testing.assert_array_equal(again.anomaly_map(ODD), detector.anomaly_map(ODD))


def test_codes_are_decorrelated_where_that_is_asked_for():
    rows = curve(300)
    codes = [
        small(latent_dim=4, cov_weight=weight, epochs=60).fit(rows).transform(rows)[:, :-2]
        for weight in (0.0, 10.0)
    ]
    free, held = (float(_off_diagonal(torch.from_numpy(code))) for code in codes)
    assert held < free / 5


def test_second_stage_moves_the_decoder_alone():
    rows = curve(100)
    first = small(decoder_epochs=0, validation_fraction=0).fit(rows).autoencoder_
    both = small(decoder_epochs=10, validation_fraction=0).fit(rows).autoencoder_
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(value, both.encoder.state_dict()[name]), name
    weights = [network.decoder.state_dict()["0.0.weight"] for network in (first, both)]
    assert not torch.equal(*weights)


def test_off_diagonal_is_its_definition():
    z = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = np.cov(z.numpy().T)
    expected = np.mean([covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j])
    assert float(_off_diagonal(z)) == pytest.approx(expected)
    assert float(_off_diagonal(z[:, :1])) == 0


def test_cross_fitted_errors_are_those_of_new_inputs():
    rows, new = curve(60, noise=0.5), curve(2000, seed=1, noise=0.5)
    how = {
        "epochs": 200,
        "hidden": (64, 64),
        "validation_fraction": 0,
        "latent_dim": 2,
        "n_folds": 5,
    }
    honest, naive = (small(cross_fit=yes, **how).fit(rows) for yes in (True, False))
    usual = np.median(naive.transform(new)[:, -2])
    assert np.median(naive.composites_[:, -2]) < 0.6 * usual
    assert 0.75 * usual < np.median(honest.composites_[:, -2]) < 1.7 * usual


@pytest.mark.parametrize("cross_fit", [True, False])
def test_threshold_is_that_of_new_inputs(cross_fit):
    rows, new = curve(60, noise=0.5), curve(2000, seed=1, noise=0.5)
    how = {"epochs": 100, "latent_dim": 2, "n_folds": 5, "false_alarm_rate": 0.1}
    detector = small(cross_fit=cross_fit, **how).fit(rows)
    assert (detector.predict(new) == -1).mean() < 0.3


# -- tables ---------------------------------------------------------------------------------------


def test_rows_off_the_curve_are_found_and_their_columns():
    detector = small(latent_dim=1, epochs=80).fit(curve(300))
    odd = curve(100, seed=1)
    odd[:, 1] += 3
    normal = curve(100, seed=2)
    scores = detector.score_samples(np.concatenate([normal, odd]))
    assert roc_auc_score(np.repeat([1, 0], [len(normal), len(odd)]), scores) > 0.98
    maps = detector.anomaly_map(odd)
    assert maps.shape == odd.shape
    assert np.median(maps, axis=0).argmax() == 1
    assert detector.predict(normal).mean() > 0.9


def test_breast_cancer_as_good_as_the_classics():
    X, y = load_breast_cancer(return_X_y=True)
    benign = X[y == 1]
    test, labels = np.concatenate([benign[250:], X[y == 0]]), np.repeat([1, 0], [107, 212])
    detector = small(latent_dim=None, epochs=60).fit(benign[:250])
    assert roc_auc_score(labels, detector.score_samples(test)) > 0.94


def test_tables_of_every_kind_agree():
    rows = curve(60)
    detector = small().fit(rows)
    for same in (rows.tolist(), pd.DataFrame(rows), torch.from_numpy(rows), rows.copy(order="F")):
        assert np.array_equal(small().fit(same).score_samples(rows), detector.score_samples(rows))
    frame = pd.DataFrame(rows, columns=list("abcd"))
    named = small().fit(frame)
    assert named.feature_names_in_.tolist() == list("abcd")
    assert named.n_features_in_ == 4
    with pytest.raises(ValueError, match="feature names"):
        named.predict(frame[list("dcba")])


def test_tables_and_images_are_not_mixed_up(tmp_path):
    for_tables, for_images = small().fit(curve(40)), small().fit(NORMAL)
    for X in (NORMAL, str(tmp_path), [NORMAL[0], NORMAL[1]]):
        with pytest.raises(ValueError, match=r"table|dim"):
            for_tables.score_samples(X)
    with pytest.raises(ValueError, match="table"):
        for_images.score_samples(curve(40))
    with pytest.raises(ValueError, match="a backbone reads images"):
        on_backbone().fit(curve(40))
    with pytest.raises(ValueError, match="at least 4"):
        small().fit(curve(3))
    refitted = for_tables.fit(NORMAL)
    assert not hasattr(refitted, "n_features_in_")
    assert refitted.score_samples(ODD).shape == (3,)


def test_saved_table_detector_gives_the_same(tmp_path):
    rows = curve(60)
    detector = small().fit(rows)
    detector.save(tmp_path / "saved.alite")
    again = load(tmp_path / "saved.alite")
    assert isinstance(again.autoencoder_, MLPAutoencoder)
    np.testing.assert_array_equal(again.inspect(rows).scores, detector.score_samples(rows))
    np.testing.assert_array_equal(again.anomaly_map(rows), detector.anomaly_map(rows))


def test_composites_before_a_classic_outlier_detector():
    pipeline = make_pipeline(small(), OneClassSVM(nu=0.1)).fit(curve(60))
    assert pipeline.score_samples(curve(10, seed=1)).shape == (10,)


def test_half_the_columns_make_the_code_of_a_table():
    assert small(latent_dim=None).fit(curve(30)).transform(curve(2)).shape == (2, 4)


def test_principal_components_leave_room_for_errors():
    detector = CANCE("pca", nce_epochs=0, n_folds=2).fit(np.random.default_rng(0).random((20, 40)))
    assert detector.autoencoder_.latent_dim == 10
    assert (detector.composites_[:, -2:] > 1e-3).all()


def test_without_nce_the_score_is_a_mahalanobis_distance():
    rows = curve(400)
    detector = small(nce_epochs=0).fit(rows)
    density = detector.density_
    composites = detector.transform(rows[:20])
    covariance = (density.root_ @ density.root_.T).numpy()
    truth = stats.multivariate_normal(density.mean_.numpy(), covariance).logpdf(composites)
    np.testing.assert_allclose(detector.score_samples(rows[:20]), truth, rtol=1e-6)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"score_type": "energy"}, "score_type"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"widths": ()}, "widths"),
        ({"train_batch_size": 1}, "train_batch_size: expected an int of at least 2"),
        ({"train_batch_size": 8.0}, "train_batch_size"),
        ({"decoder_epochs": 2.5}, "decoder_epochs"),
        ({"nce_epochs": 1.0}, "nce_epochs"),
        ({"n_folds": 1}, "n_folds"),
        ({"input_noise": -0.1}, "input_noise"),
        ({"epochs": 0}, "epochs"),
        ({"cov_weight": -1}, "cov_weight"),
        ({"nu": 0.5}, "nu"),
    ],
)
def test_senseless_parameters_are_refused(params, match):
    detector = small(**params)
    with pytest.raises(ValueError, match=match):
        detector.fit(curve(30))
    assert not [name for name in vars(detector) if name.endswith("_")]
