"""SuperSimpleNet on the data of ``labeled_defects.py``: a trial of what is not in the library.

    python examples/benchmarks/super_simple_net.py --device cuda       # up to minutes a training
    python examples/benchmarks/super_simple_net.py --device cpu --data brick --epochs 20

The network, its losses and its training follow the authors' later recipe [1]_, on the features that
PatchCore uses (strides 8 and 16, standardized by good images): 300 epochs of batches of 32, half of
them defects where there are labels, each in four views, mirrored and turned; every batch is
doubled, and noise added to its features where a Perlin mask says so. Noise is given in standard
deviations of the features; ``--upscale 2`` doubles the grid, as the authors do. Unlike theirs, good
images are drawn at random instead of in turn, and all pixels of a mask weigh the same.

ELPV: splits, draws and figures of ``labeled_defects.py``: AUROC, average precision and recall at
1 % false alarms, by the classification logit where there are labels, else by the map's maximum.

brick, grass, gravel: defects planted by ``planted_texture``, half of them to learn from, with masks
or without; image AUROC, pixel AUROC and AUPRO beside those of PatchCore and LabeledPatchCore.

.. [1] B. Rolih, M. Fučka, D. Skočaj, "No Label Left Behind: A Unified Surface Defect Detection
   Model for all Supervision Regimes", 2025, https://arxiv.org/abs/2508.19060
"""

import argparse
import time
from functools import partial

import numpy as np
import torch
from labeled_defects import CELLS, figures
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from anomalib_lite import DeepFeatures, LabeledPatchCore
from anomalib_lite.data import TEXTURES, planted_texture
from anomalib_lite.metrics import aupro, image_auroc, pixel_auroc

COUNTS = 0, 5, 20, 50, 150
BATCH = 32
VIEWS = tuple(partial(np.flip, axis=axes) for axes in ((), (0,), (1,), (0, 1)))


class Heads(nn.Module):
    """The trained part: an adaptor, a head that segments and one that classifies."""

    def __init__(self, n_channels, width=1024, n_classifying=128):
        super().__init__()
        self.adaptor = nn.Conv2d(n_channels, n_channels, 1)
        self.segment = nn.Sequential(
            nn.Conv2d(n_channels, width, 1),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 1, 1, bias=False),
        )
        self.classify = nn.Sequential(
            nn.Conv2d(n_channels + 1, n_classifying, 5, padding=2),
            nn.BatchNorm2d(n_classifying),
            nn.ReLU(),
        )
        self.logit = nn.Linear(2 * n_classifying + 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_normal_(module.weight)

    def forward(self, features, noise=0.0, *, has_labels=True):
        """Map (B, h, w) and logit (B,)."""
        heat = self.segment(self.adaptor(features) + noise)
        seen = heat if has_labels else heat.detach()
        found = self.classify(torch.cat([features + noise, seen], 1))
        parts = [pooled for x in (found, seen) for pooled in (x.amax((2, 3)), x.mean((2, 3)))]
        return heat[:, 0], self.logit(torch.cat(parts, 1))[:, 0]


def perlin_masks(n, side, threshold, device):
    """(n, side, side) of 0 and 1: where Perlin noise is above a threshold; half of them empty."""
    fine = 1 << (side - 1).bit_length()
    cells = 2 ** torch.randint(0, 6, (2, n, 1), device=device)
    angles = 2 * torch.pi * torch.rand(n, 33, 33, device=device)
    at = torch.arange(fine, device=device) / fine * cells  # (2, n, fine)
    corner = at.long()
    (y, x), (row, column) = at - corner, corner
    y, x, row, column = y[:, :, None], x[:, None], row[:, :, None], column[:, None]
    each = torch.arange(n, device=device)[:, None, None]

    def slope(down, right):
        angle = angles[each, row + down, column + right]
        return angle.cos() * (x - right) + angle.sin() * (y - down)

    def fade(t):
        return t**3 * (t * (6 * t - 15) + 10)

    upper, lower = (torch.lerp(slope(down, 0), slope(down, 1), fade(x)) for down in (0, 1))
    noise = 2**0.5 * torch.lerp(upper, lower, fade(y))
    noise = F.interpolate(noise[:, None], (side, side), mode="bilinear")[:, 0]
    is_kept = torch.rand(n, 1, 1, device=device) > 0.5
    return ((noise > threshold) & is_kept).float()


def focal(logits, target, weight):
    """Weighted mean of the focal loss, gamma = 4."""
    misfit = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return mean(misfit * (1 - torch.exp(-misfit)) ** 4, weight)


def mean(values, weight):
    return (values * weight).sum() / weight.sum().clamp(min=1)


def loss_of(heat, logit, mask, is_bad, is_known):
    """Of a batch: pixels' losses where they are known, and the classification's."""
    known = is_known[:, None, None].expand_as(mask)
    truncated = mean((heat + 0.5).clamp(min=0), known * (1 - mask))
    truncated = truncated + mean((0.5 - heat).clamp(min=0), known * mask)
    return truncated + focal(heat, mask, known) + focal(logit, is_bad, torch.ones_like(is_bad))


def trained(good, bad, masks, *, noise, threshold, epochs, seed, upscale=1):
    """Heads trained on features of good images (n, C, h, w) and of views of defects (m, C, h, w).

    ``masks``: of those (m, h, w), or None where labels are of images alone. The whole step, random
    numbers included, is one CUDA graph on a GPU.
    """
    device, has_labels = good.device, len(bad) > 0
    torch.manual_seed(seed)
    heads = Heads(good.shape[1]).to(device, memory_format=torch.channels_last)
    rates = torch.tensor(1e-4, device=device), torch.tensor(2e-4, device=device)
    rest = [each for name, each in heads.named_parameters() if not name.startswith("adaptor")]
    groups = [
        {"params": [*heads.adaptor.parameters()], "lr": rates[0], "weight_decay": 0.01},
        {"params": rest, "lr": rates[1], "weight_decay": 1e-5},
    ]
    optimizer = torch.optim.AdamW(groups, capturable=device.type == "cuda")
    n_bad = BATCH // 2 if has_labels else 0
    is_defect = torch.arange(BATCH, device=device) >= BATCH - n_bad
    is_known = (~is_defect | (masks is not None)).float().repeat(2)
    side = good.shape[-1] * upscale

    def step():
        batch = good[torch.randint(0, len(good), (BATCH - n_bad,), device=device)]
        real = torch.zeros(BATCH, side, side, device=device)
        if has_labels:
            drawn = torch.randint(0, len(bad), (n_bad,), device=device)
            batch = torch.cat([batch, bad[drawn]])
            if masks is not None:
                real[BATCH - n_bad :] = resized(masks[drawn][:, None], side)[:, 0] >= 0.5
        batch, real = resized(batch, side).repeat(2, 1, 1, 1), real.repeat(2, 1, 1)
        fake = perlin_masks(2 * BATCH, side, threshold, device) * (1 - real)
        added = noise * fake[:, None] * torch.randn_like(batch)
        mask = (real + fake).clamp(max=1)
        is_bad = (is_defect.repeat(2) | fake.flatten(1).any(1)).float()
        heat, logit = heads(batch, added, has_labels=has_labels)
        loss = loss_of(heat, logit, mask, is_bad, is_known)
        optimizer.zero_grad()
        loss.backward()
        if has_labels:
            nn.utils.clip_grad_norm_(heads.parameters(), 1, foreach=True)
        optimizer.step()

    n_each_epoch = -(-(2 * len(bad) if has_labels else len(good)) // BATCH)
    n_steps = epochs * n_each_epoch
    run = captured(step) if device.type == "cuda" else step
    for i in range(n_steps):
        if i in (round(0.8 * n_steps), round(0.9 * n_steps)):
            for rate in rates:
                rate.mul_(0.4)
        run()
    return heads.eval()


def captured(step):
    """The step as a CUDA graph."""
    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def resized(batch, side):
    if batch.shape[-1] == side:
        return batch
    return F.interpolate(batch, (side, side), mode="bilinear", align_corners=True)


@torch.inference_mode()
def judged(heads, features, upscale=1):
    """Smoothed maps (n, h, w) and logits (n,) of features (n, C, h, w)."""
    side = features.shape[-1] * upscale
    heat, logits = zip(*(heads(resized(part, side)) for part in features.split(64)), strict=True)
    heat = F.avg_pool2d(torch.cat(heat)[:, None], 3, 1, 1)[:, 0]  # what a blur of 4 pixels does
    return heat.float().cpu().numpy(), torch.cat(logits).float().cpu().numpy()


def features_of(images, device):
    """(n, C, h, w) of images of one size."""
    found = DeepFeatures(pooling=None, device=device, dtype="float32").fit_transform(images)
    side = round(found.shape[1] ** 0.5)
    found = torch.from_numpy(found).mT.unflatten(2, (side, side)).to(device)
    return found.contiguous(memory_format=torch.channels_last)


def standardized(good, *others):
    """By each channel's mean and deviation in good images."""
    deviation, center = torch.std_mean(good, (0, 2, 3), keepdim=True)
    return [(each - center) / deviation for each in (good, *others)]


def views_of(images):
    return np.concatenate([[view(image) for view in VIEWS] for image in images])


class Cells:
    """Features of one kind of solar cells."""

    def __init__(self, data, device):
        self.is_bad = data.test_labels == -1
        views = features_of(views_of(data.test[self.is_bad]), device)
        found = standardized(features_of(data.train, device), features_of(data.test, device), views)
        self.train, self.test, self.views = found
        self.views = self.views.unflatten(0, (-1, len(VIEWS)))

    def scores(self, n, seed, *, noise, upscale=1, epochs=300, threshold=0.2):
        """Maxima of maps and logits of all test cells; places of the defects that are scored."""
        known, scored = halves(np.flatnonzero(self.is_bad), seed)
        bad = self.views[torch.from_numpy(known[:n] - np.flatnonzero(self.is_bad)[0])]
        settings = {"noise": noise, "threshold": threshold, "epochs": epochs, "seed": seed}
        heads = trained(self.train, bad.flatten(0, 1), None, upscale=upscale, **settings)
        heat, logits = judged(heads, self.test, upscale)
        return heat.max((1, 2)), logits, scored


def halves(bad, seed):
    """Defects to learn from and defects to find, as ``labeled_defects.py`` cuts them."""
    return np.split(np.random.default_rng(seed).permutation(bad), [len(bad) // 2])


def on_cells(name, data, chosen):
    cells, good = Cells(data, chosen.device), np.flatnonzero(data.test_labels == 1)
    for n in chosen.counts:
        for noise in chosen.noise:
            for upscale in chosen.upscale:
                found, start = [], time.perf_counter()
                for seed in chosen.seeds:
                    maxima, logits, scored = cells.scores(
                        n, seed, noise=noise, upscale=upscale, epochs=chosen.epochs
                    )
                    found.append(figures(logits if n else maxima, good, scored)[:3])
                words = " | ".join(f"{value:.3f}" for value in np.mean(found, 0))
                seconds = (time.perf_counter() - start) / len(chosen.seeds)
                print(
                    f"| {name} | {n} | {noise} | {upscale} | {words} | {seconds:.0f} |", flush=True
                )


def on_texture(name, chosen):
    """Labels of half of the planted defects: none, of images, with masks."""
    found = {}
    for seed in chosen.seeds:
        data = planted_texture(name, n_train=60, n_test=160, strength=0.5, random_state=seed)
        known, scored = halves(np.flatnonzero(data.test_labels == -1), seed)
        test = np.concatenate([np.flatnonzero(data.test_labels == 1), scored])
        y, masks, size = data.test_labels[test] == -1, data.test_masks[test], data.test.shape[1:]
        n_fit, defects = len(data.train), data.test[known]
        for subject, images in (("PatchCore", ()), ("LabeledPatchCore", defects)):
            labels = np.repeat([1, -1], [n_fit, len(images)])
            detector = LabeledPatchCore(device=chosen.device, random_state=seed)
            detector.fit([*data.train, *images], labels)
            seen = detector.inspect(data.test[test])
            each = found.setdefault(subject, [])
            each.append((image_auroc(y, -seen.scores), *by_pixels(masks, seen.maps)))
        good, views, images = standardized(
            *(
                features_of(x, chosen.device)
                for x in (data.train, views_of(defects), data.test[test])
            )
        )
        small = torch.from_numpy(views_of(data.test_masks[known])).float().to(chosen.device)
        small = F.max_pool2d(small, 7, 1, 3)  # so that thin scratches stay
        small = F.interpolate(small[:, None], good.shape[2:], mode="bilinear")[:, 0]
        for subject, bad, of_pixels, threshold in (
            ("no labels", views[:0], None, 0.2),
            (f"{len(known)} labels", views, None, 0.2),
            (f"{len(known)} masks", views, small, 0.6),
        ):
            for noise in chosen.noise:
                settings = {"noise": noise, "threshold": threshold, "epochs": chosen.epochs}
                heads = trained(good, bad, of_pixels, seed=seed, **settings)
                heat, logits = judged(heads, images)
                scores = logits if len(bad) else heat.max((1, 2))
                maps = F.interpolate(torch.from_numpy(heat)[:, None], size, mode="bilinear")[:, 0]
                maps = ndimage.gaussian_filter(maps.numpy(), (0, 4, 4))
                each = found.setdefault(f"{subject}, noise {noise}", [])
                each.append((image_auroc(y, scores), *by_pixels(masks, maps)))
    for subject, each in found.items():
        words = " | ".join(f"{value:.3f}" for value in np.mean(each, 0))
        print(f"| {name} | {subject} | {words} |", flush=True)


def by_pixels(masks, maps):
    return pixel_auroc(masks, maps), aupro(masks, maps)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = [*CELLS, *TEXTURES]
    parser.add_argument("--data", nargs="+", choices=names, default=names)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--noise", nargs="+", type=float, default=[0.2])
    parser.add_argument("--upscale", nargs="+", type=int, default=[1])
    parser.add_argument("--epochs", type=int, default=300)
    chosen = parser.parse_args()
    cells = [name for name in CELLS if name in chosen.data]
    if cells:
        print("| data | labels | noise | upscale | AUROC | AP | recall at 1 % | s |")
        print("|---" * 8 + "|")
    for name in cells:
        on_cells(name, CELLS[name](), chosen)
    textures = [name for name in TEXTURES if name in chosen.data]
    if textures:
        print("\n| data | labels | image AUROC | pixel AUROC | AUPRO |")
        print("|---" * 5 + "|")
    for name in textures:
        on_texture(name, chosen)


if __name__ == "__main__":
    main()
