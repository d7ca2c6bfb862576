import copy

import numpy as np
import pytest
import torch
from oracles import slow_distances, slow_window_map
from scipy import ndimage
from sklearn.base import clone
from worlds import SCALES, frames, scratched, stripes

from anomalib_lite import MLSAD, EntropyPatchGAN, PatchResampler, load
from anomalib_lite.fakes import Imitator, UniformNoise
from anomalib_lite.methods import mlsad
from anomalib_lite.methods.mlsad import _decay, window_map
from anomalib_lite.metrics import image_auroc
from anomalib_lite.nn import coordinate_maps
from anomalib_lite.validation import check_choice

NORMAL = stripes(8, 16)
HALVES = np.broadcast_to(np.repeat([40, 220], 8).astype(np.uint8), (12, 16, 16)).copy()


def small(levels=(1, 2), **params):
    how = {
        "fakes": PatchResampler(),
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
def test_a_level_finds_anomalies_of_its_scale_only(level, finds, is_blind_to):
    detector = small((level,), image_size=24, width=8, epochs=20, n_fakes=200, learning_rate=0.01)
    detector.fit(frames(80))
    good, truth = frames(60, seed=1), np.repeat([0, 1], 60)
    auroc = {
        scale: image_auroc(
            truth, detector.anomaly_score(np.concatenate([good, frames(60, scale, seed=2)]))
        )
        for scale in (finds, is_blind_to)
    }
    assert auroc[finds] > 0.9
    assert auroc[is_blind_to] < 0.65


def test_planted_anomalies_are_normal_below_their_scale():
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


@pytest.mark.filterwarnings("ignore:.* are copies:UserWarning")
def test_the_map_is_highest_at_an_odd_pixel():
    detector = small((1, 2), epochs=40).fit(HALVES)
    odd = HALVES[:1].copy()
    odd[:, 3, 4] = 130
    heat = detector.set_params(smoothing=0).anomaly_map(odd)[0]
    assert np.unravel_index(heat.argmax(), heat.shape) == (3, 4)


# -- places ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.* are copies:UserWarning")
@pytest.mark.parametrize("crop_size", [None, 8])
def test_normal_values_in_the_wrong_place_are_found_if_positions_are_told(crop_size):
    how = {"crop_size": crop_size, "width": 16, "learning_rate": 0.01}
    swapped = HALVES[:, :, ::-1].copy()
    told, untold = (
        small((1,), epochs=60, position=position, **how).fit(HALVES) for position in (True, False)
    )
    gaps = [one.anomaly_score(swapped)[0] - one.anomaly_score(HALVES)[0] for one in (told, untold)]
    assert gaps[0] > 0.2
    assert abs(gaps[1]) < 1e-6


@pytest.mark.filterwarnings("ignore:.* are copies:UserWarning")
@pytest.mark.parametrize("level", [1, 4])
def test_crops_are_random_and_keep_the_coordinates_of_their_windows(level, seen):
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)  # a pixel says where it is
    small((level,), crop_size=8, input_noise=0, epochs=20).fit(np.stack([ramp] * 8))
    corners, maps = [], coordinate_maps((17 - level,) * 2)
    for x, coordinates in seen:
        n = len(x) // 3  # images, then fakes and wrong positions
        for crop, places in zip(x[:n], coordinates[:n], strict=True):
            values = (127.5 * (crop[0] + 1)).round().int().numpy()
            top, left = divmod(values[0, 0], 16)
            corners.append((top, left))
            np.testing.assert_array_equal(values, ramp[top : top + 8, left : left + 8])
            expected = maps[:, top : top + 9 - level, left : left + 9 - level]
            torch.testing.assert_close(places, expected)
    for places in zip(*corners, strict=True):
        assert set(places) == set(range(9))


def test_without_position_a_window_is_the_same_everywhere():
    detector = small((4,), position=False, smoothing=0).fit(NORMAL)
    image = np.random.default_rng(0).random((1, 16, 16))
    heat, moved = (detector.anomaly_map(x) for x in (image, np.roll(image, 3, 2)))
    np.testing.assert_allclose(heat[..., 3:-6], moved[..., 6:-3], rtol=1e-5)
    assert heat[..., 3:-6].std() > 0


# -- learning -------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Arguments of every call for fakes: (level, images, imitator)."""
    calls, make = [], mlsad.make_fakes

    def recorded(level, images, generator, imitator):
        calls.append((level, images, imitator))
        return make(level, images, generator, PatchResampler(level))

    monkeypatch.setattr(mlsad, "make_fakes", recorded)
    return calls


def test_each_level_is_contrasted_with_the_one_below(asked):
    small((1, 2, 4, 8, 16), epochs=1).fit(NORMAL)
    assert sorted(level for level, *_ in asked) == [0, 1, 2, 4, 8]  # side by side, in any order


def test_images_kept_aside_are_not_trained_on(asked):
    detector = small((1,), calibration_fraction=0.5).fit(NORMAL)
    assert asked[0][1].shape == (4, 1, 16, 16)
    kept = ~np.isnan(detector.calibration_scores_)
    assert kept.sum() == 4
    np.testing.assert_array_equal(
        detector.calibration_scores_[kept], detector.score_samples(NORMAL[kept])
    )


def test_fakes_of_crops_are_crops_of_all_images(asked):
    flat = np.arange(10, 90, 10, dtype=np.uint8)[:, None, None] * np.ones((16, 16), np.uint8)
    detector = small((1, 2), crop_size=8, epochs=1).fit(flat)
    assert detector.anomaly_map(flat).shape == (8, 16, 16)
    for _, crops, _ in asked:
        assert crops.shape == (1000, 1, 8, 8)
        _, counts = crops[:, 0, 0, 0].unique(return_counts=True)
        assert sorted(counts.tolist()) == [166] * 2 + [167] * 4  # of the six not kept aside


@pytest.fixture
def seen(monkeypatch):
    """(windows, coordinates) of every training step, in which nothing is learned."""
    calls = []

    def recorded(self, x, coordinates):
        if self.training:
            calls.append((x, coordinates))
        return 0 * self.head[0].weight.sum() + coordinates.expand(len(x), -1, -1, -1)[:, 0]

    monkeypatch.setattr(mlsad.PatchDetector, "forward", recorded)
    return calls


def test_a_step_has_images_random_fakes_and_wrong_positions(seen):
    detector = small((4,), input_noise=0, epochs=30, train_batch_size=3).fit(NORMAL)
    learned = NORMAL[np.isnan(detector.calibration_scores_)]
    assert [len(x) for x, _ in seen] == [9] * 60
    normal, fakes, again = torch.cat([x.view(3, 3, 256) for x, _ in seen], 1)
    assert torch.equal(again, normal)
    assert len(fakes.unique(dim=0)) == 20  # all of them
    values = (127.5 * (normal + 1)).round().byte().unique(dim=0)
    assert {*map(bytes, values.numpy())} == {*map(bytes, learned)}
    right, of_fakes, wrong = torch.cat([places.view(3, 3, 2, 13, 13) for _, places in seen], 1)
    assert torch.equal(right, coordinate_maps((13, 13)).expand_as(right))
    assert torch.equal(of_fakes, right)
    assert wrong.abs().max() <= 1
    assert abs(wrong.mean(0)).max() < 0.3  # anywhere, whatever the window
    assert wrong.std() == pytest.approx(3**-0.5, rel=0.01)  # uniform in [-1, 1]


def test_networks_are_as_wide_and_deep_as_asked():
    (network,) = small((2,), width=6, n_blocks=2, dropout=0.3, epochs=1).fit(NORMAL).detectors_
    expected = {"level": 2, "n_channels": 1, "width": 6, "n_blocks": 2, "dropout": 0.3}
    assert network.arguments == expected


@pytest.mark.filterwarnings("ignore:.* are copies:UserWarning")
def test_noise_is_added_to_images_and_fakes(seen):
    flat = np.full((8, 16, 16), 128, np.uint8)
    small((4,), fakes=PatchResampler(), input_noise=0.1, epochs=10).fit(flat)
    images = torch.cat([x for x, _ in seen])
    assert images.mean() == pytest.approx(2 * 128 / 255 - 1, abs=0.01)
    assert images.std() == pytest.approx(0.2, rel=0.02)  # of a range of 2


@pytest.fixture
def ignorant(monkeypatch):
    """Detectors say one half of everything."""

    def nothing(self, x, coordinates):
        logits = 0 * (self.head[0].weight.sum() + coordinates.expand(len(x), -1, -1, -1))
        return logits[:, 0]

    monkeypatch.setattr(mlsad.PatchDetector, "forward", nothing)


@pytest.mark.usefixtures("ignorant")
def test_the_loss_of_ignorant_detectors_is_the_weighted_sum_of_log_2():
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


def test_the_learning_rate_falls_after_half_and_three_quarters():
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
def test_held_out_weights_are_gaps_over_variances(monkeypatch, crop_size):
    drawn, make = [], mlsad.make_fakes

    class Remembered:
        def __init__(self, *arguments):
            self.source = make(*arguments)

        def sample(self, n, generator):
            drawn.append(self.source.sample(n, generator))
            return drawn[-1]

    monkeypatch.setattr(mlsad, "make_fakes", Remembered)
    detector = small(level_weights="held_out", crop_size=crop_size, epochs=40, n_fakes=23)
    detector.fit(NORMAL)
    assert list(map(len, drawn)) == [23, 23]
    kept = NORMAL[~np.isnan(detector.calibration_scores_)]
    normal, weights = detector.level_scores(kept), detector.level_weights_.numpy()
    side, first = (16, 0) if crop_size is None else (8, 4)  # crops are put in the middle
    fakes = torch.cat([some[: len(kept)] for some in drawn])
    expected = []
    for scores, network in zip(normal.T, detector.detectors_, strict=True):
        part = slice(first, first + side - network.level + 1)
        places = coordinate_maps((17 - network.level,) * 2)[:, part, part]
        with torch.no_grad():
            apart = float(network(2 * fakes - 1, places).sigmoid().mean()) - scores.mean()
        expected.append(apart / scores.var(ddof=1))
    assert min(expected) > 0
    np.testing.assert_allclose(weights, np.array(expected) / sum(expected), rtol=1e-3)


@pytest.mark.usefixtures("ignorant")
def test_levels_that_separate_nothing_get_equal_weights():
    detector = small(level_weights="held_out").fit(NORMAL)
    assert detector.level_weights_.tolist() == [0.5, 0.5]


def grids(detector, images):
    """Probabilities (n, h, w) of all windows of 16 px images, by level."""
    x = torch.from_numpy(images / 255.0).float()[:, None]
    for network in detector.detectors_:
        with torch.no_grad():
            yield network(2 * x - 1, coordinate_maps((17 - network.level,) * 2)).sigmoid()


def test_level_scores_are_means_of_probabilities():
    detector = small().fit(NORMAL)
    expected = np.stack([grid.mean((1, 2)) for grid in grids(detector, NORMAL)], 1)
    np.testing.assert_allclose(detector.level_scores(NORMAL), expected, rtol=1e-5)


@pytest.mark.parametrize("level", [1, 2, 4, 8])
def test_window_map_agrees_with_its_oracle(level):
    grid = torch.rand(2, 13 - level, 10 - level, generator=torch.Generator().manual_seed(0))
    for values, image_map in zip(grid, window_map(grid, level), strict=True):
        np.testing.assert_allclose(image_map, slow_window_map(values.numpy(), level), rtol=1e-5)


def test_maps_are_averaged_by_the_weights():
    detector = small(level_weights=[3, 1], smoothing=0).fit(NORMAL)
    one, two = grids(detector, NORMAL[:1])
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
    one, two = grids(detector, scratched(2, 16))
    values = torch.stack([one, window_map(two, 2)], -1).double()
    mean, whitener = detector.levels_of_pixels_
    expected = ((values - mean) @ whitener).square().sum(-1).sqrt()
    np.testing.assert_allclose(detector.anomaly_map(scratched(2, 16)), expected, rtol=1e-4)


def test_pixels_of_normal_maps_have_distances_around_one(distant):
    detector, kept = distant
    squares = np.square(detector.anomaly_map(kept)).mean()
    assert squares == pytest.approx(len(detector.levels_), rel=0.05)


def test_distances_find_images_that_look_more_normal_than_any():
    normal, truth = stripes(80, 16, noise=15), np.repeat([0, 1], 30)
    clean = stripes(30, 16, noise=5, seed=2)
    both = np.concatenate([stripes(30, 16, noise=15, seed=1), clean])
    detector = small(combine="distance", width=8, epochs=10, learning_rate=0.01).fit(normal)
    assert image_auroc(truth, detector.level_scores(both).mean(1)) < 0.1
    assert image_auroc(truth, detector.anomaly_score(both)) > 0.95


def test_distance_maps_are_distances_of_smoothed_levels_and_not_blurred_again():
    detector = small(combine="distance", smoothing=2.0).fit(stripes(30, 16))
    levels = [
        window_map(*one) for one in zip(grids(detector, scratched(2, 16)), (1, 2), strict=True)
    ]
    smooth = [ndimage.gaussian_filter(level, (0, 2, 2), mode="nearest") for level in levels]
    mean, whitener = map(np.asarray, detector.levels_of_pixels_)
    expected = np.linalg.norm((np.stack(smooth, -1) - mean) @ whitener, axis=-1)
    np.testing.assert_allclose(detector.anomaly_map(scratched(2, 16)), expected, rtol=1e-4)


@pytest.mark.parametrize("combine", ["mean", "distance"])
def test_maps_are_zero_outside_the_center_crop(combine):
    detector = small(combine=combine, center_crop=(12, 10), smoothing=0).fit(stripes(20, 16))
    heat = detector.anomaly_map(scratched(2, 16, center=(8, 8)))
    inside = np.zeros((16, 16), dtype=bool)
    inside[2:14, 3:13] = True
    np.testing.assert_array_equal(heat != 0, np.broadcast_to(inside, heat.shape))


def test_smoothing_waits_for_the_next_fit_only_with_distances(distant):
    detector = copy.copy(distant[0])
    before = detector.anomaly_map(NORMAL)
    with pytest.warns(UserWarning, match="smoothing: changed after fit"):
        detector.set_params(smoothing=3)
    np.testing.assert_array_equal(detector.anomaly_map(NORMAL), before)
    averaged = small(smoothing=0).fit(NORMAL)
    before = averaged.anomaly_map(NORMAL)
    assert averaged.set_params(smoothing=3).anomaly_map(NORMAL).std() < before.std()


def test_distances_need_levels_that_vary():
    with pytest.raises(ValueError, match="or all the same"):
        small((1,), combine="distance").fit(np.repeat(NORMAL[:1], 8, axis=0))


def test_colors_are_learned_if_there_are_any():
    color = np.stack([NORMAL, NORMAL // 2, NORMAL], -1)
    detector = small(epochs=10).fit(color)
    assert detector.detectors_[0].arguments["n_channels"] == 3
    assert (detector.score_samples(color[..., [1, 0, 2]]) < detector.score_samples(color)).all()
    gray = small().fit(NORMAL)
    assert gray.detectors_[0].arguments["n_channels"] == 1
    np.testing.assert_allclose(
        gray.score_samples(np.stack([NORMAL] * 3, -1)), gray.score_samples(NORMAL), rtol=1e-5
    )


# -- the estimator of fakes -----------------------------------------------------------------------

SMALL_GAN = {"width": 4, "train_steps": 3, "train_batch_size": 4}


class Uniform(Imitator):
    """Makes noise, for levels 2 and 4 only."""

    def __init__(
        self, level=2, image_size=32, crop_size=None, crops_per_image=1, batch_size=32,
        device="auto", random_state=None, verbose=False,
    ):  # fmt: skip
        self.level, self.image_size, self.crop_size = level, image_size, crop_size
        self.crops_per_image, self.batch_size, self.device = crops_per_image, batch_size, device
        self.random_state, self.verbose = random_state, verbose

    def _check_params(self):
        check_choice("level", self.level, (2, 4))

    def _imitate(self, images, generator):
        return UniformNoise(images)


def test_fakes_are_the_published_ones_by_default(asked):
    small((1, 4), fakes=None, epochs=1).fit(NORMAL)
    imitator = {level: one for level, _, one in asked}[2]
    assert type(imitator) is EntropyPatchGAN
    assert imitator.get_params() == EntropyPatchGAN(level=2).get_params()


def test_the_detector_sets_level_positions_and_progress(asked):
    for told, params, position, verbose in (
        (True, {}, True, False),
        (True, {"position": False}, False, False),
        (True, {"crop_size": 8}, False, False),
        (False, {"verbose": True}, False, True),
    ):
        gan = EntropyPatchGAN(32, position=told, verbose=not verbose, **SMALL_GAN)
        small((4, 8), fakes=gan, epochs=1, **params).fit(NORMAL)
        made = sorted((one.get_params() for *_, one in asked), key=lambda given: given["level"])
        assert made == [
            EntropyPatchGAN(level, position=position, verbose=verbose, **SMALL_GAN).get_params()
            for level in (2, 4)
        ]
        asked.clear()


def test_the_estimator_of_fakes_is_cloned():
    gan = EntropyPatchGAN(**SMALL_GAN)
    before = gan.get_params()
    small((4,), fakes=gan, epochs=1).fit(NORMAL)
    assert vars(gan) == before


def test_nested_parameters_can_be_read_set_and_cloned():
    detector = small((4,), fakes=EntropyPatchGAN(**SMALL_GAN), epochs=1)
    assert detector.get_params()["fakes__train_steps"] == 3
    copied = clone(detector).set_params(fakes__train_steps=5)
    assert copied.fakes.train_steps == 5
    assert detector.fakes.train_steps == 3
    expected = small((4,), fakes=EntropyPatchGAN(**SMALL_GAN | {"train_steps": 5}), epochs=1)
    scores = copied.fit(NORMAL).score_samples(NORMAL)
    np.testing.assert_array_equal(scores, expected.fit(NORMAL).score_samples(NORMAL))
    assert (scores != detector.fit(NORMAL).score_samples(NORMAL)).any()


def test_nested_parameters_wait_for_the_next_fit():
    detector = small((4,), fakes=PatchResampler()).fit(NORMAL)
    before = detector.score_samples(NORMAL)
    with pytest.warns(UserWarning, match="fakes__tolerance: changed after fit"):
        detector.set_params(fakes__tolerance=0.0)
    np.testing.assert_array_equal(detector.score_samples(NORMAL), before)
    assert (detector.fit(NORMAL).score_samples(NORMAL) != before).any()


@pytest.mark.parametrize(
    "fakes", [None, PatchResampler(tolerance=0.1), EntropyPatchGAN(**SMALL_GAN)]
)
def test_saved_detectors_give_the_same_levels_and_parameters(fakes, tmp_path):
    levels, weights = ((1, 2), (1, 0)) if fakes is None else ((1, 2, 4), (1, 0, 2))
    detector = small(levels, fakes=fakes, level_weights=weights, epochs=1).fit(NORMAL)
    detector.save(tmp_path / "saved.alite")
    again = load(tmp_path / "saved.alite")
    np.testing.assert_array_equal(again.level_scores(NORMAL), detector.level_scores(NORMAL))
    np.testing.assert_array_equal(again.anomaly_map(NORMAL), detector.anomaly_map(NORMAL))
    assert again.levels_ == levels
    assert type(again.fakes) is type(fakes)
    assert again.get_params() | {"fakes": fakes} == detector.get_params()  # fakes__ ones included
    refitted = clone(again).fit(NORMAL)
    np.testing.assert_array_equal(refitted.level_scores(NORMAL), detector.level_scores(NORMAL))


def test_estimators_defined_elsewhere_make_fakes(tmp_path):
    detector = small((4,), fakes=Uniform()).fit(NORMAL)
    resampled = small((4,)).fit(NORMAL)
    assert (detector.score_samples(NORMAL) != resampled.score_samples(NORMAL)).any()
    detector.save(tmp_path / "saved.alite")
    again = load(tmp_path / "saved.alite", classes=[Uniform])
    np.testing.assert_array_equal(again.score_samples(NORMAL), detector.score_samples(NORMAL))


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "match"),
    [
        ({"levels": ()}, "levels"),
        ({"levels": (2, 1)}, "ascending"),
        ({"levels": (3,)}, "levels"),
        ({"levels": "12"}, "levels"),
        ({"levels": (1, 32)}, "windows of 32 px"),
        ({"fakes": "gan"}, r"fakes: expected an estimator .* got 'gan'"),
        ({"fakes": PatchResampler}, "fakes: expected an estimator"),
        ({"fakes": PatchResampler(tolerance=-1)}, "fakes: tolerance"),
        ({"fakes": EntropyPatchGAN(width=0), "levels": (1,)}, "fakes: width"),
        ({"fakes": EntropyPatchGAN(train_batch_size=2)}, "fakes: train_batch_size"),
        ({"fakes": Uniform(), "levels": (1, 4, 16)}, "fakes: level"),
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
def test_invalid_parameters_are_refused_before_training(params, match, monkeypatch):
    monkeypatch.delattr(mlsad, "train")
    detector = small(**params)
    with pytest.raises(ValueError, match=match):
        detector.fit(NORMAL)
    assert not [name for name in vars(detector) if name.endswith("_")]


@pytest.mark.parametrize(("combine", "n"), [("mean", 2), ("distance", 3)])
def test_too_few_images_are_refused(combine, n):
    with pytest.raises(ValueError, match=f"at least {n + 1}"):
        small(combine=combine).fit(NORMAL[:n])
    scores = small((1,), epochs=1).fit(NORMAL[:3]).calibration_scores_
    assert np.isnan(scores).sum() == 1


def test_too_few_images_for_fakes_are_refused_before_training(monkeypatch):
    monkeypatch.delattr(mlsad, "train")
    with pytest.raises(ValueError, match="EntropyPatchGAN needs 2 images or more, got 1"):
        small((1, 2, 4), fakes=EntropyPatchGAN()).fit(NORMAL[:3])


@pytest.mark.parametrize("fakes", ["resampled", "trained"])
def test_a_fit_is_the_same_by_any_number_of_workers(fakes):
    how = {"dropout": 0.2, "combine": "distance", "calibration_fraction": 0.5}
    how |= {} if fakes == "resampled" else {"fakes": EntropyPatchGAN(**SMALL_GAN)}
    one, many = (small((1, 2, 4), **how, n_jobs=n).fit(NORMAL) for n in (1, 3))
    np.testing.assert_array_equal(one.calibration_scores_, many.calibration_scores_)
    np.testing.assert_array_equal(one.anomaly_map(NORMAL), many.anomaly_map(NORMAL))
    assert one.history_ == many.history_
