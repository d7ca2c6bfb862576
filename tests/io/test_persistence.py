"""What save writes, load reads; what an attacker writes, load refuses, and runs nothing of it."""

import json
import os
import pickle
import shutil
import struct
import sys
from importlib.util import find_spec
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from forging import forge, parts_of
from sklearn.base import BaseEstimator
from sklearn.covariance import EllipticEnvelope
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import SGDOneClassSVM
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from torch import nn
from worlds import scratched, stripes

import anomalib_lite
from anomalib_lite import PatchCore, load
from anomalib_lite.io.persistence import FORMAT, _Reader, _Writer

NORMAL = stripes(4)
TEST = np.concatenate([scratched(2), stripes(2, seed=7)])


def small(**params):
    return PatchCore(**{"image_size": 64, "coreset": 20, "random_state": 0, **params})


@pytest.fixture(scope="module")
def detector():
    return small().fit(NORMAL)


@pytest.fixture(scope="module")
def saved(detector, tmp_path_factory):
    """Not to be changed."""
    path = tmp_path_factory.mktemp("saved") / "good.alite"
    detector.save(path)
    return path


# -- there and back -------------------------------------------------------------------------------


class Cells(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.cells = nn.Conv2d(3, width, 8, 8)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.cells(x)).relu()


@pytest.mark.parametrize("embed_backbone", [False, True])
@pytest.mark.parametrize(
    "params",
    [
        {},
        {"weights": "random"},
        {"backbone": "vit_tiny_patch16_224", "weights": "random", "layers": (2, -1)},
        {"backbone": "resnet18", "weights": "random", "layers": ["layer1"]},
        {"center_crop": (48, 40), "n_reweight": None, "aggregation": "official"},
        {"random_state": np.random.RandomState(3), "device": torch.device("cpu")},
        {"random_state": np.random.default_rng(3), "coreset": np.int64(9), "projection": 20},
    ],
    ids=lambda params: "-".join(params),
)
def test_every_setting_comes_back(params, embed_backbone, tmp_path):
    detector = small(**params).fit(NORMAL)
    detector.save(tmp_path / "a.alite", embed_backbone=embed_backbone)
    again = load(str(tmp_path / "a.alite"))
    before, after = detector.inspect(TEST), again.inspect(TEST)
    np.testing.assert_array_equal(after.scores, before.scores)
    np.testing.assert_array_equal(after.maps, before.maps)
    assert again.coreset_radius_ == detector.coreset_radius_
    for name, value in detector.get_params().items():
        if name not in ("random_state", "device"):
            assert again.get_params()[name] == value
    again.partial_fit(TEST[2:])
    assert again.n_images_ == 6


def test_random_states_go_on_where_they_were(tmp_path):
    for make in (np.random.RandomState, np.random.default_rng):
        detector = small(random_state=make(5)).fit(NORMAL)
        detector.save(tmp_path / "a.alite")
        again = load(tmp_path / "a.alite")
        assert type(again.random_state) is type(detector.random_state)
        np.testing.assert_array_equal(again.random_state.random(3), detector.random_state.random(3))


def test_weights_of_a_file_come_along(tmp_path):
    torch.manual_seed(0)
    import timm

    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("resnet18").state_dict(), weights)
    detector = small(backbone="resnet18", weights=weights).fit(NORMAL)
    detector.save(tmp_path / "a.alite")
    weights.unlink()
    again = load(tmp_path / "a.alite")
    np.testing.assert_array_equal(again.score_samples(TEST), detector.score_samples(TEST))
    assert again.weights == weights


def test_a_module_of_ones_own_leaves_its_weights_and_is_asked_for(tmp_path):
    detector = small(backbone=Cells()).fit(NORMAL)
    path = tmp_path / "a.alite"
    detector.save(path)
    with pytest.raises(ValueError, match=r"Cells.*load\(path, backbone=\.\.\.\)"):
        load(path)
    other = Cells()
    untouched = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    again = load(path, backbone=other)
    np.testing.assert_array_equal(again.score_samples(TEST), detector.score_samples(TEST))
    assert all(torch.equal(untouched[name], t) for name, t in other.state_dict().items())
    again.save(path)
    thrice = load(path, backbone=Cells())
    np.testing.assert_array_equal(thrice.score_samples(TEST), detector.score_samples(TEST))
    with pytest.raises(ValueError, match="architecture"):
        load(path, backbone=Cells(9))


def test_pretrained_weights_are_named_and_checked(detector, saved, tmp_path, monkeypatch):
    detector.save(tmp_path / "whole.alite", embed_backbone=True)
    assert (tmp_path / "whole.alite").stat().st_size > 2e6 > saved.stat().st_size
    from anomalib_lite.backbones import loading

    original = loading._read_bundled
    monkeypatch.setattr(
        loading, "_read_bundled", lambda model: {k: v * 2 for k, v in original(model).items()}
    )
    with pytest.raises(ValueError, match="not those it was fitted with"):
        load(saved)
    again = load(tmp_path / "whole.alite")
    np.testing.assert_array_equal(again.score_samples(TEST), detector.score_samples(TEST))


def test_device_of_the_caller_of_the_parameter_or_of_the_machine(saved, tmp_path):
    assert load(saved, device="cpu").device_ == torch.device("cpu")
    with pytest.raises(ValueError, match="device"):
        load(saved, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="CUDA"):
            load(saved, device="cuda")
        elsewhere = small().fit(NORMAL)
        elsewhere.device = "cuda:7"  # as if fitted there
        elsewhere.save(tmp_path / "a.alite")
        again = load(tmp_path / "a.alite")
        assert again.device_ == torch.device("cpu")
        assert again.device == "cuda:7"


def test_the_same_detector_gives_the_same_file(detector, saved, tmp_path):
    detector.save(tmp_path / "again.alite")
    assert (tmp_path / "again.alite").read_bytes() == saved.read_bytes()


def test_saving_replaces_the_whole_file_or_nothing(detector, tmp_path, monkeypatch):
    path = tmp_path / "a.alite"
    path.write_text("something dear")
    broken = small().fit(NORMAL)
    broken.coreset = lambda n: n
    with pytest.raises(ValueError, match=r"PatchCore\.coreset: a function cannot be stored"):
        broken.save(path)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        detector.save(path)
    assert path.read_text() == "something dear"
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    detector.save(path)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        detector.save(tmp_path / "no such folder" / "a.alite")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "no such file")


VALUES = [
    None, True, 3, -(2**70), 0.1, float("inf"), -float("inf"), "ü\n", [1, [2]], (1, (2,)), {3, 1},
    {"a": 1, 2: (3,)}, np.float32(0.5), np.int8(3), np.bool(True), torch.tensor(3.5),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_come_back(value):
    again = written_and_read(value)
    assert again == value
    plain = {np.float32: float, np.int8: int, np.bool: bool}.get(type(value), type(value))
    assert type(again) is plain


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3), np.float64(range(3))[::-1], np.array(2.0), np.zeros((0, 3)),
        np.array([True, False]), np.array([1, 2], ">u2"), np.array(["a", "bc"]),
        np.array(["a", "bc"], dtype=object), np.float16([1.5]),
    ],
    ids=repr,
)  # fmt: skip
def test_arrays_come_back(array):
    again = written_and_read(array)
    np.testing.assert_array_equal(again, array)
    assert again.shape == array.shape
    if array.dtype.kind in "biuf":
        assert again.dtype == array.dtype.newbyteorder("=")


def test_what_is_not_a_number_comes_back():
    assert np.isnan(written_and_read(float("nan")))
    assert np.isnan(written_and_read(np.array([np.nan]))).all()
    assert torch.isnan(written_and_read(torch.tensor(torch.nan)))


@pytest.mark.parametrize(
    "head",
    [
        OneClassSVM(nu=0.2), SGDOneClassSVM(), IsolationForest(n_estimators=5), EllipticEnvelope(),
        LocalOutlierFactor(novelty=True), KernelDensity(), KernelDensity(algorithm="ball_tree"),
        GaussianMixture(2), make_pipeline(StandardScaler(), PCA(2), KernelDensity()),
    ],
    ids=repr,
)  # fmt: skip
def test_scikit_learns_outlier_detectors_come_back_without_pickle(head):
    rng = np.random.default_rng(0)
    head.fit(rng.normal(size=(60, 3)))
    again = written_and_read(head)
    grid = rng.normal(size=(200, 3))
    np.testing.assert_array_equal(again.score_samples(grid), head.score_samples(grid))


class Foreign(BaseEstimator):
    """An estimator that is not scikit-learn's."""


@pytest.mark.parametrize(
    "value",
    [len, object(), Foreign(), np.array([object()]), np.array([1j]), 1j, b"bytes", slice(3)],
    ids=lambda value: type(value).__name__,
)
def test_what_would_need_pickle_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^here"):
        _Writer(False).encode(value, "here")


def written_and_read(value):
    writer = _Writer(False)
    text = json.dumps(writer.encode(value, "here"), allow_nan=False)
    return _Reader(writer.tensors, torch.device("cpu"), None).decode(json.loads(text))


# -- damage ---------------------------------------------------------------------------------------


def refused(path, match=None):
    with pytest.raises(ValueError, match=match) as caught:
        load(path)
    assert path.name in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("share", [0, 1e-5, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_truncated(saved, tmp_path, share):
    data = saved.read_bytes()
    path = tmp_path / "part.alite"
    path.write_bytes(data[: int(share * len(data))])
    refused(path)


def test_one_byte_longer(saved, tmp_path):
    path = tmp_path / "more.alite"
    path.write_bytes(saved.read_bytes() + b"\0")
    refused(path)


def test_any_altered_byte_is_noticed(saved, tmp_path):
    data = bytearray(saved.read_bytes())
    path = tmp_path / "altered.alite"
    rng = np.random.default_rng(0)
    header = struct.unpack("<Q", data[:8])[0]
    places = [*range(12), *rng.integers(8, 8 + header, 60), *rng.integers(header, len(data), 60)]
    for place in places:
        before = data[place]
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        refused(path)
        data[place] = before


# -- attack ---------------------------------------------------------------------------------------


class Touch:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def content(manifest):
    return manifest["estimator"]["estimator"]


def backbone(manifest):
    return content(manifest)["state"]["backbone_"]["part"]


def renamed_class(name):
    def alter(manifest, _tensors, _canary):
        content(manifest)["class"] = name

    return alter


def renamed_part(name):
    def alter(manifest, _tensors, _canary):
        backbone(manifest)["class"] = name

    return alter


def parameter(name, value):
    def alter(manifest, _tensors, _canary):
        content(manifest)["params"][name] = value

    return alter


def learned(name, value):
    def alter(manifest, _tensors, _canary):
        content(manifest)["state"][name] = value

    return alter


def backbone_state(name, value):
    def alter(manifest, _tensors, _canary):
        backbone(manifest)["state"][name] = value

    return alter


def brightness(value):
    def alter(manifest, _tensors, _canary):
        content(manifest)["state"]["value_range_"]["part"]["state"]["highest"] = value

    return alter


def format_number(value):
    def alter(manifest, _tensors, _canary):
        manifest["format"] = value

    return alter


def pickle_in_a_tensor(manifest, tensors, canary):
    tensors["evil"] = torch.frombuffer(bytearray(pickle.dumps(Touch(canary))), dtype=torch.uint8)
    content(manifest)["params"]["coreset"] = {"sklearn": "evil"}


def sklearn_estimator(name):
    def alter(manifest, _tensors, canary):
        evil = {"class": name, "params": {"command": f"touch {canary}"}, "state": {}}
        content(manifest)["params"]["coreset"] = {"sklearn": evil}

    return alter


def truth_values_of_255(manifest, tensors, _canary):
    tensors["odd"] = torch.full((9,), 255, dtype=torch.uint8).view(torch.bool)
    content(manifest)["state"]["odd_"] = {"array": "odd"}


def reference_to_nothing(manifest, tensors, _canary):
    tensors.pop(next(iter(tensors)))


def rows_that_are_no_rows(manifest, tensors, _canary):
    name = content(manifest)["state"]["memory_bank_"]["part"]["state"]["rows"]["tensor"]
    tensors[name] = torch.zeros(3)


def folds_of_what_is_not_there(manifest, _tensors, _canary):
    state = backbone(manifest)["state"]
    state["folds"], state["weights"] = [{"tuple": ["a.b", "c"]}], {"dict": []}


def other_estimator_on_top(manifest, _tensors, _canary):
    manifest["estimator"] = {"dict": []}


ATTACKS = {
    **{f"class {name}": renamed_class(name) for name in (
        "PatchCore2", "os.system", "builtins.eval", "BaseDetector", "load", "__version__",
        "__builtins__", "../PatchCore", "", "methods.patchcore.PatchCore",
    )},
    "class that is a list": renamed_class([]),
    **{f"part {name}": renamed_part(name) for name in (
        "Popen", "subprocess.Popen", "PatchCore", "make_generator", "", "__init__", "NetworkInput",
    )},
    "unknown parameter": parameter("callback", "os.system"),
    **{f"kind {kind}": parameter("coreset", {kind: "os.system"}) for kind in (
        "pickle", "eval", "__class__", "estimator", "part", "all", "", "tensor", "random", "module",
    )},
    "two kinds at once": parameter("coreset", {"float": "1", "path": "/"}),
    "no kind": parameter("coreset", {}),
    "a generator that is none": parameter(
        "random_state", {"random": {"kind": "Generator", "bits": "sys", "state": {}}}
    ),
    **{f"learned {name}": learned(name, 1) for name in (
        "__class__", "__dict__", "predict", "_infer", "fit", "coreset", "a-b_", "__sklearn_tags__",
    )},
    **{f"backbone {name}": backbone_state("backbone", name) for name in (
        "hf-hub:evil/network", "hf_hub:evil/network", "local-dir:/tmp/evil", "../../evil",
        "/etc/passwd", "", "os", "http://evil/network.pth",
    )},
    "weights of another hash": backbone_state("weights_sha256", "0" * 64),
    "weights that are a path": backbone_state("weights", "/etc/passwd"),
    "layers by the million": backbone_state("layers", ["x"] * 10**6),
    "folds of what is not there": folds_of_what_is_not_there,
    "weights of nothing": backbone_state("weights", {"dict": []}),
    "input that is none": backbone_state("input", None),
    **{f"images of brightness {value}": brightness(value) for value in (
        2.0, -1, {"float": "inf"}, {"float": "nan"}, "1", None, True,
    )},
    **{f"format {value!r}": format_number(value) for value in (FORMAT + 1, 0, "1", None, [], -1)},
    "pickle in a tensor": pickle_in_a_tensor,
    **{f"scikit-learn's {name}": sklearn_estimator(name) for name in (
        "os.system", "SVC", "GridSearchCV", "Pipeline", "sklearn.svm.OneClassSVM", "", "clone",
    )},
    "truth values of 255": truth_values_of_255,
    "reference to nothing": reference_to_nothing,
    "rows that are no rows": rows_that_are_no_rows,
    "no estimator on top": other_estimator_on_top,
}  # fmt: skip


def raw(data):
    return lambda canary: data


def with_header(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


RAW = {
    "empty": raw(b""),
    "text": raw(b"hello, I am not a detector, but I am long enough"),
    "picture": raw(b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "header as long as the universe": raw(struct.pack("<Q", 2**63) + b"{}" * 50),
    "header longer than the file": raw(struct.pack("<Q", 10**9) + b"{}" * 50),
    "header of nothing": raw(struct.pack("<Q", 0) + bytes(100)),
    "header that is no JSON": raw(with_header(b"\xff" * 80)),
    "header nested a million times": raw(with_header(b"[" * 10**6)),
    "no metadata": raw(with_header(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"1")),
    "tensor beyond the end": raw(
        with_header(b'{"a":{"dtype":"F32","shape":[99],"data_offsets":[0,396]}}', b"1")
    ),
    "tensor of astronomical shape": raw(
        with_header(b'{"a":{"dtype":"U8","shape":[4294967296,99],"data_offsets":[0,1]}}', b"1")
    ),
    "metadata that are a number": raw(with_header(b'{"__metadata__":3}')),
    "metadata that are a list": raw(with_header(b'{"__metadata__":["anomalib_lite"]}')),
    "metadata of a number": raw(with_header(b'{"__metadata__":{"anomalib_lite":3}}')),
    "a tensor that ends nowhere": raw(with_header(b'{"a":{"data_offsets":["x","y"]}}' + b" " * 20)),
    "a header that is a list": raw(with_header(b"[1,2,3]" + b" " * 20)),
    "a header that is a number": raw(with_header(b"3" + b" " * 20)),
    "a key twice": raw(with_header(b'{"__metadata__":{},"__metadata__":{}}')),
    "pickle": lambda canary: pickle.dumps(Touch(canary)),
    "digest missing": raw(with_header(b'{"__metadata__":{"anomalib_lite":"{}"}}')),
}  # fmt: skip


FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen",
    "pickle.find_class", "marshal.loads", "exec", "compile", "ctypes.dlopen", "os.remove",
    "socket.connect", "socket.getaddrinfo", "urllib.Request", "shutil.rmtree",
}  # fmt: skip


class Watch:
    """Python's own log of what is run, opened or connected to while ``with watch:`` lasts."""

    def __init__(self):
        self.on = False
        sys.addaudithook(self)

    def __enter__(self):
        self.on, self.seen, self.opened = True, [], []

    def __exit__(self, *_error):
        self.on = False

    def __call__(self, event, arguments):
        if self.on and event in FORBIDDEN:
            self.seen.append((event, arguments))
        elif self.on and event == "open":
            self.opened.append(str(arguments[0]))


@pytest.fixture(scope="module")
def watch(saved):
    load(saved)  # modules that are imported late are imported by now
    return Watch()


def refused_unrun(path, watch):
    with pytest.raises(ValueError) as caught, watch:
        load(path)
    assert watch.seen == []
    assert set(watch.opened) <= {str(path)} | bundled_weights()
    assert not (path.parent / "canary").exists()
    assert path.name in str(caught.value)


def bundled_weights():
    from anomalib_lite.backbones.loading import _BUNDLED_FILE, _BUNDLED_PACKAGE

    home = Path(find_spec(_BUNDLED_PACKAGE).origin).parent
    return {str(home / _BUNDLED_FILE)}


def test_the_watch_notices(watch, tmp_path):
    with watch:
        pickle.loads(pickle.dumps(Touch(tmp_path / "canary")))
    assert {"os.system", "pickle.find_class"} <= {event for event, _ in watch.seen}
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_forged_files_are_refused_and_nothing_runs(attack, saved, watch, tmp_path):
    manifest, tensors = parts_of(saved)
    ATTACKS[attack](manifest, tensors, tmp_path / "canary")
    forge(tmp_path / "forged.alite", manifest, tensors)
    refused_unrun(tmp_path / "forged.alite", watch)


def test_an_unaltered_forgery_is_read(saved, tmp_path):
    forge(tmp_path / "same.alite", *parts_of(saved))
    assert isinstance(load(tmp_path / "same.alite"), PatchCore)


@pytest.mark.parametrize("name", RAW)
def test_other_files_are_refused_and_nothing_runs(name, tmp_path, watch):
    path = tmp_path / "other.alite"
    path.write_bytes(RAW[name](tmp_path / "canary"))
    refused_unrun(path, watch)


@pytest.mark.parametrize("dump", [torch.save, joblib.dump])
def test_torch_and_joblib_files_are_refused(dump, tmp_path, watch):
    path = tmp_path / "other.alite"
    dump(Touch(tmp_path / "canary"), path)
    refused_unrun(path, watch)
    refused(path, "not a file written by save")


def test_manifest_nested_beyond_reason(saved, tmp_path):
    _, tensors = parts_of(saved)
    for text in ("[" * 10**5 + "]" * 10**5, '{"a":' * 10**5 + "1" + "}" * 10**5):
        forge(tmp_path / "deep.alite", text, tensors)
        refused(tmp_path / "deep.alite")


def test_path_of_a_weights_file_is_not_opened_by_loading(tmp_path, watch):
    import timm

    secret = tmp_path / "secret.pth"
    torch.save(timm.create_model("resnet18").state_dict(), secret)
    small(backbone="resnet18", weights=secret).fit(NORMAL).save(tmp_path / "a.alite")
    with watch:
        load(tmp_path / "a.alite")
    assert str(tmp_path / "a.alite") in watch.opened
    assert str(secret) not in watch.opened


def test_a_newer_version_is_named(saved, tmp_path):
    manifest, tensors = parts_of(saved)
    manifest["format"], manifest["versions"]["anomalib_lite"] = FORMAT + 1, "9.9"
    forge(tmp_path / "newer.alite", manifest, tensors)
    message = refused(tmp_path / "newer.alite", r"anomalib_lite 9\.9")
    assert anomalib_lite.__version__ in message


def test_a_file_changed_after_loading_changes_nothing(saved, detector, tmp_path):
    path = tmp_path / "a.alite"
    shutil.copy(saved, path)
    again = load(path)
    path.write_bytes(bytes(path.stat().st_size))
    os.truncate(path, 10)
    np.testing.assert_array_equal(again.score_samples(TEST), detector.score_samples(TEST))
