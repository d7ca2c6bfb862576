"""
Two-stage detection of handwritten digits
=========================================

Rotation prediction and a density beside a one-class SVM on pixels. A network that has learned to
tell which way up a digit stands knows more about digits than single pixels tell.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.svm import OneClassSVM

from anomalib_lite import RotationPrediction
from anomalib_lite.metrics import image_auroc

# %%
# scikit-learn's handwritten digits, 8 x 8: a hundred fours to fit on; the other fours and all other
# digits to score.
images, digits = load_digits(return_X_y=True)
images = (images * 15.9).astype(np.uint8).reshape(-1, 8, 8)
fours = images[digits == 4]
train, test = fours[:100], np.concatenate([fours[100:], images[digits != 4]])
is_other = np.arange(len(test)) >= len(fours) - 100

# %%
# A small network is trained from random weights in seconds; kernel density of its embeddings
# gives the score.
detector = RotationPrediction(
    "convnet",
    hidden=(128,),
    epochs=25,
    train_batch_size=20,
    learning_rate=0.05,
    image_size=32,
    patch_size=16,
    random_state=0,
)
detector.fit(train)
scores = detector.anomaly_score(test)
svm = OneClassSVM(gamma="scale").fit(train.reshape(100, -1) / 255)
print(f"rotation and kernel density: AUROC {image_auroc(is_other, scores):.3f}")
pixels = -svm.score_samples(test.reshape(len(test), -1) / 255)
print(f"one-class SVM on pixels: AUROC {image_auroc(is_other, pixels):.3f}")

# %%
# The eight most and the eight least anomalous of the test images.
order = scores.argsort()
figure, axes = plt.subplots(2, 8, figsize=(9, 2.6))
for ax, index in zip(axes.flat, [*order[-8:][::-1], *order[:8]], strict=True):
    ax.imshow(test[index], cmap="gray_r")
    ax.set_title(f"{scores[index]:.2f}", fontsize=8)
    ax.set_axis_off()
axes[0, 0].text(-1, -4, "most anomalous", fontsize=9)
axes[1, 0].text(-1, -4, "least anomalous", fontsize=9)
figure.tight_layout()
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "two_stage_digits.png", dpi=110)
