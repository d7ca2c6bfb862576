"""Slow, literal implementations of what the library computes fast, independent of its code."""

import itertools
import math

import numpy as np
import torch
from scipy import ndimage, optimize, spatial, stats
from sklearn.covariance import ledoit_wolf


def slow_greedy_coreset(rows, n_keep, start=0):
    """(picks, radius): pick the row farthest from all earlier picks, one at a time, in float64.

    Sums are torch's, since the last bit, which depends on the order of summation, breaks ties that
    are exact on paper.
    """
    rows = torch.as_tensor(rows).double()
    gap = np.full(len(rows), np.inf)
    picks = []
    pick = start
    while True:
        picks.append(pick)
        gap = np.minimum(gap, ((rows - rows[pick]) ** 2).sum(dim=1).numpy())
        gap[picks] = -1.0  # never twice
        pick = int(gap.argmax())
        if len(picks) == n_keep:
            return np.array(picks), math.sqrt(max(gap[pick], 0.0))


def slow_nearest(rows, stored, k=1, exclude=()):
    """(distances, indices), each (n, k), by sorting all float64 distances of each row."""
    rows, stored = np.asarray(rows, np.float64), np.asarray(stored, np.float64)
    allowed = np.setdiff1d(np.arange(len(stored)), exclude)
    distances, indices = [], []
    for row in rows:
        apart = np.sqrt(((stored[allowed] - row) ** 2).sum(axis=1))
        order = np.argsort(apart, kind="stable")[:k]
        distances.append(apart[order])
        indices.append(allowed[order])
    return np.array(distances), np.array(indices)


def slow_patchcore_score(rows, bank, b):
    """Equation 7 of the PatchCore paper for the patch vectors (P, D) of one image."""
    bank = np.asarray(bank, np.float64)
    distance, index = slow_nearest(rows, bank)
    patch = int(distance[:, 0].argmax())
    star = float(distance[patch, 0])
    if b is None or b == 1:
        return star
    test, nearest = np.asarray(rows, np.float64)[patch], bank[index[patch, 0]]
    _, neighbors = slow_nearest(nearest[None], bank, k=b)
    total = sum(math.exp(math.dist(test, bank[m])) for m in neighbors[0])
    return (1 - math.exp(math.dist(test, nearest)) / total) * star


def slow_whitened(rows, normal, floor=1e-3):
    """Rows (n, D) in the white coordinates of ``normal`` (m, D): C^(-1/2) (row - mean).

    Eigenvalues of the covariance C are raised to ``floor`` of their mean; without any, C is 1.
    """
    rows, normal = np.asarray(rows, np.float64), np.asarray(normal, np.float64)
    mean = normal.mean(0)
    covariance = np.zeros((normal.shape[1],) * 2)
    for row in normal:
        covariance += np.outer(row - mean, row - mean) / max(len(normal) - 1, 1)
    values, vectors = np.linalg.eigh(covariance)
    if not covariance.any():
        values[:] = 1.0
    root = np.zeros_like(covariance)
    for value, vector in zip(values, vectors.T, strict=True):
        root += np.outer(vector, vector) / math.sqrt(max(value, floor * values.mean()))
    return np.array([root @ (row - mean) for row in rows])


def slow_top_mean(rows, bank, n):
    """Mean of the n largest distances of an image's rows (P, D) to their nearest bank rows."""
    nearest = [min(math.dist(row, other) for other in bank) for row in rows.tolist()]
    return sum(sorted(nearest)[-n:]) / n


def slow_resize(plane, size):
    """Bilinear resizing of (h, w) between pixel centers, one output pixel at a time."""
    resized = np.zeros(size)
    for i, j in np.ndindex(*size):
        y = max((i + 0.5) * plane.shape[0] / size[0] - 0.5, 0.0)
        x = max((j + 0.5) * plane.shape[1] / size[1] - 0.5, 0.0)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, plane.shape[0] - 1), min(left + 1, plane.shape[1] - 1)
        dy, dx = y - top, x - left
        resized[i, j] = (
            (1 - dy) * (1 - dx) * plane[top, left]
            + (1 - dy) * dx * plane[top, right]
            + dy * (1 - dx) * plane[bottom, left]
            + dy * dx * plane[bottom, right]
        )
    return resized


def slow_concat_embedding(maps, neighborhood=3):
    """Patch vectors by section 3.1 of the PatchCore paper, from maps (B, C, h, w).

    Each cell is the mean of its neighborhood, with zeros beyond the border. The other maps are
    resized to the first, and all channels are stacked.
    """
    reach = neighborhood // 2
    size = maps[0].shape[-2:]
    embedding = []
    for image in range(len(maps[0])):
        channels = []
        for grid in maps:
            for plane in np.asarray(grid[image], dtype=np.float64):
                height, width = plane.shape
                mean = np.zeros((height, width))
                for i, j in np.ndindex(height, width):
                    for di in range(-reach, reach + 1):
                        for dj in range(-reach, reach + 1):
                            if 0 <= i + di < height and 0 <= j + dj < width:
                                mean[i, j] += plane[i + di, j + dj] / neighborhood**2
                channels.append(slow_resize(mean, size))
        embedding.append(channels)
    return np.array(embedding)


def slow_official_embedding(maps, neighborhood=3, dim=1024):
    """Patch vectors (B * h * w, dim) by the steps of the PatchCore authors' code, in their order.

    Patches, resized patch tensors, ``MeanMapper`` for each layer, ``Aggregator``.
    """
    size = maps[0].shape[-2:]
    layers = []
    for grid in maps:
        n_images, n_channels, height, width = grid.shape
        patches = torch.nn.Unfold(neighborhood, stride=1, padding=(neighborhood - 1) // 2)(grid)
        patches = patches.reshape(n_images, n_channels, neighborhood, neighborhood, -1)
        patches = patches.permute(0, 4, 1, 2, 3)  # (B, P, C, n, n)
        if (height, width) != tuple(size):
            patches = patches.reshape(n_images, height, width, *patches.shape[2:])
            patches = patches.permute(0, -3, -2, -1, 1, 2)  # (B, C, n, n, h, w)
            before = patches.shape
            patches = patches.reshape(-1, 1, height, width)
            patches = torch.nn.functional.interpolate(
                patches, size=tuple(size), mode="bilinear", align_corners=False
            )
            patches = patches.reshape(*before[:-2], *size)
            patches = patches.permute(0, -2, -1, 1, 2, 3)
            patches = patches.reshape(n_images, -1, *patches.shape[-3:])
        patches = patches.reshape(-1, *patches.shape[-3:])  # (B * P, C, n, n)
        rows = patches.reshape(len(patches), 1, -1)
        layers.append(torch.nn.functional.adaptive_avg_pool1d(rows, dim).squeeze(1))
    stacked = torch.stack(layers, dim=1)  # (B * P, layers, dim)
    stacked = stacked.reshape(len(stacked), 1, -1)
    return torch.nn.functional.adaptive_avg_pool1d(stacked, dim).reshape(len(stacked), -1)


def slow_f1_max(y_true, scores):
    """(F1, threshold) by trying every score as the threshold; the highest wins ties."""
    y_true, best = np.asarray(y_true, dtype=bool), (-1.0, 0.0)
    for threshold in sorted(set(np.asarray(scores).tolist()), reverse=True):
        alarm = np.asarray(scores) >= threshold
        hits = int((alarm & y_true).sum())
        f1 = 2 * hits / (2 * hits + int((alarm & ~y_true).sum()) + int((~alarm & y_true).sum()))
        if f1 > best[0]:
            best = f1, threshold
    return best


def slow_aupro(masks, maps, max_fpr=0.3):
    """AUPRO by loops over thresholds, images and 8-connected regions; trapezoids up to max_fpr."""
    masks = [np.asarray(mask, dtype=bool) for mask in masks]
    maps = [np.asarray(heat) for heat in maps]
    regions = []
    for i, mask in enumerate(masks):
        labels, n = ndimage.label(mask, structure=[[1, 1, 1], [1, 1, 1], [1, 1, 1]])
        regions += [(i, labels == k) for k in range(1, n + 1)]
    n_normal = sum(int((~mask).sum()) for mask in masks)
    curve = [(0.0, 0.0)]  # (false positive rate, per-region overlap), from threshold +inf on
    for threshold in sorted({v for heat in maps for v in heat.ravel().tolist()}, reverse=True):
        alarms = [heat >= threshold for heat in maps]
        fpr = sum(int((a & ~mask).sum()) for a, mask in zip(alarms, masks, strict=True)) / n_normal
        curve.append((fpr, np.mean([(alarms[i] & r).sum() / r.sum() for i, r in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x1 > max_fpr:  # cut the segment that crosses the limit
            y1 = y0 + (y1 - y0) * (max_fpr - x0) / (x1 - x0)
            x1 = max_fpr
        area += (x1 - x0) * (y0 + y1) / 2
        if x1 >= max_fpr:
            break
    return area / max_fpr


def slow_padim_map(rows, training, eps):
    """Mahalanobis distances (P,) of rows (P, d) from training rows (n, P, d) of the same place."""
    rows, training = np.asarray(rows, np.float64), np.asarray(training, np.float64)
    distances = []
    for place, row in enumerate(rows):
        here = training[:, place]
        covariance = np.cov(here, rowvar=False) + eps * np.eye(here.shape[1])
        distances.append(
            spatial.distance.mahalanobis(row, here.mean(axis=0), np.linalg.inv(covariance))
        )
    return np.array(distances)


def slow_subspace_squares(rows, training, share):
    """Squared residuals (P,) of rows (P, d) beside the leading principal axes of training rows."""
    rows, training = np.asarray(rows, np.float64), np.asarray(training, np.float64)
    mean = training.mean(axis=0)
    _, deviations, axes = np.linalg.svd(training - mean, full_matrices=False)
    shares = np.cumsum(deviations**2) / np.sum(deviations**2)
    kept = axes[: 1 + np.flatnonzero(shares >= share)[0]]
    residuals = [row - mean - kept.T @ (kept @ (row - mean)) for row in rows]
    return np.array([residual @ residual for residual in residuals])


def slow_outlier_factors(images, k, sample):
    """Local outlier factors (n, P) of images (n, P, D), by the definition.

    ``sample``: for each position the patches (image, position) among which neighbors are sought.
    """

    def neighbors(image, position):
        here, others = images[image][position], [one for one in sample[position] if one[0] != image]
        distances = [math.dist(here, images[i][j]) for i, j in others]
        order = sorted(range(len(others)), key=distances.__getitem__)[:k]
        return [(distances[o], others[o]) for o in order]

    def density(image, position):
        near = neighbors(image, position)
        reach = [max(d, neighbors(*other)[-1][0]) for d, other in near]
        return len(reach) / sum(reach)

    def factor(image, position):
        near = neighbors(image, position)
        around = sum(density(*other) for _, other in near) / len(near)
        return around / density(image, position)

    return [[factor(i, p) for p in range(len(images[0]))] for i in range(len(images))]


def slow_spade(embedding, pyramid, embeddings, pyramids, k):
    """(image score, patch values (P,)) of an image from the pyramids of its k nearest images."""
    distance, index = slow_nearest(np.asarray(embedding)[None], embeddings, k)
    gallery = np.concatenate([np.asarray(pyramids)[i] for i in index[0]])
    values, _ = slow_nearest(pyramid, gallery)
    return distance[0].mean(), values[:, 0]


def slow_info_nce(queries, keys, temperature, negatives=None, symmetric=False):
    """InfoNCE by its definition: minus the mean log of the positive's share of all exponentials.

    Negatives are the other keys (``symmetric``: all other vectors of the batch, with keys as
    queries too), or those given: (M, D) for all queries or (B, M, D) for each query.
    """
    queries, keys = (np.asarray(rows, np.float64).tolist() for rows in (queries, keys))
    anchors = [
        (query, key, "query", i) for i, (query, key) in enumerate(zip(queries, keys, strict=True))
    ]
    if symmetric:
        anchors += [
            (key, query, "key", i) for i, (query, key) in enumerate(zip(queries, keys, strict=True))
        ]

    def exponential(a, b):
        dot = 0.0
        for x, y in zip(a, b, strict=True):
            dot += x * y
        return math.exp(dot / temperature)

    loss = 0.0
    for vector, positive, kind, i in anchors:
        total = exponential(vector, positive)
        if negatives is not None:
            given = np.asarray(negatives, np.float64)
            for other in given if given.ndim == 2 else given[i]:
                total += exponential(vector, other.tolist())
        else:
            for j in range(len(queries)):
                if j == i:
                    continue
                total += exponential(vector, keys[j] if kind == "query" else queries[j])
                if symmetric:
                    total += exponential(vector, queries[j] if kind == "query" else keys[j])
        loss -= math.log(exponential(vector, positive) / total)
    return loss / len(anchors)


def slow_nce(data_logits, noise_logits, noise_ratio):
    """Loss of noise contrastive estimation, term by term."""
    loss = 0.0
    for h in data_logits:
        loss -= math.log(1 / (1 + math.exp(-h))) / len(data_logits)
    for h in noise_logits:
        loss -= noise_ratio * math.log(1 - 1 / (1 + math.exp(-h))) / len(noise_logits)
    return loss


def slow_cpc(grids, matrices, negatives, temperature, normalize=False):
    """(score, patch values) of an image, one scalar product at a time.

    Dicts by direction hold patch vectors (rows, columns, D), matrices (K, D, D) and normal vectors
    (L, D). The value of a patch is the mean loss of the predictions of it or, if there are none, of
    the predictions from it.
    """
    moves = {"down": (1, 0), "up": (-1, 0), "right": (0, 1), "left": (0, -1)}
    means, of_it, from_it = [], {}, {}

    def dot(a, b):
        total = 0.0
        for x, y in zip(a, b, strict=True):
            total += x * y
        return total

    def unit(a):
        return a / math.sqrt(dot(a, a)) if normalize else a

    for direction, grid in grids.items():
        grid, (down, right) = np.asarray(grid, np.float64), moves[direction]
        losses = []
        for k, matrix in enumerate(np.asarray(matrices[direction], np.float64), 1):
            for i in range(grid.shape[0]):
                for j in range(grid.shape[1]):
                    row, column = i + k * down, j + k * right
                    if not (0 <= row < grid.shape[0] and 0 <= column < grid.shape[1]):
                        continue
                    predicted = unit(np.array([dot(line, grid[i, j]) for line in matrix]))
                    positive = math.exp(dot(predicted, grid[row, column]) / temperature)
                    total = positive
                    for other in np.asarray(negatives[direction], np.float64):
                        total += math.exp(dot(predicted, other) / temperature)
                    losses.append(-math.log(positive / total))
                    of_it.setdefault((row, column), []).append(losses[-1])
                    from_it.setdefault((i, j), []).append(losses[-1])
        means.append(np.mean(losses))
    values = np.empty(grid.shape[:2])
    for place in np.ndindex(values.shape):
        values[place] = np.mean(of_it.get(place) or from_it[place])
    return np.mean(means), values


def slow_resampled(images, level, draws, tolerance):
    """Images as by ``fakes.resampled``, one pixel at a time in reading order."""
    images, draws = np.asarray(images, np.float64), np.asarray(draws, np.float64)
    n_channels, height, width = images.shape[1:]
    made = np.zeros((len(draws), n_channels, height, width))
    for image, own_draws in zip(made, draws, strict=True):
        for i in range(height):
            for j in range(width):
                context = [
                    (row, column)
                    for row in range(max(0, i - level + 1), i + 1)
                    for column in range(max(0, j - level + 1), j + 1)
                    if (row, column) != (i, j)
                ]
                distance = np.array(
                    [sum(((other - image)[:, r, c] ** 2).sum() for r, c in context)
                     for other in images]
                )  # fmt: skip
                limit = max(distance.min(), tolerance**2) + 1e-4
                matches = np.flatnonzero(distance <= limit)
                chosen = matches[int(own_draws[i, j] * len(matches))]
                image[:, i, j] = images[chosen, :, i, j]
    return made


def slow_window_map(values, level):
    """Map of the mean value of the windows whose centers are nearest to each pixel's.

    ``values`` (h, w) belong to all windows of ``level`` x ``level`` pixels. Rows and columns are
    treated separately.
    """
    size = [n + level - 1 for n in values.shape]
    found = np.zeros(size)
    for place in np.ndindex(*size):
        nearest = []
        for pixel, n in zip(place, values.shape, strict=True):
            apart = [abs(start + level / 2 - (pixel + 0.5)) for start in range(n)]
            nearest.append([start for start in range(n) if apart[start] == min(apart)])
        found[place] = np.mean([values[row, column] for row in nearest[0] for column in nearest[1]])
    return found


def slow_distances(rows, normal):
    """Mahalanobis distances (n,) of rows from normal rows, standardized by the normal ones."""
    std = normal.std(0, ddof=1)
    z, known = ((values - normal.mean(0)) / std for values in (rows, normal))
    inverse = np.linalg.inv(ledoit_wolf(known, assume_centered=True)[0])
    return np.array([np.sqrt(row @ inverse @ row) for row in z])


def slow_bootstrap(metric, y_true, scores, n_resamples, confidence, seed):
    """Percentile interval of a metric, one resample after the other, each image by its index."""
    y_true, scores = np.asarray(y_true, bool), np.asarray(scores, float)
    normal, anomalous = np.flatnonzero(~y_true), np.flatnonzero(y_true)
    rng, values = np.random.default_rng(seed), []
    for _ in range(n_resamples):
        drawn = [normal[k] for k in rng.integers(len(normal), size=len(normal))]
        drawn += [anomalous[k] for k in rng.integers(len(anomalous), size=len(anomalous))]
        values.append(metric(y_true[drawn], scores[drawn]))
    tail = (1 - confidence) / 2
    return np.quantile(values, tail), np.quantile(values, 1 - tail)


def slow_wilson(n_hits, n, confidence):
    """Wilson's interval: the probabilities at which the score test does not reject n_hits of n."""
    z = stats.norm.ppf((1 + confidence) / 2)

    def excess(p):
        return (n_hits / n - p) ** 2 - z**2 * p * (1 - p) / n

    share = n_hits / n
    low = 0.0 if n_hits == 0 else optimize.brentq(excess, 0, share - 1e-9, xtol=1e-14)
    high = 1.0 if n_hits == n else optimize.brentq(excess, share + 1e-9, 1, xtol=1e-14)
    return low, high


def slow_planted_auroc(make, trial, chosen):
    """Mean over chosen planted defects of the share of good images that each outscores.

    Each is compared with the good images held out in its split; of a tie one half counts.
    """
    n_good, shares = sum(trial.y == 1), []
    for train, test in trial.splits:
        fitted = make().fit([trial.X[i] for i in train])
        scores = {i: float(fitted.anomaly_score([trial.X[i]])[0]) for i in test.tolist()}
        good = [score for i, score in scores.items() if i < n_good]
        for i, score in scores.items():
            if i >= n_good and chosen(trial.defects[i - n_good]):
                won = [1.0 if score > other else 0.5 * (score == other) for other in good]
                shares.append(sum(won) / len(good))
    return sum(shares) / len(shares)
