"""ConformalDetector: p-values against their definition, guarantees by counting and simulation."""

import copy
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
from snapshots import snapshot
from torch.utils.data import DataLoader, TensorDataset
from worlds import scratched, stripes

from anomalib_lite import BaseDetector, ConformalDetector, DeepFeatures, PatchCore, load


class Nearest(OutlierMixin, BaseEstimator):
    """Minus the distance to the nearest training sample; samples are single numbers."""

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
    """The definition, one sample after another, from the detectors and their calibration scores."""
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
def test_p_values_match_the_definition(params, digits):
    train, x = numbers(60), numbers(30, seed=1) * 2
    detector = ConformalDetector(Far(digits), false_alarm_rate=0.2, random_state=0, **params).fit(
        train
    )
    expected = slow_p_values(detector, train, x)
    np.testing.assert_allclose(detector.p_values(x), expected, rtol=1e-12)


def test_split_calibrates_on_held_out_samples():
    train = numbers(50)
    detector = ConformalDetector(Nearest(), cv=0.3, false_alarm_rate=0.1, random_state=0).fit(train)
    (inner,) = detector.detectors_
    assert len(inner.seen_) == 35
    held_out = np.setdiff1d(train.ravel(), inner.seen_)
    expected = np.sort(inner.score_samples(held_out))
    np.testing.assert_array_equal(detector.calibration_scores_, expected)
    assert (expected < 0).all()


@pytest.mark.parametrize("cv", [None, 3, 50, 999, KFold(4), LeaveOneOut()])
def test_each_fold_is_scored_by_the_detector_fitted_without_it(cv):
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
    rate=st.sampled_from([0.01, 0.05, 0.07, 0.1, 0.2, 0.29, 0.3, 1 / 3, 0.5, 0.9]),
    method=st.sampled_from(["split", "cv"]),
    digits=st.sampled_from([None, 0, 1]),
    seed=st.integers(0, 99),
)
def test_predict_compares_p_values_with_the_rate_even_with_ties(n, rate, method, digits, seed):
    detector = ConformalDetector(
        Far(digits), method=method, false_alarm_rate=rate, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector.fit(numbers(n, seed))
    x = np.concatenate([numbers(20, seed + 1) * 2, numbers(n, seed)])
    called = detector.predict(x)
    np.testing.assert_array_equal(called, np.where(detector.p_values(x) <= rate, -1, 1))
    np.testing.assert_array_equal(called, np.where(detector.decision_function(x) < 0, -1, 1))
    if np.isfinite(detector.offset_):
        np.testing.assert_allclose(
            detector.decision_function(x), detector.score_samples(x) - detector.offset_, atol=1e-12
        )
    assert np.isfinite(detector.score_samples(x)).all()


def test_threshold_is_the_highest_score_that_the_rate_allows():
    for n in (*range(1, 30), 99, 128):
        detector = ConformalDetector(Far(), cv=n, false_alarm_rate=0.9, random_state=0)
        detector.fit(numbers(n + 5))
        for rate in (0.01, 0.05, 1 / 3, *(k / (n + 1) for k in range(1, n + 1))):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                detector.set_params(false_alarm_rate=rate)
            allowed = [k for k in range(n + 1) if k / (n + 1) <= rate][-1]
            threshold = detector.calibration_scores_[allowed - 1] if allowed else -np.inf
            assert detector.offset_ == threshold


def test_score_is_the_detectors_own_with_a_split():
    detector = ConformalDetector(Far(), random_state=0).fit(numbers(60))
    x = numbers(9, seed=2)
    np.testing.assert_array_equal(
        detector.score_samples(x), detector.detectors_[0].score_samples(x)
    )
    assert detector.offset_ == detector.calibration_scores_[0]


def test_false_alarm_rate_takes_effect_at_once():
    train, x = numbers(100), numbers(50, seed=1) * 2
    for inner in (Far(), OnlyMaps()):
        changed = ConformalDetector(inner, random_state=0).fit(train)
        refitted = ConformalDetector(inner, false_alarm_rate=0.2, random_state=0).fit(train)
        assert (changed.predict(x) != refitted.predict(x)).sum() > 3
        changed.set_params(false_alarm_rate=0.2)
        assert snapshot(changed) == snapshot(refitted)
        with pytest.raises(ValueError, match="false_alarm_rate: expected"):
            changed.set_params(false_alarm_rate=1.5)
        assert snapshot(changed) == snapshot(refitted)
        with pytest.warns(UserWarning, match="needs at least 99 calibration samples, got 50"):
            changed.set_params(false_alarm_rate=0.01)
        assert (changed.predict(x) == 1).all()


# -- guarantees -----------------------------------------------------------------------------------


class InOrder(np.random.RandomState):
    """Its permutation is the identity: the first samples calibrate."""

    def permutation(self, n):
        return np.arange(n)


def rank_among_others(pool, fit):
    """(n + 1) p of each of the n + 1 samples of a pool, as the new one among the n others.

    If a new sample is exchangeable with the calibration samples, it is equally likely to be any of
    the pool, so P(p <= k / (n + 1)) is exactly the fraction of ranks up to k.
    """
    ranks = [
        fit(np.delete(pool, i, axis=0)).p_values(pool[[i]])[0] * len(pool) for i in range(len(pool))
    ]
    return np.rint(ranks).astype(int)


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("detector", [Far, Nearest])
@pytest.mark.parametrize("n", [1, 9, 20])
def test_split_gives_exact_p_values(detector, digits, n):
    train = numbers(20, seed=100)

    def fit(calibration):
        conformal = ConformalDetector(
            detector(digits), cv=n, false_alarm_rate=0.5, random_state=InOrder(0)
        )
        return conformal.fit(np.concatenate([calibration, train]))

    ranks = rank_among_others(numbers(n + 1, seed=n), fit)
    if digits is None:
        assert sorted(ranks) == list(range(1, n + 2))  # uniform: neither invalid nor wasteful
    for k in range(1, n + 2):
        assert (ranks <= k).sum() <= k


@pytest.mark.parametrize("digits", [None, 0])
@pytest.mark.parametrize("detector", [Far, Nearest])
@pytest.mark.parametrize("seed", range(3))
def test_leave_one_out_gives_p_values_within_the_proven_factor_two(detector, digits, seed):
    """By the tournament argument of Barber et al., at most 2 k - 1 samples have ranks up to k."""
    n = 12

    def fit(others):
        return ConformalDetector(
            detector(digits), method="cv", cv=n, false_alarm_rate=0.5, random_state=0
        ).fit(others)

    ranks = rank_among_others(numbers(n + 1, seed), fit)
    for k in range(1, n + 2):
        assert (ranks <= k).sum() <= 2 * k - 1


@pytest.mark.parametrize(
    ("detector", "params", "n", "slack"),
    [
        (Far(), {"cv": 19}, 39, 0),
        (Nearest(0), {"cv": 9}, 29, 0),
        (Nearest(), {"cv": 1}, 21, 0),
        (Far(), {"method": "cv", "cv": 5}, 40, 0.03),  # not proven: seen, for a stable detector
    ],
    ids=["split of 19", "split of 9 with ties", "split of 1", "5 folds"],
)
def test_false_alarms_stay_below_the_rate_in_simulation(detector, params, n, slack):
    by_level = {0.05: [], 0.1: [], 0.2: [], 0.5: []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for seed in range(400):
            rng = np.random.default_rng(seed)
            conformal = ConformalDetector(detector, random_state=seed, **params)
            p = conformal.fit(rng.normal(size=(n, 1))).p_values(rng.normal(size=(5, 1)))
            for level, shares in by_level.items():
                shares.append((p <= level + 1e-12).mean())
    for level, shares in by_level.items():
        allowed = 3.5 * max(np.std(shares, ddof=1), 0.01) / len(shares) ** 0.5
        assert np.mean(shares) <= level + slack + allowed


def test_selection_controls_the_false_discovery_rate():
    false, found = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        detector = ConformalDetector(Far(), random_state=seed).fit(rng.normal(size=(300, 1)))
        batch = np.concatenate([rng.normal(size=(40, 1)), rng.normal(size=(10, 1)) + 5])
        selected = detector.select(batch, fdr=0.2)
        assert selected.dtype == bool
        false.append(selected[:40].sum() / max(selected.sum(), 1))
        found.append(selected[40:].mean())
    assert np.mean(false) <= 0.2 * 0.8 + 3 * np.std(false) / 300**0.5
    assert np.mean(found) > 0.9


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.07, 14)])
def test_too_few_calibration_samples_warn_and_call_nothing_anomalous(rate, needed):
    x = np.array([[0.0], [50.0]])
    enough = ConformalDetector(Far(), cv=needed, false_alarm_rate=rate, random_state=0)
    assert enough.fit(numbers(needed + 4)).predict(x).tolist() == [1, -1]
    few = ConformalDetector(Far(), cv=needed - 1, false_alarm_rate=rate, random_state=0)
    with pytest.warns(UserWarning, match=f"needs at least {needed} calibration .* {needed - 1}:"):
        few.fit(numbers(needed + 4))
    assert few.predict(x).tolist() == [1, 1]
    assert few.offset_ == -np.inf
    assert few.p_values(x)[1] == 1 / needed
    assert few.score_samples(x)[1] < few.score_samples(x)[0]


# -- images ---------------------------------------------------------------------------------------

NORMAL, ODD = stripes(30), scratched(4)


class Brightness(BaseDetector):
    """Distance from the mean brightness: a detector of images without a network."""

    def _learn(self, batches, n_images, generator):
        means = torch.cat([batch.mean((1, 2, 3)) for _, batch in batches])
        self.mean_ = means.mean()
        return (means - self.mean_).abs()

    def _infer(self, batch):
        heat = (batch.mean(1) - self.mean_).abs()
        return heat.mean((1, 2)), heat


@pytest.fixture(scope="module")
def over_images():
    """PatchCore, calibrated on half of the normal images; not to be changed."""
    detector = ConformalDetector(small(PatchCore), false_alarm_rate=0.1, random_state=0)
    return detector.fit(NORMAL)


@pytest.fixture(scope="module")
def by_brightness():
    """Not to be changed."""
    detector = ConformalDetector(Brightness(image_size=64), false_alarm_rate=0.1, random_state=0)
    return detector.fit(NORMAL)


def test_defects_exceed_the_pixel_level_where_they_are(over_images):
    assert over_images.predict(ODD).tolist() == [-1] * 4
    heat = over_images.anomaly_map(ODD)
    np.testing.assert_array_equal(heat, over_images.detectors_[0].anomaly_map(ODD))
    for one in heat > over_images.pixel_level_:
        rows, columns = np.nonzero(one)
        assert abs(rows.mean() - 20) < 8
        assert abs(columns.mean() - 40) < 8


def test_few_new_normal_images_exceed_threshold_or_pixel_level(over_images):
    fresh = stripes(30, seed=5)
    assert (over_images.predict(fresh) == -1).mean() <= 0.3
    highest = over_images.anomaly_map(fresh).max((1, 2))
    assert (highest > over_images.pixel_level_).mean() <= 0.3


def test_pixel_level_is_the_quantile_of_held_out_map_maxima(over_images):
    (inner,) = over_images.detectors_
    assert inner.n_images_ == 15
    scores = inner.score_samples(NORMAL)
    held_out = np.isin(scores, over_images.calibration_scores_)
    assert held_out.sum() == 15
    maxima = np.sort(inner.anomaly_map(NORMAL[held_out]).max((1, 2)))
    assert over_images.pixel_level_ == maxima[-1]  # rank floor(0.1 * 16) = 1: the largest
    looser = copy.copy(over_images).set_params(false_alarm_rate=0.2)
    assert looser.pixel_level_ == maxima[-3]


def test_maps_of_folds_are_averaged():
    detector = ConformalDetector(
        Brightness(image_size=64), method="cv", cv=3, false_alarm_rate=0.1, random_state=0
    ).fit(NORMAL[:12])
    expected = np.mean([inner.anomaly_map(ODD) for inner in detector.detectors_], axis=0)
    np.testing.assert_array_equal(detector.anomaly_map(ODD), expected)
    mixed = [ODD[0], ODD[1][:40]]
    maps = detector.anomaly_map(mixed)
    assert [heat.shape for heat in maps] == [(64, 64), (40, 64)]
    expected = [inner.anomaly_map(mixed)[1] for inner in detector.detectors_]
    np.testing.assert_array_equal(maps[1], np.mean(expected, axis=0))


def test_detectors_without_maps_give_none():
    detector = ConformalDetector(Far()).fit(numbers(60))
    assert not hasattr(detector, "anomaly_map")
    assert not hasattr(detector, "pixel_level_")


class OnlyMaps(Far):
    """A detector from elsewhere, with maps but without ``inspect``."""

    def anomaly_map(self, X):
        return [np.full((2, 3), value) for value in np.ravel(X)]


def test_pixel_level_of_a_detector_without_inspect():
    train = numbers(100)
    detector = ConformalDetector(OnlyMaps(), cv=40, random_state=0).fit(train)
    held_out = np.setdiff1d(train, detector.detectors_[0].seen_)
    assert len(held_out) == 40
    assert detector.pixel_level_ == held_out[-2]  # rank floor(0.05 * 41) = 2
    detector.set_params(detector=Far()).fit(train)
    assert not hasattr(detector, "pixel_level_")


# -- forms of input -------------------------------------------------------------------------------


def test_all_forms_of_images_give_the_same_calibration(by_brightness, tmp_path):
    for i, image in enumerate(NORMAL):
        Image.fromarray(image).save(tmp_path / f"{i:02}.png")
    tensor = torch.from_numpy(NORMAL)[:, None]
    forms = [
        list(NORMAL),
        tuple(NORMAL),
        tmp_path,
        str(tmp_path),
        sorted(tmp_path.iterdir()),
        tensor,
        TensorDataset(tensor, torch.zeros(30)),
    ]
    expected = by_brightness.calibration_scores_
    assert len(set(expected)) == 15
    for form in forms:
        detector = clone(by_brightness).fit(form)
        np.testing.assert_array_equal(detector.calibration_scores_, expected)


def test_all_forms_of_tables_give_the_same_p_values():
    table = np.random.default_rng(0).normal(size=(80, 3))
    inner = OneClassSVM(gamma=0.3)
    expected = ConformalDetector(inner, random_state=0).fit(table).p_values(table)
    for form in (list(table), sparse.csr_matrix(table), sparse.coo_array(table), table.tolist()):
        got = ConformalDetector(inner, random_state=0).fit(form).p_values(table)
        np.testing.assert_allclose(got, expected)


def test_data_frames_keep_their_column_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.random.default_rng(0).normal(size=(80, 2)), columns=["a", "b"])
    detector = ConformalDetector(
        IsolationForest(n_estimators=5, random_state=0), random_state=0
    ).fit(frame)
    assert detector.feature_names_in_.tolist() == ["a", "b"]
    assert detector.n_features_in_ == 2
    assert detector.p_values(frame).shape == (80,)


@pytest.mark.parametrize(
    "given",
    [iter(NORMAL), DataLoader(NORMAL), None, 3, (image for image in NORMAL)],
    ids=lambda given: type(given).__name__,
)
def test_input_that_cannot_be_indexed_is_refused(given):
    with pytest.raises(ValueError, match=r"can be indexed, got .* Pass a list or an array"):
        ConformalDetector(Brightness(image_size=64)).fit(given)


@pytest.mark.parametrize(
    "inner",
    [
        IsolationForest(n_estimators=10, random_state=0),
        OneClassSVM(),
        LocalOutlierFactor(novelty=True),
        make_pipeline(StandardScaler(), OneClassSVM()),
    ],
)
@pytest.mark.parametrize("method", ["split", "cv"])
def test_wraps_any_outlier_detector(inner, method):
    table = np.random.default_rng(0).normal(size=(120, 2))
    detector = ConformalDetector(inner, method=method, random_state=0).fit(table)
    assert detector.predict([[0, 0], [30, -30]]).tolist() == [1, -1]
    assert all(fitted is not inner for fitted in detector.detectors_)
    assert not hasattr(inner, "n_features_in_")


def test_wraps_a_pipeline_of_deep_features():
    inner = make_pipeline(DeepFeatures(image_size=64, pooling="max"), OneClassSVM(nu=0.1))
    detector = ConformalDetector(inner, false_alarm_rate=0.1, random_state=0).fit(NORMAL)
    assert detector.predict(ODD).tolist() == [-1] * 4


# -- parameters and errors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"detector": StandardScaler()}, "score_samples"),
        ({"detector": LocalOutlierFactor()}, "novelty=True"),
        ({"detector": 3}, "score_samples"),
        ({"method": "jackknife"}, "method: expected one of 'split', 'cv', got 'jackknife'"),
        ({"false_alarm_rate": 0}, "false_alarm_rate: expected"),
        ({"false_alarm_rate": 1}, "false_alarm_rate: expected"),
        ({"false_alarm_rate": "5%"}, "false_alarm_rate: expected"),
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
def test_invalid_parameters_are_refused(params, message):
    detector = ConformalDetector(**{"detector": Far(), **params})
    with pytest.raises(ValueError, match=message):
        detector.fit(numbers(60))
    assert "detectors_" not in vars(detector)


def test_splitters_that_train_on_held_out_samples_are_refused():
    class Leaking(KFold):
        def split(self, X, y=None, groups=None):
            return [(np.arange(len(X)), test) for _, test in super().split(X)]

    with pytest.raises(ValueError, match="trains on samples that it holds out"):
        ConformalDetector(Far(), method="cv", cv=Leaking(3)).fit(numbers(60))


def test_too_few_samples_are_refused():
    with pytest.raises(ValueError, match=r"at least 2 samples.* got 1 sample"):
        ConformalDetector(Far()).fit(numbers(1))


def test_p_values_need_a_fit():
    with pytest.raises(NotFittedError):
        ConformalDetector(Far()).p_values(numbers(3))


@pytest.mark.parametrize("fdr", [0, 1, "0.1", True])
def test_false_discovery_rate_must_be_a_probability(fdr):
    with pytest.raises(ValueError, match="fdr: expected"):
        ConformalDetector(Far()).fit(numbers(60)).select(numbers(3), fdr=fdr)


def test_detectors_that_score_nan_are_refused():
    class Undecided(Far):
        def score_samples(self, X):
            return np.full(len(X), np.nan)

    with pytest.raises(ValueError, match="got NaN for some samples"):
        ConformalDetector(Undecided()).fit(numbers(60))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_fit_leaves_the_estimator_unchanged(error):
    class Failing(Far):
        def score_samples(self, X):
            raise error

    detector = ConformalDetector(OnlyMaps(), random_state=0).fit(numbers(60))
    inner, before = detector.detector, snapshot(detector)
    detector.detector = Failing()
    with pytest.raises(error):
        detector.fit(numbers(60, seed=1))
    detector.detector = inner
    assert snapshot(detector) == before


def test_same_seed_gives_same_scores_and_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (
        ConformalDetector(Nearest(), random_state=3).fit(numbers(60)) for _ in range(2)
    )
    np.testing.assert_array_equal(first.calibration_scores_, second.calibration_scores_)
    ConformalDetector(Nearest()).fit(numbers(60))
    ConformalDetector(Nearest(), random_state=np.random.default_rng(0)).fit(numbers(60))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_loaded_detector_equals_the_saved_one(over_images, tmp_path):
    over_images.save(tmp_path / "images.alite")
    again = load(tmp_path / "images.alite")
    np.testing.assert_array_equal(again.p_values(ODD), over_images.p_values(ODD))
    np.testing.assert_array_equal(again.anomaly_map(ODD), over_images.anomaly_map(ODD))
    assert again.pixel_level_ == over_images.pixel_level_
    again.set_params(false_alarm_rate=0.2)
    assert again.pixel_level_ < over_images.pixel_level_
    table = np.random.default_rng(0).normal(size=(80, 2))
    for method in ("split", "cv"):
        inner = IsolationForest(n_estimators=3, random_state=0)
        detector = ConformalDetector(inner, method=method, cv=40 if method == "split" else 3)
        detector.fit(table)
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
        {"detector__gamma": [1e-6, 0.1], "false_alarm_rate": [0.05, 0.1]},
        scoring="roc_auc",
        cv=[(np.arange(80), np.arange(80, 132))],
    ).fit(table, y)
    assert search.best_score_ > 0.8


def test_tags_come_from_the_detector():
    assert get_tags(ConformalDetector(IsolationForest())).input_tags.allow_nan
    tags = get_tags(ConformalDetector(small(PatchCore)))
    assert not tags.input_tags.two_d_array
    assert tags.estimator_type == "outlier_detector"
    assert "PatchCore" in ConformalDetector(small(PatchCore))._repr_html_()


@parametrize_with_checks(
    [
        ConformalDetector(
            IsolationForest(n_estimators=5, random_state=0), false_alarm_rate=0.3, random_state=0
        ),
        ConformalDetector(OneClassSVM(), method="cv", cv=3, false_alarm_rate=0.3, random_state=0),
    ]
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_p_values_are_uniform_on_a_large_sample():
    detector = ConformalDetector(Far(), random_state=0).fit(numbers(4000))
    assert stats.kstest(detector.p_values(numbers(4000, seed=1)), "uniform").pvalue > 1e-3


def test_p_values_equal_those_of_nonconform():
    scoring = pytest.importorskip("nonconform.scoring")  # needs Python 3.12
    for digits in (None, 0):
        detector = ConformalDetector(Far(digits), random_state=0).fit(numbers(300))
        x = numbers(200, seed=1) * 2
        expected = scoring.calculate_p_val(
            -detector.score_samples(x), -detector.calibration_scores_
        )
        np.testing.assert_array_equal(detector.p_values(x), expected)
