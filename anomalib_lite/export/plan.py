"""What is written around a network."""

from dataclasses import dataclass

import numpy as np

from ..backbones.maps import MapRenderer
from ..data.inputs import NetworkInput


@dataclass(frozen=True)
class Ranks:
    """From which p-values are read: see :mod:`anomalib_lite.decide.ranks`.

    Attributes
    ----------
    scores : ndarray of shape (n_scores,)
        Calibration scores, lower = more anomalous.
    weights : ndarray of int64 of shape (n_scores,)
    whole : int
        The weight of a whole unit, which is a sample or a group of them.
    n_units : int
    """

    scores: np.ndarray
    weights: np.ndarray
    whole: int
    n_units: int


@dataclass(frozen=True)
class Plan:
    """What surrounds the network in a graph.

    Attributes
    ----------
    input : NetworkInput
    dtype : {"uint8", "uint16", "float32"}
        Of the images.
    renderer : MapRenderer
    offset : float
        Images with a score, lower = more anomalous, below it are called anomalous. NaN without.
    ranks : Ranks or None
    """

    input: NetworkInput
    dtype: str
    renderer: MapRenderer
    offset: float
    ranks: Ranks | None = None
