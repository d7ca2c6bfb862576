"""Whole detectors as ONNX files; :mod:`anomalib_lite.deploy` reads them."""

from .mixin import ExportMixin

__all__ = ["ExportMixin"]
