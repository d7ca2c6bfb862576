"""Datasets: MVTec AD folders, the splits of ELPV and textile, planted defects and corruptions."""

import os
import shutil
import sys
import types
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from anomalib_lite.data import (
    CORRUPTIONS,
    DEFECTS,
    TEXTURES,
    corrupted,
    image_files,
    load_elpv,
    load_mvtec,
    load_textile,
    mvtec_categories,
    planted_texture,
)

# -- MVTec AD folders -----------------------------------------------------------------------------


def write(path, size=(9, 7), box=None):
    """A black image of `size` (width, height) with a white `box`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", size)
    if box:
        image.paste(255, box)
    image.save(path)


@pytest.fixture
def tree(tmp_path):
    """A category "bottle" with 2 training and 4 test images, beside a folder that is none."""
    bottle = tmp_path / "bottle"
    for name in ("train/good/001", "train/good/000", "test/good/000", "test/good/001"):
        write(bottle / f"{name}.png")
    write(bottle / "test/scratch/000.png")
    write(bottle / "ground_truth/scratch/000_mask.png", box=(2, 1, 5, 3))
    write(bottle / "test/broken/007.png", size=(4, 6))
    write(bottle / "ground_truth/broken/007_mask.png", size=(4, 6), box=(0, 0, 1, 1))
    (bottle / "license.txt").write_text("not an image")
    (bottle / "train/good/notes.txt").write_text("not an image")
    (bottle / "train/good/._000.png").write_text("a resource fork of macOS")
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_mvtec_lists_paths_labels_and_defects(tree, monkeypatch):
    def backwards(folder):  # file systems list entries in any order
        return (folder / name for name in sorted(os.listdir(folder), reverse=True))

    monkeypatch.setattr(Path, "iterdir", backwards)
    data = load_mvtec(tree, "bottle")
    assert data.name == "bottle"
    assert data.train == [str(tree / f"bottle/train/good/{i}.png") for i in ("000", "001")]
    assert data.test_defects.tolist() == ["broken", "good", "good", "scratch"]
    assert data.test_labels.tolist() == [-1, 1, 1, -1]
    assert data.test[3] == str(tree / "bottle/test/scratch/000.png")
    assert data.masks[1] is None
    assert data.masks[0].endswith("ground_truth/broken/007_mask.png")


def test_mvtec_masks_are_read_on_access(tree):
    data = load_mvtec(str(tree), "bottle")
    scratch = np.zeros((7, 9), dtype=bool)
    scratch[1:3, 2:5] = True
    broken = np.zeros((6, 4), dtype=bool)
    broken[0, 0] = True
    for mask, expected in zip(
        data.test_masks, [broken, np.zeros((7, 9)), np.zeros((7, 9)), scratch], strict=True
    ):
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, expected)


def test_mvtec_root_may_be_the_category(tree):
    alone, below = load_mvtec(tree / "bottle"), load_mvtec(tree, "bottle")
    assert (alone.name, alone.train, alone.test) == ("bottle", below.train, below.test)


def test_mvtec_categories_are_the_folders_with_training_images(tree):
    write(tree / "anvil/train/good/000.png")
    assert mvtec_categories(tree) == ["anvil", "bottle"]
    for wrong in (tree / "notes", tree / "nowhere"):
        with pytest.raises(ValueError, match="expected a folder of categories"):
            mvtec_categories(wrong)


def test_mvtec_names_the_missing_folder(tree):
    with pytest.raises(ValueError, match=r"bottel.train.good, found none\. Categories .*: bottle"):
        load_mvtec(tree, "bottel")
    with pytest.raises(ValueError, match=r"Categories below .*: bottle\."):
        load_mvtec(tree)
    (tree / "bottle/test").rename(tree / "bottle/tests")
    with pytest.raises(ValueError, match=r"bottle.test, found none"):
        load_mvtec(tree, "bottle")


def test_mvtec_names_the_image_and_its_missing_mask(tree):
    (tree / "bottle/ground_truth/scratch/000_mask.png").unlink()
    with pytest.raises(ValueError, match=r"test.scratch.000\.png: .*truth.scratch.000_mask\.png"):
        load_mvtec(tree, "bottle")


def test_mvtec_refuses_masks_of_wrong_size_or_format(tree):
    path = tree / "bottle/ground_truth/scratch/000_mask.png"
    write(path, size=(7, 9))
    with pytest.raises(ValueError, match=r"000_mask\.png: .*\(7, 9\), got \(9, 7\)"):
        _ = load_mvtec(tree, "bottle").test_masks
    path.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"000_mask\.png: cannot be decoded"):
        _ = load_mvtec(tree, "bottle").test_masks


def test_image_whose_size_cannot_be_read_is_named(tree):
    (tree / "bottle/test/good/001.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"good.001\.png: cannot be read as an image"):
        _ = load_mvtec(tree, "bottle").test_masks


@pytest.mark.parametrize("part", ["train/good", "test"])
def test_mvtec_refuses_folders_without_images(tree, part):
    for path in (tree / "bottle" / part).rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match=rf"expected images \(.*\) in .*{part.split('/')[0]}"):
        load_mvtec(tree, "bottle")


@pytest.fixture
def nested(tree):
    """The same category with images in folders below its kinds."""
    bottle = tree / "bottle"
    write(bottle / "train/good/day2/002.png")
    write(bottle / "train/good/day1/early/003.png")
    write(bottle / "test/good/day2/000.png")
    write(bottle / "test/scratch/shift1/000.png")
    write(bottle / "ground_truth/scratch/shift1/000_mask.png", box=(0, 0, 2, 2))
    return bottle


def test_mvtec_reads_nested_folders_as_fit_does(nested):
    data = load_mvtec(nested)
    assert data.train == image_files(nested / "train/good")
    assert [Path(path).name for path in data.train] == ["000.png", "001.png", "003.png", "002.png"]
    for kind in ("good", "scratch", "broken"):
        listed = [path for path, d in zip(data.test, data.test_defects, strict=True) if d == kind]
        assert listed == image_files(nested / "test" / kind)
    nested_mask = data.test_masks[data.test.index(str(nested / "test/scratch/shift1/000.png"))]
    assert nested_mask.sum() == 4  # its own mask, not that of the image of the same name above


def test_mvtec_notices_defects_in_nested_folders_alone(nested):
    (nested / "test/scratch/000.png").unlink()
    (nested / "test/broken/007.png").unlink()
    assert load_mvtec(nested).test_labels.tolist() == [1, 1, 1, -1]


def test_mvtec_names_the_place_of_a_nested_mask(nested):
    (nested / "ground_truth/scratch/shift1/000_mask.png").unlink()
    place = r"ground_truth.scratch.shift1.000_mask\.png, found none"
    with pytest.raises(ValueError, match=rf"test.scratch.shift1.000\.png: .*{place}"):
        load_mvtec(nested)


@pytest.mark.parametrize("name", ["000_mask.bmp", "000_mask.TIF", "000.png", "000.gif"])
def test_mvtec_takes_masks_of_other_names(name, tree):
    truth = tree / "bottle/ground_truth/scratch"
    (truth / "000_mask.png").unlink()
    write(truth / name, box=(0, 0, 1, 1))
    data = load_mvtec(tree, "bottle")
    assert data.masks[3] == str(truth / name)
    assert data.test_masks[3].sum() == 1


def test_mvtec_refuses_two_masks_of_an_image(tree):
    write(tree / "bottle/ground_truth/scratch/000_mask.bmp")
    with pytest.raises(ValueError, match=r"000\.png: expected its mask at .*, found 2: .*\.bmp"):
        load_mvtec(tree, "bottle")


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_mvtec_without_masks_has_labels_alone(how, tree):
    shutil.rmtree(tree / "bottle/ground_truth")
    if how == "empty":
        (tree / "bottle/ground_truth/scratch").mkdir(parents=True)
    data = load_mvtec(tree, "bottle")
    assert data.test_labels.tolist() == [-1, 1, 1, -1]
    assert data.masks is None
    assert data.test_masks is None


@pytest.mark.parametrize("good", ["Good", "GOOD", "ok", "OK"])
@pytest.mark.parametrize(
    "parts", [("train", "test", "ground_truth"), ("Train", "TEST", "Ground_Truth")]
)
def test_mvtec_reads_names_in_any_case(good, parts, tree):
    bottle = tree / "bottle"
    for old, new in [("train/good", f"train/{good}"), ("test/good", f"test/{good}"),
                     *zip(("train", "test", "ground_truth"), parts, strict=True)]:  # fmt: skip
        (bottle / old).rename(bottle / new)
    data = load_mvtec(tree, "bottle")
    assert len(data.train) == 2
    assert sorted(data.test_defects) == ["broken", "good", "good", "scratch"]
    assert (data.test_labels == np.where(data.test_defects == "good", 1, -1)).all()
    assert [mask.any() for mask in data.test_masks] == (data.test_labels == -1).tolist()
    assert mvtec_categories(tree) == ["bottle"]


def test_mvtec_refuses_images_without_a_kind(tree):
    write(tree / "bottle/test/004.png")
    with pytest.raises(ValueError, match=r"test.004\.png: expected images in folders .*test.good"):
        load_mvtec(tree, "bottle")


def test_mvtec_of_other_kinds_of_files_alone_says_so(tree):
    for path in (tree / "bottle/train/good").glob("*.png"):
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(
        ValueError, match=r"expected images .*good.*Not read: \.heic: 2.*pillow-heif"
    ):
        load_mvtec(tree, "bottle")


# -- ELPV -----------------------------------------------------------------------------------------


@pytest.fixture
def small_elpv(monkeypatch):
    """The interface of the package with 60 tiny cells; image i is filled with i."""
    images = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None, None], (60, 2, 2)).copy()
    probability = np.tile([0, 0, 1 / 3, 2 / 3, 1], 12)
    kinds = np.repeat(["mono", "poly"], 30)
    module = types.ModuleType("elpv_dataset.utils")
    module.load_dataset = lambda: (images, probability, kinds)
    monkeypatch.setitem(sys.modules, "elpv_dataset", types.ModuleType("elpv_dataset"))
    monkeypatch.setitem(sys.modules, "elpv_dataset.utils", module)
    return images, probability, kinds


def test_elpv_split_matches_the_documentation(monkeypatch):
    """Real labels, but each file is read as its own number."""
    utils = pytest.importorskip("elpv_dataset.utils")

    def number(path):
        return nullcontext(np.array([[int(Path(path).stem.removeprefix("cell"))]]))

    monkeypatch.setattr(utils, "Image", types.SimpleNamespace(open=number))
    numbers, probability, kinds = utils.load_dataset()
    good = numbers[(kinds == "mono") & (probability == 0), 0, 0]
    bad = numbers[(kinds == "mono") & (probability == 1), 0, 0]
    order = np.random.default_rng(0).permutation(good)

    data = load_elpv()
    assert len(set(numbers.flat)) == 2624
    assert data.train[:, 0, 0].tolist() == order[:400].tolist()
    assert data.test[:, 0, 0].tolist() == [*order[400:], *bad]
    assert data.test_labels.tolist() == [1] * 188 + [-1] * 313
    assert data.test_defects.tolist() == ["good"] * 188 + ["defective"] * 313
    assert data.test_masks is None


@pytest.mark.slow
def test_elpv_images_are_gray_and_300_pixels_wide():
    pytest.importorskip("elpv_dataset.utils")
    data = load_elpv()
    assert data.train.shape == (400, 300, 300) and data.train.dtype == np.uint8
    assert data.test.shape == (501, 300, 300) and data.test.dtype == np.uint8


@pytest.mark.parametrize("kind, first", [("mono", 0), ("poly", 30)])
def test_elpv_takes_only_certain_cells_of_the_kind(small_elpv, kind, first):
    data = load_elpv(kind, n_train=7, random_state=3)
    cells = np.arange(first, first + 30)
    train, test = data.train[:, 0, 0], data.test[:, 0, 0]
    good, bad = cells[cells % 5 < 2], cells[cells % 5 == 4]
    assert sorted([*train, *test[data.test_labels == 1]]) == good.tolist()
    assert sorted(test[data.test_labels == -1]) == bad.tolist()
    assert len(train) == 7


def test_elpv_split_depends_on_the_seed_alone(small_elpv):
    def cells(random_state):
        return load_elpv(n_train=5, random_state=random_state).train[:, 0, 0].tolist()

    assert cells(1) == cells(np.random.default_rng(1))
    assert set(cells(1)) != set(cells(2))


def test_elpv_refuses_unknown_kinds_and_impossible_splits(small_elpv):
    with pytest.raises(ValueError, match="expected 'mono' or 'poly', got 'thin film'"):
        load_elpv("thin film")
    for n_train in (0, 12, 400):
        with pytest.raises(ValueError, match=f"n_train: expected 1 to 11 .*, got {n_train}"):
            load_elpv(n_train=n_train)


# -- textile --------------------------------------------------------------------------------------


@pytest.fixture
def small_textile(monkeypatch, tmp_path):
    """The interface of the package with 12 normal images, 3 local and 2 global defects."""
    module = types.ModuleType("conformal_clip_data")
    for kind, n in (("nominal", 12), ("local", 3), ("global", 2)):
        for i in range(n):
            write(tmp_path / kind / f"textile_{i:04}.jpg")
        setattr(module, f"{kind}_dir", lambda folder=tmp_path / kind: folder)
    monkeypatch.setitem(sys.modules, "conformal_clip_data", module)
    return tmp_path


def test_textile_split_matches_the_documentation():
    package = pytest.importorskip("conformal_clip_data")
    good, local, everywhere = (
        sorted(str(path) for path in folder.glob("*.jpg"))
        for folder in (package.nominal_dir(), package.local_dir(), package.global_dir())
    )
    order = [good[i] for i in np.random.default_rng(0).permutation(1000)]

    data = load_textile()
    assert data.name == "textile"
    assert data.train == order[:300]
    assert data.test == [*order[300:500], *local, *everywhere]
    assert data.test_labels.tolist() == [1] * 200 + [-1] * 1000
    assert data.test_defects.tolist() == ["good"] * 200 + ["local"] * 500 + ["global"] * 500
    assert data.test_masks is None


def test_textile_images_are_gray_and_250_pixels_wide():
    pytest.importorskip("conformal_clip_data")
    data = load_textile()
    for path in (data.train[0], data.test[0], data.test[200], data.test[-1]):
        image = np.asarray(Image.open(path))
        assert image.shape == (250, 250, 3)
        assert (image == image[..., :1]).all()


def test_textile_takes_normal_images_once_and_all_defects(small_textile):
    data = load_textile(n_train=7, n_test=5, split=3)
    good = image_files(small_textile / "nominal")
    assert len(data.train) == 7
    assert sorted([*data.train, *data.test[:5]]) == good
    assert data.test[5:] == [
        *image_files(small_textile / "local"),
        *image_files(small_textile / "global"),
    ]
    assert data.test_defects.tolist() == ["good"] * 5 + ["local"] * 3 + ["global"] * 2


def test_textile_split_depends_on_the_seed_alone(small_textile):
    def training(split):
        return load_textile(n_train=5, n_test=2, split=split).train

    assert training(1) == training(1)
    assert set(training(1)) != set(training(2))


def test_textile_refuses_impossible_splits(small_textile):
    for n_train, n_test in [(0, 5), (5, 0), (8, 5), (300, 200), (-1, 5)]:
        with pytest.raises(ValueError, match=f"at most 12, .*, got {n_train} and {n_test}"):
            load_textile(n_train, n_test)


# -- packages that are missing --------------------------------------------------------------------


@pytest.mark.parametrize(
    "module, load, package",
    [
        ("elpv_dataset.utils", load_elpv, "elpv-dataset"),
        ("conformal_clip_data", load_textile, "conformal-clip-data"),
        ("skimage", lambda: planted_texture("brick"), "scikit-image"),
    ],
)
def test_missing_package_is_named_with_its_extra(monkeypatch, module, load, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'{package}: pip install "anomalib_lite\[examples\]"'):
        load()


# -- planted textures -----------------------------------------------------------------------------


def photograph(height=80, width=180, channels=None, seed=0, grain=1.5):
    """A texture without repetition: noise, blurred by `grain` pixels."""
    shape = (height, width) if channels is None else (height, width, channels)
    noise = np.random.default_rng(seed).normal(size=shape)
    noise = ndimage.gaussian_filter(noise, grain, axes=(0, 1))
    return np.clip(120 + 30 * noise / noise.std(), 0, 255).astype(np.uint8)


def places(photo, crop, ignore=None):
    """All (top, left) where the photograph equals the crop outside `ignore`."""
    height, width = crop.shape[:2]
    keep = np.ones(crop.shape[:2], dtype=bool) if ignore is None else ~ignore
    return [
        (top, left)
        for top in range(photo.shape[0] - height + 1)
        for left in range(photo.shape[1] - width + 1)
        if (photo[top : top + height, left : left + width][keep] == crop[keep]).all()
    ]


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("kind", DEFECTS)
def test_mask_is_one_region_of_exactly_the_changed_pixels(kind, channels):
    clean = photograph(96, 96, channels, grain=0.5)
    before, smallest = clean.copy(), []
    for seed in range(6):
        damaged, mask = DEFECTS[kind](clean, np.random.default_rng(seed))
        changed = damaged != clean
        np.testing.assert_array_equal(mask, changed.any(axis=2) if channels else changed)
        change = np.abs(damaged.astype(int) - clean)
        smallest.append((change.max(axis=2) if channels else change)[mask].min())
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
        assert damaged.dtype == np.uint8 and damaged.shape == clean.shape
    np.testing.assert_array_equal(clean, before)
    assert min(smallest) == 2  # gray levels: more than rounding, no visible change left out


def test_specks_beside_the_region_are_undone():
    stripes = np.full((96, 96), 100, dtype=np.uint8)
    stripes[::6] = 200  # a turned piece of this leaves many islands of change
    for seed in range(4):
        damaged, mask = DEFECTS["misprint"](stripes, np.random.default_rng(seed))
        np.testing.assert_array_equal(mask, damaged != stripes)
        assert ndimage.label(mask, np.ones((3, 3)))[1] == 1


def test_change_in_a_single_channel_is_in_the_mask():
    red = photograph(96, 96, 3) * np.array([1, 0, 0], dtype=np.uint8)
    damaged, mask = DEFECTS["misprint"](red, np.random.default_rng(0))
    np.testing.assert_array_equal(mask, damaged[..., 0] != red[..., 0])
    assert 50 < mask.sum() < 96 * 96 / 4


def test_training_and_test_crops_come_from_different_halves():
    photo = photograph()
    data = planted_texture(photo, n_train=20, n_test=11, image_size=64, random_state=0)
    for crop in data.train:
        [(_, left)] = places(photo, crop)
        assert left + 64 <= 90
    for crop, mask in zip(data.test, data.test_masks, strict=True):
        [(top, left)] = places(photo, crop, ignore=mask)
        assert left >= 90
        np.testing.assert_array_equal(mask, crop != photo[top : top + 64, left : left + 64])


def test_defects_cycle_through_their_kinds_after_the_normal_half():
    data = planted_texture(photograph(), n_train=1, n_test=13, image_size=64, random_state=0)
    assert data.test_defects.tolist() == ["good"] * 7 + [*DEFECTS, "scratch"]
    np.testing.assert_array_equal(data.test_labels, np.where(np.arange(13) < 7, 1, -1))
    np.testing.assert_array_equal(data.test_masks.any(axis=(1, 2)), data.test_labels == -1)
    only = planted_texture(photograph(), n_train=1, n_test=4, image_size=64, defects=["crack"])
    assert only.test_defects.tolist() == ["good", "good", "crack", "crack"]


def test_color_photographs_give_color_crops():
    data = planted_texture(photograph(channels=3), n_train=2, n_test=10, image_size=64)
    assert data.train.shape == (2, 64, 64, 3) and data.train.dtype == np.uint8
    assert data.test.shape == (10, 64, 64, 3)
    assert data.test_masks.shape == (10, 64, 64) and data.test_masks.dtype == bool


def test_same_seed_gives_same_images_and_leaves_the_global_generator_alone():
    def make(random_state):
        return planted_texture(
            photograph(), n_train=2, n_test=12, image_size=64, random_state=random_state
        )

    before = np.random.get_state()  # noqa: NPY002
    first, again, other = make(7), make(np.random.default_rng(7)), make(8)
    make(None)
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    for field in ("train", "test", "test_labels", "test_defects", "test_masks"):
        np.testing.assert_array_equal(getattr(first, field), getattr(again, field))
    differ = (first.test != other.test).mean((1, 2))
    assert (differ > 0.5).all()


def test_strength_scales_the_change():
    clean = photograph(96, 96)
    for draw in DEFECTS.values():
        faint, full = (draw(clean, np.random.default_rng(1), s)[0] for s in (0.5, 1.0))
        faint, full = (np.abs(image.astype(int) - clean).sum() for image in (faint, full))
        assert 0.4 * full < faint < 0.7 * full


def test_invalid_arguments_are_named():
    def make(texture=None, **changes):
        texture = photograph() if texture is None else texture
        return planted_texture(texture, **{"n_train": 1, "n_test": 2, "image_size": 64} | changes)

    for changes, message in [
        ({"texture": "velvet"}, r"expected one of \('brick', 'grass', 'gravel'\).*'velvet'"),
        ({"texture": photograph() / 255}, r"uint8 array .*got float64 \(80, 180\)"),
        ({"texture": photograph(channels=4)}, r"got uint8 \(80, 180, 4\)"),
        ({"texture": photograph()[0]}, r"got uint8 \(180,\)"),
        ({"image_size": 81}, r"expected 32 to 80, .* \(80, 180\) photograph, got 81"),
        ({"image_size": 31}, "expected 32 to 80"),
        ({"n_train": 0}, "n_train >= 1 and n_test >= 2, got 0 and 2"),
        ({"n_test": 1}, "got 1 and 1"),
        ({"defects": ["scratch", "dent"]}, r"expected names out of \['scratch', .*'dent'"),
        ({"defects": []}, "expected names out of"),
        ({"defects": "scratch"}, "expected names out of"),
        ({"strength": 0}, "strength: expected a positive number, got 0"),
        ({"strength": np.nan}, "strength: expected a positive number, got nan"),
        ({"strength": 0.001}, "'scratch' is invisible"),
        ({"texture": np.full((80, 180), 99, np.uint8)}, "'scratch' is invisible.* 0.0 gray levels"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(**changes)


@pytest.mark.parametrize("texture", TEXTURES)
def test_local_contrast_does_not_find_the_defects(texture):
    """Blurred |pixel - local mean|, with either sign, ranks pixels with an AUROC below 0.8."""
    pytest.importorskip("skimage")
    data = planted_texture(texture, n_train=1, n_test=20, random_state=0)
    assert data.name == texture and data.test.shape == (20, 224, 224)
    area = data.test_masks[10:].mean(axis=(1, 2))
    assert 0.001 < area.min() and area.max() < 0.1
    heat = [image - ndimage.uniform_filter(image, 21) for image in data.test.astype(float)]
    heat = np.stack([ndimage.gaussian_filter(np.abs(x), 4) for x in heat])
    auroc = roc_auc_score(data.test_masks.ravel(), heat.ravel())
    assert max(auroc, 1 - auroc) < 0.8


# -- corrupted images -----------------------------------------------------------------------------


def digits(n=6):
    """Bright strokes on black, (n, 28, 28) uint8."""
    images = np.zeros((n, 28, 28), np.uint8)
    for i, image in enumerate(images):
        image[4:24, 10 + i % 3 : 13 + i % 3] = 230
        image[4:7, 10:22] = 230
    return images


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruption_changes_every_image_and_depends_on_the_seed_alone(kind):
    images = digits()
    before = images.copy()
    changed = corrupted(images, kind, random_state=0)
    np.testing.assert_array_equal(images, before)
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    assert (np.abs(changed.astype(int) - images).mean((1, 2)) > 3).all()
    np.testing.assert_array_equal(changed, corrupted(images, kind, random_state=0))
    if kind not in ("blur", "inversion"):
        assert not np.array_equal(changed, corrupted(images, kind, random_state=1))


def test_stripe_inverts_a_band_of_a_ninth_of_the_height():
    images = np.full((6, 90, 90), 60, np.uint8)
    inverted = corrupted(images, "stripe", random_state=0) == 195
    middle = inverted[:, :, 45].sum(1)
    np.testing.assert_allclose(middle, 10, atol=1)
    assert (np.diff(inverted[:, :, 45], axis=1).sum(1) == 2).all()  # one band


def test_rotation_turns_by_40_to_60_degrees():
    bar = np.zeros((90, 90), np.uint8)
    bar[43:47, 20:70] = 255
    for turned in corrupted(np.stack([bar] * 6), "rotation", random_state=0):
        rows, columns = np.nonzero(turned > 128)
        slope = np.polyfit(columns, rows, 1)[0]
        assert 35 < abs(np.degrees(np.arctan(slope))) < 65
        assert abs(rows.mean() - 44.5) < 1 and abs(columns.mean() - 44.5) < 1


def test_corruptions_have_their_known_effects():
    images = digits()
    np.testing.assert_array_equal(corrupted(images, "inversion"), 255 - images)
    blurred = corrupted(images, "blur")
    assert blurred.max() < images.max()
    np.testing.assert_allclose(blurred.mean(), images.mean(), rtol=0.05)
    spattered = corrupted(images, "spatter", random_state=0)
    fraction = (spattered != images).mean((1, 2))
    assert ((0.03 < fraction) & (fraction <= 0.08)).all()
    noise = corrupted(np.full((1, 100, 100), 128, np.uint8), "noise", random_state=0)
    assert 55 < noise.std() < 65
    with pytest.raises(ValueError, match="fog"):
        corrupted(images, "fog")
