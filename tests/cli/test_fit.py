"""``anomalib-lite fit``."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stories import QUICK, fit, make_story, printed_json, write_pictures
from worlds import scratched

from anomalib_lite import ConformalDetector, LabeledPatchCore, PaDiM, load, suggest_settings
from anomalib_lite.cli import main
from anomalib_lite.io import read_card


@pytest.fixture
def home(tmp_path):
    make_story(tmp_path)
    return tmp_path


def test_a_detector_is_written_and_told_of(home, capsys):
    path = fit(home)
    shown = capsys.readouterr()
    detector = load(path)
    expected = PaDiM(image_size=64, n_features=20, random_state=0, false_alarm_rate=0.04)
    expected.fit(home / "good")
    np.testing.assert_array_equal(detector.calibration_scores_, expected.calibration_scores_)
    assert "PaDiM fitted on 30 images in" in shown.out
    assert f"threshold {-detector.offset_:.5g}" in shown.out
    assert "Of 100 new good parts, about 4 will be called anomalous." in shown.out
    assert "fitting PaDiM on 30 images" in shown.err
    notes = read_card(path).notes
    assert notes["images"] == f"30 from {home / 'good'}"
    assert notes["fitted"][:2] == "20"


def test_json_says_the_same(home, capsys):
    path = fit(home, "--json", "--quiet")
    values = printed_json(capsys)
    detector = load(path)
    assert values["images"] == 30 and values["method"] == "PaDiM"
    assert values["threshold"] == -detector.offset_
    assert values["expected_false_alarms"] == pytest.approx(1 / 31)
    assert values["calibration_scores"] == 30
    worst = np.argsort(detector.calibration_scores_)[:5]
    assert [image["path"] for image in values["unusual"]] == [
        str(home / "good" / f"{i:02d}.png") for i in worst
    ]


def test_the_most_unusual_image_is_named_first(home, capsys):
    Image.fromarray(scratched(1)[0]).save(home / "good" / "17.png")
    fit(home)
    lines = capsys.readouterr().out.splitlines()
    heading = next(i for i, line in enumerate(lines) if "do these belong" in line)
    assert lines[heading + 1].endswith(str(home / "good" / "17.png"))


def test_the_same_command_makes_the_same_detector(home):
    one, two = load(fit(home)), load(fit(home, output="again.alite"))
    np.testing.assert_array_equal(one.score_samples(home / "new"), two.score_samples(home / "new"))


def test_conformal_detectors(home, capsys):
    Image.fromarray(scratched(1)[0]).save(home / "good" / "17.png")
    path = fit(home, "--conformal", "--false-alarm-rate", "0.1")
    shown = capsys.readouterr().out
    detector = load(path)
    assert isinstance(detector, ConformalDetector) and detector.false_alarm_rate == 0.1
    assert "with a probability of at most 10 %: a guarantee." in shown
    held_out = detector.calibration_indices_
    lowest = shown.splitlines()[-5:]
    for line, place in zip(lowest, held_out, strict=False):
        assert line.endswith(f"{place:02d}.png")


@pytest.mark.slow
def test_a_suggestion_is_fitted_and_explained(home, capsys):
    path = home / "any.alite"
    flags = ["--method", "suggested", "--budget", "0.001", "--false-alarm-rate", "0.04"]
    assert main(["fit", str(home / "good"), "-o", str(path), *flags]) == 0
    shown = capsys.readouterr()
    assert "DetectorEnsemble fitted on 30 images in" in shown.out
    assert "fitting what is suggested on 30 images" in shown.err
    assert "more than the budget of 0.001 s" in shown.err
    detector = load(path)
    assert detector.names_ == ["local", "whole"]
    assert detector.false_alarm_rate == 0.04 and detector.random_state == 0
    suggestion = suggest_settings(home / "good", budget_s=0, random_state=0)
    again = suggestion.detector.set_params(false_alarm_rate=0.04).fit(home / "good")
    np.testing.assert_array_equal(detector.calibration_scores_, again.calibration_scores_)


@pytest.mark.slow
def test_what_cannot_be_read_is_no_part_of_a_suggestion(home, capsys):
    (home / "good" / "00.png").write_bytes(b"no image")
    command = ["fit", str(home / "good"), "-o", str(home / "any.alite"), "--method", "suggested"]
    assert main([*command, "--set", "image_size=64"]) == 2
    assert "what is suggested has no such setting" in capsys.readouterr().err
    assert main([*command, "--budget", "0.001"]) == 2
    assert "00.png" in capsys.readouterr().err
    assert main([*command, "--budget", "0.001", "--skip-unreadable"]) == 0
    assert "DetectorEnsemble fitted on 29 images" in capsys.readouterr().out


@pytest.mark.parametrize("forced", [False, True])
def test_a_file_is_overwritten_only_if_told_to(home, capsys, forced):
    path = home / "part.alite"
    older = bytes(8) + b"{ an older detector"
    path.write_bytes(older)
    command = ["fit", str(home / "good"), "-o", str(path), *QUICK, "--false-alarm-rate", "0.04"]
    assert main([*command, *(["--force"] if forced else [])]) == (0 if forced else 2)
    assert (path.read_bytes() == older) is not forced
    if not forced:
        assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "flags", "message"),
    [
        ([], ["-o", "{home}/nowhere/part.alite"], "there is no folder"),
        ([], ["-o", "{home}/good"], "got a folder"),
        ([], ["--set", "nonsense=1"], "PaDiM has no such setting. It has backbone"),
        ([], ["--image-size", "many"], "image_size"),
        ([], ["--false-alarm-rate", "2"], "false_alarm_rate"),
        (["{home}/nowhere/*.png"], [], "no image file matches"),
        (["{home}/nowhere.png"], [], "nowhere.png"),
        (["{home}/empty"], [], "no image files below"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_before_anything_is_written(home, capsys, names, flags, message):
    (home / "empty").mkdir()
    before = sorted(os.listdir(home))
    names, flags = ([text.format(home=home) for text in given] for given in (names, flags))
    command = ["fit", str(home / "good"), *names, "-o", str(home / "x"), *QUICK, *flags]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert sorted(os.listdir(home)) == before


def test_unreadable_images_stop_the_fit_or_are_left_out(home, capsys):
    (home / "good" / "03.png").write_text("no image")
    command = ["fit", str(home / "good"), "-o", str(home / "part.alite"), *QUICK]
    assert main([*command, "--false-alarm-rate", "0.04"]) == 2
    assert "03.png" in capsys.readouterr().err
    fit(home, "--skip-unreadable", "--json")
    values = json.loads(capsys.readouterr().out)
    assert values["images"] == 29
    assert values["skipped"] == [str(home / "good" / "03.png")]


def test_a_warning_is_one_line(home, capsys):
    assert main(["fit", str(home / "good"), "-o", str(home / "part.alite"), *QUICK]) == 0
    error = capsys.readouterr().err
    assert "warning: false_alarm_rate=0.01 needs 99 images" in error
    assert all(line.startswith(("fitting", "warning: ")) for line in error.splitlines())
    assert main(["fit", str(home / "good"), "-o", str(home / "p2"), *QUICK, "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_a_photograph_is_never_overwritten(home, capsys):
    """As with ``-o good/*.png``, of which the shell makes an output and images."""
    first, *others = sorted(map(str, (home / "good").iterdir()))
    data = (home / "good" / os.path.basename(first)).read_bytes()
    assert main(["fit", *QUICK, "--force", "-o", first, *others]) == 2
    assert "is not a detector" in capsys.readouterr().err
    assert (home / "good" / os.path.basename(first)).read_bytes() == data


def test_an_output_without_a_name_is_refused_before_the_fit(home, capsys):
    assert main(["fit", str(home / "good"), *QUICK, "-o", ""]) == 2
    shown = capsys.readouterr().err
    assert "expected the name of a file" in shown and "fitting" not in shown


def test_json_names_the_conformal_detector(home, capsys):
    fit(home, "--json", "--quiet", "--conformal", "--false-alarm-rate", "0.1")
    assert printed_json(capsys)["method"] == "ConformalDetector of PaDiM"


@pytest.mark.parametrize("value", ["{[]: 1}", "-" * 100_000 + "1"])
def test_settings_that_python_cannot_read_are_texts(home, capsys, value):
    command = ["fit", str(home / "good"), *QUICK, "-o", str(home / "x.alite")]
    assert main([*command, "--set", f"n_features={value}"]) == 2
    assert "n_features: expected" in capsys.readouterr().err


@pytest.mark.parametrize("place", [".", "part.alite"])
def test_what_is_read_only_is_refused_before_the_fit(home, capsys, monkeypatch, place):
    """Pretended, since some users may write anywhere."""
    (home / "part.alite").write_bytes(b"")
    monkeypatch.chdir(home)
    monkeypatch.setattr("anomalib_lite.cli.outputs._is_writable", lambda path: path != place)
    assert main(["fit", "good", *QUICK, "-o", "part.alite", "--force"]) == 2
    shown = capsys.readouterr().err
    assert f"error: part.alite: {place} is read-only" in shown and "fitting" not in shown


def test_of_a_dirty_folder_suspects_are_listed_and_kept(home, capsys):
    Image.fromarray(scratched(1)[0]).save(home / "good" / "17.png")
    path = fit(home, "--contamination", "0.1", "--n-features", "5")
    odd = str(home / "good" / "17.png")
    lines = capsys.readouterr().out.splitlines()
    heading = next(i for i, line in enumerate(lines) if "do these belong" in line)
    assert lines[heading + 1].endswith(odd) and len(lines[heading + 1 :]) == 20
    detector = load(path)
    assert detector.contamination == 0.1 and detector.suspects_.names[0] == odd
    assert main(["info", path]) == 0
    shown = capsys.readouterr().out
    assert f"to look at    score {detector.suspects_.scores[0]:<8.4g}  {odd}" in shown
    assert main(["info", path, "--json"]) == 0
    suspects = printed_json(capsys)["suspects"]
    assert len(suspects) == 5 and suspects[0]["name"] == odd


def test_of_a_trusted_folder_info_lists_none(home, capsys):
    path = fit(home)
    capsys.readouterr()
    assert main(["info", path]) == 0
    assert "to look at" not in capsys.readouterr().out


def test_defects_are_learned_from(home, capsys):
    defects = write_pictures(home / "drawer", scratched(4, seed=3))
    quick = ["--image-size", "64", "--coreset", "30", "--false-alarm-rate", "0.04", "--C", "1.0"]
    path = str(home / "labeled.alite")
    command = ["fit", str(home / "good"), "--bad", str(home / "drawer"), "-o", path, *quick]
    assert main(command) == 0
    shown = capsys.readouterr()
    detector = LabeledPatchCore(
        image_size=64, coreset=30, false_alarm_rate=0.04, C=1.0, random_state=0
    )
    good = sorted(map(str, (home / "good").iterdir()))
    detector.fit([*good, *defects], np.repeat([1, -1], [30, 4]))
    np.testing.assert_array_equal(load(path).defect_scores_, detector.defect_scores_)
    assert "fitting LabeledPatchCore on 30 images and 4 defects" in shown.err
    found = (detector.defect_scores_ < detector.offset_).sum()
    assert f"of 4 defects it finds {found}" in shown.out
    assert main([*command, "--force", "--json", "--quiet"]) == 0
    values = printed_json(capsys)
    assert (values["images"], values["defects"], values["defects_found"]) == (30, 4, found)
    assert read_card(path).notes["defects"] == f"4 from {home / 'drawer'}"
    assert main(["threshold", path, "--recall", "0.4"]) == 0
    assert "threshold set for the labeled defects of fit" in capsys.readouterr().out
    for more in (["--conformal"], ["--workers", "2"], ["--method", "padim"]):
        with pytest.raises(SystemExit):
            main(["fit", str(home / "good"), "--bad", str(home / "drawer"), "-o", path, *more])


def test_masks_of_defects_are_learned_from(home, capsys):
    """Of three of four defects, in folders, with and without _mask at the end."""
    scratch = np.zeros((64, 64), np.uint8)
    scratch[18:22, 33:47] = 255
    defects = write_pictures(home / "marked" / "deep", scratched(4, seed=3))
    masks = home / "truth" / "deep"
    masks.mkdir(parents=True)
    for path, end in zip(map(Path, defects[:3]), ("", "_mask", "_mask"), strict=True):
        Image.fromarray(scratch).save(masks / f"{path.stem}{end}.png")
    quick = ["--image-size", "64", "--coreset", "30", "--false-alarm-rate", "0.04", "--C", "1.0"]
    path = str(home / "marked.alite")
    command = ["fit", str(home / "good"), "--bad", str(home / "marked"), "-o", path, *quick]
    assert main([*command, "--masks", str(home / "truth"), "--json"]) == 0
    shown = capsys.readouterr()
    assert "30 images and 4 defects, 3 of them with a mask" in shown.err
    assert json.loads(shown.out)["masks"] == 3
    detector = LabeledPatchCore(
        image_size=64, coreset=30, false_alarm_rate=0.04, C=1.0, random_state=0
    )
    good = sorted(map(str, (home / "good").iterdir()))
    images, y = [*good, *defects], np.repeat([1, -1], [30, 4])
    detector.fit(images, y, [None] * 30 + [scratch] * 3 + [None])
    np.testing.assert_array_equal(load(path).defect_scores_, detector.defect_scores_)
    (home / "none").mkdir()
    assert main([*command, "--force", "--masks", str(home / "none")]) == 2
    assert "none: holds the mask of no image. That of" in capsys.readouterr().err
    Image.fromarray(scratch).save(masks / f"{Path(defects[1]).stem}_mask.bmp")
    assert main([*command, "--force", "--masks", str(home / "truth")]) == 2
    assert "expected one mask, found" in capsys.readouterr().err
    assert main([*command, "--force", "--masks", str(home / "nowhere")]) == 2
    assert "nowhere: expected a folder of masks" in capsys.readouterr().err
    assert main([*command, "--force", "--masks", str(home / "marked")]) == 2
    assert "00.png: a mask, or an image? Keep masks in a folder" in capsys.readouterr().err
    others = write_pictures(home / "others", scratched(2, seed=4))
    two = ["fit", str(home / "good"), "--bad", defects[0], others[0], "-o", path, "--force", *quick]
    assert main([*two, "--masks", str(masks)]) == 2
    assert f"00.png: a mask of {defects[0]}, or of {others[0]}?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fit", str(home / "good"), "--masks", str(home / "truth"), "-o", path])
    assert "--masks needs --bad" in capsys.readouterr().err
