import numpy as np
import pytest
import torch
from oracles import slow_spade
from worlds import scratched, stripes

from anomalib_lite import SPADE, DeepFeatures
from anomalib_lite.backbones import MapRenderer

NORMAL = stripes(12)
ODD = scratched(2)


def small(**params):
    return SPADE(**{"image_size": 64, "n_neighbors": 3, "random_state": 0, **params})


@pytest.fixture(scope="module")
def fitted():
    """Fitted on NORMAL; not to be changed."""
    return small().fit(NORMAL)


def embedded(images, image_size=64):
    """Pooled deep features (n, D) and pyramids (n, P, d), as transformers give them."""
    deep = DeepFeatures(image_size=image_size, layers=(32,))
    pyramid = DeepFeatures(image_size=image_size, layers=(4, 8, 16), pooling=None, neighborhood=1)
    return deep.fit_transform(images), pyramid.fit_transform(images)


def rendered(values):
    """The map (64, 64) of patch values (P,) of a square grid."""
    side = round(len(values) ** 0.5)
    grid = torch.from_numpy(values).float().view(side, side)
    return MapRenderer((4 * side, 4 * side), smoothing=4.0)(grid, (64, 64))


@pytest.mark.parametrize(
    ("image_size", "k"),  # of 72 px: 324 patches, which fill no whole number of search chunks
    [(64, 3), (72, 1), pytest.param(64, 50, marks=pytest.mark.slow), (72, 50)],
)
def test_scores_and_maps_are_those_of_the_definition(image_size, k):
    detector = small(image_size=image_size, n_neighbors=k).fit(NORMAL)
    embeddings, pyramids = embedded(NORMAL, image_size)
    np.testing.assert_array_equal(detector.pyramids_.rows, np.concatenate(pyramids))
    odd = ODD if k < 50 else ODD[:1]
    seen, scores = detector.inspect(odd), detector.anomaly_score(odd)
    for i, (embedding, pyramid) in enumerate(zip(*embedded(odd, image_size), strict=True)):
        score, values = slow_spade(embedding, pyramid, embeddings, pyramids, k)
        assert scores[i] == -seen.scores[i] == pytest.approx(score, rel=1e-5)
        np.testing.assert_allclose(seen.maps[i], rendered(values), rtol=1e-4)


def test_calibration_scores_leave_each_image_out(fitted):
    embeddings = torch.from_numpy(embedded(NORMAL)[0]).double()
    distances = torch.cdist(embeddings, embeddings)
    expected = distances.fill_diagonal_(torch.inf).topk(3, largest=False).values.mean(1)
    np.testing.assert_allclose(-fitted.calibration_scores_, expected, rtol=1e-6)


def test_half_precision_takes_less_memory_and_changes_maps_little(fitted):
    half = small(bank_dtype="float16").fit(NORMAL)
    assert half.pyramids_.rows.nbytes == fitted.pyramids_.rows.nbytes / 2
    np.testing.assert_array_equal(half.score_samples(ODD), fitted.score_samples(ODD))
    np.testing.assert_allclose(half.anomaly_map(ODD), fitted.anomaly_map(ODD), rtol=0.01)


def test_a_stream_of_unknown_length_gives_the_same(fitted):
    streamed = small().fit(image for image in NORMAL)
    np.testing.assert_array_equal(streamed.pyramids_.rows, fitted.pyramids_.rows)
    np.testing.assert_array_equal(streamed.anomaly_map(ODD), fitted.anomaly_map(ODD))


def test_neighbors_stay_those_of_fit(fitted):
    detector = small().fit(NORMAL)
    with pytest.warns(UserWarning, match="until this SPADE is fitted again"):
        detector.set_params(n_neighbors=1)
    np.testing.assert_array_equal(detector.score_samples(ODD), fitted.score_samples(ODD))
    np.testing.assert_array_equal(detector.anomaly_map(ODD), fitted.anomaly_map(ODD))


def test_a_small_budget_keeps_the_first_pyramids_and_says_so(fitted):
    image_bytes = 16 * 16 * 4 * (176 + fitted.pyramids_.codes.n_codes + 1)
    with pytest.warns(UserWarning, match="pyramids of the first 5 of 12 images"):
        part = small(memory_budget=5 * image_bytes + 1).fit(NORMAL)
    assert part.n_pyramids_ == 5
    np.testing.assert_array_equal(part.score_samples(ODD), fitted.score_samples(ODD))
    embeddings, pyramids = embedded(NORMAL)
    embedding, pyramid = (found[0] for found in embedded(ODD))
    _, values = slow_spade(embedding, pyramid, embeddings[:5], pyramids[:5], 3)
    np.testing.assert_allclose(part.anomaly_map(ODD)[0], rendered(values), rtol=1e-4)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n_neighbors": 0}, "n_neighbors: expected a positive int"),
        ({"bank_dtype": "int8"}, "bank_dtype: expected one of 'float32', 'float16'"),
        ({"layers": (8,)}, "layers: expected two at least"),
        ({"memory_budget": 0}, "memory_budget: expected bytes"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        small(**params).fit(NORMAL)


def test_one_image_gives_scores_and_maps_but_no_labels():
    with pytest.warns(UserWarning, match="1 image cannot calibrate the threshold"):
        detector = small().fit(NORMAL[:1])
    seen = detector.inspect(ODD)
    assert seen.scores.max() < detector.score_samples(stripes(4, seed=5)).min()
    assert seen.labels.tolist() == [0] * len(ODD)


def test_copies_do_not_vouch_for_each_other():
    copies = np.concatenate([NORMAL, NORMAL[:2]])
    with pytest.warns(UserWarning, match="2 of .* images are copies"):
        detector = small(n_neighbors=1).fit(copies)
    alone = small(n_neighbors=1).fit(NORMAL)
    n = len(NORMAL)
    np.testing.assert_array_equal(detector.calibration_scores_[:n], alone.calibration_scores_)
    np.testing.assert_array_equal(detector.calibration_scores_[n:], alone.calibration_scores_[:2])
