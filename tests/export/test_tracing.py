"""Detectors as graphs from network input to score and grid."""

import logging
import re

import numpy as np
import pytest
import torch
from detectors import PUBLIC, SUBJECTS, small
from graphs import run, session
from mean_image import MeanImage
from snapshots import process_state
from worlds import scratched, stripes

from anomalib_lite import PatchCore
from anomalib_lite.contexts import plain_context
from anomalib_lite.data.images import ImageStream
from anomalib_lite.export.tracing import traced


def network_inputs(detector):
    images = [*stripes(1, seed=5), *scratched(1), np.zeros((64, 64), np.uint8)]
    return [detector.input_.batch([image]) for image in ImageStream(images)]


def check_infers_the_same(detector):
    """Scores and grids of the graph, against the detector's own, to 1e-5."""
    running = session(traced(detector))
    batches = network_inputs(detector)
    with plain_context():
        expected = [detector._infer(batch) for batch in batches]
    scale = max(float(score.abs()) for score, _ in expected)
    span = max(float(grid.max()) for _, grid in expected)
    span -= min(float(grid.min()) for _, grid in expected)
    for batch, (score, grid) in zip(batches, expected, strict=True):
        found = running.run(["score", "grid"], {"input": batch.numpy()})
        np.testing.assert_allclose(found[0].ravel(), score, rtol=1e-5, atol=1e-5 * scale)
        np.testing.assert_allclose(found[1].reshape(grid.shape), grid, rtol=1e-5, atol=1e-5 * span)


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, marks=[] if cls.__name__ in ("PaDiM", "CANCE") else pytest.mark.slow)
        for cls in PUBLIC
    ],
)
def test_every_detector_infers_the_same(cls):
    check_infers_the_same(SUBJECTS[cls].fitted)


@pytest.fixture(scope="module")
def own():
    return MeanImage(image_size=64, random_state=0).fit(stripes(12))


def test_a_detector_of_ones_own_infers_the_same(own):
    check_infers_the_same(own)


@pytest.mark.parametrize(
    "params", [{"normalize": True}, {"whiten": True}, {"aggregate": ("top", 0.1)}], ids=str
)
def test_other_views_of_patches_infer_the_same(params):
    detector = small(PatchCore, layers=(8,), **params).fit(stripes(6))
    check_infers_the_same(detector)


def test_a_graph_has_one_input_and_two_outputs(own):
    graph = traced(own).graph
    (taken,) = graph.input
    assert taken.name == "input"
    assert [side.dim_value for side in taken.type.tensor_type.shape.dim] == [1, 3, 64, 64]
    assert [value.name for value in graph.output] == ["score", "grid"]
    assert "/" not in "".join(str(node) for node in graph.node)  # no stack traces


class Undecided(MeanImage):
    """Looks at values to choose what to do."""

    def _infer(self, batch):
        score, grid = super()._infer(batch)
        return (score if score.mean() > 0 else -score), grid


class Foreign(MeanImage):
    """Computes by operations that ONNX does not have."""

    def _infer(self, batch):
        score, grid = super()._infer(batch)
        return torch.fft.fft(score.to(torch.complex64)).real.float(), torch.linalg.eigh(grid)[1]


@pytest.mark.parametrize("cls", [Undecided, Foreign])
def test_what_cannot_be_traced_is_refused_with_its_name(cls):
    detector = cls(image_size=64, random_state=0).fit(stripes(12))
    with pytest.raises(ValueError, match=f"^export: {cls.__name__} cannot be") as caught:
        traced(detector)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"\(\w+: .+\)\.$", message)


class Apart(Undecided):
    """Does the same without looking."""

    def _infer_portably(self, batch):
        score, grid = MeanImage._infer(self, batch)
        return torch.where(score > 0, score, -score), grid


def test_a_detector_can_infer_in_another_way_for_export():
    check_infers_the_same(Apart(image_size=64, random_state=0).fit(stripes(12)))


class Part:
    """Of a detector, replaced for export."""

    def __init__(self, factor):
        self.factor = factor

    def portable(self):
        return Part(self.factor + 1)


def test_parts_are_replaced_on_a_copy_alone(own):
    class Parted(MeanImage):
        def _learn(self, batches, n_images, generator):
            self.part_ = Part(1.0)
            return super()._learn(batches, n_images, generator)

        def _infer(self, batch):
            score, grid = super()._infer(batch)
            return self.part_.factor * score, grid

    detector = Parted(image_size=64, random_state=0).fit(stripes(12))
    part = detector.part_
    batch = network_inputs(detector)[1]
    score = run(traced(detector), input=batch.numpy())["score"]
    np.testing.assert_allclose(score, 2 * detector._infer(batch)[0], rtol=1e-5)
    assert detector.part_ is part


@pytest.mark.parametrize("cls", [MeanImage, Undecided])
def test_nothing_is_left_behind(cls, own, tmp_path, monkeypatch, capfd):
    detector = cls(image_size=64, random_state=0).fit(stripes(12))
    traced(own)  # what libraries set up once is set up by now
    for name in ("torch.onnx", "onnxscript"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING + 1)
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    before, attributes = process_state(), dict(vars(detector))
    if cls is MeanImage:
        traced(detector)
    else:
        with pytest.raises(ValueError):
            traced(detector)
    assert process_state() == before
    assert vars(detector).keys() == attributes.keys()
    assert all(vars(detector)[name] is value for name, value in attributes.items())
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_what_the_caller_has_set_makes_no_difference(own):
    model = traced(own)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), torch.device("meta"):
        assert traced(own) == model
