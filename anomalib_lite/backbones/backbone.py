"""Networks that give feature maps: pretrained, random, trained here, or modules of the caller's.

``"efficientnet_lite0"``, the default, has ImageNet weights in a package that is installed with
this one. ``"convnet"`` is a small network to train from scratch. Every other name is a timm name,
whose weights timm downloads or finds in its cache. Nothing else in the library loads a network.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..annotations import Device, Path, Size
from ..contexts import plain
from ..data.inputs import NetworkInput
from ..runtime import tensors_sha256, uniform
from ..validation import as_pair, check_bool
from .engines import DTYPES as DTYPES
from .engines import ENGINES as ENGINES
from .engines import check_engine, resolve_dtype, restored_dtype, run_by
from .folding import foldable_pairs, folded
from .loading import BUNDLED, check_fits, create_network
from .readers import Layers, Reader, as_grid, check_layers, make_reader

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone:
    """A network that gives feature maps, finest first.

    Parameters
    ----------
    backbone : str or nn.Module, default="efficientnet_lite0"
        ``"efficientnet_lite0"`` (bundled weights), ``"convnet"``
        (:class:`~anomalib_lite.nn.ConvNet`, random weights only), any timm name, or a module of
        yours. A module is copied, never changed. One with timm's ``forward_intermediates`` is
        read by stride or block; any other must return a feature map (B, C, h, w), a token grid
        (B, h*w, C), or a list, tuple or dict of these.
    layers : sequence, "last" or None, default=None
        Strides, transformer blocks or module names of the feature maps to use; ``"last"`` is the
        deepest alone. Ints are strides in hierarchical networks (None: 8 and 16), and block
        indices in transformers of one resolution, negative ones from the end (None: the blocks at
        half and three quarters of the depth). Strings are names: those of ``feature_info`` in
        timm networks, of any submodule in others.
    weights : {"pretrained", "random"} or path, default="pretrained"
        Where the network's weights come from. A path is a state dict, ``.safetensors`` or one
        that ``torch.load(weights_only=True)`` reads. Ignored for a module.
    image_size : int, tuple (H, W) or None, default=None
        Images are resized to it, whatever their proportions. None: the network's own size.
    center_crop : int, tuple (H, W) or None, default=None
        Part of the resized image to keep.
    device : str or torch.device, default="cpu"
        Where the network lives and its input is expected.
    generator : torch.Generator or None, default=None
        Seeds random weights; None takes a fresh seed.
    engine : {"torch", "onnxruntime", "auto"}, default="torch"
        What runs the network; ONNX Runtime is about twice as fast, on a CPU only, and needs the
        extra ``onnx``. ``"auto"`` takes it where it is installed and runs the network.
        It takes one input size, float32, and seconds to set up; its features are checked against
        PyTorch's, and differ by rounding.
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; ``"auto"``: float16 on CUDA, float32 elsewhere. Feature maps are
        float32 in any case.
    final_norm : bool, default=False
        Let every layer's output pass the norm that a transformer of one resolution ends with, as
        its authors do with the last one. ValueError for networks without.
    frozen : bool, default=True
        False leaves ``module`` to be trained through :meth:`trainable_maps`, in float32 by
        PyTorch, until :meth:`freeze` is called; ``engine`` and ``dtype`` apply from then on.
    download : bool, default=True
        False takes pretrained weights from timm's cache only; nothing is contacted.

    Attributes
    ----------
    input : NetworkInput
        Size, crop and normalization of the images, the last as in pretraining.
    layer_names : tuple of str
        Module names, in the order of the maps; empty for what a module returns.
    n_channels : tuple of int
        Channels of each map.
    grid : tuple (rows, columns)
        Cells of the finest map.
    module : nn.Module
        The part of the network that is used.
    name : str
        The network's name, or the module's class.
    weights_sha256 : str
        Digest of the weights of ``module`` when frozen, in float32 and before folding.
    dtype : torch.dtype
        The precision that the network runs in.

    Notes
    -----
    A frozen network runs in eval mode, without gradients, and no further than the deepest of its
    layers. A BatchNorm that directly follows a convolution is folded into it. That changes
    features by rounding only; where it would not, as a check of each network shows, nothing is
    folded.

    Examples
    --------
    >>> backbone = Backbone("efficientnet_lite0")
    >>> [tuple(m.shape) for m in backbone(torch.zeros(2, 3, 224, 224))]
    [(2, 40, 28, 28), (2, 112, 14, 14)]
    """

    @plain  # inference tensors lack the version counters that folding reads
    def __init__(
        self,
        backbone: str | nn.Module = BUNDLED,
        *,
        layers: Layers = None,
        weights: Path = "pretrained",
        image_size: Size | None = None,
        center_crop: Size | None = None,
        device: Device = "cpu",
        generator: torch.Generator | None = None,
        engine: str = "torch",
        dtype: str = "auto",
        final_norm: bool = False,
        frozen: bool = True,
        download: bool = True,
    ):
        check_engine(engine, dtype, device)
        check_bool("final_norm", final_norm)
        self._layers = check_layers(layers)
        image_size = None if image_size is None else as_pair("image_size", image_size)
        center_crop = None if center_crop is None else as_pair("center_crop", center_crop)
        self.name = backbone if isinstance(backbone, str) else type(backbone).__name__
        self._source = backbone
        self._is_pretrained = isinstance(backbone, str) and weights == "pretrained"
        self._device = torch.device(device)
        self._engine, self._requested_dtype = engine, dtype
        self._final_norm = bool(final_norm)

        seen_size = center_crop or image_size
        network = _make_network(backbone, weights, seen_size, generator, download)
        network.eval().requires_grad_(False)
        network = network.to(self._device, torch.float32, memory_format=torch.channels_last)
        self._reader = make_reader(network, self._layers, final_norm=self._final_norm)
        self._run, self.dtype = self._reader, torch.float32  # until frozen
        self._set_input(image_size, center_crop)
        if frozen:
            self._freeze()
        else:
            self.module.requires_grad_(True)

    def _set_input(self, image_size, center_crop):
        """Set what the network takes, and the order and channels of what it gives."""
        config = getattr(self.module, "pretrained_cfg", None) or {}
        image_size = image_size or tuple(config.get("input_size", (3, 224, 224))[-2:])
        seen_size = center_crop or image_size
        outputs = self._reader(_example(seen_size, self._device))
        shapes = [as_grid(output, seen_size).shape for output in outputs]  # each (1, C, h, w)
        self._order = sorted(range(len(shapes)), key=lambda i: -shapes[i][3])
        self.n_channels = tuple(shapes[i][1] for i in self._order)
        self.grid = tuple(shapes[self._order[0]][2:])
        names = self._reader.names
        self.layer_names = tuple(names[i] for i in self._order if names)
        self.input = NetworkInput(
            image_size=image_size,
            mean=tuple(config.get("mean", _IMAGENET_MEAN)),
            std=tuple(config.get("std", _IMAGENET_STD)),
            patch_size=max(1, seen_size[0] // shapes[self._order[0]][2]),
            center_crop=center_crop,
        )

    @classmethod
    def for_estimator(
        cls, estimator: Any, generator: torch.Generator, *, frozen: bool = True
    ) -> "Backbone":
        """The network that an estimator's parameters ask for, on its ``device_``.

        Parameters
        ----------
        estimator : estimator
            With the parameters ``backbone``, ``layers``, ``weights``, ``image_size``,
            ``center_crop``, ``dtype`` and, where it has them, ``engine`` and ``final_norm``.
        generator : torch.Generator
            Seeds random weights.
        frozen : bool, default=True
        """
        return cls(
            estimator.backbone,
            layers=estimator.layers,
            weights=estimator.weights,
            image_size=estimator.image_size,
            center_crop=estimator.center_crop,
            device=estimator.device_,
            generator=generator,
            engine=getattr(estimator, "engine", "torch"),
            dtype=estimator.dtype,
            final_norm=getattr(estimator, "final_norm", False),
            frozen=frozen,
        )

    @classmethod
    @plain
    def union(cls, backbones: "Sequence[Backbone]") -> "Backbone | None":
        """One network with the layers of several of the same :attr:`origin`.

        Parameters
        ----------
        backbones : sequence of Backbone

        Returns
        -------
        backbone : Backbone or None
            None if its maps are not those of the others, bit by bit, or its weights not found.
        """
        first = backbones[0]
        names = tuple(dict.fromkeys(name for each in backbones for name in each.layer_names))
        union = first if names == first.layer_names else first._with_layers(names)
        if union is None:
            return None
        example = first._example()
        maps = dict(zip(union.layer_names, union(example), strict=True))
        for each in backbones:
            own = zip(each.layer_names, each(example), strict=True)
            if not all(torch.equal(maps[name], grid) for name, grid in own):
                return None
        return union

    def _with_layers(self, names):
        """The same pretrained network with other layers; None where its weights are not found."""
        try:
            return type(self)(
                self._source,
                layers=names,
                image_size=self.input.image_size,
                center_crop=self.input.center_crop,
                device=self._device,
                engine=self._engine,
                dtype=self._requested_dtype,
                final_norm=self._final_norm,
                download=False,
            )
        except ValueError:
            return None

    @property
    def origin(self) -> tuple | None:
        """The same for networks of the same weights and input; None where nobody can tell."""
        if not self._is_pretrained or not self.layer_names:
            return None
        seen = replace(self.input, patch_size=1)  # which depends on the layers
        return self._source, seen, self._device, self._engine, self.dtype, self._final_norm

    @property
    def module(self) -> nn.Module:
        return self._reader.model

    def up_to(self, layer: int | str) -> list[nn.Module]:
        """The modules that make up the network's first part, up to the end of a layer.

        Parameters
        ----------
        layer : int or str
            A stride, block or module name, not necessarily one of ``layers``.
        """
        end = self._reader.name_of(layer)
        found = []
        for name, module in self.module.named_modules():
            if name == end:
                return [*found, module]
            if name and not end.startswith(f"{name}."):
                found.append(module)

    # -- freezing ---------------------------------------------------------------------------------

    @plain
    def freeze(self) -> None:
        """End the training of ``module``: its weights are final from now on."""
        self._is_pretrained = False
        self._freeze()

    def _freeze(self):
        self.module.eval().requires_grad_(False)
        self.weights_sha256 = tensors_sha256(self.module.state_dict())
        self._folds = foldable_pairs(self._reader, self._example())
        self._reader = folded(self._reader, self._folds)
        self._prepare_run()

    def _prepare_run(self):
        """Run the folded network in the precision and by the engine asked for."""
        self.dtype = resolve_dtype(self._requested_dtype, self._device)
        self._run = run_by(
            self._engine,
            self._reader,
            self._example(),
            self.dtype,
            self.name,
            is_known=isinstance(self._source, str),
        )

    def _example(self):
        return _example(self.input.seen_size, self._device)

    # -- storing ----------------------------------------------------------------------------------

    def to_state(self, *, embed: bool = False) -> dict[str, Any]:
        """The values from which :meth:`from_state` makes an equal frozen network.

        Parameters
        ----------
        embed : bool, default=False
            Include pretrained weights. By default those that the name brings back are left out.
        """
        weights = self.module.state_dict() if embed or not self._is_pretrained else None
        return {
            "backbone": self._source,
            "layers": self._layers,
            "input": self.input,
            "device": self._device,
            "weights_sha256": self.weights_sha256,
            "folds": self._folds,
            "engine": self._engine,
            "dtype": self._requested_dtype,
            "precision": str(self.dtype).removeprefix("torch."),
            "final_norm": self._final_norm,
            "weights": weights,
        }

    @classmethod
    @plain
    def from_state(cls, state: dict[str, Any], *, download: bool = False) -> "Backbone":
        """A frozen network with the weights, engine and precision of a stored one.

        Parameters
        ----------
        state : dict
            As :meth:`to_state` gives it.
        download : bool, default=False
            Let timm download pretrained weights that are not in its cache.
        """
        _check_state(state)
        has_weights = state["weights"] is not None
        made = cls(
            state["backbone"],
            layers=state["layers"],
            weights="random" if has_weights else "pretrained",
            image_size=state["input"].image_size,
            center_crop=state["input"].center_crop,
            device=state["device"],
            engine=state["engine"],
            dtype=restored_dtype(state["dtype"], state["precision"], state["device"]),
            final_norm=state.get("final_norm", False),  # files from before it have none
            frozen=not has_weights,
            download=download,
        )
        if has_weights:
            made._restore(state)
        elif made.weights_sha256 != state["weights_sha256"]:
            raise ValueError(
                f"backbone: the pretrained weights of {made.name!r} found here are not those it "
                "was fitted with. Save it with embed_backbone=True to take them along."
            )
        made._requested_dtype = state["dtype"]
        return made

    def _restore(self, state):
        """Freeze with stored weights, whose BatchNorms were folded before they were stored."""
        self.weights_sha256, self._folds = state["weights_sha256"], state["folds"]
        self.module.requires_grad_(False)
        self._reader = folded(self._reader, self._folds)
        try:
            self.module.load_state_dict(state["weights"])
        except RuntimeError as error:
            raise ValueError(
                f"backbone: {self.name} is of another architecture: {error}"
            ) from error
        self.input = state["input"]
        self._prepare_run()

    # -- running ----------------------------------------------------------------------------------

    @plain
    def __call__(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of a batch, without gradients.

        Parameters
        ----------
        batch : torch.Tensor of shape (B, 3, H, W)
            As ``input`` prepares it.

        Returns
        -------
        maps : list of torch.Tensor of shape (B, C, h, w)
            float32, finest first.
        """
        return self.trainable_maps(batch)

    def trainable_maps(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of a batch, with gradients: they reach it and weights that are not frozen.

        Run by ONNX Runtime, maps have no gradients.
        """
        grids = [
            as_grid(output, self.input.seen_size) for output in self._run(batch.to(self.dtype))
        ]
        return [grids[i] for i in self._order]

    def portable(self) -> "PortableBackbone":
        """The network alone, in float32 and plain operations, for export.

        Raises
        ------
        ValueError
            If it runs in another precision.
        """
        if self.dtype != torch.float32:
            raise ValueError(
                f"dtype: {self.name} runs in {str(self.dtype).removeprefix('torch.')}, and is "
                "exported in float32 only. Fit with dtype='float32'."
            )
        return PortableBackbone(self._reader.traceable(), self.input.seen_size, self._order)

    def __repr__(self):
        return f"Backbone({self.name!r}, layers={self.layer_names})"


class PortableBackbone:
    """A frozen network, called as a :class:`Backbone` is, without any context around it.

    Parameters
    ----------
    read : Reader
    seen_size : tuple (H, W)
    order : list of int
        Of the reader's outputs, the finest first.
    """

    def __init__(self, read: Reader, seen_size: tuple[int, int], order: list[int]):
        self._read, self._seen_size, self._order = read, seen_size, order

    def __call__(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps (B, C, h, w), finest first."""
        grids = [as_grid(output, self._seen_size) for output in self._read(batch)]
        return [grids[i] for i in self._order]

    trainable_maps = __call__  # which methods call inside of a context of their own


def _check_state(state):
    """Raise ValueError on a stored state that no Backbone can have given."""
    stored, pairs, weights = state["input"], state["folds"], state["weights"]
    if not isinstance(stored, NetworkInput):
        raise ValueError(f"backbone: expected a NetworkInput, got {type(stored).__name__}.")
    if not (isinstance(pairs, list) and all(map(_are_names, pairs))):
        raise ValueError("backbone: expected pairs of names as folds.")
    if weights is None:
        return
    tensors = weights.items() if isinstance(weights, dict) else [(None, weights)]
    if not all(isinstance(k, str) and isinstance(x, torch.Tensor) for k, x in tensors):
        raise ValueError("backbone: expected tensors by name as weights.")
    if isinstance(state["backbone"], str):
        check_fits(state["backbone"], stored.seen_size, weights)


def _are_names(pair):
    return len(pair) == 2 and all(isinstance(name, str) for name in pair)


def _make_network(backbone, weights, seen_size, generator, download):
    """A network of the caller's name, or a copy of the caller's module."""
    if isinstance(backbone, nn.Module):
        if any(value.is_meta for value in backbone.state_dict().values()):
            raise ValueError(
                f"backbone: expected a {type(backbone).__name__} with weights, got one on the meta "
                "device, which holds no values. Make it under torch.device('cpu')."
            )
        return copy.deepcopy(backbone)
    if isinstance(backbone, str):
        return create_network(backbone, weights, seen_size, generator, download=download)
    raise ValueError(
        f"backbone: expected a name or a torch.nn.Module, got {type(backbone).__name__}."
    )


def _example(size, device):
    """A network input (1, 3, h, w) of noise, always the same."""
    generator = torch.Generator().manual_seed(0)
    example = uniform((1, 3, *size), generator)
    return example.to(device, memory_format=torch.channels_last)
