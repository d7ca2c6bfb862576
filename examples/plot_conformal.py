"""
ConformalDetector: a guaranteed false-alarm rate
================================================

Wrap a detector in ``ConformalDetector``, which is fitted on half of the good solar cells and
calibrated on the other half. Count how many unseen good cells and defective cells are called
anomalous, and outline the pixels above the calibrated level.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from anomalib_lite import ConformalDetector, PatchCore
from anomalib_lite.data import load_elpv

# %%
# 400 good cells: 200 to fit on, 200 to calibrate on. One good cell in 20 may raise a false alarm.
data = load_elpv()
detector = ConformalDetector(
    PatchCore(coreset=0.01, random_state=0), false_alarm_rate=0.05, random_state=0
)
detector.fit(data.train)
print(f"{detector.n_calibration_} calibration images, threshold {detector.offset_:.1f}")

# %%
# The p-values of good cells are uniform on [0, 1]; those of defective cells are close to 0.
images, good = data.test[::2], data.test_labels[::2] == 1
p = detector.p_values(images)
for name, part in (("good", p[good]), ("defective", p[~good])):
    print(f"{name}: {np.mean(part <= 0.05):.1%} of {len(part)} called anomalous")

# %%
# From the whole batch, select cells so that at most about 10 % of them are good.
selected = detector.select(images, fdr=0.1)
print(f"selected {selected.sum()}, of which good: {np.mean(good[selected]):.1%}")

# %%
# 95 % of good cells have no pixel above ``pixel_level_``.
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
histogram.axvline(
    detector.false_alarm_rate, color="black", linestyle="--", label="false_alarm_rate"
)
histogram.set(xlabel="conformal p-value", ylabel="density")
histogram.legend()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "conformal.png", dpi=110)
