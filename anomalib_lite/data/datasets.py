"""`AnomalyDataset`: normal images to fit on, and labeled ones to score. Nothing is downloaded."""

import os
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from .decoding import upright_size
from .masks import read_mask


@dataclass(frozen=True, eq=False)
class AnomalyDataset:
    """Normal training images, and test images with ground truth.

    Attributes
    ----------
    name : str
    train, test : ndarray of shape (n, H, W) or (n, H, W, 3), uint8, or list of str
        Images, or sorted paths of image files. Detectors accept both.
    test_labels : ndarray of shape (n_test,), int
        +1 normal, -1 anomalous.
    test_defects : ndarray of shape (n_test,), str
        Kind of defect; "good" for normal images.
    masks : ndarray of shape (n_test, H, W), bool, or list of (str, tuple of str or None), or None
        Masks of the defective pixels, or paths of mask files (None for a normal image, several
        where an image has several defects), or whatever else :func:`read_mask` takes. None if there
        are no masks.
    """

    name: str
    train: np.ndarray | list[str] = field(repr=False)
    test: np.ndarray | list[str] = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    test_defects: np.ndarray = field(repr=False)
    masks: np.ndarray | list[str | tuple[str, ...] | None] | None = field(default=None, repr=False)

    @property
    def test_masks(self) -> np.ndarray | list[np.ndarray] | None:
        """One bool (H, W) array per test image, True where defective; None if there are no masks.

        Mask files are read again at each access, by :func:`read_mask`. Raises ValueError if one
        cannot be read, differs in size from its image (after EXIF orientation), is empty though
        its image is anomalous, or is not empty though its image is normal.
        """
        if self.masks is None:
            return None
        masks = [self._mask(*part) for part in enumerate(zip(self.test, self.masks, strict=True))]
        return np.stack(masks) if isinstance(self.masks, np.ndarray) else masks

    def of_kinds(self, *kinds: str) -> Self:
        """The same with test images of some kinds of defects alone, beside all good ones.

        Its name says which. Raises ValueError if there is no such kind.

        Examples
        --------
        >>> labels, kinds = np.array([1, -1, -1]), np.array(["good", "dent", "crack"])
        >>> data = AnomalyDataset("bolts", ["0.png"], ["a.png", "b.png", "c.png"], labels, kinds)
        >>> data.of_kinds("crack").test
        ['a.png', 'c.png']
        """
        known = set(self.test_defects[self.test_labels == -1].tolist())
        if not kinds or not all(isinstance(kind, str) and kind in known for kind in kinds):
            raise ValueError(f"kinds: expected some of {sorted(known)}, got {[*kinds]}.")
        places = np.flatnonzero((self.test_labels == 1) | np.isin(self.test_defects, kinds))
        test, masks = (
            part[places] if isinstance(part, np.ndarray) else part and [part[i] for i in places]
            for part in (self.test, self.masks)
        )
        return replace(
            self,
            name=f"{self.name}: {', '.join(kinds)}",
            test=test,
            test_labels=self.test_labels[places],
            test_defects=self.test_defects[places],
            masks=masks,
        )

    def _mask(self, index, image_and_mask):
        image, mask = image_and_mask
        is_file = isinstance(image, str | os.PathLike)
        size = _size_of_file(image) if is_file else image.shape[:2]
        name = f"the mask of {os.fsdecode(image) if is_file else f'test image {index}'}"
        is_normal, kind = self.test_labels[index] == 1, str(self.test_defects[index])
        return labeled_mask(mask, size, is_normal=is_normal, kind=kind, name=name)


def labeled_mask(
    mask: object, size: tuple[int, int], *, is_normal: bool, kind: str, name: str
) -> np.ndarray:
    """The mask (H, W) of an image, which must agree with its label.

    ``mask`` is what :func:`read_mask` takes, or None for one that is empty. ``name`` is what errors
    call a mask that is no file.
    """
    name = os.fsdecode(mask) if isinstance(mask, str | os.PathLike) else name
    read = np.zeros(size, dtype=bool) if mask is None else read_mask(mask, size=size, name=name)
    if read.any() == is_normal:
        raise ValueError(
            f"{name}: expected {'no' if read.any() else 'a'} defective pixel, since its image "
            f"is labeled {kind!r}. Correct the mask or the label."
        )
    return read


def _size_of_file(path):
    try:
        return upright_size(path)
    except ValueError as error:
        raise ValueError(f"{os.fsdecode(path)}: {error}") from error
