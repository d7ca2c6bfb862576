"""
Planted defects: what a detector would see at two image sizes
=============================================================

There are no defects to test on, so some are planted: scratches, dents and other local ones of four
sizes, and changes of the whole image.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from PIL import Image
from scipy import ndimage

from anomalib_lite import PatchCore, planted_validation
from anomalib_lite.data import GLOBAL, LOCAL, load_textile, planted

# %%
# All kinds of defects in one image, at full strength. Outlines show where the local ones are.
good = load_textile().train
image = np.asarray(Image.open(good[0]))
figure, axes = plt.subplots(4, 5, figsize=(9, 7.6))
for ax, kind in zip(axes.flat, [*LOCAL, *GLOBAL], strict=True):
    damaged, mask = planted(image, kind, random_state=3)
    ax.imshow(damaged)
    if kind in LOCAL:
        ax.contour(
            ndimage.binary_closing(mask, iterations=3),
            levels=[0.5],
            colors="tab:orange",
            linewidths=0.8,
        )
    ax.set_title(kind, fontsize=9)
    ax.set(xticks=[], yticks=[])
figure.tight_layout()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "planted_kinds.png", dpi=110)

# %%
# PatchCore at two image sizes, on two splits of 40 images, of which one half is held out in turn.
trial = planted_validation(good[:40], n_splits=2, n_planted=120, random_state=0)
tables = {}
for image_size in 224, 448:
    detector = PatchCore(coreset=1000, image_size=image_size, false_alarm_rate=0.05, random_state=0)
    tables[image_size] = trial.table(detector)
    print(f"{image_size} px: AUROC {tables[image_size].auroc:.3f}\n{tables[image_size]}\n")

# %%
# AUROC by size, and of changes of the whole image.
sizes = [0.125, 0.25, 0.5, 1.0, None]
figure, ax = plt.subplots(figsize=(6, 3.5))
for image_size, table in tables.items():
    by_size = table.by("size")
    ax.plot([by_size[size] for size in sizes], "o", label=f"PatchCore, {image_size} px")
ax.axhline(0.5, color="gray", linewidth=0.8)
ax.set_xticks(range(5), ["1/8", "1/4", "1/2", "1", "whole image"])
ax.set(xlabel="window of the defect, of the image's side", ylabel="AUROC", ylim=(0.2, 1.02))
ax.legend(loc="lower right")
figure.tight_layout()
figure.savefig(output / "planted_sizes.png", dpi=110)
