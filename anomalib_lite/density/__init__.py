"""Densities and one-class classifiers of rows of features."""

from .anchored import AnchoredLogistic, held_out_log_odds
from .folded import FoldedStatistics
from .gaussian import (
    GaussianDensity,
    GaussianStatistics,
    leave_one_out_squares,
    shrunk_gaussian,
    squared_mahalanobis,
    whiteners,
)
from .heads import check_head, fit_head, folds, head_scores, held_out_scores, row_scores
from .nce import LogitMLP, NCEDensity, log_normal_mode, truncated_normal
from .outliers import aligned_outlier_factors, belonging, free_outlier_factors
from .subspace import Subspace, rounding_scatter

__all__ = [
    "AnchoredLogistic",
    "FoldedStatistics",
    "GaussianDensity",
    "GaussianStatistics",
    "LogitMLP",
    "NCEDensity",
    "Subspace",
    "aligned_outlier_factors",
    "belonging",
    "check_head",
    "fit_head",
    "folds",
    "free_outlier_factors",
    "head_scores",
    "held_out_log_odds",
    "held_out_scores",
    "leave_one_out_squares",
    "log_normal_mode",
    "rounding_scatter",
    "row_scores",
    "shrunk_gaussian",
    "squared_mahalanobis",
    "truncated_normal",
    "whiteners",
]
