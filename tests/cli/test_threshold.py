"""``anomalib-lite threshold``."""

import numpy as np
import pytest
from stories import make_story, printed_json, saved, write_pictures
from worlds import scratched, stripes

from anomalib_lite import ConformalDetector, load
from anomalib_lite.cli import main
from anomalib_lite.io import read_card


@pytest.fixture
def home(tmp_path):
    make_story(tmp_path)
    write_pictures(tmp_path / "fresh", stripes(40, noise=9, seed=3))
    return tmp_path


def test_the_file_is_calibrated_anew(home, capsys):
    path = saved(home)
    before, card = load(path), read_card(path)
    capsys.readouterr()
    assert main(["threshold", path, str(home / "fresh"), "--false-alarm-rate", "0.1"]) == 0
    shown = capsys.readouterr().out
    after = load(path)
    scores = before.score_samples(home / "fresh")
    assert after.offset_ == np.quantile(scores, 0.1, method="weibull")
    assert after.false_alarm_rate == 0.1
    flagged = (scores < before.offset_).sum()
    assert f"the old threshold would have called {flagged} of the 40 good parts" in shown
    notes = read_card(path).notes
    assert {name: notes[name] for name in card.notes} == card.notes
    assert notes["threshold set"].endswith(f"from good parts (40 from {home / 'fresh'})")


def test_another_file_can_be_written(home, capsys):
    path, other = saved(home), str(home / "other.alite")
    data = (home / "part.alite").read_bytes()
    command = ["threshold", path, str(home / "fresh"), "-o", other]
    capsys.readouterr()
    assert main([*command, "--json", "--quiet"]) == 0
    values = printed_json(capsys)
    assert values["before"]["threshold"] == -load(path).offset_
    assert values["threshold"] == -load(other).offset_ > values["before"]["threshold"]
    assert (home / "part.alite").read_bytes() == data
    assert main(command) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize("conformal", [False, True])
def test_a_rate_alone_reads_the_threshold_again(home, conformal, capsys):
    path = saved(home, conformal=conformal)
    assert main(["threshold", path, "--false-alarm-rate", "0.2"]) == 0
    expected = load(saved(home, conformal=conformal)).set_threshold(false_alarm_rate=0.2)
    assert f"now:    threshold {-expected.offset_:.5g}" in capsys.readouterr().out


def test_a_threshold_can_be_set_by_hand(home, capsys):
    path = saved(home)
    assert main(["threshold", path, "--score", "31.5"]) == 0
    assert load(path).offset_ == -31.5
    assert read_card(path).notes["threshold set"].endswith("by hand")
    shown = capsys.readouterr().out
    assert "now:    threshold 31.5: The threshold was set by hand" in shown
    assert main(["threshold", saved(home, conformal=True), "--score", "31.5"]) == 2
    assert "Give a --false-alarm-rate" in capsys.readouterr().err


@pytest.mark.parametrize("conformal", [False, True])
def test_alpha_gives_a_guarantee(home, conformal):
    path = saved(home, conformal=conformal)
    detector = load(path)
    assert main(["threshold", path, str(home / "fresh"), "--alpha", "0.05"]) == 0
    after = load(path)
    assert isinstance(after, ConformalDetector)
    assert after.false_alarm_rate == 0.05 and after.n_calibration_ == 40
    np.testing.assert_array_equal(
        after.calibration_scores_, np.sort(detector.score_samples(home / "fresh"))
    )


def test_a_conformal_detector_stays_one_and_its_file_as_large(home):
    path = saved(home, conformal=True)
    size = (home / "part.alite").stat().st_size
    assert main(["threshold", path, str(home / "fresh")]) == 0
    assert isinstance(load(path), ConformalDetector) and load(path).false_alarm_rate == 0.1
    assert (home / "part.alite").stat().st_size < 1.05 * size


def test_what_cannot_be_calibrated_leaves_the_file_alone(home, capsys):
    path = saved(home)
    data = (home / "part.alite").read_bytes()
    (home / "fresh" / "07.png").write_text("no image")
    assert main(["threshold", path, str(home / "fresh")]) == 2
    assert "07.png" in capsys.readouterr().err
    assert (home / "part.alite").read_bytes() == data
    assert main(["threshold", path, str(home / "fresh"), "--skip-unreadable"]) == 0
    assert len(load(path).calibration_scores_) == 39
    assert f"left out: {home / 'fresh' / '07.png'}" in capsys.readouterr().out


def test_detectors_of_folds_are_refused(home, capsys):
    detector = ConformalDetector(load(saved(home)), method="cv", cv=2, false_alarm_rate=0.1)
    detector.fit(home / "good").save(home / "folds.alite")
    assert main(["threshold", str(home / "folds.alite"), str(home / "fresh")]) == 2
    assert "holds 2 detectors, one for each fold" in capsys.readouterr().err


def test_the_rate_of_an_earlier_calibration_is_not_said_to_be_of_fit(home, capsys):
    path = saved(home)
    main(["threshold", path, str(home / "fresh"), "--false-alarm-rate", "0.1"])
    main(["threshold", path, "--false-alarm-rate", "0.2"])
    assert "images of fit" not in capsys.readouterr().out
    assert len(load(path).calibration_scores_) == 40


def test_a_photograph_is_never_overwritten(home, capsys):
    path = saved(home)
    photograph = sorted((home / "fresh").iterdir())[0]
    data = photograph.read_bytes()
    command = ["threshold", path, str(home / "fresh"), "--force", "-o", str(photograph)]
    assert main(command) == 2
    assert photograph.read_bytes() == data


def test_a_threshold_can_be_set_for_a_share_of_defects(home, capsys):
    path = saved(home)
    write_pictures(home / "drawer", scratched(12, seed=5))
    command = ["threshold", path, "--recall", "0.75", "--bad", str(home / "drawer")]
    capsys.readouterr()
    before = load(path)
    expected = before.threshold_for(home / "drawer", recall=0.75)
    assert main(command) == 0
    shown = capsys.readouterr().out
    missed = (before.predict(home / "drawer") == 1).sum()
    assert f"it misses {expected.n_missed} of 12, the old threshold {missed}" in shown
    assert load(path).offset_ == expected.score
    assert "finds 75 % of such defects at least, with a confidence of 95 %" in shown
    assert f"calls {100 * expected.false_alarm_rate:.2g} % of the known good parts" in shown


def test_what_a_recall_needs_is_said(home, capsys):
    path, drawer = saved(home), str(home / "fresh")
    assert main(["threshold", path, "--recall", "0.99", "--bad", drawer]) == 2
    assert "needs 299 defects, got 40" in capsys.readouterr().err
    both = ["--recall", "0.9", "--bad", drawer]
    for arguments in ([path, *both[2:]], [path, drawer, *both], [path, "--confidence", "0.9"]):
        with pytest.raises(SystemExit):
            main(["threshold", *arguments])
    assert main(["threshold", path, *both[:2]]) == 2
    assert "expected images of defects that this detector has not" in capsys.readouterr().err
    assert main(["threshold", saved(home, conformal=True), *both]) == 2
    assert "holds a ConformalDetector" in capsys.readouterr().err
