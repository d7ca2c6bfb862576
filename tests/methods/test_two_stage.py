"""The three first stages, with any second one."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM
from worlds import parts, scratched, stripes

import anomalib_lite
from anomalib_lite import (
    ContrastiveDA,
    CutPaste,
    DeepOneClass,
    GaussianDensity,
    RotationPrediction,
)
from anomalib_lite.metrics import image_auroc

STAGES = [RotationPrediction, ContrastiveDA, CutPaste]
CLASSIFIERS = [
    OneClassSVM(gamma="scale"), KernelDensity(bandwidth=0.1), GaussianDensity(),
    IsolationForest(random_state=0),
]  # fmt: skip
NORMAL, ODD = stripes(20), scratched(4)
TEST = np.concatenate([ODD, stripes(6, seed=9)])


def small(cls, **params):
    return cls(**{
        "backbone": "convnet", "weights": "random", "hidden": (16,), "epochs": 1,
        "train_batch_size": 10, "train_from": None, "image_size": 64, "window_size": 16,
        "window_stride": 8, "n_patches": 60, "random_state": 0, **params,
    })  # fmt: skip


# -- what only a learned representation can tell ---------------------------------------------------

PARTS = parts(100)
ARRANGED = np.concatenate([parts(50, seed=1), parts(50, order="other", seed=2)])
IS_OTHER = np.repeat([False, True], 50)


@pytest.mark.parametrize(
    ("cls", "params"),
    [
        (RotationPrediction, {"epochs": 15, "learning_rate": 0.02, "classifier": "gaussian"}),
        (ContrastiveDA, {"epochs": 12, "learning_rate": 0.03, "classifier": "gaussian"}),
        (CutPaste, {"epochs": 25, "learning_rate": 0.03, "variant": "patch"}),
    ],
)
def test_parts_in_another_arrangement_are_found(cls, params):
    detector = small(cls, image_size=32, train_batch_size=20, hidden=(64,), **params).fit(PARTS)
    assert image_auroc(IS_OTHER, detector.anomaly_score(ARRANGED)) > 0.95


def test_untrained_local_features_cannot_tell_arrangements():
    detector = DeepOneClass(
        "convnet", layers=(1,), weights="random", image_size=32, random_state=0
    ).fit(PARTS)
    assert 0.3 < image_auroc(IS_OTHER, detector.anomaly_score(ARRANGED)) < 0.7


# -- plug and play --------------------------------------------------------------------------------


@pytest.mark.parametrize("classifier", CLASSIFIERS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("cls", STAGES)
def test_any_first_stage_goes_with_any_second(cls, classifier):
    detector = small(cls, classifier=classifier).fit(NORMAL)
    scores = detector.score_samples(TEST)
    assert scores[:4].max() < scores[4:].min()
    pipeline = make_pipeline(small(cls), classifier).fit(NORMAL)
    np.testing.assert_allclose(pipeline.score_samples(TEST), scores, rtol=1e-9)


@pytest.mark.parametrize("cls", STAGES)
def test_fit_transform_is_what_the_classifier_has_seen(cls):
    stage = small(cls, classifier="knn")
    embeddings = stage.fit_transform(NORMAL)
    assert embeddings.shape == (20, 128)
    np.testing.assert_array_equal(stage.classifier_._fit_X, embeddings)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    assert list(stage.get_feature_names_out()[:1]) == [f"{cls.__name__.lower()}0"]


@pytest.mark.parametrize("classifier", [*CLASSIFIERS, "gaussian"], ids=str)
def test_every_second_stage_can_be_saved(classifier, tmp_path):
    detector = small(CutPaste, classifier=classifier).fit(NORMAL)
    detector.save(tmp_path / "saved.alite")
    again = anomalib_lite.load(tmp_path / "saved.alite")
    np.testing.assert_array_equal(again.transform(TEST), detector.transform(TEST))
    np.testing.assert_array_equal(again.anomaly_map(TEST), detector.anomaly_map(TEST))


# -- training -------------------------------------------------------------------------------------


def test_training_changes_the_network_and_leaves_its_first_part():
    untrained = small(CutPaste, backbone="efficientnet_lite0", weights="pretrained",
                      learning_rate=0.0, window_size=32).fit(NORMAL)  # fmt: skip
    trained = small(CutPaste, backbone="efficientnet_lite0", weights="pretrained",
                    learning_rate=0.01, window_size=32, train_from=8).fit(NORMAL)  # fmt: skip
    before, after = (one.backbone_.module.state_dict() for one in (untrained, trained))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if name.startswith(("conv_stem", "blocks.0", "blocks.1"))]
    assert not [name for name in changed if "running" in name]


def test_watched_images_choose_the_epoch():
    detector = small(CutPaste, epochs=6, validation_fraction=0.2, patience=1, learning_rate=0.05)
    history = detector.fit(NORMAL).history_
    assert {"epoch", "loss", "held_out", "learning_rate"} == set(history[0])
    assert len(history) == 6 or history[-1]["held_out"] >= history[-2]["held_out"]


def test_variants_differ_in_what_they_tell_apart():
    losses = {
        variant: small(CutPaste, variant=variant).fit(NORMAL).history_[0]["loss"]
        for variant in ("patch", "scar", "3way")
    }
    assert len(set(losses.values())) == 3
    assert [small(CutPaste, variant=v)._n_outputs for v in losses] == [2, 2, 3]


def test_flips_instead_of_turns_take_any_shape():
    wide = np.concatenate([NORMAL, NORMAL], 2)
    params = {"image_size": (64, 128), "classifier": "knn"}
    small(ContrastiveDA, augmentation="flip", **params).fit(wide)
    with pytest.raises(ValueError, match="must be square"):
        small(ContrastiveDA, **params).fit(wide)
    small(RotationPrediction, patch_level=True, **params).fit(wide)


# -- windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", STAGES)
def test_patch_level_scores_are_the_largest_of_the_windows(cls):
    detector = small(cls, patch_level=True, classifier="knn").fit(NORMAL)
    assert detector.classifier_ is None
    (image,) = list(detector._open(TEST[:1]))
    scores, grids = detector._infer(detector.input_.batch([image]))
    assert grids.shape == (1, 7, 7)
    assert detector.anomaly_score(TEST[:1]) == scores == grids.max()
    assert detector.predict(ODD).tolist() == [-1] * 4
    assert np.isfinite(detector.calibration_scores_).all()


def test_a_windows_value_is_that_of_the_window_alone():
    detector = small(RotationPrediction, classifier="knn").fit(NORMAL)
    (image,) = list(detector._open(TEST[:1]))
    batch = detector.input_.batch([image])
    value = detector._grid(batch, detector.patch_classifier_)[0, 2, 5]
    embedded = detector._embed(batch[:, :, 16:32, 40:56])
    distance, _ = detector.patch_classifier_.kneighbors(embedded.numpy())
    np.testing.assert_allclose(value, distance.mean(), rtol=1e-4)


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", STAGES)
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classifier": "svm"}, "classifier: expected one of"),
        ({"epochs": 0}, "epochs: expected a positive int"),
        ({"steps": -1}, "steps: expected a positive int"),
        ({"optimizer": "lion"}, "optimizer: expected one of 'sgd'"),
        ({"schedule": "linear"}, "schedule: expected one of"),
        ({"learning_rate": -1}, "learning_rate: expected a number"),
        ({"on_interrupt": "stop"}, "on_interrupt: expected one of"),
        ({"patience": 3}, "patience: needs images to watch"),
        ({"window_size": 65}, "window_size: 65 px do not fit"),
        ({"train_from": 7}, "7 is not there"),
        ({"hidden": (0,)}, "hidden: expected a positive int"),
        ({"weights": "pretrained"}, "nobody has trained 'convnet'"),
    ],
)
def test_bad_parameters_are_refused(cls, params, message):
    with pytest.raises(ValueError, match=message):
        small(cls, **params).fit(NORMAL)


@pytest.mark.parametrize(
    ("cls", "params", "message"),
    [
        (CutPaste, {"variant": "both"}, "variant: expected one of"),
        (ContrastiveDA, {"augmentation": "blur"}, "augmentation: expected one of"),
        (ContrastiveDA, {"temperature": 0}, "temperature: expected a number"),
    ],
)
def test_bad_parameters_of_one_stage_are_refused(cls, params, message):
    with pytest.raises(ValueError, match=message):
        small(cls, **params).fit(NORMAL)


def test_two_images_are_too_few():
    with pytest.raises(ValueError, match="at least 3 images, got 2 samples"):
        small(CutPaste).fit(NORMAL[:2])
