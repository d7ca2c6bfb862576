"""
Classic outlier detectors on deep features
==========================================

``DeepFeatures`` turns images into a table, in which any outlier detector of scikit-learn works.
This example compares four of them on solar cells, with one pass through the network for all.
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from anomalib_lite import DeepFeatures
from anomalib_lite.data import load_elpv

# %%
# Fit on 400 good cells; score 188 good and 313 defective ones.
data = load_elpv()
heads = {
    "one-class SVM": make_pipeline(StandardScaler(), OneClassSVM(nu=0.05, gamma="auto")),
    "isolation forest": IsolationForest(random_state=0),
    "local outlier factor": make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)),
    "Gaussian after PCA": make_pipeline(StandardScaler(), PCA(0.95), GaussianMixture(1)),
}

# %%
# Compute features once and fit every head on them.
for pooling in ("mean", "max"):
    features = DeepFeatures(pooling=pooling)
    train, test = features.fit_transform(data.train), features.transform(data.test)
    for name, head in heads.items():
        auroc = roc_auc_score(data.test_labels, head.fit(train).score_samples(test))
        print(f"{pooling:4} pooling, {name:22} image AUROC {auroc:.3f}")

# %%
# Or put both into one pipeline, from photographs to labels.
pipeline = make_pipeline(DeepFeatures(), StandardScaler(), OneClassSVM(nu=0.05, gamma="auto"))
labels = pipeline.fit(data.train).predict(data.test)
good = data.test_labels == 1
print(f"called anomalous: {np.mean(labels[good] == -1):.1%} of the good cells, ", end="")
print(f"{np.mean(labels[~good] == -1):.1%} of the defective ones")
