"""PatchCore: the distance of every patch to a memory bank of normal patches."""

from .calibration import PartBanks
from .detector import PatchCore, _PatchCoreSettings
from .region import Region

__all__ = ["PartBanks", "PatchCore", "Region", "_PatchCoreSettings"]
