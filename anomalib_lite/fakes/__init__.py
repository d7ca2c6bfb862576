"""Fakes: images that look normal through small windows only."""

from .imitator import FakeSource, Imitator
from .patchgan import EntropyPatchGAN
from .resampling import PatchResampler, Resampled, resampled
from .sources import ShuffledPixels, UniformNoise, make_fakes, shuffled_pixels, uniform_noise

__all__ = [
    "EntropyPatchGAN",
    "FakeSource",
    "Imitator",
    "PatchResampler",
    "Resampled",
    "ShuffledPixels",
    "UniformNoise",
    "make_fakes",
    "resampled",
    "shuffled_pixels",
    "uniform_noise",
]
