"""
A dirty folder of solar cells: defective ones among the good
============================================================

Nobody has certified the cells that a detector learns from. Told how many of them may be defective,
SubspaceAD leaves out those that do not belong, and says which.
"""

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np

from anomalib_lite import SubspaceAD
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc
from anomalib_lite.report import AnomalyMapDisplay

# %%
# 100 good monocrystalline cells, and 10 defective ones.
data = load_elpv()
defective = np.flatnonzero(data.test_labels == -1)
drawn = np.random.default_rng(0).permutation(defective)[:10]
folder = np.concatenate([data.train[:100], data.test[drawn]])
fresh = np.setdiff1d(np.arange(len(data.test)), drawn)
is_anomalous = data.test_labels[fresh] == -1
warnings.filterwarnings("ignore", message=".*false_alarm_rate")

# %%
# With and without ``contamination``: the ranking of new cells changes little here, the threshold a
# lot. As long as defective cells count as good ones, hardly anything is called anomalous.
for contamination in (0.0, 0.1):
    detector = SubspaceAD(contamination=contamination, random_state=0).fit(folder)
    scores, found = detector.anomaly_score(data.test[fresh]), detector.predict(data.test[fresh])
    print(
        f"contamination={contamination}: AUROC {image_auroc(is_anomalous, scores):.3f}, "
        f"found {np.mean(found[is_anomalous] == -1):.0%} of the defective cells, "
        f"false alarms {np.mean(found[~is_anomalous] == -1):.1%}"
    )

# %%
# The training images that belong least: the last ten are the defective ones.
suspects = detector.suspects_
for name, score in zip(suspects.names[:10], suspects.scores[:10], strict=True):
    print(f"{name:<10} anomaly score {score:.0f}")
print(f"defective among the first 10: {np.sum(suspects.indices[:10] >= 100)}")
display = AnomalyMapDisplay.from_estimator(detector, folder[suspects.indices[:6]])
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
display.figure_.savefig(output / "dirty_folder_elpv.png", dpi=110)
