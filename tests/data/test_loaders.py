"""Public layouts as their publishers have them, on small trees, and folders of one's own."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_lite.data import (
    AnomalyDataset,
    load_btad,
    load_folder,
    load_mvtec,
    load_mvtec_ad_2,
    load_mvtec_loco,
    load_visa,
    mvtec_categories,
    visa_categories,
)
from anomalib_lite.data.datasets import labeled_mask
from anomalib_lite.data.layouts import masks_of_images, read_test_folder


def write(root, *names, box=None, value=255):
    for name in names:
        path = Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("L", (9, 7))
        if box:
            image.paste(value, box)
        image.save(path)


def marked(*boxes):
    mask = np.zeros((7, 9), dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    return mask


def below(root, paths):
    return [None if path is None else Path(path).relative_to(root).as_posix() for path in paths]


# -- MVTec LOCO -----------------------------------------------------------------------------------

ONE, OTHER = (1, 1, 3, 3), (5, 2, 8, 6)


@pytest.fixture
def loco(tmp_path):
    home = tmp_path / "pushpins"
    write(home, "train/good/000.png", "validation/good/000.png", "validation/good/001.png")
    write(home, "test/good/000.png", "test/logical_anomalies/000.png")
    write(home, "test/structural_anomalies/000.png")
    masks = "ground_truth/logical_anomalies/000"
    write(home, f"{masks}/000.png", box=ONE)
    write(home, f"{masks}/001.png", box=OTHER, value=246)  # classes differ in their values
    write(home, "ground_truth/structural_anomalies/000/000.png", box=OTHER)
    (home / "defects_config.json").write_text("[]")
    return tmp_path


def test_loco_masks_are_all_of_an_image_together(loco):
    data = load_mvtec_loco(loco, "pushpins")
    assert mvtec_categories(loco) == ["pushpins"]
    kinds = ["good", "logical_anomalies", "structural_anomalies"]
    assert data.test_defects.tolist() == kinds and data.test_labels.tolist() == [1, -1, -1]
    wanted = [marked(), marked(ONE, OTHER), marked(OTHER)]
    np.testing.assert_array_equal(data.test_masks, wanted)
    assert len(data.train) == 1


def test_loco_good_images_for_validation_may_be_learned_from(loco):
    home = loco / "pushpins"
    data = load_mvtec_loco(home, validation=True)
    assert below(home, data.train) == [
        "train/good/000.png", "validation/good/000.png", "validation/good/001.png",
    ]  # fmt: skip
    for path in (home / "validation/good").iterdir():
        path.unlink()
    (home / "validation/good").rmdir()
    with pytest.raises(ValueError, match=r"expected a folder .*validation.good, found none"):
        load_mvtec_loco(home, validation=True)


def test_a_missing_folder_of_masks_is_named(loco):
    masks = loco / "pushpins/ground_truth/structural_anomalies/000"
    (masks / "000.png").unlink()
    with pytest.raises(ValueError, match=r"structural_anomalies.000\.png: expected its mask"):
        load_mvtec_loco(loco, "pushpins")


def test_empty_masks_are_named_by_their_image(loco):
    masks = loco / "pushpins/ground_truth/structural_anomalies/000"
    write(masks, "000.png")
    with pytest.raises(ValueError, match=r"mask of .*anomalies.000\.png: expected a defective pix"):
        _ = load_mvtec_loco(loco, "pushpins").test_masks


def test_masks_beside_their_folder_are_refused(loco):
    write(loco, "pushpins/ground_truth/logical_anomalies/000_mask.png", box=ONE)
    with pytest.raises(ValueError, match=r"found 3: .*000_mask\.png, .*000.000\.png, .*001\.png"):
        load_mvtec_loco(loco, "pushpins")


def test_an_empty_folder_for_validation_is_named(loco):
    for path in (loco / "pushpins/validation/good").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"expected images .* in .*validation.good\."):
        load_mvtec_loco(loco, "pushpins", validation=True)


def test_a_second_ground_truth_is_no_kind_of_defect(loco):
    write(loco, "pushpins/test/ground_truth/logical_anomalies/000/000.png", box=ONE)
    assert load_mvtec_loco(loco, "pushpins").test_defects.tolist() == [
        "good", "logical_anomalies", "structural_anomalies",
    ]  # fmt: skip


def test_folders_of_masks_are_found_by_evaluate_too(loco):
    images = read_test_folder(loco / "pushpins")
    assert images.problems == [] and [type(mask) for mask in images.masks] == [
        type(None), tuple, tuple,
    ]  # fmt: skip
    mask = labeled_mask(images.masks[1], (7, 9), is_normal=False, kind="x", name="y")
    np.testing.assert_array_equal(mask, marked(ONE, OTHER))


def test_masks_of_images_in_a_folder_are_not_those_of_an_image_of_its_name(tmp_path):
    write(tmp_path, "train/good/0.png", "test/good/0.png", "test/cut/a.png", "test/cut/a/0.png")
    write(tmp_path, "ground_truth/cut/a/0_mask.png", box=ONE)
    with pytest.raises(ValueError, match=r"cut.a\.png: expected its mask at .*a_mask\.png, found"):
        load_mvtec(tmp_path)


# -- MVTec AD 2, BTAD -----------------------------------------------------------------------------


def test_ad_2_has_a_public_test_set_with_its_masks_inside(tmp_path):
    home = tmp_path / "can"
    write(home, "train/good/000_regular.png", "validation/good/000_regular.png")
    write(home, "test_public/good/000_regular.png", "test_public/bad/001_overexposed.png")
    write(home, "test_public/ground_truth/bad/001_overexposed_mask.png", box=ONE)
    write(home, "test_private/000_regular.png", "test_private_mixed/000_mixed.png")
    data = load_mvtec_ad_2(tmp_path, "can")
    assert below(home, data.test) == [
        "test_public/bad/001_overexposed.png", "test_public/good/000_regular.png",
    ]  # fmt: skip
    assert data.test_defects.tolist() == ["bad", "good"] and data.test_labels.tolist() == [-1, 1]
    np.testing.assert_array_equal(data.test_masks, [marked(ONE), marked()])
    assert [len(load_mvtec_ad_2(home, validation=more).train) for more in (False, True)] == [1, 2]
    with pytest.raises(ValueError, match=r"expected a folder .*can.test, found none"):
        load_mvtec(home)


def test_btad_calls_its_images_ok_and_ko(tmp_path):
    write(tmp_path, "02/train/ok/0000.bmp", "02/test/ok/0000.bmp", "02/test/ko/0000.bmp")
    write(tmp_path, "02/ground_truth/ko/0000.png", box=ONE)
    data = load_btad(tmp_path, "02")
    assert data.name == "02" and data.test_labels.tolist() == [-1, 1]
    assert data.test_defects.tolist() == ["ko", "good"]
    np.testing.assert_array_equal(data.test_masks, [marked(ONE), marked()])


@pytest.mark.parametrize("load", [load_mvtec, load_btad, load_folder])
def test_warnings_of_files_left_out_point_at_the_caller(tmp_path, load):
    write(tmp_path, "train/good/0.png", "train/good/1.png", "test/good/0.png", "test/cut/0.png")
    (tmp_path / "train/good/2.heic").write_bytes(b"")
    folders = (tmp_path / "train/good", tmp_path / "test/cut")
    with pytest.warns(UserWarning, match=r"left out: \.heic: 1") as caught:
        load(*(folders if load is load_folder else (tmp_path,)))
    assert [each.filename for each in caught] == [__file__]


# -- VisA -----------------------------------------------------------------------------------------


@pytest.fixture
def visa(tmp_path):
    home = "pcb1/Data"
    write(tmp_path, *(f"{home}/Images/Normal/000{i}.JPG" for i in range(3)))
    write(tmp_path, *(f"{home}/Images/Anomaly/00{i}.JPG" for i in range(2)))
    write(tmp_path, f"{home}/Masks/Anomaly/000.png", box=ONE, value=1)
    write(tmp_path, f"{home}/Masks/Anomaly/001.png", box=OTHER, value=3)
    lines = [
        "object,split,label,image,mask",
        f"pcb1,train,normal,{home}/Images/Normal/0002.JPG,",
        f"pcb1,train,normal,{home}/Images/Normal/0000.JPG,",
        f"pcb1,test,normal,{home}/Images/Normal/0001.JPG,",
        f"pcb1,test,anomaly,{home}/Images/Anomaly/001.JPG,{home}/Masks/Anomaly/001.png",
        f"pcb1,test,anomaly,{home}/Images/Anomaly/000.JPG,{home}/Masks/Anomaly/000.png",
        "candle,train,normal,candle/Data/Images/Normal/0000.JPG,",
    ]
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text("\n".join(lines))
    kinds = [
        "image,label,mask",
        f"{home}/Images/Anomaly/000.JPG,bent,{home}/Masks/Anomaly/000.png",
        f'{home}/Images/Anomaly/001.JPG,"melt,scratch",{home}/Masks/Anomaly/001.png',
        f"{home}/Images/Normal/0000.JPG,normal,",
    ]
    (tmp_path / "pcb1/image_anno.csv").write_text("\n".join(kinds))
    return tmp_path


def test_visa_is_split_by_its_table(visa):
    data = load_visa(visa, "pcb1")
    assert visa_categories(visa) == ["candle", "pcb1"]
    assert [Path(path).name for path in data.train] == ["0000.JPG", "0002.JPG"]
    assert [Path(path).name for path in data.test] == ["000.JPG", "001.JPG", "0001.JPG"]
    assert data.test_defects.tolist() == ["bent", "melt,scratch", "good"]
    assert data.test_labels.tolist() == [-1, -1, 1]
    np.testing.assert_array_equal(data.test_masks, [marked(ONE), marked(OTHER), marked()])
    kinds = visa / "pcb1/image_anno.csv"
    kinds.write_text(kinds.read_text().replace("bent", "good").replace('"melt,scratch"', ""))
    again = load_visa(visa, "pcb1")  # the table of the split says what is normal
    assert again.test_labels.tolist() == [-1, -1, 1]
    assert again.test_defects.tolist() == ["anomaly", "anomaly", "good"]
    kinds.unlink()
    assert load_visa(visa, "pcb1").test_defects.tolist() == ["anomaly", "anomaly", "good"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("object,split", "category,split", "expected columns object, split"),
        ("test,normal", "validation,normal", "normal images to train on and others to test"),
        ("test,anomaly", "train,anomaly", "normal images to train on and others to test"),
        ("Masks/Anomaly/001.png", "Masks/Anomaly/9.png", r"9\.png: expected a file, which .*1cls"),
        (",pcb1/Data/Masks/Anomaly/001.png", ",", "and a mask where it is not normal"),
        ("test,normal", "train,normal", "and normal and other ones to test"),
        ("test,anomaly", "test,normal", "and a mask where it is not normal"),
        ("test,", "train,", "normal images to train on and others to test"),
        ("train,normal,pcb1", "test,normal,pcb1", "normal images of pcb1 to train on"),
        (",image,mask", ",image", "expected columns object, split, label, image, mask, and lines"),
    ],
)
def test_other_tables_are_refused(visa, old, new, words):
    table = visa / "split_csv/1cls.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(ValueError, match=words):
        load_visa(visa, "pcb1")


def test_what_visa_lacks_is_named(visa, tmp_path):
    with pytest.raises(ValueError, match="expected a category out of candle, pcb1, got 'pcb7'"):
        load_visa(visa, "pcb7")
    with pytest.raises(ValueError, match=r"1cls\.csv: expected a table of images: .*No such file"):
        load_visa(tmp_path / "pcb1", "pcb1")


# -- folders of one's own -------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    write(tmp_path, *(f"ok/{i:02}.png" for i in range(10)))
    write(tmp_path, "rejects/7.png", "rejects/dent/0.png", "rejects/dent/1.png")
    write(tmp_path, "masks/7_mask.png", "masks/dent/0.png", "masks/dent/1_mask.png", box=ONE)
    return tmp_path


def test_folders_of_ones_own(own):
    data = load_folder(own / "ok", own / "rejects", own / "masks")
    assert data.name == own.name
    assert (len(data.train), len(data.test)) == (7, 6)
    assert sorted(data.train + data.test[:3]) == [str(own / f"ok/{i:02}.png") for i in range(10)]
    assert data.train == sorted(data.train) and data.test[:3] == sorted(data.test[:3])
    assert data.test_defects.tolist() == ["good"] * 3 + ["defective", "dent", "dent"]
    assert data.test_labels.tolist() == [1, 1, 1, -1, -1, -1]
    assert below(own, data.masks) == [
        None, None, None, "masks/7_mask.png", "masks/dent/0.png", "masks/dent/1_mask.png",
    ]  # fmt: skip
    np.testing.assert_array_equal(data.test_masks, [marked()] * 3 + [marked(ONE)] * 3)
    assert load_folder(own / "ok", own / "rejects").masks is None


def test_the_cut_follows_its_seed(own):
    tests = [load_folder(own / "ok", own / "rejects", random_state=s).test for s in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]
    data = load_folder(own / "ok", own / "rejects", test_size=0.5, name="bolts")
    assert (len(data.train), data.name) == (5, "bolts")


def test_good_images_to_test_may_be_given(own):
    write(own, "more/a.png")
    data = load_folder(own / "ok", own / "rejects", test_good=own / "more")
    assert len(data.train) == 10 and below(own, data.test[:1]) == ["more/a.png"]


def test_folders_of_masks_of_ones_own(own):
    write(own, "masks/dent/1/a.png", box=ONE)
    write(own, "masks/dent/1/b.png", box=OTHER)
    (own / "masks/dent/1_mask.png").unlink()
    data = load_folder(own / "ok", own / "rejects", own / "masks")
    np.testing.assert_array_equal(data.test_masks[-1], marked(ONE, OTHER))
    paths = [str(own / f"rejects/{name}.png") for name in ("7", "dent/0", "dent/1")]
    found = masks_of_images(paths, [own / "rejects"], own / "masks")
    assert [isinstance(mask, tuple) for mask in found] == [False, False, True]
    write(own, "masks/dent/1_mask.png", box=ONE)
    with pytest.raises(ValueError, match=r"dent.1\.png: expected one mask, found .*1_mask.*a\.png"):
        load_folder(own / "ok", own / "rejects", own / "masks")


def test_a_link_inside_a_folder_may_fall_to_either_part(own):
    (own / "ok" / "link.png").symlink_to(own / "ok" / "00.png")
    with pytest.raises(ValueError, match="among good images or good test images, found it among"):
        for seed in range(20):  # in some cuts they are on both sides
            load_folder(own / "ok", own / "rejects", random_state=seed)


def test_masks_of_some_are_refused(own):
    (own / "masks/dent/1_mask.png").unlink()
    with pytest.raises(ValueError, match=r"dent.1\.png: expected masks of all defective images"):
        load_folder(own / "ok", own / "rejects", own / "masks")


def test_files_in_two_of_the_folders_are_refused(own):
    with pytest.raises(ValueError, match="Is one of the folders inside another"):
        load_folder(own, own / "rejects")
    with pytest.raises(ValueError, match="Is one of the folders inside another"):
        load_folder(own / "ok", own / "rejects", test_good=own / "ok")
    write(own, "rejects/OK/3.png")
    with pytest.raises(ValueError, match=r"good, or a defect\? Its folder OK is inside .*rejects,"):
        load_folder(own / "ok", own / "rejects")


def test_some_kinds_alone(own):
    data = load_folder(own / "ok", own / "rejects", own / "masks")
    dents = data.of_kinds("dent")
    assert dents.test == [*data.test[:3], *data.test[4:]]
    assert dents.test_defects.tolist() == ["good"] * 3 + ["dent"] * 2
    assert dents.test_labels.tolist() == [1, 1, 1, -1, -1]
    np.testing.assert_array_equal(dents.test_masks, data.test_masks[:3] + data.test_masks[4:])
    assert load_folder(own / "ok", own / "rejects").of_kinds("dent").masks is None
    arrays = AnomalyDataset(
        "a", np.zeros((1, 7, 9)), np.arange(6.0), data.test_labels, data.test_defects
    )
    assert arrays.of_kinds("defective", "dent").test.tolist() == [*range(6)]
    assert arrays.of_kinds("defective").test.tolist() == [0, 1, 2, 3]
    assert arrays.of_kinds("defective", "dent").name == "a: defective, dent"
    for wrong in (["good"], ["stain"], [], [["dent"]]):
        with pytest.raises(ValueError, match=r"kinds: expected some of .*defective"):
            data.of_kinds(*wrong)


@pytest.mark.parametrize("test_size", [0, 1, 0.96, "half"])
def test_a_share_to_test_leaves_images_of_both(own, test_size):
    with pytest.raises(ValueError, match="test_size: expected"):
        load_folder(own / "ok", own / "rejects", test_size=test_size)
