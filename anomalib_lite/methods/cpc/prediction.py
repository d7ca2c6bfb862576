"""Predicting vectors of patches from those before them, and what each prediction costs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from torch.nn import functional as F

from ...nn.losses import info_nce_values

# quarter turns that make predicting in a direction predicting downwards
_TURNS = {"down": 0, "up": 2, "right": -1, "left": 1}
DIRECTIONS = tuple(_TURNS)
_LOWEST_CONTRAST = 1e-3  # standard deviation of a constant image, in units of its network input


@dataclass(frozen=True)
class CPCScoring:
    """How CPC reads images and compares vectors.

    Snapshot: later set_params calls must not alter a fitted detector.

    Parameters
    ----------
    directions : tuple of {"down", "up", "right", "left"}
    shared : bool
        One encoder for all directions.
    standardize, normalize, temperature
        As :class:`CPC` has them.
    n_channels : int, default=3
        1 where the images of fit have no color.
    """

    directions: tuple[str, ...]
    shared: bool
    standardize: bool
    normalize: bool
    temperature: float
    n_channels: int = 3

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The directions of each encoder."""
        return [self.directions] if self.shared else [(one,) for one in self.directions]

    def prepare(self, batch: torch.Tensor) -> torch.Tensor:
        """Images (B, n_channels, H, W) as encoders take them, of network inputs (B, 3, H, W)."""
        if self.n_channels == 1:
            batch = batch.mean(1, keepdim=True)
        if not self.standardize:
            return batch
        mean = batch.mean((1, 2, 3), keepdim=True)
        std = batch.std((1, 2, 3), correction=0, keepdim=True)
        return (batch - mean) / std.clamp_min(_LOWEST_CONTRAST)

    def compared(self, vectors: torch.Tensor) -> torch.Tensor:
        """Vectors (..., D) whose scalar products are compared."""
        return F.normalize(vectors, dim=-1) if self.normalize else vectors


# -- directions -----------------------------------------------------------------------------------


def named_directions(directions: int | str | Sequence[str]) -> tuple[str, ...]:
    """Directions by name, from CPC's parameter.

    Examples
    --------
    >>> named_directions(2), named_directions("left")
    (('down', 'up'), ('left',))
    """
    is_number = isinstance(directions, Integral) and not isinstance(directions, bool)
    if is_number and 1 <= directions <= len(DIRECTIONS):
        return DIRECTIONS[:directions]
    names = (directions,) if isinstance(directions, str) else directions
    is_list = isinstance(names, list | tuple) and len(names) == len({*map(str, names)})
    if not (is_list and names and all(name in DIRECTIONS for name in names)):
        raise ValueError(
            f"directions: expected 1 to 4, or some of {', '.join(map(repr, DIRECTIONS))}, each "
            f"once, got {directions!r}."
        )
    return tuple(names)


def max_prediction_steps(shape: tuple[int, int], direction: str) -> int:
    """How many rows ahead a grid (rows, columns) allows to predict in a direction.

    Examples
    --------
    >>> max_prediction_steps((7, 3), "up"), max_prediction_steps((7, 3), "left")
    (6, 2)
    """
    return shape[_TURNS[direction] % 2] - 1


# -- predictions and their losses -----------------------------------------------------------------


def training_loss(
    grids: torch.Tensor,
    direction: str,
    matrices: torch.Tensor,
    n_negatives: int,
    scoring: CPCScoring,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean InfoNCE of predictions in a direction against other patches of the batch.

    Parameters
    ----------
    grids : torch.Tensor of shape (B, rows, columns, D)
    direction : {"down", "up", "right", "left"}
    matrices : torch.Tensor of shape (K, D, D)
        One for each step ahead.
    n_negatives : int
        Vectors drawn for each prediction, never the true one.
    scoring : CPCScoring
    generator : torch.Generator
        The CPU's.

    Returns
    -------
    loss : torch.Tensor of shape ()
    """
    grids = _turned(grids, direction)
    vectors = grids.flatten(0, 2)
    places = torch.arange(len(vectors), device="cpu").view(grids.shape[:3])
    values = []
    for k, (predicted, true) in enumerate(_predictions(grids, matrices, scoring), 1):
        others = draw_others(places[:, k:].flatten(), len(vectors), n_negatives, generator)
        values.append(
            info_nce_values(
                predicted.flatten(0, 2),
                true.flatten(0, 2),
                vectors,
                temperature=scoring.temperature,
                chosen=others.to(vectors.device),
            )
        )
    return torch.cat(values).mean()


def prediction_losses(
    grids: torch.Tensor,
    direction: str,
    matrices: torch.Tensor,
    negatives: torch.Tensor,
    scoring: CPCScoring,
) -> list[torch.Tensor]:
    """InfoNCE of every prediction in a direction against stored negatives.

    Parameters
    ----------
    grids : torch.Tensor of shape (B, rows, columns, D)
    direction : {"down", "up", "right", "left"}
    matrices : torch.Tensor of shape (K, D, D)
        One for each step ahead.
    negatives : torch.Tensor of shape (M, D)
    scoring : CPCScoring

    Returns
    -------
    losses : list of torch.Tensor of shape (B, rows - k, columns)
        For each step k, of grids turned so that the direction is downwards.
    """
    grids = _turned(grids, direction)
    return [
        info_nce_values(
            predicted.flatten(0, 2),
            true.flatten(0, 2),
            negatives,
            temperature=scoring.temperature,
        ).view(true.shape[:3])
        for predicted, true in _predictions(grids, matrices, scoring)
    ]


def sum_by_patch(losses: list[torch.Tensor], direction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums and numbers of the losses of each patch, turned back.

    Parameters
    ----------
    losses : list of torch.Tensor of shape (B, rows - k, columns)
        As :func:`prediction_losses` gives them.
    direction : {"down", "up", "right", "left"}

    Returns
    -------
    sums : torch.Tensor of shape (B, 2, rows, columns)
        First of the predictions of the patch, then of those made from it.
    counts : torch.Tensor of shape (2, rows, columns)
    """
    n, height, n_columns = losses[0].shape
    sums = losses[0].new_zeros(n, 2, height + 1, n_columns)
    counts = losses[0].new_zeros(2, height + 1, n_columns)
    for k, loss in enumerate(losses, 1):
        sums[:, 0, k:] += loss
        sums[:, 1, :-k] += loss
        counts[0, k:] += 1
        counts[1, :-k] += 1
    turns = -_TURNS[direction]
    return torch.rot90(sums, turns, (2, 3)), torch.rot90(counts, turns, (1, 2))


def draw_others(
    own: torch.Tensor, n: int, n_others: int, generator: torch.Generator
) -> torch.Tensor:
    """For each index of ``own`` (m,), random other indices (m, n_others) below n.

    Examples
    --------
    >>> draw_others(torch.tensor([0, 1]), 2, 3, torch.Generator().manual_seed(0))
    tensor([[1, 1, 1],
            [0, 0, 0]])
    """
    drawn = torch.randint(n - 1, (len(own), n_others), generator=generator, device="cpu")
    return drawn + (drawn >= own[:, None])


def _turned(grids, direction):
    """Grids (B, rows, columns, D), turned so that the direction is downwards."""
    return torch.rot90(grids, _TURNS[direction], (1, 2))


def _predictions(grids, matrices, scoring) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """For each step k: (predicted, true) vectors, both (B, rows - k, columns, D)."""
    for k, matrix in enumerate(matrices, 1):
        yield scoring.compared(grids[:, :-k] @ matrix.T), grids[:, k:]
