"""Synthetic images and rows whose anomalies, places or densities are known."""

import itertools

import numpy as np
from scipy import stats


def stripes(n, size=64, *, noise=4, seed=0):
    """(n, size, size) uint8: vertical stripes, 8 pixels wide, with slight noise."""
    rng = np.random.default_rng(seed)
    wave = 128 + 60 * np.sign(np.sin(np.arange(size) * np.pi / 8))
    images = wave + rng.normal(0, noise, (n, size, size))
    return images.clip(0, 255).astype(np.uint8)


def scratched(n, size=64, *, center=(20, 40), seed=1):
    """Stripes with a short horizontal scratch at ``center`` (row, column)."""
    images = stripes(n, size, seed=seed)
    row, column = center
    images[:, row - 2 : row + 2, column - 7 : column + 7] = 255
    return images


def parts(n, size=32, *, order=(0, 1, 2, 3), seed=0):
    """(n, size, size) uint8: disc, ring, cross and square, one in each quarter, in an ``order``.

    With ``order="other"`` each image has one of the 23 other arrangements. Pooled local features
    are the same for all of them.
    """
    rng = np.random.default_rng(seed)
    others = [one for one in itertools.permutations(range(4)) if one != (0, 1, 2, 3)]
    images = np.full((n, size, size), 60.0)
    half, reach = size // 2, size // 6
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    radius = np.hypot(y, x)
    shapes = [
        radius <= reach,
        (radius <= reach) & (radius >= reach - 2),
        (abs(y) <= 1) | (abs(x) <= 1),
        np.maximum(abs(y), abs(x)) <= reach - 1,
    ]
    for image in images:
        arrangement = others[rng.integers(len(others))] if order == "other" else order
        for quarter, shape in enumerate(arrangement):
            row, column = np.array(divmod(quarter, 2)) * half + half // 2 + rng.integers(-1, 2, 2)
            place = image[row - reach : row + reach + 1, column - reach : column + reach + 1]
            place[shapes[shape]] = 200
    return (images + rng.normal(0, 5, images.shape)).clip(0, 255).astype(np.uint8)


class Mixture:
    """A mixture of Gaussians with known density; ``parts`` are (weight, mean, covariance)."""

    def __init__(self, parts):
        self.weights, means, covariances = zip(*parts, strict=True)
        self.parts = [
            stats.multivariate_normal(mean, covariance)
            for mean, covariance in zip(means, covariances, strict=True)
        ]

    def draw(self, n, seed):
        """Rows (n, d)."""
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(n, self.weights)
        drawn = [part.rvs(k, random_state=rng) for part, k in zip(self.parts, counts, strict=True)]
        return rng.permutation(np.concatenate(drawn))

    def log_density(self, rows):
        """Log densities (n,) of rows (n, d)."""
        each = zip(self.weights, self.parts, strict=True)
        return np.log(sum(weight * part.pdf(rows) for weight, part in each))


def plane(n, n_features=12, n_dims=3, *, n_off=0, mean=50.0, seed=0):
    """Rows (n, n_features) in a random plane of ``n_dims``, and their squared distances from it.

    The last ``n_off`` of them lie off the plane, at distances 1, 2, 3, ...
    """
    rng = np.random.default_rng(7)  # the same plane for every seed
    axes, _ = np.linalg.qr(rng.normal(size=(n_features, n_features)))
    rng = np.random.default_rng(seed)
    rows = mean + rng.normal(size=(n, n_dims)) * np.arange(10, 10 + n_dims) @ axes[:, :n_dims].T
    off = np.concatenate([np.zeros(n - n_off), np.arange(1.0, n_off + 1)])
    return rows + off[:, None] * axes[:, -1], off**2


def tiles(n, size=64, *, tile=16, swapped=0, seed=0):
    """(n, size, size) uint8: tiles of four motifs that alternate along rows and columns.

    The motifs are horizontal, vertical and two kinds of diagonal stripes; the first is random, and
    each tile follows from its neighbors. In each image, ``swapped`` tiles hold a wrong motif.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:tile, :tile]
    motifs = np.stack([np.sin(wave * np.pi / 4) for wave in (y, x, y + x, y - x)])
    side = size // tile
    images = []
    for _ in range(n):
        layout = (np.add.outer(np.arange(side), np.arange(side)) + rng.integers(4)) % 4
        places = rng.choice(side**2, swapped, replace=False)
        layout.flat[places] += rng.integers(1, 4, swapped)
        rows = motifs[layout % 4].transpose(0, 2, 1, 3).reshape(size, size)
        images.append(128 + 80 * rows)
    images = np.array(images) + rng.normal(0, 5, (n, size, size))
    return images.clip(0, 255).astype(np.uint8)


SCALES = ("pixel", "pair", "part", "arrangement")
_BARS = np.s_[:2, 2:6], np.s_[-2:, 2:6], np.s_[2:6, :2], np.s_[2:6, -2:]


def frames(n, broken=None, *, seed=0):
    """(n, 24, 24) uint8: in each corner an 8-pixel part of four bars, dim or bright, with noise.

    Upper and lower bar of a part are equal, left and right bar too, and so are the two parts of a
    row. ``broken`` is the scale of an anomaly, with all smaller scales intact: "pixel", gray values
    that never occur; "pair", bars that alternate between dim and bright; "part", opposite bars that
    differ; "arrangement", two parts of a row that differ.
    """
    rng = np.random.default_rng(seed)
    images = np.full((n, 24, 24), 60.0)
    for image in images:
        kinds = rng.integers(
            0, 2, (2, 2)
        )  # by row of parts: upper and lower bars, left and right bars
        bars = np.broadcast_to(kinds[:, None, [0, 0, 1, 1]], (2, 2, 4)).copy()
        row = rng.integers(2)
        if broken == "part":
            bars[row, :, rng.integers(4)] ^= 1
        if broken == "arrangement":
            bars[row, rng.integers(2), [[0, 1], [2, 3]][rng.integers(2)]] ^= 1
        for (row, column), part in zip(np.ndindex(2, 2), bars.reshape(4, 4), strict=True):
            place = image[16 * row : 16 * row + 8, 16 * column : 16 * column + 8]
            for bar, is_bright in zip(_BARS, part, strict=True):
                place[bar] = 200 if is_bright else 130
            if broken == "pair":
                some = place[_BARS[rng.integers(4)]][rng.integers(2) :: 2]
                some[:] = 330 - some
        if broken == "pixel":
            places = rng.choice(image.size, 12, replace=False)
            image.flat[places] = rng.choice([0, 95, 165, 255], 12)
    return (images + rng.normal(0, 2, images.shape)).clip(0, 255).astype(np.uint8)
