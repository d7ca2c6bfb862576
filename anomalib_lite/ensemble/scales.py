"""How what the members of an ensemble say comes onto one scale, and is combined."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from ..inspection import MapLevels
from ..validation import check_choice

COMBINATIONS = ("max", "sum")


@dataclass(frozen=True, eq=False)
class Scales:
    """What k members say of normal images.

    Attributes
    ----------
    means, deviations : ndarray of shape (k,)
        Of the anomaly scores, out of sample.
    map_levels : ndarray of shape (k, 2)
        What is normal in the members' maps, and what is too much.
    combination : {"max", "sum"}
    """

    means: np.ndarray
    deviations: np.ndarray
    map_levels: np.ndarray
    combination: str

    def __post_init__(self):
        check_choice("combine", self.combination, COMBINATIONS)
        k = self.means.size
        shapes = self.means.shape, self.deviations.shape, self.map_levels.shape
        if k < 2 or shapes != ((k,), (k,), (k, 2)):
            raise ValueError(f"scales: expected those of two members or more, got {shapes}.")
        values = np.concatenate([self.means, self.deviations, self.map_levels.ravel()])
        reaches = np.diff(self.map_levels)
        if not (np.isfinite(values).all() and (self.deviations > 0).all() and (reaches > 0).all()):
            raise ValueError("scales: expected finite ones, with a spread above 0.")

    @classmethod
    def of(
        cls, anomaly_scores: np.ndarray, map_levels: Sequence[MapLevels], combination: str
    ) -> Self:
        """By anomaly scores (n, k) of normal images, NaN where there is none.

        Examples
        --------
        >>> scores = np.array([[1.0, 10.0], [2.0, np.nan], [3.0, 30.0]])
        >>> scales = Scales.of(scores, [MapLevels(0.0, 1.0), MapLevels(2.0, 4.0)], "max")
        >>> scales.means
        array([ 2., 20.])
        >>> scales.combined(scales.scaled(torch.tensor([[4.0, 20.0]]))).item()
        2.0
        """
        means = np.nanmean(anomaly_scores, 0)
        least = 1e-6 * np.maximum(np.abs(means), 1e-6)  # of scores that are all the same
        deviations = np.maximum(np.nanstd(anomaly_scores, 0, ddof=1), least)
        return cls(means, deviations, np.array(map_levels, dtype=np.float64), combination)

    def scaled(self, anomaly_scores: torch.Tensor) -> torch.Tensor:
        """Anomaly scores (n, k) in deviations from their means."""
        means, deviations = map(anomaly_scores.new_tensor, (self.means, self.deviations))
        return (anomaly_scores - means) / deviations

    def combined(self, scaled: torch.Tensor) -> torch.Tensor:
        """One anomaly score (n,) of several (n, k)."""
        return scaled.amax(1) if self.combination == "max" else scaled.sum(1)

    def flagging(self, scaled: np.ndarray, threshold: float) -> np.ndarray:
        """Places of the members that call an image anomalous, those that find most first.

        ``"max"``: those whose scores are above the threshold. ``"sum"``: the fewest whose scores
        add up to more than it.

        Parameters
        ----------
        scaled : ndarray of shape (k,)
            Of an image that is anomalous.
        threshold : float

        Examples
        --------
        >>> levels = [MapLevels(0.0, 1.0)] * 3
        >>> scales = Scales.of(np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]), levels, "sum")
        >>> scales.flagging(np.array([1.0, 2.0, 9.0]), 10.0).tolist()
        [2, 1]
        """
        order = np.argsort(-scaled, kind="stable")
        if self.combination == "max":
            return order[scaled[order] > threshold]
        are_too_few = np.cumsum(scaled[order])[:-1] <= threshold
        return order[: 1 + are_too_few.sum()]

    def heat(self, place: int, maps: torch.Tensor | float) -> torch.Tensor | float:
        """Values of a member's maps on a scale on which 0 is normal, and 1 too much."""
        normal, threshold = self.map_levels[place].tolist()
        return (maps - normal) / (threshold - normal)
