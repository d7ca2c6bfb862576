"""Intermediate feature maps of timm networks and of any other module."""

import copy
import threading
from numbers import Integral

import torch

_DEFAULT_STRIDES = (8, 16)
_HOOKS = threading.Lock()  # hooks sit on the module that all threads share


class TimmReader:
    """Intermediate maps of a timm network, which stops after the last one."""

    def __init__(self, model, layers):
        self._info = info = list(model.feature_info)
        self.indices = sorted(_choose_layers(info, layers))
        self.names = tuple(info[i]["module"] for i in self.indices)
        if hasattr(model, "prune_intermediate_layers"):
            model.prune_intermediate_layers(self.indices, prune_norm=True, prune_head=True)
        self.model = model

    def __call__(self, batch):
        return self.model.forward_intermediates(
            batch, indices=self.indices, intermediates_only=True, stop_early=True
        )

    def name_of(self, layer):
        """The module that ends a stride or block; of those that are left after pruning."""
        left = self._info[: max(self.indices) + 1]
        return left[_choose_layers(left, (layer,)).pop()]["module"]

    def traceable(self):
        return self


class ModuleReader:
    """What a module returns, or what its named submodules do."""

    def __init__(self, model, layers):
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
            with _HOOKS:
                return self._read_named(batch)
        output = self.model(batch)
        if isinstance(output, dict):
            return list(output.values())
        return list(output) if isinstance(output, list | tuple) else [output]

    def name_of(self, layer):
        """The name itself, if it is one of a submodule."""
        if layer not in dict(self.model.named_modules()):
            raise ValueError(
                f"layers: {type(self.model).__name__} has no submodule called {layer!r}."
            )
        return layer

    def traceable(self):
        """The same without the exception that ends a pass, which no exporter can follow."""
        to_the_end = copy.copy(self)
        to_the_end.stops_early = False
        return to_the_end

    def _read_named(self, batch):
        """Outputs of the named submodules; the network runs until it has given them all."""
        caught = {}

        def catch(name):
            def hook(_module, _inputs, output):
                if len(caught) == len(self.names):
                    return
                # what follows may work in place
                caught[name] = output.clone() if isinstance(output, torch.Tensor) else output
                if len(caught) == len(self.names) and self.stops_early:
                    raise _AllCaught

            return hook

        hooks = [
            self.model.get_submodule(name).register_forward_hook(catch(name)) for name in self.names
        ]
        try:
            self.model(batch)
        except _AllCaught:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        for name in self.names:
            if name not in caught:
                raise ValueError(f"layers: {name!r} takes no part in {type(self.model).__name__}.")
        return [caught[name] for name in self.names]


class _AllCaught(Exception):
    """Ends a forward pass whose remainder nobody needs."""


def _choose_layers(info, layers):
    """Indices into a timm ``feature_info`` of the layers asked for."""
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


def as_grid(output, seen_size):
    """A feature map (B, C, h, w); token grids (B, h*w, C) of the image's shape are unrolled."""
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
