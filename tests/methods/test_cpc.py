"""CPC against a literal reading, and on layouts whose rows predict the next."""

import math
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
from anomalib_lite.backbones import Backbone
from anomalib_lite.data import ImageStream
from anomalib_lite.methods.cpc import DIRECTIONS, CPCScoring, TileLayout, prediction
from anomalib_lite.methods.cpc.encoders import make_encoder
from anomalib_lite.metrics import image_auroc
from anomalib_lite.nn import DenseEncoder, ResidualEncoder

NORMAL = tiles(12)
TEST = np.concatenate([tiles(3, swapped=2, seed=1), tiles(3, seed=2)])
TILED = {"image_size": 96, "tile_size": 64, "tile_stride": 32}


def make(**params):
    return small(CPC, **{"patch_stride": 16, "epochs": 2, **params})


def seed(value=0):
    return torch.Generator().manual_seed(value)


@pytest.fixture(scope="module")
def fitted():
    return make(n_scoring_negatives=20).fit(NORMAL)


@pytest.fixture(scope="module")
def frozen():
    """Over a frozen pretrained backbone, which is shared in any case."""
    how = {"embedding_dim": 8, "normalize": True, "share_encoder": False}
    return make(backbone="efficientnet_lite0", **how).fit(NORMAL)


@pytest.fixture(scope="module")
def tiled():
    """Two encoders on overlapping tiles."""
    params = {"backbone": "densenet", "directions": ("up", "left"), "share_encoder": False}
    return make(**params, **TILED).fit(tiles(6, 96))


# -- a literal reading ----------------------------------------------------------------------------


def encoder_input(detector, images):
    """Images (n, C, h, w) as its encoders take them."""
    batch = detector.input_.batch(list(ImageStream(images)))
    if isinstance(detector.encoders_[0], nn.Module):
        batch = batch[:, : detector.encoders_[0].arguments["n_channels"]]
    if detector.standardize:
        values = batch.flatten(1).double()
        mean, std = values.mean(1), values.std(1, correction=0)
        batch = ((batch - mean[:, None, None, None]) / std[:, None, None, None]).float()
    return batch


def embedded(detector, encoder, patches):
    """Vectors (n, D) of patches (n, C, h, w)."""
    if isinstance(encoder, Backbone):
        maps = encoder(patches)
        vectors = detector.whitening_.encode(torch.cat([grid.mean((2, 3)) for grid in maps], 1))
    else:
        vectors = encoder(patches)
    return vectors / vectors.norm(dim=1, keepdim=True) if detector.normalize else vectors


def directions_of(detector):
    """The directions of each encoder."""
    names = list(detector.predictors_)
    return [names] if len(detector.encoders_) == 1 else [[name] for name in names]


def literal(detector, image):
    """(grids, matrices, negatives) of an image, for ``slow_cpc``: patch by patch."""
    pixels = encoder_input(detector, image[None])
    size, stride = detector.patch_size, detector.patch_stride
    starts = range(0, pixels.shape[-1] - size + 1, stride)
    grids, negatives = {}, {}
    for names, encoder, stored in zip(
        directions_of(detector), detector.encoders_, detector.negatives_, strict=True
    ):
        rows = [
            [
                embedded(detector, encoder, pixels[..., y : y + size, x : x + size])[0]
                for x in starts
            ]
            for y in starts
        ]
        for name in names:
            grids[name] = torch.stack([torch.stack(row) for row in rows]).numpy()
            negatives[name] = stored.numpy()
    matrices = {name: matrix.numpy() for name, matrix in detector.predictors_.items()}
    return grids, matrices, negatives


def inferred(detector, image):
    """(score, values of patches) of an image."""
    (score,), (grid,) = detector._infer(detector.input_.batch(list(ImageStream(image[None]))))
    return float(score), grid


@pytest.mark.parametrize(
    "params",
    [
        {"directions": "down"},
        {"directions": ("left", "up"), "prediction_steps": 5, "share_encoder": False},
        {"normalize": True, "temperature": 0.3},
        {"backbone": "convnet", "weights": "random", "layers": "last"},
        {"backbone": "densenet", "standardize": False, "temperature": 2.0},
        pytest.param({"share_encoder": False}, marks=pytest.mark.slow),
        pytest.param({"backbone": "resnet50", "patch_size": 32}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_score_and_values_are_those_of_five_loops(params):
    detector = make(n_scoring_negatives=20, **params).fit(NORMAL)
    for image in TEST[:2]:
        expected, values = slow_cpc(
            *literal(detector, image), detector.temperature, detector.normalize
        )
        score, grid = inferred(detector, image)
        assert score == pytest.approx(expected, rel=1e-4)
        np.testing.assert_allclose(grid, values, rtol=1e-4, atol=1e-5)


def test_default_score_and_values_are_those_of_five_loops(fitted):
    expected, values = slow_cpc(*literal(fitted, TEST[0]), 1.0)
    score, grid = inferred(fitted, TEST[0])
    assert score == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(grid, values, rtol=1e-4, atol=1e-5)
    assert fitted.anomaly_score(TEST[:1]) == score


def test_oracle_has_teeth():
    rng = np.random.default_rng(0)
    grids, matrices = {"down": rng.normal(size=(3, 2, 4))}, {"down": rng.normal(size=(2, 4, 4))}
    negatives = {"down": rng.normal(size=(5, 4))}
    score, _ = slow_cpc(grids, matrices, negatives, 1.0)
    assert abs(slow_cpc(grids, matrices, negatives, 1.1)[0] - score) > 1e-3
    assert abs(slow_cpc({"up": grids["down"]}, {"up": matrices["down"]},
                        {"up": negatives["down"]}, 1.0)[0] - score) > 1e-3  # fmt: skip


def test_tiles_are_scored_as_images_of_their_own(tiled):
    image = tiles(1, 96, swapped=3, seed=5)[0]
    grids, matrices, negatives = literal(tiled, image)
    # by each of two steps of each direction
    up, left = (np.rot90(np.array([0, 1, 2, 2])[:, None] * np.ones(4), turns) for turns in (2, -1))
    n_predictions = up + left  # of each patch of a tile
    scores, total, count = [], np.zeros((6, 6)), np.zeros((6, 6))
    for top in (0, 2):
        for left in (0, 2):
            here = slice(top, top + 4), slice(left, left + 4)
            tile = {name: grid[here] for name, grid in grids.items()}
            score, values = slow_cpc(tile, matrices, negatives, 1.0)
            scores.append(score)
            total[here] += values * n_predictions
            count[here] += n_predictions
    score, grid = inferred(tiled, image)
    assert score == pytest.approx(np.mean(scores), rel=1e-4)
    assert np.argwhere(count == 0).tolist() == [[5, 5]]  # predicted from nowhere
    total[5, 5], count[5, 5] = values[3, 3], 1
    np.testing.assert_allclose(grid, total / count, rtol=1e-4)


def test_scores_do_not_depend_on_the_other_images_of_the_call(fitted):
    alone = np.concatenate([fitted.score_samples(image[None]) for image in TEST])
    np.testing.assert_array_equal(fitted.score_samples(TEST), alone)
    np.testing.assert_array_equal(fitted.score_samples(TEST[::-1]), alone[::-1])


def test_maps_spread_values_around_the_centers_of_patches(fitted):
    _, grid = inferred(fitted, TEST[0])
    centers = np.array([8, 24, 40, 56])
    for row, column in ((0, 0), (15, 30), (63, 41)):
        squares = np.add.outer((row + 0.5 - centers) ** 2, (column + 0.5 - centers) ** 2)
        weights = np.exp(-squares / (2 * fitted.smoothing**2))
        expected = (weights * grid.numpy()).sum() / weights.sum()
        (found,) = fitted.anomaly_map(TEST[:1])
        assert found[row, column] == pytest.approx(expected, rel=1e-4)


def test_later_changes_of_parameters_do_not_alter_scores(fitted):
    detector = make(n_scoring_negatives=20).fit(NORMAL)
    with pytest.warns(UserWarning, match="changed after fit"):
        detector.set_params(
            patch_size=32, patch_stride=8, tile_size=32, directions=1, share_encoder=False,
            standardize=False, normalize=True, temperature=3.0, prediction_steps=1,
        )  # fmt: skip
    np.testing.assert_array_equal(detector.score_samples(TEST), fitted.score_samples(TEST))
    np.testing.assert_array_equal(detector.anomaly_map(TEST), fitted.anomaly_map(TEST))


# -- layout ---------------------------------------------------------------------------------------


def test_the_published_layout_has_25_tiles_and_529_patches():
    layout = TileLayout.of_parameters((768, 768), 64, 32, tile_size=256)
    assert (layout.n_tiles, layout.grid_shape, layout.tile_shape) == (25, (23, 23), (7, 7))
    assert layout.patches(torch.zeros(1, 1, 768, 768)).shape == (1, 23, 23, 1, 64, 64)


def test_without_tiles_the_image_is_one_and_patches_reach_its_border():
    layout = TileLayout.of_parameters((64, 50), 16, 12)
    assert (layout.n_tiles, layout.grid_shape, layout.tile_shape) == (1, (5, 4), (5, 4))
    images = torch.rand(2, 1, 64, 50, generator=seed())
    assert torch.equal(layout.patches(images)[1, 4, 3], images[1, :, 48:, 34:])
    assert torch.equal(layout.tiles(images, torch.arange(2)), images)
    grids = torch.rand(2, 5, 4, 3, generator=seed())
    assert torch.equal(layout.tile_grids(grids)[:, 0], grids)


def test_tiles_are_counted_image_by_image_and_row_by_row():
    layout = TileLayout.of_parameters((96, 128), 16, 16, tile_size=64, tile_stride=32)
    images = torch.rand(3, 2, 96, 128, generator=seed())
    index = layout.tile_index(torch.tensor([2, 0]))
    assert index.tolist() == [12, 13, 14, 15, 16, 17, 0, 1, 2, 3, 4, 5]
    found = layout.tiles(images, torch.tensor([6 + 5, 1]))
    assert torch.equal(found[0], images[1, :, 32:96, 64:128])
    assert torch.equal(found[1], images[0, :, 0:64, 32:96])


def test_grids_of_tiles_are_tiles_of_the_grid_and_add_up():
    layout = TileLayout.of_parameters((96, 128), 16, 16, tile_size=64, tile_stride=32)
    images = torch.rand(2, 1, 96, 128, generator=seed())
    means = layout.patches(images).mean((4, 5))  # (2, 6, 8, 1)
    of_tiles = layout.patches(layout.tiles(images, torch.arange(12))).mean((4, 5))
    tile_grids = layout.tile_grids(means)
    assert torch.equal(tile_grids.flatten(0, 1), of_tiles)
    summed = layout.add_tiles(tile_grids[..., 0].transpose(0, 1))
    along = torch.tensor([1.0, 1, 2, 2, 1, 1]), torch.tensor([1.0, 1, 2, 2, 2, 2, 1, 1])
    torch.testing.assert_close(summed, means[..., 0] * torch.outer(*along))


def test_drawn_patches_are_different_ones_of_the_images_named():
    layout = TileLayout.of_parameters((40, 32), 16, 12)
    images = torch.rand(4, 2, 40, 32, generator=seed())
    named = torch.tensor([3, 1])
    every = layout.patches(images[named]).flatten(0, 2)
    drawn = layout.draw_patches(images, named, 1000, seed())
    assert sorted(drawn.flatten(1).tolist()) == sorted(every.flatten(1).tolist())
    some = layout.draw_patches(images, named, 5, seed())
    assert torch.equal(some, drawn[:5])
    assert not torch.equal(layout.draw_patches(images, named, 5, seed(1)), some)


# -- the training loss ----------------------------------------------------------------------------


def scoring(**options):
    defaults = {"directions": ("down",), "shared": True, "standardize": True}
    return CPCScoring(**defaults, **{"normalize": False, "temperature": 1.0} | options)


def test_negatives_are_all_patches_but_the_true_one():
    own = torch.arange(7).repeat(3)
    others = prediction.draw_others(own, 7, 200, seed())
    assert others.shape == (21, 200)
    for i, drawn in zip(own.tolist(), others.tolist(), strict=True):
        assert set(drawn) == set(range(7)) - {i}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_training_contrasts_every_pair_in_the_direction(direction, monkeypatch):
    """Every patch a number: pairs are (from, to), negatives any patch but the true one."""
    grids, matrices, seen = (
        torch.eye(2 * 4 * 4).view(2, 4, 4, 32),
        torch.eye(32).repeat(2, 1, 1),
        [],
    )

    def record(queries, keys, negatives, *, temperature, chosen):
        for query, key, others in zip(queries, keys, negatives[chosen], strict=True):
            assert not (others == key).all(1).any()
            seen.append((int(query.argmax()), int(key.argmax())))
        return queries.sum(1)

    monkeypatch.setattr(prediction, "info_nce_values", record)
    prediction.training_loss(grids, direction, matrices, 16, scoring(), seed())
    move = {"down": 4, "up": -4, "right": 1, "left": -1}[direction]
    axis = {"down": 1, "up": 1, "right": 2, "left": 2}[direction]
    assert len(seen) == len(set(seen)) == 2 * 4 * (3 + 2)
    for start, end in seen:
        k = (end - start) // move
        assert k in (1, 2)
        assert end == start + k * move
        places = [np.unravel_index(one, (2, 4, 4)) for one in (start, end)]
        assert places[0][0] == places[1][0]
        assert places[0][3 - axis] == places[1][3 - axis]


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.5}, {"normalize": True, "temperature": 0.2}], ids=str
)
@pytest.mark.parametrize("n_negatives", [1, 3])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_the_training_loss_of_two_patches_is_known(direction, n_negatives, options):
    """The other patch is the only negative there is."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3))
    matrix = rng.normal(size=(3, 3))
    if direction in ("up", "left"):
        first, second = second, first
    how = scoring(**options)
    predicted = matrix @ first
    if how.normalize:
        predicted /= np.linalg.norm(predicted)
    true, other = predicted @ second / how.temperature, predicted @ first / how.temperature
    expected = -math.log(math.exp(true) / (math.exp(true) + n_negatives * math.exp(other)))
    pair = (first, second) if direction in ("down", "right") else (second, first)
    shape = (1, 2, 1, 3) if direction in ("down", "up") else (1, 1, 2, 3)
    loss = prediction.training_loss(
        torch.from_numpy(np.stack(pair)).view(shape),
        direction,
        torch.from_numpy(matrix)[None],
        n_negatives,
        how,
        seed(),
    )
    assert float(loss) == pytest.approx(expected)


def test_predictions_that_tell_nothing_cost_the_log_of_the_number_of_vectors():
    how = {"normalize": True, "temperature": 1e4, "directions": 1, "epochs": 1}
    detector = make(n_negatives=7, n_scoring_negatives=20, **how).fit(NORMAL)
    assert detector.history_[0][0]["loss"] == pytest.approx(math.log(1 + 7), abs=1e-3)
    assert detector.anomaly_score(TEST) == pytest.approx(math.log(1 + 20), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "patch_size", "kind", "n_blocks", "pools"),
    [
        ("resnet18", 31, ResidualEncoder, 6, False),
        ("resnet18", 32, ResidualEncoder, 6, True),
        ("resnet50", 64, ResidualEncoder, 13, True),
        ("densenet", 16, DenseEncoder, 6, False),
    ],
)
def test_encoders_are_those_of_their_names(name, patch_size, kind, n_blocks, pools):
    encoder = make_encoder(name, 1, 24, 4, patch_size)
    assert type(encoder) is kind
    assert (encoder.arguments["n_channels"], encoder.arguments["width"]) == (1, 4)
    layers = [type(layer).__name__ for layer in encoder.maps]
    assert sum(name.startswith("_") for name in layers) == n_blocks
    assert ("MaxPool2d" in layers) == pools
    assert encoder.arguments.get("bottleneck", False) == (name == "resnet50")
    assert encoder(torch.zeros(2, 1, patch_size, patch_size)).shape == (2, 24)


@pytest.mark.parametrize("share_encoder", [False, True])
def test_every_encoder_and_every_matrix_is_trained(share_encoder):
    how = {"directions": 2, "share_encoder": share_encoder, "embedding_dim": 8}
    trained, initial = (make(**how, epochs=epochs).fit(NORMAL) for epochs in (2, 0))
    assert len(trained.encoders_) == (1 if share_encoder else 2)
    for one, other in zip(trained.encoders_, initial.encoders_, strict=True):
        for name, value in one.state_dict().items():
            assert not torch.equal(value, other.state_dict()[name]), name
    assert list(trained.predictors_) == ["down", "up"]
    for name, matrices in trained.predictors_.items():
        assert matrices.shape == (2, 8, 8)
        assert (matrices != initial.predictors_[name]).flatten(1).any(1).all()


@pytest.mark.parametrize(
    "backbone",
    [
        "resnet18",
        pytest.param("resnet50", marks=pytest.mark.slow),
        pytest.param("densenet", marks=pytest.mark.slow),
    ],
)
def test_swapped_tiles_are_found_after_training_only(backbone):
    normal = tiles(120)
    test = np.concatenate([tiles(40, seed=1), tiles(40, swapped=2, seed=2)])
    is_odd = np.repeat([False, True], 40)
    width = 16 if backbone == "densenet" else 8
    how = {"train_batch_size": 16, "prediction_steps": 3, "width": width, "embedding_dim": 32}
    detector = make(backbone=backbone, epochs=15, **how).fit(normal)
    assert image_auroc(is_odd, detector.anomaly_score(test)) >= 0.95
    untrained = make(backbone=backbone, epochs=0, **how).fit(normal)
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
            Halves(), directions=seeing, patch_size=16, patch_stride=16, image_size=64,
            prediction_steps=1, standardize=False, temperature=0.1, epochs=0, random_state=0,
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


def test_a_backbone_stays_as_it_is_and_its_features_are_whitened(frozen):
    (backbone,) = frozen.encoders_
    assert backbone.input.image_size == (16, 16)
    assert backbone.weights_sha256 == Backbone("efficientnet_lite0", image_size=16).weights_sha256
    trained = NORMAL[np.isnan(frozen.calibration_scores_)]
    patches = encoder_input(frozen, trained).unfold(2, 16, 16).unfold(3, 16, 16)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    features = torch.cat([grid.mean((2, 3)) for grid in backbone(patches)], 1)
    rows = frozen.whitening_.encode(features).double()
    torch.testing.assert_close(rows.mean(0), torch.zeros(8).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(rows.T.cov(correction=1), torch.eye(8).double(), atol=1e-2, rtol=0)


def test_random_weights_of_a_backbone_follow_the_random_state():
    how = {"backbone": "convnet", "weights": "random", "layers": "last", "epochs": 0}
    hashes = [
        make(**how, random_state=seed).fit(NORMAL).encoders_[0].weights_sha256 for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


class Relative(nn.Module):
    """Differences from the first pixel over the largest of them: NaN in constant patches."""

    def forward(self, patches):
        apart = patches - patches[..., :1, :1]
        return apart / apart.abs().amax((1, 2, 3), keepdim=True)


def test_an_image_whose_features_are_nan_is_refused_by_name():
    images = NORMAL.copy()
    images[3] = 100
    with pytest.raises(ValueError, match=r"image 3: the backbone gives NaN"):
        make(backbone=Relative()).fit(images)


@pytest.mark.slow
def test_a_backbone_may_be_run_by_onnx_runtime():
    pytest.importorskip("onnxruntime")
    how = {"backbone": "convnet", "weights": "random", "layers": "last"}
    slow, fast = (make(**how, engine=engine).fit(NORMAL) for engine in ("torch", "onnxruntime"))
    np.testing.assert_allclose(fast.score_samples(TEST), slow.score_samples(TEST), rtol=1e-3)
    assert fast.encoders_[0].to_state()["engine"] == "onnxruntime"


# -- calibration, files, colors -------------------------------------------------------------------


def test_the_threshold_is_a_quantile_of_images_kept_out_of_training():
    detector = make(calibration_fraction=0.5, false_alarm_rate=0.2).fit(NORMAL)
    kept_out = np.isfinite(detector.calibration_scores_)
    assert kept_out.sum() == 6
    scores = detector.score_samples(NORMAL)
    np.testing.assert_array_equal(detector.calibration_scores_[kept_out], scores[kept_out])
    assert detector.offset_ == np.quantile(scores[kept_out], 0.2, method="weibull")


def test_one_image_at_least_is_kept_out_of_training():
    detector = make(calibration_fraction=0.0, directions=1, epochs=0).fit(NORMAL)
    assert np.isfinite(detector.calibration_scores_).sum() == 1
    assert np.isfinite(detector.offset_)


def test_stored_negatives_are_patches_of_training_images():
    detector = make(n_scoring_negatives=1000, directions=1).fit(NORMAL)
    trained = NORMAL[np.isnan(detector.calibration_scores_)]
    assert 0 < len(trained) < 12
    patches = encoder_input(detector, trained).unfold(2, 16, 16).unfold(3, 16, 16)
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    vectors = detector.encoders_[0](patches)
    (stored,) = detector.negatives_
    assert len(stored) == len(vectors)
    apart = torch.cdist(stored.double(), vectors.double())
    assert apart.min(1).values.max() < 1e-4
    assert apart.min(0).values.max() < 1e-4


def test_validation_images_choose_the_epoch():
    """Steps 300 times as large undo, from the third epoch on, what was learned."""
    how = {"validation_fraction": 0.3, "directions": 1, "learning_rate": 0.03}
    spoiled = make(**how, epochs=4, schedule=lambda done: 1.0 if done < 0.5 else 300.0).fit(NORMAL)
    losses = [entry["held_out"] for entry in spoiled.history_[0]]
    assert len(losses) == 4
    assert losses[1] < min(losses[0], *losses[2:])
    shorter = make(**how, epochs=2).fit(NORMAL)
    assert torch.equal(spoiled.predictors_["down"], shorter.predictors_["down"])


@pytest.mark.parametrize("name", ["frozen", "tiled"])
def test_a_saved_detector_gives_the_same_bits(name, request, tmp_path):
    check_saved(request.getfixturevalue(name), tmp_path)


@pytest.mark.slow
def test_a_saved_resnet50_gives_the_same_bits(tmp_path):
    check_saved(make(backbone="resnet50", share_encoder=False).fit(NORMAL), tmp_path)


def check_saved(detector, folder):
    detector.save(folder / "saved.alite")
    again = anomalib_lite.load(folder / "saved.alite")
    np.testing.assert_array_equal(again.score_samples(TEST), detector.score_samples(TEST))
    np.testing.assert_array_equal(again.anomaly_map(TEST), detector.anomaly_map(TEST))


def test_encoders_read_color_where_images_of_fit_have_some(fitted):
    rng = np.random.default_rng(0)
    color = (NORMAL[..., None] * rng.uniform(0.5, 1, 3)).astype(np.uint8)
    in_color = make(directions=1).fit(color)
    assert in_color.encoders_[0].arguments["n_channels"] == 3
    assert fitted.encoders_[0].arguments["n_channels"] == 1
    np.testing.assert_allclose(
        fitted.score_samples(np.stack([TEST] * 3, -1)), fitted.score_samples(TEST), rtol=1e-5
    )
    swapped = color[:3, ..., [2, 0, 1]]
    assert (in_color.score_samples(swapped) != in_color.score_samples(color[:3])).all()


def test_brightness_and_contrast_of_an_image_do_not_count():
    detector = make(directions=1).fit(NORMAL / 255)
    scores = detector.score_samples(TEST / 255)
    np.testing.assert_allclose(detector.score_samples(TEST / 255 * 0.5 + 0.3), scores, rtol=1e-4)


# -- what is refused or warned of -----------------------------------------------------------------


def test_a_learning_rate_that_cannot_suffice_is_warned_of():
    quick = {"directions": 1, "embedding_dim": 4, "patch_stride": 24, "false_alarm_rate": 0.3}
    with pytest.warns(UserWarning, match=r"learning_rate: 16 steps of Adam at 1e-05"):
        make(learning_rate=1e-5, train_batch_size=1, **quick).fit(NORMAL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(**quick).fit(NORMAL)
        make(epochs=0, learning_rate=1e-5, **quick).fit(NORMAL)
        make(learning_rate=0.0, **quick).fit(NORMAL)
        make(learning_rate=1e-5, optimizer="sgd", **quick).fit(NORMAL)


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
        ({"image_size": (16, 64), "directions": "up"}, "patch_size: .* nothing to predict upwards"),
        ({"patch_stride": 0}, "patch_stride"),
        ({"tile_size": 0}, "tile_size"),
        ({"tile_stride": 0}, "tile_stride"),
        ({"tile_stride": 16}, "tile_stride: expected a tile_size with it"),
        ({"tile_size": 65}, "tile_size: expected 16"),
        ({"tile_size": 15}, "tile_size: expected 16"),
        ({"tile_size": 40}, "tile_size: .* no multiple of 16"),
        ({"tile_size": 32, "tile_stride": 24}, "tile_size: .*tile_stride = 24"),
        ({"image_size": 80, "tile_size": 32, "tile_stride": 32}, "tile_size: .*image side"),
        ({"prediction_steps": 0}, "prediction_steps"),
        ({"n_negatives": 0}, "n_negatives"),
        ({"n_scoring_negatives": 1.5}, "n_scoring_negatives"),
        ({"temperature": 0}, "temperature: expected a positive number"),
        ({"temperature": -1}, "temperature"),
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
        ({"engine": "onnxruntime"}, "engine: expected 'torch' for 'resnet18', which is trained"),
        ({"backbone": "convnet", "weights": "random", "engine": "tpu"}, "engine: .*'tpu'"),
        ({"backbone": "convnet", "weights": "random", "dtype": "int8"}, "dtype: .*'int8'"),
        ({"backbone": "efficientnet_lite0", "layers": (7,)}, "layers: 7 is not there"),
        (
            {"backbone": "no_such_net"},
            "backbone: 'no_such_net' is none of 'resnet18', .*: backbone: timm knows no network",
        ),
    ],
    ids=str,
)
def test_invalid_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**params).fit(NORMAL)


def test_too_few_images_are_refused():
    with pytest.raises(ValueError, match="at least 3 images"):
        make().fit(NORMAL[:2])


@pytest.mark.parametrize("name", ["trained", "frozen", "tiled"])
def test_a_fit_is_the_same_by_any_number_of_workers(name):
    how = {
        "trained": {"share_encoder": False},
        "frozen": {"backbone": "efficientnet_lite0", "embedding_dim": 8},
        "tiled": {"directions": ("up", "left"), "share_encoder": False, **TILED},
    }[name]
    one, many = (make(**how, epochs=1, n_jobs=n).fit(NORMAL) for n in (1, 3))
    np.testing.assert_array_equal(one.calibration_scores_, many.calibration_scores_)
    np.testing.assert_array_equal(one.score_samples(TEST), many.score_samples(TEST))
    assert one.history_ == many.history_
