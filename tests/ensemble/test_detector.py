"""DetectorEnsemble: members as alone, one scale, one threshold."""

import copy
import pickle
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
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
from anomalib_lite.ensemble import inputs
from anomalib_lite.ensemble.scales import Scales
from anomalib_lite.inspection import MapLevels, columns_of
from anomalib_lite.io.persistence import digest_of
from anomalib_lite.notes import digest_of as digest_of_input
from anomalib_lite.records import COLUMNS, WITH_MEMBERS, read_csv
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


# -- who flagged ----------------------------------------------------------------------------------


MIXED = np.concatenate([stripes(4, seed=5), ODD, (stripes(2, seed=6) * 0.7).astype(np.uint8)])


def told(ensemble, images, **options):
    """What ``iter_inspect`` says of members, as ``inspect`` has it."""
    each = [*ensemble.iter_inspect(images, maps=False, **options)]
    names = ensemble.names_
    scores = {name: [image.member_scores[name] for image in each] for name in names}
    return scores, [image.flagged_by for image in each]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_members_above_the_threshold_flag_an_image(fitted, n_jobs):
    later = pickle.loads(pickle.dumps(fitted)).set_params(n_jobs=n_jobs)
    seen, threshold = later.inspect(MIXED), -later.offset_
    expected = []
    for row in later.member_scores(MIXED).tolist():
        above = [pair for pair in zip(row, later.names_, strict=True) if pair[0] > threshold]
        expected.append(tuple(name for _, name in sorted(above, reverse=True)))
    assert seen.flagged_by == expected
    assert {len(names) for names in expected} > {0, 3}
    assert [bool(names) for names in expected] == (seen.labels == -1).tolist()
    np.testing.assert_array_equal(
        np.stack([seen.member_scores[name] for name in later.names_], 1),
        later.member_scores(MIXED),
    )
    assert told(later, MIXED) == (
        {name: scores.tolist() for name, scores in seen.member_scores.items()}, expected,
    )  # fmt: skip
    assert [record.flagged_by for record in seen.records()] == expected


def test_the_fewest_members_that_suffice_for_a_sum():
    rng = np.random.default_rng(0)
    scales = Scales(np.zeros(4), np.ones(4), np.array([[0.0, 1.0]] * 4), "sum")
    sizes = set()
    for _ in range(200):
        scaled, threshold = rng.normal(2, 2, 4), rng.uniform(-1, 8)
        if scaled.sum() <= threshold:
            continue
        enough = [
            {*some}
            for n in range(1, 5)
            for some in combinations(range(4), n)
            if scaled[[*some]].sum() > threshold
        ]
        found = scales.flagging(scaled, threshold).tolist()
        assert {*found} in [some for some in enough if len(some) == len(enough[0])]
        assert found == sorted(found, key=lambda place: -scaled[place])
        sizes.add(len(found))
    assert sizes == {1, 2, 3, 4}


def test_members_share_in_a_sum():
    both = ensemble(combine="sum").fit(NORMAL)
    seen = both.inspect(MIXED)
    assert [bool(names) for names in seen.flagged_by] == (seen.labels == -1).tolist()
    for names, scores in zip(seen.flagged_by, both.member_scores(MIXED), strict=True):
        own = [scores[both.names_.index(name)] for name in names]
        assert not own or sum(own[:-1]) <= -both.offset_ < sum(own)


def test_without_a_threshold_nobody_flags():
    both = ensemble([Brightness(aside=slice(0, 10)), Brightness(aside=slice(10, None))])
    with pytest.warns(UserWarning, match="cannot calibrate the threshold"):
        both.fit(NORMAL)
    seen = both.inspect(ODD)
    assert seen.flagged_by == [()] * 3 and np.isfinite(seen.member_scores["brightness-1"]).all()


def test_nobody_flags_what_cannot_be_read(fitted, tmp_path):
    Image.fromarray(ODD[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    with pytest.warns(UserWarning, match="1 image was skipped"):
        seen = fitted.inspect(tmp_path, on_error="skip")
    assert seen.flagged_by[0] and seen.flagged_by[1] == ()
    assert np.isnan([scores[1] for scores in seen.member_scores.values()]).all()
    assert seen.records()[1].flagged_by == ()


def test_tables_say_who_flagged(fitted, tmp_path):
    seen = fitted.inspect(MIXED)
    frame = seen.to_frame()
    assert tuple(frame.columns) == WITH_MEMBERS
    assert frame["flagged_by"].fillna("").tolist() == [", ".join(each) for each in seen.flagged_by]
    seen.to_csv(tmp_path / "seen.csv")
    with open(tmp_path / "seen.csv", newline="") as file:
        assert [record.flagged_by for record in read_csv(file)] == seen.flagged_by
    alone = fitted.members_[0].inspect(MIXED)
    assert alone.flagged_by is None and alone.member_scores is None
    assert tuple(alone.to_frame().columns) == COLUMNS


def test_a_detector_around_an_ensemble_has_no_members(fitted):
    detector = ConformalDetector(ensemble(), false_alarm_rate=0.2, random_state=0).fit(NORMAL)
    seen, streamed = detector.inspect(ODD), next(detector.iter_inspect(ODD))
    assert seen.flagged_by is None and seen.member_scores is None
    assert streamed.flagged_by == () and streamed.member_scores is None
    assert columns_of(detector) == COLUMNS and columns_of(fitted) == WITH_MEMBERS


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


@pytest.mark.parametrize(("sizes", "n"), [((64, 64), 1), ((64, 48), 3)])
def test_workers_make_each_digest_once(sizes, n, monkeypatch):
    made = []

    def counted(pixels):
        made.append(pixels.shape)
        return digest_of_input(pixels)

    monkeypatch.setattr(inputs, "digest_of", counted)
    both = ensemble([PaDiM(image_size=size, n_features=5) for size in sizes]).fit(NORMAL)
    assert len(made) == n * len(NORMAL)
    for member in both.members_:
        np.testing.assert_array_equal(member._digests_, clone(member).fit(NORMAL)._digests_)


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


def test_a_network_that_a_member_replaces_stays():
    made = []

    class Replacing(PaDiM):
        def _learn(self, batches, n_images, generator):
            scores = super()._learn(batches, n_images, generator)
            self.backbone_ = copy.deepcopy(self.backbone_)
            made.append(self.backbone_)
            return scores

    both = ensemble([Replacing(image_size=64, n_features=5), PaDiM(image_size=64, n_features=5)])
    assert both.fit(NORMAL).members_[0].backbone_ is made[0]


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
    three = DetectorEnsemble.all_kinds(size, random_state=0, false_alarm_rate=0.1)
    sizes = {name: detector.image_size for name, detector in three.detectors}
    assert sizes == {"coarse": half, "fine": size, "whole": size}
    assert three.combine == "sum"
    assert DetectorEnsemble.all_kinds(size, combine="max").combine == "max"
    three.set_params(coarse__coreset=50, fine__coreset=50)
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
        ([("a__b", PaDiM()), ("c", PatchCore())], "without '__' or ','"),
        ([("a, b", PaDiM()), ("c", PatchCore())], "without '__' or ','"),
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
