"""
ROC and PRO curves
==================

Two detectors on photographed bricks with planted defects: which images they tell apart, and how
much of each defect their maps show at how many false pixels.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from sklearn.metrics import RocCurveDisplay

from anomalib_lite import PaDiM, PatchCore
from anomalib_lite.data import planted_texture
from anomalib_lite.report import ProCurveDisplay

# %%
# 60 good crops to learn from; 25 good ones and 25 with a defect to score.
data = planted_texture("brick", random_state=0)
is_defective = data.test_labels == -1

# %%
# The ROC curve of images is scikit-learn's, the PRO curve of maps is not in scikit-learn.
figure, (of_images, of_maps) = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
for method in (PatchCore, PaDiM):
    detector = method(false_alarm_rate=0.02, random_state=0)
    seen = detector.fit(data.train).inspect(data.test)
    name = method.__name__
    RocCurveDisplay.from_predictions(is_defective, -seen.scores, name=name, ax=of_images)
    display = ProCurveDisplay.from_predictions(data.test_masks, seen.maps, name=name, ax=of_maps)
    print(f"{name}: AUPRO {display.area:.3f}")
of_images.set_title("images")
of_maps.set_title("maps")

# %%
# Save the figure.
out = Path(__file__).parent / "output"
out.mkdir(exist_ok=True)
figure.savefig(out / "curves.png", dpi=100)
