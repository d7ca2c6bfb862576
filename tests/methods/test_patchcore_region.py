"""PatchCore where defects count in a part of the image only."""

import numpy as np
import pytest
import torch
from oracles import slow_patchcore_score
from PIL import Image
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, DeepFeatures, DetectorEnsemble, PatchCore, load
from anomalib_lite.data.inputs import NetworkInput
from anomalib_lite.deploy import OnnxDetector
from anomalib_lite.methods.patchcore import Region
from anomalib_lite.testing import Subject, parametrize_with_checks

NORMAL = stripes(6)
ODD = scratched(2)  # around row 20, column 40
NETWORK = {"image_size": 64, "layers": (8,)}  # 8 x 8 cells of 40 features
UPPER = np.zeros((64, 64), dtype=bool)
UPPER[:32] = True


def small(**params):
    own = {"coreset": 40, "region": UPPER, "false_alarm_rate": 0.2, "random_state": 0}
    return PatchCore(**{**NETWORK, **own, **params})


@pytest.fixture(scope="module")
def fitted():
    """Not to be changed."""
    return small().fit(NORMAL)


@parametrize_with_checks([Subject(small(region=np.ones((9, 9), dtype=bool), coreset=20))])
def test_contract(subject, check):
    check(subject)


def rows_of(images):
    """(n, P, D), the patches of images as a transformer gives them."""
    return torch.from_numpy(DeepFeatures(**NETWORK, pooling=None).fit_transform(images))


# -- which cells ----------------------------------------------------------------------------------


def region_of(mask, image_size=64, center_crop=None, grid=(8, 8)):
    return Region.of(mask, NetworkInput.raw(image_size, center_crop), grid)


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (100, 300), (16, 40)])
def test_cells_are_those_half_of_which_is_in_the_region(size):
    mask = np.zeros(size, dtype=bool)
    mask[: size[0] // 2, : size[1] // 4] = True
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:4, :2] = True
    assert torch.equal(region_of(mask).cells, expected)


@pytest.mark.parametrize(("n_rows", "n_cells"), [(11, 1), (12, 2), (13, 2)])
def test_half_a_cell_is_enough(n_rows, n_cells):
    mask = np.zeros((64, 64), dtype=bool)
    mask[:n_rows] = True
    assert region_of(mask).cells[:, 0].sum() == n_cells


def test_the_region_is_that_of_the_whole_image():
    mask = np.zeros((64, 64), dtype=bool)
    mask[:32, 48:] = True
    region = region_of(mask, image_size=(128, 128), center_crop=(64, 96), grid=(8, 12))
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[:4, 10:] = True  # rows from 32 to 96, columns from 16 to 112 of 128
    assert torch.equal(region.cells, expected)
    with pytest.raises(ValueError, match="region: expected a mask that covers at least half"):
        region_of(mask, image_size=128, center_crop=(64, 40), grid=(8, 5))


def test_values_come_back_to_their_cells():
    mask = np.zeros((8, 8), dtype=bool)
    mask[1, 2] = mask[5, 0] = mask[5, 7] = True
    region = region_of(mask)
    assert region.places.tolist() == [10, 40, 47]
    numbers = torch.arange(64.0).expand(2, -1)
    picked = region.of_rows(numbers[..., None])
    assert picked.squeeze(2).tolist() == [[10, 40, 47]] * 2
    expected = torch.where(torch.from_numpy(mask), numbers.view(2, 8, 8), torch.zeros(()))
    assert torch.equal(region.on_grid(picked.squeeze(2)), expected)


# -- what is learned and scored -------------------------------------------------------------------


def test_cells_outside_are_neither_learned_nor_scored(fitted):
    whole = small(coreset=1.0).fit(NORMAL)
    assert len(whole.memory_bank_.rows) == 6 * 32
    inside = rows_of(NORMAL)[:, :32].flatten(0, 1)
    torch.testing.assert_close(whole.memory_bank_.rows.unique(dim=0), inside.unique(dim=0))
    expected = [
        slow_patchcore_score(rows[:32], fitted.memory_bank_.rows, 9) for rows in rows_of(ODD)
    ]
    np.testing.assert_allclose(fitted.anomaly_score(ODD), expected, rtol=1e-4)


def test_a_defect_outside_goes_unseen(fitted):
    fresh, low, high = (
        make.anomaly_score(images)
        for make, images in (
            (fitted, stripes(2, seed=1)),
            (fitted, scratched(2, center=(56, 40))),
            (small(region=~UPPER).fit(NORMAL), scratched(2, center=(56, 40))),
        )
    )
    assert (low < 1.2 * fresh.max()).all() and (high > 1.5 * fresh.max()).all()


def test_the_map_is_0_outside():
    detector = small(smoothing=0.0).fit(NORMAL)
    maps = detector.anomaly_map(ODD)
    assert (maps[:, :28] > 0).all()
    assert (maps[:, 36:] == 0).all()  # between the centers of cells it is bilinear
    assert detector._examples_.shape[1:] == (8, 8)
    assert (detector._examples_[:, 4:] == 0).all() and (detector._examples_[:, :4] > 0).all()


def test_scores_out_of_sample_are_of_the_region():
    detector = small(coreset=1.0, n_reweight=None).fit(NORMAL)
    rest = small(coreset=1.0, n_reweight=None).fit(NORMAL[1:])
    expected = rest.score_samples(NORMAL[:1])[0]
    assert detector.calibration_scores_[0] == pytest.approx(expected, rel=1e-4)


def test_suspects_are_where_they_are_in_the_image():
    detector = small(region=~UPPER, coreset=1.0).fit(
        [*NORMAL[:5], scratched(1, center=(56, 40))[0]]
    )
    digest = detector._digests_[5]
    (first, *_) = detector._suspects_.cells[detector._suspects_.digests == digest][0].tolist()
    assert abs(first // 8 - 6.5) < 1 and abs(first % 8 - 4.5) < 2


def test_a_share_of_patches_is_one_of_the_region():
    detector = small(aggregate=("top", 0.25)).fit(NORMAL[:4])
    distance = torch.cdist(rows_of(ODD)[:, :32], detector.memory_bank_.rows).amin(2)
    expected = distance.topk(8).values.mean(1)
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-4)


def test_a_share_of_the_patches_that_are_kept_is_one_of_the_region():
    whole, grown = (small(aggregate=("top", 0.25), coreset=1.0) for _ in range(2))
    whole.fit(NORMAL)
    grown.fit(NORMAL[:4]).partial_fit(NORMAL[4:])
    assert grown._suspects_.rows.shape[1] == 11  # 8 that count, and 3 more
    np.testing.assert_allclose(grown.calibration_scores_, whole.calibration_scores_, rtol=0.005)


@pytest.mark.parametrize("views", ["flips", "rotations"])
def test_views_show_the_region_where_they_have_turned_it(views):
    detector = small(reference_views=views, coreset=1.0).fit(NORMAL[:2])
    quarter = np.ascontiguousarray(NORMAL[:2, ::-1])  # upside down, the lower half is learned
    expected = rows_of(quarter)[:, 32:].flatten(0, 1)
    distance = torch.cdist(expected, detector.memory_bank_.rows).amin(1)
    n_steps = {"flips": 3, "rotations": 7}[views]
    assert len(detector.memory_bank_.rows) <= 2 * 32 * (1 + n_steps)
    if views == "flips":
        assert distance.max() < 1e-2 * expected.norm(dim=1).mean()


def test_merged_states_are_one_fit():
    parts = small(coreset=1.0)
    states = [parts.partial_state(NORMAL[:3]), parts.partial_state(NORMAL[3:], first=3)]
    parts.finish(parts.merge_states(states))
    parts.finish_calibration([parts.partial_calibration(NORMAL)])
    whole = small(coreset=1.0).fit(NORMAL)
    np.testing.assert_allclose(parts.score_samples(ODD), whole.score_samples(ODD), rtol=1e-4)
    np.testing.assert_allclose(parts.calibration_scores_, whole.calibration_scores_, rtol=1e-4)


def test_states_of_other_regions_do_not_merge():
    one, other = (np.zeros((1200, 1200), dtype=bool) for _ in range(2))
    one[200:900, 200:900] = other[200:700, 200:700] = True
    assert repr(one) == repr(other)
    states = [small(region=one).partial_state(NORMAL[:3])]
    states.append(small(region=other).partial_state(NORMAL[3:], first=3))
    with pytest.raises(ValueError, match="region's pixels"):
        small(region=one).merge_states(states)


# -- beyond the detector --------------------------------------------------------------------------


def test_what_is_saved_says_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "region.alite")
    loaded = load(tmp_path / "region.alite")
    np.testing.assert_array_equal(loaded.region, UPPER)
    expected, found = fitted.inspect(ODD), loaded.inspect(ODD)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.maps, expected.maps)
    more = stripes(2, seed=3)
    grown = small().fit(NORMAL).partial_fit(more)
    np.testing.assert_array_equal(
        loaded.partial_fit(more).score_samples(ODD), grown.score_samples(ODD)
    )


def test_a_picture_of_a_region_is_read_when_it_is_fitted(fitted, tmp_path):
    Image.fromarray(UPPER).save(tmp_path / "region.png")
    detector = small(region=tmp_path / "region.png").fit(NORMAL)
    (tmp_path / "region.png").unlink()
    np.testing.assert_array_equal(detector.score_samples(ODD), fitted.score_samples(ODD))
    detector.partial_fit(NORMAL[:1] // 2)
    with pytest.raises(ValueError, match=r"region\.png"):
        detector.fit(NORMAL)


def test_an_exported_detector_has_the_region(fitted, tmp_path):
    fitted.export(tmp_path / "region.onnx")
    expected, found = fitted.inspect(ODD), OnnxDetector(tmp_path / "region.onnx").inspect(ODD)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-3)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_others_stand_on_it():
    low, fresh = scratched(2, center=(56, 40)), stripes(3, seed=5)
    conformal = ConformalDetector(small(), random_state=0).fit(stripes(12))
    assert conformal.score_samples(ODD).max() < conformal.score_samples(fresh).min()
    both = DetectorEnsemble([small(), small(region=UPPER.T)], random_state=0).fit(NORMAL)
    seen = both.inspect(np.concatenate([ODD, low, fresh]))
    assert seen.scores[:2].max() < seen.scores[2:].min()  # columns from 33 on are in no region
    assert np.isfinite(seen.maps).all()


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"region": np.zeros((64, 64), dtype=bool)},
            "region: expected a mask, True where .* empty",
        ),
        ({"region": np.ones((3, 4, 5), dtype=bool)}, r"region: expected a mask of shape \(H, W\)"),
        ({"region": np.ones(64, dtype=bool)}, r"region: expected a mask of shape \(H, W\)"),
        ({"region": np.arange(4.0).reshape(2, 2)}, "region: expected a mask of 0 and 1"),
        ({"region": "nowhere.png"}, "nowhere.png"),
        ({"region": np.eye(64, dtype=bool)}, "region: expected a mask that covers at least half"),
        ({"reference_views": 3}, "region: expected None with views .* reference_views=3"),
    ],
    ids=str,
)
def test_nonsense_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(NORMAL)


def test_forged_regions_are_refused():
    good = torch.ones(8, 8, dtype=torch.bool)
    for forged in (good.float(), good[0], good & False):
        for name in ("seen", "cells"):
            with pytest.raises(ValueError, match="region: expected masks"):
                Region(**{"seen": good, "cells": good, name: forged})
