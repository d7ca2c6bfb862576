"""CANCE, of images and tables: a density of an autoencoder's composite features."""

from .composites import CompositeModel
from .detector import CANCE
from .images import FeatureMapModel, PixelModel
from .tables import TableModel

__all__ = ["CANCE", "CompositeModel", "FeatureMapModel", "PixelModel", "TableModel"]
