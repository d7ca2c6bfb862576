import functools

import numpy as np
import pytest
import torch
from detectors import SMALL, small
from worlds import scratched, stripes

import anomalib_lite
from anomalib_lite import ConformalDetector, probe
from anomalib_lite.base import BaseDetector
from anomalib_lite.data import NetworkInput
from anomalib_lite.decide import pull_away_term

NORMAL = stripes(6)
STARTS = np.random.default_rng(0).random((3, 64, 64))
WITHOUT_GRADIENT = {"ContrastiveDA", "CutPaste", "DeepOneClass", "RotationPrediction"}
DIFFERENTIABLE = sorted(set(SMALL) - WITHOUT_GRADIENT)


class UpperHalf(BaseDetector):
    """Distance from the mean image, blind to the lower half."""

    def _build(self, generator):
        return NetworkInput.raw(64, patch_size=1)

    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch for _, batch in batches])
        self.mean_ = images.mean(0)
        return self._infer(images)[0]

    def _infer(self, batch):
        apart = (batch - self.mean_).square().mean(1)
        apart[:, 32:] = 0
        return apart.mean((1, 2)), apart


@pytest.fixture(scope="module")
def half_blind():
    return UpperHalf(device="cpu").fit(NORMAL)


# -- the search ----------------------------------------------------------------------------------


def test_the_search_ends_in_a_planted_blind_spot(half_blind):
    found = probe(half_blind, STARTS, max_iter=150, learning_rate=0.02, pull_away=0)
    mean = NORMAL.mean(0) / 255
    assert abs(found.images - mean)[:, :32].max() < 0.05
    np.testing.assert_allclose(found.images[:, 32:], STARTS[:, 32:], atol=1e-6)  # nothing to gain
    assert half_blind.predict(found.images).tolist() == [1, 1, 1]
    assert half_blind.predict(STARTS).tolist() == [-1, -1, -1]


def test_scores_rise_with_every_step(half_blind):
    found = probe(half_blind, STARTS, max_iter=20, learning_rate=0.005, pull_away=0)
    assert found.path.shape == (21, 3)
    assert (np.diff(found.path, axis=0) > 0).all()
    np.testing.assert_allclose(found.path[0], half_blind.score_samples(STARTS), rtol=1e-5)
    np.testing.assert_allclose(found.scores, half_blind.score_samples(found.images), rtol=1e-5)


def test_the_first_step_is_that_of_adam(half_blind):
    found = probe(half_blind, STARTS, max_iter=1, learning_rate=0.01, pull_away=0)
    down = np.sign(STARTS - NORMAL.mean(0) / 255)[:, :32]
    expected = np.clip(STARTS[:, :32] - 0.01 * down, 0, 1)
    np.testing.assert_allclose(found.images[:, :32], expected, atol=1e-5)


def test_further_steps_are_those_of_adam(half_blind):
    found = probe(half_blind, STARTS, max_iter=5, learning_rate=0.03, pull_away=0)
    x, mean = STARTS.copy(), NORMAL.mean(0) / 255
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, 6):
        gradient = 2 * (x - mean) / 64**2
        gradient[:, 32:] = 0
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**step)) + 1e-12
        x = np.clip(x - 0.03 * first / (1 - 0.9**step) / size, 0, 1)
    close = np.isclose(found.images, x, atol=1e-3)
    assert close.mean() > 0.99  # a gradient of nearly nothing may have either sign


def test_values_stay_within_bounds(half_blind):
    found = probe(half_blind, STARTS, max_iter=3, learning_rate=2.0)
    assert found.images.min() == 0
    assert found.images.max() == 1


def test_pull_away_drives_images_apart(half_blind):
    starts = np.random.default_rng(1).uniform(0.4, 0.6, (3, 64, 64))
    together, apart = (
        probe(half_blind, starts, max_iter=60, learning_rate=0.02, pull_away=weight).images
        for weight in (0.0, 1.0)
    )
    terms = [float(pull_away_term(torch.from_numpy(images))) for images in (together, apart)]
    assert terms[1] < terms[0] - 0.05


def test_pull_away_term_agrees_with_its_definition():
    rows = torch.rand(4, 2, 3, generator=torch.Generator().manual_seed(0))
    flat = rows.flatten(1).double().numpy()
    cosines = [
        (a @ b / np.linalg.norm(a) / np.linalg.norm(b)) ** 2
        for i, a in enumerate(flat)
        for j, b in enumerate(flat)
        if i != j
    ]
    assert float(pull_away_term(rows)) == pytest.approx(np.mean(cosines), rel=1e-5)


# -- any differentiable detector ------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    """A fitted detector by name, to be left as it is."""
    return functools.cache(lambda name: small(getattr(anomalib_lite, name)).fit(NORMAL))


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_every_differentiable_detector_can_be_probed(name, fitted):
    detector = fitted(name)
    before, scores = set(vars(detector)), detector.score_samples(STARTS)
    found = probe(detector, STARTS, max_iter=5, learning_rate=0.01, pull_away=0)
    np.testing.assert_allclose(found.path[0], scores, rtol=1e-5)
    assert (found.scores > scores).all()
    np.testing.assert_allclose(found.scores, detector.score_samples(found.images), rtol=1e-4)
    assert set(vars(detector)) == before
    np.testing.assert_array_equal(detector.score_samples(STARTS), scores)


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_those_of_the_score(name, fitted):
    """Compared with differences along the gradient, in float32."""
    detector = fitted(name)
    size = detector.input_.seen_size
    image = torch.from_numpy(STARTS[:1, : size[0], : size[1]]).float()[:, None]
    image = image.expand(-1, 3, -1, -1)
    batch = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector._score(batch).sum(), batch)
    step = 1e-3 * gradient / gradient.norm()
    up, down = (float(detector._score(image + sign * step).detach()) for sign in (1, -1))
    slope = (up - down) / 2e-3
    assert slope == pytest.approx(float(gradient.norm()), rel=0.05)


def test_without_pull_away_other_starts_do_not_matter(half_blind):
    together = probe(half_blind, STARTS, max_iter=5, pull_away=0)
    alone = probe(half_blind, STARTS[1:2], max_iter=5)
    np.testing.assert_array_equal(alone.images[0], together.images[1])


def test_starts_keep_their_size_and_colors(half_blind):
    assert probe(half_blind, STARTS[:, :40, :50], max_iter=2).images.shape == (3, 40, 50)
    color = np.stack([STARTS] * 3, -1)
    assert probe(half_blind, color, max_iter=2).images.shape == (3, 64, 64, 3)
    assert probe(half_blind, scratched(2), max_iter=2).images.dtype == np.float32


def test_gradients_may_be_switched_off_around_it(half_blind):
    expected = probe(half_blind, STARTS, max_iter=3)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            np.testing.assert_array_equal(
                probe(half_blind, STARTS, max_iter=3).images, expected.images
            )


@pytest.mark.filterwarnings("ignore:.* are copies:UserWarning", "ignore:.* cannot calibrate")
def test_an_image_at_a_distance_of_zero_stays():
    detector = small(anomalib_lite.PaDiM, weights="random").fit(np.stack([NORMAL[0]] * 3))
    found = probe(detector, NORMAL[:1], max_iter=3)
    np.testing.assert_allclose(found.images[0], NORMAL[0] / 255, atol=1e-6)


# -- what it refuses ------------------------------------------------------------------------------


class ByNumPy(UpperHalf):
    def _score(self, batch):
        return torch.from_numpy(super()._score(batch).numpy())


class WithoutGradient(UpperHalf):
    @torch.no_grad()
    def _score(self, batch):
        return super()._score(batch)


class Broken(UpperHalf):
    def _score(self, batch):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("cls", [ByNumPy, WithoutGradient])
def test_scores_without_a_gradient_are_refused(cls):
    detector = cls(device="cpu").fit(NORMAL)
    with pytest.raises(ValueError, match=f"the score of this {cls.__name__} has no gradient"):
        probe(detector, STARTS, max_iter=2)


def test_errors_of_a_score_are_not_taken_for_a_missing_gradient():
    detector = Broken(device="cpu").fit(NORMAL)
    with pytest.raises(RuntimeError, match="out of memory"):
        probe(detector, STARTS, max_iter=2)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.slow] * (n != "DeepOneClass"))
        for n in sorted(WITHOUT_GRADIENT)
    ],
)
def test_scores_of_other_libraries_have_no_gradient(name, fitted):
    with pytest.raises(ValueError, match="has no gradient"):
        probe(fitted(name), STARTS, max_iter=2)


@pytest.mark.slow
def test_onnx_runtime_gives_no_gradient():
    pytest.importorskip("onnxruntime")
    detector = small(anomalib_lite.PatchCore, engine="onnxruntime").fit(NORMAL)
    with pytest.raises(ValueError, match="has no gradient"):
        probe(detector, STARTS, max_iter=2)


def test_other_objects_than_detectors_of_images_are_refused(half_blind):
    with pytest.raises(ValueError, match="ConformalDetector"):
        probe(ConformalDetector(half_blind), STARTS)
    table = small(anomalib_lite.CANCE).fit(STARTS[0, :, :4])
    with pytest.raises(ValueError, match="table"):
        probe(table, STARTS)


def test_bad_starts_and_parameters_are_refused(half_blind):
    with pytest.raises(ValueError, match=r"image 1: its shape is \(1, 20, 64\)"):
        probe(half_blind, [STARTS[0], STARTS[1, :20]])
    with pytest.raises(ValueError, match="Scale both the same way"):
        probe(half_blind, STARTS / 255)
    for params, match in (
        ({"max_iter": 0}, "max_iter"),
        ({"learning_rate": -1}, "learning_rate"),
        ({"pull_away": None}, "pull_away"),
    ):
        with pytest.raises(ValueError, match=match):
            probe(half_blind, STARTS, **params)
