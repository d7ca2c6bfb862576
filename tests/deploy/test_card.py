"""What an exported file says of its detector."""

import json

import pytest
import toys

from anomalib_lite.data import ValueRange
from anomalib_lite.deploy import DetectorCard


def changed(**values):
    """A card's text with other values; without those that are ``...``."""
    known = {**json.loads(toys.card().to_json()), **values}
    return json.dumps({name: value for name, value in known.items() if value is not ...})


def test_text_and_back():
    card = toys.card(conformal={"n_calibration": 40})
    assert DetectorCard.from_json(card.to_json()) == card
    assert card.n_calibration == 40
    assert card.image_size == (8, 12)


def test_the_text_is_that_of_the_contract():
    values = json.loads(toys.card().to_json())
    assert values["format"] == 1
    assert values["value_range"] == {
        "highest": 1.0, "mean": 0.5, "median": 0.5, "dtypes": ["uint8"]
    }  # fmt: skip
    assert values["image_size"] == [8, 12]
    assert values["map_levels"] == [0.1, 0.6]


def test_what_a_detector_does_not_have():
    nothing = dict.fromkeys(["offset", "false_alarm_rate", "normal", "map_levels", "n_images"])
    card = toys.card(**nothing, calibration={}, parity={}, notes={}, promise="")
    assert DetectorCard.from_json(card.to_json()) == card
    assert card.n_calibration is None


def test_what_a_later_version_adds_is_passed_over():
    assert DetectorCard.from_json(changed(color="red")) == toys.card()


def test_entries_that_may_be_missing():
    text = changed(notes=..., parity=..., calibration=..., n_images=..., normal=...)
    assert DetectorCard.from_json(text).notes == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1]", "expected the card of a detector, got other JSON"),
        ("{}", "got other JSON"),
        ("[" * 100_000, "nested JSON"),
        (changed(format=2), r"format 2; this version of anomalib_lite reads up to 1\. Update"),
        (changed(method=...), "it has no method"),
        (changed(method=3), "method: expected a str, got 3"),
        (changed(input="int8"), "input: expected one of 'uint8', 'uint16', 'float32'"),
        (changed(image_size=[0, 3]), "image_size: expected a positive int"),
        (changed(smallest_side=0), "smallest_side: expected a positive int"),
        (changed(offset="low"), "offset: expected a finite number, got 'low'"),
        (changed(offset=True), "offset: expected a finite number"),
        (changed(normal=float("nan")), "holds NaN as a number"),
        (changed(map_levels=[1]), r"map_levels: expected \(normal, threshold\)"),
        (changed(map_levels=[1, None]), "map_levels: expected a finite number"),
        (changed(value_range=None), "value_range: expected a dict"),
        (changed(value_range={}), "value_range: expected names of dtypes"),
        (changed(value_range={"dtypes": [], "mean": 0, "median": 0}), r"value_range\.highest"),
        (
            changed(value_range={"dtypes": [], "highest": 2, "mean": 0, "median": 0}),
            r"highest: expected a value in \[0, 1\]",
        ),
        (changed(n_images=-1), "n_images: expected a positive int"),
        (changed(calibration=[]), "calibration: expected a dict"),
        (changed(conformal=1), "conformal: expected a dict"),
        (changed(notes={"line": 7}), "notes: expected a dict of str to str"),
    ],
)
def test_any_other_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        DetectorCard.from_json(text)


def test_the_range_of_values_is_kept():
    learned = ValueRange(0.75, {"uint8", "uint16"}, 0.5, 0.25)
    card = toys.card(value_range=learned)
    assert DetectorCard.from_json(card.to_json()).value_range == learned
