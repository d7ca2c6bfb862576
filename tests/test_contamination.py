"""Detectors that learn from folders in which some images are defective."""

import copy
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.covariance import EllipticEnvelope
from worlds import scratched, stripes

from anomalib_lite import (
    ConformalDetector,
    DeepOneClass,
    DetectorEnsemble,
    PaDiM,
    PatchCore,
    SubspaceAD,
    load,
)
from anomalib_lite.density import belonging
from anomalib_lite.report.figures import suspects_of
from anomalib_lite.testing import Subject, parametrize_with_checks

GOOD = stripes(24)
DEFECTS = scratched(2, seed=5)
DIRTY = np.concatenate([GOOD[:9], DEFECTS[:1], GOOD[9:], DEFECTS[1:]])
PLACES = [9, 25]
FRESH, ODD = stripes(10, seed=3), scratched(3, seed=9)
MAKE = {
    "PatchCore": lambda **given: PatchCore(layers=(8,), coreset=0.3, **given),
    "PatchCore, free": lambda **given: PatchCore(
        layers=(8,), coreset=0.3, positions="free", **given
    ),
    "PaDiM": lambda **given: PaDiM(n_features=5, **given),
    "SubspaceAD": lambda **given: SubspaceAD(layers=(8,), **given),
}
every = pytest.mark.parametrize("name", MAKE)


def small(name, contamination=0.1, **given):
    common = {"image_size": 64, "random_state": 0, "false_alarm_rate": 0.1}
    return MAKE[name](contamination=contamination, **{**common, **given})


@pytest.fixture(scope="module")
def fitted():
    """By name; not to be changed."""
    return {name: small(name).fit(DIRTY) for name in MAKE}


CHECKED = [
    PatchCore(image_size=64, coreset=30, contamination=0.2, random_state=0),
    PaDiM(image_size=64, n_features=20, contamination=0.2, random_state=0),
    SubspaceAD(image_size=64, contamination=0.2, random_state=0),
]


@parametrize_with_checks([*map(Subject, CHECKED)])
def test_contract(subject, check):
    check(subject)


# -- what it is for -------------------------------------------------------------------------------


@every
def test_planted_defects_come_first_and_do_not_spoil_the_threshold(name, fitted):
    detector = fitted[name]
    assert sorted(detector.suspects_.indices[:2].tolist()) == PLACES
    assert np.isnan(detector.calibration_scores_[PLACES]).all()
    assert np.isnan(detector.calibration_scores_).sum() <= 0.1 * len(DIRTY) + 1
    assert len(detector.suspects_) == len(DIRTY)
    assert (detector.predict(ODD) == -1).all()
    assert (detector.predict(FRESH) == -1).mean() <= 0.3
    with_suspects = np.quantile(-detector.suspects_.scores, 0.1, method="weibull")
    assert detector.offset_ > with_suspects


@every
def test_a_defect_that_is_learned_again_stands_out_again(name, fitted):
    """A copy of it had vouched for it."""
    plain = small(name, 0.0).fit(DIRTY)
    margin = fitted[name].anomaly_score(DEFECTS) / np.median(fitted[name].anomaly_score(FRESH))
    assert (
        margin > 1.1 * plain.anomaly_score(DEFECTS) / np.median(plain.anomaly_score(FRESH))
    ).all()


@every
def test_labels_of_fit_predict_find_them(name):
    labels = small(name).fit_predict(DIRTY)
    assert (labels[PLACES] == -1).all()


@every
def test_suspected_images_do_not_set_the_levels_of_maps(name):
    """The draw of images whose maps are looked at has one of the defective ones."""
    dirty = np.concatenate([GOOD, scratched(2, seed=11)])
    detector = small(name).fit(dirty)
    clean, levels = small(name, 0.0).fit(GOOD).map_levels(), detector.map_levels()
    assert levels.threshold == pytest.approx(clean.threshold, rel=0.1)
    assert levels.normal == pytest.approx(clean.normal, rel=0.15)
    assert all(detector.inspect(ODD).regions())
    detector.partial_fit(stripes(3, seed=6))
    assert detector.map_levels().threshold == pytest.approx(clean.threshold, rel=0.5)
    detector.set_threshold(images=ODD)  # whose user says that they are good
    assert detector.map_levels().threshold > 1.5 * clean.threshold


@pytest.mark.parametrize(
    "changed",
    [
        {"_example_digests_": np.zeros(99, dtype=np.int64)},
        {"_example_digests_": np.zeros(2)},
        {"_example_digests_": [1, 2]},
        {"_examples_": None},
        {"calibration_scores_": np.zeros(3)},
    ],
    ids=str,
)
def test_forged_examples_are_refused(changed, fitted, tmp_path):
    detector = copy.copy(fitted["PaDiM"])
    vars(detector).update(changed)
    detector.save(tmp_path / "forged.alite")
    with pytest.raises(ValueError, match=r"holds .* as (PaDiM\.)?_example_digests_"):
        load(tmp_path / "forged.alite")


def test_a_parameter_of_that_name_may_mean_another_thing():
    class Whole(DeepOneClass):
        def __init__(self, contamination="auto", image_size=64, random_state=0):
            super().__init__(image_size=image_size, random_state=random_state)
            self.contamination = contamination

    found, expected = Whole().fit(GOOD), DeepOneClass(image_size=64, random_state=0).fit(GOOD)
    np.testing.assert_array_equal(found.calibration_scores_, expected.calibration_scores_)


# -- how ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["aligned", "free"])
def test_rows_that_were_left_out_are_not_in_the_bank(positions):
    detector = PatchCore(
        image_size=64, layers=(8,), coreset=1.0, contamination=0.1, positions=positions,
        random_state=0,
    ).fit(DIRTY)  # fmt: skip
    plain = PatchCore(image_size=64, layers=(8,), coreset=1.0, random_state=0).fit(DIRTY)
    batch = torch.cat([detector.input_.batch([image]) for image in _checked(detector, DIRTY)])
    rows = torch.cat([detector._embed(one)[0] for one in batch.split(1)])
    kept = belonging(rows, 0.1, positions)
    for has_rows, of in ((detector, rows[kept]), (plain, rows.flatten(0, 1))):
        found = has_rows.memory_bank_.rows.unique(dim=0)
        torch.testing.assert_close(found, of.unique(dim=0), rtol=0, atol=0)
    assert 0 < (~kept).sum() <= 0.1 * kept.numel()
    left_out = {tuple(row) for row in rows[~kept].tolist()}
    assert not left_out & {tuple(row) for row in detector._part_banks_.rows.tolist()}


def _checked(detector, images):
    return detector._open(images)


def test_padim_learns_from_the_others_alone(fitted):
    detector = fitted["PaDiM"]
    stay = [i for i in range(len(DIRTY)) if i not in PLACES]
    others = small("PaDiM", 0.0).fit(DIRTY[stay])
    assert detector.statistics_.count == len(stay)
    torch.testing.assert_close(detector.statistics_.mean, others.statistics_.mean)
    np.testing.assert_allclose(detector.score_samples(ODD), others.score_samples(ODD), rtol=1e-4)
    suspects = dict(zip(detector.suspects_.indices, detector.suspects_.scores, strict=True))
    for place in PLACES:  # out of sample, as they were not learned
        assert suspects[place] == pytest.approx(others.anomaly_score(DIRTY[[place]])[0], rel=1e-4)
    left = detector.calibration_scores_[stay]
    known = ~np.isnan(left)
    np.testing.assert_allclose(left[known], others.calibration_scores_[known], rtol=1e-4)


def test_subspace_ad_learns_from_the_others_alone(fitted):
    detector = fitted["SubspaceAD"]
    stay = [i for i in range(len(DIRTY)) if i not in PLACES]
    others = small("SubspaceAD", 0.0).fit(DIRTY[stay])
    assert detector.statistics_.count == others.statistics_.count
    np.testing.assert_allclose(detector.score_samples(ODD), others.score_samples(ODD), rtol=1e-3)
    suspects = dict(zip(detector.suspects_.indices, detector.suspects_.scores, strict=True))
    assert suspects[9] > 2 * detector.suspects_.scores[2]


@every
def test_with_nothing_to_fear_nothing_changes(name):
    trusting, usual = (
        small(name, 0.0).fit(GOOD),
        MAKE[name](image_size=64, random_state=0, false_alarm_rate=0.1).fit(GOOD),
    )
    np.testing.assert_array_equal(trusting.calibration_scores_, usual.calibration_scores_)
    np.testing.assert_array_equal(trusting.score_samples(ODD), usual.score_samples(ODD))
    assert vars(trusting).keys() == vars(usual).keys()
    assert "_ranking_" not in vars(trusting)


# -- more images, parts ---------------------------------------------------------------------------


@every
def test_each_call_of_partial_fit_leaves_out_its_own(name, fitted):
    more = np.concatenate([stripes(19, seed=8), scratched(1, seed=4)])
    detector = small(name).fit(DIRTY).partial_fit(more)
    assert sorted(detector.suspects_.indices[:3].tolist()) == [*PLACES, 45]
    assert (detector.predict(ODD) == -1).all()


@pytest.mark.parametrize("name", ["PatchCore", "SubspaceAD"])
def test_parts_leave_out_their_own(name):
    detector = small(name)
    states = [detector.partial_state(DIRTY[:13]), detector.partial_state(DIRTY[13:], first=13)]
    detector.finish(detector.merge_states(states))
    detector.finish_calibration([detector.partial_calibration(DIRTY)])
    assert sorted(detector.suspects_.indices[:2].tolist()) == PLACES
    assert (detector.predict(ODD) == -1).all()


def test_padim_learns_one_more_image(fitted):
    """Of a single image a share of 0.1 is none."""
    detector = small("PaDiM").fit(DIRTY).partial_fit(stripes(1, seed=8))
    assert detector.statistics_.count == fitted["PaDiM"].statistics_.count + 1
    assert sorted(detector.suspects_.indices[:2].tolist()) == PLACES


@pytest.mark.parametrize("name", ["PaDiM", "SubspaceAD"])
@pytest.mark.filterwarnings("ignore:.*(copies|cannot calibrate):UserWarning")
def test_copies_that_are_more_than_the_share_are_learned(name):
    """Else nothing might be left."""
    copies = np.concatenate([DEFECTS[:1]] * 10)
    detector = small(name, 0.2).fit(np.concatenate([GOOD, copies]))
    per_image = 1 if name == "PaDiM" else 64
    assert detector.statistics_.count == 34 * per_image
    detector = small(name, 0.3).fit(np.concatenate([GOOD, copies]))
    assert 24 * per_image <= detector.statistics_.count < 34 * per_image
    alone = small(name, 0.2)
    if name == "SubspaceAD":
        alone.fit(copies)
        assert alone.statistics_.count == 10 * per_image
    else:
        alone.fit(GOOD).partial_fit(copies)
        assert alone.statistics_.count == 24 - 4 + 10


@pytest.mark.filterwarnings("ignore:.*(copy|copies):UserWarning")
def test_padim_leaves_out_of_sample_what_it_has_learned():
    """A later call leaves out a copy of what an earlier one learned."""
    odd = DEFECTS[:1]
    first, second = np.concatenate([GOOD[:8], odd]), np.concatenate([GOOD[8:], odd])
    detector = small("PaDiM").fit(first).partial_fit(second)  # a tenth of 9 images is none
    assert detector.statistics_.count == len(first) + len(second) - 1
    others = small("PaDiM", 0.0).fit(GOOD)
    expected = others.anomaly_score(odd)[0]
    scores = dict(zip(detector.suspects_.indices, detector.suspects_.scores, strict=True))
    assert scores[8] == pytest.approx(expected, rel=0.01)
    assert scores[25] == pytest.approx(expected, rel=0.01)


def test_padim_does_not_learn_in_parts():
    with pytest.raises(ValueError, match=r"^contamination: expected 0.0 where a PaDiM learns"):
        small("PaDiM").partial_state(DIRTY)


def test_padim_needs_room_for_all_rows():
    with pytest.raises(ValueError, match=r"^memory_budget: expected room for the rows of all"):
        small("PaDiM", memory_budget=20_000).fit(stripes(40))


def test_subspace_ad_takes_as_many_as_there_is_room_for(fitted):
    one = 64 * fitted["SubspaceAD"].subspace_.mean.nbytes
    detector = small("SubspaceAD", 0.2, memory_budget=26 * one).fit(DIRTY)
    assert detector.statistics_.count == (26 - 2 * int(0.2 * 13)) * 64
    assert (detector.predict(ODD) == -1).all()


# -- suspects -------------------------------------------------------------------------------------


def test_every_detector_ranks_its_images():
    detector = small("PaDiM", 0.0).fit(DIRTY)
    assert sorted(detector.suspects_.indices[:2].tolist()) == PLACES
    scores, order = detector.calibration_scores_, detector.suspects_.indices
    np.testing.assert_array_equal(-scores[order], detector.suspects_.scores)
    before = detector.suspects_
    detector.set_threshold(images=FRESH)  # whose scores are now those of calibration
    np.testing.assert_array_equal(detector.suspects_.indices, before.indices)
    detector.partial_fit(stripes(3, seed=6))
    assert len(detector.suspects_) == len(DIRTY) + 3


def test_an_ensemble_ranks_them_too():
    members = [small("PaDiM"), small("SubspaceAD")]
    ensemble = DetectorEnsemble(members, false_alarm_rate=0.1, random_state=0).fit(DIRTY)
    assert all(sorted(one.suspects_.indices[:2]) == PLACES for one in ensemble.members_)
    assert (ensemble.predict(ODD) == -1).all()


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_an_ensemble_ranks_images_that_one_of_its_members_suspects(combine, tmp_path):
    for i, image in enumerate(DIRTY):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
    members = [small("PaDiM"), DeepOneClass(image_size=64)]
    ensemble = DetectorEnsemble(members, combine=combine, false_alarm_rate=0.1, random_state=0)
    ensemble.fit(tmp_path)
    assert np.isnan(ensemble.calibration_scores_[PLACES]).all()
    suspects, (padim, whole) = ensemble.suspects_, ensemble.members_
    assert sorted(suspects.indices[:2].tolist()) == PLACES and len(suspects) == len(DIRTY)
    assert {*suspects.names[:2]} == {str(tmp_path / f"{i:02d}.png") for i in PLACES}
    assert {*padim.suspects_.names} == {*suspects.names}
    for i, score in zip(suspects.indices, suspects.scores, strict=True):
        own = [one.suspects_.scores[one.suspects_.indices == i][0] for one in (padim, whole)]
        scaled = (np.array(own) - ensemble.scales_.means) / ensemble.scales_.deviations
        assert score == pytest.approx({"max": max, "sum": sum}[combine](scaled))
    assert suspects_of(ensemble)[0] == (suspects.names[0], suspects.scores[0])
    ensemble.save(tmp_path / "part.alite")
    assert load(tmp_path / "part.alite").suspects_.names == suspects.names


def test_trusted_ensembles_and_halves_of_a_folder_are_not_listed(fitted):
    members = [small("PaDiM", 0.0), DeepOneClass(image_size=64)]
    trusting = DetectorEnsemble(members, false_alarm_rate=0.1, random_state=0).fit(GOOD)
    assert suspects_of(trusting) == [] and "_ranking_" not in vars(trusting)
    assert len(suspects_of(fitted["PaDiM"])) == 20
    with pytest.warns(UserWarning, match="the guarantee"):
        halves = ConformalDetector(small("PaDiM"), false_alarm_rate=0.2, random_state=0).fit(DIRTY)
    assert suspects_of(halves) == []


@pytest.mark.parametrize("name", ["PatchCore", "PaDiM", "SubspaceAD"])
def test_names_and_all_else_are_saved(name, tmp_path):
    folder = tmp_path / "good"
    folder.mkdir()
    for i, image in enumerate(DIRTY):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    detector = small(name).fit(folder)
    expected = {str(folder / "09.png"), str(folder / "25.png")}
    assert set(detector.suspects_.names[:2]) == expected
    detector.save(tmp_path / "part.alite")
    loaded = load(tmp_path / "part.alite")
    assert loaded.suspects_.names == detector.suspects_.names
    np.testing.assert_array_equal(loaded.suspects_.scores, detector.suspects_.scores)
    np.testing.assert_array_equal(loaded.calibration_scores_, detector.calibration_scores_)
    assert loaded.map_levels() == detector.map_levels()
    more = stripes(10, seed=8)
    found, expected = loaded.partial_fit(more), detector.partial_fit(more)
    np.testing.assert_array_equal(found.score_samples(ODD), expected.score_samples(ODD))
    assert found.suspects_.names == expected.suspects_.names
    assert str(folder / "09.png") in found.suspects_.names


# -- parameters, guarantees -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [-0.1, 0.5, 1, True, "auto", None, float("nan")], ids=str)
@pytest.mark.parametrize("name", ["PatchCore", "PaDiM", "SubspaceAD"])
def test_nonsense_is_refused(name, value):
    with pytest.raises(ValueError, match=r"^contamination: expected a share of images in \[0, 0.5"):
        small(name, value).fit(GOOD)


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match=r"^positions: expected one of 'aligned', 'free'"):
        small("PatchCore", positions="anywhere").fit(GOOD)
    with pytest.raises(
        ValueError, match=r"^reference_views: expected None with contamination=0.1, got 3"
    ):
        small("SubspaceAD", reference_views=3).fit(GOOD)


def test_a_guarantee_that_does_not_hold_is_warned_of():
    with pytest.warns(UserWarning, match="contamination=0.1: the guarantee of false alarms does"):
        ConformalDetector(small("PaDiM"), false_alarm_rate=0.2, random_state=0).fit(DIRTY)
    member = DetectorEnsemble([small("PaDiM"), small("SubspaceAD", 0.0)])
    with pytest.warns(UserWarning, match="__contamination=0.1: the guarantee"):
        ConformalDetector(member, false_alarm_rate=0.2, random_state=0).fit(DIRTY)


def test_what_scikit_learn_calls_contamination_warns_nobody():
    table = np.random.default_rng(0).normal(size=(40, 2))
    detector = EllipticEnvelope(contamination=0.1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ConformalDetector(detector, random_state=0, false_alarm_rate=0.1).fit(table)


def test_trusted_images_are_not_warned_of(recwarn, fitted):
    from sklearn.frozen import FrozenEstimator

    ConformalDetector(small("PaDiM", 0.0), false_alarm_rate=0.2, random_state=0).fit(GOOD)
    ConformalDetector(FrozenEstimator(fitted["PaDiM"]), false_alarm_rate=0.2).fit(FRESH)
    assert not [each for each in recwarn if "guarantee" in str(each.message)]
