"""What every detector owes its users, shown on a small PatchCore."""

import random
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch.utils.data import DataLoader, TensorDataset
from worlds import scratched, stripes

from anomalib_lite import PatchCore

NORMAL = stripes(6)
TEST = np.concatenate([scratched(3), stripes(3, seed=7)])


def make(**params):
    return PatchCore(**{"image_size": 64, "coreset": 30, "random_state": 0, **params})


@pytest.fixture(scope="module")
def fitted():
    return make().fit(NORMAL)


def learned(detector):
    return {name for name in vars(detector) if name.endswith("_")}


# -- signs and shapes -----------------------------------------------------------------------------


def test_signs(fitted):
    scores = fitted.score_samples(TEST)
    assert scores.shape == (6,)
    assert scores[:3].max() < scores[3:].min()
    np.testing.assert_array_equal(fitted.anomaly_score(TEST), -scores)
    np.testing.assert_array_equal(fitted.decision_function(TEST), scores - fitted.offset_)
    np.testing.assert_array_equal(fitted.predict(TEST), np.where(scores < fitted.offset_, -1, 1))
    assert fitted.predict(TEST)[:3].tolist() == [-1, -1, -1]


def test_inspect_equals_the_single_calls(fitted):
    seen = fitted.inspect(TEST)
    np.testing.assert_array_equal(seen.scores, fitted.score_samples(TEST))
    np.testing.assert_array_equal(seen.labels, fitted.predict(TEST))
    np.testing.assert_array_equal(seen.maps, fitted.anomaly_map(TEST))
    assert seen.paths == [None] * 6


def test_maps_come_at_each_images_own_size(fitted):
    assert fitted.anomaly_map(TEST).shape == (6, 64, 64)
    assert fitted.anomaly_map(TEST).dtype == np.float32
    mixed = [TEST[0], np.asarray(Image.fromarray(TEST[0]).resize((90, 40))), TEST[1]]
    maps = fitted.anomaly_map(mixed)
    assert isinstance(maps, list)
    assert [image_map.shape for image_map in maps] == [(64, 64), (40, 90), (64, 64)]
    np.testing.assert_allclose(maps[0], fitted.anomaly_map(TEST[:1])[0], rtol=1e-5)
    assert fitted.anomaly_map(iter(TEST)).shape == (6, 64, 64)


def test_fit_predict(fitted):
    np.testing.assert_array_equal(make().fit_predict(NORMAL), fitted.predict(NORMAL))


# -- invariances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_batch_size_is_invisible(fitted, batch_size):
    other = make(batch_size=batch_size).fit(NORMAL)
    np.testing.assert_allclose(other.score_samples(TEST), fitted.score_samples(TEST), rtol=1e-5)
    one_by_one = np.concatenate([other.score_samples(image[None]) for image in TEST])
    np.testing.assert_allclose(other.score_samples(TEST), one_by_one, rtol=1e-5)


def test_order_is_invisible(fitted):
    order = np.random.default_rng(0).permutation(6)
    np.testing.assert_allclose(
        fitted.score_samples(TEST[order]), fitted.score_samples(TEST)[order], rtol=1e-5
    )


def test_same_seed_same_bits(fitted):
    again = clone(fitted).fit(NORMAL)
    np.testing.assert_array_equal(again.anomaly_map(TEST), fitted.anomaly_map(TEST))
    np.testing.assert_array_equal(again.score_samples(TEST), fitted.score_samples(TEST))
    refitted = make(random_state=3).fit(TEST).set_params(random_state=0).fit(NORMAL)
    np.testing.assert_array_equal(refitted.score_samples(TEST), fitted.score_samples(TEST))
    assert refitted.offset_ == fitted.offset_
    other = make(random_state=1).fit(NORMAL)
    assert not np.array_equal(other.score_samples(TEST), fitted.score_samples(TEST))


def save_folder(folder, images):
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    return folder


WAYS = {
    "uint8": lambda x: x,
    "float": lambda x: x / 255,
    "float32": lambda x: (x / 255).astype(np.float32),
    "uint16": lambda x: x.astype(np.uint16) * 257,
    "one channel": lambda x: x[..., None],
    "colour": lambda x: np.stack([x] * 3, -1),
    "tensor": lambda x: torch.from_numpy(x)[:, None],
    "list": list,
    "PIL": lambda x: [Image.fromarray(image) for image in x],
    "generator": lambda x: (image for image in x),
    "Dataset": lambda x: TensorDataset(torch.from_numpy(x)[:, None], torch.zeros(len(x))),
    "DataLoader": lambda x: DataLoader(
        TensorDataset(torch.from_numpy(x)[:, None], torch.zeros(len(x))), batch_size=4
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_pass_images_agrees(fitted, way):
    np.testing.assert_allclose(
        fitted.score_samples(WAYS[way](TEST)), fitted.score_samples(TEST), rtol=1e-4
    )
    refitted = make().fit(WAYS[way](NORMAL))
    np.testing.assert_allclose(refitted.score_samples(TEST), fitted.score_samples(TEST), rtol=1e-4)


def test_folders_and_paths_agree(fitted, tmp_path):
    folder = save_folder(tmp_path, TEST)
    for images in (folder, str(folder), sorted(folder.iterdir()), list(map(str, folder.iterdir()))):
        scores = fitted.score_samples(images)
        np.testing.assert_allclose(sorted(scores), sorted(fitted.score_samples(TEST)), rtol=1e-5)
    assert fitted.inspect(folder).paths == [str(folder / f"{i}.png") for i in range(6)]


# -- nothing lost, nothing touched ----------------------------------------------------------------


def test_unfitted_detector_says_so():
    for method in ("score_samples", "predict", "anomaly_map", "inspect", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(make(), method)(TEST)


def test_failed_fit_leaves_the_estimator_as_it_was():
    bad = NORMAL.astype(np.float64) / 255
    bad[4, 3, 2] = np.nan
    fresh = make()
    with pytest.raises(ValueError, match="image 4"):
        fresh.fit(bad)
    assert not learned(fresh)

    detector = make().fit(NORMAL)
    before = dict(vars(detector))
    with pytest.raises(ValueError, match="image 4"):
        detector.fit(bad)
    assert vars(detector) == before


def test_interrupt_leaves_the_estimator_as_it_was(monkeypatch):
    detector = make().fit(NORMAL)
    before = dict(vars(detector))
    monkeypatch.setattr(
        PatchCore, "_leave_one_out_scores", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        detector.fit(TEST)
    with pytest.raises(KeyboardInterrupt):
        detector.partial_fit(TEST)
    assert vars(detector) == before


def test_bad_image_gets_no_score_and_is_named(fitted, tmp_path):
    folder = save_folder(tmp_path, TEST)
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"image 3 \(.*3\.png\)"):
        fitted.score_samples(folder)
    with pytest.raises(ValueError, match=r"image 0: expected at least 8 pixels"):
        fitted.score_samples(np.zeros((2, 7, 64), np.uint8))
    with pytest.raises(ValueError, match="at least one image"):
        fitted.score_samples(np.zeros((0, 64, 64), np.uint8))
    with pytest.raises(ValueError, match="table"):
        fitted.score_samples(np.zeros((5, 64)))


def test_data_of_another_value_range_is_refused(fitted):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        fitted.score_samples(TEST.astype(np.float64))
    with pytest.raises(ValueError, match="image 0: its float64 values reach"):
        fitted.score_samples(TEST / 255 / 255)
    assert fitted.score_samples(np.zeros((1, 64, 64), np.uint8)).shape == (1,)


def test_globals_and_inputs_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = NORMAL.copy()
    images.flags.writeable = False

    def state():
        return (
            random.getstate(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            torch.get_rng_state().tolist(),
            torch.get_num_threads(),
            torch.get_num_interop_threads(),
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            threading.active_count(),
            list(tmp_path.iterdir()),
        )

    before = state()
    for random_state in (0, None):
        make(random_state=random_state).fit(images).inspect(images)
    make(weights="random").fit(images)
    assert state() == before
    np.testing.assert_array_equal(images, NORMAL)


def test_clone_keeps_parameters_only(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not learned(copy)


def test_verbose_shows_progress_and_silence_is_the_default(capsys):
    make().fit(NORMAL).score_samples(TEST)
    assert capsys.readouterr() == ("", "")
    make(verbose=True).fit(NORMAL).score_samples(TEST)
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("fit", "coreset", "score"))


def test_network_and_rooms_keep_to_their_device():
    # a fake cuda: every tensor made on the wrong device would raise
    from torch._subclasses.fake_tensor import FakeTensorMode

    from anomalib_lite.backbones import Backbone
    from anomalib_lite.patches import MapRenderer, grid_rows, patch_embedding

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
    grid = torch.empty(8, 8, device="meta")
    assert MapRenderer((64, 64))(grid, (50, 70)).device.type == "meta"
