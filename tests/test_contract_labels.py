"""A detector that has learned labels and masks of defects passes the public suite, too."""

import numpy as np
from detectors import small
from worlds import scratched

from anomalib_lite import LabeledPatchCore
from anomalib_lite.testing import Subject, parametrize_with_checks

DRAWER = scratched(3, seed=5)
MASK = np.zeros((64, 64), dtype=bool)
MASK[18:22, 33:47] = True


class Marked(LabeledPatchCore):
    """Adds three defects, two of them with masks, to whatever it is fitted on."""

    def fit(self, X, y=None, masks=None):
        images = [*X, *DRAWER]
        n_good = len(images) - len(DRAWER)
        masks = [None] * n_good + [MASK, MASK, None]
        return super().fit(images, np.repeat([1, -1], [n_good, len(DRAWER)]), masks)

    def partial_fit(self, X, y=None):
        """More good images take a new fit."""
        return self.fit(X)


@parametrize_with_checks([Subject(Marked(**small(LabeledPatchCore).get_params()))])
def test_contract(subject, check):
    check(subject)
