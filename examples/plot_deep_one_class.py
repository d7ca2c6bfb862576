"""
One set of features, many classifiers
=====================================

DeepOneClass fits any one-class classifier to a pretrained network's pooled features: the baseline
for everything that is trained.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest

from anomalib_lite import DeepOneClass
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc
from anomalib_lite.report import AnomalyMapDisplay, plot_score_histogram

# %%
# 400 good cells to fit on; 188 good and 313 defective ones to tell apart.
data = load_elpv()
is_anomalous = data.test_labels == -1

# %%
# Kernels and distances work best with vectors of length one; Gaussians and trees need no scaling.
detectors = {
    "Gaussian": DeepOneClass(random_state=0),
    "Gaussian, largest values": DeepOneClass(pooling="max", random_state=0),
    "5 nearest": DeepOneClass(classifier="knn", normalize=True, random_state=0),
    "kernel density": DeepOneClass(classifier="kde", normalize=True, random_state=0),
    "one-class SVM": DeepOneClass(classifier="ocsvm", normalize=True, random_state=0),
    "isolation forest": DeepOneClass(classifier=IsolationForest(), random_state=0),
    "elliptic envelope, 40 numbers": DeepOneClass(
        classifier=EllipticEnvelope(), layers=(8,), random_state=0
    ),
}
for name, detector in detectors.items():
    detector.fit(data.train)
    print(f"{name}: AUROC {image_auroc(is_anomalous, detector.anomaly_score(data.test)):.3f}")

# %%
# Scores of good and defective cells, and the threshold computed from good cells alone.
chosen = detectors["Gaussian, largest values"]
figure, ax = plt.subplots(figsize=(6, 3.5))
plot_score_histogram(chosen.score_samples(data.test), data.test_labels, detector=chosen, ax=ax)
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "deep_one_class_scores.png", dpi=110)

# %%
# Maps come from a copy of the classifier that is fitted on single patches.
worst = chosen.anomaly_score(data.test).argsort()[-6:]
display = AnomalyMapDisplay.from_estimator(chosen, data.test[worst])
display.figure_.savefig(output / "deep_one_class_maps.png", dpi=110)
