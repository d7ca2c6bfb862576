"""
A false-alarm rate that is guaranteed
=====================================

Wrap a detector in ``ConformalDetector``: half of the good images teach it, the other half calibrate
it. Then count what it calls anomalous among good solar cells it has never seen, and among
defective ones, and see which pixels rise above the calibrated level.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from anomalib_lite import ConformalDetector, PatchCore
from anomalib_lite.data import load_elpv

# %%
# 400 good cells: 200 to learn from, 200 to calibrate with. One false alarm in 20 is accepted.
data = load_elpv()
detector = ConformalDetector(PatchCore(coreset=0.01, random_state=0), alpha=0.05, random_state=0)
detector.fit(data.train)
print(f"{detector.n_calibration_} calibration images, threshold {detector.offset_:.1f}")

# %%
# p-values of good cells are spread evenly over [0, 1]; those of defective ones crowd near 0.
images, good = data.test[::2], data.test_labels[::2] == 1
p = detector.p_values(images)
for name, part in (("good", p[good]), ("defective", p[~good])):
    print(f"{name}: {np.mean(part <= 0.05):.1%} of {len(part)} called anomalous at alpha=0.05")

# %%
# Of a whole batch: the cells to look at such that about 10 % of them, at most, are good ones.
selected = detector.select(images, fdr=0.1)
print(f"selected {selected.sum()}, of which good: {np.mean(good[selected]):.1%}")

# %%
# A pixel above ``pixel_level_`` is one that 95 % of good cells do not have anywhere.
worst = np.argsort(p)[:4]
maps = detector.anomaly_map(images[worst])
figure = plt.figure(figsize=(11, 5.4), layout="constrained")
above, below = figure.subfigures(2)
for ax, image, heat in zip(above.subplots(1, 4), images[worst], maps, strict=True):
    ax.imshow(image, cmap="gray")
    ax.contour(heat, levels=[detector.pixel_level_], colors="tab:red")
    ax.set_axis_off()
histogram = below.subplots()
bins = np.linspace(0, 1, 41)
histogram.hist([p[good], p[~good]], bins=bins, label=["good", "defective"], density=True)
histogram.axvline(detector.alpha, color="black", linestyle="--", label="alpha")
histogram.set(xlabel="conformal p-value", ylabel="density")
histogram.legend()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "conformal.png", dpi=110)
