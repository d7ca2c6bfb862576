"""
CANCE: a density of codes and reconstruction errors
===================================================

CANCE of photographs, with a pretrained network, and of a table.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import make_moons

from anomalib_lite import CANCE, NCEDensity
from anomalib_lite.data import planted_texture
from anomalib_lite.metrics import image_auroc, pixel_auroc
from anomalib_lite.report import AnomalyMapDisplay

output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)

# %%
# The density of a table of two columns. Without training it is a Gaussian, which cannot see the
# gap between the moons.
rows, _ = make_moons(2000, noise=0.08, random_state=0)
grid = np.stack(np.meshgrid(np.linspace(-2, 3, 120), np.linspace(-1.5, 2, 90)), -1)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
for ax, epochs in zip(axes, (0, 60), strict=True):
    density = NCEDensity(epochs=epochs, random_state=0).fit(rows)
    values = density.score_samples(grid.reshape(-1, 2)).reshape(grid.shape[:2])
    ax.contourf(grid[..., 0], grid[..., 1], values, levels=np.linspace(-8, 0.5, 18), extend="both")
    ax.plot(*rows[:200].T, ".", color="white", markersize=2)
    ax.set_title(f"log-density after {epochs} epochs")
figure.savefig(output / "cance_density.png", dpi=110)

# %%
# Photographs: principal components of a pretrained network's patches, and the density of their
# composites. An image's score is that of its most anomalous patch.
data = planted_texture("brick", n_train=60, n_test=40, random_state=0)
density = NCEDensity(epochs=10, learning_rate=0.003)
detector = CANCE("efficientnet_lite0", patch_level=True, density=density, random_state=0)
detector.fit(data.train)
seen = detector.inspect(data.test)
print(f"image AUROC {image_auroc(data.test_labels == -1, -seen.scores):.3f}")
print(f"pixel AUROC {pixel_auroc(data.test_masks, seen.maps):.3f}")
worst = seen.scores.argsort()[:6]
display = AnomalyMapDisplay.from_estimator(detector, data.test[worst])
display.figure_.savefig(output / "cance_maps.png", dpi=110)

# %%
# The composites behind these scores: their last two columns are the squared error and the cosine
# dissimilarity.
composites = detector.transform(data.test)
print("composites", composites.shape, "errors of the worst:", composites[worst[0], -2:].round(4))
