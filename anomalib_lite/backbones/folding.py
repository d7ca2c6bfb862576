"""Folding of BatchNorm layers into the convolutions before them."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .readers import Reader


def same_maps(expected: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> bool:
    """Whether two lists of feature maps differ by no more than rounding."""
    return all(
        isinstance(a, torch.Tensor)
        and a.shape == b.shape
        and bool(a.isfinite().all())  # not so of noise, after training on constant images
        and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
        for a, b in zip(expected, given, strict=True)
    )


@torch.no_grad()
def foldable_pairs(reader: Reader, example: torch.Tensor) -> list[tuple[str, str]]:
    """Names (convolution, BatchNorm) that can be folded without changing the features.

    Parameters
    ----------
    reader : Reader
    example : torch.Tensor of shape (1, 3, h, w)
        The features of it are compared.
    """
    pairs = _conv_norm_pairs(reader, example)
    if not pairs or same_maps(reader(example), folded(reader, pairs)(example)):
        return pairs
    return []


def folded(reader: Reader, pairs: Sequence[tuple[str, str]]) -> Reader:
    """A copy of the reader with each BatchNorm of ``pairs`` folded into its convolution."""
    if not pairs:
        return reader
    folded = copy.deepcopy(reader)
    for conv_name, norm_name in pairs:
        conv = folded.model.get_submodule(conv_name)
        norm = folded.model.get_submodule(norm_name)
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias,
            norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
        )  # fmt: skip
        # timm's BatchNormAct2d carries the activation that follows it
        folded.model.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    return folded


def _conv_norm_pairs(reader, example):
    """Names (convolution, BatchNorm) where the second is the first to read the first's output."""
    outputs, pairs, hooks = {}, [], []

    def remember(name):
        def hook(_module, _inputs, output):
            outputs[id(output)] = name, output, output._version

        return hook

    def match(name):
        def hook(_module, inputs):
            key = id(inputs[0]) if inputs else None
            conv_name, output, version = outputs.pop(key, (None, None, None))
            if conv_name is not None and output._version == version:  # not changed in place
                pairs.append((conv_name, name))

        return hook

    for name, module in reader.model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            hooks.append(module.register_forward_pre_hook(match(name)))
    try:
        reader(example)
    finally:
        for hook in hooks:
            hook.remove()
    convs, norms = [conv for conv, _ in pairs], [norm for _, norm in pairs]
    # a module that runs twice in one pass (shared weights) is left alone
    return [p for p in pairs if convs.count(p[0]) == 1 and norms.count(p[1]) == 1]
