"""Slow, literal readings of what the library computes fast. Nothing here is called by it."""

import math

import numpy as np


def slow_greedy_coreset(rows, n_keep, start=0):
    """The plain loop: pick the row farthest from all picks, one at a time, in float64.

    Gives the picks and the radius they leave.
    """
    rows = np.asarray(rows, dtype=np.float64)
    gap = np.full(len(rows), np.inf)
    picks = []
    pick = start
    while True:
        picks.append(pick)
        gap = np.minimum(gap, ((rows - rows[pick]) ** 2).sum(axis=1))
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
    """Equation 7 of the PatchCore paper for the patch rows (P, D) of one image."""
    bank = np.asarray(bank, np.float64)
    distance, index = slow_nearest(rows, bank)
    patch = int(distance[:, 0].argmax())
    star = float(distance[patch, 0])
    if b is None or b == 1:
        return star
    test, nearest = np.asarray(rows, np.float64)[patch], bank[index[patch, 0]]
    _, neighbours = slow_nearest(nearest[None], bank, k=b)
    total = sum(math.exp(math.dist(test, bank[m])) for m in neighbours[0])
    return (1 - math.exp(math.dist(test, nearest)) / total) * star


def slow_concat_embedding(maps, n):
    """placeholder"""
