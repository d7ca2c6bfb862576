"""Detectors that learn in parts: states of some images each, merged."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from detectors import small
from oracles import slow_nearest
from PIL import Image
from worlds import scratched, stripes

from anomalib_lite import SPADE, DeepFeatures, DeepOneClass, PaDiM, PatchCore, SubspaceAD
from anomalib_lite import suspects as suspects_module
from anomalib_lite.merging import MergeMixin, PartialState, scores_by_digest
from anomalib_lite.suspects import Suspects
from anomalib_lite.testing import fingerprint

METHODS = [PatchCore, PaDiM, SPADE, DeepOneClass, SubspaceAD]
NORMAL = stripes(24)
ODD = scratched(2)


def detector_of(method, **params):
    return small(method, false_alarm_rate=0.1, **params)


def states_of(detector, images, cuts=(7, 15, 16)):
    """States of some images, cut apart."""
    starts = [0, *cuts]
    chunks = np.split(images, cuts)
    return [detector.partial_state(one, first=i) for one, i in zip(chunks, starts, strict=True)]


def fitted_in_parts(detector, images, cuts=(7, 15, 16)):
    state = detector.merge_states(states_of(detector, images, cuts))
    detector.finish(state)
    return detector.finish_calibration(
        [detector.partial_calibration(one) for one in np.split(images, cuts)]
    )


@pytest.fixture(scope="module", params=METHODS, ids=lambda method: method.__name__)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def whole(method):
    return detector_of(method).fit(NORMAL)


@pytest.fixture(scope="module")
def in_parts(method):
    return fitted_in_parts(detector_of(method), NORMAL)


def test_parts_are_nearly_one_fit(method, whole, in_parts):
    assert in_parts.n_images_ == 24
    np.testing.assert_array_equal(in_parts._digests_, whole._digests_)
    assert in_parts.value_range_ == whole.value_range_
    assert in_parts._examples_.shape == whole._examples_.shape
    np.testing.assert_array_equal(in_parts.predict(ODD), [-1, -1])
    # a coreset of parts is another one, and DeepOneClass draws other patches for its maps
    rtol = {PatchCore: 0.5, PaDiM: 1e-6, SubspaceAD: 1e-6}.get(method, 0)
    for name in ("calibration_scores_", "offset_"):
        expected = getattr(whole, name)
        np.testing.assert_allclose(getattr(in_parts, name), expected, rtol=10 * rtol)
    np.testing.assert_allclose(in_parts.score_samples(ODD), whole.score_samples(ODD), rtol=rtol)
    if method in (PaDiM, SPADE, SubspaceAD):
        np.testing.assert_allclose(in_parts.map_levels(), whole.map_levels(), rtol=1e-5)
        np.testing.assert_allclose(in_parts.anomaly_map(ODD), whole.anomaly_map(ODD), rtol=1e-5)


def test_the_same_tree_gives_the_same_file_whoever_computes_it(method, in_parts, tmp_path):
    detector = detector_of(method)
    states = [pickle.loads(pickle.dumps(each)) for each in states_of(detector, NORMAL)[::-1]][::-1]
    other = detector_of(method, n_jobs=2)
    other.finish(pickle.loads(pickle.dumps(other.merge_states(states))))
    order = np.random.default_rng(0).permutation(24)
    other.finish_calibration(
        [pickle.loads(pickle.dumps(other.partial_calibration(NORMAL[i : i + 1]))) for i in order]
    )
    other.n_jobs = in_parts.n_jobs
    for name, each in (("a", other), ("b", in_parts)):
        each.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_state_of_all_images_needs_no_merge(method, whole):
    detector = detector_of(method)
    state = detector.partial_state(NORMAL)
    detector.finish(detector.merge_states([state]))
    np.testing.assert_allclose(detector.score_samples(ODD), whole.score_samples(ODD), rtol=0.2)


def test_a_state_leaves_the_detector_alone(method, whole):
    detector = detector_of(method)
    detector.partial_state(NORMAL[:4])
    assert not detector._is_fitted
    before = fingerprint(whole)
    state = whole.partial_state(NORMAL[:4])
    whole.merge_states([state])
    whole.partial_calibration(NORMAL[:2])
    assert fingerprint(whole) == before
    assert state.n_images == 4  # what was learned before has no part in it


def test_what_is_learned_later_is_calibrated_with_it(method, in_parts):
    if not hasattr(in_parts, "partial_fit"):
        pytest.skip("learns in parts, but not later")
    detector = pickle.loads(pickle.dumps(in_parts))
    detector.partial_fit(stripes(6, seed=3))
    assert detector.n_images_ == 30
    assert np.isfinite(detector.calibration_scores_).all()
    assert (detector.calibration_scores_[:24] != in_parts.calibration_scores_).any()


def test_unreadable_images_are_listed_by_their_place(method, tmp_path):
    paths = folder_of(tmp_path, NORMAL[:12])
    for i in (3, 8, 9, 10, 11):
        Path(paths[i]).write_bytes(b"no image")
    detector = detector_of(method)
    states = [detector.partial_state(paths[i : i + 4], first=i, on_error="skip") for i in (0, 4, 8)]
    assert [state.n_images for state in states] == [3, 4, 0]
    state = detector.merge_states(states)
    assert [(image.index, image.path) for image in state.skipped] == [
        (i, paths[i]) for i in (3, 8, 9, 10, 11)
    ]
    assert detector.finish(state).n_images_ == 7
    with pytest.raises(ValueError, match=r"image 3 .*3\.png"):
        detector.partial_state(paths[:4])
    with pytest.raises(ValueError, match="got none that can be read"):
        detector.finish(states[2])


def folder_of(folder, images):
    paths = [str(folder / f"{i}.png") for i in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def test_an_image_that_was_not_learned_is_not_calibrated(method, in_parts, tmp_path):
    paths = folder_of(tmp_path, [NORMAL[0], stripes(1, seed=9)[0]])
    before = fingerprint(in_parts)
    with pytest.raises(ValueError, match=r"image 1 .*1\.png.*Has its file changed"):
        in_parts.partial_calibration(paths)
    assert fingerprint(in_parts) == before


def test_without_a_calibration_there_are_scores_but_no_labels(method, whole):
    detector = detector_of(method)
    detector.finish(detector.partial_state(NORMAL))
    assert detector.inspect(ODD, maps=False).scores.shape == (2,)
    if method in (PatchCore, PaDiM, SubspaceAD):
        assert np.isnan(detector.offset_)
        with pytest.raises(ValueError, match="finish_calibration"):
            detector.predict(ODD)
    else:
        assert detector.offset_ == pytest.approx(whole.offset_)
    with pytest.raises(ValueError, match="finish_calibration"):
        detector.map_levels()


def test_states_of_other_settings_do_not_merge(method):
    first, other = detector_of(method), detector_of(method, image_size=32)
    states = [first.partial_state(NORMAL[:4]), other.partial_state(NORMAL[4:8], first=4)]
    with pytest.raises(ValueError, match=r"state 1: .*image_size=64.*image_size=32"):
        first.merge_states(states)
    with pytest.raises(ValueError, match=r"state 0: .*image_size=64"):
        first.finish(states[1])
    assert not first._is_fitted
    with pytest.raises(ValueError, match="expected PartialStates, got int"):
        first.merge_states([3])
    with pytest.raises(ValueError, match="at least one"):
        first.merge_states([])
    with pytest.raises(ValueError, match="at least one"):
        detector_of(method).finish_calibration([])


def test_states_of_other_detectors_or_in_another_order_do_not_merge(method):
    detector, other = detector_of(method), detector_of(METHODS[METHODS.index(method) - 1])
    a, b = detector.partial_state(NORMAL[:4]), detector.partial_state(NORMAL[4:8], first=4)
    with pytest.raises(ValueError, match=f"state 0: .*method={type(other).__name__}"):
        other.merge_states([a, b])
    with pytest.raises(ValueError, match="state 1: expected images from place 8 on, got first=0"):
        detector.merge_states([b, a])
    with pytest.raises(ValueError, match="state 1: expected images from place 4 on, got first=0"):
        detector.merge_states([a, a])


def test_a_detector_that_learns_in_its_own_way_does_not_learn_in_parts(method):
    class Own(method):
        def _learn(self, batches, n_images, generator):
            return super()._learn(batches, n_images, generator)

    class Both(Own):
        def _learn_part(self, batches, n_images, portion):
            return super()._learn_part(batches, n_images, portion)

    params = detector_of(method).get_params(deep=False)
    with pytest.raises(ValueError, match=r"Own: .*_learn of its own"):
        Own(**params).partial_state(NORMAL[:4])
    assert Both(**params).partial_state(NORMAL[:4]).n_images == 4


def test_settings_that_change_nothing_learned_may_differ(method):
    a = detector_of(method).partial_state(NORMAL[:4])
    b = detector_of(method, batch_size=1, n_jobs=2, verbose=False).partial_state(
        NORMAL[4:], first=4
    )
    assert isinstance(detector_of(method).merge_states([a, b]), PartialState)


def test_channels_drawn_from_different_seeds_do_not_merge():
    states = [detector_of(PaDiM, random_state=seed).partial_state(NORMAL[:4]) for seed in (0, 1)]
    with pytest.raises(ValueError, match=r"state 1: .*channels=.*number as random_state"):
        detector_of(PaDiM).merge_states(states)


def test_padim_of_one_image_is_refused():
    detector = detector_of(PaDiM)
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        detector.finish(detector.partial_state(NORMAL[:1]))
    assert not detector._is_fitted


# -- PatchCore ------------------------------------------------------------------------------------


def patch_rows(images):
    features = DeepFeatures(image_size=64, pooling=None).fit_transform(images)
    return torch.from_numpy(features)


@pytest.mark.parametrize("coreset", [0.2, 20, 200])
def test_every_patch_is_within_the_radius(coreset):
    """Through two levels of merges, as of a tree."""
    images = stripes(32)
    detector = PatchCore(image_size=64, coreset=coreset, random_state=0)
    states = states_of(detector, images, cuts=range(4, 32, 4))
    pairs = [detector.merge_states(states[i : i + 2]) for i in range(0, 8, 2)]
    detector.finish(detector.merge_states(pairs))
    rows, bank = patch_rows(images).flatten(0, 1), detector.memory_bank_.rows
    assert len(bank) == (coreset if coreset > 1 else 8 * round(0.2 * 4 * 64))
    distance, _ = slow_nearest(rows, bank)
    assert distance.max() <= detector.coreset_radius_ * (1 + 1e-6)
    known = {tuple(row) for row in rows.tolist()}
    assert all(tuple(row) in known for row in bank.tolist())
    if coreset != 200:  # which reduces nothing, so that the bound is the radius itself
        assert detector.coreset_radius_ < 3 * distance.max()


def test_an_image_is_calibrated_by_banks_that_it_had_no_part_in():
    detector = fitted_in_parts(
        PatchCore(image_size=64, coreset=0.3, n_reweight=None, random_state=0), NORMAL
    )
    rows, banks = patch_rows(NORMAL), detector._part_banks_
    # turns begin at the place of a state's first image
    assert banks.parts.tolist() == [*range(24)]
    for image, score in enumerate(detector.calibration_scores_):
        bank = banks.others((int(banks.parts[image]),), 10**6, detector.memory_bank_.codes).rows
        own = rows[image]
        assert not (own[:, None] == bank).all(2).any()
        distance, _ = slow_nearest(own, bank)
        assert -score == pytest.approx(distance.max(), rel=1e-6)


def test_copies_in_other_states_do_not_vouch_for_an_image():
    images = np.concatenate([NORMAL[:8], NORMAL[:8]])
    detector = PatchCore(image_size=64, coreset=1.0, n_reweight=None, random_state=0)
    state = detector.merge_states(states_of(detector, images, cuts=[5]))
    with pytest.warns(UserWarning, match="8 of 16 images are copies of others"):
        detector.finish(state)
    detector.finish_calibration([detector.partial_calibration(images)])
    rows = patch_rows(NORMAL[:8])
    for image, score in enumerate(np.tile(range(8), 2)):
        others = rows[np.arange(8) != score].flatten(0, 1)
        distance, _ = slow_nearest(rows[score], others)
        assert -detector.calibration_scores_[image] == pytest.approx(distance.max(), rel=1e-6)


def test_the_threshold_of_parts_holds():
    images, fresh = stripes(32), stripes(60, seed=8)
    detector = fitted_in_parts(
        PatchCore(image_size=64, coreset=0.2, false_alarm_rate=0.2, random_state=0), images
    )
    assert 0.05 < (detector.predict(fresh) == -1).mean() < 0.45


# -- what is kept of images -----------------------------------------------------------------------


def test_suspects_of_too_many_images_are_those_with_the_lowest_digests(monkeypatch):
    monkeypatch.setattr(suspects_module, "N_IMAGES", 10)
    digests = np.random.default_rng(0).permutation(np.arange(40, dtype=np.int64)) - 20
    rows = torch.arange(40.0).view(40, 1, 1)
    cells = torch.zeros(40, 1, dtype=torch.int64)
    each = [
        Suspects.of(digests[i : i + 8], cells[i : i + 8], rows[i : i + 8]) for i in range(0, 40, 8)
    ]
    joined = Suspects.joined(each)
    assert joined.digests.tolist() == [*range(-20, -10)]
    np.testing.assert_array_equal(digests[joined.rows.flatten().long()], joined.digests)


@pytest.mark.parametrize("method", [PatchCore, PaDiM])
def test_images_without_suspects_lose_their_scores_when_more_are_learned(monkeypatch, method):
    monkeypatch.setattr(suspects_module, "N_IMAGES", 10)
    detector = detector_of(method).fit(NORMAL)
    assert np.isfinite(detector.calibration_scores_).all()
    kept = np.sort(detector._digests_)[:10]
    detector.partial_fit(stripes(5, seed=3))
    known = np.isfinite(detector.calibration_scores_)
    # the budget of suspects is shared by all; the latest images have scores in any case
    now = np.sort(detector._digests_)[:10] if method is PatchCore else kept
    np.testing.assert_array_equal(known[:24], np.isin(detector._digests_[:24], now))
    assert known[24:].all()


def test_scores_are_found_by_digests():
    digests = np.array([5, -3, 5, 8])
    found = scores_by_digest(digests, np.array([8, 5]), np.array([0.8, 0.5]))
    np.testing.assert_array_equal(found, [0.5, np.nan, 0.5, 0.8])


def test_hooks_have_to_be_written():
    for name in ("_learn_part", "_merge_parts", "_finish_part"):
        hook = getattr(MergeMixin(), name)
        with pytest.raises(NotImplementedError, match=name):
            hook(*[None] * (hook.__code__.co_argcount - 1))


def test_parts_of_a_known_total_pick_fewer_rows_and_still_fill_the_bank():
    images = stripes(32)
    detector = PatchCore(image_size=64, coreset=400, random_state=0)
    states = [detector.partial_state(images[i : i + 4], first=i, total=32) for i in range(0, 32, 4)]
    assert [len(state.learned.rows) for state in states] == [100] * 8  # 2 * 400 * 4 / 32
    detector.finish(detector.merge_states(states))
    rows, bank = patch_rows(images).flatten(0, 1), detector.memory_bank_.rows
    assert len(bank) == 400
    distance, _ = slow_nearest(rows, bank)
    assert distance.max() <= detector.coreset_radius_ * (1 + 1e-6)
    alone = PatchCore(image_size=64, coreset=400, random_state=0)
    alone.finish(alone.partial_state(images[:4], total=4))
    assert len(alone.memory_bank_.rows) == 4 * 64


def test_rows_that_are_kept_save_the_second_look(method, in_parts, tmp_path):
    detector, cuts = detector_of(method), (0, 7, 15, 16, 24)
    pairs = [*pairwise(cuts)]
    states = [detector.partial_state(NORMAL[a:b], first=a, keep_rows=True) for a, b in pairs]
    detector.finish(detector.merge_states(states))
    if method in (SPADE, DeepOneClass):
        detector.finish_calibration([detector.partial_calibration(NORMAL)])
    for name, each in (("a", detector), ("b", in_parts)):
        each.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
