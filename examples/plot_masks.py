"""
Masks of ten defects
====================

Faint defects on bricks, which differ more from each other than from the defects. A few masks teach
which patches are defective: in maps, and in scores.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from anomalib_lite import LabeledPatchCore
from anomalib_lite.data import planted_texture
from anomalib_lite.metrics import image_auroc, pixel_auroc

# %%
# 60 good crops of a brick wall and ten with a defect to learn from; 40 of each to score.
data = planted_texture("brick", n_train=60, n_test=100, strength=0.5, random_state=1)
good, defective = (np.flatnonzero(data.test_labels == label) for label in (1, -1))
known, to_find = np.split(np.random.default_rng(0).permutation(defective), [10])
test = np.concatenate([good, to_find])
images = [*data.train, *data.test[known]]
y = np.repeat([1, -1], [60, 10])
masks = [None] * 60 + [*data.test_masks[known]]

# %%
# Without the defects, with their labels, with their masks.
seen = {
    "good images alone": LabeledPatchCore(false_alarm_rate=0.02, random_state=0).fit(data.train),
    "ten labels": LabeledPatchCore(false_alarm_rate=0.02, random_state=0).fit(images, y),
    "ten masks": LabeledPatchCore(false_alarm_rate=0.02, random_state=0).fit(images, y, masks),
}
for name, detector in seen.items():
    seen[name] = found = detector.inspect(data.test[test])
    print(
        f"{name}: AUROC {image_auroc(data.test_labels[test] == -1, -found.scores):.3f}, of pixels "
        f"{pixel_auroc(data.test_masks[test], found.maps):.3f}"
    )

# %%
# A defect of each kind: the image, its mask, and maps.
kinds = data.test_defects[to_find]
shown = [np.flatnonzero(kinds == kind)[0] for kind in dict.fromkeys(kinds)]
names = ["good images alone", "ten masks"]
figure, axes = plt.subplots(
    len(shown), 2 + len(names), figsize=(8, 2 * len(shown)), layout="constrained"
)
for row, i in zip(axes, shown, strict=True):
    place = to_find[i]
    row[0].imshow(data.test[place], cmap="gray")
    row[1].imshow(data.test_masks[place], cmap="gray")
    row[0].set_ylabel(kinds[i])
    for axis, name in zip(row[2:], names, strict=True):
        axis.imshow(seen[name].maps[len(good) + i], cmap="inferno")
for axis, title in zip(axes[0], ["image", "mask", *names], strict=True):
    axis.set_title(title)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "masks_brick.png", dpi=110)
