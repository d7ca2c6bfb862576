"""
A clamp that does not count
===========================

Defects count in a region of the image only: here, everywhere but at its upper edge, where a clamp
is seen in half of the photographs.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np

from anomalib_lite import PatchCore
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc
from anomalib_lite.report import AnomalyMapDisplay

# %%
# Solar cells. No clamp is in the 100 images to learn from; one is in every second image to score.
data = load_elpv()
rng = np.random.default_rng(0)
chosen = np.sort(rng.permutation(len(data.test))[:200])
images, is_defective = data.test[chosen].copy(), data.test_labels[chosen] == -1
height, width = images.shape[1:3]
for image in images[::2]:
    left = rng.integers(0, width - 80)
    image[: height // 10, left : left + 80] = 230

# %%
# The mask of the region, of any size: its upper 25 % do not count. That is more than the clamp's
# 10 %, since features of a patch see what is beside it.
region = np.ones((100, 100), dtype=bool)
region[:25] = False

# %%
# Clamps look like defects to a detector that looks everywhere.
for name, given in (("whole image", None), ("region", region)):
    detector = PatchCore(region=given, coreset=2000, random_state=0).fit(data.train[:100])
    scores, found = detector.anomaly_score(images), detector.predict(images) == -1
    print(
        f"{name}: AUROC {image_auroc(is_defective, scores):.3f}, found "
        f"{np.mean(found[is_defective]):.0%} of the defective cells, false alarms "
        f"{np.mean(found[~is_defective]):.0%}"
    )

# %%
# Heatmaps are empty outside of the region, but for the reach of their blur.
display = AnomalyMapDisplay.from_estimator(detector, images[:6])
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
display.figure_.savefig(output / "region_elpv.png", dpi=110)
