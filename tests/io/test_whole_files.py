"""What save and load do to the file system, and to the network: nothing that was not asked for."""

import os
import re
import socket
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from worlds import stripes

from anomalib_lite import ConformalDetector, GaussianDensity, PatchCore, load
from anomalib_lite.backbones import Backbone, loading

ROWS = np.random.default_rng(0).normal(size=(40, 3))
posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and pipes of POSIX")


@pytest.fixture(scope="module")
def density():
    return GaussianDensity(device="cpu").fit(ROWS)


def in_a_process(code, *arguments, timeout=60):
    """Run code that defines ``density`` first; what it prints."""
    prelude = """
        import os, sys
        import numpy as np
        from anomalib_lite import GaussianDensity, load
        density = GaussianDensity(device="cpu").fit(np.random.default_rng(0).normal(size=(40, 3)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=True,
    )
    return done.stdout.split()


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# -- writing --------------------------------------------------------------------------------------


@posix
def test_new_files_get_the_mode_that_the_umask_leaves(tmp_path):
    code = """
        for mask in (0o022, 0o027, 0o002, 0o077):
            os.umask(mask)
            density.save(f"{sys.argv[1]}/{mask:o}")
    """
    in_a_process(code, str(tmp_path))
    for mask in (0o022, 0o027, 0o002, 0o077):
        assert mode(tmp_path / f"{mask:o}") == 0o666 & ~mask


@posix
@pytest.mark.parametrize("bits", [0o600, 0o640, 0o664, 0o777])
def test_an_existing_file_keeps_its_mode_and_owner(density, tmp_path, bits):
    path = tmp_path / "a.alite"
    path.write_text("old")
    path.chmod(bits)
    before = path.stat()
    density.save(path)
    assert mode(path) == bits
    assert (path.stat().st_uid, path.stat().st_gid) == (before.st_uid, before.st_gid)


@posix
def test_a_read_only_file_stays_as_it_is(density, tmp_path, monkeypatch):
    path = tmp_path / "a.alite"
    path.write_text("dear")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError, match=re.escape(str(path))):
        density.save(path)
    assert path.read_text() == "dear"
    assert list(tmp_path.iterdir()) == [path]


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_of_a_symbolic_link_the_target_is_written(density, tmp_path, exists):
    store = tmp_path / "store"
    store.mkdir()
    target, middle, link = store / "real.alite", tmp_path / "middle", tmp_path / "current.alite"
    if exists:
        target.write_text("old")
    middle.symlink_to(Path("store") / "real.alite")
    link.symlink_to(middle)
    density.save(link)
    assert link.is_symlink() and middle.is_symlink() and not target.is_symlink()
    assert load(target).n_features_in_ == 3
    assert {path.name for path in tmp_path.iterdir()} == {"store", "middle", "current.alite"}
    assert list(store.iterdir()) == [target]


@posix
def test_a_link_that_ends_nowhere_is_an_os_error(density, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(OSError):
        density.save(loop)
    lost = tmp_path / "lost"
    lost.symlink_to(tmp_path / "no such folder" / "a.alite")
    with pytest.raises(FileNotFoundError):
        density.save(lost)
    assert sorted(tmp_path.iterdir()) == [loop, lost]


@posix
def test_other_hard_links_keep_what_they_held(density, tmp_path):
    path, other = tmp_path / "a.alite", tmp_path / "b.alite"
    path.write_text("old")
    os.link(path, other)
    density.save(path)
    assert other.read_text() == "old"
    assert load(path).n_features_in_ == 3


def special_files(folder):
    """Paths of things that are no files, with what errors call them."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    return [("folder", folder / "folder"), ("pipe", folder / "pipe"), ("pipe", folder / "link"),
            ("socket", folder / "socket"), ("device", Path("/dev/null")),
            ("device", Path("/dev/full"))]  # fmt: skip


@posix
def test_what_is_no_file_is_neither_replaced_nor_waited_for(density, tmp_path):
    for kind, path in special_files(tmp_path):
        before = path.lstat()
        for act in (density.save, load):
            with pytest.raises(ValueError, match=f"path of a file, got a {kind}") as caught:
                act(path)
            assert isinstance(caught.value, OSError)
        after = path.lstat()
        assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert len(list(tmp_path.iterdir())) == 4


@posix
def test_a_pipe_put_in_place_of_the_file_is_not_waited_for(density, tmp_path, monkeypatch):
    path = tmp_path / "a.alite"
    density.save(path)
    real, seen = os.stat, []

    def stat_then_swap(*arguments, **options):
        found = real(*arguments, **options)
        if not seen:
            seen.append(path)
            path.unlink()
            os.mkfifo(path)
        return found

    monkeypatch.setattr("os.stat", stat_then_swap)
    with pytest.raises(ValueError, match="got a pipe"):
        load(path)


@pytest.mark.parametrize("beginning", [b"", b"a picture", None])
def test_a_large_file_that_is_none_of_ours_is_not_read(density, tmp_path, beginning):
    path = tmp_path / "a.alite"
    density.save(path)
    if beginning is not None:
        path.write_bytes(beginning)
    os.truncate(path, 2**40)  # a terabyte, of which nothing is on the disk
    with pytest.raises(ValueError, match=r"a\.alite.*not a file written by save"):
        load(path)


@posix
def test_weights_that_are_no_file_are_refused_at_once(tmp_path):
    for _, path in special_files(tmp_path):
        with pytest.raises(ValueError, match="weights"):
            Backbone("convnet", weights=path, image_size=32)


@posix
def test_a_full_disk_is_an_os_error_and_leaves_nothing_behind(tmp_path):
    """A limit on the size of files stands for the end of the disk."""
    code = """
        import resource
        path = sys.argv[1]
        open(path, "w").write("dear")
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))
        try:
            density.save(path)
        except OSError as error:
            print(type(error).__name__, error.errno, open(path).read())
    """
    import errno

    path = tmp_path / "a.alite"
    assert in_a_process(code, str(path)) == ["OSError", str(errno.EFBIG), "dear"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("no such folder/a.alite", FileNotFoundError),
        ("file/a.alite", NotADirectoryError),
        ("n" * 300, OSError),
        ("", ValueError),
    ],
)
def test_paths_that_cannot_be_written_are_os_errors(density, tmp_path, where, error):
    (tmp_path / "file").write_text("dear")
    with pytest.raises(error):
        density.save(tmp_path / where)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_long_name_is_written(density, tmp_path):
    path = tmp_path / ("n" * 249 + ".alite")
    density.save(path)
    assert load(path).n_features_in_ == 3


def test_file_and_folder_are_synchronized_before_save_returns(density, tmp_path, monkeypatch):
    order, real_sync, real_replace = [], os.fsync, os.replace

    def sync(descriptor):
        order.append(stat.S_IFMT(os.fstat(descriptor).st_mode))
        real_sync(descriptor)

    def replace(*paths):
        order.append("replace")
        real_replace(*paths)

    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("os.replace", replace)
    density.save(tmp_path / "a.alite")
    folder = [stat.S_IFDIR] if os.name == "posix" else []
    assert order == [stat.S_IFREG, "replace", *folder]


# -- the network ----------------------------------------------------------------------------------


class Offline:
    """Counts what would have gone to the network, and stops it."""

    def __init__(self, monkeypatch):
        self.attempts = []
        for name in ("getaddrinfo", "create_connection"):
            monkeypatch.setattr(f"socket.{name}", self._refuse)
        monkeypatch.setattr("socket.socket.connect", self._refuse)

    def _refuse(self, *arguments, **_options):
        self.attempts.append(arguments)
        raise OSError("no network")


@pytest.fixture
def empty_caches(tmp_path, monkeypatch):
    """The folders of timm's caches, empty: of the hub, and of addresses."""
    from huggingface_hub import constants

    hub, checkpoints = tmp_path / "hub", tmp_path / "torch" / "hub" / "checkpoints"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(hub), raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return hub, checkpoints


def put_into_the_hub(hub, repository, filename, save):
    """A file in the hub's cache as a download leaves it."""
    home = hub / f"models--{repository.replace('/', '--')}"
    revision = "0" * 40
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / "main").write_text(revision)
    folder = home / "snapshots" / revision
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / filename)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A PatchCore whose file names the weights of a timm network, and those weights."""
    import timm
    import torch

    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state, path)
    detector = PatchCore("resnet10t", weights=path, image_size=32, coreset=9, random_state=0)
    detector.fit(stripes(4, 32))
    detector.backbone_._is_pretrained, detector.weights = True, "pretrained"
    return detector, state


def test_load_contacts_nothing(pretrained, tmp_path, empty_caches, monkeypatch):
    detector, _ = pretrained
    path = tmp_path / "a.alite"
    detector.save(path)
    network = Offline(monkeypatch)
    with pytest.raises(ValueError, match=r"resnet10t.*cache.*load\(path, download=True\)"):
        load(path)
    assert network.attempts == []
    assert not any((tmp_path / "hub").glob("**/*"))


def test_download_has_to_be_asked_for(pretrained, tmp_path, empty_caches, monkeypatch):
    detector, _ = pretrained
    path = tmp_path / "a.alite"
    detector.save(path)
    asked = []

    def create_model(_name, **arguments):
        asked.append(arguments)
        raise OSError("the hub does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("timm.create_model", create_model)
        with pytest.raises(ValueError, match="the hub does not answer"):
            load(path, download=True)
    assert asked == [{"pretrained": True}]


@pytest.mark.parametrize("filename", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_the_hubs_cache_are_found_without_a_network(
    pretrained, tmp_path, empty_caches, monkeypatch, filename
):
    import timm
    import torch
    from safetensors.torch import save_file

    detector, state = pretrained
    hub, _ = empty_caches
    repository = timm.get_pretrained_cfg("resnet10t").hf_hub_id
    save = save_file if filename.endswith(".safetensors") else torch.save
    put_into_the_hub(hub, repository, filename, lambda path: save(state, path))
    path = tmp_path / "a.alite"
    detector.save(path)
    network = Offline(monkeypatch)
    again = load(path)
    assert network.attempts == []
    images = stripes(2, 32, seed=5)
    np.testing.assert_array_equal(again.score_samples(images), detector.score_samples(images))


def test_weights_cached_by_address_are_found_without_a_network(empty_caches, monkeypatch):
    import timm
    import torch

    source = timm.get_pretrained_cfg("resnet10t")
    by_address = type(source)(url="https://example.org/a/resnet10t-0123.pth")
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda *_: by_address)
    with pytest.raises(ValueError, match="not in timm's cache"):
        loading._cached_weights("resnet10t")
    _, checkpoints = empty_caches
    checkpoints.mkdir(parents=True)
    torch.save({}, checkpoints / "resnet10t-0123.pth")
    found = loading._cached_weights("resnet10t")
    assert found["file"] == str(checkpoints / "resnet10t-0123.pth")


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "hf_hub:a/b", "local-dir:/etc", "/etc"])
@pytest.mark.parametrize("download", [False, True])
def test_a_file_cannot_name_a_place(tmp_path, empty_caches, monkeypatch, name, download):
    detector = PatchCore("convnet", weights="random", layers=(4,), image_size=32, random_state=0)
    detector.fit(stripes(4, 32))
    detector.backbone_._source, detector.backbone_._is_pretrained = name, True
    path = tmp_path / "a.alite"
    detector.save(path)
    network = Offline(monkeypatch)
    with pytest.raises(ValueError, match="timm knows no network"):
        load(path, download=download)
    assert network.attempts == []


def test_a_network_much_larger_than_its_stored_weights_is_not_made(monkeypatch):
    monkeypatch.setattr("anomalib_lite.backbones.loading._LARGE", 2**20)
    with pytest.raises(ValueError, match=r"resnet18.*GB"):
        loading.check_fits("resnet18", None, {})


def test_saved_detectors_of_rows_need_no_network_either(tmp_path, monkeypatch):
    network = Offline(monkeypatch)
    detector = ConformalDetector(IsolationForest(n_estimators=3, random_state=0), random_state=0)
    detector.fit(ROWS).save(tmp_path / "a.alite")
    load(tmp_path / "a.alite")
    assert network.attempts == []
