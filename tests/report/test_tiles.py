"""The pictures of a page."""

import numpy as np
import pytest
from scipy import ndimage

from anomalib_lite.report import tiles


@pytest.mark.parametrize("n", [7, 96])
def test_the_map_of_places_is_blurred_as_by_scipy(n):
    counts = np.random.default_rng(n).random((n, n))
    blur = tiles._blur(n, 1.5)
    np.testing.assert_allclose(blur @ counts @ blur.T, ndimage.gaussian_filter(counts, 1.5))
