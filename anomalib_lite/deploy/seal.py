"""The seal of an exported file: its last bytes hold the SHA-256 of all bytes before them.

They are one more entry of the model's ``metadata_props``, by the rules of protobuf, so that every
runtime reads the file, and a reader checks it before it parses anything.
"""

import hashlib

_START = b"\x72\x4a\x0a\x06sha256\x12\x40"  # field 14 (74 bytes): key "sha256", value of 64 bytes
_LENGTH = len(_START) + 64


def seal(data: bytes) -> bytes:
    """The bytes of a sealed file from those of a model that has no seal yet.

    Examples
    --------
    >>> len(seal(b"model")) - len(b"model")
    76
    """
    return data + _START + digest_of(data).encode()


def check_seal(data: bytes) -> None:
    """Raise ValueError unless bytes are those of a sealed file, to the last one.

    Examples
    --------
    >>> check_seal(seal(b"model"))
    >>> check_seal(seal(b"model").replace(b"model", b"modem"))
    Traceback (most recent call last):
    ...
    ValueError: altered or damaged since it was exported: its SHA-256 is wrong. Export it again.
    """
    end = data[-_LENGTH:]
    if len(data) <= _LENGTH or not end.startswith(_START):
        raise ValueError(
            "not a file written by export, or cut off: it does not end with a seal. Export it "
            "again, or copy it again."
        )
    if end[len(_START) :] != digest_of(memoryview(data)[:-_LENGTH]).encode():
        raise ValueError(
            "altered or damaged since it was exported: its SHA-256 is wrong. Export it again."
        )


def digest_of(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()
