"""PatchCore: the distance of every patch to a memory bank of normal patches."""

from .calibration import PartBanks
from .detector import PatchCore, _PatchCoreSettings

__all__ = ["PartBanks", "PatchCore", "_PatchCoreSettings"]
