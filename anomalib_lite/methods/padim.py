"""PaDiM: a Gaussian over patch features at every position."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..annotations import Device, Path, RandomState, Size
from ..backbones.backbone import Backbone
from ..backbones.patches import RowStore, grid_rows, patch_embedding
from ..base import BaseDetector, PartialFitMixin
from ..density.gaussian import (
    GaussianStatistics,
    leave_one_out_squares,
    slices,
    squared_mahalanobis,
    squared_mahalanobis_apart,
    whiteners,
)
from ..merging import MergeMixin, PartialCalibration, scores_by_digest
from ..notes import N_EXAMPLES
from ..ranking import are_farthest, count_of_share
from ..runtime import parse_memory, tensors_sha256
from ..suspects import Suspects
from ..validation import check_contamination, check_count, check_finite, check_number
from ..workers import map_on

_TASK = 64  # places of a worker's task
_PLACES = 16  # places that are learned together on a CPU: their scatters take 1.3 MB
_BLOCK = 32  # images whose rows enter the statistics together
_TOGETHER = 8  # images that are measured together on a CPU, each with its own products
_N_SUSPECTS = 16  # patches kept of each training image, to calibrate again when more are learned


class PaDiM(PartialFitMixin, MergeMixin, BaseDetector):
    r"""PaDiM: a Gaussian over the patch features at each position of the grid.

    Feature maps of strides 4, 8 and 16 are resized to the finest grid and concatenated;
    ``n_features`` of their channels, drawn at random, describe each position. The normal images
    give each position (i, j) a mean :math:`\mu_{ij}` and a regularized covariance
    :math:`\Sigma_{ij}`. The anomaly of a patch :math:`x` is its Mahalanobis distance

    .. math:: M(x) = \sqrt{(x - \mu_{ij})^T \Sigma_{ij}^{-1} (x - \mu_{ij})},

    the score of an image that of its most anomalous patch. Positions are not interchangeable: all
    parts must be photographed in the same pose.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. The default has ImageNet
        weights that come with the installation.
    layers : sequence, "last" or None, default=(4, 8, 16)
        Strides, transformer blocks or module names of the feature maps to use. None: the backbone's
        two usual layers.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from.
    n_features : int or None, default=100
        Number of channels to keep, drawn from ``random_state``; None, or more than there are, keeps
        all. The paper keeps 100 for ResNet18 and 550 for WideResNet50.
    eps : float, default=0.01
        Added to the diagonal of every covariance.
    contamination : float, default=0.0
        Share of the images given to ``fit`` that may be defective, in [0, 0.5). The images of this
        share that are farthest from the others are not learned from, see Notes. 0 trusts all
        images.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    memory_budget : int, str or None, default="4GB"
        Memory that fitting may use for what it stores of images, in bytes or as ``"500MB"``; None
        for no limit. It covers the rows from which the threshold is read: as many of the first
        images as fit are used for it. The Gaussians come on top, see Notes.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    engine : {"torch", "onnxruntime", "auto"}, default="torch"
        What runs the network; ONNX Runtime is about twice as fast, on a CPU only, and needs the
        extra ``onnx``. ``"auto"`` takes it where it is installed and runs the network.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the channels and random weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    channels_ : torch.Tensor of shape (d,)
        The channels kept, ascending.
    statistics_ : GaussianStatistics
        Count, means (P, d) and scatters (P, d, d) of the P positions, row by row.
    whiteners_ : torch.Tensor of shape (P, d, d)
        Transposed inverse Cholesky factors of the regularized covariances, float32.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image had it been left out; NaN where the memory budget
        had no room, or of all but 10,000 images that were learned in earlier calls.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    suspects_ : SuspectImages
        The images learned from, the one that belongs least among them first, by their out-of-sample
        anomaly scores: ``indices``, ``scores`` and ``names``.
    n_images_ : int
    backbone_ : Backbone
    device_ : torch.device

    Notes
    -----
    Scores and maps are Mahalanobis distances, which have no unit.

    The statistics take ``P * d * d`` numbers of 8 bytes, the whiteners half of that: 251 + 125 MB
    with the defaults (56 x 56 positions, d = 100), whatever the number of images. ``partial_fit``
    merges new statistics into old ones, which gives what one ``fit`` on all images gives, but for
    rounding. So do states of some images, as of other machines: see ``partial_state``.

    Leaving one of n images out changes a mean and a covariance in a known way (a rank-one
    downdate), so its distance from the Gaussian of the others follows from that to the Gaussian of
    all:
    :math:`M_{-i}^2 = \frac{n^2 (n-2)}{(n-1)^3} \cdot \frac{M^2}{1 - n M^2 / (n-1)^2}`, exactly, but
    for a ridge that is (n-1)/(n-2) times ``eps``.

    With ``contamination`` the images of a call are measured from the Gaussians of one another, and
    those that are farthest are left out of ``statistics_``; copies stay together, and are learned
    where they are more than the share. It needs all images of a call on one machine, and their rows
    in the ``memory_budget``: of 3,400 images by default.

    With ``contamination`` the threshold must not follow from defective images. Of the share with
    the highest out-of-sample scores, those above the level that one normal image of all is expected
    to exceed have NaN among ``calibration_scores_``; ``suspects_`` has the scores of all and, of
    the first 100, the files where images came from files, which are saved, too. The level comes
    from the lower scores, whose upper tail is taken to be exponential. Copies of a defective image
    vouch for each other.

    References
    ----------
    T. Defard, A. Setkov, A. Loesch, R. Audigier, "PaDiM: a Patch Distribution Modeling Framework
    for Anomaly Detection and Localization", ICPR Workshops 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import PaDiM
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(90, 110, size=(8, 64, 64), dtype=np.uint8)
    >>> odd = normal[:2].copy()
    >>> odd[:, 20:40, 20:40] = 255
    >>> detector = PaDiM(image_size=64, random_state=0).fit(normal)
    >>> detector.predict(odd)
    array([-1, -1])
    """

    def __init__(
        self,
        backbone: str | nn.Module = "efficientnet_lite0",
        *,
        layers: Sequence[int | str] | str | None = (4, 8, 16),
        weights: Path = "pretrained",
        n_features: int | None = 100,
        eps: float = 0.01,
        contamination: float = 0.0,
        image_size: Size | None = None,
        center_crop: Size | None = None,
        smoothing: float = 4.0,
        false_alarm_rate: float = 0.01,
        memory_budget: int | str | None = "4GB",
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        engine: str = "torch",
        dtype: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.n_features = n_features
        self.eps = eps
        self.contamination = contamination
        self.image_size = image_size
        self.center_crop = center_crop
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.memory_budget = memory_budget
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.engine = engine
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    _calibrates_by_images = True
    _distrusts_images = True
    _fan_in = 2  # a state takes 251 MB with the defaults

    def _check_params(self):
        if self.n_features is not None:
            check_count("n_features", self.n_features)
        check_number("eps", self.eps, minimum=0)
        check_contamination(self.contamination)
        parse_memory("memory_budget", self.memory_budget)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        total = sum(self.backbone_.n_channels)
        draw = torch.randperm(total, generator=generator, device="cpu")[: self.n_features]
        self.channels_ = draw.sort().values.to(self.device_)
        return self.backbone_.input

    def _shared_settings(self):
        channels = {"channels": tensors_sha256({"": self.channels_})}
        return {**super()._shared_settings(), **channels}

    def _learn(self, batches, n_images, generator):
        statistics, kept, waiting, n_read = self._read(batches, n_images)
        if self.contamination > 0:
            waiting = self._less_suspects(waiting)
        self._check_enough(statistics.count + sum(map(len, waiting)))
        self.statistics_ = statistics
        squares = self._finish(kept, waiting)
        scores = np.full(self.n_images_, np.nan)
        if hasattr(self, "_suspects_"):
            scores = scores_by_digest(self._digests_, self._suspects_.digests, self._old_scores())
        first = self.n_images_ - n_read
        new = slice(first, first + len(squares))
        digests = self._digests_[new]
        scores[new] = self._out_of_sample(squares.amax(1), digests).cpu().double().numpy()
        self._suspect(digests, squares, kept)
        return scores

    def _less_suspects(self, blocks):
        """Blocks of rows (n, P, d) of new images, less the images that are farthest from the rest.

        All blocks together have their own Gaussians for it.
        """
        if count_of_share(self.contamination, sum(map(len, blocks))) == 0:
            return blocks
        rows = blocks[0]
        self.statistics_ = GaussianStatistics.of_no_rows(*rows.shape[1:], rows.device)
        squares = self._finish(blocks, blocks).amax(1)
        digests = self._digests_[-len(squares) :]
        copies = torch.from_numpy(_copies(digests, digests)).to(squares.device)
        distances = leave_one_out_squares(squares, len(squares), copies)
        leaves = are_farthest(distances.cpu().double().numpy(), digests, self.contamination)
        earlier = vars(self).get("_not_learned_", digests[:0])
        self._not_learned_ = np.concatenate([earlier, digests[leaves]])
        stays = torch.from_numpy(~leaves).to(rows.device)
        return [
            block[stay]
            for block, stay in zip(blocks, stays.split([*map(len, blocks)]), strict=True)
            if stay.any()
        ]

    def _check_may_forget(self, room):
        """Raise ValueError if the rows of all images are needed, which takes too much memory."""
        if self.contamination > 0:
            raise ValueError(
                f"memory_budget: expected room for the rows of all images, of which some may be "
                f"defective, got {self.memory_budget!r}, which has room for {room}. Give it more, "
                "or learn in several calls of partial_fit."
            )

    def _check_learns_in_parts(self):
        super()._check_learns_in_parts()
        if self.contamination > 0:
            raise ValueError(
                f"contamination: expected 0.0 where a {type(self).__name__} learns in parts, got "
                f"{self.contamination!r}. Which images are defective shows among all of them. Fit "
                "on one machine."
            )

    def _check_enough(self, n_images):
        if n_images < 2:
            raise ValueError(
                f"X: expected at least 2 images, got {n_images} sample. One image has no "
                "covariance."
            )

    def _learn_part(self, batches, n_images, portion):
        statistics = None
        for block, grid in self._blocks(batches, n_images):
            if statistics is None:
                statistics = GaussianStatistics.of_no_rows(*block.shape[1:], block.device)
            statistics.update(block.transpose(0, 1))
            portion.keep(block, grid)
        return statistics

    def _merge_parts(self, parts, generator):
        first, *others = parts
        statistics = first.copy()
        for other in others:
            statistics.merge(other)
        return statistics

    def _finish_part(self, part, generator):
        self._check_enough(part.count)
        self.statistics_ = part
        self._finish([], [])

    def _calibrate_rows(self, rows, digests):
        rows, grid = rows.flatten(1, 2), rows.shape[1:3]
        squares = self._squares_of(rows)
        lowest, examples = np.unique(digests, return_index=True)
        lowest, examples = lowest[:N_EXAMPLES], torch.from_numpy(examples[:N_EXAMPLES])
        normal = self._normal_distances(squares[examples.to(squares.device)], lowest)
        return PartialCalibration(
            digests,
            self._out_of_sample(squares.amax(1), digests).cpu().double().numpy(),
            lowest,
            normal.unflatten(1, grid),
            Suspects.of(digests, *_worst(squares, rows)),
        )

    def _read(self, batches, n_images):
        """Statistics, blocks of rows (n, P, d) kept and waiting to be learned, number of images.

        Blocks are learned in their order, so that the budget changes no bit of the statistics.
        """
        statistics = self.statistics_.copy() if hasattr(self, "statistics_") else None
        kept, waiting, n_read = [], [], 0
        for block, _ in self._blocks(batches, n_images):
            if statistics is None:
                statistics = GaussianStatistics.of_no_rows(*block.shape[1:], block.device)
            room = max(1, parse_memory("memory_budget", self.memory_budget) // block[0].nbytes)
            waiting.append(block)
            if n_read < room:
                kept.append(block[: room - n_read])
            else:
                self._check_may_forget(room)
                for each in waiting:
                    statistics.update(each.transpose(0, 1))
                waiting = []
            n_read += len(block)
        return statistics, kept, waiting, n_read

    def _blocks(self, batches, n_images):
        """Rows (n, P, d) of _BLOCK images at a time, whatever the batches are, and their grid.

        At the end fewer.
        """
        size = _BLOCK if n_images is None else min(_BLOCK, n_images)
        store = RowStore(size)
        for _, (rows, grid) in batches.each(self._checked_rows):
            while len(rows):
                room = size - store.n_images
                store.append(rows[:room])
                rows = rows[room:]
                if store.n_images == size:
                    yield store.by_image, grid
                    store = RowStore(size)
        if store.n_images:
            yield store.by_image, grid

    def _checked_rows(self, images, batch):
        rows, grid = self._embed(batch)
        check_finite(rows, images)
        return rows, grid

    @property
    def _n_together(self):
        """Images of a batch; see :meth:`_embed` and :meth:`_squares`, which keep them apart."""
        return _TOGETHER if self.device_.type == "cpu" else self.batch_size

    def _embed(self, batch):
        """Patch rows (B, P, d) and their grid (h, w); on a CPU of one image after the other."""
        if len(batch) > 1 and batch.device.type == "cpu":
            embedded = map_on(batch.device, self._embed, batch.split(1))
            return torch.cat([rows for rows, _ in embedded]), embedded[0][1]
        maps, first = [], 0
        for grid in self.backbone_.trainable_maps(batch):  # (B, C, h, w)
            last = first + grid.shape[1]
            kept = self.channels_[(self.channels_ >= first) & (self.channels_ < last)] - first
            maps.append(grid.movedim(1, 3).index_select(3, kept).movedim(3, 1))  # channels last
            first = last
        embedding = patch_embedding(maps, neighborhood=1)
        return grid_rows(embedding), embedding.shape[-2:]

    def _finish(self, kept, waiting):
        """Squared distances (n, P) of the rows kept, after an update with the waiting ones.

        All that a few places need is done while their Gaussians are in the cache.
        """
        statistics, device = self.statistics_, self.device_
        squares = [block.new_empty(block.shape[:2], dtype=statistics.mean.dtype) for block in kept]
        self.whiteners_ = torch.empty_like(statistics.scatter, dtype=torch.float32)

        def finish(places):
            here = statistics.at(places)
            for block in waiting:
                here.update(block[:, places].transpose(0, 1))
            whitener = self._whitener(here.covariance())
            self.whiteners_[places] = whitener
            for block, found in zip(kept, squares, strict=True):
                found[:, places] = squared_mahalanobis(block[:, places], here.mean, whitener)

        def finish_all(task):
            size = _PLACES if device.type == "cpu" else _TASK
            for places in slices(task.start, task.stop, size):
                finish(places)

        map_on(device, finish_all, slices(0, len(statistics.mean), _TASK))
        statistics.count += sum(map(len, waiting))
        return torch.cat(squares) if squares else None

    def _suspect(self, digests, squares, kept):
        """Keep the patches with the largest squares (n, P) of the rows kept of new images."""
        worst = [
            _worst(some, block)
            for some, block in zip(squares.split([*map(len, kept)]), kept, strict=True)
        ]
        new = Suspects.of(digests, *map(torch.cat, zip(*worst, strict=True)))
        earlier = [self._suspects_] if hasattr(self, "_suspects_") else []
        self._suspects_ = Suspects.joined([*earlier, new])

    def _old_scores(self):
        """Leave-one-out scores of the suspects' images, by what the statistics have become."""
        suspects, squares = self._suspects_, []
        for cells, rows in zip(suspects.cells, suspects.rows, strict=True):
            whitener = self._whitener(self.statistics_.covariance(cells))
            mean = self.statistics_.mean[cells]
            squares.append(squared_mahalanobis(rows[None], mean, whitener).amax())
        found = self._out_of_sample(torch.stack(squares), suspects.digests)
        return found.cpu().double().numpy()

    def _out_of_sample(self, squares, digests):
        """Distances (n, ...) from Gaussians of all other images, from squared ones."""
        copies = _copies(self._digests_, digests)
        if hasattr(self, "_not_learned_"):
            copies -= _copies(self._not_learned_, digests)
        copies = torch.from_numpy(copies)
        copies = copies.view(-1, *[1] * (squares.ndim - 1)).to(squares.device)
        return leave_one_out_squares(squares, self.statistics_.count, copies).sqrt()

    def _normal_distances(self, squares, digests):
        """Distances (n, P) of images that were learned from, out of sample where there are."""
        distances = self._out_of_sample(squares, digests)
        return distances.where(distances.isfinite(), squares.sqrt())

    def _whitener(self, covariance):
        covariance.diagonal(dim1=1, dim2=2).add_(self.eps)
        try:
            return whiteners(covariance)
        except ValueError as error:
            raise ValueError(f"eps={self.eps}: {error} Use a larger eps.") from error

    def _infer(self, batch):
        squares, grid = self._squares(batch)
        distance = squares.sqrt()  # (B, P)
        return distance.amax(1), distance.unflatten(1, grid)

    def _infer_portably(self, batch):
        rows, grid = self._embed(batch)
        squares = squared_mahalanobis(rows, self.statistics_.mean.float(), self.whiteners_)
        distance = squares.sqrt()
        return distance.amax(1), distance.unflatten(1, grid)

    def _normal_grids(self, batch, indices):
        squares, grid = self._squares(batch)
        return self._normal_distances(squares, self._digests_[indices]).unflatten(1, grid)

    def _squares(self, batch):
        """Squared distances (B, P) of patches from the Gaussians of their places, and the grid."""
        rows, grid = self._embed(batch)  # (B, P, d)
        return self._squares_of(rows), grid

    def _squares_of(self, rows):
        measure = squared_mahalanobis_apart
        if rows.device.type != "cpu" or rows.requires_grad:  # as of images that are probed
            measure = squared_mahalanobis
        return measure(rows, self.statistics_.mean.float(), self.whiteners_)


def _copies(known, digests):
    """How many of the known images each image (n,) is, by digests."""
    known = np.sort(known)
    return np.searchsorted(known, digests, "right") - np.searchsorted(known, digests, "left")


def _worst(squares, rows):
    """Cells (n, k) and rows (n, k, d) with the largest squares (n, P) of images (n, P, d)."""
    cells = squares.topk(min(_N_SUSPECTS, squares.shape[1])).indices
    return cells, rows.gather(1, cells[:, :, None].expand(-1, -1, rows.shape[2]))
