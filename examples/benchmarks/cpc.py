"""CPC on ELPV: the effect of training, directions and negatives, and the cost of training.

    pip install ".[benchmark]"
    python examples/benchmarks/cpc.py elpv --backbones resnet18 resnet50 densenet --seeds 0 1 2
    python examples/benchmarks/cpc.py elpv --share --backbones resnet18 --seeds 0
    python examples/benchmarks/cpc.py pretrained --seeds 0 1 2
    python examples/benchmarks/cpc.py directions --seeds 0
    python examples/benchmarks/cpc.py negatives --seeds 0 1 2
    python examples/benchmarks/cpc.py throughput

ELPV: 400 good cells to fit on, 188 good and 313 defective ones to test, 128 px, patches of 32 px
every 16 px. ``elpv``: encoders trained from random weights, and the same initial weights untrained.
``pretrained``: a frozen network as the encoder. ``directions``: all four together, and each alone.
``negatives``: one training, scored with 16 and with 512 stored vectors, drawn three times each.
``throughput``: patches per second in training, against a loop that cuts and encodes patch by patch.
"""

import argparse
import time
from dataclasses import replace
from unittest import mock

import numpy as np
import torch
from common import row
from torch import nn
from torch.nn import functional as F

from anomalib_lite import CPC
from anomalib_lite.data import ImageStream, load_elpv
from anomalib_lite.methods.cpc import DIRECTIONS, ENCODERS
from anomalib_lite.metrics import image_auroc
from anomalib_lite.nn import train

ON_ELPV = {
    "image_size": 128, "patch_size": 32, "patch_stride": 16, "width": 16, "embedding_dim": 256,
    "learning_rate": 0.001, "schedule": "cosine", "epochs": 4, "n_scoring_negatives": 512,
}  # fmt: skip
PRETRAINED = {"backbone": "efficientnet_lite0", "normalize": True, "temperature": 0.1, "epochs": 20}


def evaluate(data, **params):
    """(fitted detector, image AUROC, seconds of fit)."""
    start = time.perf_counter()
    detector = CPC(**{**ON_ELPV, **params}).fit(data.train)
    seconds = time.perf_counter() - start
    return detector, auroc(detector, data), seconds


def auroc(detector, data):
    return float(image_auroc(data.test_labels == -1, detector.anomaly_score(data.test)))


def on_elpv(data, backbones, seeds, share):
    row("backbone", "seed", "trained", "untrained", "fit, s")
    row(*["---"] * 5)
    for backbone in backbones:
        for seed in seeds:
            how = {"backbone": backbone, "random_state": seed, "share_encoder": share}
            _, trained, seconds = evaluate(data, **how)
            _, untrained, _ = evaluate(data, epochs=0, **how)
            row(backbone, seed, trained, untrained, f"{seconds:.0f}")


def pretrained(data, seeds):
    row("seed", "trained predictions", "untrained", "fit, s")
    row(*["---"] * 4)
    for seed in seeds:
        _, trained, seconds = evaluate(data, **PRETRAINED, random_state=seed)
        _, untrained, _ = evaluate(data, **{**PRETRAINED, "epochs": 0}, random_state=seed)
        row(seed, trained, untrained, f"{seconds:.0f}")


def directions(data, seeds):
    row("seed", "four", "mean of each alone", *DIRECTIONS)
    row(*["---"] * 7)
    for seed in seeds:
        detector, four, _ = evaluate(data, random_state=seed)
        scoring, encoders, stored = detector._scoring_, detector.encoders_, detector.negatives_
        single = []
        for direction, encoder, vectors in zip(DIRECTIONS, encoders, stored, strict=True):
            detector._scoring_ = replace(scoring, directions=(direction,))
            detector.encoders_, detector.negatives_ = [encoder], [vectors]
            single.append(auroc(detector, data))
        row(seed, four, float(np.mean(single)), *single)


def negatives(data, seeds):
    row("seed", "stored", "AUROC of three draws", "mean", "range")
    row(*["---"] * 5)
    for seed in seeds:
        detector, *_ = evaluate(data, random_state=seed, n_scoring_negatives=2048)
        stored = detector.negatives_
        for n in (16, 512):
            found = []
            for draw in range(3):
                some = slice(draw * n, (draw + 1) * n)  # their order is random
                detector.negatives_ = [vectors[some] for vectors in stored]
                found.append(auroc(detector, data))
            shown = ", ".join(f"{one:.3f}" for one in found)
            row(seed, n, shown, float(np.mean(found)), float(np.ptp(found)))


# -- throughput -----------------------------------------------------------------------------------


def throughput(data):
    """One direction, one epoch of 96 images: CPC, encoding alone, and patch by patch."""
    images, spent = data.train[:120], []

    def timed(*arguments, **options):
        start = time.perf_counter()
        history = train(*arguments, **options)
        spent.append(time.perf_counter() - start)
        return history

    with mock.patch("anomalib_lite.methods.cpc.detector.train", timed):
        detector = CPC(**{**ON_ELPV, "directions": 1, "epochs": 1, "random_state": 0}).fit(images)
    (ours,) = spent
    batch = detector.input_.batch(list(ImageStream(images[:96])))
    batch = detector._scoring_.prepare(batch)
    n_patches = len(batch) * 49
    row("", "patches/s")
    row("---", "---")
    row("CPC", f"{n_patches / ours:.0f}")
    row("encoder alone, forward and backward", f"{n_patches / encoding(detector, batch):.0f}")
    start = time.perf_counter()
    patch_by_patch(detector, batch)
    plain = time.perf_counter() - start
    row("patch by patch", f"{n_patches / plain:.0f}")
    print(f"\nratio {plain / ours:.1f}")


def encoding(detector, images):
    encoder = detector.encoders_[0].train().requires_grad_(True)
    start = time.perf_counter()
    for batch in images.split(16):
        detector._embed_grid(encoder, batch).sum().backward()
    return time.perf_counter() - start


def patch_by_patch(detector, images):
    """The paper read literally: each patch cut and encoded alone, each prediction its own loss."""
    encoder = detector.encoders_[0].train().requires_grad_(True)
    dim, n_steps = ON_ELPV["embedding_dim"], 5
    layers = nn.ModuleList([nn.Linear(dim, dim, bias=False) for _ in range(n_steps)])
    modules = nn.ModuleList([encoder, layers])
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.001)
    for batch in images.split(16):
        grids = [
            [
                [encoder(image[None, :, y : y + 32, x : x + 32])[0] for x in range(0, 97, 16)]
                for y in range(0, 97, 16)
            ]
            for image in batch
        ]
        everything = [vector for grid in grids for line in grid for vector in line]
        losses = []
        for grid in grids:
            for i in range(7):
                for j in range(7):
                    for k in range(1, min(n_steps, 6 - i) + 1):
                        predicted, true = layers[k - 1](grid[i][j]), grid[i + k][j]
                        drawn = torch.randint(len(everything), (16,)).tolist()
                        others = [everything[m] for m in drawn if everything[m] is not true]
                        logits = torch.stack([predicted @ one for one in (true, *others)])
                        first = torch.zeros(1, dtype=torch.long)
                        losses.append(F.cross_entropy(logits[None], first))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(losses).mean().backward()
        optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "what", choices=("elpv", "pretrained", "directions", "negatives", "throughput")
    )
    parser.add_argument("--backbones", nargs="+", choices=ENCODERS, default=ENCODERS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--share", action="store_true", help="one encoder for four directions")
    chosen = parser.parse_args()
    data = load_elpv()
    if chosen.what == "elpv":
        on_elpv(data, chosen.backbones, chosen.seeds, chosen.share)
    elif chosen.what == "throughput":
        throughput(data)
    else:
        run = {"pretrained": pretrained, "directions": directions, "negatives": negatives}
        run[chosen.what](data, chosen.seeds)


if __name__ == "__main__":
    main()
