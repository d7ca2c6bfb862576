"""Exported detectors, read without PyTorch: needs NumPy, Pillow and ONNX Runtime alone."""

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:  # what editors and type checkers see
    from .card import DetectorCard as DetectorCard
    from .reader import OnnxDetector as OnnxDetector
    from .seal import check_seal as check_seal

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DetectorCard": "card",
        "OnnxDetector": "reader",
        "check_seal": "seal",
    },
)

__all__ = [
    "DetectorCard",
    "OnnxDetector",
    "check_seal",
]
