"""Find defective solar cells after fitting on good ones only.

Fits PatchCore on electroluminescence photographs of good monocrystalline cells, scores unseen
cells, prints accuracy and time, and plots the six most anomalous cells with their heatmaps to
``examples/output/quickstart.png``.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from anomalib_lite import PatchCore
from anomalib_lite.data import load_elpv
from anomalib_lite.metrics import image_auroc
from anomalib_lite.report import AnomalyMapDisplay

cells = load_elpv()
train = cells.train[:200]

start = time.perf_counter()
detector = PatchCore(coreset=0.1, random_state=0).fit(train)
fitted = time.perf_counter()
scores = detector.score_samples(cells.test)
scored = time.perf_counter()

good, defective = cells.test_labels == 1, cells.test_labels == -1
flagged = scores < detector.offset_
print(f"fitted on {len(train)} good cells in {fitted - start:.1f} s")
ms = 1e3 * (scored - fitted) / len(cells.test)
print(f"scored {len(cells.test)} unseen cells at {ms:.0f} ms each")
print(f"image AUROC {image_auroc(defective, -scores):.3f}")
print(
    f"called anomalous: {flagged[defective].mean():.0%} of {defective.sum()} defective, "
    f"{flagged[good].mean():.1%} of {good.sum()} good cells"
)

worst = scores.argsort()[:6]
display = AnomalyMapDisplay.from_estimator(
    detector,
    cells.test[worst],
    names=["defective" if defective[i] else "good" for i in worst],
)
picture = Path(__file__).parent / "output" / "quickstart.png"
picture.parent.mkdir(exist_ok=True)
display.figure_.savefig(picture, dpi=110)
print(f"heatmaps of the six most anomalous cells: {picture}")
