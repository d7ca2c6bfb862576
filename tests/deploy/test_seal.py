"""The seal of an exported file."""

import hashlib

import onnx
import pytest
import toys

from anomalib_lite.deploy import check_seal
from anomalib_lite.deploy.seal import seal


def test_a_sealed_file_is_a_model_with_one_entry_more():
    data = toys.model(toys.card())
    sealed = onnx.load_from_string(seal(data))
    *others, last = sealed.metadata_props
    assert last.key == "sha256"
    assert last.value == hashlib.sha256(data).hexdigest()
    sealed.metadata_props.pop()
    assert sealed == onnx.load_from_string(data)
    assert [each.key for each in others] == ["anomalib_lite"]


def test_a_sealed_file_passes():
    check_seal(seal(b"any bytes"))


@pytest.mark.parametrize("n", [0, 1, 40, 75, 76, 77, -1])
def test_what_is_cut_off_is_refused(n):
    with pytest.raises(ValueError, match=r"seal\. Export it again, or copy"):
        check_seal(seal(b"some bytes")[:n])


def test_every_flipped_byte_is_found():
    sealed = seal(b"some bytes")
    for i in range(len(sealed)):
        changed = bytearray(sealed)
        changed[i] ^= 1
        with pytest.raises(ValueError, match=r"altered or damaged|does not end with a seal"):
            check_seal(bytes(changed))


def test_bytes_after_the_seal_are_refused():
    with pytest.raises(ValueError, match="does not end with a seal"):
        check_seal(seal(b"some bytes") + b"\0")


def test_a_file_without_a_seal_is_refused():
    with pytest.raises(ValueError, match="not a file written by export"):
        check_seal(toys.model(toys.card()))
