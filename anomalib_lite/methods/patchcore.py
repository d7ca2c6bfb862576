"""PatchCore: the distance of every patch to a memory bank of normal patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import nn

from ..annotations import Device, Path, RandomState, Size
from ..backbones.backbone import DTYPES, ENGINES, Backbone
from ..backbones.patches import AGGREGATIONS, RowStore, grid_rows, patch_embedding
from ..base import BaseDetector, PartialFitMixin
from ..runtime import parse_memory, progress
from ..search.coreset import (
    check_projection,
    coreset_row_bytes,
    coreset_size,
    merge_coresets,
    select_coreset,
)
from ..search.nearest import NearestRows, squared_distance
from ..validation import check_choice, check_count, check_enough, check_finite, check_odd

_PART_COUNT = 2  # a part's coreset, in units of a ``coreset`` count: finer, to be reduced later
_N_SUSPECTS = 4  # patches kept of each training image, to calibrate again when the bank grows


@dataclass(frozen=True)
class _PatchCoreSettings:
    """Snapshot: later set_params calls must not alter a fitted detector."""

    aggregation: str
    neighborhood: int
    n_reweight: int | None


class PatchCore(PartialFitMixin, BaseDetector):
    r"""PatchCore: distances to the nearest neighbors in a coreset of normal patch features.

    Mid-level features of a pretrained network, averaged over small neighborhoods, describe each
    patch of the normal images. A greedy coreset of these vectors is the memory bank
    :math:`\mathcal{M}`. The anomaly of a patch is its distance to the bank. The score of an image
    is that of its most anomalous patch :math:`m^{test}`: the distance :math:`s^*` to its nearest
    bank row :math:`m^*`, re-weighted (equation 7 of the paper) by how rare :math:`m^*` itself is:

    .. math:: s = \Big(1 - \frac{\exp \|m^{test} - m^*\|}
              {\sum_{m \in \mathcal{N}_b(m^*)} \exp \|m^{test} - m\|}\Big)\, s^*

    where :math:`\mathcal{N}_b(m^*)` are the b bank rows nearest to :math:`m^*`, itself among them.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. The default has ImageNet
        weights that come with the installation. Any timm name works, CLIP
        (``"resnet50_clip.openai"``, ``"vit_base_patch16_clip_224.openai"``) and DINO names too.
    layers : sequence, "last" or None, default=None
        Strides, transformer blocks or module names of the feature maps to use. None: strides 8 and
        16, or the blocks at half and three quarters of the depth.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the backbone's own (224).
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep. The paper resizes to 256 and keeps 224; by default
        nothing is cut off, since a defect at the border counts.
    aggregation : {"concat", "official"}, default="concat"
        How the layers become one vector: as in the paper's text, or as in its authors' code; see
        :func:`~anomalib_lite.backbones.patch_embedding`.
    neighborhood : int, default=3
        Side, in cells, odd, of the neighborhood averaged to describe a patch.
    coreset : float or int, default=0.1
        Share of the rows to keep, in (0, 1], or their count. A row is a patch of a normal image.
    projection : "auto", int or None, default="auto"
        Random projection in which the coreset is selected; see
        :func:`~anomalib_lite.search.select_coreset`. Scores never use it.
    n_reweight : int or None, default=9
        b of equation 7; 1 or None leave the score at :math:`s^*`.
    smoothing : float, default=4.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    memory_budget : int, str or None, default="4GB"
        Memory that fitting may use for what it stores of images, in bytes or as ``"500MB"``; None
        for no limit. It covers patch rows and the selection of the coreset. Normal images whose
        patches need more are learned in parts. Memory then stays within the budget for a
        ``coreset`` that is a count; a share of everything seen grows on. A stream of unknown length
        may need two thirds more for a moment.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    engine : {"torch", "onnxruntime"}, default="torch"
        What runs the network; ONNX Runtime is about twice as fast, on a CPU only, and needs the
        extra ``onnx``. Its features differ by rounding; it takes a few seconds at fit and load.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere. Everything after
        the network is float32 or better.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the coreset's first pick and projection, and random
        weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    memory_bank_ : NearestRows
        The bank; ``memory_bank_.rows`` has shape (n_bank, D).
    coreset_radius_ : float
        No training patch is farther from the bank than this.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image against the bank without the rows that come
        from that image; NaN for an image from which all of the bank comes.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    n_images_ : int
        Images learned from.
    backbone_ : Backbone
    device_ : torch.device

    Notes
    -----
    The unit of scores and maps is the Euclidean distance between patch features (not squared).
    Distances are exact to float32 rounding of the features.

    Leaving an image out also removes rows that other images would have filled in for, so
    calibration scores are a little more anomalous than those of new normal images, and the
    threshold errs towards fewer false alarms; the fewer images, the more so. Near-duplicates among
    the training images have the opposite effect: each finds its patches in the others.

    ``partial_fit`` adds the coreset of the new images to the bank; with ``coreset`` as a count
    the union is then reduced to it again, and every earlier patch stays within the sum of the two
    radii. A fit in parts adds part after part in this way and reduces the union once, at the end,
    or whenever it takes a quarter of the budget. What a patch and a score are (backbone, layers,
    sizes, aggregation, neighborhood, n_reweight) stays as it was at the first call. To set the
    threshold anew without the earlier images, the few patches of each that were farthest from the
    rest are kept.

    References
    ----------
    K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall in
    Industrial Anomaly Detection", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import PatchCore
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(90, 110, size=(8, 64, 64), dtype=np.uint8)
    >>> odd = normal[:2].copy()
    >>> odd[:, 20:40, 20:40] = 255
    >>> detector = PatchCore(image_size=64, random_state=0).fit(normal)
    >>> detector.predict(odd)
    array([-1, -1])
    >>> detector.anomaly_map(odd).shape
    (2, 64, 64)
    """

    def __init__(
        self,
        backbone: str | nn.Module = "efficientnet_lite0",
        *,
        layers: Sequence[int | str] | str | None = None,
        weights: Path = "pretrained",
        image_size: Size | None = None,
        center_crop: Size | None = None,
        aggregation: str = "concat",
        neighborhood: int = 3,
        coreset: float = 0.1,
        projection: str | int | None = "auto",
        n_reweight: int | None = 9,
        smoothing: float = 4.0,
        false_alarm_rate: float = 0.01,
        memory_budget: int | str | None = "4GB",
        batch_size: int = 32,
        device: Device = "auto",
        engine: str = "torch",
        dtype: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.backbone = backbone
        self.layers = layers
        self.weights = weights
        self.image_size = image_size
        self.center_crop = center_crop
        self.aggregation = aggregation
        self.neighborhood = neighborhood
        self.coreset = coreset
        self.projection = projection
        self.n_reweight = n_reweight
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.memory_budget = memory_budget
        self.batch_size = batch_size
        self.device = device
        self.engine = engine
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def _check_params(self):
        check_choice("aggregation", self.aggregation, AGGREGATIONS)
        check_odd("neighborhood", self.neighborhood)
        check_choice("engine", self.engine, ENGINES)
        check_choice("dtype", self.dtype, DTYPES)
        coreset_size(self.coreset, 1)
        check_projection(self.projection)
        parse_memory("memory_budget", self.memory_budget)
        if self.n_reweight is not None:
            check_count("n_reweight", self.n_reweight)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        self._settings_ = _PatchCoreSettings(self.aggregation, self.neighborhood, self.n_reweight)
        return self.backbone_.input

    def _learn(self, batches, n_images, generator):
        for store, is_last in self._parts(batches, n_images):
            whole = is_last and not hasattr(self, "memory_bank_")
            self._absorb(store, generator, whole=whole)
            del store  # before the next one is filled
        self._reduce_bank(generator)
        check_enough(self.n_images_, 2, "scores of each image against the others")
        return self._leave_one_out_scores()

    def _parts(self, batches, n_images):
        """(store of patch rows, whether it is the last) for stores within the memory budget."""
        store, capacity, n_done = None, 0, 0
        for images, batch in batches:
            rows, _ = self._embed(batch)  # (B, P, D)
            check_finite(rows, images)
            if store is None or store.n_images + len(rows) > capacity:
                if store is not None:
                    n_done += store.n_images
                    yield store, False
                capacity = max(len(rows), self._capacity(*rows.shape[1:]))
                store = RowStore(None if n_images is None else min(n_images - n_done, capacity))
            store.append(rows)
        yield store, True

    def _capacity(self, n_patches, n_features):
        """Number of images whose rows the memory budget has room for beside the bank."""
        budget, row_bytes = self._budget(), coreset_row_bytes(n_features)
        n_bank = len(self._bank_owners_) if hasattr(self, "_bank_owners_") else 0
        return max(budget - n_bank * row_bytes, budget // 2) // (n_patches * row_bytes)

    def _budget(self):
        return parse_memory("memory_budget", self.memory_budget)

    def _absorb(self, store, generator, *, whole):
        """Add the coreset of some images' rows to the bank."""
        first = len(self._suspects_) if hasattr(self, "_suspects_") else 0
        is_count = isinstance(self.coreset, Integral)
        indices, radius = select_coreset(
            store.rows,
            _PART_COUNT * self.coreset if is_count and not whole else self.coreset,
            generator=generator,
            projection=self.projection,
            verbose=self.verbose,
        )
        bank = store.rows[indices]
        owners = first + indices // store.by_image.shape[1]
        if first:
            bank = torch.cat([self.memory_bank_.rows, bank])
            owners = torch.cat([self._bank_owners_, owners])
            radius = max(radius, self.coreset_radius_)
        self.memory_bank_ = NearestRows.from_rows(bank, store.rows)
        self._bank_owners_, self.coreset_radius_ = owners, radius
        by_image = progress(store.by_image, desc="threshold", verbose=self.verbose)
        suspects = [self._suspects(rows, first + i) for i, rows in enumerate(by_image)]
        earlier = [self._suspects_] if first else []
        self._suspects_ = torch.cat([*earlier, torch.stack(suspects)])
        if 4 * len(bank) * coreset_row_bytes(bank.shape[1]) > self._budget():
            self._reduce_bank(generator)

    def _reduce_bank(self, generator):
        """Reduce a bank grown in parts to ``coreset`` rows, if that is a count."""
        bank = self.memory_bank_.rows
        if not isinstance(self.coreset, Integral) or len(bank) <= self.coreset:
            return
        kept, radius = merge_coresets(
            [bank], self.coreset, generator=generator, verbose=self.verbose
        )
        self.memory_bank_ = NearestRows.from_rows(bank[kept], self._suspects_.flatten(0, 1))
        self._bank_owners_ = self._bank_owners_[kept]
        self.coreset_radius_ += radius

    def _embed(self, batch):
        """Patch rows (B, P, D) and their grid (h, w)."""
        embedding = patch_embedding(
            self.backbone_.trainable_maps(batch),
            aggregation=self._settings_.aggregation,
            neighborhood=self._settings_.neighborhood,
        )
        return grid_rows(embedding), embedding.shape[-2:]

    def _infer(self, batch):
        rows, grid = self._embed(batch)  # (B, P, D)
        found = [self.memory_bank_.query(image_rows) for image_rows in rows]
        distance, index = (torch.stack(part) for part in zip(*found, strict=True))  # (B, P)
        worst = torch.arange(len(rows), device=rows.device), distance.argmax(1)
        scores = self._image_scores(rows[worst], distance[worst], index[worst])
        return scores, distance.float().unflatten(1, grid)

    def _score(self, batch):
        rows, _ = self._embed(batch)  # (B, P, D)
        found = [self.memory_bank_.farthest(image_rows, 1) for image_rows in rows.detach()]
        patch, distance, index = (torch.cat(part) for part in zip(*found, strict=True))  # (B,)
        worst = rows[torch.arange(len(rows), device=rows.device), patch]
        if worst.requires_grad:  # the same distance, differentiable
            distance = squared_distance(worst, self.memory_bank_.rows[index]).sqrt()
        return self._image_scores(worst, distance, index)

    def _image_scores(self, m_test, s_star, m_star, exclude=None):
        """Equation 7 of the paper, in its names.

        Parameters
        ----------
        m_test : torch.Tensor of shape (B, D)
            The most anomalous patch of each image.
        s_star : torch.Tensor of shape (B,)
            Its distance to the bank.
        m_star : torch.Tensor of shape (B,)
            The bank row at that distance, as an index.
        """
        b = self._settings_.n_reweight
        if b in (None, 1):
            return s_star
        bank = self.memory_bank_.rows
        _, neighborhoods = self.memory_bank_.k_nearest(bank[m_star], b, exclude=exclude)
        weights = []
        for patch, s, n_b in zip(m_test, s_star, neighborhoods, strict=True):
            distances = squared_distance(patch, bank[n_b]).sqrt()  # (b,)
            # exp(s*) / sum(exp(distances)), without overflow; a bank of one row has no neighbors
            ratio = (s - distances.logsumexp(0)).exp()
            weights.append(1 - ratio if len(n_b) > 1 else torch.ones_like(ratio))
        return torch.stack(weights) * s_star

    def _own(self, image):
        """The bank rows of one training image, to be excluded when it is scored."""
        return (self._bank_owners_ == image).nonzero()[:, 0]

    def _suspects(self, rows, image):
        """The patches of a training image that are farthest from the bank without it."""
        suspects, _, _ = self.memory_bank_.farthest(rows, _N_SUSPECTS, exclude=self._own(image))
        return rows[suspects]

    def _leave_one_out_scores(self):
        """Anomaly score of each training image against the bank without its own rows."""
        scores = []
        for image, rows in enumerate(self._suspects_):
            exclude = self._own(image)
            if len(exclude) == len(self._bank_owners_):  # the whole bank is this image
                scores.append(rows.new_tensor(torch.nan))
                continue
            patch, distance, index = self.memory_bank_.farthest(rows, 1, exclude=exclude)
            scores += self._image_scores(rows[patch], distance, index, exclude)
        return torch.stack([score.cpu() for score in scores])
