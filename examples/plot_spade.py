"""
SPADE on two kinds of normal images
===================================

Two materials, both normal. SPADE first retrieves the normal images most similar to the one at hand,
then looks for each pixel's counterpart among these alone: a piece of brick is an anomaly on grass.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np

from anomalib_lite import SPADE, PatchCore
from anomalib_lite.data import planted_texture
from anomalib_lite.metrics import pixel_auroc
from anomalib_lite.report import AnomalyMapDisplay

# %%
# 20 normal crops of each material; each test crop contains a square of the other material.
brick, grass = (
    planted_texture(name, n_train=20, n_test=12, random_state=0) for name in ("brick", "grass")
)
normal = np.concatenate([brick.train, grass.train])
rng = np.random.default_rng(0)
good = [data.test[data.test_labels == 1][:6] for data in (brick, grass)]
images = np.concatenate([good[0].copy(), good[1].copy()])
masks = np.zeros(images.shape[:3], dtype=bool)
for i, (image, other) in enumerate(zip(images, np.concatenate([good[1], good[0]]), strict=True)):
    top, left = rng.integers(16, 160, size=2)
    place = np.s_[top : top + 48, left : left + 48]
    image[place] = other[place]
    masks[i][place] = True

# %%
# With ten neighbors all retrieved images are of the right material; with forty both materials are
# retrieved, and the square has its counterparts. PatchCore's one memory bank has them too.
for n_neighbors in (10, 40):
    detector = SPADE(n_neighbors=n_neighbors).fit(normal)
    auroc = pixel_auroc(masks, detector.anomaly_map(images))
    print(f"SPADE, {n_neighbors} neighbors: pixel AUROC {auroc:.3f}")
auroc = pixel_auroc(masks, PatchCore(random_state=0).fit(normal).anomaly_map(images))
print(f"PatchCore: pixel AUROC {auroc:.3f}")

# %%
# Three of each material, with the square outlined.
chosen = [0, 1, 2, 6, 7, 8]
display = AnomalyMapDisplay.from_estimator(
    SPADE(n_neighbors=10).fit(normal), images[chosen], masks=masks[chosen]
)
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
display.figure_.savefig(output / "spade_materials.png", dpi=110)
