"""DetectorEnsemble: members as alone, one scale, one threshold."""

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid
from worlds import scratched, stripes

from anomalib_lite import (
    BaseDetector,
    ConformalDetector,
    CutPaste,
    DeepOneClass,
    DetectorEnsemble,
    PaDiM,
    PatchCore,
)
from anomalib_lite.backbones import backbone
from anomalib_lite.backbones.backbone import Backbone
from anomalib_lite.data.images import ImageStream
from anomalib_lite.ensemble.scales import Scales
from anomalib_lite.inspection import MapLevels
from anomalib_lite.io.persistence import digest_of
from anomalib_lite.testing import Subject, fingerprint, parametrize_with_checks

NORMAL, ODD = stripes(20), scratched(3)


def members():
    return [
        PatchCore(image_size=64, coreset=30),
        DeepOneClass(image_size=64, layers=(8,), n_patches=100),
        PaDiM(image_size=48, n_features=10),
    ]


def ensemble(detectors=None, **params):
    params = {"random_state": 0, "false_alarm_rate": 0.1, **params}
    return DetectorEnsemble(members() if detectors is None else detectors, **params)


@pytest.fixture(scope="module")
def fitted():
    return ensemble().fit(NORMAL)


@parametrize_with_checks([Subject(ensemble(false_alarm_rate=0.01))])
def test_contract(subject, check):
    check(subject)


# -- members --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(3))
def test_members_are_what_they_would_be_alone(fitted, place):
    member = fitted.members_[place]
    alone = clone(member).fit(NORMAL)
    assert digest_of(member) == digest_of(alone)


def test_members_that_train_are_what_they_would_be_alone():
    train = CutPaste(
        "convnet", weights="random", hidden=(8,), epochs=1, train_batch_size=3, train_from=None,
        image_size=64, patch_size=16, patch_stride=8, n_patches=60, classifier="knn",
    )  # fmt: skip
    both = ensemble([train, PaDiM(image_size=64, n_features=10)]).fit(NORMAL)
    alone = clone(both.members_[0]).fit(NORMAL)
    np.testing.assert_array_equal(both.members_[0].score_samples(ODD), alone.score_samples(ODD))


def test_detectors_given_are_left_alone():
    given = members()
    before = [fingerprint(each) for each in given]
    ensemble(given).fit(NORMAL)
    assert [fingerprint(each) for each in given] == before


def test_the_ensemble_leads(fitted):
    assert {each.false_alarm_rate for each in fitted.members_} == {0.1}
    seeds = [each.random_state for each in fitted.members_]
    assert len({*seeds}) == 3 and None not in seeds
    own = ensemble([PatchCore(image_size=64, random_state=5), PaDiM(image_size=64)]).fit(NORMAL)
    assert own.members_[0].random_state == 5


# -- combining ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("combine", "literal"), [("max", np.max), ("sum", np.sum)])
def test_scores_are_combined_deviations(combine, literal):
    both = ensemble(combine=combine).fit(NORMAL)
    scaled = []
    for member in both.members_:
        normal = -member.calibration_scores_
        scaled.append((member.anomaly_score(ODD) - normal.mean()) / normal.std(ddof=1))
    np.testing.assert_allclose(both.member_scores(ODD), np.stack(scaled, 1), rtol=1e-12)
    np.testing.assert_allclose(both.anomaly_score(ODD), literal(scaled, axis=0), rtol=1e-12)
    normal = -np.stack([member.calibration_scores_ for member in both.members_])
    normal = (normal - normal.mean(1)[:, None]) / normal.std(1, ddof=1)[:, None]
    np.testing.assert_allclose(-both.calibration_scores_, literal(normal, axis=0), rtol=1e-12)
    assert both.offset_ == np.quantile(both.calibration_scores_, 0.1, method="weibull")
    assert both.predict(ODD).tolist() == [-1, -1, -1]


def test_combine_takes_effect_at_fit(fitted):
    later = pickle.loads(pickle.dumps(fitted))
    with pytest.warns(UserWarning, match="combine: changed after fit"):
        later.set_params(combine="sum")
    np.testing.assert_array_equal(later.score_samples(ODD), fitted.score_samples(ODD))


def test_defects_of_two_kinds():
    """Dark images, and scratched ones."""
    rng = np.random.default_rng(0)
    normal = np.concatenate([stripes(20), stripes(20, seed=9)])
    normal = (normal * rng.uniform(0.97, 1, (40, 1, 1))).astype(np.uint8)
    dark = (stripes(4, seed=5) * 0.8).astype(np.uint8)
    both = ensemble(
        [PatchCore(image_size=64, coreset=100), DeepOneClass(image_size=64, n_patches=100)]
    ).fit(normal)
    assert (both.predict(dark) == -1).all()
    assert (both.predict(scratched(4)) == -1).all()


def test_maps_show_the_highest_of_the_members(fitted):
    heats = fitted.anomaly_map(ODD)
    place = [np.unravel_index(heat.argmax(), heat.shape) for heat in heats]
    np.testing.assert_allclose(place, [(20, 40)] * 3, atol=10)
    assert fitted.map_levels() == MapLevels(0.0, 1.0)
    scaled = []
    for member in fitted.members_:
        levels, heat = member.map_levels(), member.inspect(ODD, maps=(64, 64)).maps
        scaled.append((heat - levels.normal) / (levels.threshold - levels.normal))
    expected = np.max(scaled, 0)
    np.testing.assert_allclose(heats, expected, atol=0.1 * expected.max())


# -- one pass -------------------------------------------------------------------------------------


def test_images_are_read_once(monkeypatch):
    read = Counter()
    original = ImageStream.work

    def work(self, team, prepare, finish, **options):
        def counted(image):
            read[image.index] += 1
            return prepare(image)

        return original(self, team, counted, finish, **options)

    monkeypatch.setattr(ImageStream, "work", work)
    both = ensemble().fit(NORMAL)
    assert {*read.values()} == {1} and len(read) == 20
    read.clear()
    both.inspect(ODD)
    assert {*read.values()} == {1} and len(read) == 3


def test_a_network_that_two_read_runs_once(fitted, monkeypatch):
    runs = []
    original = Backbone.trainable_maps

    def counted(self, batch):
        runs.append(tuple(batch.shape))
        return original(self, batch)

    monkeypatch.setattr(Backbone, "trainable_maps", counted)
    fitted.score_samples(ODD)
    assert Counter(runs) == {(1, 3, 64, 64): 3, (1, 3, 48, 48): 3}


def test_networks_that_see_the_same_are_one_whatever_their_layers(monkeypatch):
    both = ensemble([PatchCore(image_size=64, coreset=30), PaDiM(image_size=64, n_features=10)])
    both.fit(NORMAL).score_samples(ODD[:1])
    runs = []
    original = Backbone.trainable_maps
    monkeypatch.setattr(
        Backbone, "trainable_maps", lambda self, batch: runs.append(0) or original(self, batch)
    )
    both.score_samples(ODD)
    assert len(runs) == 3


def test_a_panel_is_made_once(fitted, monkeypatch):
    made = []
    original = Backbone.union.__func__
    monkeypatch.setattr(
        Backbone, "union", classmethod(lambda cls, each: made.append(0) or original(cls, each))
    )
    later = pickle.loads(pickle.dumps(fitted)).set_params(n_jobs=4)
    later.score_samples(ODD)
    later.set_threshold(false_alarm_rate=0.2)
    pickle.loads(pickle.dumps(later.members_[0]))
    copy.copy(later).score_samples(ODD)
    assert len(made) == 1


def test_without_the_weights_each_network_runs_alone(fitted, monkeypatch):
    later = pickle.loads(pickle.dumps(fitted))

    def not_found(*_, **__):
        raise ValueError("its weights are not in the cache")

    monkeypatch.setattr(backbone, "create_network", not_found)
    np.testing.assert_array_equal(later.score_samples(ODD), fitted.score_samples(ODD))


def test_streams_are_read_once():
    both = ensemble().fit(iter(NORMAL))
    np.testing.assert_array_equal(
        both.score_samples(ODD), ensemble().fit(NORMAL).score_samples(ODD)
    )


# -- members of one's own --------------------------------------------------------------------------


class Brightness(BaseDetector):
    """The distance of the mean pixel from that of normal images; keeps some images aside."""

    def __init__(self, aside=slice(None), in_place=False, image_size=64, random_state=None):
        super().__init__(image_size=image_size, random_state=random_state)
        self.aside, self.in_place = aside, in_place

    def _build(self, generator):
        self.backbone_ = torch.nn.Conv2d(3, 1, 1)  # of no kind that is known here
        return super()._build(generator)

    def _learn(self, batches, n_images, generator):
        means = torch.cat([batch.mean((1, 2, 3)) for _, batch in batches])
        self.mean_, self.backbone_ = means.mean(), torch.nn.Conv2d(3, 2, 1)
        scores = torch.full_like(means, torch.nan)
        scores[self.aside] = (means - self.mean_)[self.aside].abs()
        return scores

    def _infer(self, batch):
        if self.in_place:
            batch -= self.mean_
            batch += self.mean_
        away = (batch - self.mean_).mean(1)
        return away.mean((1, 2)).abs(), away.abs()


def test_detectors_of_ones_own():
    both = ensemble([Brightness(), PatchCore(image_size=64, coreset=30)]).fit(NORMAL)
    assert both.members_[0].backbone_.out_channels == 2  # that of its _learn
    assert both.predict(ODD // 2).tolist() == [-1, -1, -1]


def test_changes_in_place_are_noticed():
    careless = ensemble([Brightness(in_place=True), Brightness()])
    with pytest.raises(ValueError, match="Brightness changes a network's input or feature maps"):
        careless.fit(NORMAL).score_samples(ODD)


def test_without_a_common_image_kept_aside_there_is_no_threshold():
    both = ensemble([Brightness(aside=slice(0, 10)), Brightness(aside=slice(10, None))])
    with pytest.warns(UserWarning, match="20 images cannot calibrate the threshold"):
        both.fit(NORMAL)
    assert np.isnan(both.offset_) and np.isfinite(both.score_samples(ODD)).all()
    both.set_threshold(images=stripes(20, seed=3))
    assert np.isfinite(both.offset_)


def test_nothing_is_seen_outside_of_a_crop():
    crops = [PaDiM(image_size=64, center_crop=32, n_features=5), Brightness(image_size=64)]
    with pytest.raises(ValueError, match="the same part"):
        ensemble(crops).fit(NORMAL)
    crops[1] = PaDiM(image_size=128, center_crop=64, n_features=5)
    heat = ensemble(crops).fit(NORMAL).anomaly_map(ODD[:1])[0]
    assert (heat[:12] == 0).all() and (heat[:, 52:] == 0).all() and (heat[20:44, 20:44] != 0).all()


@pytest.mark.parametrize(
    "change",
    [
        {"deviations": np.array([1.0, -1.0])},
        {"means": np.array([1.0])},
        {"means": np.array([1.0, np.nan])},
        {"map_levels": np.ones((2, 2))},
        {"combination": "median"},
    ],
)
def test_scales_of_a_forged_file_are_refused(change):
    fields = {
        "means": np.zeros(2), "deviations": np.ones(2), "map_levels": np.array([[0.0, 1.0]] * 2),
        "combination": "max",
    }  # fmt: skip
    Scales(**fields)
    with pytest.raises(ValueError, match=r"(scales|combine): expected"):
        Scales(**fields | change)


# -- thresholds -----------------------------------------------------------------------------------


def test_members_follow_the_rate(fitted):
    later = pickle.loads(pickle.dumps(fitted)).set_params(false_alarm_rate=0.3)
    for member, before in zip(later.members_, fitted.members_, strict=True):
        expected = np.quantile(member.calibration_scores_, 0.3, method="weibull")
        assert member.offset_ == expected > before.offset_
    assert later.offset_ > fitted.offset_
    assert later.map_levels() < fitted.map_levels() == MapLevels(0.0, 1.0)
    np.testing.assert_array_equal(later.anomaly_map(ODD), fitted.anomaly_map(ODD))
    later.set_threshold(false_alarm_rate=0.2)
    assert {each.false_alarm_rate for each in later.members_} == {0.2}


def test_fresh_images_calibrate_the_ensemble(fitted):
    later = pickle.loads(pickle.dumps(fitted))
    fresh = stripes(30, seed=11)
    later.set_threshold(images=fresh)
    levels = later.map_levels()
    np.testing.assert_array_equal(later.calibration_scores_, fitted.score_samples(fresh))
    assert levels != MapLevels(0.0, 1.0)
    heat = later.anomaly_map(ODD)
    later.set_threshold(false_alarm_rate=0.4)
    np.testing.assert_array_equal(later.anomaly_map(ODD), heat)
    assert later.map_levels().normal == levels.normal and later.map_levels() < levels


def test_false_alarms_are_at_the_rate():
    """However many members there are."""
    normal = stripes(400, seed=3)
    cheap = [PaDiM(image_size=32, n_features=5, random_state=seed) for seed in range(4)]
    both = ensemble(cheap, false_alarm_rate=0.05).fit(normal[:200])
    assert 0.01 <= np.mean(both.predict(normal[200:]) == -1) <= 0.11
    assert np.mean(both.member_scores(normal[200:]) > 1.5) > 0.05


def test_inside_a_conformal_detector():
    detector = ConformalDetector(ensemble(), false_alarm_rate=0.2, random_state=0).fit(NORMAL)
    assert (detector.p_values(ODD) <= 0.1).all()


# -- parameters -----------------------------------------------------------------------------------


OTHER = PaDiM(image_size=64)


def test_names_and_parameters():
    both = ensemble([("fine", PatchCore()), ("coarse", PaDiM(image_size=32))])
    assert both.get_params()["coarse__image_size"] == 32
    both.set_params(fine__coreset=0.2, coarse=OTHER)
    assert both.detectors[0][1].coreset == 0.2 and both.detectors[1] == ("coarse", OTHER)
    assert clone(both).get_params()["fine__coreset"] == 0.2
    for params in ParameterGrid({"fine__image_size": [64, 96], "combine": ["max", "sum"]}):
        assert clone(both).set_params(**params).get_params()["combine"] == params["combine"]


def test_parameters_are_set_from_outside_in():
    old, new = PatchCore(), PatchCore()
    both = ensemble([("fine", old), ("coarse", PaDiM())])
    both.set_params(fine=new, fine__coreset=7)
    assert (old.coreset, new.coreset) == (0.1, 7)
    both.set_params(detectors=[("a", PaDiM()), ("b", PaDiM())], b=old, b__coreset=9)
    assert both.detectors[1] == ("b", old) and old.coreset == 9
    assert not hasattr(both, "b")
    with pytest.raises(ValueError, match="Invalid parameter"):
        both.set_params(detectors=[PaDiM(), new], nonsense=1)
    assert both.detectors[1] == ("b", old)
    assert DetectorEnsemble(3).set_params(combine="sum").combine == "sum"
    assert "patchcore" not in DetectorEnsemble([PaDiM, PatchCore]).get_params()


def test_members_without_names_are_called_by_their_classes():
    both = ensemble([PaDiM(image_size=32), PatchCore(image_size=32), PaDiM(image_size=32)])
    assert both.fit(NORMAL).names_ == ["padim-1", "patchcore", "padim-2"]
    assert "padim-2__n_features" in both.get_params()


@pytest.mark.parametrize(("size", "half"), [(64, (32, 32)), ((64, 33), (32, 17))])
def test_the_recipe_of_three_views(size, half):
    three = DetectorEnsemble.all_kinds(size, coreset=50, random_state=0, false_alarm_rate=0.1)
    sizes = {name: detector.image_size for name, detector in three.detectors}
    assert sizes == {"coarse": half, "fine": size, "whole": size}
    assert three.combine == "sum"
    assert DetectorEnsemble.all_kinds(size, combine="max").combine == "max"
    assert three.fit(NORMAL).predict(ODD).tolist() == [-1, -1, -1]


def test_the_recipe_for_defects_of_two_kinds():
    both = DetectorEnsemble.local_and_global(image_size=64, random_state=0, false_alarm_rate=0.1)
    both.set_params(local__coreset=50)
    assert both.fit(NORMAL).predict(ODD).tolist() == [-1, -1, -1]
    assert both.names_ == ["local", "global"]


@pytest.mark.parametrize(
    ("detectors", "message"),
    [
        ([PaDiM()], "expected two or more, got 1"),
        ([], "expected two or more, got 0"),
        ("padim", "expected a list of detectors, got 'padim'"),
        (PaDiM(), "expected a list of detectors"),
        ([PaDiM(), 3], "got int as int"),
        ([PaDiM(), ConformalDetector(PaDiM())], "got ConformalDetector as conformaldetector"),
        ([PaDiM(), DetectorEnsemble([PaDiM(), PaDiM()])], "got DetectorEnsemble"),
        ([("a", PaDiM()), ("a", PatchCore())], "names that differ"),
        ([("a__b", PaDiM()), ("c", PatchCore())], "without '__'"),
        ([("", PaDiM()), ("c", PatchCore())], "expected names"),
        (iter([PaDiM(), PaDiM()]), "expected a list of detectors"),
        ([PaDiM, PatchCore], "got type as type-1"),
        ([("combine", PaDiM()), ("c", PatchCore())], "no parameters of the ensemble"),
        ([("a", PaDiM(), 1), ("c", PatchCore())], r"pairs \(name, detector\)"),
        ([PaDiM(image_size=64), PaDiM(image_size=64, center_crop=32)], "the same part"),
    ],
)
def test_what_makes_no_sense_is_refused(detectors, message):
    with pytest.raises(ValueError, match=message):
        ensemble(detectors).fit(NORMAL)


def test_an_unknown_combination_is_refused():
    with pytest.raises(ValueError, match="combine: expected one of 'max', 'sum', got 'mean'"):
        ensemble(combine="mean").fit(NORMAL)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match=r"images enough for patchcore-1 .* got 1\. Fit on more"):
        ensemble([PatchCore(image_size=64), PatchCore(image_size=32)]).fit(NORMAL[:1])


def test_bad_members_are_named_by_their_parameter():
    with pytest.raises(ValueError, match="coreset"):
        ensemble([PatchCore(coreset=-1), PaDiM()]).fit(NORMAL)


# -- export ---------------------------------------------------------------------------------------


def test_members_of_one_size_are_exported(tmp_path):
    both = ensemble(members()[:2]).fit(NORMAL)
    parity = both.export(tmp_path / "both.onnx", images=np.concatenate([NORMAL[:4], ODD]))
    assert parity.n_images == 7 and parity.n_labels == 0


def test_members_of_several_sizes_are_not(fitted, tmp_path):
    with pytest.raises(ValueError, match=r"the same of an image, got image_size=\(64, 64\)"):
        fitted.export(tmp_path / "all.onnx")
