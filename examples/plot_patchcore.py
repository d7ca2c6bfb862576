"""
PatchCore on a texture with planted defects
===========================================

Fit on crops of the left half of a photograph of bricks, find defects planted in crops of the right
half, and compare sizes of the memory bank.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from anomalib_lite import PatchCore
from anomalib_lite.data import planted_texture
from anomalib_lite.metrics import aupro, pixel_auroc
from anomalib_lite.report import AnomalyMapDisplay, plot_score_histogram

# %%
# Train and test crops come from different halves of the photograph; every defect has its mask.
data = planted_texture("brick", n_train=40, n_test=20, random_state=0)

# %%
# A share keeps the bank proportional to the data, a count keeps it bounded.
for coreset in (0.1, 0.01, 100):
    detector = PatchCore(coreset=coreset, random_state=0).fit(data.train)
    maps = detector.anomaly_map(data.test)
    print(
        f"coreset={coreset}: {detector.memory_bank_.n_stored} rows, "
        f"pixel AUROC {pixel_auroc(data.test_masks, maps):.3f}, "
        f"AUPRO {aupro(data.test_masks, maps):.3f}"
    )

# %%
# All images on one color scale, with the planted masks outlined.
detector = PatchCore(random_state=0).fit(data.train)
defective = [i for i, label in enumerate(data.test_labels) if label == -1][:5]
display = AnomalyMapDisplay.from_estimator(
    detector,
    data.test[defective],
    masks=data.test_masks[defective],
    names=[data.test_defects[i] for i in defective],
)
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
display.figure_.savefig(output / "patchcore_brick.png", dpi=110)

# %%
# The scores separate normal from defective crops, but the threshold is too strict here: crops of
# one half of a photograph overlap, so leaving one out leaves much of it in the others. It holds for
# images that were taken one by one, such as the solar cells of the quickstart.
ax = plot_score_histogram(
    detector.score_samples(data.test), data.test_labels, detector=detector, bins=15
)
ax.figure.savefig(output / "patchcore_brick_scores.png", dpi=110)
