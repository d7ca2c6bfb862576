"""The one door for networks: a name or a module -> frozen feature maps.

The default, ``"efficientnet_lite0"``, finds its ImageNet weights inside a package that is
installed with this one; ``"convnet"`` is a small network without weights, to be trained. Every
other name is a timm name, its weights fetched (or found) by timm's own hub cache. Nothing else in
the library loads a network.
"""

import copy

import torch
from torch import nn

from ..data.inputs import NetworkInput
from ..runtime import tensors_sha256
from ..validation import as_pair
from .folding import foldable_pairs, folded, same_maps
from .loading import BUNDLED, create_network
from .readers import ModuleReader, TimmReader, as_grid

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ENGINES = ("torch", "onnxruntime")
DTYPES = ("auto", "float32", "float16", "bfloat16")


class Backbone:
    """A frozen network that gives feature maps, finest first.

    Parameters
    ----------
    backbone : str or nn.Module
        ``"efficientnet_lite0"`` (bundled weights), ``"convnet"``
        (:class:`~anomalib_lite.nn.ConvNet`, which has random weights only), any timm name, or
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
        Size, crop and normalization the network wants, the last of its own pretraining.
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
            model = create_network(backbone, weights, center_crop or image_size, generator)
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
        self._folds = foldable_pairs(self._reader, self._example())
        self._reader = folded(self._reader, self._folds)
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
            self._reader = TimmReader(model, layers)
        else:
            self._reader = ModuleReader(model, layers)
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
            if not same_maps(self._reader(example), self._run(example)):
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
            model = create_network(source, "random", asked.seen_size, None)
        else:
            model = copy.deepcopy(source)
        made._identify(source, named=False)
        made._set_up(model, layers, device=state["device"], **sizes)
        made._reader = folded(made._reader, made._folds)
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
        return [as_grid(output, self._seen_size) for output in self._run(batch.to(self.dtype))]

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
