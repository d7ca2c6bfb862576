"""
DetectorEnsemble on simulated textile: local defects and another weave
======================================================================

PatchCore finds a disturbance of some ten pixels and does not see that the weave is another one
everywhere; a Gaussian of mean features does the reverse. Their ensemble finds both, with one
threshold.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from anomalib_lite import DetectorEnsemble
from anomalib_lite.data import load_textile
from anomalib_lite.metrics import image_auroc

# %%
# 100 normal images to learn from; 60 normal ones and 60 of each kind of defect to look at.
data = load_textile(n_train=100, n_test=60)
kinds = {
    kind: np.flatnonzero(data.test_defects == kind)[:60] for kind in ("good", "local", "global")
}
test = [data.test[i] for places in kinds.values() for i in places]
kind = np.repeat([*kinds], 60)

# %%
# What the members say, in standard deviations above normal images, and their combination.
detector = DetectorEnsemble.local_and_global(random_state=0).fit(data.train)
found = detector.member_scores(test)
for name, scores in [*zip(detector.names_, found.T, strict=True), ("both", found.max(1))]:
    auroc = {
        each: image_auroc(kind[chosen] == each, scores[chosen])
        for each in ("local", "global")
        for chosen in [(kind == "good") | (kind == each)]
    }
    print(f"{name}: AUROC {auroc['local']:.3f} of local, {auroc['global']:.3f} of global defects")

# %%
# Whatever is above or to the right of the threshold is called anomalous.
figure, axes = plt.subplots(figsize=(6, 5), layout="constrained")
for each, marker in zip(kinds, "os^", strict=True):
    local, whole = found[kind == each].T
    axes.scatter(local, whole, marker=marker, alpha=0.6, label=each)
threshold = -detector.offset_
axes.plot(
    [axes.get_xlim()[0], threshold, threshold], [threshold, threshold, axes.get_ylim()[0]], "k:"
)
axes.set(xlabel="PatchCore, patches", ylabel="DeepOneClass, whole image", yscale="symlog")
axes.legend(title="standard deviations above normal", loc="lower right")
output = Path(__file__).parent / "output"
output.mkdir(exist_ok=True)
figure.savefig(output / "ensemble_textile.png", dpi=110)
