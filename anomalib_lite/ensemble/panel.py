"""Members of an ensemble as they look at images together."""

from typing import Any, Self

import torch

from ..base import BaseDetector
from ..data.inputs import NetworkInput
from ..runtime import twin_of
from .sharing import Sharing

_COARSER = 4  # pixels of a resized image that are a cell of maps


class Panels:
    """Keeps the panel that was made last. Pickles and files have none: it is made again."""

    def __init__(self):
        self._last = None

    def of(self, members: list[BaseDetector], size: tuple[int, int]) -> "Panel":
        """The panel of some members; see :class:`Panel`."""
        last = self._last
        if last is None or last.members is not members:
            last = self._last = Panel(members, size)
        return last

    def __reduce__(self):
        return Panels, ()

    def to_state(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        return cls()


class Panel:
    """Members as they look at images together.

    Parameters
    ----------
    members : list of BaseDetector
        Fitted.
    size : tuple (H, W)
        That the ensemble resizes images to.
    """

    def __init__(self, members: list[BaseDetector], size: tuple[int, int]):
        self.members = members
        self._sharing = Sharing(members)
        self._twins = [*map(twin_of, members)]
        for place, reader in self._sharing.readers.items():
            self._twins[place].backbone_ = reader
        self._renderers = [member._map_renderer() for member in members]
        self._levels = [member.map_levels() for member in members]
        self._size = tuple(-(-side // _COARSER) for side in size)

    def look(
        self, parts: dict[NetworkInput, torch.Tensor], *, maps: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Scores (B,) of each member, and its map (B, rows, columns): 0 is normal, 1 too much."""
        told = []
        for place, twin in enumerate(self._twins):
            scores, grids = twin._checked_inference(parts[twin.input_], maps=maps)
            told.append((scores, self.heat(place, grids) if maps else None))
        self._sharing.forget()
        return told

    def heat(self, place: int, grids: torch.Tensor) -> torch.Tensor:
        """Maps (B, rows, columns) of grids (B, h, w) of the member at a place."""
        levels = self._levels[place]
        heat = self._renderers[place](grids, self._size)
        return (heat - levels.normal) / (levels.threshold - levels.normal)
