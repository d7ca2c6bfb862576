"""SubspaceAD: how far patch features lie from the principal subspace of normal ones."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import nn

from ..annotations import Device, Path, RandomState, Size
from ..backbones.backbone import Backbone
from ..backbones.patches import RowStore, grid_rows, n_on_top, patch_embedding, top_share
from ..base import BaseDetector, PartialFitMixin
from ..density.folded import FoldedStatistics
from ..density.gaussian import GaussianStatistics
from ..density.subspace import Subspace, rounding_scatter
from ..merging import MergeMixin, PartialCalibration, scores_by_digest
from ..notes import N_EXAMPLES
from ..ranking import are_farthest
from ..runtime import parse_memory
from ..suspects import Suspects
from ..validation import check_contamination, check_count, check_finite, check_odd
from ..views import ReferenceViews, check_reference_views
from ..workers import each_on, map_on

_N_SUSPECTS = 16  # patches kept of each training image, to calibrate again when more are learned


@dataclass(frozen=True)
class _SubspaceSettings:
    """Snapshot: later set_params calls must not alter a fitted detector.

    ``share`` is that of the patches whose mean is the score, 0 for the most anomalous one alone.
    """

    explained_variance: float
    n_components: int | None
    share: float
    neighborhood: int
    views: ReferenceViews | None

    def n_top(self, n_patches: int) -> int:
        """Patches of an image whose mean is its score."""
        return n_on_top(self.share, n_patches)


class SubspaceAD(PartialFitMixin, MergeMixin, BaseDetector):
    r"""SubspaceAD: residuals of patch features outside of the principal subspace of normal ones.

    The patch features of all normal images, wherever they are in the image, have a mean
    :math:`\mu` and a covariance. Its leading eigenvectors, the columns of :math:`C`, span the
    directions in which normal patches vary. The anomaly of a patch :math:`x` is what they leave
    unexplained,

    .. math:: \|(I - C C^T)(x - \mu)\|^2,

    the score of an image the mean of its most anomalous patches. There is nothing to train and no
    memory bank. As an image has hundreds of patches, a few normal images are enough.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        The network; see :class:`~anomalib_lite.backbones.Backbone`. The default has ImageNet
        weights that come with the installation. The paper's is DINOv2.
    layers : sequence, "last" or None, default=None
        Strides, transformer blocks or module names of the feature maps to use. None: the backbone's
        two usual layers. Maps of the same shape, as of a transformer's blocks, are averaged as in
        the paper; others are resized to the finest grid and concatenated.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from.
    final_norm : bool, default=False
        Let every layer's output pass the norm that a transformer of one resolution ends with, as
        its authors do with the last one. ValueError for networks without.
    explained_variance : float, default=0.99
        Share of the variance of normal patches that the subspace explains, in (0, 1).
    n_components : int or None, default=None
        Dimensions of the subspace, instead of a share of the variance.
    aggregate : "max" or tuple ("top", share), default=("top", 0.01)
        How the anomaly values of patches become an image's score: the highest, or the mean of the
        highest share of them, in (0, 1], of one patch at least.
    neighborhood : int, default=3
        Side, in cells, odd, of the neighborhood averaged to describe a patch; 1 takes each cell
        alone.
    contamination : float, default=0.0
        Share of the images given to ``fit`` that may be defective, in [0, 0.5). The images of this
        share that are farthest from the others are not learned from, see Notes. 0 trusts all
        images.
    reference_views : int, "rotations", "flips" or None, default=None
        Views of each normal image to learn from besides itself: so many, each turned by an angle
        drawn at random; seven, turned by 45, 90, ..., 315 degrees; or three, mirrored left to
        right, top to bottom, and both. For a few images of what may lie that way; of objects
        that lie in any direction, 30. Each costs another pass through the network. What a view
        shows of the outside of the image is not learned.
    n_folds : int, default=20
        Number of folds: out-of-sample scores come from models fitted without the image's fold. Up
        to 20 images are left out one by one.
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
        images as fit are used for it.
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
        Seed of everything random. It draws angles of views and random weights.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    subspace_ : Subspace
        Mean, and basis of the subspace or of its complement, float32.
    n_components_ : int
        Dimensions of the subspace.
    statistics_ : GaussianStatistics
        Count, mean (1, D) and scatter (1, D, D) of all normal patches.
    folds_ : FoldedStatistics
        The same by folds of images.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each training image by the subspace of the other folds; NaN where the
        memory budget had no room, or of all but 10,000 images that were learned in earlier calls.
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
    Scores and maps are squared distances of features, which have no unit.

    The statistics take ``n_folds * D**2`` numbers of 8 bytes, 3.7 MB with the defaults (D = 152),
    whatever the number of images. ``partial_fit`` adds to them, so that scores and maps have the
    same bits as after one ``fit`` on all images; ``calibration_scores_`` of earlier images are read
    again from a few of their patches, those that looked most unusual then. States of some images,
    as of other machines, merge to the same but for rounding: see ``partial_state``. An image's fold
    follows from what the network sees of it, so that copies are left out together. One image has
    scores and maps, but no threshold.

    With ``contamination`` images are scored by the subspace of other folds first, and those with
    the highest scores are not learned from; copies stay together, and are learned where they are
    more than the share. Images are compared that are learned together: half a ``memory_budget`` of
    them, which comes on top, those of a call of ``partial_fit``, or of a part.

    With ``contamination`` the threshold must not follow from defective images. Of the share with
    the highest out-of-sample scores, those above the level that one normal image of all is expected
    to exceed have NaN among ``calibration_scores_``; ``suspects_`` has the scores of all and, of
    the first 100, the files where images came from files, which are saved, too. The level comes
    from the lower scores, whose upper tail is taken to be exponential. Copies of a defective image
    vouch for each other.

    References
    ----------
    C. Lendering, E. Akdag, E. Bondarev, "SubspaceAD: Training-Free Few-Shot Anomaly Detection via
    Subspace Modeling", CVPR 2026.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import SubspaceAD
    >>> rng = np.random.default_rng(0)
    >>> normal = rng.integers(90, 110, size=(8, 64, 64), dtype=np.uint8)
    >>> odd = normal[:2].copy()
    >>> odd[:, 20:40, 20:40] = 255
    >>> detector = SubspaceAD(image_size=64, random_state=0).fit(normal)
    >>> detector.predict(odd)
    array([-1, -1])
    """

    def __init__(
        self,
        backbone: str | nn.Module = "efficientnet_lite0",
        *,
        layers: Sequence[int | str] | str | None = None,
        weights: Path = "pretrained",
        final_norm: bool = False,
        explained_variance: float = 0.99,
        n_components: int | None = None,
        aggregate: str | tuple[str, float] = ("top", 0.01),
        neighborhood: int = 3,
        contamination: float = 0.0,
        reference_views: int | str | None = None,
        n_folds: int = 20,
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
        self.final_norm = final_norm
        self.explained_variance = explained_variance
        self.n_components = n_components
        self.aggregate = aggregate
        self.neighborhood = neighborhood
        self.contamination = contamination
        self.reference_views = reference_views
        self.n_folds = n_folds
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

    def _check_params(self):
        if not _is_share(self.explained_variance) or self.explained_variance == 1:
            raise ValueError(
                "explained_variance: expected a number in (0, 1), got "
                f"{self.explained_variance!r}. Dimensions are counted by n_components."
            )
        if self.n_components is not None:
            check_count("n_components", self.n_components)
        top_share(self.aggregate)
        check_odd("neighborhood", self.neighborhood)
        check_contamination(self.contamination)
        check_reference_views(self.reference_views)
        if self.contamination > 0 and self.reference_views is not None:
            raise ValueError(
                f"reference_views: expected None with contamination={self.contamination}, got "
                f"{self.reference_views!r}. Defects would be learned from other views."
            )
        check_count("n_folds", self.n_folds, minimum=2)
        parse_memory("memory_budget", self.memory_budget)

    def _build(self, generator):
        self.backbone_ = Backbone.for_estimator(self, generator)
        self._settings_ = _SubspaceSettings(
            float(self.explained_variance),
            self.n_components,
            top_share(self.aggregate),
            self.neighborhood,
            ReferenceViews.made(self.reference_views, generator),
        )
        return self.backbone_.input

    # -- learning ---------------------------------------------------------------------------------

    def _learn(self, batches, n_images, generator):
        is_first = not hasattr(self, "folds_")
        folds = FoldedStatistics(self.n_folds) if is_first else self.folds_.copy()
        store, n_read = None, 0
        for rows, grid in self._added(folds, batches):
            if store is None:
                room = max(1, parse_memory("memory_budget", self.memory_budget) // rows[0].nbytes)
                store = RowStore(None if n_images is None else min(room, n_images))
            store.append(rows[: room - store.n_images].unflatten(1, grid))
            n_read += len(rows)
        self._take_over(folds)
        new = slice(self.n_images_ - n_read, self.n_images_ - n_read + store.n_images)
        found = self._calibrate_rows(store.by_image, self._digests_[new])
        scores = self._old_scores()
        scores[new] = found.anomaly_scores
        self._remember(found)
        return scores

    def _learn_part(self, batches, n_images, portion):
        folds = FoldedStatistics(self.n_folds)
        for rows, grid in self._added(folds, batches):
            portion.keep(rows, grid)
        return folds

    def _merge_parts(self, parts, generator):
        first, *others = parts
        folds = first.copy()
        for other in others:
            folds.merge(other)
        return folds

    def _finish_part(self, part, generator):
        self._take_over(part)

    def _added(self, folds, batches):
        """Rows (B, P, D) of images and their grid, once they are in statistics by folds."""
        if self.contamination > 0:
            yield from self._added_but_suspects(folds, batches)
            return
        for images, (rows, grid, statistics) in batches.each(self._described):
            for digest, here in zip(self._digests_[-len(images) :], statistics, strict=True):
                folds.add(int(digest), here)
            yield rows, grid

    def _added_but_suspects(self, folds, batches):
        """The same, of as many images at a time as the memory budget holds, less odd images.

        These are the ones farthest from the subspace of the other folds of images at that time.
        """
        for rows, grid, digests in self._chunks(batches):
            here = FoldedStatistics(self.n_folds)
            _add_rows(here, rows, digests)
            self._take_over(here)
            squares = torch.stack(self._out_of_sample(rows, digests))
            scores = self._image_scores(squares, squares.shape[1])
            stays = ~are_farthest(scores.cpu().double().numpy(), digests, self.contamination)
            _add_rows(folds, rows[torch.from_numpy(stays).to(rows.device)], digests[stays])
            yield rows, grid

    def _chunks(self, batches):
        """Rows (n, P, D) of images, their grid and digests, half the memory budget at a time."""
        budget, store, n_done = parse_memory("memory_budget", self.memory_budget), None, None
        for images, (rows, grid) in batches.map(self._embed):
            check_finite(rows, images)
            self._check_components(rows.shape[2])
            if store is None:
                store, n_done = RowStore(None), len(self._digests_) - len(images)
            elif (store.n_images + len(rows)) * rows[0].nbytes > budget // 2:
                yield store.by_image, grid, self._digests_[n_done : n_done + store.n_images]
                store, n_done = RowStore(None), n_done + store.n_images
            store.append(rows)
        yield store.by_image, grid, self._digests_[n_done : n_done + store.n_images]

    def _described(self, images, batch):
        """Rows (B, P, D) of images, their grid, and each image's statistics, views included."""
        rows, grid = self._embed(batch)
        check_finite(rows, images)
        self._check_components(rows.shape[2])
        statistics = [GaussianStatistics.from_rows(here[None]) for here in rows]
        for seen in self._view_rows(batch):
            check_finite(seen, images)
            for known, here in zip(statistics, seen, strict=True):
                known.update(here[None])
        return rows, grid, statistics

    def _check_components(self, n_features):
        n_components = self._settings_.n_components
        if n_components is not None and n_components >= n_features:
            raise ValueError(
                f"n_components: expected fewer than the {n_features} features of a patch, got "
                f"{n_components}. A subspace of all of them leaves no residuals."
            )

    def _view_rows(self, batch):
        """Rows (B, n, D) of other views of images, one of each at a time."""
        views = self._settings_.views
        return () if views is None else views.rows(batch, self._embed)

    def _take_over(self, folds):
        """Learn the subspace of all folds, and those without each of them."""
        whole, settings = folds.whole(), self._settings_
        noise = rounding_scatter(whole)  # what is left of a whole is no more exact than that

        def learn(statistics):
            return Subspace.of(
                statistics, settings.explained_variance, settings.n_components, noise=noise
            )

        self.folds_, self.statistics_, self.subspace_ = folds, whole, learn(whole)
        self._left_out_ = []  # by the keys of the folds, ascending
        if len(folds.keys) > 1:
            others = [folds.folds[key] for key in folds.keys.tolist()]
            self._left_out_ = map_on(
                self.device_, lambda other: learn(whole.without(other)), others
            )

    @property
    def n_components_(self) -> int:
        return self.subspace_.n_components

    # -- calibration ------------------------------------------------------------------------------

    def _calibration_groups(self):
        return self.folds_.keys_of(self._digests_)

    def _calibrate_rows(self, rows, digests):
        images, grid = rows.flatten(1, 2), rows.shape[1:3]
        squares = torch.stack(self._out_of_sample(images, digests))
        lowest, examples = np.unique(digests, return_index=True)
        n_suspects = max(_N_SUSPECTS, 2 * self._settings_.n_top(images.shape[1]))
        cells = squares.topk(min(n_suspects, images.shape[1])).indices
        worst = images.gather(1, cells[:, :, None].expand(-1, -1, images.shape[2]))
        examples = squares[torch.from_numpy(examples[:N_EXAMPLES]).to(squares.device)]
        return PartialCalibration(
            digests,
            self._scores_out_of_sample(squares, images.shape[1]),
            lowest[:N_EXAMPLES],
            examples.unflatten(1, grid),
            Suspects.of(digests, cells, worst),
        )

    def _out_of_sample(self, images, digests):
        """Squares (P,) of the rows (n, P, D) of images, by subspaces without their folds.

        By the subspace of all where there is no other.
        """
        of_all = [self.subspace_] * len(self.folds_.keys)
        others = dict(zip(self.folds_.keys.tolist(), self._left_out_ or of_all, strict=True))

        def measure(one):
            rows, key = one  # no key: the image was not learned from
            return others.get(key, self.subspace_).squares(rows)

        keys = self.folds_.keys_of(digests).tolist()
        return map_on(images.device, measure, zip(images, keys, strict=True))

    def _scores_out_of_sample(self, squares, n_patches):
        """Scores (n,) of images from squares (n, k) out of sample; NaN where there is no other."""
        scores = self._image_scores(squares, n_patches).cpu().double().numpy()
        return scores if self._left_out_ else np.full_like(scores, math.nan)

    def _old_scores(self):
        """Scores of all images by their suspects and what has become of the subspaces; NaN without.

        Those of the latest images are still to come.
        """
        if not hasattr(self, "_suspects_"):
            return np.full(self.n_images_, math.nan)
        suspects = self._suspects_
        squares = torch.stack(self._out_of_sample(suspects.rows, suspects.digests))
        found = self._scores_out_of_sample(squares, self._examples_[0].numel())
        return scores_by_digest(self._digests_, suspects.digests, found)

    def _keep_examples(self, notes):
        """Grids were kept when the images were calibrated."""

    # -- scoring ----------------------------------------------------------------------------------

    def _embed(self, batch):
        """Patch rows (B, P, D) and their grid (h, w)."""
        maps = self.backbone_.trainable_maps(batch)
        if len({grid.shape for grid in maps}) == 1:
            maps = [torch.stack(maps).mean(0)]
        embedding = patch_embedding(maps, neighborhood=self._settings_.neighborhood)
        return grid_rows(embedding), embedding.shape[-2:]

    def _infer(self, batch):
        rows, grid = self._embed(batch)
        squares = self.subspace_.squares(rows)  # (B, P)
        return self._image_scores(squares, squares.shape[1]), squares.unflatten(1, grid)

    def _image_scores(self, squares, n_patches):
        """Scores (n,) of images of so many patches, from the largest (n, k) of their squares."""
        return squares.topk(self._settings_.n_top(n_patches), dim=1).values.mean(1)


def _add_rows(folds, images, digests):
    """Add the rows (n, P, D) of images to statistics by folds."""
    found = each_on(images.device, GaussianStatistics.from_rows, images[:, None])
    for digest, statistics in zip(digests.tolist(), found, strict=True):
        folds.add(digest, statistics)


def _is_share(value):
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value <= 1
