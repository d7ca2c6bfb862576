"""Images: reading, checking, resizing and augmenting them; data sets."""

from .augment import (
    cut_paste,
    cut_paste_scar,
    gaussian_blur,
    is_gray,
    random_windows,
    simclr_views,
    turned,
)
from .datasets import AnomalyDataset, load_elpv, load_mvtec, mvtec_categories
from .files import IMAGE_SUFFIXES, image_files
from .images import IMAGE_KEYS, CheckedImage, ImageStream, SkippedImage, is_table
from .inputs import NetworkInput, ScaleCheck, ValueRange
from .masks import read_mask
from .synthetic import (
    CORRUPTIONS,
    DEFECTS,
    TEXTURES,
    corrupted,
    crack,
    misprint,
    missing,
    planted_texture,
    scratch,
    stain,
)

__all__ = [
    "CORRUPTIONS",
    "DEFECTS",
    "IMAGE_KEYS",
    "IMAGE_SUFFIXES",
    "TEXTURES",
    "AnomalyDataset",
    "CheckedImage",
    "ImageStream",
    "NetworkInput",
    "ScaleCheck",
    "SkippedImage",
    "ValueRange",
    "corrupted",
    "crack",
    "cut_paste",
    "cut_paste_scar",
    "gaussian_blur",
    "image_files",
    "is_gray",
    "is_table",
    "load_elpv",
    "load_mvtec",
    "misprint",
    "missing",
    "mvtec_categories",
    "planted_texture",
    "random_windows",
    "read_mask",
    "scratch",
    "simclr_views",
    "stain",
    "turned",
]
