"""Networks that methods train, their losses, and the one training loop."""

from .autoencoders import (
    Autoencoder,
    ConvAutoencoder,
    LinearAutoencoder,
    MLPAutoencoder,
    reconstruction_errors,
)
from .convnet import ConvNet
from .course import portion, side_by_side
from .layers import StoredNetwork, mlp
from .losses import info_nce_loss, info_nce_values, information_bound, nce_loss
from .parts import in_parts
from .patch_encoders import DenseEncoder, PatchEncoder, ResidualEncoder
from .patchgan import BatchDeviation, InformationCritic, PatchDiscriminator, UNetGenerator
from .training import Objective, bounded_sum, check_training, split_off, train, training_settings
from .windows import PatchDetector, coordinate_maps

__all__ = [
    "Autoencoder",
    "BatchDeviation",
    "ConvAutoencoder",
    "ConvNet",
    "DenseEncoder",
    "InformationCritic",
    "LinearAutoencoder",
    "MLPAutoencoder",
    "Objective",
    "PatchDetector",
    "PatchDiscriminator",
    "PatchEncoder",
    "ResidualEncoder",
    "StoredNetwork",
    "UNetGenerator",
    "bounded_sum",
    "check_training",
    "coordinate_maps",
    "in_parts",
    "info_nce_loss",
    "info_nce_values",
    "information_bound",
    "mlp",
    "nce_loss",
    "portion",
    "reconstruction_errors",
    "side_by_side",
    "split_off",
    "train",
    "training_settings",
]
