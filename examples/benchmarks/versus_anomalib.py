"""PatchCore and PaDiM compared with anomalib's: time, memory, accuracy, in one run.

    pip install ".[versus]"
    python examples/benchmarks/versus_anomalib.py

Same weights (EfficientNet-Lite0, strides 8 and 16), same solar cells (ELPV, 200 to fit on, 224 px),
one process, the two alternating; medians of repeated runs, smallest and largest in brackets.
anomalib's torch model is called directly, on tensors that are ready for the network; this library
gets the photographs, and also checks, resizes and normalizes them. anomalib computes with the
threads inside operations that PyTorch takes by default, this library with as many workers of one
thread each. Each of anomalib's coreset picks costs the same, so its coreset of 10 % is timed for
some picks of the full set and extrapolated; ``--full-coreset`` runs all of them. Memory and import
times are each taken in a fresh process.

glibc returns large freed tensors to the system at once and must clear them when they are needed
again, which slows down code that allocates much. What is timed is therefore printed twice: with
malloc as it comes, and, from a process of its own, with one that keeps them, for both libraries.
``--default-malloc`` and ``--tuned-malloc`` print one of the two.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
import warnings
from importlib import metadata

import numpy as np
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from anomalib_lite import PaDiM, PatchCore
from anomalib_lite.backbones import grid_rows, patch_embedding
from anomalib_lite.backbones.loading import BUNDLED
from anomalib_lite.backbones.loading import create_network as _create
from anomalib_lite.contexts import plain
from anomalib_lite.data import ImageStream, load_elpv
from anomalib_lite.search import NearestRows, greedy_coreset
from anomalib_lite.workers import count_workers, map_on

TUNED = {
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TOP_PAD_": "268435456",
}
N_PICKS = 200  # of anomalib's coreset, timed to extrapolate from


def load_images():
    """200 good cells to fit on; 100 good and 100 defective ones, alternating, to score."""
    data = load_elpv()
    good, bad = (np.flatnonzero(data.test_labels == label)[:100] for label in (1, -1))
    order = np.stack([good, bad], axis=1).ravel()
    return data.train[:200], data.test[order], data.test_labels[order] == -1


def make_theirs():
    """anomalib's model with the bundled weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    model = PatchcoreModel(
        backbone="tf_efficientnet_lite0", layers=["blocks.2", "blocks.4"], pre_trained=False
    )
    return take_bundled_weights(model)


def take_bundled_weights(model):
    network = model.feature_extractor.feature_extractor
    weights = _create(BUNDLED, "pretrained", None, None).state_dict()
    network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return model.eval()


@torch.no_grad()
def their_rows(model, batch):
    features = model.feature_extractor(batch)
    features = {layer: model.feature_pooler(grid) for layer, grid in features.items()}
    return model.reshape_embedding(model.generate_embedding(features))


def their_coreset(rows, share, n_picks=None):
    """Indices of anomalib's coreset, or of its first ``n_picks``."""
    from anomalib.models.components.sampling.k_center_greedy import KCenterGreedy

    sampler = KCenterGreedy(rows, share)
    sampler.coreset_size = n_picks or sampler.coreset_size
    return sampler.select_coreset_idxs()


def network_input(detector, images):
    """Input of both networks, (B, 3, h, w)."""
    return detector.input_.batch(list(ImageStream(images)))


@plain
def our_rows(detector, batch):
    """Patch rows (B, P, D) as PatchCore makes them: image by image, by workers."""

    def rows(image):
        maps = detector.backbone_(image)
        return grid_rows(patch_embedding(maps, aggregation=detector.aggregation))

    return torch.cat(map_on(batch.device, rows, batch.split(1)))


def take_turns(*actions, repeats=7):
    """Seconds of each action, one list each, the actions alternating."""
    times = [[] for _ in actions]
    for _ in range(repeats):
        for action, seconds in zip(actions, times, strict=True):
            begin = time.perf_counter()
            action()
            seconds.append(time.perf_counter() - begin)
    return times


def header(title, *columns):
    print(f"\n| {title} | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")


def row(what, *times, scale=1.0):
    """Print medians and spreads, and how many times longer the second took than the first."""
    cells = [
        f"{scale * statistics.median(t):.3g} ({scale * min(t):.3g}-{scale * max(t):.3g})"
        for t in times
    ]
    ratio = statistics.median(times[1]) / statistics.median(times[0])
    print(f"| {what} | " + " | ".join([*cells, f"{ratio:.1f}"]) + " |", flush=True)


# -- what is measured -----------------------------------------------------------------------------


def features(ours, theirs, test):
    header("features, ms an image", "anomalib_lite", "anomalib", "ratio")
    for n in (1, 8, 32):
        batch = network_input(ours, test[:n])
        times = take_turns(
            lambda batch=batch: our_rows(ours, batch),
            lambda batch=batch: their_rows(theirs, batch),
        )
        row(f"batch {n}", *times, scale=1e3 / n)


def coreset(rows, full_coreset):
    """Print the table; returns anomalib's bank of 1 % and its seconds for 10 %."""
    header(f"coreset of {len(rows):,} x {rows.shape[1]}, s", "anomalib_lite", "anomalib", "ratio")
    begin, few, many = (
        take_turns(lambda n=n: their_coreset(rows, 0.1, n), repeats=1)[0][0]
        for n in (2, 2, N_PICKS + 2)
    )
    del begin  # warms up
    n_tenth, n_hundredth = len(rows) // 10, len(rows) // 100
    tenth = [few + (many - few) / N_PICKS * n_tenth]
    if full_coreset:
        print(f"| extrapolated for 10 % | | {tenth[0]:.0f} | |")
        (tenth,) = take_turns(lambda: their_coreset(rows, 0.1), repeats=1)
    found = []
    (hundredth,) = take_turns(lambda: found.append(their_coreset(rows, 0.01)), repeats=1)
    for share, n_keep, seconds in (("10 %", n_tenth, tenth), ("1 %", n_hundredth, hundredth)):
        (mine,) = take_turns(lambda n_keep=n_keep: greedy_coreset(rows, n_keep), repeats=3)
        row(share, mine, seconds)
    return rows[found[0]], tenth[0]


def whole_fit(theirs, train, batches, coreset_seconds):
    header("fit in all, 200 images, 10 %, s", "anomalib_lite", "anomalib", "ratio")
    mine, extraction = take_turns(
        lambda: PatchCore(random_state=0).fit(train),
        lambda: [their_rows(theirs, batch) for batch in batches],
        repeats=3,
    )
    row("features, coreset, threshold", mine, [t + coreset_seconds for t in extraction])


def scoring(ours, theirs, train, test, title):
    by_onnx = clone(ours).set_params(engine="onnxruntime").fit(train)
    header(f"score, {title}, ms an image", "anomalib_lite", "anomalib", "ratio")
    for n in (1, 8, 32):
        # one image at a time is timed over several images: they differ
        parts = [test[i : i + n] for i in range(0, max(n, 8), n)]
        batches = [network_input(ours, part) for part in parts]
        scores, maps, onnx, whole = take_turns(
            lambda parts=parts: [ours.score_samples(part) for part in parts],
            lambda parts=parts: [ours.inspect(part) for part in parts],
            lambda parts=parts: [by_onnx.score_samples(part) for part in parts],
            lambda batches=batches: [theirs(batch) for batch in batches],
        )
        scale = 1e3 / (n * len(parts))
        row(f"batch {n}, scores", scores, whole, scale=scale)
        row(f"batch {n}, scores and maps", maps, whole, scale=scale)
        row(f"batch {n}, scores, ONNX Runtime", onnx, whole, scale=scale)
    if isinstance(ours, PaDiM):  # the two scores are the largest values of different maps
        return
    batch = network_input(ours, test[:32])
    gap = np.abs(theirs(batch).pred_score.numpy() - ours.anomaly_score(test[:32])).max()
    print(f"\nWith one bank the scores of 32 images differ by at most {gap:.1e}.")


def accuracy(ours, theirs, bank, test, labels):
    theirs.memory_bank = bank
    scores = [theirs(network_input(ours, part)).pred_score for part in np.split(test, 10)]
    print(
        f"\nImage AUROC, coreset 1 %, each its own: "
        f"anomalib_lite {roc_auc_score(labels, ours.anomaly_score(test)):.4f}, "
        f"anomalib {roc_auc_score(labels, torch.cat(scores)):.4f}"
    )


def search(bank, queries, title, theirs):
    """Nearest rows alone, by everything that finds them exactly."""
    import faiss

    index, flat = NearestRows.from_rows(bank, queries[-1]), faiss.IndexFlatL2(bank.shape[1])
    flat.add(bank.numpy())
    brute = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(bank.numpy())
    theirs.memory_bank = bank
    products = torch.empty(len(queries[0]), len(bank))
    names = ("anomalib_lite", "one matrix product", "anomalib", "faiss-cpu flat", "scikit-learn")
    queries = queries[:-1]
    times = take_turns(
        lambda: [index.query(rows) for rows in queries],
        lambda: [torch.mm(rows, bank.T, out=products) for rows in queries],
        lambda: [theirs.nearest_neighbors(rows, 1) for rows in queries],
        lambda: [flat.search(rows.numpy(), 1) for rows in queries],
        lambda: [brute.kneighbors(rows.numpy()) for rows in queries],
    )
    header(f"search of {len(bank):,} x {bank.shape[1]}, {title}", "ms an image", "of ours")
    for name, seconds in zip(names, times, strict=True):
        middle = statistics.median(seconds)
        print(
            f"| {name} | {1e3 * middle / len(queries):.3g} "
            f"({1e3 * min(seconds) / len(queries):.3g}-{1e3 * max(seconds) / len(queries):.3g}) "
            f"| {middle / statistics.median(times[0]):.2f} |",
            flush=True,
        )


def wide_rows(images, **how):
    """Rows (n, P, D) of images from a wider network or aggregation."""
    detector = PatchCore(coreset=10, random_state=0, **how).fit(images[:2])
    return our_rows(detector, network_input(detector, images))


def searches(ours, theirs, train, test):
    queries = list(our_rows(ours, network_input(ours, test[:9])))
    search(ours.memory_bank_.rows, queries, "coreset 10 %", theirs)
    search(ours.memory_bank_.rows[:1568], queries, "its first tenth", theirs)
    for title, how in (
        ("the authors' aggregation", {"aggregation": "official"}),
        ("WideResNet50, random weights", {"backbone": "wide_resnet50_2", "weights": "random"}),
    ):
        rows = wide_rows(np.concatenate([train[:60], test[:9]]), **how)
        normal = rows[:60].flatten(0, 1)
        draw = torch.randperm(len(normal), generator=torch.Generator().manual_seed(0))
        search(normal[draw[:15_680]], list(rows[60:]), f"{title}, rows drawn", theirs)
        del rows, normal


def padim(ours, train, test, labels):
    """PaDiM of both, with the same 100 of the channels of strides 4, 8 and 16."""
    from anomalib.models.image.padim.torch_model import PadimModel

    layers = ["blocks.1", "blocks.2", "blocks.4"]
    theirs = PadimModel("tf_efficientnet_lite0", layers, pre_trained=False, n_features=100)
    take_bundled_weights(theirs)
    batches = network_input(ours, train).split(32)
    mine = PaDiM(random_state=0).fit(train)
    theirs.idx = mine.channels_

    def fit_theirs():
        theirs.train()
        theirs.feature_extractor.eval()
        for batch in batches:
            theirs(batch)
        theirs.fit()
        theirs.eval()

    header("PaDiM, fit on 200 images, s", "anomalib_lite", "anomalib", "ratio")
    times = take_turns(lambda: PaDiM(random_state=0).fit(train), fit_theirs, repeats=3)
    row("features, Gaussians, threshold", *times)
    scoring(mine, theirs, train, test, "PaDiM")
    scores = [theirs(network_input(ours, part)).pred_score for part in np.split(test, 10)]
    print(
        "\nImage AUROC of PaDiM: "
        f"anomalib_lite {roc_auc_score(labels, mine.anomaly_score(test)):.4f}, "
        f"anomalib {roc_auc_score(labels, torch.cat(scores)):.4f}"
    )


MEMORY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import versus_anomalib as versus
def peak():  # getrusage would count what the parent process had
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1000
train, test, _ = versus.load_images()
if sys.argv[2] == "ours":
    versus.PatchCore(random_state=0).fit(train).inspect(test[:32])
else:
    ours, theirs = versus.PatchCore(coreset=10, random_state=0).fit(train[:2]), versus.make_theirs()
    batches = versus.network_input(ours, train).split(32)
    rows = versus.torch.vstack([versus.their_rows(theirs, batch) for batch in batches])
    theirs.memory_bank = rows[versus.their_coreset(rows, 0.1, 20)].repeat(784, 1)
    theirs(versus.network_input(ours, test[:32]))
print(peak())
"""


def fresh(code, *arguments):
    """The last number that code prints in a fresh process."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory():
    here = os.path.dirname(os.path.abspath(__file__))
    mine, other = (fresh(MEMORY, here, who) for who in ("ours", "theirs"))
    header("memory", "anomalib_lite", "anomalib", "ratio")
    print(f"| peak of fit and score, MB | {mine:.0f} | {other:.0f} | {other / mine:.2f} |")


def n_distributions(name):
    """Number of distributions that an installation of ``name`` brings, itself among them."""
    from packaging.requirements import Requirement

    found, waiting = set(), [name]
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in found:
            found.add(name)
            needs = map(Requirement, metadata.requires(name) or ())
            waiting += [
                need.name
                for need in needs
                if not need.marker or need.marker.evaluate({"extra": ""})
            ]
    return len(found)


def imports():
    header("installing and importing", "anomalib_lite", "anomalib")
    print(f"| distributions | {n_distributions('anomalib_lite')} | {n_distributions('anomalib')} |")
    clock = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
    statements = (
        ("the package, s", "import anomalib_lite", "import anomalib"),
        ("its PatchCore, s", "from anomalib_lite import PatchCore",
         "from anomalib.models import Patchcore"),
        ("torch, scikit-learn and timm, s", "import torch, sklearn.base, timm", None),
    )  # fmt: skip
    for what, *codes in statements:
        cells = (
            f"{statistics.median(fresh(clock.format(code)) for _ in range(5)):.2f}" if code else ""
            for code in codes
        )
        print(f"| {what} | " + " | ".join(cells) + " |", flush=True)


@torch.no_grad()
def main():
    parts = ("features", "coreset", "score", "search", "padim", "memory", "imports")
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--full-coreset", action="store_true")
    parser.add_argument("--default-malloc", action="store_true", help="print no figures with tuned")
    parser.add_argument("--tuned-malloc", action="store_true", help="print those alone")
    chosen = parser.parse_args()
    is_tuned = "MALLOC_TOP_PAD_" in os.environ
    if chosen.tuned_malloc and not is_tuned:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **TUNED})
    print(
        f"anomalib {metadata.version('anomalib')}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads inside anomalib's operations, {count_workers(None)} "
        f"workers, malloc {'tuned' if is_tuned else 'as it comes'}",
        flush=True,
    )
    train, test, labels = load_images()
    theirs = make_theirs()
    ours = PatchCore(random_state=0).fit(train)
    if "features" in chosen.only:
        features(ours, theirs, test)
    if "coreset" in chosen.only:
        batches = network_input(ours, train).split(32)
        rows = torch.vstack([their_rows(theirs, batch) for batch in batches])
        bank, seconds = coreset(rows, chosen.full_coreset)
        whole_fit(theirs, train, batches, seconds)
        small = PatchCore(coreset=0.01, random_state=0).fit(train)
        accuracy(small, theirs, bank, test, labels)
    if "score" in chosen.only:
        small = PatchCore(coreset=0.01, random_state=0).fit(train)
        for detector, title in ((ours, "coreset 10 %"), (small, "coreset 1 %")):
            theirs.memory_bank = detector.memory_bank_.rows.clone()
            scoring(detector, theirs, train, test, title)
    if "padim" in chosen.only:
        padim(ours, train, test, labels)
    if "search" in chosen.only:
        searches(ours, theirs, train, test)
    if "memory" in chosen.only:
        memory()
    if "imports" in chosen.only:
        imports()
    timed = [part for part in chosen.only if part not in ("memory", "imports")]
    if timed and not (chosen.default_malloc or is_tuned):
        again = [sys.executable, sys.argv[0], "--tuned-malloc", "--only", *timed]
        full = ["--full-coreset"] * chosen.full_coreset
        print(flush=True)
        subprocess.run([*again, *full], env={**os.environ, **TUNED}, check=True)


if __name__ == "__main__":
    main()
