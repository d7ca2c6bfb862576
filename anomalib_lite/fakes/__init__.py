"""Images that look normal through small windows alone."""

from .patchgan import EntropyPatchGAN, trained_generator
from .resampling import PatchResampler, Resampled, resampled
from .sources import ShuffledPixels, UniformNoise, make_fakes, shuffled_pixels, uniform_noise

__all__ = [
    "EntropyPatchGAN",
    "PatchResampler",
    "Resampled",
    "ShuffledPixels",
    "UniformNoise",
    "make_fakes",
    "resampled",
    "shuffled_pixels",
    "trained_generator",
    "uniform_noise",
]
