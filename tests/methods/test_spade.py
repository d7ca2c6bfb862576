import numpy as np
import pytest
import torch
from oracles import slow_spade
from worlds import scratched, stripes

from anomalib_lite import SPADE

NORMAL = stripes(12)
ODD = scratched(2)


def small(**params):
    return SPADE(**{"image_size": 64, "n_neighbors": 3, "random_state": 0, **params})


def embedded(detector, images):
    """Pooled deep features (n, D) and pyramids (n, P, d)."""
    found = [detector._embed(detector.input_.batch([i]))[:2] for i in detector._open(images)]
    return [torch.cat(part) for part in zip(*found, strict=True)]


def grids(detector, images):
    """Patch values (n, P)."""
    batches = (detector.input_.batch([image]) for image in detector._open(images))
    return torch.cat([detector._infer(batch)[1].flatten(1) for batch in batches])


@pytest.mark.parametrize("image_size", [64, 72])  # 256 and 324 patches, the latter padded
@pytest.mark.parametrize("k", [1, 3, 50])
def test_scores_and_maps_are_those_of_the_definition(image_size, k):
    detector = small(image_size=image_size, n_neighbors=k).fit(NORMAL)
    embeddings, pyramids = embedded(detector, NORMAL)
    for i, (embedding, pyramid) in enumerate(zip(*embedded(detector, ODD), strict=True)):
        score, values = slow_spade(embedding, pyramid, embeddings, pyramids, k)
        assert detector.anomaly_score(ODD)[i] == pytest.approx(score, rel=1e-5)
        np.testing.assert_allclose(grids(detector, ODD)[i], values, rtol=1e-5)


def test_only_the_retrieved_images_count():
    detector = small(n_neighbors=1).fit(NORMAL)
    assert (grids(detector, ODD) > grids(small(n_neighbors=12).fit(NORMAL), ODD)).any()


def test_calibration_scores_leave_each_image_out():
    detector = small().fit(NORMAL)
    embeddings, _ = embedded(detector, NORMAL)
    apart = torch.cdist(embeddings.double(), embeddings.double())
    expected = apart.fill_diagonal_(torch.inf).topk(3, largest=False).values.mean(1)
    np.testing.assert_allclose(-detector.calibration_scores_, expected, rtol=1e-6)


def test_half_precision_takes_less_and_says_nearly_the_same():
    full, half = small().fit(NORMAL), small(bank_dtype="float16").fit(NORMAL)
    assert half.pyramids_.rows.nbytes == full.pyramids_.rows.nbytes / 2
    np.testing.assert_array_equal(half.score_samples(ODD), full.score_samples(ODD))
    np.testing.assert_allclose(grids(half, ODD), grids(full, ODD), rtol=0.01)


def test_a_stream_of_unknown_length_gives_the_same():
    whole, streamed = small().fit(NORMAL), small().fit(image for image in NORMAL)
    np.testing.assert_array_equal(streamed.pyramids_.rows, whole.pyramids_.rows)
    np.testing.assert_array_equal(streamed.anomaly_map(ODD), whole.anomaly_map(ODD))


def test_a_small_budget_keeps_the_first_pyramids_and_says_so():
    full = small().fit(NORMAL)
    image_bytes = full.pyramids_.n_stored // 12 * 4 * (176 + full.pyramids_.codes.n_codes + 1)
    with pytest.warns(UserWarning, match="pyramids of the first 5 of 12 images"):
        part = small(memory_budget=5 * image_bytes + 1).fit(NORMAL)
    assert part.n_pyramids_ == 5
    np.testing.assert_array_equal(part.score_samples(ODD), full.score_samples(ODD))
    embeddings, pyramids = embedded(full, NORMAL)
    embedding, pyramid = (found[0] for found in embedded(full, ODD))
    _, values = slow_spade(embedding, pyramid, embeddings[:5], pyramids[:5], 3)
    np.testing.assert_allclose(grids(part, ODD)[0], values, rtol=1e-5)


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


def test_one_image_is_too_few():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        small().fit(NORMAL[:1])
