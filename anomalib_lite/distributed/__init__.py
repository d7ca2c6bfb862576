"""Fitting and scoring on more than one machine: a cluster of dask, or any executor of Python."""

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:  # what editors and type checkers see
    from .fitting import fit as fit
    from .scoring import inspect as inspect
    from .scoring import iter_records as iter_records
    from .scoring import score_samples as score_samples

__getattr__, __dir__ = lazy(
    __name__,
    {
        "fit": "fitting",
        "inspect": "scoring",
        "iter_records": "scoring",
        "score_samples": "scoring",
    },
)

__all__ = [
    "fit",
    "inspect",
    "iter_records",
    "score_samples",
]
