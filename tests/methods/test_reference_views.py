"""More views of few normal images, in the methods that learn from them."""

import math

import numpy as np
import pytest
import torch
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, PatchCore, SubspaceAD, load
from anomalib_lite.data.augment import rotated
from anomalib_lite.notes import digest_of
from anomalib_lite.search import coreset_row_bytes
from anomalib_lite.testing import Subject, parametrize_with_checks
from anomalib_lite.views import ReferenceViews

NORMAL = stripes(6)
ODD = scratched(2)
NETWORK = {"image_size": 64, "layers": (8,)}  # 64 cells of 40 features
CELLS = 64


def small(method=PatchCore, **params):
    own = {"coreset": 60} if method is PatchCore else {}
    return method(**{**NETWORK, **own, "false_alarm_rate": 0.2, "random_state": 0, **params})


@parametrize_with_checks(
    [
        Subject(small(reference_views="flips")),
        Subject(small(reference_views=2)),
        Subject(small(SubspaceAD, reference_views="flips")),
    ]
)
def test_contract(subject, check):
    check(subject)


# -- the views ------------------------------------------------------------------------------------


def some_batch(height=64, width=64, n=2):
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_angles_that_are_drawn_follow_from_the_image():
    batch, views = some_batch(), ReferenceViews(3, seed=5)
    angles = torch.stack([views._angles(digest_of(image)) for image in batch])
    assert angles.min() >= 0 and 180 < angles.max() < 360
    assert len(angles.flatten().unique()) == 6
    for view, degrees in zip(views.of(batch), angles.T, strict=True):
        assert torch.equal(view, rotated(batch, degrees))
    assert torch.equal(next(views.of(batch[1:])), next(views.of(batch))[1:])
    assert (next(ReferenceViews(3, seed=6).of(batch)) != next(views.of(batch))).any()


def test_rotations_are_steps_of_an_eighth():
    batch = some_batch()
    views = [*ReferenceViews("rotations", seed=0).of(batch)]
    assert len(views) == 7
    for k in (1, 2, 3):  # two steps are a quarter
        torch.testing.assert_close(views[2 * k - 1], torch.rot90(batch, k, (2, 3)))
    torch.testing.assert_close(views[0], rotated(batch, torch.tensor([45.0, 45.0])))


def test_flips_are_mirror_images():
    batch = some_batch(8, 12)
    pixels = batch.numpy()
    expected = [pixels[..., ::-1], pixels[:, :, ::-1], pixels[:, :, ::-1, ::-1]]
    for view, mirrored in zip(ReferenceViews("flips", seed=0).of(batch), expected, strict=True):
        np.testing.assert_array_equal(view, mirrored)


def places(batch):
    """A row for each cell of 4 x 4 pixels: its number."""
    rows, columns = batch.shape[2] // 4, batch.shape[3] // 4
    numbers = torch.arange(float(rows * columns)).expand(len(batch), -1)
    return numbers[..., None], (rows, columns)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (32, 64)])
@pytest.mark.parametrize("kind", [1, "rotations", "flips"])
def test_cells_that_show_the_outside_are_left_out(height, width, kind):
    """A cell counts whose center, turned back, lies within the image; whatever the angle."""
    batch = some_batch(height, width)
    y, x = np.mgrid[2:height:4, 2:width:4].reshape(2, -1) - [[height / 2], [width / 2]]
    steps = {1: [*range(0, 360, 5)], "flips": [0, 0, 0], "rotations": [*range(45, 360, 45)]}[kind]
    inside = []
    for degrees in np.deg2rad(steps):
        down = np.cos(degrees) * y + np.sin(degrees) * x
        right = np.cos(degrees) * x - np.sin(degrees) * y
        inside.append(np.maximum(abs(down) * 2 / height, abs(right) * 2 / width) < 1)
    if kind == 1:
        inside = [np.all(inside, axis=0)]
    found = [*ReferenceViews(kind, seed=0).rows(batch, places)]
    for rows, expected in zip(found, inside, strict=True):
        assert rows.shape[0] == 2
        at_edge = np.isin(np.flatnonzero(expected), rows[0, :, 0].numpy(), invert=True)
        assert at_edge.sum() <= 4  # where the edge cuts a cell about in half
        assert set(rows[0, :, 0].int().tolist()) <= set(np.flatnonzero(expected).tolist())


def test_only_seen_pixels_count():
    seen = torch.zeros(32, 32, dtype=torch.bool)
    seen[:16, :8] = True
    left_right, upside_down, both = ReferenceViews("flips", seed=0).rows(
        some_batch(32, 32, 1), places, seen
    )
    assert left_right.flatten().tolist() == [8 * i + j for i in range(4) for j in (6, 7)]
    assert upside_down.flatten().tolist() == [8 * i + j for i in range(4, 8) for j in (0, 1)]
    assert both.flatten().tolist() == [8 * i + j for i in range(4, 8) for j in (6, 7)]


# -- PatchCore ------------------------------------------------------------------------------------


def rows_of(images):
    """(n, P, D), the patches of images as a transformer gives them."""
    return torch.from_numpy(DeepFeatures(**NETWORK, pooling=None).fit_transform(images))


def mirrored(images):
    return [images, images[:, :, ::-1], images[:, ::-1], images[:, ::-1, ::-1]]


def test_the_bank_is_that_of_the_images_and_their_views():
    images = stripes(2, seed=4)
    detector = small(reference_views="flips", coreset=1.0, n_reweight=None).fit(images)
    # of mirrored images rows are those of mirrored pixels; resizing of 64 to 64 px changes nothing
    expected = torch.cat([rows_of(np.ascontiguousarray(each)) for each in mirrored(images)])
    bank = detector.memory_bank_.rows
    assert len(bank) == 2 * 4 * CELLS
    torch.testing.assert_close(
        torch.cdist(expected.flatten(0, 1).double(), bank.double()).amin(1),
        torch.zeros(len(bank), dtype=torch.float64),
        atol=1e-4,
        rtol=0,
    )
    distance = torch.cdist(rows_of(ODD).double(), expected.flatten(0, 1).double()).amin(2)
    np.testing.assert_allclose(detector.anomaly_score(ODD), distance.amax(1), rtol=1e-4)


@pytest.mark.parametrize("kind", [2, "flips"])
def test_an_image_and_its_views_are_left_out_together(kind):
    """Out of sample an image has the score that it would have if it was a new one."""
    few = [*NORMAL[:2], np.rot90(NORMAL[3])]  # only its own views could make the last one normal
    detector = small(reference_views=kind, coreset=1.0, n_reweight=None).fit(few)
    for i, score in enumerate(detector.calibration_scores_):
        rest = small(reference_views=kind, coreset=1.0, n_reweight=None)
        rest.fit([*few[:i], *few[i + 1 :]])
        assert score == pytest.approx(rest.score_samples(few[i : i + 1])[0], rel=1e-4)


def test_a_turned_image_is_normal_to_whom_has_seen_it_turned():
    quarter = np.rot90(stripes(3, seed=5), axes=(1, 2)).copy()
    for method in (PatchCore, SubspaceAD):
        with pytest.warns(UserWarning, match="1 image cannot"):
            still, turned = (
                small(method, reference_views=views).fit(NORMAL[:1])
                for views in (None, "rotations")
            )
        plain = [each.anomaly_score(stripes(3, seed=6)).mean() for each in (still, turned)]
        across = [each.anomaly_score(quarter).mean() for each in (still, turned)]
        assert across[1] / plain[1] < 0.5 * across[0] / plain[0]


@pytest.mark.parametrize("method", [PatchCore, SubspaceAD])
def test_one_image_has_no_threshold_however_many_views_it_has(method):
    with pytest.warns(UserWarning, match="1 image cannot calibrate"):
        detector = small(method, reference_views="rotations").fit(NORMAL[:1])
    assert math.isnan(detector.offset_) and np.isnan(detector.calibration_scores_).all()
    assert np.isfinite(detector.score_samples(ODD)).all()
    with pytest.raises(ValueError, match="no threshold"):
        detector.predict(ODD)


def test_learning_in_parts_is_learning_at_once():
    whole = small(reference_views=2, coreset=1.0).fit(NORMAL)
    grown = small(reference_views=2, coreset=1.0).fit(NORMAL[:2]).partial_fit(NORMAL[2:])
    parts = small(reference_views=2, coreset=1.0)
    states = [parts.partial_state(NORMAL[:4]), parts.partial_state(NORMAL[4:], first=4)]
    parts.finish(parts.merge_states(states))
    parts.finish_calibration([parts.partial_calibration(NORMAL)])
    for other in (grown, parts):
        assert len(other.memory_bank_.rows) == len(whole.memory_bank_.rows)
        np.testing.assert_allclose(other.score_samples(ODD), whole.score_samples(ODD), rtol=1e-4)
        found, expected = other.calibration_scores_, whole.calibration_scores_
        np.testing.assert_allclose(found[2:], expected[2:], rtol=1e-4)
        np.testing.assert_allclose(found[:2], expected[:2], rtol=0.2)  # by a few patches of each


@pytest.mark.parametrize(("views", "sizes"), [(None, [4, 2]), ("flips", [1] * 6)])
def test_views_take_their_share_of_the_memory_budget(views, sizes):
    budget = 4 * CELLS * coreset_row_bytes(40)
    detector = small(reference_views=views, memory_budget=budget)._started()
    batches = detector._learning_batches(detector._open(NORMAL))
    assert [store.n_images for store, _, _ in detector._chunks(batches, 6)] == sizes


@pytest.mark.parametrize("kind", [2, "rotations"])
def test_what_is_saved_learns_on(kind, tmp_path):
    detector = small(reference_views=kind).fit(NORMAL)
    detector.save(tmp_path / "views.alite")
    loaded, more = load(tmp_path / "views.alite"), stripes(3, seed=3)
    assert loaded.reference_views == kind
    np.testing.assert_array_equal(
        loaded.partial_fit(more).score_samples(ODD), detector.partial_fit(more).score_samples(ODD)
    )


def test_white_rows_are_those_of_views_too():
    images = stripes(3, seed=2)
    detector = small(reference_views="flips", whiten=True, coreset=1.0).fit(images)
    rows = torch.cat([rows_of(np.ascontiguousarray(each)) for each in mirrored(images)])
    torch.testing.assert_close(detector._center_, rows.flatten(0, 1).mean(0), atol=1e-4, rtol=1e-4)


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [PatchCore, SubspaceAD])
@pytest.mark.parametrize("value", [0, -1, True, 1.5, "turned", ("flips",), np.array([1, 2])])
def test_nonsense_is_refused(method, value):
    with pytest.raises(ValueError, match=r"^reference_views: expected "):
        small(method, reference_views=value).fit(NORMAL[:2])


@pytest.mark.parametrize("method", [PatchCore, SubspaceAD])
def test_turned_views_without_a_cell_to_learn_are_refused(method):
    """The largest circle of 32 x 256 pixels covers .39 of two cells of 32 pixels."""
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 256), dtype=np.uint8)
    detector = small(method, image_size=(32, 256), layers=(32,), reference_views=2)
    with pytest.raises(ValueError, match=r"reference_views: .* 32 x 256 pixels and 1 x 8 cells. T"):
        detector.fit(images)
    assert not [name for name in vars(detector) if name.endswith("_")]
    detector.set_params(reference_views="rotations").fit(images)


def test_views_without_a_cell_to_learn_are_left_out():
    seen = torch.zeros(16, 64, dtype=torch.bool)
    seen[:, :8] = True  # of which only half a turn shows anything
    batch = some_batch(16, 64)
    (rows,) = ReferenceViews("rotations", seed=0).rows(batch, places, seen)
    assert rows[0, :, 0].tolist() == [16 * i + j for i in range(4) for j in (14, 15)]


def test_a_later_change_waits_for_the_next_fit():
    detector, other = (small(coreset=1.0).fit(NORMAL) for _ in range(2))
    with pytest.warns(UserWarning, match="reference_views: changed after fit"):
        detector.set_params(reference_views="flips")
    detector.partial_fit(NORMAL[:1] // 2)
    other.partial_fit(NORMAL[:1] // 2)
    assert len(detector.memory_bank_.rows) == len(other.memory_bank_.rows)


@pytest.mark.parametrize(
    "forged",
    [{"kind": None}, {"kind": 0}, {"kind": "x"}, {"kind": 1.0}, {"seed": -1}, {"seed": "0"}],
)
def test_forged_views_are_refused(forged):
    with pytest.raises(ValueError, match="expected"):
        ReferenceViews(**{"kind": 2, "seed": 0, **forged})
    ReferenceViews(2, 0)
