"""CANCE of tables: of rows of numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from ...annotations import Images, Size
from ...contexts import plain
from ...data.images import is_table
from ...inspection import InspectedImage, Inspection
from ...runtime import check_has_values, exact_dtype, make_generator, twin_of
from .composites import CompositeModel
from .learning import CompositeLearner

ImagesOrTable: TypeAlias = Images | ArrayLike


@dataclass(frozen=True, eq=False)
class TableModel:
    """Scores of rows by an autoencoder of their scaled columns.

    Attributes
    ----------
    composite : CompositeModel
        Of scaled rows (n, n_features).
    scaler : StandardScaler
        Of the columns.
    device : torch.device
        Where scores are computed.
    """

    composite: CompositeModel
    scaler: StandardScaler
    device: torch.device

    def composites(self, table: np.ndarray) -> torch.Tensor:
        """Composites (n, latent_dim + 2) of a table (n, n_features)."""
        return self.composite.composites(scaled(self.scaler, table, self.device))

    def score(self, table: np.ndarray) -> torch.Tensor:
        """Anomaly scores (n,) of a table (n, n_features)."""
        return self.composite.score(scaled(self.scaler, table, self.device))

    def column_errors(self, table: np.ndarray) -> torch.Tensor:
        """Squared errors (n, n_features) of a table, in the columns' variances."""
        rows = scaled(self.scaler, table, self.device)
        _, back = self.composite.autoencoder(rows)
        return (rows - back).square()


def scaled(scaler: StandardScaler, table: np.ndarray, device: torch.device) -> torch.Tensor:
    """Scaled rows (n, n_features), float64 where the device has it."""
    rows = np.array(scaler.transform(table))  # scikit-learn may be told to make a DataFrame
    return torch.from_numpy(rows).to(device, exact_dtype(device))


class TableMixin:
    """The part of CANCE that takes tables; all it is given besides goes to the image detector."""

    def _fit_images(self, X):
        if is_table(X):
            self._fit_table(X)
        else:
            super()._fit_images(X)

    def _fit_table(self, X):
        if self._uses_backbone:
            raise ValueError(
                "backbone: a backbone reads images, and X is a table. Expected 'autoencoder', "
                f"'mlp' or 'pca', got {self.backbone!r}."
            )
        check_has_values(X)
        table = validate_data(self, X, dtype=np.float64, order="C")  # sums depend on the order
        self.input_ = self.value_range_ = None
        self.n_images_ = len(table)
        scaler = StandardScaler().fit(table)
        learner = CompositeLearner(self, make_generator(self.random_state))
        learned = learner.learn(scaled(scaler, table, self.device_))
        self._keep(TableModel(learned.model, scaler, self.device_), learned)
        self._calibrate_threshold(learned.anomaly_scores)

    def _table(self, X):
        """The table X, checked; None if this detector was fitted on images."""
        check_is_fitted(self)
        if not isinstance(self.model_, TableModel):
            return None
        check_has_values(X)
        return validate_data(self, X, dtype=np.float64, order="C", reset=False)

    @plain
    def inspect(
        self, X: ImagesOrTable, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Inspection:
        """Scores, labels and maps from one pass over images, or over the rows of a table.

        Parameters
        ----------
        X : array, tensor, list, folder, Dataset, DataLoader or iterable
            Images, or a table, as in ``fit``.
        maps, on_error
            See :meth:`BaseDetector.inspect`. Maps of rows have one size, and a table with bad
            values is refused as a whole.

        Returns
        -------
        inspection : Inspection
            Named tuple (scores, labels, maps, paths, skipped). The map of a table's row is the
            squared error of each column, in the column's variance.
        """
        table = self._table(X)
        if table is None:
            return super().inspect(X, maps=maps, on_error=on_error)
        return twin_of(self)._inspect_table(table, maps)

    def _inspect_table(self, table, maps):
        scores = -self.model_.score(table).cpu().numpy().astype(np.float64)
        errors = None if maps is False else self.model_.column_errors(table).cpu().numpy()
        return Inspection(scores, self._labels(scores), errors, [None] * len(scores))

    def iter_inspect(
        self, X: ImagesOrTable, *, maps: bool | str | Size = True, on_error: str = "raise"
    ) -> Iterator[InspectedImage]:
        """Score, label and map of one image, or row, after the other; see :meth:`inspect`."""
        if self._table(X) is None:
            yield from super().iter_inspect(X, maps=maps, on_error=on_error)
            return
        seen = self.inspect(X, maps=maps)
        for i, score in enumerate(seen.scores):
            errors = None if seen.maps is None else seen.maps[i]
            yield InspectedImage(float(score), int(seen.labels[i]), errors, None)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags
