"""What is noted of normal images while a detector learns from them."""

import hashlib
from operator import itemgetter

import numpy as np
import torch

from .data.images import Glance
from .notices import warn_user
from .runtime import is_inner_fit

N_EXAMPLES = 8  # images whose maps tell what a normal map looks like


class Notes:
    """What is noted of images while a detector learns: digests, copies, and a few examples.

    Parameters
    ----------
    digests : ndarray of shape (n_earlier,), int64
        Of the images of earlier calls.

    Attributes
    ----------
    digests : ndarray of shape (n_images,), int64
        Of all images so far, those of earlier calls first.
    paths : dict of int to str
        Files of the images of this call that came from files, by their places among all.
    """

    def __init__(self, digests: np.ndarray):
        self._buffer, self._n = digests, len(digests)
        self._labels = dict.fromkeys(digests.tolist(), "one of an earlier call")
        self._copies, self.paths = [], {}
        self._examples = []  # (digest, place among all images, image, input), lowest digest first

    def see(self, image: Glance, pixels: torch.Tensor, digest: int) -> None:
        """Note an image, its network input (3, h, w), and the digest of that."""
        if digest in self._labels:
            self._copies.append(f"{image.label} is {self._labels[digest]}")
        self._labels.setdefault(digest, image.label)
        if image.path is not None:
            self.paths[self._n] = image.path
        self._consider(image, pixels, digest)
        if self._n == len(self._buffer):
            self._buffer = np.resize(self._buffer, 2 * self._n + 16)
        self._buffer[self._n] = digest
        self._n += 1

    @property
    def digests(self) -> np.ndarray:
        return self._buffer[: self._n]

    def _consider(self, image, pixels, digest):
        """Keep an image as an example if its digest is low: a draw whatever their order is."""
        lowest = [known for known, *_ in self._examples]
        is_low = len(lowest) < N_EXAMPLES or digest < lowest[-1]
        if is_low and digest not in lowest:
            self._examples.append((digest, self._n, image, pixels.clone()))
            self._examples.sort(key=itemgetter(0))
            del self._examples[N_EXAMPLES:]

    @property
    def lowest(self) -> np.ndarray:
        """Digests of the examples, ascending."""
        return np.array([digest for digest, *_ in self._examples], dtype=np.int64)

    @property
    def indices(self) -> list[int]:
        """Places of the examples among all images."""
        return [place for _, place, _, _ in self._examples]

    @property
    def images(self) -> list[Glance]:
        """The examples."""
        return [image for _, _, image, _ in self._examples]

    @property
    def examples(self) -> torch.Tensor:
        """Network inputs (n, 3, h, w) of the examples."""
        return torch.stack([pixels for _, _, _, pixels in self._examples])

    def warn_of_copies(self) -> None:
        """Warn of images that are copies of earlier ones, if there are any."""
        shown = ", ".join(self._copies[:3])
        more = ", ..." if len(self._copies) > 3 else ""
        warn_of_copies(len(self._copies), self._n, f": {shown}{more}")


def warn_of_copies(n_copies: int, n_images: int, which: str) -> None:
    """Warn that some of so many images are copies, ``which`` follows, unless there are none."""
    if n_copies and not is_inner_fit():
        warn_user(
            f"{n_copies} of {n_images} images {'is a copy' if n_copies == 1 else 'are copies'}"
            f"{which}. They tell nothing new, and fewer images stand behind the threshold than it "
            "seems. Leave them out."
        )


def digest_of(pixels: torch.Tensor) -> int:
    """A 64-bit digest of a network input (3, h, w)."""
    values = pixels.permute(1, 2, 0).contiguous().cpu().numpy()
    return int.from_bytes(hashlib.blake2b(values, digest_size=8).digest(), "little", signed=True)
