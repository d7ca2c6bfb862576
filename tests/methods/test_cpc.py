"""CPC against a literal reading, and on layouts whose rows predict the next."""

import warnings

import numpy as np
import pytest
import torch
from detectors import small
from oracles import slow_cpc
from torch import nn
from worlds import tiles

import anomalib_lite
from anomalib_lite import CPC
from anomalib_lite.methods.cpc import DIRECTIONS, draw_others
from anomalib_lite.metrics import image_auroc

NORMAL = tiles(12)
TEST = np.concatenate([tiles(3, swapped=2, seed=1), tiles(3, seed=2)])


def make(**params):
    return small(CPC, **{"patch_stride": 16, "epochs": 2, **params})


def prepared(detector, images):
    batch = torch.cat([detector.input_.batch([image]) for image in detector._open(images)])
    return detector._prepared(batch)


def grids_of(detector, image):
    """Vectors of the patches of an image, cut out and encoded one by one, by direction."""
    pixels = prepared(detector, image[None])
    size, stride = detector.patch_size, detector.patch_stride
    starts = range(0, pixels.shape[-1] - size + 1, stride)
    grids = {}
    for directions, encoder in zip(detector._how_["directions"], detector.encoders_, strict=True):
        rows = [
            [detector._embed(encoder, pixels[..., y : y + size, x : x + size])[0] for x in starts]
            for y in starts
        ]
        for direction in directions:
            grids[direction] = torch.stack([torch.stack(row) for row in rows]).numpy()
    return grids


def negatives_of(detector):
    return {
        direction: negatives.numpy()
        for directions, negatives in zip(
            detector._how_["directions"], detector.negatives_, strict=True
        )
        for direction in directions
    }


# -- the score ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"share_encoder": False},
        {"directions": "down"},
        {"directions": ("left", "up"), "steps": 5, "share_encoder": False},
        {"normalize": True, "temperature": 0.3},
        {"encoder": "convnet", "weights": "random", "layers": "last"},
        {"encoder": "densenet", "standardize": False, "temperature": 2.0},
    ],
    ids=str,
)
def test_score_and_values_are_those_of_five_loops(params):
    detector = make(n_scoring_negatives=20, **params).fit(NORMAL)
    matrices = {name: matrix.numpy() for name, matrix in detector.predictors_.items()}
    for image in TEST[:2]:
        expected, values = slow_cpc(
            grids_of(detector, image),
            matrices,
            negatives_of(detector),
            detector.temperature,
            detector.normalize,
        )
        (score,), (grid,) = detector._scores_and_grids(prepared(detector, image[None]))
        np.testing.assert_allclose(float(score), expected, rtol=1e-4)
        np.testing.assert_allclose(grid, values, rtol=1e-4, atol=1e-5)


def test_oracle_has_teeth():
    rng = np.random.default_rng(0)
    grids, matrices = {"down": rng.normal(size=(3, 2, 4))}, {"down": rng.normal(size=(2, 4, 4))}
    negatives = {"down": rng.normal(size=(5, 4))}
    score, _ = slow_cpc(grids, matrices, negatives, 1.0)
    assert abs(slow_cpc(grids, matrices, negatives, 1.1)[0] - score) > 1e-3
    assert abs(slow_cpc({"up": grids["down"]}, {"up": matrices["down"]},
                        {"up": negatives["down"]}, 1.0)[0] - score) > 1e-3  # fmt: skip


def test_crops_are_scored_as_images_of_their_own():
    detector = make(image_size=96, crop_size=64, crop_stride=32, directions=2).fit(tiles(6, 96))
    image = tiles(1, 96, swapped=3, seed=5)[0]
    assert detector._how_["crop_shape"] == (4, 4)
    grids = grids_of(detector, image)
    matrices = {name: matrix.numpy() for name, matrix in detector.predictors_.items()}
    scores, total, count = [], np.zeros((6, 6)), np.zeros((6, 6))
    for top in (0, 2):
        for left in (0, 2):
            here = slice(top, top + 4), slice(left, left + 4)
            crop = {name: grid[here] for name, grid in grids.items()}
            score, values = slow_cpc(crop, matrices, negatives_of(detector), 1.0)
            weights = np.array([2, 3, 3, 2])[:, None] * np.ones(4)  # predictions of each row
            scores.append(score)
            total[here] += values * weights
            count[here] += weights
    (score,), (grid,) = detector._scores_and_grids(prepared(detector, image[None]))
    np.testing.assert_allclose(float(score), np.mean(scores), rtol=1e-4)
    np.testing.assert_allclose(grid, total / count, rtol=1e-4)


def test_training_on_crops_sees_the_crops():
    detector = make(image_size=96, crop_size=64, crop_stride=32).fit(tiles(6, 96))
    images = prepared(detector, tiles(2, 96))
    embed = detector._trained_embedding(images, detector.encoders_[0])
    crop = images[1:, :, 32:96, 0:64]
    torch.testing.assert_close(
        embed(torch.tensor([4 + 2])), detector._grids(detector.encoders_[0], crop)
    )
    crops = detector._crops(detector._grids(detector.encoders_[0], images))
    torch.testing.assert_close(crops.flatten(0, 1)[[6]], embed(torch.tensor([6])))


def test_no_score_depends_on_its_batch_mates():
    detector = make(share_encoder=False).fit(NORMAL)
    alone = np.concatenate([detector.score_samples(image[None]) for image in TEST])
    np.testing.assert_array_equal(detector.score_samples(TEST), alone)
    np.testing.assert_array_equal(detector.score_samples(TEST[::-1]), alone[::-1])


def test_stored_negatives_are_patches_of_images_that_were_trained_on():
    detector = make(n_scoring_negatives=1000).fit(NORMAL)
    trained = NORMAL[np.isnan(detector.calibration_scores_)]
    assert 0 < len(trained) < 12
    vectors = detector._grids(detector.encoders_[0], prepared(detector, trained)).flatten(0, 2)
    stored = detector.negatives_[0]
    assert len(stored) == len(vectors)
    apart = torch.cdist(stored.double(), vectors.double())
    assert apart.min(1).values.max() < 1e-4
    assert apart.min(0).values.max() < 1e-4


# -- training -------------------------------------------------------------------------------------


def test_a_prediction_is_never_its_own_negative_and_all_others_are():
    own = torch.arange(7).repeat(3)
    others = draw_others(own, 7, 200, torch.Generator().manual_seed(0))
    assert others.shape == (21, 200)
    assert not (others == own[:, None]).any()
    for i, drawn in zip(own.tolist(), others.tolist(), strict=True):
        assert set(drawn) == set(range(7)) - {i}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_training_loss_is_the_mean_over_pairs_in_the_direction(direction, monkeypatch):
    """Every patch a number: pairs are (from, to), negatives any patch but the true one."""
    detector = make(directions=direction).fit(NORMAL)
    grids = torch.eye(2 * 4 * 4).view(2, 4, 4, 32)
    layer, seen = nn.Linear(32, 2 * 32, bias=False), []
    nn.init.eye_(layer.weight[:32]), nn.init.eye_(layer.weight[32:])

    def record(queries, keys, negatives, *, temperature, chosen):
        for query, key, others in zip(queries, keys, negatives[chosen], strict=True):
            assert not (others == key).all(1).any()
            seen.append((int(query.argmax()), int(key.argmax())))
        return queries.sum(1)

    monkeypatch.setattr("anomalib_lite.methods.cpc.info_nce_values", record)
    with torch.no_grad():
        detector._training_loss(grids, direction, layer, torch.Generator().manual_seed(0))
    move = {"down": 4, "up": -4, "right": 1, "left": -1}[direction]
    row_or_column = {"down": 0, "up": 0, "right": 1, "left": 1}[direction]
    assert len(seen) == len(set(seen)) == 2 * 4 * (3 + 2)
    for start, end in seen:
        k = (end - start) // move
        assert k in (1, 2)
        assert end == start + k * move
        places = [np.unravel_index(one, (2, 4, 4)) for one in (start, end)]
        assert places[0][0] == places[1][0]
        assert places[0][2 - row_or_column] == places[1][2 - row_or_column]


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50", "densenet"])
def test_tiles_out_of_turn_are_found(encoder):
    normal = tiles(120)
    test = np.concatenate([tiles(40, seed=1), tiles(40, swapped=2, seed=2)])
    is_odd = np.repeat([False, True], 40)
    width = 16 if encoder == "densenet" else 8
    how = {"train_batch_size": 16, "steps": 3, "width": width, "embedding_dim": 32}
    detector = make(encoder=encoder, epochs=15, **how).fit(normal)
    assert image_auroc(is_odd, detector.anomaly_score(test)) >= 0.95
    untrained = make(encoder=encoder, epochs=0, **how).fit(normal)
    assert image_auroc(is_odd, untrained.anomaly_score(test)) < 0.8


class Halves(nn.Module):
    """Levels of a patch's left and right half, each as one of four."""

    def forward(self, patches):
        pixels = patches[:, 0] * 0.229 + 0.485  # before ImageNet's normalization
        halves = pixels.unflatten(2, (2, -1)).mean((1, 3))  # (P, 2)
        levels = (halves * 4).long().clamp(0, 3)
        return nn.functional.one_hot(levels, 4).float().flatten(1)[..., None, None]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_only_one_direction_sees_what_only_it_can(direction):
    """Bottom-up: a patch's left half names the right half of the patch above it.

    Names in the bottom row are changed. Downwards nothing is predicted from there, and sideways
    nothing is known to predict: matrices of 0. Other directions see the same, turned.
    """
    rng = np.random.default_rng(0)
    halves = rng.integers(4, size=(8, 4, 4, 2))  # images, rows, columns, left and right
    halves[:, 1:, :, 0] = halves[:, :-1, :, 1]
    odd = halves.copy()
    odd[:, -1, :, 0] = (odd[:, -1, :, 0] + 1) % 4
    turns = {"up": 0, "left": 1, "down": 2, "right": -1}[direction]
    normal, odd = (pixels_of(np.rot90(one, turns, (1, 2))) for one in (halves, odd))
    naming = torch.zeros(1, 8, 8)
    naming[0, [4, 5, 6, 7], [0, 1, 2, 3]] = 1  # from the left half's level to the right one's
    sideways = ("left", "right") if direction in ("up", "down") else ("up", "down")
    gained = {}
    for seeing in DIRECTIONS:
        detector = CPC(
            Halves(), directions=seeing, patch_size=16, patch_stride=16, image_size=64, steps=1,
            standardize=False, temperature=0.1, epochs=0, random_state=0,
        ).fit(normal)  # fmt: skip
        detector.whitening_ = None
        detector.predictors_ = {seeing: naming * (seeing not in sideways)}
        detector.negatives_ = [torch.eye(8)[4:]]
        gained[seeing] = detector.anomaly_score(odd) - detector.anomaly_score(normal)
    assert (gained.pop(direction) > 3).all()
    assert len(gained) == 3
    for nothing in gained.values():
        np.testing.assert_array_equal(nothing, 0)


def pixels_of(halves):
    """Images (n, 64, 64) of the levels (n, 4, 4, 2) of their patches' halves."""
    levels = halves.reshape(len(halves), 4, 8).repeat(16, 1).repeat(8, 2)
    return (levels * 64 + 32).astype(np.uint8)


# -- a backbone -----------------------------------------------------------------------------------


def test_a_backbone_stays_as_it_is_and_its_features_are_whitened():
    detector = make(encoder="efficientnet_lite0", embedding_dim=8).fit(NORMAL)
    (backbone,) = detector.encoders_
    fresh = anomalib_lite.backbones.Backbone("efficientnet_lite0", image_size=16)
    assert backbone.weights_sha256 == fresh.weights_sha256
    trained = NORMAL[np.isnan(detector.calibration_scores_)]
    rows = detector._grids(backbone, prepared(detector, trained)).flatten(0, 2).double()
    torch.testing.assert_close(rows.mean(0), torch.zeros(8).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(rows.T.cov(correction=1), torch.eye(8).double(), atol=1e-2, rtol=0)


# -- what is kept aside, saved, refused -----------------------------------------------------------


def test_the_threshold_is_read_from_images_kept_aside():
    detector = make(calibration_fraction=0.5, false_alarm_rate=0.2).fit(NORMAL)
    kept = np.isfinite(detector.calibration_scores_)
    assert kept.sum() == 6
    scores = detector.score_samples(NORMAL)
    np.testing.assert_array_equal(detector.calibration_scores_[kept], scores[kept])
    assert detector.offset_ == np.quantile(scores[kept], 0.2)


def test_watched_images_choose_the_epoch():
    detector = make(validation_fraction=0.3, epochs=4, share_encoder=False).fit(NORMAL)
    assert [len(history) for history in detector.history_] == [4] * 4
    assert "held_out" in detector.history_[0][0]


@pytest.mark.parametrize(
    "params",
    [
        {"encoder": "resnet50", "share_encoder": False},
        {"encoder": "densenet", "directions": ("up", "left")},
        {"encoder": "efficientnet_lite0", "embedding_dim": 8, "normalize": True},
        {"image_size": 96, "crop_size": 64},
    ],
    ids=str,
)
def test_a_saved_one_gives_the_same_bits(params, tmp_path):
    detector = make(**params).fit(NORMAL)
    detector.save(tmp_path / "saved.alite")
    again = anomalib_lite.load(tmp_path / "saved.alite")
    np.testing.assert_array_equal(again.score_samples(TEST), detector.score_samples(TEST))
    np.testing.assert_array_equal(again.anomaly_map(TEST), detector.anomaly_map(TEST))


def test_color_is_seen_where_there_was_some():
    rng = np.random.default_rng(0)
    color = NORMAL[..., None] * rng.uniform(0.5, 1, 3)
    assert make().fit(color.astype(np.uint8))._how_["n_channels"] == 3
    gray = make().fit(NORMAL)
    assert gray._how_["n_channels"] == 1
    np.testing.assert_allclose(
        gray.score_samples(np.stack([TEST] * 3, -1)), gray.score_samples(TEST), rtol=1e-5
    )


def test_brightness_and_contrast_of_an_image_do_not_count():
    detector = make().fit(NORMAL / 255)
    scores = detector.score_samples(TEST / 255)
    np.testing.assert_allclose(detector.score_samples(TEST / 255 * 0.5 + 0.3), scores, rtol=1e-4)


def test_a_learning_rate_that_cannot_suffice_is_warned_of():
    with pytest.warns(UserWarning, match=r"learning_rate: 16 steps of Adam at 1e-05"):
        make(learning_rate=1e-5, epochs=2, train_batch_size=1, calibration_fraction=0.34).fit(
            NORMAL
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().fit(NORMAL)
        make(epochs=0, learning_rate=1e-5).fit(NORMAL)
        make(learning_rate=0.0).fit(NORMAL)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"directions": 5}, "directions: expected 1 to 4"),
        ({"directions": True}, "directions"),
        ({"directions": "sideways"}, "directions: .*'sideways'"),
        ({"directions": ("up", "up")}, "directions: .*each once"),
        ({"directions": ()}, "directions"),
        ({"width": 5}, "width: expected an even int"),
        ({"width": 0}, "width"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"patch_size": 4}, "patch_size: expected an int of at least 8"),
        ({"patch_size": 65}, "patch_size: 65 px do not fit"),
        ({"patch_size": 64}, "patch_size: the grid has 1 x 1"),
        ({"patch_stride": 0}, "patch_stride"),
        ({"crop_stride": 16}, "crop_stride: there are no crops"),
        ({"crop_size": 65}, "crop_size: expected 16"),
        ({"crop_size": 40}, "crop_size: .* no multiple of 16"),
        ({"crop_size": 32, "crop_stride": 24}, "crop_size: .*crop_stride = 24"),
        ({"image_size": 80, "crop_size": 32, "crop_stride": 32}, "crop_size: .*image side"),
        ({"steps": 0}, "steps"),
        ({"n_negatives": 0}, "n_negatives"),
        ({"n_scoring_negatives": 1.5}, "n_scoring_negatives"),
        ({"temperature": 0}, "temperature: expected a positive number"),
        ({"epochs": -1}, "epochs"),
        ({"train_batch_size": 0}, "train_batch_size"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"optimizer": "lion"}, "optimizer"),
        ({"schedule": "linear"}, "schedule"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"clip_norm": -1}, "clip_norm"),
        ({"calibration_fraction": 1}, "calibration_fraction"),
        ({"calibration_fraction": 0.99}, "calibration_fraction: .*none is left"),
        ({"validation_fraction": -0.1}, "validation_fraction"),
        (
            {"encoder": "no_such_net"},
            "encoder: 'no_such_net' is none of 'resnet18', .*: backbone: timm knows no network",
        ),
    ],
    ids=str,
)
def test_parameters_that_make_no_sense_are_refused(params, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**params).fit(NORMAL)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 3 images"):
        make().fit(NORMAL[:2])
