"""PatchCore: the distance of every patch to a memory bank of normal patches."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional as F

from ...annotations import Device, Path, RandomState, Size
from ...backbones.backbone import DTYPES, ENGINES, Backbone
from ...backbones.patches import (
    AGGREGATIONS,
    RowStore,
    grid_rows,
    n_on_top,
    patch_embedding,
    top_share,
)
from ...base import BaseDetector, PartialFitMixin
from ...density.outliers import POSITIONS, belonging
from ...merging import MergeMixin, PartialCalibration, scores_by_digest
from ...notes import N_EXAMPLES
from ...runtime import parse_memory, progress
from ...search.coreset import check_projection, coreset_row_bytes, coreset_size
from ...search.distance import squared_distance
from ...suspects import Suspects
from ...validation import (
    check_bool,
    check_choice,
    check_contamination,
    check_count,
    check_finite,
    check_odd,
)
from ...views import ReferenceViews, check_reference_views
from ...workers import FEW, each_on
from .banks import PatchBank
from .calibration import assign_parts
from .region import Region
from .whitening import learned_whitening, whiten_in_place, whitened

_FINE = 2  # a chunk's coreset, in units of a ``coreset`` count: finer, to be reduced later
_USUAL_SHARE = 0.1  # of some images' rows, picked where a count of rows of all images is asked for
# patches kept of each training image, to calibrate again when the bank grows: those that its score
# was made of and a few that may take their places, or of very many these, evenly by rank
_SPARE, _MOST_SUSPECTS = 3, 32


@dataclass(frozen=True)
class _PatchCoreSettings:
    """Snapshot: later set_params calls must not alter a fitted detector."""

    aggregation: str
    neighborhood: int
    n_reweight: int | None
    normalize: bool = False
    whiten: bool = False
    top_share: float = 0.0  # of patches, whose mean distance is the score; 0: one patch
    views: ReferenceViews | None = None
    region: Region | None = None


class PatchCore(PartialFitMixin, MergeMixin, BaseDetector):
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
    final_norm : bool, default=False
        Let every layer's output pass the norm that a transformer of one resolution ends with, as
        its authors do with the last one. ValueError for networks without.
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
    normalize : bool, default=False
        Scale every vector to length 1: patches then differ by the angle between them alone.
    whiten : bool, default=False
        Decorrelate the patch vectors and bring them to variance 1, by one Gaussian of the normal
        patches of all places; after ``normalize``. It is learned from the images that the
        ``memory_budget`` holds at first, usually all, and then kept. Needs all images on one
        machine.
    reference_views : int, "rotations", "flips" or None, default=None
        Views of each normal image to learn from besides itself: so many, each turned by an angle
        drawn at random; seven, turned by 45, 90, ..., 315 degrees; or three, mirrored left to
        right, top to bottom, and both. For a few images of what may lie that way. Each costs
        another pass through the network, and memory like another image. What a view shows of the
        outside of the image is not learned. An image and its views are left out together when it
        is scored out of sample.
    region : array-like of shape (H, W), path or None, default=None
        Where in the images defects count: a mask of the whole image, of any size, or a picture of
        one. Cells of which less than half lies within are neither learned nor scored, and 0 in the
        grid of which a map is made; its blur reaches a little farther than the region.
    coreset : float or int, default=0.1
        Share of the rows to keep, in (0, 1], or their count. A row is a patch of a normal image.
    projection : "auto", int or None, default="auto"
        Random projection in which the coreset is selected; see
        :func:`~anomalib_lite.search.select_coreset`. Scores never use it.
    contamination : float, default=0.0
        Share of the images given to ``fit`` that may be defective, in [0, 0.5). Of the patches this
        share is left out, those that look least like patches of other images; and the threshold is
        read from the scores of the other images, see Notes. 0 trusts all images.
    positions : {"aligned", "free"}, default="aligned"
        Where patches are sought that a patch should look like, with ``contamination``: at the same
        position of other images, as of parts in one pose, or anywhere, as of textures.
    n_reweight : int or None, default=9
        b of equation 7; 1 or None leave the score at :math:`s^*`. Plays a role for
        ``aggregate="max"`` only.
    aggregate : "max" or tuple ("top", share), default="max"
        How the anomaly values of patches become an image's score: the highest, or the mean of the
        highest share of them, in (0, 1], of one patch at least.
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
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    engine : {"torch", "onnxruntime", "auto"}, default="torch"
        What runs the network; ONNX Runtime is about twice as fast, on a CPU only, and needs the
        extra ``onnx``. ``"auto"`` takes it where it is installed and runs the network.
        Its features differ by rounding; it takes a few seconds at fit and load.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere. Everything after
        the network is float32 or better.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random. It draws the coreset's first pick and projection, angles of
        views, and random weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    memory_bank_ : NearestRows
        The bank; ``memory_bank_.rows`` has shape (n_bank, D).
    coreset_radius_ : float
        No training patch is farther from the bank than this, but for those left out.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image against a bank of images in other parts; NaN if
        there are no others, or if it is one of many thousands that were learned in earlier calls.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    suspects_ : SuspectImages
        The images learned from, the one that belongs least among them first, by their out-of-sample
        anomaly scores: ``indices``, ``scores`` and ``names``.
    n_images_ : int
        Images learned from.
    backbone_ : Backbone
    device_ : torch.device
    whitener_ : torch.Tensor of shape (D, D)
        By which rows are multiplied, less their mean; only with ``whiten``.

    Notes
    -----
    The unit of scores and maps is the Euclidean distance between patch features (not squared).
    Distances are exact to float32 rounding of the features.

    The threshold is calibrated on banks that an image had no part in: the training images are cut
    into 32 parts, and each image is scored against the coresets of the other parts. Copies of an
    image share a part; near-duplicates do not, and vouch for each other.

    ``partial_fit`` adds the coreset of the new images to the bank; with ``coreset`` as a count
    the union is then reduced to it again, and every earlier patch stays within the sum of the two
    radii. A fit that exceeds the ``memory_budget`` adds chunk after chunk in this way and reduces
    the union once, at the end, or whenever it takes a quarter of the budget. What a patch and a
    score are (backbone, layers, sizes, aggregation, neighborhood, normalize, whiten, n_reweight,
    aggregate), and which views are learned, stays as it was at the first call. To set the threshold
    anew without the earlier images, the few patches of each that were farthest from the rest are
    kept, of 10,000 images at most: 4 of each, and with ``aggregate=("top", share)`` as many as
    count and three more, or 32 of these, taken evenly by rank. States of some images, as of other
    machines, merge in the same way:
    see ``partial_state``.

    With ``contamination`` every patch has a local outlier factor among the patches of other images
    [2]_, as published at its position, or anywhere in a sample of 4,096. Unlike in the publication
    distances are not weighted by it. Images are compared that are learned together: those that the
    ``memory_budget`` holds at first, and so on, those of a call of ``partial_fit``, or of a part.

    With ``contamination`` the threshold must not follow from defective images. Of the share with
    the highest out-of-sample scores, those above the level that one normal image of all is expected
    to exceed have NaN among ``calibration_scores_``; ``suspects_`` has the scores of all and, of
    the first 100, the files where images came from files, which are saved, too. The level comes
    from the lower scores, whose upper tail is taken to be exponential. Copies of a defective image
    vouch for each other.

    References
    ----------
    .. [1] K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall in
       Industrial Anomaly Detection", CVPR 2022.
    .. [2] X. Jiang, J. Liu, J. Wang, Q. Nie, K. Wu, Y. Liu, C. Wang, F. Zheng, "SoftPatch:
       Unsupervised Anomaly Detection with Noisy Data", NeurIPS 2022.

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
        final_norm: bool = False,
        image_size: Size | None = None,
        center_crop: Size | None = None,
        aggregation: str = "concat",
        neighborhood: int = 3,
        normalize: bool = False,
        whiten: bool = False,
        reference_views: int | str | None = None,
        region: ArrayLike | Path | None = None,
        coreset: float = 0.1,
        projection: str | int | None = "auto",
        contamination: float = 0.0,
        positions: str = "aligned",
        n_reweight: int | None = 9,
        aggregate: str | tuple[str, float] = "max",
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
        self.final_norm = final_norm
        self.image_size = image_size
        self.center_crop = center_crop
        self.aggregation = aggregation
        self.neighborhood = neighborhood
        self.normalize = normalize
        self.whiten = whiten
        self.reference_views = reference_views
        self.region = region
        self.coreset = coreset
        self.projection = projection
        self.contamination = contamination
        self.positions = positions
        self.n_reweight = n_reweight
        self.aggregate = aggregate
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

    def _check_params(self):
        check_choice("aggregation", self.aggregation, AGGREGATIONS)
        check_odd("neighborhood", self.neighborhood)
        check_bool("normalize", self.normalize)
        check_bool("whiten", self.whiten)
        check_reference_views(self.reference_views)
        if self.region is not None and isinstance(self.reference_views, Integral):
            raise ValueError(
                "region: expected None with views that are turned by any angle, got one and "
                f"reference_views={self.reference_views!r}. Take 'rotations' or 'flips': they turn "
                "the region along."
            )
        check_choice("engine", self.engine, ENGINES)
        check_choice("dtype", self.dtype, DTYPES)
        coreset_size(self.coreset, 1)
        check_projection(self.projection)
        check_contamination(self.contamination)
        if self.contamination > 0 and self.reference_views is not None:
            raise ValueError(
                f"reference_views: expected None with contamination={self.contamination}, got "
                f"{self.reference_views!r}. Defects would be learned from other views."
            )
        check_choice("positions", self.positions, POSITIONS)
        parse_memory("memory_budget", self.memory_budget)
        if self.n_reweight is not None:
            check_count("n_reweight", self.n_reweight)
        top_share(self.aggregate)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        self._settings_ = _PatchCoreSettings(
            self.aggregation,
            self.neighborhood,
            self.n_reweight,
            bool(self.normalize),
            bool(self.whiten),
            top_share(self.aggregate),
            ReferenceViews.made(self.reference_views, generator),
            self._made_region(),
        )
        return self.backbone_.input

    def _made_region(self):
        if self.region is None:
            return None
        network = self.backbone_
        return Region.of(self.region, network.input, network.grid).to(self.device_)

    def _shared_settings(self):
        shared, region = super()._shared_settings(), self._settings_.region
        if region is not None:  # words leave out most of an array
            pixels = region.seen.cpu().numpy().tobytes()
            shared["region's pixels"] = hashlib.blake2b(pixels, digest_size=8).hexdigest()
        return shared

    def _check_learns_in_parts(self):
        super()._check_learns_in_parts()
        if self.whiten:
            raise ValueError(
                f"whiten: expected False where a {type(self).__name__} learns in parts, got "
                f"{self.whiten!r}. Each part would be whitened in a way of its own. Fit on one "
                "machine, or leave whiten out."
            )

    # -- learning ---------------------------------------------------------------------------------

    def _learn(self, batches, n_images, generator):
        bank, scores = self._recalled(), []
        is_first = bank is None
        for store, grid, is_last in self._chunks(batches, n_images):
            is_all = is_last and is_first
            coreset = self.coreset if is_all or not self._has_count else _FINE * self.coreset
            here = self._bank_of(store.by_image, bank, coreset, generator)
            bank = PatchBank.joined([here] if bank is None else [bank, here]).coded()
            self._take_over(bank)
            n_done = len(bank.parts.parts)
            digests = self._digests_[n_done - store.n_images : n_done]
            found = self._calibrate_rows(_own_rows(store, grid), digests)
            del store  # before the next one is filled
            self._remember(found)
            scores.append(found.anomaly_scores)
            del here, found
            bank = self._exchanged(bank, self._within_budget(bank, generator))
            is_first = False
        self._exchanged(bank, self._reduced(bank, generator))
        if self.n_images_ == len(scores[0]):
            return scores[0]
        return self._rescored(np.concatenate(scores))

    def _exchanged(self, bank, smaller):
        """A bank in the place of the one that was taken over."""
        if smaller is not bank:
            self._take_over(smaller)
        return smaller

    def _learn_part(self, batches, n_images, portion):
        bank = None
        for store, grid, _ in self._chunks(batches, n_images):
            here = self._bank_of(
                store.by_image,
                bank,
                self._coreset_of(store, portion.total),
                portion.generator,
                first=portion.first,
            )
            portion.keep(_own_rows(store, grid).flatten(1, 2), grid)
            del store
            bank = here if bank is None else self._merge_parts([bank, here], portion.generator)
        return bank

    def _coreset_of(self, store, total):
        """The coreset of some images' rows that is fine enough for that of ``total`` images.

        If that is a count, then as dense as a usual share, and enough for twice the count in all.
        """
        if not self._has_count or total is None:
            return self.coreset
        share = max(_USUAL_SHARE * len(store.rows), 2 * self.coreset * store.n_images / total)
        return min(self.coreset, math.ceil(share))

    def _merge_parts(self, parts, generator):
        return self._reduced(PatchBank.joined(parts), generator)

    def _finish_part(self, part, generator):
        self._take_over(self._reduced(part, generator))

    def _chunks(self, batches, n_images):
        """(store of patch rows, their grid, whether it is the last) within the memory budget."""
        store, capacity, n_done = None, 0, 0
        for images, (rows, grid) in batches.map(self._describe_views):  # (B, n, D)
            check_finite(rows, images)
            if store is None or store.n_images + len(rows) > capacity:
                if store is not None:
                    n_done += store.n_images
                    self._whiten(store.by_image)
                    yield store, grid, False
                capacity = max(len(rows), self._capacity(*rows.shape[1:]))
                store = RowStore(None if n_images is None else min(n_images - n_done, capacity))
            store.append(rows)
        self._whiten(store.by_image)
        yield store, grid, True

    def _describe_views(self, batch):
        """Rows (B, n, D) of a batch's patches, followed by those of its views, and the grid."""
        rows, grid = self._describe(batch)
        views = self._settings_.views
        if views is not None:
            seen = None if self._settings_.region is None else self._settings_.region.seen
            rows = torch.cat([rows, *views.rows(batch, self._describe_all, seen)], dim=1)
        return rows, grid

    def _whiten(self, images):
        """Whiten the rows of images (n, P, D) in place; the first ones tell how."""
        if not self._settings_.whiten:
            return
        if not hasattr(self, "whitener_"):
            self._center_, self.whitener_ = learned_whitening(images)
        whiten_in_place(images, self._center_, self.whitener_)

    def _capacity(self, n_patches, n_features):
        """Number of images whose rows the memory budget has room for beside the bank."""
        budget, row_bytes = self._budget(), coreset_row_bytes(n_features)
        bank = self._recalled()
        n_bank = 0 if bank is None else bank.n_stored
        return max(budget - n_bank * row_bytes, budget // 2) // (n_patches * row_bytes)

    def _budget(self):
        return parse_memory("memory_budget", self.memory_budget)

    @property
    def _has_count(self):
        return isinstance(self.coreset, Integral)

    def _bank_of(self, images, earlier, coreset, generator, *, first=0):
        """The bank of images (n, P, D) that follow those of another bank, or None."""
        parts = () if earlier is None else earlier.parts.parts
        digests = self._digests_[: len(parts) + len(images)].tolist()
        return PatchBank.of(
            images,
            assign_parts(digests, parts, first)[len(parts) :],
            coreset,
            belonging(images, self.contamination, self.positions),
            generator=generator,
            projection=self.projection,
            verbose=self.verbose,
        )

    def _within_budget(self, bank, generator):
        """A bank grown in chunks, reduced if it takes more than a quarter of the budget."""
        room = self._budget() // (4 * coreset_row_bytes(bank.rows.shape[1]))
        if len(bank.rows) > room:
            return self._reduced(bank, generator)
        if self._has_count and len(bank.parts.rows) > room:
            return bank.with_fewer_parts()
        return bank

    def _reduced(self, bank, generator):
        """A bank of ``coreset`` rows, if that is a count."""
        if not self._has_count:
            return bank
        return bank.reduced(self.coreset, generator=generator, verbose=self.verbose)

    def _take_over(self, bank):
        self.memory_bank_ = bank.index()
        self.coreset_radius_ = bank.radius
        self._part_banks_, self._sample_ = bank.parts, bank.sample

    def _recalled(self):
        """The bank that :meth:`_take_over` was given last; None before."""
        if not hasattr(self, "memory_bank_"):
            return None
        index = self.memory_bank_
        return PatchBank(
            index.rows, self.coreset_radius_, self._part_banks_, self._sample_, index.codes
        )

    # -- calibration ------------------------------------------------------------------------------

    def _calibration_groups(self):
        return self._part_banks_.parts  # each needs one bank

    def _calibrate_rows(self, rows, digests):
        images, grid = rows.flatten(1, 2), rows.shape[1:3]
        examples = np.unique(digests, return_index=True)[1][:N_EXAMPLES]
        n_counted = self._n_counted(images.shape[1])
        ranks = _suspect_ranks(n_counted, images.shape[1])
        n_searched = max(ranks[-1] + 1, n_counted)
        scores, suspects, cells = ([None] * len(images) for _ in range(3))
        grids = dict.fromkeys(examples.tolist())

        def calibrate(i, bank):
            found = self._out_of_sample(images[i], bank, n_counted, n_searched)
            scores[i], cells[i] = found.score, found.patches[ranks]
            suspects[i] = images[i][cells[i]]
            if i in grids:
                grids[i] = (bank or self.memory_bank_).query(images[i])[0].float()

        with progress(total=len(images), desc="threshold", verbose=self.verbose) as bar:
            for n_done in self._by_parts(calibrate, digests, images.device):
                bar.update(n_done)
        return PartialCalibration(
            digests,
            torch.stack(scores).numpy(),
            digests[examples],
            self._on_grid(torch.stack([*grids.values()]), grid),
            Suspects.of(digests, self._places(torch.stack(cells)), torch.stack(suspects)),
        )

    def _by_parts(self, function, digests, device):
        """Call ``function(i, bank of other images)`` of images; gives how many, part by part.

        A worker takes a part, so that there are no more banks at a time than workers.
        """
        banks, codes, members = self._part_banks_, self.memory_bank_.codes, {}
        known = self._digests_[: len(banks.parts)]
        for i, parts in enumerate(banks.parts_of(known, digests)):
            members.setdefault(parts, []).append(i)

        def work(parts):
            bank = banks.others(parts, self.memory_bank_.n_stored, codes)
            for i in members[parts]:
                function(i, bank)
            return len(members[parts])

        return each_on(device, work, sorted(members), at_once=FEW)

    def _rescored(self, latest):
        """Anomaly scores of all images, by their suspects and what the parts' banks are now.

        Without suspects, of the latest images their scores by what the banks were then.
        """
        suspects = self._suspects_
        scores = [None] * len(suspects)
        region, n_cells = self._settings_.region, self._examples_[0].numel()
        n_patches = n_cells if region is None else len(region.places)
        n = min(self._n_counted(n_patches), suspects.rows.shape[1])

        def rescore(i, bank):
            scores[i] = self._out_of_sample(suspects.rows[i], bank, n, n).score

        for _ in self._by_parts(rescore, suspects.digests, suspects.rows.device):
            pass
        found = scores_by_digest(self._digests_, suspects.digests, torch.stack(scores).numpy())
        last = found[len(found) - len(latest) :]
        last[np.isnan(last)] = latest[np.isnan(last)]
        return found

    def _out_of_sample(self, rows, bank, n_counted, n):
        """The n patches of an image farthest from a bank, and the score by those that count."""
        if bank is None:
            patches, _, _ = self.memory_bank_.farthest(rows, n)
            return _OutOfSample(patches, torch.tensor(torch.nan, dtype=torch.float64))
        patches, distance, index = bank.farthest(rows, n)
        counted = (part[None, :n_counted] for part in (rows[patches], distance, index))
        (score,) = self._image_scores(*counted, bank)
        return _OutOfSample(patches, score.cpu())

    def _keep_examples(self, notes):
        """Grids were kept when the images were calibrated."""

    # -- scoring ----------------------------------------------------------------------------------

    def _describe(self, batch):
        """Patch rows (B, P, D) before they are whitened, and their grid (h, w).

        Those of a region are in a line: their grid is (1, P).
        """
        rows, grid = self._describe_all(batch)
        region = self._settings_.region
        if region is not None:
            rows, grid = region.of_rows(rows), (1, len(region.places))
        return rows, grid

    def _describe_all(self, batch):
        """The same of all cells, whether or not defects count there."""
        embedding = patch_embedding(
            self.backbone_.trainable_maps(batch),
            aggregation=self._settings_.aggregation,
            neighborhood=self._settings_.neighborhood,
        )
        rows = grid_rows(embedding)
        if self._settings_.normalize:
            rows = F.normalize(rows, dim=-1)
        return rows, embedding.shape[-2:]

    def _embed(self, batch):
        """Patch rows (B, P, D) and their grid (h, w)."""
        rows, grid = self._describe(batch)
        if self._settings_.whiten:
            rows = whitened(rows, self._center_, self.whitener_)
        return rows, grid

    def _infer(self, batch):
        rows, grid = self._embed(batch)  # (B, P, D)
        found = [self.memory_bank_.query(image_rows) for image_rows in rows]
        distance, index = (torch.stack(part) for part in zip(*found, strict=True))  # (B, P)
        n = self._n_counted(rows.shape[1])
        counted = distance.argmax(1, keepdim=True) if n == 1 else distance.topk(n, 1).indices
        scores = self._image_scores(
            picked(rows, counted),
            distance.gather(1, counted),
            index.gather(1, counted),
            self.memory_bank_,
        )
        return scores, self._on_grid(distance.float(), grid)

    def _on_grid(self, values, grid):
        """Grids (B, rows, columns) of all cells from values (B, P) of those that are described."""
        region = self._settings_.region
        return values.unflatten(1, grid) if region is None else region.on_grid(values)

    def _places(self, patches):
        """Where patches are in the grid of all cells."""
        region = self._settings_.region
        return patches if region is None else region.places[patches]

    def _score(self, batch):
        rows, _ = self._embed(batch)  # (B, P, D)
        n = self._n_counted(rows.shape[1])
        found = [self.memory_bank_.farthest(image_rows, n) for image_rows in rows.detach()]
        patches, distance, index = (torch.stack(part) for part in zip(*found, strict=True))
        counted = picked(rows, patches)  # (B, n, D)
        if counted.requires_grad:  # the same distances, differentiable
            distance = squared_distance(counted, self.memory_bank_.rows[index]).sqrt()
        return self._image_scores(counted, distance, index, self.memory_bank_)

    def _n_counted(self, n_patches):
        """How many of an image's patches its score is made of, those farthest from the bank."""
        return n_on_top(self._settings_.top_share, n_patches)

    def _image_scores(self, rows, distance, index, bank):
        """Scores of images by their most anomalous patches.

        Parameters
        ----------
        rows : torch.Tensor of shape (B, n, D)
            The patches that count, farthest first.
        distance : torch.Tensor of shape (B, n)
            Theirs to the bank.
        index : torch.Tensor of shape (B, n)
            The bank rows at these distances.
        bank : NearestRows

        Returns
        -------
        scores : torch.Tensor of shape (B,)
        """
        if self._settings_.top_share > 0:
            return distance.mean(1)
        return self._reweighted(rows[:, 0], distance[:, 0], index[:, 0], bank)

    def _reweighted(self, m_test, s_star, m_star, bank):
        """Equation 7 of the paper, in its names.

        Parameters
        ----------
        m_test : torch.Tensor of shape (B, D)
            The most anomalous patch of each image.
        s_star : torch.Tensor of shape (B,)
            Its distance to the bank.
        m_star : torch.Tensor of shape (B,)
            The bank row at that distance, as an index.
        bank : NearestRows
        """
        b = self._settings_.n_reweight
        if b in (None, 1):
            return s_star
        neighborhoods = bank.neighbors(m_star, b)
        weights = []
        for patch, s, n_b in zip(m_test, s_star, neighborhoods, strict=True):
            distances = squared_distance(patch, bank.rows[n_b]).sqrt()  # (b,)
            # exp(s*) / sum(exp(distances)), without overflow; a bank of one row has no neighbors
            ratio = (s - distances.logsumexp(0)).exp()
            weights.append(1 - ratio if len(n_b) > 1 else torch.ones_like(ratio))
        return torch.stack(weights) * s_star


class _OutOfSample(NamedTuple):
    """Patches of an image that are farthest from a bank, as indices, and the image's score."""

    patches: torch.Tensor
    score: torch.Tensor


def _own_rows(store, grid):
    """Rows (n, h, w, D) of the images of a store, without those of their views."""
    return store.by_image[:, : math.prod(grid)].unflatten(1, grid)


def picked(rows, patches):
    """Rows (B, n, D) of some patches (B, n) of images (B, P, D)."""
    return rows[torch.arange(len(rows), device=rows.device)[:, None], patches]


def _suspect_ranks(n_counted, n_patches):
    """Ranks, by their distance, of the patches that are kept of an image."""
    n = n_counted + _SPARE
    if n <= _MOST_SUSPECTS:
        return [*range(min(n, n_patches))]
    n = min(n_counted, _MOST_SUSPECTS)
    return [(2 * i + 1) * n_counted // (2 * n) for i in range(n)]
