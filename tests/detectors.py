"""Every public detector of images, small: fitted in well under a second on 64 px images."""

import inspect

import anomalib_lite
from anomalib_lite.base import BaseDetector

PUBLIC = [
    thing
    for thing in (getattr(anomalib_lite, name) for name in anomalib_lite.__all__)
    if inspect.isclass(thing) and issubclass(thing, BaseDetector)
]

SMALL = {
    "DeepOneClass": {"image_size": 64, "layers": (8,), "n_patches": 100},
    "PaDiM": {"image_size": 64, "n_features": 20},
    "PatchCore": {"image_size": 64, "coreset": 30},
    "SPADE": {"image_size": 64, "n_neighbors": 3},
}


def small(cls, **params):
    """A small one of a public class; a class that is not listed above fails here."""
    return cls(**{**SMALL[cls.__name__], "random_state": 0, **params})
