"""
A few labeled solar cells
=========================

Polycrystalline cells are full of grain boundaries, which are anomalous and harmless. Labels of 20
defective cells teach which anomalies matter.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from anomalib_lite import LabeledPatchCore
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc

# %%
# 200 good cells and 20 defective ones to learn from; all others to score.
data = load_elpv("poly")
good, defective = (np.flatnonzero(data.test_labels == label) for label in (1, -1))
known, others = np.split(np.random.default_rng(0).permutation(defective), [20])
fresh = np.concatenate([good, others])
is_defective = np.repeat([False, True], [len(good), len(others)])

# %%
# A detector without labels of defects, to which they are then added.
detector = LabeledPatchCore(coreset=5000, random_state=0)
detector.fit(data.train[:200], np.ones(200))
scores = {"without labels": detector.anomaly_score(data.test[fresh])}
detector.partial_fit(data.test[known], -np.ones(20))
scores["20 labels"] = detector.anomaly_score(data.test[fresh])
for name, each in scores.items():
    limit = np.quantile(each[~is_defective], 0.99)
    print(
        f"{name}: AUROC {image_auroc(is_defective, each):.3f}, defective cells found at 1 % false "
        f"alarms {np.mean(each[is_defective] > limit):.0%}"
    )

# %%
# What a threshold costs that finds 80 % of all such defects, by those that were not learned.
found = detector.threshold_for(data.test[others[:100]], recall=0.8)
print(
    f"80 % of all defects, confidence 95 %: misses {found.n_missed} of {found.n_defects}, calls "
    f"{found.false_alarm_rate:.0%} of the good cells"
)

# %%
# Both scores of each cell.
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
for label, which in (("good", ~is_defective), ("defective", is_defective)):
    axes.scatter(*(each[which] for each in scores.values()), s=8, label=label)
axes.set(xlabel="anomaly score without labels", ylabel="log-odds of a defect, 20 labels")
axes.legend()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "labels_elpv.png", dpi=110)
