"""p-values against a literal reading, guarantees by simulation, everything that can be given."""

import warnings

import numpy as np
import pytest
import torch
from detectors import small
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import sparse, stats
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, KFold, LeaveOneOut, ShuffleSplit
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.utils.data import DataLoader, TensorDataset
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, DeepFeatures, PatchCore, load
from anomalib_lite.decide.conformal import _rank


class Nearest(OutlierMixin, BaseEstimator):
    """Minus the distance to the nearest training sample, on one number a sample."""

    def __init__(self, digits=None):
        self.digits = digits

    def fit(self, X, y=None):
        self.seen_ = np.sort(np.asarray(X, float).ravel())
        return self

    def score_samples(self, X):
        x = np.asarray(X, float).ravel()
        place = np.searchsorted(self.seen_, x)
        below = np.abs(x - self.seen_[np.maximum(place - 1, 0)])
        above = np.abs(x - self.seen_[np.minimum(place, len(self.seen_) - 1)])
        distance = np.minimum(below, above)
        return -(distance if self.digits is None else distance.round(self.digits))


class Far(Nearest):
    """Minus the distance to the mean of the training samples."""

    def score_samples(self, X):
        distance = np.abs(np.asarray(X, float).ravel() - self.seen_.mean())
        return -(distance if self.digits is None else distance.round(self.digits))


def numbers(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 1))


def slow_p_values(detector, train, x):
    """Definition, sample by sample, from the splits the detector says it made."""
    p = []
    for sample in x:
        count = 0
        for model, fold in zip(detector.detectors_, detector._scores_by_detector_, strict=True):
            own = model.score_samples(sample[None])[0]
            count += sum(calibration <= own for calibration in fold)
        p.append((1 + count) / (detector.n_calibration_ + 1))
    return np.array(p)


# -- definitions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("params", [{}, {"cv": 7}, {"method": "cv"}, {"method": "cv", "cv": 60}])
def test_p_values_are_those_of_the_definition(params, digits):
    train, x = numbers(60), numbers(30, seed=1) * 2
    detector = ConformalDetector(Far(digits), alpha=0.2, random_state=0, **params).fit(train)
    expected = slow_p_values(detector, train, x)
    np.testing.assert_allclose(detector.p_values(x), expected, rtol=1e-12)


def test_split_calibrates_with_samples_it_has_not_learned_from():
    train = numbers(50)
    detector = ConformalDetector(Nearest(), cv=0.3, alpha=0.1, random_state=0).fit(train)
    (inner,) = detector.detectors_
    assert len(inner.seen_) == 35
    held_out = np.setdiff1d(train.ravel(), inner.seen_)
    expected = np.sort(inner.score_samples(held_out))
    np.testing.assert_array_equal(detector.calibration_scores_, expected)
    assert (expected < 0).all()


@pytest.mark.parametrize("cv", [None, 3, 50, 999, KFold(4), LeaveOneOut()])
def test_every_fold_is_scored_by_the_detector_that_has_not_seen_it(cv):
    train = numbers(50)
    detector = ConformalDetector(Nearest(), method="cv", cv=cv, random_state=0).fit(train)
    n_folds = {None: 5, 3: 3}.get(cv, 50) if not isinstance(cv, KFold) else 4
    assert len(detector.detectors_) == n_folds
    assert detector.n_calibration_ == 50
    for inner, fold in zip(detector.detectors_, detector._scores_by_detector_, strict=True):
        held_out = np.setdiff1d(train.ravel(), inner.seen_)
        np.testing.assert_array_equal(fold, np.sort(inner.score_samples(held_out)))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    n=st.integers(4, 40),
    alpha=st.sampled_from([0.01, 0.05, 0.07, 0.1, 0.2, 0.29, 0.3, 1 / 3, 0.5, 0.9]),
    method=st.sampled_from(["split", "cv"]),
    digits=st.sampled_from([None, 0, 1]),
    seed=st.integers(0, 99),
)
def test_predict_is_p_below_alpha_whatever_the_ties(n, alpha, method, digits, seed):
    detector = ConformalDetector(Far(digits), method=method, alpha=alpha, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector.fit(numbers(n, seed))
    x = np.concatenate([numbers(20, seed + 1) * 2, numbers(n, seed)])
    called = detector.predict(x)
    np.testing.assert_array_equal(called, np.where(detector.p_values(x) <= alpha, -1, 1))
    np.testing.assert_array_equal(called, np.where(detector.decision_function(x) < 0, -1, 1))
    if np.isfinite(detector.offset_):
        np.testing.assert_allclose(
            detector.decision_function(x), detector.score_samples(x) - detector.offset_, atol=1e-12
        )
    assert np.isfinite(detector.score_samples(x)).all()


def test_rank_is_the_last_that_alpha_allows_as_floats_compare():
    for n in range(1, 130):
        for alpha in [0.01, 0.05, 1 / 3, *(k / (n + 1) for k in range(1, n + 1))]:
            allowed = [k for k in range(n + 2) if k / (n + 1) <= alpha]
            assert _rank(alpha, n) == allowed[-1]


def test_score_is_the_detectors_own_with_a_split():
    detector = ConformalDetector(Far(), random_state=0).fit(numbers(60))
    x = numbers(9, seed=2)
    np.testing.assert_array_equal(
        detector.score_samples(x), detector.detectors_[0].score_samples(x)
    )
    assert detector.offset_ == detector.calibration_scores_[0]


# -- guarantees, by simulation --------------------------------------------------------------------


def false_alarms(make, n_train, *, n_trials=400, n_new=5):
    """Share of new normal samples with p <= alpha, and their p-values, over fresh worlds."""
    p = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for seed in range(n_trials):
            rng = np.random.default_rng(seed)
            detector = make(seed).fit(rng.normal(size=(n_train, 1)))
            p.append(detector.p_values(rng.normal(size=(n_new, 1))))
    return np.array(p)


def at_most(p, level):
    """Whether P(p <= level) <= level is believable; trials are independent, not their samples."""
    by_trial = (p <= level + 1e-12).mean(axis=1)
    allowed = 3.5 * max(by_trial.std(ddof=1), 0.01) / len(by_trial) ** 0.5
    return by_trial.mean() <= level + allowed


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("detector", [Far, Nearest])
@pytest.mark.parametrize("n_calibration", [1, 9, 19, 20, 99])
def test_split_keeps_its_promise(detector, digits, n_calibration):
    p = false_alarms(
        lambda seed: ConformalDetector(detector(digits), cv=n_calibration, random_state=seed),
        n_train=n_calibration + 20,
    )
    for level in (0.05, 0.1, 0.2, 0.5):
        assert at_most(p, level)
    if digits is None:  # and wastes nothing: p is uniform on its grid
        for level in np.arange(1, n_calibration + 2) / (n_calibration + 1):
            by_trial = (p <= level + 1e-12).mean(axis=1)
            allowed = 4 * max(by_trial.std(ddof=1), 0.01) / len(by_trial) ** 0.5
            assert abs(by_trial.mean() - level) <= allowed


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize(("n", "folds"), [(20, 20), (40, 5)])
def test_cv_keeps_its_weaker_promise(n, folds, digits):
    p = false_alarms(
        lambda seed: ConformalDetector(Far(digits), method="cv", cv=folds, random_state=seed), n
    )
    for level in (0.05, 0.1, 0.2):
        assert at_most(2 * p, level)  # proven, for leave-one-out: P(p <= t) <= 2 t
        assert (p <= level).mean() <= level + 0.03  # seen, for a stable detector


def test_a_broken_calibration_would_be_noticed():
    """The simulation has teeth: in-sample scores as calibration break the promise."""

    class InSample(ConformalDetector):
        def _splits(self, n_samples):
            return [(np.arange(n_samples), np.arange(n_samples))]

    p = false_alarms(lambda seed: InSample(Nearest(), random_state=seed), 40)
    assert not at_most(p, 0.1)


def test_selection_controls_the_false_discovery_rate():
    shares, found = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        detector = ConformalDetector(Far(), random_state=seed).fit(rng.normal(size=(300, 1)))
        batch = np.concatenate([rng.normal(size=(40, 1)), rng.normal(size=(10, 1)) + 5])
        selected = detector.select(batch, fdr=0.2)
        assert selected.dtype == bool
        shares.append(selected[:40].sum() / max(selected.sum(), 1))
        found.append(selected[40:].mean())
    assert np.mean(shares) <= 0.2 * 0.8 + 3 * np.std(shares) / 300**0.5
    assert np.mean(found) > 0.9


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.07, 14)])
def test_alpha_too_small_for_so_few_is_said(alpha, needed):
    x = np.array([[0.0], [50.0]])
    for n, enough in ((needed - 1, False), (needed, True)):
        detector = ConformalDetector(Far(), cv=n, alpha=alpha, random_state=0)
        if enough:
            assert detector.fit(numbers(n + 5)).predict(x).tolist() == [1, -1]
            continue
        with pytest.warns(UserWarning, match=f"needs at least {needed} calibration .* got {n}:"):
            detector.fit(numbers(n + 5))
        assert detector.predict(x).tolist() == [1, 1]
        assert detector.offset_ == -np.inf
        assert detector.p_values(x)[1] == 1 / needed
        assert detector.score_samples(x)[1] < detector.score_samples(x)[0]


# -- images ---------------------------------------------------------------------------------------

NORMAL, ODD = stripes(30), scratched(4)


@pytest.fixture(scope="module")
def over_images():
    return ConformalDetector(small(PatchCore), alpha=0.1, random_state=0).fit(NORMAL)


def test_images_are_called_and_their_pixels_levelled(over_images):
    assert over_images.predict(ODD).tolist() == [-1] * 4
    fresh = stripes(30, seed=5)
    assert (over_images.predict(fresh) == -1).mean() <= 0.3
    highest = over_images.anomaly_map(fresh).max((1, 2))
    assert (highest > over_images.pixel_level_).mean() <= 0.3
    heat = over_images.anomaly_map(ODD)
    np.testing.assert_array_equal(heat, over_images.detectors_[0].anomaly_map(ODD))
    for one in heat > over_images.pixel_level_:
        rows, columns = np.nonzero(one)
        assert abs(rows.mean() - 20) < 8
        assert abs(columns.mean() - 40) < 8


def test_pixel_level_is_the_quantile_of_held_out_map_maxima(over_images):
    (inner,) = over_images.detectors_
    assert inner.n_images_ == 15
    scores = inner.score_samples(NORMAL)
    held_out = np.isin(scores, over_images.calibration_scores_)
    assert held_out.sum() == 15
    maxima = np.sort(inner.anomaly_map(NORMAL[held_out]).max((1, 2)))
    assert over_images.pixel_level_ == maxima[-1]  # k = floor(.1 * 16) = 1: the largest


def test_maps_of_several_detectors_are_averaged():
    detector = ConformalDetector(small(PatchCore), method="cv", cv=3, alpha=0.1, random_state=0)
    detector.fit(NORMAL[:12])
    expected = np.mean([inner.anomaly_map(ODD) for inner in detector.detectors_], axis=0)
    np.testing.assert_array_equal(detector.anomaly_map(ODD), expected)
    mixed = [ODD[0], ODD[1][:40]]
    maps = detector.anomaly_map(mixed)
    assert [heat.shape for heat in maps] == [(64, 64), (40, 64)]
    assert detector.predict(ODD).tolist() == [-1] * 4


def test_no_maps_where_the_detector_has_none():
    detector = ConformalDetector(Far()).fit(numbers(60))
    assert not hasattr(detector, "anomaly_map")
    assert not hasattr(detector, "pixel_level_")


class OnlyMaps(Far):
    """A detector of somebody else's, with maps but no ``inspect``."""

    def anomaly_map(self, X):
        return [np.full((2, 3), value) for value in np.ravel(X)]


def test_maps_of_other_detectors_are_levelled_too():
    detector = ConformalDetector(OnlyMaps(), cv=40, random_state=0).fit(numbers(100))
    assert detector.pixel_level_ in np.sort(numbers(100).ravel())[-60:]
    detector.set_params(detector=Far()).fit(numbers(100))
    assert not hasattr(detector, "pixel_level_")


# -- whatever samples can be chosen from ----------------------------------------------------------


def test_every_way_to_pass_images_agrees(over_images, tmp_path):
    for i, image in enumerate(NORMAL):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    tensor = torch.from_numpy(NORMAL)[:, None]
    ways = [
        list(NORMAL),
        tuple(NORMAL),
        tmp_path,
        str(tmp_path),
        sorted(tmp_path.iterdir()),
        tensor,
        TensorDataset(tensor, torch.zeros(30)),
    ]
    for way in ways:
        detector = clone(over_images).fit(way)
        np.testing.assert_array_equal(detector.calibration_scores_, over_images.calibration_scores_)


def test_tables_of_every_kind():
    table = np.random.default_rng(0).normal(size=(80, 3))
    inner = OneClassSVM(gamma=0.3)
    expected = ConformalDetector(inner, random_state=0).fit(table).p_values(table)
    for way in (list(table), sparse.csr_matrix(table), sparse.coo_array(table), table.tolist()):
        got = ConformalDetector(inner, random_state=0).fit(way).p_values(table)
        np.testing.assert_allclose(got, expected)


def test_data_frames_keep_their_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(80, 2)), columns=["a", "b"])
    detector = ConformalDetector(IsolationForest(random_state=0), random_state=0).fit(frame)
    assert detector.feature_names_in_.tolist() == ["a", "b"]
    assert detector.n_features_in_ == 2
    assert detector.p_values(frame).shape == (80,)


@pytest.mark.parametrize(
    "given",
    [iter(NORMAL), DataLoader(NORMAL), None, 3, (image for image in NORMAL)],
    ids=lambda given: type(given).__name__,
)
def test_what_samples_cannot_be_chosen_from_is_refused(given):
    with pytest.raises(ValueError, match="Pass a list or an array"):
        ConformalDetector(small(PatchCore)).fit(given)


@pytest.mark.parametrize(
    "inner",
    [
        IsolationForest(random_state=0),
        OneClassSVM(),
        LocalOutlierFactor(novelty=True),
        make_pipeline(StandardScaler(), OneClassSVM()),
    ],
)
@pytest.mark.parametrize("method", ["split", "cv"])
def test_any_outlier_detector(inner, method):
    table = np.random.default_rng(0).normal(size=(120, 2))
    detector = ConformalDetector(inner, method=method, random_state=0).fit(table)
    assert detector.predict([[0, 0], [30, -30]]).tolist() == [1, -1]
    assert not hasattr(inner, "n_features_in_") or inner is not detector.detectors_[0]


def test_a_pipeline_of_deep_features():
    inner = make_pipeline(DeepFeatures(image_size=64, pooling="max"), OneClassSVM(nu=0.1))
    detector = ConformalDetector(inner, alpha=0.1, random_state=0).fit(NORMAL)
    assert detector.predict(ODD).tolist() == [-1] * 4


# -- good manners ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"detector": StandardScaler()}, "score_samples"),
        ({"detector": LocalOutlierFactor()}, "novelty=True"),
        ({"detector": 3}, "score_samples"),
        ({"method": "jackknife"}, "'split' or 'cv'"),
        ({"alpha": 0}, "alpha: expected"),
        ({"alpha": 1}, "alpha: expected"),
        ({"alpha": "5%"}, "alpha: expected"),
        ({"cv": 0}, "cv: expected"),
        ({"cv": 60}, "cv: expected .* 1 to 59"),
        ({"cv": 1.5}, "cv: expected"),
        ({"cv": True}, "cv: expected"),
        ({"cv": KFold(3)}, "cv: expected"),
        ({"method": "cv", "cv": 1}, "folds of at least 2"),
        ({"method": "cv", "cv": 0.5}, "folds of at least 2"),
        ({"method": "cv", "cv": ShuffleSplit(3)}, "exactly once"),
        ({"random_state": "seed"}, "seed"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    detector = ConformalDetector(**{"detector": Far(), **params})
    with pytest.raises(ValueError, match=message):
        detector.fit(numbers(60))
    assert "detectors_" not in vars(detector)


def test_splitters_that_train_on_what_they_hold_out_are_refused():
    class Leaking(KFold):
        def split(self, X, y=None, groups=None):
            return [(np.arange(len(X)), test) for _, test in super().split(X)]

    with pytest.raises(ValueError, match="trains on samples that it holds out"):
        ConformalDetector(Far(), method="cv", cv=Leaking(3)).fit(numbers(60))


def test_too_few_or_unusable():
    with pytest.raises(ValueError, match=r"at least 2 samples .* got 1 sample"):
        ConformalDetector(Far()).fit(numbers(1))
    with pytest.raises(NotFittedError):
        ConformalDetector(Far()).p_values(numbers(3))
    with pytest.raises(ValueError, match="fdr"):
        ConformalDetector(Far()).fit(numbers(60)).select(numbers(3), fdr=1)

    class Undecided(Far):
        def score_samples(self, X):
            return np.full(len(X), np.nan)

    with pytest.raises(ValueError, match="NaN as scores"):
        ConformalDetector(Undecided()).fit(numbers(60))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_fit_leaves_the_estimator_as_it_was(error):
    class Failing(Far):
        def score_samples(self, X):
            raise error

    detector = ConformalDetector(Far(), random_state=0).fit(numbers(60))
    before = dict(vars(detector))
    inner, detector.detector = detector.detector, Failing()
    with pytest.raises(error):
        detector.fit(numbers(60, seed=1))
    detector.detector = inner
    assert vars(detector) == before


def test_same_seed_same_bits_and_the_global_generator_untouched():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (
        ConformalDetector(Nearest(), random_state=3).fit(numbers(60)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.calibration_scores_, second.calibration_scores_)
    ConformalDetector(Nearest()).fit(numbers(60))
    ConformalDetector(Nearest(), random_state=np.random.default_rng(0)).fit(numbers(60))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_saved_and_loaded(over_images, tmp_path):
    over_images.save(tmp_path / "images.alite")
    again = load(tmp_path / "images.alite")
    np.testing.assert_array_equal(again.p_values(ODD), over_images.p_values(ODD))
    np.testing.assert_array_equal(again.anomaly_map(ODD), over_images.anomaly_map(ODD))
    assert again.pixel_level_ == over_images.pixel_level_
    table = np.random.default_rng(0).normal(size=(80, 2))
    for method in ("split", "cv"):
        detector = ConformalDetector(IsolationForest(random_state=0), method=method).fit(table)
        detector.save(tmp_path / "table.alite")
        again = load(tmp_path / "table.alite")
        np.testing.assert_array_equal(again.p_values(table), detector.p_values(table))
        assert again.n_features_in_ == 2


def test_grid_search_over_nested_parameters():
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.normal(size=(120, 2)), rng.normal(size=(12, 2)) * 8])
    y = np.repeat([1, -1], [120, 12])
    search = GridSearchCV(
        ConformalDetector(OneClassSVM(), random_state=0),
        {"detector__gamma": [1e-6, 0.1], "alpha": [0.05, 0.1]},
        scoring="roc_auc",
        cv=[(np.arange(80), np.arange(80, 132))],
    ).fit(table, y)
    assert search.best_score_ > 0.8


def test_tags_are_those_of_the_detector():
    assert get_tags(ConformalDetector(IsolationForest())).input_tags.allow_nan
    tags = get_tags(ConformalDetector(small(PatchCore)))
    assert not tags.input_tags.two_d_array
    assert tags.estimator_type == "outlier_detector"
    assert "PatchCore" in ConformalDetector(small(PatchCore))._repr_html_()


@parametrize_with_checks(
    [
        ConformalDetector(
            IsolationForest(n_estimators=5, random_state=0), alpha=0.3, random_state=0
        ),
        ConformalDetector(OneClassSVM(), method="cv", cv=3, alpha=0.3, random_state=0),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def test_p_values_are_uniform_on_a_large_sample():
    detector = ConformalDetector(Far(), random_state=0).fit(numbers(4000))
    assert stats.kstest(detector.p_values(numbers(4000, seed=1)), "uniform").pvalue > 1e-3


def test_p_values_are_those_of_nonconform():
    scoring = pytest.importorskip("nonconform.scoring")  # needs Python 3.12
    for digits in (None, 0):
        detector = ConformalDetector(Far(digits), random_state=0).fit(numbers(300))
        x = numbers(200, seed=1) * 2
        expected = scoring.calculate_p_val(
            -detector.score_samples(x), -detector.calibration_scores_
        )
        np.testing.assert_array_equal(detector.p_values(x), expected)
