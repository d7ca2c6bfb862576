"""
PaDiM on solar cells, learned from batches
==========================================

Every cell is photographed in the same pose, with its busbars in the same place: PaDiM learns what
each place looks like. New good cells arrive in batches, and the images of earlier batches are not
needed again.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np

from anomalib_lite import PaDiM
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc
from anomalib_lite.report import AnomalyMapDisplay

# %%
# 400 good monocrystalline cells, 100 of them at a time.
data = load_elpv()
is_anomalous = data.test_labels == -1
detector = PaDiM(random_state=0)
for batch in np.split(data.train, 4):
    detector.partial_fit(batch)
    auroc = image_auroc(is_anomalous, detector.anomaly_score(data.test))
    print(f"{detector.n_images_} good cells: AUROC {auroc:.4f}, offset {detector.offset_:.1f}")

# %%
# The Gaussians are those of one fit on all cells.
at_once = PaDiM(random_state=0).fit(data.train)
ours, theirs = (one.anomaly_map(data.test[:8]) for one in (detector, at_once))
print(f"largest relative difference of the maps: {np.abs(ours - theirs).max() / theirs.max():.1e}")

# %%
# The six most anomalous cells.
worst = detector.anomaly_score(data.test).argsort()[-6:]
display = AnomalyMapDisplay.from_estimator(detector, data.test[worst])
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
display.figure_.savefig(output / "padim_elpv.png", dpi=110)
