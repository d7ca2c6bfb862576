"""CANCE of images and of tables: its scores and thresholds from definitions, and what it finds."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from worlds import scratched, stripes

from anomalib_lite import CANCE, DeepFeatures, NCEDensity, load
from anomalib_lite.backbones.maps import MapRenderer
from anomalib_lite.data import ImageStream
from anomalib_lite.density import folds
from anomalib_lite.methods.cance import learning
from anomalib_lite.methods.cance.images import patch_vectors
from anomalib_lite.methods.cance.learning import (
    ReconstructionLosses,
    mean_squared_covariance,
    on_scale_of,
)
from anomalib_lite.nn import (
    ConvAutoencoder,
    LinearAutoencoder,
    MLPAutoencoder,
    reconstruction_errors,
)
from anomalib_lite.runtime import draw_seed, make_generator
from anomalib_lite.workers import team

NORMAL, ODD, NEW = stripes(20, 32), scratched(3, 32, center=(10, 20)), stripes(3, 32, seed=9)
BRIEF = NCEDensity(epochs=5, hidden=(16,), learning_rate=0.003)
GAUSSIAN = NCEDensity(epochs=0)
KINDS = {
    "autoencoder": {"image_size": 32, "widths": (8, 16)},
    "mlp": {"image_size": 32, "hidden": (32,), "backbone": "mlp"},
    "pca": {"image_size": 32, "backbone": "pca"},
    "efficientnet": {"image_size": 64, "backbone": "efficientnet_lite0", "n_patches": 500},
    "patches": {
        "image_size": 64, "backbone": "efficientnet_lite0", "n_patches": 500, "patch_level": True,
    },
    "table": {},
}  # fmt: skip


def small(kind="table", **params):
    how = {"latent_dim": 3, "n_folds": 2, "epochs": 15, "decoder_epochs": 5, "density": BRIEF}
    return CANCE(**{**how, "smoothing": 0, "random_state": 0, **KINDS[kind], **params})


def curve(n, seed=0, noise=0.05):
    """(n, 4): points of a curve in four dimensions, with a little noise."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-2, 2, (n, 1))
    return np.hstack([t, t**2, np.sin(t), -t]) + rng.normal(scale=noise, size=(n, 4))


ROWS = curve(60)


@pytest.fixture(scope="module")
def fitted():
    """Small detectors by kind and score type, each fitted once; not to be changed."""

    @functools.cache
    def fit(kind, score_type="composite"):
        return small(kind, score_type=score_type).fit(ROWS if kind == "table" else NORMAL)

    return fit


def tensor(images):
    """(n, 1, h, w) in [0, 1]."""
    return torch.from_numpy(images / np.float32(255))[:, None]


def patches_of(detector, images, neighborhood=3):
    """(n * P, D), the patches of images as a detector's backbone sees them."""
    batch = detector.input_.batch(list(ImageStream(images)))
    return patch_vectors(detector.backbone_(batch), neighborhood).flatten(0, 1)


# -- scores ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "score_type"),
    [
        *((kind, score) for kind in ("autoencoder", "pca") for score in ("error", "cosine")),
        *((kind, "composite") for kind in ("autoencoder", "mlp", "pca", "efficientnet", "patches")),
        *(("efficientnet", score) for score in ("latent", "error", "cosine")),
    ],
)
def test_scratched_images_rank_below_normal_ones_and_maps_show_the_scratch(
    fitted, kind, score_type
):
    seen = fitted(kind, score_type).inspect(np.concatenate([ODD, NEW]))
    assert seen.scores[:3].max() < seen.scores[3:].min()
    for heat in seen.maps[:3] if score_type != "latent" else ():
        inside = np.zeros(heat.shape, dtype=bool)
        inside[8:12, 13:27] = True
        assert np.median(heat[inside]) > np.quantile(heat[~inside], 0.8)


@pytest.mark.parametrize("kind", ["autoencoder", "mlp", "table"])
def test_composite_is_code_error_and_dissimilarity(fitted, kind):
    detector, X = fitted(kind), ROWS[:5] if kind == "table" else ODD
    x = torch.from_numpy(detector.scaler_.transform(X)) if kind == "table" else tensor(X)
    with torch.no_grad():
        code, back = detector.autoencoder_(x)
    z, errors = np.split(detector.transform(X), [3], axis=1)
    np.testing.assert_allclose(z, code, atol=1e-5)
    np.testing.assert_allclose(errors, reconstruction_errors(x, back), rtol=1e-3)
    assert list(detector.get_feature_names_out()) == [f"cance{i}" for i in range(5)]


def test_composite_of_a_backbone_is_that_of_its_pooled_features(fitted):
    features = DeepFeatures(image_size=64, layers=(8, 16, 32)).fit(NORMAL)
    network = LinearAutoencoder.from_data(torch.from_numpy(features.transform(NORMAL)), 3)
    x = torch.from_numpy(features.transform(ODD))
    code, back = network(x)
    z, errors = np.split(fitted("efficientnet").transform(ODD), [3], axis=1)
    np.testing.assert_allclose(z, code, atol=1e-3)
    np.testing.assert_allclose(errors, reconstruction_errors(x, back), rtol=1e-3)


@pytest.mark.parametrize("score_type", ["composite", "latent", "error", "cosine"])
@pytest.mark.parametrize("kind", ["table", "efficientnet"])
def test_score_is_the_density_or_the_error_of_the_composite(fitted, kind, score_type):
    detector, X = fitted(kind, score_type), ROWS if kind == "table" else ODD
    composites = detector.transform(X)
    if score_type in ("error", "cosine"):
        expected = composites[:, 3 if score_type == "error" else 4]
        assert detector.density_ is None
    else:
        scored = composites if score_type == "composite" else composites[:, :3]
        expected = -detector.density_.score_samples(scored)
    np.testing.assert_allclose(detector.anomaly_score(X), expected, rtol=1e-9)


def test_without_training_the_score_is_a_mahalanobis_distance():
    detector = small(density=GAUSSIAN).fit(ROWS)
    density = detector.density_
    covariance = (density.root_ @ density.root_.T).numpy()
    truth = stats.multivariate_normal(density.mean_.numpy(), covariance)
    expected = truth.logpdf(detector.transform(ROWS[:20]))
    np.testing.assert_allclose(detector.score_samples(ROWS[:20]), expected, rtol=1e-6, atol=1e-6)


# -- maps -----------------------------------------------------------------------------------------


def test_map_is_the_squared_error_times_the_slope_of_the_score(fitted):
    detector = fitted("autoencoder")
    composites = torch.from_numpy(detector.transform(ODD))
    step = torch.zeros_like(composites)
    step[:, -2] = 1e-6 * composites[:, -2]
    up, down = (-detector.density_.log_density(composites + sign * step) for sign in (1, -1))
    slopes = (up - down) / (2 * step[:, -2])
    assert (slopes > 1 / detector.composites_[:, -2].std(ddof=1)).all()  # scratches: large errors
    _, back = detector.autoencoder_(tensor(ODD))
    expected = slopes[:, None, None] * (tensor(ODD) - back).square()[:, 0]
    np.testing.assert_allclose(detector.anomaly_map(ODD), expected, rtol=1e-3, atol=1e-6)


def test_slope_is_at_least_that_of_one_standard_deviation():
    detector = small("pca", density=GAUSSIAN, augment=False).fit(NORMAL)
    errors = detector.composites_[:, -2]
    images = NORMAL[errors < np.median(errors)]  # where the Gaussian's score falls with the error
    _, back = detector.autoencoder_(tensor(images))
    squares = (tensor(images) - back).square()[:, 0].numpy()
    expected = squares / errors.std(ddof=1)
    np.testing.assert_allclose(detector.anomaly_map(images), expected, rtol=1e-3, atol=1e-4)


def test_map_of_a_single_error_is_the_squared_error(fitted):
    detector = fitted("autoencoder", "error")
    _, back = detector.autoencoder_(tensor(ODD))
    expected = (tensor(ODD) - back).square()[:, 0]
    np.testing.assert_allclose(detector.anomaly_map(ODD), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["efficientnet", "patches"])
def test_map_of_a_backbone_is_the_score_of_each_patch(fitted, kind):
    detector = fitted(kind)
    vectors = patches_of(detector, ODD)
    code, back = detector.patch_autoencoder_(vectors)
    composites = torch.cat([code, reconstruction_errors(vectors, back)], 1).double()
    values = -detector.patch_density_.score_samples(composites.numpy()).reshape(3, 8, 8)
    render = MapRenderer((64, 64), smoothing=0)
    seen = detector.inspect(ODD)
    expected = render(torch.from_numpy(values).float(), (32, 32))
    np.testing.assert_allclose(seen.maps, expected, rtol=1e-3)
    if kind == "patches":
        np.testing.assert_allclose(-seen.scores, values.max((1, 2)), rtol=1e-4)
        np.testing.assert_allclose(detector.anomaly_score(ODD), -seen.scores)


def test_map_of_a_table_is_the_squared_error_of_each_column(fitted):
    detector = fitted("table")
    x = torch.from_numpy(StandardScaler().fit(ROWS).transform(ROWS[:9]))
    _, back = detector.autoencoder_(x)
    seen = detector.inspect(ROWS[:9])
    np.testing.assert_allclose(seen.maps, (x - back).square(), rtol=1e-9)
    np.testing.assert_array_equal(seen.scores, detector.score_samples(ROWS[:9]))
    np.testing.assert_array_equal(seen.labels, detector.predict(ROWS[:9]))
    assert seen.paths == [None] * 9


# -- out-of-sample scores -------------------------------------------------------------------------


def on_scale(wanted, own, scores):
    """Scores by one model as another one would have them, by the scores of what both learned."""
    return wanted.mean() + (scores - own.mean()) * wanted.std() / own.std()


def pca_composites(learned, x):
    """Composites of rows by the principal components of others."""
    network = LinearAutoencoder.from_data(torch.from_numpy(learned), 2)
    code, back = network(torch.from_numpy(x))
    return torch.cat([code, reconstruction_errors(torch.from_numpy(x), back)], 1).numpy()


def gaussian(composites):
    return NCEDensity(epochs=0, n_lowered=2).fit(composites)


def test_threshold_holds_out_each_row():
    rows = ROWS[:12]
    detector = small(backbone="pca", latent_dim=2, n_folds=12, score_type="error").fit(rows)
    x = StandardScaler().fit(rows).transform(rows)
    expected = [-pca_composites(np.delete(x, i, axis=0), x[i : i + 1])[0, 2] for i in range(12)]
    np.testing.assert_allclose(detector.calibration_scores_, expected)
    assert detector.offset_ == np.quantile(detector.calibration_scores_, 0.01, method="weibull")


def test_errors_by_as_many_components_are_compared():
    rows = np.random.default_rng(0).random((20, 40))
    detector = small(backbone="pca", latent_dim=None, n_folds=2, score_type="error").fit(rows)
    assert detector.autoencoder_.latent_dim == 10  # all that 10 rows leave is 9
    x = torch.from_numpy(StandardScaler().fit(rows).transform(rows))
    for learned, held_out in folds(np.arange(20), draw_seed(make_generator(0)), 2):
        _, back = LinearAutoencoder.from_data(x[learned], 9)(x[held_out])
        errors = (x[held_out] - back).square().mean(1)
        np.testing.assert_allclose(-detector.calibration_scores_[held_out], errors)


def test_threshold_holds_out_each_row_of_the_density_too():
    rows = ROWS[:12]
    detector = small(backbone="pca", latent_dim=2, n_folds=12, density=GAUSSIAN).fit(rows)
    x = StandardScaler().fit(rows).transform(rows)
    everything = detector.score_samples(rows)
    for i in range(12):
        others = np.delete(x, i, axis=0)
        learned, alone = pca_composites(others, others), pca_composites(others, x[i : i + 1])
        density = gaussian(learned)
        own, score = density.score_samples(learned), density.score_samples(alone)
        expected = on_scale(np.delete(everything, i), own, score)
        assert detector.calibration_scores_[i] == pytest.approx(expected[0])


def test_cross_fitted_density_learns_from_errors_out_of_sample():
    rows = ROWS[:12]
    how = {"backbone": "pca", "latent_dim": 2, "n_folds": 12, "density": GAUSSIAN}
    detector = small(cross_fit=True, **how).fit(rows)
    x = StandardScaler().fit(rows).transform(rows)
    expected = detector.transform(rows)  # the codes are those of the one autoencoder
    for i in range(12):
        expected[i, 2:] = pca_composites(np.delete(x, i, axis=0), x[i : i + 1])[0, 2:]
    np.testing.assert_allclose(detector.composites_, expected)
    np.testing.assert_allclose(detector.density_.mean_, expected.mean(0), atol=1e-12)
    everything = detector.density_.score_samples(expected)
    for i in range(12):
        learned = np.delete(expected, i, axis=0)
        density = gaussian(learned)
        own, score = density.score_samples(learned), density.score_samples(expected[i : i + 1])
        score = on_scale(np.delete(everything, i), own, score)
        assert detector.calibration_scores_[i] == pytest.approx(score[0])


def test_threshold_at_patch_level_holds_out_each_image():
    images = NORMAL[:5]
    how = {"n_folds": 5, "score_type": "error", "n_patches": 10**6, "latent_dim": 2}
    detector = small("patches", **how).fit(images)
    vectors = patches_of(detector, images).unflatten(0, (5, -1))  # (n, P, D)

    def errors(learned, x):
        _, back = LinearAutoencoder.from_data(learned.flatten(0, -2), 2)(x.flatten(0, -2))
        return (x.flatten(0, -2) - back).square().mean(1)

    for i in range(5):
        others = vectors[[j for j in range(5) if j != i]]
        wanted, own = errors(vectors, others), errors(others, others)
        worst = float(on_scale(wanted, own, errors(others, vectors[i])).max())
        assert detector.calibration_scores_[i] == pytest.approx(-worst, rel=1e-3)


def test_scores_of_a_fold_are_on_the_scale_of_the_final_model(monkeypatch):
    """Every density but the first, which is the final one, has another scale."""
    made = []
    new_density = learning.new_density

    class Rescaled(NCEDensity):
        def log_density(self, rows):
            factor, offset = (1.0, 0.0) if self is made[0] else (3.0, 50.0)
            return factor * super().log_density(rows) + offset

    def other(params, seed):
        made.append(Rescaled(**new_density(params, seed).get_params()))
        return made[-1]

    with team(1):
        expected = small(backbone="pca", n_folds=4).fit(ROWS).calibration_scores_
        monkeypatch.setattr(learning, "new_density", other)
        found = small(backbone="pca", n_folds=4).fit(ROWS).calibration_scores_
    np.testing.assert_allclose(found, expected)


def test_models_that_tell_nothing_apart_have_no_scale():
    scores = torch.tensor([2.0, 4.0])
    spread, same = torch.tensor([0.0, 1.0, 2.0]), torch.ones(3)
    for wanted, own in ((same, spread), (spread, same), (same, same)):
        assert on_scale_of(wanted, own, scores).tolist() == [2.0, 4.0]
    assert on_scale_of(same + 5, same, scores).tolist() == [7.0, 9.0]
    rounding = same + 1e-7 * spread
    assert on_scale_of(spread, rounding, scores).tolist() == pytest.approx([2, 4])


@pytest.mark.parametrize("kind", ["autoencoder", "table", "patches"])
@pytest.mark.parametrize("cross_fit", [True, False])
def test_a_fit_is_the_same_by_any_number_of_workers(kind, cross_fit):
    how = {"cross_fit": cross_fit, "epochs": 2, "decoder_epochs": 1, "n_folds": 3}
    X = ROWS if kind == "table" else NORMAL[:8]

    def fit(n_workers):
        with team(n_workers):
            return small(kind, **how).fit(X)

    first, second = fit(1), fit(4)
    for name in ("calibration_scores_", "composites_"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    assert first.history_ == second.history_


def test_folds_are_as_many_as_asked_for(monkeypatch):
    counted = []
    from_data = LinearAutoencoder.from_data
    monkeypatch.setattr(
        LinearAutoencoder, "from_data", lambda x, dim: counted.append(len(x)) or from_data(x, dim)
    )
    small(backbone="pca", n_folds=4, n_jobs=1).fit(ROWS)
    assert counted == [60, 45, 45, 45, 45]


@pytest.mark.slow
def test_cross_fitted_errors_are_those_of_new_inputs():
    rows, new = curve(60, noise=0.5), curve(2000, seed=1, noise=0.5)
    how = {
        "epochs": 200, "hidden": (64, 64), "validation_fraction": 0, "latent_dim": 2, "n_folds": 5,
    }  # fmt: skip
    honest, naive = (small(cross_fit=yes, **how).fit(rows) for yes in (True, False))
    usual = np.median(naive.transform(new)[:, -2])
    assert np.median(naive.composites_[:, -2]) < 0.6 * usual
    assert 0.75 * usual < np.median(honest.composites_[:, -2]) < 1.7 * usual


@pytest.mark.slow
@pytest.mark.parametrize("cross_fit", [True, False])
def test_false_alarms_among_new_rows_are_about_as_many_as_asked_for(cross_fit):
    rows, new = curve(60, noise=0.5), curve(2000, seed=1, noise=0.5)
    how = {"epochs": 100, "latent_dim": 2, "n_folds": 5, "false_alarm_rate": 0.1}
    detector = small(cross_fit=cross_fit, **how).fit(rows)
    assert (detector.predict(new) == -1).mean() < 0.3


# -- the autoencoder ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "X", "latent_dim", "cls", "arguments"),
    [
        ("autoencoder", NORMAL, 16, ConvAutoencoder, {"widths": [16, 32, 64]}),
        ("mlp", NORMAL, 16, MLPAutoencoder, {"hidden": [256, 64]}),
        ("pca", NORMAL, 10, LinearAutoencoder, {}),  # half of 20 images
        ("table", ROWS, 2, MLPAutoencoder, {"hidden": [64, 32]}),
        ("table", np.tile(ROWS, 10)[:, :33], 16, MLPAutoencoder, {"hidden": [64, 32]}),
        ("table", ROWS[:, :3], 2, MLPAutoencoder, {"hidden": [64, 32]}),
    ],
)
def test_default_architecture(kind, X, latent_dim, cls, arguments):
    how = {"epochs": 1, "decoder_epochs": 0, "score_type": "error", "image_size": None}
    backbone = {"backbone": kind} if kind != "table" else {}
    network = CANCE(**backbone, **how, n_folds=2, random_state=0).fit(X).autoencoder_
    shape = X.shape[1:] if kind == "table" else (1, 64, 64)
    expected = {"shape": shape, "latent_dim": latent_dim, **arguments}
    assert type(network) is cls
    assert network.arguments == expected


def test_no_hidden_layers_are_not_taken_for_the_default():
    network = CANCE(hidden=(), epochs=1, decoder_epochs=0, n_folds=2, score_type="error").fit(ROWS)
    assert network.autoencoder_.arguments["hidden"] == []


@pytest.mark.parametrize(
    ("shape", "asked", "latent_dim"),
    [((300, 200), None, 128), ((20, 40), None, 10), ((20, 6), 9, 6), ((8, 40), 9, 7)],
)
def test_principal_components_are_as_many_as_the_data_allow(shape, asked, latent_dim):
    rows = np.random.default_rng(0).random(shape)
    detector = small(backbone="pca", score_type="cosine", latent_dim=asked).fit(rows)
    assert detector.autoencoder_.latent_dim == latent_dim


def test_loss_puts_noise_on_training_inputs_alone():
    class Echo(torch.nn.Module):
        def forward(self, x):
            return x, x

    x = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    network, index = Echo(), torch.arange(2000)
    losses = ReconstructionLosses(network, x, input_noise=0.5, cov_weight=2.0)
    generator = torch.Generator().manual_seed(0)
    assert float(losses.error(index, generator)) == pytest.approx(0.25, rel=0.1)
    network.eval()
    assert float(losses.error(index, generator)) == 0
    covariance = np.cov(x.numpy().T)[0, 1]
    assert float(losses.regularized(index, generator)) == pytest.approx(2 * covariance**2, rel=1e-3)


def test_noise_on_training_inputs_changes_the_autoencoder(fitted):
    noisy = small(input_noise=0.3).fit(ROWS)
    assert np.abs(noisy.transform(ROWS) - fitted("table").transform(ROWS)).max() > 1e-3


def test_codes_are_decorrelated_where_that_is_asked_for():
    rows = curve(60)
    how = {"latent_dim": 4, "epochs": 30, "learning_rate": 0.01, "score_type": "error"}
    free, held = (
        mean_squared_covariance(
            torch.from_numpy(small(cov_weight=weight, **how).fit(rows).transform(rows)[:, :-2])
        )
        for weight in (0.0, 10.0)
    )
    assert held < free / 5


def test_mean_squared_covariance_is_its_definition():
    z = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covariance = np.cov(z.numpy().T)
    expected = np.mean([covariance[i, j] ** 2 for i in range(4) for j in range(4) if i != j])
    assert float(mean_squared_covariance(z)) == pytest.approx(expected)
    assert float(mean_squared_covariance(z[:, :1])) == 0
    assert float(mean_squared_covariance(z[:1])) == 0


def test_second_stage_trains_the_decoder_alone():
    how = {"validation_fraction": 0, "score_type": "error", "input_noise": 0.1}
    first = small(decoder_epochs=0, **how).fit(ROWS)
    both = small(decoder_epochs=10, **how).fit(ROWS)
    assert [len(first.history_), len(both.history_)] == [15, 25]
    assert both.history_[:15] == first.history_
    encoders, decoders = (
        [network.state_dict() for network in (getattr(one.autoencoder_, part) for one in pair)]
        for part, pair in (("encoder", (first, both)), ("decoder", (first, both)))
    )
    assert all(torch.equal(value, encoders[1][name]) for name, value in encoders[0].items())
    assert not torch.equal(decoders[0]["0.0.weight"], decoders[1]["0.0.weight"])


def test_second_stage_ignores_covariances():
    how = {
        "epochs": 2, "learning_rate": 1e-12, "score_type": "error", "validation_fraction": 0,
    }  # fmt: skip
    one, other = (
        [entry["loss"] for entry in small(cov_weight=weight, **how).fit(ROWS).history_]
        for weight in (0.0, 1e6)
    )
    assert other[0] > 1000 * one[0]
    np.testing.assert_allclose(other[2:], one[2:], rtol=1e-6)


@pytest.mark.parametrize("fraction", [0, 0.2])
def test_validation_fraction_holds_for_autoencoder_and_density(fraction):
    how = {"density": clone(BRIEF), "validation_fraction": fraction}
    detector = small(**how).fit(ROWS)
    for history in (detector.history_, detector.density_.history_):
        assert ("held_out" in history[0]) == (fraction > 0)


# -- the nested density ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "n_lowered"),
    [({}, 2), ({"augment": False}, 0), ({"score_type": "latent"}, 0)],
)
def test_density_is_a_clone_with_the_detectors_settings(params, n_lowered):
    given = NCEDensity(epochs=1, noise_ratio=3, random_state=7, n_lowered=1, device="cuda")
    detector = small("pca", density=given, validation_fraction=0.2, **params).fit(NORMAL)
    density = detector.density_
    assert density is not given
    assert (
        given.get_params()
        == NCEDensity(
            epochs=1, noise_ratio=3, random_state=7, n_lowered=1, device="cuda"
        ).get_params()
    )
    assert not hasattr(given, "mean_")
    assert (density.epochs, density.noise_ratio, density.n_lowered) == (1, 3, n_lowered)
    assert (density.validation_fraction, density.device) == (0.2, detector.device_)
    assert isinstance(density.random_state, int)
    assert density.random_state != 7


def test_default_density_has_a_learning_rate_of_its_own():
    detector = small(density=None)
    detector.device_ = "cpu"
    found, default = learning.new_density(detector, 3).get_params(), NCEDensity().get_params()
    differing = {name: found[name] for name in default if default[name] != found[name]}
    expected = {"learning_rate": 0.003, "n_lowered": 2, "device": "cpu", "random_state": 3}
    assert differing == expected


def test_density_progress_is_shown_if_asked_for(capsys):
    small(backbone="pca", n_folds=2, density=NCEDensity(epochs=1), verbose=True).fit(ROWS)
    assert "train" in capsys.readouterr().err


def test_parameters_of_the_density_are_read_set_and_cloned():
    detector = small(density=NCEDensity(epochs=4))
    assert detector.get_params()["density__epochs"] == 4
    copied = clone(detector).set_params(density__epochs=1, density__hidden=(4,))
    assert copied.density.get_params()["hidden"] == (4,)
    assert detector.density.epochs == 4
    assert len(copied.fit(ROWS).density_.history_) == 1
    with pytest.warns(UserWarning, match="density__epochs: changed after fit"):
        copied.set_params(density__epochs=9)
    assert copied.density_.epochs == 1


def test_grid_search_reaches_the_density():
    rng = np.random.default_rng(0)
    normal = rng.choice([-4.0, 4.0], (120, 1)) * [1, 1, 1] + rng.normal(0, 0.5, (120, 3))
    odd = rng.normal(0, 0.5, (40, 3))  # between the two clusters: inside the Gaussian
    density = NCEDensity(learning_rate=0.02, hidden=(16,), train_batch_size=40)
    how = {"backbone": "pca", "latent_dim": 1, "score_type": "latent", "validation_fraction": 0}
    search = GridSearchCV(
        small(density=density, **how),
        {"density__epochs": [0, 30]},
        scoring="roc_auc",
        cv=[(np.arange(80), np.arange(80, 160))],
        refit=False,
    )
    search.fit(np.concatenate([normal, odd]), np.repeat([1, -1], [120, 40]))
    gaussian, learned = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"density__epochs": 30}
    assert gaussian < 0.5 < 0.95 < learned


@pytest.mark.parametrize("kind", ["autoencoder", "patches", "table"])
def test_saved_detector_gives_the_same_scores_maps_and_composites(fitted, kind, tmp_path):
    detector, X = fitted(kind), ROWS if kind == "table" else ODD
    detector.save(tmp_path / "saved.alite")
    again = load(tmp_path / "saved.alite")
    for method in ("score_samples", "anomaly_map", "transform", "predict"):
        np.testing.assert_array_equal(getattr(again, method)(X), getattr(detector, method)(X))
    assert again.density is not BRIEF
    assert again.density.get_params() == BRIEF.get_params()
    assert type(again.autoencoder_) is type(detector.autoencoder_)


# -- images ---------------------------------------------------------------------------------------


def test_gray_images_are_learned_in_one_channel_and_colors_are_anomalies(fitted):
    detector = fitted("autoencoder")
    assert detector.autoencoder_.shape == (1, 32, 32)
    color = np.stack([NORMAL] * 3, -1)
    np.testing.assert_allclose(
        detector.score_samples(color), detector.score_samples(NORMAL), rtol=1e-4
    )
    tinted = color[:6].copy()
    tinted[..., 0] //= 2
    assert detector.score_samples(tinted).max() < detector.score_samples(NORMAL).min()
    brief = small("autoencoder", epochs=1, decoder_epochs=0, score_type="error")
    assert brief.fit(tinted).autoencoder_.shape == (3, 32, 32)


def test_images_are_resized_and_cropped():
    how = {"image_size": (40, 24), "center_crop": (16, 8), "score_type": "error"}
    detector = small("pca", **how).fit(NORMAL)
    assert detector.autoencoder_.shape == (1, 16, 8)
    assert detector.anomaly_map(ODD).shape == ODD.shape
    assert small("efficientnet", image_size=None).fit(NORMAL[:4]).input_.image_size == (224, 224)


@pytest.mark.parametrize(
    ("as_given", "n_patches", "expected"),
    [
        (list, 60, [4, 60]),  # 15 of each image
        (list, 62, [4, 62]),  # 16 of each, then 62 of these
        (list, 10**6, [4, 4 * 144]),
        (iter, 10**6, [4, 4 * 100]),  # an unknown number of images
    ],
)
def test_patches_are_drawn_from_every_image(monkeypatch, as_given, n_patches, expected):
    counted = []
    from_data = LinearAutoencoder.from_data
    monkeypatch.setattr(
        LinearAutoencoder, "from_data", lambda x, dim: counted.append(len(x)) or from_data(x, dim)
    )
    how = {"image_size": 96, "n_patches": n_patches, "score_type": "error", "n_jobs": 1}
    small("efficientnet", **how).fit(as_given(NORMAL[:4]))
    assert [counted[0], counted[-1]] == expected


def test_patches_are_described_by_their_neighborhood_at_fit():
    how = {"n_patches": 10**6, "score_type": "error", "neighborhood": 5}
    detector = small("patches", **how).fit(NORMAL[:4])
    mean = patches_of(detector, NORMAL[:4], 5).mean(0)
    torch.testing.assert_close(detector.patch_autoencoder_.mean, mean, rtol=1e-4, atol=1e-5)
    vectors = patches_of(detector, ODD, 5)
    _, back = detector.patch_autoencoder_(vectors)
    expected = (vectors - back).square().mean(1).view(3, -1).amax(1)
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-3)
    with pytest.warns(UserWarning, match="neighborhood, patch_level, score_type"):
        detector.set_params(neighborhood=1, score_type="cosine", patch_level=False)
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-3)


def test_onnx_runtime_gives_nearly_the_same_scores():
    pytest.importorskip("onnxruntime")
    how = {"backbone": "convnet", "weights": "random", "layers": (2, 4), "image_size": 32}
    how |= {"density": GAUSSIAN}
    by_onnx, by_torch = (
        small("patches", engine=engine, **how).fit(NORMAL).inspect(ODD)
        for engine in ("onnxruntime", "torch")
    )
    np.testing.assert_allclose(by_onnx.scores, by_torch.scores, rtol=1e-3)
    assert not np.array_equal(by_onnx.scores, by_torch.scores)


# -- tables ---------------------------------------------------------------------------------------


def test_rows_off_the_curve_are_found_and_their_columns():
    detector = small(latent_dim=1, epochs=50, learning_rate=0.005).fit(curve(150))
    normal, odd = curve(100, seed=2), curve(100, seed=1)
    odd[:, 1] += 3
    scores = detector.score_samples(np.concatenate([normal, odd]))
    assert roc_auc_score(np.repeat([1, 0], [100, 100]), scores) > 0.98
    assert np.median(detector.anomaly_map(odd), axis=0).argmax() == 1
    assert detector.predict(normal).mean() > 0.8
    assert detector.predict(odd).mean() < -0.8


@pytest.mark.slow
def test_breast_cancer_is_ranked_as_well_as_by_the_classics():
    X, y = load_breast_cancer(return_X_y=True)
    benign = X[y == 1]
    test, labels = np.concatenate([benign[250:], X[y == 0]]), np.repeat([1, 0], [107, 212])
    found = [
        small(latent_dim=None, epochs=60, random_state=seed).fit(benign[:250]).score_samples(test)
        for seed in range(3)
    ]
    assert np.mean([roc_auc_score(labels, scores) for scores in found]) > 0.93  # of seeds: .01


@pytest.mark.parametrize(
    "as_given", [list, pd.DataFrame, torch.from_numpy, lambda rows: rows.copy(order="F")]
)
def test_tables_of_every_kind_give_the_same_scores(as_given):
    rows = ROWS.tolist() if as_given is list else as_given(ROWS)
    how = {"backbone": "pca", "density": GAUSSIAN}
    found = small(**how).fit(rows).score_samples(rows)
    np.testing.assert_array_equal(found, small(**how).fit(ROWS).score_samples(ROWS))


def test_names_of_columns_are_remembered():
    frame = pd.DataFrame(ROWS, columns=list("abcd"))
    named = small("table", backbone="pca").fit(frame)
    assert named.feature_names_in_.tolist() == list("abcd")
    assert named.n_features_in_ == 4
    assert named.inspect(frame).maps.shape == (60, 4)
    for method in (named.predict, named.transform, named.inspect):
        with pytest.raises(ValueError, match="feature names"):
            method(frame[list("dcba")])


def test_tables_are_fitted_and_scored_in_inference_mode(fitted):
    with torch.inference_mode():
        detector = small().fit(torch.from_numpy(ROWS))
        found = detector.inspect(ROWS)
    np.testing.assert_array_equal(found.scores, fitted("table").score_samples(ROWS))


def test_detector_of_tables_refuses_images(fitted, tmp_path):
    for X in (NORMAL, str(tmp_path), [NORMAL[0], NORMAL[1]]):
        for method in ("score_samples", "inspect", "transform"):
            with pytest.raises(ValueError, match=r"dim|array|string"):
                getattr(fitted("table"), method)(X)


def test_detector_of_images_refuses_tables(fitted):
    for method in ("score_samples", "inspect", "transform"):
        with pytest.raises(ValueError, match="table"):
            getattr(fitted("autoencoder"), method)(ROWS)


def test_backbone_refuses_tables():
    with pytest.raises(ValueError, match="a backbone reads images, and X is a table"):
        small("efficientnet").fit(ROWS)


def test_four_inputs_are_needed():
    with pytest.raises(ValueError, match="at least 4"):
        small().fit(ROWS[:3])
    with pytest.raises(ValueError, match="at least 4"):
        small("pca").fit(NORMAL[:3])


def test_a_new_fit_forgets_the_table():
    detector = small("pca").fit(pd.DataFrame(ROWS, columns=list("abcd"))).fit(NORMAL)
    assert not hasattr(detector, "n_features_in_")
    assert not hasattr(detector, "feature_names_in_")
    assert not hasattr(detector, "scaler_")
    np.testing.assert_array_equal(
        detector.score_samples(ODD), small("pca").fit(NORMAL).score_samples(ODD)
    )


def test_composites_feed_a_classic_outlier_detector():
    pipeline = make_pipeline(small(), OneClassSVM(nu=0.1)).fit(ROWS)
    found = pipeline.score_samples(curve(10, seed=1))
    expected = pipeline[1].score_samples(pipeline[0].transform(curve(10, seed=1)))
    np.testing.assert_array_equal(found, expected)


# -- parameters -----------------------------------------------------------------------------------


def test_an_image_size_of_zero_is_not_taken_for_the_default():
    with pytest.raises(ValueError, match="image_size: expected a positive int"):
        small(image_size=0).fit(NORMAL)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"score_type": "energy"}, "score_type"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"widths": ()}, "widths"),
        ({"widths": (0,)}, "widths"),
        ({"hidden": (8, 0.5)}, "hidden"),
        ({"train_batch_size": 1}, "train_batch_size: expected an int of at least 2"),
        ({"train_batch_size": 8.0}, "train_batch_size"),
        ({"decoder_epochs": 2.5}, "decoder_epochs"),
        ({"n_folds": 1}, "n_folds"),
        ({"n_patches": 0}, "n_patches"),
        ({"input_noise": -0.1}, "input_noise"),
        ({"epochs": 0}, "epochs"),
        ({"cov_weight": -1}, "cov_weight"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"validation_fraction": 1}, "validation_fraction"),
        ({"density": NCEDensity(epochs=1.0)}, "epochs"),
        ({"density": NCEDensity(noise_ratio=0.5)}, "noise_ratio"),
        ({"density": NCEDensity}, "density: expected an NCEDensity or None"),
        ({"density": "nce"}, "density: expected an NCEDensity or None, got 'nce'"),
        ({"engine": "tensorrt"}, "engine: expected one of 'torch', 'onnxruntime'"),
        ({"dtype": "int8"}, "dtype"),
        ({"patch_level": True}, "patch_level: 'autoencoder' sees whole images"),
    ],
)
def test_invalid_parameters_are_refused_before_anything_is_learned(monkeypatch, params, match):
    monkeypatch.setattr(learning, "train", lambda *_, **__: pytest.fail("training began"))
    detector = small(**params)
    with pytest.raises(ValueError, match=match):
        detector.fit(ROWS)
    assert not [name for name in vars(detector) if name.endswith("_")]
