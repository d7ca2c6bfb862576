"""Variety of fakes and correctness of their windows, with and without the entropy term.

    python examples/benchmarks/mlsad_fakes.py --seeds 0 1

A toy whose windows are known: nine cells of 4 px, each with or without a bright 2 x 2 dot, in six
arrangements. It shows ten of the 16 patterns of 2 x 2 bright and dark pixels: no diagonals and no
corners. Any other image without those, such as another arrangement, is just as normal through every
window. ``windows``: share of windows, values rounded to 0 or 1, that show one of the ten;
``whole``: share of images all of whose windows do; ``images``: number of different images among
1000; ``whole images``: the same among the whole ones.
"""

import argparse
import time

import torch

from anomalib_lite import EntropyPatchGAN, PatchResampler
from anomalib_lite.fakes import shuffled_pixels

SETTINGS = {
    "image_size": 12,
    "position": False,
    "width": 8,
    "learning_rate": 1e-3,
    "discriminator_learning_rate": 4e-3,
    "critic_learning_rate": 4e-3,
    "schedule": "cosine",
}


def cells(n, generator, n_arrangements=6):
    """Images (n, 12, 12) of ``n_arrangements`` random arrangements."""
    arrangements = torch.randint(2, (n_arrangements, 3, 3), generator=generator).float()
    drawn = arrangements[torch.randint(n_arrangements, (n,), generator=generator)]
    dot = torch.zeros(4, 4)
    dot[1:3, 1:3] = 1
    return torch.einsum("nij,kl->nikjl", drawn, dot).reshape(n, 12, 12)


def windows(images):
    """Pattern, one of 16, that each 2 x 2 window shows: (n, places)."""
    seen = torch.as_tensor(images).round().unfold(1, 2, 1).unfold(2, 2, 1).flatten(3).flatten(1, 2)
    return seen.long() @ torch.tensor([1, 2, 4, 8])


def judge(fakes, images):
    """(share of windows, share of whole images, different images, different whole images)"""
    known = windows(images).unique()
    good = torch.isin(windows(fakes), known)
    fakes = torch.as_tensor(fakes).round().flatten(1)
    whole = good.all(1)
    counts = (len(fakes[keep].unique(dim=0)) for keep in (slice(None), whole))
    return float(good.float().mean()), float(whole.float().mean()), *counts


def sources(seed, steps):
    """(name, estimator of fakes)"""
    for weight in (0.0, 1.0):
        yield (
            f"GAN, entropy weight {weight:g}",
            EntropyPatchGAN(
                2,
                entropy_weight=weight,
                train_steps=steps,
                random_state=seed,
                **SETTINGS,
            ),
        )
    yield "resampler", PatchResampler(2, image_size=12)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=600)
    asked = parser.parse_args()
    print("| fakes | seed | windows | whole | images | whole images | CPU, s |")
    print("|---|---|---|---|---|---|---|")
    for seed in asked.seeds:
        images = cells(400, torch.Generator().manual_seed(seed))
        shuffled = shuffled_pixels(images[:, None], torch.Generator().manual_seed(seed))[:, 0]
        for name, fakes in (("data", images), ("level 1", shuffled)):
            show(name, seed, judge(fakes, images), 0.0)
        for name, source in sources(seed, asked.steps):
            start = time.process_time()
            source.fit(images.numpy())
            taken = time.process_time() - start
            show(name, seed, judge(source.sample(1000, random_state=seed), images), taken)


def show(name, seed, found, taken):
    share, whole, n, n_whole = found
    print(
        f"| {name} | {seed} | {share:.3f} | {whole:.3f} | {n} | {n_whole} | {taken:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
