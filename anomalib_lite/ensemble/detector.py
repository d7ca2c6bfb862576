"""DetectorEnsemble: several detectors as one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import clone

from ..annotations import Device, Images, RandomState, Size
from ..backbones.maps import MapRenderer
from ..base import BaseDetector
from ..inspection import MapLevels
from ..notes import Notes
from ..ranking import SuspectImages
from ..runtime import draw_seed, exact_dtype, inner_fit, make_generator, seed_estimator, twin_of
from ..validation import as_pair, check_choice
from .inputs import JointInput, described, digests_of, parts_of, without_patches
from .lockstep import learn_together
from .panel import Panels
from .scales import COMBINATIONS, Scales
from .sharing import Sharing, Watch


class DetectorEnsemble(BaseDetector):
    r"""Several detectors as one: each finds what it can find, and one threshold decides.

    No single view of an image finds every kind of defect: small ones need fine patches, a changed
    weave or color the image as a whole. The members of an ensemble learn from the same images.
    Their anomaly scores come onto one scale by what they say of normal images out of sample,

    .. math:: z_k = \frac{s_k - \mu_k}{\sigma_k},

    with the mean and the standard deviation of these scores, and the ensemble's score is the
    highest of them, or their sum. Its threshold is read from combined scores, out of sample, too:
    one false-alarm rate, however many members there are.

    Images are decoded once for all members, and a pretrained network that several members read
    runs once.

    Parameters
    ----------
    detectors : list of estimators, or of (name, estimator)
        Two or more detectors of images of this package, or subclasses of
        :class:`~anomalib_lite.BaseDetector`; they are cloned, and take ``false_alarm_rate``,
        ``device``, ``batch_size``, ``n_jobs`` and ``verbose`` from the ensemble. Without names they
        are called by their classes, in lower case.
    combine : {"max", "sum"}, default="max"
        How members' scores become one. ``"max"``: an image is as anomalous as the member says that
        finds most. ``"sum"`` is better where all members see the same defects, each with noise of
        its own.
    smoothing : float, default=0.0
        Standard deviation of the maps' Gaussian blur, in pixels of the resized image. The members'
        maps have been smoothed by their own before.
    false_alarm_rate : float, default=0.01
        Share of normal images that ``predict`` may call anomalous, as far as the normal images of
        ``fit`` can tell.
    batch_size : int, default=32
        Images that pass through the network together on an accelerator; on a CPU each passes alone.
    n_jobs : int or None, default=None
        Number of workers; None is as many as there are processors that this process may use, up
        to four, and -1 all. Results do not depend on it.
    device : str or torch.device, default="auto"
        Where tensors live; ``"auto"`` is CUDA if available, else the CPU.
    random_state : None, int, RandomState or Generator, default=None
        Seed of everything random: it seeds members whose own is None.
    verbose : bool, default=False
        Show progress bars.

    Attributes
    ----------
    members_ : list of detectors
        Fitted, as they would be alone: with their own thresholds, at the ensemble's rate.
    names_ : list of str
    scales_ : Scales
        ``means`` and ``deviations`` of the members' anomaly scores of normal images, each of shape
        (n_members,).
    calibration_scores_ : ndarray of shape (n_images,)
        ``score_samples`` of the normal images, out of sample; NaN where a member has none, as of
        images that it suspects by its ``contamination``.
    offset_ : float
        The ``false_alarm_rate`` quantile of these: the threshold of ``predict``.
    suspects_ : SuspectImages
        The images learned from, those that members suspect included, the one that belongs least
        among them first, by their out-of-sample anomaly scores: ``indices``, ``scores`` and
        ``names``.
    n_images_ : int
        Images learned from.
    device_ : torch.device

    Notes
    -----
    Maps show, at each place, the highest of what the members' maps say there, on a scale on which 0
    is a member's normal and 1 its threshold at fit. They have a cell for 4 x 4 pixels of the image
    as it is resized for the finest network.

    Where members keep some images aside to calibrate on, as those that train networks do, only
    images that all of them kept aside calibrate the ensemble. Set a threshold with
    ``set_threshold(images=...)`` where none are left.

    Examples
    --------
    >>> from anomalib_lite import DeepOneClass, DetectorEnsemble, PatchCore
    >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
    >>> local = PatchCore(image_size=64)
    >>> whole = DeepOneClass(image_size=64)
    >>> ensemble = DetectorEnsemble([local, whole], false_alarm_rate=0.1, random_state=0)
    >>> odd = images[:2].copy()
    >>> odd[:, 20:40, 20:40] = 255
    >>> ensemble.fit(images).predict(odd)
    array([-1, -1])
    >>> ensemble.names_, ensemble.member_scores(odd).shape
    (['patchcore', 'deeponeclass'], (2, 2))
    """

    def __init__(
        self,
        detectors: Sequence[Any],
        *,
        combine: str = "max",
        smoothing: float = 0.0,
        false_alarm_rate: float = 0.01,
        batch_size: int = 32,
        n_jobs: int | None = None,
        device: Device = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
    ):
        self.detectors = detectors
        self.combine = combine
        self.smoothing = smoothing
        self.false_alarm_rate = false_alarm_rate
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def local_and_global(
        cls,
        local: BaseDetector | None = None,
        whole: BaseDetector | None = None,
        *,
        image_size: Size = 448,
        **params: Any,
    ) -> Self:
        """For defects of any kind: PatchCore for small ones, and the image as a whole for others.

        Parameters
        ----------
        local : BaseDetector or None, default=None
            None: ``PatchCore(coreset=10_000, image_size=image_size)``.
        whole : BaseDetector or None, default=None
            None: ``DeepOneClass(image_size=image_size)``, a Gaussian of mean features.
        image_size : int or tuple (H, W), default=448
        **params
            Of the ensemble.

        Returns
        -------
        ensemble : DetectorEnsemble
            Not fitted.

        Examples
        --------
        >>> from anomalib_lite import DetectorEnsemble
        >>> [name for name, _ in DetectorEnsemble.local_and_global(random_state=0).detectors]
        ['local', 'global']
        """
        from ..methods.deep_one_class import DeepOneClass
        from ..methods.patchcore import PatchCore

        local = PatchCore(coreset=10_000, image_size=image_size) if local is None else local
        whole = DeepOneClass(image_size=image_size) if whole is None else whole
        return cls([("local", local), ("global", whole)], **params)

    @classmethod
    def all_kinds(cls, image_size: Size = 448, **params: Any) -> Self:
        """For defects of any kind where no defect is known: three views, none of them chosen.

        PatchCore at half of the image size, with 10,000 rows; PatchCore with white patches at all
        of it, with 2,000, since exact searches of many white rows are slow; and a Gaussian of the
        means and deviations of all features of the image: ``combine="sum"``, so that none of them
        decides alone.

        Parameters
        ----------
        image_size : int or tuple (H, W), default=448
            Of the finer two.
        **params
            Of the ensemble.

        Returns
        -------
        ensemble : DetectorEnsemble
            Not fitted.

        Examples
        --------
        >>> from anomalib_lite import DetectorEnsemble
        >>> [name for name, _ in DetectorEnsemble.all_kinds(random_state=0).detectors]
        ['coarse', 'fine', 'whole']
        """
        from ..methods.deep_one_class import DeepOneClass
        from ..methods.patchcore import PatchCore

        half = tuple(-(-side // 2) for side in as_pair("image_size", image_size))
        members = [
            ("coarse", PatchCore(coreset=10_000, image_size=half)),
            ("fine", PatchCore(coreset=2_000, image_size=image_size, whiten=True)),
            ("whole", DeepOneClass(image_size=image_size, pooling="mean_std")),
        ]
        return cls(members, **{"combine": "sum"} | params)

    # -- parameters -------------------------------------------------------------------------------

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; of members as ``name__parameter``."""
        params = super().get_params(deep=False)
        for name, detector in _names(self.detectors).items() if deep else ():
            params[name] = detector
            if hasattr(detector, "get_params") and not isinstance(detector, type):
                inner = detector.get_params(deep=True).items()
                params |= {f"{name}__{key}": value for key, value in inner}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name: ``detectors``, then members by their names, then all others.

        Parameters
        ----------
        **params
            New values; ``name__parameter`` reaches the parameter of a member.

        Returns
        -------
        self : object
        """
        before = self.detectors
        detectors = params.pop("detectors", before)
        members = _names(detectors)
        replaced = {name: params.pop(name) for name in members if name in params}
        if replaced:
            detectors = [*(members | replaced).items()]
        try:
            if detectors is not before:
                super().set_params(detectors=detectors)
            return super().set_params(**params)
        except BaseException:
            self.detectors = before
            raise

    def _check_params(self):
        check_choice("combine", self.combine, COMBINATIONS)
        named = _named(self.detectors)
        if len(named) < 2:
            raise ValueError(f"detectors: expected two or more, got {len(named)}.")
        for name, detector in named:
            takes_labels = getattr(detector, "_learns_labels", False)
            if takes_labels and isinstance(detector, BaseDetector):
                raise ValueError(
                    f"detectors: expected detectors that learn no labels, got "
                    f"{type(detector).__name__} as {name}. An ensemble has none for it: take "
                    "PatchCore."
                )
            if not isinstance(detector, BaseDetector) or isinstance(detector, DetectorEnsemble):
                raise ValueError(
                    f"detectors: expected detectors of images, such as PatchCore() and "
                    f"DeepOneClass(), got {type(detector).__name__} as {name}."
                )

    def _build(self, generator):
        named = _named(self.detectors)
        self._panels_, self.names_ = Panels(), [name for name, _ in named]
        self.members_ = [clone(detector) for _, detector in named]
        for member in self.members_:
            seed_estimator(member, draw_seed(generator))
            self._lead(member)
            member._start()
            if member.input_ is None:
                raise ValueError(
                    f"detectors: expected detectors of images, got a {type(member).__name__} of "
                    "a table."
                )
        return JointInput.of([member.input_ for member in self.members_])

    def _lead(self, member):
        """Give a member the parameters that are the ensemble's to set."""
        for name in ("false_alarm_rate", "batch_size", "n_jobs", "device", "verbose"):
            if hasattr(member, name):
                setattr(member, name, getattr(self, name))

    # -- learning ---------------------------------------------------------------------------------

    def _learn(self, batches, n_images, generator):
        members, sharing = self.members_, Sharing(self.members_)
        notes = [Notes(member._digests_) for member in members]
        learns = [
            partial(_learned, member, n_images, make_generator(member.random_state))
            for member in members
        ]
        batches = replace(
            batches,
            digest=partial(digests_of, self.input_),
            learn=partial(self._note_by_each, batches.learn, notes),
        )
        own = {place: members[place].backbone_ for place in sharing.readers}
        try:
            for place, reader in sharing.readers.items():
                members[place].backbone_ = reader
            found = learn_together(learns, lambda work: self._deliveries(batches, work, sharing))
        finally:
            for place, backbone in own.items():
                if members[place].backbone_ is sharing.readers[place]:
                    members[place].backbone_ = backbone
        with inner_fit():
            for member, scores, noted in zip(members, found, notes, strict=True):
                member._calibrate_threshold(scores, noted.paths)
                member._keep_examples(noted)
        scores = -np.stack([member.calibration_scores_ for member in members], 1)  # (n, k)
        self._check_enough(scores)
        levels = [member.map_levels() for member in members]
        self.scales_ = Scales.of(scores, levels, self.combine)
        return self._combined(scores)

    def _check_enough(self, scores):
        for name, column in zip(self.names_, scores.T, strict=True):
            if np.sum(~np.isnan(column)) < 2:
                raise ValueError(
                    f"X: expected images enough for {name} to say something of two of them out of "
                    f"sample, got {len(column)}. Fit on more."
                )

    def _note_by_each(self, learn, notes, image, pixels, digests):
        """Let the ensemble, and each member, take note of an image."""
        learn(image, pixels, digests.whole)
        parts = parts_of(self.input_, pixels[None])
        for member, noted in zip(self.members_, notes, strict=True):
            seen = without_patches(member.input_)
            member._note(noted, image, parts[seen][0], digests.parts[seen])

    def _deliveries(self, batches, work, sharing):
        """For each batch what is handed to each member, who has taken note of its images."""
        members = self.members_
        seen = [without_patches(member.input_) for member in members]

        def work_on(images, batch):
            parts = parts_of(self.input_, batch)
            results, watch = [], Watch(parts.values())
            try:
                for place, each in enumerate(seen):
                    results.append(work(place, images, parts[each]))
                    watch.check(members[place])
            finally:
                sharing.forget()
            return results

        for images, results in batches.each(work_on):
            yield [(images, result) for result in results]

    def _keep_examples(self, notes):
        """Members keep their own."""

    @property
    def _contamination(self):
        return max(member._contamination for member in self.members_)

    def _calibrate_threshold(self, anomaly_scores, paths=None):
        if self._contamination > 0:  # which some members then have no calibration scores of
            rankings = [member.suspects_.anomaly_scores(self.n_images_) for member in self.members_]
            self._ranking_ = SuspectImages.of(self._combined(np.stack(rankings, 1)), paths)
        self.calibration_scores_ = -anomaly_scores  # perhaps of no image that all kept aside
        self._set_offset()

    def _combined(self, anomaly_scores):
        """The ensemble's scores (n,) by those of members (n, k); NaN where one is."""
        scaled = self.scales_.scaled(torch.from_numpy(anomaly_scores))
        return self.scales_.combined(scaled).numpy()

    def _set_offset(self):
        super()._set_offset()
        if any(each.false_alarm_rate != self.false_alarm_rate for each in self.members_):
            self.members_ = [*map(twin_of, self.members_)]
            with inner_fit():
                for member in self.members_:
                    member.false_alarm_rate = self.false_alarm_rate
                    member._set_offset()

    # -- scoring ----------------------------------------------------------------------------------

    def member_scores(self, X: Images) -> np.ndarray:
        """What each member says of images, in standard deviations above its mean normal score.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images; see :mod:`anomalib_lite.data.images`.

        Returns
        -------
        scores : ndarray of shape (n_images, n_members)
            Higher = more anomalous. The ensemble's anomaly score is the maximum, or the sum, of a
            row.

        Raises
        ------
        ValueError
            If an image cannot be read or checked; it names the image.
        """
        return np.stack([*self.inspect(X, maps=False).member_scores.values()], 1)

    def map_levels(self) -> MapLevels:
        """What is normal and what is not in the values of anomaly maps.

        Returns
        -------
        levels : MapLevels
            Named tuple (normal, threshold): 0 and, at the ``false_alarm_rate`` of ``fit``, 1. From
            images, where ``set_threshold`` was given some.
        """
        detector = self._scoring_twin()
        if detector._examples_ is not None:
            return super().map_levels()
        thresholds = [member.map_levels().threshold for member in detector.members_]
        return MapLevels(0.0, max(detector.scales_.heat(i, x) for i, x in enumerate(thresholds)))

    def _infer(self, batch):
        scores, grids, _ = self._told(batch, maps=True)
        return scores, grids

    def _score(self, batch):
        return self._told(batch, maps=False)[0]

    def _told(self, batch, *, maps):
        """Anomaly scores (B,), grids (B, rows, columns) or None, and scaled scores (B, k)."""
        told = self._panel().look(parts_of(self.input_, batch), maps=maps)
        scores = [scores.to(batch.device, exact_dtype(batch.device)) for scores, _ in told]
        scaled = self.scales_.scaled(torch.stack(scores, 1))
        grids = torch.stack([heat for _, heat in told]).amax(0) if maps else None
        return self.scales_.combined(scaled), grids, scaled

    def _inspected_one(self, image, score, heat, scaled):
        seen = super()._inspected_one(image, score, heat, scaled)
        is_flagged = seen.label == -1
        places = self.scales_.flagging(np.array(scaled), -self.offset_) if is_flagged else ()
        return seen._replace(
            member_scores=dict(zip(self.names_, scaled, strict=True)),
            flagged_by=tuple(self.names_[place] for place in places),
        )

    def _panel(self):
        return self._panels_.get(self.members_, self.scales_, self.input_)

    def _map_renderer(self, **options):
        return MapRenderer(self.input_.image_size, smoothing=self.smoothing, **options)

    # -- export -----------------------------------------------------------------------------------

    def _exported(self):
        if isinstance(self.input_, JointInput):
            raise ValueError(
                "export: expected members whose networks see the same of an image, got "
                f"{'; '.join(map(described, self.input_.inputs))}. Fit them with the same "
                "image_size and center_crop, or export them one by one."
            )
        return self, None

    def _portable_parts(self):
        members = [*map(twin_of, self.members_)]
        for member in members:
            vars(member).update(member._portable_parts())
        return {"members_": members, "_heat": self._panel().heat}

    def _infer_portably(self, batch):
        looked = [member._infer_portably(batch) for member in self.members_]
        scores = torch.stack([scores.float() for scores, _ in looked], 1)
        heats = [self._heat(place, grids) for place, (_, grids) in enumerate(looked)]
        return self.scales_.combined(self.scales_.scaled(scores)), torch.stack(heats).amax(0)


def _learned(member, n_images, generator, feed):
    return member._learn(feed, n_images, generator)


def _names(detectors):
    """Detectors by name; none of what is not yet known to be wrong."""
    try:
        return dict(_named(detectors))
    except ValueError:  # which fit tells
        return {}


def _named(detectors):
    """(name, detector) of each."""
    if not isinstance(detectors, list | tuple):
        raise ValueError(f"detectors: expected a list of detectors, got {detectors!r}.")
    given = [each if isinstance(each, tuple) else (None, each) for each in detectors]
    if any(len(each) != 2 or not isinstance(each[0], str | None) for each in given):
        raise ValueError("detectors: expected detectors, or pairs (name, detector).")
    kinds = [type(each).__name__.lower() for _, each in given]
    nameless = Counter(kind for kind, (name, _) in zip(kinds, given, strict=True) if name is None)
    seen, named = Counter(), []
    for kind, (name, each) in zip(kinds, given, strict=True):
        if name is None:
            seen[kind] += 1
            name = kind if nameless[kind] == 1 else f"{kind}-{seen[kind]}"
        named.append((name, each))
    names = [name for name, _ in named]
    for name in names:
        is_odd = not name or "__" in name or "," in name
        if is_odd or names.count(name) > 1 or name in _OWN_PARAMS:
            raise ValueError(
                f"detectors: expected names that differ, without '__' or ',', and that are no "
                f"parameters of the ensemble, got {', '.join(map(repr, names))}."
            )
    return named


_OWN_PARAMS = {*signature(DetectorEnsemble).parameters}
