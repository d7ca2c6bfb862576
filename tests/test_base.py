"""The template itself, on a detector so small that its scores are known: mean brightness."""

import numpy as np
import pytest
import torch
from worlds import stripes

from anomalib_lite import PatchCore
from anomalib_lite.base import BaseDetector
from anomalib_lite.data import ImageStream, NetworkInput
from anomalib_lite.runtime import aside
from anomalib_lite.validation import (
    check_choice,
    check_count,
    check_finite,
    check_fraction,
    check_number,
    check_odd,
)


class Brightness(BaseDetector):
    """Images far from the mean brightness of the normal ones are anomalous."""

    def __init__(self, *, false_alarm_rate=0.25, smoothing=0, batch_size=32, verbose=False):
        self.false_alarm_rate = false_alarm_rate
        self.smoothing = smoothing
        self.batch_size = batch_size
        self.device = "cpu"
        self.random_state = None
        self.verbose = verbose

    def _check_params(self):
        pass

    def _build(self, generator):
        return NetworkInput(image_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), patch_size=1)

    def _learn(self, batches, n_images, generator):
        levels = torch.cat([batch.mean((1, 2, 3)) for _, batch in batches])
        self.level_ = levels.mean()
        return (levels - self.level_).abs()

    def _infer(self, batch):
        apart = (batch.mean(1) - self.level_).abs()  # (B, h, w)
        return (batch.mean((1, 2, 3)) - self.level_).abs(), apart


def flat(*levels, size=(8, 8)):
    return np.stack([np.full(size, level) for level in levels])


def test_scores_threshold_and_maps_follow_from_the_hooks():
    detector = Brightness().fit(flat(0.2, 0.4, 0.6, 0.8, 0.5))
    assert detector.n_images_ == 5
    np.testing.assert_allclose(detector.calibration_scores_, [-0.3, -0.1, -0.1, -0.3, 0], atol=1e-6)
    assert detector.offset_ == np.quantile(detector.calibration_scores_, 0.25, method="weibull")
    seen = detector.inspect(flat(0.5, 0.9))
    np.testing.assert_allclose(seen.scores, [0, -0.4], atol=1e-6)
    assert seen.labels.tolist() == [1, -1]
    np.testing.assert_allclose(seen.maps, flat(0, 0.4), atol=1e-6)


def test_a_score_at_the_threshold_is_normal():
    detector = Brightness().fit(flat(0.2, 0.4, 0.6))
    image = flat(0.9)
    detector.offset_ = float(detector.score_samples(image)[0])
    assert detector.decision_function(image)[0] == 0
    assert detector.predict(image).tolist() == [1]


def test_maps_of_mixed_sizes_are_a_list_and_agreeing_ones_an_array():
    detector = Brightness().fit(flat(0.2, 0.4))
    same, other = flat(0.1, 0.2), flat(0.3, size=(9, 12))
    assert isinstance(detector.anomaly_map(list(same)), np.ndarray)
    for images in ([*same, *other], [*other, *same]):
        for given in (images, iter(images)):
            maps = detector.anomaly_map(given)
            assert [heat.shape for heat in maps] == [image.shape for image in images]


def test_a_data_set_that_gives_more_than_it_said_keeps_all_maps():
    class Liar(torch.utils.data.IterableDataset):
        def __len__(self):
            return 1

        def __iter__(self):
            return iter(flat(0.1, 0.5, 0.9))

    detector = Brightness().fit(flat(0.2, 0.4))
    assert detector.anomaly_map(Liar()).shape == (3, 8, 8)


@pytest.mark.parametrize(("device", "sizes"), [("cpu", [1] * 7), ("meta", [3, 3, 1])])
def test_images_pass_alone_on_a_cpu_and_together_elsewhere(device, sizes):
    detector = Brightness(batch_size=3).fit(flat(0.2, 0.4))
    detector.device_ = torch.device(device)
    batches = list(detector._checked_batches(ImageStream(np.zeros((7, 8, 8))), "score"))
    assert [len(images) for images, _ in batches] == sizes
    assert {batch.device.type for _, batch in batches} == {device}


def test_later_images_widen_the_range_but_a_failure_does_not():
    detector = Brightness().fit(flat(0.01, 0.02))
    before = detector.value_range_
    with pytest.raises(ValueError, match="image 1"), aside(detector) as learner:
        list(learner._learning_batches(ImageStream(flat(0.03, np.nan))))
    assert detector.value_range_ is before
    assert before.highest == pytest.approx(0.02)


def test_progress_names_what_is_going_on(capsys):
    PatchCore(image_size=64, coreset=30, verbose=True).fit(stripes(3)).score_samples(stripes(2))
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("fit", "coreset", "threshold", "score"))


def test_network_and_rooms_keep_to_their_device():
    # a fake cuda: every tensor made on the wrong device would raise
    from torch._subclasses.fake_tensor import FakeTensorMode

    from anomalib_lite.backbones import Backbone, MapRenderer, grid_rows, patch_embedding, pool_maps

    backbone = Backbone("efficientnet_lite0", image_size=(64, 64))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        model = backbone._reader.model
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    fake = mode.from_tensor(parameter).to("cuda")
                    module._parameters[name] = torch.nn.Parameter(fake, requires_grad=False)
        maps = backbone(torch.empty(2, 3, 64, 64, device="cuda"))
        for aggregation in ("concat", "official"):
            rows = grid_rows(patch_embedding(maps, aggregation=aggregation))
            assert rows.device.type == "cuda"
        assert pool_maps(maps).device.type == "cuda"
    grid = torch.empty(8, 8, device="meta")
    assert MapRenderer((64, 64))(grid, (50, 70)).device.type == "meta"


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (lambda v: check_number("p", v, minimum=0), [0, 0.5, 3], [-1, "1", True, np.nan, np.inf]),
        (lambda v: check_count("p", v), [1, np.int64(7)], [0, -1, 1.0, True, "1", None]),
        (lambda v: check_count("p", v, minimum=0), [0, 2], [-1, 0.0]),
        (lambda v: check_odd("p", v), [1, 3], [2, 0, 3.0]),
        (lambda v: check_fraction("p", v), [0, 0.99], [1, -0.1, True, "0", np.nan]),
        (lambda v: check_choice("p", v, ("a", "b")), ["a"], ["c", None, 1]),
    ],
)
def test_parameter_checks(check, good, bad):
    for value in good:
        check(value)
    for value in bad:
        with pytest.raises(ValueError, match="p: expected"):
            check(value)


def test_values_that_are_no_numbers_name_their_image():
    images = list(ImageStream(np.zeros((2, 8, 8))))
    values = torch.zeros(2, 3, 4)
    check_finite(values, images)
    values[1, 2, 0] = torch.inf
    with pytest.raises(ValueError, match="image 1"):
        check_finite(values, images)
