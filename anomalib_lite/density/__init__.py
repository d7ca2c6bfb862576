"""Densities and one-class classifiers of rows of features."""

from .gaussian import (
    GaussianDensity,
    GaussianStatistics,
    left_out,
    shrunk_gaussian,
    squared_mahalanobis,
    whiteners,
)
from .heads import check_head, fit_head, folds, head_scores, held_out_scores
from .nce import LogOdds, NCEDensity, log_normal_mode, truncated_normal

__all__ = [
    "GaussianDensity",
    "GaussianStatistics",
    "LogOdds",
    "NCEDensity",
    "check_head",
    "fit_head",
    "folds",
    "head_scores",
    "held_out_scores",
    "left_out",
    "log_normal_mode",
    "shrunk_gaussian",
    "squared_mahalanobis",
    "truncated_normal",
    "whiteners",
]
