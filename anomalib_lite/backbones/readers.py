"""Readers: intermediate feature maps of timm networks and of any other module."""

import copy
import threading
from collections.abc import Sequence
from numbers import Integral
from typing import Protocol, TypeAlias

import torch
from torch import nn

Layers: TypeAlias = Sequence[int | str] | str | None

_DEFAULT_STRIDES = (8, 16)
_HOOKS = threading.Lock()  # PyTorch numbers hooks as if there were one thread


class Reader(Protocol):
    """Runs a network and returns the outputs of some of its layers."""

    model: nn.Module
    names: tuple[str, ...]
    """Module names of the layers, in the order of the outputs; empty for what a module returns."""

    def __call__(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """The layers' outputs for a batch (B, 3, H, W)."""

    def name_of(self, layer: int | str) -> str:
        """Name of the module that ends a layer; ValueError if there is no such layer."""

    def traceable(self) -> "Reader":
        """A reader with equal outputs that an exporter can trace."""


def make_reader(model: nn.Module, layers: Layers, *, final_norm: bool = False) -> Reader:
    """The reader that suits a network; timm networks lose what follows the last layer.

    With ``final_norm`` outputs pass the norm that timm's transformers of one resolution end with;
    ValueError if this network has none.
    """
    is_timm = hasattr(model, "forward_intermediates") and hasattr(model, "feature_info")
    if final_norm and not (is_timm and _has_final_norm(model)):
        raise ValueError(
            "final_norm: expected a timm transformer of one resolution that ends with a norm, such "
            f"as 'vit_small_patch14_dinov2.lvd142m', got a {type(model).__name__}, which has none "
            "for its patches. Leave final_norm out."
        )
    return TimmReader(model, layers, final_norm) if is_timm else ModuleReader(model, layers)


def check_layers(layers: Layers) -> list[int | str] | str | None:
    """``layers`` with any sequence as a list; ValueError if empty or of the wrong kind."""
    is_sequence = hasattr(layers, "__len__") and not isinstance(layers, str)
    if not (layers is None or (len(layers) if is_sequence else layers == "last")):
        raise ValueError(
            f"layers: expected a sequence of strides, blocks or names, or 'last', got {layers!r}."
        )
    return list(layers) if is_sequence else layers


class TimmReader:
    """Reads a timm network by stride, block or name; it runs no further than the last layer."""

    def __init__(self, model: nn.Module, layers: Layers, final_norm: bool = False):
        self._info = info = list(model.feature_info)
        self._options = {"norm": True} if final_norm else {}
        self.indices = sorted(_choose_layers(info, layers))
        self.names = tuple(info[i]["module"] for i in self.indices)
        if hasattr(model, "prune_intermediate_layers"):
            model.prune_intermediate_layers(
                self.indices, prune_norm=not final_norm, prune_head=True
            )
        self.model = model

    def __call__(self, batch):
        return self.model.forward_intermediates(
            batch,
            indices=self.indices,
            intermediates_only=True,
            stop_early=True,
            **self._options,
        )

    def name_of(self, layer):
        unpruned = self._info[: max(self.indices) + 1]
        return unpruned[_choose_layers(unpruned, (layer,)).pop()]["module"]

    def traceable(self):
        return self


class ModuleReader:
    """Reads what a module returns, or the outputs of its named submodules."""

    def __init__(self, model: nn.Module, layers: Layers):
        self.model = model
        self.stops_early = True
        self.names = () if layers is None or layers == "last" else tuple(dict.fromkeys(layers))
        known = dict(model.named_modules())
        unknown = [name for name in self.names if name not in known]
        if unknown:
            raise ValueError(
                f"layers: {type(model).__name__} has no strides to choose from and no submodule "
                f"called {unknown[0]!r}. Give submodule names, or None to use what it returns."
            )

    def __call__(self, batch):
        if self.names:
            return self._read_named(batch)
        output = self.model(batch)
        if isinstance(output, dict):
            return list(output.values())
        return list(output) if isinstance(output, list | tuple) else [output]

    def name_of(self, layer):
        if layer not in dict(self.model.named_modules()):
            raise ValueError(
                f"layers: {type(self.model).__name__} has no submodule called {layer!r}."
            )
        return layer

    def traceable(self):
        """A copy that runs to the end: exporters cannot follow the exception that stops early."""
        to_the_end = copy.copy(self)
        to_the_end.stops_early = False
        return to_the_end

    def _read_named(self, batch):
        """Outputs of the named submodules; stops the network once all are there."""
        caught, here = {}, threading.get_ident()

        def catch(name):
            def hook(_module, _inputs, output):
                # hooks sit on the module, which other threads run, too
                if threading.get_ident() != here or len(caught) == len(self.names):
                    return
                # later layers may work in place
                caught[name] = output.clone() if isinstance(output, torch.Tensor) else output
                if len(caught) == len(self.names) and self.stops_early:
                    raise _AllCaught

            return hook

        modules = [self.model.get_submodule(name) for name in self.names]
        with _HOOKS:
            hooks = [
                module.register_forward_hook(catch(name))
                for module, name in zip(modules, self.names, strict=True)
            ]
        try:
            self.model(batch)
        except _AllCaught:
            pass
        finally:
            with _HOOKS:
                for hook in hooks:
                    hook.remove()
        for name in self.names:
            if name not in caught:
                raise ValueError(f"layers: {name!r} takes no part in {type(self.model).__name__}.")
        return [caught[name] for name in self.names]


class _AllCaught(Exception):
    """Ends a forward pass once every named layer has run."""


def _has_final_norm(model):
    """Whether all layers of a timm network have one resolution, and a norm follows the last."""
    norm = getattr(model, "norm", None)
    strides = {layer["reduction"] for layer in model.feature_info}
    return len(strides) == 1 and not isinstance(norm, nn.Identity | None)


def _choose_layers(info, layers):
    """Indices into a timm ``feature_info`` of strides, blocks or names."""
    strides = [layer["reduction"] for layer in info]
    names = [layer["module"] for layer in info]
    one_resolution = len(set(strides)) == 1
    if layers == "last":
        return {len(info) - 1}
    if layers is None:
        depth = len(info)
        layers = (depth // 2 - 1, 3 * depth // 4 - 1) if one_resolution else _DEFAULT_STRIDES

    def index_of(layer):
        if isinstance(layer, str) and layer in names:
            return names.index(layer)
        if isinstance(layer, Integral) and one_resolution and -len(info) <= layer < len(info):
            return layer % len(info)
        if isinstance(layer, Integral) and not one_resolution and layer in strides:
            return strides.index(layer)
        kind = f"blocks 0..{len(info) - 1}" if one_resolution else f"strides {strides}"
        raise ValueError(f"layers: {layer!r} is not there. Choose from {kind} or names {names}.")

    return {index_of(layer) for layer in layers}


def as_grid(output: torch.Tensor, seen_size: tuple[int, int]) -> torch.Tensor:
    """A layer's output as a float32 feature map.

    Parameters
    ----------
    output : torch.Tensor of shape (B, C, h, w) or (B, h*w, C)
        Tokens must form a grid of the image's proportions.
    seen_size : tuple (H, W)
        Size of the network's input.

    Returns
    -------
    grid : torch.Tensor of shape (B, C, h, w)
    """
    if isinstance(output, torch.Tensor) and output.ndim == 3:
        height, width = seen_size
        rows = round((output.shape[1] * height / width) ** 0.5)
        columns = output.shape[1] // max(rows, 1)
        if rows * columns == output.shape[1] and rows * width == columns * height:
            output = output.transpose(1, 2).unflatten(2, (rows, columns))
    if not isinstance(output, torch.Tensor) or output.ndim != 4:
        got = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(
            "backbone: expected feature maps (B, C, h, w) or token grids (B, h*w, C) of the "
            f"image's proportions, got {got}. Name inner layers with layers=[...]."
        )
    return output.float()
