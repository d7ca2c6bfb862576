import math
import weakref

import numpy as np
import pytest
import torch
from oracles import (
    slow_concat_embedding,
    slow_greedy_coreset,
    slow_nearest,
    slow_patchcore_score,
)
from torch import nn
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, PatchCore, load
from anomalib_lite.backbones import MapRenderer
from anomalib_lite.data import ImageStream
from anomalib_lite.methods.patchcore import calibration
from anomalib_lite.runtime import parse_memory
from anomalib_lite.search import coreset_row_bytes
from anomalib_lite.workers import Team

NORMAL = stripes(6)
ODD = scratched(2)


def small(**params):
    """A PatchCore that fits in well under a second."""
    return PatchCore(**{"image_size": 64, "coreset": 40, "random_state": 0, **params})


@pytest.fixture(scope="module")
def fitted():
    """Fitted on NORMAL; not to be changed."""
    return small().fit(NORMAL)


def patch_rows(images, **params):
    """(n, P, D), the patches of images as a transformer gives them."""
    features = DeepFeatures(image_size=64, pooling=None, **params).fit_transform(images)
    return torch.from_numpy(features)


# -- against the paper ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_reweight", [9, 3, 1, None])
def test_scores_are_those_of_the_paper(n_reweight):
    detector = small(n_reweight=n_reweight).fit(NORMAL)
    bank = detector.memory_bank_.rows
    expected = [slow_patchcore_score(rows, bank, n_reweight) for rows in patch_rows(ODD)]
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-4)


def test_memory_bank_is_the_greedy_coreset_of_literal_patch_rows():
    images = NORMAL[:2]
    detector = small(projection=None).fit(images)
    maps = detector.backbone_(detector.input_.batch(list(ImageStream(images))))
    embedding = slow_concat_embedding([grid.numpy() for grid in maps], 3)  # (n, D, h, w)
    rows = patch_rows(images).flatten(0, 1)
    literal = embedding.transpose(0, 2, 3, 1).reshape(-1, embedding.shape[1])
    np.testing.assert_allclose(rows, literal, atol=1e-4)

    generator = torch.Generator().manual_seed(0)
    start = int(torch.randint(len(rows), (1,), generator=generator))
    picks, radius = slow_greedy_coreset(rows, 40, start)
    np.testing.assert_array_equal(detector.memory_bank_.rows, rows[picks])
    assert detector.coreset_radius_ == pytest.approx(radius)


def test_calibration_scores_are_those_against_all_rows_of_other_parts():
    images = stripes(10)
    rows = patch_rows(images)
    detector = small(coreset=1.0).fit(images)
    for image, score in enumerate(detector.calibration_scores_):
        bank = rows[np.arange(10) != image].flatten(0, 1)
        assert -score == pytest.approx(slow_patchcore_score(rows[image], bank, 9), rel=1e-6)
    expected = np.quantile(detector.calibration_scores_, 0.01, method="weibull")
    assert detector.offset_ == expected
    in_sample = detector.score_samples(images)
    assert (in_sample > detector.calibration_scores_).all(), "in-sample scores look too normal"


@pytest.mark.parametrize("coreset", [20, 200, 0.2])
def test_an_image_has_no_part_in_the_bank_it_is_calibrated_with(monkeypatch, coreset):
    monkeypatch.setattr(calibration, "N_PARTS", 8)
    images = stripes(10)
    detector = small(coreset=coreset, n_reweight=None).fit(images)
    rows, banks = patch_rows(images), detector._part_banks_
    assert banks.parts.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1]
    n_bank = detector.memory_bank_.n_stored
    for part in range(8):
        bank = banks.others((part,), n_bank, detector.memory_bank_.codes).rows
        own = rows[banks.parts == part].flatten(0, 1)
        assert not (own[:, None] == bank).all(2).any()
        assert len(bank) == n_bank
        for image in np.flatnonzero(banks.parts == part):
            distance, _ = slow_nearest(rows[image], bank)
            assert -detector.calibration_scores_[image] == pytest.approx(distance.max(), rel=1e-6)


def test_copies_share_a_part_and_so_do_those_of_a_later_call():
    images = stripes(6)
    with pytest.warns(UserWarning, match="2 of 8 images are copies: image 6 is image 0"):
        detector = small(coreset=1.0, n_reweight=None).fit(np.concatenate([images, images[:2]]))
    assert detector._part_banks_.parts.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    alone = small(coreset=1.0, n_reweight=None).fit(images)
    np.testing.assert_allclose(detector.calibration_scores_[:6], alone.calibration_scores_)
    with pytest.warns(UserWarning, match="6 of 12 images are copies: image 0 is one of an earlier"):
        alone.partial_fit(images)
    assert alone._part_banks_.parts.tolist() == [0, 1, 2, 3, 4, 5] * 2
    np.testing.assert_allclose(*np.split(alone.calibration_scores_, 2))


def test_scores_of_earlier_images_follow_the_banks():
    images = stripes(20)
    detector = small(n_reweight=None, coreset=0.2).fit(images[:10])
    before = detector.calibration_scores_
    detector.partial_fit(images[10:])
    rows, banks = patch_rows(images), detector._part_banks_
    n_bank = detector.memory_bank_.n_stored
    for image, score in enumerate(detector.calibration_scores_):
        bank = banks.others((banks.parts[image],), n_bank, detector.memory_bank_.codes).rows
        distance, _ = slow_nearest(rows[image], bank)
        # only a few patches of each image are kept: one of these need not be the farthest now
        assert np.isclose(distance, -score, rtol=1e-6).any()
        assert -score <= distance.max() * (1 + 1e-6)
    assert detector.calibration_scores_[:10].mean() > before.mean() + 0.3


def test_calibration_does_not_depend_on_workers(monkeypatch):
    def calibrated(n_jobs):
        detector = small(coreset=0.3, n_jobs=n_jobs).partial_fit(stripes(9))
        return vars(detector.partial_fit(stripes(5, seed=3)))

    tasks, hand_out = [], Team._hand_out
    monkeypatch.setattr(Team, "_hand_out", lambda *a: (tasks.append(a), hand_out(*a))[1])
    alone = calibrated(1)
    assert not tasks
    for n_jobs in (2, 4):
        many = calibrated(n_jobs)
        for name in ("calibration_scores_", "_examples_", "offset_"):
            np.testing.assert_array_equal(many[name], alone[name])
        assert torch.equal(many["_suspects_"].rows, alone["_suspects_"].rows)
        assert torch.equal(many["_part_banks_"].rows, alone["_part_banks_"].rows)
    assert len(tasks) > 2 * (32 + 9 + 5)


def test_no_more_banks_at_a_time_than_workers(monkeypatch):
    detector, alive, most = small(coreset=0.3, n_jobs=2), [], []
    others = calibration.PartBanks.others

    def counted(*args):
        bank = others(*args)
        alive.append(weakref.ref(bank))
        most.append(sum(ref() is not None for ref in alive))
        return bank

    monkeypatch.setattr(calibration.PartBanks, "others", counted)
    detector.fit(stripes(12))
    assert len(most) == 12
    assert max(most) <= 4  # a worker may hold its last one while it makes the next


def test_reduced_banks_keep_to_the_count():
    detector = small(coreset=40, memory_budget=4 * IMAGE_BYTES).fit(stripes(24))
    assert len(detector.memory_bank_.rows) == 40
    assert max(map(len, detector._part_banks_.chunks[0])) == 40


def test_distant_patches_do_not_overflow():
    class Far(nn.Module):
        def forward(self, x):
            return 1e4 * nn.functional.avg_pool2d(x, 8)

    detector = small(backbone=Far()).fit(NORMAL)
    assert np.isfinite(detector.score_samples(ODD)).all()


def test_maps_show_distances_to_the_bank():
    detector = small(neighborhood=1).fit(NORMAL)
    rows = patch_rows(ODD, neighborhood=1).flatten(0, 1)
    distance, _ = slow_nearest(rows, detector.memory_bank_.rows)
    grids = torch.from_numpy(distance).float().view(2, 8, 8)
    expected = MapRenderer((64, 64), smoothing=4.0)(grids, (64, 64))
    np.testing.assert_allclose(detector.anomaly_map(ODD), expected, rtol=1e-4)


def test_scores_alone_are_those_of_a_whole_inspection(fitted):
    images = np.concatenate([ODD, stripes(8, seed=5), NORMAL])
    np.testing.assert_array_equal(fitted.score_samples(images), fitted.inspect(images).scores)


# -- planted worlds -------------------------------------------------------------------------------


@pytest.mark.parametrize("aggregation", ["concat", "official"])
def test_scratch_is_found_where_it_is(aggregation):
    detector = small(aggregation=aggregation, image_size=128).fit(NORMAL)
    for center in [(16, 16), (20, 44), (50, 30)]:
        seen = detector.inspect(scratched(1, center=center))
        assert seen.labels.tolist() == [-1]
        assert math.dist(np.unravel_index(seen.maps[0].argmax(), (64, 64)), center) < 10
    fresh = stripes(10, seed=9)
    assert detector.score_samples(fresh).min() > detector.score_samples(ODD).max()


def test_defect_at_the_border_counts():
    normal, fresh = stripes(6, 96), stripes(4, 96, seed=5)
    odd = scratched(1, 96, center=(2, 88))
    whole = small(image_size=96).fit(normal)
    assert whole.anomaly_score(odd)[0] > 1.3 * whole.anomaly_score(fresh).max()
    cropped = small(image_size=96, center_crop=64).fit(normal)
    assert cropped.anomaly_score(odd)[0] < 1.1 * cropped.anomaly_score(fresh).max()
    heat = cropped.anomaly_map(odd)[0]
    assert heat.shape == (96, 96)
    inside = np.zeros((96, 96), dtype=bool)
    inside[16:80, 16:80] = True
    np.testing.assert_array_equal(heat > 0, inside)


# -- partial_fit ----------------------------------------------------------------------------------


def test_partial_fit_on_everything_equals_fit(fitted):
    part = small().partial_fit(NORMAL)
    assert torch.equal(fitted.memory_bank_.rows, part.memory_bank_.rows)
    assert fitted.offset_ == part.offset_


@pytest.mark.parametrize(("coreset", "projection"), [(0.2, "auto"), (60, "auto"), (60, None)])
def test_partial_fit_covers_all_batches_within_the_radius_it_states(coreset, projection):
    images = stripes(12)
    detector = small(coreset=coreset, projection=projection)
    for start in range(0, 12, 4):
        detector.partial_fit(images[start : start + 4])
    assert detector.n_images_ == 12
    per_batch = round(0.2 * 4 * 64)
    assert len(detector.memory_bank_.rows) == (coreset if coreset > 1 else 3 * per_batch)
    distance, _ = detector.memory_bank_.query(patch_rows(images).flatten(0, 1))
    assert distance.max() <= detector.coreset_radius_ * (1 + 1e-6)
    assert len(detector.calibration_scores_) == 12


def test_partial_fit_learns_a_second_kind_of_normal():
    lying = stripes(6).transpose(0, 2, 1)
    detector = small(coreset=0.2).partial_fit(NORMAL)
    fresh = stripes(6, seed=4)
    turned = fresh.transpose(0, 2, 1)
    before = detector.anomaly_score(turned)
    detector.partial_fit(lying)
    assert detector.anomaly_score(turned).max() < before.min()
    assert detector.predict(scratched(3)).tolist() == [-1] * 3


def test_the_threshold_holds_after_partial_fit():
    images, fresh = stripes(32), stripes(60, seed=8)
    detector = small(coreset=0.2, false_alarm_rate=0.2).fit(images[:8])
    early = detector.offset_
    for start in range(8, 32, 8):
        detector.partial_fit(images[start : start + 8])
    scores = detector.score_samples(fresh)
    assert 0.05 < (scores < detector.offset_).mean() < 0.45
    assert (scores < early).mean() < 0.05, "the bank has grown, and so has the threshold"


def test_failed_partial_fit_changes_nothing(tmp_path):
    detector = small().fit(NORMAL)
    detector.save(tmp_path / "before.alite")
    bad = [*NORMAL[:3], np.zeros((64, 64), np.int64)]
    with pytest.raises(ValueError, match="image 3"):
        detector.partial_fit(bad)
    detector.save(tmp_path / "after.alite")
    before, after = ((tmp_path / f"{name}.alite").read_bytes() for name in ("before", "after"))
    assert before == after


def test_partial_fit_refuses_images_of_another_scale():
    detector = small().fit(NORMAL)
    with pytest.raises(ValueError, match=r"image 0: .*Scale both the same way"):
        detector.partial_fit(NORMAL / 255 / 255)


@pytest.mark.parametrize("changed", [{"neighborhood": 1}, {"aggregation": "official"},
                                     {"n_reweight": None}])  # fmt: skip
def test_patches_and_scores_stay_those_of_fit(fitted, changed):
    detector = small().fit(NORMAL)
    with pytest.warns(UserWarning, match="until this PatchCore is fitted again"):
        detector.set_params(**changed)
    np.testing.assert_array_equal(detector.score_samples(ODD), fitted.score_samples(ODD))
    more = stripes(3, seed=3)
    detector.partial_fit(more)
    expected = small().fit(NORMAL).partial_fit(more)
    assert torch.equal(detector.memory_bank_.rows, expected.memory_bank_.rows)
    np.testing.assert_array_equal(detector.calibration_scores_, expected.calibration_scores_)


class Standardizing(nn.Module):
    """Divides by each image's own asymmetry, which is zero for a constant image."""

    def forward(self, x):
        return nn.functional.avg_pool2d(x / (x - x.flip(-1)).abs().amax((1, 2, 3), True), 8)


def test_an_image_with_non_finite_features_is_named():
    detector = small(backbone=Standardizing())
    constant = np.concatenate([NORMAL[:2], np.zeros((1, 64, 64), np.uint8)])
    with pytest.raises(ValueError, match="image 2: the backbone gives NaN"):
        detector.fit(constant)
    detector.fit(NORMAL)
    with pytest.raises(ValueError, match="image 2: the backbone gives NaN"):
        detector.predict(constant)


# -- memory budget --------------------------------------------------------------------------------

IMAGE_BYTES = 64 * coreset_row_bytes(152)


@pytest.mark.parametrize(
    ("budget", "coreset"),
    [
        (5 * IMAGE_BYTES, 0.2),
        ("300kB", 40),
        pytest.param(1, 0.2, marks=pytest.mark.slow),
        pytest.param(5 * IMAGE_BYTES, 40, marks=pytest.mark.slow),
        pytest.param(IMAGE_BYTES, 0.2, marks=pytest.mark.slow),
        pytest.param("300kB", 0.2, marks=pytest.mark.slow),
        pytest.param(1, 40, marks=pytest.mark.slow),
    ],
)
def test_a_budget_learns_in_parts_what_partial_fit_would(budget, coreset):
    images = stripes(12)
    detector = small(coreset=coreset, memory_budget=budget).fit(images)
    per_part = max(1, parse_memory("", budget) // IMAGE_BYTES)
    n_parts = -(-12 // per_part)
    assert n_parts > 1
    distance, _ = detector.memory_bank_.query(patch_rows(images).flatten(0, 1))
    assert distance.max() <= detector.coreset_radius_ * (1 + 1e-6)
    if coreset == 40:
        assert len(detector.memory_bank_.rows) == 40
    assert len(detector.calibration_scores_) == detector.n_images_ == 12
    fresh = stripes(8, seed=9)
    assert detector.score_samples(fresh).min() > detector.score_samples(ODD).max()
    streamed = small(coreset=coreset, memory_budget=budget).fit(iter(images))
    assert torch.equal(streamed.memory_bank_.rows, detector.memory_bank_.rows)


@pytest.mark.parametrize("coreset", [5, 20])
def test_parts_cost_little_of_the_radius(coreset):
    images = stripes(24)
    whole = small(coreset=coreset).fit(images)
    parts = small(coreset=coreset, memory_budget=16 * IMAGE_BYTES).fit(images)
    rows = patch_rows(images).flatten(0, 1)
    assert parts.memory_bank_.query(rows)[0].max() <= parts.coreset_radius_ * (1 + 1e-6)
    assert whole.coreset_radius_ < parts.coreset_radius_ < 2 * whole.coreset_radius_


@pytest.mark.parametrize("budget", [None, 6 * IMAGE_BYTES])
def test_a_budget_that_is_not_reached_changes_nothing(fitted, budget):
    detector = small(memory_budget=budget).fit(NORMAL)
    assert torch.equal(detector.memory_bank_.rows, fitted.memory_bank_.rows)


def test_stores_hold_no_more_than_the_budget_leaves_beside_the_bank(monkeypatch):
    held = []
    original = PatchCore._bank_of

    def bank_of(self, images, *args, **options):
        held.append(len(images))
        return original(self, images, *args, **options)

    monkeypatch.setattr(PatchCore, "_bank_of", bank_of)
    small(coreset=0.2, memory_budget=5 * IMAGE_BYTES).fit(stripes(12))
    assert held == [5, 2, 2, 2, 1]  # half of it, since banks take the place of six images


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"aggregation": "mean"}, "aggregation"),
        ({"neighborhood": 2}, "odd"),
        ({"neighborhood": 0}, "neighborhood"),
        ({"coreset": 0.0}, "coreset"),
        ({"coreset": "10%"}, "coreset"),
        ({"n_reweight": 0}, "n_reweight"),
        ({"projection": -5}, "projection"),
        ({"false_alarm_rate": 1.0}, "false_alarm_rate"),
        ({"false_alarm_rate": -0.1}, "false_alarm_rate"),
        ({"smoothing": -1}, "smoothing"),
        ({"smoothing": float("nan")}, "smoothing"),
        ({"batch_size": 0}, "batch_size"),
        ({"memory_budget": "2 gigabytes"}, "memory_budget"),
        ({"memory_budget": 0}, "memory_budget"),
        ({"image_size": (64, 64, 3)}, "image_size"),
        ({"image_size": 64.0}, "image_size"),
        ({"center_crop": 80}, "center_crop"),
        ({"layers": (8, 10)}, "strides"),
        ({"backbone": "no_such_net"}, "no_such_net"),
        ({"backbone": 3}, "backbone"),
        ({"weights": "no/such/file"}, "weights"),
        ({"device": "tpu"}, "device"),
        ({"engine": "tensorrt"}, "engine"),
        ({"dtype": "float8"}, "dtype"),
        ({"random_state": -1}, "random_state"),
    ],
)
def test_bad_parameters_are_refused_at_fit(params, message):
    detector = small(**params)
    with pytest.raises(ValueError, match=message):
        detector.fit(NORMAL)
    assert not [name for name in vars(detector) if name.endswith("_")]


def test_one_image_gives_scores_and_maps_but_no_labels(tmp_path):
    with pytest.warns(UserWarning, match="1 image cannot calibrate the threshold"):
        detector = small().fit(NORMAL[:1])
    seen = detector.inspect(ODD)
    fresh = detector.score_samples(stripes(4, seed=5))
    assert seen.scores.max() < fresh.min()
    assert seen.maps.shape == ODD.shape
    assert seen.labels.tolist() == [0, 0]
    for label in (detector.predict, detector.decision_function):
        with pytest.raises(ValueError, match=r"too few images .* set_threshold\(score="):
            label(ODD)
    detector.save(tmp_path / "one.alite")
    np.testing.assert_array_equal(load(tmp_path / "one.alite").score_samples(ODD), seen.scores)
    detector.set_threshold(score=(seen.scores.max() + fresh.min()) / 2)
    assert detector.predict(ODD).tolist() == [-1, -1]


@pytest.mark.parametrize("coreset", [1, 2])
def test_tiny_banks_score(coreset):
    detector = small(coreset=coreset).fit(NORMAL)
    assert len(detector.memory_bank_.rows) == coreset
    rows = patch_rows(ODD)
    if coreset == 1:  # without a neighbor there is nothing to re-weight by
        expected = [slow_patchcore_score(r, detector.memory_bank_.rows, None) for r in rows]
    else:
        expected = [slow_patchcore_score(r, detector.memory_bank_.rows, 9) for r in rows]
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-4)
    assert np.isfinite(detector.offset_)
    assert len(detector.calibration_scores_) == 6
    assert np.isfinite(detector.calibration_scores_).all()


@pytest.mark.parametrize(
    ("backbone", "image_size", "n_patches", "dim"),
    [
        ("vit_small_patch14_dinov2.lvd142m", 70, 25, 768),
        pytest.param("resnet50_clip.openai", 64, 64, 1536, marks=pytest.mark.slow),
        pytest.param("vit_base_patch16_clip_224.openai", 64, 16, 1536, marks=pytest.mark.slow),
    ],
)
def test_clip_and_dino_encoders_run(backbone, image_size, n_patches, dim):
    detector = small(backbone=backbone, weights="random", image_size=image_size, coreset=1.0)
    detector.fit(NORMAL[:2])
    assert detector.memory_bank_.rows.shape == (2 * n_patches, dim)
    assert detector.anomaly_map(ODD[:1]).shape == (1, 64, 64)


def test_patches_pass_the_final_norm_of_a_transformer(tmp_path):
    """Its random weights scale nothing: rows of mean 0 and variance 1."""
    network = {"backbone": "vit_tiny_patch16_224", "weights": "random", "layers": "last"}
    plain, normed = (
        small(**network, neighborhood=1, coreset=1.0, final_norm=final_norm).fit(NORMAL[:2])
        for final_norm in (False, True)
    )
    for detector, is_normed in ((plain, False), (normed, True)):
        rows = detector.memory_bank_.rows
        assert torch.allclose(rows.var(1, correction=0), torch.ones(()), atol=1e-2) == is_normed
    normed.save(tmp_path / "normed.alite")
    loaded = load(tmp_path / "normed.alite")
    assert loaded.final_norm is True
    np.testing.assert_array_equal(loaded.score_samples(ODD), normed.score_samples(ODD))
    with pytest.raises(ValueError, match="final_norm: expected a timm transformer"):
        small(final_norm=True).fit(NORMAL)
