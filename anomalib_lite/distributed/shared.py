"""Payloads that travel to each worker once, and what workers keep of them."""

import hashlib
import pickle
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_N_KEPT = 2  # a detector, and the one of the call before or of another client

_OPENED: OrderedDict[str, Any] = OrderedDict()  # of this process: what payloads held, by digest
_LOCK = threading.Lock()


class Shared:
    """Client's side of a pickle that many tasks need: they name it by its digest.

    Parameters
    ----------
    payload : bytes
        A pickle.

    Attributes
    ----------
    digest : str
        Hexadecimal SHA-256 of the payload.

    Examples
    --------
    >>> Shared(b"").digest[:8]
    'e3b0c442'
    """

    def __init__(self, payload: bytes):
        self.payload = payload
        self.digest = hashlib.sha256(payload).hexdigest()

    def __repr__(self):
        return f"<Shared {self.digest[:8]}, {len(self.payload):,} bytes>"


class Lacking:
    """A worker's answer where it has never seen, or no longer keeps, a payload of a task."""


def call_with_shared(function: Any, digests: Mapping[int, str], *args: Any) -> Any:
    """``function(*args)``, run by a worker, with what was shared in its places.

    Parameters
    ----------
    function : callable
    digests : mapping of int to str
        Digests of shared payloads, by their places among the arguments.
    *args
        In these places the payloads, or None for those that did not travel with the task.

    Returns
    -------
    result : object
        Of the function; a :class:`Lacking` if a payload is missing.
    """
    args = [*args]
    for place, digest in digests.items():
        args[place] = _opened(digest, args[place])
        if isinstance(args[place], Lacking):
            return args[place]
    return function(*args)


def _opened(digest, payload):
    """What a payload holds, unpickled once; threads of a worker wait for each other."""
    with _LOCK:
        if digest in _OPENED:
            _OPENED.move_to_end(digest)
            return _OPENED[digest]
        if payload is None:
            return Lacking()
        try:
            held = pickle.loads(payload)
        except RuntimeError as error:  # of PyTorch
            raise ValueError(
                "detector: expected one whose device the workers have, too. Fit or load it with "
                f"device='cpu'. ({error})"
            ) from error
        _OPENED[digest] = held
        while len(_OPENED) > _N_KEPT:
            _OPENED.popitem(last=False)
        return held
