"""Export of a fitted detector: traced, written, compared, sealed."""

import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

import anomalib_lite

from ..annotations import Images
from ..annotations import Path as PathLike
from ..deploy.card import INPUTS, KEY, DetectorCard
from ..deploy.reader import OnnxDetector
from ..deploy.seal import seal
from ..io.card import checked_notes
from ..io.files import check_target, write_file
from ..report.figures import known_scores, main_promise, method_of
from ..runtime import twin_of
from ..validation import check_choice
from .parity import Parity, check, compare, made_up_images
from .plan import Plan

_QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9)
_MOST_BYTES = 2**31 - 2**20  # of a protocol buffer


def export(
    detector: Any,
    path: PathLike,
    *,
    images: Images | None,
    input: str,
    notes: dict[str, str],
) -> Parity:
    """See :meth:`ExportMixin.export`."""
    check_choice("input", input, ("auto", *INPUTS))
    check_is_fitted(detector)
    path = Path(path)
    check_target(path)  # now, since what follows takes long
    _import_packages()
    detector = twin_of(detector)
    looking, ranks = detector._exported()
    if looking.device_.type != "cpu":
        raise ValueError(
            f"device: the detector is on {looking.device_}, and is exported from a CPU. Save it, "
            "and export load(path, device='cpu')."
        )
    dtype = _dtype(looking) if input == "auto" else input
    is_given = images is not None
    if is_given:
        images = [*images] if isinstance(images, Iterator) else images  # they are read twice
    else:
        images = made_up_images(looking, dtype)
    model = _written(detector, looking, ranks, dtype)
    card = _card(detector, looking, dtype, checked_notes(notes))
    parity = _compared(detector, _sealed(model, card), images)
    check(parity)
    said = {
        "n_images": parity.n_images,
        "source": "given" if is_given else "made up",
        "score": parity.score,
        "map": parity.map,
    }
    write_file(path, _sealed(model, replace(card, parity=said)))
    return parity


def _import_packages():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            raise ImportError(
                f"export needs {error.name}: pip install 'anomalib_lite[onnx]'"
            ) from error


def _dtype(detector):
    """The smallest type that holds the images of fit."""
    seen = {"uint8" if dtype == "bool" else dtype for dtype in detector.value_range_.dtypes}
    known = [dtype for dtype in INPUTS if dtype in seen]
    return "float32" if seen - {*INPUTS} else (known or ["uint8"])[-1]


def _written(detector, looking, ranks, dtype):
    from .graph import whole_graph
    from .tracing import traced

    plan = Plan(looking.input_, dtype, looking._map_renderer(), detector.offset_, ranks)
    model = whole_graph(traced(looking), plan)
    if model.ByteSize() > _MOST_BYTES:
        raise ValueError(
            f"export: the detector takes {model.ByteSize() / 1e9:.1f} GB, and ONNX files can have "
            "2 GB. Fit it on fewer images, or with a smaller coreset or fewer features."
        )
    return model


def _compared(detector, data, images):
    """Both detectors on the same images; the exported one is read from a file, as it will be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "exported.onnx")
        path.write_bytes(data)
        return compare(detector, OnnxDetector(path), images)


def _sealed(model, card):
    """The bytes of a file."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, card.to_json()
    return seal(model.SerializeToString(deterministic=True))


def _card(detector, looking, dtype, notes):
    """What the file says of itself."""
    known = -known_scores(detector)
    rates = _QUANTILES if len(known) else ()
    return DetectorCard(
        version=anomalib_lite.__version__,
        method=method_of(detector),
        detector=" ".join(repr(detector).split()),  # in one line
        input=dtype,
        image_size=looking.input_.image_size,
        smallest_side=looking.input_.patch_size,
        value_range=looking.value_range_,
        offset=_finite(detector.offset_),
        false_alarm_rate=detector.false_alarm_rate,
        normal=_finite(detector.score_levels().normal),
        map_levels=_map_levels(detector),
        n_images=looking.n_images_,
        calibration={
            "n": len(known),
            "quantiles": {str(rate): float(np.quantile(known, rate)) for rate in rates},
        },
        promise=main_promise(detector),
        conformal=None if looking is detector else {"n_calibration": detector.n_calibration_},
        notes=notes,
    )


def _map_levels(detector):
    levels = detector.map_levels()
    return levels if all(map(math.isfinite, levels)) else None


def _finite(value):
    return value if math.isfinite(value) else None
