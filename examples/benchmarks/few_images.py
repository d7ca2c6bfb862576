"""How well detectors rank defects that have seen a few normal images, and whose thresholds hold.

    python examples/benchmarks/few_images.py
    python examples/benchmarks/few_images.py --only PaDiM SubspaceAD --counts 2 8 --draws 3

ELPV, monocrystalline solar cells: a fit on some of 400 good ones, drawn anew for each draw and the
same for all detectors; then 150 other good ones and 150 defective ones are scored, always the same.
A line for each number of cells: mean and standard deviation of the draws' image AUROC; then the
false alarms among the 150 that the threshold claims in percent, 5 or, of n out-of-sample scores, at
least 100 / (n + 1), and what there were, mean and worst of the draws. "-" where a detector needs
more images, or gives no threshold.

The network sees each cell once; only views of cells, turned or mirrored, pass through it anew.
"""

import argparse
import warnings

import numpy as np
import torch
from torch import nn

from anomalib_lite import DeepOneClass, PaDiM, PatchCore, SubspaceAD
from anomalib_lite.backbones import Backbone
from anomalib_lite.data import ImageStream, load_elpv
from anomalib_lite.metrics import image_auroc
from anomalib_lite.notes import digest_of

RATE, N_EACH = 0.05, 150
DETECTORS = {
    "PatchCore": (PatchCore, {}),
    "PatchCore, flips": (PatchCore, {"reference_views": "flips"}),
    "PatchCore, rotations": (PatchCore, {"reference_views": "rotations"}),
    "SubspaceAD": (SubspaceAD, {}),
    "SubspaceAD, flips": (SubspaceAD, {"reference_views": "flips"}),
    "PaDiM": (PaDiM, {}),
    "DeepOneClass": (DeepOneClass, {}),
}


class Remembering(nn.Module):
    """The default network, which looks at some images once and remembers its maps of them."""

    def __init__(self, layers, images):
        super().__init__()
        self._network, self._known = Backbone(layers=layers), {}
        self.pretrained_cfg = self._network.module.pretrained_cfg
        for image in ImageStream(images):
            batch = self._network.input.batch([image])
            self._known[digest_of(batch[0])] = self._network(batch)

    def forward(self, batch):
        return [torch.cat(maps) for maps in zip(*map(self._maps, batch), strict=True)]

    def _maps(self, pixels):
        maps = self._known.get(digest_of(pixels))
        return self._network(pixels[None]) if maps is None else maps

    def __deepcopy__(self, memo):
        return self  # detectors share what it knows


def tested(data):
    """Cells to score, and which of them are defective."""
    rng = np.random.default_rng(0)
    kinds = [np.flatnonzero(data.test_labels == label) for label in (1, -1)]
    places = np.concatenate([rng.permutation(kind)[:N_EACH] for kind in kinds])
    return data.test[places], data.test_labels[places] == -1


def found(detector, n_images, seed, normal, cells, is_defective):
    """(AUROC, claimed rate, rate of false alarms) of a fit on some cells; NaN for none."""
    chosen = np.random.default_rng(seed).permutation(len(normal))[:n_images]
    try:
        detector.fit(normal[chosen])
    except ValueError as error:
        if "expected at least" not in str(error):
            raise
        return (np.nan,) * 3
    scores = detector.score_samples(cells)
    auroc = image_auroc(is_defective, -scores)
    n_calibrated = np.isfinite(detector.calibration_scores_).sum()
    if np.isnan(detector.offset_):
        return auroc, np.nan, np.nan
    claimed = max(RATE, 1 / (n_calibrated + 1))
    return auroc, claimed, (scores[~is_defective] < detector.offset_).mean()


def shown(value, digits):
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=[*DETECTORS])
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4, 8, 16, 50])
    parser.add_argument("--draws", type=int, default=10)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*threshold|.*false_alarm_rate|.*copies|.*copy")
    data = load_elpv()
    cells, is_defective = tested(data)
    networks = {}
    print("| detector | cells | AUROC | std | claimed % | false alarms % | worst % |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.only:
        method, settings = DETECTORS[name]
        layers = method().layers
        if layers not in networks:
            networks[layers] = Remembering(layers, [*data.train, *cells])
        for n_images in arguments.counts:
            rows = []
            for seed in range(arguments.draws):
                detector = method(
                    networks[layers],
                    layers=None,
                    false_alarm_rate=RATE,
                    n_jobs=1,
                    random_state=seed,
                    **settings,
                )
                rows.append(found(detector, n_images, seed, data.train, cells, is_defective))
            auroc, claimed, alarms = np.array(rows).T
            figures = (
                *(shown(value, 4) for value in (auroc.mean(), auroc.std(ddof=1))),
                *(shown(100 * x, 1) for x in (claimed.mean(), alarms.mean(), alarms.max())),
            )
            print(f"| {name} | {n_images} | {' | '.join(figures)} |", flush=True)


if __name__ == "__main__":
    main()
