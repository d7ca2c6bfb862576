"""PatchCore on patches of unit length, on white ones, and scores by the mean of many patches."""

import numpy as np
import pytest
import torch
from oracles import slow_patchcore_score, slow_top_mean, slow_whitened
from worlds import scratched, stripes

from anomalib_lite import DeepFeatures, PatchCore, load
from anomalib_lite.contexts import plain_context
from anomalib_lite.data import ImageStream
from anomalib_lite.methods.patchcore import detector as detector_module
from anomalib_lite.methods.patchcore.whitening import learned_whitening, whitened
from anomalib_lite.search import coreset_row_bytes
from anomalib_lite.testing import Subject, parametrize_with_checks

NORMAL = stripes(6)
ODD = scratched(2)
ALL = {"normalize": True, "whiten": True, "aggregate": ("top", 0.1)}
NETWORK = {"image_size": 64, "layers": (8,)}  # of few features, for which few images are enough
IMAGE_BYTES = 64 * coreset_row_bytes(40)


def small(**params):
    return PatchCore(**{**NETWORK, "coreset": 40, "random_state": 0, **params})


@pytest.fixture(scope="module")
def fitted():
    """With all three; not to be changed."""
    return small(**ALL).fit(NORMAL)


@parametrize_with_checks([Subject(small(**ALL))])
def test_contract(subject, check):
    check(subject)


def literal_rows(images, *, normalize=False, whiten=None):
    """(n, P, D), by the definitions; ``whiten``: images that tell how."""
    features = DeepFeatures(**NETWORK, pooling=None)

    def described(images):
        rows = features.fit_transform(images).astype(np.float64)
        if normalize:
            rows /= np.sqrt((rows**2).sum(2, keepdims=True))
        return rows

    rows = described(images)
    if whiten is not None:
        normal = described(whiten)
        rows = slow_whitened(np.concatenate(rows), np.concatenate(normal)).reshape(rows.shape)
    return rows


# -- against the definitions ----------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("whiten", [False, True])
def test_rows_and_scores_are_the_literal_ones(normalize, whiten):
    detector = small(coreset=1.0, normalize=normalize, whiten=whiten).fit(NORMAL[:3])
    how = {"normalize": normalize, "whiten": NORMAL[:3] if whiten else None}
    bank = np.concatenate(literal_rows(NORMAL[:3], **how))
    stored = detector.memory_bank_.rows.numpy()
    np.testing.assert_allclose(np.sort(stored, 0), np.sort(bank, 0), atol=1e-3)
    scores = [slow_patchcore_score(rows, bank, 9) for rows in literal_rows(ODD, **how)]
    np.testing.assert_allclose(detector.anomaly_score(ODD), scores, rtol=1e-4)


@pytest.mark.parametrize(("share", "n"), [(1e-9, 1), (0.1, 6), (1, 64)])
def test_a_share_is_the_mean_of_the_farthest_patches(share, n):
    detector = small(aggregate=("top", share)).fit(NORMAL)
    bank = detector.memory_bank_.rows.numpy().astype(np.float64)
    expected = [slow_top_mean(rows, bank, n) for rows in literal_rows(ODD)]
    np.testing.assert_allclose(detector.anomaly_score(ODD), expected, rtol=1e-5)
    np.testing.assert_allclose(detector.inspect(ODD).scores, detector.score_samples(ODD), rtol=0)


def test_calibration_scores_are_of_the_same_kind():
    detector = small(coreset=1.0, aggregate=("top", 0.1)).fit(NORMAL)
    rows = literal_rows(NORMAL)
    for image, score in enumerate(detector.calibration_scores_):
        bank = np.concatenate(rows[np.arange(6) != image])
        assert -score == pytest.approx(slow_top_mean(rows[image], bank, 6), rel=1e-5)


# -- whitening ------------------------------------------------------------------------------------


def white(images):
    """White rows (n, D) of images (n, P, D), by themselves."""
    mean, whitener = learned_whitening(images)
    assert mean.dtype == whitener.dtype == torch.float32
    assert torch.equal(whitener, whitener.T) or torch.allclose(whitener, whitener.T, atol=1e-4)
    return whitened(images, mean, whitener).flatten(0, 1).double().numpy()


def random_images(n_images=20, n_patches=30, n_features=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(n_features, n_features, generator=generator)
    return torch.randn(n_images, n_patches, n_features, generator=generator) @ mixing + 50


def test_white_rows_are_uncorrelated_and_of_variance_1():
    images = random_images()
    found = white(images)
    np.testing.assert_allclose(np.cov(found.T), np.eye(7), atol=2e-3)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-4)
    rows = images.flatten(0, 1)
    np.testing.assert_allclose(found, slow_whitened(rows, rows), atol=2e-3)


def test_directions_in_which_nothing_varies_have_a_floor():
    images = random_images()
    images[:, :, 3] = 7.0
    few = random_images(1, 4, 9)
    for rows in (images, few):
        flat = rows.flatten(0, 1)
        found = white(rows)
        np.testing.assert_allclose(found, slow_whitened(flat, flat), atol=5e-3)
        mean, whitener = learned_whitening(rows)
        variances = np.linalg.eigvalsh(np.cov(flat.double().numpy().T))
        most = np.linalg.eigvalsh(whitener.double().numpy()).max()
        assert most == pytest.approx((1e-3 * variances.mean()) ** -0.5, rel=1e-3)
        assert np.isfinite(whitened(rows + 1, mean, whitener).numpy()).all()


@pytest.mark.parametrize("images", [torch.full((3, 4, 5), 2.0), torch.full((1, 1, 5), -3e30)])
def test_rows_that_are_all_the_same_keep_their_unit(images):
    mean, whitener = learned_whitening(images)
    assert torch.equal(mean, images[0, 0])
    torch.testing.assert_close(whitener, torch.eye(5))


def test_constant_images_are_learned():
    constant = np.full((4, 64, 64), 90, np.uint8)
    constant[1:] += np.arange(1, 4, dtype=np.uint8)[:, None, None]
    detector = small(**ALL).fit(constant)
    assert np.isfinite(detector.score_samples(ODD)).all()
    assert detector.predict(ODD).tolist() == [-1, -1]


def test_the_whitener_is_that_of_the_first_images_and_then_kept(tmp_path):
    images = stripes(12)
    detector = small(coreset=0.2, whiten=True, memory_budget=5 * IMAGE_BYTES).fit(images)
    first = small(coreset=0.2, whiten=True).fit(images[:5])
    assert torch.equal(detector.whitener_, first.whitener_)
    streamed = small(coreset=0.2, whiten=True, memory_budget=5 * IMAGE_BYTES).fit(iter(images))
    assert torch.equal(streamed.memory_bank_.rows, detector.memory_bank_.rows)
    distance, _ = detector.memory_bank_.query(white_rows(detector, images))
    assert distance.max() <= detector.coreset_radius_ * (1 + 1e-6)
    first.save(tmp_path / "first.alite")
    later = load(tmp_path / "first.alite").partial_fit(images[5:])
    first.partial_fit(images[5:])
    assert torch.equal(detector.whitener_, first.whitener_)
    assert torch.equal(later.memory_bank_.rows, first.memory_bank_.rows)
    distance, _ = first.memory_bank_.query(white_rows(first, images))
    assert distance.max() <= first.coreset_radius_ * (1 + 1e-6)
    assert not torch.equal(first.fit(images[5:]).whitener_, detector.whitener_)


def white_rows(detector, images):
    batches = (detector.input_.batch([image]) for image in ImageStream(images))
    with torch.no_grad(), plain_context():
        return torch.cat([detector._embed(batch)[0][0] for batch in batches])


def test_a_training_image_is_at_distance_0():
    detector = small(coreset=1.0, normalize=True, whiten=True).fit(NORMAL)
    np.testing.assert_array_equal(detector.score_samples(NORMAL), 0)


# -- what is learned later ------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "n_counted", "n_kept"), [(0.1, 6, 9), (0.75, 48, 32)])
def test_scores_of_earlier_images_follow_the_banks(share, n_counted, n_kept):
    images = stripes(14)
    detector = small(coreset=0.2, aggregate=("top", share)).fit(images[:8])
    before = detector.calibration_scores_
    detector.partial_fit(images[8:])
    suspects, banks = detector._suspects_, detector._part_banks_
    assert suspects.rows.shape[1] == n_kept
    n_bank, codes = detector.memory_bank_.n_stored, detector.memory_bank_.codes
    rows, n = literal_rows(images[:8]), min(n_counted, n_kept)
    for image, score in enumerate(detector.calibration_scores_[:8]):
        bank = banks.others((banks.parts[image],), n_bank, codes).rows.double().numpy()
        kept = suspects.rows[np.searchsorted(suspects.digests, detector._digests_[image])]
        assert -score == pytest.approx(slow_top_mean(kept.double().numpy(), bank, n), rel=1e-5)
        assert -score == pytest.approx(slow_top_mean(rows[image], bank, n_counted), rel=0.05)
    assert (detector.calibration_scores_[:8] > before).all()


def test_ranks_that_are_kept():
    kept = detector_module._suspect_ranks
    assert kept(1, 784) == [0, 1, 2, 3]
    assert kept(1, 2) == [0, 1]
    assert kept(29, 784) == [*range(32)]
    assert kept(30, 784) == [*range(30)]
    assert kept(784, 784) == [12 + 49 * i // 2 for i in range(32)]


def test_workers_change_nothing(fitted):
    for n_jobs in (1, 3):
        other = small(**ALL, n_jobs=n_jobs).fit(NORMAL)
        assert torch.equal(other.whitener_, fitted.whitener_)
        np.testing.assert_array_equal(other.score_samples(ODD), fitted.score_samples(ODD))
        np.testing.assert_array_equal(other.calibration_scores_, fitted.calibration_scores_)


def test_scores_have_gradients(fitted):
    batch = fitted.input_.batch(list(ImageStream(ODD[:1])))
    with plain_context(), torch.enable_grad():
        expected = fitted._score(batch.clone())
        batch.requires_grad_()
        (score,) = found = fitted._score(batch)
        score.backward()
    torch.testing.assert_close(found.detach(), expected.detach())
    assert batch.grad.isfinite().all() and batch.grad.abs().max() > 0


# -- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {"normalize": "yes"},
        {"whiten": 2},
        {"whiten": None},
        *(
            {"aggregate": aggregate}
            for aggregate in ("mean", 0.1, ("top",), ("top", 0), ("top", 1.1), ("top", True),
                              ("top", "0.1"), ("max", 0.1), ("top", float("nan")), None,
                              np.array([1.0, 2.0]))
        ),
    ],
    ids=str,
)  # fmt: skip
def test_nonsense_is_refused(params):
    (name,) = params
    with pytest.raises(ValueError, match=f"^{name}: expected "):
        small(**params).fit(NORMAL)


@pytest.mark.parametrize(
    "changed", [{"normalize": False}, {"whiten": False}, {"aggregate": "max"}], ids=str
)
def test_patches_and_scores_stay_those_of_fit(fitted, changed):
    detector = small(**ALL).fit(NORMAL)
    with pytest.warns(UserWarning, match="until this PatchCore is fitted again"):
        detector.set_params(**changed)
    np.testing.assert_array_equal(detector.score_samples(ODD), fitted.score_samples(ODD))
    plain = small().fit(NORMAL)
    with pytest.warns(UserWarning, match="until this PatchCore is fitted again"):
        plain.set_params(**ALL)
    plain.partial_fit(stripes(2, seed=3))
    assert not hasattr(plain, "whitener_")


def test_what_is_saved_says_the_same(fitted, tmp_path):
    fitted.save(tmp_path / "all.alite")
    loaded = load(tmp_path / "all.alite")
    assert loaded.aggregate == ("top", 0.1)
    expected, found = fitted.inspect(ODD), loaded.inspect(ODD)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.maps, expected.maps)
    more = stripes(3, seed=3)
    a = small(**ALL).fit(NORMAL).partial_fit(more)
    np.testing.assert_array_equal(loaded.partial_fit(more).score_samples(ODD), a.score_samples(ODD))


def test_parts_cannot_be_whitened(fitted):
    message = "^whiten: expected False .* Fit on one machine, or leave whiten out"
    detector = small(whiten=True)
    with pytest.raises(ValueError, match=message):
        detector.partial_state(NORMAL)
    with pytest.raises(ValueError, match=message):
        detector.merge_states([small().partial_state(NORMAL)])
    with pytest.raises(ValueError, match=r"state 0: .*whiten=True"):
        detector.finish(small().partial_state(NORMAL))
    found = fitted.partial_calibration(NORMAL[:2])
    np.testing.assert_allclose(-found.anomaly_scores, fitted.calibration_scores_[:2])


def test_other_settings_merge():
    detector = small(normalize=True, aggregate=("top", 0.1), false_alarm_rate=0.2)
    states = [detector.partial_state(NORMAL[:4]), detector.partial_state(NORMAL[4:], first=4)]
    detector.finish(detector.merge_states(states))
    detector.finish_calibration([detector.partial_calibration(NORMAL)])
    whole = small(normalize=True, aggregate=("top", 0.1), false_alarm_rate=0.2).fit(NORMAL)
    np.testing.assert_allclose(detector.calibration_scores_, whole.calibration_scores_, rtol=0.15)
    assert detector.predict(ODD).tolist() == [-1, -1]
