"""Save and load fitted estimators without pickle: tensors by safetensors, the rest as JSON.

A file is a safetensors container. Its metadata hold a SHA-256 digest of everything else and a JSON
manifest: format, versions, the estimator's parameters and learned state, in which each array is a
reference to a tensor. Reading a file never runs anything found in it: the manifest can only name
the public estimators of this package, the parts listed below, classes that the caller hands to
:func:`load`, and scikit-learn estimators as :mod:`anomalib_lite.io.sklearn_estimators` reads them.
The digest detects damage, not forgery: whoever can write a file can write a digest. What is read is
therefore checked against what the code that uses it relies on, and tried on an image.
"""

import copy
import dataclasses
import json
import math
import os
import re
from importlib import import_module
from importlib.metadata import version
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

import anomalib_lite

from ..contexts import plain
from ..runtime import resolve_device
from . import sklearn_estimators
from .card import checked_notes
from .checks import check_fields, check_learned, check_params
from .compiled import csr_values, make_bit_generator, make_csr
from .container import digest, pack, read
from .files import write_file
from .strict_json import parsed
from .trial import try_out

FORMAT = 4
_LEARNED = re.compile(r"_?[a-z][a-z0-9_]*_")
_MOST_GAP = 64  # of columns in memory, in values, that is kept
_RECORDED = ("torch", "timm", "numpy", "scikit-learn")
_PARTS = {
    "AnchoredLogistic": "density",
    "Backbone": "backbones",
    "CPCScoring": "methods.cpc",
    "CompositeModel": "methods.cance",
    "ConvAutoencoder": "nn",
    "DenseEncoder": "nn",
    "Evidence": "methods.patchcore",
    "FeatureMapModel": "methods.cance",
    "FoldedStatistics": "density",
    "GaussianStatistics": "density",
    "JointInput": "ensemble.inputs",
    "LinearAutoencoder": "nn",
    "LogitMLP": "density",
    "MLPAutoencoder": "nn",
    "NearestRows": "search",
    "NetworkInput": "data",
    "Panels": "ensemble.panel",
    "PartBanks": "methods.patchcore",
    "PatchDetector": "nn",
    "PixelModel": "methods.cance",
    "PrincipalCodes": "search",
    "ReferenceViews": "views",
    "Region": "methods.patchcore",
    "Resampled": "fakes",
    "ResidualEncoder": "nn",
    "Scales": "ensemble.scales",
    "Subspace": "density",
    "SuspectImages": "ranking",
    "Suspects": "suspects",
    "TileLayout": "methods.cpc",
    "TableModel": "methods.cance",
    "UNetGenerator": "nn",
    "ValueRange": "data",
    "_MLSADSettings": "methods.mlsad",
    "_OneClassSettings": "methods.deep_one_class",
    "_PatchCoreSettings": "methods.patchcore",
    "_SubspaceSettings": "methods.subspace_ad",
    "_TwoStageScoring": "methods.two_stage",
}


class SaveMixin:
    """Gives a fitted estimator ``save``."""

    @plain
    def save(self, path, *, embed_backbone=False, notes=None):
        """Write the fitted estimator to one file, to be read by :func:`anomalib_lite.load`.

        Parameters
        ----------
        path : str or Path
            Replaced as a whole or, if anything goes wrong, not at all. A new file gets the mode
            that the umask leaves, one that exists keeps its own. Of a symbolic link the target is
            written.
        embed_backbone : bool, default=False
            Put pretrained weights into the file, too. By default they are named, with their
            hash, and found again where they were found at fit. Random weights, those of a file,
            and those of a module of yours are always put in.
        notes : dict of str to str, or None, default=None
            What else the file shall say of itself, such as a date; see
            :func:`anomalib_lite.io.read_card`. By default a file says nothing that another run
            would say otherwise.

        Raises
        ------
        ValueError
            If a parameter or something learned cannot be stored without pickle, or if ``path`` is
            that of a folder, a pipe or a device.
        OSError
            If the file cannot be written: no such folder, no permission, a full disk.
        """
        check_is_fitted(self)
        write_file(Path(path), pack(*_encoded(self, embed_backbone, notes)))


@plain
def digest_of(estimator: SaveMixin) -> str:
    """Hexadecimal SHA-256 of what ``save`` would write of a fitted estimator, versions included.

    Raises
    ------
    ValueError
        If it could not be written.
    """
    return digest(*_encoded(estimator))


def _encoded(estimator, embed_backbone=False, notes=None):
    """Text and tensors of a file."""
    writer = _Writer(embed_backbone)
    manifest = {
        "format": FORMAT,
        "notes": checked_notes({} if notes is None else notes),
        "versions": {
            "anomalib_lite": anomalib_lite.__version__,
            **{name: version(name) for name in _RECORDED},
        },
        # of a copy, which a fit in another thread leaves alone
        "estimator": writer.encode(copy.copy(estimator), type(estimator).__name__),
    }
    return json.dumps(manifest, allow_nan=False), writer.tensors


@plain
def load(path, *, device=None, backbone=None, classes=(), download=False):
    """Read an estimator that was written by its ``save``.

    Parameters
    ----------
    path : str or Path
    device : str, torch.device or None, default=None
        Where its tensors go. None: where its ``device`` parameter says, if that is to be had
        here, else as ``"auto"``.
    backbone : nn.Module or None, default=None
        Needed where it was fitted with a module of yours: the file holds the fitted weights, but
        code is never stored. A module of the same architecture takes them, in a copy.
    classes : sequence of type, default=()
        Estimators defined outside this package, and parts of their learned state, that the file
        may name. A file only ever names a class: nothing is imported because of it.
    download : bool, default=False
        Let timm download the pretrained weights that the file names, where they are not in its
        cache. By default nothing is contacted.

    Returns
    -------
    estimator : object
        Gives the scores, bit for bit on a machine of the same kind, that the saved one gave.

    Raises
    ------
    ValueError
        If the file is not one of these, is damaged, was written by another version, asks for
        anything that is not a part of this package, holds numbers that its code could not rely on,
        or if the backbone's weights are not found here, or are not those it was fitted with.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from anomalib_lite import PatchCore, load
    >>> images = np.random.default_rng(0).integers(90, 110, (4, 64, 64), dtype=np.uint8)
    >>> detector = PatchCore(image_size=64, random_state=0).fit(images)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     detector.save(os.path.join(folder, "part.alite"))
    ...     again = load(os.path.join(folder, "part.alite"))
    >>> bool((again.score_samples(images) == detector.score_samples(images)).all())
    True
    """
    if device is not None:
        device = resolve_device(device)
    path = Path(path)
    text, tensors = read(path)
    try:
        manifest = parsed(text)
        if manifest["format"] != FORMAT:
            raise ValueError(_of_another_format(manifest))
        reader = _Reader(tensors, device, backbone, _foreign_classes(classes), download)
        estimator = reader.decode(manifest["estimator"])
        if not isinstance(estimator, SaveMixin):
            raise ValueError("holds no estimator of anomalib_lite.")
        check_is_fitted(estimator)
        if not reader.is_foreign:
            try_out(estimator)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # whatever the numbers of a forged file may lead to
        reason = f"its contents make no sense ({type(error).__name__}: {error})"
        raise ValueError(f"{path}: {reason}.") from error
    return estimator


def _of_another_format(manifest):
    found, known = manifest["format"], isinstance(manifest["format"], int)
    is_older = known and found < FORMAT
    return (
        f"it has format {found!r} and was written by anomalib_lite "
        f"{manifest['versions']['anomalib_lite']}; this version ({anomalib_lite.__version__}) "
        f"reads format {FORMAT}. {'Fit and save again' if is_older else 'Use a newer one'}."
    )


# -- values to JSON and tensors -------------------------------------------------------------------


class _Writer:
    """Encodes values; every JSON object it makes has one key, which says what it is."""

    def __init__(self, embed_backbone):
        self.embed_backbone = embed_backbone
        self.tensors = {}
        self._put_aside = {}
        self._takes_modules = False  # whether load is given those anew
        self._in_sklearn = False  # whose estimators hold kinds of values that ours do not

    def encode(self, value, where):
        """``value`` as JSON, its arrays put aside; ``where`` is what errors call it."""
        if value is None or isinstance(value, bool | str):
            return value
        if self._in_sklearn and isinstance(value, np.generic | np.dtype | type | slice | _CSR):
            return self._encode_special(value, where)
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real):
            return float(value) if math.isfinite(value) else {"float": str(float(value))}
        if isinstance(value, np.bool):
            return bool(value)
        if isinstance(value, list):
            return self._encode_all(value, where)
        if isinstance(value, tuple):
            return {"tuple": self._encode_all(value, where)}
        if isinstance(value, set | frozenset):
            return {"set": self._encode_all(sorted(value), where)}
        if isinstance(value, dict):
            items = value.items()
            return {
                "dict": [
                    [self.encode(key, where), self.encode(x, f"{where}[{key!r}]")]
                    for key, x in items
                ]
            }
        if isinstance(value, os.PathLike):
            return {"path": os.fspath(value)}
        if isinstance(value, torch.device):
            return {"device": None}
        if isinstance(value, torch.Tensor):
            return {"tensor": self._put(value, where)}
        if isinstance(value, np.ndarray):
            return self._encode_array(value, where)
        if isinstance(value, np.random.RandomState | np.random.Generator):
            return self._encode_random_state(value, where)
        return self._encode_object(value, where)

    def _encode_all(self, values, where):
        return [self.encode(value, f"{where}[{i}]") for i, value in enumerate(values)]

    def _encode_dict(self, values, where):
        return {name: self.encode(value, f"{where}.{name}") for name, value in values.items()}

    def _encode_array(self, array, where):
        if array.dtype.kind in "OU" and all(isinstance(value, str) for value in array.flat):
            return {"strings": array.tolist()}
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{where}: an array of {array.dtype} cannot be stored.")
        dtype = array.dtype.newbyteorder("=")
        if array.ndim > 1 and array.strides[0] < array.strides[-1]:
            # products with it round as they did before only if it lies in memory as it did before
            columns = np.array(array.T, dtype=dtype, order="C")
            gap = array.strides[-1] // array.itemsize - len(array) if array.ndim == 2 else 0
            if 0 < gap <= _MOST_GAP:  # the first rows of more, so that columns start where they did
                padded = torch.from_numpy(np.pad(columns, [(0, 0), (0, gap)]))
                return {"first_rows": [self._put(padded, where), len(array)]}
            return {"transposed": self._put(torch.from_numpy(columns), where)}
        return {"array": self._put(torch.from_numpy(np.array(array, dtype, order="C")), where)}

    def _encode_special(self, value, where):
        """A value of a scikit-learn estimator that parameters of ours never have."""
        if isinstance(value, np.generic) and value.dtype.kind in "biuf":
            return {"scalar": self._encode_array(np.array(value), where)}
        if isinstance(value, np.dtype) and value.kind in "biuf":
            return {"dtype": value.name}
        if isinstance(value, slice):
            return {"slice": self._encode_all([value.start, value.stop, value.step], where)}
        if isinstance(value, _CSR):
            return {"csr": self._encode_dict(csr_values(value), where)}
        raise ValueError(f"{where}: {value!r} cannot be stored without pickle.")

    def _encode_random_state(self, generator, where):
        bits = getattr(generator, "bit_generator", None) or generator._bit_generator
        return {
            "random": {
                "kind": type(generator).__name__,
                "bits": type(bits).__name__,
                "state": self.encode(bits.state, where),
            }
        }

    def _encode_object(self, value, where):
        if isinstance(value, SaveMixin):
            return {"estimator": self._encode_estimator(value, where)}
        if _is_part(type(value)):
            return {"part": self._encode_part(value, where)}
        name = type(value).__name__
        if isinstance(value, torch.nn.Module):
            if self._takes_modules:
                return {"module": name}
            raise ValueError(
                f"{where}: a {name} is code, which is never stored. Derive it from "
                "anomalib_lite.nn.StoredNetwork, which stores the arguments of its constructor "
                "and its weights."
            )
        if sklearn_estimators.is_known(value):
            return {"sklearn": self._encode_sklearn(value, where)}
        if isinstance(value, BaseEstimator):
            raise ValueError(
                f"{where}: a {name} cannot be stored without pickle: it is none of the "
                "scikit-learn estimators whose state is known, which docs/saving.md lists."
            )
        raise ValueError(f"{where}: a {name} cannot be stored without pickle.")

    def _encode_estimator(self, estimator, where):
        params = estimator.get_params(deep=False)
        if isinstance(params.get("device"), torch.device):
            params["device"] = str(params["device"])
        state = {key: x for key, x in sorted(vars(estimator).items()) if key not in params}
        for key in state:
            if not _LEARNED.fullmatch(key):
                raise ValueError(
                    f"{where}.{key}: what is learned in fit is stored under names that end in an "
                    f"underscore. Call it {key}_, or make it a parameter."
                )
        outer, self._in_sklearn = self._in_sklearn, False
        try:
            return {
                **_named(type(estimator), _public),
                "params": self._encode_with_modules(params, where),
                "state": self._encode_dict(state, where),
            }
        finally:
            self._in_sklearn = outer

    def _encode_sklearn(self, estimator, where):
        try:
            params, state = sklearn_estimators.to_values(estimator)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        outer, self._in_sklearn = self._in_sklearn, True
        try:
            return {
                "class": type(estimator).__name__,
                "params": self._encode_dict(params, where),
                "state": self._encode_dict(state, where),
            }
        finally:
            self._in_sklearn = outer

    def _encode_part(self, part, where):
        if dataclasses.is_dataclass(part):
            state = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
        elif type(part) is _part("Backbone"):
            state = part.to_state(embed=self.embed_backbone)
            return {**_named(type(part), _part), "state": self._encode_with_modules(state, where)}
        else:
            state = part.to_state()
        return {**_named(type(part), _part), "state": self._encode_dict(state, where)}

    def _encode_with_modules(self, values, where):
        """As :meth:`_encode_dict`; modules, whose code load is given anew, are named."""
        outer, self._takes_modules = self._takes_modules, True
        try:
            return self._encode_dict(values, where)
        finally:
            self._takes_modules = outer

    def _put(self, tensor, where):
        """The name under which a tensor is put aside, once: a frozen detector has it twice."""
        place = tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device
        if tensor.numel() == 0 or place not in self._put_aside:
            name = f"{len(self.tensors)} {where}"
            self.tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
            self._put_aside[place] = name, tensor  # alive, or another could take its place
        return self._put_aside[place][0]


class _Reader:
    """Decodes what _Writer encoded; anything else is an error."""

    def __init__(self, tensors, device, backbone, foreign=None, download=False):
        self.tensors = tensors
        self.device = self._asked = device
        self.backbone = backbone
        self.is_foreign = False  # whether a class that was handed to load has been named
        self._foreign = foreign or {}
        self._download = download

    def decode(self, value):
        if value is None or isinstance(value, bool | str | int | float):
            return value
        if isinstance(value, list):
            return [self.decode(item) for item in value]
        ((kind, content),) = value.items()
        if kind not in _KINDS:
            raise ValueError(f"holds something called {kind!r}, which this version cannot read.")
        return getattr(self, f"_decode_{kind}")(content)

    def _decode_float(self, content):
        return float(content)

    def _decode_tuple(self, content):
        return tuple(self.decode(content))

    def _decode_set(self, content):
        return set(self.decode(content))

    def _decode_dict(self, content):
        return dict(self.decode(content))

    def _decode_path(self, content):
        return Path(content)

    def _decode_device(self, _content):
        return self.device

    def _decode_tensor(self, content):
        return self.tensors[content].to(self.device)

    def _decode_array(self, content):
        return self.tensors[content].numpy()

    def _decode_transposed(self, content):
        return self.tensors[content].numpy().T

    def _decode_first_rows(self, content):
        name, n_rows = content
        return self.tensors[name].numpy().T[:n_rows]

    def _decode_scalar(self, content):
        return self.decode(content)[()]

    def _decode_dtype(self, content):
        if content not in _DTYPES:
            raise ValueError(f"knows no dtype {content!r}.")
        return np.dtype(content)

    def _decode_slice(self, content):
        return slice(*self.decode(content))

    def _decode_csr(self, content):
        return make_csr(self._decode_all(content))

    def _decode_strings(self, content):
        return np.array(content, dtype=object)

    def _decode_random(self, content):
        bits = make_bit_generator(content["bits"], self.decode(content["state"]))
        kind = np.random.Generator if content["kind"] == "Generator" else np.random.RandomState
        return kind(bits)

    def _decode_module(self, content):
        if self.backbone is None:
            raise ValueError(
                f"was fitted with a network of your own, {content}, whose code is not in the "
                "file. Pass one of the same architecture: load(path, backbone=...)."
            )
        return self.backbone

    def _decode_sklearn(self, content):
        params, state = (self._decode_all(content[name]) for name in ("params", "state"))
        return sklearn_estimators.from_values(content["class"], params, state)

    def _decode_part(self, content):
        part = self._class(content, _part, "a part")
        state = self._decode_all(content["state"])
        if part is _part("Backbone"):
            return part.from_state(state, download=self._download)
        if not dataclasses.is_dataclass(part):
            return part.from_state(state)
        if "defined_in" not in content:
            check_fields(part, state)
        return part(**state)

    def _decode_estimator(self, content):
        cls = self._class(content, _public, "an estimator")
        estimator = cls(**self._decode_all(content["params"]))
        outer, self.device = self.device, self._asked or _device_here(estimator)
        for name, value in content["state"].items():
            if not _LEARNED.fullmatch(name) or hasattr(cls, name):
                raise ValueError(f"{content['class']} learns nothing called {name!r}.")
            vars(estimator)[name] = self.decode(value)
        self.device = outer
        if "defined_in" not in content:
            check_params(estimator)
            parts = {"input_": _part("NetworkInput"), "value_range_": _part("ValueRange")}
            check_learned(estimator, parts)
        return estimator

    def _decode_all(self, content):
        return {name: self.decode(value) for name, value in content.items()}

    def _class(self, content, ours, what):
        """The class that a file names: one of this package, or of those handed to load."""
        name, home = content["class"], content.get("defined_in")
        cls = ours(name) if home is None else self._foreign.get(name)
        self.is_foreign |= home is not None
        if cls is not None and (ours is _public) == issubclass(cls, SaveMixin):
            return cls
        if home is None:
            raise ValueError(f"names {what} {name!r}, which is not one of this package.")
        raise ValueError(
            f"names {what} {name!r}, defined in {home!r}. Import the class and hand it over: "
            f"load(path, classes=[{name}])."
        )


_CSR = sparse.csr_matrix | sparse.csr_array
_DTYPES = ("bool", "int32", "int64", "uint8", "float32", "float64")
_KINDS = {name.removeprefix("_decode_") for name in vars(_Reader) if name.startswith("_decode_")}


def _device_here(estimator):
    try:
        return resolve_device(getattr(estimator, "device", "auto"))
    except ValueError:
        return resolve_device("auto")


# -- what a file may name -------------------------------------------------------------------------


def _public(name):
    """The public estimator of that name, or None."""
    thing = getattr(anomalib_lite, name) if name in anomalib_lite.__all__ else None
    return thing if isinstance(thing, type) and issubclass(thing, SaveMixin) else None


def _part(name):
    """The part of this package of that name, or None."""
    if name not in _PARTS:
        return None
    return getattr(import_module(f"anomalib_lite.{_PARTS[name]}"), name)


def _is_part(cls):
    """Whether objects of a class say themselves what they are made of."""
    return dataclasses.is_dataclass(cls) or (
        hasattr(cls, "to_state") and hasattr(cls, "from_state")
    )


def _named(cls, ours):
    """How a manifest names a class: by its name, and if it is foreign by its module, too."""
    name = cls.__name__
    return {"class": name} if ours(name) is cls else {"class": name, "defined_in": cls.__module__}


def _foreign_classes(classes):
    """Classes handed to load, by name."""
    for cls in classes:
        known = isinstance(cls, type) and (issubclass(cls, SaveMixin) or _is_part(cls))
        if not known:
            raise ValueError(
                "classes: expected estimators with save, dataclasses, or classes with to_state and "
                f"from_state, got {cls!r}."
            )
    return {cls.__name__: cls for cls in classes}
