"""The three first stages, and the second stage they share."""

import copy
import inspect
import re

import numpy as np
import pytest
import torch
from oracles import slow_info_nce
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM
from torch.nn import functional as F
from worlds import parts, scratched, stripes

import anomalib_lite
from anomalib_lite import (
    ContrastiveDA,
    CutPaste,
    DeepOneClass,
    GaussianDensity,
    RotationPrediction,
)
from anomalib_lite.backbones import Backbone, pool_maps
from anomalib_lite.data import ImageStream, cut_paste, cut_paste_scar, simclr_views
from anomalib_lite.methods import two_stage
from anomalib_lite.methods.two_stage import TwoStageDetector
from anomalib_lite.metrics import image_auroc
from anomalib_lite.nn import ConvNet
from anomalib_lite.runtime import draw_seed

STAGES = [RotationPrediction, ContrastiveDA, CutPaste]
CLASSIFIERS = [
    OneClassSVM(gamma="scale"), KernelDensity(bandwidth=0.1), GaussianDensity(),
    IsolationForest(n_estimators=20, random_state=0), "gaussian",
]  # fmt: skip
NORMAL, ODD = stripes(20), scratched(4)
TEST = np.concatenate([ODD, stripes(6, seed=9)])


def small(cls, **params):
    return cls(**{
        "backbone": "convnet", "weights": "random", "hidden": (16,), "epochs": 1,
        "train_batch_size": 10, "train_from": None, "image_size": 64, "patch_size": 16,
        "patch_stride": 8, "n_patches": 60, "random_state": 0, **params,
    })  # fmt: skip


@pytest.fixture(scope="module", params=STAGES, ids=lambda cls: cls.__name__)
def fitted(request):
    return small(request.param, classifier="knn").fit(NORMAL)


@pytest.fixture(scope="module")
def patchwise():
    return small(RotationPrediction, classifier="knn", patch_level=True).fit(NORMAL)


def seed(value=0):
    return torch.Generator().manual_seed(value)


def noise(n, size=24):
    return torch.rand(n, 3, size, size, generator=seed())


# -- what only a learned representation can tell ---------------------------------------------------

PARTS = parts(100)
ARRANGED = np.concatenate([parts(50, seed=1), parts(50, order="other", seed=2)])
IS_OTHER = np.repeat([False, True], 50)


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (RotationPrediction, {"epochs": 8, "learning_rate": 0.02}),
        pytest.param(ContrastiveDA, {"epochs": 12}, marks=pytest.mark.slow),
        pytest.param(CutPaste, {"epochs": 25, "variant": "patch"}, marks=pytest.mark.slow),
    ],
)
def test_other_arrangements_of_the_same_parts_are_anomalous(cls, params):
    params = {"learning_rate": 0.03, "classifier": "gaussian", **params}
    detector = small(cls, image_size=32, train_batch_size=20, hidden=(64,), **params).fit(PARTS)
    assert image_auroc(IS_OTHER, detector.anomaly_score(ARRANGED)) > 0.95


def test_untrained_local_features_cannot_tell_arrangements():
    detector = DeepOneClass(
        "convnet", layers=(1,), weights="random", image_size=32, random_state=0
    ).fit(PARTS)
    assert 0.3 < image_auroc(IS_OTHER, detector.anomaly_score(ARRANGED)) < 0.7


def test_scratched_images_are_anomalous(fitted):
    scores = fitted.score_samples(TEST)
    assert scores[:4].max() < scores[4:].min()
    maps = fitted.anomaly_map(ODD)
    rows, columns = np.unravel_index(maps.reshape(4, -1).argmax(1), (64, 64))
    assert abs(rows - 20).max() <= 12  # a patch is 16 px, and centers are 8 px apart
    assert abs(columns - 40).max() <= 12


# -- tasks ----------------------------------------------------------------------------------------


def every_turn(images):
    return np.concatenate([np.rot90(images, k, axes=(2, 3)) for k in range(4)])


def slow_cross_entropy(outputs, targets):
    rows = np.asarray(outputs, np.float64)
    return np.mean([
        np.log(np.exp(row).sum()) - row[k] for row, k in zip(rows, targets, strict=True)
    ])  # fmt: skip


def test_rotation_task_is_to_tell_quarter_turns():
    views, targets = RotationPrediction()._views(noise(2), seed())
    np.testing.assert_array_equal(views, every_turn(noise(2).numpy()))
    assert targets.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("variant", "pastes"),
    [
        ("patch", [cut_paste]),
        ("scar", [cut_paste_scar]),
        ("3way", [cut_paste, cut_paste_scar]),
    ],
)
def test_cutpaste_task_is_to_tell_pasted_images_from_normal_ones(variant, pastes):
    stage, generator = CutPaste(variant=variant), seed(1)
    views, targets = stage._views(noise(5), seed(1))
    expected = [noise(5), *(paste(noise(5), generator) for paste in pastes)]
    assert torch.equal(views, torch.cat(expected))
    assert targets.tolist() == [kind for kind in range(len(expected)) for _ in range(5)]
    assert stage._n_outputs == len(expected)


@pytest.mark.parametrize("cls", [RotationPrediction, CutPaste])
def test_classification_loss_is_cross_entropy(cls):
    outputs = torch.randn(6, 4, generator=seed())
    targets = torch.tensor([0, 1, 2, 3, 0, 1])
    loss = float(cls()._loss(outputs, targets))
    assert loss == pytest.approx(slow_cross_entropy(outputs, targets), rel=1e-5)


@pytest.mark.parametrize("augmentation", ["rotation", "flip"])
def test_contrastive_task_is_to_match_two_views_of_each_kind_of_image(augmentation):
    images = noise(3).numpy()
    rotates = augmentation == "rotation"
    kinds = every_turn(images) if rotates else np.concatenate([images, images[:, :, :, ::-1]])
    pairs = torch.from_numpy(np.concatenate([kinds, kinds]))
    views, _ = ContrastiveDA(augmentation=augmentation)._views(noise(3), seed(1))
    torch.testing.assert_close(views, simclr_views(pairs, seed(1), flip=rotates))


def test_contrastive_loss_is_info_nce_of_unit_vectors():
    outputs = torch.randn(8, 5, generator=seed())
    unit = outputs.numpy() / np.linalg.norm(outputs.numpy(), axis=1, keepdims=True)
    expected = slow_info_nce(unit[:4], unit[4:], 0.3, symmetric=True)
    assert float(ContrastiveDA(temperature=0.3)._loss(outputs, None)) == pytest.approx(expected)


def test_a_first_stage_needs_a_task():
    class Idle(TwoStageDetector):
        _n_outputs = 2

    with pytest.raises(NotImplementedError, match=r"Idle must implement _views"):
        small(Idle).fit(NORMAL)
    with pytest.raises(NotImplementedError, match=r"Idle must implement _loss"):
        Idle()._loss(None, None)


# -- training -------------------------------------------------------------------------------------


def pooled(backbone, images, size=64):
    """Unit embeddings (n, D) of images by a backbone."""
    batches = [backbone.input.batch([image]) for image in ImageStream(images)]
    return F.normalize(torch.cat([pool_maps(backbone(batch)) for batch in batches])).numpy()


def test_without_learning_given_weights_keep_their_batchnorm_statistics(tmp_path):
    torch.manual_seed(0)
    torch.save(ConvNet().state_dict(), tmp_path / "weights.pt")
    params = {"weights": str(tmp_path / "weights.pt"), "layers": (4, 8), "image_size": 64}
    untrained = pooled(Backbone("convnet", **params), TEST)
    still = small(CutPaste, learning_rate=0.0, **params).fit(NORMAL)
    np.testing.assert_allclose(still.transform(TEST), untrained, rtol=1e-5, atol=1e-7)
    trained = small(CutPaste, learning_rate=0.1, **params).fit(NORMAL)
    assert np.abs(trained.transform(TEST) - untrained).max() > 1e-3


def test_random_weights_learn_batchnorm_statistics():
    once, twice = (
        small(CutPaste, learning_rate=0.0, train_steps=n).fit(NORMAL).transform(TEST)
        for n in (1, 2)
    )
    assert np.abs(once - twice).max() > 1e-3


def test_only_the_part_after_train_from_is_trained():
    shape = {"backbone": "efficientnet_lite0", "weights": "pretrained", "image_size": 64}
    untrained = Backbone(**shape, layers="last").module.state_dict()
    detector = small(CutPaste, **shape, train_from=8, learning_rate=0.01, patch_size=32,
                     train_steps=1, n_patches=10).fit(NORMAL[:6])  # fmt: skip
    trained = detector.backbone_.module.state_dict()
    changed = {name for name in untrained if not torch.equal(untrained[name], trained[name])}
    weights = {name for name in untrained if name.endswith("weight") and untrained[name].ndim == 4}
    after_stride_8 = {name for name in weights if re.match(r"blocks\.[3-6]\.", name)}
    assert changed & weights == after_stride_8
    assert all(re.match(r"blocks\.[3-6]\.", name) for name in changed)


def test_the_part_up_to_train_from_keeps_its_batchnorm_statistics():
    params = {"train_from": 4, "layers": (4, 8), "normalize": False, "learning_rate": 0.0}
    once, twice = (
        small(CutPaste, train_steps=n, **params).fit(NORMAL).transform(TEST) for n in (1, 2)
    )
    np.testing.assert_array_equal(once[:, :64], twice[:, :64])
    assert np.abs(once[:, 64:] - twice[:, 64:]).max() > 1e-3


@pytest.mark.parametrize(("train_steps", "n_epochs"), [(3, 2), (1, 1), (None, 4)])
def test_train_steps_count_batches_in_place_of_epochs(train_steps, n_epochs):
    detector = small(RotationPrediction, train_steps=train_steps, epochs=4).fit(NORMAL)
    assert len(detector.history_) == n_epochs  # of two batches
    assert {"epoch", "loss", "learning_rate"} == set(detector.history_[0])


def test_training_stops_once_watched_images_get_no_better():
    detector = small(CutPaste, epochs=30, validation_fraction=0.2, patience=2, learning_rate=0.3)
    losses = [entry["held_out"] for entry in detector.fit(NORMAL).history_]
    assert len(losses) < 30
    assert len(losses) - 1 - int(np.argmin(losses)) == 2


def test_tasks_see_pixels_of_whole_images_or_of_patches():
    batches = []

    class Recorded(RotationPrediction):
        def _views(self, images, generator):
            batches.append(images.numpy().copy())
            return super()._views(images, generator)

    small(Recorded, classifier="knn").fit(NORMAL)
    seen = np.concatenate(batches)
    assert seen.shape == (20, 3, 64, 64)
    expected = np.repeat(NORMAL[:, None] / 255, 3, axis=1)
    apart = np.abs(seen[:, None] - expected).max((2, 3, 4))
    assert sorted(apart.argmin(1)) == list(range(20))
    assert apart.min(1).max() < 1e-5
    batches.clear()
    small(Recorded, classifier="knn", patch_level=True).fit(NORMAL)
    assert {batch.shape for batch in batches} == {(10, 3, 16, 16)}


def test_turned_images_must_be_square_unless_patches_are_turned():
    wide = np.concatenate([NORMAL[:6], NORMAL[:6]], 2)
    params = {"image_size": (64, 128), "classifier": "knn"}
    small(ContrastiveDA, augmentation="flip", **params).fit(wide)
    small(RotationPrediction, patch_level=True, **params).fit(wide)
    for cls in (ContrastiveDA, RotationPrediction):
        with pytest.raises(ValueError, match="image_size: expected square images"):
            small(cls, **params).fit(wide)


# -- second stage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=str)
def test_any_classifier_serves_as_second_stage_and_can_be_saved(classifier, tmp_path):
    detector = small(CutPaste, classifier=classifier).fit(NORMAL)
    scores = detector.score_samples(TEST)
    assert scores[:4].max() < scores[4:].min()
    if not isinstance(classifier, str):
        rows = clone(classifier).fit(detector.transform(NORMAL))
        expected = rows.score_samples(detector.transform(TEST))
        np.testing.assert_allclose(scores, expected, rtol=1e-9)
    detector.save(tmp_path / "saved.alite")
    again = anomalib_lite.load(tmp_path / "saved.alite")
    np.testing.assert_array_equal(again.transform(TEST), detector.transform(TEST))
    np.testing.assert_array_equal(again.anomaly_map(ODD), detector.anomaly_map(ODD))


def test_a_pipeline_of_both_stages_gives_the_same_scores():
    classifier = OneClassSVM(gamma="scale")
    scores = small(CutPaste, classifier=classifier).fit(NORMAL).score_samples(TEST)
    pipeline = make_pipeline(small(CutPaste), classifier).fit(NORMAL)
    np.testing.assert_allclose(pipeline.score_samples(TEST), scores, rtol=1e-9)


def test_embeddings_are_unit_vectors_and_what_the_classifier_was_fitted_on(fitted):
    embeddings = fitted.transform(NORMAL)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    distances, index = fitted.classifier_.kneighbors(embeddings, 1)
    assert index[:, 0].tolist() == list(range(20))
    np.testing.assert_allclose(distances, 0, atol=1e-6)
    prefix = type(fitted).__name__.lower()
    assert fitted.get_feature_names_out().tolist() == [f"{prefix}{i}" for i in range(128)]


def test_embeddings_keep_their_length_without_normalize():
    detector = small(CutPaste, normalize=False, layers=(4, 8)).fit(NORMAL)
    expected = torch.cat([
        pool_maps(detector.backbone_(detector.input_.batch([image])))
        for image in ImageStream(TEST)
    ])  # fmt: skip
    np.testing.assert_array_equal(detector.transform(TEST), expected)
    assert expected.shape[1] == 64 + 128


class Recorder(BaseEstimator):
    """Scores rows by their nearest row; the list ``fits`` keeps all rows of all clones."""

    fits = []  # noqa: RUF012 - shared on purpose

    def fit(self, rows):
        self.rows_ = rows
        self.fits.append(rows)
        return self

    def score_samples(self, rows):
        apart = np.linalg.norm(rows[:, None] - self.rows_, axis=2)
        return -apart.min(1)


@pytest.fixture
def recorder():
    Recorder.fits.clear()
    return Recorder()


def test_a_trained_network_that_gives_no_numbers_is_refused(monkeypatch):
    cls = RotationPrediction
    monkeypatch.setattr(cls, "_embed", lambda self, batch: torch.full((len(batch), 4), torch.nan))
    detector = small(cls)
    with pytest.raises(ValueError, match=r"gives NaN or infinity.*are they all the same"):
        detector.fit(NORMAL)


@pytest.mark.parametrize("n_folds", [2, 5, 100])
def test_threshold_comes_from_classifiers_fitted_without_the_images_fold(recorder, n_folds):
    detector = small(CutPaste, classifier=recorder, n_folds=n_folds).fit(NORMAL)
    embeddings = detector.transform(NORMAL)
    patches, images, *folds = recorder.fits
    assert len(patches) == 60
    np.testing.assert_array_equal(images, embeddings)
    assert len(folds) == min(n_folds, 20)
    for embedding, score in zip(embeddings, detector.calibration_scores_, strict=True):
        (others,) = (rows for rows in folds if not (rows == embedding).all(1).any())
        apart = np.linalg.norm(others - embedding, axis=1)
        assert score == pytest.approx(-apart.min(), rel=1e-5)


# -- patches --------------------------------------------------------------------------------------


def test_patch_level_threshold_comes_from_patches_of_other_images(recorder):
    detector = small(
        CutPaste, classifier=recorder, n_folds=4, patch_level=True, n_patches=50, smoothing=0
    ).fit(NORMAL)
    patches, *folds = recorder.fits
    owners = np.arange(50) % 20  # as many of each image as can be
    assert len(folds) == 4
    held_out = [np.setdiff1d(range(20), owners[np.isin(patches, f).all(1)]) for f in folds]
    assert sorted(np.concatenate(held_out)) == list(range(20))
    for rows, images in zip(folds, held_out, strict=True):
        np.testing.assert_array_equal(rows, patches[~np.isin(owners, images)])
        for i in images:
            values = [embedded_patch(detector, NORMAL[i], row, column)
                      for row in range(7) for column in range(7)]  # fmt: skip
            score = Recorder().fit(rows).score_samples(np.concatenate(values)).min()
            assert detector.calibration_scores_[i] == pytest.approx(score, rel=1e-4)


def embedded_patch(detector, image, row, column):
    """The unit embedding (1, D) of one patch of the grid, alone."""
    (image,) = ImageStream(image[None])
    batch = detector.input_.batch([image])
    top, left = 8 * row, 8 * column
    patch = batch[:, :, top : top + 16, left : left + 16]
    return F.normalize(pool_maps(detector.backbone_(patch))).numpy()


def patch_values(detector, image):
    """(7, 7) from the pixels at the patches' centers of a map whose values do not spread."""
    still = copy.deepcopy(detector).set_params(smoothing=0)
    return still.anomaly_map(image[None])[0][7:57:8, 7:57:8]


def test_map_values_are_scores_of_patches_alone(fitted):
    values = patch_values(fitted, ODD[0])
    assert values.shape == (7, 7)
    for row, column in ((0, 0), (2, 5), (6, 3)):
        alone = embedded_patch(fitted, ODD[0], row, column)
        distances, _ = fitted.patch_classifier_.kneighbors(alone)
        np.testing.assert_allclose(values[row, column], distances.mean(), rtol=1e-4)


def test_patch_level_score_is_the_largest_of_the_patches(patchwise):
    assert patchwise.classifier_ is None
    largest = [patch_values(patchwise, image).max() for image in TEST]
    np.testing.assert_allclose(patchwise.anomaly_score(TEST), largest, rtol=1e-6)
    assert patchwise.predict(ODD).tolist() == [-1] * 4
    np.testing.assert_array_equal(patchwise.inspect(TEST).scores, patchwise.score_samples(TEST))


@pytest.mark.parametrize(
    "change",
    [{"patch_size": 32}, {"patch_stride": 4}, {"patch_level": True}, {"normalize": False}],
)
def test_parameters_set_after_fit_do_not_change_scores(fitted, change):
    changed = copy.deepcopy(fitted)
    with pytest.warns(UserWarning, match="no effect until"):
        changed.set_params(**change)
    before, after = fitted.inspect(ODD[:2]), changed.inspect(ODD[:2])
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(after.maps, before.maps)


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classifier": "svm"}, "classifier: expected one of"),
        ({"epochs": 0}, "epochs: expected a positive int"),
        ({"train_steps": -1}, "train_steps: expected a positive int"),
        ({"patch_stride": 0}, "patch_stride: expected a positive int"),
        ({"n_folds": 1}, "n_folds: expected an int of at least 2"),
        ({"optimizer": "lion"}, "optimizer: expected one of 'sgd'"),
        ({"schedule": "linear"}, "schedule: expected one of"),
        ({"learning_rate": -1}, "learning_rate: expected a number"),
        ({"on_interrupt": "stop"}, "on_interrupt: expected one of"),
        ({"validation_fraction": 1}, "validation_fraction: expected a number in"),
        ({"patience": 3}, "patience: expected None without images to watch, got 3"),
        ({"patience": 0, "validation_fraction": 0.1}, "patience: expected a positive int"),
        ({"patch_size": 65}, r"patch_size: expected a side that fits .*, got 65"),
        ({"train_from": 7}, "7 is not there"),
        ({"hidden": (0,)}, "hidden: expected a positive int"),
        ({"weights": "pretrained"}, "weights: "),
        ({"variant": "both"}, "variant: expected one of"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(CutPaste, **params).fit(NORMAL)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"augmentation": "blur"}, "augmentation: expected one of"),
        ({"temperature": 0}, "temperature: expected a number"),
        ({"epochs": 0}, "epochs: expected a positive int"),
    ],
)
def test_bad_parameters_of_contrastive_learning_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(ContrastiveDA, **params).fit(NORMAL)


def test_two_images_are_too_few():
    with pytest.raises(ValueError, match="at least 3 images, got 2 samples"):
        small(CutPaste).fit(NORMAL[:2])


def documented(cls, section):
    """{name: (type, default or None, text)} of a section of a numpydoc docstring."""
    doc = inspect.getdoc(cls)
    body = doc.split(f"\n{section}\n{'-' * len(section)}\n")[1].split("\n\n")[0]
    found = {}
    for name, kind, text in re.findall(r"^(\w+) : (.*)\n?((?:    .*\n?)*)", body, re.MULTILINE):
        kind, _, default = kind.partition(", default=")
        found[name] = kind, default or None, text.strip()
    return found


@pytest.mark.parametrize("cls", [TwoStageDetector, *STAGES])
def test_constructors_store_what_they_are_given(cls):
    values = {name: object() for name in inspect.signature(cls).parameters}
    assert vars(cls(**values)) == values


@pytest.mark.parametrize("cls", [TwoStageDetector, *STAGES])
def test_parameters_are_documented_with_their_defaults_and_in_order(cls):
    parameters = inspect.signature(cls).parameters
    told = documented(cls, "Parameters")
    assert list(told) == list(parameters)
    for name, (_, default, text) in told.items():
        assert eval(default) == parameters[name].default, name
        assert text, name


@pytest.mark.parametrize("cls", STAGES)
@pytest.mark.parametrize("section", ["Parameters", "Attributes"])
def test_shared_parameters_and_attributes_have_the_same_text(cls, section):
    mine, shared = documented(cls, section), documented(TwoStageDetector, section)
    for name, (kind, _, text) in shared.items():
        assert (mine[name][0], mine[name][2]) == (kind, text), name


@pytest.mark.parametrize("patch_level", [False, True])
@pytest.mark.parametrize("cls", STAGES)
def test_a_fit_is_the_same_by_any_number_of_workers(cls, patch_level):
    how = {"patch_level": patch_level, "n_patches": 600, "n_folds": 3, "epochs": 1}
    one, many = (small(cls, **how, n_jobs=n).fit(NORMAL) for n in (1, 3))
    np.testing.assert_array_equal(one.calibration_scores_, many.calibration_scores_)
    np.testing.assert_array_equal(one.score_samples(NORMAL), many.score_samples(NORMAL))
    assert one.history_ == many.history_


def test_a_pretrained_network_passes_a_batch_in_parts(monkeypatch):
    """Its gradients are those of the whole batch, and its bits do not depend on workers."""
    how = {
        "backbone": "efficientnet_lite0", "weights": "pretrained", "train_from": 8,
        "train_batch_size": 8, "classifier": "knn",
    }  # fmt: skip
    one, many = (small(CutPaste, **how, n_jobs=n).fit(NORMAL) for n in (1, 3))
    np.testing.assert_array_equal(one.calibration_scores_, many.calibration_scores_)
    assert one.history_ == many.history_

    def at_once(embed, views, _parameters, size, generator):
        for _ in views.split(size):
            draw_seed(generator)
        return embed(views)

    monkeypatch.setattr(two_stage, "in_parts", at_once)
    whole = small(CutPaste, **how).fit(NORMAL)
    assert whole.history_[0]["loss"] == pytest.approx(one.history_[0]["loss"], rel=1e-3)
    assert whole.history_[0]["loss"] != one.history_[0]["loss"]
