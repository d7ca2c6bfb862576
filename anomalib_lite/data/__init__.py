"""Images: reading, checking, resizing and augmenting them; data sets."""

from typing import TYPE_CHECKING

from ..lazy import lazy

if TYPE_CHECKING:  # what editors and type checkers see
    from .augment import cut_paste as cut_paste
    from .augment import cut_paste_scar as cut_paste_scar
    from .augment import gaussian_blur as gaussian_blur
    from .augment import is_gray as is_gray
    from .augment import random_windows as random_windows
    from .augment import simclr_views as simclr_views
    from .augment import turned as turned
    from .classes import ImageClasses as ImageClasses
    from .classes import load_fashion_mnist as load_fashion_mnist
    from .datasets import AnomalyDataset as AnomalyDataset
    from .files import IMAGE_SUFFIXES as IMAGE_SUFFIXES
    from .files import image_files as image_files
    from .folders import load_folder as load_folder
    from .images import IMAGE_KEYS as IMAGE_KEYS
    from .images import CheckedImage as CheckedImage
    from .images import ImageStream as ImageStream
    from .images import SkippedImage as SkippedImage
    from .images import is_table as is_table
    from .inputs import NetworkInput as NetworkInput
    from .masks import read_mask as read_mask
    from .mvtec import load_btad as load_btad
    from .mvtec import load_mvtec as load_mvtec
    from .mvtec import load_mvtec_ad_2 as load_mvtec_ad_2
    from .mvtec import load_mvtec_loco as load_mvtec_loco
    from .mvtec import mvtec_categories as mvtec_categories
    from .packages import load_elpv as load_elpv
    from .packages import load_textile as load_textile
    from .planting import GLOBAL as GLOBAL
    from .planting import LOCAL as LOCAL
    from .planting import planted as planted
    from .scales import ScaleCheck as ScaleCheck
    from .scales import ValueRange as ValueRange
    from .synthetic import CORRUPTIONS as CORRUPTIONS
    from .synthetic import DEFECTS as DEFECTS
    from .synthetic import TEXTURES as TEXTURES
    from .synthetic import corrupted as corrupted
    from .synthetic import crack as crack
    from .synthetic import misprint as misprint
    from .synthetic import missing as missing
    from .synthetic import planted_texture as planted_texture
    from .synthetic import scratch as scratch
    from .synthetic import stain as stain
    from .visa import load_visa as load_visa
    from .visa import visa_categories as visa_categories

__getattr__, __dir__ = lazy(
    __name__,
    {
        "AnomalyDataset": "datasets",
        "CORRUPTIONS": "synthetic",
        "CheckedImage": "images",
        "DEFECTS": "synthetic",
        "GLOBAL": "planting",
        "IMAGE_KEYS": "images",
        "IMAGE_SUFFIXES": "files",
        "ImageClasses": "classes",
        "ImageStream": "images",
        "LOCAL": "planting",
        "NetworkInput": "inputs",
        "ScaleCheck": "scales",
        "SkippedImage": "images",
        "TEXTURES": "synthetic",
        "ValueRange": "scales",
        "corrupted": "synthetic",
        "crack": "synthetic",
        "cut_paste": "augment",
        "cut_paste_scar": "augment",
        "gaussian_blur": "augment",
        "image_files": "files",
        "is_gray": "augment",
        "is_table": "images",
        "load_btad": "mvtec",
        "load_elpv": "packages",
        "load_fashion_mnist": "classes",
        "load_folder": "folders",
        "load_mvtec": "mvtec",
        "load_mvtec_ad_2": "mvtec",
        "load_mvtec_loco": "mvtec",
        "load_textile": "packages",
        "load_visa": "visa",
        "misprint": "synthetic",
        "missing": "synthetic",
        "mvtec_categories": "mvtec",
        "planted": "planting",
        "planted_texture": "synthetic",
        "random_windows": "augment",
        "read_mask": "masks",
        "scratch": "synthetic",
        "simclr_views": "augment",
        "stain": "synthetic",
        "turned": "augment",
        "visa_categories": "visa",
    },
)

__all__ = [
    "CORRUPTIONS",
    "DEFECTS",
    "GLOBAL",
    "IMAGE_KEYS",
    "IMAGE_SUFFIXES",
    "LOCAL",
    "TEXTURES",
    "AnomalyDataset",
    "CheckedImage",
    "ImageClasses",
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
    "load_btad",
    "load_elpv",
    "load_fashion_mnist",
    "load_folder",
    "load_mvtec",
    "load_mvtec_ad_2",
    "load_mvtec_loco",
    "load_textile",
    "load_visa",
    "misprint",
    "missing",
    "mvtec_categories",
    "planted",
    "planted_texture",
    "random_windows",
    "read_mask",
    "scratch",
    "simclr_views",
    "stain",
    "turned",
    "visa_categories",
]
