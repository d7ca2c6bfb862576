"""Validation on planted defects: who is fitted, who is scored, and what is told of it."""

import warnings
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from oracles import slow_planted_auroc
from PIL import Image
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from worlds import stripes

from anomalib_lite import BaseDetector, planted_validation
from anomalib_lite.data import GLOBAL, LOCAL
from anomalib_lite.metrics import pixel_auroc
from anomalib_lite.selection import planted as planted_module
from anomalib_lite.selection.planted import PlantedDefect, PlantedTable

GOOD = stripes(10, 32)


class MeanImage(BaseDetector):
    """Largest difference from the mean image: quick, and sees defects."""

    def _learn(self, batches, n_images, generator):
        images = torch.cat([batch for _, batch in batches])
        self.mean_ = images.mean(0)
        return (images - self.mean_).abs().amax((1, 2, 3))

    def _infer(self, batch):
        gaps = (batch - self.mean_).abs().amax(1)
        return gaps.amax((1, 2)), gaps


def quick():
    return MeanImage(image_size=32, false_alarm_rate=0.2)


@pytest.fixture(scope="module")
def trial():
    return planted_validation(GOOD, random_state=0)


@pytest.fixture
def paths(tmp_path):
    paths = [str(tmp_path / f"{i}.png") for i in range(10)]
    for path, image in zip(paths, GOOD, strict=True):
        Image.fromarray(image).save(path)
    return paths


# -- what is fitted and scored --------------------------------------------------------------------


@pytest.mark.parametrize("n_splits", [2, 3, 10])
def test_splits_fit_on_good_images_and_score_the_others_with_their_defects(n_splits):
    trial = planted_validation(GOOD, n_splits=n_splits, n_planted=40, random_state=1)
    assert len(trial.splits) == n_splits
    for train, test in trial.splits:
        assert (trial.y[train] == 1).all()
        good = test[trial.y[test] == 1]
        assert sorted([*train, *good]) == [*range(10)]
        hosts = [trial.defects[i - 10].image for i in test if i >= 10]
        assert {*hosts} <= {*good.tolist()}
    scored = np.concatenate([test for _, test in trial.splits])
    assert sorted(scored) == [*range(50)]
    sizes = [np.sum(test < 10) for _, test in trial.splits]
    assert max(sizes) - min(sizes) <= 1


def test_planted_images_are_those_of_their_hosts_outside_of_the_masks(trial):
    assert len(trial.X) == len(trial.y) == len(trial.masks) == 10 + 160
    np.testing.assert_array_equal(np.stack(trial.X[:10]), GOOD)
    assert trial.y.tolist() == [1] * 10 + [-1] * 160
    assert not np.any(trial.masks[:10])
    for damaged, mask, defect in zip(trial.X[10:], trial.masks[10:], trial.defects, strict=True):
        host = GOOD[defect.image]
        assert damaged.dtype == np.uint8 and damaged.shape == mask.shape == (32, 32)
        np.testing.assert_array_equal(damaged[~mask], host[~mask])
        assert (damaged[mask] != host[mask]).mean() > 0.1
        assert mask.all() == defect.is_global == (defect.kind in GLOBAL)


def test_all_combinations_come_equally_often(trial):
    told = Counter((d.kind, d.size, d.strength) for d in trial.defects)
    local = {(k, s, a): 1 for k in LOCAL for s in (1, 0.5, 0.25, 0.125) for a in (1, 0.5)}
    assert told == local | {(k, None, a): 4 for k in GLOBAL for a in (1, 0.5)}
    assert max(Counter(d.image for d in trial.defects).values()) == 16


def test_local_and_global_defects_weigh_the_same_in_each_split():
    for n_planted in (160, 61):
        trial = planted_validation(GOOD, n_planted=n_planted, random_state=2)
        for _, test in trial.splits:
            is_global = [trial.defects[i - 10].is_global for i in test if i >= 10]
            assert abs(np.mean(is_global) - 0.5) < 0.1


def test_chosen_kinds_sizes_and_strengths():
    chosen = {"kinds": ["dent", "blur"], "sizes": [0.5], "strengths": [2, 1]}
    trial = planted_validation(GOOD, n_planted=9, random_state=0, **chosen)
    told = Counter((d.kind, d.size, d.strength) for d in trial.defects)
    assert sum(told[k] for k in told if k[0] == "dent") == 5
    assert {k[:2] for k in told} == {("dent", 0.5), ("blur", None)}
    assert max(told.values()) - min(told.values()) <= 1
    only = planted_validation(GOOD, kinds=("turn",), n_planted=5, random_state=0)
    assert {d.kind for d in only.defects} == {"turn"}


def test_fewer_defects_than_halves():
    (defect,) = planted_validation(GOOD, n_planted=1, random_state=0).defects
    assert not defect.is_global


def test_same_seed_same_trial_and_the_global_generator_is_left_alone():
    def make(random_state):
        return planted_validation(GOOD, n_planted=20, random_state=random_state)

    before = np.random.get_state()  # noqa: NPY002
    first, again, other = make(3), make(np.random.default_rng(3)), make(4)
    make(None)
    after = np.random.get_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert first.defects == again.defects != other.defects
    np.testing.assert_array_equal(np.stack(first.X), np.stack(again.X))
    for one, two in zip(first.splits, again.splits, strict=True):
        np.testing.assert_array_equal(one[1], two[1])


# -- what images may be ---------------------------------------------------------------------------


def test_files_stay_files(paths, tmp_path, trial):
    for X in (paths, tmp_path, pd.Series(paths)):
        found = planted_validation(X, random_state=0)
        assert found.X[:10] == paths
        np.testing.assert_array_equal(np.stack(found.X[10:]), np.stack(trial.X[10:]))
        assert [mask.shape for mask in found.masks] == [(32, 32)] * 170


@pytest.mark.parametrize(
    "X",
    [
        (image for image in GOOD),
        torch.from_numpy(GOOD)[:, None],
        [Image.fromarray(image) for image in GOOD],
        [{"image": image, "label": 0} for image in GOOD],
    ],
    ids=["generator", "tensor", "pictures", "dicts"],
)
def test_images_of_any_form_give_the_same_trial(X, trial):
    found = planted_validation(X, random_state=0)
    np.testing.assert_array_equal(np.stack(found.X), np.stack(trial.X))


def test_colors_floats_and_sizes_that_differ():
    color = [np.random.default_rng(i).random((20 + i, 40, 3)).astype(np.float32) for i in range(4)]
    found = planted_validation(color, n_planted=20, random_state=0)
    for damaged, defect in zip(found.X[4:], found.defects, strict=True):
        assert damaged.dtype == np.float32 and damaged.shape == (20 + defect.image, 40, 3)
        assert 0 <= damaged.min() and damaged.max() <= 1


def test_an_alpha_channel_is_dropped_with_few_words():
    images = np.stack([GOOD] * 4, -1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = planted_validation(images, n_planted=20, random_state=0)
    assert len(told) == 1 and "image 0: the alpha channel" in str(told[0].message)
    assert {image.shape for image in found.X} == {(32, 32, 3)}


# -- what cannot be seen --------------------------------------------------------------------------


def trial_and_warnings(X, **params):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        return planted_validation(X, random_state=0, **params), [str(each.message) for each in told]


def test_what_is_invisible_in_an_image_is_planted_in_others_of_its_split():
    images, chosen = GOOD.copy(), {"kinds": ["faded", "crack", "brightness"], "sizes": [1.0]}
    images[4] = 0
    trial = planted_validation(GOOD, n_planted=60, random_state=0, **chosen)
    found, told = trial_and_warnings(images, n_planted=60, **chosen)
    assert not told
    assert [d[1:] for d in found.defects] == [d[1:] for d in trial.defects]
    moved = [i for i, d in enumerate(trial.defects) if d.image != found.defects[i].image]
    assert {trial.defects[i].image for i in moved} == {4} and len(moved) > 2
    assert len({found.defects[i].image for i in moved}) > 1
    for i in range(60):
        host = images[found.defects[i].image]
        if i not in moved and found.defects[i].image != 4:
            np.testing.assert_array_equal(found.X[10 + i], trial.X[10 + i])
        assert (found.X[10 + i] != host).any()
        assert (found.X[10 + i] == host)[~found.masks[10 + i]].all()
    for (train, test), (_, before) in zip(found.splits, trial.splits, strict=True):
        np.testing.assert_array_equal(test, before)
        hosts = {found.defects[i - 10].image for i in test if i >= 10}
        assert not hosts & {*train.tolist()}
    again, _ = trial_and_warnings(images, n_planted=60, **chosen)
    assert again.defects == found.defects
    np.testing.assert_array_equal(np.stack(again.X), np.stack(found.X))


def test_what_is_invisible_everywhere_gives_way_to_what_is_not():
    rng, ramp = np.random.default_rng(0), np.linspace(80, 170, 128)
    noise = rng.normal(scale=0.5, size=(3, 128, 128))
    good = (np.add.outer(ramp, ramp) / 2 + noise).round().astype(np.uint8)
    chosen = {"kinds": ["scratch", "smear", "blur"], "sizes": [0.5, 0.125]}
    trial, (message,) = trial_and_warnings(good, n_planted=24, **chosen)
    assert len(trial.X) == 27 and sum(d.is_global for d in trial.defects) == 12
    assert len(trial.splits) == 3 and all((trial.y[test] == -1).sum() for _, test in trial.splits)
    planted = Counter(d[1:] for d in trial.defects if not d.is_global)
    assert ("smear", 0.5, 0.5) not in planted and ("scratch", 0.5, 1.0) in planted
    for kind, size, strength in product(("scratch", "smear"), (0.5, 0.125), (1, 0.5)):
        name = f"{kind!r} of size {size:g} and strength {strength:g}"
        assert (name in message) == ((kind, size, strength) not in planted)
    assert max(planted.values()) - min(planted.values()) <= 1


def test_a_half_of_which_nothing_is_visible_is_missing():
    blank = np.full((4, 32, 32), 128, np.uint8)
    trial, (message,) = trial_and_warnings(blank, kinds=["faded", "brightness"], n_planted=16)
    assert {d.kind for d in trial.defects} == {"brightness"} and len(trial.defects) == 8
    assert message.count("'faded' of size") == 8
    with pytest.raises(ValueError, match=r"'faded' of size .* is invisible in image \d, and so"):
        planted_validation(blank, kinds=["faded", "blur"], random_state=0)


def test_files_are_named_in_which_nothing_is_visible_or_that_are_gone(paths, monkeypatch):
    for path in paths:
        Image.fromarray(GOOD[0] * 0).save(path)
    with pytest.raises(ValueError, match=r"is invisible in image \d \(.*\d\.png\), and so"):
        planted_validation(paths, kinds=["blur"], random_state=0)
    read = planted_module._read

    def then_gone(X):
        found = read(X)
        Path(paths[4]).unlink()
        return found

    monkeypatch.setattr(planted_module, "_read", then_gone)
    with pytest.raises(ValueError, match=r"^image 4 \(.*4\.png\): (?!image 0)"):
        planted_validation(paths, random_state=0)


# -- scores ---------------------------------------------------------------------------------------


def test_table_is_the_slow_one(trial):
    table = trial.table(quick())
    for chosen in (
        lambda d: not d.is_global,
        lambda d: d.size == 0.5,
        lambda d: (d.kind, d.strength) == ("noise", 0.5),
    ):
        found = np.mean([f for f, d in zip(table.found, trial.defects, strict=True) if chosen(d)])
        assert found == pytest.approx(slow_planted_auroc(quick, trial, chosen))
    by = table.by("is_global")
    assert table.auroc == pytest.approx((by[False] + by[True]) / 2)
    assert 0.6 < by[False] < 1
    by = table.by("is_global", "strength")
    assert by[False, 1.0] > by[False, 0.5]


def test_ties_count_one_half():
    class Blind(MeanImage):
        def _infer(self, batch):
            return torch.zeros(len(batch)), torch.zeros_like(batch[:, 0])

    trial = planted_validation(GOOD, n_planted=10, random_state=0)
    np.testing.assert_array_equal(trial.table(Blind(image_size=32)).found, 0.5)


def test_records_are_rows_and_the_text_shows_their_means(trial):
    table = trial.table(quick())
    frame = pd.DataFrame(table.records())
    assert len(frame) == 100 and frame["n_planted"].sum() == 160
    assert frame["size"].isna().sum() == 20
    local = frame[~frame["is_global"]]
    heads, *rows = str(table).splitlines()
    assert heads.split("  ")[-1] == " all" and "size 0.125" in heads
    cells = {row[:11].strip(): row[11:].split() for row in rows}
    assert [*cells] == [*LOCAL, "all local", *GLOBAL, "all global"]
    mean = local.groupby("size")["auroc"].mean()  # each combination is there once
    expected = [*(mean[s] for s in (1, 0.5, 0.25, 0.125))]
    expected += [*(local.groupby("strength")["auroc"].mean()[s] for s in (1, 0.5))]
    expected.append(local["auroc"].mean())
    np.testing.assert_allclose([*map(float, cells["all local"])], expected, atol=0.0051)
    assert len(cells["turn"]) == 3


def test_a_table_of_a_list_is_one_of_an_array():
    defects = [PlantedDefect(0, "stain", 1.0, 1.0), PlantedDefect(0, "blur", None, 1.0)]
    as_list, as_array = (PlantedTable(defects, found) for found in ([1, 0], np.array([1.0, 0.0])))
    assert str(as_list) == str(as_array) and as_list.records() == as_array.records()


def test_the_detector_itself_is_not_fitted(trial):
    detector = quick()
    trial.table(detector)
    assert not hasattr(detector, "mean_")


# -- searches -------------------------------------------------------------------------------------


def test_searches_score_the_splits(paths):
    chosen = {"kinds": ["scratch", "noise"], "strengths": [0.2]}
    trial = planted_validation(paths, n_planted=30, random_state=0, **chosen)
    settings = {"image_size": [2, 32]}
    search = GridSearchCV(quick(), settings, cv=trial.splits, scoring="roc_auc", refit=False)
    found = search.fit(trial.X, trial.y).cv_results_["mean_test_score"]
    for size, value in zip((2, 32), found, strict=True):
        each = []
        for train, test in trial.splits:
            fitted = quick().set_params(image_size=size).fit([trial.X[i] for i in train])
            scores = fitted.decision_function([trial.X[i] for i in test])
            each.append(roc_auc_score(trial.y[test], scores))
        assert value == pytest.approx(np.mean(each))
    assert search.best_params_ == {"image_size": 32}


def test_masks_tell_where_a_detector_should_look():
    chosen = {"kinds": ["scratch", "crack"], "sizes": [1.0], "strengths": [1.0]}
    trial = planted_validation(GOOD, n_planted=12, random_state=0, **chosen)
    train, test = trial.splits[0]
    detector = quick().set_params(smoothing=0).fit([trial.X[i] for i in train])
    maps = detector.anomaly_map([trial.X[i] for i in test])
    assert pixel_auroc([trial.masks[i] for i in test], maps) > 0.9


# -- errors ---------------------------------------------------------------------------------------


def test_invalid_arguments_are_named():
    for changes, message in [
        ({"n_splits": 1}, "n_splits: expected an int of at least 2, got 1"),
        ({"n_splits": 11}, "X_good: expected at least 11 images, n_splits, got 10"),
        ({"n_planted": 0}, "n_planted: expected a positive int, got 0"),
        ({"kinds": ["dent", "hole"]}, "kind: expected one of 'scratch', .*got 'hole'"),
        ({"kinds": []}, r"kinds: expected a sequence of at least one, got \[\]"),
        ({"kinds": "dent"}, "kinds: expected a sequence .*got 'dent'"),
        ({"sizes": [0.5, 2]}, r"size: expected a number in \(0, 1\], got 2"),
        ({"sizes": 0.5}, "sizes: expected a sequence .*got 0.5"),
        ({"strengths": [0]}, "strength: expected a positive number, got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            planted_validation(GOOD, **changes)


def test_bad_images_are_named(paths):
    with pytest.raises(ValueError, match=r"image 3 .*missing\.png"):
        planted_validation([*paths[:3], "missing.png"])
    with pytest.raises(ValueError, match=r"image 0: expected at least 16 pixels per side"):
        planted_validation(GOOD[:, :12])
