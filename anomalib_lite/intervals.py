"""Intervals of plausible values."""

import math
from statistics import NormalDist
from typing import NamedTuple

from .validation import check_confidence, check_count


class Interval(NamedTuple):
    """An interval of plausible values of a figure."""

    low: float
    high: float


def wilson_interval(n_hits: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's interval of a probability that was observed as `n_hits` of `n`.

    Parameters
    ----------
    n_hits, n : int
        With ``0 <= n_hits <= n`` and ``n >= 1``.
    confidence : float, default=0.95
        In (0, 1).

    Returns
    -------
    interval : Interval
        Named tuple ``(low, high)`` within [0, 1].

    Raises
    ------
    ValueError
        If a parameter is invalid.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
       JASA 22, 1927, https://doi.org/10.1080/01621459.1927.10502953

    Examples
    --------
    >>> from anomalib_lite.metrics import wilson_interval
    >>> low, high = wilson_interval(0, 50)  # no escape among 50 images does not prove that none is
    >>> low, round(high, 3)
    (0.0, 0.071)
    """
    check_count("n", n)
    check_count("n_hits", n_hits, minimum=0)
    if n_hits > n:
        raise ValueError(f"n_hits: expected at most n, got {n_hits} of {n}.")
    check_confidence(confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, squared = n_hits / n, z**2 / n
    center = share + squared / 2
    reach = z * math.sqrt(share * (1 - share) / n + squared / (4 * n))
    low, high = (center - reach) / (1 + squared), (center + reach) / (1 + squared)
    return Interval(low if n_hits else 0.0, high if n_hits < n else 1.0)  # rounding apart
