"""What labels of a few known defects buy: LabeledPatchCore beside PatchCore and plain regression.

    pip install ".[benchmark]"
    python examples/benchmarks/labeled_defects.py                    # an hour on two cores
    python examples/benchmarks/labeled_defects.py --data "ELPV mono" --seeds 0 --counts 0 20

ELPV: 400 good cells to fit on; the defective cells are cut at random into two halves, one to take
labels from and one to score beside the other good cells. Means of the seeds of AUROC, average
precision and recall at 1 % false alarms among the good test cells; "flagged" is the share of these
that the detector's own threshold for 1 % calls. "wrong" adds a tenth as many defects, and as
many, to the good images. "regression" is scikit-learn's LogisticRegression, C=0.01, balanced, on
the logarithm of PatchCore's score and pooled features of the image (DeepFeatures), standardized.

"unseen": local defects planted in good images that were not learned; 10 scratches and stains are
labeled; AUROC of others of these two kinds, and of eight kinds that were never labeled. Beside the
two detectors the higher and the sum of their scores, as a ``DetectorEnsemble`` combines members.

"review": ten cells of a pool are looked at, and the defective ones labeled, three times.

"masks": textures with planted defects (``planted_texture``, 60 images to fit, 80 good ones and 40
defects to score, at half strength): labels of 40 defects, and masks of 5, 15 and 40 of them; then
those of scratches and stains alone, to find the other kinds. Means of image AUROC, pixel AUROC and
AUPRO.

"cost": polycrystalline cells, without labels, with 20, and with masks (a box, the same in all) of
these: seconds of fit, milliseconds a cell, and the most memory that was resident until then.
"""

import argparse
import copy
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from anomalib_lite import DeepFeatures, LabeledPatchCore
from anomalib_lite.benchmarks.row import peak_megabytes
from anomalib_lite.data import (
    LOCAL,
    TEXTURES,
    load_elpv,
    load_textile,
    planted,
    planted_texture,
)
from anomalib_lite.density import AnchoredLogistic, held_out_log_odds
from anomalib_lite.metrics import aupro, pixel_auroc

C = LabeledPatchCore().C
COUNTS = 0, 1, 2, 5, 10, 20, 50, 150
CELLS = {"ELPV mono": load_elpv, "ELPV poly": partial(load_elpv, "poly")}
UNSEEN = {
    "ELPV mono": load_elpv,
    "textile": load_textile,
    **{name: partial(planted_texture, name, n_test=320, random_state=0) for name in TEXTURES},
}
LABELED = "scratch", "stain"
OTHERS = [kind for kind in LOCAL if kind not in LABELED]


def figures(scores, good, bad, flagged=np.nan):
    """AUROC, average precision, recall at 1 % false alarms, share of good images flagged."""
    y = np.repeat([0, 1], [len(good), len(bad)])
    both = scores[np.concatenate([good, bad])]
    recall = np.mean(scores[bad] > np.quantile(scores[good], 0.99))
    return roc_auc_score(y, both), average_precision_score(y, both), recall, flagged


def line(name, n_labels, subject, each):
    words = " | ".join(f"{value:.3f}" for value in np.mean(each, 0)).replace("nan", "-")
    print(f"| {name} | {n_labels} | {subject} | {words} |", flush=True)


def taught(detector, images):
    """A copy that has learned from images of defects."""
    detector = copy.deepcopy(detector)
    return detector.partial_fit(images, [-1] * len(images)) if images else detector


def evidence_of(data):
    """Of the images to fit on, then of those to score: labels change none of it."""
    detector = LabeledPatchCore(random_state=0).fit(data.train, np.ones(len(data.train)))
    return detector.partial_fit(data.test, -np.ones(len(data.test))).evidence_


def cells(name, seeds, counts):
    data = CELLS[name]()
    good, bad = (np.flatnonzero(data.test_labels == label) for label in (1, -1))
    n_fit = len(data.train)
    evidence = evidence_of(data)
    pooled = DeepFeatures().fit(data.train)
    features = np.concatenate([pooled.transform(images) for images in (data.train, data.test)])
    table = np.column_stack([np.log(evidence.scores), features])
    table = StandardScaler().fit(table[:n_fit]).transform(table)
    calibration = evidence.scores[:n_fit]
    for n in counts:
        found, regression = [], []
        for seed in seeds:
            shuffled = np.random.default_rng(seed).permutation(bad)
            to_learn, to_find = np.split(shuffled, [len(bad) // 2])
            learned = np.concatenate([np.arange(n_fit), n_fit + to_learn[:n]])
            is_bad = learned >= n_fit
            scores, limits = evidence.scores, calibration
            if n:
                given = evidence.scores[learned], evidence.rows[learned], is_bad
                head = AnchoredLogistic.fit(*given, C)
                read = torch.from_numpy(evidence.scores), torch.from_numpy(evidence.rows)
                scores = head.log_odds(*read).numpy()
                limits = held_out_log_odds(*given, evidence.digests[learned], C)[:n_fit]
                model = LogisticRegression(C=C, class_weight="balanced", max_iter=1000)
                model.fit(table[learned], is_bad)
                plain = model.decision_function(table)[n_fit:]
                regression.append(figures(plain, good, to_find))
            scores = scores[n_fit:]
            limit = -np.quantile(-limits, 0.01, method="weibull")
            found.append(figures(scores, good, to_find, np.mean(scores[good] > limit)))
        line(name, n, "LabeledPatchCore" if n else "PatchCore", found)
        if n:
            line(name, n, "regression", regression)


def review(seeds, n_rounds=3, n_each=10):
    """Which images of a pool should be looked at: AUROC and recall on others after each round."""
    name = "ELPV poly"
    data = CELLS[name]()
    n_fit = len(data.train)
    evidence = evidence_of(data)
    scores, rows = torch.from_numpy(evidence.scores), torch.from_numpy(evidence.rows)
    for ranked in ("at random", "highest scores", "nearest to the threshold"):
        each = []
        for seed in seeds:
            rng, is_bad = np.random.default_rng(seed), data.test_labels == -1
            bad, good = (n_fit + rng.permutation(np.flatnonzero(x)) for x in (is_bad, ~is_bad))
            (bad, to_find), (good, others) = (np.split(x, [len(x) // 2]) for x in (bad, good))
            pool, labeled, found = rng.permutation(np.concatenate([good, bad])), [], []
            for _ in range(n_rounds):
                odds = log_odds(evidence, n_fit, labeled, scores, rows)
                limit = np.quantile(odds[:n_fit], 0.99)
                order = {
                    "at random": np.arange(len(pool)),
                    "highest scores": (-odds[pool]).argsort(),
                    "nearest to the threshold": np.abs(odds[pool] - limit).argsort(),
                }[ranked]
                looked_at, pool = np.split(pool[order], [n_each])
                labeled += [i for i in looked_at if is_bad[i - n_fit]]
                odds = log_odds(evidence, n_fit, labeled, scores, rows)
                found += figures(odds, others, to_find)[::2][:2]
            each.append(found)
        words = " | ".join(f"{value:.3f}" for value in np.mean(each, 0))
        print(f"| {name} | {ranked} | {words} |", flush=True)


def log_odds(evidence, n_fit, labeled, scores, rows):
    """By labels of some defects; without any, logarithms of scores."""
    if not labeled:
        return np.log(evidence.scores)
    learned = np.concatenate([np.arange(n_fit), np.array(labeled)])
    given = evidence.scores[learned], evidence.rows[learned], learned >= n_fit
    return AnchoredLogistic.fit(*given, C).log_odds(scores, rows).numpy()


def wrong_labels(name, seeds, n=20):
    """No defects called good, a tenth as many as are labeled, and as many."""
    data = CELLS[name]()
    good, bad = (np.flatnonzero(data.test_labels == label) for label in (1, -1))
    for n_wrong in (0, n // 10, n):
        each = []
        for seed in seeds:
            known, scored = np.split(np.random.default_rng(seed).permutation(bad), [len(bad) // 2])
            images = [*data.train, *(data.test[i] for i in known[: n + n_wrong])]
            y = np.repeat([1, -1, 1], [len(data.train), n, n_wrong])
            detector = LabeledPatchCore(random_state=0).fit(images, y)
            scores = detector.anomaly_score(data.test)
            each.append(figures(scores, good, scored, np.mean(-scores[good] < detector.offset_)))
        line(name, f"{n}, {n_wrong} called good", "LabeledPatchCore", each)


def unseen(seeds, strength):
    """Defects planted in good images that were not learned: labels of two kinds of ten."""
    for name, load in UNSEEN.items():
        data = load()
        held_out = [pixels(data.test[i]) for i in np.flatnonzero(data.test_labels == 1)]
        plain = LabeledPatchCore(random_state=0).fit(data.train, np.ones(len(data.train)))
        found = {}
        for seed in seeds:
            rng = np.random.default_rng(seed)
            to_label, good, to_find = np.split(rng.permutation(len(held_out)), [10, 80])
            labeled = [plant(held_out[i], LABELED, rng, strength) for i in to_label]
            test = [
                [held_out[i] for i in good],
                [plant(held_out[i], LABELED, rng, strength) for i in to_find],
                [plant(held_out[i], OTHERS, rng, strength) for i in to_find],
            ]
            detectors = {"PatchCore": plain, "LabeledPatchCore": taught(plain, labeled)}
            scores = {
                subject: [detector.anomaly_score(images) for images in test]
                for subject, detector in detectors.items()
            }
            both = [
                on_one_scale(scores[subject], -detector.calibration_scores_)
                for subject, detector in detectors.items()
            ]
            scores["the higher of both"] = [np.maximum(*each) for each in zip(*both, strict=True)]
            scores["the sum of both"] = [np.add(*each) for each in zip(*both, strict=True)]
            for subject, (of_good, *of_bad) in scores.items():
                found.setdefault(subject, []).append([auroc(of_good, each) for each in of_bad])
        for subject, each in found.items():
            words = " | ".join(f"{value:.3f}" for value in np.mean(each, 0))
            print(f"| {name} | {subject} | {words} |", flush=True)


def on_one_scale(scores, known):
    """As DetectorEnsemble does it, by anomaly scores of good images."""
    return [(x - np.mean(known)) / np.std(known, ddof=1) for x in scores]


def masks(seeds, counts=(5, 15, 40)):
    """What masks of planted defects bring, beside labels of images."""
    for name in TEXTURES:
        found = {}
        for seed in seeds:
            data = planted_texture(name, n_train=60, n_test=160, strength=0.5, random_state=seed)
            bad = np.flatnonzero(data.test_labels == -1)
            known, to_find = np.split(np.random.default_rng(seed).permutation(bad), [40])
            good, is_seen = (
                np.flatnonzero(data.test_labels == 1),
                np.isin(data.test_defects, LABELED),
            )
            scored = np.concatenate([good, to_find])
            others = np.concatenate([good, to_find[~is_seen[to_find]]])
            two_kinds = known[is_seen[known]]
            trials = [
                ("PatchCore", known[:0], False, scored),
                ("40 labels", known, False, scored),
                *((f"{n} masks", known[:n], True, scored) for n in counts),
                ("PatchCore, other kinds", known[:0], False, others),
                ("masks of two kinds, other kinds", two_kinds, True, others),
            ]
            for subject, learned, with_masks, test in trials:
                images = [*data.train, *data.test[learned]]
                y = np.repeat([1, -1], [60, len(learned)])
                given = [None] * 60 + [*data.test_masks[learned]] if with_masks else None
                detector = LabeledPatchCore(random_state=0).fit(images, y, given)
                seen, truth = detector.inspect(data.test[test]), data.test_masks[test]
                each = found.setdefault(subject, [])
                each.append(
                    (
                        roc_auc_score(data.test_labels[test] == -1, -seen.scores),
                        pixel_auroc(truth, seen.maps),
                        aupro(truth, seen.maps),
                    )
                )
        for subject, each in found.items():
            words = " | ".join(f"{value:.3f}" for value in np.mean(each, 0))
            print(f"| {name} | {subject} | {words} |", flush=True)


def cost(n=20):
    """What labels and masks cost, at fit and later."""
    data = CELLS["ELPV poly"]()
    defects = data.test[np.flatnonzero(data.test_labels == -1)[:n]]
    box = np.zeros(defects.shape[1:], dtype=bool)
    box[120:180, 120:180] = True
    images, y = [*data.train, *defects], np.repeat([1, -1], [len(data.train), n])
    for subject, given in (
        ("no labels", (data.train,)),
        (f"{n} labels", (images, y)),
        (f"{n} masks", (images, y, [None] * len(data.train) + [box] * n)),
    ):
        start = time.perf_counter()
        detector = LabeledPatchCore(random_state=0).fit(*given)
        fit = time.perf_counter() - start
        start = time.perf_counter()
        detector.score_samples(data.test[:200])
        each = 1e3 * (time.perf_counter() - start) / 200
        print(f"| {subject} | {fit:.0f} | {each:.1f} | {peak_megabytes():.0f} |", flush=True)


def pixels(image):
    return np.asarray(Image.open(image)) if isinstance(image, str | Path) else image


def plant(image, kinds, rng, strength):
    """The image with a defect of one of some kinds, in a quarter of its side."""
    while True:
        try:
            return planted(
                image, str(rng.choice(kinds)), random_state=rng, size=0.25, strength=strength
            )[0]
        except ValueError:  # invisible there
            continue


def auroc(good, bad):
    return roc_auc_score(np.repeat([0, 1], [len(good), len(bad)]), np.concatenate([good, bad]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = [*CELLS, "wrong", "unseen", "review", "masks", "cost"]
    parser.add_argument("--data", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--strength", type=float, default=0.5, help="of unseen defects")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", ".*false_alarm_rate=.* needs|.*copies|.* is a copy")
    print("| data | labels | detector | AUROC | AP | recall at 1 % | flagged |")
    print("|---" * 7 + "|")
    for name in [each for each in CELLS if each in chosen.data]:
        cells(name, chosen.seeds, chosen.counts)
    if "wrong" in chosen.data:
        wrong_labels("ELPV poly", chosen.seeds)
    if "unseen" in chosen.data:
        print("| planted in | detector | labeled kinds | others |")
        print("|---" * 4 + "|")
        unseen(chosen.seeds, chosen.strength)
    if "review" in chosen.data:
        n = " | ".join(f"AUROC, {n} looked at | recall at 1 %" for n in (10, 20, 30))
        print(f"| data | looked at first | {n} |")
        print("|---" * 8 + "|")
        review(chosen.seeds)
    if "masks" in chosen.data:
        print("| texture | learned | image AUROC | pixel AUROC | AUPRO |")
        print("|---" * 5 + "|")
        masks(chosen.seeds)
    if "cost" in chosen.data:
        print("| learned | fit, s | a cell, ms | peak, MB |")
        print("|---" * 4 + "|")
        cost()


if __name__ == "__main__":
    main()
