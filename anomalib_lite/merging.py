"""Detectors that learn in parts: states of some images each, which merge, whoever made them."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Self

import numpy as np
import torch

import anomalib_lite

from .annotations import Images
from .backbones.patches import rebatch
from .contexts import plain
from .data.images import NoneReadable, SkippedImage
from .data.scales import ValueRange
from .notes import N_EXAMPLES, Notes, digest_of, warn_of_copies
from .runtime import aside, make_generator, twin_of
from .suspects import Suspects
from .validation import check_choice, check_count, check_finite
from .workers import team

_TOGETHER = 64  # images whose rows are in memory at one time
_NOT_SHARED = ("device", "memory_budget", "random_state")  # parameters that states may differ in


@dataclass(frozen=True, eq=False)
class PartialState:
    """What a detector has learned from some images; it merges with what it has from others.

    It can be pickled, and its tensors are on the CPU.

    Attributes
    ----------
    n_images : int
        Images learned from.
    digests : ndarray of shape (n_images,), int64
        Of what the network saw of each.
    skipped : tuple of SkippedImage
        Images that could not be read; their ``index`` counts from ``first``.
    first : int
        Place of the first image among all.
    learned : object
        The method's own; None if no image could be read.
    settings : dict of str to str
        What must be the same for all states that are merged.
    value_range : ValueRange
        Of the images.
    rows : list of torch.Tensor of shape (n, h, w, D), or None
        Patch rows of all the images, if they were kept.
    """

    n_images: int
    digests: np.ndarray
    skipped: tuple[SkippedImage, ...]
    first: int
    learned: Any
    settings: dict[str, str]
    value_range: ValueRange
    rows: list[torch.Tensor] | None = None

    def __repr__(self):
        return f"<PartialState of {self.n_images} images of {self.settings['method']}>"


@dataclass(frozen=True, eq=False)
class PartialCalibration:
    """What a detector would say of some of its images if it had not learned from them.

    Attributes
    ----------
    digests : ndarray of shape (n,), int64
        Of what the network saw of each image.
    anomaly_scores : ndarray of shape (n,)
        Out of sample; NaN where there is none.
    example_digests : ndarray of shape (m,), int64
        The lowest of the digests, each once, ascending.
    examples : torch.Tensor of shape (m, rows, columns)
        Grids of these images, from which maps are made.
    suspects : Suspects or None
        Their most unusual patches.
    """

    digests: np.ndarray
    anomaly_scores: np.ndarray
    example_digests: np.ndarray
    examples: torch.Tensor
    suspects: Suspects | None = None

    @classmethod
    def joined(cls, each: Sequence[Self]) -> Self:
        """One of several."""
        digests, first = np.unique(
            np.concatenate([one.example_digests for one in each]), return_index=True
        )
        suspects = [one.suspects for one in each if one.suspects is not None]
        return cls(
            np.concatenate([one.digests for one in each]),
            np.concatenate([one.anomaly_scores for one in each]),
            digests[:N_EXAMPLES],
            torch.cat([one.examples for one in each])[torch.from_numpy(first[:N_EXAMPLES])],
            Suspects.joined(suspects) if suspects else None,
        )

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        suspects = None if self.suspects is None else self.suspects.to(device)
        return replace(self, examples=self.examples.to(device), suspects=suspects)


@dataclass(frozen=True, eq=False)
class Portion:
    """Which of all images a part is learned from, and what it may use.

    Attributes
    ----------
    first : int
        Place of the first one among all.
    total : int or None
        How many there are in all, as far as known.
    generator : torch.Generator
        The CPU's; the same for the same portion.
    keep : callable
        To be called with all rows (n, P, D) and their grid, in order, by methods with
        ``_calibrate_rows``.
    """

    first: int
    total: int | None
    generator: torch.Generator
    keep: Callable[[torch.Tensor, tuple[int, int]], None]


class MergeMixin:
    """Adds learning in parts to a detector: on several machines, or one after the other.

    A subclass implements :meth:`_learn_part`, :meth:`_merge_parts` and :meth:`_finish_part`. What
    these give and take has a method ``to(device)``. Where scores out of sample need the images
    once more, when all is merged, ``_calibrates_by_images`` is True, and it also implements
    :meth:`_embed` and :meth:`_calibrate_rows`.
    """

    _calibrates_by_images = False
    """Whether scores out of sample need the images once more."""

    _fan_in = 8
    """States that are merged at one time; fewer take less memory."""

    # -- hooks ------------------------------------------------------------------------------------

    def _learn_part(self, batches, n_images: int | None, portion: "Portion") -> Any:
        """What is learned from some images; it must not depend on what was learned before."""
        raise NotImplementedError(f"{type(self).__name__} must implement _learn_part.")

    def _merge_parts(self, parts: list[Any], generator) -> Any:
        """One part of two or more, whose images follow each other."""
        raise NotImplementedError(f"{type(self).__name__} must implement _merge_parts.")

    def _finish_part(self, part: Any, generator) -> np.ndarray | torch.Tensor | None:
        """Take over what was learned; gives anomaly scores as ``_learn`` does, if it can.

        The generator is in the state in which ``_learn`` would get it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement _finish_part.")

    def _embed(self, batch: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Patch rows (B, P, D) of a batch, and their grid."""
        raise NotImplementedError(f"{type(self).__name__} must implement _embed.")

    def _calibrate_rows(self, rows: torch.Tensor, digests: np.ndarray) -> PartialCalibration:
        """What is said of images that were learned from, out of sample, by rows (n, h, w, D)."""
        raise NotImplementedError(f"{type(self).__name__} must implement _calibrate_rows.")

    def _calibration_groups(self) -> np.ndarray:
        """A number for each image; calibrations are quickest of images of the same number."""
        return np.zeros(self.n_images_, dtype=np.int64)

    def _shared_settings(self) -> dict[str, str]:
        """What must be the same for all states that are merged, in words."""
        backbone = getattr(self, "backbone_", None)
        weights = {} if backbone is None else {"weights_sha256": backbone.weights_sha256}
        return {**self._shared_params(), "input": repr(self.input_), **weights}

    def _shared_params(self):
        """Those of the settings that are known before anything is learned."""
        apart = {"backbone", *_NOT_SHARED, *self._live_params}
        given = {name: repr(value) for name, value in self.get_params(deep=False).items()}
        return {
            "method": type(self).__name__,
            "version": anomalib_lite.__version__,
            **{name: value for name, value in given.items() if name not in apart},
        }

    # -- in parts ---------------------------------------------------------------------------------

    @plain
    def partial_state(
        self,
        X: Images,
        *,
        first: int = 0,
        total: int | None = None,
        on_error: str = "raise",
        keep_rows: bool = False,
    ) -> PartialState:
        """What there is to learn from some images; the detector stays as it is.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images of good parts; see :mod:`anomalib_lite.data.images`.
        first : int, default=0
            Place of the first of them among all images. Random draws, such as a coreset's first
            pick, are made from it and ``random_state``.
        total : int or None, default=None
            How many images there are in all. PatchCore then keeps no more rows of some of them
            than a coreset of all needs, which takes less time.
        on_error : {"raise", "skip"}, default="raise"
            What an image does that cannot be read: raise a ValueError, or be listed in the state.
        keep_rows : bool, default=False
            Keep the patch rows of all images in the state, so that :meth:`finish` can set the
            threshold: 0.5 MB an image for PatchCore, 1.3 MB for PaDiM.

        Returns
        -------
        state : PartialState

        Raises
        ------
        ValueError
            If a parameter or an image is invalid.

        Notes
        -----
        What was learned before has no part in it. Where ``random_state`` is not a number, networks
        with random weights differ from call to call, and their states do not merge.

        Examples
        --------
        >>> from anomalib_lite import PatchCore
        >>> images = np.random.default_rng(0).integers(90, 110, (20, 64, 64), dtype=np.uint8)
        >>> detector = PatchCore(image_size=64, false_alarm_rate=0.1, random_state=0)
        >>> chunks = [images[i : i + 5] for i in (0, 5, 10, 15)]
        >>> states = [detector.partial_state(each, first=5 * i) for i, each in enumerate(chunks)]
        >>> state = detector.merge_states(states)
        >>> state
        <PartialState of 20 images of PatchCore>
        >>> fitted = detector.finish(state)
        >>> calibrations = [fitted.partial_calibration(each) for each in chunks]
        >>> odd = images[:2].copy()
        >>> odd[:, 20:40, 20:40] = 255
        >>> fitted.finish_calibration(calibrations).predict(odd)
        array([-1, -1])
        """
        return self._started()._state_of(X, first, total, on_error, keep_rows)

    def _check_learns_in_parts(self):
        """Raise ValueError if a subclass learns in another way than in parts."""
        classes = type(self).__mro__
        whole, parts = (
            next(i for i, cls in enumerate(classes) if name in vars(cls))
            for name in ("_learn", "_learn_part")
        )
        if whole < parts:
            raise ValueError(
                f"{type(self).__name__}: expected a detector that learns in parts, got one with a "
                "_learn of its own. Write _learn_part, _merge_parts and _finish_part for it, too."
            )

    def _started(self):
        """A twin that has built what comes before the images."""
        self._check_learns_in_parts()
        learner = twin_of(self)
        learner._start()
        return learner

    @plain
    def _state_of(self, X, first, total, on_error, keep_rows):
        """The state of some images, by a detector that has started and learned nothing."""
        check_count("first", first, minimum=0)
        if total is not None:
            check_count("total", total)
        check_choice("on_error", on_error, ("raise", "skip"))
        learner, kept = twin_of(self), []

        def keep(rows, grid):
            if keep_rows and self._calibrates_by_images:
                kept.append(rows.cpu().unflatten(1, grid))

        with team(self._n_jobs):
            stream = self._open(X, on_error)
            batches = learner._learning_batches(stream, Notes(np.empty(0, np.int64)))
            portion = Portion(first, total, learner._generator_at(first, 0), keep)
            try:
                part = learner._learn_part(batches, stream.n_images, portion)
            except NoneReadable:
                part = None
        return PartialState(
            learner.n_images_,
            learner._digests_,
            tuple(stream.skipped),
            first,
            None if part is None else part.to("cpu"),
            self._shared_settings(),
            learner.value_range_,
            kept if keep_rows else None,
        )

    @plain
    def merge_states(self, states: Iterable[PartialState]) -> PartialState:
        """One state of several, whose images follow each other in this order.

        Parameters
        ----------
        states : iterable of PartialState
            One or more, by detectors with the same settings.

        Returns
        -------
        state : PartialState

        Raises
        ------
        ValueError
            If the detectors differ in a setting that matters.
        """
        states = [*states]
        self._check_learns_in_parts()
        _check_states(states, self._shared_params())
        n_images = sum(state.n_images for state in states)
        parts = [state.learned for state in states if state.learned is not None]
        if len(parts) > 1:
            with team(self._n_jobs):
                generator = self._generator_at(states[0].first, n_images)
                parts = [self._merge_parts(parts, generator)]
        value_range, rows = ValueRange(), [state.rows for state in states]
        for state in states:
            value_range.extend(state.value_range)
        return replace(
            states[0],
            n_images=n_images,
            digests=np.concatenate([state.digests for state in states]),
            skipped=tuple(_skipped_after(states[0].first, states)),
            learned=parts[0] if parts else None,
            value_range=value_range,
            rows=None if None in rows else [*chain.from_iterable(rows)],
        )

    @plain
    def finish(self, state: PartialState) -> Self:
        """Become what a fit on the images of a state makes of a detector, but for the threshold.

        Methods that read the threshold from the patches of all images, PatchCore, PaDiM and
        SubspaceAD, have none until :meth:`finish_calibration`, unless the state has these; others
        do. Levels of maps need it for all methods.

        Parameters
        ----------
        state : PartialState
            Of all images.

        Returns
        -------
        self : object

        Raises
        ------
        ValueError
            If the state is of another detector, or of too few images; the estimator is then as it
            was before.
        """
        with aside(self) as learner, team(self._n_jobs):
            _check_states([state], self._shared_params())
            learner._start()
            _check_settings("state", state.settings, learner._shared_settings())
            if state.learned is None:
                raise ValueError("state: expected at least one image, got none that can be read.")
            learner.n_images_, learner._digests_ = state.n_images, state.digests
            learner.value_range_ = state.value_range
            scores = learner._finish_part(
                state.learned.to(learner.device_), make_generator(self.random_state)
            )
            if scores is not None:
                learner._calibrate_threshold(scores)
            elif state.rows is not None:
                learner._take_calibration(learner._calibrated_by(state.rows))
            else:
                learner.calibration_scores_ = np.full(state.n_images, np.nan)
                learner.offset_ = np.nan
            n_copies = state.n_images - len(np.unique(state.digests))
            warn_of_copies(n_copies, state.n_images, " of others")
        return self

    def _calibrated_by(self, rows):
        """What is said of all images that were learned from, by their rows (n, h, w, D)."""
        digests = np.split(self._digests_, np.cumsum([*map(len, rows)])[:-1])
        found = [
            self._calibrate_rows(some.to(self.device_), here)
            for some, here in zip(rows, digests, strict=True)
        ]
        return PartialCalibration.joined(found)

    @plain
    def partial_calibration(self, X: Images) -> PartialCalibration:
        """What is said of images that were learned from, as if each had been left out.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Some of the images that the detector has learned from.

        Returns
        -------
        calibration : PartialCalibration

        Raises
        ------
        ValueError
            If an image cannot be read, or is none of those that were learned from.
        """
        detector = self._scoring_twin()
        with team(self._n_jobs):
            stream, notes = detector._open(X), Notes(np.empty(0, np.int64))
            batches = detector._batches(
                stream, "calibrate", learn=detector._known_alone(notes), digest=digest_of
            )
            look = detector._look_again if self._calibrates_by_images else detector._show_again
            return look(batches, notes).to("cpu")

    def _look_again(self, batches, notes):
        """What is said out of sample of images, a few at a time."""

        def each():
            for images, (rows, grid) in batches.map(self._embed):
                check_finite(rows, images)
                yield rows.unflatten(1, grid)

        found, n_done = [], 0
        for rows in rebatch(each(), _TOGETHER):
            digests = notes.digests[n_done : n_done + len(rows)]
            found.append(self._calibrate_rows(rows, digests))
            n_done += len(rows)
        return PartialCalibration.joined(found)

    def _show_again(self, batches, notes):
        """Grids of a few of the images."""
        for _ in batches:
            pass  # notes are taken
        places = np.array([np.flatnonzero(self._digests_ == each)[0] for each in notes.lowest])
        return PartialCalibration(
            notes.digests,
            np.full(len(notes.digests), np.nan),
            notes.lowest,
            self._normal_grids(notes.examples.to(self.device_), places),
        )

    def _known_alone(self, notes):
        """Function that notes images, and refuses one that was not learned from."""
        known = np.unique(self._digests_)

        def see(image, pixels, digest):
            place = np.searchsorted(known, digest)
            if place == len(known) or known[place] != digest:
                raise ValueError(
                    f"{image.label}: expected an image that the detector has learned from, got "
                    "another one. Has its file changed since, or was it learned by a processor "
                    "of another kind?"
                )
            notes.see(image, pixels, digest)

        return see

    @plain
    def finish_calibration(self, calibrations: Iterable[PartialCalibration]) -> Self:
        """Set threshold and levels of maps from what :meth:`partial_calibration` gave.

        Parameters
        ----------
        calibrations : iterable of PartialCalibration
            Of all images that were learned from, in any order. Images may be missing; they then do
            not count for the threshold.

        Returns
        -------
        self : object
        """
        calibrations = [*calibrations]
        if not calibrations:
            raise ValueError("calibrations: expected at least one, got none.")
        with aside(self) as learner:
            learner._scoring_twin()
            whole = PartialCalibration.joined(calibrations)
            learner._take_calibration(whole.to(learner.device_))
        return self

    def _take_calibration(self, calibration):
        self._remember(calibration)
        if self._calibrates_by_images:
            self._calibrate_threshold(
                scores_by_digest(self._digests_, calibration.digests, calibration.anomaly_scores)
            )

    def _remember(self, calibration):
        """Keep what later calls need of the images: grids of some, patches of many."""
        self._set_examples(calibration.examples, calibration.example_digests)
        if calibration.suspects is not None:
            earlier = [self._suspects_] if hasattr(self, "_suspects_") else []
            self._suspects_ = Suspects.joined([*earlier, calibration.suspects])

    def _generator_at(self, first, n_images):
        """A generator for what is drawn at a node of the tree of merges, whoever computes it."""
        seed = make_generator(self.random_state).initial_seed()
        text = f"{seed} {first} {n_images}".encode()
        return torch.Generator().manual_seed(
            int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())
        )


def scores_by_digest(
    digests: np.ndarray, known: np.ndarray, anomaly_scores: np.ndarray
) -> np.ndarray:
    """Anomaly scores (n,) of images with some digests, by those of some images; NaN where unknown.

    Examples
    --------
    >>> scores_by_digest(np.array([4, 9, 4]), np.array([7, 4]), np.array([0.5, 1.5]))
    array([1.5, nan, 1.5])
    """
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], digests).clip(max=len(known) - 1)
    found = order[place]
    return np.where(known[found] == digests, anomaly_scores[found], np.nan)


def _check_states(states, params):
    """Raise ValueError unless these are states of such a detector, in the order of images."""
    if not states:
        raise ValueError("states: expected at least one, got none.")
    end = 0
    for i, state in enumerate(states):
        if not isinstance(state, PartialState):
            raise ValueError(f"states: expected PartialStates, got {type(state).__name__}.")
        _check_settings(f"state {i}", state.settings, {**states[0].settings, **params})
        if state.first < end:
            raise ValueError(
                f"state {i}: expected images from place {end} on, got first={state.first}. Give "
                "states in the order of their images, and partial_state the place of the first of "
                "them among all."
            )
        end = state.first + state.n_images + len(state.skipped)


def _check_settings(name, settings, expected):
    for key, value in expected.items():
        if settings.get(key) != value:
            raise ValueError(
                f"{name}: expected that of a detector with {key}={value}, got "
                f"{key}={settings.get(key)}. Make all states with the same settings, and with a "
                "number as random_state."
            )


def _skipped_after(first, states):
    """Skipped images of all states, counted from the first image of all."""
    for state in states:
        for image in state.skipped:
            yield image._replace(index=state.first - first + image.index)
