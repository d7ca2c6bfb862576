"""PatchCore that a few labeled defects correct."""

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from ...annotations import Device, Images, Path, RandomState, Size
from ...backbones.patches import n_on_top, rebatch
from ...contexts import plain
from ...data.choosing import choosable, n_samples, numbered_as_given, take
from ...data.scales import ScaleCheck
from ...density.anchored import AnchoredLogistic, held_out_log_odds
from ...notes import N_EXAMPLES, Notes, digest_of
from ...ranking import SuspectImages
from ...runtime import exact_dtype, inner_fit
from ...search.distance import squared_distance
from ...validation import check_finite, check_positive, check_share
from ...workers import map_on
from .detector import PatchCore, picked
from .evidence import Evidence
from .masked import LabeledPatches, Mark, masks_of_defects, patch_values

_LEAST = 3  # good images that differ, so that two are left where one is held out
_WORDS = {False: "good", True: "defective"}


class LabeledPatchCore(PatchCore):
    """PatchCore that learns from a few labeled defects, too.

    Without labels, or with labels of good parts alone, it is :class:`PatchCore`. With some images
    labeled as defective it learns the good ones as that does; then a logistic regression tells
    which of the anomalies are defects. It sees, of each image, the logarithm of PatchCore's anomaly
    score and ``evidence``: the mean features of the patches that are most anomalous. Its weights
    are shrunk towards PatchCore's own order of images: few labels change little. Masks of some of
    the defects teach another regression, in the same way, which patches are defective.

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
    evidence : float, default=0.05
        Share of an image's patches, those with the highest anomaly values, whose mean features the
        labels are compared by; in (0, 1].
    C : float, default=0.01
        How far labels may change the order of anomaly scores: inverse strength of the shrinkage, as
        in scikit-learn's ``LogisticRegression``. Lower keeps closer to PatchCore.
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
    label_head_ : AnchoredLogistic
        The regression of images; None where no defects were labeled, or all of them have masks.
    patch_head_ : AnchoredLogistic
        The regression of patches, by their distances and rows; None without masks.
    defect_scores_ : ndarray of shape (n_defects,)
        ``score_samples`` of the labeled defects, each by a regression that had no part in it (20
        folds); NaN of an only one, and of the only one with a mask. Empty where no defects were
        labeled.
    evidence_ : Evidence
        What labels are learned from: ``scores``, ``rows``, ``digests``, ``is_bad``, ``has_mask``
        and ``is_trusted`` of the images, in the order in which they were given; None without
        labels.
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of each image of a good part, against a bank of images in other parts, and
        by regressions that it had no part in.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    suspects_ : SuspectImages
        The images of good parts, the one that belongs least among them first.
    n_images_ : int
        Images of good parts learned from.
    memory_bank_, coreset_radius_, backbone_, device_, whitener_
        As of :class:`PatchCore`.

    Notes
    -----
    With labels, anomaly scores are log-odds of a defect, where defects are as frequent as good
    parts; without, distances. With masks, ``log(1 + odds)`` of a defect takes the place of patches'
    distances, in maps and in scores, and ``n_reweight`` plays no role. Where all labeled defects
    have masks, scores are by these alone: labels of the same images would add nothing but noise.

    The good images pass through the network twice, since their evidence is read out of sample, and
    with masks three times. It is kept, so that ``partial_fit`` adds labeled defects without the
    good images. Detectors that
    learn in parts (``partial_state``) have no labels.

    References
    ----------
    K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall in
    Industrial Anomaly Detection", CVPR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalib_lite import LabeledPatchCore
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(90, 110, size=(12, 64, 64), dtype=np.uint8)
    >>> images[10:, 20:40, 20:40] = 255
    >>> y = np.repeat([1, -1], [10, 2])
    >>> detector = LabeledPatchCore(image_size=64, false_alarm_rate=0.1, random_state=0)
    >>> detector.fit(images, y).predict(images[8:])
    array([ 1,  1, -1, -1])
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
        evidence: float = 0.05,
        C: float = 0.01,
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
        super().__init__(
            backbone,
            layers=layers,
            weights=weights,
            final_norm=final_norm,
            image_size=image_size,
            center_crop=center_crop,
            aggregation=aggregation,
            neighborhood=neighborhood,
            normalize=normalize,
            whiten=whiten,
            reference_views=reference_views,
            region=region,
            coreset=coreset,
            projection=projection,
            contamination=contamination,
            positions=positions,
            n_reweight=n_reweight,
            aggregate=aggregate,
            smoothing=smoothing,
            false_alarm_rate=false_alarm_rate,
            memory_budget=memory_budget,
            batch_size=batch_size,
            n_jobs=n_jobs,
            device=device,
            engine=engine,
            dtype=dtype,
            random_state=random_state,
            verbose=verbose,
        )
        self.evidence = evidence
        self.C = C

    _learns_labels = True

    def _check_params(self):
        super()._check_params()
        check_share("evidence", self.evidence)
        check_positive("C", self.C)

    def _start(self):
        super()._start()
        self.label_head_ = self.patch_head_ = self.evidence_ = None
        self._counts_ = self._shrinkage_ = None
        self.defect_scores_ = np.empty(0)

    # -- learning ---------------------------------------------------------------------------------

    @plain
    def fit(
        self,
        X: Images,
        y: ArrayLike | None = None,
        masks: Sequence[ArrayLike | Path | None] | None = None,
    ):
        """Learn what good parts look like and, from labels, which anomalies are defects.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; with labels only what can be indexed, or a folder, whose images are
            taken in the order of their names. See :mod:`anomalib_lite.data.images`.
        y : array-like of shape (n_images,) or None, default=None
            +1 for good parts, -1 for defective ones. None: all are good.
        masks : sequence of n_images (array-like of shape (H, W), path or None), or None
            Where the defects of defective images are, as :func:`~anomalib_lite.data.read_mask`
            reads it, of the image's size; None for good images, and where it is unknown. A few are
            enough for much better maps, and scores.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If a parameter, an image, a label or a mask is invalid, or if the same image is labeled
            both good and defective. A fit that fails leaves the estimator as it was before.
        """
        if y is None:
            if masks is not None:
                raise ValueError("masks: expected labels y beside masks of defects, got none.")
            return super().fit(X)
        X = choosable(X)
        is_bad = defects_of(y, n_samples(X))
        good = np.flatnonzero(~is_bad)
        if len(good) == 0 and len(is_bad):
            raise ValueError("y: expected labels of good parts, too, got -1 for all images.")
        with self._learning() as learner:
            learner._start()
            marks = learner._marks_of(masks, X, is_bad)
            with inner_fit(), numbered_as_given(good):
                learner._fit_images(take(X, good))
            learner._learn_labels(X, is_bad, marks)
        return self

    def fit_predict(
        self,
        X: Images,
        y: ArrayLike | None = None,
        masks: Sequence[ArrayLike | Path | None] | None = None,
    ) -> np.ndarray:
        """Fit, and label the same images by their out-of-sample scores.

        Parameters
        ----------
        X, y, masks : as for ``fit``

        Returns
        -------
        labels : ndarray of shape (n_images,)
            +1 normal, -1 anomalous. The only labeled defect has no out-of-sample score: it is
            scored as a new image.
        """
        if y is None and masks is None:
            return super().fit_predict(X)
        X = choosable(X)
        self.fit(X, y, masks)
        is_bad = defects_of(y, n_samples(X))
        scores = np.empty(len(is_bad))
        scores[~is_bad], scores[is_bad] = self.calibration_scores_, self.defect_scores_
        unknown = np.flatnonzero(np.isnan(scores))
        if len(unknown):
            scores[unknown] = self.score_samples(take(X, unknown))
        return self._labels(scores)

    @plain
    def partial_fit(self, X: Images, y: ArrayLike | None = None):
        """Learn from more labeled defects or, where there were never labels, more good images.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; with labels only what can be indexed. See :mod:`anomalib_lite.data.images`.
        y : array-like of shape (n_images,) or None, default=None
            -1 for all images: defects, from which only the regression learns. They need a detector
            that was fitted with labels, if only of good parts. None, or +1 for all: good images for
            the memory bank of a detector without labels. The first call is a ``fit``. A threshold
            that was set by hand is set anew by the ``false_alarm_rate``.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If labels are mixed, or do not go with those of ``fit``; the estimator is then as it was
            before.
        """
        if y is not None and not self._is_fitted:
            return self.fit(X, y)
        if y is not None:
            X = choosable(X)
            is_bad = defects_of(y, n_samples(X))
            if is_bad.any():
                return self._add_defects(X, is_bad)
        if self._has_labels:
            raise ValueError(
                "partial_fit: expected -1 as labels, since this detector was fitted with labels. "
                "Learning more good images would need the earlier ones: fit it on all of them."
            )
        return super().partial_fit(X)

    def _add_defects(self, X, is_bad):
        if not is_bad.all():
            raise ValueError(
                "y: expected -1 for all images, got labels of good parts, too. Defects alone can "
                "be added to what was learned; fit on all images otherwise."
            )
        if not self._has_labels:
            raise ValueError(
                "partial_fit: expected a detector that was fitted with labels. Give fit a label "
                "for each image, +1 if they are all good."
            )
        with self._learning() as learner:
            learner._check_all_params()
            learner._learn_labels(X, is_bad, {})
        return self

    @property
    def _has_labels(self):
        return vars(self).get("evidence_") is not None

    def _learn_labels(self, X, is_bad, marks):
        """Learn from labels of images, of which the good ones are learned; sets the threshold."""
        earlier = [self.evidence_] if self._has_labels else []
        evidence = Evidence.joined([*earlier, self._evidence_of(X, is_bad, marks)])
        self.evidence_, is_bad, trusted = evidence, evidence.is_bad, evidence.is_trusted
        if is_bad.any():
            self._check_enough_good(evidence.digests[trusted & ~is_bad])
            given = evidence.scores[trusted], evidence.rows[trusted], is_bad[trusted]
            odds = np.full(len(is_bad), np.nan)
            if (is_bad & trusted & ~evidence.has_mask).any():
                self.label_head_ = AnchoredLogistic.fit(*given, self._shrinkage_)
                distinct = evidence.digests[trusted]
                odds[trusted] = held_out_log_odds(*given, distinct, self._shrinkage_)
            else:  # masks say more than labels, and scores are by them alone
                odds[trusted] = given[0]
            self.calibration_scores_, self.defect_scores_ = -odds[~is_bad], -odds[is_bad]
            self._rank_by(odds)
            if self.label_head_ is not None:
                self.label_head_ = self.label_head_.to(self.device_)
        self._set_offset()

    def _rank_by(self, odds):
        """Rank the good images by log-odds (n,): of those not trusted nothing was learned."""
        ranking, evidence = vars(self).pop("_ranking_", None), self.evidence_
        if self._contamination > 0:
            of_all, head = evidence.scores, self.label_head_
            if head is not None:
                given = torch.from_numpy(evidence.scores), torch.from_numpy(evidence.rows)
                of_all = head.log_odds(*given).numpy()
            odds = np.where(evidence.is_trusted, odds, of_all)[~evidence.is_bad]
            self._ranking_ = SuspectImages.of(odds, {} if ranking is None else ranking.paths)

    def _check_enough_good(self, digests):
        n_distinct = len(np.unique(digests))
        if n_distinct < _LEAST:
            raise ValueError(
                f"X: expected {_LEAST} or more images of good parts that differ, beside defective "
                f"ones, got {n_distinct}. Fit on more."
            )

    def _marks_of(self, masks, X, is_bad):
        """Where the defects are, of the images that have a mask."""
        found, network = {}, self.backbone_
        for i, mask in masks_of_defects(masks, is_bad):
            found[i] = mark = Mark.of(mask, network.input, network.grid)
            if not self._share_of_rows(mark).any():
                raise ValueError(
                    f"masks[{i}]: expected a defect in the part of the image that is looked at, "
                    "got one outside of it. Look at center_crop and region, or take None."
                )
        marked = np.array([*found], dtype=int)
        with numbered_as_given(marked):  # before a long fit
            for image in self._open(take(X, marked)) if len(marked) else ():
                mask_size = found[marked[image.index]].size
                if mask_size != image.size:
                    raise ValueError(
                        f"{image.label}: expected a mask of its size {image.size}, got {mask_size}."
                    )
        return found

    def _share_of_rows(self, mark):
        """How much of each described patch (P,) is defective."""
        share, region = mark.share.ravel(), self._settings_.region
        return share if region is None else share[region.places.cpu().numpy()]

    def _evidence_of(self, X, is_bad, marks):
        """Evidence of images by PatchCore and, where there are marks of defects, what they tell."""
        self.label_head_ = None
        known, earlier, looked = {}, np.empty(0, np.int64), []
        if self._has_labels:
            earlier = self.evidence_.digests
            labels = [("one of an earlier call", bad) for bad in self.evidence_.is_bad.tolist()]
            known = dict(zip(earlier.tolist(), labels, strict=True))
        notes = Notes(earlier)
        heads, grids = self._learn_masks(X, is_bad, marks) if marks else ({}, {})

        def see(image, pixels, digest):
            label = bool(is_bad[image.index])
            first, its_label = known.setdefault(digest, (image.label, label))
            if its_label != label:
                raise ValueError(
                    f"{image.label}: labeled {_WORDS[label]}, but its pixels are those of {first}, "
                    f"which is labeled {_WORDS[its_label]}. Correct one of the labels, or leave "
                    "both images out."
                )
            notes.see(image, pixels, digest)

        batches = self._batches(
            self._open(X),
            "labels",
            scale=ScaleCheck(self.value_range_),
            learn=see,
            digest=digest_of,
        )
        for rows in self._rows_of(batches):
            n_done = len(looked)
            digests = notes.digests[len(earlier) :][n_done : n_done + len(rows)]
            here = is_bad[n_done : n_done + len(rows)]
            looked += self._looked_at(rows, digests, here, heads, grids)
        notes.warn_of_copies()
        if grids:
            values = self._on_grid(torch.stack([*grids.values()]), self.backbone_.grid)
            self._set_examples(values, np.array([*grids]))
        scores, rows = (np.stack(each) for each in zip(*looked, strict=True))
        digests = notes.digests[len(earlier) :].copy()
        for i in np.flatnonzero(np.isin(digests, earlier)):  # of a copy nothing new is known
            first = np.flatnonzero(earlier == digests[i])[0]
            scores[i], rows[i] = self.evidence_.scores[first], self.evidence_.rows[first]
        trusted = ~np.isnan(scores)
        if not is_bad.all():
            trusted[~is_bad] &= ~np.isnan(self.calibration_scores_)
        has_mask = np.isin(np.arange(len(is_bad)), [*marks])
        return Evidence(scores, rows, digests, is_bad, has_mask, trusted)

    def _rows_of(self, batches):
        """Patch rows (n, P, D) of as many images at a time as the memory budget has room for."""

        def each():
            for images, (rows, _) in batches.map(self._embed):
                check_finite(rows, images)
                yield rows

        pieces = each()
        first = next(pieces)
        n_patches = first.shape[1]
        if self._counts_ is None:  # later set_params calls must not alter what evidence is
            self._counts_ = super()._n_counted(n_patches), n_on_top(self.evidence, n_patches)
            self._shrinkage_ = self.C
        yield from rebatch(chain([first], pieces), max(1, self._capacity(*first.shape[1:])))

    def _learn_masks(self, X, is_bad, marks):
        """Learn which patches are defective.

        Returns
        -------
        heads : dict of AnchoredLogistic or None
            By its digest, of each image that was learned from a regression that it had no part in.
        grids : dict of None
            The digests of some good images, as keys, whose anomaly values are wanted.
        """
        good = np.flatnonzero(~is_bad)[~np.isnan(self.calibration_scores_)]
        chosen, digests, found = np.sort([*good, *marks]), [], []
        shares = [self._share_of_rows(marks[i]) if i in marks else None for i in chosen]
        batches = self._batches(
            self._open(take(X, chosen)),
            "masks",
            scale=ScaleCheck(self.value_range_),
            learn=lambda _image, _pixels, digest: digests.append(digest),
            digest=digest_of,
        )
        with numbered_as_given(chosen):
            for rows in self._rows_of(batches):
                here = slice(len(found), len(found) + len(rows))
                found += self._patches_of(rows, np.array(digests[here]), shares[here])
        patches, of_good = LabeledPatches.joined(found), np.array(digests)[~is_bad[chosen]]
        self._check_enough_good(of_good)
        head = patches.head(self._shrinkage_)
        others = patches.heads_without(self._shrinkage_, head)
        self.patch_head_ = head.to(self.device_)
        heads = {digest: None for digest in digests}  # of an only one there is no other
        heads |= {digest: other.to(self.device_) for digest, other in others.items()}
        return heads, dict.fromkeys(np.unique(of_good)[:N_EXAMPLES].tolist())

    def _patches_of(self, rows, digests, shares):
        """Labeled patches of each of some images by their rows (n, P, D)."""
        found = [None] * len(rows)

        def look(i, bank):
            distances, _ = bank.query(rows[i])
            found[i] = LabeledPatches.of(distances, rows[i], int(digests[i]), shares[i])

        is_bad = np.array([share is not None for share in shares])
        self._each_out_of_sample(look, digests, is_bad, rows.device)
        return found

    def _looked_at(self, rows, digests, is_bad, heads, grids):
        """(score, evidence (D,)) of each of some images by their rows (n, P, D).

        By masks where there are some; the anomaly values of the images in ``grids`` are kept there.
        """
        found = [None] * len(rows)
        own, n = self._counts_

        def look(i, bank):
            digest = int(digests[i])
            head = heads.get(digest, self.patch_head_)
            if head is None or bank is None:  # without masks, or none but its own
                patches, score = self._out_of_sample(rows[i], bank, own, max(own, n))
                score = score if self.patch_head_ is None else torch.tensor(torch.nan)
            else:
                values = patch_values(head, bank.query(rows[i])[0], rows[i])
                on_top, patches = values.topk(max(own, n))
                score = on_top[:own].mean()
                if digest in grids:
                    grids[digest] = values.float()
            (evidence,) = _mean(rows[i][patches[:n]][None])
            found[i] = np.float64(score), evidence.double().cpu().numpy()

        self._each_out_of_sample(look, digests, is_bad, rows.device)
        return found

    def _each_out_of_sample(self, function, digests, is_bad, device):
        """Call ``function(i, bank)`` of images, with a bank that they have no part in."""
        good, bad = np.flatnonzero(~is_bad), np.flatnonzero(is_bad)
        for _ in self._by_parts(lambda k, bank: function(good[k], bank), digests[good], device):
            pass
        map_on(device, lambda i: function(i, self.memory_bank_), bad.tolist())

    # -- what labels do not go with ---------------------------------------------------------------

    def _calibrate_rows(self, rows, digests):
        self._refuse_labels()
        return super()._calibrate_rows(rows, digests)

    def _take_calibration(self, calibration):
        self._refuse_labels()
        super()._take_calibration(calibration)

    def _refuse_labels(self):
        if self._has_labels and self.evidence_.is_bad.any():
            raise ValueError(
                "calibration in parts: expected a detector that has learned no labels of defects, "
                "whose scores out of sample take all images at once. They are in "
                "calibration_scores_."
            )

    def _learned_defects(self):
        if not self._has_labels:
            return super()._learned_defects()
        bad = self.evidence_.digests[self.evidence_.is_bad]
        return bad, self.defect_scores_

    # -- scoring ----------------------------------------------------------------------------------

    def rank_for_labels(self, X: Images) -> np.ndarray:
        """Which images to look at next, to label those that are defective.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images that nobody has looked at; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        order : ndarray of shape (n_images,), int
            Places of the images in X: those whose scores are nearest to the threshold first, about
            which the detector is least sure.

        Raises
        ------
        ValueError
            If an image cannot be read or checked, or if there is no threshold.
        """
        return np.abs(self.decision_function(X)).argsort(kind="stable")

    def _infer(self, batch):
        if self.patch_head_ is None:
            return super()._infer(batch)
        rows, grid = self._embed(batch)
        distance, index = self._searched(rows)
        values = patch_values(self.patch_head_, distance, rows)
        return self._scores_by(values, rows, distance, index), self._on_grid(values.float(), grid)

    def _score(self, batch):
        if self.patch_head_ is None:
            return super()._score(batch)
        rows, _ = self._embed(batch)
        distance, index = self._searched(rows.detach())
        values = patch_values(self.patch_head_, distance, rows.detach())
        return self._scores_by(values, rows, distance, index)

    def _searched(self, rows):
        """Distances (B, P) of patches (B, P, D) to the bank, and its rows at these distances."""
        found = [self.memory_bank_.query(image_rows) for image_rows in rows]
        return [torch.stack(part) for part in zip(*found, strict=True)]

    def _scores_by(self, values, rows, distance, index):
        """Scores (B,) of images by those of their patches with the highest values (B, P)."""
        own, n = self._counts_
        patches = values.topk(max(own, n), 1).indices
        counted, distance = picked(rows, patches), distance.gather(1, patches)
        if counted.requires_grad:  # the same distances, differentiable
            near = self.memory_bank_.rows[index.gather(1, patches)]
            distance = squared_distance(counted, near).sqrt()
        on_top = patch_values(self.patch_head_, distance[:, :own], counted[:, :own])
        scores = on_top.mean(1)
        if self.label_head_ is None:
            return scores
        return self.label_head_.log_odds(scores, _mean(counted[:, :n]))

    def _n_counted(self, n_patches):
        own = super()._n_counted(n_patches)
        return own if self.label_head_ is None else max(self._counts_)

    def _image_scores(self, rows, distance, index, bank):
        if self.label_head_ is None:
            return super()._image_scores(rows, distance, index, bank)
        own, n = self._counts_
        counted = (part[:, :own] for part in (rows, distance, index))
        scores = super()._image_scores(*counted, bank)
        return self.label_head_.log_odds(scores, _mean(rows[:, :n]))


def defects_of(y: ArrayLike, n_images: int) -> np.ndarray:
    """Which images (n_images,) are labeled defective; ValueError for labels that are none.

    Examples
    --------
    >>> defects_of([1, -1, 1], 3)
    array([False,  True, False])
    """
    y = np.asarray(y)
    if y.shape != (n_images,):
        raise ValueError(
            f"y: expected a label for each of {n_images} images, got an array of shape {y.shape}."
        )
    is_label = np.isin(y, (1, -1)) if y.dtype.kind in "iuf" else np.zeros(len(y), dtype=bool)
    if not is_label.all():
        i = int(np.flatnonzero(~is_label)[0])
        raise ValueError(
            "y: expected +1 for images of good parts and -1 for defective ones, got "
            f"{y.tolist()[i]!r} for image {i}."
        )
    return y == -1


def _mean(rows):
    """Mean (B, D) of rows (B, n, D), in float64 where there is one."""
    return rows.to(exact_dtype(rows.device)).mean(1)
