"""
CPC: find normal parts in the wrong place
=========================================

Each row of a layout follows from the one above it. Contrastive predictive coding learns what comes
next, so it predicts a swapped part poorly from all four sides.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt

from anomalib_lite import CPC
from anomalib_lite.metrics import image_auroc

# %%
# Four motifs in turn, along rows and columns, starting with a random one. In anomalous images two
# parts show another motif than their place asks for.
rng = np.random.default_rng(0)
y, x = np.mgrid[:16, :16]
motifs = np.stack([np.sin(wave * np.pi / 4) for wave in (y, x, y + x, y - x)])


def picture(n_odd):
    """An image (64, 64), and which of its 4 x 4 parts are odd."""
    layout = np.add.outer(np.arange(4), np.arange(4)) + rng.integers(4)
    is_odd = np.zeros((4, 4), bool)
    is_odd.flat[rng.choice(16, n_odd, replace=False)] = True
    layout[is_odd] += rng.integers(1, 4, n_odd)
    parts = motifs[layout % 4].transpose(0, 2, 1, 3).reshape(64, 64)
    noisy = 128 + 80 * parts + rng.normal(0, 5, parts.shape)
    return noisy.clip(0, 255).astype(np.uint8), is_odd


train = np.stack([picture(0)[0] for _ in range(120)])
good = [picture(0) for _ in range(40)]
odd = [picture(2) for _ in range(40)]
test = np.stack([image for image, _ in good + odd])
labels = np.repeat([0, 1], 40)

# %%
# The same initial weights, untrained and trained.
settings = {
    "image_size": 64,
    "patch_size": 16,
    "patch_stride": 16,
    "width": 16,
    "embedding_dim": 32,
    "prediction_steps": 3,
    "share_encoder": True,
    "learning_rate": 0.01,
    "smoothing": 4.0,
    "random_state": 0,
}
untrained = CPC("densenet", epochs=0, **settings).fit(train)
print(f"untrained: AUROC {image_auroc(labels, untrained.anomaly_score(test)):.3f}")
detector = CPC("densenet", epochs=15, **settings).fit(train)
print(f"trained: AUROC {image_auroc(labels, detector.anomaly_score(test)):.3f}")

# %%
# Maps of four anomalous images, with the swapped parts framed.
maps = detector.anomaly_map(test[40:44])
figure, axes = plt.subplots(2, 4, figsize=(8, 4.2))
for i, (image, is_odd) in enumerate(odd[:4]):
    axes[0, i].imshow(image, cmap="gray")
    axes[1, i].imshow(maps[i], cmap="magma", vmin=maps.min(), vmax=maps.max())
    for row, column in np.argwhere(is_odd):
        frame = plt.Rectangle((column * 16, row * 16), 16, 16, fill=False, color="red")
        axes[0, i].add_patch(frame)
for ax in axes.flat:
    ax.set_axis_off()
figure.tight_layout()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "cpc_parts.png", dpi=110)
