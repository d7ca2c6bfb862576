"""Real use inside scikit-learn, and scikit-learn's own checks."""

from contextlib import nullcontext

import numpy as np
import pytest
from detectors import PUBLIC, small
from PIL import Image
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator
from sklearn.utils.validation import validate_data
from torch import nn
from worlds import scratched, stripes

from anomalib_lite import CANCE, DeepFeatures, LabeledPatchCore, NCEDensity, PatchCore

# -- its own checks, on tables made into images ---------------------------------------------------

_CELL, _COLUMNS = 8, 4


def as_images(table):
    """Each row of numbers a small picture: one gray square a number."""
    levels = np.arctan(table) / np.pi + 0.5  # in (0, 1)
    n_rows = -(-levels.shape[1] // _COLUMNS)
    cells = np.full((len(levels), n_rows * _COLUMNS), 0.5)
    cells[:, : levels.shape[1]] = levels
    grid = cells.reshape(-1, n_rows, _COLUMNS)
    return grid.repeat(_CELL, axis=1).repeat(_CELL, axis=2)


def on_tables(cls):
    """The same estimator, given tables."""

    class OnTables(cls):
        def _open(self, X, on_error="raise"):
            reset = not hasattr(self, "n_features_in_")
            table = validate_data(self, X, dtype=np.float64, reset=reset)
            return super()._open(as_images(table), on_error)

        def __sklearn_tags__(self):
            tags = super().__sklearn_tags__()
            tags.input_tags.two_d_array = True
            return tags

    def unlabeled(name):
        """The method without y: of these checks, one is no label of defects."""

        def call(self, X, y=None):
            return getattr(super(OnTables, self), name)(X)

        return call

    if cls is LabeledPatchCore:
        for name in ("fit", "fit_predict", "partial_fit"):
            setattr(OnTables, name, unlabeled(name))
    OnTables.__name__ = OnTables.__qualname__ = f"{cls.__name__}OnTables"
    OnTables.__init__ = cls.__init__
    globals()[OnTables.__name__] = OnTables  # where pickle looks for it
    return OnTables


BRIEF = NCEDensity(epochs=2, learning_rate=0.003)


def _tiny(cls):
    """Smaller still: no check asks how good a detector is."""
    fewer = {"epochs": 2} if cls.__name__ in ("CPC", "MLSAD") else {}
    return small(cls, image_size=32, false_alarm_rate=0.1, **fewer)


CHECKED = [
    *(on_tables(cls)(**_tiny(cls).get_params(deep=False)) for cls in PUBLIC if cls is not CANCE),
    on_tables(DeepFeatures)(image_size=32, random_state=0),
    # these take tables as they are
    CANCE(epochs=5, decoder_epochs=2, density=BRIEF, false_alarm_rate=0.1, random_state=0),
    CANCE("pca", density=BRIEF, false_alarm_rate=0.1, random_state=0),
    NCEDensity(epochs=2, random_state=0),
]


# run whole in the fast part, but for SLOW; of the others CORE is
WHOLE = {
    "PatchCoreOnTables",
    "DeepFeaturesOnTables",
    "RotationPredictionOnTables",
    "CANCE",
    "NCEDensity",
}
SLOW = {"check_outliers_train", "check_dtype_object"}  # 300 samples
# demands fit_predict == fit.predict, whose scores are in-sample; see tests/test_calls.py
LEFT_OUT = {"check_outliers_fit_predict"}
CORE = {
    "check_dict_unchanged",
    "check_dont_overwrite_attributes",
    "check_estimators_overwrite_params",
    "check_fit_check_is_fitted",
    "check_fit_score_takes_y",
    "check_get_params_invariance",
    "check_n_features_in",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_readonly_memmap_input",
    "check_set_params",
    "check_valid_tag_types",
}


def every_check():
    for i, checked in enumerate(CHECKED):
        of_whom = type(checked).__name__
        for n, (estimator, check) in enumerate(estimator_checks_generator(checked)):
            name = getattr(check, "func", check).__name__
            if name in LEFT_OUT:
                continue
            is_fast = name in CORE or (of_whom in WHOLE and name not in SLOW)
            marks = () if is_fast else pytest.mark.slow
            yield pytest.param(estimator, check, id=f"{of_whom}{i}-{name}-{n}", marks=marks)


@pytest.mark.filterwarnings("ignore:.* copies:UserWarning", "ignore:.* is a copy:UserWarning")
@pytest.mark.parametrize(("estimator", "check"), list(every_check()))
def test_scikit_learns_own_checks(estimator, check):
    with ends_at_contamination(estimator, check):
        check(estimator)


def ends_at_contamination(estimator, check):
    """What a check may raise: its last demand is that `contamination` is a share of alarms.

    Ours is a share of the training images, and the threshold is one for good images. That part
    begins with `set_params` on a fitted detector, of which we warn; all else has held by then.
    """
    is_last = getattr(check, "func", check).__name__ == "check_outliers_train"
    if is_last and hasattr(estimator, "contamination"):
        return pytest.raises(UserWarning, match="contamination: changed after fit")
    return nullcontext()


# -- real use -------------------------------------------------------------------------------------

NORMAL, ODD = stripes(18), scratched(6)
IMAGES = np.concatenate([NORMAL, ODD])
Y = np.repeat([1, -1], [18, 6])


def folds_of_good_parts(n_folds=3):
    """Trained on good parts alone, tested on the other good parts and all bad ones."""
    for fold in range(n_folds):
        held_out = np.arange(18) % n_folds == fold
        yield np.flatnonzero(~held_out), np.r_[np.flatnonzero(held_out), 18:24]


class Darkest(nn.Module):
    """Sees the darkest point of each cell, which a bright scratch leaves as it is."""

    def forward(self, x):
        return -nn.functional.max_pool2d(-x, 32)


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / f"{i:02}.png" for i in range(24)]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_grid_search_chooses_right():
    # two kinds of good parts, lying and upright: a bank of one row cannot hold both
    images = IMAGES.copy()
    images[:18:2] = images[:18:2].transpose(0, 2, 1)
    search = GridSearchCV(
        small(PatchCore),
        {"coreset": [1, 0.2], "backbone": [Darkest(), "efficientnet_lite0"]},
        scoring="roc_auc",
        cv=list(folds_of_good_parts()),
        refit=False,  # it would be on the bad parts, too
    )
    search.fit(images, Y)
    assert search.best_params_ == {"coreset": 0.2, "backbone": "efficientnet_lite0"}
    assert search.best_score_ == 1
    assert sorted(search.cv_results_["mean_test_score"])[-2] < 0.999
    chosen = small(PatchCore, **search.best_params_).fit(images[:18])
    assert chosen.predict(scratched(2, seed=8)).tolist() == [-1, -1]


def test_cross_validation_on_paths(paths):
    scores = cross_val_score(
        small(PatchCore),
        paths,
        Y,
        scoring="roc_auc",
        cv=list(folds_of_good_parts()),
        error_score="raise",
    )
    assert scores.tolist() == [1, 1, 1]


def test_cross_validation_in_two_processes():
    arguments = {"scoring": "average_precision", "cv": list(folds_of_good_parts(2))}
    one, two = (
        cross_val_score(small(PatchCore), IMAGES, Y, n_jobs=n_jobs, **arguments)
        for n_jobs in (1, 2)
    )
    np.testing.assert_allclose(one, two)


def test_pipeline_with_a_transformer_of_images_before_the_detector():
    def crop(images):
        return images[:, 4:60, 4:60]

    pipeline = Pipeline([("crop", FunctionTransformer(crop)), ("detector", small(PatchCore))])
    pipeline.fit(NORMAL)
    alone = small(PatchCore).fit(crop(NORMAL))
    np.testing.assert_array_equal(pipeline.score_samples(ODD), alone.score_samples(crop(ODD)))
    np.testing.assert_array_equal(pipeline.predict(ODD), alone.predict(crop(ODD)))
    np.testing.assert_array_equal(pipeline.fit_predict(NORMAL), alone.predict(crop(NORMAL)))
    np.testing.assert_array_equal(
        pipeline[-1].anomaly_map(pipeline[:-1].transform(ODD)), alone.anomaly_map(crop(ODD))
    )
    assert (
        clone(pipeline).set_params(detector__coreset=5).fit(NORMAL)[-1].memory_bank_.n_stored == 5
    )


@pytest.mark.parametrize(
    "head", [OneClassSVM(nu=0.1, gamma="scale"), IsolationForest(random_state=0)]
)
def test_deep_features_before_a_classic_outlier_detector(head, paths):
    features = DeepFeatures(image_size=64, pooling="max")
    pipeline = make_pipeline(features, StandardScaler(), head).fit(NORMAL)
    scores = pipeline.score_samples(IMAGES)
    assert roc_auc_score(Y, scores) == 1
    np.testing.assert_array_equal(pipeline.score_samples(paths), scores)


def test_notebooks_show_a_pipeline_as_html():
    pipeline = make_pipeline(DeepFeatures(), OneClassSVM())
    html = pipeline._repr_html_()
    assert "DeepFeatures" in html
    assert "OneClassSVM" in html


def test_feature_tags_are_right():
    for cls in PUBLIC:
        tags = get_tags(small(cls))
        assert tags.estimator_type == "outlier_detector"
        assert tags.input_tags.three_d_array
        assert tags.input_tags.two_d_array == (cls is CANCE)
        assert not tags.input_tags.sparse
        assert not tags.input_tags.allow_nan
        assert not tags.target_tags.required
    assert get_tags(DeepFeatures()).transformer_tags is not None
