"""
SubspaceAD on solar cells: a few good ones, then more
=====================================================

A cell has 784 patches, so that one good cell already spans a subspace of what is normal. More good
cells are learned as they come; the images of earlier ones are not needed again.
"""

import warnings
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from anomalib_lite import SubspaceAD
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc
from anomalib_lite.report import AnomalyMapDisplay

# %%
# One good monocrystalline cell, then 4, 16 and 100. There are scores and maps from the first one
# on; a threshold that keeps to 1 % false alarms takes 99.
data = load_elpv()
is_anomalous = data.test_labels == -1
warnings.filterwarnings("ignore", message="1 image cannot|false_alarm_rate")
detector = SubspaceAD(random_state=0)
for first, last in [(0, 1), (1, 4), (4, 16), (16, 100)]:
    detector.partial_fit(data.train[first:last])
    auroc = image_auroc(is_anomalous, detector.anomaly_score(data.test))
    print(
        f"{detector.n_images_} good cells: AUROC {auroc:.4f}, "
        f"{detector.n_components_} of {detector.statistics_.mean.shape[1]} dimensions, "
        f"offset {detector.offset_:.1f}"
    )

# %%
# The subspace is that of one fit on all of them.
at_once = SubspaceAD(random_state=0).fit(data.train[:100])
ours, theirs = (one.anomaly_score(data.test[:8]) for one in (detector, at_once))
print(f"largest relative difference of the scores: {abs(ours / theirs - 1).max():.1e}")

# %%
# The six most anomalous cells.
worst = detector.anomaly_score(data.test).argsort()[-6:]
display = AnomalyMapDisplay.from_estimator(detector, data.test[worst])
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
display.figure_.savefig(output / "subspace_ad_elpv.png", dpi=110)
