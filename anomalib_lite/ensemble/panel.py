"""Members of an ensemble as they look at images together."""

import threading
from typing import Any, Self

import torch

from ..base import BaseDetector
from ..data.inputs import NetworkInput
from ..runtime import twin_of
from .inputs import without_patches
from .scales import Scales
from .sharing import Sharing, Watch

_COARSER = 4  # pixels of a resized image that are a cell of maps


class Panels:
    """Keeps a panel, which takes long to make. Pickles and files have none: it is made again."""

    def __init__(self):
        self._made, self._lock = None, threading.Lock()

    def get(self, members: list[BaseDetector], scales: Scales, seen: NetworkInput) -> "Panel":
        """The panel of what was learned in one fit; arguments as of :class:`Panel`."""
        with self._lock:
            if self._made is None:
                self._made = Panel(members, scales, seen)
            return self._made

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
    scales : Scales
    seen : NetworkInput
        The ensemble's.
    """

    def __init__(self, members: list[BaseDetector], scales: Scales, seen: NetworkInput):
        self._scales, self._sharing = scales, Sharing(members)
        self._twins = [*map(twin_of, members)]
        for place, reader in self._sharing.readers.items():
            self._twins[place].backbone_ = reader
        self._renderers = [member._map_renderer() for member in members]
        self._size = tuple(-(-side // _COARSER) for side in seen.image_size)
        starts = [offset // _COARSER for offset in seen.crop_offset]
        ends = [
            -(-(offset + side) // _COARSER)
            for offset, side in zip(seen.crop_offset, seen.seen_size, strict=True)
        ]
        self._is_seen = torch.zeros(self._size, dtype=torch.float32, device="cpu")
        self._is_seen[starts[0] : ends[0], starts[1] : ends[1]] = 1

    def look(
        self, parts: dict[NetworkInput, torch.Tensor], *, maps: bool
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Scores (B,) of each member, and its map (B, rows, columns): 0 is normal, 1 too much."""
        told, watch = [], Watch(parts.values())
        try:
            for place, twin in enumerate(self._twins):
                part = parts[without_patches(twin.input_)]
                scores, grids = twin._checked_inference(part, maps=maps)
                watch.check(twin)
                told.append((scores, self.heat(place, grids) if maps else None))
        finally:
            self._sharing.forget()
        return told

    def heat(self, place: int, grids: torch.Tensor) -> torch.Tensor:
        """Maps (B, rows, columns) of grids (B, h, w) of the member at a place; 0 if not seen."""
        heat = self._scales.heat(place, self._renderers[place](grids, self._size))
        return heat * self._is_seen.to(heat.device)
