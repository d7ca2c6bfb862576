"""``evaluate``: its figures against the Python functions', and what it says of what is missing."""

import os
import re

import numpy as np
import pytest
import worlds
from PIL import Image
from small_world import fitted, mask, run, run_json, without_threshold, write, write_parts

from anomalib_lite import ConformalDetector, PaDiM, load
from anomalib_lite.metrics import (
    aupro,
    average_precision,
    bootstrap_interval,
    image_auroc,
    pixel_auroc,
    wilson_interval,
)
from anomalib_lite.recall import usual_recall_thresholds


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("detector") / "part.alite"
    fitted().save(path)
    return path


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Nested kinds of defects, of which some are as good as good; masks; 12 good, 10 defective."""
    folder = tmp_path_factory.mktemp("parts")
    write_parts(folder, 12, ["bad/scratch", "bad/deep/crack"], 5, faint=2)
    for kind in ("bad/scratch", "bad/deep/crack"):
        for i in range(5):
            write(folder / "ground_truth" / kind / f"{i}_mask.png", mask())
    return folder


def seen(folder, detector=None):
    """Paths, truth (1 defective), anomaly scores and verdicts, by the Python functions."""
    inside = [*folder.glob("good/*.png"), *folder.glob("bad/**/*.png")]
    paths = sorted(map(str, inside))
    y = np.array([f"{os.sep}bad{os.sep}" in path for path in paths])
    found = (detector or fitted()).inspect(paths)
    return paths, y, -found.scores, found.labels == -1, found.maps


def numbers(lines, name):
    """The numbers of the line that begins so."""
    (line,) = (line for line in lines if line.strip().startswith(name))
    return [float(text) for text in re.findall(r"-?\d+\.?\d*", line.strip().removeprefix(name))]


def test_every_figure_is_that_of_python(saved, parts, capsys):
    code, values = run_json(capsys, "evaluate", saved, parts)
    assert code == 0
    paths, y, scores, flagged, maps = seen(parts)
    assert (values["good"], values["defective"]) == (12, 10)
    for name, metric in (("image_auroc", image_auroc), ("average_precision", average_precision)):
        low, high = bootstrap_interval(metric, y, scores)
        expected = {"value": metric(y, scores), "low": low, "high": high}
        assert values[name] == expected
    assert 0.5 < values["image_auroc"]["value"] < 1

    masks = [(mask() > 0) & bad for bad in y]
    assert values["images_with_masks"] == 22
    assert values["pixel_auroc"]["value"] == pytest.approx(pixel_auroc(masks, maps), abs=2e-4)
    assert values["aupro"]["value"] == pytest.approx(aupro(masks, maps), abs=2e-4)
    for name in ("pixel_auroc", "aupro"):
        assert values[name]["low"] < values[name]["value"] < values[name]["high"]

    for name, of, wrong in (("escapes", y, ~flagged), ("overkill", ~y, flagged)):
        k, n = int((of & wrong).sum()), int(of.sum())
        low, high = wilson_interval(k, n)
        found = {key: values[name][key] for key in ("count", "of", "share", "low", "high")}
        assert found == {"count": k, "of": n, "share": k / n, "low": low, "high": high}
        named = [image["path"] for image in values[name]["images"]]
        assert {*named} == {path for path, i in zip(paths, of & wrong, strict=True) if i}
    assert values["escapes"]["count"] >= 3
    levels = fitted().score_levels()
    assert values["threshold"] == levels.threshold
    for image in values["escapes"]["images"]:
        score = scores[paths.index(image["path"])]
        assert image["anomaly_score"] == score
        assert image["severity"] == levels.severity(score) < 1
        assert image["kind"] == os.path.relpath(os.path.dirname(image["path"]), parts)
    by_kind = {kind["kind"]: kind for kind in values["kinds"]}
    for kind in ("bad/scratch", "bad/deep/crack"):
        of = np.array([os.path.dirname(path) == str(parts / kind) for path in paths])
        assert (by_kind[kind]["count"], by_kind[kind]["of"]) == ((of & flagged).sum(), 5)


def test_evaluate_says_what_finding_more_would_cost(saved, parts, capsys):
    assert run_json(capsys, "evaluate", saved, parts)[1]["for_recall"] == []  # of ten defects
    values = run_json(capsys, "evaluate", saved, parts, "--confidence", "0.8")[1]
    _, y, scores, _, _ = seen(parts)
    expected = usual_recall_thresholds(-scores[y], -scores[~y], confidence=0.8)
    assert [each["recall"] for each in values["for_recall"]] == [0.8]
    assert values["for_recall"][0]["threshold"] == -expected[0].score
    assert values["for_recall"][0]["overkill"] == expected[0].false_alarm_rate
    _, lines, _ = run(capsys, "evaluate", saved, parts, "--quiet", "--confidence", "0.8")
    (line,) = [line for line in lines if line.startswith("  80 % of them: threshold")]
    assert f"{100 * expected[0].false_alarm_rate:.3g} % of the good images" in line


def test_mistakes_come_the_worst_first(saved, parts, capsys):
    values = run_json(capsys, "evaluate", saved, parts)[1]
    escapes = [image["anomaly_score"] for image in values["escapes"]["images"]]
    assert len(escapes) > 1 and escapes == sorted(escapes)


def test_overkill_comes_the_most_anomalous_first(saved, tmp_path, parts, capsys):
    path, detector = tmp_path / "strict.alite", load(saved)
    detector.set_threshold(score=-detector.score_levels().normal).save(path)
    values = run_json(capsys, "evaluate", path, parts)[1]
    overkill = [image["anomaly_score"] for image in values["overkill"]["images"]]
    assert len(overkill) > 1 and overkill == sorted(overkill, reverse=True)
    assert {image["kind"] for image in values["overkill"]["images"]} == {"good"}


def test_what_is_printed_are_the_figures_of_json(saved, parts, capsys):
    values = run_json(capsys, "evaluate", saved, parts)[1]
    code, lines, err = run(capsys, "evaluate", saved, parts, "--quiet")
    assert (code, err) == (0, "")
    assert lines[0].endswith("PaDiM on 12 good and 10 defective images; 95 % intervals")
    for name, text in (
        ("image_auroc", "image AUROC"),
        ("average_precision", "average precision"),
        ("pixel_auroc", "pixel AUROC"),
        ("aupro", "AUPRO"),
    ):
        figure = [values[name][key] for key in ("value", "low", "high")]
        assert numbers(lines, text) == pytest.approx(figure, abs=0.000501)
    shares = [("escapes", values["escapes"]), ("overkill", values["overkill"])]
    shares += [(f"{kind['kind']} ", kind) for kind in values["kinds"]]
    for text, share in shares:
        k, n, *rates = numbers([line for line in lines if " of " in line], text)
        assert (k, n) == (share["count"], share["of"])
        assert rates == pytest.approx([100 * share[x] for x in ("share", "low", "high")], abs=0.051)
    at = lines.index("escapes, the most normal first:")
    for line, image in zip(lines[at + 1 :], values["escapes"]["images"], strict=False):
        severity, score = re.match(r"  severity +(\S+)  score (\S+) +", line).groups()
        assert float(severity) == pytest.approx(image["severity"], abs=0.00501)
        assert float(score) == pytest.approx(image["anomaly_score"], rel=1e-3)
        assert line.endswith(image["path"])


def test_confidence_widens_intervals(saved, parts, capsys):
    wide = run_json(capsys, "evaluate", saved, parts, "--confidence", "0.99")[1]
    narrow = run_json(capsys, "evaluate", saved, parts, "--confidence", "0.5")[1]
    for name in ("image_auroc", "average_precision", "pixel_auroc", "aupro", "escapes"):
        assert wide[name]["low"] < narrow[name]["low"] <= narrow[name]["high"] < wide[name]["high"]
    code, _, err = run(capsys, "evaluate", saved, parts, "--confidence", "95")
    assert code == 2 and "confidence: expected a number in (0, 1), got 95" in err


def test_mvtec_layout_and_masks_elsewhere_say_the_same(saved, tmp_path, capsys):
    write_parts(tmp_path / "part/test")
    for i in range(4):
        write(tmp_path / f"part/ground_truth/scratch/{i}_mask.png", mask())
        write(tmp_path / f"drawn/scratch/{i}.png", mask())
    ignored = ("test", "escapes", "overkill")
    runs = [
        run_json(capsys, "evaluate", saved, tmp_path / "part"),
        run_json(capsys, "evaluate", saved, tmp_path / "part/test"),
        run_json(capsys, "evaluate", saved, tmp_path / "part", "--masks", tmp_path / "drawn"),
    ]
    first, *others = (
        (code, {key: value for key, value in values.items() if key not in ignored})
        for code, values in runs
    )
    assert first[0] == 0 and first[1]["aupro"]["value"] > 0.5
    assert all(other == first for other in others)


def test_sizes_may_differ_and_orientation_counts(saved, tmp_path, capsys):
    write_parts(tmp_path / "test", 6)
    pixels = worlds.scratched(1, 64, seed=50)[0][:, :48]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "test/scratch/turned.jpg", exif=exif)
    marked = mask()[:, :48]
    for i in range(4):
        write(tmp_path / f"ground_truth/scratch/{i}_mask.png", mask())
    write(tmp_path / "ground_truth/scratch/turned_mask.png", marked)
    code, values = run_json(capsys, "evaluate", saved, tmp_path)
    assert (code, values["images_with_masks"], values["problems"]) == (0, 11, [])


def test_a_mask_that_is_missing_or_wrong_leaves_its_image_out_of_pixel_figures(
    saved, tmp_path, capsys
):
    write_parts(tmp_path / "test", 6)
    write(tmp_path / "ground_truth/scratch/0_mask.png", mask())
    write(tmp_path / "ground_truth/scratch/1_mask.png", mask(32))
    write(tmp_path / "ground_truth/scratch/2_mask.png", 0 * mask())
    code, values = run_json(capsys, "evaluate", saved, tmp_path)
    assert (code, values["images_with_masks"], values["defective"]) == (2, 7, 4)
    missing, *wrong = values["problems"]
    assert "3.png: expected its mask at" in missing
    assert "1_mask.png: expected a mask of the image's size (64, 64), got (32, 32)" in wrong[0]
    assert "2_mask.png: expected a defective pixel" in wrong[1]
    _, _, err = run(capsys, "evaluate", saved, tmp_path)
    assert all(problem in err for problem in values["problems"])


def test_no_mask_that_can_be_used_is_no_pixel_figure(saved, tmp_path, capsys):
    write_parts(tmp_path / "test", 6, n_bad=2)
    for i in range(2):
        write(tmp_path / f"ground_truth/scratch/{i}.png", mask(32))
    code, values = run_json(capsys, "evaluate", saved, tmp_path)
    assert (code, values["pixel_auroc"], values["aupro"], len(values["problems"])) == (
        2,
        None,
        None,
        2,
    )
    assert values["image_auroc"]["value"] == 1


def test_unreadable_images_are_named_and_the_rest_is_measured(saved, tmp_path, capsys):
    write_parts(tmp_path, 6)
    (tmp_path / "scratch/broken\n<b>.png").write_bytes(b"no image")
    os.mkdir(os.fsencode(tmp_path / "scratch") + b"/\xff")
    os.rename(tmp_path / "scratch/0.png", os.fsencode(tmp_path / "scratch") + b"/\xff/0.png")
    code, values = run_json(capsys, "evaluate", saved, tmp_path)
    assert (code, values["good"], values["defective"]) == (2, 6, 4)
    (unreadable,) = values["unreadable"]
    assert unreadable["path"] == str(tmp_path / "scratch/broken\n<b>.png")
    assert unreadable["reason"]
    assert {kind["kind"] for kind in values["kinds"]} == {"scratch", "scratch/\udcff"}
    code, lines, _ = run(capsys, "evaluate", saved, tmp_path)
    assert code == 2
    assert any(line.startswith(f"  {tmp_path}/scratch/broken\\n<b>.png  (") for line in lines)
    assert any(line.strip().startswith("scratch/\\udcff") for line in lines)


def test_one_kind_of_images_is_no_test(saved, tmp_path, capsys):
    write_parts(tmp_path / "only", 4, kinds=())
    code, lines, err = run(capsys, "evaluate", saved, tmp_path / "only")
    assert (code, lines) == (2, []) and "got 4 good and 0 defective" in err
    write_parts(tmp_path / "broken", 4, kinds=())
    (tmp_path / "broken/bad").mkdir()
    (tmp_path / "broken/bad/1.png").write_bytes(b"no image")
    code, lines, err = run(capsys, "evaluate", saved, tmp_path / "broken")
    assert (code, lines) == (2, []) and "not one of the defective images can be read" in err


def test_without_a_threshold_there_are_figures_but_no_escapes(tmp_path, parts, capsys):
    without_threshold().save(tmp_path / "few.alite")
    code, values = run_json(capsys, "evaluate", tmp_path / "few.alite", parts)
    assert code == 0 and values["image_auroc"]["value"] > 0.5
    assert values["escapes"] is values["overkill"] is values["kinds"] is values["threshold"] is None
    lines = run(capsys, "evaluate", tmp_path / "few.alite", parts)[1]
    assert "no threshold, so no verdicts: escapes and overkill are not known" in lines


def test_a_conformal_detector(tmp_path, parts, capsys):
    detector = ConformalDetector(PaDiM(image_size=64, n_features=20, random_state=0))
    detector.set_params(false_alarm_rate=0.1, random_state=0).fit(worlds.stripes(40, seed=10))
    detector.save(tmp_path / "part.alite")
    code, values = run_json(capsys, "evaluate", tmp_path / "part.alite", parts)
    _, y, scores, flagged, _ = seen(parts, detector)
    assert (code, values["method"]) == (0, "ConformalDetector of PaDiM")
    assert values["image_auroc"]["value"] == image_auroc(y, scores)
    assert values["escapes"]["count"] == (y & ~flagged).sum()
    assert all(0 < image["p_value"] <= 1 for image in values["escapes"]["images"])


def test_the_same_twice(saved, parts, capsys):
    assert run(capsys, "evaluate", saved, parts) == run(capsys, "evaluate", saved, parts)


def test_the_page_has_the_labels(saved, parts, tmp_path, capsys):
    path = tmp_path / "page.html"
    values = run_json(capsys, "evaluate", saved, parts, "--report", path)[1]
    page = path.read_text(encoding="utf-8")
    assert f"<b>{values['escapes']['count']} of 10 defective parts</b>" in page
    assert f"<b>{values['image_auroc']['value']:.3f}</b>" in page
    (tmp_path / "notes").write_text("my notes")
    code, _, err = run(capsys, "evaluate", saved, parts, "--report", tmp_path / "notes")
    assert code == 2 and "exists already" in err and "inspecting" not in err
