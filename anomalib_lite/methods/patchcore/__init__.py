"""PatchCore: the distance of every patch to a memory bank of normal patches."""

from .calibration import PartBanks
from .detector import PatchCore, _PatchCoreSettings
from .evidence import Evidence
from .labeled import LabeledPatchCore
from .region import Region

__all__ = ["Evidence", "LabeledPatchCore", "PartBanks", "PatchCore", "Region", "_PatchCoreSettings"]
