import numpy as np
import pytest
import torch
from oracles import slow_distances, slow_window_map
from worlds import SCALES, frames, scratched, stripes

from anomalib_lite import MLSAD, load
from anomalib_lite.methods import mlsad
from anomalib_lite.methods.mlsad import _decay, window_map
from anomalib_lite.metrics import image_auroc

NORMAL = stripes(8, 16)
HALVES = np.broadcast_to(np.repeat([40, 220], 8).astype(np.uint8), (12, 16, 16)).copy()


def small(levels=(1, 2), **params):
    how = {
        "fakes": "resample",
        "image_size": 16,
        "width": 4,
        "n_blocks": 1,
        "dropout": 0.0,
        "n_fakes": 20,
        "epochs": 4,
        "learning_rate": 0.02,
        "random_state": 0,
    }
    return MLSAD(levels, **{**how, **params})


# -- the planted world ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "finds", "is_blind_to"), [(1, "pixel", "pair"), (2, "pair", "arrangement")]
)
def test_a_level_finds_what_is_odd_at_its_scale(level, finds, is_blind_to):
    detector = small((level,), image_size=24, width=8, epochs=20, n_fakes=200, learning_rate=0.01)
    detector.fit(frames(80))
    good, truth = frames(60, seed=1), np.repeat([0, 1], 60)
    auroc = {
        scale: image_auroc(
            truth, detector.anomaly_score(np.concatenate([good, frames(60, scale, seed=2)]))
        )
        for scale in SCALES
    }
    assert auroc[finds] > 0.9
    assert auroc[is_blind_to] < 0.65


def test_what_is_odd_at_a_scale_is_as_ever_below_it():
    """Windows of half the scale, each at its place, occur in normal images."""
    normal, below = frames(400), {"pair": 1, "part": 4, "arrangement": 8}
    assert SCALES == ("pixel", *below)
    for scale, level in below.items():
        odd = frames(5, scale, seed=3)
        for row, column in np.ndindex(25 - level, 25 - level):
            place = np.s_[:, row : row + level, column : column + level]
            known, seen = (images[place].reshape(len(images), -1) for images in (normal, odd))
            apart = np.abs(seen[:, None].astype(int) - known).max(2).min(1)
            assert apart.max() < 20  # noise alone


def test_maps_show_the_place():
    detector = small((1, 2), epochs=60).fit(HALVES)
    odd = HALVES[:1].copy()
    odd[:, 3, 4] = 130
    heat = detector.set_params(smoothing=0).anomaly_map(odd)[0]
    assert np.unravel_index(heat.argmax(), heat.shape) == (3, 4)


# -- places ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop_size", [None, 8])
def test_values_in_the_wrong_place_are_found(crop_size):
    how = {"crop_size": crop_size, "width": 16, "learning_rate": 0.01}
    swapped = HALVES[:, :, ::-1].copy()
    told, untold = (
        small((1,), epochs=100, position=position, **how).fit(HALVES) for position in (True, False)
    )
    gaps = [one.anomaly_score(swapped)[0] - one.anomaly_score(HALVES)[0] for one in (told, untold)]
    assert gaps[0] > 0.2
    assert abs(gaps[1]) < 1e-6


def test_without_position_a_window_is_the_same_everywhere():
    detector = small((4,), position=False).fit(NORMAL)
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    (grid,), (moved,) = (list(detector._grids(x)) for x in (image, image.roll(2, 3)))
    torch.testing.assert_close(grid[..., :-2], moved[..., 2:])


# -- learning -------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """What fakes were asked for: (kind, level, shape of the images, options)."""
    calls, make = [], mlsad.make_fakes

    def recorded(kind, level, images, generator, **options):
        calls.append((kind, level, tuple(images.shape), options))
        return make("resample", level, images, generator)

    monkeypatch.setattr(mlsad, "make_fakes", recorded)
    return calls


def test_each_level_is_contrasted_with_the_one_below(asked):
    small((1, 2, 4, 8, 16), epochs=1).fit(NORMAL)
    assert [level for _, level, *_ in asked] == [0, 1, 2, 4, 8]
    asked.clear()
    small((8,), epochs=1, fakes="gan", fake_options={"steps": 7}).fit(NORMAL)
    options = {"position": True, "verbose": False, "steps": 7}
    assert asked == [("gan", 4, (6, 1, 16, 16), options)]


def test_images_kept_aside_are_learned_by_nobody(asked):
    detector = small((1,), calibration_fraction=0.5).fit(NORMAL)
    assert asked[0][2] == (4, 1, 16, 16)
    kept = ~np.isnan(detector.calibration_scores_)
    assert kept.sum() == 4
    np.testing.assert_array_equal(
        detector.calibration_scores_[kept], detector.score_samples(NORMAL[kept])
    )


def test_fakes_of_crops_are_crops(asked):
    detector = small((1, 2), crop_size=8).fit(NORMAL)
    assert [shape for _, _, shape, _ in asked] == [(1000, 1, 8, 8)] * 2
    assert detector.anomaly_map(NORMAL[:2]).shape == (2, 16, 16)


def test_the_loss_is_that_of_the_pairs(monkeypatch):
    """Of a detector that knows nothing, and so says one half: log 2 each, weighted."""

    def nothing(self, x, coordinates):
        odds = 0 * (self.head[0].weight.sum() + coordinates.expand(len(x), -1, -1, -1))
        return odds[:, 0]

    monkeypatch.setattr(mlsad.PatchDetector, "forward", nothing)
    for structure, position, is_told, total in (
        (0.5, 0.5, True, 2),
        (0.3, 0.9, True, 2.2),
        (1, 0, True, 2),
        (1, 1, False, 2),
    ):
        detector = small(
            (1,), structure_weight=structure, position_weight=position, position=is_told
        ).fit(NORMAL)
        assert detector.history_[0][0]["loss"] == pytest.approx(total * np.log(2), rel=1e-5)


def test_rates_fall_after_half_and_three_quarters():
    assert [round(_decay(done), 2) for done in (0, 0.49, 0.5, 0.74, 0.75, 0.99)] == [
        1, 1, 0.3, 0.3, 0.09, 0.09,
    ]  # fmt: skip
    history = small((1,), epochs=4).fit(NORMAL).history_[0]
    rates = [entry["learning_rate"] for entry in history]
    np.testing.assert_allclose(rates, [0.02, 0.02, 0.006, 0.0018])


# -- scores ---------------------------------------------------------------------------------------


def test_the_score_is_the_weighted_mean_of_levels():
    for weights in ("equal", [3, 1]):
        detector = small(level_weights=weights).fit(NORMAL)
        levels = detector.level_scores(scratched(3, 16))
        assert levels.shape == (3, 2)
        expected = levels @ detector.level_weights_.numpy()
        np.testing.assert_allclose(detector.anomaly_score(scratched(3, 16)), expected, rtol=1e-5)
        assert float(detector.level_weights_.sum()) == pytest.approx(1)
        expected = [0.5, 0.5] if weights == "equal" else [0.75, 0.25]
        np.testing.assert_allclose(detector.level_weights_, expected)


@pytest.mark.parametrize("crop_size", [None, 8])
def test_held_out_weights_are_distances_over_variances(monkeypatch, crop_size):
    drawn, make = [], mlsad.make_fakes

    class Remembered:
        def __init__(self, *arguments):
            self.source = make(*arguments)

        def sample(self, n, generator):
            drawn.append(self.source.sample(n, generator))
            return drawn[-1]

    monkeypatch.setattr(mlsad, "make_fakes", Remembered)
    detector = small(level_weights="held_out", crop_size=crop_size, epochs=40).fit(NORMAL)
    kept = NORMAL[~np.isnan(detector.calibration_scores_)]
    normal, weights = detector.level_scores(kept), detector.level_weights_.numpy()
    side, first = (16, 0) if crop_size is None else (8, 4)  # crops are put in the middle
    fakes = torch.cat([some[: len(kept)] for some in drawn])
    expected = []
    for scores, network in zip(normal.T, detector.detectors_, strict=True):
        part = slice(first, first + side - network.level + 1)
        places = mlsad.coordinate_maps((17 - network.level,) * 2)[:, part, part]
        with torch.no_grad():
            apart = float(network(2 * fakes - 1, places).sigmoid().mean()) - scores.mean()
        expected.append(apart / scores.var(ddof=1))
    assert min(expected) > 0
    np.testing.assert_allclose(weights, np.array(expected) / sum(expected), rtol=1e-3)


def test_levels_that_tell_nothing_count_alike():
    detector = small(level_weights="held_out", learning_rate=0.0).fit(NORMAL)
    detector._level_scores_one_by_one = lambda images: torch.zeros(len(images), 2)
    torch.testing.assert_close(
        detector._weights(torch.ones(3, 2), torch.zeros(4, 1, 16, 16)), torch.tensor([0.5, 0.5])
    )


def test_level_scores_are_means_of_probabilities():
    detector = small().fit(NORMAL)
    x = torch.from_numpy(NORMAL[:1] / 255.0).float()[:, None]
    with torch.no_grad():
        for i, network in enumerate(detector.detectors_):
            odds = network(2 * x - 1, mlsad.coordinate_maps((17 - network.level,) * 2))
            assert detector.level_scores(NORMAL[:1])[0, i] == pytest.approx(
                float(odds.sigmoid().mean()), rel=1e-5
            )


@pytest.mark.parametrize("level", [1, 2, 4, 8])
def test_window_map_is_the_slow_one(level):
    grid = torch.rand(2, 13 - level, 10 - level, generator=torch.Generator().manual_seed(0))
    for values, image_map in zip(grid, window_map(grid, level), strict=True):
        np.testing.assert_allclose(image_map, slow_window_map(values.numpy(), level), rtol=1e-5)


def test_maps_are_averaged_by_the_weights():
    detector = small(level_weights=[3, 1], smoothing=0).fit(NORMAL)
    x = torch.from_numpy(NORMAL[:1] / 255.0).float()[:, None]
    with torch.no_grad():
        one, two = detector._grids(x)
    expected = 0.75 * one + 0.25 * window_map(two, 2)
    np.testing.assert_allclose(detector.anomaly_map(NORMAL[:1]), expected, rtol=1e-5)


# -- distances ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distant():
    """(detector, the normal images that it kept aside)"""
    normal = stripes(60, 16)
    detector = small(combine="distance", calibration_fraction=0.5, smoothing=0).fit(normal)
    return detector, normal[~np.isnan(detector.calibration_scores_)]


def test_the_distance_is_that_of_the_levels_together(distant):
    detector, kept = distant
    odd = scratched(3, 16)
    expected = slow_distances(detector.level_scores(odd), detector.level_scores(kept))
    np.testing.assert_allclose(detector.anomaly_score(odd), expected, rtol=1e-3)


def test_distances_are_calibrated_by_other_images(distant):
    detector, kept = distant
    found = -detector.calibration_scores_[~np.isnan(detector.calibration_scores_)]
    assert found.mean() > 1.02 * detector.anomaly_score(kept).mean()


def test_maps_are_distances_at_pixels(distant):
    detector, _ = distant
    x = torch.from_numpy(scratched(2, 16) / 255.0).float()[:, None]
    with torch.no_grad():
        one, two = detector._grids(x)
    values = torch.stack([one, window_map(two, 2)], -1).double()
    mean, whitener = detector.levels_of_pixels_
    expected = ((values - mean) @ whitener).square().sum(-1).sqrt()
    np.testing.assert_allclose(detector.anomaly_map(scratched(2, 16)), expected, rtol=1e-4)


def test_pixels_of_normal_maps_have_distances_around_one(distant):
    detector, kept = distant
    squares = np.square(detector.anomaly_map(kept)).mean()
    assert squares == pytest.approx(len(detector.levels_), rel=0.05)


def test_distances_find_what_looks_more_normal_than_any():
    normal, truth = stripes(100, 16, noise=15), np.repeat([0, 1], 30)
    clean = stripes(30, 16, noise=5, seed=2)
    both = np.concatenate([stripes(30, 16, noise=15, seed=1), clean])
    for how, low, high in (("mean", 0, 0.1), ("distance", 0.95, 1)):
        detector = small(combine=how, width=8, epochs=10, learning_rate=0.01).fit(normal)
        assert low <= image_auroc(truth, detector.anomaly_score(both)) <= high


def test_distances_are_of_maps_as_smooth_as_in_fit():
    normal = stripes(30, 16)
    detector = small(combine="distance", smoothing=2.0).fit(normal)
    generator = torch.Generator().manual_seed(0)
    grids = [torch.rand(1, 17 - n, 17 - n, generator=generator) for n in detector.levels_]
    smooth = detector._smooth_maps(grids)
    assert smooth.shape == (1, 16, 16, 2)
    assert smooth.std() < 0.5 * torch.stack([*map(window_map, grids, (1, 2))]).std()
    torch.testing.assert_close(detector.set_params(smoothing=0)._smooth_maps(grids), smooth)


def test_distances_need_levels_that_vary():
    with pytest.raises(ValueError, match="are they all the same"):
        small((1,), combine="distance").fit(np.repeat(NORMAL[:1], 8, axis=0))


def test_colors_are_learned_where_there_are_some():
    color = np.stack([NORMAL, NORMAL // 2, NORMAL], -1)
    detector = small(epochs=10).fit(color)
    assert detector.detectors_[0].arguments["n_channels"] == 3
    assert (detector.score_samples(color[..., [1, 0, 2]]) < detector.score_samples(color)).all()
    gray = small().fit(NORMAL)
    assert gray.detectors_[0].arguments["n_channels"] == 1
    np.testing.assert_allclose(
        gray.score_samples(np.stack([NORMAL] * 3, -1)), gray.score_samples(NORMAL), rtol=1e-5
    )


def test_saved_ones_give_the_same_levels(tmp_path):
    detector = small((1, 2, 8), fake_options={"tolerance": 0.1}, level_weights=(1, 0, 2)).fit(
        NORMAL
    )
    detector.save(tmp_path / "saved.alite")
    again = load(tmp_path / "saved.alite")
    np.testing.assert_array_equal(again.level_scores(NORMAL), detector.level_scores(NORMAL))
    assert again.levels_ == (1, 2, 8)


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"levels": ()}, "levels"),
        ({"levels": (2, 1)}, "ascending"),
        ({"levels": (3,)}, "levels"),
        ({"levels": "12"}, "levels"),
        ({"levels": (1, 32)}, "windows of 32 px"),
        ({"fakes": "vae"}, "fakes"),
        ({"n_fakes": 0}, "n_fakes"),
        ({"width": 0}, "width"),
        ({"dropout": 1}, "dropout"),
        ({"input_noise": -1}, "input_noise"),
        ({"structure_weight": -1}, "structure_weight"),
        ({"structure_weight": 0, "position": False}, "nothing to learn from"),
        ({"structure_weight": 0, "position_weight": 0}, "nothing to learn from"),
        ({"level_weights": "best"}, "level_weights"),
        ({"level_weights": (1,)}, "level_weights"),
        ({"level_weights": (0, 0)}, "level_weights"),
        ({"level_weights": (1, -0.5)}, "level_weights"),
        ({"crop_size": 17}, "crop_size"),
        ({"crop_size": 8, "levels": (16,)}, "windows of 16 px"),
    ],
)
def test_senseless_parameters_are_refused(params, match):
    detector = small(**params)
    with pytest.raises(ValueError, match=match):
        detector.fit(NORMAL)
    assert not [name for name in vars(detector) if name.endswith("_")]


def test_two_images_are_too_few():
    with pytest.raises(ValueError, match="at least 3"):
        small().fit(NORMAL[:2])
