"""One word, one meaning: parameters that estimators share are the same thing.

``python tests/test_signatures.py`` prints docs/parameters.md.
"""

import inspect
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from sklearn.base import BaseEstimator

import anomalib_lite
from anomalib_lite import BaseDetector, ImageEstimator

PAGE = Path(__file__).parent.parent / "docs" / "parameters.md"
ESTIMATORS = {
    name: thing
    for name, thing in ((n, getattr(anomalib_lite, n)) for n in anomalib_lite.__all__)
    if inspect.isclass(thing)
    and issubclass(thing, BaseEstimator)
    and thing not in (BaseDetector, ImageEstimator)
}
DETECTORS = [name for name, cls in ESTIMATORS.items() if issubclass(cls, BaseDetector)]

# words that mean another thing in some class, and why they are the right word there all the same
OWN_MEANING = {
    **{(p, "NCEDensity"): "rows, not images" for p in ("epochs", "train_batch_size")},
    ("validation_fraction", "NCEDensity"): "rows, not images",
    ("combine", "DetectorEnsemble"): "members, not levels",
}
# parameters whose usual value depends on the method, by its paper or by what it costs
OWN_DEFAULT = {
    "aggregate": "each paper's.",
    "backbone": "what the method is about: ImageNet features, or a network it trains.",
    "classifier": "the one each paper reports.",
    "combine": "MLSAD's as published; members of an ensemble see different defects.",
    "epochs": "as published, or as a method converges on a few hundred images.",
    "false_alarm_rate": "ConformalDetector guarantees its rate: 1 % takes 100 calibration images, "
    "5 % takes 20.",
    "hidden": "each paper's head; CANCE's depends on the input.",
    "image_size": "None is the backbone's own; trained networks see the papers' sizes.",
    "input_noise": "MLSAD has noise by design, CANCE's autoencoder none unless asked for.",
    "layers": "each method's own: neighbors need resolution, one-class vectors need depth.",
    "learning_rate": "each method's own optimizer and batch, as published.",
    "n_folds": "CANCE trains a network a fold, so 5; classifiers cost little, so 20.",
    "n_patches": "CANCE's density takes more rows than a classic classifier.",
    "normalize": "the two-stage papers normalize before a kernel; the others compare as they are.",
    "optimizer": "each paper's.",
    "patch_size": "each paper's.",
    "patch_stride": "each paper's.",
    "schedule": "each paper's.",
    "smoothing": "relative to the size of patches and images: 4 px at 224. Maps of an ensemble's "
    "members are smooth.",
    "temperature": "each paper's.",
    "train_batch_size": "each paper's.",
    "train_from": "CutPaste fine-tunes a pretrained network, the others train all of it.",
    "validation_fraction": "the papers train on everything; CANCE and NCEDensity hold out a tenth.",
    "weight_decay": "each paper's.",
    "weights": "contrastive learning and rotation start from random weights, as published.",
}


@cache
def documented(name):
    """{parameter: (type line, first clause)} of a class's docstring."""
    text = inspect.cleandoc(ESTIMATORS[name].__doc__)
    section = re.search(r"\nParameters\n-+\n(.*?)(?=\n\n\w[\w ]*\n-+\n|\Z)", text, re.DOTALL)[1]
    entries = re.split(r"\n(?=\w)", section)
    found = {}
    for entry in entries:
        head, *body = entry.split("\n")
        names, _, kind = head.partition(" : ")
        prose = " ".join(line.strip() for line in body)
        sentence = re.split(r"[.:;]\s|, which|\.$", prose)[0]  # details may follow
        for each in names.split(", "):
            found[each] = kind, sentence
    return found


def shared():
    """Parameters of more than one estimator, with those that have it."""
    counts = Counter(p for cls in ESTIMATORS.values() for p in inspect.signature(cls).parameters)
    return {
        p: [n for n, cls in ESTIMATORS.items() if p in inspect.signature(cls).parameters]
        for p, count in counts.items()
        if count > 1
    }


SHARED = shared()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_parameter_is_documented_with_its_default(name):
    for parameter in inspect.signature(ESTIMATORS[name]).parameters.values():
        kind, _ = documented(name)[parameter.name]
        if parameter.default is not inspect.Parameter.empty:
            value = re.search(r"default=(.*)$", kind)
            assert value, f"{name}.{parameter.name}: {kind}"
            assert _value(value[1]) == _value(repr(parameter.default)), parameter.name


def _value(text):
    try:
        return eval(text, {})
    except (NameError, SyntaxError):
        return text


@pytest.mark.parametrize("parameter", SHARED)
def test_a_shared_parameter_is_documented_in_the_same_words(parameter):
    sentences = {
        name: documented(name)[parameter][1]
        for name in SHARED[parameter]
        if (parameter, name) not in OWN_MEANING
    }
    assert len(set(sentences.values())) <= 1, sentences


@pytest.mark.parametrize("parameter", sorted(set(SHARED) - set(OWN_DEFAULT)))
def test_a_shared_parameter_has_one_default(parameter):
    defaults = {
        name: repr(inspect.signature(ESTIMATORS[name]).parameters[parameter].default)
        for name in SHARED[parameter]
    }
    assert len(set(defaults.values())) == 1, defaults


def test_reasons_are_given_for_what_exists():
    assert set(OWN_DEFAULT) <= set(SHARED)
    assert {parameter for parameter, _ in OWN_MEANING} <= set(SHARED)
    for parameter in OWN_DEFAULT:
        values = {
            repr(inspect.signature(ESTIMATORS[n]).parameters[parameter].default)
            for n in SHARED[parameter]
        }
        assert len(values) > 1, f"{parameter} has one default"


def page():
    """docs/parameters.md"""
    parameters = {name: inspect.signature(ESTIMATORS[name]).parameters for name in DETECTORS}
    counts = Counter(p for each in parameters.values() for p in each)
    order = sorted(counts, key=lambda p: (-counts[p], p))
    lines = [
        "# Parameters of all detectors",
        "",
        "A name means the same in every detector that has it. The default is given where there is",
        "one. `python tests/test_signatures.py > docs/parameters.md` makes this page.",
        "",
        "| parameter | " + " | ".join(DETECTORS) + " |",
        "|" + "---|" * (len(DETECTORS) + 1),
    ]
    for p in order:
        cells = [_cell(parameters[name].get(p)) for name in DETECTORS]
        lines.append(f"| `{p}` | " + " | ".join(cells) + " |")
    if OWN_DEFAULT:
        lines += ["", "Defaults that differ, and why:", ""]
        lines += [f"- `{p}`: {reason}" for p, reason in sorted(OWN_DEFAULT.items())]
    return "\n".join(lines) + "\n"


def _cell(parameter):
    if parameter is None:
        return ""
    value = repr(parameter.default).replace("efficientnet_lite0", "efficientnet…")
    return f"`{value}`"


def test_the_page_of_parameters_is_up_to_date():
    assert PAGE.read_text() == page(), "run python tests/test_signatures.py > docs/parameters.md"


if __name__ == "__main__":
    print(page(), end="")
